//! Makes a version of a stored disk: settles its bytes in the version's own region, then brings them everywhere else.
//!
//! Nothing is undone after a failure: regions that were reached keep the bytes, so that a retry (another PUT) or a DELETE
//! finds them.

use super::image_version::{change_state, replicate, show_size};
use crate::content::settle_found;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::sources::FoundDisk;
use async_trait::async_trait;

pub(crate) struct ImageVersionCreate;

#[async_trait]
impl Operation for ImageVersionCreate {
    fn kind(&self) -> &'static str {
        "image_version.create"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let source: FoundDisk = cx.params()?;
        let row = cx.resource().await?;
        let disk = settle_found(cx, "settle", &row.key, &row.location, &source).await?;
        cx.update_resource(|row| change_state(row, |s| s.os_disk = Some(disk.clone()))).await?;
        replicate(cx, &row, &disk).await?;
        Ok(Outcome::update(move |row| show_size(row, disk.size_bytes)))
    }
}
