//! New chunks on their way to be compressed: gathered in batches of about a MiB that any worker takes, so that all cores are
//! busy to the end of a disk whose last segments one worker cuts.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::codec::{Encoder, StoredFrame};
use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId};
use crate::pack::{BLOCK, line_up};

/// A batch is full when its chunks have this many plain bytes.
const FULL: usize = 1 << 20;
/// Neighbouring new chunks share a frame of at most this many plain bytes.
pub(super) const FRAME: usize = 128 << 10;

/// New chunks, in the order of the disk, and behind them the bytes of the chunk that is being cut.
#[derive(Default)]
pub(super) struct Batch {
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
    /// Where the chunk begins that is being cut.
    open: usize,
}

impl Batch {
    /// The chunk goes on.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.plain.extend_from_slice(bytes);
    }

    /// The bytes of the chunk that is being cut.
    pub(super) fn open_chunk(&self) -> &[u8] {
        &self.plain[self.open..]
    }

    /// The chunk ends here and is to be stored.
    pub(super) fn keep(&mut self, id: ChunkId) {
        let len = u32::try_from(self.plain.len() - self.open).expect("a chunk is at most 128 KiB");
        self.chunks.push((id, len));
        self.open = self.plain.len();
    }

    /// The chunk ends here and is known.
    pub(super) fn discard(&mut self) {
        self.plain.truncate(self.open);
    }

    pub(super) fn is_full(&self) -> bool {
        self.open >= FULL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Compresses it. No chunk is being cut.
    pub(super) fn pack(&self, encoder: &mut Encoder) -> Result<Vec<StoredFrame>> {
        let mut frames = Vec::new();
        let (mut chunks, mut plain) = (&self.chunks[..], &self.plain[..]);
        while !chunks.is_empty() {
            let (count, len) = first_frame(chunks);
            let (these, rest) = chunks.split_at(count);
            let (bytes, behind) = plain.split_at(len);
            let blobs = line_up(these.iter().copied())
                .ok_or_else(|| ChunkError::corrupt("a frame", "its chunks are too long"))?;
            frames.push(encoder.encode_frame(BlobKind::Chunk, blobs, bytes)?);
            (chunks, plain) = (rest, behind);
        }
        Ok(frames)
    }

    /// Empty again, its memory kept.
    fn clear(&mut self) {
        self.plain.clear();
        self.chunks.clear();
        self.open = 0;
    }
}

/// How many of the chunks share the first frame, and their bytes. One that is not made of whole blocks is the last.
fn first_frame(chunks: &[(ChunkId, u32)]) -> (usize, usize) {
    let (mut count, mut len) = (0, 0);
    for (_, chunk) in chunks {
        if count > 0 && len + *chunk as usize > FRAME {
            break;
        }
        (count, len) = (count + 1, len + *chunk as usize);
        if !chunk.is_multiple_of(BLOCK) {
            break;
        }
    }
    (count, len)
}

/// The batches that wait for a worker, a bounded number.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    room: usize,
}

struct State {
    full: VecDeque<Batch>,
    spare: Vec<Batch>,
    /// Workers that may still add batches.
    cutting: usize,
}

/// A worker that cuts; when it is dropped, no batch comes from it any more.
pub(super) struct Cutting<'a>(&'a Queue);

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.0.lock().cutting -= 1;
        self.0.changed.notify_all();
    }
}

impl Queue {
    pub(super) fn new(workers: usize) -> Self {
        let state = State { full: VecDeque::new(), spare: Vec::new(), cutting: workers };
        Self { state: Mutex::new(state), changed: Condvar::new(), room: 2 * workers }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each of the workers calls this once.
    pub(super) fn cutting(&self) -> Cutting<'_> {
        Cutting(self)
    }

    /// Leaves a batch for whoever has time; given back where enough of them wait.
    pub(super) fn offer(&self, batch: Batch) -> Option<Batch> {
        let mut state = self.lock();
        if state.full.len() >= self.room {
            return Some(batch);
        }
        state.full.push_back(batch);
        self.changed.notify_one();
        None
    }

    /// The next batch; `None` once there will be no more.
    pub(super) fn take(&self) -> Option<Batch> {
        let state = self.lock();
        let idle = |s: &mut State| s.full.is_empty() && s.cutting > 0;
        self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner).full.pop_front()
    }

    /// An empty batch.
    pub(super) fn fresh(&self) -> Batch {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Keeps a batch's memory for the next one.
    pub(super) fn recycle(&self, mut batch: Batch) {
        batch.clear();
        let mut state = self.lock();
        if state.spare.len() < self.room {
            state.spare.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::decode_frame;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_hold_all_chunks_in_order(chunks in proptest::collection::vec((1u32..131_073, any::<bool>(), any::<u8>()), 0..30)) {
            let mut batch = Batch::default();
            let mut kept = Vec::new();
            for (len, keep, fill) in chunks {
                let bytes = vec![fill; len as usize];
                batch.extend(&bytes[..bytes.len() / 3]);
                batch.extend(&bytes[bytes.len() / 3..]);
                prop_assert!(batch.open_chunk() == bytes);
                if keep {
                    let id = BlobKind::Chunk.id_of(&bytes);
                    batch.keep(id);
                    kept.push((id, bytes));
                } else {
                    batch.discard();
                }
            }
            let frames = batch.pack(&mut Encoder::new(1).unwrap()).unwrap();
            let mut wanted = kept.iter();
            for frame in &frames {
                prop_assert!(frame.plain_len as usize <= FRAME || frame.blobs.len() == 1);
                let plain = decode_frame(frame.raw, frame.plain_len, &frame.bytes).unwrap();
                for blob in &frame.blobs {
                    let (id, bytes) = wanted.next().unwrap();
                    prop_assert_eq!(blob.id, *id);
                    prop_assert!(plain[blob.at as usize..][..blob.len as usize] == bytes[..]);
                    prop_assert!(blob.at.is_multiple_of(BLOCK));
                }
            }
            prop_assert!(wanted.next().is_none());
        }
    }
}
