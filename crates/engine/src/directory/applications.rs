//! Applications: what clients are registered as. An application signs in to a tenant through its service principal there.

use super::properties::{self, Form, Table};
use super::show::{self, SEVERAL_TENANTS, SINGLE_TENANT};
use super::{Directory, DirectoryError, Key, require_not_last};
use crate::authorization::access::Access;
use crate::{db_error, now_ms};
use lazuli_meta::model::{Application, Change};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const RESOURCE: &str = "Application";
/// `keyCredentials` are looked at for themselves; passwords are made by `addPassword` alone.
const PROPERTIES: Table = &[
    ("displayName", Form::Text),
    ("description", Form::Text),
    ("identifierUris", Form::Texts),
    ("signInAudience", Form::Text),
    ("isFallbackPublicClient", Form::Bool),
    ("isDeviceOnlyAuthSupported", Form::Unset),
    ("api", Form::Object),
    ("web", Form::Object),
    ("spa", Form::Object),
    ("publicClient", Form::Object),
    ("info", Form::Object),
    ("appRoles", Form::Objects),
    ("requiredResourceAccess", Form::Objects),
    ("tags", Form::Texts),
    ("notes", Form::Text),
    ("serviceManagementReference", Form::Text),
    ("parentalControlSettings", Form::Object),
    ("keyCredentials", Form::Objects),
    ("passwordCredentials", Form::Unset),
    // They change tokens, which are the same for all applications here.
    ("addIns", Form::Unset),
    ("defaultRedirectUri", Form::Unset),
    ("groupMembershipClaims", Form::Unset),
    ("oauth2RequirePostResponse", Form::Unset),
    ("optionalClaims", Form::Unset),
    ("requestSignatureVerification", Form::Unset),
    ("samlMetadataUrl", Form::Unset),
    ("servicePrincipalLockConfiguration", Form::Unset),
    ("tokenEncryptionKeyId", Form::Unset),
];

/// What can be checked by looking at the properties alone.
fn check(given: &Map<String, Value>) -> Result<(), DirectoryError> {
    let audience = given.get("signInAudience").and_then(Value::as_str);
    if audience.is_some_and(|a| ![SINGLE_TENANT, SEVERAL_TENANTS].contains(&a)) {
        return Err(DirectoryError::bad(format!(
            "This server has no personal accounts: signInAudience must be '{SINGLE_TENANT}' or '{SEVERAL_TENANTS}'."
        )));
    }
    for uri in texts(given.get("identifierUris")) {
        if !is_identifier(uri) {
            return Err(DirectoryError::Refused {
                status: 400,
                code: "InvalidIdentifierUri",
                message: format!(
                    "'{uri}' is no identifier URI: expected one with a scheme, such as 'api://NAME' or 'https://HOST/NAME'."
                ),
            });
        }
    }
    for (kind, any_scheme) in [("web", false), ("spa", false), ("publicClient", true)] {
        let uris = given.get(kind).map(|k| &k["redirectUris"]);
        if uris.is_some_and(|u| !u.is_null() && !u.is_array()) {
            return Err(DirectoryError::invalid(kind, RESOURCE));
        }
        if let Some(bad) = texts(uris).find(|uri| !is_redirect(uri, any_scheme)) {
            return Err(DirectoryError::bad(format!(
                "Invalid value specified for property 'redirectUris' of resource '{RESOURCE}': '{bad}' must be an https address, \
                 or one of http://localhost, without a wildcard or a fragment."
            )));
        }
    }
    Ok(())
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A name of an application must never look like the id of another one.
fn is_identifier(uri: &str) -> bool {
    let named = uri.split_once("://").or_else(|| uri.split_once("urn:")).is_some_and(|(_, rest)| !rest.is_empty());
    named && uri.len() <= 255 && !uri.chars().any(|c| c.is_whitespace() || c.is_control() || c == '*')
}

/// Only what may be registered; what is followed is decided anew at each sign-in.
fn is_redirect(uri: &str, any_scheme: bool) -> bool {
    let plain = !uri.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '*' | '#' | '\\'));
    let Some((scheme, rest)) = uri.split_once(':') else { return false };
    let scheme = scheme.to_ascii_lowercase();
    let host = rest.trim_start_matches('/').split(['/', '?', ':']).next().unwrap_or_default();
    let own_machine = matches!(host, "localhost" | "127.0.0.1" | "[");
    let fits = match scheme.as_str() {
        "https" => !host.is_empty(),
        "http" => own_machine,
        "javascript" | "data" | "vbscript" | "file" | "" => false,
        _ => any_scheme,
    };
    plain && fits && uri.len() <= 2048
}

/// Names by which clients and services are found are an application's alone.
fn require_free_names(access: &Access, application: &Application) -> Result<(), DirectoryError> {
    let mut others = access.applications.values().filter(|a| a.id != application.id && a.tenant == application.tenant);
    let taken = |uri: &str| texts(Some(&application.body["identifierUris"])).any(|own| own.eq_ignore_ascii_case(uri));
    if others.any(|a| texts(Some(&a.body["identifierUris"])).any(taken)) {
        return Err(DirectoryError::taken("identifierUris"));
    }
    Ok(())
}

