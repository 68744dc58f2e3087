//! Device codes, as `az login --use-device-code` uses them (RFC 8628).

use crate::world::{ARM, AZ, LOGIN, PASSWORD, World, refused};
use serde_json::{Value, json};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

struct Started {
    device_code: String,
    user_code: String,
}

async fn start(world: &World, tenant: &str) -> Started {
    let path = format!("/{tenant}/oauth2/v2.0/devicecode");
    let answer = world.post(&path, &[("client_id", AZ), ("scope", ARM)]).await;
    assert_eq!(answer.status(), 200);
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!((&body["interval"], &body["expires_in"]), (&json!(5), &json!(900)));
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    assert_eq!(text("verification_uri"), world.url("/devicelogin"));
    assert!(text("message").contains(&text("user_code")));
    Started { device_code: text("device_code"), user_code: text("user_code") }
}

async fn poll(world: &World, code: &str) -> Value {
    // As MSAL sends it, with both names.
    world
        .token(&[("grant_type", GRANT), ("client_id", AZ), ("device_code", code), ("code", code), ("scope", ARM)])
        .await
}

async fn enter(world: &World, code: &str, login: &str, password: &str, decision: &str) -> (u16, String) {
    let fields = [("code", code), ("login", login), ("password", password), ("decision", decision)];
    let answer = world.post("/devicelogin", &fields).await;
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Changes the stored ticket of a device code.
async fn change(world: &World, code: &str, change: impl FnOnce(&mut lazuli_meta::model::Ticket)) {
    let id = lazuli_authz::secret::fingerprint(&format!("Device\n{code}"));
    let mut ticket = world.db.ticket(&id).await.unwrap().unwrap();
    let state = ticket.state.clone();
    change(&mut ticket);
    assert!(world.db.move_ticket(&state, &ticket).await.unwrap());
}

#[tokio::test]
async fn a_code_is_entered_elsewhere_and_used_once() {
    let world = World::start().await;
    let form = world.client.get(world.url("/devicelogin")).send().await.unwrap();
    assert!(form.text().await.unwrap().contains("name=\"code\""));
    let Started { device_code, user_code } = start(&world, "organizations").await;
    assert_eq!(refused(&poll(&world, &device_code).await), ("authorization_pending", 70016));
    assert_eq!(refused(&poll(&world, &device_code).await), ("slow_down", 70016));

    assert_eq!(enter(&world, "WRONGCODE", LOGIN, PASSWORD, "approve").await.0, 400);
    assert_eq!(enter(&world, &user_code, LOGIN, "wrong wrong wrong", "approve").await.0, 400);
    assert_eq!(refused(&poll(&world, &device_code).await).0, "slow_down", "nobody has entered it yet");
    // As people type it.
    let typed = format!(" {}-{}", user_code[..4].to_lowercase(), &user_code[4..]);
    let (status, html) = enter(&world, &typed, LOGIN, PASSWORD, "approve").await;
    assert_eq!(status, 200);
    assert!(html.contains("Microsoft Azure CLI"), "{html}");

    let tokens = poll(&world, &device_code).await;
    assert_eq!(world.arm(&tokens).await, 200);
    assert!(tokens["refresh_token"].is_string() && tokens["id_token"].is_string());
    assert_eq!(refused(&poll(&world, &device_code).await), ("bad_verification_code", 70018), "once");
    assert_eq!(enter(&world, &user_code, LOGIN, PASSWORD, "approve").await.0, 400, "the short one too");
}

#[tokio::test]
async fn a_person_may_decline_and_codes_run_out() {
    let world = World::start().await;
    let declined = start(&world, "common").await;
    assert_eq!(enter(&world, &declined.user_code, LOGIN, PASSWORD, "decline").await.0, 200);
    assert_eq!(refused(&poll(&world, &declined.device_code).await), ("authorization_declined", 65004));

    assert_eq!(refused(&poll(&world, "unknown").await), ("bad_verification_code", 70018));
    let client = "1950a258-227b-4e31-a9cf-717495945fc2";
    let pending = start(&world, "common").await;
    let other = [("grant_type", GRANT), ("client_id", client), ("device_code", pending.device_code.as_str())];
    assert_eq!(refused(&world.token(&other).await), ("bad_verification_code", 70018), "another client's");

    // A code that nobody entered in time cannot be moved back in time through the door: its row is.
    let id = lazuli_authz::secret::fingerprint("Device\nold");
    let ticket = lazuli_meta::model::Ticket {
        id,
        kind: "Device".into(),
        session: "s".into(),
        state: "Pending".into(),
        expires_ms: 1_700_000_000_000,
        body: json!({"client": AZ}),
    };
    world.db.put_ticket(&ticket, 1_700_000_000_000).await.unwrap();
    assert_eq!(refused(&poll(&world, "old").await), ("expired_token", 70020));
}

#[tokio::test]
async fn a_code_for_a_tenant_is_for_its_people() {
    let world = World::start().await;
    let started = start(&world, &world.owner.tenant_id).await;
    let (status, _) = enter(&world, &started.user_code, "bob@other.example", PASSWORD, "approve").await;
    assert_eq!(status, 400);
    assert_eq!(refused(&poll(&world, &started.device_code).await).0, "authorization_pending");
    let unknown = world.post("/elsewhere/oauth2/v2.0/devicecode", &[("client_id", "unknown"), ("scope", ARM)]).await;
    assert_eq!(unknown.status(), 400);
}

#[tokio::test]
async fn a_person_that_is_signed_in_cannot_guess_codes() {
    let world = World::start().await;
    let started = start(&world, "common").await;
    for n in 0..12 {
        let (_, html) = enter(&world, "AAAAAAAAA", LOGIN, PASSWORD, "approve").await;
        assert_eq!(html.contains("The account is locked"), n >= 10, "{n}");
    }
    assert_eq!(enter(&world, &started.user_code, LOGIN, PASSWORD, "approve").await.0, 400);
    change(&world, &started.device_code, |t| t.body["polledMs"] = json!(0)).await;
    assert_eq!(refused(&poll(&world, &started.device_code).await).0, "authorization_pending");
}

/// Nobody has signed in yet when a code is asked for: all clients together get so many a minute.
#[tokio::test]
async fn so_many_codes_are_given_and_no_more() {
    let world = World::start().await;
    world.count_guesses("device codes", 299).await;
    start(&world, "organizations").await;
    for _ in 0..2 {
        let answer = world.post("/organizations/oauth2/v2.0/devicecode", &[("client_id", AZ), ("scope", ARM)]).await;
        assert_eq!(answer.status(), 429);
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(refused(&body), ("temporarily_unavailable", 90055));
        assert!(body["device_code"].is_null(), "{body}");
    }
    // The minute is over.
    world.db.clear_guesses("device codes").await.unwrap();
    start(&world, "organizations").await;
}
