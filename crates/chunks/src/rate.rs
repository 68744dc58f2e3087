//! A limit on bytes a second, shared by all who hold a clone.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{ChunkError, Result};

/// Lets bytes pass at a steady rate. Nothing is saved up: after a pause there is no burst.
#[derive(Debug, Clone)]
pub struct RateLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_per_second: NonZeroU64,
    /// When what was let pass so far is through.
    free_at: Mutex<Option<Instant>>,
}

impl RateLimit {
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self(Arc::new(Shared { bytes_per_second, free_at: Mutex::default() }))
    }

    pub fn bytes_per_second(&self) -> NonZeroU64 {
        self.0.bytes_per_second
    }

    /// Returns when `bytes` that were just moved fit the rate.
    pub async fn pass(&self, bytes: u64) {
        tokio::time::sleep_until(self.until(bytes, Instant::now())).await;
    }

    /// As [`RateLimit::pass`], unless it is cancelled meanwhile.
    pub(crate) async fn pass_unless(&self, cancel: &CancellationToken, bytes: u64) -> Result<()> {
        tokio::select! {
            () = cancel.cancelled() => Err(ChunkError::Cancelled),
            () = self.pass(bytes) => Ok(()),
        }
    }

    fn until(&self, bytes: u64, now: Instant) -> Instant {
        let mut free_at = self.0.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
        let takes = Duration::from_secs_f64(bytes as f64 / self.0.bytes_per_second.get() as f64);
        let until = free_at.map_or(now, |at| at.max(now)) + takes;
        *free_at = Some(until);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_rate_and_a_pause_earns_nothing() {
        let limit = RateLimit::new(NonZeroU64::new(1000).unwrap());
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(limit.until(500, now), now + second / 2);
        assert_eq!(limit.clone().until(1500, now), now + 2 * second);
        let later = now + 60 * second;
        assert_eq!(limit.until(2000, later), later + 2 * second);
    }
}
