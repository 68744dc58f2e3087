//! `Microsoft.Compute/images`: managed images, one generalized OS disk and data disks by LUN.
//!
//! ```text
//! sourceVirtualMachine.id      the whole of a generalized VM                        ┐ exactly one
//! storageProfile.osDisk, …     managed disks, snapshots, VHD blobs, mixed at will   ┘ of the two
//! ```
//! Everything but the tags is immutable (MI-3…MI-5; wire.md §5).

use super::{Context, Fields, Head, merge_patch, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

const ROOT: &str = "image";
const CACHING: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
const GENERATIONS: [&str; 2] = ["V1", "V2"];
const STORAGE_TYPES: [&str; 7] = [
    "Standard_LRS",
    "Premium_LRS",
    "StandardSSD_LRS",
    "UltraSSD_LRS",
    "Premium_ZRS",
    "StandardSSD_ZRS",
    "PremiumV2_LRS",
];
const MAX_LUN: i64 = 63;
const MAX_GIB: i64 = 32_767;
const MAX_NAME: usize = 80;

/// Where a stored body's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    VirtualMachine(ResourceId),
    Disks { os: DiskSource, data: Vec<(u32, DiskSource)> },
}

/// One disk of a storage profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSource {
    pub place: Place,
    /// What the image's disk is to have at least.
    pub size_gib: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A managed disk or a snapshot.
    Resource(ResourceId),
    Blob(String),
}

/// What an image shows of a disk of the VM it is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisk {
    pub id: String,
    pub caching: String,
    pub storage_account_type: String,
}

/// Letters, digits, `_`, `.` and `-`, at most 80; beginning with a letter or digit, ending with one or `_`.
fn check_name(name: &str) -> Result<(), ArmError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    let last = name.chars().last().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    if first && last && name.len() <= MAX_NAME && name.chars().all(inner) {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(
        "imageName",
        format!(
            "The entity name 'imageName' is invalid according to its validation rule: '{name}' must have 1 to {MAX_NAME} \
             letters, digits, underscores, periods or hyphens, begin with a letter or digit and end with one or an underscore."
        ),
    ))
}

/// A new body, or an update: tags may change, everything else that is given must be what is stored.
///
/// Errors: `InvalidParameter`; 409 `PropertyChangeNotAllowed` (`zoneResilient` in the recorded words);
/// `OperationNotSupported` for disk encryption sets.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    let properties = match old {
        Some(old) => {
            check_unchanged(&given, &old["properties"])?;
            old["properties"].as_object().cloned().unwrap_or_default()
        }
        None => create(&given, head.region.zones, &head.region.display_name)?,
    };
    Ok(head.body(vec![], properties))
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

fn create(given: &Fields<'_>, zones: bool, region: &str) -> Result<Map<String, Value>, ArmError> {
    let mut properties = Map::new();
    let machine = given.object("sourceVirtualMachine")?;
    let profile = given.object("storageProfile")?;
    let mut stored = Map::new();
    if let Some(id) = machine.str("id")? {
        check_kind(&id, &["microsoft.compute/virtualmachines"], "a virtual machine", &machine.path("id"))?;
        if !profile.object("osDisk")?.is_empty() || profile.objects("dataDisks")?.is_some_and(|d| !d.is_empty()) {
            return Err(ArmError::invalid_parameter(
                &profile.path("osDisk"),
                "An image is created either from a virtual machine (sourceVirtualMachine) or from disks, snapshots and blobs \
                 (storageProfile): only one of the two may be given.",
            ));
        }
        properties.insert("sourceVirtualMachine".into(), json!({"id": id}));
    } else {
        stored.insert("osDisk".into(), os_disk(&profile)?);
        stored.insert("dataDisks".into(), data_disks(&profile)?);
    }
    if let Some(resilient) = profile.bool("zoneResilient")? {
        if resilient && !zones {
            return Err(ArmError::invalid_parameter(
                &profile.path("zoneResilient"),
                format!(
                    "Zone resilient images are not supported in region {region}: it has no availability zones. Create the \
                     image without zoneResilient or in another region."
                ),
            ));
        }
        stored.insert("zoneResilient".into(), resilient.into());
    }
    properties.insert("storageProfile".into(), Value::Object(stored));
    if let Some(generation) = given.one_of("hyperVGeneration", &GENERATIONS)? {
        properties.insert("hyperVGeneration".into(), generation.into());
    }
    Ok(properties)
}

