//! One successor for each key, whoever makes it.

use lazuli_meta::model::StoredSigningKey;
use tokio::task::JoinSet;

use crate::harness::Bench;

fn key(id: &str, predecessor: &str, created_ms: i64) -> StoredSigningKey {
    StoredSigningKey {
        id: id.to_owned(),
        predecessor: predecessor.to_owned(),
        sealed: "s".to_owned(),
        created_ms,
        signs_from_ms: created_ms,
        ends_ms: i64::MAX,
    }
}

pub async fn a_key_has_one_successor(bench: Bench) {
    let db = &bench.db;
    let first = key("a", "", 1);
    assert!(db.put_signing_key(&first, i64::MAX).await.unwrap());
    assert!(!db.put_signing_key(&key("x", "", 2), 0).await.unwrap(), "there is a first one");
    assert!(!db.put_signing_key(&first, 0).await.unwrap(), "it is there");
    assert_eq!(db.signing_keys().await.unwrap(), std::slice::from_ref(&first), "nothing was changed");
    let mut making = JoinSet::new();
    for n in 0..6 {
        let db = db.clone();
        making.spawn(async move { db.put_signing_key(&key(&format!("b{n}"), "a", 10), 500).await.unwrap() });
    }
    assert_eq!(making.join_all().await.into_iter().filter(|won| *won).count(), 1);
    let both = db.signing_keys().await.unwrap();
    assert_eq!((both.len(), &both[0]), (2, &StoredSigningKey { ends_ms: 500, ..first }));
    // An end is never put off, and what ended a day ago is forgotten.
    assert!(db.put_signing_key(&key("c", &both[1].id, 400), 900).await.unwrap());
    let ends: Vec<i64> = db.signing_keys().await.unwrap().iter().map(|k| k.ends_ms).collect();
    assert_eq!(ends, [500, 900, i64::MAX]);
    let day = 24 * 3600 * 1000;
    assert!(db.put_signing_key(&key("d", "c", day + 501), i64::MAX).await.unwrap());
    assert_eq!(db.signing_keys().await.unwrap().len(), 3);
}
