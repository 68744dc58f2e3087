//! `securityProfile`: the UEFI keys that an image brings along. Fixed at creation, shown with `$expand=UefiSettings`.

use super::super::{Fields, not_offered, unchanged};
use crate::ArmError;
use serde_json::{Map, Value, json};

const TEMPLATES: [&str; 3] =
    ["NoSignatureTemplate", "MicrosoftUefiCertificateAuthorityTemplate", "MicrosoftWindowsTemplate"];
const KEY_TYPES: [&str; 2] = ["sha256", "x509"];

/// The profile to store; `None` where there is none.
pub(super) fn security_profile(properties: &Fields<'_>, old: Option<&Value>) -> Result<Option<Value>, ArmError> {
    let given = properties.object("securityProfile")?;
    let stored = old.and_then(|o| o.get("securityProfile"));
    let secrets = given.object("secretsProvisioningSettings")?;
    if !secrets.is_empty() {
        let path = given.path("secretsProvisioningSettings");
        return Err(not_offered(&path, "this server does not provision secrets"));
    }
    let settings = given.object("uefiSettings")?;
    if settings.is_empty() {
        return Ok(stored.cloned());
    }
    let profile = json!({"uefiSettings": uefi_settings(&settings)?});
    if old.is_some() {
        unchanged(&properties.path("securityProfile"), Some(&profile), stored)?;
    }
    Ok(Some(profile))
}

fn uefi_settings(given: &Fields<'_>) -> Result<Value, ArmError> {
    let mut settings = Map::new();
    if let Some(names) = given.strings("signatureTemplateNames")? {
        let path = given.path("signatureTemplateNames");
        let canonical = |name: &String| {
            let found = TEMPLATES.into_iter().find(|t| t.eq_ignore_ascii_case(name));
            found.map(Value::from).ok_or_else(|| {
                let all = TEMPLATES.join(", ");
                let message = format!("The value '{name}' of parameter {path} is invalid. It must be one of: {all}.");
                ArmError::invalid_parameter(&path, message)
            })
        };
        let names: Vec<Value> = names.iter().map(canonical).collect::<Result<_, _>>()?;
        settings.insert("signatureTemplateNames".into(), names.into());
    }
    let additional = given.object("additionalSignatures")?;
    let mut signatures = Map::new();
    let pk = additional.object("pk")?;
    if !pk.is_empty() {
        signatures.insert("pk".into(), key(&pk)?);
    }
    for name in ["kek", "db", "dbx"] {
        if let Some(keys) = additional.objects(name)? {
            signatures.insert(name.into(), keys.iter().map(key).collect::<Result<Vec<_>, _>>()?.into());
        }
    }
    if !signatures.is_empty() {
        settings.insert("additionalSignatures".into(), Value::Object(signatures));
    }
    Ok(Value::Object(settings))
}

fn key(given: &Fields<'_>) -> Result<Value, ArmError> {
    let kind = given.one_of("type", &KEY_TYPES)?.ok_or_else(|| given.missing("type"))?;
    let values = given.strings("value")?.filter(|v| !v.is_empty()).ok_or_else(|| given.missing("value"))?;
    Ok(json!({"type": kind, "value": values}))
}
