//! Loops that make the world look as the rows say. Each takes no input, may run at any time and any number of times, and is
//! woken by a signal and by a timer, so that a lost signal costs time and nothing else.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) mod activity_log;
pub(crate) mod garbage;
pub(crate) mod grants;
pub(crate) mod image_triggers;
pub(crate) mod network;
pub(crate) mod operations;
pub(crate) mod signing_keys;
pub(crate) mod soft_deleted;

/// Works at once and again after each `pause`, until `shutdown` fires.
async fn every<F: Future<Output = ()>>(pause: Duration, shutdown: &CancellationToken, work: impl Fn() -> F) {
    while !shutdown.is_cancelled() {
        work().await;
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
