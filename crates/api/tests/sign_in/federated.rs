//! Clients that sign in with another issuer's token: the issuer is a small one of the test.

use crate::world::{World, refused};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lazuli_authz::SigningKey;
use lazuli_engine::call::Caller;
use lazuli_engine::directory::{Key, Kind};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

struct Issuer {
    url: String,
    pem: String,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pem = SigningKey::generate_pem().unwrap();
        let keys = SigningKey::from_pem(&pem).unwrap().jwks().to_string();
        let configuration = json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let app = axum::Router::new()
            .route("/.well-known/openid-configuration", axum::routing::get(async move || configuration))
            .route(
                "/keys",
                axum::routing::get(async move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    keys
                }),
            );
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, pem, asked }
    }

    fn token(&self, subject: &str, audience: &str, lives: i64) -> String {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let claims = json!({"iss": self.url, "sub": subject, "aud": audience, "iat": now, "exp": now + lives});
        let key_id = SigningKey::from_pem(&self.pem).unwrap().key_id().to_owned();
        let header = Header { kid: Some(key_id), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_rsa_pem(self.pem.as_bytes()).unwrap()).unwrap()
    }
}

async fn ask(world: &World, client: &str, assertion: &str) -> Value {
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
        ("client_id", client),
        ("scope", "https://management.azure.com/.default"),
    ];
    world.token_at(&world.owner.tenant_id, &fields).await
}

#[tokio::test]
async fn a_trusted_issuers_token_opens_and_nothing_else_does() {
    let issuer = Issuer::start().await;
    let world = World::configured(|settings| settings.http_issuers = vec![issuer.url.clone()]).await;
    let owner =
        Caller { tenant: world.owner.tenant_id.clone(), principal: world.owner.object_id.clone(), ..Caller::default() };
    let directory = world.engine.directory(&owner, "c");
    let application = Key::AppId(world.owner.client_id.clone());
    let trust = json!({"name": "build", "issuer": issuer.url, "subject": "repo:a/b", "audiences": ["api://AzureADTokenExchange"]});
    directory.put_federated(&application, None, &trust).await.unwrap();
    let client = world.owner.client_id.as_str();

    let good = issuer.token("repo:a/b", "api://AzureADTokenExchange", 600);
    for _ in 0..2 {
        let answer = ask(&world, client, &good).await;
        assert_eq!(world.arm(&answer).await, 200);
    }
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1, "keys are kept");
    let stranger = Issuer::start().await;
    let posing = Issuer { url: issuer.url.clone(), pem: stranger.pem.clone(), asked: stranger.asked.clone() };
    for (assertion, wanted) in [
        (issuer.token("repo:a/c", "api://AzureADTokenExchange", 600), 700_213),
        (issuer.token("repo:a/b", "other", 600), 700_212),
        (issuer.token("repo:a/b", "api://AzureADTokenExchange", -1), 700_024),
        (stranger.token("repo:a/b", "api://AzureADTokenExchange", 600), 700_211),
        (posing.token("repo:a/b", "api://AzureADTokenExchange", 600), 50013),
    ] {
        assert_eq!(refused(&ask(&world, client, &assertion).await).1, wanted);
    }
    assert_eq!(stranger.asked.load(Ordering::SeqCst), 0, "an issuer that nobody trusts is not asked");

    // Issuers that may not be asked are not taken in the first place.
    let plain = json!({"name": "plain", "issuer": stranger.url, "subject": "s", "audiences": ["a"]});
    assert_eq!(directory.put_federated(&application, None, &plain).await.unwrap_err().status(), 400);
    let twin = json!({"name": "twin", "issuer": issuer.url, "subject": "repo:a/b", "audiences": ["a"]});
    assert_eq!(directory.put_federated(&application, None, &twin).await.unwrap_err().status(), 409);
    directory.put_federated(&application, Some("build"), &json!({"subject": "repo:a/c"})).await.unwrap();
    assert_eq!(refused(&ask(&world, client, &good).await).1, 700_213);
    directory.delete_federated(&application, "build").await.unwrap();
    assert_eq!(refused(&ask(&world, client, &good).await).1, 700_211);
    assert_eq!(directory.list(Kind::Application).await.unwrap().len(), 1);
}
