//! Long-running operations: steps that are remembered, leases that can be lost, endings that are committed once.
//!
//! An operation's code may be run again from its beginning at any time (crash, lost lease); [`OpContext::step`] returns the
//! stored output of what is done already. Every write is made under the operation's fence, so that a worker that was paused
//! cannot commit after another one took over. An operation never reports success for what did not happen.

use crate::Engine;
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_meta::model::{self, Change, Conflict, Expect, OperationQuery, OperationState, Resource, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Why an operation's code stopped before its end.
#[derive(Debug)]
pub enum OpError {
    /// It failed for good: undo, then `Failed`.
    Failed(ArmError),
    /// Somebody asked for it: undo, then `Canceled`.
    Canceled,
    /// This worker may not go on (shutdown, lease lost); another attempt will.
    Interrupted,
}

impl From<ArmError> for OpError {
    fn from(error: ArmError) -> Self {
        Self::Failed(error)
    }
}

type Update = Box<dyn Fn(&mut Resource) + Send + Sync>;

/// How an operation that succeeded leaves its resource. All of it is committed together with the operation's end.
#[derive(Default)]
pub struct Outcome {
    /// Shown by the operation's status.
    pub output: Option<Value>,
    /// Applied to the row as it is at that moment (others may have changed its tags meanwhile).
    pub update: Option<Update>,
    pub changes: Vec<Change>,
    /// The resource is gone.
    pub delete: bool,
}

impl Outcome {
    pub fn update(update: impl Fn(&mut Resource) + Send + Sync + 'static) -> Self {
        Self { update: Some(Box::new(update)), ..Self::default() }
    }

    pub fn deleted() -> Self {
        Self { delete: true, ..Self::default() }
    }
}

#[async_trait]
pub trait Operation: Send + Sync {
    /// Unique name, stored with the operation: `image_version.create`.
    fn kind(&self) -> &'static str;

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError>;

    /// Takes back what earlier steps did, after a failure or a cancellation. May be run more than once. The returned update
    /// is applied to the row with the end of the operation.
    async fn undo(&self, _cx: &OpContext) -> Result<Outcome, OpError> {
        Ok(Outcome::default())
    }
}

/// What the code of an operation works with.
pub struct OpContext {
    pub engine: Engine,
    pub op: model::Operation,
    /// Fires on cancellation, shutdown and a lost lease; pass it to whatever takes long.
    pub stop: CancellationToken,
    interrupted: CancellationToken,
    steps: Mutex<Vec<(String, Value)>>,
}

impl OpContext {
    /// Parameters as the provider gave them.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, OpError> {
        serde_json::from_value(self.op.params.clone()).map_err(|e| OpError::Failed(ArmError::internal(e)))
    }

    /// The row as it is now.
    pub async fn resource(&self) -> Result<Resource, OpError> {
        let row = self.engine.db().resource(&self.op.resource_key).await.map_err(ArmError::internal)?;
        row.ok_or_else(|| {
            OpError::Failed(ArmError::new(404, "ResourceNotFound", "The resource was removed while it was worked on."))
        })
    }

    /// Runs `work` unless its output is stored already.
    pub async fn step<T, F>(&self, name: &str, work: F) -> Result<T, OpError>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, OpError>>,
    {
        self.step_with(name, async { Ok((work.await?, vec![])) }).await
    }

    /// As [`OpContext::step`]; the changes are committed together with the step's output.
    pub async fn step_with<T, F>(&self, name: &str, work: F) -> Result<T, OpError>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<(T, Vec<Change>), OpError>>,
    {
        if let Some(done) = self.done_step(name) {
            return serde_json::from_value(done).map_err(|e| OpError::Failed(ArmError::internal(e)));
        }
        self.check()?;
        let (output, mut changes) = work.await?;
        let value = serde_json::to_value(&output).map_err(ArmError::internal)?;
        changes.push(Change::PutStep { operation: self.op.id.clone(), step: name.to_owned(), output: value.clone() });
        self.commit(changes).await?;
        self.remember(name, value);
        Ok(output)
    }

    fn remember(&self, name: &str, output: Value) {
        self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((name.to_owned(), output));
    }

    /// Stored output of a step, if it ended.
    pub fn done_step(&self, name: &str) -> Option<Value> {
        let steps = self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        steps.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    /// Commits changes under the fence.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), OpError> {
        let write = Write { fence: Some((self.op.id.clone(), self.op.fence)), changes };
        match self.engine.db().write(write).await {
            Ok(()) => Ok(()),
            Err(lazuli_meta::WriteError::Conflict(Conflict::Fenced { .. })) => Err(OpError::Interrupted),
            Err(e) => Err(OpError::Failed(ArmError::internal(e))),
        }
    }

    /// Changes the row now, before the operation ends, whatever others do to it meanwhile.
    pub async fn update_resource(&self, update: impl Fn(&mut Resource)) -> Result<(), OpError> {
        loop {
            let mut row = self.resource().await?;
            let expect = Expect::Etag(row.etag.clone());
            update(&mut row);
            row.etag = crate::new_etag();
            row.changed_ms = crate::now_ms();
            let write = Write {
                fence: Some((self.op.id.clone(), self.op.fence)),
                changes: vec![Change::PutResource { resource: row, expect }],
            };
            match self.engine.db().write(write).await {
                Ok(()) => return Ok(()),
                Err(lazuli_meta::WriteError::Conflict(Conflict::Etag { .. })) => {}
                Err(lazuli_meta::WriteError::Conflict(Conflict::Fenced { .. })) => return Err(OpError::Interrupted),
                Err(e) => return Err(OpError::Failed(ArmError::internal(e))),
            }
        }
    }

    /// Changes another row now, whatever others do to it meanwhile; `update` says whether there is anything to change.
    /// A row that is gone is left so.
    pub async fn update_other(&self, key: &str, update: impl Fn(&mut Resource) -> bool) -> Result<(), OpError> {
        loop {
            let Some(mut row) = self.engine.db().resource(key).await.map_err(crate::db_error)? else { return Ok(()) };
            let expect = Expect::Etag(row.etag.clone());
            if !update(&mut row) {
                return Ok(());
            }
            row.etag = crate::new_etag();
            let write = Write {
                fence: Some((self.op.id.clone(), self.op.fence)),
                changes: vec![Change::PutResource { resource: row, expect }],
            };
            match self.engine.db().write(write).await {
                Ok(()) => return Ok(()),
                Err(lazuli_meta::WriteError::Conflict(Conflict::Etag { .. } | Conflict::Missing { .. })) => {}
                Err(lazuli_meta::WriteError::Conflict(Conflict::Fenced { .. })) => return Err(OpError::Interrupted),
                Err(e) => return Err(OpError::Failed(ArmError::internal(e))),
            }
        }
    }

    /// For [`Operation::undo`], which may have to wait for other operations: what was asked to be stopped has stopped, but this
    /// worker may still have to let go.
    pub(crate) fn undoing(&self) -> Self {
        let steps = self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Self {
            engine: self.engine.clone(),
            op: self.op.clone(),
            stop: self.interrupted.child_token(),
            interrupted: self.interrupted.clone(),
            steps: Mutex::new(steps),
        }
    }

    /// Shown by polls and by people; cheap enough to be called a few times a second.
    pub async fn progress(&self, done: u64, total: u64, phase: &str) {
        let (done, total) = (i64::try_from(done).unwrap_or(i64::MAX), i64::try_from(total).unwrap_or(i64::MAX));
        if let Err(error) = self.engine.db().progress(&self.op.id, self.op.fence, done, total, phase).await {
            tracing::warn!(operation = self.op.id, %error, "progress was not recorded");
        }
    }

    /// Error if the operation must not go on.
    pub fn check(&self) -> Result<(), OpError> {
        if self.interrupted.is_cancelled() {
            return Err(OpError::Interrupted);
        }
        if self.stop.is_cancelled() {
            return Err(OpError::Canceled);
        }
        Ok(())
    }
}

