//! `Microsoft.Compute/virtualMachines`: decides what a machine is made of; `operations/virtual_machine_*.rs` make it run.
//!
//! Creating one writes, in one transaction: the machine, its OS disk (a new disk over the image's bytes, nothing is copied:
//! MD-9), the attachment of its data disks and interfaces. The guest's state is asked from the host process at every read.

mod applications;
mod data_disks;
mod diagnostics;
pub(crate) mod identity;
pub(crate) mod image;
mod instance_view;
mod interfaces;
pub(crate) mod security;
mod update;

use super::arm_context;
use super::managed_image::check_security_type;
use super::virtual_machine_scale_set::number;
use crate::capture::{is_off, outrun_readers};
use crate::fleet::{Lost, Place};
use crate::operations::virtual_machine_run_command::{self, RunCommand};
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider, Start, standard_view, unknown_action};
use crate::stored::{DiskInternal, internal, to_internal};
use crate::vm_applications::Applications;
use crate::{db_error, new_etag};
use async_trait::async_trait;
use data_disks::NewDisk;
use image::ImageKind;
pub(crate) use image::{ImageSource, resolve_image, resolve_shared};
use image::{check_architecture, check_plan, resolve_reference};
use lazuli_arm::bodies::availability_set::is_aligned;
use lazuli_arm::bodies::disk::{self, DiskState};
use lazuli_arm::bodies::virtual_machine_scale_set::is_uniform;
use lazuli_arm::bodies::{Fields, managed_identity, merge_patch, virtual_machine as body};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Expect, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) const KIND: &str = "Microsoft.Compute/virtualMachines";
const DISK: &str = "Microsoft.Compute/disks";
/// The Swagger's first api-version with `timeCreated` (recorded: 2021-03-01 shows none).
const TIME_CREATED_SINCE: &str = "2021-11-01";
/// Recorded: 2021-03-01 shows no `deleteOption`.
const DELETE_OPTION_SINCE: &str = "2021-07-01";
/// Kind of the operation that makes a machine run for the first time.
const CREATE: &str = "virtual_machine.create";

pub(crate) struct VirtualMachine;

/// What the engine remembers of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MachineInternal {
    pub vm_id: Uuid,
    /// `V1` or `V2`.
    pub generation: String,
    /// Key of the OS disk.
    pub os_disk: String,
    /// Keys of the data disks with their LUNs.
    pub data_disks: Vec<(u8, String)>,
    /// Keys of data disks that are being detached (`virtual_machine.update`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
    /// Keys of the interfaces, the primary one first.
    pub nics: Vec<String>,
    /// A generalized image is provisioned on its first boot; anything else is only switched on (GS-3, GS-8).
    pub provision: bool,
    /// Secrets of the first boot, never shown: `adminPassword`, `customData`.
    #[serde(default)]
    pub admin_password: Option<String>,
    #[serde(default)]
    pub custom_data: Option<String>,
    /// Its creation has succeeded once: whatever starts it afterwards only switches it on.
    #[serde(default)]
    pub created: bool,
    /// When it did.
    #[serde(default)]
    pub created_at_ms: i64,
    /// Key of the machine that had its host name in its network before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namesake: Option<String>,
    /// The storage account that boot diagnostics go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostics_account: Option<String>,
    /// Deallocated: the host holds nothing of it.
    #[serde(default)]
    pub deallocated: bool,
    /// Its guest was deprovisioned: it is a source of images and never starts again.
    #[serde(default)]
    pub generalized: bool,
    /// The host that it was given to, where its region has workers; until it is deallocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What it lost with its last worker; until it is deallocated again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    #[serde(default, skip_serializing_if = "Applications::is_empty")]
    pub applications: Applications,
}

impl MachineInternal {
    /// The worker that it is on; `None`: the server's own host, or nowhere.
    pub(crate) fn worker(&self) -> Option<&str> {
        self.place.as_ref()?.worker.as_deref()
    }

    /// Keys of all its disks, the OS disk first.
    pub(crate) fn disks(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.os_disk).chain(self.data_disks.iter().map(|(_, key)| key))
    }

    /// As [`Self::disks`], with those that are being detached.
    pub(crate) fn disks_and_leaving(&self) -> impl Iterator<Item = &String> {
        self.disks().chain(&self.leaving)
    }
}

