//! `Microsoft.Network/virtualNetworks` and their subnets. Subnets named inline are children of their own (az-cli.md §7).

use super::network_interface::require;
use super::{arm_context, delete_children, inline_children, named_children};
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use crate::{db_error, new_etag};
use async_trait::async_trait;
use lazuli_arm::bodies::virtual_network as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Expect, Resource};
use serde_json::{Value, json};
use uuid::Uuid;

const SUBNET: &str = "Microsoft.Network/virtualNetworks/subnets";
/// From this api-version on a subnet tells of its address pools (recorded); there are none here.
const IPAM_SINCE: &str = "2024-01-01";

pub(crate) struct VirtualNetwork;

#[async_trait]
impl Provider for VirtualNetwork {
    fn resource_type(&self) -> &'static str {
        "Microsoft.Network/virtualNetworks"
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let checked = body::put(id, &new, old.map(|o| &o.body), &arm_context(cx))?;
        let internal = old
            .map_or_else(|| json!({"resourceGuid": Uuid::new_v4(), "dnsSuffix": dns_suffix()}), |o| o.internal.clone());
        let mut changes = Vec::new();
        if let Some(subnets) = checked.subnets {
            let existing = cx.engine.db().children(&id.key(), 1000).await.map_err(db_error)?;
            for gone in existing.iter().filter(|e| !subnets.iter().any(|(n, _)| n.eq_ignore_ascii_case(&e.name))) {
                require_unused(gone)?;
            }
            for (name, subnet) in &subnets {
                if let Some(old) = existing.iter().find(|e| e.name.eq_ignore_ascii_case(name)) {
                    require_same_range(old, subnet)?;
                }
                changes.extend(security_group(cx, &id.child("subnets", name), subnet).await?);
            }
            changes.extend(inline_children(cx, id, SUBNET, &existing, subnets));
        } else if let Some(old) = old {
            // Subnets that the request does not speak of stay, and must fit the new address space.
            let others = cx.engine.db().children(&old.key, 1000).await.map_err(db_error)?;
            for subnet in &others {
                body::put_subnet(&subnet.name, &subnet.body, &checked.body, &[])?;
            }
        }
        Ok(Plan { body: checked.body, internal, start: None, changes })
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let subnets = cx.engine.db().children(&old.key, 1000).await.map_err(db_error)?;
        subnets.iter().try_for_each(require_unused)?;
        Ok(DeletePlan { start: None, changes: delete_children(subnets) })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(self.resource_type(), row);
        view["etag"] = json!(format!("W/\"{}\"", row.etag));
        view["properties"]["resourceGuid"] = row.internal["resourceGuid"].clone();
        let subnets = cx.engine.db().children(&row.key, 1000).await.map_err(db_error)?;
        view["properties"]["subnets"] = subnets.iter().map(show_subnet).collect();
        view["properties"]["virtualNetworkPeerings"] = json!([]);
        Ok(view)
    }

    fn delete_rank(&self) -> u8 {
        60
    }
}

pub(crate) struct Subnet;

#[async_trait]
impl Provider for Subnet {
    fn resource_type(&self) -> &'static str {
        SUBNET
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let network = id.parent().unwrap_or_else(|| id.clone());
        let Some(network) = cx.engine.db().resource(&network.key()).await.map_err(db_error)? else {
            return Err(ArmError::parent_not_found(network.name()));
        };
        let others = named_children(cx, &network.key).await?;
        let checked = body::put_subnet(id.name(), &new, &network.body, &others)?;
        if let Some(old) = old {
            require_same_range(old, &checked)?;
        }
        let internal = old.map_or_else(|| json!({}), |o| o.internal.clone());
        // Two subnets that are put at once must see each other.
        let mut touched = network.clone();
        touched.etag = new_etag();
        let mut changes = vec![Change::PutResource { resource: touched, expect: Expect::Etag(network.etag) }];
        changes.extend(security_group(cx, id, &checked).await?);
        Ok(Plan { body: checked, internal, start: None, changes })
    }

    async fn delete(&self, _cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        require_unused(old)?;
        Ok(DeletePlan::default())
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = show_subnet(row);
        if cx.call.api_version.at_least(IPAM_SINCE) {
            view["properties"]["ipamPoolPrefixAllocations"] = json!([]);
        }
        Ok(view)
    }

    fn is_tracked(&self) -> bool {
        false
    }

    fn delete_rank(&self) -> u8 {
        55
    }
}

fn show_subnet(row: &Resource) -> Value {
    let mut view = standard_view(SUBNET, row);
    view["etag"] = json!(format!("W/\"{}\"", row.etag));
    let used: Vec<Value> =
        allocations(row).into_iter().filter_map(|(_, owner)| owner.as_str().map(|o| json!({"id": o}))).collect();
    if !used.is_empty() {
        view["properties"]["ipConfigurations"] = used.into();
    }
    view
}

/// `internal.allocations` of a subnet: address → id of the IP configuration.
pub(crate) fn allocations(subnet: &Resource) -> serde_json::Map<String, Value> {
    subnet.internal["allocations"].as_object().cloned().unwrap_or_default()
}

fn require_unused(subnet: &Resource) -> Result<(), ArmError> {
    if allocations(subnet).is_empty() { Ok(()) } else { Err(in_use(subnet)) }
}

/// A subnet's range may change only while nobody has an address of it.
fn require_same_range(old: &Resource, new: &Value) -> Result<(), ArmError> {
    let range = |body: &Value| body["properties"]["addressPrefix"].clone();
    if range(&old.body) == range(new) { Ok(()) } else { require_unused(old) }
}

/// The security group that a subnet's body names must be there.
async fn security_group(cx: Context<'_>, id: &ResourceId, subnet: &Value) -> Result<Option<Change>, ArmError> {
    let Some(group) = subnet["properties"]["networkSecurityGroup"]["id"].as_str() else { return Ok(None) };
    let group = require(cx, &id.to_string(), group, "Microsoft.Network/networkSecurityGroups", None).await?;
    Ok(Some(Change::RequireResource { key: group.key }))
}

fn in_use(subnet: &Resource) -> ArmError {
    let users: Vec<String> = allocations(subnet).values().filter_map(Value::as_str).map(str::to_owned).collect();
    ArmError::bad_request(
        "InUseSubnetCannotBeDeleted",
        format!(
            "Subnet {} is in use by {} and cannot be deleted or moved. In order to delete the subnet, delete all the resources \
             within the subnet.",
            subnet.name,
            users.join(", ")
        ),
    )
}

fn dns_suffix() -> String {
    let random: String = Uuid::new_v4().simple().to_string().chars().take(26).collect();
    format!("{random}.bx.internal.cloudapp.net")
}
