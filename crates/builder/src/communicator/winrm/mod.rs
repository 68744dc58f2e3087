//! WinRM over HTTPS: a command shell of Windows behind the door that every [`Communicator`] is. The only place that knows
//! WS-Management ([`wsman`]) and its transport.
//!
//! The user is proved by a password, over Basic authentication inside TLS; the machine by the one certificate that was made for it.
//! Standard input goes in pieces, output comes with each `Receive`; a machine that has nothing to say says so after [`OPERATION`], and is
//! asked again. A command that was sent is never sent twice.

pub mod powershell;
mod transport;
mod wsman;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

use super::{Communicator, CommunicatorError, Exit, Output, Said};
use wsman::{Ask, Fault, Reply, envelope, is_text, parse};

pub use transport::{Dial, Wire};

/// Port of the listener for HTTPS.
pub const PORT: u16 = 5986;
/// The machine answers within this time, whatever happens in it…
const OPERATION: Duration = Duration::from_secs(20);
/// …or is gone after this one. An emulated guest that is busy is slow.
const SILENCE: Duration = Duration::from_secs(180);
/// Nobody waits long to say good-bye.
const GOOD_BYE: Duration = Duration::from_secs(5);
/// Bytes of standard input in one message; as base64 twice over they stay below [`wsman::MAX_ENVELOPE`].
const PIECE: usize = 48 * 1024;
const UPLOAD: &str = include_str!("upload.ps1");

/// Who comes, and to which machine.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
    /// DER of the only certificate that the machine may show.
    pub certificate: Vec<u8>,
}

/// Without the password.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// An open shell.
pub struct WinrmCommunicator {
    transport: transport::Transport,
    shell: Option<String>,
}

/// Why a request did not succeed.
enum Refusal {
    Fault(Fault),
    Error(CommunicatorError),
}

impl Refusal {
    fn error(self) -> CommunicatorError {
        match self {
            Self::Fault(fault) if fault.is_gone() => CommunicatorError::Lost(fault.into()),
            Self::Fault(fault) => CommunicatorError::Fault(fault.to_string()),
            Self::Error(error) => error,
        }
    }
}

impl WinrmCommunicator {
    /// Opens a shell.
    ///
    /// # Errors
    /// `Unreachable` while no listener answers: try again. `Certificate` and `Denied` stay so.
    pub async fn connect(dial: Arc<dyn Dial>, login: &Login) -> Result<Self, CommunicatorError> {
        let certificate = CertificateDer::from(login.certificate.clone());
        let transport = transport::Transport::new(dial, &login.user, &login.password, certificate)?;
        let mut this = Self { transport, shell: None };
        let created = match this.ask(&Ask::Create, SILENCE).await.map_err(Refusal::error) {
            // The listener is up before what is behind it, or goes down just now.
            Err(CommunicatorError::Lost(error)) => return Err(CommunicatorError::Unreachable(error)),
            answer => answer?,
        };
        this.shell = Some(created.shell.filter(|id| !id.is_empty()).ok_or_else(|| unnamed("shell"))?);
        Ok(this)
    }

    async fn ask(&mut self, ask: &Ask<'_>, time: Duration) -> Result<Reply, Refusal> {
        let message = envelope(Uuid::new_v4(), self.shell.as_deref(), OPERATION, ask);
        let answer = self.transport.post(message, time).await;
        let answer = answer.map_err(|error| match (error, &self.shell) {
            // It was there before.
            (CommunicatorError::Unreachable(error), Some(_)) => Refusal::Error(CommunicatorError::Lost(error)),
            (error, _) => Refusal::Error(error),
        })?;
        let reply = parse(&answer).map_err(|e| Refusal::Error(CommunicatorError::Protocol(e.to_string())))?;
        match reply.fault {
            Some(fault) => Err(Refusal::Fault(fault)),
            None => Ok(reply),
        }
    }

    /// Starts a command.
    async fn begin(&mut self, line: &str, input: bool) -> Result<String, CommunicatorError> {
        if !is_text(line) {
            return Err(CommunicatorError::Fault("a command has a character that XML cannot hold".to_owned()));
        }
        let reply = self.ask(&Ask::Command { line, input }, SILENCE).await.map_err(Refusal::error)?;
        reply.command.filter(|id| !id.is_empty()).ok_or_else(|| unnamed("command"))
    }

    /// Whether the command still takes input.
    async fn send(&mut self, command: &str, bytes: &[u8], last: bool) -> Result<bool, CommunicatorError> {
        match self.ask(&Ask::Send { command, bytes, last }, SILENCE).await {
            Ok(_) => Ok(true),
            // What has become of it is told with its output.
            Err(Refusal::Fault(fault)) if !fault.is_gone() => Ok(false),
            Err(refusal) => Err(refusal.error()),
        }
    }

