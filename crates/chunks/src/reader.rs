//! Reading a disk at random: manifest -> segment -> chunk, each verified by its id, then cached.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;
use uuid::Uuid;

use crate::cache::Cached;
use crate::codec::{Encoder, LEVEL, StoredFrame, decode_frame, part_of};
use crate::error::{ChunkError, Result};
use crate::frame_cache::FrameCache;
use crate::id::{BlobKind, ChunkId, ManifestId};
use crate::index::Location;
use crate::manifest::{Root, Segment, SegmentExtent};
use crate::pack::{Check, line_up};
use crate::params::SEGMENT;
use crate::region::Inner;

/// Chunks of one pack are read together when no more than this lies between them...
const GAP: u32 = 64 << 10;
/// ...and the whole read is no longer than this.
const GROUP: u32 = 1 << 20;
const PARALLEL: usize = 4;
/// More than this is not unpacked on an async thread.
const UNPACKED_HERE: usize = 128 << 10;
/// How far a sequential reader is kept ahead: as far as it has read without a jump, within these.
const AHEAD_MIN: u64 = 256 << 10;
const AHEAD_MAX: u64 = 4 << 20;
/// Read-ahead is fetched in pieces of this size, each by a task of its own, so that several cores unpack.
const AHEAD_PIECE: u64 = 1 << 20;

/// A run of a disk, from where the one before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskExtent {
    pub len: u64,
    /// Reads as zeros; nothing is stored for it.
    pub hole: bool,
}

/// Reads one disk. Clones share everything; reads may run at the same time.
#[derive(Clone)]
pub struct DiskReader(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    manifest: ManifestId,
    root: Root,
    ahead: Mutex<Ahead>,
}

/// Read-ahead of one disk.
#[derive(Default)]
struct Ahead {
    /// The run of reads, each of which began where the one before it ended.
    run: Range<u64>,
    /// Up to where read-ahead was started.
    started: u64,
    /// What is being fetched; a channel closes when its fetch is over, whatever came of it.
    running: Vec<(Range<u64>, watch::Receiver<()>)>,
}

impl Ahead {
    /// Notes a read and decides what to fetch ahead of it.
    fn after(&mut self, read: Range<u64>, size: u64) -> Vec<Range<u64>> {
        if read.start != self.run.end || read.start == 0 && self.run.is_empty() {
            self.run = read;
            return Vec::new();
        }
        self.run.end = read.end;
        let window = (self.run.end - self.run.start).clamp(AHEAD_MIN, AHEAD_MAX);
        let to = (read.end + window).min(size);
        let known = (read.end..=read.end + AHEAD_MAX).contains(&self.started);
        let from = if known { self.started } else { read.end };
        let worth = to.saturating_sub(from) >= (window / 2).min(AHEAD_PIECE) || to == size;
        if from >= to || !worth {
            return Vec::new();
        }
        self.started = to;
        let pieces = (to - from).div_ceil(AHEAD_PIECE);
        (0..pieces).map(|i| from + i * AHEAD_PIECE..(from + (i + 1) * AHEAD_PIECE).min(to)).collect()
    }

    /// The fetches under way that touch `wanted`.
    fn fetching(&mut self, wanted: &Range<u64>) -> Vec<watch::Receiver<()>> {
        self.running.retain(|(_, over)| over.has_changed().is_ok());
        let touching = self.running.iter().filter(|(r, _)| r.start < wanted.end && wanted.start < r.end);
        touching.map(|(_, over)| over.clone()).collect()
    }
}

/// A part of a chunk and where it goes in the caller's buffer.
struct Piece {
    chunk: ChunkId,
    from: usize,
    to: Range<usize>,
}

impl DiskReader {
    pub(crate) async fn open(inner: Arc<Inner>, manifest: ManifestId) -> Result<Self> {
        let root = load_root(&inner, manifest).await?;
        Ok(Self(Arc::new(Shared { inner, manifest, root, ahead: Mutex::default() })))
    }

