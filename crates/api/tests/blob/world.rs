//! A served data plane over a real database, a real content store, and TLS; no management plane.

use async_trait::async_trait;
use lazuli_api::backend::{SignInError, Subscription, Tenant};
use lazuli_api::{ArmBackend, DiskPlane, Running, ServeConfig, serve};
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_chunks::{Cache, ChunkError, Progress, Region, RegionConfig};
use lazuli_disks::RawFile;
use lazuli_engine::blobs::{Blobs, GrantDetail, OpenRegion};
use lazuli_engine::call::{ActionReply, Call, Caller, Deleted, Listing, OperationView, ProviderInfo, Written};
use lazuli_meta::Db;
use lazuli_meta::model::{Change, Grant, Write};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub const CONTAINER: &str = "c0ntainer";

struct NoArm;

fn absent() -> ArmError {
    ArmError::new(404, "NotFound", "no management plane here")
}

#[async_trait]
impl ArmBackend for NoArm {
    async fn put(&self, _: &Call, _: &ResourceId, _: Value) -> Result<Written, ArmError> {
        Err(absent())
    }
    async fn patch(&self, _: &Call, _: &ResourceId, _: Value) -> Result<Written, ArmError> {
        Err(absent())
    }
    async fn delete(&self, _: &Call, _: &ResourceId) -> Result<Deleted, ArmError> {
        Err(absent())
    }
    async fn get(&self, _: &Call, _: &ResourceId) -> Result<Value, ArmError> {
        Err(absent())
    }
    async fn list(&self, _: &Call, _: &ResourceId, _: &ResourceType) -> Result<Listing, ArmError> {
        Err(absent())
    }
    async fn action(&self, _: &Call, _: &ResourceId, _: &str, _: Value) -> Result<ActionReply, ArmError> {
        Err(absent())
    }
    async fn operation(&self, _: &Call, _: &str, _: &str) -> Result<OperationView, ArmError> {
        Err(absent())
    }
    fn providers(&self) -> Vec<ProviderInfo> {
        Vec::new()
    }
    async fn tenants(&self, _: &Caller) -> Result<Vec<Tenant>, ArmError> {
        Err(absent())
    }
    async fn subscriptions(&self, _: &Caller) -> Result<Vec<Subscription>, ArmError> {
        Err(absent())
    }
    async fn has_tenant(&self, _: &str) -> Result<bool, ArmError> {
        Ok(false)
    }
    async fn sign_in_client(&self, _: &str, _: &str, _: &str) -> Result<Caller, SignInError> {
        Err(SignInError::UnknownTenant)
    }
    async fn caller(&self, _: &str, _: &str) -> Result<Option<Caller>, ArmError> {
        Ok(None)
    }
}

struct OneRegion(Region);

#[async_trait]
impl OpenRegion for OneRegion {
    async fn open_region(&self, _: &str) -> Result<Region, ChunkError> {
        Ok(self.0.clone())
    }
}

pub struct World {
    pub dir: PathBuf,
    pub db: Db,
    pub blobs: Blobs,
    pub region: Region,
    pub running: Running,
}

impl World {
    pub async fn start(dir: &Path) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let db = Db::open(&format!("sqlite:{}", dir.join("meta.db").display())).await.unwrap();
        let config = RegionConfig::local("eastus", &dir.join("eastus"), Cache::new(32 << 20)).unwrap();
        let region = Region::open(config).await.unwrap();
        let blobs = Blobs::new(db.clone(), Arc::new(OneRegion(region.clone())));
        let mut config = ServeConfig::new(dir, Arc::new(NoArm));
        config.blobs = Some(Arc::new(DiskPlane::new(blobs.clone())));
        config.proxy_listen = Some(([127, 0, 0, 1], 0).into());
        let running = serve(config, CancellationToken::new()).await.unwrap();
        Self { dir: dir.to_owned(), db, blobs, region, running }
    }

    pub fn staging(&self, account: &str) -> PathBuf {
        self.dir.join("uploads").join(format!("{account}.vhd"))
    }

    /// The query of a signed URL for a new grant.
    pub async fn grant(&self, account: &str, access: &str, detail: GrantDetail) -> String {
        let id = format!("00000000-0000-0000-0000-{account:0>12}");
        let grant = Grant {
            id: id.clone(),
            resource_key: "/subscriptions/s/disk".into(),
            access: access.into(),
            account: account.into(),
            container: CONTAINER.into(),
            secret: "a+secret/of=".into(),
            expires_ms: i64::MAX,
            detail: serde_json::to_value(detail).unwrap(),
        };
        let write = Write { fence: None, changes: vec![Change::PutGrant(grant)] };
        self.db.write(write).await.unwrap();
        format!("sv=2018-03-28&sr=b&si={id}&sig=a%2Bsecret%2Fof%3D")
    }

    pub async fn upload(&self, account: &str, size: u64) -> String {
        let path = self.staging(account);
        let query = self.grant(account, "Write", GrantDetail::Upload { path, size }).await;
        self.url(account, &query)
    }

    pub fn url(&self, account: &str, query: &str) -> String {
        format!("{}/{account}/{CONTAINER}/abcd?{query}", self.running.base_url)
    }

    /// Takes a raw disk into the store and grants reading it.
    pub async fn stored(&self, account: &str, raw: &Path) -> String {
        let source = Arc::new(RawFile::open(raw).unwrap());
        let size_bytes = std::fs::metadata(raw).unwrap().len();
        let ingested = self.region.ingest(source, &Progress::new(), &CancellationToken::new()).await.unwrap();
        let detail = GrantDetail::Stored {
            region: "eastus".into(),
            manifest: Some(ingested.manifest.to_string()),
            size_bytes,
            unique_id: "6f1f0000-0000-4000-8000-000000000001".into(),
        };
        let query = self.grant(account, "Read", detail).await;
        self.url(account, &query)
    }
}
