//! Containers of storage accounts through management requests: one truth with the data plane.

use super::Server;
use crate::call::Deleted;
use crate::storage::Access;
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_meta::model::AuditQuery;
use serde_json::{Value, json};

struct World {
    server: Server,
    service: ResourceId,
}

impl World {
    async fn start() -> Self {
        let server = Server::start_without_worker().await;
        let account = server.group.resource("Microsoft.Storage", "storageAccounts", "acct1");
        let body = json!({"sku": {"name": "Standard_LRS"}, "kind": "StorageV2", "location": "eastus"});
        server.engine.put(&server.call, &account, body).await.unwrap();
        let service = account.child("blobServices", "default");
        Self { server, service }
    }

    fn id(&self, name: &str) -> ResourceId {
        self.service.child("containers", name)
    }

    async fn put(&self, name: &str, properties: Value) -> Result<(Value, bool), ArmError> {
        let body = json!({"properties": properties});
        let written = self.server.engine.put(&self.server.call, &self.id(name), body).await?;
        assert!(written.operation.is_some());
        Ok((written.resource, written.created))
    }

    async fn get(&self, name: &str) -> Result<Value, ArmError> {
        self.server.engine.get(&self.server.call, &self.id(name)).await
    }

    async fn list(&self, query: &[(&str, &str)]) -> (Vec<String>, Option<String>) {
        let mut call = self.server.call.clone();
        call.query.extend(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let types = ["storageAccounts", "blobServices", "containers"].map(str::to_owned).to_vec();
        let collection = ResourceType { namespace: "Microsoft.Storage".into(), types };
        let page = self.server.engine.list(&call, &self.service, &collection).await.unwrap();
        (page.items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect(), page.next)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_planes_see_the_same_container() {
    let w = World::start().await;
    let (made, created) = w.put("vhds", json!({"metadata": {"Kind": "disks"}})).await.unwrap();
    assert!(created);
    assert_eq!(made["id"], json!(w.id("vhds").to_string()));
    assert_eq!(made["type"], "Microsoft.Storage/storageAccounts/blobServices/containers");
    let properties = &made["properties"];
    assert_eq!((&properties["publicAccess"], &properties["leaseState"]), (&json!("None"), &json!("Available")));
    assert_eq!(properties["metadata"], json!({"kind": "disks"}));
    let engine = &w.server.engine;
    let account = engine.account_of_blobs("acct1").await.unwrap().unwrap();
    let seen = engine.storage().container(&account, "vhds", &Access::default()).await.unwrap();
    assert_eq!(made["etag"], json!(format!("\"{}\"", seen.etag)));

    // Again is an update, and what the body leaves out stays.
    let (again, created) = w.put("vhds", json!({})).await.unwrap();
    assert!(!created);
    assert_eq!(again["properties"]["metadata"], json!({"kind": "disks"}));
    let patch = json!({"properties": {"metadata": {"kind": "images"}}});
    let patched = engine.patch(&w.server.call, &w.id("vhds"), patch.clone()).await.unwrap();
    assert_eq!(patched.resource["properties"]["metadata"], json!({"kind": "images"}));
    let seen = engine.storage().container(&account, "vhds", &Access::default()).await.unwrap();
    assert_eq!(seen.body.metadata["kind"], "images");
    let mut stale = w.server.call.clone();
    stale.if_match = Some("0x0".into());
    assert_eq!(engine.patch(&stale, &w.id("vhds"), patch).await.unwrap_err().status, 412);

    engine.storage().create_container(&account, "logs", Default::default(), None).await.unwrap();
    assert_eq!(w.list(&[]).await.0, ["logs", "vhds"]);
    assert_eq!(w.get("logs").await.unwrap()["name"], "logs");
    let deleted = engine.delete(&w.server.call, &w.id("logs")).await.unwrap();
    assert!(matches!(deleted, Deleted::Done { .. }));
    assert!(engine.storage().container(&account, "logs", &Access::default()).await.is_err());
    assert!(matches!(engine.delete(&w.server.call, &w.id("logs")).await.unwrap(), Deleted::Absent));
    let query = AuditQuery { resource_key: Some(w.id("logs").key()), ..AuditQuery::default() };
    let lines = engine.db().audit(&query).await.unwrap();
    let actions: Vec<&str> = lines.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(actions, ["Microsoft.Storage/storageAccounts/blobServices/containers/delete"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_and_filtered() {
    let w = World::start().await;
    for name in ["aaa", "abc", "bbb"] {
        w.put(name, json!({})).await.unwrap();
    }
    let (first, next) = w.list(&[("$maxpagesize", "2")]).await;
    assert_eq!(first, ["aaa", "abc"]);
    let (rest, end) = w.list(&[("$maxpagesize", "2"), ("$skiptoken", &next.unwrap())]).await;
    assert_eq!((rest, end), (vec!["bbb".to_owned()], None));
    assert_eq!(w.list(&[("$filter", "startswith(name, 'a')")]).await.0, ["aaa", "abc"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let w = World::start().await;
    let code = |result: Result<(Value, bool), ArmError>| {
        let error = result.unwrap_err();
        (error.status, error.code.clone())
    };
    assert_eq!(code(w.put("A_B", json!({})).await), (400, "InvalidResourceName".into()));
    assert_eq!(code(w.put("vhds", json!({"publicAccess": "Blob"})).await), (409, "PublicAccessNotPermitted".into()));
    assert_eq!(code(w.put("vhds", json!({"enableNfsV3AllSquash": true})).await), (400, "OperationNotSupported".into()));
    assert_eq!(w.get("vhds").await.unwrap_err().code, "ContainerNotFound");
    let patch = w.server.engine.patch(&w.server.call, &w.id("vhds"), json!({})).await;
    assert_eq!(patch.unwrap_err().code, "ContainerNotFound");
    w.put("vhds", json!({})).await.unwrap();
    let lease = w.server.engine.action(&w.server.call, &w.id("vhds"), "setLegalHold", json!({})).await;
    assert_eq!(lease.unwrap_err().code, "InvalidResourceAction");
    // The account's name alone is not enough: the path must be its own.
    let foreign = ResourceId::group(&w.server.group.subscription, "rg2");
    w.server.engine.put(&w.server.call, &foreign, json!({"location": "eastus"})).await.unwrap();
    let foreign = foreign.resource("Microsoft.Storage", "storageAccounts", "acct1").child("blobServices", "default");
    let error = w.server.engine.get(&w.server.call, &foreign.child("containers", "vhds")).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "ParentResourceNotFound"));
    let account = w.service.parent().unwrap();
    w.server.engine.delete(&w.server.call, &account).await.unwrap();
    assert_eq!(w.get("vhds").await.unwrap_err().code, "ParentResourceNotFound");
}
