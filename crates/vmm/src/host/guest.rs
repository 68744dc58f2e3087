//! One machine's life: a task that carries out orders one after the other and notices what the machine does by itself.
//! See [`PowerState`] for the diagram.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::api::{Captured, DiskFile, ShellRequest};
use super::exports::{BaseExport, Exports};
use super::store::{self, Record};
use super::{Env, HostError, capture, firmware};
use crate::guest_agent::Ended;
use crate::hypervisor::{Exit, HypervisorError, Launch, Machine, MachineEvent, Running};
use crate::net::NetError;
use crate::overlay;
use crate::provisioning::{Fabric, Reports, disc};
use crate::spec::{DiskSpec, NicSpec, PowerState, ProvisioningState, VmSpec, VmStatus, label};

/// The power button is pressed again after this long: a guest that is still booting does not see it.
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// How often a machine that did not answer when it was to be adopted is tried again.
const ADOPT_AGAIN: Duration = Duration::from_secs(15);
/// How often a running machine's logs are looked at.
const TRIM_LOGS: Duration = Duration::from_secs(30);

/// What can be asked of a machine.
pub enum Order {
    Start,
    PowerOff {
        skip_shutdown: bool,
    },
    Restart,
    UpdateNetwork(Vec<NicSpec>),
    Redefine(Box<VmSpec>),
    /// The running machine itself, for what takes long and is nothing to wait for.
    Lend(oneshot::Sender<Arc<dyn Machine>>),
    /// What firmware and TPM kept elsewhere.
    PutFirmware(Bytes),
    /// Files of disks that were detached are not needed any more.
    Discard {
        remove: Vec<PathBuf>,
    },
    Delete {
        remove: Vec<PathBuf>,
    },
}

type Reply = oneshot::Sender<Result<(), HostError>>;

/// The handle of a machine's task; the task ends with it (the machine does not).
pub struct Guest {
    env: Arc<Env>,
    shared: Arc<Shared>,
    orders: mpsc::Sender<(Order, Reply)>,
}

struct Shared {
    record: Arc<Record>,
    exports: Mutex<Exports>,
    /// One capture at a time.
    capturing: tokio::sync::Mutex<()>,
    /// Cancelled to cut a graceful power-off short; renewed after every order.
    force: Mutex<CancellationToken>,
    /// Ends the session on the serial console.
    session: Mutex<CancellationToken>,
}

impl Shared {
    fn force(&self) -> CancellationToken {
        self.force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_exports(&self, exports: Exports) {
        *self.exports.lock().unwrap_or_else(PoisonError::into_inner) = exports;
    }
}

impl Guest {
    /// Takes charge of a machine that was just defined. Its base images are opened here.
    pub async fn define(env: Arc<Env>, record: Arc<Record>) -> Result<Self, HostError> {
        let exports = Exports::open(&record.spec(), &record.files, &*env.base_images).await?;
        Ok(Self::spawn(env, record, exports, None, false))
    }

    /// Takes charge of a machine that an earlier host defined, running or not.
    pub async fn resume(env: Arc<Env>, record: Arc<Record>) -> Result<Self, HostError> {
        // The images first: a QEMU that waits for them may not answer.
        let exports = Exports::resume(&record.spec(), &record.files, &env.base_images)?;
        let fabric = fabric(&env, &record);
        let launch = launch(&record, &fabric, false);
        let found = env.hypervisor.adopt(&launch).await;
        capture::discard_all(&record.files).await?;
        let lost = found.is_err();
        let (running, power, error) = match found {
            Ok(Some(running)) => (Some(running), PowerState::Running, None),
            Ok(None) if record.wanted_on() => {
                let error = "it was not running any more when the host process started".to_owned();
                (None, PowerState::Crashed, Some(error))
            }
            Ok(None) => (None, PowerState::Stopped, None),
            Err(e) => (None, PowerState::Crashed, Some(super::with_causes(&e))),
        };
        record.set_power(power, error);
        Ok(Self::spawn(env, record, exports, running, lost))
    }