const LEASE: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(3);

/// Claims and runs operations until `shutdown` fires; then lets go of what it holds.
pub async fn run_worker(engine: Engine, shutdown: CancellationToken) {
    let owner = format!("worker-{}", uuid::Uuid::new_v4());
    let tracker = tokio_util::task::TaskTracker::new();
    let mut work = engine.db().watch_work();
    while !shutdown.is_cancelled() {
        match engine.db().claim(&owner, None, LEASE).await {
            Ok(Some(op)) => {
                tracker.spawn(run_one(engine.clone(), op, shutdown.child_token()));
            }
            Ok(None) => {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = work.wait(Duration::from_secs(1)) => {}
                }
            }
            Err(error) => {
                tracing::error!(%error, "operations could not be claimed; the database is asked again in a second");
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        }
    }
    tracker.close();
    tracker.wait().await;
}

/// Runs one claimed operation to its end, renewing its lease meanwhile.
async fn run_one(engine: Engine, op: model::Operation, interrupted: CancellationToken) {
    let (id, fence) = (op.id.clone(), op.fence);
    let Some(code) = engine.operation_code(&op.kind) else {
        tracing::error!(operation = id, kind = op.kind, "no code knows this kind of operation");
        return;
    };
    let steps = match engine.db().steps(&id).await {
        Ok(steps) => steps,
        Err(error) => {
            tracing::error!(operation = id, %error, "stored steps could not be read");
            return;
        }
    };
    let stop = interrupted.child_token();
    if op.cancel_requested {
        stop.cancel();
    }
    let cx = OpContext {
        engine: engine.clone(),
        op,
        stop: stop.clone(),
        interrupted: interrupted.clone(),
        steps: Mutex::new(steps),
    };
    let heartbeat = tokio::spawn(keep_lease(engine.clone(), id.clone(), fence, stop, interrupted));
    let ended = finish(&*code, &cx).await;
    heartbeat.abort();
    match ended {
        Ok(()) | Err(OpError::Canceled) => {}
        Err(OpError::Interrupted) => {
            if let Err(error) = engine.db().release(&id, fence).await {
                tracing::warn!(operation = id, %error, "the lease was not released; it will run out");
            }
        }
        Err(OpError::Failed(error)) => {
            tracing::error!(operation = id, error = %error, cause = ?error.cause, "the end of an operation was not stored; it is run again");
        }
    }
}

