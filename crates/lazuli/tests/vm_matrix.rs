//! The matrix of agents, generations and kinds of images (GS-1 … GS-14, HV-1 … HV-4): a machine with data disks is captured as a new
//! version, and machines made of that boot with everything that it promises.
//!
//! ```text
//! {cloud-init, waagent} × {V1, V2} × {generalized, specialized}      scripts/test long vm, on Debian guests
//! the tiny guest, V1 generalized                                     with every run of the tests
//! ```
//! Of a generalized version, each machine has the name, the user and the keys that it was given, and host keys and a machine id of
//! its own; of a specialized one it is what the first machine was. Data disks come back at their LUNs, byte by byte.

use lazuli_testkit::{MachineSite, guests};
use serde_json::json;
use std::path::PathBuf;

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
            Self::Tiny => "sudo dropbearkey -y -f /etc/dropbear/host_key | grep ^ecdsa",
            Self::CloudInit | Self::Waagent => {
                "cat /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2; cat /etc/machine-id"
            }
        }
    }
}

struct Site {
    site: MachineSite,
    agent: Agent,
}

impl Site {
    /// Machine `n` of an image; `user`: for a generalized one. `disks`: with new data disks.
    async fn machine(&self, n: usize, image: &str, user: Option<&str>, disks: bool) {
        let mut body = self.site.machine_body(n, image, user);
        let properties = &mut body["properties"];
        if self.agent != Agent::Tiny {
            properties["hardwareProfile"]["vmSize"] = json!("Standard_B1s");
        }
        if disks {
            let disk = |(lun, gib)| json!({"lun": lun, "createOption": "Empty", "diskSizeGB": gib});
            properties["storageProfile"]["dataDisks"] = DATA.map(disk).into_iter().collect();
        }
        self.site.put(&format!("Microsoft.Compute/virtualMachines/vm{n}"), body).await;
    }

    async fn run(&self, n: usize, user: &str, command: &str) -> String {
        self.site.run(n, user, command).await
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
}

/// One cell: the guest becomes a version, a machine of it is used and captured, and machines of the capture are looked at.
async fn cell(agent: Agent, generation: &'static str, state: &'static str) {
    let site = Site { site: MachineSite::start(generation, 3).await, agent };
    let source = site.site.upload(&agent.guest()).await;
    let image = site.site.version("Generalized", "1.0.0", json!({"osDiskImage": {"source": {"id": source}}})).await;
    site.machine(0, &image, Some("azureuser"), true).await;
    assert_eq!(site.run(0, "azureuser", "hostname").await, "vm0");
    let sums = site.fill(0, "azureuser").await;
    let identity = site.run(0, "azureuser", agent.identity()).await;
    match state {
        "Generalized" => generalized(&site, &sums, &identity).await,
        _ => specialized(&site, &sums).await,
    }
}

async fn generalized(site: &Site, sums: &[String], identity: &str) {
    site.run(0, "azureuser", site.agent.deprovision()).await;
    site.site.post("Microsoft.Compute/virtualMachines/vm0/deallocate").await;
    site.site.post("Microsoft.Compute/virtualMachines/vm0/generalize").await;
    let of_machine = json!({"source": {"virtualMachineId": site.site.machine_path(0)}});
    let captured = site.site.version("Generalized", "2.0.0", of_machine).await;
    let mut identities = vec![identity.to_owned()];
    for (n, user) in [(1, "alice"), (2, "bob")] {
        site.machine(n, &captured, Some(user), false).await;
        assert_eq!(site.run(n, user, "hostname").await, format!("vm{n}"));
        site.has_data(n, user, sums).await;
        identities.push(site.run(n, user, site.agent.identity()).await);
        site.site.delete(&format!("Microsoft.Compute/virtualMachines/vm{n}")).await;
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
    site.site.post("Microsoft.Compute/virtualMachines/vm0/deallocate").await;
    let of_machine = json!({"source": {"virtualMachineId": site.site.machine_path(0)}});
    let captured = site.site.version("Specialized", "1.0.0", of_machine).await;
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