    fn spawn(env: Arc<Env>, record: Arc<Record>, exports: Exports, running: Option<Running>, lost: bool) -> Self {
        let (orders, inbox) = mpsc::channel(16);
        let fabric = fabric(&env, &record);
        let shared = Arc::new(Shared {
            record,
            exports: Mutex::new(exports),
            capturing: tokio::sync::Mutex::default(),
            force: Mutex::default(),
            session: Mutex::default(),
        });
        let actor = Actor { env: Arc::clone(&env), shared: Arc::clone(&shared), fabric, running, lost };
        tokio::spawn(actor.run(inbox));
        Self { env, shared, orders }
    }

    pub fn record(&self) -> &Arc<Record> {
        &self.shared.record
    }

    pub fn status(&self) -> VmStatus {
        let reads = self.shared.exports.lock().unwrap_or_else(PoisonError::into_inner).reads();
        self.shared.record.status(reads)
    }

    /// Copies of these disks, as they all are at one instant, while the machine runs on. Other orders are carried out
    /// meanwhile.
    pub async fn capture(&self, luns: &[Option<u8>]) -> Result<Captured, HostError> {
        let _alone = self.shared.capturing.lock().await;
        let machine = self.machine().await?;
        capture::capture(&*machine, &self.record().spec(), &self.record().files, luns).await
    }

    /// Other orders are carried out meanwhile.
    pub async fn shell(&self, request: &ShellRequest) -> Result<Ended, HostError> {
        let machine = self.machine().await?;
        let time = Duration::from_millis(request.time_ms);
        Ok(machine.run_shell(&request.arguments, &request.input, time).await?)
    }

    /// The running machine's serial console, until the token says that somebody else took it over.
    pub async fn serial(&self) -> Result<(UnixStream, CancellationToken), HostError> {
        let machine = self.machine().await?;
        let mine = CancellationToken::new();
        let last =
            std::mem::replace(&mut *self.shared.session.lock().unwrap_or_else(PoisonError::into_inner), mine.clone());
        last.cancel();
        Ok((machine.serial().await?, mine))
    }

    /// What the screen of the running machine shows, as PNG.
    pub async fn screenshot(&self) -> Result<Vec<u8>, HostError> {
        let machine = self.machine().await?;
        let file = self.record().files.dir.join(format!("screen-{}.png", Uuid::new_v4()));
        let taken = machine.screenshot(&file).await;
        let bytes = tokio::fs::read(&file).await;
        absent(tokio::fs::remove_file(&file).await).map_err(HostError::store)?;
        taken?;
        bytes.map_err(HostError::store)
    }

    /// A private link to a port of the guest, through its first interface.
    pub async fn connect(&self, port: u16) -> Result<DuplexStream, HostError> {
        let record = self.record();
        let Some(nic) = record.spec().nics.first().cloned() else {
            return Err(HostError::Conflict("the machine has no network interface".into()));
        };
        match self.env.networks.connect(&nic, port).await {
            Err(NetError::NotAttached { .. }) => Err(HostError::Conflict("the machine does not run".into())),
            answer => Ok(answer?),
        }
    }

    async fn machine(&self) -> Result<Arc<dyn Machine>, HostError> {
        let (lend, machine) = oneshot::channel();
        self.order(Order::Lend(lend)).await?;
        machine.await.map_err(|_| HostError::NotFound)
    }

