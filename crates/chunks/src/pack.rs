//! Packs: immutable objects that hold many blobs, and know by themselves what they hold.
//!
//! ```text
//! offset 0      magic            "LZPACK\x00\x01"
//!        8      blobs            stored bytes, one after another, no padding
//!        ..     entries          one of 48 bytes for each blob, in the order of the blobs:
//!                                  id [u8; 32], offset u32, stored_len u32, plain_len u32,
//!                                  kind u8, raw u8, zero [u8; 2]
//!        end-48 trailer          count u32, zero u32, BLAKE3 of the entries [u8; 32], magic "LZPKEND\x01"
//! ```
//! Integers are little-endian. The trailer is last so that one read of the end finds everything:
//! the index of a region can be built again from its packs alone.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::codec::{MAX_PLAIN, StoredBlob};
use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId};

const MAGIC: &[u8; 8] = b"LZPACK\x00\x01";
const END_MAGIC: &[u8; 8] = b"LZPKEND\x01";
pub(crate) const ENTRY_LEN: usize = 48;
pub(crate) const TRAILER_LEN: usize = 48;
/// A pack is sealed when it reaches this size; the largest blob may make it a little longer.
pub(crate) const PACK_TARGET: usize = 32 << 20;
/// A pack longer than this was not written by us.
pub(crate) const PACK_MAX: u64 = 256 << 20;

/// The key prefix of all packs.
pub(crate) const PREFIX: &str = "packs";

/// Where a pack lies: `packs/7f/<32 hex digits>`, spread by the random end of its id.
pub(crate) fn key(pack: Uuid) -> object_store::path::Path {
    let name = pack.simple().to_string();
    object_store::path::Path::from(format!("{PREFIX}/{}/{name}", &name[30..]))
}

/// The pack whose key this is, if it is one.
pub(crate) fn from_key(key: &object_store::path::Path) -> Option<Uuid> {
    let id = Uuid::try_parse(key.filename()?).ok()?;
    (self::key(id) == *key).then_some(id)
}

/// Where one blob lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub id: ChunkId,
    pub kind: BlobKind,
    pub raw: bool,
    pub offset: u32,
    pub stored_len: u32,
    pub plain_len: u32,
}

/// A pack being filled, in memory.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    pieces: Vec<Bytes>,
    len: usize,
    entries: Vec<Entry>,
}

/// A finished pack, ready to be put.
#[derive(Debug)]
pub(crate) struct SealedPack {
    pub pieces: Vec<Bytes>,
    pub len: u64,
    pub entries: Vec<Entry>,
}

