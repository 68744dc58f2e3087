//! The host's end of the socket; see [`api`](super::api) for the requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::api::{CaptureRequest, DeleteRequest, DiskFile, ErrorBody, HostInfo, LINK, ShellRequest};
use super::guest::{Guest, Order};
use super::{Host, HostError, store, with_causes};
use crate::provisioning::parse_query;
use crate::spec::{NicSpec, VmSpec, VmStatus};

const MAX_BODY: usize = 16 << 20;
const MAX_CONSOLE: u64 = 4 << 20;
/// The longest long poll.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Serves until the host is stopping.
pub async fn serve(host: &Arc<Host>, listener: UnixListener) {
    loop {
        let stream = tokio::select! {
            () = host.stopping.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a client");
                    // Out of file descriptors, most likely: others must close some first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let host = Arc::clone(host);
        tokio::spawn(async move {
            let stopping = host.stopping.clone();
            let service = service_fn(move |request| {
                let host = Arc::clone(&host);
                // A task of its own: a client that goes away does not stop half-way what it asked for.
                async move { Ok::<_, Infallible>(answer(host, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Some(Err(e)) = stopping.run_until_cancelled(connection).await {
                tracing::debug!(error = %e, "connection of a client ended");
            }
        });
    }
}

type Reply = Response<Full<Bytes>>;

async fn answer(host: Arc<Host>, request: Request<Incoming>) -> Reply {
    if request.headers().get(UPGRADE).is_some_and(|protocol| protocol == LINK) {
        return link(&host, request).await.unwrap_or_else(|e| {
            tracing::debug!(error = %with_causes(&e), "a link was not made");
            failure(&e)
        });
    }
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) => return failure(&HostError::Invalid(format!("the request cannot be read: {e}"))),
    };
    let call = Call {
        method: parts.method,
        path: parts.uri.path().trim_matches('/').to_owned(),
        query: parse_query(parts.uri.query().unwrap_or_default()),
        body,
    };
    // In a task of its own: what a client asked for is not left half-done because the client went away.
    match tokio::spawn(async move { dispatch(&host, &call).await }).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(e)) => {
            tracing::info!(error = %with_causes(&e), "a request was refused or failed");
            failure(&e)
        }
        Err(e) => {
            tracing::error!(error = %e, "a request was not carried out");
            failure(&HostError::Store(std::io::Error::other(e)))
        }
    }
}

/// Connects the client to a port of a guest, or to its serial console; from then on the connection is theirs.
async fn link(host: &Arc<Host>, mut request: Request<Incoming>) -> Result<Reply, HostError> {
    let path = request.uri().path().trim_matches('/').to_owned();
    let query = parse_query(request.uri().query().unwrap_or_default());
    let id = |vm: &str| vm.parse::<Uuid>().map_err(|_| HostError::NotFound);
    let upgraded = hyper::upgrade::on(&mut request);
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["vms", vm, "connect"] => {
            let port = query.iter().find(|(name, _)| name == "port").and_then(|(_, value)| value.parse().ok());
            let port = port.ok_or_else(|| HostError::Invalid("port: a number from 1 to 65535 is missing".into()))?;
            let guest = host.guest(id(vm)?).await?.connect(port).await?;
            tokio::spawn(join(upgraded, guest, host.stopping.clone(), CancellationToken::new()));
        }
        ["vms", vm, "serial"] => {
            let (console, replaced) = host.guest(id(vm)?).await?.serial().await?;
            tokio::spawn(join(upgraded, console, host.stopping.clone(), replaced));
        }
        ["vms", vm, "files"] => {
            let file = host.guest(id(vm)?).await?.file(&disk_file(&query)?).await?;
            let stopping = host.stopping.clone();
            tokio::spawn(async move {
                if let Some(Err(e)) = stopping.run_until_cancelled(send(upgraded, file)).await {
                    tracing::debug!(error = %e, "a file of a disk was not taken to its end");
                }
            });
        }
        _ => return Err(HostError::NotFound),
    }
    let mut response = reply(StatusCode::SWITCHING_PROTOCOLS, "application/octet-stream", Bytes::new());
    response.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(LINK));
    response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    Ok(response)
}

