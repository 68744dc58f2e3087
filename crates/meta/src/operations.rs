//! Long-running operations: who runs one, until when, and how far it is.
//!
//! ```text
//!            claim: fence+1, attempt+1, lease until now+L
//! waiting ────────────────────────────────────────────────> leased ──┐ renew: lease until now+L
//!    ^                                                        │  ^───┘
//!    │ release: fence+1                                       │
//!    └────────────────────────────────────────────────────────┤ the lease passes: anybody may claim
//!                                                             v
//!                                        ended by Change::EndOperation (under the fence)
//! ```
//!
//! The lease only says whom to leave alone; the fence decides who may write.

use std::time::Duration;

use serde_json::Value;

use crate::db::Db;
use crate::error::MetaError;
use crate::model::{Operation, OperationQuery, OperationState};
use crate::read::limit;
use crate::sql::{Arg, Row, Select, Sql, sql};
use crate::watch::Signal;

const COLUMNS: &str = "id, kind, resource_key, subscription, location, params, state, cancel_requested, attempt, \
                       lease_owner, lease_until_ms, fence, progress_done, progress_total, phase, error, output, \
                       started_ms, ended_ms";
const TABLE: &str = "operations";

impl Db {
    /// The operation with this id.
    ///
    /// # Errors
    /// [`MetaError`] of the database, as for every read.
    pub async fn operation(&self, id: &str) -> Result<Option<Operation>, MetaError> {
        let select = sql(format!("SELECT {COLUMNS} FROM operations WHERE id = $1")).text(id);
        self.row(select).await?.map(|row| operation(&row)).transpose()
    }

