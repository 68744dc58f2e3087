//! `kill -9` of `lazuli serve` at random moments of what takes long (reliability, law 1): nothing that was acknowledged is
//! lost, every operation ends after the restart, bytes are right, and deletes give the space back.
//!
//! The moments come from a seed, which is printed; `LAZULI_CRASH_SEED` repeats a run's choices.

mod support;

use lazuli_disks::vhd::{COOKIE, FOOTER_LEN, Footer, judge};
use lazuli_testkit::{Arm, ArmFailure, Reply, TestServer, blob, guests, last_lines};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Random, kill_host};
use uuid::Uuid;

const GROUP: &str = "crash";
const HOME: &str = "eastus";
/// How long what was interrupted may take after the restart.
const ENDS: Duration = Duration::from_secs(300);
/// Under emulation on a busy machine.
const BOOTS: Duration = Duration::from_secs(420);
const DISK_MIB: u64 = 96;

/// A disk of `DISK_MIB`: stretches of random bytes and of zeros, about half is data.
fn random_disk(random: &mut Random) -> Vec<u8> {
    let mut disk = vec![0; usize::try_from(DISK_MIB << 20).unwrap()];
    for stretch in disk.chunks_mut(64 << 10) {
        if random.next().is_multiple_of(2) {
            let from = usize::try_from(random.next() % 8).unwrap() * 4096;
            stretch[from..].chunks_mut(8).for_each(|word| word.copy_from_slice(&random.next().to_le_bytes()));
        }
    }
    disk
}

/// A server that is killed again and again, and everything that it ever acknowledged.
struct Crashed {
    server: TestServer,
    arm: Arm,
    acknowledged: Vec<String>,
    kills: u32,
}

impl Crashed {
    async fn start(arguments: &[&str]) -> Self {
        let server = TestServer::start_with(arguments).await.unwrap();
        let arm = server.arm().await.unwrap();
        let mut crashed = Self { server, arm, acknowledged: vec![], kills: 0 };
        crashed.put(&crashed.arm.group_path(GROUP, ""), &json!({"location": HOME})).await;
        crashed
    }

    fn path(&self, below: &str) -> String {
        self.arm.group_path(GROUP, &format!("/providers/{below}"))
    }

    fn disk(&self, name: &str) -> String {
        self.path(&format!("Microsoft.Compute/disks/{name}"))
    }

    /// To its end.
    async fn put(&mut self, path: &str, body: &Value) -> Value {
        let done = self.arm.put(path, body).await.unwrap_or_else(|e| panic!("PUT {path}: {e:#}"));
        self.acknowledged.push(path.to_owned());
        done
    }

    /// Only until it is accepted.
    async fn accepted(&mut self, method: Method, path: &str, body: Option<&Value>) -> Reply {
        let put = method == Method::PUT;
        let reply = self.arm.send(method, path, body).await.unwrap();
        assert!(reply.status.is_success(), "{path}: {} {}", reply.status, reply.body);
        if put && !self.acknowledged.iter().any(|p| p == path) {
            self.acknowledged.push(path.to_owned());
        }
        reply
    }

    /// Follows an operation that was accepted before a kill.
    async fn ends(&self, within: Duration, accepted: Reply, path: &str) -> anyhow::Result<Value> {
        let end = tokio::time::timeout(within, self.arm.finish(accepted, path)).await;
        end.unwrap_or_else(|_| panic!("the operation on {path} does not end"))
    }

    async fn delete(&mut self, path: &str) {
        let deleted = tokio::time::timeout(ENDS, self.arm.delete(path)).await;
        deleted.expect("a delete ends").unwrap_or_else(|e| panic!("DELETE {path}: {e:#}"));
        self.acknowledged.retain(|p| p != path && !p.starts_with(&format!("{path}/")));
        assert_eq!(self.arm.send(Method::GET, path, None).await.unwrap().status, StatusCode::NOT_FOUND);
    }

    /// Lets the server live for `moment` (this is no wait for anything: the moment is the test's input), kills it, and
    /// starts it again on the same folder.
    async fn kill_after(&mut self, moment: Duration, doing: impl Display) {
        tokio::time::sleep(moment).await;
        self.kill();
        eprintln!("kill {} after {moment:?} of {doing}", self.kills);
        self.restart().await;
    }

