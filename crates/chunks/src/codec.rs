//! How one blob's bytes are stored: a zstd frame, or raw where compression saves under 3 %.

use std::cell::RefCell;

use bytes::Bytes;

use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId};

/// No blob is larger than this when plain. It bounds what a damaged length can make us allocate.
pub(crate) const MAX_PLAIN: usize = 32 << 20;

/// A blob as it lies in a pack.
#[derive(Debug, Clone)]
pub(crate) struct StoredBlob {
    pub id: ChunkId,
    pub kind: BlobKind,
    pub raw: bool,
    pub plain_len: u32,
    pub bytes: Bytes,
}

/// Compresses blobs; one a thread, its context and its buffer are reused.
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

    pub(crate) fn encode(&mut self, kind: BlobKind, id: ChunkId, plain: &[u8]) -> Result<StoredBlob> {
        let plain_len = u32::try_from(plain.len())
            .ok()
            .filter(|_| plain.len() <= MAX_PLAIN)
            .ok_or_else(|| ChunkError::corrupt("a blob", format!("{} bytes are too many", plain.len())))?;
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.packed).map_err(ChunkError::worker)?;
        let raw = self.packed.len() >= plain.len() - plain.len() * 3 / 100;
        let bytes = Bytes::copy_from_slice(if raw { plain } else { &self.packed });
        Ok(StoredBlob { id, kind, raw, plain_len, bytes })
    }
}

/// The plain bytes of a stored blob, verified against its id.
pub(crate) fn decode(kind: BlobKind, id: ChunkId, raw: bool, plain_len: u32, stored: &Bytes) -> Result<Bytes> {
    let (found, plain) = decode_unnamed(kind, raw, plain_len, stored)
        .ok_or_else(|| ChunkError::corrupt(format!("{kind:?} {id}"), "it does not decompress"))?;
    if found != id {
        return Err(ChunkError::corrupt(format!("{kind:?} {id}"), "its bytes do not match its hash"));
    }
    Ok(plain)
}

/// The plain bytes of a stored blob and their id, which the caller must compare with what it wanted.
pub(crate) fn decode_unnamed(kind: BlobKind, raw: bool, plain_len: u32, stored: &Bytes) -> Option<(ChunkId, Bytes)> {
    let plain_len = plain_len as usize;
    if plain_len > MAX_PLAIN {
        return None;
    }
    let plain = if raw { stored.clone() } else { Bytes::from(unpack(stored, plain_len)?) };
    (plain.len() == plain_len).then(|| (kind.id_of(&plain), plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blobs_round_trip(plain in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..5000),
            (any::<u8>(), 1..200_000usize).prop_map(|(b, n)| vec![b; n]),
        ]) {
            let id = BlobKind::Chunk.id_of(&plain);
            let blob = Encoder::new(3).unwrap().encode(BlobKind::Chunk, id, &plain).unwrap();
            prop_assert!(blob.bytes.len() <= plain.len());
            let back = decode(blob.kind, id, blob.raw, blob.plain_len, &blob.bytes).unwrap();
            prop_assert_eq!(&back[..], &plain[..]);
        }

        #[test]
        fn no_damage_passes(plain in proptest::collection::vec(any::<u8>(), 1..3000), at: usize, flip in 1u8..) {
            let plain = [plain, vec![7; 2000]].concat();
            let id = BlobKind::Chunk.id_of(&plain);
            let blob = Encoder::new(3).unwrap().encode(BlobKind::Chunk, id, &plain).unwrap();
            let mut bytes = blob.bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            // A flip in unused header bits may decode to the very same plain bytes: that is right, too.
            if let Ok(back) = decode(blob.kind, id, blob.raw, blob.plain_len, &Bytes::from(bytes)) {
                prop_assert_eq!(&back[..], &plain[..]);
            }
        }
    }
}