impl PackBuilder {
    pub(crate) fn new() -> Self {
        Self { pieces: vec![Bytes::from_static(MAGIC)], len: MAGIC.len(), entries: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= PACK_TARGET
    }

    pub(crate) fn push(&mut self, blob: StoredBlob) {
        let small = |n: usize| u32::try_from(n).expect("packs and blobs are far below 4 GiB");
        self.entries.push(Entry {
            id: blob.id,
            kind: blob.kind,
            raw: blob.raw,
            offset: small(self.len),
            stored_len: small(blob.bytes.len()),
            plain_len: blob.plain_len,
        });
        self.len += blob.bytes.len();
        self.pieces.push(blob.bytes);
    }

    pub(crate) fn seal(mut self) -> SealedPack {
        let mut tail = BytesMut::with_capacity(self.entries.len() * ENTRY_LEN + TRAILER_LEN);
        for e in &self.entries {
            tail.put_slice(&e.id.0);
            tail.put_u32_le(e.offset);
            tail.put_u32_le(e.stored_len);
            tail.put_u32_le(e.plain_len);
            tail.put_u8(e.kind as u8);
            tail.put_u8(u8::from(e.raw));
            tail.put_u16_le(0);
        }
        let hash = blake3::hash(&tail);
        tail.put_u32_le(u32::try_from(self.entries.len()).expect("a pack's blobs are counted in thousands"));
        tail.put_u32_le(0);
        tail.put_slice(hash.as_bytes());
        tail.put_slice(END_MAGIC);
        self.len += tail.len();
        self.pieces.push(tail.freeze());
        SealedPack { pieces: self.pieces, len: self.len as u64, entries: self.entries }
    }
}

/// How many bytes before the trailer the entries take, told by the trailer.
pub(crate) fn entries_len(trailer: &[u8]) -> Result<u64> {
    let bad = || ChunkError::corrupt("a pack", "its trailer is missing or torn");
    if trailer.len() != TRAILER_LEN || &trailer[40..] != END_MAGIC {
        return Err(bad());
    }
    let count = u32_at(trailer, 0);
    Ok(u64::from(count) * ENTRY_LEN as u64)
}

/// The entries of a pack of `pack_len` bytes, from `tail`: its entries and trailer.
pub(crate) fn parse_tail(tail: &[u8], pack_len: u64) -> Result<Vec<Entry>> {
    let bad = |why: &str| ChunkError::corrupt("a pack", why);
    let split = tail.len().checked_sub(TRAILER_LEN).ok_or_else(|| bad("it is too short"))?;
    let (table, trailer) = tail.split_at(split);
    if entries_len(trailer)? != table.len() as u64 {
        return Err(bad("its entries are cut off"));
    }
    if blake3::hash(table).as_bytes()[..] != trailer[8..40] {
        return Err(bad("its entries do not match their checksum"));
    }
    let blobs_end = pack_len.checked_sub(tail.len() as u64).ok_or_else(|| bad("it is too short"))?;
    table
        .chunks_exact(ENTRY_LEN)
        .map(|raw| parse_entry(raw, blobs_end).ok_or_else(|| bad("one of its entries is impossible")))
        .collect()
}

fn parse_entry(raw: &[u8], blobs_end: u64) -> Option<Entry> {
    let entry = Entry {
        id: ChunkId(raw[..32].try_into().ok()?),
        offset: u32_at(raw, 32),
        stored_len: u32_at(raw, 36),
        plain_len: u32_at(raw, 40),
        kind: BlobKind::from_u8(raw[44])?,
        raw: match raw[45] {
            0 => false,
            1 => true,
            _ => return None,
        },
    };
    let end = u64::from(entry.offset) + u64::from(entry.stored_len);
    let sane = entry.offset as usize >= MAGIC.len() && end <= blobs_end && entry.plain_len as usize <= MAX_PLAIN;
    sane.then_some(entry)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(blobs: &[Vec<u8>]) -> (SealedPack, Vec<u8>) {
        let mut pack = PackBuilder::new();
        for plain in blobs {
            pack.push(StoredBlob {
                id: BlobKind::Chunk.id_of(plain),
                kind: BlobKind::Chunk,
                raw: true,
                plain_len: u32::try_from(plain.len()).unwrap(),
                bytes: Bytes::from(plain.clone()),
            });
        }
        let sealed = pack.seal();
        let bytes = sealed.pieces.concat();
        assert_eq!(bytes.len() as u64, sealed.len);
        (sealed, bytes)
    }

    proptest! {
        #[test]
        fn a_pack_tells_what_it_holds(blobs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let (pack, bytes) = sealed(&blobs);
            let table = usize::try_from(entries_len(&bytes[bytes.len() - TRAILER_LEN..]).unwrap()).unwrap();
            let entries = parse_tail(&bytes[bytes.len() - TRAILER_LEN - table..], pack.len).unwrap();
            prop_assert_eq!(&entries, &pack.entries);
            for (entry, plain) in entries.iter().zip(&blobs) {
                let at = entry.offset as usize;
                prop_assert_eq!(&bytes[at..at + entry.stored_len as usize], &plain[..]);
            }
        }

        #[test]
        fn a_damaged_tail_never_parses(at: usize, flip in 1u8..) {
            let (pack, bytes) = sealed(&[vec![1; 50], vec![2; 60]]);
            let mut tail = bytes[bytes.len() - TRAILER_LEN - 2 * ENTRY_LEN..].to_vec();
            let at = at % tail.len();
            tail[at] ^= flip;
            // Bytes 4..8 of the trailer are reserved and not checked.
            let reserved = tail.len() - TRAILER_LEN + 4..tail.len() - TRAILER_LEN + 8;
            prop_assert!(reserved.contains(&at) || parse_tail(&tail, pack.len).is_err());
        }
    }

    #[test]
    fn keys_round_trip() {
        let id = Uuid::now_v7();
        assert_eq!(from_key(&key(id)), Some(id));
        assert_eq!(from_key(&"packs/zz/nonsense".into()), None);
    }
}
