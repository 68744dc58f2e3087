//! Replication: a manifest of one region becomes readable in another, moving only what that lacks.
//!
//! ```text
//! root ─> windows of segments ─plan─> what the target lacks ─> runs of whole frames ──────> checked ─┐
//!         (read ahead)               (index look-ups)      └─> parts of frames ─> unpacked, packed ─┴─> packs of the target
//! ```
//! Each stage runs ahead of the next, a bounded number of steps. Frames move as they are stored, verified before they are
//! written ([`moving`]); nothing is read twice, a segment that is needed to plan is kept to be written. Packs enter the
//! target's index one by one: after any interruption the next attempt finds what already arrived.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::codec::StoredFrame;
use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId, ManifestId};
use crate::index::UsedPacks;
use crate::manifest::{Root, Segment, SegmentRef};
use crate::moving::{self, Step};
use crate::progress::Progress;
use crate::rate::RateLimit;
use crate::reader::{self, fetch_alone};
use crate::region::{Inner, Region};
use crate::writer::{PackWriter, Pending};

/// Steps on their way at once; each is some MiB.
const PARALLEL: usize = 4;
/// Packs put at once: while one is synced and the next is written, a third may begin.
const PUTS: usize = 3;
/// Segments planned together, a GiB of the disk: neighbours in the packs need not be neighbours on the disk.
const WINDOW: usize = 16;
/// Windows planned ahead.
const PLANS: usize = 2;

/// What a replication did. `total_bytes` = `moved_bytes` + what was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replicated {
    /// The disk's bytes that are data.
    pub total_bytes: u64,
    /// Of those, plain bytes of the chunks that were moved.
    pub moved_bytes: u64,
    /// Bytes of the packs written at the target.
    pub stored_bytes: u64,
    pub moved_chunks: u64,
}

impl Region {
    /// Brings `manifest` from `source` into this region and returns once it is durable and readable
    /// here. What was moved before an error or a cancellation stays and is not moved again.
    pub async fn replicate_from(
        &self,
        source: &Region,
        manifest: ManifestId,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Replicated> {
        let mut writer = PackWriter::new(&self.0)?.with_puts(PUTS);
        let job = Arc::new(Job {
            source: Arc::clone(&source.0),
            target: Arc::clone(&self.0),
            pending: writer.pending.clone(),
            used: Arc::clone(&writer.registration.used),
        });
        let mut arrival = Arrival {
            limit: self.0.writers().limit_from(&source.0.name),
            progress,
            cancel,
            done: Replicated { total_bytes: 0, moved_bytes: 0, stored_bytes: 0, moved_chunks: 0 },
        };
        match arrival.take_in(&job, manifest, &mut writer).await {
            Ok(()) => {
                arrival.done.stored_bytes = writer.flush().await?;
                writer.registration.committed(manifest);
                Ok(arrival.done)
            }
            Err(e) => {
                // Keep what arrived; the first error is the one to tell.
                if let Err(second) = writer.flush().await {
                    tracing::debug!(error = %second, "what had arrived could not be kept");
                }
                Err(e)
            }
        }
    }
}

/// What is asked of the source, and what for.
struct Job {
    source: Arc<Inner>,
    target: Arc<Inner>,
    pending: Pending,
    used: UsedPacks,
}

/// What is to be done for some segments.
struct Plan {
    /// Bytes of their chunks that are at the target or on their way there.
    here: u64,
    steps: Vec<Step>,
    /// Those segments that the target lacks.
    segments: Vec<StoredFrame>,
}

/// A part of a plan, done or to be done.
enum Piece {
    Here(u64),
    Step(Step),
    Frames(Vec<StoredFrame>),
}

impl Job {
    /// Whether the target lacks a blob, and nobody brings it yet. Whoever asks first brings it.
    fn lacks(&self, id: ChunkId) -> bool {
        !self.target.index.reuse(id, &self.used) && self.pending.claim(id)
    }

    /// The root, and its frame if the target lacks it.
    async fn root(&self, manifest: ManifestId) -> Result<(Root, Option<StoredFrame>)> {
        let id = manifest.as_blob();
        if self.target.index.reuse(id, &self.used) {
            return Ok((reader::load_root(&self.target, manifest).await?, None));
        }
        let not_found = || ChunkError::not_found(format!("image {manifest}"), &self.source.name);
        if self.source.index.lookup(id).is_none() && !self.source.refresh().await? {
            return Err(not_found());
        }
        if self.source.index.lookup(id).is_none_or(|at| at.kind != BlobKind::Root) {
            return Err(not_found());
        }
        let (plain, frame) = fetch_alone(&self.source, [id]).await?.pop().ok_or_else(not_found)?;
        Ok((Root::parse(&plain)?, Some(frame)))
    }

