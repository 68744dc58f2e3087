use super::{Server, definition};
use lazuli_arm::ArmError;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn names_and_identifiers_are_unique() {
    let server = Server::start().await;
    server.gallery().await;
    let other = server.group.to_string().replace("rg1", "rg2").parse().unwrap();
    server.engine.put(&server.call, &other, json!({"location": "eastus"})).await.unwrap();
    let twin = other.resource("Microsoft.Compute", "galleries", "G");
    let error = server.engine.put(&server.call, &twin, json!({"location": "eastus"})).await.unwrap_err();
    assert!(error.message.starts_with("The gallery name G is not unique within the subscription"), "{error}");

    let error = server.put("galleries/g/images/j", definition("SKU1")).await.unwrap_err();
    assert!(error.message.starts_with("Gallery image: i identified by (publisher:p, offer:o, sku:SKU1)"), "{error}");
    server.put("galleries/g/images/j", definition("sku2")).await.unwrap();
    server.put("galleries/g/images/i", definition("sku1")).await.unwrap();
    assert_eq!(server.list("galleries/g", "Microsoft.Compute/galleries/images").await, ["i", "j"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_are_needed_and_go_last() {
    let server = Server::start().await;
    let error = server.put("galleries/g/images/i", definition("sku1")).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "ParentResourceNotFound"));
    server.gallery().await;
    let error = server.delete("galleries/g").await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "CannotDeleteResource"));
    assert!(error.message.contains("Some existing nested resource IDs include: '"), "{error}");
    server.delete("galleries/g/images/i").await.unwrap();
    server.delete("galleries/g").await.unwrap();
    assert_eq!(server.get("galleries/g").await.unwrap_err().code, "ResourceNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_keep_what_is_immutable() {
    let server = Server::start().await;
    server.gallery().await;
    let mut changed = definition("sku1");
    changed["properties"]["osState"] = json!("Specialized");
    let error = server.put("galleries/g/images/i", changed).await.unwrap_err();
    assert_eq!(error.message, "Changing property 'galleryImage.properties.osState' is not allowed.");
    let patch = json!({"properties": {"description": "d"}, "tags": {"k": "v"}});
    let id = server.id("galleries/g/images/i");
    let written = server.engine.patch(&server.call, &id, patch).await.unwrap();
    assert_eq!(written.resource["properties"]["description"], "d");
    assert_eq!(written.resource["properties"]["osState"], "Generalized");
    assert_eq!(written.resource["tags"], json!({"k": "v"}));
}

/// Recording test_update_gallery_permissions, and direct sharing as in the swagger's examples.
#[tokio::test(flavor = "multi_thread")]
async fn sharing_is_stored_shown_and_reset() {
    let server = Server::start().await;
    let groups = json!({"location": "eastus", "properties": {"sharingProfile": {"permissions": "Groups"}}});
    server.put("galleries/g", groups).await.unwrap();
    let subscription = "34a4ab42-0d72-47d9-bd1a-aed207386dac";
    let add = json!({"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": [subscription]}]});
    let view = server.action("galleries/g", "share", add).await.unwrap();
    assert_eq!(view.output, None, "recorded");
    let profile = async |name: &str, value: &str| {
        let mut call = server.call.clone();
        call.query.insert(name.into(), value.into());
        server.engine.get(&call, &server.id("galleries/g")).await.unwrap()["properties"]["sharingProfile"].clone()
    };
    let shared = json!({"permissions": "Groups", "groups": [{"type": "Subscriptions", "ids": [subscription]}]});
    assert_eq!(profile("$select", "permissions").await, shared);
    assert_eq!(profile("$expand", "SharingProfile/Groups").await, shared);
    assert_eq!(profile("$top", "1").await, json!({"permissions": "Groups"}));
    // A PUT that does not speak of it leaves it, and a shared gallery stays.
    server.put("galleries/g", json!({"location": "eastus", "properties": {"description": "d"}})).await.unwrap();
    assert_eq!(profile("$select", "Permissions").await, shared);
    let error = server.delete("galleries/g").await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "OperationNotAllowed"));
    server.action("galleries/g", "Share", json!({"operationType": "Reset"})).await.unwrap();
    assert_eq!(profile("$select", "Permissions").await, json!({"permissions": "Private"}));
    assert_eq!(server.get("galleries/g").await.unwrap()["properties"]["provisioningState"], "Succeeded");
    let error = server.action("galleries/g", "share", json!({})).await.unwrap_err();
    assert_eq!(error.message, "Required parameter 'sharingUpdate.operationType' is missing (null).");
    assert_eq!(server.action("galleries/g", "sell", json!({})).await.unwrap_err().code, "InvalidResourceAction");
    server.delete("galleries/g").await.unwrap();
    server.put("galleries/g", json!({"location": "eastus"})).await.unwrap();
}

/// Of many that want one name, one gets it: a gallery's in its subscription, a triple in its gallery (ID-4).
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_writers_gets_a_name() {
    let server = Server::start().await;
    for n in 0..6 {
        let group = server.group.to_string().replace("rg1", &format!("other{n}")).parse().unwrap();
        server.engine.put(&server.call, &group, json!({"location": "eastus"})).await.unwrap();
    }
    let one_of = async |ids: Vec<lazuli_arm::ResourceId>, body: Value| -> Vec<ArmError> {
        let put = |id| {
            let (engine, call, body) = (server.engine.clone(), server.call.clone(), body.clone());
            tokio::spawn(async move { engine.put(&call, &id, body).await.map(drop) })
        };
        let mut errors = Vec::new();
        for task in ids.into_iter().map(put).collect::<Vec<_>>() {
            errors.extend(task.await.unwrap().err());
        }
        errors
    };
    let galleries = (0..6).map(|n| {
        let group = server.group.to_string().replace("rg1", &format!("other{n}"));
        format!("{group}/providers/Microsoft.Compute/galleries/Same").parse().unwrap()
    });
    let errors = one_of(galleries.collect(), json!({"location": "eastus"})).await;
    assert_eq!(errors.len(), 5);
    assert!(errors.iter().all(|e| e.status == 409 && e.message.contains("is not unique within the subscription")));
    server.put("galleries/g", json!({"location": "eastus"})).await.unwrap();
    let definitions = (0..6).map(|n| server.id(&format!("galleries/g/images/i{n}"))).collect();
    let errors = one_of(definitions, definition("sku1")).await;
    assert_eq!(errors.len(), 5);
    assert!(errors.iter().all(|e| e.message.contains("identified by (publisher:p, offer:o, sku:sku1) already exists")));
    // The name is free again when its owner is gone.
    let names = server.list("galleries/g", "Microsoft.Compute/galleries/images").await;
    server.delete(&format!("galleries/g/images/{}", names[0])).await.unwrap();
    server.put("galleries/g/images/another", definition("SKU1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn etags_guard_definitions() {
    let server = Server::start().await;
    server.gallery().await;
    let id = server.id("galleries/g/images/i");
    let (_, etag) = server.engine.get_with_etag(&server.call, &id).await.unwrap();
    let mut call = server.call.clone();
    call.if_match = Some(etag);
    let described = |text: &str| json!({"properties": {"description": text}});
    server.engine.patch(&call, &id, described("first")).await.unwrap();
    let error = server.engine.patch(&call, &id, described("second")).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (412, "PreconditionFailed"));
    assert_eq!(server.engine.delete(&call, &id).await.unwrap_err().status, 412);
    assert_eq!(server.get("galleries/g/images/i").await.unwrap()["properties"]["description"], "first");
    server.engine.patch(&server.call, &id, described("last wins")).await.unwrap();
}
