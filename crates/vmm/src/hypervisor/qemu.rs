//! Machines as QEMU processes.
//!
//! A QEMU is started in a session of its own, with its monitor, console and network on unix sockets, so that it needs
//! nothing of the process that started it: when the host dies, its NBD and network connections wait for the next host,
//! which finds it by its monitor socket and makes sure by the machine's UUID that it is the right one.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::cmdline::{self, Firmware};
use super::process::Process;
use super::{
    Consistency, DiskCopy, Exit, Hypervisor, HypervisorError, Launch, Machine, MachineEvent, Running, VmFiles,
};
use super::{capture, freeze, hotplug, tpm};
use crate::accel::{self, Accelerator, Decision};
use crate::guest_agent::{Ended, Port};
use crate::qmp::{Event, Qmp, QmpError};
use crate::spec::{DiskSpec, Generation};
use crate::uefi::{self, UefiKeys};

/// How long QEMU may take from its start to the first answer of its monitor.
const START_TIME: Duration = Duration::from_secs(90);
/// How often a QEMU that has started, but does not listen yet, is tried again.
const LISTENS_AGAIN: Duration = Duration::from_millis(50);
/// How long QEMU may take to quit, flushing its disks, before it is killed.
const QUIT_TIME: Duration = Duration::from_secs(5);
/// How often a machine that stands still for want of space is told to go on.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Memory QEMU takes beside the guest's.
const OVERHEAD_MIB: u64 = 96;
/// What must stay free for everything else on the machine.
const RESERVE_MIB: u64 = 256;

/// What an operator can set; the default finds everything where distributions put it.
#[derive(Debug, Clone, Default)]
pub struct QemuConfig {
    /// Default: `qemu-system-x86_64` on the `PATH`.
    pub program: Option<PathBuf>,
    /// Default: see [`crate::accel`].
    pub accelerator: Option<Accelerator>,
    /// UEFI code and variables of Gen2 machines.
    pub firmware: Option<(PathBuf, PathBuf)>,
    /// The same for secure boot: variables with Microsoft's keys.
    pub secure_firmware: Option<(PathBuf, PathBuf)>,
}

/// Runs machines with QEMU.
pub struct Qemu {
    program: PathBuf,
    version: String,
    decision: Decision,
    firmware: Option<Firmware>,
    secure_firmware: Option<Firmware>,
    /// For the memory check: who runs here, with what it was promised.
    promised: Mutex<HashMap<Uuid, (u64, Weak<Process>)>>,
}

impl Qemu {
    /// Finds QEMU and decides on the accelerator; `host_dir` remembers that decision.
    pub async fn find(config: QemuConfig, host_dir: &Path) -> Result<Self, HypervisorError> {
        let program = config.program.unwrap_or_else(|| "qemu-system-x86_64".into());
        let version = version_of(&program).await?;
        std::fs::create_dir_all(host_dir).map_err(|e| io_error("cannot make the host's folder", e))?;
        let decision = accel::choose(host_dir, config.accelerator, &accel::Facts::gather())
            .map_err(|e| io_error("cannot remember the accelerator", e))?;
        tracing::info!(qemu.version = %version, accelerator = decision.accelerator.name(), reason = %decision.reason, "QEMU found");
        let given = |files: Option<(PathBuf, PathBuf)>| files.map(|(code, variables)| Firmware { code, variables });
        let firmware = given(config.firmware).or_else(|| find_firmware(&FIRMWARE));
        let secure_firmware = given(config.secure_firmware).or_else(|| find_firmware(&SECURE_FIRMWARE));
        Ok(Self { program, version, decision, firmware, secure_firmware, promised: Mutex::default() })
    }

    pub fn accelerator(&self) -> &Decision {
        &self.decision
    }

    fn firmware(&self, launch: &Launch) -> Result<Firmware, HypervisorError> {
        let missing = |what: &str, advice: &str| HypervisorError::Missing { what: what.into(), advice: advice.into() };
        match launch.spec.generation {
            Generation::V1 => Ok(Firmware { code: PathBuf::new(), variables: PathBuf::new() }),
            Generation::V2 if launch.secure_boot() => self.secure_firmware.clone().ok_or_else(|| {
                missing(
                    "UEFI firmware with Microsoft's keys",
                    "secure boot needs OVMF_CODE_4M.ms.fd and OVMF_VARS_4M.ms.fd; install the package ovmf (Debian)",
                )
            }),
            Generation::V2 => self.firmware.clone().ok_or_else(|| {
                missing("UEFI firmware", "Gen2 machines need OVMF; install the package ovmf (Debian) or edk2-ovmf")
            }),
        }
    }

