//! SSH over a stream that somebody else has connected. The only file that names `russh`.
//!
//! The user is proved by an Ed25519 key that was made for the run. The host's key is taken as it is at the first connection of the
//! run and must stay the same ([`HostKey`]): the machine was made a moment ago, nobody could know it before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use russh::client::{self, Handle, Msg};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, ChannelReadHalf, Disconnect};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Communicator, CommunicatorError, Exit, Output, Said, Stream, quoted};

/// How long greeting, key exchange and authentication may take; an emulated guest that boots is slow.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// A machine that is silent for this long, and this many times, is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVES: usize = 8;
/// After a command's end: output that is still on its way comes within this time of the last bit of it…
const QUIET: Duration = Duration::from_secs(1);
/// …and children that go on printing are left alone after this.
const DRAIN: Duration = Duration::from_secs(5);
/// Bytes of an upload that are read at once.
const CHUNK: usize = 32 * 1024;
/// Extended data of this kind is standard error (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// The key that proves the build user.
#[derive(Clone)]
pub struct UserKey(Arc<PrivateKey>);

impl UserKey {
    /// Whoever has the 32 bytes has the key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Arc::new(PrivateKey::from(Ed25519Keypair::from_seed(seed))))
    }

    /// As in `authorized_keys`: `ssh-ed25519 AAAA…`.
    pub fn public_line(&self) -> String {
        self.0.public_key().to_openssh().unwrap_or_default()
    }

    /// For `ssh -i`; whoever has it has the key.
    pub fn private_pem(&self) -> String {
        self.0.to_openssh(LineEnding::LF).map(|pem| pem.to_string()).unwrap_or_default()
    }
}

/// The machine's key: empty until it was seen.
#[derive(Debug, Clone, Default)]
pub struct HostKey(Arc<Mutex<Option<String>>>);

impl HostKey {
    /// As an earlier connection saw it ([`HostKey::fingerprint`]).
    pub fn known(fingerprint: Option<String>) -> Self {
        Self(Arc::new(Mutex::new(fingerprint)))
    }

    /// `SHA256:…`, once there was a connection.
    pub fn fingerprint(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Verifier {
    host: HostKey,
    /// What was shown instead.
    other: Arc<Mutex<Option<String>>>,
}

impl client::Handler for Verifier {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let now = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.fingerprint(HashAlg::Sha256).to_string(),
            PublicKeyOrCertificate::Certificate(_) => "a certificate".to_owned(),
        };
        let mut known = self.host.lock();
        match known.as_ref() {
            Some(before) if *before != now => {
                *self.other.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                Ok(false)
            }
            _ => {
                *known = Some(now);
                Ok(true)
            }
        }
    }
}

/// An authenticated connection.
pub struct SshCommunicator {
    handle: Handle<Verifier>,
}

impl SshCommunicator {
    /// Speaks SSH on `stream` and proves `user`.
    ///
    /// # Errors
    /// `Unreachable` while nothing that speaks SSH is at the other end: try again. `Denied` and `HostKey` stay so.
    pub async fn connect(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        user: &str,
        key: &UserKey,
        host: &HostKey,
    ) -> Result<Self, CommunicatorError> {
        match timeout(HANDSHAKE, Self::handshake(stream, user, key, host)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(CommunicatorError::Unreachable(elapsed.into())),
        }
    }

    async fn handshake(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        user: &str,
        key: &UserKey,
        host: &HostKey,
    ) -> Result<Self, CommunicatorError> {
        let config = client::Config {
            keepalive_interval: Some(KEEP_ALIVE),
            keepalive_max: KEEP_ALIVES,
            ..client::Config::default()
        };
        let other = Arc::<Mutex<Option<String>>>::default();
        let verifier = Verifier { host: host.clone(), other: Arc::clone(&other) };
        let before = host.fingerprint();
        let mut handle = match client::connect_stream(Arc::new(config), stream, verifier).await {
            Ok(handle) => handle,
            Err(error) => {
                let now = other.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Err(match (before, now) {
                    (Some(before), Some(now)) => CommunicatorError::HostKey { before, now },
                    _ => CommunicatorError::Unreachable(error.into()),
                });
            }
        };
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&key.0), None);
        match handle.authenticate_publickey(user, key).await {
            Ok(answer) if answer.success() => Ok(Self { handle }),
            Ok(_) => Err(CommunicatorError::Denied { user: user.to_owned() }),
            Err(error) => Err(CommunicatorError::Unreachable(error.into())),
        }
    }

    async fn channel(&self, command: &str) -> Result<Channel<Msg>, CommunicatorError> {
        let channel = self.handle.channel_open_session().await.map_err(lost)?;
        channel.exec(true, command).await.map_err(lost)?;
        Ok(channel)
    }
}

