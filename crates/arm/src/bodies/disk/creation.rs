//! `creationData` of disks and snapshots: where the first bytes come from. It never changes afterwards.

use super::super::disk_tiers::is_provisioned;
use super::super::shared_gallery::{SharedImageId, shared_reference};
use super::super::{not_offered, unchanged};
use super::FOOTER;
use crate::bodies::Fields;
use crate::{ArmError, ResourceId};
use serde_json::{Value, json};

const MIB: i64 = 1 << 20;
/// Swagger `DiskRP.json`, `uploadSizeBytes`.
const UPLOAD_RANGE: (i64, i64) = (20_972_032, 35_183_298_347_520);
/// Swagger `DiskRP.json`, `DiskCreateOption`.
const CREATE_OPTIONS: [&str; 12] = [
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
    "CopyFromElasticSanSnapshot",
];
const DISKS: [&str; 2] = ["microsoft.compute/disks", "microsoft.compute/snapshots"];
/// What an image reference may name.
const IMAGES: [&str; 4] = [
    "microsoft.compute/galleries/images/versions",
    "microsoft.compute/galleries/images",
    "microsoft.compute/images",
    "microsoft.compute/locations/publishers/artifacttypes/offers/skus/versions",
];

/// Which resource is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Disk,
    Snapshot,
}

/// Where a new disk's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Empty,
    /// Size of the VHD to come, with its footer.
    Upload {
        vhd_bytes: u64,
        /// The guest's state may be uploaded beside it (`UploadPreparedSecure`).
        guest_state: bool,
    },
    /// A gallery image or a version of it, a managed image, a platform image; with a LUN, its data disk.
    Image {
        id: ResourceId,
        lun: Option<i64>,
    },
    /// The same of a gallery that is shared with the disk's subscription.
    SharedImage {
        id: SharedImageId,
        lun: Option<i64>,
    },
    /// A disk or snapshot of the same region.
    Copy(ResourceId),
    /// A disk or snapshot of another region: copied in the background.
    CopyStart(ResourceId),
    /// A VHD in a storage account; with `ImportSecure`, a second one that holds the guest's state.
    Import {
        uri: String,
        account: Option<ResourceId>,
        guest_state_uri: Option<String>,
    },
}

pub(super) fn origin(body: &Value) -> Option<Origin> {
    let data = &body["properties"]["creationData"];
    let id = |v: &Value| v.as_str()?.parse::<ResourceId>().ok();
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    let option = data["createOption"].as_str()?;
    Some(match option {
        "Empty" => Origin::Empty,
        "Upload" | "UploadPreparedSecure" => Origin::Upload {
            vhd_bytes: data["uploadSizeBytes"].as_u64()?,
            guest_state: option == "UploadPreparedSecure",
        },
        "FromImage" => {
            let gallery = &data["galleryImageReference"];
            let reference = if gallery.is_object() { gallery } else { &data["imageReference"] };
            let lun = reference["lun"].as_i64();
            match SharedImageId::of_reference(reference) {
                Some(id) => Origin::SharedImage { id, lun },
                None => Origin::Image { id: id(&reference["id"])?, lun },
            }
        }
        "Copy" | "Restore" => Origin::Copy(id(&data["sourceResourceId"])?),
        "CopyStart" => Origin::CopyStart(id(&data["sourceResourceId"])?),
        "Import" | "ImportSecure" => Origin::Import {
            uri: text("sourceUri")?,
            account: id(&data["storageAccountId"]),
            guest_state_uri: text("securityDataUri"),
        },
        _ => return None,
    })
}

