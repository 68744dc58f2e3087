//! The product: resource providers, long-running operations, reconcilers.
//!
//! `api` calls [`Engine`]; here the pieces (metadata, content store, virtual machines) meet. The engine knows resources and
//! rules, never HTTP. A write is decided by a provider (pure as far as it can be) and committed by `write.rs` as one
//! transaction: the row, its operation, its audit record.

mod activity_log;
mod authorization;
pub mod base_images;
pub mod blobs;
mod boot_diagnostics;
mod build_record;
pub mod call;
mod capture;
mod claims;
mod content;
mod deployments;
pub mod directory;
mod extension_images;
mod fleet;
pub mod grant;
mod hidden_rows;
mod identity;
mod image_builder;
mod image_files;
mod on_behalf;
mod open_stores;
pub mod operation;
mod operations;
mod platform_images;
pub mod provider;
mod providers;
mod read;
mod reconcilers;
mod references;
mod region_stores;
pub mod regions;
mod resource_graph;
mod routes;
mod secrets;
mod security_rules;
mod serial_console;
mod shared_galleries;
mod sizes;
mod sources;
pub mod storage;
mod storage_account;
pub mod stored;
#[cfg(test)]
mod tests;
mod usage;
mod vm_applications;
mod write;

pub use fleet::{WorkError, WorkerSettings, WorkerView};
pub use identity::{
    Bootstrap, ClientProof, CodeRequest, DEVICE_CODE_LIFE_SECONDS, DeviceCode, DeviceError, ExternalAnswer,
    ExternalError, ExternalSignIn, FederationError, GrantError, Home, IdentityProvider, InteractiveClient, IssuerError,
    KeyRotation, KeyView, MachineIdentityError, NewClient, NewUser, OfferedProvider, OperatorError,
    POLL_INTERVAL_SECONDS, PUBLISHED_BEFORE, ProviderError, Resumed, Session, SignInError, SignedIn, TokenIssuer,
    generate_secret,
};
pub use image_builder::ImageBuilderConfig;
pub use lazuli_authz::assertion::AssertionError;
pub use lazuli_authz::federated::FederatedError;
pub use lazuli_meta::model::{Principal, Subscription, Tenant};
pub use lazuli_meta::{ChainAnchor, ChainReport};
pub use lazuli_vmm::host::{GuestStream, listen};
pub use lazuli_vmm::provisioning::tokens::TokenAsk;
pub use open_stores::{OpenStores, Store};
pub use references::Referenced;
pub use region_stores::{Boundary, Dedup, RegionSettings, RegionStores, region_name};
pub use routes::Route;
pub use secrets::OpenError;
pub use storage_account::{AccountKey, NetworkRules, StorageAccount};

use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_meta::Db;
use lazuli_vmm::HostClient;
use lazuli_vmm::net::Bridges;
use operation::Operation;
use provider::Provider;
use regions::Regions;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Where the engine keeps what, and what it may use.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Folder of everything that is local: regions, uploads, disks, the host's folder.
    pub data_dir: PathBuf,
    /// `sqlite:PATH` or `postgres://…`.
    pub database: String,
    /// Accept what Azure refuses but its printed samples need (mission.md T4: end-of-life dates in the past).
    pub lenient: bool,
    /// How long a generalized guest may take until it reports that it is provisioned.
    pub provisioning_time: Duration,
    /// How long an operation on a machine waits for a host process that does not answer.
    pub host_time: Duration,
    /// How long after a machine was provisioned its guest's agent may take until it answers; guests report that they are
    /// provisioned long before all of their services run.
    pub agent_time: Duration,
    /// The largest disk that an image version may have, in GiB (mission.md T6). Versions that are replicated `Shallow` may have
    /// disks of 32 TiB.
    pub max_image_disk_gib: u64,
    /// Issuers of federated tokens that may be asked for their keys over plain http.
    pub http_issuers: Vec<String>,
    /// Other OpenID providers at which people sign in.
    pub identity_providers: Vec<IdentityProvider>,
    /// Life of an access token; keys verify as long as the tokens that they signed live.
    pub token_lifetime: Duration,
    /// How long lines of the activity log are kept. `None`: for ever.
    pub activity_log_age: Option<Duration>,
    /// Whether lines of the activity log are linked, so that later changes show. `None`: if they are already.
    pub activity_log_chain: Option<bool>,
    /// How long a key signs tokens until another one follows it by itself. `None`: until the operator says so.
    pub signing_key_age: Option<Duration>,
    /// The stores of regions (canonical short names) that are not one folder below `data_dir`.
    pub regions: BTreeMap<String, RegionSettings>,
    pub image_builder: ImageBuilderConfig,
    /// How much memory machines may have on this computer where its region has workers; `None`: all that it has.
    pub own_memory_mib: Option<u64>,
    /// The virtual networks that are on LANs: their interfaces have MAC addresses that no other device may have, and their machines
    /// run on hosts with a way to the LAN.
    pub bridges: Bridges,
    /// How long a worker is believed to be there after it was heard of.
    pub worker_lease: Duration,
    /// How long a worker has not been heard of when its machines may be given up.
    pub worker_grace: Duration,
}

