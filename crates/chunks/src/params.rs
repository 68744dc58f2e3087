//! `store.json`, the head of a store: how it was made. Written create-only, once; a store is never
//! written with other parameters than it was made with, or deduplication would silently end.

use serde::{Deserialize, Serialize};

use crate::chunker::ChunkerParams;

pub(crate) const HEAD: &str = "store.json";
pub(crate) const FORMAT: u32 = 1;
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
    pub segment_bytes: u64,
    pub hash: String,
    pub compression: String,
}

impl StoreParams {
    /// What this version writes and reads.
    pub fn standard() -> Self {
        let ChunkerParams { block, min, max, mask } = ChunkerParams::STANDARD;
        let small = |n: usize| u32::try_from(n).expect("chunk sizes are small");
        Self {
            format: FORMAT,
            chunker: "block-cdc-1".into(),
            block_bytes: small(block),
            min_chunk_bytes: small(min),
            max_chunk_bytes: small(max),
            cut_mask: mask,
            segment_bytes: SEGMENT,
            hash: "blake3".into(),
            compression: "zstd".into(),
        }
    }
}
