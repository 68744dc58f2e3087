//! `Microsoft.Compute/virtualMachines/extensions`: what ran in a machine's guest, and how it ended.
//!
//! Each new set of settings is run once (`operations/virtual_machine_extension_put.rs`); a PUT of what ran already changes nothing,
//! as Azure's handlers go by the number of their settings. Protected settings are sealed in the row and never shown.

use super::virtual_machine::MachineInternal;
use super::{arm_context, named_children};
use crate::operations::virtual_machine_run_command::not_running;
use crate::provider::{Context, Plan, Provider, Start, standard_view};
use crate::stored::{internal, to_internal};
use crate::{Engine, db_error};
use async_trait::async_trait;
use lazuli_arm::bodies::virtual_machine::extensions_not_allowed;
use lazuli_arm::bodies::{merge_patch, virtual_machine_extension as body};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) const KIND: &str = "Microsoft.Compute/virtualMachines/extensions";

pub(crate) struct VirtualMachineExtension;

/// What the engine remembers of an extension.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ExtensionInternal {
    /// The protected settings, a JSON value, sealed for the row's key.
    pub sealed: String,
    /// Grows with each set of settings; names the folder in the guest.
    pub number: u64,
    /// Of the last run; null before its end.
    pub status: Value,
}

impl ExtensionInternal {
    /// # Errors
    /// If the row was written by something else.
    pub fn protected(&self, engine: &Engine, key: &str) -> Result<Value, ArmError> {
        serde_json::from_str(&engine.secrets().unseal(key, &self.sealed)?).map_err(ArmError::internal)
    }
}

#[async_trait]
impl Provider for VirtualMachineExtension {
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
        let machine = id.parent().unwrap_or_else(|| id.clone());
        let row = cx.engine.db().resource(&machine.key()).await.map_err(db_error)?;
        let row = row.ok_or_else(|| ArmError::parent_not_found(machine.name()))?;
        let mut body = body::put(id, &new, old.map(|o| &o.body), &arm_context(cx))?;
        if body["location"] != row.location {
            return Err(ArmError::invalid_parameter(
                "location",
                format!("The extension must be in the location of its VM, '{}'.", row.location),
            ));
        }
        if let Some(error) = extensions_not_allowed(&row.body) {
            return Err(error);
        }
        alone(cx, id, &machine, &body).await?;
        let protected = body["properties"].as_object_mut().and_then(|p| p.shift_remove("protectedSettings"));
        let protected = protected.unwrap_or(Value::Null);
        let before: ExtensionInternal = old.map(internal).transpose()?.unwrap_or_default();
        if let Some(old) = old
            && old.provisioning_state == "Succeeded"
            && before.protected(cx.engine, &old.key)? == protected
            && ["settings", "forceUpdateTag"].iter().all(|n| old.body["properties"].get(n) == body["properties"].get(n))
        {
            return Ok(Plan { body, internal: to_internal(&before), start: None, changes: vec![] });
        }
        let state: MachineInternal = internal(&row)?;
        if state.deallocated || !state.created {
            return Err(not_running());
        }
        let state = ExtensionInternal {
            sealed: cx.engine.secrets().seal(&id.key(), &protected.to_string())?,
            number: if old.is_some() { before.number + 1 } else { 0 },
            status: Value::Null,
        };
        let start = Start { kind: "virtual_machine_extension.put", params: json!({}) };
        // A machine that is being deleted takes its extensions along: a new one must not be left behind.
        let changes = vec![Change::RequireResource { key: machine.key() }];
        Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes })
    }

    /// The protected settings stay where the patch names none.
    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let state: ExtensionInternal = internal(old)?;
        let mut whole = old.body.clone();
        let protected = state.protected(cx.engine, &old.key)?;
        if protected.is_object() {
            whole["properties"]["protectedSettings"] = protected;
        }
        self.put(cx, id, merge_patch(&whole, &patch), Some(old)).await
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        if cx.call.expands("instanceView") {
            view["properties"]["instanceView"] = instance_view(row)?;
        }
        Ok(view)
    }

    /// Before its machine.
    fn delete_rank(&self) -> u8 {
        8
    }
}

/// How the extension is, as an instance view has it.
pub(super) fn instance_view(row: &Resource) -> Result<Value, ArmError> {
    let state: ExtensionInternal = internal(row)?;
    let properties = &row.body["properties"];
    let (publisher, kind) = (&properties["publisher"], &properties["type"]);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let statuses: Vec<Value> = [state.status].into_iter().filter(|s| !s.is_null()).collect();
    Ok(json!({"name": row.name, "type": format!("{}.{}", text(publisher), text(kind)),
        "typeHandlerVersion": body::CUSTOM_SCRIPT.2, "statuses": statuses}))
}

/// One extension of a type a machine.
async fn alone(cx: Context<'_>, id: &ResourceId, machine: &ResourceId, body: &Value) -> Result<(), ArmError> {
    let others = named_children(cx, &machine.key()).await?;
    let same = |other: &Value| ["publisher", "type"].iter().all(|n| other["properties"][n] == body["properties"][n]);
    if !others.iter().any(|(name, other)| !name.eq_ignore_ascii_case(id.name()) && same(other)) {
        return Ok(());
    }
    Err(body::one_per_handler(id.name()))
}
