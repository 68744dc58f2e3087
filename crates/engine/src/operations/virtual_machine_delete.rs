//! Removes a machine: off the host first, then its rows. Disks and interfaces stay unless their `deleteOption` says `Delete`.

use super::virtual_machine::{host_error, on_host};
use crate::boot_diagnostics;
use crate::call::Call;
use crate::capture::wait_for_readers;
use crate::db_error;
use crate::fleet::moving::{forget, leave};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::network_interface::NicInternal;
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::disk::{DiskState, set_state};
use lazuli_meta::model::{Change, Resource};
use lazuli_vmm::host::HostErrorCode;
use serde_json::Value;

pub(crate) struct VirtualMachineDelete;

#[async_trait]
impl Operation for VirtualMachineDelete {
    fn kind(&self) -> &'static str {
        "virtual_machine.delete"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let state: MachineInternal = internal(&row)?;
        let parts = parts(&row, &state);
        take_from_host(cx, &row, &state, &parts).await?;
        for (key, delete) in parts {
            cx.update_other(&key, |part| release(part, &row.id)).await?;
            if delete {
                delete_part(cx, &key).await?;
            }
        }
        boot_diagnostics::forget(&cx.engine, state.vm_id).await;
        let changes = vec![Change::DeleteGrantsOf { resource_key: row.key }];
        Ok(Outcome { changes, ..Outcome::deleted() })
    }
}

/// Its host forgets it. What disks that stay have on a worker goes into the store first; if that worker is away, they show what is
/// there of them.
async fn take_from_host(
    cx: &OpContext,
    row: &Resource,
    state: &MachineInternal,
    parts: &[(String, bool)],
) -> Result<(), OpError> {
    if let Some(away) = cx.engine.away(state).await? {
        if !away.may_be_given_up() {
            return Err(OpError::Failed(away.error(&row.name)));
        }
        for key in state.disks_and_leaving() {
            forget(cx, key, &away.id).await?;
        }
        return Ok(());
    }
    let home = cx.engine.home_of(row, state).await?;
    let (host, id) = (&home.host, state.vm_id);
    let mut files = vec![];
    if home.worker.is_some() {
        wait_for_readers(cx, state.disks_and_leaving()).await?;
        match on_host(cx, &row.name, || host.power_off(id, true)).await? {
            Err(e) if e.code() != Some(HostErrorCode::NotFound) => return Err(host_error(e, &row.name)),
            _ => {}
        }
        let doomed: Vec<&String> = parts.iter().filter(|(_, delete)| *delete).map(|(key, _)| key).collect();
        let disks: Vec<&String> = state.disks_and_leaving().collect();
        files = leave(cx, row, &disks, &home, &doomed).await?;
    }
    on_host(cx, &row.name, || host.delete(id, &files)).await?.map_err(|e| host_error(e, &row.name))
}

/// Keys of the machine's disks and interfaces, and whether they go with it.
fn parts(row: &Resource, state: &MachineInternal) -> Vec<(String, bool)> {
    let profile = &row.body["properties"]["storageProfile"];
    let mut parts = vec![(state.os_disk.clone(), profile["osDisk"]["deleteOption"] == "Delete")];
    for (lun, key) in &state.data_disks {
        let mut disks = profile["dataDisks"].as_array().into_iter().flatten();
        parts.push((key.clone(), disks.any(|d| d["lun"] == *lun && d["deleteOption"] == "Delete")));
    }
    parts.extend(state.leaving.iter().map(|key| (key.clone(), false)));
    for key in &state.nics {
        let mut nics = row.body["properties"]["networkProfile"]["networkInterfaces"].as_array().into_iter().flatten();
        let same = |n: &Value| n["id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(key));
        parts.push((key.clone(), nics.any(|n| same(n) && n["properties"]["deleteOption"] == "Delete")));
    }
    parts
}

/// Unties a part from the machine; whoever has taken it since keeps it.
pub(super) fn release(row: &mut Resource, machine: &str) -> bool {
    if row.kind == "microsoft.compute/disks" {
        if !is_machine(row.body["managedBy"].as_str(), machine) {
            return false;
        }
        set_state(&mut row.body, DiskState::Unattached);
        row.body.as_object_mut().is_some_and(|body| body.shift_remove("managedBy").is_some())
    } else {
        let Ok(mut state) = internal::<NicInternal>(row) else { return false };
        if !is_machine(state.machine.as_deref(), machine) {
            return false;
        }
        state.machine = None;
        row.internal = to_internal(&state);
        true
    }
}

fn is_machine(owner: Option<&str>, machine: &str) -> bool {
    owner.is_some_and(|o| o.eq_ignore_ascii_case(machine))
}

/// Starts the part's own deletion, unless another machine has taken it meanwhile.
async fn delete_part(cx: &OpContext, key: &str) -> Result<(), OpError> {
    while let Some(row) = cx.engine.db().resource(key).await.map_err(db_error)? {
        let Some(provider) = cx.engine.provider_of_kind(&row.kind).cloned() else { break };
        let taken = row.body["managedBy"].is_string() || row.internal["machine"].is_string();
        if taken || cx.engine.try_delete(&Call::system(&row.subscription), &provider, row).await?.is_some() {
            break;
        }
    }
    Ok(())
}
