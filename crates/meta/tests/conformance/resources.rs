//! Resources and what hangs on them: expectations, lists, references, grants, the activity log.

use lazuli_meta::model::{
    AuditQuery, Change, Conflict, ContentRef, Expect, Grant, OperationState, Resource, RoleAssignment, Write,
};
use lazuli_meta::{MetaError, WriteError};
use serde_json::json;

use crate::harness::{Bench, audit, conflict, operation, put, resource, write};

fn exists(key: &str) -> Conflict {
    Conflict::Exists { key: key.to_owned() }
}

fn missing(key: &str) -> Conflict {
    Conflict::Missing { key: key.to_owned() }
}

fn etag(key: &str) -> Conflict {
    Conflict::Etag { key: key.to_owned() }
}

pub fn delete(key: &str, expect: Expect) -> Change {
    Change::DeleteResource { key: key.to_owned(), expect }
}

fn with_etag(key: &str, etag: &str) -> Resource {
    Resource { etag: etag.to_owned(), ..resource(key) }
}

fn at_etag(etag: &str) -> Expect {
    Expect::Etag(etag.to_owned())
}

pub async fn a_put_resource_is_read_back(bench: Bench) {
    let top = Resource { parent: None, ..resource("/subscriptions/s/resourcegroups/größe") };
    bench.put(top.clone()).await;
    bench.put(resource("/a/b")).await;
    assert_eq!(bench.db.resource(&top.key).await.unwrap(), Some(top));
    assert_eq!(bench.db.resource("/a/b").await.unwrap(), Some(resource("/a/b")));
    assert_eq!(bench.db.resource("/A/B").await.unwrap(), None);
}

pub async fn many_are_read_at_once(bench: Bench) {
    let keys: Vec<String> = (0..700).map(|n| format!("/many/{n}")).collect();
    for key in keys.iter().filter(|k| !k.ends_with('7')) {
        bench.put(resource(key)).await;
    }
    let mut found: Vec<String> = bench.db.resources_of(&keys).await.unwrap().into_iter().map(|r| r.key).collect();
    found.sort();
    let mut expected: Vec<String> = keys.into_iter().filter(|k| !k.ends_with('7')).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(bench.db.resources_of(&[]).await.unwrap(), []);
}

pub async fn expect_absent(bench: Bench) {
    bench.put(resource("/a")).await;
    assert_eq!(bench.refused([put(with_etag("/a", "e2"), Expect::Absent)]).await, exists("/a"));
    assert_eq!(bench.db.resource("/a").await.unwrap(), Some(resource("/a")));
}

pub async fn expect_etag(bench: Bench) {
    assert_eq!(bench.refused([put(resource("/a"), at_etag("e1"))]).await, missing("/a"));
    bench.put(resource("/a")).await;
    assert_eq!(bench.refused([put(with_etag("/a", "e3"), at_etag("e2"))]).await, etag("/a"));
    bench.db.write(write([put(with_etag("/a", "e2"), at_etag("e1"))])).await.unwrap();
    assert_eq!(bench.db.resource("/a").await.unwrap(), Some(with_etag("/a", "e2")));
    assert_eq!(bench.refused([put(with_etag("/a", "e2"), at_etag("e1"))]).await, etag("/a"));
}

pub async fn expect_present(bench: Bench) {
    assert_eq!(bench.refused([put(resource("/a"), Expect::Present)]).await, missing("/a"));
    bench.put(resource("/a")).await;
    let changed = Resource {
        created_ms: 77,
        changed_ms: 5,
        name: "N".to_owned(),
        location: "westus".to_owned(),
        provisioning_state: "Updating".to_owned(),
        body: json!({"v": 2}),
        internal: json!([1]),
        ..with_etag("/a", "e2")
    };
    bench.db.write(write([put(changed.clone(), Expect::Present)])).await.unwrap();
    assert_eq!(bench.db.resource("/a").await.unwrap(), Some(Resource { created_ms: 1, ..changed }));
}

