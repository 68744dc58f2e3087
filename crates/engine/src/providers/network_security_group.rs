//! `Microsoft.Network/networkSecurityGroups` and their rules. Rules named inline are children of their own.
//! A changed rule reaches running guests at once: the interfaces that use the group are told to the host.

use super::{arm_context, delete_children, inline_children, named_children};
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use crate::{db_error, new_etag};
use async_trait::async_trait;
use lazuli_arm::bodies::network_security_group as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Expect, Resource, ResourceQuery};
use serde_json::{Value, json};
use uuid::Uuid;

const RULE: &str = "Microsoft.Network/networkSecurityGroups/securityRules";

pub(crate) struct NetworkSecurityGroup;

#[async_trait]
impl Provider for NetworkSecurityGroup {
    fn resource_type(&self) -> &'static str {
        "Microsoft.Network/networkSecurityGroups"
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let (body, rules) = body::put(id, &new, old.map(|o| &o.body), &arm_context(cx))?;
        let internal = old.map_or_else(|| json!({"resourceGuid": Uuid::new_v4()}), |o| o.internal.clone());
        let mut changes = Vec::new();
        if let Some(rules) = rules {
            let existing = cx.engine.db().children(&id.key(), 1000).await.map_err(db_error)?;
            changes.extend(inline_children(cx, id, RULE, &existing, rules));
        }
        Ok(Plan { body, internal, start: None, changes })
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        if let Some(user) = user_of(cx, old).await? {
            return Err(ArmError::bad_request(
                "InUseNetworkSecurityGroupCannotBeDeleted",
                format!(
                    "Network security group {} cannot be deleted because it is in use by the following resources: {user}. In \
                     order to delete the Network security group, remove the association with the resource(s).",
                    old.id
                ),
            ));
        }
        let rules = cx.engine.db().children(&old.key, 1000).await.map_err(db_error)?;
        Ok(DeletePlan { start: None, changes: delete_children(rules) })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(self.resource_type(), row);
        view["etag"] = json!(format!("W/\"{}\"", row.etag));
        view["properties"]["resourceGuid"] = row.internal["resourceGuid"].clone();
        let rules = cx.engine.db().children(&row.key, 1000).await.map_err(db_error)?;
        view["properties"]["securityRules"] = rules.iter().map(show_rule).collect();
        view["properties"]["defaultSecurityRules"] = default_rules(&row.id);
        Ok(view)
    }

    fn delete_rank(&self) -> u8 {
        60
    }
}

/// Id of an interface or subnet of this subscription whose rules these are.
async fn user_of(cx: Context<'_>, group: &Resource) -> Result<Option<String>, ArmError> {
    for kind in ["microsoft.network/networkinterfaces", "microsoft.network/virtualnetworks/subnets"] {
        let query = ResourceQuery {
            kind: Some(kind.into()),
            under: Some(ResourceId::subscription(&group.subscription).key()),
            ..ResourceQuery::default()
        };
        let uses = |r: &Resource| {
            let id = r.body["properties"]["networkSecurityGroup"]["id"].as_str();
            id.is_some_and(|id| id.eq_ignore_ascii_case(&group.id))
        };
        if let Some(user) = cx.engine.all_rows(query).await?.into_iter().find(uses) {
            return Ok(Some(user.id));
        }
    }
    Ok(None)
}

pub(crate) struct SecurityRule;

#[async_trait]
impl Provider for SecurityRule {
    fn resource_type(&self) -> &'static str {
        RULE
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        _old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let group = id.parent().unwrap_or_else(|| id.clone());
        // Two rules that are put at once must see each other: the group's etag is read before its rules.
        let row = cx.engine.db().resource(&group.key()).await.map_err(db_error)?;
        let others = named_children(cx, &group.key()).await?;
        let body = body::put_rule(id.name(), &new, &others)?;
        let bump = row.map(|row| {
            let expect = Expect::Etag(row.etag.clone());
            Change::PutResource { resource: Resource { etag: new_etag(), ..row }, expect }
        });
        let changes = bump.into_iter().collect();
        Ok(Plan { body, internal: json!({}), start: None, changes })
    }

    async fn show(&self, _cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        Ok(show_rule(row))
    }

    fn is_tracked(&self) -> bool {
        false
    }

    fn delete_rank(&self) -> u8 {
        55
    }
}

fn show_rule(row: &Resource) -> Value {
    let mut view = standard_view(RULE, row);
    view["etag"] = json!(format!("W/\"{}\"", row.etag));
    view
}

/// The six rules every group ends with, as Azure shows them.
fn default_rules(group: &str) -> Value {
    let rule = |name: &str, priority: i64, direction: &str, access: &str, from: &str, to: &str| {
        json!({
            "name": name,
            "id": format!("{group}/defaultSecurityRules/{name}"),
            "type": "Microsoft.Network/networkSecurityGroups/defaultSecurityRules",
            "properties": {
                "provisioningState": "Succeeded", "protocol": "*", "sourcePortRange": "*", "destinationPortRange": "*",
                "sourceAddressPrefix": from, "destinationAddressPrefix": to, "access": access, "priority": priority,
                "direction": direction,
            }
        })
    };
    json!([
        rule("AllowVnetInBound", 65000, "Inbound", "Allow", "VirtualNetwork", "VirtualNetwork"),
        rule("AllowAzureLoadBalancerInBound", 65001, "Inbound", "Allow", "AzureLoadBalancer", "*"),
        rule("DenyAllInBound", 65500, "Inbound", "Deny", "*", "*"),
        rule("AllowVnetOutBound", 65000, "Outbound", "Allow", "VirtualNetwork", "VirtualNetwork"),
        rule("AllowInternetOutBound", 65001, "Outbound", "Allow", "*", "Internet"),
        rule("DenyAllOutBound", 65500, "Outbound", "Deny", "*", "*"),
    ])
}
