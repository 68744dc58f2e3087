//! Tokens for the managed identities of machines: the host process asks on a socket in its folder, on behalf of a guest.
//!
//! Whoever may open the socket runs as this server's own user and could read its keys; it is 0600 in a folder that is 0700. A
//! guest reaches it through the metadata service only, which names its machine.

use crate::app::App;
use crate::identity::{self, now_seconds};
use axum::Router;
use axum::extract::{Json, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use lazuli_arm::ArmError;
use lazuli_authz::token::Grant;
use lazuli_authz::{Claims, TokenVersion};
use lazuli_engine::{MachineIdentityError, TokenAsk};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// Answers until shutdown.
pub(crate) async fn run(listener: UnixListener, app: Arc<App>, shutdown: CancellationToken) {
    let router = Router::new().route("/", axum::routing::post(answer)).with_state(app);
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await {
        tracing::error!(%error, "machines get no tokens any more");
    }
}

async fn answer(State(app): State<Arc<App>>, Json(ask): Json<TokenAsk>) -> Response {
    let (status, body) = token(&app, &ask).await;
    tracing::info!(machine = ask.machine, status = status.as_u16(), "token of a managed identity");
    (status, Json(body)).into_response()
}

async fn token(app: &App, ask: &TokenAsk) -> (StatusCode, Value) {
    let refuse = |status, error: &str, why: String| (status, json!({"error": error, "error_description": why}));
    let unavailable = || {
        refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "The identity service failed. Retry the request.".to_owned(),
        )
    };
    let Some(engine) = &app.directory else { return unavailable() };
    let caller = match engine.machine_identity(ask).await {
        Ok(caller) => caller,
        Err(MachineIdentityError::Failed(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a machine's identity is not known");
            return unavailable();
        }
        Err(refused) => return refuse(StatusCode::BAD_REQUEST, "invalid_request", refused.to_string()),
    };
    if !identity::is_known_resource(&ask.resource, &identity::own_arm_audiences(&app.own.bases())) {
        let why = format!(
            "AADSTS500011: The resource principal named {} was not found in the tenant named {}.",
            ask.resource, caller.tenant
        );
        return refuse(StatusCode::BAD_REQUEST, "invalid_resource", why);
    }
    let lifetime = app.tokens.lifetime.as_secs();
    let claims = Claims::new(&Grant {
        authority: &app.own.base(),
        audience: &ask.resource,
        tenant: &caller.tenant,
        app_id: &caller.app_id,
        object_id: &caller.principal,
        version: TokenVersion::V1,
        now: now_seconds(),
        lifetime_seconds: lifetime,
    });
    let signed = match app.tokens.signer().await {
        Ok(key) => key.sign(&claims).map_err(ArmError::internal),
        Err(error) => Err(error),
    };
    let signed = match signed {
        Ok(signed) => signed,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a machine's token is not signed");
            return unavailable();
        }
    };
    let body = json!({
        "access_token": signed,
        "client_id": caller.app_id,
        "expires_in": lifetime.to_string(),
        "expires_on": claims.exp.to_string(),
        "ext_expires_in": lifetime.to_string(),
        "not_before": claims.nbf.to_string(),
        "resource": ask.resource,
        "token_type": "Bearer",
    });
    (StatusCode::OK, body)
}
