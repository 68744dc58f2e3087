//! `Microsoft.Compute/galleries/images`: what kind of image the versions below it are.

use super::arm_context;
use crate::provider::{Context, Plan, Provider};
use async_trait::async_trait;
use lazuli_arm::bodies::image_definition;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/galleries/images";

pub(crate) struct ImageDefinition;

#[async_trait]
impl Provider for ImageDefinition {
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
        let body = image_definition::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        if old.is_none() {
            check_unique(cx, id, &body).await?;
        }
        Ok(Plan { body, internal: json!({}), ..Plan::default() })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = image_definition::patch(id, &patch, &old.body, &arm_context(cx))?;
        Ok(Plan { body, internal: old.internal.clone(), ..Plan::default() })
    }

    fn delete_rank(&self) -> u8 {
        30
    }
}

/// Publisher, offer and SKU together are unique in a gallery (ID-4).
async fn check_unique(cx: Context<'_>, id: &ResourceId, body: &Value) -> Result<(), ArmError> {
    let query = ResourceQuery { parent: id.parent().map(|p| p.key()), ..ResourceQuery::default() };
    let wanted = image_definition::identifier_key(body);
    let siblings = cx.engine.all_rows(query).await?;
    let taken = siblings.iter().find(|d| d.key != id.key() && image_definition::identifier_key(&d.body) == wanted);
    taken.map_or(Ok(()), |d| Err(image_definition::identifier_taken(&d.name, body)))
}
