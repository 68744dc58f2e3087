//! `Microsoft.Compute/virtualMachineScaleSets`: the model's row, and its machines as instances of it.
//!
//! ```text
//! Flexible   virtualMachines/{set}_{random}   shown as machines and as instances, known by their names
//! Uniform    virtualMachines/{set}_{number}   listed as instances alone, known by their numbers
//! ```
//! The machines are ordinary virtual machines that name their set; `operations/virtual_machine_scale_set.rs` makes and removes them
//! under the rights of whoever asked.

pub(crate) mod extensions;
pub(crate) mod rolling;

use super::arm_context;
use super::virtual_machine_extension::ExtensionInternal;
use crate::call::{ActionReply, Listing};
use crate::deployments::Who;
use crate::operations::virtual_machine_scale_set::{Params, What, Work};
use crate::provider::{
    ActionPlan, Context, DeletePlan, Elsewhere, Kept, Plan, Provider, Start, standard_view, unknown_action,
};
use crate::stored::{internal, to_internal};
use crate::{Engine, db_error, time_text};
use async_trait::async_trait;
use lazuli_arm::bodies::virtual_machine_scale_set as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, OperationState, Resource, ResourceQuery, Write};
use rolling::{CANCEL, RollingUpgrade};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;
use uuid::Uuid;

const KIND: &str = "Microsoft.Compute/virtualMachineScaleSets";
pub(crate) const INSTANCE: &str = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines";
/// How long the deletion of a part of a set may take.
const GONE: Duration = Duration::from_secs(120);
/// In the profile's `osProfile`, never shown.
const SECRETS: [&str; 2] = ["adminPassword", "customData"];
/// Among the sealed secrets: those of the model's extensions, by their names.
const PROTECTED: &str = "protectedSettings";

pub(crate) struct VirtualMachineScaleSet;

/// What the engine remembers of a scale set.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScaleSetInternal {
    pub unique_id: Uuid,
    /// The secrets of the profile's `osProfile` and [`PROTECTED`], a JSON object, sealed for [`place`].
    pub sealed: String,
    /// The number of a Uniform set's next machine, if none that lives has a higher one.
    #[serde(default)]
    pub next: u64,
    /// Extensions that the model once had: an upgrade takes them off machines.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub former_extensions: BTreeSet<String>,
    /// The rolling upgrade that runs, or that ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<RollingUpgrade>,
}

impl ScaleSetInternal {
    fn new() -> Self {
        Self {
            unique_id: Uuid::new_v4(),
            sealed: String::new(),
            next: 0,
            former_extensions: BTreeSet::new(),
            rolling: None,
        }
    }
}

/// Where a set's secrets are sealed for.
fn place(key: &str) -> String {
    format!("{key}#osProfile")
}

/// The stored body of a set with the secrets that are kept apart from it.
///
/// # Errors
/// If the row was written by something else.
pub(crate) fn with_secrets(engine: &Engine, row: &Resource) -> Result<Value, ArmError> {
    let state: ScaleSetInternal = internal(row)?;
    let mut body = row.body.clone();
    let secrets: Value =
        serde_json::from_str(&engine.secrets().unseal(&place(&row.key), &state.sealed)?).map_err(ArmError::internal)?;
    if let Some(profile) = body["properties"]["virtualMachineProfile"]["osProfile"].as_object_mut() {
        for (name, value) in secrets.as_object().into_iter().flatten().filter(|(name, _)| *name != PROTECTED) {
            profile.insert(name.clone(), value.clone());
        }
    }
    for extension in body::extensions_mut(&mut body) {
        let protected = &secrets[PROTECTED][extension["name"].as_str().unwrap_or_default()];
        if !protected.is_null() {
            extension["properties"]["protectedSettings"] = protected.clone();
        }
    }
    Ok(body)
}

/// Takes what is secret out of a body.
fn take_secrets(body: &mut Value) -> Value {
    let mut secrets = json!({});
    if let Some(profile) =
        body["properties"]["virtualMachineProfile"].get_mut("osProfile").and_then(Value::as_object_mut)
    {
        for name in SECRETS {
            if let Some(secret) = profile.shift_remove(name) {
                secrets[name] = secret;
            }
        }
    }
    for extension in body::extensions_mut(body) {
        let name = extension["name"].as_str().unwrap_or_default().to_owned();
        if let Some(secret) =
            extension["properties"].as_object_mut().and_then(|properties| properties.shift_remove("protectedSettings"))
        {
            secrets[PROTECTED][name] = secret;
        }
    }
    secrets
}

