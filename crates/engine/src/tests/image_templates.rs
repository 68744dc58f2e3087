//! Image templates as resources: checked, fetched for, staged, refused, changed, deleted. Runs have tests of their own.

mod runs;

use super::authorization::{as_caller, ask, assign, stranger};
use super::{Server, definition, disk_bytes};
use crate::call::{ActionReply, Caller, Deleted, Method};
use crate::storage::{Access, Place};
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_authz::rbac::{CONTRIBUTOR, READER, STORAGE_BLOB_DATA_READER};
use lazuli_meta::model::ResourceQuery;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const SCRIPT: &[u8] = b"#!/bin/sh\necho hello\n";

/// Files over plain HTTP on loopback.
struct Files {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Files {
    async fn serve(files: BTreeMap<&'static str, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let files = Arc::new(files);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let files = Arc::clone(&files);
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    let mut piece = [0; 1024];
                    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                        match stream.read(&mut piece).await {
                            Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
                            _ => return,
                        }
                    }
                    let line = String::from_utf8_lossy(&request).into_owned();
                    let path = line.split_whitespace().nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
                    let answer = match (path, files.get(path)) {
                        (_, Some(bytes)) => {
                            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
                            [head.as_bytes(), bytes].concat()
                        }
                        ("/moved", None) => {
                            b"HTTP/1.1 302 Found\r\nlocation: /setup.sh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
                        }
                        _ => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec(),
                    };
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct World {
    server: Server,
    files: Files,
    /// Object id of the identity's principal.
    principal: String,
}

impl World {
    /// Gallery `g` with the source's definition `i` (version 1.0.0) and `out`; identity `id1` without rights.
    async fn start() -> Self {
        Self::configured(|_| {}).await
    }

