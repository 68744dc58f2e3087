//! Delta ingest: a disk that is known but for its changes.
//!
//! ```text
//! segment without a change   its reference is taken over from the base's root; nothing is read
//! changed segment            extents before a change are kept; from the chunk that the change touches the merged bytes are
//!                            cut anew, until a cut falls where the base has one too; extents after that are kept
//! ```
//! Cutting depends on content alone and begins afresh after every cut and hole, so the result is the very manifest that an
//! ingest of the whole disk would give: a test holds the two against each other.

use std::ops::Range;
use std::sync::Arc;

use lazuli_disks::{ChangeKind, ChangedSource};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{BLOCK, Found, Ingested, READ_WINDOW, Work, Worker};
use crate::chunker::ChunkerParams;
use crate::error::{ChunkError, Result};
use crate::id::ManifestId;
use crate::manifest::{Segment, SegmentExtent};
use crate::params::SEGMENT;
use crate::progress::Progress;
use crate::reader::{DiskReader, load_segment};
use crate::region::Region;

/// Read at a time after a change, while a common cut is looked for.
const TAIL_WINDOW: u64 = 128 << 10;

impl Region {
    /// Stores the disk that `base` becomes by `changes`, and returns its manifest once that is durable and readable. Only
    /// changed segments are read, and of those little more than the changes. `progress` counts the changed bytes;
    /// [`Ingested::chunks`] counts those of the changed segments. Without a base the disk is zeros where nothing changed.
    ///
    /// The base must stay referenced until the new manifest is. It may be smaller than the disk, never larger.
    pub async fn ingest_over(
        &self,
        base: Option<ManifestId>,
        changes: Arc<dyn ChangedSource>,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Ingested> {
        let base = match base {
            Some(manifest) => Some(self.reader(manifest).await?),
            None => None,
        };
        let size = changes.size();
        let base_size = base.as_ref().map_or(0, DiskReader::size);
        if size < base_size {
            let refused =
                std::io::Error::new(std::io::ErrorKind::InvalidInput, "a disk cannot be smaller than its base");
            return Err(ChunkError::Source { offset: size, source: refused });
        }
        let stop = cancel.clone();
        let look = Arc::clone(&changes);
        let changed = tokio::task::spawn_blocking(move || Changed::find(&*look, base_size, &stop));
        let Changed { segments, bytes } = changed.await.map_err(ChunkError::worker)??;
        let mut found = Found::default();
        for kept in base.iter().flat_map(|b| &b.root().segments) {
            if segments.binary_search(&u64::from(kept.number)).is_err() {
                found.data_bytes += u64::from(kept.data_bytes);
                found.segments.push(*kept);
            }
        }
        let over = Over { base, base_size, changes, segments, changed_bytes: bytes, runtime: Handle::current() };
        self.ingest_work(Work::Over(Arc::new(over)), size, progress, cancel, found).await
    }
}

/// The changes and what they are applied to.
pub(super) struct Over {
    base: Option<DiskReader>,
    base_size: u64,
    changes: Arc<dyn ChangedSource>,
    /// Numbers of the segments that differ from the base's, rising.
    pub(super) segments: Vec<u64>,
    pub(super) changed_bytes: u64,
    runtime: Handle,
}

/// Where a disk differs from its base.
struct Changed {
    segments: Vec<u64>,
    bytes: u64,
}

impl Changed {
    fn find(changes: &dyn ChangedSource, base_size: u64, stop: &CancellationToken) -> Result<Self> {
        let mut changed = Self { segments: Vec::new(), bytes: 0 };
        let boundary = boundary(base_size, changes.size());
        let mut at = 0;
        while let Some((range, _)) = next_change(changes, at)? {
            if stop.is_cancelled() {
                return Err(ChunkError::Cancelled);
            }
            changed.bytes += range.end - range.start;
            at = range.end;
            let first = (range.start / SEGMENT).max(changed.segments.last().map_or(0, |last| last + 1));
            changed.segments.extend(first..range.end.div_ceil(SEGMENT));
        }
        if let Some(number) = boundary.map(|b| b.start / SEGMENT)
            && let Err(place) = changed.segments.binary_search(&number)
        {
            changed.segments.insert(place, number);
        }
        Ok(changed)
    }
}

/// The base's last block where it is short and the disk goes on behind it: with zeros, at least.
fn boundary(base_size: u64, size: u64) -> Option<Range<u64>> {
    (!base_size.is_multiple_of(BLOCK) && base_size < size)
        .then(|| base_size / BLOCK * BLOCK..base_size.next_multiple_of(BLOCK))
}

/// The next change, checked and cut off at the disk's end.
fn next_change(changes: &dyn ChangedSource, from: u64) -> Result<Option<(Range<u64>, ChangeKind)>> {
    let failed = |source| ChunkError::Source { offset: from, source };
    let size = changes.size();
    let Some((range, kind)) = changes.next_change(from).map_err(failed)? else { return Ok(None) };
    if range.start >= size {
        return Ok(None);
    }
    let range = range.start..range.end.min(size);
    if range.start < from || range.is_empty() {
        return Err(failed(std::io::Error::other("the source's map of changes is not in order")));
    }
    Ok(Some((range, kind)))
}

impl Over {
    /// The changed parts of a segment in whole blocks, in offsets of the segment; and the changed bytes in it.
    fn dirty(&self, start: u64, end: u64) -> Result<(Vec<Range<u64>>, u64)> {
        let boundary = boundary(self.base_size, self.changes.size()).filter(|b| (start..end).contains(&b.start));
        let mut dirty: Vec<Range<u64>> = Vec::new();
        let mut bytes = 0;
        let mut at = start;
        while let Some((range, _)) = next_change(&*self.changes, at)? {
            if range.start >= end {
                break;
            }
            let range = range.start..range.end.min(end);
            bytes += range.end - range.start;
            at = range.end;
            dirty.push(range);
        }
        dirty.extend(boundary);
        dirty.sort_by_key(|r| r.start);
        let mut blocks: Vec<Range<u64>> = Vec::new();
        for range in dirty {
            let from = range.start / BLOCK * BLOCK - start;
            let to = range.end.next_multiple_of(BLOCK).min(end.next_multiple_of(BLOCK)) - start;
            match blocks.last_mut() {
                Some(last) if last.end >= from => last.end = last.end.max(to),
                _ => blocks.push(from..to),
            }
        }
        Ok((blocks, bytes))
    }

