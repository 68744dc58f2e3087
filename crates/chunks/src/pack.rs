//! Packs: immutable objects that hold many frames, and know by themselves what they hold.
//!
//! A frame is what is compressed together: one blob, or several chunks that are neighbours on the disk
//! and were new at the same time. Its plain bytes are those of its blobs, one after another.
//!
//! ```text
//! offset 0      magic            "LZPACK\x00\x03"
//!        8      frames           stored bytes, one after another, no padding
//!        ..     table            for each frame, in their order:
//!                                  offset u32, stored_len u32, plain_len u32, kind u8, raw u8, count u16,
//!                                  check [u8; 16]: BLAKE3 of the stored bytes, its first half,
//!                                  then `count` times: blob id [u8; 32], length u32
//!        end-48 trailer          length of the table u32, zero u32, BLAKE3 of the table [u8; 32], magic "LZPKEND\x03"
//! ```
//! Integers are little-endian. The trailer is last so that one read of the end finds everything:
//! the index of a region can be built again from its packs alone. By its check a frame is known to be as it was
//! written without being unpacked: replication moves whole frames by it, a scrub reads by it. What a blob is, its id
//! says, and every byte that is handed out is verified by that.
//!
//! Earlier formats are still read. Packs of format 2 are the same without checks. Packs of format 1 have frames of
//! one blob each; their table has an entry of 48 bytes for each (id [u8; 32], offset u32, stored_len u32,
//! plain_len u32, kind u8, raw u8, zero [u8; 2]), their trailer the number of entries in place of the table's length.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::codec::{MAX_FRAME, MAX_PLAIN, StoredFrame};
use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId};

const MAGIC: &[u8; 8] = b"LZPACK\x00\x03";
const END_MAGIC: &[u8; 8] = b"LZPKEND\x03";
/// Both magics end in the number of the format.
const MAGIC_STEM: &[u8; 7] = b"LZPACK\x00";
const END_MAGIC_STEM: &[u8; 7] = b"LZPKEND";
const ENTRY_LEN_1: usize = 48;
const FRAME_LEN: usize = 32;
const FRAME_LEN_2: usize = 16;
/// Blobs that share a frame begin on multiples of this.
pub(crate) const BLOCK: u32 = 4096;
const BLOB_LEN: usize = 36;
pub(crate) const TRAILER_LEN: usize = 48;
/// A pack is sealed when it reaches this size; the largest frame may make it a little longer.
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

/// Tells whether a frame's stored bytes are those that were written: the first half of their BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Check(pub [u8; 16]);

impl Check {
    pub(crate) fn of(stored: &[u8]) -> Self {
        Self(*blake3::hash(stored).as_bytes().first_chunk().expect("16 of 32 bytes"))
    }
}

/// Where one frame lies in its pack, and what it holds. Blobs are named by their ids, or in the index
/// by their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame<Id = ChunkId> {
    pub offset: u32,
    pub stored_len: u32,
    pub plain_len: u32,
    pub kind: BlobKind,
    pub raw: bool,
    /// `None` in packs of earlier formats.
    pub check: Option<Check>,
    pub blobs: Vec<Part<Id>>,
}

/// One blob of a frame: which of its plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part<Id = ChunkId> {
    pub id: Id,
    pub at: u32,
    pub len: u32,
}

/// The blobs of a frame from their lengths, one after another; `None` if they cannot be one.
pub(crate) fn line_up<Id>(blobs: impl Iterator<Item = (Id, u32)>) -> Option<Vec<Part<Id>>> {
    let mut end = 0u32;
    blobs
        .map(|(id, len)| {
            let at = end;
            end = at.checked_add(len)?;
            Some(Part { id, at, len })
        })
        .collect()
}

/// A pack being filled, in memory.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    pieces: Vec<Bytes>,
    /// What the last piece is a part of, and which.
    last: Option<(Bytes, Range<usize>)>,
    len: usize,
    frames: Vec<Frame>,
}

/// A finished pack, ready to be put.
#[derive(Debug)]
pub(crate) struct SealedPack {
    pub pieces: Vec<Bytes>,
    pub len: u64,
    pub frames: Vec<Frame>,
}

