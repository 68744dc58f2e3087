//! Calls to the host process of another computer.
//!
//! ```text
//! HostClient ── TLS 1.3 ──> Door (`lazuli worker`) ── DIR/host/host.sock ──> the host process
//!               │ 32 bytes: the door's token
//!               └ then the very bytes that go through the socket, both ways
//! ```
//! A door makes a key, a certificate and a token of its own whenever it opens; whoever is to call it gets the last two out of band
//! (from the database). The caller believes in that one certificate and no other, and only then shows the token. The door
//! understands nothing of what goes through, and must never let a byte through before the token was shown.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the certificate names; nobody looks it up.
const NAME: &str = "lazuli-worker";
const TOKEN_LEN: usize = 32;
/// For a connection and for its handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// A computer that is gone is noticed after about half a minute, however long an answer may take.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 4;

/// How a door is reached and entered.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerLink {
    /// `HOST:PORT`.
    pub address: String,
    /// The door's certificate, DER.
    pub certificate: Vec<u8>,
    pub token: [u8; TOKEN_LEN],
}

impl std::fmt::Debug for WorkerLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerLink").field("address", &self.address).finish_non_exhaustive()
    }
}

impl WorkerLink {
    /// A connection to the host process behind the door.
    pub(super) async fn connect(&self) -> io::Result<client::TlsStream<TcpStream>> {
        tokio::time::timeout(PATIENCE, self.enter()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn enter(&self) -> io::Result<client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(&self.address).await?;
        prepare(&tcp)?;
        let certificate = CertificateDer::from(self.certificate.clone());
        let config = lazuli_tls::only(certificate, &[&rustls::version::TLS13]).map_err(io::Error::other)?;
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        tls.write_all(&self.token).await?;
        tls.flush().await?;
        Ok(tls)
    }
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(tcp, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(tcp, PROBES)?;
    Ok(())
}

/// Where other computers call the host process of this one.
pub struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    certificate: Vec<u8>,
    token: [u8; TOKEN_LEN],
}

impl Door {
    /// Listens; nobody is let in before [`Door::serve`].
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn open(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let own = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
        let certificate = own.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .map_err(io::Error::other)?;
        let mut token = [0; TOKEN_LEN];
        let (a, b) = token.split_at_mut(TOKEN_LEN / 2);
        // From the system's random numbers, but for six bits each.
        a.copy_from_slice(Uuid::new_v4().as_bytes());
        b.copy_from_slice(Uuid::new_v4().as_bytes());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { listener, acceptor, certificate: certificate.to_vec(), token })
    }

    /// The port that was chosen, if it was to be chosen.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// For those who may call, if they reach the door under this address.
    pub fn link(&self, address: String) -> WorkerLink {
        WorkerLink { address, certificate: self.certificate.clone(), token: self.token }
    }

    /// Lets callers through to the host process that listens on `socket`, until `shutdown`.
    pub async fn serve(self, socket: PathBuf, shutdown: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let tcp = match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a caller");
                    // Out of file descriptors, most likely: others must close some first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, token, socket, shutdown) =
                (self.acceptor.clone(), self.token, socket.clone(), shutdown.clone());
            tokio::spawn(async move {
                let through = async {
                    let entering = tokio::time::timeout(PATIENCE, admit(&acceptor, tcp, &token)).await;
                    let mut caller = entering.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                    let mut host = UnixStream::connect(&socket).await?;
                    tokio::io::copy_bidirectional(&mut caller, &mut host).await
                };
                if let Some(Err(error)) = shutdown.run_until_cancelled(through).await {
                    tracing::debug!(%error, "a caller's connection ended");
                }
            });
        }
    }
}

/// The connection of a caller who has the token.
async fn admit(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    token: &[u8; TOKEN_LEN],
) -> io::Result<server::TlsStream<TcpStream>> {
    prepare(&tcp)?;
    let mut tls = acceptor.accept(tcp).await?;
    let mut shown = [0; TOKEN_LEN];
    tls.read_exact(&mut shown).await?;
    // All of it, whatever differs: how long this takes tells nothing.
    if shown.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b)) != 0 {
        tracing::warn!("a caller without the token was sent away");
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(tls)
}
