//! A region: its stores, its index, its running writers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use futures::future::join_all;
use object_store::ObjectStore;
use object_store::path::Path;
use uuid::Uuid;

use crate::cache::Cache;
use crate::chunker::ChunkerParams;
use crate::codec::decode_unnamed;
use crate::error::{ChunkError, Result};
use crate::frame_cache::FrameCache;
use crate::id::{BlobKind, ManifestId};
use crate::index::{Index, LogState, UsedPacks};
use crate::log::Key;
use crate::manifest::Root;
use crate::pack;
use crate::params::{HEAD, StoreParams};
use crate::rate::RateLimit;
use crate::reader::{self, DiskReader};
use crate::seal::{self, SealingKeys};
use crate::store::{Zones, local_store};
use crate::zones;

/// A pack that no index knows may be on its way into one for this long.
const IN_FLIGHT: Duration = Duration::from_hours(1);

/// How to reach a region.
#[derive(Clone)]
pub struct RegionConfig {
    /// The region's name, for errors and logs. A region that has several stores, of which each holds what the others do not
    /// count on, names them `REGION/STORE`.
    pub name: String,
    /// One object store a zone: every zone holds everything, any one may be lost. At least one.
    pub stores: Vec<Arc<dyn ObjectStore>>,
    /// A local folder for the index, on a file system with `flock`.
    pub index_dir: PathBuf,
    pub cache: Cache,
    /// Packs are sealed with the first of them, if there are any; see `docs/encryption.md`.
    pub keys: Option<SealingKeys>,
    /// Where frames are kept that were read, if the stores are far away.
    pub frames: Option<FrameCache>,
}

impl RegionConfig {
    /// A region in one local folder, store and index together.
    pub fn local(name: &str, dir: &std::path::Path, cache: Cache) -> Result<Self> {
        let store = local_store(dir).map_err(|e| ChunkError::index("create the folder of", name, e))?;
        Ok(Self {
            name: name.to_owned(),
            stores: vec![store],
            index_dir: dir.join("index"),
            cache,
            keys: None,
            frames: None,
        })
    }

    /// The names of what lies right below `prefix`, as folders do, in any of the stores. One that does not answer is left out, as
    /// long as another does.
    ///
    /// # Errors
    /// [`ChunkError::Store`] if none answers.
    pub async fn folders(&self, prefix: &str) -> Result<BTreeSet<String>> {
        let prefix = Path::from(prefix);
        let listed = self.stores.iter().map(|store| store.list_with_delimiter(Some(&prefix)));
        let listed = self.answers(join_all(listed).await, "list the folders")?;
        let folders = listed.iter().flat_map(|l| &l.common_prefixes);
        Ok(folders.filter_map(|folder| folder.filename().map(str::to_owned)).collect())
    }

    /// Whether any of the stores has a pack. One that does not answer is left out, as long as another does.
    ///
    /// # Errors
    /// [`ChunkError::Store`] if none answers.
    pub async fn has_packs(&self) -> Result<bool> {
        let prefix = &Path::from(pack::PREFIX);
        let first = self.stores.iter().map(|store| async move { store.list(Some(prefix)).try_next().await });
        let found = self.answers(join_all(first).await, "list the packs")?;
        Ok(found.iter().any(Option::is_some))
    }

    fn answers<T>(&self, all: Vec<object_store::Result<T>>, action: &str) -> Result<Vec<T>> {
        let (mut answers, mut failed) = (Vec::new(), None);
        for (zone, answer) in all.into_iter().enumerate() {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    tracing::warn!(region = self.name, zone, %error, "the zone's store does not answer");
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if answers.is_empty() => Err(ChunkError::store(action, &self.name, error)),
            _ => Ok(answers),
        }
    }
}

/// An open region; clones share it.
#[derive(Clone)]
pub struct Region(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub name: String,
    pub zones: Zones,
    pub index: Arc<Index>,
    pub cache: Cache,
    pub frames: Option<FrameCache>,
    /// The index is made of the packs' own tables: this process does not see the writer's.
    pub follows: bool,
    /// How disks are cut here.
    pub chunker: ChunkerParams,
    pub writers: Mutex<Writers>,
    /// One collection (or rebuild, or look at new packs) at a time.
    pub gc: tokio::sync::Mutex<()>,
}

