//! The authorization endpoint: a person signs in on a page, the client is sent a code.
//!
//! Nobody is ever sent to an address that the client may not use: until that is known, errors are shown on a page. No cookie signs
//! anybody in, each sign-in asks for the password, or goes by another provider (`external`).

use crate::context::Context;
use crate::identity::refusal::{Failure, Refusal, Subject};
use crate::identity::token::Ask;
use crate::identity::{external, page, person, redirect};
use crate::respond::{self, Reply};
use http::{Method, StatusCode, header};
use lazuli_authz::pkce;
use lazuli_engine::{CodeRequest, Engine, InteractiveClient, Session, SignedIn};
use std::collections::BTreeMap;

/// How the client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Query,
    Fragment,
    FormPost,
}

/// An authorization request whose client and redirect URI were found right.
struct Request<'a> {
    context: &'a Context,
    query: &'a BTreeMap<String, String>,
    client: InteractiveClient,
    redirect_uri: String,
    mode: Mode,
}

/// `GET` shows the page, `POST` is the page's form.
pub(crate) async fn handle(ask: &Ask<'_>, directory: &Engine) -> Reply {
    let context = ask.context;
    let request = match identify(ask, &context.query, directory).await {
        Ok(request) => request,
        Err(failure) => return shown(ask, failure),
    };
    if let Err(refusal) = request.check(ask) {
        return request.refuse(&refusal);
    }
    if context.method != Method::POST {
        if let Some(provider) = request.query("provider") {
            return external::begin(ask, directory, provider, &external::GoesOn::authorize(ask)).await;
        }
        let hint = context.query.get("login_hint").map_or("", String::as_str);
        return request.page(StatusCode::OK, hint, None, &external::links(ask, directory, ask.named_tenant()).await);
    }
    match sign_in(ask, directory, &request).await {
        Ok(reply) => reply,
        // Another try, on the same page.
        Err(Failure::Refused(refusal)) => {
            tracing::info!(tenant = ask.tenant, code = refusal.code, "sign-in refused");
            let login = ask.form.get("login").unwrap_or_default();
            let providers = external::links(ask, directory, ask.named_tenant()).await;
            request.page(refusal.status, login, Some(&refusal.message), &providers)
        }
        Err(Failure::Internal(error)) => respond::error(&error),
    }
}

/// Goes on with a request that somebody was sent to another provider for. `query`: as the request had it.
pub(crate) async fn go_on<'a>(
    ask: &Ask<'a>,
    query: &'a BTreeMap<String, String>,
    directory: &Engine,
    person: &SignedIn,
) -> Reply {
    let request = match identify(ask, query, directory).await {
        Ok(request) => request,
        Err(failure) => return shown(ask, failure),
    };
    if let Err(refusal) = request.check(ask) {
        return request.refuse(&refusal);
    }
    match admit(ask, directory, &request, person).await {
        Ok(reply) => reply,
        Err(failure) => shown(ask, failure),
    }
}

/// An error on a page of its own.
pub(crate) fn shown(ask: &Ask<'_>, failure: Failure) -> Reply {
    match failure {
        Failure::Refused(refusal) => {
            tracing::info!(tenant = ask.tenant, code = refusal.code, "sign-in refused");
            page::message(refusal.status, "Sign-in is not possible", &refusal.description(ask.context))
        }
        Failure::Internal(error) => respond::error(&error),
    }
}

async fn identify<'a>(
    ask: &Ask<'a>,
    fields: &'a BTreeMap<String, String>,
    directory: &Engine,
) -> Result<Request<'a>, Failure> {
    let query = |name: &str| fields.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let client = query("client_id").ok_or_else(|| Refusal::missing("client_id"))?;
    let refuse = |e| Failure::of(e, Subject { tenant: ask.tenant, client });
    let known = directory.interactive_client(ask.named_tenant(), client).await.map_err(refuse)?;
    let redirect_uri = query("redirect_uri").ok_or_else(|| Refusal::missing("redirect_uri"))?;
    if !redirect::is_allowed(redirect_uri, known.any_loopback, &known.redirect_uris) {
        return Err(Refusal::redirect(redirect_uri, client).into());
    }
    let mode = match query("response_mode") {
        None | Some("query") => Mode::Query,
        Some("fragment") => Mode::Fragment,
        Some("form_post") => Mode::FormPost,
        Some(other) => {
            let message =
                format!("The provided value for the input parameter 'response_mode' is not allowed: '{other}'.");
            return Err(Refusal::invalid(9_002_323, message).into());
        }
    };
    Ok(Request { context: ask.context, query: fields, client: known, redirect_uri: redirect_uri.to_owned(), mode })
}

