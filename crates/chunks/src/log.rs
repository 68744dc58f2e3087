//! The index log: the truth about which blobs a region holds and where, one append-only local file.
//!
//! ```text
//! header   magic "LZINDEX\x01", generation [u8; 16] (new whenever the file is written anew)
//! record   length u32 of the payload, check u32 (the length's complement), BLAKE3 of the payload [..8], payload
//! payload  5 PackAdded    pack [u8; 16], pack length u64, then per frame
//!                           offset u32, stored u32, plain u32, flags u8 (kind, raw << 4), count u16,
//!                           check [u8; 16], then `count` times: key [u8; 20], place u32 (block in the frame << 26, length)
//!          4 PackAdded     of a pack of format 2 or 1: the same without checks
//!          2 PacksRemoved  packs [u8; 16]...
//!          3 Forgotten     keys [u8; 20]...   (manifests that nothing refers to, in packs that stay)
//!          1 PackAdded     as stores of format 1 have it: frames of one blob, each
//!                           key [u8; 20], offset u32, stored u32, plain u32, flags u8
//! ```
//! Integers are little-endian. A key is the first 20 bytes of an id. A later record overrides an
//! earlier one. A record is appended only after the pack that it names is durable. Processes that
//! only read follow the file as it grows: an incomplete or unverifiable end is "not yet there".
//! A torn end is cut off by the next writer; damage before the end means building the index again
//! from the packs.

use uuid::Uuid;

use crate::id::{BlobKind, ChunkId};
use crate::pack::{BLOCK, Check, Frame, Part, u32_at, u64_at};

pub(crate) const HEADER_LEN: usize = 24;
const MAGIC: &[u8; 8] = b"LZINDEX\x01";
const RECORD_HEAD: usize = 16;
const FRAME_LEN: usize = 31;
const FRAME_LEN_4: usize = 15;
const LEN_BITS: u32 = 26;
const LEN_MASK: u32 = (1 << LEN_BITS) - 1;
const BLOB_LEN: usize = 24;
const BLOB_LEN_1: usize = 33;

/// The part of an id that the index keeps: finding two ids that share it takes 2^80 hashes, and
/// even then reads end in an error, since they are verified by the full id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(pub [u8; 20]);

impl From<ChunkId> for Key {
    fn from(id: ChunkId) -> Self {
        Self(*id.0.first_chunk().expect("20 of 32 bytes"))
    }
}

impl From<&Frame> for Frame<Key> {
    fn from(f: &Frame) -> Self {
        Self {
            offset: f.offset,
            stored_len: f.stored_len,
            plain_len: f.plain_len,
            kind: f.kind,
            raw: f.raw,
            check: f.check,
            blobs: f.blobs.iter().map(|b| Part { id: b.id.into(), at: b.at, len: b.len }).collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    PackAdded { pack: Uuid, len: u64, frames: Vec<Frame<Key>> },
    PacksRemoved(Vec<Uuid>),
    Forgotten(Vec<Key>),
}

pub(crate) fn header(generation: Uuid) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(MAGIC);
    out[8..].copy_from_slice(generation.as_bytes());
    out
}

pub(crate) fn parse_header(bytes: &[u8]) -> Option<Uuid> {
    let rest = bytes.get(..HEADER_LEN)?.strip_prefix(MAGIC)?;
    Uuid::from_slice(rest).ok()
}

impl Record {
    /// The record as it is appended, head included.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; RECORD_HEAD];
        match self {
            Self::PackAdded { pack, len, frames } => {
                // A pack is of one format.
                let checked = frames.iter().all(|f| f.check.is_some());
                out.push(if checked { 5 } else { 4 });
                out.extend_from_slice(pack.as_bytes());
                out.extend_from_slice(&len.to_le_bytes());
                frames.iter().for_each(|f| push_frame(&mut out, f, f.check.filter(|_| checked)));
            }
            Self::PacksRemoved(packs) => {
                out.push(2);
                packs.iter().for_each(|p| out.extend_from_slice(p.as_bytes()));
            }
            Self::Forgotten(keys) => {
                out.push(3);
                keys.iter().for_each(|k| out.extend_from_slice(&k.0));
            }
        }
        let len = u32::try_from(out.len() - RECORD_HEAD).expect("a record names at most some packs' blobs");
        let hash = blake3::hash(&out[RECORD_HEAD..]);
        out[..4].copy_from_slice(&len.to_le_bytes());
        out[4..8].copy_from_slice(&(!len).to_le_bytes());
        out[8..16].copy_from_slice(&hash.as_bytes()[..8]);
        out
    }

