//! `Microsoft.Resources/deployments`: a template that is deployed to a resource group, a subscription, a management group or
//! a tenant.

use crate::call::ActionReply;
use crate::db_error;
use crate::deployments::{self, Input, KIND, RUN, preflight, records};
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider, Start, unknown_action};
use async_trait::async_trait;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};

pub(crate) struct Deployment;

#[async_trait]
impl Provider for Deployment {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        request: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        if let Some(old) = old.filter(|o| records::is_active(o)) {
            return Err(active(old, "Unable to edit or replace deployment"));
        }
        let (input, plan) = Input::read(cx, id, &request).await?;
        preflight(cx, &input, &plan).await?;
        let internal = input.internal(cx.engine, &id.key())?;
        let body = deployments::body(&input, &plan, cx.call, request.get("tags"));
        Ok(Plan { body, internal, start: Some(Start { kind: RUN, params: json!({}) }), changes: vec![] })
    }

    async fn patch(&self, _cx: Context<'_>, id: &ResourceId, _patch: Value, _old: &Resource) -> Result<Plan, ArmError> {
        Err(ArmError::new(
            405,
            "MethodNotAllowed",
            format!("The deployment '{}' cannot be patched: deploy again.", id.name()),
        ))
    }

    /// A group takes running deployments along; nobody else does.
    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        if !records::is_active(old) {
            return Ok(DeletePlan::default());
        }
        if !cx.call.caller.principal.is_empty() {
            return Err(active(old, "Unable to delete deployment"));
        }
        Ok(DeletePlan { start: Some(Start { kind: "deployment.delete", params: json!({}) }), changes: vec![] })
    }

    async fn show(&self, _cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        Ok(deployments::show(row))
    }

    fn views(&self) -> &'static [&'static str] {
        &["operations"]
    }

    async fn view(&self, cx: Context<'_>, row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        if !name.eq_ignore_ascii_case("operations") {
            return Ok(None);
        }
        Ok(Some(json!({"value": records::operations(cx.engine, row).await?})))
    }

    fn actions(&self) -> &'static [&'static str] {
        &["cancel", "exportTemplate", "validate", "whatIf"]
    }

    async fn action(
        &self,
        cx: Context<'_>,
        row: &Resource,
        action: &str,
        _body: Value,
    ) -> Result<ActionPlan, ArmError> {
        match action.to_ascii_lowercase().as_str() {
            "cancel" => {
                let run = records::latest_run(cx.engine, &row.key).await?.filter(|_| records::is_active(row));
                let Some(run) = run else {
                    return Err(ArmError::conflict(
                        "DeploymentCannotBeCancelled",
                        format!(
                            "The deployment '{}' cannot be cancelled because it is in the terminal state '{}'.",
                            row.name, row.provisioning_state
                        ),
                    ));
                };
                cx.engine.db().request_cancel(&run).await.map_err(db_error)?;
                Ok(ActionPlan::Done { reply: None, resource: None, changes: vec![] })
            }
            "exporttemplate" => Ok(ActionPlan::Show(json!({"template": Input::of(cx.engine, row)?.template}))),
            _ => Err(unknown_action(&row.id, action)),
        }
    }

    /// `validate` and `whatIf` ask about a deployment that need not exist.
    async fn absent_action(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        action: &str,
        request: &Value,
    ) -> Result<Option<ActionReply>, ArmError> {
        let answer = match action.to_ascii_lowercase().as_str() {
            "validate" => {
                let (input, plan) = Input::read(cx, id, request).await?;
                preflight(cx, &input, &plan).await?;
                deployments::validation(id, &input, &plan, cx.call)
            }
            "whatif" => {
                let (input, plan) = Input::read(cx, id, request).await?;
                preflight(cx, &input, &plan).await?;
                let (input, plan) = input.masked(id)?;
                deployments::what_if(cx, id, &input, &plan).await?
            }
            _ => return Ok(None),
        };
        Ok(Some(ActionReply::Done(Some(answer))))
    }

    fn absent(&self, id: &ResourceId) -> ArmError {
        ArmError::new(404, "DeploymentNotFound", format!("Deployment '{}' could not be found.", id.name()))
    }

    fn lists_own_scope(&self) -> bool {
        true
    }

    fn is_tracked(&self) -> bool {
        false
    }

    fn writable_while_running(&self) -> bool {
        true
    }

    /// Before anything that it might still write.
    fn delete_rank(&self) -> u8 {
        0
    }
}

fn active(row: &Resource, what: &str) -> ArmError {
    ArmError::conflict(
        "DeploymentActive",
        format!(
            "{what} '{}': the deployment from '{}' is still active. Cancel it, or wait until it ends. Please see \
             https://aka.ms/arm-deploy for usage details.",
            row.name,
            crate::time_text(row.changed_ms)
        ),
    )
}
