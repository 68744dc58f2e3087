//! `Microsoft.Compute/virtualMachines`: what a machine's PUT may say, and the catalogue of sizes.

mod applications;
mod diagnostics;
mod offered;
mod priority;
mod run_command;
mod security;
mod windows;

use super::shared_gallery::shared_reference;
use super::{Context, Fields, Head, check_zones, not_offered, unchanged};
use crate::{ArmError, ResourceId};
pub(super) use applications::application_profile;
pub use applications::{applications, extensions_not_allowed};
use base64_check::is_base64;
use diagnostics::diagnostics_profile;
pub use diagnostics::{BootDiagnostics, boot_diagnostics};
pub(super) use run_command::end_of;
pub use run_command::{Script, run_command, run_command_result};
use security::security_profile;
pub use security::trusted_launch;
use serde_json::{Map, Value, json};

const ROOT: &str = "virtualMachine";

/// `(name, vCPUs, MiB)`: sizes in the words of Azure's catalogue.
pub const SIZES: [(&str, u32, u64); 30] = [
    ("Standard_A1_v2", 1, 2048),
    ("Standard_A2_v2", 2, 4096),
    ("Standard_B1ls", 1, 512),
    ("Standard_B1s", 1, 1024),
    ("Standard_B1ms", 1, 2048),
    ("Standard_B2s", 2, 4096),
    ("Standard_B2ms", 2, 8192),
    ("Standard_B4ms", 4, 16_384),
    ("Standard_B2s_v2", 2, 8192),
    ("Standard_B2ts_v2", 2, 1024),
    ("Standard_B2ls_v2", 2, 4096),
    ("Standard_D1_v2", 1, 3584),
    ("Standard_D2_v2", 2, 7168),
    ("Standard_DS1_v2", 1, 3584),
    ("Standard_DS2_v2", 2, 7168),
    ("Standard_DS3_v2", 4, 14_336),
    ("Standard_D2s_v3", 2, 8192),
    ("Standard_D4s_v3", 4, 16_384),
    ("Standard_D2s_v4", 2, 8192),
    ("Standard_D2ds_v4", 2, 8192),
    ("Standard_D4ds_v4", 4, 16_384),
    ("Standard_D2s_v5", 2, 8192),
    ("Standard_D2ds_v5", 2, 8192),
    ("Standard_D4s_v5", 4, 16_384),
    ("Standard_D8s_v5", 8, 32_768),
    ("Standard_E2s_v5", 2, 16_384),
    ("Standard_E4s_v5", 4, 32_768),
    ("Standard_F2s_v2", 2, 4096),
    ("Standard_F4s_v2", 4, 8192),
    ("Standard_F8s_v2", 8, 16_384),
];

/// vCPUs and MiB of a size, its name in any letter case.
pub fn size(name: &str) -> Option<(&'static str, u32, u64)> {
    SIZES.iter().find(|(n, _, _)| n.eq_ignore_ascii_case(name)).copied()
}

/// Checks a new machine's body and fills in defaults. What it refers to (image, disks, interfaces) is checked by the engine.
///
/// # Errors
/// `InvalidParameter` and the catalogue's texts.
pub fn create(id: &ResourceId, new: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let root = Fields::root(ROOT, new)?;
    let head = Head::read(id, &root, None, ctx)?;
    let properties = root.object("properties")?;
    check_offered(&root, &properties)?;
    let mut body = Map::new();
    body.insert("hardwareProfile".into(), json!({"vmSize": vm_size(&properties)?}));
    body.insert("storageProfile".into(), storage(id, &properties.object("storageProfile")?, ctx)?);
    if let Some(profile) = os_profile(&properties.object("osProfile")?)? {
        body.insert("osProfile".into(), profile);
    }
    body.insert("networkProfile".into(), network(&properties.object("networkProfile")?)?);
    if let Some(set) = properties.object("virtualMachineScaleSet")?.str("id")? {
        body.insert("virtualMachineScaleSet".into(), json!({ "id": set }));
    }
    if let Some(set) = properties.object("availabilitySet")?.str("id")? {
        alone_in_its_set(&root, &properties)?;
        body.insert("availabilitySet".into(), json!({ "id": set }));
    }
    if let Some(profile) = security_profile(&properties, vm_size(&properties)?)? {
        body.insert("securityProfile".into(), profile);
    }
    if let Some(profile) = application_profile(&properties)? {
        body.insert("applicationProfile".into(), profile);
    }
    keep(&properties, &mut body)?;
    let mut middle: Vec<(&str, Value)> = plan(&root)?.map(|p| ("plan", p)).into_iter().collect();
    if let Some(zones) = root.strings("zones")?.filter(|z| !z.is_empty()) {
        check_zones(id, &zones, 1, &head.region)?;
        middle.push(("zones", json!(zones)));
    }
    Ok(head.body(middle, body))
}

