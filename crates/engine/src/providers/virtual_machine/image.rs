//! From an image reference to the bytes a machine starts from.

use super::data_disks::ImageDataDisk;
use crate::db_error;
use crate::platform_images::{Published, Reference, catalogue_id};
use crate::provider::Context;
use crate::shared_galleries::{VERSIONS, serves};
use crate::sources::{self, SourceImage};
use crate::stored::{ImageVersionInternal, ManagedImageInternal, Stored, internal};
use lazuli_arm::bodies::disk::gib_of;
use lazuli_arm::bodies::image_definition::security_type_of;
use lazuli_arm::bodies::image_version::is_latest_candidate;
use lazuli_arm::bodies::managed_image;
use lazuli_arm::bodies::shared_gallery::{SharedGalleryKind, SharedImageId};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What an image reference named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    Version,
    /// A version of a gallery that is shared with the consumer, who need have no right where it is.
    Shared(SharedGalleryKind),
    /// Serves its own subscription only (MI-5).
    Managed,
    Platform,
}

/// What an image gives to a new machine.
pub(crate) struct ImageSource {
    /// Id of the row the bytes are from.
    pub version_id: String,
    /// Id by which clients know it.
    pub shown_id: String,
    /// Purchase plan that whoever uses the image must name (ID-9).
    pub plan: Option<Value>,
    pub kind: ImageKind,
    /// The version, as machines show it (recorded: also where the reference names it).
    pub exact_version: Option<String>,
    pub os_disk: Stored,
    /// By rising LUN.
    pub data_disks: Vec<ImageDataDisk>,
    pub os_type: String,
    /// `V1` or `V2`.
    pub generation: String,
    /// `x64` or `Arm64`.
    pub architecture: String,
    pub generalized: bool,
    /// What its feature `SecurityType` says.
    pub security_type: String,
    /// UEFI keys that it brings along; null: none.
    pub uefi_settings: Value,
    /// Manifest of the trace of its start, if it has one.
    pub boot_trace: Option<String>,
}

impl ImageSource {
    /// Bytes of an OS disk of so many GiB that is made of it; 0: as large as the image's.
    ///
    /// # Errors
    /// 400 `ResizeDiskError`: disks only grow.
    pub(crate) fn os_disk_size(&self, wanted_gib: u64) -> Result<u64, ArmError> {
        let (own, wanted) = (self.os_disk.size_bytes, wanted_gib << 30);
        if wanted_gib != 0 && wanted < own {
            return Err(ArmError::bad_request(
                "ResizeDiskError",
                format!(
                    "Disk size {wanted_gib} GB of the OS disk is smaller than the size of the corresponding disk in the VM image: {} GB.",
                    gib_of(own)
                ),
            ));
        }
        Ok(wanted.max(own))
    }

    /// A managed image serves its own subscription (MI-5). `user`: what is made of it, a `what`.
    ///
    /// # Errors
    /// 400 `InvalidParameter`.
    pub(crate) fn check_subscription(&self, user: &ResourceId, what: &str) -> Result<(), ArmError> {
        let own = self.version_id.parse::<ResourceId>().map_err(ArmError::internal)?;
        if self.kind != ImageKind::Managed || own.subscription.eq_ignore_ascii_case(&user.subscription) {
            return Ok(());
        }
        Err(ArmError::bad_request(
            "InvalidParameter",
            format!(
                "The managed image '{}' is in another subscription than the {what}. Managed images cannot be shared across \
                 subscriptions: use an image version of a compute gallery.",
                self.version_id
            ),
        )
        .target("imageReference"))
    }

    /// `creationData` of a disk that is made from it.
    pub(crate) fn creation_data(&self) -> Value {
        let (name, member) = match self.kind {
            ImageKind::Version => ("galleryImageReference", "id"),
            ImageKind::Shared(kind) => ("galleryImageReference", kind.member()),
            ImageKind::Managed | ImageKind::Platform => ("imageReference", "id"),
        };
        json!({"createOption": "FromImage", name: {member: self.shown_id}})
    }
}

