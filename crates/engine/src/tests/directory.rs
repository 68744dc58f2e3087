//! The directory through the engine's door: who may do what, names that stay unique, what goes along with a deletion.

use super::Server;
use super::authorization::{other_tenant, stranger};
use crate::ClientProof;
use crate::call::{Caller, Rights};
use crate::directory::{Directory, DirectoryError, Key, Kind, Relation};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";

fn directory<'a>(server: &'a Server, caller: &'a Caller) -> Directory<'a> {
    server.engine.directory(caller, "c")
}

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap_or_else(|| panic!("{value}")).to_owned()
}

fn key(value: &Value) -> Key {
    Key::Id(id(value))
}

fn code<T: std::fmt::Debug>(result: Result<T, DirectoryError>) -> (u16, String) {
    let error = result.unwrap_err();
    (error.status(), error.code().to_owned())
}

fn user(login: &str) -> Value {
    json!({
        "accountEnabled": true, "displayName": login, "mailNickname": "n", "userPrincipalName": login,
        "passwordProfile": {"password": PASSWORD, "forceChangePasswordNextSignIn": false}, "givenName": "G",
    })
}

fn group(name: &str) -> Value {
    json!({"displayName": name, "mailEnabled": false, "mailNickname": name, "securityEnabled": true})
}

/// A user who administers nothing.
async fn person(server: &Server, login: &str) -> Caller {
    let made = directory(server, &server.call.caller).create(Kind::User, &user(login)).await.unwrap();
    let tenant = &server.call.caller.tenant;
    let caller = server.engine.caller(tenant, &id(&made)).await.unwrap().unwrap();
    // Each use is a request of its own.
    Caller { rights: Rights::default(), ..caller }
}

#[tokio::test]
async fn only_administrators_change_people() {
    let server = Server::start_without_worker().await;
    let admin = server.call.caller.clone();
    let alice = person(&server, "Alice@Contoso.example").await;
    let own = directory(&server, &alice);
    assert_eq!(own.me().await.unwrap()["userPrincipalName"], "Alice@Contoso.example");
    assert_eq!(own.list(Kind::User).await.unwrap().len(), 1);
    let (_, key) = ((), Key::Id("alice@contoso.EXAMPLE".into()));
    let denied = (403, "Authorization_RequestDenied".to_owned());
    assert_eq!(code(own.create(Kind::User, &user("b@x")).await), denied);
    assert_eq!(code(own.update(Kind::User, &key, &json!({"jobTitle": "Boss"})).await), denied);
    assert_eq!(code(own.delete(Kind::User, &key).await), denied);

    let ours = directory(&server, &admin);
    let twin = ours.create(Kind::User, &user("ALICE@contoso.example")).await.unwrap_err();
    assert_eq!(twin.message(), "Another object with the same value for property userPrincipalName already exists.");
    for (field, value) in [
        ("displayName", Value::Null),
        ("mailNickname", Value::Null),
        ("userPrincipalName", json!("no login")),
        ("passwordProfile", json!({"password": "short"})),
        ("passwordProfile", json!({"password": PASSWORD, "forceChangePasswordNextSignIn": true})),
        ("passwordPolicies", json!("DisableStrongPassword")),
        ("manager", json!("x")),
        ("accountEnabled", json!("true")),
    ] {
        let mut body = user("c@x");
        body[field] = value;
        assert_eq!(code(ours.create(Kind::User, &body).await), (400, "Request_BadRequest".to_owned()), "{field}");
    }

    let tenant = Some(admin.tenant.as_str());
    assert!(server.engine.sign_in_user(tenant, "alice@contoso.example", PASSWORD).await.is_ok());
    let change =
        json!({"passwordProfile": {"password": "another long password"}, "jobTitle": "Boss", "givenName": null});
    ours.update(Kind::User, &key, &change).await.unwrap();
    let shown = ours.get(Kind::User, &key).await.unwrap();
    assert_eq!((&shown["jobTitle"], &shown["givenName"]), (&json!("Boss"), &Value::Null));
    assert!(!shown.to_string().contains("argon2"));
    assert!(server.engine.sign_in_user(tenant, "alice@contoso.example", PASSWORD).await.is_err());
    assert!(server.engine.sign_in_user(tenant, "alice@contoso.example", "another long password").await.is_ok());
    ours.delete(Kind::User, &key).await.unwrap();
    assert_eq!(code(ours.get(Kind::User, &key).await), (404, "Request_ResourceNotFound".to_owned()));
    assert!(server.engine.caller(&admin.tenant, &alice.principal).await.unwrap().is_none());
}

