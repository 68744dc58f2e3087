//! Keys that follow one another: nobody who is signed in notices.

use crate::world::{AZ, LOGIN, PASSWORD, World, refused};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use lazuli_engine::{Engine, KeyRotation};
use serde_json::Value;
use std::time::Duration;

const NOW: KeyRotation = KeyRotation { signs_after: Duration::ZERO, revoke_others: false };

async fn sign_in(world: &World) -> Value {
    let fields = [
        ("grant_type", "password"),
        ("client_id", AZ),
        ("username", LOGIN),
        ("password", PASSWORD),
        ("scope", "https://management.azure.com/.default offline_access"),
    ];
    world.token(&fields).await
}

fn key_of(answer: &Value) -> String {
    let header = answer["access_token"].as_str().unwrap().split('.').next().unwrap();
    let header: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

async fn shown(world: &World) -> Vec<String> {
    let keys = world.client.get(world.url("/common/discovery/v2.0/keys")).send().await.unwrap();
    let keys: Value = serde_json::from_str(&keys.text().await.unwrap()).unwrap();
    keys["keys"].as_array().unwrap().iter().map(|k| k["kid"].as_str().unwrap().to_owned()).collect()
}

/// Asks until the server has read its keys again.
async fn until_signed_by(world: &World, key: &str) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = sign_in(world).await;
        if key_of(&answer) == key {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{key} does not sign");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn tokens_of_the_old_key_are_good_until_they_end() {
    let world = World::start().await;
    let before = sign_in(&world).await;
    // Another process of the same database, as `lazuli admin` is.
    let admin = Engine::open(world.engine.config().clone()).await.unwrap();
    let new = admin.rotate_signing_key(NOW).await.unwrap();
    let after = until_signed_by(&world, &new.id).await;
    assert_ne!(key_of(&before), new.id);
    assert_eq!((world.arm(&before).await, world.arm(&after).await), (200, 200));
    assert!(shown(&world).await.contains(&key_of(&before)), "whoever checks the old tokens finds their key");

    // Shown, but it does not sign for an hour.
    let planned = admin.rotate_signing_key(KeyRotation::default()).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !shown(&world).await.contains(&planned.id) {
        assert!(tokio::time::Instant::now() < deadline, "the new key is not shown");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(key_of(&sign_in(&world).await), new.id);
}

#[tokio::test]
async fn keys_that_somebody_else_may_have_end_at_once() {
    let world = World::start().await;
    let before = sign_in(&world).await;
    let admin = Engine::open(world.engine.config().clone()).await.unwrap();
    let new = admin.rotate_signing_key(KeyRotation { revoke_others: true, ..NOW }).await.unwrap();
    let after = until_signed_by(&world, &new.id).await;
    assert_eq!((world.arm(&before).await, world.arm(&after).await), (401, 200));
    assert_eq!(shown(&world).await, [new.id]);
    // A refresh token is no signed one: the person goes on.
    let again = world.refresh(before["refresh_token"].as_str().unwrap()).await;
    assert_eq!(world.arm(&again).await, 200, "{:?}", again["error"].as_str().map(|_| refused(&again)));
}

/// Two servers: one learns of a key at once from the first token that the other signed with it.
#[tokio::test]
async fn a_token_of_a_key_that_is_news_is_looked_up() {
    let world = World::start().await;
    let before = sign_in(&world).await;
    assert_eq!(world.arm(&before).await, 200);
    let other = Engine::open(world.engine.config().clone()).await.unwrap();
    let new = other.rotate_signing_key(NOW).await.unwrap();
    // The second that the keys are taken as they were read, at most.
    let ring = Engine::open(world.engine.config().clone()).await.unwrap().signing_keys().await.unwrap();
    let key = ring.keys().iter().find(|k| k.key.key_id() == new.id).unwrap();
    let claims: lazuli_authz::Claims = serde_json::from_value(crate::world::claims(&before["access_token"])).unwrap();
    let token = serde_json::json!({"access_token": key.key.sign(&claims).unwrap()});
    let deadline = tokio::time::Instant::now() + Duration::from_secs(4);
    while world.arm(&token).await != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the key is not known");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
