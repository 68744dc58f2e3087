//! Writes to other resources that an operation makes for whoever asked for it: under their rights, as requests of theirs.

use crate::call::{ActionReply, Call, Deleted};
use crate::db_error;
use crate::operation::{OpContext, OpError};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::OperationState;
use serde_json::Value;
use std::time::Duration;

/// Between two tries of a request that met another operation on the resource.
const BUSY: Duration = Duration::from_millis(500);

/// Puts a resource, and waits until it is there.
pub(crate) async fn put(cx: &OpContext, call: &Call, id: &ResourceId, body: &Value) -> Result<(), OpError> {
    // Boxed: an operation within an operation within a worker is deep.
    let ask = || async { Ok(Box::pin(cx.engine.put(call, id, body.clone())).await?.operation) };
    ended(cx, again(cx, ask).await?).await
}

/// Removes a resource, and waits until it is gone.
pub(crate) async fn delete(cx: &OpContext, call: &Call, id: &ResourceId) -> Result<(), OpError> {
    let ask = || async {
        Ok(match Box::pin(cx.engine.delete(call, id)).await? {
            Deleted::Absent => None,
            Deleted::Done { operation } | Deleted::Started { operation } => Some(operation),
        })
    };
    ended(cx, again(cx, ask).await?).await
}

/// Asks for an action, and waits for its end.
pub(crate) async fn action(cx: &OpContext, call: &Call, id: &ResourceId, action: &str) -> Result<(), OpError> {
    let ask = || async {
        Ok(match Box::pin(cx.engine.action(call, id, action, Value::Null)).await? {
            ActionReply::Started { operation } => Some(operation),
            ActionReply::Done(_) => None,
        })
    };
    ended(cx, again(cx, ask).await?).await
}

/// The operation that a request has started, once nothing else is under way on its resource.
async fn again<F>(cx: &OpContext, ask: impl Fn() -> F) -> Result<Option<String>, OpError>
where
    F: Future<Output = Result<Option<String>, ArmError>>,
{
    loop {
        cx.check()?;
        match ask().await {
            Err(error) if matches!(error.code.as_str(), "AnotherOperationInProgress" | "ServiceUnavailable") => {
                tokio::select! {
                    () = cx.stop.cancelled() => {}
                    () = tokio::time::sleep(BUSY) => {}
                }
            }
            answer => return Ok(answer?),
        }
    }
}

/// Its failure is this operation's.
async fn ended(cx: &OpContext, operation: Option<String>) -> Result<(), OpError> {
    let Some(operation) = operation else { return Ok(()) };
    loop {
        cx.check()?;
        let ended = cx.engine.db().wait_operation(&operation, Duration::from_secs(1)).await.map_err(db_error)?;
        let Some(ended) = ended else { return Ok(()) };
        match ended.state {
            OperationState::Running => {}
            OperationState::Succeeded => return Ok(()),
            OperationState::Failed | OperationState::Canceled => {
                let text = |name: &str, default: &str| {
                    let error = ended.error.as_ref();
                    error.and_then(|e| e[name].as_str()).unwrap_or(default).to_owned()
                };
                let (code, message) =
                    (text("code", "OperationPreempted"), text("message", "The operation was canceled."));
                return Err(OpError::Failed(ArmError::new(409, code, message)));
            }
        }
    }
}
