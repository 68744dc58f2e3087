//! Who may do what: every read and write of the engine passes here before it looks at a row.
//!
//! A question is decided by the roles of the caller and its groups at the scope and above it (`lazuli_authz::rbac`). A scope in
//! another tenant's subscription is decided by the caller's identity there, which the request proves with a token of its own
//! (`x-ms-authorization-auxiliary`); without one it is refused, whatever roles the caller has at home.

pub(crate) mod access;
mod assignments;
mod extension;
pub(crate) mod locks;
mod queries;
mod roles;
pub(crate) mod scope;

use crate::Engine;
use crate::call::Caller;
use access::{Access, subscription_of};
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_authz::rbac::Plane;
use lazuli_meta::model::Subscription;

impl Engine {
    /// `scope` is an id, `action` e.g. `Microsoft.Compute/disks/write`.
    ///
    /// # Errors
    /// 403 `AuthorizationFailed`.
    pub(crate) async fn authorize(&self, caller: &Caller, scope: &str, action: &str) -> Result<(), ArmError> {
        if self.may(caller, scope, action, Plane::Control).await? {
            return Ok(());
        }
        Err(not_authorized(caller, scope, action))
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
        if cfg!(feature = "benchmark-without-authorization") {
            return Ok(true);
        }
        if caller.serves(scope) {
            return Ok(true);
        }
        let access = self.access_of(caller).await?;
        let identity = access.identity_at(caller, scope);
        Ok(identity.is_some_and(|identity| access.allows(&identity.principal, scope, action, plane)))
    }

    /// Whether the caller may tie what it writes to another resource: who may write an interface here may not take addresses
    /// or disks from anywhere.
    ///
    /// # Errors
    /// 403 `LinkedAuthorizationFailed`.
    pub(crate) async fn authorize_link(&self, caller: &Caller, linked: &str, action: &str) -> Result<(), ArmError> {
        if caller.serves(linked) {
            return Ok(());
        }
        let access = self.access_of(caller).await?;
        let (outer, at) = caller.acting.as_ref().map_or((action, linked), |a| (a.action.as_str(), a.scope.as_str()));
        let Some(identity) = access.identity_at(caller, linked) else {
            return Err(ArmError::new(
                403,
                "LinkedAuthorizationFailed",
                format!(
                    "The client has permission to perform action '{outer}' on scope '{at}', however the current tenant '{}' is \
                     not authorized to access linked subscription '{}'.",
                    caller.tenant,
                    subscription_of(linked).unwrap_or_default()
                ),
            ));
        };
        if access.allows(&identity.principal, linked, action, Plane::Control) {
            return Ok(());
        }
        Err(ArmError::new(
            403,
            "LinkedAuthorizationFailed",
            format!(
                "The client '{}' with object id '{}' has permission to perform action '{outer}' on scope '{at}'; however, it does \
                 not have permission to perform action(s) '{action}' on the linked scope(s) '{linked}' (respectively) or the \
                 linked scope(s) are invalid.",
                identity.app_id, identity.principal
            ),
        ))
    }

    /// The subscription of a request's path.
    ///
    /// # Errors
    /// 404 `SubscriptionNotFound`; 401 `InvalidAuthenticationTokenTenant` where it is another tenant's.
    pub(crate) async fn require_subscription(&self, caller: &Caller, id: &str) -> Result<Subscription, ArmError> {
        let access = self.access_of(caller).await?;
        subscription_for(&access, caller, id).cloned()
    }

    /// What a request's path begins with; `kind` of what it is about. Above subscriptions there is one type.
    ///
    /// # Errors
    /// As [`Engine::require_subscription`]; 404 `MissingSubscription`, and `NotFound` for a management group that is not there.
    pub(crate) async fn require_scope(
        &self,
        caller: &Caller,
        id: &ResourceId,
        kind: &ResourceType,
    ) -> Result<(), ArmError> {
        let access = self.access_of(caller).await?;
        if id.above.is_none() {
            return subscription_for(&access, caller, &id.subscription).map(drop);
        }
        if !crate::deployments::is_of_deployments(kind) {
            return Err(missing_subscription());
        }
        scope::Scope::Resource(id.clone()).tenant(&access, caller).map(drop)
    }
}

/// The answer where a type is in subscriptions alone.
fn missing_subscription() -> ArmError {
    ArmError::new(
        404,
        "MissingSubscription",
        "The request did not have a subscription or a valid tenant level resource provider.",
    )
}

pub(crate) fn subscription_for<'a>(
    access: &'a Access,
    caller: &Caller,
    id: &str,
) -> Result<&'a Subscription, ArmError> {
    let found = access.subscription(id).ok_or_else(|| {
        ArmError::new(404, "SubscriptionNotFound", format!("The subscription '{id}' could not be found."))
    })?;
    if found.tenant.eq_ignore_ascii_case(&caller.tenant) {
        return Ok(found);
    }
    Err(ArmError::new(
        401,
        "InvalidAuthenticationTokenTenant",
        format!(
            "The access token is from the wrong issuer: tenant '{}'. It must match the tenant '{}' associated with this \
             subscription. Sign in to that tenant to get the token.",
            caller.tenant, found.tenant
        ),
    ))
}

pub(crate) fn not_authorized(caller: &Caller, scope: &str, action: &str) -> ArmError {
    ArmError::new(
        403,
        "AuthorizationFailed",
        format!(
            "The client '{}' with object id '{}' does not have authorization to perform action '{action}' over scope \
             '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
            caller.app_id, caller.principal
        ),
    )
}

fn not_permitted() -> ArmError {
    ArmError::new(
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
    )
}
