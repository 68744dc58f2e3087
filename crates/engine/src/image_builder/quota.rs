//! Limits of the server's own that a run would meet: the sizes of machines that there are, the host's memory, the largest disk of a
//! version. For dry runs: nothing is reserved, and whatever is past a limit is refused again where it is used.

use crate::Engine;
use crate::fleet::moving::room_in;
use crate::providers::image_version::check_size;
use crate::providers::virtual_machine::ImageSource;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::disk::gib_of;
use lazuli_arm::bodies::image_template::{ImageTemplate, Target, VmProfile};
use lazuli_arm::bodies::virtual_machine::{size, unknown_size};

/// The machines of a run, of which one runs at a time.
///
/// # Errors
/// `InvalidParameter` for a size that there is not, `AllocationFailed` as a machine's creation would be told.
pub(super) async fn machine(
    engine: &Engine,
    template: &ImageTemplate,
    source: &ImageSource,
) -> Result<String, ArmError> {
    let room = match room_in(engine, &template.location).await? {
        Some(room) => Some(room),
        None => {
            let host = engine.host().info().await.map_err(|error| {
                ArmError::conflict("AllocationFailed", "Allocation failed. The host of the machines does not answer.")
                    .caused_by(error)
            })?;
            host.room_mib
        }
    };
    fits(&template.vm_profile, &source.generation, room)
}

fn fits(profile: &VmProfile, generation: &str, room_mib: Option<u64>) -> Result<String, ArmError> {
    let given = profile.size(generation);
    let (name, cpus, needed) = size(given).ok_or_else(|| unknown_size(given))?;
    let machine = format!("{name} ({cpus} vCPU, {needed} MiB)");
    match room_mib {
        Some(room) if room < needed => Err(ArmError::conflict(
            "AllocationFailed",
            format!(
                "Allocation failed. No host has enough free memory for a machine of the size {machine}: there is room for \
                 {room} MiB now."
            ),
        )),
        _ => Ok(format!("The host has room for a machine of the size {machine}.")),
    }
}

/// The OS disk of the machines and of what is made of them.
///
/// # Errors
/// `ResizeDiskError`; that of versions whose disks are too large.
pub(super) fn disk(engine: &Engine, template: &ImageTemplate, source: &ImageSource) -> Result<String, ArmError> {
    let bytes = source.os_disk_size(template.vm_profile.os_disk_size_gb.into())?;
    for distributor in &template.distribute {
        if let Target::Gallery { replication_mode, .. } = &distributor.target {
            check_size(engine, *replication_mode == Some("Shallow"), bytes)?;
        }
    }
    Ok(format!("The OS disk has {} GiB.", gib_of(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_fits_or_the_limit_is_told() {
        let of = |name: &str| VmProfile { vm_size: Some(name.to_owned()), ..VmProfile::default() };
        let said = |profile: &VmProfile, room| fits(profile, "V2", room).unwrap_or_else(|e| e.to_string());
        let all = [
            said(&of("standard_b1LS"), Some(512)),
            said(&of("Standard_B1ls"), Some(511)),
            said(&VmProfile::default(), None),
            said(&of("Standard_Z9"), None).split(" The valid").next().unwrap().to_owned(),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
        The host has room for a machine of the size Standard_B1ls (1 vCPU, 512 MiB).
        AllocationFailed: Allocation failed. No host has enough free memory for a machine of the size Standard_B1ls (1 vCPU, 512 MiB): there is room for 511 MiB now.
        The host has room for a machine of the size Standard_D2ds_v4 (2 vCPU, 8192 MiB).
        InvalidParameter: The value Standard_Z9 provided for the VM size is not valid.
        ");
    }
}