    /// The disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.0.root.size
    }

    /// Its bytes that are data.
    pub fn data_bytes(&self) -> u64 {
        self.0.root.data_bytes
    }

    pub fn manifest(&self) -> ManifestId {
        self.0.manifest
    }

    /// Whether the region still has the disk. One that was collected cannot be read any more.
    pub fn is_held(&self) -> bool {
        self.0.inner.index.lookup(self.0.manifest.as_blob()).is_some()
    }

    pub(crate) fn root(&self) -> &Root {
        &self.0.root
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }

    /// Fills `buf` with the disk's bytes at `offset`. On an error nothing in `buf` may be used.
    pub async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = self.check_range(offset, buf.len() as u64)?;
        self.wait_for_ahead(offset..end).await;
        let extents = self.extents_in(offset..end).await?;
        zero_holes(&extents, offset, buf);
        let pieces: Vec<Piece> = extents.iter().map(|(at, e)| piece(*at, e, offset..end)).collect();
        let mut missing = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            match self.0.inner.cache.get(piece.chunk) {
                Some(Cached::Chunk(plain)) => copy(piece, &plain, buf)?,
                _ => missing.push((i, piece.chunk)),
            }
        }
        if !missing.is_empty() {
            let places = missing.iter().map(|(i, _)| extents[*i].0);
            let ids = self.with_frames(places).await?;
            for (id, plain) in fetch_plain(&self.0.inner, ids).await? {
                for (i, _) in missing.iter().filter(|(_, wanted)| *wanted == id) {
                    copy(&pieces[*i], &plain, buf)?;
                }
            }
        }
        Ok(())
    }

    /// What of `offset..offset + len` is stored and what is a hole. Neighbours differ in kind.
    pub async fn extents(&self, offset: u64, len: u64) -> Result<Vec<DiskExtent>> {
        let end = self.check_range(offset, len)?;
        let mut out: Vec<DiskExtent> = Vec::new();
        let mut push = |len: u64, hole: bool| match out.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.hole == hole => last.len += len,
            _ => out.push(DiskExtent { len, hole }),
        };
        let mut at = offset;
        for (start, extent) in self.extents_in(offset..end).await? {
            let from = start.max(offset);
            let to = (start + u64::from(extent.len)).min(end);
            push(from - at, true);
            push(to - from, false);
            at = to;
        }
        push(end - at, true);
        Ok(out)
    }

    /// Bytes of memory that plain bytes are kept in, over all disks.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.0.inner.cache.capacity()
    }

    /// Brings what is not there of these ranges, inside the disk, into the caches: together, so in few reads.
    pub(crate) async fn prefetch(&self, ranges: Vec<Range<u64>>) -> Result<()> {
        let mut missing = Vec::new();
        for range in ranges {
            let extents = self.extents_in(range).await?;
            missing.extend(extents.iter().filter(|(_, e)| !self.0.inner.cache.holds(e.chunk)).map(|(at, _)| *at));
        }
        let wanted = self.with_frames(missing.into_iter()).await?;
        fetch_plain(&self.0.inner, wanted).await.map(|_| ())
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<u64> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size());
        end.ok_or(ChunkError::OutOfRange { offset, len, size: self.size() })
    }

    /// The extents that touch `range`, with their offsets on the disk.
    async fn extents_in(&self, range: Range<u64>) -> Result<Vec<(u64, SegmentExtent)>> {
        let mut out = Vec::new();
        let numbers = range.start / SEGMENT..range.end.div_ceil(SEGMENT);
        for number in numbers {
            let Some(wanted) = self.0.root.segment(number) else {
                continue;
            };
            let segment = load_segment(&self.0.inner, wanted.id).await?;
            let base = number * SEGMENT;
            let extents = &segment.extents;
            let first = extents.partition_point(|e| base + u64::from(e.offset) + u64::from(e.len) <= range.start);
            let touching = extents[first..].iter().take_while(|e| base + u64::from(e.offset) < range.end);
            out.extend(touching.map(|e| (base + u64::from(e.offset), *e)));
        }
        Ok(out)
    }

    /// The chunks at these offsets and those that share a frame with one of them: unpacked anyway, they are verified
    /// and cached, too.
    async fn with_frames(&self, offsets: impl Iterator<Item = u64>) -> Result<Vec<ChunkId>> {
        let Inner { index, cache, .. } = &*self.0.inner;
        let mut out = HashSet::new();
        for offset in offsets {
            let Some(number) = self.0.root.segment(offset / SEGMENT) else { continue };
            let extents = &load_segment(&self.0.inner, number.id).await?.extents;
            let here = extents.partition_point(|e| u64::from(e.offset) < offset % SEGMENT);
            let Some(wanted) = extents.get(here).map(|e| e.chunk) else { continue };
            if !out.insert(wanted) || cache.capacity() < 8 * AHEAD_MAX {
                continue;
            }
            // Not found: the fetch will look again and say so.
            let Some(frame) = index.lookup(wanted) else { continue };
            let beside = |e: &&SegmentExtent| index.lookup(e.chunk).is_some_and(|at| at.same_frame(&frame));
            let before = extents[..here].iter().rev().take_while(beside);
            let after = extents[here + 1..].iter().take_while(beside);
            out.extend(before.chain(after).map(|e| e.chunk).filter(|id| !cache.holds(*id)));
        }
        Ok(out.into_iter().collect())
    }

    /// Starts fetching what a sequential reader will want next, and waits for what was started for this read:
    /// fetching it a second time would only be slower.
    async fn wait_for_ahead(&self, read: Range<u64>) {
        if self.0.inner.cache.capacity() < 8 * AHEAD_MAX {
            return;
        }
        let waits = {
            let mut ahead = self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            let waits = ahead.fetching(&read);
            for range in ahead.after(read, self.size()) {
                let (over, watch) = watch::channel(());
                ahead.running.push((range.clone(), watch));
                tokio::spawn(self.clone().fetch_ahead(range, over));
            }
            waits
        };
        for mut wait in waits {
            let _ = wait.changed().await;
        }
    }

    async fn fetch_ahead(self, range: Range<u64>, over: watch::Sender<()>) {
        // Only a hint: the read itself will meet the error again and report it.
        let _ = self.prefetch(vec![range]).await;
        drop(over);
    }
}

