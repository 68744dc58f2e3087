//! A disk that goes in comes out, once, and only verified bytes come out.

mod common;

use std::sync::Arc;

use common::*;
use lazuli_chunks::{ChunkError, Progress, Region};
use lazuli_disks::DiskSource;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_disk_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    // Three segments, the last short; size a multiple of 512 but not of the block.
    let bytes = disk(7, 2 * 64 * MIB + 5 * MIB + 512);
    let progress = Progress::new();
    let done = region.ingest(MemDisk::new(bytes.clone()), &progress, &CancellationToken::new()).await.unwrap();
    let data: u64 = bytes.chunks(BLOCK).filter(|b| b.iter().any(|b| *b != 0)).map(|b| b.len() as u64).sum();
    assert_eq!((done.size, done.data_bytes), (bytes.len() as u64, data));
    assert_eq!(done.new_bytes, data);
    assert!(done.stored_bytes < data, "noise of this kind compresses");
    assert_eq!((progress.done(), progress.total()), (data, data));
    assert!(region.has(done.manifest).await.unwrap());
    assert!(read_all(&region, done.manifest).await == bytes);
}

#[tokio::test]
async fn the_same_disk_stores_nothing_new_and_has_one_name_everywhere() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let region = open(a.path()).await;
    let bytes = disk(3, 20 * MIB);
    let first = ingest(&region, &bytes).await;
    let before = region.usage().await.unwrap();
    // A source that knows of no holes describes the same disk.
    let mut plain = MemDisk::new(bytes.clone());
    Arc::get_mut(&mut plain).unwrap().sparse_map = false;
    let again = region.ingest(plain, &Progress::new(), &CancellationToken::new()).await.unwrap();
    assert_eq!(again.manifest, first.manifest);
    assert_eq!((again.new_bytes, again.stored_bytes, again.new_chunks), (0, 0, 0));
    assert_eq!(region.usage().await.unwrap(), before);
    let elsewhere = ingest(&open(b.path()).await, &bytes).await;
    assert_eq!(elsewhere.manifest, first.manifest);
}

#[tokio::test]
async fn a_changed_percent_costs_about_a_percent() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let mut bytes = noise(1, 32 * MIB);
    ingest(&region, &bytes).await;
    // Files that moved by whole blocks, and one changed stretch.
    bytes.splice(0..0, vec![9; 3 * BLOCK]);
    bytes[10 * MIB..10 * MIB + 300_000].fill(5);
    let second = ingest(&region, &bytes).await;
    assert!(second.new_bytes < 1_000_000, "{second:?}");
    assert!(read_all(&region, second.manifest).await == bytes);
}

#[tokio::test]
async fn empty_disks_are_disks() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    for size in [0, 512, 70 * MIB] {
        let done = ingest(&region, &vec![0; size]).await;
        assert_eq!((done.size, done.data_bytes, done.chunks), (size as u64, 0, 0));
        let reader = region.reader(done.manifest).await.unwrap();
        let extents = reader.extents(0, size as u64).await.unwrap();
        assert!(extents.iter().all(|e| e.hole && e.len == size as u64));
        assert!(read_all(&region, done.manifest).await.iter().all(|b| *b == 0));
    }
    assert_eq!(region.usage().await.unwrap().manifests, 3);
}

#[tokio::test]
async fn extents_tell_holes_from_data() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let bytes = disk(11, 66 * MIB);
    let reader = region.reader(ingest(&region, &bytes).await.manifest).await.unwrap();
    for (offset, len) in [(0, 66 * MIB), (5000, 3 * MIB), (63 * MIB, 2 * MIB), (17, 1), (66 * MIB, 0)] {
        let mut at = offset;
        let extents = reader.extents(offset as u64, len as u64).await.unwrap();
        assert!(extents.windows(2).all(|w| w[0].hole != w[1].hole));
        for extent in extents {
            let end = at + usize::try_from(extent.len).unwrap();
            let first = at / BLOCK * BLOCK;
            for block in (first..end).step_by(BLOCK) {
                let zero = bytes[block..block + BLOCK].iter().all(|b| *b == 0);
                assert_eq!(zero, extent.hole, "block at {block}");
            }
            at = end;
        }
        assert_eq!(at, offset + len);
    }
    assert!(matches!(reader.read_at(66 << 20, &mut [0]).await, Err(ChunkError::OutOfRange { .. })));
}

#[tokio::test]
async fn a_damaged_pack_never_yields_a_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(5, 4 * MIB);
    let manifest = ingest(&open(dir.path()).await, &bytes).await.manifest;
    let pack = pack_files(dir.path()).remove(0);
    let good = std::fs::read(&pack).unwrap();
    let mut refused = 0;
    for at in (8..good.len() - 48).step_by(good.len() / 23) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&pack, &bad).unwrap();
        refused += usize::from(!reads_right_or_corrupt(dir.path(), manifest, &bytes).await);
    }
    assert!(refused > 15, "damage went unnoticed: {refused}");
    std::fs::write(&pack, &good[..good.len() / 2]).unwrap();
    assert!(!reads_right_or_corrupt(dir.path(), manifest, &bytes).await);
    std::fs::remove_file(&pack).unwrap();
    let gone = open(dir.path()).await.reader(manifest).await.err();
    assert!(matches!(gone, Some(ChunkError::NotFound { .. })), "{gone:?}");
}

