//! Frees what a crash or a failed sweep left behind: deletions sweep their own regions, this loop catches the rest.

use crate::Engine;
use crate::content::sweep;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Unfinished work of a process that died is found at the next of these.
const TIMER: Duration = Duration::from_secs(3600);

/// Runs until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TIMER) => {}
        }
        match engine.regions().known() {
            Ok(regions) => sweep(&engine, regions).await,
            Err(error) => tracing::error!(%error, "the folder of the regions could not be read; it is looked at again"),
        }
    }
}
