//! Removes a disk: its local files, its references, and the bytes that only it needed.

use super::disk_begin_access::file_error;
use crate::capture::wait_for_readers;
use crate::content::sweep;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::stored::{DiskInternal, internal};
use async_trait::async_trait;
use lazuli_meta::model::Change;
use std::io;

pub(crate) struct DiskDelete;

#[async_trait]
impl Operation for DiskDelete {
    fn kind(&self) -> &'static str {
        "disk.delete"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let state: DiskInternal = internal(&row)?;
        let key = row.key.clone();
        wait_for_readers(cx, [&key]).await?;
        cx.commit(vec![
            Change::DeleteGrantsOf { resource_key: key.clone() },
            Change::DeleteContentRefs { resource_key: key },
        ])
        .await?;
        if !state.unique_id.is_empty() {
            let config = cx.engine.config();
            let staging = [state.upload_path(config), state.guest_state_path(config)];
            for path in &staging {
                cx.engine.blobs().end_upload(path).await.map_err(|e| file_error(e, "closed"))?;
            }
            for path in staging.into_iter().chain([state.overlay_path(config)]) {
                match tokio::fs::remove_file(path).await {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file_error(e, "removed").into()),
                    _ => {}
                }
            }
            match tokio::fs::remove_dir_all(state.firmware_state_path(config)).await {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file_error(e, "removed").into()),
                _ => {}
            }
        }
        cx.progress(0, 0, "freeing the bytes").await;
        sweep(&cx.engine, [row.location]).await;
        Ok(Outcome::deleted())
    }
}