/// An `imageReference` of something that is made in a subscription: the id of an image, that under which it is shared with the
/// subscription, or a platform image by publisher, offer, SKU and version.
pub(crate) async fn resolve_reference(
    cx: Context<'_>,
    reference: &Value,
    subscription: &str,
    location: &str,
) -> Result<ImageSource, ArmError> {
    if let Some(shared) = SharedImageId::of_reference(reference) {
        return resolve_shared(cx, &shared, subscription, location).await;
    }
    match Reference::of_body(reference) {
        Some(platform) => platform_image(cx, &platform, subscription, location).await,
        None => resolve_image(cx, reference["id"].as_str().unwrap_or_default(), location).await,
    }
}

async fn platform_image(
    cx: Context<'_>,
    wanted: &Reference,
    subscription: &str,
    location: &str,
) -> Result<ImageSource, ArmError> {
    let Published { urn, row, os_disk } = cx.engine.find_published(wanted, location).await?;
    let properties = &row.body["properties"];
    let text = |name: &str, default: &str| properties[name].as_str().unwrap_or(default).to_owned();
    Ok(ImageSource {
        kind: ImageKind::Platform,
        shown_id: catalogue_id(subscription, location, &urn),
        plan: properties.get("plan").cloned(),
        os_disk,
        data_disks: vec![],
        os_type: text("osType", "Linux"),
        generation: text("hyperVGeneration", "V1"),
        architecture: text("architecture", "x64"),
        generalized: true,
        // The catalogue's images have no features; whether one is signed its first boot shows.
        security_type: if properties["hyperVGeneration"] == "V2" { "TrustedLaunchSupported" } else { "Standard" }
            .into(),
        uefi_settings: Value::Null,
        boot_trace: None,
        exact_version: Some(urn.version),
        version_id: row.id,
    })
}

/// The plan of the image must be named, exactly as it is (ID-9).
///
/// # Errors
/// 400 `VMMarketplaceInvalidInput`.
pub(crate) fn check_plan(machine: &ResourceId, given: Option<&Value>, image: &ImageSource) -> Result<(), ArmError> {
    let Some(plan) = &image.plan else { return Ok(()) };
    let refuse = |message: String| Err(ArmError::bad_request("VMMarketplaceInvalidInput", message));
    let Some(given) = given else {
        return refuse(format!(
            "Creating a virtual machine from Marketplace image or a custom image sourced from a Marketplace image requires Plan \
             information in the request. VM: '{machine}'."
        ));
    };
    if ["name", "publisher", "product"].iter().all(|part| given[*part] == plan[*part]) {
        return Ok(());
    }
    refuse(format!(
        "Unable to deploy from the Marketplace image or a custom image sourced from Marketplace image. The part number in the \
         purchase information for VM '{machine}' is not as expected. Beware that the Plan object's properties are case-sensitive."
    ))
}

/// All sizes are of x64 processors: what is made for others would never boot. `architecture`: of an image, or of an attached disk.
///
/// # Errors
/// 400 `InvalidParameter`.
pub(crate) fn check_architecture(machine: &Value, architecture: &str) -> Result<(), ArmError> {
    if architecture != "Arm64" {
        return Ok(());
    }
    let size = machine["properties"]["hardwareProfile"]["vmSize"].as_str().unwrap_or_default();
    Err(ArmError::invalid_parameter(
        "vmSize",
        format!(
            "Cannot create a VM of size '{size}' because this VM size only supports a CPU Architecture of 'x64', but an image or disk \
             with CPU Architecture 'Arm64' was given. Please check that the CPU Architecture of the image or disk is compatible with \
             that of the VM size."
        ),
    ))
}

