//! The index log: the truth about which blobs a region holds and where, one append-only local file.
//!
//! ```text
//! header   magic "LZINDEX\x01", generation [u8; 16] (new whenever the file is written anew)
//! record   length u32 of the payload, check u32 (the length's complement), BLAKE3 of the payload [..8], payload
//! payload  1 PackAdded    pack [u8; 16], pack length u64, then per blob
//!                           key [u8; 20], offset u32, stored u32, plain u32, flags u8 (kind, raw << 4)
//!          2 PacksRemoved  packs [u8; 16]...
//!          3 Forgotten     keys [u8; 20]...   (manifests that nothing refers to, in packs that stay)
//! ```
//! Integers are little-endian. A key is the first 20 bytes of an id. A later record overrides an
//! earlier one. A record is appended only after the pack that it names is durable. Processes that
//! only read follow the file as it grows: an incomplete or unverifiable end is "not yet there".
//! A torn end is cut off by the next writer; damage before the end means building the index again
//! from the packs.

use uuid::Uuid;

use crate::id::{BlobKind, ChunkId};
use crate::pack::{Entry, u32_at, u64_at};

pub(crate) const HEADER_LEN: usize = 24;
const MAGIC: &[u8; 8] = b"LZINDEX\x01";
const RECORD_HEAD: usize = 16;
const BLOB_LEN: usize = 33;

/// The part of an id that the index keeps: finding two ids that share it takes 2^80 hashes, and
/// even then reads end in an error, since they are verified by the full id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub [u8; 20]);

impl From<ChunkId> for Key {
    fn from(id: ChunkId) -> Self {
        Self(*id.0.first_chunk().expect("20 of 32 bytes"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogBlob {
    pub key: Key,
    pub offset: u32,
    pub stored_len: u32,
    pub plain_len: u32,
    pub kind: BlobKind,
    pub raw: bool,
}

impl From<&Entry> for LogBlob {
    fn from(e: &Entry) -> Self {
        Self {
            key: e.id.into(),
            offset: e.offset,
            stored_len: e.stored_len,
            plain_len: e.plain_len,
            kind: e.kind,
            raw: e.raw,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    PackAdded { pack: Uuid, len: u64, blobs: Vec<LogBlob> },
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
            Self::PackAdded { pack, len, blobs } => {
                out.push(1);
                out.extend_from_slice(pack.as_bytes());
                out.extend_from_slice(&len.to_le_bytes());
                for b in blobs {
                    out.extend_from_slice(&b.key.0);
                    for n in [b.offset, b.stored_len, b.plain_len] {
                        out.extend_from_slice(&n.to_le_bytes());
                    }
                    out.push(b.kind as u8 | u8::from(b.raw) << 4);
                }
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
                let exact = blobs.chunks_exact(BLOB_LEN);
                exact.remainder().is_empty().then_some(())?;
                Some(Self::PackAdded {
                    pack: Uuid::from_slice(&head[..16]).ok()?,
                    len: u64_at(head, 16),
                    blobs: exact.map(parse_blob).collect::<Option<_>>()?,
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

fn parse_blob(raw: &[u8]) -> Option<LogBlob> {
    Some(LogBlob {
        key: Key(*raw.first_chunk()?),
        offset: u32_at(raw, 20),
        stored_len: u32_at(raw, 24),
        plain_len: u32_at(raw, 28),
        kind: BlobKind::from_u8(raw[32] & 0xf)?,
        raw: raw[32] >> 4 == 1,
    })
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
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        let key = || any::<[u8; 20]>().prop_map(Key);
        let blob = (key(), any::<[u32; 3]>(), 0u8..3, any::<bool>()).prop_map(|(key, n, kind, raw)| LogBlob {
            key,
            offset: n[0],
            stored_len: n[1],
            plain_len: n[2],
            kind: BlobKind::from_u8(kind).unwrap(),
            raw,
        });
        let uuid = || any::<[u8; 16]>().prop_map(Uuid::from_bytes);
        prop_oneof![
            (uuid(), any::<u64>(), proptest::collection::vec(blob, 0..20))
                .prop_map(|(pack, len, blobs)| Record::PackAdded { pack, len, blobs }),
            proptest::collection::vec(uuid(), 0..9).prop_map(Record::PacksRemoved),
            proptest::collection::vec(key(), 0..9).prop_map(Record::Forgotten),
        ]
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
