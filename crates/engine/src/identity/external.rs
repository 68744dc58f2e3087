//! People who sign in at another OpenID provider (Keycloak, Entra), as the operator has configured it.
//!
//! ```text
//! browser ── "Sign in with X" ──> begin: a ticket, bound to the browser ──> the provider's page
//! browser <── code, state ─────── the provider
//! browser ── code, state ──> finish: the ticket is taken once ── code, verifier ──> the provider's token endpoint
//!            id token (signature, issuer, audience, nonce, times) ── issuer + subject ──> a user of the tenant
//! ```
//! A user is found by issuer and subject and by nothing else: a name or an e-mail address that a provider tells opens no account that
//! is here already. The ticket's verifier and nonce are sealed. Must never: follow a provider to an address that is not its own, or
//! tell it more than what a sign-in needs.

use super::issuers::{Discovered, IssuerError, plain};
use super::sessions::{ISSUED, USED};
use super::users::{self, USER};
use super::{BOOTSTRAPPED, SignInError, SignedIn, generate_secret, kept_as};
use crate::authorization::access::Access;
use crate::{Engine, db_error, now_ms};
use lazuli_arm::ArmError;
use lazuli_authz::federated::{self, IdTokenError, WantedIdToken};
use lazuli_authz::pkce;
use lazuli_meta::model::{Change, Conflict, Principal, Ticket, Write};
use lazuli_meta::{MetaError, WriteError};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const EXTERNAL: &str = "External";
const PROOF: &str = "Proof";
/// How long the provider's page may take.
const LIFE_MS: i64 = 15 * 60 * 1000;
/// How long somebody who came back may take to enter a code.
const PROOF_LIFE_MS: i64 = 10 * 60 * 1000;
/// So many are begun a minute, by all browsers together: nobody has signed in yet.
const MAX_STARTS: i64 = 300;

/// A provider, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityProvider {
    /// In addresses: letters, digits and dashes.
    pub name: String,
    /// On pages [default: the name]
    #[serde(default)]
    pub display_name: Option<String>,
    /// Whose people sign in there [default: the operator's tenant]
    #[serde(default)]
    pub tenant: Option<String>,
    /// `https://…`, exactly as the provider names itself.
    pub issuer: String,
    pub client_id: String,
    /// Where the secret is: `file:PATH` or `env:NAME`. None: a public client.
    #[serde(default)]
    pub client_secret: Option<String>,
    #[serde(default = "usual_scopes")]
    pub scopes: String,
    /// The claim that becomes the login of a new user [default: preferred_username, else email]
    #[serde(default)]
    pub login_claim: Option<String>,
    /// Whether somebody who is not known yet becomes a user. Else the operator makes or links them first.
    #[serde(default)]
    pub create_users: bool,
}

fn usual_scopes() -> String {
    "openid profile email".to_owned()
}

/// Why a provider cannot be used as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the identity provider '{name}' cannot be used: {why}")]
pub struct ProviderError {
    pub name: String,
    pub why: String,
}

impl IdentityProvider {
    fn shown_name(&self) -> &str {
        self.display_name.as_deref().unwrap_or(&self.name)
    }

    fn check(&self, others: &[Self], plain_issuers: &[String]) -> Result<(), String> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if self.name.is_empty() || self.name.len() > 40 || !self.name.bytes().all(word) {
            return Err("its name must be of letters, digits and dashes".to_owned());
        }
        if others.iter().any(|o| o.name.eq_ignore_ascii_case(&self.name)) {
            return Err("another one has the same name".to_owned());
        }
        if !super::issuers::is_issuer(&self.issuer, plain_issuers) {
            return Err(IssuerError::NotAllowed.to_string());
        }
        if !self.scopes.split_ascii_whitespace().any(|s| s == "openid") {
            return Err("its scopes must have 'openid' among them".to_owned());
        }
        self.secret().map(drop)
    }

    /// The secret, read anew each time, so that it can be replaced.
    fn secret(&self) -> Result<Option<String>, String> {
        let text = match self.client_secret.as_deref().map(|s| (s, s.split_once(':'))) {
            None => return Ok(None),
            Some((_, Some(("file", path)))) => {
                std::fs::read_to_string(path).map_err(|e| format!("its client_secret, {path}, cannot be read: {e}"))?
            }
            Some((_, Some(("env", name)))) => std::env::var(name)
                .map_err(|_| format!("its client_secret: there is no variable {name} in the environment"))?,
            Some(_) => return Err("its client_secret must be file:PATH or env:NAME".to_owned()),
        };
        Ok(Some(text.trim().to_owned()))
    }
}

