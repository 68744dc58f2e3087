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

    server.action("disks/d2", "endGetAccess", json!({})).await.unwrap();
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
    // Deleting a disk in the middle of an upload takes the staging file along, once nobody can write it any more.
    assert_eq!(server.delete("disks/d1").await.unwrap_err().code, "OperationNotAllowed");
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap_err();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_launch_disk_brings_its_guest_state_along() {
    let server = Server::start().await;
    let data = disk_bytes(6);
    let body = json!({"location": "eastus", "properties": {"osType": "Linux", "hyperVGeneration": "V2",
        "securityProfile": {"securityType": "TrustedLaunch"},
        "creationData": {"createOption": "UploadPreparedSecure", "uploadSizeBytes": SMALLEST + 512}}});
    server.put("disks/d1", body).await.unwrap();
    let secure = |access: &str| json!({"access": access, "durationInSeconds": 3600, "getSecureVMGuestStateSAS": true});
    let given = server.action("disks/d1", "beginGetAccess", secure("Write")).await.unwrap().output.unwrap();
    assert!(given["securityDataAccessSAS"].as_str().unwrap().contains("_vmgs?"), "{given}");
    let state = vec![7; 4 << 20];
    server.write_vhd("d1", &data, true).await;
    server.write_guest_state("d1", &state).await;
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap();
    assert_eq!(std::fs::read_dir(server.dir.path().join("uploads")).unwrap().count(), 0, "both staging files go");

    // Snapshots and copies keep it; whoever reads them gets it back.
    let copy = |from: &str| {
        json!({"location": "eastus", "properties": {
            "creationData": {"createOption": "Copy", "sourceResourceId": server.id(from).to_string()}}})
    };
    server.put("snapshots/s1", copy("disks/d1")).await.unwrap();
    let disk = server.put("disks/d2", copy("snapshots/s1")).await.unwrap();
    assert_eq!(disk["properties"]["securityProfile"]["securityType"], "TrustedLaunch");
    server.delete("disks/d1").await.unwrap();
    server.delete("snapshots/s1").await.unwrap();
    let given = server.action("disks/d2", "beginGetAccess", secure("Read")).await.unwrap().output.unwrap();
    assert!(given["accessSAS"].is_string() && given["securityDataAccessSAS"].is_string(), "{given}");
    let internal = server.internal("disks/d2").await;
    assert_eq!(server.stored("eastus", internal["guestState"]["manifest"].as_str().unwrap()).await, state);

    server.uploaded("plain", &data).await;
    let error = server.action("disks/plain", "beginGetAccess", secure("Read")).await.unwrap_err();
    assert!(error.message.contains("it has no VM guest state"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_accesses_stay_while_a_disk_names_them() {
    let server = Server::start().await;
    let access = server.id("diskAccesses/a1").to_string();
    let private = json!({"location": "eastus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1,
        "networkAccessPolicy": "AllowPrivate", "diskAccessId": access}});
    assert_eq!(server.put("disks/d1", private.clone()).await.unwrap_err().code, "NotFound");
    server.put("diskAccesses/a1", json!({"location": "eastus"})).await.unwrap();
    server.put("disks/d1", private).await.unwrap();
    assert_eq!(server.begin_access("disks/d1", "Read").await.unwrap_err().code, "OperationNotAllowed");
    assert!(server.delete("diskAccesses/a1").await.unwrap_err().message.contains("is used by"));
    let links = server.engine.view(&server.call, &server.id("diskAccesses/a1"), "privateLinkResources").await.unwrap();
    assert_eq!(links.unwrap()["value"][0]["properties"]["groupId"], "disks");
    assert!(
        server.list("diskAccesses/a1", "Microsoft.Compute/diskAccesses/privateEndpointConnections").await.is_empty()
    );
    let connection = server.put("diskAccesses/a1/privateEndpointConnections/c", json!({})).await.unwrap_err();
    assert_eq!(connection.code, "ResourceNotFound");

    let open = json!({"properties": {"networkAccessPolicy": "AllowAll"}});
    let written = server.engine.patch(&server.call, &server.id("disks/d1"), open).await.unwrap();
    assert!(written.resource["properties"].get("diskAccessId").is_none());
    server.delete("diskAccesses/a1").await.unwrap();
}
