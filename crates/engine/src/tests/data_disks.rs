//! Data disks that are made with their machine: blank ones and those of its image (MD-9, MD-10).

use super::disk_bytes;
use super::site::{Site, VERSION, VM, link, until};
use lazuli_meta::model::{Change, Expect, Write};
use serde_json::{Value, json};

impl Site {
    /// Version 1.0.0 gets the disk `d1` once more, at LUN 2.
    async fn with_data_disk(&self) {
        let db = self.server.engine.db();
        let mut row = db.resource(&self.server.id(VERSION).key()).await.unwrap().unwrap();
        let expect = Expect::Etag(row.etag.clone());
        row.internal["dataDisks"] = json!({"2": row.internal["osDisk"]});
        row.body["properties"]["storageProfile"]["dataDiskImages"] =
            json!([{"lun": 2, "hostCaching": "ReadOnly", "sizeInGB": 1}]);
        db.write(Write { fence: None, changes: vec![Change::PutResource { resource: row, expect }] }).await.unwrap();
    }
}

fn data(body: &mut Value, disks: Value) {
    body["properties"]["storageProfile"]["dataDisks"] = disks;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_brings_its_data_disks() {
    let site = Site::start().await;
    site.with_data_disk().await;
    let server = &site.server;
    let blank = json!({"lun": 5, "createOption": "empty", "diskSizeGB": 3, "deleteOption": "Delete"});
    let vm = site.create(|b| data(b, json!([blank]))).await.unwrap();
    let shown = vm["properties"]["storageProfile"]["dataDisks"].as_array().unwrap();
    let facts: Vec<_> = shown
        .iter()
        .map(|d| {
            (
                d["lun"].clone(),
                d["createOption"].clone(),
                d["caching"].clone(),
                d["diskSizeGB"].clone(),
                d["deleteOption"].clone(),
            )
        })
        .collect();
    assert_eq!(
        facts,
        [
            (json!(5), json!("Empty"), json!("None"), json!(3), json!("Delete")),
            (json!(2), json!("FromImage"), json!("ReadOnly"), json!(1), json!("Detach")),
        ]
    );
    let names: Vec<&str> = shown.iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(names[0].starts_with("vm1_disk2_") && names[1].starts_with("vm1_lun_2_2_"), "{names:?}");
    let tails: Vec<String> = names.iter().map(|n| format!("disks/{n}")).collect();
    for (entry, tail) in shown.iter().zip(&tails) {
        assert_eq!(entry["managedDisk"]["id"], json!(server.id(tail).to_string()));
        let disk = server.get(tail).await.unwrap();
        assert_eq!((&disk["properties"]["diskState"], &disk["managedBy"]), (&json!("Attached"), &vm["id"]));
        assert_eq!(entry["managedDisk"]["storageAccountType"], disk["sku"]["name"]);
    }
    let made = server.get(&tails[1]).await.unwrap()["properties"]["creationData"].clone();
    assert_eq!((&made["createOption"], &made["galleryImageReference"]["lun"]), (&json!("FromImage"), &json!(2)));
    let manifest = server.internal(&tails[1]).await["base"]["manifest"].clone();
    assert!(server.stored("eastus", manifest.as_str().unwrap()).await == disk_bytes(1));
    // The guest gets them.
    let spec = site.defined(site.vm_id().await).unwrap();
    let given: Vec<_> = spec.data_disks.iter().map(|d| (d.lun, d.size_bytes, d.base.is_some())).collect();
    assert_eq!(given, [(Some(5), 3 << 30, false), (Some(2), disk_bytes(1).len() as u64, true)]);

    // They keep their bytes without the image, and go or stay with the machine as it was said.
    server.delete(VERSION).await.unwrap();
    server.delete(VM).await.unwrap();
    until("the blank disk is gone", async || server.get(&tails[0]).await.is_err()).await;
    assert_eq!(site.state(&tails[1]).await, "Unattached");
    assert!(server.stored("eastus", manifest.as_str().unwrap()).await == disk_bytes(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_name_the_disks_of_the_image_and_nothing_else_there() {
    let site = Site::start().await;
    site.with_data_disk().await;
    let cases = [
        json!([{"lun": 0, "createOption": "FromImage"}]),
        json!([{"lun": 2, "createOption": "Empty", "diskSizeGB": 1}]),
        json!([{"lun": 2, "createOption": "Attach", "managedDisk": link(&site.server, "disks/d1")}]),
    ];
    for disks in cases {
        let error = site.create(|b| data(b, disks.clone())).await.unwrap_err();
        assert_eq!(error.code, "InvalidParameter");
        assert!(error.message.starts_with("StorageProfile.dataDisks.lun does not have required value(s)"), "{error}");
    }
    let same = json!([{"lun": 0, "createOption": "Empty", "diskSizeGB": 1, "name": "os1"}]);
    assert_eq!(site.create(|b| data(b, same.clone())).await.unwrap_err().code, "ConflictingUserInput");
    let sizeless = json!([{"lun": 0, "createOption": "Empty"}]);
    assert_eq!(site.create(|b| data(b, sizeless.clone())).await.unwrap_err().code, "InvalidParameter");

    let named =
        json!([{"lun": 2, "createOption": "FromImage", "name": "mine", "caching": "ReadWrite", "diskSizeGB": 4}]);
    let vm = site.create(|b| data(b, named)).await.unwrap();
    let shown = &vm["properties"]["storageProfile"]["dataDisks"];
    assert_eq!(shown.as_array().unwrap().len(), 1);
    assert_eq!((&shown[0]["name"], &shown[0]["caching"]), (&json!("mine"), &json!("ReadWrite")));
    assert_eq!(site.server.get("disks/mine").await.unwrap()["properties"]["diskSizeGB"], 4);
}
