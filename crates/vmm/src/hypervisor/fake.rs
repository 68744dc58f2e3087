//! Machines without a processor, for the tests of everything above: a small guest that does what a real one does as far
//! as the host can see. It reads its disk's first sector through the NBD export, writes to its console, provisions
//! itself by the very requests cloud-init makes, obeys the power button, and can be told to misbehave.
//!
//! Machines live in the [`Fake`], not in the host that started them: a second host with a clone of it adopts them.

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Consistency, DiskCopy, Exit, Hypervisor, HypervisorError, Launch, Machine, MachineEvent, Running, VmFiles,
};
use crate::guest_agent::{AgentError, Ended};
use crate::net::WIRE_SERVER;
use crate::provisioning::{Fabric, HTTP_PORT};
use crate::spec::DiskSpec;

/// The head of a PNG: what every screen shows.
const SCREEN: &[u8] = b"\x89PNG\r\n\x1a\n fake";

/// What a fake guest does when it is switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Reports ready after `boot`.
    Ready { boot: Duration },
    /// Reports after `boot` that it cannot be provisioned.
    FailsProvisioning { boot: Duration, description: String },
    /// Runs and never reports.
    Silent,
    /// Cannot be started.
    DoesNotStart { reason: String },
    /// Dies after `boot`.
    Crashes { boot: Duration },
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::Ready { boot: Duration::ZERO }
    }
}

/// A hypervisor without machines. Clones share everything.
#[derive(Clone, Default)]
pub struct Fake {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    by_name: HashMap<String, Behaviour>,
    free_memory_mib: Option<u64>,
    machines: HashMap<Uuid, Guest>,
    without_agent: BTreeSet<Uuid>,
    ran: HashMap<Uuid, Vec<String>>,
}

impl State {
    fn room_mib(&self) -> Option<u64> {
        let used: u64 = self.machines.values().map(|m| m.memory_mib).sum();
        self.free_memory_mib.map(|limit| limit.saturating_sub(used))
    }
}

struct Guest {
    memory_mib: u64,
    /// Labels of its disks.
    disks: BTreeSet<String>,
    obeys_power_button: bool,
    /// Towards whoever started or adopted it last.
    events: mpsc::UnboundedSender<MachineEvent>,
    /// Ends the guest's task.
    off: CancellationToken,
}

impl Fake {
    /// Guests behave as `behaviour` says, unless their name has one of its own.
    pub fn new(behaviour: Behaviour) -> Self {
        let fake = Self::default();
        fake.inner.state().behaviour = behaviour;
        fake
    }

    /// Machines of this name behave so from their next start.
    pub fn behave(&self, vm_name: &str, behaviour: Behaviour) {
        self.inner.state().by_name.insert(vm_name.to_owned(), behaviour);
    }

    /// All machines together may have so much memory.
    pub fn limit_memory(&self, mib: u64) {
        self.inner.state().free_memory_mib = Some(mib);
    }

    /// The guest ignores the power button from now on.
    pub fn ignore_power_button(&self, id: Uuid) {
        if let Some(guest) = self.inner.state().machines.get_mut(&id) {
            guest.obeys_power_button = false;
        }
    }

    /// The guest switches itself off.
    pub fn guest_shuts_down(&self, id: Uuid) {
        self.inner.end(id, Exit::PoweredOff);
    }

    /// The guest restarts itself.
    pub fn guest_resets(&self, id: Uuid) {
        if let Some(guest) = self.inner.state().machines.get(&id) {
            let _ = guest.events.send(MachineEvent::Reset);
        }
    }

    /// The machine stands still (`Some`, with the reason) or goes on.
    pub fn stall(&self, id: Uuid, detail: Option<&str>) {
        if let Some(guest) = self.inner.state().machines.get(&id) {
            let event = match detail {
                Some(detail) => MachineEvent::Stalled { detail: detail.to_owned() },
                None => MachineEvent::Resumed,
            };
            let _ = guest.events.send(event);
        }
    }

    /// No agent answers in the guest.
    pub fn stop_agent(&self, id: Uuid) {
        self.inner.state().without_agent.insert(id);
    }

    /// The agent of a machine's guest answers again.
    pub fn start_agent(&self, id: Uuid) {
        self.inner.state().without_agent.remove(&id);
    }

    /// What its shell was told to run, in that order: the script's own arguments and its input, as `one,two|input`.
    pub fn ran(&self, id: Uuid) -> Vec<String> {
        self.inner.state().ran.get(&id).cloned().unwrap_or_default()
    }