#[async_trait]
impl Provider for VirtualMachine {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let arm = arm_context(cx);
        if let Some(old) = old {
            return update::plan(cx, id, &new, old).await;
        }
        let mut body = body::create(id, &new, &arm)?;
        let diagnostics_account = diagnostics::account(cx, id, &body).await?;
        let mut plan = Builder { cx, id, changes: vec![] };
        let image = match body["properties"]["storageProfile"].get("imageReference") {
            Some(reference) => {
                let location = body["location"].as_str().unwrap_or_default();
                let image = resolve_reference(cx, reference, &id.subscription, location).await?;
                check_plan(id, body.get("plan"), &image)?;
                Some(image)
            }
            None => None,
        };
        check_scale_set(cx, id, &body).await?;
        plan.changes.extend(check_availability_set(cx, &body).await?);
        check_os_profile(&body, image.as_ref())?;
        check_managed_image(id, &body, image.as_ref())?;
        if let Some(image) = &image {
            check_architecture(&body, &image.architecture)?;
            security::check_image(&body, image)?;
        }
        let (os_disk, generation) = match &image {
            Some(image) => plan.new_os_disk(&mut body, image).await?,
            None => plan.attached_os_disk(&mut body).await?,
        };
        let data_disks = plan.data_disks(&mut body, &os_disk, image.as_ref()).await?;
        let nics = plan.interfaces(&body, &[]).await?;
        let host_name = body["properties"]["osProfile"]["computerName"].as_str().unwrap_or(id.name());
        let namesake = interfaces::namesake(cx.engine, host_name, &nics).await?;
        if let Some(other) = &namesake {
            tracing::warn!(machine = %id, other, host_name, "two machines of a virtual network have one host name");
        }
        plan.changes.extend(identity::bind(cx, id, &new, &mut body, None).await?);
        let mut applications = Applications::default();
        plan.changes.extend(applications::want(cx, id, &body, None, &mut applications).await?);
        let secret = |body: &mut Value, name: &str| {
            let profile = body["properties"].get_mut("osProfile").and_then(Value::as_object_mut)?;
            profile.shift_remove(name)?.as_str().map(str::to_owned)
        };
        let state = MachineInternal {
            vm_id: Uuid::new_v4(),
            generation,
            os_disk,
            data_disks,
            leaving: vec![],
            nics,
            provision: image.as_ref().is_some_and(|i| i.generalized),
            admin_password: secret(&mut body, "adminPassword"),
            custom_data: secret(&mut body, "customData"),
            created: false,
            created_at_ms: 0,
            namesake,
            diagnostics_account,
            deallocated: false,
            generalized: false,
            place: None,
            lost: None,
            applications,
        };
        Ok(Plan {
            body,
            internal: to_internal(&state),
            start: Some(Start { kind: CREATE, params: json!({}) }),
            changes: plan.changes,
        })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let mut merged = merge_patch(&old.body, &patch);
        if let Some(identity) =
            managed_identity::patched(&old.body["identity"], Fields::root(KIND, &patch)?.get("identity"))
        {
            merged["identity"] = identity;
        }
        self.put(cx, id, merged, Some(old)).await
    }

    /// Its extensions are parts of it.
    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let start = Start { kind: "virtual_machine.delete", params: json!({}) };
        let mut changes = identity::unbind(old);
        changes.extend(super::delete_children(cx.engine.db().children(&old.key, 1000).await.map_err(db_error)?));
        Ok(DeletePlan { start: Some(start), changes })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = view_of(cx, row).await?;
        identity::show(cx, std::slice::from_mut(&mut view)).await?;
        Ok(view)
    }

    async fn show_page(&self, cx: Context<'_>, rows: &[Resource]) -> Result<Vec<Value>, ArmError> {
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            views.push(view_of(cx, row).await?);
        }
        identity::show(cx, &mut views).await?;
        Ok(views)
    }

    fn views(&self) -> &'static [&'static str] {
        &["vmSizes", "instanceView"]
    }

    async fn view(&self, cx: Context<'_>, row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        if name.eq_ignore_ascii_case("vmSizes") {
            return Ok(Some(json!({"value": crate::sizes::vm_sizes()})));
        }
        if !name.eq_ignore_ascii_case("instanceView") {
            return Ok(None);
        }
        let state: MachineInternal = internal(row)?;
        Ok(Some(instance_view::of(cx.engine, row, &state).await))
    }

    fn actions(&self) -> &'static [&'static str] {
        &[
            "start",
            "powerOff",
            "restart",
            "deallocate",
            "redeploy",
            "reapply",
            "generalize",
            "capture",
            "reimage",
            "attachDetachDataDisks",
            "retrieveBootDiagnosticsData",
            "runCommand",
        ]
    }

    async fn action(&self, cx: Context<'_>, row: &Resource, action: &str, body: Value) -> Result<ActionPlan, ArmError> {
        let kind = match action.to_ascii_lowercase().as_str() {
            "start" => "virtual_machine.start",
            "poweroff" => "virtual_machine.power_off",
            "restart" => "virtual_machine.restart",
            "deallocate" => "virtual_machine.deallocate",
            "redeploy" => "virtual_machine.redeploy",
            "reapply" => "virtual_machine.reapply",
            "generalize" => return generalize(cx, row).await,
            "capture" => return Err(capture(row, &body)?),
            "reimage" => return Err(reimage(row)),
            "attachdetachdatadisks" => return update::attach_detach(cx, row, &body).await,
            "runcommand" => return run_command(cx, row, &body),
            "retrievebootdiagnosticsdata" => return diagnostics::retrieve(cx, row).await,
            _ => return Err(unknown_action(&row.id, action)),
        };
        if kind == "virtual_machine.deallocate"
            && cx.call.query.get("hibernate").is_some_and(|v| v.eq_ignore_ascii_case("true"))
        {
            return Err(not_allowed("deallocate", &row.name, "with hibernation, which is not enabled on it"));
        }
        let skip = cx.call.query.get("skipshutdown").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let mut busy = row.clone();
        busy.provisioning_state = "Updating".into();
        let start = Start { kind, params: json!({"skipShutdown": skip}) };
        let mut changes = vec![];
        if matches!(kind, "virtual_machine.start" | "virtual_machine.restart" | "virtual_machine.redeploy") {
            let state: MachineInternal = internal(row)?;
            if state.generalized {
                let action = action.to_ascii_lowercase();
                return Err(not_allowed(&action, &row.name, "since the VM is generalized"));
            }
            changes = outrun_readers(cx.engine, &state).await?;
        }
        Ok(ActionPlan::Start { start, resource: Some(busy), changes })
    }

    fn delete_rank(&self) -> u8 {
        10
    }
}

