//! Waking up those who wait for work or for an operation to change.
//!
//! A wake-up is a hint, never the truth: whoever is woken reads the database, and whoever is not woken in time reads it
//! when the wait ends. Signals come from this process and, with PostgreSQL, from the others (`LISTEN`/`NOTIFY`).

use std::time::Duration;

use tokio::sync::watch;

/// PostgreSQL channel that carries a [`Signal`] as payload.
pub(crate) const CHANNEL: &str = "lazuli";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// An operation may be claimable.
    Work,
    /// The row of an operation changed.
    Operation,
}

impl Signal {
    pub(crate) fn payload(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Operation => "operation",
        }
    }

    pub(crate) fn parse(payload: &str) -> Option<Self> {
        match payload {
            "work" => Some(Self::Work),
            "operation" => Some(Self::Operation),
            _ => None,
        }
    }
}

/// The counters behind every [`Watch`] of one [`crate::Db`].
#[derive(Debug)]
pub(crate) struct Signals {
    work: watch::Sender<u64>,
    operations: watch::Sender<u64>,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self { work: watch::Sender::new(0), operations: watch::Sender::new(0) }
    }

    pub(crate) fn send(&self, signal: Signal) {
        self.sender(signal).send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn watch(&self, signal: Signal) -> Watch {
        Watch { receiver: self.sender(signal).subscribe() }
    }

    fn sender(&self, signal: Signal) -> &watch::Sender<u64> {
        match signal {
            Signal::Work => &self.work,
            Signal::Operation => &self.operations,
        }
    }
}

/// Remembers what was already seen, so that a change between a look at the database and the wait is not lost:
///
/// ```text
/// let mut watch = db.watch_work();
/// loop {
///     while let Some(operation) = db.claim(...).await? { run(operation) }
///     watch.wait(poll_interval).await;
/// }
/// ```
#[derive(Debug)]
pub struct Watch {
    receiver: watch::Receiver<u64>,
}

impl Watch {
    /// Returns `true` at once when something changed since this watch was made or last returned, else when something
    /// changes; `false` after `timeout`. Poll anyway after `false`: a signal of another process may be lost.
    pub async fn wait(&mut self, timeout: Duration) -> bool {
        match tokio::time::timeout(timeout, self.receiver.changed()).await {
            Ok(Ok(())) => true,
            // The database is gone: nothing will ever be signalled, so keep the caller from spinning.
            Ok(Err(_)) => {
                tokio::time::sleep(timeout).await;
                false
            }
            Err(_) => false,
        }
    }
}
