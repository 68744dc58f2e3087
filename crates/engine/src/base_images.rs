//! Gives the host process the bytes of images: `vmm`'s door on base images, filled from the content store.
//!
//! The host runs in a process of its own and only ever reads; what it reads of object stores it keeps on its disk, and it fetches
//! ahead what the first machine of an image read when it started: here, or where a build of the image was optimized.
//!
//! ```text
//! a source:   REGION[/TENANT]/MANIFEST[+TRACE]
//!                    │                 └─ manifest of the trace that came with the image; a hint, which may be gone
//!                    └─ where tenants are kept apart: whose machine it is, in whose store it is looked for first
//! ```

use crate::open_stores::OpenStores;
use crate::region_stores::{Boundary, RegionStores};
use async_trait::async_trait;
use lazuli_chunks::{Cache, ChunkError, DiskReader, FrameCache, ManifestId, TracedReader, Traces};
use lazuli_nbd::{BlockSource, Extent};
use lazuli_vmm::host::{BaseImageError, BaseImages};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// No trace is larger.
const MAX_TRACE: u64 = 1 << 20;

/// Name of a stored image for the host; `boundary` is that of the disk which is based on it.
pub fn source(region: &str, boundary: Boundary, manifest: &str) -> String {
    format!("{}/{manifest}", boundary.store_name(region))
}

/// The same with the manifest of a trace.
pub fn traced_source(region: &str, boundary: Boundary, manifest: &str, trace: Option<&str>) -> String {
    let image = source(region, boundary, manifest);
    match trace {
        Some(trace) => format!("{image}+{trace}"),
        None => image,
    }
}

/// A source, read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    region: String,
    first: Boundary,
    disk: ManifestId,
    trace: Option<ManifestId>,
}

impl Place {
    fn parse(source: &str) -> Option<Self> {
        let (store, image) = source.rsplit_once('/')?;
        let (region, first) = match store.split_once('/') {
            Some((region, tenant)) => (region.to_owned(), Boundary::Tenant(tenant.parse().ok()?)),
            None => (store.to_owned(), Boundary::Region),
        };
        let (disk, trace) = match image.split_once('+') {
            Some((disk, trace)) => (disk, Some(trace.parse().ok()?)),
            None => (image, None),
        };
        Some(Self { region, first, disk: disk.parse().ok()?, trace })
    }

    fn of(source: &str) -> Result<Self, BaseImageError> {
        Self::parse(source).ok_or_else(|| format!("'{source}' is no REGION/MANIFEST").into())
    }
}

/// Opens images of the regions, read-only.
pub struct StoredImages(Arc<Shared>);

struct Shared {
    open: OpenStores,
    /// Where starts are recorded.
    kept: Option<PathBuf>,
    /// The folders of traces that were opened.
    traces: Mutex<HashMap<PathBuf, Traces>>,
}

impl StoredImages {
    /// `cache_bytes` bounds the memory for decompressed chunks.
    pub fn new(stores: RegionStores, cache_bytes: u64) -> Self {
        Self::of(OpenStores::for_reading(stores, Cache::new(cache_bytes)))
    }

    /// Of stores that are opened for reading.
    pub fn of(open: OpenStores) -> Self {
        Self(Arc::new(Shared { open, kept: None, traces: Mutex::default() }))
    }

    /// As [`StoredImages::of`]; keeps traces of the starts of images below `dir`, and up to `bytes` of what is read of object stores.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn keeping(open: OpenStores, dir: &Path, bytes: u64) -> io::Result<Self> {
        let open = match bytes {
            0 => open,
            bytes => open.keeping(FrameCache::open(&dir.join("frames"), bytes)?),
        };
        Ok(Self(Arc::new(Shared { open, kept: Some(dir.to_owned()), traces: Mutex::default() })))
    }
}

impl Shared {
    async fn untraced(&self, place: &Place, manifest: ManifestId) -> Result<DiskReader, ChunkError> {
        self.open.find(&place.region, place.first, manifest).await?.reader(manifest).await
    }