/// Why nobody was signed in. The texts hold nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExternalError {
    #[error("there is no identity provider of this name for the tenant")]
    Unknown,
    #[error("the sign-in was not begun by this browser, was finished before, or took too long")]
    State,
    #[error("the answer is another provider's")]
    OtherProvider,
    #[error("the identity provider answered: {0}")]
    Provider(String),
    #[error("the identity provider cannot be used: {0}")]
    Unreachable(#[from] IssuerError),
    #[error("the identity provider's answer cannot be used: {0}")]
    IdToken(#[from] IdTokenError),
    #[error("the identity provider tells no usable name of the person")]
    NoLogin,
    #[error("'{login}' of '{provider}' is no user here")]
    NotAdmitted { login: String, provider: String },
    #[error("another user is named '{login}' already; '{provider}' does not open that account")]
    LoginTaken { login: String, provider: String },
    #[error("too many sign-ins are begun")]
    TooMany,
}

/// A provider that a page offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedProvider {
    pub name: String,
    pub display_name: String,
}

/// What the provider sent the browser back with.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExternalAnswer<'a> {
    pub state: Option<&'a str>,
    pub code: Option<&'a str>,
    /// Who answers (RFC 9207).
    pub issuer: Option<&'a str>,
    pub error: Option<&'a str>,
}

/// Somebody came back.
#[derive(Debug, Clone)]
pub struct ExternalSignIn {
    pub person: SignedIn,
    /// What the sign-in was begun for.
    pub goes_on: Value,
}

/// What a ticket keeps, sealed.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    provider: String,
    redirect_uri: String,
    verifier: String,
    nonce: String,
    goes_on: Value,
}

/// Who somebody is to a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outside {
    issuer: String,
    subject: String,
    login: String,
    display_name: String,
}

/// Where identities of other issuers are kept in a user's body.
const IDENTITIES: &str = "externalIdentities";

fn outside(provider: &IdentityProvider, claims: &Map<String, Value>) -> Result<Outside, ExternalError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(ExternalError::NoLogin)?;
    let told = match &provider.login_claim {
        Some(claim) => text(claim),
        None => text("preferred_username").or_else(|| text("email")),
    };
    let told = told.ok_or(ExternalError::NoLogin)?;
    let login = match users::normal(told) {
        // A plain name becomes one of this provider.
        name if !name.contains('@') => format!("{name}@{}", provider.name.to_ascii_lowercase()),
        login => login,
    };
    if !users::is_login(&login) {
        return Err(ExternalError::NoLogin);
    }
    let display_name = text("name").unwrap_or(told).chars().filter(|c| !c.is_control()).take(256).collect();
    Ok(Outside { issuer: provider.issuer.clone(), subject: subject.to_owned(), login, display_name })
}

fn is_known_as(principal: &Principal, issuer: &str, subject: &str) -> bool {
    let identities = principal.body[IDENTITIES].as_array().into_iter().flatten();
    let same = |i: &Value| i["issuer"] == issuer && i["subject"] == subject;
    principal.kind == USER && identities.into_iter().any(same)
}

/// The user of a tenant whom an issuer knows by this subject.
pub(super) fn user_of<'a>(
    all: impl Iterator<Item = &'a Principal>,
    tenant: &str,
    issuer: &str,
    subject: &str,
) -> Option<&'a Principal> {
    let mut all = all.filter(|p| p.tenant.eq_ignore_ascii_case(tenant));
    all.find(|p| is_known_as(p, issuer, subject))
}