async fn keep_lease(engine: Engine, id: String, fence: i64, stop: CancellationToken, interrupted: CancellationToken) {
    loop {
        tokio::time::sleep(RENEW).await;
        match engine.db().renew(&id, fence, LEASE).await {
            Ok(true) => {}
            Ok(false) => return interrupted.cancel(),
            Err(error) => tracing::warn!(operation = id, %error, "the lease was not renewed"),
        }
        if let Ok(Some(op)) = engine.db().operation(&id).await
            && op.cancel_requested
        {
            stop.cancel();
        }
    }
}

/// Runs the code, undoes on failure, commits the end.
async fn finish(code: &dyn Operation, cx: &OpContext) -> Result<(), OpError> {
    if cx.op.kind.ends_with(".delete") {
        wait_for_others(cx).await?;
    }
    let (state, outcome, error) = match run_or_resume_undo(code, cx).await {
        Ok(outcome) => (OperationState::Succeeded, outcome, None),
        Err(OpError::Interrupted) => return Err(OpError::Interrupted),
        Err(OpError::Canceled) if cx.interrupted.is_cancelled() => return Err(OpError::Interrupted),
        Err(OpError::Canceled) => {
            let error = ArmError::new(409, "OperationPreempted", "The operation was canceled.");
            (OperationState::Canceled, code.undo(cx).await?, Some(error))
        }
        Err(OpError::Failed(error)) => {
            tracing::warn!(operation = cx.op.id, kind = cx.op.kind, error = %error, cause = ?error.cause, "operation failed");
            (OperationState::Failed, code.undo(cx).await?, Some(error))
        }
    };
    commit_end(cx, state, outcome, error.map(|e| e.to_value())).await
}

