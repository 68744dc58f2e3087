//! The matrix of agents, generations and kinds of images (GS-1 … GS-14, HV-1 … HV-4): a machine with data disks is captured as a new
//! version, and machines made of that boot with everything that it promises.
//!
//! ```text
//! {cloud-init, waagent} × {V1, V2} × {generalized, specialized}      scripts/test long vm, on Debian guests
//! the tiny guest, V1 generalized                                     with every run of the tests
//! ```
//! Of a generalized version, each machine has the name, the user and the keys that it was given, and host keys and a machine id of
//! its own; of a specialized one it is what the first machine was. Data disks come back at their LUNs, byte by byte.

use lazuli_testkit::{Arm, TestServer, blob, guests, wait_for};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const HOME: &str = "eastus";
const GROUP: &str = "matrix";
/// Under emulation on a busy machine.
const BOOTS: Duration = Duration::from_secs(600);
/// LUN and GiB of each data disk; the sizes tell them apart from the OS disk, which may be at the same LUN of another controller.
const DATA: [(u32, u32); 2] = [(1, 1), (5, 2)];

#[derive(Clone, Copy, PartialEq)]
enum Agent {
    /// The tiny guest's stand-in.
    Tiny,
    CloudInit,
    Waagent,
}

impl Agent {
    fn guest(self) -> PathBuf {
        match self {
            Self::Tiny => guests::tiny(),
            Self::CloudInit => guests::debian(),
            Self::Waagent => guests::debian_waagent(),
        }
        .unwrap()
    }

