//! The accept loop: TLS, HTTP/1.1 with keep-alive, graceful drain.

use axum::body::Body;
use http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a client may take over the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests in flight may take to end once the server is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Who is at the other end of a request's connection; an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

/// Answers one request; must not panic (panics are caught a level above).
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

/// Accepts until `shutdown`, then lets the requests in flight end.
pub(crate) async fn run<H: Handler>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    handler: H,
    shutdown: CancellationToken,
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: connections that end make room.
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, handler, shutdown) = (acceptor.clone(), handler.clone(), shutdown.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, acceptor, handler, shutdown).await {
                tracing::debug!(error = error.as_ref() as &dyn std::error::Error, "connection ended");
            }
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests were cut off at shutdown");
    }
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

async fn connection<H: Handler>(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    let peer = Peer(stream.peer_addr()?.ip());
    let Some(acceptor) = acceptor else {
        return http(stream, peer, handler, shutdown).await;
    };
    let stream = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        done = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => {
            done.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake"))??
        }
    };
    http(stream, peer, handler, shutdown).await
}

async fn http<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let handler = handler.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        async move { Ok::<_, Infallible>(handler.handle(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended?,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await?;
        }
    }
    Ok(())
}
