//! The steps that change or look at the machine, and the session that they run in.
//!
//! A step fails at once and for good: nothing is tried twice, as nobody knows what a script has done already. Each says in the log
//! how it begins and ends.

mod ansible;
pub mod deprovision;
mod restart;
mod script;
pub mod windows;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2_hex::Sha256Hex;
use tokio::io::AsyncRead;

use crate::communicator::{Communicator, CommunicatorError, Connect, Exit, Output, Stream};
use crate::log::Log;

pub use ansible::Playbook;
pub use script::{Script, inline};

mod sha2_hex;

/// Why a step failed. The words are for whoever wrote the template.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("'{step}' ended with exit code {code}; {allowed}. The log has its output")]
    ExitCode { step: String, code: i64, allowed: String },
    #[error("'{step}' was killed by the signal {signal}{}. The log has its output", hint(.signal))]
    Killed { step: String, signal: String },
    /// It restarted the machine, or killed its sshd.
    #[error(
        "the connection to the machine was lost while '{step}' ran: a script must neither restart the machine nor stop its sshd (on \
         Windows: WinRM); a step that restarts the machine does so and waits for it"
    )]
    Lost { step: String },
    #[error("'{step}': {} bytes with SHA-256 {now} came instead of {expected}", .size)]
    Hash { step: String, size: u64, expected: String, now: String },
    #[error("'{step}': the machine was not back within {} seconds after its restart", .time.as_secs())]
    NotBack {
        step: String,
        time: Duration,
        #[source]
        last: Option<CommunicatorError>,
    },
    #[error("'{step}' could not restart the machine: {said}")]
    NoRestart { step: String, said: String },
    #[error(
        "'{step}': Windows still has updates to install after {rounds} rounds (the log names them): choose fewer by searchCriteria, \
         filters or updateLimit"
    )]
    Updates { step: String, rounds: u32 },
    #[error("'{step}': {source}")]
    Communicator {
        step: String,
        #[source]
        source: CommunicatorError,
    },
}

/// What a signal comes from most of the time.
fn hint(signal: &str) -> &'static str {
    match signal {
        "KILL" => " (memory may have run out: choose a larger vmSize)",
        "TERM" => " (the machine may have been restarted: a step that does so waits for it too)",
        _ => "",
    }
}

/// Connects again at these distances while a machine does not answer…
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// …or does not know its user yet: a handshake costs it more.
const DENIED_AGAIN: Duration = Duration::from_secs(1);

/// A machine that is worked on.
pub struct Session {
    connect: Arc<dyn Connect>,
    connection: Box<dyn Communicator>,
    log: Log,
}

impl Session {
    /// Connects, trying again for `time` while the machine is still booting.
    ///
    /// # Errors
    /// What the last try said.
    pub async fn open(connect: Arc<dyn Connect>, log: Log, time: Duration) -> Result<Self, CommunicatorError> {
        let connection = connect_within(&*connect, time).await?;
        Ok(Self { connect, connection, log })
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub async fn close(mut self) {
        self.connection.close().await;
    }

    /// Writes a file, of which `expected` is the SHA-256 in hex where it is known.
    ///
    /// # Errors
    /// A disk that is full, a folder that is not there or not the build user's; other bytes than expected.
    pub async fn file(
        &mut self,
        step: &str,
        destination: &str,
        content: &mut (dyn AsyncRead + Send + Unpin),
        expected: Option<&str>,
    ) -> Result<(), StepError> {
        let begin = Instant::now();
        self.log.say(step, &format!("writes {destination}"));
        let mut content = Sha256Hex::new(content);
        let size = self.connection.upload(destination, "644", &mut content).await.map_err(|e| failed(step, e))?;
        check_hash(step, size, &content.finish(), expected)?;
        self.log.say(step, &format!("wrote {size} bytes in {}", seconds(begin)));
        Ok(())
    }

    /// What a command says on its standard output, if it ends well; for looking, not for changing.
    pub(crate) async fn ask(&mut self, step: &str, command: &str) -> Result<Option<String>, StepError> {
        let mut answer = Answer::default();
        let exit = self.connection.exec(command, b"", &mut answer).await.map_err(|e| failed(step, e))?;
        Ok((exit == Exit::Code(0)).then(|| String::from_utf8_lossy(&answer.0).into_owned()))
    }

    async fn run(&mut self, step: &str, command: &str, input: &[u8]) -> Result<Exit, StepError> {
        let mut output = self.log.output(step);
        let exit = self.connection.exec(command, input, &mut output).await;
        output.finish();
        exit.map_err(|e| failed(step, e))
    }
}

async fn connect_within(connect: &dyn Connect, time: Duration) -> Result<Box<dyn Communicator>, CommunicatorError> {
    let begin = Instant::now();
    loop {
        let pause = match connect.connect().await {
            Err(CommunicatorError::Unreachable(_)) if begin.elapsed() < time => ASK_AGAIN,
            // Cloud-init may not have written the user's key yet.
            Err(CommunicatorError::Denied { .. }) if begin.elapsed() < time => DENIED_AGAIN,
            answer => return answer,
        };
        tokio::time::sleep(pause).await;
    }
}

/// At most 16 MiB.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Output for Answer {
    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let room = (16_usize << 20).saturating_sub(self.0.len());
        if stream == Stream::Out {
            self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

fn failed(step: &str, source: CommunicatorError) -> StepError {
    match source {
        CommunicatorError::Lost(_) => StepError::Lost { step: step.to_owned() },
        source => StepError::Communicator { step: step.to_owned(), source },
    }
}

fn check_hash(step: &str, size: u64, now: &str, expected: Option<&str>) -> Result<(), StepError> {
    match expected {
        Some(expected) if !expected.is_empty() && !expected.eq_ignore_ascii_case(now) => {
            Err(StepError::Hash { step: step.to_owned(), size, expected: expected.to_owned(), now: now.to_owned() })
        }
        _ => Ok(()),
    }
}

fn seconds(begin: Instant) -> String {
    format!("{:.1} s", begin.elapsed().as_secs_f64())
}
