//! `applicationProfile`: the VM applications that a machine, or each machine of a model, is to have.

use super::super::{Fields, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

/// As in Azure.
const MAX_APPLICATIONS: usize = 25;
const VERSIONS: &str = "microsoft.compute/galleries/applications/versions";

/// The profile in its settled form; `None`: not given.
///
/// # Errors
/// `InvalidParameter`; `OperationNotSupported` for automatic upgrades.
pub(in super::super) fn application_profile(properties: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let profile = properties.object("applicationProfile")?;
    let Some(given) = profile.objects("galleryApplications")? else { return Ok(None) };
    let path = profile.path("galleryApplications");
    let wrong = |message: String| Err(ArmError::invalid_parameter(&path, message));
    if given.len() > MAX_APPLICATIONS {
        return wrong(format!(
            "The maximum number of VM applications (max={MAX_APPLICATIONS}, current={}) has been exceeded. Use fewer applications and \
             retry the request.",
            given.len()
        ));
    }
    let mut shown: Vec<Value> = Vec::new();
    for entry in &given {
        let entry = application(entry)?;
        let id = |e: &Value| e["packageReferenceId"].as_str().unwrap_or_default().to_ascii_lowercase();
        if shown.iter().any(|other| id(other) == id(&entry)) {
            return wrong("More than one VM Application was specified with the same packageReferenceId.".to_owned());
        }
        shown.push(entry);
    }
    Ok(Some(json!({ "galleryApplications": shown })))
}

fn application(given: &Fields<'_>) -> Result<Value, ArmError> {
    let mut entry = Map::new();
    if let Some(tags) = given.str("tags")? {
        entry.insert("tags".into(), tags.into());
    }
    if let Some(order) = given.int_within("order", i32::MIN.into(), i32::MAX.into())? {
        entry.insert("order".into(), order.into());
    }
    let id = given.required_str("packageReferenceId")?;
    if !id.parse::<ResourceId>().is_ok_and(|id| id.resource_type().key() == VERSIONS) {
        let path = given.path("packageReferenceId");
        let message = format!(
            "The value '{id}' of parameter {path} is invalid: the id of a gallery application version is expected, \
             /subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/Microsoft.Compute/galleries/{{gallery}}/applications/\
             {{application}}/versions/{{version}}."
        );
        return Err(ArmError::invalid_parameter(&path, message));
    }
    entry.insert("packageReferenceId".into(), id.into());
    if let Some(uri) = given.str("configurationReference")?.filter(|uri| !uri.is_empty()) {
        entry.insert("configurationReference".into(), uri.into());
    }
    entry.insert(
        "treatFailureAsDeploymentFailure".into(),
        given.bool("treatFailureAsDeploymentFailure")?.unwrap_or(false).into(),
    );
    let upgrade = given.bool("enableAutomaticUpgrade")?.unwrap_or(false);
    if upgrade {
        let why = "machines get another version when their application profile is put again";
        return Err(not_offered(&given.path("enableAutomaticUpgrade"), why));
    }
    entry.insert("enableAutomaticUpgrade".into(), upgrade.into());
    Ok(entry.into())
}

/// The entries of a stored body's profile, a machine's or a model's.
pub fn applications(properties: &Value) -> &[Value] {
    properties["applicationProfile"]["galleryApplications"].as_array().map_or(&[], Vec::as_slice)
}

/// The error of whatever is to be run in a machine that was made without an agent for it (Azure's text).
pub fn extensions_not_allowed(body: &Value) -> Option<ArmError> {
    (body["properties"]["osProfile"]["allowExtensionOperations"] == false).then(|| {
        ArmError::conflict(
            "OperationNotAllowed",
            "This operation cannot be performed when extension operations are disallowed. To allow, please ensure VM Agent is installed \
             on the VM and the osProfile.allowExtensionOperations property is true.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GALLERY: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/x";

    fn version(name: &str) -> String {
        format!("{GALLERY}/applications/{name}/versions/1.0.0")
    }

    fn made(entries: &Value) -> Result<Option<Value>, ArmError> {
        let properties = json!({"applicationProfile": {"galleryApplications": entries}});
        application_profile(&Fields::root("virtualMachine", &properties)?)
    }

    #[test]
    fn entries_are_completed() {
        let latest = format!("{GALLERY}/applications/b/versions/latest");
        let made =
            made(&json!([{"packageReferenceId": version("a"), "order": 1, "tags": "t", "configurationReference": ""},
            {"packageReferenceId": latest, "treatFailureAsDeploymentFailure": true}]));
        let expected = json!({"galleryApplications": [
            {"tags": "t", "order": 1, "packageReferenceId": version("a"), "treatFailureAsDeploymentFailure": false,
                "enableAutomaticUpgrade": false},
            {"packageReferenceId": latest, "treatFailureAsDeploymentFailure": true, "enableAutomaticUpgrade": false}]});
        assert_eq!(made.unwrap().unwrap(), expected);
        let none = |given: Value| application_profile(&Fields::root("virtualMachine", &given).unwrap()).unwrap();
        assert_eq!(none(json!({"applicationProfile": {}})), None);
        assert_eq!(
            none(json!({"applicationProfile": {"galleryApplications": []}})),
            Some(json!({"galleryApplications": []})),
            "all of them go"
        );
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let many: Vec<Value> = (0..26).map(|n| json!({"packageReferenceId": version(&format!("a{n}"))})).collect();
        let with = |name: &str, value: Value| json!([{"packageReferenceId": version("a"), name: value}]);
        for (entries, code, text) in [
            (many.into(), "InvalidParameter", "(max=25, current=26)"),
            (
                json!([{"packageReferenceId": version("a")}, {"packageReferenceId": version("A")}]),
                "InvalidParameter",
                "More than one VM Application",
            ),
            (json!([{}]), "InvalidParameter", "packageReferenceId' is missing"),
            (
                with("packageReferenceId", GALLERY.into()),
                "InvalidParameter",
                "a gallery application version is expected",
            ),
            (
                with("packageReferenceId", "../x".into()),
                "InvalidParameter",
                "a gallery application version is expected",
            ),
            (with("order", json!(1_i64 << 40)), "InvalidParameter", "out of range"),
            (with("order", json!("first")), "InvalidParameter", "a whole number"),
            (with("enableAutomaticUpgrade", json!(true)), "OperationNotSupported", "put again"),
            (with("treatFailureAsDeploymentFailure", json!(7)), "InvalidParameter", "true or false"),
        ] {
            let error = made(&entries).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(text), "{text}: {error}");
        }
    }
}
