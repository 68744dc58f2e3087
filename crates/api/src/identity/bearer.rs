//! The check of the bearer token that every management request must carry.

use crate::app::App;
use crate::blob::Bearer;
use crate::context::Context;
use crate::identity;
use crate::net::hosts::Service;
use crate::respond::{self, Reply};
use http::{Method, header};
use lazuli_arm::{ArmError, ResourceId, Target, parse_target};
use lazuli_authz::{Claims, TokenError, Validation};
use lazuli_engine::call::Caller;

/// The caller of a management request, or the answer that refuses it.
pub(crate) async fn authenticate(app: &App, context: &Context) -> Result<Caller, ArmError> {
    let token = bearer(context)?;
    let bases = app.own.bases();
    let audiences = identity::arm_audiences(&bases, context);
    let claims = validate(app, context, &token, &audiences, &bases).await?;
    let mut caller = of_claims(app, &claims, reads(context).as_ref()).await?;
    for token in auxiliary_tokens(context)? {
        let one = principal(app, context, &token, &audiences, &bases).await.map_err(|e| match e.status {
            401 => invalid_auxiliary(&e.message),
            _ => e,
        })?;
        caller.auxiliary.push(one);
    }
    Ok(caller)
}

/// The one resource that a request reads.
fn reads(context: &Context) -> Option<ResourceId> {
    match (&context.method, parse_target(&context.path)) {
        (&Method::GET, Ok(Target::Resource(id))) => Some(id),
        _ => None,
    }
}

/// Whose a token is that came by another way than the header.
pub(crate) async fn of_token(app: &App, context: &Context, token: &str) -> Result<Caller, ArmError> {
    let bases = app.own.bases();
    principal(app, context, token, &identity::arm_audiences(&bases, context), &bases).await
}

/// Azure takes no more in one request.
const MAX_AUXILIARY: usize = 3;

/// `x-ms-authorization-auxiliary: Bearer A, Bearer B` (or separated by semicolons).
fn auxiliary_tokens(context: &Context) -> Result<Vec<String>, ArmError> {
    let Some(value) = context.header("x-ms-authorization-auxiliary") else { return Ok(vec![]) };
    let parts = value.split([',', ';']).map(str::trim).filter(|p| !p.is_empty());
    let tokens: Option<Vec<String>> = parts
        .map(|part| {
            let (scheme, token) = part.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        })
        .collect();
    match tokens {
        Some(tokens) if tokens.len() <= MAX_AUXILIARY => Ok(tokens),
        Some(_) => Err(invalid_auxiliary("at most three tokens are taken.")),
        None => Err(invalid_auxiliary("each must be of the form 'Bearer TOKEN'.")),
    }
}

fn invalid_auxiliary(why: &str) -> ArmError {
    refused("InvalidAuxiliaryTokens", format!("Authentication failed for auxiliary token: {why}"))
}

/// The caller of a data-plane request, if it brings a bearer token at all.
pub(crate) async fn storage(app: &App, context: &Context) -> Bearer {
    let scheme = context.header("authorization").and_then(|v| v.split(' ').next().map(str::to_ascii_lowercase));
    if scheme.as_deref() != Some("bearer") {
        return Bearer::Absent;
    }
    let mut audiences: Vec<String> = identity::STORAGE_AUDIENCES.iter().map(|a| (*a).to_owned()).collect();
    if let Service::Blob { cloud: Some(_), .. } = context.service {
        audiences.push(context.base.clone());
    }
    let checked = match bearer(context) {
        Ok(token) => principal(app, context, &token, &audiences, &app.own.bases()).await,
        Err(error) => Err(error),
    };
    checked.map_or_else(Bearer::Refused, Bearer::Caller)
}

/// The caller of a request for the directory, or the answer that refuses it.
pub(crate) async fn graph(app: &App, context: &Context) -> Result<Caller, ArmError> {
    let token =
        bearer(context).map_err(|e| refused("InvalidAuthenticationToken", "Access token is empty.").caused_by(e))?;
    let bases = app.own.bases();
    let audiences = identity::graph_audiences(&identity::arm_audiences(&bases, context));
    principal(app, context, &token, &audiences, &bases).await
}

