//! Copies of a running machine's disks for the engine, which opens them at once: the files are gone a moment later.
//!
//! ```text
//! DIR/vms/<id>/captures/<capture>/os.qcow2, lun5.qcow2, ...
//! ```
//! They are removed when the engine says so, when a copy fails, when it is [`KEPT`] old, when the next host begins, and with
//! the machine; nothing else ever relies on them.

use std::io;
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::api::Captured;
use super::{HostError, store};
use crate::hypervisor::{DiskCopy, Machine, VmFiles};
use crate::spec::{DiskSpec, VmSpec};

/// So long the engine has for opening the files.
const KEPT: Duration = Duration::from_secs(60);
/// What must stay free besides the copies.
const RESERVE: u64 = 64 << 20;

/// Copies these disks as they are at one instant.
pub(super) async fn capture(
    machine: &dyn Machine,
    spec: &VmSpec,
    files: &VmFiles,
    luns: &[Option<u8>],
) -> Result<Captured, HostError> {
    let id = Uuid::new_v4();
    let folder = files.captures().join(id.to_string());
    let mut copies = Vec::new();
    for lun in luns {
        let disk = spec.disks().find(|d| d.lun == *lun);
        let disk = disk.ok_or_else(|| HostError::Invalid(format!("the machine has no disk at LUN {lun:?}")))?;
        let target = folder.join(format!("{}.qcow2", disk.label()));
        copies.push(DiskCopy { label: disk.label(), overlay: disk.overlay.clone(), target });
    }
    store::private_dir(&folder).map_err(HostError::Store)?;
    let done = match check_room(&folder, spec.disks().filter(|d| luns.contains(&d.lun))) {
        Ok(()) => machine.capture(&copies).await.map_err(HostError::from),
        Err(e) => Err(e),
    };
    let consistency = match done {
        Ok(consistency) => consistency,
        Err(e) => {
            discard(files, id).await?;
            return Err(e);
        }
    };
    let later = files.clone();
    tokio::spawn(async move {
        tokio::time::sleep(KEPT).await;
        if let Err(e) = discard(&later, id).await {
            tracing::warn!(capture = %id, error = %super::with_causes(&e), "copies of disks cannot be removed");
        }
    });
    Ok(Captured { id, consistency, files: copies.into_iter().map(|c| c.target).collect() })
}

/// A copy takes as much as the disk's own file at most.
fn check_room<'a>(folder: &Path, disks: impl Iterator<Item = &'a DiskSpec>) -> Result<(), HostError> {
    use std::os::unix::fs::MetadataExt;
    let mut needed = RESERVE;
    for disk in disks {
        needed += std::fs::metadata(&disk.overlay).map_err(HostError::Store)?.blocks() * 512;
    }
    let fs = rustix::fs::statvfs(folder).map_err(|e| HostError::Store(e.into()))?;
    let free = fs.f_bavail * fs.f_frsize;
    if free < needed { Err(HostError::Full { needed, free }) } else { Ok(()) }
}

pub(super) async fn discard(files: &VmFiles, capture: Uuid) -> Result<(), HostError> {
    remove(&files.captures().join(capture.to_string())).await
}

/// Everything that an earlier host left.
pub(super) async fn discard_all(files: &VmFiles) -> Result<(), HostError> {
    remove(&files.captures()).await
}

async fn remove(folder: &Path) -> Result<(), HostError> {
    match tokio::fs::remove_dir_all(folder).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(HostError::Store(e)),
        _ => Ok(()),
    }
}
