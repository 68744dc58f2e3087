//! `Microsoft.Compute/galleries/images`: what kind of image the versions below it are.

use super::{arm_context, soft_deleted_version};
use crate::claims::Claim;
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use async_trait::async_trait;
use lazuli_arm::bodies::image_definition;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
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
        let mut changes = Vec::new();
        if old.is_none() {
            let triple = identifier_claim(&id.key(), &body);
            if let Some(owner) = triple.owner(cx.engine).await? {
                let name = owner.rsplit('/').next().unwrap_or_default();
                return Err(image_definition::identifier_taken(name, &body));
            }
            changes.push(triple.take(&id.to_string()));
        }
        Ok(Plan { body, internal: json!({}), start: None, changes })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = image_definition::patch(id, &patch, &old.body, &arm_context(cx))?;
        Ok(Plan { body, internal: old.internal.clone(), ..Plan::default() })
    }

    /// Deleted versions that can be restored are in the way, unless the gallery's policy was switched off (as Azure documents
    /// it): then they go along.
    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let mut changes = vec![identifier_claim(&old.key, &old.body).give_up()];
        if !soft_deleted_version::policy(cx.engine, &old.id).await?.enabled {
            changes.extend(soft_deleted_version::purge_all(cx.engine, &old.key).await?);
        }
        Ok(DeletePlan { start: None, changes })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let shown = Resource { body: image_definition::show(&row.body, &cx.call.api_version), ..row.clone() };
        Ok(standard_view(KIND, &shown))
    }

    fn delete_rank(&self) -> u8 {
        30
    }

    fn update_title(&self) -> &'static str {
        "Update Gallery Image"
    }
}

/// Publisher, offer and SKU together are unique in a gallery (ID-4).
fn identifier_claim(definition: &str, body: &Value) -> Claim {
    let gallery = definition.rsplit_once("/images/").map_or(definition, |(gallery, _)| gallery);
    let (publisher, offer, sku) = image_definition::identifier_key(body);
    Claim::new("images", &[gallery, &publisher, &offer, &sku])
}
