//! Where the bytes of a new disk or snapshot are. Nothing is read here: what is found is referenced with the new row, and
//! moved by `disk.create` or `disk.copy` where the reference alone is not enough.

use super::super::virtual_machine::{ImageSource, resolve_image, resolve_shared};
use crate::db_error;
use crate::operations::disk_copy::CopyParams;
use crate::provider::{Context, Start};
use crate::sources::{self, FoundDisk, SourceDisk, blob, copy_source};
use crate::stored::{DiskInternal, Stored, internal};
use crate::write::operation_of;
use lazuli_arm::bodies::disk::{self, Origin};
use lazuli_arm::bodies::snapshot;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde_json::{Value, json};

/// What a disk or snapshot is made of.
pub(in super::super) struct Source {
    pub found: FoundDisk,
    /// The region whose store has the bytes.
    pub region: String,
    /// The state of a trusted launch guest, which goes with its OS disk.
    pub guest_state: Option<Stored>,
    /// As [`FoundDisk::holder`].
    pub guest_state_holder: Option<String>,
    /// As [`DiskInternal::uefi_settings`].
    pub uefi_settings: Value,
    /// As [`DiskInternal::boot_trace`].
    pub boot_trace: Option<String>,
    /// Properties that the new resource takes over.
    pub properties: Value,
    /// The disk or snapshot, if it is one.
    pub row: Option<Resource>,
    /// Key of what must not be deleted meanwhile.
    pub required: Option<String>,
    /// To be copied in the background.
    pub background: bool,
}

impl Source {
    fn of_disk(source: SourceDisk, background: bool) -> Result<Self, ArmError> {
        let SourceDisk { found, row } = source;
        let state: DiskInternal = internal(&row)?;
        Ok(Self {
            found,
            region: row.location.clone(),
            guest_state_holder: Some(row.key.clone()),
            guest_state: state.guest_state,
            uefi_settings: state.uefi_settings,
            // What was written since is read otherwise.
            boot_trace: None,
            properties: row.body["properties"].clone(),
            required: Some(row.key.clone()),
            row: Some(row),
            background,
        })
    }
}

/// What the new disk or snapshot `id` is made of. `None`: there is nothing yet (an empty disk, an upload).
pub(in super::super) async fn find(
    cx: Context<'_>,
    id: &ResourceId,
    origin: &Origin,
    location: &str,
) -> Result<Option<Source>, ArmError> {
    match origin {
        Origin::Empty | Origin::Upload { .. } => Ok(None),
        Origin::Copy(source) => Source::of_disk(copy_source(cx, source, location).await?, false).map(Some),
        Origin::CopyStart(source) => {
            let row = cx.engine.db().resource(&source.key()).await.map_err(db_error)?;
            let region = row.map_or_else(|| location.to_owned(), |r| r.location);
            Source::of_disk(copy_source(cx, source, &region).await?, true).map(Some)
        }
        Origin::Image { id: image, lun } => {
            let image = resolve_image(cx, &image.to_string(), location).await?;
            image.check_subscription(id, "disk")?;
            from_image(cx, image, *lun, location).await.map(Some)
        }
        Origin::SharedImage { id: image, lun } => {
            let image = resolve_shared(cx, image, &id.subscription, location).await?;
            from_image(cx, image, *lun, location).await.map(Some)
        }
        Origin::Import { uri, account, guest_state_uri } => {
            let found = blob(cx, uri, account.as_ref(), location).await?;
            let (guest_state, guest_state_holder) = match guest_state_uri {
                Some(uri) => {
                    let FoundDisk { base, holder, .. } = blob(cx, uri, account.as_ref(), location).await?;
                    (base, holder)
                }
                None => (None, None),
            };
            Ok(Some(Source {
                found,
                region: location.to_owned(),
                guest_state,
                guest_state_holder,
                uefi_settings: Value::Null,
                boot_trace: None,
                properties: json!({}),
                row: None,
                required: None,
                background: false,
            }))
        }
    }
}

async fn from_image(cx: Context<'_>, image: ImageSource, lun: Option<i64>, location: &str) -> Result<Source, ArmError> {
    let holder = image.version_id.to_ascii_lowercase();
    let described = of_os(&image);
    let stored = match lun {
        None => image.os_disk,
        Some(lun) => {
            let row = cx.engine.db().resource(&holder).await.map_err(db_error)?;
            let row = row.ok_or_else(|| ArmError::internal("an image vanished"))?;
            // Versions and managed images keep them under the same name.
            let disk = row.internal["dataDisks"].get(lun.to_string()).cloned();
            let disk = disk.and_then(|disk| serde_json::from_value::<Stored>(disk).ok());
            disk.ok_or_else(|| {
                ArmError::invalid_parameter("imageReference", "The value of parameter imageReference is invalid.")
            })?
        }
    };
    // A data disk has neither OS nor generation nor firmware.
    let (properties, uefi_settings, boot_trace) = match lun {
        None => (described, image.uefi_settings, image.boot_trace),
        Some(_) => (json!({}), Value::Null, None),
    };
    Ok(Source {
        found: FoundDisk::stored(stored, &holder),
        region: location.to_owned(),
        guest_state: None,
        guest_state_holder: None,
        uefi_settings,
        boot_trace,
        properties,
        row: None,
        required: Some(holder),
        background: false,
    })
}

