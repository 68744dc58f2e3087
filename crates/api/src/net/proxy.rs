//! The CONNECT proxy: with `HTTPS_PROXY` and the CA file alone, every Azure client reaches this server under Azure's
//! own host names (az-cli.md §1, way 3).
//!
//! It tunnels Azure's names (and the server's own) to this server and refuses everything else, unless the operator
//! allowed passing through. It never looks into a tunnel.

use super::hosts::{OwnHosts, azure_service};
use super::server::Handler;
use axum::body::Body;
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub(crate) struct Proxy {
    /// Where this server listens, as reached from this machine.
    pub server: SocketAddr,
    pub own: Arc<OwnHosts>,
    /// Whether other targets are connected to as they are.
    pub passthrough: bool,
    /// Ends the tunnels, which outlive their requests.
    pub shutdown: CancellationToken,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Here,
    Elsewhere(String),
    Refused(String),
}

impl Proxy {
    fn target(&self, authority: &Authority) -> Target {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(443);
        let own = self.own.names().contains(&host) && port == self.server.port();
        if own || (azure_service(&host).is_some() && matches!(port, 443 | 8443)) {
            return Target::Here;
        }
        if self.passthrough {
            return Target::Elsewhere(format!("{}:{port}", authority.host()));
        }
        Target::Refused(host)
    }

    async fn connect(&self, request: Request<Body>) -> Response<Body> {
        let Some(authority) = request.uri().authority() else {
            return text(StatusCode::BAD_REQUEST, "CONNECT needs HOST:PORT.");
        };
        let connected = match self.target(authority) {
            Target::Here => tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.server)).await,
            Target::Elsewhere(address) => tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await,
            Target::Refused(host) => {
                return text(
                    StatusCode::FORBIDDEN,
                    &format!(
                        "Lazuli's proxy does not pass on to '{host}': it only stands in for Azure's own hosts. \
                         Put the host into NO_PROXY, or allow passing through in the server's settings."
                    ),
                );
            }
        };
        let Ok(Ok(mut there)) = connected else {
            return text(StatusCode::BAD_GATEWAY, "The target of CONNECT cannot be reached.");
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else {
                return;
            };
            let mut here = TokioIo::new(upgraded);
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
            }
        });
        Response::new(Body::empty())
    }
}

impl Handler for Proxy {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return self.connect(request).await;
        }
        text(
            StatusCode::METHOD_NOT_ALLOWED,
            "This is Lazuli's proxy; it only takes CONNECT. Set HTTPS_PROXY (not HTTP_PROXY) to this address.",
        )
    }
}

fn text(status: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{message}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_azures_and_the_servers_own_names_are_tunnelled() {
        let mut proxy = Proxy {
            server: "127.0.0.1:8443".parse().unwrap(),
            own: Arc::new(OwnHosts::new([], 8443)),
            passthrough: false,
            shutdown: CancellationToken::new(),
        };
        let target = |proxy: &Proxy, authority: &str| proxy.target(&authority.parse().unwrap());
        for here in ["management.azure.com:443", "x.blob.core.windows.net:443", "localhost:8443", "[::1]:8443"] {
            assert_eq!(target(&proxy, here), Target::Here, "{here}");
        }
        for refused in ["example.com:443", "localhost:22", "management.azure.com:22", "169.254.169.254:80"] {
            assert!(matches!(target(&proxy, refused), Target::Refused(_)), "{refused}");
        }
        proxy.passthrough = true;
        assert_eq!(target(&proxy, "example.com:443"), Target::Elsewhere("example.com:443".into()));
        assert_eq!(target(&proxy, "management.azure.com:443"), Target::Here);
    }
}
