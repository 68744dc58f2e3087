//! Scrub: reads everything a region holds, names what is damaged, missing or not referred to, and mends what has
//! a good copy in another zone or region.
//!
//! ```text
//! index      the log on disk, from its start
//! heads      store.json of each zone
//! packs      each pack in each zone, whole: magic, table, every frame against its check (every blob against its hash
//!            if the frame fails, has no check, or if asked for), table against index
//! rest       objects that nothing refers to
//! manifests  each disk: root, segments, every chunk present and sound in at least one zone
//! repair     only if asked for, see `repair`
//! ```
//! Ingest, replication, collection and reading may go on meanwhile, here or in another process; what changes under
//! the scrub's feet is looked at again before it is reported. It never deletes a byte that has no other copy.

mod check;
mod repair;
mod report;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::check::{Checked, check_pack};
pub use self::report::{Finding, Object, Outcome, Problem, ScrubReport};
use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId, ManifestId};
use crate::index::{Location, LogState};
use crate::log::Key;
use crate::manifest::Root;
use crate::pack;
use crate::params::{HEAD, StoreParams};
use crate::progress::Progress;
use crate::rate::RateLimit;
use crate::reader;
use crate::region::{Inner, Region};
use crate::store::{Listed, QUARANTINE};
use crate::zones::MARK;

/// The index is asked what it sees in so many packs at once.
const BATCH: usize = 256;

/// How to scrub.
#[derive(Clone, Default)]
pub struct ScrubOptions {
    /// The disks that must be whole; `None`: all that the region knows.
    pub manifests: Option<Vec<ManifestId>>,
    /// How fast the stores are read.
    pub rate: Option<RateLimit>,
    /// Unpack also what is as it was written, and verify each blob in it: finds what went wrong before it was written.
    pub deep: bool,
    /// Mend what can be mended. Asks for a region that is open for writing.
    pub repair: bool,
    /// Other regions that may have what no zone of this one has any more.
    pub donors: Vec<Region>,
}

impl Region {
    /// Reads everything and tells what is wrong. `progress` counts the bytes of the packs over all zones.
    pub async fn scrub(
        &self,
        options: &ScrubOptions,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<ScrubReport> {
        if options.repair {
            self.0.require_writer()?;
        }
        let mut scrub = Scrub {
            region: self,
            inner: &self.0,
            options,
            progress,
            cancel,
            report: ScrubReport { region: self.0.name.clone(), zones: self.0.zones.len(), ..ScrubReport::default() },
            listed: Vec::new(),
            index_usable: true,
            broken: HashMap::new(),
            lost: HashSet::new(),
            wanted: HashMap::new(),
            roots: None,
            named: HashSet::new(),
        };
        scrub.run().await?;
        Ok(scrub.report)
    }
}

struct Scrub<'a> {
    region: &'a Region,
    inner: &'a Arc<Inner>,
    options: &'a ScrubOptions,
    progress: &'a Progress,
    cancel: &'a CancellationToken,
    report: ScrubReport,
    /// What each zone holds; `None`: it does not answer.
    listed: Vec<Option<Listed>>,
    /// Whether the index log could be read. Otherwise every pack would seem to be nobody's.
    index_usable: bool,
    /// Packs of which some zone's copy is not whole.
    broken: HashMap<Uuid, Copies>,
    /// Blobs in the index of which no zone has a good copy.
    lost: HashSet<Key>,
    /// Blobs that disks need and that are lost or not in the index.
    wanted: HashMap<Key, ChunkId>,
    /// The disks, if the caller did not name them.
    roots: Option<Vec<Key>>,
    /// Manifests, segments and chunks that are in the report already.
    named: HashSet<(Object, String)>,
}

/// A pack of which some zone's copy is not whole.
#[derive(Debug, Default)]
struct Copies {
    /// A zone whose copy is whole.
    whole: Option<usize>,
    /// Zones whose copies are not.
    bad: Vec<usize>,
    /// Some zone's copy could not be read, and may be whole.
    unread: bool,
}

