//! Makes the regions that hold a version those that its body names: new ones first, then the others go.

use super::image_version::{Caching, after_earlier, disks, release_regions, replicate, settle_failed, settle_row};
use crate::content::sweep;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use async_trait::async_trait;

pub(crate) struct ImageVersionUpdate;

#[async_trait]
impl Operation for ImageVersionUpdate {
    fn kind(&self) -> &'static str {
        "image_version.update"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        after_earlier(cx).await?;
        let row = cx.resource().await?;
        replicate(cx, &row, &disks(&row)?).await?;
        let released = release_regions(cx).await?;
        sweep(&cx.engine, released).await;
        let caching: Caching = ("ReadWrite".to_owned(), [].into());
        Ok(Outcome::update(move |row| settle_row(row, &caching)))
    }

    async fn undo(&self, _cx: &OpContext) -> Result<Outcome, OpError> {
        Ok(Outcome::update(settle_failed))
    }
}