    /// A store that is near is read without fetching ahead: what a start read there is kept for images that go elsewhere.
    async fn reader(&self, place: &Place) -> Result<TracedReader, ChunkError> {
        let reader = self.untraced(place, place.disk).await?;
        let Some(traces) = self.traces(place.first) else { return Ok(reader.into()) };
        if !self.open.stores().is_remote(&place.region) {
            return Ok(traces.record(reader));
        }
        if let Some(trace) = place.trace.filter(|_| !traces.knows(place.disk)) {
            match self.brought(place, trace).await {
                Ok(bytes) => {
                    if let Err(error) = traces.take_over(place.disk, &bytes) {
                        tracing::warn!(disk = %place.disk, %error, "the trace that came with an image cannot be kept");
                    }
                }
                Err(error) => {
                    tracing::info!(disk = %place.disk, %error, "the trace that came with an image is not there")
                }
            }
        }
        Ok(traces.follow(reader))
    }

    /// The trace that came with an image.
    async fn brought(&self, place: &Place, trace: ManifestId) -> Result<Vec<u8>, ChunkError> {
        let reader = self.untraced(place, trace).await?;
        let mut bytes = vec![0; usize::try_from(reader.size().min(MAX_TRACE)).unwrap_or_default()];
        reader.read_at(0, &mut bytes).await?;
        Ok(bytes)
    }

    /// How an image starts is each tenant's own knowledge, where tenants are kept apart. A hint: without it a start takes longer.
    fn traces(&self, boundary: Boundary) -> Option<Traces> {
        let dir = self.kept.as_ref()?;
        let dir = match boundary {
            Boundary::Region => dir.join("traces"),
            Boundary::Tenant(id) => dir.join("tenants").join(id.to_string()).join("traces"),
        };
        let mut opened = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(traces) = opened.get(&dir) {
            return Some(traces.clone());
        }
        match Traces::open(&dir) {
            Ok(traces) => Some(opened.entry(dir).or_insert(traces).clone()),
            Err(error) => {
                tracing::warn!(%error, "the traces of starts cannot be kept");
                None
            }
        }
    }
}

#[async_trait]
impl BaseImages for StoredImages {
    async fn open(&self, source: &str) -> Result<Arc<dyn BlockSource>, BaseImageError> {
        let place = Place::of(source)?;
        let reader = self.0.reader(&place).await?;
        Ok(Arc::new(StoredImage { images: Arc::clone(&self.0), place, reader: RwLock::new(reader) }))
    }

    fn boot_trace(&self, source: &str) -> Option<Vec<u8>> {
        let place = Place::parse(source)?;
        self.0.traces(place.first)?.of(place.disk)
    }
}

/// An image as long as a machine is defined. Meanwhile the store that it was found in may let go of it, because the machine's own
/// tenant has it by now: then it is read from there.
struct StoredImage {
    images: Arc<Shared>,
    place: Place,
    reader: RwLock<TracedReader>,
}

impl StoredImage {
    fn reader(&self) -> TracedReader {
        self.reader.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The reader to go on with after `error`.
    async fn after(&self, error: ChunkError) -> io::Result<TracedReader> {
        let place = &self.place;
        if place.first == Boundary::Region || !matches!(error, ChunkError::NotFound { .. }) {
            return Err(io::Error::other(error));
        }
        tracing::info!(region = place.region, disk = %place.disk, %error, "an image is looked for again");
        let found = self.images.reader(place).await.map_err(io::Error::other)?;
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
    fn a_source_names_where_to_look_first_and_what_came_along() {
        let (disk, trace) = ("ab".repeat(32), "cd".repeat(32));
        for first in [Boundary::Region, Boundary::Tenant(Uuid::from_u128(7))] {
            let place = |trace: Option<&str>| Place {
                region: "eastus".to_owned(),
                first,
                disk: disk.parse().unwrap(),
                trace: trace.map(|t| t.parse().unwrap()),
            };
            assert_eq!(Place::parse(&source("eastus", first, &disk)), Some(place(None)));
            for trace in [None, Some(trace.as_str())] {
                let text = traced_source("eastus", first, &disk, trace);
                assert_eq!(Place::parse(&text), Some(place(trace)), "{text}");
            }
        }
        let bad = ["", "eastus", "eastus/1", "eastus/no-tenant/", &format!("eastus/x/{disk}"), &disk];
        for text in bad.into_iter().chain([format!("eastus/{disk}+").as_str(), &format!("eastus/{disk}+x")]) {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }
}