/// `…/galleries/g/images/d` and `…/versions/latest` mean the newest version that is not excluded from latest (IV-11);
/// `…/images/i` is a managed image, and what the publishers API shows a platform image.
pub(crate) async fn resolve_image(cx: Context<'_>, reference: &str, location: &str) -> Result<ImageSource, ArmError> {
    let id: ResourceId = reference
        .parse()
        .map_err(|e| ArmError::invalid_parameter("imageReference", format!("The image reference is invalid: {e}.")))?;
    if let Some(platform) = Reference::of_id(&id) {
        return platform_image(cx, &platform, &id.subscription, location).await;
    }
    let kind = id.resource_type().key();
    let (definition_id, wanted) = match kind.as_str() {
        "microsoft.compute/galleries/images" => (id.clone(), None),
        "microsoft.compute/galleries/images/versions" => {
            let name = id.name().to_owned();
            let latest = name.eq_ignore_ascii_case("latest");
            (id.parent().unwrap_or_else(|| id.clone()), (!latest).then_some(name))
        }
        "microsoft.compute/images" => return managed(cx, &id, location).await,
        _ => {
            return Err(ArmError::invalid_parameter(
                "imageReference",
                format!(
                    "The value '{reference}' of parameter imageReference is invalid: a gallery image, a version of it or a managed \
                     image is expected."
                ),
            ));
        }
    };
    let right = "Microsoft.Compute/galleries/images/versions/read";
    cx.engine.authorize_link(&cx.call.caller, &id.to_string(), right).await?;
    let definition = cx.engine.db().resource(&definition_id.key()).await.map_err(db_error)?;
    let definition = definition.ok_or_else(|| not_available(&id.to_string(), location))?;
    let found = match &wanted {
        Some(name) => find_version(cx, &definition, name, location).await?,
        None => Some(latest(cx, &definition, &definition.id, location).await?),
    };
    let found = found.ok_or_else(|| not_available(&id.to_string(), location))?;
    let shown_id = found.row.id.clone();
    Ok(found.image(&definition, ImageKind::Version, shown_id))
}

/// An image of a gallery that is shared with this subscription or its tenant, or with everybody (GA-6, IV-17): no right in the
/// subscription of its owner is asked for. Its version goes by the rules of the owner's own (IV-11).
///
/// # Errors
/// 404 `GalleryImageNotFound`, whether it is not there, not shared or not in the region.
pub(crate) async fn resolve_shared(
    cx: Context<'_>,
    id: &SharedImageId,
    subscription: &str,
    location: &str,
) -> Result<ImageSource, ArmError> {
    let consumer = cx.engine.consumer(&cx.call.caller, subscription).await?;
    let definition = cx.engine.shared_definition(id, &consumer).await?;
    // Recorded with its quotation marks.
    let absent = || {
        let mut error = not_available(&id.to_string(), location);
        error.message = format!("\"{}\"", error.message);
        error
    };
    let definition = definition.ok_or_else(absent)?;
    let found = match &id.version {
        Some(name) => find_version(cx, &definition, name, location).await?,
        None => Some(latest(cx, &definition, &id.to_string(), location).await?),
    };
    let found = found.ok_or_else(absent)?;
    let shown_id = SharedImageId { version: Some(found.row.name.clone()), ..id.clone() }.to_string();
    Ok(found.image(&definition, ImageKind::Shared(id.kind), shown_id))
}

/// A version that a region serves.
struct Found {
    row: Resource,
    os_disk: Stored,
    data_disks: BTreeMap<u32, Stored>,
    boot_trace: Option<String>,
}

impl Found {
    /// `None`: not, or not yet.
    fn of(row: Resource, location: &str) -> Result<Option<Self>, ArmError> {
        let state: ImageVersionInternal = internal(&row)?;
        let here = state.serves(location);
        let ImageVersionInternal { os_disk, data_disks, boot_trace, .. } = state;
        let boot_trace = boot_trace.map(|trace| trace.stored.manifest);
        Ok(os_disk.filter(|_| here).map(|os_disk| Self { row, os_disk, data_disks, boot_trace }))
    }

    fn image(self, definition: &Resource, kind: ImageKind, shown_id: String) -> ImageSource {
        let Self { row, os_disk, data_disks: stored, boot_trace } = self;
        let properties = &definition.body["properties"];
        let text = |name: &str, default: &str| properties[name].as_str().unwrap_or(default).to_owned();
        ImageSource {
            security_type: security_type_of(&definition.body, &row.name),
            uefi_settings: row.body["properties"]["securityProfile"]["uefiSettings"].clone(),
            boot_trace,
            exact_version: Some(row.name),
            shown_id,
            plan: properties.get("purchasePlan").filter(|p| !p.is_null()).cloned(),
            kind,
            os_disk,
            data_disks: data_disks(&row.body["properties"]["storageProfile"]["dataDiskImages"], "hostCaching", stored),
            version_id: row.id,
            os_type: text("osType", "Linux"),
            generation: text("hyperVGeneration", "V1"),
            architecture: text("architecture", "x64"),
            generalized: text("osState", "Generalized").eq_ignore_ascii_case("Generalized"),
        }
    }
}

