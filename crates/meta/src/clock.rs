//! Wall-clock time, exchangeable so that leases can be tested without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Gives milliseconds since the Unix epoch.
///
/// Leases compare the clocks of several machines. A clock that is off makes a lease end early or late; the fence, not
/// the clock, keeps a worker that lost its lease from writing.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The clock of the machine.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        }))
    }

    #[must_use]
    pub fn now_ms(&self) -> i64 {
        (self.0)()
    }

    /// `duration` from now, in milliseconds since the epoch.
    #[must_use]
    pub fn after_ms(&self, duration: Duration) -> i64 {
        self.now_ms().saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now_ms())
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    #[must_use]
    pub fn at(now_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_ms)))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    #[must_use]
    pub fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Clock(Arc::new(move || now.load(Ordering::SeqCst)))
    }
}