    /// Until the command has ended.
    async fn listen(&mut self, command: &str, output: &mut dyn Output) -> Result<Exit, CommunicatorError> {
        loop {
            let reply = match self.ask(&Ask::Receive { command }, SILENCE).await {
                Ok(reply) => reply,
                Err(Refusal::Fault(fault)) if fault.is_timeout() => continue,
                Err(refusal) => return Err(refusal.error()),
            };
            for (stream, bytes) in &reply.output {
                output.take(*stream, bytes);
            }
            if reply.done {
                return Ok(reply.exit.map_or(Exit::Lost, Exit::Code));
            }
        }
    }

    /// Ends what may be left of a command, and frees its place in the shell.
    async fn terminate(&mut self, command: &str) {
        // A machine that has gone has terminated it.
        let _ = self.ask(&Ask::Terminate { command }, SILENCE).await;
    }

    /// Lines of base64, and a dot. Stops early if nobody takes them any more.
    async fn feed(
        &mut self,
        command: &str,
        path: &str,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<u64, CommunicatorError> {
        let (mut sent, mut piece) = (0_u64, Vec::with_capacity(PIECE));
        loop {
            piece.clear();
            let read = (&mut *content).take(PIECE as u64).read_to_end(&mut piece).await;
            let read = read.map_err(|source| CommunicatorError::Content { path: path.to_owned(), source })?;
            if read == 0 {
                self.send(command, b".\r\n", true).await?;
                return Ok(sent);
            }
            let line = BASE64.encode(&piece) + "\r\n";
            if !self.send(command, line.as_bytes(), false).await? {
                return Ok(sent);
            }
            sent += read as u64;
        }
    }
}

/// The command line that writes a file. Its variable is set where the script begins: a script with blocks has nothing before them.
fn upload(path: &str) -> String {
    powershell::encoded(&UPLOAD.replacen("$path = $null", &format!("$path = {}", powershell::quoted(path)), 1))
}

fn unnamed(what: &str) -> CommunicatorError {
    CommunicatorError::Protocol(format!("it does not name the {what} that it made"))
}

#[async_trait]
impl Communicator for WinrmCommunicator {
    async fn exec(&mut self, command: &str, input: &[u8], output: &mut dyn Output) -> Result<Exit, CommunicatorError> {
        let id = self.begin(command, !input.is_empty()).await?;
        let mut pieces = input.chunks(PIECE).peekable();
        while let Some(piece) = pieces.next() {
            if !self.send(&id, piece, pieces.peek().is_none()).await? {
                break;
            }
        }
        let exit = self.listen(&id, output).await?;
        self.terminate(&id).await;
        Ok(exit)
    }

    /// Permissions are those of the folder: Windows has no others.
    async fn upload(
        &mut self,
        path: &str,
        _mode: &str,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<u64, CommunicatorError> {
        let id = self.begin(&upload(path), true).await?;
        let fed = self.feed(&id, path, content).await;
        if fed.is_err() {
            self.terminate(&id).await;
        }
        let (sent, mut said) = (fed?, Said::default());
        let exit = self.listen(&id, &mut said).await?;
        self.terminate(&id).await;
        let said = said.text();
        match exit {
            Exit::Code(0) if said == sent.to_string() => Ok(sent),
            Exit::Lost => Err(CommunicatorError::Lost("the command ended during an upload".into())),
            _ if said.is_empty() => {
                let said = format!("the command ended with {exit:?}");
                Err(CommunicatorError::Upload { path: path.to_owned(), said })
            }
            _ => Err(CommunicatorError::Upload { path: path.to_owned(), said }),
        }
    }

    async fn close(&mut self) {
        // It may be gone already; the machine ends idle shells itself.
        let _ = tokio::time::timeout(GOOD_BYE, self.ask(&Ask::Delete, GOOD_BYE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_within_their_bounds() {
        let line = BASE64.encode(vec![0; PIECE]) + "\r\n";
        let ask = Ask::Send { command: &Uuid::nil().to_string(), bytes: line.as_bytes(), last: false };
        assert!(envelope(Uuid::nil(), Some(&Uuid::nil().to_string()), OPERATION, &ask).len() < wsman::MAX_ENVELOPE);
        let path = format!(r"C:\{}", "a".repeat(250));
        let command = upload(&path);
        assert!(command.len() < powershell::MAX_LINE, "{}", command.len());
    }

    #[test]
    fn a_login_does_not_show_its_password() {
        let login = Login { user: "packer".into(), password: "hunter22".into(), certificate: vec![1] };
        assert!(!format!("{login:?}").contains("hunter22"));
    }
}