/// Adds an identity to a user, or takes it away.
pub(super) fn link(user: &mut Principal, issuer: &str, subject: &str, linked: bool) {
    let mut all: Vec<Value> = user.body[IDENTITIES].as_array().cloned().unwrap_or_default();
    all.retain(|i| i["issuer"] != issuer || i["subject"] != subject);
    if linked {
        all.push(json!({"issuer": issuer, "subject": subject}));
    }
    user.body[IDENTITIES] = json!(all);
}

/// What is to be done with somebody whom a provider vouches for.
#[derive(Debug, PartialEq)]
enum Admission {
    Known(Principal),
    /// Is to be stored.
    New(Principal),
}

fn admission(
    access: &Access,
    provider: &IdentityProvider,
    tenant: &str,
    who: &Outside,
) -> Result<Admission, ExternalError> {
    if let Some(known) = user_of(access.principals.values(), tenant, &who.issuer, &who.subject) {
        return Ok(Admission::Known(known.clone()));
    }
    let (login, shown) = (who.login.clone(), provider.shown_name().to_owned());
    if !provider.create_users {
        return Err(ExternalError::NotAdmitted { login, provider: shown });
    }
    if access.principals.values().any(|p| p.tenant.eq_ignore_ascii_case(tenant) && p.login == login) {
        return Err(ExternalError::LoginTaken { login, provider: shown });
    }
    Ok(Admission::New(new_user(tenant, &login, &who.display_name, &who.issuer, &who.subject)))
}

/// A user whom another provider signs in.
pub(super) fn new_user(tenant: &str, login: &str, display_name: &str, issuer: &str, subject: &str) -> Principal {
    let mut made = Principal {
        id: Uuid::new_v4().to_string(),
        tenant: tenant.to_owned(),
        app_id: String::new(),
        display_name: display_name.to_owned(),
        kind: USER.to_owned(),
        // No password opens it.
        secret_hash: String::new(),
        login: login.to_owned(),
        body: json!({"accountEnabled": true, "createdMs": now_ms()}),
    };
    link(&mut made, issuer, subject, true);
    made
}

fn context(id: &str) -> String {
    format!("external sign-in {id}")
}

fn of_meta(error: MetaError) -> SignInError {
    db_error(error).into()
}

impl Engine {
    /// Whether every provider can be used as it is configured.
    ///
    /// # Errors
    /// [`ProviderError`] of the first that cannot.
    pub fn check_identity_providers(&self) -> Result<(), ProviderError> {
        let all = &self.config().identity_providers;
        all.iter().enumerate().try_for_each(|(n, provider)| {
            let checked = provider.check(&all[..n], &self.config().http_issuers);
            checked.map_err(|why| ProviderError { name: provider.name.clone(), why })
        })
    }

    async fn tenant_of_provider(&self, provider: &IdentityProvider) -> Result<String, ArmError> {
        match &provider.tenant {
            Some(tenant) => Ok(tenant.to_ascii_lowercase()),
            None => Ok(self.db().setting(BOOTSTRAPPED).await.map_err(db_error)?.unwrap_or_default()),
        }
    }

    /// The providers that people of a tenant may sign in at; `None`: of any tenant.
    ///
    /// # Errors
    /// What the database says.
    pub async fn offered_providers(&self, tenant: Option<&str>) -> Result<Vec<OfferedProvider>, ArmError> {
        let mut offered = Vec::new();
        for provider in &self.config().identity_providers {
            let of = self.tenant_of_provider(provider).await?;
            if tenant.is_none_or(|t| t.eq_ignore_ascii_case(&of)) {
                let display_name = provider.shown_name().to_owned();
                offered.push(OfferedProvider { name: provider.name.clone(), display_name });
            }
        }
        Ok(offered)
    }

