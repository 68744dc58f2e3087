//! Metadata, discovery, tokens, and every way in which a bearer token can be wrong (RB-4; az-cli.md §1).

use super::fake::{CLIENT, OBJECT, SECRET, SUBSCRIPTION, TENANT};
use super::{Server, body, error, form, header};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use lazuli_authz::token::Grant;
use lazuli_authz::{Claims, SigningKey, TokenVersion};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn a_client_finds_its_way_from_the_metadata_to_a_resource() {
    let server = Server::start().await;
    let get = async |url: String| body(server.client.get(url).send().await.unwrap()).await;
    let base = &server.running.base_url;

    let cloud = get(server.url("/metadata/endpoints?api-version=2022-09-01")).await;
    assert_eq!(cloud["authentication"]["loginEndpoint"], json!(base));
    let old = get(server.url("/metadata/endpoints?api-version=2019-05-01")).await;
    assert_eq!(old[0]["resourceManager"], json!(base));

    let login = cloud["authentication"]["loginEndpoint"].as_str().unwrap();
    let openid = get(format!("{login}/{TENANT}/v2.0/.well-known/openid-configuration")).await;
    assert_eq!(openid["issuer"], json!(format!("{base}/{TENANT}/v2.0")));
    let keys = get(openid["jwks_uri"].as_str().unwrap().to_owned()).await;
    assert_eq!(keys["keys"][0]["kty"], "RSA");

    // az appends `/.default` to an audience that may end in a slash.
    let scope = format!("{base}//.default");
    let token_endpoint = openid["token_endpoint"].as_str().unwrap();
    let answer = server.client.post(token_endpoint).body(form(&[("scope", &scope)])).send().await.unwrap();
    let token = body(answer).await;
    assert_eq!((&token["token_type"], &token["expires_in"]), (&json!("Bearer"), &json!(86399)));

    let subscriptions = server.client.get(server.url("/subscriptions?api-version=2022-12-01"));
    let found = body(subscriptions.bearer_auth(token["access_token"].as_str().unwrap()).send().await.unwrap()).await;
    assert_eq!(found["value"][0]["subscriptionId"], SUBSCRIPTION);
    assert_eq!(found["value"][0]["state"], "Enabled");
}