async fn sign_in(ask: &Ask<'_>, directory: &Engine, request: &Request<'_>) -> Result<Reply, Failure> {
    let refuse = |e| Failure::of(e, Subject { tenant: ask.tenant, client: &request.client.id });
    let (login, password) = (ask.form.require("login")?, ask.form.require("password")?);
    let person = directory.sign_in_user(ask.named_tenant(), login, password).await.map_err(refuse)?;
    admit(ask, directory, request, &person).await
}

/// Sends the client a code for somebody who is signed in.
async fn admit(ask: &Ask<'_>, directory: &Engine, request: &Request<'_>, person: &SignedIn) -> Result<Reply, Failure> {
    let refuse = |e| Failure::of(e, Subject { tenant: ask.tenant, client: &request.client.id });
    let scope = request.query("scope").unwrap_or_default();
    let mut session = Session::begin(&person.home.tenant, &person.home.principal, &request.client.id, scope);
    session.nonce = request.query("nonce").map(str::to_owned);
    let asked = CodeRequest { redirect_uri: &request.redirect_uri, challenge: request.query("code_challenge") };
    let code = directory.issue_code(&session, &asked).await.map_err(refuse)?;
    Ok(request.answer(vec![("code", code), ("session_state", session.id)]))
}

impl Request<'_> {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// What the client is told if it is wrong.
    fn check(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        if self.query("response_type") != Some("code") {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "unsupported_response_type",
                700_054,
                "The only response_type that is offered is 'code'.",
            ));
        }
        match (self.query("code_challenge"), self.query("code_challenge_method")) {
            (Some(challenge), Some("S256")) if pkce::is_challenge(challenge) => {}
            (None, None) if !self.client.public => {}
            (None, None) => {
                return Err(Refusal::invalid(
                    9_002_325,
                    "Proof Key for Code Exchange is required: send 'code_challenge' with 'code_challenge_method' S256.",
                ));
            }
            _ => {
                return Err(Refusal::invalid(
                    501_491,
                    "The code_challenge is not valid: its method must be S256, and it 43 characters of base64url.",
                ));
            }
        }
        let resource = person::audience(self.query("scope"), self.query("resource"))?;
        ask.require_resource(&resource)?;
        if self.query("prompt") == Some("none") {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "login_required",
                50058,
                "A silent sign-in request was sent but no user is signed in.",
            ));
        }
        Ok(())
    }

    fn page(&self, status: StatusCode, login: &str, error: Option<&str>, providers: &[page::Link]) -> Reply {
        page::sign_in(status, &self.client.name, login, &redirect::origin(&self.redirect_uri), error, providers)
    }

    fn refuse(&self, refusal: &Refusal) -> Reply {
        tracing::info!(code = refusal.code, "sign-in refused");
        self.answer(vec![("error", refusal.error.to_owned()), ("error_description", refusal.description(self.context))])
    }

    /// Sends the client its answer.
    fn answer(&self, mut fields: Vec<(&'static str, String)>) -> Reply {
        if let Some(state) = self.query("state") {
            fields.push(("state", state.to_owned()));
        }
        let Some(to) = redirect::with(&self.redirect_uri, &fields, self.mode == Mode::Fragment) else {
            return page::message(StatusCode::BAD_REQUEST, "Sign-in is not possible", "The redirect URI is no URL.");
        };
        if self.mode == Mode::FormPost {
            return page::send_on(&self.redirect_uri, &redirect::origin(&self.redirect_uri), &fields);
        }
        let mut response = respond::empty(StatusCode::FOUND);
        respond::set(response.headers_mut(), header::LOCATION, &to);
        respond::set(response.headers_mut(), header::CACHE_CONTROL, "no-store");
        response
    }
}
