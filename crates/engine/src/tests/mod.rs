//! The engine as a whole, over real SQLite and real stores in a folder of its own; only the data plane is played by writing
//! the staging file.

mod activity;
mod applications;
mod authorization;
mod boot_diagnostics;
mod capture;
mod containers;
mod data_disks;
mod deployments;
mod directory;
mod disks;
mod extensions;
mod fleet;
mod galleries;
mod grants;
mod groups;
mod hostile;
mod image_templates;
mod images;
mod lists;
mod machine_identities;
mod machine_updates;
mod machines;
mod networks;
mod platform;
mod scale_sets;
mod sharing;
mod site;
mod snapshots;
mod soft_deletion;
mod storage;
mod storage_accounts;
mod tenant_deployments;
mod tenants_apart;
mod trusted_launch;
mod usage;
mod version_disks;
mod version_writers;
mod versions;
mod vm_applications;

use crate::call::{ActionReply, Call, Caller, Deleted, OperationView, Urls};
use crate::grant::GrantDetail;
use crate::{Bootstrap, Engine, EngineConfig};
use lazuli_arm::{ApiVersion, ArmError, ResourceId, ResourceType};
use lazuli_chunks::{DiskReader, ManifestId};
use lazuli_disks::vhd::Footer;
use lazuli_meta::model::OperationState;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub(super) const MIB: u64 = 1 << 20;
/// The smallest disk that Azure lets one upload.
pub(super) const SMALLEST: u64 = 20 * MIB;

pub(super) struct Server {
    pub engine: Engine,
    pub call: Call,
    pub group: ResourceId,
    pub dir: TempDir,
    /// Stops the worker when it is dropped.
    stop: DropGuard,
    worker: Option<JoinHandle<()>>,
}

impl Server {
    /// A group `rg1` in East US and a worker that runs.
    pub async fn start() -> Self {
        let mut server = Self::start_without_worker().await;
        server.run();
        server
    }

    pub async fn start_without_worker() -> Self {
        Self::configured(|_| {}).await
    }

    /// Without a worker, with another configuration.
    pub async fn configured(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EngineConfig::local(dir.path());
        // The agent of a fake guest is there at once, or never.
        config.agent_time = Duration::ZERO;
        change(&mut config);
        let engine = Engine::open(config).await.unwrap();
        let owner = Bootstrap::generate().unwrap();
        engine.bootstrap(&owner).await.unwrap();
        let call = Call {
            caller: Caller {
                tenant: owner.tenant_id,
                principal: owner.object_id,
                app_id: owner.client_id,
                display_name: "owner".into(),
                ..Caller::default()
            },
            urls: Urls { arm: "https://127.0.0.1:1".into(), blob_suffix: None },
            api_version: ApiVersion::parse(Some("2024-03-03")).unwrap(),
            correlation_id: Uuid::new_v4().to_string(),
            query: BTreeMap::new(),
            if_match: None,
            if_none_match: None,
        };
        let group = ResourceId::group(&owner.subscription_id, "rg1");
        let stop = CancellationToken::new().drop_guard();
        let server = Self { engine, call, group, dir, stop, worker: None };
        server.engine.put(&server.call, &server.group, json!({"location": "eastus"})).await.unwrap();
        server
    }

    pub fn run(&mut self) {
        let (engine, stop) = (self.engine.clone(), CancellationToken::new());
        self.stop = stop.clone().drop_guard();
        self.worker = Some(tokio::spawn(async move { engine.run(stop).await }));
    }

    /// Ends this process's part and begins anew on the same folder.
    pub async fn restart(self) -> Self {
        let mut server = self.idle().await;
        server.run();
        server
    }

    /// Ends this process's part and opens the folder again; nobody works on anything.
    pub async fn idle(self) -> Self {
        let Self { engine, call, group, dir, stop, worker } = self;
        drop(stop);
        if let Some(worker) = worker {
            worker.await.unwrap();
        }
        engine.db().close().await;
        let config = engine.config().clone();
        drop(engine);
        let engine = Engine::open(config).await.unwrap();
        Self { engine, call, group, dir, stop: CancellationToken::new().drop_guard(), worker: None }
    }

