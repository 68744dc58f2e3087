//! The host process: the door ([`HostClient`]) and what stands behind it ([`Host`]).
//!
//! One host runs per machine (a lock on `DIR/host.lock`). It owns what guests need from outside while they run: exports
//! of their base images, virtual networks, Azure's endpoints. The guests themselves it only starts and watches: when the
//! host dies they wait, and the next host, which finds them by their definitions and monitor sockets, goes on.
//!
//! It must never delete or overwrite a disk except at the engine's explicit word, and never report a state that it did
//! not observe.

mod api;
mod capture;
mod client;
mod exports;
pub mod firmware;
mod guest;
mod networks;
mod remote;
mod server;
mod store;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lazuli_nbd::BlockSource;
use tokio::net::UnixListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::guest_agent::AgentError;
use crate::hypervisor::{Hypervisor, HypervisorError, VmFiles};
use crate::net::Bridges;
use crate::provisioning::tokens::{ServerTokens, Tokens};
use crate::spec::VmSpec;
use guest::{Guest, Order};
use networks::Networks;
use store::Record;

pub use api::{Captured, DiskFile, HostErrorCode, HostInfo};
pub use client::{ClientError, FetchError, GuestStream, HostClient};
pub use remote::{Door, WorkerLink};

/// The kernel's limit for a unix socket's path, without the final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Where base images come from; implemented over the content store.
#[async_trait]
pub trait BaseImages: Send + Sync + 'static {
    /// Opens the image a [`BaseImage::source`](crate::spec::BaseImage::source) names. It must be immutable.
    async fn open(&self, source: &str) -> Result<Arc<dyn BlockSource>, BaseImageError>;

    /// What a machine read of the image when it started, as the implementation writes it. `None`: not known.
    fn boot_trace(&self, source: &str) -> Option<Vec<u8>> {
        let _ = source;
        None
    }
}

/// Why a base image cannot be opened.
pub type BaseImageError = Box<dyn std::error::Error + Send + Sync>;

/// What a host process is made of.
pub struct HostConfig {
    /// The host's own folder, e.g. `DIR/host`; its path must be short, for the sockets in it.
    pub dir: PathBuf,
    pub base_images: Arc<dyn BaseImages>,
    pub hypervisor: Arc<dyn Hypervisor>,
    /// How long a guest may take to obey the power button.
    pub shutdown_time: Duration,
    /// The virtual networks that are on LANs of this computer.
    pub bridges: Bridges,
}

impl HostConfig {
    /// With the usual times, and no LANs.
    pub fn new(dir: impl Into<PathBuf>, base_images: Arc<dyn BaseImages>, hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self {
            dir: dir.into(),
            base_images,
            hypervisor,
            shutdown_time: Duration::from_secs(120),
            bridges: Bridges::default(),
        }
    }

    /// Where its clients find it.
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("host.sock")
    }

    /// Where the server listens for those of its guests who ask for tokens.
    pub fn token_socket(dir: &Path) -> PathBuf {
        dir.join("tokens.sock")
    }
}

