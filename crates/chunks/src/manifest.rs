//! Manifests: which chunks make up a disk.
//!
//! A disk's logical space is cut into segments of 64 MiB. A segment that holds data is a blob of
//! its extents; the root is a blob of the disk's size and its segments. Both are content-addressed
//! blobs in packs like the chunks themselves, so an unchanged segment costs nothing, and the root's
//! id names the whole disk. What no extent covers reads as zeros.
//!
//! ```text
//! segment   magic "LZSEGM\x00\x01", count u32, then for each extent, by rising offset:
//!             offset in the segment u32, length u32, chunk id [u8; 32]
//! root      magic "LZROOT\x00\x01", disk size u64, bytes of data u64, segment size u64, count u32,
//!             then for each segment with data, by rising number:
//!             number u32, bytes of data u32, segment id [u8; 32]
//! ```
//! Integers are little-endian. The encoding is canonical: the same disk gives the same bytes.

use crate::error::{ChunkError, Result};
use crate::id::ChunkId;
use crate::pack::{u32_at, u64_at};
use crate::params::SEGMENT;

const SEGMENT_MAGIC: &[u8; 8] = b"LZSEGM\x00\x01";
const ROOT_MAGIC: &[u8; 8] = b"LZROOT\x00\x01";
const ITEM: usize = 40;
/// The largest disk: beyond it the root would not fit a blob. Azure's largest is 32 TiB.
pub(crate) const MAX_DISK: u64 = 32 << 40;

/// A run of data in a segment, stored as one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentExtent {
    pub offset: u32,
    pub len: u32,
    pub chunk: ChunkId,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Segment {
    pub extents: Vec<SegmentExtent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentRef {
    pub number: u32,
    pub data_bytes: u32,
    pub id: ChunkId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    pub size: u64,
    pub data_bytes: u64,
    pub segments: Vec<SegmentRef>,
}

impl Segment {
    pub(crate) fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.len)).sum()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.extents.len() * ITEM);
        out.extend_from_slice(SEGMENT_MAGIC);
        push_count(&mut out, self.extents.len());
        for e in &self.extents {
            push_item(&mut out, e.offset, e.len, e.chunk);
        }
        out
    }

    /// Parses what [`encode`](Self::encode) wrote; offsets rise, extents neither overlap nor leave the segment.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |why: &str| ChunkError::corrupt("a segment", why);
        let items = parse_items(bytes, SEGMENT_MAGIC, 8).ok_or_else(|| bad("its length is wrong"))?;
        let mut end = 0;
        let mut extents = Vec::with_capacity(items.len() / ITEM);
        for (offset, len, chunk) in each_item(items) {
            if u64::from(offset) < end || len == 0 {
                return Err(bad("its extents overlap"));
            }
            end = u64::from(offset) + u64::from(len);
            extents.push(SegmentExtent { offset, len, chunk });
        }
        if end > SEGMENT {
            return Err(bad("an extent leaves it"));
        }
        Ok(Self { extents })
    }
}

impl Root {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(36 + self.segments.len() * ITEM);
        out.extend_from_slice(ROOT_MAGIC);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.data_bytes.to_le_bytes());
        out.extend_from_slice(&SEGMENT.to_le_bytes());
        push_count(&mut out, self.segments.len());
        for s in &self.segments {
            push_item(&mut out, s.number, s.data_bytes, s.id);
        }
        out
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |why: &str| ChunkError::corrupt("a manifest", why);
        let items = parse_items(bytes, ROOT_MAGIC, 32).ok_or_else(|| bad("its length is wrong"))?;
        let (size, data_bytes, segment) = (u64_at(bytes, 8), u64_at(bytes, 16), u64_at(bytes, 24));
        if segment != SEGMENT || size > MAX_DISK || data_bytes > size {
            return Err(bad("its sizes are impossible"));
        }
        let segments: Vec<_> =
            each_item(items).map(|(number, data_bytes, id)| SegmentRef { number, data_bytes, id }).collect();
        let rising = segments.windows(2).all(|w| w[0].number < w[1].number);
        let inside = segments.last().is_none_or(|s| u64::from(s.number) * SEGMENT < size);
        if !rising || !inside {
            return Err(bad("its segments are out of order"));
        }
        Ok(Self { size, data_bytes, segments })
    }

    /// The segment of this number, if it holds data.
    pub(crate) fn segment(&self, number: u64) -> Option<SegmentRef> {
        let number = u32::try_from(number).ok()?;
        let at = self.segments.binary_search_by_key(&number, |s| s.number).ok()?;
        Some(self.segments[at])
    }
}