    /// Newest first.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn operations(&self, query: &OperationQuery) -> Result<Vec<Operation>, MetaError> {
        let mut select = Select::new(format!("SELECT {COLUMNS} FROM operations"));
        select.and_text("resource_key = ?", query.resource_key.as_ref());
        select.and_text("kind = ?", query.kind.as_ref());
        if let Some(state) = query.state {
            select.and("state = ?", [Arg::Text(state.as_str().to_owned())]);
        }
        let select = select.end("started_ms DESC, id DESC", limit(query.limit));
        self.rows(select).await?.iter().map(operation).collect()
    }

    /// The outputs of the steps that are done, in the order in which they were done first.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn steps(&self, operation: &str) -> Result<Vec<(String, Value)>, MetaError> {
        let select = sql("SELECT step, output FROM operation_steps WHERE operation = $1 ORDER BY n").text(operation);
        let rows = self.rows(select).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.json("operation_steps", 1)?))).collect()
    }

    /// Takes the oldest running operation that nobody holds a lease on; `kinds` restricts to what the caller can run.
    /// No two callers get the same one. A claim whose caller vanished is free again when the lease ends.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn claim(
        &self,
        owner: &str,
        kinds: Option<&[&str]>,
        lease: Duration,
    ) -> Result<Option<Operation>, MetaError> {
        let claim = self.claim_statement(owner, kinds, lease);
        let rows = self.change(vec![], move |tx| {
            let claim = claim.clone();
            Box::pin(async move { Ok(tx.rows(claim).await?) })
        });
        let claimed = rows.await?.first().map(operation).transpose()?;
        if claimed.is_some() {
            self.signal(Signal::Operation);
        }
        Ok(claimed)
    }

    fn claim_statement(&self, owner: &str, kinds: Option<&[&str]>, lease: Duration) -> Sql {
        let mut free =
            "SELECT id FROM operations WHERE state = 'Running' AND (lease_until_ms IS NULL OR lease_until_ms <= $3)"
                .to_owned();
        let mut args =
            vec![Arg::Text(owner.to_owned()), Arg::Int(self.clock().after_ms(lease)), Arg::Int(self.clock().now_ms())];
        if let Some(kinds) = kinds {
            let mut places = Vec::new();
            for kind in kinds {
                args.push(Arg::Text((*kind).to_owned()));
                places.push(format!("${}", args.len()));
            }
            // NULL keeps an empty list valid: it matches nothing.
            places.push("NULL".to_owned());
            free.push_str(&format!(" AND kind IN ({})", places.join(", ")));
        }
        let for_claim = self.shared.pools.for_claim();
        let text = format!(
            "UPDATE operations SET lease_owner = $1, lease_until_ms = $2, fence = fence + 1, attempt = attempt + 1 \
             WHERE id = ({free} ORDER BY started_ms, id LIMIT 1{for_claim}) RETURNING {COLUMNS}"
        );
        Sql { text: text.into(), args }
    }

    /// Keeps the lease for another `lease` from now. `false`: the operation has ended or belongs to somebody else, and
    /// the caller must stop.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn renew(&self, id: &str, fence: i64, lease: Duration) -> Result<bool, MetaError> {
        let renew = sql("UPDATE operations SET lease_until_ms = $3 WHERE id = $1 AND fence = $2 AND state = 'Running'")
            .text(id)
            .int(fence)
            .int(self.clock().after_ms(lease));
        self.change_one(vec![], renew).await
    }

    /// Says how far the operation is. `false` as for [`Db::renew`]. Wakes watchers of this process only.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn progress(&self, id: &str, fence: i64, done: i64, total: i64, phase: &str) -> Result<bool, MetaError> {
        let progress = sql("UPDATE operations SET progress_done = $3, progress_total = $4, phase = $5 \
                            WHERE id = $1 AND fence = $2 AND state = 'Running'")
        .text(id)
        .int(fence)
        .int(done)
        .int(total)
        .text(phase);
        let held = self.change_one(vec![], progress).await?;
        if held {
            self.signal(Signal::Operation);
        }
        Ok(held)
    }

    /// Asks whoever runs the operation to undo it and end as `Canceled`. `false`: there is none, or it has ended.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn request_cancel(&self, id: &str) -> Result<bool, MetaError> {
        let cancel = sql("UPDATE operations SET cancel_requested = 1 WHERE id = $1 AND state = 'Running'").text(id);
        self.change_one(vec![Signal::Operation], cancel).await
    }

    /// Gives the operation back unfinished: anybody may claim it at once, and the caller may no longer write.
    /// `false` as for [`Db::renew`].
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn release(&self, id: &str, fence: i64) -> Result<bool, MetaError> {
        self.give_back(vec![Signal::Work, Signal::Operation], id, fence, None).await
    }

    /// Like [`Db::release`], but nobody can claim it before `delay` is over (to try again later).
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn defer(&self, id: &str, fence: i64, delay: Duration) -> Result<bool, MetaError> {
        self.give_back(vec![Signal::Operation], id, fence, Some(self.clock().after_ms(delay))).await
    }

    /// Takes every operation back from whoever holds it, so that it may be claimed at once; returns how many. For a server
    /// that starts and knows that it is the only one: whoever holds something then was killed, and its lease need not be
    /// waited for. Holders that live after all may no longer write.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn release_all(&self) -> Result<u64, MetaError> {
        let release = sql("UPDATE operations SET lease_owner = NULL, lease_until_ms = NULL, fence = fence + 1 \
                           WHERE state = 'Running' AND lease_owner IS NOT NULL");
        self.change_rows(vec![Signal::Work, Signal::Operation], release).await
    }

    async fn give_back(
        &self,
        signals: Vec<Signal>,
        id: &str,
        fence: i64,
        until_ms: Option<i64>,
    ) -> Result<bool, MetaError> {
        let release = sql("UPDATE operations SET lease_owner = NULL, lease_until_ms = $3, fence = fence + 1 \
                           WHERE id = $1 AND fence = $2 AND state = 'Running'")
        .text(id)
        .int(fence)
        .opt_int(until_ms);
        self.change_one(signals, release).await
    }

    /// Waits until the operation has ended or `timeout` is over, and returns it as it is then.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn wait_operation(&self, id: &str, timeout: Duration) -> Result<Option<Operation>, MetaError> {
        /// A signal of another process may be lost.
        const POLL: Duration = Duration::from_secs(2);
        let until = tokio::time::Instant::now() + timeout;
        let mut watch = self.watch_operations();
        loop {
            let operation = self.operation(id).await?;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match &operation {
                Some(found) if found.state == OperationState::Running && !left.is_zero() => {
                    watch.wait(left.min(POLL)).await;
                }
                _ => return Ok(operation),
            }
        }
    }

    /// Deletes operations (with their steps) that ended before `ended_before_ms`, at most `limit` of them. Returns how many. The
    /// last of each of the `shown` kinds stays as long as its resource.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn purge_operations(&self, ended_before_ms: i64, limit: i64, shown: &[&str]) -> Result<u64, MetaError> {
        let mut purge = Select::new("DELETE FROM operations WHERE id IN (SELECT id FROM operations o");
        purge.and("ended_ms IS NOT NULL AND ended_ms < ?", [Arg::Int(ended_before_ms)]);
        for kind in shown {
            purge.and(
                "(kind <> ? OR NOT EXISTS (SELECT 1 FROM resources r WHERE r.key = o.resource_key) \
                 OR EXISTS (SELECT 1 FROM operations later WHERE later.resource_key = o.resource_key \
                 AND later.kind = o.kind AND later.started_ms > o.started_ms))",
                [Arg::Text((*kind).to_owned())],
            );
        }
        let mut purge = purge.end("ended_ms", limit);
        purge.text.to_mut().push(')');
        self.change_rows(vec![], purge).await
    }

    async fn change_one(&self, signals: Vec<Signal>, statement: Sql) -> Result<bool, MetaError> {
        Ok(self.change_rows(signals, statement).await? > 0)
    }

    /// One changing statement in a transaction of its own.
    pub(crate) async fn change_rows(&self, signals: Vec<Signal>, statement: Sql) -> Result<u64, MetaError> {
        self.change(signals, move |tx| {
            let statement = statement.clone();
            Box::pin(async move { Ok(tx.execute(statement).await?) })
        })
        .await
    }
}

fn operation(row: &Row) -> Result<Operation, MetaError> {
    let state = row.text(6)?;
    Ok(Operation {
        id: row.text(0)?,
        kind: row.text(1)?,
        resource_key: row.text(2)?,
        subscription: row.text(3)?,
        location: row.text(4)?,
        params: row.json(TABLE, 5)?,
        state: OperationState::parse(&state)
            .ok_or_else(|| MetaError::Row { table: TABLE, detail: format!("unknown state {state:?}") })?,
        cancel_requested: row.int(7)? != 0,
        attempt: row.int(8)?,
        lease_owner: row.opt_text(9)?,
        lease_until_ms: row.opt_int(10)?,
        fence: row.int(11)?,
        progress_done: row.int(12)?,
        progress_total: row.int(13)?,
        phase: row.text(14)?,
        error: row.opt_json(TABLE, 15)?,
        output: row.opt_json(TABLE, 16)?,
        started_ms: row.int(17)?,
        ended_ms: row.opt_int(18)?,
    })
}
