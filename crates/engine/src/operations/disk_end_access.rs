//! Takes SAS back. After an upload this is where the VHD is judged and its bytes enter the content store.
//!
//! ```text
//! ActiveUpload ─ grants go ─ footer checked ─ ingest + reference ─ file removed ─> Unattached
//!                                   └─ bad VHD, full store ─> ReadyToUpload, the file stays: upload again, or end again
//! ```

use super::disk_begin_access::{file_error, still_usable};
use crate::content::{guard, reference, store_op_error, watched};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::disk::EndAccess;
use crate::stored::{DiskInternal, Stored, change_internal, internal};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::disk::{DiskState, idle_state, set_size, set_state, state as shown_state};
use lazuli_chunks::Progress;
use lazuli_disks::DiskSource;
use lazuli_disks::vhd::{FixedVhd, VhdError, open_fixed};
use lazuli_meta::model::{Change, Resource};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

const INGEST: &str = "ingest";

pub(crate) struct DiskEndAccess;

#[async_trait]
impl Operation for DiskEndAccess {
    fn kind(&self) -> &'static str {
        "disk.end_access"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let state: DiskInternal = internal(&row)?;
        // From here on the data plane refuses every request.
        cx.commit(vec![Change::DeleteGrantsOf { resource_key: row.key.clone() }]).await?;
        if !state.uploading {
            return Ok(Outcome::update(|row| {
                if shown_state(&row.body) == Some(DiskState::ActiveSas) {
                    let idle = idle_state(&row.body);
                    set_state(&mut row.body, idle);
                }
            }));
        }
        let config = cx.engine.config();
        let (path, second) = (state.upload_path(config), state.guest_state_path(config));
        // Requests that came in before are waited for: the files no longer change.
        for file in [&path, &second] {
            cx.engine.blobs().end_upload(file).await.map_err(|e| file_error(e, "closed"))?;
        }
        let guest_state = match state.uploading_guest_state {
            true => Some(ingest(cx, &row, "ingest guest state", second.clone()).await?),
            false => None,
        };
        let stored = ingest(cx, &row, INGEST, path.clone()).await?;
        remove(path).await?;
        remove(second).await?;
        Ok(Outcome::update(move |row| uploaded(row, &stored, guest_state.as_ref())))
    }

    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let usable = still_usable();
        if cx.done_step(INGEST).is_some() {
            return Ok(usable);
        }
        Ok(Outcome::update(move |row| {
            if let Some(update) = &usable.update {
                update(row);
            }
            if shown_state(&row.body) == Some(DiskState::ActiveUpload) {
                set_state(&mut row.body, DiskState::ReadyToUpload);
            }
        }))
    }
}

fn uploaded(row: &mut Resource, stored: &Stored, guest_state: Option<&Stored>) {
    change_internal(row, |state: &mut DiskInternal| {
        state.base = Some(stored.clone());
        state.size_bytes = stored.size_bytes;
        state.uploading = false;
        state.uploading_guest_state = false;
        state.guest_state = guest_state.cloned();
    });
    set_state(&mut row.body, DiskState::Unattached);
    set_size(&mut row.body, stored.size_bytes);
}

async fn ingest(cx: &OpContext, row: &Resource, step: &str, path: PathBuf) -> Result<Stored, OpError> {
    let region = row.location.as_str();
    // Held until the step has committed the reference.
    let guard = guard(cx, region, &row.key).await?;
    cx.step_with(step, async {
        let vhd = open(cx, row, path).await?;
        let size_bytes = vhd.size();
        let progress = Progress::new();
        let work = guard.region.ingest(Arc::new(vhd), &progress, &cx.stop);
        let ingested = watched(cx, &progress, "storing the uploaded disk", work).await;
        let ingested = ingested.map_err(|e| store_op_error(cx, e, region))?;
        tracing::info!(
            disk = row.id,
            size_bytes,
            data_bytes = ingested.data_bytes,
            new_bytes = ingested.new_bytes,
            stored_bytes = ingested.stored_bytes,
            "upload stored"
        );
        let stored = Stored { manifest: ingested.manifest.to_string(), size_bytes };
        let change = Change::PutContentRef(reference(&row.key, region, &stored.manifest));
        Ok((stored, vec![change]))
    })
    .await
}

async fn open(cx: &OpContext, row: &Resource, path: PathBuf) -> Result<FixedVhd, OpError> {
    let params: EndAccess = cx.params()?;
    let opened = tokio::task::spawn_blocking(move || open_fixed(&path)).await.map_err(ArmError::internal)?;
    opened.map_err(|e| OpError::Failed(vhd_error(e, &row.name, &params.blob_url)))
}

/// Azure's `InvalidVhd`, with its text for the most frequent case (wire.md §5).
pub(crate) fn vhd_error(error: VhdError, disk: &str, blob_url: &str) -> ArmError {
    match error {
        VhdError::Io(e) => file_error(e, "read"),
        VhdError::BadCookie { .. } => ArmError::bad_request(
            "InvalidVhd",
            format!(
                "The specified cookie value in VHD footer indicates that disk '{disk}' with blob {blob_url} is not a \
                 supported VHD. Disk is expected to have cookie value 'conectix'."
            ),
        )
        .caused_by(error),
        other => ArmError::bad_request(
            "InvalidVhd",
            format!("Disk '{disk}' with blob {blob_url} is not a supported VHD: {other}."),
        )
        .caused_by(other),
    }
}

/// The staging file, which may be gone already.
async fn remove(path: PathBuf) -> Result<(), OpError> {
    let removed = tokio::fs::remove_file(path).await;
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(OpError::Failed(file_error(e, "removed"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_text() {
        let error = vhd_error(VhdError::BadCookie { found: [0; 8], format: None }, "abcd", "https://x/y/abcd");
        assert_eq!(error.code, "InvalidVhd");
        assert_eq!(
            error.message,
            "The specified cookie value in VHD footer indicates that disk 'abcd' with blob https://x/y/abcd is not a \
             supported VHD. Disk is expected to have cookie value 'conectix'."
        );
        let error = vhd_error(VhdError::SizeNotAligned { size: 5 }, "d", "u");
        assert!(error.message.starts_with("Disk 'd' with blob u is not a supported VHD: "), "{}", error.message);
    }
}
