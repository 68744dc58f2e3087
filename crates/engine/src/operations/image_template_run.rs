//! Builds an image from a template: a machine of the source, what the template does to it, and its results.
//!
//! ```text
//! Queued ─▶ Building ─▶ Customizing ─▶ Optimizing ─▶ Validating ─▶ Distributing ─▶ Succeeded | PartiallySucceeded
//!               │            │                            │              │              │
//!               └────────────┴──── an error, a time-out ──┴──────────────┴─▶ Failed     └─▶ all that was made for it is gone
//!                            └──── somebody cancels ─────────────────────▶ Canceled         (but where errorHandling says `abort`)
//! ```
//! With `sourceValidationOnly` a run goes from Queued to Validating, of the source, and ends there.
//!
//! Everything that a run needs is an ordinary resource in the template's staging group, named after the run, and written in the name of
//! the template's identity ([`service_call`]): that may do in the staging group what it likes, and elsewhere what its roles say. Run
//! again after a crash it goes on where it was, with one exception: scripts are never run twice, so that a run that was interrupted
//! while it customized or validated fails.

mod customize;
mod distribute;
mod door;
mod journal;
mod machine;
mod names;

use crate::call::Call;
use crate::image_builder::rules::{RunState, SubState, ended, entered};
use crate::image_builder::{RUN, TemplateInternal, rights, service_call};
use crate::operation::{FAILED, OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine::image::ImageKind;
use crate::stored::{change_internal, internal};
use crate::{now_ms, on_behalf};
use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use journal::Journal;
use lazuli_arm::bodies::image_template::{ImageTemplate, OnError};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use names::Names;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;
use uuid::Uuid;

/// Step that says that some of the results were distributed, and some were not.
const PARTIAL: &str = "partial";
/// Step that says that the build machine is to be kept.
const KEPT: &str = "kept";
/// Step that says how much of its disk a start of the result read.
const TRACED: &str = "traced";
/// The file beside the log that says in which order.
const TRACE: &str = "boot.trace";

pub(crate) struct ImageTemplateRun;

/// What is decided once for a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prepared {
    /// Names the log's folder.
    run: Uuid,
    /// Ends the names of what is made.
    suffix: String,
    /// Seed of the build user's key or password, sealed for [`key_context`].
    sealed_key: String,
    source: Resolved,
}

/// The source, as it was when the run began.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resolved {
    /// Id by which clients know it.
    id: String,
    /// As machines name it.
    reference: Value,
    /// Its manifest, for the provenance of what is made of it.
    manifest: String,
    /// `Major.Minor.Patch`, where it has one.
    version: Option<String>,
    /// As `source.exactVersion` shows it.
    shown_version: Option<String>,
    generation: String,
    plan: Option<Value>,
    trusted_launch: bool,
    #[serde(default)]
    windows: bool,
}

#[async_trait]
impl Operation for ImageTemplateRun {
    fn kind(&self) -> &'static str {
        RUN
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let run = Run::begin(cx).await?;
        let worked = run.within_time(Box::pin(run.work())).await;
        if let Err(OpError::Failed(error)) = &worked {
            run.journal.say("run", &format!("failed: {}", error.message));
        }
        run.journal.flush().await;
        worked?;
        Ok(outcome(RunState::Succeeded, String::new()))
    }

    async fn undo(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let cx = &cx.undoing();
        let failed = cx.done_step(FAILED);
        let mut left = String::new();
        if cx.done_step("prepare").is_some() {
            let run = Run::resume(cx).await?;
            run.journal.say("run", if failed.is_some() { "takes back what was made" } else { "was canceled" });
            if (failed.is_none() || cx.done_step(KEPT).is_none())
                && let Err(error) = machine::remove_all(&run).await
            {
                match error {
                    OpError::Failed(error) => {
                        left = format!(
                            " What was made for the run could not be removed: {} It goes with the next run.",
                            error.message
                        );
                        run.journal.say("run", &left);
                    }
                    stopped => return Err(stopped),
                }
            }
            run.journal.flush().await;
        }
        let (state, message) = match failed {
            None => (RunState::Canceled, "Image build was canceled".to_owned()),
            Some(error) => {
                let partial = cx.done_step(PARTIAL).is_some();
                let state = if partial { RunState::PartiallySucceeded } else { RunState::Failed };
                (state, error["message"].as_str().unwrap_or_default().to_owned())
            }
        };
        Ok(outcome(state, message + &left))
    }
}

