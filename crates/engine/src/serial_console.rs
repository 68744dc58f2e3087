//! The serial consoles of machines: who may have one, and where it is.

use crate::call::{Call, Caller};
use crate::providers::virtual_machine::{KIND, MachineInternal};
use crate::stored::internal;
use crate::{Engine, db_error};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use lazuli_vmm::host::{GuestStream, HostErrorCode};
use serde_json::{Value, json};

/// As the role Virtual Machine Contributor has it.
const RIGHT: &str = "Microsoft.SerialConsole/serialPorts/connect/action";

impl Engine {
    /// The answer to `POST {machine}/providers/Microsoft.SerialConsole/serialPorts/0/connect`: where the console is reached by
    /// WebSocket.
    pub(crate) async fn serial_address(&self, call: &Call, machine: &str) -> Result<Value, ArmError> {
        let id: ResourceId = machine.parse().map_err(|_| no_machine(machine))?;
        self.console_of(&call.caller, &id).await?;
        let host = call.urls.arm.strip_prefix("https://").unwrap_or(&call.urls.arm);
        Ok(json!({"connectionString": format!("wss://{host}/serialconsole{id}")}))
    }

    /// The serial console of a machine, in both directions; its last user is sent away.
    ///
    /// # Errors
    /// 403 without the right; 404; 409 of a machine that does not run; 503 if its worker is away.
    pub async fn serial_console(&self, caller: &Caller, machine: &ResourceId) -> Result<GuestStream, ArmError> {
        let (row, state) = self.console_of(caller, machine).await?;
        self.home_of(&row, &state).await?.host.serial(state.vm_id).await.map_err(|error| match error.code() {
            Some(HostErrorCode::Conflict | HostErrorCode::NotFound) => not_running(machine.name()),
            _ => ArmError::new(
                503,
                "HostUnavailable",
                format!("The serial console of '{}' cannot be reached at the moment.", machine.name()),
            )
            .caused_by(error),
        })
    }

    async fn console_of(&self, caller: &Caller, machine: &ResourceId) -> Result<(Resource, MachineInternal), ArmError> {
        self.require_subscription(caller, &machine.subscription).await?;
        self.authorize(caller, &machine.to_string(), RIGHT).await?;
        let row = self.db().resource(&machine.key()).await.map_err(db_error)?;
        let row = row.filter(|r| r.kind.eq_ignore_ascii_case(KIND)).ok_or_else(|| no_machine(&machine.to_string()))?;
        let state: MachineInternal = internal(&row)?;
        if state.deallocated {
            return Err(not_running(&row.name));
        }
        Ok((row, state))
    }
}

fn no_machine(id: &str) -> ArmError {
    ArmError::new(404, "ResourceNotFound", format!("'{id}' is no virtual machine: it has no serial port."))
}

fn not_running(name: &str) -> ArmError {
    ArmError::conflict(
        "VirtualMachineNotRunning",
        format!("The serial console of '{name}' can be used while the virtual machine runs: start it first."),
    )
}
