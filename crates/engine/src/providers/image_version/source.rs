//! The sources of an image version: found, checked, and referenced with the version's row (IV-3 … IV-10).
//!
//! ```text
//! osDiskImage, dataDiskImages   a disk, snapshot or VHD blob each      the OS disk must fit the definition
//! source.id                     another version, a managed image,   ┐
//! source.virtualMachineId       a machine that is off,              │  with all their disks
//! source.communityGalleryImageId   a version of a community gallery ┘
//! ```

use super::super::virtual_machine::resolve_shared;
use crate::provider::Context;
use crate::shared_galleries::VERSIONS;
use crate::sources::{
    FoundDisk, SourceDisk, SourceImage, SourceMachine, blob, disk_or_snapshot, managed_image, virtual_machine,
};
use crate::stored::{DiskInternal, ImageVersionInternal, Stored, internal};
use crate::{Engine, db_error};
use lazuli_arm::bodies::image_version::{self, DataDisk, DiskOrBlob, Source, SourceFacts};
use lazuli_arm::bodies::shared_gallery::SharedImageId;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Expect, Operation, OperationQuery, OperationState, Resource};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Display;

const IMAGE: &str = "microsoft.compute/images";
/// Of versions that are replicated `Shallow` (wire.md §3).
const MAX_SHALLOW_GIB: u64 = 32 * 1024;

/// One disk of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourcePart {
    pub disk: FoundDisk,
    /// What the source asks for, where the client did not name the disk itself.
    pub caching: String,
}

/// All disks of a version: parameters of `image_version.create`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VersionSource {
    pub os: SourcePart,
    /// By LUN.
    pub data: BTreeMap<u32, SourcePart>,
    /// Key of the managed image that these are the disks of. It is in use until the version is complete (MI-9).
    pub managed_image: Option<String>,
}

/// What the checks of one kind of source lead to.
struct Found {
    source: VersionSource,
    facts: SourceFacts,
    /// Named in errors.
    source_id: String,
    /// The UEFI keys that the source's image brought along; null: none.
    uefi_settings: Value,
    /// What must hold when the version's row is committed.
    changes: Vec<Change>,
}

/// What a version is made of.
pub(super) struct Sources {
    pub source: VersionSource,
    /// To be committed with the version's row.
    pub changes: Vec<Change>,
    /// For the version's own, where its body has none; null: none.
    pub uefi_settings: Value,
}

/// The disks of a body, and what comes with them.
///
/// # Errors
/// The catalogue's (mission: version): sources that are not there, not in the version's region, not readable, too large, or other
/// than the definition says.
pub(super) async fn find(cx: Context<'_>, id: &ResourceId, body: &Value) -> Result<Sources, ArmError> {
    let home = body["location"].as_str().unwrap_or_default();
    let definition = id.parent().unwrap_or_else(|| id.clone());
    let row = cx.engine.db().resource(&definition.key()).await.map_err(db_error)?;
    let row = row.ok_or_else(|| ArmError::parent_not_found(definition.name()))?;
    let found = match image_version::source(body) {
        Some(Source::Disks { os: Some(os), data }) => from_disks(cx, os, data, home).await?,
        Some(Source::Resource(source)) if source.resource_type().key() == VERSIONS => {
            from_version(cx, &source, home).await?
        }
        Some(Source::Resource(source)) if source.resource_type().key() == IMAGE => {
            from_image(cx, id, &source, home).await?
        }
        Some(Source::Resource(source) | Source::VirtualMachine(source)) => from_machine(cx, &source, home).await?,
        Some(Source::Community(source)) => from_shared(cx, id, &source, home).await?,
        Some(Source::Disks { os: None, .. }) | None => {
            return Err(ArmError::internal("a version without a source was stored"));
        }
    };
    found.facts.check(&found.source_id, &row.body)?;
    check_sizes(cx, body, &found.source)?;
    let mut changes = found.changes;
    for part in found.source.parts() {
        changes.extend(part.disk.references(&id.key(), home));
    }
    Ok(Sources { source: found.source, changes, uefi_settings: found.uefi_settings })
}

impl VersionSource {
    pub fn parts(&self) -> impl Iterator<Item = &SourcePart> {
        std::iter::once(&self.os).chain(self.data.values())
    }
}

