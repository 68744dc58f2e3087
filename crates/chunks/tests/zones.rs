//! Regions of several zones: what is acknowledged is in all of them, reads go on while one is gone, and it is refilled.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use lazuli_chunks::{Cache, ChunkError, Problem, Progress, RateLimit, Region, RegionConfig, ScrubOptions, local_store};
use tokio_util::sync::CancellationToken;

fn zoned(dir: &Path, names: &[&str]) -> RegionConfig {
    let stores = names.iter().map(|n| local_store(&dir.join(n)).unwrap()).collect();
    RegionConfig {
        name: "eastus".into(),
        stores,
        index_dir: dir.join("index"),
        cache: Cache::new(0),
        keys: None,
        frames: None,
    }
}

async fn scrub(region: &Region, repair: bool) -> lazuli_chunks::ScrubReport {
    let options = ScrubOptions { repair, ..ScrubOptions::default() };
    region.scrub(&options, &Progress::new(), &CancellationToken::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_the_zones_is_told_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = zoned(dir.path(), &["a", "b"]);
    assert!(cfg.folders("stores").await.unwrap().is_empty() && !cfg.has_packs().await.unwrap());
    for (zone, store) in [("a", "one"), ("a", "two"), ("b", "two"), ("b", "three")] {
        let region = open(&dir.path().join(zone).join("stores").join(store)).await;
        ingest(&region, &noise(8, MIB)).await;
    }
    let found: Vec<String> = cfg.folders("stores").await.unwrap().into_iter().collect();
    assert_eq!(found, ["one", "three", "two"]);
    assert!(!cfg.has_packs().await.unwrap(), "those of others, further below, are not its own");
    let part = RegionConfig { name: "eastus/two".into(), ..config(&dir.path().join("a/stores/two")) };
    assert!(part.has_packs().await.unwrap());
    // That of the region itself is no store of a part.
    let error = Region::check(&part).await.unwrap_err().to_string();
    assert!(error.contains("zone 0 of region eastus ("), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_is_gone_is_read_around_and_refilled() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(1, 5 * MIB);
    let region = Region::open(zoned(dir.path(), &["a", "b", "c"])).await.unwrap();
    let done = ingest(&region, &bytes).await;
    drop(region);
    for lost in ["a", "b", "c"] {
        std::fs::remove_dir_all(dir.path().join(lost)).unwrap();
        let region = Region::open(zoned(dir.path(), &["a", "b", "c"])).await.unwrap();
        assert!(read_all(&region, done.manifest).await == bytes);
        let report = scrub(&region, true).await;
        assert!(report.is_sound() && report.findings.iter().any(|f| f.problem == Problem::Missing), "{report:#?}");
        assert_eq!(scrub(&region, false).await.findings, []);
        assert_eq!(pack_files(&dir.path().join(lost)).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_fails_is_read_around_and_named_and_a_write_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::new(&dir.path().join("a"));
    let mut cfg = zoned(dir.path(), &["a", "b"]);
    cfg.stores[0] = Arc::clone(&store) as _;
    let region = Region::open(cfg).await.unwrap();
    let bytes = noise(2, 5 * MIB);
    let done = ingest(&region, &bytes).await;

    store.reads_fail.store(true, Ordering::Relaxed);
    assert!(read_all(&region, done.manifest).await == bytes);
    // Once it failed it is no longer asked first.
    let before = store.gets.load(Ordering::Relaxed);
    assert!(read_all(&region, done.manifest).await == bytes);
    assert_eq!(store.gets.load(Ordering::Relaxed), before);

    store.reads_fail.store(false, Ordering::Relaxed);
    store.puts_left.store(0, Ordering::Relaxed);
    let refused =
        region.ingest(MemDisk::new(noise(3, MIB)), &Progress::new(), &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(refused, ChunkError::Store { .. }) && !refused.is_permanent(), "{refused:?}");
    store.puts_left.store(i64::MAX, Ordering::Relaxed);
    ingest(&region, &noise(3, MIB)).await;
    region.collect_garbage(&[done.manifest]).await.unwrap();
    assert_eq!(scrub(&region, false).await.findings, []);
}

/// A store that is away for a while is no reason to give up what it holds.
#[tokio::test]
async fn a_repair_while_the_store_is_away_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::new(dir.path());
    let mut cfg = config(dir.path());
    (cfg.stores, cfg.cache) = (vec![Arc::clone(&store) as _], Cache::new(0));
    let region = Region::open(cfg).await.unwrap();
    let bytes = noise(7, 3 * MIB);
    let done = ingest(&region, &bytes).await;
    store.reads_fail.store(true, Ordering::Relaxed);
    let options = ScrubOptions { manifests: Some(vec![done.manifest]), repair: true, ..ScrubOptions::default() };
    let report = region.scrub(&options, &Progress::new(), &CancellationToken::new()).await;
    // Either it says what it could not read, or it does not end well; never that all is sound.
    assert!(report.is_err() || report.is_ok_and(|r| !r.is_sound()));
    store.reads_fail.store(false, Ordering::Relaxed);
    assert!(read_all(&region, done.manifest).await == bytes);
    assert_eq!(scrub(&region, false).await.findings, []);
}

#[tokio::test]
async fn a_torn_upload_is_noticed_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::new(dir.path());
    let mut cfg = config(dir.path());
    cfg.stores = vec![Arc::clone(&store) as _];
    let region = Region::open(cfg).await.unwrap();
    store.torn_puts.store(2, Ordering::Relaxed);
    let bytes = noise(4, 3 * MIB);
    let done = ingest(&region, &bytes).await;
    assert!(store.torn_puts.load(Ordering::Relaxed) <= 0);
    assert!(read_all(&region, done.manifest).await == bytes);
    assert!(scrub(&region, false).await.is_sound());
}

#[tokio::test]
async fn stores_that_are_mixed_up_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    drop(Region::open(zoned(dir.path(), &["a", "b"])).await.unwrap());
    let mut other = zoned(dir.path(), &["w"]);
    (other.name, other.index_dir) = ("westus".into(), dir.path().join("west-index"));
    drop(Region::open(other).await.unwrap());
    for (names, says) in [(["b", "a"], "zone 1 of region eastus"), (["a", "w"], "zone 0 of region westus")] {
        for reader in [false, true] {
            let cfg = zoned(dir.path(), &names);
            let opened = if reader { Region::open_read_only(cfg).await } else { Region::open(cfg).await };
            let error = opened.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(says), "{names:?}: {error}");
        }
    }
}

/// The clock tells whether the limit held; that it was not slower than it must be is a benchmark's matter.
#[tokio::test(flavor = "multi_thread")]
async fn replication_keeps_to_the_limit_of_its_pair() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // One store of several that the region has.
    let east = Region::open(RegionConfig { name: "eastus/one".into(), ..config(a.path()) }).await.unwrap();
    let west = open(b.path()).await;
    let done = ingest(&east, &noise(5, 6 * MIB)).await;
    let rate = std::num::NonZeroU64::new(8 << 20).unwrap();
    west.limit_replication_from("eastus", RateLimit::new(rate));
    let start = std::time::Instant::now();
    west.replicate_from(&east, done.manifest, &Progress::new(), &CancellationToken::new()).await.unwrap();
    // The last step may go through before its time has passed.
    let at_least = (done.stored_bytes.saturating_sub(3 << 20)) as f64 / rate.get() as f64;
    assert!(start.elapsed().as_secs_f64() >= at_least, "{:?}", start.elapsed());
}
