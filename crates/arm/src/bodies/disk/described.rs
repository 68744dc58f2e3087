//! What disks and snapshots say of themselves: OS, generation, security, capabilities, and who may reach their bytes.

use super::super::not_offered;
use crate::bodies::Fields;
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

/// In the order in which Azure shows them. What is not given keeps its stored value.
pub(in super::super) fn described(given: &Fields<'_>, stored: Option<&Value>) -> Result<Map<String, Value>, ArmError> {
    refuse_foreign_keys(given)?;
    let mut properties = Map::new();
    let old = |name: &str| stored.and_then(|s| s.get(name)).cloned();
    let os = given.one_of("osType", &["Linux", "Windows"])?;
    let generation = given.one_of("hyperVGeneration", &["V1", "V2"])?;
    if let (Some(generation), Some(old)) = (generation, old("hyperVGeneration"))
        && old != generation
    {
        return Err(ArmError::property_change_not_allowed(&given.path("hyperVGeneration")));
    }
    let plan = purchase_plan(given)?;
    let capabilities = capabilities(given, old("supportedCapabilities"))?;
    let hibernation = given.bool("supportsHibernation")?.map(Value::from);
    for (name, value) in [
        ("osType", os.map(Value::from)),
        ("hyperVGeneration", generation.map(Value::from)),
        ("purchasePlan", plan),
        ("supportedCapabilities", capabilities),
        ("supportsHibernation", hibernation),
    ] {
        if let Some(value) = value.or_else(|| old(name)) {
            properties.insert(name.into(), value);
        }
    }
    properties.insert("encryption".into(), json!({"type": "EncryptionAtRestWithPlatformKey"}));
    access(given, stored, &mut properties)?;
    let security = given.object("securityProfile")?;
    if security.str("secureVMDiskEncryptionSetId")?.is_some() {
        return Err(not_offered(
            &security.path("secureVMDiskEncryptionSetId"),
            "this server has no key vault, hence no disk encryption sets",
        ));
    }
    if let Some(kind) = security.str("securityType")?.filter(|k| k.to_ascii_lowercase().starts_with("confidentialvm")) {
        return Err(not_offered(
            &security.path("securityType"),
            &format!("'{kind}' is for confidential virtual machines, which this server does not run"),
        ));
    }
    let kind = security.one_of("securityType", &["Standard", "TrustedLaunch"])?;
    if let Some(profile) = kind.map(|k| json!({"securityType": k})).or_else(|| old("securityProfile")) {
        properties.insert("securityProfile".into(), profile);
    }
    Ok(properties)
}

/// No key vault is here to keep a customer's key.
fn refuse_foreign_keys(given: &Fields<'_>) -> Result<(), ArmError> {
    let encryption = given.object("encryption")?;
    let kind = encryption.str("type")?;
    if kind.is_some_and(|k| !k.eq_ignore_ascii_case("EncryptionAtRestWithPlatformKey"))
        || encryption.str("diskEncryptionSetId")?.is_some()
    {
        return Err(not_offered(
            &given.path("encryption"),
            "this server has no key vault, hence no disk encryption sets",
        ));
    }
    let settings = given.object("encryptionSettingsCollection")?;
    if settings.bool("enabled")? == Some(true) {
        return Err(not_offered(
            &settings.path("enabled"),
            "Azure Disk Encryption needs a key vault, which this server does not have",
        ));
    }
    Ok(())
}

/// `networkAccessPolicy`, `diskAccessId`, `publicNetworkAccess`, `dataAccessAuthMode`.
fn access(given: &Fields<'_>, stored: Option<&Value>, properties: &mut Map<String, Value>) -> Result<(), ArmError> {
    let old = |name: &str| stored.and_then(|s| s.get(name)).cloned();
    let policy = given.one_of("networkAccessPolicy", &["AllowAll", "AllowPrivate", "DenyAll"])?.map(Value::from);
    let policy = policy.or_else(|| old("networkAccessPolicy")).unwrap_or_else(|| "AllowAll".into());
    let private = policy == "AllowPrivate";
    properties.insert("networkAccessPolicy".into(), policy);
    let path = given.path("diskAccessId");
    let id = given.str("diskAccessId")?;
    if let Some(id) = &id {
        let kind = id.parse::<ResourceId>().map(|id| id.resource_type().key()).unwrap_or_default();
        if kind != "microsoft.compute/diskaccesses" {
            return Err(ArmError::invalid_parameter(
                &path,
                format!("The value '{id}' of parameter {path} is invalid: it is not the id of a disk access resource."),
            ));
        }
        // A PATCH of the policy alone still carries the id that was stored.
        if !private && !old("diskAccessId").is_some_and(|o| o.as_str().is_some_and(|o| o.eq_ignore_ascii_case(id))) {
            return Err(ArmError::invalid_parameter(
                &path,
                "A disk access resource can only be named together with networkAccessPolicy 'AllowPrivate'.",
            ));
        }
    }
    if private {
        let id = id.map(Value::from).or_else(|| old("diskAccessId")).ok_or_else(|| given.missing("diskAccessId"))?;
        properties.insert("diskAccessId".into(), id);
    }
    let public = given.one_of("publicNetworkAccess", &["Enabled", "Disabled"])?.map(Value::from);
    let public = public.or_else(|| old("publicNetworkAccess")).unwrap_or_else(|| "Enabled".into());
    properties.insert("publicNetworkAccess".into(), public);
    let mode = given.one_of("dataAccessAuthMode", &["AzureActiveDirectory", "None"])?.map(Value::from);
    if let Some(mode) = mode.or_else(|| old("dataAccessAuthMode")) {
        properties.insert("dataAccessAuthMode".into(), mode);
    }
    Ok(())
}

fn purchase_plan(given: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let plan = given.object("purchasePlan")?;
    if plan.is_empty() {
        return Ok(None);
    }
    let mut checked = Map::new();
    for name in ["name", "publisher", "product"] {
        checked.insert(name.into(), plan.required_str(name)?.into());
    }
    if let Some(code) = plan.str("promotionCode")? {
        checked.insert("promotionCode".into(), code.into());
    }
    Ok(Some(checked.into()))
}

/// Given members over stored ones.
fn capabilities(given: &Fields<'_>, old: Option<Value>) -> Result<Option<Value>, ArmError> {
    let fields = given.object("supportedCapabilities")?;
    let mut merged = old.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    let controllers = fields
        .one_of("diskControllerTypes", &["SCSI", "SCSI, NVMe", "NVMe, SCSI", "SCSI,NVMe", "NVMe,SCSI", "NVMe"])?;
    let security = fields
        .one_of("supportedSecurityOption", &["TrustedLaunchSupported", "TrustedLaunchAndConfidentialVMSupported"])?;
    let architecture = fields.one_of("architecture", &["x64", "Arm64"])?;
    for (name, value) in [
        ("diskControllerTypes", controllers.map(Value::from)),
        ("acceleratedNetwork", fields.bool("acceleratedNetwork")?.map(Value::from)),
        ("architecture", architecture.map(Value::from)),
        ("supportedSecurityOption", security.map(Value::from)),
    ] {
        if let Some(value) = value {
            merged.insert(name.into(), value);
        }
    }
    Ok((!merged.is_empty()).then(|| merged.into()))
}
