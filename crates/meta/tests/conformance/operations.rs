//! Long-running operations: claims, leases, fences, steps, signals.

use std::time::Duration;

use lazuli_meta::model::{Change, Conflict, Expect, NewOperation, Operation, OperationQuery, OperationState, Write};
use serde_json::json;

use crate::harness::{Bench, LEASE, START_MS, conflict, fenced, operation, put, resource, write};

fn end(id: &str, state: OperationState) -> Change {
    Change::EndOperation { id: id.to_owned(), state, output: None, error: None }
}

fn step(id: &str, name: &str, output: i64) -> Change {
    Change::PutStep { operation: id.to_owned(), step: name.to_owned(), output: json!(output) }
}

fn is_fenced(id: &str) -> Conflict {
    Conflict::Fenced { operation: id.to_owned() }
}

pub async fn an_operation_starts_with_its_resource(bench: Bench) {
    let changes = [put(resource("/a"), Expect::Absent), Change::StartOperation(operation("op", "k"))];
    bench.db.write(write(changes.clone())).await.unwrap();
    let expected = Operation {
        id: "op".to_owned(),
        kind: "k".to_owned(),
        resource_key: "/r/op".to_owned(),
        subscription: "sub".to_owned(),
        location: "eastus".to_owned(),
        params: json!({"for": "op"}),
        state: OperationState::Running,
        cancel_requested: false,
        attempt: 0,
        lease_owner: None,
        lease_until_ms: None,
        fence: 0,
        progress_done: 0,
        progress_total: 0,
        phase: String::new(),
        error: None,
        output: None,
        started_ms: START_MS,
        ended_ms: None,
    };
    assert_eq!(bench.db.operation("op").await.unwrap(), Some(expected));
    assert_eq!(bench.db.operation("other").await.unwrap(), None);
    let again = [Change::StartOperation(operation("op", "other"))];
    assert_eq!(bench.refused(again).await, Conflict::Exists { key: "op".to_owned() });
}

pub async fn recorded_as_done(bench: Bench) {
    let mut done = operation("op", "k");
    done.state = OperationState::Succeeded;
    done.output = Some(json!({"sas": 1}));
    bench.db.write(write([Change::StartOperation(done)])).await.unwrap();
    let found = bench.db.operation("op").await.unwrap().unwrap();
    assert_eq!((found.state, found.ended_ms), (OperationState::Succeeded, Some(START_MS)));
    assert_eq!(found.output, Some(json!({"sas": 1})));
    assert_eq!(bench.db.claim("w", None, LEASE).await.unwrap(), None);
    assert!(!bench.db.request_cancel("op").await.unwrap());
}

pub async fn claims_go_to_the_oldest_of_the_right_kind(bench: Bench) {
    for (id, kind) in [("z", "copy"), ("a", "boot"), ("m", "copy")] {
        bench.start(id, kind).await;
        bench.clock.advance(Duration::from_millis(1));
    }
    let claim =
        async |kinds: Option<&[&str]>| bench.db.claim("w", kinds, LEASE).await.unwrap().map(|operation| operation.id);
    assert_eq!(claim(Some(&[])).await, None);
    assert_eq!(claim(Some(&["other"])).await, None);
    assert_eq!(claim(Some(&["other", "boot"])).await.as_deref(), Some("a"));
    assert_eq!(claim(None).await.as_deref(), Some("z"));
    assert_eq!(claim(Some(&["copy"])).await.as_deref(), Some("m"));
    assert_eq!(claim(None).await, None);
    let found = bench.db.operation("z").await.unwrap().unwrap();
    let until = bench.clock.clock().after_ms(LEASE);
    assert_eq!((found.lease_owner.as_deref(), found.lease_until_ms), (Some("w"), Some(until)));
    assert_eq!((found.fence, found.attempt), (1, 1));
}

