//! Sign-in at another OpenID provider: the links on the pages, the way there and the way back.
//!
//! A cookie binds the way back to the browser that went: it signs nobody in, and without it an address that somebody else began would
//! sign a person in to that somebody's program.

use crate::app::App;
use crate::context::Context;
use crate::identity::refusal::{Failure, Subject};
use crate::identity::token::{Ask, Endpoint, Form};
use crate::identity::{authorize, page};
use crate::net::hosts::Service;
use crate::respond::{self, Reply};
use http::{StatusCode, header};
use lazuli_arm::ArmError;
use lazuli_engine::{Engine, ExternalAnswer, SignInError, SignedIn};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Sent over TLS to this host alone, and along when the provider sends the browser back.
const COOKIE: &str = "__Host-lazuli-sign-in";
const COOKIE_SECONDS: u32 = 3600;
/// Below the server's own name; what is registered with the provider.
const CALLBACK: &str = "/common/oauth2/external";

/// The server's name for browsers: Azure's lead to it through the proxy only.
pub(crate) fn browser_base(app: &App, context: &Context) -> String {
    match context.service {
        Service::Own => context.base.clone(),
        _ => app.own.base(),
    }
}

/// What is to be done when the person is back.
pub(crate) enum GoesOn {
    Authorize { tenant: String, v1: bool, query: BTreeMap<String, String> },
    Device,
}

impl GoesOn {
    pub(crate) fn authorize(ask: &Ask<'_>) -> Self {
        let mut query = ask.context.query.clone();
        query.remove("provider");
        Self::Authorize { tenant: ask.tenant.to_owned(), v1: ask.endpoint == Endpoint::V1, query }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Device => json!({"to": "device"}),
            Self::Authorize { tenant, v1, query } => {
                json!({"to": "authorize", "tenant": tenant, "v1": v1, "query": query})
            }
        }
    }

    fn of_value(value: &Value) -> Option<Self> {
        match value["to"].as_str()? {
            "device" => Some(Self::Device),
            "authorize" => Some(Self::Authorize {
                tenant: value["tenant"].as_str()?.to_owned(),
                v1: value["v1"].as_bool()?,
                query: serde_json::from_value(value["query"].clone()).ok()?,
            }),
            _ => None,
        }
    }
}

/// The secret that a browser was given, or nothing.
pub(crate) fn browser(context: &Context) -> String {
    let cookies = context.header("cookie").unwrap_or_default();
    let own = cookies.split(';').filter_map(|c| c.trim().split_once('=')).find(|(name, _)| *name == COOKIE);
    own.map(|(_, value)| value).filter(|value| is_secret(value)).unwrap_or_default().to_owned()
}

/// As the engine makes secrets.
fn is_secret(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// The providers for a page that was asked for.
pub(crate) async fn links(ask: &Ask<'_>, directory: &Engine, tenant: Option<&str>) -> Vec<page::Link> {
    let offered = match directory.offered_providers(tenant).await {
        Ok(offered) => offered,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the identity providers are not known");
            return vec![];
        }
    };
    let base = browser_base(ask.app, ask.context);
    let link = |name: String| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(ask.context.query.iter().filter(|(name, _)| *name != "provider"));
        let query = query.append_pair("provider", &name).finish();
        format!("{base}{}?{query}", ask.context.raw_path)
    };
    offered.into_iter().map(|p| page::Link { to: link(p.name), name: p.display_name }).collect()
}

/// Sends the browser to a provider.
pub(crate) async fn begin(ask: &Ask<'_>, directory: &Engine, provider: &str, goes_on: &GoesOn) -> Reply {
    let base = browser_base(ask.app, ask.context);
    // The cookie is of the name by which the browser comes back.
    if ask.context.service != Service::Own {
        let to = format!("{base}{}?{}", ask.context.raw_path, ask.context.raw_query);
        return found(&to);
    }
    match try_begin(ask, directory, provider, goes_on, &base).await {
        Ok(reply) => reply,
        Err(error) => authorize::shown(ask, Failure::of(error, Subject { tenant: ask.tenant, client: "" })),
    }
}

