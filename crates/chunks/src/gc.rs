//! Garbage collection: what no live manifest needs is deleted.
//!
//! ```text
//! mark      every chunk, segment and root of the live manifests
//! condemn   in one atomic step: packs that hold nothing live (delete) or little (rewrite), except
//!           those that a running writer made or counts on; from then on writers store anew what
//!           lies in a condemned pack
//! rewrite   the live blobs of the mostly dead packs go into new packs (data, then index)
//! remove    the condemned packs leave the index, then the store
//! orphans   packs in the store that the index does not know and no writer is putting
//! ```
//! Ingest, replication and reading go on meanwhile. A crash between any two steps leaves a store
//! that opens and only some packs to collect next time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId, ManifestId};
use crate::index::{Condemned, PackFate};
use crate::log::{Key, Record};
use crate::moving;
use crate::reader;
use crate::rebuild::read_table;
use crate::region::{Inner, Region};
use crate::writer::PackWriter;

/// A pack is rewritten when less than this part of it is live.
const REWRITE_BELOW_PERCENT: u64 = 50;

/// A moment in a region's life. Take one *before* asking which manifests are live: those committed
/// later are then kept although the list cannot name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcEpoch(u64);

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Bytes of the packs deleted, less those of the packs written instead.
    pub freed_bytes: u64,
    pub deleted_packs: u64,
    pub rewritten_packs: u64,
    /// Packs that no index knew: left by a crash.
    pub orphan_packs: u64,
    /// Manifests and segments that nothing refers to any more.
    pub forgotten: u64,
}

impl Region {
    /// Now, for [`collect_garbage_since`](Self::collect_garbage_since).
    pub fn gc_epoch(&self) -> GcEpoch {
        GcEpoch(self.0.writers().epoch)
    }

    /// Deletes what none of `live` needs. Every manifest of `live` must be here: a missing or damaged
    /// one ends the collection before anything is deleted.
    pub async fn collect_garbage(&self, live: &[ManifestId]) -> Result<Collected> {
        self.collect_garbage_since(self.gc_epoch(), live).await
    }

    /// As [`collect_garbage`](Self::collect_garbage), but also keeps what was committed after `epoch`.
    pub async fn collect_garbage_since(&self, epoch: GcEpoch, live: &[ManifestId]) -> Result<Collected> {
        self.0.require_writer()?;
        let _one_at_a_time = self.0.gc.lock().await;
        let collection = Collection::begin(&self.0);
        let marked = collection.mark(epoch, live).await?;
        collection.sweep(marked).await
    }

    /// What a collection would do now, without doing it: also for a region that is open read-only. What running
    /// writers count on is not left out, so that a collection beside them may free less.
    pub async fn preview_garbage(&self, live: &[ManifestId]) -> Result<Collected> {
        let inner = &self.0;
        inner.refresh().await?;
        let marked = mark(inner, live.iter().copied().collect()).await?;
        let mut live_bytes: HashMap<Uuid, u64> = HashMap::new();
        let mut dead: HashMap<Uuid, u64> = HashMap::new();
        inner.index.each(|key, at| {
            if marked.contains(&key) {
                *live_bytes.entry(at.pack).or_default() += at.stored_share();
            } else if at.kind != BlobKind::Chunk {
                *dead.entry(at.pack).or_default() += 1;
            }
        });
        let mut preview = Collected::default();
        for (pack, len) in inner.index.packs() {
            let live = live_bytes.get(&pack).copied().unwrap_or(0);
            match judge(live, len) {
                PackFate::Keep => preview.forgotten += dead.get(&pack).copied().unwrap_or(0),
                fate => {
                    preview.deleted_packs += 1;
                    preview.rewritten_packs += u64::from(fate == PackFate::Rewrite);
                    preview.freed_bytes += len.saturating_sub(live);
                }
            }
        }
        for (pack, len) in inner.zones.list_packs().await? {
            if inner.is_orphan(pack) {
                preview.orphan_packs += 1;
                preview.freed_bytes += len;
            }
        }
        Ok(preview)
    }
}

/// While it lives, writers that end stay protected.
struct Collection<'a>(&'a Arc<Inner>);

impl Drop for Collection<'_> {
    fn drop(&mut self) {
        self.0.writers().end_collection();
    }
}

impl<'a> Collection<'a> {
    fn begin(inner: &'a Arc<Inner>) -> Self {
        inner.writers().collecting = true;
        Self(inner)
    }

    async fn mark(&self, epoch: GcEpoch, live: &[ManifestId]) -> Result<HashSet<Key>> {
        let recent: Vec<ManifestId> = {
            let writers = self.0.writers();
            let since = writers.committed.iter().filter(|(at, _)| *at > epoch.0);
            since.map(|(_, m)| *m).collect()
        };
        mark(self.0, live.iter().chain(&recent).copied().collect()).await
    }