    fn parse_payload(payload: &[u8]) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        match kind {
            1 => {
                let (head, blobs) = rest.split_at_checked(24)?;
                let exact = blobs.chunks_exact(BLOB_LEN_1);
                exact.remainder().is_empty().then_some(())?;
                Some(Self::PackAdded {
                    pack: Uuid::from_slice(&head[..16]).ok()?,
                    len: u64_at(head, 16),
                    frames: exact.map(parse_blob_1).collect::<Option<_>>()?,
                })
            }
            4 | 5 => {
                let (head, frames) = rest.split_at_checked(24)?;
                let frame_len = if *kind == 5 { FRAME_LEN } else { FRAME_LEN_4 };
                Some(Self::PackAdded {
                    pack: Uuid::from_slice(&head[..16]).ok()?,
                    len: u64_at(head, 16),
                    frames: parse_frames(frames, frame_len)?,
                })
            }
            2 => {
                let exact = rest.chunks_exact(16);
                exact.remainder().is_empty().then_some(())?;
                Some(Self::PacksRemoved(exact.map(|p| Uuid::from_slice(p).ok()).collect::<Option<_>>()?))
            }
            3 => {
                let exact = rest.chunks_exact(20);
                exact.remainder().is_empty().then_some(())?;
                Some(Self::Forgotten(exact.map(|k| Key(k.try_into().expect("20 bytes"))).collect()))
            }
            _ => None,
        }
    }
}

fn push_frame(out: &mut Vec<u8>, frame: &Frame<Key>, check: Option<Check>) {
    for n in [frame.offset, frame.stored_len, frame.plain_len] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.push(frame.kind as u8 | u8::from(frame.raw) << 4);
    let count = u16::try_from(frame.blobs.len()).expect("a frame holds some tens of blobs");
    out.extend_from_slice(&count.to_le_bytes());
    out.extend(check.iter().flat_map(|c| c.0));
    for blob in &frame.blobs {
        out.extend_from_slice(&blob.id.0);
        out.extend_from_slice(&place(blob.at, blob.len).to_le_bytes());
    }
}

/// A blob's place in its frame in one number: the block it begins on in six bits, its length in 26.
pub(crate) fn place(at: u32, len: u32) -> u32 {
    debug_assert!(at.is_multiple_of(BLOCK) && at / BLOCK < 64 && len <= LEN_MASK);
    ((at / BLOCK) << LEN_BITS) | len
}

/// Where a blob begins in its frame, and its length.
pub(crate) fn from_place(place: u32) -> (u32, u32) {
    ((place >> LEN_BITS) * BLOCK, place & LEN_MASK)
}

/// `frame_len`: with checks or without.
fn parse_frames(mut bytes: &[u8], frame_len: usize) -> Option<Vec<Frame<Key>>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(frame_len)?;
        let count = usize::from(u16::from_le_bytes([head[13], head[14]]));
        let (blobs, rest) = rest.split_at_checked(count * BLOB_LEN)?;
        bytes = rest;
        let blobs = blobs.chunks_exact(BLOB_LEN).map(|b| {
            let (key, rest) = b.split_first_chunk().expect("24 bytes");
            let (at, len) = from_place(u32_at(rest, 0));
            Part { id: Key(*key), at, len }
        });
        let blobs = blobs.collect();
        let (kind, raw) = parse_flags(head[12])?;
        let (offset, stored_len, plain_len) = (u32_at(head, 0), u32_at(head, 4), u32_at(head, 8));
        let check = head[FRAME_LEN_4..].first_chunk().map(|check| Check(*check));
        frames.push(Frame { offset, stored_len, plain_len, kind, raw, check, blobs });
    }
    let inside = |f: &Frame<Key>| f.blobs.iter().all(|b| b.at + b.len <= f.plain_len);
    frames.iter().all(inside).then_some(frames)
}

fn parse_blob_1(bytes: &[u8]) -> Option<Frame<Key>> {
    let (kind, raw) = parse_flags(bytes[32])?;
    let len = u32_at(bytes, 28);
    Some(Frame {
        offset: u32_at(bytes, 20),
        stored_len: u32_at(bytes, 24),
        plain_len: len,
        kind,
        raw,
        check: None,
        blobs: vec![Part { id: Key(*bytes.first_chunk()?), at: 0, len }],
    })
}

fn parse_flags(flags: u8) -> Option<(BlobKind, bool)> {
    Some((BlobKind::from_u8(flags & 0xf)?, flags >> 4 == 1))
}

