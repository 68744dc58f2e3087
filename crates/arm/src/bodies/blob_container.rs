//! `Microsoft.Storage/storageAccounts/blobServices/containers`: what a management request may say of a container.
//!
//! Immutability, encryption scopes and NFS are refused where they are asked for; az sends their defaults.

use super::{Fields, not_offered};
use crate::ArmError;
use serde_json::Value;
use std::collections::BTreeMap;

/// The scope that everything is in where none is named.
const ACCOUNT_SCOPE: &str = "$account-encryption-key";

/// What a body asks for; `None`: it says nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSettings {
    pub public_access: Option<PublicAccess>,
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Who may read without signing in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicAccess {
    Nobody,
    /// Everybody may read blobs, and list them.
    Container,
    /// Everybody may read blobs.
    Blob,
}

impl PublicAccess {
    /// As bodies show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "None",
            Self::Container => "Container",
            Self::Blob => "Blob",
        }
    }
}

/// # Errors
/// `InvalidParameter`; `OperationNotSupported`.
pub fn settings(body: &Value) -> Result<ContainerSettings, ArmError> {
    let given = Fields::root("blobContainer", body)?.object("properties")?;
    let scope = given.str("defaultEncryptionScope")?;
    if scope.is_some_and(|scope| scope != ACCOUNT_SCOPE) {
        return Err(not_offered(&given.path("defaultEncryptionScope"), "there is one scope, that of the account"));
    }
    let versioning = given.object("immutableStorageWithVersioning")?;
    for (switch, on, why) in [
        ("denyEncryptionScopeOverride", given.bool("denyEncryptionScopeOverride")?, "there are no encryption scopes"),
        ("enableNfsV3RootSquash", given.bool("enableNfsV3RootSquash")?, "blobs are not served over NFS"),
        ("enableNfsV3AllSquash", given.bool("enableNfsV3AllSquash")?, "blobs are not served over NFS"),
        ("immutableStorageWithVersioning", versioning.bool("enabled")?, "blobs can always be overwritten here"),
    ] {
        if on == Some(true) {
            return Err(not_offered(&given.path(switch), why));
        }
    }
    let access = given.one_of("publicAccess", &["None", "Container", "Blob"])?;
    let access = access.map(|word| match word {
        "Container" => PublicAccess::Container,
        "Blob" => PublicAccess::Blob,
        _ => PublicAccess::Nobody,
    });
    Ok(ContainerSettings { public_access: access, metadata: metadata(&given)? })
}

fn metadata(given: &Fields<'_>) -> Result<Option<BTreeMap<String, String>>, ArmError> {
    let path = given.path("metadata");
    let invalid = |why: String| ArmError::invalid_parameter(&path, why);
    let Some(value) = given.get("metadata") else { return Ok(None) };
    let map = value.as_object().ok_or_else(|| invalid(format!("The value of parameter {path} is not an object.")))?;
    let mut metadata = BTreeMap::new();
    for (name, value) in map {
        let text = value.as_str().ok_or_else(|| invalid(format!("The value of {path}.{name} is not a text.")))?;
        // They are headers on the data plane.
        let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !named || text.contains(|c: char| !c.is_ascii() || c.is_ascii_control()) {
            return Err(invalid(format!("'{name}' is no metadata: names are identifiers, values printable ASCII.")));
        }
        metadata.insert(name.to_ascii_lowercase(), text.to_owned());
    }
    Ok(Some(metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_az_sends_is_understood() {
        assert_eq!(settings(&json!({})).unwrap(), ContainerSettings::default());
        let sent = json!({"properties": {"publicAccess": "container", "metadata": {"Key": "v 1"},
            "defaultEncryptionScope": "$account-encryption-key", "denyEncryptionScopeOverride": false,
            "immutableStorageWithVersioning": {"enabled": false}}});
        let metadata = Some(BTreeMap::from([("key".to_owned(), "v 1".to_owned())]));
        let read = settings(&sent).unwrap();
        assert_eq!(read, ContainerSettings { public_access: Some(PublicAccess::Container), metadata });
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        for (on, code) in [
            (json!({"defaultEncryptionScope": "own"}), "OperationNotSupported"),
            (json!({"denyEncryptionScopeOverride": true}), "OperationNotSupported"),
            (json!({"immutableStorageWithVersioning": {"enabled": true}}), "OperationNotSupported"),
            (json!({"enableNfsV3AllSquash": true}), "OperationNotSupported"),
            (json!({"publicAccess": "Everybody"}), "InvalidParameter"),
            (json!({"metadata": []}), "InvalidParameter"),
            (json!({"metadata": {"a": 1}}), "InvalidParameter"),
            (json!({"metadata": {"a-b": "1"}}), "InvalidParameter"),
            (json!({"metadata": {"a": "1\r\nx-ms-y: 2"}}), "InvalidParameter"),
        ] {
            let error = settings(&json!({"properties": on})).unwrap_err();
            assert_eq!(error.code, code, "{on}");
        }
    }
}
