//! `Microsoft.Storage/storageAccounts/blobServices`: the settings of an account's blobs. There is one, `default`, from the
//! beginning of its account to its end.
//!
//! Versioning, soft delete, change feeds, CORS rules and last-access tracking are refused where they are asked for.

use super::{Context, Fields, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Value, json};

/// What an account has before anybody changes it.
pub fn initial() -> Value {
    json!({"properties": {"cors": {"corsRules": []}, "deleteRetentionPolicy": {"enabled": false}}})
}

/// Switches that are accepted when they are off. az sends the body of a GET back with changes.
///
/// # Errors
/// `InvalidResourceName` for another name than `default`; `OperationNotSupported`.
pub fn put(id: &ResourceId, new: &Value, _old: Option<&Value>, _ctx: &Context<'_>) -> Result<Value, ArmError> {
    if !id.name().eq_ignore_ascii_case("default") {
        return Err(ArmError::bad_request(
            "InvalidResourceName",
            format!("The blob service of an account is named 'default', not '{}'.", id.name()),
        ));
    }
    let body = Fields::root("blobService", new)?;
    let given = body.object("properties")?;
    let mut properties = initial()["properties"].take();
    for name in ["isVersioningEnabled", "automaticSnapshotPolicyEnabled"] {
        match given.bool(name)? {
            Some(true) => return Err(not_offered(&given.path(name), "blobs have no versions here")),
            Some(false) => properties[name] = json!(false),
            None => {}
        }
    }
    for (name, switch) in [
        ("deleteRetentionPolicy", "enabled"),
        ("containerDeleteRetentionPolicy", "enabled"),
        ("restorePolicy", "enabled"),
        ("changeFeed", "enabled"),
        ("lastAccessTimeTrackingPolicy", "enable"),
    ] {
        let policy = given.object(name)?;
        match policy.bool(switch)? {
            Some(true) => return Err(not_offered(&policy.path(switch), "what is deleted or overwritten is gone")),
            Some(false) => properties[name] = json!({switch: false}),
            None => {}
        }
    }
    let cors = given.object("cors")?;
    if cors.get("corsRules").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty()) {
        return Err(not_offered(&cors.path("corsRules"), "answers have no CORS headers"));
    }
    if given.get("defaultServiceVersion").is_some() {
        return Err(not_offered(&given.path("defaultServiceVersion"), "requests name their version"));
    }
    Ok(json!({"properties": properties}))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, version};
    use super::*;

    fn id(name: &str) -> ResourceId {
        format!("/subscriptions/0/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a/blobServices/{name}")
            .parse()
            .unwrap()
    }

    #[test]
    fn what_is_off_may_be_said() {
        let api = version("2023-01-01");
        let ctx = context(&api);
        let off = json!({"properties": {"isVersioningEnabled": false, "changeFeed": {"enabled": "false"},
            "cors": {"corsRules": []}, "deleteRetentionPolicy": {"enabled": false, "days": null}}});
        let body = put(&id("Default"), &off, None, &ctx).unwrap();
        assert_eq!(body["properties"]["changeFeed"], json!({"enabled": false}));
        assert_eq!(put(&id("default"), &initial(), Some(&body), &ctx).unwrap(), initial());
        for on in [
            json!({"isVersioningEnabled": true}),
            json!({"deleteRetentionPolicy": {"enabled": true, "days": 7}}),
            json!({"lastAccessTimeTrackingPolicy": {"enable": true}}),
            json!({"cors": {"corsRules": [{"allowedOrigins": ["*"]}]}}),
            json!({"defaultServiceVersion": "2021-12-02"}),
        ] {
            let error = put(&id("default"), &json!({"properties": on}), None, &ctx).unwrap_err();
            assert_eq!(error.code, "OperationNotSupported", "{on}");
        }
        assert_eq!(put(&id("other"), &json!({}), None, &ctx).unwrap_err().code, "InvalidResourceName");
    }
}