    /// What to read of the source for these segments. The segments themselves are read here: once, at the target if it
    /// has them.
    async fn plan(&self, window: &[SegmentRef]) -> Result<Plan> {
        let mut plan = Plan { here: 0, steps: Vec::new(), segments: Vec::new() };
        let mut missing = HashSet::new();
        let mut wanted = Vec::new();
        for segment in window {
            if self.lacks(segment.id) {
                missing.insert(segment.id);
            } else if self.target.index.reuse(segment.id, &self.used) {
                let segment = reader::load_segment(&self.target, segment.id).await?;
                self.sort_out(&segment, &mut wanted, &mut plan.here);
            } else {
                // The same segment, elsewhere on this disk, was planned just before.
                plan.here += u64::from(segment.data_bytes);
            }
        }
        for (plain, frame) in fetch_alone(&self.source, missing).await? {
            self.sort_out(&Segment::parse(&plain)?, &mut wanted, &mut plan.here);
            plan.segments.push(frame);
        }
        plan.steps = moving::steps(reader::locate(&self.source, wanted.into_iter()).await?);
        Ok(plan)
    }

    fn sort_out(&self, segment: &Segment, wanted: &mut Vec<ChunkId>, here: &mut u64) {
        for extent in &segment.extents {
            if self.lacks(extent.chunk) {
                wanted.push(extent.chunk);
            } else {
                *here += u64::from(extent.len);
            }
        }
    }

    /// Frames in the order in which they are to be written, and how many bytes of the disk needed none.
    fn pieces(self: &Arc<Self>, segments: Vec<SegmentRef>) -> impl Stream<Item = Result<(u64, Vec<StoredFrame>)>> {
        let windows: Vec<Vec<SegmentRef>> = segments.chunks(WINDOW).map(<[_]>::to_vec).collect();
        let (planner, fetcher) = (Arc::clone(self), Arc::clone(self));
        let plans = stream::iter(windows).map(move |window| {
            let job = Arc::clone(&planner);
            spawned(async move { job.plan(&window).await })
        });
        let pieces = plans.buffered(PLANS).map_ok(|plan| {
            let steps = plan.steps.into_iter().map(Piece::Step);
            let rest = [Piece::Here(plan.here), Piece::Frames(plan.segments)];
            stream::iter(steps.chain(rest).map(Ok::<_, ChunkError>))
        });
        let fetched = pieces.try_flatten().map_ok(move |piece| {
            let job = Arc::clone(&fetcher);
            spawned(async move {
                match piece {
                    Piece::Here(bytes) => Ok((bytes, Vec::new())),
                    Piece::Frames(frames) => Ok((0, frames)),
                    Piece::Step(step) => Ok((0, moving::fetch(&job.source, step).await?)),
                }
            })
        });
        fetched.try_buffered(PARALLEL)
    }
}

/// In a task of its own, so that it goes on while others are waited for.
async fn spawned<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(ChunkError::worker)?
}

/// The target's end.
struct Arrival<'a> {
    limit: Option<RateLimit>,
    progress: &'a Progress,
    cancel: &'a CancellationToken,
    done: Replicated,
}

impl Arrival<'_> {
    async fn take_in(&mut self, job: &Arc<Job>, manifest: ManifestId, writer: &mut PackWriter) -> Result<()> {
        let (root, frame) = job.root(manifest).await?;
        self.done.total_bytes = root.data_bytes;
        self.progress.start(root.data_bytes);
        let mut arriving = std::pin::pin!(job.pieces(root.segments));
        loop {
            let next = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(ChunkError::Cancelled),
                next = arriving.next() => next,
            };
            let Some(piece) = next else { break };
            let (here, frames) = piece?;
            self.progress.add(here);
            self.write(frames, writer).await?;
        }
        // Last: what it needs is in the index before it is.
        self.write(frame.into_iter().collect(), writer).await
    }

    async fn write(&mut self, frames: Vec<StoredFrame>, writer: &mut PackWriter) -> Result<()> {
        if let Some(limit) = &self.limit {
            limit.pass_unless(self.cancel, frames.iter().map(|f| f.bytes.len() as u64).sum()).await?;
        }
        for frame in frames {
            if frame.kind == BlobKind::Chunk {
                let len = u64::from(frame.plain_len);
                self.done.moved_bytes += len;
                self.done.moved_chunks += frame.blobs.len() as u64;
                self.progress.add(len);
            }
            writer.add(frame).await?;
        }
        Ok(())
    }
}