/// Zeroes what no extent covers; the rest is about to be filled.
fn zero_holes(extents: &[(u64, SegmentExtent)], offset: u64, buf: &mut [u8]) {
    let local = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
    let covered: Vec<_> = extents.iter().map(|(at, e)| local(*at)..local(at + u64::from(e.len))).collect();
    let mut at = 0;
    for data in covered {
        buf[at..data.start.max(at)].fill(0);
        at = at.max(data.end);
    }
    buf[at..].fill(0);
}

fn piece(start: u64, extent: &SegmentExtent, wanted: Range<u64>) -> Piece {
    let from = start.max(wanted.start);
    let to = (start + u64::from(extent.len)).min(wanted.end);
    let local = |n: u64| usize::try_from(n).expect("inside a buffer or a chunk");
    Piece { chunk: extent.chunk, from: local(from - start), to: local(from - wanted.start)..local(to - wanted.start) }
}

fn copy(piece: &Piece, plain: &[u8], buf: &mut [u8]) -> Result<()> {
    let part = plain
        .get(piece.from..piece.from + piece.to.len())
        .ok_or_else(|| ChunkError::corrupt(format!("chunk {}", piece.chunk), "it is shorter than its manifest says"))?;
    buf[piece.to.clone()].copy_from_slice(part);
    Ok(())
}

/// The verified root of a manifest.
pub(crate) async fn load_root(inner: &Arc<Inner>, manifest: ManifestId) -> Result<Root> {
    let id = manifest.as_blob();
    let not_found = || ChunkError::not_found(format!("image {manifest}"), &inner.name);
    if inner.index.lookup(id).is_none() {
        inner.refresh().await?;
    }
    match inner.index.lookup(id) {
        Some(at) if at.kind == BlobKind::Root => {}
        _ => return Err(not_found()),
    }
    let blobs = fetch_blobs(inner, vec![id]).await?;
    let (_, plain) = blobs.first().ok_or_else(not_found)?;
    Root::parse(plain)
}

/// A verified segment, from the cache if it is there.
pub(crate) async fn load_segment(inner: &Arc<Inner>, id: ChunkId) -> Result<Arc<Segment>> {
    if let Some(Cached::Segment(segment)) = inner.cache.get(id) {
        return Ok(segment);
    }
    let blobs = fetch_blobs(inner, vec![id]).await?;
    let (_, plain) = blobs.first().ok_or_else(|| ChunkError::not_found(format!("segment {id}"), &inner.name))?;
    let segment = Arc::new(Segment::parse(plain)?);
    inner.cache.put(id, Cached::Segment(Arc::clone(&segment)));
    Ok(segment)
}

