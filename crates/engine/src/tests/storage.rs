//! The blob service through its doors, over a real database, real staging files and real content stores.

use super::{MIB, Server, disk_bytes};
use crate::blobs::{BlobError, Conditions};
use crate::provider::Context;
use crate::sources;
use crate::storage::{
    Access, Account, AppendConditions, BlobInfo, BlobKind, BlockChoice, Code, CopyOptions, DeleteSnapshots, Entry,
    LeaseAction, ListQuery, NewBlob, Place, Source, Storage, StorageError, Upload,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use lazuli_arm::ArmError;
use lazuli_disks::vhd::Footer;
use lazuli_meta::WriteError;
use lazuli_meta::model::{Change, Conflict, Write};
use serde_json::json;
use std::ops::Range;
use std::time::Duration;
use uuid::Uuid;

const ACCOUNT: &str = "acct1";

struct World {
    server: Server,
    account: Account,
}

pub(super) fn upload(bytes: &[u8]) -> Upload {
    // In pieces, as they come from a client.
    let pieces: Vec<_> = bytes.chunks(300_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Upload { bytes: stream::iter(pieces).boxed(), md5: Default::default() }
}

fn code<T: std::fmt::Debug>(result: Result<T, StorageError>) -> Code {
    result.unwrap_err().code().expect("a code of the blob service")
}

pub(super) async fn account(server: &Server, name: &str, location: &str) -> Account {
    let id = format!("{}/providers/Microsoft.Storage/storageAccounts/{name}", server.group).parse().unwrap();
    let body = json!({"location": location, "kind": "StorageV2", "sku": {"name": "Standard_LRS"}});
    server.engine.put(&server.call, &id, body).await.unwrap();
    server.engine.account_of_blobs(name).await.unwrap().unwrap()
}

fn vhd(disk: &[u8]) -> Vec<u8> {
    let footer = Footer::fixed(disk.len() as u64, Uuid::from_u128(7), 1_700_000_000).to_bytes();
    [disk, &footer].concat()
}

impl World {
    async fn start() -> Self {
        let server = Server::start_without_worker().await;
        let account = account(&server, ACCOUNT, "eastus").await;
        server.engine.storage().create_container(&account, "vhds", Default::default(), None).await.unwrap();
        Self { server, account }
    }

    fn storage(&self) -> &Storage {
        self.server.engine.storage()
    }

    fn at(&self, blob: &str) -> Place {
        Place { account: self.account.clone(), container: "vhds".into(), blob: blob.into(), snapshot: None }
    }

    async fn read(&self, at: &Place) -> Vec<u8> {
        let opened = self.storage().open(at, &Access::default()).await.unwrap();
        let size = opened.info.size;
        let pieces: Vec<Bytes> = opened.read(0..u64::MAX).try_collect().await.unwrap();
        let bytes = pieces.concat();
        assert_eq!(bytes.len() as u64, size);
        bytes
    }

    async fn page_blob(&self, name: &str, bytes: &[u8]) -> BlobInfo {
        let (storage, at, access) = (self.storage(), self.at(name), Access::default());
        storage.create_page_blob(&at, bytes.len() as u64, NewBlob::default(), &access).await.unwrap();
        for (n, piece) in bytes.chunks(1 << 20).enumerate() {
            if piece.iter().any(|b| *b != 0) {
                let piece = Bytes::copy_from_slice(piece);
                storage.put_pages(&at, n as u64 * MIB, piece, &access).await.unwrap();
            }
        }
        storage.properties(&at, &access).await.unwrap()
    }

    async fn found(&self, uri: &str, location: &str) -> Result<sources::FoundDisk, ArmError> {
        let cx = Context { engine: &self.server.engine, call: &self.server.call, now_ms: 0 };
        sources::blob(cx, uri, None, location).await
    }

    fn uri(&self, name: &str) -> String {
        format!("https://{ACCOUNT}.blob.core.windows.net/vhds/{name}?sv=x&sig=y")
    }
}

/// Between the decision and the commit nobody but the blob keeps the bytes: if it goes, so does what was decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_goes_before_the_commit_is_missed() {
    let w = World::start().await;
    w.page_blob("p.vhd", &vhd(&disk_bytes(4))).await;
    let found = w.found(&w.uri("p.vhd"), "eastus").await.unwrap();
    let write = || Write { fence: None, changes: found.references("/disk", "eastus") };
    w.server.engine.db().write(write()).await.unwrap();
    let held = w.server.engine.db().content_refs_of("/disk").await.unwrap();
    assert_eq!(held.len(), 1);
    w.server
        .engine
        .db()
        .write(Write { fence: None, changes: vec![Change::DeleteContentRef(held[0].clone())] })
        .await
        .unwrap();

    w.storage().delete(&w.at("p.vhd"), DeleteSnapshots::Include, &Access::default()).await.unwrap();
    crate::content::sweep(&w.server.engine, ["eastus".to_owned()]).await;
    let refused = w.server.engine.db().write(write()).await.unwrap_err();
    assert!(matches!(refused, WriteError::Conflict(Conflict::Missing { .. })), "{refused:?}");
    assert!(w.server.engine.db().content_refs_of("/disk").await.unwrap().is_empty());
    // Whoever decides anew is told.
    let import = json!({"createOption": "Import", "sourceUri": w.uri("p.vhd"), "storageAccountId": w.account.key});
    let body = json!({"location": "eastus", "properties": {"osType": "Linux", "creationData": import}});
    assert_eq!(w.server.put("disks/d1", body).await.unwrap_err().code, "BlobNotFound");
}

/// Mission MD-1, IV-3: an imported VHD costs no second copy, whether it lies in a page or a block blob.
#[tokio::test(flavor = "multi_thread")]
async fn a_vhd_in_a_blob_is_the_disk_without_its_footer() {
    let mut w = World::start().await;
    let disk = disk_bytes(3);
    let uploaded = vhd(&disk);
    w.page_blob("p.vhd", &uploaded).await;
    let found = w.found(&w.uri("p.vhd"), "eastus").await.unwrap();
    let base = found.base.clone().unwrap();
    assert_eq!((found.size_bytes, base.size_bytes), (disk.len() as u64, disk.len() as u64));
    assert!(w.server.stored("eastus", &base.manifest).await == disk);
    assert!(w.read(&w.at("p.vhd")).await == uploaded);

    let held = w.server.stored_bytes("eastus").await;
    let block = w.at("b.vhd");
    w.storage().put_block_blob(&block, upload(&uploaded), NewBlob::default(), &Access::default()).await.unwrap();
    let path_style = format!("{}/{ACCOUNT}/vhds%2Fb.vhd", w.server.call.urls.arm);
    let same = w.found(&path_style, "eastus").await.unwrap();
    assert_eq!((same.base, same.size_bytes), (found.base, found.size_bytes));
    assert_eq!(w.server.stored_bytes("eastus").await, held, "nothing was stored twice");
    // The same disk through the managed-disk door has the same manifest.
    w.server.run();
    w.server.uploaded("d", &disk).await;
    assert_eq!(w.server.internal("disks/d").await["base"]["manifest"], base.manifest.as_str());

    let refused = |uri: String, location: &'static str| {
        let w = &w;
        async move { w.found(&uri, location).await.unwrap_err() }
    };
    assert_eq!(refused(w.uri("p.vhd"), "westus").await.code, "InvalidParameter");
    assert_eq!(refused(w.uri("none.vhd"), "eastus").await.code, "BlobNotFound");
    assert_eq!(refused("https://example.com/acct1/vhds/p.vhd".into(), "eastus").await.code, "InvalidParameter");
    let other = "https://nosuch.blob.core.windows.net/vhds/p.vhd".to_owned();
    assert_eq!(refused(other, "eastus").await.code, "InvalidParameter");
    w.page_blob("raw.vhd", &disk).await;
    let error = refused(w.uri("raw.vhd"), "eastus").await;
    assert_eq!(error.code, "InvalidVhd");
    assert!(error.message.contains("'raw.vhd'") && error.message.contains("'conectix'"), "{}", error.message);
    assert!(!error.message.contains("sig="), "{}", error.message);
}

