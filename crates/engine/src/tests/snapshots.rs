use super::{MIB, SMALLEST, Server, disk_bytes};
use crate::blobs::{BlobError, PageChange, Sas};
use crate::new_etag;
use crate::stored::{DiskInternal, internal, to_internal};
use lazuli_arm::ArmError;
use lazuli_meta::model::{Change, ContentRef, Expect, OperationQuery, Write};
use serde_json::{Value, json};
use std::time::Duration;

impl Server {
    async fn snapshot(&self, name: &str, source: &str, more: Value) -> Result<Value, ArmError> {
        let mut properties =
            json!({"creationData": {"createOption": "Copy", "sourceResourceId": self.id(source).to_string()}});
        for (name, value) in more.as_object().unwrap() {
            properties[name] = value.clone();
        }
        self.put(&format!("snapshots/{name}"), json!({"location": "eastus", "properties": properties})).await
    }

    async fn incremental(&self, name: &str, source: &str) -> Value {
        self.snapshot(name, source, json!({"incremental": true})).await.unwrap()
    }

    /// What a machine would do: from now on the disk has the bytes of another one.
    async fn overwrite(&self, disk: &str, with: &str) {
        let row = async |name: &str| self.engine.db().resource(&self.id(name).key()).await.unwrap().unwrap();
        let (mut old, new) = (row(disk).await, row(with).await);
        let expect = Expect::Etag(old.etag.clone());
        let (mut state, other): (DiskInternal, DiskInternal) = (internal(&old).unwrap(), internal(&new).unwrap());
        let manifest = other.base.clone().unwrap().manifest;
        state.base = other.base;
        old.internal = to_internal(&state);
        old.etag = new_etag();
        let reference = ContentRef { resource_key: old.key.clone(), region: "eastus".into(), manifest };
        let changes = vec![Change::PutResource { resource: old, expect }, Change::PutContentRef(reference)];
        self.engine.db().write(Write { fence: None, changes }).await.unwrap();
    }

    /// The end of the copy in the background.
    async fn copied(&self, tail: &str) -> Value {
        let query = OperationQuery { resource_key: Some(self.id(tail).key()), ..OperationQuery::default() };
        let operations = self.engine.db().operations(&query).await.unwrap();
        let copy = operations.iter().find(|o| o.kind.ends_with(".copy")).unwrap();
        self.engine.db().wait_operation(&copy.id, Duration::from_secs(60)).await.unwrap().unwrap();
        self.get(tail).await.unwrap()
    }

    async fn bytes_of(&self, region: &str, tail: &str) -> Vec<u8> {
        let internal = self.internal(tail).await;
        self.stored(region, internal["base"]["manifest"].as_str().unwrap()).await
    }
}