impl Scrub<'_> {
    async fn run(&mut self) -> Result<()> {
        self.inner.refresh().await?;
        self.check_index().await?;
        self.list().await?;
        self.check_heads().await?;
        self.check_packs().await?;
        self.check_rest().await?;
        self.check_manifests().await?;
        if self.options.repair {
            self.repair().await?;
        }
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(ChunkError::Cancelled) } else { Ok(()) }
    }

    fn find(&mut self, object: Object, name: impl Into<String>, zone: Option<usize>, problem: Problem, detail: &str) {
        let (name, detail) = (name.into(), detail.to_owned());
        self.report.findings.push(Finding { object, name, zone, problem, detail, outcome: Outcome::Reported });
    }

    async fn check_index(&mut self) -> Result<()> {
        let index = Arc::clone(&self.inner.index);
        let state = tokio::task::spawn_blocking(move || index.check_log()).await.map_err(ChunkError::worker)??;
        match state {
            LogState::Ready => {
                let Some(was) = self.inner.index.rebuilt.get() else { return Ok(()) };
                let why = if *was == LogState::Damaged { Problem::Damaged } else { Problem::Missing };
                self.find(Object::Index, "index.log", None, why, "it was built again when the region was opened");
                let last = self.report.findings.last_mut().expect("just pushed");
                last.outcome = Outcome::Repaired { from: "the packs".into() };
            }
            LogState::Missing if self.inner.index.is_writer() => {
                self.find(Object::Index, "index.log", None, Problem::Missing, "the file is gone");
            }
            LogState::Missing => self.index_usable = false,
            LogState::Damaged => {
                self.index_usable = self.inner.index.is_writer();
                let detail = "a record before its end cannot be verified";
                self.find(Object::Index, "index.log", None, Problem::Damaged, detail);
            }
        }
        Ok(())
    }

    async fn list(&mut self) -> Result<()> {
        for zone in 0..self.inner.zones.len() {
            self.go_on()?;
            match self.inner.zones.list_zone(zone, None).await {
                Ok(listed) => self.listed.push(Some(listed)),
                Err(e) => {
                    let detail = with_causes(&e);
                    self.find(Object::Head, "the zone's store", Some(zone), Problem::Unreachable, &detail);
                    self.listed.push(None);
                }
            }
        }
        if self.index_usable {
            return Ok(());
        }
        let holds = self.listed.iter().flatten().any(|l| !l.packs.is_empty());
        if holds && !self.report.findings.iter().any(|f| f.object == Object::Index) {
            self.find(Object::Index, "index.log", None, Problem::Missing, "there are packs, but no index");
        }
        Ok(())
    }

    fn reachable(&self) -> Vec<usize> {
        (0..self.listed.len()).filter(|z| self.listed[*z].is_some()).collect()
    }

    async fn check_heads(&mut self) -> Result<()> {
        for zone in self.reachable() {
            let head = match self.inner.zones.get_in(zone, &Path::from(HEAD)).await {
                Err(e @ ChunkError::Store { .. }) => {
                    self.find(Object::Head, HEAD, Some(zone), Problem::Unreachable, &with_causes(&e));
                    continue;
                }
                head => head?,
            };
            match head {
                None => self.find(Object::Head, HEAD, Some(zone), Problem::Missing, "the file is gone"),
                Some(bytes) if is_head(&bytes) => {}
                Some(_) => self.find(Object::Head, HEAD, Some(zone), Problem::Damaged, "it cannot be read"),
            }
        }
        Ok(())
    }

    async fn check_packs(&mut self) -> Result<()> {
        let mut packs = self.inner.index.packs();
        self.report.packs = packs.len() as u64;
        for listed in self.listed.iter().flatten() {
            // Also what no index knows: it may be wanted yet.
            packs.extend(&listed.packs);
        }
        let mut packs: Vec<(Uuid, u64)> = packs.into_iter().collect();
        packs.sort_unstable();
        let zones = self.reachable();
        self.progress.start(packs.iter().map(|(_, len)| len * zones.len() as u64).sum());
        for batch in packs.chunks(BATCH) {
            let mut indexed = self.indexed(batch);
            for (pack, len) in batch {
                let indexed = indexed.remove(pack).unwrap_or_default();
                self.check_pack(*pack, &indexed, &zones).await?;
                self.progress.add(len * zones.len() as u64);
            }
        }
        Ok(())
    }

    /// What the index sees in these packs, in the order of its places.
    fn indexed(&self, packs: &[(Uuid, u64)]) -> HashMap<Uuid, Vec<(Key, Location)>> {
        let mut by_pack: HashMap<Uuid, Vec<(Key, Location)>> = packs.iter().map(|(p, _)| (*p, Vec::new())).collect();
        self.inner.index.each(|key, at| {
            if let Some(blobs) = by_pack.get_mut(&at.pack) {
                blobs.push((key, at));
            }
        });
        by_pack.values_mut().for_each(|blobs| blobs.sort_unstable_by_key(|(_, at)| (at.offset, at.at)));
        by_pack
    }

    async fn check_pack(&mut self, pack: Uuid, indexed: &[(Key, Location)], zones: &[usize]) -> Result<()> {
        let mut copies = Copies { unread: zones.len() < self.listed.len(), ..Copies::default() };
        let mut good: HashSet<Key> = HashSet::new();
        let mut wrong: Vec<(usize, Problem, String)> = Vec::new();
        let mut stale = 0;
        for &zone in zones {
            let bytes = match self.read_pack(zone, pack).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    wrong.push((zone, Problem::Missing, "it is not there".into()));
                    continue;
                }
                // Also a pack that is sealed with a key that is not given: it may be whole.
                Err(e @ (ChunkError::Store { .. } | ChunkError::Incompatible { .. })) => {
                    copies.unread = true;
                    wrong.push((zone, Problem::Unreachable, with_causes(&e)));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let checked = verify(bytes, indexed.to_vec(), self.options.deep).await?;
            self.report.blobs += checked.good.len() as u64;
            if checked.is_whole() {
                copies.whole = copies.whole.or(Some(zone));
                continue;
            }
            let only_absent = checked.table.is_none() && checked.frame.is_none() && checked.bad.is_empty();
            stale += usize::from(only_absent);
            good.extend(checked.good.iter().map(|id| Key::from(*id)));
            checked.absent.iter().for_each(|key| {
                good.remove(key);
            });
            wrong.push((zone, Problem::Damaged, checked.detail()));
        }
        self.inner.refresh().await?;
        // Collected meanwhile, or nobody's and only in some zones.
        let known = self.inner.index.has_pack(pack);
        if wrong.is_empty() || (!known && wrong.iter().all(|(_, p, _)| *p == Problem::Missing)) {
            return Ok(());
        }
        copies.bad = wrong.iter().map(|(zone, ..)| *zone).collect();
        if known && copies.whole.is_none() {
            let lost = indexed.iter().map(|(key, _)| *key).filter(|key| !good.contains(key));
            let here = |key: &Key| self.inner.index.lookup_key(*key).is_some_and(|at| at.pack == pack);
            self.lost.extend(lost.filter(here).collect::<Vec<_>>());
        }
        // Every copy is sound and none is what the index says: then it is the index that is wrong.
        let all_stale = stale == zones.len();
        if all_stale {
            let detail = format!("it sees blobs in {} that the pack does not have", pack::key(pack));
            self.find(Object::Index, "index.log", None, Problem::Stale, &detail);
        } else {
            for (zone, problem, detail) in wrong {
                let zone = (self.inner.zones.len() > 1).then_some(zone);
                self.find(Object::Pack, pack::key(pack).to_string(), zone, problem, &detail);
            }
        }
        if known && !all_stale {
            self.broken.insert(pack, copies);
        }
        Ok(())
    }

    async fn read_pack(&mut self, zone: usize, pack: Uuid) -> Result<Option<Bytes>> {
        self.go_on()?;
        let key = pack::key(pack);
        let bytes = tokio::select! {
            () = self.cancel.cancelled() => return Err(ChunkError::Cancelled),
            bytes = self.inner.zones.get_in(zone, &key) => bytes?,
        };
        let len = bytes.as_ref().map_or(0, Bytes::len) as u64;
        self.report.read_bytes += len;
        if let Some(rate) = &self.options.rate {
            rate.pass_unless(self.cancel, len).await?;
        }
        Ok(bytes)
    }

    /// Objects that nothing refers to.
    async fn check_rest(&mut self) -> Result<()> {
        self.inner.refresh().await?;
        let mut seen = HashSet::new();
        for zone in self.reachable() {
            let Some(listed) = &self.listed[zone] else { continue };
            let orphans = listed.packs.keys().copied().filter(|p| self.index_usable && self.inner.is_orphan(*p));
            let orphans: Vec<Uuid> = orphans.collect();
            let foreign: Vec<Path> = listed.others.iter().filter(|k| !is_ours(k)).cloned().collect();
            for pack in orphans.into_iter().filter(|p| seen.insert(*p)) {
                let detail = "no index knows it; a collection deletes it";
                self.find(Object::Pack, pack::key(pack).to_string(), None, Problem::Unreferenced, detail);
            }
            let of = (self.inner.zones.len() > 1).then_some(zone);
            for key in foreign {
                let kept = key.as_ref().starts_with(QUARANTINE);
                let detail = if kept { "kept after a repair" } else { "the store did not make it" };
                self.find(Object::Foreign, key.to_string(), of, Problem::Unreferenced, detail);
            }
        }
        Ok(())
    }

    /// Every disk: are all its blobs here, and sound? Fills `wanted` and the report's `unreadable`.
    async fn check_manifests(&mut self) -> Result<()> {
        self.wanted.clear();
        self.report.unreadable.clear();
        self.report.manifests = 0;
        if !self.index_usable {
            return Ok(());
        }
        let mut bad_segments = HashSet::new();
        let mut seen = HashSet::new();
        match self.options.manifests.clone() {
            Some(manifests) => {
                for manifest in manifests {
                    let root = self.root(manifest.as_blob(), reader::load_root(self.inner, manifest).await)?;
                    self.check_disk(manifest.to_string(), root, &mut seen, &mut bad_segments).await?;
                }
            }
            None => {
                // After a repair the same ones: a disk whose manifest was lost does not vanish from the report.
                let first = self.roots.is_none();
                let roots = self.roots.get_or_insert_with(|| self.inner.index.roots()).clone();
                for key in roots {
                    let root = match self.region.root_by_key(key).await {
                        Ok(Some(root)) => Some(root),
                        Ok(None) if first => continue,
                        Ok(None) => None,
                        Err(e) => self.unreadable(Object::Manifest, &hex::encode(key.0), None, e)?,
                    };
                    let name = root.as_ref().map_or_else(|| hex::encode(key.0), |r| id_of(r).to_string());
                    self.check_disk(name, root, &mut seen, &mut bad_segments).await?;
                }
            }
        }
        Ok(())
    }

    fn root(&mut self, id: ChunkId, loaded: Result<Root>) -> Result<Option<Root>> {
        match loaded {
            Ok(root) => Ok(Some(root)),
            Err(e) => self.unreadable(Object::Manifest, &id.to_string(), Some(id), e),
        }
    }

    /// Notes a manifest or segment that cannot be read; another kind of error ends the scrub.
    fn unreadable<T>(
        &mut self,
        object: Object,
        name: &str,
        id: Option<ChunkId>,
        error: ChunkError,
    ) -> Result<Option<T>> {
        let problem = match &error {
            ChunkError::NotFound { .. } => Problem::Missing,
            ChunkError::Corrupt { .. } => Problem::Damaged,
            ChunkError::Store { .. } => Problem::Unreachable,
            _ => return Err(error),
        };
        self.wanted.extend(id.map(|id| (Key::from(id), id)));
        self.find_once(object, name, problem, &error.to_string());
        Ok(None)
    }

    fn find_once(&mut self, object: Object, name: &str, problem: Problem, detail: &str) {
        if self.named.insert((object, name.to_owned())) {
            self.find(object, name, None, problem, detail);
        }
    }

    async fn check_disk(
        &mut self,
        name: String,
        root: Option<Root>,
        seen: &mut HashSet<ChunkId>,
        bad: &mut HashSet<ChunkId>,
    ) -> Result<()> {
        self.go_on()?;
        self.report.manifests += 1;
        let Some(root) = root else {
            self.report.unreadable.push(name);
            return Ok(());
        };
        // Readable by its place; damage to its only copy was found with its pack.
        let mut whole = !self.note_lost(id_of(&root), Object::Manifest);
        for segment in &root.segments {
            if seen.insert(segment.id) && !self.check_segment(segment.id).await? {
                bad.insert(segment.id);
            }
            whole &= !bad.contains(&segment.id);
        }
        if !whole {
            self.report.unreadable.push(name);
        }
        Ok(())
    }

    async fn check_segment(&mut self, id: ChunkId) -> Result<bool> {
        let segment = match reader::load_segment(self.inner, id).await {
            Ok(segment) => segment,
            Err(e) => {
                self.unreadable::<()>(Object::Segment, &id.to_string(), Some(id), e)?;
                return Ok(false);
            }
        };
        let mut whole = !self.note_lost(id, Object::Segment);
        for extent in &segment.extents {
            whole &= !self.note_lost(extent.chunk, Object::Chunk);
        }
        Ok(whole)
    }

    /// Whether a blob that a disk needs is not to be had.
    fn note_lost(&mut self, id: ChunkId, object: Object) -> bool {
        let key = Key::from(id);
        let here = self.inner.index.lookup_key(key).is_some();
        if here && !self.lost.contains(&key) {
            return false;
        }
        if self.wanted.insert(key, id).is_none() && !here {
            let detail = "a disk needs it, and no pack has it";
            self.find_once(object, &id.to_string(), Problem::Missing, detail);
        }
        true
    }
}

fn id_of(root: &Root) -> ChunkId {
    BlobKind::Root.id_of(&root.encode())
}

async fn verify(bytes: Bytes, indexed: Vec<(Key, Location)>, deep: bool) -> Result<Checked> {
    tokio::task::spawn_blocking(move || check_pack(&bytes, &indexed, deep)).await.map_err(ChunkError::worker)
}

/// Objects beside the packs that belong to the store.
fn is_ours(key: &Path) -> bool {
    // A region in one folder keeps its index beside the packs.
    [HEAD, MARK].contains(&key.as_ref()) || key.as_ref().starts_with("index/")
}

/// Whether these are the parameters of a store that this version can use.
fn is_head(bytes: &[u8]) -> bool {
    serde_json::from_slice::<StoreParams>(bytes).is_ok_and(|p| p.is_known())
}

fn with_causes(error: &ChunkError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