#[tokio::test]
async fn an_application_is_its_owners() {
    let server = Server::start_without_worker().await;
    let (admin, alice, bob) =
        (server.call.caller.clone(), person(&server, "alice@x").await, person(&server, "bob@x").await);
    let (ours, hers, his) = (directory(&server, &admin), directory(&server, &alice), directory(&server, &bob));
    let client = stranger(&server, &admin.tenant).await;
    let denied = (403, "Authorization_RequestDenied".to_owned());
    let body = json!({"displayName": "app", "identifierUris": ["api://app"], "web": {"redirectUris": ["https://a.example/b"]}});
    assert_eq!(code(directory(&server, &client).create(Kind::Application, &body).await), denied);

    let made = hers.create(Kind::Application, &body).await.unwrap();
    let app = key(&made);
    assert_eq!((&made["keyCredentials"], &made["web"]["redirectUris"][0]), (&json!([]), &json!("https://a.example/b")));
    assert!(made.get("owners").is_none());
    let owners = his.related(Kind::Application, &app, Relation::Owners).await.unwrap();
    assert_eq!((owners.len(), &owners[0]["@odata.type"]), (1, &json!("#microsoft.graph.user")));
    assert_eq!(code(his.update(Kind::Application, &app, &json!({"notes": "x"})).await), denied);
    assert_eq!(code(his.add_password(Kind::Application, &app, &json!({})).await), denied);
    let twin = his.create(Kind::Application, &json!({"displayName": "b", "identifierUris": ["API://app"]})).await;
    assert_eq!(code(twin), (400, "Request_BadRequest".to_owned()));
    let sp = json!({"appId": made["appId"]});
    assert_eq!(code(his.create(Kind::ServicePrincipal, &sp).await), denied);
    let principal = hers.create(Kind::ServicePrincipal, &sp).await.unwrap();
    assert_eq!(principal["servicePrincipalNames"], json!([made["appId"], "api://app"]));
    let again = hers.create(Kind::ServicePrincipal, &sp).await;
    assert_eq!(code(again), (409, "Request_MultipleObjectsWithSameKeyValue".to_owned()));
    let unknown = ours.create(Kind::ServicePrincipal, &json!({"appId": "22222222-2222-2222-2222-222222222222"})).await;
    assert!(unknown.unwrap_err().message().contains("does not reference a valid application object"));

    let address = |id: &str| json!({"@odata.id": format!("https://graph.microsoft.com/v1.0/directoryObjects/{id}")});
    hers.link(Kind::Application, &app, Relation::Owners, &address(&bob.principal)).await.unwrap();
    let twice = hers.link(Kind::Application, &app, Relation::Owners, &address(&bob.principal)).await;
    assert!(twice.unwrap_err().message().ends_with("modified properties: 'owners'."));
    his.update(Kind::Application, &app, &json!({"displayName": "renamed"})).await.unwrap();
    let shown = ours.get(Kind::ServicePrincipal, &key(&principal)).await.unwrap();
    assert_eq!(shown["displayName"], "renamed");
    his.unlink(Kind::Application, &app, Relation::Owners, &bob.principal).await.unwrap();
    assert_eq!(code(his.delete(Kind::Application, &app).await), denied);

    let mine = hers.related(Kind::User, &Key::Id(alice.principal.clone()), Relation::OwnedObjects).await.unwrap();
    assert_eq!(mine.len(), 2);
    hers.delete(Kind::Application, &app).await.unwrap();
    assert_eq!(code(ours.get(Kind::ServicePrincipal, &key(&principal)).await).0, 404);
}

