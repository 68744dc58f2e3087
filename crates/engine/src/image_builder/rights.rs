//! What a template refers to, looked at as its identity: the source, where results go, the network, identities of machines.
//!
//! Whoever creates a template cannot lend it rights: each is asked of the identity, and asked again when a run uses it (RB-6).

use super::unauthorized;
use crate::call::Call;
use crate::provider::Context;
use crate::providers::virtual_machine::image::{ImageKind, ImageSource, resolve_reference};
use crate::storage::vhd::named;
use crate::{Engine, db_error, now_ms};
use lazuli_arm::bodies::image_template::{ImageTemplate, Source, Target, TargetRegion};
use lazuli_arm::{ArmError, ResourceId, locations};
use serde_json::Value;

const ASSIGN: &str = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action";

/// What the source turned out to be.
pub(crate) struct SourceFacts {
    /// As `source.exactVersion` shows it.
    pub exact_version: Option<String>,
    pub windows: bool,
    /// `V1` or `V2`.
    pub generation: String,
}

impl SourceFacts {
    pub fn of(image: &ImageSource) -> Self {
        let exact_version = match image.kind {
            ImageKind::Platform => image.exact_version.clone(),
            ImageKind::Managed => None,
            ImageKind::Version | ImageKind::Shared(_) => Some(image.shown_id.clone()),
        };
        Self {
            exact_version,
            windows: image.os_type.eq_ignore_ascii_case("Windows"),
            generation: image.generation.clone(),
        }
    }
}

/// The image that a template's source is at this moment.
///
/// # Errors
/// 403 `Unauthorized`; `BadPIRSource`, `BadManagedImageSource` or `BadSharedImageVersionSource` with the reason.
pub(crate) async fn source(
    engine: &Engine,
    call: &Call,
    template: &ImageTemplate,
    subscription: &str,
) -> Result<ImageSource, ArmError> {
    let (code, shown) = match &template.source {
        Source::PlatformImage { .. } => ("BadPIRSource", String::new()),
        Source::ManagedImage { id } => ("BadManagedImageSource", id.clone()),
        Source::SharedImageVersion { id } => ("BadSharedImageVersionSource", id.clone()),
    };
    let cx = Context { engine, call, now_ms: now_ms() };
    let found = resolve_reference(cx, &template.source.reference(), subscription, &template.location).await;
    let image = found.map_err(|error| match error.status {
        403 => unauthorized(&shown),
        400..=499 => {
            ArmError::bad_request(code, format!("The source of the template cannot be used: {}", error.message))
        }
        _ => error,
    })?;
    if !image.generalized {
        return Err(ArmError::bad_request(
            code,
            format!("The source '{shown}' is specialized; a template is built from generalized images only."),
        ));
    }
    if let (Some(has), Source::PlatformImage { plan, .. }) = (&image.plan, &template.source) {
        let given = plan.as_ref().map(|p| [p.name.as_str(), p.product.as_str(), p.publisher.as_str()]);
        let wanted = ["name", "product", "publisher"].map(|part| has[part].as_str().unwrap_or_default());
        if given != Some(wanted) {
            return Err(ArmError::bad_request(
                code,
                format!(
                    "The source has a purchase plan, which the template must name: planInfo with planName '{}', planProduct '{}', \
                     planPublisher '{}'.",
                    wanted[0], wanted[1], wanted[2]
                ),
            ));
        }
    }
    Ok(image)
}

async fn require(engine: &Engine, call: &Call, scope: &str, action: &str, shown: &str) -> Result<(), ArmError> {
    match engine.authorize(&call.caller, scope, action).await {
        Err(error) if error.status == 403 => Err(unauthorized(shown)),
        other => other,
    }
}

/// Where results go, the network and the identities of machines.
///
/// # Errors
/// 403 `Unauthorized`; `BadSharedImageDistribute` and `Other` with the reason.
pub(crate) async fn check(
    engine: &Engine,
    call: &Call,
    template: &ImageTemplate,
    facts: &SourceFacts,
) -> Result<(), ArmError> {
    machines(engine, call, template).await?;
    for distributor in &template.distribute {
        target(engine, call, &distributor.target, facts).await?;
    }
    Ok(())
}

/// The network and the identities of machines.
///
/// # Errors
/// As [`check`].
pub(crate) async fn machines(engine: &Engine, call: &Call, template: &ImageTemplate) -> Result<(), ArmError> {
    if let Some(network) = &template.vm_profile.network {
        let subnet: ResourceId = network.subnet_id.parse().map_err(ArmError::internal)?;
        let of = subnet.parent().unwrap_or_else(|| subnet.clone()).to_string();
        let join = "Microsoft.Network/virtualNetworks/subnets/join/action";
        require(engine, call, &network.subnet_id, join, &of).await?;
        if engine.db().resource(&subnet.key()).await.map_err(db_error)?.is_none() {
            return Err(ArmError::bad_request("Other", format!("The subnet '{subnet}' of vmProfile does not exist.")));
        }
    }
    for id in &template.vm_profile.user_assigned_identities {
        require(engine, call, id, ASSIGN, id).await?;
    }
    Ok(())
}

