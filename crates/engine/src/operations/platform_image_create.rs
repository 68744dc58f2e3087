//! Publishes a platform image: settles its bytes in its own region, then replicates them as those of an image version. Nothing is undone after a failure: another PUT goes on, a DELETE frees it.

use super::image_version::{change_state, replicate};
use crate::content::settle_found;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::sources::FoundDisk;
use async_trait::async_trait;

pub(crate) struct PlatformImageCreate;

#[async_trait]
impl Operation for PlatformImageCreate {
    fn kind(&self) -> &'static str {
        "platform_image.create"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let found: FoundDisk = cx.params()?;
        let row = cx.resource().await?;
        let disk = settle_found(cx, "settle", &row.key, &row.location, &found).await?;
        cx.update_resource(|row| change_state(row, |s| s.os_disk = Some(disk.clone()))).await?;
        replicate(cx, &row, std::slice::from_ref(&disk)).await?;
        Ok(Outcome::default())
    }
}
