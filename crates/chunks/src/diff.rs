//! What differs between two disks, told from their manifests alone: no chunk is read.
//!
//! Segments with the same id are the same bytes and are not even loaded; of the others, extents are compared. So the
//! answer is exact to a chunk: it never misses a byte that differs, and names no more than the chunks around it.

use std::ops::Range;

use crate::error::Result;
use crate::id::ManifestId;
use crate::manifest::{Root, Segment, SegmentExtent, SegmentRef};
use crate::params::SEGMENT;
use crate::reader::{DiskReader, load_segment};
use crate::region::Region;

/// What the second disk has where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffKind {
    /// Data that may differ from the first disk's.
    Data,
    /// Zeros, where the first disk has data.
    Cleared,
}

/// A range in which two disks differ; at most up to the end of the second one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    pub range: Range<u64>,
    pub kind: DiffKind,
}

impl Region {
    /// Where `b` differs from `a`, in rising order; neighbours differ in kind or do not touch. Beyond its end a disk counts
    /// as zeros; what `a` has beyond the end of `b` is not told.
    pub async fn diff(&self, a: ManifestId, b: ManifestId) -> Result<Vec<Diff>> {
        self.diff_in(a, b, 0..u64::MAX).await
    }

    /// As [`diff`](Self::diff), but only of the disks' part `within`.
    pub async fn diff_in(&self, a: ManifestId, b: ManifestId, within: Range<u64>) -> Result<Vec<Diff>> {
        self.reader(b).await?.diff_from(&self.reader(a).await?, within).await
    }
}

impl DiskReader {
    /// As [`Region::diff_in`], where this disk differs from `older`, which may be in another region.
    pub async fn diff_from(&self, older: &Self, within: Range<u64>) -> Result<Vec<Diff>> {
        let (a, b) = (older.root(), self.root());
        let within = within.start..within.end.min(b.size);
        let mut out = Vec::new();
        for (number, old, new) in differing(a, b) {
            let start = u64::from(number) * SEGMENT;
            if start >= within.end {
                break;
            }
            if start + SEGMENT <= within.start {
                continue;
            }
            let mut segments = [None, None];
            for ((segment, id), reader) in segments.iter_mut().zip([old, new]).zip([older, self]) {
                if let Some(id) = id {
                    *segment = Some(load_segment(reader.inner(), id.id).await?);
                }
            }
            let extents = |i: usize| segments[i].as_deref().map_or(&[][..], |s: &Segment| &s.extents);
            for diff in compare(extents(0), extents(1)) {
                let (from, to) = (start + diff.range.start, start + diff.range.end);
                push(&mut out, from.max(within.start)..to.min(within.end), diff.kind);
            }
        }
        Ok(out)
    }
}

/// The segments that are not the same in both, by rising number.
fn differing<'a>(a: &'a Root, b: &'a Root) -> impl Iterator<Item = (u32, Option<SegmentRef>, Option<SegmentRef>)> + 'a {
    let (mut i, mut j) = (0, 0);
    std::iter::from_fn(move || {
        loop {
            let (old, new) = (a.segments.get(i), b.segments.get(j));
            let number = old.iter().chain(new.iter()).map(|s| s.number).min()?;
            let old = old.filter(|s| s.number == number);
            let new = new.filter(|s| s.number == number);
            i += usize::from(old.is_some());
            j += usize::from(new.is_some());
            if old.map(|s| s.id) != new.map(|s| s.id) {
                return Some((number, old.copied(), new.copied()));
            }
        }
    })
}

fn span(extent: &SegmentExtent) -> Range<u64> {
    let start = u64::from(extent.offset);
    start..start + u64::from(extent.len)
}

/// The differences of two segments, in offsets of the segment.
fn compare(a: &[SegmentExtent], b: &[SegmentExtent]) -> Vec<Diff> {
    let same = |of: &[SegmentExtent], e: &SegmentExtent| {
        of.binary_search_by_key(&e.offset, |o| o.offset).is_ok_and(|at| of[at] == *e)
    };
    let mut found: Vec<Diff> = Vec::new();
    for extent in b.iter().filter(|e| !same(a, e)) {
        found.push(Diff { range: span(extent), kind: DiffKind::Data });
    }
    for extent in a.iter().filter(|e| !same(b, e)) {
        let Range { start: mut at, end } = span(extent);
        let first = b.partition_point(|e| span(e).end <= at);
        for cover in b[first..].iter().map(span).take_while(|c| c.start < end) {
            if at < cover.start {
                found.push(Diff { range: at..cover.start, kind: DiffKind::Cleared });
            }
            at = cover.end;
        }
        if at < end {
            found.push(Diff { range: at..end, kind: DiffKind::Cleared });
        }
    }
    found.sort_by_key(|d| d.range.start);
    let mut out = Vec::new();
    for diff in found {
        push(&mut out, diff.range, diff.kind);
    }
    out
}

fn push(out: &mut Vec<Diff>, range: Range<u64>, kind: DiffKind) {
    match out.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.kind == kind && last.range.end == range.start => last.range.end = range.end,
        _ => out.push(Diff { range, kind }),
    }
}
