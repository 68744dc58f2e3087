//! Device codes: the endpoint that gives them out, and the page on which people enter them.

use crate::identity::refusal::{Failure, Refusal, Subject};
use crate::identity::token::{Ask, Endpoint};
use crate::identity::{external, page, person};
use crate::respond::{self, Reply};
use http::{Method, StatusCode};
use lazuli_engine::{DEVICE_CODE_LIFE_SECONDS, Engine, POLL_INTERVAL_SECONDS};
use serde_json::{Value, json};

/// `POST /{tenant}/oauth2[/v2.0]/devicecode`
pub(crate) async fn start(ask: &Ask<'_>, directory: &Engine) -> Reply {
    match issue(ask, directory).await {
        Ok(body) => respond::json(StatusCode::OK, &body),
        Err(failure) => ask.refuse(failure),
    }
}

async fn issue(ask: &Ask<'_>, directory: &Engine) -> Result<Value, Failure> {
    let client = ask.form.require("client_id")?;
    let refuse = |e| Failure::of(e, Subject { tenant: ask.tenant, client });
    let known = directory.interactive_client(ask.named_tenant(), client).await.map_err(refuse)?;
    if !known.public {
        let message = "Only clients that keep no secret may use device codes: make the application a public client.";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "invalid_client", 7_000_218, message).into());
    }
    let scope = ask.form.get("scope").unwrap_or_default();
    let resource = person::audience(Some(scope), ask.form.get("resource"))?;
    ask.require_resource(&resource)?;
    let codes = directory.start_device(ask.named_tenant(), &known.id, scope).await.map_err(refuse)?;
    let uri = format!("{}/devicelogin", external::browser_base(ask.app, ask.context));
    let mut body = json!({
        "user_code": codes.user_code,
        "device_code": codes.device_code,
        "verification_uri": uri,
        "expires_in": DEVICE_CODE_LIFE_SECONDS,
        "interval": POLL_INTERVAL_SECONDS,
        "message": format!(
            "To sign in, use a web browser to open the page {uri} and enter the code {} to authenticate.", codes.user_code
        ),
    });
    if ask.endpoint == Endpoint::V1 {
        body["verification_url"] = json!(uri);
        body["expires_in"] = json!(DEVICE_CODE_LIFE_SECONDS.to_string());
        body["interval"] = json!(POLL_INTERVAL_SECONDS.to_string());
    }
    Ok(body)
}

/// `/devicelogin`
pub(crate) async fn enter(ask: &Ask<'_>, directory: &Engine) -> Reply {
    if ask.context.method != Method::POST {
        if let Some(provider) = ask.context.query.get("provider") {
            return external::begin(ask, directory, provider, &external::GoesOn::Device).await;
        }
        let providers = external::links(ask, directory, None).await;
        return page::device(StatusCode::OK, "", "", None, &providers);
    }
    match decide(ask, directory).await {
        Ok(reply) => reply,
        Err(Failure::Refused(refusal)) => {
            tracing::info!(code = refusal.code, "device code refused");
            let (code, login) = (ask.form.get("code").unwrap_or_default(), ask.form.get("login").unwrap_or_default());
            if let Some(proof) = ask.form.get("proof")
                && let Ok(person) = directory.person_of_proof(proof, &external::browser(ask.context)).await
            {
                return page::device_of(refusal.status, code, &person.login, proof, Some(&refusal.message));
            }
            let providers = external::links(ask, directory, None).await;
            page::device(refusal.status, code, login, Some(&refusal.message), &providers)
        }
        Err(Failure::Internal(error)) => respond::error(&error),
    }
}

async fn decide(ask: &Ask<'_>, directory: &Engine) -> Result<Reply, Failure> {
    let code = ask.form.require("code")?;
    let refuse = |e| Failure::of(e, Subject { tenant: ask.tenant, client: "" });
    let (proof, browser) = (ask.form.get("proof"), external::browser(ask.context));
    let person = match proof {
        Some(proof) => directory.person_of_proof(proof, &browser).await,
        None => {
            let (login, password) = (ask.form.require("login")?, ask.form.require("password")?);
            let tenant = directory.device_tenant(code).await;
            directory.sign_in_user(tenant.as_deref(), login, password).await
        }
    };
    let person = person.map_err(refuse)?;
    let approved = ask.form.get("decision") != Some("decline");
    let client = directory.decide_device(code, &person, approved).await.map_err(refuse)?;
    if let Some(proof) = proof {
        directory.end_proof(proof, &browser).await.map_err(refuse)?;
    }
    Ok(if approved {
        let text = format!("You have signed in to {client} on your device. You may now close this window.");
        page::message(StatusCode::OK, "Signed in", &text)
    } else {
        page::message(StatusCode::OK, "Declined", "Nobody was signed in. You may now close this window.")
    })
}
