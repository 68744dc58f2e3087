//! The token endpoints, v1 and v2: clients on their own account (client credentials), and for people who signed in (codes, device
//! codes, refresh tokens, passwords).

use crate::app::App;
use crate::context::Context;
use crate::identity::refusal::{Failure, Refusal, Subject};
use crate::identity::{self, openid, person};
use crate::respond::{self, Reply};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use lazuli_arm::ArmError;
use lazuli_authz::token::Grant;
use lazuli_authz::{Claims, TokenVersion};
use lazuli_engine::ClientProof;
use lazuli_engine::call::Caller;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Which of the two answers a client understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    V1,
    V2,
}

impl Endpoint {
    pub(crate) fn version(self) -> TokenVersion {
        match self {
            Self::V1 => TokenVersion::V1,
            Self::V2 => TokenVersion::V2,
        }
    }
}

/// The fields of a form. Never shown: they hold secrets.
pub(crate) struct Form(HashMap<String, String>);

impl Form {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(bytes).into_owned().collect())
    }

    /// Empty fields count as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    pub(crate) fn require(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal::missing(name))
    }
}

/// One request that is sent as a form.
pub(crate) struct Ask<'a> {
    pub app: &'a App,
    pub context: &'a Context,
    /// As it was written.
    pub tenant: &'a str,
    pub endpoint: Endpoint,
    pub form: Form,
}

/// `POST /{tenant}/oauth2[/v2.0]/token`
pub(crate) async fn issue(ask: &Ask<'_>) -> Reply {
    let answered = ask.answer().await;
    answered.unwrap_or_else(|failure| ask.refuse(failure))
}

