//! `Microsoft.Storage/storageAccounts/blobServices`: made with its account, gone with it.

use super::{arm_context, child_row};
use crate::db_error;
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use async_trait::async_trait;
use lazuli_arm::bodies::blob_service as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Storage/storageAccounts/blobServices";

pub(crate) struct BlobService;

/// The row that a new account brings along.
pub(super) fn first_row(account: &ResourceId, now_ms: i64) -> Resource {
    let id = account.child("blobServices", "default");
    child_row(&id, KIND, &account.key(), body::initial(), None, now_ms)
}

#[async_trait]
impl Provider for BlobService {
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

    async fn delete(&self, _cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        Err(ArmError::new(
            405,
            "HttpMethodNotAllowed",
            format!("The blob service '{}' cannot be deleted; delete its account.", old.id),
        ))
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        // It has no state of its own.
        if let Some(properties) = view["properties"].as_object_mut() {
            properties.shift_remove("provisioningState");
        }
        let account = row.parent.as_deref().unwrap_or_default();
        if let Some(account) = cx.engine.db().resource(account).await.map_err(db_error)? {
            view["sku"] = account.body["sku"].clone();
        }
        Ok(view)
    }

    fn is_tracked(&self) -> bool {
        false
    }

    /// Behind its account, which takes it along.
    fn delete_rank(&self) -> u8 {
        200
    }
}
