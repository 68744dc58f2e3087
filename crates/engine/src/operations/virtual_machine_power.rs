//! Start, power off, restart, deallocate.

use super::virtual_machine::{host_error, spec_of};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::disk::{DiskState, set_state};
use lazuli_meta::model::{Change, Expect, Resource};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    PowerOff,
    Restart,
    Deallocate,
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
        }
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let state: MachineInternal = internal(&row)?;
        let host = cx.engine.host();
        let skip = cx.op.params["skipShutdown"].as_bool().unwrap_or(false);
        let failed = |e| host_error(e, &row.name);
        match self.0 {
            Action::Start if state.deallocated => {
                host.define_and_start(&spec_of(cx, &row).await?).await.map_err(failed)?;
            }
            Action::Start => {
                host.start(state.vm_id).await.map_err(failed)?;
            }
            Action::PowerOff if !state.deallocated => {
                host.power_off(state.vm_id, skip).await.map_err(failed)?;
            }
            Action::PowerOff => {}
            Action::Restart => {
                host.restart(state.vm_id).await.map_err(failed)?;
            }
            Action::Deallocate => {
                if !state.deallocated && host.status(state.vm_id).await.is_ok() {
                    host.power_off(state.vm_id, skip).await.map_err(failed)?;
                }
                host.delete(state.vm_id, &[]).await.map_err(failed)?;
            }
        }
        let deallocated = match self.0 {
            Action::Deallocate => true,
            Action::Start | Action::Restart => false,
            Action::PowerOff => state.deallocated,
        };
        let disk_state = if deallocated { DiskState::Reserved } else { DiskState::Attached };
        let changes = disk_states(cx, &state, disk_state).await?;
        let update = move |row: &mut Resource| {
            if let Ok(mut state) = internal::<MachineInternal>(row) {
                state.deallocated = deallocated;
                // Only the first boot of a generalized image is provisioned; afterwards the disk is the machine's own.
                row.internal = to_internal(&state);
            }
        };
        Ok(Outcome { changes, ..Outcome::update(update) })
    }
}

/// The machine's disks with another state.
async fn disk_states(cx: &OpContext, state: &MachineInternal, to: DiskState) -> Result<Vec<Change>, OpError> {
    let mut changes = Vec::new();
    let keys = std::iter::once(&state.os_disk).chain(state.data_disks.iter().map(|(_, k)| k));
    for key in keys {
        if let Some(mut row) = cx.engine.db().resource(key).await.map_err(crate::db_error)?
            && lazuli_arm::bodies::disk::state(&row.body) != Some(to)
        {
            let expect = Expect::Etag(row.etag.clone());
            set_state(&mut row.body, to);
            row.etag = crate::new_etag();
            changes.push(Change::PutResource { resource: row, expect });
        }
    }
    Ok(changes)
}