pub async fn expect_any_keeps_the_creation_time(bench: Bench) {
    let first = Resource { created_ms: 10, changed_ms: 10, ..resource("/a") };
    bench.db.write(write([put(first.clone(), Expect::Any)])).await.unwrap();
    assert_eq!(bench.db.resource("/a").await.unwrap(), Some(first));
    let second = Resource { created_ms: 20, changed_ms: 20, kind: "k".to_owned(), ..with_etag("/a", "e2") };
    bench.db.write(write([put(second.clone(), Expect::Any)])).await.unwrap();
    assert_eq!(bench.db.resource("/a").await.unwrap(), Some(Resource { created_ms: 10, ..second }));
}

pub async fn deletes(bench: Bench) {
    assert_eq!(bench.refused([delete("/a", Expect::Present)]).await, missing("/a"));
    assert_eq!(bench.refused([delete("/a", at_etag("e1"))]).await, missing("/a"));
    bench.db.write(write([delete("/a", Expect::Any)])).await.unwrap();
    for expect in [Expect::Any, Expect::Present, at_etag("e1")] {
        bench.put(resource("/a")).await;
        assert_eq!(bench.refused([delete("/a", at_etag("old"))]).await, etag("/a"));
        bench.db.write(write([delete("/a", expect)])).await.unwrap();
        assert_eq!(bench.db.resource("/a").await.unwrap(), None);
    }
}

pub async fn requires(bench: Bench) {
    let require = || Change::RequireResource { key: "/a".to_owned() };
    assert_eq!(bench.refused([require(), put(resource("/a/b"), Expect::Absent)]).await, missing("/a"));
    bench.put(resource("/a")).await;
    bench.db.write(write([require(), put(resource("/a/b"), Expect::Absent)])).await.unwrap();
    let deleting = Resource { provisioning_state: "Deleting".to_owned(), ..resource("/a") };
    bench.db.write(write([put(deleting, Expect::Present)])).await.unwrap();
    let refused = bench.refused([require(), put(resource("/a/c"), Expect::Absent)]).await;
    assert_eq!(refused, Conflict::Deleting { key: "/a".to_owned() });
    // Within one write, what was done before is seen.
    bench
        .db
        .write(write([put(resource("/z"), Expect::Absent), Change::RequireResource { key: "/z".into() }]))
        .await
        .unwrap();
}

pub async fn children_block_a_deletion(bench: Bench) {
    bench.put(resource("/a")).await;
    let remove = || [Change::RequireNoChildren { key: "/a".to_owned() }, delete("/a", Expect::Present)];
    for n in 0..12 {
        bench.put(resource(&format!("/a/{n:02}"))).await;
        bench.put(resource(&format!("/a/{n:02}/grandchild"))).await;
    }
    let named = (0..10).map(|n| format!("/A/{n:02}")).collect();
    assert_eq!(bench.refused(remove()).await, Conflict::HasChildren { key: "/a".to_owned(), children: named });
    assert_eq!(bench.db.children("/a", 5).await.unwrap().len(), 5);
    assert_eq!(bench.db.children("/a", 1000).await.unwrap().len(), 12);
    assert_eq!(bench.db.children("/a/03", 1000).await.unwrap(), [resource("/a/03/grandchild")]);
    bench.db.write(write((0..12).map(|n| delete(&format!("/a/{n:02}"), Expect::Present)))).await.unwrap();
    bench.db.write(write(remove())).await.unwrap();
    assert_eq!(bench.db.resource("/a").await.unwrap(), None);
    // Nothing is asked of a parent that is not there.
    bench.db.write(write([Change::RequireNoChildren { key: "/a".to_owned() }])).await.unwrap();
}

