//! When a template may be run, cancelled, changed and deleted, and how its last run is told.
//!
//! ```text
//! run state   (none) ──run──> Running ──> Succeeded | PartiallySucceeded | Failed
//!                 ^              └─cancel─> Canceling ──> Canceled
//!                 └────────────── run ──────────────────────┘   (any that has ended)
//! sub-state   Queued ─> Building ─> Customizing ─> Optimizing ─> Validating ─> Distributing   (while Running)
//! ```

use super::{KIND, TemplateInternal};
use crate::stored::{change_internal, internal};
use lazuli_arm::ArmError;
use lazuli_meta::model::Resource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RunState {
    Running,
    Canceling,
    Succeeded,
    PartiallySucceeded,
    Failed,
    Canceled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SubState {
    Queued,
    Building,
    Customizing,
    Optimizing,
    Validating,
    Distributing,
}

/// What started a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// Somebody asked for it.
    Request,
    AutoRun,
    /// The trigger of this name.
    Trigger(String),
}

/// `lastRunStatus`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LastRun {
    pub started_ms: i64,
    pub ended_ms: Option<i64>,
    pub state: RunState,
    pub sub_state: Option<SubState>,
    pub message: String,
    pub cause: Cause,
}

/// Go's time of nothing, which Azure shows while a run goes on (recorded).
const NO_TIME: &str = "0001-01-01T00:00:00Z";

fn time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl LastRun {
    pub fn new(cause: Cause, now_ms: i64) -> Self {
        Self {
            started_ms: now_ms,
            ended_ms: None,
            state: RunState::Running,
            sub_state: Some(SubState::Queued),
            message: String::new(),
            cause,
        }
    }

    /// As it is shown.
    pub fn view(&self) -> Value {
        let mut view = json!({
            "startTime": time(self.started_ms),
            "endTime": self.ended_ms.map_or_else(|| NO_TIME.to_owned(), time),
            "runState": self.state,
        });
        if let Some(sub_state) = self.sub_state.filter(|_| self.state == RunState::Running) {
            view["runSubState"] = json!(sub_state);
        }
        view["message"] = json!(self.message);
        view
    }
}

/// What is asked of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Run,
    Cancel,
    Update,
    Delete,
    /// A trigger is put.
    Trigger,
}

impl Ask {
    fn word(self) -> &'static str {
        match self {
            Self::Run => "run/action",
            Self::Cancel => "cancel/action",
            Self::Update => "write",
            Self::Delete => "delete",
            Self::Trigger => "triggers/write",
        }
    }
}

/// Whether a template in these states allows it.
fn allows(ask: Ask, provisioning: &str, run: Option<RunState>) -> bool {
    let active = matches!(run, Some(RunState::Running | RunState::Canceling));
    match ask {
        Ask::Run | Ask::Update => provisioning == "Succeeded" && !active,
        Ask::Trigger => provisioning == "Succeeded",
        Ask::Cancel => provisioning == "Succeeded" && run == Some(RunState::Running),
        // What failed can always be deleted: no template gets stuck.
        Ask::Delete => !active && !matches!(provisioning, "Creating" | "Updating"),
    }
}

/// # Errors
/// 409 `OperationNotAllowed`, as public reports quote it (wire.md §4).
pub(crate) fn check(ask: Ask, row: &Resource) -> Result<(), ArmError> {
    let run = internal::<TemplateInternal>(row)?.last_run.map(|r| r.state);
    if allows(ask, &row.provisioning_state, run) {
        return Ok(());
    }
    let provisioning = match row.provisioning_state.as_str() {
        "Succeeded" => "provisioned".to_owned(),
        other => other.to_ascii_lowercase(),
    };
    let run = run.map(|r| format!("{r:?}").to_ascii_lowercase()).unwrap_or_default();
    let hint = match ask {
        Ask::Cancel => "There is no run that could be cancelled.",
        Ask::Run if row.provisioning_state == "Failed" => {
            "Delete the template and create it again: its provisioningError says why."
        }
        _ => "Wait until it has ended, or cancel the run.",
    };
    Err(ArmError::conflict(
        "OperationNotAllowed",
        format!(
            "Operation {KIND}/{} is not allowed in provisioning state: {provisioning} or run state: {run}. {hint}",
            ask.word()
        ),
    ))
}

