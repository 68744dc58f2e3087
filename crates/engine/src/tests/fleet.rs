//! Machines on workers: where they run, what is durable when, and what becomes of them when their worker is away.

use super::activity::events;
use super::capture::{CLUSTER, WRITES, expected, write_to};
use super::extensions::{EXTENSION, extension};
use super::scale_sets::SET;
use super::site::{Site, VM, link, nic, until};
use super::trusted_launch::trusted;
use super::{MIB, Server};
use crate::base_images::StoredImages;
use crate::stored::DiskInternal;
use crate::{Engine, MachineIdentityError, OpenStores, RegionSettings, RegionStores, TokenAsk, WorkerSettings};
use lazuli_arm::ArmError;
use lazuli_chunks::Cache;
use lazuli_vmm::host::{Host, HostConfig, HostError};
use lazuli_vmm::hypervisor::Fake;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LEASE: Duration = Duration::from_millis(1200);

/// A server with East US in a shared folder, whose own host takes no machines.
struct Fleet {
    site: Site,
    _shared: TempDir,
}

/// A worker with its host process, in this process.
struct Member {
    name: &'static str,
    dir: TempDir,
    engine: Engine,
    fake: Fake,
    memory_mib: u64,
    runs: Option<Runs>,
}

struct Runs {
    work: JoinHandle<()>,
    stop: CancellationToken,
    host: (CancellationToken, JoinHandle<Result<(), HostError>>),
}

impl Fleet {
    async fn start() -> Self {
        Self::with_own_memory(0).await
    }

    async fn with_own_memory(mib: u64) -> Self {
        let shared = tempfile::tempdir().unwrap();
        let zones = vec![shared.path().join("eastus").display().to_string()];
        let site = Site::configured(|config| {
            config.regions.insert("eastus".into(), RegionSettings { zones, ..RegionSettings::default() });
            config.own_memory_mib = Some(mib);
            config.worker_lease = LEASE;
            config.worker_grace = LEASE * 2;
            config.host_time = Duration::from_secs(2);
        })
        .await;
        Self { site, _shared: shared }
    }

    fn server(&self) -> &Server {
        &self.site.server
    }

    async fn member(&self, name: &'static str, memory_mib: u64) -> Member {
        let dir = tempfile::Builder::new().prefix("lz").tempdir().unwrap();
        let mut config = self.server().engine.config().clone();
        std::fs::copy(config.data_dir.join("secrets.key"), dir.path().join("secrets.key")).unwrap();
        config.data_dir = dir.path().to_owned();
        let engine = Engine::open(config).await.unwrap();
        let mut member = Member { name, dir, engine, fake: Fake::default(), memory_mib, runs: None };
        member.begin().await;
        member
    }