impl Region {
    /// Opens a region for writing, making the store if it is new. One process at a time may
    /// ([`ChunkError::Locked`]). A lost or damaged index is built again from the packs.
    pub async fn open(cfg: RegionConfig) -> Result<Self> {
        let zones = Zones::new(&cfg.name, cfg.stores.clone(), cfg.keys.clone());
        let (dir, name) = (cfg.index_dir.clone(), cfg.name.clone());
        let (index, state) = tokio::task::spawn_blocking(move || Index::open_writer(&dir, &name))
            .await
            .map_err(ChunkError::worker)??;
        let head = read_head(&zones, &cfg.name).await?;
        let existed = head.is_some();
        if !existed {
            let head = StoreParams::standard().with_keys(newest(cfg.keys.as_ref()));
            let head = serde_json::to_vec_pretty(&head).expect("plain data");
            zones.create(&Path::from(HEAD), vec![head.into()]).await?;
        }
        zones::identify(&zones, &cfg.name, true).await?;
        raise_heads(&zones, &cfg.name).await?;
        let region = Self::new(cfg, zones, index, head.as_ref(), false);
        if state == LogState::Damaged || (state == LogState::Missing && existed) {
            tracing::warn!(region = region.0.name, ?state, "building the index again from the packs");
            region.rebuild_index().await?;
            let _ = region.0.index.rebuilt.set(state);
        }
        Ok(region)
    }

    /// Opens a region for reading, in any number of processes, beside a writer or without one. What
    /// the writer commits later is seen, too.
    pub async fn open_read_only(cfg: RegionConfig) -> Result<Self> {
        let (zones, head) = Self::look(&cfg).await?;
        let (dir, name) = (cfg.index_dir.clone(), cfg.name.clone());
        let index = tokio::task::spawn_blocking(move || Index::open_reader(&dir, &name))
            .await
            .map_err(ChunkError::worker)??;
        Ok(Self::new(cfg, zones, index, head.as_ref(), false))
    }

    /// Opens a region for reading on a computer that sees its stores, but not the folder of its index: the packs' own tables
    /// are read instead, once, and of new packs when something is asked for that is not known yet.
    pub async fn follow(cfg: RegionConfig) -> Result<Self> {
        let (zones, head) = Self::look(&cfg).await?;
        Ok(Self::new(cfg, zones, Index::in_memory(), head.as_ref(), true))
    }

    /// Whether a region could be opened with this: its stores are its own, of a known format, and the keys that they need are
    /// given. Changes nothing.
    ///
    /// # Errors
    /// [`ChunkError::Incompatible`] if not; others if the stores do not answer.
    pub async fn check(cfg: &RegionConfig) -> Result<()> {
        Self::look(cfg).await.map(|_| ())
    }

    async fn look(cfg: &RegionConfig) -> Result<(Zones, Option<StoreParams>)> {
        let zones = Zones::new(&cfg.name, cfg.stores.clone(), cfg.keys.clone());
        let head = read_head(&zones, &cfg.name).await?;
        zones::identify(&zones, &cfg.name, false).await?;
        Ok((zones, head))
    }

