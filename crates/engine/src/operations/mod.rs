//! One file a long-running operation; here is the list of all of them.

mod resource_group_delete;
pub(crate) mod virtual_machine;
mod virtual_machine_create;
mod virtual_machine_delete;
mod virtual_machine_power;

use crate::operation::Operation;
use std::sync::Arc;

/// Every operation this server can run.
pub(crate) fn all() -> Vec<Arc<dyn Operation>> {
    use virtual_machine_power::{Action, VirtualMachinePower};
    vec![
        Arc::new(resource_group_delete::ResourceGroupDelete),
        Arc::new(virtual_machine_create::VirtualMachineCreate),
        Arc::new(virtual_machine_delete::VirtualMachineDelete),
        Arc::new(VirtualMachinePower(Action::Start)),
        Arc::new(VirtualMachinePower(Action::PowerOff)),
        Arc::new(VirtualMachinePower(Action::Restart)),
        Arc::new(VirtualMachinePower(Action::Deallocate)),
    ]
}