    async fn configured(change: impl FnOnce(&mut crate::EngineConfig)) -> Self {
        let files = BTreeMap::from([("/setup.sh", SCRIPT.to_vec()), ("/large", vec![7; 3 << 20])]);
        let files = Files::serve(files).await;
        let mut server = Server::configured(|config| {
            config.image_builder.fetch_from = vec!["127.0.0.1".into()];
            config.image_builder.max_file_mib = 2;
            change(config);
        })
        .await;
        server.run();
        server.gallery().await;
        server.put("galleries/g/images/out", definition("sku2")).await.unwrap();
        server.uploaded("d1", &disk_bytes(1)).await;
        let version = json!({"location": "eastus", "properties": {
            "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}}}});
        server.put("galleries/g/images/i/versions/1.0.0", version).await.unwrap();
        let mut world = Self { server, files, principal: String::new() };
        let made = world.server.engine.put(&world.server.call, &world.identity(), json!({"location": "eastus"})).await;
        world.principal = made.unwrap().resource["properties"]["principalId"].as_str().unwrap().to_owned();
        world
    }

    /// With an identity that may do everything in the group.
    async fn with_rights() -> Self {
        let world = Self::start().await;
        world.assign(CONTRIBUTOR).await;
        world
    }

    async fn assign(&self, role: &str) {
        assign(&self.server, &self.server.group.to_string(), role, &self.principal).await.unwrap();
    }

    fn identity(&self) -> ResourceId {
        self.server.group.resource("Microsoft.ManagedIdentity", "userAssignedIdentities", "id1")
    }

    fn template(&self, name: &str) -> ResourceId {
        self.server.group.resource("Microsoft.VirtualMachineImages", "imageTemplates", name)
    }

    /// A template's PUT; `change` is merged into its properties.
    fn body(&self, change: Value) -> Value {
        let id = |tail: &str| self.server.id(tail).to_string();
        let properties = json!({
            "source": {"type": "SharedImageVersion", "imageVersionId": id("galleries/g/images/i/versions/latest")},
            "customize": [{"type": "Shell", "name": "setup", "scriptUri": self.files.url("setup.sh?sig=secret")},
                {"type": "Shell", "inline": ["true"]}],
            "distribute": [
                {"type": "SharedImage", "runOutputName": "gallery", "galleryImageId": id("galleries/g/images/out"),
                    "replicationRegions": ["eastus"]},
                {"type": "ManagedImage", "runOutputName": "image", "imageId": id("images/img1"), "location": "eastus"}],
        });
        let properties = lazuli_arm::bodies::merge_patch(&properties, &change);
        json!({"location": "eastus", "properties": properties,
            "identity": {"type": "UserAssigned", "userAssignedIdentities": {self.identity().to_string(): {}}}})
    }

    async fn create(&self, name: &str, change: Value) -> Result<Value, ArmError> {
        let (server, id) = (&self.server, self.template(name));
        let written = server.engine.put(&server.call, &id, self.body(change)).await?;
        assert_eq!(written.resource["properties"]["provisioningState"], "Creating");
        assert_eq!(written.resource["properties"]["exactStagingResourceGroup"], "");
        server.end(written.operation.as_deref().unwrap()).await?;
        server.engine.get(&server.call, &id).await
    }

    async fn show(&self, name: &str) -> Result<Value, ArmError> {
        self.server.engine.get(&self.server.call, &self.template(name)).await
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<Value, ArmError> {
        let written = self.server.engine.patch(&self.server.call, &self.template(name), patch).await?;
        self.server.end(written.operation.as_deref().unwrap()).await?;
        self.show(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), ArmError> {
        match self.server.engine.delete(&self.server.call, &self.template(name)).await? {
            Deleted::Absent => Ok(()),
            Deleted::Done { operation } | Deleted::Started { operation } => self.server.end(&operation).await.map(drop),
        }
    }

    /// Names of the subscription's groups.
    async fn groups(&self) -> Vec<String> {
        let kind = ResourceType { namespace: "Microsoft.Resources".into(), types: vec!["resourceGroups".into()] };
        let scope = ResourceId::subscription(&self.server.group.subscription);
        let page = self.server.engine.list(&self.server.call, &scope, &kind).await.unwrap();
        page.items.iter().map(|g| g["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Why a template with this change fails.
    async fn fails(&self, change: Value) -> (String, String) {
        let error = self.create("bad", change).await.unwrap_err();
        let shown = self.show("bad").await.unwrap();
        assert_eq!(shown["properties"]["provisioningState"], "Failed", "it stays, to be looked at");
        let told = &shown["properties"]["provisioningError"];
        assert_eq!(told["message"], json!(error.message));
        let code = told["provisioningErrorCode"].as_str().unwrap().to_owned();
        self.delete("bad").await.unwrap();
        let left = self.groups().await.into_iter().filter(|g| g.starts_with("IT_rg1_bad"));
        assert_eq!(left.count(), 0, "nothing is left");
        (code, error.message)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_gets_its_staging_group_with_what_it_needs() {
    let world = World::with_rights().await;
    let server = &world.server;
    let shown = world.create("t1", json!({"managedResourceTags": {"cost": "7"}})).await.unwrap();
    let properties = &shown["properties"];
    assert_eq!(properties["provisioningState"], "Succeeded");
    let exact = server.id("galleries/g/images/i/versions/1.0.0").to_string();
    assert_eq!(properties["source"]["exactVersion"], json!(exact));
    let sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SCRIPT));
    assert_eq!(properties["customize"][0]["sha256Checksum"], json!(sha256));
    assert_eq!(properties["customize"][1].get("sha256Checksum"), None);
    assert!(shown["id"].as_str().unwrap().contains("/resourcegroups/rg1/"), "recorded");
    let of = &shown["identity"]["userAssignedIdentities"][world.identity().to_string()];
    assert_eq!(of["principalId"], json!(world.principal));

    let staging: ResourceId = properties["exactStagingResourceGroup"].as_str().unwrap().parse().unwrap();
    assert!(staging.name().starts_with("IT_rg1_t1_"), "{staging}");
    let group = server.engine.get(&server.call, &staging).await.unwrap();
    assert_eq!(
        group["tags"],
        json!({"cost": "7", "createdBy": "AzureVMImageBuilder", "imageTemplateName": "t1", "imageTemplateResourceGroupName": "rg1"})
    );
    let accounts = ResourceType { namespace: "Microsoft.Storage".into(), types: vec!["storageAccounts".into()] };
    let accounts = server.engine.list(&server.call, &staging, &accounts).await.unwrap().items;
    let [account] = accounts.as_slice() else { panic!("one account is there: {accounts:?}") };
    let account = server.engine.account_of_blobs(account["name"].as_str().unwrap()).await.unwrap().unwrap();
    let blob = Place { account, container: "scripts".into(), blob: "customize/0/setup.sh".into(), snapshot: None };
    let info = server.engine.storage().properties(&blob, &Access::default()).await.unwrap();
    assert_eq!(info.size, SCRIPT.len() as u64);

    // Immutable, but for what a PATCH may change (IB-27).
    let again = server.engine.put(&server.call, &world.template("t1"), world.body(json!({}))).await.unwrap_err();
    assert_eq!(
        (again.status, again.code.as_str(), again.message.as_str()),
        (409, "Conflict", "Update/Upgrade of image templates is currently not supported")
    );
    let tagged = world.patch("t1", json!({"tags": {"a": "b"}})).await.unwrap();
    assert_eq!(
        (&tagged["tags"], &tagged["properties"]["provisioningState"]),
        (&json!({"a": "b"}), &json!("Succeeded"))
    );
    let vhd = json!({"properties": {"distribute": [{"type": "VHD", "runOutputName": "vhd"}], "vmProfile": {"osDiskSizeGB": 40}}});
    let patched = world.patch("t1", vhd).await.unwrap();
    assert_eq!(patched["properties"]["vmProfile"], json!({"vmSize": "", "osDiskSizeGB": 40}));
    let customize = world.patch("t1", json!({"properties": {"customize": []}})).await.unwrap_err();
    assert_eq!(customize.code, "Conflict");
    let bare = world.patch("t1", json!({"identity": {"type": "None"}})).await.unwrap();
    assert_eq!(bare["identity"], json!({"type": "None"}));

    let cancel = server.engine.action(&server.call, &world.template("t1"), "cancel", Value::Null).await.unwrap_err();
    assert_eq!((cancel.status, cancel.code.as_str()), (409, "OperationNotAllowed"));
    world.delete("t1").await.unwrap();
    assert_eq!(world.show("t1").await.unwrap_err().status, 404);
    assert_eq!(world.groups().await, ["rg1"], "the staging group went with it");
    assert!(server.get("galleries/g/images/i/versions/1.0.0").await.is_ok());
}

/// RB-6 and the recording test_image_builder_vm_profile.
#[tokio::test(flavor = "multi_thread")]
async fn the_identity_needs_the_rights() {
    let world = World::start().await;
    let source = world.server.id("galleries/g/images/i/versions/latest").to_string();
    let told = |id: &str| {
        format!(
            "Not authorized to access the resource: {id}. Please check the user assigned identity has the correct permissions. For \
             more details, go to https://aka.ms/azvmimagebuilderts."
        )
    };
    assert_eq!(world.fails(json!({})).await, ("Other".into(), told(&source)));
    world.assign(READER).await;
    let out = world.server.id("galleries/g/images/out").to_string();
    assert_eq!(world.fails(json!({})).await, ("Other".into(), told(&out)), "what it reads it cannot write");

    // The role that Azure's documentation gives to such identities is enough.
    let actions = [
        "Microsoft.Compute/galleries/read",
        "Microsoft.Compute/galleries/images/read",
        "Microsoft.Compute/galleries/images/versions/read",
        "Microsoft.Compute/galleries/images/versions/write",
        "Microsoft.Compute/images/write",
        "Microsoft.Compute/images/read",
        "Microsoft.Compute/images/delete",
    ];
    let (server, name) = (&world.server, uuid::Uuid::new_v4().to_string());
    let scope = server.group.to_string();
    let role = json!({"properties": {"roleName": "Image Builder", "type": "CustomRole", "description": "",
        "permissions": [{"actions": actions, "notActions": []}], "assignableScopes": [scope]}});
    ask(server, &server.call, Method::Put, &scope, &format!("roleDefinitions/{name}"), role).await.unwrap();
    world.assign(&name).await;
    assert_eq!(world.create("t1", json!({})).await.unwrap()["properties"]["provisioningState"], "Succeeded");

    super::site::network(server).await;
    let subnet = server.id("virtualNetworks/v/subnets/s").to_string();
    let network = world.fails(json!({"vmProfile": {"vnetConfig": {"subnetId": subnet}}})).await;
    assert_eq!(network, ("Other".into(), told(&server.id("virtualNetworks/v").to_string())), "recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_cannot_be_had_fail_the_template() {
    let world = World::with_rights().await;
    let script = |path: &str, more: Value| {
        let step = json!({"type": "Shell", "scriptUri": world.files.url(path)});
        json!({"customize": [lazuli_arm::bodies::merge_patch(&step, &more)]})
    };
    let mut told = Vec::new();
    for change in [
        script("nothing.sh?sig=secret", json!({})),
        script("setup.sh", json!({"sha256Checksum": "0".repeat(64)})),
        script("large", json!({})),
        json!({"customize": [{"type": "Shell", "scriptUri": "http://169.254.169.254/metadata"}]}),
        json!({"customize": [{"type": "PowerShell", "inline": ["dir"]}]}),
        json!({"customize": [{"type": "File", "sourceUri": world.files.url("setup.sh"), "destination": "/etc/motd"}]}),
        json!({"customize": null, "validate": {"inVMValidations": [{"type": "Shell", "scriptUri": world.files.url("no")}]}}),
        json!({"distribute": [{"type": "SharedImage", "runOutputName": "g", "replicationRegions": ["eastus"],
            "galleryImageId": world.server.id("galleries/g/images/none").to_string()}]}),
        json!({"distribute": [{"type": "SharedImage", "runOutputName": "g", "replicationRegions": ["westus"],
            "galleryImageId": world.server.id("galleries/g/images/out").to_string()}]}),
    ] {
        let (code, message) = world.fails(change).await;
        told.push(format!("{code}: {message}"));
    }
    let group = world.server.group.to_string();
    let all = told.join("\n").replace(&group, "[group]").replace(&world.files.address.to_string(), "[files]");
    assert!(!all.contains("secret"), "{all}");
    insta::assert_snapshot!(all);
    let moved = world.create("t1", script("moved", json!({}))).await.unwrap();
    assert!(moved["properties"]["customize"][0]["sha256Checksum"].is_string(), "redirections are followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loopback_address_is_the_operators_to_allow() {
    let world = World::configured(|config| config.image_builder.fetch_from = vec![]).await;
    world.assign(CONTRIBUTOR).await;
    let (code, message) = world.fails(json!({})).await;
    assert_eq!(code, "NoCustomizerScript");
    assert!(message.contains("fetch_from"), "{message}");
}

/// Blobs of this server are read as the identity.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_in_an_account_of_this_server() {
    let world = World::with_rights().await;
    let server = &world.server;
    let account = server.group.resource("Microsoft.Storage", "storageAccounts", "scripts1");
    let body = json!({"location": "eastus", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}});
    server.engine.put(&server.call, &account, body).await.unwrap();
    let owner = server.engine.account_of_blobs("scripts1").await.unwrap().unwrap();
    server.engine.storage().create_container(&owner, "scripts", BTreeMap::new(), None).await.unwrap();
    let place = Place { account: owner, container: "scripts".into(), blob: "a.sh".into(), snapshot: None };
    let bytes = futures::StreamExt::boxed(futures::stream::iter([Ok(bytes::Bytes::from_static(SCRIPT))]));
    let upload = crate::storage::Upload { bytes, md5: Arc::default() };
    let put = server.engine.storage().put_block_blob(&place, upload, Default::default(), &Access::default()).await;
    put.unwrap();
    let url = "https://scripts1.blob.core.windows.net/scripts/a.sh";
    let change = || json!({"customize": [{"type": "Shell", "scriptUri": url}]});
    let (code, message) = world.fails(change()).await;
    assert_eq!(code, "Other");
    assert!(message.starts_with(&format!("Not authorized to access the resource: {url}.")), "{message}");
    world.assign(STORAGE_BLOB_DATA_READER).await;
    let shown = world.create("t1", change()).await.unwrap();
    assert!(shown["properties"]["customize"][0]["sha256Checksum"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_staging_group_is_used_and_given_back() {
    let world = World::with_rights().await;
    let server = &world.server;
    let named = ResourceId::group(&server.group.subscription, "mine");
    let change = || json!({"stagingResourceGroup": named.to_string()});
    let put = |location: &str| {
        let body = json!({"location": location, "tags": {"team": "x"}});
        async move { server.engine.put(&server.call, &ResourceId::group(&server.group.subscription, "mine"), body).await }
    };
    put("westus").await.unwrap();
    let error = world.create("bad", change()).await.unwrap_err();
    assert_eq!(error.code, "BadStagingResourceGroup");
    assert!(error.message.contains("'westus'"), "{}", error.message);
    world.delete("bad").await.unwrap();
    assert!(world.groups().await.contains(&"mine".to_owned()), "what was never taken is left alone");
    server.engine.delete(&server.call, &named).await.unwrap();
    super::site::until("the group is gone", async || server.engine.get(&server.call, &named).await.is_err()).await;

    put("eastus").await.unwrap();
    let disk = named.resource("Microsoft.Compute", "disks", "d");
    let body =
        json!({"location": "eastus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    server
        .end(server.engine.put(&server.call, &disk, body).await.unwrap().operation.as_deref().unwrap())
        .await
        .unwrap();
    let error = world.create("bad", change()).await.unwrap_err();
    assert!(error.message.ends_with("'mine' is not empty."), "{}", error.message);
    world.delete("bad").await.unwrap();
    let (Deleted::Done { operation } | Deleted::Started { operation }) =
        server.engine.delete(&server.call, &disk).await.unwrap()
    else {
        panic!("what is somebody else's is left alone")
    };
    server.end(&operation).await.unwrap();
    let shown = world.create("t1", change()).await.unwrap();
    assert_eq!(shown["properties"]["exactStagingResourceGroup"], json!(named.to_string()));
    let tags = server.engine.get(&server.call, &named).await.unwrap()["tags"].clone();
    assert_eq!((&tags["team"], tags["usedBy"].is_string()), (&json!("x"), true));
    let (name, body) = (world.template("t9"), world.body(change()));
    let ActionReply::Done(Some(report)) = server.engine.action(&server.call, &name, "dryRun", body).await.unwrap()
    else {
        panic!("a report was expected")
    };
    let checks = report["checks"].as_array().unwrap();
    let told = checks.iter().find(|c| c["name"] == "stagingResourceGroup").unwrap();
    assert_eq!(told["code"], "BadStagingResourceGroup", "a dry run tells that too");
    let second = world.create("t2", change()).await.unwrap_err();
    assert_eq!(second.code, "BadStagingResourceGroup", "nobody else may use it");
    world.delete("t2").await.unwrap();
    world.delete("t1").await.unwrap();
    let group = server.engine.get(&server.call, &named).await.unwrap();
    assert_eq!(group["tags"], json!({"team": "x"}), "it is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_are_for_templates_that_can_have_them() {
    let world = World::with_rights().await;
    let server = &world.server;
    world.create("t1", json!({})).await.unwrap();
    let trigger = |template: &str, name: &str| world.template(template).child("triggers", name);
    let put = |id: ResourceId, properties: Value| async move {
        let written = server.engine.put(&server.call, &id, json!({"properties": properties})).await?;
        assert_eq!(written.resource["properties"]["provisioningState"], "Creating");
        server.end(written.operation.as_deref().unwrap()).await?;
        server.engine.get(&server.call, &id).await
    };
    let shown = put(trigger("t1", "source"), json!({"kind": "SourceImage"})).await.unwrap();
    let status = &shown["properties"]["status"];
    assert_eq!((&status["code"], &status["message"]), (&json!("Healthy"), &json!("Trigger is active")));
    let second = put(trigger("t1", "again"), json!({"kind": "SourceImage"})).await.unwrap_err();
    assert_eq!(second.status, 409);
    put(trigger("t1", "weekly"), json!({"kind": "Schedule", "cron": "0 3 * * 1"})).await.unwrap();
    for bad in [json!({"kind": "Blob"}), json!({"kind": "Schedule", "cron": "often"})] {
        assert_eq!(put(trigger("t1", "bad"), bad).await.unwrap_err().code, "ValidationFailed");
    }
    // One whose source has one version for ever, and one that would start itself.
    let fixed = server.id("galleries/g/images/i/versions/1.0.0").to_string();
    world.create("t2", json!({"source": {"imageVersionId": fixed}})).await.unwrap();
    let own = json!({"distribute": [{"type": "SharedImage", "runOutputName": "g", "replicationRegions": ["eastus"],
        "galleryImageId": server.id("galleries/g/images/i").to_string()}]});
    world.create("t3", own).await.unwrap();
    for template in ["t2", "t3"] {
        let error = put(trigger(template, "source"), json!({"kind": "SourceImage"})).await.unwrap_err();
        assert_eq!(error.code, "ValidationFailed", "{template}");
    }
    let triggers = server.engine.list(&server.call, &world.template("t1"), &kind_of("triggers")).await.unwrap();
    assert_eq!(triggers.items.len(), 2);
    let outputs = server.engine.list(&server.call, &world.template("t1"), &kind_of("runOutputs")).await.unwrap();
    assert!(outputs.items.is_empty());
    server.delete("galleries/g/images/i/versions/1.0.0").await.unwrap();
    let blind =
        server.engine.get(&server.call, &trigger("t1", "source")).await.unwrap()["properties"]["status"].clone();
    assert_eq!(blind["code"], "Unhealthy", "{blind}");
    assert!(blind["message"].as_str().unwrap().starts_with("Trigger sees no new versions: The source of"), "{blind}");
    let output = world.template("t1").child("runOutputs", "o");
    assert_eq!(server.engine.put(&server.call, &output, json!({})).await.unwrap_err().status, 405);
    world.delete("t1").await.unwrap();
    assert_eq!(server.engine.get(&server.call, &trigger("t1", "source")).await.unwrap_err().status, 404);
}

/// Each new version of the source starts one run, until three in a row have failed.
#[tokio::test(flavor = "multi_thread")]
async fn new_versions_start_runs_until_too_many_fail() {
    let world = World::configured(|config| config.image_builder.trigger_seconds = 3600).await;
    world.assign(CONTRIBUTOR).await;
    // There is no such size, which the run is told.
    world.create("t1", json!({"customize": null, "vmProfile": {"vmSize": "Standard_Z9"}})).await.unwrap();
    let (server, template) = (&world.server, world.template("t1"));
    let trigger = template.child("triggers", "source");
    let kind = json!({"properties": {"kind": "SourceImage"}});
    let written = server.engine.put(&server.call, &trigger, kind).await.unwrap();
    server.end(written.operation.as_deref().unwrap()).await.unwrap();
    let status = async || server.engine.get(&server.call, &trigger).await.unwrap()["properties"]["status"].clone();
    let looked = async || crate::reconcilers::image_triggers::reconcile(&server.engine, crate::now_ms()).await.unwrap();
    let publish = async |number: &str| {
        let body = json!({"location": "eastus", "properties": {
            "storageProfile": {"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}}}});
        server.put(&format!("galleries/g/images/i/versions/{number}"), body).await.unwrap();
    };
    assert_eq!(looked().await, 0, "it has seen this version");
    for number in ["1.0.1", "1.0.2", "1.0.3"] {
        assert_eq!(status().await["code"], "Healthy", "{number}");
        publish(number).await;
        assert_eq!(looked().await, 1, "{number}");
        let last = async || world.show("t1").await.unwrap()["properties"]["lastRunStatus"].clone();
        super::site::until("the run ends", async || last().await["runState"] != "Running").await;
        let last = last().await;
        assert_eq!(last["runState"], "Failed");
        assert!(last["message"].as_str().unwrap().contains("Standard_Z9"), "{last}");
        assert_eq!(looked().await, 0, "one version, one run");
    }
    publish("1.0.4").await;
    assert_eq!((looked().await, &status().await["code"]), (0, &json!("Deactivated")));

    let shown = world.show("t1").await.unwrap();
    let staging: ResourceId = shown["properties"]["exactStagingResourceGroup"].as_str().unwrap().parse().unwrap();
    let query = ResourceQuery { parent: Some(staging.key()), ..ResourceQuery::default() };
    let left = server.engine.db().resources(&query).await.unwrap();
    let left: Vec<&str> = left.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(left, ["microsoft.storage/storageaccounts"], "runs that failed leave nothing");
}

fn kind_of(child: &str) -> ResourceType {
    let types = vec!["imageTemplates".to_owned(), child.to_owned()];
    ResourceType { namespace: "Microsoft.VirtualMachineImages".into(), types }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_allow_editing() {
    let world = World::configured(|config| config.image_builder.editable = true).await;
    world.assign(CONTRIBUTOR).await;
    let first = world.create("t1", json!({})).await.unwrap();
    let (server, id) = (&world.server, world.template("t1"));
    let body = world.body(json!({"customize": [{"type": "Shell", "inline": ["false"]}]}));
    let written = server.engine.put(&server.call, &id, body).await.unwrap();
    server.end(written.operation.as_deref().unwrap()).await.unwrap();
    let second = world.show("t1").await.unwrap();
    assert_eq!(second["properties"]["customize"], json!([{"inline": ["false"], "type": "Shell"}]));
    let group = |shown: &Value| shown["properties"]["exactStagingResourceGroup"].clone();
    assert_eq!(group(&first), group(&second));
}

/// IB-27, and what else is asked of a move. Whoever may not write in the other group does not learn whether it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_not_moved_to_another_group() {
    let world = World::with_rights().await;
    world.create("t1", json!({"customize": null})).await.unwrap();
    let (server, target) = (&world.server, ResourceId::group(&world.server.group.subscription, "rg2"));
    let ask = async |call: &crate::call::Call, action: &str, id: &ResourceId| {
        let body = json!({"resources": [id.to_string().to_lowercase()], "targetResourceGroup": target.to_string()});
        server.engine.action(call, &server.group, action, body).await.unwrap_err()
    };
    let template = world.template("t1");
    assert_eq!(ask(&server.call, "moveResources", &template).await.code, "ResourceGroupNotFound");
    server.engine.put(&server.call, &target, json!({"location": "eastus"})).await.unwrap();
    for action in ["moveResources", "validateMoveResources"] {
        let error = ask(&server.call, action, &template).await;
        assert_eq!((error.status, error.code.as_str()), (409, "ResourceMoveValidationFailed"));
        let [detail] = error.details.as_slice() else { panic!("{error:?}") };
        assert_eq!(
            detail.message,
            "Resource move is not supported for resource types 'Microsoft.VirtualMachineImages/imageTemplates'."
        );
        assert_eq!(ask(&server.call, action, &world.template("t2")).await.code, "ResourceNotFound");
    }
    let caller = stranger(server, &server.call.caller.tenant).await;
    assign(server, &server.group.to_string(), CONTRIBUTOR, &caller.principal).await.unwrap();
    let error = ask(&as_caller(server, &caller), "moveResources", &template).await;
    assert_eq!(error.code, "LinkedAuthorizationFailed");
    assert!(world.show("t1").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_limits_of_the_server() {
    let world = World::configured(|config| config.max_image_disk_gib = 1).await;
    world.assign(CONTRIBUTOR).await;
    let report = async |profile: Value| {
        let body = world.body(json!({"customize": null, "vmProfile": profile}));
        let asked =
            world.server.engine.action(&world.server.call, &world.template("t1"), "dryRun", body).await.unwrap();
        let ActionReply::Done(Some(report)) = asked else { panic!("{asked:?}") };
        let quota = |name: &str| {
            let checks = report["checks"].as_array().unwrap();
            let check = checks.iter().find(|c| c["name"] == format!("quota/{name}")).unwrap();
            format!("{}: {}", check["code"].as_str().unwrap_or("ok"), check["message"].as_str().unwrap())
        };
        (quota("machine"), quota("disk"))
    };
    let (machine, disk) = report(json!({})).await;
    assert_eq!(machine, "AllocationFailed: Allocation failed. The host of the machines does not answer.");
    assert_eq!(disk, "ok: The OS disk has 1 GiB.");
    let (_, disk) = report(json!({"osDiskSizeGB": 2})).await;
    assert_eq!(disk, "BadRequest: The GalleryImageVersion source resource size 2 exceeds the max size 1 supported.");
    assert_eq!(world.show("t1").await.unwrap_err().status, 404, "nothing is made");
}

/// Guests of the fake host are ready and take no connection: a run goes on until it is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_run_is_told_by_its_name() {
    let world = World::with_rights().await;
    let (server, id) = (&world.server, world.template("t1"));
    let (stop, _host) = super::site::host(server, &lazuli_vmm::hypervisor::Fake::default()).await;
    let _stop = stop.drop_guard();
    world.create("t1", json!({})).await.unwrap();
    let view = async |query: &[(&str, &str)]| {
        let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let call = crate::call::Call { query, ..server.call.clone() };
        server.engine.view(&call, &id, "logStream").await.map(Option::unwrap)
    };
    assert_eq!(view(&[]).await.unwrap(), json!({"run": null, "offset": 0, "text": "", "ended": true}));
    let begin = async || {
        let ran = server.engine.action(&server.call, &id, "run", Value::Null).await.unwrap();
        super::site::until("the run says something", async || view(&[]).await.unwrap()["text"] != "").await;
        let shown = view(&[]).await.unwrap();
        assert_eq!(shown["ended"], false, "{shown}");
        let ActionReply::Started { operation } = ran else { panic!("{ran:?}") };
        (operation, shown["run"].as_str().unwrap().to_owned())
    };
    let (operation, first) = begin().await;
    server.engine.action(&server.call, &id, "cancel", Value::Null).await.unwrap();
    assert_eq!(server.end(&operation).await.unwrap_err().code, "OperationPreempted");
    let whole = view(&[]).await.unwrap();
    assert!(whole["text"].as_str().unwrap().ends_with("was canceled\n") && whole["ended"] == true, "{whole}");

    let (_, second) = begin().await;
    assert_ne!(first, second);
    assert_eq!(view(&[("run", &first)]).await.unwrap(), whole, "another run changes nothing of it");
    let end = whole["offset"].to_string();
    let rest = view(&[("run", &first), ("offset", &end)]).await.unwrap();
    assert_eq!((&rest["text"], &rest["offset"], &rest["ended"]), (&json!(""), &whole["offset"], &json!(true)));
    assert_eq!(view(&[("run", &second)]).await.unwrap()["ended"], false);
    let code = async |query: &[(&str, &str)]| view(query).await.unwrap_err().code;
    assert_eq!(code(&[("run", "../secret")]).await, "InvalidParameter");
    assert_eq!(code(&[("offset", "-1")]).await, "InvalidParameter");
    assert_eq!(code(&[("run", &uuid::Uuid::new_v4().to_string())]).await, "NotFound");
}

#[test]
fn a_service_is_at_home_in_its_own_scope_alone() {
    let caller = Caller { service_scope: Some("/subscriptions/s/resourcegroups/it_a".into()), ..Caller::default() };
    for scope in ["/subscriptions/s/resourceGroups/IT_a", "/subscriptions/S/resourcegroups/it_a/providers/x/y/z"] {
        assert!(caller.serves(scope), "{scope}");
    }
    for scope in
        ["", "/", "/subscriptions/s", "/subscriptions/s/resourceGroups/it_ab", "/subscriptions/s/resourcegroups/other"]
    {
        assert!(!caller.serves(scope), "{scope}");
    }
    let nobody = Caller { service_scope: Some(String::new()), ..Caller::default() };
    assert!(!nobody.serves("/subscriptions/s"));
}
