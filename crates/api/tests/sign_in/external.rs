//! People who come from another OpenID provider, which is a small one of the test; tests/compat has a real one.

use crate::world::{ARM, AZ, LOGIN, World, claims, refused, sent_to};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lazuli_authz::{SigningKey, pkce};
use lazuli_engine::IdentityProvider;
use reqwest::Response;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

const SECRET: &str = "s3cret & more";

/// What a code stands for.
struct Issued {
    nonce: String,
    challenge: String,
    redirect_uri: String,
    claims: Value,
}

#[derive(Default)]
struct State {
    issued: HashMap<String, Issued>,
    /// What the token endpoint gives instead of what it should.
    spoilt: Option<Value>,
    /// The forms that it was sent.
    forms: Vec<HashMap<String, String>>,
}

struct Provider {
    url: String,
    pem: String,
    state: Arc<Mutex<State>>,
    secret: tempfile::NamedTempFile,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn signed(pem: &str, claims: &Value) -> String {
    let key_id = SigningKey::from_pem(pem).unwrap().key_id().to_owned();
    let header = Header { kid: Some(key_id), ..Header::new(Algorithm::RS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap()).unwrap()
}

/// What the provider's token endpoint answers to a form.
fn token(state: &Mutex<State>, url: &str, pem: &str, authorization: &str, body: &str) -> (u16, Value) {
    let form: HashMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let mut state = state.lock().unwrap();
    let issued = state.issued.remove(&form["code"]);
    let spoilt = state.spoilt.take();
    state.forms.push(form.clone());
    let Some(issued) = issued else { return (400, json!({"error": "invalid_grant"})) };
    let proved =
        pkce::matches(&form["code_verifier"], &issued.challenge) && form["redirect_uri"] == issued.redirect_uri;
    if !proved || authorization != "Basic bGF6dWxpOnMzY3JldCUyMCUyNiUyMG1vcmU=" {
        return (401, json!({"error": "invalid_client"}));
    }
    let mut claims = json!({
        "iss": url, "aud": "lazuli", "iat": now(), "exp": now() + 60, "nonce": issued.nonce,
    });
    for from in [&issued.claims, &spoilt.unwrap_or_default()] {
        for (name, value) in from.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
    }
    let id_token = match (claims["unsigned"] == true, claims["foreign"] == true) {
        (true, _) => {
            use base64::Engine as _;
            let part = |v: Value| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(v.to_string());
            format!("{}.{}.", part(json!({"alg": "none"})), part(claims))
        }
        (_, true) => signed(&SigningKey::generate_pem().unwrap(), &claims),
        _ => signed(pem, &claims),
    };
    (200, json!({"access_token": "a", "token_type": "Bearer", "id_token": id_token}))
}

impl Provider {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pem = SigningKey::generate_pem().unwrap();
        let keys = SigningKey::from_pem(&pem).unwrap().jwks().to_string();
        let configuration = json!({
            "issuer": url, "jwks_uri": format!("{url}/keys"), "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
        });
        let state = Arc::new(Mutex::new(State::default()));
        let (for_tokens, own_url, own_pem) = (state.clone(), url.clone(), pem.clone());
        let app = axum::Router::new()
            .route("/.well-known/openid-configuration", axum::routing::get(async move || configuration.to_string()))
            .route("/keys", axum::routing::get(async move || keys))
            .route(
                "/token",
                axum::routing::post(async move |headers: http::HeaderMap, body: String| {
                    let authorization = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
                    let (status, answer) = token(&for_tokens, &own_url, &own_pem, authorization, &body);
                    (http::StatusCode::from_u16(status).unwrap(), answer.to_string())
                }),
            );
        tokio::spawn(async move { axum::serve(listener, app).await });
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), format!("{SECRET}\n")).unwrap();
        Self { url, pem, state, secret }
    }

    fn configured(&self, create_users: bool) -> IdentityProvider {
        IdentityProvider {
            name: "corp".into(),
            display_name: Some("Contoso <SSO>".into()),
            tenant: None,
            issuer: self.url.clone(),
            client_id: "lazuli".into(),
            client_secret: Some(format!("file:{}", self.secret.path().display())),
            scopes: "openid profile".into(),
            login_claim: None,
            create_users,
        }
    }

    async fn world(&self, create_users: bool) -> World {
        let provider = self.configured(create_users);
        World::configured(|settings| {
            settings.http_issuers = vec![self.url.clone()];
            settings.identity_providers = vec![provider];
        })
        .await
    }

    /// Somebody signs in on the provider's page that a browser was sent to; the query that it is sent back with.
    fn sign_in(&self, location: &str, claims: &Value) -> Vec<(String, String)> {
        let asked = url::Url::parse(location).unwrap();
        assert!(location.starts_with(&format!("{}/authorize?", self.url)), "{location}");
        let query: HashMap<String, String> = asked.query_pairs().into_owned().collect();
        assert_eq!((query["response_type"].as_str(), query["client_id"].as_str()), ("code", "lazuli"));
        assert_eq!((query["scope"].as_str(), query["code_challenge_method"].as_str()), ("openid profile", "S256"));
        let issued = Issued {
            nonce: query["nonce"].clone(),
            challenge: query["code_challenge"].clone(),
            redirect_uri: query["redirect_uri"].clone(),
            claims: claims.clone(),
        };
        let code = format!("code-{}", query["nonce"]);
        self.state.lock().unwrap().issued.insert(code.clone(), issued);
        vec![("code".into(), code), ("state".into(), query["state"].clone())]
    }
}