async fn try_begin(
    ask: &Ask<'_>,
    directory: &Engine,
    provider: &str,
    goes_on: &GoesOn,
    base: &str,
) -> Result<Reply, SignInError> {
    let secret = match browser(ask.context) {
        none if none.is_empty() => lazuli_engine::generate_secret()?,
        secret => secret,
    };
    let callback = format!("{base}{CALLBACK}");
    let goes_on = goes_on.to_value();
    let to = directory.begin_external(provider, ask.named_tenant(), &callback, &secret, goes_on).await?;
    let mut reply = found(&to);
    let cookie = format!("{COOKIE}={secret}; Path=/; Max-Age={COOKIE_SECONDS}; Secure; HttpOnly; SameSite=Lax");
    respond::set(reply.headers_mut(), header::SET_COOKIE, &cookie);
    Ok(reply)
}

fn found(to: &str) -> Reply {
    let mut reply = respond::empty(StatusCode::FOUND);
    respond::set(reply.headers_mut(), header::LOCATION, to);
    respond::set(reply.headers_mut(), header::CACHE_CONTROL, "no-store");
    respond::set(reply.headers_mut(), header::REFERRER_POLICY, "no-referrer");
    reply
}

/// `GET /common/oauth2/external?code=…&state=…`: the browser is back.
pub(crate) async fn finish(app: &App, context: &Context, directory: &Engine) -> Reply {
    let refused = |error: SignInError| {
        let failure = Failure::of(error, Subject { tenant: "common", client: "" });
        authorize::shown(&ask_of(app, context, "common", Endpoint::V2), failure)
    };
    let field = |name: &str| context.query.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let answer =
        ExternalAnswer { state: field("state"), code: field("code"), issuer: field("iss"), error: field("error") };
    let secret = browser(context);
    let back = match directory.finish_external(&answer, &secret).await {
        Ok(back) => back,
        Err(error) => return refused(error),
    };
    match GoesOn::of_value(&back.goes_on) {
        Some(GoesOn::Authorize { tenant, v1, query }) => {
            let endpoint = if v1 { Endpoint::V1 } else { Endpoint::V2 };
            authorize::go_on(&ask_of(app, context, &tenant, endpoint), &query, directory, &back.person).await
        }
        Some(GoesOn::Device) => match device(directory, &back.person, &secret).await {
            Ok(reply) => reply,
            Err(error) => refused(error),
        },
        None => respond::error(&ArmError::internal("a sign-in was begun for nothing")),
    }
}

fn ask_of<'a>(app: &'a App, context: &'a Context, tenant: &'a str, endpoint: Endpoint) -> Ask<'a> {
    Ask { app, context, tenant, endpoint, form: Form::parse(&[]) }
}

async fn device(directory: &Engine, person: &SignedIn, secret: &str) -> Result<Reply, SignInError> {
    let proof = directory.issue_proof(person, secret).await?;
    Ok(page::device_of(StatusCode::OK, "", &person.login, &proof, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_read_as_it_was_written() {
        let query = BTreeMap::from([("state".to_owned(), "a&b".to_owned())]);
        let begun = GoesOn::Authorize { tenant: "t".into(), v1: true, query: query.clone() };
        let Some(GoesOn::Authorize { tenant, v1, query: read }) = GoesOn::of_value(&begun.to_value()) else { panic!() };
        assert_eq!((tenant.as_str(), v1, read), ("t", true, query));
        assert!(matches!(GoesOn::of_value(&GoesOn::Device.to_value()), Some(GoesOn::Device)));
        assert!(GoesOn::of_value(&json!({"to": "elsewhere"})).is_none());
    }

    #[test]
    fn only_what_looks_like_a_secret_is_one() {
        assert!(is_secret(&"a".repeat(43)) && !is_secret("") && !is_secret(&"a b".repeat(15)));
    }
}
