//! Differences of two disks: never a byte missed, nothing named without a reason.

mod common;

use common::*;
use lazuli_chunks::{ChunkError, Diff, DiffKind, ManifestId};
use proptest::prelude::*;

const MAX_CHUNK: usize = 128 << 10;

/// What the differences claim must hold of the bytes; beyond its end a disk is zeros.
fn check(a: &[u8], b: &[u8], diff: &[Diff]) {
    let at = |bytes: &[u8], i: usize| bytes.get(i).copied().unwrap_or(0);
    let mut end = 0;
    for (n, d) in diff.iter().enumerate() {
        let range = usize::try_from(d.range.start).unwrap()..usize::try_from(d.range.end).unwrap();
        assert!(!range.is_empty() && range.start >= end && range.end <= b.len(), "{diff:?}");
        assert!(range.start > end || n == 0 || diff[n - 1].kind != d.kind, "neighbours are one: {diff:?}");
        for i in end..range.start {
            assert_eq!(at(a, i), at(b, i), "byte {i} was missed");
        }
        if d.kind == DiffKind::Cleared {
            assert!(b[range.clone()].iter().all(|b| *b == 0), "{d:?} is not zeros");
        }
        end = range.end;
    }
    for i in end..b.len() {
        assert_eq!(at(a, i), at(b, i), "byte {i} was missed");
    }
}

/// Every few chunks' length holds a reason. So it is with noise; where the content gives few places to cut at (long repetitions),
/// the chunks after a change may take longer to be the old ones again.
fn check_tight(a: &[u8], b: &[u8], diff: &[Diff]) {
    check(a, b, diff);
    let differs = |i: usize| a.get(i).copied().unwrap_or(0) != b.get(i).copied().unwrap_or(0);
    for d in diff {
        let range = usize::try_from(d.range.start).unwrap()..usize::try_from(d.range.end).unwrap();
        for part in range.step_by(2 * MAX_CHUNK) {
            let part = part.saturating_sub(MAX_CHUNK)..(part + 3 * MAX_CHUNK).min(b.len());
            assert!(part.clone().any(differs), "{d:?} names {part:?} for nothing");
        }
    }
}

#[tokio::test]
async fn a_disk_does_not_differ_from_itself() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let one = ingest(&region, &disk(1, 3 * MIB)).await.manifest;
    assert_eq!(region.diff(one, one).await.unwrap(), []);
    // Nor from the same disk elsewhere; what does differ is told the same.
    let other = tempfile::tempdir().unwrap();
    let elsewhere = open(other.path()).await;
    let bytes = noise(2, 3 * MIB);
    let (same, changed) =
        (ingest(&elsewhere, &disk(1, 3 * MIB)).await.manifest, ingest(&elsewhere, &bytes).await.manifest);
    assert_eq!(same, one);
    let old = region.reader(one).await.unwrap();
    let far = async |manifest| elsewhere.reader(manifest).await.unwrap().diff_from(&old, 0..u64::MAX).await.unwrap();
    assert_eq!(far(same).await, []);
    assert_eq!(far(changed).await, elsewhere.diff(one, changed).await.unwrap());
    let unknown: ManifestId = "11".repeat(32).parse().unwrap();
    assert!(matches!(region.diff(one, unknown).await, Err(ChunkError::NotFound { .. })));
}

#[tokio::test]
async fn changes_clearings_and_growth_are_told_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let old = noise(4, 66 * MIB);
    let mut new = old.clone();
    // Over the border of two segments.
    new[64 * MIB - BLOCK..64 * MIB + BLOCK].fill(7);
    new[MIB..2 * MIB].fill(0);
    new.extend(vec![0; 70 * MIB]);
    new[130 * MIB..130 * MIB + 5].fill(1);
    let (a, b) = (ingest(&region, &old).await.manifest, ingest(&region, &new).await.manifest);
    let diff = region.diff(a, b).await.unwrap();
    check_tight(&old, &new, &diff);
    let told: u64 = diff.iter().map(|d| d.range.end - d.range.start).sum();
    assert!(told < 2 * MIB as u64, "{diff:?}");
    let cleared: u64 = diff.iter().filter(|d| d.kind == DiffKind::Cleared).map(|d| d.range.end - d.range.start).sum();
    assert_eq!(cleared, MIB as u64);
    // In parts it says the same.
    let mut parts = Vec::new();
    for from in (0..136).step_by(3) {
        let within = from * MIB as u64..(from + 3) * MIB as u64;
        for d in region.diff_in(a, b, within.clone()).await.unwrap() {
            assert!(within.start <= d.range.start && d.range.end <= within.end);
            parts.push(d);
        }
    }
    let total: u64 = parts.iter().map(|d| d.range.end - d.range.start).sum();
    assert_eq!(total, told);
    // Backwards: what the larger disk has more is beyond the end.
    check_tight(&new, &old, &region.diff(b, a).await.unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn no_changed_byte_is_missed(
        seed in 1u64..1000,
        blocks in 1usize..700,
        writes in proptest::collection::vec((0usize..700, 1usize..40, any::<bool>()), 0..6),
    ) {
        let old = disk(seed, blocks * BLOCK);
        let mut new = old.clone();
        for (n, (at, len, zero)) in writes.into_iter().enumerate() {
            let at = (at % blocks) * BLOCK + 512 * (n % 8);
            let end = (at + len * BLOCK).min(new.len());
            let at = at.min(end);
            if zero { new[at..end].fill(0) } else { new[at..end].copy_from_slice(&noise(seed + n as u64, end - at)) }
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let region = open(dir.path()).await;
            let (a, b) = (ingest(&region, &old).await.manifest, ingest(&region, &new).await.manifest);
            check(&old, &new, &region.diff(a, b).await.unwrap());
        });
    }
}
