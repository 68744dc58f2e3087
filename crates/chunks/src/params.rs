//! `store.json`, the head of a store: how it was made. Written create-only, once; a store is never
//! written with other parameters than it was made with, or deduplication would silently end. A store of
//! format 1 is used on as it was made; see RFD 2 for what changed.

use serde::{Deserialize, Serialize};

use crate::chunker::ChunkerParams;

pub(crate) const HEAD: &str = "store.json";
pub(crate) const FORMAT: u32 = 2;
/// How much of a disk one segment covers.
pub(crate) const SEGMENT: u64 = 64 << 20;

/// The recorded parameters of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreParams {
    pub format: u32,
    /// Names the cutting rule and the block hash together.
    pub chunker: String,
    pub block_bytes: u32,
    pub min_chunk_bytes: u32,
    pub max_chunk_bytes: u32,
    pub cut_mask: u64,
    /// Not there in format 1, whose chunker has no such rule.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub file_tail_bytes: u32,
    pub segment_bytes: u64,
    pub hash: String,
    pub compression: String,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl StoreParams {
    /// What this version makes.
    pub fn standard() -> Self {
        Self::new(FORMAT, "block-cdc-2", ChunkerParams::FILES)
    }

    /// What format 1 made. Such a store is read, and goes on being cut as it was; what is written into it from now on
    /// is only for this version.
    pub fn format_1() -> Self {
        Self::new(1, "block-cdc-1", ChunkerParams::STANDARD)
    }

    /// Whether this version can use a store of these parameters.
    pub(crate) fn is_known(&self) -> bool {
        *self == Self::standard() || *self == Self::format_1()
    }

    pub(crate) fn chunker(&self) -> ChunkerParams {
        if self.format == 1 { ChunkerParams::STANDARD } else { ChunkerParams::FILES }
    }

    fn new(format: u32, chunker: &str, params: ChunkerParams) -> Self {
        let ChunkerParams { block, min, max, mask, file_tail } = params;
        let small = |n: usize| u32::try_from(n).expect("chunk sizes are small");
        Self {
            format,
            chunker: chunker.into(),
            block_bytes: small(block),
            min_chunk_bytes: small(min),
            max_chunk_bytes: small(max),
            cut_mask: mask,
            file_tail_bytes: small(file_tail),
            segment_bytes: SEGMENT,
            hash: "blake3".into(),
            compression: "zstd".into(),
        }
    }
}
