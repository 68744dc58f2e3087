//! Replication, collection, usage, and readers in other processes.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use lazuli_chunks::{ChunkError, ManifestId, Progress, Region, Replicated};
use tokio_util::sync::CancellationToken;

async fn replicate(to: &Region, from: &Region, manifest: ManifestId) -> Result<Replicated, ChunkError> {
    to.replicate_from(from, manifest, &Progress::new(), &CancellationToken::new()).await
}

#[tokio::test]
async fn replication_moves_only_what_is_lacking() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, west) = (open(a.path()).await, open(b.path()).await);
    let mut bytes = disk(31, 70 * MIB);
    let first = ingest(&east, &bytes).await;
    assert!(!west.has(first.manifest).await.unwrap() && !west.holds(first.manifest) && east.holds(first.manifest));
    let progress = Progress::new();
    let moved = west.replicate_from(&east, first.manifest, &progress, &CancellationToken::new()).await.unwrap();
    assert_eq!((moved.total_bytes, moved.moved_bytes), (first.data_bytes, first.new_bytes));
    assert_eq!((progress.done(), progress.total()), (first.data_bytes, first.data_bytes));
    assert!(west.has(first.manifest).await.unwrap());
    assert!(read_all(&west, first.manifest).await == bytes);

    let again = replicate(&west, &east, first.manifest).await.unwrap();
    assert_eq!((again.moved_bytes, again.stored_bytes), (0, 0));

    bytes[MIB..MIB + 200_000].copy_from_slice(&noise(99, 200_000));
    let second = ingest(&east, &bytes).await;
    let moved = replicate(&west, &east, second.manifest).await.unwrap();
    assert_eq!(moved.moved_bytes, second.new_bytes);
    assert!(moved.moved_bytes < 600_000, "{moved:?}");
    assert!(read_all(&west, second.manifest).await == bytes);
}

#[tokio::test]
async fn an_interrupted_replication_goes_on_where_it_stopped() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = FaultyStore::new(a.path());
    let mut cfg = config(a.path());
    cfg.stores = vec![Arc::clone(&store) as _];
    cfg.cache = lazuli_chunks::Cache::new(0);
    let east = Region::open(cfg).await.unwrap();
    let west = open(b.path()).await;
    let bytes = noise(41, 30 * MIB);
    let done = ingest(&east, &bytes).await;

    // The source dies after the first bytes arrived.
    let progress = Progress::new();
    let dies = async {
        while progress.done() == 0 {
            tokio::task::yield_now().await;
        }
        store.reads_fail.store(true, Ordering::Relaxed);
    };
    let cancel = CancellationToken::new();
    let (result, ()) = tokio::join!(west.replicate_from(&east, done.manifest, &progress, &cancel), dies);
    let error = result.unwrap_err();
    assert!(matches!(error, ChunkError::Store { .. }) && !error.is_permanent(), "{error:?}");
    assert!(!west.has(done.manifest).await.unwrap());

    store.reads_fail.store(false, Ordering::Relaxed);
    let rest = replicate(&west, &east, done.manifest).await.unwrap();
    assert!(rest.moved_bytes > 0 && rest.moved_bytes < done.data_bytes, "{rest:?} of {done:?}");
    assert!(read_all(&west, done.manifest).await == bytes);
}

#[tokio::test]
async fn a_cancelled_replication_keeps_what_arrived() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, west) = (open(a.path()).await, open(b.path()).await);
    let bytes = noise(42, 30 * MIB);
    let done = ingest(&east, &bytes).await;
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let stops = async {
        while progress.done() == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(west.replicate_from(&east, done.manifest, &progress, &cancel), stops);
    assert!(matches!(result, Err(ChunkError::Cancelled)), "{result:?}");
    let rest = replicate(&west, &east, done.manifest).await.unwrap();
    assert!(rest.moved_bytes < done.data_bytes, "{rest:?}");
    assert!(read_all(&west, done.manifest).await == bytes);
}

#[tokio::test]
async fn damage_does_not_spread_by_replication() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, west) = (open(a.path()).await, open(b.path()).await);
    let done = ingest(&east, &noise(43, 4 * MIB)).await;
    let pack = pack_files(a.path()).remove(0);
    let mut bad = std::fs::read(&pack).unwrap();
    bad[MIB] ^= 1;
    std::fs::write(&pack, bad).unwrap();
    let result = replicate(&west, &east, done.manifest).await;
    assert!(matches!(result, Err(ChunkError::Corrupt { .. })), "{result:?}");
    assert!(!west.has(done.manifest).await.unwrap());
    let unknown = replicate(&west, &east, ManifestId([3; 32])).await;
    assert!(matches!(unknown, Err(ChunkError::NotFound { .. })), "{unknown:?}");
}