/// A deletion begins when whatever else ran on the resource has stopped (it was asked to when the deletion was accepted).
async fn wait_for_others(cx: &OpContext) -> Result<(), OpError> {
    let query = OperationQuery {
        resource_key: Some(cx.op.resource_key.clone()),
        state: Some(OperationState::Running),
        ..OperationQuery::default()
    };
    loop {
        let running = cx.engine.db().operations(&query).await.map_err(crate::db_error)?;
        let Some(other) = running.into_iter().find(|o| o.id != cx.op.id) else { return Ok(()) };
        cx.check()?;
        cx.engine.db().wait_operation(&other.id, Duration::from_secs(1)).await.map_err(crate::db_error)?;
    }
}

/// The step that holds an operation's failure while it is undone.
pub(crate) const FAILED: &str = "(failed)";

/// A failure is remembered before it is undone, so that a crash during undo does not run the operation forward again.
async fn run_or_resume_undo(code: &dyn Operation, cx: &OpContext) -> Result<Outcome, OpError> {
    if let Some(error) = cx.done_step(FAILED) {
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        return Err(OpError::Failed(ArmError::new(409, text("code"), text("message"))));
    }
    match code.run(cx).await {
        Err(OpError::Failed(error)) => {
            let output = error.to_value();
            let step = Change::PutStep { operation: cx.op.id.clone(), step: FAILED.into(), output: output.clone() };
            cx.commit(vec![step]).await?;
            cx.remember(FAILED, output);
            Err(OpError::Failed(error))
        }
        other => other,
    }
}

async fn commit_end(
    cx: &OpContext,
    state: OperationState,
    outcome: Outcome,
    error: Option<Value>,
) -> Result<(), OpError> {
    let line = crate::activity_log::end_of(cx.engine.db(), &cx.op, state, error.as_ref()).await;
    let line = line.map_err(ArmError::internal)?;
    loop {
        let row = cx.engine.db().resource(&cx.op.resource_key).await.map_err(ArmError::internal)?;
        let mut changes = outcome.changes.clone();
        changes.extend(line.clone().map(Change::Audit));
        match row {
            Some(row) if outcome.delete => {
                changes.push(Change::DeleteContentRefs { resource_key: row.key.clone() });
                changes.push(Change::DeleteGrantsOf { resource_key: row.key.clone() });
                changes.push(Change::DeleteResource { key: row.key.clone(), expect: Expect::Etag(row.etag) });
            }
            Some(mut row) => {
                let expect = Expect::Etag(row.etag.clone());
                // A later delete may already have marked the row; its mark stays.
                if row.provisioning_state != "Deleting" || cx.op.kind.ends_with(".delete") {
                    row.provisioning_state = match state {
                        OperationState::Succeeded => "Succeeded",
                        OperationState::Canceled => "Canceled",
                        _ => "Failed",
                    }
                    .to_owned();
                }
                if let Some(update) = &outcome.update {
                    update(&mut row);
                }
                row.etag = crate::new_etag();
                row.changed_ms = crate::now_ms();
                changes.push(Change::PutResource { resource: row, expect });
            }
            None => {}
        }
        changes.push(Change::EndOperation {
            id: cx.op.id.clone(),
            state,
            output: outcome.output.clone(),
            error: error.clone(),
        });
        let write = Write { fence: Some((cx.op.id.clone(), cx.op.fence)), changes };
        match cx.engine.db().write(write).await {
            Ok(()) => return Ok(()),
            // Only the resource's own row is read again; another row's conflict would come back for ever.
            Err(lazuli_meta::WriteError::Conflict(Conflict::Etag { key } | Conflict::Missing { key }))
                if key == cx.op.resource_key => {}
            Err(lazuli_meta::WriteError::Conflict(Conflict::Fenced { .. })) => return Err(OpError::Interrupted),
            Err(e) => return Err(OpError::Failed(ArmError::internal(e))),
        }
    }
}