/// The row of a template whose run begins.
pub(crate) fn began(row: &Resource, cause: Cause, now_ms: i64) -> Resource {
    let mut row = row.clone();
    change_internal::<TemplateInternal>(&mut row, |state| state.last_run = Some(LastRun::new(cause, now_ms)));
    row
}

/// A run goes on to another phase; not if it is being cancelled.
pub(crate) fn entered(row: &mut Resource, sub_state: SubState) {
    change_internal::<TemplateInternal>(row, |state| {
        if let Some(run) = state.last_run.as_mut().filter(|r| r.state == RunState::Running) {
            run.sub_state = Some(sub_state);
        }
    });
}

/// The run's end, for the row that its operation leaves behind: the template itself is as usable as before. Failures of triggers
/// are counted, and forgotten with a success.
pub(crate) fn ended(row: &mut Resource, run_state: RunState, message: &str, now_ms: i64) {
    if row.provisioning_state != "Deleting" {
        row.provisioning_state = "Succeeded".into();
    }
    change_internal::<TemplateInternal>(row, |state| {
        let Some(run) = state.last_run.as_mut() else { return };
        run.state = run_state;
        run.sub_state = None;
        run.ended_ms = Some(now_ms);
        run.message = message.to_owned();
        match (run_state, &run.cause) {
            (RunState::Succeeded, _) => state.failures = 0,
            (RunState::Failed, Cause::Trigger(_)) => state.failures = state.failures.saturating_add(1),
            _ => {}
        }
    });
}

/// The row of a template whose run is being cancelled (recorded).
pub(crate) fn canceling(row: &Resource) -> Resource {
    let mut row = row.clone();
    change_internal::<TemplateInternal>(&mut row, |state| {
        if let Some(run) = state.last_run.as_mut() {
            run.state = RunState::Canceling;
            run.sub_state = None;
            run.message = "Canceling image build".into();
        }
    });
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_when() {
        let provisioning = ["Creating", "Updating", "Succeeded", "Failed", "Canceled"];
        let runs = [None, Some(RunState::Running), Some(RunState::Canceling), Some(RunState::Failed)];
        let mut table = String::new();
        for ask in [Ask::Run, Ask::Cancel, Ask::Update, Ask::Delete, Ask::Trigger] {
            for provisioning in provisioning {
                let allowed: Vec<String> = runs
                    .iter()
                    .filter(|run| allows(ask, provisioning, **run))
                    .map(|run| run.map_or("(none)".into(), |r| format!("{r:?}")))
                    .collect();
                if !allowed.is_empty() {
                    table.push_str(&format!("{ask:?} {provisioning}: {}\n", allowed.join(", ")));
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn failures_of_triggers_count_until_a_run_succeeds() {
        let row = json!({"key": "", "sort_key": "", "id": "", "kind": "", "subscription": "", "resource_group": "", "parent": null,
            "name": "t", "location": "", "body": {}, "internal": {}, "provisioning_state": "Succeeded", "etag": "",
            "created_ms": 0, "changed_ms": 0});
        let mut row: Resource = serde_json::from_value(row).unwrap();
        let mut failures = |cause: Cause, state: RunState| {
            row = began(&row, cause, 0);
            ended(&mut row, state, "", 1);
            internal::<TemplateInternal>(&row).unwrap().failures
        };
        let trigger = || Cause::Trigger("nightly".into());
        assert_eq!(failures(trigger(), RunState::Failed), 1);
        assert_eq!(failures(Cause::Request, RunState::Failed), 1, "whoever asks for a run sees it fail");
        assert_eq!(failures(trigger(), RunState::Canceled), 1);
        assert_eq!(failures(trigger(), RunState::Failed), 2);
        assert_eq!(failures(Cause::Request, RunState::PartiallySucceeded), 2);
        assert_eq!(failures(Cause::Request, RunState::Succeeded), 0);
    }

    #[test]
    fn a_run_is_shown_as_recorded() {
        let mut run = LastRun::new(Cause::Request, 1_715_675_995_679);
        run.sub_state = Some(SubState::Building);
        assert_eq!(
            run.view(),
            json!({"startTime": "2024-05-14T08:39:55.679000Z", "endTime": "0001-01-01T00:00:00Z", "runState": "Running",
                "runSubState": "Building", "message": ""})
        );
    }
}
