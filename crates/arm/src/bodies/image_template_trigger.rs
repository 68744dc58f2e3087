//! `Microsoft.VirtualMachineImages/imageTemplates/triggers`: what starts a build by itself.
//!
//! ```text
//! {"properties": {"kind": "SourceImage"}}                          a new version of the source (Swagger 2022-07-01)
//! {"properties": {"kind": "Schedule", "cron": "0 3 * * 1"}}        a time, in UTC (Lazuli's own)
//! ```

use super::Fields;
use super::image_template::{ImageTemplate, Source, Target, check_child_name};
use crate::{ArmError, ResourceId};
use serde_json::{Value, json};

pub mod cron;

const ROOT: &str = "Trigger";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    SourceImage,
    /// Five fields, as crontab has them.
    Schedule(String),
}

/// A body as it is to be stored. A trigger's kind does not change (Swagger: mutability create, read).
///
/// # Errors
/// 400 `ValidationFailed`; 409 `PropertyChangeNotAllowed`.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>) -> Result<Value, ArmError> {
    check_child_name(id.name())?;
    let given = Fields::root(ROOT, new)?.object("properties")?;
    let failed = |what: String| ArmError::bad_request("ValidationFailed", format!("Validation failed: {what}"));
    let kind = given.str("kind")?.unwrap_or_default();
    let properties = match kind.as_str() {
        "SourceImage" => json!({"kind": "SourceImage"}),
        "Schedule" => {
            let cron = given.str("cron")?.unwrap_or_default();
            cron.parse::<cron::Schedule>().map_err(|why| {
                failed(format!("'Trigger.properties': Field 'cron' has a bad value: '{cron}'. {why}"))
            })?;
            json!({"kind": "Schedule", "cron": cron})
        }
        other => {
            return Err(failed(format!(
                "'Trigger.properties': Field 'kind' has a bad value: '{other}'. It is SourceImage, or Schedule with a field 'cron'."
            )));
        }
    };
    if old.is_some_and(|o| o["properties"]["kind"] != properties["kind"]) {
        return Err(ArmError::property_change_not_allowed("trigger.properties.kind"));
    }
    Ok(json!({"properties": properties}))
}

/// The trigger of a stored body.
pub fn parse(body: &Value) -> Trigger {
    match body["properties"]["cron"].as_str() {
        Some(cron) => Trigger::Schedule(cron.to_owned()),
        None => Trigger::SourceImage,
    }
}

/// Whether a template can be built whenever its source has a new version: the source is the latest of something, what is
/// distributed has no number of its own, and is not what the source is taken from (documented for triggers).
///
/// # Errors
/// 400 `ValidationFailed`.
pub fn check_template(template: &ImageTemplate) -> Result<(), ArmError> {
    let failed = |what: &str| Err(ArmError::bad_request("ValidationFailed", format!("Validation failed: {what}")));
    if !template.source.is_latest() {
        return failed(
            "A trigger of kind SourceImage needs a template whose source is a platform image or an image version of a gallery, with \
             the version 'latest'.",
        );
    }
    for distributor in &template.distribute {
        let Target::Gallery { definition, version, .. } = &distributor.target else { continue };
        if version.is_some() {
            return failed(
                "A trigger of kind SourceImage needs a template that distributes to image definitions, not to given versions: every \
                 run publishes a new one.",
            );
        }
        if let Source::SharedImageVersion { id } = &template.source
            && id.to_ascii_lowercase().starts_with(&format!("{}/versions/", definition.to_ascii_lowercase()))
        {
            return failed(
                "A trigger of kind SourceImage needs a template that distributes to another image definition than that of its source: \
                 it would start itself.",
            );
        }
    }
    Ok(())
}
