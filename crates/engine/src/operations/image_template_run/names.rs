//! What a run's resources are called: as Packer's, whose names people look for in staging groups, and with the run's own ending, so that
//! a second attempt makes the same ones. Pure.

use lazuli_arm::ResourceId;

/// Of one run.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub group: ResourceId,
    suffix: String,
}

/// Of a machine and what is its own.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub machine: ResourceId,
    pub interface: ResourceId,
    pub address: ResourceId,
    pub os_disk: String,
    /// Name of the host, in the guest and in its network's DNS.
    pub host_name: String,
}

impl Names {
    pub fn new(group: &ResourceId, suffix: &str) -> Self {
        Self { group: group.clone(), suffix: suffix.to_owned() }
    }

    pub fn build(&self) -> Machine {
        self.of(&self.suffix)
    }

    pub fn validate(&self) -> Machine {
        self.of(&format!("v{}", self.suffix))
    }

    fn of(&self, suffix: &str) -> Machine {
        Machine {
            machine: self.group.resource("Microsoft.Compute", "virtualMachines", &format!("pkrvm{suffix}")),
            interface: self.group.resource("Microsoft.Network", "networkInterfaces", &format!("pkrni{suffix}")),
            address: self.group.resource("Microsoft.Network", "publicIPAddresses", &format!("pkrip{suffix}")),
            os_disk: format!("pkros{suffix}"),
            host_name: format!("pkrvm{suffix}"),
        }
    }

    pub fn network(&self) -> ResourceId {
        self.group.resource("Microsoft.Network", "virtualNetworks", &format!("pkrvn{}", self.suffix))
    }

    pub fn security_group(&self) -> ResourceId {
        self.group.resource("Microsoft.Network", "networkSecurityGroups", &format!("pkrsg{}", self.suffix))
    }

    /// The image that the validating machine is made of.
    pub fn result(&self) -> ResourceId {
        self.group.resource("Microsoft.Compute", "images", &format!("pkrim{}", self.suffix))
    }

    /// A copy of the OS disk, or of the data disk at a LUN, in the build's region or, for results elsewhere, in another one.
    pub fn snapshot(&self, lun: Option<u8>, region: Option<&str>) -> ResourceId {
        let disk = lun.map(|lun| format!("d{lun}")).unwrap_or_default();
        let name = format!("pkrsn{}{disk}{}", self.suffix, region.unwrap_or_default());
        self.group.resource("Microsoft.Compute", "snapshots", &name)
    }

    /// Whether a resource of the staging group was made for another run.
    pub fn is_left(&self, name: &str) -> bool {
        name.to_ascii_lowercase().starts_with("pkr") && !self.is_own(name)
    }

    /// Whether a resource of the staging group was made for this run.
    pub fn is_own(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        name.starts_with("pkr") && name.contains(&self.suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_their_run() {
        let group = ResourceId::group("s", "IT_g_t_1");
        let (names, others) = (Names::new(&group, "0123456789"), Names::new(&group, "abcdefabcd"));
        let (build, validate) = (names.build(), names.validate());
        assert_eq!(build.machine.name(), "pkrvm0123456789");
        assert_eq!(validate.interface.name(), "pkrniv0123456789");
        for name in [build.os_disk.as_str(), validate.address.name(), names.result().name(), names.network().name()] {
            assert!(names.is_own(name) && !others.is_own(name), "{name}");
        }
        let copies = [(None, None), (Some(0), None), (None, Some("eastus")), (Some(0), Some("eastus"))];
        let copies = copies.map(|(lun, region)| names.snapshot(lun, region).name().to_owned());
        assert!(copies.iter().all(|name| names.is_own(name)), "{copies:?}");
        assert_eq!(copies.iter().collect::<std::collections::BTreeSet<_>>().len(), copies.len());
        assert!(names.is_left(others.network().name()) && !names.is_left(names.network().name()));
        assert!(!names.is_own("stagingaccount") && !names.is_left("stagingaccount"));
        assert!(build.host_name.len() <= 15 && validate.host_name.len() <= 64);
    }
}