fn without(mut given: Map<String, Value>) -> Map<String, Value> {
    given.retain(|name, _| !["keyCredentials", "passwordCredentials"].contains(&name.as_str()));
    given
}

impl Directory<'_> {
    /// Whoever registers an application owns it, unless its owners are named.
    pub(super) async fn create_application(&self, body: &Value) -> Result<Value, DirectoryError> {
        let given = properties::take(body, PROPERTIES, RESOURCE)?;
        check(&given)?;
        let display_name = properties::display_name(&given, RESOURCE)?;
        display_name.ok_or_else(|| DirectoryError::required("displayName", RESOURCE))?;
        let owners = properties::bound(body, "owners")?.unwrap_or_else(|| vec![self.caller.principal.clone()]);
        let mut made = Application {
            id: Uuid::new_v4().to_string(),
            tenant: self.caller.tenant.clone(),
            app_id: Uuid::new_v4().to_string(),
            body: json!({}),
        };
        let keys = given.get("keyCredentials").cloned().unwrap_or_default();
        properties::merge(&mut made.body, &without(given));
        made.body["owners"] = json!(owners);
        made.body["createdMs"] = json!(now_ms());
        loop {
            let access = self.now().await?;
            self.require_person(&access)?;
            for owner in &owners {
                self.require_owner_kind(&access, owner)?;
            }
            require_free_names(&access, &made)?;
            let (keys, kept) = self.keys(&made.app_id, &keys).await?;
            let mut changes = vec![Change::PutApplication(made.clone())];
            changes.extend(keys);
            if self.commit(&access, changes, "applications/create", &made.id).await? {
                return Ok(show::application(&made, Some(&kept)));
            }
        }
    }

    pub(super) async fn update_application(&self, key: &Key, body: &Value) -> Result<(), DirectoryError> {
        loop {
            let access = self.now().await?;
            let mut application = self.application(&access, key)?.clone();
            self.require_owner(&access, &application.body)?;
            let given = properties::take(body, PROPERTIES, RESOURCE)?;
            check(&given)?;
            let mut changes = Vec::new();
            // In its home the service principal bears the name of its application.
            if let Some(name) = properties::display_name(&given, RESOURCE)? {
                let here =
                    access.principals.values().find(|p| self.is_mine(&p.tenant) && p.app_id == application.app_id);
                changes.extend(here.cloned().map(|mut principal| {
                    principal.display_name = name;
                    Change::PutPrincipal(principal)
                }));
            }
            if let Some(keys) = given.get("keyCredentials") {
                changes.extend(self.keys(&application.app_id, keys).await?.0);
            }
            properties::merge(&mut application.body, &without(given));
            require_free_names(&access, &application)?;
            let id = application.id.clone();
            changes.push(Change::PutApplication(application));
            if self.commit(&access, changes, "applications/update", &id).await? {
                return Ok(());
            }
        }
    }

    /// With its service principal in this tenant. Other tenants keep theirs, which nobody can sign in as any more.
    pub(super) async fn delete_application(&self, key: &Key) -> Result<(), DirectoryError> {
        loop {
            let access = self.now().await?;
            let application = self.application(&access, key)?;
            self.require_owner(&access, &application.body)?;
            let here = access.principals.values().filter(|p| self.is_mine(&p.tenant) && p.app_id == application.app_id);
            let mut changes = Vec::new();
            for principal in here {
                require_not_last(&access, principal)?;
                changes.push(Change::DeletePrincipal { id: principal.id.clone() });
            }
            changes.push(Change::DeleteApplication { id: application.id.clone() });
            // Also where no credential is the application's own row.
            let kept = self.engine.db().credentials(&application.app_id).await.map_err(db_error)?;
            changes.extend(kept.into_iter().map(|c| Change::DeleteCredential { id: c.id }));
            if self.commit(&access, changes, "applications/delete", &application.id).await? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_checked() {
        for good in ["api://x", "https://contoso.example/app", "urn:x", "ms-appx://a"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", "name", "22222222-2222-2222-2222-222222222222", "api://", "api://a b", "https://*.x", "urn:"] {
            assert!(!is_identifier(bad), "{bad}");
        }
        for good in ["https://a.example/b?c", "http://localhost:3000/x", "http://127.0.0.1"] {
            assert!(is_redirect(good, false), "{good}");
        }
        for bad in
            ["", "x", "http://a.example", "https://", "https://a/#b", "https://*.a", "javascript:alert(1)", "myapp://x"]
        {
            assert!(!is_redirect(bad, false), "{bad}");
        }
        assert!(is_redirect("myapp://x", true) && !is_redirect("data:text/html,x", true));
    }
}
