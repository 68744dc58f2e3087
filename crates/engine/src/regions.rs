//! The content stores of all regions, opened when first needed.
//!
//! One process (`lazuli serve`) writes them. Whoever brings bytes in holds a [`ContentGuard`] until the content reference is
//! committed: garbage collection keeps whatever came in since the oldest guard was taken, so that bytes between "ingested" and
//! "referenced" are never swept, and nobody waits for anybody.
//!
//! A resource's bytes come into the store of its tenant, where tenants are kept apart ([`Regions::boundary`]); what it refers to may
//! lie in another's ([`Regions::find`]).

use crate::authorization::access::{Access, KeptAccess, subscription_of};
use crate::blobs::{BlobError, OpenDisk};
use crate::db_error;
use crate::open_stores::{OpenStores, Store};
use crate::region_stores::{Boundary, Dedup, RegionStores};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_chunks::{Cache, ChunkError, DiskReader, GcEpoch, ManifestId, Region};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

/// Bytes of decompressed chunks kept in memory, over all regions of a process.
const CACHE_BYTES: u64 = 64 << 20;

/// Every region's stores.
pub struct Regions {
    open: OpenStores,
    /// Whose subscription is whose.
    access: Arc<KeptAccess>,
    guards: std::sync::Mutex<HashMap<(String, Boundary), Guards>>,
    /// Who sweeps a region.
    sweeps: std::sync::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
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

/// Keeps what comes into a store from the sweep until it is dropped.
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

/// A region's stores before a sweep, each with the moment since which everything must be kept. Another sweep of the region waits
/// until it is dropped: what one store may let go of depends on what the others have.
pub(crate) struct Sweep {
    pub stores: Vec<Store>,
    pub epochs: Vec<GcEpoch>,
    _alone: OwnedMutexGuard<()>,
}

impl Regions {
    pub(crate) fn new(stores: RegionStores, access: Arc<KeptAccess>) -> Self {
        let open = OpenStores::for_writing(stores, Cache::new(CACHE_BYTES));
        Self { open, access, guards: Default::default(), sweeps: Default::default() }
    }

    /// Where the bytes lie.
    pub fn stores(&self) -> &RegionStores {
        self.open.stores()
    }

    /// Who shares the store that the bytes of a resource (its key) come into in a region (canonical short name).
    ///
    /// # Errors
    /// What the database says; 500 for a resource of no known subscription.
    pub(crate) async fn boundary(&self, name: &str, owner: &str) -> Result<Boundary, ArmError> {
        self.owners(name).await?.boundary(owner)
    }

    /// The same for many resources.
    pub(crate) async fn owners(&self, name: &str) -> Result<Owners, ArmError> {
        match self.stores().dedup(name) {
            Dedup::Region => Ok(Owners(None)),
            Dedup::Tenant => Ok(Owners(Some(self.access.now().await.map_err(db_error)?))),
        }
    }

    /// A store of a region.
    ///
    /// # Errors
    /// As [`OpenStores::get`].
    pub async fn get(&self, name: &str, boundary: Boundary) -> Result<Region, ChunkError> {
        self.open.get(name, boundary).await
    }

    /// The store of a region that has a disk, for reading it.
    ///
    /// # Errors
    /// As [`OpenStores::find`].
    pub async fn find(&self, name: &str, first: Boundary, disk: ManifestId) -> Result<Region, ChunkError> {
        self.open.find(name, first, disk).await
    }

    /// Every store of a region.
    ///
    /// # Errors
    /// As [`OpenStores::all`].
    pub async fn all(&self, name: &str) -> Result<Vec<Store>, ChunkError> {
        self.open.all(name).await
    }

    /// A store of a region, for bringing bytes in.
    ///
    /// # Errors
    /// As [`Regions::get`].
    pub async fn guard(&self, name: &str, boundary: Boundary) -> Result<ContentGuard, ChunkError> {
        let region = self.get(name, boundary).await?;
        let guards = self.guards(name, boundary);
        let number = guards.take(&region);
        Ok(ContentGuard { region, guards, number })
    }

    fn guards(&self, name: &str, boundary: Boundary) -> Guards {
        let mut all = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((name.to_owned(), boundary)).or_default().clone()
    }

    /// The stores of a region for a sweep. Ask which manifests are referenced only after this has returned.
    pub(crate) async fn before_sweep(&self, name: &str) -> Result<Sweep, ChunkError> {
        let turn = {
            let mut all = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(name.to_owned()).or_default())
        };
        let _alone = turn.lock_owned().await;
        let stores = self.all(name).await?;
        let epochs = stores.iter().map(|s| self.guards(name, s.boundary).oldest(&s.region)).collect();
        Ok(Sweep { stores, epochs, _alone })
    }

    /// In how many independent places a region keeps what it stores: a store each for its zones. A write is answered only
    /// when all of them have it.
    pub fn independent_copies(&self, region: &str) -> i64 {
        i64::try_from(self.stores().zones(region)).unwrap_or(i64::MAX)
    }

    /// Names of the regions that hold anything.
    ///
    /// # Errors
    /// If the folder of the regions cannot be read.
    pub fn known(&self) -> std::io::Result<Vec<String>> {
        self.stores().known()
    }
}

/// Whose resources are whose, as far as a region asks.
pub(crate) struct Owners(Option<Arc<Access>>);

impl Owners {
    /// Who shares the store that a resource's bytes come into.
    pub fn boundary(&self, owner: &str) -> Result<Boundary, ArmError> {
        let Some(access) = &self.0 else { return Ok(Boundary::Region) };
        let tenant = subscription_of(owner).and_then(|s| access.subscription(s)).map(|s| s.tenant.as_str());
        let tenant = tenant.and_then(|id| Uuid::parse_str(id).ok());
        let unknown =
            || ArmError::internal(format!("the tenant of {owner} is not known, and so not where its bytes belong"));
        tenant.map(Boundary::Tenant).ok_or_else(unknown)
    }
}

#[async_trait]
impl OpenDisk for Regions {
    async fn open_disk(&self, region: &str, owner: &str, disk: ManifestId) -> Result<DiskReader, BlobError> {
        let boundary = self.boundary(region, owner).await.map_err(BlobError::internal)?;
        let store = self.find(region, boundary, disk).await.map_err(BlobError::of_chunks)?;
        store.reader(disk).await.map_err(BlobError::of_chunks)
    }
}