pub async fn an_expired_lease_is_claimed_with_a_higher_fence(bench: Bench) {
    bench.start("op", "k").await;
    let old = bench.claim().await;
    bench.clock.advance(LEASE - Duration::from_millis(1));
    assert_eq!(bench.db.claim("other", None, LEASE).await.unwrap(), None);
    bench.clock.advance(Duration::from_millis(1));
    let new = bench.db.claim("other", None, LEASE).await.unwrap().unwrap();
    assert_eq!((new.fence, new.attempt, new.lease_owner.as_deref()), (2, 2, Some("other")));

    // The old worker wakes up: nothing it does has an effect.
    for change in [step("op", "s", 1), end("op", OperationState::Succeeded)] {
        let write = fenced(&old, [put(resource("/late"), Expect::Any), change]);
        assert_eq!(conflict(bench.db.write(write).await), is_fenced("op"));
    }
    assert!(!bench.db.renew("op", old.fence, LEASE).await.unwrap());
    assert!(!bench.db.progress("op", old.fence, 1, 2, "late").await.unwrap());
    assert!(!bench.db.release("op", old.fence).await.unwrap());
    assert!(!bench.db.defer("op", old.fence, LEASE).await.unwrap());
    assert_eq!(bench.db.resource("/late").await.unwrap(), None);
    assert_eq!(bench.db.operation("op").await.unwrap(), Some(new.clone()));
    // The new one may write.
    bench.db.write(fenced(&new, [step("op", "s", 2), end("op", OperationState::Succeeded)])).await.unwrap();
    assert_eq!(bench.db.steps("op").await.unwrap(), [("s".to_owned(), json!(2))]);
}

pub async fn a_renewed_lease_is_kept(bench: Bench) {
    bench.start("op", "k").await;
    let claimed = bench.claim().await;
    for _ in 0..3 {
        bench.clock.advance(LEASE / 2);
        assert!(bench.db.renew("op", claimed.fence, LEASE).await.unwrap());
        assert_eq!(bench.db.claim("other", None, LEASE).await.unwrap(), None);
    }
    // Late, but nobody came in between: the work goes on.
    bench.clock.advance(LEASE * 10);
    assert!(bench.db.renew("op", claimed.fence, LEASE).await.unwrap());
    assert_eq!(bench.db.claim("other", None, LEASE).await.unwrap(), None);
    assert!(!bench.db.renew("none", 1, LEASE).await.unwrap());
}

pub async fn released_and_deferred(bench: Bench) {
    bench.start("op", "k").await;
    let first = bench.claim().await;
    assert!(bench.db.release("op", first.fence).await.unwrap());
    // Whoever has given it back may no longer write.
    assert_eq!(conflict(bench.db.write(fenced(&first, [step("op", "s", 1)])).await), is_fenced("op"));
    let second = bench.claim().await;
    assert!(second.fence > first.fence);
    assert_eq!(second.attempt, 2);
    assert!(bench.db.defer("op", second.fence, Duration::from_secs(5)).await.unwrap());
    let waiting = bench.db.operation("op").await.unwrap().unwrap();
    assert_eq!(waiting.lease_owner, None);
    assert_eq!(bench.db.claim("w", None, LEASE).await.unwrap(), None);
    bench.clock.advance(Duration::from_secs(5));
    assert_eq!(bench.claim().await.attempt, 3);
}

pub async fn all_are_taken_back(bench: Bench) {
    bench.start("ended", "k").await;
    let ended = bench.claim().await;
    bench.db.write(fenced(&ended, [end("ended", OperationState::Succeeded)])).await.unwrap();
    let ended = bench.db.operation("ended").await.unwrap();
    bench.start("deferred", "k").await;
    let deferred = bench.claim().await;
    assert!(bench.db.defer("deferred", deferred.fence, LEASE).await.unwrap());
    bench.start("held", "k").await;
    let held = bench.claim().await;
    assert_eq!(bench.db.release_all().await.unwrap(), 1);
    // Nothing but the lease is gone: what has ended stays so, what waits for its time waits on.
    assert_eq!(bench.db.operation("ended").await.unwrap(), ended);
    assert_eq!(conflict(bench.db.write(fenced(&held, [step("held", "s", 1)])).await), is_fenced("held"));
    let again = bench.claim().await;
    assert_eq!((again.id.as_str(), again.attempt), ("held", 2));
    assert_eq!(bench.db.claim("other", None, LEASE).await.unwrap(), None);
}

