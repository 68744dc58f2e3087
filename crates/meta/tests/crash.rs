//! A process that is killed: what it acknowledged is there, and nothing is there by half (first law of reliability).

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use lazuli_meta::Db;
use lazuli_meta::model::{Change, Expect, NewOperation, OperationState, Resource, Write};
use serde_json::json;

/// Set for the process that is to be killed: the database it writes to.
const DATABASE: &str = "LAZULI_TEST_CRASH_DATABASE";

fn resource(key: String) -> Resource {
    Resource {
        id: key.to_uppercase(),
        sort_key: key.clone(),
        key,
        kind: "kind".to_owned(),
        subscription: "sub".to_owned(),
        resource_group: "group".to_owned(),
        parent: None,
        name: "name".to_owned(),
        location: String::new(),
        // Some pages, so that a write is not atomic by its size.
        body: json!({"text": "x".repeat(20_000)}),
        internal: json!(null),
        provisioning_state: "Creating".to_owned(),
        etag: "e".to_owned(),
        created_ms: 0,
        changed_ms: 0,
    }
}

/// A resource with its operation and a second resource, in one write.
fn write(n: usize) -> Write {
    let put = |key| Change::PutResource { resource: resource(key), expect: Expect::Absent };
    let start = Change::StartOperation(NewOperation {
        id: format!("op{n}"),
        kind: "k".to_owned(),
        resource_key: format!("/x{n}"),
        subscription: "sub".to_owned(),
        location: String::new(),
        params: json!({}),
        state: OperationState::Running,
        output: None,
    });
    Write { fence: None, changes: vec![put(format!("/x{n}")), start, put(format!("/y{n}"))] }
}

/// The parts of write `n` that are there.
async fn parts(db: &Db, n: usize) -> usize {
    usize::from(db.resource(&format!("/x{n}")).await.unwrap().is_some())
        + usize::from(db.resource(&format!("/y{n}")).await.unwrap().is_some())
        + usize::from(db.operation(&format!("op{n}")).await.unwrap().is_some())
}

/// Not a test: the process that the test below kills.
#[tokio::test]
#[ignore = "run by the test below, as a process of its own"]
async fn write_until_killed() {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let db = Db::open(&url).await.unwrap();
    let mut n = 0;
    while parts(&db, n).await == 3 {
        n += 1;
    }
    loop {
        db.write(write(n)).await.unwrap();
        println!("\nacknowledged {n}");
        n += 1;
    }
}

/// Lets the writer acknowledge `count` writes, kills it, and returns the last number it acknowledged.
fn run_and_kill(url: &str, count: usize) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "write_until_killed", "--ignored", "--nocapture"])
        .env(DATABASE, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut acknowledged = Vec::new();
    while acknowledged.len() < count {
        let line = lines.next().expect("the writer goes on until it is killed");
        acknowledged.extend(line.strip_prefix("acknowledged ").map(|n| n.parse::<usize>().unwrap()));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said between our last look and its end was acknowledged too.
    acknowledged.extend(lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<usize>().ok()));
    acknowledged.into_iter().max().unwrap()
}

#[tokio::test]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let url = format!("sqlite:{}", path.display());
    let mut written = 0;
    for count in [1, 7, 20, 33] {
        let last = run_and_kill(&url, count);
        assert!(last + 1 >= written + count);
        assert!(Path::new(&format!("{}-wal", path.display())).exists(), "the writer did not close the database");
        let db = Db::open(&url).await.unwrap();
        for n in 0..=last {
            assert_eq!(parts(&db, n).await, 3, "write {n} of {last}");
        }
        // The one after may have been made without having been acknowledged.
        let next = parts(&db, last + 1).await;
        assert!(next == 0 || next == 3, "{next} parts of the last write");
        written = last + 1;
        db.close().await;
    }
}
