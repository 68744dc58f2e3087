use super::{SMALLEST, Server, disk_bytes};
use serde_json::{Value, json};

const VERSION: &str = "galleries/g/images/i/versions/1.0.0";

async fn usage(server: &Server, tail: &str) -> Value {
    server.engine.view(&server.call, &server.id(tail), "usage").await.unwrap().unwrap()
}

fn freed(usage: &Value, region: usize) -> u64 {
    usage["regions"][region]["freedByDelete"]["storedBytes"].as_u64().unwrap()
}

/// Item 9 of the contract: what is shown as freed by a deletion is freed by it.
#[tokio::test(flavor = "multi_thread")]
async fn usage_says_what_a_deletion_frees() {
    let server = Server::start().await;
    server.gallery().await;
    server.uploaded("d1", &disk_bytes(7)).await;
    let alone = usage(&server, "disks/d1").await;
    let region = &alone["regions"][0];
    assert_eq!(region["region"], "eastus");
    assert_eq!(region["logicalBytes"], SMALLEST);
    assert_eq!(region["disks"][0]["name"], "base");
    assert_eq!(region["disks"][0]["storedBytes"], region["storedBytes"]);
    assert_eq!(freed(&alone, 0), region["storedBytes"].as_u64().unwrap());
    assert_eq!(alone["localBytes"], 0, "the upload's file is gone");

    let body = json!({"location": "eastus", "properties": {
        "publishingProfile": {"targetRegions": [{"name": "eastus"}, {"name": "westus"}]},
        "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}}}});
    server.put(VERSION, body).await.unwrap();
    // In East US the disk needs the same bytes; in West US the version alone has them.
    assert_eq!(freed(&usage(&server, "disks/d1").await, 0), 0);
    let version = usage(&server, VERSION).await;
    assert_eq!(version["regions"][1]["region"], "westus");
    assert_eq!((freed(&version, 0), freed(&version, 1)), (0, freed(&alone, 0)));
    assert_eq!(version["regions"][0]["disks"][0]["name"], "osDisk");
    // Of what lies below a resource, too.
    let gallery = usage(&server, "galleries/g").await;
    assert_eq!(gallery["regions"], version["regions"]);
    let group = server.engine.view(&server.call, &server.group, "usage").await.unwrap().unwrap();
    assert_eq!((freed(&group, 0), freed(&group, 1)), (freed(&alone, 0), freed(&alone, 0)));

    let before = server.stored_bytes("westus").await;
    server.delete(VERSION).await.unwrap();
    assert!(before - server.stored_bytes("westus").await >= freed(&version, 1));
    assert_eq!(usage(&server, "galleries/g").await["regions"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_the_files_of_an_upload() {
    let server = Server::start().await;
    let data = disk_bytes(3);
    server.begin_upload("d1", data.len() as u64).await;
    server.write_vhd("d1", &data, true).await;
    let shown = usage(&server, "disks/d1").await;
    assert_eq!(shown["regions"], json!([]));
    assert!(shown["localBytes"].as_u64().unwrap() > 0);
}