/// As [`DiskFile`] is written.
fn disk_file(query: &[(String, String)]) -> Result<DiskFile, HostError> {
    let value = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    if let Some(name) = value("name") {
        return Ok(DiskFile::Own { name: name.to_owned() });
    }
    let wrong = || HostError::Invalid("which file of which disk is meant is not said".into());
    let capture = value("capture").and_then(|c| c.parse().ok()).ok_or_else(wrong)?;
    let lun = value("lun").map(str::parse).transpose().map_err(|_| wrong())?;
    Ok(DiskFile::Captured { lun, capture })
}

/// Its length, then the file.
async fn send(upgraded: OnUpgrade, file: Option<tokio::fs::File>) -> std::io::Result<()> {
    let mut client = TokioIo::new(upgraded.await.map_err(std::io::Error::other)?);
    match file {
        Some(file) => {
            let len = file.metadata().await?.len();
            client.write_u64_le(len).await?;
            tokio::io::copy(&mut file.take(len), &mut client).await?;
        }
        None => client.write_u64_le(0).await?,
    }
    client.shutdown().await
}

/// Moves bytes both ways, until either end closes it or one of the tokens says so.
async fn join(
    upgraded: OnUpgrade,
    mut guest: impl AsyncRead + AsyncWrite + Unpin,
    stopping: CancellationToken,
    replaced: CancellationToken,
) {
    let moved = async {
        let mut client = TokioIo::new(upgraded.await.map_err(std::io::Error::other)?);
        tokio::io::copy_bidirectional(&mut client, &mut guest).await
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = replaced.cancelled() => {}
        moved = moved => if let Err(e) = moved {
            tracing::debug!(error = %e, "a link to a guest ended");
        },
    }
}

struct Call {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    body: Bytes,
}

impl Call {
    fn body<T: DeserializeOwned>(&self) -> Result<T, HostError> {
        serde_json::from_slice(&self.body).map_err(|e| HostError::Invalid(format!("the request's body: {e}")))
    }

    fn number(&self, name: &str) -> Result<u64, HostError> {
        let value = self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.parse());
        value.unwrap_or(Ok(0)).map_err(|e| HostError::Invalid(format!("{name}: {e}")))
    }

    fn flag(&self, name: &str) -> bool {
        self.query.iter().any(|(n, v)| n == name && v == "true")
    }
}

