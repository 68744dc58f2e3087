//! Many writers of one version, and writes while the version is at work.

use super::{Server, disk_bytes};
use lazuli_arm::ArmError;
use lazuli_arm::locations;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const VERSION: &str = "galleries/g/images/i/versions/1.0.0";
const DEFINITION: &str = "galleries/g/images/i";

async fn with_version() -> Server {
    let server = Server::start().await;
    server.gallery().await;
    server.uploaded("d1", &disk_bytes(5)).await;
    server.put(VERSION, of_disk(&server, &["eastus"])).await.unwrap();
    server
}

fn of_disk(server: &Server, regions: &[&str]) -> Value {
    let regions: Vec<Value> = regions.iter().map(|r| json!({"name": r})).collect();
    json!({"location": "eastus", "properties": {
        "publishingProfile": {"targetRegions": regions},
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}}}})
}

fn regions_of(version: &Value) -> BTreeSet<String> {
    let regions = version["properties"]["publishingProfile"]["targetRegions"].as_array().unwrap();
    regions.iter().map(|r| locations::normalize(r["name"].as_str().unwrap()).unwrap().name.to_owned()).collect()
}

/// Ends every operation of the version, whatever becomes of it.
async fn all_ended(server: &Server) {
    let query = lazuli_meta::model::OperationQuery {
        resource_key: Some(server.id(VERSION).key()),
        ..lazuli_meta::model::OperationQuery::default()
    };
    for operation in server.engine.db().operations(&query).await.unwrap() {
        server.end(&operation.id).await.unwrap();
    }
}

