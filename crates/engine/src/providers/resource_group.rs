//! `Microsoft.Resources/resourceGroups`: a name, a location, tags; its deletion takes everything inside along.

use crate::provider::{Context, DeletePlan, Plan, Provider, Start};
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

    fn is_tracked(&self) -> bool {
        false
    }

    fn writable_while_running(&self) -> bool {
        true
    }
}
