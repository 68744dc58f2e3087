//! Gives the host process the bytes of images: `vmm`'s door on base images, filled from the content store.
//!
//! The host runs in a process of its own and only ever reads; a source is written `REGION/MANIFEST`. What it reads of
//! object stores it keeps on its disk, and it fetches ahead what the first machine of an image read when it started.

use crate::region_stores::RegionStores;
use async_trait::async_trait;
use lazuli_chunks::{Cache, FrameCache, ManifestId, Region, RegionConfig, TracedReader, Traces};
use lazuli_nbd::{BlockSource, Extent};
use lazuli_vmm::host::BaseImages;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Name of a stored image for the host.
pub fn source(region: &str, manifest: &str) -> String {
    format!("{region}/{manifest}")
}

/// Opens images of the regions, read-only.
pub struct StoredImages {
    stores: RegionStores,
    cache: Cache,
    /// For regions whose stores are far away.
    kept: Option<Kept>,
    /// The server's indexes are on another computer.
    follows: bool,
    regions: Mutex<HashMap<String, Region>>,
}

/// What is kept on this machine's disk.
struct Kept {
    frames: FrameCache,
    traces: Traces,
}

impl StoredImages {
    /// `cache_bytes` bounds the memory for decompressed chunks.
    pub fn new(stores: RegionStores, cache_bytes: u64) -> Self {
        Self { stores, cache: Cache::new(cache_bytes), kept: None, follows: false, regions: Mutex::new(HashMap::new()) }
    }

    /// Keeps what is read of object stores below `dir`, up to `bytes`, and traces of the starts of images.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn keeping(self, dir: &Path, bytes: u64) -> io::Result<Self> {
        let kept =
            Kept { frames: FrameCache::open(&dir.join("frames"), bytes)?, traces: Traces::open(&dir.join("traces"))? };
        Ok(Self { kept: Some(kept), ..self })
    }

    /// On a computer that has the regions' stores in common with the server, but not its folder.
    pub fn following(self) -> Self {
        Self { follows: true, ..self }
    }

    fn kept(&self, region: &str) -> Option<&Kept> {
        self.kept.as_ref().filter(|_| self.stores.is_remote(region))
    }

    async fn region(&self, name: &str) -> anyhow_like::Result<Region> {
        let mut regions = self.regions.lock().await;
        if let Some(region) = regions.get(name) {
            return Ok(region.clone());
        }
        let config = self.stores.config(name, self.cache.clone())?;
        let frames = self.kept(name).map(|kept| kept.frames.clone());
        let config = RegionConfig { frames, ..config };
        let region = match self.follows {
            // What lies in this computer's own folder is no region's store.
            true if !self.stores.is_configured(name) => {
                return Err(format!("region {name} has no zones in this worker's configuration").into());
            }
            true => Region::follow(config).await?,
            false => Region::open_read_only(config).await?,
        };
        regions.insert(name.to_owned(), region.clone());
        Ok(region)
    }
}

mod anyhow_like {
    pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
}

#[async_trait]
impl BaseImages for StoredImages {
    async fn open(&self, source: &str) -> anyhow_like::Result<Arc<dyn BlockSource>> {
        let (region, manifest) = source.split_once('/').ok_or_else(|| format!("'{source}' is no REGION/MANIFEST"))?;
        let manifest: ManifestId = manifest.parse()?;
        let reader = self.region(region).await?.reader(manifest).await?;
        let traced = match self.kept(region) {
            Some(kept) => kept.traces.follow(reader),
            None => reader.into(),
        };
        Ok(Arc::new(StoredImage(traced)))
    }
}

struct StoredImage(TracedReader);

#[async_trait]
impl BlockSource for StoredImage {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf).await.map_err(io::Error::other)
    }

    async fn extents(&self, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        let extents = self.0.extents(offset, len).await.map_err(io::Error::other)?;
        Ok(extents.into_iter().map(|e| Extent { len: e.len, hole: e.hole }).collect())
    }
}
