//! `GET {resource}/logStream`: a log that grows, as server-sent events (Lazuli's own; image templates have one).
//!
//! ```text
//! id: RUN:OFFSET          where the next line begins: `Last-Event-ID` resumes there, whatever has begun since
//! data: one line
//!
//! event: end              the run is over and its log was told to the end; the stream ends
//! data: {"run": RUN | null, "offset": OFFSET}
//!
//! event: refused          it may not be read any more (token, rights, template gone); the stream ends
//! data: {"code": …, "message": …}
//!
//! : still here            nothing was said for a while
//! ```
//! Each piece is asked for as a request of its own would be, so that whoever loses the right, or whose token ends, is told no more.
//! Nothing is asked for while a reader does not take what was sent, and nothing is kept for one that is gone.

use super::Arm;
use crate::app::{App, no_route};
use crate::context::Context;
use crate::identity::bearer;
use crate::respond::{self, Reply};
use axum::body::{Body, Bytes};
use futures::stream;
use http::{HeaderName, HeaderValue, StatusCode, header};
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const WORD: &str = "logStream";
const LAST_EVENT: &str = "last-event-id";
const STILL_HERE: &str = ": still here\n\n";
/// Between two looks at a log that has nothing new.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A line that is longer is told in parts.
const LONGEST: usize = 64 << 10;

/// Whether a path asks for one.
pub(super) fn is_one(resource: &ResourceId, collection: &ResourceType) -> bool {
    !resource.segments.is_empty() && collection.types.last().is_some_and(|word| word.eq_ignore_ascii_case(WORD))
}

/// The answer to whoever may read the log; all others are refused as elsewhere.
pub(super) async fn open(arm: &Arm<'_>, resource: &ResourceId) -> Result<Reply, ArmError> {
    let resumed = arm.context.header(LAST_EVENT);
    let mut log = LogStream {
        app: Arc::clone(arm.app),
        context: Arc::clone(arm.context),
        resource: resource.clone(),
        at: resumed.as_deref().map(Position::parse).transpose()?,
        first: None,
        over: false,
        spoke: Instant::now(),
    };
    let first = log.ask().await?;
    if resumed.is_some() && first.ended && first.text.is_empty() {
        // A browser would connect again for ever.
        return Ok(respond::empty(StatusCode::NO_CONTENT));
    }
    log.first = Some(first);
    let events = stream::unfold(log, |mut log| async move {
        let event = log.event().await?;
        Some((Ok::<_, Infallible>(Bytes::from(event)), log))
    });
    let mut reply = Reply::new(Body::from_stream(events));
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(respond::EVENTS));
    // Proxies in front of the server would wait for its end.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(reply)
}

/// Of a log's line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    run: String,
    /// In bytes of the log.
    offset: u64,
}

impl Position {
    /// As an event's id has it.
    fn parse(id: &str) -> Result<Self, ArmError> {
        let parts = id.split_once(':').and_then(|(run, offset)| Some((run, offset.parse().ok()?)));
        let (run, offset) = parts.ok_or_else(|| {
            ArmError::invalid_parameter(
                "Last-Event-ID",
                format!("'{id}' is the id of no event: RUN:OFFSET is expected."),
            )
        })?;
        Ok(Self { run: run.to_owned(), offset })
    }
}

/// A piece of a log, as the view tells it.
struct Piece {
    run: Option<String>,
    offset: u64,
    text: String,
    ended: bool,
}

impl Piece {
    fn of(view: &Value) -> Self {
        Self {
            run: view["run"].as_str().map(str::to_owned),
            offset: view["offset"].as_u64().unwrap_or_default(),
            text: view["text"].as_str().unwrap_or_default().to_owned(),
            ended: view["ended"] == true,
        }
    }
}

struct LogStream {
    app: Arc<App>,
    context: Arc<Context>,
    resource: ResourceId,
    /// `None`: wherever the request's own query begins, of the last run.
    at: Option<Position>,
    /// What was asked for before the answer began.
    first: Option<Piece>,
    over: bool,
    /// When something was told last.
    spoke: Instant,
}

