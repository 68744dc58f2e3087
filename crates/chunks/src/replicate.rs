//! Replication: a manifest of one region becomes readable in another, moving only what that lacks.
//!
//! Chunks move as they are stored (a frame of which the target lacks only a part is packed anew), are verified before they
//! are written at the target, and enter its index pack by pack: after any interruption the next attempt finds what already
//! arrived.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::codec::StoredFrame;
use crate::error::{ChunkError, Result};
use crate::id::{ChunkId, ManifestId};
use crate::progress::Progress;
use crate::rate::RateLimit;
use crate::reader::{self, fetch_frames};
use crate::region::{Inner, Region};
use crate::writer::PackWriter;

/// Chunks asked for in one step, by plain bytes...
const STEP: u64 = 2 << 20;
/// ...and how many steps are on their way at once.
const PARALLEL: usize = 4;

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
        let writer = PackWriter::new(&self.0)?;
        let limit = self.0.writers().limits.get(&source.0.name).cloned();
        let mut job = Job {
            limit,
            source: Arc::clone(&source.0),
            target: Arc::clone(&self.0),
            writer,
            progress: progress.clone(),
            cancel: cancel.clone(),
            done: Replicated { total_bytes: 0, moved_bytes: 0, stored_bytes: 0, moved_chunks: 0 },
        };
        match job.run(manifest).await {
            Ok(()) => {
                job.done.stored_bytes = job.writer.flush().await?;
                job.writer.registration.committed(manifest);
                Ok(job.done)
            }
            Err(e) => {
                // Keep what arrived; the first error is the one to tell.
                if let Err(second) = job.writer.flush().await {
                    tracing::debug!(error = %second, "what had arrived could not be kept");
                }
                Err(e)
            }
        }
    }
}

struct Job {
    limit: Option<RateLimit>,
    source: Arc<Inner>,
    target: Arc<Inner>,
    writer: PackWriter,
    progress: Progress,
    cancel: CancellationToken,
    done: Replicated,
}

impl Job {
    async fn run(&mut self, manifest: ManifestId) -> Result<()> {
        let root = reader::load_root(&self.source, manifest).await?;
        self.done.total_bytes = root.data_bytes;
        self.progress.start(root.data_bytes);
        for segment in &root.segments {
            self.segment(segment.id).await?;
        }
        self.blob(manifest.as_blob()).await
    }

    async fn segment(&mut self, id: ChunkId) -> Result<()> {
        let segment = reader::load_segment(&self.source, id).await?;
        let mut steps: Vec<Step> = Vec::new();
        let mut seen = HashSet::new();
        let mut here = 0;
        for extent in &segment.extents {
            let len = u64::from(extent.len);
            let used = &self.writer.registration.used;
            let wanted = seen.insert(extent.chunk)
                && !self.target.index.reuse(extent.chunk, used)
                && self.writer.pending.claim(extent.chunk);
            if !wanted {
                here += len;
                continue;
            }
            match steps.last_mut() {
                Some(step) if step.bytes < STEP || self.share_a_frame(step, extent.chunk) => {
                    step.push(extent.chunk, len);
                }
                _ => steps.push(Step { ids: vec![extent.chunk], bytes: len }),
            }
        }
        self.progress.add(here);
        self.fetch_and_write(steps).await?;
        self.blob(id).await
    }

    /// Whether the chunk lies in the frame of the step's last one at the source: in another step that would be read twice.
    fn share_a_frame(&self, step: &Step, id: ChunkId) -> bool {
        let at = |id| self.source.index.lookup(id);
        let last = step.ids.last().and_then(|last| at(*last));
        last.zip(at(id)).is_some_and(|(a, b)| a.same_frame(&b))
    }

    async fn fetch_and_write(&mut self, steps: Vec<Step>) -> Result<()> {
        let source = Arc::clone(&self.source);
        let mut arriving =
            futures::stream::iter(steps).map(|step| fetch_step(Arc::clone(&source), step)).buffered(PARALLEL);
        loop {
            let next = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(ChunkError::Cancelled),
                next = arriving.next() => next,
            };
            let Some(frames) = next else { return Ok(()) };
            let frames = frames?;
            if let Some(limit) = &self.limit {
                limit.pass_unless(&self.cancel, frames.iter().map(|f| f.bytes.len() as u64).sum()).await?;
            }
            for frame in frames {
                let (len, chunks) = (u64::from(frame.plain_len), frame.blobs.len() as u64);
                self.writer.add(frame).await?;
                self.done.moved_bytes += len;
                self.done.moved_chunks += chunks;
                self.progress.add(len);
            }
        }
    }

    /// Moves one segment or root, if the target lacks it.
    async fn blob(&mut self, id: ChunkId) -> Result<()> {
        let here = self.target.index.reuse(id, &self.writer.registration.used);
        if here || !self.writer.pending.claim(id) {
            return Ok(());
        }
        for frame in fetch_frames(&self.source, &[id]).await? {
            self.writer.add(frame).await?;
        }
        Ok(())
    }
}

struct Step {
    ids: Vec<ChunkId>,
    bytes: u64,
}

impl Step {
    fn push(&mut self, id: ChunkId, len: u64) {
        self.ids.push(id);
        self.bytes += len;
    }
}

/// Verified chunks, in the order of the disk, so that neighbours stay neighbours.
async fn fetch_step(source: Arc<Inner>, step: Step) -> Result<Vec<StoredFrame>> {
    tokio::spawn(async move { fetch_frames(&source, &step.ids).await }).await.map_err(ChunkError::worker)?
}
