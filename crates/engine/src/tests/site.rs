//! A server with a host process next to it that runs fake machines, and the bodies of what a machine needs.

use super::{Server, definition, disk_bytes};
use crate::EngineConfig;
use crate::base_images::StoredImages;
use crate::call::Written;
use lazuli_arm::ArmError;
use lazuli_vmm::host::{Host, HostConfig, HostError};
use lazuli_vmm::hypervisor::Fake;
use lazuli_vmm::spec::VmSpec;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) const VM: &str = "virtualMachines/vm1";
pub(super) const VERSION: &str = "galleries/g/images/i/versions/1.0.0";
pub(super) const PASSWORD: &str = "Tr0ub4dor&3";
/// `#cloud-config`
pub(super) const CUSTOM_DATA: &str = "I2Nsb3VkLWNvbmZpZw==";

pub(super) struct Site {
    pub server: Server,
    pub fake: Fake,
    host: Option<(CancellationToken, JoinHandle<Result<(), HostError>>)>,
}

impl Site {
    /// Gallery `g`, definition `i`, version 1.0.0 of `disk_bytes(1)` in East US and West US; network `v` with subnet `s`;
    /// interface `n1`; a host whose guests report ready at once.
    pub async fn start() -> Self {
        Self::configured(|_| {}).await
    }

    pub async fn configured(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let mut server = Server::configured(change).await;
        server.run();
        let mut site = Self { server, fake: Fake::default(), host: None };
        site.start_host().await;
        let server = &site.server;
        server.gallery().await;
        server.uploaded("d1", &disk_bytes(1)).await;
        site.version("1.0.0", json!([{"name": "eastus"}, {"name": "westus"}])).await;
        network(server).await;
        nic(server, "n1", json!({})).await.unwrap();
        site
    }

    pub async fn version(&self, name: &str, regions: Value) -> Value {
        let body = json!({"location": "eastus", "properties": {"publishingProfile": {"targetRegions": regions},
            "storageProfile": {"osDiskImage": {"source": {"id": self.server.id("disks/d1").to_string()}}}}});
        self.server.put(&format!("galleries/g/images/i/versions/{name}"), body).await.unwrap()
    }

    pub async fn start_host(&mut self) {
        self.host = Some(host(&self.server, &self.fake).await);
    }

    pub async fn stop_host(&mut self) {
        let (stop, task) = self.host.take().unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
    }

    /// Begins a new process of the server; the host lives on.
    pub async fn restart_server(self) -> Self {
        let Self { server, fake, host } = self;
        Self { server: server.restart().await, fake, host }
    }

    /// A machine's PUT: from version 1.0.0, with `n1`, changed by `change`.
    pub fn body(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut body = json!({"location": "eastus", "properties": {
            "hardwareProfile": {"vmSize": "Standard_B1s"},
            "storageProfile": {
                "imageReference": {"id": self.server.id(VERSION).to_string()},
                "osDisk": {"createOption": "FromImage", "name": "os1"},
            },
            "osProfile": {"computerName": "vm1", "adminUsername": "azureuser", "adminPassword": PASSWORD,
                "customData": CUSTOM_DATA},
            "networkProfile": {"networkInterfaces": [{"id": self.server.id("networkInterfaces/n1").to_string()}]},
        }});
        change(&mut body);
        body
    }

    /// A machine's PUT on the specialized definition `s`.
    pub async fn specialized(&self) -> Value {
        let mut specialized = definition("sku2");
        specialized["properties"]["osState"] = json!("Specialized");
        self.server.put("galleries/g/images/s", specialized).await.unwrap();
        let version = json!({"location": "eastus", "properties": {
            "storageProfile": {"osDiskImage": {"source": {"id": self.server.id("disks/d1").to_string()}}}}});
        self.server.put("galleries/g/images/s/versions/1.0.0", version).await.unwrap();
        self.body(|b| {
            let id = self.server.id("galleries/g/images/s/versions/1.0.0").to_string();
            b["properties"]["storageProfile"]["imageReference"]["id"] = json!(id);
        })
    }

