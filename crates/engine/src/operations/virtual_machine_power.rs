//! Start, power off, restart, deallocate, redeploy, reapply.

use super::virtual_machine::{define_and_start, host_error, on_host, spec_of};
use super::virtual_machine_create::{after_first_boot, bring_up, is_first_boot};
use crate::boot_diagnostics;
use crate::capture::wait_for_readers;
use crate::fleet::moving::{give_up, leave, place, was_given_up};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{change_internal, internal};
use async_trait::async_trait;
use lazuli_arm::bodies::disk::{self, DiskState};
use lazuli_meta::model::Resource;
use lazuli_vmm::HostClient;
use lazuli_vmm::host::{ClientError, HostErrorCode};
use lazuli_vmm::spec::{PowerState, VmSpec};
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    PowerOff,
    Restart,
    Deallocate,
    /// Off, forgotten by its host, and on again: as if it had moved to another host. One that is off stays so.
    Redeploy,
    /// The host is told once more what the machine is.
    Reapply,
}

pub(crate) struct VirtualMachinePower(pub Action);

#[async_trait]
impl Operation for VirtualMachinePower {
    fn kind(&self) -> &'static str {
        match self.0 {
            Action::Start => "virtual_machine.start",
            Action::PowerOff => "virtual_machine.power_off",
            Action::Restart => "virtual_machine.restart",
            Action::Deallocate => "virtual_machine.deallocate",
            Action::Redeploy => "virtual_machine.redeploy",
            Action::Reapply => "virtual_machine.reapply",
        }
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let state: MachineInternal = internal(&row)?;
        if let Some(away) = cx.engine.away(&state).await? {
            if !matches!(self.0, Action::Deallocate | Action::Redeploy) || !away.may_be_given_up() {
                return Err(OpError::Failed(away.error(&row.name)));
            }
            give_up(cx, &away).await?;
        }
        if was_given_up(cx) {
            return self.after_its_worker(cx).await;
        }
        if is_first_boot(cx, &state) && matches!(self.0, Action::Start | Action::Restart) {
            // Its first boot has not succeeded yet: this is another attempt at it.
            bring_up(cx, &row).await?;
            set_disks(cx, &state, DiskState::Attached).await?;
            return after_first_boot(cx).await;
        }
        // What leaves a worker goes into the store, and its files away.
        let leaves = self.0 == Action::Deallocate && state.worker().is_some();
        if leaves || matches!(self.0, Action::Start | Action::Restart | Action::Redeploy) {
            wait_for_readers(cx, state.disks_and_leaving()).await?;
        }
        if matches!(self.0, Action::Deallocate | Action::Redeploy) {
            boot_diagnostics::before_it_is_forgotten(&cx.engine, &row, &state).await;
        }
        self.ask_host(cx, &row, &state).await?.map_err(|e| host_error(e, &row.name))?;
        let deallocated = match self.0 {
            Action::Deallocate => true,
            Action::Start | Action::Restart => false,
            Action::PowerOff | Action::Redeploy | Action::Reapply => state.deallocated,
        };
        set_disks(cx, &state, if deallocated { DiskState::Reserved } else { DiskState::Attached }).await?;
        let left = self.0 == Action::Deallocate;
        Ok(Outcome::update(move |row| {
            change_internal(row, |state: &mut MachineInternal| {
                state.deallocated = deallocated;
                if left {
                    (state.place, state.lost) = (None, None);
                }
            });
        }))
    }
}

