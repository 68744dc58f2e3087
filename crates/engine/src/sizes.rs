//! The catalogue of VM sizes as Azure's clients see it: `…/Microsoft.Compute/locations/{l}/vmSizes` and `…/Microsoft.Compute/skus`.
//!
//! What a size claims is what this server does: no accelerated networking, no encryption at the host, no ephemeral disks.

use crate::Engine;
use crate::call::{Call, Listing};
use lazuli_arm::bodies::virtual_machine::SIZES;
use lazuli_arm::{ArmError, ResourceId, ResourceType, locations};
use serde_json::{Value, json};

/// LUNs 0 to 63.
const MAX_DATA_DISKS: u32 = 64;
/// The largest OS disk, 4095 GiB, in MiB.
const MAX_OS_DISK_MIB: u64 = 4095 << 10;

impl Engine {
    /// A list of sizes; `None` for any other collection.
    pub(crate) async fn sizes_list(
        &self,
        call: &Call,
        parent: &ResourceId,
        collection: &ResourceType,
    ) -> Result<Option<Listing>, ArmError> {
        let (right, items) = match collection.key().as_str() {
            "microsoft.compute/locations/vmsizes" => {
                region(parent.name())?;
                ("Microsoft.Compute/locations/vmSizes/read", vm_sizes())
            }
            "microsoft.compute/skus" => ("Microsoft.Compute/skus/read", skus(wanted_location(call)?.as_deref())),
            _ => return Ok(None),
        };
        self.require_subscription(&call.caller, &parent.subscription).await?;
        let scope = ResourceId::subscription(&parent.subscription).to_string();
        self.authorize(&call.caller, &scope, right).await?;
        Ok(Some(Listing { items, next: None }))
    }
}

/// The region that a path names.
///
/// # Errors
/// `InvalidParameter`.
pub(crate) fn region(name: &str) -> Result<&'static str, ArmError> {
    locations::normalize(name).map(|l| l.name).ok_or_else(|| {
        let message = format!("The value {name} provided for the location is not valid: it is no known region.");
        ArmError::invalid_parameter("location", message)
    })
}

/// Sizes as `vmSizes` lists them.
pub(crate) fn vm_sizes() -> Vec<Value> {
    let size = |(name, cpus, memory_mib): &(&str, u32, u64)| {
        json!({
            "name": name, "numberOfCores": cpus, "memoryInMB": memory_mib, "maxDataDiskCount": MAX_DATA_DISKS,
            "osDiskSizeInMB": MAX_OS_DISK_MIB, "resourceDiskSizeInMB": 0,
        })
    };
    SIZES.iter().map(size).collect()
}

/// `$filter=location eq 'eastus'`, the only filter that Azure has here.
fn wanted_location(call: &Call) -> Result<Option<String>, ArmError> {
    let Some(filter) = call.query.get("$filter").filter(|f| !f.trim().is_empty()) else { return Ok(None) };
    let quoted = filter.trim().strip_prefix("location eq ").map(|v| v.trim().trim_matches('\'').to_owned());
    quoted.map(Some).ok_or_else(|| {
        ArmError::bad_request("InvalidFilter", format!("The filter '{filter}' is not supported: use location eq '…'."))
    })
}

/// One entry a size and region, as Azure has them.
fn skus(location: Option<&str>) -> Vec<Value> {
    let regions = locations::all().iter().filter(|l| location.is_none_or(|w| w.eq_ignore_ascii_case(l.name)));
    regions.flat_map(|region| SIZES.iter().map(|size| sku(region.name, size))).collect()
}

fn sku(region: &str, (name, cpus, memory_mib): &(&str, u32, u64)) -> Value {
    let gib = match memory_mib % 1024 {
        0 => (memory_mib / 1024).to_string(),
        rest => format!("{}.{}", memory_mib / 1024, rest * 10 / 1024),
    };
    let capabilities = [
        ("vCPUs", cpus.to_string()),
        ("vCPUsAvailable", cpus.to_string()),
        ("MemoryGB", gib),
        ("MaxDataDiskCount", MAX_DATA_DISKS.to_string()),
        ("OSVhdSizeMB", MAX_OS_DISK_MIB.to_string()),
        ("MaxResourceVolumeMB", "0".into()),
        ("CpuArchitectureType", "x64".into()),
        ("HyperVGenerations", "V1,V2".into()),
        ("PremiumIO", "True".into()),
        ("LowPriorityCapable", "False".into()),
        ("AcceleratedNetworkingEnabled", "False".into()),
        ("EncryptionAtHostSupported", "False".into()),
        ("EphemeralOSDiskSupported", "False".into()),
        ("UltraSSDAvailable", "False".into()),
    ];
    let capabilities: Vec<Value> = capabilities.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
    let short = name.trim_start_matches("Standard_");
    let family: String = short.chars().take_while(char::is_ascii_alphabetic).collect();
    json!({
        "resourceType": "virtualMachines", "name": name, "tier": "Standard", "size": short,
        "family": format!("standard{family}Family"), "locations": [region],
        "locationInfo": [{"location": region, "zones": ["1", "2", "3"], "zoneDetails": []}],
        "capabilities": capabilities, "restrictions": [],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_what_az_looks_for() {
        let listed = skus(Some("EastUS"));
        assert_eq!(listed.len(), SIZES.len());
        for sku in &listed {
            assert_eq!(sku["locationInfo"][0]["location"], "eastus");
            let names: Vec<_> =
                sku["capabilities"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
            assert!(names.contains(&"vCPUs") && names.contains(&"HyperVGenerations"), "{names:?}");
        }
        assert_eq!(sku("eastus", &("Standard_B1ls", 1, 512))["capabilities"][2]["value"], "0.5");
        assert!(skus(Some("atlantis")).is_empty());
        assert_eq!(vm_sizes()[0]["numberOfCores"], 1);
    }
}
