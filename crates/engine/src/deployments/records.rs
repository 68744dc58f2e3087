//! What a deployment remembers of each of its resources: two steps of its operation.
//!
//! ```text
//! start ID ─▶ {target, operation | refused}     the PUT was answered
//! end ID   ─▶ {state, error?}                   its operation has ended
//! ```
//! From them `…/deployments/d/operations` is shown, and after a restart the deployment goes on. Bodies are not among what is kept.

use super::{KIND, RUN, view};
use crate::call::Call;
use crate::{Engine, db_error, time_text};
use aws_lc_rs::digest;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{OperationQuery, Resource};
use lazuli_template::Planned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A resource's PUT was answered.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Started {
    pub id: String,
    pub kind: String,
    pub name: String,
    pub at_ms: i64,
    pub created: bool,
    /// What makes it; `None` where it was refused.
    pub operation: Option<String>,
    pub refused: Option<Refused>,
}

/// An error as it is kept.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Refused {
    pub status: u16,
    pub error: Value,
}

/// The resource is there, or will not be.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended {
    pub at_ms: i64,
    pub failed: Option<Refused>,
}

/// The step in which a deployment's outputs were evaluated.
pub(super) const OUTPUTS: &str = "outputs";

pub(super) fn start_step(resource: &Planned) -> String {
    format!("start {}", operation_id(&resource.id))
}

pub(super) fn end_step(resource: &Planned) -> String {
    format!("end {}", operation_id(&resource.id))
}

/// 16 hexadecimal digits, the same for the same resource.
fn operation_id(target: &str) -> String {
    let hash = digest::digest(&digest::SHA256, target.to_ascii_lowercase().as_bytes());
    hex::encode_upper(&hash.as_ref()[..8])
}

/// Whether the deployment has not ended.
pub(crate) fn is_active(row: &Resource) -> bool {
    matches!(row.provisioning_state.as_str(), "Creating" | "Updating" | "Running")
}

/// Id of the operation that last ran the deployment.
pub(crate) async fn latest_run(engine: &Engine, key: &str) -> Result<Option<String>, ArmError> {
    let query = OperationQuery {
        resource_key: Some(key.to_owned()),
        kind: Some(RUN.to_owned()),
        limit: Some(1),
        ..OperationQuery::default()
    };
    Ok(engine.db().operations(&query).await.map_err(db_error)?.into_iter().next().map(|o| o.id))
}

/// `…/deployments/d/operations`, as `{operationId: shown}` in the order of their beginning.
pub(crate) async fn operations(engine: &Engine, row: &Resource) -> Result<Vec<Value>, ArmError> {
    let Some(run) = latest_run(engine, &row.key).await? else { return Ok(vec![]) };
    let steps = engine.db().steps(&run).await.map_err(db_error)?;
    let ended = |id: &str| -> Option<Ended> {
        let (_, value) = steps.iter().find(|(name, _)| name.strip_prefix("end ") == Some(id))?;
        serde_json::from_value(value.clone()).ok()
    };
    let mut shown = Vec::new();
    for (name, value) in &steps {
        if let Some(id) = name.strip_prefix("start ")
            && let Ok(started) = serde_json::from_value::<Started>(value.clone())
        {
            shown.push(one(row, id, &started, ended(id).as_ref()));
        }
        if name == OUTPUTS {
            let id = operation_id(&format!("{}/outputs", row.key));
            shown.push(framed(
                row,
                &id,
                json!({
                    "provisioningOperation": "EvaluateDeploymentOutput", "provisioningState": "Succeeded",
                    "timestamp": time_text(row.changed_ms), "duration": "PT0S", "trackingId": run, "statusCode": "OK",
                }),
            ));
        }
    }
    Ok(shown)
}

fn framed(row: &Resource, id: &str, properties: Value) -> Value {
    json!({"id": format!("{}/operations/{id}", row.id), "operationId": id, "properties": properties})
}

fn one(row: &Resource, id: &str, started: &Started, ended: Option<&Ended>) -> Value {
    let failed = ended.and_then(|e| e.failed.as_ref());
    let state = match (ended, failed) {
        (None, _) => "Running",
        (Some(_), None) => "Succeeded",
        (Some(_), Some(_)) => "Failed",
    };
    let until = ended.map_or_else(crate::now_ms, |e| e.at_ms);
    let mut properties = json!({
        "provisioningOperation": "Create", "provisioningState": state, "timestamp": time_text(until),
        "duration": view::duration(until - started.at_ms),
        "trackingId": started.operation.clone().unwrap_or_else(|| uuid::Uuid::nil().to_string()),
        "targetResource": {"id": started.id, "resourceType": started.kind, "resourceName": started.name},
    });
    match failed {
        Some(failed) => {
            properties["statusCode"] = status_word(failed.status).into();
            properties["statusMessage"] = json!({"status": "Failed", "error": failed.error});
        }
        None if ended.is_some() => {
            properties["statusCode"] = if started.created { "Created" } else { "OK" }.into();
        }
        None => {}
    }
    framed(row, id, properties)
}

fn status_word(status: u16) -> &'static str {
    match status {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalServerError",
    }
}

impl Engine {
    /// `GET …/deployments/d/operations/ID`; `None` where the id is no such.
    pub(crate) async fn deployment_operation(&self, call: &Call, id: &ResourceId) -> Result<Option<Value>, ArmError> {
        let is = id.resource_type().key() == format!("{}/operations", KIND.to_ascii_lowercase());
        let Some(deployment) = id.parent().filter(|_| is) else { return Ok(None) };
        let row = self.readable_row(call, &deployment, self.provider_of(&deployment)?.as_ref()).await?;
        let found = operations(self, &row)
            .await?
            .into_iter()
            .find(|o| o["operationId"].as_str().is_some_and(|o| o.eq_ignore_ascii_case(id.name())));
        found.map(Some).ok_or_else(|| {
            ArmError::new(
                404,
                "DeploymentOperationNotFound",
                format!("The deployment operation '{}' could not be found.", id.name()),
            )
        })
    }
}