pub async fn steps_are_kept_in_order(bench: Bench) {
    bench.start("op", "k").await;
    bench.start("other", "k").await;
    let claimed = bench.claim().await;
    for (name, output) in [("z", 1), ("a", 2), ("m", 3), ("z", 4)] {
        bench.db.write(fenced(&claimed, [step(&claimed.id, name, output)])).await.unwrap();
    }
    let steps = bench.db.steps(&claimed.id).await.unwrap();
    assert_eq!(steps, [("z".into(), json!(4)), ("a".into(), json!(2)), ("m".into(), json!(3))]);
    assert_eq!(bench.db.steps("other").await.unwrap(), []);
}

pub async fn ends_only_under_its_fence(bench: Bench) {
    bench.start("op", "k").await;
    let before_claim = Write { fence: Some(("op".to_owned(), 1)), changes: vec![] };
    assert_eq!(conflict(bench.db.write(before_claim).await), is_fenced("op"));
    let claimed = bench.claim().await;
    bench.clock.advance(Duration::from_millis(7));
    let fail = Change::EndOperation {
        id: "op".to_owned(),
        state: OperationState::Failed,
        output: Some(json!({"partial": true})),
        error: Some(json!({"code": "Conflict", "message": "m"})),
    };
    let twice = fenced(&claimed, [fail.clone(), fail.clone()]);
    assert_eq!(conflict(bench.db.write(twice).await), is_fenced("op"));
    bench.db.write(fenced(&claimed, [fail.clone()])).await.unwrap();
    let ended = bench.db.operation("op").await.unwrap().unwrap();
    assert_eq!((ended.state, ended.ended_ms), (OperationState::Failed, Some(START_MS + 7)));
    assert_eq!(ended.error, Some(json!({"code": "Conflict", "message": "m"})));
    assert_eq!(ended.output, Some(json!({"partial": true})));
    assert_eq!((ended.lease_owner, ended.lease_until_ms), (None, None));
    // An ended operation stays as it is.
    assert_eq!(conflict(bench.db.write(fenced(&claimed, [fail])).await), is_fenced("op"));
    assert!(!bench.db.renew("op", claimed.fence, LEASE).await.unwrap());
    assert!(!bench.db.release("op", claimed.fence).await.unwrap());
    bench.clock.advance(LEASE * 2);
    assert_eq!(bench.db.claim("w", None, LEASE).await.unwrap(), None);
}

pub async fn progress_and_cancel(bench: Bench) {
    bench.start("op", "k").await;
    let claimed = bench.claim().await;
    assert!(bench.db.progress("op", claimed.fence, 5, 10_000_000_000_000, "copying").await.unwrap());
    assert!(bench.db.request_cancel("op").await.unwrap());
    assert!(!bench.db.request_cancel("other").await.unwrap());
    let found = bench.db.operation("op").await.unwrap().unwrap();
    assert_eq!((found.progress_done, found.progress_total), (5, 10_000_000_000_000));
    assert_eq!(found.phase, "copying");
    assert!(found.cancel_requested);
    // A request to cancel does not take the operation away from its worker.
    bench.db.write(fenced(&claimed, [end("op", OperationState::Canceled)])).await.unwrap();
    assert_eq!(bench.db.operation("op").await.unwrap().unwrap().state, OperationState::Canceled);
}

pub async fn lists(bench: Bench) {
    for (id, kind) in [("1", "copy"), ("2", "boot"), ("3", "copy")] {
        let mut new = operation(id, kind);
        new.resource_key = if id == "2" { "/b".to_owned() } else { "/a".to_owned() };
        bench.db.write(write([Change::StartOperation(new)])).await.unwrap();
        bench.clock.advance(Duration::from_millis(1));
    }
    let claimed = bench.claim().await;
    bench.db.write(fenced(&claimed, [end("1", OperationState::Succeeded)])).await.unwrap();
    let list = async |query: OperationQuery| {
        let found = bench.db.operations(&query).await.unwrap();
        found.into_iter().map(|operation| operation.id).collect::<Vec<_>>().join(" ")
    };
    let any = OperationQuery::default;
    assert_eq!(list(any()).await, "3 2 1");
    assert_eq!(list(OperationQuery { limit: Some(2), ..any() }).await, "3 2");
    assert_eq!(list(OperationQuery { resource_key: Some("/a".to_owned()), ..any() }).await, "3 1");
    assert_eq!(list(OperationQuery { kind: Some("boot".to_owned()), ..any() }).await, "2");
    assert_eq!(list(OperationQuery { state: Some(OperationState::Running), ..any() }).await, "3 2");
    let done = OperationQuery { state: Some(OperationState::Succeeded), kind: Some("boot".to_owned()), ..any() };
    assert_eq!(list(done).await, "");
}

