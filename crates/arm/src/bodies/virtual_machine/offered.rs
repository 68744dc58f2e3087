//! What machines may ask for in Azure and not here.

use super::super::Fields;
use super::super::offered::{self, Refusal};
use crate::ArmError;

const KEY_VAULT: &str = "there is no key vault to take it from";
const PATCHING: &str = "guests are not patched from outside";
const CONFIDENTIAL: &str = "there are no confidential machines";
const ENCRYPTION_SETS: &str = "this server has no disk encryption sets yet";
const EVENTS: &str = "guests are not told of events before they come";

const MACHINE: &[Refusal] = &[
    (&["placement"], &[], "a zone is chosen by its number"),
    (&["properties", "additionalCapabilities", "hibernationEnabled"], &[], "machines do not hibernate"),
    (&["properties", "hardwareProfile", "vmSizeProperties"], &[], "a machine has the processors of its size"),
    (&["properties", "platformFaultDomain"], &[], "hosts are not told apart by fault domains"),
    (&["properties", "scheduledEventsProfile"], &[], EVENTS),
    (&["properties", "scheduledEventsPolicy"], &[], EVENTS),
    (&["properties", "extensionsTimeBudget"], &["PT1H30M"], "extensions have Azure's default of PT1H30M"),
    (
        &["properties", "networkProfile", "networkInterfaceConfigurations"],
        &[],
        "interfaces are made first, and named in networkInterfaces",
    ),
    (&["properties", "osProfile", "secrets"], &[], KEY_VAULT),
    (&["properties", "osProfile", "linuxConfiguration", "enableVMAgentPlatformUpdates"], &[], PATCHING),
    (&["properties", "osProfile", "linuxConfiguration", "patchSettings", "patchMode"], &["ImageDefault"], PATCHING),
    (
        &["properties", "osProfile", "linuxConfiguration", "patchSettings", "assessmentMode"],
        &["ImageDefault"],
        PATCHING,
    ),
    (&["properties", "osProfile", "linuxConfiguration", "patchSettings", "automaticByPlatformSettings"], &[], PATCHING),
    (&["properties", "osProfile", "windowsConfiguration", "enableVMAgentPlatformUpdates"], &[], PATCHING),
    (
        &["properties", "osProfile", "windowsConfiguration", "patchSettings", "patchMode"],
        &["AutomaticByOS", "Manual"],
        PATCHING,
    ),
    (
        &["properties", "osProfile", "windowsConfiguration", "patchSettings", "assessmentMode"],
        &["ImageDefault"],
        PATCHING,
    ),
    (
        &["properties", "osProfile", "windowsConfiguration", "patchSettings", "automaticByPlatformSettings"],
        &[],
        PATCHING,
    ),
    (&["properties", "osProfile", "windowsConfiguration", "patchSettings", "enableHotpatching"], &[], PATCHING),
    (&["properties", "storageProfile", "diskControllerType"], &["SCSI"], "disks are attached by SCSI"),
    (
        &["properties", "storageProfile", "alignRegionalDisksToVMZone"],
        &[],
        "disks stay in the zone that they were made in",
    ),
    (&["properties", "storageProfile", "osDisk", "managedDisk", "diskEncryptionSet"], &[], ENCRYPTION_SETS),
    (&["properties", "storageProfile", "osDisk", "managedDisk", "securityProfile"], &[], CONFIDENTIAL),
];

const DATA_DISK: &[Refusal] = &[
    (&["managedDisk", "diskEncryptionSet"], &[], ENCRYPTION_SETS),
    (&["managedDisk", "securityProfile"], &[], CONFIDENTIAL),
    (&["writeAcceleratorEnabled"], &[], "there is no write accelerator"),
    (&["sourceResource"], &[], "a disk is copied first, and attached by its id"),
    (&["vhd"], &[], "every disk is a managed disk"),
    (&["image"], &[], "every disk is a managed disk"),
];

/// # Errors
/// `OperationNotSupported` with the place and the reason; `InvalidParameter` for a provision signal that is not to be waited for.
pub(super) fn check(root: &Fields<'_>, properties: &Fields<'_>) -> Result<(), ArmError> {
    offered::check(root, MACHINE)?;
    for disk in properties.object("storageProfile")?.objects("dataDisks")?.unwrap_or_default() {
        offered::check(&disk, DATA_DISK)?;
    }
    let profile = properties.object("osProfile")?;
    if profile.bool("requireGuestProvisionSignal")? == Some(false) {
        // Swagger: "must either be set to True or omitted".
        let path = profile.path("requireGuestProvisionSignal");
        let message = format!("The value 'False' of parameter {path} is not allowed: it is true, or left out.");
        return Err(ArmError::invalid_parameter(&path, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::offered::tests::{hold, with};
    use super::*;
    use serde_json::{Value, json};

    fn checked(body: &Value) -> Result<(), ArmError> {
        let root = Fields::root("virtualMachine", body).unwrap();
        check(&root, &root.object("properties")?)
    }

    #[test]
    fn what_is_asked_for_and_not_done_is_named() {
        hold(MACHINE, |body| body, checked);
        hold(DATA_DISK, |disk| json!({"properties": {"storageProfile": {"dataDisks": [{"lun": 0}, disk]}}}), checked);
        checked(&with(&["properties", "osProfile", "secrets"], json!([]))).unwrap();
    }

    #[test]
    fn a_guests_signal_is_always_waited_for() {
        let signal = |value: bool| json!({"properties": {"osProfile": {"requireGuestProvisionSignal": value}}});
        checked(&signal(true)).unwrap();
        assert_eq!(checked(&signal(false)).unwrap_err().code, "InvalidParameter");
    }
}