async fn dispatch(host: &Arc<Host>, call: &Call) -> Result<Reply, HostError> {
    let path: Vec<&str> = call.path.split('/').collect();
    let id = |text: &str| text.parse::<Uuid>().map_err(|_| HostError::NotFound);
    match (&call.method, path.as_slice()) {
        (&Method::GET, [""]) => json(&info(host)),
        (&Method::GET, ["vms"]) => {
            let statuses: Vec<VmStatus> = host.list().await.iter().map(|g| g.status()).collect();
            json(&statuses)
        }
        (&Method::PUT, ["vms", vm]) => {
            let spec: VmSpec = call.body()?;
            if spec.id != id(vm)? {
                return Err(HostError::Invalid("the definition is of another machine".into()));
            }
            let guest = host.define(spec).await?;
            match call.flag("off") {
                true => json(&guest.status()),
                false => ordered(&guest, Order::Start).await,
            }
        }
        (&Method::GET, ["vms", vm]) => json(&host.guest(id(vm)?).await?.status()),
        (&Method::DELETE, ["vms", vm]) => {
            let DeleteRequest { remove } = if call.body.is_empty() { DeleteRequest::default() } else { call.body()? };
            host.delete(id(vm)?, remove).await?;
            Ok(reply(StatusCode::NO_CONTENT, "application/json", Bytes::new()))
        }
        (&Method::DELETE, ["vms", vm, "files"]) => {
            let DeleteRequest { remove } = call.body()?;
            host.guest(id(vm)?).await?.order(Order::Discard { remove }).await?;
            Ok(reply(StatusCode::NO_CONTENT, "application/json", Bytes::new()))
        }
        (&Method::GET, ["vms", vm, "changes"]) => {
            let wait = Duration::from_millis(call.number("timeout_ms")?).min(MAX_WAIT);
            changes(host, &*host.guest(id(vm)?).await?, call.number("since")?, wait).await
        }
        (&Method::GET, ["vms", vm, "console"]) => {
            let max = call.number("max")?.min(MAX_CONSOLE);
            let path = host.guest(id(vm)?).await?.record().files.console_log();
            let bytes = store::tail(&path, max).map_err(HostError::Store)?;
            Ok(reply(StatusCode::OK, "application/octet-stream", bytes.into()))
        }
        (&Method::GET, ["vms", vm, "screenshot"]) => {
            let png = host.guest(id(vm)?).await?.screenshot().await?;
            Ok(reply(StatusCode::OK, "image/png", png.into()))
        }
        (&Method::GET, ["vms", vm, "boot-trace"]) => {
            let trace = host.boot_trace(id(vm)?).await?.unwrap_or_default();
            Ok(reply(StatusCode::OK, "application/octet-stream", trace.into()))
        }
        (&Method::POST, ["vms", vm, "start"]) => ordered(&*host.guest(id(vm)?).await?, Order::Start).await,
        (&Method::POST, ["vms", vm, "restart"]) => ordered(&*host.guest(id(vm)?).await?, Order::Restart).await,
        (&Method::POST, ["vms", vm, "power-off"]) => {
            let order = Order::PowerOff { skip_shutdown: call.flag("skip_shutdown") };
            ordered(&*host.guest(id(vm)?).await?, order).await
        }
        (&Method::PUT, ["vms", vm, "definition"]) => {
            let spec: VmSpec = call.body()?;
            json(&host.redefine(id(vm)?, spec).await?.status())
        }
        (&Method::POST, ["vms", vm, "shell"]) => {
            let request: ShellRequest = call.body()?;
            json(&host.guest(id(vm)?).await?.shell(&request).await?)
        }
        (&Method::POST, ["vms", vm, "captures"]) => {
            let CaptureRequest { luns } = call.body()?;
            json(&host.guest(id(vm)?).await?.capture(&luns).await?)
        }
        (&Method::DELETE, ["vms", vm, "captures", capture]) => {
            host.guest(id(vm)?).await?.discard(id(capture)?).await?;
            Ok(reply(StatusCode::NO_CONTENT, "application/json", Bytes::new()))
        }
        (&Method::GET, ["vms", vm, "firmware"]) => {
            let packed = host.guest(id(vm)?).await?.firmware().await?.unwrap_or_default();
            Ok(reply(StatusCode::OK, "application/octet-stream", packed.into()))
        }
        (&Method::PUT, ["vms", vm, "firmware"]) => {
            host.guest(id(vm)?).await?.order(Order::PutFirmware(call.body.clone())).await?;
            Ok(reply(StatusCode::NO_CONTENT, "application/json", Bytes::new()))
        }
        (&Method::PUT, ["vms", vm, "network"]) => {
            let nics: Vec<NicSpec> = call.body()?;
            ordered(&*host.guest(id(vm)?).await?, Order::UpdateNetwork(nics)).await
        }
        _ => Err(HostError::NotFound),
    }
}

fn info(host: &Host) -> HostInfo {
    HostInfo {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hypervisor: host.env.hypervisor.describe(),
        room_mib: host.env.hypervisor.room_mib(),
    }
}

async fn ordered(guest: &Guest, order: Order) -> Result<Reply, HostError> {
    guest.order(order).await?;
    json(&guest.status())
}

async fn changes(host: &Host, guest: &Guest, since: u64, wait: Duration) -> Result<Reply, HostError> {
    let mut counter = guest.record().changes();
    let changed = counter.wait_for(|now| *now != since);
    // However the wait ends, the answer is how it is now.
    let _ = tokio::time::timeout(wait, host.stopping.run_until_cancelled(changed)).await;
    json(&guest.status())
}

fn json(value: &impl Serialize) -> Result<Reply, HostError> {
    let bytes = serde_json::to_vec(value).map_err(|e| HostError::Store(e.into()))?;
    Ok(reply(StatusCode::OK, "application/json", bytes.into()))
}

fn failure(error: &HostError) -> Reply {
    let code = error.code();
    let body = ErrorBody { code, message: with_causes(error) };
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    reply(code.status(), "application/json", bytes.into())
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let value = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    response
}
