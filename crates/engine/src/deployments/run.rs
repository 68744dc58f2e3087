//! Deploys: writes each resource when what it waits for is done, side by side where nothing stands against it.
//!
//! ```text
//! waiting ──▶ writing ──▶ its operation runs ──▶ done
//!    │           │                │
//!    │           └────────────────┴─────────────▶ failed      others go on, its users are never written
//!    └──────────────────────────────────────────▶ skipped     its condition does not hold
//! ```
//! Run again after a crash it goes on where it was: a resource whose PUT was answered is only waited for, one that was not is put
//! again, which is what a PUT is for.

use super::facts::settled;
use super::hanging::Hanging;
use super::records::{Ended, OUTPUTS, Refused, Started, end_step, start_step};
use super::{Input, KIND, view};
use crate::call::{Call, Deleted};
use crate::db_error;
use crate::operation::{FAILED, OpContext, OpError, Outcome};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{OperationState, Resource, ResourceQuery};
use lazuli_template::{Plan, Planned};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

/// Resources that are written at the same time.
const SIDE_BY_SIDE: usize = 32;
/// Between two tries of a PUT that met another operation on the resource.
const BUSY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Writing,
    Done,
    Failed,
}

/// The whole deployment.
///
/// # Errors
/// `DeploymentFailed`, with the error of each resource.
pub(crate) async fn run(cx: &OpContext) -> Result<Outcome, OpError> {
    let row = cx.resource().await?;
    let mut input = Input::of(&cx.engine, &row)?;
    let plan = input.plan(&input.who.id(&row.id).map_err(ArmError::internal)?)?;
    cx.update_resource(|r| {
        if r.provisioning_state != "Deleting" {
            "Running".clone_into(&mut r.provisioning_state);
        }
    })
    .await?;
    deploy_all(cx, &row, &input, &plan).await?;
    if input.complete {
        remove_others(cx, &row, &input, &plan).await?;
    }
    let outputs = settled(&cx.engine, &input.who, |facts| plan.outputs(facts)).await;
    let outputs = outputs.map_err(|error| failed(&row, vec![error]))?;
    cx.step(OUTPUTS, async { Ok(()) }).await?;
    let resources: Value =
        plan.resources.iter().filter(|r| r.condition && !r.existing).map(|r| json!({"id": r.id})).collect();
    input.forget_secrets();
    let internal = input.internal(&cx.engine, &row.key)?;
    let started = cx.op.started_ms;
    Ok(Outcome::update(move |row| {
        ended(row, started, &internal);
        row.body["properties"]["outputs"] = outputs.clone();
        row.body["properties"]["outputResources"] = resources.clone();
    }))
}

/// How a deployment is left that did not succeed: with its error, without its secrets. What was deployed stays, as in Azure;
/// deployments within it are asked to stop.
pub(crate) async fn undo(cx: &OpContext) -> Result<Outcome, OpError> {
    let row = cx.resource().await?;
    let error = cx.done_step(FAILED);
    if let Ok(input) = Input::of(&cx.engine, &row)
        && let Ok(plan) = input.plan(&input.who.id(&row.id).map_err(ArmError::internal)?)
    {
        for nested in plan.resources.iter().filter(|r| r.kind.eq_ignore_ascii_case(KIND)) {
            let started: Option<Started> =
                cx.done_step(&start_step(nested)).and_then(|v| serde_json::from_value(v).ok());
            if let Some(operation) = started.and_then(|s| s.operation) {
                cx.engine.db().request_cancel(&operation).await.map_err(db_error)?;
            }
        }
    }
    let internal = match Input::of(&cx.engine, &row) {
        Ok(mut input) => {
            input.forget_secrets();
            input.internal(&cx.engine, &row.key)?
        }
        Err(_) => row.internal.clone(),
    };
    let started = cx.op.started_ms;
    Ok(Outcome::update(move |row| {
        ended(row, started, &internal);
        if let Some(error) = &error {
            row.body["properties"]["error"] = error.clone();
        }
    }))
}

