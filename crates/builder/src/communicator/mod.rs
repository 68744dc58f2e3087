//! The connection to a machine: commands, files, nothing else. One implementation a protocol.

pub mod ssh;
pub mod winrm;

use async_trait::async_trait;
use tokio::io::AsyncRead;

/// Which of a command's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    Out,
    Err,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    Code(u32),
    /// Killed by this signal (`KILL`).
    Signal(String),
    /// The connection ended before the command did: it may run on.
    Lost,
}

/// Why the machine could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum CommunicatorError {
    /// No connection, or none that speaks the protocol (yet).
    #[error("the machine does not answer")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the machine does not accept what proves its user '{user}'")]
    Denied { user: String },
    /// Not the machine that it was before.
    #[error("the machine shows another host key than before: {now} instead of {before}")]
    HostKey { before: String, now: String },
    #[error("the machine shows another certificate than the one that was made for it")]
    Certificate,
    /// WinRM says why.
    #[error("the machine refuses: {0}")]
    Fault(String),
    #[error("the machine's answer is not one of WS-Management: {0}")]
    Protocol(String),
    #[error("the connection to the machine was lost")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the machine does not run commands")]
    NoCommands,
    /// `said`: what the machine said about it.
    #[error("the file '{path}' cannot be written in the machine: {said}")]
    Upload { path: String, said: String },
    /// What was to be uploaded cannot be read.
    #[error("what is to be written to '{path}' cannot be read")]
    Content {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// Takes a command's output as it comes: any bytes, cut anywhere.
pub trait Output: Send {
    fn take(&mut self, stream: Stream, bytes: &[u8]);
}

/// Nobody wants it.
impl Output for () {
    fn take(&mut self, _stream: Stream, _bytes: &[u8]) {}
}

/// Keeps the beginning of what a command says, for an error.
#[derive(Default)]
pub(crate) struct Said(Vec<u8>);

impl Output for Said {
    fn take(&mut self, _stream: Stream, bytes: &[u8]) {
        let room = 1024_usize.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().to_owned()
    }
}

/// An open connection. Dropping it ends it, and with it usually what it runs.
#[async_trait]
pub trait Communicator: Send {
    /// Runs a line of shell as the build user, with this on its standard input. Children that keep the outputs open after the
    /// command's end are not waited for.
    async fn exec(&mut self, command: &str, input: &[u8], output: &mut dyn Output) -> Result<Exit, CommunicatorError>;

    /// Writes a file as the build user, replacing what is there, and tells its size. `mode`: its permissions, octal digits, on Linux.
    async fn upload(
        &mut self,
        path: &str,
        mode: &str,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<u64, CommunicatorError>;

    async fn close(&mut self);
}

/// Makes connections to one machine.
#[async_trait]
pub trait Connect: Send + Sync {
    async fn connect(&self) -> Result<Box<dyn Communicator>, CommunicatorError>;
}

/// A word of shell that means exactly this text.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_shell() {
        assert_eq!(quoted("/tmp/a b"), "'/tmp/a b'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