    /// What machines may still take, without pushing the host into swapping or killing.
    fn free_mib(&self) -> Result<u64, HypervisorError> {
        let meminfo = std::fs::read_to_string("/proc/meminfo").map_err(|e| io_error("cannot read /proc/meminfo", e))?;
        let available = kib_of(&meminfo, "MemAvailable:").unwrap_or(u64::MAX) / 1024;
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        promised.retain(|_, (_, process)| process.strong_count() > 0);
        let outstanding = promised.values().map(|(mib, process)| {
            let resident = process.upgrade().map_or(*mib, |p| p.resident_mib());
            mib.saturating_sub(resident)
        });
        Ok(available.saturating_sub(outstanding.sum::<u64>()).saturating_sub(RESERVE_MIB))
    }

    fn check_memory(&self, memory_mib: u64) -> Result<(), HypervisorError> {
        let free_mib = self.free_mib()?;
        let needed_mib = memory_mib + OVERHEAD_MIB;
        if needed_mib > free_mib {
            return Err(HypervisorError::NotEnoughMemory { needed_mib, free_mib });
        }
        Ok(())
    }

    fn promise(&self, id: Uuid, memory_mib: u64, process: &Arc<Process>) {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        promised.insert(id, (memory_mib + OVERHEAD_MIB, Arc::downgrade(process)));
    }

    /// Watches over a QEMU that answers.
    fn supervise(&self, launch: &Launch, qemu: Connected) -> Running {
        let Connected { qmp, events, process, child, powered_off, stalled, port } = qemu;
        self.promise(launch.spec.id, launch.spec.memory_mib, &process);
        let machine = Arc::new(QemuMachine {
            files: launch.files.clone(),
            port,
            qmp: Arc::new(qmp),
            process,
            killed: AtomicBool::new(false),
        });
        let (sender, receiver) = mpsc::unbounded_channel();
        let watch = Watch {
            machine: Arc::clone(&machine),
            child,
            powered_off,
            stalled,
            files: launch.files.clone(),
            tpm: launch.tpm_state().is_some(),
            sender,
        };
        tokio::spawn(watch.run(events));
        Running { machine, events: receiver }
    }
}

/// A QEMU whose monitor answers.
struct Connected {
    qmp: Qmp,
    events: mpsc::UnboundedReceiver<Event>,
    process: Arc<Process>,
    /// Present if this process started it.
    child: Option<Child>,
    /// The guest has switched itself off already.
    powered_off: bool,
    /// It stands still for want of space.
    stalled: bool,
    /// Of the guest's agent.
    port: Port,
}

#[async_trait]
impl Hypervisor for Qemu {
    fn describe(&self) -> String {
        format!("{}, {}", self.version, self.decision.accelerator.name())
    }

    fn room_mib(&self) -> Option<u64> {
        self.free_mib().ok().map(|free| free.saturating_sub(OVERHEAD_MIB))
    }

