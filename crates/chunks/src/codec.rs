//! How a frame's bytes are stored: one zstd frame, or raw where compression saves under 3 %.

use std::cell::RefCell;

use bytes::Bytes;

use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId};
use crate::pack::{Check, Part};

/// No blob is larger than this when plain. It bounds what a damaged length can make us allocate.
pub(crate) const MAX_PLAIN: usize = 32 << 20;
/// No frame of several blobs is larger than this when plain: the index keeps a blob's place in six bits
/// of blocks.
pub(crate) const MAX_FRAME: usize = 256 << 10;

/// The zstd level of all frames. Free to change: a reader does not care.
pub(crate) const LEVEL: i32 = 2;

/// A frame as it lies in a pack: what is compressed together.
#[derive(Debug, Clone)]
pub(crate) struct StoredFrame {
    pub kind: BlobKind,
    pub raw: bool,
    pub plain_len: u32,
    /// Of `bytes`.
    pub check: Check,
    pub bytes: Bytes,
    /// What it was read with, neighbours and all, and where `bytes` begin there: neighbours that stay together are written at
    /// once.
    pub within: Option<(Bytes, usize)>,
    pub blobs: Vec<Part>,
}

/// Compresses frames; one a thread, its context and its buffer are reused.
pub(crate) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    packed: Vec<u8>,
}

thread_local! {
    /// Making a context costs more than unpacking a chunk with it, so each thread keeps one (about 100 KiB).
    static UNPACK: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The plain bytes of a frame, at most `plain_len` of them; `None` if it is none.
fn unpack(frame: &[u8], plain_len: usize) -> Option<Vec<u8>> {
    UNPACK.with_borrow_mut(|kept| {
        let context = match kept {
            Some(context) => context,
            None => kept.insert(zstd::bulk::Decompressor::new().ok()?),
        };
        context.decompress(frame, plain_len).ok()
    })
}

impl Encoder {
    pub(crate) fn new(level: i32) -> Result<Self> {
        let zstd = zstd::bulk::Compressor::new(level).map_err(ChunkError::worker)?;
        Ok(Self { zstd, packed: Vec::new() })
    }

    /// A frame of one blob.
    pub(crate) fn encode(&mut self, kind: BlobKind, id: ChunkId, plain: &[u8]) -> Result<StoredFrame> {
        let len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        self.encode_frame(kind, vec![Part { id, at: 0, len }], plain)
    }

    /// A frame of the blobs whose plain bytes, one after another, are `plain`.
    pub(crate) fn encode_frame(&mut self, kind: BlobKind, blobs: Vec<Part>, plain: &[u8]) -> Result<StoredFrame> {
        let plain_len = u32::try_from(plain.len())
            .ok()
            .filter(|_| plain.len() <= MAX_PLAIN)
            .ok_or_else(|| ChunkError::corrupt("a blob", format!("{} bytes are too many", plain.len())))?;
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.packed).map_err(ChunkError::worker)?;
        let raw = self.packed.len() >= plain.len() - plain.len() * 3 / 100;
        let bytes = Bytes::copy_from_slice(if raw { plain } else { &self.packed });
        Ok(StoredFrame { kind, raw, plain_len, check: Check::of(&bytes), bytes, within: None, blobs })
    }
}

/// The plain bytes of a frame, not verified; `None` if it does not decompress to `plain_len` bytes.
pub(crate) fn decode_frame(raw: bool, plain_len: u32, stored: &Bytes) -> Option<Bytes> {
    let plain_len = plain_len as usize;
    if plain_len > MAX_PLAIN {
        return None;
    }
    let plain = if raw { stored.clone() } else { Bytes::from(unpack(stored, plain_len)?) };
    (plain.len() == plain_len).then_some(plain)
}

/// The plain bytes of the blob that lies at `at` in a frame's, verified against its id.
pub(crate) fn part_of(frame: &Bytes, kind: BlobKind, id: ChunkId, at: u32, len: u32) -> Result<Bytes> {
    let (at, len) = (at as usize, len as usize);
    let bad = |why: &str| ChunkError::corrupt(format!("{kind:?} {id}"), why);
    let inside = at.checked_add(len).is_some_and(|end| end <= frame.len());
    if !inside {
        return Err(bad("it does not lie in its frame"));
    }
    let plain = frame.slice(at..at + len);
    if kind.id_of(&plain) != id {
        return Err(bad("its bytes do not match its hash"));
    }
    Ok(plain)
}

/// The plain bytes of a blob alone in its frame and their id, which the caller must compare with what it wanted.
pub(crate) fn decode_unnamed(kind: BlobKind, raw: bool, plain_len: u32, stored: &Bytes) -> Option<(ChunkId, Bytes)> {
    decode_frame(raw, plain_len, stored).map(|plain| (kind.id_of(&plain), plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::line_up;
    use proptest::prelude::*;

    /// All blobs of a frame, verified.
    fn decode(frame: &StoredFrame, stored: &Bytes) -> Result<Vec<Bytes>> {
        let plain = decode_frame(frame.raw, frame.plain_len, stored)
            .ok_or_else(|| ChunkError::corrupt("a frame", "it does not decompress"))?;
        frame.blobs.iter().map(|b| part_of(&plain, frame.kind, b.id, b.at, b.len)).collect()
    }

    fn encode(blobs: &[Vec<u8>]) -> StoredFrame {
        let parts = blobs.iter().map(|b| (BlobKind::Chunk.id_of(b), u32::try_from(b.len()).unwrap()));
        Encoder::new(3).unwrap().encode_frame(BlobKind::Chunk, line_up(parts).unwrap(), &blobs.concat()).unwrap()
    }

    proptest! {
        #[test]
        fn blobs_round_trip(blobs in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..5000),
            (any::<u8>(), 1..100_000usize).prop_map(|(b, n)| vec![b; n]),
        ], 1..4)) {
            let frame = encode(&blobs);
            prop_assert!(frame.bytes.len() <= blobs.concat().len());
            let back = decode(&frame, &frame.bytes).unwrap();
            prop_assert!(back.iter().zip(&blobs).all(|(b, plain)| b[..] == plain[..]));
        }

        #[test]
        fn no_damage_passes(plain in proptest::collection::vec(any::<u8>(), 1..3000), at: usize, flip in 1u8..) {
            let blobs = [[plain.clone(), vec![7; 2000]].concat(), plain];
            let frame = encode(&blobs);
            let mut bytes = frame.bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            // A flip in unused header bits may decode to the very same plain bytes: that is right, too.
            if let Ok(back) = decode(&frame, &Bytes::from(bytes)) {
                prop_assert!(back.iter().zip(&blobs).all(|(b, plain)| b[..] == plain[..]));
            }
        }
    }
}
