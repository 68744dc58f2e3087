use super::{MIB, SMALLEST, Server, block_region, definition, disk_bytes};
use lazuli_arm::ArmError;
use serde_json::{Value, json};

const VERSION: &str = "galleries/g/images/i/versions/1.0.0";

fn of_disk(server: &Server, disk: &str, regions: &[&str]) -> Value {
    let regions: Vec<Value> = regions.iter().map(|r| json!({"name": r})).collect();
    json!({"location": "eastus", "properties": {
        "publishingProfile": {"targetRegions": regions},
        "storageProfile": {"osDiskImage": {"source": {"id": server.id(&format!("disks/{disk}")).to_string()}}}}})
}

/// `(region, state, progress)` of `$expand=ReplicationStatus`, and the aggregated state.
async fn replication(server: &Server, tail: &str) -> (String, Vec<(String, String, u64)>) {
    let mut call = server.call.clone();
    call.query.insert("$expand".into(), "replicationstatus".into());
    let version = server.engine.get(&call, &server.id(tail)).await.unwrap();
    let status = &version["properties"]["replicationStatus"];
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let lines = status["summary"].as_array().unwrap().iter();
    let lines = lines.map(|l| (text(&l["region"]), text(&l["state"]), l["progress"].as_u64().unwrap())).collect();
    (text(&status["aggregatedState"]), lines)
}

fn completed(regions: &[&str]) -> (String, Vec<(String, String, u64)>) {
    ("Completed".into(), regions.iter().map(|r| ((*r).into(), "Completed".into(), 100)).collect())
}

async fn manifest(server: &Server, tail: &str) -> String {
    server.internal(tail).await["osDisk"]["manifest"].as_str().unwrap().to_owned()
}