    async fn start(&self, launch: &Launch) -> Result<Running, HypervisorError> {
        self.check_memory(launch.spec.memory_mib)?;
        let firmware = self.firmware(launch)?;
        let files = &launch.files;
        if launch.spec.generation == Generation::V2 {
            variables_once(&firmware.variables, launch.uefi_keys(), &launch.firmware_variables())?;
        }
        // Nothing is frozen in a guest that starts.
        for socket in [files.monitor(), files.console(), files.guest_agent(), files.frozen()] {
            match std::fs::remove_file(&socket) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("cannot remove an old socket", e));
                }
                _ => {}
            }
        }
        let log = private_file(&files.hypervisor_log()).map_err(|e| io_error("cannot write QEMU's log", e))?;
        let errors = log.try_clone().map_err(|e| io_error("cannot write QEMU's log", e))?;
        let mut command = Command::new(&self.program);
        command
            .args(cmdline::arguments(launch, self.decision.accelerator, &firmware))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        own_session(&mut command);
        if let Some(state) = launch.tpm_state() {
            tpm::start(files, &state).await?;
        }
        let mut child = command.spawn().map_err(|e| io_error("cannot run QEMU", e))?;
        let pid = child.id().and_then(|p| i32::try_from(p).ok());
        let connected = tokio::time::timeout(START_TIME, first_answer(&mut child, &files.monitor())).await;
        let started = match (connected, pid) {
            (Ok(Ok((qmp, events))), Some(pid)) => {
                Process::open(pid).map(|process| (qmp, events, Arc::new(process))).map_err(|e| e.to_string())
            }
            (Ok(Err(why)), _) => Err(why),
            (Ok(_), None) => Err("it ended at once".into()),
            (Err(_), _) => Err(format!("its monitor did not answer within {} s", START_TIME.as_secs())),
        };
        match started {
            Ok((qmp, events, process)) => Ok(self.supervise(
                launch,
                Connected {
                    qmp,
                    events,
                    process,
                    child: Some(child),
                    powered_off: false,
                    stalled: false,
                    port: Port::new(files.guest_agent()),
                },
            )),
            Err(why) => {
                // Already gone, or must go.
                let _ = child.kill().await;
                if launch.tpm_state().is_some() {
                    tpm::end(files).await?;
                }
                Err(HypervisorError::Start(with_log(&why, &files.hypervisor_log())))
            }
        }
    }

    async fn adopt(&self, launch: &Launch) -> Result<Option<Running>, HypervisorError> {
        let monitor = launch.files.monitor();
        let Some((qmp, events)) = connect(&monitor).await? else {
            // A host that died between the two starts left a TPM without a machine.
            if launch.tpm_state().is_some() {
                tpm::end(&launch.files).await?;
            }
            return Ok(None);
        };
        let uuid = qmp.execute("query-uuid", Value::Null).await?;
        let uuid = uuid["UUID"].as_str().and_then(|u| u.parse::<Uuid>().ok());
        if uuid != Some(launch.spec.id) {
            tracing::warn!(vm.id = %launch.spec.id, found = ?uuid, "another machine answers on the monitor's socket");
            return Ok(None);
        }
        let status = qmp.execute("query-status", Value::Null).await?;
        let pid = qmp.peer_pid().ok_or_else(|| HypervisorError::Start("its process is not known".into()))?;
        let process = Process::open(pid).map_err(|e| io_error("cannot watch the machine's process", e))?;
        // An earlier host may have been capturing its disks when it died.
        let port = Port::new(launch.files.guest_agent());
        freeze::resume(&launch.files, &port).await;
        if let Err(e) = capture::clean_up(&qmp).await {
            tracing::error!(vm.id = %launch.spec.id, error = %e, "what an earlier capture left cannot be removed");
        }
        let powered_off = status["status"] == "shutdown";
        let stalled = status["status"] == "io-error";
        let process = Arc::new(process);
        Ok(Some(self.supervise(launch, Connected { qmp, events, process, child: None, powered_off, stalled, port })))
    }

    async fn kill_lost(&self, launch: &Launch) -> Result<(), HypervisorError> {
        let failed = |e| io_error("cannot end a machine that does not answer", e);
        while let Some(process) = process_of(&launch.files.monitor()) {
            process.kill().map_err(failed)?;
            process.ended().await.map_err(failed)?;
        }
        tpm::end(&launch.files).await
    }
}

/// The monitor of a QEMU that an earlier host process started; `None` if there is no such QEMU. That host may have died while
/// QEMU was starting: then there is a process that does not listen yet.
async fn connect(monitor: &Path) -> Result<Option<(Qmp, mpsc::UnboundedReceiver<Event>)>, HypervisorError> {
    let deadline = Instant::now() + START_TIME;
    loop {
        match Qmp::connect(monitor).await {
            Ok(connected) => return Ok(Some(connected)),
            Err(QmpError::Connect(e)) if nobody_listens(&e) => {}
            Err(e) => return Err(e.into()),
        }
        let Some(process) = process_of(monitor) else { return Ok(None) };
        if Instant::now() > deadline {
            return Err(HypervisorError::Start("it runs, but its monitor does not answer".into()));
        }
        // Its end is seen at once, its first answer soon.
        let _ = tokio::time::timeout(LISTENS_AGAIN, process.ended()).await;
    }
}

