//! Security groups: principals that roles are given to, and that others are members of.

use super::properties::{self, Form, Table};
use super::{Directory, DirectoryError, GROUP, Key, Kind, show};
use crate::now_ms;
use lazuli_meta::model::{Change, Principal};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const RESOURCE: &str = "Group";
const PROPERTIES: Table = &[
    ("displayName", Form::Text),
    ("description", Form::Text),
    ("mailEnabled", Form::Bool),
    ("mailNickname", Form::Text),
    ("securityEnabled", Form::Bool),
    ("groupTypes", Form::Unset),
    ("isAssignableToRole", Form::Unset),
    ("visibility", Form::Text),
    ("classification", Form::Text),
    ("membershipRule", Form::Unset),
    ("membershipRuleProcessingState", Form::Unset),
    ("autoSubscribeNewMembers", Form::Unset),
    ("allowExternalSenders", Form::Unset),
    ("hideFromAddressLists", Form::Unset),
    ("hideFromOutlookClients", Form::Unset),
    ("resourceBehaviorOptions", Form::Unset),
    ("resourceProvisioningOptions", Form::Unset),
    ("theme", Form::Unset),
    ("preferredLanguage", Form::Text),
];

/// What is kept apart from the other properties.
const APART: [&str; 3] = ["displayName", "mailEnabled", "securityEnabled"];

/// Mail groups and those without rights would be groups in name only.
fn require_security_group(given: &Map<String, Value>) -> Result<(), DirectoryError> {
    let mail = given.get("mailEnabled").is_some_and(|v| *v == true);
    let no_security = given.get("securityEnabled").is_some_and(|v| *v == false);
    if mail || no_security {
        return Err(DirectoryError::bad(
            "This server has security groups only: mailEnabled must be false and securityEnabled true.",
        ));
    }
    Ok(())
}

fn without(mut given: Map<String, Value>) -> Map<String, Value> {
    given.retain(|name, _| !APART.contains(&name.as_str()));
    given
}

impl Directory<'_> {
    /// Whoever makes a group owns it, unless its owners are named.
    pub(super) async fn create_group(&self, body: &Value) -> Result<Value, DirectoryError> {
        let given = properties::take(body, PROPERTIES, RESOURCE)?;
        let display_name = properties::display_name(&given, RESOURCE)?;
        let display_name = display_name.ok_or_else(|| DirectoryError::required("displayName", RESOURCE))?;
        for name in ["mailEnabled", "mailNickname", "securityEnabled"] {
            given.get(name).filter(|v| !v.is_null()).ok_or_else(|| DirectoryError::required(name, RESOURCE))?;
        }
        require_security_group(&given)?;
        let owners = properties::bound(body, "owners")?.unwrap_or_else(|| vec![self.caller.principal.clone()]);
        let members = properties::bound(body, "members")?.unwrap_or_default();
        let mut made = Principal {
            id: Uuid::new_v4().to_string(),
            tenant: self.caller.tenant.clone(),
            app_id: String::new(),
            display_name,
            kind: GROUP.to_owned(),
            secret_hash: String::new(),
            login: String::new(),
            body: json!({"owners": owners, "createdMs": now_ms()}),
        };
        properties::merge(&mut made.body["directory"], &without(given));
        loop {
            let access = self.now().await?;
            self.require_person(&access)?;
            for owner in &owners {
                self.require_owner_kind(&access, owner)?;
            }
            let mut changes = vec![Change::PutPrincipal(made.clone())];
            for member in &members {
                let member = self.member(&access, &made.id, member)?;
                changes.push(Change::PutGroupMember { group: made.id.clone(), member });
            }
            if self.commit(&access, changes, "groups.security/create", &made.id).await? {
                return Ok(show::principal(&access, &made, None));
            }
        }
    }

    pub(super) async fn update_group(&self, key: &Key, body: &Value) -> Result<(), DirectoryError> {
        loop {
            let access = self.now().await?;
            let mut group = self.principal(&access, Kind::Group, key)?.clone();
            self.require_owner(&access, &group.body)?;
            let given = properties::take(body, PROPERTIES, RESOURCE)?;
            require_security_group(&given)?;
            group.display_name = properties::display_name(&given, RESOURCE)?.unwrap_or(group.display_name);
            properties::merge(&mut group.body["directory"], &without(given));
            let mut changes = Vec::new();
            // Members may be added with the other properties.
            for member in properties::bound(body, "members")?.unwrap_or_default() {
                let member = self.member(&access, &group.id, &member)?;
                changes.push(Change::PutGroupMember { group: group.id.clone(), member });
            }
            let id = group.id.clone();
            changes.push(Change::PutPrincipal(group));
            if self.commit(&access, changes, "groups.security/update", &id).await? {
                return Ok(());
            }
        }
    }

    pub(super) async fn delete_group(&self, key: &Key) -> Result<(), DirectoryError> {
        loop {
            let access = self.now().await?;
            let group = self.principal(&access, Kind::Group, key)?;
            self.require_owner(&access, &group.body)?;
            let changes = vec![Change::DeletePrincipal { id: group.id.clone() }];
            if self.commit(&access, changes, "groups.security/delete", &group.id).await? {
                return Ok(());
            }
        }
    }
}
