//! The data plane of managed disks through its door, with a real database, real files and a real content store
//! (wire.md §5; mission MD-1, MD-3).

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use lazuli_authz::rbac::{DATA_OPERATOR_FOR_MANAGED_DISKS, OWNER};
use lazuli_chunks::{Cache, DiskReader, ManifestId, Progress, Region, RegionConfig};
use lazuli_disks::RawFile;
use lazuli_disks::vhd::{Footer, FooterAppended};
use lazuli_engine::blobs::{Blob, BlobError, Blobs, Conditions, ContentHeaders, OpenDisk, Sas};
use lazuli_engine::blobs::{SequenceAction, SequenceTest};
use lazuli_engine::grant::GrantDetail;
use lazuli_meta::model::{Change, Expect, Grant, Principal, Resource, RoleAssignment, Subscription, Tenant, Write};
use lazuli_meta::{Db, ManualClock};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const MIB: u64 = 1 << 20;

struct OneRegion(Region);

#[async_trait]
impl OpenDisk for OneRegion {
    async fn open_disk(&self, region: &str, owner: &str, disk: ManifestId) -> Result<DiskReader, BlobError> {
        assert_eq!((region, owner), ("eastus", "/subscriptions/s/disk"));
        Ok(self.0.reader(disk).await.unwrap())
    }
}

struct World {
    dir: TempDir,
    db: Db,
    clock: ManualClock,
    region: Region,
    blobs: Blobs,
}

fn sas() -> Sas {
    Sas { si: "policy".into(), sig: "secret/+=".into() }
}

impl World {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let clock = ManualClock::at(1_000_000);
        let url = format!("sqlite:{}", dir.path().join("meta.db").display());
        let db = Db::open(&url).await.unwrap().with_clock(clock.clock());
        let config = RegionConfig::local("eastus", &dir.path().join("eastus"), Cache::new(8 << 20)).unwrap();
        let region = Region::open(config).await.unwrap();
        let blobs = Blobs::new(db.clone(), Arc::new(OneRegion(region.clone())));
        Self { dir, db, clock, region, blobs }
    }

    /// Another process on the same files.
    fn restarted(&self) -> Blobs {
        Blobs::new(self.db.clone(), Arc::new(OneRegion(self.region.clone())))
    }

    fn staging(&self) -> PathBuf {
        self.dir.path().join("uploads").join("disk.vhd")
    }

    async fn grant(&self, detail: &GrantDetail) {
        let grant = Grant {
            id: sas().si,
            resource_key: "/subscriptions/s/disk".into(),
            access: "Write".into(),
            account: "md-impexp-x".into(),
            container: "c0ntainer".into(),
            secret: sas().sig,
            expires_ms: 1_000_000 + 60_000,
            detail: serde_json::to_value(detail).unwrap(),
        };
        self.write(Change::PutGrant(grant)).await;
    }

    async fn write(&self, change: Change) {
        self.db.write(Write { fence: None, changes: vec![change] }).await.unwrap();
    }

    async fn upload(&self, size: u64) -> Blob {
        self.grant(&GrantDetail::Upload { path: self.staging(), size }).await;
        self.open().await.unwrap()
    }

    async fn open(&self) -> Result<Blob, BlobError> {
        self.blobs.open("md-impexp-x", "c0ntainer", "abcd", &sas(), None).await
    }
}

