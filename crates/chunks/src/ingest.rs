//! Ingest: a disk becomes a manifest.
//!
//! ```text
//! workers, one more than cores                                        the calling task
//!   a segment: read what may be data -> cut -> BLAKE3 -> known? ─no─> batch of new chunks
//!   a batch:   zstd, a frame of neighbouring chunks at a time ──(bounded channel)──> pack writer
//! ```
//! A worker that finds enough batches waiting compresses its own; one that finds no segment left takes batches until there are
//! none. It holds one read window and one batch; the waiting batches, the channel and the pack writer are bounded; so memory does
//! not depend on the disk's size. The root is written last: a crash at any time leaves only blobs that nothing refers to.

mod batch;
mod delta;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lazuli_disks::DiskSource;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::batch::{Batch, Queue};
use crate::chunker::{Chunker, ChunkerParams, Verdict};
use crate::codec::{Encoder, LEVEL, StoredFrame};
use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ManifestId};
use crate::manifest::{MAX_DISK, Root, Segment, SegmentExtent, SegmentRef};
use crate::params::SEGMENT;
use crate::progress::Progress;
use crate::region::{Inner, Region};
use crate::writer::{PackWriter, Pending};

/// Small enough to stay in a core's cache from reading to hashing.
const READ_WINDOW: usize = 256 << 10;
const BLOCK: u64 = ChunkerParams::STANDARD.block as u64;

/// What an ingest found and wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ingested {
    pub manifest: ManifestId,
    /// The disk's size.
    pub size: u64,
    /// Its bytes that are not zero blocks.
    pub data_bytes: u64,
    /// Of those, bytes in chunks that the region did not hold.
    pub new_bytes: u64,
    /// Bytes of the packs written: new chunks compressed, manifest, pack tables.
    pub stored_bytes: u64,
    pub chunks: u64,
    pub new_chunks: u64,
}

impl Region {
    /// Stores the disk and returns its manifest once that is durable and readable. `progress` counts
    /// the bytes that the source calls data. A disk that is already here stores nothing.
    pub async fn ingest(
        &self,
        source: Arc<dyn DiskSource>,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Ingested> {
        let size = source.size();
        self.ingest_work(Work::Whole(source), size, progress, cancel, Found::default()).await
    }

    /// Runs the workers; `found` is what is known of the disk without them.
    async fn ingest_work(
        &self,
        work: Work,
        size: u64,
        progress: &Progress,
        cancel: &CancellationToken,
        mut found: Found,
    ) -> Result<Ingested> {
        let mut writer = PackWriter::new(&self.0)?;
        if size > MAX_DISK {
            return Err(ChunkError::Source {
                offset: MAX_DISK,
                source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "the disk is larger than 32 TiB"),
            });
        }
        // Dropping the caller's future stops the workers, too.
        let stop = cancel.child_token();
        let _stop_on_drop = stop.clone().drop_guard();
        let job = Job {
            inner: Arc::clone(&self.0),
            work,
            size,
            progress: progress.clone(),
            stop: stop.clone(),
            pending: writer.pending.clone(),
            used: Arc::clone(&writer.registration.used),
            next: Arc::default(),
            queue: Arc::new(Queue::new(workers())),
        };
        job.measure().await?;
        let outcome = job.run(&mut writer).await;
        if cancel.is_cancelled() {
            return Err(ChunkError::Cancelled);
        }
        found.absorb(outcome?);
        finish(self, writer, size, found).await
    }
}

/// One more than cores: one that waits for the source's disk leaves no core idle.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 1
}

/// What the workers cut.
#[derive(Clone)]
enum Work {
    /// Every segment of a disk.
    Whole(Arc<dyn DiskSource>),
    /// The changed segments of a disk whose other segments are known.
    Over(Arc<delta::Over>),
}

/// Writes the root, then tells what was done.
async fn finish(region: &Region, mut writer: PackWriter, size: u64, mut found: Found) -> Result<Ingested> {
    found.segments.sort_by_key(|s| s.number);
    let root = Root { size, data_bytes: found.data_bytes, segments: found.segments };
    let plain = root.encode();
    let id = BlobKind::Root.id_of(&plain);
    if !region.0.index.reuse(id, &writer.registration.used) {
        let blob = Encoder::new(LEVEL)?.encode(BlobKind::Root, id, &plain)?;
        writer.add(blob).await?;
    }
    let stored_bytes = writer.flush().await?;
    let manifest = ManifestId(id.0);
    writer.registration.committed(manifest);
    Ok(Ingested {
        manifest,
        size,
        data_bytes: found.data_bytes,
        new_bytes: found.new_bytes,
        stored_bytes,
        chunks: found.chunks,
        new_chunks: found.new_chunks,
    })
}

