//! A machine that was used becomes an image, and a second machine that is made of it has what the first one wrote (GS-12,
//! GS-14, MD-8), on real guests.

use lazuli_testkit::{Arm, TestServer, blob, guests, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const HOME: &str = "eastus";
/// Under emulation on a busy machine.
const BOOTS: Duration = Duration::from_secs(420);

struct Site {
    arm: Arm,
    key: std::path::PathBuf,
}

impl Site {
    fn path(&self, below: &str) -> String {
        self.arm.group_path("capture", &format!("/providers/{below}"))
    }

    async fn put(&self, below: &str, body: Value) -> Value {
        self.arm.put(&self.path(below), &body).await.unwrap_or_else(|e| panic!("PUT {below}: {e:#}"))
    }

    async fn upload(&self, vhd: &Path) -> String {
        let disk = self.path("Microsoft.Compute/disks/source");
        let bytes = std::fs::metadata(vhd).unwrap().len();
        let create = json!({"createOption": "Upload", "uploadSizeBytes": bytes});
        let properties = json!({"osType": "Linux", "hyperVGeneration": "V2", "creationData": create});
        self.put("Microsoft.Compute/disks/source", json!({"location": HOME, "properties": properties})).await;
        let access = json!({"access": "Write", "durationInSeconds": 3600});
        let granted = self.arm.post(&format!("{disk}/beginGetAccess"), Some(&access)).await.unwrap();
        blob::upload(self.arm.http(), granted["accessSAS"].as_str().unwrap(), vhd).await.unwrap();
        self.arm.post(&format!("{disk}/endGetAccess"), None).await.unwrap();
        disk
    }

    async fn version(&self, name: &str, disk: &str) -> String {
        let below = format!("Microsoft.Compute/galleries/g/images/linux/versions/{name}");
        let storage = json!({"osDiskImage": {"source": {"id": disk}}});
        let targets = json!({"targetRegions": [{"name": HOME}]});
        let properties = json!({"publishingProfile": targets, "storageProfile": storage});
        self.put(&below, json!({"location": HOME, "properties": properties})).await;
        self.path(&below)
    }

    async fn prepare(&self) {
        self.arm.put(&self.arm.group_path("capture", ""), &json!({"location": HOME})).await.unwrap();
        self.put("Microsoft.Compute/galleries/g", json!({"location": HOME})).await;
        let identifier = json!({"publisher": "capture", "offer": "linux", "sku": "1"});
        let properties =
            json!({"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2", "identifier": identifier});
        self.put("Microsoft.Compute/galleries/g/images/linux", json!({"location": HOME, "properties": properties}))
            .await;
        let net = "Microsoft.Network/virtualNetworks/net";
        let subnet = json!({"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}});
        let space = json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]});
        self.put(net, json!({"location": HOME, "properties": space})).await;
        for n in 0..2 {
            let ip = format!("Microsoft.Network/publicIPAddresses/ip{n}");
            self.put(&ip, json!({"location": HOME, "sku": {"name": "Basic"}, "properties": {}})).await;
            let properties = json!({"subnet": {"id": self.path(&format!("{net}/subnets/default"))},
                "publicIPAddress": {"id": self.path(&ip)}});
            let nic = format!("Microsoft.Network/networkInterfaces/nic{n}");
            let configurations = json!([{"name": "main", "properties": properties}]);
            self.put(&nic, json!({"location": HOME, "properties": {"ipConfigurations": configurations}})).await;
        }
    }

    /// Machine `vm{n}`, as it is shown once it is provisioned.
    async fn machine(&self, n: usize, version: &str) -> Value {
        let key = std::fs::read_to_string(self.key.with_extension("pub")).unwrap();
        let keys = json!([{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": key.trim()}]);
        let nic = self.path(&format!("Microsoft.Network/networkInterfaces/nic{n}"));
        let properties = json!({
            "hardwareProfile": {"vmSize": "Standard_B1ls"},
            "storageProfile": {"imageReference": {"id": version}, "osDisk": {"createOption": "FromImage"}},
            "osProfile": {"computerName": format!("vm{n}"), "adminUsername": "azureuser",
                "linuxConfiguration": {"disablePasswordAuthentication": true, "ssh": {"publicKeys": keys}}},
            "networkProfile": {"networkInterfaces": [{"id": nic}]}});
        let below = format!("Microsoft.Compute/virtualMachines/vm{n}");
        self.put(&below, json!({"location": HOME, "properties": properties})).await
    }

    /// What a command in the guest prints.
    async fn run(&self, n: usize, command: &str) -> String {
        let ip = self.path(&format!("Microsoft.Network/publicIPAddresses/ip{n}"));
        let ip = self.arm.get(&ip).await.unwrap()["properties"]["ipAddress"].as_str().unwrap().to_owned();
        let asked = async || {
            let mut ssh = tokio::process::Command::new("ssh");
            ssh.arg("-i").arg(&self.key).args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
            ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"]);
            let out = ssh.arg(format!("azureuser@{ip}")).arg(command).output().await;
            let out = out.expect("ssh is needed: apt-get install openssh-client");
            out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        wait_for("the guest's answer over ssh", BOOTS, asked).await
    }
}

#[tokio::test]
async fn a_machine_that_was_used_becomes_an_image() {
    let tiny = guests::tiny().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen is needed: apt-get install openssh-client").success());
    let server = TestServer::start().await.unwrap();
    let site = Site { arm: server.arm().await.unwrap(), key };
    site.prepare().await;
    let source = site.upload(&tiny).await;
    let first = site.version("1.0.0", &source).await;

    let machine = site.machine(0, &first).await;
    let mark = "head -c 300000 /dev/urandom | sudo tee /var/lib/mark | sha256sum";
    let written = site.run(0, mark).await;
    site.run(0, "sudo deprovision; sync").await;
    let vm = site.path("Microsoft.Compute/virtualMachines/vm0");
    site.arm.post(&format!("{vm}/deallocate"), None).await.unwrap();
    site.arm.post(&format!("{vm}/generalize"), None).await.unwrap();
    let disk = machine["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"].as_str().unwrap();
    let second = site.version("2.0.0", disk).await;

    site.machine(1, &second).await;
    assert_eq!(site.run(1, "hostname").await, "vm1");
    assert_eq!(site.run(1, "sudo cat /var/lib/mark | sha256sum").await, written);
    let captured =
        server.log().lines().filter(|l| l.contains("changes were captured")).map(str::to_owned).collect::<Vec<_>>();
    eprintln!("{}", captured.join("\n"));
    assert_eq!(captured.len(), 1, "one disk was captured");
}
