//! What a machine's security type asks of its image and its OS disk, in Azure's words. Pure.

use super::image::{ImageKind, ImageSource};
use lazuli_arm::ArmError;
use lazuli_arm::bodies::virtual_machine::trusted_launch;
use serde_json::Value;

const TRUSTED: &str = "TrustedLaunch";
/// Microsoft's own keys, which the firmware has; an image that asks for nothing else gets what it asks for.
const MICROSOFT: [&str; 2] = ["MicrosoftUefiCertificateAuthorityTemplate", "MicrosoftWindowsTemplate"];

/// What the feature `SecurityType` of an image lets machines be.
///
/// # Errors
/// `BadRequest` (azure-cli issue 27975, terraform-provider-azurerm issue 23148); `OperationNotSupported` for an image with UEFI keys
/// of its own.
pub(super) fn check_image(body: &Value, image: &ImageSource) -> Result<(), ArmError> {
    if image.kind == ImageKind::Managed {
        return Ok(());
    }
    let refuse = |message: String| Err(ArmError::bad_request("BadRequest", message));
    let trusted = trusted_launch(body);
    match (image.security_type.as_str(), trusted) {
        (only @ (TRUSTED | "ConfidentialVM"), trusted) if only != TRUSTED || trusted.is_none() => refuse(format!(
            "The provided gallery image only supports creation of VMs and VM Scale Sets with '{only}' security type."
        )),
        ("Standard" | "ConfidentialVMSupported", Some(_)) => refuse(
            "Use of TrustedLaunch setting is not supported for the provided image. Please select Trusted Launch Supported Gen2 \
             OS Image. For more information, see https://aka.ms/TrustedLaunch-FAQ."
                .to_owned(),
        ),
        (_, Some((true, _))) if has_own_keys(&image.uefi_settings) => Err(ArmError::bad_request(
            "OperationNotSupported",
            format!(
                "The image '{}' has UEFI keys of its own (securityProfile.uefiSettings), which this server does not put into a \
                 machine's firmware yet. Create the VM without secure boot, or from an image without them.",
                image.shown_id
            ),
        )
        .target("securityProfile.uefiSettings.secureBootEnabled")),
        _ => Ok(()),
    }
}

fn has_own_keys(settings: &Value) -> bool {
    let mut templates = settings["signatureTemplateNames"].as_array().into_iter().flatten();
    settings["additionalSignatures"].as_object().is_some_and(|keys| !keys.is_empty())
        || templates.any(|name| !MICROSOFT.iter().any(|m| name == m))
}

/// A disk of a machine with Trusted Launch is for such machines alone, and they take no other.
///
/// # Errors
/// `BadRequest` (azure-sdk-for-python issue 30479).
pub(super) fn check_os_disk(body: &Value, disk: &Value) -> Result<(), ArmError> {
    let marked = disk["properties"]["securityProfile"]["securityType"] == TRUSTED;
    if marked == trusted_launch(body).is_some() {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "BadRequest",
        "Security type of VM is not compatible with the security type of attached OS Disk.",
    ))
}

/// Whether a changed body asks for a restart of a machine that runs: secure boot and TPM are the firmware's.
///
/// # Errors
/// `OperationNotAllowed` for another security type on a machine that is not deallocated; `BadRequest` for Trusted Launch on
/// generation 1.
pub(super) fn check_change(new: &Value, old: &Value, generation: &str, deallocated: bool) -> Result<bool, ArmError> {
    let (is, was) = (trusted_launch(new), trusted_launch(old));
    if is.is_some() == was.is_some() {
        return Ok(is != was);
    }
    if is.is_some() && generation != "V2" {
        return Err(ArmError::bad_request(
            "BadRequest",
            "Security type 'TrustedLaunch' needs a VM of hypervisor generation 'V2'; the generation of a VM cannot be changed.",
        ));
    }
    if !deallocated {
        return Err(ArmError::conflict(
            "OperationNotAllowed",
            "The security type of a VM can be changed only while it is deallocated. Deallocate the VM, then retry.",
        ));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn machine(kind: Option<bool>) -> Value {
        let settings =
            kind.map(|secure| json!({"securityType": TRUSTED, "uefiSettings": {"secureBootEnabled": secure}}));
        json!({"properties": {"securityProfile": settings}})
    }

    #[test]
    fn keys_of_ones_own_are_told_from_microsofts() {
        assert!(!has_own_keys(&json!(null)));
        assert!(!has_own_keys(&json!({"signatureTemplateNames": MICROSOFT})));
        assert!(has_own_keys(&json!({"signatureTemplateNames": ["NoSignatureTemplate"]})));
        assert!(has_own_keys(&json!({"additionalSignatures": {"db": [{"type": "x509", "value": ["AA=="]}]}})));
    }

    #[test]
    fn disks_and_machines_are_of_one_security_type() {
        let disk = |kind: &str| json!({"properties": {"securityProfile": {"securityType": kind}}});
        check_os_disk(&machine(Some(true)), &disk(TRUSTED)).unwrap();
        check_os_disk(&machine(None), &disk("Standard")).unwrap();
        check_os_disk(&machine(None), &disk(TRUSTED)).unwrap_err();
        check_os_disk(&machine(Some(false)), &json!({"properties": {}})).unwrap_err();
    }

    #[test]
    fn settings_take_a_restart_and_the_type_a_deallocation() {
        let change =
            |new, old, generation, deallocated| check_change(&machine(new), &machine(old), generation, deallocated);
        assert!(!change(Some(true), Some(true), "V2", false).unwrap());
        assert!(change(Some(true), Some(false), "V2", false).unwrap());
        assert_eq!(change(Some(true), None, "V2", false).unwrap_err().code, "OperationNotAllowed");
        assert!(change(Some(true), None, "V2", true).unwrap());
        assert!(change(None, Some(true), "V2", true).unwrap());
        assert_eq!(change(Some(true), None, "V1", true).unwrap_err().code, "BadRequest");
    }
}
