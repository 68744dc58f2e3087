//! Makes a new machine run. A generalized image has succeeded when its guest reported that it is provisioned (GS-5); anything
//! else when its processors run (GS-8).
//!
//! A failure leaves machine and disks as they are, for the user to look at; delete removes them, start or another PUT tries
//! again.

use super::virtual_machine::{define_and_start, host_error, spec_of};
use super::virtual_machine_applications as applications;
use crate::capture::wait_for_readers;
use crate::fleet::Away;
use crate::fleet::moving::place;
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{change_internal, internal};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_meta::model::Resource;
use lazuli_vmm::HostClient;
use lazuli_vmm::host::HostErrorCode;
use lazuli_vmm::spec::{PowerState, ProvisioningState, TrustedLaunch, VmSpec, VmStatus};
use std::time::Duration;

const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Bytes of the console in which a reason is looked for.
const CONSOLE: u64 = 64 << 10;

/// The step after which only applications are left.
const CREATED: &str = "created";

pub(crate) struct VirtualMachineCreate;

#[async_trait]
impl Operation for VirtualMachineCreate {
    fn kind(&self) -> &'static str {
        "virtual_machine.create"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        bring_up(cx, &row).await?;
        after_first_boot(cx).await
    }
}

/// The machine is up for the first time, and what it is to have is put into it: it stays created where that fails.
pub(super) async fn after_first_boot(cx: &OpContext) -> Result<Outcome, OpError> {
    let row = cx.resource().await?;
    if cx.done_step(CREATED).is_none() && internal::<MachineInternal>(&row)?.applications.due().is_empty() {
        return Ok(Outcome::update(mark_created));
    }
    cx.step(CREATED, async { cx.update_resource(mark_created).await }).await?;
    applications::bring(cx).await?;
    Ok(Outcome::default())
}

/// From now on its disk is provisioned: the next start only switches it on, and the secrets are not needed any more.
fn mark_created(row: &mut Resource) {
    change_internal(row, |state: &mut MachineInternal| {
        state.created = true;
        state.created_at_ms = crate::now_ms();
        state.provision = false;
        state.deallocated = false;
        state.admin_password = None;
        state.custom_data = None;
    });
}

/// Whether an operation is about the first boot, or what comes after it, of a machine that never came up before it.
pub(super) fn is_first_boot(cx: &OpContext, state: &MachineInternal) -> bool {
    !state.created || cx.done_step(CREATED).is_some()
}

/// Switches a machine on that never came up before, and waits until it is what was ordered.
pub(super) async fn bring_up(cx: &OpContext, row: &Resource) -> Result<(), OpError> {
    if internal::<MachineInternal>(row)?.created {
        // By an attempt that was interrupted afterwards.
        return Ok(());
    }
    wait_for_readers(cx, internal::<MachineInternal>(row)?.disks()).await?;
    let row = &place(cx, row).await?;
    let mut spec: VmSpec = cx.step("define", async { Ok(without_secrets(spec_of(cx, row).await?)) }).await?;
    let state: MachineInternal = internal(row)?;
    let host = cx.engine.home_of(row, &state).await?.host;
    if let Some(provisioning) = &mut spec.provisioning {
        provisioning.admin_password.clone_from(&state.admin_password);
        provisioning.custom_data.clone_from(&state.custom_data);
    }
    let began: i64 = cx.step("begin", async { Ok(crate::now_ms()) }).await?;
    cx.progress(0, 0, "starting the machine").await;
    let mut defined = define_and_start(cx, row, &host, &spec).await?;
    // An earlier attempt defined it otherwise (its network rules were others): nothing of that is worth keeping.
    if defined.as_ref().is_err_and(|e| e.code() == Some(HostErrorCode::Conflict)) {
        host.delete(spec.id, &[]).await.map_err(|e| host_error(e, &row.name))?;
        defined = define_and_start(cx, row, &host, &spec).await?;
    }
    let status = defined.map_err(|e| host_error(e, &row.name))?;
    let ready = wait_until_provisioned(cx, &state, &host, &spec, status, began).await?;
    tracing::info!(
        machine = row.id,
        reads = ready.nbd.reads,
        read_bytes = ready.nbd.bytes,
        image_bytes = ready.nbd.image_bytes,
        "machine created"
    );
    Ok(())
}

/// What may be written down with the operation: it is kept after the operation's end.
fn without_secrets(mut spec: VmSpec) -> VmSpec {
    if let Some(provisioning) = &mut spec.provisioning {
        provisioning.admin_password = None;
        provisioning.custom_data = None;
    }
    spec
}