async fn with_disk() -> (Server, Vec<u8>) {
    let server = Server::start().await;
    server.gallery().await;
    let data = disk_bytes(7);
    server.uploaded("d1", &data).await;
    (server, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_a_disk_in_three_regions() {
    let (server, data) = with_disk().await;
    let body = of_disk(&server, "d1", &["westus", "East US", "chinanorth2"]);
    let version = server.put(VERSION, body).await.unwrap();
    let p = &version["properties"];
    assert_eq!(p["provisioningState"], "Succeeded");
    assert_eq!(p["storageProfile"]["osDiskImage"]["sizeInGB"], 1);
    assert!(p.get("replicationStatus").is_none(), "only with $expand");
    assert_eq!(replication(&server, VERSION).await, completed(&["West US", "East US", "China North 2"]));
    let manifest = manifest(&server, VERSION).await;
    for region in ["eastus", "westus", "chinanorth2"] {
        assert_eq!(server.stored(region, &manifest).await, data, "{region}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_last_user_frees_the_bytes_everywhere() {
    let (server, data) = with_disk().await;
    server.put(VERSION, of_disk(&server, "d1", &["eastus", "westus"])).await.unwrap();
    let (east, west) = (server.stored_bytes("eastus").await, server.stored_bytes("westus").await);
    let from_image = json!({"location": "westus", "properties": {
        "creationData": {"createOption": "FromImage", "galleryImageReference": {"id": server.id(VERSION).to_string()}}}});
    let disk = server.put("disks/d2", from_image).await.unwrap();
    assert_eq!(disk["properties"]["diskSizeBytes"], SMALLEST);
    assert_eq!(disk["properties"]["osType"], "Linux");

    let error = server.delete("galleries/g/images/i").await.unwrap_err();
    assert_eq!(error.code, "CannotDeleteResource");
    server.delete(VERSION).await.unwrap();
    server.delete("galleries/g/images/i").await.unwrap();
    // MD-9: the disk made from it goes on, and so does the disk it was made of.
    let base = server.internal("disks/d2").await["base"]["manifest"].as_str().unwrap().to_owned();
    assert_eq!(server.stored("westus", &base).await, data);
    assert_eq!(server.stored_bytes("eastus").await, east);
    server.delete("disks/d2").await.unwrap();
    server.delete("disks/d1").await.unwrap();
    assert!(server.stored_bytes("westus").await < west / 10);
    assert!(server.stored_bytes("eastus").await < east / 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_added_and_removed() {
    let (server, data) = with_disk().await;
    server.put(VERSION, of_disk(&server, "d1", &["eastus", "westus"])).await.unwrap();
    let west = server.stored_bytes("westus").await;
    // As az sends it: without the source.
    let update = json!({"location": "eastus", "properties": {
        "publishingProfile": {"targetRegions": [{"name": "eastus", "regionalReplicaCount": 2}, {"name": "northeurope"}]},
        "safetyProfile": {"allowDeletionOfReplicatedLocations": true},
        "storageProfile": {"osDiskImage": {"hostCaching": "ReadWrite"}}}});
    let version = server.put(VERSION, update).await.unwrap();
    assert_eq!(version["properties"]["publishingProfile"]["targetRegions"][0]["regionalReplicaCount"], 2);
    assert_eq!(replication(&server, VERSION).await, completed(&["East US", "North Europe"]));
    let manifest = manifest(&server, VERSION).await;
    assert_eq!(server.stored("northeurope", &manifest).await, data);
    let mut held: Vec<String> = server
        .engine
        .db()
        .content_refs_of(&server.id(VERSION).key())
        .await
        .unwrap()
        .into_iter()
        .map(|r| r.region)
        .collect();
    held.sort();
    assert_eq!(held, ["eastus", "northeurope"]);
    assert!(server.stored_bytes("westus").await < west / 10);

    let from_image = json!({"location": "westus", "properties": {
        "creationData": {"createOption": "FromImage", "galleryImageReference": {"id": server.id(VERSION).to_string()}}}});
    let error = server.put("disks/d2", from_image).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "GalleryImageNotFound"));
    assert!(error.message.contains("is not available in westus region"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_fails_fails_the_version_and_a_retry_completes_it() {
    let (server, data) = with_disk().await;
    let unblock = block_region(server.dir.path(), "westus");
    let body = of_disk(&server, "d1", &["eastus", "westus", "northeurope"]);
    let error = server.put(VERSION, body.clone()).await.unwrap_err();
    assert!(error.message.contains("region 'westus'"), "{error}");
    assert_eq!(server.get(VERSION).await.unwrap()["properties"]["provisioningState"], "Failed");
    let (aggregated, lines) = replication(&server, VERSION).await;
    assert_eq!(aggregated, "Failed");
    let states: Vec<&str> = lines.iter().map(|(_, s, _)| s.as_str()).collect();
    assert_eq!(states, ["Completed", "Failed", "Completed"]);
    assert_eq!(server.get("disks/d1").await.unwrap()["properties"]["diskState"], "Unattached");

    unblock();
    let version = server.put(VERSION, body).await.unwrap();
    assert_eq!(version["properties"]["provisioningState"], "Succeeded");
    assert_eq!(replication(&server, VERSION).await, completed(&["East US", "West US", "North Europe"]));
    let manifest = manifest(&server, VERSION).await;
    assert_eq!(server.stored("westus", &manifest).await, data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_a_version() {
    let (server, data) = with_disk().await;
    server.put(VERSION, of_disk(&server, "d1", &["eastus", "westus"])).await.unwrap();
    server.put("galleries/g/images/j", definition("sku2")).await.unwrap();
    let of_version = |location: &str| json!({"location": location, "properties": {"storageProfile": {"source": {"id": server.id(VERSION).to_string()}}}});
    // IV-17: the source or a replica of it must be in the version's region.
    let error = server.put("galleries/g/images/j/versions/1.0.0", of_version("northeurope")).await.unwrap_err();
    assert!(error.message.starts_with("Source /subscriptions/"), "{error}");
    let version = server.put("galleries/g/images/j/versions/1.0.0", of_version("westus")).await.unwrap();
    let storage = &version["properties"]["storageProfile"];
    assert_eq!(storage["osDiskImage"], json!({"sizeInGB": 1, "hostCaching": "ReadWrite", "source": {}}));
    server.delete(VERSION).await.unwrap();
    let manifest = manifest(&server, "galleries/g/images/j/versions/1.0.0").await;
    assert_eq!(server.stored("westus", &manifest).await, data);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_grown_disks_become_whole_versions() {
    let (server, data) = with_disk().await;
    let empty =
        json!({"location": "eastus", "properties": {"diskSizeGB": 1, "creationData": {"createOption": "Empty"}}});
    server.put("disks/e", empty).await.unwrap();
    server.put(VERSION, of_disk(&server, "e", &["eastus", "westus"])).await.unwrap();
    let blank = manifest(&server, VERSION).await;
    server.check_grown("westus", &blank, &[], 1024 * MIB).await;

    let id = server.id("disks/d1");
    let grown = server.engine.patch(&server.call, &id, json!({"properties": {"diskSizeGB": 2}})).await.unwrap();
    assert_eq!(grown.resource["properties"]["diskSizeGB"], 2);
    let version = server.put("galleries/g/images/i/versions/1.0.1", of_disk(&server, "d1", &["eastus"])).await.unwrap();
    assert_eq!(version["properties"]["storageProfile"]["osDiskImage"]["sizeInGB"], 2);
    let manifest = manifest(&server, "galleries/g/images/i/versions/1.0.1").await;
    server.check_grown("eastus", &manifest, &data, 2048 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_do_not_fit_are_refused() {
    let (server, _) = with_disk().await;
    let refused = async |body: Value| -> ArmError { server.put(VERSION, body).await.unwrap_err() };
    let error = refused(of_disk(&server, "nothing", &["eastus"])).await;
    assert_eq!((error.status, error.code.as_str()), (404, "NotFound"));
    assert!(error.message.contains("is in the same region as gallery image version being created"), "{error}");

    let mut windows = definition("win");
    windows["properties"]["osType"] = json!("Windows");
    server.put("galleries/g/images/w", windows).await.unwrap();
    let body = of_disk(&server, "d1", &["eastus"]);
    let error = server.put("galleries/g/images/w/versions/1.0.0", body.clone()).await.unwrap_err();
    assert!(
        error.message.contains("has a different OS type ['Linux'] than the parent gallery image OS type ['Windows']"),
        "{error}"
    );

    server.begin_access("disks/d1", "Read").await.unwrap();
    let error = refused(body.clone()).await;
    assert!(error.message.contains("in state 'ActiveSAS'"), "{error}");
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap();

    let error = refused(of_disk(&server, "d1", &["eastus", "East US"])).await;
    assert!(error.message.starts_with("Duplicate regions are not allowed"), "{error}");
    assert_eq!(server.put("galleries/g/images/i/versions/1.0", body).await.unwrap_err().status, 400);
    assert_eq!(
        server.list("galleries/g/images/i", "Microsoft.Compute/galleries/images/versions").await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_by_number() {
    let (server, _) = with_disk().await;
    for name in ["1.0.10", "1.0.9", "0.2.0", "10.0.0"] {
        let body = of_disk(&server, "d1", &["eastus"]);
        server.put(&format!("galleries/g/images/i/versions/{name}"), body).await.unwrap();
    }
    let listed = server.list("galleries/g/images/i", "Microsoft.Compute/galleries/images/versions").await;
    assert_eq!(listed, ["0.2.0", "1.0.9", "1.0.10", "10.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_ends_what_was_begun() {
    let (server, data) = with_disk().await;
    // The operation is committed, and the server goes away at some point of it.
    let body = of_disk(&server, "d1", &["eastus", "westus", "northeurope"]);
    let written = server.engine.put(&server.call, &server.id(VERSION), body).await.unwrap();
    assert_eq!(written.resource["properties"]["provisioningState"], "Creating");
    let server = server.restart().await;
    server.end(written.operation.as_deref().unwrap()).await.unwrap();
    assert_eq!(replication(&server, VERSION).await, completed(&["East US", "West US", "North Europe"]));
    let manifest = manifest(&server, VERSION).await;
    assert_eq!(server.stored("northeurope", &manifest).await, data);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_while_it_replicates_leaves_nothing() {
    let (server, _) = with_disk().await;
    let body = of_disk(&server, "d1", &["eastus", "westus", "northeurope"]);
    let written = server.engine.put(&server.call, &server.id(VERSION), body).await.unwrap();
    server.delete(VERSION).await.unwrap();
    let ended = server.engine.db().operation(written.operation.as_deref().unwrap()).await.unwrap().unwrap();
    assert!(ended.ended_ms.is_some());
    assert_eq!(server.get(VERSION).await.unwrap_err().code, "ResourceNotFound");
    assert_eq!(server.engine.db().content_refs_of(&server.id(VERSION).key()).await.unwrap(), vec![]);
    for region in ["westus", "northeurope"] {
        assert_eq!(server.engine.db().content_manifests(region).await.unwrap(), Vec::<String>::new());
    }
    server.delete("galleries/g/images/i").await.unwrap();
}