/// What is shown of a machine but for who its identities are.
async fn view_of(cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
    let state: MachineInternal = internal(row)?;
    let mut view = standard_view(KIND, row);
    view["properties"]["vmId"] = json!(state.vm_id);
    if cx.call.api_version.at_least(TIME_CREATED_SINCE) {
        view["properties"]["timeCreated"] = json!(crate::time_text(row.created_ms));
    }
    view["etag"] = json!(format!("\"{}\"", row.etag));
    show_disks(&mut view["properties"]["storageProfile"], cx, state.deallocated);
    if let Some(properties) = view["properties"].as_object_mut()
        && !cx.call.expands("userData")
    {
        properties.shift_remove("userData");
    }
    if cx.call.expands("instanceView") {
        view["properties"]["instanceView"] = instance_view::of(cx.engine, row, &state).await;
    }
    Ok(view)
}

/// A deallocated machine shows nothing of its disks but what they are (recorded), and old clients see no `deleteOption`.
fn show_disks(profile: &mut Value, cx: Context<'_>, deallocated: bool) {
    let with_option = cx.call.api_version.at_least(DELETE_OPTION_SINCE);
    let show = |disk: &mut Value| {
        let Some(shown) = disk.as_object_mut() else { return };
        if !with_option {
            shown.shift_remove("deleteOption");
        }
        if deallocated {
            shown.shift_remove("diskSizeGB");
            if let Some(managed) = shown.get_mut("managedDisk").and_then(Value::as_object_mut) {
                managed.shift_remove("storageAccountType");
            }
        }
    };
    show(&mut profile["osDisk"]);
    profile["dataDisks"].as_array_mut().into_iter().flatten().for_each(show);
}

