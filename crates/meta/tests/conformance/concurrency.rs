//! Many at once: tasks of one process, and handles with connections of their own, as several processes have.

use std::collections::BTreeSet;

use lazuli_meta::model::{Change, Conflict, Expect, Resource, ResourceQuery};
use lazuli_meta::{Db, WriteError};
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Bench, LEASE, operation, put, resource, write};

pub async fn no_operation_is_claimed_twice(bench: Bench) {
    const OPERATIONS: usize = 40;
    let start = (0..OPERATIONS).map(|n| Change::StartOperation(operation(&format!("{n:02}"), "k")));
    bench.db.write(write(start)).await.unwrap();
    let mut workers = JoinSet::new();
    for n in 0..8 {
        let db = if n % 2 == 0 { bench.db.clone() } else { bench.another().await };
        workers.spawn(async move {
            let mut claimed = Vec::new();
            while let Some(operation) = db.claim(&format!("w{n}"), None, LEASE).await.unwrap() {
                assert_eq!((operation.fence, operation.attempt), (1, 1));
                claimed.push(operation.id);
            }
            claimed
        });
    }
    let claimed: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    let distinct: BTreeSet<&String> = claimed.iter().collect();
    assert_eq!((claimed.len(), distinct.len()), (OPERATIONS, OPERATIONS));
}

/// Reads, adds one, writes under the etag it read; again when somebody was faster.
async fn add_one(db: &Db, who: &str, round: usize) {
    loop {
        let found = db.resource("/counter").await.unwrap().unwrap();
        let count = found.body["count"].as_i64().unwrap();
        let next =
            Resource { body: json!({"count": count + 1}), etag: format!("{who}-{round}-{count}"), ..found.clone() };
        match db.write(write([put(next, Expect::Etag(found.etag))])).await {
            Ok(()) => return,
            Err(WriteError::Conflict(Conflict::Etag { .. })) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

pub async fn no_update_is_lost(bench: Bench) {
    bench.put(Resource { body: json!({"count": 0}), ..resource("/counter") }).await;
    let mut writers = JoinSet::new();
    for n in 0..6 {
        let db = bench.db.clone();
        writers.spawn(async move {
            for round in 0..5 {
                add_one(&db, &format!("w{n}"), round).await;
            }
        });
    }
    writers.join_all().await;
    assert_eq!(bench.db.resource("/counter").await.unwrap().unwrap().body, json!({"count": 30}));
}

pub async fn a_parent_and_its_child_agree(bench: Bench) {
    let other = bench.another().await;
    let mut won = (0, 0);
    for round in 0..40 {
        let parent = format!("/p{round}");
        let child = format!("{parent}/c");
        bench.put(resource(&parent)).await;
        let add = write([Change::RequireResource { key: parent.clone() }, put(resource(&child), Expect::Absent)]);
        // The two halves of the deletion in either order.
        let mut remove = vec![
            Change::RequireNoChildren { key: parent.clone() },
            Change::DeleteResource { key: parent.clone(), expect: Expect::Present },
        ];
        if round % 2 == 1 {
            remove.reverse();
        }
        let (added, removed) = tokio::join!(bench.db.write(add), other.write(write(remove)));
        match (added, removed) {
            (Ok(()), Err(WriteError::Conflict(Conflict::HasChildren { .. }))) => won.0 += 1,
            (Err(WriteError::Conflict(Conflict::Missing { .. })), Ok(())) => won.1 += 1,
            both => panic!("round {round}: {both:?}"),
        }
        let parent_exists = bench.db.resource(&parent).await.unwrap().is_some();
        let child_exists = bench.db.resource(&child).await.unwrap().is_some();
        assert_eq!(parent_exists, child_exists, "round {round}");
    }
    println!("child first {}, deletion first {}", won.0, won.1);
}

pub async fn two_processes_write_at_once(bench: Bench) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 15;
    let other = bench.another().await;
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let db = if n % 2 == 0 { bench.db.clone() } else { other.clone() };
        writers.spawn(async move {
            for round in 0..ROUNDS {
                // Reading first and then writing is what upgrades a lock.
                let key = format!("/w{n}/{round:02}");
                let changes = [
                    Change::RequireNoChildren { key: format!("/w{n}/none") },
                    put(resource(&key), Expect::Absent),
                    put(resource("/shared"), Expect::Any),
                ];
                db.write(write(changes)).await.unwrap();
                assert!(db.resource(&key).await.unwrap().is_some(), "one reads what one wrote");
            }
        });
    }
    writers.join_all().await;
    let all = bench.db.resources(&ResourceQuery::default()).await.unwrap();
    assert_eq!(all.len(), WRITERS * ROUNDS + 1);
}

pub async fn dropped_callers_leave_whole_writes(bench: Bench) {
    const CALLS: usize = 60;
    for n in 0..CALLS {
        let changes =
            [put(resource(&format!("/x{n}")), Expect::Absent), put(resource(&format!("/y{n}")), Expect::Absent)];
        let mut call = Box::pin(bench.db.write(write(changes)));
        // Polled a few times only, so that it is dropped at ever other points.
        for _ in 0..(n % 6) {
            if futures_poll_once(&mut call).await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        let mut claim = Box::pin(bench.db.claim("w", None, LEASE));
        futures_poll_once(&mut claim).await;
    }
    // No connection is left inside a transaction: every connection of the pools still serves.
    let mut readers = JoinSet::new();
    for n in 0..20 {
        let db = bench.db.clone();
        readers.spawn(async move {
            db.write(write([put(resource(&format!("/after{n}")), Expect::Absent)])).await.unwrap();
            db.resource("/after0").await.unwrap();
        });
    }
    readers.join_all().await;
    let whole = async || {
        let mut pairs = 0;
        for n in 0..CALLS {
            let x = bench.db.resource(&format!("/x{n}")).await.unwrap().is_some();
            let y = bench.db.resource(&format!("/y{n}")).await.unwrap().is_some();
            if x && y {
                pairs += 1;
            }
        }
        pairs
    };
    // A call that was polled at least once runs to its end without its caller.
    let begun = (0..CALLS).filter(|n| n % 6 > 0).count();
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while whole().await < begun {
        assert!(tokio::time::Instant::now() < until, "{} of {begun} writes", whole().await);
        tokio::task::yield_now().await;
    }
    let other = bench.another().await;
    for n in 0..CALLS {
        let x = other.resource(&format!("/x{n}")).await.unwrap().is_some();
        let y = other.resource(&format!("/y{n}")).await.unwrap().is_some();
        assert_eq!(x, y);
    }
}

/// Polls a future once; says whether it is done.
async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready()))
        .await
}

pub async fn one_of_many_creators_wins(bench: Bench) {
    let other = bench.another().await;
    for round in 0..10 {
        let key = format!("/r{round}");
        let mut creators = JoinSet::new();
        for n in 0..6 {
            let db = if n % 2 == 0 { bench.db.clone() } else { other.clone() };
            let created = Resource { etag: format!("e{n}"), ..resource(&key) };
            creators.spawn(async move {
                let etag = created.etag.clone();
                (etag, db.write(write([put(created, Expect::Absent)])).await)
            });
        }
        let mut winner = None;
        for (etag, result) in creators.join_all().await {
            match result {
                Ok(()) => assert_eq!(winner.replace(etag), None),
                Err(WriteError::Conflict(Conflict::Exists { .. })) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(winner, Some(bench.db.resource(&key).await.unwrap().unwrap().etag));
    }
}
