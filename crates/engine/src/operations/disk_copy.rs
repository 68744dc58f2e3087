//! CopyStart: brings the bytes of a disk or snapshot from another region, after the PUT has ended.
//!
//! ```text
//! completionPercent 0 ─ settled in the source's region ─ only missing chunks move ─> 100, the bytes are the resource's own
//!                                └─ failure ─> copyCompletionError; the resource is there, its bytes are not
//! ```
//! Until it is at 100, nobody may read the resource.

use crate::content::{guard, manifest_id, reference, settle_found, store_of, store_op_error, watched};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::sources::FoundDisk;
use crate::stored::{DiskInternal, Stored, change_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::disk::{set_completion_percent, set_copy_error};
use lazuli_chunks::Progress;
use lazuli_meta::model::Change;
use serde::{Deserialize, Serialize};

/// `disk.copy`, `snapshot.copy`.
pub(crate) struct DiskCopy(pub &'static str);

/// Parameters of both.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CopyParams {
    pub found: FoundDisk,
    /// Where it was found.
    pub region: String,
    pub guest_state: Option<Stored>,
}

#[async_trait]
impl Operation for DiskCopy {
    fn kind(&self) -> &'static str {
        self.0
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let CopyParams { found, region, guest_state } = cx.params()?;
        let row = cx.resource().await?;
        let settled = settle_found(cx, "settle", &row.key, &region, &found).await?;
        let base = bring(cx, "copy", &row.key, &region, &row.location, settled).await?;
        let guest_state = match guest_state {
            Some(stored) => Some(bring(cx, "copy guest state", &row.key, &region, &row.location, stored).await?),
            None => None,
        };
        Ok(Outcome::update(move |row| {
            change_internal(row, |state: &mut DiskInternal| {
                state.base = Some(base.clone());
                state.guest_state.clone_from(&guest_state);
            });
            set_completion_percent(&mut row.body, 100.0);
        }))
    }

    /// The PUT succeeded long ago; what failed is told by the resource itself.
    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let error = cx.done_step("(failed)").unwrap_or_default();
        let message = error["message"].as_str().unwrap_or("The copy was canceled.").to_owned();
        let changes = vec![Change::DeleteContentRefs { resource_key: cx.op.resource_key.clone() }];
        let update = Outcome::update(move |row| {
            if row.provisioning_state != "Deleting" {
                row.provisioning_state = "Succeeded".into();
            }
            // The only reason that Swagger's `CopyCompletionErrorReason` knows.
            set_copy_error(&mut row.body, "CopySourceNotFound", &message);
        });
        Ok(Outcome { changes, ..update })
    }
}

/// One stored disk from region to region; what is there already does not move.
async fn bring(
    cx: &OpContext,
    step: &str,
    owner: &str,
    from: &str,
    to: &str,
    stored: Stored,
) -> Result<Stored, OpError> {
    if from == to {
        return Ok(stored);
    }
    // Held until the step has committed the reference.
    let guard = guard(cx, to, owner).await?;
    cx.step_with(step, async {
        let manifest = manifest_id(&stored.manifest)?;
        let source = store_of(cx, from, owner, manifest).await?;
        let progress = Progress::new();
        let work = guard.region.replicate_from(&source, manifest, &progress, &cx.stop);
        let moved = watched(cx, &progress, "copying from the other region", work).await;
        let moved = moved.map_err(|e| store_op_error(cx, e, to))?;
        tracing::info!(resource = owner, from, to, moved_bytes = moved.moved_bytes, "copied from another region");
        let changes = vec![
            Change::PutContentRef(reference(owner, to, &stored.manifest)),
            Change::DeleteContentRef(reference(owner, from, &stored.manifest)),
        ];
        Ok((stored.clone(), changes))
    })
    .await
}
