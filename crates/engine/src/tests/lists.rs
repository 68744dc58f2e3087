//! Lists: their order, their pages, and what the list of everything shows.

use super::{Server, definition, disk_bytes};
use crate::call::Call;
use lazuli_arm::{ResourceId, ResourceType};
use serde_json::{Value, json};

/// All items, in pages of `top`.
async fn pages(server: &Server, parent: &ResourceId, collection: &str, top: usize) -> Vec<Value> {
    let (namespace, types) = collection.split_once('/').unwrap();
    let collection = ResourceType { namespace: namespace.into(), types: types.split('/').map(str::to_owned).collect() };
    let mut call = server.call.clone();
    call.query.insert("$top".into(), top.to_string());
    let mut items = Vec::new();
    loop {
        let page = server.engine.list(&call, parent, &collection).await.unwrap();
        assert!(page.items.len() <= top);
        items.extend(page.items);
        match page.next {
            Some(token) => call.query.insert("$skiptoken".into(), token),
            None => return items,
        };
    }
}

fn names(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["name"].as_str().unwrap()).collect()
}

/// IV-2: by number, whatever the size of a page; names that are one number are two versions.
#[tokio::test(flavor = "multi_thread")]
async fn versions_go_by_number_over_all_pages() {
    let server = Server::start().await;
    server.gallery().await;
    server.put("galleries/g/images/i-2", definition("sku2")).await.unwrap();
    server.uploaded("d1", &disk_bytes(1)).await;
    let body = json!({"location": "eastus", "properties": {
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}}}});
    let server = server.idle().await;
    for name in ["10.0.0", "2.0.0", "1.0.10", "1.0.9", "01.0.9", "1.0.2147483647"] {
        let id = server.id(&format!("galleries/g/images/i/versions/{name}"));
        server.engine.put(&server.call, &id, body.clone()).await.unwrap();
    }
    let other = server.id("galleries/g/images/i-2/versions/1.0.0");
    server.engine.put(&server.call, &other, body).await.unwrap();
    let wanted = ["01.0.9", "1.0.9", "1.0.10", "1.0.2147483647", "2.0.0", "10.0.0"];
    for top in [1, 2, 5, 6, 7, 1000] {
        let parent = server.id("galleries/g/images/i");
        let items = pages(&server, &parent, "Microsoft.Compute/galleries/images/versions", top).await;
        assert_eq!(names(&items), wanted, "{top}");
    }
    let definitions = pages(&server, &server.id("galleries/g"), "Microsoft.Compute/galleries/images", 1).await;
    assert_eq!(names(&definitions), ["i", "i-2"]);
}

/// What Azure does not track (settings, parts of others) is not in the list of all resources; nothing in it has properties.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_everything_shows_what_is_tracked() {
    let server = Server::start().await;
    server.gallery().await;
    let network = json!({"location": "eastus", "tags": {"a": "b"}, "properties": {
        "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": "s", "properties": {"addressPrefix": "10.0.0.0/24"}}]}});
    server.put("virtualNetworks/v", network).await.unwrap();
    let account = server.group.resource("Microsoft.Storage", "storageAccounts", "acct1");
    let body = json!({"sku": {"name": "Standard_LRS"}, "kind": "StorageV2", "location": "eastus"});
    server.engine.put(&server.call, &account, body).await.unwrap();
    let subscription = ResourceId::subscription(&server.group.subscription);
    for parent in [&server.group, &subscription] {
        for top in [1, 1000] {
            let items = pages(&server, parent, "Microsoft.Resources/resources", top).await;
            assert_eq!(names(&items), ["g", "i", "v", "acct1"], "{parent} {top}");
            assert!(items.iter().all(|item| item.get("properties").is_none()), "{items:?}");
            assert_eq!(items[2]["tags"], json!({"a": "b"}));
            assert_eq!(items[3]["sku"]["name"], "Standard_LRS");
        }
    }
    let only = |filter: &str| {
        let mut call = Call { ..server.call.clone() };
        call.query.insert("$filter".into(), filter.into());
        call.query.insert("$expand".into(), "createdTime,changedTime,provisioningState".into());
        call
    };
    let everything = ResourceType { namespace: "Microsoft.Resources".into(), types: vec!["resources".into()] };
    let list =
        async |filter: &str| server.engine.list(&only(filter), &subscription, &everything).await.map(|page| page.items);
    let found = list("resourceGroup eq 'RG1' and resourceType eq 'Microsoft.Network/virtualNetworks'").await.unwrap();
    assert_eq!(names(&found), ["v"]);
    assert_eq!(found[0]["provisioningState"], "Succeeded");
    assert!(found[0]["createdTime"].is_string() && found[0]["changedTime"].is_string(), "{found:?}");
    assert!(list("resourceGroup eq 'other'").await.unwrap().is_empty());
    assert_eq!(list("size eq '1'").await.unwrap_err().code, "InvalidFilterInQueryString");
}
