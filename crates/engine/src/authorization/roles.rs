//! Role definitions: Azure's built-in ones, and a tenant's own.
//!
//! A custom role belongs to a tenant and can be assigned at its assignable scopes and below them. It is written by who may write
//! roles at every one of them.

use super::access::{Access, OwnRole};
use super::extension::{Request, equals, has_function, list, not_written, ok};
use super::scope::{Scope, is_within};
use crate::call::ExtensionReply;
use crate::{now_ms, time_text};
use lazuli_arm::ArmError;
use lazuli_authz::rbac::{Permissions, RoleDefinition, RoleError, check_role};
use lazuli_meta::model::{Change, CustomRole};
use serde_json::{Value, json};
use uuid::Uuid;

const KIND: &str = "roleDefinitions";
const WRITE: &str = "Microsoft.Authorization/roleDefinitions/write";
const DELETE: &str = "Microsoft.Authorization/roleDefinitions/delete";

/// As a GET shows it. `at`: prefix of the scope it is read at.
pub(super) fn shown(at: &str, role: &RoleDefinition, own: Option<&OwnRole>) -> Value {
    let text = |name: &str| own.map_or(Value::Null, |o| o.body[name].clone());
    // Azure's roles are as old as they are; clients only sort by it.
    let time = |name: &str| own.map_or_else(|| json!("2015-02-02T21:55:09.8806423Z"), |o| o.body[name].clone());
    json!({
        "properties": {
            "roleName": role.role_name,
            "type": if role.built_in { "BuiltInRole" } else { "CustomRole" },
            "description": role.description,
            "assignableScopes": role.assignable_scopes,
            "permissions": role.permissions.iter().map(shown_permissions).collect::<Vec<_>>(),
            "createdOn": time("createdOn"),
            "updatedOn": time("updatedOn"),
            "createdBy": text("createdBy"),
            "updatedBy": text("updatedBy"),
        },
        "id": format!("{at}/providers/Microsoft.Authorization/roleDefinitions/{}", role.name),
        "type": "Microsoft.Authorization/roleDefinitions",
        "name": role.name,
    })
}

pub(super) fn shown_permissions(p: &Permissions) -> Value {
    json!({
        "actions": p.actions, "notActions": p.not_actions, "dataActions": p.data_actions,
        "notDataActions": p.not_data_actions,
    })
}

/// Ids of roles name at most the subscription.
pub(super) fn role_prefix(scope: &Scope) -> String {
    match scope {
        Scope::Resource(id) => format!("/subscriptions/{}", id.subscription),
        Scope::Root | Scope::ManagementGroup(_) => String::new(),
    }
}

/// Whether a role can be assigned at a scope: one of its own scopes covers it.
pub(super) fn is_assignable(role: &RoleDefinition, scope: &Scope, tenant: &str) -> bool {
    let above = scope.with_ancestors(tenant);
    role.assignable_scopes.iter().any(|s| above.contains(&s.to_ascii_lowercase()))
}

fn not_found(name: &str) -> ArmError {
    ArmError::new(
        404,
        "RoleDefinitionDoesNotExist",
        format!("The specified role definition with ID '{name}' does not exist."),
    )
}

pub(super) fn require_guid(kind: &str, name: &str) -> Result<String, ArmError> {
    let id: Result<Uuid, _> = name.parse();
    id.map(|id| id.to_string()).map_err(|_| {
        ArmError::bad_request(
            &format!("Invalid{}Id", kind.replace(' ', "")),
            format!("The {} ID '{name}' is not valid. The ID must be a GUID.", kind.to_ascii_lowercase()),
        )
    })
}

