//! QEMU Machine Protocol: JSON lines over a unix socket, answers matched to commands by id, events apart.
//!
//! A guest may take its QEMU over, so nothing the other side sends is trusted: lines are bounded, garbage ends the
//! connection with an error, and nobody waits for ever.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

/// The longest line taken; answers of the commands used here are far shorter.
const MAX_LINE: u64 = 4 << 20;
/// How long a command may take. QEMU's main loop answers in milliseconds unless it is stuck.
const ANSWER_TIME: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("cannot reach the machine's monitor")]
    Connect(#[source] io::Error),
    /// The connection is gone: QEMU ended, or sent something that is not QMP.
    #[error("the connection to the machine's monitor is lost: {0}")]
    Lost(String),
    #[error("the machine's monitor did not answer '{0}' in time")]
    TimedOut(String),
    /// QEMU understood and refused.
    #[error("the machine's monitor refused '{command}': {description}")]
    Refused { command: String, description: String },
}

/// Something QEMU tells unasked.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `SHUTDOWN`, `RESET`, ...
    pub name: String,
    pub data: Value,
}

type Waiting = HashMap<u64, oneshot::Sender<Result<Value, String>>>;

/// State shared with the reading task; `Err` once the connection is lost, with the reason.
type Shared = Arc<Mutex<Result<Waiting, String>>>;