/// `dataAccessAuthMode` AzureActiveDirectory: the URL opens the disk only to those who may have its bytes.
#[tokio::test]
async fn a_disk_may_ask_who_comes_with_the_url() {
    let world = World::new().await;
    world.upload(MIB + 512).await;
    let key = "/subscriptions/s/disk";
    let disk = |mode: &str| Resource {
        key: key.into(),
        sort_key: key.into(),
        id: key.into(),
        kind: "microsoft.compute/disks".into(),
        subscription: "s".into(),
        resource_group: String::new(),
        parent: None,
        name: "disk".into(),
        location: "eastus".into(),
        body: json!({"properties": {"dataAccessAuthMode": mode}}),
        internal: json!({}),
        provisioning_state: "Succeeded".into(),
        etag: "e".into(),
        created_ms: 0,
        changed_ms: 0,
    };
    for (id, tenant) in [("me", "t"), ("stranger", "u")] {
        let (id, tenant, name) = (id.to_owned(), tenant.to_owned(), String::new());
        let kind = "ServicePrincipal".into();
        world.write(Change::PutTenant(Tenant { id: tenant.clone(), display_name: name.clone() })).await;
        let principal = Principal {
            id,
            tenant,
            app_id: Uuid::new_v4().to_string(),
            display_name: name.clone(),
            kind,
            secret_hash: name.clone(),
            login: name,
            body: json!({}),
        };
        world.write(Change::PutPrincipal(principal)).await;
    }
    let (id, state) = ("s".to_owned(), "Enabled".to_owned());
    let subscription = Subscription { id, tenant: "t".into(), display_name: String::new(), state };
    world.write(Change::PutSubscription(subscription)).await;
    let open = async |who: Option<&str>| world.blobs.open("md-impexp-x", "c0ntainer", "abcd", &sas(), who).await;
    world.write(Change::PutResource { resource: disk("None"), expect: Expect::Any }).await;
    open(None).await.map(drop).unwrap();
    world.write(Change::PutResource { resource: disk("AzureActiveDirectory"), expect: Expect::Any }).await;
    assert!(matches!(refused(open(None).await), BlobError::IdentityRequired));
    assert!(matches!(refused(open(Some("me")).await), BlobError::NotPermitted { .. }));
    for (role, good) in [(OWNER, false), (DATA_OPERATOR_FOR_MANAGED_DISKS, true)] {
        for who in ["me", "stranger"] {
            let (id, scope) = (format!("{role}-{who}"), "/subscriptions/s".into());
            let assignment =
                RoleAssignment { id, scope, role: role.into(), principal: who.into(), body: serde_json::json!({}) };
            world.write(Change::PutRoleAssignment(assignment)).await;
        }
        assert_eq!(open(Some("me")).await.is_ok(), good, "{role}");
        assert!(open(Some("stranger")).await.is_err(), "of another tenant");
    }
    // A wrong URL says no more than before.
    let wrong = Sas { sig: "other".into(), ..sas() };
    let error = refused(world.blobs.open("md-impexp-x", "c0ntainer", "abcd", &wrong, Some("me")).await);
    assert!(matches!(error, BlobError::Unauthenticated(_)));
}

fn always() -> Conditions {
    Conditions::default()
}

fn if_match(etag: &str) -> Conditions {
    Conditions { if_match: Some(format!("\"{etag}\"")), ..always() }
}

fn if_absent() -> Conditions {
    Conditions { if_none_match: Some("*".into()), ..always() }
}

async fn create(blob: &Blob, size: u64, when: &Conditions) -> Result<(), BlobError> {
    blob.create(size, 0, ContentHeaders::default(), BTreeMap::new(), when).await.map(drop)
}

async fn bytes(blob: &Blob, range: Range<u64>) -> Vec<u8> {
    let pieces: Vec<Bytes> = blob.read(range).try_collect().await.unwrap();
    pieces.concat()
}

fn pages(byte: u8, count: usize) -> Bytes {
    vec![byte; count * 512].into()
}

fn refused<T>(result: Result<T, BlobError>) -> BlobError {
    result.err().expect("it should be refused")
}

