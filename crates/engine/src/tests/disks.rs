use super::{MIB, SMALLEST, Server, disk_bytes};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_becomes_a_disk_that_can_be_read() {
    let server = Server::start().await;
    let data = disk_bytes(1);
    let disk = server.uploaded("d1", &data).await;
    let p = &disk["properties"];
    assert_eq!((&p["diskState"], &p["provisioningState"]), (&json!("Unattached"), &json!("Succeeded")));
    assert_eq!((&p["diskSizeBytes"], &p["diskSizeGB"]), (&json!(SMALLEST), &json!(1)));
    let internal = server.internal("disks/d1").await;
    assert_eq!(server.stored("eastus", internal["base"]["manifest"].as_str().unwrap()).await, data);
    let uploads = server.dir.path().join("uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0, "the staging file goes");

    let view = server.begin_access("disks/d1", "Read").await.unwrap();
    assert!(view.output.unwrap()["accessSAS"].as_str().unwrap().starts_with("https://127.0.0.1:1/md-"));
    assert_eq!(server.get("disks/d1").await.unwrap()["properties"]["diskState"], "ActiveSAS");
    let error = server.begin_access("disks/d1", "Write").await.unwrap_err();
    assert_eq!(error.code, "OperationNotAllowed");
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap();
    assert_eq!(server.get("disks/d1").await.unwrap()["properties"]["diskState"], "Unattached");
    assert!(server.engine.db().grants_of(&server.id("disks/d1").key()).await.unwrap().is_empty());
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_footer_is_told_and_the_upload_can_be_repeated() {
    let server = Server::start().await;
    let data = disk_bytes(2);
    server.begin_upload("d1", SMALLEST).await;
    assert_eq!(server.get("disks/d1").await.unwrap()["properties"]["diskState"], "ActiveUpload");
    server.write_vhd("d1", &data, false).await;
    let error = server.action("disks/d1", "endGetAccess", json!({})).await.unwrap_err();
    assert_eq!(error.code, "InvalidVhd");
    assert!(error.message.contains("Disk is expected to have cookie value 'conectix'."), "{error}");
    let disk = server.get("disks/d1").await.unwrap();
    assert_eq!(disk["properties"]["diskState"], "ReadyToUpload");
    assert_eq!(disk["properties"]["provisioningState"], "Succeeded");
    assert!(disk["properties"].get("diskSizeGB").is_none());

    server.begin_access("disks/d1", "Write").await.unwrap();
    server.write_vhd("d1", &data, true).await;
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap();
    assert_eq!(server.get("disks/d1").await.unwrap()["properties"]["diskState"], "Unattached");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_share_bytes_and_outlive_their_source() {
    let server = Server::start().await;
    let data = disk_bytes(3);
    server.uploaded("d1", &data).await;
    let before = server.stored_bytes("eastus").await;
    let copy = json!({"location": "eastus", "properties": {"diskSizeGB": 2,
        "creationData": {"createOption": "Copy", "sourceResourceId": server.id("disks/d1").to_string()}}});
    let disk = server.put("disks/d2", copy.clone()).await.unwrap();
    assert_eq!(disk["properties"]["diskSizeGB"], 2);
    assert_eq!(
        (&disk["properties"]["osType"], &disk["properties"]["hyperVGeneration"]),
        (&json!("Linux"), &json!("V2"))
    );
    assert_eq!(server.stored_bytes("eastus").await, before);
    server.delete("disks/d1").await.unwrap();
    let internal = server.internal("disks/d2").await;
    assert_eq!(server.stored("eastus", internal["base"]["manifest"].as_str().unwrap()).await, data);

    // Exported, the grown disk has its whole size: the stored bytes, then zeros.
    server.begin_access("disks/d2", "Read").await.unwrap();
    let internal = server.internal("disks/d2").await;
    server.check_grown("eastus", internal["base"]["manifest"].as_str().unwrap(), &data, 2048 * MIB).await;

    server.delete("disks/d2").await.unwrap();
    assert_eq!(server.engine.db().content_manifests("eastus").await.unwrap(), Vec::<String>::new());
    assert!(server.stored_bytes("eastus").await < before / 10, "deleting the last user frees the bytes");
    assert_eq!(server.put("disks/d3", copy).await.unwrap_err().code, "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ready_is_not_copied() {
    let server = Server::start().await;
    server.begin_upload("d1", SMALLEST).await;
    let copy = json!({"location": "eastus", "properties": {
        "creationData": {"createOption": "Copy", "sourceResourceId": server.id("disks/d1").to_string()}}});
    let error = server.put("disks/d2", copy.clone()).await.unwrap_err();
    assert!(error.message.contains("in state 'ActiveUpload'"), "{error}");
    server.uploaded("d3", &disk_bytes(4)).await;
    let mut elsewhere = copy;
    elsewhere["location"] = json!("westus");
    elsewhere["properties"]["creationData"]["sourceResourceId"] = json!(server.id("disks/d3").to_string());
    assert_eq!(server.put("disks/d2", elsewhere).await.unwrap_err().code, "NotFound");
    // Deleting a disk in the middle of an upload takes the staging file along.
    server.delete("disks/d1").await.unwrap();
    assert_eq!(std::fs::read_dir(server.dir.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_restart() {
    let server = Server::start().await;
    let data = disk_bytes(5);
    server.begin_upload("d1", SMALLEST).await;
    server.write_vhd("d1", &data, true).await;
    let server = server.restart().await;
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap();
    let internal = server.internal("disks/d1").await;
    assert_eq!(server.stored("eastus", internal["base"]["manifest"].as_str().unwrap()).await, data);
}
