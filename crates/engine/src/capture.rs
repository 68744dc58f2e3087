//! Disks that guests have written to as sources: who may read an overlay, and when nobody may write it.
//!
//! ```text
//! accept of a copy, image, export:  machine off? ─> the disk's row gets a reader (expecting the row as it was seen)
//! accept of a start, restart:       the machine's disks are rewritten (expecting them as they were seen), machine `Updating`
//! start, deletion of the disk:      wait until the disk has no reader any more
//! the reader's operation ends:      it counts no more, however it ended
//! ```
//! Both accepts write the same row, so one of them sees the other: an overlay is never read while QEMU may write it. A
//! reader is the key of the resource whose operation reads; it counts only while that resource has a running operation, so a
//! crash leaves no lock behind.

use crate::operation::{OpContext, OpError};
use crate::provider::Context;
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{DiskInternal, internal, to_internal};
use crate::write::is_busy;
use crate::{Engine, db_error, new_etag};
use lazuli_arm::ArmError;
use lazuli_arm::bodies::disk::{self, DiskState};
use lazuli_disks::changes::{Resized, Unchanged};
use lazuli_disks::{ChangedSource, Qcow2, Qcow2Error};
use lazuli_meta::model::{Change, Expect, OperationQuery, OperationState, Resource};
use lazuli_vmm::host::HostErrorCode;
use lazuli_vmm::spec::PowerState;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What guests wrote to a disk, above its base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overlay {
    /// Key of the disk.
    pub disk: String,
    /// Names the file ([`DiskInternal::overlay_path`]).
    pub unique_id: String,
    /// The disk's row when its machine was seen to be off.
    #[serde(skip)]
    row: Option<Resource>,
}

impl Eq for Overlay {}

impl Overlay {
    /// The overlay of a written disk whose machine, if it has one, is off.
    ///
    /// # Errors
    /// 409 while a machine runs on it or is being changed; 503 if the host process does not tell.
    pub(crate) async fn at_rest(
        cx: Context<'_>,
        row: &Resource,
        disk: &DiskInternal,
    ) -> Result<Option<Self>, ArmError> {
        // The row came first: a start that is accepted after this look rewrites it.
        check_machine_off(cx, row).await?;
        let overlay = || Self { disk: row.key.clone(), unique_id: disk.unique_id.clone(), row: Some(row.clone()) };
        Ok(disk.written.then(overlay))
    }

    /// The overlay of a disk that its own operation reads; the disk's row has it as a reader already.
    pub(crate) fn own(row: &Resource, disk: &DiskInternal) -> Option<Self> {
        let overlay = || Self { disk: row.key.clone(), unique_id: disk.unique_id.clone(), row: None };
        disk.written.then(overlay)
    }

    /// Keeps writers away until `owner`'s operation has read the overlay or ended.
    pub(crate) fn claim(&self, owner: &str) -> Option<Change> {
        let row = self.row.as_ref().filter(|r| r.key != owner)?;
        Some(put_reader(row, owner))
    }

    /// The changes, as a disk of `size_bytes` shows them.
    ///
    /// # Errors
    /// 409 if a machine has the file open after all; 500 if it cannot be understood.
    pub(crate) async fn open(&self, cx: &OpContext, size_bytes: u64) -> Result<Arc<dyn ChangedSource>, ArmError> {
        let disk = DiskInternal { unique_id: self.unique_id.clone(), ..DiskInternal::default() };
        let path = disk.overlay_path(cx.engine.config());
        let name = self.disk.rsplit('/').next().unwrap_or_default().to_owned();
        let opened = tokio::task::spawn_blocking(move || open_unused(&path)).await.map_err(ArmError::internal)?;
        match opened {
            Ok(Some(inner)) if inner.size() <= size_bytes => Ok(Arc::new(Resized { inner, size: size_bytes })),
            Ok(Some(_)) => Err(damaged(&name).caused_by("the overlay is larger than its disk")),
            Ok(None) => {
                tracing::warn!(disk = self.disk, "no machine ever wrote to this disk: there is nothing above its base");
                Ok(Arc::new(Unchanged(size_bytes)))
            }
            Err(OpenError::InUse) => Err(ArmError::conflict(
                "OperationNotAllowed",
                format!("Disk '{name}' is still open in a running virtual machine. Deallocate the VM, then retry."),
            )),
            Err(OpenError::Format(e)) => Err(damaged(&name).caused_by(e)),
        }
    }

