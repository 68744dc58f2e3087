//! What a guest meets of Azure while it provisions itself: the contents of the provisioning disc ([`disc`]: [`ovf`] for Linux,
//! [`windows`]), WireServer
//! and the host agent's plugin ([`wire_server`], for packages [`applications`]), the metadata service ([`imds`]), and the
//! conclusion drawn from what it reports ([`latch`]).
//!
//! A guest is hostile until proven otherwise: a request is bounded in size and in time, is answered from this machine's
//! own [`VmSpec`] only (there is no way to name another machine; only tokens are asked from the server, for this machine), and never makes the host panic.

mod applications;
pub mod disc;
pub mod imds;
pub mod latch;
pub mod ovf;
pub mod tokens;
pub mod windows;
pub mod wire_server;

use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use applications::{Body, Downloads};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::host::BaseImages;
use crate::net::{IMDS, WIRE_SERVER};
use crate::spec::VmSpec;
use tokens::Tokens;
use wire_server::News;

/// WireServer and IMDS.
pub const HTTP_PORT: u16 = 80;
/// The host agent's plugin.
pub const PLUGIN_PORT: u16 = 32526;

/// Tokens of managed identities.
const TOKEN_PATH: &str = "/metadata/identity/oauth2/token";
const TOKENS_AT_ONCE: usize = 4;
/// Requests of one guest that are read or answered at the same time; its agents make a few. More are told to come again, so that
/// what they send does not pile up here.
const REQUESTS_AT_ONCE: usize = 32;
/// The largest request body read from a guest.
const MAX_BODY: usize = 4 << 20;
/// How long a guest may take to send a request, and an idle connection may live.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request of a guest, read completely.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: Method,
    pub path: String,
    /// Decoded, in the order of the request.
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Ask {
    /// The first value of a query parameter, whose name is compared without case.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What the guest is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Answer {
    fn of(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into() }
    }

    fn xml(body: impl Into<Vec<u8>>) -> Self {
        Self::of("text/xml; charset=utf-8", body)
    }

    fn json(body: impl Into<Vec<u8>>) -> Self {
        Self::of("application/json; charset=utf-8", body)
    }

    fn text(body: impl Into<Vec<u8>>) -> Self {
        Self::of("text/plain; charset=utf-8", body)
    }

    fn empty(status: StatusCode) -> Self {
        Self { status, content_type: "", body: Vec::new() }
    }

    fn into_response(self) -> Response<Body> {
        let body = Full::new(Bytes::from(self.body)).map_err(|never| match never {});
        let mut response = Response::new(body.boxed_unsync());
        *response.status_mut() = self.status;
        if !self.content_type.is_empty() {
            let value = http::HeaderValue::from_static(self.content_type);
            response.headers_mut().insert(http::header::CONTENT_TYPE, value);
        }
        response
    }
}

/// Who is told what a guest reports. Called before the guest gets its answer: guests report Ready once, so it must be
/// on disk by then; an error makes the guest try again.
pub trait Reports: Send + Sync + 'static {
    /// May block on the disk.
    fn news(&self, news: News) -> std::io::Result<()>;
}

/// Azure's endpoints as one machine sees them.
pub struct Fabric {
    spec: RwLock<Arc<VmSpec>>,
    reports: Arc<dyn Reports>,
    tokens: Arc<dyn Tokens>,
    downloads: Downloads,
    /// One guest does not keep the server from the others.
    asking: Semaphore,
    requests: Semaphore,
}

impl Fabric {
    pub fn new(
        spec: Arc<VmSpec>,
        reports: Arc<dyn Reports>,
        tokens: Arc<dyn Tokens>,
        images: Arc<dyn BaseImages>,
    ) -> Arc<Self> {
        Arc::new(Self {
            spec: RwLock::new(spec),
            reports,
            tokens,
            downloads: Downloads::new(images),
            asking: Semaphore::new(TOKENS_AT_ONCE),
            requests: Semaphore::new(REQUESTS_AT_ONCE),
        })
    }

    /// Later requests are answered from `spec`.
    pub fn set_spec(&self, spec: Arc<VmSpec>) {
        *self.spec.write().unwrap_or_else(std::sync::PoisonError::into_inner) = spec;
    }

    fn spec(&self) -> Arc<VmSpec> {
        Arc::clone(&self.spec.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Serves one connection of the guest to `dest` until either side closes it.
    pub async fn serve(self: Arc<Self>, dest: SocketAddrV4, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| {
            let fabric = Arc::clone(&self);
            async move { Ok::<_, Infallible>(fabric.handle(dest, request).await) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 << 10);
        if let Err(e) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%dest, error = %e, "connection of a guest ended");
        }
    }

    async fn handle(&self, dest: SocketAddrV4, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(_permit) = self.requests.try_acquire() else {
            return Answer::empty(StatusCode::TOO_MANY_REQUESTS).into_response();
        };
        let read = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect());
        let answer = match read.await {
            Ok(Ok(body)) => {
                let ask = Ask {
                    method: parts.method,
                    path: parts.uri.path().to_owned(),
                    query: parse_query(parts.uri.query().unwrap_or_default()),
                    headers: parts.headers,
                    body: body.to_bytes(),
                };
                if (*dest.ip(), dest.port()) == (WIRE_SERVER, PLUGIN_PORT)
                    && let Some(download) = self.downloads.answer(&self.spec(), &ask).await
                {
                    return download;
                }
                self.answer(dest, &ask).await
            }
            Ok(Err(_)) => Answer::empty(StatusCode::PAYLOAD_TOO_LARGE),
            Err(_) => Answer::empty(StatusCode::REQUEST_TIMEOUT),
        };
        answer.into_response()
    }

