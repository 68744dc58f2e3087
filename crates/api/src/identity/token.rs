//! The token endpoints, v1 and v2: client credentials.

use crate::app::App;
use crate::context::Context;
use crate::identity::{self, openid};
use crate::respond::{self, Reply};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use lazuli_authz::token::Grant;
use lazuli_authz::{Claims, TokenVersion};
use lazuli_engine::SignInError;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Which of the two answers a client understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    V1,
    V2,
}

/// A refused sign-in, in the identity platform's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: &'static str,
    code: u32,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, error: &'static str, code: u32, message: impl Into<String>) -> Self {
        Self { status, error, code, message: message.into() }
    }

    pub(crate) fn unknown_tenant(tenant: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            90002,
            format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into \
                 the correct cloud. Check with your subscription administrator, this may happen if there are no active \
                 subscriptions for the tenant."
            ),
        )
    }

    fn missing(parameter: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{parameter}'."),
        )
    }

    fn unknown_client(client: &str, tenant: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "unauthorized_client",
            700_016,
            format!(
                "Application with identifier '{client}' was not found in the directory '{tenant}'. This can happen if \
                 the application has not been installed by the administrator of the tenant or consented to by any user \
                 in the tenant. You may have sent your authentication request to the wrong tenant."
            ),
        )
    }

    fn wrong_secret(client: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            7_000_215,
            format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                 value, not the client secret ID, for a secret added to app '{client}'."
            ),
        )
    }

    fn no_secret() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            7_000_218,
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        )
    }

    fn unknown_resource(resource: &str, tenant: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_resource",
            500_011,
            format!(
                "The resource principal named {resource} was not found in the tenant named {tenant}. This can happen \
                 if the application has not been installed by the administrator of the tenant or consented to by any \
                 user in the tenant. You might have sent your authentication request to the wrong tenant."
            ),
        )
    }

    fn bad_scope(scope: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_scope",
            1_002_012,
            format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value \
                 with /.default suffixed to the resource identifier (application ID URI)."
            ),
        )
    }

    fn unsupported_grant(grant: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            70003,
            format!("The app requested an unsupported grant type '{grant}'."),
        )
    }

    pub(crate) fn reply(&self, context: &Context) -> Reply {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let (trace, correlation) = (&context.request_id, &context.correlation_id);
        let body = json!({
            "error": self.error,
            "error_description": format!(
                "AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {time}", self.code, self.message
            ),
            "error_codes": [self.code],
            "timestamp": time,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("{}/error?code={}", context.authority(), self.code),
        });
        respond::json(self.status, &body)
    }
}

/// `POST /{tenant}/oauth2[/v2.0]/token`
pub(crate) async fn issue(app: &App, context: &Context, tenant: &str, endpoint: Endpoint, form: &[u8]) -> Reply {
    let form: HashMap<String, String> = url::form_urlencoded::parse(form).into_owned().collect();
    match sign_in(app, context, tenant, endpoint, &form).await {
        Ok(body) => respond::json(StatusCode::OK, &body),
        Err(Failure::Refused(refusal)) => {
            tracing::info!(tenant, code = refusal.code, "sign-in refused");
            refusal.reply(context)
        }
        Err(Failure::Internal(error)) => respond::error(&error),
    }
}