fn check_kind(id: &str, kinds: &[&str], what: &str, path: &str) -> Result<(), ArmError> {
    let kind = id.parse::<ResourceId>().ok().map(|id| id.resource_type().key());
    if kind.is_some_and(|k| kinds.contains(&k.as_str())) {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(
        path,
        format!("The value '{id}' of parameter '{path}' is invalid: the id of {what} is expected."),
    ))
}

fn os_disk(profile: &Fields<'_>) -> Result<Value, ArmError> {
    let given = profile.object("osDisk")?;
    if given.is_empty() {
        return Err(profile.missing("osDisk"));
    }
    let os_type = given.one_of("osType", &["Linux", "Windows"])?.ok_or_else(|| given.missing("osType"))?;
    match given.one_of("osState", &["Generalized", "Specialized"])? {
        None => return Err(given.missing("osState")),
        Some("Generalized") => {}
        Some(other) => {
            return Err(ArmError::invalid_parameter(
                &given.path("osState"),
                format!(
                    "The value '{other}' of parameter '{}' is not allowed: managed images can only be created from a \
                     generalized source. Use an image version of a compute gallery for specialized ones.",
                    given.path("osState")
                ),
            ));
        }
    }
    let mut shown = Map::from_iter([
        ("osType".to_owned(), Value::from(os_type)),
        ("osState".to_owned(), Value::from("Generalized")),
    ]);
    disk(&given, &mut shown)?;
    Ok(Value::Object(shown))
}

fn data_disks(profile: &Fields<'_>) -> Result<Value, ArmError> {
    let mut luns = HashSet::new();
    let mut disks = Vec::new();
    for item in profile.objects("dataDisks")?.unwrap_or_default() {
        let lun = item.int_within("lun", 0, MAX_LUN)?.ok_or_else(|| item.missing("lun"))?;
        if !luns.insert(lun) {
            return Err(ArmError::invalid_parameter(
                &item.path("lun"),
                format!("A disk at LUN {lun} already exists. Every data disk needs a LUN of its own."),
            ));
        }
        let mut shown = Map::from_iter([("lun".to_owned(), Value::from(lun))]);
        disk(&item, &mut shown)?;
        disks.push(Value::Object(shown));
    }
    Ok(Value::Array(disks))
}

/// What OS and data disks have in common, in the recorded order of members.
fn disk(given: &Fields<'_>, shown: &mut Map<String, Value>) -> Result<(), ArmError> {
    if !given.object("diskEncryptionSet")?.is_empty() {
        return Err(not_offered(&given.path("diskEncryptionSet"), "this server has no disk encryption sets yet"));
    }
    if let Some(size) = given.int_within("diskSizeGB", 1, MAX_GIB)? {
        shown.insert("diskSizeGB".into(), size.into());
    }
    let mut places = 0;
    for (name, kind, what) in [
        ("managedDisk", "microsoft.compute/disks", "a managed disk"),
        ("snapshot", "microsoft.compute/snapshots", "a snapshot"),
    ] {
        let source = given.object(name)?;
        if let Some(id) = source.str("id")? {
            check_kind(&id, &[kind], what, &source.path("id"))?;
            shown.insert(name.into(), json!({"id": id}));
            places += 1;
        }
    }
    if let Some(uri) = given.str("blobUri")? {
        shown.insert("blobUri".into(), uri.into());
        places += 1;
    }
    if places != 1 {
        return Err(ArmError::invalid_parameter(
            &given.path("managedDisk"),
            "Every disk of an image needs exactly one source: managedDisk, snapshot or blobUri.",
        ));
    }
    let storage = given.one_of("storageAccountType", &STORAGE_TYPES)?.unwrap_or("Standard_LRS");
    // Azure's documented default; recorded: None with Standard_LRS.
    let default = if storage.starts_with("Premium") { "ReadOnly" } else { "None" };
    shown.insert("caching".into(), given.one_of("caching", &CACHING)?.unwrap_or(default).into());
    shown.insert("storageAccountType".into(), storage.into());
    Ok(())
}

