//! Role assignments: a principal of the tenant has a role at a scope and below it.

use super::access::Access;
use super::extension::{Request, argument, equals, has_function, list, not_written, ok};
use super::locks::Verb;
use super::roles::{is_assignable, require_guid, role_prefix};
use super::scope::{Scope, is_within};
use crate::call::ExtensionReply;
use crate::{db_error, now_ms, time_text};
use lazuli_arm::ArmError;
use lazuli_authz::rbac::{Plane, role_allows};
use lazuli_meta::WriteError;
use lazuli_meta::model::{Change, Conflict, RoleAssignment};
use serde_json::{Value, json};

const KIND: &str = "roleAssignments";
const READ: &str = "Microsoft.Authorization/roleAssignments/read";
const WRITE: &str = "Microsoft.Authorization/roleAssignments/write";
const DELETE: &str = "Microsoft.Authorization/roleAssignments/delete";

/// The tenant that an assignment belongs to.
fn tenant_of<'a>(access: &'a Access, assignment: &RoleAssignment) -> Option<&'a str> {
    let subscription = super::subscription_of(&assignment.scope).and_then(|s| access.subscription(s));
    let tenant = subscription.map(|s| &s.tenant).or_else(|| access.principal(&assignment.principal).map(|p| &p.tenant));
    tenant.map(String::as_str)
}

fn shown(access: &Access, assignment: &RoleAssignment) -> Value {
    let body = &assignment.body;
    let scope = body["scope"].as_str().unwrap_or(&assignment.scope);
    let prefix = if scope == "/" { "" } else { scope };
    let principal = access.principal(&assignment.principal);
    let kind = principal.map_or("Unknown", |p| shown_kind(&p.kind));
    let at = Scope::parse(scope).map(|s| role_prefix(&s)).unwrap_or_default();
    json!({
        "properties": {
            "roleDefinitionId": format!("{at}/providers/Microsoft.Authorization/roleDefinitions/{}", assignment.role),
            "principalId": assignment.principal,
            "principalType": kind,
            "scope": scope,
            "condition": body["condition"],
            "conditionVersion": body["conditionVersion"],
            "createdOn": body["createdOn"],
            "updatedOn": body["updatedOn"],
            "createdBy": body["createdBy"],
            "updatedBy": body["updatedBy"],
            "delegatedManagedIdentityResourceId": null,
            "description": body["description"],
        },
        "id": format!("{prefix}/providers/Microsoft.Authorization/roleAssignments/{}", assignment.id),
        "type": "Microsoft.Authorization/roleAssignments",
        "name": assignment.id,
    })
}

/// A managed identity is a service principal to RBAC.
fn shown_kind(kind: &str) -> &str {
    match kind {
        "ManagedIdentity" => "ServicePrincipal",
        other => other,
    }
}

fn not_found(name: &str) -> ArmError {
    ArmError::new(404, "RoleAssignmentNotFound", format!("The role assignment '{name}' is not found."))
}

