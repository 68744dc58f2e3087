//! One request from its head to its answer: host and path decide who answers, every answer gets its common headers.
//!
//! Each request runs in a task of its own: a client that hangs up does not cancel what it began, and a panic becomes a
//! 500 for this one request.

use crate::arm;
use crate::backend::ArmBackend;
use crate::blob::{self, BlobPlane, BlobRequest};
use crate::body;
use crate::console;
use crate::context::Context;
use crate::graph;
use crate::identity::{TokenConfig, authorize, bearer, device, external, metadata, openid, token};
use crate::net::hosts::{OwnHosts, Service};
use crate::net::server::Handler;
use crate::record::Recorder;
use crate::respond::{self, Reply};
use axum::body::Body;
use http::{Method, Request, StatusCode};
use hyper::upgrade::OnUpgrade;
use lazuli_arm::ArmError;
use lazuli_authz::TokenVersion;
use lazuli_engine::Engine;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What all requests share.
pub(crate) struct App {
    pub backend: Arc<dyn ArmBackend>,
    pub blobs: Option<Arc<dyn BlobPlane>>,
    /// `None`: nobody but clients can sign in.
    pub directory: Option<Engine>,
    pub tokens: TokenConfig,
    pub own: Arc<OwnHosts>,
    /// What clients are told to wait between polls; never 0, which they take for 30 s (az-cli.md §2.4).
    pub retry_after_seconds: u64,
    /// Where management exchanges are written to.
    pub recorder: Option<Recorder>,
    /// How long a stream says nothing.
    pub silence: Duration,
    /// The server is to stop: what would go on for long ends.
    pub stopping: CancellationToken,
}

#[derive(Clone)]
pub(crate) struct Edge(pub Arc<App>);

impl Handler for Edge {
    async fn handle(&self, request: Request<Body>) -> Reply {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let context = match Context::new(&parts, &self.0.own) {
            Ok(context) => Arc::new(context),
            Err(error) => return respond::error(&error),
        };
        let task = tokio::spawn(answer(self.0.clone(), context.clone(), Request::from_parts(parts, body)));
        let response = task.await.unwrap_or_else(|panic| {
            tracing::error!(
                path = context.path,
                error = &panic as &dyn std::error::Error,
                "a request handler panicked"
            );
            finish(&context, respond::error(&ArmError::internal("panic")))
        });
        tracing::info!(
            method = %context.method,
            path = context.path,
            status = response.status().as_u16(),
            elapsed_ms = started.elapsed().as_millis(),
            request_id = context.request_id,
            "request"
        );
        response
    }
}

async fn answer(app: Arc<App>, context: Arc<Context>, request: Request<Body>) -> Reply {
    match route(&context) {
        Route::Blob { account, path, path_style } => {
            let Some(plane) = &app.blobs else {
                return blob::no_such_account(&context.request_id);
            };
            let (base, request_id) = (context.base.clone(), context.request_id.clone());
            let bearer = bearer::storage(&app, &context).await;
            plane.handle(BlobRequest { account, path, path_style, base, request_id, bearer, request }).await
        }
        Route::Console { machine } => {
            let (mut parts, _) = request.into_parts();
            let upgrade = parts.extensions.remove::<OnUpgrade>();
            finish(&context, console::connect(&app, &context, &machine, upgrade).await)
        }
        route => {
            let (parts, body) = request.into_parts();
            drop(parts);
            let response = identity_or_arm(&app, &context, route, body).await;
            finish(&context, response)
        }
    }
}

fn finish(context: &Context, mut response: Reply) -> Reply {
    respond::decorate(context, response.headers_mut());
    response
}

async fn identity_or_arm(app: &Arc<App>, context: &Arc<Context>, route: Route, body: Body) -> Reply {
    match route {
        Route::Health => respond::json(StatusCode::OK, &json!({"status": "ok"})),
        Route::Metadata => metadata::endpoints(context),
        Route::Instance => openid::instance(context),
        Route::OpenId { tenant, version } => openid::configuration(app, context, &tenant, version).await,
        Route::Keys => match app.tokens.jwks().await {
            Ok(keys) => respond::json(StatusCode::OK, &keys),
            Err(error) => respond::error(&error),
        },
        Route::UserRealm { login } => openid::user_realm(context, &login),
        Route::External => match &app.directory {
            Some(directory) if context.method == Method::GET => external::finish(app, context, directory).await,
            Some(_) => respond::error(&method_not_allowed(context)),
            None => respond::error(&no_route(context)),
        },
        Route::Token { .. } | Route::DeviceCode { .. } if context.method != Method::POST => {
            respond::error(&method_not_allowed(context))
        }
        Route::Authorize { .. } | Route::DevicePage if ![Method::GET, Method::POST].contains(&context.method) => {
            respond::error(&method_not_allowed(context))
        }
        Route::Token { .. } | Route::DeviceCode { .. } | Route::Authorize { .. } | Route::DevicePage => {
            match body::read(&context.headers, body, body::FORM_LIMIT).await {
                Ok(form) => sign_in(app, context, route, &form).await,
                Err(error) => respond::error(&error),
            }
        }
        Route::Arm => management(app, context, body).await,
        Route::Graph { path } => graph::handle(app, context, &path, body).await,
        Route::Blob { .. } | Route::Console { .. } | Route::Nothing => respond::error(&no_route(context)),
    }
}

