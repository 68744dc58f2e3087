//! Forgets operations that ended long ago, with their steps: nobody asks for their ends any more. One that runs is never forgotten.

use super::every;
use crate::{Engine, db_error, now_ms};
use lazuli_arm::ArmError;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMER: Duration = Duration::from_secs(3600);
/// Clients poll for hours, `az deployment operation` and people ask for days.
const KEPT_MS: i64 = 7 * 24 * 3600 * 1000;
/// What deployments and image templates show of their last run is kept with it.
const SHOWN: [&str; 2] = [crate::deployments::RUN, crate::image_builder::RUN];
/// Operations of one transaction.
const BATCH: i64 = 1000;

/// Runs until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    every(TIMER, &shutdown, || async {
        if let Err(error) = reconcile(&engine, now_ms()).await {
            tracing::warn!(%error, "old operations were not forgotten; they are looked at again");
        }
    })
    .await;
}

/// Returns how many were forgotten.
pub(crate) async fn reconcile(engine: &Engine, now_ms: i64) -> Result<u64, ArmError> {
    let before = now_ms.saturating_sub(KEPT_MS);
    let mut forgotten = 0;
    loop {
        let batch = engine.db().purge_operations(before, BATCH, &SHOWN).await.map_err(db_error)?;
        forgotten += batch;
        if batch == 0 {
            return Ok(forgotten);
        }
    }
}