    /// What was written to a disk, as qcow2: the copy of a capture, or the disk's own file while no guest has it. `None`: there is
    /// no file, nothing was ever written.
    pub async fn file(&self, file: &DiskFile) -> Result<Option<tokio::fs::File>, HostError> {
        let (record, spec) = (self.record(), self.record().spec());
        let path = match file {
            DiskFile::Captured { lun, capture } => {
                let label = label(*lun);
                if !spec.disks().any(|d| d.label() == label) {
                    return Err(HostError::Invalid(format!("the machine has no disk {label}")));
                }
                record.files.captures().join(capture.to_string()).join(format!("{label}.qcow2"))
            }
            DiskFile::Own { name } => {
                let named = |path: &Path| path.file_name().is_some_and(|n| n.to_str() == Some(name.as_str()));
                let path = spec.overlays().find(|path| named(path)).map(Path::to_path_buf);
                let path =
                    path.ok_or_else(|| HostError::Invalid(format!("the machine has no disk with the file {name}")))?;
                if !spec.detached.contains(&path) && self.status().power != PowerState::Stopped {
                    return Err(HostError::Conflict("the machine runs: only copies of its disks can be read".into()));
                }
                path
            }
        };
        match (tokio::fs::File::open(&path).await, file) {
            (Ok(file), _) => Ok(Some(file)),
            (Err(e), DiskFile::Own { .. }) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            (Err(e), _) => Err(HostError::Store(e)),
        }
    }

    /// What firmware and TPM keep; `None`: nothing.
    pub async fn firmware(&self) -> Result<Option<Vec<u8>>, HostError> {
        let spec = self.record().spec();
        let Some(launch) = &spec.trusted_launch else { return Ok(None) };
        if self.status().power != PowerState::Stopped {
            return Err(HostError::Conflict("the machine runs: what its TPM keeps changes".into()));
        }
        let state = launch.state.clone();
        let packed = tokio::task::spawn_blocking(move || firmware::pack(&state)).await;
        packed.map_err(|e| HostError::store(io::Error::other(e)))?.map_err(HostError::store)
    }

    pub async fn discard(&self, capture: Uuid) -> Result<(), HostError> {
        capture::discard(&self.record().files, capture).await
    }