/// New creation data in its settled form, or the stored one if nothing in `given` speaks against it.
pub(in super::super) fn creation_data(
    given: &Fields<'_>,
    stored: Option<&Value>,
    kind: Kind,
    sku: &str,
) -> Result<Value, ArmError> {
    let data = given.object("creationData")?;
    if let Some(stored) = stored {
        check_unchanged(&data, &stored["creationData"])?;
        return Ok(stored["creationData"].clone());
    }
    let Some(option) = data.one_of("createOption", &CREATE_OPTIONS)? else {
        return Err(data.missing("createOption"));
    };
    let mut creation = match (option, kind) {
        ("Empty", _) => json!({"createOption": option}),
        ("Upload" | "UploadPreparedSecure", Kind::Disk) => {
            json!({"createOption": option, "uploadSizeBytes": upload_size(&data)?})
        }
        ("FromImage", Kind::Disk) => from_image(&data)?,
        ("Copy" | "CopyStart", _) | ("Restore", Kind::Disk) => {
            json!({"createOption": option, "sourceResourceId": source(&data)?})
        }
        ("Import", _) | ("ImportSecure", Kind::Disk) => import(&data, option)?,
        ("Attach", Kind::Disk) => {
            let path = data.path("createOption");
            return Err(ArmError::invalid_parameter(
                &path,
                format!(
                    "The value 'Attach' of parameter {path} is invalid: it is for a disk that exists, in the storage profile of \
                     a virtual machine. Create the disk with another createOption, then attach it."
                ),
            ));
        }
        (_, Kind::Disk) => {
            return Err(not_offered(
                &data.path("createOption"),
                "this server makes disks with createOption Empty, Upload, UploadPreparedSecure, FromImage, Copy, CopyStart, \
                 Restore, Import or ImportSecure",
            ));
        }
        (_, Kind::Snapshot) => {
            return Err(not_offered(
                &data.path("createOption"),
                "this server makes snapshots with createOption Empty, Copy, CopyStart or Import",
            ));
        }
    };
    extras(&data, kind, sku, &mut creation)?;
    Ok(creation)
}

/// Members that some options carry along.
fn extras(data: &Fields<'_>, kind: Kind, sku: &str, creation: &mut Value) -> Result<(), ArmError> {
    if let Some(speed) = data.one_of("provisionedBandwidthCopySpeed", &["None", "Enhanced"])? {
        creation["provisionedBandwidthCopySpeed"] = speed.into();
    }
    if let Some(minutes) = data.int_within("instantAccessDurationMinutes", 1, i64::from(i32::MAX))? {
        creation["instantAccessDurationMinutes"] = minutes.into();
    }
    if kind == Kind::Snapshot {
        return Ok(());
    }
    if data.bool("performancePlus")? == Some(true) {
        creation["performancePlus"] = true.into();
    }
    match data.int("logicalSectorSize")? {
        Some(_) if !is_provisioned(sku) => Err(ArmError::invalid_parameter(
            &data.path("logicalSectorSize"),
            "The logical sector size can only be chosen for Ultra and Premium SSD v2 disks.",
        )),
        Some(size @ (512 | 4096)) => {
            creation["logicalSectorSize"] = size.into();
            Ok(())
        }
        Some(other) => {
            let path = data.path("logicalSectorSize");
            Err(ArmError::invalid_parameter(
                &path,
                format!("The value {other} of parameter {path} is invalid. It must be one of: 512, 4096."),
            ))
        }
        None if is_provisioned(sku) => {
            creation["logicalSectorSize"] = 4096.into();
            Ok(())
        }
        None => Ok(()),
    }
}

fn check_unchanged(data: &Fields<'_>, old: &Value) -> Result<(), ArmError> {
    let option = data.one_of("createOption", &CREATE_OPTIONS)?;
    unchanged(&data.path("createOption"), option.map(Value::from).as_ref(), old.get("createOption"))?;
    for name in
        ["sourceUri", "securityDataUri", "securityMetadataUri", "elasticSanResourceId", "provisionedBandwidthCopySpeed"]
    {
        unchanged(&data.path(name), data.str(name)?.map(Value::from).as_ref(), old.get(name))?;
    }
    for name in ["sourceResourceId", "storageAccountId"] {
        let given = data.str(name)?.map(|id| Value::from(rooted(&id)));
        unchanged(&data.path(name), given.as_ref(), old.get(name))?;
    }
    for name in ["uploadSizeBytes", "logicalSectorSize", "instantAccessDurationMinutes"] {
        unchanged(&data.path(name), data.int(name)?.map(Value::from).as_ref(), old.get(name))?;
    }
    // False is the same as nothing.
    let plus = data.bool("performancePlus")?.filter(|plus| *plus || old.get("performancePlus").is_some());
    unchanged(&data.path("performancePlus"), plus.map(Value::from).as_ref(), old.get("performancePlus"))?;
    for name in ["galleryImageReference", "imageReference"] {
        let reference = data.object(name)?;
        let before = if old.get(name).is_some() { &old[name] } else { &old["galleryImageReference"] };
        for member in ["id", "sharedGalleryImageId", "communityGalleryImageId"] {
            let id = reference.str(member)?.map(Value::from);
            unchanged(&reference.path(member), id.as_ref(), before.get(member))?;
        }
        let lun = reference.int("lun")?.map(Value::from);
        unchanged(&reference.path("lun"), lun.as_ref(), before.get("lun"))?;
    }
    Ok(())
}