    /// How many of the kills met an operation that a worker had begun, as the next start found.
    fn interrupted(&self) -> usize {
        self.server.log().matches("its operations go on").count()
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.kills += 1;
    }

    async fn restart(&mut self) {
        self.server.restart().await.unwrap();
        // The client and its token are those from before, as az would go on with.
        for path in &self.acknowledged {
            self.arm.get(path).await.unwrap_or_else(|e| panic!("{path} was acknowledged and is lost: {e:#}"));
        }
    }

    async fn sas(&self, disk: &str, access: &str) -> String {
        let body = json!({"access": access, "durationInSeconds": 3600});
        let granted = self.arm.post(&format!("{disk}/beginGetAccess"), Some(&body)).await.unwrap();
        granted["accessSAS"].as_str().unwrap_or_else(|| panic!("no SAS: {granted}")).to_owned()
    }

    /// A disk with these bytes written, whose upload is not ended yet.
    async fn written(&mut self, name: &str, vhd: &Path) -> String {
        let path = self.disk(name);
        let bytes = std::fs::metadata(vhd).unwrap().len();
        let create = json!({"createOption": "Upload", "uploadSizeBytes": bytes});
        let properties = json!({"osType": "Linux", "hyperVGeneration": "V2", "creationData": create});
        let body = json!({"location": HOME, "sku": {"name": "Standard_LRS"}, "properties": properties});
        self.put(&path, &body).await;
        let sas = self.sas(&path, "Write").await;
        blob::upload(self.arm.http(), &sas, vhd).await.unwrap();
        path
    }

    async fn uploaded(&mut self, name: &str, vhd: &Path) -> String {
        let path = self.written(name, vhd).await;
        self.arm.post(&format!("{path}/endGetAccess"), None).await.unwrap();
        path
    }

    /// The disk is exactly these bytes and a good footer.
    async fn holds(&self, disk: &str, bytes: &[u8]) {
        let sas = self.sas(disk, "Read").await;
        let all = blob::download(self.arm.http(), &sas).await.unwrap();
        self.arm.post(&format!("{disk}/endGetAccess"), None).await.unwrap();
        let (data, footer) = all.split_last_chunk::<512>().expect("a VHD");
        judge(data, footer, all.len() as u64).unwrap_or_else(|e| panic!("{disk}: {e}"));
        assert_eq!(data.len(), bytes.len(), "{disk}");
        if data != bytes {
            panic!("{disk} differs at {:?}", data.iter().zip(bytes).position(|(a, b)| a != b));
        }
    }

    async fn gallery(&mut self) -> String {
        let gallery = self.path("Microsoft.Compute/galleries/crashes");
        self.put(&gallery, &json!({"location": HOME})).await;
        let image = format!("{gallery}/images/linux");
        let identifier = json!({"publisher": "crash", "offer": "linux", "sku": "1"});
        let properties =
            json!({"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2", "identifier": identifier});
        self.put(&image, &json!({"location": HOME, "properties": properties})).await;
        image
    }

    /// Everything goes, and with it every byte.
    async fn give_back(mut self) {
        let group = self.arm.group_path(GROUP, "");
        self.delete(&group).await;
        let out = self.server.command("usage").arg("--json").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let usage: Value = serde_json::from_slice(&out.stdout).unwrap();
        for region in usage.as_array().unwrap() {
            for count in ["disks", "logicalBytes", "uniqueBytes", "storedBytes", "chunks", "packs"] {
                assert_eq!(region[count], 0, "{count} of {usage:#}");
            }
        }
        eprintln!("{} kills, {} of them in the middle of an operation", self.kills, self.interrupted());
        for folder in ["uploads", "disks"] {
            let left: Vec<_> =
                std::fs::read_dir(self.server.dir().join(folder)).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{folder} still holds {left:?}");
        }
    }
}

/// A fixed VHD of these bytes.
fn vhd_of(bytes: &[u8], at: &Path) {
    let size = bytes.len() as u64;
    let mut file = std::fs::File::create(at).unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(size)).unwrap();
    let footer = Footer::fixed(size, Uuid::new_v4(), 1_700_000_000).to_bytes();
    assert!(footer.starts_with(&COOKIE));
    file.write_all(&footer).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size + FOOTER_LEN);
}