#[tokio::test]
async fn what_no_live_image_needs_is_freed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let keep_bytes = disk(51, 40 * MIB);
    let keep = ingest(&region, &keep_bytes).await;
    let dead = ingest(&region, &noise(52, 30 * MIB)).await;
    let before = region.usage().await.unwrap();
    let on_disk = |dir: &std::path::Path| pack_files(dir).iter().map(|p| p.metadata().unwrap().len()).sum::<u64>();
    assert_eq!(before.stored_bytes, on_disk(dir.path()));

    let readers = [region.reader(keep.manifest).await.unwrap(), region.reader(dead.manifest).await.unwrap()];
    assert_eq!(readers.each_ref().map(lazuli_chunks::DiskReader::is_held), [true, true]);
    let freed = region.collect_garbage(&[keep.manifest]).await.unwrap();
    assert_eq!(readers.each_ref().map(lazuli_chunks::DiskReader::is_held), [true, false]);
    drop(readers);
    assert_eq!(freed.freed_bytes, dead.stored_bytes);
    let after = region.usage().await.unwrap();
    assert_eq!(after.stored_bytes, before.stored_bytes - freed.freed_bytes);
    assert_eq!((after.manifests, after.logical_bytes), (1, 40 << 20));
    assert_eq!(after.unique_bytes, keep.new_bytes);
    assert_eq!(after.stored_bytes, on_disk(dir.path()));
    assert!(!region.has(dead.manifest).await.unwrap());
    assert!(region.has(keep.manifest).await.unwrap());
    drop(region);

    let region = open(dir.path()).await;
    assert_eq!(region.usage().await.unwrap(), after);
    assert!(read_all(&region, keep.manifest).await == keep_bytes);
    region.collect_garbage(&[]).await.unwrap();
    assert_eq!((region.usage().await.unwrap().stored_bytes, on_disk(dir.path())), (0, 0));
}

#[tokio::test]
async fn mostly_dead_packs_are_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let bytes = noise(61, 24 * MIB);
    let whole = ingest(&region, &bytes).await;
    // Shares a sixth of the first one's chunks.
    let part_bytes = bytes[4 * MIB..8 * MIB].to_vec();
    let part = ingest(&region, &part_bytes).await;
    assert!(part.new_bytes < MIB as u64);
    let done = region.collect_garbage(&[part.manifest]).await.unwrap();
    assert_eq!(done.rewritten_packs, 1, "{done:?}");
    assert!(done.freed_bytes > whole.stored_bytes / 2, "{done:?}");
    assert!(!region.has(whole.manifest).await.unwrap());
    drop(region);
    let region = open(dir.path()).await;
    assert!(read_all(&region, part.manifest).await == part_bytes);
    // Reader and index agree with what the packs themselves say.
    region.rebuild_index().await.unwrap();
    assert!(read_all(&region, part.manifest).await == part_bytes);
}

#[tokio::test]
async fn a_dead_image_in_a_pack_that_stays_is_gone_and_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let bytes = noise(71, 16 * MIB);
    let whole = ingest(&region, &bytes).await;
    let most = ingest(&region, &bytes[..12 * MIB]).await;
    region.collect_garbage(&[most.manifest]).await.unwrap();
    assert!(!region.has(whole.manifest).await.unwrap(), "its manifest is dead even if its chunks linger");
    assert_eq!(region.usage().await.unwrap().manifests, 1);
    let back = ingest(&region, &bytes).await;
    assert_eq!(back.manifest, whole.manifest);
    assert!(read_all(&region, back.manifest).await == bytes);
}

