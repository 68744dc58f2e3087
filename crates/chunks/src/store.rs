//! The object stores of one region, one a zone: every zone holds every object, any of them may be read. Sealed packs
//! ([`seal`]) are sealed and opened here.
//! The only place that speaks `object_store`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use crate::error::{ChunkError, Result, store_error_is_permanent};
use crate::pack;
use crate::seal::{self, SealingKeys};

const PUT_ATTEMPTS: u32 = 4;
/// A read of one zone of several takes no longer than this...
const PATIENCE: Duration = Duration::from_secs(15);
/// ...and a zone that failed is asked last for this long.
const AVOID: Duration = Duration::from_secs(30);
/// Where a repair keeps packs of which something was lost.
pub(crate) const QUARANTINE: &str = "quarantine";

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

/// Creates an object and looks whether all of it arrived: an upload may be torn although it was answered.
async fn create_once(store: &Arc<dyn ObjectStore>, key: &Path, payload: &PutPayload) -> object_store::Result<()> {
    match store.put_opts(key, payload.clone(), PutOptions::from(PutMode::Create)).await {
        // Our own earlier attempt did arrive, though its answer did not: keys are never chosen twice.
        Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
        Err(e) => return Err(e),
    }
    let (wanted, found) = (payload.content_length() as u64, store.head(key).await?.size);
    if wanted == found {
        return Ok(());
    }
    // Nobody refers to it yet, so it may be taken back.
    store.delete(key).await?;
    let source = format!("the upload was torn: {found} of {wanted} bytes arrived").into();
    Err(object_store::Error::Generic { store: "region", source })
}

/// A range of an object. `object_store` clears the memory that it reads a file into; this does not.
async fn read_part(store: &dyn ObjectStore, key: &Path, range: Range<u64>) -> object_store::Result<Bytes> {
    let found = store.get_opts(key, GetOptions::new().with_range(Some(range))).await?;
    let (start, len) = (found.range.start, found.range.end - found.range.start);
    let GetResultPayload::File(file, _) = found.payload else { return found.bytes().await };
    let read = tokio::task::spawn_blocking(move || read_file(file, start, len)).await;
    let failed = |source| object_store::Error::Generic { store: "region", source };
    read.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))
}

/// What a file has of `len` bytes from `start` on.
fn read_file(mut file: File, start: u64, len: u64) -> io::Result<Bytes> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// What a zone holds.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    /// Packs and their lengths, in the order of their making.
    pub packs: BTreeMap<Uuid, u64>,
    pub others: Vec<Path>,
}

#[derive(Clone)]
pub(crate) struct Zones {
    region: String,
    stores: Vec<Arc<dyn ObjectStore>>,
    /// With which packs are sealed, if they are.
    keys: Option<SealingKeys>,
    /// When a zone last failed to answer.
    failed: Arc<Vec<Mutex<Option<Instant>>>>,
}

impl Zones {
    pub(crate) fn new(region: &str, stores: Vec<Arc<dyn ObjectStore>>, keys: Option<SealingKeys>) -> Self {
        let failed = Arc::new(stores.iter().map(|_| Mutex::default()).collect());
        Self { region: region.to_owned(), stores, keys, failed }
    }

    pub(crate) fn keys(&self) -> Option<&SealingKeys> {
        self.keys.as_ref()
    }

    fn keys_for(&self, pack: Uuid) -> Result<SealingKeys> {
        let detail = || format!("pack {pack} is sealed, and no key is given");
        self.keys.clone().ok_or_else(|| ChunkError::Incompatible { region: self.region.clone(), detail: detail() })
    }

    /// As the stores hold it: sealed, if it is a pack that is.
    async fn stored(&self, key: &Path, pieces: Vec<Bytes>) -> Result<PutPayload> {
        let Some(pack) = seal::from_key(key) else { return Ok(pieces.into_iter().collect()) };
        let keys = self.keys_for(pack)?;
        let sealed = tokio::task::spawn_blocking(move || keys.seal(pack, &pieces));
        Ok(sealed.await.map_err(ChunkError::worker)??.into())
    }

