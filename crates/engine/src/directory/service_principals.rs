//! Service principals: what roles are given to, and what an application signs in as to a tenant.

use super::properties::{self, Form, Table};
use super::show::{self, SEVERAL_TENANTS};
use super::{Directory, DirectoryError, Key, Kind, MANAGED_IDENTITY, SERVICE_PRINCIPAL, require_not_last};
use crate::now_ms;
use lazuli_meta::model::{Change, Principal};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const RESOURCE: &str = "ServicePrincipal";
const PROPERTIES: Table = &[
    ("appId", Form::Text),
    ("accountEnabled", Form::Bool),
    ("displayName", Form::Text),
    ("description", Form::Text),
    ("alternativeNames", Form::Texts),
    ("tags", Form::Texts),
    ("notes", Form::Text),
    ("loginUrl", Form::Text),
    ("notificationEmailAddresses", Form::Texts),
    ("keyCredentials", Form::Objects),
    ("passwordCredentials", Form::Unset),
    ("appRoleAssignmentRequired", Form::Unset),
    ("preferredSingleSignOnMode", Form::Unset),
    ("samlSingleSignOnSettings", Form::Unset),
    ("tokenEncryptionKeyId", Form::Unset),
];

/// What is kept apart from the other properties.
const APART: [&str; 5] = ["appId", "accountEnabled", "displayName", "keyCredentials", "passwordCredentials"];

fn without(mut given: Map<String, Value>) -> Map<String, Value> {
    given.retain(|name, _| !APART.contains(&name.as_str()));
    given
}

/// A managed identity lives and dies with its resource.
pub(super) fn require_unmanaged(principal: &Principal) -> Result<(), DirectoryError> {
    if principal.kind == MANAGED_IDENTITY {
        return Err(DirectoryError::bad(
            "The service principal of a managed identity cannot be changed or deleted here: it is its resource's.",
        ));
    }
    Ok(())
}

impl Directory<'_> {
    pub(super) async fn create_service_principal(&self, body: &Value) -> Result<Value, DirectoryError> {
        let given = properties::take(body, PROPERTIES, RESOURCE)?;
        let app_id = given.get("appId").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
        if app_id.is_empty() {
            return Err(DirectoryError::required("appId", RESOURCE));
        }
        let owners = properties::bound(body, "owners")?;
        let id = Uuid::new_v4().to_string();
        loop {
            let access = self.now().await?;
            let known = access.application(&app_id);
            let known = known.filter(|a| self.is_mine(&a.tenant) || a.body["signInAudience"] == SEVERAL_TENANTS);
            let application = known.ok_or_else(|| {
                DirectoryError::bad(format!(
                    "The appId '{app_id}' of the service principal does not reference a valid application object."
                ))
            })?;
            // Another tenant's application comes in by an administrator only.
            let own = self.is_mine(&application.tenant);
            self.require_owner(&access, if own { &application.body } else { &Value::Null })?;
            if access.principals.values().any(|p| self.is_mine(&p.tenant) && p.app_id == app_id) {
                return Err(DirectoryError::Refused {
                    status: 409,
                    code: "Request_MultipleObjectsWithSameKeyValue",
                    message: format!(
                        "The service principal cannot be created, updated, or restored because the service principal name \
                         {app_id} is already in use."
                    ),
                });
            }
            let owners = owners.clone().unwrap_or_else(|| vec![self.caller.principal.clone()]);
            for owner in &owners {
                self.require_owner_kind(&access, owner)?;
            }
            let registered = application.body["displayName"].as_str().unwrap_or(&app_id);
            let name = properties::display_name(&given, RESOURCE)?.unwrap_or_else(|| registered.to_owned());
            let enabled = given.get("accountEnabled").and_then(Value::as_bool).unwrap_or(true);
            let mut made = Principal {
                id: id.clone(),
                tenant: self.caller.tenant.clone(),
                app_id: app_id.clone(),
                display_name: name,
                kind: SERVICE_PRINCIPAL.to_owned(),
                secret_hash: String::new(),
                login: String::new(),
                body: json!({"accountEnabled": enabled, "owners": owners, "createdMs": now_ms()}),
            };
            properties::merge(&mut made.body["directory"], &without(given.clone()));
            let (keys, kept) = self.keys(&id, given.get("keyCredentials").unwrap_or(&Value::Null)).await?;
            let mut changes = vec![Change::PutPrincipal(made.clone())];
            changes.extend(keys);
            if self.commit(&access, changes, "servicePrincipals/create", &id).await? {
                return Ok(show::principal(&access, &made, Some(&kept)));
            }
        }
    }

    pub(super) async fn update_service_principal(&self, key: &Key, body: &Value) -> Result<(), DirectoryError> {
        loop {
            let access = self.now().await?;
            let mut principal = self.principal(&access, Kind::ServicePrincipal, key)?.clone();
            self.require_owner_of(&access, &principal)?;
            require_unmanaged(&principal)?;
            let given = properties::take(body, PROPERTIES, RESOURCE)?;
            if given.get("appId").is_some_and(|id| *id != principal.app_id) {
                return Err(DirectoryError::invalid("appId", RESOURCE));
            }
            principal.display_name = properties::display_name(&given, RESOURCE)?.unwrap_or(principal.display_name);
            if let Some(enabled) = given.get("accountEnabled").and_then(Value::as_bool) {
                if !enabled {
                    require_not_last(&access, &principal)?;
                }
                principal.body["accountEnabled"] = json!(enabled);
            }
            let mut changes = Vec::new();
            if let Some(keys) = given.get("keyCredentials") {
                changes.extend(self.keys(&principal.id, keys).await?.0);
            }
            properties::merge(&mut principal.body["directory"], &without(given));
            let id = principal.id.clone();
            changes.push(Change::PutPrincipal(principal));
            if self.commit(&access, changes, "servicePrincipals/update", &id).await? {
                return Ok(());
            }
        }
    }

    pub(super) async fn delete_service_principal(&self, key: &Key) -> Result<(), DirectoryError> {
        loop {
            let access = self.now().await?;
            let principal = self.principal(&access, Kind::ServicePrincipal, key)?;
            self.require_owner_of(&access, principal)?;
            require_unmanaged(principal)?;
            require_not_last(&access, principal)?;
            let changes = vec![Change::DeletePrincipal { id: principal.id.clone() }];
            if self.commit(&access, changes, "servicePrincipals/delete", &principal.id).await? {
                return Ok(());
            }
        }
    }
}