    async fn provider_named(
        &self,
        name: &str,
        tenant: Option<&str>,
    ) -> Result<(&IdentityProvider, String), SignInError> {
        let found = self.config().identity_providers.iter().find(|p| p.name.eq_ignore_ascii_case(name));
        let found = found.ok_or(ExternalError::Unknown)?;
        let of = self.tenant_of_provider(found).await?;
        if tenant.is_some_and(|t| !t.eq_ignore_ascii_case(&of)) {
            return Err(ExternalError::Unknown.into());
        }
        Ok((found, of))
    }

    /// Begins a sign-in; the address of the provider to send the browser to. `browser`: a secret that this browser alone holds.
    /// `goes_on` is given back when it is finished.
    ///
    /// # Errors
    /// [`SignInError::External`].
    pub async fn begin_external(
        &self,
        name: &str,
        tenant: Option<&str>,
        redirect_uri: &str,
        browser: &str,
        goes_on: Value,
    ) -> Result<String, SignInError> {
        let (provider, _) = self.provider_named(name, tenant).await?;
        let now = now_ms();
        if self.db().count_guess("external sign-ins", now, now + 60_000).await.map_err(of_meta)? > MAX_STARTS {
            return Err(ExternalError::TooMany.into());
        }
        let discovered = self.issuers().provider(&provider.issuer).await.map_err(ExternalError::from)?;
        let (state, verifier, nonce) = (generate_secret()?, generate_secret()?, generate_secret()?);
        let url = authorization_url(provider, &discovered, redirect_uri, &state, &nonce, &verifier)?;
        let id = kept_as(EXTERNAL, &state);
        let begun =
            Begun { provider: provider.name.clone(), redirect_uri: redirect_uri.to_owned(), verifier, nonce, goes_on };
        let begun = serde_json::to_string(&begun).map_err(ArmError::internal)?;
        let ticket = Ticket {
            kind: EXTERNAL.to_owned(),
            session: Uuid::new_v4().to_string(),
            state: ISSUED.to_owned(),
            expires_ms: now + LIFE_MS,
            body: json!({"begun": self.secrets().seal(&context(&id), &begun)?, "browser": kept_as("Browser", browser)}),
            id,
        };
        self.db().put_ticket(&ticket, now).await.map_err(of_meta)?;
        Ok(url)
    }

    /// The ticket of what a browser shows, if it is that browser's and not used up.
    async fn ticket_of(&self, kind: &str, shown: &str, browser: &str) -> Result<Ticket, SignInError> {
        let ticket = self.db().ticket(&kept_as(kind, shown)).await.map_err(of_meta)?;
        let own = |t: &Ticket| {
            t.kind == kind
                && t.state == ISSUED
                && t.expires_ms > now_ms()
                && t.body["browser"] == kept_as("Browser", browser)
        };
        Ok(ticket.filter(own).ok_or(ExternalError::State)?)
    }

    async fn use_up(&self, ticket: Ticket) -> Result<(), SignInError> {
        let used = Ticket { state: USED.to_owned(), ..ticket };
        if self.db().move_ticket(ISSUED, &used).await.map_err(of_meta)? {
            Ok(())
        } else {
            Err(ExternalError::State.into())
        }
    }

    /// Who came back from a provider.
    ///
    /// # Errors
    /// [`SignInError::External`], [`SignInError::Disabled`].
    pub async fn finish_external(
        &self,
        answer: &ExternalAnswer<'_>,
        browser: &str,
    ) -> Result<ExternalSignIn, SignInError> {
        let ticket = self.ticket_of(EXTERNAL, answer.state.unwrap_or_default(), browser).await?;
        let begun = self.secrets().unseal(&context(&ticket.id), ticket.body["begun"].as_str().unwrap_or_default())?;
        let begun: Begun = serde_json::from_str(&begun).map_err(ArmError::internal)?;
        // Whatever comes of it, it is taken once.
        self.use_up(ticket).await?;
        let (provider, tenant) = self.provider_named(&begun.provider, None).await?;
        let finished = self.judge_external(answer, &begun, provider, &tenant).await;
        match &finished {
            Ok(person) => {
                tracing::info!(provider = provider.name, principal = person.caller.principal, "signed in outside")
            }
            Err(error) => {
                tracing::warn!(
                    provider = provider.name,
                    error = error as &dyn std::error::Error,
                    "not signed in outside"
                );
            }
        }
        Ok(ExternalSignIn { person: finished?, goes_on: begun.goes_on })
    }

