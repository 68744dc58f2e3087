//! Waits on conditions, never for a time.

use std::time::Duration;
use tokio::time::Instant;

/// Asks until the answer is `Some`; fails the test, naming `what`, when `within` has passed.
///
/// # Panics
/// When the time is over.
pub async fn wait_for<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain for {what}", within.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