/// The machines of a set, by their age.
pub(crate) async fn members(engine: &Engine, set: &Resource) -> Result<Vec<Resource>, ArmError> {
    let query = ResourceQuery {
        kind: Some("microsoft.compute/virtualmachines".to_owned()),
        under: set.parent.clone(),
        ..ResourceQuery::default()
    };
    let mut rows = engine.all_rows(query).await?;
    rows.retain(|r| {
        let of = r.body["properties"]["virtualMachineScaleSet"]["id"].as_str();
        of.is_some_and(|id| id.eq_ignore_ascii_case(&set.id))
    });
    if body::is_uniform(&set.body) {
        rows.sort_by_key(|r| number(&set.name, &r.name));
    } else {
        rows.sort_by_key(|r| r.created_ms);
    }
    Ok(rows)
}

/// The number of a Uniform set's machine of this name.
pub(crate) fn number(set: &str, machine: &str) -> Option<u64> {
    machine.get(set.len()..)?.strip_prefix('_')?.parse().ok()
}

/// What actions on a set call its machine.
pub(crate) fn instance_id(set: &Resource, machine: &Resource) -> String {
    match number(&set.name, &machine.name).filter(|_| body::is_uniform(&set.body)) {
        Some(number) => number.to_string(),
        None => machine.name.clone(),
    }
}

/// Ids of the Uniform sets below a scope, in lower case: their machines are in no list of machines.
pub(crate) async fn uniform_sets(engine: &Engine, under: &str) -> Result<HashSet<String>, ArmError> {
    let query = ResourceQuery {
        kind: Some(KIND.to_ascii_lowercase()),
        under: Some(under.to_owned()),
        ..ResourceQuery::default()
    };
    let sets = engine.all_rows(query).await?;
    Ok(sets.into_iter().filter(|s| body::is_uniform(&s.body)).map(|s| s.key).collect())
}

