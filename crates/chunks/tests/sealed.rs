//! Encryption at rest: what the stores hold tells nothing, everything else goes on as if it were plain.

mod common;

use std::path::Path;

use common::*;
use lazuli_chunks::{Cache, ChunkError, Progress, Region, RegionConfig, ScrubOptions, ScrubReport, local_store};
use tokio_util::sync::CancellationToken;

async fn open_sealed(dir: &Path, keys: &[u8]) -> Region {
    Region::open(sealed_config(dir, keys)).await.unwrap()
}

async fn refused(dir: &Path, keys: &[u8]) -> String {
    let cfg = || RegionConfig { cache: Cache::new(0), ..sealed_config(dir, keys) };
    let error = Region::open(cfg()).await.err().expect("it is refused");
    assert!(matches!(error, ChunkError::Incompatible { .. }), "{error:?}");
    assert!(Region::open_read_only(cfg()).await.is_err() && Region::check(&cfg()).await.is_err());
    error.to_string()
}

async fn deep_scrub(region: &Region) -> ScrubReport {
    let options = ScrubOptions { deep: true, ..ScrubOptions::default() };
    region.scrub(&options, &Progress::new(), &CancellationToken::new()).await.unwrap()
}

/// Whether some pack of the store holds these bytes as they are.
fn holds(dir: &Path, wanted: &[u8]) -> bool {
    pack_files(dir).iter().any(|file| std::fs::read(file).unwrap().windows(wanted.len()).any(|w| w == wanted))
}

