//! A PUT or PATCH on a machine that exists: data disks and applications come and go, its size changes; `virtual_machine.update`
//! carries it out.
//!
//! A disk that comes is claimed with the PUT (MD-6); one that goes is let go when the guest has let go of it.

use super::security::check_change;
use super::{Builder, CREATE, MachineInternal, applications};
use crate::capture::outrun_readers;
use crate::operations::virtual_machine_update::Before;
use crate::provider::{ActionPlan, Context, Plan, Start};
use crate::providers::arm_context;
use crate::stored::{internal, to_internal};
use lazuli_arm::bodies::virtual_machine as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};

pub(super) async fn plan(cx: Context<'_>, id: &ResourceId, new: &Value, old: &Resource) -> Result<Plan, ArmError> {
    let mut body = body::update(id, new, &old.body, &arm_context(cx))?;
    let bound = super::identity::bind(cx, id, new, &mut body, Some(old)).await?;
    let mut state: MachineInternal = internal(old)?;
    state.diagnostics_account = super::diagnostics::account(cx, id, &body).await?;
    let mut plan = Builder { cx, id, changes: bound };
    state.nics = plan.changed_interfaces(&body, &state).await?;
    let wanted = applications::want(cx, id, &body, Some(old), &mut state.applications).await?;
    plan.changes.extend(wanted);
    let state = state;
    let disks = |body: &Value| body["properties"]["storageProfile"]["dataDisks"].clone();
    let size = |body: &Value| body["properties"]["hardwareProfile"]["vmSize"].clone();
    let refirm = check_change(&body, &old.body, &state.generation, state.deallocated)?;
    if !state.created {
        if disks(&body) != disks(&old.body) {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!("The data disks of VM '{}' cannot be changed before its creation has succeeded.", old.name),
            ));
        }
        // What never came to run is tried again: its PUT must not end well otherwise.
        let mut changes = outrun_readers(cx.engine, &state).await?;
        changes.extend(plan.changes);
        let start = Some(Start { kind: CREATE, params: json!({}) });
        return Ok(Plan { body, internal: to_internal(&state), start, changes });
    }
    let restart = refirm || size(&body) != size(&old.body);
    let install = !state.deallocated && !state.applications.due().is_empty();
    if disks(&body) == disks(&old.body) && !restart && !install && old.provisioning_state == "Succeeded" {
        return Ok(Plan { body, internal: to_internal(&state), start: None, changes: plan.changes });
    }
    let before = Before { body: old.body.clone(), data_disks: state.data_disks.clone(), restart };
    let mut next = MachineInternal { data_disks: plan.changed_data_disks(&mut body, &state).await?, ..state.clone() };
    let stays = |key: &String| next.data_disks.iter().any(|(_, k)| k == key);
    let going: Vec<String> = state.data_disks.iter().map(|(_, key)| key).filter(|key| !stays(key)).cloned().collect();
    next.leaving.extend(going);
    let params = serde_json::to_value(before).map_err(ArmError::internal)?;
    let start = Some(Start { kind: "virtual_machine.update", params });
    let mut changes = plan.changes;
    if restart {
        changes.extend(outrun_readers(cx.engine, &state).await?);
    }
    Ok(Plan { body, internal: to_internal(&next), start, changes })
}

/// `attachDetachDataDisks`: an update that names only the disks that come and go.
pub(super) async fn attach_detach(cx: Context<'_>, row: &Resource, request: &Value) -> Result<ActionPlan, ArmError> {
    let id: ResourceId = row.id.parse().map_err(ArmError::internal)?;
    let new = body::attach_detach(request, &row.body)?;
    let Plan { body, internal, start, changes } = plan(cx, &id, &new, row).await?;
    let start = start.ok_or_else(|| ArmError::internal("disks come or go without an operation"))?;
    let busy = Resource { body, internal, provisioning_state: "Updating".into(), ..row.clone() };
    Ok(ActionPlan::Start { start, resource: Some(busy), changes })
}

impl Builder<'_> {
    /// LUNs and keys of the data disks that a changed body asks for; those that come are claimed or made.
    async fn changed_data_disks(
        &mut self,
        body: &mut Value,
        state: &MachineInternal,
    ) -> Result<Vec<(u8, String)>, ArmError> {
        let entries = body["properties"]["storageProfile"]["dataDisks"].as_array().cloned().unwrap_or_default();
        let mut keys = Vec::new();
        let mut shown = Vec::new();
        for mut entry in entries {
            let lun = entry["lun"].as_u64().and_then(|l| u8::try_from(l).ok()).unwrap_or_default();
            let key = entry["managedDisk"]["id"].as_str().map(str::to_ascii_lowercase);
            let key = match key.filter(|k| state.data_disks.iter().any(|(_, own)| own == k)) {
                Some(own) => own,
                None if entry["createOption"] == "Attach" => self.attached(&mut entry, body).await?,
                None => self.blank(&mut entry, body).await?,
            };
            shown.push(entry);
            keys.push((lun, key));
        }
        body["properties"]["storageProfile"]["dataDisks"] = shown.into();
        Ok(keys)
    }
}
