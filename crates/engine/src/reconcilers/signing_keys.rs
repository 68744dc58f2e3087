//! Follows the key that tokens are signed with by another one when it is old.

use super::every;
use crate::{Engine, now_ms};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMER: Duration = Duration::from_secs(3600);

/// Runs until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    every(TIMER, &shutdown, || async {
        if let Err(error) = engine.rotate_signing_key_by_age(now_ms()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the key of tokens was not followed by another; it signs on"
            );
        }
    })
    .await;
}
