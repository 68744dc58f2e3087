//! Gives the host process the bytes of images: `vmm`'s door on base images, filled from the content store.
//!
//! The host runs in a process of its own and only ever reads; a source is written `REGION/MANIFEST`, where tenants are kept apart
//! `REGION/TENANT/MANIFEST`: the tenant whose machine it is, in whose store it is looked for first. What it reads of
//! object stores it keeps on its disk, and it fetches ahead what the first machine of an image read when it started.

use crate::open_stores::OpenStores;
use crate::region_stores::{Boundary, RegionStores};
use async_trait::async_trait;
use lazuli_chunks::{Cache, ChunkError, FrameCache, ManifestId, TracedReader, Traces};
use lazuli_nbd::{BlockSource, Extent};
use lazuli_vmm::host::BaseImages;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Name of a stored image for the host; `boundary` is that of the disk which is based on it.
pub fn source(region: &str, boundary: Boundary, manifest: &str) -> String {
    format!("{}/{manifest}", boundary.store_name(region))
}

fn parse(source: &str) -> Option<(&str, Boundary, ManifestId)> {
    let (store, manifest) = source.rsplit_once('/')?;
    let (region, boundary) = match store.split_once('/') {
        Some((region, tenant)) => (region, Boundary::Tenant(tenant.parse().ok()?)),
        None => (store, Boundary::Region),
    };
    Some((region, boundary, manifest.parse().ok()?))
}

/// Opens images of the regions, read-only.
pub struct StoredImages(Arc<Shared>);

struct Shared {
    open: OpenStores,
    /// Where starts are recorded of images whose stores are far away.
    traces: Option<PathBuf>,
}

impl StoredImages {
    /// `cache_bytes` bounds the memory for decompressed chunks.
    pub fn new(stores: RegionStores, cache_bytes: u64) -> Self {
        Self::of(OpenStores::for_reading(stores, Cache::new(cache_bytes)))
    }

    /// Of stores that are opened for reading.
    pub fn of(open: OpenStores) -> Self {
        Self(Arc::new(Shared { open, traces: None }))
    }

    /// As [`StoredImages::of`]; keeps what is read of object stores below `dir`, up to `bytes`, and traces of the starts of images.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn keeping(open: OpenStores, dir: &Path, bytes: u64) -> io::Result<Self> {
        let open = open.keeping(FrameCache::open(&dir.join("frames"), bytes)?);
        Ok(Self(Arc::new(Shared { open, traces: Some(dir.to_owned()) })))
    }
}

impl Shared {
    async fn reader(&self, region: &str, first: Boundary, disk: ManifestId) -> Result<TracedReader, ChunkError> {
        let reader = self.open.find(region, first, disk).await?.reader(disk).await?;
        let traces = self.traces.as_ref().filter(|_| self.open.stores().is_remote(region));
        // A hint: without it a start takes longer.
        let traces = traces.and_then(|dir| match Traces::open(&traces_of(dir, first)) {
            Ok(traces) => Some(traces),
            Err(error) => {
                tracing::warn!(%error, "the traces of starts cannot be kept");
                None
            }
        });
        Ok(match traces {
            Some(traces) => traces.follow(reader),
            None => reader.into(),
        })
    }
}

/// How an image starts is each tenant's own knowledge, where tenants are kept apart.
fn traces_of(dir: &Path, boundary: Boundary) -> PathBuf {
    match boundary {
        Boundary::Region => dir.join("traces"),
        Boundary::Tenant(id) => dir.join("tenants").join(id.to_string()).join("traces"),
    }
}

#[async_trait]
impl BaseImages for StoredImages {
    async fn open(&self, source: &str) -> Result<Arc<dyn BlockSource>, Box<dyn std::error::Error + Send + Sync>> {
        let (region, first, disk) = parse(source).ok_or_else(|| format!("'{source}' is no REGION/MANIFEST"))?;
        let reader = self.0.reader(region, first, disk).await?;
        let images = Arc::clone(&self.0);
        Ok(Arc::new(StoredImage { images, region: region.to_owned(), first, disk, reader: RwLock::new(reader) }))
    }
}

/// An image as long as a machine is defined. Meanwhile the store that it was found in may let go of it, because the machine's own
/// tenant has it by now: then it is read from there.
struct StoredImage {
    images: Arc<Shared>,
    region: String,
    first: Boundary,
    disk: ManifestId,
    reader: RwLock<TracedReader>,
}

impl StoredImage {
    fn reader(&self) -> TracedReader {
        self.reader.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The reader to go on with after `error`.
    async fn after(&self, error: ChunkError) -> io::Result<TracedReader> {
        if self.first == Boundary::Region || !matches!(error, ChunkError::NotFound { .. }) {
            return Err(io::Error::other(error));
        }
        tracing::info!(region = self.region, disk = %self.disk, %error, "an image is looked for again");
        let found = self.images.reader(&self.region, self.first, self.disk).await.map_err(io::Error::other)?;
        *self.reader.write().unwrap_or_else(PoisonError::into_inner) = found.clone();
        Ok(found)
    }
}

#[async_trait]
impl BlockSource for StoredImage {
    fn size(&self) -> u64 {
        self.reader().size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.reader().read_at(offset, buf).await {
            Ok(()) => Ok(()),
            Err(error) => self.after(error).await?.read_at(offset, buf).await.map_err(io::Error::other),
        }
    }

    async fn extents(&self, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        let extents = match self.reader().extents(offset, len).await {
            Ok(extents) => extents,
            Err(error) => self.after(error).await?.extents(offset, len).await.map_err(io::Error::other)?,
        };
        Ok(extents.into_iter().map(|e| Extent { len: e.len, hole: e.hole }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_source_names_where_to_look_first() {
        let disk = "ab".repeat(32);
        for boundary in [Boundary::Region, Boundary::Tenant(Uuid::from_u128(7))] {
            let text = source("eastus", boundary, &disk);
            assert_eq!(parse(&text), Some(("eastus", boundary, disk.parse().unwrap())), "{text}");
        }
        for text in ["", "eastus", "eastus/1", "eastus/no-tenant/", &format!("eastus/x/{disk}"), &disk] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
