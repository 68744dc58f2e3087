//! Has the guest finished its first boot? A pure state machine over the health reports guests send.
//!
//! ```text
//!             Ready                     anything
//!  Waiting ───────────────> Ready ──────────────────> Ready
//!     │  ^
//!     │  └── NotReady (Provisioning, Starting, ...)
//!     │ NotReady + ProvisioningFailed          anything
//!     └───────────────────────────────> Failed ──────> Failed
//!
//!  NotNeeded ── anything ──> NotNeeded
//! ```
//!
//! Images with both cloud-init and waagent report Ready, then NotReady again while the agent starts, then Ready once
//! more: the first Ready counts. Both end states are final, because the engine acts on them once.

use crate::spec::ProvisioningState;

/// A health report, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Ready,
    /// Still at it, or (`SubStatus` `ProvisioningFailed`) given up.
    NotReady {
        sub_status: String,
        description: String,
    },
}

/// The state after `report`, which came `after_ms` after the first start; `None` if nothing changes.
pub fn apply(state: &ProvisioningState, report: &Report, after_ms: u64) -> Option<ProvisioningState> {
    if *state != ProvisioningState::Waiting {
        return None;
    }
    match report {
        Report::Ready => Some(ProvisioningState::Ready { after_ms }),
        Report::NotReady { sub_status, description } if sub_status == "ProvisioningFailed" => {
            Some(ProvisioningState::Failed { description: description.clone() })
        }
        Report::NotReady { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn not_ready(sub_status: &str, description: &str) -> Report {
        Report::NotReady { sub_status: sub_status.into(), description: description.into() }
    }

    fn run(start: ProvisioningState, reports: &[Report]) -> ProvisioningState {
        reports.iter().zip(1..).fold(start, |state, (report, at)| apply(&state, report, at).unwrap_or(state))
    }

    /// The order seen of Debian images that carry both provisioners.
    #[test]
    fn an_agent_that_starts_after_ready_undoes_nothing() {
        let reports = [
            Report::Ready,
            not_ready("Provisioning", "Starting"),
            not_ready("ProvisioningFailed", "late"),
            Report::Ready,
        ];
        assert_eq!(run(ProvisioningState::Waiting, &reports), ProvisioningState::Ready { after_ms: 1 });
    }

    #[test]
    fn a_failure_keeps_its_description() {
        let reports =
            [not_ready("Provisioning", "Starting"), not_ready("ProvisioningFailed", "no such user"), Report::Ready];
        assert_eq!(
            run(ProvisioningState::Waiting, &reports),
            ProvisioningState::Failed { description: "no such user".into() }
        );
    }

    fn any_report() -> impl Strategy<Value = Report> {
        prop_oneof![
            Just(Report::Ready),
            ("Provisioning|ProvisioningFailed|Starting|", ".{0,8}")
                .prop_map(|(sub_status, description)| { Report::NotReady { sub_status, description } }),
        ]
    }

    proptest! {
        /// Whatever the order, the first deciding report decides, and nothing changes it.
        #[test]
        fn the_first_deciding_report_decides(reports in proptest::collection::vec(any_report(), 0..12)) {
            let end = run(ProvisioningState::Waiting, &reports);
            let decides = |r: &&Report| match r {
                Report::Ready => true,
                Report::NotReady { sub_status, .. } => sub_status == "ProvisioningFailed",
            };
            match reports.iter().find(decides) {
                None => prop_assert_eq!(end, ProvisioningState::Waiting),
                Some(Report::Ready) => prop_assert!(matches!(end, ProvisioningState::Ready { .. }), "{end:?}"),
                Some(Report::NotReady { description, .. }) => {
                    prop_assert_eq!(end, ProvisioningState::Failed { description: description.clone() });
                }
            }
            prop_assert_eq!(run(ProvisioningState::NotNeeded, &reports), ProvisioningState::NotNeeded);
        }
    }
}
