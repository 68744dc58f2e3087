//! A database for one case, and short ways to make rows.

use std::time::Duration;

use lazuli_meta::model::{Audit, Change, Conflict, Expect, NewOperation, Operation, OperationState, Resource, Write};
use lazuli_meta::{Db, ManualClock, WriteError};
use lazuli_testkit::postgres::Postgres;
use serde_json::json;

pub const START_MS: i64 = 1_700_000_000_000;
pub const LEASE: Duration = Duration::from_secs(60);

/// A fresh, migrated database whose clock stands still.
pub struct Bench {
    pub db: Db,
    pub clock: ManualClock,
    pub url: String,
    /// Keeps the SQLite file.
    directory: Option<tempfile::TempDir>,
}

impl Bench {
    pub async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("meta.db").display());
        Self::over(url, Some(directory)).await
    }

    pub async fn postgres(template: &str) -> Self {
        Self::over(Postgres::shared().copy_of(template).unwrap(), None).await
    }

    async fn over(url: String, directory: Option<tempfile::TempDir>) -> Self {
        let clock = ManualClock::at(START_MS);
        let db = Db::open(&url).await.unwrap().with_clock(clock.clock());
        Self { db, clock, url, directory }
    }

    pub fn is_sqlite(&self) -> bool {
        self.directory.is_some()
    }

    /// Another handle with connections of its own, as another process has.
    pub async fn another(&self) -> Db {
        Db::open(&self.url).await.unwrap().with_clock(self.clock.clock())
    }

    pub async fn put(&self, resource: Resource) {
        self.db.write(write([put(resource, Expect::Absent)])).await.unwrap();
    }

    pub async fn start(&self, id: &str, kind: &str) {
        self.db.write(write([Change::StartOperation(operation(id, kind))])).await.unwrap();
    }

    pub async fn claim(&self) -> Operation {
        self.db.claim("worker", None, LEASE).await.unwrap().expect("an operation to claim")
    }

    /// The conflict with which the changes are refused.
    pub async fn refused(&self, changes: impl IntoIterator<Item = Change>) -> Conflict {
        conflict(self.db.write(write(changes)).await)
    }
}

/// A migrated database to be copied; nobody is connected to it.
pub async fn postgres_template() -> String {
    let url = Postgres::shared().database().unwrap();
    Db::open(&url).await.unwrap().close().await;
    url
}

pub fn write(changes: impl IntoIterator<Item = Change>) -> Write {
    Write { fence: None, changes: changes.into_iter().collect() }
}

pub fn fenced(operation: &Operation, changes: impl IntoIterator<Item = Change>) -> Write {
    Write { fence: Some((operation.id.clone(), operation.fence)), changes: changes.into_iter().collect() }
}

pub fn put(resource: Resource, expect: Expect) -> Change {
    Change::PutResource { resource, expect }
}

pub fn conflict(result: Result<(), WriteError>) -> Conflict {
    match result {
        Err(WriteError::Conflict(conflict)) => conflict,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

/// A resource whose parent is what precedes the last `/` of its key.
pub fn resource(key: &str) -> Resource {
    let parent = key.rsplit_once('/').map(|(parent, _)| parent.to_owned()).filter(|parent| !parent.is_empty());
    Resource {
        key: key.to_owned(),
        sort_key: key.to_owned(),
        id: key.to_uppercase(),
        kind: "microsoft.compute/galleries".to_owned(),
        subscription: "sub".to_owned(),
        resource_group: "group".to_owned(),
        parent,
        name: key.rsplit('/').next().unwrap_or_default().to_uppercase(),
        location: "eastus".to_owned(),
        body: json!({"location": "eastus", "tags": {"ü": "\u{0}\"'\\%_$1?"}, "n": 9_007_199_254_740_993_i64}),
        internal: json!({"manifest": null}),
        provisioning_state: "Succeeded".to_owned(),
        etag: "e1".to_owned(),
        created_ms: 1,
        changed_ms: 1,
    }
}

pub fn operation(id: &str, kind: &str) -> NewOperation {
    NewOperation {
        id: id.to_owned(),
        kind: kind.to_owned(),
        resource_key: format!("/r/{id}"),
        subscription: "sub".to_owned(),
        location: "eastus".to_owned(),
        params: json!({"for": id}),
        state: OperationState::Running,
        output: None,
    }
}

pub fn audit(id: &str, time_ms: i64) -> Audit {
    Audit {
        id: id.to_owned(),
        time_ms,
        correlation_id: "c".to_owned(),
        tenant: "t".to_owned(),
        principal: "p".to_owned(),
        subscription: "sub".to_owned(),
        resource_key: "/a".to_owned(),
        action: "Microsoft.Compute/galleries/write".to_owned(),
        status: "Succeeded".to_owned(),
        detail: json!({"id": id}),
    }
}