/// What is sent as a form.
async fn sign_in(app: &App, context: &Context, route: Route, form: &[u8]) -> Reply {
    let form = token::Form::parse(form);
    let ask = |tenant, endpoint| token::Ask { app, context, tenant, endpoint, form };
    match (&route, &app.directory) {
        (Route::Token { tenant, endpoint }, _) => token::issue(&ask(tenant, *endpoint)).await,
        (Route::DeviceCode { tenant, endpoint }, Some(directory)) => {
            device::start(&ask(tenant, *endpoint), directory).await
        }
        (Route::Authorize { tenant, endpoint }, Some(directory)) => {
            authorize::handle(&ask(tenant, *endpoint), directory).await
        }
        (Route::DevicePage, Some(directory)) => device::enter(&ask("common", token::Endpoint::V2), directory).await,
        _ => respond::error(&no_route(context)),
    }
}

async fn management(app: &Arc<App>, context: &Arc<Context>, body: Body) -> Reply {
    // The body is taken before the token is judged: a client that is still sending would not see the answer.
    let body = body::read(&context.headers, body, body::ARM_LIMIT).await;
    let caller = match bearer::authenticate(app, context).await {
        Ok(caller) => caller,
        Err(error) if error.status == 401 => return bearer::challenge(app, context, &error),
        Err(error) => return respond::error(&error),
    };
    let result = match &body {
        Ok(body) => arm::handle(app, context, caller, body).await,
        Err(error) => Ok(respond::error(error)),
    };
    let mut response = result.unwrap_or_else(|e| match is_bare(context, &e) {
        true => respond::bare_error(&e),
        false => respond::error(&e),
    });
    respond::rate_limits(&context.method, response.headers_mut());
    match &app.recorder {
        Some(recorder) => recorder.exchange(context, &body.unwrap_or_default(), response).await,
        None => response,
    }
}

/// Image Builder told of a body that is no template without the envelope before 2021-10-01 (wire.md §4).
fn is_bare(context: &Context, error: &ArmError) -> bool {
    error.code == "ValidationFailed"
        && context.path.to_ascii_lowercase().contains("/providers/microsoft.virtualmachineimages/")
        && context.query.get("api-version").is_some_and(|version| version.as_str() < "2021-10-01")
}

pub(crate) fn no_route(context: &Context) -> ArmError {
    ArmError::new(404, "NotFound", format!("No route for {} {}.", context.method, context.path))
}

pub(crate) fn method_not_allowed(context: &Context) -> ArmError {
    let message = format!("The method {} is not allowed on {}.", context.method, context.path);
    ArmError::new(405, "HttpMethodNotAllowed", message)
}

/// Who answers a request.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Health,
    Metadata,
    Instance,
    OpenId {
        tenant: String,
        version: TokenVersion,
    },
    Keys,
    Token {
        tenant: String,
        endpoint: token::Endpoint,
    },
    Authorize {
        tenant: String,
        endpoint: token::Endpoint,
    },
    DeviceCode {
        tenant: String,
        endpoint: token::Endpoint,
    },
    DevicePage,
    /// Where other OpenID providers send browsers back to.
    External,
    UserRealm {
        login: String,
    },
    Arm,
    /// Id of the machine.
    Console {
        machine: String,
    },
    /// Below the version.
    Graph {
        path: Vec<String>,
    },
    Blob {
        account: String,
        path: String,
        path_style: bool,
    },
    Nothing,
}

fn route(context: &Context) -> Route {
    match &context.service {
        Service::Blob { account, .. } => {
            Route::Blob { account: account.clone(), path: context.raw_path.clone(), path_style: false }
        }
        Service::Absent(_) => Route::Nothing,
        Service::Graph(_) => graph_route(context).unwrap_or(Route::Nothing),
        Service::Login(_) => sign_in_route(context).unwrap_or(Route::Nothing),
        Service::Arm(_) => management_route(context).unwrap_or(Route::Arm),
        Service::Own => {
            let known = management_route(context).or_else(|| graph_route(context)).or_else(|| sign_in_route(context));
            known.unwrap_or_else(|| account_route(context))
        }
    }
}

fn management_route(context: &Context) -> Option<Route> {
    let segments = context.segments();
    let is = |i: usize, word: &str| segments.get(i).is_some_and(|s| s.eq_ignore_ascii_case(word));
    if is(0, "metadata") && is(1, "endpoints") {
        return Some(Route::Metadata);
    }
    if segments.len() == 1 && is(0, "healthz") {
        return Some(Route::Health);
    }
    if is(0, "serialconsole") && segments.len() > 1 {
        return Some(Route::Console { machine: format!("/{}", segments[1..].join("/")) });
    }
    let first = ["subscriptions", "providers", "tenants"].iter().any(|word| is(0, word));
    first.then_some(Route::Arm)
}

fn graph_route(context: &Context) -> Option<Route> {
    graph::path_of(context).map(|path| Route::Graph { path })
}