    /// Another machine with an interface of its own in network `v`, or in one of its own.
    async fn another(&self, name: &str, size: &str, own_network: bool) -> Result<Value, ArmError> {
        let server = self.server();
        let interface = format!("n-{name}");
        if own_network {
            let body = json!({"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": ["10.1.0.0/16"]},
                "subnets": [{"name": "s", "properties": {"addressPrefix": "10.1.0.0/24"}}]}});
            server.put(&format!("virtualNetworks/v-{name}"), body).await.unwrap();
            let subnet = link(server, &format!("virtualNetworks/v-{name}/subnets/s"));
            nic(server, &interface, json!({"subnet": subnet})).await.unwrap();
        } else {
            nic(server, &interface, json!({})).await.unwrap();
        }
        let body = self.site.body(|b| {
            let properties = &mut b["properties"];
            properties["hardwareProfile"]["vmSize"] = json!(size);
            properties["storageProfile"]["osDisk"]["name"] = json!(format!("os-{name}"));
            properties["networkProfile"]["networkInterfaces"] =
                json!([link(server, &format!("networkInterfaces/{interface}"))]);
        });
        server.put(&format!("virtualMachines/{name}"), body).await
    }

    async fn id_of(&self, machine: &str) -> Uuid {
        let internal = self.server().internal(&format!("virtualMachines/{machine}")).await;
        internal["vmId"].as_str().unwrap().parse().unwrap()
    }

    async fn data_disks(&self, machine: &str, disks: Value) -> Result<(), ArmError> {
        let server = self.server();
        let body = json!({"properties": {"storageProfile": {"dataDisks": disks}}});
        let written = server.engine.patch(&server.call, &server.id(machine), body).await?;
        server.end(&written.operation.unwrap()).await.map(drop)
    }

    /// A disk with the bytes of `d1`; the entry of a machine that has it at LUN 4.
    async fn data_disk(&self, name: &str) -> Value {
        let server = self.server();
        let copy = json!({"createOption": "Copy", "sourceResourceId": server.id("disks/d1").to_string()});
        let body = json!({"location": "eastus", "properties": {"creationData": copy}});
        server.put(&format!("disks/{name}"), body).await.unwrap();
        json!({"lun": 4, "createOption": "Attach", "managedDisk": link(server, &format!("disks/{name}"))})
    }

    /// What the store has of the disk.
    async fn durable(&self, disk: &str) -> Vec<u8> {
        let base = self.server().internal(disk).await["base"]["manifest"].clone();
        self.server().stored("eastus", base.as_str().unwrap()).await
    }

    async fn statuses(&self) -> Vec<Value> {
        let server = self.server();
        let view = server.engine.view(&server.call, &server.id(VM), "instanceView").await.unwrap().unwrap();
        view["statuses"].as_array().unwrap().clone()
    }

    async fn has_status(&self, code: &str) -> bool {
        self.statuses().await.iter().any(|s| s["code"] == code)
    }

    /// Its lease has passed.
    async fn is_away(&self, member: &Member) {
        until("the worker is away", async || !self.is_there(member).await).await;
    }

    async fn is_there(&self, member: &Member) -> bool {
        let row = self.server().engine.db().worker(member.name).await.unwrap().unwrap();
        row.lease_until_ms > crate::now_ms()
    }
}

impl Member {
    async fn begin(&mut self) {
        let data = self.dir.path();
        let stores = RegionStores::new(data.join("regions"), self.engine.config().regions.clone());
        let images = StoredImages::of(OpenStores::for_following(stores, Cache::new(16 << 20)));
        let config = HostConfig::new(data.join("host"), Arc::new(images), Arc::new(self.fake.clone()));
        let stop = CancellationToken::new();
        let host = (stop.clone(), tokio::spawn(Host::run(config, stop)));
        let settings = WorkerSettings {
            id: self.name.into(),
            name: self.name.into(),
            regions: vec!["eastus".into()],
            memory_mib: Some(self.memory_mib),
            listen: "127.0.0.1:0".parse().unwrap(),
            address: None,
        };
        let (told, ready) = oneshot::channel();
        let (engine, stop) = (self.engine.clone(), CancellationToken::new());
        let shutdown = stop.clone();
        let work = tokio::spawn(async move { engine.work(settings, told, shutdown).await.unwrap() });
        ready.await.unwrap();
        self.runs = Some(Runs { work, stop, host });
    }

    /// `kill -9` of the worker and of its host process: guests run on.
    async fn dies(&mut self) {
        let Runs { work, host: (stop, host), .. } = self.runs.take().unwrap();
        work.abort();
        assert!(work.await.unwrap_err().is_cancelled());
        // It leaves guests alone however it ends.
        stop.cancel();
        host.await.unwrap().unwrap();
    }

    async fn leaves(&mut self) {
        let Runs { work, stop, host: (stop_host, host) } = self.runs.take().unwrap();
        stop.cancel();
        work.await.unwrap();
        stop_host.cancel();
        host.await.unwrap().unwrap();
    }

    fn overlays(&self) -> Vec<PathBuf> {
        overlays(self.dir.path())
    }

    /// The file of a disk that is here.
    async fn overlay(&self, fleet: &Fleet, disk: &str) -> PathBuf {
        let disk: DiskInternal = serde_json::from_value(fleet.server().internal(disk).await).unwrap();
        disk.overlay_in(self.dir.path())
    }
}

