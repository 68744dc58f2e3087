//! The client of a guest's `qemu-ga`, over the virtio-serial port `org.qemu.guest_agent.0` of its machine.
//!
//! ```text
//! us     FF {"execute":"guest-sync-delimited","arguments":{"id":7}} LF
//! guest  … whatever it still had to say to somebody else …  FF {"return":7} LF
//! us     {"execute":"guest-fsfreeze-freeze"} LF
//! guest  {"return":3} LF
//! ```
//! The port takes one client at a time and exists whether or not an agent runs in the guest: without one nothing ever
//! answers. What answers is the guest's, so nothing of it is trusted: lines are bounded, and nobody waits for ever.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

/// The longest line taken; the output of a command comes in one, as base64.
const MAX_LINE: u64 = 24 << 20;
/// How long an agent that is there may take to say so, under emulation and load.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// How long most commands may take.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// Freezing writes out what the guest's file systems hold back.
const FREEZE_TIME: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No agent runs in the guest, or it hangs.
    #[error("no guest agent answers")]
    Absent,
    #[error("the port of the guest agent cannot be used")]
    Port(#[source] io::Error),
    #[error("the guest agent sent something that cannot be understood: {0}")]
    Answer(String),
    #[error("the guest agent refused '{command}': {description}")]
    Refused { command: &'static str, description: String },
    #[error("the command did not end within {} s; it runs on in the guest", .0.as_secs())]
    TimedOut(Duration),
}

/// What a command in the guest did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ended {
    /// `None`: a signal ended it.
    pub exit_code: Option<i64>,
    pub stdout: String,
    pub stderr: String,
}

/// The port of one machine. Its users take turns, so that a thaw never waits for a command.
#[derive(Debug, Clone)]
pub struct Port {
    socket: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl Port {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, turn: Arc::default() }
    }

    /// Nobody else uses the port as long as this is held.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Whoever calls this has the [`turn`](Self::turn).
    ///
    /// # Errors
    /// As [`GuestAgent::connect`].
    pub async fn connect(&self) -> Result<GuestAgent, AgentError> {
        GuestAgent::connect(&self.socket).await
    }

    /// Runs `/bin/sh` in the guest to its end; see [`GuestAgent::start`]. Between its looks at it others have their turns.
    ///
    /// # Errors
    /// [`AgentError::TimedOut`]; what the agent says.
    pub async fn run(&self, arguments: &[String], input: &str, time: Duration) -> Result<Ended, AgentError> {
        let deadline = Instant::now() + time;
        let pid = {
            let _turn = self.turn().await;
            self.connect().await?.start(arguments, input).await?
        };
        loop {
            let looked = {
                let _turn = self.turn().await;
                match self.connect().await {
                    Ok(mut agent) => agent.ended(pid).await,
                    Err(error) => Err(error),
                }
            };
            match looked {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) | Err(AgentError::Absent) if Instant::now() < deadline => {}
                Ok(None) => return Err(AgentError::TimedOut(time)),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// An agent that answers.
pub struct GuestAgent(BufReader<UnixStream>);

impl GuestAgent {
    /// Connects to the port's socket and makes sure that somebody answers.
    ///
    /// # Errors
    /// [`AgentError::Absent`], [`AgentError::Port`].
    pub async fn connect(socket: &Path) -> Result<Self, AgentError> {
        let stream = UnixStream::connect(socket).await.map_err(AgentError::Port)?;
        let mut agent = Self(BufReader::new(stream));
        let id = u32::from_be_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 4]));
        let mut hello = vec![0xFF];
        hello.extend(json!({"execute": "guest-sync-delimited", "arguments": {"id": id}}).to_string().into_bytes());
        hello.push(b'\n');
        let synced = async {
            agent.0.write_all(&hello).await.map_err(AgentError::Port)?;
            loop {
                let line = agent.line().await?;
                // What was meant for somebody else is dropped, whole or not.
                let answer = line.rsplit(|b| *b == 0xFF).next().unwrap_or_default();
                if serde_json::from_slice::<Value>(answer).is_ok_and(|a| a["return"] == id) {
                    return Ok(());
                }
            }
        };
        match tokio::time::timeout(HELLO_TIME, synced).await {
            Ok(Ok(())) => Ok(agent),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(AgentError::Absent),
        }
    }

    /// Writes out and freezes the guest's file systems; how many. Until [`thaw`](Self::thaw) nothing in the guest can write.
    pub async fn freeze(&mut self) -> Result<u64, AgentError> {
        let frozen = self.execute("guest-fsfreeze-freeze", Value::Null, FREEZE_TIME).await?;
        frozen.as_u64().ok_or_else(|| AgentError::Answer(frozen.to_string()))
    }

    /// Of file systems that are not frozen: nothing.
    pub async fn thaw(&mut self) -> Result<(), AgentError> {
        self.execute("guest-fsfreeze-thaw", Value::Null, ANSWER_TIME).await.map(drop)
    }

    /// Starts `/bin/sh` with these arguments and this on its standard input, as the agent's user (root); its process id.
    pub async fn start(&mut self, arguments: &[String], input: &str) -> Result<u64, AgentError> {
        let request = json!({"path": "/bin/sh", "arg": arguments, "capture-output": true,
            "input-data": BASE64_STANDARD.encode(input)});
        let started = self.execute("guest-exec", request, ANSWER_TIME).await?;
        started["pid"].as_u64().ok_or_else(|| AgentError::Answer(started.to_string()))
    }

    /// `None` while it runs. An end is told once.
    pub async fn ended(&mut self, pid: u64) -> Result<Option<Ended>, AgentError> {
        let status = self.execute("guest-exec-status", json!({ "pid": pid }), ANSWER_TIME).await?;
        if status["exited"] != true {
            return Ok(None);
        }
        let text = |name: &str| {
            let bytes = BASE64_STANDARD.decode(status[name].as_str().unwrap_or_default()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (text("out-data"), text("err-data"));
        Ok(Some(Ended { exit_code: status["exitcode"].as_i64(), stdout, stderr }))
    }

    async fn execute(&mut self, command: &'static str, arguments: Value, time: Duration) -> Result<Value, AgentError> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let asked = async {
            self.0.write_all(format!("{request}\n").as_bytes()).await.map_err(AgentError::Port)?;
            self.line().await
        };
        let line = tokio::time::timeout(time, asked).await.map_err(|_| AgentError::Absent)??;
        let mut answer: Value = serde_json::from_slice(&line).map_err(|e| AgentError::Answer(e.to_string()))?;
        match answer["error"]["desc"].as_str() {
            Some(description) => Err(AgentError::Refused { command, description: description.to_owned() }),
            None => Ok(answer["return"].take()),
        }
    }

    async fn line(&mut self) -> Result<Vec<u8>, AgentError> {
        let mut line = Vec::new();
        let read = (&mut self.0).take(MAX_LINE).read_until(b'\n', &mut line).await.map_err(AgentError::Port)?;
        if read == 0 {
            return Err(AgentError::Port(io::ErrorKind::UnexpectedEof.into()));
        }
        if line.pop() != Some(b'\n') {
            return Err(AgentError::Answer("a line is cut off or too long".into()));
        }
        Ok(line)
    }
}