/// Azure's own examples leave out the slash that an id begins with.
fn rooted(id: &str) -> String {
    format!("/{}", id.trim().trim_start_matches('/'))
}

fn source(data: &Fields<'_>) -> Result<String, ArmError> {
    let path = data.path("sourceResourceId");
    let source = rooted(&data.required_str("sourceResourceId")?);
    let kind = source.parse::<ResourceId>().map(|id| id.resource_type().key()).unwrap_or_default();
    if DISKS.contains(&kind.as_str()) {
        return Ok(source);
    }
    Err(ArmError::invalid_parameter(&path, format!("The source id: {source} must be a managed disk or snapshot.")))
}

fn import(data: &Fields<'_>, option: &str) -> Result<Value, ArmError> {
    let mut creation = json!({"createOption": option});
    if let Some(account) = data.str("storageAccountId")? {
        let account = rooted(&account);
        let kind = account.parse::<ResourceId>().map(|id| id.resource_type().key()).unwrap_or_default();
        if kind != "microsoft.storage/storageaccounts" {
            let path = data.path("storageAccountId");
            return Err(ArmError::invalid_parameter(
                &path,
                format!("The value '{account}' of parameter {path} is invalid: it is not the id of a storage account."),
            ));
        }
        creation["storageAccountId"] = account.into();
    }
    creation["sourceUri"] = data.required_str("sourceUri")?.into();
    if data.str("securityMetadataUri")?.is_some() {
        return Err(not_offered(
            &data.path("securityMetadataUri"),
            "this server runs no confidential virtual machines",
        ));
    }
    if option == "ImportSecure" {
        creation["securityDataUri"] = data.required_str("securityDataUri")?.into();
    }
    Ok(creation)
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

/// Gallery images are shown as `galleryImageReference`, whichever member named them; all others as `imageReference`.
fn from_image(data: &Fields<'_>) -> Result<Value, ArmError> {
    let gallery = data.object("galleryImageReference")?;
    let platform = data.object("imageReference")?;
    // Some clients name a version in imageReference; Azure takes both.
    let fields = if gallery.is_empty() { &platform } else { &gallery };
    let lun = fields.int_within("lun", 0, 63)?;
    if let Some(mut reference) = shared_reference(fields)? {
        if let Some(lun) = lun {
            reference["lun"] = lun.into();
        }
        return Ok(json!({"createOption": "FromImage", "galleryImageReference": reference}));
    }
    let Some(text) = fields.str("id")? else { return Err(gallery.missing("id")) };
    let kind = text.parse::<ResourceId>().map(|id| id.resource_type().key()).unwrap_or_default();
    let of_gallery = kind.starts_with("microsoft.compute/galleries/");
    if !IMAGES.contains(&kind.as_str()) || (!gallery.is_empty() && !of_gallery) {
        return Err(ArmError::invalid_parameter(
            &fields.path("id"),
            format!(
                "The image reference '{text}' is not the id of a gallery image version, a managed image or a platform image."
            ),
        ));
    }
    let mut reference = json!({"id": text});
    if let Some(lun) = lun {
        reference["lun"] = lun.into();
    }
    let member = if of_gallery { "galleryImageReference" } else { "imageReference" };
    Ok(json!({"createOption": "FromImage", member: reference}))
}
