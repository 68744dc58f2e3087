//! From an image reference to the bytes a machine starts from.

use super::data_disks::ImageDataDisk;
use crate::db_error;
use crate::platform_images::{Published, Reference, catalogue_id};
use crate::provider::Context;
use crate::sources::{self, SourceImage};
use crate::stored::{ImageVersionInternal, Stored, internal};
use lazuli_arm::bodies::image_definition::security_type_of;
use lazuli_arm::bodies::managed_image;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What an image reference named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    Version,
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
    pub generalized: bool,
    /// What its feature `SecurityType` says.
    pub security_type: String,
    /// UEFI keys that it brings along; null: none.
    pub uefi_settings: Value,
}

impl ImageSource {
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
        let name = match self.kind {
            ImageKind::Version => "galleryImageReference",
            ImageKind::Managed | ImageKind::Platform => "imageReference",
        };
        json!({"createOption": "FromImage", name: {"id": self.shown_id}})
    }
}

/// An `imageReference`: the id of an image, or a platform image by publisher, offer, SKU and version.
pub(crate) async fn resolve_reference(
    cx: Context<'_>,
    reference: &Value,
    subscription: &str,
    location: &str,
) -> Result<ImageSource, ArmError> {
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
        generalized: true,
        // The catalogue's images have no features; whether one is signed its first boot shows.
        security_type: if properties["hyperVGeneration"] == "V2" { "TrustedLaunchSupported" } else { "Standard" }
            .into(),
        uefi_settings: Value::Null,
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
    let definition = definition.ok_or_else(|| not_available(&id, location))?;
    let version = match &wanted {
        Some(name) => {
            let row = cx.engine.db().resource(&definition_id.child("versions", name).key()).await.map_err(db_error)?;
            row.ok_or_else(|| not_available(&id, location))?
        }
        None => latest(cx, &definition, location).await?,
    };
    let state: ImageVersionInternal = internal(&version)?;
    let data_disks =
        data_disks(&version.body["properties"]["storageProfile"]["dataDiskImages"], "hostCaching", state.data_disks);
    let ready = state.regions.get(location).is_some_and(|r| r.state == "Completed");
    let (Some(os_disk), true) = (state.os_disk, ready) else {
        return Err(not_available(&id, location));
    };
    let text = |name: &str, default: &str| definition.body["properties"][name].as_str().unwrap_or(default).to_owned();
    Ok(ImageSource {
        security_type: security_type_of(&definition.body, &version.name),
        uefi_settings: version.body["properties"]["securityProfile"]["uefiSettings"].clone(),
        exact_version: Some(version.name.clone()),
        shown_id: version.id.clone(),
        version_id: version.id,
        plan: definition.body["properties"].get("purchasePlan").filter(|p| !p.is_null()).cloned(),
        kind: ImageKind::Version,
        os_disk,
        data_disks,
        os_type: text("osType", "Linux"),
        generation: text("hyperVGeneration", "V1"),
        generalized: text("osState", "Generalized").eq_ignore_ascii_case("Generalized"),
    })
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
        generalized: true,
        security_type: "Standard".into(),
        uefi_settings: Value::Null,
        kind: ImageKind::Managed,
        plan: None,
        shown_id: row.id.clone(),
        version_id: row.id,
    })
}

/// Versions that are read at once to find the latest.
const LATEST_PAGE: i64 = 20;

/// The newest version by Major.Minor.Patch that serves this region and is not excluded from latest.
async fn latest(cx: Context<'_>, definition: &Resource, location: &str) -> Result<Resource, ArmError> {
    let excluded = |r: &Resource| {
        let profile = &r.body["properties"]["publishingProfile"];
        let here = profile["targetRegions"].as_array().into_iter().flatten().any(|t| {
            let name = t["name"].as_str().and_then(lazuli_arm::locations::normalize);
            name.is_some_and(|n| n.name == location) && t["excludeFromLatest"] == Value::Bool(true)
        });
        profile["excludeFromLatest"] == Value::Bool(true) || here
    };
    let serves = |r: &Resource| {
        internal::<ImageVersionInternal>(r)
            .is_ok_and(|s| s.regions.get(location).is_some_and(|region| region.state == "Completed"))
    };
    let fits = |r: &Resource| !excluded(r) && serves(r) && r.provisioning_state != "Deleting";
    // Lists of versions go by number: the last that fits is it, and is nearly always among the first few from the end.
    let mut query = ResourceQuery {
        kind: Some("microsoft.compute/galleries/images/versions".to_owned()),
        under: Some(definition.key.clone()),
        descending: true,
        limit: Some(LATEST_PAGE),
        ..ResourceQuery::default()
    };
    loop {
        let versions = cx.engine.db().resources(&query).await.map_err(db_error)?;
        query.after = versions.last().map(|r| r.sort_key.clone());
        if let Some(found) = versions.into_iter().find(fits) {
            return Ok(found);
        }
        if query.after.is_none() {
            break;
        }
    }
    Err(ArmError::new(
        404,
        "GalleryImageNotFound",
        format!("There is no latest image version exists for \"{}\" in location {location}.", definition.id),
    )
    .target("imageReference"))
}

fn not_available(id: &ResourceId, location: &str) -> ArmError {
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