    /// Returns when the order has been carried out, after those given before.
    pub async fn order(&self, order: Order) -> Result<(), HostError> {
        if matches!(order, Order::PowerOff { skip_shutdown: true } | Order::Delete { .. }) {
            self.shared.force().cancel();
        }
        let (reply, answer) = oneshot::channel();
        self.orders.send((order, reply)).await.map_err(|_| HostError::NotFound)?;
        answer.await.map_err(|_| HostError::NotFound)?
    }
}

fn fabric(env: &Env, record: &Arc<Record>) -> Arc<Fabric> {
    let reports = Arc::clone(record) as Arc<dyn Reports>;
    Fabric::new(record.spec(), reports, Arc::clone(&env.tokens), Arc::clone(&env.base_images))
}

fn launch(record: &Record, fabric: &Arc<Fabric>, provisioning_disc: bool) -> Launch {
    Launch { spec: record.spec(), files: record.files.clone(), provisioning_disc, fabric: Arc::clone(fabric) }
}

struct Actor {
    env: Arc<Env>,
    shared: Arc<Shared>,
    fabric: Arc<Fabric>,
    running: Option<Running>,
    /// It may be running, but could not be adopted.
    lost: bool,
}

impl Actor {
    async fn run(mut self, mut inbox: mpsc::Receiver<(Order, Reply)>) {
        if self.running.is_some() {
            self.take_over().await;
        }
        let mut trim = tokio::time::interval(TRIM_LOGS);
        let mut adopt = tokio::time::interval(ADOPT_AGAIN);
        adopt.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = inbox.recv() => {
                    let Some((order, reply)) = order else { break };
                    let last = matches!(order, Order::Delete { .. });
                    let result = self.carry_out(order).await;
                    *self.shared.force.lock().unwrap_or_else(PoisonError::into_inner) = CancellationToken::new();
                    let deleted = last && result.is_ok();
                    // Whoever asked may have gone away.
                    let _ = reply.send(result);
                    if deleted {
                        return;
                    }
                }
                event = next_event(&mut self.running) => self.on_event(event).await,
                _ = adopt.tick(), if self.lost => drop(self.is_running().await),
                _ = trim.tick(), if self.running.is_some() => store::trim_logs(&self.record().files),
            }
        }
        // The host is stopping: the machine runs on, its network waits for the next host.
        self.detach().await;
    }

    fn record(&self) -> &Arc<Record> {
        &self.shared.record
    }

    /// After adoption: connects the machine again, and finishes a power-off that the earlier host had begun.
    async fn take_over(&mut self) {
        if let Err(e) = self.attach().await {
            tracing::error!(vm.id = %self.record().id, error = %super::with_causes(&e), "an adopted machine has no network");
            self.record().set_power(PowerState::Running, Some(super::with_causes(&e)));
        }
        if !self.record().wanted_on()
            && let Err(e) = self.power_off(false).await
        {
            tracing::error!(vm.id = %self.record().id, error = %super::with_causes(&e), "cannot finish a power-off");
        }
    }

    async fn carry_out(&mut self, order: Order) -> Result<(), HostError> {
        match order {
            Order::Start => self.start().await,
            Order::PowerOff { skip_shutdown } => self.power_off(skip_shutdown).await,
            Order::Restart => {
                self.power_off(false).await?;
                self.start().await
            }
            Order::UpdateNetwork(nics) => self.update_network(nics).await,
            Order::Redefine(spec) => self.redefine(*spec).await,
            Order::Lend(borrower) => {
                let Some(running) = &self.running else {
                    return Err(HostError::Conflict("the machine does not run".into()));
                };
                // Whoever asked may have gone away.
                let _ = borrower.send(Arc::clone(&running.machine));
                Ok(())
            }
            Order::PutFirmware(packed) => self.put_firmware(packed).await,
            Order::Discard { remove } => self.discard(remove).await,
            Order::Delete { remove } => self.delete(remove).await,
        }
    }

    async fn on_event(&mut self, event: Option<MachineEvent>) {
        match event {
            Some(MachineEvent::Reset) => {
                tracing::info!(vm.id = %self.record().id, "the guest restarted itself");
            }
            // While it is being stopped that matters more.
            Some(MachineEvent::Stalled { detail }) if self.record().wanted_on() => {
                self.record().set_power(PowerState::Running, Some(detail));
            }
            Some(MachineEvent::Resumed) if self.record().wanted_on() => {
                self.record().set_power(PowerState::Running, None);
            }
            Some(MachineEvent::Stalled { .. } | MachineEvent::Resumed) => {}
            Some(MachineEvent::Exited(exit)) => self.ended(exit).await,
            None => self.ended(Exit::Died { detail: "the hypervisor lost sight of it".into() }).await,
        }
    }

    async fn start(&mut self) -> Result<(), HostError> {
        if self.is_running().await? {
            return Ok(());
        }
        self.record().want(true).map_err(HostError::store)?;
        self.record().set_power(PowerState::Starting, None);
        match self.try_start().await {
            Ok(running) => {
                self.running = Some(running);
                self.record().set_power(PowerState::Running, None);
                Ok(())
            }
            Err(e) => {
                self.detach().await;
                let power = match &e {
                    HostError::Hypervisor(HypervisorError::NotEnoughMemory { .. }) => PowerState::Stopped,
                    _ => PowerState::Crashed,
                };
                self.record().set_power(power, Some(super::with_causes(&e)));
                self.record().want(false).map_err(HostError::store)?;
                Err(e)
            }
        }
    }

    /// Looks also for a machine that this host could not adopt at first: two must never run on one disk.
    async fn is_running(&mut self) -> Result<bool, HostError> {
        if self.running.is_none() {
            let launch = launch(self.record(), &self.fabric, false);
            self.running = self.env.hypervisor.adopt(&launch).await?;
            self.lost = false;
            if self.running.is_some() {
                self.record().set_power(PowerState::Running, None);
                self.attach().await?;
            }
        }
        Ok(self.running.is_some())
    }

    async fn try_start(&mut self) -> Result<Running, HostError> {
        let record = Arc::clone(self.record());
        let spec = record.spec();
        for disk in spec.disks() {
            overlay::create(disk, &record.files.base(&disk.label())).await?;
        }
        let disc = self.provisioning_disc().await?;
        self.attach().await?;
        let launch = launch(&record, &self.fabric, disc);
        Ok(self.env.hypervisor.start(&launch).await?)
    }

    /// Writes the disc of a machine that has not reported yet; removes that of one that has, for the secrets on it.
    async fn provisioning_disc(&self) -> Result<bool, HostError> {
        let record = Arc::clone(self.record());
        let path = record.files.provisioning_iso();
        let wanted = record.provisioning() == ProvisioningState::Waiting;
        let work = move || -> Result<bool, HostError> {
            match (&record.spec().provisioning, wanted) {
                (Some(provisioning), true) => {
                    lazuli_disks::media::provisioning_iso(&disc::files(provisioning), &path)?;
                    Ok(true)
                }
                _ => match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HostError::store(e)),
                    _ => Ok(false),
                },
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| HostError::store(std::io::Error::other(e)))?
    }

    async fn attach(&self) -> Result<(), HostError> {
        let record = self.record();
        for (index, nic) in record.spec().nics.iter().enumerate() {
            let attached = self.env.networks.attach(nic, record.files.nic(index), Arc::clone(&self.fabric)).await;
            attached?;
        }
        Ok(())
    }

    async fn detach(&self) {
        for nic in &self.record().spec().nics {
            self.env.networks.detach(nic).await;
        }
    }

    async fn power_off(&mut self, skip_shutdown: bool) -> Result<(), HostError> {
        self.record().want(false).map_err(HostError::store)?;
        match self.is_running().await {
            Ok(true) => {}
            Ok(false) => {
                self.record().set_power(PowerState::Stopped, None);
                return Ok(());
            }
            Err(e) if !skip_shutdown => return Err(e),
            Err(_) => {
                let launch = launch(self.record(), &self.fabric, false);
                self.env.hypervisor.kill_lost(&launch).await?;
                self.lost = false;
                self.record().set_power(PowerState::Stopped, None);
                return Ok(());
            }
        }
        self.record().set_power(PowerState::Stopping, None);
        if !skip_shutdown {
            self.shut_down().await;
        }
        if let Some(running) = &self.running {
            running.machine.kill().await?;
        }
        while self.running.is_some() {
            let event = next_event(&mut self.running).await;
            self.on_event(event).await;
        }
        // Asked for: whatever its end looked like, it is off.
        self.record().set_power(PowerState::Stopped, None);
        Ok(())
    }

    /// Presses the power button until the guest has switched itself off, time is up or somebody is impatient.
    async fn shut_down(&mut self) {
        let force = self.shared.force();
        let deadline = tokio::time::sleep(self.env.shutdown_time);
        tokio::pin!(deadline);
        let mut press = tokio::time::interval(PRESS_AGAIN);
        while let Some(running) = &self.running {
            let machine = Arc::clone(&running.machine);
            tokio::select! {
                biased;
                () = force.cancelled() => return,
                event = next_event(&mut self.running) => self.on_event(event).await,
                () = &mut deadline => {
                    tracing::warn!(vm.id = %self.record().id, "the guest does not shut down; switching it off");
                    return;
                }
                _ = press.tick() => if let Err(e) = machine.press_power_button().await {
                    tracing::debug!(vm.id = %self.record().id, error = %e, "the power button cannot be pressed");
                },
            }
        }
    }

    /// The machine is gone.
    async fn ended(&mut self, exit: Exit) {
        self.running = None;
        self.detach().await;
        let (power, error) = match exit {
            Exit::PoweredOff | Exit::Killed => (PowerState::Stopped, None),
            Exit::Died { detail } => (PowerState::Crashed, Some(detail)),
        };
        if power == PowerState::Stopped
            && let Err(e) = self.record().want(false)
        {
            tracing::error!(vm.id = %self.record().id, error = %e, "cannot note that the machine is off");
        }
        self.record().set_power(power, error);
    }

    async fn update_network(&mut self, nics: Vec<NicSpec>) -> Result<(), HostError> {
        let record = Arc::clone(self.record());
        let mut spec = (*record.spec()).clone();
        let fixed = |n: &NicSpec| (n.id.clone(), n.vnet_id.clone(), n.mac, n.address, n.prefix_len);
        if spec.nics.iter().map(fixed).ne(nics.iter().map(fixed)) {
            return Err(HostError::Conflict("interfaces cannot be added, removed or moved while defined".into()));
        }
        if self.running.is_some() {
            for (index, nic) in nics.iter().enumerate() {
                self.env.networks.update(nic, record.files.nic(index)).await?;
            }
        }
        spec.nics = nics;
        spec.check()?;
        record.set_spec(spec).map_err(HostError::store)?;
        self.fabric.set_spec(record.spec());
        Ok(())
    }

    /// Disks that come are ready and attached before the definition says that they are all; disks that go are told to go
    /// before it forgets them: after a crash the same order finishes what was begun.
    async fn redefine(&mut self, wanted: VmSpec) -> Result<(), HostError> {
        let record = Arc::clone(self.record());
        let old = record.spec();
        let spec = match self.running {
            Some(_) => changed_while_running(&old, wanted)?,
            None if wanted.os_disk.overlay != old.os_disk.overlay => {
                return Err(HostError::Conflict("the disk of the operating system cannot be replaced".into()));
            }
            None => VmSpec { provisioning: old.provisioning.clone(), ..wanted },
        };
        spec.check()?;
        for disk in spec.disks() {
            let missing = !self.shared.exports.lock().unwrap_or_else(PoisonError::into_inner).has(disk);
            if missing {
                let export = BaseExport::open(disk, &record.files, &*self.env.base_images).await?;
                self.shared.exports.lock().unwrap_or_else(PoisonError::into_inner).add(disk, export);
            }
        }
        if let Some(running) = &self.running {
            let machine = Arc::clone(&running.machine);
            let stays = |disk: &DiskSpec| spec.data_disks.iter().any(|d| d.lun == disk.lun);
            let union: Vec<DiskSpec> =
                old.data_disks.iter().filter(|d| !stays(d)).chain(&spec.data_disks).cloned().collect();
            let returns = |path: &&PathBuf| union.iter().any(|d| d.overlay == **path);
            let detached = old.detached.iter().filter(|path| !returns(path)).cloned().collect();
            let between = VmSpec { data_disks: union, detached, ..spec.clone() };
            between.check()?;
            for disk in spec.data_disks.iter().filter(|d| !old.data_disks.iter().any(|o| o.lun == d.lun)) {
                overlay::create(disk, &record.files.base(&disk.label())).await?;
            }
            record.set_spec(between).map_err(HostError::store)?;
            for disk in &spec.data_disks {
                machine.attach(&record.files, disk).await?;
            }
            for disk in old.data_disks.iter().filter(|d| !stays(d)) {
                machine.detach(&disk.label()).await?;
            }
        }
        self.shared.exports.lock().unwrap_or_else(PoisonError::into_inner).keep(&spec);
        record.set_spec(spec).map_err(HostError::store)?;
        self.fabric.set_spec(record.spec());
        Ok(())
    }

    async fn put_firmware(&self, packed: Bytes) -> Result<(), HostError> {
        let spec = self.record().spec();
        let Some(launch) = &spec.trusted_launch else { return Ok(()) };
        let state = launch.state.clone();
        if self.running.is_some() && !state.exists() {
            return Err(HostError::Conflict("the machine runs: its firmware has begun already".into()));
        }
        let unpacked = tokio::task::spawn_blocking(move || firmware::unpack(&packed, &state)).await;
        match unpacked.map_err(|e| HostError::store(io::Error::other(e)))? {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(HostError::Invalid(e.to_string())),
            unpacked => unpacked.map_err(HostError::store),
        }
    }

    /// Asked again it removes what is still there.
    async fn discard(&mut self, remove: Vec<PathBuf>) -> Result<(), HostError> {
        let record = Arc::clone(self.record());
        let mut spec = (*record.spec()).clone();
        if let Some(attached) = spec.disks().find(|d| remove.contains(&d.overlay)) {
            return Err(HostError::Conflict(format!("the disk {} is attached", attached.overlay.display())));
        }
        let gone: Vec<PathBuf>;
        (gone, spec.detached) = spec.detached.into_iter().partition(|path| remove.contains(path));
        for path in &gone {
            absent(tokio::fs::remove_file(path).await).map_err(HostError::store)?;
        }
        // The definition last: as long as it names a file, its removal can be asked for again.
        record.set_spec(spec).map_err(HostError::store)
    }

    async fn delete(&mut self, remove: Vec<PathBuf>) -> Result<(), HostError> {
        let record = Arc::clone(self.record());
        let spec = record.spec();
        let state = spec.trusted_launch.as_ref().map(|launch| launch.state.as_path());
        let is_own = |path: &Path| spec.overlays().chain(state).any(|own| own == path);
        // One that it was never told of may not be there either.
        if let Some(stranger) = remove.iter().find(|path| !is_own(path) && path.exists()) {
            let message = format!("{} is no disk of this machine", stranger.display());
            return Err(HostError::Invalid(message));
        }
        self.power_off(true).await?;
        self.shared.set_exports(Exports::default());
        let work = move || {
            // The definition last: as long as it is there, the deletion can be asked for again.
            for path in &remove {
                match path.is_dir() {
                    true => absent(std::fs::remove_dir_all(path))?,
                    false => absent(std::fs::remove_file(path))?,
                }
            }
            absent(std::fs::remove_dir_all(&record.files.run))?;
            absent(std::fs::remove_file(record.files.provisioning_iso()))?;
            absent(std::fs::remove_file(record.files.dir.join("vm.json")))?;
            absent(std::fs::remove_dir_all(&record.files.dir))
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
        done.and_then(|result| result).map_err(HostError::store)
    }
}

