//! Hostile callers at every door (RB-2; mission: bad input of identities): whoever has rights in another tenant only, whoever has
//! none, whoever signs in not at all. Every route of the engine's own table is asked for resources that are there, and answered
//! with 401, 403 or 404, without a byte of them; the directory and the blob plane too. The owner, asked the same, sees them: the test is
//! not blind. (A path that is in no table is answered by no debug build.)

mod paths;
mod populate;
mod world;

use lazuli_api::graph_routes;
use lazuli_authz::rbac::{self, Plane, role_allows};
use lazuli_engine::Route;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use world::{SECRET, World, names};

/// Without the right to be told anything.
const REFUSED: [u16; 3] = [401, 403, 404];
/// The same of blobs; 400, 405 and 409 for what is no operation at all.
const CLOSED: [u16; 6] = [400, 401, 403, 404, 405, 409];

/// What any of the operations may want, so that none is refused for its body alone.
fn body_for(route: &Route, w: &World) -> Option<Value> {
    let body = || {
        json!({"location": "eastus", "Subject": {"Attributes": {"ObjectId": w.owner_object}}, "Actions": [], "properties": {
            "roleName": "mine", "assignableScopes": [format!("/subscriptions/{}", w.subscription)],
            "permissions": [{"actions": ["*"]}], "roleDefinitionId": w.owner_role, "principalId": w.owner_object,
            "level": "ReadOnly"}})
    };
    (!matches!(route.method, "GET" | "DELETE")).then(body)
}

/// In one's own tenant, the names of the roles are no secret, nor what one may do oneself.
fn open_at_home(route: &Route) -> bool {
    route.method == "GET" && ["/roleDefinitions", "/permissions"].iter().any(|end| route.path.ends_with(end))
}

