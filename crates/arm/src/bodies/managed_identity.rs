//! `identity` of a resource: which managed identities it has. Which principals these are, the engine says.
//!
//! ```text
//! {"type": "None" | "SystemAssigned" | "UserAssigned" | "SystemAssigned, UserAssigned",
//!  "userAssignedIdentities": {ID: {}, …}}
//! ```

use super::Fields;
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const PATH: &str = "identity";
const USER_ASSIGNED: &str = "microsoft.managedidentity/userassignedidentities";
/// Far more than Azure's clients assign.
const MAX: usize = 100;

/// The identities that a body asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManagedIdentity {
    pub system: bool,
    /// Ids as they were written.
    pub user: Vec<String>,
}

fn invalid(name: &str, message: impl Into<String>) -> ArmError {
    ArmError::invalid_parameter(&format!("{PATH}.{name}"), message)
}

/// `(system assigned, user assigned)`
fn kinds(text: &str) -> Result<(bool, bool), ArmError> {
    let (mut system, mut user) = (false, false);
    for word in text.split(',').map(str::trim) {
        match word.to_ascii_lowercase().as_str() {
            "systemassigned" => system = true,
            "userassigned" => user = true,
            "none" | "" => {}
            _ => {
                return Err(invalid(
                    "type",
                    format!(
                        "The value '{text}' of parameter identity.type is invalid. The allowed values are None, SystemAssigned, \
                         UserAssigned and 'SystemAssigned, UserAssigned'."
                    ),
                ));
            }
        }
    }
    Ok((system, user))
}

impl ManagedIdentity {
    /// What the root of a body says; `None` where it says nothing, which changes nothing.
    ///
    /// # Errors
    /// `InvalidParameter`; `LinkedInvalidPropertyId` for what is no id of an identity.
    pub fn read(root: &Fields<'_>) -> Result<Option<Self>, ArmError> {
        let given = root.object(PATH)?;
        let Some(text) = given.str("type")? else { return Ok(None) };
        let (system, user) = kinds(&text)?;
        let named = given.get("userAssignedIdentities").and_then(Value::as_object).filter(|n| !n.is_empty());
        let ids: Vec<String> = named.into_iter().flat_map(Map::keys).cloned().collect();
        if user && ids.is_empty() {
            return Err(invalid(
                "userAssignedIdentities",
                "The identity ids must not be null or empty for 'UserAssigned' identity type.",
            ));
        }
        if !user && !ids.is_empty() {
            return Err(invalid(
                "userAssignedIdentities",
                format!("The identity ids must be empty for '{text}' identity type."),
            ));
        }
        if ids.len() > MAX {
            return Err(invalid("userAssignedIdentities", format!("At most {MAX} identities can be assigned.")));
        }
        for id in &ids {
            let is_identity = id
                .parse::<ResourceId>()
                .is_ok_and(|id| id.resource_type().to_string().eq_ignore_ascii_case(USER_ASSIGNED));
            if !is_identity {
                return Err(ArmError::bad_request(
                    "LinkedInvalidPropertyId",
                    format!(
                        "Property id '{id}' at path 'identity.userAssignedIdentities' is invalid. Expect fully qualified resource Id \
                         that start with '/subscriptions/{{subscriptionId}}' or '/providers/{{resourceProviderNamespace}}/'."
                    ),
                ));
            }
        }
        Ok(Some(Self { system, user: ids }))
    }

    pub fn is_none(&self) -> bool {
        !self.system && self.user.is_empty()
    }

    /// To store and show, without the principals.
    pub fn body(&self) -> Value {
        let kind = match (self.system, self.user.is_empty()) {
            (true, true) => "SystemAssigned",
            (true, false) => "SystemAssigned, UserAssigned",
            (false, false) => "UserAssigned",
            (false, true) => "None",
        };
        let mut body = json!({"type": kind});
        if !self.user.is_empty() {
            body["userAssignedIdentities"] = self.user.iter().map(|id| (id.clone(), json!({}))).collect();
        }
        body
    }
}

