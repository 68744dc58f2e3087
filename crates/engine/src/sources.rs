//! Bytes that one resource takes from another: a version from a disk, a disk from a snapshot, a snapshot from a blob.
//!
//! ```text
//! provider, while it decides:   disk_or_snapshot(cx, id, location) ─> SourceDisk ─ references() ─> committed with the row
//!                               virtual_machine(cx, id, location)  ─> SourceMachine with a SourceDisk for each of its disks
//! operation:                    settle_all(cx, owner, region, disks) ─> Stored, each of exactly `size_bytes`
//! ```
//! A provider never reads bytes; it finds out where they are, checks that the caller may have them, and references them in the
//! transaction of its own row, so that nothing can be deleted or collected between the decision and the work.

use crate::capture::{Overlay, check_whole};
use crate::content::reference;
use crate::db_error;
use crate::provider::Context;
use crate::providers::disk::{check_no_access, check_readable};
use crate::providers::virtual_machine::{self, MachineInternal};
pub(crate) use crate::storage::vhd::blob;
use crate::stored::{DiskInternal, ManagedImageInternal, Stored, internal};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where the bytes of a disk are. Serialized into the parameters of operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FoundDisk {
    /// In the region of the resource that they were found in. `None`: nothing but zeros.
    pub base: Option<Stored>,
    /// Whose content reference keeps `base` until whoever takes it over has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// What the disk shows; larger than `base` if it was grown.
    pub size_bytes: u64,
    /// What guests wrote above `base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
}

impl FoundDisk {
    /// Bytes that are in the store as they are shown, kept by the row of this key.
    pub(crate) fn stored(base: Stored, holder: &str) -> Self {
        Self { size_bytes: base.size_bytes, base: Some(base), holder: Some(holder.to_owned()), overlay: None }
    }

    /// Whether `base` is the disk. Otherwise whatever is made of it must run an operation that calls
    /// [`crate::content::settle_found`].
    pub(crate) fn is_settled(&self) -> bool {
        self.overlay.is_none() && self.base.as_ref().is_some_and(|b| b.size_bytes == self.size_bytes)
    }

    /// Keeps the bytes from garbage collection, and guests from writing to them, on behalf of `owner`: the key of the
    /// resource whose operation will settle them. To be committed with the owner's row; where the holder let go of them
    /// meanwhile, nothing is committed, and the owner is decided anew.
    pub(crate) fn references(&self, owner: &str, region: &str) -> Vec<Change> {
        let base = self.base.iter().flat_map(|base| take_over(self.holder.as_deref(), owner, region, base));
        base.chain(self.overlay.iter().filter_map(|o| o.claim(owner))).collect()
    }
}

/// A reference of `owner` to bytes that `holder` keeps alive until it is committed.
pub(crate) fn take_over(holder: Option<&str>, owner: &str, region: &str, stored: &Stored) -> Vec<Change> {
    let held = holder.map(|holder| Change::RequireContentRef(reference(holder, region, &stored.manifest)));
    held.into_iter().chain([Change::PutContentRef(reference(owner, region, &stored.manifest))]).collect()
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
    // Images are made of what the caller may write, not only read (mission: write permission on VM, disk and snapshot sources).
    let source = source_disk(cx, id, location, "write").await?;
    check_no_access(cx, &source.row).await?;
    Ok(source)
}

/// As [`disk_or_snapshot`]; a disk that is being downloaded over a SAS may be copied too, though no image is made of it (recorded).
pub(crate) async fn copy_source(cx: Context<'_>, id: &ResourceId, location: &str) -> Result<SourceDisk, ArmError> {
    source_disk(cx, id, location, "beginGetAccess/action").await
}

async fn source_disk(cx: Context<'_>, id: &ResourceId, location: &str, verb: &str) -> Result<SourceDisk, ArmError> {
    let right = format!("{}/{verb}", id.resource_type());
    cx.engine.authorize_link(&cx.call.caller, &id.to_string(), &right).await?;
    let row = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    let row = row.filter(|r| is_disk(&r.kind) && r.location == location);
    let row = row.ok_or_else(|| {
        ArmError::new(404, "NotFound", format!("Resource {} is not found.", id.name())).target(id.to_string())
    })?;
    check_readable(cx, &row).await?;
    found(cx, row).await
}

