//! Tokens for people: what a client gets for a code, a device code, a refresh token or a password.

use crate::identity::refusal::{Failure, Refusal, Subject};
use crate::identity::token::{self, Ask, Endpoint, OPENID_SCOPES};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use lazuli_arm::ArmError;
use lazuli_authz::token::{IdClaims, UserClaims};
use lazuli_engine::{Engine, Resumed, Session, SignInError};
use serde_json::{Value, json};

pub(crate) const AUTHORIZATION_CODE: &str = "authorization_code";
pub(crate) const REFRESH_TOKEN: &str = "refresh_token";
pub(crate) const PASSWORD: &str = "password";
pub(crate) const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// As v1 names it.
pub(crate) const DEVICE_CODE_V1: &str = "device_code";

/// What people are asked for where nothing else is: their own entry in the directory.
const GRAPH: &str = "https://graph.microsoft.com";

/// The answer to a grant of a person.
pub(crate) async fn redeem(ask: &Ask<'_>, directory: &Engine, grant: &str) -> Result<Value, Failure> {
    let (client, secret) = ask.client()?;
    let tenant = ask.named_tenant();
    let refuse = |e| Failure::of(e, Subject { tenant: ask.tenant, client: &client });
    let known = directory.interactive_client(tenant, &client).await.map_err(refuse)?;
    let shows = secret.is_some() || ask.form.get("client_assertion").is_some();
    if known.public && shows {
        return Err(Refusal::public_client().into());
    }
    if !known.public {
        ask.prove(&client, secret.as_deref(), grant).await?;
    }
    let resumed = resume(ask, directory, grant, &known.id).await.map_err(|e| match e {
        Stop::Refused(refusal) => refusal.into(),
        Stop::SignIn(error) => refuse(error),
    })?;
    let scope = ask.form.get("scope").unwrap_or(&resumed.session.scope);
    let resource = audience(Some(scope), ask.form.get("resource"))?;
    ask.require_resource(&resource)?;
    answer(ask, directory, &resumed, scope, &resource).await
}

enum Stop {
    Refused(Refusal),
    SignIn(SignInError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<SignInError> for Stop {
    fn from(error: SignInError) -> Self {
        Self::SignIn(error)
    }
}

async fn resume(ask: &Ask<'_>, directory: &Engine, grant: &str, client: &str) -> Result<Resumed, Stop> {
    let tenant = ask.named_tenant();
    Ok(match grant {
        AUTHORIZATION_CODE => {
            let code = ask.form.require("code")?;
            let (redirect, verifier) = (ask.form.get("redirect_uri"), ask.form.get("code_verifier"));
            directory.redeem_code(tenant, client, code, redirect, verifier).await?
        }
        REFRESH_TOKEN => directory.redeem_refresh_token(tenant, client, ask.form.require("refresh_token")?).await?,
        PASSWORD => {
            let (login, password) = (ask.form.require("username")?, ask.form.require("password")?);
            let person = directory.sign_in_user(tenant, login, password).await?;
            let scope = ask.form.get("scope").unwrap_or_default();
            let session = Session::begin(&person.home.tenant, &person.home.principal, client, scope);
            Resumed { session, caller: person.caller, login: person.login }
        }
        // MSAL sends both names.
        _ => {
            let code = ask.form.get("device_code").or(ask.form.get("code"));
            directory.redeem_device(client, code.ok_or_else(|| Refusal::missing("device_code"))?).await?
        }
    })
}

async fn answer(
    ask: &Ask<'_>,
    directory: &Engine,
    resumed: &Resumed,
    scope: &str,
    resource: &str,
) -> Result<Value, Failure> {
    let Resumed { session, caller, login } = resumed;
    let mut claims = ask.claims(caller, &session.client_id, resource);
    claims.user = Some(UserClaims::new(&caller.display_name, login));
    let token = ask.sign(&claims).await?;
    let lifetime = ask.app.tokens.lifetime.as_secs();
    let mut body = token::answer(ask.endpoint, &claims, lifetime, &token);
    let asked = |word: &str| scope.split_ascii_whitespace().any(|s| s == word);
    let v1 = ask.endpoint == Endpoint::V1;
    body["scope"] = match v1 {
        true => json!("user_impersonation"),
        // MSAL finds a token by the words that it asked for and was given.
        false => json!(format!("{resource}/user_impersonation {resource}/.default")),
    };
    if v1 || asked("offline_access") {
        let refresh = directory.issue_refresh_token(session).await;
        let refresh =
            refresh.map_err(|e| Failure::of(e, Subject { tenant: ask.tenant, client: &session.client_id }))?;
        body["refresh_token"] = json!(refresh);
    }
    if v1 || asked("openid") {
        let id = IdClaims {
            aud: session.client_id.clone(),
            iss: claims.iss.clone(),
            iat: claims.iat,
            nbf: claims.nbf,
            exp: claims.exp,
            sub: caller.principal.clone(),
            oid: caller.principal.clone(),
            tid: caller.tenant.clone(),
            name: caller.display_name.clone(),
            preferred_username: login.clone(),
            upn: login.clone(),
            ver: claims.ver,
            nonce: session.nonce.clone(),
        };
        let key = ask.app.tokens.keys.signer().await.map_err(Failure::Internal)?;
        let id = key.sign_id(&id).map_err(|e| Failure::Internal(ArmError::internal(e)))?;
        body["id_token"] = json!(id);
    }
    // Clients know people by this: one account, in whichever tenants it is a guest.
    let info = json!({"uid": session.principal, "utid": session.tenant});
    body["client_info"] = json!(BASE64_URL_SAFE_NO_PAD.encode(info.to_string()));
    Ok(body)
}

/// The one resource that a person's scopes are of: `{resource}/.default`, `{resource}/user_impersonation`, or plain words of
/// Graph's (`User.Read`).
pub(crate) fn audience(scope: Option<&str>, resource: Option<&str>) -> Result<String, Refusal> {
    let scope = scope.unwrap_or_default();
    let mut found: Option<&str> = None;
    for word in scope.split_ascii_whitespace().filter(|s| !OPENID_SCOPES.contains(s)) {
        let of = if word.contains("://") { word.rsplit_once('/').map_or(word, |(of, _)| of) } else { GRAPH };
        if found.is_some_and(|f| !lazuli_authz::token::same_resource(f, of)) {
            return Err(Refusal::several_resources(scope));
        }
        found = found.or(Some(of));
    }
    Ok(found.or(resource).unwrap_or(GRAPH).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_one_resource_are_taken() {
        let of = |scope: &str| audience(Some(scope), None);
        assert_eq!(of("https://localhost:1//.default offline_access openid").unwrap(), "https://localhost:1/");
        assert_eq!(of("https://management.azure.com/user_impersonation").unwrap(), "https://management.azure.com");
        assert_eq!(of("User.Read openid").unwrap(), GRAPH);
        assert_eq!(of("openid profile").unwrap(), GRAPH);
        assert_eq!(of("https://a//x https://A/y").unwrap(), "https://a/");
        assert_eq!(of("https://a/x https://b/y").unwrap_err().code, 28000);
        assert_eq!(audience(None, Some("https://management.azure.com/")).unwrap(), "https://management.azure.com/");
    }
}