/// The QEMU with this monitor, whoever started it. Its machine's id does not tell: on a worker beside this one another may run
/// that was given up.
fn process_of(monitor: &Path) -> Option<Process> {
    let option = cmdline::monitor(monitor);
    Process::find(|command_line| is_ours(command_line, &option))
}

/// Then nothing runs. Other errors, such as a queue of connections that nobody takes, come from a QEMU that hangs.
fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Is this the command line of the QEMU with this monitor?
fn is_ours(command_line: &[u8], monitor: &str) -> bool {
    command_line.split(|b| *b == 0).any(|word| word == monitor.as_bytes())
}

struct QemuMachine {
    files: VmFiles,
    port: Port,
    qmp: Arc<Qmp>,
    process: Arc<Process>,
    killed: AtomicBool,
}

impl QemuMachine {
    /// Lets QEMU flush and go; kills it if it does not.
    async fn quit(&self) -> Result<(), HypervisorError> {
        let orderly = async {
            // An error means that it is going or gone, or hangs: the wait tells which.
            let _ = self.qmp.execute("quit", Value::Null).await;
            self.process.ended().await
        };
        if let Ok(Ok(())) = tokio::time::timeout(QUIT_TIME, orderly).await {
            return Ok(());
        }
        self.process.kill().map_err(|e| io_error("cannot kill the machine's process", e))?;
        self.process.ended().await.map_err(|e| io_error("cannot wait for the machine's process", e))
    }
}

#[async_trait]
impl Machine for QemuMachine {
    async fn press_power_button(&self) -> Result<(), HypervisorError> {
        self.qmp.execute("system_powerdown", Value::Null).await?;
        Ok(())
    }

    async fn attach(&self, files: &VmFiles, disk: &DiskSpec) -> Result<(), HypervisorError> {
        hotplug::attach(&self.qmp, files, disk).await
    }

    async fn detach(&self, label: &str) -> Result<(), HypervisorError> {
        hotplug::detach(&self.qmp, label).await
    }

    async fn capture(&self, copies: &[DiskCopy]) -> Result<Consistency, HypervisorError> {
        capture::capture(&self.qmp, &self.files, &self.port, copies).await
    }

    async fn run_shell(&self, arguments: &[String], input: &str, time: Duration) -> Result<Ended, HypervisorError> {
        Ok(self.port.run(arguments, input, time).await?)
    }

    async fn serial(&self) -> Result<UnixStream, HypervisorError> {
        UnixStream::connect(self.files.console()).await.map_err(|e| io_error("cannot reach the serial console", e))
    }

    async fn screenshot(&self, file: &Path) -> Result<(), HypervisorError> {
        let arguments = serde_json::json!({"filename": file.to_string_lossy(), "format": "png"});
        self.qmp.execute("screendump", arguments).await?;
        Ok(())
    }

    async fn kill(&self) -> Result<(), HypervisorError> {
        self.killed.store(true, Ordering::Relaxed);
        self.quit().await
    }
}

/// Turns QEMU's events and its end into [`MachineEvent`]s.
struct Watch {
    machine: Arc<QemuMachine>,
    child: Option<Child>,
    powered_off: bool,
    /// QEMU stopped the guest because a disk could not be written.
    stalled: bool,
    files: VmFiles,
    /// It has a TPM, which ends with it.
    tpm: bool,
    sender: mpsc::UnboundedSender<MachineEvent>,
}