    fn base_extents(&self, number: u64) -> Result<Vec<SegmentExtent>> {
        let Some(base) = &self.base else { return Ok(Vec::new()) };
        let Some(wanted) = base.root().segment(number) else { return Ok(Vec::new()) };
        let segment: Arc<Segment> = self.runtime.block_on(load_segment(base.inner(), wanted.id))?;
        Ok(segment.extents.clone())
    }

    /// The disk's bytes: the base's, overlaid with the changes.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        let local = |n: u64| usize::try_from(n - offset).expect("within the buffer");
        while at < end {
            let change = next_change(&*self.changes, at)?.filter(|(range, _)| range.start < end);
            let until = change.as_ref().map_or(end, |(range, _)| range.start);
            self.read_base(at, &mut buf[local(at)..local(until)])?;
            let Some((range, kind)) = change else { break };
            let part = &mut buf[local(range.start)..local(range.end.min(end))];
            match kind {
                ChangeKind::Zero => part.fill(0),
                ChangeKind::Data => self
                    .changes
                    .read_at(range.start, part)
                    .map_err(|source| ChunkError::Source { offset: range.start, source })?,
            }
            at = range.end;
        }
        Ok(())
    }

    fn read_base(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let stored = usize::try_from(self.base_size.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let (head, tail) = buf.split_at_mut(stored);
        tail.fill(0);
        match &self.base {
            Some(base) if !head.is_empty() => self.runtime.block_on(base.read_at(offset, head)),
            _ => Ok(()),
        }
    }
}

fn span(extent: &SegmentExtent) -> Range<u64> {
    let start = u64::from(extent.offset);
    start..start + u64::from(extent.len)
}

impl Worker {
    /// Cuts a changed segment; `end` is that of the segment on the disk.
    pub(super) fn cut_changes(&mut self, over: &Over, number: u64, end: u64) -> Result<()> {
        let start = number * SEGMENT;
        let (dirty, bytes) = over.dirty(start, end)?;
        let base = over.base_extents(number)?;
        let mut kept = 0;
        let mut changes = dirty.iter().peekable();
        while let Some(change) = changes.peek().map(|c| (*c).clone()) {
            // A chunk that ends where the change begins might have gone on.
            let before = base[kept..].iter().take_while(|e| span(e).end < change.start).count();
            self.keep(&base[kept..kept + before]);
            kept += before;
            let touched = base.get(kept).map(span).filter(|e| e.start < change.start);
            let mut at = touched.map_or(change.start, |e| e.start);
            loop {
                self.job.check()?;
                let take = window(at, changes.peek().map(|c| (*c).clone()), end - start);
                if take == 0 {
                    self.end_chunk()?;
                    kept = base.len();
                    break;
                }
                let common = self.cut_until_common(over, start, at..at + take, &mut changes, &base)?;
                at += take;
                if let Some(next) = common {
                    kept = next;
                    break;
                }
            }
        }
        self.keep(&base[kept..]);
        self.job.progress.add(bytes);
        Ok(())
    }

