//! The log of a template's last run, piece by piece while it grows (Lazuli's own: `GET …/imageTemplates/t/log?offset=N`).
//!
//! ```text
//! {"run": ID | null, "offset": where the next piece begins, "text": …, "ended": bool}
//! ```
//! `run=ID` asks for the log of that run, though another may have begun since. The edge makes a stream of these pieces
//! (`…/logStream`). Who may read the template may read it; secrets are masked when it is written.

use super::staging::{LOGS, log_blob};
use super::{RUN, TemplateInternal};
use crate::db_error;
use crate::provider::Context;
use crate::storage::{Access, Code, Place, StorageError};
use crate::stored::internal;
use futures::StreamExt as _;
use lazuli_arm::ArmError;
use lazuli_meta::model::{OperationQuery, OperationState, Resource};
use serde_json::{Value, json};
use uuid::Uuid;

/// In one answer.
const PIECE: u64 = 256 << 10;
/// The step in which a run chose the name of its log.
const PREPARED: &str = "prepare";

type Piece = (Vec<u8>, u64);

pub(crate) async fn view(cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
    let (offset, asked) = (offset(cx)?, asked(cx)?);
    let (last, runs) = last_run(cx, row).await?;
    let over = !runs || (asked.is_some() && asked != last);
    let Some(run) = asked.clone().or_else(|| last.clone()) else {
        return Ok(json!({"run": null, "offset": offset, "text": "", "ended": over}));
    };
    let state: TemplateInternal = internal(row)?;
    let place = Place {
        account: state.staging.storage(&row.location)?,
        container: LOGS.to_owned(),
        blob: log_blob(&run),
        snapshot: None,
    };
    let (bytes, size) = match read(cx, &place, offset).await {
        Ok(piece) => piece,
        Err(error) if is_absent(&error) && asked.is_some() && asked != last => return Err(no_log(&row.name, &run)),
        Err(error) if is_absent(&error) => (vec![], offset),
        Err(error) => return Err(error.into()),
    };
    // A letter that is cut in two waits for its rest.
    let whole = match std::str::from_utf8(&bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => bytes.len(),
    };
    let next = offset + whole as u64;
    let text = String::from_utf8_lossy(&bytes[..whole]);
    Ok(json!({"run": run, "offset": next, "text": text, "ended": over && next >= size}))
}

fn offset(cx: Context<'_>) -> Result<u64, ArmError> {
    let Some(text) = cx.call.query.get("offset") else { return Ok(0) };
    text.parse().map_err(|_| {
        ArmError::invalid_parameter("offset", format!("The value '{text}' of offset is no number of bytes."))
    })
}

/// The run whose log is asked for by its name.
fn asked(cx: Context<'_>) -> Result<Option<String>, ArmError> {
    let Some(text) = cx.call.query.get("run") else { return Ok(None) };
    let run = Uuid::parse_str(text)
        .map_err(|_| ArmError::invalid_parameter("run", format!("The value '{text}' of run is no run's id.")))?;
    Ok(Some(run.to_string()))
}

fn no_log(template: &str, run: &str) -> ArmError {
    ArmError::new(404, "NotFound", format!("The image template '{template}' has no log of a run '{run}'."))
}

fn is_absent(error: &StorageError) -> bool {
    matches!(error, StorageError::Refused(Code::BlobNotFound | Code::ContainerNotFound))
}

/// A piece from `offset` on, and the log's length.
async fn read(cx: Context<'_>, place: &Place, offset: u64) -> Result<Piece, StorageError> {
    let opened = cx.engine.storage().open(place, &Access::default()).await?;
    let size = opened.info.size;
    let mut bytes = Vec::new();
    let mut pieces = Box::pin(opened.read(offset.min(size)..(offset.saturating_add(PIECE)).min(size)));
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok((bytes, size))
}

/// The name that the last run gave to its log, once it has one, and whether the run goes on. What the operation says: its log is
/// whole when it has ended.
async fn last_run(cx: Context<'_>, row: &Resource) -> Result<(Option<String>, bool), ArmError> {
    let query = OperationQuery {
        resource_key: Some(row.key.clone()),
        kind: Some(RUN.to_owned()),
        limit: Some(1),
        ..OperationQuery::default()
    };
    let Some(operation) = cx.engine.db().operations(&query).await.map_err(db_error)?.into_iter().next() else {
        return Ok((None, false));
    };
    let steps = cx.engine.db().steps(&operation.id).await.map_err(db_error)?;
    let prepared = steps.into_iter().find(|(name, _)| name == PREPARED);
    let run = prepared.and_then(|(_, output)| output["run"].as_str().map(str::to_owned));
    Ok((run, operation.state == OperationState::Running))
}