impl Ask<'_> {
    pub(crate) fn refuse(&self, failure: Failure) -> Reply {
        match failure {
            Failure::Refused(refusal) => {
                tracing::info!(tenant = self.tenant, code = refusal.code, "sign-in refused");
                refusal.reply(self.context)
            }
            Failure::Internal(error) => respond::error(&error),
        }
    }

    async fn answer(&self) -> Result<Reply, Failure> {
        let grant = self.form.require("grant_type")?;
        let body = match (grant, &self.app.directory) {
            ("client_credentials", _) => self.client_credentials().await?,
            (person::AUTHORIZATION_CODE | person::REFRESH_TOKEN | person::PASSWORD, Some(directory)) => {
                person::redeem(self, directory, grant).await?
            }
            (person::DEVICE_CODE_V1 | person::DEVICE_CODE, Some(directory)) => {
                person::redeem(self, directory, person::DEVICE_CODE).await?
            }
            _ => return Err(Refusal::unsupported_grant(grant).into()),
        };
        Ok(respond::json(StatusCode::OK, &body))
    }

    /// The tenant that the address names; `None` for a name that stands for any.
    pub(crate) fn named_tenant(&self) -> Option<&str> {
        let shared = openid::is_shared(self.tenant) || self.tenant.eq_ignore_ascii_case("adfs");
        (!shared).then_some(self.tenant)
    }

    /// The tenant that a client of its own account means.
    fn client_tenant(&self) -> &str {
        self.named_tenant().or(self.app.tokens.home_tenant.as_deref()).unwrap_or(self.tenant)
    }

    pub(crate) fn require_resource(&self, resource: &str) -> Result<(), Refusal> {
        let arm = identity::arm_audiences(&self.app.own.bases(), self.context);
        if identity::is_known_resource(resource, &arm) {
            return Ok(());
        }
        Err(Refusal::unknown_resource(resource, self.client_tenant()))
    }

    async fn client_credentials(&self) -> Result<Value, Failure> {
        let (client, secret) = self.client()?;
        if secret.is_none() && self.form.get("client_assertion").is_none() {
            return Err(Refusal::no_secret().into());
        }
        let resource = audience(self.form.get("scope"), self.form.get("resource"))?;
        self.require_resource(&resource)?;
        let caller = self.prove(&client, secret.as_deref(), &resource).await?;
        let claims = self.claims(&caller, &caller.app_id, &resource);
        let token = self.sign(&claims).await?;
        Ok(answer(self.endpoint, &claims, self.app.tokens.lifetime.as_secs(), &token))
    }

    /// The client, by its assertion or its secret.
    pub(crate) async fn prove(&self, client: &str, secret: Option<&str>, resource: &str) -> Result<Caller, Failure> {
        let tenant = self.client_tenant();
        let audiences = self.assertion_audiences();
        let proof = match (self.form.get("client_assertion"), secret) {
            (Some(jwt), _) => {
                if self.form.get("client_assertion_type") != Some(JWT_BEARER) {
                    let message = format!("The parameter 'client_assertion_type' must be '{JWT_BEARER}'.");
                    return Err(Refusal::invalid(50027, message).into());
                }
                ClientProof::Assertion { jwt, audiences: &audiences, resource }
            }
            (None, Some(secret)) => ClientProof::Secret(secret),
            (None, None) => return Err(Refusal::no_secret().into()),
        };
        let proved = self.app.backend.sign_in_client(tenant, client, proof).await;
        proved.map_err(|e| Failure::of(e, Subject { tenant, client }))
    }

    /// Names of this endpoint that an assertion may be meant for: the token endpoints and issuers of the tenant as it was written.
    fn assertion_audiences(&self) -> Vec<String> {
        let mut authorities = vec![self.context.authority()];
        authorities.extend(self.app.own.bases());
        let mut tenants = vec![self.tenant, self.client_tenant()];
        tenants.dedup();
        let mut all = Vec::new();
        for (authority, tenant) in authorities.iter().flat_map(|a| tenants.iter().map(move |t| (a, t))) {
            for path in ["oauth2/token", "oauth2/v2.0/token", "v2.0", ""] {
                all.push(format!("{authority}/{tenant}/{path}"));
            }
        }
        all
    }

    /// The claims of an access token.
    pub(crate) fn claims(&self, caller: &Caller, app_id: &str, audience: &str) -> Claims {
        Claims::new(&Grant {
            authority: &self.context.authority(),
            audience,
            tenant: &caller.tenant,
            app_id,
            object_id: &caller.principal,
            version: self.endpoint.version(),
            now: identity::now_seconds(),
            lifetime_seconds: self.app.tokens.lifetime.as_secs(),
        })
    }

    pub(crate) async fn sign(&self, claims: &Claims) -> Result<String, Failure> {
        let key = self.app.tokens.keys.signer().await.map_err(Failure::Internal)?;
        key.sign(claims).map_err(|e| Failure::Internal(ArmError::internal(e)))
    }

    /// Client id and secret, from the form or from HTTP Basic. An assertion names its client itself.
    pub(crate) fn client(&self) -> Result<(String, Option<String>), Refusal> {
        if let Some((id, secret)) = basic(self.context) {
            return Ok((id, Some(secret)));
        }
        let of_assertion = || self.form.get("client_assertion").and_then(lazuli_authz::assertion::claimed_client);
        let id = self.form.get("client_id").map(str::to_owned).or_else(of_assertion);
        let id = id.ok_or_else(|| Refusal::missing("client_id"))?;
        Ok((id, self.form.get("client_secret").map(str::to_owned)))
    }
}

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// v1 clients (go-autorest) expect numbers as text, v2 clients as numbers.
pub(crate) fn answer(endpoint: Endpoint, claims: &Claims, lifetime: u64, token: &str) -> Value {
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

/// Words of `scope` that are no resource.
pub(crate) const OPENID_SCOPES: [&str; 4] = ["openid", "profile", "offline_access", "email"];

/// The resource that is asked for: `scope` is `{resource}/.default`, so `https://h//.default` means `https://h/`.
fn audience(scope: Option<&str>, resource: Option<&str>) -> Result<String, Refusal> {
    let Some(scope) = scope else {
        let resource = resource.ok_or_else(|| Refusal::missing("scope"))?;
        return Ok(resource.strip_suffix("/.default").unwrap_or(resource).to_owned());
    };
    let mut resources =
        scope.split_ascii_whitespace().filter(|s| !OPENID_SCOPES.contains(s)).map(|s| s.strip_suffix("/.default"));
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
