//! What can be known to fail before anything is deployed.

use super::hanging::Hanging;
use super::{Input, KIND, Who};
use crate::call::Call;
use crate::db_error;
use crate::provider::Context;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_template::{Evaluated, Facts, Plan, Planned};

/// Checks every resource of a deployment: its type exists, its group too, whoever deploys may write it, and what waits for
/// nothing is tried with its provider.
///
/// # Errors
/// `InvalidTemplateDeployment`, with what is wrong with each resource; `ResourceGroupNotFound`.
pub(crate) async fn preflight(cx: Context<'_>, input: &Input, plan: &Plan) -> Result<(), ArmError> {
    let mut wrong = Vec::new();
    for (index, resource) in plan.resources.iter().enumerate() {
        if !resource.condition || resource.existing {
            continue;
        }
        let call = input.who.call(&resource.api_version);
        let checked = match call {
            Ok(call) => check(cx, &input.who, plan, index, &call).await,
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            wrong.push(error.target(resource.id.clone()));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    if let [only] = &wrong[..]
        && only.code == "AuthorizationFailed"
    {
        let message = format!("The template deployment failed with error: '{}'.", only.message.trim_end_matches('.'));
        return Err(ArmError::new(403, "InvalidTemplateDeployment", message));
    }
    let mut error = ArmError::bad_request(
        "InvalidTemplateDeployment",
        format!(
            "The template deployment is not valid according to the validation procedure. The tracking id is '{}'. See inner errors for \
             details.",
            cx.call.correlation_id
        ),
    );
    error.details = wrong;
    Err(error)
}

async fn check(cx: Context<'_>, who: &Who, plan: &Plan, index: usize, call: &Call) -> Result<(), ArmError> {
    let resource = &plan.resources[index];
    if let Some(hanging) = Hanging::parse(&resource.id) {
        // What it hangs on, and who is given a role, may be deployed before it.
        let (right, scope) = hanging.right();
        let checked = cx.engine.authorize(&call.caller, scope, &right).await;
        return checked.map_err(|error| authorization(error, resource, call, &right));
    }
    let id = who.id(&resource.id).map_err(|e| {
        let message = format!("The resource '{}' is not one that can be deployed here.", resource.id);
        ArmError::bad_request("InvalidTemplate", message).caused_by(e)
    })?;
    let provider = cx.engine.provider_of(&id)?.clone();
    if id.above.is_some() {
        cx.engine.require_scope(&call.caller, &id, &id.resource_type()).await?;
    }
    let right = format!("{}/write", provider.right_type());
    cx.engine
        .authorize(&call.caller, &id.to_string(), &right)
        .await
        .map_err(|error| authorization(error, resource, call, &right))?;
    if !group_is_there(cx, plan, resource, &id).await? {
        return Err(ArmError::group_not_found(id.resource_group.as_deref().unwrap_or_default()));
    }
    if !resource.depends_on.is_empty() {
        return Ok(());
    }
    let Evaluated::Ready(body) = plan.body(index, &Facts::default())? else { return Ok(()) };
    let old = cx.engine.db().resource(&id.key()).await.map_err(db_error)?;
    let call = &call.acting(id.to_string(), right);
    let tried = provider.put(Context { call, ..cx }, &id, body, old.as_ref()).await;
    // Whatever depends on the state of others may be different by then; what is wrong with the body stays wrong.
    match tried {
        Err(error) if error.status == 400 => Err(error),
        _ => Ok(()),
    }
}

fn authorization(error: ArmError, resource: &Planned, call: &Call, right: &str) -> ArmError {
    if error.code != "AuthorizationFailed" {
        return error;
    }
    let message = format!(
        "Authorization failed for template resource '{}' of type '{}'. The client '{}' with object id '{}' does not have permission to \
         perform action '{right}' at scope '{}'.",
        resource.name, resource.kind, call.caller.app_id, call.caller.principal, resource.id
    );
    ArmError::new(403, "AuthorizationFailed", message)
}

/// The group of a resource exists, is made by this deployment, or may be made by one within it that the resource waits for.
async fn group_is_there(cx: Context<'_>, plan: &Plan, resource: &Planned, id: &ResourceId) -> Result<bool, ArmError> {
    let Some(name) = id.resource_group.as_ref().filter(|_| !id.is_group()) else { return Ok(true) };
    let group = ResourceId::group(&id.subscription, name);
    let planned = plan.resources.iter().any(|r| r.id.eq_ignore_ascii_case(&group.to_string()));
    let later = resource.depends_on.iter().any(|on| plan.resources[*on].kind.eq_ignore_ascii_case(KIND));
    Ok(planned || later || cx.engine.db().resource(&group.key()).await.map_err(db_error)?.is_some())
}
