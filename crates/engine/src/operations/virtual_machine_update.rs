//! Makes a machine what its changed body says: disks are attached and detached while it runs (LUNs stay); another size, secure
//! boot and the TPM take a restart.
//!
//! ```text
//! wait for readers of what goes ─> host: redefined (restart: off, redefined, on) ─> disks that go are let go ─> applications
//!                                         └─ failure ─> host, row and disks as they were before
//! ```
//! What was written on a worker to a disk that goes is brought into the store before it is let go.

use super::virtual_machine::{host_error, on_host, spec_of};
use super::virtual_machine_applications as applications;
use super::virtual_machine_delete::release;
use super::virtual_machine_power::set_disks;
use crate::capture::wait_for_readers;
use crate::fleet::Home;
use crate::fleet::moving::{forget, leave, left_files, ready};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{change_internal, internal};
use async_trait::async_trait;
use lazuli_arm::bodies::disk::DiskState;
use lazuli_arm::bodies::virtual_machine::trusted_launch;
use lazuli_meta::model::Resource;
use lazuli_vmm::host::HostErrorCode;
use lazuli_vmm::spec::{PowerState, VmSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Parameters: the machine before the change.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    pub body: Value,
    pub data_disks: Vec<(u8, String)>,
    /// Something changes that a running machine keeps until it is off: size, secure boot, TPM.
    #[serde(alias = "resize")]
    pub restart: bool,
}

/// The step after which only applications are left.
const CHANGED: &str = "changed";

pub(crate) struct VirtualMachineUpdate;

#[async_trait]
impl Operation for VirtualMachineUpdate {
    fn kind(&self) -> &'static str {
        "virtual_machine.update"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let before: Before = cx.params()?;
        let row = cx.resource().await?;
        let state: MachineInternal = internal(&row)?;
        wait_for_readers(cx, &state.leaving).await?;
        if before.restart {
            wait_for_readers(cx, state.disks()).await?;
        }
        if let Some(place) = &state.place {
            ready(cx, &state, place.worker.as_deref()).await?;
        }
        let spec: VmSpec = cx.step("define", async { spec_of(cx, &row).await }).await?;
        change_host(cx, &row, &state, &spec, before.restart).await?;
        mark_os_disk(cx, &row, &state).await?;
        if !state.leaving.is_empty() {
            let home = cx.engine.home_of(&row, &state).await?;
            let files = leave(cx, &row, &state.leaving.iter().collect::<Vec<_>>(), &home, &[]).await?;
            remove_files(cx, &row, &state, &home, &files).await?;
        }
        for key in &state.leaving {
            cx.update_other(key, |part| release(part, &row.id)).await?;
        }
        set_disks(cx, &state, if state.deallocated { DiskState::Reserved } else { DiskState::Attached }).await?;
        let settled = |row: &mut Resource| change_internal(row, |state: &mut MachineInternal| state.leaving.clear());
        let install = !state.deallocated && !state.applications.due().is_empty();
        if !install && cx.done_step(CHANGED).is_none() {
            return Ok(Outcome::update(settled));
        }
        cx.step(CHANGED, async { cx.update_resource(settled).await }).await?;
        applications::bring(cx).await?;
        Ok(Outcome::default())
    }

    /// The host first: what is let go must not be in use.
    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        if cx.done_step(CHANGED).is_some() {
            // All but its applications is as it was ordered; what became of them its instance view says.
            return Ok(Outcome::default());
        }
        let before: Before = cx.params()?;
        let row = cx.resource().await?;
        let state: MachineInternal = internal(&row)?;
        let mut old = row.clone();
        restore(&mut old, &before);
        // Also if it was canceled.
        match change_back(&cx.undoing(), &old, before.restart).await {
            Err(OpError::Interrupted) => return Err(OpError::Interrupted),
            // The machine is `Failed`; the next PUT or reapply makes it what its row says.
            Err(error) => tracing::warn!(machine = row.id, ?error, "a machine could not be changed back"),
            Ok(()) => {}
        }
        let came = state.data_disks.iter().filter(|disk| !before.data_disks.contains(disk));
        for (_, key) in came {
            if let Some(worker) = state.worker() {
                // Nobody relied on what may have been written to it there: it never came.
                forget(cx, key, worker).await?;
            }
            cx.update_other(key, |part| release(part, &row.id)).await?;
        }
        Ok(Outcome::update(move |row| restore(row, &before)))
    }
}

