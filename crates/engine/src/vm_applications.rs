//! VM applications in a machine: which are to be installed, updated and removed, in what order, what became of them, and how that is
//! told. Pure; the rules are those of Azure's own handler (Azure/VMApplication-Extension, `internal/actionplan`).
//!
//! ```text
//! known, not wanted            Remove, before all else; it is forgotten whatever its command says
//! wanted, not known            Install
//! wanted in another version    Update; without a command for that RemoveForUpdate, then Install
//! wanted and known             nothing, also where it failed: whoever wants it tried again takes it out first
//!
//! by rising order, then those without one; what fails keeps all of a higher order away, and nothing else
//! ```

use crate::stored::StoredFile;
use crate::time_text;
use lazuli_arm::bodies::virtual_machine_extension::VM_APPLICATIONS;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The extension that Azure shows for all of them.
pub(crate) const EXTENSION: &str = "VMAppExtension";
/// Bytes of a status message; as in Azure's handler.
const MAX_MESSAGE: usize = 5 << 10;
const SUCCESS: &str = "SUCCESS";

/// What a machine remembers of its applications.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Applications {
    /// What its profile named, as it was found when that was written.
    pub wanted: Vec<Wanted>,
    /// What was done in the guest, until it was removed again.
    pub known: Vec<Known>,
    /// By the last run, in its order.
    pub performed: Vec<Performed>,
    pub changed_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Wanted {
    pub name: String,
    pub version: String,
    /// Key of the version's row.
    pub from: String,
    #[serde(default)]
    pub order: Option<i64>,
    /// `treatFailureAsDeploymentFailure`.
    pub fatal: bool,
    pub install: String,
    #[serde(default)]
    pub update: Option<String>,
    pub remove: String,
    /// How the guest names its files.
    pub package_name: String,
    pub config_name: String,
    pub package: StoredFile,
    #[serde(default)]
    pub config: Option<Config>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    pub file: StoredFile,
    /// The blob that it came from, where the machine's profile names one; else it is the version's.
    #[serde(default)]
    pub own: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Done,
    Failed,
    /// Nothing of it is in the guest.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub name: String,
    pub version: String,
    pub remove: String,
    pub state: State,
    pub result: String,
}

/// An action that was due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Performed {
    pub action: Action,
    pub ended: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Install,
    Update,
    Remove,
    RemoveForUpdate,
}

