//! The engine's end of the host's socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use uuid::Uuid;

use super::api::{
    CaptureRequest, Captured, DeleteRequest, DiskFile, ErrorBody, HostErrorCode, HostInfo, LINK, ShellRequest,
};
use super::remote::WorkerLink;
use crate::guest_agent::Ended;
use crate::spec::{NicSpec, VmSpec, VmStatus};

/// Talks to the host process. Cheap to clone; holds no connection, so that it outlives the host.
#[derive(Debug, Clone)]
pub struct HostClient {
    way: Way,
}

/// To the host process of this computer, or to that of another one.
#[derive(Debug, Clone)]
enum Way {
    Socket(PathBuf),
    Worker(Arc<WorkerLink>),
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Worker(link) => f.write_str(&link.address),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Way {
    async fn open(&self) -> std::io::Result<Box<dyn Duplex>> {
        Ok(match self {
            Self::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Self::Worker(link) => Box::new(link.connect().await?),
        })
    }
}

/// A connection to a port of a guest, or to its serial console.
pub type GuestStream = TokioIo<hyper::upgrade::Upgraded>;

/// Why a request to the host failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No host process answers. Guests may be running all the same; the next host adopts them.
    #[error("the host process does not answer on {host}: is `lazuli host` running?")]
    Unreachable {
        /// Its socket or its address.
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host answered and refused or failed.
    #[error("{message}")]
    Refused { code: HostErrorCode, message: String },
    /// The answer is not what this version expects.
    #[error("the host's answer cannot be understood")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a file of another computer was not brought here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Host(#[from] ClientError),
    #[error("the file cannot be kept here")]
    File(#[source] std::io::Error),
}

impl ClientError {
    /// The host's own error code, if it was reached.
    pub fn code(&self) -> Option<HostErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Would the same request fail again however often it is made?
    pub fn is_permanent(&self) -> bool {
        use HostErrorCode as C;
        matches!(self.code(), Some(C::NotFound | C::Invalid | C::Conflict))
    }
}

impl HostClient {
    /// `socket` is `DIR/host/host.sock`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { way: Way::Socket(socket.into()) }
    }

    /// The host process of another computer. Nothing is opened yet.
    pub fn of_worker(link: WorkerLink) -> Self {
        Self { way: Way::Worker(Arc::new(link)) }
    }

    fn unreachable(&self, source: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
        ClientError::Unreachable { host: self.way.to_string(), source }
    }

    /// Is a host there, and which.
    pub async fn info(&self) -> Result<HostInfo, ClientError> {
        self.json(Method::GET, "/", None::<&()>).await
    }

    /// Defines the machine, creates missing overlays and switches it on. Asked again with the same spec it does what
    /// is still to be done; with another spec it is refused with `Conflict`. Returns once the guest's processors run.
    ///
    /// A machine that was defined but could not be started stays defined, off; delete it or start it later. One whose
    /// image cannot be opened is not even defined.
    pub async fn define_and_start(&self, spec: &VmSpec) -> Result<VmStatus, ClientError> {
        self.json(Method::PUT, &format!("/vms/{}", spec.id), Some(spec)).await
    }

    /// Defines the machine and leaves it off. Asked again with the same spec it does nothing; otherwise as
    /// [`Self::define_and_start`].
    pub async fn define(&self, spec: &VmSpec) -> Result<VmStatus, ClientError> {
        self.json(Method::PUT, &format!("/vms/{}?off=true", spec.id), Some(spec)).await
    }

    /// What firmware and TPM of a machine that is off keep ([`pack`](super::firmware::pack)). `None`: nothing, as of one without
    /// trusted launch. `Conflict` if it runs.
    pub async fn firmware(&self, id: Uuid) -> Result<Option<Bytes>, ClientError> {
        let packed = self.call(Method::GET, &format!("/vms/{id}/firmware"), None::<&()>).await?;
        Ok(Some(packed).filter(|p| !p.is_empty()))
    }

    /// A defined machine begins with what its firmware and TPM kept elsewhere. Where they keep something already, that stays.
    pub async fn put_firmware(&self, id: Uuid, packed: &[u8]) -> Result<(), ClientError> {
        self.send(Method::PUT, &format!("/vms/{id}/firmware"), packed.to_vec()).await.map(drop)
    }

    /// Switches a stopped or crashed machine on; a running one is left alone.
    pub async fn start(&self, id: Uuid) -> Result<VmStatus, ClientError> {
        self.json(Method::POST, &format!("/vms/{id}/start"), None::<&()>).await
    }

    /// Switches the machine off and returns once it is off: by the power button (ACPI) and, if the guest does not
    /// obey in time, by force. `skip_shutdown` forces at once. A stopped machine stays so.
    pub async fn power_off(&self, id: Uuid, skip_shutdown: bool) -> Result<VmStatus, ClientError> {
        self.json(Method::POST, &format!("/vms/{id}/power-off?skip_shutdown={skip_shutdown}"), None::<&()>).await
    }

    /// Powers off gracefully and on again, with the same definition.
    pub async fn restart(&self, id: Uuid) -> Result<VmStatus, ClientError> {
        self.json(Method::POST, &format!("/vms/{id}/restart"), None::<&()>).await
    }

    /// Changes a defined machine: everything while it is off, its data disks, tags and user data while it runs. The
    /// operating system's disk stays what it is, and how far provisioning has come. `Conflict` otherwise.
    pub async fn redefine(&self, spec: &VmSpec) -> Result<VmStatus, ClientError> {
        self.json(Method::PUT, &format!("/vms/{}/definition", spec.id), Some(spec)).await
    }

    /// Stops the machine by force and forgets it. Of its disks only the overlays in `remove` are deleted, and only if
    /// they belong to it; so is the state of its firmware. A machine that is not there counts as deleted.
    pub async fn delete(&self, id: Uuid, remove: &[PathBuf]) -> Result<(), ClientError> {
        let body = DeleteRequest { remove: remove.to_vec() };
        match self.call(Method::DELETE, &format!("/vms/{id}"), Some(&body)).await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some(HostErrorCode::NotFound) => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub async fn status(&self, id: Uuid) -> Result<VmStatus, ClientError> {
        self.json(Method::GET, &format!("/vms/{id}"), None::<&()>).await
    }

    /// Every defined machine, by id.
    pub async fn list(&self) -> Result<Vec<VmStatus>, ClientError> {
        self.json(Method::GET, "/vms", None::<&()>).await
    }

    /// Replaces what may change of the interfaces while the machine runs: public address, open ports, outbound.
    /// The interfaces themselves (ids, networks, addresses) must stay.
    pub async fn update_network(&self, id: Uuid, nics: &[NicSpec]) -> Result<VmStatus, ClientError> {
        self.json(Method::PUT, &format!("/vms/{id}/network"), Some(nics)).await
    }

    /// Copies disks of a running machine (by LUN, `None` is the OS disk) as they all are at one instant; the guest runs on.
    /// Open the files at once, then [`discard`](Self::discard) the capture. `Conflict` if the machine does not run, `Full`
    /// without the room for it.
    pub async fn capture(&self, id: Uuid, luns: &[Option<u8>]) -> Result<Captured, ClientError> {
        let request = CaptureRequest { luns: luns.to_vec() };
        self.json(Method::POST, &format!("/vms/{id}/captures"), Some(&request)).await
    }

    /// Removes the files of a capture. One that is not there counts as removed.
    pub async fn discard(&self, id: Uuid, capture: Uuid) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/vms/{id}/captures/{capture}"), None::<&()>).await.map(drop)
    }

    /// Waits until the machine's counter is not `since` and returns its status then; after `timeout` returns it as it
    /// is. `since` 0 returns at once.
    pub async fn wait_change(&self, id: Uuid, since: u64, timeout: Duration) -> Result<VmStatus, ClientError> {
        let path = format!("/vms/{id}/changes?since={since}&timeout_ms={}", timeout.as_millis());
        self.json(Method::GET, &path, None::<&()>).await
    }

    /// The last `max` bytes of the serial console, raw.
    pub async fn console(&self, id: Uuid, max: u64) -> Result<Bytes, ClientError> {
        self.call(Method::GET, &format!("/vms/{id}/console?max={max}"), None::<&()>).await
    }

    /// The serial console of a running machine, in both directions, until either end closes it or somebody else asks for it.
    /// `Conflict` if the machine does not run.
    pub async fn serial(&self, id: Uuid) -> Result<GuestStream, ClientError> {
        self.link(&format!("/vms/{id}/serial")).await
    }

    /// Runs `/bin/sh` with these arguments and this on its standard input in the guest of a running machine, by its agent.
    /// `NoAgent` if none answers, `TimedOut` if it does not end in time, `Conflict` if the machine does not run.
    pub async fn run_shell(
        &self,
        id: Uuid,
        arguments: Vec<String>,
        input: String,
        time: Duration,
    ) -> Result<Ended, ClientError> {
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let request = ShellRequest { arguments, input, time_ms };
        self.json(Method::POST, &format!("/vms/{id}/shell"), Some(&request)).await
    }

    /// What the screen of a running machine shows, as PNG. `Conflict` if it does not run.
    pub async fn screenshot(&self, id: Uuid) -> Result<Bytes, ClientError> {
        self.call(Method::GET, &format!("/vms/{id}/screenshot"), None::<&()>).await
    }

    /// What was read of the machine's image when it started, as the host's [`BaseImages`](super::BaseImages) write it. `None`: not known.
    pub async fn boot_trace(&self, id: Uuid) -> Result<Option<Bytes>, ClientError> {
        let trace = self.call(Method::GET, &format!("/vms/{id}/boot-trace"), None::<&()>).await?;
        Ok(Some(trace).filter(|t| !t.is_empty()))
    }

    /// A connection to a TCP port of a running machine's guest, through its virtual network, whatever its security rules say.
    /// `Refused` if nothing answers there, `Conflict` if the machine does not run.
    pub async fn connect(&self, id: Uuid, port: u16) -> Result<GuestStream, ClientError> {
        self.link(&format!("/vms/{id}/connect?port={port}")).await
    }

    /// Removes files of disks that were detached from the machine. One that is not there counts as removed; `Conflict` if a disk is
    /// attached.
    pub async fn remove_detached(&self, id: Uuid, remove: &[PathBuf]) -> Result<(), ClientError> {
        let body = DeleteRequest { remove: remove.to_vec() };
        self.call(Method::DELETE, &format!("/vms/{id}/files"), Some(&body)).await.map(drop)
    }

    /// Brings what a guest wrote to a disk to this computer, as the qcow2 file `to`. `false`: nothing was ever written, there is no
    /// file.
    pub async fn fetch(&self, id: Uuid, file: &DiskFile, to: &Path) -> Result<bool, FetchError> {
        let file = match file {
            DiskFile::Own { name } => format!("name={}", utf8_percent_encode(name, NON_ALPHANUMERIC)),
            DiskFile::Captured { lun: None, capture } => format!("capture={capture}"),
            DiskFile::Captured { lun: Some(lun), capture } => format!("capture={capture}&lun={lun}"),
        };
        let path = format!("/vms/{id}/files?{file}");
        let mut from = self.link(&path).await?;
        let cut = |e: std::io::Error| FetchError::Host(self.unreachable(e.into()));
        let len = from.read_u64_le().await.map_err(cut)?;
        if len == 0 {
            return Ok(false);
        }
        let mut file = tokio::fs::File::create(to).await.map_err(FetchError::File)?;
        let mut buf = vec![0; 1 << 20];
        let mut left = len;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            let read = from.read(&mut buf[..most]).await.map_err(cut)?;
            if read == 0 {
                return Err(cut(std::io::ErrorKind::UnexpectedEof.into()));
            }
            file.write_all(&buf[..read]).await.map_err(FetchError::File)?;
            left -= read as u64;
        }
        file.flush().await.map_err(FetchError::File)?;
        Ok(true)
    }