fn overlays(data_dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(data_dir.join("disks")).into_iter().flatten().map(|e| e.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_runs_on_the_worker_of_its_region_and_leaves_with_what_it_wrote() {
    let fleet = Fleet::start().await;
    let (site, server) = (&fleet.site, fleet.server());
    let far = fleet.member("far", 4096).await;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    assert!(far.fake.is_running(id) && !site.fake.is_running(id));
    assert!(fleet.has_status("PowerState/running").await);
    assert_eq!((far.overlays().len(), overlays(server.dir.path()).len()), (1, 0));
    let refused = server.engine.serial_console(&server.call.caller, &server.id(VM)).await;
    assert!(refused.is_ok(), "its console is reached through the worker");

    let workers = server.engine.workers().await.unwrap();
    assert_eq!(workers[0].machines, [server.id(VM).to_string()]);
    assert!(workers[0].is_there && workers[0].regions == ["eastus"] && workers[0].memory_mib == 4096);

    // A running machine is a source, and so is one that is off.
    write_to(&far.overlays()[0], &WRITES);
    let snapshot = async |name: &str| {
        let create = json!({"createOption": "Copy", "sourceResourceId": server.id("disks/os1").to_string()});
        let body = json!({"location": "eastus", "properties": {"creationData": create}});
        server.put(&format!("snapshots/{name}"), body).await.unwrap();
        fleet.durable(&format!("snapshots/{name}")).await
    };
    assert!(snapshot("running").await == expected());
    site.power("powerOff").await.unwrap();
    assert!(fleet.has_status("PowerState/stopped").await && !far.fake.is_running(id));
    write_to(&far.overlays()[0], &["write -P 1 5M 64k"]);
    let mut changed = expected();
    changed[usize::try_from(5 * MIB).unwrap()..][..CLUSTER].fill(1);
    assert!(snapshot("off").await == changed);
    assert!(fleet.durable("disks/os1").await != changed, "the disk itself is as durable as before");

    // Deallocated: everything is in the store, nothing on the worker; the same machine starts from it, and its disk can move.
    site.power("deallocate").await.unwrap();
    assert!(fleet.durable("disks/os1").await == changed);
    assert_eq!(far.overlays(), Vec::<PathBuf>::new());
    assert!(fleet.has_status("PowerState/deallocated").await);
    site.power("start").await.unwrap();
    assert!(far.fake.is_running(id));
    write_to(&far.overlays()[0], &["write -P 2 6M 64k"]);
    changed[usize::try_from(6 * MIB).unwrap()..][..CLUSTER].fill(2);
    let blank = json!({"lun": 4, "createOption": "Empty", "diskSizeGB": 1, "name": "data4"});
    fleet.data_disks(VM, json!([blank])).await.unwrap();

    server.delete(VM).await.unwrap();
    assert!(!far.fake.is_running(id));
    assert_eq!(far.overlays(), Vec::<PathBuf>::new());
    assert!(fleet.durable("disks/os1").await == changed, "what it wrote last outlives it");
    for disk in ["disks/os1", "disks/data4"] {
        assert_eq!(site.state(disk).await, "Unattached");
        server.delete(disk).await.unwrap();
    }
    let left = std::fs::read_dir(server.dir.path().join("fetched")).unwrap().count();
    assert_eq!(left, 0, "what was fetched is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_leaves_a_machine_on_a_worker_with_what_was_written_to_it() {
    let fleet = Fleet::start().await;
    let (site, server) = (&fleet.site, fleet.server());
    let far = fleet.member("far", 4096).await;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    let entry = fleet.data_disk("data").await;
    fleet.data_disks(VM, json!([entry])).await.unwrap();
    write_to(&far.overlay(&fleet, "disks/data").await, &WRITES);

    // It cannot be brought: everything is as it was, and it can be tried again.
    std::fs::write(server.dir.path().join("fetched"), "").unwrap();
    fleet.data_disks(VM, json!([])).await.unwrap_err();
    assert_eq!(
        (far.fake.disks(id), site.state("disks/data").await),
        (vec!["lun4".into(), "os".into()], json!("Attached"))
    );
    std::fs::remove_file(server.dir.path().join("fetched")).unwrap();
    fleet.data_disks(VM, json!([])).await.unwrap();
    assert_eq!((far.fake.disks(id), site.state("disks/data").await), (vec!["os".into()], json!("Unattached")));
    assert_eq!(far.overlays().len(), 1, "its file is gone");
    assert!(fleet.durable("disks/data").await == expected());

    // Another machine elsewhere goes on with it; off, but not deallocated, it lets go of it too.
    let near = fleet.member("near", 8192).await;
    fleet.another("vm2", "Standard_B1s", true).await.unwrap();
    fleet.data_disks("virtualMachines/vm2", json!([entry])).await.unwrap();
    let second = fleet.id_of("vm2").await;
    assert_eq!(near.fake.disks(second), ["lun4", "os"]);
    server.action("virtualMachines/vm2", "powerOff", json!({})).await.unwrap();
    write_to(&near.overlay(&fleet, "disks/data").await, &["write -P 5 3M 64k"]);
    fleet.data_disks("virtualMachines/vm2", json!([])).await.unwrap();
    let mut changed = expected();
    changed[usize::try_from(3 * MIB).unwrap()..][..CLUSTER].fill(5);
    assert!(fleet.durable("disks/data").await == changed);
    assert_eq!((near.overlays().len(), site.state("disks/data").await), (1, json!("Unattached")));
    server.delete("disks/data").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_while_a_disk_is_detached_loses_nothing_of_it() {
    let fleet = Fleet::start().await;
    let (site, server) = (&fleet.site, fleet.server());
    let mut far = fleet.member("far", 4096).await;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    let entry = fleet.data_disk("data").await;
    fleet.data_disks(VM, json!([entry])).await.unwrap();
    write_to(&far.overlay(&fleet, "disks/data").await, &WRITES);

    let body = json!({"properties": {"storageProfile": {"dataDisks": []}}});
    let detach = server.engine.patch(&server.call, &server.id(VM), body).await.unwrap();
    until("the guest has let go of it", async || far.fake.disks(id) == ["os"]).await;
    far.dies().await;
    let ended = server.end(&detach.operation.unwrap()).await;
    far.begin().await;
    if ended.is_err() {
        assert_eq!(site.state("disks/data").await, "Attached", "as its machine says");
        fleet.data_disks(VM, json!([])).await.unwrap();
    }
    assert_eq!((far.fake.disks(id), site.state("disks/data").await), (vec!["os".into()], json!("Unattached")));
    assert!(fleet.durable("disks/data").await == expected());
    server.delete(VM).await.unwrap();
    assert_eq!(far.overlays(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_ran_goes_on_elsewhere_and_nowhere_twice() {
    let fleet = Fleet::start().await;
    let (site, server) = (&fleet.site, fleet.server());
    let mut far = fleet.member("far", 4096).await;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    write_to(&far.overlays()[0], &WRITES);
    site.power("deallocate").await.unwrap();
    site.power("start").await.unwrap();
    write_to(&far.overlays()[0], &["write -P 9 7M 64k"]);

    far.dies().await;
    assert!(far.fake.is_running(id), "its guests do not notice");
    fleet.is_away(&far).await;
    let unknown = fleet.statuses().await.into_iter().find(|s| s["code"] == "PowerState/unknown").unwrap();
    assert!(unknown["message"].as_str().unwrap().contains("worker 'far'"), "{unknown}");
    for action in ["start", "restart", "powerOff", "reapply"] {
        let error = site.power(action).await.unwrap_err();
        assert!(error.code == "HostUnavailable" && error.message.contains("heard of last"), "{action}: {error}");
    }
    let copy = json!({"createOption": "Copy", "sourceResourceId": server.id("disks/os1").to_string()});
    let body = json!({"location": "eastus", "properties": {"creationData": copy}});
    assert_eq!(server.put("snapshots/s", body).await.unwrap_err().code, "HostUnavailable");
    // Its network is there, too: nothing else begins in it.
    let beside = fleet.another("beside", "Standard_B1s", false).await.unwrap_err();
    assert!(beside.code == "AllocationFailed" && beside.message.contains("is not there"), "{beside}");

    let near = fleet.member("near", 4096).await;
    until("it may be given up", async || site.power("deallocate").await.is_ok()).await;
    assert!(fleet.has_status("PowerState/deallocated").await);
    let lost = fleet.statuses().await.into_iter().find(|s| s["code"] == "DiskState/rolledBack").unwrap();
    let message = lost["message"].as_str().unwrap();
    assert!(message.contains("'far'") && message.contains("os1"), "{message}");
    let log = json!(events(server, &server.call, "").await.unwrap()).to_string();
    assert!(log.contains("was given up on worker 'far'"), "{log}");

    site.power("start").await.unwrap();
    assert!(near.fake.is_running(id) && fleet.has_status("PowerState/running").await);
    assert!(fleet.durable("disks/os1").await == expected(), "as of its last deallocation");
    assert!(fleet.has_status("DiskState/rolledBack").await, "it is still told");

    // The dead one returns: it switches off what runs elsewhere before it says that it is there.
    assert!(far.fake.is_running(id));
    far.begin().await;
    assert!(!far.fake.is_running(id) && near.fake.is_running(id));
    assert_eq!(far.overlays().len(), 1, "what was written there stays for whoever wants to look at it");
    assert!(fleet.has_status("PowerState/running").await);

    site.power("deallocate").await.unwrap();
    assert!(!fleet.has_status("DiskState/rolledBack").await);
    server.delete(VM).await.unwrap();
    assert!(!near.fake.is_running(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn redeploy_takes_a_machine_from_a_worker_that_is_away_and_delete_removes_it() {
    let fleet = Fleet::start().await;
    let site = &fleet.site;
    let mut far = fleet.member("far", 4096).await;
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    far.leaves().await;
    assert!(!fleet.is_there(&far).await, "who leaves says so");
    assert!(far.fake.is_running(id));
    let mut near = fleet.member("near", 4096).await;
    let early = site.power("redeploy").await.unwrap_err();
    assert_eq!(early.code, "HostUnavailable", "nobody gives up at once what may be back in a moment");
    until("it may be given up", async || site.power("redeploy").await.is_ok()).await;
    assert!(near.fake.is_running(id) && fleet.has_status("PowerState/running").await);
    far.begin().await;
    assert!(!far.fake.is_running(id));

    near.dies().await;
    fleet.is_away(&near).await;
    until("it may be given up", async || fleet.server().delete(VM).await.is_ok()).await;
    fleet.server().delete("disks/os1").await.unwrap();
    near.begin().await;
    assert!(!near.fake.is_running(id), "what was deleted does not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_back_in_time_goes_on_with_its_machines() {
    let fleet = Fleet::start().await;
    let mut far = fleet.member("far", 4096).await;
    fleet.site.create(|_| {}).await.unwrap();
    let id = fleet.site.vm_id().await;
    far.dies().await;
    fleet.is_away(&far).await;
    far.begin().await;
    assert!(far.fake.is_running(id) && fleet.has_status("PowerState/running").await);
    assert!(!fleet.has_status("DiskState/rolledBack").await);
    fleet.site.power("restart").await.unwrap();
    assert!(far.fake.is_running(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_go_where_their_network_is_and_where_there_is_room() {
    let fleet = Fleet::start().await;
    let (a, b) = (fleet.member("a", 3072).await, fleet.member("b", 2048).await);
    fleet.site.create(|_| {}).await.unwrap();
    assert!(a.fake.is_running(fleet.site.vm_id().await), "most of the room is there");
    // 2 GiB are free on each: the network decides, then the room.
    fleet.another("vm2", "Standard_B1s", false).await.unwrap();
    assert!(a.fake.is_running(fleet.id_of("vm2").await));
    fleet.another("vm3", "Standard_B1s", true).await.unwrap();
    assert!(b.fake.is_running(fleet.id_of("vm3").await));
    let full = fleet.another("vm4", "Standard_B2s", false).await.unwrap_err();
    assert!(full.code == "AllocationFailed" && full.message.contains("'a'"), "{full}");
    let none = fleet.another("vm5", "Standard_B2s", true).await.unwrap_err();
    assert!(none.code == "AllocationFailed" && none.message.contains("no host of the region"), "{none}");
    // What never came to be anywhere can be deleted, and tried again when there is room.
    fleet.server().delete("virtualMachines/vm4").await.unwrap();
    fleet.server().delete("virtualMachines/vm3").await.unwrap();
    let again = fleet.server().action("virtualMachines/vm5", "start", json!({})).await.unwrap_err();
    assert_eq!(again.code, "AllocationFailed", "2048 MiB are not 4096");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_written_on_the_servers_own_host_moves_to_a_worker() {
    let fleet = Fleet::with_own_memory(1024).await;
    let (site, server) = (&fleet.site, fleet.server());
    site.create(|_| {}).await.unwrap();
    let id = site.vm_id().await;
    assert!(site.fake.is_running(id), "there is no worker yet");
    site.power("deallocate").await.unwrap();
    write_to(&overlays(server.dir.path())[0], &WRITES);
    let far = fleet.member("far", 4096).await;
    site.power("start").await.unwrap();
    assert!(far.fake.is_running(id) && !site.fake.is_running(id));
    assert!(fleet.durable("disks/os1").await == expected(), "what was written came along");
    assert_eq!(overlays(server.dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_a_worker_acts_as_its_machines_identity_there_and_nowhere_else() {
    let fleet = Fleet::start().await;
    let (site, server) = (&fleet.site, fleet.server());
    let far = fleet.member("far", 4096).await;
    let shown = site.create(|b| b["identity"] = json!({"type": "SystemAssigned"})).await.unwrap();
    assert!(far.fake.is_running(site.vm_id().await));
    let ask = TokenAsk { machine: server.id(VM).to_string(), vm_id: site.vm_id().await, ..TokenAsk::default() };
    let act = async |computer: Option<&str>| far.engine.machine_identity(&ask, computer).await.map(|c| c.principal);
    assert_eq!(act(Some("far")).await.unwrap(), shown["identity"]["principalId"]);
    for other in [None, Some("near")] {
        assert!(matches!(act(other).await, Err(MachineIdentityError::NotFound)), "{other:?}");
    }
    // What is taken away is gone for the next request.
    let patch = async |identity: Value| {
        let body = json!({ "identity": identity });
        server.engine.patch(&server.call, &server.id(VM), body).await.unwrap().resource["identity"].clone()
    };
    patch(json!({"type": "None"})).await;
    assert!(matches!(act(Some("far")).await, Err(MachineIdentityError::NotFound)));
    let again = patch(json!({"type": "SystemAssigned"})).await;
    assert_eq!(act(Some("far")).await.unwrap(), again["principalId"]);
    site.power("deallocate").await.unwrap();
    assert!(matches!(act(Some("far")).await, Err(MachineIdentityError::NotFound)), "it is not there any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_firmware_and_tpm_keep_goes_where_the_os_disk_goes() {
    let fleet = Fleet::with_own_memory(1024).await;
    let (site, server) = (&fleet.site, fleet.server());
    let image = site.version_of("both", "TrustedLaunchSupported").await;
    let machine = |b: &mut Value| {
        b["properties"]["storageProfile"]["imageReference"]["id"] = json!(image);
        b["properties"]["securityProfile"] = trusted(true);
    };
    site.create(machine).await.unwrap();
    let id = site.vm_id().await;
    assert!(site.fake.is_running(id), "there is no worker yet");
    let disk = async || -> DiskInternal { serde_json::from_value(server.internal("disks/os1").await).unwrap() };
    let own = disk().await.firmware_state_in(server.dir.path());
    keep(&own, "sealed by the guest");
    site.power("deallocate").await.unwrap();

    // From the server's own host to a worker: all that is left here is what lies sealed in the database.
    let mut far = fleet.member("far", 4096).await;
    site.power("start").await.unwrap();
    assert!(far.fake.is_running(id) && !own.exists());
    let on_far = disk().await.firmware_state_in(far.dir.path());
    assert_eq!(kept(&on_far), "sealed by the guest");
    let row = server.internal("disks/os1").await.to_string();
    assert!(row.contains("sealed:v1:") && !row.contains("by the guest"), "{row}");

    // Off it is where it was; deallocated it comes along, and nothing stays.
    keep(&on_far, "later");
    site.power("powerOff").await.unwrap();
    site.power("start").await.unwrap();
    site.power("deallocate").await.unwrap();
    assert!(!on_far.exists() && far.overlays().is_empty());
    site.power("start").await.unwrap();
    let on_far = disk().await.firmware_state_in(far.dir.path());
    assert_eq!(kept(&on_far), "later");

    // Lost with its worker, it is as old as the disk is.
    keep(&on_far, "lost");
    far.dies().await;
    let near = fleet.member("near", 4096).await;
    until("it may be given up", async || site.power("redeploy").await.is_ok()).await;
    assert!(near.fake.is_running(id));
    let on_near = disk().await.firmware_state_in(near.dir.path());
    assert_eq!(kept(&on_near), "later");
    far.begin().await;
    assert_eq!(kept(&on_far), "lost", "it stays beside the file of the disk");

    // A machine that is made of the disk has it too; with the disk it goes.
    keep(&on_near, "last");
    server.delete(VM).await.unwrap();
    assert!(!on_near.exists());
    let attach = json!({"createOption": "Attach", "osType": "Linux", "managedDisk": link(server, "disks/os1")});
    let again = site.create(|b| {
        b["properties"]["storageProfile"] = json!({"osDisk": attach});
        b["properties"].as_object_mut().unwrap().remove("osProfile");
        b["properties"]["securityProfile"] = trusted(true);
    });
    again.await.unwrap();
    let there = [&far, &near].map(|m| m.dir.path().to_owned());
    let disk = disk().await;
    let states: Vec<PathBuf> = there.iter().map(|d| disk.firmware_state_in(d)).filter(|p| p.exists()).collect();
    assert_eq!(states.iter().map(|p| kept(p)).collect::<Vec<_>>(), ["last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_machines_is_done_on_workers_too() {
    let fleet = Fleet::start().await;
    let (site, server) = (&fleet.site, fleet.server());
    let far = fleet.member("far", 16384).await;
    let diagnosed = |b: &mut Value| {
        b["properties"]["diagnosticsProfile"] = json!({"bootDiagnostics": {"enabled": true}});
    };
    site.create(diagnosed).await.unwrap();
    let id = site.vm_id().await;
    assert!(far.fake.is_running(id));

    let script = json!({"commandId": "RunShellScript", "script": ["echo there"]});
    let ran = server.action(VM, "runCommand", script).await.unwrap().output.unwrap().to_string();
    assert!(ran.contains("Enable succeeded"), "{ran}");
    let settings = json!({"commandToExecute": "true"});
    let extended = server.put(EXTENSION, extension(&settings, &Value::Null)).await.unwrap();
    assert_eq!(extended["properties"]["provisioningState"], "Succeeded");
    let machine = server.id(VM);
    let retrieve = server.engine.action(&server.call, &machine, "retrieveBootDiagnosticsData", Value::Null);
    assert!(retrieve.await.is_ok());
    let log = server.dir.path().join("diagnostics").join(id.to_string()).join("serialconsole.log");
    assert!(std::fs::read_to_string(log).unwrap().contains("fake guest: booting"));

    // Captures: of the running machine, and of the generalized one, which is off and not deallocated.
    write_to(&far.overlays()[0], &WRITES);
    site.specialized().await;
    let source = json!({"source": {"virtualMachineId": server.id(VM).to_string()}});
    let version = json!({"location": "eastus", "properties": {"storageProfile": source}});
    server.put("galleries/g/images/s/versions/2.0.0", version).await.unwrap();
    site.power("powerOff").await.unwrap();
    site.generalize().await.unwrap();
    let image = json!({"location": "eastus", "properties": {"sourceVirtualMachine": link(server, VM), "hyperVGeneration": "V2"}});
    server.put("images/captured", image).await.unwrap();
    for captured in ["galleries/g/images/s/versions/2.0.0", "images/captured"] {
        let disk = server.internal(captured).await["osDisk"]["manifest"].clone();
        assert!(server.stored("eastus", disk.as_str().unwrap()).await == expected(), "{captured}");
    }

    let set = server.put(SET, site.model(2)).await.unwrap();
    assert_eq!(set["properties"]["provisioningState"], "Succeeded");
    assert_eq!(server.engine.workers().await.unwrap()[0].machines.len(), 3);
    server.action(SET, "deallocate", json!({})).await.unwrap();
    server.action(SET, "start", json!({})).await.unwrap();
    server.delete(SET).await.unwrap();
    server.delete(VM).await.unwrap();
    assert_eq!(server.engine.workers().await.unwrap()[0].machines, Vec::<String>::new());
}

/// What a firmware or TPM would have written.
fn keep(state: &Path, text: &str) {
    std::fs::create_dir_all(state.join("tpm")).unwrap();
    std::fs::write(state.join("tpm/tpm2-00.permall"), text).unwrap();
}

fn kept(state: &Path) -> String {
    std::fs::read_to_string(state.join("tpm/tpm2-00.permall")).unwrap()
}
