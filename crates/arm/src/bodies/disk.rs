//! `Microsoft.Compute/disks`.
//!
//! ```text
//! createOption   needs                           first state
//! Empty          diskSizeGB                      Unattached
//! Upload         creationData.uploadSizeBytes    ReadyToUpload ─ Write access ─> ActiveUpload ─ end ─> Unattached
//! FromImage      galleryImageReference.id        Unattached
//! Copy           creationData.sourceResourceId   Unattached
//!
//! Unattached <─> Attached (VM runs) <─> Reserved (VM deallocated);  Unattached <─> ActiveSAS (Read access)
//! ```

use super::disk_tiers::{performance, sku_tier};
use super::{Context, Fields, Head, format_time, merge_patch, not_offered, unchanged};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const ROOT: &str = "disk";
const SKUS: [&str; 7] = [
    "Standard_LRS",
    "StandardSSD_LRS",
    "StandardSSD_ZRS",
    "Premium_LRS",
    "Premium_ZRS",
    "PremiumV2_LRS",
    "UltraSSD_LRS",
];
const CREATE_OPTIONS: [&str; 11] = [
    "Empty",
    "Upload",
    "FromImage",
    "Copy",
    "Attach",
    "Import",
    "ImportSecure",
    "Restore",
    "CopyStart",
    "UploadPreparedSecure",
    "CopyFromSanSnapshot",
];
const MAX_GIB: i64 = 32_767;
const GIB: i64 = 1 << 30;
const MIB: i64 = 1 << 20;
/// A fixed VHD's footer, part of `uploadSizeBytes`.
const FOOTER: i64 = 512;
/// Swagger `DiskRP.json`, `uploadSizeBytes`.
const UPLOAD_RANGE: (i64, i64) = (20_972_032, 35_183_298_347_520);

/// `properties.diskState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    Unattached,
    Attached,
    Reserved,
    ActiveSas,
    ReadyToUpload,
    ActiveUpload,
}

impl DiskState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unattached => "Unattached",
            Self::Attached => "Attached",
            Self::Reserved => "Reserved",
            Self::ActiveSas => "ActiveSAS",
            Self::ReadyToUpload => "ReadyToUpload",
            Self::ActiveUpload => "ActiveUpload",
        }
    }

    /// `None` for text that is no state.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [
            Self::Unattached,
            Self::Attached,
            Self::Reserved,
            Self::ActiveSas,
            Self::ReadyToUpload,
            Self::ActiveUpload,
        ];
        all.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text))
    }
}

/// The state of a stored body.
pub fn state(body: &Value) -> Option<DiskState> {
    body["properties"]["diskState"].as_str().and_then(DiskState::parse)
}

pub fn set_state(body: &mut Value, state: DiskState) {
    body["properties"]["diskState"] = state.as_str().into();
}

/// Where a new disk's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Empty,
    /// Size of the VHD to come, with its footer.
    Upload {
        vhd_bytes: u64,
    },
    /// A gallery image version; with a LUN, its data disk.
    Image {
        id: ResourceId,
        lun: Option<i64>,
    },
    /// A disk or snapshot.
    Copy(ResourceId),
}

/// The origin of a stored body. `None` only for bodies that [`put`] did not make.
pub fn origin(body: &Value) -> Option<Origin> {
    let data = &body["properties"]["creationData"];
    let id = |v: &Value| v.as_str()?.parse::<ResourceId>().ok();
    match data["createOption"].as_str()? {
        "Empty" => Some(Origin::Empty),
        "Upload" => Some(Origin::Upload { vhd_bytes: data["uploadSizeBytes"].as_u64()? }),
        "FromImage" => {
            let reference = &data["galleryImageReference"];
            Some(Origin::Image { id: id(&reference["id"])?, lun: reference["lun"].as_i64() })
        }
        "Copy" => Some(Origin::Copy(id(&data["sourceResourceId"])?)),
        _ => None,
    }
}

/// Whole GiB that hold so many bytes, as `diskSizeGB` shows them.
pub fn gib_of(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 30)
}

/// Letters, digits, `_`, `-` and `.`, at most 80, first a letter or digit.
pub fn check_name(name: &str) -> Result<(), ArmError> {
    let ok = name.len() <= 80
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if ok {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(
        "diskName",
        format!(
            "The disk name '{name}' is invalid. It may have up to 80 letters, digits, underscores, dashes and periods, \
             starting with a letter or digit and ending with a letter, digit or underscore."
        ),
    ))
}

