//! VM applications: packages from blobs, in every region of a version. Managed images from blobs.

use super::{MIB, Server, disk_bytes};
use crate::storage::{Access, Account, DeleteSnapshots, NewBlob, Place, Upload};
use bytes::Bytes;
use futures::{StreamExt, stream};
use lazuli_arm::ArmError;
use lazuli_disks::vhd::Footer;
use serde_json::{Value, json};

const APP: &str = "galleries/g/applications/app1";
const VERSION: &str = "galleries/g/applications/app1/versions/1.0.0";

async fn with_account() -> (Server, Account) {
    let server = Server::start().await;
    let account = account(&server).await;
    (server, account)
}

/// `acct1` with the container `apps`.
pub(super) async fn account(server: &Server) -> Account {
    let id = format!("{}/providers/Microsoft.Storage/storageAccounts/acct1", server.group).parse().unwrap();
    let body = json!({"location": "eastus", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}});
    server.engine.put(&server.call, &id, body).await.unwrap();
    let account = server.engine.account_of_blobs("acct1").await.unwrap().unwrap();
    server.engine.storage().create_container(&account, "apps", Default::default(), None).await.unwrap();
    account
}

fn at(account: &Account, blob: &str) -> Place {
    Place { account: account.clone(), container: "apps".into(), blob: blob.into(), snapshot: None }
}