#[tokio::test]
async fn collection_refuses_to_guess() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let done = ingest(&region, &noise(81, 2 * MIB)).await;
    let unknown = region.collect_garbage(&[ManifestId([9; 32])]).await;
    assert!(matches!(unknown, Err(ChunkError::NotFound { .. })), "{unknown:?}");
    assert!(region.has(done.manifest).await.unwrap());
    // Committed after the caller began to gather what is live.
    let epoch = region.gc_epoch();
    let late = ingest(&region, &noise(82, 2 * MIB)).await;
    region.collect_garbage_since(epoch, &[]).await.unwrap();
    assert!(region.has(late.manifest).await.unwrap());
    assert!(!region.has(done.manifest).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_beside_ingest_and_replication_harms_nothing() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, west) = (open(a.path()).await, open(b.path()).await);
    let shared = noise(91, 8 * MIB);
    let done = CancellationToken::new();
    let collector = tokio::spawn({
        let (east, west, done) = (east.clone(), west.clone(), done.clone());
        async move {
            let mut rounds = 0;
            while !done.is_cancelled() {
                for region in [&east, &west] {
                    region.collect_garbage_since(region.gc_epoch(), &[]).await.unwrap();
                }
                rounds += 1;
            }
            rounds
        }
    });
    for round in 0..12u64 {
        // Each counts on chunks that the collector is just about to free.
        let bytes = [shared.clone(), noise(1000 + round, 2 * MIB)].concat();
        let epoch_guard = bytes.clone();
        let ingested = ingest_guarded(&east, epoch_guard).await;
        if let Some(manifest) = ingested {
            let moved = replicate(&west, &east, manifest).await;
            assert!(matches!(moved, Ok(_) | Err(ChunkError::NotFound { .. })), "{moved:?}");
        }
    }
    done.cancel();
    assert!(collector.await.unwrap() > 0);
    // Whatever is called present is readable.
    for region in [&east, &west] {
        let bytes = [shared.clone(), noise(1, MIB)].concat();
        let last = ingest(region, &bytes).await;
        region.collect_garbage(&[last.manifest]).await.unwrap();
        assert!(read_all(region, last.manifest).await == bytes);
        region.rebuild_index().await.unwrap();
        assert!(read_all(region, last.manifest).await == bytes);
    }
}

/// Ingests and, if no collection took it meanwhile, reads it back.
async fn ingest_guarded(region: &Region, bytes: Vec<u8>) -> Option<ManifestId> {
    let manifest = ingest(region, &bytes).await.manifest;
    let reader = region.reader(manifest).await.ok()?;
    let mut out = vec![0; bytes.len()];
    match reader.read_at(0, &mut out).await {
        Ok(()) => assert!(out == bytes),
        Err(e) => assert!(matches!(e, ChunkError::NotFound { .. }), "{e:?}"),
    }
    Some(manifest)
}