impl EngineConfig {
    /// Files of workers while they are read.
    pub(crate) fn fetched_dir(&self) -> PathBuf {
        self.data_dir.join("fetched")
    }

    /// Everything below one folder, SQLite.
    pub fn local(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            database: format!("sqlite:{}", data_dir.join("lazuli.db").display()),
            lenient: false,
            // Azure gives a guest 20 minutes (40 for Windows).
            provisioning_time: Duration::from_secs(20 * 60),
            host_time: Duration::from_secs(60),
            agent_time: Duration::from_secs(180),
            max_image_disk_gib: 2048,
            http_issuers: vec![],
            identity_providers: vec![],
            token_lifetime: Duration::from_secs(24 * 3600 - 1),
            // As long as Azure keeps them.
            activity_log_age: Some(Duration::from_secs(90 * 24 * 3600)),
            activity_log_chain: None,
            signing_key_age: Some(Duration::from_secs(90 * 24 * 3600)),
            regions: BTreeMap::new(),
            image_builder: ImageBuilderConfig::default(),
            own_memory_mib: None,
            bridges: Bridges::default(),
            worker_lease: Duration::from_secs(30),
            worker_grace: Duration::from_secs(120),
        }
    }
}

/// The whole product behind its HTTP edge. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    config: EngineConfig,
    db: Db,
    regions: Arc<Regions>,
    blobs: blobs::Blobs,
    storage: storage::Storage,
    secrets: secrets::Secrets,
    host: HostClient,
    providers: HashMap<String, Arc<dyn Provider>>,
    operations: HashMap<&'static str, Arc<dyn Operation>>,
    access: Arc<authorization::access::KeptAccess>,
    issuers: identity::Issuers,
    signing_keys: identity::SigningKeys,
    /// Counts writes to network resources.
    network_changes: tokio::sync::watch::Sender<u64>,
    /// Held while a machine is given a host.
    placing: tokio::sync::Mutex<()>,
}

