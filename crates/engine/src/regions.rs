//! The content stores of all regions, opened when first needed.
//!
//! One process (`lazuli serve`) writes them. Whoever brings bytes in holds a [`ContentGuard`] until the content reference is
//! committed: garbage collection keeps whatever came in since the oldest guard was taken, so that bytes between "ingested" and
//! "referenced" are never swept, and nobody waits for anybody.

use crate::blobs::OpenRegion;
use crate::region_stores::RegionStores;
use async_trait::async_trait;
use lazuli_chunks::{Cache, ChunkError, GcEpoch, Region};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use tokio::sync::Mutex;

/// Bytes of decompressed chunks kept in memory, over all regions of a process.
const CACHE_BYTES: u64 = 64 << 20;

/// Every region's store.
pub struct Regions {
    stores: RegionStores,
    cache: Cache,
    open: Mutex<HashMap<String, Entry>>,
}

#[derive(Clone)]
struct Entry {
    region: Region,
    guards: Guards,
}

/// The guards that are held, by their number, with the moment each was taken.
#[derive(Clone, Default)]
struct Guards(Arc<std::sync::Mutex<BTreeMap<u64, GcEpoch>>>);

impl Guards {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, GcEpoch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, region: &Region) -> u64 {
        let mut held = self.lock();
        let number = held.last_key_value().map_or(0, |(n, _)| n + 1);
        held.insert(number, region.gc_epoch());
        number
    }

    /// What came in since then may not be referenced yet.
    fn oldest(&self, region: &Region) -> GcEpoch {
        self.lock().first_key_value().map_or_else(|| region.gc_epoch(), |(_, epoch)| *epoch)
    }
}

/// Keeps what comes into a region from the sweep until it is dropped.
pub struct ContentGuard {
    pub region: Region,
    guards: Guards,
    number: u64,
}

impl Drop for ContentGuard {
    fn drop(&mut self) {
        self.guards.lock().remove(&self.number);
    }
}

impl Regions {
    pub fn new(stores: RegionStores) -> Self {
        Self { stores, cache: Cache::new(CACHE_BYTES), open: Mutex::new(HashMap::new()) }
    }

    /// Where the bytes lie.
    pub fn stores(&self) -> &RegionStores {
        &self.stores
    }

    /// The store of a region (canonical short name), for reading.
    ///
    /// # Errors
    /// What opening the store says.
    pub async fn get(&self, name: &str) -> Result<Region, ChunkError> {
        Ok(self.entry(name).await?.region)
    }

    /// The store of a region, for bringing bytes in.
    ///
    /// # Errors
    /// As [`Regions::get`].
    pub async fn guard(&self, name: &str) -> Result<ContentGuard, ChunkError> {
        let entry = self.entry(name).await?;
        let number = entry.guards.take(&entry.region);
        Ok(ContentGuard { region: entry.region, guards: entry.guards, number })
    }

    /// The store of a region for a sweep, and the moment since which everything must be kept. Ask which manifests are
    /// referenced only after this has returned.
    pub(crate) async fn before_sweep(&self, name: &str) -> Result<(Region, GcEpoch), ChunkError> {
        let entry = self.entry(name).await?;
        let epoch = entry.guards.oldest(&entry.region);
        Ok((entry.region, epoch))
    }

    /// In how many independent places a region keeps what it stores: a store each for its zones. A write is answered only
    /// when all of them have it.
    pub fn independent_copies(&self, region: &str) -> i64 {
        i64::try_from(self.stores.zones(region)).unwrap_or(i64::MAX)
    }

    /// Names of the regions that hold anything.
    ///
    /// # Errors
    /// If the folder of the regions cannot be read.
    pub fn known(&self) -> std::io::Result<Vec<String>> {
        self.stores.known()
    }

    async fn entry(&self, name: &str) -> Result<Entry, ChunkError> {
        let mut open = self.open.lock().await;
        if let Some(entry) = open.get(name) {
            return Ok(entry.clone());
        }
        let region = Region::open(self.stores.config(name, self.cache.clone())?).await?;
        self.stores.limit(&region);
        let entry = Entry { region, guards: Guards::default() };
        open.insert(name.to_owned(), entry.clone());
        Ok(entry)
    }
}

#[async_trait]
impl OpenRegion for Regions {
    async fn open_region(&self, name: &str) -> Result<Region, ChunkError> {
        self.get(name).await
    }
}
