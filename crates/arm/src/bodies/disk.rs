//! `Microsoft.Compute/disks`.
//!
//! ```text
//! createOption          needs                            first state
//! Empty                 diskSizeGB                       Unattached
//! Upload                creationData.uploadSizeBytes     ReadyToUpload ─ Write access ─> ActiveUpload ─ end ─> Unattached
//! UploadPreparedSecure  as Upload, securityProfile       the same, with a second blob: the guest's state
//! FromImage             galleryImageReference or
//!                       imageReference                   Unattached
//! Copy, Restore         creationData.sourceResourceId    Unattached
//! CopyStart             the same, in another region      Unattached, completionPercent grows
//! Import, ImportSecure  creationData.sourceUri           Unattached
//!
//! Unattached <─> Attached (VM runs) <─> Reserved (VM deallocated);  Unattached <─> ActiveSAS (Read access)
//! ```

mod creation;
mod described;
mod echo;

pub use creation::Origin;
pub(super) use creation::{Kind, creation_data};
pub(super) use described::described;
pub use echo::echo;

use super::disk_tiers::{
    can_burst, can_plus, check_tier, is_provisioned, max_shares, performance, provisioned_limits, sku_tier,
};
use super::{Context, Fields, Head, check_zones, format_time, merge_patch, not_offered, out_of_range};
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
const MAX_GIB: i64 = 32_767;
const GIB: i64 = 1 << 30;
/// A fixed VHD's footer, part of `uploadSizeBytes`.
const FOOTER: i64 = 512;
/// Set by the engine or by Azure's rules; an update keeps them.
const KEPT: [&str; 7] = [
    "timeCreated",
    "uniqueId",
    "diskState",
    "completionPercent",
    "copyCompletionError",
    "burstingEnabledTime",
    "LastOwnershipUpdateTime",
];

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

/// The state of a disk that nobody reads: with a machine it is `Reserved` (a running one would have kept readers away).
pub fn idle_state(body: &Value) -> DiskState {
    if body["managedBy"].is_string() { DiskState::Reserved } else { DiskState::Unattached }
}

pub fn set_state(body: &mut Value, state: DiskState) {
    body["properties"]["diskState"] = state.as_str().into();
}

/// The origin of a stored body. `None` only for bodies that [`put`] did not make.
pub fn origin(body: &Value) -> Option<Origin> {
    creation::origin(body)
}

/// How far a copy from another region is, in per cent; `None` where there is none.
pub fn completion_percent(body: &Value) -> Option<f64> {
    body["properties"]["completionPercent"].as_f64()
}

pub fn set_completion_percent(body: &mut Value, percent: f64) {
    body["properties"]["completionPercent"] = percent.into();
}

/// The copy from another region failed: `code` is one of Swagger's `CopyCompletionErrorReason`.
pub fn set_copy_error(body: &mut Value, code: &str, message: &str) {
    body["properties"]["copyCompletionError"] = json!({"errorCode": code, "errorMessage": message});
}

/// Whether the background copy of a stored body is not done (or failed): its bytes cannot be used.
pub fn is_copying(body: &Value) -> bool {
    completion_percent(body).is_some_and(|percent| percent < 100.0)
}

/// The disk access resource that a stored body names.
pub fn disk_access(body: &Value) -> Option<ResourceId> {
    body["properties"]["diskAccessId"].as_str()?.parse().ok()
}

/// Whole GiB that hold so many bytes, as `diskSizeGB` shows them.
pub fn gib_of(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 30)
}

/// Letters, digits, `_`, `-` and `.`, at most 80, first a letter or digit.
pub fn check_name(name: &str) -> Result<(), ArmError> {
    check_named("diskName", "disk", name)
}