/// `true`: read whole and right; `false`: refused as damaged. Anything else fails the test.
async fn reads_right_or_corrupt(dir: &std::path::Path, manifest: lazuli_chunks::ManifestId, bytes: &[u8]) -> bool {
    let region = open(dir).await;
    let result = async {
        let reader = region.reader(manifest).await?;
        let mut out = vec![0; bytes.len()];
        reader.read_at(0, &mut out).await?;
        Ok::<_, ChunkError>(out)
    };
    match result.await {
        Ok(out) => {
            assert!(out == bytes, "wrong bytes were handed out");
            true
        }
        Err(ChunkError::Corrupt { .. }) => false,
        Err(e) => panic!("damage must be told as such: {e:?}"),
    }
}

#[tokio::test]
async fn any_one_zone_may_be_lost_or_damaged() {
    let (a, b, index) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut cfg = config(a.path());
    cfg.stores.push(lazuli_chunks::local_store(b.path()).unwrap());
    cfg.index_dir = index.path().to_owned();
    let bytes = noise(6, 3 * MIB);
    let manifest = ingest(&Region::open(cfg.clone()).await.unwrap(), &bytes).await.manifest;
    let pack = pack_files(a.path()).remove(0);
    let mut bad = std::fs::read(&pack).unwrap();
    bad.iter_mut().skip(8).for_each(|b| *b ^= 1);
    std::fs::write(&pack, bad).unwrap();
    cfg.cache = lazuli_chunks::Cache::new(64 << 20);
    assert!(read_all(&Region::open(cfg.clone()).await.unwrap(), manifest).await == bytes);
    std::fs::remove_dir_all(a.path().join("packs")).unwrap();
    cfg.cache = lazuli_chunks::Cache::new(64 << 20);
    assert!(read_all(&Region::open(cfg).await.unwrap(), manifest).await == bytes);
}

#[tokio::test]
async fn ingest_stops_when_told_and_when_its_source_fails() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let source = MemDisk::new(noise(8, 8 * MIB));
    let stopped = region.ingest(source, &Progress::new(), &cancel).await;
    assert!(matches!(stopped, Err(ChunkError::Cancelled)), "{stopped:?}");
    let mut source = MemDisk::new(noise(8, 8 * MIB));
    Arc::get_mut(&mut source).unwrap().fail_at = Some(4 << 20);
    let failed = region.ingest(source, &Progress::new(), &CancellationToken::new()).await;
    assert!(matches!(failed, Err(ChunkError::Source { offset, .. }) if offset >= 4 << 20), "{failed:?}");
    assert_eq!(region.usage().await.unwrap().manifests, 0);
    // Both leave the region fit for work.
    let bytes = noise(8, 8 * MIB);
    assert!(read_all(&region, ingest(&region, &bytes).await.manifest).await == bytes);
}

/// Cancels while it is being read.
struct CancelsItself(Arc<MemDisk>, CancellationToken);
impl DiskSource for CancelsItself {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn next_data(&self, from: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
        self.0.next_data(from)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        if offset >= 2 << 20 {
            self.1.cancel();
        }
        self.0.read_at(offset, buf)
    }
}

#[tokio::test]
async fn ingest_is_cancelled_midway() {
    let dir = tempfile::tempdir().unwrap();
    let region = open(dir.path()).await;
    let cancel = CancellationToken::new();
    let disk = MemDisk::new(noise(8, 30 * MIB));
    let source = Arc::new(CancelsItself(Arc::clone(&disk), cancel.clone()));
    let stopped = region.ingest(source, &Progress::new(), &cancel).await;
    assert!(matches!(stopped, Err(ChunkError::Cancelled)), "{stopped:?}");
    assert!(disk.reads.load(std::sync::atomic::Ordering::Relaxed) < 10, "it went on reading");
}

#[test]
fn reads_of_any_range_are_right() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bytes = disk(21, 66 * MIB);
    let reader = runtime.block_on(async {
        let region = open(dir.path()).await;
        let manifest = ingest(&region, &bytes).await.manifest;
        region.reader(manifest).await.unwrap()
    });
    proptest!(|(from in 0..66 * MIB, len in 0..600_000usize)| {
        let len = len.min(bytes.len() - from);
        let mut out = vec![0xcc; len];
        runtime.block_on(reader.read_at(from as u64, &mut out)).unwrap();
        prop_assert!(out == bytes[from..from + len]);
    });
}