    /// The machine dies under the guest.
    pub fn crash(&self, id: Uuid) {
        self.inner.end(id, Exit::Died { detail: "the fake machine was told to crash".into() });
    }

    /// The disks that a running machine has: `lun5`, `os`.
    pub fn disks(&self, id: Uuid) -> Vec<String> {
        self.inner.state().machines.get(&id).map_or_else(Vec::new, |g| g.disks.iter().cloned().collect())
    }

    pub fn is_running(&self, id: Uuid) -> bool {
        self.inner.state().machines.contains_key(&id)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, id: Uuid, exit: Exit) {
        if let Some(guest) = self.state().machines.remove(&id) {
            guest.off.cancel();
            let _ = guest.events.send(MachineEvent::Exited(exit));
        }
    }

    fn machine(self: &Arc<Self>, id: Uuid) -> Arc<dyn Machine> {
        Arc::new(FakeMachine { id, inner: Arc::clone(self) })
    }
}

#[async_trait]
impl Hypervisor for Fake {
    fn describe(&self) -> String {
        "fake".into()
    }

    fn room_mib(&self) -> Option<u64> {
        self.inner.state().room_mib()
    }

    async fn start(&self, launch: &Launch) -> Result<Running, HypervisorError> {
        let id = launch.spec.id;
        let (events, receiver) = mpsc::unbounded_channel();
        let off = CancellationToken::new();
        let behaviour = {
            let mut state = self.inner.state();
            let behaviour = state.by_name.get(&launch.spec.name).unwrap_or(&state.behaviour).clone();
            if let Behaviour::DoesNotStart { reason } = behaviour {
                return Err(HypervisorError::Start(reason));
            }
            let needed_mib = launch.spec.memory_mib;
            if let Some(free_mib) = state.room_mib()
                && needed_mib > free_mib
            {
                return Err(HypervisorError::NotEnoughMemory { needed_mib, free_mib });
            }
            let disks = launch.spec.disks().map(DiskSpec::label).collect();
            let guest = Guest { memory_mib: needed_mib, disks, obeys_power_button: true, events, off: off.clone() };
            state.machines.insert(id, guest);
            behaviour
        };
        if let Err(e) = read_first_sector(launch).await {
            self.inner.state().machines.remove(&id);
            return Err(HypervisorError::Start(format!("its disk cannot be read: {e}")));
        }
        write_console(launch, "fake guest: booting\n")
            .map_err(|source| HypervisorError::Io { what: "cannot write the console".into(), source })?;
        let inner = Arc::clone(&self.inner);
        let fabric = launch.provisioning_disc.then(|| Arc::clone(&launch.fabric));
        tokio::spawn(async move {
            let life = live(&inner, id, behaviour, fabric);
            off.run_until_cancelled(life).await;
        });
        Ok(Running { machine: self.inner.machine(id), events: receiver })
    }

    async fn adopt(&self, launch: &Launch) -> Result<Option<Running>, HypervisorError> {
        let mut state = self.inner.state();
        let Some(guest) = state.machines.get_mut(&launch.spec.id) else { return Ok(None) };
        let (events, receiver) = mpsc::unbounded_channel();
        guest.events = events;
        Ok(Some(Running { machine: self.inner.machine(launch.spec.id), events: receiver }))
    }

    async fn kill_lost(&self, launch: &Launch) -> Result<(), HypervisorError> {
        self.inner.end(launch.spec.id, Exit::Killed);
        Ok(())
    }
}

struct FakeMachine {
    id: Uuid,
    inner: Arc<Inner>,
}

#[async_trait]
impl Machine for FakeMachine {
    async fn press_power_button(&self) -> Result<(), HypervisorError> {
        let obeys = self.inner.state().machines.get(&self.id).is_some_and(|g| g.obeys_power_button);
        if obeys {
            self.inner.end(self.id, Exit::PoweredOff);
        }
        Ok(())
    }

    async fn attach(&self, _files: &VmFiles, disk: &DiskSpec) -> Result<(), HypervisorError> {
        if !disk.overlay.exists() {
            return Err(HypervisorError::Start(format!("{} is not there", disk.overlay.display())));
        }
        let mut state = self.inner.state();
        if let Some(guest) = state.machines.get_mut(&self.id) {
            guest.disks.insert(disk.label());
        }
        Ok(())
    }

    async fn detach(&self, label: &str) -> Result<(), HypervisorError> {
        if let Some(guest) = self.inner.state().machines.get_mut(&self.id) {
            guest.disks.remove(label);
        }
        Ok(())
    }