/// A result that was found wanting has failed, whatever became of its distribution (Swagger: `continueDistributeOnFailure`).
fn both(validated: Result<(), OpError>, distributed: Result<(), OpError>) -> Result<(), OpError> {
    match (validated, distributed) {
        (Err(OpError::Failed(found)), Err(OpError::Failed(error))) => {
            Err(OpError::Failed(ArmError { message: format!("{} {}", found.message, error.message), ..found }))
        }
        (Ok(()), distributed) => distributed,
        (_, Err(stopped @ (OpError::Canceled | OpError::Interrupted))) => Err(stopped),
        (validated, _) => validated,
    }
}

/// How the template's row is left: as usable as before, with what became of the run.
fn outcome(state: RunState, message: String) -> Outcome {
    Outcome::update(move |row| ended(row, state, &message, now_ms()))
}

/// One run of a template, by one worker.
struct Run<'a> {
    cx: &'a OpContext,
    row: Resource,
    id: ResourceId,
    template: ImageTemplate,
    /// Requests in the name of the template's identity.
    call: Call,
    prepared: Prepared,
    names: Names,
    journal: Journal,
}

impl<'a> Run<'a> {
    /// # Errors
    /// A source or an identity that is not there.
    async fn begin(cx: &'a OpContext) -> Result<Run<'a>, OpError> {
        let row = cx.resource().await?;
        let id: ResourceId = row.id.parse().map_err(ArmError::internal)?;
        let template = ImageTemplate::parse(&row.body)?;
        let staging = internal::<TemplateInternal>(&row)?.staging.group_id()?;
        let call = service_call(&cx.engine, &row).await?;
        let prepared: Prepared = cx
            .step("prepare", async {
                let source = resolve(cx, &call, &id, &template).await?;
                let seed: Vec<u8> = [Uuid::new_v4(), Uuid::new_v4()].iter().flat_map(|id| *id.as_bytes()).collect();
                let run = Uuid::new_v4();
                let sealed_key = cx.engine.secrets().seal(&key_context(run), &BASE64_STANDARD.encode(seed))?;
                Ok(Prepared { run, suffix: run.simple().to_string()[..10].to_owned(), sealed_key, source })
            })
            .await?;
        let names = Names::new(&staging, &prepared.suffix);
        let journal = Journal::open(cx, &row, prepared.run, secrets(cx, &prepared)?).await?;
        Ok(Self { cx, row, id, template, call, prepared, names, journal })
    }

    /// To take back what was made: as much as there still is to know.
    async fn resume(cx: &'a OpContext) -> Result<Run<'a>, OpError> {
        let row = cx.resource().await?;
        let prepared = cx.done_step("prepare").unwrap_or_default();
        let prepared: Prepared = serde_json::from_value(prepared).map_err(ArmError::internal)?;
        let journal = match Journal::open(cx, &row, prepared.run, secrets(cx, &prepared)?).await {
            Ok(journal) => journal,
            Err(OpError::Failed(error)) => {
                tracing::warn!(template = row.key, %error, "a run is taken back without a log");
                Journal::silent(cx, &row, prepared.run)
            }
            Err(stopped) => return Err(stopped),
        };
        Ok(Self {
            id: row.id.parse().map_err(ArmError::internal)?,
            template: ImageTemplate::parse(&row.body)?,
            call: service_call(&cx.engine, &row).await?,
            names: Names::new(&internal::<TemplateInternal>(&row)?.staging.group_id()?, &prepared.suffix),
            cx,
            row,
            prepared,
            journal,
        })
    }

    /// The phases, each once.
    async fn work(&self) -> Result<(), OpError> {
        self.cx.step("left", machine::remove_left(self)).await?;
        if self.template.validate.as_ref().is_some_and(|v| v.source_validation_only) {
            self.validate(&self.prepared.source.reference, true).await?;
            return self.clean().await;
        }
        self.enter(SubState::Building).await?;
        let machine = self.names.build();
        let image = &self.prepared.source.reference;
        self.cx.step("build/network", machine::network(self, &machine)).await?;
        self.cx.step("build/machine", machine::create(self, &machine, image, true)).await?;
        self.enter(SubState::Customizing).await?;
        Box::pin(self.customize(&machine)).await?;
        self.cx.step("captured", machine::capture(self, &machine)).await?;
        Box::pin(self.optimize(&machine)).await?;
        let validated = Box::pin(self.validate_result(&machine)).await;
        let goes_on = self.template.validate.as_ref().is_some_and(|v| v.continue_distribute_on_failure);
        match &validated {
            Err(OpError::Failed(error)) if goes_on => {
                self.journal
                    .say("validate", &format!("failed, and the result is distributed all the same: {}", error.message));
            }
            Err(_) => return validated,
            Ok(()) => {}
        }
        self.enter(SubState::Distributing).await?;
        let distributed = Box::pin(distribute::distribute(self, &machine, validated.is_ok())).await;
        // A machine that was kept to be looked at is not taken from whoever was told of it.
        if distributed.is_ok() && self.cx.done_step(KEPT).is_none() {
            self.clean().await?;
        }
        both(validated, distributed)
    }

    async fn customize(&self, machine: &names::Machine) -> Result<(), OpError> {
        let customized = self.once("customize", "customized", || customize::customize(self, machine)).await;
        self.keep_on_abort(customized, self.template.on_customizer_error, machine).await
    }

    /// A fresh machine of the result, which says whether it is as it should be.
    async fn validate_result(&self, machine: &names::Machine) -> Result<(), OpError> {
        if self.template.validate.as_ref().is_none_or(|v| v.steps.is_empty()) {
            return Ok(());
        }
        self.cx.step("result", machine::result_image(self, machine)).await?;
        self.validate(&self.result(), false).await
    }

    /// A first start of the result is traced; the trace goes along with every image that is made of it ([`crate::image_files`]), so
    /// that hosts fetch ahead of their guests where the region's store is far away (RFD 9).
    async fn optimize(&self, machine: &names::Machine) -> Result<(), OpError> {
        if self.template.optimize_vm_boot != Some(true) {
            return Ok(());
        }
        self.enter(SubState::Optimizing).await?;
        self.cx.step("result", machine::result_image(self, machine)).await?;
        let started = self.fresh(&self.result(), false).await?;
        let covers: Option<u64> = self.cx.step(TRACED, machine::trace(self, &started)).await?;
        let told = match covers {
            Some(bytes) => format!("the image was started once: first starts will fetch {} MiB ahead", bytes >> 20),
            None => "the image was started once, but what it read is not known: its host keeps no traces".to_owned(),
        };
        self.journal.say("optimize", &told);
        Ok(())
    }

    fn result(&self) -> Value {
        json!({"id": self.names.result().to_string()})
    }

    /// A fresh machine of an image; the same one for all that needs one.
    async fn fresh(&self, image: &Value, network: bool) -> Result<names::Machine, OpError> {
        let machine = self.names.validate();
        let attached = async {
            if network { machine::network(self, &machine).await } else { machine::interface(self, &machine).await }
        };
        self.cx.step("validate/network", attached).await?;
        self.cx.step("validate/machine", machine::create(self, &machine, image, false)).await?;
        Ok(machine)
    }

    async fn validate(&self, image: &Value, network: bool) -> Result<(), OpError> {
        self.enter(SubState::Validating).await?;
        let machine = self.fresh(image, network).await?;
        let validated = self.once("validate", "validated", || customize::validate(self, &machine)).await;
        self.keep_on_abort(validated, self.template.on_validation_error, &machine).await
    }

    /// With `abort` the machine that a step failed on stays, and the message says how it is entered.
    async fn keep_on_abort(
        &self,
        worked: Result<(), OpError>,
        handling: Option<OnError>,
        machine: &names::Machine,
    ) -> Result<(), OpError> {
        let error = match worked {
            Err(OpError::Failed(error)) if handling == Some(OnError::Abort) => error,
            other => return other,
        };
        let entrance = door::entrance(self, machine).await?;
        self.cx.step(KEPT, async { Ok(()) }).await?;
        self.journal.say("run", &entrance);
        Err(OpError::Failed(ArmError { message: format!("{} {entrance}", error.message), ..error }))
    }

    /// Work that is never done twice: a worker that finds it begun by another one fails.
    async fn once<F>(&self, begun: &str, done: &str, work: impl FnOnce() -> F) -> Result<(), OpError>
    where
        F: Future<Output = Result<(), OpError>>,
    {
        if self.cx.done_step(done).is_some() {
            return Ok(());
        }
        let this = Uuid::new_v4();
        let first: Uuid = self.cx.step(begun, async { Ok(this) }).await?;
        if first != this {
            return Err(OpError::Failed(self.failure(&format!(
                "The server was restarted during the phase '{begun}'. Scripts are not run twice: run the template again."
            ))));
        }
        self.cx.step(done, work()).await
    }

    async fn clean(&self) -> Result<(), OpError> {
        self.cx.step("clean", machine::remove_all(self)).await
    }

    async fn enter(&self, phase: SubState) -> Result<(), OpError> {
        self.cx.check()?;
        let exact = &self.prepared.source.shown_version;
        let enter = |row: &mut Resource| {
            entered(row, phase);
            change_internal::<TemplateInternal>(row, |state| state.exact_version.clone_from(exact));
        };
        self.cx.update_resource(enter).await?;
        self.journal.say("run", &format!("phase {phase:?}"));
        self.cx.progress(0, 0, &format!("{phase:?}")).await;
        Ok(())
    }

    /// Stops `work` when somebody cancels, and when the build has taken as long as it may.
    async fn within_time(&self, work: impl Future<Output = Result<(), OpError>>) -> Result<(), OpError> {
        let minutes = self.template.timeout().as_secs() / 60;
        let left = time_left(self.template.timeout(), self.cx.op.started_ms, now_ms());
        tokio::select! {
            () = self.cx.stop.cancelled() => Err(self.cx.check().err().unwrap_or(OpError::Interrupted)),
            ended = tokio::time::timeout(left, work) => ended.unwrap_or_else(|_| {
                let message = format!(
                    "The build was stopped because it took longer than buildTimeoutInMinutes allows ({minutes} minutes)."
                );
                Err(OpError::Failed(self.failure(&message)))
            }),
        }
    }

    /// Azure's words for a build that failed (its code and its hint to the log are recorded), with the reason first.
    fn failure(&self, why: &str) -> ArmError {
        ArmError::new(
            409,
            "PackerBuildFailed",
            format!(
                "{why} During the image build a failure has occurred. Build logs are at location {}. Please navigate to this location to \
                 download logs for identifying which build/customization step failed. Use this operationId {} to search the logs.",
                self.journal.location(),
                self.cx.op.id
            ),
        )
    }

    /// The 32 bytes that the build user's key or password is made of.
    fn seed(&self) -> Result<[u8; 32], ArmError> {
        seed(self.cx, &self.prepared)
    }
}

/// Of the time that a build may take, which counts from its start, whoever works on it. A clock that was set back gives no more.
fn time_left(limit: Duration, started_ms: i64, now_ms: i64) -> Duration {
    limit.saturating_sub(Duration::from_millis(u64::try_from(now_ms.saturating_sub(started_ms)).unwrap_or(0)))
}

fn seed(cx: &OpContext, prepared: &Prepared) -> Result<[u8; 32], ArmError> {
    let text = cx.engine.secrets().unseal(&key_context(prepared.run), &prepared.sealed_key)?;
    let bytes = BASE64_STANDARD.decode(text).map_err(ArmError::internal)?;
    bytes.try_into().map_err(|_| ArmError::internal("a build key has 32 bytes"))
}

/// What must not be in the log.
fn secrets(cx: &OpContext, prepared: &Prepared) -> Result<Vec<String>, ArmError> {
    Ok(vec![door::password(&seed(cx, prepared)?)])
}

fn key_context(run: Uuid) -> String {
    format!("imageTemplateRun/{run}")
}

/// What the source is now.
async fn resolve(cx: &OpContext, call: &Call, id: &ResourceId, template: &ImageTemplate) -> Result<Resolved, OpError> {
    let image = rights::source(&cx.engine, call, template, &id.subscription).await?;
    let mut reference = template.source.reference();
    match (image.kind, &image.exact_version) {
        (ImageKind::Platform, Some(version)) => reference["version"] = json!(version),
        (ImageKind::Platform, None) => {}
        (ImageKind::Shared(kind), _) => reference = json!({kind.member(): image.shown_id}),
        (ImageKind::Version | ImageKind::Managed, _) => reference = json!({"id": image.shown_id}),
    }
    let facts = rights::SourceFacts::of(&image);
    Ok(Resolved {
        reference,
        shown_version: facts.exact_version,
        windows: facts.windows,
        trusted_launch: image.security_type == "TrustedLaunch",
        manifest: image.os_disk.manifest,
        id: image.shown_id,
        version: image.exact_version,
        generation: image.generation,
        plan: image.plan,
    })
}

/// Actions and writes of a run on a resource, in the identity's name.
impl Run<'_> {
    async fn put(&self, id: &ResourceId, body: &Value) -> Result<(), OpError> {
        Box::pin(on_behalf::put(self.cx, &self.call, id, body)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_build_counts_from_its_start() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let left = |passed_ms: i64| time_left(minutes(6), 1_000, 1_000 + passed_ms);
        assert_eq!((left(0), left(90_000)), (minutes(6), Duration::from_secs(270)));
        assert_eq!((left(360_000), left(i64::MAX - 1_000)), (minutes(0), minutes(0)), "what is over stays over");
        assert_eq!(left(-3_600_000), minutes(6), "a clock that was set back");
    }
}