/// A machine is in a set, or in a zone, or in a scale set.
fn alone_in_its_set(root: &Fields<'_>, properties: &Fields<'_>) -> Result<(), ArmError> {
    let zonal = root.strings("zones")?.is_some_and(|zones| !zones.is_empty());
    let other = match properties.object("virtualMachineScaleSet")?.is_empty() {
        false => "a virtual machine scale set",
        true if zonal => "a zone",
        true => return Ok(()),
    };
    let message = format!("A virtual machine cannot be in an availability set and in {other}.");
    Err(ArmError::bad_request("BadRequest", message).target("availabilitySet"))
}

/// Checks a PUT or merged PATCH on an existing machine: size, data disks, tags, delete options, caching, user data, applications and
/// what is only kept may change, the security type with its settings and the interfaces too (the engine says when); the rest must be what it was. Data disks are shown as they are to be: those that stay with their
/// `managedDisk.id`, new ones as in [`create`]; what is missing is to be detached.
///
/// # Errors
/// `PropertyChangeNotAllowed`; as [`create`] for what is new.
pub fn update(id: &ResourceId, new: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let root = Fields::root(ROOT, new)?;
    let head = Head::read(id, &root, Some(old), ctx)?;
    let properties = root.object("properties")?;
    let before = &old["properties"];
    check_offered(&root, &properties)?;
    check_fixed(&root, &properties, old)?;
    let mut body = before.as_object().cloned().unwrap_or_default();
    if !properties.object("hardwareProfile")?.is_empty() {
        body.insert("hardwareProfile".into(), json!({"vmSize": vm_size(&properties)?}));
    }
    let storage = properties.object("storageProfile")?;
    let mut shown = before["storageProfile"].clone();
    let os = storage.object("osDisk")?;
    if let Some(option) = os.one_of("deleteOption", &["Delete", "Detach"])? {
        shown["osDisk"]["deleteOption"] = option.into();
    }
    if let Some(caching) = os.one_of("caching", &["None", "ReadOnly", "ReadWrite"])? {
        shown["osDisk"]["caching"] = caching.into();
    }
    if storage.get("dataDisks").is_some() {
        shown["dataDisks"] = changed_data_disks(id, &storage, &before["storageProfile"]["dataDisks"], ctx)?;
    }
    body.insert("storageProfile".into(), shown);
    if properties.object("networkProfile")?.objects("networkInterfaces")?.is_some() {
        let network = changed_network(&properties.object("networkProfile")?, &before["networkProfile"])?;
        body.insert("networkProfile".into(), network);
    }
    let size = body["hardwareProfile"]["vmSize"].as_str().unwrap_or_default().to_owned();
    if let Some(profile) = security_profile(&properties, &size)? {
        body.insert("securityProfile".into(), profile);
    }
    if let Some(profile) = application_profile(&properties)? {
        body.insert("applicationProfile".into(), profile);
    }
    keep(&properties, &mut body)?;
    if let Some(profile) = body.get_mut("osProfile") {
        let agent = profile["linuxConfiguration"]["provisionVMAgent"] != Value::Bool(false)
            && profile["windowsConfiguration"]["provisionVMAgent"] != Value::Bool(false);
        let given = properties.object("osProfile")?;
        if given.get("allowExtensionOperations").is_some() {
            profile["allowExtensionOperations"] = extension_operations(&given, agent)?.into();
        }
    }
    let mut middle: Vec<(&str, Value)> = old.get("plan").cloned().map(|p| ("plan", p)).into_iter().collect();
    middle.extend(old.get("zones").cloned().map(|z| ("zones", z)));
    Ok(head.body(middle, body))
}