async fn find_version(
    cx: Context<'_>,
    definition: &Resource,
    name: &str,
    location: &str,
) -> Result<Option<Found>, ArmError> {
    let key = format!("{}/versions/{name}", definition.key).to_ascii_lowercase();
    match cx.engine.db().resource(&key).await.map_err(db_error)? {
        Some(row) => Found::of(row, location),
        None => Ok(None),
    }
}

/// An image's data disks with their caching, which is a member of this name in what its body shows (MD-10).
fn data_disks(shown: &Value, caching: &str, stored: BTreeMap<u32, Stored>) -> Vec<ImageDataDisk> {
    let of = |lun: u32| shown.as_array().into_iter().flatten().find(|d| d["lun"] == lun).map(|d| &d[caching]);
    let disk = |(lun, disk)| ImageDataDisk {
        lun,
        disk,
        caching: of(lun).and_then(Value::as_str).unwrap_or("None").to_owned(),
    };
    stored.into_iter().map(disk).collect()
}

/// MI-2, MI-4.
async fn managed(cx: Context<'_>, id: &ResourceId, location: &str) -> Result<ImageSource, ArmError> {
    let SourceImage { row, os, data } = sources::managed_image(cx, id, location).await?;
    let data = data.into_iter().filter_map(|(lun, found)| Some((lun, found.base?))).collect();
    let data_disks = data_disks(&row.body["properties"]["storageProfile"]["dataDisks"], "caching", data);
    Ok(ImageSource {
        exact_version: None,
        os_disk: os.base.ok_or_else(|| ArmError::internal("a managed image without bytes"))?,
        data_disks,
        os_type: managed_image::os_type(&row.body).to_owned(),
        generation: managed_image::generation(&row.body).to_owned(),
        // MI-7
        architecture: "x64".into(),
        generalized: true,
        security_type: "Standard".into(),
        uefi_settings: Value::Null,
        boot_trace: internal::<ManagedImageInternal>(&row)?.boot_trace.map(|trace| trace.stored.manifest),
        kind: ImageKind::Managed,
        plan: None,
        shown_id: row.id.clone(),
        version_id: row.id,
    })
}

/// Versions that are read at once to find the latest.
const LATEST_PAGE: i64 = 20;

/// The newest version by Major.Minor.Patch below a definition (its key) that serves this region and is not excluded from latest.
/// `kind`: of its row.
pub(super) async fn newest(
    cx: Context<'_>,
    kind: &str,
    definition: &str,
    location: &str,
) -> Result<Option<Resource>, ArmError> {
    let fits = |r: &Resource| is_latest_candidate(&r.body, location) && serves(r, location);
    // Lists of versions go by number: the last that fits is it, and is nearly always among the first few from the end.
    let mut query = ResourceQuery {
        kind: Some(kind.to_owned()),
        under: Some(definition.to_owned()),
        descending: true,
        limit: Some(LATEST_PAGE),
        ..ResourceQuery::default()
    };
    loop {
        let versions = cx.engine.db().resources(&query).await.map_err(db_error)?;
        query.after = versions.last().map(|r| r.sort_key.clone());
        if let Some(row) = versions.into_iter().find(fits) {
            return Ok(Some(row));
        }
        if query.after.is_none() {
            return Ok(None);
        }
    }
}

/// [`newest`] of an image definition. `shown`: the definition, for who asks.
async fn latest(cx: Context<'_>, definition: &Resource, shown: &str, location: &str) -> Result<Found, ArmError> {
    let row = newest(cx, VERSIONS, &definition.key, location).await?;
    let found = row.map(|row| Found::of(row, location)).transpose()?.flatten();
    found.ok_or_else(|| no_latest(shown, location).target("imageReference"))
}

pub(super) fn no_latest(shown: &str, location: &str) -> ArmError {
    ArmError::new(
        404,
        "GalleryImageNotFound",
        format!("There is no latest image version exists for \"{shown}\" in location {location}."),
    )
}

pub(super) fn not_available(id: &str, location: &str) -> ArmError {
    ArmError::new(
        404,
        "GalleryImageNotFound",
        format!(
            "The gallery image {id} is not available in {location} region. Please contact image owner to replicate to this \
             region, or change your requested region."
        ),
    )
    .target("imageReference")
}