/// Fetches chunks into the cache.
async fn fetch_plain(inner: &Arc<Inner>, ids: Vec<ChunkId>) -> Result<Vec<(ChunkId, Bytes)>> {
    let blobs = fetch_blobs(inner, ids).await?;
    for (id, plain) in &blobs {
        inner.cache.put(*id, Cached::Chunk(plain.clone()));
    }
    Ok(blobs)
}

/// The plain bytes of blobs, verified; duplicates once, in no order.
async fn fetch_blobs(inner: &Arc<Inner>, ids: Vec<ChunkId>) -> Result<Vec<(ChunkId, Bytes)>> {
    let frames = fetch(inner, ids.into_iter().collect(), GAP).await?;
    Ok(frames.into_iter().flat_map(|f| f.blobs).map(|b| (b.id, b.plain)).collect())
}

/// Segments or a root, each alone in its frame: their plain bytes, verified, and as they are stored, to be stored elsewhere.
pub(crate) async fn fetch_alone(
    inner: &Arc<Inner>,
    ids: impl IntoIterator<Item = ChunkId>,
) -> Result<Vec<(Bytes, StoredFrame)>> {
    // What lies between them is not read: chunks that are moved, too, and would be read twice.
    let frames = fetch(inner, ids.into_iter().collect(), 0).await?;
    let alone = |frame: Fetched| {
        let plain = frame.blobs.first().map(|b| b.plain.clone()).unwrap_or_default();
        Ok((plain, frame.into_stored()?))
    };
    frames.into_iter().map(alone).collect()
}

/// Blobs as they are stored, verified, to be stored elsewhere: in the order of `ids`, duplicates once. A frame that
/// holds others, too, is packed anew without them.
pub(crate) async fn fetch_frames(inner: &Arc<Inner>, ids: &[ChunkId]) -> Result<Vec<StoredFrame>> {
    let order: HashMap<ChunkId, usize> = ids.iter().enumerate().rev().map(|(i, id)| (*id, i)).collect();
    let mut frames = fetch(inner, ids.iter().copied().collect(), GAP).await?;
    frames.sort_by_key(|f| f.blobs.iter().filter_map(|b| order.get(&b.id)).min().copied());
    let whole = frames.iter().all(Fetched::is_whole);
    let stored = move || frames.into_iter().map(Fetched::into_stored).collect();
    if whole { stored() } else { tokio::task::spawn_blocking(stored).await.map_err(ChunkError::worker)? }
}

/// A frame that was read, and those of its blobs that were wanted, verified.
struct Fetched {
    at: Location,
    stored: Bytes,
    blobs: Vec<FetchedBlob>,
}

struct FetchedBlob {
    id: ChunkId,
    at: Location,
    plain: Bytes,
}

impl Fetched {
    fn is_whole(&self) -> bool {
        self.blobs.iter().map(|b| b.plain.len()).sum::<usize>() == self.at.frame_len as usize
    }

    fn into_stored(mut self) -> Result<StoredFrame> {
        self.blobs.sort_by_key(|b| b.at.at);
        let parts = line_up(self.blobs.iter().map(|b| (b.id, b.at.plain_len)));
        let blobs = parts.ok_or_else(|| ChunkError::corrupt("a frame", "its blobs are too long"))?;
        let Location { kind, raw, frame_len: plain_len, .. } = self.at;
        if self.is_whole() {
            let bytes = self.stored;
            return Ok(StoredFrame { kind, raw, plain_len, check: Check::of(&bytes), bytes, within: None, blobs });
        }
        let plain: Vec<u8> = self.blobs.iter().flat_map(|b| b.plain.iter().copied()).collect();
        Encoder::new(LEVEL)?.encode_frame(kind, blobs, &plain)
    }
}

