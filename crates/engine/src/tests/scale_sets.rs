//! Scale sets: machines of one model, as many as it asks for, each a real machine.

mod upgrades;

use super::site::{Site, VERSION, link, until};
use lazuli_arm::ArmError;
use serde_json::{Value, json};

pub(super) const SET: &str = "virtualMachineScaleSets/set1";

impl Site {
    pub(super) fn model(&self, machines: u32) -> Value {
        let subnet = link(&self.server, "virtualNetworks/v/subnets/s");
        let address = json!({"name": "instancepublicip", "properties": {"idleTimeoutInMinutes": 10}});
        let ip = json!({"name": "ipc", "properties": {"subnet": subnet, "publicIPAddressConfiguration": address}});
        let nic = json!({"name": "nic", "properties": {"primary": true, "ipConfigurations": [ip]}});
        json!({"location": "eastus", "sku": {"name": "Standard_B1s", "capacity": machines}, "properties": {
            "orchestrationMode": "Flexible", "platformFaultDomainCount": 1, "virtualMachineProfile": {
                "storageProfile": {"imageReference": link(&self.server, VERSION), "osDisk": {"createOption": "FromImage"}},
                "osProfile": {"computerNamePrefix": "web", "adminUsername": "azureuser", "adminPassword": super::site::PASSWORD},
                "networkProfile": {"networkInterfaceConfigurations": [nic]}}}})
    }

    async fn instances(&self) -> Vec<Value> {
        let collection = lazuli_arm::ResourceType {
            namespace: "Microsoft.Compute".into(),
            types: vec!["virtualMachineScaleSets".into(), "virtualMachines".into()],
        };
        let call = &self.server.call;
        self.server.engine.list(call, &self.server.id(SET), &collection).await.unwrap().items
    }

    async fn names(&self) -> Vec<String> {
        self.instances().await.iter().map(|i| i["instanceId"].as_str().unwrap().to_owned()).collect()
    }

    async fn scaled(&self, machines: u32) -> Result<Value, ArmError> {
        self.server.put(SET, json!({"location": "eastus", "sku": {"name": "Standard_B1s", "capacity": machines}})).await
    }

    async fn on_instances(&self, action: &str, ids: Value) -> Result<(), ArmError> {
        self.server.action(SET, action, json!({ "instanceIds": ids })).await.map(drop)
    }