    async fn sweep(&self, marked: HashSet<Key>) -> Result<Collected> {
        let inner = self.0;
        let condemned = {
            let mut log = inner.index.lock_log().await?;
            let condemned = inner.index.condemn(|| inner.writers().protected(), &marked, judge);
            if !condemned.forgotten.is_empty() {
                let record = Record::Forgotten(condemned.forgotten.clone()).encode();
                // Should this fail, they only come back when the region is opened next.
                if let Err(e) = log.append(&record) {
                    tracing::warn!(region = inner.name, error = %e, "dead manifests could not be recorded as such");
                }
            }
            condemned
        };
        let result = self.carry_out(&condemned, &marked).await;
        if result.is_err() {
            for (pack, _) in condemned.rewrite.iter().chain(&condemned.delete) {
                inner.index.pardon(*pack);
            }
        }
        let mut collected = result?;
        collected.forgotten = condemned.forgotten.len() as u64;
        collected.orphan_packs = self.delete_orphans(&mut collected.freed_bytes).await?;
        let mut log = inner.index.lock_log().await?;
        let index = Arc::clone(&inner.index);
        tokio::task::spawn_blocking(move || index.compact(&mut log)).await.map_err(ChunkError::worker)??;
        Ok(collected)
    }

    async fn carry_out(&self, condemned: &Condemned, marked: &HashSet<Key>) -> Result<Collected> {
        let inner = self.0;
        let mut remove = condemned.delete.clone();
        let mut collected = Collected::default();
        let mut written = 0;
        if !condemned.rewrite.is_empty() {
            let mut writer = PackWriter::new(inner)?;
            for (pack, len) in &condemned.rewrite {
                match move_live(inner, &mut writer, *pack, *len, |key| marked.contains(key)).await {
                    Ok(()) => remove.push((*pack, *len)),
                    Err(e @ (ChunkError::Corrupt { .. } | ChunkError::NotFound { .. })) => {
                        tracing::error!(region = inner.name, %pack, error = %e, "a damaged pack is kept as it is");
                        inner.index.pardon(*pack);
                    }
                    Err(e) => return Err(e),
                }
            }
            written = writer.flush().await?;
        }
        collected.rewritten_packs = remove.len() as u64 - condemned.delete.len() as u64;
        collected.deleted_packs = remove.len() as u64;
        collected.freed_bytes = remove.iter().map(|(_, len)| len).sum::<u64>().saturating_sub(written);
        if remove.is_empty() {
            return Ok(collected);
        }
        let ids = remove.iter().map(|(id, _)| *id).collect();
        inner.index.commit(Record::PacksRemoved(ids), None).await?;
        for (pack, _) in &remove {
            // What stays behind is an orphan for the next collection.
            if let Err(e) = inner.zones.delete_pack(*pack).await {
                tracing::warn!(region = inner.name, %pack, error = %e, "a dead pack could not be deleted yet");
            }
        }
        Ok(collected)
    }

    async fn delete_orphans(&self, freed: &mut u64) -> Result<u64> {
        let mut count = 0;
        for (pack, len) in self.0.zones.list_packs().await? {
            // In flight first: a pack joins the index before it leaves the flight.
            let flying = self.0.writers().in_flight.contains(&pack);
            if flying || self.0.index.has_pack(pack) {
                continue;
            }
            match self.0.zones.delete_pack(pack).await {
                Ok(()) => {
                    count += 1;
                    *freed += len;
                }
                Err(e) => tracing::warn!(region = self.0.name, %pack, error = %e, "an orphan could not be deleted"),
            }
        }
        Ok(count)
    }
}

/// Every blob that these disks need.
async fn mark(inner: &Arc<Inner>, manifests: HashSet<ManifestId>) -> Result<HashSet<Key>> {
    let mut marked = HashSet::new();
    for manifest in manifests {
        let root = reader::load_root(inner, manifest).await?;
        marked.insert(Key::from(manifest.as_blob()));
        for segment in &root.segments {
            // A segment marked before has its chunks marked already.
            if marked.insert(segment.id.into()) {
                let extents = &reader::load_segment(inner, segment.id).await?.extents;
                marked.extend(extents.iter().map(|e| Key::from(e.chunk)));
            }
        }
    }
    Ok(marked)
}

fn judge(live: u64, len: u64) -> PackFate {
    if live == 0 {
        PackFate::Delete
    } else if live * 100 < len * REWRITE_BELOW_PERCENT {
        PackFate::Rewrite
    } else {
        PackFate::Keep
    }
}

/// Copies the live blobs of a pack, verified, into the writer's packs.
pub(crate) async fn move_live(
    inner: &Arc<Inner>,
    writer: &mut PackWriter,
    pack: Uuid,
    len: u64,
    live: impl Fn(&Key) -> bool,
) -> Result<()> {
    let mut table = Err(ChunkError::not_found(format!("pack {pack}"), &inner.name));
    for zone in inner.zones.order() {
        table = read_table(inner, zone, pack, len).await;
        if table.is_ok() {
            break;
        }
    }
    let here = |id: ChunkId| inner.index.lookup(id).is_some_and(|at| at.pack == pack);
    let blobs: Vec<ChunkId> =
        table?.iter().flat_map(|f| &f.blobs).map(|b| b.id).filter(|id| live(&Key::from(*id)) && here(*id)).collect();
    // All are verified before any is written; a pack's worth is in memory.
    let mut frames = Vec::new();
    for step in moving::steps(reader::locate(inner, blobs.into_iter()).await?) {
        frames.extend(moving::fetch(inner, step).await?);
    }
    for frame in frames {
        writer.add(frame).await?;
    }
    Ok(())
}