#[tokio::test]
async fn a_put_that_was_acknowledged_is_there_after_the_kill() {
    let mut crashed = Crashed::start(&["--no-host"]).await;
    for n in 0..3 {
        let path = crashed.path(&format!("Microsoft.Compute/galleries/g{n}"));
        let accepted = crashed.accepted(Method::PUT, &path, Some(&json!({"location": HOME, "tags": {"n": "x"}}))).await;
        crashed.kill();
        crashed.restart().await;
        crashed.ends(ENDS, accepted, &path).await.unwrap();
        let found = crashed.arm.get(&path).await.unwrap();
        assert_eq!(found["properties"]["provisioningState"], "Succeeded");
        assert_eq!(found["tags"]["n"], "x");
    }
    crashed.give_back().await;
}

#[tokio::test]
async fn an_ingest_that_is_killed_ends_with_the_right_bytes() {
    const POINTS: u32 = 8;
    let mut random = Random::seeded(1);
    let mut crashed = Crashed::start(&["--no-host"]).await;
    let folder = tempfile::tempdir().unwrap();
    let vhd = folder.path().join("disk.vhd");

    // One that is left alone tells how long an ingest takes here.
    let bytes = random_disk(&mut random);
    vhd_of(&bytes, &vhd);
    let disk = crashed.written("whole", &vhd).await;
    let begin = Instant::now();
    crashed.arm.post(&format!("{disk}/endGetAccess"), None).await.unwrap();
    let takes = begin.elapsed();
    eprintln!("an ingest takes {takes:?}");
    crashed.holds(&disk, &bytes).await;

    for point in 0..POINTS {
        let bytes = random_disk(&mut random);
        vhd_of(&bytes, &vhd);
        let disk = crashed.written(&format!("disk{point}"), &vhd).await;
        let end = format!("{disk}/endGetAccess");
        let moment = if point == 0 { Duration::ZERO } else { random.within(Duration::ZERO, takes) };
        let accepted = crashed.accepted(Method::POST, &end, None).await;
        crashed.kill_after(moment, "an ingest").await;
        crashed.ends(ENDS, accepted, &end).await.unwrap();
        let shown = crashed.arm.get(&disk).await.unwrap();
        assert_eq!(shown["properties"]["diskState"], "Unattached", "{shown}");
        crashed.holds(&disk, &bytes).await;
        // Half of them stay until the end: later kills must not harm them.
        if point % 2 == 0 {
            crashed.delete(&disk).await;
        } else {
            std::fs::write(folder.path().join(format!("disk{point}")), &bytes).unwrap();
        }
    }
    for point in (1..POINTS).step_by(2) {
        let bytes = std::fs::read(folder.path().join(format!("disk{point}"))).unwrap();
        crashed.holds(&crashed.disk(&format!("disk{point}")), &bytes).await;
    }
    assert_eq!(crashed.kills, POINTS);
    assert!(crashed.interrupted() > 0, "no kill met an operation: the test proves nothing");
    crashed.give_back().await;
}

fn version_body(disk: &str, regions: &[&str]) -> Value {
    let targets: Vec<Value> = regions.iter().map(|r| json!({"name": r, "regionalReplicaCount": 1})).collect();
    let storage = json!({"osDiskImage": {"source": {"id": disk}}});
    json!({"location": HOME, "properties": {"publishingProfile": {"targetRegions": targets}, "storageProfile": storage}})
}

/// The version is in exactly these regions, and a disk made of it in `read` has the bytes.
async fn is_replicated(crashed: &mut Crashed, version: &str, regions: &[&str], read: &[&str], bytes: &[u8]) {
    let shown = crashed.arm.get(&format!("{version}?$expand=ReplicationStatus")).await.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded", "{shown}");
    let status = &shown["properties"]["replicationStatus"];
    assert_eq!(status["aggregatedState"], "Completed", "{status}");
    let summary = status["summary"].as_array().unwrap();
    assert_eq!(summary.len(), regions.len(), "{status}");
    assert!(summary.iter().all(|r| r["state"] == "Completed"), "{status}");
    for region in read {
        let disk = crashed.disk(&format!("from-{region}"));
        let create = json!({"createOption": "FromImage", "galleryImageReference": {"id": version}});
        crashed.put(&disk, &json!({"location": region, "properties": {"creationData": create}})).await;
        crashed.holds(&disk, bytes).await;
        crashed.delete(&disk).await;
    }
}