#[tokio::test]
async fn a_client_signs_in_with_what_it_was_given() {
    let server = Server::start_without_worker().await;
    let admin = server.call.caller.clone();
    let ours = directory(&server, &admin);
    let made = ours.create(Kind::Application, &json!({"displayName": "app"})).await.unwrap();
    let (app, client) = (key(&made), made["appId"].as_str().unwrap().to_owned());
    let principal = ours.create(Kind::ServicePrincipal, &json!({"appId": client})).await.unwrap();
    let sign_in = async |secret: &Value| {
        let proof = ClientProof::Secret(secret.as_str().unwrap());
        server.engine.sign_in_client(&admin.tenant, &client, proof).await.is_ok()
    };
    let body = json!({"passwordCredential": {"displayName": "rbac", "endDateTime": "2999-01-01T00:00:00Z"}});
    let first = ours.add_password(Kind::Application, &app, &body).await.unwrap();
    let second = ours.add_password(Kind::ServicePrincipal, &key(&principal), &json!({})).await.unwrap();
    let future =
        json!({"passwordCredential": {"startDateTime": "2998-01-01T00:00:00Z", "endDateTime": "2999-01-01T00:00:00Z"}});
    let future = ours.add_password(Kind::Application, &app, &future).await.unwrap();
    assert!(sign_in(&first["secretText"]).await && sign_in(&second["secretText"]).await);
    assert!(!sign_in(&future["secretText"]).await);
    let shown = ours.get(Kind::Application, &app).await.unwrap();
    let listed = ours.list(Kind::Application).await.unwrap();
    assert!(listed.contains(&shown));
    assert_eq!(shown["passwordCredentials"].as_array().unwrap().len(), 2);
    assert_eq!(shown["passwordCredentials"].to_string().matches("\"secretText\":null").count(), 2);

    ours.remove_password(Kind::Application, &app, &json!({"keyId": first["keyId"]})).await.unwrap();
    let again = ours.remove_password(Kind::Application, &app, &json!({"keyId": first["keyId"]})).await;
    assert!(again.unwrap_err().message().contains("No password credential found"));
    assert!(!sign_in(&first["secretText"]).await && sign_in(&second["secretText"]).await);
    for bad in [json!({"endDateTime": "2020-01-01T00:00:00Z"}), json!({"endDateTime": "soon"})] {
        let refused = ours.add_password(Kind::Application, &app, &json!({"passwordCredential": bad})).await;
        assert_eq!(code(refused), (400, "Request_BadRequest".to_owned()));
    }
    ours.update(Kind::ServicePrincipal, &key(&principal), &json!({"accountEnabled": false})).await.unwrap();
    assert!(!sign_in(&second["secretText"]).await);
    ours.update(Kind::ServicePrincipal, &key(&principal), &json!({"accountEnabled": true})).await.unwrap();
    ours.delete(Kind::ServicePrincipal, &key(&principal)).await.unwrap();
    assert!(!sign_in(&second["secretText"]).await);
}

#[tokio::test]
async fn groups_give_what_their_members_have() {
    let server = Server::start_without_worker().await;
    let (admin, alice, bob) =
        (server.call.caller.clone(), person(&server, "alice@x").await, person(&server, "bob@x").await);
    let (ours, hers, his) = (directory(&server, &admin), directory(&server, &alice), directory(&server, &bob));
    let outer = ours.create(Kind::Group, &group("outer")).await.unwrap();
    let inner = hers.create(Kind::Group, &group("inner")).await.unwrap();
    let address = |id: &str| json!({"@odata.id": format!("https://h/v1.0/directoryObjects/{id}")});
    ours.link(Kind::Group, &key(&outer), Relation::Members, &address(&id(&inner))).await.unwrap();
    hers.link(Kind::Group, &key(&inner), Relation::Members, &address(&bob.principal)).await.unwrap();
    let twice = hers.link(Kind::Group, &key(&inner), Relation::Members, &address(&bob.principal)).await;
    assert!(twice.unwrap_err().message().ends_with("modified properties: 'members'."));
    let denied = (403, "Authorization_RequestDenied".to_owned());
    assert_eq!(code(hers.link(Kind::Group, &key(&outer), Relation::Members, &address(&bob.principal)).await), denied);
    assert_eq!(code(his.delete(Kind::Group, &key(&inner)).await), denied);
    let itself = ours.link(Kind::Group, &key(&outer), Relation::Members, &address(&id(&outer))).await;
    assert_eq!(code(itself).0, 400);

    let him = Key::Id(bob.principal.clone());
    let mut both = [id(&inner), id(&outer)];
    both.sort();
    assert_eq!(his.groups_of(Kind::User, &him).await.unwrap(), both);
    let direct = his.related(Kind::User, &him, Relation::MemberOf).await.unwrap();
    assert_eq!(direct.iter().map(id).collect::<Vec<_>>(), [id(&inner)]);
    let all = ours.related(Kind::Group, &key(&outer), Relation::TransitiveMembers).await.unwrap();
    assert_eq!(all.len(), 2);
    hers.unlink(Kind::Group, &key(&inner), Relation::Members, &bob.principal).await.unwrap();
    assert_eq!(his.groups_of(Kind::User, &him).await.unwrap(), Vec::<String>::new());
    for wrong in [json!({"mailEnabled": true}), json!({"securityEnabled": false}), json!({"groupTypes": ["Unified"]})] {
        assert_eq!(code(ours.update(Kind::Group, &key(&outer), &wrong).await).0, 400);
    }
    ours.delete(Kind::Group, &key(&outer)).await.unwrap();
    let found =
        ours.by_ids(&[id(&outer), id(&inner), bob.principal.clone()], &[Kind::User, Kind::Group]).await.unwrap();
    assert_eq!(found.len(), 2);
}

