//! The pack writer: frames in, durable packs out, each in the index once its data is safe.
//!
//! One pack is filled while those before it are put: one unless told otherwise, so two are in memory. Packs enter
//! the index in the order of their filling, whichever is put first: a root, which is added last, is never visible
//! before what it needs.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::codec::StoredFrame;
use crate::error::{ChunkError, Result};
use crate::id::ChunkId;
use crate::log::{Key, Record};
use crate::pack::{self, Frame, PackBuilder, SealedPack};
use crate::region::{Inner, Registration};
use crate::seal;

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
    /// The packs being put, in the order of their filling.
    putting: VecDeque<JoinHandle<Result<u64>>>,
    /// How many may be put at once.
    puts: usize,
    /// Told when the pack that was filled last is in the index.
    last: Option<oneshot::Receiver<()>>,
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
            putting: VecDeque::new(),
            puts: 1,
            last: None,
            stored: 0,
        })
    }

    /// So many packs are put at once; each takes 32 MiB of memory.
    pub(crate) fn with_puts(self, puts: usize) -> Self {
        Self { puts, ..self }
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
        self.settle(self.puts - 1).await?;
        let (indexed, last) = oneshot::channel();
        let turn = Turn { before: self.last.replace(last), indexed };
        let put = put_pack(Arc::clone(&self.inner), Arc::clone(&self.registration), self.pending.clone(), pack, turn);
        self.putting.push_back(tokio::spawn(put));
        Ok(())
    }

    /// Waits until no more than `left` packs are being put.
    async fn settle(&mut self, left: usize) -> Result<()> {
        while self.putting.len() > left
            && let Some(putting) = self.putting.front_mut()
        {
            let result = putting.await;
            self.putting.pop_front();
            self.stored += result.map_err(ChunkError::worker)??;
        }
        Ok(())
    }

    /// Makes everything added so far durable and visible. Returns the bytes of all packs written.
    pub(crate) async fn flush(&mut self) -> Result<u64> {
        if !self.builder.is_empty() {
            self.seal().await?;
        }
        self.settle(0).await?;
        Ok(self.stored)
    }
}

/// When a pack may enter the index.
struct Turn {
    before: Option<oneshot::Receiver<()>>,
    /// Dropped unused where the pack did not get there.
    indexed: oneshot::Sender<()>,
}

/// Data, then index.
async fn put_pack(
    inner: Arc<Inner>,
    registration: Arc<Registration>,
    pending: Pending,
    mut pack: SealedPack,
    turn: Turn,
) -> Result<u64> {
    let id = seal::new_pack(inner.zones.keys().is_some());
    inner.writers().in_flight.insert(id);
    let pieces = std::mem::take(&mut pack.pieces);
    let result = async {
        inner.zones.create(&pack::key(id), pieces).await?;
        let record =
            Record::PackAdded { pack: id, len: pack.len, frames: pack.frames.iter().map(Frame::from).collect() };
        let its_turn = match turn.before {
            Some(before) => before.await.is_ok(),
            None => true,
        };
        let committed = if its_turn {
            inner.index.commit(record, Some(Arc::clone(&registration.used))).await
        } else {
            // The writer tells of the failure of the pack before.
            Err(ChunkError::Cancelled)
        };
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
    let _ = turn.indexed.send(());
    pending.settle(&pack);
    Ok(pack.len)
}