    /// It was read: whoever waits for it may go on, unless this operation reads it once more.
    pub(crate) async fn release(&self, cx: &OpContext) -> Result<(), OpError> {
        if cx.op.params.to_string().matches(&self.unique_id).count() > 1 {
            return Ok(());
        }
        let owner = cx.op.resource_key.as_str();
        cx.update_other(&self.disk, |row| {
            let Ok(mut state) = internal::<DiskInternal>(row) else { return false };
            let before = state.readers.len();
            state.readers.retain(|r| r != owner);
            row.internal = to_internal(&state);
            state.readers.len() != before
        })
        .await
    }
}

fn damaged(disk: &str) -> ArmError {
    ArmError::new(
        500,
        "StoredDataDamaged",
        format!("What a VM wrote to disk '{disk}' cannot be read. See the server's log; nothing was changed."),
    )
}

enum OpenError {
    InUse,
    Format(Qcow2Error),
}

/// `None`: there is no such file. QEMU holds locks on the files that it has open; nobody else does.
fn open_unused(path: &Path) -> Result<Option<Qcow2>, OpenError> {
    let failed = |e: io::Error| OpenError::Format(e.into());
    let file = match std::fs::File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => fcntl_lock(&file, FlockOperation::NonBlockingUnlock).map_err(|e| failed(e.into()))?,
        Err(Errno::AGAIN | Errno::ACCESS) => return Err(OpenError::InUse),
        Err(e) => return Err(failed(e.into())),
    }
    Qcow2::from_file(file).map(Some).map_err(OpenError::Format)
}

fn put_reader(row: &Resource, owner: &str) -> Change {
    let mut claimed = row.clone();
    add_reader(&mut claimed, owner);
    // The same for the same claim: whoever names a disk twice claims it once.
    claimed.etag = format!("{}-{}", row.etag, claimed.internal["readers"].as_array().map_or(0, Vec::len));
    Change::PutResource { resource: claimed, expect: Expect::Etag(row.etag.clone()) }
}

/// Notes in the disk's row that `owner`'s operation reads its overlay.
pub(crate) fn add_reader(row: &mut Resource, owner: &str) {
    if let Ok(mut state) = internal::<DiskInternal>(row) {
        state.readers.retain(|r| r != owner);
        state.readers.push(owner.to_owned());
        row.internal = to_internal(&state);
    }
}

/// A disk's machine, if it has one, must be off, and nothing be under way that could switch it on.
///
/// # Errors
/// 409 `OperationNotAllowed`; 503 if the host process does not tell.
pub(crate) async fn check_machine_off(cx: Context<'_>, disk: &Resource) -> Result<(), ArmError> {
    let Some(owner) = disk.body["managedBy"].as_str() else { return Ok(()) };
    let row = cx.engine.db().resource(&owner.to_ascii_lowercase()).await.map_err(db_error)?;
    let Some(machine) = row else { return Ok(()) };
    let refuse = |why: String| Err(ArmError::conflict("OperationNotAllowed", why).target(disk.id.clone()));
    if is_busy(&machine) || machine.provisioning_state == "Deleting" {
        return refuse(format!(
            "Disk '{}' cannot be read while an operation on its VM '{}' is in progress. Wait until it ends, then retry.",
            disk.name, machine.name
        ));
    }
    if is_off(cx.engine, &machine).await? {
        return Ok(());
    }
    refuse(format!(
        "Disk '{}' cannot be read while it is attached to running VM '{}': this server reads a disk only while nobody writes \
         it. Deallocate the VM, then retry.",
        disk.name, machine.name
    ))
}

