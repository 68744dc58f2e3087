//! What firmware and TPM of a Trusted Launch machine keep, on its way from computer to computer.
//!
//! ```text
//! the OS disk leaves a computer:  its state folder is packed and sealed into the disk's row, with the very change that moves the disk
//! the machine begins elsewhere:   the state is put there before it starts, if nothing is there
//! ```
//! Disk and TPM are so of one moment, whichever of them was last brought away: what a guest sealed to its TPM opens again. Must never
//! be in the database unsealed.

use super::Home;
use crate::operation::{OpContext, OpError};
use crate::operations::virtual_machine::{host_error, on_host};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{DiskInternal, internal};
use crate::{Engine, db_error};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::ArmError;
use lazuli_meta::model::Resource;
use lazuli_vmm::host::{HostErrorCode, firmware};

fn context(disk: &DiskInternal) -> String {
    format!("disks/{}#firmware", disk.unique_id)
}

fn seal(engine: &Engine, disk: &DiskInternal, packed: &[u8]) -> Result<String, ArmError> {
    engine.secrets().seal(&context(disk), &BASE64_STANDARD.encode(packed))
}

/// What is kept at the machine's worker, sealed for its OS disk. The machine is off. `None`: nothing.
pub(super) async fn on_worker(
    cx: &OpContext,
    machine: &Resource,
    state: &MachineInternal,
    disk: &DiskInternal,
    home: &Home,
) -> Result<Option<String>, OpError> {
    match on_host(cx, &machine.name, || home.host.firmware(state.vm_id)).await? {
        Ok(packed) => Ok(packed.map(|packed| seal(&cx.engine, disk, &packed)).transpose()?),
        // It never came to be there.
        Err(e) if e.code() == Some(HostErrorCode::NotFound) && !state.created => Ok(None),
        Err(e) => Err(host_error(e, &machine.name)),
    }
}

/// What is kept on this computer, sealed for the OS disk. `None`: nothing.
pub(super) async fn here(cx: &OpContext, disk: &DiskInternal) -> Result<Option<String>, OpError> {
    let folder = disk.firmware_state_path(cx.engine.config());
    let packed = tokio::task::spawn_blocking(move || firmware::pack(&folder)).await.map_err(ArmError::internal)?;
    let packed = packed.map_err(ArmError::internal)?;
    Ok(packed.map(|packed| seal(&cx.engine, disk, &packed)).transpose()?)
}

/// What an OS disk brought along when it last left a computer.
pub(crate) async fn brought(cx: &OpContext, os_disk: &str) -> Result<Option<Vec<u8>>, OpError> {
    let Some(row) = cx.engine.db().resource(os_disk).await.map_err(db_error)? else { return Ok(None) };
    let disk: DiskInternal = internal(&row)?;
    let Some(sealed) = &disk.firmware else { return Ok(None) };
    let text = cx.engine.secrets().unseal(&context(&disk), sealed)?;
    Ok(Some(BASE64_STANDARD.decode(text).map_err(ArmError::internal)?))
}
