//! The door of this crate: listeners up, addresses known, requests answered until shutdown.

use crate::app::{App, Edge};
use crate::backend::ArmBackend;
use crate::blob::BlobPlane;
use crate::identity::machine_token::{self, MachineTokens};
use crate::identity::{Keys, TokenConfig};
use crate::net::ca::{CaError, LocalCa, write_new};
use crate::net::hosts::OwnHosts;
use crate::net::proxy::Proxy;
use crate::net::server;
use crate::record::Recorder;
use lazuli_arm::ArmError;
use lazuli_authz::token::KeyError;
use lazuli_authz::{KeyRing, SigningKey};
use lazuli_engine::{Engine, TokenIssuer};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How the edge is to be served.
///
/// ```text
/// DIR/ca.pem            given to clients
/// DIR/ca-key.pem        0600
/// DIR/token-key.pem     0600, signs access tokens where there is no directory; a directory has its own keys, and takes this one over
/// ```
pub struct ServeConfig {
    /// Must exist; keys are kept here.
    pub data_dir: PathBuf,
    /// Port 0 picks one.
    pub listen: SocketAddr,
    /// Listener of the CONNECT proxy; a loopback address.
    pub proxy_listen: Option<SocketAddr>,
    /// Whether the proxy also connects to hosts that are not Azure's. Off unless the operator asks for it.
    pub proxy_passthrough: bool,
    /// Names and addresses, besides the loopback's and the listener's, by which clients reach this server.
    pub host_names: Vec<String>,
    /// The tenant meant by addresses that name none.
    pub home_tenant: Option<String>,
    /// Life of an access token.
    pub token_lifetime: Duration,
    /// What clients are told to wait between polls; raised to 1 s.
    pub retry_after: Duration,
    /// How long a stream of events may be silent before the client is told that it is still there.
    pub silence: Duration,
    pub backend: Arc<dyn ArmBackend>,
    /// `None`: no storage account exists.
    pub blobs: Option<Arc<dyn BlobPlane>>,
    /// Whose people may sign in. `None`: nobody but clients can.
    pub directory: Option<Engine>,
    /// Where the host process asks for the tokens of machines. `None`: machines get none.
    pub token_socket: Option<PathBuf>,
    /// A file that every management exchange is appended to, without its secrets.
    pub record: Option<PathBuf>,
}

impl ServeConfig {
    /// On a loopback port that the system picks, without a proxy.
    pub fn new(data_dir: impl Into<PathBuf>, backend: Arc<dyn ArmBackend>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            proxy_listen: None,
            proxy_passthrough: false,
            host_names: Vec::new(),
            home_tenant: None,
            token_lifetime: Duration::from_secs(24 * 3600 - 1),
            retry_after: Duration::from_secs(1),
            silence: Duration::from_secs(15),
            backend,
            blobs: None,
            directory: None,
            token_socket: None,
            record: None,
        }
    }
}

