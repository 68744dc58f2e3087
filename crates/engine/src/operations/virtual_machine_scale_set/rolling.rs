//! Rolling upgrades: machines are brought to the model some at a time, as long as enough of them are well.
//!
//! ```text
//! which machines (decided once) ─> [ canceled? ─ enough well? ─> batch, side by side ─> enough of the upgraded well? ─ pause ]…
//! ```
//! A machine that cannot be upgraded counts as not well; what it is, is left for somebody to look at. The set shows how far this is
//! (`providers/virtual_machine_scale_set/rolling.rs`).

use super::{Set, What};
use crate::operation::OpError;
use crate::provider::Context;
use crate::providers::virtual_machine::MachineInternal;
use crate::providers::virtual_machine::image::resolve_reference;
use crate::providers::virtual_machine_scale_set::rolling::{Code, RollingUpgrade};
use crate::providers::virtual_machine_scale_set::{Model, ScaleSetInternal, instance_id, members, outdated};
use crate::stored::{change_internal, internal};
use crate::{db_error, now_ms};
use futures::FutureExt as _;
use lazuli_arm::bodies::virtual_machine_scale_set::{self as body, Rolling};
use lazuli_meta::model::{OperationQuery, OperationState, Resource};
use lazuli_vmm::spec::PowerState;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// How often a pause looks whether somebody ended the upgrade.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A machine to be upgraded.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Old {
    name: String,
    /// As the set calls it.
    instance: String,
    what: What,
}