/// What an OS disk is, as its image says.
fn of_os(image: &ImageSource) -> Value {
    let mut properties = json!({"osType": image.os_type, "hyperVGeneration": image.generation});
    if image.architecture != "x64" {
        properties["supportedCapabilities"] = json!({"architecture": image.architecture});
    }
    properties
}

/// How the bytes of a source come to their new owner.
pub(in super::super) struct Arrival {
    /// Runs before the new resource is `Succeeded`.
    pub start: Option<Start>,
    pub changes: Vec<Change>,
}

/// Takes the source over into a new row: `body` gets what it says of itself, `state` its bytes.
pub(in super::super) fn take_over(
    source: &Source,
    owner: &Owner<'_>,
    body: &mut Value,
    state: &mut DiskInternal,
) -> Result<Arrival, ArmError> {
    snapshot::inherit(body, &source.properties);
    if let Some(row) = &source.row {
        body["properties"]["creationData"]["sourceUniqueId"] = row.body["properties"]["uniqueId"].clone();
    }
    let mut changes: Vec<Change> =
        source.required.iter().map(|key| Change::RequireResource { key: key.clone() }).collect();
    changes.extend(source.found.references(&owner.key, &source.region));
    let holder = source.guest_state_holder.as_deref();
    let kept = source.guest_state.iter();
    changes.extend(kept.flat_map(|s| sources::take_over(holder, &owner.key, &source.region, s)));
    state.uefi_settings.clone_from(&source.uefi_settings);
    state.boot_trace.clone_from(&source.boot_trace);
    if source.background {
        disk::set_completion_percent(body, 0.0);
        changes.push(background(source, owner)?);
        return Ok(Arrival { start: None, changes });
    }
    state.guest_state.clone_from(&source.guest_state);
    if is_stored(&source.found) {
        state.base.clone_from(&source.found.base);
        return Ok(Arrival { start: None, changes });
    }
    state.incomplete = true;
    let params = serde_json::to_value(&source.found).map_err(ArmError::internal)?;
    Ok(Arrival { start: Some(Start { kind: owner.create, params }), changes })
}

/// Whether a reference is all that it takes.
fn is_stored(found: &FoundDisk) -> bool {
    found.overlay.is_none()
}

/// Whoever takes a source over.
pub(in super::super) struct Owner<'a> {
    pub key: String,
    pub subscription: String,
    pub location: &'a str,
    /// Names of its operations.
    pub create: &'static str,
    pub copy: &'static str,
}

impl<'a> Owner<'a> {
    pub(in super::super) fn new(id: &ResourceId, location: &'a str, create: &'static str, copy: &'static str) -> Self {
        Self { key: id.key(), subscription: id.subscription.to_ascii_lowercase(), location, create, copy }
    }
}

/// The operation that copies after the PUT has ended.
fn background(source: &Source, owner: &Owner<'_>) -> Result<Change, ArmError> {
    let params = CopyParams {
        found: source.found.clone(),
        region: source.region.clone(),
        guest_state: source.guest_state.clone(),
    };
    let start = Start { kind: owner.copy, params: serde_json::to_value(params).map_err(ArmError::internal)? };
    let row = Resource {
        key: owner.key.clone(),
        subscription: owner.subscription.clone(),
        location: owner.location.to_owned(),
        ..blank()
    };
    Ok(Change::StartOperation(operation_of(Some(start), &row, "copy")))
}

/// `operation_of` looks at nothing but key, subscription and location of a row with a start.
fn blank() -> Resource {
    Resource {
        key: String::new(),
        sort_key: String::new(),
        id: String::new(),
        kind: String::new(),
        subscription: String::new(),
        resource_group: String::new(),
        parent: None,
        name: String::new(),
        location: String::new(),
        body: Value::Null,
        internal: Value::Null,
        provisioning_state: String::new(),
        etag: String::new(),
        created_ms: 0,
        changed_ms: 0,
    }
}

/// The new disk's size: the source's, or more if the client asked for it.
pub(in super::super) fn fit(path: &str, wanted: Option<u64>, source_bytes: u64) -> Result<u64, ArmError> {
    let rounded = |bytes: u64| disk::gib_of(bytes);
    match wanted {
        Some(wanted) if rounded(wanted) < rounded(source_bytes) => Err(ArmError::invalid_parameter(
            path,
            format!(
                "The disk size of {} GB is smaller than the size of its source, {} GB.",
                rounded(wanted),
                rounded(source_bytes)
            ),
        )),
        Some(wanted) if rounded(wanted) > rounded(source_bytes) => Ok(wanted),
        _ => Ok(source_bytes),
    }
}