/// Why the edge cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    TokenKey(#[from] KeyError),
    #[error("the token-signing key cannot be taken over into the database")]
    AdoptKey(#[source] ArmError),
    #[error("workers cannot be told in whose name tokens are signed")]
    TellIssuer(#[source] ArmError),
    #[error("cannot read or remove {path}")]
    ReadKey {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {address}; choose another address or port, or stop what uses it")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the proxy would listen on {0}; it has no authentication and must stay on a loopback address")]
    ProxyNotLoopback(SocketAddr),
    #[error("cannot write exchanges to {path}")]
    Record {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// A server that answers requests.
#[derive(Debug)]
pub struct Running {
    /// The address that is listened on, with its real port.
    pub address: SocketAddr,
    pub proxy_address: Option<SocketAddr>,
    /// `https://host:port` that the server shows of itself.
    pub base_url: String,
    /// The CA's certificate, for clients.
    pub ca_file: PathBuf,
    tasks: TaskTracker,
}

impl Running {
    /// Until shutdown was asked for and the requests in flight have ended.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// Opens the listeners and serves until `shutdown`. On return, clients can connect.
pub async fn serve(config: ServeConfig, shutdown: CancellationToken) -> Result<Running, ServeError> {
    if let Some(address) = config.proxy_listen.filter(|a| !a.ip().is_loopback()) {
        return Err(ServeError::ProxyNotLoopback(address));
    }
    let keys = token_keys(&config.data_dir.join("token-key.pem"), config.directory.as_ref()).await?;
    let (listener, address) = bind(config.listen).await?;
    let own = Arc::new(OwnHosts::new(own_names(&config, address), address.port()));
    let ca = LocalCa::open(&config.data_dir, own.names())?;
    let proxy = match config.proxy_listen {
        Some(wanted) => Some(bind(wanted).await?),
        None => None,
    };

    let tasks = TaskTracker::new();
    let proxy_address = proxy.as_ref().map(|(_, address)| *address);
    if let Some((listener, _)) = proxy {
        let proxy = Proxy {
            server: reachable(address),
            own: own.clone(),
            passthrough: config.proxy_passthrough,
            shutdown: shutdown.clone(),
        };
        tasks.spawn(server::run(listener, None, proxy, shutdown.clone()));
    }
    let recorder = match config.record {
        Some(path) => Some(Recorder::open(&path).map_err(|source| ServeError::Record { path, source })?),
        None => None,
    };
    let base_url = own.base();
    let machine_tokens = match &config.directory {
        Some(engine) => {
            let issuer = TokenIssuer { bases: own.bases(), lifetime_seconds: config.token_lifetime.as_secs() };
            engine.tell_token_issuer(&issuer).await.map_err(ServeError::TellIssuer)?;
            Some(MachineTokens { engine: engine.clone(), worker: None, issuer: Some(issuer) })
        }
        None => None,
    };
    let app = App {
        backend: config.backend,
        blobs: config.blobs,
        directory: config.directory,
        tokens: TokenConfig { keys, lifetime: config.token_lifetime, home_tenant: config.home_tenant },
        own,
        retry_after_seconds: config.retry_after.as_secs().max(1),
        recorder,
        silence: config.silence,
        stopping: shutdown.clone(),
    };
    let tls = tls(ca)?;
    let app = Arc::new(app);
    if let (Some(path), Some(tokens)) = (config.token_socket, machine_tokens) {
        match lazuli_engine::listen(&path) {
            Ok(listener) => drop(tasks.spawn(machine_token::run(listener, tokens, shutdown.clone()))),
            // Such as a path that is too long for a socket: everything else works.
            Err(error) => tracing::warn!(path = %path.display(), %error, "machines get no tokens of their identities"),
        }
    }
    tasks.spawn(server::run(listener, Some(tls), Edge(app), shutdown));
    tasks.close();
    Ok(Running { address, proxy_address, base_url, ca_file: config.data_dir.join("ca.pem"), tasks })
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The address to connect to from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The operator's names first: the first is what the server calls itself.
fn own_names(config: &ServeConfig, address: SocketAddr) -> Vec<String> {
    let mut names = config.host_names.clone();
    if !address.ip().is_unspecified() {
        names.push(address.ip().to_string());
    }
    names
}

async fn token_keys(path: &Path, directory: Option<&Engine>) -> Result<Keys, ServeError> {
    let Some(engine) = directory else {
        return Ok(Keys::Own(Arc::new(KeyRing::only(token_key(path)?))));
    };
    let failed = |source| ServeError::ReadKey { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(pem) => {
            engine.adopt_signing_key(&pem).await.map_err(ServeError::AdoptKey)?;
            std::fs::remove_file(path).map_err(failed)?;
            tracing::info!("the token-signing key is in the database now");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    Ok(Keys::Kept(engine.clone()))
}

fn token_key(path: &Path) -> Result<SigningKey, ServeError> {
    let pem = match std::fs::read_to_string(path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pem = SigningKey::generate_pem()?;
            write_new(path, &pem, 0o600)?;
            pem
        }
        Err(source) => return Err(ServeError::ReadKey { path: path.to_owned(), source }),
    };
    Ok(SigningKey::from_pem(&pem)?)
}

fn tls(ca: LocalCa) -> Result<Arc<rustls::ServerConfig>, ServeError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ServeError::Tls)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ca));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