impl Set<'_> {
    /// With a change of the model.
    pub(super) async fn roll_by_policy(&self) -> Result<(), OpError> {
        let model = self.model()?;
        let old = self.old(&model, None).await?;
        if old.is_empty() {
            return Ok(());
        }
        let state: ScaleSetInternal = internal(&self.row)?;
        if !state.rolling.is_some_and(|upgrade| upgrade.runs()) {
            let begun = RollingUpgrade::begun(&self.row.body, now_ms());
            self.cx
                .update_resource(|row| change_internal(row, |s: &mut ScaleSetInternal| s.rolling = Some(begun.clone())))
                .await?;
        }
        self.roll(&model, &old).await
    }

    /// At somebody's request: machines to the newest version of their image, or extensions alone.
    pub(super) async fn roll_what(&self, what: What) -> Result<(), OpError> {
        let model = self.model()?;
        let old = self.old(&model, Some(what)).await?;
        self.roll(&model, &old).await
    }

    /// What is to be upgraded, those that are not well first if the policy says so.
    async fn old(&self, model: &Model, asked: Option<What>) -> Result<Vec<Old>, OpError> {
        let decide = async {
            let newest = match asked {
                Some(What::Machines) => self.newest_version(model).await?,
                _ => None,
            };
            let mut old = Vec::new();
            for machine in members(&self.cx.engine, &self.row).await? {
                let has = &machine.body["properties"]["storageProfile"]["imageReference"]["exactVersion"];
                let what = match outdated(&self.cx.engine, model, &machine).await? {
                    _ if newest.as_ref().is_some_and(|newest| has != newest) => Some(What::Machines),
                    what => what.filter(|what| asked != Some(What::Extensions) || *what == What::Extensions),
                };
                if let Some(what) = what {
                    let first = body::rolling(&self.row.body).unhealthy_first && !self.is_well(&machine).await;
                    old.push((!first, Old { instance: instance_id(&self.row, &machine), name: machine.name, what }));
                }
            }
            old.sort_by_key(|(later, _)| *later);
            Ok::<Vec<Old>, OpError>(old.into_iter().map(|(_, old)| old).collect())
        };
        self.cx.step("outdated", decide).await
    }

    /// The version that a machine made now would have; null: its image has none.
    async fn newest_version(&self, model: &Model) -> Result<Option<Value>, OpError> {
        let reference = &model.body["properties"]["virtualMachineProfile"]["storageProfile"]["imageReference"];
        if !reference.is_object() {
            return Ok(None);
        }
        let cx = Context { engine: &self.cx.engine, call: &self.call, now_ms: now_ms() };
        let image = resolve_reference(cx, reference, &self.id.subscription, &self.row.location).await?;
        Ok(image.exact_version.map(Value::from))
    }

    async fn roll(&self, model: &Model, old: &[Old]) -> Result<(), OpError> {
        let policy = body::rolling(&self.row.body);
        let machines = members(&self.cx.engine, &self.row).await?.len().max(old.len());
        let batch = policy.batch_of(machines);
        let mut tally = Tally::default();
        for (n, olds) in old.chunks(batch).enumerate() {
            if n > 0 {
                self.pause(n, Duration::from_secs(policy.pause_seconds)).await?;
            }
            self.check_canceled().await?;
            // Not asked again in a second attempt, which finds machines that the first has taken away.
            self.cx.step(&format!("batch/{n}"), self.enough_well(&policy)).await?;
            self.show(&tally, olds.len(), old.len()).await?;
            let work = olds.iter().enumerate().map(|(i, old)| self.roll_one(old, n * batch + i, model).boxed());
            self.side_by_side(work.collect(), "upgrading machines").await?;
            for old in olds {
                tally.add(old, self.cx.done_step(&rolled(old)));
            }
            self.show(&tally, 0, old.len()).await?;
            let (instance, why) =
                tally.first.as_ref().map_or(("", ""), |(instance, why)| (instance.as_str(), why.as_str()));
            policy.check_after(tally.failed, tally.done(), instance, why)?;
        }
        self.cx
            .update_resource(|row| {
                change_internal(row, |state: &mut ScaleSetInternal| {
                    if let Some(upgrade) = &mut state.rolling {
                        upgrade.end(Code::Completed, Value::Null);
                    }
                });
            })
            .await
    }

    /// Its failure is remembered, not this operation's: the policy says how many are too many.
    async fn roll_one(&self, old: &Old, index: usize, model: &Model) -> Result<(), OpError> {
        let upgrade = async {
            match self.bring(&old.name, index, model, Some(old.what)).await {
                Ok(()) => Ok(None),
                Err(OpError::Failed(error)) => Ok(Some(error.message)),
                Err(stopped) => Err(stopped),
            }
        };
        self.cx.step::<Option<String>, _>(&rolled(old), upgrade).await.map(drop)
    }

    async fn enough_well(&self, policy: &Rolling) -> Result<(), OpError> {
        let machines = members(&self.cx.engine, &self.row).await?;
        let mut unwell = 0;
        for machine in &machines {
            unwell += usize::from(!self.is_well(machine).await);
        }
        Ok(policy.check_before(unwell, machines.len())?)
    }

    /// Provisioned, and not broken down. One that somebody switched off is well.
    async fn is_well(&self, machine: &Resource) -> bool {
        let Ok(state) = internal::<MachineInternal>(machine) else { return false };
        if machine.provisioning_state != "Succeeded" || state.deallocated {
            return machine.provisioning_state == "Succeeded";
        }
        // A host that does not answer, or a worker that is away, says nothing of its machines.
        let Ok(home) = self.cx.engine.home_of(machine, &state).await else { return true };
        let status = home.host.status(state.vm_id).await;
        !status.is_ok_and(|status| status.power == PowerState::Crashed)
    }

    async fn pause(&self, n: usize, pause: Duration) -> Result<(), OpError> {
        let until: i64 = self
            .cx
            .step(&format!("pause/{n}"), async {
                Ok(now_ms().saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)))
            })
            .await?;
        loop {
            self.cx.check()?;
            let left = u64::try_from(until.saturating_sub(now_ms())).unwrap_or(0);
            if left == 0 {
                return Ok(());
            }
            self.check_canceled().await?;
            tokio::select! {
                () = self.cx.stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_AGAIN.min(Duration::from_millis(left))) => {}
            }
        }
    }

    /// Between batches: a machine that was taken away comes again before the upgrade ends.
    async fn check_canceled(&self) -> Result<(), OpError> {
        let state: ScaleSetInternal = internal(&self.cx.resource().await?)?;
        match state.rolling.and_then(|upgrade| upgrade.canceled_ms) {
            Some(_) => Err(OpError::Canceled),
            None => Ok(()),
        }
    }

    async fn show(&self, tally: &Tally, in_progress: usize, all: usize) -> Result<(), OpError> {
        let (failed, done) = (tally.failed, tally.done());
        self.cx
            .update_resource(|row| {
                change_internal(row, |state: &mut ScaleSetInternal| {
                    if let Some(upgrade) = &mut state.rolling {
                        upgrade.successful = done - failed;
                        upgrade.failed = failed;
                        upgrade.in_progress = in_progress;
                        upgrade.pending = all.saturating_sub(done + in_progress);
                    }
                });
            })
            .await
    }

    /// Waits until no upgrade runs any more: it was told to stop.
    pub(super) async fn rolling_ended(&self) -> Result<(), OpError> {
        let query = OperationQuery {
            resource_key: Some(self.row.key.clone()),
            state: Some(OperationState::Running),
            ..OperationQuery::default()
        };
        loop {
            self.cx.check()?;
            let running = self.cx.engine.db().operations(&query).await.map_err(db_error)?;
            let Some(other) = running.into_iter().find(|o| o.id != self.cx.op.id && o.kind != self.cx.op.kind) else {
                return Ok(());
            };
            self.cx.engine.db().wait_operation(&other.id, LOOK_AGAIN).await.map_err(db_error)?;
        }
    }
}

fn rolled(old: &Old) -> String {
    format!("rolled/{}", old.name)
}

/// How the machines of the batches so far have ended.
#[derive(Debug, Default)]
struct Tally {
    upgraded: usize,
    failed: usize,
    /// The first that failed, and why.
    first: Option<(String, String)>,
}

impl Tally {
    fn add(&mut self, old: &Old, ended: Option<Value>) {
        match ended.as_ref().and_then(Value::as_str) {
            Some(why) => {
                self.failed += 1;
                self.first.get_or_insert_with(|| (old.instance.clone(), why.trim_end_matches('.').to_owned()));
            }
            None => self.upgraded += 1,
        }
    }

    fn done(&self) -> usize {
        self.upgraded + self.failed
    }
}
