//! Delta ingest gives the manifest that a full ingest gives, and reads little more than the change.

mod common;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use lazuli_chunks::{ChunkError, Ingested, ManifestId, Progress, Region};
use lazuli_disks::changes::Unchanged;
use lazuli_disks::{ChangeKind, ChangedSource};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

/// A disk in memory and where it changed.
struct MemChanges {
    bytes: Vec<u8>,
    changes: Vec<(Range<u64>, ChangeKind)>,
    read: AtomicU64,
}

impl ChangedSource for MemChanges {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn next_change(&self, from: u64) -> io::Result<Option<(Range<u64>, ChangeKind)>> {
        let next = self.changes.iter().find(|(r, _)| r.end > from);
        Ok(next.map(|(r, kind)| (r.start.max(from)..r.end, *kind)))
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        for (range, kind) in &self.changes {
            if *kind == ChangeKind::Data && range.start <= at && at < range.end {
                at = range.end;
            }
        }
        assert!(at >= end, "{offset}..{end} is asked of the changes, but is in the base");
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
        Ok(())
    }
}

fn changes(bytes: &[u8], ranges: &[(usize, usize)]) -> Arc<MemChanges> {
    let kind = |r: &Range<usize>| {
        if bytes[r.clone()].iter().all(|b| *b == 0) { ChangeKind::Zero } else { ChangeKind::Data }
    };
    let changes = ranges.iter().map(|(from, to)| (*from as u64..*to as u64, kind(&(*from..*to)))).collect();
    Arc::new(MemChanges { bytes: bytes.to_vec(), changes, read: AtomicU64::new(0) })
}

async fn ingest_over(region: &Region, base: Option<ManifestId>, source: Arc<dyn ChangedSource>) -> Ingested {
    let progress = Progress::new();
    let done = region.ingest_over(base, source, &progress, &CancellationToken::new()).await.unwrap();
    assert_eq!(progress.done(), progress.total());
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_change_is_read_alone() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let old = noise(5, 3 * 64 * MIB);
    let base = ingest(&region, &old).await;
    let mut new = old.clone();
    new[100 * MIB..100 * MIB + 5000].fill(7);
    let source = changes(&new, &[(100 * MIB, 100 * MIB + (64 << 10))]);
    let done = ingest_over(&region, Some(base.manifest), source.clone()).await;
    assert_eq!(source.read.load(Ordering::Relaxed), 64 << 10);
    assert!(done.new_bytes <= 256 << 10, "{done:?}");
    assert!(done.chunks < base.chunks / 2, "only the changed segment's chunks are looked at");
    assert_eq!((done.size, done.data_bytes), (base.size, base.data_bytes));
    assert!(read_all(&region, done.manifest).await == new);
    assert_eq!(ingest(&region, &new).await.manifest, done.manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn growth_costs_nothing_and_shrinking_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    for (seed, len) in [(1, 3 * MIB), (2, 3 * MIB + 512), (3, 64 * MIB), (4, 64 * MIB - 1024)] {
        let old = disk(seed, len);
        let base = ingest(&region, &old).await;
        let same = ingest_over(&region, Some(base.manifest), Arc::new(Unchanged(len as u64))).await;
        assert_eq!((same.manifest, same.stored_bytes), (base.manifest, 0));
        let mut new = old.clone();
        new.resize(130 * MIB, 0);
        let grown = ingest_over(&region, Some(base.manifest), Arc::new(Unchanged(new.len() as u64))).await;
        assert!(grown.new_bytes <= 128 << 10, "{grown:?}");
        assert_eq!(grown.manifest, ingest(&region, &new).await.manifest);
        let smaller = Arc::new(Unchanged(len as u64 - 512));
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let refused = region.ingest_over(Some(base.manifest), smaller, &progress, &cancel).await;
        assert!(matches!(refused, Err(ChunkError::Source { .. })));
    }
    // Without a base: zeros, and what changed.
    let mut new = vec![0; 70 * MIB];
    new[66 * MIB..67 * MIB].copy_from_slice(&noise(9, MIB));
    let done = ingest_over(&region, None, changes(&new, &[(66 * MIB, 67 * MIB)])).await;
    assert_eq!(done.manifest, ingest(&region, &new).await.manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_delta_ingest_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let bytes = noise(1, MIB);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let done = region.ingest_over(None, changes(&bytes, &[(0, MIB)]), &Progress::new(), &cancel).await;
    assert!(matches!(done, Err(ChunkError::Cancelled)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]
    #[test]
    fn delta_ingest_is_full_ingest(
        seed in 1u64..10_000,
        sectors in 1usize..6000,
        // A chance to work over the border of two segments.
        far in any::<bool>(),
        grow in prop_oneof![2 => Just(0usize), 1 => 1usize..3000],
        writes in proptest::collection::vec((0usize..9000, 1usize..600, 0u8..3, any::<bool>()), 0..6),
    ) {
        let mut old = if far { vec![0; 63 * MIB] } else { Vec::new() };
        let lead = old.len();
        old.extend(disk(seed, sectors * 512));
        let mut new = old.clone();
        new.resize(old.len() + grow * 512, 0);
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for (n, (at, len, what, anywhere)) in writes.into_iter().enumerate() {
            let at = (lead * usize::from(!anywhere) + at * 512) % new.len();
            let end = (at + len * 512).min(new.len());
            match what {
                0 => new[at..end].fill(0),
                1 => new[at..end].copy_from_slice(&noise(seed + n as u64, end - at)),
                // Said to have changed, but did not.
                _ => {}
            }
            ranges.push((at, end));
        }
        ranges.sort_unstable();
        let mut apart: Vec<(usize, usize)> = Vec::new();
        for (from, to) in ranges {
            let from = apart.last().map_or(from, |last| from.max(last.1));
            if from < to {
                apart.push((from, to));
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let region = open(dir.path()).await;
            let base = ingest(&region, &old).await.manifest;
            let done = ingest_over(&region, Some(base), changes(&new, &apart)).await;
            assert!(read_all(&region, done.manifest).await == new);
            let full = ingest(&region, &new).await;
            assert_eq!((done.manifest, done.data_bytes), (full.manifest, full.data_bytes));
            assert!(region.has(done.manifest).await.unwrap());
        });
    }
}