    /// Names of what of a kind is in the group.
    async fn of_kind(&self, kind: &str) -> Vec<String> {
        self.server.list("", kind).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_come_and_go_with_the_capacity() {
    let site = Site::start().await;
    let server = &site.server;
    let set = server.put(SET, site.model(2)).await.unwrap();
    assert_eq!((&set["properties"]["provisioningState"], &set["sku"]["capacity"]), (&json!("Succeeded"), &json!(2)));
    assert!(!set.to_string().contains(super::site::PASSWORD), "secrets are never shown");
    assert!(!server.internal(SET).await.to_string().contains(super::site::PASSWORD), "nor kept readable");
    let names = site.names().await;
    assert_eq!(names.len(), 2);
    for name in &names {
        assert!(name.starts_with("set1_"), "{name}");
        let machine = server.get(&format!("virtualMachines/{name}")).await.unwrap();
        assert_eq!(machine["properties"]["virtualMachineScaleSet"]["id"], json!(server.id(SET).to_string()));
        assert!(machine["properties"]["osProfile"]["computerName"].as_str().unwrap().starts_with("web"));
        let id = machine["properties"]["vmId"].as_str().unwrap().parse().unwrap();
        assert!(site.fake.is_running(id));
        let spec = site.defined(id).unwrap();
        assert!(spec.nics[0].public.is_some(), "it has an address of its own");
    }
    assert_eq!(site.of_kind("Microsoft.Network/publicIPAddresses").await.len(), 2);

    site.scaled(4).await.unwrap();
    assert_eq!(site.names().await[..2], names[..], "those that were there stay");
    assert_eq!(site.names().await.len(), 4);
    let shown = site.scaled(1).await.unwrap();
    assert_eq!((site.names().await, &shown["sku"]["capacity"]), (names[..1].to_vec(), &json!(1)));
    for (kind, count) in [("Microsoft.Network/publicIPAddresses", 1), ("Microsoft.Compute/disks", 2)] {
        // The disk that the site uploaded, and the machine's.
        assert_eq!(site.of_kind(kind).await.len(), count, "{kind}");
    }
    let view = server.engine.view(&server.call, &server.id(SET), "instanceView").await.unwrap().unwrap();
    let summary = json!([{"code": "ProvisioningState/succeeded", "count": 1}]);
    assert_eq!(view["virtualMachine"]["statusesSummary"], summary);

    server.delete(SET).await.unwrap();
    for kind in ["Microsoft.Compute/virtualMachines", "Microsoft.Network/publicIPAddresses"] {
        assert!(site.of_kind(kind).await.is_empty(), "{kind}");
    }
    assert_eq!(server.get(SET).await.unwrap_err().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_named_in_actions() {
    let site = Site::start().await;
    let server = &site.server;
    server.put(SET, site.model(3)).await.unwrap();
    let names = site.names().await;
    assert_eq!(site.on_instances("delete", json!(["none"])).await.unwrap_err().code, "InvalidParameter");
    site.on_instances("delete", json!([names[1]])).await.unwrap();
    assert_eq!(site.names().await, [names[0].clone(), names[2].clone()]);
    assert_eq!(server.get(SET).await.unwrap()["sku"]["capacity"], 2);
    let ids: Vec<_> =
        site.instances().await.iter().map(|i| i["properties"]["vmId"].as_str().unwrap().parse().unwrap()).collect();
    server.action(SET, "powerOff", Value::Null).await.unwrap();
    assert!(ids.iter().all(|id| !site.fake.is_running(*id)));
    site.on_instances("start", json!([names[0]])).await.unwrap();
    assert_eq!(ids.iter().map(|id| site.fake.is_running(*id)).collect::<Vec<_>>(), [true, false]);
    // One is deleted as the machine that it is; what was asked for is counted anew.
    server.delete(&format!("virtualMachines/{}", names[2])).await.unwrap();
    assert_eq!(server.get(SET).await.unwrap()["sku"]["capacity"], 1);
    let put = server.put(&format!("{SET}/virtualMachines/{}", names[0]), json!({"location": "eastus"})).await;
    assert_eq!(put.unwrap_err().code, "OperationNotAllowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_image_reaches_the_machines_that_are_updated() {
    let site = Site::start().await;
    let server = &site.server;
    server.put(SET, site.model(2)).await.unwrap();
    site.version("2.0.0", json!([{"name": "eastus"}])).await;
    let image = link(server, "galleries/g/images/i/versions/2.0.0");
    let patch = json!({"properties": {"virtualMachineProfile": {"storageProfile": {"imageReference": image}}}});
    let written = server.engine.patch(&server.call, &server.id(SET), patch).await.unwrap();
    server.end(&written.operation.unwrap()).await.unwrap();
    let latest = async || {
        let all = site.instances().await;
        all.iter().map(|i| i["properties"]["latestModelApplied"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(latest().await, [false, false]);
    let names = site.names().await;
    site.on_instances("manualupgrade", json!([names[0]])).await.unwrap();
    let mut after = site.names().await;
    after.sort();
    let mut before = names.clone();
    before.sort();
    assert_eq!(after, before, "machines keep their names");
    let mut done = latest().await;
    done.sort_unstable();
    assert_eq!(done, [false, true]);
    let upgraded = server.get(&format!("virtualMachines/{}", names[0])).await.unwrap();
    assert_eq!(
        upgraded["properties"]["storageProfile"]["imageReference"],
        json!({"id": image["id"], "exactVersion": "2.0.0"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_fails_is_told_and_the_others_run() {
    let site = Site::start().await;
    site.fake.limit_memory(1500);
    let error = site.server.put(SET, site.model(2)).await.unwrap_err();
    assert_eq!(error.code, "AllocationFailed");
    assert_eq!(site.server.get(SET).await.unwrap()["properties"]["provisioningState"], "Failed");
    let running = async || {
        let all = site.instances().await;
        let ids = all.iter().map(|i| i["properties"]["vmId"].as_str().unwrap().parse().unwrap());
        ids.filter(|id| site.fake.is_running(*id)).count()
    };
    until("one of them runs", async || running().await == 1).await;
    site.server.delete(SET).await.unwrap();
    assert!(site.of_kind("Microsoft.Compute/virtualMachines").await.is_empty());
}

impl Site {
    fn uniform(&self, machines: u32) -> Value {
        let mut model = self.model(machines);
        model["properties"]["orchestrationMode"] = json!("Uniform");
        model
    }

    async fn instance_action(&self, id: &str, action: &str) -> Result<(), ArmError> {
        self.server.action(&format!("{SET}/virtualMachines/{id}"), action, json!({})).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_a_uniform_set_are_its_instances() {
    let site = Site::start().await;
    let server = &site.server;
    let set = server.put(SET, site.uniform(2)).await.unwrap();
    assert_eq!(set["properties"]["orchestrationMode"], "Uniform");
    assert_eq!(site.names().await, ["0", "1"]);
    assert!(site.of_kind("Microsoft.Compute/virtualMachines").await.is_empty(), "they are in no list of machines");
    let one = format!("{SET}/virtualMachines/1");
    let shown = server.get(&one).await.unwrap();
    assert_eq!((&shown["name"], &shown["instanceId"]), (&json!("set1_1"), &json!("1")));
    assert_eq!(shown["id"], json!(server.id(&one).to_string()));
    assert_eq!(shown["type"], "Microsoft.Compute/virtualMachineScaleSets/virtualMachines");
    assert_eq!(shown["properties"]["osProfile"]["computerName"], "web000001");
    assert_eq!(shown["properties"]["latestModelApplied"], true);
    let view = async |id: &str| {
        let id = server.id(&format!("{SET}/virtualMachines/{id}"));
        let view = server.engine.view(&server.call, &id, "instanceView").await.unwrap().unwrap();
        view["statuses"].as_array().unwrap().last().unwrap()["code"].clone()
    };
    assert_eq!(view("1").await, "PowerState/running");
    site.instance_action("1", "deallocate").await.unwrap();
    assert_eq!((view("0").await, view("1").await), (json!("PowerState/running"), json!("PowerState/deallocated")));
    site.instance_action("1", "start").await.unwrap();
    assert_eq!(view("1").await, "PowerState/running");
    assert_eq!(site.instance_action("7", "start").await.unwrap_err().code, "InvalidParameter");

    // A number is not given twice while a higher one lives; what goes when the set shrinks is the highest.
    site.scaled(3).await.unwrap();
    server.delete(&format!("{SET}/virtualMachines/1")).await.unwrap();
    assert_eq!(site.names().await, ["0", "2"]);
    assert_eq!(server.get(SET).await.unwrap()["sku"]["capacity"], 2);
    site.scaled(4).await.unwrap();
    assert_eq!(site.names().await, ["0", "2", "3", "4"]);
    site.scaled(1).await.unwrap();
    assert_eq!(site.names().await, ["0"]);
    let stranger = site.body(|b| b["properties"]["virtualMachineScaleSet"] = link(server, SET));
    assert_eq!(server.put(super::site::VM, stranger).await.unwrap_err().code, "OperationNotAllowed");
    let mode = json!({"location": "eastus", "properties": {"orchestrationMode": "Flexible"}});
    assert_eq!(server.put(SET, mode).await.unwrap_err().code, "PropertyChangeNotAllowed");

    server.delete(SET).await.unwrap();
    assert!(site.of_kind("Microsoft.Network/networkInterfaces").await.iter().all(|n| n == "n1"));
    assert!(site.of_kind("Microsoft.Network/publicIPAddresses").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_made_again() {
    let site = Site::start().await;
    let server = &site.server;
    server.put(SET, site.uniform(3)).await.unwrap();
    let ids = async || {
        let all = site.instances().await;
        all.iter().map(|i| i["properties"]["vmId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let images = async || {
        let all = site.instances().await;
        let version = |i: &Value| {
            let id = i["properties"]["storageProfile"]["imageReference"]["id"].as_str().unwrap().to_owned();
            id.rsplit('/').next().unwrap().to_owned()
        };
        all.iter().map(version).collect::<Vec<_>>()
    };
    let first = ids().await;
    site.instance_action("1", "reimage").await.unwrap();
    let again = ids().await;
    assert_eq!((&again[0], &again[2]), (&first[0], &first[2]));
    assert_ne!(again[1], first[1], "a new machine in its place");

    site.version("2.0.0", json!([{"name": "eastus"}])).await;
    let image = link(server, "galleries/g/images/i/versions/2.0.0");
    let patch = |mode: &str| json!({"properties": {"upgradePolicy": {"mode": mode}, "virtualMachineProfile": {"storageProfile": {"imageReference": image}}}});
    let patched = async |mode: &str| {
        let written = server.engine.patch(&server.call, &server.id(SET), patch(mode)).await.unwrap();
        server.end(&written.operation.unwrap()).await.unwrap();
    };
    patched("Manual").await;
    site.on_instances("reimageall", json!(["0"])).await.unwrap();
    assert_eq!(images().await, ["1.0.0", "1.0.0", "1.0.0"], "reimaged of what it had");
    site.on_instances("manualupgrade", json!(["0"])).await.unwrap();
    assert_eq!(images().await, ["2.0.0", "1.0.0", "1.0.0"]);
    // From now on a write of the model brings the others.
    patched("Rolling").await;
    assert_eq!(images().await, ["2.0.0", "2.0.0", "2.0.0"]);
    let shown = server.get(SET).await.unwrap();
    assert_eq!(shown["properties"]["upgradePolicy"]["rollingUpgradePolicy"]["maxBatchInstancePercent"], 20);
}