#[tokio::test]
async fn only_the_signed_url_opens_a_blob() {
    let world = World::new().await;
    world.upload(MIB + 512).await;
    let open = |account, container, blob, si: &str, sig: &str| {
        let sas = Sas { si: si.to_owned(), sig: sig.to_owned() };
        let blobs = world.blobs.clone();
        async move { refused(blobs.open(account, container, blob, &sas, None).await) }
    };
    let (a, c, b, si, sig) = ("md-impexp-x", "c0ntainer", "abcd", "policy", "secret/+=");
    assert!(matches!(open("md-impexp-y", c, b, si, sig).await, BlobError::Unauthenticated(_)));
    assert!(matches!(open(a, c, b, "other", sig).await, BlobError::Unauthenticated(_)));
    for wrong in ["", "secret/+", "secret/+=x", "Secret/+="] {
        assert!(matches!(open(a, c, b, si, wrong).await, BlobError::Unauthenticated(_)), "{wrong}");
    }
    assert!(matches!(open(a, "other", b, si, sig).await, BlobError::NoContainer));
    assert!(matches!(open(a, c, "abcde", si, sig).await, BlobError::NoBlob));
}

#[tokio::test]
async fn a_grant_ends_with_its_time_and_with_its_row() {
    let world = World::new().await;
    let blob = world.upload(MIB + 512).await;
    world.clock.advance(Duration::from_secs(60));
    assert!(matches!(refused(world.open().await), BlobError::Expired { expires_ms: 1_060_000, .. }));

    world.write(Change::DeleteGrant { id: sas().si }).await;
    world.blobs.end_upload(&world.staging()).await.unwrap();
    assert!(matches!(refused(world.open().await), BlobError::Unauthenticated(_)));
    // A request that was under way when the access ended changes nothing any more.
    let late = blob.write_pages(0, pages(1, 1), &always()).await;
    assert!(matches!(refused(late), BlobError::Unauthenticated(_)));
    let late = blob.reset(&always()).await;
    assert!(matches!(refused(late), BlobError::Unauthenticated(_)));
}

#[tokio::test]
async fn what_was_written_is_in_the_staging_file_and_survives_a_restart() {
    let world = World::new().await;
    let blob = world.upload(MIB + 512).await;
    let after = blob.write_pages(1024, pages(7, 2), &always()).await.unwrap();
    blob.set_headers(ContentHeaders { md5: Some("x".into()), ..Default::default() }, &always()).await.unwrap();
    blob.set_sequence(SequenceAction::Update(5), &always()).await.unwrap();
    let before = blob.properties().unwrap();
    assert_ne!(before.etag, after.etag);

    let file = std::fs::read(world.staging()).unwrap();
    assert_eq!(file.len() as u64, MIB + 512);
    assert!(file[1024..2048].iter().all(|b| *b == 7) && file[..1024].iter().all(|b| *b == 0));
    let again = world.restarted().open("md-impexp-x", "c0ntainer", "abcd", &sas(), None).await.unwrap();
    assert_eq!(again.properties().unwrap(), before);
    // A chain of If-Match goes on over the restart, as azure-storage-blob makes one.
    again.write_pages(0, pages(1, 1), &if_match(&before.etag)).await.unwrap();
}

#[tokio::test]
async fn pages_are_whole_and_within_the_blob() {
    let world = World::new().await;
    let blob = world.upload(MIB + 512).await;
    for (offset, len) in [(1, 512), (0, 511), (0, 0), (MIB + 512, 512), (MIB, 1024), (u64::MAX - 511, 512)] {
        let wrong = refused(blob.write_pages(offset, vec![1; len].into(), &always()).await);
        assert!(matches!(wrong, BlobError::PageRange { .. }), "{offset} {len}: {wrong:?}");
    }
    let wrong = refused(blob.clear_pages(512..512, &always()).await);
    assert!(matches!(wrong, BlobError::PageRange { .. }));
    blob.write_pages(MIB, pages(9, 1), &always()).await.unwrap();
    assert_eq!(bytes(&blob, MIB..u64::MAX).await, [9; 512]);

    drop(blob);
    let world = World::new().await;
    let blob = world.upload(8 * MIB + 512).await;
    let large = vec![1; usize::try_from(4 * MIB).unwrap() + 512];
    assert!(matches!(refused(blob.write_pages(0, large.into(), &always()).await), BlobError::TooLarge { .. }));
}

