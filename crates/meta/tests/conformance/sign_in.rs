//! Tickets are redeemed once, guesses are counted.

use lazuli_meta::model::Ticket;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::Bench;

fn ticket(id: &str, session: &str, expires_ms: i64) -> Ticket {
    Ticket {
        id: id.to_owned(),
        kind: "Code".to_owned(),
        session: session.to_owned(),
        state: "Issued".to_owned(),
        expires_ms,
        body: json!({"n": 1}),
    }
}

pub async fn a_ticket_is_redeemed_once(bench: Bench) {
    let db = &bench.db;
    let issued = ticket("a", "s", 1000);
    assert!(db.put_ticket(&issued, 0).await.unwrap());
    assert!(!db.put_ticket(&ticket("a", "other", 5), 0).await.unwrap());
    assert_eq!(db.ticket("a").await.unwrap().as_ref(), Some(&issued));
    let used = Ticket { state: "Used".to_owned(), body: json!({"n": 2}), ..issued };
    let mut redeeming = JoinSet::new();
    for _ in 0..8 {
        let (db, used) = (db.clone(), used.clone());
        redeeming.spawn(async move { db.move_ticket("Issued", &used).await.unwrap() });
    }
    assert_eq!(redeeming.join_all().await.into_iter().filter(|won| *won).count(), 1);
    assert_eq!(db.ticket("a").await.unwrap(), Some(used));
    assert!(!db.move_ticket("Issued", &ticket("b", "s", 1)).await.unwrap(), "there is none");
}

pub async fn a_session_ends_as_a_whole(bench: Bench) {
    let db = &bench.db;
    for (id, session) in [("a", "s"), ("b", "s"), ("c", "t")] {
        assert!(db.put_ticket(&ticket(id, session, 1000), 0).await.unwrap());
    }
    db.move_session("s", "Revoked").await.unwrap();
    for (id, state) in [("a", "Revoked"), ("b", "Revoked"), ("c", "Issued")] {
        assert_eq!(db.ticket(id).await.unwrap().unwrap().state, state);
    }
}

pub async fn tickets_are_forgotten_a_day_after_their_end(bench: Bench) {
    let db = &bench.db;
    let day = 24 * 3600 * 1000;
    db.put_ticket(&ticket("a", "s", 1000), 0).await.unwrap();
    db.put_ticket(&ticket("b", "s", day * 9), day + 1000).await.unwrap();
    assert!(db.ticket("a").await.unwrap().is_some());
    db.put_ticket(&ticket("c", "s", day * 9), day + 1001).await.unwrap();
    assert!(db.ticket("a").await.unwrap().is_none() && db.ticket("b").await.unwrap().is_some());
}

pub async fn guesses_are_counted_until_their_end(bench: Bench) {
    let db = &bench.db;
    let mut guessing = JoinSet::new();
    for _ in 0..6 {
        let db = db.clone();
        guessing.spawn(async move { db.count_guess("u", 10, 100).await.unwrap() });
    }
    let mut seen = guessing.join_all().await;
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6], "each guess is another one");
    assert_eq!(db.count_guess("v", 10, 100).await.unwrap(), 1);
    assert_eq!(db.count_guess("u", 99, 500).await.unwrap(), 7);
    assert_eq!(db.count_guess("u", 100, 500).await.unwrap(), 1, "the first count ended");
    db.clear_guesses("u").await.unwrap();
    assert_eq!(db.count_guess("u", 100, 500).await.unwrap(), 1);
}