async fn told(response: Response) -> (u16, String) {
    let headers = format!("{:?}", response.headers());
    (response.status().as_u16(), headers + &response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_opens_to_strangers() {
    let w = World::start().await;
    let before = w.everything().await;
    let routes = w.engine.routes();
    assert!(routes.len() > 350, "{} routes", routes.len());
    let mut wrong = Vec::new();
    let callers = [("another tenant's owner", &w.foreign), ("nobody", &w.nobody), ("an unknown token", &w.forged)];
    for (who, token) in callers {
        for route in &routes {
            let path = names(&route.path, &w);
            let (status, text) = told(w.arm(route.method, &path, token, body_for(route, &w)).await).await;
            let may_be = REFUSED.contains(&status) || who == "nobody" && open_at_home(route);
            if !may_be || text.contains(SECRET) {
                wrong.push(format!("{who}: {} {path}: {status} {text}", route.method));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    let (status, _) = told(w.arm("GET", "/subscriptions", "", None).await).await;
    assert_eq!(status, 401, "no token at all");
    for list in ["/subscriptions", "/tenants"] {
        for token in [&w.foreign, &w.nobody] {
            let (status, text) = told(w.arm("GET", list, token, None).await).await;
            assert!(status == 200 && !text.contains(&w.subscription) && !text.contains(SECRET), "{list}: {text}");
        }
    }
    assert_eq!(w.everything().await, before, "nothing was changed");
}

/// The right whose lack is told: `perform action '…'`.
fn missing_right(text: &str) -> Option<&str> {
    text.split_once("perform action '")?.1.split_once('\'').map(|(right, _)| right)
}

/// Which right each route asks for and which of Azure's roles have it, and what the owner gets there (`*`: with what is secret):
/// reviewed as a file. A route that asks for none fails, and so does a new one that nobody has looked at.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_for_a_right() {
    let w = World::start().await;
    let roles: Vec<(char, _)> = ('A'..).zip(rbac::built_in_roles()).collect();
    let mut table: String = roles.iter().map(|(letter, role)| format!("{letter} {}\n", role.role_name)).collect();
    table.push('\n');
    let mut open = Vec::new();
    for route in w.engine.routes() {
        let path = names(&route.path, &w);
        let (status, text) = told(w.arm(route.method, &path, &w.nobody, body_for(&route, &w)).await).await;
        let asked = match (status, missing_right(&text)) {
            (403, Some(right)) => {
                let allowed = |role| role_allows(role, right, Plane::Control);
                let marks: String =
                    roles.iter().map(|(letter, role)| if allowed(role) { *letter } else { '.' }).collect();
                format!("{marks} {right}")
            }
            // Who sees nothing of a subscription is told that it is not there.
            (404, _) if text.contains("SubscriptionNotFound") => "(sees the subscription)".to_owned(),
            (200, _) if open_at_home(&route) => "(of the tenant)".to_owned(),
            (404, _) if text.contains("RoleDefinitionDoesNotExist") => "(of the tenant)".to_owned(),
            (404, _) if text.contains("\"The operation '") => "(may read what it is about)".to_owned(),
            _ => {
                open.push(format!("{} {path}: {status} {text}", route.method));
                continue;
            }
        };
        let seen = match route.method {
            "GET" => {
                let (status, text) = told(w.arm("GET", &path, &w.owner, None).await).await;
                assert!(![401, 403].contains(&status) && status < 500, "{path}: {status} {text}");
                format!("{status}{}", if text.contains(SECRET) { "*" } else { " " })
            }
            _ => "    ".to_owned(),
        };
        table.push_str(&format!("{seen} {:6} {}\n            {asked}\n", route.method, route.path));
    }
    assert!(open.is_empty(), "{} routes ask for no right:\n{}", open.len(), open.join("\n"));
    insta::assert_snapshot!("routes", table);
}

/// In whose directory what is read, and by whom it is changed (RFD 8).
#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_for_its_own_tenant() {
    let w = World::start().await;
    let before = w.whole_directory().await;
    let user = format!("https://graph.microsoft.com/v1.0/directoryObjects/{}", w.directory["users"]);
    let body = json!({"displayName": "x", "@odata.id": user, "ids": [w.directory["users"]], "groupIds": [w.directory["groups"]],
        "mailNickname": "x", "mailEnabled": false, "securityEnabled": true, "accountEnabled": true, "keyId": w.directory["users"],
        "userPrincipalName": "x@contoso.example", "passwordProfile": {"password": "correct horse battery"}, "name": "x",
        "appId": w.owner_object, "issuer": "https://issuer.example", "subject": "x", "audiences": ["x"]});
    let reads = ["getMemberGroups", "getMemberObjects", "checkMemberGroups", "checkMemberObjects", "getByIds"];
    let (mut wrong, mut shown) = (Vec::new(), 0);
    let routes = graph_routes();
    assert!(routes.len() > 150, "{} routes", routes.len());
    for (method, route) in &routes {
        let path = w.object(route);
        let body = || (*method != "GET" && *method != "DELETE").then(|| body.clone());
        let is_read = *method == "GET" || reads.iter().any(|read| path.ends_with(read));
        let about = format!("{method} {route}");
        for (who, token, may_be) in [
            ("a forged token", &w.forged_graph, &[401][..]),
            ("a token for resources", &w.owner, &[401]),
            ("another tenant's", &w.foreign_graph, &[200, 400, 403, 404]),
            // Names are no secret in their own tenant. Clients are nobody's `me`.
            ("nobody", &w.nobody_graph, if is_read { &[200, 400, 404] } else { &[400, 403, 404] }),
        ] {
            let (status, text) = told(w.graph(method, &path, token, body()).await).await;
            let tells = text.contains(SECRET) && !(who == "nobody" && is_read);
            if !may_be.contains(&status) || tells {
                wrong.push(format!("{who}: {about}: {status} {text}"));
            }
        }
        if *method == "GET" {
            let (status, text) = told(w.graph("GET", &path, &w.owner_graph, None).await).await;
            // A client is nobody's `me`; what is in the directory is owned by who made it.
            let expected = match route.as_str() {
                me if me.starts_with("me") => 400,
                owner if owner.ends_with("owners/{related}/$ref") => 404,
                _ => 200,
            };
            if status != expected {
                wrong.push(format!("the owner: {about}: {status} {text}"));
            }
            shown += usize::from(text.contains(SECRET));
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    assert!(shown >= 15, "{shown} of the routes show what is secret");
    assert_eq!(w.whole_directory().await, before, "nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blob_plane_stays_closed() {
    let w = World::start().await;
    let mut wrong = Vec::new();
    // Every operation of the service's description, and some that are none.
    let of_service = ["list", "properties", "stats", "userdelegationkey", "batch", "blobs"]
        .map(|c| format!("?restype=service&comp={c}"));
    let of_container =
        ["list", "metadata", "acl", "lease", "undelete", "rename"].map(|c| format!("/data?restype=container&comp={c}"));
    let of_blob = [
        "block",
        "blocklist",
        "page",
        "pagelist",
        "appendblock",
        "seal",
        "properties",
        "metadata",
        "snapshot",
        "lease",
        "tier",
        "tags",
        "copy&copyid=x",
        "undelete",
        "expiry",
        "query",
        "incrementalcopy",
    ]
    .map(|c| format!("/data/blob?comp={c}"));
    let plain =
        ["?comp=list", "?restype=account&comp=properties", "/data?restype=container", "/data/blob", "/none/blob"];
    let mut paths: Vec<String> = plain.map(str::to_owned).to_vec();
    paths.extend(of_service.into_iter().chain(of_container).chain(of_blob));
    let signed = w.foreign_sas();
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::POST] {
        for path in &paths {
            for (who, token) in
                [("nobody signed in", ""), ("another tenant's", &w.foreign_storage), ("nobody", &w.nobody_storage)]
            {
                let (status, text) = told(w.blob(method.clone(), path, token).await).await;
                if !CLOSED.contains(&status) || text.contains(SECRET) {
                    wrong.push(format!("{who}: {method} {path}: {status} {text}"));
                }
            }
            let mark = if path.contains('?') { '&' } else { '?' };
            let (status, text) = told(w.blob(method.clone(), &format!("{path}{mark}{signed}"), "").await).await;
            if !CLOSED.contains(&status) || text.contains(SECRET) {
                wrong.push(format!("another account's SAS: {method} {path}: {status} {text}"));
            }
        }
    }
    for kind in ["BlockBlob", "PageBlob", "AppendBlob"] {
        for token in [&w.foreign_storage, &w.nobody_storage] {
            let put = w.client.put(format!("{}/ownersaccount/data/blob", w.running.base_url)).bearer_auth(token);
            let put = put.header("x-ms-version", "2021-12-02").header("x-ms-blob-type", kind).body("x");
            let (status, text) = told(put.send().await.unwrap()).await;
            if !REFUSED.contains(&status) {
                wrong.push(format!("PUT of a {kind}: {status} {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    let (status, text) = told(w.blob(Method::GET, "/data/blob", &w.owner_storage).await).await;
    assert!(status == 200 && text.contains(SECRET), "the owner reads it: {status} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serial_consoles_stay_closed() {
    let w = World::start().await;
    let machine = w.compute("virtualMachines/machine");
    let ask = async |token: &str| {
        let url = format!("{}/serialConsole{machine}?authorization={token}", w.running.base_url);
        let request = w.client.get(url).header("connection", "Upgrade").header("upgrade", "websocket");
        let request =
            request.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        request.send().await.unwrap().status().as_u16()
    };
    for (who, token) in [
        ("nobody signed in", ""),
        ("another tenant's", &w.foreign),
        ("nobody", &w.nobody),
        ("a forged token", &w.forged),
    ] {
        let status = ask(token).await;
        assert!(REFUSED.contains(&status), "{who}: {status}");
    }
    assert_eq!(ask(&w.owner).await, 101, "the owner gets it");
}

/// The address of a managed disk's bytes is a secret of whoever was given it.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_disks_stay_closed() {
    let w = World::start().await;
    let sas = w.disk_sas().await;
    let (address, query) = sas.split_once('?').unwrap();
    let read = async |url: String| {
        w.client.get(url).header("x-ms-version", "2021-12-02").send().await.unwrap().status().as_u16()
    };
    assert_eq!(read(sas.clone()).await, 200, "whoever holds it reads");
    let other = query.replace("sig=", "sig=A");
    for url in
        [address.to_owned(), format!("{address}?{other}"), format!("{}x?{query}", address.trim_end_matches("abcd"))]
    {
        let status = read(url.clone()).await;
        assert!(REFUSED.contains(&status), "{url}: {status}");
    }
    for token in [&w.foreign_storage, &w.nobody_storage] {
        let asked = w.client.get(address).header("x-ms-version", "2021-12-02").bearer_auth(token);
        let status = asked.send().await.unwrap().status().as_u16();
        assert!(REFUSED.contains(&status), "{status}");
    }
}
