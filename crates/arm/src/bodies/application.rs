//! `Microsoft.Compute/galleries/applications`: what a VM application is. Its versions hold the packages.

use super::image_definition::end_of_life;
use super::{Context, Fields, Head, merge_patch, unchanged};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

const ROOT: &str = "galleryApplication";
const MAX_NAME: usize = 80;
const PARAMETER_TYPES: [&str; 3] = ["String", "ConfigurationDataBlob", "LogOutputBlob"];

/// Letters and digits; `.`, `_` and `-` in the middle (Swagger: galleryApplicationName).
fn check_name(name: &str) -> Result<(), ArmError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if edge(name.chars().next()) && edge(name.chars().last()) && name.len() <= MAX_NAME && name.chars().all(inner) {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(
        "galleryApplicationName",
        format!(
            "The gallery application name '{name}' is invalid: it has 1 to {MAX_NAME} letters and digits, with dots, dashes and \
             underscores in the middle."
        ),
    ))
}

/// The OS type stays; everything else may change.
///
/// Errors: `InvalidParameter`; 409 `PropertyChangeNotAllowed`.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    let stored = old.map(|o| &o["properties"]);
    let mut properties = Map::new();
    let os_type = given.one_of("supportedOSType", &["Windows", "Linux"])?;
    let known = stored.map(|s| &s["supportedOSType"]);
    if let Some(known) = known {
        unchanged(&given.path("supportedOSType"), os_type.map(Value::from).as_ref(), Some(known))?;
    }
    let os_type = os_type.map(Value::from).or(known.cloned()).ok_or_else(|| given.missing("supportedOSType"))?;
    properties.insert("supportedOSType".into(), os_type);
    for name in ["description", "eula", "privacyStatementUri", "releaseNoteUri"] {
        if let Some(text) = given.str(name)? {
            properties.insert(name.into(), text.into());
        }
    }
    if let Some(date) = end_of_life(&given, stored, ctx)? {
        properties.insert("endOfLifeDate".into(), date.into());
    }
    if let Some(actions) = custom_actions(&given)? {
        properties.insert("customActions".into(), actions);
    }
    Ok(head.body(vec![], properties))
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

/// `customActions` of an application or a version: names are unique, scripts must be there.
pub(super) fn custom_actions(given: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let Some(items) = given.objects("customActions")? else { return Ok(None) };
    let mut names = HashSet::new();
    let mut actions = Vec::new();
    for item in &items {
        let name = item.required_str("name")?;
        if !names.insert(name.to_lowercase()) {
            return Err(ArmError::invalid_parameter(
                &item.path("name"),
                format!("The custom action name '{name}' is given more than once."),
            ));
        }
        let mut action = Map::from_iter([
            ("name".to_owned(), Value::from(name)),
            ("script".to_owned(), Value::from(item.required_str("script")?)),
        ]);
        if let Some(text) = item.str("description")? {
            action.insert("description".into(), text.into());
        }
        if let Some(parameters) = item.objects("parameters")? {
            let parameters = parameters.iter().map(parameter).collect::<Result<Vec<_>, _>>()?;
            action.insert("parameters".into(), parameters.into());
        }
        actions.push(Value::Object(action));
    }
    Ok(Some(actions.into()))
}

fn parameter(given: &Fields<'_>) -> Result<Value, ArmError> {
    let mut shown = json!({"name": given.required_str("name")?});
    if let Some(required) = given.bool("required")? {
        shown["required"] = required.into();
    }
    if let Some(kind) = given.one_of("type", &PARAMETER_TYPES)? {
        shown["type"] = kind.into();
    }
    for name in ["defaultValue", "description"] {
        if let Some(text) = given.str(name)? {
            shown[name] = text.into();
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, id, version};
    use super::*;

    fn app() -> ResourceId {
        id("galleries/g/applications/app1")
    }

    /// The recording test_gallery_application.
    #[test]
    fn az_creates_and_updates() {
        let api = version("2021-07-01");
        let ctx = context(&api);
        let body =
            put(&app(), &json!({"location": "eastus", "properties": {"supportedOSType": "windows"}}), None, &ctx)
                .unwrap();
        assert_eq!(body, json!({"location": "eastus", "properties": {"supportedOSType": "Windows"}}));
        let change = json!({"tags": {"tag": "test"}, "properties": {"description": "test"}});
        let changed = patch(&app(), &change, &body, &ctx).unwrap();
        assert_eq!(
            changed.to_string(),
            json!({"location": "eastus", "tags": {"tag": "test"},
                   "properties": {"supportedOSType": "Windows", "description": "test"}})
            .to_string()
        );
        let error = patch(&app(), &json!({"properties": {"supportedOSType": "Linux"}}), &body, &ctx).unwrap_err();
        assert_eq!(error.code, "PropertyChangeNotAllowed");
    }

    #[test]
    fn what_is_no_application_is_refused() {
        let api = version("2024-03-03");
        let ctx = context(&api);
        let refused = |properties: Value| {
            put(&app(), &json!({"location": "eastus", "properties": properties}), None, &ctx)
                .unwrap_err()
                .target
                .unwrap()
        };
        assert_eq!(refused(json!({})), "galleryApplication.properties.supportedOSType");
        let linux = |more: Value| merge_patch(&json!({"supportedOSType": "Linux"}), &more);
        assert_eq!(
            refused(linux(json!({"endOfLifeDate": "2020-01-01"}))),
            "galleryApplication.properties.endOfLifeDate"
        );
        let twice = json!([{"name": "a", "script": "x"}, {"name": "A", "script": "y"}]);
        assert_eq!(refused(linux(json!({"customActions": twice}))), "galleryApplication.properties.customActions.name");
        assert_eq!(
            refused(linux(json!({"customActions": [{"name": "a"}]}))),
            "galleryApplication.properties.customActions.script"
        );
        for name in ["-a", "a.", "a b", ""] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
