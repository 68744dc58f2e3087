//! Managed images.

use super::site::{Site, VM};
use super::{MIB, Server, disk_bytes};
use crate::call::Deleted;
use crate::db_error;
use crate::provider::Context;
use crate::sources;
use lazuli_arm::ResourceId;
use lazuli_authz::rbac::OWNER;
use lazuli_meta::model::{RoleAssignment, Subscription};
use serde_json::{Value, json};

const IMAGE: &str = "images/img1";

fn body(server: &Server, change: impl FnOnce(&mut Value)) -> Value {
    let disk = |name: &str| json!({"id": server.id(&format!("disks/{name}")).to_string()});
    let mut body = json!({"location": "eastus", "tags": {}, "properties": {"hyperVGeneration": "V2", "storageProfile": {
        "osDisk": {"osType": "Linux", "osState": "Generalized", "managedDisk": disk("d1")},
        "dataDisks": [{"lun": 3, "managedDisk": disk("d2"), "diskSizeGB": 2, "caching": "ReadOnly"}]}}});
    change(&mut body);
    body
}

async fn with_disks() -> Server {
    let server = Server::start().await;
    server.uploaded("d1", &disk_bytes(1)).await;
    server.uploaded("d2", &disk_bytes(2)).await;
    server
}

async fn manifests(server: &Server) -> (String, String) {
    let state = server.internal(IMAGE).await;
    let text = |v: &Value| v["manifest"].as_str().unwrap().to_owned();
    (text(&state["osDisk"]), text(&state["dataDisks"]["3"]))
}