impl Request<'_> {
    /// Without a filter: at, above and below the scope. Only what the caller may read.
    pub(super) fn list_assignments(&self, access: &Access) -> Result<ExtensionReply, ArmError> {
        let filter = self.filter();
        let caller = &self.call.caller;
        let at_scope = has_function(filter, "atScope");
        let exactly = has_function(filter, "atScopeOnly");
        let principal = equals(filter, "principalId");
        let assigned = argument(filter, "assignedTo").map(|id| access.with_groups(id));
        let (key, above) = (self.scope.key(), self.scope.with_ancestors(&self.tenant));
        if !access.allows_below(&caller.principal, &self.scope.shown(), READ) {
            return Err(super::not_authorized(caller, &self.scope.shown(), READ));
        }
        let wanted = |a: &&RoleAssignment| {
            let place = match (exactly, at_scope) {
                (true, _) => a.scope == key,
                (_, true) => above.contains(&a.scope),
                _ => above.contains(&a.scope) || is_within(&a.scope, &key),
            };
            place
                && tenant_of(access, a).is_some_and(|t| t.eq_ignore_ascii_case(&self.tenant))
                && principal.is_none_or(|p| a.principal.eq_ignore_ascii_case(p))
                && assigned.as_ref().is_none_or(|all| all.iter().any(|p| a.principal.eq_ignore_ascii_case(p)))
                // What is inherited is seen where it holds.
                && (above.contains(&a.scope) && access.allows(&caller.principal, &self.scope.shown(), READ, Plane::Control)
                    || access.allows(&caller.principal, &a.scope, READ, Plane::Control))
        };
        Ok(list(access.assignments.iter().filter(wanted).map(|a| shown(access, a)).collect()))
    }

    pub(super) async fn get_assignment(&self, access: &Access, name: &str) -> Result<ExtensionReply, ArmError> {
        self.authorize(READ).await?;
        let found = self.find(access, name).ok_or_else(|| not_found(name))?;
        Ok(ok(shown(access, found)))
    }

    fn find<'a>(&self, access: &'a Access, name: &str) -> Option<&'a RoleAssignment> {
        let key = self.scope.key();
        let same = |a: &&RoleAssignment| {
            a.id.eq_ignore_ascii_case(name)
                && a.scope == key
                && tenant_of(access, a).is_some_and(|t| t.eq_ignore_ascii_case(&self.tenant))
        };
        access.assignments.iter().find(same)
    }

    pub(super) async fn put_assignment(&self, name: &str) -> Result<ExtensionReply, ArmError> {
        let name = require_guid("Role Assignment", name)?;
        self.authorize(WRITE).await?;
        loop {
            let access = self.engine.access().await?;
            self.require_target().await?;
            super::locks::check(&access, &self.scope, &self.tenant, Verb::Write)?;
            let (new, created) = self.assignment_of_body(&access, &name)?;
            let change = Change::PutRoleAssignment(new.clone());
            if self.commit(&access, change, &self.id(KIND, &name), WRITE).await.map_err(taken)? {
                let body = Some(shown(&access, &new));
                return Ok(ExtensionReply { status: if created { 201 } else { 200 }, body });
            }
        }
    }

    /// The group or resource that roles or locks are given at must be there.
    pub(super) async fn require_target(&self) -> Result<(), ArmError> {
        let Scope::Resource(id) = &self.scope else { return Ok(()) };
        let row = self.engine.db().resource(&id.key()).await.map_err(db_error)?;
        // What has no row of its own (a subscription, a container) is not looked for.
        let provided = id.is_group() || self.engine.provider_of(id).is_ok() && !id.segments.is_empty();
        if row.is_some() || !provided {
            return Ok(());
        }
        Err(crate::write::not_found(&id.resource_type().to_string(), id))
    }

    /// The assignment, and whether it is new.
    fn assignment_of_body(&self, access: &Access, name: &str) -> Result<(RoleAssignment, bool), ArmError> {
        let given = if self.body["properties"].is_object() { &self.body["properties"] } else { self.body };
        let text = |field: &str| given[field].as_str().map(str::trim).filter(|t| !t.is_empty());
        let missing = |field: &str| {
            ArmError::bad_request(
                "InvalidRequestContent",
                format!("The request content is not valid: '{field}' is missing."),
            )
        };
        let role_id = text("roleDefinitionId").ok_or_else(|| missing("roleDefinitionId"))?;
        let principal_id = text("principalId").ok_or_else(|| missing("principalId"))?;
        let role_name = role_id.rsplit('/').next().unwrap_or(role_id);
        let (role, _) = access.role_of(&self.tenant, role_name).ok_or_else(|| {
            ArmError::new(
                404,
                "RoleDefinitionDoesNotExist",
                format!("The specified role definition with ID '{}' does not exist.", role_name.replace('-', "")),
            )
        })?;
        if !is_assignable(role, &self.scope, &self.tenant) {
            return Err(ArmError::bad_request(
                "RoleDefinitionNotAssignableAtScope",
                format!(
                    "The role '{}' cannot be assigned at the scope '{}': it is in none of its assignable scopes.",
                    role.role_name,
                    self.scope.shown()
                ),
            ));
        }
        let principal = access.principal(principal_id).filter(|p| p.tenant.eq_ignore_ascii_case(&self.tenant));
        let principal = principal.ok_or_else(|| principal_not_found(principal_id, &self.tenant))?;
        if let Some(kind) = text("principalType").filter(|k| !k.eq_ignore_ascii_case(shown_kind(&principal.kind))) {
            return Err(ArmError::bad_request(
                "UnmatchedPrincipalType",
                format!(
                    "The PrincipalId '{}' has type '{}' , which is different from specified PrincipalType '{kind}'.",
                    principal.id.replace('-', ""),
                    shown_kind(&principal.kind)
                ),
            ));
        }
        if text("condition").is_some() {
            return Err(ArmError::bad_request(
                "ConditionsNotSupported",
                "This server does not evaluate conditions of role assignments; an assignment with one is not taken.",
            ));
        }
        let key = self.scope.key();
        let old = access.assignments.iter().find(|a| a.id.eq_ignore_ascii_case(name));
        let same = |a: &RoleAssignment| {
            a.scope == key && a.role.eq_ignore_ascii_case(&role.name) && a.principal.eq_ignore_ascii_case(&principal.id)
        };
        if old.is_some_and(|o| !same(o)) {
            return Err(ArmError::bad_request(
                "RoleAssignmentUpdateNotPermitted",
                "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
            ));
        }
        if let Some(twin) = access.assignments.iter().find(|a| same(a) && !a.id.eq_ignore_ascii_case(name)) {
            return Err(exists(&twin.id));
        }
        let (now, by) = (time_text(now_ms()), &self.call.caller.principal);
        let body = json!({
            "scope": self.scope.shown(),
            "createdOn": old.map_or_else(|| json!(now), |o| o.body["createdOn"].clone()),
            "createdBy": old.map_or_else(|| json!(by), |o| o.body["createdBy"].clone()),
            "updatedOn": now,
            "updatedBy": by,
            "description": given["description"],
        });
        let new = RoleAssignment {
            id: name.to_owned(),
            scope: key,
            role: role.name.clone(),
            principal: principal.id.clone(),
            body,
        };
        Ok((new, old.is_none()))
    }

    pub(super) async fn delete_assignment(&self, name: &str) -> Result<ExtensionReply, ArmError> {
        self.authorize(DELETE).await?;
        loop {
            let access = self.engine.access().await?;
            let Some(found) = self.find(&access, name) else {
                return Ok(ExtensionReply { status: 204, body: None });
            };
            super::locks::check(&access, &self.scope, &self.tenant, Verb::Delete)?;
            if is_last_administrator(&access, found) {
                return Err(ArmError::new(
                    412,
                    "CannotDeleteLastRbacAdminAssignment",
                    "Cannot delete the last RBAC admin assignment",
                ));
            }
            let body = shown(&access, found);
            let change = Change::DeleteRoleAssignment { id: found.id.clone() };
            if self.commit(&access, change, &self.id(KIND, &found.id), DELETE).await.map_err(not_written)? {
                return Ok(ok(body));
            }
        }
    }
}

