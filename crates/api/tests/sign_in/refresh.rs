//! Refresh tokens: another one each time, and what happens when one comes again.

use crate::world::{AZ, LOGIN, World, refused};
use serde_json::json;

/// Makes every use of a refresh token look older than it is.
async fn let_time_pass(world: &World, token: &str) {
    let id = lazuli_authz::secret::fingerprint(&format!("Refresh\n{token}"));
    let mut ticket = world.db.ticket(&id).await.unwrap().unwrap();
    ticket.body["usedMs"] = json!(ticket.body["usedMs"].as_i64().unwrap() - 60_000);
    assert!(world.db.move_ticket("Used", &ticket).await.unwrap());
}

fn token(answer: &serde_json::Value) -> String {
    answer["refresh_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn each_is_used_once_and_then_ends_the_session() {
    let world = World::start().await;
    let first = token(&world.redeem(&world.code().await, &[]).await);
    let answer = world.refresh(&first).await;
    assert_eq!(world.arm(&answer).await, 200);
    let second = token(&answer);
    assert_ne!(first, second);
    // Two commands of az that begin at once.
    assert!(world.refresh(&first).await["access_token"].is_string());

    let_time_pass(&world, &first).await;
    assert_eq!(refused(&world.refresh(&first).await), ("invalid_grant", 50173));
    assert_eq!(
        refused(&world.refresh(&second).await),
        ("invalid_grant", 50173),
        "the thief or the robbed: nobody goes on"
    );
    // A session of its own is not touched.
    let other = token(&world.redeem(&world.code().await, &[]).await);
    assert!(world.refresh(&other).await["access_token"].is_string());
}

#[tokio::test]
async fn they_are_bound_to_client_tenant_and_person() {
    let world = World::start().await;
    let first = token(&world.redeem(&world.code().await, &[]).await);
    let ask = |tenant: String, client: &'static str, token: String| {
        let world = &world;
        async move {
            let fields = [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token.as_str())];
            world.token_at(&tenant, &fields).await
        }
    };
    let home = world.owner.tenant_id.clone();
    let powershell = "1950a258-227b-4e31-a9cf-717495945fc2";
    assert_eq!(refused(&ask(home.clone(), powershell, first.clone()).await), ("invalid_grant", 70000));
    assert_eq!(refused(&ask(world.other_tenant.clone(), AZ, first.clone()).await), ("invalid_grant", 700_005));
    assert_eq!(refused(&ask(home.clone(), AZ, "unknown".into()).await), ("invalid_grant", 70000));
    let second = token(&ask(home.clone(), AZ, first).await);
    world.engine.enable_user(None, LOGIN, false).await.unwrap();
    assert_eq!(refused(&ask(home.clone(), AZ, second).await), ("invalid_grant", 50057));
}

#[tokio::test]
async fn a_new_password_ends_what_was_begun_with_the_old_one() {
    let world = World::start().await;
    let tokens = world.redeem(&world.code().await, &[]).await;
    world.engine.reset_password(None, LOGIN, "another long password").await.unwrap();
    assert_eq!(refused(&world.refresh(&token(&tokens)).await), ("invalid_grant", 50173));
}

/// The database opens nothing to who reads it.
#[tokio::test]
async fn what_clients_hold_is_not_in_the_database() {
    let world = World::start().await;
    let code = world.code().await;
    let refresh = token(&world.redeem(&code, &[]).await);
    for held in [&code, &refresh] {
        assert!(world.db.ticket(held).await.unwrap().is_none());
    }
    let user = world.engine.all_users().await.unwrap().into_iter().find(|u| u.login == LOGIN).unwrap();
    let stored = world.db.principal(&user.id).await.unwrap().unwrap();
    assert!(stored.secret_hash.starts_with("$argon2id$") && user.secret_hash.is_empty());
}