/// The row of a source that the caller may read and that is in the version's region (IV-10, IV-17).
async fn readable(cx: Context<'_>, source: &ResourceId, home: &str) -> Result<Resource, ArmError> {
    let kind = source.resource_type();
    let image = matches!(kind.key().as_str(), VERSIONS | "microsoft.compute/images");
    let right = format!("{kind}/{}", if image { "read" } else { "write" });
    cx.engine.authorize_link(&cx.call.caller, &source.to_string(), &right).await?;
    let row = cx.engine.db().resource(&source.key()).await.map_err(db_error)?;
    let version = source.resource_type().key() == VERSIONS;
    row.filter(|r| (version || r.location == home) && r.provisioning_state != "Deleting")
        .ok_or_else(|| not_found(source))
}

fn not_found(source: impl Display) -> ArmError {
    ArmError::new(
        404,
        "NotFound",
        format!(
            "Source {source} is not found. Please check source exists, and is in the same region as gallery image version \
             being created."
        ),
    )
    .target(source.to_string())
}

/// The OS from one place and each data disk from another (IV-4).
async fn from_disks(cx: Context<'_>, os: DiskOrBlob, data: Vec<DataDisk>, home: &str) -> Result<Found, ArmError> {
    let mut changes = Vec::new();
    let source_id = match &os {
        DiskOrBlob::Resource(id) => id.to_string(),
        DiskOrBlob::Blob { uri, .. } => uri.clone(),
    };
    let Part { part: os, facts, uefi_settings } = one(cx, "osDiskImage", os, home, &mut changes).await?;
    let mut parts = BTreeMap::new();
    for disk in data {
        let found = one(cx, "dataDiskImages", disk.source, home, &mut changes).await?;
        parts.insert(disk.lun, found.part);
    }
    let source = VersionSource { os, data: parts, managed_image: None };
    Ok(Found { source, facts, source_id, uefi_settings, changes })
}

/// One disk, and what is known of the OS on it.
struct Part {
    part: SourcePart,
    facts: SourceFacts,
    uefi_settings: Value,
}

/// One disk, snapshot or blob.
async fn one(
    cx: Context<'_>,
    member: &str,
    from: DiskOrBlob,
    home: &str,
    changes: &mut Vec<Change>,
) -> Result<Part, ArmError> {
    // Bodies name each disk's caching; this is only for those that come without a disk of their own.
    let caching = "None".to_owned();
    match from {
        DiskOrBlob::Resource(id) => {
            let found = disk_or_snapshot(cx, &id, home).await;
            let missing = |e: ArmError| if e.code == "NotFound" { not_found(&id) } else { e };
            let SourceDisk { found, row } = found.map_err(missing)?;
            let facts = facts_of_disk(&row.body);
            let uefi_settings = keys_of_disk(&row)?;
            changes.push(Change::RequireResource { key: row.key });
            Ok(Part { part: SourcePart { disk: found, caching }, facts, uefi_settings })
        }
        DiskOrBlob::Blob { uri, storage_account } => {
            let path = format!("galleryImageVersion.properties.storageProfile.{member}.source.storageAccountId");
            let account: Option<ResourceId> = match storage_account {
                Some(id) => Some(id.parse().map_err(|_| {
                    ArmError::invalid_parameter(&path, format!("The value of parameter {path} is invalid."))
                })?),
                None => None,
            };
            let disk = blob(cx, &uri, account.as_ref(), home).await?;
            let (part, facts) = (SourcePart { disk, caching }, SourceFacts::default());
            Ok(Part { part, facts, uefi_settings: Value::Null })
        }
    }
}

/// The keys that the firmware of a machine with this OS disk trusts.
fn keys_of_disk(row: &Resource) -> Result<Value, ArmError> {
    Ok(internal::<DiskInternal>(row)?.uefi_settings)
}

