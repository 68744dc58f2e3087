//! A served engine with grants that are put into its database directly.

use lazuli_api::{DiskPlane, Running, ServeConfig, serve};
use lazuli_chunks::{Progress, Region};
use lazuli_disks::RawFile;
use lazuli_engine::blobs::Blobs;
use lazuli_engine::grant::GrantDetail;
use lazuli_engine::{Boundary, Engine, EngineConfig};
use lazuli_meta::Db;
use lazuli_meta::model::{Change, Grant, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub const CONTAINER: &str = "c0ntainer";

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
        let settings = EngineConfig::local(dir);
        let db = Db::open(&settings.database).await.unwrap();
        let engine = Engine::open(settings).await.unwrap();
        let region = engine.regions().get("eastus", Boundary::Region).await.unwrap();
        let blobs = engine.blobs().clone();
        let mut config = ServeConfig::new(dir, Arc::new(engine));
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
        let size = std::fs::metadata(raw).unwrap().len();
        let ingested = self.region.ingest(source, &Progress::new(), &CancellationToken::new()).await.unwrap();
        let detail = GrantDetail::Manifest {
            region: "eastus".into(),
            manifest: ingested.manifest.to_string(),
            size,
            footer_unique_id: "6f1f0000-0000-4000-8000-000000000001".parse().unwrap(),
        };
        let query = self.grant(account, "Read", detail).await;
        self.url(account, &query)
    }
}
