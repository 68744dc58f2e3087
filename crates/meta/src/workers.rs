//! The computers that run virtual machines beside the server's own.
//!
//! ```text
//!             put_worker                      renew_worker
//! (nothing) ────────────> there until T ──────────────────> there until T'
//!                           ^       │ T passes, end_worker
//!                put_worker └───────┴──> away; it can not renew, only be put again
//! ```
//! A worker that let its lease pass has to put itself again: whatever it does before that, it does while nobody counts on it.

use crate::db::Db;
use crate::error::MetaError;
use crate::model::Worker;
use crate::sql::{Row, sql};
use serde_json::Value;
use std::time::Duration;

const COLUMNS: &str = "id, name, body, seen_ms, lease_until_ms";
const TABLE: &str = "workers";

impl Db {
    /// Every worker that ever was, by name.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn workers(&self) -> Result<Vec<Worker>, MetaError> {
        let rows = self.rows(sql(format!("SELECT {COLUMNS} FROM workers ORDER BY name, id"))).await?;
        rows.iter().map(worker).collect()
    }

    /// The worker with this id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn worker(&self, id: &str) -> Result<Option<Worker>, MetaError> {
        let select = sql(format!("SELECT {COLUMNS} FROM workers WHERE id = $1")).text(id);
        self.row(select).await?.map(|row| worker(&row)).transpose()
    }

    /// The worker is there from now on, for `lease`.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn put_worker(&self, id: &str, name: &str, body: &Value, lease: Duration) -> Result<(), MetaError> {
        let put = sql("INSERT INTO workers (id, name, body, seen_ms, lease_until_ms) VALUES ($1, $2, $3, $4, $5) \
                       ON CONFLICT (id) DO UPDATE SET name = excluded.name, body = excluded.body, \
                       seen_ms = excluded.seen_ms, lease_until_ms = excluded.lease_until_ms")
        .text(id)
        .text(name)
        .json(body)
        .int(self.clock().now_ms())
        .int(self.clock().after_ms(lease));
        self.change_rows(vec![], put).await.map(drop)
    }

    /// Keeps the worker for another `lease` from now. `false`: it was away already, and has to put itself again.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn renew_worker(&self, id: &str, lease: Duration) -> Result<bool, MetaError> {
        let renew = sql("UPDATE workers SET seen_ms = $2, lease_until_ms = $3 WHERE id = $1 AND lease_until_ms > $2")
            .text(id)
            .int(self.clock().now_ms())
            .int(self.clock().after_ms(lease));
        Ok(self.change_rows(vec![], renew).await? > 0)
    }

    /// The worker leaves now.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn end_worker(&self, id: &str) -> Result<(), MetaError> {
        let end = sql("UPDATE workers SET seen_ms = $2, lease_until_ms = $2 WHERE id = $1 AND lease_until_ms > $2")
            .text(id)
            .int(self.clock().now_ms());
        self.change_rows(vec![], end).await.map(drop)
    }
}

fn worker(row: &Row) -> Result<Worker, MetaError> {
    Ok(Worker {
        id: row.text(0)?,
        name: row.text(1)?,
        body: row.json(TABLE, 2)?,
        seen_ms: row.int(3)?,
        lease_until_ms: row.int(4)?,
    })
}