#[tokio::test]
async fn the_last_administrator_stays_and_other_tenants_are_not_there() {
    let server = Server::start_without_worker().await;
    let admin = server.call.caller.clone();
    let ours = directory(&server, &admin);
    let me = Key::Id(admin.principal.clone());
    let application = ours.list(Kind::Application).await.unwrap().remove(0);
    assert_eq!((&application["displayName"], &application["appId"]), (&json!("lazuli-owner"), &json!(admin.app_id)));
    for refused in [
        ours.delete(Kind::ServicePrincipal, &me).await,
        ours.update(Kind::ServicePrincipal, &me, &json!({"accountEnabled": false})).await,
        ours.delete(Kind::Application, &key(&application)).await,
    ] {
        assert!(refused.unwrap_err().message().contains("last administrator"));
    }
    let (foreign, _) = other_tenant(&server).await;
    let theirs = directory(&server, &foreign);
    assert_eq!(code(theirs.get(Kind::ServicePrincipal, &me).await).0, 404);
    assert_eq!(code(theirs.get(Kind::Application, &Key::AppId(admin.app_id.clone())).await).0, 404);
    assert_eq!(theirs.by_ids(std::slice::from_ref(&admin.principal), &Kind::ALL).await.unwrap(), Vec::<Value>::new());
    assert_eq!(theirs.list(Kind::ServicePrincipal).await.unwrap().len(), 1);
    // An owner of a subscription does not administer the directory.
    assert_eq!(code(theirs.create(Kind::User, &user("a@x")).await).0, 403);
    let unknown = theirs.create(Kind::ServicePrincipal, &json!({"appId": admin.app_id})).await;
    assert!(unknown.unwrap_err().message().contains("does not reference a valid application object"));
    server.engine.set_administrator(Some(&foreign.tenant), &foreign.principal, true).await.unwrap();
    assert!(theirs.create(Kind::User, &user("a@x")).await.is_ok());
}

#[tokio::test]
async fn a_certificate_never_takes_anothers_place() {
    let server = Server::start_without_worker().await;
    let admin = server.call.caller.clone();
    let ours = directory(&server, &admin);
    // Self-signed, of CN=t, from 2020 to 2120; its key was thrown away.
    let text = include_str!("certificate.pem");
    let der: String = text.lines().filter(|l| !l.starts_with("-----")).collect::<Vec<_>>().join("\n");
    let victim = ours.create(Kind::Application, &json!({"displayName": "victim"})).await.unwrap();
    let secret = ours.add_password(Kind::Application, &key(&victim), &json!({})).await.unwrap();
    let body =
        json!({"displayName": "thief", "keyCredentials": [{"key": der, "keyId": secret["keyId"], "usage": "Verify"}]});
    let thief = ours.create(Kind::Application, &body).await.unwrap();
    assert_eq!(thief["keyCredentials"][0]["customKeyIdentifier"].as_str().unwrap().len(), 40);
    assert_ne!(thief["keyCredentials"][0]["keyId"], secret["keyId"]);
    assert_eq!(
        ours.get(Kind::Application, &key(&victim)).await.unwrap()["passwordCredentials"].as_array().unwrap().len(),
        1
    );

    // What is known stays without its key, what is left out goes.
    let both = json!({"keyCredentials": [thief["keyCredentials"][0], {"key": der, "displayName": "second"}]});
    ours.update(Kind::Application, &key(&thief), &both).await.unwrap();
    let shown = ours.get(Kind::Application, &key(&thief)).await.unwrap();
    let mut names: Vec<&str> =
        shown["keyCredentials"].as_array().unwrap().iter().map(|k| k["displayName"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["CN=t", "second"]);
    ours.update(Kind::Application, &key(&thief), &json!({"keyCredentials": []})).await.unwrap();
    assert_eq!(ours.get(Kind::Application, &key(&thief)).await.unwrap()["keyCredentials"], json!([]));
    for (wrong, refusal) in [
        (json!({"key": "AAAA"}), "KeyCredentialsInvalidValue"),
        (json!({"key": der, "endDateTime": "9000-01-01T00:00:00Z"}), "KeyCredentialsInvalidEndDate"),
        (json!({"key": der, "usage": "Sign"}), "KeyCredentialsInvalidValue"),
    ] {
        let refused = ours.update(Kind::Application, &key(&thief), &json!({"keyCredentials": [wrong]})).await;
        assert_eq!(code(refused), (400, refusal.to_owned()));
    }
}