    /// The zones in the order in which to ask them: one that did not answer lately comes last.
    pub(crate) fn order(&self) -> Vec<usize> {
        let failing = |zone: &usize| {
            let failed = self.failed[*zone].lock().unwrap_or_else(PoisonError::into_inner);
            failed.is_some_and(|at| at.elapsed() < AVOID)
        };
        let (last, mut first): (Vec<usize>, Vec<usize>) = (0..self.len()).partition(failing);
        first.extend(last);
        first
    }

    fn note(&self, zone: usize, answered: bool) {
        *self.failed[zone].lock().unwrap_or_else(PoisonError::into_inner) = (!answered).then(Instant::now);
    }

    pub(crate) fn len(&self) -> usize {
        self.stores.len()
    }

    /// Creates an object in every zone; it must not exist. Transient failures are retried.
    pub(crate) async fn create(&self, key: &Path, pieces: Vec<Bytes>) -> Result<()> {
        let payload = self.stored(key, pieces).await?;
        let puts = self.stores.iter().map(|s| self.create_in(s, key, payload.clone()));
        futures::future::try_join_all(puts).await?;
        Ok(())
    }

    async fn create_in(&self, store: &Arc<dyn ObjectStore>, key: &Path, payload: PutPayload) -> Result<()> {
        let mut attempt = 1;
        loop {
            match create_once(store, key, &payload).await {
                Ok(()) => return Ok(()),
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
        let read = self.read_range(zone, pack, range);
        let result = if self.len() == 1 {
            read.await
        } else {
            // Where another zone can be asked, nobody waits long for one.
            let late = |_| {
                let source = object_store::Error::Generic { store: "zone", source: "it does not answer".into() };
                ChunkError::store(format!("read {}", pack::key(pack)), &self.region, source)
            };
            tokio::time::timeout(PATIENCE, read).await.map_err(late).flatten()
        };
        self.note(zone, !matches!(result, Err(ChunkError::Store { .. })));
        result
    }

    async fn read_range(&self, zone: usize, pack: Uuid, range: Range<u64>) -> Result<Bytes> {
        let store = &self.stores[zone];
        let key = pack::key(pack);
        let wanted = range.end - range.start;
        let sealed = seal::is_sealed(pack);
        let damaged = || ChunkError::corrupt(format!("pack {pack}"), "it is shorter than its index says");
        let stored = if sealed { seal::sealed_range(&range) } else { range.clone() };
        match read_part(store.as_ref(), &key, stored).await {
            Ok(bytes) if sealed => {
                let keys = self.keys_for(pack)?;
                if bytes.len() <= 128 << 10 {
                    return keys.open_range(pack, &range, &bytes);
                }
                let opened = tokio::task::spawn_blocking(move || keys.open_range(pack, &range, &bytes));
                opened.await.map_err(ChunkError::worker)?
            }
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(_) => Err(damaged()),
            Err(object_store::Error::NotFound { .. }) => {
                Err(ChunkError::not_found(format!("pack {pack}"), &self.region))
            }
            Err(e) => match store.head(&key).await {
                Ok(meta) if plain_len(pack, meta.size) < range.end => Err(damaged()),
                _ => Err(ChunkError::store(format!("read {key}"), &self.region, e)),
            },
        }
    }

    /// Deletes a pack in every zone; one that is gone already is fine.
    pub(crate) async fn delete_pack(&self, pack: Uuid) -> Result<()> {
        self.delete(&pack::key(pack)).await
    }

    /// Deletes an object in every zone; one that is gone already is fine.
    pub(crate) async fn delete(&self, key: &Path) -> Result<()> {
        for store in &self.stores {
            match store.delete(key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(ChunkError::store(format!("delete {key}"), &self.region, e)),
            }
        }
        Ok(())
    }

    /// All packs and their lengths, in the order of their making. Lists: never on the hot path.
    pub(crate) async fn list_packs(&self) -> Result<Vec<(Uuid, u64)>> {
        let mut packs = BTreeMap::new();
        for zone in 0..self.len() {
            packs.extend(self.list_zone(zone, Some(pack::PREFIX)).await?.packs);
        }
        Ok(packs.into_iter().collect())
    }

    /// What one zone holds, below `prefix` or all of it.
    pub(crate) async fn list_zone(&self, zone: usize, prefix: Option<&str>) -> Result<Listed> {
        let prefix = prefix.map(Path::from);
        let mut list = self.stores[zone].list(prefix.as_ref());
        let mut found = Listed::default();
        while let Some(meta) =
            list.try_next().await.map_err(|e| ChunkError::store("list the objects", &self.region, e))?
        {
            match pack::from_key(&meta.location) {
                Some(pack) => {
                    found.packs.insert(pack, plain_len(pack, meta.size));
                }
                None => found.others.push(meta.location),
            }
        }
        Ok(found)
    }

    /// A whole object of one zone; `None` if it is not there. Of a sealed pack, what cannot be opened is zeros.
    pub(crate) async fn get_in(&self, zone: usize, key: &Path) -> Result<Option<Bytes>> {
        let found = self.get_stored(zone, key).await?;
        let (Some(bytes), Some(pack)) = (&found, seal::from_key(key)) else { return Ok(found) };
        let (keys, bytes) = (self.keys_for(pack)?, bytes.clone());
        let opened = tokio::task::spawn_blocking(move || keys.open_whole(pack, &bytes));
        let opened = opened.await.map_err(ChunkError::worker)?.map_err(|id| ChunkError::Incompatible {
            region: self.region.clone(),
            detail: format!("pack {pack} is sealed with the key {id}, which is not given"),
        })?;
        Ok(Some(opened))
    }

    async fn get_stored(&self, zone: usize, key: &Path) -> Result<Option<Bytes>> {
        let failed = |e| ChunkError::store(format!("read {key}"), &self.region, e);
        match self.stores[zone].get(key).await {
            Ok(found) => found.bytes().await.map(Some).map_err(failed),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Puts the right bytes in the place of a damaged or missing object of one zone. Only for repair: all else creates.
    pub(crate) async fn restore_in(&self, zone: usize, key: &Path, bytes: Bytes) -> Result<()> {
        let failed = |e| ChunkError::store(format!("restore {key}"), &self.region, e);
        let payload = self.stored(key, vec![bytes]).await?;
        self.stores[zone].put(key, payload).await.map(|_| ()).map_err(failed)
    }

    /// Copies an object of one zone as it is stored, if it is there.
    pub(crate) async fn set_aside_in(&self, zone: usize, from: &Path, to: &Path) -> Result<()> {
        let failed = |e| ChunkError::store(format!("set {from} aside"), &self.region, e);
        let Some(bytes) = self.get_stored(zone, from).await? else { return Ok(()) };
        self.stores[zone].put(to, bytes.into()).await.map(|_| ()).map_err(failed)
    }

    /// Whether the copies of a sealed pack in all zones were sealed by the newest key, and it may be opened by that.
    pub(crate) async fn sealed_by_newest(&self, pack: Uuid) -> Result<bool> {
        let Some(keys) = self.keys.as_ref().filter(|_| seal::is_sealed(pack)) else { return Ok(false) };
        let key = pack::key(pack);
        for store in &self.stores {
            match store.get_range(&key, 0..seal::HEADER as u64).await {
                Ok(begin) if keys.sealed_by_newest(&begin) => {}
                Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(false),
                Err(e) => return Err(ChunkError::store(format!("read {key}"), &self.region, e)),
            }
        }
        Ok(true)
    }
}

/// How long a pack is when plain, by its length in a store.
fn plain_len(pack: Uuid, stored: u64) -> u64 {
    if seal::is_sealed(pack) { seal::plain_len(stored) } else { stored }
}
