//! Logs as streams of events: begun, followed, taken up again, ended, refused.

use super::fake::{RUN, SUBSCRIPTION};
use super::{Server, error, header};
use lazuli_arm::ArmError;
use reqwest::{Method, Response};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// No step of these tests takes as long, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

fn path(query: &str) -> String {
    let kind = "Microsoft.VirtualMachineImages/imageTemplates";
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/{kind}/t/logStream?api-version=2024-02-01{query}"
    )
}

/// A reader of events.
struct Reader {
    response: Response,
    text: String,
}

impl Reader {
    async fn open(server: &Server, query: &str) -> Self {
        Self::of(server.get(&path(query)).await)
    }

    /// As browsers do it who come again.
    async fn again(server: &Server, id: &str) -> Response {
        server.request(Method::GET, &path("")).await.header("last-event-id", id).send().await.unwrap()
    }

    fn of(response: Response) -> Self {
        assert_eq!((response.status().as_u16(), header(&response, "content-length")), (200, String::new()));
        assert_eq!(header(&response, "content-type"), "text/event-stream; charset=utf-8");
        Self { response, text: String::new() }
    }

    /// The next event or comment; `None` at the stream's end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let event = self.text[..end].to_owned();
                self.text.drain(..end + 2);
                return Some(event);
            }
            let piece = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("an event in time").unwrap();
            let Some(piece) = piece else {
                assert_eq!(self.text, "", "an event is whole");
                return None;
            };
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn expect(&mut self, events: &[&str]) {
        for event in events {
            assert_eq!(self.next().await.as_deref(), Some(*event));
        }
    }
}

fn line(offset: usize, text: &str) -> String {
    format!("id: {RUN}:{offset}\ndata: {text}")
}

fn end(offset: usize) -> String {
    format!("event: end\ndata: {{\"run\":\"{RUN}\",\"offset\":{offset}}}")
}

