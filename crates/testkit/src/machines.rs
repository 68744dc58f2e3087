//! What tests of virtual machines need before the first of them: a server, a gallery, a network with interfaces that are reached
//! from outside, a key to log in with.

use crate::arm::Arm;
use crate::server::TestServer;
use crate::{blob, wait_for};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where everything is.
pub const HOME: &str = "eastus";
const GROUP: &str = "machines";
/// Until a guest answers, under emulation on a busy machine.
const BOOTS: Duration = Duration::from_secs(600);

/// A resource group with gallery `g` and interfaces `nic0`, `nic1` … of one network, each with the open public address `ip{n}`.
pub struct MachineSite {
    pub server: TestServer,
    pub arm: Arm,
    generation: &'static str,
    folder: tempfile::TempDir,
}

/// Every request must succeed: what fails ends the test with what was asked and answered.
impl MachineSite {
    /// `generation`: of all its images.
    ///
    /// # Panics
    /// Where something of it cannot be made.
    pub async fn start(generation: &'static str, interfaces: usize) -> Self {
        let server = TestServer::start().await.unwrap_or_else(|e| panic!("the server: {e:#}"));
        Self::start_on(server, generation, interfaces).await
    }

    /// The same, on this server.
    ///
    /// # Panics
    /// Where something of it cannot be made.
    pub async fn start_on(server: TestServer, generation: &'static str, interfaces: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let key = folder.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key).status();
        assert!(made.expect("ssh-keygen is needed: apt-get install openssh-client").success());
        let arm = server.arm().await.unwrap_or_else(|e| panic!("signing in: {e:#}"));
        let site = Self { server, arm, generation, folder };
        let group = site.arm.put(&site.arm.group_path(GROUP, ""), &json!({"location": HOME})).await;
        group.unwrap_or_else(|e| panic!("the resource group: {e:#}"));
        site.put("Microsoft.Compute/galleries/g", json!({})).await;
        let subnet = json!({"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}});
        let space = json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]});
        site.put("Microsoft.Network/virtualNetworks/net", json!({"properties": space})).await;
        for n in 0..interfaces {
            site.interface(n).await;
        }
        site
    }

    /// The id of what is below `/providers/` of the group.
    pub fn path(&self, below: &str) -> String {
        self.arm.group_path(GROUP, &format!("/providers/{below}"))
    }

    /// Machine `n`'s id.
    pub fn machine_path(&self, n: usize) -> String {
        self.path(&format!("Microsoft.Compute/virtualMachines/vm{n}"))
    }

    /// Puts a resource at home, and returns it as it is in the end.
    pub async fn put(&self, below: &str, mut body: Value) -> Value {
        body["location"] = json!(HOME);
        self.arm.put(&self.path(below), &body).await.unwrap_or_else(|e| panic!("PUT {below}: {e:#}"))
    }

    pub async fn post(&self, below: &str) -> Value {
        self.arm.post(&self.path(below), None).await.unwrap_or_else(|e| panic!("POST {below}: {e:#}"))
    }

    pub async fn delete(&self, below: &str) {
        self.arm.delete(&self.path(below)).await.unwrap_or_else(|e| panic!("DELETE {below}: {e:#}"));
    }

    /// Interface `nic{n}` with `ip{n}`.
    pub async fn interface(&self, n: usize) {
        let ip = format!("Microsoft.Network/publicIPAddresses/ip{n}");
        self.put(&ip, json!({"sku": {"name": "Basic"}, "properties": {}})).await;
        let properties = json!({"subnet": {"id": self.path("Microsoft.Network/virtualNetworks/net/subnets/default")},
            "publicIPAddress": {"id": self.path(&ip)}});
        let configurations = json!([{"name": "main", "properties": properties}]);
        let nic = format!("Microsoft.Network/networkInterfaces/nic{n}");
        self.put(&nic, json!({"properties": {"ipConfigurations": configurations}})).await;
    }

    /// Disk `source` with these bytes; its id.
    pub async fn upload(&self, vhd: &Path) -> String {
        let bytes = std::fs::metadata(vhd).unwrap_or_else(|e| panic!("{}: {e}", vhd.display())).len();
        let create = json!({"createOption": "Upload", "uploadSizeBytes": bytes});
        let properties = json!({"osType": "Linux", "hyperVGeneration": self.generation, "creationData": create});
        self.put("Microsoft.Compute/disks/source", json!({ "properties": properties })).await;
        let disk = self.path("Microsoft.Compute/disks/source");
        let access = json!({"access": "Write", "durationInSeconds": 3600});
        let granted = self.arm.post(&format!("{disk}/beginGetAccess"), Some(&access)).await;
        let granted = granted.unwrap_or_else(|e| panic!("beginGetAccess: {e:#}"));
        let sas = granted["accessSAS"].as_str().unwrap_or_else(|| panic!("no SAS: {granted}"));
        blob::upload(self.arm.http(), sas, vhd).await.unwrap_or_else(|e| panic!("upload: {e:#}"));
        self.post("Microsoft.Compute/disks/source/endGetAccess").await;
        disk
    }

    /// A version of the gallery's definition `state` (`Generalized` or `Specialized`), which is made where it is missing; its id.
    pub async fn version(&self, state: &str, name: &str, storage: Value) -> String {
        let definition = format!("Microsoft.Compute/galleries/g/images/{state}");
        if self.arm.get(&self.path(&definition)).await.is_err() {
            let identifier = json!({"publisher": "tests", "offer": "linux", "sku": state});
            let properties = json!({"osType": "Linux", "osState": state, "hyperVGeneration": self.generation,
                "identifier": identifier});
            self.put(&definition, json!({ "properties": properties })).await;
        }
        let below = format!("{definition}/versions/{name}");
        let targets = json!({"targetRegions": [{"name": HOME}]});
        self.put(&below, json!({"properties": {"publishingProfile": targets, "storageProfile": storage}})).await;
        self.path(&below)
    }

    /// The body of machine `vm{n}` of an image; `user`: for a generalized one. Its OS disk goes with it.
    pub fn machine_body(&self, n: usize, image: &str, user: Option<&str>) -> Value {
        let nic = self.path(&format!("Microsoft.Network/networkInterfaces/nic{n}"));
        let disk = json!({"createOption": "FromImage", "deleteOption": "Delete"});
        let mut properties = json!({
            "hardwareProfile": {"vmSize": "Standard_B1ls"},
            "storageProfile": {"imageReference": {"id": image}, "osDisk": disk},
            "networkProfile": {"networkInterfaces": [{"id": nic}]}});
        if let Some(user) = user {
            let key = std::fs::read_to_string(self.key().with_extension("pub")).expect("ssh-keygen has written it");
            let keys = json!([{"path": format!("/home/{user}/.ssh/authorized_keys"), "keyData": key.trim()}]);
            properties["osProfile"] = json!({"computerName": format!("vm{n}"), "adminUsername": user,
                "linuxConfiguration": {"disablePasswordAuthentication": true, "ssh": {"publicKeys": keys}}});
        }
        json!({"location": HOME, "properties": properties})
    }

    /// Machine `vm{n}`, as it is shown when it is there.
    pub async fn machine(&self, n: usize, image: &str, user: Option<&str>) -> Value {
        let body = self.machine_body(n, image, user);
        self.put(&format!("Microsoft.Compute/virtualMachines/vm{n}"), body).await
    }

    /// The code of the machine's power state, as `PowerState/running`.
    pub async fn power(&self, n: usize) -> String {
        let view = self.arm.get(&format!("{}/instanceView", self.machine_path(n))).await;
        let view = view.unwrap_or_else(|e| panic!("instanceView of vm{n}: {e:#}"));
        let codes = view["statuses"].as_array().into_iter().flatten().filter_map(|s| s["code"].as_str());
        codes.filter(|c| c.starts_with("PowerState/")).map(str::to_owned).next().unwrap_or_default()
    }

    /// What a command prints in machine `n`, as soon as it ends well there.
    pub async fn run(&self, n: usize, user: &str, command: &str) -> String {
        let ip = self.arm.get(&self.path(&format!("Microsoft.Network/publicIPAddresses/ip{n}"))).await;
        let ip = ip.unwrap_or_else(|e| panic!("ip{n}: {e:#}"));
        let address = ip["properties"]["ipAddress"].as_str().unwrap_or_else(|| panic!("no address: {ip}"));
        let asked = async || {
            let mut ssh = tokio::process::Command::new("ssh");
            ssh.arg("-i").arg(self.key()).args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
            ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"]);
            let out = ssh.arg(format!("{user}@{address}")).arg(command).output().await;
            let out = out.expect("ssh is needed: apt-get install openssh-client");
            out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        wait_for("the guest's answer over ssh", BOOTS, asked).await
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }
}