impl VirtualMachinePower {
    async fn ask_host(
        &self,
        cx: &OpContext,
        row: &Resource,
        state: &MachineInternal,
    ) -> Result<Result<(), ClientError>, OpError> {
        let (home, id) = (cx.engine.home_of(row, state).await?, state.vm_id);
        let host = &home.host;
        let skip = cx.op.params["skipShutdown"].as_bool().unwrap_or(false);
        let done = match self.0 {
            // The host holds nothing of it. Its disk is provisioned: no provisioning medium is put in again.
            Action::Start | Action::Restart if state.deallocated => self.begin(cx, row).await?,
            Action::Redeploy | Action::Reapply if state.deallocated => Ok(()),
            Action::Redeploy => self.redeploy(cx, row, host, id).await?,
            Action::Reapply => {
                let spec: VmSpec = cx.step("define", async { spec_of(cx, row).await }).await?;
                on_host(cx, &row.name, || host.redefine(&spec)).await?.map(drop)
            }
            Action::Start => on_host(cx, &row.name, || host.start(id)).await?.map(drop),
            Action::Restart => on_host(cx, &row.name, || host.restart(id)).await?.map(drop),
            Action::PowerOff if state.deallocated => Ok(()),
            Action::PowerOff => on_host(cx, &row.name, || host.power_off(id, skip)).await?.map(drop),
            Action::Deallocate => {
                match on_host(cx, &row.name, || host.power_off(id, skip)).await? {
                    // Not defined: there is nothing to shut down.
                    Err(e) if e.code() != Some(HostErrorCode::NotFound) => Err(e),
                    _ => {
                        let disks: Vec<&String> = state.disks_and_leaving().collect();
                        let files = leave(cx, row, &disks, &home, &[]).await?;
                        on_host(cx, &row.name, || host.delete(id, &files)).await?
                    }
                }
            }
        };
        Ok(done)
    }

    /// A machine that no host holds is given one.
    async fn begin(&self, cx: &OpContext, row: &Resource) -> Result<Result<(), ClientError>, OpError> {
        let row = &place(cx, row).await?;
        let host = cx.engine.home_of(row, &internal(row)?).await?.host;
        let spec: VmSpec = cx.step("define", async { spec_of(cx, row).await }).await?;
        Ok(define_and_start(cx, row, &host, &spec).await?.map(drop))
    }

    /// It was given up with its worker, and is deallocated now; one that is redeployed begins elsewhere.
    async fn after_its_worker(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let state: MachineInternal = internal(&row)?;
        if self.0 != Action::Redeploy {
            set_disks(cx, &state, DiskState::Reserved).await?;
            return Ok(Outcome::default());
        }
        if is_first_boot(cx, &state) {
            bring_up(cx, &row).await?;
            set_disks(cx, &state, DiskState::Attached).await?;
            return after_first_boot(cx).await;
        }
        self.begin(cx, &row).await?.map_err(|e| host_error(e, &row.name))?;
        set_disks(cx, &state, DiskState::Attached).await?;
        Ok(Outcome::update(|row| change_internal(row, |state: &mut MachineInternal| state.deallocated = false)))
    }

    async fn redeploy(
        &self,
        cx: &OpContext,
        row: &Resource,
        host: &HostClient,
        id: Uuid,
    ) -> Result<Result<(), ClientError>, OpError> {
        // As it was when this began, whatever an earlier attempt did.
        let look = async {
            let status = on_host(cx, &row.name, || host.status(id)).await?.map_err(|e| host_error(e, &row.name))?;
            Ok::<_, OpError>(status.power != PowerState::Stopped)
        };
        if !cx.step("look", look).await? {
            return Ok(Ok(()));
        }
        let spec: VmSpec = cx.step("define", async { spec_of(cx, row).await }).await?;
        match on_host(cx, &row.name, || host.power_off(id, false)).await? {
            Err(e) if e.code() != Some(HostErrorCode::NotFound) => return Ok(Err(e)),
            _ => {}
        }
        if let Err(e) = on_host(cx, &row.name, || host.delete(id, &[])).await? {
            return Ok(Err(e));
        }
        Ok(on_host(cx, &row.name, || host.define_and_start(&spec)).await?.map(drop))
    }
}

/// Shows the machine's disks in another state.
pub(super) async fn set_disks(cx: &OpContext, state: &MachineInternal, to: DiskState) -> Result<(), OpError> {
    for key in state.disks() {
        cx.update_other(key, |row| {
            let other = disk::state(&row.body) != Some(to);
            disk::set_state(&mut row.body, to);
            other
        })
        .await?;
    }
    Ok(())
}