#[derive(Clone)]
struct Job {
    inner: Arc<Inner>,
    work: Work,
    size: u64,
    progress: Progress,
    stop: CancellationToken,
    pending: Pending,
    used: crate::index::UsedPacks,
    /// Segments that were taken by workers.
    next: Arc<AtomicU64>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Found {
    segments: Vec<SegmentRef>,
    data_bytes: u64,
    new_bytes: u64,
    chunks: u64,
    new_chunks: u64,
}

impl Job {
    /// Sets the progress total: one walk over the source's map.
    async fn measure(&self) -> Result<()> {
        let job = self.clone();
        let source = match &self.work {
            Work::Whole(source) => Arc::clone(source),
            // Counted when it was looked for.
            Work::Over(over) => {
                self.progress.start(over.changed_bytes);
                return Ok(());
            }
        };
        let walk = tokio::task::spawn_blocking(move || {
            let (mut at, mut total) = (0, 0);
            while let Some((start, end)) = next_run(&*source, at, job.size)? {
                job.check()?;
                total += end - start;
                at = end;
            }
            job.progress.start(total);
            Ok(())
        });
        walk.await.map_err(ChunkError::worker)?
    }

    async fn run(&self, writer: &mut PackWriter) -> Result<Found> {
        let (send, mut receive) = mpsc::channel::<Vec<StoredFrame>>(workers());
        let workers: Vec<_> = (0..workers())
            .map(|_| {
                let (job, send) = (self.clone(), send.clone());
                tokio::task::spawn_blocking(move || run_worker(job, send))
            })
            .collect();
        drop(send);
        let mut written = Ok(());
        while let Some(frames) = receive.recv().await {
            for frame in frames {
                written = writer.add(frame).await;
                if written.is_err() {
                    break;
                }
            }
            if written.is_err() {
                self.stop.cancel();
                break;
            }
        }
        drop(receive);
        let mut all = Found::default();
        let mut failed = written.err();
        for worker in workers {
            match worker.await.map_err(ChunkError::worker).flatten() {
                Ok(found) => all.absorb(found),
                // The first failure makes the others stop as cancelled.
                Err(ChunkError::Cancelled) if failed.is_some() => {}
                Err(e) if failed.is_none() || matches!(failed, Some(ChunkError::Cancelled)) => failed = Some(e),
                Err(_) => {}
            }
        }
        failed.map_or(Ok(all), Err)
    }

    /// The next segment for a worker.
    fn next_segment(&self) -> Option<u64> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        match &self.work {
            Work::Whole(_) => (index * SEGMENT < self.size).then_some(index),
            Work::Over(over) => over.segments.get(usize::try_from(index).ok()?).copied(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.stop.is_cancelled() {
            return Err(ChunkError::Cancelled);
        }
        Ok(())
    }
}

impl Found {
    fn absorb(&mut self, other: Self) {
        self.segments.extend(other.segments);
        self.data_bytes += other.data_bytes;
        self.new_bytes += other.new_bytes;
        self.chunks += other.chunks;
        self.new_chunks += other.new_chunks;
    }
}

/// The next run at or after block-aligned `from` that may hold data, widened to whole blocks.
fn next_run(source: &dyn DiskSource, from: u64, size: u64) -> Result<Option<(u64, u64)>> {
    if from >= size {
        return Ok(None);
    }
    let failed = |source| ChunkError::Source { offset: from, source };
    let Some(range) = source.next_data(from).map_err(failed)? else {
        return Ok(None);
    };
    if range.start >= size {
        return Ok(None);
    }
    let start = (range.start / BLOCK * BLOCK).max(from);
    let end = range.end.min(size).next_multiple_of(BLOCK).min(size);
    if end <= start {
        return Err(failed(std::io::Error::other("the source's map of data is not in order")));
    }
    Ok(Some((start, end)))
}

struct Worker {
    job: Job,
    send: mpsc::Sender<Vec<StoredFrame>>,
    encoder: Encoder,
    window: Vec<u8>,
    batch: Batch,
    found: Found,
    // The segment being cut.
    chunker: Chunker,
    /// Offset in the segment of the current chunk's end.
    at: u32,
    segment: Segment,
}

fn run_worker(job: Job, send: mpsc::Sender<Vec<StoredFrame>>) -> Result<Found> {
    let (queue, stop) = (Arc::clone(&job.queue), job.stop.clone());
    // Others wait for its batches until this is dropped, however it ends.
    let cutting = queue.cutting();
    let result = Worker::new(job, send).and_then(|mut worker| {
        worker.take_segments()?;
        drop(cutting);
        while let Some(batch) = queue.take() {
            worker.job.check()?;
            worker.pack(batch)?;
        }
        Ok(worker.found)
    });
    if result.is_err() {
        // The other workers' results are worthless now.
        stop.cancel();
    }
    result
}

impl Worker {
    fn new(job: Job, send: mpsc::Sender<Vec<StoredFrame>>) -> Result<Self> {
        Ok(Self {
            send,
            encoder: Encoder::new(LEVEL)?,
            window: vec![0; READ_WINDOW],
            batch: job.queue.fresh(),
            found: Found::default(),
            chunker: Chunker::new(job.inner.chunker),
            at: 0,
            segment: Segment::default(),
            job,
        })
    }

