//! Gives a SAS: to an empty staging file (upload), or to the disk's stored bytes (download).

use crate::call::Urls;
use crate::capture::Overlay;
use crate::content::settle_found;
use crate::grant::{GUEST_STATE, GrantDetail, new_grant, sas_url};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::disk::BeginAccess;
use crate::sources::FoundDisk;
use crate::stored::{DiskInternal, internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::disk::{DiskState, Origin, origin, set_state};
use lazuli_meta::model::{Change, Resource};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A guest state is a fixed VHD of 4 MiB.
const GUEST_STATE_BYTES: u64 = (4 << 20) + 512;

pub(crate) struct DiskBeginAccess;

#[async_trait]
impl Operation for DiskBeginAccess {
    fn kind(&self) -> &'static str {
        "disk.begin_access"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let params: BeginAccess = cx.params()?;
        let row = cx.resource().await?;
        let state: DiskInternal = internal(&row)?;
        let urls = Urls { arm: params.arm_url.clone(), blob_suffix: params.blob_suffix.clone() };
        let (access, detail, mut changes) = if params.write {
            // A new upload SAS replaces the one before.
            let gone = Change::DeleteGrantsOf { resource_key: row.key.clone() };
            ("Write", staging(cx, &row, &state).await?, vec![gone])
        } else {
            ("Read", stored(cx, &row, &state).await?, vec![])
        };
        let grant = new_grant(&row.key, access, &detail, params.expires_ms);
        let mut output = json!({"accessSAS": sas_url(&grant, &urls)});
        changes.push(Change::PutGrant(grant));
        if params.guest_state {
            let detail = guest_state(cx, &row, &state, params.write).await?;
            let grant = new_grant(&row.key, &format!("{access}{GUEST_STATE}"), &detail, params.expires_ms);
            output["securityDataAccessSAS"] = sas_url(&grant, &urls).into();
            changes.push(Change::PutGrant(grant));
        }
        let with_state = params.guest_state;
        Ok(Outcome { output: Some(output), changes, ..Outcome::update(move |row| granted(row, &detail, with_state)) })
    }

    async fn undo(&self, _cx: &OpContext) -> Result<Outcome, OpError> {
        Ok(still_usable())
    }
}

/// A request on the disk failed, the disk did not.
pub(super) fn still_usable() -> Outcome {
    Outcome::update(|row| {
        if row.provisioning_state != "Deleting" {
            row.provisioning_state = "Succeeded".into();
        }
    })
}

fn granted(row: &mut Resource, detail: &GrantDetail, guest_state: bool) {
    let Ok(mut state) = internal::<DiskInternal>(row) else { return };
    match detail {
        GrantDetail::Upload { .. } => {
            state.uploading = true;
            state.uploading_guest_state |= guest_state;
            set_state(&mut row.body, DiskState::ActiveUpload);
        }
        GrantDetail::Manifest { manifest, size, .. } => {
            state.base = Some(crate::stored::Stored { manifest: manifest.clone(), size_bytes: *size });
            set_state(&mut row.body, DiskState::ActiveSas);
        }
        GrantDetail::File { .. } => {}
    }
    row.internal = to_internal(&state);
}

/// The sparse file that the upload fills. What an earlier SAS wrote into it stays.
async fn staging(cx: &OpContext, row: &Resource, state: &DiskInternal) -> Result<GrantDetail, OpError> {
    let Some(Origin::Upload { vhd_bytes, .. }) = origin(&row.body) else {
        return Err(OpError::Failed(ArmError::internal("an upload was begun on a disk of another origin")));
    };
    make_staging(state.upload_path(cx.engine.config()), vhd_bytes, state.uploading).await
}

async fn make_staging(path: PathBuf, size: u64, keep: bool) -> Result<GrantDetail, OpError> {
    let file = path.clone();
    tokio::task::spawn_blocking(move || make_sparse(&file, size, keep))
        .await
        .map_err(ArmError::internal)?
        .map_err(|e| file_error(e, "made"))?;
    Ok(GrantDetail::Upload { path, size })
}

/// The second blob of a trusted launch disk.
async fn guest_state(
    cx: &OpContext,
    row: &Resource,
    state: &DiskInternal,
    write: bool,
) -> Result<GrantDetail, OpError> {
    if write {
        let path = state.guest_state_path(cx.engine.config());
        return make_staging(path, GUEST_STATE_BYTES, state.uploading_guest_state).await;
    }
    let Some(stored) = &state.guest_state else {
        return Err(OpError::Failed(ArmError::internal("a guest state was asked for that is not there")));
    };
    Ok(GrantDetail::Manifest {
        region: row.location.clone(),
        manifest: stored.manifest.clone(),
        size: stored.size_bytes,
        footer_unique_id: state.unique_id.parse::<Uuid>().unwrap_or_default(),
    })
}

fn make_sparse(path: &Path, len: u64, keep: bool) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(!keep).mode(0o600).open(path)?;
    file.set_len(len)
}

pub(crate) fn file_error(error: io::Error, what: &str) -> ArmError {
    if error.kind() == io::ErrorKind::StorageFull {
        return ArmError::new(
            507,
            "StorageFull",
            "The server's disk is full. Nothing that existed was changed. Free some space, then retry.",
        )
        .caused_by(error);
    }
    ArmError::new(
        500,
        "InternalServerError",
        format!("The upload's staging file could not be {what}. See the server's log."),
    )
    .caused_by(error)
}

async fn stored(cx: &OpContext, row: &Resource, state: &DiskInternal) -> Result<GrantDetail, OpError> {
    let found = FoundDisk {
        base: state.base.clone(),
        holder: None,
        size_bytes: state.size_bytes,
        overlay: Overlay::own(row, state),
    };
    let disk = settle_found(cx, "settle", &row.key, &row.location, &found).await?;
    Ok(GrantDetail::Manifest {
        region: row.location.clone(),
        manifest: disk.manifest,
        size: disk.size_bytes,
        footer_unique_id: state.unique_id.parse::<Uuid>().unwrap_or_default(),
    })
}
