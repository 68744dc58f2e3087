use super::{Server, definition};
use serde_json::json;

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