#[tokio::test]
async fn a_replication_that_is_killed_ends_in_every_region() {
    const VERSIONS: u32 = 4;
    let three = [HOME, "westus2", "northeurope"];
    let four = [HOME, "westus2", "northeurope", "japaneast"];
    let mut random = Random::seeded(2);
    let mut crashed = Crashed::start(&["--no-host"]).await;
    let folder = tempfile::tempdir().unwrap();
    let vhd = folder.path().join("disk.vhd");
    let bytes = random_disk(&mut random);
    vhd_of(&bytes, &vhd);
    let source = crashed.uploaded("source", &vhd).await;
    let image = crashed.gallery().await;

    let version = format!("{image}/versions/0.0.1");
    let begin = Instant::now();
    crashed.put(&version, &version_body(&source, &three)).await;
    let creating = begin.elapsed();
    let begin = Instant::now();
    crashed.put(&version, &version_body(&source, &four)).await;
    let adding = begin.elapsed();
    eprintln!("creating a version takes {creating:?}, adding a region {adding:?}");
    // Gone from everywhere, so that the next one has bytes to move.
    crashed.delete(&version).await;

    for n in 0..VERSIONS {
        let version = format!("{image}/versions/1.0.{n}");
        let moment = if n == 0 { Duration::ZERO } else { random.within(Duration::ZERO, creating) };
        let accepted = crashed.accepted(Method::PUT, &version, Some(&version_body(&source, &three))).await;
        crashed.kill_after(moment, "a version's creation").await;
        crashed.ends(ENDS, accepted, &version).await.unwrap();
        is_replicated(&mut crashed, &version, &three, &three[2..], &bytes).await;

        let moment = random.within(Duration::ZERO, adding);
        let accepted = crashed.accepted(Method::PUT, &version, Some(&version_body(&source, &four))).await;
        crashed.kill_after(moment, "a region's addition").await;
        crashed.ends(ENDS, accepted, &version).await.unwrap();
        let read = if n + 1 == VERSIONS { &four[..] } else { &four[3..] };
        is_replicated(&mut crashed, &version, &four, read, &bytes).await;
        crashed.delete(&version).await;
    }
    crashed.holds(&source, &bytes).await;
    assert_eq!(crashed.kills, 2 * VERSIONS);
    assert!(crashed.interrupted() > 0, "no kill met an operation: the test proves nothing");
    crashed.give_back().await;
}

/// A key, and the network that machines need: `vm{n}` gets `nic{n}` with a public address whose port 22 is open.
async fn network(crashed: &mut Crashed, machines: usize) {
    let path = |below: &str| format!("Microsoft.Network/{below}");
    let net = crashed.path(&path("virtualNetworks/net"));
    let space = json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}});
    crashed.put(&net, &json!({"location": HOME, "properties": space})).await;
    let subnet = format!("{net}/subnets/default");
    crashed.put(&subnet, &json!({"properties": {"addressPrefix": "10.0.0.0/24"}})).await;
    let nsg = crashed.path(&path("networkSecurityGroups/nsg"));
    let rule = json!({"name": "ssh", "properties": {
        "priority": 1000, "access": "Allow", "direction": "Inbound", "protocol": "Tcp", "sourceAddressPrefix": "*",
        "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": "22"}});
    crashed.put(&nsg, &json!({"location": HOME, "properties": {"securityRules": [rule]}})).await;
    for n in 0..machines {
        let ip = crashed.path(&path(&format!("publicIPAddresses/ip{n}")));
        let sku = json!({"name": "Standard"});
        crashed
            .put(&ip, &json!({"location": HOME, "sku": sku, "properties": {"publicIPAllocationMethod": "Static"}}))
            .await;
        let nic = crashed.path(&path(&format!("networkInterfaces/nic{n}")));
        let configuration =
            json!({"name": "main", "properties": {"subnet": {"id": subnet}, "publicIPAddress": {"id": ip}}});
        let properties = json!({"ipConfigurations": [configuration], "networkSecurityGroup": {"id": nsg}});
        crashed.put(&nic, &json!({"location": HOME, "properties": properties})).await;
    }
}

