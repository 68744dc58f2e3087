//! Makes the regions that hold a resource's bytes those that its body names: new ones first, then the others go. For published
//! images and application versions; what replicates, and how it is told, is that of image versions.

use super::image_version::{change_state, region_names, replicate};
use crate::content::sweep;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::stored::{ImageVersionInternal, Stored, internal};
use async_trait::async_trait;
use lazuli_meta::model::{Change, Resource};

/// One for each kind of operation.
pub(crate) struct Replicas(pub &'static str);

#[async_trait]
impl Operation for Replicas {
    fn kind(&self) -> &'static str {
        self.0
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        replicate(cx, &row, &bytes_of(&row)?).await?;
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

/// What every region is to hold. A file that is smaller than a sector has no bytes in the store.
fn bytes_of(row: &Resource) -> Result<Vec<Stored>, OpError> {
    let state: ImageVersionInternal = internal(row)?;
    let files = state.files.into_iter().filter_map(|f| f.stored);
    Ok(state.os_disk.into_iter().chain(state.data_disks.into_values()).chain(files).collect())
}