/// A place where a result goes.
///
/// # Errors
/// As [`check`].
pub(crate) async fn target(engine: &Engine, call: &Call, target: &Target, facts: &SourceFacts) -> Result<(), ArmError> {
    match target {
        Target::ManagedImage { image_id, .. } => managed_image(engine, call, image_id).await,
        Target::Gallery { definition, regions, .. } => gallery(engine, call, definition, regions, facts).await,
        Target::Vhd { uri: Some(uri) } => vhd(engine, call, uri).await,
        Target::Vhd { uri: None } => Ok(()),
    }
}

async fn managed_image(engine: &Engine, call: &Call, image_id: &str) -> Result<(), ArmError> {
    for action in ["Microsoft.Compute/images/write", "Microsoft.Compute/images/read"] {
        require(engine, call, image_id, action, image_id).await?;
    }
    let id: ResourceId = image_id.parse().map_err(ArmError::internal)?;
    let group = ResourceId::group(&id.subscription, id.resource_group.as_deref().unwrap_or_default());
    match engine.db().resource(&group.key()).await.map_err(db_error)? {
        Some(_) => Ok(()),
        None => Err(ArmError::bad_request(
            "Other",
            format!("The resource group '{}' of the managed image '{image_id}' does not exist.", group.name()),
        )),
    }
}

async fn gallery(
    engine: &Engine,
    call: &Call,
    definition: &str,
    regions: &[TargetRegion],
    facts: &SourceFacts,
) -> Result<(), ArmError> {
    let versions = "Microsoft.Compute/galleries/images/versions";
    for action in
        ["Microsoft.Compute/galleries/images/read".to_owned(), format!("{versions}/read"), format!("{versions}/write")]
    {
        require(engine, call, definition, &action, definition).await?;
    }
    let bad = |why: String| Err(ArmError::bad_request("BadSharedImageDistribute", why));
    let Some(row) = engine.db().resource(&definition.to_ascii_lowercase()).await.map_err(db_error)? else {
        return bad(format!("The image definition '{definition}' does not exist."));
    };
    let properties = &row.body["properties"];
    let has = |name: &str, default: &'static str| properties[name].as_str().unwrap_or(default).to_owned();
    let system = if facts.windows { "Windows" } else { "Linux" };
    if !has("osType", "Linux").eq_ignore_ascii_case(system) {
        return bad(format!(
            "The image definition '{definition}' is for {}, the source has {system}.",
            has("osType", "Linux")
        ));
    }
    if !has("osState", "Generalized").eq_ignore_ascii_case("Generalized") {
        return bad(format!(
            "The image definition '{definition}' is for specialized images; a build makes generalized ones."
        ));
    }
    let generation = has("hyperVGeneration", "V1");
    if !generation.eq_ignore_ascii_case(&facts.generation) {
        return bad(format!(
            "The source has Hyper-V generation {}, the image definition '{definition}' has {generation}. A build does not change \
             the generation.",
            facts.generation
        ));
    }
    let canonical = |text: &str| locations::normalize(text).map(|l| l.name);
    if !regions.iter().any(|r| canonical(&r.name) == canonical(&row.location)) {
        return bad(format!(
            "The regions of the distributor must contain '{}', the location of the image definition '{definition}'.",
            row.location
        ));
    }
    Ok(())
}

async fn vhd(engine: &Engine, call: &Call, uri: &str) -> Result<(), ArmError> {
    let shown = super::fetch::shown(uri);
    let place = named(uri, &call.urls.arm);
    let account = match &place {
        Some(place) => engine.storage_account(&place.account).await?,
        None => None,
    };
    let (Some(place), Some(account)) = (place, account) else {
        return Err(ArmError::bad_request(
            "Other",
            format!("The VHD's URL '{shown}' is not that of a blob in a storage account of this server."),
        ));
    };
    let scope = format!("{}/blobservices/default/containers/{}", account.key, place.container);
    let write = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write";
    match engine.authorize_data(&call.caller, &scope, write).await {
        Err(error) if error.status == 403 => Err(unauthorized(&shown)),
        other => other,
    }
}

/// The code of `provisioningError` for a failure (Swagger `ProvisioningErrorCode`).
pub(crate) fn provisioning_code(error: &Value) -> &'static str {
    const KNOWN: [&str; 13] = [
        "BadSourceType",
        "BadPIRSource",
        "BadManagedImageSource",
        "BadSharedImageVersionSource",
        "BadCustomizerType",
        "UnsupportedCustomizerType",
        "NoCustomizerScript",
        "BadValidatorType",
        "UnsupportedValidatorType",
        "NoValidatorScript",
        "BadDistributeType",
        "BadSharedImageDistribute",
        "BadStagingResourceGroup",
    ];
    let code = error["code"].as_str().unwrap_or_default();
    match KNOWN.into_iter().find(|k| *k == code) {
        Some(known) => known,
        None if code == "InternalServerError" => "ServerError",
        None => "Other",
    }
}
