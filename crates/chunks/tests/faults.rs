//! Full disks, failing stores, torn and damaged files: a clear error, and nothing that existed is harmed.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use lazuli_chunks::{ChunkError, Progress, Region};
use tokio_util::sync::CancellationToken;

async fn open_faulty(dir: &Path) -> (Region, Arc<FaultyStore>) {
    let store = FaultyStore::new(dir);
    let mut cfg = config(dir);
    cfg.stores = vec![Arc::clone(&store) as _];
    (Region::open(cfg).await.unwrap(), store)
}

async fn try_ingest(region: &Region, bytes: &[u8]) -> Result<lazuli_chunks::Ingested, ChunkError> {
    region.ingest(MemDisk::new(bytes.to_vec()), &Progress::new(), &CancellationToken::new()).await
}

#[tokio::test]
async fn a_full_disk_is_told_and_harms_nothing() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (region, store) = open_faulty(a.path()).await;
    let old = noise(1, 6 * MIB);
    let kept = ingest(&region, &old).await;
    store.disk_full.store(true, Ordering::Relaxed);
    store.puts_left.store(0, Ordering::Relaxed);
    let full = try_ingest(&region, &noise(2, 6 * MIB)).await.unwrap_err();
    assert!(matches!(full, ChunkError::StoreFull { .. }) && full.is_permanent(), "{full:?}");
    let east = open(b.path()).await;
    let other = ingest(&east, &noise(3, 6 * MIB)).await;
    let full = region.replicate_from(&east, other.manifest, &Progress::new(), &CancellationToken::new()).await;
    assert!(matches!(full, Err(ChunkError::StoreFull { .. })), "{full:?}");
    assert!(read_all(&region, kept.manifest).await == old);
    store.puts_left.store(i64::MAX, Ordering::Relaxed);
    let new = noise(2, 6 * MIB);
    assert!(read_all(&region, ingest(&region, &new).await.manifest).await == new);
}

#[tokio::test]
async fn a_put_that_fails_for_a_while_is_tried_again_and_one_that_goes_on_failing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (region, store) = open_faulty(dir.path()).await;
    store.puts_left.store(0, Ordering::Relaxed);
    store.failures_left.store(2, Ordering::Relaxed);
    let bytes = noise(4, 3 * MIB);
    assert!(read_all(&region, ingest(&region, &bytes).await.manifest).await == bytes);
    store.failures_left.store(i64::MAX, Ordering::Relaxed);
    let failed = try_ingest(&region, &noise(5, 3 * MIB)).await.unwrap_err();
    assert!(matches!(failed, ChunkError::Store { .. }) && !failed.is_permanent(), "{failed:?}");
    assert_eq!(region.usage().await.unwrap().manifests, 1);
}

#[tokio::test]
async fn failing_at_any_put_leaves_a_store_that_opens() {
    let bytes = noise(6, 90 * MIB);
    for puts in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let (region, store) = open_faulty(dir.path()).await;
        store.disk_full.store(true, Ordering::Relaxed);
        store.puts_left.store(puts, Ordering::Relaxed);
        let result = try_ingest(&region, &bytes).await;
        let enough = result.is_ok();
        drop(region);
        let region = open(dir.path()).await;
        assert_eq!(region.usage().await.unwrap().manifests, u64::from(enough));
        let done = ingest(&region, &bytes).await;
        assert!(puts == 0 || done.new_bytes < done.data_bytes, "packs that arrived are used");
        assert!(read_all(&region, done.manifest).await == bytes);
    }
}

fn log_of(dir: &Path) -> std::path::PathBuf {
    dir.join("index/index.log")
}

#[tokio::test]
async fn a_torn_index_record_is_cut_off_and_its_pack_is_an_orphan() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let old = noise(7, 3 * MIB);
    let kept = ingest(&region, &old).await;
    let whole = std::fs::metadata(log_of(dir.path())).unwrap().len();
    let new = noise(8, 3 * MIB);
    let lost = ingest(&region, &new).await;
    drop(region);
    let end = std::fs::metadata(log_of(dir.path())).unwrap().len();
    let log = std::fs::OpenOptions::new().write(true).open(log_of(dir.path())).unwrap();
    log.set_len(whole + (end - whole) / 2).unwrap();

    let host = Region::open_read_only(config(dir.path())).await.unwrap();
    assert!(host.reader(lost.manifest).await.is_err());
    let region = open(dir.path()).await;
    assert!(!region.has(lost.manifest).await.unwrap());
    assert!(read_all(&region, kept.manifest).await == old);
    assert_eq!(pack_files(dir.path()).len(), 2);
    let done = region.collect_garbage(&[kept.manifest]).await.unwrap();
    assert_eq!((done.orphan_packs, done.freed_bytes), (1, lost.stored_bytes));
    assert_eq!(pack_files(dir.path()).len(), 1);
    let back = ingest(&region, &new).await;
    assert!(read_all(&region, back.manifest).await == new);
    assert!(read_all(&host, back.manifest).await == new, "the reader went past the mended end");
}

#[tokio::test]
async fn a_lost_or_damaged_index_is_built_again_from_the_packs() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let disks = [noise(9, 3 * MIB), disk(10, 70 * MIB)];
    let one = ingest(&region, &disks[0]).await;
    let two = ingest(&region, &disks[1]).await;
    let usage = region.usage().await.unwrap();
    let rebuilt = region.rebuild_index().await.unwrap();
    assert_eq!(rebuilt.packs, usage.packs);
    assert_eq!(region.usage().await.unwrap(), usage);
    drop(region);
    let good = std::fs::read(log_of(dir.path())).unwrap();
    for damage in ["gone", "flipped", "headless", "empty"] {
        match damage {
            "gone" => std::fs::remove_dir_all(dir.path().join("index")).unwrap(),
            "flipped" => {
                let mut bad = good.clone();
                bad[200] ^= 4;
                std::fs::write(log_of(dir.path()), bad).unwrap();
            }
            "headless" => std::fs::write(log_of(dir.path()), &good[8..]).unwrap(),
            _ => std::fs::write(log_of(dir.path()), []).unwrap(),
        }
        let region = open(dir.path()).await;
        assert_eq!(region.usage().await.unwrap(), usage, "{damage}");
        assert!(read_all(&region, one.manifest).await == disks[0]);
        assert!(read_all(&region, two.manifest).await == disks[1]);
    }
    // A pack whose own table is damaged is left out, named, and left alone.
    let pack = pack_files(dir.path()).remove(0);
    let mut bad = std::fs::read(&pack).unwrap();
    let at = bad.len() - 60;
    bad[at] ^= 1;
    std::fs::write(&pack, bad).unwrap();
    let rebuilt = open(dir.path()).await.rebuild_index().await.unwrap();
    let name = pack.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(rebuilt.damaged, [name]);
    assert!(pack.exists());
}

#[tokio::test]
async fn a_store_made_otherwise_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await);
    let head = dir.path().join("store.json");
    let text = std::fs::read_to_string(&head).unwrap();
    for other in [text.replace("131072", "65536"), text.replace("blake3", "sha256"), "{".into()] {
        std::fs::write(&head, other).unwrap();
        let refused = Region::open(config(dir.path())).await.err();
        assert!(matches!(refused, Some(ChunkError::Incompatible { .. })), "{refused:?}");
    }
}