/// What a PATCH makes of a stored identity: identities that it names come, those that it gives `null` go, the others stay as long
/// as the type has any. `None`: the patch says nothing.
pub fn patched(stored: &Value, patch: Option<&Value>) -> Option<Value> {
    let patch = patch?.as_object()?;
    let field = |name: &str| patch.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v);
    let kind = field("type").or_else(|| stored.get("type")).cloned().unwrap_or_else(|| json!("None"));
    let mut ids = stored["userAssignedIdentities"].as_object().cloned().unwrap_or_default();
    for (id, value) in field("userAssignedIdentities").and_then(Value::as_object).into_iter().flatten() {
        let known = ids.keys().find(|k| k.eq_ignore_ascii_case(id)).cloned();
        match (value.is_null(), known) {
            (true, Some(known)) => drop(ids.shift_remove(&known)),
            (false, None) => drop(ids.insert(id.clone(), json!({}))),
            _ => {}
        }
    }
    let keeps = kind.as_str().is_some_and(|k| kinds(k).is_ok_and(|(_, user)| user));
    if !keeps {
        ids.clear();
    }
    Some(json!({"type": kind, "userAssignedIdentities": ids}))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/";

    fn read(identity: Value) -> Result<Option<ManagedIdentity>, ArmError> {
        let body = json!({"identity": identity});
        ManagedIdentity::read(&Fields::root("virtualMachine", &body)?)
    }

    #[test]
    fn every_type_is_read() {
        let ids = |names: &[&str]| -> Value { names.iter().map(|n| (format!("{ID}{n}"), json!({}))).collect() };
        assert_eq!(read(Value::Null).unwrap(), None);
        assert!(read(json!({"type": "None", "userAssignedIdentities": null})).unwrap().unwrap().is_none());
        let both = read(json!({"type": "systemassigned,UserAssigned", "userAssignedIdentities": ids(&["a", "b"])}))
            .unwrap()
            .unwrap();
        assert!(both.system && both.user.len() == 2);
        assert_eq!(both.body()["type"], "SystemAssigned, UserAssigned");
        for bad in [
            json!({"type": "Other"}),
            json!({"type": "UserAssigned"}),
            json!({"type": "SystemAssigned", "userAssignedIdentities": ids(&["a"])}),
            json!({"type": "UserAssigned", "userAssignedIdentities": {"/subscriptions/s/resourceGroups/g": {}}}),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().status, 400, "{bad}");
        }
    }

    /// The bodies that az sends.
    #[test]
    fn a_patch_names_what_comes_and_goes() {
        let (a, b) = (format!("{ID}a"), format!("{ID}b"));
        let stored = json!({"type": "SystemAssigned, UserAssigned", "principalId": "p", "userAssignedIdentities": {a.as_str(): {}}});
        let after = |patch: Value| {
            let body = json!({"identity": patched(&stored, Some(&patch)).unwrap()});
            ManagedIdentity::read(&Fields::root("virtualMachine", &body).unwrap()).unwrap().unwrap()
        };
        let add = after(json!({"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": {b.as_str(): {}}}));
        assert_eq!(add, ManagedIdentity { system: true, user: vec![a.clone(), b] });
        let gone = after(json!({"type": "SystemAssigned", "userAssignedIdentities": {a.to_uppercase(): null}}));
        assert_eq!(gone, ManagedIdentity { system: true, user: vec![] });
        let user_only = after(json!({"type": "UserAssigned", "userAssignedIdentities": null}));
        assert_eq!(user_only, ManagedIdentity { system: false, user: vec![a] });
        assert!(after(json!({"type": "None", "userAssignedIdentities": null})).is_none());
        assert_eq!((patched(&stored, Some(&Value::Null)), patched(&stored, None)), (None, None));
    }
}