impl What {
    fn text(self) -> &'static str {
        match self {
            Self::Install => "Install",
            Self::Update => "Update",
            Self::Remove => "Remove",
            Self::RemoveForUpdate => "RemoveForUpdate",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Action {
    pub what: What,
    pub name: String,
    pub version: String,
    pub command: String,
    /// The command that takes it away again.
    pub remove: String,
    pub order: Option<i64>,
    pub fatal: bool,
    /// Only after the action before it succeeded.
    pub depends: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    Succeeded,
    Failed(String),
    /// What comes before it failed.
    Skipped,
}

/// What is to be done, in its order.
pub(crate) fn plan(wanted: &[Wanted], known: &[Known]) -> Vec<Action> {
    let removal = |known: &Known, what, order, fatal| Action {
        what,
        name: known.name.clone(),
        version: known.version.clone(),
        command: known.remove.clone(),
        remove: known.remove.clone(),
        order,
        fatal,
        depends: false,
    };
    let gone = known.iter().filter(|k| !wanted.iter().any(|w| w.name.eq_ignore_ascii_case(&k.name)));
    let mut plan: Vec<Action> =
        gone.filter(|k| k.state != State::Skipped).map(|k| removal(k, What::Remove, None, false)).collect();
    let mut ordered: Vec<&Wanted> = wanted.iter().collect();
    ordered.sort_by_key(|w| (w.order.is_none(), w.order));
    for new in ordered {
        let action = |what, command: &str, depends| Action {
            what,
            name: new.name.clone(),
            version: new.version.clone(),
            command: command.to_owned(),
            remove: new.remove.clone(),
            order: new.order,
            fatal: new.fatal,
            depends,
        };
        match (known.iter().find(|k| k.name.eq_ignore_ascii_case(&new.name)), &new.update) {
            (Some(old), _) if old.version == new.version => {}
            (None | Some(Known { state: State::Skipped, .. }), _) => {
                plan.push(action(What::Install, &new.install, false));
            }
            (Some(_), Some(update)) => plan.push(action(What::Update, update, false)),
            (Some(old), None) => {
                plan.push(removal(old, What::RemoveForUpdate, new.order, new.fatal));
                plan.push(action(What::Install, &new.install, true));
            }
        }
    }
    plan
}

/// Whether the action behind those that have ended is passed over.
pub(crate) fn is_skipped(plan: &[Action], ended: &[Ended]) -> bool {
    let Some(next) = plan.get(ended.len()) else { return false };
    let failed = |(action, ended): (&Action, &Ended)| {
        matches!(ended, Ended::Failed(_)) && action.order.zip(next.order).is_some_and(|(its, own)| its < own)
    };
    let alone = next.depends && ended.last() != Some(&Ended::Succeeded);
    alone || plan.iter().zip(ended).any(failed)
}

impl Applications {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is to be done in the guest.
    pub(crate) fn due(&self) -> Vec<Action> {
        plan(&self.wanted, &self.known)
    }

    /// Another profile: what was never tried is not known any more once it is not wanted.
    pub(crate) fn want(&mut self, wanted: Vec<Wanted>) {
        let stays =
            |k: &Known| k.state != State::Skipped || wanted.iter().any(|w| w.name.eq_ignore_ascii_case(&k.name));
        self.known.retain(stays);
        self.wanted = wanted;
    }

    pub(crate) fn wanted(&self, name: &str) -> Option<&Wanted> {
        self.wanted.iter().find(|w| w.name.eq_ignore_ascii_case(name))
    }

    /// Keeps how action `index` of a run ended; once more changes nothing.
    pub(crate) fn record(&mut self, index: usize, action: &Action, ended: &Ended, now_ms: i64) {
        self.performed.truncate(index);
        self.performed.push(Performed { action: action.clone(), ended: ended.clone() });
        self.changed_ms = now_ms;
        let at = self.known.iter().position(|k| k.name.eq_ignore_ascii_case(&action.name));
        let what = action.what.text();
        let (state, result) = match ended {
            Ended::Succeeded => (State::Done, format!("{what} {SUCCESS}")),
            Ended::Failed(why) => (State::Failed, format!("{what} FAILED {why}")),
            Ended::Skipped => (State::Skipped, "skipped, lower order operation failed".to_owned()),
        };
        match (action.what, at) {
            (What::Remove, at) => drop(at.map(|at| self.known.remove(at))),
            (What::RemoveForUpdate, Some(at)) if *ended == Ended::Succeeded => drop(self.known.remove(at)),
            // What is there stays as it was.
            (What::RemoveForUpdate, at) => {
                if let Some(known) = at.map(|at| &mut self.known[at]) {
                    known.result = result;
                }
            }
            (What::Update | What::Install, Some(at))
                if *ended == Ended::Skipped && self.known[at].state != State::Skipped =>
            {
                if !action.depends {
                    self.known[at].result = result;
                }
            }
            (What::Update | What::Install, at) => {
                let (name, version) = (action.name.clone(), action.version.clone());
                let known = Known { name, version, remove: action.remove.clone(), state, result };
                match at {
                    Some(at) => self.known[at] = known,
                    None => self.known.push(known),
                }
            }
        }
    }

    /// Whether the last run fails the deployment.
    pub(crate) fn is_fatal(&self) -> bool {
        self.performed.iter().any(|p| p.action.fatal && p.ended != Ended::Succeeded)
    }

    /// The status of the extension, as Azure's handler words it (its documentation: "VM applications", instance view).
    pub(crate) fn status(&self) -> Value {
        let current: Vec<Value> = self
            .known
            .iter()
            .map(|k| json!({"applicationName": k.name, "version": k.version, "result": k.result}))
            .collect();
        let performed: Vec<Value> = self.performed.iter().map(shown).collect();
        let told = json!({"CurrentState": current, "ActionsPerformed": performed});
        let mut told = serde_json::to_string_pretty(&told).unwrap_or_default();
        let mut end = told.len().min(MAX_MESSAGE);
        while !told.is_char_boundary(end) {
            end -= 1;
        }
        told.truncate(end);
        let time = time_text(self.changed_ms);
        if self.is_fatal() {
            return json!({"code": "ProvisioningState/failed/1", "level": "Error", "displayStatus": "Provisioning failed",
                "message": format!("Enable failed: {told}"), "time": time});
        }
        json!({"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded",
            "message": format!("Enable succeeded: {told}"), "time": time})
    }

    /// As an instance view shows the extension; `None`: there is none, as nothing was ever asked for.
    pub(crate) fn instance_view(&self) -> Option<Value> {
        if self.known.is_empty() && self.performed.is_empty() {
            return None;
        }
        let (publisher, kind, version) = VM_APPLICATIONS;
        let each = |k: &Known| {
            let (word, level, display) = match k.state {
                State::Done => ("succeeded", "Info", "Provisioning succeeded"),
                State::Failed => ("failed", "Error", "Provisioning failed"),
                State::Skipped => ("skipped", "Warning", "Skipped"),
            };
            json!({"code": format!("ComponentStatus/{}/{word}", k.name), "level": level, "displayStatus": display,
                "message": k.result})
        };
        Some(json!({"name": EXTENSION, "type": format!("{publisher}.{kind}"), "typeHandlerVersion": version,
            "statuses": [self.status()], "substatuses": self.known.iter().map(each).collect::<Vec<_>>()}))
    }
}

fn shown(performed: &Performed) -> Value {
    let Performed { action, ended } = performed;
    let result = match ended {
        Ended::Succeeded => SUCCESS,
        Ended::Failed(why) => why,
        Ended::Skipped if action.depends => "Skipped, the operation before it did not succeed",
        Ended::Skipped => "Skipped, lower order operation failed",
    };
    json!({"package": action.name, "version": action.version, "operation": action.what.text(), "result": result,
        "treatFailureAsDeploymentFailure": action.fatal})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, version: &str, order: Option<i64>) -> Wanted {
        let package = StoredFile { stored: None, tail_at: 0, tail: String::new(), size_bytes: 0 };
        Wanted {
            name: name.into(),
            version: version.into(),
            from: String::new(),
            order,
            fatal: false,
            install: format!("install {name} {version}"),
            update: None,
            remove: format!("remove {name} {version}"),
            package_name: name.into(),
            config_name: format!("{name}_config"),
            package,
            config: None,
        }
    }

    /// Runs what is due; `fails` names commands that do not succeed. What was run.
    fn run(state: &mut Applications, fails: &[&str]) -> Vec<String> {
        let (plan, mut ended, mut ran) = (state.due(), Vec::new(), Vec::new());
        while let Some(action) = plan.get(ended.len()) {
            let end = if is_skipped(&plan, &ended) {
                Ended::Skipped
            } else {
                ran.push(action.command.clone());
                match fails.contains(&action.command.as_str()) {
                    true => Ended::Failed("exit status=1".into()),
                    false => Ended::Succeeded,
                }
            };
            state.record(ended.len(), action, &end, 0);
            state.record(ended.len(), action, &end, 0);
            ended.push(end);
        }
        ran
    }

    fn results(state: &Applications) -> Vec<(&str, &str, &str)> {
        state.known.iter().map(|k| (k.name.as_str(), k.version.as_str(), k.result.as_str())).collect()
    }

    #[test]
    fn installed_by_order_and_only_once() {
        let mut state = Applications::default();
        state.want(vec![wanted("c", "1.0.0", None), wanted("b", "1.0.0", Some(2)), wanted("a", "1.0.0", Some(1))]);
        assert_eq!(run(&mut state, &[]), ["install a 1.0.0", "install b 1.0.0", "install c 1.0.0"]);
        assert!(state.due().is_empty() && !state.is_fatal());
        state.want(vec![wanted("B", "1.0.0", None), wanted("d", "1.0.0", Some(7))]);
        assert_eq!(run(&mut state, &[]), ["remove a 1.0.0", "remove c 1.0.0", "install d 1.0.0"]);
        assert_eq!(results(&state), [("b", "1.0.0", "Install SUCCESS"), ("d", "1.0.0", "Install SUCCESS")]);
    }

    #[test]
    fn another_version_is_an_update_or_a_removal_and_an_installation() {
        let mut state = Applications::default();
        state.want(vec![wanted("a", "1.0.0", None), wanted("b", "1.0.0", None)]);
        run(&mut state, &[]);
        let updated = Wanted { update: Some("update a".into()), ..wanted("a", "2.0.0", None) };
        state.want(vec![updated, wanted("b", "0.9.0", None)]);
        assert_eq!(run(&mut state, &[]), ["update a", "remove b 1.0.0", "install b 0.9.0"]);
        assert_eq!(results(&state), [("a", "2.0.0", "Update SUCCESS"), ("b", "0.9.0", "Install SUCCESS")]);
        // What cannot be removed is not installed over, and tried again.
        state.want(vec![wanted("a", "2.0.0", None), wanted("b", "3.0.0", None)]);
        assert_eq!(run(&mut state, &["remove b 0.9.0"]), ["remove b 0.9.0"]);
        assert_eq!(results(&state)[1], ("b", "0.9.0", "RemoveForUpdate FAILED exit status=1"));
        assert_eq!(run(&mut state, &[]), ["remove b 0.9.0", "install b 3.0.0"]);
        assert_eq!(state.known[1].remove, "remove b 3.0.0");
    }

    #[test]
    fn a_failure_keeps_higher_orders_away_and_nothing_else() {
        let mut state = Applications::default();
        let all = || {
            vec![
                wanted("a", "1.0.0", Some(1)),
                wanted("b", "1.0.0", Some(1)),
                wanted("c", "1.0.0", Some(2)),
                wanted("d", "1.0.0", None),
            ]
        };
        state.want(all());
        assert_eq!(run(&mut state, &["install a 1.0.0"]), ["install a 1.0.0", "install b 1.0.0", "install d 1.0.0"]);
        insta::assert_json_snapshot!("a_failure", state.instance_view().unwrap(), {".statuses[0].time" => "[time]"});
        assert!(state.due().is_empty(), "what failed is taken out before it is tried again");
        let without = |names: &[&str]| all().into_iter().filter(|w| !names.contains(&w.name.as_str())).collect();
        state.want(without(&["a", "c"]));
        assert_eq!(run(&mut state, &["remove a 1.0.0"]), ["remove a 1.0.0"], "what was never there is only forgotten");
        assert_eq!(results(&state).len(), 2);
        state.want(all());
        assert_eq!(run(&mut state, &[]), ["install a 1.0.0", "install c 1.0.0"]);
    }

    #[test]
    fn what_may_not_fail_fails_the_deployment() {
        let mut state = Applications::default();
        state.want(vec![wanted("a", "1.0.0", Some(1)), Wanted { fatal: true, ..wanted("b", "1.0.0", Some(2)) }]);
        run(&mut state, &["install a 1.0.0"]);
        assert!(state.is_fatal(), "it was not installed");
        assert_eq!(state.status()["level"], "Error");
        state.want(vec![]);
        assert_eq!(run(&mut state, &[]), ["remove a 1.0.0"]);
        assert!(!state.is_fatal());
        assert_eq!(state.status()["code"], "ProvisioningState/succeeded");
    }

    #[test]
    fn an_update_that_is_skipped_leaves_what_is_there() {
        let mut state = Applications::default();
        state.want(vec![wanted("b", "1.0.0", Some(2))]);
        run(&mut state, &[]);
        let next = || vec![wanted("a", "1.0.0", Some(1)), wanted("b", "2.0.0", Some(2))];
        state.want(next());
        assert_eq!(run(&mut state, &["install a 1.0.0"]), ["install a 1.0.0"]);
        assert_eq!((state.known[0].version.as_str(), state.known[0].state), ("1.0.0", State::Done));
        state.want(next());
        assert_eq!(run(&mut state, &[]), ["remove b 1.0.0", "install b 2.0.0"]);
    }

    #[test]
    fn a_long_story_is_cut() {
        let mut state = Applications::default();
        state.want(vec![wanted("é", "1.0.0", None)]);
        let action = state.due().remove(0);
        state.record(0, &action, &Ended::Failed("é".repeat(9000)), 0);
        assert!(state.status()["message"].as_str().unwrap().len() < MAX_MESSAGE + 40);
    }
}