async fn found(server: &Server, location: &str) -> Result<sources::SourceImage, lazuli_arm::ArmError> {
    let cx = Context { engine: &server.engine, call: &server.call, now_ms: crate::now_ms() };
    sources::managed_image(cx, &server.id(IMAGE), location).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_disks_has_bytes_of_its_own() {
    let server = with_disks().await;
    let image = server.put(IMAGE, body(&server, |_| {})).await.unwrap();
    assert_eq!(image["type"], "Microsoft.Compute/images");
    assert_eq!(image["properties"]["provisioningState"], "Succeeded");
    let profile = &image["properties"]["storageProfile"];
    assert_eq!((&profile["osDisk"]["diskSizeGB"], &profile["dataDisks"][0]["diskSizeGB"]), (&json!(1), &json!(2)));
    let (os, data) = manifests(&server).await;
    // Its sources may go.
    server.delete("disks/d1").await.unwrap();
    server.delete("disks/d2").await.unwrap();
    assert_eq!(server.stored("eastus", &os).await, disk_bytes(1));
    server.check_grown("eastus", &data, &disk_bytes(2), 2048 * MIB).await;

    let source = found(&server, "eastus").await.unwrap();
    assert_eq!(source.os.base.unwrap().manifest, os);
    assert_eq!(source.data[&3].base.as_ref().unwrap().manifest, data);
    assert_eq!(source.data[&3].size_bytes, 2048 * MIB);
    // MI-4, MI-8
    assert_eq!(found(&server, "westus").await.unwrap_err().code, "NotFound");

    assert_eq!(server.list("", "Microsoft.Compute/images").await, ["img1"]);
    server.delete(IMAGE).await.unwrap();
    assert_eq!(server.get(IMAGE).await.unwrap_err().code, "ResourceNotFound");
    assert_eq!(server.engine.db().content_manifests("eastus").await.unwrap(), Vec::<String>::new());
    assert!(matches!(server.engine.delete(&server.call, &server.id(IMAGE)).await.unwrap(), Deleted::Absent));
}

/// Two disks of an image may have the same bytes, one of them grown: neither loses them.
#[tokio::test(flavor = "multi_thread")]
async fn disks_with_the_same_bytes_do_not_lose_each_others() {
    let server = with_disks().await;
    let both = body(&server, |b| {
        let disk = b["properties"]["storageProfile"]["osDisk"]["managedDisk"].clone();
        b["properties"]["storageProfile"]["dataDisks"][0]["managedDisk"] = disk;
    });
    server.put(IMAGE, both).await.unwrap();
    server.delete("disks/d1").await.unwrap();
    let (os, data) = manifests(&server).await;
    let held = server.engine.db().content_refs_of(&server.id(IMAGE).key()).await.map_err(db_error).unwrap();
    let mut held: Vec<String> = held.into_iter().map(|r| r.manifest).collect();
    held.sort();
    let mut wanted = vec![os.clone(), data.clone()];
    wanted.sort();
    assert_eq!(held, wanted);
    assert_eq!(server.stored("eastus", &os).await, disk_bytes(1));
    server.check_grown("eastus", &data, &disk_bytes(1), 2048 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tags_change_and_clients_see_updating() {
    let server = with_disks().await;
    server.put(IMAGE, body(&server, |_| {})).await.unwrap();
    let before = manifests(&server).await;
    let patch = json!({"tags": {"a": "b"}});
    let written = server.engine.patch(&server.call, &server.id(IMAGE), patch).await.unwrap();
    assert_eq!(written.resource["properties"]["provisioningState"], "Updating");
    server.end(&written.operation.unwrap()).await.unwrap();
    let image = server.get(IMAGE).await.unwrap();
    assert_eq!((&image["tags"]["a"], &image["properties"]["provisioningState"]), (&json!("b"), &json!("Succeeded")));
    assert_eq!(manifests(&server).await, before);
    let resilient = json!({"properties": {"storageProfile": {"zoneResilient": true}}});
    let error = server.engine.patch(&server.call, &server.id(IMAGE), resilient).await.unwrap_err();
    assert_eq!(error.message, "Changing property 'zoneResilient' is not allowed.");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let server = with_disks().await;
    let refused = async |change: &dyn Fn(&mut Value)| {
        let error = server.put(IMAGE, body(&server, change)).await.unwrap_err();
        (error.code, error.message)
    };
    let (code, _) = refused(&|b| b["location"] = json!("westus")).await;
    assert_eq!(code, "NotFound", "a source is in the image's region");
    let (code, message) = refused(&|b| b["properties"]["hyperVGeneration"] = json!("V1")).await;
    assert_eq!(code, "InvalidParameter");
    assert!(message.contains("has Hypervisor generation 'V2'"), "{message}");
    let (_, message) = refused(&|b| b["properties"]["storageProfile"]["osDisk"]["osType"] = json!("Windows")).await;
    assert!(message.contains("has OS type 'Linux'"), "{message}");
    let elsewhere =
        "/subscriptions/00000000-0000-0000-0000-000000000009/resourceGroups/rg1/providers/Microsoft.Compute/disks/d1";
    let (_, message) = refused(&|b| {
        b["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"] = json!(elsewhere);
    })
    .await;
    assert!(message.contains("in another subscription"), "{message}");
    let blob = |b: &mut Value| {
        b["properties"]["storageProfile"]["dataDisks"] = json!([{"lun": 0, "blobUri": "https://example.org/x.vhd"}]);
    };
    refused(&blob).await;
    server.begin_access("disks/d2", "Read").await.unwrap();
    let (_, message) = refused(&|_| {}).await;
    assert!(message.contains("in state 'ActiveSAS'"), "{message}");
    assert_eq!(server.get(IMAGE).await.unwrap_err().code, "ResourceNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_ends_what_was_begun() {
    let server = with_disks().await;
    let written = server.engine.put(&server.call, &server.id(IMAGE), body(&server, |_| {})).await.unwrap();
    assert_eq!(written.resource["properties"]["provisioningState"], "Creating");
    assert!(written.resource["properties"]["storageProfile"]["osDisk"].get("diskSizeGB").is_none());
    let server = server.restart().await;
    server.end(written.operation.as_deref().unwrap()).await.unwrap();
    let (os, _) = manifests(&server).await;
    assert_eq!(server.stored("eastus", &os).await, disk_bytes(1));
}

/// MI-5: a disk that is made of an image is refused as a machine is.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_serves_its_own_subscription_only() {
    let server = with_disks().await;
    server.put(IMAGE, body(&server, |_| {})).await.unwrap();
    let other = Subscription {
        id: "00000000-0000-0000-0000-000000000009".into(),
        tenant: server.call.caller.tenant.clone(),
        display_name: "other".into(),
        state: "Enabled".into(),
    };
    let db = server.engine.db();
    db.put_subscription(&other).await.unwrap();
    let assignment = RoleAssignment {
        id: "assignment".into(),
        scope: format!("/subscriptions/{}", other.id),
        role: OWNER.into(),
        principal: server.call.caller.principal.clone(),
        body: json!({}),
    };
    db.put_role_assignment(&assignment).await.unwrap();
    let group = ResourceId::group(&other.id, "rg1");
    server.engine.put(&server.call, &group, json!({"location": "eastus"})).await.unwrap();
    let source = json!({"createOption": "FromImage", "imageReference": {"id": server.id(IMAGE).to_string()}});
    let disk = json!({"location": "eastus", "properties": {"creationData": source}});
    let there = group.resource("Microsoft.Compute", "disks", "d9");
    let error = server.engine.put(&server.call, &there, disk.clone()).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (400, "InvalidParameter"));
    assert!(error.message.contains("is in another subscription than the disk"), "{}", error.message);
    let here = server.engine.put(&server.call, &server.id("disks/d9"), disk).await.unwrap();
    assert_eq!(here.resource["properties"]["provisioningState"], "Succeeded");
}

/// MI-2, MI-5, MI-7.
#[tokio::test(flavor = "multi_thread")]
async fn machines_run_on_copies_of_an_image() {
    let site = Site::start().await;
    let server = &site.server;
    let only_os = |b: &mut Value| b["properties"]["storageProfile"]["dataDisks"] = json!([]);
    let image = body(server, only_os);
    server.put(IMAGE, image).await.unwrap();
    let from_image = |b: &mut Value| {
        b["properties"]["storageProfile"]["imageReference"] = json!({"id": server.id(IMAGE).to_string()});
    };
    let trusted = site.create(|b| {
        from_image(b);
        b["properties"]["securityProfile"] = json!({"securityType": "TrustedLaunch"});
    });
    let error = trusted.await.unwrap_err();
    assert_eq!(
        error.message,
        "Managed Images are not supported for virtual machines with security type TrustedLaunch."
    );
    let error = site.create(|b| drop((from_image(b), b["properties"].as_object_mut().unwrap().remove("osProfile"))));
    assert_eq!(error.await.unwrap_err().message, "Required parameter 'osProfile' is missing (null).");
    let vm = site.create(from_image).await.unwrap();
    assert_eq!(vm["properties"]["storageProfile"]["imageReference"], json!({"id": server.id(IMAGE).to_string()}));
    assert!(site.fake.is_running(site.vm_id().await));
    let disk = server.get("disks/os1").await.unwrap();
    assert_eq!(
        disk["properties"]["creationData"],
        json!({"createOption": "FromImage", "imageReference": {"id": server.id(IMAGE).to_string()}})
    );
    // The image and its source may go while the machine runs on its copy.
    server.delete(IMAGE).await.unwrap();
    server.delete("disks/d1").await.unwrap();
    let disk = server.internal("disks/os1").await;
    assert_eq!(server.stored("eastus", disk["base"]["manifest"].as_str().unwrap()).await, disk_bytes(1));
    server.delete(VM).await.unwrap();
}

/// MI-3; the recordings test_vm_custom_image_management and test_vm_generalize.
#[tokio::test(flavor = "multi_thread")]
async fn a_generalized_machine_becomes_an_image() {
    let site = Site::start().await;
    let server = &site.server;
    site.create(|_| {}).await.unwrap();
    let id = json!({"id": server.id(VM).to_string()});
    let image = json!({"location": "eastus", "tags": {}, "properties": {"sourceVirtualMachine": id}});
    assert_eq!(server.put(IMAGE, image.clone()).await.unwrap_err().code, "OperationNotAllowed", "it runs");
    site.power("deallocate").await.unwrap();
    let error = server.put(IMAGE, image.clone()).await.unwrap_err();
    assert_eq!(error.message, "The operation 'Create Image' requires the Virtual Machine 'vm1' to be Generalized.");
    server.engine.action(&server.call, &server.id(VM), "generalize", json!({})).await.unwrap();
    let mut first_generation = image.clone();
    first_generation["properties"]["hyperVGeneration"] = json!("V1");
    assert_eq!(server.put(IMAGE, first_generation).await.unwrap_err().code, "InvalidParameter");
    let shown = server.put(IMAGE, image).await.unwrap();
    assert_eq!(shown["properties"]["hyperVGeneration"], "V2");
    let os = &shown["properties"]["storageProfile"]["osDisk"];
    assert_eq!(os["managedDisk"]["id"], json!(server.id("disks/os1").to_string()));
    assert_eq!((&os["diskSizeGB"], &os["caching"]), (&json!(1), &json!("ReadWrite")));
    server.delete(VM).await.unwrap();
    server.delete("disks/os1").await.unwrap();
    let state = server.internal(IMAGE).await;
    let manifest = state["osDisk"]["manifest"].as_str().unwrap();
    assert_eq!(server.stored("eastus", manifest).await, disk_bytes(1));
    server.delete(IMAGE).await.unwrap();
}
