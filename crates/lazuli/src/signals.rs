//! SIGTERM and SIGINT: the first asks to end, the second ends.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that fires when the process is asked to end. A second signal ends it at once.
pub fn shutdown() -> std::io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let fired = token.clone();
    tokio::spawn(async move {
        for last in [false, true] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if last {
                tracing::warn!("asked twice to end: ending at once");
                std::process::exit(1);
            }
            tracing::info!("asked to end");
            fired.cancel();
        }
    });
    Ok(token)
}