    /// Takes back what provisioning made, as the documentation of the agent says.
    fn deprovision(self) -> &'static str {
        match self {
            Self::Tiny => "sudo deprovision; sync",
            Self::CloudInit => {
                "sudo cloud-init clean --logs --machine-id; sudo truncate -s 0 /etc/machine-id; \
                 sudo rm -rf /etc/ssh/ssh_host_* /etc/hostname /etc/systemd/network/10-cloud-init-*.network \
                 /var/lib/systemd/random-seed /etc/sudoers.d/90-cloud-init-users /home/azureuser/.ssh/authorized_keys; sync"
            }
            Self::Waagent => {
                "sudo truncate -s 0 /etc/machine-id; sudo waagent -deprovision+user -force >/dev/null 2>&1; sync"
            }
        }
    }

    /// Prints the public host key, then the machine id where the guest has one.
    fn identity(self) -> &'static str {
        match self {
            Self::Tiny => "sudo dropbearkey -y -f /etc/dropbear/ed25519 | grep ^ssh",
            Self::CloudInit | Self::Waagent => {
                "cat /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2; cat /etc/machine-id"
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Cell {
    agent: Agent,
    generation: &'static str,
}

struct Site {
    server: TestServer,
    arm: Arm,
    key: PathBuf,
    cell: Cell,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn start(cell: Cell) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.expect("ssh-keygen is needed: apt-get install openssh-client").success());
        let server = TestServer::start().await.unwrap();
        let arm = server.arm().await.unwrap();
        let site = Self { server, arm, key, cell, _folder: folder };
        site.prepare().await;
        site
    }

    fn path(&self, below: &str) -> String {
        self.arm.group_path(GROUP, &format!("/providers/{below}"))
    }

    async fn put(&self, below: &str, mut body: Value) -> Value {
        body["location"] = json!(HOME);
        self.arm.put(&self.path(below), &body).await.unwrap_or_else(|e| panic!("PUT {below}: {e:#}"))
    }

    async fn post(&self, below: &str) {
        self.arm.post(&self.path(below), None).await.unwrap_or_else(|e| panic!("POST {below}: {e:#}"));
    }

    async fn prepare(&self) {
        self.arm.put(&self.arm.group_path(GROUP, ""), &json!({"location": HOME})).await.unwrap();
        self.put("Microsoft.Compute/galleries/g", json!({})).await;
        for state in ["Generalized", "Specialized"] {
            let identifier = json!({"publisher": "matrix", "offer": "linux", "sku": state});
            let properties = json!({"osType": "Linux", "osState": state, "hyperVGeneration": self.cell.generation,
                "identifier": identifier});
            self.put(&format!("Microsoft.Compute/galleries/g/images/{state}"), json!({"properties": properties})).await;
        }
        let net = "Microsoft.Network/virtualNetworks/net";
        let subnet = json!({"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}});
        let space = json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]});
        self.put(net, json!({"properties": space})).await;
        for n in 0..3 {
            let ip = format!("Microsoft.Network/publicIPAddresses/ip{n}");
            self.put(&ip, json!({"sku": {"name": "Basic"}, "properties": {}})).await;
            let properties = json!({"subnet": {"id": self.path(&format!("{net}/subnets/default"))},
                "publicIPAddress": {"id": self.path(&ip)}});
            let configurations = json!([{"name": "main", "properties": properties}]);
            let nic = format!("Microsoft.Network/networkInterfaces/nic{n}");
            self.put(&nic, json!({"properties": {"ipConfigurations": configurations}})).await;
        }
    }

    async fn upload(&self, vhd: &Path) -> String {
        let disk = self.path("Microsoft.Compute/disks/source");
        let bytes = std::fs::metadata(vhd).unwrap().len();
        let create = json!({"createOption": "Upload", "uploadSizeBytes": bytes});
        let properties = json!({"osType": "Linux", "hyperVGeneration": self.cell.generation, "creationData": create});
        self.put("Microsoft.Compute/disks/source", json!({"properties": properties})).await;
        let access = json!({"access": "Write", "durationInSeconds": 3600});
        let granted = self.arm.post(&format!("{disk}/beginGetAccess"), Some(&access)).await.unwrap();
        blob::upload(self.arm.http(), granted["accessSAS"].as_str().unwrap(), vhd).await.unwrap();
        self.arm.post(&format!("{disk}/endGetAccess"), None).await.unwrap();
        disk
    }

    /// A version of the definition of this state.
    async fn version(&self, state: &str, storage: Value) -> String {
        let below = format!("Microsoft.Compute/galleries/g/images/{state}/versions/1.0.0");
        let targets = json!({"targetRegions": [{"name": HOME}]});
        self.put(&below, json!({"properties": {"publishingProfile": targets, "storageProfile": storage}})).await;
        self.path(&below)
    }

    /// Machine `n` of an image; `user`: for a generalized one. `disks`: with new data disks.
    async fn machine(&self, n: usize, image: &str, user: Option<&str>, disks: bool) {
        let key = std::fs::read_to_string(self.key.with_extension("pub")).unwrap();
        let nic = self.path(&format!("Microsoft.Network/networkInterfaces/nic{n}"));
        let size = if self.cell.agent == Agent::Tiny { "Standard_B1ls" } else { "Standard_B1s" };
        let mut properties = json!({
            "hardwareProfile": {"vmSize": size},
            "storageProfile": {"imageReference": {"id": image}, "osDisk": {"createOption": "FromImage"}},
            "networkProfile": {"networkInterfaces": [{"id": nic}]}});
        if let Some(user) = user {
            let keys = json!([{"path": format!("/home/{user}/.ssh/authorized_keys"), "keyData": key.trim()}]);
            properties["osProfile"] = json!({"computerName": format!("vm{n}"), "adminUsername": user,
                "linuxConfiguration": {"disablePasswordAuthentication": true, "ssh": {"publicKeys": keys}}});
        }
        if disks {
            let disk = |(lun, gib)| json!({"lun": lun, "createOption": "Empty", "diskSizeGB": gib});
            properties["storageProfile"]["dataDisks"] = DATA.map(disk).into_iter().collect();
        }
        self.put(&format!("Microsoft.Compute/virtualMachines/vm{n}"), json!({"properties": properties})).await;
    }

    /// What a command in machine `n` prints.
    async fn run(&self, n: usize, user: &str, command: &str) -> String {
        let ip = self.path(&format!("Microsoft.Network/publicIPAddresses/ip{n}"));
        let ip = self.arm.get(&ip).await.unwrap()["properties"]["ipAddress"].as_str().unwrap().to_owned();
        let asked = async || {
            let mut ssh = tokio::process::Command::new("ssh");
            ssh.arg("-i").arg(&self.key).args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
            ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"]);
            let out = ssh.arg(format!("{user}@{ip}")).arg(command).output().await;
            let out = out.expect("ssh is needed: apt-get install openssh-client");
            out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        wait_for("the guest's answer over ssh", BOOTS, asked).await
    }

    /// The device of a data disk, by its LUN and its size.
    fn find((lun, gib): (u32, u32)) -> String {
        let sectors = u64::from(gib) << 21;
        format!(
            "dev=; for d in /sys/block/sd*; do [ -e $d/device/scsi_device/*:{lun} ] && [ $(cat $d/size) = {sectors} ] && \
             dev=/dev/${{d##*/}}; done; [ -n \"$dev\" ]"
        )
    }

    /// Writes what nobody can guess onto each data disk; their checksums.
    async fn fill(&self, n: usize, user: &str) -> Vec<String> {
        let mut sums = Vec::new();
        for disk in DATA {
            let write =
                format!("{} && head -c 3000000 /dev/urandom | sudo tee $dev >/dev/null && sync", Self::find(disk));
            self.run(n, user, &write).await;
            sums.push(self.sum(n, user, disk).await);
        }
        sums
    }

    async fn sum(&self, n: usize, user: &str, disk: (u32, u32)) -> String {
        let read = format!("{} && sudo head -c 3000000 $dev | sha256sum", Self::find(disk));
        self.run(n, user, &read).await
    }

    async fn has_data(&self, n: usize, user: &str, sums: &[String]) {
        for (disk, sum) in DATA.into_iter().zip(sums) {
            assert_eq!(&self.sum(n, user, disk).await, sum, "the data disk at LUN {} of machine {n}", disk.0);
        }
    }

    async fn remove(&self, n: usize) {
        self.arm.delete(&self.path(&format!("Microsoft.Compute/virtualMachines/vm{n}"))).await.unwrap();
    }
}