/// What Azure has and this server does not do is refused rather than lost.
fn check_offered(root: &Fields<'_>, properties: &Fields<'_>) -> Result<(), ArmError> {
    let given = |fields: &Fields<'_>, name: &str| {
        let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(Map::is_empty);
        fields.get(name).is_some_and(|v| !v.is_null() && !empty(v))
    };
    let storage = properties.object("storageProfile")?;
    let os = storage.object("osDisk")?;
    let refused: [(&Fields<'_>, &str, &str); 10] = [
        (root, "extendedLocation", "there are no edge zones"),
        (properties, "proximityPlacementGroup", "there are no placement groups"),
        (properties, "host", "there are no dedicated hosts"),
        (properties, "hostGroup", "there are no dedicated hosts"),
        (properties, "capacityReservation", "capacity cannot be reserved"),
        (&os, "vhd", "every disk is a managed disk"),
        (&os, "image", "every disk is a managed disk"),
        (&os, "diffDiskSettings", "there are no ephemeral disks"),
        (&os, "encryptionSettings", "guests are not encrypted from outside"),
        (&os, "writeAcceleratorEnabled", "there is no write accelerator"),
    ];
    for (fields, name, why) in refused {
        if given(fields, name) && fields.get(name) != Some(&Value::Bool(false)) {
            return Err(not_offered(&fields.path(name), why));
        }
    }
    offered::check(root, properties)
}

/// What a machine keeps for life.
fn check_fixed(root: &Fields<'_>, properties: &Fields<'_>, old: &Value) -> Result<(), ArmError> {
    let before = &old["properties"];
    let same = |path: &[&str]| -> Result<(), ArmError> {
        let mut fields = properties.clone();
        let mut stored = before;
        for name in &path[..path.len() - 1] {
            fields = fields.object(name)?;
            stored = &stored[*name];
        }
        let last = path[path.len() - 1];
        unchanged(&format!("{ROOT}.properties.{}", path.join(".")), fields.get(last), stored.get(last))
    };
    for name in ["id", "sharedGalleryImageId", "communityGalleryImageId", "publisher", "offer", "sku", "version"] {
        same(&["storageProfile", "imageReference", name])?;
    }
    unchanged(&format!("{ROOT}.plan"), root.get("plan"), old.get("plan"))?;
    unchanged(&format!("{ROOT}.zones"), root.get("zones"), old.get("zones"))?;
    same(&["storageProfile", "osDisk", "name"])?;
    same(&["storageProfile", "osDisk", "createOption"])?;
    same(&["storageProfile", "osDisk", "managedDisk", "id"])?;
    same(&["storageProfile", "osDisk", "diskSizeGB"])?;
    same(&["virtualMachineScaleSet", "id"])?;
    same(&["availabilitySet", "id"])?;
    same(&["osProfile", "computerName"])?;
    same(&["osProfile", "adminUsername"])?;
    same(&["osProfile", "linuxConfiguration", "disablePasswordAuthentication"])?;
    same(&["osProfile", "linuxConfiguration", "provisionVMAgent"])?;
    check_same_keys(properties, before)?;
    priority::check_unchanged(properties, before)
}

/// Keys come into a guest at its first boot alone.
fn check_same_keys(properties: &Fields<'_>, before: &Value) -> Result<(), ArmError> {
    let ssh = properties.object("osProfile")?.object("linuxConfiguration")?.object("ssh")?;
    let Some(given) = ssh.objects("publicKeys")? else { return Ok(()) };
    let given: Vec<String> = given.iter().map(|key| key.required_str("keyData")).collect::<Result<_, _>>()?;
    let stored = before["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"].as_array();
    let stored = stored.into_iter().flatten().filter_map(|key| key["keyData"].as_str());
    if given.iter().map(|key| key.trim()).eq(stored.map(str::trim)) {
        return Ok(());
    }
    Err(ArmError::property_change_not_allowed("linuxConfiguration.ssh.publicKeys"))
}

/// What is shown as it was sent, and decides nothing here.
fn keep(properties: &Fields<'_>, body: &mut Map<String, Value>) -> Result<(), ArmError> {
    if let Some(data) = properties.str("userData")? {
        if !is_base64(&data) {
            return Err(ArmError::invalid_parameter("userData", "User data should be in Base64 encoded format."));
        }
        body.insert("userData".into(), data.into());
    }
    if let Some(profile) = diagnostics_profile(properties)? {
        body.insert("diagnosticsProfile".into(), profile);
    }
    priority::keep(properties, body)?;
    for kept in ["licenseType", "additionalCapabilities", "extensionsTimeBudget"] {
        if let Some(value) = properties.get(kept) {
            body.insert(kept.into(), value.clone());
        }
    }
    Ok(())
}

