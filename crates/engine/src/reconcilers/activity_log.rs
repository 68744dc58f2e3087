//! Forgets lines of the activity log that are older than it is kept. Never ends a transaction with more than one batch in it.

use super::every;
use crate::{Engine, db_error, now_ms};
use lazuli_arm::ArmError;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMER: Duration = Duration::from_secs(3600);
/// Lines of one transaction.
const BATCH: i64 = 1000;

/// Runs until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    every(TIMER, &shutdown, || async {
        if let Err(error) = reconcile(&engine, now_ms()).await {
            tracing::warn!(%error, "old lines of the activity log were not forgotten; they are looked at again");
        }
    })
    .await;
}

/// Returns how many lines were forgotten.
pub(crate) async fn reconcile(engine: &Engine, now_ms: i64) -> Result<u64, ArmError> {
    let Some(age) = engine.config().activity_log_age else { return Ok(0) };
    let before = now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let mut forgotten = 0;
    loop {
        let batch = engine.db().purge_audit(before, BATCH).await.map_err(db_error)?;
        forgotten += batch;
        if batch == 0 {
            return Ok(forgotten);
        }
    }
}
