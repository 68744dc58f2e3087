//! Regions in S3 and Azure Blob, on real servers, by lines that break: 503s, time-outs, torn uploads, lost answers.

#[path = "../common/mod.rs"]
mod common;
mod servers;

use std::path::Path;
use std::sync::Arc;

use common::*;
use futures::TryStreamExt;
use lazuli_chunks::{
    Cache, Ingested, ManifestId, Object, Problem, Progress, Region, RegionConfig, ScrubOptions, ScrubReport,
};
use object_store::{ObjectStore, ObjectStoreExt};
use servers::{Fault, Kind, Line, Server};
use tokio_util::sync::CancellationToken;

fn configured(name: &str, store: Arc<dyn ObjectStore>, index: &Path) -> RegionConfig {
    RegionConfig {
        name: name.into(),
        stores: vec![store],
        index_dir: index.to_owned(),
        cache: Cache::new(0),
        keys: None,
        frames: None,
    }
}

async fn region(name: &str, store: Arc<dyn ObjectStore>, index: &Path) -> Region {
    Region::open(configured(name, store, index)).await.unwrap()
}

async fn scrub(region: &Region, options: ScrubOptions) -> ScrubReport {
    region.scrub(&options, &Progress::new(), &CancellationToken::new()).await.unwrap()
}

