//! Removes a version, or a soft-deleted one, and frees what only it needed. Disks made from it keep their own references.
//!
//! In a gallery with soft deletion the version is kept aside instead: its row and its references get another name, and not a byte
//! is touched.

use crate::content::sweep;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::image_version::DeleteVersion;
use crate::providers::soft_deleted_version;
use async_trait::async_trait;
use lazuli_meta::model::Change;

pub(crate) struct ImageVersionDelete;

#[async_trait]
impl Operation for ImageVersionDelete {
    fn kind(&self) -> &'static str {
        "image_version.delete"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let DeleteVersion { retention_days } = cx.params()?;
        if let Some(days) = retention_days {
            let row = cx.resource().await?;
            // A version that never came to be has nothing to restore, and goes for good.
            if let Some(changes) = soft_deleted_version::keep(&cx.engine, &row, days, crate::now_ms()).await? {
                return Ok(Outcome { changes, ..Outcome::deleted() });
            }
        }
        let regions: Vec<String> = cx
            .step("regions", async {
                let held = cx.engine.db().content_refs_of(&cx.op.resource_key).await.map_err(crate::db_error)?;
                let mut regions: Vec<String> = held.into_iter().map(|r| r.region).collect();
                regions.dedup();
                Ok(regions)
            })
            .await?;
        cx.commit(vec![Change::DeleteContentRefs { resource_key: cx.op.resource_key.clone() }]).await?;
        cx.progress(0, 0, "freeing the bytes").await;
        sweep(&cx.engine, regions).await;
        Ok(Outcome::deleted())
    }
}
