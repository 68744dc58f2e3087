//! `Microsoft.Compute/galleries/applications/versions`: a package with the commands that install, update and remove it.

use super::application::custom_actions;
use super::image_version::{VersionName, check_no_region_lost, publishing_profile};
use super::{Context, Fields, Head, merge_patch, unchanged};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const ROOT: &str = "galleryApplicationVersion";
/// Limit of commands and names (Swagger: UserArtifactManage, UserArtifactSettings).
const MAX_TEXT: usize = 4096;

/// A new body, or an update, which may leave out what it does not change (recorded: a PUT with only the source answers 200).
/// Regions, counts, dates, actions and tags may change; the package may not.
///
/// Errors: `InvalidParameter`; 409 `PropertyChangeNotAllowed`; `BadRequest` where a region is left out and the safety profile does
/// not allow it.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    id.name().parse::<VersionName>().map_err(|_| {
        ArmError::invalid_parameter(
            "galleryApplicationVersionName",
            "The gallery application version name is invalid. It should follow Major(int).Minor(int).Patch(int) format, for e.g: \
             1.0.0, 2018.12.1 etc.",
        )
    })?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    let stored = old.map(|o| &o["properties"]);
    let own = given.object("publishingProfile")?;
    let before = stored.map(|s| &s["publishingProfile"]);
    let mut profile = Map::new();
    profile.insert("source".into(), source(&own, before)?);
    if let Some(actions) = manage_actions(&own, before)? {
        profile.insert("manageActions".into(), actions);
    }
    for (name, value) in [("settings", settings(&own)?), ("advancedSettings", advanced(&own)?)] {
        if let Some(value) = value.or_else(|| before.and_then(|b| b.get(name)).cloned()) {
            profile.insert(name.into(), value);
        }
    }
    let health = own.bool("enableHealthCheck")?.or(before.and_then(|b| b["enableHealthCheck"].as_bool()));
    profile.insert("enableHealthCheck".into(), health.unwrap_or(false).into());
    let shared = publishing_profile(&given, stored, &head.region, ctx)?;
    profile.extend(shared.as_object().cloned().unwrap_or_default());
    if let Some(actions) = custom_actions(&own)?.or_else(|| before.and_then(|b| b.get("customActions")).cloned()) {
        profile.insert("customActions".into(), actions);
    }
    let mut properties = Map::from_iter([("publishingProfile".to_owned(), Value::Object(profile))]);
    let safety = given.object("safetyProfile")?.bool("allowDeletionOfReplicatedLocations")?;
    match safety {
        Some(allow) => {
            properties.insert("safetyProfile".into(), json!({"allowDeletionOfReplicatedLocations": allow}));
        }
        None => {
            let kept = stored.and_then(|s| s.get("safetyProfile")).cloned();
            properties.extend(kept.map(|k| ("safetyProfile".to_owned(), k)));
        }
    }
    let body = head.body(vec![], properties);
    check_no_region_lost(id, "GalleryApplicationVersion", &body["properties"], stored, ctx)?;
    Ok(body)
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

/// URLs of the package and of its default configuration in a stored body.
pub fn links(body: &Value) -> (&str, Option<&str>) {
    let source = &body["properties"]["publishingProfile"]["source"];
    (source["mediaLink"].as_str().unwrap_or_default(), source["defaultConfigurationLink"].as_str())
}

fn source(profile: &Fields<'_>, before: Option<&Value>) -> Result<Value, ArmError> {
    let given = profile.object("source")?;
    let names = ["mediaLink", "defaultConfigurationLink"];
    if let Some(before) = before.map(|b| &b["source"]) {
        for name in names {
            unchanged(&given.path(name), given.str(name)?.map(Value::from).as_ref(), before.get(name))?;
        }
        return Ok(before.clone());
    }
    let mut source = json!({"mediaLink": given.required_str("mediaLink")?});
    if let Some(link) = given.str("defaultConfigurationLink")? {
        source["defaultConfigurationLink"] = link.into();
    }
    for name in names {
        let http = |l: &str| l.starts_with("https://") || l.starts_with("http://");
        if source[name].as_str().is_some_and(|link| !http(link)) {
            let path = given.path(name);
            let message = format!("The value of parameter {path} is invalid: the URL of a blob is expected.");
            return Err(ArmError::invalid_parameter(&path, message));
        }
    }
    Ok(source)
}

/// Install and remove must be there as soon as one of them is.
fn manage_actions(profile: &Fields<'_>, before: Option<&Value>) -> Result<Option<Value>, ArmError> {
    let given = profile.object("manageActions")?;
    if given.is_empty() {
        return Ok(before.and_then(|b| b.get("manageActions")).cloned());
    }
    let mut actions = json!({
        "install": short(&given, "install")?.ok_or_else(|| given.missing("install"))?,
        "remove": short(&given, "remove")?.ok_or_else(|| given.missing("remove"))?,
    });
    if let Some(update) = short(&given, "update")? {
        actions["update"] = update.into();
    }
    Ok(Some(actions))
}

