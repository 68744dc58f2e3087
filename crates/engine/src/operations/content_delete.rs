//! Removes a resource that holds nothing but stored bytes, and frees what only it needed. What was made from it keeps
//! references of its own.

use crate::content::sweep;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use async_trait::async_trait;
use lazuli_meta::model::Change;

/// One for each kind of operation.
pub(crate) struct ContentDelete(pub &'static str);

#[async_trait]
impl Operation for ContentDelete {
    fn kind(&self) -> &'static str {
        self.0
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let regions: Vec<String> = cx
            .step("regions", async {
                let held = cx.engine.db().content_refs_of(&cx.op.resource_key).await.map_err(crate::db_error)?;
                let mut regions: Vec<String> = held.into_iter().map(|r| r.region).collect();
                regions.sort();
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