impl Engine {
    /// Opens the database and knows every provider; nothing runs until [`Engine::run`].
    ///
    /// # Errors
    /// What the database says; a key of its secrets that is not there or another one.
    pub async fn open(config: EngineConfig) -> Result<Self, OpenError> {
        let db = Db::open(&config.database).await?;
        let secrets = secrets::Secrets::open(&config.data_dir, &db).await?;
        let links = match config.activity_log_chain {
            Some(links) => links,
            None => db.has_audit_chains().await?,
        };
        let db = db.with_audit_chain(secrets.audit_chain(), links);
        secrets.seal_old(&db).await?;
        let stores = RegionStores::new(config.data_dir.join("regions"), config.regions.clone());
        let access = Arc::new(authorization::access::KeptAccess::new(db.clone()));
        let regions = Arc::new(Regions::new(stores, access.clone()));
        let blobs = blobs::Blobs::with_access(db.clone(), regions.clone(), access.clone());
        let storage = storage::Storage::new(db.clone(), regions.clone(), config.data_dir.join("staging"));
        let host = HostClient::new(config.data_dir.join("host").join("host.sock"));
        let providers = providers::all().into_iter().map(|p| (p.resource_type().to_ascii_lowercase(), p)).collect();
        let operations = operations::all().into_iter().map(|o| (o.kind(), o)).collect();
        let issuers = identity::Issuers::new(config.http_issuers.clone());
        Ok(Self(Arc::new(Inner {
            config,
            db,
            regions,
            blobs,
            storage,
            secrets,
            host,
            providers,
            operations,
            access,
            issuers,
            signing_keys: identity::SigningKeys::default(),
            network_changes: tokio::sync::watch::Sender::new(0),
            placing: tokio::sync::Mutex::default(),
        })))
    }

    /// Lets [`Engine::run`] go on at once with what a server left behind that was killed, without waiting for its leases.
    /// Only for one that knows that no other server uses this database.
    ///
    /// # Errors
    /// What the database says.
    pub async fn take_over(&self) -> Result<u64, lazuli_meta::MetaError> {
        self.db().release_all().await
    }

    /// Runs operations and reconcilers until `shutdown` fires.
    pub async fn run(&self, shutdown: CancellationToken) {
        // Left by a server that was killed.
        let _ = tokio::fs::remove_dir_all(self.config().fetched_dir()).await;
        tokio::join!(
            operation::run_worker(self.clone(), shutdown.clone()),
            reconcilers::activity_log::run(self.clone(), shutdown.clone()),
            reconcilers::garbage::run(self.clone(), shutdown.clone()),
            reconcilers::grants::run(self.clone(), shutdown.clone()),
            reconcilers::image_triggers::run(self.clone(), shutdown.clone()),
            reconcilers::network::run(self.clone(), shutdown.clone()),
            reconcilers::operations::run(self.clone(), shutdown.clone()),
            reconcilers::signing_keys::run(self.clone(), shutdown.clone()),
            reconcilers::soft_deleted::run(self.clone(), shutdown.clone()),
            storage::run(self.clone(), shutdown),
        );
    }