/// A disk may say what it is, and need not.
fn facts_of_disk(body: &Value) -> SourceFacts {
    let properties = &body["properties"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    SourceFacts {
        os_type: text(&properties["osType"]),
        os_state: None,
        generation: text(&properties["hyperVGeneration"]),
        architecture: text(&properties["supportedCapabilities"]["architecture"]),
        plan: properties.get("purchasePlan").filter(|p| !p.is_null()).map(|p| Some(p.clone())),
    }
}

async fn from_version(cx: Context<'_>, id: &ResourceId, home: &str) -> Result<Found, ArmError> {
    let row = readable(cx, id, home).await?;
    let shown = row.id.clone();
    of_version(cx, row, home, shown).await
}

/// A version of a gallery that is shared with everybody: no right in its subscription is asked for.
async fn from_shared(cx: Context<'_>, id: &ResourceId, source: &SharedImageId, home: &str) -> Result<Found, ArmError> {
    let missing = |e: ArmError| if e.code == "GalleryImageNotFound" { not_found(source) } else { e };
    let image = resolve_shared(cx, source, &id.subscription, home).await.map_err(missing)?;
    let row = cx.engine.db().resource(&image.version_id.to_ascii_lowercase()).await.map_err(db_error)?;
    of_version(cx, row.ok_or_else(|| not_found(source))?, home, image.shown_id).await
}

/// `shown`: the id by which whoever makes a new version of it knows it.
async fn of_version(cx: Context<'_>, row: Resource, home: &str, shown: String) -> Result<Found, ArmError> {
    let state: ImageVersionInternal = internal(&row)?;
    let here = state.serves(home);
    let (Some(os), true) = (state.os_disk, here) else {
        return Err(not_found(shown));
    };
    let definition = match &row.parent {
        Some(parent) => cx.engine.db().resource(parent).await.map_err(db_error)?,
        None => None,
    };
    let profile = &row.body["properties"]["storageProfile"];
    let caching = |disk: &Value, default: &str| disk["hostCaching"].as_str().unwrap_or(default).to_owned();
    let part = |stored: Stored, caching: String| SourcePart { disk: FoundDisk::stored(stored, &row.key), caching };
    let mut data = BTreeMap::new();
    for (lun, stored) in state.data_disks {
        data.insert(lun, part(stored, caching(at_lun(&profile["dataDiskImages"], lun), "None")));
    }
    let os = part(os, caching(&profile["osDiskImage"], "ReadWrite"));
    let source = VersionSource { os, data, managed_image: None };
    let facts = definition.map(|d| SourceFacts::of_definition(&d.body)).unwrap_or_default();
    let uefi_settings = row.body["properties"]["securityProfile"]["uefiSettings"].clone();
    let changes = vec![Change::RequireResource { key: row.key }];
    Ok(Found { source, facts, source_id: shown, uefi_settings, changes })
}

/// The member of a list of disks that has this LUN.
fn at_lun(disks: &Value, lun: u32) -> &Value {
    let mut disks = disks.as_array().into_iter().flatten();
    disks.find(|d| d["lun"].as_u64() == Some(u64::from(lun))).unwrap_or(&Value::Null)
}

/// MI-8: in the version's region; MI-5: in its subscription; MI-9: by one version at a time.
async fn from_image(cx: Context<'_>, id: &ResourceId, image: &ResourceId, home: &str) -> Result<Found, ArmError> {
    if !image.subscription.eq_ignore_ascii_case(&id.subscription) {
        return Err(ArmError::bad_request(
            "BadRequest",
            format!(
                "The source '{image}' is in another subscription than the gallery image version. Managed images cannot be \
                 shared across subscriptions: use an image version of a compute gallery."
            ),
        )
        .target(image.to_string()));
    }
    let missing = |e: ArmError| if e.code == "NotFound" { not_found(image) } else { e };
    let SourceImage { mut row, os, data } = managed_image(cx, image, home).await.map_err(missing)?;
    check_unused(cx, id, &row).await?;
    let profile = &row.body["properties"]["storageProfile"];
    let caching = |disk: &Value, default: &str| disk["caching"].as_str().unwrap_or(default).to_owned();
    let os = SourcePart { disk: os, caching: caching(&profile["osDisk"], "ReadWrite") };
    let data = data
        .into_iter()
        .map(|(lun, disk)| (lun, SourcePart { disk, caching: caching(at_lun(&profile["dataDisks"], lun), "None") }));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let facts = SourceFacts {
        os_type: text(&profile["osDisk"]["osType"]),
        os_state: text(&profile["osDisk"]["osState"]),
        generation: text(&row.body["properties"]["hyperVGeneration"]),
        ..SourceFacts::default()
    };
    let source = VersionSource { os, data: data.collect(), managed_image: Some(row.key.clone()) };
    let source_id = row.id.clone();
    // The image's row is written with the version's: of two writers that want it at the same time one loses, is decided anew,
    // and finds it in use.
    let expect = Expect::Etag(row.etag.clone());
    row.etag = crate::new_etag();
    let changes = vec![Change::PutResource { resource: row, expect }];
    Ok(Found { source, facts, source_id, uefi_settings: Value::Null, changes })
}

/// The texts of the catalogue; what a machine is (generalized or not) must be what the definition says (GS-13).
async fn from_machine(cx: Context<'_>, machine: &ResourceId, home: &str) -> Result<Found, ArmError> {
    let missing = |e: ArmError| if e.code == "NotFound" { not_found(machine) } else { e };
    let SourceMachine { row, generalized, os_type, generation, os, os_caching, data } =
        virtual_machine(cx, machine, home).await.map_err(missing)?;
    let refuse =
        |why: String| Err(ArmError::bad_request("BadRequest", format!("Source virtual machine {} {why}", row.id)));
    if row.body["properties"]["storageProfile"]["osDisk"]["diffDiskSettings"]["option"] == "Local" {
        return refuse("cannot contain an ephemeral OS disk.".to_owned());
    }
    let disks = || std::iter::once(&os.row).chain(data.iter().map(|(_, _, disk)| &disk.row));
    if let Some(ultra) = disks().find(|d| d.body["sku"]["name"] == "UltraSSD_LRS") {
        return refuse(format!("cannot contain disk ['{}'] stored in an UltraSSD account type.", ultra.id));
    }
    let mut changes: Vec<Change> = disks().map(|d| Change::RequireResource { key: d.key.clone() }).collect();
    changes.push(Change::RequireResource { key: row.key.clone() });
    let facts = SourceFacts {
        os_type: Some(os_type),
        os_state: Some(if generalized { "Generalized" } else { "Specialized" }.to_owned()),
        generation: Some(generation),
        plan: Some(row.body.get("plan").filter(|p| !p.is_null()).cloned()),
        ..SourceFacts::default()
    };
    let data = data.into_iter().map(|(lun, caching, disk)| (lun, SourcePart { disk: disk.found, caching })).collect();
    let uefi_settings = keys_of_disk(&os.row)?;
    let os = SourcePart { disk: os.found, caching: os_caching };
    let source = VersionSource { os, data, managed_image: None };
    Ok(Found { source, facts, source_id: row.id, uefi_settings, changes })
}

async fn check_unused(cx: Context<'_>, version: &ResourceId, image: &Resource) -> Result<(), ArmError> {
    let query = OperationQuery {
        kind: Some("image_version.create".to_owned()),
        state: Some(OperationState::Running),
        ..OperationQuery::default()
    };
    let running = cx.engine.db().operations(&query).await.map_err(db_error)?;
    let uses = |o: &&Operation| o.params["managedImage"] == image.key.as_str() && o.resource_key != version.key();
    running.iter().find(uses).map_or(Ok(()), |user| {
        Err(ArmError::conflict(
            "OperationNotAllowed",
            format!(
                "The managed image '{}' is in use: the gallery image version '{}' is still being built from it and replicated. \
                 Wait until that is complete, then retry.",
                image.id, user.resource_key
            ),
        )
        .target("galleryImageVersion.properties.storageProfile.source.id"))
    })
}

/// IV-8, T6: a limit of the server, in GiB as they are shown.
fn check_sizes(cx: Context<'_>, body: &Value, source: &VersionSource) -> Result<(), ArmError> {
    let shallow = body["properties"]["publishingProfile"]["replicationMode"] == "Shallow";
    source.parts().try_for_each(|part| check_size(cx.engine, shallow, part.disk.size_bytes))
}

/// Whether a disk of this size may be part of a version.
///
/// # Errors
/// 400 `BadRequest`.
pub(crate) fn check_size(engine: &Engine, shallow: bool, size_bytes: u64) -> Result<(), ArmError> {
    let most = if shallow { MAX_SHALLOW_GIB } else { engine.config().max_image_disk_gib };
    let size = lazuli_arm::bodies::disk::gib_of(size_bytes);
    if size > most {
        return Err(ArmError::bad_request(
            "BadRequest",
            format!("The GalleryImageVersion source resource size {size} exceeds the max size {most} supported."),
        )
        .target("galleryImageVersion.properties.storageProfile"));
    }
    Ok(())
}
