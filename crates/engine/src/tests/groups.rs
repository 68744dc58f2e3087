//! A group's deletion takes everything inside along.

use super::site::{Site, VM, link, nic};
use super::{Server, disk_bytes};
use crate::call::Deleted;
use lazuli_meta::model::ResourceQuery;
use serde_json::json;

async fn delete_group(server: &Server) {
    let deleted = server.engine.delete(&server.call, &server.group).await.unwrap();
    let Deleted::Started { operation } = deleted else { panic!("an operation was expected: {deleted:?}") };
    server.end(&operation).await.unwrap();
}

/// No rows, no references, no files, no bytes.
async fn nothing_is_left(server: &Server) {
    let rows = server.engine.all_rows(ResourceQuery::default()).await.unwrap();
    assert_eq!(rows.iter().map(|r| &r.id).collect::<Vec<_>>(), Vec::<&String>::new());
    for region in server.engine.regions().known().unwrap() {
        assert!(server.engine.db().content_refs(&region).await.unwrap().is_empty(), "{region}");
        assert!(server.stored_bytes(&region).await < 64 << 10, "{region}");
    }
    for folder in ["disks", "uploads", "host/vms"] {
        let path = server.dir.path().join(folder);
        let entries = std::fs::read_dir(&path).map_or(0, Iterator::count);
        assert_eq!(entries, 0, "{folder}");
    }
    let error = server.engine.get(&server.call, &server.group).await.unwrap_err();
    assert_eq!(error.code, "ResourceGroupNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_a_group_goes_with_it() {
    let site = Site::start().await;
    let server = &site.server;
    server.put("publicIPAddresses/p1", json!({"location": "eastus", "sku": {"name": "Standard"}})).await.unwrap();
    let group = json!({"location": "eastus", "properties": {"securityRules": [{"name": "ssh", "properties": {
        "priority": 300, "access": "Allow", "protocol": "Tcp", "direction": "Inbound", "destinationPortRange": "18022"}}]}});
    server.put("networkSecurityGroups/g1", group).await.unwrap();
    let more = json!({"publicIPAddress": link(server, "publicIPAddresses/p1"),
        "networkSecurityGroup": link(server, "networkSecurityGroups/g1")});
    nic(server, "n1", more).await.unwrap();
    let data =
        json!({"location": "eastus", "properties": {"diskSizeGB": 1, "creationData": {"createOption": "Empty"}}});
    server.put("disks/data0", data).await.unwrap();
    let disks = json!([{"lun": 0, "createOption": "Attach", "managedDisk": link(server, "disks/data0")}]);
    site.create(|b| b["properties"]["storageProfile"]["dataDisks"] = disks).await.unwrap();
    let id = site.vm_id().await;
    // An upload that nobody ended, and a disk that somebody reads.
    server.begin_upload("open", disk_bytes(1).len() as u64).await;
    server.begin_access("disks/d1", "Read").await.unwrap();
    delete_group(server).await;
    assert!(!site.fake.is_running(id));
    nothing_is_left(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_in_the_middle_of_things() {
    let site = Site::start().await;
    let server = &site.server;
    site.fake.behave("vm1", lazuli_vmm::hypervisor::Behaviour::Silent);
    let machine = site.begin(|_| {}).await.operation.unwrap();
    site.running().await;
    server.uploaded("d2", &disk_bytes(2)).await;
    let body = json!({"location": "eastus", "properties": {
        "publishingProfile": {"targetRegions": [{"name": "eastus"}, {"name": "northeurope"}, {"name": "westus"}]},
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d2").to_string()}}}}});
    let id = server.id("galleries/g/images/i/versions/7.0.0");
    let version = server.engine.put(&server.call, &id, body).await.unwrap().operation.unwrap();
    delete_group(server).await;
    server.end(&machine).await.expect_err("it was given up");
    // The version may have been faster.
    let _ = server.end(&version).await;
    nothing_is_left(server).await;
    let error = server.get(VM).await.unwrap_err();
    assert_eq!(error.code, "ResourceGroupNotFound");
}