impl Watch {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        if self.powered_off {
            self.collect().await;
        }
        if self.stalled {
            let detail = "the machine stands still: a disk cannot be written".to_owned();
            let _ = self.sender.send(MachineEvent::Stalled { detail });
        }
        let mut again = tokio::time::interval(TRY_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.on_event(&event).await,
                    None => break,
                },
                _ = self.machine.process.ended() => break,
                _ = again.tick(), if self.stalled => self.go_on().await,
                // Nobody watches any more: the host is stopping, and the next one needs the monitor.
                () = self.sender.closed() => return,
            }
        }
        // Without a monitor nobody can control it: if it does not end by itself, it must.
        let ended = tokio::time::timeout(QUIT_TIME, self.machine.process.ended()).await;
        if ended.is_err()
            && let Err(e) = self.machine.quit().await
        {
            tracing::error!(error = %e, "a QEMU without monitor cannot be ended");
        }
        let status = match &mut self.child {
            Some(child) => child.wait().await.ok(),
            None => None,
        };
        if self.tpm
            && let Err(e) = tpm::end(&self.files).await
        {
            tracing::error!(error = %e, "the TPM of a machine that is gone cannot be ended");
        }
        let exit = if self.powered_off {
            Exit::PoweredOff
        } else if self.machine.killed.load(Ordering::Relaxed) {
            Exit::Killed
        } else {
            let status = status.map_or_else(|| "QEMU ended".to_owned(), |s| format!("QEMU ended with {s}"));
            Exit::Died { detail: with_log(&status, &self.files.hypervisor_log()) }
        };
        // The owner may be gone: then the next host finds the machine gone.
        let _ = self.sender.send(MachineEvent::Exited(exit));
    }

    async fn on_event(&mut self, event: &Event) {
        let by_guest = event.data["guest"] == true;
        match event.name.as_str() {
            "SHUTDOWN" if by_guest => {
                self.powered_off = true;
                self.collect().await;
            }
            "RESET" if by_guest => {
                let _ = self.sender.send(MachineEvent::Reset);
            }
            "BLOCK_IO_ERROR" => self.on_disk_error(&event.data),
            "RESUME" if self.stalled => {
                self.stalled = false;
                let _ = self.sender.send(MachineEvent::Resumed);
            }
            _ => {}
        }
    }

    /// QEMU reports errors to the guest, except a lack of space: then it stops the guest until told to go on.
    fn on_disk_error(&mut self, data: &Value) {
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let (disk, operation, reason) = (text("node-name"), text("operation"), text("reason"));
        tracing::warn!(disk, operation, reason, action = text("action"), "a disk of a machine fails");
        if data["action"] == "stop" {
            self.stalled = true;
            let space = if data["nospace"] == true { "; free some space and it goes on" } else { "" };
            let detail = format!("the machine stands still: {operation} of disk '{disk}' fails: {reason}{space}");
            let _ = self.sender.send(MachineEvent::Stalled { detail });
        }
    }

    async fn go_on(&self) {
        if let Err(e) = self.machine.qmp.execute("cont", Value::Null).await {
            tracing::debug!(error = %e, "a stalled machine does not go on");
        }
    }

    /// QEMU stays, paused, after its guest has switched itself off.
    async fn collect(&self) {
        if let Err(e) = self.machine.quit().await {
            tracing::error!(error = %e, "a QEMU whose guest is off cannot be ended");
        }
    }
}

/// Tries until the monitor answers or the process ends; the error says why it never will.
async fn first_answer(child: &mut Child, monitor: &Path) -> Result<(Qmp, mpsc::UnboundedReceiver<Event>), String> {
    let mut turn = tokio::time::interval(Duration::from_millis(10));
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            status = child.wait() => {
                return Err(status.map_or_else(|e| e.to_string(), |s| format!("QEMU ended with {s}")));
            }
            _ = turn.tick() => {}
        }
        match Qmp::connect(monitor).await {
            Ok(connected) => return Ok(connected),
            // Not listening yet, or ending: the next turn tells.
            Err(QmpError::Connect(_) | QmpError::Lost(_) | QmpError::TimedOut(_)) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// Away from our terminal, process group and, with that, from signals meant for us.
pub(super) fn own_session(command: &mut Command) {
    let detach = || rustix::process::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe functions may be called; setsid is one, and turning its
    // error number into an io::Error allocates nothing.
    unsafe {
        command.pre_exec(detach);
    }
}

async fn version_of(program: &Path) -> Result<String, HypervisorError> {
    let missing = |why: String| HypervisorError::Missing {
        what: format!("QEMU ({})", program.display()),
        advice: format!("install the package qemu-system-x86 ({why})"),
    };
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await;
    let output = output.map_err(|e| missing(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split_whitespace().skip_while(|w| *w != "version").nth(1);
    let number = number.ok_or_else(|| missing("it does not tell its version".into()))?;
    let major: u32 = number.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    if major < 9 || number.starts_with("9.0") || number.starts_with("9.1") {
        return Err(missing(format!("version 9.2 or later is needed, this is {number}")));
    }
    Ok(format!("QEMU {number}"))
}

/// Where distributions keep OVMF: code and variables.
const FIRMWARE: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];
/// The same with system management mode and Microsoft's keys.
const SECURE_FIRMWARE: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
];

fn find_firmware(places: &[(&str, &str)]) -> Option<Firmware> {
    let mut found = places.iter().map(|(code, variables)| Firmware { code: code.into(), variables: variables.into() });
    found.find(|f| f.code.exists() && f.variables.exists())
}

/// A machine's own variables, from the template and its image's keys unless it has them already.
fn variables_once(template: &Path, keys: Option<&UefiKeys>, to: &Path) -> Result<(), HypervisorError> {
    if to.exists() {
        return Ok(());
    }
    let failed = |e| io_error("cannot write the firmware's variables", e);
    let mut flash = std::fs::read(template).map_err(failed)?;
    if let Some(keys) = keys {
        let why = |e| format!("its keys cannot be put into {}: {e}", template.display());
        flash = uefi::enroll(flash, keys).map_err(|e| HypervisorError::Start(why(e)))?;
    }
    let part = to.with_extension("part");
    let folder = to.parent().map_or(Ok(()), private_dir);
    folder.and_then(|()| std::fs::write(&part, flash)).and_then(|()| std::fs::rename(&part, to)).map_err(failed)
}

/// Makes a folder, and those above it, that only its owner may enter.
pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn private_file(path: &Path) -> io::Result<File> {
    // For appending, so that it can be cut while QEMU writes to it.
    let file = File::options().append(true).create(true).mode(0o600).open(path)?;
    file.set_len(0)?;
    Ok(file)
}

pub(super) fn io_error(what: &str, source: io::Error) -> HypervisorError {
    HypervisorError::Io { what: what.to_owned(), source }
}

/// A sentence with QEMU's last words.
pub(super) fn with_log(sentence: &str, log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(5)..].join("; ");
    if last.is_empty() { sentence.to_owned() } else { format!("{sentence}: {last}") }
}

