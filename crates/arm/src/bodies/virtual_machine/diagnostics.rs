//! `diagnosticsProfile` of a machine: where its serial log and the pictures of its screen are kept.

use super::super::Fields;
use crate::ArmError;
use serde_json::{Value, json};

/// Where a machine's boot diagnostics go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootDiagnostics {
    Off,
    /// The server keeps them; they are asked for with `retrieveBootDiagnosticsData`.
    Managed,
    /// The blob service of a storage account, by its URL.
    Account(String),
}

/// The profile to store; `None` where the request has none.
pub(super) fn diagnostics_profile(properties: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let given = properties.object("diagnosticsProfile")?.object("bootDiagnostics")?;
    if given.is_empty() {
        return Ok(None);
    }
    let mut boot = json!({"enabled": given.bool("enabled")?.unwrap_or(false)});
    if let Some(uri) = given.str("storageUri")?.filter(|uri| !uri.is_empty()) {
        boot["storageUri"] = uri.into();
    }
    Ok(Some(json!({"bootDiagnostics": boot})))
}

/// What a stored body says.
pub fn boot_diagnostics(body: &Value) -> BootDiagnostics {
    let boot = &body["properties"]["diagnosticsProfile"]["bootDiagnostics"];
    match boot["storageUri"].as_str() {
        _ if boot["enabled"] != true => BootDiagnostics::Off,
        Some(uri) => BootDiagnostics::Account(uri.to_owned()),
        None => BootDiagnostics::Managed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_off_and_where() {
        let of = |boot: Value| {
            let properties = json!({"diagnosticsProfile": {"bootDiagnostics": boot}});
            let profile =
                diagnostics_profile(&Fields::root("virtualMachine.properties", &properties).unwrap()).unwrap();
            boot_diagnostics(&json!({"properties": {"diagnosticsProfile": profile}}))
        };
        assert_eq!(of(Value::Null), BootDiagnostics::Off);
        assert_eq!(of(json!({"enabled": "True"})), BootDiagnostics::Managed);
        assert_eq!(of(json!({"enabled": true, "storageUri": null})), BootDiagnostics::Managed);
        assert_eq!(of(json!({"enabled": false, "storageUri": "https://a.b/"})), BootDiagnostics::Off);
        assert_eq!(
            of(json!({"enabled": true, "storageUri": "https://a.b/"})),
            BootDiagnostics::Account("https://a.b/".into())
        );
    }
}
