//! The log of a template's last run, piece by piece while it grows (Lazuli's own: `GET …/imageTemplates/t/log?offset=N`).
//!
//! ```text
//! {"run": ID | null, "offset": where the next piece begins, "text": …, "ended": bool}
//! ```
//! Who may read the template may read it; secrets are masked when it is written.

use super::staging::{LOGS, log_blob};
use super::{RUN, TemplateInternal};
use crate::db_error;
use crate::provider::Context;
use crate::storage::{Access, Code, Place, StorageError};
use crate::stored::internal;
use futures::StreamExt as _;
use lazuli_arm::ArmError;
use lazuli_meta::model::{OperationQuery, Resource};
use serde_json::{Value, json};

/// In one answer.
const PIECE: u64 = 256 << 10;
/// The step in which a run chose the name of its log.
const PREPARED: &str = "prepare";

type Piece = (Vec<u8>, u64);

pub(crate) async fn view(cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
    let offset = match cx.call.query.get("offset") {
        None => 0,
        Some(text) => text.parse().map_err(|_| {
            ArmError::invalid_parameter("offset", format!("The value '{text}' of offset is no number of bytes."))
        })?,
    };
    let state: TemplateInternal = internal(row)?;
    let active = state.last_run.as_ref().is_some_and(super::rules::LastRun::is_active);
    let Some(run) = last_run(cx, row).await? else {
        return Ok(json!({"run": null, "offset": offset, "text": "", "ended": !active}));
    };
    let place = Place {
        account: state.staging.storage(&row.location)?,
        container: LOGS.to_owned(),
        blob: log_blob(&run),
        snapshot: None,
    };
    let (bytes, size) = match read(cx, &place, offset).await {
        Ok(piece) => piece,
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
    Ok(json!({"run": run, "offset": next, "text": text, "ended": !active && next >= size}))
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

/// The name that the last run gave to its log.
async fn last_run(cx: Context<'_>, row: &Resource) -> Result<Option<String>, ArmError> {
    let query = OperationQuery {
        resource_key: Some(row.key.clone()),
        kind: Some(RUN.to_owned()),
        limit: Some(1),
        ..OperationQuery::default()
    };
    let Some(operation) = cx.engine.db().operations(&query).await.map_err(db_error)?.into_iter().next() else {
        return Ok(None);
    };
    let steps = cx.engine.db().steps(&operation.id).await.map_err(db_error)?;
    let prepared = steps.into_iter().find(|(name, _)| name == PREPARED);
    Ok(prepared.and_then(|(_, output)| output["run"].as_str().map(str::to_owned)))
}
