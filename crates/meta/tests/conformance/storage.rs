//! Containers, blobs and block lists of storage accounts.

use lazuli_meta::model::{Blob, BlobQuery, BlobState, Change, Conflict, Container, ContainerQuery, ContentRef, Expect};
use serde_json::json;

use crate::harness::{Bench, START_MS, write};

fn container(name: &str, revision: &str) -> Container {
    Container {
        account: "acct".to_owned(),
        name: name.to_owned(),
        id: format!("id of {name}"),
        etag: "0x1".to_owned(),
        revision: revision.to_owned(),
        created_ms: START_MS,
        modified_ms: START_MS + 1,
        body: json!({"metadata": {"a": "b"}}),
    }
}

fn blob(name: &str, snapshot: Option<&str>) -> Blob {
    Blob {
        account: "acct".to_owned(),
        container: "c".to_owned(),
        name: name.to_owned(),
        snapshot: snapshot.map(str::to_owned),
        id: format!("{name}{}", snapshot.unwrap_or_default()),
        kind: "BlockBlob".to_owned(),
        size: i64::MAX,
        state: BlobState::Stored,
        etag: "0x1".to_owned(),
        revision: "r1".to_owned(),
        created_ms: START_MS,
        modified_ms: START_MS,
        body: json!({"tier": "Hot"}),
        content: json!({"manifest": null}),
    }
}

fn put(blob: Blob, expect: Expect) -> Change {
    Change::PutBlob { blob, expect }
}

async fn names(bench: &Bench, query: BlobQuery) -> Vec<(String, Option<String>)> {
    let query = BlobQuery { account: "acct".to_owned(), container: "c".to_owned(), ..query };
    bench.db.blobs(&query).await.unwrap().into_iter().map(|b| (b.name, b.snapshot)).collect()
}

pub async fn containers(bench: Bench) {
    let put = |container, expect| Change::PutContainer { container, expect };
    for name in ["b", "a-b", "a", "ab"] {
        bench.db.write(write([put(container(name, "r1"), Expect::Absent)])).await.unwrap();
    }
    let other = Container { account: "other".to_owned(), ..container("z", "r1") };
    bench.db.write(write([put(other, Expect::Absent)])).await.unwrap();
    assert_eq!(bench.db.container("acct", "a").await.unwrap(), Some(container("a", "r1")));
    assert_eq!(bench.db.container("acct", "z").await.unwrap(), None);
    let list = |prefix: Option<&str>, after: Option<&str>, limit| ContainerQuery {
        account: "acct".to_owned(),
        prefix: prefix.map(str::to_owned),
        after: after.map(str::to_owned),
        limit,
    };
    for (query, expected) in [
        (list(None, None, None), vec!["a", "a-b", "ab", "b"]),
        (list(Some("a"), None, None), vec!["a", "a-b", "ab"]),
        (list(Some("a"), Some("a"), Some(1)), vec!["a-b"]),
        (list(Some("c"), None, None), vec![]),
    ] {
        let found = bench.db.containers(&query).await.unwrap();
        assert_eq!(found.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), expected, "{query:?}");
    }
    let key = "acct/a".to_owned();
    let exists = bench.refused([put(container("a", "r2"), Expect::Absent)]).await;
    assert_eq!(exists, Conflict::Exists { key: key.clone() });
    let stale = bench.refused([put(container("a", "r2"), Expect::Etag("r0".to_owned()))]).await;
    assert_eq!(stale, Conflict::Etag { key: key.clone() });
    bench.db.write(write([put(container("a", "r2"), Expect::Etag("r1".to_owned()))])).await.unwrap();
    let gone = Change::DeleteContainer { account: "acct".to_owned(), name: "a".to_owned(), expect: Expect::Present };
    bench.db.write(write([gone.clone()])).await.unwrap();
    assert_eq!(bench.refused([gone]).await, Conflict::Missing { key });
}

pub async fn blobs_and_their_lists(bench: Bench) {
    let rows =
        [blob("b/1", None), blob("b/1", Some("2020")), blob("b/1", Some("2019")), blob("a", None), blob("b0", None)];
    for row in &rows {
        bench.db.write(write([put(row.clone(), Expect::Absent)])).await.unwrap();
    }
    for row in rows {
        let found = bench.db.blob("acct", "c", &row.name, row.snapshot.as_deref()).await.unwrap();
        assert_eq!(found, Some(row));
    }
    let row = |name: &str, snapshot: Option<&str>| (name.to_owned(), snapshot.map(str::to_owned));
    let all = [row("a", None), row("b/1", Some("2019")), row("b/1", Some("2020")), row("b/1", None), row("b0", None)];
    let with = || BlobQuery { snapshots: true, ..BlobQuery::default() };
    assert_eq!(names(&bench, with()).await, all);
    assert_eq!(names(&bench, BlobQuery::default()).await, [row("a", None), row("b/1", None), row("b0", None)]);
    assert_eq!(
        names(&bench, BlobQuery { prefix: Some("b/".into()), ..BlobQuery::default() }).await,
        [row("b/1", None)]
    );
    assert_eq!(names(&bench, BlobQuery { name: Some("b/1".into()), ..with() }).await, all[1..4]);
    for at in 0..all.len() {
        let page = names(&bench, BlobQuery { after: Some(all[at].clone()), limit: Some(2), ..with() }).await;
        assert_eq!(page, all[at + 1..(at + 3).min(all.len())]);
    }
    assert_eq!(names(&bench, BlobQuery { after_prefix: Some("b/".into()), ..with() }).await, [row("b0", None)]);
}

