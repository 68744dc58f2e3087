//! Extensions of a model, and rolling upgrades.

use super::super::applications::{account, put_blob};
use super::super::site::{Site, link, until};
use super::SET;
use crate::call::ActionReply;
use lazuli_arm::ArmError;
use lazuli_meta::model::OperationState;
use lazuli_vmm::hypervisor::Behaviour;
use serde_json::{Value, json};
use std::time::Duration;

const LATEST: &str = "virtualMachineScaleSets/set1/rollingUpgrades/latest";

fn script(command: &str) -> Value {
    json!({"extensionProfile": {"extensions": [{"name": "script", "properties": {"publisher": "Microsoft.Azure.Extensions",
        "type": "CustomScript", "typeHandlerVersion": "2.1", "settings": {"fileUris": []},
        "protectedSettings": {"commandToExecute": command}}}]}})
}

impl Site {
    /// A set of three, numbered machines of version 1.0.0; there is a version 2.0.0.
    async fn three(&self, policy: Value) {
        let mut model = self.uniform(3);
        model["properties"]["upgradePolicy"] = policy;
        self.server.put(SET, model).await.unwrap();
        self.version("2.0.0", json!([{"name": "eastus"}])).await;
    }

    /// Of which versions its machines are.
    async fn made_of(&self) -> Vec<String> {
        let version = |i: &Value| {
            let id = i["properties"]["storageProfile"]["imageReference"]["id"].as_str().unwrap().to_owned();
            id.rsplit('/').next().unwrap().to_owned()
        };
        self.instances().await.iter().map(version).collect()
    }

    fn second(&self) -> Value {
        json!({"storageProfile": {"imageReference": link(&self.server, "galleries/g/images/i/versions/2.0.0")}})
    }

    /// A PATCH of the model's profile.
    async fn remodel(&self, profile: Value) -> Result<(), ArmError> {
        let patch = json!({"properties": {"virtualMachineProfile": profile}});
        let written = self.server.engine.patch(&self.server.call, &self.server.id(SET), patch).await?;
        self.server.end(&written.operation.unwrap()).await.map(drop)
    }

    async fn rolling(&self) -> Value {
        self.server.get(LATEST).await.unwrap()["properties"].clone()
    }

