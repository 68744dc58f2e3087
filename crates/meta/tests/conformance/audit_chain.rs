//! The chain of the activity log: whatever is done to it past the server is named.

use lazuli_meta::model::{Audit, AuditQuery, Change};
use lazuli_meta::{BrokenChain, ChainAnchor, ChainKey, ChainReport, Db};
use tokio::task::JoinSet;

use crate::harness::{Bench, audit, write};
use crate::schema::execute;

const CHAIN: &str = "/subscriptions/sub";

fn chained(db: &Db) -> Db {
    db.clone().with_audit_chain(ChainKey::new([1; 32]), true)
}

/// Lines 1 to 6, a second apart.
async fn six(bench: &Bench) -> Db {
    let db = chained(&bench.db);
    for n in 1..=6 {
        db.write(write([Change::Audit(audit(&n.to_string(), n * 1000))])).await.unwrap();
    }
    db
}

async fn report(db: &Db, anchors: &[ChainAnchor]) -> ChainReport {
    let found = db.verify_audit(anchors).await.unwrap();
    found.into_iter().find(|r| r.chain == CHAIN).expect("the chain")
}

async fn broken(db: &Db) -> Option<BrokenChain> {
    report(db, &[]).await.broken
}

pub async fn what_is_written_is_linked(bench: Bench) {
    assert!(bench.db.verify_audit(&[]).await.is_err(), "without a key nothing is verified");
    bench.db.write(write([Change::Audit(audit("before", 1))])).await.unwrap();
    assert!(!bench.db.has_audit_chains().await.unwrap());
    let db = six(&bench).await;
    let about_no_subscription = Audit { subscription: String::new(), ..audit("d", 7000) };
    db.write(write([Change::Audit(about_no_subscription)])).await.unwrap();
    assert!(bench.another().await.has_audit_chains().await.unwrap());
    let found = db.verify_audit(&[]).await.unwrap();
    let shown: Vec<_> = found.iter().map(|r| (r.chain.as_str(), r.n, r.broken.clone())).collect();
    assert_eq!(shown, [(CHAIN, 6, None), ("/tenants/t", 1, None)]);
    // A write that fails lengthens nothing.
    let twice = [Change::Audit(audit("7", 1)), Change::Audit(audit("6", 1))];
    assert!(db.write(write(twice)).await.is_err());
    assert_eq!(report(&db, &[]).await, found[0]);
    // Another key's holder sees that the chain is not its own.
    let other = bench.db.clone().with_audit_chain(ChainKey::new([2; 32]), true);
    assert_eq!(broken(&other).await, Some(BrokenChain::Changed { n: 1, id: "1".into() }));
}

pub async fn what_was_done_to_lines_is_named(bench: Bench) {
    let db = six(&bench).await;
    let changed = |n: i64| Some(BrokenChain::Changed { n, id: n.to_string() });
    execute(&bench, "UPDATE audit SET principal = 'q' WHERE id = '4'").await;
    assert_eq!(broken(&db).await, changed(4));
    execute(&bench, "UPDATE audit SET principal = 'p' WHERE id = '4'").await;
    assert_eq!(broken(&db).await, None);
    execute(&bench, "UPDATE audit SET detail = '{\"id\": \"3\" }' WHERE id = '3'").await;
    assert_eq!(broken(&db).await, changed(3), "the stored text counts");
    execute(&bench, "UPDATE audit SET detail = '{\"id\":\"3\"}' WHERE id = '3'").await;
    assert_eq!(broken(&db).await, None);
    // Past the chain.
    bench.db.write(write([Change::Audit(audit("forged", 2500))])).await.unwrap();
    assert_eq!(broken(&db).await, Some(BrokenChain::Unlinked { id: "forged".into() }));
    execute(&bench, "UPDATE audit SET chain = '/subscriptions/sub', n = 7, link = '00' WHERE id = 'forged'").await;
    execute(&bench, "UPDATE audit_chains SET n = 7, link = '00'").await;
    assert_eq!(broken(&db).await, Some(BrokenChain::Changed { n: 7, id: "forged".into() }));
    execute(&bench, "DELETE FROM audit WHERE id = 'forged'").await;
    assert_eq!(broken(&db).await, Some(BrokenChain::End { n: 7 }));
    execute(&bench, "DELETE FROM audit WHERE id = '2'").await;
    assert_eq!(broken(&db).await, Some(BrokenChain::Missing { n: 2 }));
    // As if the server had forgotten them.
    execute(&bench, "UPDATE audit_chains SET purged_n = 2, purged_link = (SELECT link FROM audit WHERE id = '1')")
        .await;
    assert_eq!(broken(&db).await, Some(BrokenChain::Purged { n: 2 }));
}