impl LogStream {
    /// What comes next; `None` at the end. Called when the reader has taken what came before.
    async fn event(&mut self) -> Option<String> {
        while !self.over {
            let piece = match self.first.take() {
                Some(piece) => Ok(piece),
                None => self.ask().await,
            };
            let mut text = match piece {
                Ok(piece) => self.take(&piece),
                Err(error) => self.refuse(&error),
            };
            if text.is_empty() && !self.over && self.spoke.elapsed() >= self.app.silence {
                text.push_str(STILL_HERE);
            }
            if !text.is_empty() {
                self.spoke = Instant::now();
                return Some(text);
            }
            let pause = LOOK_AGAIN.min(self.app.silence);
            tokio::select! {
                // The reader comes again, to the next server.
                () = self.app.stopping.cancelled() => self.over = true,
                () = tokio::time::sleep(pause) => {}
            }
        }
        None
    }

    /// The next piece, as somebody who asks for it now gets it.
    async fn ask(&self) -> Result<Piece, ArmError> {
        let caller = bearer::authenticate(&self.app, &self.context).await?;
        let mut call = super::call(&self.context, caller)?;
        if let Some(Position { run, offset }) = &self.at {
            call.query.insert("run".to_owned(), run.clone());
            call.query.insert("offset".to_owned(), offset.to_string());
        }
        let view = self.app.backend.view(&call, &self.resource, WORD).await?;
        view.map(|view| Piece::of(&view)).ok_or_else(|| no_route(&self.context))
    }

    fn take(&mut self, piece: &Piece) -> String {
        self.over = piece.ended;
        let begin = match &self.at {
            Some(at) => at.offset,
            None => self.context.query.get("offset").and_then(|text| text.parse().ok()).unwrap_or(0),
        };
        let (mut events, offset) = piece.events(begin);
        self.at = piece.run.clone().map(|run| Position { run, offset });
        if piece.ended {
            let end = json!({"run": piece.run, "offset": offset});
            events.push_str(&format!("event: end\ndata: {end}\n\n"));
        }
        events
    }

    /// Of this server's own failures nothing is told: the reader comes again.
    fn refuse(&mut self, error: &ArmError) -> String {
        self.over = true;
        if error.status >= 500 {
            tracing::warn!(resource = %self.resource, error = error as &dyn std::error::Error, "a log's stream broke off");
            return String::new();
        }
        format!("event: refused\ndata: {}\n\n", error.to_value())
    }
}

impl Piece {
    /// Its lines as events, and where the next piece begins. A line that is not whole yet is left to that.
    fn events(&self, begin: u64) -> (String, u64) {
        let whole = match self.text.rfind('\n') {
            _ if self.ended => self.text.len(),
            Some(last) => last + 1,
            None if self.text.len() >= LONGEST => self.text.len(),
            None => 0,
        };
        let (mut events, mut offset) = (String::new(), begin);
        for line in self.text[..whole].split_inclusive('\n') {
            offset += line.len() as u64;
            let run = self.run.as_deref().unwrap_or_default();
            // A line feed and a carriage return end a field.
            let data = line.trim_end_matches(['\r', '\n']).replace('\r', "\u{fffd}");
            events.push_str(&format!("id: {run}:{offset}\ndata: {data}\n\n"));
        }
        (events, if whole == self.text.len() { self.offset } else { offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, ended: bool) -> Piece {
        Piece { run: Some("r".to_owned()), offset: 10 + text.len() as u64, text: text.to_owned(), ended }
    }

    #[test]
    fn a_line_is_an_event_once_it_is_whole() {
        let (events, next) = piece("one\nGröße\nhal", false).events(10);
        assert_eq!((events.as_str(), next), ("id: r:14\ndata: one\n\nid: r:22\ndata: Größe\n\n", 22));
        assert_eq!(piece("hal", false).events(10), (String::new(), 10));
        assert_eq!(piece("half", true).events(10), ("id: r:14\ndata: half\n\n".to_owned(), 14));
        assert_eq!(piece("", true).events(10), (String::new(), 10));
        let long = "x".repeat(LONGEST);
        assert_eq!(piece(&long, false).events(10).1, 10 + LONGEST as u64);
    }

    /// What a machine prints makes no events of its own.
    #[test]
    fn a_line_stays_a_line() {
        let (events, _) = piece("a\revent: end\r\n\n", false).events(10);
        assert_eq!(events, "id: r:24\ndata: a\u{fffd}event: end\n\nid: r:25\ndata: \n\n");
    }

    #[test]
    fn a_position_is_an_events_id() {
        assert_eq!(Position::parse("a-b:7").unwrap(), Position { run: "a-b".to_owned(), offset: 7 });
        for wrong in ["", "7", "a:", "a:-1", "a:b"] {
            assert_eq!(Position::parse(wrong).unwrap_err().code, "InvalidParameter", "{wrong}");
        }
    }
}