/// What `attachDetachDataDisks` makes of a stored body: an update for [`update`]. A disk that comes without a LUN gets the first free
/// one (Swagger 2025-04-01, `AttachDetachDataDisksRequest`).
///
/// # Errors
/// `InvalidParameter` for a disk to detach that is not attached, and where nothing is asked for; `OperationNotSupported` for disk
/// encryption sets, the write accelerator and a forced detachment.
pub fn attach_detach(request: &Value, stored: &Value) -> Result<Value, ArmError> {
    const MANY: &str = "dataDisksToAttach";
    const FEW: &str = "dataDisksToDetach";
    let given = Fields::root("parameters", request)?;
    let (coming, going) = (given.objects(MANY)?.unwrap_or_default(), given.objects(FEW)?.unwrap_or_default());
    if coming.is_empty() && going.is_empty() {
        return Err(given.missing(MANY));
    }
    let mut body = stored.clone();
    let old = body["properties"]["storageProfile"]["dataDisks"].as_array().cloned().unwrap_or_default();
    let mut disks = old;
    for disk in &going {
        let id = disk.required_str("diskId")?;
        if disk.str("detachOption")?.is_some() {
            return Err(not_offered(&disk.path("detachOption"), "the guest is asked to let go of its disk"));
        }
        let is_it = |d: &&mut Value| d["managedDisk"]["id"].as_str().is_some_and(|i| i.eq_ignore_ascii_case(&id));
        let entry = disks.iter_mut().find(is_it).ok_or_else(|| {
            ArmError::invalid_parameter(
                &disk.path("diskId"),
                format!("Disk '{id}' is not attached to the virtual machine."),
            )
        })?;
        entry["toBeDetached"] = true.into();
    }
    for disk in &coming {
        if !disk.object("diskEncryptionSet")?.is_empty() {
            return Err(not_offered(&disk.path("diskEncryptionSet"), "this server has no disk encryption sets yet"));
        }
        if disk.bool("writeAcceleratorEnabled")? == Some(true) {
            return Err(not_offered(&disk.path("writeAcceleratorEnabled"), "there is no write accelerator"));
        }
        let id = disk.required_str("diskId")?;
        if disks.iter().any(|d| d["managedDisk"]["id"].as_str().is_some_and(|i| i.eq_ignore_ascii_case(&id))) {
            let message = format!("Disk '{id}' is attached to the virtual machine already.");
            return Err(ArmError::invalid_parameter(&disk.path("diskId"), message));
        }
        let taken = |lun: i64| disks.iter().any(|d| d["lun"] == lun && d["toBeDetached"] != true);
        let lun = match disk.int_within("lun", 0, 63)? {
            Some(lun) => lun,
            // Also not that of a disk that is about to go: both happen at once.
            None => (0..64).find(|lun| !disks.iter().any(|d| d["lun"] == *lun)).ok_or_else(|| {
                ArmError::invalid_parameter(&disk.path("lun"), "All LUNs of the virtual machine are in use.")
            })?,
        };
        if taken(lun) {
            return Err(lun_in_use(lun));
        }
        let mut entry = json!({"lun": lun, "createOption": "Attach", "managedDisk": {"id": id}});
        for name in ["caching", "deleteOption"] {
            if let Some(choice) = disk.str(name)? {
                entry[name] = choice.into();
            }
        }
        disks.push(entry);
    }
    body["properties"]["storageProfile"]["dataDisks"] = disks.into();
    Ok(body)
}

