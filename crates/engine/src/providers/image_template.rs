//! `Microsoft.VirtualMachineImages/imageTemplates`: what a write starts, what a read shows.
//!
//! ```text
//! PUT new      ─> image_template.create            PUT on one that is there: 409 (unless the operator allows it)
//! PATCH        ─> image_template.update            tags, identity, distribute, vmProfile; while nothing runs
//! POST run     ─> image_template.run               POST cancel: asks that run to stop
//! DELETE       ─> image_template.delete            not while something runs
//! ```
//! Rights are the identity's, and whoever names an identity must have the right to assign it (RB-6).

use super::{arm_context, delete_children, named_row};
use crate::call::ActionReply;
use crate::db_error;
use crate::image_builder::dry_run::dry_run;
use crate::image_builder::log;
use crate::image_builder::rules::{self, Ask, Cause};
use crate::image_builder::staging::Staging;
use crate::image_builder::{KIND, RUN, TemplateInternal, rights, service_call};
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider, Start, standard_view, unknown_action};
use crate::providers::user_assigned_identity::lower_group;
use crate::providers::virtual_machine::identity::may_assign;
use crate::stored::{internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::image_template::{self as body, ImageTemplate as Template};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, OperationQuery, OperationState, Resource, ResourceQuery};
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) struct ImageTemplate;

#[async_trait]
impl Provider for ImageTemplate {
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
        if let Some(old) = old {
            if !cx.engine.config().image_builder.editable {
                return Err(body::immutable());
            }
            // A template that failed is replaced as well: that is what an editor is for.
            if old.provisioning_state != "Failed" {
                rules::check(Ask::Update, old)?;
            }
        }
        let body = body::put(id, &new, &arm_context(cx))?;
        let template = Template::parse(&body)?;
        let before = old.map(internal::<TemplateInternal>).transpose()?;
        let changes = identity_changes(cx, &template, old).await?;
        let staging = match before.as_ref().map(|b| b.staging.clone()) {
            Some(kept) => {
                if template.staging_resource_group.as_deref() != kept.named.then_some(kept.group.as_str()) {
                    return Err(ArmError::property_change_not_allowed("imageTemplate.properties.stagingResourceGroup"));
                }
                kept
            }
            None => Staging::new(id, template.staging_resource_group.as_deref(), Uuid::new_v4()),
        };
        if old.is_none() && staging.named {
            check_group(cx, &staging).await?;
        }
        let state = TemplateInternal {
            staging,
            last_run: before.and_then(|b| b.last_run),
            arm: cx.call.urls.arm.clone(),
            blob_suffix: cx.call.urls.blob_suffix.clone(),
            ..TemplateInternal::default()
        };
        let start = Start { kind: "image_template.create", params: json!({}) };
        Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        rules::check(Ask::Update, old)?;
        let body = body::patch(id, &patch, &old.body, &arm_context(cx))?;
        let template = Template::parse(&body)?;
        let changes = identity_changes(cx, &template, Some(old)).await?;
        if body["properties"] != old.body["properties"] {
            // As the identity that the template is going to have.
            let next = Resource { body: body.clone(), ..old.clone() };
            let call = service_call(cx.engine, &next).await?;
            let image = rights::source(cx.engine, &call, &template, &old.subscription).await?;
            rights::check(cx.engine, &call, &template, &rights::SourceFacts::of(&image)).await?;
        }
        let start = Start { kind: "image_template.update", params: json!({}) };
        Ok(Plan { body, internal: old.internal.clone(), start: Some(start), changes })
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        // The deletion of a whole group, which nobody in particular asks for here, stops what runs.
        if !cx.call.caller.principal.is_empty() && old.provisioning_state != "Deleting" {
            rules::check(Ask::Delete, old)?;
        }
        let children = cx.engine.db().children(&old.key, 1000).await.map_err(db_error)?;
        let start = Start { kind: "image_template.delete", params: json!({}) };
        Ok(DeletePlan { start: Some(start), changes: delete_children(children) })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let state: TemplateInternal = internal(row)?;
        let mut view = standard_view(KIND, row);
        view["id"] = json!(lower_group(&row.id));
        if !view["tags"].is_object() {
            view["tags"] = json!({});
        }
        // While it is being made nothing is known yet (recorded).
        let known = row.provisioning_state != "Creating";
        let source = Template::parse(&row.body)?.source;
        let properties = &mut view["properties"];
        if let Some(unresolved) = source.unresolved_version() {
            let exact = state.exact_version.as_deref().filter(|_| known).unwrap_or(unresolved);
            properties["source"]["exactVersion"] = json!(exact);
        }
        for (place, file) in state.files.iter().filter(|_| known) {
            if let Some(step) = step_mut(properties, place) {
                step["sha256Checksum"] = json!(file.sha256);
            }
        }
        if let Some(error) = &state.provisioning_error {
            properties["provisioningError"] = json!(error);
        }
        if let Some(run) = &state.last_run {
            properties["lastRunStatus"] = run.view();
        }
        properties["exactStagingResourceGroup"] = json!(if known { state.staging.group.as_str() } else { "" });
        if known {
            show_identity(cx, &mut view).await?;
        }
        Ok(view)
    }

    fn actions(&self) -> &'static [&'static str] {
        &["run", "cancel", "dryRun"]
    }

    /// Lazuli's own: looks at a template as its creation and its run would, and makes nothing.
    async fn absent_action(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        action: &str,
        body: &Value,
    ) -> Result<Option<ActionReply>, ArmError> {
        if !action.eq_ignore_ascii_case("dryRun") {
            return Ok(None);
        }
        dry_run(cx, id, body).await.map(|report| Some(ActionReply::Done(Some(report))))
    }

    fn views(&self) -> &'static [&'static str] {
        &["log", "logStream"]
    }

    /// `…/log`, Lazuli's own: a run's log from `offset` on. Of `…/logStream` the edge asks for one piece after the other.
    async fn view(&self, cx: Context<'_>, row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        if !self.views().iter().any(|view| name.eq_ignore_ascii_case(view)) {
            return Ok(None);
        }
        log::view(cx, row).await.map(Some)
    }

    async fn action(
        &self,
        cx: Context<'_>,
        row: &Resource,
        action: &str,
        _body: Value,
    ) -> Result<ActionPlan, ArmError> {
        match action.to_ascii_lowercase().as_str() {
            "run" => run(cx, row),
            "cancel" => {
                rules::check(Ask::Cancel, row)?;
                if let Some(running) = running(cx, row).await? {
                    cx.engine.db().request_cancel(&running).await.map_err(db_error)?;
                }
                Ok(ActionPlan::Done { reply: None, resource: Some(rules::canceling(row)), changes: vec![] })
            }
            _ => Err(unknown_action(&row.id, action)),
        }
    }

    /// States of its own tell when a template can be written.
    fn writable_while_running(&self) -> bool {
        true
    }

    /// Before the galleries that it writes to.
    fn delete_rank(&self) -> u8 {
        4
    }
}