/// The host has the machine as it was.
async fn change_back(cx: &OpContext, old: &Resource, restart: bool) -> Result<(), OpError> {
    let state: MachineInternal = internal(old)?;
    if let Some(place) = &state.place {
        // What had been brought from the worker already is there again.
        ready(cx, &state, place.worker.as_deref()).await?;
    }
    let mut spec = spec_of(cx, old).await?;
    let files = left_files(cx, &spec)?;
    spec.detached.extend(files.iter().cloned());
    change_host(cx, old, &state, &spec, restart).await?;
    let home = cx.engine.home_of(old, &state).await?;
    remove_files(cx, old, &state, &home, &files).await
}

/// Removes what was left of detached disks on a worker.
async fn remove_files(
    cx: &OpContext,
    row: &Resource,
    state: &MachineInternal,
    home: &Home,
    files: &[PathBuf],
) -> Result<(), OpError> {
    if files.is_empty() {
        return Ok(());
    }
    let removed = on_host(cx, &row.name, || home.host.remove_detached(state.vm_id, files)).await?;
    removed.map_err(|e| host_error(e, &row.name))
}

fn restore(row: &mut Resource, before: &Before) {
    for name in ["storageProfile", "hardwareProfile", "securityProfile"] {
        let was = before.body["properties"].get(name);
        match (row.body["properties"].as_object_mut(), was) {
            (Some(properties), Some(was)) => drop(properties.insert(name.into(), was.clone())),
            (Some(properties), None) => drop(properties.shift_remove(name)),
            (None, _) => {}
        }
    }
    change_internal(row, |state: &mut MachineInternal| {
        state.data_disks.clone_from(&before.data_disks);
        state.leaving.retain(|key| !before.data_disks.iter().any(|(_, k)| k == key));
    });
}

/// The OS disk is of its machine's security type.
async fn mark_os_disk(cx: &OpContext, row: &Resource, state: &MachineInternal) -> Result<(), OpError> {
    let trusted = trusted_launch(&row.body).is_some();
    cx.update_other(&state.os_disk, |disk| {
        let Some(properties) = disk.body["properties"].as_object_mut() else { return false };
        let marked = properties.get("securityProfile").is_some_and(|p| p["securityType"] == "TrustedLaunch");
        if trusted && !marked {
            properties.insert("securityProfile".into(), json!({"securityType": "TrustedLaunch"}));
        } else if marked && !trusted {
            properties.shift_remove("securityProfile");
        }
        marked != trusted
    })
    .await?;
    Ok(())
}

/// A host that holds nothing of the machine is told with its next start.
async fn change_host(
    cx: &OpContext,
    row: &Resource,
    state: &MachineInternal,
    spec: &VmSpec,
    restart: bool,
) -> Result<(), OpError> {
    if state.deallocated {
        return Ok(());
    }
    let (host, id, name) = (cx.engine.home_of(row, state).await?.host, state.vm_id, row.name.as_str());
    // As it was when this began, whatever an earlier attempt did.
    let was_on: Option<bool> = cx
        .step("look", async {
            match on_host(cx, name, || host.status(id)).await? {
                Ok(status) => Ok(Some(status.power != PowerState::Stopped)),
                Err(e) if e.code() == Some(HostErrorCode::NotFound) => Ok(None),
                Err(e) => Err(host_error(e, name)),
            }
        })
        .await?;
    let Some(was_on) = was_on else { return Ok(()) };
    if restart && was_on {
        on_host(cx, name, || host.power_off(id, false)).await?.map_err(|e| host_error(e, name))?;
    }
    on_host(cx, name, || host.redefine(spec)).await?.map_err(|e| host_error(e, name))?;
    if restart && was_on {
        on_host(cx, name, || host.start(id)).await?.map_err(|e| host_error(e, name))?;
    }
    Ok(())
}
