//! The pack writer: frames in, durable packs out, each in the index once its data is safe.
//!
//! One pack is filled while the one before it is put, so at most two are in memory. Packs enter the
//! index in the order of their filling: a root, which is added last, is never visible before what it needs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::codec::StoredFrame;
use crate::error::{ChunkError, Result};
use crate::id::ChunkId;
use crate::log::{Key, Record};
use crate::pack::{self, Frame, PackBuilder, SealedPack};
use crate::region::{Inner, Registration};

/// Blobs that this writer has taken but that are not in the index yet.
#[derive(Clone, Default)]
pub(crate) struct Pending(Arc<Mutex<HashSet<Key>>>);

impl Pending {
    /// `true` for the first to ask: it must store the blob.
    pub(crate) fn claim(&self, id: ChunkId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.into())
    }

    fn settle(&self, pack: &SealedPack) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for blob in pack.frames.iter().flat_map(|f| &f.blobs) {
            pending.remove(&blob.id.into());
        }
    }
}

pub(crate) struct PackWriter {
    inner: Arc<Inner>,
    pub registration: Arc<Registration>,
    pub pending: Pending,
    builder: PackBuilder,
    putting: Option<JoinHandle<Result<u64>>>,
    stored: u64,
}

impl PackWriter {
    pub(crate) fn new(inner: &Arc<Inner>) -> Result<Self> {
        inner.require_writer()?;
        Ok(Self {
            inner: Arc::clone(inner),
            registration: Arc::new(Registration::new(inner)),
            pending: Pending::default(),
            builder: PackBuilder::new(),
            putting: None,
            stored: 0,
        })
    }

    pub(crate) async fn add(&mut self, frame: StoredFrame) -> Result<()> {
        self.builder.push(frame);
        if self.builder.is_full() {
            self.seal().await?;
        }
        Ok(())
    }

    async fn seal(&mut self) -> Result<()> {
        let pack = std::mem::replace(&mut self.builder, PackBuilder::new()).seal();
        self.settle().await?;
        let put = put_pack(Arc::clone(&self.inner), Arc::clone(&self.registration), self.pending.clone(), pack);
        self.putting = Some(tokio::spawn(put));
        Ok(())
    }

    /// Waits for the pack being put.
    async fn settle(&mut self) -> Result<()> {
        if let Some(putting) = &mut self.putting {
            let result = putting.await;
            self.putting = None;
            self.stored += result.map_err(ChunkError::worker)??;
        }
        Ok(())
    }

    /// Makes everything added so far durable and visible. Returns the bytes of all packs written.
    pub(crate) async fn flush(&mut self) -> Result<u64> {
        if !self.builder.is_empty() {
            self.seal().await?;
        }
        self.settle().await?;
        Ok(self.stored)
    }
}

/// Data, then index.
async fn put_pack(
    inner: Arc<Inner>,
    registration: Arc<Registration>,
    pending: Pending,
    mut pack: SealedPack,
) -> Result<u64> {
    let id = Uuid::now_v7();
    inner.writers().in_flight.insert(id);
    let pieces = std::mem::take(&mut pack.pieces);
    let result = async {
        inner.zones.create(&pack::key(id), pieces).await?;
        let record =
            Record::PackAdded { pack: id, len: pack.len, frames: pack.frames.iter().map(Frame::from).collect() };
        let committed = inner.index.commit(record, Some(Arc::clone(&registration.used))).await;
        if committed.is_err()
            && let Err(e) = inner.zones.delete_pack(id).await
        {
            tracing::warn!(pack = %id, error = %e, "an unindexed pack stays behind until the next collection");
        }
        committed
    }
    .await;
    inner.writers().in_flight.remove(&id);
    result?;
    pending.settle(&pack);
    Ok(pack.len)
}
