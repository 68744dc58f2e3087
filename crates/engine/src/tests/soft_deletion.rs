//! Galleries with soft deletion: deleted versions are kept aside, restored, purged.

use super::{Server, definition, disk_bytes};
use crate::providers::soft_deleted_version::SoftDeletedInternal;
use crate::reconcilers::soft_deleted;
use lazuli_arm::{ApiVersion, ArmError};
use lazuli_meta::model::ResourceQuery;
use serde_json::{Value, json};

const VERSION: &str = "galleries/g/images/i/versions/1.0.0";
const DELETED: &str = "galleries/g/softDeletedArtifactTypes/Images/artifacts/i/versions/1.0.0";
const KIND: &str = "Microsoft.Compute/galleries/softDeletedArtifactTypes/artifacts/versions";

/// A gallery with soft deletion and version 1.0.0 in East US and West US.
async fn with_version() -> (Server, Vec<u8>) {
    let server = Server::start().await;
    server.gallery().await;
    policy(&server, true).await;
    let data = disk_bytes(3);
    server.uploaded("d1", &data).await;
    server.put(VERSION, of_disk(&server)).await.unwrap();
    (server, data)
}

async fn policy(server: &Server, enabled: bool) {
    let policy = json!({"location": "eastus", "properties": {"softDeletePolicy": {"isSoftDeleteEnabled": enabled}}});
    server.put("galleries/g", policy).await.unwrap();
}

fn of_disk(server: &Server) -> Value {
    json!({"location": "eastus", "tags": {"k": "v"}, "properties": {
        "publishingProfile": {"targetRegions": [{"name": "eastus"}, {"name": "westus"}]},
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}}}})
}

async fn deleted(server: &Server) -> Vec<String> {
    server.list("galleries/g/softDeletedArtifactTypes/images/artifacts/i", KIND).await
}

async fn versions(server: &Server) -> Vec<String> {
    server.list("galleries/g/images/i", "Microsoft.Compute/galleries/images/versions").await
}