/// Bytes `disk_bytes` with one MiB of others in them.
fn changed(seed: u64) -> Vec<u8> {
    let mut data = disk_bytes(seed);
    let mib = usize::try_from(MIB).unwrap();
    data[mib / 2..mib / 2 + 4096].fill(seed.to_le_bytes()[0] | 1);
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_costs_a_row_and_outlives_its_disk() {
    let server = Server::start().await;
    let data = disk_bytes(1);
    server.uploaded("d1", &data).await;
    let before = server.stored_bytes("eastus").await;
    let snapshot = server.snapshot("s1", "disks/d1", json!({})).await.unwrap();
    let p = &snapshot["properties"];
    assert_eq!((&p["diskState"], &p["provisioningState"]), (&json!("Unattached"), &json!("Succeeded")));
    assert_eq!((&p["diskSizeBytes"], &p["diskSizeGB"], &p["osType"]), (&json!(SMALLEST), &json!(1), &json!("Linux")));
    assert_eq!((&p["incremental"], p.get("incrementalSnapshotFamilyId")), (&json!(false), None));
    let disk = server.get("disks/d1").await.unwrap();
    assert_eq!(p["creationData"]["sourceUniqueId"], disk["properties"]["uniqueId"]);
    assert_eq!(server.stored_bytes("eastus").await, before, "no byte is stored twice");

    server.delete("disks/d1").await.unwrap();
    assert_eq!(server.bytes_of("eastus", "snapshots/s1").await, data);
    // Back to a disk, to another snapshot, to an image (MD-8).
    let copy = json!({"location": "eastus", "properties": {
        "creationData": {"createOption": "Copy", "sourceResourceId": server.id("snapshots/s1").to_string()}}});
    let disk = server.put("disks/d2", copy).await.unwrap();
    assert_eq!(
        (&disk["properties"]["osType"], &disk["properties"]["hyperVGeneration"]),
        (&json!("Linux"), &json!("V2"))
    );
    server.snapshot("s2", "snapshots/s1", json!({"diskSizeGB": 2})).await.unwrap();
    server.delete("snapshots/s1").await.unwrap();
    assert_eq!(server.bytes_of("eastus", "disks/d2").await, data);
    assert_eq!(server.get("snapshots/s2").await.unwrap()["properties"]["diskSizeGB"], 2);
    assert_eq!(server.list("", "Microsoft.Compute/snapshots").await, ["s2"]);
    server.delete("disks/d2").await.unwrap();
    server.delete("snapshots/s2").await.unwrap();
    assert_eq!(server.engine.db().content_manifests("eastus").await.unwrap(), Vec::<String>::new());
    assert!(server.stored_bytes("eastus").await < before / 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_read_as_a_disk_is() {
    let server = Server::start().await;
    server.uploaded("d1", &disk_bytes(2)).await;
    server.snapshot("s1", "disks/d1", json!({})).await.unwrap();
    let given = server.begin_access("snapshots/s1", "Read").await.unwrap().output.unwrap();
    assert!(given["accessSAS"].as_str().unwrap().starts_with("https://127.0.0.1:1/md-"), "{given}");
    assert_eq!(server.get("snapshots/s1").await.unwrap()["properties"]["diskState"], "ActiveSAS");
    // Recorded: what is being read may be copied.
    server.snapshot("s2", "snapshots/s1", json!({})).await.unwrap();
    let error = server.delete("snapshots/s1").await.unwrap_err();
    assert!(
        error.message.starts_with("There is an active shared access signature outstanding for disk s1."),
        "{error}"
    );
    let error = server.begin_access("snapshots/s1", "Write").await.unwrap_err();
    assert_eq!(error.code, "OperationNotAllowed");
    server.action("snapshots/s1", "endGetAccess", json!({})).await.unwrap();
    assert_eq!(server.get("snapshots/s1").await.unwrap()["properties"]["diskState"], "Unattached");
    server.delete("snapshots/s1").await.unwrap();
    for policy in [
        json!({"networkAccessPolicy": "DenyAll"}),
        json!({"networkAccessPolicy": "AllowAll", "publicNetworkAccess": "Disabled"}),
    ] {
        let written =
            server.engine.patch(&server.call, &server.id("snapshots/s2"), json!({"properties": policy})).await;
        server.end(&written.unwrap().operation.unwrap()).await.unwrap();
        assert_eq!(server.begin_access("snapshots/s2", "Read").await.unwrap_err().code, "OperationNotAllowed");
    }
}

/// Issue 3: incremental snapshots store only changed chunks.
#[tokio::test(flavor = "multi_thread")]
async fn incremental_snapshots_are_a_family_and_store_only_what_changed() {
    let server = Server::start().await;
    server.uploaded("d1", &disk_bytes(3)).await;
    server.uploaded("other", &disk_bytes(4)).await;
    let first = server.incremental("s1", "disks/d1").await;
    let before = server.stored_bytes("eastus").await;
    server.uploaded("d1-later", &changed(3)).await;
    server.overwrite("disks/d1", "disks/d1-later").await;
    let second = server.incremental("s2", "disks/d1").await;
    let grown = server.stored_bytes("eastus").await - before;
    // 2 MiB of data, of which one page changed: the chunks around it, at most a few of 128 KiB, and the manifest.
    assert!(grown < MIB / 2, "{grown} bytes for a change of 4096");
    assert_eq!(server.bytes_of("eastus", "snapshots/s1").await, disk_bytes(3));
    assert_eq!(server.bytes_of("eastus", "snapshots/s2").await, changed(3));

    let family = |s: &Value| s["properties"]["incrementalSnapshotFamilyId"].as_str().unwrap().to_owned();
    assert_eq!(family(&first), family(&second));
    assert_eq!(
        (&first["properties"]["completionPercent"], &first["properties"]["incremental"]),
        (&json!(100.0), &json!(true))
    );
    let copy = server.incremental("s3", "snapshots/s1").await;
    assert_eq!(family(&copy), family(&first));
    assert_ne!(family(&server.incremental("s4", "disks/other").await), family(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_start_brings_incremental_snapshots_to_other_regions() {
    let mut server = Server::start_without_worker().await;
    server.run();
    server.uploaded("d1", &disk_bytes(5)).await;
    server.incremental("s1", "disks/d1").await;
    server.snapshot("full", "disks/d1", json!({})).await.unwrap();
    let start = |source: &str| {
        json!({"location": "westus", "properties": {"incremental": true,
            "creationData": {"createOption": "CopyStart", "sourceResourceId": server.id(source).to_string()}}})
    };
    let error = server.put("snapshots/w0", start("snapshots/full")).await.unwrap_err();
    assert!(error.message.contains("must be an incremental snapshot"), "{error}");
    let begun = server.engine.put(&server.call, &server.id("snapshots/w1"), start("snapshots/s1")).await.unwrap();
    let p = &begun.resource["properties"];
    assert!(p["completionPercent"].as_f64().unwrap() < 100.0 && p["provisioningState"] == "Succeeded", "{p}");
    // The source may go at once: its bytes are kept for the copy.
    server.delete("snapshots/s1").await.unwrap();
    let done = server.copied("snapshots/w1").await;
    let p = &done["properties"];
    assert_eq!((&p["completionPercent"], p.get("copyCompletionError")), (&json!(100.0), None));
    assert_eq!(server.bytes_of("westus", "snapshots/w1").await, disk_bytes(5));
    let disk = json!({"location": "westus", "properties": {
        "creationData": {"createOption": "Copy", "sourceResourceId": server.id("snapshots/w1").to_string()}}});
    server.put("disks/w", disk).await.unwrap();
    // A disk from another region's disk.
    let disk = json!({"location": "westus", "properties": {
        "creationData": {"createOption": "CopyStart", "sourceResourceId": server.id("disks/d1").to_string()}}});
    server.put("disks/w2", disk).await.unwrap();
    server.copied("disks/w2").await;
    assert_eq!(server.bytes_of("westus", "disks/w2").await, disk_bytes(5));
    for tail in ["snapshots/full", "disks/d1"] {
        server.delete(tail).await.unwrap();
    }
    assert_eq!(server.engine.db().content_manifests("eastus").await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_not_complete_is_not_read() {
    let mut server = Server::start_without_worker().await;
    server.run();
    server.uploaded("d1", &disk_bytes(6)).await;
    server.incremental("s1", "disks/d1").await;
    let unblock = super::block_region(server.dir.path(), "westus");
    let start = json!({"location": "westus", "properties": {
        "creationData": {"createOption": "CopyStart", "sourceResourceId": server.id("snapshots/s1").to_string()}}});
    server.put("snapshots/w1", start).await.unwrap();
    let failed = server.copied("snapshots/w1").await;
    let p = &failed["properties"];
    assert_eq!((&p["provisioningState"], &p["completionPercent"]), (&json!("Succeeded"), &json!(0.0)));
    assert_eq!(p["copyCompletionError"]["errorCode"], "CopySourceNotFound");
    let copy = json!({"location": "westus", "properties": {
        "creationData": {"createOption": "Copy", "sourceResourceId": server.id("snapshots/w1").to_string()}}});
    let error = server.put("disks/w", copy).await.unwrap_err();
    assert!(error.message.contains("completionPercent is 100"), "{error}");
    assert_eq!(server.begin_access("snapshots/w1", "Read").await.unwrap_err().code, "OperationNotAllowed");
    unblock();
    server.delete("snapshots/w1").await.unwrap();
}

impl Server {
    /// What the data plane opens for a read SAS.
    async fn opened(&self, tail: &str) -> crate::blobs::Blob {
        self.begin_access(tail, "Read").await.unwrap();
        let grants = self.engine.db().grants_of(&self.id(tail).key()).await.unwrap();
        let grant = grants.iter().find(|g| g.access == "Read").unwrap();
        let sas = Sas { si: grant.id.clone(), sig: grant.secret.clone() };
        self.engine.blobs().open(&grant.account, &grant.container, "abcd", &sas, None).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_between_two_members_of_a_family() {
    let server = Server::start().await;
    server.uploaded("d1", &disk_bytes(7)).await;
    server.uploaded("other", &disk_bytes(8)).await;
    server.incremental("s1", "disks/d1").await;
    server.snapshot("full", "disks/d1", json!({})).await.unwrap();
    let mib = usize::try_from(MIB).unwrap();
    let mut later = changed(7);
    later[mib..2 * mib].fill(0);
    server.uploaded("d1-later", &later).await;
    server.overwrite("disks/d1", "disks/d1-later").await;
    server.incremental("s2", "disks/d1").await;
    server.incremental("s3", "disks/other").await;

    let (first, second) = (server.opened("snapshots/s1").await, server.opened("snapshots/s2").await);
    let changes = second.changes_since(&first, 0..u64::MAX).await.unwrap();
    // Applied to the first, they give the second.
    let mut bytes = disk_bytes(7);
    for PageChange { range, cleared } in &changes {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        assert!(range.end <= later.len(), "the disks have the same size: the footer does not count");
        if *cleared {
            bytes[range].fill(0);
        } else {
            bytes[range.clone()].copy_from_slice(&later[range]);
        }
    }
    assert!(bytes == later);
    let told = |cleared| {
        let of_kind = changes.iter().filter(|c| c.cleared == cleared);
        of_kind.map(|c| c.range.end - c.range.start).sum::<u64>()
    };
    assert!(told(true) > MIB / 2 && told(false) < MIB / 2, "{changes:?}");
    assert_eq!(first.changes_since(&first, 0..u64::MAX).await.unwrap(), []);
    let part = second.changes_since(&first, 0..MIB / 4).await.unwrap();
    assert!(part.iter().all(|c| c.range.end <= MIB / 4), "{part:?}");

    let backwards = first.changes_since(&second, 0..u64::MAX).await;
    assert!(matches!(backwards, Err(BlobError::PreviousNewer)), "{backwards:?}");
    for stranger in ["snapshots/s3", "snapshots/full", "disks/other"] {
        let stranger = server.opened(stranger).await;
        let refused = second.changes_since(&stranger, 0..u64::MAX).await;
        assert!(matches!(refused, Err(BlobError::NoDifference)), "{refused:?}");
    }
}
