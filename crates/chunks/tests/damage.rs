//! The damage suite: stores damaged on purpose. Of each, every read gives the right byte or a clear error, a scrub
//! names the damage, and a repair mends it where a second copy exists.
//!
//! The stores are made here and then damaged, byte by byte as disks and careless people do it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use lazuli_chunks::{
    Cache, ChunkError, Object, Outcome, Problem, Progress, Region, RegionConfig, ScrubOptions, ScrubReport,
    SealingKeys, local_store,
};
use tokio_util::sync::CancellationToken;

/// One way to damage the files of a zone.
struct Damage {
    name: &'static str,
    harm: fn(&Path),
    /// What the scrub must find.
    finds: (Object, Problem),
}

const DAMAGES: &[Damage] = &[
    Damage { name: "a flipped byte in a pack", harm: |z| flip(&pack(z, 0), 700_000), finds: PACK_DAMAGED },
    Damage { name: "a flipped byte in a pack's magic", harm: |z| flip(&pack(z, 0), 3), finds: PACK_DAMAGED },
    Damage { name: "a flipped byte in a pack's table", harm: |z| flip_from_end(&pack(z, 0), 60), finds: PACK_DAMAGED },
    Damage { name: "a flipped byte in a trailer", harm: |z| flip_from_end(&pack(z, 0), 2), finds: PACK_DAMAGED },
    Damage { name: "a flipped byte in a manifest", harm: flip_manifest, finds: PACK_DAMAGED },
    Damage {
        name: "a missing pack",
        harm: |z| fs::remove_file(pack(z, 1)).unwrap(),
        finds: (Object::Pack, Problem::Missing),
    },
    Damage { name: "a torn write", harm: |z| cut(&pack(z, 0), 1_000_000), finds: PACK_DAMAGED },
    Damage { name: "an empty pack", harm: |z| cut(&pack(z, 1), 0), finds: PACK_DAMAGED },
    Damage { name: "a pack with a tail of junk", harm: lengthen, finds: PACK_DAMAGED },
    Damage {
        name: "another pack under its name",
        harm: |z| {
            fs::copy(pack(z, 0), pack(z, 1)).unwrap();
        },
        finds: PACK_DAMAGED,
    },
    Damage {
        name: "all packs gone",
        harm: |z| fs::remove_dir_all(z.join("packs")).unwrap(),
        finds: (Object::Pack, Problem::Missing),
    },
    Damage {
        name: "all packs flipped",
        harm: |z| pack_files(z).iter().for_each(|p| flip(p, 5_000)),
        finds: PACK_DAMAGED,
    },
];
const PACK_DAMAGED: (Object, Problem) = (Object::Pack, Problem::Damaged);

fn pack(zone: &Path, number: usize) -> PathBuf {
    pack_files(zone)[number].clone()
}

/// Names of packs are in the order of their making.
fn newest(zone: &Path) -> PathBuf {
    pack_files(zone).into_iter().max_by_key(|p| p.file_name().map(ToOwned::to_owned)).unwrap()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// Nothing of the frames that it touches can be unpacked. Which frames have one chunk and which several is not the same in
/// each ingest; so much is more than the longest chunk.
fn smear(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at..at + (64 << 10)].fill(0x5a);
    fs::write(file, bytes).unwrap();
}

fn flip_from_end(file: &Path, back: usize) {
    flip(file, usize::try_from(fs::metadata(file).unwrap().len()).unwrap() - back);
}

/// The root is the last blob of the last pack: it ends where the table begins.
fn flip_manifest(zone: &Path) {
    let file = pack(zone, 1);
    let bytes = fs::read(&file).unwrap();
    let root = bytes.windows(7).rposition(|w| w == b"LZROOT\0").expect("a small root is stored raw");
    flip(&file, root + 12);
}

fn cut(file: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(len).unwrap();
}

fn lengthen(zone: &Path) {
    let mut bytes = fs::read(pack(zone, 0)).unwrap();
    bytes.extend([0x5a; 777]);
    fs::write(pack(zone, 0), bytes).unwrap();
}

