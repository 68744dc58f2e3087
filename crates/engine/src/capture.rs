//! Disks that guests have written to as sources: who may read an overlay, and when nobody may write it.
//!
//! ```text
//! accept of a copy, image, export:  machine off? ─> the disk's row gets a reader (expecting the row as it was seen)
//! accept of a copy or image:        machine runs? ─> the same; the operation reads copies as of one instant ([`open_all`])
//! accept of a start, restart:       the machine's disks are rewritten (expecting them as they were seen), machine `Updating`
//! start, deletion of the disk:      wait until the disk has no reader any more
//! the reader's operation ends:      it counts no more, however it ended
//! ```
//! Both accepts write the same row, so one of them sees the other: an overlay is never read while QEMU may write it. A
//! reader is the key of the resource whose operation reads; it counts only while that resource has a running operation, so a
//! crash leaves no lock behind. Of a running machine nothing is read but copies that its host makes (GS-14).

use crate::operation::{OpContext, OpError};
use crate::operations::disk_begin_access::file_error;
use crate::operations::virtual_machine::{arm_error, host_error, on_host};
use crate::provider::Context;
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{DiskInternal, internal, is_zero, to_internal};
use crate::write::is_busy;
use crate::{Engine, db_error, new_etag};
use lazuli_arm::ArmError;
use lazuli_arm::bodies::disk::{self, DiskState};
use lazuli_disks::changes::{Resized, Unchanged};
use lazuli_disks::{ChangedSource, Qcow2, Qcow2Error};
use lazuli_meta::model::{Change, Expect, OperationQuery, OperationState, Resource};
use lazuli_vmm::HostClient;
use lazuli_vmm::host::{Captured, DiskFile, FetchError, HostErrorCode};
use lazuli_vmm::spec::PowerState;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What guests wrote to a disk, above its base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overlay {
    /// Key of the disk.
    pub disk: String,
    /// Names the file ([`DiskInternal::overlay_path`]).
    pub unique_id: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub moves: u32,
    /// The worker that has the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Its machine ran when it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// The disk's row when its machine was looked at.
    #[serde(skip)]
    row: Option<Resource>,
}

impl Eq for Overlay {}

