//! Runs on a host of fake guests, which are ready and take no connection: a run goes on until it is cancelled.

use super::super::platform::publish;
use super::super::site::{host, until};
use super::World;
use crate::call::ActionReply;
use lazuli_arm::ResourceId;
use lazuli_arm::bodies::merge_patch;
use lazuli_meta::model::{Resource, ResourceQuery};
use lazuli_vmm::hypervisor::Fake;
use serde_json::{Value, json};

const SIZE: &str = "Standard_B1s";

impl World {
    /// Begins a run; its operation.
    async fn begin(&self, name: &str) -> String {
        let (server, id) = (&self.server, self.template(name));
        let began = server.engine.action(&server.call, &id, "run", Value::Null).await.unwrap();
        let ActionReply::Started { operation } = began else { panic!("{began:?}") };
        operation
    }

    /// What is in a template's staging group.
    async fn staged(&self, name: &str) -> Vec<Resource> {
        let shown = self.show(name).await.unwrap();
        let group: ResourceId = shown["properties"]["exactStagingResourceGroup"].as_str().unwrap().parse().unwrap();
        let query = ResourceQuery { parent: Some(group.key()), ..ResourceQuery::default() };
        self.server.engine.db().resources(&query).await.unwrap()
    }

    /// The machine of a run, once the run has asked for it.
    async fn machine(&self, name: &str) -> Resource {
        let asked = async || {
            let all = self.staged(name).await;
            all.into_iter().find(|row| row.kind == "microsoft.compute/virtualmachines")
        };
        until("the run asks for a machine", async || {
            let last = self.show(name).await.unwrap()["properties"]["lastRunStatus"].clone();
            assert_eq!(last["runState"], "Running", "{name}: {last}");
            asked().await.is_some()
        })
        .await;
        asked().await.unwrap()
    }

    /// Ends a run, of which nothing is left.
    async fn cancel(&self, name: &str, operation: &str) {
        let (server, id) = (&self.server, self.template(name));
        server.engine.action(&server.call, &id, "cancel", Value::Null).await.unwrap();
        assert_eq!(server.end(operation).await.unwrap_err().code, "OperationPreempted");
        let left: Vec<String> = self.staged(name).await.into_iter().map(|row| row.kind).collect();
        assert_eq!(left, ["microsoft.storage/storageaccounts"], "{name}");
    }
}

/// The template must name the plan of its source, and every machine that is made of it does (ID-9).
#[tokio::test(flavor = "multi_thread")]
async fn the_plan_of_a_source_is_that_of_its_machines() {
    let world = World::with_rights().await;
    let server = &world.server;
    let (stop, _host) = host(server, &Fake::default()).await;
    let _stop = stop.drop_guard();
    let plan = json!({"publisher": "contoso", "name": "hardened-1", "product": "hardened"});
    publish(server, "contoso:hardened:12-gen2:1.0.0", &["eastus"], json!({"plan": plan})).await.unwrap();
    let source = |info: Value| {
        json!({"source": {"type": "PlatformImage", "publisher": "contoso", "offer": "hardened", "sku": "12-gen2",
            "version": "latest", "planInfo": info, "imageVersionId": null}})
    };
    let info = |name: &str| json!({"planName": name, "planProduct": "hardened", "planPublisher": "contoso"});
    for wrong in [Value::Null, info("Hardened-1")] {
        let (code, message) = world.fails(source(wrong)).await;
        let asked = "planInfo with planName 'hardened-1', planProduct 'hardened', planPublisher 'contoso'";
        assert!(code == "BadPIRSource" && message.contains(asked), "{code}: {message}");
    }

    let validators = json!([{"type": "Shell", "inline": ["true"]}]);
    let alone = json!({"validate": {"sourceValidationOnly": true, "inVMValidations": validators}});
    for (name, more) in [("built", json!({})), ("validated", alone)] {
        let change = merge_patch(&source(info("hardened-1")), &json!({"vmProfile": {"vmSize": SIZE}}));
        world.create(name, merge_patch(&change, &more)).await.unwrap();
        let operation = world.begin(name).await;
        let machine = world.machine(name).await;
        assert_eq!(machine.body["plan"], plan, "{name}");
        let image = &machine.body["properties"]["storageProfile"]["imageReference"];
        assert_eq!((&image["offer"], &image["version"]), (&json!("hardened"), &json!("1.0.0")), "{name}: the source");
        world.cancel(name, &operation).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_neither_run_again_nor_changed_nor_deleted() {
    let world = World::with_rights().await;
    let (server, id) = (&world.server, world.template("t1"));
    let (stop, _host) = host(server, &Fake::default()).await;
    let _stop = stop.drop_guard();
    world.create("t1", json!({"vmProfile": {"vmSize": SIZE}})).await.unwrap();
    let operation = world.begin("t1").await;
    let machine = world.machine("t1").await;
    let patch = json!({"properties": {"distribute": [{"type": "VHD", "runOutputName": "vhd"}]}});
    for refused in [
        server.engine.action(&server.call, &id, "run", Value::Null).await.map(drop),
        server.engine.patch(&server.call, &id, patch).await.map(drop),
        server.engine.delete(&server.call, &id).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (409, "OperationNotAllowed"), "{error}");
        assert!(error.message.ends_with("Wait until it has ended, or cancel the run."), "{error}");
    }
    assert_eq!(world.machine("t1").await.key, machine.key, "the run goes on");
    world.cancel("t1", &operation).await;
    world.delete("t1").await.unwrap();
    assert_eq!(world.groups().await, ["rg1"], "the staging group went with it");
}