async fn found(cx: Context<'_>, row: Resource) -> Result<SourceDisk, ArmError> {
    let disk: DiskInternal = internal(&row)?;
    let overlay = Overlay::at_any_time(cx, &row, &disk).await?;
    let found = FoundDisk { base: disk.base, holder: Some(row.key.clone()), size_bytes: disk.size_bytes, overlay };
    Ok(SourceDisk { found, row })
}

/// A virtual machine with its disks. One that runs is never generalized.
#[derive(Debug, Clone)]
pub(crate) struct SourceMachine {
    /// `Change::RequireResource` on its key belongs to whatever is made of it, as do the references of each disk.
    pub row: Resource,
    /// Otherwise specialized.
    pub generalized: bool,
    /// `Linux` or `Windows`.
    pub os_type: String,
    /// `V1` or `V2`.
    pub generation: String,
    pub os: SourceDisk,
    pub os_caching: String,
    /// LUN, caching, disk; by rising LUN.
    pub data: Vec<(u32, String, SourceDisk)>,
}

/// The machine of this id: the caller may read it, it is in `location`, it has been created, and is off or runs (IV-3, MI-3, GS-13,
/// GS-14).
///
/// # Errors
/// As [`disk_or_snapshot`]; 409 `OperationNotAllowed` while it is being changed.
pub(crate) async fn virtual_machine(
    cx: Context<'_>,
    id: &ResourceId,
    location: &str,
) -> Result<SourceMachine, ArmError> {
    let not_found =
        || ArmError::new(404, "NotFound", format!("Resource {} is not found.", id.name())).target(id.to_string());
    let right = format!("{}/write", virtual_machine::KIND);
    cx.engine.authorize_link(&cx.call.caller, &id.to_string(), &right).await?;
    let row = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    let row = row.filter(|r| r.kind.eq_ignore_ascii_case(virtual_machine::KIND) && r.location == location);
    let row = row.ok_or_else(not_found)?;
    let state: MachineInternal = internal(&row)?;
    check_whole(&row, &state)?;
    let profile = &row.body["properties"]["storageProfile"];
    let text = |v: &Value, default: &str| v.as_str().unwrap_or(default).to_owned();
    let disk = async |key: &str| {
        let disk = cx.engine.db().resource(key).await.map_err(db_error)?;
        let disk = disk.ok_or_else(|| ArmError::internal(format!("the machine's disk {key} is gone")))?;
        found(cx, disk).await
    };
    let os = disk(&state.os_disk).await?;
    let mut data = Vec::new();
    for (lun, key) in &state.data_disks {
        let mut entries = profile["dataDisks"].as_array().into_iter().flatten();
        let caching = entries.find(|d| d["lun"] == *lun).map_or_else(|| "None".into(), |d| text(&d["caching"], "None"));
        data.push((u32::from(*lun), caching, disk(key).await?));
    }
    data.sort_by_key(|(lun, ..)| *lun);
    Ok(SourceMachine {
        generalized: state.generalized,
        os_type: text(&profile["osDisk"]["osType"], "Linux"),
        generation: state.generation,
        os_caching: text(&profile["osDisk"]["caching"], "ReadWrite"),
        os,
        data,
        row,
    })
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
    cx.engine.authorize_link(&cx.call.caller, &id.to_string(), "Microsoft.Compute/images/read").await?;
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
    let found = |stored: Stored| FoundDisk::stored(stored, &row.key);
    let data = state.data_disks.into_iter().map(|(lun, stored)| (lun, found(stored))).collect();
    Ok(SourceImage { os: found(os), data, row })
}

/// Both keep a [`DiskInternal`].
fn is_disk(kind: &str) -> bool {
    matches!(kind, "microsoft.compute/disks" | "microsoft.compute/snapshots")
}