async fn replicate(to: &Region, from: &Region, disk: Ingested) {
    to.replicate_from(from, disk.manifest, &Progress::new(), &CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_in_s3_keeps_what_it_was_given() {
    keeps_what_it_was_given(Kind::S3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_in_azure_blob_keeps_what_it_was_given() {
    keeps_what_it_was_given(Kind::Azure).await;
}

async fn keeps_what_it_was_given(kind: Kind) {
    let server = Server::start(kind).await;
    let line = Line::to(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let store = server.store(&line, "some/where");
    let east = region("eastus", Arc::clone(&store), &dir.path().join("index")).await;

    // Writes by a line that breaks in every way.
    let disks = [noise(301, 6 * MIB), disk(302, 20 * MIB)];
    let one = ingest(&east, &disks[0]).await;
    line.break_next("PUT", &[Fault::Busy, Fault::Torn, Fault::AnswerCut, Fault::Silence]);
    let two = ingest(&east, &disks[1]).await;
    while line.faults_left() > 0 {
        // One write may meet less than all of them.
        ingest(&east, &noise(310 + line.faults_left() as u64, MIB)).await;
    }

    // Reads by it.
    line.break_next("GET", &[Fault::Busy, Fault::Silence, Fault::AnswerCut]);
    for (made, bytes) in [one, two].iter().zip(&disks) {
        assert!(read_all(&east, made.manifest).await == *bytes);
    }
    assert_eq!(line.faults_left(), 0);
    let seen = scrub(&east, ScrubOptions::default()).await;
    assert_eq!(seen.findings, [], "nothing is left of what was torn");

    // The index is lost: all is found again by listing.
    let usage = east.usage().await.unwrap();
    drop(east);
    let east = region("eastus", Arc::clone(&store), &dir.path().join("another")).await;
    assert_eq!(east.usage().await.unwrap(), usage);

    // Garbage goes, what is needed stays.
    let freed = east.collect_garbage(&[one.manifest]).await.unwrap().freed_bytes;
    assert!(freed >= two.stored_bytes, "{freed} of {two:?}");
    assert!(read_all(&east, one.manifest).await == disks[0]);
    let packs: Vec<_> = store.list(Some(&"packs".into())).try_collect().await.unwrap();
    assert_eq!(packs.len(), 1, "{packs:?}");

    // An object that somebody deleted is named and comes back from another region.
    let donor = region_with(&dir.path().join("donor"), &disks[0], one.manifest).await;
    store.delete(&packs[0].location).await.unwrap();
    let lost = scrub(&east, ScrubOptions::default()).await;
    assert!(lost.findings.iter().any(|f| (f.object, f.problem) == (Object::Pack, Problem::Missing)), "{lost:#?}");
    let manifests = Some(vec![one.manifest]);
    let repair = ScrubOptions { repair: true, donors: vec![donor], manifests, ..ScrubOptions::default() };
    let mended = scrub(&east, repair).await;
    assert!(mended.is_sound(), "{mended:#?}");
    assert!(read_all(&east, one.manifest).await == disks[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_s3_holds_of_sealed_stores_tells_nothing() {
    sealed_stores_tell_nothing(Kind::S3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_azure_blob_holds_of_sealed_stores_tells_nothing() {
    sealed_stores_tell_nothing(Kind::Azure).await;
}

/// Two stores of one region side by side, as those of tenants, with keys; by a line that breaks.
async fn sealed_stores_tell_nothing(kind: Kind) {
    let server = Server::start(kind).await;
    let line = Line::to(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let whole = configured("eastus", server.store(&line, "some/where"), dir.path());
    assert!(whole.folders("tenants").await.unwrap().is_empty() && !whole.has_packs().await.unwrap());
    let part = |tenant: &str, keys: &[u8]| RegionConfig {
        keys: sealing_keys(keys),
        ..configured(
            &format!("eastus/{tenant}"),
            server.store(&line, &format!("some/where/tenants/{tenant}")),
            &dir.path().join(tenant),
        )
    };
    // Bytes that do not compress: plain, they would be stored as they are.
    let mut bytes = vec![0; 6 * MIB];
    blake3::Hasher::new().update(b"seed").finalize_xof().fill(&mut bytes);
    let plain = region("westus", server.store(&line, "plain"), &dir.path().join("plain")).await;
    let made = ingest(&plain, &bytes).await;
    let one = Region::open(part("one", &[1])).await.unwrap();
    line.break_next("PUT", &[Fault::Busy, Fault::Torn, Fault::AnswerCut]);
    assert_eq!(ingest(&one, &bytes).await.manifest, made.manifest);
    let two = Region::open(part("two", &[1])).await.unwrap();
    assert_eq!(ingest(&two, &bytes).await.new_bytes, made.new_bytes, "nothing is shared between them");
    let found: Vec<String> = whole.folders("tenants").await.unwrap().into_iter().collect();
    assert_eq!(found, ["one", "two"]);
    assert!(part("two", &[1]).has_packs().await.unwrap() && !whole.has_packs().await.unwrap());

    let holds = async |prefix: &str, wanted: &[u8]| {
        let store = server.store(&line, prefix);
        let all: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert!(!all.is_empty());
        for object in all {
            let stored = store.get(&object.location).await.unwrap().bytes().await.unwrap();
            if stored.windows(wanted.len()).any(|w| w == wanted) {
                return true;
            }
        }
        false
    };
    for mark in [&bytes[MIB..MIB + 64], b"LZPACK", &made.manifest.0] {
        assert!(holds("plain", mark).await && !holds("some/where", mark).await, "{mark:?}");
    }
    line.break_next("GET", &[Fault::Busy, Fault::AnswerCut]);
    assert!(read_all(&one, made.manifest).await == bytes);

    // Another key follows; then the first one is needed no more, also to build a lost index again.
    drop(one);
    assert!(Region::open(part("one", &[2])).await.is_err(), "its key is not given");
    let one = Region::open(part("one", &[2, 1])).await.unwrap();
    let resealed = one.reseal(&Progress::new(), &CancellationToken::new()).await.unwrap();
    assert!(resealed.packs > 0 && resealed.left == 0, "{resealed:?}");
    drop(one);
    std::fs::remove_dir_all(dir.path().join("one")).unwrap();
    let one = Region::open(part("one", &[2])).await.unwrap();
    assert!(read_all(&one, made.manifest).await == bytes);
    for region in [&one, &two] {
        let seen = scrub(region, ScrubOptions { deep: true, ..ScrubOptions::default() }).await;
        assert!(seen.is_sound() && seen.unreadable.is_empty(), "{seen:#?}");
    }
}

async fn region_with(dir: &Path, bytes: &[u8], manifest: ManifestId) -> Region {
    let mut config = config(dir);
    config.name = "westus".into();
    let region = Region::open(config).await.unwrap();
    assert_eq!(ingest(&region, bytes).await.manifest, manifest);
    region
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_in_a_folder_in_s3_and_in_azure_blob_replicate_to_each_other() {
    let (s3, azure) = (Server::start(Kind::S3).await, Server::start(Kind::Azure).await);
    let (to_s3, to_azure) = (Line::to(&s3).await, Line::to(&azure).await);
    let dir = tempfile::tempdir().unwrap();
    let index = |name: &str| dir.path().join(name);
    let folder = open(&index("folder")).await;
    let east = region("eastus2", s3.store(&to_s3, ""), &index("s3")).await;
    let west = region("westus2", azure.store(&to_azure, ""), &index("azure")).await;
    let bytes = disk(320, 24 * MIB);
    let made = ingest(&folder, &bytes).await;
    to_s3.break_next("PUT", &[Fault::Torn]);
    replicate(&east, &folder, made).await;
    to_s3.break_next("GET", &[Fault::Busy, Fault::AnswerCut]);
    to_azure.break_next("PUT", &[Fault::Busy, Fault::AnswerCut]);
    replicate(&west, &east, made).await;
    assert!(read_all(&west, made.manifest).await == bytes);
    let back = Region::open(config(&index("back"))).await.unwrap();
    replicate(&back, &west, made).await;
    assert!(read_all(&back, made.manifest).await == bytes);
    for region in [&east, &west, &back] {
        assert!(scrub(region, ScrubOptions::default()).await.is_sound());
    }
}