/// A new body in its settled form (`diskState` `Unattached` or `ReadyToUpload`), or an update. The size of a disk made
/// from an image or a copy may be absent: the engine then calls [`set_size`] once it knows the source's.
///
/// Errors: `InvalidParameter` for what is missing or out of range; 409 `PropertyChangeNotAllowed` for `creationData`,
/// `hyperVGeneration`; 409 `OperationNotAllowed` for shrinking, and for growing before an upload is finished;
/// `OperationNotSupported` for what this server does not have.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    refuse_what_is_missing(&given)?;
    let sku = new.object("sku")?.one_of("name", &SKUS)?;
    let sku = sku.or_else(|| old.and_then(|o| choice(&SKUS, &o["sku"]["name"]))).unwrap_or("Standard_LRS");
    if sku.ends_with("_ZRS") && !head.region.zones {
        return Err(ArmError::invalid_parameter(
            "disk.sku.name",
            format!(
                "The SKU '{sku}' is not supported in region {}: it has no availability zones.",
                head.region.display_name
            ),
        ));
    }
    let stored = old.map(|o| &o["properties"]);
    let mut properties = described(&given, stored)?;
    let creation = creation_data(&given, stored)?;
    let bytes = size(&given, stored, &creation)?;
    let upload = creation["createOption"] == "Upload";
    properties.insert("creationData".into(), creation);
    match stored {
        Some(stored) => {
            for name in ["timeCreated", "uniqueId", "diskState"] {
                properties.insert(name.into(), stored[name].clone());
            }
        }
        None => {
            properties.insert("timeCreated".into(), format_time(ctx.now).into());
            properties.insert("uniqueId".into(), ctx.new_id.to_string().into());
            let state = if upload { DiskState::ReadyToUpload } else { DiskState::Unattached };
            properties.insert("diskState".into(), state.as_str().into());
        }
    }
    let wanted = given.str("tier")?;
    let mut middle = vec![];
    // Who uses the disk is the engine's word, never the client's.
    if let Some(owner) = old.and_then(|o| o.get("managedBy")) {
        middle.push(("managedBy", owner.clone()));
    }
    if let Some(zones) = zones(&new)? {
        middle.push(("zones", zones));
    }
    middle.push(("sku", json!({"name": sku, "tier": sku_tier(sku)})));
    let mut body = head.body(middle, properties);
    shape(&mut body, bytes, wanted.as_deref());
    Ok(body)
}

/// RFC 7396 without `creationData` (which a PATCH cannot have), then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

/// Gives a stored body its size in bytes once the source is known, and what follows from it.
pub fn set_size(body: &mut Value, bytes: u64) {
    let wanted = body["properties"]["tier"].as_str().map(str::to_owned);
    shape(body, Some(bytes), wanted.as_deref());
}

/// Data bytes of a stored body: its own size, or of an upload to come the VHD's without the footer.
pub fn size_bytes(body: &Value) -> Option<u64> {
    let properties = &body["properties"];
    let upload = || properties["creationData"]["uploadSizeBytes"].as_u64()?.checked_sub(FOOTER.unsigned_abs());
    properties["diskSizeBytes"].as_u64().or_else(upload)
}

/// Size, performance and tier, in Azure's order. An unfinished upload shows performance, but no size (recorded).
fn shape(body: &mut Value, bytes: Option<u64>, wanted: Option<&str>) {
    let sku = body["sku"]["name"].as_str().unwrap_or("Standard_LRS").to_owned();
    let waits = matches!(state(body), Some(DiskState::ReadyToUpload | DiskState::ActiveUpload));
    let upload = body["properties"]["creationData"]["uploadSizeBytes"].as_u64();
    let gib = bytes.or(upload).map(gib_of).and_then(|g| i64::try_from(g).ok());
    let Some(properties) = body["properties"].as_object_mut() else { return };
    for name in ["diskSizeGB", "diskSizeBytes", "diskIOPSReadWrite", "diskMBpsReadWrite", "tier"] {
        properties.shift_remove(name);
    }
    let Some(gib) = gib else { return };
    let performance = performance(&sku, gib, wanted);
    if let Some(bytes) = bytes.filter(|_| !waits) {
        properties.insert("diskSizeGB".into(), gib.into());
        properties.insert("diskSizeBytes".into(), bytes.into());
    }
    properties.insert("diskIOPSReadWrite".into(), performance.iops.into());
    properties.insert("diskMBpsReadWrite".into(), performance.mbps.into());
    if let Some(tier) = performance.tier {
        properties.insert("tier".into(), tier.into());
    }
}

