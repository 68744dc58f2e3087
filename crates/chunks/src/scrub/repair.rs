//! Mending what a scrub found.
//!
//! ```text
//! heads     store.json of a zone, from another zone
//! refill    a pack's copy in one zone, whole, from a zone whose copy is whole
//! rescue    a pack with no whole copy: its sound blobs, from whatever zone has them, go into a new pack
//! index     built again from the packs, if it is stale, damaged or lacks what disks need
//! fetch     what disks need and no zone has, from other regions; until that brings nothing more
//! ```
//! Every byte is verified before it is written. A damaged pack whose blobs could not all be had is not deleted but
//! kept below `quarantine/`; the index forgets what it lost, so that the next ingest of the same bytes stores them.

use std::collections::HashSet;

use bytes::Bytes;
use object_store::path::Path;
use uuid::Uuid;

use super::check::{frames_of, sound_blobs};
use super::{Copies, Object, Outcome, Problem, Scrub, is_head, verify};
use crate::codec::{Encoder, LEVEL, StoredFrame};
use crate::error::{ChunkError, Result};
use crate::id::ChunkId;
use crate::index::Location;
use crate::log::{Key, Record};
use crate::pack::{self, line_up};
use crate::params::HEAD;
use crate::reader::fetch_frames;
use crate::region::Region;
use crate::store::QUARANTINE;
use crate::writer::PackWriter;

/// Blobs asked of another region at once.
const STEP: usize = 64;

/// A pack whose sound blobs have moved.
struct Emptied {
    pack: Uuid,
    lost: HashSet<Key>,
}

