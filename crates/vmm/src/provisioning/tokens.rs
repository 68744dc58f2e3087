//! `/metadata/identity/oauth2/token`: tokens for the machine's managed identities. This host holds no key: the server is asked, over
//! a socket that only their common user may open, and signs what it thinks right.
//!
//! ```text
//! guest ── IMDS ──> host ── DIR/host/tokens.sock: POST / TokenAsk ──> server
//! ```

use super::{Answer, Ask};
use crate::spec::VmSpec;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use uuid::Uuid;

/// What the server may take.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 64 << 10;
/// The first api-version with tokens.
const SINCE: &str = "2018-02-01";

/// A guest asks to act as one of its machine's identities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenAsk {
    /// Id of the machine's resource.
    pub machine: String,
    pub vm_id: Uuid,
    /// What the token is for.
    pub resource: String,
    /// Which of several identities; `None`: the machine's own, or the only one.
    pub client_id: Option<String>,
    pub object_id: Option<String>,
    pub resource_id: Option<String>,
}

/// Who gives tokens.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// What the guest is answered.
    async fn token(&self, ask: &TokenAsk) -> Answer;
}

fn refusal(status: StatusCode, error: &str, why: &str) -> Answer {
    Answer { status, ..Answer::json(json!({"error": error, "error_description": why}).to_string()) }
}

/// The server is not there, or does not answer: clients of the metadata service try again.
fn unavailable() -> Answer {
    refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "server_error",
        "The identity service cannot be reached. Retry the request.",
    )
}

/// What a request asks for, or why it is refused.
pub fn ask_of(spec: &VmSpec, ask: &Ask) -> Result<TokenAsk, Answer> {
    let bad = |why: &str| refusal(StatusCode::BAD_REQUEST, "invalid_request", why);
    if !ask.header("metadata").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return Err(bad("Required metadata header not specified"));
    }
    if ask.header("x-forwarded-for").is_some() {
        return Err(bad("Forwarded requests are not answered"));
    }
    if ask.method != Method::GET {
        return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "Method not allowed"));
    }
    let given = |name: &str| ask.query(name).filter(|v| !v.is_empty()).map(str::to_owned);
    let version = given("api-version").ok_or_else(|| bad("Required query variable 'api-version' is missing"))?;
    if version.as_str() < SINCE || version.len() > 20 {
        return Err(bad("The api-version is not supported: 2018-02-01 is"));
    }
    let resource = given("resource").ok_or_else(|| bad("Required query variable 'resource' is missing"))?;
    Ok(TokenAsk {
        machine: spec.resource_id.clone(),
        vm_id: spec.id,
        resource,
        client_id: given("client_id"),
        object_id: given("object_id"),
        resource_id: given("msi_res_id").or_else(|| given("mi_res_id")),
    })
}

/// The server of this host's folder.
pub struct ServerTokens {
    socket: PathBuf,
}

impl ServerTokens {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    async fn ask(&self, ask: &TokenAsk) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = Full::new(Bytes::from(serde_json::to_vec(ask)?));
        let request =
            Request::post("/").header("host", "server").header("content-type", "application/json").body(body)?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok(Answer { status: parts.status, ..Answer::json(body) })
    }
}

#[async_trait]
impl Tokens for ServerTokens {
    async fn token(&self, ask: &TokenAsk) -> Answer {
        match tokio::time::timeout(PATIENCE, self.ask(ask)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(vm.id = %ask.vm_id, %error, "the server was not reached for a token");
                unavailable()
            }
            Err(_) => unavailable(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provisioning::tests::{ask, example};

    fn asked(method: &str, query: &str) -> Result<TokenAsk, Answer> {
        let mut request = ask(method, &format!("/metadata/identity/oauth2/token?{query}"), "");
        request.headers.insert("metadata", "true".parse().unwrap());
        ask_of(&example(), &request)
    }

    #[test]
    fn a_request_names_its_own_machine_and_an_identity() {
        let all = asked(
            "GET",
            "api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F&client_id=c&msi_res_id=/r",
        )
        .unwrap();
        assert_eq!(all.resource, "https://management.azure.com/");
        assert_eq!((all.machine.as_str(), all.vm_id), (example().resource_id.as_str(), example().id));
        assert_eq!(
            (all.client_id.as_deref(), all.object_id, all.resource_id.as_deref()),
            (Some("c"), None, Some("/r"))
        );
    }

    #[test]
    fn the_guards() {
        let unmarked = ask("GET", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x", "");
        assert_eq!(ask_of(&example(), &unmarked).unwrap_err().status, StatusCode::BAD_REQUEST);
        for query in ["resource=x", "api-version=2018-02-01", "api-version=2017-08-01&resource=x"] {
            let refused = asked("GET", query).unwrap_err();
            let body: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
            assert_eq!(
                (refused.status, &body["error"]),
                (StatusCode::BAD_REQUEST, &json!("invalid_request")),
                "{query}"
            );
        }
        assert_eq!(
            asked("POST", "api-version=2018-02-01&resource=x").unwrap_err().status,
            StatusCode::METHOD_NOT_ALLOWED
        );
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told() {
        let nobody = ServerTokens::new("/nonexistent/tokens.sock".into());
        assert_eq!(nobody.token(&TokenAsk::default()).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