pub async fn a_write_that_fails_half_way_changes_nothing(bench: Bench) {
    bench.put(resource("/kept")).await;
    let content = ContentRef { resource_key: "/a".into(), region: "eastus".into(), manifest: "m".into() };
    let assignment = RoleAssignment {
        id: "ra".into(),
        scope: "/".into(),
        role: "owner".into(),
        principal: "p".into(),
        body: json!({}),
    };
    let changes = vec![
        put(resource("/a"), Expect::Absent),
        delete("/kept", Expect::Present),
        Change::StartOperation(operation("op", "k")),
        Change::Audit(audit("au", 1)),
        Change::PutContentRef(content),
        Change::PutGrant(grant("g", "/a", 1)),
        Change::PutRoleAssignment(assignment),
        Change::RequireResource { key: "/missing".to_owned() },
    ];
    assert_eq!(bench.refused(changes.clone()).await, missing("/missing"));
    assert_eq!(bench.db.resource("/a").await.unwrap(), None);
    assert!(bench.db.resource("/kept").await.unwrap().is_some());
    assert_eq!(bench.db.operation("op").await.unwrap(), None);
    assert_eq!(bench.db.audit(&AuditQuery::default()).await.unwrap(), []);
    assert_eq!(bench.db.content_refs("eastus").await.unwrap(), []);
    assert_eq!(bench.db.grant("g").await.unwrap(), None);
    assert_eq!(bench.db.role_assignments(None, None).await.unwrap(), []);
    // The same changes without the failing one are all made, so the test above looked at the right places.
    bench.db.write(write(changes.into_iter().take(7))).await.unwrap();
    assert!(bench.db.resource("/a").await.unwrap().is_some());
    assert_eq!(bench.db.resource("/kept").await.unwrap(), None);
    assert!(bench.db.operation("op").await.unwrap().is_some());
    assert_eq!(bench.db.audit(&AuditQuery::default()).await.unwrap().len(), 1);
    assert_eq!(bench.db.content_refs("eastus").await.unwrap().len(), 1);
    assert!(bench.db.grant("g").await.unwrap().is_some());
    assert_eq!(bench.db.role_assignments(None, None).await.unwrap().len(), 1);
}

pub async fn content_references(bench: Bench) {
    let content = |key: &str, region: &str, manifest: &str| ContentRef {
        resource_key: key.to_owned(),
        region: region.to_owned(),
        manifest: manifest.to_owned(),
    };
    let all = [
        content("/a", "eastus", "m1"),
        content("/a", "westus", "m1"),
        content("/b", "eastus", "m1"),
        content("/b", "eastus", "m2"),
    ];
    // Twice is once.
    bench.db.write(write(all.clone().map(Change::PutContentRef))).await.unwrap();
    bench.db.write(write(all.clone().map(Change::PutContentRef))).await.unwrap();
    let [a_east, a_west, b_east, b_second] = all;
    assert_eq!(bench.db.content_refs("eastus").await.unwrap(), [a_east.clone(), b_east.clone(), b_second.clone()]);
    assert_eq!(bench.db.content_manifests("eastus").await.unwrap(), ["m1", "m2"]);
    assert_eq!(bench.db.content_refs_of("/a").await.unwrap(), [a_east.clone(), a_west.clone()]);
    let (below, beside) = (content("/a/below", "eastus", "m3"), content("/ab", "eastus", "m3"));
    bench.db.write(write([below.clone(), beside.clone()].map(Change::PutContentRef))).await.unwrap();
    assert_eq!(bench.db.content_refs_below("/a").await.unwrap(), [a_east.clone(), below.clone(), a_west.clone()]);
    bench.db.write(write([below, beside].map(Change::DeleteContentRef))).await.unwrap();
    bench.db.write(write([Change::DeleteContentRef(a_east)])).await.unwrap();
    assert_eq!(bench.db.content_refs_of("/a").await.unwrap(), std::slice::from_ref(&a_west));
    assert_eq!(bench.db.content_manifests("eastus").await.unwrap(), ["m1", "m2"]);
    bench.db.write(write([Change::DeleteContentRefs { resource_key: "/b".to_owned() }])).await.unwrap();
    assert_eq!(bench.db.content_manifests("eastus").await.unwrap(), Vec::<String>::new());
    assert_eq!(bench.db.content_refs("westus").await.unwrap(), [a_west]);
}