impl Scrub<'_> {
    pub(super) async fn repair(&mut self) -> Result<()> {
        self.repair_heads().await?;
        let mut emptied = Vec::new();
        {
            let _no_collection = self.inner.gc.lock().await;
            let mut broken: Vec<(Uuid, Copies)> = std::mem::take(&mut self.broken).into_iter().collect();
            broken.sort_unstable_by_key(|(pack, _)| *pack);
            for (pack, copies) in broken {
                self.go_on()?;
                match copies.whole {
                    Some(from) => self.refill(pack, from, &copies.bad).await?,
                    None if copies.unread => {
                        let why = "a zone's copy cannot be read now, and may be whole; scrub again".to_owned();
                        self.conclude_all(pack::key(pack).as_ref(), Outcome::Unrepairable { why });
                    }
                    None => emptied.extend(self.rescue(pack, copies.bad).await?),
                }
            }
        }
        self.repair_index().await?;
        self.check_manifests().await?;
        let _no_collection = self.inner.gc.lock().await;
        let mut donors = HashSet::new();
        while !self.wanted.is_empty() && self.fetch_wanted(&mut donors).await? {
            self.check_manifests().await?;
        }
        for pack in emptied {
            self.put_away(pack, &donors).await?;
        }
        self.settle(&donors);
        Ok(())
    }

    async fn repair_heads(&mut self) -> Result<()> {
        let key = Path::from(HEAD);
        let mut good = None;
        for zone in self.reachable() {
            if let Ok(Some(bytes)) = self.inner.zones.get_in(zone, &key).await
                && is_head(&bytes)
            {
                good = Some((zone, bytes));
                break;
            }
        }
        let Some((from, bytes)) = good else { return Ok(()) };
        for zone in self.reachable() {
            if self.report.findings.iter().any(|f| f.name == HEAD && f.zone == Some(zone)) {
                let done = self.inner.zones.restore_in(zone, &key, bytes.clone()).await;
                self.conclude(HEAD, Some(zone), outcome(done, || format!("zone {from}")));
            }
        }
        Ok(())
    }

    /// Whole from `from` to the zones `to`.
    async fn refill(&mut self, pack: Uuid, from: usize, to: &[usize]) -> Result<()> {
        let key = pack::key(pack);
        if !self.inner.index.has_pack(pack) {
            return Ok(());
        }
        let bytes = self.read_pack(from, pack).await?;
        let len = self.inner.index.packs().get(&pack).copied();
        let Some(bytes) = bytes.filter(|b| Some(b.len() as u64) == len) else {
            return Ok(());
        };
        let indexed = self.indexed(&[(pack, 0)]).remove(&pack).unwrap_or_default();
        if !verify(bytes.clone(), indexed, self.options.deep).await?.is_whole() {
            return Ok(());
        }
        for &zone in to {
            let done = self.inner.zones.restore_in(zone, &key, bytes.clone()).await;
            self.conclude(key.as_ref(), Some(zone), outcome(done, || format!("zone {from}")));
        }
        Ok(())
    }

    /// Moves the sound blobs of a pack without a whole copy into a new pack and takes the old one out of the index.
    async fn rescue(&mut self, pack: Uuid, zones: Vec<usize>) -> Result<Option<Emptied>> {
        if !self.inner.index.condemn_pack(pack, || self.inner.writers().protected()) {
            let why = "a running ingest or replication counts on it; scrub again when that has ended".to_owned();
            self.conclude_all(pack::key(pack).as_ref(), Outcome::Unrepairable { why });
            return Ok(None);
        }
        let moved = self.move_sound(pack, &zones).await;
        let lost = match moved {
            Ok(lost) => lost,
            Err(e) => {
                self.inner.index.pardon(pack);
                return Err(e);
            }
        };
        // Aside first, then out of index and packs: an index that is built again must not know it again.
        for &zone in &zones {
            self.inner.zones.set_aside_in(zone, &pack::key(pack), &aside(pack)).await?;
        }
        self.inner.index.commit(Record::PacksRemoved(vec![pack]), None).await?;
        self.inner.zones.delete_pack(pack).await?;
        Ok(Some(Emptied { pack, lost }))
    }

    /// Returns what could not be moved.
    async fn move_sound(&mut self, pack: Uuid, zones: &[usize]) -> Result<HashSet<Key>> {
        let indexed = self.indexed(&[(pack, 0)]).remove(&pack).unwrap_or_default();
        let mut left: HashSet<Key> = indexed.iter().map(|(key, _)| *key).collect();
        let mut writer = PackWriter::new(self.inner)?;
        let mut encoder = Encoder::new(LEVEL)?;
        for &zone in zones {
            let Some(bytes) = self.read_pack(zone, pack).await? else { continue };
            for frame in frames_of(&indexed) {
                let mut sound = sound_blobs(&bytes, frame);
                sound.retain(|(id, ..)| left.remove(&Key::from(*id)));
                if !sound.is_empty() {
                    writer.add(pack_anew(&mut encoder, &sound)?).await?;
                }
            }
        }
        writer.flush().await?;
        for (key, _) in &indexed {
            self.lost.remove(key);
        }
        Ok(left)
    }

    async fn repair_index(&mut self) -> Result<()> {
        let wrong = |f: &super::Finding| f.object == Object::Index && f.is_open();
        let lacking = !self.wanted.is_empty()
            && self.listed.iter().flatten().any(|l| l.packs.keys().any(|p| !self.inner.index.has_pack(*p)));
        if !lacking && !self.report.findings.iter().any(wrong) {
            return Ok(());
        }
        self.region.rebuild_index().await?;
        self.index_usable = true;
        // What the new index does not know is missing, and no longer lost in a pack.
        let inner = self.inner;
        self.lost.retain(|key| inner.index.lookup_key(*key).is_some());
        self.conclude_all("index.log", Outcome::Repaired { from: "the packs".into() });
        // They were nobody's because the index did not know them.
        self.report.findings.retain(|f| {
            let orphan = f.object == Object::Pack && f.problem == Problem::Unreferenced;
            !(orphan && pack::from_key(&Path::from(f.name.as_str())).is_some_and(|p| inner.index.has_pack(p)))
        });
        Ok(())
    }

    /// Brings what is wanted from other regions. `false`: they had nothing of it.
    async fn fetch_wanted(&mut self, from: &mut HashSet<String>) -> Result<bool> {
        let here = |id: &ChunkId| self.inner.index.lookup(*id).is_some();
        let mut missing: HashSet<ChunkId> = self.wanted.values().copied().filter(|id| !here(id)).collect();
        let mut writer = PackWriter::new(self.inner)?;
        let before = missing.len();
        for donor in &self.options.donors {
            donor.0.refresh().await?;
            let located = missing.iter().filter_map(|id| Some((*id, donor.0.index.lookup(*id)?)));
            let mut has: Vec<(ChunkId, Location)> = located.collect();
            // Neighbours together, so that frames that are wanted whole move as they are stored.
            has.sort_unstable_by_key(|(_, at)| (at.pack, at.offset, at.at));
            let has: Vec<ChunkId> = has.into_iter().map(|(id, _)| id).collect();
            for step in has.chunks(STEP) {
                self.go_on()?;
                for frame in ask(donor, step).await? {
                    frame.blobs.iter().for_each(|b| {
                        missing.remove(&b.id);
                    });
                    writer.add(frame).await?;
                    from.insert(donor.name().to_owned());
                }
            }
        }
        writer.flush().await?;
        Ok(missing.len() < before)
    }

    /// Deletes a rescued pack, or leaves it aside if some of it was lost.
    async fn put_away(&mut self, emptied: Emptied, donors: &HashSet<String>) -> Result<()> {
        let key = pack::key(emptied.pack);
        let root = |key: &Key| self.roots.as_ref().is_some_and(|roots| roots.contains(key));
        let lost = emptied.lost.iter().filter(|k| self.wanted.contains_key(k) || root(k)).count();
        if lost == 0 {
            let helped = if emptied.lost.is_empty() { None } else { regions(donors) };
            let from = helped.unwrap_or_else(|| "its own sound blobs".into());
            self.conclude_all(key.as_ref(), Outcome::Repaired { from });
            return self.inner.zones.delete(&aside(emptied.pack)).await;
        }
        let why = format!(
            "{lost} blobs that disks need are sound in no zone and in no other region; the pack is kept as {}",
            aside(emptied.pack)
        );
        self.conclude_all(key.as_ref(), Outcome::Unrepairable { why });
        Ok(())
    }

    /// What became of missing blobs and manifests.
    fn settle(&mut self, donors: &HashSet<String>) {
        let from = regions(donors).unwrap_or_else(|| "this region's packs".to_owned());
        let wanted: HashSet<String> = self.wanted.values().map(ToString::to_string).collect();
        let unreadable: HashSet<&String> = self.report.unreadable.iter().collect();
        let asked = self.options.donors.len();
        for finding in &mut self.report.findings {
            let blob = matches!(finding.object, Object::Manifest | Object::Segment | Object::Chunk);
            if !blob || !finding.is_open() {
                continue;
            }
            finding.outcome = if wanted.contains(&finding.name) || unreadable.contains(&finding.name) {
                Outcome::Unrepairable { why: format!("no zone has it, nor do the {asked} other regions asked") }
            } else {
                Outcome::Repaired { from: from.clone() }
            };
        }
    }

    fn conclude_all(&mut self, name: &str, outcome: Outcome) {
        self.conclude(name, None, outcome);
    }

    /// Ends the findings on an object: all, or those of one zone.
    fn conclude(&mut self, name: &str, zone: Option<usize>, outcome: Outcome) {
        let here = |f: &&mut super::Finding| f.name == name && f.problem != Problem::Unreferenced;
        for finding in self.report.findings.iter_mut().filter(here) {
            if zone.is_none() || finding.zone.is_none() || finding.zone == zone {
                finding.outcome = outcome.clone();
            }
        }
    }
}

