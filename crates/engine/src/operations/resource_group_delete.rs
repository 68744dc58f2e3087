//! Deletes a group with everything inside: users before what they use, until nothing is left, then the group itself.

use crate::call::{Call, Deleted};
use crate::db_error;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_meta::model::{OperationState, Resource, ResourceQuery};
use std::time::Duration;

pub(crate) struct ResourceGroupDelete;

#[async_trait]
impl Operation for ResourceGroupDelete {
    fn kind(&self) -> &'static str {
        "resource_group.delete"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let group = cx.resource().await?;
        let mut total = 0;
        loop {
            cx.check()?;
            let rows = contents(cx, &group).await?;
            total = total.max(rows.len());
            cx.progress((total - rows.len()) as u64, total as u64, "deleting resources").await;
            let Some(next) = next_to_delete(cx, rows) else {
                return Ok(Outcome::deleted());
            };
            delete_one(cx, next).await?;
        }
    }
}

pub(super) async fn contents(cx: &OpContext, group: &Resource) -> Result<Vec<Resource>, OpError> {
    let query = ResourceQuery { under: Some(group.key.clone()), ..ResourceQuery::default() };
    Ok(cx.engine.all_rows(query).await?)
}

/// The lowest rank first, the deepest child first.
pub(super) fn next_to_delete(cx: &OpContext, rows: Vec<Resource>) -> Option<Resource> {
    let rank = |r: &Resource| cx.engine.provider_of_kind(&r.kind).map_or(u8::MAX, |p| p.delete_rank());
    rows.into_iter().min_by_key(|r| (rank(r), std::cmp::Reverse(r.key.matches('/').count())))
}

/// Deletes one resource and waits until that has ended. Whoever was faster is joined or looked at again.
pub(super) async fn delete_one(cx: &OpContext, row: Resource) -> Result<(), OpError> {
    let Some(provider) = cx.engine.provider_of_kind(&row.kind).cloned() else {
        return Err(OpError::Failed(ArmError::internal(format!("no provider for {}", row.kind))));
    };
    let id = row.id.clone();
    let Some(Deleted::Started { operation }) =
        cx.engine.try_delete(&Call::system(&row.subscription), &provider, row).await?
    else {
        return Ok(());
    };
    loop {
        cx.check()?;
        match cx.engine.db().wait_operation(&operation, Duration::from_secs(1)).await.map_err(db_error)? {
            Some(op) if op.state == OperationState::Running => {}
            Some(op) if op.state == OperationState::Failed => {
                let reason = op.error.as_ref().and_then(|e| e["message"].as_str()).unwrap_or("no reason was recorded");
                return Err(OpError::Failed(ArmError::conflict(
                    "ResourceGroupDeletionBlocked",
                    format!("Deletion of resource group failed as '{id}' could not be deleted: {reason}"),
                )));
            }
            _ => return Ok(()),
        }
    }
}