pub async fn blobs_are_expected(bench: Bench) {
    let key = "acct/c/a".to_owned();
    assert_eq!(bench.refused([put(blob("a", None), Expect::Present)]).await, Conflict::Missing { key: key.clone() });
    bench.db.write(write([put(blob("a", None), Expect::Absent)])).await.unwrap();
    assert_eq!(bench.refused([put(blob("a", None), Expect::Absent)]).await, Conflict::Exists { key: key.clone() });
    let next = Blob { revision: "r2".to_owned(), etag: "0x2".to_owned(), state: BlobState::Staged, ..blob("a", None) };
    let old = || Expect::Etag("r1".to_owned());
    bench.db.write(write([put(next.clone(), old())])).await.unwrap();
    assert_eq!(bench.refused([put(next.clone(), old())]).await, Conflict::Etag { key });
    assert_eq!(bench.db.unsettled_blobs(BlobState::Staged, START_MS).await.unwrap(), [next]);
    assert_eq!(bench.db.unsettled_blobs(BlobState::Staged, START_MS - 1).await.unwrap(), []);
    assert_eq!(bench.db.unsettled_blobs(BlobState::Copying, START_MS).await.unwrap(), []);
    let snapshot = "acct/c/a?snapshot=2020".to_owned();
    let delete = |snapshot: Option<&str>| Change::DeleteBlob {
        account: "acct".to_owned(),
        container: "c".to_owned(),
        name: "a".to_owned(),
        snapshot: snapshot.map(str::to_owned),
        expect: Expect::Present,
    };
    assert_eq!(bench.refused([delete(Some("2020"))]).await, Conflict::Missing { key: snapshot });
    bench.db.write(write([delete(None)])).await.unwrap();
    assert_eq!(bench.db.blob("acct", "c", "a", None).await.unwrap(), None);
}

pub async fn a_container_takes_its_blobs_along(bench: Bench) {
    let blocks = |id: &str| Change::PutBlockList {
        blob: id.to_owned(),
        account: "acct".to_owned(),
        container: "c".to_owned(),
        blocks: json!([{"id": "AA==", "size": 1}]),
    };
    let content =
        |key: &str| ContentRef { resource_key: key.to_owned(), region: "eastus".to_owned(), manifest: "m".to_owned() };
    let require =
        |id: &str| Change::RequireContainer { account: "acct".to_owned(), name: "c".to_owned(), id: id.to_owned() };
    bench
        .db
        .write(write([
            Change::PutContainer { container: container("c", "r1"), expect: Expect::Absent },
            require("id of c"),
            put(blob("a", None), Expect::Absent),
            blocks("a"),
            put(blob("b", None), Expect::Absent),
            blocks("b"),
            Change::PutContentRef(content("/acct/c")),
            Change::PutContentRef(content("/acct/c/a")),
            Change::PutContentRef(content("/acct/c0")),
        ]))
        .await
        .unwrap();
    bench.db.write(write([Change::RequireContentRef(content("/acct/c/a"))])).await.unwrap();
    let missing = bench.refused([Change::RequireContentRef(content("/acct/c/b"))]).await;
    assert_eq!(missing, Conflict::Missing { key: "/acct/c/b".to_owned() });
    assert_eq!(bench.refused([require("another")]).await, Conflict::Missing { key: "acct/c".to_owned() });
    assert_eq!(bench.db.block_list("a").await.unwrap(), Some(json!([{"id": "AA==", "size": 1}])));
    let gone = Change::DeleteBlob {
        account: "acct".to_owned(),
        container: "c".to_owned(),
        name: "a".to_owned(),
        snapshot: None,
        expect: Expect::Present,
    };
    bench.db.write(write([gone])).await.unwrap();
    assert_eq!(bench.db.block_list("a").await.unwrap(), None);
    let gone = Change::DeleteContainer { account: "acct".to_owned(), name: "c".to_owned(), expect: Expect::Present };
    bench.db.write(write([gone, Change::DeleteContentRefsBelow { key: "/acct/c".to_owned() }])).await.unwrap();
    assert_eq!(bench.db.block_list("b").await.unwrap(), None);
    assert_eq!(names(&bench, BlobQuery::default()).await, []);
    let left: Vec<_> = bench.db.content_refs("eastus").await.unwrap().into_iter().map(|r| r.resource_key).collect();
    assert_eq!(left, ["/acct/c", "/acct/c0"]);
    bench.db.write(write([put(blob("x", None), Expect::Absent)])).await.unwrap();
    bench.db.write(write([Change::DeleteAccountData { account: "acct".to_owned() }])).await.unwrap();
    assert_eq!(names(&bench, BlobQuery::default()).await, []);
}