/// A guest's agent for tests: it answers each line with what `answer` makes of it; `None`: not at all. In what it says, `~` is FF.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;
    use tokio::net::UnixListener;

    pub(crate) fn listen(socket: &Path, mut answer: impl FnMut(&Value) -> Option<String> + Send + 'static) {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let mut line = Vec::new();
                while stream.read_until(b'\n', &mut line).await.unwrap_or(0) > 0 {
                    let request = serde_json::from_slice(line.strip_prefix(&[0xFF]).unwrap_or(&line)).unwrap();
                    let said = answer(&request).unwrap_or_default();
                    let bytes: Vec<u8> = said.bytes().map(|b| if b == b'~' { 0xFF } else { b }).collect();
                    if stream.write_all(&bytes).await.is_err() {
                        break;
                    }
                    line.clear();
                }
            }
        });
    }

    /// The answer to whoever makes sure that somebody is there, with what an earlier client did not read before it.
    pub(crate) fn hello(request: &Value) -> Option<String> {
        let id = &request["arguments"]["id"];
        (request["execute"] == "guest-sync-delimited")
            .then(|| format!("{{\"return\": 1}}\n half ~{{\"return\": {id}}}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::fake::hello;
    use super::*;

    fn agent(folder: &Path, answer: impl FnMut(&Value) -> Option<String> + Send + 'static) -> PathBuf {
        let path = folder.join("agent");
        fake::listen(&path, answer);
        path
    }

    #[tokio::test]
    async fn file_systems_are_frozen_and_thawed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = agent(dir.path(), |request| {
            hello(request).or_else(|| match request["execute"].as_str()? {
                "guest-fsfreeze-freeze" => Some("{\"return\": 2}\n".into()),
                _ => Some("{\"error\": {\"class\": \"GenericError\", \"desc\": \"not today\"}}\n".into()),
            })
        });
        let mut agent = GuestAgent::connect(&socket).await.unwrap();
        assert_eq!(agent.freeze().await.unwrap(), 2);
        let error = agent.thaw().await.unwrap_err();
        assert_eq!(error.to_string(), "the guest agent refused 'guest-fsfreeze-thaw': not today");
    }

    #[tokio::test]
    async fn a_command_runs_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut polls = 0;
        let socket = agent(dir.path(), move |request| {
            hello(request).or_else(|| {
                let arguments = &request["arguments"];
                match request["execute"].as_str()? {
                    "guest-exec" => {
                        assert_eq!((&arguments["path"], &arguments["input-data"]), (&json!("/bin/sh"), &json!("aGk=")));
                        Some("{\"return\": {\"pid\": 9}}\n".into())
                    }
                    _ if polls == 0 => {
                        polls += 1;
                        Some("{\"return\": {\"exited\": false}}\n".into())
                    }
                    _ => Some("{\"return\": {\"exited\": true, \"exitcode\": 3, \"out-data\": \"aGk=\"}}\n".into()),
                }
            })
        });
        let ended = Port::new(socket).run(&["-s".to_owned()], "hi", Duration::from_secs(60)).await.unwrap();
        assert_eq!(ended, Ended { exit_code: Some(3), stdout: "hi".into(), stderr: String::new() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_without_agent_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = agent(dir.path(), |_| None);
        assert!(matches!(GuestAgent::connect(&socket).await, Err(AgentError::Absent)));
    }
}