#[tokio::test]
async fn creating_clears_and_keeps_the_announced_size() {
    let world = World::new().await;
    let size = MIB + 512;
    let blob = world.upload(size).await;
    // Before anything was written, "only if it is new" holds; then no more.
    create(&blob, size, &if_absent()).await.unwrap();
    blob.write_pages(0, pages(1, 3), &always()).await.unwrap();
    assert!(matches!(refused(create(&blob, size, &if_absent()).await), BlobError::Exists));
    assert!(matches!(refused(create(&blob, size + 512, &always()).await), BlobError::SizeFixed { .. }));
    assert!(matches!(refused(blob.resize(512, &always()).await), BlobError::SizeFixed { .. }));
    assert_eq!(bytes(&blob, 0..512).await, [1; 512]);
    create(&blob, size, &always()).await.unwrap();
    assert_eq!(blob.page_ranges(0..size).await.unwrap(), []);
    assert_eq!(bytes(&blob, 0..512).await, [0; 512]);
    blob.write_pages(0, pages(1, 1), &always()).await.unwrap();
    blob.reset(&always()).await.unwrap();
    assert_eq!(bytes(&blob, 0..512).await, [0; 512]);
    create(&blob, size, &if_absent()).await.unwrap();
}

#[tokio::test]
async fn conditions_guard_writes() {
    let world = World::new().await;
    let blob = world.upload(MIB + 512).await;
    let first = blob.write_pages(0, pages(1, 1), &always()).await.unwrap();
    let second = blob.write_pages(0, pages(2, 1), &if_match(&first.etag)).await.unwrap();
    let stale = refused(blob.write_pages(0, pages(3, 1), &if_match(&first.etag)).await);
    assert!(matches!(stale, BlobError::ConditionNotMet));
    assert_eq!(bytes(&blob, 0..1).await, [2]);
    let below = Conditions { sequence: vec![SequenceTest::Below(0)], ..always() };
    assert!(matches!(refused(blob.clear_pages(0..512, &below).await), BlobError::SequenceNotMet));
    assert_eq!(blob.properties().unwrap(), second);

    // Of many writers with the same tag, one wins.
    let writers = (0..8_u8).map(|n| {
        let (blob, when) = (blob.clone(), if_match(&second.etag));
        tokio::spawn(async move { blob.write_pages(0, pages(10 + n, 1), &when).await.is_ok() })
    });
    let mut won = 0;
    for writer in writers.collect::<Vec<_>>() {
        won += u32::from(writer.await.unwrap());
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn writes_to_different_pages_go_side_by_side() {
    let world = World::new().await;
    let blob = world.upload(4 * MIB + 512).await;
    let writers = (0..64_u8).map(|n| {
        let blob = blob.clone();
        tokio::spawn(
            async move { blob.write_pages(u64::from(n) * 65536, pages(n + 1, 128), &always()).await.unwrap().etag },
        )
    });
    let mut tags = std::collections::HashSet::new();
    for writer in writers.collect::<Vec<_>>() {
        tags.insert(writer.await.unwrap());
    }
    assert_eq!(tags.len(), 64, "every write has a tag of its own");
    for n in 0..64_u8 {
        assert_eq!(bytes(&blob, u64::from(n) * 65536..u64::from(n + 1) * 65536).await, vec![n + 1; 65536]);
    }
}

/// `/dev/full` stands for the full disk; nothing of it is answered as done.
#[tokio::test]
async fn a_full_disk_is_told_and_harms_nothing() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = full.write_all_at(&[1], 0).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

    let world = World::new().await;
    let blob = world.upload(MIB + 512).await;
    let before = blob.write_pages(0, pages(1, 1), &always()).await.unwrap();
    // The state cannot be written: its place is taken by a link to a device that is full.
    let state = world.dir.path().join("uploads").join("disk.vhd.state.new");
    std::os::unix::fs::symlink("/dev/full", &state).unwrap();
    let error = refused(blob.write_pages(512, pages(2, 1), &always()).await);
    assert!(matches!(error, BlobError::Full { .. }), "{error:?}");
    std::fs::remove_file(&state).unwrap();
    assert_eq!(bytes(&blob, 0..512).await, [1; 512]);
    let after = blob.write_pages(512, pages(3, 1), &always()).await.unwrap();
    assert_ne!(after.etag, before.etag);
    assert_eq!(bytes(&blob, 512..1024).await, [3; 512]);
}

/// A disk with data at both ends and in the middle, ingested, and its bytes.
async fn stored(world: &World, size: u64) -> (String, Vec<u8>) {
    let path = world.dir.path().join("disk.raw");
    let file = std::fs::File::create_new(&path).unwrap();
    file.set_len(size).unwrap();
    let noise: Vec<u8> = (0..300_000_u32).map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    file.write_all_at(&noise, 0).unwrap();
    file.write_all_at(&noise, 5 * MIB + 8192).unwrap();
    file.write_all_at(&noise[..4096], size - 4096).unwrap();
    let source = Arc::new(RawFile::open(&path).unwrap());
    let ingested = world.region.ingest(source, &Progress::new(), &CancellationToken::new()).await.unwrap();
    (ingested.manifest.to_string(), std::fs::read(&path).unwrap())
}

/// wire.md §5: an export is the disk and a footer of 512 bytes.
#[tokio::test]
async fn a_stored_disk_reads_as_a_fixed_vhd() {
    let world = World::new().await;
    let size = 12 * MIB;
    let (manifest, disk) = stored(&world, size).await;
    let unique_id = Uuid::new_v4();
    let detail = GrantDetail::Manifest { region: "eastus".into(), manifest, size, footer_unique_id: unique_id };
    world.grant(&detail).await;
    let blob = world.open().await.unwrap();
    assert_eq!(blob.size(), size + 512);
    let footer = FooterAppended::new(size, unique_id, 0);
    let (_, tail) = footer.split(0..size + 512);
    let whole = [disk.as_slice(), tail].concat();
    assert_eq!(bytes(&blob, 0..u64::MAX).await, whole);
    for range in [0..1, 3 * MIB - 7..3 * MIB + 9, size - 100..size + 100, size..size + 512, size + 511..size + 512] {
        let at = |n| usize::try_from(n).unwrap();
        assert_eq!(bytes(&blob, range.clone()).await, whole[at(range.start)..at(range.end)], "{range:?}");
    }
    assert_eq!(bytes(&blob, size + 512..size + 1024).await, [0; 0]);
    Footer::parse(whole.last_chunk().unwrap()).unwrap().check_fixed(size + 512).unwrap();

    let ranges = blob.page_ranges(0..u64::MAX).await.unwrap();
    assert_eq!(ranges.last().unwrap().end, size + 512);
    let mut covered = vec![0; whole.len()];
    for range in &ranges {
        let at = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        covered[at.clone()].copy_from_slice(&whole[at]);
    }
    assert!(covered == whole, "outside of the ranges there are zeros only");
    let data: u64 = ranges.iter().map(|r| r.end - r.start).sum();
    assert!(data < MIB, "holes are left out: {ranges:?}");
    assert_eq!(blob.page_ranges(2 * MIB..3 * MIB).await.unwrap(), []);

    assert_eq!(
        world.restarted().open("md-impexp-x", "c0ntainer", "abcd", &sas(), None).await.unwrap().properties().unwrap(),
        blob.properties().unwrap()
    );
    assert!(matches!(refused(blob.write_pages(0, pages(1, 1), &always()).await), BlobError::ReadOnly));
    assert!(matches!(refused(blob.reset(&always()).await), BlobError::ReadOnly));
    assert!(matches!(refused(create(&blob, size + 512, &always()).await), BlobError::ReadOnly));
}

/// A disk that grew is longer than what is stored of it.
#[tokio::test]
async fn what_is_not_stored_reads_as_zeros() {
    let world = World::new().await;
    let (manifest, start) = stored(&world, 12 * MIB).await;
    let (region, footer_unique_id) = ("eastus".into(), Uuid::nil());
    world.grant(&GrantDetail::Manifest { region, manifest, size: 16 * MIB, footer_unique_id }).await;
    let blob = world.open().await.unwrap();
    let all = bytes(&blob, 0..u64::MAX).await;
    let end = usize::try_from(16 * MIB).unwrap();
    assert_eq!(all.len(), end + 512);
    assert!(all[..start.len()] == start && all[start.len()..end].iter().all(|b| *b == 0));
    assert_eq!(blob.page_ranges(12 * MIB..u64::MAX).await.unwrap(), vec![16 * MIB..16 * MIB + 512]);
}

const MODEL_PAGES: u64 = 2048 + 1;

#[derive(Debug, Clone)]
enum Step {
    Write { page: u64, count: u64, byte: u8 },
    Clear { page: u64, count: u64 },
    Read { from: u64, len: u64 },
    Ranges { page: u64, count: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let span = || (0..MODEL_PAGES, 1_u64..200).prop_map(|(page, count)| (page, count.min(MODEL_PAGES - page)));
    prop_oneof![
        4 => (span(), any::<u8>()).prop_map(|((page, count), byte)| Step::Write { page, count, byte }),
        2 => span().prop_map(|(page, count)| Step::Clear { page, count }),
        2 => (0..MODEL_PAGES * 512, 1_u64..2 * MIB).prop_map(|(from, len)| Step::Read { from, len }),
        2 => span().prop_map(|(page, count)| Step::Ranges { page, count }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is written, cleared and read in whatever order: it is as with bytes in memory.
    #[test]
    fn an_upload_is_like_bytes_in_memory(steps in prop::collection::vec(step(), 1..24)) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(async move {
            let world = World::new().await;
            let size = MODEL_PAGES * 512;
            let mut blob = world.upload(size).await;
            let mut model = vec![0_u8; usize::try_from(size).unwrap()];
            let span = |page: u64, count: u64| page * 512..(page + count) * 512;
            let at = |range: &Range<u64>| usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            for step in steps {
                match step {
                    Step::Write { page, count, byte } => {
                        let range = span(page, count);
                        model[at(&range)].fill(byte);
                        let data = model[at(&range)].to_vec();
                        blob.write_pages(range.start, data.into(), &Conditions::default()).await.unwrap();
                    }
                    Step::Clear { page, count } => {
                        let range = span(page, count);
                        model[at(&range)].fill(0);
                        blob.clear_pages(range, &Conditions::default()).await.unwrap();
                    }
                    Step::Read { from, len } => {
                        let range = from..(from + len).min(size);
                        assert!(bytes(&blob, range.clone()).await == model[at(&range)]);
                    }
                    Step::Ranges { page, count } => {
                        let range = span(page, count);
                        let mut shown = vec![0; model.len()];
                        for data in blob.page_ranges(range.clone()).await.unwrap() {
                            assert!(range.start <= data.start && data.end <= range.end && data.start % 512 == 0);
                            shown[at(&data)].copy_from_slice(&model[at(&data)]);
                        }
                        assert!(shown[at(&range)] == model[at(&range)], "data outside of the ranges");
                    }
                    Step::Restart => {
                        blob = world.restarted().open("md-impexp-x", "c0ntainer", "abcd", &sas(), None).await.unwrap();
                    }
                }
            }
            assert!(bytes(&blob, 0..size).await == model);
            assert!(std::fs::read(world.staging()).unwrap() == model);
        });
    }
}
