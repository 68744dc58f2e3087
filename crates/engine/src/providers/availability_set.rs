//! `Microsoft.Compute/availabilitySets`: kept, and shown with their machines. They spread nothing: the machines of one virtual network
//! are on one host, whatever set they are in (docs/fleet.md).

use super::arm_context;
use super::virtual_machine::KIND as MACHINE;
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use async_trait::async_trait;
use lazuli_arm::bodies::availability_set as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Value, json};

pub(crate) const KIND: &str = "Microsoft.Compute/availabilitySets";

pub(crate) struct AvailabilitySet;

#[async_trait]
impl Provider for AvailabilitySet {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = body::put(id, &new, old.map(|o| &o.body), &arm_context(cx))?;
        Ok(Plan { body, internal: json!({}), ..Plan::default() })
    }

    /// Not while a machine is in it. A group takes its contents along in any order.
    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        if cx.call.caller.principal.is_empty() || members(cx, old).await?.is_empty() {
            return Ok(DeletePlan::default());
        }
        Err(ArmError::conflict(
            "OperationNotAllowed",
            format!(
                "Availability Set '{}' cannot be deleted. Before deleting an Availability Set please ensure that it does not contain \
                 any VM.",
                old.name
            ),
        ))
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        let machines = members(cx, row).await?.into_iter().map(|id| json!({ "id": id }));
        if let Some(properties) = view["properties"].as_object_mut() {
            properties.insert("virtualMachines".into(), machines.collect());
            // It has no state in Azure.
            properties.shift_remove("provisioningState");
        }
        Ok(view)
    }

    fn views(&self) -> &'static [&'static str] {
        &["vmSizes"]
    }

    async fn view(&self, _cx: Context<'_>, _row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        Ok(name.eq_ignore_ascii_case("vmSizes").then(|| json!({"value": crate::sizes::vm_sizes()})))
    }

    /// After the machines that are in it.
    fn delete_rank(&self) -> u8 {
        60
    }
}

/// Ids of the machines in a set.
async fn members(cx: Context<'_>, set: &Resource) -> Result<Vec<String>, ArmError> {
    let query = ResourceQuery {
        under: Some(ResourceId::subscription(&set.subscription).key()),
        kind: Some(MACHINE.to_ascii_lowercase()),
        ..ResourceQuery::default()
    };
    let is_in = |machine: &Resource| {
        machine.body["properties"]["availabilitySet"]["id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(&set.id))
    };
    Ok(cx.engine.all_rows(query).await?.into_iter().filter(is_in).map(|machine| machine.id).collect())
}
