//! Leases of containers and blobs: who holds one may write alone. Pure.
//!
//! ```text
//! Available ─acquire─> Leased ─time runs out─> Expired ─acquire, renew─> Leased
//!     ^ release ─────────┤ break
//!     │                  v
//!     └─ release ──── Breaking ─time runs out─> Broken ─acquire─> Leased
//! ```

use super::error::Code;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is stored; the default is "no lease".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lease {
    pub id: Option<String>,
    /// How long it was acquired for; `None`: for ever.
    pub seconds: Option<i64>,
    pub ends_ms: Option<i64>,
    /// When a break takes effect.
    pub broken_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    Available,
    Leased,
    Expired,
    Breaking,
    Broken,
}

impl LeaseState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Leased => "leased",
            Self::Expired => "expired",
            Self::Breaking => "breaking",
            Self::Broken => "broken",
        }
    }

    pub fn is_locked(self) -> bool {
        matches!(self, Self::Leased | Self::Breaking)
    }
}

/// What a client wants of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAction {
    /// `seconds`: 15 to 60, `None` for ever.
    Acquire {
        proposed: Option<String>,
        seconds: Option<i64>,
    },
    Renew {
        id: String,
    },
    Change {
        id: String,
        proposed: String,
    },
    Release {
        id: String,
    },
    /// `seconds`: 0 to 60; `None`: when the lease ends, at once if it never does.
    Break {
        seconds: Option<i64>,
    },
}

/// Which words a refusal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Blob,
    Container,
}

impl Lease {
    pub fn state(&self, now_ms: i64) -> LeaseState {
        match self {
            Self { id: None, .. } => LeaseState::Available,
            Self { broken_ms: Some(at), .. } if now_ms < *at => LeaseState::Breaking,
            Self { broken_ms: Some(_), .. } => LeaseState::Broken,
            Self { ends_ms: Some(at), .. } if *at <= now_ms => LeaseState::Expired,
            _ => LeaseState::Leased,
        }
    }