fn push_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("at most one item a block or segment");
    out.extend_from_slice(&count.to_le_bytes());
}

fn push_item(out: &mut Vec<u8>, a: u32, b: u32, id: ChunkId) {
    out.extend_from_slice(&a.to_le_bytes());
    out.extend_from_slice(&b.to_le_bytes());
    out.extend_from_slice(&id.0);
}

/// The items after the magic, the fixed fields (to byte `fixed`) and the count; `None` if the length is wrong.
fn parse_items<'a>(bytes: &'a [u8], magic: &[u8; 8], fixed: usize) -> Option<&'a [u8]> {
    let rest = bytes.strip_prefix(magic).and_then(|_| bytes.get(fixed..))?;
    let (count, items) = rest.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    (items.len() == count.checked_mul(ITEM)?).then_some(items)
}

fn each_item(items: &[u8]) -> impl Iterator<Item = (u32, u32, ChunkId)> {
    items.chunks_exact(ITEM).map(|raw| {
        let id = raw[8..].try_into().expect("32 bytes");
        (u32_at(raw, 0), u32_at(raw, 4), ChunkId(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = ChunkId> {
        any::<[u8; 32]>().prop_map(ChunkId)
    }

    proptest! {
        #[test]
        fn segments_round_trip(parts in proptest::collection::vec((0u32..50_000, 1u32..131_072, id()), 0..100)) {
            let mut end = 0;
            let extents = parts.into_iter().map(|(gap, len, chunk)| {
                let e = SegmentExtent { offset: end + gap, len, chunk };
                end = e.offset + len;
                e
            }).collect();
            let segment = Segment { extents };
            prop_assert_eq!(Segment::parse(&segment.encode()).unwrap(), segment);
        }

        #[test]
        fn roots_round_trip(numbers in proptest::collection::btree_set(0u32..4000, 0..50), id in id()) {
            let root = Root {
                size: 4000 * SEGMENT,
                data_bytes: 17,
                segments: numbers.into_iter().map(|number| SegmentRef { number, data_bytes: 5, id }).collect(),
            };
            prop_assert_eq!(Root::parse(&root.encode()).unwrap(), root);
        }

        /// The lengths are right, all else is chance: what parses is what its type promises.
        #[test]
        fn well_formed_junk_never_panics(
            sizes in (any::<u64>(), any::<u64>(), prop_oneof![Just(SEGMENT), any::<u64>()]),
            items in proptest::collection::vec((0u32..1 << 27, 0u32..1 << 27, id()), 0..12),
            sorted: bool,
        ) {
            let mut items = items;
            if sorted {
                items.sort_by_key(|i| i.0);
            }
            let mut bytes = ROOT_MAGIC.to_vec();
            // Half of the sizes are possible ones.
            let size = if sizes.0.is_multiple_of(2) { sizes.0 } else { sizes.0 % MAX_DISK };
            for field in [size, if sorted { size / 2 } else { sizes.1 }, sizes.2] {
                bytes.extend(field.to_le_bytes());
            }
            let mut segment = SEGMENT_MAGIC.to_vec();
            for out in [&mut bytes, &mut segment] {
                push_count(out, items.len());
                items.iter().for_each(|i| push_item(out, i.0, i.1, i.2));
            }
            if let Ok(root) = Root::parse(&bytes) {
                prop_assert!(root.size <= MAX_DISK && root.data_bytes <= root.size);
                prop_assert!(root.segments.iter().all(|s| u64::from(s.number) * SEGMENT < root.size));
                prop_assert_eq!(root.encode(), bytes);
            }
            if let Ok(parsed) = Segment::parse(&segment) {
                prop_assert!(parsed.data_bytes() <= SEGMENT);
                prop_assert_eq!(parsed.encode(), segment);
            }
        }

        #[test]
        fn junk_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), kind: bool) {
            let magic = if kind { ROOT_MAGIC } else { SEGMENT_MAGIC };
            let n = bytes.len().min(8);
            bytes[..n].copy_from_slice(&magic[..n]);
            let _ = Root::parse(&bytes);
            let _ = Segment::parse(&bytes);
        }
    }

    #[test]
    fn overlapping_extents_are_refused() {
        let e = |offset, len| SegmentExtent { offset, len, chunk: ChunkId([1; 32]) };
        for extents in [vec![e(0, 10), e(5, 10)], vec![e(0, 0)], vec![e(64 << 20, 1)]] {
            assert!(Segment::parse(&Segment { extents }.encode()).is_err());
        }
    }
}
