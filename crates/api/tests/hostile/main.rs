//! Hostile callers at every door (RB-2; mission: bad input of identities): whoever has rights in another tenant only, whoever has
//! none, whoever signs in not at all. Every route of the engine's own table is asked for resources that are there, and answered
//! with 401, 403 or 404, without a byte of them; the blob plane too. The owner, asked the same, sees them: the test is not blind.

mod paths;
mod world;

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
    assert!(routes.len() > 250, "{} routes", routes.len());
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

/// What the routes lead to is there, and shows what nobody else may see.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_routes_open_to_the_owner() {
    let w = World::start().await;
    let (mut there, mut shown) = (0, 0);
    for route in w.engine.routes().iter().filter(|r| r.method == "GET") {
        let path = names(&route.path, &w);
        let (status, text) = told(w.arm("GET", &path, &w.owner, None).await).await;
        assert!(![401, 403].contains(&status), "{path}: {status} {text}");
        there += usize::from(status == 200);
        shown += usize::from(status == 200 && text.contains(SECRET));
    }
    assert!(there >= 70 && shown >= 35, "{there} routes lead to what is there, {shown} show what is secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blob_plane_stays_closed() {
    let w = World::start().await;
    let mut wrong = Vec::new();
    let paths = [
        "?comp=list",
        "?restype=service&comp=properties",
        "/data?restype=container",
        "/data?restype=container&comp=list",
        "/data?restype=container&comp=acl",
        "/data/blob",
        "/data/blob?comp=blocklist",
        "/data/blob?comp=metadata",
        "/none/blob",
    ];
    let signed = w.foreign_sas();
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::POST] {
        for path in paths {
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
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    let (status, text) = told(w.blob(Method::GET, "/data/blob", &w.owner_storage).await).await;
    assert!(status == 200 && text.contains(SECRET), "the owner reads it: {status} {text}");
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
