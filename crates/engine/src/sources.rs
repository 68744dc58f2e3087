//! Bytes that one resource takes from another: a version from a disk, a disk from a snapshot, a snapshot from a blob.
//!
//! ```text
//! provider, while it decides:   disk_or_snapshot(cx, id, location) ─> SourceDisk ─ references() ─> committed with the row
//! operation:                    settle_found(cx, step, owner, region, found) ─> Stored, of exactly `size_bytes`
//! ```
//! A provider never reads bytes; it finds out where they are, checks that the caller may have them, and references them in the
//! transaction of its own row, so that nothing can be deleted or collected between the decision and the work.

use crate::content::reference;
use crate::db_error;
use crate::provider::Context;
use crate::providers::disk::{check_no_access, check_readable};
#[cfg_attr(
    not(test),
    allow(unused_imports, reason = "a door for the providers of versions, snapshots and images")
)]
pub(crate) use crate::storage::vhd::blob;
use crate::stored::{DiskInternal, ManagedImageInternal, Stored, internal};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the bytes of a disk are. Serialized into the parameters of operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FoundDisk {
    /// In the region of the resource that they were found in. `None`: nothing but zeros.
    pub base: Option<Stored>,
    /// What the disk shows; larger than `base` if it was grown.
    pub size_bytes: u64,
}

impl FoundDisk {
    /// Keeps the bytes from garbage collection on behalf of `owner`; to be committed with the owner's row.
    pub(crate) fn references(&self, owner: &str, region: &str) -> Vec<Change> {
        self.base.iter().map(|base| Change::PutContentRef(reference(owner, region, &base.manifest))).collect()
    }
}

/// A managed disk or a snapshot that may be read.
#[derive(Debug, Clone)]
pub(crate) struct SourceDisk {
    pub found: FoundDisk,
    /// `Change::RequireResource` on its key belongs to whatever is made of it.
    pub row: Resource,
}

/// The disk or snapshot of this id: the caller may read it, it is in `location`, and it is in a state in which its bytes are whole.
///
/// # Errors
/// 403; 404 `NotFound` in Azure's words (wire.md §3: "Resource X is not found."); 409 where its state forbids reading.
pub(crate) async fn disk_or_snapshot(cx: Context<'_>, id: &ResourceId, location: &str) -> Result<SourceDisk, ArmError> {
    let source = copy_source(cx, id, location).await?;
    check_no_access(cx, &source.row).await?;
    Ok(source)
}

/// As [`disk_or_snapshot`]; a disk that is being downloaded over a SAS may be copied too, though no image is made of it (recorded).
pub(crate) async fn copy_source(cx: Context<'_>, id: &ResourceId, location: &str) -> Result<SourceDisk, ArmError> {
    let right = format!("{}/read", id.resource_type());
    cx.engine.authorize(&cx.call.caller, &id.key(), &right).await?;
    let row = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    let row = row.filter(|r| is_disk(&r.kind) && r.location == location);
    let row = row.ok_or_else(|| {
        ArmError::new(404, "NotFound", format!("Resource {} is not found.", id.name())).target(id.to_string())
    })?;
    check_readable(cx, &row).await?;
    let disk: DiskInternal = internal(&row)?;
    Ok(SourceDisk { found: FoundDisk { base: disk.base, size_bytes: disk.size_bytes }, row })
}

/// A managed image that may be read.
#[derive(Debug, Clone)]
pub(crate) struct SourceImage {
    /// As for [`SourceDisk::row`].
    pub row: Resource,
    pub os: FoundDisk,
    /// By LUN.
    pub data: BTreeMap<u32, FoundDisk>,
}

/// The managed image of this id: the caller may read it, it is in `location` (MI-4, MI-8), and its bytes are whole. What may
/// not cross subscriptions (MI-5) compares [`SourceImage::row`]'s.
///
/// # Errors
/// 403; 404 `NotFound`; 409 while it is being made, changed or deleted, or after its creation failed.
pub(crate) async fn managed_image(cx: Context<'_>, id: &ResourceId, location: &str) -> Result<SourceImage, ArmError> {
    cx.engine.authorize(&cx.call.caller, &id.key(), "Microsoft.Compute/images/read").await?;
    let row = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    let row = row.filter(|r| r.kind == "microsoft.compute/images" && r.location == location);
    let row = row.ok_or_else(|| {
        ArmError::new(404, "NotFound", format!("Resource {} is not found.", id.name())).target(id.to_string())
    })?;
    let state: ManagedImageInternal = internal(&row)?;
    let usable = matches!(row.provisioning_state.as_str(), "Succeeded" | "Updating");
    let (Some(os), true) = (state.os_disk, usable) else {
        return Err(ArmError::conflict(
            "OperationNotAllowed",
            format!("Image '{}' cannot be used as it is in provisioning state '{}'.", row.name, row.provisioning_state),
        )
        .target(row.id));
    };
    let whole = |stored: Stored| FoundDisk { size_bytes: stored.size_bytes, base: Some(stored) };
    let data = state.data_disks.into_iter().map(|(lun, stored)| (lun, whole(stored))).collect();
    Ok(SourceImage { row, os: whole(os), data })
}

/// Both keep a [`DiskInternal`].
fn is_disk(kind: &str) -> bool {
    matches!(kind, "microsoft.compute/disks" | "microsoft.compute/snapshots")
}
