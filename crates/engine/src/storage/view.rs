//! The bytes of a blob at one moment, wherever they are: the content store, a staging file, both, or pieces of others.
//!
//! A view keeps its files open: it goes on when the blob is settled or replaced meanwhile. Holds no more than what one
//! read asks for. [`View::read_at`] and [`View::next_data`] block; they are called on blocking threads only.

use super::error::StorageError;
use super::overlay::{Overlay, Page};
use super::record::Settled;
use crate::blobs::Ranges;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use lazuli_chunks::DiskReader;
use lazuli_disks::DiskSource;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A read is done in pieces of this many bytes...
const PIECE: u64 = 1 << 20;
/// ...of which so many are held at a time.
const PIECES_AHEAD: usize = 2;
/// How much of a manifest is asked for its extents at once.
const WINDOW: u64 = 64 << 20;

/// Settled bytes with their reader.
#[derive(Clone)]
pub(super) struct Base {
    pub reader: Option<DiskReader>,
    pub stored: u64,
    pub tail_at: u64,
    pub tail: Vec<u8>,
}

#[derive(Clone)]
pub(super) enum Over {
    Nothing,
    Pages(Arc<Overlay>),
    /// What follows byte `at`.
    End {
        file: Arc<File>,
        at: u64,
    },
    /// Pieces one behind the other, with where each ends; no base.
    Parts(Arc<Vec<Part>>),
}

/// A piece of a blob that is being put together.
pub(super) struct Part {
    pub end: u64,
    pub from: PartSource,
}

pub(super) enum PartSource {
    File(PathBuf),
    /// From this byte of another view on.
    View(Arc<View>, u64),
}

#[derive(Clone)]
pub(super) struct View {
    pub size: u64,
    pub base: Base,
    pub over: Over,
    pub runtime: Handle,
}

impl Base {
    pub fn new(settled: &Settled, reader: Option<DiskReader>) -> Result<Self, StorageError> {
        let tail = hex::decode(&settled.tail).map_err(StorageError::internal)?;
        Ok(Self { reader, stored: settled.stored, tail_at: settled.tail_at, tail })
    }

    pub fn nothing() -> Self {
        Self { reader: None, stored: 0, tail_at: 0, tail: Vec::new() }
    }

    fn read_at(&self, runtime: &Handle, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        if let Some(reader) = &self.reader {
            let stored = self.stored.min(reader.size());
            if offset < stored {
                let len = local(stored.min(end) - offset);
                runtime.block_on(reader.read_at(offset, &mut buf[..len])).map_err(io::Error::other)?;
            }
        }
        let (from, to) = (self.tail_at.max(offset), (self.tail_at + self.tail.len() as u64).min(end));
        if from < to {
            let tail = &self.tail[local(from - self.tail_at)..local(to - self.tail_at)];
            buf[local(from - offset)..local(to - offset)].copy_from_slice(tail);
        }
        Ok(())
    }

    fn next_data(&self, runtime: &Handle, from: u64) -> io::Result<Option<Range<u64>>> {
        if let Some(reader) = &self.reader {
            let end = self.stored.min(reader.size());
            let mut at = from;
            while at < end {
                let len = WINDOW.min(end - at);
                for extent in runtime.block_on(reader.extents(at, len)).map_err(io::Error::other)? {
                    if !extent.hole {
                        return Ok(Some(at..at + extent.len));
                    }
                    at += extent.len;
                }
            }
        }
        let tail = self.tail_at.max(from)..self.tail_at + self.tail.len() as u64;
        Ok((tail.start < tail.end).then_some(tail))
    }
}

