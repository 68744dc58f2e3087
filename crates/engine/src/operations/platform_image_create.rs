//! Publishes a platform image, or brings it to other regions: settles its bytes in its own region, then replicates them as those
//! of an image version. Nothing is undone after a failure: another PUT goes on, a DELETE frees it.

use super::image_version::{change_state, region_names, replicate};
use crate::content::{settle_found, sweep};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::sources::FoundDisk;
use crate::stored::{ImageVersionInternal, internal};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_meta::model::Change;

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
        replicate(cx, &row, &disk).await?;
        Ok(Outcome::default())
    }
}

pub(crate) struct PlatformImageUpdate;

#[async_trait]
impl Operation for PlatformImageUpdate {
    fn kind(&self) -> &'static str {
        "platform_image.update"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let state: ImageVersionInternal = internal(&row)?;
        let disk = state.os_disk.ok_or_else(|| ArmError::internal("the image's source was never read"))?;
        replicate(cx, &row, &disk).await?;
        let wanted = region_names(&row);
        // A region is not offered any more before its bytes may go.
        cx.update_resource(|row| change_state(row, |s| s.regions.retain(|r, _| wanted.contains(r)))).await?;
        let held = cx.engine.db().content_refs_of(&row.key).await.map_err(crate::db_error)?;
        let stale: Vec<_> = held.into_iter().filter(|r| !wanted.contains(&r.region)).collect();
        if !stale.is_empty() {
            cx.commit(stale.iter().cloned().map(Change::DeleteContentRef).collect()).await?;
        }
        let mut swept: Vec<String> = stale.into_iter().map(|r| r.region).collect();
        swept.sort();
        swept.dedup();
        sweep(&cx.engine, swept).await;
        Ok(Outcome::default())
    }
}