    /// Cuts segments until there are no more.
    fn take_segments(&mut self) -> Result<()> {
        while let Some(number) = self.job.next_segment() {
            let start = number * SEGMENT;
            let end = (start + SEGMENT).min(self.job.size);
            self.chunker = Chunker::new(self.job.inner.chunker);
            match self.job.work.clone() {
                Work::Whole(source) => self.cut_segment(&*source, start, end)?,
                Work::Over(over) => self.cut_changes(&over, number, end)?,
            }
            self.end_segment(number)?;
        }
        self.hand_over()
    }

    fn cut_segment(&mut self, source: &dyn DiskSource, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        loop {
            let run = next_run(source, at, self.job.size)?;
            let Some((from, to)) = run.filter(|(from, _)| *from < end) else {
                // Nobody needs to look at the segments up to there.
                let next = run.map_or(self.job.size.div_ceil(SEGMENT), |(from, _)| from / SEGMENT);
                self.job.next.fetch_max(next, Ordering::Relaxed);
                break;
            };
            let to = to.min(end);
            if from > at {
                self.end_chunk()?;
                self.chunker.skip_hole();
            }
            self.cut_run(source, start, from, to)?;
            at = to;
        }
        self.end_chunk()
    }

    fn cut_run(&mut self, source: &dyn DiskSource, segment_start: u64, from: u64, to: u64) -> Result<()> {
        let mut at = from;
        let mut window = std::mem::take(&mut self.window);
        while at < to {
            self.job.check()?;
            let take = usize::try_from(to - at).unwrap_or(usize::MAX).min(READ_WINDOW);
            let bytes = &mut window[..take];
            source.read_at(at, bytes).map_err(|source| ChunkError::Source { offset: at, source })?;
            for (i, block) in bytes.chunks(ChunkerParams::STANDARD.block).enumerate() {
                let offset = at - segment_start + i as u64 * BLOCK;
                self.push_block(u32::try_from(offset).expect("a segment is 64 MiB"), block)?;
            }
            self.job.progress.add(take as u64);
            at += take as u64;
        }
        self.window = window;
        Ok(())
    }

    fn push_block(&mut self, offset: u32, block: &[u8]) -> Result<()> {
        match self.chunker.push(block) {
            Verdict::Zero => self.end_chunk(),
            verdict => {
                self.batch.extend(block);
                self.at = offset + u32::try_from(block.len()).expect("a block is 4 KiB");
                if verdict == Verdict::Cut { self.end_chunk() } else { Ok(()) }
            }
        }
    }

    fn end_chunk(&mut self) -> Result<()> {
        let chunk = self.batch.open_chunk();
        if chunk.is_empty() {
            return Ok(());
        }
        let len = u32::try_from(chunk.len()).expect("a chunk is at most 128 KiB");
        let id = BlobKind::Chunk.id_of(chunk);
        self.segment.extents.push(SegmentExtent { offset: self.at - len, len, chunk: id });
        self.found.chunks += 1;
        self.found.data_bytes += u64::from(len);
        if self.job.inner.index.reuse(id, &self.job.used) || !self.job.pending.claim(id) {
            self.batch.discard();
            return Ok(());
        }
        self.found.new_chunks += 1;
        self.found.new_bytes += u64::from(len);
        self.batch.keep(id);
        if self.batch.is_full() { self.hand_over() } else { Ok(()) }
    }

    fn end_segment(&mut self, number: u64) -> Result<()> {
        let segment = std::mem::take(&mut self.segment);
        if segment.extents.is_empty() {
            return Ok(());
        }
        let plain = segment.encode();
        let id = BlobKind::Segment.id_of(&plain);
        if !self.job.inner.index.reuse(id, &self.job.used) && self.job.pending.claim(id) {
            let frame = self.encoder.encode(BlobKind::Segment, id, &plain)?;
            self.send(vec![frame])?;
        }
        self.found.segments.push(SegmentRef {
            number: u32::try_from(number).expect("a disk is at most 32 TiB"),
            data_bytes: u32::try_from(segment.data_bytes()).expect("a segment is 64 MiB"),
            id,
        });
        Ok(())
    }

    /// Leaves the batch to whoever has time, or compresses it where enough of them wait.
    fn hand_over(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batch, self.job.queue.fresh());
        match self.job.queue.offer(batch) {
            Some(batch) => self.pack(batch),
            None => Ok(()),
        }
    }

    fn pack(&mut self, batch: Batch) -> Result<()> {
        let frames = batch.pack(&mut self.encoder)?;
        self.job.queue.recycle(batch);
        self.send(frames)
    }

    fn send(&mut self, frames: Vec<StoredFrame>) -> Result<()> {
        // A closed channel: the pack writer failed and says why.
        self.send.blocking_send(frames).map_err(|_| ChunkError::Cancelled)
    }
}