impl Request<'_> {
    /// Whoever signed in to the tenant may know its roles.
    pub(super) fn list_roles(&self, access: &Access) -> Result<ExtensionReply, ArmError> {
        let filter = self.filter();
        let below = has_function(filter, "atScopeAndBelow");
        let key = self.scope.key();
        let wanted = |role: &RoleDefinition| {
            let named = equals(filter, "roleName").is_none_or(|n| role.role_name.eq_ignore_ascii_case(n));
            let kind = equals(filter, "type")
                .is_none_or(|t| t.eq_ignore_ascii_case(if role.built_in { "BuiltInRole" } else { "CustomRole" }));
            let here = is_assignable(role, &self.scope, &self.tenant)
                || (below || matches!(self.scope, Scope::Root))
                    && role.assignable_scopes.iter().any(|s| is_within(&s.to_ascii_lowercase(), &key));
            named && kind && here
        };
        let prefix = role_prefix(&self.scope);
        let roles = access.roles_of(&self.tenant).filter(|(r, _)| wanted(r));
        Ok(list(roles.map(|(role, own)| shown(&prefix, role, own)).collect()))
    }

    pub(super) fn get_role(&self, access: &Access, name: &str) -> Result<ExtensionReply, ArmError> {
        let (role, own) = access.role_of(&self.tenant, name).ok_or_else(|| not_found(name))?;
        Ok(ok(shown(&role_prefix(&self.scope), role, own)))
    }

    pub(super) async fn put_role(&self, name: &str) -> Result<ExtensionReply, ArmError> {
        let name = require_guid("Role Definition", name)?;
        self.authorize(WRITE).await?;
        loop {
            let access = self.engine.access().await?;
            let role = self.role_of_body(&access, &name).await?;
            let old = access.own_roles.iter().find(|r| r.role.name.eq_ignore_ascii_case(&name));
            if access.built_in.iter().any(|r| r.name.eq_ignore_ascii_case(&name))
                || old.is_some_and(|o| !o.tenant.eq_ignore_ascii_case(&self.tenant))
            {
                return Err(ArmError::conflict(
                    "RoleDefinitionIdInUse",
                    format!("The role definition ID '{name}' cannot be used. Choose another one."),
                ));
            }
            let (now, by) = (time_text(now_ms()), &self.call.caller.principal);
            let body = json!({
                "role": role,
                "createdOn": old.map_or_else(|| json!(now), |o| o.body["createdOn"].clone()),
                "createdBy": old.map_or_else(|| json!(by), |o| o.body["createdBy"].clone()),
                "updatedOn": now,
                "updatedBy": by,
            });
            let stored = CustomRole { id: name.clone(), tenant: self.tenant.clone(), body: body.clone() };
            let change = Change::PutCustomRole(stored);
            if self.commit(&access, change, &self.id(KIND, &name), WRITE).await.map_err(not_written)? {
                let own = OwnRole { tenant: self.tenant.clone(), role, body };
                let body = shown(&role_prefix(&self.scope), &own.role, Some(&own));
                // az takes 201 for both.
                return Ok(ExtensionReply { status: 201, body: Some(body) });
            }
        }
    }

    pub(super) async fn delete_role(&self, name: &str) -> Result<ExtensionReply, ArmError> {
        self.authorize(DELETE).await?;
        loop {
            let access = self.engine.access().await?;
            let Some((role, own)) = access.role_of(&self.tenant, name) else {
                return Ok(ExtensionReply { status: 204, body: None });
            };
            if own.is_none() {
                return Err(ArmError::bad_request(
                    "CannotDeleteBuiltInRole",
                    format!("The role '{}' is built in and cannot be deleted.", role.role_name),
                ));
            }
            for scope in &role.assignable_scopes {
                self.engine.authorize(&self.call.caller, scope, DELETE).await?;
            }
            if access.assignments.iter().any(|a| a.role.eq_ignore_ascii_case(&role.name)) {
                return Err(ArmError::bad_request(
                    "RoleDefinitionHasAssignments",
                    format!(
                        "There are existing role assignments referencing role (code: RoleDefinitionHasAssignments): '{}'. \
                         Delete them first.",
                        role.name
                    ),
                ));
            }
            let body = shown(&role_prefix(&self.scope), role, own);
            let change = Change::DeleteCustomRole { id: role.name.clone() };
            if self.commit(&access, change, &self.id(KIND, &role.name), DELETE).await.map_err(not_written)? {
                return Ok(ok(body));
            }
        }
    }

    async fn role_of_body(&self, access: &Access, name: &str) -> Result<RoleDefinition, ArmError> {
        let given = &self.body["properties"];
        let missing = |field: &str| {
            ArmError::bad_request(
                "InvalidRoleDefinition",
                format!("The role definition is not valid: '{field}' is missing or not of the expected form."),
            )
        };
        let role_name = given["roleName"].as_str().map(str::trim).filter(|n| (1..=512).contains(&n.len()));
        let role_name = role_name.ok_or_else(|| missing("roleName"))?.to_owned();
        let texts = |value: &Value, field: &str| match value {
            Value::Null => Ok(vec![]),
            value => serde_json::from_value::<Vec<String>>(value.clone()).map_err(|_| missing(field)),
        };
        let assignable_scopes = texts(&given["assignableScopes"], "assignableScopes")?;
        let mut permissions = Vec::new();
        for block in given["permissions"].as_array().into_iter().flatten() {
            permissions.push(Permissions {
                actions: texts(&block["actions"], "actions")?,
                not_actions: texts(&block["notActions"], "notActions")?,
                data_actions: texts(&block["dataActions"], "dataActions")?,
                not_data_actions: texts(&block["notDataActions"], "notDataActions")?,
            });
        }
        let role = RoleDefinition {
            name: name.to_owned(),
            role_name,
            description: given["description"].as_str().unwrap_or_default().to_owned(),
            built_in: false,
            permissions,
            assignable_scopes,
        };
        self.check_custom_role(access, &role).await?;
        Ok(role)
    }

    async fn check_custom_role(&self, access: &Access, role: &RoleDefinition) -> Result<(), ArmError> {
        let gives = |p: &Permissions| !p.actions.is_empty() || !p.data_actions.is_empty();
        if !role.permissions.iter().any(gives) {
            return Err(ArmError::bad_request(
                "InvalidRoleDefinition",
                "The role definition is not valid: it must have at least one action or data action.",
            ));
        }
        check_role(role).map_err(|e| match e {
            RoleError::MultipleWildcards(_) => ArmError::bad_request("InvalidActionOrNotAction", e.to_string()),
            RoleError::NotAnAction(ref action) => ArmError::bad_request(
                "InvalidActionOrNotAction",
                format!("'{action}' does not match any of the actions supported by the providers."),
            ),
        })?;
        let twin = access.roles_of(&self.tenant).find(|(r, _)| {
            r.role_name.eq_ignore_ascii_case(&role.role_name) && !r.name.eq_ignore_ascii_case(&role.name)
        });
        if twin.is_some() {
            return Err(ArmError::conflict(
                "RoleDefinitionWithSameNameExists",
                format!(
                    "A custom role with the same name already exists in this directory. Use a different name: '{}'.",
                    role.role_name
                ),
            ));
        }
        if role.assignable_scopes.is_empty() {
            return Err(ArmError::bad_request(
                "MissingAssignableScopes",
                "The role definition must have at least one assignable scope.",
            ));
        }
        let data = role.permissions.iter().any(|p| !p.data_actions.is_empty());
        for text in &role.assignable_scopes {
            let scope = Scope::parse(text)?;
            if scope == Scope::Root || text.contains('*') {
                return Err(ArmError::bad_request(
                    "InvalidAssignableScope",
                    format!("The assignable scope '{text}' is not allowed for custom roles."),
                ));
            }
            if data && matches!(scope, Scope::ManagementGroup(_)) {
                return Err(ArmError::bad_request(
                    "InvalidAssignableScope",
                    "Custom roles with data actions cannot be assigned at the management group scope.",
                ));
            }
            scope.tenant(access, &self.call.caller)?;
            self.engine.authorize(&self.call.caller, &scope.shown(), WRITE).await?;
        }
        Ok(())
    }
}