#[tokio::test]
async fn it_begins_with_what_is_there_and_goes_on_to_the_end_of_the_run() {
    let server = Server::start().await;
    let log = &server.backend.log;
    log.lock().unwrap().text = "one\ntwo\nhal".to_owned();
    let mut reader = Reader::open(&server, "").await;
    reader.expect(&[&line(4, "one"), &line(8, "two")]).await;
    log.lock().unwrap().text.push_str("f\n");
    reader.expect(&[&line(13, "half")]).await;
    {
        let mut log = log.lock().unwrap();
        log.text.push_str("last");
        log.ended = true;
    }
    reader.expect(&[&line(17, "last"), &end(17)]).await;
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn it_is_taken_up_where_it_broke_off() {
    let server = Server::start().await;
    {
        let mut log = server.backend.log.lock().unwrap();
        log.text = "one\ntwo\n".to_owned();
        log.ended = true;
    }
    Reader::of(Reader::again(&server, &format!("{RUN}:4")).await).expect(&[&line(8, "two"), &end(8)]).await;
    Reader::open(&server, "&offset=4").await.expect(&[&line(8, "two"), &end(8)]).await;
    // Whoever has it all is not to come again.
    let over = Reader::again(&server, &format!("{RUN}:8")).await;
    assert_eq!((over.status().as_u16(), over.text().await.unwrap()), (204, String::new()));
    let (status, code, _) = error(Reader::again(&server, "8").await).await;
    assert_eq!((status, code.as_str()), (400, "InvalidParameter"));
}

#[tokio::test]
async fn a_quiet_log_says_that_it_is_still_there() {
    let server = Server::with(|config| config.silence = Duration::from_millis(50)).await;
    let mut reader = Reader::open(&server, "").await;
    reader.expect(&[": still here", ": still here"]).await;
    server.backend.log.lock().unwrap().text = "one\n".to_owned();
    while let Some(event) = reader.next().await {
        if event != ": still here" {
            assert_eq!(event, line(4, "one"));
            return;
        }
    }
    panic!("the stream has ended");
}

#[tokio::test]
async fn it_is_for_whoever_may_read_it_and_only_as_long() {
    let server = Server::start().await;
    let unknown = server.client.get(server.url(&path(""))).send().await.unwrap();
    assert_eq!((unknown.status().as_u16(), header(&unknown, "content-type").contains("json")), (401, true));
    let forbidden = || ArmError::new(403, "AuthorizationFailed", "It is not for you.");
    server.backend.log.lock().unwrap().refused = Some(forbidden());
    let (status, code, _) = error(server.get(&path("")).await).await;
    assert_eq!((status, code.as_str()), (403, "AuthorizationFailed"));

    let refused =
        |code: &str, message: &str| format!("event: refused\ndata: {{\"code\":\"{code}\",\"message\":\"{message}\"}}");
    server.backend.log.lock().unwrap().text = "one\n".to_owned();
    let mut reader = Reader::open(&server, "").await;
    reader.expect(&[&line(4, "one")]).await;
    server.backend.log.lock().unwrap().refused = Some(forbidden());
    reader.expect(&[&refused("AuthorizationFailed", "It is not for you.")]).await;
    assert_eq!(reader.next().await, None);

    // A principal that is deleted meanwhile.
    let mut reader = Reader::open(&server, "").await;
    reader.expect(&[&line(4, "one")]).await;
    server.backend.gone.store(true, Ordering::Relaxed);
    let told = reader.next().await.unwrap();
    assert!(told.starts_with("event: refused\ndata: {\"code\":\"InvalidAuthenticationToken\""), "{told}");
    assert_eq!(reader.next().await, None);
}

/// What cannot be told to a client breaks off, and is taken up again.
#[tokio::test]
async fn a_failure_of_the_server_only_ends_the_stream() {
    let server = Server::start().await;
    server.backend.log.lock().unwrap().text = "one\n".to_owned();
    let mut reader = Reader::open(&server, "").await;
    reader.expect(&[&line(4, "one")]).await;
    server.backend.log.lock().unwrap().refused = Some(ArmError::internal("the database is away"));
    assert_eq!(reader.next().await, None);
}

/// How often the log was asked for, once that stands still.
async fn still(server: &Server) -> usize {
    let asked = || server.backend.log.lock().unwrap().asked;
    let standing = async {
        let (mut last, mut same) = (asked(), 0);
        while same < 25 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            same = if asked() == last { same + 1 } else { 0 };
            last = asked();
        }
        last
    };
    tokio::time::timeout(PATIENCE, standing).await.expect("nobody asks for what nobody reads")
}

#[tokio::test]
async fn a_reader_that_is_slow_or_gone_costs_nothing() {
    let server = Server::start().await;
    let lines = 1 << 20;
    // More than the buffers of two sockets hold.
    server.backend.log.lock().unwrap().text = "0123456789012345678901234567890\n".repeat(lines);
    let mut reader = Reader::open(&server, "").await;
    reader.expect(&[&line(32, "0123456789012345678901234567890")]).await;
    let pieces = 32 * lines / super::fake::PIECE;
    let asked = still(&server).await;
    assert!(asked < pieces, "{asked} of {pieces} pieces were asked for");
    // It reads on, and goes.
    reader.expect(&[&line(64, "0123456789012345678901234567890")]).await;
    drop(reader);
    let asked = still(&server).await;
    assert!(asked < pieces, "{asked} of {pieces} pieces were asked for");
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_it() {
    let server = Server::start().await;
    let mut reader = Reader::open(&server, "&offset=0").await;
    server.stop.cancel();
    assert_eq!(reader.next().await, None);
    // Well before requests are cut off.
    tokio::time::timeout(Duration::from_secs(10), server.running.stopped()).await.expect("the server has stopped");
}

/// The file of exchanges is for answers that end.
#[tokio::test]
async fn it_is_not_recorded() {
    let record = tempfile::NamedTempFile::new().unwrap();
    let server = Server::with(|config| config.record = Some(record.path().to_owned())).await;
    server.backend.log.lock().unwrap().text = "one\n".to_owned();
    Reader::open(&server, "").await.expect(&[&line(4, "one")]).await;
    assert_eq!(std::fs::read_to_string(record.path()).unwrap(), "");
}