pub async fn purges(bench: Bench) {
    for id in ["1", "2", "3"] {
        bench.start(id, "k").await;
        bench.clock.advance(Duration::from_millis(1));
    }
    for _ in 0..2 {
        let claimed = bench.claim().await;
        let changes = [step(&claimed.id, "s", 1), end(&claimed.id, OperationState::Succeeded)];
        bench.db.write(fenced(&claimed, changes)).await.unwrap();
    }
    assert_eq!(bench.db.purge_operations(START_MS, 100, &[]).await.unwrap(), 0);
    // What is shown of a resource is kept while it is there.
    bench.put(resource("/r/1")).await;
    assert_eq!(bench.db.purge_operations(i64::MAX, 100, &["other", "k"]).await.unwrap(), 1);
    assert!(bench.db.operation("1").await.unwrap().is_some() && bench.db.operation("2").await.unwrap().is_none());
    let again = NewOperation { id: "4".to_owned(), state: OperationState::Succeeded, ..operation("1", "k") };
    bench.db.write(write([Change::StartOperation(again)])).await.unwrap();
    assert_eq!(bench.db.purge_operations(i64::MAX, 1, &["k"]).await.unwrap(), 1);
    assert!(bench.db.operation("4").await.unwrap().is_some(), "the last one");
    assert_eq!(bench.db.purge_operations(i64::MAX, 100, &["other"]).await.unwrap(), 1);
    assert_eq!(bench.db.steps("1").await.unwrap(), []);
    assert!(bench.db.operation("3").await.unwrap().is_some());
}

pub async fn watchers_are_woken(bench: Bench) {
    const LONG: Duration = Duration::from_secs(60);
    let mut handles = vec![bench.db.clone()];
    if !bench.is_sqlite() {
        // Another process hears of it through the server.
        handles.push(bench.another().await);
    }
    for (n, handle) in handles.iter().enumerate() {
        let id = format!("op{n}");
        let (mut work, mut changes) = (handle.watch_work(), handle.watch_operations());
        // The signal comes before the wait and is not lost.
        bench.start(&id, "k").await;
        assert!(work.wait(LONG).await);
        assert!(changes.wait(LONG).await);
        let claimed = bench.claim().await;
        let mut changes = handle.watch_operations();
        assert!(bench.db.request_cancel(&id).await.unwrap());
        assert!(changes.wait(LONG).await);
        let mut changes = handle.watch_operations();
        bench.db.write(fenced(&claimed, [end(&id, OperationState::Canceled)])).await.unwrap();
        assert!(changes.wait(LONG).await);
    }
    if !bench.is_sqlite() {
        // The server's echo of the above may come at any time.
        return;
    }
    // A refused write wakes nobody, nor does what has been seen.
    let mut work = bench.db.watch_work();
    bench.refused([Change::StartOperation(operation("op0", "k"))]).await;
    assert!(!work.wait(Duration::ZERO).await);
}

pub async fn waiting_for_an_end(bench: Bench) {
    bench.start("op", "k").await;
    let claimed = bench.claim().await;
    let running = bench.db.wait_operation("op", Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(running.state, OperationState::Running);
    let waiter = {
        let db = bench.another().await;
        tokio::spawn(async move { db.wait_operation("op", Duration::from_secs(60)).await })
    };
    bench.db.write(fenced(&claimed, [end("op", OperationState::Succeeded)])).await.unwrap();
    assert_eq!(waiter.await.unwrap().unwrap().unwrap().state, OperationState::Succeeded);
    assert_eq!(bench.db.wait_operation("none", Duration::from_secs(60)).await.unwrap(), None);
}
