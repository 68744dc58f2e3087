//! The managed identities of a machine: a principal of its own that lives as long as it, and others that it may act as.
//!
//! Who assigns an identity needs the right to it, else a machine would be a way to act as anybody. The guest gets tokens from the
//! metadata service (`engine/src/identity/machine.rs`); nothing of it is kept here or on the host.

use super::KIND;
use crate::db_error;
use crate::provider::Context;
use crate::providers::user_assigned_identity::managed_principal;
use lazuli_arm::bodies::Fields;
use lazuli_arm::bodies::managed_identity::ManagedIdentity;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde_json::{Value, json};
use std::collections::HashMap;

const ASSIGN: &str = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action";
/// As the role Managed Identity Operator has it: `userAssignedIdentities/*/assign/action`.
const ASSIGN_ONE: &str = "Microsoft.ManagedIdentity/userAssignedIdentities/identity/assign/action";

/// Gives a machine's new body the identities that `given` (the whole body of the request) asks for; what is to be committed with it.
pub(super) async fn bind(
    cx: Context<'_>,
    id: &ResourceId,
    given: &Value,
    body: &mut Value,
    old: Option<&Resource>,
) -> Result<Vec<Change>, ArmError> {
    let before = old.map_or(Value::Null, |o| o.body["identity"].clone());
    let Some(wanted) = ManagedIdentity::read(&Fields::root("virtualMachine", given)?)? else {
        put(body, before);
        return Ok(vec![]);
    };
    let mut changes = Vec::new();
    let mut identity = wanted.body();
    let known = before["principalId"].as_str();
    match (wanted.system, known) {
        (true, Some(known)) => {
            identity["principalId"] = json!(known);
            identity["tenantId"] = before["tenantId"].clone();
        }
        (true, None) => {
            let subscription = cx.engine.require_subscription(&cx.call.caller, &id.subscription).await?;
            let of = crate::write::canonical(id, KIND);
            let principal = managed_principal(&subscription.tenant, id.name(), false, &of, cx.now_ms);
            identity["principalId"] = json!(principal.id);
            identity["tenantId"] = json!(principal.tenant);
            changes.push(Change::PutPrincipal(principal));
        }
        (false, Some(known)) => changes.push(Change::DeletePrincipal { id: known.to_owned() }),
        (false, None) => {}
    }
    let assigned = |id: &str| {
        let known = before["userAssignedIdentities"].as_object();
        known.is_some_and(|all| all.keys().any(|k| k.eq_ignore_ascii_case(id)))
    };
    for new in wanted.user.iter().filter(|id| !assigned(id)) {
        may_assign(cx, new).await?;
        let key = new.to_ascii_lowercase();
        if cx.engine.db().resource(&key).await.map_err(db_error)?.is_none() {
            return Err(ArmError::bad_request(
                "FailedIdentityOperation",
                format!(
                    "Identity operation for resource '{id}' failed with error 'Failed to perform resource identity operation. Status: \
                     'BadRequest'. Response: '{{\"error\":{{\"code\":\"BadRequest\",\"message\":\"Resource '{new}' was not found.\"}}}}'.'"
                ),
            ));
        }
        changes.push(Change::RequireResource { key });
    }
    put(body, if wanted.is_none() { Value::Null } else { identity });
    Ok(changes)
}

/// Whether who asks may assign an identity.
///
/// # Errors
/// 403 `LinkedAuthorizationFailed`.
pub(crate) async fn may_assign(cx: Context<'_>, identity: &str) -> Result<(), ArmError> {
    let Err(refused) = cx.engine.authorize_link(&cx.call.caller, identity, ASSIGN).await else { return Ok(()) };
    cx.engine.authorize_link(&cx.call.caller, identity, ASSIGN_ONE).await.map_err(|_| refused)
}

fn put(body: &mut Value, identity: Value) {
    let Some(fields) = body.as_object_mut() else { return };
    if identity.is_object() {
        fields.insert("identity".into(), identity);
    } else {
        fields.shift_remove("identity");
    }
}

/// The machine's own principal goes with it.
pub(super) fn unbind(row: &Resource) -> Vec<Change> {
    let own = row.body["identity"]["principalId"].as_str();
    own.map(|id| Change::DeletePrincipal { id: id.to_owned() }).into_iter().collect()
}

/// Which principals the assigned identities of these machines are; nothing of those that are gone. One question for all of them.
pub(super) async fn show(cx: Context<'_>, views: &mut [Value]) -> Result<(), ArmError> {
    let mut keys: Vec<String> =
        views.iter_mut().filter_map(assigned).flatten().map(|(id, _)| id.to_ascii_lowercase()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    keys.sort();
    keys.dedup();
    let rows = cx.engine.db().resources_of(&keys).await.map_err(db_error)?;
    let known: HashMap<&str, &Value> = rows.iter().map(|r| (r.key.as_str(), &r.body["properties"])).collect();
    for (id, shown) in views.iter_mut().filter_map(assigned).flatten() {
        if let Some(properties) = known.get(id.to_ascii_lowercase().as_str()) {
            *shown = json!({"principalId": properties["principalId"], "clientId": properties["clientId"]});
        }
    }
    Ok(())
}

/// By `get_mut`: an index would put a null where there is no identity.
fn assigned(view: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    view.get_mut("identity")?.get_mut("userAssignedIdentities")?.as_object_mut()
}
