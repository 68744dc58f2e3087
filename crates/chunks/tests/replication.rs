//! What replication reads from its source: what the target lacks, and after a cut nearly nothing twice.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use lazuli_chunks::{Cache, ChunkError, Progress, Region, ScrubOptions, local_store};
use tokio_util::sync::CancellationToken;

async fn counted(dir: &std::path::Path) -> (Region, Arc<FaultyStore>) {
    let store = FaultyStore::new(dir);
    let mut cfg = config(dir);
    (cfg.stores, cfg.cache) = (vec![Arc::clone(&store) as _], Cache::new(16 << 20));
    (Region::open(cfg).await.unwrap(), store)
}

fn read(store: &FaultyStore) -> u64 {
    store.got_bytes.swap(0, Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_read_than_what_is_missing() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ((east, store), west) = (counted(a.path()).await, open(b.path()).await);
    let mut bytes = noise(201, 64 * MIB);
    let first = ingest(&east, &bytes).await;
    bytes[20 * MIB..36 * MIB].copy_from_slice(&noise(202, 16 * MIB));
    let second = ingest(&east, &bytes).await;
    for manifest in [first.manifest, second.manifest] {
        read(&store);
        let moved = west.replicate_from(&east, manifest, &Progress::new(), &CancellationToken::new()).await.unwrap();
        let (read, missing) = (read(&store), moved.stored_bytes);
        // Frames and manifest, each once; the target's packs have tables beside them.
        assert!(read <= missing, "{read} bytes were read to bring {missing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_zone_of_the_source_is_read_around() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut cfg = config(a.path());
    cfg.stores = ["zone0", "zone1"].iter().map(|zone| local_store(&a.path().join(zone)).unwrap()).collect();
    let (east, west) = (Region::open(cfg).await.unwrap(), open(b.path()).await);
    let bytes = noise(204, 6 * MIB);
    let done = ingest(&east, &bytes).await;
    for file in pack_files(&a.path().join("zone0")) {
        let mut pack = std::fs::read(&file).unwrap();
        (0..pack.len()).step_by(300_000).for_each(|at| pack[at] ^= 1);
        std::fs::write(&file, pack).unwrap();
    }
    west.replicate_from(&east, done.manifest, &Progress::new(), &CancellationToken::new()).await.unwrap();
    assert!(read_all(&west, done.manifest).await == bytes);
    let deep = ScrubOptions { deep: true, ..ScrubOptions::default() };
    let report = west.scrub(&deep, &Progress::new(), &CancellationToken::new()).await.unwrap();
    assert_eq!(report.findings, []);
}

/// A disk of the same segment many times: it is planned, moved and counted once.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_repeat_are_moved_once() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, west) = (open(a.path()).await, open(b.path()).await);
    let mut segment = noise(205, MIB);
    segment.resize(64 * MIB, 0);
    let bytes = segment.repeat(3);
    let done = ingest(&east, &bytes).await;
    let progress = Progress::new();
    let moved = west.replicate_from(&east, done.manifest, &progress, &CancellationToken::new()).await.unwrap();
    assert_eq!((moved.total_bytes, moved.moved_bytes), (done.data_bytes, done.new_bytes));
    assert_eq!((progress.done(), progress.total()), (done.data_bytes, done.data_bytes));
    assert!(read_all(&west, done.manifest).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_cuts_send_no_pack_twice() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ((east, store), west) = (counted(a.path()).await, open(b.path()).await);
    let bytes = noise(203, 96 * MIB);
    let done = ingest(&east, &bytes).await;
    read(&store);
    let mut random = std::process::id();
    println!("seed {random}");
    for _ in 0..10 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // So many of the bytes that are still missing arrive before the line is cut.
        let more = u64::from(random >> 8) % (8 << 20) + 1;
        match replicate_until(&west, &east, done.manifest, more).await {
            Ok(_) => break,
            Err(ChunkError::Cancelled) => {}
            Err(e) => panic!("{e:?}"),
        }
    }
    west.replicate_from(&east, done.manifest, &Progress::new(), &CancellationToken::new()).await.unwrap();
    let read = read(&store);
    // What was on its way at each cut: a few steps of 2 MiB, far less than a pack of 32 MiB.
    let twice = read.saturating_sub(done.stored_bytes);
    assert!(twice < 10 * (12 << 20), "{twice} bytes were read twice");
    let usage = west.usage().await.unwrap();
    assert!(usage.stored_bytes * 100 <= done.stored_bytes * 102, "{usage:?} of {done:?}");
    assert!(read_all(&west, done.manifest).await == bytes);
    let unknown = west
        .replicate_from(&east, lazuli_chunks::ManifestId([1; 32]), &Progress::new(), &CancellationToken::new())
        .await;
    assert!(matches!(unknown, Err(ChunkError::NotFound { .. })), "{unknown:?}");
}