/// Azure's text (wire.md §5).
fn not_allowed(action: &str, name: &str, why: &str) -> ArmError {
    ArmError::conflict("OperationNotAllowed", format!("Operation '{action}' is not allowed on VM '{name}' {why}."))
}

/// Copies VHDs beside those of the machine's own: only for blob based disks, which no machine has here (wire.md §5).
fn capture(row: &Resource, body: &Value) -> Result<ArmError, ArmError> {
    let given = Fields::root("parameters", body)?;
    for name in ["vhdPrefix", "destinationContainerName"] {
        given.required_str(name)?;
    }
    given.bool("overwriteVhds")?.ok_or_else(|| given.missing("overwriteVhds"))?;
    let state: MachineInternal = internal(row)?;
    if !state.generalized {
        return Ok(not_allowed("capture", &row.name, "since the VM is not generalized"));
    }
    Ok(ArmError::conflict(
        "OperationNotAllowed",
        "The capture action is only supported on a Virtual Machine with blob based disks. Please use the 'Image' resource APIs \
         to create a managed Image from this virtual machine.",
    ))
}

fn reimage(row: &Resource) -> ArmError {
    not_allowed("reimage", &row.name, "since its OS disk is not an ephemeral disk")
}

/// The guest was deprovisioned (GS-12): from now on the machine is a source of generalized images and never starts again.
async fn generalize(cx: Context<'_>, row: &Resource) -> Result<ActionPlan, ArmError> {
    let mut state: MachineInternal = internal(row)?;
    if !state.created {
        return Err(not_allowed("generalize", &row.name, "since its creation has not succeeded"));
    }
    if !is_off(cx.engine, row).await? {
        return Err(not_allowed("generalize", &row.name, "since the VM is running"));
    }
    state.generalized = true;
    let resource = Resource { internal: to_internal(&state), ..row.clone() };
    Ok(ActionPlan::Done { reply: None, resource: Some(resource), changes: vec![] })
}

/// The script is sealed: it may hold secrets.
fn run_command(cx: Context<'_>, row: &Resource, request: &Value) -> Result<ActionPlan, ArmError> {
    let script = body::run_command(request)?;
    if let Some(error) = body::extensions_not_allowed(&row.body) {
        return Err(error);
    }
    let state: MachineInternal = internal(row)?;
    if state.deallocated || !state.created {
        return Err(virtual_machine_run_command::not_running());
    }
    let text = serde_json::to_string(&script).map_err(ArmError::internal)?;
    let sealed = cx.engine.secrets().seal(&virtual_machine_run_command::context(&row.key), &text)?;
    let params = serde_json::to_value(RunCommand { sealed, state: row.provisioning_state.clone() })
        .map_err(ArmError::internal)?;
    let busy = Resource { provisioning_state: "Updating".into(), ..row.clone() };
    let start = Start { kind: "virtual_machine.run_command", params };
    Ok(ActionPlan::Start { start, resource: Some(busy), changes: vec![] })
}

/// A machine belongs to a scale set of its region, whoever puts it in.
async fn check_scale_set(cx: Context<'_>, machine: &ResourceId, body: &Value) -> Result<(), ArmError> {
    let Some(id) = body["properties"]["virtualMachineScaleSet"]["id"].as_str() else { return Ok(()) };
    let right = "Microsoft.Compute/virtualMachineScaleSets/write";
    cx.engine.authorize_link(&cx.call.caller, id, right).await?;
    let set = cx.engine.db().resource(&id.to_ascii_lowercase()).await.map_err(db_error)?;
    let fits = |r: &Resource| r.kind == "microsoft.compute/virtualmachinescalesets" && body["location"] == r.location;
    if let Some(set) = set.filter(|r| fits(r)) {
        // The machines of a Uniform set are those that the set makes.
        if is_uniform(&set.body) && number(&set.name, machine.name()).is_none() {
            return Err(ArmError::bad_request(
                "OperationNotAllowed",
                format!("A VM cannot be put into '{id}': its orchestration mode is Uniform."),
            )
            .target("virtualMachineScaleSet.id"));
        }
        return Ok(());
    }
    Err(ArmError::bad_request(
        "InvalidParameter",
        format!("The virtual machine scale set '{id}' is not found in the location of the VM."),
    )
    .target("virtualMachineScaleSet.id"))
}