    /// `head`: `None` in a store that is new.
    fn new(cfg: RegionConfig, zones: Zones, index: Index, head: Option<&StoreParams>, follows: bool) -> Self {
        Self(Arc::new(Inner {
            name: cfg.name,
            zones,
            index: Arc::new(index),
            cache: cfg.cache,
            frames: cfg.frames,
            follows,
            chunker: head.map_or(ChunkerParams::FILES, StoreParams::chunker),
            writers: Mutex::default(),
            gc: tokio::sync::Mutex::default(),
        }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// From now on replications from that region, whichever of its stores, bring no more than `limit`, all together.
    pub fn limit_replication_from(&self, source: &str, limit: RateLimit) {
        self.0.writers().limits.insert(source.to_owned(), limit);
    }

    /// A reader of one disk.
    pub async fn reader(&self, manifest: ManifestId) -> Result<DiskReader> {
        DiskReader::open(Arc::clone(&self.0), manifest).await
    }

    /// Whether the manifest is in the index as it is now. That all it needs is here too was so when it came in.
    pub fn holds(&self, manifest: ManifestId) -> bool {
        self.0.index.lookup(manifest.as_blob()).is_some_and(|at| at.kind == BlobKind::Root)
    }

    /// Sees what the writer committed meanwhile; of a region that is open for writing, there is nothing else to see.
    pub async fn refresh(&self) -> Result<()> {
        self.0.refresh().await.map(|_| ())
    }

    /// Whether the manifest and every chunk it needs are here.
    pub async fn has(&self, manifest: ManifestId) -> Result<bool> {
        let missing = |e: &ChunkError| matches!(e, ChunkError::NotFound { .. });
        let root = match reader::load_root(&self.0, manifest).await {
            Ok(root) => root,
            Err(e) if missing(&e) => return Ok(false),
            Err(e) => return Err(e),
        };
        for wanted in &root.segments {
            let segment = match reader::load_segment(&self.0, wanted.id).await {
                Ok(segment) => segment,
                Err(e) if missing(&e) => return Ok(false),
                Err(e) => return Err(e),
            };
            if segment.extents.iter().any(|e| self.0.index.lookup(e.chunk).is_none()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) async fn root_by_key(&self, key: Key) -> Result<Option<Root>> {
        let Some(at) = self.0.index.lookup_key(key) else {
            return Ok(None);
        };
        let range = u64::from(at.offset)..u64::from(at.offset) + u64::from(at.stored_len);
        let mut last = None;
        for zone in self.0.zones.order() {
            let found = match self.0.zones.read_pack(zone, at.pack, range.clone()).await {
                Ok(stored) => decode_unnamed(BlobKind::Root, at.raw, at.plain_len, &stored),
                Err(e) => {
                    last = Some(e);
                    continue;
                }
            };
            match found {
                Some((id, plain)) if Key::from(id) == key => return Root::parse(&plain).map(Some),
                _ => last = Some(ChunkError::corrupt("a manifest", "its bytes do not match its hash")),
            }
        }
        last.map_or(Ok(None), Err)
    }
}

/// Says in the head of each zone what packs may be there from now on: such of today's format, sealed with the newest key. A
/// zone that does not answer takes no packs either, and is looked at when the region is opened next; a head that
/// cannot be read is the scrub's.
async fn raise_heads(zones: &Zones, region: &str) -> Result<()> {
    let key = Path::from(HEAD);
    let mut heads = Vec::new();
    for zone in 0..zones.len() {
        match zones.get_in(zone, &key).await {
            Ok(Some(bytes)) => {
                heads.extend(serde_json::from_slice::<StoreParams>(&bytes).ok().map(|head| (zone, head)))
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(region, zone, %error, "the zone's store does not answer"),
        }
    }
    heads.retain(|(_, head)| head.is_known());
    let keys: Vec<String> = heads.iter().flat_map(|(_, head)| head.keys()).cloned().collect();
    require_keys(&keys, zones.keys(), region)?;
    for (zone, found) in heads {
        let today = found.today().with_keys(keys.clone()).with_keys(newest(zones.keys()));
        if found != today {
            tracing::info!(region, zone, from = found.format, to = today.format, "the store's head is written anew");
            write_head(zones, zone, &today).await?;
        }
    }
    Ok(())
}

pub(crate) async fn write_head(zones: &Zones, zone: usize, head: &StoreParams) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(head).expect("plain data");
    zones.restore_in(zone, &Path::from(HEAD), bytes.into()).await
}

fn newest(keys: Option<&SealingKeys>) -> Option<String> {
    keys.and_then(|k| k.ids().into_iter().next())
}

/// Refuses to go on without a key that packs may be sealed with.
fn require_keys(named: &[String], given: Option<&SealingKeys>, region: &str) -> Result<()> {
    let given = given.map_or_else(Vec::new, SealingKeys::ids);
    let Some(missing) = named.iter().find(|id| !given.contains(id)) else { return Ok(()) };
    let given = if given.is_empty() { "none is".to_owned() } else { format!("given are {}", given.join(", ")) };
    Err(ChunkError::Incompatible {
        region: region.to_owned(),
        detail: format!(
            "packs are sealed with the key {missing}, which is not given ({given}); add it to the region's encryption_keys"
        ),
    })
}

/// Reads and checks the head; `None`: there is none yet.
async fn read_head(zones: &Zones, region: &str) -> Result<Option<StoreParams>> {
    let Some(bytes) = zones.get_small(&Path::from(HEAD)).await? else {
        return Ok(None);
    };
    let incompatible = |detail: String| ChunkError::Incompatible { region: region.to_owned(), detail };
    let found: StoreParams =
        serde_json::from_slice(&bytes).map_err(|e| incompatible(format!("{HEAD} cannot be read: {e}")))?;
    if found.is_known() {
        require_keys(found.keys(), zones.keys(), region)?;
        return Ok(Some(found));
    }
    Err(incompatible(format!(
        "it was made with other parameters than this version's ({HEAD} says format {}, chunker {})",
        found.format, found.chunker
    )))
}

impl Inner {
    /// Sees what another process committed (reading processes only).
    pub(crate) async fn refresh(&self) -> Result<bool> {
        if self.index.is_writer() {
            return Ok(false);
        }
        if self.follows {
            return crate::rebuild::look_for_packs(self).await;
        }
        let index = Arc::clone(&self.index);
        tokio::task::spawn_blocking(move || index.refresh()).await.map_err(ChunkError::worker)?
    }

    /// Whether no index knows this pack and nobody is bringing it in. Of another process's writers only the pack's age
    /// can tell.
    pub(crate) fn is_orphan(&self, pack: Uuid) -> bool {
        let flying = self.writers().in_flight.contains(&pack);
        let young = !self.index.is_writer() && is_young(pack);
        // In flight first: a pack joins the index before it leaves the flight.
        !flying && !young && !self.index.has_pack(pack)
    }

    pub(crate) fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn require_writer(&self) -> Result<()> {
        if self.index.is_writer() {
            return Ok(());
        }
        Err(ChunkError::ReadOnly { region: self.name.clone() })
    }
}

fn is_young(pack: Uuid) -> bool {
    let Some(made) = seal::time_of(pack) else { return false };
    let (seconds, nanos) = made.to_unix();
    let made = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
    SystemTime::now().duration_since(made).is_ok_and(|age| age < IN_FLIGHT)
}

/// The running ingests and replications: what garbage collection must leave alone.
#[derive(Default)]
pub(crate) struct Writers {
    next: u64,
    used: HashMap<u64, UsedPacks>,
    /// Writers that ended while a collection runs stay in `used` until it ends.
    ended: Vec<u64>,
    pub collecting: bool,
    /// Packs being put: not yet in the index, but no orphans.
    pub in_flight: HashSet<Uuid>,
    /// Counts committed manifests; see [`GcEpoch`](crate::GcEpoch).
    pub epoch: u64,
    pub committed: Vec<(u64, ManifestId)>,
    /// How fast replications may be, by the region they come from.
    pub limits: HashMap<String, RateLimit>,
}

impl Writers {
    /// How fast a replication from this store may be.
    pub(crate) fn limit_from(&self, store: &str) -> Option<RateLimit> {
        let region = store.split_once('/').map_or(store, |(region, _)| region);
        self.limits.get(region).cloned()
    }

    pub(crate) fn protected(&self) -> HashSet<Uuid> {
        let sets = self.used.values();
        sets.flat_map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    pub(crate) fn end_collection(&mut self) {
        self.collecting = false;
        for id in std::mem::take(&mut self.ended) {
            self.used.remove(&id);
        }
    }
}

/// A running writer's entry in [`Writers`]; it ends when dropped.
pub(crate) struct Registration {
    inner: Arc<Inner>,
    id: u64,
    pub used: UsedPacks,
}

impl Registration {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        let used = UsedPacks::default();
        let mut writers = inner.writers();
        let id = writers.next;
        writers.next += 1;
        writers.used.insert(id, Arc::clone(&used));
        Self { inner: Arc::clone(inner), id, used }
    }

    /// The manifest is whole: collections that began before now keep it.
    pub(crate) fn committed(&self, manifest: ManifestId) {
        let mut writers = self.inner.writers();
        writers.epoch += 1;
        let epoch = writers.epoch;
        writers.committed.push((epoch, manifest));
        // Only those since the oldest collection that may still run matter; this is far more.
        let excess = writers.committed.len().saturating_sub(100_000);
        writers.committed.drain(..excess);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut writers = self.inner.writers();
        if writers.collecting {
            writers.ended.push(self.id);
        } else {
            writers.used.remove(&self.id);
        }
    }
}