fn taken(error: WriteError) -> ArmError {
    match error {
        WriteError::Conflict(Conflict::Exists { key }) => exists(&key),
        other => not_written(other),
    }
}

fn exists(id: &str) -> ArmError {
    ArmError::conflict(
        "RoleAssignmentExists",
        format!(
            "The role assignment already exists. The ID of the existing role assignment is {}.",
            id.replace('-', "")
        ),
    )
}

fn principal_not_found(id: &str, tenant: &str) -> ArmError {
    ArmError::bad_request(
        "PrincipalNotFound",
        format!(
            "Principal {} does not exist in the directory {tenant}. Check that you have the correct principal ID. If you are \
             creating this principal and then immediately assigning a role, this error might be related to a replication delay. \
             In this case, set the role assignment principalType property to a value, such as ServicePrincipal, User, or Group.  \
             See https://aka.ms/docs-principaltype",
            id.replace('-', "")
        ),
    )
}

/// Whether without this assignment nobody is left who could give roles on its subscription.
fn is_last_administrator(access: &Access, assignment: &RoleAssignment) -> bool {
    let Some(subscription) = super::subscription_of(&assignment.scope).and_then(|s| access.subscription(s)) else {
        return false;
    };
    let scope = format!("/subscriptions/{}", subscription.id).to_ascii_lowercase();
    let above = [scope.clone(), super::access::root_group(&subscription.tenant), "/".to_owned()];
    let administers = |a: &RoleAssignment| {
        let mut roles = access.roles_of(&subscription.tenant);
        above.contains(&a.scope)
            && access.principal(&a.principal).is_some_and(|p| p.tenant.eq_ignore_ascii_case(&subscription.tenant))
            && roles.any(|(r, _)| r.name.eq_ignore_ascii_case(&a.role) && role_allows(r, WRITE, Plane::Control))
    };
    administers(assignment) && !access.assignments.iter().any(|a| a.id != assignment.id && administers(a))
}