    /// `galleries/g/images/i` or `virtualNetworks/v` below the group.
    pub fn id(&self, tail: &str) -> ResourceId {
        const NETWORK: [&str; 4] =
            ["virtualNetworks", "networkInterfaces", "publicIPAddresses", "networkSecurityGroups"];
        let namespace = if NETWORK.iter().any(|t| tail.starts_with(t)) { "Network" } else { "Compute" };
        format!("{}/providers/Microsoft.{namespace}/{tail}", self.group).parse().unwrap()
    }

    pub async fn put(&self, tail: &str, body: Value) -> Result<Value, ArmError> {
        let written = self.engine.put(&self.call, &self.id(tail), body).await?;
        self.end(written.operation.as_deref().unwrap()).await?;
        self.get(tail).await
    }

    pub async fn get(&self, tail: &str) -> Result<Value, ArmError> {
        self.engine.get(&self.call, &self.id(tail)).await
    }

    pub async fn delete(&self, tail: &str) -> Result<(), ArmError> {
        match self.engine.delete(&self.call, &self.id(tail)).await? {
            Deleted::Absent => Ok(()),
            Deleted::Done { operation } | Deleted::Started { operation } => self.end(&operation).await.map(drop),
        }
    }

    pub async fn action(&self, tail: &str, action: &str, body: Value) -> Result<OperationView, ArmError> {
        match self.engine.action(&self.call, &self.id(tail), action, body).await? {
            ActionReply::Started { operation } => self.end(&operation).await,
            ActionReply::Done(_) => panic!("an operation was expected"),
        }
    }

    /// Waits for an operation; its failure as an error.
    pub async fn end(&self, operation: &str) -> Result<OperationView, ArmError> {
        self.end_in(&self.call, &self.group.subscription, operation).await
    }

    /// The same, of an operation in another subscription, or above them.
    pub async fn end_in(&self, call: &Call, subscription: &str, operation: &str) -> Result<OperationView, ArmError> {
        let waited = self.engine.db().wait_operation(operation, Duration::from_secs(120)).await.unwrap().unwrap();
        assert_ne!(waited.state, OperationState::Running, "operation {} did not end: {}", waited.kind, waited.phase);
        let view = self.engine.operation(call, subscription, operation).await?;
        match &view.error {
            Some(e) => {
                let text = |name: &str| e[name].as_str().unwrap_or_default().to_owned();
                Err(ArmError::new(400, text("code"), text("message")))
            }
            None => Ok(view),
        }
    }

    pub async fn list(&self, parent: &str, collection: &str) -> Vec<String> {
        let parent = if parent.is_empty() { self.group.clone() } else { self.id(parent) };
        let (namespace, types) = collection.split_once('/').unwrap();
        let collection =
            ResourceType { namespace: namespace.into(), types: types.split('/').map(str::to_owned).collect() };
        let page = self.engine.list(&self.call, &parent, &collection).await.unwrap();
        page.items.iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect()
    }

    /// A disk with these bytes, uploaded in East US.
    pub async fn uploaded(&self, name: &str, data: &[u8]) -> Value {
        self.begin_upload(name, data.len() as u64).await;
        self.write_vhd(name, data, true).await;
        let tail = format!("disks/{name}");
        self.action(&tail, "endGetAccess", json!({})).await.unwrap();
        self.get(&tail).await.unwrap()
    }

    /// A disk that waits for so many bytes, with a SAS to write them.
    pub async fn begin_upload(&self, name: &str, size: u64) {
        let body = json!({"location": "eastus", "properties": {"osType": "Linux", "hyperVGeneration": "V2",
            "creationData": {"createOption": "Upload", "uploadSizeBytes": size + 512}}});
        let tail = format!("disks/{name}");
        self.put(&tail, body).await.unwrap();
        let granted = self.begin_access(&tail, "Write").await.unwrap();
        assert!(granted.output.unwrap()["accessSAS"].as_str().unwrap().starts_with("https://127.0.0.1:1/md-impexp-"));
    }