/// One cell: the guest becomes a version, a machine of it is used and captured, and machines of the capture are looked at.
async fn cell(agent: Agent, generation: &'static str, state: &'static str) {
    let cell = Cell { agent, generation };
    let site = Site::start(cell).await;
    let source = site.upload(&agent.guest()).await;
    let first = json!({"osDiskImage": {"source": {"id": source}}});
    let image = site.version("Generalized", first).await;
    site.machine(0, &image, Some("azureuser"), true).await;
    assert_eq!(site.run(0, "azureuser", "hostname").await, "vm0");
    let sums = site.fill(0, "azureuser").await;
    let identity = site.run(0, "azureuser", agent.identity()).await;
    match state {
        "Generalized" => generalized(&site, &image, &sums, &identity).await,
        _ => specialized(&site, &sums).await,
    }
    drop(site.server);
}

async fn generalized(site: &Site, first: &str, sums: &[String], identity: &str) {
    site.run(0, "azureuser", site.cell.agent.deprovision()).await;
    site.post("Microsoft.Compute/virtualMachines/vm0/deallocate").await;
    site.post("Microsoft.Compute/virtualMachines/vm0/generalize").await;
    let captured = first.replace("/versions/1.0.0", "/versions/2.0.0");
    let below = captured.split_once("/providers/").unwrap().1.to_owned();
    let vm = site.path("Microsoft.Compute/virtualMachines/vm0");
    let properties = json!({"publishingProfile": {"targetRegions": [{"name": HOME}]},
        "storageProfile": {"source": {"virtualMachineId": vm}}});
    site.put(&below, json!({"properties": properties})).await;
    let mut identities = vec![identity.to_owned()];
    for (n, user) in [(1, "alice"), (2, "bob")] {
        site.machine(n, &captured, Some(user), false).await;
        assert_eq!(site.run(n, user, "hostname").await, format!("vm{n}"));
        site.has_data(n, user, sums).await;
        identities.push(site.run(n, user, site.cell.agent.identity()).await);
        site.remove(n).await;
    }
    // Line by line: neither the host keys nor the machine ids of two are the same.
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        for (left, right) in identities[a].lines().zip(identities[b].lines()) {
            assert_ne!(left, right, "machines {a} and {b}");
        }
    }
}

async fn specialized(site: &Site, sums: &[String]) {
    site.run(0, "azureuser", "echo kept > mark; sync").await;
    site.post("Microsoft.Compute/virtualMachines/vm0/deallocate").await;
    let vm = site.path("Microsoft.Compute/virtualMachines/vm0");
    let captured = site.version("Specialized", json!({"source": {"virtualMachineId": vm}})).await;
    site.machine(1, &captured, None, false).await;
    assert_eq!(site.run(1, "azureuser", "hostname; cat mark").await, "vm0\nkept", "it is what the first one was");
    site.has_data(1, "azureuser", sums).await;
}

#[tokio::test]
async fn tiny_v1_generalized() {
    cell(Agent::Tiny, "V1", "Generalized").await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour under emulation: scripts/test long vm"]
async fn cloud_init_v1_generalized() {
    cell(Agent::CloudInit, "V1", "Generalized").await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour under emulation: scripts/test long vm"]
async fn cloud_init_v1_specialized() {
    cell(Agent::CloudInit, "V1", "Specialized").await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour under emulation: scripts/test long vm"]
async fn cloud_init_v2_generalized() {
    cell(Agent::CloudInit, "V2", "Generalized").await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour under emulation: scripts/test long vm"]
async fn cloud_init_v2_specialized() {
    cell(Agent::CloudInit, "V2", "Specialized").await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour under emulation: scripts/test long vm"]
async fn waagent_v1_generalized() {
    cell(Agent::Waagent, "V1", "Generalized").await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour under emulation: scripts/test long vm"]
async fn waagent_v1_specialized() {
    cell(Agent::Waagent, "V1", "Specialized").await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour under emulation: scripts/test long vm"]
async fn waagent_v2_generalized() {
    cell(Agent::Waagent, "V2", "Generalized").await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour under emulation: scripts/test long vm"]
async fn waagent_v2_specialized() {
    cell(Agent::Waagent, "V2", "Specialized").await;
}