fn settings(profile: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let given = profile.object("settings")?;
    if given.is_empty() {
        return Ok(None);
    }
    let mut settings = Map::new();
    for name in ["packageFileName", "configFileName"] {
        if let Some(text) = short(&given, name)? {
            if text.contains(['/', '\\']) || matches!(text.as_str(), "." | "..") {
                let path = given.path(name);
                let message = format!("The value '{text}' of parameter {path} is invalid: a file name is expected.");
                return Err(ArmError::invalid_parameter(&path, message));
            }
            settings.insert(name.into(), text.into());
        }
    }
    if let Some(behaviour) = given.one_of("scriptBehaviorAfterReboot", &["None", "Rerun"])? {
        settings.insert("scriptBehaviorAfterReboot".into(), behaviour.into());
    }
    Ok(Some(settings.into()))
}

/// Names and texts for the extension that runs applications.
fn advanced(profile: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let path = profile.path("advancedSettings");
    let wrong =
        || ArmError::invalid_parameter(&path, format!("The value of parameter {path} is invalid: texts are expected."));
    let Some(given) = profile.get("advancedSettings") else { return Ok(None) };
    let members = given.as_object().ok_or_else(wrong)?;
    if members.values().all(Value::is_string) { Ok(Some(given.clone())) } else { Err(wrong()) }
}

fn short(given: &Fields<'_>, name: &str) -> Result<Option<String>, ArmError> {
    let text = given.str(name)?.filter(|t| !t.is_empty());
    match text {
        Some(text) if text.chars().count() > MAX_TEXT => Err(ArmError::invalid_parameter(
            &given.path(name),
            format!("The value of parameter {} has more than {MAX_TEXT} characters.", given.path(name)),
        )),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, id, version};
    use super::*;

    const LINK: &str = "https://account1.blob.core.windows.net/c/blob1";

    fn own() -> ResourceId {
        id("galleries/g/applications/app1/versions/1.0.0")
    }

    fn given() -> Value {
        json!({"location": "eastus2", "properties": {"publishingProfile": {"source": {"mediaLink": LINK},
            "manageActions": {"install": "install", "remove": "remove"},
            "settings": {"packageFileName": "package1", "configFileName": "config1"}}}})
    }

    /// The recording test_gallery_application_version.
    #[test]
    fn az_creates_and_updates() {
        let api = version("2022-01-03");
        let ctx = context(&api);
        let mut body = put(&own(), &given(), None, &ctx).unwrap();
        let profile = &mut body["properties"]["publishingProfile"];
        assert!(profile["publishedDate"].is_string());
        let members: Vec<&String> = profile.as_object().unwrap().keys().collect();
        assert_eq!(
            members,
            [
                "source",
                "manageActions",
                "settings",
                "enableHealthCheck",
                "targetRegions",
                "replicaCount",
                "excludeFromLatest",
                "publishedDate",
                "storageAccountType"
            ]
        );
        assert_eq!(
            profile["targetRegions"],
            json!([{"name": "East US 2", "regionalReplicaCount": 1, "storageAccountType": "Standard_LRS"}])
        );
        assert!(body["properties"].get("safetyProfile").is_none());
        let only_source = json!({"location": "eastus2", "tags": {"tag": "test"},
            "properties": {"publishingProfile": {"source": {"mediaLink": LINK}}}});
        let updated = put(&own(), &only_source, Some(&body), &ctx).unwrap();
        assert_eq!(updated["properties"], body["properties"]);
        assert_eq!(updated["tags"], json!({"tag": "test"}));
        let error = patch(
            &own(),
            &json!({"properties": {"publishingProfile": {"source": {"mediaLink": "https://x/y"}}}}),
            &body,
            &ctx,
        );
        assert_eq!(error.unwrap_err().code, "PropertyChangeNotAllowed");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        let api = version("2024-03-03");
        let ctx = context(&api);
        let refused = |change: Value| {
            let body = merge_patch(&given(), &json!({"properties": {"publishingProfile": change}}));
            let error = put(&own(), &body, None, &ctx).unwrap_err();
            assert_eq!(error.status, 400, "{error}");
            error.target.unwrap().replace("galleryApplicationVersion.properties.publishingProfile.", "")
        };
        assert_eq!(refused(json!({"source": {"mediaLink": null}})), "source.mediaLink");
        assert_eq!(refused(json!({"source": {"mediaLink": "file:///etc/passwd"}})), "source.mediaLink");
        assert_eq!(refused(json!({"manageActions": {"remove": null}})), "manageActions.remove");
        assert_eq!(refused(json!({"manageActions": {"update": "x".repeat(4097)}})), "manageActions.update");
        assert_eq!(refused(json!({"settings": {"packageFileName": "../x"}})), "settings.packageFileName");
        assert_eq!(
            refused(json!({"settings": {"scriptBehaviorAfterReboot": "Often"}})),
            "settings.scriptBehaviorAfterReboot"
        );
        assert_eq!(refused(json!({"advancedSettings": {"a": 1}})), "advancedSettings");
        assert!(put(&id("galleries/g/applications/a/versions/1.0"), &given(), None, &ctx).is_err());
    }
}