async fn wait_until_provisioned(
    cx: &OpContext,
    state: &MachineInternal,
    host: &HostClient,
    spec: &VmSpec,
    mut status: VmStatus,
    began_ms: i64,
) -> Result<VmStatus, OpError> {
    // As Azure does it.
    let times = if spec.provisioning.as_ref().is_some_and(|p| p.windows.is_some()) { 2 } else { 1 };
    let limit =
        i64::try_from(cx.engine.config().provisioning_time.as_millis()).unwrap_or(i64::MAX).saturating_mul(times);
    loop {
        if let Some(error) = failure(spec, &status) {
            return Err(OpError::Failed(error));
        }
        match (&status.provisioning, status.power) {
            (ProvisioningState::NotNeeded, PowerState::Running) | (ProvisioningState::Ready { .. }, _) => {
                return Ok(status);
            }
            _ => {}
        }
        let left = began_ms.saturating_add(limit).saturating_sub(crate::now_ms());
        let Some(left) = u64::try_from(left).ok().filter(|l| *l > 0) else {
            // What the firmware said may be further back than the last lines.
            let console = host.console(spec.id, CONSOLE).await.unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            return Err(OpError::Failed(ArmError::conflict(
                "OSProvisioningTimedOut",
                format!(
                    "OS Provisioning for VM '{}' did not finish in the allotted time. The VM may still finish provisioning \
                     successfully. Please check provisioning state later.{} Its console said last:\n{}",
                    spec.name,
                    advice(spec.trusted_launch.as_ref(), &console),
                    tail(&status)
                ),
            )));
        };
        cx.check()?;
        cx.progress(status.nbd.bytes, 0, "waiting until the guest reports that it is provisioned").await;
        let pause = LOOK_AGAIN.min(Duration::from_millis(left));
        let wait = host.wait_change(spec.id, status.generation_counter, pause);
        let answer = tokio::select! {
            () = cx.stop.cancelled() => continue,
            answer = wait => answer,
        };
        status = match answer {
            Ok(status) => status,
            // The host process was restarted: the next one adopts the guest.
            Err(e) if e.code().is_none() => {
                if let Some(away) = cx.engine.away(state).await?.filter(Away::may_be_given_up) {
                    return Err(OpError::Failed(away.error(&spec.name)));
                }
                tracing::warn!(machine = spec.resource_id, error = %e, "the host process does not answer; it is asked again");
                tokio::select! {
                    () = cx.stop.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                status
            }
            Err(e) => return Err(host_error(e, &spec.name)),
        };
    }
}

/// Why a machine will not come up any more.
fn failure(spec: &VmSpec, status: &VmStatus) -> Option<ArmError> {
    let name = &spec.name;
    match (&status.provisioning, status.power) {
        (ProvisioningState::Ready { .. }, _) => None,
        (ProvisioningState::Failed { description }, _) => Some(ArmError::conflict(
            "OSProvisioningClientError",
            format!("OS provisioning failed for VM '{name}': {description}"),
        )),
        (_, PowerState::Crashed) => Some(
            ArmError::conflict(
                "VMStartTimedOut",
                format!("VM '{name}' stopped unexpectedly while it started. Its console said last:\n{}", tail(status)),
            )
            .caused_by(status.error.clone().unwrap_or_default()),
        ),
        (ProvisioningState::Waiting, PowerState::Stopped) => Some(ArmError::conflict(
            "OSProvisioningInternalError",
            format!(
                "VM '{name}' was shut down before it reported that it is provisioned. Its console said last:\n{}",
                tail(status)
            ),
        )),
        _ => None,
    }
}

/// What keeps a guest from booting, as far as its console shows it.
fn advice(launch: Option<&TrustedLaunch>, console: &str) -> &'static str {
    if console.trim().is_empty() {
        return " It has said nothing on its serial console: the disk may not boot with the image's generation, or its kernel does not \
                use that console (console=ttyS0). `lazuli image check` tells.";
    }
    let Some(launch) = launch.filter(|launch| launch.secure_boot) else { return "" };
    // OVMF: `failed to load Boot0001 "UEFI Misc Device" …: Access Denied`; shim: `… Security Violation`.
    if !["Access Denied", "Security Violation"].iter().any(|text| console.contains(text)) {
        return "";
    }
    if launch.keys.is_some() {
        " Secure boot is enabled, and the firmware refused a boot loader that is not signed with the keys of the image \
         (securityProfile.uefiSettings of its version): create the VM without secure boot \
         (securityProfile.uefiSettings.secureBootEnabled), or from an image version with the certificate of its boot loader."
    } else {
        " Secure boot is enabled, and the firmware refused a boot loader that is not signed with Microsoft's keys: create the VM \
         without secure boot (securityProfile.uefiSettings.secureBootEnabled), or from an image with a signed boot loader."
    }
}

/// The last lines of the console, enough to see what went wrong.
fn tail(status: &VmStatus) -> String {
    let lines: Vec<&str> = status.console_tail.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lazuli_vmm::uefi::UefiKeys;

    #[test]
    fn a_refused_boot_loader_is_told_from_silence() {
        let refused =
            "BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0): Access Denied";
        let of = |secure_boot: Option<bool>, keys: Option<UefiKeys>, console: &str| {
            let state = "/s".into();
            let launch = secure_boot.map(|secure_boot| TrustedLaunch { secure_boot, vtpm: true, state, keys });
            advice(launch.as_ref(), console)
        };
        assert!(of(Some(true), Some(UefiKeys::default()), refused).contains("keys of the image"));
        assert!(of(Some(true), None, refused).contains("not signed with Microsoft's keys"));
        for (secure_boot, console) in [(Some(true), "login:"), (Some(false), refused), (None, refused)] {
            assert_eq!(of(secure_boot, None, console), "");
        }
        assert!(of(None, None, " \n").contains("said nothing on its serial console"));
    }
}