    async fn token(&self, spec: &VmSpec, ask: &Ask) -> Answer {
        match tokens::ask_of(spec, ask) {
            Ok(wanted) => {
                let _permit = self.asking.acquire().await;
                self.tokens.token(&wanted).await
            }
            Err(refused) => refused,
        }
    }

    async fn answer(&self, dest: SocketAddrV4, ask: &Ask) -> Answer {
        let spec = self.spec();
        let (answer, news) = match (*dest.ip(), dest.port()) {
            (WIRE_SERVER, HTTP_PORT) => wire_server::wire_server(&spec, ask),
            (WIRE_SERVER, PLUGIN_PORT) => wire_server::host_plugin(ask),
            (IMDS, HTTP_PORT) if ask.path.trim_end_matches('/') == TOKEN_PATH => (self.token(&spec, ask).await, None),
            (IMDS, HTTP_PORT) => (imds::imds(&spec, ask), None),
            _ => (Answer::empty(StatusCode::NOT_FOUND), None),
        };
        tracing::debug!(vm.id = %spec.id, %dest, method = %ask.method, path = %ask.path, status = %answer.status, "guest request");
        let Some(news) = news else { return answer };
        let reports = Arc::clone(&self.reports);
        match tokio::task::spawn_blocking(move || reports.news(news)).await {
            Ok(Ok(())) => answer,
            Ok(Err(e)) => {
                tracing::error!(vm.id = %spec.id, error = %e, "a report of the guest cannot be kept");
                Answer::empty(StatusCode::SERVICE_UNAVAILABLE)
            }
            Err(e) => {
                tracing::error!(vm.id = %spec.id, error = %e, "keeping a report of the guest failed");
                Answer::empty(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}

/// `a=b&c` as pairs, percent-decoded; what is not UTF-8 is replaced.
pub(crate) fn parse_query(query: &str) -> Vec<(String, String)> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A machine for tests: one disk, one interface, one key.
    pub fn example() -> VmSpec {
        serde_json::from_str(include_str!("example.json")).expect("the example is a VmSpec")
    }

    pub fn ask(method: &str, path_and_query: &str, body: &str) -> Ask {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        Ask {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            query: parse_query(query),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn the_example_is_sound() {
        example().check().unwrap();
    }

    pub struct Nobody;
    impl Reports for Nobody {
        fn news(&self, _: News) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[async_trait::async_trait]
    impl BaseImages for Nobody {
        async fn open(&self, source: &str) -> Result<Arc<dyn lazuli_nbd::BlockSource>, crate::host::BaseImageError> {
            Err(format!("there is no {source}").into())
        }
    }

    /// A machine's endpoints, with nothing behind them but these images.
    pub fn fabric_of(spec: VmSpec, images: Arc<dyn BaseImages>) -> Arc<Fabric> {
        let tokens = tokens::ServerTokens::new("/nonexistent".into());
        Fabric::new(Arc::new(spec), Arc::new(Nobody), Arc::new(tokens), images)
    }

    fn fabric() -> Arc<Fabric> {
        fabric_of(example(), Arc::new(Nobody))
    }

    /// A connection of the guest to one of its endpoints, over which this was sent.
    pub async fn sent_to(fabric: &Arc<Fabric>, dest: SocketAddrV4, request: &str) -> tokio::io::DuplexStream {
        let (mut guest, ours) = tokio::io::duplex(16 << 10);
        tokio::spawn(Arc::clone(fabric).serve(dest, ours));
        guest.write_all(request.as_bytes()).await.unwrap();
        guest
    }

    /// The same to the metadata service.
    async fn sent(fabric: &Arc<Fabric>, request: &str) -> tokio::io::DuplexStream {
        sent_to(fabric, SocketAddrV4::new(IMDS, HTTP_PORT), request).await
    }

    /// The status of the answer to a small request.
    async fn status(fabric: &Arc<Fabric>) -> String {
        let request = "GET /metadata/instance?api-version=2021-08-01 HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        sent(fabric, request).await.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_guest_that_floods_is_told_to_come_again_and_harms_nobody_else() {
        let (flooded, other) = (fabric(), fabric());
        assert_eq!(status(&flooded).await, "200");
        // Bodies that never come.
        let mut held = Vec::new();
        for _ in 0..REQUESTS_AT_ONCE {
            let request = "PUT /metadata/instance HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\nmore";
            held.push(sent(&flooded, request).await);
        }
        let until = async |wanted: &str| {
            while status(&flooded).await != wanted {
                tokio::task::yield_now().await;
            }
        };
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, until("429")).await.expect("too many are refused");
        assert_eq!(status(&other).await, "200", "another machine is answered");
        held.clear();
        tokio::time::timeout(patience, until("200")).await.expect("those that are gone make room");
    }

    #[tokio::test]
    async fn a_body_without_end_is_cut_off() {
        let mut guest = sent(&fabric(), "PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let (mut from, mut to) = tokio::io::split(&mut guest);
        let flood = async {
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while to.write_all(chunk.as_bytes()).await.is_ok() {}
            // Hung up: what was answered before can still be read.
            std::future::pending::<()>().await;
        };
        let answer = async {
            let mut head = [0; 12];
            from.read_exact(&mut head).await.expect("an answer");
            head
        };
        let head = async {
            tokio::select! {
                () = flood => unreachable!("it never ends"),
                head = answer => head,
            }
        };
        let head = tokio::time::timeout(Duration::from_secs(60), head).await.expect("an answer in time");
        assert_eq!(&head, b"HTTP/1.1 413");
    }

    #[test]
    fn queries_are_decoded() {
        let pairs = parse_query("comp=goalstate&&x=a%20b+c&flag");
        let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(pairs, [("comp", "goalstate"), ("x", "a b c"), ("flag", "")]);
    }
}
