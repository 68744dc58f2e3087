//! The stores of regions that this process has open: each once, from when it was first needed.
//!
//! Where tenants are kept apart, a disk may lie in another tenant's store than that of the resource which refers to it: a version
//! of a gallery that is shared, a platform image. A disk is named by its content, so whichever store has it has the right one.

use crate::region_stores::{Boundary, Dedup, RegionStores};
use lazuli_chunks::{Cache, ChunkError, FrameCache, ManifestId, RateLimit, Region, RegionConfig};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::Mutex;

/// One store of a region.
#[derive(Clone)]
pub struct Store {
    pub boundary: Boundary,
    pub region: Region,
}

/// How they are opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    Read,
    /// As [`Access::Read`], without the index of the process that writes.
    Follow,
}

/// All of them, for reading or for writing too.
pub struct OpenStores {
    stores: RegionStores,
    cache: Cache,
    /// Where frames are kept that were read of stores far away.
    frames: Option<FrameCache>,
    access: Access,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    stores: BTreeMap<(String, Boundary), Region>,
    /// Of the regions of which a store is open: how fast replications into all of them together may be.
    limits: HashMap<String, Vec<(String, RateLimit)>>,
}

impl OpenStores {
    /// To be read, in any number of processes.
    pub fn for_reading(stores: RegionStores, cache: Cache) -> Self {
        Self::new(stores, cache, Access::Read)
    }

    /// To be read on a computer that has the zones in common with the process that writes, but not its folder.
    pub fn for_following(stores: RegionStores, cache: Cache) -> Self {
        Self::new(stores, cache, Access::Follow)
    }

    /// To be written, by one process.
    pub fn for_writing(stores: RegionStores, cache: Cache) -> Self {
        Self::new(stores, cache, Access::Write)
    }

    fn new(stores: RegionStores, cache: Cache, access: Access) -> Self {
        Self { stores, cache, frames: None, access, open: Mutex::default() }
    }

    /// Keeps what is read of stores far away.
    pub(crate) fn keeping(self, frames: FrameCache) -> Self {
        Self { frames: Some(frames), ..self }
    }

    /// Where they lie.
    pub fn stores(&self) -> &RegionStores {
        &self.stores
    }

    /// A store of a region (canonical short name). For writing, it is made if it is not there.
    ///
    /// # Errors
    /// What opening it says; [`ChunkError::Incompatible`] if the region has data of another kind than it is configured for.
    pub async fn get(&self, name: &str, boundary: Boundary) -> Result<Region, ChunkError> {
        let mut open = self.open.lock().await;
        if let Some(region) = open.stores.get(&(name.to_owned(), boundary)) {
            return Ok(region.clone());
        }
        if self.access == Access::Follow && !self.stores.is_configured(name) {
            // What lies in this computer's own folder is no region's store.
            let detail = "it has no zones in this worker's configuration".to_owned();
            return Err(ChunkError::Incompatible { region: name.to_owned(), detail });
        }
        self.begin(&mut open, name).await?;
        let config = self.stores.config(name, boundary, self.cache.clone())?;
        let config = RegionConfig { frames: self.frames(name, boundary), ..config };
        let region = match self.access {
            Access::Write => Region::open(config).await?,
            Access::Read => Region::open_read_only(config).await?,
            Access::Follow => Region::follow(config).await?,
        };
        for (from, limit) in open.limits.get(name).into_iter().flatten() {
            region.limit_replication_from(from, limit.clone());
        }
        open.stores.insert((name.to_owned(), boundary), region.clone());
        Ok(region)
    }

    /// Looks at a region of which no store was open yet.
    async fn begin(&self, open: &mut Open, name: &str) -> Result<(), ChunkError> {
        if !open.limits.contains_key(name) {
            self.stores.check_dedup(name).await?;
            open.limits.insert(name.to_owned(), self.stores.limits(name));
        }
        Ok(())
    }

    /// Every store that a region has.
    ///
    /// # Errors
    /// As [`OpenStores::get`]; if the region's zones do not answer.
    pub async fn all(&self, name: &str) -> Result<Vec<Store>, ChunkError> {
        self.begin(&mut *self.open.lock().await, name).await?;
        let mut all = Vec::new();
        for boundary in self.stores.boundaries(name).await? {
            all.push(Store { boundary, region: self.get(name, boundary).await? });
        }
        Ok(all)
    }

    /// The store that has a disk: `first` if it does, else any other of the region.
    ///
    /// # Errors
    /// [`ChunkError::NotFound`] if none has it; what opening one says that might.
    pub async fn find(&self, name: &str, first: Boundary, disk: ManifestId) -> Result<Region, ChunkError> {
        if self.stores.dedup(name) == Dedup::Region {
            return self.get(name, Boundary::Region).await;
        }
        // Those that are open can be asked without asking the zones which there are.
        let mut known = self.opened(name).await;
        if !known.contains(&first) {
            known = self.stores.boundaries(name).await?;
        }
        let found = match self.find_in(name, first, known.iter().copied(), disk).await {
            Ok(Some(region)) => return Ok(region),
            other => other,
        };
        let all = self.stores.boundaries(name).await?;
        let further = self.find_in(name, first, all.difference(&known).copied(), disk).await?;
        let missing = || ChunkError::NotFound { what: format!("image {disk}"), region: name.to_owned() };
        match further {
            Some(region) => Ok(region),
            None => found?.ok_or_else(missing),
        }
    }

    async fn find_in(
        &self,
        name: &str,
        first: Boundary,
        among: impl Iterator<Item = Boundary>,
        disk: ManifestId,
    ) -> Result<Option<Region>, ChunkError> {
        let mut among: Vec<Boundary> = among.collect();
        among.sort_by_key(|boundary| *boundary != first);
        let mut failed = None;
        for boundary in among {
            match self.holds(name, boundary, disk).await {
                Ok(Some(region)) => return Ok(Some(region)),
                Ok(None) => {}
                // Another one may have it.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    async fn holds(&self, name: &str, boundary: Boundary, disk: ManifestId) -> Result<Option<Region>, ChunkError> {
        let region = self.get(name, boundary).await?;
        region.refresh().await?;
        Ok(region.holds(disk).then_some(region))
    }

    async fn opened(&self, name: &str) -> BTreeSet<Boundary> {
        let open = self.open.lock().await;
        open.stores.keys().filter(|(region, _)| region == name).map(|(_, boundary)| *boundary).collect()
    }

    fn frames(&self, name: &str, boundary: Boundary) -> Option<FrameCache> {
        let frames = self.frames.as_ref().filter(|_| self.stores.is_remote(name))?;
        Some(match boundary {
            Boundary::Region => frames.clone(),
            Boundary::Tenant(id) => frames.apart(&id.to_string()),
        })
    }
}
