//! Tokens for the managed identities of machines: the host process asks on a socket in its folder, on behalf of a guest.
//!
//! Whoever may open the socket runs as this server's own user and could read its keys; it is 0600 in a folder that is 0700. A
//! guest reaches it through the metadata service only, which names its machine. A worker answers its own host process: it has
//! the key of the database's secrets, as the server has, and needs nothing of the server to be there.

use crate::identity::{self, Keys, now_seconds};
use axum::Router;
use axum::extract::{Json, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use lazuli_arm::ArmError;
use lazuli_authz::token::Grant;
use lazuli_authz::{Claims, TokenVersion};
use lazuli_engine::{Engine, MachineIdentityError, TokenAsk, TokenIssuer};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// Who signs the tokens of the machines of one computer.
pub(crate) struct MachineTokens {
    pub engine: Engine,
    /// `None`: the server.
    pub worker: Option<String>,
    /// `None`: what the server said last.
    pub issuer: Option<TokenIssuer>,
}

/// Gives the machines on a worker tokens of their managed identities until shutdown; their host process asks at `listener`.
pub async fn serve_machine_tokens(engine: Engine, worker: String, listener: UnixListener, shutdown: CancellationToken) {
    run(listener, MachineTokens { engine, worker: Some(worker), issuer: None }, shutdown).await;
}

/// Answers until shutdown.
pub(crate) async fn run(listener: UnixListener, tokens: MachineTokens, shutdown: CancellationToken) {
    let router = Router::new().route("/", axum::routing::post(answer)).with_state(Arc::new(tokens));
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await {
        tracing::error!(%error, "machines get no tokens any more");
    }
}

async fn answer(State(tokens): State<Arc<MachineTokens>>, Json(ask): Json<TokenAsk>) -> Response {
    let (status, body) = token(&tokens, &ask).await;
    tracing::info!(machine = ask.machine, status = status.as_u16(), "token of a managed identity");
    (status, Json(body)).into_response()
}

/// Why there is no token.
enum Refused {
    /// In the words of the metadata service.
    Told(&'static str, String),
    Failed(ArmError),
}

impl From<ArmError> for Refused {
    fn from(error: ArmError) -> Self {
        Self::Failed(error)
    }
}

impl From<MachineIdentityError> for Refused {
    fn from(error: MachineIdentityError) -> Self {
        match error {
            MachineIdentityError::Failed(error) => Self::Failed(error),
            refused => Self::Told("invalid_request", refused.to_string()),
        }
    }
}

async fn token(tokens: &MachineTokens, ask: &TokenAsk) -> (StatusCode, Value) {
    match issue(tokens, ask).await {
        Ok(body) => (StatusCode::OK, body),
        Err(Refused::Told(error, why)) => (StatusCode::BAD_REQUEST, json!({"error": error, "error_description": why})),
        Err(Refused::Failed(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a machine gets no token");
            let why = "The identity service failed. Retry the request.";
            (StatusCode::INTERNAL_SERVER_ERROR, json!({"error": "server_error", "error_description": why}))
        }
    }
}

async fn issue(tokens: &MachineTokens, ask: &TokenAsk) -> Result<Value, Refused> {
    let engine = &tokens.engine;
    let issuer = match &tokens.issuer {
        Some(issuer) => Some(issuer.clone()),
        None => engine.token_issuer().await?,
    };
    let issuer = issuer.ok_or_else(|| ArmError::internal("no server has said in whose name tokens are signed"))?;
    let caller = engine.machine_identity(ask, tokens.worker.as_deref()).await?;
    if !identity::is_known_resource(&ask.resource, &identity::own_arm_audiences(&issuer.bases)) {
        let why = format!(
            "AADSTS500011: The resource principal named {} was not found in the tenant named {}.",
            ask.resource, caller.tenant
        );
        return Err(Refused::Told("invalid_resource", why));
    }
    let lifetime = issuer.lifetime_seconds;
    let claims = Claims::new(&Grant {
        authority: issuer.bases.first().map_or("", String::as_str),
        audience: &ask.resource,
        tenant: &caller.tenant,
        app_id: &caller.app_id,
        object_id: &caller.principal,
        version: TokenVersion::V1,
        now: now_seconds(),
        lifetime_seconds: lifetime,
    });
    let key = Keys::Kept(engine.clone()).signer().await?;
    let signed = key.sign(&claims).map_err(ArmError::internal)?;
    Ok(json!({
        "access_token": signed,
        "client_id": caller.app_id,
        "expires_in": lifetime.to_string(),
        "expires_on": claims.exp.to_string(),
        "ext_expires_in": lifetime.to_string(),
        "not_before": claims.nbf.to_string(),
        "resource": ask.resource,
        "token_type": "Bearer",
    }))
}
