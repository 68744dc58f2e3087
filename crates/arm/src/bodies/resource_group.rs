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

/// What a request to move resources out of `group` names: the resources, and the group that they are to be in.
///
/// # Errors
/// 400 `InvalidParameter`: none, no ids, resources of another group, the same group as the target.
pub fn move_request(group: &ResourceId, body: &Value) -> Result<(Vec<ResourceId>, ResourceId), ArmError> {
    let request = Fields::root("ResourcesMoveInfo", body)?;
    let bad = |name: &str, why: String| Err(ArmError::invalid_parameter(&format!("ResourcesMoveInfo.{name}"), why));
    let ids = request.strings("resources")?.unwrap_or_default();
    if ids.is_empty() {
        return bad("resources", "The ids of the resources to move are expected in 'resources'.".into());
    }
    let mut resources = Vec::with_capacity(ids.len());
    for id in ids {
        match id.parse::<ResourceId>() {
            Ok(parsed) if !parsed.segments.is_empty() && is_below(&parsed, group) => resources.push(parsed),
            _ => {
                return bad(
                    "resources",
                    format!("'{id}' is not the id of a resource in the group '{}'.", group.name()),
                );
            }
        }
    }
    let given = request.str("targetResourceGroup")?.unwrap_or_default();
    match given.parse::<ResourceId>() {
        Ok(target) if target.is_group() && target.key() != group.key() => Ok((resources, target)),
        _ => bad("targetResourceGroup", format!("'{given}' is not the id of another resource group.")),
    }
}

fn is_below(id: &ResourceId, group: &ResourceId) -> bool {
    id.resource_group.as_deref().is_some_and(|name| ResourceId::group(&id.subscription, name).key() == group.key())
}

/// The answer to every move, in Azure's words for resources that it does not move itself (image templates, galleries, identities).
/// `resources`: each with its type as Azure spells it.
pub fn move_refused(resources: &[(ResourceId, &str)], correlation_id: &str) -> ArmError {
    let mut error = ArmError::conflict(
        "ResourceMoveValidationFailed",
        format!(
            "The resource batch move request has '{}' validation errors. This server moves no resources between groups: create them \
             again in the other group from their configuration (an image template under a new name), then delete the old ones. \
             Diagnostic information: request correlation Id '{correlation_id}'.",
            resources.len()
        ),
    );
    let refused = |(id, kind): &(ResourceId, &str)| {
        let message = format!("Resource move is not supported for resource types '{kind}'.");
        ArmError::conflict("ResourceMoveNotSupported", message).target(id.to_string())
    };
    error.details = resources.iter().map(refused).collect();
    error
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

    #[test]
    fn a_move_names_resources_of_the_group_and_another_group() {
        let group = ResourceId::group("s", "rg");
        let disk = group.resource("Microsoft.Compute", "disks", "d").to_string();
        let other = ResourceId::group("s", "other").to_string();
        let request = |resources: Value, target: &str| {
            move_request(&group, &json!({"resources": resources, "targetResourceGroup": target}))
        };
        let (resources, target) = request(json!([disk.to_uppercase()]), &other).unwrap();
        assert_eq!((resources[0].key(), target.name()), (disk.to_ascii_lowercase(), "other"));
        let elsewhere = disk.replace("/rg/", "/rg2/");
        for (resources, target, at) in [
            (json!([]), other.as_str(), "resources"),
            (Value::Null, &other, "resources"),
            (json!(["d"]), &other, "resources"),
            (json!([group.to_string()]), &other, "resources"),
            (json!([elsewhere]), &other, "resources"),
            (json!([disk]), &group.to_string(), "targetResourceGroup"),
            (json!([disk]), "other", "targetResourceGroup"),
            (json!([disk]), "", "targetResourceGroup"),
        ] {
            let error = request(resources.clone(), target).unwrap_err();
            assert_eq!(
                (error.status, error.target),
                (400, Some(format!("ResourcesMoveInfo.{at}"))),
                "{resources} {target}"
            );
        }
    }

    #[test]
    fn a_refused_move_names_each_resource() {
        let group = ResourceId::group("s", "rg");
        let kind = "Microsoft.VirtualMachineImages/imageTemplates";
        let template = group.resource("Microsoft.VirtualMachineImages", "imageTemplates", "t");
        let error = move_refused(&[(template.clone(), kind)], "c");
        assert_eq!((error.status, error.code.as_str()), (409, "ResourceMoveValidationFailed"));
        let details = json!([{"code": "ResourceMoveNotSupported", "target": template.to_string(),
            "message": "Resource move is not supported for resource types 'Microsoft.VirtualMachineImages/imageTemplates'."}]);
        assert_eq!(error.to_value()["details"], details);
    }
}
