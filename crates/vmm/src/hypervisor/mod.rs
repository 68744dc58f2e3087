//! What runs machines: [`Hypervisor`] and its two implementations, [`Qemu`] and [`Fake`].
//!
//! A hypervisor runs one machine from prepared disks and sockets; it knows nothing of definitions, networks,
//! provisioning or whether a machine ought to run. A running machine belongs to no process of ours: it lives on when
//! the host dies and is found again by [`Hypervisor::adopt`].

mod capture;
mod cmdline;
mod fake;
mod freeze;
mod hotplug;
mod process;
mod qemu;
mod tpm;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::guest_agent::Ended;
use crate::provisioning::Fabric;
use crate::spec::{DiskSpec, VmSpec};
use crate::uefi::UefiKeys;

pub use fake::{Behaviour, Fake};
pub use process::Process;
pub use qemu::{Qemu, QemuConfig};

/// Where the files and sockets of one machine are.
///
/// ```text
/// DIR/vms/<id>/vm.json            its definition
///              state.json         what must survive the host: provisioning, wanted power
///              provisioning.iso   until it has reported ready
///              efivars.fd         firmware variables (Gen2; with trusted launch they lie beside the OS disk)
///              serial.log         serial console
///              qemu.log           QEMU's own messages since its last start
///              swtpm.log          its TPM's (trusted launch)
///              frozen             while its guest's file systems may be frozen
///              captures/<id>/     copies of its disks, until the engine has opened them
/// DIR/run/<16 hex digits>/...     sockets, in a short path: the kernel takes 107 bytes
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFiles {
    pub dir: PathBuf,
    pub run: PathBuf,
}

impl VmFiles {
    pub fn new(host_dir: &Path, id: Uuid) -> Self {
        let short = &id.simple().to_string()[..16];
        Self { dir: host_dir.join("vms").join(id.to_string()), run: host_dir.join("run").join(short) }
    }

    pub fn provisioning_iso(&self) -> PathBuf {
        self.dir.join("provisioning.iso")
    }

    pub fn firmware_variables(&self) -> PathBuf {
        self.dir.join("efivars.fd")
    }

    pub fn console_log(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    pub fn hypervisor_log(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }

    pub fn tpm_log(&self) -> PathBuf {
        self.dir.join("swtpm.log")
    }

    pub fn captures(&self) -> PathBuf {
        self.dir.join("captures")
    }

    pub fn monitor(&self) -> PathBuf {
        self.run.join("qmp")
    }

    pub fn console(&self) -> PathBuf {
        self.run.join("serial")
    }

    /// Control socket of the machine's TPM.
    pub fn tpm(&self) -> PathBuf {
        self.run.join("tpm")
    }

    /// Port of the guest's agent; see [`crate::guest_agent`].
    pub fn guest_agent(&self) -> PathBuf {
        self.run.join("agent")
    }

    /// There while the guest's file systems may be frozen.
    pub fn frozen(&self) -> PathBuf {
        self.dir.join("frozen")
    }

    /// Socket of the NBD export of a disk's base image; `label` is [`DiskSpec::label`](crate::spec::DiskSpec::label).
    pub fn base(&self, label: &str) -> PathBuf {
        self.run.join(format!("nbd-{label}"))
    }

    /// Socket of the `index`-th interface.
    pub fn nic(&self, index: usize) -> PathBuf {
        self.run.join(format!("nic{index}"))
    }
}

/// A machine ready to be switched on: its overlays exist, the sockets of its base images and interfaces are listened on.
pub struct Launch {
    pub spec: Arc<VmSpec>,
    pub files: VmFiles,
    /// Is there a provisioning disc to put in.
    pub provisioning_disc: bool,
    /// For hypervisors without a network: what the guest would reach through it.
    pub fabric: Arc<Fabric>,
}

impl Launch {
    /// The variables of this machine's firmware (Gen2).
    pub fn firmware_variables(&self) -> PathBuf {
        match &self.spec.trusted_launch {
            Some(launch) if launch.secure_boot => launch.state.join("efivars-secure.fd"),
            Some(launch) => launch.state.join("efivars.fd"),
            None => self.files.firmware_variables(),
        }
    }

    pub fn secure_boot(&self) -> bool {
        self.spec.trusted_launch.as_ref().is_some_and(|launch| launch.secure_boot)
    }

    /// The keys that its firmware trusts in place of those that it comes with.
    pub fn uefi_keys(&self) -> Option<&UefiKeys> {
        self.spec.trusted_launch.as_ref().filter(|launch| launch.secure_boot)?.keys.as_ref()
    }

