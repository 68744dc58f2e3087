//! A machine's interfaces: claimed with its PUT, and let go again while it is deallocated.

use super::{Builder, MachineInternal};
use crate::providers::network_interface::NicInternal;
use crate::providers::virtual_network::allocations;
use crate::stored::{internal, to_internal};
use crate::{Engine, db_error, new_etag};
use lazuli_arm::ArmError;
use lazuli_meta::model::{Change, Expect, Resource};
use serde_json::Value;
use std::collections::BTreeSet;

const KIND: &str = "microsoft.network/networkinterfaces";

impl Builder<'_> {
    /// Keys of the interfaces that a body names, the primary one first. Those that are not among the machine's `own` are
    /// claimed for it.
    pub(super) async fn interfaces(&mut self, body: &Value, own: &[String]) -> Result<Vec<String>, ArmError> {
        let location = self.location(body);
        let entries = body["properties"]["networkProfile"]["networkInterfaces"].as_array().cloned().unwrap_or_default();
        let mut keys: Vec<String> = Vec::new();
        for entry in entries {
            let id = entry["id"].as_str().unwrap_or_default();
            let key = id.to_ascii_lowercase();
            if keys.contains(&key) {
                return Err(no_interface(id));
            }
            if !own.contains(&key) {
                self.claim(id, &location).await?;
            }
            let at = if entry["properties"]["primary"].as_bool().unwrap_or(false) { 0 } else { keys.len() };
            keys.insert(at, key);
        }
        Ok(keys)
    }

    async fn claim(&mut self, id: &str, location: &str) -> Result<(), ArmError> {
        let old = self.linked(id, "Microsoft.Network/networkInterfaces/join/action").await?;
        if old.kind != KIND {
            return Err(no_interface(id));
        }
        let mut state: NicInternal = internal(&old)?;
        if let Some(machine) = state.machine {
            return Err(ArmError::bad_request(
                "NicInUse",
                format!("Network Interface {id} is used by existing resource {machine}."),
            ));
        }
        if old.location != location {
            return Err(ArmError::bad_request(
                "InvalidResourceReference",
                format!("Network interface {id} is in location '{}', the VM in '{location}'.", old.location),
            ));
        }
        state.machine = Some(self.machine_id());
        let expect = Expect::Etag(old.etag.clone());
        let resource = Resource { internal: to_internal(&state), etag: new_etag(), ..old };
        self.changes.push(Change::PutResource { resource, expect });
        Ok(())
    }

    /// The interfaces of a changed body; those that it leaves out are let go at once, since nothing runs on them.
    ///
    /// # Errors
    /// `AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported` (azure-powershell issue 4565) unless the machine is
    /// deallocated.
    pub(super) async fn changed_interfaces(
        &mut self,
        body: &Value,
        state: &MachineInternal,
    ) -> Result<Vec<String>, ArmError> {
        let keys = self.interfaces(body, &state.nics).await?;
        if keys == state.nics {
            return Ok(keys);
        }
        if !state.deallocated {
            return Err(must_be_deallocated(&self.machine_id(), state.nics.len(), keys.len()));
        }
        for key in state.nics.iter().filter(|key| !keys.contains(key)) {
            let Some(old) = self.cx.engine.db().resource(key).await.map_err(db_error)? else { continue };
            let nic: NicInternal = internal(&old)?;
            let expect = Expect::Etag(old.etag.clone());
            let internal = to_internal(&NicInternal { machine: None, ..nic });
            self.changes.push(Change::PutResource { resource: Resource { internal, etag: new_etag(), ..old }, expect });
        }
        Ok(keys)
    }
}

/// Another machine in the networks of these interfaces that has this host name, by its key (GS-9). Nothing forbids it; names answer
/// for one of the two then.
pub(super) async fn namesake(engine: &Engine, host_name: &str, nics: &[String]) -> Result<Option<String>, ArmError> {
    let mut networks = BTreeSet::new();
    for nic in nics {
        let Some(nic) = row(engine, nic).await? else { continue };
        let Some(subnet) = row(engine, &internal::<NicInternal>(&nic)?.subnet).await? else { continue };
        networks.extend(subnet.parent);
    }
    for network in networks {
        for subnet in engine.db().children(&network, 1000).await.map_err(db_error)? {
            for owner in allocations(&subnet).values().filter_map(Value::as_str) {
                let owner = owner.to_ascii_lowercase();
                let nic = owner.split("/ipconfigurations/").next().unwrap_or_default();
                if nics.iter().any(|own| own == nic) {
                    continue;
                }
                let Some(nic) = row(engine, nic).await? else { continue };
                let Some(machine) = internal::<NicInternal>(&nic)?.machine else { continue };
                let machine = row(engine, &machine.to_ascii_lowercase()).await?;
                if let Some(machine) = machine.filter(|m| host_name_of(m).eq_ignore_ascii_case(host_name)) {
                    return Ok(Some(machine.key));
                }
            }
        }
    }
    Ok(None)
}

async fn row(engine: &Engine, key: &str) -> Result<Option<Resource>, ArmError> {
    engine.db().resource(key).await.map_err(db_error)
}

/// The name by which its network knows a machine.
pub(super) fn host_name_of(machine: &Resource) -> &str {
    machine.body["properties"]["osProfile"]["computerName"].as_str().unwrap_or(&machine.name)
}

fn no_interface(id: &str) -> ArmError {
    ArmError::bad_request("InvalidParameter", format!("'{id}' is no network interface, or is named more than once."))
        .target("networkProfile.networkInterfaces")
}

fn must_be_deallocated(machine: &str, before: usize, after: usize) -> ArmError {
    let message = if (before == 1) == (after == 1) {
        format!(
            "The network interfaces of virtual machine {machine} cannot be changed while it is running: it must be \
             stop-deallocated first."
        )
    } else {
        format!(
            "Virtual machine {machine} with a single network interface must be stop-deallocated before it can be updated to have \
             multiple network interfaces and vice-versa."
        )
    };
    ArmError::bad_request("AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported", message)
}