async fn principal(
    app: &App,
    context: &Context,
    token: &str,
    audiences: &[String],
    bases: &[String],
) -> Result<Caller, ArmError> {
    of_claims(app, &validate(app, context, token, audiences, bases).await?, None).await
}

async fn of_claims(app: &App, claims: &Claims, reads: Option<&ResourceId>) -> Result<Caller, ArmError> {
    let caller = app.backend.caller(&claims.tid, &claims.oid, reads).await?;
    caller.ok_or_else(|| {
        refused("InvalidAuthenticationToken", "The access token is invalid: its principal does not exist any more.")
    })
}

async fn validate(
    app: &App,
    context: &Context,
    token: &str,
    audiences: &[String],
    bases: &[String],
) -> Result<Claims, ArmError> {
    let authorities = identity::authorities(bases, context);
    let wanted = Validation { audiences, authorities: &authorities, now: identity::now_seconds() };
    let checked = app.tokens.validate(token, &wanted).await?;
    checked.map_err(|e| explain(&e, audiences, &context.authority()).caused_by(e))
}

fn bearer(context: &Context) -> Result<String, ArmError> {
    let Some(value) = context.headers.get(header::AUTHORIZATION) else {
        return Err(refused("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."));
    };
    let token = value.to_str().ok().and_then(|v| v.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(token.trim().to_owned())
        }
        _ => Err(refused(
            "AuthenticationFailedInvalidHeader",
            "Authentication failed. The 'Authorization' header is provided in an invalid format.",
        )),
    }
}

fn refused(code: &str, message: impl Into<String>) -> ArmError {
    ArmError::new(401, code, message)
}

fn explain(error: &TokenError, audiences: &[String], authority: &str) -> ArmError {
    let time = |seconds: u64| {
        let at = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
        at.map_or_else(|| seconds.to_string(), |t| t.strftime("%-m/%-d/%Y %-I:%M:%S %p").to_string())
    };
    match error {
        TokenError::Malformed => refused("InvalidAuthenticationToken", "The access token is invalid."),
        TokenError::ForeignKey => refused(
            "InvalidAuthenticationToken",
            format!(
                "The access token is signed with a key that this server does not know. Sign in again at '{authority}'."
            ),
        ),
        TokenError::BadSignature => {
            refused("InvalidAuthenticationToken", "The access token is invalid: its signature does not match.")
        }
        TokenError::WrongIssuer { issuer } => refused(
            "InvalidAuthenticationTokenTenant",
            format!(
                "The access token is from the wrong issuer '{issuer}'. Please use the authority (URL) '{authority}' to \
                 get the token."
            ),
        ),
        TokenError::WrongAudience { audience } => refused(
            "InvalidAuthenticationTokenAudience",
            format!(
                "The access token has been obtained for wrong audience or resource '{audience}'. It should exactly \
                 match with one of the allowed audiences '{}'.",
                audiences.join("','")
            ),
        ),
        TokenError::Expired { at, now } => refused(
            "ExpiredAuthenticationToken",
            format!(
                "The access token expiry UTC time '{}' is earlier than current UTC time '{}'.",
                time(*at),
                time(*now)
            ),
        ),
        TokenError::NotYetValid { at } => refused(
            "InvalidAuthenticationToken",
            format!("The access token is not valid before UTC time '{}'.", time(*at)),
        ),
    }
}

/// A 401 tells where to sign in; some clients learn the tenant from it.
pub(crate) fn challenge(app: &App, context: &Context, error: &ArmError) -> Reply {
    let tenant = app.tokens.home_tenant.as_deref().unwrap_or("common");
    let mut value = format!("Bearer authorization_uri=\"{}/{tenant}\"", context.authority());
    if error.code != "AuthenticationFailed" {
        let text = error.message.replace(['"', '\\'], "'");
        value.push_str(&format!(", error=\"invalid_token\", error_description=\"{text}\""));
    }
    let mut response = respond::error(error);
    respond::set(response.headers_mut(), header::WWW_AUTHENTICATE, &value);
    response
}