fn grant(id: &str, key: &str, expires_ms: i64) -> Grant {
    Grant {
        id: id.to_owned(),
        resource_key: key.to_owned(),
        access: "Write".to_owned(),
        account: format!("md-{id}"),
        container: "c".to_owned(),
        secret: "s".to_owned(),
        expires_ms,
        detail: json!({"size": 1}),
    }
}

pub async fn grants(bench: Bench) {
    let changes = [grant("1", "/a", 30), grant("2", "/a", 10), grant("3", "/b", 20)].map(Change::PutGrant);
    bench.db.write(write(changes)).await.unwrap();
    assert_eq!(bench.db.grant("1").await.unwrap(), Some(grant("1", "/a", 30)));
    assert_eq!(bench.db.grant_by_account("md-3").await.unwrap(), Some(grant("3", "/b", 20)));
    assert_eq!(bench.db.grant_by_account("md-4").await.unwrap(), None);
    assert_eq!(bench.db.grants_of("/a").await.unwrap(), [grant("1", "/a", 30), grant("2", "/a", 10)]);
    assert_eq!(bench.db.expired_grants(9).await.unwrap(), []);
    assert_eq!(bench.db.expired_grants(20).await.unwrap(), [grant("2", "/a", 10), grant("3", "/b", 20)]);
    // A new id may not take an account; the same id may change.
    let thief = Grant { account: "md-1".to_owned(), ..grant("9", "/b", 1) };
    assert_eq!(bench.refused([Change::PutGrant(thief)]).await, exists("md-1"));
    let later = Grant { detail: json!({"size": 2}), ..grant("1", "/a", 99) };
    bench.db.write(write([Change::PutGrant(later.clone())])).await.unwrap();
    assert_eq!(bench.db.grant("1").await.unwrap(), Some(later));
    bench.db.write(write([Change::DeleteGrant { id: "3".to_owned() }])).await.unwrap();
    assert_eq!(bench.db.grant("3").await.unwrap(), None);
    bench.db.write(write([Change::DeleteGrantsOf { resource_key: "/a".to_owned() }])).await.unwrap();
    assert_eq!(bench.db.grants_of("/a").await.unwrap(), []);
}

pub async fn audit_lines(bench: Bench) {
    let mut other = audit("5", 50);
    other.subscription = "other".to_owned();
    other.resource_key = "/a/b".to_owned();
    let lines = [audit("1", 10), audit("2", 20), audit("3", 20), audit("4", 40), other];
    bench.db.write(write(lines.clone().map(Change::Audit))).await.unwrap();
    assert_eq!(bench.refused([Change::Audit(audit("1", 99))]).await, exists("1"));
    let list = async |query: AuditQuery| {
        let found = bench.db.audit(&query).await.unwrap();
        found.into_iter().map(|line| line.id).collect::<Vec<_>>().join(" ")
    };
    let any = AuditQuery::default;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(list(any()).await, "5 4 3 2 1");
    assert_eq!(bench.db.audit_line("2").await.unwrap(), Some(lines[1].clone()));
    assert_eq!(bench.db.audit_line("6").await.unwrap(), None);
    assert_eq!(list(AuditQuery { subscription: some("sub"), ..any() }).await, "4 3 2 1");
    assert_eq!(list(AuditQuery { resource_key: some("/a/b"), ..any() }).await, "5");
    assert_eq!(list(AuditQuery { under: some("/a"), ..any() }).await, "5");
    assert_eq!(list(AuditQuery { since_ms: Some(20), ..any() }).await, "5 4 3 2");
    assert_eq!(list(AuditQuery { limit: Some(2), ..any() }).await, "5 4");
    assert_eq!(list(AuditQuery { before: Some((20, "3".to_owned())), ..any() }).await, "2 1");
    assert_eq!(bench.db.audit(&AuditQuery { limit: Some(1), ..any() }).await.unwrap(), [lines[4].clone()]);
    assert_eq!(bench.db.purge_audit(40, 2).await.unwrap(), 2);
    assert_eq!(list(any()).await, "5 4 3");
    assert_eq!(bench.db.purge_audit(40, 100).await.unwrap(), 1);
    assert_eq!(list(any()).await, "5 4");
}