    async fn judge_external(
        &self,
        answer: &ExternalAnswer<'_>,
        begun: &Begun,
        provider: &IdentityProvider,
        tenant: &str,
    ) -> Result<SignedIn, SignInError> {
        let discovered = self.issuers().provider(&provider.issuer).await.map_err(ExternalError::from)?;
        require_own_answer(answer.issuer, &provider.issuer, &discovered)?;
        if let Some(word) = answer.error {
            return Err(ExternalError::Provider(plain(word)).into());
        }
        let code = answer.code.ok_or_else(|| ExternalError::Provider("no code".to_owned()))?;
        let claims = self.redeem_outside(code, begun, provider, &discovered).await?;
        let who = outside(provider, &claims)?;
        self.admit(provider, tenant, &who).await
    }

    /// What the provider says of the person for a code.
    async fn redeem_outside(
        &self,
        code: &str,
        begun: &Begun,
        provider: &IdentityProvider,
        discovered: &Discovered,
    ) -> Result<Map<String, Value>, SignInError> {
        let endpoint =
            discovered.token_endpoint.as_deref().ok_or(ExternalError::Unreachable(IssuerError::NotAllowed))?;
        let secret = provider.secret().map_err(ArmError::internal)?;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", begun.redirect_uri.as_str()),
            ("code_verifier", begun.verifier.as_str()),
        ];
        let (encoded_id, encoded_secret) = (form_text(&provider.client_id), secret.as_deref().map(form_text));
        let basic = match (&secret, &encoded_secret) {
            // RFC 6749 §2.3.1: both are form-encoded first.
            (Some(_), Some(encoded)) if !discovered.secret_in_form => Some((encoded_id.as_str(), encoded.as_str())),
            (secret, _) => {
                fields.push(("client_id", provider.client_id.as_str()));
                fields.extend(secret.as_deref().map(|s| ("client_secret", s)));
                None
            }
        };
        let tokens = self.issuers().exchange(endpoint, form(&fields), basic).await.map_err(|e| match e {
            IssuerError::Refused(word) => ExternalError::Provider(word),
            other => other.into(),
        })?;
        let jwt = tokens["id_token"].as_str().ok_or_else(|| ExternalError::Provider("no id token".to_owned()))?;
        let key_id = federated::claimed(jwt).map_err(|e| ExternalError::IdToken(e.into()))?.key_id;
        let known = self.issuers().keys(&provider.issuer, key_id.as_deref()).await.map_err(ExternalError::from)?;
        let wanted = WantedIdToken { issuer: &provider.issuer, client_id: &provider.client_id, nonce: &begun.nonce };
        let now = u64::try_from(now_ms() / 1000).unwrap_or(0);
        Ok(federated::verify_id_token(jwt, &known.keys, &wanted, now).map_err(ExternalError::from)?)
    }

    /// The user of an identity; made if the provider's people may become users.
    async fn admit(&self, provider: &IdentityProvider, tenant: &str, who: &Outside) -> Result<SignedIn, SignInError> {
        self.sign_in_tenant(tenant).await?;
        loop {
            let access = self.access().await?;
            let user = match admission(&access, provider, tenant, who)? {
                Admission::Known(user) if user.body["accountEnabled"] == false => return Err(SignInError::Disabled),
                Admission::Known(user) => user,
                Admission::New(user) => {
                    let changes =
                        vec![Change::RequireIdentity { changes: access.changes }, Change::PutPrincipal(user.clone())];
                    match self.db().write(Write { fence: None, changes }).await {
                        Ok(()) => user,
                        // Somebody changed identities meanwhile: it is decided anew.
                        Err(WriteError::Conflict(Conflict::Etag { .. } | Conflict::Exists { .. })) => continue,
                        Err(WriteError::Conflict(conflict)) => return Err(ArmError::internal(conflict).into()),
                        Err(WriteError::Db(error)) => return Err(of_meta(error)),
                    }
                }
            };
            return Ok(SignedIn::of(&user, &user));
        }
    }

    /// What a page holds of somebody who came back and has something to enter yet.
    ///
    /// # Errors
    /// What the database says.
    pub async fn issue_proof(&self, person: &SignedIn, browser: &str) -> Result<String, SignInError> {
        let proof = generate_secret()?;
        let now = now_ms();
        let ticket = Ticket {
            id: kept_as(PROOF, &proof),
            kind: PROOF.to_owned(),
            session: Uuid::new_v4().to_string(),
            state: ISSUED.to_owned(),
            expires_ms: now + PROOF_LIFE_MS,
            body: json!({"principal": person.caller.principal, "browser": kept_as("Browser", browser)}),
        };
        self.db().put_ticket(&ticket, now).await.map_err(of_meta)?;
        Ok(proof)
    }

    /// Whose proof this is.
    ///
    /// # Errors
    /// [`ExternalError::State`], [`SignInError::Disabled`].
    pub async fn person_of_proof(&self, proof: &str, browser: &str) -> Result<SignedIn, SignInError> {
        let ticket = self.ticket_of(PROOF, proof, browser).await?;
        let access = self.access().await?;
        let person = access.principal(ticket.body["principal"].as_str().unwrap_or_default());
        let person = person.ok_or(ExternalError::State)?;
        if person.body["accountEnabled"] == false {
            return Err(SignInError::Disabled);
        }
        Ok(SignedIn::of(person, person))
    }

    /// The proof has served.
    ///
    /// # Errors
    /// [`ExternalError::State`].
    pub async fn end_proof(&self, proof: &str, browser: &str) -> Result<(), SignInError> {
        let ticket = self.ticket_of(PROOF, proof, browser).await?;
        self.use_up(ticket).await
    }
}

