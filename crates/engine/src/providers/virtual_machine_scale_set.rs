//! `Microsoft.Compute/virtualMachineScaleSets` (Flexible): the model's row, and its machines as instances of it.
//!
//! The machines are ordinary virtual machines that name their set; `operations/virtual_machine_scale_set.rs` makes and removes them
//! under the rights of whoever asked.

use super::arm_context;
use crate::call::Listing;
use crate::deployments::Who;
use crate::operations::virtual_machine_scale_set::{Params, Work};
use crate::provider::{
    ActionPlan, Context, DeletePlan, Elsewhere, Kept, Plan, Provider, Start, standard_view, unknown_action,
};
use crate::stored::{internal, to_internal};
use crate::{Engine, db_error, time_text};
use async_trait::async_trait;
use lazuli_arm::bodies::virtual_machine_scale_set as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource, ResourceQuery};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

const KIND: &str = "Microsoft.Compute/virtualMachineScaleSets";
const INSTANCE: &str = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines";
/// In the profile's `osProfile`, never shown.
const SECRETS: [&str; 2] = ["adminPassword", "customData"];

pub(crate) struct VirtualMachineScaleSet;

/// What the engine remembers of a scale set.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScaleSetInternal {
    pub unique_id: Uuid,
    /// The secrets of the profile's `osProfile`, a JSON object, sealed for [`place`].
    pub sealed: String,
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
        for (name, value) in secrets.as_object().into_iter().flatten() {
            profile.insert(name.clone(), value.clone());
        }
    }
    Ok(body)
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
    rows.sort_by_key(|r| r.created_ms);
    Ok(rows)
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
        let unique_id = match old {
            Some(old) => internal::<ScaleSetInternal>(old)?.unique_id,
            None => Uuid::new_v4(),
        };
        let sealed = cx.engine.secrets().seal(&place(&id.key()), &secrets.to_string())?;
        let start = start(cx, Work::Scale)?;
        Ok(Plan {
            body,
            internal: to_internal(&ScaleSetInternal { unique_id, sealed }),
            start: Some(start),
            changes: vec![],
        })
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

    async fn view(&self, cx: Context<'_>, row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        if !name.eq_ignore_ascii_case("instanceView") {
            return Ok(None);
        }
        let mut counts: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
        for member in members(cx.engine, row).await? {
            let code = format!("ProvisioningState/{}", member.provisioning_state.to_lowercase());
            *counts.entry(code).or_default() += 1;
        }
        let summary: Vec<Value> =
            counts.into_iter().map(|(code, count)| json!({"code": code, "count": count})).collect();
        let state = row.provisioning_state.to_lowercase();
        Ok(Some(json!({
            "virtualMachine": {"statusesSummary": summary},
            "statuses": [{"code": format!("ProvisioningState/{state}"), "level": "Info",
                "displayStatus": format!("Provisioning {state}"), "time": time_text(row.changed_ms)}],
        })))
    }

    fn actions(&self) -> &'static [&'static str] {
        &["start", "powerOff", "restart", "deallocate", "delete", "manualupgrade"]
    }

    async fn action(
        &self,
        cx: Context<'_>,
        row: &Resource,
        action: &str,
        request: Value,
    ) -> Result<ActionPlan, ArmError> {
        let action = action.to_ascii_lowercase();
        let required = matches!(action.as_str(), "delete" | "manualupgrade");
        let wanted = body::instance_ids(&request, required)?;
        let known: Vec<String> = members(cx.engine, row).await?.into_iter().map(|m| m.name).collect();
        let machines = match wanted {
            None => known,
            Some(ids) => ids
                .into_iter()
                .map(|id| {
                    let found = known.iter().find(|name| name.eq_ignore_ascii_case(&id)).cloned();
                    found.ok_or_else(|| no_instance(&row.name, &id))
                })
                .collect::<Result<_, _>>()?,
        };
        let work = match action.as_str() {
            "delete" => Work::Delete { machines },
            "manualupgrade" => Work::Upgrade { machines },
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

/// `…/virtualMachineScaleSets/{set}/virtualMachines`: the machines as instances of their set. They are written as what they are.
pub(crate) struct ScaleSetInstance;

#[async_trait]
impl Provider for ScaleSetInstance {
    fn resource_type(&self) -> &'static str {
        INSTANCE
    }

    fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        Some(self)
    }

    async fn put(
        &self,
        _cx: Context<'_>,
        id: &ResourceId,
        _body: Value,
        _old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        Err(not_here(id))
    }
}

#[async_trait]
impl Elsewhere for ScaleSetInstance {
    async fn get(&self, cx: Context<'_>, id: &ResourceId) -> Result<Option<Kept>, ArmError> {
        let Some(set) = set_of(cx, id).await? else { return Ok(None) };
        let members = members(cx.engine, &set).await?;
        let Some(machine) = members.into_iter().find(|m| m.name.eq_ignore_ascii_case(id.name())) else {
            return Ok(None);
        };
        Ok(Some(Kept { view: instance(cx, &set, &machine).await?, etag: machine.etag }))
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

    async fn put(
        &self,
        _cx: Context<'_>,
        id: &ResourceId,
        _body: &Value,
        _record: Vec<Change>,
    ) -> Result<(Kept, bool), ArmError> {
        Err(not_here(id))
    }

    async fn patch(
        &self,
        _cx: Context<'_>,
        id: &ResourceId,
        _patch: &Value,
        _record: Vec<Change>,
    ) -> Result<Option<Kept>, ArmError> {
        Err(not_here(id))
    }

    async fn delete(&self, _cx: Context<'_>, id: &ResourceId, _record: Vec<Change>) -> Result<bool, ArmError> {
        Err(not_here(id))
    }
}

async fn set_of(cx: Context<'_>, instance: &ResourceId) -> Result<Option<Resource>, ArmError> {
    let Some(set) = instance.parent() else { return Ok(None) };
    cx.engine.db().resource(&set.key()).await.map_err(db_error)
}

/// As Azure shows instances of Flexible sets: the machine, with its name for an instance id.
async fn instance(cx: Context<'_>, set: &Resource, machine: &Resource) -> Result<Value, ArmError> {
    let provider = super::virtual_machine::VirtualMachine;
    let mut view = provider.show(cx, machine).await?;
    view["instanceId"] = json!(machine.name);
    view["sku"] = json!({"name": machine.body["properties"]["hardwareProfile"]["vmSize"], "tier": "Standard"});
    view["properties"]["latestModelApplied"] = json!(is_latest(&set.body, &machine.body));
    Ok(view)
}

/// Whether the machine was made of the model as it is now, as far as an upgrade would change it.
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
            "'{id}' is an instance of a scale set in orchestration mode Flexible: it is changed and deleted as the virtual machine \
             that it is."
        ),
    )
}