/// Reads blobs with their frames. Those of a pack are read together where no more than `gap` lies between them. A pack that
/// vanished meanwhile (collection moved its blobs) is looked up again.
async fn fetch(inner: &Arc<Inner>, mut wanted: HashSet<ChunkId>, gap: u32) -> Result<Vec<Fetched>> {
    let mut out = Vec::new();
    let mut attempt = 0;
    while !wanted.is_empty() {
        let mut located = locate(inner, wanted.iter().copied()).await?;
        if let Some(cache) = &inner.frames {
            let cached;
            (cached, located) = kept_frames(cache.clone(), located).await?;
            for blob in cached.iter().flat_map(|f| &f.blobs) {
                wanted.remove(&blob.id);
            }
            out.extend(cached);
        }
        let groups = group(located, gap);
        let mut fetches =
            futures::stream::iter(groups).map(|group| fetch_group(inner, group)).buffer_unordered(PARALLEL);
        let mut gone = None;
        while let Some(result) = fetches.next().await {
            match result {
                Ok(frames) => {
                    for frame in &frames {
                        for blob in &frame.blobs {
                            wanted.remove(&blob.id);
                        }
                        if let (Some(cache), Some(check)) = (&inner.frames, frame.at.check) {
                            cache.put_later(check, frame.stored.clone());
                        }
                    }
                    out.extend(frames);
                }
                Err(e @ ChunkError::NotFound { .. }) => gone = Some(e),
                Err(e) => return Err(e),
            }
        }
        drop(fetches);
        if let Some(e) = gone {
            attempt += 1;
            if attempt == 3 {
                return Err(e);
            }
            inner.refresh().await?;
        }
    }
    Ok(out)
}

/// The frames that are kept on this machine, and the blobs that are not in them.
async fn kept_frames(
    cache: FrameCache,
    mut located: Vec<(ChunkId, Location)>,
) -> Result<(Vec<Fetched>, Vec<(ChunkId, Location)>)> {
    let look = move || {
        let (mut kept, mut others) = (Vec::new(), Vec::new());
        located.sort_unstable_by_key(|(_, at)| (at.pack, at.offset, at.at));
        for blobs in located.chunk_by(|(_, a), (_, b)| a.same_frame(b)) {
            let stored = blobs[0].1.check.and_then(|check| cache.get(check));
            match stored.and_then(|stored| unpack_frame(blobs, stored).ok()) {
                Some(frame) => kept.push(frame),
                None => others.extend_from_slice(blobs),
            }
        }
        (kept, others)
    };
    tokio::task::spawn_blocking(look).await.map_err(ChunkError::worker)
}

/// Where each of these blobs lies; an error if one is not here.
pub(crate) async fn locate(
    inner: &Arc<Inner>,
    wanted: impl ExactSizeIterator<Item = ChunkId> + Send,
) -> Result<Vec<(ChunkId, Location)>> {
    let mut refreshed = false;
    let mut out = Vec::with_capacity(wanted.len());
    for id in wanted {
        let mut found = inner.index.lookup(id);
        if found.is_none() && !refreshed {
            inner.refresh().await?;
            refreshed = true;
            found = inner.index.lookup(id);
        }
        let at = found.ok_or_else(|| ChunkError::not_found(format!("chunk {id}"), &inner.name))?;
        out.push((id, at));
    }
    Ok(out)
}

/// Neighbours in one pack.
struct Group {
    pack: Uuid,
    range: Range<u32>,
    blobs: Vec<(ChunkId, Location)>,
}

/// Sorts blobs into few reads.
fn group(mut blobs: Vec<(ChunkId, Location)>, gap: u32) -> Vec<Group> {
    blobs.sort_by_key(|(_, at)| (at.pack, at.offset, at.at));
    let mut groups: Vec<Group> = Vec::new();
    for (id, at) in blobs {
        let end = at.offset + at.stored_len;
        match groups.last_mut() {
            Some(g) if g.pack == at.pack && at.offset <= g.range.end + gap && end <= g.range.start + GROUP => {
                g.range.end = g.range.end.max(end);
                g.blobs.push((id, at));
            }
            _ => groups.push(Group { pack: at.pack, range: at.offset..end, blobs: vec![(id, at)] }),
        }
    }
    groups
}

/// Reads one group from the first zone that has it whole.
async fn fetch_group(inner: &Arc<Inner>, group: Group) -> Result<Vec<Fetched>> {
    let (pack, range) = (group.pack, group.range.clone());
    let group = Arc::new(group);
    read_sound(inner, pack, range, UNPACKED_HERE, move |bytes| {
        let each = group.blobs.chunk_by(|(_, a), (_, b)| a.offset == b.offset);
        let stored = |at: Location| {
            let start = (at.offset - group.range.start) as usize;
            bytes.slice(start..start + at.stored_len as usize)
        };
        each.map(|blobs| unpack_frame(blobs, stored(blobs[0].1))).collect()
    })
    .await
}

