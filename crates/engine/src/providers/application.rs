//! `Microsoft.Compute/galleries/applications`: a name and facts for versions of a VM application. Synchronous, and shown without
//! `provisioningState` (wire.md §2).

use super::arm_context;
use crate::provider::{Context, Plan, Provider, standard_view};
use async_trait::async_trait;
use lazuli_arm::bodies::application;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/galleries/applications";

pub(crate) struct Application;

#[async_trait]
impl Provider for Application {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        body: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = application::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        Ok(Plan { body, internal: json!({}), ..Plan::default() })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = application::patch(id, &patch, &old.body, &arm_context(cx))?;
        Ok(Plan { body, internal: json!({}), ..Plan::default() })
    }

    async fn show(&self, _cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        if let Some(properties) = view["properties"].as_object_mut() {
            properties.shift_remove("provisioningState");
        }
        Ok(view)
    }

    fn delete_rank(&self) -> u8 {
        30
    }
}
