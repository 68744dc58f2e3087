//! `Microsoft.Resources/resourceGroups`.

use super::{Context, Fields, check_tags, merge_patch};
use crate::{ArmError, ResourceId, locations};
use serde_json::{Map, Value, json};

const MAX_NAME: usize = 90;

/// Letters of any script, digits, `-._()`, at most 90 characters, no period at the end.
pub fn check_name(name: &str) -> Result<(), ArmError> {
    let bad: String = name.chars().filter(|c| !c.is_alphanumeric() && !"-._()".contains(*c)).collect();
    if !bad.is_empty() {
        return Err(ArmError::bad_request(
            "InvalidResourceGroup",
            format!(
                "The provided resource group name '{name}' has these invalid characters: '{bad}'. \
                 The name can only be a letter, digit, '-', '.', '(', ')' or '_'."
            ),
        ));
    }
    if name.is_empty() || name.ends_with('.') || name.chars().count() > MAX_NAME {
        return Err(ArmError::bad_request(
            "InvalidResourceGroup",
            format!(
                "The provided resource group name '{name}' is invalid: it must have 1 to {MAX_NAME} characters and \
                 must not end with a period."
            ),
        ));
    }
    Ok(())
}

/// Errors: `LocationRequired`, `LocationNotAvailableForResourceGroup`, 409 `InvalidResourceGroupLocation`, those of
/// [`check_name`] and [`check_tags`].
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root("resourceGroup", new)?;
    let old_location = old.and_then(|o| o["location"].as_str());
    let Some(text) = new.str("location")?.or_else(|| old_location.map(str::to_owned)) else {
        return Err(ArmError::bad_request(
            "LocationRequired",
            "The location property is required for this definition.",
        ));
    };
    let region = ctx.regions.find(&text).ok_or_else(|| {
        ArmError::bad_request(
            "LocationNotAvailableForResourceGroup",
            format!(
                "The provided location '{text}' is not available for resource group. \
                 List of available regions is '{}'.",
                locations::names()
            ),
        )
    })?;
    if let Some(old) = old_location
        && old != region.name
    {
        return Err(ArmError::conflict(
            "InvalidResourceGroupLocation",
            format!(
                "Invalid resource group location '{}'. The Resource group already exists in location '{old}'.",
                region.name
            ),
        ));
    }
    let mut body = Map::new();
    body.insert("location".into(), region.name.into());
    if let Some(managed_by) = new.str("managedBy")? {
        body.insert("managedBy".into(), managed_by.into());
    }
    if let Some(tags) = check_tags(new.get("tags"))? {
        body.insert("tags".into(), Value::Object(tags));
    }
    body.insert("properties".into(), json!({}));
    Ok(Value::Object(body))
}

pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, version};
    use super::*;

    #[test]
    fn creates_and_keeps_the_location() {
        let api = version("2024-11-01");
        let ctx = context(&api);
        let id = ResourceId::group("s", "rg-1_(x)");
        let body = put(&id, &json!({"location": "East US", "tags": {"a": "b"}}), None, &ctx).unwrap();
        assert_eq!(body, json!({"location": "eastus", "tags": {"a": "b"}, "properties": {}}));
        let error = put(&id, &json!({"location": "westus"}), Some(&body), &ctx).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (409, "InvalidResourceGroupLocation"));
        let patched = patch(&id, &json!({"tags": {"c": "d", "a": null}}), &body, &ctx).unwrap();
        assert_eq!(patched["tags"], json!({"c": "d"}));
    }

    #[test]
    fn refuses_bad_groups() {
        let api = version("2024-11-01");
        let ctx = context(&api);
        let long = "a".repeat(91);
        for (name, body, code) in [
            ("a b", json!({"location": "eastus"}), "InvalidResourceGroup"),
            ("a.", json!({"location": "eastus"}), "InvalidResourceGroup"),
            (long.as_str(), json!({"location": "eastus"}), "InvalidResourceGroup"),
            ("ok", json!({}), "LocationRequired"),
            ("ok", json!({"location": "atlantis"}), "LocationNotAvailableForResourceGroup"),
        ] {
            let error = put(&ResourceId::group("s", name), &body, None, &ctx).unwrap_err();
            assert_eq!(error.code, code, "{name}");
        }
    }
}
