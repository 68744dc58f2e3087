//! Gives the host process the bytes of images: `vmm`'s door on base images, filled from the content store.
//!
//! The host runs in a process of its own and only ever reads; a source is written `REGION/MANIFEST`.

use crate::region_stores::RegionStores;
use async_trait::async_trait;
use lazuli_chunks::{Cache, DiskReader, ManifestId, Region};
use lazuli_nbd::{BlockSource, Extent};
use lazuli_vmm::host::BaseImages;
use std::collections::HashMap;
use std::io;
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
    regions: Mutex<HashMap<String, Region>>,
}

impl StoredImages {
    /// `cache_bytes` bounds the memory for decompressed chunks.
    pub fn new(stores: RegionStores, cache_bytes: u64) -> Self {
        Self { stores, cache: Cache::new(cache_bytes), regions: Mutex::new(HashMap::new()) }
    }

    async fn region(&self, name: &str) -> anyhow_like::Result<Region> {
        let mut regions = self.regions.lock().await;
        if let Some(region) = regions.get(name) {
            return Ok(region.clone());
        }
        let region = Region::open_read_only(self.stores.config(name, self.cache.clone())?).await?;
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
        Ok(Arc::new(StoredImage(reader)))
    }
}

struct StoredImage(DiskReader);

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