fn machine_body(crashed: &Crashed, n: usize, version: &str, key: &Path) -> Value {
    let key = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let keys = json!([{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": key.trim()}]);
    let nic = crashed.path(&format!("Microsoft.Network/networkInterfaces/nic{n}"));
    json!({"location": HOME, "properties": {
        "hardwareProfile": {"vmSize": "Standard_B1ls"},
        "storageProfile": {"imageReference": {"id": version}, "osDisk": {"createOption": "FromImage", "deleteOption": "Delete"}},
        "osProfile": {"computerName": format!("vm{n}"), "adminUsername": "azureuser",
            "linuxConfiguration": {"disablePasswordAuthentication": true, "ssh": {"publicKeys": keys}}},
        "networkProfile": {"networkInterfaces": [{"id": nic}]}}})
}

/// The guest says its own name over ssh.
async fn answers(crashed: &Crashed, n: usize, key: &Path) {
    let ip = crashed.arm.get(&crashed.path(&format!("Microsoft.Network/publicIPAddresses/ip{n}"))).await.unwrap();
    let address = ip["properties"]["ipAddress"].as_str().unwrap().to_owned();
    let asked = async || {
        let mut ssh = tokio::process::Command::new("ssh");
        ssh.arg("-i").arg(key).args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"]);
        let out = ssh.arg(format!("azureuser@{address}")).arg("hostname").output().await;
        let out = out.expect("ssh is needed: apt-get install openssh-client");
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let name = lazuli_testkit::wait_for("the guest's answer over ssh", BOOTS, asked).await;
    assert_eq!(name, format!("vm{n}"));
}

#[tokio::test]
async fn a_machine_whose_creation_is_killed_is_there_or_cleanly_failed() {
    // Moments of the kills of each machine, the next one counted from the restart; `true`: of the host process, too.
    let seconds = Duration::from_secs;
    let spans: [&[(Duration, Duration, bool)]; 4] = [
        &[(seconds(0), seconds(0), false)],
        &[(seconds(0), seconds(3), false), (seconds(1), seconds(10), false)],
        &[(seconds(3), seconds(15), false)],
        &[(seconds(1), seconds(12), true)],
    ];
    let tiny = guests::tiny().unwrap();
    let mut random = Random::seeded(3);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen is needed: apt-get install openssh-client").success());
    let mut crashed = Crashed::start(&[]).await;
    let source = crashed.uploaded("source", &tiny).await;
    let version = format!("{}/versions/1.0.0", crashed.gallery().await);
    crashed.put(&version, &version_body(&source, &[HOME])).await;
    network(&mut crashed, spans.len()).await;

    for (n, kills) in spans.iter().enumerate() {
        let path = crashed.path(&format!("Microsoft.Compute/virtualMachines/vm{n}"));
        let body = machine_body(&crashed, n, &version, &key);
        let accepted = crashed.accepted(Method::PUT, &path, Some(&body)).await;
        for &(from, to, host) in *kills {
            let moment = random.within(from, to);
            tokio::time::sleep(moment).await;
            crashed.kill();
            if host {
                kill_host(&crashed.server).await;
            }
            eprintln!(
                "kill {} after {moment:?} of vm{n}'s creation{}",
                crashed.kills,
                if host { ", with its host" } else { "" }
            );
            crashed.restart().await;
        }
        let ended = crashed.ends(BOOTS, accepted, &path).await;
        let shown = crashed.arm.get(&path).await.unwrap();
        let state = shown["properties"]["provisioningState"].as_str().unwrap_or_default();
        match ended {
            Ok(_) => {
                assert_eq!(state, "Succeeded", "{shown}");
                answers(&crashed, n, &key).await;
            }
            Err(error) => {
                let told = error.downcast_ref::<ArmFailure>().unwrap_or_else(|| panic!("vm{n}: {error:#}"));
                assert_eq!(state, "Failed", "{shown}");
                eprintln!("vm{n} failed: {told}");
                assert!(
                    kills.iter().any(|k| k.2),
                    "the host lived, and yet vm{n} failed: {told}\n{}",
                    last_lines(&crashed.server.log())
                );
            }
        }
        crashed.delete(&path).await;
    }
    assert_eq!(crashed.kills, 5);
    assert!(crashed.interrupted() > 0, "no kill met an operation: the test proves nothing");
    crashed.give_back().await;
}