#[tokio::test]
async fn the_v1_and_the_adfs_endpoints_serve_too() {
    let server = Server::start().await;
    let post = async |path: &str, fields: &[(&str, &str)]| {
        body(server.client.post(server.url(path)).body(form(fields)).send().await.unwrap()).await
    };
    let v1 = post(&format!("/{TENANT}/oauth2/token?api-version=1.0"), &[("resource", "https://management.azure.com/")])
        .await;
    assert!(v1["expires_on"].is_string() && v1["expires_in"].is_string(), "go-autorest wants text: {v1}");
    assert_eq!(v1["resource"], "https://management.azure.com/");

    let discovered = server.client.get(server.url("/adfs/.well-known/openid-configuration")).send().await.unwrap();
    let endpoint = body(discovered).await["token_endpoint"].as_str().unwrap().to_owned();
    let fields = form(&[("scope", "https://management.azure.com//.default")]);
    let adfs = body(server.client.post(endpoint).body(fields).send().await.unwrap()).await;
    for token in [&v1, &adfs] {
        let request = server.client.get(server.url("/tenants?api-version=2022-12-01"));
        let answer = request.bearer_auth(token["access_token"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(body(answer).await["value"][0]["tenantId"], TENANT);
    }

    let basic = server.client.post(server.url(&format!("/{TENANT}/oauth2/v2.0/token")));
    // RFC 6749 §2.3.1: form-encoded before they are joined.
    let secret: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let basic = basic
        .basic_auth(CLIENT, Some(secret))
        .body("grant_type=client_credentials&scope=https://vault.azure.net/.default");
    assert_eq!(basic.send().await.unwrap().status(), 200);
}

/// Tenant, form fields, and the status, name and number of the refusal.
type Case = (&'static str, &'static [(&'static str, &'static str)], u16, &'static str, u32);

#[tokio::test]
async fn a_refused_sign_in_says_why_in_the_platforms_words() {
    let server = Server::start().await;
    const SCOPE: (&str, &str) = ("scope", "https://management.azure.com/.default");
    let cases: &[Case] = &[
        (TENANT, &[SCOPE, ("client_secret", "wrong")], 401, "invalid_client", 7_000_215),
        (TENANT, &[SCOPE, ("client_secret", "")], 401, "invalid_client", 7_000_218),
        (TENANT, &[SCOPE, ("client_id", "nobody")], 400, "unauthorized_client", 700_016),
        (TENANT, &[SCOPE, ("client_id", "")], 400, "invalid_request", 900_144),
        ("elsewhere", &[SCOPE], 400, "invalid_request", 90002),
        (TENANT, &[SCOPE, ("grant_type", "password")], 400, "unsupported_grant_type", 70003),
        (TENANT, &[("scope", "https://example.com/.default")], 400, "invalid_resource", 500_011),
        (TENANT, &[("scope", "User.Read")], 400, "invalid_scope", 1_002_012),
        (TENANT, &[], 400, "invalid_request", 900_144),
    ];
    for (tenant, fields, status, name, code) in cases {
        let response = server.token_request(tenant, fields).await;
        assert_eq!(response.status().as_u16(), *status, "{code}");
        let answer = body(response).await;
        assert_eq!(answer["error"], *name);
        assert_eq!(answer["error_codes"], json!([code]));
        let text = answer["error_description"].as_str().unwrap();
        assert!(text.starts_with(&format!("AADSTS{code}: ")), "{text}");
        assert!(!text.contains(SECRET), "a secret is never echoed");
    }
    let url = server.url("/elsewhere/v2.0/.well-known/openid-configuration");
    let unknown = body(server.client.get(url).send().await.unwrap()).await;
    assert_eq!(unknown["error_codes"], json!([90002]));
}

#[tokio::test]
async fn instance_discovery_vouches_for_this_server() {
    let server = Server::start().await;
    let asked = format!("{}/{TENANT}/oauth2/v2.0/authorize", server.running.base_url);
    let query = form(&[("authorization_endpoint", &asked)]);
    let url = server.url(&format!("/common/discovery/instance?api-version=1.1&{query}"));
    let answer = server.client.get(url).send().await.unwrap();
    let wanted = format!("{}/{TENANT}/v2.0/.well-known/openid-configuration", server.running.base_url);
    assert_eq!(body(answer).await["tenant_discovery_endpoint"], json!(wanted));
}

/// The claims of a good token, to be spoilt one by one.
fn good(server: &Server) -> Claims {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    Claims::new(&Grant {
        authority: &server.running.base_url,
        audience: "https://management.azure.com",
        tenant: TENANT,
        app_id: CLIENT,
        object_id: OBJECT,
        version: TokenVersion::V1,
        now,
        lifetime_seconds: 3600,
    })
}

#[tokio::test]
async fn every_wrong_token_is_refused_with_its_own_code() {
    let server = Server::start().await;
    let pem = std::fs::read_to_string(server.dir.path().join("token-key.pem")).unwrap();
    let (key, foreign) =
        (SigningKey::from_pem(&pem).unwrap(), SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap());
    let url = server.url("/subscriptions?api-version=2022-12-01");
    let ask = async |authorization: Option<String>| {
        let mut request = server.client.get(&url);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let response = request.send().await.unwrap();
        let challenge = header(&response, "www-authenticate");
        let wanted = format!("Bearer authorization_uri=\"{}/{TENANT}\"", server.running.base_url);
        assert!(response.status() == 200 || challenge.starts_with(&wanted), "{challenge}");
        match response.status().as_u16() {
            200 => (200, String::new(), String::new()),
            _ => error(response).await,
        }
    };
    let signed = |key: &SigningKey, change: &dyn Fn(&mut Claims)| {
        let mut claims = good(&server);
        change(&mut claims);
        Some(format!("Bearer {}", key.sign(&claims).unwrap()))
    };
    assert_eq!(ask(signed(&key, &|_| {})).await.0, 200, "the good one");

    let missing = ask(None).await;
    assert_eq!(missing.2, "Authentication failed. The 'Authorization' header is missing.");
    assert_eq!((missing.0, missing.1.as_str()), (401, "AuthenticationFailed"));
    let part = |v: Value| BASE64_URL_SAFE_NO_PAD.encode(v.to_string());
    let unsigned = |header: Value| {
        Some(format!("Bearer {}.{}.", part(header), part(serde_json::to_value(good(&server)).unwrap())))
    };
    let past = |c: &mut Claims| (c.nbf, c.exp) = (c.nbf - 7200, c.exp - 7200);
    let cases = [
        (Some("Basic eDp5".to_owned()), "AuthenticationFailedInvalidHeader"),
        (Some("Bearer ".to_owned()), "AuthenticationFailedInvalidHeader"),
        (Some("Bearer junk".to_owned()), "InvalidAuthenticationToken"),
        (signed(&foreign, &|_| {}), "InvalidAuthenticationToken"),
        (unsigned(json!({"alg": "none", "typ": "JWT", "kid": key.key_id()})), "InvalidAuthenticationToken"),
        (unsigned(json!({"alg": "RS256", "typ": "JWT", "kid": key.key_id()})), "InvalidAuthenticationToken"),
        (unsigned(json!({"alg": "HS256", "typ": "JWT", "kid": key.key_id()})), "InvalidAuthenticationToken"),
        (signed(&key, &past), "ExpiredAuthenticationToken"),
        (signed(&key, &|c| c.aud = "https://storage.azure.com/".into()), "InvalidAuthenticationTokenAudience"),
        (signed(&key, &|c| c.iss = "https://sts.windows.net/x/".into()), "InvalidAuthenticationTokenTenant"),
        (signed(&key, &|c| c.oid = "nobody".into()), "InvalidAuthenticationToken"),
    ];
    for (authorization, code) in cases {
        let got = ask(authorization.clone()).await;
        assert_eq!((got.0, got.1.as_str()), (401, code), "{authorization:?}: {}", got.2);
    }
    server.backend.gone.store(true, Ordering::Relaxed);
    assert_eq!(ask(signed(&key, &|_| {})).await.0, 401, "the principal was deleted");
}

#[tokio::test]
async fn tokens_outlive_the_server_and_their_life_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let start = async |seconds| {
        Server::with(|c| (c.data_dir, c.token_lifetime) = (path.clone(), Duration::from_secs(seconds))).await
    };
    let first = start(60).await;
    let answer = first.token_request(TENANT, &[("scope", "https://management.azure.com/.default")]).await;
    assert_eq!(body(answer).await["expires_in"], 60);
    let before = std::fs::read(path.join("token-key.pem")).unwrap();
    drop(first);
    start(60).await;
    assert_eq!(before, std::fs::read(path.join("token-key.pem")).unwrap());
}

/// IV-17: `x-ms-authorization-auxiliary` is judged like the token that it accompanies.
#[tokio::test]
async fn auxiliary_tokens_are_judged_like_the_first() {
    let server = Server::start().await;
    let token = server.token().await;
    let path = "/subscriptions?api-version=2022-12-01";
    for (value, wanted) in [
        (format!("Bearer {token}"), 200),
        (format!("Bearer {token}, bearer {token};Bearer {token}"), 200),
        (format!("Bearer {token},Bearer {token},Bearer {token},Bearer {token}"), 401),
        (format!("Bearer {token}x"), 401),
        (format!("Basic {token}"), 401),
        ("Bearer".to_owned(), 401),
    ] {
        let request = server.request(reqwest::Method::GET, path).await;
        let answer = request.header("x-ms-authorization-auxiliary", &value).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), wanted, "{value}");
        if wanted == 401 {
            assert_eq!(super::error(answer).await.1, "InvalidAuxiliaryTokens");
        }
    }
}
