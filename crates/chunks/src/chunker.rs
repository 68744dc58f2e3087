//! Where a disk is cut into chunks: content-defined, on block boundaries.
//!
//! File systems align files to 4 KiB, but a rebuilt image lays the same files at other offsets. So
//! the cut depends on the content of whole blocks and on nothing else: each block is hashed, a chunk
//! ends after a block whose hash meets a mask, and the same run of blocks is cut alike wherever it
//! lies. A block that ends in zeros is most likely the last one of a file, and what follows it another
//! file, which has other neighbours in the next image: a chunk ends there, too. All-zero blocks end a
//! chunk and are never part of one.
//!
//! Changing anything here changes the chunks of every disk: the golden test pins the cuts, and the
//! parameters are recorded in each store ([`StoreParams`](crate::StoreParams)).

/// Sizes in bytes; all are multiples of `block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkerParams {
    pub block: usize,
    /// No chunk is cut before this size (it may still end earlier at a zero block or at the end).
    pub min: usize,
    /// Every chunk is cut at this size.
    pub max: usize,
    /// A chunk ends after a block whose hash has these bits all zero.
    pub mask: u64,
    /// A chunk, however short, ends after a block whose last bytes, this many, are all zero: the end
    /// of a file. 0: there is no such rule.
    pub file_tail: usize,
}

impl ChunkerParams {
    /// `block-cdc-1`, of stores of format 1: 4 KiB blocks, at least 8 KiB, at most 128 KiB, about
    /// 32 KiB on average.
    pub const STANDARD: Self = Self {
        block: 4096,
        min: 8 << 10,
        max: 128 << 10,
        // Three bits: one block in eight ends a chunk.
        mask: 0b111 << 61,
        file_tail: 0,
    };

    /// `block-cdc-2`, of stores made today: the ends of files end chunks, too, and long files are cut half as often; about
    /// 18 KiB on average over a Debian disk.
    pub const FILES: Self = Self {
        // Four bits: one block in sixteen.
        mask: 0b1111 << 60,
        file_tail: 32,
        ..Self::STANDARD
    };
}

/// What becomes of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The block is all zeros: the chunk before it ends, the block itself is a hole.
    Zero,
    /// The block belongs to the current chunk, which goes on.
    Extend,
    /// The block belongs to the current chunk, which ends after it.
    Cut,
}

/// The cutting state over a run of blocks. A fresh one is used for every segment of a disk.
#[derive(Debug, Clone)]
pub struct Chunker {
    params: ChunkerParams,
    current: usize,
}

impl Chunker {
    pub fn new(params: ChunkerParams) -> Self {
        Self { params, current: 0 }
    }

    /// Judges the next block. Only the last block of a disk may be short.
    pub fn push(&mut self, block: &[u8]) -> Verdict {
        if is_zero(block) {
            self.current = 0;
            return Verdict::Zero;
        }
        self.current += block.len();
        let p = &self.params;
        let full = self.current >= p.max;
        let file_ends =
            || p.file_tail > 0 && block.last_chunk::<8>() == Some(&[0; 8]) && ends_in_zeros(block, p.file_tail);
        let marked = || self.current >= p.min && block_hash(block) & p.mask == 0;
        if full || file_ends() || marked() {
            self.current = 0;
            Verdict::Cut
        } else {
            Verdict::Extend
        }
    }

    /// A hole was skipped: the current chunk ends, as it does at a zero block.
    pub fn skip_hole(&mut self) {
        self.current = 0;
    }
}

fn ends_in_zeros(block: &[u8], count: usize) -> bool {
    block.len().checked_sub(count).is_some_and(|from| is_zero(&block[from..]))
}

/// Whether all bytes are zero.
pub fn is_zero(block: &[u8]) -> bool {
    let mut pieces = block.chunks_exact(128);
    pieces.all(|p| p.iter().fold(0, |acc, b| acc | b) == 0)
        && block.chunks_exact(128).remainder().iter().all(|b| *b == 0)
}

const K: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];

/// A fast 64-bit hash of a block: four lanes of multiply and rotate over little-endian words. It
/// only has to spread the cuts; nothing relies on it being hard to steer.
pub fn block_hash(block: &[u8]) -> u64 {
    let mut lanes = K;
    let mut groups = block.chunks_exact(32);
    for group in &mut groups {
        for (lane, word) in lanes.iter_mut().zip(group.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks_exact(8)"));
            *lane = (*lane ^ word).wrapping_mul(K[0]).rotate_left(29);
        }
    }
    for (i, byte) in groups.remainder().iter().enumerate() {
        let lane = &mut lanes[i % 4];
        *lane = (*lane ^ u64::from(*byte)).wrapping_mul(K[1]).rotate_left(17);
    }
    let mut hash = block.len() as u64;
    for (lane, k) in lanes.into_iter().zip(K) {
        hash = (hash ^ lane).wrapping_mul(k);
        hash ^= hash >> 32;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_seen_at_every_byte() {
        for len in [1, 127, 128, 512, 4096] {
            let mut block = vec![0; len];
            assert!(is_zero(&block));
            for at in [0, len / 2, len - 1] {
                block[at] = 1;
                assert!(!is_zero(&block), "byte {at} of {len}");
                block[at] = 0;
            }
        }
    }

    #[test]
    fn the_block_hash_never_changes() {
        let block: Vec<u8> = (0..4096u32).map(|i| (i * 7 % 251) as u8).collect();
        assert_eq!(block_hash(&block), GOLDEN_FULL);
        assert_eq!(block_hash(&block[..517]), GOLDEN_SHORT);
    }
    const GOLDEN_FULL: u64 = 16_108_713_105_177_328_055;
    const GOLDEN_SHORT: u64 = 17_364_580_306_955_572_071;
}