fn require_own_answer(told: Option<&str>, issuer: &str, discovered: &Discovered) -> Result<(), ExternalError> {
    match told {
        Some(told) if told == issuer => Ok(()),
        None if !discovered.names_itself => Ok(()),
        _ => Err(ExternalError::OtherProvider),
    }
}

fn authorization_url(
    provider: &IdentityProvider,
    discovered: &Discovered,
    redirect_uri: &str,
    state: &str,
    nonce: &str,
    verifier: &str,
) -> Result<String, ExternalError> {
    let endpoint = discovered.authorization_endpoint.as_deref().and_then(|e| Url::parse(e).ok());
    let mut url = endpoint.ok_or(ExternalError::Unreachable(IssuerError::NotAllowed))?;
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &provider.client_id)
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("scope", &provider.scopes)
        .append_pair("state", state)
        .append_pair("nonce", nonce)
        .append_pair("code_challenge", &pkce::challenge_of(verifier))
        .append_pair("code_challenge_method", "S256");
    Ok(url.into())
}

/// `name=value&…`
fn form(fields: &[(&str, &str)]) -> String {
    let all: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", form_text(name), form_text(value))).collect();
    all.join("&")
}

fn form_text(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> IdentityProvider {
        IdentityProvider {
            name: "Corp".into(),
            display_name: None,
            tenant: Some("t".into()),
            issuer: "https://i.example".into(),
            client_id: "c".into(),
            client_secret: None,
            scopes: usual_scopes(),
            login_claim: None,
            create_users: true,
        }
    }

    fn claims(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_login_comes_of_the_claims() {
        let of = |login_claim: Option<&str>, value: Value| {
            let provider = IdentityProvider { login_claim: login_claim.map(str::to_owned), ..provider() };
            outside(&provider, &claims(value)).map(|o| (o.login, o.display_name))
        };
        let both = json!({"sub": "1", "preferred_username": "Ann", "email": "Ann@Contoso.example", "name": "Ann A."});
        assert_eq!(of(None, both.clone()).unwrap(), ("ann@corp".into(), "Ann A.".into()));
        assert_eq!(of(Some("email"), both.clone()).unwrap().0, "ann@contoso.example");
        assert_eq!(of(Some("upn"), both).unwrap_err(), ExternalError::NoLogin);
        let mail = of(None, json!({"sub": "1", "email": "a@b"})).unwrap();
        assert_eq!(mail, ("a@b".into(), "a@b".into()));
        for bad in [json!({"sub": "1"}), json!({"sub": "1", "email": "a b@c"}), json!({"email": "a@b"})] {
            assert_eq!(of(None, bad).unwrap_err(), ExternalError::NoLogin);
        }
    }

    #[test]
    fn issuer_and_subject_together_are_a_person() {
        let mut user = Principal {
            id: "u".into(),
            tenant: "T".into(),
            app_id: String::new(),
            display_name: String::new(),
            kind: USER.into(),
            secret_hash: String::new(),
            login: "a@b".into(),
            body: json!({}),
        };
        link(&mut user, "i", "s", true);
        link(&mut user, "i", "s", true);
        link(&mut user, "j", "s", true);
        assert_eq!(user.body[IDENTITIES].as_array().unwrap().len(), 2);
        let found = |user: &Principal, tenant: &str, issuer: &str, subject: &str| {
            user_of([user].into_iter(), tenant, issuer, subject).is_some()
        };
        assert!(found(&user, "t", "i", "s") && found(&user, "t", "j", "s"));
        assert!(!found(&user, "t", "i", "S") && !found(&user, "u", "i", "s") && !found(&user, "t", "k", "s"));
        link(&mut user, "i", "s", false);
        assert!(!found(&user, "t", "i", "s"));
        user.kind = "Group".into();
        assert!(!found(&user, "t", "j", "s"));
    }

    #[test]
    fn what_cannot_be_used_is_told_at_the_start() {
        let why = |change: &dyn Fn(&mut IdentityProvider)| {
            let mut changed = provider();
            change(&mut changed);
            changed.check(&[], &[]).err().unwrap_or_default()
        };
        assert_eq!(why(&|_| {}), "");
        assert!(why(&|p| p.name = "a b".into()).contains("its name"));
        assert!(why(&|p| p.issuer = "http://i.example".into()).contains("https"));
        assert!(why(&|p| p.scopes = "profile".into()).contains("openid"));
        assert!(why(&|p| p.client_secret = Some("plain text".into())).contains("file:PATH or env:NAME"));
        assert!(why(&|p| p.client_secret = Some("file:/nonexistent".into())).contains("/nonexistent"));
        assert!(provider().check(&[provider()], &[]).unwrap_err().contains("the same name"));
    }

    #[test]
    fn an_answer_of_another_provider_is_told_from_its_name() {
        let names = |names_itself| Discovered { names_itself, ..Discovered::default() };
        let own = |told, discovered: &Discovered| require_own_answer(told, "i", discovered).is_ok();
        assert!(own(Some("i"), &names(true)) && own(Some("i"), &names(false)) && own(None, &names(false)));
        assert!(!own(Some("j"), &names(false)) && !own(None, &names(true)));
    }

    #[test]
    fn the_browser_takes_a_challenge_along_never_the_verifier() {
        let discovered = Discovered {
            authorization_endpoint: Some("https://i.example/auth?kept=1".into()),
            ..Discovered::default()
        };
        let url = authorization_url(&provider(), &discovered, "https://l/back", "st", "no", "the-verifier").unwrap();
        assert!(url.starts_with("https://i.example/auth?kept=1&response_type=code&client_id=c&"), "{url}");
        assert!(url.contains("redirect_uri=https%3A%2F%2Fl%2Fback") && !url.contains("the-verifier"), "{url}");
        assert!(authorization_url(&provider(), &Discovered::default(), "r", "s", "n", "v").is_err());
        assert_eq!(form(&[("a", "x y&"), ("b", "ü")]), "a=x%20y%26&b=%C3%BC");
    }
}