/// Why the host cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("no such machine on this host")]
    NotFound,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Spec(#[from] crate::spec::BadSpec),
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Network(#[from] crate::net::NetError),
    #[error(transparent)]
    Export(#[from] exports::ExportError),
    #[error(transparent)]
    Overlay(#[from] crate::overlay::OverlayError),
    #[error("the provisioning disc cannot be written")]
    Media(#[from] lazuli_disks::media::MediaError),
    #[error("the host's folder cannot be used")]
    Store(#[source] io::Error),
    #[error("there is no room for copies of the machine's disks: {needed} bytes are needed, {free} are free")]
    Full { needed: u64, free: u64 },
    /// Another host process owns the folder.
    #[error("a host process is already running for {}", .0.display())]
    AlreadyRunning(PathBuf),
    #[error("the path {} is too long for sockets in it: choose a data folder with a shorter path", .0.display())]
    PathTooLong(PathBuf),
}

impl HostError {
    fn store(source: io::Error) -> Self {
        Self::Store(source)
    }

    /// For the wire.
    pub fn code(&self) -> HostErrorCode {
        match self {
            Self::NotFound => HostErrorCode::NotFound,
            Self::Invalid(_) | Self::Spec(_) => HostErrorCode::Invalid,
            Self::Conflict(_) => HostErrorCode::Conflict,
            Self::Hypervisor(HypervisorError::NotEnoughMemory { .. }) => HostErrorCode::NotEnoughMemory,
            Self::Hypervisor(HypervisorError::Agent(AgentError::Absent | AgentError::Port(_))) => {
                HostErrorCode::NoAgent
            }
            Self::Hypervisor(HypervisorError::Agent(AgentError::TimedOut(_))) => HostErrorCode::TimedOut,
            Self::Hypervisor(_) => HostErrorCode::Hypervisor,
            Self::Full { .. } => HostErrorCode::Full,
            Self::Network(crate::net::NetError::Refused { .. }) => HostErrorCode::Refused,
            Self::Network(_) => HostErrorCode::Network,
            Self::Export(_) | Self::Overlay(_) | Self::Media(_) | Self::Store(_) => HostErrorCode::Storage,
            Self::AlreadyRunning(_) | Self::PathTooLong(_) => HostErrorCode::Internal,
        }
    }
}

/// An error and its causes in one line, for operators.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let part = e.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = e.source();
    }
    text
}

/// What all machines of a host share.
struct Env {
    base_images: Arc<dyn BaseImages>,
    hypervisor: Arc<dyn Hypervisor>,
    networks: Networks,
    tokens: Arc<dyn Tokens>,
    shutdown_time: Duration,
}

/// The server side.
pub struct Host {
    dir: PathBuf,
    env: Arc<Env>,
    guests: Mutex<BTreeMap<Uuid, Arc<Guest>>>,
    /// Held while a machine is defined, which may take as long as its images take to open.
    defining: Mutex<()>,
    stopping: CancellationToken,
}

impl Host {
    /// Runs the host process: takes the machines of an earlier host over, then serves clients on
    /// [`HostConfig::socket`] until `shutdown`. Machines run on when it returns, and when it dies.
    pub async fn run(config: HostConfig, shutdown: CancellationToken) -> Result<(), HostError> {
        let HostConfig { dir, base_images, hypervisor, shutdown_time, bridges } = config;
        let longest = VmFiles::new(&dir, Uuid::nil()).base("lun63");
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(HostError::PathTooLong(dir));
        }
        for folder in [dir.clone(), dir.join("vms"), dir.join("run")] {
            store::private_dir(&folder).map_err(HostError::Store)?;
        }
        let _lock = lock(&dir)?;
        let tokens = Arc::new(ServerTokens::new(HostConfig::token_socket(&dir)));
        let networks = Networks::new(bridges);
        networks.warn();
        let env = Env { base_images, hypervisor, networks, tokens, shutdown_time };
        let host = Self {
            dir,
            env: Arc::new(env),
            guests: Mutex::default(),
            defining: Mutex::default(),
            stopping: shutdown.clone(),
        };
        let host = Arc::new(host);
        host.resume().await?;
        let listener = listen(&HostConfig::socket(&host.dir)).map_err(HostError::Store)?;
        tracing::info!(dir = %host.dir.display(), hypervisor = %host.env.hypervisor.describe(), "host is ready");
        server::serve(&host, listener).await;
        // Ends the machines' tasks and with them exports and networks, so that the next host can begin at once.
        host.guests.lock().await.clear();
        Ok(())
    }

    /// Takes over every machine there is a definition of. One that cannot be is left alone and said.
    async fn resume(&self) -> Result<(), HostError> {
        let ids = store::defined(&self.dir).map_err(HostError::Store)?;
        // At once: one that does not answer keeps no other waiting.
        let resumed = futures::future::join_all(ids.into_iter().map(async |id| {
            let record = Record::load(&self.dir, id).map_err(HostError::Store);
            let guest = match record {
                Ok(record) => Guest::resume(Arc::clone(&self.env), Arc::new(record)).await,
                Err(e) => Err(e),
            };
            (id, guest)
        }));
        let mut guests = self.guests.lock().await;
        for (id, guest) in resumed.await {
            match guest {
                Ok(guest) => drop(guests.insert(id, Arc::new(guest))),
                Err(e) => tracing::error!(vm.id = %id, error = %with_causes(&e), "a machine cannot be taken over"),
            }
        }
        Ok(())
    }

    async fn guest(&self, id: Uuid) -> Result<Arc<Guest>, HostError> {
        self.guests.lock().await.get(&id).cloned().ok_or(HostError::NotFound)
    }

    /// What the machine's image was read of when it started, this machine or an earlier one.
    async fn boot_trace(&self, id: Uuid) -> Result<Option<Vec<u8>>, HostError> {
        let spec = self.guest(id).await?.record().spec();
        let Some(base) = spec.os_disk.base.clone() else { return Ok(None) };
        let images = Arc::clone(&self.env.base_images);
        let traced = tokio::task::spawn_blocking(move || images.boot_trace(&base.source)).await;
        traced.map_err(|e| HostError::store(io::Error::other(e)))
    }

    async fn list(&self) -> Vec<Arc<Guest>> {
        self.guests.lock().await.values().cloned().collect()
    }

    /// Makes sure that the machine is defined so, and returns it.
    async fn define(&self, spec: VmSpec) -> Result<Arc<Guest>, HostError> {
        spec.check()?;
        let id = spec.id;
        let _alone = self.defining.lock().await;
        if let Some(guest) = self.guests.lock().await.get(&id) {
            if *guest.record().spec() == spec {
                return Ok(Arc::clone(guest));
            }
            return Err(HostError::Conflict("the machine exists with another definition".into()));
        }
        for other in self.list().await {
            check_apart(&spec, &other.record().spec())?;
        }
        let record = Arc::new(Record::create(&self.dir, spec).map_err(HostError::Store)?);
        match Guest::define(Arc::clone(&self.env), Arc::clone(&record)).await {
            Ok(guest) => {
                let guest = Arc::new(guest);
                self.guests.lock().await.insert(id, Arc::clone(&guest));
                Ok(guest)
            }
            Err(e) => {
                for folder in [&record.files.run, &record.files.dir] {
                    if let Err(e) = std::fs::remove_dir_all(folder) {
                        tracing::warn!(vm.id = %id, error = %e, "cannot remove the folder of a machine that was not defined");
                    }
                }
                Err(e)
            }
        }
    }

    async fn redefine(&self, id: Uuid, spec: VmSpec) -> Result<Arc<Guest>, HostError> {
        spec.check()?;
        let guest = self.guest(id).await?;
        if spec.id != id {
            return Err(HostError::Invalid("the definition is of another machine".into()));
        }
        let _alone = self.defining.lock().await;
        for other in self.list().await.iter().filter(|g| g.record().id != id) {
            check_apart(&spec, &other.record().spec())?;
        }
        guest.order(Order::Redefine(Box::new(spec))).await?;
        Ok(guest)
    }

    async fn delete(&self, id: Uuid, remove: Vec<PathBuf>) -> Result<(), HostError> {
        self.guest(id).await?.order(Order::Delete { remove }).await?;
        self.guests.lock().await.remove(&id);
        Ok(())
    }
}

/// Two machines must not share a disk or an interface.
fn check_apart(new: &VmSpec, old: &VmSpec) -> Result<(), HostError> {
    if let Some(overlay) = new.overlays().find(|path| old.overlays().any(|o| o == *path)) {
        let message = format!("the disk {} belongs to the machine '{}'", overlay.display(), old.name);
        return Err(HostError::Conflict(message));
    }
    if let Some(nic) = new.nics.iter().find(|n| old.nics.iter().any(|o| o.id == n.id)) {
        return Err(HostError::Conflict(format!("the interface {} belongs to the machine '{}'", nic.id, old.name)));
    }
    Ok(())
}

/// The kernel gives the lock back when the process ends, however it does.
fn lock(dir: &Path) -> Result<File, HostError> {
    let open = File::options().write(true).create(true).truncate(false).open(dir.join("host.lock"));
    let file = open.map_err(HostError::Store)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(HostError::AlreadyRunning(dir.to_owned())),
        Err(e) => Err(HostError::Store(e.into())),
    }
}

/// Listens where only the owner may connect, in place of the socket of a process that is dead. The folder is 0700, so there is
/// no moment in which others could.
///
/// # Errors
/// Such as a path that is too long for a socket.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
