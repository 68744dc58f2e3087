//! `Microsoft.Resources/resourceGroups`: a name, a location, tags; its deletion takes everything inside along.

use super::named_row;
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider, Start};
use async_trait::async_trait;
use lazuli_arm::{ArmError, ResourceId, bodies};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};

pub(crate) struct ResourceGroup;

#[async_trait]
impl Provider for ResourceGroup {
    fn resource_type(&self) -> &'static str {
        "Microsoft.Resources/resourceGroups"
    }

    fn right_type(&self) -> &'static str {
        "Microsoft.Resources/subscriptions/resourceGroups"
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        body: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = bodies::resource_group::put(id, &body, old.map(|o| &o.body), &super::arm_context(cx))?;
        Ok(Plan { body, internal: json!({}), ..Plan::default() })
    }

    async fn delete(&self, _cx: Context<'_>, _old: &Resource) -> Result<DeletePlan, ArmError> {
        Ok(DeletePlan { start: Some(Start { kind: "resource_group.delete", params: json!({}) }), changes: vec![] })
    }

    /// Both look at what is to be moved where, and refuse it: nothing moves between groups here.
    fn actions(&self) -> &'static [&'static str] {
        &["moveResources", "validateMoveResources"]
    }

    async fn action(
        &self,
        cx: Context<'_>,
        row: &Resource,
        _action: &str,
        body: Value,
    ) -> Result<ActionPlan, ArmError> {
        let group: ResourceId = row.id.parse().map_err(ArmError::internal)?;
        let (resources, target) = bodies::resource_group::move_request(&group, &body)?;
        let right = "Microsoft.Resources/subscriptions/resourceGroups/write";
        cx.engine.authorize_link(&cx.call.caller, &target.to_string(), right).await?;
        if named_row(cx, &target.to_string()).await?.is_none() {
            return Err(ArmError::group_not_found(target.name()));
        }
        let mut refused = Vec::with_capacity(resources.len());
        for id in resources {
            let provider = cx.engine.provider_of(&id)?;
            if named_row(cx, &id.to_string()).await?.is_none() {
                return Err(provider.absent(&id));
            }
            refused.push((id, provider.resource_type()));
        }
        Err(bodies::resource_group::move_refused(&refused, &cx.call.correlation_id))
    }

    fn is_tracked(&self) -> bool {
        false
    }

    fn writable_while_running(&self) -> bool {
        true
    }
}
