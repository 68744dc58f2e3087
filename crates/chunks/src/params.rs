//! `store.json`, the head of a store: how its disks are cut, and which format its packs may have. A store is never
//! written with another cutting rule than it was made with, or deduplication would silently end. A store of an earlier
//! format is used on: whoever opens it for writing says so in its head first, so that earlier versions, which cannot
//! read what is written from now on, refuse it. See RFD 2 for what changed.

use serde::{Deserialize, Serialize};

use crate::chunker::ChunkerParams;
use crate::seal::CIPHER;

pub(crate) const HEAD: &str = "store.json";
pub(crate) const FORMAT: u32 = 3;
/// How much of a disk one segment covers.
pub(crate) const SEGMENT: u64 = 64 << 20;

/// The recorded parameters of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
    /// There once packs are sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// With what packs are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    pub cipher: String,
    /// The names of the keys that packs may have been sealed with, the newest last.
    pub keys: Vec<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl StoreParams {
    /// What this version makes.
    pub fn standard() -> Self {
        Self::new(FORMAT, "block-cdc-2", ChunkerParams::FILES)
    }

    /// What format 2 made: packs without checks.
    pub fn format_2() -> Self {
        Self::new(2, "block-cdc-2", ChunkerParams::FILES)
    }

    /// What format 1 made: an earlier cutting rule, packs without checks whose frames have one blob each.
    pub fn format_1() -> Self {
        Self::new(1, "block-cdc-1", ChunkerParams::STANDARD)
    }

    /// The same store once this version writes into it: cut as before.
    pub(crate) fn today(&self) -> Self {
        Self { format: FORMAT, ..self.clone() }
    }

    /// The same store once its packs are sealed with these keys, too.
    pub(crate) fn with_keys(self, keys: impl IntoIterator<Item = String>) -> Self {
        let mut all = self.encryption.as_ref().map_or_else(Vec::new, |e| e.keys.clone());
        for key in keys {
            if !all.contains(&key) {
                all.push(key);
            }
        }
        let encryption = (!all.is_empty()).then(|| Encryption { cipher: CIPHER.into(), keys: all });
        Self { encryption, ..self }
    }

    /// The names of the keys that packs may have been sealed with.
    pub(crate) fn keys(&self) -> &[String] {
        self.encryption.as_ref().map_or(&[], |e| &e.keys)
    }

    /// Whether this version can use a store of these parameters.
    pub(crate) fn is_known(&self) -> bool {
        let made = [Self::format_1(), Self::format_2(), Self::standard()];
        let plain = Self { encryption: None, ..self.clone() };
        let sealed = self.encryption.as_ref().is_none_or(|e| e.cipher == CIPHER && self.format == FORMAT);
        sealed && made.iter().any(|m| plain == *m || plain == m.today())
    }

    pub(crate) fn chunker(&self) -> ChunkerParams {
        if self.chunker == Self::format_1().chunker { ChunkerParams::STANDARD } else { ChunkerParams::FILES }
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
            encryption: None,
        }
    }
}