#[async_trait]
impl Provider for VirtualMachineScaleSet {
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
        let before = old.map(|o| with_secrets(cx.engine, o)).transpose()?;
        let mut body = body::put(id, &new, before.as_ref(), &arm_context(cx))?;
        let secrets = take_secrets(&mut body);
        let mut state = match old.map(internal::<ScaleSetInternal>).transpose()? {
            Some(state) => state,
            None => ScaleSetInternal::new(),
        };
        state.sealed = cx.engine.secrets().seal(&place(&id.key()), &secrets.to_string())?;
        let names =
            |set: &Value| body::extensions(set).iter().filter_map(|e| e["name"].as_str().map(str::to_owned)).collect();
        let had: BTreeSet<String> = old.map(|o| names(&o.body)).unwrap_or_default();
        let has: BTreeSet<String> = names(&body);
        state.former_extensions.extend(had);
        state.former_extensions.retain(|name| !has.contains(name));
        let start = start(cx, Work::Scale)?;
        Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes: vec![] })
    }

    async fn delete(&self, cx: Context<'_>, _old: &Resource) -> Result<DeletePlan, ArmError> {
        Ok(DeletePlan { start: Some(start(cx, Work::Remove)?), changes: vec![] })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let state: ScaleSetInternal = internal(row)?;
        let mut view = standard_view(KIND, row);
        view["etag"] = json!(format!("\"{}\"", row.etag));
        view["properties"]["uniqueId"] = json!(state.unique_id);
        view["properties"]["timeCreated"] = json!(time_text(row.created_ms));
        if row.provisioning_state == "Succeeded" {
            // Machines that were deleted by themselves are no part of it any more.
            body::set_capacity(&mut view, members(cx.engine, row).await?.len());
        }
        Ok(view)
    }

    fn views(&self) -> &'static [&'static str] {
        &["instanceView"]
    }

    async fn view(&self, cx: Context<'_>, row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        if !name.eq_ignore_ascii_case("instanceView") {
            return Ok(None);
        }
        let machines = members(cx.engine, row).await?;
        let mut extensions = Vec::new();
        for extension in body::extensions(&row.body) {
            let name = extension["name"].as_str().unwrap_or_default();
            let mut on_machines = Vec::new();
            for machine in &machines {
                on_machines.extend(extension_of(cx.engine, machine, name).await?);
            }
            extensions.push(json!({"name": name, "statusesSummary": summary(&on_machines)}));
        }
        let state = row.provisioning_state.to_lowercase();
        Ok(Some(json!({
            "virtualMachine": {"statusesSummary": summary(&machines)},
            "extensions": extensions,
            "statuses": [{"code": format!("ProvisioningState/{state}"), "level": "Info",
                "displayStatus": format!("Provisioning {state}"), "time": time_text(row.changed_ms)}],
        })))
    }

    fn actions(&self) -> &'static [&'static str] {
        &[
            "start",
            "powerOff",
            "restart",
            "deallocate",
            "delete",
            "manualupgrade",
            "reimage",
            "reimageall",
            "osRollingUpgrade",
            "extensionRollingUpgrade",
            CANCEL,
        ]
    }

    fn interrupts(&self, action: &str) -> bool {
        action == CANCEL
    }

    async fn action(
        &self,
        cx: Context<'_>,
        row: &Resource,
        action: &str,
        request: Value,
    ) -> Result<ActionPlan, ArmError> {
        if action == CANCEL {
            return rolling::cancel(cx, row);
        }
        let action = action.to_ascii_lowercase();
        match action.as_str() {
            "osrollingupgrade" => return rolling::begin(cx, row, What::Machines),
            "extensionrollingupgrade" => return rolling::begin(cx, row, What::Extensions),
            _ => {}
        }
        let required = matches!(action.as_str(), "delete" | "manualupgrade");
        let wanted = body::instance_ids(&request, required)?;
        let known = members(cx.engine, row).await?;
        let chosen: Vec<Resource> = match wanted {
            None => known,
            Some(ids) => ids
                .into_iter()
                .map(|id| {
                    let found = known.iter().find(|m| instance_id(row, m).eq_ignore_ascii_case(&id)).cloned();
                    found.ok_or_else(|| no_instance(&row.name, &id))
                })
                .collect::<Result<_, _>>()?,
        };
        if action == "reimage"
            && chosen.iter().any(|m| m.body["properties"]["storageProfile"]["dataDisks"][0].is_object())
        {
            return Err(ArmError::bad_request(
                "OperationNotSupported",
                "Machines with data disks are reimaged with all of their disks here: ask for reimageall.",
            ));
        }
        let machines: Vec<String> = chosen.into_iter().map(|m| m.name).collect();
        let work = match action.as_str() {
            "delete" => Work::Delete { machines },
            "manualupgrade" => Work::Upgrade { machines },
            "reimage" | "reimageall" => Work::Reimage { machines },
            "start" | "poweroff" | "restart" | "deallocate" => Work::Power { machines, action },
            _ => return Err(unknown_action(&row.id, &action)),
        };
        let busy = Resource { provisioning_state: "Updating".into(), ..row.clone() };
        Ok(ActionPlan::Start { start: start(cx, work)?, resource: Some(busy), changes: vec![] })
    }

    /// Before its machines: it takes them along.
    fn delete_rank(&self) -> u8 {
        5
    }
}

fn start(cx: Context<'_>, work: Work) -> Result<Start, ArmError> {
    let kind = work.kind();
    let params = serde_json::to_value(Params { who: Who::of(cx.call), work }).map_err(ArmError::internal)?;
    Ok(Start { kind, params })
}

fn no_instance(set: &str, id: &str) -> ArmError {
    ArmError::invalid_parameter(
        "instanceIds",
        format!("The provided instanceId {id} is not an active Virtual Machine Scale Set VM instanceId of '{set}'."),
    )
}

/// `…/virtualMachineScaleSets/{set}/virtualMachines`: the machines as instances of their set. What is asked of one is asked of the
/// set for it alone; those of Flexible sets are written as the machines that they are.
pub(crate) struct ScaleSetInstance;