struct World {
    dir: tempfile::TempDir,
    zones: usize,
    keys: Option<SealingKeys>,
    disks: Vec<(lazuli_chunks::ManifestId, Vec<u8>)>,
}

impl World {
    /// A region of some zones with two disks, a pack for each.
    async fn new(zones: usize) -> Self {
        Self::with_keys(zones, None).await
    }

    async fn with_keys(zones: usize, keys: Option<SealingKeys>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self { dir, zones, keys, disks: Vec::new() };
        let region = world.open().await;
        for seed in [11, 12] {
            let bytes = noise(seed, 6 * MIB);
            world.disks.push((ingest(&region, &bytes).await.manifest, bytes));
        }
        drop(region);
        for zone in 0..zones {
            assert_eq!(pack_files(&world.zone(zone)).len(), 2);
        }
        world
    }

    fn zone(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("zone{number}"))
    }

    fn config(&self) -> RegionConfig {
        RegionConfig {
            name: "eastus".into(),
            stores: (0..self.zones).map(|z| local_store(&self.zone(z)).unwrap()).collect(),
            index_dir: self.dir.path().join("index"),
            cache: Cache::new(0),
            keys: self.keys.clone(),
            frames: None,
        }
    }

    async fn open(&self) -> Region {
        Region::open(self.config()).await.unwrap()
    }

    /// A healthy region elsewhere with the same disks.
    async fn donor(&self) -> (tempfile::TempDir, Region) {
        let dir = tempfile::tempdir().unwrap();
        let mut cfg = config(dir.path());
        cfg.name = "westus".into();
        let region = Region::open(cfg).await.unwrap();
        for (_, bytes) in &self.disks {
            ingest(&region, bytes).await;
        }
        (dir, region)
    }

    /// Every read of every disk: the right bytes or a clear error. Returns how many disks read whole.
    async fn read(&self, region: &Region, what: &str) -> usize {
        let mut whole = 0;
        for (manifest, bytes) in &self.disks {
            let reader = match region.reader(*manifest).await {
                Ok(reader) => reader,
                Err(e) => {
                    assert_clear(&e, what);
                    continue;
                }
            };
            let mut failed = false;
            let mut out = vec![0xee; 65_536];
            for at in (0..bytes.len()).step_by(65_536) {
                match reader.read_at(at as u64, &mut out).await {
                    Ok(()) => assert!(out == bytes[at..at + 65_536], "{what}: wrong bytes at {at}"),
                    Err(e) => {
                        assert_clear(&e, what);
                        failed = true;
                    }
                }
            }
            whole += usize::from(!failed);
        }
        whole
    }
}

fn assert_clear(error: &ChunkError, what: &str) {
    assert!(matches!(error, ChunkError::Corrupt { .. } | ChunkError::NotFound { .. }), "{what}: {error:?}");
}

async fn scrub(region: &Region, options: ScrubOptions) -> ScrubReport {
    region.scrub(&options, &Progress::new(), &CancellationToken::new()).await.unwrap()
}

fn repair() -> ScrubOptions {
    ScrubOptions { repair: true, ..ScrubOptions::default() }
}

