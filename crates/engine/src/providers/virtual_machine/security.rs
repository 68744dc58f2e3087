//! What a machine's security type asks of its image and its OS disk, in Azure's words, and the keys of its firmware. Pure.

use super::image::{ImageKind, ImageSource};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::virtual_machine::trusted_launch;
use lazuli_vmm::uefi::{KeyTemplate, Signature, UefiKeys};
use serde_json::Value;

const TRUSTED: &str = "TrustedLaunch";

/// What the feature `SecurityType` of an image lets machines be.
///
/// # Errors
/// `BadRequest` (azure-cli issue 27975, terraform-provider-azurerm issue 23148); as [`check_keys`].
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
        _ => check_keys(body, &image.uefi_settings, &image.shown_id),
    }
}

/// Secure boot with the keys of an image needs a platform key, and something that may start. `owner` has these settings.
///
/// # Errors
/// `OperationNotAllowed`.
pub(super) fn check_keys(body: &Value, settings: &Value, owner: &str) -> Result<(), ArmError> {
    let keys = firmware_keys(settings)?;
    match keys.as_ref().and_then(UefiKeys::lacking) {
        Some(lacking) if trusted_launch(body).is_some_and(|(secure_boot, _)| secure_boot) => {
            Err(ArmError::conflict(
                "OperationNotAllowed",
                format!(
                    "Secure boot cannot be enabled with the UEFI keys of '{owner}': its securityProfile.uefiSettings lack \
                     {lacking}. Name a signature template or more keys in the image version, or create the VM without secure boot."
                ),
            )
            .target("securityProfile.uefiSettings.secureBootEnabled"))
        }
        _ => Ok(()),
    }
}

/// The keys that the `uefiSettings` of an image version mean; `None`: those that the firmware has.
///
/// Keys without any template are added to those that firmware has for systems that are not Windows.
///
/// # Errors
/// `OperationNotSupported`: they were stored before keys were checked.
pub(crate) fn firmware_keys(settings: &Value) -> Result<Option<UefiKeys>, ArmError> {
    if settings.is_null() {
        return Ok(None);
    }
    let templates = match settings["signatureTemplateNames"].as_array().filter(|names| !names.is_empty()) {
        None => vec![KeyTemplate::MicrosoftUefiCertificateAuthority],
        Some(names) => names.iter().filter_map(template).collect(),
    };
    let additional = &settings["additionalSignatures"];
    let of = |name: &str| -> Result<Vec<Signature>, ArmError> {
        let keys = additional[name].as_array().into_iter().flatten();
        Ok(keys.map(signatures).collect::<Result<Vec<_>, _>>()?.concat())
    };
    let pk = signatures(&additional["pk"])?.into_iter().next();
    Ok(Some(UefiKeys { templates, pk, kek: of("kek")?, db: of("db")?, dbx: of("dbx")? }))
}

/// `NoSignatureTemplate` is none.
fn template(name: &Value) -> Option<KeyTemplate> {
    match name.as_str()? {
        "MicrosoftUefiCertificateAuthorityTemplate" => Some(KeyTemplate::MicrosoftUefiCertificateAuthority),
        "MicrosoftWindowsTemplate" => Some(KeyTemplate::MicrosoftWindows),
        _ => None,
    }
}

/// The values of a key, which are of one type.
fn signatures(key: &Value) -> Result<Vec<Signature>, ArmError> {
    let signature = |value: &Value| {
        let bytes = STANDARD.decode(value.as_str()?).ok()?;
        match key["type"].as_str()? {
            "x509" => Some(Signature::X509(bytes)),
            _ => bytes.try_into().ok().map(Signature::Sha256),
        }
    };
    let values = key["value"].as_array().into_iter().flatten();
    values.map(signature).collect::<Option<_>>().ok_or_else(|| {
        ArmError::bad_request(
            "OperationNotSupported",
            "The image version has a UEFI key that is neither a certificate nor a SHA-256 hash in Base64. Create the version \
             again with other keys.",
        )
    })
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
    fn settings_become_keys() {
        assert_eq!(firmware_keys(&Value::Null).unwrap(), None);
        let keys = |settings: Value| firmware_keys(&settings).unwrap().unwrap();
        let windows = keys(json!({"signatureTemplateNames": ["MicrosoftWindowsTemplate"]}));
        assert_eq!(windows.templates, [KeyTemplate::MicrosoftWindows]);
        let hash = STANDARD.encode([7; 32]);
        let certificates = json!({"type": "x509", "value": ["MAA=", "MAA="]});
        let own = json!({"pk": {"type": "x509", "value": ["MAA="]}, "db": [certificates, {"type": "sha256", "value": [hash]}]});
        let added = keys(json!({"additionalSignatures": own}));
        assert_eq!(added.templates, [KeyTemplate::MicrosoftUefiCertificateAuthority]);
        let certificate = Signature::X509(vec![0x30, 0]);
        assert_eq!(added.pk, Some(certificate.clone()));
        assert_eq!(added.db, [certificate.clone(), certificate, Signature::Sha256([7; 32])]);
        let replaced = keys(json!({"signatureTemplateNames": ["NoSignatureTemplate"], "additionalSignatures": own}));
        assert_eq!((replaced.templates.len(), replaced.lacking()), (0, None));
        let old = json!({"additionalSignatures": {"db": [{"type": "sha256", "value": ["x"]}]}});
        assert_eq!(firmware_keys(&old).unwrap_err().code, "OperationNotSupported");
    }

    #[test]
    fn secure_boot_needs_keys_that_something_can_start_with() {
        let none = json!({"signatureTemplateNames": ["NoSignatureTemplate"]});
        let error = check_keys(&machine(Some(true)), &none, "v").unwrap_err();
        assert!(error.message.contains("lack a platform key (pk)"), "{error}");
        for (body, settings) in
            [(machine(Some(false)), &none), (machine(None), &none), (machine(Some(true)), &Value::Null)]
        {
            check_keys(&body, settings, "v").unwrap();
        }
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