fn lost(error: impl std::error::Error + Send + Sync + 'static) -> CommunicatorError {
    CommunicatorError::Lost(error.into())
}

/// What has been heard of a command.
#[derive(Default)]
struct Heard {
    exit: Option<Exit>,
    refused: bool,
    closed: bool,
}

impl Heard {
    fn hear(&mut self, message: ChannelMsg, output: &mut dyn Output) {
        match message {
            ChannelMsg::Data { data } => output.take(Stream::Out, &data),
            ChannelMsg::ExtendedData { data, ext: STDERR } => output.take(Stream::Err, &data),
            ChannelMsg::ExitStatus { exit_status } => self.exit = Some(Exit::Code(exit_status)),
            ChannelMsg::ExitSignal { signal_name, .. } => self.exit = Some(Exit::Signal(format!("{signal_name:?}"))),
            ChannelMsg::Failure => self.refused = true,
            ChannelMsg::Close => self.closed = true,
            _ => {}
        }
    }

    fn end(self) -> Result<Exit, CommunicatorError> {
        if self.refused {
            return Err(CommunicatorError::NoCommands);
        }
        Ok(self.exit.unwrap_or(Exit::Lost))
    }
}

/// Until the channel is closed, or the command has ended and what it left open is quiet.
async fn listen(heard: &mut Heard, channel: &mut ChannelReadHalf, output: &mut dyn Output) {
    let mut drained: Option<Instant> = None;
    while !heard.closed && !heard.refused {
        let message = match drained {
            None => channel.wait().await,
            Some(end) => {
                let quiet = end.min(Instant::now() + QUIET);
                match timeout_at(quiet, channel.wait()).await {
                    Ok(message) => message,
                    Err(_) => return,
                }
            }
        };
        let Some(message) = message else { return };
        heard.hear(message, output);
        if drained.is_none() && heard.exit.is_some() {
            drained = Some(Instant::now() + DRAIN);
        }
        if drained.is_some_and(|end| Instant::now() >= end) {
            return;
        }
    }
}

#[async_trait]
impl Communicator for SshCommunicator {
    async fn exec(&mut self, command: &str, input: &[u8], output: &mut dyn Output) -> Result<Exit, CommunicatorError> {
        let (mut reading, writing) = self.channel(command).await?.split();
        if !input.is_empty() {
            writing.data_bytes(input.to_vec()).await.map_err(lost)?;
        }
        writing.eof().await.map_err(lost)?;
        let mut heard = Heard::default();
        listen(&mut heard, &mut reading, output).await;
        // Children may hold it open; the machine may be gone.
        let _ = writing.close().await;
        heard.end()
    }

    async fn upload(
        &mut self,
        path: &str,
        mode: &str,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<u64, CommunicatorError> {
        let target = quoted(path);
        let command = format!("umask 077 && cat > {target} && chmod {mode} {target} && wc -c < {target}");
        let (mut reading, writing) = self.channel(&command).await?.split();
        let (mut heard, mut said) = (Heard::default(), Said::default());
        let sent = {
            let send = async {
                let mut buffer = vec![0; CHUNK];
                let mut sent = 0_u64;
                loop {
                    let read = content.read(&mut buffer).await;
                    let read = read.map_err(|source| CommunicatorError::Content { path: path.to_owned(), source })?;
                    if read == 0 {
                        writing.eof().await.map_err(lost)?;
                        return Ok::<u64, CommunicatorError>(sent);
                    }
                    writing.data_bytes(buffer[..read].to_vec()).await.map_err(lost)?;
                    sent += read as u64;
                }
            };
            // A full disk ends the command while there is more to send: nobody would take it.
            let listening = listen(&mut heard, &mut reading, &mut said);
            tokio::pin!(send, listening);
            tokio::select! {
                sent = &mut send => {
                    let sent = sent?;
                    listening.await;
                    Some(sent)
                }
                () = &mut listening => None,
            }
        };
        let _ = writing.close().await;
        match (heard.end()?, sent) {
            (Exit::Code(0), Some(sent)) if said.text() == sent.to_string() => Ok(sent),
            (Exit::Lost, _) => Err(CommunicatorError::Lost("the connection ended during an upload".into())),
            (end, _) => {
                let said = said.text();
                let said = if said.is_empty() { format!("the command ended with {end:?}") } else { said };
                Err(CommunicatorError::Upload { path: path.to_owned(), said })
            }
        }
    }

    async fn close(&mut self) {
        // It may be gone already.
        let _ = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
    }
}