#[tokio::test]
async fn a_reading_process_follows_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let early = Region::open_read_only(config(dir.path())).await.unwrap();
    let writer = open(dir.path()).await;
    let second = Region::open(config(dir.path())).await.err();
    assert!(matches!(second, Some(ChunkError::Locked { .. })), "{second:?}");
    let host = Region::open_read_only(config(dir.path())).await.unwrap();
    let bytes = noise(101, 24 * MIB);
    let one = ingest(&writer, &bytes).await;
    for reader in [&early, &host] {
        assert!(read_all(reader, one.manifest).await == bytes);
        assert_eq!(reader.usage().await.unwrap(), writer.usage().await.unwrap());
    }
    // Collection moves its chunks under the feet of an open reader.
    let mut cfg = config(dir.path());
    cfg.cache = lazuli_chunks::Cache::new(0);
    let cold = Region::open_read_only(cfg).await.unwrap();
    let part = ingest(&writer, &bytes[..4 * MIB]).await;
    let open_reader = cold.reader(part.manifest).await.unwrap();
    let done = writer.collect_garbage(&[part.manifest]).await.unwrap();
    assert_eq!(done.rewritten_packs, 1);
    let mut out = vec![0; 4 * MIB];
    open_reader.read_at(0, &mut out).await.unwrap();
    assert!(out == bytes[..4 * MIB]);
    // A log written anew is noticed, too.
    writer.rebuild_index().await.unwrap();
    let two = ingest(&writer, &noise(102, MIB)).await;
    assert!(host.has(two.manifest).await.unwrap() || host.reader(two.manifest).await.is_ok());
    let refused = host.ingest(MemDisk::new(vec![1; MIB]), &Progress::new(), &CancellationToken::new()).await;
    assert!(matches!(refused, Err(ChunkError::ReadOnly { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_computer_without_the_index_follows_the_packs() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let writer = open(dir.path()).await;
    let mut cfg = config(dir.path());
    cfg.index_dir = elsewhere.path().join("index");
    cfg.cache = lazuli_chunks::Cache::new(0);
    let far = Region::follow(cfg).await.unwrap();
    let bytes = noise(171, 24 * MIB);
    let one = ingest(&writer, &bytes).await;
    assert!(read_all(&far, one.manifest).await == bytes);
    // Whoever asks beside another who has just looked sees what that one saw.
    let two = ingest(&writer, &noise(172, MIB)).await;
    let asked = futures::future::join_all((0..8).map(|_| far.reader(two.manifest))).await;
    assert!(asked.iter().all(Result::is_ok));
    let unknown = far.reader(ManifestId([9; 32])).await.err();
    assert!(matches!(unknown, Some(ChunkError::NotFound { .. })), "{unknown:?}");

    // A collection moves chunks under the feet of an open reader.
    let part = ingest(&writer, &bytes[..4 * MIB]).await;
    let open_reader = far.reader(part.manifest).await.unwrap();
    let done = writer.collect_garbage(&[part.manifest]).await.unwrap();
    assert!(done.rewritten_packs >= 1 && done.deleted_packs >= 1, "{done:?}");
    let mut out = vec![0; 4 * MIB];
    open_reader.read_at(0, &mut out).await.unwrap();
    assert!(out == bytes[..4 * MIB]);
    assert!(far.reader(one.manifest).await.is_err(), "what is gone is forgotten");
    let refused = far.ingest(MemDisk::new(vec![1; MIB]), &Progress::new(), &CancellationToken::new()).await;
    assert!(matches!(refused, Err(ChunkError::ReadOnly { .. })), "{refused:?}");
    assert!(!elsewhere.path().join("index").exists(), "it has no index of its own on disk");
}

/// What a deletion would free is what a collection then frees.
#[tokio::test]
async fn the_share_of_a_disk_is_what_its_deletion_frees() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let mut bytes = disk(51, 70 * MIB);
    let first = ingest(&region, &bytes).await;
    let alone = region.share(&[first.manifest], &[]).await.unwrap();
    assert_eq!((alone.logical_bytes, alone.data_bytes), (bytes.len() as u64, first.data_bytes));
    assert_eq!((alone.unique_bytes, alone.own_unique_bytes), (first.new_bytes, first.new_bytes));
    assert_eq!(alone.own_stored_bytes, alone.stored_bytes);

    bytes[MIB..MIB + 200_000].copy_from_slice(&noise(99, 200_000));
    let second = ingest(&region, &bytes).await;
    let shared = region.share(&[second.manifest], &[first.manifest]).await.unwrap();
    assert_eq!(shared.own_unique_bytes, second.new_bytes);
    assert!(shared.own_unique_bytes < 600_000 && shared.unique_bytes > alone.unique_bytes / 2, "{shared:?}");
    // A disk has no share of its own beside itself.
    let twice = region.share(&[first.manifest], &[first.manifest]).await.unwrap();
    assert_eq!((twice.own_unique_bytes, twice.own_stored_bytes), (0, 0));

    let before = region.usage().await.unwrap();
    region.collect_garbage(&[first.manifest]).await.unwrap();
    let after = region.usage().await.unwrap();
    assert_eq!(before.unique_bytes - after.unique_bytes, shared.own_unique_bytes);
}

#[tokio::test]
async fn a_preview_tells_what_a_collection_then_does() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let bytes = noise(161, 24 * MIB);
    let whole = ingest(&region, &bytes).await;
    let part = ingest(&region, &bytes[4 * MIB..8 * MIB]).await;
    let dead = ingest(&region, &noise(162, 3 * MIB)).await;
    let live = [part.manifest];
    let reader = Region::open_read_only(config(dir.path())).await.unwrap();
    let seen = reader.preview_garbage(&live).await.unwrap();
    assert!(region.has(whole.manifest).await.unwrap() && region.has(dead.manifest).await.unwrap());
    assert_eq!(region.preview_garbage(&live).await.unwrap(), seen);
    let done = region.collect_garbage(&live).await.unwrap();
    assert_eq!((seen.deleted_packs, seen.rewritten_packs), (done.deleted_packs, done.rewritten_packs));
    // Tables and trailers of the new packs.
    assert!(seen.freed_bytes.abs_diff(done.freed_bytes) < 50_000, "{seen:?} {done:?}");
    let unknown = region.preview_garbage(&[ManifestId([9; 32])]).await;
    assert!(matches!(unknown, Err(ChunkError::NotFound { .. })), "{unknown:?}");
}