    async fn capture(&self, copies: &[DiskCopy]) -> Result<Consistency, HypervisorError> {
        // Nobody writes while this is held.
        let state = self.inner.state();
        if !state.machines.contains_key(&self.id) {
            return Err(HypervisorError::Capture("the fake machine is gone".into()));
        }
        for copy in copies {
            std::fs::copy(&copy.overlay, &copy.target)
                .map_err(|source| HypervisorError::Io { what: "cannot copy a disk".into(), source })?;
        }
        Ok(Consistency::Crash)
    }

    /// A guest that says what it was told.
    async fn run_shell(&self, arguments: &[String], input: &str, _time: Duration) -> Result<Ended, HypervisorError> {
        if self.inner.state().without_agent.contains(&self.id) {
            return Err(AgentError::Absent.into());
        }
        if let Some(own) = arguments.get(3..) {
            let told = format!("{}|{input}", own.join(","));
            self.inner.state().ran.entry(self.id).or_default().push(told);
        }
        let stdout = format!("{}|{input}", arguments.join(","));
        let exit_code = Some(if input.contains("exit 3") { 3 } else { 0 });
        Ok(Ended { exit_code, stdout, stderr: String::new() })
    }

    /// A console that greets, then says what it was told.
    async fn serial(&self) -> Result<UnixStream, HypervisorError> {
        let failed = |source| HypervisorError::Io { what: "cannot make a console".into(), source };
        let (ours, mut theirs) = UnixStream::pair().map_err(failed)?;
        tokio::spawn(async move {
            let (mut from, mut to) = theirs.split();
            to.write_all(b"fake console\r\n").await?;
            tokio::io::copy(&mut from, &mut to).await
        });
        Ok(ours)
    }

    async fn screenshot(&self, file: &std::path::Path) -> Result<(), HypervisorError> {
        std::fs::write(file, SCREEN)
            .map_err(|source| HypervisorError::Io { what: "cannot write the screen".into(), source })
    }

    async fn kill(&self) -> Result<(), HypervisorError> {
        self.inner.end(self.id, Exit::Killed);
        Ok(())
    }
}

/// As firmware would.
async fn read_first_sector(launch: &Launch) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let disk = &launch.spec.os_disk;
    if disk.base.is_some() {
        let mut client = lazuli_nbd::Client::connect_unix(&launch.files.base(&disk.label()), "").await?;
        client.read_at(0, &mut [0; 512]).await?;
    }
    Ok(())
}

fn write_console(launch: &Launch, text: &str) -> std::io::Result<()> {
    std::fs::File::options().append(true).create(true).open(launch.files.console_log())?.write_all(text.as_bytes())
}

/// What the guest does between power on and power off.
async fn live(inner: &Inner, id: Uuid, behaviour: Behaviour, fabric: Option<Arc<Fabric>>) {
    let health = match behaviour {
        Behaviour::Ready { boot } => {
            tokio::time::sleep(boot).await;
            "<State>Ready</State>".to_owned()
        }
        Behaviour::FailsProvisioning { boot, description } => {
            tokio::time::sleep(boot).await;
            let description = quick_xml::escape::escape(description.as_str()).into_owned();
            format!(
                "<State>NotReady</State><Details><SubStatus>ProvisioningFailed</SubStatus>\
                 <Description>{description}</Description></Details>"
            )
        }
        Behaviour::Crashes { boot } => {
            tokio::time::sleep(boot).await;
            return inner.end(id, Exit::Died { detail: "the fake machine crashed".into() });
        }
        Behaviour::Silent | Behaviour::DoesNotStart { .. } => return,
    };
    let Some(fabric) = fabric else { return };
    let body = format!(
        "<Health><Container><RoleInstanceList><Role><Health>{health}</Health></Role></RoleInstanceList></Container></Health>"
    );
    for (method, path, body) in
        [("GET", "/machine/?comp=goalstate", String::new()), ("POST", "/machine?comp=health", body)]
    {
        if let Err(e) = call(&fabric, method, path, body).await {
            tracing::error!(vm.id = %id, error = %e, "a fake guest cannot reach the fabric");
        }
    }
}

async fn call(
    fabric: &Arc<Fabric>,
    method: &str,
    path: &str,
    body: String,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (guest, host) = tokio::io::duplex(64 << 10);
    tokio::spawn(Arc::clone(fabric).serve(SocketAddrV4::new(WIRE_SERVER, HTTP_PORT), host));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(guest)).await?;
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", WIRE_SERVER.to_string())
        .header("x-ms-version", "2012-11-30")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    if status.is_success() { Ok(()) } else { Err(format!("{method} {path}: {status}").into()) }
}
