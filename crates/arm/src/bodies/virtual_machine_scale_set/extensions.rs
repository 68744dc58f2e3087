//! `extensionProfile`: the extensions that each machine of a model gets, in this order.

use super::super::{Fields, virtual_machine_extension};
use crate::ArmError;
use serde_json::{Value, json};

/// The model's extensions; of a stored body without their protected settings.
pub fn extensions(body: &Value) -> &[Value] {
    let profile = &body["properties"]["virtualMachineProfile"]["extensionProfile"];
    profile["extensions"].as_array().map_or(&[], Vec::as_slice)
}

/// The same, to be changed.
pub fn extensions_mut(body: &mut Value) -> impl Iterator<Item = &mut Value> {
    let extensions =
        body.pointer_mut("/properties/virtualMachineProfile/extensionProfile/extensions").and_then(Value::as_array_mut);
    extensions.into_iter().flatten()
}

/// PUT of one of them on a machine.
pub fn extension_body(set: &Value, extension: &Value) -> Value {
    json!({"location": set["location"], "properties": extension["properties"]})
}

/// Whether what a machine has is what the model says; the protected settings are the model's own and the machine's.
pub fn is_applied(model: &Value, properties: &Value, protected: &Value) -> bool {
    let model = &model["properties"];
    ["publisher", "type", "typeHandlerVersion", "settings", "forceUpdateTag"]
        .into_iter()
        .all(|name| model[name] == properties[name])
        && model["protectedSettings"] == *protected
}

/// The profile in its settled form; protected settings that are not given stay those of the extension of that name.
pub(super) fn settled(profile: &Fields<'_>, before: &Value) -> Result<Option<Value>, ArmError> {
    let profile = profile.object("extensionProfile")?;
    let Some(given) = profile.objects("extensions")? else { return Ok(None) };
    let stored = before["extensionProfile"]["extensions"].as_array().map_or(&[][..], Vec::as_slice);
    let mut settled: Vec<Value> = Vec::new();
    for extension in given {
        let name = extension.required_str("name")?;
        let fields = extension.object("properties")?;
        let mut properties = virtual_machine_extension::properties(&fields)?;
        if let Some(after) = fields.strings("provisionAfterExtensions")?.filter(|names| !names.is_empty()) {
            if let Some(unknown) = after.iter().find(|n| !settled.iter().any(|e| is_named(e, n))) {
                let path = fields.path("provisionAfterExtensions");
                let message = format!(
                    "The value '{unknown}' of parameter {path} is invalid: no extension before it has that name."
                );
                return Err(ArmError::invalid_parameter(&path, message));
            }
            properties.insert("provisionAfterExtensions".into(), after.into());
        }
        if !properties.contains_key("protectedSettings")
            && let Some(kept) = stored.iter().find(|e| is_named(e, &name))
            && !kept["properties"]["protectedSettings"].is_null()
        {
            properties.insert("protectedSettings".into(), kept["properties"]["protectedSettings"].clone());
        }
        check_alone(&settled, &name, &properties["type"])?;
        settled.push(json!({"name": name, "properties": properties}));
    }
    let mut shown = json!({ "extensions": settled });
    if let Some(budget) = profile.str("extensionsTimeBudget")? {
        shown["extensionsTimeBudget"] = budget.into();
    }
    Ok(Some(shown))
}

fn is_named(extension: &Value, name: &str) -> bool {
    extension["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name))
}

/// One of a name, and one of a type.
fn check_alone(before: &[Value], name: &str, kind: &Value) -> Result<(), ArmError> {
    if before.iter().any(|e| is_named(e, name)) {
        let message = format!("The extension '{name}' is specified more than once.");
        return Err(ArmError::invalid_parameter("extensionProfile.extensions", message));
    }
    match before.iter().any(|e| e["properties"]["type"] == *kind) {
        true => Err(virtual_machine_extension::one_per_handler(name)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(name: &str, more: Value) -> Value {
        let mut properties = json!({"publisher": "Microsoft.Azure.Extensions", "type": "customscript",
            "typeHandlerVersion": "2.1", "settings": {"commandToExecute": "true"}});
        for (name, value) in more.as_object().unwrap() {
            properties[name] = value.clone();
        }
        json!({"name": name, "properties": properties})
    }

    fn made(extensions: Value, before: &Value) -> Result<Value, ArmError> {
        let profile = json!({"extensionProfile": {"extensions": extensions}});
        Ok(settled(&Fields::root("virtualMachineProfile", &profile)?, before)?.unwrap())
    }

    #[test]
    fn extensions_are_checked_as_those_of_machines() {
        let code = |extensions: Value| made(extensions, &Value::Null).unwrap_err().code;
        assert_eq!(code(json!([script("a", json!({"type": "Other"}))])), "ArtifactNotFound");
        assert_eq!(code(json!([script("a", json!({"settings": "x"}))])), "InvalidParameter");
        assert_eq!(code(json!([script("", json!({}))])), "InvalidParameter");
        assert_eq!(code(json!([script("a", json!({})), script("b", json!({}))])), "BadRequest");
        assert_eq!(code(json!([script("a", json!({})), script("A", json!({}))])), "InvalidParameter");
        assert_eq!(code(json!([script("a", json!({"provisionAfterExtensions": ["b"]}))])), "InvalidParameter");
    }

    #[test]
    fn protected_settings_stay_until_others_come() {
        let first = made(json!([script("a", json!({"protectedSettings": {"k": 1}}))]), &Value::Null).unwrap();
        let before = json!({ "extensionProfile": first });
        let secret = |made: Value| made["extensions"][0]["properties"]["protectedSettings"].clone();
        let kept = made(json!([script("A", json!({"settings": {"commandToExecute": "false"}}))]), &before).unwrap();
        assert_eq!(secret(kept), json!({"k": 1}));
        assert_eq!(secret(made(json!([script("b", json!({}))]), &before).unwrap()), Value::Null);
        let other = made(json!([script("a", json!({"protectedSettings": {"k": 2}}))]), &before).unwrap();
        assert_eq!(secret(other), json!({"k": 2}));
    }

    #[test]
    fn what_a_machine_has_is_compared() {
        let model = made(json!([script("a", json!({"protectedSettings": {"k": 1}}))]), &Value::Null).unwrap();
        let model = &model["extensions"][0];
        let has = model["properties"].clone();
        assert!(is_applied(model, &has, &json!({"k": 1})));
        assert!(!is_applied(model, &has, &Value::Null));
        let mut other = has;
        other["settings"] = json!({"commandToExecute": "false"});
        assert!(!is_applied(model, &other, &json!({"k": 1})));
    }
}
