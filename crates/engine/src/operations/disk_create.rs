//! Makes a disk or snapshot of bytes that are not in the store as they are shown: what a machine wrote is captured first.

use crate::content::settle_found;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::sources::FoundDisk;
use crate::stored::{DiskInternal, change_internal};
use async_trait::async_trait;

/// `disk.create`, `snapshot.create`. Parameters: a [`FoundDisk`] of the resource's own region.
pub(crate) struct DiskCreate(pub &'static str);

#[async_trait]
impl Operation for DiskCreate {
    fn kind(&self) -> &'static str {
        self.0
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let found: FoundDisk = cx.params()?;
        let row = cx.resource().await?;
        let stored = settle_found(cx, "settle", &row.key, &row.location, &found).await?;
        Ok(Outcome::update(move |row| {
            change_internal(row, |state: &mut DiskInternal| {
                state.base = Some(stored.clone());
                state.incomplete = false;
            });
        }))
    }
}
