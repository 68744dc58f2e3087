//! Removes a version and frees what only it needed. Disks made from it keep their own references.

use crate::content::sweep;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use async_trait::async_trait;
use lazuli_meta::model::Change;

pub(crate) struct ImageVersionDelete;

#[async_trait]
impl Operation for ImageVersionDelete {
    fn kind(&self) -> &'static str {
        "image_version.delete"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
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