    pub async fn create(&self, change: impl FnOnce(&mut Value)) -> Result<Value, ArmError> {
        self.server.put(VM, self.body(change)).await
    }

    /// The PUT is accepted; its operation runs.
    pub async fn begin(&self, change: impl FnOnce(&mut Value)) -> Written {
        self.server.engine.put(&self.server.call, &self.server.id(VM), self.body(change)).await.unwrap()
    }

    pub async fn vm_id(&self) -> Uuid {
        self.server.internal(VM).await["vmId"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until the machine's processors run.
    pub async fn running(&self) -> Uuid {
        let id = self.vm_id().await;
        until("the machine runs", async || self.fake.is_running(id)).await;
        id
    }

    /// `PowerState/…` and `ProvisioningState/…` of the instance view.
    pub async fn codes(&self) -> Vec<String> {
        let view =
            self.server.engine.view(&self.server.call, &self.server.id(VM), "instanceView").await.unwrap().unwrap();
        view["statuses"].as_array().unwrap().iter().map(|s| s["code"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn power(&self, action: &str) -> Result<(), ArmError> {
        self.server.action(VM, action, json!({})).await.map(drop)
    }

    /// The machine's definition as the host has it.
    pub fn defined(&self, id: Uuid) -> Option<VmSpec> {
        let path = self.server.dir.path().join("host/vms").join(id.to_string()).join("vm.json");
        std::fs::read(path).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    pub async fn state(&self, tail: &str) -> Value {
        self.server.get(tail).await.unwrap()["properties"]["diskState"].clone()
    }
}

/// The host process of a server; ends with its token.
pub(super) async fn host(server: &Server, fake: &Fake) -> (CancellationToken, JoinHandle<Result<(), HostError>>) {
    let data = server.dir.path();
    let images = StoredImages::new(server.engine.regions().stores().clone(), 16 << 20);
    let config = HostConfig::new(data.join("host"), Arc::new(images), Arc::new(fake.clone()));
    let stop = CancellationToken::new();
    let task = tokio::spawn(Host::run(config, stop.clone()));
    let host = server.engine.host().clone();
    until("the host answers", async || host.info().await.is_ok()).await;
    (stop, task)
}

/// Network `v` with subnet `s` (10.0.0.0/24).
pub(super) async fn network(server: &Server) -> Value {
    let body = json!({"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": "s", "properties": {"addressPrefix": "10.0.0.0/24"}}]}});
    server.put("virtualNetworks/v", body).await.unwrap()
}

/// An interface in subnet `s`; `more` goes into its IP configuration, `networkSecurityGroup` into the interface.
pub(super) async fn nic(server: &Server, name: &str, more: Value) -> Result<Value, ArmError> {
    server.put(&format!("networkInterfaces/{name}"), nic_body(server, more)).await
}

pub(super) fn nic_body(server: &Server, mut more: Value) -> Value {
    let group = more.as_object_mut().unwrap().remove("networkSecurityGroup");
    let subnet = json!({"subnet": {"id": server.id("virtualNetworks/v/subnets/s").to_string()}});
    let properties = lazuli_arm::bodies::merge_patch(&subnet, &more);
    let mut body =
        json!({"location": "eastus", "properties": {"ipConfigurations": [{"name": "ipc", "properties": properties}]}});
    if let Some(group) = group {
        body["properties"]["networkSecurityGroup"] = group;
    }
    body
}

pub(super) fn link(server: &Server, tail: &str) -> Value {
    json!({"id": server.id(tail).to_string()})
}

pub(super) fn rule(priority: u32, access: &str, port: &str) -> Value {
    json!({"properties": {"priority": priority, "access": access, "protocol": "Tcp", "direction": "Inbound",
        "sourceAddressPrefix": "*", "sourcePortRange": "*", "destinationAddressPrefix": "*",
        "destinationPortRange": port}})
}

pub(super) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !done().await {
        assert!(begin.elapsed() < Duration::from_secs(120), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