/// What `verify` makes of a part of a pack in the first zone whose copy it finds sound. Parts of more than `here` bytes are
/// verified off the async threads.
pub(crate) async fn read_sound<T: Send + 'static>(
    inner: &Arc<Inner>,
    pack: Uuid,
    range: Range<u32>,
    here: usize,
    verify: impl Fn(Bytes) -> Result<T> + Clone + Send + 'static,
) -> Result<T> {
    let range = u64::from(range.start)..u64::from(range.end);
    let mut last = None;
    for zone in inner.zones.order() {
        let result = match inner.zones.read_pack(zone, pack, range.clone()).await {
            Ok(bytes) if bytes.len() <= here => verify(bytes),
            Ok(bytes) => {
                let verify = verify.clone();
                tokio::task::spawn_blocking(move || verify(bytes)).await.map_err(ChunkError::worker).flatten()
            }
            Err(e) => Err(e),
        };
        match result {
            Ok(sound) => return Ok(sound),
            Err(e) => {
                let worse = |old: &ChunkError| matches!(old, ChunkError::NotFound { .. });
                if inner.zones.len() > 1 {
                    tracing::warn!(region = inner.name, zone, error = %e, "a zone failed a read");
                }
                if last.as_ref().is_none_or(worse) {
                    last = Some(e);
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| ChunkError::not_found(format!("pack {pack}"), &inner.name)))
}

/// A frame by its stored bytes, and the blobs wanted of it, verified.
fn unpack_frame(blobs: &[(ChunkId, Location)], stored: Bytes) -> Result<Fetched> {
    let at = blobs[0].1;
    let frame = decode_frame(at.raw, at.frame_len, &stored)
        .ok_or_else(|| ChunkError::corrupt(format!("{:?} {}", at.kind, blobs[0].0), "it does not decompress"))?;
    let alone = !at.raw && blobs.len() == 1 && frame.len() == at.plain_len as usize;
    let each = blobs.iter().map(|(id, at)| {
        let plain = part_of(&frame, at.kind, *id, at.at, at.plain_len)?;
        // A slice would keep the whole frame (or, where nothing was unpacked, the group) alive in the cache.
        let plain = if alone { plain } else { Bytes::copy_from_slice(&plain) };
        Ok(FetchedBlob { id: *id, at: *at, plain })
    });
    let blobs = each.collect::<Result<_>>()?;
    Ok(Fetched { at, stored, blobs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_ahead_follows_a_sequential_reader_once() {
        const READ: u64 = 128 << 10;
        let size = 64 << 20;
        let mut ahead = Ahead::default();
        let mut fetched = Vec::new();
        for at in (0..size).step_by(1 << 17) {
            for range in ahead.after(at..at + READ, size) {
                assert!(range.start >= at + READ && range.end <= at + READ + AHEAD_MAX);
                assert!(range.end - range.start <= AHEAD_PIECE);
                fetched.push(range);
            }
        }
        // All but the first reads, every byte once, to the very end.
        assert_eq!(fetched.first().unwrap().start, 2 * READ);
        assert!(fetched.windows(2).all(|w| w[0].end == w[1].start));
        assert_eq!(fetched.last().unwrap().end, size);
    }

    #[test]
    fn jumps_fetch_nothing_ahead() {
        let mut ahead = Ahead::default();
        for at in [0, 40 << 20, 8 << 20, 9 << 20, 3 << 20] {
            assert_eq!(ahead.after(at..at + 4096, 64 << 20), []);
        }
    }

    #[test]
    fn only_what_no_extent_covers_is_zeroed() {
        let extent = |offset, len| (u64::from(offset), SegmentExtent { offset, len, chunk: ChunkId([0; 32]) });
        let mut buf = [7; 20];
        zero_holes(&[extent(0, 12), extent(15, 3), extent(28, 9)], 10, &mut buf);
        assert_eq!(buf, [7, 7, 0, 0, 0, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7]);
    }
}