    /// What the script of a machine last did; null: it has none.
    async fn script_of(&self, machine: &str) -> Value {
        let tail = format!("virtualMachines/{machine}/extensions/script");
        match self.server.get(&tail).await {
            Ok(_) => self.server.internal(&tail).await["status"]["message"].clone(),
            Err(_) => Value::Null,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_get_the_models_extensions() {
    let site = Site::start().await;
    let server = &site.server;
    let mut model = site.uniform(2);
    model["properties"]["virtualMachineProfile"]["extensionProfile"] =
        script("first a-secret")["extensionProfile"].clone();
    let shown = server.put(SET, model).await.unwrap();
    let extension = &shown["properties"]["virtualMachineProfile"]["extensionProfile"]["extensions"][0];
    assert_eq!((&extension["name"], &extension["properties"]["type"]), (&json!("script"), &json!("CustomScript")));
    assert!(!shown.to_string().contains("a-secret"), "protected settings are never shown");
    assert!(!server.internal(SET).await.to_string().contains("a-secret"), "nor kept readable");
    for machine in ["set1_0", "set1_1"] {
        assert!(site.script_of(machine).await.as_str().unwrap().contains("first a-secret"), "it ran on {machine}");
    }
    let view = server.engine.view(&server.call, &server.id(SET), "instanceView").await.unwrap().unwrap();
    let summary = json!([{"name": "script", "statusesSummary": [{"code": "ProvisioningState/succeeded", "count": 2}]}]);
    assert_eq!(view["extensions"], summary);

    // Another script: the machines stay, and get it when they are brought to the model.
    let ids = async || {
        let all = site.instances().await;
        all.iter().map(|i| i["properties"]["vmId"].clone()).collect::<Vec<_>>()
    };
    let latest = async || {
        let all = site.instances().await;
        all.iter().map(|i| i["properties"]["latestModelApplied"].clone()).collect::<Vec<_>>()
    };
    let machines = ids().await;
    assert_eq!(latest().await, [true, true]);
    site.remodel(script("second")).await.unwrap();
    assert_eq!(latest().await, [false, false]);
    site.on_instances("manualupgrade", json!(["0"])).await.unwrap();
    assert_eq!((latest().await, ids().await), (vec![json!(true), json!(false)], machines.clone()));
    assert!(site.script_of("set1_0").await.as_str().unwrap().contains("second"));
    assert!(site.script_of("set1_1").await.as_str().unwrap().contains("first"));
    server.action(SET, "extensionRollingUpgrade", Value::Null).await.unwrap();
    assert!(site.script_of("set1_1").await.as_str().unwrap().contains("second"));

    // A new machine has it too; one that the model has no more goes with the next upgrade.
    site.scaled(3).await.unwrap();
    assert!(site.script_of("set1_2").await.as_str().unwrap().contains("second"));
    site.remodel(json!({"extensionProfile": {"extensions": []}})).await.unwrap();
    site.on_instances("manualupgrade", json!(["*"])).await.unwrap();
    assert_eq!(site.script_of("set1_0").await, Value::Null);
    assert_eq!(ids().await[..2], machines[..], "not one was made again");

    // One that fails is told.
    let error = site.remodel(json!({"extensionProfile": {"extensions": [{"name": "x", "properties": {}}]}})).await;
    assert_eq!(error.unwrap_err().code, "InvalidParameter");
    site.remodel(script("exit 3")).await.unwrap();
    let error = site.on_instances("manualupgrade", json!(["0"])).await.unwrap_err();
    assert_eq!(error.code, "VMExtensionProvisioningError");
}

/// What a PUT of an extension of the model says.
fn extension(command: &str) -> Value {
    let entry = script(command)["extensionProfile"]["extensions"][0].clone();
    json!({"properties": entry["properties"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_of_the_model_is_a_resource() {
    let site = Site::start().await;
    let server = &site.server;
    const SCRIPT: &str = "virtualMachineScaleSets/set1/extensions/script";
    const KIND: &str = "Microsoft.Compute/virtualMachineScaleSets/extensions";
    let error = server.put(SCRIPT, extension("true")).await.unwrap_err();
    assert_eq!(error.status, 404, "its set is not there: {error}");
    server.put(SET, site.uniform(1)).await.unwrap();
    assert_eq!(server.get(SCRIPT).await.unwrap_err().status, 404);
    assert_eq!(server.list(SET, KIND).await, Vec::<String>::new());

    let shown = server.put(SCRIPT, extension("first a-secret")).await.unwrap();
    assert_eq!((&shown["name"], &shown["type"]), (&json!("script"), &json!(KIND)));
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert_eq!(shown["properties"]["type"], "CustomScript");
    assert!(!shown.to_string().contains("a-secret"));
    assert_eq!(server.list(SET, KIND).await, ["script"]);
    let model = server.get(SET).await.unwrap();
    assert_eq!(model["sku"]["capacity"], 1);
    let of_model = &model["properties"]["virtualMachineProfile"]["extensionProfile"]["extensions"];
    assert_eq!(of_model[0]["properties"]["settings"], shown["properties"]["settings"]);
    assert_eq!(site.script_of("set1_0").await, Value::Null, "machines are brought to the model when somebody asks");
    site.on_instances("manualupgrade", json!(["0"])).await.unwrap();
    assert!(site.script_of("set1_0").await.as_str().unwrap().contains("first a-secret"));

    // A patch leaves what it does not name, secrets too.
    let patch = json!({"properties": {"forceUpdateTag": "again"}});
    let written = server.engine.patch(&server.call, &server.id(SCRIPT), patch).await.unwrap();
    server.end(&written.operation.unwrap()).await.unwrap();
    assert_eq!(server.get(SCRIPT).await.unwrap()["properties"]["forceUpdateTag"], "again");
    site.on_instances("manualupgrade", json!(["0"])).await.unwrap();
    assert!(site.script_of("set1_0").await.as_str().unwrap().contains("first a-secret"));

    for (body, code) in [
        (json!({}), "InvalidParameter"),
        (json!({"properties": {"publisher": "x", "type": "y", "typeHandlerVersion": "1.0"}}), "ArtifactNotFound"),
    ] {
        assert_eq!(server.put(SCRIPT, body).await.unwrap_err().code, code);
    }
    let other = "virtualMachineScaleSets/set1/extensions/other";
    let error = server.put(other, extension("true")).await.unwrap_err();
    assert!(error.message.starts_with("Multiple VMExtensions per handler"), "{error}");
    assert_eq!(server.engine.patch(&server.call, &server.id(other), json!({})).await.unwrap_err().status, 404);

    server.delete(SCRIPT).await.unwrap();
    assert_eq!(server.get(SCRIPT).await.unwrap_err().status, 404);
    server.delete(SCRIPT).await.unwrap();
    site.on_instances("manualupgrade", json!(["0"])).await.unwrap();
    assert_eq!(site.script_of("set1_0").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_get_the_models_applications() {
    let site = Site::start().await;
    let server = &site.server;
    let account = account(server).await;
    put_blob(server, &account, "package", &[b'p'; 1500]).await;
    let application = json!({"location": "eastus", "properties": {"supportedOSType": "Linux"}});
    server.put("galleries/g/applications/app1", application).await.unwrap();
    let version = json!({"location": "eastus", "properties": {"publishingProfile": {
        "source": {"mediaLink": format!("{}/acct1/apps/package", server.call.urls.arm)},
        "manageActions": {"install": "install", "remove": "remove"}, "targetRegions": [{"name": "eastus"}]}}});
    server.put("galleries/g/applications/app1/versions/1.0.0", version).await.unwrap();
    let id = server.id("galleries/g/applications/app1/versions/1.0.0").to_string();
    let mut model = site.uniform(2);
    let applications = json!({"galleryApplications": [{"packageReferenceId": id}]});
    model["properties"]["virtualMachineProfile"]["applicationProfile"] = applications;
    server.put(SET, model).await.unwrap();
    let ran = async || {
        let mut all = Vec::new();
        for machine in site.instances().await {
            let id = machine["properties"]["vmId"].as_str().unwrap().parse().unwrap();
            let commands = site.fake.ran(id);
            all.push(commands.iter().map(|told| told.split_once('|').unwrap().1.to_owned()).collect::<Vec<_>>());
        }
        all
    };
    assert_eq!(ran().await, [["install"], ["install"]]);
    // The model has it no more: machines stay, and lose it when they are brought to the model.
    site.remodel(json!({"applicationProfile": {"galleryApplications": []}})).await.unwrap();
    site.on_instances("manualupgrade", json!(["0"])).await.unwrap();
    assert_eq!(ran().await, [vec!["install", "remove"], vec!["install"]]);
    let latest =
        site.instances().await.iter().map(|i| i["properties"]["latestModelApplied"].clone()).collect::<Vec<_>>();
    assert_eq!(latest, [true, false]);
    let bad = json!({"applicationProfile": {"galleryApplications": [{"packageReferenceId": "x"}]}});
    assert_eq!(site.remodel(bad).await.unwrap_err().code, "InvalidParameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_ends_where_machines_fail() {
    let site = Site::start().await;
    let server = &site.server;
    site.three(json!({"mode": "Rolling"})).await;
    assert_eq!(server.get(LATEST).await.unwrap_err().status, 404, "there was none");
    site.fake.behave("set1_1", Behaviour::FailsProvisioning { boot: Duration::ZERO, description: "no room".into() });
    let error = site.remodel(site.second()).await.unwrap_err();
    assert_eq!(error.code, "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade");
    assert!(error.message.contains("50% of instances are in an unhealthy state after being upgraded"), "{error}");
    assert!(error.message.ends_with("First failed instance ID is: 1."), "{error}");
    assert_eq!(site.made_of().await, ["2.0.0", "2.0.0", "1.0.0"], "the last one was not touched");
    let shown = site.rolling().await;
    assert_eq!(shown["runningStatus"]["code"], "Faulted");
    assert_eq!(shown["error"]["code"], "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade");
    let progress = json!({"successfulInstanceCount": 1, "failedInstanceCount": 1, "inProgressInstanceCount": 0,
        "pendingInstanceCount": 1});
    assert_eq!(shown["progress"], progress);

    // A third of the machines is not well: too many for the next one.
    let error = server.action(SET, "osRollingUpgrade", Value::Null).await.unwrap_err();
    assert_eq!(error.code, "MaxUnhealthyInstancePercentExceededInRollingUpgrade");
    assert_eq!(site.rolling().await["runningStatus"]["code"], "Faulted");
    site.fake.behave("set1_1", Behaviour::Ready { boot: Duration::ZERO });
    site.on_instances("reimageall", json!(["1"])).await.unwrap();
    server.action(SET, "osRollingUpgrade", Value::Null).await.unwrap();
    assert_eq!(site.made_of().await, ["2.0.0", "2.0.0", "2.0.0"]);
    assert_eq!(site.rolling().await["runningStatus"]["code"], "Completed");
    assert_eq!(server.get(SET).await.unwrap()["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_is_canceled_between_batches() {
    let site = Site::start().await;
    let server = &site.server;
    // Longer than anybody waits here.
    site.three(json!({"mode": "Manual", "rollingUpgradePolicy": {"pauseTimeBetweenBatches": "PT10M"}})).await;
    site.remodel(site.second()).await.unwrap();
    let cancel =
        async || server.engine.action(&server.call, &server.id(SET), "rollingUpgrades/cancel", Value::Null).await;
    let error = cancel().await.unwrap_err();
    assert_eq!(error.message, "There is no ongoing Rolling Upgrade to cancel.");
    let ActionReply::Started { operation } =
        server.engine.action(&server.call, &server.id(SET), "osRollingUpgrade", Value::Null).await.unwrap()
    else {
        panic!("it takes its time")
    };
    until("the first is upgraded", async || site.rolling().await["progress"]["successfulInstanceCount"] == 1).await;
    assert_eq!(site.rolling().await["runningStatus"]["code"], "RollingForward");
    assert_eq!(site.scaled(4).await.unwrap_err().code, "AnotherOperationInProgress");
    let ActionReply::Started { operation: canceling } = cancel().await.unwrap() else { panic!("it takes its time") };
    server.end(&canceling).await.unwrap();
    let ended = server.engine.db().operation(&operation).await.unwrap().unwrap();
    assert_eq!(ended.state, OperationState::Canceled);
    let shown = site.rolling().await;
    assert_eq!(
        (
            &shown["runningStatus"]["code"],
            &shown["runningStatus"]["lastAction"],
            &shown["progress"]["pendingInstanceCount"]
        ),
        (&json!("Cancelled"), &json!("Cancel"), &json!(2))
    );
    assert_eq!(site.made_of().await, ["2.0.0", "1.0.0", "1.0.0"]);
    assert_eq!(server.get(SET).await.unwrap()["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_brings_the_newest_version_of_a_definition() {
    let site = Site::start().await;
    let server = &site.server;
    let mut model = site.uniform(1);
    model["properties"]["virtualMachineProfile"]["storageProfile"]["imageReference"] =
        link(server, "galleries/g/images/i");
    server.put(SET, model).await.unwrap();
    let exact =
        async || site.instances().await[0]["properties"]["storageProfile"]["imageReference"]["exactVersion"].clone();
    assert_eq!(exact().await, "1.0.0");
    site.version("2.0.0", json!([{"name": "eastus"}])).await;
    server.action(SET, "osRollingUpgrade", Value::Null).await.unwrap();
    assert_eq!(exact().await, "2.0.0");
    let id = site.instances().await[0]["properties"]["vmId"].clone();
    server.action(SET, "osRollingUpgrade", Value::Null).await.unwrap();
    assert_eq!(site.instances().await[0]["properties"]["vmId"], id, "it has the newest: nothing is done");
}