enum Failure {
    Refused(Refusal),
    Internal(lazuli_arm::ArmError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn sign_in(
    app: &App,
    context: &Context,
    tenant: &str,
    endpoint: Endpoint,
    form: &HashMap<String, String>,
) -> Result<Value, Failure> {
    let field = |name: &str| form.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let grant = field("grant_type").ok_or_else(|| Refusal::missing("grant_type"))?;
    if grant != "client_credentials" {
        return Err(Refusal::unsupported_grant(grant).into());
    }
    let (client, secret) = credentials(context, form)?;
    let shared = openid::is_shared(tenant) || tenant.eq_ignore_ascii_case("adfs");
    let tenant = match &app.tokens.home_tenant {
        Some(home) if shared => home,
        _ => tenant,
    };
    let arm = identity::arm_audiences(&app.own.bases(), context);
    let audience = audience(field("scope"), field("resource"))?;
    if !identity::is_known_resource(&audience, &arm) {
        return Err(Refusal::unknown_resource(&audience, tenant).into());
    }
    let caller = app.backend.sign_in_client(tenant, &client, &secret).await.map_err(|e| match e {
        SignInError::UnknownTenant(_) => Failure::Refused(Refusal::unknown_tenant(tenant)),
        SignInError::UnknownClient(_) => Refusal::unknown_client(&client, tenant).into(),
        SignInError::WrongSecret => Refusal::wrong_secret(&client).into(),
        SignInError::Directory(error) => Failure::Internal(error),
    })?;
    let lifetime = app.tokens.lifetime.as_secs();
    let claims = Claims::new(&Grant {
        authority: &context.authority(),
        audience: &audience,
        tenant: &caller.tenant,
        app_id: &caller.app_id,
        object_id: &caller.principal,
        version: if endpoint == Endpoint::V1 { TokenVersion::V1 } else { TokenVersion::V2 },
        now: identity::now_seconds(),
        lifetime_seconds: lifetime,
    });
    let token = app.tokens.key.sign(&claims);
    let token = token.map_err(|e| Failure::Internal(lazuli_arm::ArmError::internal(e)))?;
    Ok(answer(endpoint, &claims, lifetime, &token))
}

/// v1 clients (go-autorest) expect numbers as text, v2 clients as numbers.
fn answer(endpoint: Endpoint, claims: &Claims, lifetime: u64, token: &str) -> Value {
    match endpoint {
        Endpoint::V1 => json!({
            "token_type": "Bearer",
            "expires_in": lifetime.to_string(),
            "ext_expires_in": lifetime.to_string(),
            "expires_on": claims.exp.to_string(),
            "not_before": claims.nbf.to_string(),
            "resource": claims.aud,
            "access_token": token,
        }),
        Endpoint::V2 => json!({
            "token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token,
        }),
    }
}

/// Client id and secret, from the form or from HTTP Basic.
fn credentials(context: &Context, form: &HashMap<String, String>) -> Result<(String, String), Refusal> {
    let field = |name: &str| form.get(name).cloned().filter(|v| !v.is_empty());
    if let Some((id, secret)) = basic(context) {
        return Ok((id, secret));
    }
    let id = field("client_id").ok_or_else(|| Refusal::missing("client_id"))?;
    let secret = field("client_secret").ok_or_else(Refusal::no_secret)?;
    Ok((id, secret))
}

fn basic(context: &Context) -> Option<(String, String)> {
    let header = context.header("authorization")?;
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    // RFC 6749 §2.3.1: both are form-encoded first.
    let decode =
        |s: &str| percent_encoding::percent_decode_str(&s.replace('+', " ")).decode_utf8().map(String::from).ok();
    Some((decode(id)?, decode(secret)?))
}

/// The resource that is asked for: `scope` is `{resource}/.default`, so `https://h//.default` means `https://h/`.
fn audience(scope: Option<&str>, resource: Option<&str>) -> Result<String, Refusal> {
    let Some(scope) = scope else {
        let resource = resource.ok_or_else(|| Refusal::missing("scope"))?;
        return Ok(resource.strip_suffix("/.default").unwrap_or(resource).to_owned());
    };
    let mut resources = scope
        .split_ascii_whitespace()
        .filter(|s| !["openid", "profile", "offline_access", "email"].contains(s))
        .map(|s| s.strip_suffix("/.default"));
    match (resources.next(), resources.next()) {
        (Some(Some(resource)), None) if !resource.is_empty() => Ok(resource.to_owned()),
        _ => Err(Refusal::bad_scope(scope)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_is_what_stands_before_default() {
        let cases = [
            (Some("https://localhost:8443//.default"), None, "https://localhost:8443/"),
            (Some("https://management.azure.com/.default"), None, "https://management.azure.com"),
            (Some("https://management.azure.com/.default openid profile"), None, "https://management.azure.com"),
            (None, Some("https://management.azure.com/"), "https://management.azure.com/"),
        ];
        for (scope, resource, wanted) in cases {
            assert_eq!(audience(scope, resource).unwrap(), wanted);
        }
        for scope in ["User.Read", "a/.default b/.default", "openid", "/.default"] {
            assert_eq!(audience(Some(scope), None).unwrap_err().code, 1_002_012, "{scope}");
        }
        assert_eq!(audience(None, None).unwrap_err().code, 900_144);
    }
}