/// A write that was answered is there after the process died, at every stage of the blob.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_the_process() {
    let w = World::start().await;
    let access = Access::default();
    let mut expected = vec![0; 8 << 20];
    expected[4096..8192].fill(1);
    w.page_blob("p", &expected).await;
    w.storage().snapshot(&w.at("p"), None, &access).await.unwrap();
    // Over settled bytes now.
    w.storage().put_pages(&w.at("p"), 4608, vec![2; 512].into(), &access).await.unwrap();
    expected[4608..5120].fill(2);
    w.storage().clear_pages(&w.at("p"), 5120..5632, &access).await.unwrap();
    expected[5120..5632].fill(0);
    w.storage().create_append_blob(&w.at("a"), NewBlob::default(), &access).await.unwrap();
    for text in ["one,", "two,"] {
        let none = AppendConditions::default();
        w.storage().append_block(&w.at("a"), upload(text.as_bytes()), none, &access).await.unwrap();
    }
    w.storage().put_block(&w.at("b"), "AAAA", upload(b"block"), None).await.unwrap();
    let World { server, account } = w;
    let w = World { server: server.restart().await, account };
    assert!(w.read(&w.at("p")).await == expected);
    assert_eq!(w.read(&w.at("a")).await, b"one,two,");
    let list = [(BlockChoice::Latest, "AAAA".to_owned())];
    w.storage().put_block_list(&w.at("b"), &list, NewBlob::default(), &access).await.unwrap();
    assert_eq!(w.read(&w.at("b")).await, b"block");
    // Settled by the loop: nothing of it is left in files.
    let settled = async {
        loop {
            let staged = w.storage().found_staging().await;
            if staged.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settled).await.expect("idle blobs are settled");
    assert!(w.read(&w.at("p")).await == expected);
    assert_eq!(w.read(&w.at("a")).await, b"one,two,");
    let more = w.storage().append_block(&w.at("a"), upload(b"three"), AppendConditions::default(), &access).await;
    assert_eq!(more.unwrap().1, 8);
    assert_eq!(w.read(&w.at("a")).await, b"one,two,three");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_sizes_and_differences() {
    let w = World::start().await;
    let (storage, at, access) = (w.storage(), w.at("p"), Access::default());
    let create = |size| storage.create_page_blob(&at, size, NewBlob::default(), &access);
    assert!(matches!(create(1000).await, Err(StorageError::Blob(BlobError::SizeInvalid { .. }))));
    create(1 << 20).await.unwrap();
    let put = |offset: u64, byte: u8, len: usize| storage.put_pages(&at, offset, vec![byte; len].into(), &access);
    for (offset, len) in [(100, 512), (0, 100), (1 << 20, 512), (0, 0)] {
        let refused = put(offset, 1, len).await;
        assert!(matches!(refused, Err(StorageError::Blob(BlobError::PageRange { .. }))), "{offset}+{len}");
    }
    let first = put(0, 1, 4096).await.unwrap();
    assert_ne!(put(8192, 1, 512).await.unwrap().etag, first.etag);
    let ranges = storage.page_ranges(&at, 0..u64::MAX, None, &access).await.unwrap();
    assert_eq!(ranges.pages, [0..4096, 8192..8704]);
    let (before, _) = storage.snapshot(&at, None, &access).await.unwrap();
    put(512, 2, 512).await.unwrap();
    put(65536, 3, 512).await.unwrap();
    storage.clear_pages(&at, 8192..8704, &access).await.unwrap();
    let difference = |since: String| {
        let (storage, at, access) = (storage.clone(), at.clone(), access.clone());
        async move {
            let found = storage.page_ranges(&at, 0..u64::MAX, Some(&since), &access).await.unwrap();
            (found.pages, found.cleared)
        }
    };
    let cleared: Vec<Range<u64>> = std::iter::once(8192..8704).collect();
    let expected = (vec![512..1024, 65536..66048], cleared);
    assert_eq!(difference(before.clone()).await, expected);
    // After the next snapshot both sides are settled: compared byte by byte.
    let (second, _) = storage.snapshot(&at, None, &access).await.unwrap();
    assert!(second > before);
    assert_eq!(difference(before.clone()).await, expected);
    assert_eq!(difference(second).await, (vec![], vec![]));
    let old = Place { snapshot: Some(before.clone()), ..at.clone() };
    assert!(w.read(&old).await[..4096].iter().all(|b| *b == 1));
    assert_eq!(code(storage.page_ranges(&at, 0..1, Some("2001"), &access).await), Code::PreviousSnapshotNotFound);

    // What is cut off never comes back.
    storage.resize(&at, 32768, &access).await.unwrap();
    storage.resize(&at, 1 << 20, &access).await.unwrap();
    assert!(w.read(&at).await[32768..].iter().all(|b| *b == 0));
    let stale = Access { conditions: Conditions { if_match: Some(first.etag), ..Default::default() }, lease: None };
    let refused = storage.put_pages(&at, 0, vec![9; 512].into(), &stale).await;
    assert!(matches!(refused, Err(StorageError::Blob(BlobError::ConditionNotMet))));
    assert_eq!(code(storage.delete(&at, DeleteSnapshots::Refuse, &access).await), Code::SnapshotsPresent);
    storage.delete(&at, DeleteSnapshots::Include, &access).await.unwrap();
    assert_eq!(code(storage.open(&old, &access).await.map(|o| o.info.size)), Code::BlobNotFound);
}

/// 16 writers of different pages: every page is there, and the row was written under all of them.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_written_side_by_side() {
    let w = World::start().await;
    let at = w.at("p");
    w.storage().create_page_blob(&at, 1 << 20, NewBlob::default(), &Access::default()).await.unwrap();
    let writes = (0..64_u64).map(|n| {
        let (storage, at) = (w.storage().clone(), at.clone());
        async move {
            let byte = u8::try_from(n + 1).unwrap();
            storage.put_pages(&at, n * 512, vec![byte; 512].into(), &Access::default()).await.unwrap();
        }
    });
    stream::iter(writes).buffer_unordered(16).collect::<Vec<()>>().await;
    let bytes = w.read(&at).await;
    for n in 0..64_usize {
        assert!(bytes[n * 512..(n + 1) * 512].iter().all(|b| usize::from(*b) == n + 1), "page {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_become_a_blob() {
    let w = World::start().await;
    let (storage, at, access) = (w.storage(), w.at("b"), Access::default());
    assert_eq!(code(storage.put_block(&at, "no id!", upload(b"x"), None).await), Code::InvalidBlockId);
    for (id, text) in [("AAAA", "first,"), ("BBBB", "second,"), ("CCCC", "never")] {
        storage.put_block(&at, id, upload(text.as_bytes()), None).await.unwrap();
    }
    assert_eq!(code(storage.put_block(&at, "AA==", upload(b"x"), None).await), Code::InvalidBlobOrBlock);
    assert_eq!(code(storage.open(&at, &access).await.map(|o| o.info.size)), Code::BlobNotFound);
    let lists = storage.block_lists(&at, None).await.unwrap();
    assert_eq!((lists.committed.len(), lists.uncommitted.len()), (0, 3));
    let commit = |ids: &[(BlockChoice, &str)]| {
        let list: Vec<_> = ids.iter().map(|(choice, id)| (*choice, (*id).to_owned())).collect();
        let at = &at;
        async move { storage.put_block_list(at, &list, NewBlob::default(), &Access::default()).await }
    };
    use BlockChoice::{Committed, Latest, Uncommitted};
    assert_eq!(code(commit(&[(Committed, "AAAA")]).await), Code::InvalidBlockList);
    commit(&[(Latest, "BBBB"), (Uncommitted, "AAAA")]).await.unwrap();
    assert_eq!(w.read(&at).await, b"second,first,");
    let lists = storage.block_lists(&at, None).await.unwrap();
    assert_eq!((lists.committed.len(), lists.uncommitted.len()), (2, 0));
    storage.put_block(&at, "DDDD", upload(b"last"), None).await.unwrap();
    let done = commit(&[(Committed, "AAAA"), (Committed, "AAAA"), (Latest, "DDDD")]).await.unwrap();
    assert_eq!((done.kind, done.size), (BlobKind::Block, 16));
    assert_eq!(w.read(&at).await, b"first,first,last");
    // More than a sector and not made of whole ones.
    let long: Vec<u8> = (0..100_001_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let md5 = storage.put_block_blob(&at, upload(&long), NewBlob::default(), &access).await.unwrap();
    assert_eq!(md5.size, 100_001);
    assert!(w.read(&at).await == long);
    let failing = Upload {
        bytes: stream::iter([Ok(Bytes::from_static(b"x")), Err(std::io::Error::other("cut off"))]).boxed(),
        md5: Default::default(),
    };
    let refused = storage.put_block_blob(&at, failing, NewBlob::default(), &access).await;
    assert!(matches!(refused, Err(StorageError::Body(_))));
    assert!(w.read(&at).await == long, "a broken upload changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_share_their_bytes_and_cross_regions() {
    let w = World::start().await;
    let access = Access::default();
    let bytes = vhd(&disk_bytes(5));
    w.page_blob("p.vhd", &bytes).await;
    let (storage, source) = (w.storage(), Source::Blob(w.at("p.vhd")));
    let copy = |at: Place| {
        let (storage, source) = (storage.clone(), &source);
        async move { storage.copy(&at, source, CopyOptions::default(), &Access::default()).await.unwrap() }
    };
    let made = copy(w.at("copy.vhd")).await;
    assert_eq!(made.body.copy.unwrap().status, "success");
    let held = w.server.stored_bytes("eastus").await;
    assert!(w.read(&w.at("copy.vhd")).await == bytes);
    copy(w.at("p.vhd")).await;
    assert!(w.read(&w.at("p.vhd")).await == bytes, "a blob is copied onto itself");
    assert_eq!(w.server.stored_bytes("eastus").await, held);

    let far = account(&w.server, "farther", "westus").await;
    storage.create_container(&far, "vhds", Default::default(), None).await.unwrap();
    let there = Place { account: far, ..w.at("far.vhd") };
    let pending = copy(there.clone()).await;
    let id = pending.body.copy.unwrap().id;
    let arrived = async {
        while storage.properties(&there, &access).await.unwrap().body.copy.unwrap().status == "pending" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), arrived).await.expect("the copy arrives");
    assert!(w.read(&there).await == bytes);
    assert_eq!(code(storage.abort_copy(&there, &id, None).await), Code::NoPendingCopyOperation);
    // Deleting the source leaves its copies alone, also for the sweep.
    storage.delete(&w.at("p.vhd"), DeleteSnapshots::Refuse, &access).await.unwrap();
    crate::content::sweep(&w.server.engine, ["eastus".to_owned(), "westus".to_owned()]).await;
    assert!(w.read(&w.at("copy.vhd")).await == bytes);
    storage.delete(&w.at("copy.vhd"), DeleteSnapshots::Refuse, &access).await.unwrap();
    crate::content::sweep(&w.server.engine, ["eastus".to_owned()]).await;
    assert!(w.server.stored_bytes("eastus").await < MIB, "the bytes are gone with the last blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_keep_others_out() {
    let w = World::start().await;
    let (storage, at) = (w.storage(), w.at("p"));
    let none = Access::default();
    storage.create_page_blob(&at, 512, NewBlob::default(), &none).await.unwrap();
    let acquire = LeaseAction::Acquire { proposed: None, seconds: None };
    let (_, id, _) = storage.lease(&at, &acquire, &none).await.unwrap();
    let mine = Access { lease: id.clone(), ..Access::default() };
    let pages = || Bytes::from(vec![1; 512]);
    assert_eq!(code(storage.put_pages(&at, 0, pages(), &none).await), Code::LeaseIdMissing);
    assert_eq!(code(storage.delete(&at, DeleteSnapshots::Refuse, &none).await), Code::LeaseIdMissing);
    let create = storage.create_page_blob(&at, 512, NewBlob::default(), &none).await;
    assert_eq!(code(create), Code::LeaseIdMissing);
    storage.put_pages(&at, 0, pages(), &mine).await.unwrap();
    let wrong = Access { lease: Some(Uuid::new_v4().to_string()), ..Access::default() };
    let refused = storage.properties(&at, &wrong).await;
    assert_eq!(code(refused), Code::LeaseIdMismatchWithBlobOperation);
    storage.lease(&at, &LeaseAction::Release { id: id.unwrap() }, &none).await.unwrap();
    storage.put_pages(&at, 0, pages(), &none).await.unwrap();
    let (_, id, _) = storage.lease_container(&w.account, "vhds", &acquire, &none).await.unwrap();
    assert_eq!(code(storage.delete_container(&w.account, "vhds", &none).await), Code::LeaseIdMissing);
    let mine = Access { lease: id, ..Access::default() };
    storage.delete_container(&w.account, "vhds", &mine).await.unwrap();
    assert_eq!(code(storage.properties(&at, &none).await), Code::ContainerNotFound);
}

/// The same list, whatever the size of its parts.
#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_parts() {
    let w = World::start().await;
    let storage = w.storage();
    for name in ["a", "d/1", "d/2", "d/e/3", "d0", "z"] {
        storage.put_block_blob(&w.at(name), upload(b"x"), NewBlob::default(), &Access::default()).await.unwrap();
    }
    storage.snapshot(&w.at("a"), None, &Access::default()).await.unwrap();
    for (prefix, delimiter, snapshots, expected) in [
        ("", None, false, vec!["a", "d/1", "d/2", "d/e/3", "d0", "z"]),
        ("", None, true, vec!["a", "a", "d/1", "d/2", "d/e/3", "d0", "z"]),
        ("", Some("/"), false, vec!["a", "d/ ...", "d0", "z"]),
        ("d/", Some("/"), false, vec!["d/1", "d/2", "d/e/ ..."]),
        ("d", None, false, vec!["d/1", "d/2", "d/e/3", "d0"]),
        ("x", Some("/"), false, vec![]),
    ] {
        for max in [1, 2, 3, 100] {
            let mut query = ListQuery {
                prefix: prefix.into(),
                delimiter: delimiter.map(str::to_owned),
                max: Some(max),
                snapshots,
                marker: None,
            };
            let mut found = Vec::new();
            loop {
                let page = storage.list_blobs(&w.account, "vhds", &query).await.unwrap();
                assert!(page.entries.len() <= max);
                found.extend(page.entries.into_iter().map(|entry| match entry {
                    Entry::Blob(blob) => blob.name,
                    Entry::Prefix(prefix) => format!("{prefix} ..."),
                }));
                match page.next {
                    Some(next) => query.marker = Some(next),
                    None => break,
                }
            }
            assert_eq!(found, expected, "{prefix:?} {delimiter:?} {max}");
        }
    }
}

/// MD-1, MD-3: createOption Import of disks and snapshots.
#[tokio::test(flavor = "multi_thread")]
async fn disks_and_snapshots_are_imported_from_blobs() {
    let mut w = World::start().await;
    w.server.run();
    let disk = disk_bytes(9);
    w.page_blob("os.vhd", &vhd(&disk)).await;
    w.found(&w.uri("os.vhd"), "eastus").await.unwrap();
    let before = w.server.stored_bytes("eastus").await;
    let import = |location: &str, uri: String| {
        json!({"location": location, "properties": {"osType": "Linux",
            "creationData": {"createOption": "Import", "sourceUri": uri, "storageAccountId": w.account.key}}})
    };
    for tail in ["disks/d1", "snapshots/s1"] {
        let made = w.server.put(tail, import("eastus", w.uri("os.vhd"))).await.unwrap();
        let p = &made["properties"];
        assert_eq!((&p["diskSizeBytes"], &p["diskState"]), (&json!(disk.len()), &json!("Unattached")));
        let internal = w.server.internal(tail).await;
        assert!(w.server.stored("eastus", internal["base"]["manifest"].as_str().unwrap()).await == disk);
    }
    assert_eq!(w.server.stored_bytes("eastus").await, before, "shared with the blob");
    let error = w.server.put("disks/d2", import("westus", w.uri("os.vhd"))).await.unwrap_err();
    assert_eq!(error.code, "InvalidParameter");
}