    async fn link(&self, path: &str) -> Result<GuestStream, ClientError> {
        let response = self.upgrade(path).await.map_err(|e| self.unreachable(e))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(response).await;
            return upgraded.map(TokioIo::new).map_err(|e| self.unreachable(e.into()));
        }
        let body = response.into_body().collect().await.map_err(|e| self.unreachable(e.into()))?;
        let error = serde_json::from_slice(&body.to_bytes()).map_err(|e| ClientError::Answer(e.into()))?;
        let ErrorBody { code, message } = error;
        Err(ClientError::Refused { code, message })
    }

    async fn upgrade(
        &self,
        path: &str,
    ) -> Result<http::Response<hyper::body::Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = self.way.open().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends when the connection is the stream's, or `sender` is dropped.
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .uri(path)
            .header(http::header::HOST, "host")
            .header(http::header::CONNECTION, "upgrade")
            .header(http::header::UPGRADE, LINK)
            .body(Full::new(Bytes::new()))?;
        Ok(sender.send_request(request).await?)
    }

    async fn json<B: serde::Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let bytes = self.call(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Answer(e.into()))
    }

    async fn call<B: serde::Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Bytes, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|e| ClientError::Answer(e.into()))?,
            None => Vec::new(),
        };
        self.send(method, path, body).await
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let (status, bytes) = self.exchange(method, path, body).await.map_err(|source| self.unreachable(source))?;
        if status.is_success() {
            return Ok(bytes);
        }
        let ErrorBody { code, message } = serde_json::from_slice(&bytes).map_err(|e| ClientError::Answer(e.into()))?;
        Err(ClientError::Refused { code, message })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = self.way.open().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The connection ends by itself when `sender` is dropped.
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "connection to the host process ended");
            }
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "host")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}