/// A machine that is to be a source must have been made, be off, and nothing be under way with it.
///
/// # Errors
/// 409 `OperationNotAllowed`; 503 if the host process does not tell.
#[allow(dead_code, reason = "as sources::SourceMachine")]
pub(crate) async fn check_whole(cx: Context<'_>, machine: &Resource, state: &MachineInternal) -> Result<(), ArmError> {
    let refuse = |why: String| Err(ArmError::conflict("OperationNotAllowed", why).target(machine.id.clone()));
    let name = &machine.name;
    if is_busy(machine) || machine.provisioning_state == "Deleting" {
        return refuse(format!(
            "VM '{name}' cannot be read while an operation on it is in progress. Wait until it ends, then retry."
        ));
    }
    if !state.created {
        return refuse(format!(
            "VM '{name}' cannot be read as its creation has not succeeded (provisioning state '{}'). Start it or send its PUT \
             again, then retry.",
            machine.provisioning_state
        ));
    }
    if is_off(cx.engine, machine).await? {
        return Ok(());
    }
    refuse(format!(
        "VM '{name}' cannot be read while it is running: this server reads disks only while nobody writes them. Deallocate the \
         VM, then retry."
    ))
}

/// Whether no processor of the machine runs. One that crashed counts as running until it is deallocated: its process may
/// only be out of sight.
///
/// # Errors
/// 503 if the host process does not tell.
pub(crate) async fn is_off(engine: &Engine, machine: &Resource) -> Result<bool, ArmError> {
    let state: MachineInternal = internal(machine)?;
    if state.deallocated {
        return Ok(true);
    }
    match engine.host().status(state.vm_id).await {
        Ok(status) => Ok(status.power == PowerState::Stopped),
        Err(e) if e.code() == Some(HostErrorCode::NotFound) => Ok(true),
        Err(e) => Err(ArmError::new(
            503,
            "HostUnavailable",
            format!(
                "The process that runs virtual machines does not answer, so that the state of '{}' is not known. Is `lazuli \
                 host` running?",
                machine.name
            ),
        )
        .caused_by(e)),
    }
}

/// Rewrites the machine's disks as they are, so that whoever has just found the machine off is told to look again. To be
/// committed with the acceptance of whatever switches the machine on.
///
/// # Errors
/// 409 while one of them is read through a SAS.
pub(crate) async fn outrun_readers(engine: &Engine, state: &MachineInternal) -> Result<Vec<Change>, ArmError> {
    let mut changes = Vec::new();
    for key in state.disks() {
        if let Some(row) = engine.db().resource(key).await.map_err(db_error)? {
            if disk::state(&row.body) == Some(DiskState::ActiveSas) {
                return Err(ArmError::conflict(
                    "OperationNotAllowed",
                    format!(
                        "Disk '{}' cannot be used by a VM while it is in state 'ActiveSAS'. End its access (revoke its SAS), \
                         then retry.",
                        row.name
                    ),
                )
                .target(row.id));
            }
            let expect = Expect::Etag(row.etag.clone());
            changes.push(Change::PutResource { resource: Resource { etag: new_etag(), ..row }, expect });
        }
    }
    Ok(changes)
}

/// Returns once no operation reads the overlay of any of these disks. New ones cannot come: whoever calls has marked the
/// disk or its machine as busy.
pub(crate) async fn wait_for_readers(cx: &OpContext, disks: impl IntoIterator<Item = &String>) -> Result<(), OpError> {
    for key in disks {
        loop {
            cx.check()?;
            let Some(row) = cx.engine.db().resource(key).await.map_err(db_error)? else { break };
            let state: DiskInternal = internal(&row)?;
            let Some(operation) = running_reader(cx, &state).await? else { break };
            cx.progress(0, 0, "waiting until the disk has been read").await;
            cx.engine.db().wait_operation(&operation, LOOK_AGAIN).await.map_err(db_error)?;
        }
    }
    Ok(())
}

/// The operation of one of the readers that still runs.
async fn running_reader(cx: &OpContext, state: &DiskInternal) -> Result<Option<String>, OpError> {
    for reader in &state.readers {
        let query = OperationQuery {
            resource_key: Some(reader.clone()),
            state: Some(OperationState::Running),
            ..OperationQuery::default()
        };
        let running = cx.engine.db().operations(&query).await.map_err(db_error)?;
        // A deletion waits for what it interrupted, and the asker is no reader.
        let mut readers = running.into_iter().filter(|o| o.id != cx.op.id && !o.kind.ends_with(".delete"));
        if let Some(operation) = readers.next() {
            return Ok(Some(operation.id));
        }
    }
    Ok(None)
}