/// A machine belongs to an availability set of its region that takes managed disks, whoever puts it in.
async fn check_availability_set(cx: Context<'_>, body: &Value) -> Result<Option<Change>, ArmError> {
    let Some(id) = body["properties"]["availabilitySet"]["id"].as_str() else { return Ok(None) };
    cx.engine.authorize_link(&cx.call.caller, id, "Microsoft.Compute/availabilitySets/write").await?;
    let set = super::named_row(cx, id).await?.filter(|row| row.kind == "microsoft.compute/availabilitysets");
    let Some(set) = set.filter(|row| body["location"] == row.location) else {
        let message = format!("The availability set '{id}' is not found in the location of the VM.");
        return Err(ArmError::invalid_parameter("availabilitySet.id", message));
    };
    if is_aligned(&set.body) {
        return Ok(Some(Change::RequireResource { key: set.key }));
    }
    Err(ArmError::conflict(
        "OperationNotAllowed",
        "Addition of a VM with managed disks to non-managed Availability Set or addition of a VM with blob based disks to managed \
         Availability Set is not supported. Please create an Availability Set with 'managed' property set in order to add a VM with \
         managed disks to it.",
    ))
}

/// Generalized images need an osProfile; specialized ones and attached disks refuse it (GS-8, MD-7).
fn check_os_profile(body: &Value, image: Option<&ImageSource>) -> Result<(), ArmError> {
    let given = body["properties"].get("osProfile").is_some();
    let wanted = image.is_some_and(|i| i.generalized);
    match (wanted, given) {
        (true, false) => {
            Err(ArmError::invalid_parameter("osProfile", "Required parameter 'osProfile' is missing (null)."))
        }
        (false, true) => Err(ArmError::invalid_parameter("osProfile", "Parameter 'osProfile' is not allowed.")),
        (false, false) => Ok(()),
        (true, true) => check_system(body, image),
    }
}

/// The profile is for the image's system.
fn check_system(body: &Value, image: Option<&ImageSource>) -> Result<(), ArmError> {
    let windows = image.is_some_and(|i| i.os_type.eq_ignore_ascii_case("Windows"));
    let for_windows = body["properties"]["osProfile"].get("windowsConfiguration").is_some();
    match (windows, for_windows) {
        (true, false) => Err(ArmError::invalid_parameter(
            "osProfile.windowsConfiguration",
            "The image has Windows: 'osProfile.windowsConfiguration' must be given, and 'osProfile.linuxConfiguration' must not.",
        )),
        (false, true) => Err(ArmError::invalid_parameter(
            "osProfile.windowsConfiguration",
            "The image has Linux: 'osProfile.windowsConfiguration' is not allowed.",
        )),
        _ => Ok(()),
    }
}

/// A managed image serves its own subscription (MI-5), and no machine with a security type (MI-7).
fn check_managed_image(id: &ResourceId, body: &Value, image: Option<&ImageSource>) -> Result<(), ArmError> {
    let Some(image) = image.filter(|i| i.kind == ImageKind::Managed) else { return Ok(()) };
    check_security_type(&body["properties"]["securityProfile"]["securityType"])?;
    image.check_subscription(id, "VM")
}

/// Gathers the rows that change together with the machine's own.
struct Builder<'a> {
    cx: Context<'a>,
    id: &'a ResourceId,
    changes: Vec<Change>,
}