fn choice(of: &[&'static str], stored: &Value) -> Option<&'static str> {
    of.iter().copied().find(|c| stored == *c)
}

/// What only describes the disk: OS, generation, access policies, security.
fn described(given: &Fields<'_>, stored: Option<&Value>) -> Result<Map<String, Value>, ArmError> {
    let mut properties = Map::new();
    let os = given.one_of("osType", &["Linux", "Windows"])?;
    let generation = given.one_of("hyperVGeneration", &["V1", "V2"])?;
    let old = |name: &str| stored.and_then(|s| s.get(name)).cloned();
    if let (Some(generation), Some(old)) = (generation, old("hyperVGeneration"))
        && old != generation
    {
        return Err(ArmError::property_change_not_allowed(&given.path("hyperVGeneration")));
    }
    for (name, value) in [("osType", os), ("hyperVGeneration", generation)] {
        if let Some(value) = value.map(Value::from).or_else(|| old(name)) {
            properties.insert(name.into(), value);
        }
    }
    properties.insert("encryption".into(), json!({"type": "EncryptionAtRestWithPlatformKey"}));
    let policy = given.one_of("networkAccessPolicy", &["AllowAll", "DenyAll"])?.map(Value::from);
    properties.insert(
        "networkAccessPolicy".into(),
        policy.or_else(|| old("networkAccessPolicy")).unwrap_or_else(|| "AllowAll".into()),
    );
    let public = given.one_of("publicNetworkAccess", &["Enabled", "Disabled"])?.map(Value::from);
    properties.insert(
        "publicNetworkAccess".into(),
        public.or_else(|| old("publicNetworkAccess")).unwrap_or_else(|| "Enabled".into()),
    );
    let security = given.object("securityProfile")?;
    if let Some(kind) = security.one_of("securityType", &["Standard", "TrustedLaunch"])? {
        properties.insert("securityProfile".into(), json!({"securityType": kind}));
    }
    let capabilities = given.object("supportedCapabilities")?;
    if let Some(architecture) = capabilities.one_of("architecture", &["x64", "Arm64"])? {
        properties.insert("supportedCapabilities".into(), json!({"architecture": architecture}));
    }
    Ok(properties)
}

fn refuse_what_is_missing(given: &Fields<'_>) -> Result<(), ArmError> {
    let encryption = given.object("encryption")?;
    let kind = encryption.str("type")?;
    if kind.is_some_and(|k| !k.eq_ignore_ascii_case("EncryptionAtRestWithPlatformKey"))
        || encryption.str("diskEncryptionSetId")?.is_some()
    {
        return Err(not_offered(&given.path("encryption"), "this server has no disk encryption sets yet"));
    }
    if given.str("diskAccessId")?.is_some()
        || given.str("networkAccessPolicy")?.is_some_and(|p| p.eq_ignore_ascii_case("AllowPrivate"))
    {
        return Err(not_offered(&given.path("diskAccessId"), "this server has no private links to disks"));
    }
    if given.int("maxShares")?.is_some_and(|n| n > 1) {
        return Err(not_offered(&given.path("maxShares"), "a disk is attached to one virtual machine at a time"));
    }
    Ok(())
}

fn zones(new: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    Ok(new.strings("zones")?.filter(|z| !z.is_empty()).map(Value::from))
}

fn creation_data(given: &Fields<'_>, stored: Option<&Value>) -> Result<Value, ArmError> {
    let data = given.object("creationData")?;
    let option = data.one_of("createOption", &CREATE_OPTIONS)?;
    if let Some(stored) = stored {
        let old = &stored["creationData"];
        for (name, value) in [
            ("createOption", option.map(Value::from)),
            ("sourceResourceId", data.str("sourceResourceId")?.map(Value::from)),
            ("uploadSizeBytes", data.int("uploadSizeBytes")?.map(Value::from)),
        ] {
            unchanged(&data.path(name), value.as_ref(), old.get(name))?;
        }
        let reference = data.object("galleryImageReference")?;
        let id = reference.str("id")?.map(Value::from);
        unchanged(&reference.path("id"), id.as_ref(), old["galleryImageReference"].get("id"))?;
        return Ok(old.clone());
    }
    let Some(option) = option else { return Err(data.missing("createOption")) };
    match option {
        "Empty" => Ok(json!({"createOption": option})),
        "Upload" => Ok(json!({"createOption": option, "uploadSizeBytes": upload_size(&data)?})),
        "FromImage" => Ok(json!({"createOption": option, "galleryImageReference": image_reference(&data)?})),
        "Copy" => {
            let path = data.path("sourceResourceId");
            let source = data.required_str("sourceResourceId")?;
            let kind = source.parse::<ResourceId>().map(|id| id.resource_type().key()).unwrap_or_default();
            if !matches!(kind.as_str(), "microsoft.compute/disks" | "microsoft.compute/snapshots") {
                return Err(ArmError::invalid_parameter(
                    &path,
                    format!("The source id: {source} must be a managed disk or snapshot."),
                ));
            }
            Ok(json!({"createOption": option, "sourceResourceId": source}))
        }
        _ => Err(not_offered(
            &data.path("createOption"),
            "this server makes disks with createOption Empty, Upload, FromImage or Copy",
        )),
    }
}

fn upload_size(data: &Fields<'_>) -> Result<i64, ArmError> {
    let (low, high) = UPLOAD_RANGE;
    let bytes = data.int_within("uploadSizeBytes", low, high)?.ok_or_else(|| data.missing("uploadSizeBytes"))?;
    if (bytes - FOOTER) % MIB == 0 {
        return Ok(bytes);
    }
    let path = data.path("uploadSizeBytes");
    Err(ArmError::invalid_parameter(
        &path,
        format!(
            "The value {bytes} of parameter {path} is invalid. The size of a fixed VHD is a whole number of MiB plus \
             {FOOTER} bytes for its footer; the nearest such sizes are {} and {}.",
            (bytes - FOOTER) / MIB * MIB + FOOTER,
            ((bytes - FOOTER) / MIB + 1) * MIB + FOOTER,
        ),
    ))
}

fn image_reference(data: &Fields<'_>) -> Result<Value, ArmError> {
    let gallery = data.object("galleryImageReference")?;
    for name in ["sharedGalleryImageId", "communityGalleryImageId"] {
        if gallery.str(name)?.is_some() {
            return Err(not_offered(&gallery.path(name), "use the id of an image version"));
        }
    }
    let platform = data.object("imageReference")?;
    // Some clients name a version in imageReference; Azure takes both.
    let fields = if gallery.is_empty() { &platform } else { &gallery };
    let Some(text) = fields.str("id")? else { return Err(gallery.missing("id")) };
    let kind = text.parse::<ResourceId>().map(|id| id.resource_type().key()).unwrap_or_default();
    if !matches!(kind.as_str(), "microsoft.compute/galleries/images/versions" | "microsoft.compute/galleries/images") {
        return Err(ArmError::invalid_parameter(
            &fields.path("id"),
            format!("The image reference '{text}' is not the id of a gallery image version."),
        ));
    }
    let mut reference = json!({"id": text});
    if let Some(lun) = fields.int_within("lun", 0, 63)? {
        reference["lun"] = lun.into();
    }
    Ok(reference)
}

/// The size in bytes; `None` while it is not known.
fn size(given: &Fields<'_>, stored: Option<&Value>, creation: &Value) -> Result<Option<u64>, ArmError> {
    let path = given.path("diskSizeGB");
    let gib = given.int_within("diskSizeGB", 1, MAX_GIB)?;
    let old_bytes = stored.and_then(|s| s["diskSizeBytes"].as_u64());
    let upload = creation["uploadSizeBytes"].as_u64();
    if let (Some(gib), Some(upload), None) = (gib, upload, old_bytes) {
        let expected = gib_of(upload.saturating_sub(FOOTER.unsigned_abs()));
        if gib.unsigned_abs() == expected {
            return Ok(None);
        }
        return Err(ArmError::conflict(
            "OperationNotAllowed",
            format!("The size of a disk that is being uploaded is given by uploadSizeBytes: diskSizeGB {gib} is not {expected}."),
        )
        .target(path));
    }
    let Some(gib) = gib else {
        if creation["createOption"] == "Empty" && stored.is_none() {
            return Err(given.missing("diskSizeGB"));
        }
        return Ok(old_bytes);
    };
    let bytes = (gib * GIB).unsigned_abs();
    match old_bytes {
        // An uploaded disk may be no whole number of GiB; sending its rounded size back does not grow it.
        Some(old) if gib_of(old) == gib.unsigned_abs() => Ok(Some(old)),
        Some(old) if bytes < old => Err(ArmError::conflict(
            "OperationNotAllowed",
            format!(
                "The size of a disk cannot be reduced: diskSizeGB {gib} is less than the current size of {} GB.",
                gib_of(old)
            ),
        )
        .target(path)),
        _ => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests;
