//! Guests: one person, one password, in tenants that are not its own (RB-4, IV-17: "log in to both tenants").

use crate::world::{ARM, AZ, LOGIN, PASSWORD, World, claims, refused};
use serde_json::{Value, json};

const BOB: &str = "bob@other.example";

/// Alice is a guest in Bob's tenant, where she may read a subscription; its id.
async fn invited(world: &World) -> String {
    let theirs = world.engine.create_subscription(&world.other_tenant, "theirs").await.unwrap().id;
    world.engine.invite_user(&world.other_tenant, LOGIN, None).await.unwrap();
    world.engine.grant_role(LOGIN, "Reader", &theirs).await.unwrap();
    theirs
}

async fn sign_in(world: &World, tenant: &str, login: &str) -> Value {
    let fields =
        [("grant_type", "password"), ("client_id", AZ), ("username", login), ("password", PASSWORD), ("scope", ARM)];
    world.token_at(tenant, &fields).await
}

async fn refresh(world: &World, tenant: &str, answer: &Value) -> Value {
    let token = answer["refresh_token"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let fields = [("grant_type", "refresh_token"), ("client_id", AZ), ("refresh_token", token), ("scope", ARM)];
    world.token_at(tenant, &fields).await
}

async fn listed(world: &World, what: &str, answer: &Value, id: &str) -> Vec<String> {
    let url = world.url(&format!("/{what}?api-version=2022-12-01"));
    let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let text = world.client.get(url).bearer_auth(token).send().await.unwrap().text().await.unwrap();
    let page: Value = serde_json::from_str(&text).unwrap();
    page["value"].as_array().unwrap().iter().map(|i| i[id].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn one_person_signs_in_to_two_tenants() {
    let world = World::start().await;
    let (home, other) = (world.owner.tenant_id.clone(), world.other_tenant.clone());
    assert_eq!(refused(&sign_in(&world, &other, LOGIN).await), ("invalid_grant", 50126), "not invited");
    let theirs = invited(&world).await;

    let at_home = sign_in(&world, "organizations", LOGIN).await;
    assert_eq!(claims(&at_home["access_token"])["tid"], json!(home), "a login alone means the person's own tenant");
    let mut tenants = listed(&world, "tenants", &at_home, "tenantId").await;
    tenants.sort();
    let mut both = vec![home.clone(), other.clone()];
    both.sort();
    assert_eq!(tenants, both);
    assert_eq!(
        listed(&world, "subscriptions", &at_home, "subscriptionId").await,
        std::slice::from_ref(&world.owner.subscription_id)
    );

    // As MSAL does it: the same refresh token, at the other tenant's endpoint, and back.
    let there = refresh(&world, &other, &at_home).await;
    let said = claims(&there["access_token"]);
    assert_eq!(said["tid"], json!(other));
    assert_ne!(said["oid"], claims(&at_home["access_token"])["oid"], "the guest has an object of its own");
    assert_eq!(there["client_info"], at_home["client_info"], "one account");
    assert_eq!(listed(&world, "subscriptions", &there, "subscriptionId").await, [theirs]);
    assert_eq!(claims(&refresh(&world, &home, &there).await["access_token"])["tid"], json!(home));
    // Directly, with the password of home.
    let direct = sign_in(&world, &other, LOGIN).await;
    assert_eq!(claims(&direct["access_token"])["oid"], said["oid"]);
    // Bob was not invited anywhere.
    let bob = sign_in(&world, "organizations", BOB).await;
    assert_eq!(refused(&refresh(&world, &home, &bob).await), ("invalid_grant", 700_005));
}

#[tokio::test]
async fn a_guest_ends_here_or_with_the_person() {
    let world = World::start().await;
    let (home, other) = (world.owner.tenant_id.clone(), world.other_tenant.clone());
    let theirs = invited(&world).await;
    let at_home = sign_in(&world, &home, LOGIN).await;
    let there = refresh(&world, &other, &at_home).await;
    let reads = async |answer: &Value| {
        let url = world.url(&format!("/subscriptions/{theirs}?api-version=2022-12-01"));
        world
            .client
            .get(url)
            .bearer_auth(answer["access_token"].as_str().unwrap())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(reads(&there).await, 200);
    world.engine.enable_user(Some(&other), LOGIN, false).await.unwrap();
    assert_eq!(reads(&there).await, 401, "a token that is out already, too");
    assert_eq!(refused(&refresh(&world, &other, &there).await), ("invalid_grant", 50057));
    let at_home = sign_in(&world, &home, LOGIN).await;
    assert_eq!(world.arm(&at_home).await, 200, "at home nothing changed");

    world.engine.enable_user(Some(&other), LOGIN, true).await.unwrap();
    let there = refresh(&world, &other, &at_home).await;
    assert_eq!(reads(&there).await, 200);
    world.engine.enable_user(Some(&home), LOGIN, false).await.unwrap();
    assert_eq!(reads(&there).await, 401, "who may not sign in at home is no guest anywhere");
    assert_eq!(refused(&sign_in(&world, &other, LOGIN).await), ("invalid_grant", 50057));
}

#[tokio::test]
async fn what_is_the_home_tenants_is_not_changed_elsewhere() {
    let world = World::start().await;
    let other = world.other_tenant.clone();
    invited(&world).await;
    let again = world.engine.invite_user(&other, LOGIN, None).await.unwrap_err();
    assert!(again.to_string().contains("known in that tenant already"), "{again}");
    let at_home = world.engine.invite_user(&world.owner.tenant_id, LOGIN, None).await.unwrap_err();
    assert!(at_home.to_string().contains("known in that tenant already"), "{at_home}");
    let reset = world.engine.reset_password(Some(&other), LOGIN, "another long password").await.unwrap_err();
    assert!(reset.to_string().contains("is a guest here"), "{reset}");
    // Where no tenant is named, the person's own is meant: and then the old password is none for the guest either.
    world.engine.reset_password(None, LOGIN, "another long password").await.unwrap();
    assert_eq!(refused(&sign_in(&world, &other, LOGIN).await), ("invalid_grant", 50126));
}