/// The number of KiB behind `field` in a file such as `/proc/meminfo`.
pub(super) fn kib_of(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let text = "MemTotal:       24684000 kB\nMemAvailable:   23500800 kB\n";
        assert_eq!(kib_of(text, "MemAvailable:"), Some(23_500_800));
        assert_eq!(kib_of(text, "VmRSS:"), None);
    }

    #[tokio::test]
    async fn a_missing_qemu_says_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = QemuConfig { program: Some("/nonexistent/qemu".into()), ..QemuConfig::default() };
        let error = Qemu::find(config, dir.path()).await.err().expect("there is no such program");
        assert!(error.to_string().contains("install the package qemu-system-x86"), "{error}");
    }

    #[test]
    fn only_the_machines_own_process_is_taken_for_it() {
        let monitor = |path: &str| cmdline::monitor(Path::new(path));
        let line = format!("qemu\0-m\0size=1M\0-chardev\0{}\0-rtc\0base=utc\0", monitor("/a/vm/monitor")).into_bytes();
        assert!(is_ours(&line, &monitor("/a/vm/monitor")));
        assert!(!is_ours(&line, &monitor("/b/vm/monitor")), "another host's");
        assert!(!is_ours(b"sh\0-c\0true\0", &monitor("/a/vm/monitor")));
    }

    /// The host died between the start of a QEMU and the first answer of its monitor.
    #[tokio::test]
    async fn a_qemu_that_does_not_listen_yet_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let monitor = dir.path().join("monitor");
        assert!(connect(&monitor).await.unwrap().is_none(), "nothing runs");
        let mut started = Command::new("sh");
        started
            .args(["-c", "read line", "qemu", "-chardev", &cmdline::monitor(&monitor)])
            .stdin(Stdio::piped())
            .kill_on_drop(true);
        let mut started = started.spawn().unwrap();
        // The kernel lets its parent go on a moment before it shows the command line.
        while process_of(&monitor).is_none() {
            tokio::task::yield_now().await;
        }
        let connecting = connect(&monitor);
        tokio::pin!(connecting);
        tokio::select! {
            _ = &mut connecting => panic!("it was given up while it is starting"),
            () = tokio::time::sleep(3 * LISTENS_AGAIN) => {}
        }
        started.kill().await.unwrap();
        assert!(connecting.await.unwrap().is_none(), "it has ended");
    }

    #[test]
    fn the_last_words_are_few() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, (0..20).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert_eq!(with_log("ended", &log), "ended: line 15; line 16; line 17; line 18; line 19");
        assert_eq!(with_log("ended", Path::new("/nonexistent")), "ended");
    }
}