    /// Where the machine's TPM keeps its state; `None`: it has none.
    pub fn tpm_state(&self) -> Option<PathBuf> {
        self.spec.trusted_launch.as_ref().filter(|launch| launch.vtpm).map(|launch| launch.state.join("tpm"))
    }
}

/// Why a machine cannot be started or controlled.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    #[error("the machine needs {needed_mib} MiB of memory, this host has {free_mib} MiB free")]
    NotEnoughMemory { needed_mib: u64, free_mib: u64 },
    /// A program or firmware file is missing.
    #[error("{what} is missing: {advice}")]
    Missing { what: String, advice: String },
    #[error("the machine did not start: {0}")]
    Start(String),
    /// The guest is as it was.
    #[error("the machine's disks could not be captured: {0}")]
    Capture(String),
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Monitor(#[from] crate::qmp::QmpError),
    #[error(transparent)]
    Agent(#[from] crate::guest_agent::AgentError),
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest switched itself off, on its own or because the power button was pressed.
    PoweredOff,
    /// [`Machine::kill`] was called.
    Killed,
    /// Nobody asked for it.
    Died { detail: String },
}

/// What happens to a running machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest restarted itself.
    Reset,
    /// It stands still because one of its disks cannot be written, most likely for want of space. The hypervisor tries
    /// again by itself.
    Stalled { detail: String },
    /// It goes on.
    Resumed,
    /// It is gone. Always the last event.
    Exited(Exit),
}

/// A copy of one disk of a running machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCopy {
    /// [`DiskSpec::label`](crate::spec::DiskSpec::label) of the disk.
    pub label: String,
    /// The disk's own file.
    pub overlay: PathBuf,
    /// A file that is not there yet: it becomes a qcow2 file with the clusters that the disk's own file has.
    pub target: PathBuf,
}

/// What copies of disks show of the guest's file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Consistency {
    /// What a power cut would have left.
    Crash,
    /// Everything was written out, and nothing was being written: the guest's agent froze them.
    FileSystem,
}

/// A machine that runs. Dropping it leaves it running.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Asks the guest to switch itself off (ACPI); it may take its time or never do it.
    async fn press_power_button(&self) -> Result<(), HypervisorError>;

    /// Attaches a data disk, whose file and base are ready, at its LUN. One that is attached stays so.
    async fn attach(&self, files: &VmFiles, disk: &DiskSpec) -> Result<(), HypervisorError>;

    /// Detaches the data disk of this label. One that is not attached stays so.
    async fn detach(&self, label: &str) -> Result<(), HypervisorError>;

    /// Copies these disks as they all are at one instant, while the guest runs on; its file systems are frozen for that
    /// instant where its agent answers. After an error the copies are worth nothing; the guest is as it was in any case.
    async fn capture(&self, copies: &[DiskCopy]) -> Result<Consistency, HypervisorError>;

    /// Runs `/bin/sh` in the guest, by its agent, with these arguments and this on its standard input.
    async fn run_shell(&self, arguments: &[String], input: &str, time: Duration) -> Result<Ended, HypervisorError>;

    /// Its serial console, in both directions. It has one user at a time: the next one waits until this one is gone.
    async fn serial(&self) -> Result<UnixStream, HypervisorError>;

    /// Writes what its screen shows into a file, as PNG.
    async fn screenshot(&self, file: &Path) -> Result<(), HypervisorError>;

    /// Ends it at once. [`MachineEvent::Exited`] follows. Of a machine that is gone already: nothing.
    async fn kill(&self) -> Result<(), HypervisorError>;
}

/// A running machine and what happens to it.
pub struct Running {
    pub machine: Arc<dyn Machine>,
    pub events: mpsc::UnboundedReceiver<MachineEvent>,
}

#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// For people: kind and version.
    fn describe(&self) -> String;

    /// Memory of the largest machine that could be started now; `None`: no limit is known. Nothing is reserved.
    fn room_mib(&self) -> Option<u64>;

    /// Switches a machine on. When this returns its processors run.
    async fn start(&self, launch: &Launch) -> Result<Running, HypervisorError>;

    /// Finds a machine that an earlier host process started, or was starting. `None`: it does not run any more. An error:
    /// perhaps it does, but it cannot be controlled.
    async fn adopt(&self, launch: &Launch) -> Result<Option<Running>, HypervisorError>;

    /// Ends a machine that cannot be adopted. Of one that does not run: nothing.
    async fn kill_lost(&self, launch: &Launch) -> Result<(), HypervisorError>;
}