fn check_unchanged(given: &Fields<'_>, stored: &Value) -> Result<(), ArmError> {
    let profile = given.object("storageProfile")?;
    let old = &stored["storageProfile"];
    if let Some(resilient) = profile.bool("zoneResilient")?
        && resilient != old["zoneResilient"].as_bool().unwrap_or(false)
    {
        return Err(ArmError::property_change_not_allowed("zoneResilient"));
    }
    if let Some(generation) = given.str("hyperVGeneration")? {
        same("hyperVGeneration", &generation, &stored["hyperVGeneration"])?;
    }
    if let Some(id) = given.object("sourceVirtualMachine")?.str("id")? {
        same("sourceVirtualMachine.id", &id, &stored["sourceVirtualMachine"]["id"])?;
    }
    disk_unchanged("osDisk", &profile.object("osDisk")?, &old["osDisk"])?;
    let Some(disks) = profile.objects("dataDisks")? else { return Ok(()) };
    let known = old["dataDisks"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    if disks.len() != known.len() {
        return Err(ArmError::property_change_not_allowed("dataDisks"));
    }
    for item in &disks {
        let lun = item.int("lun")?;
        let Some(old) = known.iter().find(|d| lun.is_some() && d["lun"].as_i64() == lun) else {
            return Err(ArmError::property_change_not_allowed("dataDisks.lun"));
        };
        disk_unchanged("dataDisks", item, old)?;
    }
    Ok(())
}

fn disk_unchanged(name: &str, given: &Fields<'_>, old: &Value) -> Result<(), ArmError> {
    for member in ["osType", "osState", "blobUri", "caching", "storageAccountType"] {
        if let Some(text) = given.str(member)? {
            same(&format!("{name}.{member}"), &text, &old[member])?;
        }
    }
    for member in ["managedDisk", "snapshot"] {
        if let Some(text) = given.object(member)?.str("id")? {
            same(&format!("{name}.{member}.id"), &text, &old[member]["id"])?;
        }
    }
    match given.int("diskSizeGB")? {
        Some(size) if old["diskSizeGB"].as_i64() != Some(size) => {
            Err(ArmError::property_change_not_allowed(&format!("{name}.diskSizeGB")))
        }
        _ => Ok(()),
    }
}

fn same(path: &str, given: &str, old: &Value) -> Result<(), ArmError> {
    match old.as_str() {
        Some(old) if old.eq_ignore_ascii_case(given) => Ok(()),
        _ => Err(ArmError::property_change_not_allowed(path)),
    }
}

/// The source of a stored body. `None` only for bodies that [`put`] did not make.
pub fn source(body: &Value) -> Option<Source> {
    let properties = &body["properties"];
    if let Some(id) = properties["sourceVirtualMachine"]["id"].as_str() {
        return id.parse().ok().map(Source::VirtualMachine);
    }
    let profile = &properties["storageProfile"];
    let disk = |v: &Value| {
        let id = v["managedDisk"]["id"].as_str().or(v["snapshot"]["id"].as_str());
        let place = match id {
            Some(id) => Place::Resource(id.parse().ok()?),
            None => Place::Blob(v["blobUri"].as_str()?.to_owned()),
        };
        Some(DiskSource { place, size_gib: v["diskSizeGB"].as_u64() })
    };
    let data = profile["dataDisks"].as_array().into_iter().flatten();
    let data = data.map(|d| Some((u32::try_from(d["lun"].as_u64()?).ok()?, disk(d)?))).collect::<Option<_>>()?;
    Some(Source::Disks { os: disk(&profile["osDisk"])?, data })
}

/// Fills the storage profile of an image of a VM from the VM's disks (recorded: all but the sizes are shown at once).
pub fn describe_machine(body: &mut Value, os_type: &str, os: &MachineDisk, data: &[(u32, MachineDisk)]) {
    let members = |disk: &MachineDisk, shown: &mut Map<String, Value>| {
        shown.insert("managedDisk".into(), json!({"id": disk.id}));
        shown.insert("caching".into(), disk.caching.clone().into());
        shown.insert("storageAccountType".into(), disk.storage_account_type.clone().into());
    };
    let mut os_disk = Map::from_iter([
        ("osType".to_owned(), Value::from(os_type)),
        ("osState".to_owned(), Value::from("Generalized")),
    ]);
    members(os, &mut os_disk);
    let data_disks = data.iter().map(|(lun, disk)| {
        let mut shown = Map::from_iter([("lun".to_owned(), Value::from(*lun))]);
        members(disk, &mut shown);
        Value::Object(shown)
    });
    let mut profile =
        Map::from_iter([("osDisk".to_owned(), Value::Object(os_disk)), ("dataDisks".to_owned(), data_disks.collect())]);
    if let Some(resilient) = body["properties"]["storageProfile"].get("zoneResilient") {
        profile.insert("zoneResilient".into(), resilient.clone());
    }
    body["properties"]["storageProfile"] = Value::Object(profile);
}

/// The generation of the image; `of_source` fills it where the client gave none, and must fit where it did.
///
/// Errors: `InvalidParameter` on a mismatch.
pub fn settle_generation(body: &mut Value, of_source: Option<&str>, source: &str) -> Result<(), ArmError> {
    let given = body["properties"]["hyperVGeneration"].as_str();
    match (given, of_source) {
        (Some(given), Some(found)) if given != found => Err(ArmError::invalid_parameter(
            "image.properties.hyperVGeneration",
            format!(
                "The value '{given}' of parameter 'hyperVGeneration' is invalid: the source '{source}' has Hypervisor \
                 generation '{found}'."
            ),
        )),
        (Some(_), _) => Ok(()),
        (None, found) => {
            body["properties"]["hyperVGeneration"] = found.unwrap_or("V1").into();
            Ok(())
        }
    }
}

/// `Linux` or `Windows`.
pub fn os_type(body: &Value) -> &str {
    body["properties"]["storageProfile"]["osDisk"]["osType"].as_str().unwrap_or("Linux")
}

/// `V1` or `V2`.
pub fn generation(body: &Value) -> &str {
    body["properties"]["hyperVGeneration"].as_str().unwrap_or("V1")
}

/// Shows the sizes of the image's disks, once they are known, after `osState` or `lun` (recorded order).
pub fn show_sizes(body: &mut Value, os_gib: u64, data_gib: impl Fn(u32) -> Option<u64>) {
    let profile = &mut body["properties"]["storageProfile"];
    show_size(&mut profile["osDisk"], "osState", os_gib);
    for disk in profile["dataDisks"].as_array_mut().into_iter().flatten() {
        let lun = disk["lun"].as_u64().and_then(|l| u32::try_from(l).ok());
        if let Some(gib) = lun.and_then(&data_gib) {
            show_size(disk, "lun", gib);
        }
    }
}

fn show_size(disk: &mut Value, after: &str, gib: u64) {
    let Some(old) = disk.as_object_mut() else { return };
    let mut shown = Map::new();
    for (name, value) in old.iter().filter(|(name, _)| *name != "diskSizeGB") {
        shown.insert(name.clone(), value.clone());
        if name == after {
            shown.insert("diskSizeGB".into(), gib.into());
        }
    }
    *old = shown;
}

#[cfg(test)]
mod tests;
