//! A served engine with two tenants, a person in each, and clients that act as az, a web application and a browser.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use lazuli_api::{Running, ServeConfig, serve};
use lazuli_engine::{Bootstrap, Engine, EngineConfig};
use lazuli_meta::Db;
use reqwest::Response;
use serde_json::Value;
use std::sync::Arc;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

/// az's own client id, which every directory knows.
pub const AZ: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
pub const LOGIN: &str = "alice@contoso.example";
pub const PASSWORD: &str = "correct horse battery";
pub const ARM: &str = "https://management.azure.com//.default offline_access openid profile";
/// RFC 7636, appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
pub const REDIRECT: &str = "http://localhost:41234";

pub struct World {
    pub engine: Engine,
    pub db: Db,
    pub owner: Bootstrap,
    pub other_tenant: String,
    pub running: Running,
    pub client: reqwest::Client,
    _dir: TempDir,
    _guard: DropGuard,
}

impl World {
    pub async fn start() -> Self {
        Self::configured(|_| {}).await
    }

    pub async fn configured(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let mut settings = EngineConfig::local(dir.path());
        change(&mut settings);
        let db = Db::open(&settings.database).await.unwrap();
        let engine = Engine::open(settings).await.unwrap();
        let owner = Bootstrap::generate().unwrap();
        engine.bootstrap(&owner).await.unwrap();
        engine.create_user(&owner.tenant_id, LOGIN, "Alice", PASSWORD).await.unwrap();
        engine.grant_role(LOGIN, "Reader", &owner.subscription_id).await.unwrap();
        let other_tenant = engine.create_tenant("Other").await.unwrap().id;
        engine.create_user(&other_tenant, "bob@other.example", "Bob", PASSWORD).await.unwrap();
        let mut config = ServeConfig::new(dir.path(), Arc::new(engine.clone()));
        config.directory = Some(engine.clone());
        config.home_tenant = Some(owner.tenant_id.clone());
        let stop = CancellationToken::new();
        let running = serve(config, stop.clone()).await.unwrap();
        let ca = reqwest::Certificate::from_pem(&std::fs::read(&running.ca_file).unwrap()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { engine, db, owner, other_tenant, running, client, _dir: dir, _guard: stop.drop_guard() }
    }

    /// As if so many had been counted already, in a time that does not end before the test.
    pub async fn count_guesses(&self, subject: &str, n: usize) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_millis()).unwrap();
        for _ in 0..n {
            self.db.count_guess(subject, now, now + 3_600_000).await.unwrap();
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.running.base_url)
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.client.post(self.url(path)).body(encoded(fields)).send().await.unwrap()
    }

    /// A token request under `organizations`, as az sends it before it knows a tenant.
    pub async fn token(&self, fields: &[(&str, &str)]) -> Value {
        self.token_at("organizations", fields).await
    }

    pub async fn token_at(&self, tenant: &str, fields: &[(&str, &str)]) -> Value {
        let answer = self.post(&format!("/{tenant}/oauth2/v2.0/token"), fields).await;
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    }

    pub async fn refresh(&self, token: &str) -> Value {
        self.token(&[("grant_type", "refresh_token"), ("client_id", AZ), ("refresh_token", token), ("scope", ARM)])
            .await
    }

    /// The address of the sign-in page; `fields` replace what az sends.
    pub fn authorize_path(&self, fields: &[(&str, &str)]) -> String {
        let usual = [
            ("client_id", AZ),
            ("response_type", "code"),
            ("redirect_uri", REDIRECT),
            ("scope", ARM),
            ("state", "st&te"),
            ("nonce", "n0nce"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        let mut all: Vec<(&str, &str)> =
            usual.into_iter().filter(|(name, _)| !fields.iter().any(|(n, _)| n == name)).collect();
        all.extend(fields.iter().filter(|(_, value)| !value.is_empty()));
        format!("/organizations/oauth2/v2.0/authorize?{}", encoded(&all))
    }

    /// Signs Alice in on the page; the code that the client is sent.
    pub async fn code(&self) -> String {
        let page = self.authorize_path(&[]);
        let answer = self.post(&page, &[("login", LOGIN), ("password", PASSWORD)]).await;
        assert_eq!(answer.status(), 302);
        sent_to(&answer)["code"].clone()
    }

    pub async fn redeem(&self, code: &str, fields: &[(&str, &str)]) -> Value {
        let usual = [
            ("grant_type", "authorization_code"),
            ("client_id", AZ),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
            ("scope", ARM),
        ];
        let mut all: Vec<(&str, &str)> =
            usual.into_iter().filter(|(name, _)| !fields.iter().any(|(n, _)| n == name)).collect();
        all.extend(fields);
        self.token(&all).await
    }

    /// The status of a management request with this token.
    pub async fn arm(&self, answer: &Value) -> u16 {
        let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let path = format!("/subscriptions/{}?api-version=2022-12-01", self.owner.subscription_id);
        self.client.get(self.url(&path)).bearer_auth(token).send().await.unwrap().status().as_u16()
    }
}

pub fn encoded(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// The query of the address that a browser is sent to.
pub fn sent_to(answer: &Response) -> std::collections::HashMap<String, String> {
    let to = url::Url::parse(answer.headers()["location"].to_str().unwrap()).unwrap();
    assert!(to.as_str().starts_with(REDIRECT), "{to}");
    to.query_pairs().into_owned().collect()
}

/// `(error, AADSTS number)` of a refusal.
pub fn refused(answer: &Value) -> (&str, u64) {
    (answer["error"].as_str().unwrap_or_else(|| panic!("{answer}")), answer["error_codes"][0].as_u64().unwrap())
}

/// What a token says.
pub fn claims(token: &Value) -> Value {
    let part = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}