/// A connection whose capabilities are negotiated. Dropping it closes it.
#[derive(Debug)]
pub struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    shared: Shared,
    next_id: AtomicU64,
    /// Process at the other end, as the kernel knows it.
    peer_pid: Option<i32>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Connects and negotiates. Events come through the receiver, which ends when the connection is lost.
    pub async fn connect(path: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>), QmpError> {
        let stream = UnixStream::connect(path).await.map_err(QmpError::Connect)?;
        Self::negotiate(stream).await
    }

    /// As [`connect`](Self::connect), over a connection that exists.
    pub async fn negotiate(stream: UnixStream) -> Result<(Self, mpsc::UnboundedReceiver<Event>), QmpError> {
        let peer_pid = stream.peer_cred().ok().and_then(|c| c.pid());
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = tokio::time::timeout(ANSWER_TIME, read_line(&mut reader))
            .await
            .map_err(|_| QmpError::TimedOut("greeting".into()))?
            .map_err(QmpError::Lost)?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Lost("it does not greet as QMP does".into()));
        }
        let shared: Shared = Arc::new(Mutex::new(Ok(HashMap::new())));
        let (events, inbox) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_all(reader, Arc::clone(&shared), events));
        let qmp =
            Self { writer: tokio::sync::Mutex::new(writer), shared, next_id: AtomicU64::new(1), peer_pid, reader };
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok((qmp, inbox))
    }

    pub fn peer_pid(&self) -> Option<i32> {
        self.peer_pid
    }

    /// Runs a command; `arguments` null for none. Returns its `return` value.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        match &mut *lock(&self.shared) {
            Ok(waiting) => drop(waiting.insert(id, sender)),
            Err(why) => return Err(QmpError::Lost(why.clone())),
        }
        let result = tokio::time::timeout(ANSWER_TIME, async {
            self.send(id, command, arguments).await?;
            answer.await.map_err(|_| self.lost())
        })
        .await;
        if let Ok(waiting) = &mut *lock(&self.shared) {
            waiting.remove(&id);
        }
        match result {
            Err(_) => Err(QmpError::TimedOut(command.to_owned())),
            Ok(Err(e)) => Err(e),
            Ok(Ok(answer)) => {
                answer.map_err(|description| QmpError::Refused { command: command.to_owned(), description })
            }
        }
    }

    async fn send(&self, id: u64, command: &str, arguments: Value) -> Result<(), QmpError> {
        let mut request = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let line = format!("{request}\n");
        let mut writer = self.writer.lock().await;
        writer.write_all(line.as_bytes()).await.map_err(|e| QmpError::Lost(e.to_string()))
    }

    fn lost(&self) -> QmpError {
        QmpError::Lost(match &*lock(&self.shared) {
            Ok(_) => "it was closed".to_owned(),
            Err(why) => why.clone(),
        })
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Result<Waiting, String>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> Result<Value, String> {
    let mut line = Vec::new();
    let read = reader.take(MAX_LINE).read_until(b'\n', &mut line).await.map_err(|e| e.to_string())?;
    if read == 0 {
        return Err("it was closed".into());
    }
    if line.last() != Some(&b'\n') {
        return Err("a line is cut off or too long".into());
    }
    serde_json::from_slice(&line).map_err(|e| format!("it sent something that is not JSON: {e}"))
}

/// Hands answers and events on until the connection is lost, then fails everybody who still waits.
async fn read_all(mut reader: BufReader<OwnedReadHalf>, shared: Shared, events: mpsc::UnboundedSender<Event>) {
    let why = loop {
        match read_line(&mut reader).await {
            Ok(message) => dispatch(message, &shared, &events),
            Err(why) => break why,
        }
    };
    // Dropping the senders wakes those who wait.
    *lock(&shared) = Err(why);
}

fn dispatch(mut message: Value, shared: &Shared, events: &mpsc::UnboundedSender<Event>) {
    if let Some(name) = message.get("event").and_then(Value::as_str) {
        let event = Event { name: name.to_owned(), data: message["data"].take() };
        // Nobody listening is fine: the owner is going away.
        let _ = events.send(event);
        return;
    }
    let Some(id) = message.get("id").and_then(Value::as_u64) else { return };
    let answer = match message.get("error") {
        Some(error) => Err(error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned()),
        None => Ok(message["return"].take()),
    };
    if let Ok(waiting) = &mut *lock(shared)
        && let Some(sender) = waiting.remove(&id)
    {
        let _ = sender.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": ["oob"]}}"#;

    /// A QEMU that negotiates and then runs a script: for every command it gets, the lines to answer with, in which
    /// `ID` stands for the command's id. After the last it closes.
    async fn fake(
        greeting: &'static str,
        script: Vec<&'static str>,
    ) -> Result<(Qmp, mpsc::UnboundedReceiver<Event>), QmpError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut reader = BufReader::new(reader);
            writer.write_all(format!("{greeting}\n").as_bytes()).await.unwrap();
            for answer in std::iter::once("{\"return\": {}, \"id\": ID}\n").chain(script) {
                let Ok(command) = read_line(&mut reader).await else { return };
                let text = answer.replace("ID", &command["id"].to_string());
                writer.write_all(text.as_bytes()).await.unwrap();
            }
        });
        Qmp::negotiate(ours).await
    }

    #[tokio::test]
    async fn answers_find_their_command_and_events_their_way() {
        let script = vec![concat!(
            "{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n",
            "{\"return\": \"for somebody else\", \"id\": 99}\n",
            "{\"return\": {\"status\": \"running\"}, \"id\": ID}\n"
        )];
        let (qmp, mut events) = fake(GREETING, script).await.unwrap();
        assert_eq!(qmp.execute("query-status", Value::Null).await.unwrap()["status"], "running");
        let event = events.recv().await.unwrap();
        assert_eq!((event.name.as_str(), &event.data["guest"]), ("RESET", &json!(true)));
    }

    #[tokio::test]
    async fn a_refusal_carries_its_reason() {
        let script = vec!["{\"id\": ID, \"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\n"];
        let (qmp, _events) = fake(GREETING, script).await.unwrap();
        let error = qmp.execute("eject", Value::Null).await.unwrap_err();
        assert!(matches!(&error, QmpError::Refused { description, .. } if description == "no such thing"), "{error}");
    }

    #[tokio::test]
    async fn garbage_ends_the_connection_for_everybody() {
        let (qmp, mut events) = fake(GREETING, vec!["\u{1}\u{2}garbage\n"]).await.unwrap();
        assert!(matches!(qmp.execute("query-status", Value::Null).await, Err(QmpError::Lost(_))));
        assert_eq!(events.recv().await, None);
        assert!(matches!(qmp.execute("query-status", Value::Null).await, Err(QmpError::Lost(_))));
    }

    #[tokio::test]
    async fn a_disconnect_in_the_middle_of_a_line_is_noticed() {
        let (qmp, mut events) = fake(GREETING, vec!["{\"return\": "]).await.unwrap();
        assert!(matches!(qmp.execute("query-status", Value::Null).await, Err(QmpError::Lost(_))));
        assert_eq!(events.recv().await, None);
    }

    #[tokio::test]
    async fn somebody_else_on_the_socket_is_noticed() {
        for greeting in ["SSH-2.0-OpenSSH_9", "{\"hello\": 1}", "[]"] {
            assert!(matches!(fake(greeting, vec![]).await, Err(QmpError::Lost(_))), "{greeting}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_waited_for_for_ever() {
        let (qmp, _events) = fake(GREETING, vec!["", ""]).await.unwrap();
        assert!(matches!(qmp.execute("query-status", Value::Null).await, Err(QmpError::TimedOut(_))));
    }
}
