//! Versions with data disks, from mixed sources; limits; what is told of replicas.

use super::{SMALLEST, Server, definition, disk_bytes};
use lazuli_arm::ArmError;
use serde_json::{Value, json};

const VERSION: &str = "galleries/g/images/i/versions/1.0.0";

/// Disks `os`, `a` and `b` with different bytes.
async fn with_disks() -> (Server, [Vec<u8>; 3]) {
    with_disks_on(Server::start().await).await
}

async fn with_disks_on(server: Server) -> (Server, [Vec<u8>; 3]) {
    server.gallery().await;
    let bytes = [disk_bytes(21), disk_bytes(22), disk_bytes(23)];
    for (name, data) in ["os", "a", "b"].iter().zip(&bytes) {
        server.uploaded(name, data).await;
    }
    (server, bytes)
}

fn disk(server: &Server, name: &str) -> Value {
    json!({"id": server.id(&format!("disks/{name}")).to_string()})
}

fn of_disks(server: &Server, regions: &[&str]) -> Value {
    let regions: Vec<Value> = regions.iter().map(|r| json!({"name": r})).collect();
    json!({"location": "eastus", "properties": {
        "publishingProfile": {"targetRegions": regions},
        "storageProfile": {"osDiskImage": {"source": disk(server, "os")},
            "dataDiskImages": [{"lun": 7, "source": disk(server, "b"), "hostCaching": "none"},
                               {"lun": 2, "source": disk(server, "a")}]}}})
}

async fn manifest(server: &Server, tail: &str, lun: Option<u32>) -> String {
    let internal = server.internal(tail).await;
    let disk = lun.map_or_else(|| internal["osDisk"].clone(), |lun| internal["dataDisks"][lun.to_string()].clone());
    disk["manifest"].as_str().unwrap().to_owned()
}

async fn put(server: &Server, change: impl FnOnce(&mut Value)) -> Result<Value, ArmError> {
    let mut body = of_disks(server, &["eastus"]);
    change(&mut body);
    server.put(VERSION, body).await
}

/// Recording test_gallery_specialized: the OS from one disk, data disks from others.
#[tokio::test(flavor = "multi_thread")]
async fn iv4_every_disk_is_in_every_region() {
    let (server, [os, a, b]) = with_disks().await;
    let version = server.put(VERSION, of_disks(&server, &["eastus", "westus"])).await.unwrap();
    let storage = &version["properties"]["storageProfile"];
    let shown = json!({
        "osDiskImage": {"sizeInGB": 1, "hostCaching": "ReadWrite", "source": disk(&server, "os")},
        "dataDiskImages": [{"lun": 2, "sizeInGB": 1, "hostCaching": "ReadOnly", "source": disk(&server, "a")},
                           {"lun": 7, "sizeInGB": 1, "hostCaching": "None", "source": disk(&server, "b")}]});
    assert_eq!(storage, &shown);
    for name in ["os", "a", "b"] {
        server.delete(&format!("disks/{name}")).await.unwrap();
    }
    for region in ["eastus", "westus"] {
        for (lun, data) in [(None, &os), (Some(2), &a), (Some(7), &b)] {
            let manifest = manifest(&server, VERSION, lun).await;
            assert_eq!(&server.stored(region, &manifest).await, data, "{region} {lun:?}");
        }
    }
    // A region that comes later gets them all, one that goes gives them all back.
    let west = server.stored_bytes("westus").await;
    let update = json!({"location": "eastus", "properties": {
        "publishingProfile": {"targetRegions": [{"name": "eastus"}, {"name": "northeurope"}]},
        "safetyProfile": {"allowDeletionOfReplicatedLocations": true}, "storageProfile": {}}});
    let version = server.put(VERSION, update).await.unwrap();
    assert_eq!(version["properties"]["storageProfile"], shown);
    assert_eq!(server.stored("northeurope", &manifest(&server, VERSION, Some(7)).await).await, b);
    assert!(server.stored_bytes("westus").await < west / 10);
    server.delete(VERSION).await.unwrap();
    for region in ["eastus", "westus", "northeurope"] {
        assert!(server.engine.db().content_refs(region).await.unwrap().is_empty(), "{region}");
        assert!(server.stored_bytes(region).await < 64 << 10, "{region}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_a_version_takes_its_data_disks_along() {
    let (server, [_, a, _]) = with_disks().await;
    server.put(VERSION, of_disks(&server, &["eastus", "westus"])).await.unwrap();
    server.put("galleries/g/images/j", definition("sku2")).await.unwrap();
    let copy = "galleries/g/images/j/versions/1.0.0";
    let of_version = json!({"location": "westus", "properties": {"storageProfile": {"source": {"id": server.id(VERSION).to_string()}}}});
    let version = server.put(copy, of_version).await.unwrap();
    let shown = json!({"source": {"id": server.id(VERSION).to_string()},
        "osDiskImage": {"sizeInGB": 1, "hostCaching": "ReadWrite", "source": {}},
        "dataDiskImages": [{"lun": 2, "sizeInGB": 1, "hostCaching": "ReadOnly"}, {"lun": 7, "sizeInGB": 1, "hostCaching": "None"}]});
    assert_eq!(version["properties"]["storageProfile"], shown);
    server.delete(VERSION).await.unwrap();
    assert_eq!(server.stored("westus", &manifest(&server, copy, Some(2)).await).await, a);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_data_disk_is_named() {
    let (server, _) = with_disks().await;
    let error = put(&server, |b| {
        b["properties"]["storageProfile"]["dataDiskImages"][1]["source"] = disk(&server, "nothing");
    });
    let error = error.await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "NotFound"));
    assert!(error.message.starts_with(&format!("Source {} is not found.", server.id("disks/nothing"))), "{error}");
    assert_eq!(server.get(VERSION).await.unwrap_err().code, "ResourceNotFound");
    assert_eq!(server.engine.db().content_refs_of(&server.id(VERSION).key()).await.unwrap(), vec![]);
}

/// IV-8, T6.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_disk_is_a_setting() {
    let mut server = Server::configured(|c| c.max_image_disk_gib = 1).await;
    server.run();
    let (server, _) = with_disks_on(server).await;
    let grow = json!({"properties": {"diskSizeGB": 3}});
    server.engine.patch(&server.call, &server.id("disks/a"), grow).await.unwrap();
    let error = put(&server, |_| {}).await.unwrap_err();
    assert_eq!(error.message, "The GalleryImageVersion source resource size 3 exceeds the max size 1 supported.");
    assert_eq!(error.status, 400);
    let version = put(&server, |b| b["properties"]["publishingProfile"]["replicationMode"] = json!("Shallow"));
    let version = version.await.unwrap();
    assert_eq!(version["properties"]["publishingProfile"]["replicationMode"], "Shallow");
    assert_eq!(version["properties"]["storageProfile"]["dataDiskImages"][0]["sizeInGB"], 3);
    let error = put(&server, |b| {
        b["properties"]["publishingProfile"] = json!({"replicationMode": "Shallow", "replicaCount": 2});
    });
    assert!(error.await.unwrap_err().message.ends_with("The value must be between 1 and 1, inclusive."));
}

