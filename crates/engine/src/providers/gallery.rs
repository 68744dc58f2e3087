//! `Microsoft.Compute/galleries`: a name, unique in its subscription, for definitions and their versions.

use super::arm_context;
use crate::provider::{Context, Plan, Provider};
use async_trait::async_trait;
use lazuli_arm::bodies::gallery;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/galleries";

pub(crate) struct Gallery;

#[async_trait]
impl Provider for Gallery {
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
        let body = gallery::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        if old.is_none() {
            check_unique(cx, id).await?;
        }
        Ok(Plan { body, internal: json!({}), ..Plan::default() })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = gallery::patch(id, &patch, &old.body, &arm_context(cx))?;
        Ok(Plan { body, internal: old.internal.clone(), ..Plan::default() })
    }

    fn delete_rank(&self) -> u8 {
        40
    }
}

/// A gallery's name is unique in the subscription, not only in its group (wire.md §3).
async fn check_unique(cx: Context<'_>, id: &ResourceId) -> Result<(), ArmError> {
    let query = ResourceQuery {
        kind: Some(KIND.to_ascii_lowercase()),
        subscription: Some(id.subscription.to_ascii_lowercase()),
        ..ResourceQuery::default()
    };
    let galleries = cx.engine.all_rows(query).await?;
    if galleries.iter().any(|g| g.name.eq_ignore_ascii_case(id.name())) {
        return Err(gallery::name_taken(id));
    }
    Ok(())
}