impl View {
    /// Fills `buf` from `offset` on; all of it lies within the view.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self.over {
            Over::Nothing => self.base.read_at(&self.runtime, offset, buf),
            Over::Pages(overlay) => self.read_pages(overlay, offset, buf),
            Over::End { file, at } => {
                let below = local(at.saturating_sub(offset)).min(buf.len());
                let (head, rest) = buf.split_at_mut(below);
                if !head.is_empty() {
                    self.base.read_at(&self.runtime, offset, head)?;
                }
                file.read_exact_at(rest, offset.max(*at) - at)
            }
            Over::Parts(parts) => read_parts(parts, offset, buf),
        }
    }

    fn read_pages(&self, overlay: &Overlay, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (mut at, end) = (offset, offset + buf.len() as u64);
        while at < end {
            // Runs are of whole pages.
            for (run, page) in overlay.runs(at / 512 * 512..end)? {
                let run = run.start.max(at)..run.end.min(end);
                let piece = &mut buf[local(run.start - offset)..local(run.end - offset)];
                match page {
                    Page::Written => overlay.read(run.start, piece)?,
                    Page::Cleared => piece.fill(0),
                    Page::Below => self.base.read_at(&self.runtime, run.start, piece)?,
                }
                at = run.end;
            }
        }
        Ok(())
    }

    /// The first range at or after `from` that may hold data.
    pub fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let found = match &self.over {
            Over::Nothing => self.base.next_data(&self.runtime, from)?,
            Over::Pages(overlay) => self.next_page_data(overlay, from)?,
            Over::End { at, .. } if from < *at => match self.base.next_data(&self.runtime, from)? {
                Some(data) if data.start < *at => Some(data.start..data.end.min(*at)),
                _ => Some(*at..self.size),
            },
            Over::End { .. } | Over::Parts(_) => Some(from..self.size),
        };
        let found = found.map(|data| data.start..data.end.min(self.size));
        Ok(found.filter(|data| data.start < data.end))
    }

    fn next_page_data(&self, overlay: &Overlay, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = from / 512 * 512;
        while at < self.size {
            for (run, page) in overlay.runs(at..self.size)? {
                let run_from = run.start.max(from);
                match page {
                    Page::Written => return Ok(Some(run_from..run.end)),
                    Page::Below => {
                        let data = self.base.next_data(&self.runtime, run_from)?;
                        if let Some(data) = data.filter(|data| data.start < run.end) {
                            return Ok(Some(data.start..data.end.min(run.end)));
                        }
                    }
                    Page::Cleared => {}
                }
                at = run.end;
            }
        }
        Ok(None)
    }

    /// The bytes of `range`, cut at the end, in pieces; only a few are held at a time.
    pub fn stream(
        self: Arc<Self>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, StorageError>> + Send + use<> {
        let end = range.end.min(self.size);
        let start = range.start.min(end);
        let pieces = (start / PIECE..end.div_ceil(PIECE)).filter(move |_| start < end);
        stream::iter(pieces)
            .map(move |n| {
                let piece = (n * PIECE).max(start)..((n + 1) * PIECE).min(end);
                Arc::clone(&self).read(piece)
            })
            .buffered(PIECES_AHEAD)
    }

    /// A range within the view, held whole.
    pub async fn read(self: Arc<Self>, range: Range<u64>) -> Result<Bytes, StorageError> {
        blocking(move || {
            let mut bytes = vec![0; local(range.end - range.start)];
            self.read_at(range.start, &mut bytes).map_err(StorageError::of_file)?;
            Ok(bytes.into())
        })
        .await
    }

    /// Where `range` may hold data: ascending, apart, of whole pages, bounded.
    pub async fn page_ranges(self: Arc<Self>, range: Range<u64>) -> Result<Vec<Range<u64>>, StorageError> {
        blocking(move || {
            let end = range.end.min(self.size);
            let (mut ranges, mut at) = (Ranges::new(), range.start);
            while at < end
                && let Some(data) = self.next_data(at).map_err(StorageError::of_file)?
                && data.start < end
            {
                at = data.end;
                ranges.push(data.start..data.end.min(end));
            }
            Ok(ranges.into_vec())
        })
        .await
    }
}

fn read_parts(parts: &[Part], offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let end = offset + buf.len() as u64;
    let mut number = parts.partition_point(|part| part.end <= offset);
    let mut at = offset;
    while at < end {
        let part = parts.get(number).ok_or_else(|| io::Error::other("a piece of the blob is missing"))?;
        let start = number.checked_sub(1).map_or(0, |before| parts[before].end);
        let to = part.end.min(end);
        let piece = &mut buf[local(at - offset)..local(to - offset)];
        match &part.from {
            PartSource::File(path) => File::open(path)?.read_exact_at(piece, at - start)?,
            PartSource::View(view, from) => view.read_at(from + at - start, piece)?,
        }
        at = to;
        number += 1;
    }
    Ok(())
}

/// The beginning of a view as a disk, for ingest.
pub(super) struct Beginning {
    pub view: Arc<View>,
    pub len: u64,
}

impl DiskSource for Beginning {
    fn size(&self) -> u64 {
        self.len
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let found = self.view.next_data(from)?.map(|data| data.start..data.end.min(self.len));
        Ok(found.filter(|data| data.start < data.end))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.view.read_at(offset, buf)
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work).await.map_err(StorageError::internal)?
}

/// A length in memory.
fn local(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