impl Builder<'_> {
    fn location(&self, body: &Value) -> String {
        body["location"].as_str().unwrap_or_default().to_owned()
    }

    /// What the body ties the machine to; the caller must have this right on it.
    async fn linked(&self, id: &str, right: &str) -> Result<Resource, ArmError> {
        self.cx.engine.authorize_link(&self.cx.call.caller, id, right).await?;
        let row = self.cx.engine.db().resource(&id.to_ascii_lowercase()).await.map_err(db_error)?;
        row.ok_or_else(|| ArmError::new(404, "NotFound", format!("Resource {id} is not found.")).target(id))
    }

    /// A disk of its own over the image's bytes in this region.
    async fn new_os_disk(&mut self, body: &mut Value, image: &ImageSource) -> Result<(String, String), ArmError> {
        let os = body["properties"]["storageProfile"]["osDisk"].clone();
        let size = image.os_disk_size(os["diskSizeGB"].as_u64().unwrap_or_default())?;
        // An image that is being deleted must not lose its bytes between the look at it and this commit.
        self.changes.push(Change::RequireResource { key: image.version_id.to_ascii_lowercase() });
        let mut properties = json!({"osType": image.os_type, "hyperVGeneration": image.generation});
        if body::trusted_launch(body).is_some() {
            properties["securityProfile"] = json!({"securityType": "TrustedLaunch"});
        }
        let new = NewDisk {
            name: os["name"].as_str().unwrap_or_default(),
            properties,
            creation_data: image.creation_data(),
            sku: &os["managedDisk"]["storageAccountType"],
            base: Some(image.os_disk.clone()),
            size_bytes: size,
            uefi_settings: image.uefi_settings.clone(),
            boot_trace: image.boot_trace.clone(),
        };
        let (disk_id, key) = self.new_disk(body, new).await?;
        let os = &mut body["properties"]["storageProfile"]["osDisk"];
        os["osType"] = json!(image.os_type);
        os["diskSizeGB"] = json!(disk::gib_of(size));
        os["managedDisk"]["id"] = json!(disk_id);
        if let Some(exact) = &image.exact_version {
            body["properties"]["storageProfile"]["imageReference"]["exactVersion"] = json!(exact);
        }
        Ok((key, image.generation.clone()))
    }

    async fn attached_os_disk(&mut self, body: &mut Value) -> Result<(String, String), ArmError> {
        let id =
            body["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"].as_str().unwrap_or_default().to_owned();
        let row = self.attach(&id, &self.location(body)).await?;
        let capabilities = &row.body["properties"]["supportedCapabilities"];
        check_architecture(body, capabilities["architecture"].as_str().unwrap_or("x64"))?;
        security::check_os_disk(body, &row.body)?;
        security::check_keys(body, &internal::<DiskInternal>(&row)?.uefi_settings, &row.id)?;
        let generation = row.body["properties"]["hyperVGeneration"].as_str().unwrap_or("V1").to_owned();
        let os = &mut body["properties"]["storageProfile"]["osDisk"];
        os["name"] = json!(row.name);
        os["managedDisk"]["id"] = json!(row.id);
        os["managedDisk"]["storageAccountType"] = row.body["sku"]["name"].clone();
        os["diskSizeGB"] = row.body["properties"]["diskSizeGB"].clone();
        Ok((row.key, generation))
    }

    /// One machine a disk (MD-6), and only a disk that nobody uploads to or reads from.
    async fn attach(&mut self, id: &str, location: &str) -> Result<Resource, ArmError> {
        let old = self.linked(id, "Microsoft.Compute/disks/write").await?;
        if old.kind != DISK.to_ascii_lowercase() {
            return Err(ArmError::invalid_parameter("managedDisk.id", format!("'{id}' is not a managed disk.")));
        }
        if old.location != location {
            return Err(ArmError::bad_request(
                "InvalidParameter",
                format!(
                    "Disk '{}' is in location '{}': it cannot be attached to a VM in '{location}'.",
                    old.name, old.location
                ),
            ));
        }
        if let Some(owner) = old.body["managedBy"].as_str() {
            return Err(ArmError::conflict(
                "AttachDiskWhileBeingDetached",
                format!("Disk '{}' cannot be attached as the disk is already owned by VM '{owner}'.", old.name),
            ));
        }
        if disk::is_copying(&old.body) {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!("Disk '{}' cannot be attached before its copy is complete (completionPercent).", old.name),
            ));
        }
        if old.provisioning_state != "Succeeded" || disk::state(&old.body) != Some(DiskState::Unattached) {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!(
                    "Disk '{}' cannot be attached as it is in state '{}'. End its access (revoke its SAS) and retry.",
                    old.name,
                    old.body["properties"]["diskState"].as_str().unwrap_or("unknown")
                ),
            ));
        }
        let mut row = old.clone();
        disk::set_state(&mut row.body, DiskState::Attached);
        row.body["managedBy"] = json!(self.machine_id());
        let mut state: DiskInternal = internal(&row)?;
        state.written = true;
        row.internal = to_internal(&state);
        row.etag = new_etag();
        self.changes.push(Change::PutResource { resource: row.clone(), expect: Expect::Etag(old.etag) });
        Ok(row)
    }

    fn machine_id(&self) -> String {
        crate::write::canonical(self.id, KIND)
    }
}