fn sign_in_route(context: &Context) -> Option<Route> {
    let lower: Vec<String> = context.segments().iter().map(|s| s.to_ascii_lowercase()).collect();
    let words: Vec<&str> = lower.iter().map(String::as_str).collect();
    // As written: the tenant is echoed.
    let tenant = || context.segments().first().map_or(String::new(), |s| (*s).to_owned());
    Some(match words.as_slice() {
        [_, "discovery", "instance"] => Route::Instance,
        [_, "discovery", "keys"] | [_, "discovery", "v2.0", "keys"] => Route::Keys,
        [_, ".well-known", "openid-configuration"] => Route::OpenId { tenant: tenant(), version: TokenVersion::V1 },
        [_, "v2.0", ".well-known", "openid-configuration"] => {
            Route::OpenId { tenant: tenant(), version: TokenVersion::V2 }
        }
        ["devicelogin"] | [_, "oauth2", "deviceauth"] => Route::DevicePage,
        ["common", "oauth2", "external"] => Route::External,
        [_, "userrealm", _] => {
            Route::UserRealm { login: context.segments().last().map_or(String::new(), |s| (*s).to_owned()) }
        }
        [_, "oauth2", "token"] => Route::Token { tenant: tenant(), endpoint: token::Endpoint::V1 },
        [_, "oauth2", "v2.0", "token"] => Route::Token { tenant: tenant(), endpoint: token::Endpoint::V2 },
        [_, "oauth2", "authorize"] => Route::Authorize { tenant: tenant(), endpoint: token::Endpoint::V1 },
        [_, "oauth2", "v2.0", "authorize"] => Route::Authorize { tenant: tenant(), endpoint: token::Endpoint::V2 },
        [_, "oauth2", "devicecode"] => Route::DeviceCode { tenant: tenant(), endpoint: token::Endpoint::V1 },
        [_, "oauth2", "v2.0", "devicecode"] => Route::DeviceCode { tenant: tenant(), endpoint: token::Endpoint::V2 },
        _ => return None,
    })
}

/// `/{account}/{container}/…` below the server's own name.
fn account_route(context: &Context) -> Route {
    let raw = context.raw_path.trim_start_matches('/');
    let (account, rest) = raw.split_once('/').unwrap_or((raw, ""));
    let is_account = (3..=63).contains(&account.len())
        && account.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if !is_account {
        return Route::Nothing;
    }
    Route::Blob { account: account.to_owned(), path: format!("/{rest}"), path_style: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(host: &str, path: &str) -> Route {
        let request = http::Request::builder().uri(path).header("host", host).body(()).unwrap();
        route(&Context::new(&request.into_parts().0, &OwnHosts::new([], 8443)).unwrap())
    }

    #[test]
    fn host_and_path_decide() {
        let own = |path| routed("localhost:8443", path);
        assert_eq!(own("/subscriptions/x"), Route::Arm);
        assert_eq!(own("/SUBSCRIPTIONS"), Route::Arm);
        assert_eq!(own("/metadata/endpoints?api-version=2022-09-01"), Route::Metadata);
        assert_eq!(own("/T/oauth2/token"), Route::Token { tenant: "T".into(), endpoint: token::Endpoint::V1 });
        assert_eq!(
            own("/adfs/.well-known/openid-configuration"),
            Route::OpenId { tenant: "adfs".into(), version: TokenVersion::V1 }
        );
        let blob = Route::Blob { account: "md-impexp-1".into(), path: "/c/abcd".into(), path_style: true };
        assert_eq!(own("/md-impexp-1/c/abcd?sig=x"), blob);
        let blob = Route::Blob { account: "acct".into(), path: "/c%2Fb".into(), path_style: false };
        assert_eq!(routed("acct.blob.core.windows.net", "/c%2Fb"), blob);
        assert_eq!(routed("management.azure.com", "/whatever"), Route::Arm);
        assert_eq!(routed("login.windows.net", "/subscriptions"), Route::Nothing);
        assert_eq!(routed("graph.microsoft.com", "/v1.0/me"), Route::Graph { path: vec!["me".into()] });
        assert_eq!(routed("graph.microsoft.com", "/v2.0/me"), Route::Nothing);
        assert_eq!(own("/graph/v1.0/users/a"), Route::Graph { path: vec!["users".into(), "a".into()] });
        // An account may have this name, but no container the other.
        let blob = Route::Blob { account: "graph".into(), path: "/container/b".into(), path_style: true };
        assert_eq!(own("/graph/container/b"), blob);
        assert_eq!(own("/"), Route::Nothing);
        assert_eq!(own("/devicelogin"), Route::DevicePage);
        assert_eq!(own("/common/oauth2/external?code=c"), Route::External);
        assert_eq!(own("/common/userrealm/A@x"), Route::UserRealm { login: "A@x".into() });
        let authorize = Route::Authorize { tenant: "organizations".into(), endpoint: token::Endpoint::V2 };
        assert_eq!(routed("login.microsoftonline.com", "/organizations/oauth2/v2.0/authorize?x"), authorize);
    }
}
