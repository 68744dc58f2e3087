//! Starts the runs of image templates that have triggers: when their source has another version, or at a time.
//!
//! A trigger starts nothing while its template runs or cannot run, and rests after [`FAILURES`] failures in a row until a run that
//! somebody asked for succeeds. What it saw and what it started are committed together, so that no version starts two runs.

use super::every;
use crate::image_builder::rights::{self, SourceFacts};
use crate::image_builder::rules::{self, Ask, Cause};
use crate::image_builder::{FAILURES, RUN, TemplateInternal, service_call};
use crate::provider::Start;
use crate::providers::image_template_trigger::{KIND, TriggerInternal};
use crate::stored::{internal, to_internal};
use crate::write::operation_of;
use crate::{Engine, db_error, new_etag, now_ms};
use lazuli_arm::ArmError;
use lazuli_arm::bodies::image_template::ImageTemplate;
use lazuli_arm::bodies::image_template_trigger::{Trigger, cron::Schedule, parse};
use lazuli_meta::WriteError;
use lazuli_meta::model::{Change, Conflict, Expect, Resource, ResourceQuery, Write};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Runs until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    let pause = Duration::from_secs(engine.config().image_builder.trigger_seconds.max(1));
    every(pause, &shutdown, async || match reconcile(&engine, now_ms()).await {
        Ok(0) => {}
        Ok(started) => tracing::info!(started, "triggers started runs of image templates"),
        Err(error) => {
            tracing::warn!(%error, "triggers of image templates were not looked at; they are in the next round")
        }
    })
    .await;
}

/// Looks at every trigger once. Returns how many runs were started.
pub(crate) async fn reconcile(engine: &Engine, now_ms: i64) -> Result<usize, ArmError> {
    let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
    let mut started = 0;
    for trigger in engine.all_rows(query).await? {
        if trigger.provisioning_state != "Succeeded" {
            continue;
        }
        match fire(engine, &trigger, now_ms).await {
            Ok(fired) => started += usize::from(fired),
            // A source that cannot be read now is no reason to leave the others alone.
            Err(error) => tracing::debug!(trigger = trigger.id, %error, "a trigger could not be decided"),
        }
    }
    Ok(started)
}

/// Whether the trigger started a run.
async fn fire(engine: &Engine, trigger: &Resource, now_ms: i64) -> Result<bool, ArmError> {
    let parent = trigger.parent.as_deref().unwrap_or_default();
    let Some(template) = engine.db().resource(parent).await.map_err(db_error)? else { return Ok(false) };
    let state: TemplateInternal = internal(&template)?;
    if state.failures >= FAILURES || rules::check(Ask::Run, &template).is_err() {
        return Ok(false);
    }
    let mut seen: TriggerInternal = internal(trigger)?;
    match parse(&trigger.body) {
        Trigger::SourceImage => {
            let exact = exact_version(engine, &template).await?;
            if exact.is_none() || exact == seen.seen {
                return Ok(false);
            }
            seen.seen = exact;
        }
        Trigger::Schedule(cron) => {
            if !is_due(&cron, seen.last_ms, now_ms) {
                return Ok(false);
            }
        }
    }
    seen.last_ms = now_ms;
    start(engine, trigger, &template, &seen, now_ms).await
}

/// The version that a template's source is now, as its identity sees it.
pub(crate) async fn exact_version(engine: &Engine, template: &Resource) -> Result<Option<String>, ArmError> {
    let body = ImageTemplate::parse(&template.body)?;
    let call = service_call(engine, template).await?;
    let image = rights::source(engine, &call, &body, &template.subscription).await?;
    Ok(SourceFacts::of(&image).exact_version)
}

/// Whether a time of the schedule lies between the last run and now. Times that were missed count once.
fn is_due(cron: &str, last_ms: i64, now_ms: i64) -> bool {
    let schedule: Option<Schedule> = cron.parse().ok();
    let last = jiff::Timestamp::from_millisecond(last_ms).ok();
    let next = schedule.zip(last).and_then(|(schedule, last)| schedule.after(last));
    next.is_some_and(|next| next.as_millisecond() <= now_ms)
}

async fn start(
    engine: &Engine,
    trigger: &Resource,
    template: &Resource,
    seen: &TriggerInternal,
    now_ms: i64,
) -> Result<bool, ArmError> {
    let again = |row: &Resource| Resource { etag: new_etag(), changed_ms: now_ms, ..row.clone() };
    let template_next = again(&rules::began(template, Cause::Trigger(trigger.name.clone()), now_ms));
    let trigger_next = Resource { internal: to_internal(seen), ..again(trigger) };
    let operation = operation_of(Some(Start { kind: RUN, params: json!({}) }), &template_next, "run");
    let changes = vec![
        Change::PutResource { resource: template_next, expect: Expect::Etag(template.etag.clone()) },
        Change::PutResource { resource: trigger_next, expect: Expect::Etag(trigger.etag.clone()) },
        Change::StartOperation(operation),
    ];
    match engine.db().write(Write { fence: None, changes }).await {
        Ok(()) => Ok(true),
        // Somebody else wrote one of them: the next round decides anew.
        Err(WriteError::Conflict(Conflict::Etag { .. } | Conflict::Missing { .. })) => Ok(false),
        Err(WriteError::Conflict(conflict)) => Err(ArmError::internal(conflict)),
        Err(WriteError::Db(error)) => Err(db_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_counts_once() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let made = at("2026-01-01T12:00:00Z");
        assert!(!is_due("0 3 * * *", made, at("2026-01-02T02:59:00Z")));
        assert!(is_due("0 3 * * *", made, at("2026-01-02T03:00:00Z")));
        assert!(is_due("0 3 * * *", made, at("2026-01-09T12:00:00Z")));
        assert!(!is_due("0 3 * * *", at("2026-01-09T12:00:00Z"), at("2026-01-09T12:01:00Z")));
    }
}