impl PackBuilder {
    pub(crate) fn new() -> Self {
        Self { pieces: vec![Bytes::from_static(MAGIC)], last: None, len: MAGIC.len(), frames: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= PACK_TARGET
    }

    pub(crate) fn push(&mut self, frame: StoredFrame) {
        let small = |n: usize| u32::try_from(n).expect("packs and frames are far below 4 GiB");
        let (offset, len) = (small(self.len), frame.bytes.len());
        self.len += len;
        match (self.joined(&frame), self.pieces.last_mut()) {
            (Some(joined), Some(last)) => *last = joined,
            _ => {
                self.last = frame.within.map(|(whole, at)| (whole, at..at + len));
                self.pieces.push(frame.bytes);
            }
        }
        self.frames.push(Frame {
            offset,
            stored_len: small(len),
            plain_len: frame.plain_len,
            kind: frame.kind,
            raw: frame.raw,
            check: Some(frame.check),
            blobs: frame.blobs,
        });
    }

    /// The last piece with the frame, if it comes right after it in the memory that both were read into: a pack of few long pieces
    /// is written in less time.
    fn joined(&mut self, frame: &StoredFrame) -> Option<Bytes> {
        let ((whole, range), (within, at)) = (self.last.as_mut()?, frame.within.as_ref()?);
        let neighbours = whole.as_ptr() == within.as_ptr() && whole.len() == within.len() && range.end == *at;
        neighbours.then(|| {
            range.end += frame.bytes.len();
            whole.slice(range.clone())
        })
    }

    pub(crate) fn seal(mut self) -> SealedPack {
        let blobs: usize = self.frames.iter().map(|f| f.blobs.len()).sum();
        let mut tail = BytesMut::with_capacity(self.frames.len() * FRAME_LEN + blobs * BLOB_LEN + TRAILER_LEN);
        for frame in &self.frames {
            for n in [frame.offset, frame.stored_len, frame.plain_len] {
                tail.put_u32_le(n);
            }
            tail.put_u8(frame.kind as u8);
            tail.put_u8(u8::from(frame.raw));
            tail.put_u16_le(u16::try_from(frame.blobs.len()).expect("a frame holds some tens of blobs"));
            tail.put_slice(&frame.check.expect("every frame that is pushed has one").0);
            for blob in &frame.blobs {
                tail.put_slice(&blob.id.0);
                tail.put_u32_le(blob.len);
            }
        }
        let hash = blake3::hash(&tail);
        tail.put_u32_le(u32::try_from(tail.len()).expect("a pack's table is far below 4 GiB"));
        tail.put_u32_le(0);
        tail.put_slice(hash.as_bytes());
        tail.put_slice(END_MAGIC);
        self.len += tail.len();
        self.pieces.push(tail.freeze());
        SealedPack { pieces: self.pieces, len: self.len as u64, frames: self.frames }
    }
}

/// The format that the magic at a pack's end names.
fn format_of(end: &[u8]) -> Option<u8> {
    let (stem, format) = end.last_chunk::<8>()?.split_at(END_MAGIC_STEM.len());
    (stem == END_MAGIC_STEM && (1..=3).contains(&format[0])).then_some(format[0])
}

/// Whether a pack begins as its format does (and, if its end cannot be read, as any does).
pub(crate) fn has_magic(pack: &[u8]) -> bool {
    let Some(format) = pack.strip_prefix(MAGIC_STEM).and_then(|rest| rest.first()) else { return false };
    format_of(pack).map_or((1..=3).contains(format), |end| end == *format)
}

/// How many bytes before the trailer the table takes, told by the trailer.
pub(crate) fn table_len(trailer: &[u8]) -> Result<u64> {
    let bad = || ChunkError::corrupt("a pack", "its trailer is missing or torn");
    let format = format_of(trailer).filter(|_| trailer.len() == TRAILER_LEN).ok_or_else(bad)?;
    let number = u64::from(u32_at(trailer, 0));
    Ok(if format == 1 { number * ENTRY_LEN_1 as u64 } else { number })
}

/// The frames of a pack of `pack_len` bytes, from `tail`: its table and trailer.
pub(crate) fn parse_tail(tail: &[u8], pack_len: u64) -> Result<Vec<Frame>> {
    let bad = |why: &str| ChunkError::corrupt("a pack", why);
    let split = tail.len().checked_sub(TRAILER_LEN).ok_or_else(|| bad("it is too short"))?;
    let (table, trailer) = tail.split_at(split);
    if table_len(trailer)? != table.len() as u64 {
        return Err(bad("its table is cut off"));
    }
    if blake3::hash(table).as_bytes()[..] != trailer[8..40] {
        return Err(bad("its table does not match its checksum"));
    }
    let frames_end = pack_len.checked_sub(tail.len() as u64).ok_or_else(|| bad("it is too short"))?;
    let frames = match format_of(trailer) {
        Some(1) => parse_table_1(table),
        Some(2) => parse_table(table, FRAME_LEN_2),
        _ => parse_table(table, FRAME_LEN),
    };
    let frames = frames.filter(|f| f.iter().all(|f| is_possible(f, frames_end)));
    frames.ok_or_else(|| bad("one of its entries is impossible"))
}

/// `frame_len`: with checks or without.
fn parse_table(mut table: &[u8], frame_len: usize) -> Option<Vec<Frame>> {
    let mut frames = Vec::new();
    while !table.is_empty() {
        let (head, rest) = table.split_at_checked(frame_len)?;
        let count = usize::from(u16::from_le_bytes([head[14], head[15]]));
        let (blobs, rest) = rest.split_at_checked(count * BLOB_LEN)?;
        table = rest;
        frames.push(Frame {
            offset: u32_at(head, 0),
            stored_len: u32_at(head, 4),
            plain_len: u32_at(head, 8),
            kind: BlobKind::from_u8(head[12])?,
            raw: flag(head[13])?,
            check: head[FRAME_LEN_2..].first_chunk().map(|check| Check(*check)),
            blobs: line_up(blobs.chunks_exact(BLOB_LEN).map(|b| {
                let (id, len) = b.split_first_chunk().expect("36 bytes");
                (ChunkId(*id), u32_at(len, 0))
            }))?,
        });
    }
    Some(frames)
}

fn parse_table_1(table: &[u8]) -> Option<Vec<Frame>> {
    let entry = |raw: &[u8]| {
        let len = u32_at(raw, 40);
        Some(Frame {
            offset: u32_at(raw, 32),
            stored_len: u32_at(raw, 36),
            plain_len: len,
            kind: BlobKind::from_u8(raw[44])?,
            raw: flag(raw[45])?,
            check: None,
            blobs: vec![Part { id: ChunkId(*raw.first_chunk()?), at: 0, len }],
        })
    };
    table.chunks_exact(ENTRY_LEN_1).map(entry).collect()
}

fn flag(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Whether a frame lies inside its pack and is what its blobs make up.
fn is_possible(frame: &Frame, frames_end: u64) -> bool {
    let end = u64::from(frame.offset) + u64::from(frame.stored_len);
    let inside = frame.offset as usize >= MAGIC.len() && end <= frames_end;
    inside && frame.is_filled()
}

impl<Id> Frame<Id> {
    /// Whether the blobs, whole blocks but for the last, make up the frame, and that is not too large.
    pub(crate) fn is_filled(&self) -> bool {
        let bound = if self.blobs.len() == 1 { MAX_PLAIN } else { MAX_FRAME };
        let on_blocks = self.blobs.iter().all(|b| b.at.is_multiple_of(BLOCK));
        let end = self.blobs.last().map(|b| u64::from(b.at) + u64::from(b.len));
        on_blocks && end == Some(u64::from(self.plain_len)) && self.plain_len as usize <= bound
    }
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

    /// Each frame as the lengths of its blobs: whole blocks, and what is left over in the last.
    fn sealed(frames: &[(Vec<u32>, u32)]) -> (SealedPack, Vec<u8>) {
        let mut pack = PackBuilder::new();
        for (n, (blocks, rest)) in (0u8..).zip(frames) {
            let mut at = 0;
            let last = blocks.len() - 1;
            let part = |(i, b): (u8, &u32)| {
                let len = b * 4096 + if usize::from(i) == last { *rest } else { 0 };
                let part = Part { id: BlobKind::Chunk.id_of(&[n, i]), at, len };
                at += len;
                part
            };
            let blobs: Vec<Part> = (0u8..).zip(blocks).map(part).collect();
            let bytes = Bytes::from(vec![n; at as usize % 100 + 1]);
            let check = Check::of(&bytes);
            let frame =
                StoredFrame { kind: BlobKind::Chunk, raw: false, plain_len: at, check, blobs, bytes, within: None };
            pack.push(frame);
        }
        let sealed = pack.seal();
        let bytes = sealed.pieces.concat();
        assert_eq!(bytes.len() as u64, sealed.len);
        (sealed, bytes)
    }

    /// What neighbours share becomes one piece, and the pack is the same.
    #[test]
    fn neighbours_are_one_piece() {
        let whole = Bytes::from_iter(0..100);
        let frame = |at: usize, len: usize, within: Option<(Bytes, usize)>| {
            let bytes = whole.slice(at..at + len);
            let blobs = vec![Part { id: BlobKind::Chunk.id_of(&bytes), at: 0, len: 4096 }];
            StoredFrame {
                kind: BlobKind::Chunk,
                raw: false,
                plain_len: 4096,
                check: Check::of(&bytes),
                bytes,
                within,
                blobs,
            }
        };
        let pack = |share: bool| {
            let mut pack = PackBuilder::new();
            // The third does not follow the second, the last is of other memory.
            for (at, len, other) in [(0, 10, false), (10, 20, false), (40, 5, false), (45, 5, false), (50, 9, true)] {
                let within = if other { Bytes::from(whole.to_vec()) } else { whole.clone() };
                pack.push(frame(at, len, share.then_some((within, at))));
            }
            pack.seal()
        };
        let (joined, apart) = (pack(true), pack(false));
        assert_eq!((joined.pieces.len(), apart.pieces.len()), (1 + 3 + 1, 1 + 5 + 1));
        assert_eq!(joined.pieces.concat(), apart.pieces.concat());
        assert_eq!(joined.frames, apart.frames);
    }

    proptest! {
        #[test]
        fn a_pack_tells_what_it_holds(
            frames in proptest::collection::vec((proptest::collection::vec(1u32..4, 1..9), 0u32..4096), 0..20),
        ) {
            let (pack, bytes) = sealed(&frames);
            let table = usize::try_from(table_len(&bytes[bytes.len() - TRAILER_LEN..]).unwrap()).unwrap();
            let found = parse_tail(&bytes[bytes.len() - TRAILER_LEN - table..], pack.len).unwrap();
            prop_assert_eq!(&found, &pack.frames);
            for (n, frame) in found.iter().enumerate() {
                let stored = &bytes[frame.offset as usize..][..frame.stored_len as usize];
                prop_assert!(stored.iter().all(|b| usize::from(*b) == n));
            }
        }

        #[test]
        fn a_damaged_tail_never_parses(at: usize, flip in 1u8..) {
            let (pack, bytes) = sealed(&[(vec![1, 2], 0), (vec![3], 60)]);
            let table = usize::try_from(table_len(&bytes[bytes.len() - TRAILER_LEN..]).unwrap()).unwrap();
            let mut tail = bytes[bytes.len() - TRAILER_LEN - table..].to_vec();
            let at = at % tail.len();
            tail[at] ^= flip;
            // Bytes 4..8 of the trailer are reserved and not checked.
            let reserved = tail.len() - TRAILER_LEN + 4..tail.len() - TRAILER_LEN + 8;
            prop_assert!(reserved.contains(&at) || parse_tail(&tail, pack.len).is_err());
        }

        /// A table that somebody changed and signed again names nothing outside of its pack, and no frame too large.
        #[test]
        fn a_changed_table_that_is_signed_stays_inside(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
            let (pack, bytes) = sealed(&[(vec![1, 2], 0), (vec![3], 60), (vec![2, 1, 1], 5)]);
            let trailer_at = bytes.len() - TRAILER_LEN;
            let table_at = trailer_at - usize::try_from(table_len(&bytes[trailer_at..]).unwrap()).unwrap();
            let mut tail = bytes[table_at..].to_vec();
            let table_len = trailer_at - table_at;
            for (at, byte) in changes {
                tail[at % table_len] = byte;
            }
            let hash = blake3::hash(&tail[..table_len]);
            tail[table_len + 8..table_len + 40].copy_from_slice(hash.as_bytes());
            if let Ok(frames) = parse_tail(&tail, pack.len) {
                let end = |f: &Frame| f.offset as usize + f.stored_len as usize;
                prop_assert!(frames.iter().all(|f| f.offset as usize >= MAGIC.len() && end(f) <= table_at));
                prop_assert!(frames.iter().all(|f| f.plain_len as usize <= MAX_PLAIN && f.is_filled()));
            }
        }

        #[test]
        fn junk_that_is_signed_never_panics(table in proptest::collection::vec(any::<u8>(), 0..300), format in 0u8..5) {
            let mut tail = table.clone();
            let number = if format == 1 { table.len() / ENTRY_LEN_1 } else { table.len() };
            tail.extend(u32::try_from(number).unwrap().to_le_bytes());
            tail.extend([0; 4]);
            tail.extend(blake3::hash(&table).as_bytes());
            tail.extend(END_MAGIC_STEM);
            tail.push(format);
            let _ = parse_tail(&tail, tail.len() as u64 + 1000);
        }
    }

    #[test]
    fn keys_round_trip() {
        let id = Uuid::now_v7();
        assert_eq!(from_key(&key(id)), Some(id));
        assert_eq!(from_key(&"packs/zz/nonsense".into()), None);
    }
}
