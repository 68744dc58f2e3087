//! People. Only administrators make, change and delete them; everybody of the tenant sees them.

use super::properties::{self, Form, Table};
use super::{Directory, DirectoryError, Key, Kind, require_not_last, show};
use crate::identity::{USER, hash_password, is_guest, is_login, normal};
use crate::now_ms;
use lazuli_authz::password::PasswordError;
use lazuli_meta::model::{Change, Principal};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const RESOURCE: &str = "User";
const PROPERTIES: Table = &[
    ("accountEnabled", Form::Bool),
    ("displayName", Form::Text),
    ("mailNickname", Form::Text),
    ("userPrincipalName", Form::Text),
    ("passwordProfile", Form::Object),
    ("ageGroup", Form::Text),
    ("businessPhones", Form::Texts),
    ("city", Form::Text),
    ("companyName", Form::Text),
    ("consentProvidedForMinor", Form::Text),
    ("country", Form::Text),
    ("department", Form::Text),
    ("employeeHireDate", Form::Text),
    ("employeeId", Form::Text),
    ("employeeOrgData", Form::Object),
    ("employeeType", Form::Text),
    ("faxNumber", Form::Text),
    ("givenName", Form::Text),
    ("jobTitle", Form::Text),
    ("mail", Form::Text),
    ("mobilePhone", Form::Text),
    ("officeLocation", Form::Text),
    ("onPremisesImmutableId", Form::Text),
    ("otherMails", Form::Texts),
    ("passwordPolicies", Form::Unset),
    ("postalCode", Form::Text),
    ("preferredLanguage", Form::Text),
    ("showInAddressList", Form::Bool),
    ("state", Form::Text),
    ("streetAddress", Form::Text),
    ("surname", Form::Text),
    ("usageLocation", Form::Text),
    ("userType", Form::Text),
];

/// What is kept apart from the other properties.
const APART: [&str; 3] = ["accountEnabled", "displayName", "passwordProfile"];

/// A password that is given, and nothing else that could not be kept.
fn password(given: &Map<String, Value>) -> Result<Option<String>, DirectoryError> {
    let Some(profile) = given.get("passwordProfile").filter(|p| !p.is_null()) else { return Ok(None) };
    for field in ["forceChangePasswordNextSignIn", "forceChangePasswordNextSignInWithMfa"] {
        if profile[field] == true {
            return Err(DirectoryError::bad(format!(
                "This server cannot make a user change the password at the next sign-in: '{field}' must be false."
            )));
        }
    }
    Ok(profile["password"].as_str().map(str::to_owned))
}

fn login(given: &Map<String, Value>) -> Result<Option<String>, DirectoryError> {
    let Some(name) = given.get("userPrincipalName") else { return Ok(None) };
    let login = normal(name.as_str().unwrap_or_default());
    if is_login(&login) {
        return Ok(Some(login));
    }
    Err(DirectoryError::bad("Property userPrincipalName is invalid."))
}

async fn hashed(password: &str) -> Result<String, DirectoryError> {
    let password = password.to_owned();
    hash_password(&password).await?.map_err(|e| match e {
        PasswordError::Length => DirectoryError::bad(format!(
            "The specified password does not comply with password complexity requirements: {e}. Please provide a different password."
        )),
        PasswordError::NoRandomness => lazuli_arm::ArmError::internal(e).into(),
    })
}

impl Directory<'_> {
    pub(super) async fn create_user(&self, body: &Value) -> Result<Value, DirectoryError> {
        self.require_administrator(&*self.now().await?)?;
        let given = properties::take(body, PROPERTIES, RESOURCE)?;
        let required = |name: &str| DirectoryError::required(name, RESOURCE);
        let display_name = properties::display_name(&given, RESOURCE)?.ok_or_else(|| required("displayName"))?;
        let login = login(&given)?.ok_or_else(|| required("userPrincipalName"))?;
        let password = password(&given)?.ok_or_else(|| required("passwordProfile"))?;
        for name in ["accountEnabled", "mailNickname"] {
            given.get(name).filter(|v| !v.is_null()).ok_or_else(|| required(name))?;
        }
        let mut made = Principal {
            id: Uuid::new_v4().to_string(),
            tenant: self.caller.tenant.clone(),
            app_id: String::new(),
            display_name,
            kind: USER.to_owned(),
            secret_hash: hashed(&password).await?,
            login,
            body: json!({"accountEnabled": given["accountEnabled"], "createdMs": now_ms()}),
        };
        properties::merge(&mut made.body["directory"], &without(given));
        loop {
            let access = self.now().await?;
            self.require_administrator(&access)?;
            self.require_free_login(&access, &made)?;
            let changes = vec![Change::PutPrincipal(made.clone())];
            if self.commit(&access, changes, "users/create", &made.id).await? {
                return Ok(show::principal(&access, &made, None));
            }
        }
    }

    fn require_free_login(
        &self,
        access: &crate::authorization::access::Access,
        user: &Principal,
    ) -> Result<(), DirectoryError> {
        let same = |p: &Principal| self.is_mine(&p.tenant) && p.login == user.login && p.id != user.id;
        if access.principals.values().any(same) { Err(DirectoryError::taken("userPrincipalName")) } else { Ok(()) }
    }

    pub(super) async fn update_user(&self, key: &Key, body: &Value) -> Result<(), DirectoryError> {
        let access = self.now().await?;
        self.principal(&access, Kind::User, key)?;
        self.require_administrator(&access)?;
        let given = properties::take(body, PROPERTIES, RESOURCE)?;
        let (display_name, login) = (properties::display_name(&given, RESOURCE)?, login(&given)?);
        let hash = match password(&given)? {
            Some(password) => Some(hashed(&password).await?),
            None => None,
        };
        loop {
            let access = self.now().await?;
            let mut user = self.principal(&access, Kind::User, key)?.clone();
            self.require_administrator(&access)?;
            if is_guest(&user) && (hash.is_some() || login.as_ref().is_some_and(|login| *login != user.login)) {
                return Err(DirectoryError::bad("Login and password of a guest are those of its home tenant."));
            }
            user.display_name = display_name.clone().unwrap_or(user.display_name);
            user.login = login.clone().unwrap_or(user.login);
            self.require_free_login(&access, &user)?;
            if let Some(hash) = &hash {
                hash.clone_into(&mut user.secret_hash);
                // What was begun with the old password ends.
                user.body["sessionsFromMs"] = json!(now_ms());
            }
            if let Some(enabled) = given.get("accountEnabled").and_then(Value::as_bool) {
                if !enabled {
                    require_not_last(&access, &user)?;
                }
                user.body["accountEnabled"] = json!(enabled);
            }
            properties::merge(&mut user.body["directory"], &without(given.clone()));
            let id = user.id.clone();
            if self.commit(&access, vec![Change::PutPrincipal(user)], "users/update", &id).await? {
                return Ok(());
            }
        }
    }

    pub(super) async fn delete_user(&self, key: &Key) -> Result<(), DirectoryError> {
        loop {
            let access = self.now().await?;
            let user = self.principal(&access, Kind::User, key)?;
            self.require_administrator(&access)?;
            require_not_last(&access, user)?;
            let changes = vec![Change::DeletePrincipal { id: user.id.clone() }];
            if self.commit(&access, changes, "users/delete", &user.id).await? {
                return Ok(());
            }
        }
    }
}

fn without(mut given: Map<String, Value>) -> Map<String, Value> {
    given.retain(|name, _| !APART.contains(&name.as_str()));
    given
}