    /// `infinite` or `fixed`, while it is held.
    pub fn duration(&self, now_ms: i64) -> Option<&'static str> {
        let held = self.state(now_ms) == LeaseState::Leased;
        held.then_some(if self.seconds.is_none() { "infinite" } else { "fixed" })
    }

    /// Changes the lease. Gives the seconds until a break takes effect (0 for all else).
    pub(super) fn apply(&mut self, action: &LeaseAction, now_ms: i64) -> Result<i64, Code> {
        let state = self.state(now_ms);
        let is_mine = |id: &String| self.id.as_ref().is_some_and(|held| held.eq_ignore_ascii_case(id));
        match action {
            LeaseAction::Acquire { proposed, seconds } => {
                match state {
                    LeaseState::Leased if !proposed.as_ref().is_some_and(is_mine) => {
                        return Err(Code::LeaseAlreadyPresent);
                    }
                    LeaseState::Breaking if proposed.as_ref().is_some_and(is_mine) => {
                        return Err(Code::LeaseIsBreakingAndCannotBeAcquired);
                    }
                    LeaseState::Breaking => return Err(Code::LeaseAlreadyPresent),
                    _ => {}
                }
                let id = proposed.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
                *self = Self::begun(id, *seconds, now_ms);
            }
            LeaseAction::Renew { id } => {
                if !is_mine(id) {
                    return Err(Code::LeaseIdMismatchWithLeaseOperation);
                }
                if matches!(state, LeaseState::Breaking | LeaseState::Broken) {
                    return Err(Code::LeaseIsBrokenAndCannotBeRenewed);
                }
                *self = Self::begun(id.clone(), self.seconds, now_ms);
            }
            LeaseAction::Change { id, proposed } => {
                match state {
                    LeaseState::Leased if is_mine(id) || is_mine(proposed) => {}
                    LeaseState::Breaking if is_mine(id) => return Err(Code::LeaseIsBreakingAndCannotBeChanged),
                    LeaseState::Leased | LeaseState::Breaking => return Err(Code::LeaseIdMismatchWithLeaseOperation),
                    _ => return Err(Code::LeaseNotPresentWithLeaseOperation),
                }
                self.id = Some(proposed.clone());
            }
            LeaseAction::Release { id } => {
                if !is_mine(id) {
                    return Err(Code::LeaseIdMismatchWithLeaseOperation);
                }
                *self = Self::default();
            }
            LeaseAction::Break { seconds } => return self.end(state, *seconds, now_ms),
        }
        Ok(0)
    }

    fn begun(id: String, seconds: Option<i64>, now_ms: i64) -> Self {
        Self { id: Some(id), seconds, ends_ms: seconds.map(|s| now_ms + s * 1000), broken_ms: None }
    }

    fn end(&mut self, state: LeaseState, seconds: Option<i64>, now_ms: i64) -> Result<i64, Code> {
        let asked = seconds.map(|s| now_ms + s * 1000);
        let at = match state {
            LeaseState::Available => return Err(Code::LeaseNotPresentWithLeaseOperation),
            LeaseState::Broken | LeaseState::Expired => now_ms,
            LeaseState::Breaking => {
                let planned = self.broken_ms.unwrap_or(now_ms);
                asked.map_or(planned, |asked| asked.min(planned))
            }
            LeaseState::Leased => match (asked, self.ends_ms) {
                (Some(asked), Some(ends)) => asked.min(ends),
                (Some(asked), None) => asked,
                (None, ends) => ends.unwrap_or(now_ms),
            },
        };
        self.broken_ms = Some(at);
        Ok((at - now_ms + 999).max(0) / 1000)
    }

    /// Whether a write that names (or does not name) a lease may be done.
    pub(super) fn check_write(&self, given: Option<&str>, on: On, now_ms: i64) -> Result<(), Code> {
        if given.is_none() && self.state(now_ms).is_locked() {
            return Err(Code::LeaseIdMissing);
        }
        self.check_read(given, on, now_ms)
    }

    /// A read need not name a lease, but what it names must be right.
    pub(super) fn check_read(&self, given: Option<&str>, on: On, now_ms: i64) -> Result<(), Code> {
        let Some(given) = given else { return Ok(()) };
        if !self.state(now_ms).is_locked() {
            return Err(match on {
                On::Blob => Code::LeaseNotPresentWithBlobOperation,
                On::Container => Code::LeaseNotPresentWithContainerOperation,
            });
        }
        if self.id.as_ref().is_some_and(|id| id.eq_ignore_ascii_case(given)) {
            return Ok(());
        }
        Err(match on {
            On::Blob => Code::LeaseIdMismatchWithBlobOperation,
            On::Container => Code::LeaseIdMismatchWithContainerOperation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(id: &str, seconds: Option<i64>) -> LeaseAction {
        LeaseAction::Acquire { proposed: Some(id.to_owned()), seconds }
    }

    #[test]
    fn a_lease_is_held_by_one() {
        let mut lease = Lease::default();
        assert_eq!(lease.check_write(None, On::Blob, 0), Ok(()));
        assert_eq!(lease.check_write(Some("a"), On::Blob, 0), Err(Code::LeaseNotPresentWithBlobOperation));
        lease.apply(&acquire("A", Some(15)), 0).unwrap();
        assert_eq!(lease.apply(&acquire("b", Some(15)), 0), Err(Code::LeaseAlreadyPresent));
        lease.apply(&acquire("a", Some(20)), 0).unwrap();
        assert_eq!(lease.check_write(None, On::Blob, 19_999), Err(Code::LeaseIdMissing));
        assert_eq!(lease.check_write(Some("b"), On::Container, 0), Err(Code::LeaseIdMismatchWithContainerOperation));
        assert_eq!(lease.check_write(Some("A"), On::Blob, 0), Ok(()));
        assert_eq!(lease.check_write(None, On::Blob, 20_000), Ok(()));
        assert_eq!(lease.state(20_000), LeaseState::Expired);
        lease.apply(&LeaseAction::Renew { id: "a".into() }, 20_000).unwrap();
        assert_eq!((lease.state(39_999), lease.duration(39_999)), (LeaseState::Leased, Some("fixed")));
    }

    #[test]
    fn breaking_takes_its_time() {
        let mut lease = Lease::default();
        assert_eq!(lease.apply(&LeaseAction::Break { seconds: None }, 0), Err(Code::LeaseNotPresentWithLeaseOperation));
        lease.apply(&acquire("a", None), 0).unwrap();
        assert_eq!(lease.duration(0), Some("infinite"));
        assert_eq!(lease.apply(&LeaseAction::Break { seconds: Some(30) }, 0), Ok(30));
        assert_eq!(lease.apply(&LeaseAction::Break { seconds: Some(60) }, 1000), Ok(29));
        assert_eq!(lease.state(29_999), LeaseState::Breaking);
        assert_eq!(lease.apply(&acquire("a", None), 1000), Err(Code::LeaseIsBreakingAndCannotBeAcquired));
        let renew = LeaseAction::Renew { id: "a".into() };
        assert_eq!(lease.apply(&renew, 30_000), Err(Code::LeaseIsBrokenAndCannotBeRenewed));
        lease.apply(&acquire("b", None), 30_000).unwrap();
        assert_eq!(lease.apply(&LeaseAction::Break { seconds: None }, 30_000), Ok(0));
        assert_eq!(lease.state(30_000), LeaseState::Broken);
    }

    #[test]
    fn changed_and_released_by_its_holder_alone() {
        let mut lease = Lease::default();
        lease.apply(&acquire("a", None), 0).unwrap();
        let change = |id: &str, to: &str| LeaseAction::Change { id: id.into(), proposed: to.into() };
        assert_eq!(lease.apply(&change("x", "y"), 0), Err(Code::LeaseIdMismatchWithLeaseOperation));
        lease.apply(&change("a", "b"), 0).unwrap();
        // Said twice: the first answer was lost.
        lease.apply(&change("a", "b"), 0).unwrap();
        let release = |id: &str| LeaseAction::Release { id: id.into() };
        assert_eq!(lease.apply(&release("a"), 0), Err(Code::LeaseIdMismatchWithLeaseOperation));
        lease.apply(&release("b"), 0).unwrap();
        assert_eq!(lease, Lease::default());
    }
}
