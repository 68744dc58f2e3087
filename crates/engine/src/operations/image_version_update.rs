//! Makes the regions that hold a version those that its body names: new ones first, then the others go.

use super::image_version::{change_state, os_disk, region_names, replicate, show_size};
use crate::content::sweep;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::stored::{ImageVersionInternal, internal};
use async_trait::async_trait;
use lazuli_meta::model::Change;

pub(crate) struct ImageVersionUpdate;

#[async_trait]
impl Operation for ImageVersionUpdate {
    fn kind(&self) -> &'static str {
        "image_version.update"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let disk = os_disk(&row)?;
        replicate(cx, &row, &disk).await?;
        let wanted = region_names(&row);
        let state: ImageVersionInternal = internal(&row)?;
        let surplus: Vec<String> = state.regions.into_keys().filter(|r| !wanted.contains(r)).collect();
        // A region is not offered any more before its bytes may go.
        cx.update_resource(|row| change_state(row, |s| s.regions.retain(|r, _| wanted.contains(r)))).await?;
        // References, not the state, tell what is held: a crash between the two must not leave one behind.
        let held = cx.engine.db().content_refs_of(&row.key).await.map_err(crate::db_error)?;
        let stale: Vec<_> = held.into_iter().filter(|r| !wanted.contains(&r.region)).collect();
        let changes: Vec<Change> = stale.iter().cloned().map(Change::DeleteContentRef).collect();
        if !changes.is_empty() {
            cx.commit(changes).await?;
        }
        let mut swept: Vec<String> = stale.into_iter().map(|r| r.region).chain(surplus).collect();
        swept.sort();
        swept.dedup();
        sweep(&cx.engine, swept).await;
        Ok(Outcome::update(move |row| show_size(row, disk.size_bytes)))
    }
}
