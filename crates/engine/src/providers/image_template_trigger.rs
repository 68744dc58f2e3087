//! `Microsoft.VirtualMachineImages/imageTemplates/triggers`: what starts runs by itself; `reconcilers/image_triggers.rs` does.

use super::named_row;
use crate::db_error;
use crate::image_builder::rules::{self, Ask};
use crate::image_builder::{FAILURES, TemplateInternal};
use crate::provider::{Context, Plan, Provider, Start, standard_view};
use crate::providers::user_assigned_identity::lower_group;
use crate::reconcilers::image_triggers::exact_version;
use crate::stored::{internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::image_template::ImageTemplate;
use lazuli_arm::bodies::image_template_trigger::{self as body, Trigger as Body};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) const KIND: &str = "Microsoft.VirtualMachineImages/imageTemplates/triggers";
/// In a region of a subscription (documented).
const MAX: usize = 100;

pub(crate) struct Trigger;

/// `internal` of a trigger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TriggerInternal {
    /// The source's exact version at which it last looked or ran; only another one starts a run.
    pub seen: Option<String>,
    /// When a scheduled one last ran, or was made.
    pub last_ms: i64,
}

#[async_trait]
impl Provider for Trigger {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = body::put(id, &new, old.map(|o| &o.body))?;
        if let Some(old) = old {
            let start = Start { kind: "image_template_trigger.create", params: json!({}) };
            return Ok(Plan { body, internal: old.internal.clone(), start: Some(start), changes: vec![] });
        }
        let template = id.parent().map(|p| p.to_string()).unwrap_or_default();
        let template = named_row(cx, &template).await?.ok_or_else(|| ArmError::parent_not_found(id.name()))?;
        rules::check(Ask::Trigger, &template)?;
        if body::parse(&body) == Body::SourceImage {
            body::check_template(&ImageTemplate::parse(&template.body)?)?;
            let others = cx.engine.db().children(&template.key, 1000).await.map_err(db_error)?;
            let same = |r: &&Resource| r.kind.eq_ignore_ascii_case(KIND) && body::parse(&r.body) == Body::SourceImage;
            if let Some(other) = others.iter().find(same) {
                return Err(ArmError::conflict(
                    "Conflict",
                    format!(
                        "The template has the trigger '{}' of kind SourceImage already; it can have one.",
                        other.name
                    ),
                ));
            }
        }
        check_count(cx, id, &template.location).await?;
        let state: TemplateInternal = internal(&template)?;
        let state = TriggerInternal { seen: state.exact_version, last_ms: cx.now_ms };
        let start = Start { kind: "image_template_trigger.create", params: json!({}) };
        Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes: vec![] })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        view["id"] = json!(lower_group(&row.id));
        if row.provisioning_state == "Succeeded" {
            view["properties"]["status"] = status(cx, row).await?;
        }
        Ok(view)
    }

    fn is_tracked(&self) -> bool {
        false
    }

    fn delete_rank(&self) -> u8 {
        3
    }
}

async fn status(cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
    let template = named_row(cx, row.parent.as_deref().unwrap_or_default()).await?;
    let failures = template.as_ref().map(internal::<TemplateInternal>).transpose()?.map_or(0, |s| s.failures);
    let time = jiff::Timestamp::from_millisecond(cx.now_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let (code, message) = if failures >= FAILURES {
        let message = format!(
            "Trigger is deactivated: the last {failures} runs that were started automatically failed. It is active again after a \
             run that you start yourself succeeds."
        );
        ("Deactivated", message)
    } else if let Some(why) = blind(cx, row, template.as_ref()).await? {
        ("Unhealthy", format!("Trigger sees no new versions: {why}"))
    } else {
        ("Healthy", "Trigger is active".to_owned())
    };
    Ok(json!({"code": code, "message": message, "time": time.to_string()}))
}

/// Why a trigger of kind SourceImage cannot see its source, if so.
async fn blind(cx: Context<'_>, row: &Resource, template: Option<&Resource>) -> Result<Option<String>, ArmError> {
    let Some(template) = template.filter(|_| body::parse(&row.body) == Body::SourceImage) else { return Ok(None) };
    match exact_version(cx.engine, template).await {
        Ok(_) => Ok(None),
        Err(error) if error.status < 500 => Ok(Some(error.message)),
        Err(error) => Err(error),
    }
}

async fn check_count(cx: Context<'_>, id: &ResourceId, location: &str) -> Result<(), ArmError> {
    let query = ResourceQuery {
        kind: Some(KIND.to_ascii_lowercase()),
        under: Some(ResourceId::subscription(&id.subscription).key()),
        ..ResourceQuery::default()
    };
    let mut here = 0;
    for row in cx.engine.all_rows(query).await? {
        let template = named_row(cx, row.parent.as_deref().unwrap_or_default()).await?;
        here += usize::from(template.is_some_and(|t| t.location == location));
    }
    if here < MAX {
        return Ok(());
    }
    Err(ArmError::conflict(
        "QuotaExceeded",
        format!("There are {MAX} triggers in region '{location}' of the subscription already; that is the most."),
    ))
}