#[async_trait]
impl Provider for ScaleSetInstance {
    fn resource_type(&self) -> &'static str {
        INSTANCE
    }

    fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        Some(self)
    }

    fn views(&self) -> &'static [&'static str] {
        super::virtual_machine::VirtualMachine.views()
    }

    fn not_written(&self, id: &ResourceId) -> ArmError {
        not_here(id)
    }

    fn actions(&self) -> &'static [&'static str] {
        &["start", "powerOff", "restart", "deallocate", "reimage", "reimageall"]
    }

    async fn absent_action(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        action: &str,
        _body: &Value,
    ) -> Result<Option<ActionReply>, ArmError> {
        on_set(cx, id, action).await.map(Some)
    }
}

/// Asks the set for what is asked of one of its instances.
async fn on_set(cx: Context<'_>, instance: &ResourceId, action: &str) -> Result<ActionReply, ArmError> {
    let set = instance.parent().ok_or_else(|| not_here(instance))?;
    cx.engine.action(cx.call, &set, action, json!({"instanceIds": [instance.name()]})).await
}

#[async_trait]
impl Elsewhere for ScaleSetInstance {
    async fn get(&self, cx: Context<'_>, id: &ResourceId) -> Result<Option<Kept>, ArmError> {
        let Some(set) = set_of(cx, id).await? else { return Ok(None) };
        let Some(machine) = member(cx, &set, id.name()).await? else { return Ok(None) };
        Ok(Some(Kept { view: instance(cx, &set, &machine).await?, etag: machine.etag, operation: None }))
    }

    async fn view(&self, cx: Context<'_>, id: &ResourceId, name: &str) -> Result<Option<Value>, ArmError> {
        let set = set_of(cx, id).await?.ok_or_else(|| self.absent(id))?;
        let machine = member(cx, &set, id.name()).await?.ok_or_else(|| self.absent(id))?;
        super::virtual_machine::VirtualMachine.view(cx, &machine, name).await
    }

    async fn list(&self, cx: Context<'_>, parent: &ResourceId) -> Result<Listing, ArmError> {
        let set = cx.engine.db().resource(&parent.key()).await.map_err(db_error)?;
        let Some(set) = set else { return Ok(Listing { items: vec![], next: None }) };
        let mut items = Vec::new();
        for machine in members(cx.engine, &set).await? {
            items.push(instance(cx, &set, &machine).await?);
        }
        Ok(Listing { items, next: None })
    }

    /// Returns when the machine is gone.
    async fn delete(&self, cx: Context<'_>, id: &ResourceId, record: Vec<Change>) -> Result<bool, ArmError> {
        let Some(set) = set_of(cx, id).await? else { return Ok(false) };
        if !body::is_uniform(&set.body) {
            return Err(not_here(id));
        }
        if member(cx, &set, id.name()).await?.is_none() {
            return Ok(false);
        }
        if let ActionReply::Started { operation } = on_set(cx, id, "delete").await? {
            gone(cx, &operation, id.name(), &set.name).await?;
        }
        cx.engine.db().write(Write { fence: None, changes: record }).await.map_err(ArmError::internal)?;
        Ok(true)
    }
}

/// Waits for the operation of a set that takes a part of it away.
async fn gone(cx: Context<'_>, operation: &str, part: &str, set: &str) -> Result<(), ArmError> {
    let ended = cx.engine.db().wait_operation(operation, GONE).await.map_err(db_error)?;
    if ended.is_some_and(|o| o.state != OperationState::Succeeded) {
        return Err(ArmError::conflict(
            "OperationNotAllowed",
            format!("'{part}' of '{set}' is not gone yet: see the operations of the set."),
        ));
    }
    Ok(())
}

async fn member(cx: Context<'_>, set: &Resource, id: &str) -> Result<Option<Resource>, ArmError> {
    Ok(members(cx.engine, set).await?.into_iter().find(|m| instance_id(set, m).eq_ignore_ascii_case(id)))
}

async fn set_of(cx: Context<'_>, part: &ResourceId) -> Result<Option<Resource>, ArmError> {
    let Some(set) = part.parent() else { return Ok(None) };
    cx.engine.db().resource(&set.key()).await.map_err(db_error)
}

