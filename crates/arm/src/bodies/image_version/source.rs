//! `storageProfile`: the one source of an image version.
//!
//! ```text
//! source.id                        managed image, VM or version   ┐
//! source.virtualMachineId          VM (2023-07-03+)               │ exactly one
//! source.communityGalleryImageId   community image                │ of these four
//! osDiskImage, dataDiskImages      disks, snapshots or VHD blobs  ┘
//! publishingProfile.source.managedImage.id   (2019-03-01) reads as source.id
//! ```

use super::super::Fields;
use super::super::shared_gallery::{SharedImageId, shared_reference};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

const CACHING: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
const MAX_LUN: i64 = 63;
const COMMUNITY: &str = "communityGalleryImageId";

/// Where a stored body's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A managed image, a VM or another version.
    Resource(ResourceId),
    VirtualMachine(ResourceId),
    /// An image of a community gallery.
    Community(SharedImageId),
    Disks {
        os: Option<DiskOrBlob>,
        data: Vec<DataDisk>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOrBlob {
    Resource(ResourceId),
    Blob { uri: String, storage_account: Option<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDisk {
    pub lun: u32,
    pub source: DiskOrBlob,
}

/// The source of a stored body. `None` only for bodies that [`super::put`] did not make.
pub fn source(body: &Value) -> Option<Source> {
    let profile = &body["properties"]["storageProfile"];
    let id = |v: &Value| v.as_str().and_then(|s| s.parse::<ResourceId>().ok());
    if let Some(id) = id(&profile["source"]["id"]) {
        return Some(Source::Resource(id));
    }
    if let Some(id) = id(&profile["source"]["virtualMachineId"]) {
        return Some(Source::VirtualMachine(id));
    }
    if let Some(id) = SharedImageId::of_reference(&profile["source"]) {
        return Some(Source::Community(id));
    }
    let disk = |v: &Value| {
        let text = |name: &str| v["source"][name].as_str().map(str::to_owned);
        match text("uri") {
            // Old clients name the storage account in `id`.
            Some(uri) => {
                Some(DiskOrBlob::Blob { uri, storage_account: text("storageAccountId").or_else(|| text("id")) })
            }
            None => id(&v["source"]["id"]).map(DiskOrBlob::Resource),
        }
    };
    let data = profile["dataDiskImages"].as_array().into_iter().flatten();
    let data: Vec<DataDisk> = data
        .filter_map(|d| Some(DataDisk { lun: u32::try_from(d["lun"].as_u64()?).ok()?, source: disk(d)? }))
        .collect();
    let os = disk(&profile["osDiskImage"]);
    (os.is_some() || !data.is_empty()).then_some(Source::Disks { os, data })
}

pub(super) fn storage_profile(properties: &Fields<'_>, old: Option<&Value>) -> Result<Value, ArmError> {
    let given = properties.object("storageProfile")?;
    let whole = whole_source(properties, &given)?;
    match old.map(|o| &o["storageProfile"]) {
        None => create(&given, whole),
        Some(stored) => {
            update(&given, whole.as_ref(), stored)?;
            Ok(stored.clone())
        }
    }
}

/// `{"id": …}`, `{"virtualMachineId": …}` or `{"communityGalleryImageId": …}`, checked; `None` when there is no source for the
/// whole profile.
fn whole_source(properties: &Fields<'_>, given: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let source = given.object("source")?;
    let legacy = properties.object("publishingProfile")?.object("source")?.object("managedImage")?.str("id")?;
    let id = source.str("id")?.or(legacy);
    let vm = source.str("virtualMachineId")?;
    match (id, vm, community_source(&source)?) {
        (Some(id), None, None) => {
            check_kind(
                &id,
                &[
                    "microsoft.compute/images",
                    "microsoft.compute/virtualmachines",
                    "microsoft.compute/galleries/images/versions",
                ],
                "must either be a managed image, virtual machine or another gallery image version",
                &source.path("id"),
            )?;
            Ok(Some(json!({"id": id})))
        }
        (None, Some(vm), None) => {
            let path = source.path("virtualMachineId");
            check_kind(&vm, &["microsoft.compute/virtualmachines"], "must be a virtual machine", &path)?;
            Ok(Some(json!({"virtualMachineId": vm})))
        }
        (None, None, shared) => Ok(shared),
        _ => Err(one_source_only(given)),
    }
}

/// An image of a community gallery, with or without a version (Swagger example `…_WithCommunityImageVersionAsSource`).
fn community_source(source: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    match source.str(COMMUNITY)? {
        Some(_) => shared_reference(source),
        None => Ok(None),
    }
}

fn check_kind(id: &str, kinds: &[&str], must: &str, path: &str) -> Result<(), ArmError> {
    let Ok(parsed) = id.parse::<ResourceId>() else {
        let below_root = path.split_once('.').map_or(path, |(_, rest)| rest);
        let message = format!(
            "Property id '{id}' at path '{below_root}' is invalid. Expect fully qualified resource Id that start with \
             '/subscriptions/{{subscriptionId}}' or '/providers/{{resourceProviderNamespace}}/'."
        );
        return Err(ArmError::bad_request("LinkedInvalidPropertyId", message).target(path));
    };
    if kinds.contains(&parsed.resource_type().key().as_str()) {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(path, format!("The source id: {id} {must}.")))
}

fn one_source_only(given: &Fields<'_>) -> ArmError {
    ArmError::invalid_parameter(
        &given.path("source"),
        "The gallery artifact version source can only be specified either directly under storageProfile or within \
         individual OS or data disks. One and only one source type (user image, snapshot, disk, virtual machine) can be \
         provided.",
    )
}

fn create(given: &Fields<'_>, whole: Option<Value>) -> Result<Value, ArmError> {
    let os = given.object("osDiskImage")?;
    let data = given.objects("dataDiskImages")?.unwrap_or_default();
    let os_source = os.object("source")?;
    let disks_have_source =
        !os_source.is_empty() || data.iter().any(|d| d.object("source").is_ok_and(|s| !s.is_empty()));
    if let Some(whole) = whole {
        if disks_have_source {
            return Err(one_source_only(given));
        }
        return Ok(json!({"source": whole}));
    }
    if !disks_have_source {
        return Err(one_source_only(given));
    }
    let os_disk = disk(&os, "ReadWrite")?;
    let os_place = place(&os_disk);
    let mut profile = Map::new();
    profile.insert("osDiskImage".into(), os_disk);
    let (mut luns, mut places) = (HashSet::new(), HashSet::new());
    let mut disks = Vec::new();
    for item in &data {
        let lun = item.int_within("lun", 0, MAX_LUN)?.ok_or_else(|| item.missing("lun"))?;
        if !luns.insert(lun) {
            return Err(ArmError::invalid_parameter(
                &item.path("lun"),
                "Duplicated lun numbers have been detected in the input data disks. Lun number must be unique for each data disk.",
            ));
        }
        let disk = disk(item, "ReadOnly")?;
        let place = place(&disk);
        if place == os_place {
            return Err(ArmError::invalid_parameter(
                &item.path("source"),
                format!("OSDiskImage and DataDiskImage cannot point to same blob {place}."),
            ));
        }
        if !places.insert(place) {
            return Err(ArmError::invalid_parameter(
                &item.path("source"),
                "Duplicated source ids are found in the input disks. Source id should be unique for each disk.",
            ));
        }
        let mut shown = Map::from_iter([("lun".to_owned(), lun.into())]);
        shown.extend(disk.as_object().cloned().unwrap_or_default());
        disks.push(Value::Object(shown));
    }
    if !disks.is_empty() {
        profile.insert("dataDiskImages".into(), Value::Array(disks));
    }
    Ok(Value::Object(profile))
}

/// `{hostCaching, source}` of one disk.
fn disk(item: &Fields<'_>, caching: &str) -> Result<Value, ArmError> {
    let caching = item.one_of("hostCaching", &CACHING)?.unwrap_or(caching);
    let source = item.object("source")?;
    let (id, uri) = (source.str("id")?, source.str("uri")?);
    let account = source.str("storageAccountId")?;
    let source = match (id, uri) {
        // Old clients name the storage account of a VHD in `id`; it is shown as it came (recorded).
        (Some(id), Some(uri)) if is_storage_account(&id) && account.is_none() => json!({"uri": uri, "id": id}),
        (Some(_), Some(_)) => return Err(one_source_only(item)),
        (Some(id), None) => {
            check_kind(
                &id,
                &["microsoft.compute/disks", "microsoft.compute/snapshots"],
                "must be a managed disk or snapshot",
                &source.path("id"),
            )?;
            json!({"id": id})
        }
        (None, Some(uri)) => match account {
            Some(account) => json!({"uri": uri, "storageAccountId": account}),
            None => json!({"uri": uri}),
        },
        (None, None) => return Err(source.missing("id")),
    };
    Ok(json!({"hostCaching": caching, "source": source}))
}

fn is_storage_account(id: &str) -> bool {
    id.parse::<ResourceId>().is_ok_and(|id| id.resource_type().key() == "microsoft.storage/storageaccounts")
}

/// The disks of a version whose source was read: sizes in GiB by LUN, and what caching the source asks for where the client
/// did not name the disks itself. In Azure's order of members (recorded).
pub fn show_disks(body: &mut Value, os: (u64, &str), data: &[(u32, u64, &str)]) {
    let profile = &mut body["properties"]["storageProfile"];
    let old = profile["osDiskImage"].clone();
    profile["osDiskImage"] = json!({
        "sizeInGB": os.0,
        "hostCaching": old["hostCaching"].as_str().unwrap_or(os.1),
        "source": old.get("source").cloned().unwrap_or_else(|| json!({})),
    });
    if data.is_empty() {
        return;
    }
    let old = profile["dataDiskImages"].as_array().cloned().unwrap_or_default();
    let shown = data.iter().map(|(lun, size, caching)| {
        let old = old.iter().find(|d| d["lun"].as_u64() == Some(u64::from(*lun)));
        let caching = old.and_then(|d| d["hostCaching"].as_str()).unwrap_or(caching);
        let mut disk = json!({"lun": lun, "sizeInGB": size, "hostCaching": caching});
        if let Some(source) = old.and_then(|d| d.get("source")) {
            disk["source"] = source.clone();
        }
        disk
    });
    profile["dataDiskImages"] = shown.collect();
}

fn place(disk: &Value) -> String {
    let source = &disk["source"];
    source["uri"].as_str().or(source["id"].as_str()).unwrap_or_default().to_ascii_lowercase()
}

/// What an update gives must be what is stored (mission: version, "source id immutable", "adding data disks").
fn update(given: &Fields<'_>, whole: Option<&Value>, stored: &Value) -> Result<(), ArmError> {
    let equal = |a: &Value, b: &Value| match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        _ => false,
    };
    let refuse = |path: String| Err(ArmError::property_change_not_allowed(&path));
    if let Some(whole) = whole {
        let source = given.object("source")?;
        for name in ["id", "virtualMachineId", COMMUNITY] {
            if whole.get(name).is_some() && !equal(&whole[name], &stored["source"][name]) {
                return refuse(source.path(name));
            }
        }
    }
    update_disk(&given.object("osDiskImage")?, &stored["osDiskImage"])?;
    let empty = vec![];
    let stored_data = stored["dataDiskImages"].as_array().unwrap_or(&empty);
    for item in given.objects("dataDiskImages")?.unwrap_or_default() {
        let lun = item.int("lun")?;
        let Some(old) = stored_data.iter().find(|d| lun.is_some() && d["lun"].as_i64() == lun) else {
            return Err(ArmError::conflict(
                "PropertyChangeNotAllowed",
                "Adding new Data Disks or changing the LUN of a Data Disk in an existing Image is not allowed.",
            )
            .target(given.path("dataDiskImages")));
        };
        update_disk(&item, old)?;
    }
    Ok(())
}

fn update_disk(item: &Fields<'_>, stored: &Value) -> Result<(), ArmError> {
    let source = item.object("source")?;
    for name in ["id", "uri"] {
        if let Some(text) = source.str(name)?
            && stored["source"][name].as_str().is_none_or(|old| !old.eq_ignore_ascii_case(&text))
        {
            return Err(ArmError::property_change_not_allowed(&source.path(name)));
        }
    }
    if let Some(caching) = item.one_of("hostCaching", &CACHING)?
        && stored["hostCaching"].as_str().is_some_and(|old| old != caching)
    {
        return Err(ArmError::property_change_not_allowed(&item.path("hostCaching")));
    }
    Ok(())
}