/// A running machine as it would be with what may change of it; its interfaces have an order of their own.
fn changed_while_running(old: &VmSpec, wanted: VmSpec) -> Result<VmSpec, HostError> {
    let spec = VmSpec {
        data_disks: wanted.data_disks.clone(),
        detached: wanted.detached.clone(),
        tags: wanted.tags.clone(),
        user_data: wanted.user_data.clone(),
        vm_size: wanted.vm_size.clone(),
        applications: wanted.applications.clone(),
        ..old.clone()
    };
    let refuse = |what: &str| Err(HostError::Conflict(format!("{what} cannot be changed while the machine runs")));
    if (wanted.cpus, wanted.memory_mib) != (old.cpus, old.memory_mib) {
        return refuse("processors and memory");
    }
    if wanted.os_disk.overlay != old.os_disk.overlay {
        return refuse("the disk of the operating system");
    }
    if wanted.trusted_launch != old.trusted_launch {
        return refuse("secure boot and the TPM");
    }
    let replaced = |d: &DiskSpec| old.data_disks.iter().any(|o| o.lun == d.lun && o.overlay != d.overlay);
    if spec.data_disks.iter().any(replaced) {
        return refuse("the disk at a LUN, but by detaching it first,");
    }
    Ok(spec)
}

/// What was to be removed may be gone already.
fn absent(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The next event of a running machine; never of one that is off.
async fn next_event(running: &mut Option<Running>) -> Option<MachineEvent> {
    match running {
        Some(running) => running.events.recv().await,
        None => std::future::pending().await,
    }
}
