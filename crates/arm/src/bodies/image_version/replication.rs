//! `replicationStatus`, shown with `$expand=ReplicationStatus` (RP-8).

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationState {
    Unknown,
    Replicating,
    /// The region serves the bytes.
    Completed,
    Failed,
}

/// One region's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionProgress {
    pub display_name: String,
    pub state: ReplicationState,
    /// For people: why it failed, how many copies exist.
    pub details: String,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

impl RegionProgress {
    /// 0–100; 100 only when completed.
    pub fn percent(&self) -> u64 {
        if self.state == ReplicationState::Completed {
            return 100;
        }
        if self.bytes_total == 0 {
            return 0;
        }
        let percent = u128::from(self.bytes_done) * 100 / u128::from(self.bytes_total);
        u64::try_from(percent).unwrap_or(99).min(99)
    }
}

/// `{"aggregatedState","summary":[{"region","state","details","progress"}]}` (swagger `ReplicationStatus`).
pub fn replication_status(regions: &[RegionProgress]) -> Value {
    let any = |s: ReplicationState| regions.iter().any(|r| r.state == s);
    let aggregated = if any(ReplicationState::Failed) {
        "Failed"
    } else if !regions.is_empty() && regions.iter().all(|r| r.state == ReplicationState::Completed) {
        "Completed"
    } else if any(ReplicationState::Replicating) || any(ReplicationState::Completed) {
        "InProgress"
    } else {
        "Unknown"
    };
    let summary: Vec<Value> = regions
        .iter()
        .map(|r| {
            json!({
                "region": r.display_name,
                "state": format!("{:?}", r.state),
                "details": r.details,
                "progress": r.percent(),
            })
        })
        .collect();
    json!({"aggregatedState": aggregated, "summary": summary})
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReplicationState::{Completed, Failed, Replicating, Unknown};

    fn region(state: ReplicationState, done: u64) -> RegionProgress {
        RegionProgress {
            display_name: "East US".into(),
            state,
            details: String::new(),
            bytes_done: done,
            bytes_total: 200,
        }
    }

    #[test]
    fn completed_only_when_all_are() {
        for (states, expected) in [
            (vec![], "Unknown"),
            (vec![Unknown, Unknown], "Unknown"),
            (vec![Completed, Replicating], "InProgress"),
            (vec![Completed, Unknown], "InProgress"),
            (vec![Completed, Completed], "Completed"),
            (vec![Completed, Failed, Replicating], "Failed"),
        ] {
            let regions: Vec<_> = states.into_iter().map(|s| region(s, 0)).collect();
            assert_eq!(replication_status(&regions)["aggregatedState"], expected);
        }
    }

    #[test]
    fn a_hundred_percent_means_completed() {
        assert_eq!(region(Replicating, 50).percent(), 25);
        assert_eq!(region(Replicating, 200).percent(), 99);
        assert_eq!(region(Completed, 0).percent(), 100);
        let shown = replication_status(&[region(Replicating, 50)]);
        assert_eq!(
            shown["summary"][0],
            json!({"region": "East US", "state": "Replicating", "details": "", "progress": 25})
        );
    }
}