/// What the bytes at some place of the log are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A whole record, and how many bytes it took.
    Record(Record, usize),
    /// The end: nothing, or a record that was not written to its end.
    End,
    /// Bytes that no interrupted append explains.
    Damaged,
}

/// Judges the bytes from a record's start to the end of the file.
pub(crate) fn step(bytes: &[u8]) -> Step {
    if bytes.iter().take(4096).all(|b| *b == 0) {
        // Nothing, or a length that reached the disk before the data did.
        return if bytes.iter().all(|b| *b == 0) { Step::End } else { Step::Damaged };
    }
    let Some((head, rest)) = bytes.split_at_checked(RECORD_HEAD) else {
        return Step::End;
    };
    let len = u32_at(head, 0);
    if u32_at(head, 4) != !len {
        return Step::Damaged;
    }
    let len = len as usize;
    let Some(payload) = rest.get(..len) else {
        return Step::End;
    };
    if blake3::hash(payload).as_bytes()[..8] != head[8..] {
        // The last append may have been torn by a power failure; anything earlier was once durable.
        return if rest.len() == len { Step::End } else { Step::Damaged };
    }
    match Record::parse_payload(payload) {
        Some(record) => Step::Record(record, RECORD_HEAD + len),
        None => Step::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::line_up;
    use proptest::prelude::*;

    /// A pack of today's format, or of an earlier one.
    fn pack_added((pack, len, mut frames, checked): (Uuid, u64, Vec<Frame<Key>>, bool)) -> Record {
        if !checked {
            frames.iter_mut().for_each(|f| f.check = None);
        }
        Record::PackAdded { pack, len, frames }
    }

    fn record() -> impl Strategy<Value = Record> {
        let key = || any::<[u8; 20]>().prop_map(Key);
        let blocks = proptest::collection::vec((key(), 1u32..8), 1..9);
        let frame = (blocks, any::<[u32; 2]>(), 0u8..3, any::<bool>()).prop_map(|(blobs, n, kind, raw)| {
            let blobs = line_up(blobs.into_iter().map(|(key, blocks)| (key, blocks * 4096))).unwrap();
            Frame {
                offset: n[0],
                stored_len: n[1],
                plain_len: blobs.last().map_or(0, |b| b.at + b.len),
                kind: BlobKind::from_u8(kind).unwrap(),
                raw,
                check: Some(Check(blake3::hash(&n[0].to_le_bytes()).as_bytes()[..16].try_into().unwrap())),
                blobs,
            }
        });
        let uuid = || any::<[u8; 16]>().prop_map(Uuid::from_bytes);
        prop_oneof![
            (uuid(), any::<u64>(), proptest::collection::vec(frame, 0..9), any::<bool>()).prop_map(pack_added),
            proptest::collection::vec(uuid(), 0..9).prop_map(Record::PacksRemoved),
            proptest::collection::vec(key(), 0..9).prop_map(Record::Forgotten),
        ]
    }

    #[test]
    fn a_pack_recorded_by_format_1_is_understood() {
        let mut payload = vec![1];
        payload.extend([7; 16]);
        payload.extend(5000u64.to_le_bytes());
        payload.extend([9; 20]);
        for n in [8u32, 1000, 4608] {
            payload.extend(n.to_le_bytes());
        }
        payload.push(2 | 1 << 4);
        let blobs = vec![Part { id: Key([9; 20]), at: 0, len: 4608 }];
        let kind = BlobKind::Root;
        let frame = Frame { offset: 8, stored_len: 1000, plain_len: 4608, kind, raw: true, check: None, blobs };
        let pack = Uuid::from_bytes([7; 16]);
        assert_eq!(Record::parse_payload(&payload), Some(Record::PackAdded { pack, len: 5000, frames: vec![frame] }));
    }

    proptest! {
        #[test]
        fn records_round_trip(record in record()) {
            let bytes = record.encode();
            prop_assert_eq!(step(&bytes), Step::Record(record, bytes.len()));
        }

        #[test]
        fn every_torn_end_is_an_end(record in record(), cut: usize) {
            let bytes = record.encode();
            let torn = &bytes[..cut % bytes.len()];
            prop_assert_eq!(step(torn), Step::End);
        }

        #[test]
        fn damage_before_the_end_is_seen(record in record(), at: usize, flip in 1u8..) {
            let mut bytes = record.encode();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            bytes.extend(Record::PacksRemoved(vec![Uuid::nil()]).encode());
            prop_assert_eq!(step(&bytes), Step::Damaged);
        }
    }
}