fn ended(row: &mut Resource, started_ms: i64, internal: &Value) {
    let now = crate::now_ms();
    row.internal = internal.clone();
    row.body["properties"]["duration"] = view::duration(now - started_ms).into();
    row.body["properties"]["timestamp"] = crate::time_text(now).into();
}

fn failed(row: &Resource, details: Vec<ArmError>) -> OpError {
    let mut error = ArmError::conflict(
        "DeploymentFailed",
        "At least one resource deployment operation failed. Please list deployment operations for details. Please see \
         https://aka.ms/arm-deployment-operations for usage details.",
    )
    .target(row.id.clone());
    error.details = details;
    OpError::Failed(error)
}

async fn deploy_all(cx: &OpContext, row: &Resource, input: &Input, plan: &Plan) -> Result<(), OpError> {
    let mut states: Vec<State> =
        plan.resources.iter().map(|r| if r.condition { State::Waiting } else { State::Done }).collect();
    let mut errors = Vec::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < SIDE_BY_SIDE
            && let Some(next) = next_ready(plan, &states)
        {
            states[next] = State::Writing;
            running.push(async move { (next, deploy_one(cx, input, plan, next).await) });
        }
        let done = states.iter().filter(|s| matches!(s, State::Done | State::Failed)).count();
        cx.progress(done as u64, states.len() as u64, "deploying resources").await;
        let Some((index, result)) = running.next().await else { break };
        match result? {
            None => states[index] = State::Done,
            Some(refused) => {
                states[index] = State::Failed;
                errors.push(error_of(refused, &plan.resources[index]));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(failed(row, errors)) }
}

fn next_ready(plan: &Plan, states: &[State]) -> Option<usize> {
    let ready = |i: &usize| plan.resources[*i].depends_on.iter().all(|d| states[*d] == State::Done);
    (0..states.len()).filter(|i| states[*i] == State::Waiting).find(ready)
}

fn error_of(refused: Refused, resource: &Planned) -> ArmError {
    from_value(refused.status, &refused.error).target(resource.id.clone())
}

/// An error as it was shown, with what is in it.
fn from_value(status: u16, value: &Value) -> ArmError {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut error = ArmError::new(status, text("code"), text("message"));
    error.target = value["target"].as_str().map(str::to_owned);
    let details = value["details"].as_array().map_or(&[][..], Vec::as_slice);
    error.details = details.iter().map(|d| from_value(status, d)).collect();
    error
}

/// Writes one resource and waits until it is there; `Some`: why it is not.
async fn deploy_one(cx: &OpContext, input: &Input, plan: &Plan, index: usize) -> Result<Option<Refused>, OpError> {
    let resource = &plan.resources[index];
    if resource.existing {
        return Ok(None);
    }
    let started: Started = cx.step(&start_step(resource), start(cx, input, plan, index)).await?;
    let ended: Ended = cx.step(&end_step(resource), end(cx, started)).await?;
    Ok(ended.failed)
}

async fn start(cx: &OpContext, input: &Input, plan: &Plan, index: usize) -> Result<Started, OpError> {
    let resource = &plan.resources[index];
    let at_ms = crate::now_ms();
    let (created, operation, refused) = match write(cx, input, plan, index).await {
        Ok((created, operation)) => (created, operation, None),
        Err(OpError::Failed(error)) => (false, None, Some(Refused { status: error.status, error: error.to_value() })),
        Err(stopped) => return Err(stopped),
    };
    let (id, kind, name) = (resource.id.clone(), resource.kind.clone(), resource.name.clone());
    Ok(Started { id, kind, name, at_ms, created, operation, refused })
}

/// The PUT itself, once nothing else is under way on the resource.
async fn write(cx: &OpContext, input: &Input, plan: &Plan, index: usize) -> Result<(bool, Option<String>), OpError> {
    let resource = &plan.resources[index];
    let body = settled(&cx.engine, &input.who, |facts| plan.body(index, facts)).await?;
    let call = input.who.call(&resource.api_version)?;
    if let Some(hanging) = Hanging::parse(&resource.id) {
        return Ok((hanging.put(&cx.engine, &call, body).await?, None));
    }
    let id = input.who.id(&resource.id).map_err(ArmError::internal)?;
    loop {
        cx.check()?;
        match cx.engine.put(&call, &id, body.clone()).await {
            Ok(written) => return Ok((written.created, written.operation)),
            Err(error) if matches!(error.code.as_str(), "AnotherOperationInProgress" | "ServiceUnavailable") => {
                tokio::select! {
                    () = cx.stop.cancelled() => {}
                    () = tokio::time::sleep(BUSY) => {}
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn end(cx: &OpContext, started: Started) -> Result<Ended, OpError> {
    let failed = match (started.refused, started.operation) {
        (Some(refused), _) => Some(refused),
        (None, Some(operation)) => wait(cx, &operation, &started.id).await?,
        (None, None) => None,
    };
    Ok(Ended { at_ms: crate::now_ms(), failed })
}

/// Until an operation has ended; `Some`: why it failed.
async fn wait(cx: &OpContext, operation: &str, id: &str) -> Result<Option<Refused>, OpError> {
    loop {
        cx.check()?;
        let ended = cx.engine.db().wait_operation(operation, Duration::from_secs(1)).await.map_err(db_error)?;
        let Some(ended) = ended else { return Ok(None) };
        let state = match ended.state {
            OperationState::Running => continue,
            OperationState::Succeeded => return Ok(None),
            OperationState::Failed => "Failed",
            OperationState::Canceled => "Canceled",
        };
        let message = format!(
            "The resource write operation failed to complete successfully, because it reached terminal provisioning state '{state}'."
        );
        let details: Vec<Value> = ended.error.into_iter().collect();
        let error = json!({"code": "ResourceDeploymentFailure", "target": id, "message": message, "details": details});
        return Ok(Some(Refused { status: 409, error }));
    }
}

/// Complete mode: what is in the group and not in the template goes, users before what they use.
async fn remove_others(cx: &OpContext, row: &Resource, input: &Input, plan: &Plan) -> Result<(), OpError> {
    let call = input.who.call("")?;
    let keep: HashSet<String> = plan.resources.iter().filter(|r| r.condition).map(|r| top_level(&r.id)).collect();
    loop {
        cx.check()?;
        let others = others(cx, row, &keep).await?;
        let rank = |r: &Resource| cx.engine.provider_of_kind(&r.kind).map_or(u8::MAX, |p| p.delete_rank());
        let Some(next) = others.into_iter().min_by_key(|r| (rank(r), std::cmp::Reverse(r.key.matches('/').count())))
        else {
            return Ok(());
        };
        remove(cx, &call, &next).await.map_err(|error| match error {
            OpError::Failed(error) => failed(row, vec![error.target(next.id.clone())]),
            stopped => stopped,
        })?;
    }
}

/// Rows of the group that the template does not keep.
async fn others(cx: &OpContext, row: &Resource, keep: &HashSet<String>) -> Result<Vec<Resource>, OpError> {
    let group = ResourceId::group(&row.subscription, &row.resource_group).key();
    let query = ResourceQuery { under: Some(group), ..ResourceQuery::default() };
    let mut rows = cx.engine.all_rows(query).await?;
    rows.retain(|r| is_removable(r) && !keep.contains(&top_level(&r.id)));
    Ok(rows)
}

pub(super) fn is_removable(row: &Resource) -> bool {
    row.kind != "microsoft.resources/resourcegroups" && !row.kind.eq_ignore_ascii_case(KIND)
}

/// Key of the resource that is directly in the group.
pub(super) fn top_level(id: &str) -> String {
    let Ok(mut id) = id.parse::<ResourceId>() else { return id.to_ascii_lowercase() };
    id.segments.truncate(1);
    id.key()
}

async fn remove(cx: &OpContext, call: &Call, row: &Resource) -> Result<(), OpError> {
    let id: ResourceId = row.id.parse().map_err(ArmError::internal)?;
    let operation = match cx.engine.delete(call, &id).await? {
        Deleted::Absent => return Ok(()),
        Deleted::Done { operation } | Deleted::Started { operation } => operation,
    };
    match wait(cx, &operation, &row.id).await? {
        Some(refused) => Err(OpError::Failed(from_value(refused.status, &refused.error))),
        None => Ok(()),
    }
}