    pub(crate) fn network_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.network_changes.subscribe()
    }

    /// Wakes who waits for writes to resources of this kind (lower case).
    pub(crate) fn written(&self, kind: &str) {
        if kind.starts_with("microsoft.network/") {
            self.0.network_changes.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    pub(crate) fn issuers(&self) -> &identity::Issuers {
        &self.0.issuers
    }

    pub(crate) fn kept_signing_keys(&self) -> &identity::SigningKeys {
        &self.0.signing_keys
    }

    pub fn config(&self) -> &EngineConfig {
        &self.0.config
    }

    /// Every manifest that some resource refers to, by those of `stores`, all that the region has, in which it is kept.
    ///
    /// # Errors
    /// What the database says.
    pub async fn referenced(&self, region: &str, stores: &[Store]) -> Result<Referenced, ArmError> {
        references::referenced(self, region, stores).await
    }

    /// Frees what nothing in a region refers to any more: what became of each of its stores, by their names.
    ///
    /// # Errors
    /// What the database says, or a store that cannot be opened.
    pub async fn sweep(&self, region: &str) -> Result<content::Swept, ArmError> {
        content::sweep_region(self, region).await
    }

    pub(crate) fn db(&self) -> &Db {
        &self.0.db
    }

    pub fn regions(&self) -> &Regions {
        &self.0.regions
    }

    /// The data plane of managed disks.
    pub fn blobs(&self) -> &blobs::Blobs {
        &self.0.blobs
    }

    pub(crate) fn secrets(&self) -> &secrets::Secrets {
        &self.0.secrets
    }

    /// The blob service of storage accounts.
    pub fn storage(&self) -> &storage::Storage {
        &self.0.storage
    }

    pub(crate) fn placing(&self) -> &tokio::sync::Mutex<()> {
        &self.0.placing
    }

    /// The host process of this computer. That of a machine: [`Engine::home_of`].
    pub(crate) fn host(&self) -> &HostClient {
        &self.0.host
    }

    pub(crate) fn operation_code(&self, kind: &str) -> Option<Arc<dyn Operation>> {
        self.0.operations.get(kind).cloned()
    }

    pub(crate) fn provider(&self, resource_type: &ResourceType) -> Result<&Arc<dyn Provider>, ArmError> {
        if let Some(provider) = self.0.providers.get(&resource_type.key()) {
            return Ok(provider);
        }
        let namespace = &resource_type.namespace;
        let prefix = format!("{}/", namespace.to_ascii_lowercase());
        if self.0.providers.keys().any(|k| k.starts_with(&prefix)) {
            let types = resource_type.types.join("/");
            if let Some((_, why)) = NOT_OFFERED.iter().find(|(kind, _)| *kind == resource_type.key()) {
                return Err(ArmError::bad_request(
                    "OperationNotSupported",
                    format!("Resources of type '{namespace}/{types}' are not supported: {why}."),
                ));
            }
            return Err(ArmError::new(
                404,
                "InvalidResourceType",
                format!("The resource type '{types}' could not be found in the namespace '{namespace}'."),
            ));
        }
        Err(ArmError::new(
            404,
            "InvalidResourceNamespace",
            format!("The resource namespace '{namespace}' is invalid or not offered by this server."),
        ))
    }

    pub(crate) fn provider_of(&self, id: &ResourceId) -> Result<&Arc<dyn Provider>, ArmError> {
        self.provider(&id.resource_type())
    }

    /// Providers of a namespace (any letter case), in the order of their types.
    pub(crate) fn providers_of(&self, namespace: &str) -> Vec<&Arc<dyn Provider>> {
        let prefix = format!("{}/", namespace.to_ascii_lowercase());
        let mut found: Vec<_> =
            self.0.providers.values().filter(|p| p.resource_type().to_ascii_lowercase().starts_with(&prefix)).collect();
        found.sort_by_key(|p| p.resource_type());
        found
    }

    /// Provider of a stored row.
    pub(crate) fn provider_of_kind(&self, kind: &str) -> Option<&Arc<dyn Provider>> {
        self.0.providers.get(kind)
    }

    /// Namespaces and their types, sorted.
    pub fn providers(&self) -> Vec<call::ProviderInfo> {
        let mut by_namespace: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
        for provider in self.0.providers.values() {
            if let Some((namespace, types)) = provider.resource_type().split_once('/') {
                by_namespace.entry(namespace).or_default().push(types.to_owned());
            }
        }
        let info = |(namespace, mut types): (&str, Vec<String>)| {
            types.sort();
            call::ProviderInfo { namespace: namespace.to_owned(), types }
        };
        by_namespace.into_iter().map(info).collect()
    }
}

/// Types of Azure that this server does not have, and what to do instead.
const NOT_OFFERED: [(&str, &str); 2] = [
    (
        "microsoft.network/loadbalancers",
        "there are no load balancers here; scale sets are made without one (az vmss create --load-balancer \"\")",
    ),
    (
        "microsoft.compute/virtualmachines/runcommands",
        "managed run commands are not kept here; `az vm run-command invoke` runs a script",
    ),
];

/// Opaque, new with every write.
pub(crate) fn new_etag() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// `2026-03-01T12:00:00.123+00:00`, as Azure writes times.
pub(crate) fn time_text(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

/// What every database failure looks like to a client; the cause goes to the log.
pub(crate) fn db_error(error: lazuli_meta::MetaError) -> ArmError {
    if error.is_transient() {
        return ArmError::new(
            503,
            "ServiceUnavailable",
            "The metadata store cannot be reached. Please retry the request.",
        )
        .caused_by(error);
    }
    ArmError::internal(error)
}
