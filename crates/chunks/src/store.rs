//! The object stores of one region, one a zone: every zone holds every object, any of them may be read.
//! The only place that speaks `object_store`.

use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use crate::error::{ChunkError, Result, store_error_is_permanent};
use crate::pack;

const PUT_ATTEMPTS: u32 = 4;

/// A store in a local folder, durable when a write returns. Removes what a killed writer left behind
/// half-written (files that no reader ever saw) once that is an hour old.
pub fn local_store(dir: &FsPath) -> std::io::Result<Arc<dyn ObjectStore>> {
    std::fs::create_dir_all(dir)?;
    sweep_staging(&dir.join(pack::PREFIX));
    let store = LocalFileSystem::new_with_prefix(dir).map_err(std::io::Error::other)?;
    Ok(Arc::new(store.with_fsync(true)))
}

/// `LocalFileSystem` writes `NAME#N` and links it to NAME when whole.
fn sweep_staging(packs: &FsPath) {
    let hour_ago = SystemTime::now() - Duration::from_hours(1);
    let folders = std::fs::read_dir(packs).into_iter().flatten().flatten();
    let files = folders.flat_map(|d| std::fs::read_dir(d.path()).into_iter().flatten().flatten());
    for file in files {
        let staged = file.file_name().to_string_lossy().contains('#');
        let old = || file.metadata().and_then(|m| m.modified()).is_ok_and(|t| t < hour_ago);
        if staged && old() {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

#[derive(Clone)]
pub(crate) struct Zones {
    region: String,
    stores: Vec<Arc<dyn ObjectStore>>,
}

impl Zones {
    pub(crate) fn new(region: &str, stores: Vec<Arc<dyn ObjectStore>>) -> Self {
        Self { region: region.to_owned(), stores }
    }

    pub(crate) fn len(&self) -> usize {
        self.stores.len()
    }

    /// Creates an object in every zone; it must not exist. Transient failures are retried.
    pub(crate) async fn create(&self, key: &Path, pieces: Vec<Bytes>) -> Result<()> {
        let payload: PutPayload = pieces.into_iter().collect();
        let puts = self.stores.iter().map(|s| self.create_in(s, key, payload.clone()));
        futures::future::try_join_all(puts).await?;
        Ok(())
    }

    async fn create_in(&self, store: &Arc<dyn ObjectStore>, key: &Path, payload: PutPayload) -> Result<()> {
        let mut attempt = 1;
        loop {
            let options = PutOptions::from(PutMode::Create);
            match store.put_opts(key, payload.clone(), options).await {
                Ok(_) => return Ok(()),
                // Our own earlier attempt did arrive: keys are never chosen twice.
                Err(object_store::Error::AlreadyExists { .. }) if attempt > 1 => return Ok(()),
                Err(e) if attempt == PUT_ATTEMPTS || store_error_is_permanent(&e) => {
                    return Err(ChunkError::store(format!("write {key}"), &self.region, e));
                }
                Err(e) => {
                    tracing::warn!(region = self.region, %key, attempt, error = %e, "a write failed; trying again");
                    tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
                    attempt += 1;
                }
            }
        }
    }

    /// The head object if some zone has it.
    pub(crate) async fn get_small(&self, key: &Path) -> Result<Option<Bytes>> {
        let mut last = None;
        for store in &self.stores {
            match store.get(key).await {
                Ok(found) => match found.bytes().await {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(e) => last = Some(e),
                },
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => last = Some(e),
            }
        }
        match last {
            None => Ok(None),
            Some(e) => Err(ChunkError::store(format!("read {key}"), &self.region, e)),
        }
    }

    /// Exactly `range` of a pack, from one zone.
    pub(crate) async fn read_pack(&self, zone: usize, pack: Uuid, range: Range<u64>) -> Result<Bytes> {
        let store = &self.stores[zone];
        let key = pack::key(pack);
        let wanted = range.end - range.start;
        let damaged = || ChunkError::corrupt(format!("pack {pack}"), "it is shorter than its index says");
        match store.get_range(&key, range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(_) => Err(damaged()),
            Err(object_store::Error::NotFound { .. }) => {
                Err(ChunkError::not_found(format!("pack {pack}"), &self.region))
            }
            Err(e) => match store.head(&key).await {
                Ok(meta) if meta.size < range.end => Err(damaged()),
                _ => Err(ChunkError::store(format!("read {key}"), &self.region, e)),
            },
        }
    }

    /// Deletes a pack in every zone; one that is gone already is fine.
    pub(crate) async fn delete_pack(&self, pack: Uuid) -> Result<()> {
        let key = pack::key(pack);
        for store in &self.stores {
            match store.delete(&key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(ChunkError::store(format!("delete {key}"), &self.region, e)),
            }
        }
        Ok(())
    }

    /// All packs and their lengths, in the order of their making. Lists: never on the hot path.
    pub(crate) async fn list_packs(&self) -> Result<Vec<(Uuid, u64)>> {
        let mut packs = std::collections::BTreeMap::new();
        for store in &self.stores {
            let mut list = store.list(Some(&Path::from(pack::PREFIX)));
            loop {
                match list.try_next().await {
                    Ok(Some(meta)) => {
                        if let Some(pack) = pack::from_key(&meta.location) {
                            packs.insert(pack, meta.size);
                        }
                    }
                    Ok(None) => break,
                    Err(e) => return Err(ChunkError::store("list the packs", &self.region, e)),
                }
            }
        }
        Ok(packs.into_iter().collect())
    }
}