/// A browser that went to the provider.
struct Browser {
    cookie: String,
    location: String,
}

async fn begin(world: &World, path: &str) -> Browser {
    let answer = world.client.get(world.url(path)).send().await.unwrap();
    assert_eq!(answer.status(), 302, "{}", answer.text().await.unwrap());
    let text = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let cookie = text("set-cookie");
    for word in ["__Host-lazuli-sign-in=", "; Secure", "; HttpOnly", "; SameSite=Lax", "; Path=/"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    Browser { cookie: cookie.split(';').next().unwrap().to_owned(), location: text("location") }
}

async fn back(world: &World, cookie: &str, query: &[(String, String)]) -> Response {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    let url = world.url(&format!("/common/oauth2/external?{query}"));
    world.client.get(url).header("cookie", format!("other=1; {cookie}")).send().await.unwrap()
}

fn page_of(world: &World) -> String {
    format!("{}&provider=corp", world.authorize_path(&[]))
}

/// The whole way of somebody; what the server answers at its end.
async fn comes_back(world: &World, provider: &Provider, who: &Value) -> Response {
    let browser = begin(world, &page_of(world)).await;
    let query = provider.sign_in(&browser.location, who);
    back(world, &browser.cookie, &query).await
}

async fn refusal(answer: Response) -> String {
    assert_eq!(answer.status(), 400);
    assert!(answer.headers().get("location").is_none());
    let html = answer.text().await.unwrap();
    let number = html.split("AADSTS").nth(1).unwrap_or_else(|| panic!("{html}"));
    number.split(':').next().unwrap().to_owned()
}

#[tokio::test]
async fn somebody_who_is_linked_signs_in_outside_and_goes_on_here() {
    let provider = Provider::start().await;
    let world = provider.world(false).await;
    let page = world.client.get(world.url(&world.authorize_path(&[]))).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Sign in with Contoso &lt;SSO&gt;") && page.contains("&amp;provider=corp"), "{page}");

    let who = json!({"sub": "42", "preferred_username": "ann@outside.example", "name": "Ann"});
    assert_eq!(refusal(comes_back(&world, &provider, &who).await).await, "50020", "nobody made her a user");
    let tenant = &world.owner.tenant_id;
    world.engine.create_external_user(tenant, "ann@contoso.example", "Ann", &provider.url, "42").await.unwrap();
    world.engine.grant_role("ann@contoso.example", "Reader", &world.owner.subscription_id).await.unwrap();
    let sent = sent_to(&comes_back(&world, &provider, &who).await);
    assert_eq!(sent["state"], "st&te");
    let tokens = world.redeem(&sent["code"], &[]).await;
    assert_eq!(world.arm(&tokens).await, 200);
    let access = claims(&tokens["access_token"]);
    assert_eq!(
        (access["upn"].as_str(), access["iss"].as_str().map(|i| i.contains(&provider.url))),
        (Some("ann@contoso.example"), Some(false)),
        "the token is this server's own"
    );
    let refresh = tokens["refresh_token"].as_str().unwrap();
    let next = world.refresh(refresh).await;
    assert!(next["access_token"].is_string());

    // No password opens the account.
    for password in ["", "correct horse battery"] {
        let fields = [
            ("grant_type", "password"),
            ("client_id", AZ),
            ("username", "ann@contoso.example"),
            ("password", password),
        ];
        assert!(world.token(&fields).await["access_token"].is_null());
    }
    world.engine.link_user(None, "ann@contoso.example", &provider.url, "42", false).await.unwrap();
    assert_eq!(refused(&world.refresh(next["refresh_token"].as_str().unwrap()).await), ("invalid_grant", 50173));
    assert_eq!(refusal(comes_back(&world, &provider, &who).await).await, "50020");
    world.engine.link_user(None, LOGIN, &provider.url, "42", true).await.unwrap();
    assert_eq!(sent_to(&comes_back(&world, &provider, &who).await)["state"], "st&te");
    world.engine.enable_user(None, LOGIN, false).await.unwrap();
    assert_eq!(refusal(comes_back(&world, &provider, &who).await).await, "50057");
    let twice = world.engine.link_user(None, "ann@contoso.example", &provider.url, "42", true).await;
    assert!(twice.unwrap_err().to_string().contains(LOGIN));
}

#[tokio::test]
async fn a_first_sign_in_makes_a_user_and_opens_no_other() {
    let provider = Provider::start().await;
    let world = provider.world(true).await;
    let who = json!({"sub": "7", "preferred_username": "Cara", "name": "Cara C."});
    let (one, two) = tokio::join!(comes_back(&world, &provider, &who), comes_back(&world, &provider, &who));
    for answer in [one, two] {
        let tokens = world.redeem(&sent_to(&answer)["code"], &[]).await;
        assert_eq!(claims(&tokens["access_token"])["upn"], "cara@corp");
        assert_eq!(world.arm(&tokens).await, 404, "a user without a role sees no subscription");
    }
    let users = world.engine.all_users().await.unwrap();
    let made: Vec<_> = users.iter().filter(|u| u.login == "cara@corp").collect();
    assert_eq!((made.len(), made[0].display_name.as_str()), (1, "Cara C."), "two that come at once are one");
    // Another subject may bear the name; it is another person, and the name is taken.
    let same_name = json!({"sub": "8", "preferred_username": "cara"});
    assert_eq!(refusal(comes_back(&world, &provider, &same_name).await).await, "50020");

    // An equal e-mail address opens no local account, verified or not.
    let taken = json!({"sub": "9", "preferred_username": LOGIN, "email": LOGIN, "email_verified": true});
    assert_eq!(refusal(comes_back(&world, &provider, &taken).await).await, "50020");
    let alice = world.engine.all_users().await.unwrap().into_iter().find(|u| u.login == LOGIN).unwrap();
    assert!(alice.body["externalIdentities"].is_null());
    assert_eq!(refusal(comes_back(&world, &provider, &json!({"sub": "10"})).await).await, "40008", "without a name");
}

#[tokio::test]
async fn what_a_provider_sends_is_not_believed_unless_all_of_it_is_right() {
    let provider = Provider::start().await;
    let world = provider.world(true).await;
    let who = json!({"sub": "7", "preferred_username": "cara"});
    for (spoilt, wanted) in [
        (json!({"nonce": "other"}), "40008"),
        (json!({"nonce": null}), "40008"),
        (json!({"aud": "other"}), "40008"),
        (json!({"aud": ["lazuli", "other"]}), "40008"),
        (json!({"iss": "https://other.example"}), "40008"),
        (json!({"exp": 1}), "40008"),
        (json!({"unsigned": true}), "40008"),
        (json!({"foreign": true}), "40008"),
        (json!({"sub": ""}), "40008"),
    ] {
        provider.state.lock().unwrap().spoilt = Some(spoilt.clone());
        assert_eq!(refusal(comes_back(&world, &provider, &who).await).await, wanted, "{spoilt}");
    }
    assert_eq!(world.engine.all_users().await.unwrap().len(), 2, "nobody was made a user");

    let browser = begin(&world, &page_of(&world)).await;
    let query = provider.sign_in(&browser.location, &who);
    let stranger = format!("__Host-lazuli-sign-in={}", "x".repeat(43));
    assert_eq!(refusal(back(&world, &stranger, &query).await).await, "165000", "another browser");
    assert_eq!(refusal(back(&world, "", &query).await).await, "165000", "none at all");
    let unknown = [query[0].clone(), ("state".into(), "y".repeat(43))];
    assert_eq!(refusal(back(&world, &browser.cookie, &unknown).await).await, "165000");
    assert_eq!(sent_to(&back(&world, &browser.cookie, &query).await)["state"], "st&te", "it was not used up by them");
    assert_eq!(refusal(back(&world, &browser.cookie, &query).await).await, "165000", "once");

    let with = async |name: &str, value: &str| {
        let browser = begin(&world, &page_of(&world)).await;
        let mut query = provider.sign_in(&browser.location, &who);
        query.retain(|(n, _)| n != name);
        query.push((name.to_owned(), value.to_owned()));
        refusal(back(&world, &browser.cookie, &query).await).await
    };
    assert_eq!(with("code", "another").await, "40015", "a code that the provider refuses");
    assert_eq!(with("iss", "https://other.example").await, "40008", "another provider's answer");
    assert_eq!(with("error", "access_denied<script>").await, "40015");
    let sent = provider.state.lock().unwrap().forms.iter().any(|f| f.contains_key("client_secret"));
    assert!(!sent, "the secret goes into the header");
}

#[tokio::test]
async fn a_provider_is_for_one_tenant() {
    let provider = Provider::start().await;
    let world = provider.world(true).await;
    let other = world.authorize_path(&[]).replace("/organizations/", &format!("/{}/", world.other_tenant));
    let page = world.client.get(world.url(&other)).send().await.unwrap().text().await.unwrap();
    assert!(!page.contains("provider=corp"), "{page}");
    for path in [format!("{other}&provider=corp"), format!("{}&provider=unknown", world.authorize_path(&[]))] {
        let answer = world.client.get(world.url(&path)).send().await.unwrap();
        assert_eq!(refusal(answer).await, "90013");
    }
    // What is wrong with the request is told before anybody is sent anywhere.
    let wrong = world.authorize_path(&[("redirect_uri", "https://evil.example/"), ("provider", "corp")]);
    assert_eq!(refusal(world.client.get(world.url(&wrong)).send().await.unwrap()).await, "50011");
}

#[tokio::test]
async fn a_device_code_is_entered_by_somebody_from_outside() {
    let provider = Provider::start().await;
    let world = provider.world(true).await;
    let started = world.post("/organizations/oauth2/v2.0/devicecode", &[("client_id", AZ), ("scope", ARM)]).await;
    let started: Value = serde_json::from_str(&started.text().await.unwrap()).unwrap();
    let (device_code, user_code) = (started["device_code"].as_str().unwrap(), started["user_code"].as_str().unwrap());
    let page = world.client.get(world.url("/devicelogin")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("/devicelogin?provider=corp"), "{page}");

    let browser = begin(&world, "/devicelogin?provider=corp").await;
    let query = provider.sign_in(&browser.location, &json!({"sub": "7", "preferred_username": "cara"}));
    let answer = back(&world, &browser.cookie, &query).await;
    assert_eq!(answer.status(), 200);
    let html = answer.text().await.unwrap();
    assert!(html.contains("<b>cara@corp</b>"), "{html}");
    let proof = html.split("name=\"proof\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let enter = async |code: &str, cookie: &str| {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("code", code), ("proof", proof.as_str()), ("decision", "approve")])
            .finish();
        let request = world.client.post(world.url("/devicelogin")).header("cookie", cookie).body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(enter(user_code, "").await.0, 400, "the proof is the browser's");
    let (status, html) = enter("WRONGCODE", &browser.cookie).await;
    assert!(status == 400 && html.contains("cara@corp") && html.contains(&proof), "another try: {html}");
    assert_eq!(enter(user_code, &browser.cookie).await.0, 200);
    let poll = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("client_id", AZ),
        ("device_code", device_code),
        ("scope", ARM),
    ];
    assert_eq!(claims(&world.token(&poll).await["access_token"])["upn"], "cara@corp");
    assert_eq!(enter(user_code, &browser.cookie).await.0, 400, "once");
    assert!(!provider.pem.is_empty());
}

#[tokio::test]
async fn so_many_sign_ins_are_begun_and_no_more() {
    let provider = Provider::start().await;
    let world = provider.world(false).await;
    world.count_guesses("external sign-ins", 299).await;
    begin(&world, &page_of(&world)).await;
    let answer = world.client.get(world.url(&page_of(&world))).send().await.unwrap();
    assert!(answer.headers().get("location").is_none(), "nobody is sent anywhere");
    let html = answer.text().await.unwrap();
    assert!(html.contains("AADSTS90055"), "{html}");
}