/// Reads, adds one region, and writes under the etag; again where somebody was faster.
async fn add_region(server: &Server, region: &str) -> Result<u32, ArmError> {
    let id = server.id(VERSION);
    let mut lost = 0;
    loop {
        let (mut version, etag) = server.engine.get_with_etag(&server.call, &id).await?;
        let regions = version["properties"]["publishingProfile"]["targetRegions"].as_array_mut().unwrap();
        regions.push(json!({"name": region}));
        let mut call = server.call.clone();
        call.if_match = Some(etag);
        match server.engine.put(&call, &id, version).await {
            Ok(_) => return Ok(lost),
            Err(e) if e.status == 412 => lost += 1,
            Err(e) => return Err(e),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_writers_lose_no_region() {
    let server = with_version().await;
    let regions: Vec<&str> = locations::all().iter().map(|l| l.name).filter(|n| *n != "eastus").take(32).collect();
    let writers = regions.iter().map(|region| add_region(&server, region));
    for lost in futures::future::join_all(writers).await {
        lost.unwrap();
    }
    let mut wanted: BTreeSet<String> = regions.iter().map(|r| (*r).to_owned()).collect();
    wanted.insert("eastus".into());
    assert_eq!(regions_of(&server.get(VERSION).await.unwrap()), wanted);
    all_ended(&server).await;
    let version = server.get(VERSION).await.unwrap();
    assert_eq!(version["properties"]["provisioningState"], "Succeeded");
    // And every region has the bytes.
    let held = server.engine.db().content_refs_of(&server.id(VERSION).key()).await.unwrap();
    assert_eq!(held.into_iter().map(|r| r.region).collect::<BTreeSet<_>>(), wanted);
    let internal = server.internal(VERSION).await;
    assert!(wanted.iter().all(|r| internal["regions"][r]["state"] == "Completed"), "{internal}");
}

/// Without If-Match the last one wins, as in Azure where the safety profile allows it; what it does not name is let go of, also when
/// it was still on its way.
#[tokio::test(flavor = "multi_thread")]
async fn without_conditions_the_last_writer_wins() {
    let server = with_version().await;
    let id = server.id(VERSION);
    for regions in [["eastus", "westus"], ["eastus", "northeurope"], ["eastus", "westus2"]] {
        let mut body = of_disk(&server, &regions);
        body["properties"]["safetyProfile"] = json!({"allowDeletionOfReplicatedLocations": true});
        server.engine.put(&server.call, &id, body).await.unwrap();
    }
    all_ended(&server).await;
    let version = server.get(VERSION).await.unwrap();
    assert_eq!(version["properties"]["provisioningState"], "Succeeded");
    assert_eq!(regions_of(&version), ["eastus".to_owned(), "westus2".to_owned()].into());
    let held = server.engine.db().content_refs_of(&id.key()).await.unwrap();
    assert_eq!(held.into_iter().map(|r| r.region).collect::<BTreeSet<_>>(), regions_of(&version));
    for region in ["westus", "northeurope"] {
        assert!(server.stored_bytes(region).await < 64 << 10, "{region}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_sources_are_being_read_cannot_be_written() {
    let server = Server::start().await;
    server.gallery().await;
    server.uploaded("d1", &disk_bytes(6)).await;
    let server = server.idle().await;
    let id = server.id(VERSION);
    server.engine.put(&server.call, &id, of_disk(&server, &["eastus"])).await.unwrap();
    let error = server.engine.put(&server.call, &id, of_disk(&server, &["eastus", "westus"])).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "AnotherOperationInProgress"));
    // A deletion needs not wait; then nothing is written any more.
    server.engine.delete(&server.call, &id).await.unwrap();
    let error = server.engine.put(&server.call, &id, of_disk(&server, &["eastus"])).await.unwrap_err();
    assert_eq!(error.status, 409);
    assert_eq!(
        error.message,
        "Operation 'Update Gallery Image Version' is not allowed on '1.0.0' since it is marked for deletion. You can only \
         retry the Delete operation (or wait for an ongoing one to complete)."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_can_be_deleted_right_after_their_children() {
    let server = with_version().await;
    for round in 0..5 {
        if round > 0 {
            server.gallery().await;
            server.put(VERSION, of_disk(&server, &["eastus", "westus"])).await.unwrap();
        }
        server.delete(VERSION).await.unwrap();
        server.delete(DEFINITION).await.unwrap();
        server.delete("galleries/g").await.unwrap();
    }
}

/// A writer that read the version before its regions were completed has missed no other writer: `If-Match` lets it pass.
#[tokio::test(flavor = "multi_thread")]
async fn completed_regions_leave_the_etag() {
    let server = Server::start().await;
    server.gallery().await;
    server.uploaded("d1", &disk_bytes(7)).await;
    let server = server.idle().await;
    let id = server.id(VERSION);
    let made = server.engine.put(&server.call, &id, of_disk(&server, &["eastus"])).await.unwrap();
    let before = server.engine.get_with_etag(&server.call, &id).await.unwrap().1;
    assert_eq!(made.etag, before);
    let server = server.restart().await;
    all_ended(&server).await;
    let (version, etag) = server.engine.get_with_etag(&server.call, &id).await.unwrap();
    assert_eq!(version["properties"]["provisioningState"], "Succeeded");
    assert_eq!(etag, before, "what the sources turned out to be and where they are is no other writer's");

    let mut call = server.call.clone();
    call.if_match = Some(before);
    let added = server.engine.put(&call, &id, of_disk(&server, &["eastus", "westus"])).await.unwrap();
    assert_ne!(added.etag, etag);
    all_ended(&server).await;
    assert_eq!(server.engine.get_with_etag(&server.call, &id).await.unwrap().1, added.etag);
    let lost = server.engine.put(&call, &id, of_disk(&server, &["eastus", "westus2"])).await.unwrap_err();
    assert_eq!(lost.status, 412);
    let tagged = server.engine.patch(&server.call, &id, json!({"tags": {"a": "b"}})).await.unwrap();
    assert_ne!(tagged.etag, added.etag);
    all_ended(&server).await;
    // Another version of the same name is another one.
    server.delete(VERSION).await.unwrap();
    server.put(VERSION, of_disk(&server, &["eastus"])).await.unwrap();
    assert_ne!(server.engine.get_with_etag(&server.call, &id).await.unwrap().1, etag);
}