    /// Cuts the bytes of `range` (in offsets of the segment). `Some`: all changes met so far are behind, and from this extent
    /// of the base on both disks are cut alike.
    fn cut_until_common<'a>(
        &mut self,
        over: &Over,
        start: u64,
        range: Range<u64>,
        changes: &mut std::iter::Peekable<impl Iterator<Item = &'a Range<u64>>>,
        base: &[SegmentExtent],
    ) -> Result<Option<usize>> {
        let mut window = std::mem::take(&mut self.window);
        let bytes = &mut window[..usize::try_from(range.end - range.start).expect("at most a window")];
        over.read(start + range.start, bytes)?;
        let mut at = range.start;
        let mut common = None;
        for block in bytes.chunks(ChunkerParams::STANDARD.block) {
            self.push_block(u32::try_from(at).expect("a segment is 64 MiB"), block)?;
            at += block.len() as u64;
            while changes.next_if(|c| c.end <= at.next_multiple_of(BLOCK)).is_some() {}
            let between = self.batch.open_chunk().is_empty() && changes.peek().is_none_or(|c| c.start >= at);
            let next = base.partition_point(|e| span(e).end <= at);
            if between && base.get(next).is_none_or(|e| span(e).start >= at) && at > range.start {
                common = Some(next);
                break;
            }
        }
        self.window = window;
        Ok(common)
    }

    /// Takes extents over as they are.
    fn keep(&mut self, extents: &[SegmentExtent]) {
        self.segment.extents.extend_from_slice(extents);
        self.found.chunks += extents.len() as u64;
        self.found.data_bytes += extents.iter().map(|e| u64::from(e.len)).sum::<u64>();
    }
}

/// How much is read at once: the rest of a change, or a little while a common cut is looked for.
fn window(at: u64, change: Option<Range<u64>>, end: u64) -> u64 {
    let want = match change {
        Some(change) if change.start <= at => (change.end - at).max(TAIL_WINDOW),
        Some(change) => (change.start - at).min(TAIL_WINDOW),
        None => TAIL_WINDOW,
    };
    want.min(READ_WINDOW as u64).min(end.saturating_sub(at))
}