/// As [`check_name`], for the other types of this resource provider.
pub(super) fn check_named(parameter: &str, what: &str, name: &str) -> Result<(), ArmError> {
    let ok = name.len() <= 80
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if ok {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(
        parameter,
        format!(
            "The {what} name '{name}' is invalid. It may have up to 80 letters, digits, underscores, dashes and periods, \
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
    no_edge_zone(&new)?;
    let given = new.object("properties")?;
    let sku = sku_of(&new, old, &SKUS)?.unwrap_or("Standard_LRS");
    if sku.ends_with("_ZRS") && !head.region.zones {
        return Err(no_zones("disk.sku.name", sku, &head.region.display_name));
    }
    let stored = old.map(|o| &o["properties"]);
    let mut properties = described(&given, stored)?;
    let creation = creation_data(&given, stored, Kind::Disk, sku)?;
    let bytes = size(&given, stored, &creation)?;
    let upload = creation["uploadSizeBytes"].is_number();
    if creation["createOption"] == "UploadPreparedSecure" && properties.get("securityProfile").is_none() {
        return Err(given.object("securityProfile")?.missing("securityType"));
    }
    check_generation(&given, &properties)?;
    let gib = bytes.or_else(|| creation["uploadSizeBytes"].as_u64()).map(gib_of).and_then(|g| i64::try_from(g).ok());
    let wanted = Wanted::read(&given, old, sku, gib)?;
    if creation["performancePlus"] == true && stored.is_none() && gib.is_some_and(|gib| !can_plus(sku, gib)) {
        return Err(no_performance_plus(sku));
    }
    properties.insert("creationData".into(), creation);
    options(&given, stored, sku, gib, &mut properties, ctx)?;
    match stored {
        Some(stored) => {
            for name in KEPT {
                if let Some(value) = stored.get(name).filter(|_| !properties.contains_key(name)) {
                    properties.insert(name.into(), value.clone());
                }
            }
        }
        None => {
            properties.insert("timeCreated".into(), format_time(ctx.now).into());
            properties.insert("uniqueId".into(), ctx.new_id.to_string().into());
            let state = if upload { DiskState::ReadyToUpload } else { DiskState::Unattached };
            properties.insert("diskState".into(), state.as_str().into());
        }
    }
    let mut middle = vec![];
    // Who uses the disk is the engine's word, never the client's.
    if let Some(owner) = old.and_then(|o| o.get("managedBy")) {
        middle.push(("managedBy", owner.clone()));
    }
    if let Some(zones) = zones(id, &new, old, &head)? {
        middle.push(("zones", zones));
    }
    middle.push(("sku", json!({"name": sku, "tier": sku_tier(sku)})));
    let mut body = head.body(middle, properties);
    shape(&mut body, bytes, &wanted);
    Ok(body)
}

/// Azure's code and words where the disk is too small (kubernetes-sigs/azuredisk-csi-driver, pull request 1894). It says 512 GB, and
/// means more than that (issue 1949).
fn no_performance_plus(sku: &str) -> ArmError {
    let message = if is_provisioned(sku) {
        format!("The performancePlus flag cannot be set on disks of SKU '{sku}', whose performance is chosen.")
    } else {
        "The performancePlus flag can only be set on disks at least 512 GB in size.".to_owned()
    };
    ArmError::bad_request("BadRequest", message).target("disk.properties.creationData.performancePlus")
}

/// What a client chose of a disk's performance.
#[derive(Debug, Default)]
struct Wanted {
    tier: Option<String>,
    iops: Option<i64>,
    mbps: Option<i64>,
}

impl Wanted {
    /// IOPS and MBps count for the SKUs that let one choose them; to others clients send back what they were shown.
    fn read(given: &Fields<'_>, old: Option<&Value>, sku: &str, gib: Option<i64>) -> Result<Self, ArmError> {
        let tier = given.str("tier")?;
        if let (Some(tier), Some(gib)) = (&tier, gib) {
            check_tier(&given.path("tier"), sku, gib, tier)?;
        }
        if !is_provisioned(sku) {
            return Ok(Self { tier, ..Self::default() });
        }
        let (most_iops, most_mbps) = provisioned_limits(sku);
        let same = old.filter(|o| o["sku"]["name"] == sku);
        let stored = |name: &str| same.and_then(|o| o["properties"][name].as_i64());
        Ok(Self {
            tier: None,
            iops: given.int_within("diskIOPSReadWrite", 100, most_iops)?.or_else(|| stored("diskIOPSReadWrite")),
            mbps: given.int_within("diskMBpsReadWrite", 1, most_mbps)?.or_else(|| stored("diskMBpsReadWrite")),
        })
    }

    /// What a stored body was given.
    fn of(body: &Value) -> Self {
        let properties = &body["properties"];
        let provisioned = body["sku"]["name"].as_str().is_some_and(is_provisioned);
        let number = |name: &str| properties[name].as_i64().filter(|_| provisioned);
        Self {
            tier: properties["tier"].as_str().map(str::to_owned),
            iops: number("diskIOPSReadWrite"),
            mbps: number("diskMBpsReadWrite"),
        }
    }
}

/// RFC 7396 without `creationData` (which a PATCH cannot have), then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

/// Gives a stored body its size in bytes once the source is known, and what follows from it.
pub fn set_size(body: &mut Value, bytes: u64) {
    let wanted = Wanted::of(body);
    shape(body, Some(bytes), &wanted);
}

/// Data bytes of a stored body: its own size, or of an upload to come the VHD's without the footer.
pub fn size_bytes(body: &Value) -> Option<u64> {
    let properties = &body["properties"];
    let upload = || properties["creationData"]["uploadSizeBytes"].as_u64()?.checked_sub(FOOTER.unsigned_abs());
    properties["diskSizeBytes"].as_u64().or_else(upload)
}

/// Size, performance and tier, in Azure's order. An unfinished upload shows performance, but no size (recorded).
fn shape(body: &mut Value, bytes: Option<u64>, wanted: &Wanted) {
    let sku = body["sku"]["name"].as_str().unwrap_or("Standard_LRS").to_owned();
    let waits = matches!(state(body), Some(DiskState::ReadyToUpload | DiskState::ActiveUpload));
    let upload = body["properties"]["creationData"]["uploadSizeBytes"].as_u64();
    let gib = bytes.or(upload).map(gib_of).and_then(|g| i64::try_from(g).ok());
    let plus = body["properties"]["creationData"]["performancePlus"] == true;
    let Some(properties) = body["properties"].as_object_mut() else { return };
    for name in ["diskSizeGB", "diskSizeBytes", "diskIOPSReadWrite", "diskMBpsReadWrite", "tier"] {
        properties.shift_remove(name);
    }
    let Some(gib) = gib else { return };
    let performance = performance(&sku, gib, wanted.tier.as_deref(), plus);
    if let Some(bytes) = bytes.filter(|_| !waits) {
        properties.insert("diskSizeGB".into(), gib.into());
        properties.insert("diskSizeBytes".into(), bytes.into());
    }
    properties.insert("diskIOPSReadWrite".into(), wanted.iops.unwrap_or(performance.iops).into());
    properties.insert("diskMBpsReadWrite".into(), wanted.mbps.unwrap_or(performance.mbps).into());
    if let Some(tier) = performance.tier {
        properties.insert("tier".into(), tier.into());
    }
}

fn choice(of: &[&'static str], stored: &Value) -> Option<&'static str> {
    of.iter().copied().find(|c| stored == *c)
}

/// `sku.name` as given, else as stored.
pub(super) fn sku_of(
    new: &Fields<'_>,
    old: Option<&Value>,
    skus: &[&'static str],
) -> Result<Option<&'static str>, ArmError> {
    let given = new.object("sku")?.one_of("name", skus)?;
    Ok(given.or_else(|| old.and_then(|o| choice(skus, &o["sku"]["name"]))))
}

pub(super) fn no_zones(path: &str, sku: &str, region: &str) -> ArmError {
    ArmError::invalid_parameter(
        path,
        format!("The SKU '{sku}' is not supported in region {region}: it has no availability zones."),
    )
}

pub(super) fn no_edge_zone(new: &Fields<'_>) -> Result<(), ArmError> {
    if new.object("extendedLocation")?.is_empty() {
        return Ok(());
    }
    Err(not_offered(&new.path("extendedLocation"), "this server has no edge zones"))
}

/// Trusted launch boots UEFI guests only.
fn check_generation(given: &Fields<'_>, properties: &Map<String, Value>) -> Result<(), ArmError> {
    let trusted = properties.get("securityProfile").is_some_and(|p| p["securityType"] == "TrustedLaunch");
    if trusted && properties.get("hyperVGeneration").is_some_and(|g| g == "V1") {
        let path = given.path("hyperVGeneration");
        return Err(ArmError::invalid_parameter(
            &path,
            format!(
                "The value 'V1' of parameter {path} is invalid: security type 'TrustedLaunch' needs generation V2."
            ),
        ));
    }
    Ok(())
}

/// Switches and limits that only disks have.
fn options(
    given: &Fields<'_>,
    stored: Option<&Value>,
    sku: &str,
    gib: Option<i64>,
    properties: &mut Map<String, Value>,
    ctx: &Context<'_>,
) -> Result<(), ArmError> {
    let old = |name: &str| stored.and_then(|s| s.get(name)).cloned();
    let most = gib.map_or(15, |gib| max_shares(sku, gib));
    let shares = given.int("maxShares")?;
    if let Some(shares) = shares.filter(|n| !(1..=most).contains(n)) {
        return Err(out_of_range(&given.path("maxShares"), shares, 1, most));
    }
    if let Some(shares) = shares.map(Value::from).or_else(|| old("maxShares")) {
        properties.insert("maxShares".into(), shares);
    }
    let bursts = given.bool("burstingEnabled")?;
    if bursts == Some(true) && gib.is_some_and(|gib| !can_burst(sku, gib)) {
        return Err(ArmError::invalid_parameter(
            &given.path("burstingEnabled"),
            "On-demand bursting can only be enabled on Premium SSD disks that are larger than 512 GiB.",
        ));
    }
    if let Some(bursts) = bursts.map(Value::from).or_else(|| old("burstingEnabled")) {
        if bursts == true && old("burstingEnabled") != Some(true.into()) {
            properties.insert("burstingEnabledTime".into(), format_time(ctx.now).into());
        }
        properties.insert("burstingEnabled".into(), bursts);
    }
    if let Some(value) = given.bool("optimizedForFrequentAttach")?.map(Value::from) {
        properties.insert("optimizedForFrequentAttach".into(), value);
    } else if let Some(value) = old("optimizedForFrequentAttach") {
        properties.insert("optimizedForFrequentAttach".into(), value);
    }
    let policy = given.object("availabilityPolicy")?.one_of("actionOnDiskDelay", &["None", "AutomaticReattach"])?;
    let policy = policy.map(|action| json!({"actionOnDiskDelay": action}));
    if let Some(policy) = policy.or_else(|| old("availabilityPolicy")) {
        properties.insert("availabilityPolicy".into(), policy);
    }
    if is_provisioned(sku) {
        let (most_iops, most_mbps) = provisioned_limits(sku);
        for (name, most) in [("diskIOPSReadOnly", most_iops), ("diskMBpsReadOnly", most_mbps)] {
            if let Some(value) = given.int_within(name, 1, most)?.map(Value::from).or_else(|| old(name)) {
                properties.insert(name.into(), value);
            }
        }
    }
    Ok(())
}

/// A disk stays in its zone.
fn zones(id: &ResourceId, new: &Fields<'_>, old: Option<&Value>, head: &Head) -> Result<Option<Value>, ArmError> {
    let given = new.strings("zones")?.filter(|z| !z.is_empty());
    let Some(old) = old else {
        given.iter().try_for_each(|zones| check_zones(id, zones, 1, &head.region))?;
        return Ok(given.map(Value::from));
    };
    let (given, stored) = (given.map(Value::from), old.get("zones").cloned());
    if given.is_some() && given != stored {
        return Err(ArmError::property_change_not_allowed(&new.path("zones")));
    }
    Ok(given.or(stored))
}

/// The size in bytes; `None` while it is not known.
pub(super) fn size(given: &Fields<'_>, stored: Option<&Value>, creation: &Value) -> Result<Option<u64>, ArmError> {
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