/// As Azure shows instances: of Flexible sets the machine, with its name for an instance id; of Uniform sets a part of the set.
async fn instance(cx: Context<'_>, set: &Resource, machine: &Resource) -> Result<Value, ArmError> {
    let provider = super::virtual_machine::VirtualMachine;
    let mut view = provider.show(cx, machine).await?;
    let id = instance_id(set, machine);
    if body::is_uniform(&set.body) {
        view["id"] = json!(format!("{}/virtualMachines/{id}", set.id));
        view["type"] = json!(INSTANCE);
        if let Some(properties) = view["properties"].as_object_mut() {
            properties.shift_remove("virtualMachineScaleSet");
        }
        view["properties"]["modelDefinitionApplied"] = json!("VirtualMachineScaleSet");
        let network = &set.body["properties"]["virtualMachineProfile"]["networkProfile"];
        view["properties"]["networkProfileConfiguration"] =
            json!({"networkInterfaceConfigurations": network["networkInterfaceConfigurations"]});
    }
    view["instanceId"] = json!(id);
    view["sku"] = json!({"name": machine.body["properties"]["hardwareProfile"]["vmSize"], "tier": "Standard"});
    let outdated = outdated(cx.engine, &Model::of(cx.engine, set)?, machine).await?;
    view["properties"]["latestModelApplied"] = json!(outdated.is_none());
    Ok(view)
}

/// What machines are compared with.
pub(crate) struct Model {
    /// The set's body with its secrets.
    pub body: Value,
    pub former_extensions: BTreeSet<String>,
}

impl Model {
    pub(crate) fn of(engine: &Engine, set: &Resource) -> Result<Self, ArmError> {
        let former_extensions = internal::<ScaleSetInternal>(set)?.former_extensions;
        Ok(Self { body: with_secrets(engine, set)?, former_extensions })
    }
}

/// What an upgrade would change of a machine: itself, and with it all else, or its extensions and applications alone. `None`: it is of
/// the model as it is now.
pub(crate) async fn outdated(engine: &Engine, model: &Model, machine: &Resource) -> Result<Option<What>, ArmError> {
    if !is_latest(&model.body, &machine.body) {
        return Ok(Some(What::Machines));
    }
    if body::with_applications(&model.body, &machine.body).is_some() {
        return Ok(Some(What::Extensions));
    }
    for extension in body::extensions(&model.body) {
        let applied = match extension_of(engine, machine, extension["name"].as_str().unwrap_or_default()).await? {
            Some(row) => {
                let protected = internal::<ExtensionInternal>(&row)?.protected(engine, &row.key)?;
                body::is_applied(extension, &row.body["properties"], &protected)
            }
            None => false,
        };
        if !applied {
            return Ok(Some(What::Extensions));
        }
    }
    for name in &model.former_extensions {
        if extension_of(engine, machine, name).await?.is_some() {
            return Ok(Some(What::Extensions));
        }
    }
    Ok(None)
}

async fn extension_of(engine: &Engine, machine: &Resource, name: &str) -> Result<Option<Resource>, ArmError> {
    let key = format!("{}/extensions/{}", machine.key, name.to_ascii_lowercase());
    engine.db().resource(&key).await.map_err(db_error)
}

/// How many of these are in which state, as instance views of sets tell it.
fn summary(rows: &[Resource]) -> Value {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(format!("ProvisioningState/{}", row.provisioning_state.to_lowercase())).or_default() += 1;
    }
    counts.into_iter().map(|(code, count)| json!({"code": code, "count": count})).collect()
}

/// Whether the machine itself is of the model as it is now.
fn is_latest(set: &Value, machine: &Value) -> bool {
    let model = &set["properties"]["virtualMachineProfile"]["storageProfile"]["imageReference"];
    let has = &machine["properties"]["storageProfile"]["imageReference"];
    let same = |name: &str| model[name].is_null() || model[name] == has[name];
    ["id", "publisher", "offer", "sku", "version"].into_iter().all(same)
        && set["sku"]["name"] == machine["properties"]["hardwareProfile"]["vmSize"]
}

fn not_here(id: &ResourceId) -> ArmError {
    ArmError::bad_request(
        "OperationNotAllowed",
        format!(
            "'{id}' is an instance of a scale set: one in orchestration mode Flexible is changed and deleted as the virtual machine \
             that it is, one in mode Uniform by the model of its set."
        ),
    )
}