pub(super) async fn put_blob(server: &Server, account: &Account, name: &str, bytes: &[u8]) {
    let pieces: Vec<_> = bytes.chunks(300_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let upload = Upload { bytes: stream::iter(pieces).boxed(), md5: Default::default() };
    let (at, access) = (at(account, name), Access::default());
    server.engine.storage().put_block_blob(&at, upload, NewBlob::default(), &access).await.unwrap();
}

fn version(server: &Server, package: &str, regions: &[&str]) -> Value {
    let regions: Vec<Value> = regions.iter().map(|r| json!({"name": r})).collect();
    let link = |name: &str| format!("{}/acct1/apps/{name}", server.call.urls.arm);
    json!({"location": "eastus", "properties": {"publishingProfile": {
        "source": {"mediaLink": link(package), "defaultConfigurationLink": link("config")},
        "manageActions": {"install": "install", "remove": "remove"}, "targetRegions": regions}}})
}

async fn prepared() -> (Server, Account, Vec<u8>) {
    let (server, account) = with_account().await;
    server.gallery().await;
    let mut package = disk_bytes(5)[..usize::try_from(3 * MIB).unwrap()].to_vec();
    package.extend(b"tail");
    put_blob(&server, &account, "package", &package).await;
    put_blob(&server, &account, "config", b"tiny").await;
    let application = json!({"location": "eastus", "properties": {"supportedOSType": "Linux"}});
    server.put(APP, application).await.unwrap();
    (server, account, package)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_in_every_region_and_outlives_its_blob() {
    let (server, account, package) = prepared().await;
    let shown = server.get(APP).await.unwrap();
    assert!(shown["properties"].get("provisioningState").is_none(), "recorded: {shown}");
    server.put(VERSION, version(&server, "package", &["eastus", "westus"])).await.unwrap();
    server
        .engine
        .storage()
        .delete(&at(&account, "package"), DeleteSnapshots::Refuse, &Access::default())
        .await
        .unwrap();

    let internal = server.internal(VERSION).await;
    let file = &internal["files"][0];
    assert_eq!((&file["sizeBytes"], &file["tail"]), (&json!(package.len()), &json!("7461696c")));
    assert_eq!(internal["files"][1]["stored"], Value::Null, "a file below a sector is kept whole beside the row");
    let manifest = file["stored"]["manifest"].as_str().unwrap();
    for region in ["eastus", "westus"] {
        assert_eq!(server.stored(region, manifest).await, package[..package.len() - 4], "{region}");
        assert_eq!(internal["regions"][region]["state"], "Completed");
    }
    let mut call = server.call.clone();
    call.query.insert("$expand".into(), "ReplicationStatus".into());
    let shown = server.engine.get(&call, &server.id(VERSION)).await.unwrap();
    assert_eq!(shown["properties"]["replicationStatus"]["aggregatedState"], "Completed");

    // A region less, then nothing.
    let mut fewer = json!({"properties": {"publishingProfile": {"targetRegions": [{"name": "eastus"}]}}});
    let error = server.engine.patch(&server.call, &server.id(VERSION), fewer.clone()).await.unwrap_err();
    assert!(
        error.message.contains("type 'GalleryApplicationVersion'. Deletion of previously replicated locations"),
        "{error}"
    );
    fewer["properties"]["safetyProfile"] = json!({"allowDeletionOfReplicatedLocations": true});
    let written = server.engine.patch(&server.call, &server.id(VERSION), fewer).await.unwrap();
    assert_eq!(written.resource["properties"]["provisioningState"], "Updating");
    server.end(&written.operation.unwrap()).await.unwrap();
    assert_eq!(server.engine.db().content_manifests("westus").await.unwrap(), Vec::<String>::new());
    assert_eq!(server.delete(APP).await.unwrap_err().code, "CannotDeleteResource");
    server.delete(VERSION).await.unwrap();
    server.delete(APP).await.unwrap();
    assert_eq!(server.engine.db().content_manifests("eastus").await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_by_number_and_nothing_is_fetched_from_elsewhere() {
    let (server, ..) = prepared().await;
    for name in ["1.0.10", "1.0.9"] {
        server.put(&format!("{APP}/versions/{name}"), version(&server, "package", &["eastus"])).await.unwrap();
    }
    assert_eq!(server.list(APP, "Microsoft.Compute/galleries/applications/versions").await, ["1.0.9", "1.0.10"]);
    let refused = async |change: &dyn Fn(&mut Value)| -> ArmError {
        let mut body = version(&server, "package", &["eastus"]);
        change(&mut body);
        server.put(VERSION, body).await.unwrap_err()
    };
    for link in ["https://example.org/package", "http://169.254.169.254/metadata"] {
        let error = refused(&|b| b["properties"]["publishingProfile"]["source"]["mediaLink"] = json!(link)).await;
        assert!(error.message.contains("nothing is fetched from elsewhere"), "{error}");
    }
    let missing = format!("{}/acct1/apps/none", server.call.urls.arm);
    let error = refused(&|b| b["properties"]["publishingProfile"]["source"]["mediaLink"] = json!(missing)).await;
    assert_eq!(error.code, "BlobNotFound");
    assert_eq!(server.get(VERSION).await.unwrap_err().code, "ResourceNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_managed_image_of_a_vhd_blob_shares_its_bytes() {
    let (server, account) = with_account().await;
    let disk = disk_bytes(9);
    let footer = Footer::fixed(disk.len() as u64, uuid::Uuid::nil(), 0).to_bytes();
    put_blob(&server, &account, "os.vhd", &[&disk[..], &footer].concat()).await;
    let before = server.stored_bytes("eastus").await;
    let uri = format!("{}/acct1/apps/os.vhd", server.call.urls.arm);
    let image = json!({"location": "eastus", "properties": {"storageProfile": {
        "osDisk": {"osType": "Linux", "osState": "Generalized", "blobUri": uri}}}});
    let shown = server.put("images/i", image).await.unwrap();
    assert_eq!(shown["properties"]["hyperVGeneration"], "V1");
    assert_eq!(shown["properties"]["storageProfile"]["osDisk"]["diskSizeGB"], 1);
    assert_eq!(server.stored_bytes("eastus").await, before);
    let manifest = server.internal("images/i").await["osDisk"]["manifest"].as_str().unwrap().to_owned();
    server.engine.storage().delete(&at(&account, "os.vhd"), DeleteSnapshots::Refuse, &Access::default()).await.unwrap();
    assert_eq!(server.stored("eastus", &manifest).await, disk);
}
