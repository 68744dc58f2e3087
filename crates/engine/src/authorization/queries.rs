//! `permissions` (what may I do here?) and `checkAccess` (may somebody do this?).

use super::access::Access;
use super::extension::{Request, list, ok};
use super::roles::shown_permissions;
use crate::call::ExtensionReply;
use lazuli_arm::ArmError;
use lazuli_authz::rbac::Plane;
use serde_json::{Value, json};

impl Request<'_> {
    /// The blocks of every role that the caller has here.
    pub(super) fn permissions(&self, access: &Access) -> ExtensionReply {
        let mine = access.with_groups(&self.call.caller.principal);
        let above = self.scope.with_ancestors(&self.tenant);
        let mut blocks = Vec::new();
        for assignment in &access.assignments {
            let counts =
                above.contains(&assignment.scope) && mine.iter().any(|p| p.eq_ignore_ascii_case(&assignment.principal));
            let role = counts.then(|| access.role_of(&self.tenant, &assignment.role)).flatten();
            blocks.extend(role.into_iter().flat_map(|(r, _)| &r.permissions).map(shown_permissions));
        }
        blocks.dedup();
        list(blocks)
    }

    /// About somebody else only for who may read role assignments.
    pub(super) async fn check_access(&self, access: &Access) -> Result<ExtensionReply, ArmError> {
        let invalid = |what: &str| {
            ArmError::bad_request("InvalidRequestContent", format!("The request content is not valid: {what}."))
        };
        let subject = self.body["Subject"]["Attributes"]["ObjectId"].as_str();
        let subject = subject.ok_or_else(|| invalid("'Subject.Attributes.ObjectId' is missing"))?;
        if !subject.eq_ignore_ascii_case(&self.call.caller.principal) {
            self.authorize("Microsoft.Authorization/roleAssignments/read").await?;
        }
        let known = access.principal(subject).is_some_and(|p| p.tenant.eq_ignore_ascii_case(&self.tenant));
        let actions = self.body["Actions"].as_array().ok_or_else(|| invalid("'Actions' is missing"))?;
        let mut decisions: Vec<Value> = Vec::new();
        for action in actions {
            let id = action["Id"].as_str().ok_or_else(|| invalid("an action has no 'Id'"))?;
            let data = action["IsDataAction"].as_bool().unwrap_or(false);
            let plane = if data { Plane::Data } else { Plane::Control };
            let allowed = known && access.allows(subject, &self.scope.shown(), id, plane);
            decisions.push(json!({
                "actionId": id, "accessDecision": if allowed { "Allowed" } else { "NotAllowed" }, "isDataAction": data,
            }));
        }
        Ok(ok(Value::from(decisions)))
    }
}
