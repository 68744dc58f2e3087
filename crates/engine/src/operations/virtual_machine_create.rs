//! Makes a new machine run. A generalized image has succeeded when its guest reported that it is provisioned (GS-5); anything
//! else when its processors run (GS-8).
//!
//! A failure leaves machine and disks as they are, for the user to look at; delete removes them.

use super::virtual_machine::{host_error, spec_of};
use crate::operation::{OpContext, OpError, Operation, Outcome};
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::{internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::ArmError;
use lazuli_vmm::spec::{PowerState, ProvisioningState, VmSpec, VmStatus};
use std::time::{Duration, Instant};

/// Azure gives a guest 20 minutes (40 for Windows).
const PROVISIONING_TIME: Duration = Duration::from_secs(20 * 60);
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) struct VirtualMachineCreate;

#[async_trait]
impl Operation for VirtualMachineCreate {
    fn kind(&self) -> &'static str {
        "virtual_machine.create"
    }

    async fn run(&self, cx: &OpContext) -> Result<Outcome, OpError> {
        let row = cx.resource().await?;
        let spec: VmSpec = cx.step("define", async { spec_of(cx, &row).await }).await?;
        cx.progress(0, 0, "starting the machine").await;
        let status = cx.engine.host().define_and_start(&spec).await.map_err(|e| host_error(e, &row.name))?;
        let ready = wait_until_provisioned(cx, &spec, status).await?;
        tracing::info!(
            machine = row.id,
            reads = ready.nbd.reads,
            read_bytes = ready.nbd.bytes,
            image_bytes = ready.nbd.image_bytes,
            "machine created"
        );
        Ok(Outcome::update(|row| {
            // The secrets of the first boot are not needed any more.
            if let Ok(mut state) = internal::<MachineInternal>(row) {
                state.admin_password = None;
                state.custom_data = None;
                row.internal = to_internal(&state);
            }
        }))
    }
}

async fn wait_until_provisioned(cx: &OpContext, spec: &VmSpec, mut status: VmStatus) -> Result<VmStatus, OpError> {
    let begin = Instant::now();
    loop {
        match (&status.provisioning, status.power) {
            (ProvisioningState::NotNeeded, PowerState::Running) | (ProvisioningState::Ready { .. }, _) => {
                return Ok(status);
            }
            (ProvisioningState::Failed { description }, _) => {
                return Err(OpError::Failed(ArmError::conflict(
                    "OSProvisioningClientError",
                    format!("OS provisioning failed for VM '{}': {description}", spec.name),
                )));
            }
            (_, PowerState::Crashed) => {
                return Err(OpError::Failed(
                    ArmError::conflict(
                        "VMStartTimedOut",
                        format!(
                            "VM '{}' stopped unexpectedly while it started. Its console said last:\n{}",
                            spec.name,
                            tail(&status)
                        ),
                    )
                    .caused_by(status.error.clone().unwrap_or_default()),
                ));
            }
            (ProvisioningState::Waiting, PowerState::Stopped) => {
                return Err(OpError::Failed(ArmError::conflict(
                    "OSProvisioningInternalError",
                    format!(
                        "VM '{}' was shut down before it reported that it is provisioned. Its console said last:\n{}",
                        spec.name,
                        tail(&status)
                    ),
                )));
            }
            _ => {}
        }
        if begin.elapsed() > PROVISIONING_TIME {
            return Err(OpError::Failed(ArmError::conflict(
                "OSProvisioningTimedOut",
                format!(
                    "OS Provisioning for VM '{}' did not finish in the allotted time. The VM may still finish provisioning \
                     successfully. Please check provisioning state later. Its console said last:\n{}",
                    spec.name,
                    tail(&status)
                ),
            )));
        }
        cx.check()?;
        cx.progress(status.nbd.bytes, 0, "waiting until the guest reports that it is provisioned").await;
        let wait = cx.engine.host().wait_change(spec.id, status.generation_counter, LOOK_AGAIN);
        status = match wait.await {
            Ok(status) => status,
            // The host process was restarted: the next one adopts the guest.
            Err(e) if e.code().is_none() => {
                tracing::warn!(machine = spec.resource_id, error = %e, "the host process does not answer; it is asked again");
                tokio::select! {
                    () = cx.stop.cancelled() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
                status
            }
            Err(e) => return Err(host_error(e, &spec.name)),
        };
    }
}

/// The last lines of the console, enough to see what went wrong.
fn tail(status: &VmStatus) -> String {
    let lines: Vec<&str> = status.console_tail.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
