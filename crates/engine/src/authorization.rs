//! Asks `authz` whether the caller may do what it asks for; every read and write of the engine passes here.

use crate::Engine;
use crate::call::Caller;
use lazuli_arm::ArmError;
use lazuli_authz::rbac::{Assignment, Plane, Question, RoleDefinition, built_in_roles, is_allowed};
use lazuli_meta::{Db, MetaError};
use std::sync::LazyLock;

impl Engine {
    /// `scope` is a lower-case id, `action` e.g. `Microsoft.Compute/disks/write`.
    pub(crate) async fn authorize(&self, caller: &Caller, scope: &str, action: &str) -> Result<(), ArmError> {
        if self.may(caller, scope, action, Plane::Control).await? {
            return Ok(());
        }
        Err(ArmError::new(
            403,
            "AuthorizationFailed",
            format!(
                "The client '{}' with object id '{}' does not have authorization to perform action '{action}' over scope \
                 '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
                caller.app_id, caller.principal
            ),
        ))
    }

    /// Whether the caller may do something with the data in a resource: an action of `dataActions`, such as
    /// `Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read`. `scope`: id of the account, or of a container below
    /// it (`{account}/blobServices/default/containers/c`), in any letter case.
    ///
    /// # Errors
    /// 403 `AuthorizationPermissionMismatch`, in the data plane's words.
    pub async fn authorize_data(&self, caller: &Caller, scope: &str, action: &str) -> Result<(), ArmError> {
        if self.may(caller, scope, action, Plane::Data).await? {
            return Ok(());
        }
        Err(not_permitted())
    }

    /// As [`Engine::authorize_data`], for what the data plane does that is an action of `actions`: containers are created,
    /// listed and deleted by such (`…/blobServices/containers/write`).
    ///
    /// # Errors
    /// 403 `AuthorizationPermissionMismatch`.
    pub async fn authorize_container(&self, caller: &Caller, scope: &str, action: &str) -> Result<(), ArmError> {
        if self.may(caller, scope, action, Plane::Control).await? {
            return Ok(());
        }
        Err(not_permitted())
    }

    async fn may(&self, caller: &Caller, scope: &str, action: &str, plane: Plane) -> Result<bool, ArmError> {
        may(self.db(), &caller.principal, scope, action, plane).await.map_err(crate::db_error)
    }

    /// Whether the caller may tie what it writes to another resource: who may write an interface here may not take addresses
    /// or disks from anywhere.
    pub(crate) async fn authorize_link(&self, caller: &Caller, linked: &str, action: &str) -> Result<(), ArmError> {
        let allowed = self.authorize(caller, &linked.to_ascii_lowercase(), action).await;
        allowed.map_err(|error| match error.code.as_str() {
            "AuthorizationFailed" => ArmError::new(
                403,
                "LinkedAuthorizationFailed",
                format!(
                    "The client '{}' with object id '{}' does not have permission to perform action(s) '{action}' on the linked \
                     scope(s) '{linked}' or the linked scope(s) are invalid.",
                    caller.app_id, caller.principal
                ),
            ),
            _ => error,
        })
    }
}

/// Whether the role assignments of a principal (its object id) allow an action at a scope.
pub(crate) async fn may(db: &Db, principal: &str, scope: &str, action: &str, plane: Plane) -> Result<bool, MetaError> {
    // What is built in never changes.
    static ROLES: LazyLock<Vec<RoleDefinition>> = LazyLock::new(built_in_roles);
    let assignments: Vec<Assignment> = db
        .role_assignments(Some(principal), None)
        .await?
        .into_iter()
        .map(|a| Assignment { principal: a.principal, role: a.role, scope: a.scope })
        .collect();
    Ok(is_allowed(&ROLES, &assignments, &Question { principals: &[principal], action, scope, plane }))
}

fn not_permitted() -> ArmError {
    ArmError::new(
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
    )
}
