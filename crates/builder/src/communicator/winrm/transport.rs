//! HTTPS to the listener of one machine, one request at a time. Nobody's authority counts: the listener shows exactly the certificate
//! that was made for it, or nothing is said to it. The password goes into a header that is marked as secret, and nowhere else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::wsman::MAX_ENVELOPE;
use crate::communicator::CommunicatorError;

/// A connection with its handshake; an emulated guest that boots is slow.
const CONNECT: Duration = Duration::from_secs(60);
/// An answer is about as large as it was asked to be, unless something is wrong.
const MAX_ANSWER: usize = 8 * MAX_ENVELOPE;

/// Bytes both ways.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Ways to a machine's listener, however that is reached.
#[async_trait]
pub trait Dial: Send + Sync {
    /// # Errors
    /// A machine that does not listen (yet).
    async fn dial(&self) -> io::Result<Box<dyn Wire>>;
}

/// An HTTP client of one server.
pub(super) struct Transport {
    dial: Arc<dyn Dial>,
    tls: TlsConnector,
    user: String,
    authorization: HeaderValue,
    open: Option<Open>,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

impl Transport {
    pub(super) fn new(
        dial: Arc<dyn Dial>,
        user: &str,
        password: &str,
        certificate: CertificateDer<'static>,
    ) -> Result<Self, CommunicatorError> {
        let unusable = |e: Box<dyn std::error::Error + Send + Sync>| CommunicatorError::Protocol(e.to_string());
        let mut config = lazuli_tls::only(certificate, rustls::DEFAULT_VERSIONS).map_err(|e| unusable(e.into()))?;
        config.enable_sni = false;
        let basic = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
        let mut authorization = HeaderValue::from_str(&basic).map_err(|e| unusable(e.into()))?;
        authorization.set_sensitive(true);
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { dial, tls, user: user.to_owned(), authorization, open: None })
    }

    /// Sends a message and reads the answer: a success, or a fault of WS-Management.
    pub(super) async fn post(&mut self, message: String, time: Duration) -> Result<String, CommunicatorError> {
        let mut sender = self.sender().await?;
        let request = Request::post("/wsman")
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/soap+xml;charset=UTF-8")
            .body(Full::new(Bytes::from(message)))
            .map_err(|e| CommunicatorError::Protocol(e.to_string()))?;
        let exchange = async {
            let response = sender.sender.send_request(request).await.map_err(|e| CommunicatorError::Lost(e.into()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(CommunicatorError::Lost);
            Ok::<_, CommunicatorError>((status, body?.to_bytes()))
        };
        let (status, body) = timeout(time, exchange).await.map_err(|e| CommunicatorError::Lost(e.into()))??;
        self.open = Some(sender);
        match status {
            StatusCode::OK | StatusCode::INTERNAL_SERVER_ERROR => {
                String::from_utf8(body.to_vec()).map_err(|_| CommunicatorError::Protocol("it is not UTF-8".to_owned()))
            }
            StatusCode::UNAUTHORIZED => Err(CommunicatorError::Denied { user: self.user.clone() }),
            other => Err(CommunicatorError::Protocol(format!("it has the HTTP status {other}"))),
        }
    }

    /// The connection that is open, or a new one. What was sent once is not sent again: only before a request is this done.
    async fn sender(&mut self) -> Result<Open, CommunicatorError> {
        if let Some(mut open) = self.open.take()
            && open.sender.ready().await.is_ok()
        {
            return Ok(open);
        }
        match timeout(CONNECT, self.connect()).await {
            Ok(connected) => connected,
            Err(elapsed) => Err(CommunicatorError::Unreachable(elapsed.into())),
        }
    }

    async fn connect(&self) -> Result<Open, CommunicatorError> {
        let unreachable = |e: Box<dyn std::error::Error + Send + Sync>| CommunicatorError::Unreachable(e);
        let stream = self.dial.dial().await.map_err(|e| unreachable(e.into()))?;
        let name = ServerName::try_from("localhost").map_err(|e| unreachable(e.into()))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| match error.get_ref() {
            Some(inner) if is_other_certificate(inner) => CommunicatorError::Certificate,
            _ => unreachable(error.into()),
        })?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(e.into()))?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a machine's WinRM listener ended");
            }
        });
        Ok(Open { sender, _connection: AbortOnDropHandle::new(connection) })
    }
}

fn is_other_certificate(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(
        error.downcast_ref::<rustls::Error>(),
        Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    )
}