/// Whoever has no key can shorten a chain, unless its end was written down.
pub async fn an_end_that_was_written_down_holds_the_chain(bench: Bench) {
    let db = six(&bench).await;
    let end = report(&db, &[]).await;
    let anchor = |n: i64, link: &str| ChainAnchor { chain: CHAIN.into(), n, link: link.into() };
    let kept = [anchor(end.n, &end.link)];
    db.write(write([Change::Audit(audit("7", 7000))])).await.unwrap();
    assert_eq!(report(&db, &kept).await.broken, None);
    assert_eq!(report(&db, &[anchor(6, "00")]).await.broken, Some(BrokenChain::Anchor { n: 6 }));
    execute(&bench, "UPDATE audit_chains SET n = 5, link = (SELECT link FROM audit WHERE id = '5')").await;
    execute(&bench, "DELETE FROM audit WHERE id IN ('6', '7')").await;
    assert_eq!(broken(&db).await, None);
    assert_eq!(report(&db, &kept).await.broken, Some(BrokenChain::Anchor { n: 6 }));
    execute(&bench, "DELETE FROM audit_chains").await;
    assert_eq!(report(&db, &kept).await.broken, Some(BrokenChain::Gone));
}

pub async fn the_server_forgets_from_the_beginning(bench: Bench) {
    let db = six(&bench).await;
    let end = report(&db, &[]).await;
    // One that is older than what was linked before it stays until those go.
    db.write(write([Change::Audit(audit("late", 500))])).await.unwrap();
    assert_eq!(bench.db.purge_audit(3000, 100).await.unwrap(), 0, "without the key");
    assert_eq!(db.purge_audit(3000, 1).await.unwrap(), 1);
    assert_eq!(db.purge_audit(3000, 100).await.unwrap(), 1);
    assert_eq!(db.purge_audit(3000, 100).await.unwrap(), 0);
    let kept = [ChainAnchor { chain: CHAIN.into(), n: end.n, link: end.link }];
    let found = report(&db, &kept).await;
    assert_eq!((found.purged_n, found.n, found.broken), (2, 7, None));
    assert_eq!(db.purge_audit(i64::MAX, 100).await.unwrap(), 5);
    assert_eq!(db.audit(&AuditQuery::default()).await.unwrap(), []);
    assert_eq!(report(&db, &kept).await.broken, None, "what was forgotten is not compared");
    db.write(write([Change::Audit(audit("8", 8000))])).await.unwrap();
    let found = report(&db, &[]).await;
    assert_eq!((found.purged_n, found.n, found.broken), (7, 8, None));
}

pub async fn writers_at_once_make_one_chain(bench: Bench) {
    let (one, two) = (chained(&bench.db), chained(&bench.another().await));
    let mut writers = JoinSet::new();
    for n in 0..20_i64 {
        let db = if n % 2 == 0 { one.clone() } else { two.clone() };
        writers.spawn(async move { db.write(write([Change::Audit(audit(&n.to_string(), n))])).await.unwrap() });
    }
    writers.join_all().await;
    let found = report(&one, &[]).await;
    assert_eq!((found.n, found.broken), (20, None));
}
