//! The machines that build and validate.

use super::{bad_value, identity_id, missing, text, validation};
use crate::bodies::Fields;
use crate::{ArmError, ResourceId};
use serde_json::{Value, json};

const PATH: &str = "ImageTemplate.properties.vmProfile";
const SUBNET: &str = "microsoft.network/virtualnetworks/subnets";

/// The network that the machines are in. Without one they get a public address, as in Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub subnet_id: String,
    /// Accepted and shown; builds need no container here.
    pub container_instance_subnet_id: Option<String>,
    /// Accepted and shown; the host reaches machines without a proxy.
    pub proxy_vm_size: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmProfile {
    /// As given; see [`VmProfile::size`].
    pub vm_size: Option<String>,
    /// 0: as large as the source's.
    pub os_disk_size_gb: u32,
    /// Ids of identities that the machines get.
    pub user_assigned_identities: Vec<String>,
    pub network: Option<Network>,
}

impl VmProfile {
    /// Size of the machines: Azure's defaults for both generations (IB-31, wire.md §4).
    pub fn size(&self, generation: &str) -> &str {
        let default = if generation.eq_ignore_ascii_case("V1") { "Standard_D1_v2" } else { "Standard_D2ds_v4" };
        self.vm_size.as_deref().unwrap_or(default)
    }

    pub(super) fn read(properties: &Fields<'_>) -> Result<Self, ArmError> {
        let given = properties.object("vmProfile").map_err(validation)?;
        let size = given.int("osDiskSizeGB").map_err(validation)?.unwrap_or(0);
        let os_disk_size_gb = u32::try_from(size)
            .ok()
            .filter(|s| *s <= 4095)
            .ok_or_else(|| bad_value(PATH, "osDiskSizeGB", &size.to_string(), "It is between 0 and 4095."))?;
        let ids = given.strings("userAssignedIdentities").map_err(validation)?.unwrap_or_default();
        for id in &ids {
            identity_id(id, PATH, "userAssignedIdentities")?;
        }
        Ok(Self {
            vm_size: text(&given, "vmSize")?,
            os_disk_size_gb,
            user_assigned_identities: ids,
            network: network(&given)?,
        })
    }

    pub(super) fn body(&self) -> Value {
        // Empty rather than left out (recorded).
        let mut body =
            json!({"vmSize": self.vm_size.as_deref().unwrap_or_default(), "osDiskSizeGB": self.os_disk_size_gb});
        if !self.user_assigned_identities.is_empty() {
            body["userAssignedIdentities"] = json!(self.user_assigned_identities);
        }
        if let Some(network) = &self.network {
            let mut shown = json!({"subnetId": network.subnet_id});
            for (name, value) in [
                ("containerInstanceSubnetId", &network.container_instance_subnet_id),
                ("proxyVmSize", &network.proxy_vm_size),
            ] {
                if let Some(value) = value {
                    shown[name] = json!(value);
                }
            }
            body["vnetConfig"] = shown;
        }
        body
    }
}

fn network(given: &Fields<'_>) -> Result<Option<Network>, ArmError> {
    let path = format!("{PATH}.vnetConfig");
    let fields = given.object("vnetConfig").map_err(validation)?;
    let subnet = text(&fields, "subnetId")?;
    let containers = text(&fields, "containerInstanceSubnetId")?;
    let proxy_vm_size = text(&fields, "proxyVmSize")?;
    let Some(subnet_id) = subnet else {
        // Nothing, or texts that are empty.
        return match containers.or(proxy_vm_size) {
            None => Ok(None),
            Some(_) => Err(missing(&path, "subnetId")),
        };
    };
    let network_of = |id: &str| {
        let parsed = id.parse::<ResourceId>().ok().filter(|i| i.resource_type().key() == SUBNET)?;
        parsed.parent().map(|network| network.key())
    };
    let Some(network) = network_of(&subnet_id) else {
        return Err(bad_value(&path, "subnetId", &subnet_id, "The id of a subnet is expected."));
    };
    if let Some(containers) = &containers {
        let why = "Another subnet of the network of 'subnetId' is expected.";
        if network_of(containers).as_deref() != Some(&network) || containers.eq_ignore_ascii_case(&subnet_id) {
            return Err(bad_value(&path, "containerInstanceSubnetId", containers, why));
        }
        if let Some(size) = &proxy_vm_size {
            let why = "It is not given together with 'containerInstanceSubnetId'.";
            return Err(bad_value(&path, "proxyVmSize", size, why));
        }
    }
    Ok(Some(Network { subnet_id, container_instance_subnet_id: containers, proxy_vm_size }))
}
