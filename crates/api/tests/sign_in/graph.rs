//! The directory by Microsoft Graph: who gets in, how answers and refusals look.

use crate::world::{LOGIN, PASSWORD, World};
use serde_json::{Value, json};

const DIRECTORY: &str = "https://graph.microsoft.com/.default";

async fn token(world: &World, scope: &str) -> String {
    let (client, secret) = (&world.owner.client_id, &world.owner.client_secret);
    let fields =
        [("grant_type", "client_credentials"), ("client_id", client), ("client_secret", secret), ("scope", scope)];
    let answer = world.token_at(&world.owner.tenant_id, &fields).await;
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn person(world: &World) -> String {
    let fields = [
        ("grant_type", "password"),
        ("client_id", crate::world::AZ),
        ("username", LOGIN),
        ("password", PASSWORD),
        ("scope", DIRECTORY),
    ];
    world.token(&fields).await["access_token"].as_str().unwrap().to_owned()
}

async fn ask(world: &World, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let method = method.parse().unwrap();
    let mut request = world.client.request(method, world.url(&format!("/graph/v1.0{path}"))).bearer_auth(token);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[tokio::test]
async fn only_tokens_for_the_directory_open_it() {
    let world = World::start().await;
    let own = world.url("/graph/.default");
    for scope in [DIRECTORY, own.as_str()] {
        let token = token(&world, scope).await;
        assert_eq!(ask(&world, &token, "GET", "/users", None).await.0, 200);
        // And nothing else.
        assert_eq!(world.arm(&json!({"access_token": token})).await, 401);
    }
    let arm = token(&world, "https://management.azure.com/.default").await;
    let (status, refused) = ask(&world, &arm, "GET", "/users", None).await;
    assert_eq!((status, &refused["error"]["code"]), (401, &json!("InvalidAuthenticationToken")));
    let answer = world.client.get(world.url("/graph/v1.0/me")).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let refused: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(refused["error"]["message"], "Access token is empty.");
    assert_eq!(refused["error"]["innerError"].as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn lists_are_paged_filtered_and_cut_down() {
    let world = World::start().await;
    let token = token(&world, DIRECTORY).await;
    for n in 0..5 {
        let group = json!({"displayName": format!("team {n}"), "mailEnabled": false, "mailNickname": "t", "securityEnabled": true});
        assert_eq!(ask(&world, &token, "POST", "/groups", Some(group)).await.0, 201);
    }
    let (mut found, mut next) = (
        Vec::new(),
        "/groups?$top=2&$select=displayName&$filter=startswith(displayName,'TEAM')&$count=true".to_owned(),
    );
    loop {
        let (status, page) = ask(&world, &token, "GET", &next, None).await;
        assert_eq!((status, &page["@odata.count"]), (200, &json!(5)));
        found.extend(page["value"].as_array().unwrap().iter().map(|g| g["displayName"].to_string()));
        let Some(link) = page["@odata.nextLink"].as_str() else { break };
        next = link.strip_prefix(&world.url("/graph/v1.0")).unwrap().to_owned();
    }
    found.sort();
    assert_eq!(found, ["\"team 0\"", "\"team 1\"", "\"team 2\"", "\"team 3\"", "\"team 4\""]);
    for (path, code) in [
        ("/groups?$filter=nope eq 1", "Request_UnsupportedQuery"),
        ("/groups?$expand=members($filter=x)", "BadRequest"),
        ("/users?$expand=members", "BadRequest"),
        ("/groups?$search=\"displayName:team\"", "Request_UnsupportedQuery"),
        ("/devices", "BadRequest"),
        ("/groups/22222222-2222-2222-2222-222222222222", "Request_ResourceNotFound"),
        ("/me", "BadRequest"),
    ] {
        let (status, refused) = ask(&world, &token, "GET", path, None).await;
        assert!(status >= 400 && refused["error"]["code"] == code, "{path}: {refused}");
    }
}

#[tokio::test]
async fn groups_are_searched_and_shown_with_who_is_in_them() {
    let world = World::start().await;
    let token = token(&world, DIRECTORY).await;
    let mut ids = Vec::new();
    for name in ["Build Team", "Test Crew"] {
        let group = json!({"displayName": name, "mailEnabled": false, "mailNickname": "t", "securityEnabled": true});
        let (_, made) = ask(&world, &token, "POST", "/groups", Some(group)).await;
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    let alice = ask(&world, &token, "GET", &format!("/users/{LOGIN}"), None).await.1["id"].as_str().unwrap().to_owned();
    let member = json!({"@odata.id": format!("https://graph.microsoft.com/v1.0/directoryObjects/{alice}")});
    let path = format!("/groups/{}/members/$ref", ids[0]);
    assert_eq!(ask(&world, &token, "POST", &path, Some(member)).await.0, 204);

    let search = async |text: &str| {
        let url = world.url(&format!("/graph/v1.0/groups?$search={text}&$count=true"));
        let answer =
            world.client.get(url).bearer_auth(&token).header("ConsistencyLevel", "eventual").send().await.unwrap();
        let page: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        page["value"].as_array().map(|all| all.iter().map(|g| g["displayName"].to_string()).collect::<Vec<_>>())
    };
    assert_eq!(search("\"displayName:tea\"").await.unwrap(), ["\"Build Team\""]);
    assert_eq!(search("\"displayName:te\"").await.unwrap().len(), 2);
    assert_eq!(search("tea").await, None, "refused");

    let (_, one) = ask(&world, &token, "GET", &format!("/groups/{}?$expand=members($select=id)", ids[0]), None).await;
    assert_eq!(one["members"], json!([{"@odata.type": "#microsoft.graph.user", "id": alice}]));
    let (_, all) = ask(&world, &token, "GET", "/groups?$expand=members&$select=displayName", None).await;
    let members = |name: &str| {
        let group = all["value"].as_array().unwrap().iter().find(|g| g["displayName"] == name);
        group.unwrap()["members"].as_array().unwrap().len()
    };
    assert_eq!((members("Build Team"), members("Test Crew")), (1, 0));
    let (_, owned) = ask(&world, &token, "GET", &format!("/groups/{}?$expand=owners", ids[1]), None).await;
    assert_eq!(owned["owners"][0]["id"], world.owner.object_id);
}

#[tokio::test]
async fn a_person_sees_and_a_client_changes() {
    let world = World::start().await;
    let (client, person) = (token(&world, DIRECTORY).await, person(&world).await);
    let (status, me) = ask(&world, &person, "GET", "/me", None).await;
    assert_eq!((status, &me["userPrincipalName"]), (200, &json!(LOGIN)));
    let alice = me["id"].as_str().unwrap();
    let (status, refused) = ask(&world, &person, "DELETE", &format!("/users/{LOGIN}"), None).await;
    assert_eq!((status, &refused["error"]["code"]), (403, &json!("Authorization_RequestDenied")));
    let change = json!({"jobTitle": "Chief"});
    assert_eq!(ask(&world, &client, "PATCH", &format!("/users('{LOGIN}')"), Some(change)).await.0, 204);

    let stubs = json!({"ids": [alice, world.owner.object_id], "types": ["user", "servicePrincipal"]});
    let (_, found) = ask(&world, &person, "POST", "/directoryObjects/getByIds", Some(stubs)).await;
    let mut types: Vec<&str> =
        found["value"].as_array().unwrap().iter().map(|o| o["@odata.type"].as_str().unwrap()).collect();
    types.sort_unstable();
    assert_eq!(types, ["#microsoft.graph.servicePrincipal", "#microsoft.graph.user"]);
    let filter = format!("/servicePrincipals?$filter=servicePrincipalNames/any(c:c eq '{}')", world.owner.client_id);
    let (_, found) = ask(&world, &person, "GET", &filter, None).await;
    assert_eq!(found["value"][0]["id"], world.owner.object_id);
    let malformed =
        world.client.post(world.url("/graph/v1.0/groups")).bearer_auth(&client).body("{").send().await.unwrap();
    assert_eq!(malformed.status(), 400);
    assert!(!found.to_string().contains(&world.owner.client_secret));
}