async fn patch(server: &Server, tail: &str, body: Value) -> Result<(), ArmError> {
    let written = server.engine.patch(&server.call, &server.id(tail), body).await?;
    server.end(written.operation.as_deref().unwrap()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_version_is_hidden_kept_and_restored() {
    let (server, data) = with_version().await;
    let before = server.get(VERSION).await.unwrap();
    let bytes = server.stored_bytes("westus").await;
    server.delete(VERSION).await.unwrap();
    assert_eq!(server.get(VERSION).await.unwrap_err().code, "ResourceNotFound");
    assert_eq!((versions(&server).await, deleted(&server).await), (vec![], vec!["1.0.0".to_owned()]));
    // One replica in each region is kept, also when everything else that used the bytes is gone.
    server.delete("disks/d1").await.unwrap();
    assert_eq!(server.stored_bytes("westus").await, bytes);

    // What the swagger's example shows.
    let shown = server.get(DELETED).await.unwrap();
    let properties = &shown["properties"];
    assert_eq!((&shown["name"], &shown["type"], &shown["location"]), (&json!("1.0.0"), &json!(KIND), &json!("eastus")));
    assert_eq!(shown["id"], json!(server.id(DELETED).to_string()));
    assert_eq!(properties["resourceArmId"], json!(server.id(VERSION).to_string()));
    assert_eq!(properties["softDeletedArtifactType"], "Images");
    assert!(properties["softDeletedTime"].as_str().unwrap().ends_with("+00:00"));
    assert_eq!(properties.as_object().unwrap().len(), 3);

    // az: PUT with nothing but the location.
    let restored = server.put(VERSION, json!({"location": "East US"})).await.unwrap();
    assert_eq!(restored, before);
    assert_eq!(deleted(&server).await, Vec::<String>::new());
    let manifest = server.internal(VERSION).await["osDisk"]["manifest"].as_str().unwrap().to_owned();
    for region in ["eastus", "westus"] {
        assert_eq!(server.stored(region, &manifest).await, data, "{region}");
    }
    // The swagger's way: PATCH with restore.
    server.delete(VERSION).await.unwrap();
    patch(&server, VERSION, json!({"properties": {"restore": true, "storageProfile": {}}, "tags": {"new": "t"}}))
        .await
        .unwrap();
    assert_eq!(server.get(VERSION).await.unwrap()["tags"], json!({"new": "t"}));
    let error = patch(&server, "galleries/g/images/i/versions/9.9.9", json!({"properties": {"restore": true}}))
        .await
        .unwrap_err();
    assert_eq!(error.code, "ResourceNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_delete_frees_the_bytes() {
    let (server, _) = with_version().await;
    let bytes = server.stored_bytes("westus").await;
    server.delete(VERSION).await.unwrap();
    server.delete(DELETED).await.unwrap();
    assert_eq!(server.get(DELETED).await.unwrap_err().code, "ResourceNotFound");
    assert!(server.stored_bytes("westus").await < bytes / 10);
    assert_eq!(server.put(VERSION, json!({"location": "eastus"})).await.unwrap_err().status, 400);

    // bypassSoftDelete (2026-03-03).
    server.put(VERSION, of_disk(&server)).await.unwrap();
    let mut call = server.call.clone();
    call.query.insert("bypasssoftdelete".into(), "true".into());
    let outcome = server.engine.delete(&call, &server.id(VERSION)).await.unwrap();
    let crate::call::Deleted::Started { operation } = outcome else { panic!("an operation was expected") };
    server.end(&operation).await.unwrap();
    assert_eq!(deleted(&server).await, Vec::<String>::new());
    // With the policy off.
    server.put(VERSION, of_disk(&server)).await.unwrap();
    policy(&server, false).await;
    server.delete(VERSION).await.unwrap();
    assert_eq!(deleted(&server).await, Vec::<String>::new());
    assert!(server.stored_bytes("westus").await < bytes / 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_deleted_versions_keep_their_name_and_their_parents() {
    let (server, _) = with_version().await;
    server.delete(VERSION).await.unwrap();
    let error = server.put(VERSION, of_disk(&server)).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "Conflict"));
    assert!(error.message.contains("is soft-deleted. Restore it"), "{error}");
    let error = server.put(VERSION, json!({"location": "westus"})).await.unwrap_err();
    assert_eq!(error.code, "InvalidResourceLocation");
    server.put(DELETED, json!({"location": "eastus"})).await.unwrap_err();

    for parent in ["galleries/g/images/i", "galleries/g"] {
        let error = server.delete(parent).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (409, "CannotDeleteResource"), "{parent}");
        assert!(error.message.starts_with("Cannot delete resource while nested resources exist."), "{error}");
    }
    let error = server.delete("galleries/g/images/i").await.unwrap_err();
    assert!(error.message.contains(&server.id(DELETED).to_string()), "{error}");
    // Once the policy is off they go along, and their bytes with the next sweep.
    policy(&server, false).await;
    server.delete("galleries/g/images/i").await.unwrap();
    server.delete("galleries/g").await.unwrap();
    let disk = server.id("disks/d1").key();
    let refs = server.engine.db().content_refs("eastus").await.unwrap();
    assert!(refs.iter().all(|r| r.resource_key == disk), "{refs:?}");
    assert!(server.engine.db().content_refs("westus").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retention_ends() {
    let (server, _) = with_version().await;
    let days = json!({"properties": {"softDeletePolicy": {"retentionPeriodInDays": 2}}});
    patch(&server, "galleries/g", days).await.unwrap();
    server.delete(VERSION).await.unwrap();
    let state: SoftDeletedInternal = serde_json::from_value(server.internal(DELETED).await).unwrap();
    assert_eq!(state.purge_ms - state.deleted_ms, 2 * 24 * 3600 * 1000);
    let mut call = server.call.clone();
    call.api_version = ApiVersion::parse(Some("2026-03-03")).unwrap();
    let shown = server.engine.get(&call, &server.id(DELETED)).await.unwrap();
    assert!(shown["properties"]["hardDeletionTargetTime"].is_string());

    assert_eq!(soft_deleted::reconcile(&server.engine, state.purge_ms - 1).await.unwrap(), 0);
    assert_eq!(soft_deleted::reconcile(&server.engine, state.purge_ms).await.unwrap(), 1);
    // Joins the deletion that was begun.
    server.delete(DELETED).await.unwrap();
    assert_eq!(deleted(&server).await, Vec::<String>::new());
    assert!(server.engine.db().content_refs("westus").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_lacks_a_region_is_kept_and_completed() {
    let server = Server::start().await;
    server.gallery().await;
    policy(&server, true).await;
    server.uploaded("d1", &disk_bytes(4)).await;
    let unblock = super::block_region(server.dir.path(), "westus");
    server.put(VERSION, of_disk(&server)).await.unwrap_err();
    // Its own region has it all: that can be restored, and tried again.
    server.delete(VERSION).await.unwrap();
    assert_eq!(deleted(&server).await, ["1.0.0"]);
    unblock();
    let restored = server.put(VERSION, json!({"location": "eastus"})).await.unwrap();
    assert_eq!(restored["properties"]["provisioningState"], "Succeeded");
    server.stored("westus", server.internal(VERSION).await["osDisk"]["manifest"].as_str().unwrap()).await;
}

/// Deleted before its sources were read: there is nothing to bring back.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_never_read_goes_for_good() {
    let server = Server::start().await;
    server.gallery().await;
    policy(&server, true).await;
    server.uploaded("d1", &disk_bytes(4)).await;
    let mut server = server.idle().await;
    server.engine.put(&server.call, &server.id(VERSION), of_disk(&server)).await.unwrap();
    let outcome = server.engine.delete(&server.call, &server.id(VERSION)).await.unwrap();
    let crate::call::Deleted::Started { operation } = outcome else { panic!("an operation was expected") };
    server.run();
    server.end(&operation).await.unwrap();
    assert_eq!((versions(&server).await, deleted(&server).await), (vec![], vec![]));
    assert!(server.engine.db().content_refs("westus").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_takes_soft_deleted_versions_along() {
    let (server, _) = with_version().await;
    server.put("galleries/g/images/j", definition("sku2")).await.unwrap();
    server.put("galleries/g/images/j/versions/1.0.0", of_disk(&server)).await.unwrap();
    server.delete(VERSION).await.unwrap();
    let crate::call::Deleted::Started { operation } = server.engine.delete(&server.call, &server.group).await.unwrap()
    else {
        panic!("an operation was expected")
    };
    server.end(&operation).await.unwrap();
    let rows = server.engine.all_rows(ResourceQuery::default()).await.unwrap();
    assert_eq!(rows.iter().map(|r| &r.key).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(server.engine.db().content_refs("westus").await.unwrap().is_empty());
}