pub async fn writes_that_make_no_sense_are_refused(bench: Bench) {
    let invalid = async |change: Change| match bench.db.write(write([change])).await {
        Err(WriteError::Db(MetaError::Invalid(why))) => why,
        other => panic!("{other:?}"),
    };
    let upper = Resource { key: "/A".to_owned(), sort_key: "/A".to_owned(), ..resource("/a") };
    assert!(invalid(put(upper, Expect::Any)).await.contains("lower case"));
    let upper = Resource { parent: Some("/P".to_owned()), ..resource("/a") };
    assert!(invalid(put(upper, Expect::Any)).await.contains("lower case"));
    for sort_key in ["", "/b/1"] {
        let stray = Resource { sort_key: sort_key.to_owned(), ..resource("/a/1") };
        assert!(invalid(put(stray, Expect::Any)).await.contains("in order"), "{sort_key}");
    }
    assert!(invalid(delete("/a", Expect::Absent)).await.contains("absent"));
    let mut started = operation("op", "k");
    started.state = OperationState::Failed;
    assert!(invalid(Change::StartOperation(started)).await.contains("cannot start"));
    let zero = Resource { name: "a\0b".to_owned(), ..resource("/a") };
    assert!(invalid(put(zero, Expect::Any)).await.contains("zero character"));
    let end = |state| Change::EndOperation { id: "op".to_owned(), state, output: None, error: None };
    assert!(invalid(end(OperationState::Running)).await.contains("cannot end"));
    let unfenced = Conflict::Fenced { operation: "op".to_owned() };
    assert_eq!(bench.refused([end(OperationState::Failed)]).await, unfenced);
    let step = Change::PutStep { operation: "op".to_owned(), step: "s".to_owned(), output: json!(1) };
    assert_eq!(bench.refused([step.clone()]).await, unfenced);
    // Another operation's fence is none.
    bench.start("mine", "k").await;
    let claimed = bench.claim().await;
    let foreign = Write { fence: Some((claimed.id, claimed.fence)), changes: vec![step] };
    assert_eq!(conflict(bench.db.write(foreign).await), unfenced);
    bench.db.write(Write::default()).await.unwrap();
}

pub async fn everything_survives_a_restart(bench: Bench) {
    let content = ContentRef { resource_key: "/a".into(), region: "eastus".into(), manifest: "m".into() };
    let changes = [
        put(resource("/a"), Expect::Absent),
        Change::StartOperation(operation("op", "k")),
        Change::Audit(audit("au", 1)),
        Change::PutContentRef(content.clone()),
        Change::PutGrant(grant("g", "/a", 1)),
    ];
    bench.db.write(write(changes)).await.unwrap();
    let claimed = bench.claim().await;
    let step = Change::PutStep { operation: claimed.id.clone(), step: "ids".to_owned(), output: json!({"id": 7}) };
    bench.db.write(crate::harness::fenced(&claimed, [step])).await.unwrap();
    bench.db.put_setting("key", "value", true).await.unwrap();
    bench.db.close().await;
    assert!(matches!(bench.db.ping().await, Err(MetaError::Unreachable(_))));
    assert!(matches!(
        bench.db.write(write([delete("/a", Expect::Any)])).await,
        Err(WriteError::Db(MetaError::Unreachable(_)))
    ));

    let db = bench.another().await;
    db.ping().await.unwrap();
    assert_eq!(db.resource("/a").await.unwrap(), Some(resource("/a")));
    assert_eq!(db.operation("op").await.unwrap(), Some(claimed));
    assert_eq!(db.steps("op").await.unwrap(), [("ids".to_owned(), json!({"id": 7}))]);
    assert_eq!(db.audit(&AuditQuery::default()).await.unwrap(), [audit("au", 1)]);
    assert_eq!(db.content_refs("eastus").await.unwrap(), [content]);
    assert_eq!(db.grant("g").await.unwrap(), Some(grant("g", "/a", 1)));
    assert_eq!(db.setting("key").await.unwrap().as_deref(), Some("value"));
}
