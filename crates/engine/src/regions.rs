//! The content stores of all regions, opened when first needed.
//!
//! One process (`lazuli serve`) writes them. Whoever brings bytes in holds a [`ContentGuard`] until the content reference is
//! committed: garbage collection waits for all of them, so that bytes between "ingested" and "referenced" are never swept.

use lazuli_chunks::{Cache, ChunkError, Region, RegionConfig};
use object_store::local::LocalFileSystem;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Bytes of decompressed chunks kept in memory, over all regions of a process.
const CACHE_BYTES: u64 = 64 << 20;

/// Every region's store.
pub struct Regions {
    root: PathBuf,
    cache: Cache,
    open: Mutex<HashMap<String, Entry>>,
}

#[derive(Clone)]
struct Entry {
    region: Region,
    sweep: Arc<RwLock<()>>,
}

/// Keeps garbage collection away from a region.
pub struct ContentGuard {
    pub region: Region,
    _guard: OwnedRwLockReadGuard<()>,
}

impl Regions {
    pub fn new(root: PathBuf) -> Self {
        Self { root, cache: Cache::new(CACHE_BYTES), open: Mutex::new(HashMap::new()) }
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
        Ok(ContentGuard { region: entry.region, _guard: entry.sweep.read_owned().await })
    }

    /// The store of a region while nobody brings bytes in.
    pub(crate) async fn exclusive(&self, name: &str) -> Result<(Region, OwnedRwLockWriteGuard<()>), ChunkError> {
        let entry = self.entry(name).await?;
        Ok((entry.region, entry.sweep.write_owned().await))
    }

    /// Names of the regions that hold anything.
    ///
    /// # Errors
    /// If the folder of the regions cannot be read.
    pub fn known(&self) -> std::io::Result<Vec<String>> {
        known(&self.root)
    }

    async fn entry(&self, name: &str) -> Result<Entry, ChunkError> {
        let mut open = self.open.lock().await;
        if let Some(entry) = open.get(name) {
            return Ok(entry.clone());
        }
        let region = Region::open(local_config(&self.root, name, self.cache.clone())?).await?;
        let entry = Entry { region, sweep: Arc::new(RwLock::new(())) };
        open.insert(name.to_owned(), entry.clone());
        Ok(entry)
    }
}

fn known(root: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    match std::fs::read_dir(root) {
        Ok(entries) => {
            for entry in entries {
                if let Ok(name) = entry?.file_name().into_string() {
                    names.push(name);
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    names.sort();
    Ok(names)
}

/// A region in local folders: `ROOT/NAME/store` (objects) and `ROOT/NAME/index`.
///
/// # Errors
/// If the folders cannot be made.
pub fn local_config(root: &Path, name: &str, cache: Cache) -> Result<RegionConfig, ChunkError> {
    let folder = root.join(name);
    let (store_dir, index_dir) = (folder.join("store"), folder.join("index"));
    for dir in [&store_dir, &index_dir] {
        std::fs::create_dir_all(dir).map_err(|e| ChunkError::Io { path: dir.clone(), source: e })?;
    }
    let store = LocalFileSystem::new_with_prefix(&store_dir)?.with_fsync(true);
    Ok(RegionConfig { name: name.to_owned(), stores: vec![Arc::new(store)], index_dir, cache })
}
