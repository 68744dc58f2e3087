//! Who may touch a blob at a time: any number of page writes, or one of anything else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

/// One blob's.
#[derive(Default)]
pub(super) struct Gate {
    lock: Arc<RwLock<()>>,
    /// Rows are changed one after the other.
    pub row: tokio::sync::Mutex<()>,
    /// Stops a settling that nobody waits for.
    settling: Mutex<Option<CancellationToken>>,
}

#[derive(Default)]
pub(super) struct Gates(Mutex<HashMap<String, Weak<Gate>>>);

impl Gates {
    pub fn of(&self, account: &str, container: &str, blob: &str) -> Arc<Gate> {
        let key = format!("{account}/{container}/{blob}");
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = all.get(&key).and_then(Weak::upgrade) {
            return gate;
        }
        if all.len() > 1024 {
            all.retain(|_, gate| gate.strong_count() > 0);
        }
        let gate = Arc::new(Gate::default());
        all.insert(key, Arc::downgrade(&gate));
        gate
    }
}

impl Gate {
    /// For page writes without conditions, which do not mind each other.
    pub async fn shared(&self) -> OwnedRwLockReadGuard<()> {
        self.hurry();
        Arc::clone(&self.lock).read_owned().await
    }

    pub async fn alone(&self) -> OwnedRwLockWriteGuard<()> {
        self.hurry();
        Arc::clone(&self.lock).write_owned().await
    }

    /// If nobody is there now. Whoever comes later cancels the token.
    pub fn idle(&self) -> Option<(OwnedRwLockWriteGuard<()>, CancellationToken)> {
        let guard = Arc::clone(&self.lock).try_write_owned().ok()?;
        let token = CancellationToken::new();
        *self.settling() = Some(token.clone());
        Some((guard, token))
    }

    fn hurry(&self) {
        if let Some(token) = self.settling().take() {
            token.cancel();
        }
    }

    fn settling(&self) -> std::sync::MutexGuard<'_, Option<CancellationToken>> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
