//! Who is there, and who has to say so again.

use serde_json::json;

use crate::harness::{Bench, LEASE, START_MS};

pub async fn a_worker_is_there_until_its_lease_ends(bench: Bench) {
    let (db, other) = (&bench.db, bench.another().await);
    assert!(!db.renew_worker("w2", LEASE).await.unwrap(), "it never was there");
    db.put_worker("w2", "b", &json!({"memoryMib": 1}), LEASE).await.unwrap();
    other.put_worker("w1", "a", &json!({}), LEASE).await.unwrap();
    let names: Vec<String> = db.workers().await.unwrap().into_iter().map(|w| w.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(db.worker("none").await.unwrap(), None);

    bench.clock.advance(LEASE / 2);
    assert!(db.renew_worker("w2", LEASE).await.unwrap());
    bench.clock.advance(LEASE / 2);
    let lease = i64::try_from(LEASE.as_millis()).unwrap();
    let until = async |id: &str| db.worker(id).await.unwrap().unwrap().lease_until_ms - START_MS;
    assert_eq!((until("w1").await, until("w2").await), (lease, lease + lease / 2));
    // At the very moment of its end it is away, and only putting itself again brings it back.
    assert!(!db.renew_worker("w1", LEASE).await.unwrap());
    assert!(other.renew_worker("w2", LEASE).await.unwrap());
    db.put_worker("w1", "a2", &json!({"memoryMib": 2}), LEASE).await.unwrap();
    let back = other.worker("w1").await.unwrap().unwrap();
    assert_eq!((back.name.as_str(), &back.body, back.seen_ms), ("a2", &json!({"memoryMib": 2}), START_MS + lease));
    assert!(db.renew_worker("w1", LEASE).await.unwrap());

    db.end_worker("w1").await.unwrap();
    assert!(!db.renew_worker("w1", LEASE).await.unwrap(), "it left");
    assert_eq!(db.worker("w1").await.unwrap().unwrap().lease_until_ms, START_MS + lease);
}