    pub async fn begin_access(&self, tail: &str, access: &str) -> Result<OperationView, ArmError> {
        self.action(tail, "beginGetAccess", json!({"access": access, "durationInSeconds": 3600})).await
    }

    /// What the data plane would do with Put Page.
    pub async fn write_vhd(&self, name: &str, data: &[u8], good: bool) {
        self.fill(name, "Write", data, good).await;
    }

    /// The same for the second blob of a trusted launch disk.
    pub async fn write_guest_state(&self, name: &str, data: &[u8]) {
        self.fill(name, "WriteGuestState", data, true).await;
    }

    async fn fill(&self, name: &str, access: &str, data: &[u8], good: bool) {
        let grants = self.engine.db().grants_of(&self.id(&format!("disks/{name}")).key()).await.unwrap();
        let grant = grants.iter().find(|g| g.access == access).unwrap();
        let GrantDetail::Upload { path, size } = GrantDetail::of(grant).unwrap() else {
            panic!("an upload was expected");
        };
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(data, 0).unwrap();
        let footer = Footer::fixed(data.len() as u64, Uuid::new_v4(), 1_700_000_000).to_bytes();
        file.write_all_at(if good { &footer } else { &[0; 512] }, data.len() as u64).unwrap();
    }

    /// Gallery `g` with definition `i` for generation 2 Linux images.
    pub async fn gallery(&self) {
        self.put("galleries/g", json!({"location": "eastus"})).await.unwrap();
        self.put("galleries/g/images/i", definition("sku1")).await.unwrap();
    }

    async fn reader(&self, region: &str, manifest: &str) -> DiskReader {
        let (regions, manifest) = (self.engine.regions(), manifest.parse::<ManifestId>().unwrap());
        let boundary = regions.boundary(region, &self.group.key()).await.unwrap();
        regions.find(region, boundary, manifest).await.unwrap().reader(manifest).await.unwrap()
    }

    /// The bytes behind a row's `internal` manifest in a region.
    pub async fn stored(&self, region: &str, manifest: &str) -> Vec<u8> {
        let reader = self.reader(region, manifest).await;
        let mut bytes = vec![0; usize::try_from(reader.size()).unwrap()];
        reader.read_at(0, &mut bytes).await.unwrap();
        bytes
    }

    /// A stored disk of `size` bytes that begins with `data` and has nothing but holes behind it.
    pub async fn check_grown(&self, region: &str, manifest: &str, data: &[u8], size: u64) {
        let reader = self.reader(region, manifest).await;
        assert_eq!(reader.size(), size);
        let mut head = vec![1; data.len()];
        reader.read_at(0, &mut head).await.unwrap();
        assert!(head == data, "the beginning is the disk's");
        let rest = reader.extents(data.len() as u64, size - data.len() as u64).await.unwrap();
        assert!(rest.iter().all(|e| e.hole), "what was added reads as zeros");
    }

    pub async fn internal(&self, tail: &str) -> Value {
        self.engine.db().resource(&self.id(tail).key()).await.unwrap().unwrap().internal
    }

    /// In all stores of a region.
    pub async fn stored_bytes(&self, region: &str) -> u64 {
        let mut bytes = 0;
        for store in self.engine.regions().all(region).await.unwrap() {
            bytes += store.region.usage().await.unwrap().stored_bytes;
        }
        bytes
    }
}

pub(super) fn definition(sku: &str) -> Value {
    json!({"location": "eastus", "properties": {"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
        "identifier": {"publisher": "p", "offer": "o", "sku": sku}}})
}

/// Bytes that do not compress, at the front of a disk of the smallest size.
pub(super) fn disk_bytes(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SMALLEST).unwrap()];
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for word in bytes[..usize::try_from(2 * MIB).unwrap()].chunks_exact_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        word.copy_from_slice(&x.to_le_bytes());
    }
    bytes
}

/// Makes a region unusable: a file lies where its folder should be. Returns how to end that.
pub(super) fn block_region(dir: &Path, region: &str) -> impl FnOnce() {
    let place = dir.join("regions").join(region);
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::File::create(&place).unwrap().write_all(b"in the way").unwrap();
    move || std::fs::remove_file(place).unwrap()
}
