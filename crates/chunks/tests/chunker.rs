//! What the cutting promises, over any content.

use lazuli_chunks::chunker::{Chunker, ChunkerParams, Verdict, is_zero};
use proptest::prelude::*;

const P: ChunkerParams = ChunkerParams::STANDARD;

/// The chunks of `bytes` as ranges.
fn cut(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut chunker = Chunker::new(P);
    let mut out = Vec::new();
    let mut start = None;
    for (i, block) in bytes.chunks(P.block).enumerate() {
        let at = i * P.block;
        match chunker.push(block) {
            Verdict::Zero => out.extend(start.take().map(|s| s..at)),
            Verdict::Extend => start = start.or(Some(at)),
            Verdict::Cut => {
                out.push(start.take().unwrap_or(at)..at + block.len());
            }
        }
    }
    out.extend(start.map(|s| s..bytes.len()));
    out
}

/// Blocks named by a number: 0 is the zero block.
fn blocks(names: &[u16]) -> Vec<u8> {
    let fill = |name: &u16| {
        let word = u64::from(*name).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        std::iter::repeat_n(word.to_le_bytes(), P.block / 8).flatten().collect::<Vec<u8>>()
    };
    names.iter().flat_map(fill).collect()
}

fn names() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(prop_oneof![1 => Just(0), 12 => any::<u16>()], 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_are_whole_blocks_in_bounds_and_cover_exactly_the_data(names in names(), tail in 0..4096usize) {
        let mut bytes = blocks(&names);
        bytes.extend(vec![7; tail]);
        let chunks = cut(&bytes);
        let mut rebuilt = vec![0; bytes.len()];
        let mut end = 0;
        for chunk in &chunks {
            prop_assert!(chunk.start >= end && chunk.start % P.block == 0);
            prop_assert!(chunk.end % P.block == 0 || chunk.end == bytes.len());
            prop_assert!(chunk.len() <= P.max);
            prop_assert!(bytes[chunk.clone()].chunks(P.block).all(|b| !is_zero(b)));
            let ended_early = chunk.end == bytes.len() || is_zero(&bytes[chunk.end..][..P.block.min(bytes.len() - chunk.end)]);
            prop_assert!(chunk.len() >= P.min || ended_early);
            rebuilt[chunk.clone()].copy_from_slice(&bytes[chunk.clone()]);
            end = chunk.end;
        }
        prop_assert!(rebuilt == bytes);
    }

    #[test]
    fn moved_by_whole_blocks_the_same_content_gives_the_same_chunks(names in proptest::collection::vec(1u16.., 200..300), shift in 1..40usize) {
        let bytes = blocks(&names);
        let moved = [blocks(&vec![77; shift]), bytes.clone()].concat();
        let before: std::collections::HashSet<&[u8]> = cut(&bytes).into_iter().map(|c| &bytes[c]).collect();
        let lost: usize = cut(&moved)
            .into_iter()
            .filter(|c| c.start >= shift * P.block)
            .filter(|c| !before.contains(&moved[c.clone()]))
            .map(|c| c.len())
            .sum();
        // The cuts fall into step again within a few chunks.
        prop_assert!(lost <= 6 * P.max, "{lost} bytes of {} are new", bytes.len());
    }
}

#[test]
fn the_average_is_about_32_kib() {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let bytes: Vec<u8> = std::iter::repeat_with(|| next().to_le_bytes()).take(8 << 20).flatten().collect();
    let chunks = cut(&bytes);
    let average = bytes.len() / chunks.len();
    assert!((28 << 10..40 << 10).contains(&average), "{average}");
}