#[tokio::test(flavor = "multi_thread")]
async fn rp2_what_is_told_of_replicas_is_true() {
    let (server, _) = with_disks().await;
    let version = put(&server, |b| {
        b["properties"]["publishingProfile"]["targetRegions"] = json!([
            {"name": "eastus", "regionalReplicaCount": 3}, {"name": "westus2", "storageAccountType": "standard_zrs"},
            {"name": "westus", "storageAccountType": "Premium_LRS"}]);
    });
    version.await.unwrap();
    let mut call = server.call.clone();
    call.query.insert("$expand".into(), "ReplicationStatus".into());
    let version = server.engine.get(&call, &server.id(VERSION)).await.unwrap();
    let summary = &version["properties"]["replicationStatus"]["summary"];
    let details: Vec<&str> = summary.as_array().unwrap().iter().map(|s| s["details"].as_str().unwrap()).collect();
    assert_eq!(
        details,
        [
            "1 of 3 replicas exist: this region's storage keeps 1 independent copy.",
            "The bytes are in one place: this region's storage is not spread over zones.",
            ""
        ]
    );
    assert!(summary.as_array().unwrap().iter().all(|s| s["state"] == "Completed" && s["progress"] == 100));
}

/// IV-11, also per region; IV-12: the end of life changes nothing; more versions than a page of the database.
#[tokio::test(flavor = "multi_thread")]
async fn iv11_latest_is_the_newest_that_is_not_excluded() {
    let (server, bytes) = with_disks().await;
    for (name, disk_name, publishing) in [
        ("1.0.9", "a", json!({"targetRegions": [{"name": "eastus"}, {"name": "westus"}]})),
        ("1.0.10", "os", json!({"targetRegions": [{"name": "eastus"}, {"name": "westus", "excludeFromLatest": true}]})),
        ("2.0.0", "b", json!({"excludeFromLatest": true, "targetRegions": [{"name": "eastus"}, {"name": "westus"}]})),
        (
            "3.0.0",
            "b",
            json!({"targetRegions": [{"name": "northeurope"}, {"name": "eastus", "excludeFromLatest": true}]}),
        ),
    ] {
        let body = json!({"location": "eastus", "properties": {"publishingProfile": publishing,
            "storageProfile": {"osDiskImage": {"source": disk(&server, disk_name)}}}});
        server.put(&format!("galleries/g/images/i/versions/{name}"), body).await.unwrap();
    }
    for (location, expected) in [("eastus", &bytes[0]), ("westus", &bytes[1]), ("northeurope", &bytes[2])] {
        let name = format!("disks/from-{location}");
        let latest = server.id("galleries/g/images/i/versions/latest").to_string();
        let body = json!({"location": location, "properties": {"creationData": {"createOption": "FromImage", "galleryImageReference": {"id": latest}}}});
        let made = server.put(&name, body).await.unwrap();
        assert_eq!(made["properties"]["diskSizeBytes"], SMALLEST);
        let base = server.internal(&name).await["base"]["manifest"].as_str().unwrap().to_owned();
        assert!(server.stored(location, &base).await[..8192] == expected[..8192], "{location}");
    }
}