/// A disk within a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Live {
    pub vm_id: Uuid,
    /// Name of the machine.
    pub machine: String,
    /// `None`: the OS disk.
    pub lun: Option<u8>,
}

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
        Ok(disk.written.then(|| Self::new(row, disk)))
    }

    /// The overlay of a written disk, whether its machine is off or runs.
    ///
    /// # Errors
    /// 409 while its machine is being changed, or has crashed; 503 if the host process does not tell.
    pub(crate) async fn at_any_time(
        cx: Context<'_>,
        row: &Resource,
        disk: &DiskInternal,
    ) -> Result<Option<Self>, ArmError> {
        if !disk.written {
            return Ok(None);
        }
        let mut overlay = Self::new(row, disk);
        let Some(machine) = machine_of(cx, row).await? else { return Ok(Some(overlay)) };
        match power(cx.engine, &machine).await? {
            Power::Off => {}
            Power::Running => overlay.live = Some(Live::of(&machine, &row.key)?),
            Power::Unknown => return Err(unreadable(row, &machine)),
        }
        Ok(Some(overlay))
    }

    fn new(row: &Resource, disk: &DiskInternal) -> Self {
        Self {
            disk: row.key.clone(),
            unique_id: disk.unique_id.clone(),
            moves: disk.moves,
            worker: disk.worker.clone(),
            live: None,
            row: Some(row.clone()),
        }
    }

    /// The overlay of a disk that its own operation reads; the disk's row has it as a reader already.
    pub(crate) fn own(row: &Resource, disk: &DiskInternal) -> Option<Self> {
        disk.written.then(|| Self { row: None, ..Self::new(row, disk) })
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
    async fn open(&self, cx: &OpContext, size_bytes: u64) -> Result<Arc<dyn ChangedSource>, ArmError> {
        if self.worker.is_some() {
            return self.open_far(cx, None, size_bytes).await;
        }
        self.open_file(self.file().overlay_path(cx.engine.config()), size_bytes).await
    }

    /// What names the disk's files.
    fn file(&self) -> DiskInternal {
        DiskInternal { unique_id: self.unique_id.clone(), moves: self.moves, ..DiskInternal::default() }
    }

    /// As [`Overlay::open`], of a file that is on a worker: it is brought here first, and gone when nobody has it open any more.
    async fn open_far(
        &self,
        cx: &OpContext,
        capture: Option<Uuid>,
        size_bytes: u64,
    ) -> Result<Arc<dyn ChangedSource>, ArmError> {
        let disk = cx.engine.db().resource(&self.disk).await.map_err(db_error)?;
        let owner = disk.as_ref().and_then(|d| d.body["managedBy"].as_str()).unwrap_or_default().to_ascii_lowercase();
        let machine = cx.engine.db().resource(&owner).await.map_err(db_error)?;
        let machine =
            machine.ok_or_else(|| ArmError::internal(format!("{} is on a worker without a VM", self.disk)))?;
        let state: MachineInternal = internal(&machine)?;
        let home = cx.engine.home_at(&machine.name, self.worker.as_deref()).await?;
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::StorageFull => file_error(e, "kept"),
            _ => ArmError::internal(e),
        };
        let folder = cx.engine.config().fetched_dir();
        tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).await.map_err(failed)?;
        let path = folder.join(format!("{}.qcow2", Uuid::new_v4()));
        cx.progress(0, 0, "bringing what was written from the worker").await;
        let file = match capture {
            Some(capture) => DiskFile::Captured { lun: Live::of(&machine, &self.disk)?.lun, capture },
            None => DiskFile::Own { name: self.file().overlay_name() },
        };
        let opened = match home.host.fetch(state.vm_id, &file, &path).await {
            Ok(_) => self.open_file(path.clone(), size_bytes).await,
            // It never came to be there.
            Err(FetchError::Host(e)) if e.code() == Some(HostErrorCode::NotFound) && !state.created => {
                return Ok(Arc::new(Unchanged(size_bytes)));
            }
            Err(FetchError::Host(e)) => Err(arm_error(e, &machine.name)),
            Err(FetchError::File(e)) => Err(failed(e)),
        };
        match tokio::fs::remove_file(&path).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => opened,
        }
    }

    async fn open_file(&self, path: PathBuf, size_bytes: u64) -> Result<Arc<dyn ChangedSource>, ArmError> {
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

impl Live {
    fn of(machine: &Resource, disk: &str) -> Result<Self, ArmError> {
        let state: MachineInternal = internal(machine)?;
        let lun = state.data_disks.iter().find(|(_, key)| key == disk).map(|(lun, _)| *lun);
        Ok(Self { vm_id: state.vm_id, machine: machine.name.clone(), lun })
    }
}

/// The changes of several disks. Those of one running machine show one and the same instant (GS-14); the copies that they
/// are read from are gone when nobody has them open any more. A machine that is off by now is read as it is: whoever starts
/// it waits for the readers of its disks.
///
/// # Errors
/// As [`Overlay::open`]; 507 without room for the copies; 503 if the host process does not answer.
pub(crate) async fn open_all(
    cx: &OpContext,
    disks: &[(&Overlay, u64)],
) -> Result<Vec<Arc<dyn ChangedSource>>, OpError> {
    let mut machines: Vec<&Live> = Vec::new();
    for live in disks.iter().filter_map(|(overlay, _)| overlay.live.as_ref()) {
        if machines.iter().all(|m| m.vm_id != live.vm_id) {
            machines.push(live);
        }
    }
    let mut opened: Vec<Option<Arc<dyn ChangedSource>>> = disks.iter().map(|_| None).collect();
    for machine in machines {
        let of_it = |overlay: &Overlay| overlay.live.as_ref().is_some_and(|l| l.vm_id == machine.vm_id);
        let wanted: Vec<usize> = (0..disks.len()).filter(|at| of_it(disks[*at].0)).collect();
        let luns: Vec<Option<u8>> = wanted.iter().filter_map(|at| disks[*at].0.live.as_ref().map(|l| l.lun)).collect();
        let worker = wanted.first().and_then(|at| disks[*at].0.worker.as_deref());
        let host = cx.engine.home_at(&machine.machine, worker).await?.host;
        let Some(captured) = capture(cx, &host, machine, &luns).await? else { continue };
        for (at, file) in wanted.into_iter().zip(&captured.files) {
            let (overlay, size_bytes) = disks[at];
            opened[at] = Some(match worker {
                Some(_) => overlay.open_far(cx, Some(captured.id), size_bytes).await?,
                None => overlay.open_file(file.clone(), size_bytes).await?,
            });
        }
        // A failure leaves the files for a minute, nothing more.
        if let Err(error) = host.discard(machine.vm_id, captured.id).await {
            tracing::warn!(machine = machine.machine, %error, "copies of disks are not removed at once");
        }
    }
    let mut all = Vec::new();
    for ((overlay, size_bytes), opened) in disks.iter().zip(opened) {
        all.push(match opened {
            Some(opened) => opened,
            None => overlay.open(cx, *size_bytes).await?,
        });
    }
    Ok(all)
}

/// `None`: the machine does not run any more.
async fn capture(
    cx: &OpContext,
    host: &HostClient,
    machine: &Live,
    luns: &[Option<u8>],
) -> Result<Option<Captured>, OpError> {
    let error = match on_host(cx, &machine.machine, || host.capture(machine.vm_id, luns)).await? {
        Ok(captured) => {
            let consistency = captured.consistency;
            tracing::info!(machine = machine.machine, ?consistency, "disks of a running machine were copied");
            return Ok(Some(captured));
        }
        Err(error) => error,
    };
    match host.status(machine.vm_id).await {
        Ok(status) if status.power == PowerState::Stopped => return Ok(None),
        Err(e) if e.code() == Some(HostErrorCode::NotFound) => return Ok(None),
        _ => {}
    }
    Err(match error.code() {
        Some(HostErrorCode::Full) => OpError::Failed(
            ArmError::new(
                507,
                "StorageFull",
                format!(
                    "The disks of running VM '{}' cannot be captured: {error}. Free some space, or deallocate the VM, then \
                     retry.",
                    machine.machine
                ),
            )
            .caused_by(error),
        ),
        _ => host_error(error, &machine.machine),
    })
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
    match machine_of(cx, disk).await? {
        Some(machine) if power(cx.engine, &machine).await? != Power::Off => Err(unreadable(disk, &machine)),
        _ => Ok(()),
    }
}

fn unreadable(disk: &Resource, machine: &Resource) -> ArmError {
    ArmError::conflict(
        "OperationNotAllowed",
        format!(
            "Disk '{}' cannot be used so while it is attached to running VM '{}'. Deallocate the VM, then retry.",
            disk.name, machine.name
        ),
    )
    .target(disk.id.clone())
}

/// The machine that a disk is attached to. Nothing may be under way with it.
async fn machine_of(cx: Context<'_>, disk: &Resource) -> Result<Option<Resource>, ArmError> {
    let Some(owner) = disk.body["managedBy"].as_str() else { return Ok(None) };
    let machine = cx.engine.db().resource(&owner.to_ascii_lowercase()).await.map_err(db_error)?;
    match machine {
        Some(machine) if is_busy(&machine) || machine.provisioning_state == "Deleting" => Err(ArmError::conflict(
            "OperationNotAllowed",
            format!(
                "Disk '{}' cannot be read while an operation on its VM '{}' is in progress. Wait until it ends, then retry.",
                disk.name, machine.name
            ),
        )
        .target(disk.id.clone())),
        machine => Ok(machine),
    }
}

/// A machine that is to be a source must have been made, and nothing be under way with it. Whether it runs is asked of each
/// of its disks ([`Overlay::at_any_time`]).
///
/// # Errors
/// 409 `OperationNotAllowed`.
pub(crate) fn check_whole(machine: &Resource, state: &MachineInternal) -> Result<(), ArmError> {
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
    Ok(())
}

/// What a machine's processors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    Off,
    Running,
    /// On its way up or down, or crashed: its process may only be out of sight.
    Unknown,
}

/// # Errors
/// 503 if the host process does not tell.
pub(crate) async fn power(engine: &Engine, machine: &Resource) -> Result<Power, ArmError> {
    let state: MachineInternal = internal(machine)?;
    if state.deallocated {
        return Ok(Power::Off);
    }
    match engine.home_of(machine, &state).await?.host.status(state.vm_id).await {
        Ok(status) => Ok(match status.power {
            PowerState::Stopped => Power::Off,
            PowerState::Running => Power::Running,
            PowerState::Starting | PowerState::Stopping | PowerState::Crashed => Power::Unknown,
        }),
        Err(e) if e.code() == Some(HostErrorCode::NotFound) => Ok(Power::Off),
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

/// Whether no processor of the machine runs.
///
/// # Errors
/// 503 if the host process does not tell.
pub(crate) async fn is_off(engine: &Engine, machine: &Resource) -> Result<bool, ArmError> {
    Ok(power(engine, machine).await? == Power::Off)
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