/// The regions that helped, in words.
fn regions(donors: &HashSet<String>) -> Option<String> {
    let mut names: Vec<&str> = donors.iter().map(String::as_str).collect();
    names.sort_unstable();
    (!names.is_empty()).then(|| format!("region {}", names.join(", ")))
}

/// Where a damaged pack is kept.
fn aside(pack: Uuid) -> Path {
    Path::from(format!("{QUARANTINE}/{}", pack.simple()))
}

fn outcome(done: Result<()>, from: impl Fn() -> String) -> Outcome {
    match done {
        Ok(()) => Outcome::Repaired { from: from() },
        Err(e) => Outcome::Unrepairable { why: super::with_causes(&e) },
    }
}

/// A frame of these neighbours, of which some that were between them may be gone.
fn pack_anew(encoder: &mut Encoder, blobs: &[(ChunkId, Location, Bytes)]) -> Result<StoredFrame> {
    let parts = line_up(blobs.iter().map(|(id, at, _)| (*id, at.plain_len)));
    let parts = parts.ok_or_else(|| ChunkError::corrupt("a frame", "its blobs are too long"))?;
    let plain: Vec<u8> = blobs.iter().flat_map(|(.., plain)| plain.iter().copied()).collect();
    encoder.encode_frame(blobs[0].1.kind, parts, &plain)
}

/// What of `step` another region has sound.
async fn ask(donor: &Region, step: &[ChunkId]) -> Result<Vec<StoredFrame>> {
    match fetch_frames(&donor.0, step).await {
        Err(e) if fails_alone(&e) => {}
        answer => return answer,
    }
    // One of them is damaged there, too: ask one by one.
    let mut found = Vec::new();
    for id in step {
        match fetch_frames(&donor.0, &[*id]).await {
            Ok(one) => found.extend(one),
            Err(e) if fails_alone(&e) => tracing::warn!(region = donor.name(), error = %e, "no help from there"),
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn fails_alone(error: &ChunkError) -> bool {
    matches!(error, ChunkError::NotFound { .. } | ChunkError::Corrupt { .. } | ChunkError::Store { .. })
}
