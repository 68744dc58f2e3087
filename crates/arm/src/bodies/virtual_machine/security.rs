//! `securityProfile` of a machine: Trusted Launch with secure boot and a TPM, or nothing of it.
//!
//! What is stored is what the host process does; anything else is refused.

use super::super::{Fields, not_offered};
use crate::ArmError;
use serde_json::{Value, json};

/// The profile to store; `None` where the request has none. `size` is the machine's.
///
/// # Errors
/// `BadRequest` and `InvalidParameter` in Azure's words (azure-cli issues 28005, 30210, 30728); `OperationNotSupported`.
pub(super) fn security_profile(properties: &Fields<'_>, size: &str) -> Result<Option<Value>, ArmError> {
    let given = properties.object("securityProfile")?;
    if given.is_empty() {
        return Ok(None);
    }
    if given.bool("encryptionAtHost")? == Some(true) {
        return Err(ArmError::invalid_parameter(
            "securityProfile.encryptionAtHost",
            "The property 'securityProfile.encryptionAtHost' is not valid because the 'Microsoft.Compute/EncryptionAtHost' \
             feature is not enabled for this subscription.",
        ));
    }
    if !given.object("encryptionIdentity")?.is_empty() {
        return Err(not_offered(&given.path("encryptionIdentity"), "there is no key vault to get keys from"));
    }
    if given.object("proxyAgentSettings")?.bool("enabled")? == Some(true) {
        return Err(not_offered(
            &given.path("proxyAgentSettings"),
            "guests reach the metadata service without a proxy",
        ));
    }
    let kind = given.one_of("securityType", &["Standard", "TrustedLaunch", "ConfidentialVM"])?;
    if kind == Some("ConfidentialVM") {
        return Err(ArmError::bad_request(
            "BadRequest",
            format!(
                "The VM size '{size}' is not supported for creation of VMs and Virtual Machine Scale Set with 'ConfidentialVM' \
                 security type."
            ),
        ));
    }
    let settings = given.object("uefiSettings")?;
    if kind == Some("TrustedLaunch") {
        // Azure's defaults (Swagger: none; its documentation: "vTPM enabled, Secure Boot disabled").
        let secure_boot = settings.bool("secureBootEnabled")?.unwrap_or(false);
        let vtpm = settings.bool("vTpmEnabled")?.unwrap_or(true);
        return Ok(Some(json!({"uefiSettings": {"secureBootEnabled": secure_boot, "vTpmEnabled": vtpm},
            "securityType": "TrustedLaunch"})));
    }
    if !settings.is_empty() {
        let kind = kind.unwrap_or("<NULL>");
        let message = format!("Use of UEFI settings is not supported when security type is '{kind}'.");
        return Err(ArmError::bad_request("BadRequest", message));
    }
    Ok(kind.map(|kind| json!({"securityType": kind})))
}

/// Secure boot and TPM of a stored body; `None`: its security type is not `TrustedLaunch`.
pub fn trusted_launch(body: &Value) -> Option<(bool, bool)> {
    let profile = &body["properties"]["securityProfile"];
    let setting = |name: &str| profile["uefiSettings"][name] == Value::Bool(true);
    (profile["securityType"] == "TrustedLaunch").then(|| (setting("secureBootEnabled"), setting("vTpmEnabled")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(given: Value) -> Result<Option<Value>, ArmError> {
        let properties = json!({ "securityProfile": given });
        security_profile(&Fields::root("virtualMachine.properties", &properties).unwrap(), "Standard_D2s_v5")
    }

    #[test]
    fn what_is_stored_is_what_is_done() {
        assert_eq!(profile(json!({"uefiSettings": null, "securityType": null})).unwrap(), None);
        assert_eq!(profile(json!({"encryptionAtHost": false})).unwrap(), None);
        assert_eq!(profile(json!({"securityType": "standard"})).unwrap(), Some(json!({"securityType": "Standard"})));
        let both = |secure: bool, tpm: bool| json!({"uefiSettings": {"secureBootEnabled": secure, "vTpmEnabled": tpm}, "securityType": "TrustedLaunch"});
        let trusted = profile(json!({"securityType": "trustedLaunch"})).unwrap().unwrap();
        assert_eq!(trusted, both(false, true));
        let all = json!({"securityType": "TrustedLaunch", "uefiSettings": {"secureBootEnabled": "true", "vTpmEnabled": false}});
        assert_eq!(profile(all).unwrap(), Some(both(true, false)));
        assert_eq!(trusted_launch(&json!({"properties": {"securityProfile": trusted}})), Some((false, true)));
        assert_eq!(trusted_launch(&json!({"properties": {"securityProfile": {"securityType": "Standard"}}})), None);
    }

    #[test]
    fn the_rest_is_refused_in_azures_words() {
        for (given, code, message) in [
            (
                json!({"uefiSettings": {"secureBootEnabled": false}}),
                "BadRequest",
                "Use of UEFI settings is not supported when security type is '<NULL>'.",
            ),
            (
                json!({"securityType": "Standard", "uefiSettings": {"vTpmEnabled": true}}),
                "BadRequest",
                "Use of UEFI settings is not supported when security type is 'Standard'.",
            ),
            (json!({"securityType": "ConfidentialVM"}), "BadRequest", "'ConfidentialVM' security type."),
            (json!({"securityType": "Moat"}), "InvalidParameter", "It must be one of: Standard, TrustedLaunch"),
            (json!({"encryptionAtHost": true}), "InvalidParameter", "feature is not enabled for this subscription."),
            (json!({"proxyAgentSettings": {"enabled": true}}), "OperationNotSupported", "without a proxy"),
        ] {
            let error = profile(given).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(message), "{error}");
        }
    }
}