/// A managed image `img` of the disks `os` and `a`.
async fn with_image() -> (Server, [Vec<u8>; 3]) {
    let (server, bytes) = with_disks().await;
    let image = json!({"location": "eastus", "properties": {"hyperVGeneration": "V2", "storageProfile": {
        "osDisk": {"osType": "Linux", "osState": "Generalized", "caching": "ReadWrite", "managedDisk": disk(&server, "os")},
        "dataDisks": [{"lun": 0, "managedDisk": disk(&server, "a")}]}}});
    server.put("images/img", image).await.unwrap();
    (server, bytes)
}

fn of_image(server: &Server, location: &str) -> Value {
    json!({"location": location, "properties": {"storageProfile": {"source": {"id": server.id("images/img").to_string()}}}})
}

/// MI-8; the answer as recorded in test_image_version_create_for_diff_source.
#[tokio::test(flavor = "multi_thread")]
async fn mi8_a_version_of_a_managed_image() {
    let (server, [os, a, _]) = with_image().await;
    let error = server.put(VERSION, of_image(&server, "westus")).await.unwrap_err();
    assert!(error.message.starts_with(&format!("Source {} is not found.", server.id("images/img"))), "{error}");
    let version = server.put(VERSION, of_image(&server, "eastus")).await.unwrap();
    let shown = json!({"source": {"id": server.id("images/img").to_string()},
        "osDiskImage": {"sizeInGB": 1, "hostCaching": "ReadWrite", "source": {}},
        "dataDiskImages": [{"lun": 0, "sizeInGB": 1, "hostCaching": "None"}]});
    assert_eq!(version["properties"]["storageProfile"], shown);
    for tail in ["images/img", "disks/os", "disks/a"] {
        server.delete(tail).await.unwrap();
    }
    assert_eq!(server.stored("eastus", &manifest(&server, VERSION, None).await).await, os);
    assert_eq!(server.stored("eastus", &manifest(&server, VERSION, Some(0)).await).await, a);
}

#[tokio::test(flavor = "multi_thread")]
async fn gs13_a_managed_image_must_fit_the_definition() {
    let (server, _) = with_image().await;
    for (name, property, value, text) in [
        (
            "s",
            "osState",
            "Specialized",
            "has a different OS state ['Generalized'] than the parent gallery image OS state ['Specialized']",
        ),
        (
            "w",
            "osType",
            "Windows",
            "has a different OS type ['Linux'] than the parent gallery image OS type ['Windows']",
        ),
        (
            "o",
            "hyperVGeneration",
            "V1",
            "has a different Hypervisor generation ['V2'] than the parent gallery image Hypervisor generation ['V1']",
        ),
    ] {
        let mut definition = definition(name);
        definition["properties"][property] = json!(value);
        server.put(&format!("galleries/g/images/{name}"), definition).await.unwrap();
        let refused =
            server.put(&format!("galleries/g/images/{name}/versions/1.0.0"), of_image(&server, "eastus")).await;
        let error = refused.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (400, "BadRequest"));
        assert!(error.message.contains(text), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mi9_a_managed_image_makes_one_version_at_a_time() {
    let (server, _) = with_image().await;
    let mut server = server.idle().await;
    let tail = |n: usize| format!("galleries/g/images/i/versions/{n}.0.0");
    // At the same time: one gets it.
    let writes = (1..=4).map(|n| {
        let (engine, call, id, body) =
            (server.engine.clone(), server.call.clone(), server.id(&tail(n)), of_image(&server, "eastus"));
        tokio::spawn(async move { engine.put(&call, &id, body).await })
    });
    let mut accepted = Vec::new();
    for write in writes.collect::<Vec<_>>() {
        match write.await.unwrap() {
            Ok(written) => accepted.push(written.operation.unwrap()),
            Err(error) => {
                assert_eq!((error.status, error.code.as_str()), (409, "OperationNotAllowed"));
                assert!(error.message.contains("is still being built from it and replicated. Wait until"), "{error}");
            }
        }
    }
    assert_eq!(accepted.len(), 1);
    server.run();
    server.end(&accepted[0]).await.unwrap();
    server.put(&tail(9), of_image(&server, "eastus")).await.unwrap();
}