/// Bytes that do not compress, so that they would be stored as they are.
fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_region_works_and_its_store_tells_nothing() {
    let (plain, sealed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = [random(1, 5 * MIB), noise(2, 3 * MIB)].concat();
    let done = ingest(&open(plain.path()).await, &bytes).await;
    let region = open_sealed(sealed.path(), &[1]).await;
    assert_eq!(ingest(&region, &bytes).await.manifest, done.manifest, "an image has the same name everywhere");
    let marks: [&[u8]; 4] = [&bytes[MIB..MIB + 64], b"LZPACK", b"LZROOT", &done.manifest.0];
    for mark in marks {
        assert!(holds(plain.path(), mark), "{mark:?}");
        assert!(!holds(sealed.path(), mark), "{mark:?}");
    }
    assert!(read_all(&region, done.manifest).await == bytes);
    assert_eq!(ingest(&region, &bytes).await.stored_bytes, 0, "what is there is found");
    drop(region);

    std::fs::remove_dir_all(sealed.path().join("index")).unwrap();
    let region =
        Region::open(RegionConfig { cache: Cache::new(0), ..sealed_config(sealed.path(), &[1]) }).await.unwrap();
    let reader = region.reader(done.manifest).await.unwrap();
    for at in (0..bytes.len() - 9000).step_by(77_777) {
        let mut out = vec![0; 9000];
        reader.read_at(at as u64, &mut out).await.unwrap();
        assert!(out == bytes[at..at + 9000], "at {at}");
    }
    assert!(deep_scrub(&region).await.is_sound());
    // Moved by a collection, it is sealed still.
    let part = ingest(&region, &bytes[..MIB]).await;
    assert_eq!(region.collect_garbage(&[part.manifest]).await.unwrap().rewritten_packs, 1);
    assert!(read_all(&region, part.manifest).await == bytes[..MIB]);
    assert!(!holds(sealed.path(), &bytes[MIB / 2..MIB / 2 + 64]));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_move_between_plain_regions_and_such_of_different_keys() {
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let regions = [
        open_sealed(dirs[0].path(), &[1]).await,
        open(dirs[1].path()).await,
        open_sealed(dirs[2].path(), &[2]).await,
        open_sealed(dirs[3].path(), &[3]).await,
    ];
    let bytes = random(3, 6 * MIB);
    let done = ingest(&regions[0], &bytes).await;
    for pair in regions.windows(2) {
        let (from, to) = (&pair[0], &pair[1]);
        to.replicate_from(from, done.manifest, &Progress::new(), &CancellationToken::new()).await.unwrap();
        assert!(read_all(to, done.manifest).await == bytes);
        assert_eq!(deep_scrub(to).await.findings, []);
    }
    let shown: Vec<bool> = dirs.iter().map(|dir| holds(dir.path(), &bytes[MIB..MIB + 64])).collect();
    assert_eq!(shown, [false, true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (random(4, 2 * MIB), random(5, 2 * MIB));
    let old = ingest(&open_sealed(dir.path(), &[1]).await, &first).await;
    let (one, two) = (sealing_keys(&[1]).unwrap().ids(), sealing_keys(&[2]).unwrap().ids());
    for keys in [&[][..], &[2]] {
        let told = refused(dir.path(), keys).await;
        assert!(told.contains(&one[0]) && told.contains("encryption_keys"), "{told}");
    }
    let region = open_sealed(dir.path(), &[2, 1]).await;
    let new = ingest(&region, &second).await;
    assert!(read_all(&region, old.manifest).await == first && read_all(&region, new.manifest).await == second);
    let kept = pack_files(dir.path());
    drop(region);
    // Both are needed now.
    assert!(refused(dir.path(), &[1]).await.contains(&two[0]));
    assert!(refused(dir.path(), &[2]).await.contains(&one[0]));

    let region = open_sealed(dir.path(), &[2, 1]).await;
    let done = region.reseal(&Progress::new(), &CancellationToken::new()).await.unwrap();
    assert_eq!((done.packs, done.left), (1, 0), "only what the old key had sealed");
    assert_eq!(kept.iter().filter(|file| file.exists()).count(), 1);
    drop(region);
    let region = open_sealed(dir.path(), &[2]).await;
    assert!(read_all(&region, old.manifest).await == first && read_all(&region, new.manifest).await == second);
    assert_eq!(deep_scrub(&region).await.findings, []);
    let again = region.reseal(&Progress::new(), &CancellationToken::new()).await.unwrap();
    assert_eq!((again.packs, again.left), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_region_is_sealed_later() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (random(6, 2 * MIB), random(7, 2 * MIB));
    let cfg = |keys: &[u8]| {
        let stores = ["a", "b"].iter().map(|zone| local_store(&dir.path().join(zone)).unwrap()).collect();
        RegionConfig { stores, ..sealed_config(dir.path(), keys) }
    };
    let plain = Region::open(cfg(&[])).await.unwrap();
    let old = ingest(&plain, &first).await;
    assert!(plain.reseal(&Progress::new(), &CancellationToken::new()).await.is_err(), "it has no key");
    drop(plain);
    let region = Region::open(cfg(&[9])).await.unwrap();
    let new = ingest(&region, &second).await;
    let shown = |bytes: &[u8]| ["a", "b"].map(|zone| holds(&dir.path().join(zone), &bytes[MIB..MIB + 64]));
    assert_eq!((shown(&first), shown(&second)), ([true; 2], [false; 2]), "only what is new");
    let done = region.reseal(&Progress::new(), &CancellationToken::new()).await.unwrap();
    assert_eq!((done.packs, done.left), (1, 0));
    assert_eq!(shown(&first), [false; 2]);
    drop(region);
    let region = Region::open(RegionConfig { cache: Cache::new(0), ..cfg(&[9]) }).await.unwrap();
    assert!(read_all(&region, old.manifest).await == first && read_all(&region, new.manifest).await == second);
    assert_eq!(deep_scrub(&region).await.findings, []);
}

/// Whoever can write to a store can spoil what it holds, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn packs_that_are_exchanged_or_cut_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let region = open_sealed(dir.path(), &[1]).await;
    let one = ingest(&region, &random(8, 2 * MIB)).await;
    ingest(&region, &random(9, 2 * MIB)).await;
    drop(region);
    let files = pack_files(dir.path());
    let (a, b) = (std::fs::read(&files[0]).unwrap(), std::fs::read(&files[1]).unwrap());
    std::fs::write(&files[0], &b).unwrap();
    std::fs::write(&files[1], &a[..a.len() - 16_400]).unwrap();
    let region = Region::open(RegionConfig { cache: Cache::new(0), ..sealed_config(dir.path(), &[1]) }).await.unwrap();
    let error = match region.reader(one.manifest).await {
        Err(e) => e,
        Ok(reader) => reader.read_at(0, &mut vec![0; MIB]).await.unwrap_err(),
    };
    assert!(matches!(error, ChunkError::Corrupt { .. }), "{error:?}");
    assert_eq!(deep_scrub(&region).await.unreadable.len(), 2);
}
