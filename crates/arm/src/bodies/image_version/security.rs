//! `securityProfile`: the UEFI keys that an image brings along. Fixed at creation, shown with `$expand=UefiSettings`.

use super::super::{Fields, not_offered, unchanged};
use crate::ArmError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

const TEMPLATES: [&str; 3] =
    ["NoSignatureTemplate", "MicrosoftUefiCertificateAuthorityTemplate", "MicrosoftWindowsTemplate"];
const KEY_TYPES: [&str; 2] = ["sha256", "x509"];
/// Bytes of one of the four databases, as firmware takes them in one variable.
const DATABASE_BYTES: usize = 32 << 10;
/// What each key takes in it besides its own bytes.
const KEY_OVERHEAD: usize = 44;

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
        let (shown, _) = key(&pk)?;
        if shown["type"] != "x509" || shown["value"].as_array().is_none_or(|values| values.len() != 1) {
            let path = additional.path("pk");
            let message =
                format!("The value of parameter {path} is invalid: a platform key is one certificate (x509).");
            return Err(ArmError::invalid_parameter(&path, message));
        }
        signatures.insert("pk".into(), shown);
    }
    for name in ["kek", "db", "dbx"] {
        let Some(keys) = additional.objects(name)? else { continue };
        let keys: Vec<(Value, usize)> = keys.iter().map(key).collect::<Result<_, _>>()?;
        let bytes: usize = keys.iter().map(|(_, bytes)| bytes).sum();
        if bytes > DATABASE_BYTES {
            let path = additional.path(name);
            let message = format!(
                "The value of parameter {path} is invalid: its keys take {bytes} bytes, and firmware takes {DATABASE_BYTES}."
            );
            return Err(ArmError::invalid_parameter(&path, message));
        }
        signatures.insert(name.into(), keys.into_iter().map(|(shown, _)| shown).collect::<Vec<_>>().into());
    }
    if !signatures.is_empty() {
        settings.insert("additionalSignatures".into(), Value::Object(signatures));
    }
    Ok(Value::Object(settings))
}

/// A key, and the bytes that it takes in its database.
fn key(given: &Fields<'_>) -> Result<(Value, usize), ArmError> {
    let kind = given.one_of("type", &KEY_TYPES)?.ok_or_else(|| given.missing("type"))?;
    let values = given.strings("value")?.filter(|v| !v.is_empty()).ok_or_else(|| given.missing("value"))?;
    let mut bytes = 0;
    for value in &values {
        let decoded = STANDARD.decode(value).ok();
        let (fits, wanted): (fn(&[u8]) -> bool, _) = match kind {
            "x509" => (is_der, "a certificate as Base64 of its DER form"),
            _ => (|hash| hash.len() == 32, "a SHA-256 hash as Base64 of its 32 bytes"),
        };
        let Some(decoded) = decoded.filter(|bytes| fits(bytes)) else {
            let path = given.path("value");
            let message = format!("The value of parameter {path} is invalid: {wanted} is expected.");
            return Err(ArmError::invalid_parameter(&path, message));
        };
        bytes += decoded.len() + KEY_OVERHEAD;
    }
    Ok((json!({"type": kind, "value": values}), bytes))
}

/// One DER sequence from the first byte to the last: not PEM, nothing cut, nothing behind it. Firmware reads the rest.
fn is_der(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, length, rest @ ..] if *length < 0x80 => rest.len() == usize::from(*length),
        [0x30, 0x81, length, rest @ ..] => rest.len() == usize::from(*length),
        [0x30, 0x82, high, low, rest @ ..] => rest.len() == usize::from(u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}