/// A disk is known by its id, or by its name where the entry has no id.
fn changed_data_disks(
    id: &ResourceId,
    profile: &Fields<'_>,
    old: &Value,
    ctx: &Context<'_>,
) -> Result<Value, ArmError> {
    let old = old.as_array().map_or(&[][..], Vec::as_slice);
    let mut shown: Vec<Value> = Vec::new();
    for (index, disk) in profile.objects("dataDisks")?.unwrap_or_default().into_iter().enumerate() {
        let disk_id = disk.object("managedDisk")?.str("id")?;
        let name = disk.str("name")?;
        let is_it = |o: &&Value| match (&disk_id, &name) {
            (Some(id), _) => o["managedDisk"]["id"].as_str().is_some_and(|i| i.eq_ignore_ascii_case(id)),
            (None, Some(name)) => o["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)),
            (None, None) => false,
        };
        let stays = old.iter().find(is_it);
        if disk.bool("toBeDetached")?.unwrap_or(false) {
            continue;
        }
        let lun = disk.int_within("lun", 0, 63)?.ok_or_else(|| disk.missing("lun"))?;
        if shown.iter().any(|s| s["lun"] == lun) {
            return Err(lun_in_use(lun));
        }
        let Some(stays) = stays else {
            if disk.one_of("createOption", &["Attach", "Empty", "FromImage"])? == Some("FromImage") {
                return Err(ArmError::invalid_parameter(
                    "dataDisks.createOption",
                    "A data disk can be created from an image only together with its VM.",
                ));
            }
            shown.push(data_disk(id, &disk, lun, index, ctx)?);
            continue;
        };
        unchanged(&format!("{ROOT}.properties.storageProfile.dataDisks.lun"), Some(&lun.into()), stays.get("lun"))?;
        let mut entry = stays.clone();
        if let Some(caching) = disk.one_of("caching", &["None", "ReadOnly", "ReadWrite"])? {
            entry["caching"] = caching.into();
        }
        if let Some(option) = disk.one_of("deleteOption", &["Delete", "Detach"])? {
            entry["deleteOption"] = option.into();
        }
        shown.push(entry);
    }
    Ok(shown.into())
}

fn lun_in_use(lun: i64) -> ArmError {
    ArmError::invalid_parameter(
        "dataDisks.lun",
        format!("A disk at LUN {lun} already exists. Specify a different LUN for each data disk."),
    )
}

pub(super) fn check_name(name: &str) -> Result<(), ArmError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty()
        || name.len() > 64
        || !name.chars().all(good)
        || name.ends_with(['-', '.'])
        || name.starts_with('_')
    {
        return Err(ArmError::invalid_parameter(
            "vmName",
            "Linux VM name may only contain 1-64 characters, including numbers, letters, hyphens, underscores and periods, and \
             cannot end with a period or a hyphen.",
        ));
    }
    Ok(())
}