fn run(cx: Context<'_>, row: &Resource) -> Result<ActionPlan, ArmError> {
    rules::check(Ask::Run, row)?;
    let resource = Some(rules::began(row, Cause::Request, cx.now_ms));
    Ok(ActionPlan::Start { start: Start { kind: RUN, params: json!({}) }, resource, changes: vec![] })
}

/// The operation that runs a template, if any does.
async fn running(cx: Context<'_>, row: &Resource) -> Result<Option<String>, ArmError> {
    let query = OperationQuery {
        resource_key: Some(row.key.clone()),
        kind: Some(RUN.to_owned()),
        state: Some(OperationState::Running),
        ..OperationQuery::default()
    };
    Ok(cx.engine.db().operations(&query).await.map_err(db_error)?.into_iter().next().map(|o| o.id))
}

/// Who names an identity must have the right to assign it; it must be there when the template is committed.
///
/// # Errors
/// 403 `LinkedAuthorizationFailed`; 400 `FailedIdentityOperation`.
pub(crate) async fn identity_changes(
    cx: Context<'_>,
    template: &Template,
    old: Option<&Resource>,
) -> Result<Vec<Change>, ArmError> {
    let Some(id) = &template.identity else { return Ok(vec![]) };
    let known = old.and_then(|o| o.body["identity"]["userAssignedIdentities"].as_object());
    if known.is_some_and(|all| all.keys().any(|k| k.eq_ignore_ascii_case(id))) {
        return Ok(vec![]);
    }
    may_assign(cx, id).await?;
    let key = id.to_ascii_lowercase();
    if cx.engine.db().resource(&key).await.map_err(db_error)?.is_none() {
        return Err(ArmError::bad_request(
            "FailedIdentityOperation",
            format!("The identity '{id}' of the template was not found. Create it first: az identity create."),
        ));
    }
    Ok(vec![Change::RequireResource { key }])
}

/// Whoever names a staging group that is there must be allowed to write in it: the service is going to.
pub(crate) async fn check_group(cx: Context<'_>, staging: &Staging) -> Result<(), ArmError> {
    let right = "Microsoft.Resources/subscriptions/resourceGroups/write";
    cx.engine.authorize_link(&cx.call.caller, &staging.group, right).await?;
    let Some(group) = named_row(cx, &staging.group).await? else { return Ok(()) };
    let query = ResourceQuery { under: Some(group.key), limit: Some(1), ..ResourceQuery::default() };
    if cx.engine.db().resources(&query).await.map_err(db_error)?.is_empty() {
        return Ok(());
    }
    let delete = "Microsoft.Resources/subscriptions/resourceGroups/delete";
    // It is refused for not being empty, but not to somebody who may not know what is in it.
    cx.engine.authorize_link(&cx.call.caller, &staging.group, delete).await
}

/// `customize/0` or `validate/2` in what is shown.
fn step_mut<'a>(properties: &'a mut Value, place: &str) -> Option<&'a mut Value> {
    let (phase, index) = place.split_once('/')?;
    let index: usize = index.parse().ok()?;
    let list = match phase {
        "customize" => properties.get_mut("customize")?,
        _ => properties.get_mut("validate")?.get_mut("inVMValidations")?,
    };
    list.get_mut(index)
}

/// Which principal the identity is; nothing of one that is gone.
async fn show_identity(cx: Context<'_>, view: &mut Value) -> Result<(), ArmError> {
    let named = view.get_mut("identity").and_then(|i| i.get_mut("userAssignedIdentities"));
    for (id, shown) in named.and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(row) = cx.engine.db().resource(&id.to_ascii_lowercase()).await.map_err(db_error)? {
            let properties = &row.body["properties"];
            *shown = json!({"principalId": properties["principalId"], "clientId": properties["clientId"]});
        }
    }
    Ok(())
}
