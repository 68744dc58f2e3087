//! `Microsoft.Compute/galleries`.

use super::{Context, Fields, Head, merge_patch, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const MAX_NAME: usize = 80;

/// Letters, digits, and `_` or `.` in the middle, at most 80 characters; no dashes (wire.md §3).
pub fn check_name(name: &str) -> Result<(), ArmError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let ok =
        name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().last()) && name.len() <= MAX_NAME;
    if ok {
        return Ok(());
    }
    Err(ArmError::invalid_parameter(
        "galleryName",
        "Gallery name is invalid. Allowed characters are English alphanumeric characters, with underscores, and periods \
         allowed in the middle, up to 80 characters total. All other special characters, including dashes, are \
         disallowed.",
    ))
}

/// `properties.identifier.uniqueName`: subscription, dash, the name in upper case (recorded).
pub fn unique_name(id: &ResourceId) -> String {
    format!("{}-{}", id.subscription, id.name().to_uppercase())
}

/// The error when another group of the subscription has a gallery of that name.
pub fn name_taken(id: &ResourceId) -> ArmError {
    ArmError::conflict(
        "Conflict",
        format!(
            "The gallery name {} is not unique within the subscription {}. Please pick another gallery name.",
            id.name(),
            id.subscription
        ),
    )
}

/// Updatable: `description`, `tags`, `sharingProfile.permissions` between `Private` and `Groups`. The `identifier` that
/// clients send back is ignored (az sends `{}`).
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root("gallery", new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;

    let mut properties = Map::new();
    if let Some(description) = given.str("description")? {
        properties.insert("description".into(), description.into());
    }
    properties.insert("identifier".into(), json!({"uniqueName": unique_name(id)}));
    if let Some(sharing) = sharing(&given, old)? {
        properties.insert("sharingProfile".into(), sharing);
    }
    let soft_delete = given.object("softDeletePolicy")?;
    match soft_delete.bool("isSoftDeleteEnabled")? {
        Some(true) => {
            return Err(not_offered(
                &soft_delete.path("isSoftDeleteEnabled"),
                "this server has no soft delete yet; deleted image versions are gone at once",
            ));
        }
        Some(false) => {
            properties.insert("softDeletePolicy".into(), json!({"isSoftDeleteEnabled": false}));
        }
        None => {}
    }
    Ok(head.body(vec![], properties))
}

fn sharing(given: &Fields<'_>, old: Option<&Value>) -> Result<Option<Value>, ArmError> {
    let profile = given.object("sharingProfile")?;
    match profile.one_of("permissions", &["Private", "Groups", "Community"])? {
        Some("Community") => {
            Err(not_offered(&profile.path("permissions"), "this server has no community galleries yet"))
        }
        Some(permissions) => Ok(Some(json!({"permissions": permissions}))),
        None => Ok(old.and_then(|o| o["properties"].get("sharingProfile")).cloned()),
    }
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, id, version};
    use super::*;

    #[test]
    fn az_sig_create_and_update() {
        let api = version("2026-03-03");
        let ctx = context(&api);
        let id = id("galleries/gal1");
        let body = put(&id, &json!({"location": "eastus"}), None, &ctx).unwrap();
        assert_eq!(body, json!({"location": "eastus", "properties": {"identifier": {"uniqueName": "0000-GAL1"}}}));
        let update = json!({"location": "eastus", "properties": {"identifier": {}, "description": "d",
                            "sharingProfile": {"permissions": "groups"}}});
        let updated = put(&id, &update, Some(&body), &ctx).unwrap();
        assert_eq!(updated["properties"]["sharingProfile"]["permissions"], "Groups");
        assert_eq!(updated["properties"]["identifier"]["uniqueName"], "0000-GAL1");
        let patched =
            patch(&id, &json!({"tags": {"k": "v"}, "properties": {"description": null}}), &updated, &ctx).unwrap();
        assert_eq!(patched["tags"], json!({"k": "v"}));
        assert!(patched["properties"].get("description").is_none());
        assert_eq!(patched["properties"]["sharingProfile"]["permissions"], "Groups");
    }

    #[test]
    fn names() {
        let long = "g".repeat(81);
        for bad in ["my-gallery", "_g", "g.", "", "gä", "a b", long.as_str()] {
            assert!(check_name(bad).unwrap_err().message.starts_with("Gallery name is invalid."), "{bad}");
        }
        for good in ["g", "my_gallery.1", &"g".repeat(80)] {
            check_name(good).unwrap();
        }
    }

    #[test]
    fn refuses_moves_and_what_is_not_there() {
        let api = version("2026-03-03");
        let ctx = context(&api);
        let id = id("galleries/gal1");
        let old = put(&id, &json!({"location": "eastus"}), None, &ctx).unwrap();
        for (body, old, status, code) in [
            (json!({"location": "westus"}), Some(&old), 409, "InvalidResourceLocation"),
            (json!({}), None, 400, "LocationRequired"),
            (json!({"location": "mars"}), None, 400, "LocationNotAvailableForResourceType"),
            (json!({"location": "eastus", "properties": []}), None, 400, "InvalidParameter"),
            (
                json!({"location": "eastus", "properties": {"softDeletePolicy": {"isSoftDeleteEnabled": true}}}),
                None,
                400,
                "OperationNotSupported",
            ),
        ] {
            let error = put(&id, &body, old, &ctx).unwrap_err();
            assert_eq!((error.status, error.code.as_str()), (status, code), "{body}");
        }
    }
}