fn assert_finds(report: &ScrubReport, damage: &Damage) {
    // With one copy nobody can say which of index and pack is wrong.
    let stale = |f: &lazuli_chunks::Finding| damage.name.starts_with("another pack") && f.problem == Problem::Stale;
    let found = report.findings.iter().any(stale)
        || report.findings.iter().any(|f| (f.object, f.problem) == damage.finds && !f.detail.is_empty());
    assert!(found, "{}: {report:#?}", damage.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_store_is_found_sound_and_read_whole() {
    let world = World::new(2).await;
    let region = world.open().await;
    let progress = Progress::new();
    let report = region.scrub(&ScrubOptions::default(), &progress, &CancellationToken::new()).await.unwrap();
    assert_eq!(report.findings, []);
    assert!(report.is_sound());
    let on_disk: u64 =
        [0, 1].iter().flat_map(|z| pack_files(&world.zone(*z))).map(|f| fs::metadata(f).unwrap().len()).sum();
    assert_eq!((report.packs, report.manifests, report.read_bytes), (2, 2, on_disk));
    assert_eq!((progress.done(), progress.total()), (on_disk, on_disk));
}

/// One zone and nothing else: the damage is named, the disk that it hits too, and the other disk is read on.
#[tokio::test(flavor = "multi_thread")]
async fn damage_without_a_second_copy_is_named_and_never_hidden() {
    for damage in DAMAGES {
        let world = World::new(1).await;
        (damage.harm)(&world.zone(0));
        let region = world.open().await;
        let whole = world.read(&region, damage.name).await;
        let report = scrub(&region, ScrubOptions::default()).await;
        assert_finds(&report, damage);
        assert_eq!(report.unreadable.len(), 2 - whole, "{}: {report:#?}", damage.name);
        assert!(!report.is_sound());

        let repaired = scrub(&region, repair()).await;
        assert_eq!(repaired.unreadable.len(), 2 - whole, "{}: {repaired:#?}", damage.name);
        assert_eq!(repaired.is_sound(), whole == 2, "{}: {repaired:#?}", damage.name);
        assert_eq!(world.read(&region, damage.name).await, whole, "{}", damage.name);
        // The index forgot what is lost: bringing the same disks again heals them.
        for (manifest, bytes) in &world.disks {
            assert_eq!(ingest(&region, bytes).await.manifest, *manifest);
        }
        assert_eq!(world.read(&region, damage.name).await, 2, "{}", damage.name);
        let last = scrub(&region, ScrubOptions::default()).await;
        assert!(last.is_sound(), "{}: {last:#?}", damage.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_zone_serves_the_reads_and_mends_the_damage() {
    for damage in DAMAGES {
        for hit in [0, 1] {
            let world = World::new(2).await;
            (damage.harm)(&world.zone(hit));
            let region = world.open().await;
            assert_eq!(world.read(&region, damage.name).await, 2, "{}", damage.name);
            drop(region);
            // Undo what reading mended by itself.
            let _ = fs::create_dir_all(world.zone(hit));
            let region = world.open().await;
            let report = scrub(&region, repair()).await;
            assert!(report.is_sound(), "{}: {report:#?}", damage.name);
            // The zone alone is whole again.
            let other = world.zone(1 - hit);
            fs::remove_dir_all(other.join("packs")).unwrap();
            assert_eq!(world.read(&region, damage.name).await, 2, "{}", damage.name);
        }
    }
}

/// What is sealed is no worse off.
#[tokio::test(flavor = "multi_thread")]
async fn damage_to_sealed_packs_is_mended_alike() {
    for damage in DAMAGES.iter().filter(|d| d.name != "a flipped byte in a manifest") {
        let world = World::with_keys(2, sealing_keys(&[1])).await;
        (damage.harm)(&world.zone(1));
        let region = world.open().await;
        assert_eq!(world.read(&region, damage.name).await, 2, "{}", damage.name);
        let report = scrub(&region, repair()).await;
        assert_finds(&report, damage);
        assert!(report.is_sound(), "{}: {report:#?}", damage.name);
        fs::remove_dir_all(world.zone(0).join("packs")).unwrap();
        assert_eq!(world.read(&region, damage.name).await, 2, "{}", damage.name);

        let world = World::with_keys(1, sealing_keys(&[1])).await;
        let (_dir, donor) = world.donor().await;
        (damage.harm)(&world.zone(0));
        let region = world.open().await;
        let manifests = Some(world.disks.iter().map(|(m, _)| *m).collect());
        let report = scrub(&region, ScrubOptions { manifests, donors: vec![donor], ..repair() }).await;
        assert!(report.is_sound(), "{}: {report:#?}", damage.name);
        assert_eq!(world.read(&region, damage.name).await, 2, "{}", damage.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scrub_names_the_zone() {
    for damage in DAMAGES {
        let world = World::new(2).await;
        (damage.harm)(&world.zone(1));
        let region = Region::open_read_only(world.config()).await.unwrap();
        let report = scrub(&region, ScrubOptions::default()).await;
        assert_finds(&report, damage);
        assert!(report.findings.iter().all(|f| f.zone == Some(1)), "{}: {report:#?}", damage.name);
        assert_eq!(report.unreadable, Vec::<String>::new(), "{}", damage.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_region_mends_the_damage() {
    for damage in DAMAGES {
        let world = World::new(1).await;
        let (_dir, donor) = world.donor().await;
        (damage.harm)(&world.zone(0));
        let region = world.open().await;
        let manifests = Some(world.disks.iter().map(|(m, _)| *m).collect());
        let report = scrub(&region, ScrubOptions { manifests, donors: vec![donor], ..repair() }).await;
        assert_finds(&report, damage);
        assert!(report.is_sound(), "{}: {report:#?}", damage.name);
        let mended = report.findings.iter().all(|f| matches!(f.outcome, Outcome::Repaired { .. }));
        assert!(mended, "{}: {report:#?}", damage.name);
        assert_eq!(world.read(&region, damage.name).await, 2, "{}", damage.name);
        drop(region);
        // Also for who has nothing but the packs.
        fs::remove_dir_all(world.dir.path().join("index")).unwrap();
        assert_eq!(world.read(&world.open().await, damage.name).await, 2, "{}", damage.name);
    }
}

/// Different blobs of one pack are damaged in the two zones: no copy is whole, and still nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn two_damaged_zones_make_one_whole_pack() {
    let world = World::new(2).await;
    flip(&pack(&world.zone(0), 0), 100_000);
    flip(&pack(&world.zone(1), 0), 2_000_000);
    let region = world.open().await;
    let report = scrub(&region, repair()).await;
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(world.read(&region, "two zones").await, 2);
    let again = scrub(&region, ScrubOptions::default()).await;
    assert_eq!(again.findings, []);
}

/// Chunks that are compressed together are lost together, and come back from wherever they are sound.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_frame_of_several_chunks_comes_back_whole() {
    let mut world = World::new(2).await;
    let region = world.open().await;
    let bytes: Vec<u8> = noise(31, MIB).into_iter().flat_map(|b| [b & 15, b >> 4, b'x', b'y']).collect();
    let done = ingest(&region, &bytes).await;
    assert!(done.stored_bytes < bytes.len() as u64 / 2, "it must compress");
    world.disks.push((done.manifest, bytes));
    drop(region);
    smear(&newest(&world.zone(0)), 50_000);
    smear(&newest(&world.zone(1)), 900_000);
    let region = world.open().await;
    assert_eq!(world.read(&region, "two zones").await, 3);
    let seen = scrub(&region, ScrubOptions::default()).await;
    let lost = |detail: &str| detail.split(' ').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    assert!(seen.findings.len() == 2 && seen.findings.iter().all(|f| lost(&f.detail) > 1), "{seen:#?}");
    let report = scrub(&region, repair()).await;
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(world.read(&region, "two zones").await, 3);
    assert_eq!(scrub(&region, ScrubOptions::default()).await.findings, []);

    // The same with no second zone, but another region.
    [0, 1].iter().for_each(|zone| smear(&newest(&world.zone(*zone)), 400_000));
    let (_dir, donor) = world.donor().await;
    let report = scrub(&region, ScrubOptions { donors: vec![donor], ..repair() }).await;
    assert!(report.is_sound() && !report.findings.is_empty(), "{report:#?}");
    assert_eq!(world.read(&region, "two regions").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_damaged_or_missing_index_is_named_and_built_again() {
    for damage in ["stale", "flipped", "missing"] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World { dir, zones: 1, keys: None, disks: Vec::new() };
        let log = world.dir.path().join("index/index.log");
        let region = world.open().await;
        let mut early = Vec::new();
        for seed in [21, 22] {
            early = fs::read(&log).unwrap();
            let bytes = noise(seed, 3 * MIB);
            world.disks.push((ingest(&region, &bytes).await.manifest, bytes));
        }
        drop(region);
        match damage {
            "stale" => fs::write(&log, early).unwrap(),
            "flipped" => flip(&log, 60),
            _ => fs::remove_file(&log).unwrap(),
        }
        let manifests: Option<Vec<_>> = Some(world.disks.iter().map(|(m, _)| *m).collect());
        let looking = ScrubOptions { manifests: manifests.clone(), ..ScrubOptions::default() };
        let seen = scrub(&Region::open_read_only(world.config()).await.unwrap(), looking).await;
        assert!(!seen.is_sound(), "{damage}: {seen:#?}");
        let region = world.open().await;
        let report = scrub(&region, ScrubOptions { manifests, ..repair() }).await;
        assert!(report.is_sound() && !report.findings.is_empty(), "{damage}: {report:#?}");
        assert_eq!(world.read(&region, damage).await, 2, "{damage}");
    }
}

/// A blob that was wrong before it was written: its frame is as it was written, so only a deep scrub sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deep_scrub_does_not_believe_the_checks() {
    let world = World::new(1).await;
    let file = pack(&world.zone(0), 0);
    let mut bytes = fs::read(&file).unwrap();
    let trailer = bytes.len() - 48;
    let table = trailer - u32::from_le_bytes(bytes[trailer..trailer + 4].try_into().unwrap()) as usize;
    // The id of the first blob of the first frame, then the table's hash.
    bytes[table + 32] ^= 1;
    let hash = blake3::hash(&bytes[table..trailer]);
    bytes[trailer + 8..trailer + 40].copy_from_slice(hash.as_bytes());
    fs::write(&file, bytes).unwrap();
    fs::remove_dir_all(world.dir.path().join("index")).unwrap();
    let region = world.open().await;
    let shallow = scrub(&region, ScrubOptions::default()).await;
    assert!(shallow.findings.iter().all(|f| f.object != Object::Pack), "{shallow:#?}");
    let deep = scrub(&region, ScrubOptions { deep: true, ..ScrubOptions::default() }).await;
    let found = deep.findings.iter().find(|f| f.object == Object::Pack).expect("a damaged pack");
    assert!(found.problem == Problem::Damaged && found.detail.starts_with("1 of its"), "{deep:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_refers_to_is_told_and_left_alone() {
    let world = World::new(1).await;
    let stray = pack(&world.zone(0), 0).with_file_name("readme.txt");
    fs::write(&stray, "hello").unwrap();
    // As a crash between data and index leaves it.
    let orphan = world.zone(0).join("packs/07/00000000000000000000000000000007");
    fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    fs::copy(pack(&world.zone(0), 0), &orphan).unwrap();
    let region = world.open().await;
    let report = scrub(&region, repair()).await;
    let found: Vec<_> = report.findings.iter().map(|f| (f.object, f.problem)).collect();
    assert_eq!(found, [(Object::Pack, Problem::Unreferenced), (Object::Foreign, Problem::Unreferenced)]);
    assert!(report.is_sound() && orphan.exists() && stray.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_head_comes_back_from_another_zone() {
    let world = World::new(2).await;
    fs::write(world.zone(1).join("store.json"), "{").unwrap();
    let region = world.open().await;
    let report = scrub(&region, repair()).await;
    assert_eq!((report.findings[0].object, report.findings[0].zone), (Object::Head, Some(1)));
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(scrub(&region, ScrubOptions::default()).await.findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_beside_a_writer_in_another_process_cries_no_wolf() {
    let world = World::new(1).await;
    let writer = world.open().await;
    let reader = Region::open_read_only(world.config()).await.unwrap();
    let refused = reader.scrub(&repair(), &Progress::new(), &CancellationToken::new()).await;
    assert!(matches!(refused, Err(ChunkError::ReadOnly { .. })), "{refused:?}");
    let done = CancellationToken::new();
    let busy = tokio::spawn({
        let (writer, done, keep) = (writer.clone(), done.clone(), world.disks[0].0);
        async move {
            for round in 0.. {
                ingest(&writer, &noise(500 + round, 2 * MIB)).await;
                writer.collect_garbage(&[keep]).await.unwrap();
                if done.is_cancelled() {
                    return;
                }
            }
        }
    });
    for _ in 0..8 {
        let options = ScrubOptions { manifests: Some(vec![world.disks[0].0]), ..ScrubOptions::default() };
        let report = scrub(&reader, options).await;
        assert_eq!(report.findings, []);
    }
    done.cancel();
    busy.await.unwrap();
}