fn vm_size(properties: &Fields<'_>) -> Result<&'static str, ArmError> {
    let given = properties.object("hardwareProfile")?.str("vmSize")?.unwrap_or_else(|| "Standard_D2s_v5".into());
    size(&given).map(|s| s.0).ok_or_else(|| unknown_size(&given))
}

/// 400 `InvalidParameter`, with the sizes that there are.
pub fn unknown_size(given: &str) -> ArmError {
    let known: Vec<&str> = SIZES.iter().map(|s| s.0).collect();
    ArmError::invalid_parameter(
        "vmSize",
        format!(
            "The value {given} provided for the VM size is not valid. The valid sizes in the current region are: {}.",
            known.join(",")
        ),
    )
}

fn storage(id: &ResourceId, profile: &Fields<'_>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let os = profile.object("osDisk")?;
    let option =
        os.one_of("createOption", &["FromImage", "Attach", "Empty"])?.ok_or_else(|| os.missing("createOption"))?;
    let image = profile.object("imageReference")?;
    let mut body = Map::new();
    match option {
        "FromImage" => body.insert("imageReference".into(), image_reference(&image)?),
        "Attach" if !image.is_empty() => {
            return Err(ArmError::invalid_parameter("imageReference", "Parameter 'imageReference' is not allowed."));
        }
        "Attach" => None,
        _ => {
            return Err(ArmError::invalid_parameter(
                "osDisk.createOption",
                "The value 'Empty' of osDisk.createOption is not allowed: an operating system disk is made FromImage or attached.",
            ));
        }
    };
    let disk = os.object("managedDisk")?;
    let mut shown = Map::new();
    if let Some(os_type) = os.one_of("osType", &["Linux", "Windows"])? {
        shown.insert("osType".into(), os_type.into());
    } else if option == "Attach" {
        return Err(os.missing("osType"));
    }
    let random = ctx.new_id.simple().to_string();
    let name = os.str("name")?.unwrap_or_else(|| format!("{}_OsDisk_1_{random}", id.name()));
    shown.insert("name".into(), name.into());
    shown.insert("createOption".into(), option.into());
    shown.insert(
        "caching".into(),
        os.one_of("caching", &["None", "ReadOnly", "ReadWrite"])?.unwrap_or("ReadWrite").into(),
    );
    let default_delete = "Detach";
    shown.insert(
        "deleteOption".into(),
        os.one_of("deleteOption", &["Delete", "Detach"])?.unwrap_or(default_delete).into(),
    );
    if let Some(gib) = os.int_within("diskSizeGB", 1, 4095)? {
        shown.insert("diskSizeGB".into(), gib.into());
    }
    let mut managed = Map::new();
    if option == "Attach" {
        managed.insert("id".into(), disk.required_str("id")?.into());
    } else {
        managed.insert(
            "storageAccountType".into(),
            disk.str("storageAccountType")?.unwrap_or_else(|| "Premium_LRS".into()).into(),
        );
    }
    shown.insert("managedDisk".into(), managed.into());
    body.insert("osDisk".into(), shown.into());
    body.insert("dataDisks".into(), data_disks(id, profile, ctx)?);
    Ok(body.into())
}

fn image_reference(image: &Fields<'_>) -> Result<Value, ArmError> {
    if let Some(shared) = shared_reference(image)? {
        return Ok(shared);
    }
    if let Some(id) = image.str("id")? {
        return Ok(json!({"id": id}));
    }
    let part = |name: &str| image.str(name).map(Option::unwrap_or_default);
    let (publisher, offer, sku, version) = (part("publisher")?, part("offer")?, part("sku")?, part("version")?);
    if publisher.is_empty() {
        return Err(ArmError::invalid_parameter(
            "imageReference",
            "Required parameter 'imageReference' is missing (null).",
        ));
    }
    if [&offer, &sku, &version].iter().any(|p| p.is_empty()) {
        return Err(ArmError::invalid_parameter(
            "imageReference",
            "A platform image is named by publisher, offer, sku and version: a part of imageReference is missing.",
        ));
    }
    Ok(json!({"publisher": publisher, "offer": offer, "sku": sku, "version": version}))
}

/// Purchase plan of the image; `None` where the request names none.
fn plan(root: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let given = root.object("plan")?;
    if given.is_empty() {
        return Ok(None);
    }
    let mut plan = json!({"name": given.required_str("name")?, "publisher": given.required_str("publisher")?,
        "product": given.required_str("product")?});
    if let Some(code) = given.str("promotionCode")? {
        plan["promotionCode"] = code.into();
    }
    Ok(Some(plan))
}

/// What is shown of a data disk that an image brings and the request does not name; `random` goes into its name.
pub fn data_disk_entry(machine: &str, lun: u32, caching: &str, random: &uuid::Uuid) -> Value {
    json!({
        "lun": lun,
        "name": format!("{machine}_lun_{lun}_2_{}", random.simple()),
        "createOption": "FromImage",
        "caching": caching,
        "managedDisk": {},
        "deleteOption": "Detach",
        "toBeDetached": false,
    })
}

fn data_disks(id: &ResourceId, profile: &Fields<'_>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let mut shown = Vec::new();
    let mut luns = std::collections::BTreeSet::new();
    for (index, disk) in profile.objects("dataDisks")?.unwrap_or_default().into_iter().enumerate() {
        let lun = disk.int_within("lun", 0, 63)?.ok_or_else(|| disk.missing("lun"))?;
        if !luns.insert(lun) {
            return Err(lun_in_use(lun));
        }
        shown.push(data_disk(id, &disk, lun, index, ctx)?);
    }
    Ok(shown.into())
}

fn data_disk(id: &ResourceId, disk: &Fields<'_>, lun: i64, index: usize, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let option =
        disk.one_of("createOption", &["Attach", "Empty", "FromImage"])?.ok_or_else(|| disk.missing("createOption"))?;
    let managed = disk.object("managedDisk")?;
    let caching = disk.one_of("caching", &["None", "ReadOnly", "ReadWrite"])?.unwrap_or("None");
    let delete = disk.one_of("deleteOption", &["Delete", "Detach"])?.unwrap_or("Detach");
    if option == "Attach" {
        return Ok(json!({"lun": lun, "createOption": option, "caching": caching, "deleteOption": delete,
            "managedDisk": {"id": managed.required_str("id")?}, "toBeDetached": false}));
    }
    let random = ctx.new_id.simple();
    let name = disk.str("name")?.unwrap_or_else(|| match option {
        "FromImage" => format!("{}_lun_{lun}_2_{random}", id.name()),
        // The OS disk is the first.
        _ => format!("{}_disk{}_{random}", id.name(), index + 2),
    });
    let sku = managed.str("storageAccountType")?.unwrap_or_else(|| "Premium_LRS".into());
    let mut entry = json!({"lun": lun, "name": name, "createOption": option, "caching": caching,
        "managedDisk": {"storageAccountType": sku}, "deleteOption": delete, "toBeDetached": false});
    match disk.int_within("diskSizeGB", 1, 32_767)? {
        Some(gib) => entry["diskSizeGB"] = gib.into(),
        None if option == "Empty" => return Err(disk.missing("diskSizeGB")),
        None => {}
    }
    Ok(entry)
}

/// `None` where the request has no osProfile.
fn os_profile(profile: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    if profile.is_empty() {
        return Ok(None);
    }
    if !profile.object("windowsConfiguration")?.is_empty() {
        return windows::os_profile(profile).map(Some);
    }
    let linux = profile.object("linuxConfiguration")?;
    let user = profile.required_str("adminUsername")?;
    check_user(&user)?;
    let computer = profile.required_str("computerName")?;
    let host_ok = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if computer.len() > 64 || !computer.chars().all(host_ok) || computer.starts_with('-') {
        return Err(ArmError::invalid_parameter(
            "computerName",
            "Linux host name cannot exceed 64 characters in length or contain the following characters: ` ~ ! @ # $ % ^ & * ( ) = + _ [ ] { } \\ | ; : ' \" , < > / ?.",
        ));
    }
    let mut keys = Vec::new();
    for key in linux.object("ssh")?.objects("publicKeys")?.unwrap_or_default() {
        let path = key.str("path")?.unwrap_or_else(|| format!("/home/{user}/.ssh/authorized_keys"));
        let data = key.required_str("keyData")?;
        if !is_ssh_key(&data) {
            let name = "linuxConfiguration.ssh.publicKeys.keyData";
            return Err(ArmError::invalid_parameter(name, format!("The value of parameter {name} is invalid.")));
        }
        keys.push(json!({"path": path, "keyData": data}));
    }
    let password = profile.str("adminPassword")?;
    let disable = linux.bool("disablePasswordAuthentication")?.unwrap_or(password.is_none());
    if keys.is_empty() && (password.is_none() || disable) {
        let what = "Authentication using either SSH or by user name and password must be enabled in Linux profile.";
        return Err(ArmError::invalid_parameter("linuxConfiguration", what));
    }
    if let Some(password) = &password {
        check_password(password)?;
    }
    let mut body = Map::new();
    body.insert("computerName".into(), computer.into());
    body.insert("adminUsername".into(), user.into());
    if let Some(password) = password {
        body.insert("adminPassword".into(), password.into());
    }
    if let Some(data) = custom_data(profile)? {
        body.insert("customData".into(), data.into());
    }
    let agent = linux.bool("provisionVMAgent")?.unwrap_or(true);
    let mut linux_body = json!({"disablePasswordAuthentication": disable, "provisionVMAgent": agent,
        "patchSettings": {"patchMode": "ImageDefault", "assessmentMode": "ImageDefault"}});
    if !keys.is_empty() {
        linux_body["ssh"] = json!({"publicKeys": keys});
    }
    body.insert("linuxConfiguration".into(), linux_body);
    body.insert("secrets".into(), json!([]));
    body.insert("allowExtensionOperations".into(), extension_operations(profile, agent)?.into());
    body.insert("requireGuestProvisionSignal".into(), true.into());
    Ok(Some(body.into()))
}

/// Without an agent nothing can be run in the guest.
fn extension_operations(profile: &Fields<'_>, agent: bool) -> Result<bool, ArmError> {
    match profile.bool("allowExtensionOperations")? {
        Some(true) if !agent => Err(ArmError::invalid_parameter(
            "allowExtensionOperations",
            "'allowExtensionOperations' cannot be set to 'True' when 'provisionVMAgent' is set to 'False'.",
        )),
        given => Ok(given.unwrap_or(agent)),
    }
}

fn custom_data(profile: &Fields<'_>) -> Result<Option<String>, ArmError> {
    match profile.str("customData")? {
        Some(data) if !is_base64(&data) => Err(ArmError::invalid_parameter(
            "customData",
            "Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 characters.",
        )),
        data => Ok(data),
    }
}

fn check_user(user: &str) -> Result<(), ArmError> {
    const RESERVED: [&str; 14] = [
        "root",
        "admin",
        "administrator",
        "user",
        "user1",
        "test",
        "guest",
        "daemon",
        "bin",
        "sys",
        "sync",
        "games",
        "nobody",
        "sshd",
    ];
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if RESERVED.contains(&user.to_ascii_lowercase().as_str()) {
        return Err(ArmError::invalid_parameter(
            "adminUsername",
            format!("The Admin Username specified is not allowed: '{user}' is reserved."),
        ));
    }
    if user.len() > 64 || !user.chars().all(ok) || user.starts_with('-') {
        return Err(ArmError::invalid_parameter(
            "adminUsername",
            "The Admin Username contains characters that are not allowed, or is longer than 64 characters.",
        ));
    }
    Ok(())
}

/// One line of an `authorized_keys` file, without options: its type, its Base64, perhaps a comment.
fn is_ssh_key(line: &str) -> bool {
    const KINDS: [&str; 5] =
        ["ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];
    let line = line.trim();
    let mut words = line.split_ascii_whitespace();
    let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    KINDS.contains(&kind) && !key.is_empty() && is_base64(key) && !line.chars().any(char::is_control)
}

/// 6–72 characters (Azure's bounds), three of: lower, upper, digit, other.
fn check_password(password: &str) -> Result<(), ArmError> {
    let classes = [
        password.chars().any(char::is_lowercase),
        password.chars().any(char::is_uppercase),
        password.chars().any(|c| c.is_ascii_digit()),
        password.chars().any(|c| !c.is_alphanumeric()),
    ];
    let complex = classes.iter().filter(|c| **c).count() >= 3 && !password.chars().any(char::is_control);
    if complex && (6..=72).contains(&password.chars().count()) {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(
        "adminPassword",
        "The supplied password must be between 6-72 characters long and must satisfy at least 3 of password complexity \
         requirements from the following: 1) Contains an uppercase character 2) Contains a lowercase character 3) Contains a \
         numeric digit 4) Contains a special character 5) Control characters are not allowed",
    ))
}

fn network(profile: &Fields<'_>) -> Result<Value, ArmError> {
    let interfaces = profile.objects("networkInterfaces")?.unwrap_or_default();
    if interfaces.is_empty() {
        return Err(profile.missing("networkInterfaces"));
    }
    let several = interfaces.len() > 1;
    let mut shown = Vec::new();
    for (i, nic) in interfaces.iter().enumerate() {
        let properties = nic.object("properties")?;
        let id: ResourceId = nic.required_str("id")?.parse().map_err(|e| {
            ArmError::bad_request("LinkedInvalidPropertyId", format!("A network interface's id is invalid: {e}."))
        })?;
        let mut body = Map::new();
        if several {
            body.insert("primary".into(), properties.bool("primary")?.unwrap_or(i == 0).into());
        }
        if let Some(option) = properties.one_of("deleteOption", &["Delete", "Detach"])? {
            body.insert("deleteOption".into(), option.into());
        }
        let mut entry = json!({"id": id.to_string()});
        if !body.is_empty() {
            entry["properties"] = body.into();
        }
        shown.push(entry);
    }
    Ok(json!({"networkInterfaces": shown}))
}

/// Interfaces that stay keep the delete option that they had, unless they are given another.
fn changed_network(profile: &Fields<'_>, old: &Value) -> Result<Value, ArmError> {
    let mut shown = network(profile)?;
    for entry in shown["networkInterfaces"].as_array_mut().into_iter().flatten() {
        let mut before = old["networkInterfaces"].as_array().into_iter().flatten();
        let same =
            |o: &&Value| o["id"].as_str().zip(entry["id"].as_str()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
        let option = before.find(same).map(|o| o["properties"]["deleteOption"].clone()).filter(Value::is_string);
        if let Some(option) = option
            && entry["properties"]["deleteOption"].is_null()
        {
            entry["properties"]["deleteOption"] = option;
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests;

mod base64_check {
    /// Standard alphabet, padded, at most 87,380 characters: Azure's bound.
    pub fn is_base64(text: &str) -> bool {
        let data = text.trim_end_matches('=');
        let alphabet = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
        text.len() <= 87_380
            && text.len().is_multiple_of(4)
            && text.len() - data.len() <= 2
            && data.chars().all(alphabet)
    }
}
