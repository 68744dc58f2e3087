//! What a Vnet and its NICs are told, and which of it makes sense.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{NetError, Security};

/// The MAC address behind which Azure's guests see their gateway and every platform address.
pub const GATEWAY_MAC: [u8; 6] = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc];
/// Azure's virtual public IP: WireServer, DHCP and DNS.
pub const WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Azure's instance metadata service.
pub const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// A virtual network.
#[derive(Debug, Clone)]
pub struct VnetConfig {
    /// Name for the log, such as the resource id of the virtual network.
    pub id: String,
    /// Domain of the Vnet's names, without dots at the ends: DHCP option 15 and the zone of its DNS.
    pub dns_suffix: String,
}

/// A network interface and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicConfig {
    /// Unique within the Vnet; given back to [`super::Platform::connect`].
    pub id: String,
    /// The only MAC address that the NIC may send from. Unicast.
    pub mac: [u8; 6],
    /// The only IPv4 address that the NIC may send from, and the one that DHCP leases to it.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix, 8 to 30.
    pub prefix_len: u8,
    /// The subnet's gateway.
    pub gateway: Ipv4Addr,
    /// Name in the Vnet's DNS, without suffix.
    pub host_name: String,
    /// The unix socket that the Vnet listens on and QEMU connects to. A socket left there by an earlier process is replaced.
    pub socket: PathBuf,
    /// May the NIC open connections to addresses outside the Vnet, and resolve their names?
    pub outbound: bool,
    /// Between NICs, and on the way out.
    #[serde(default)]
    pub security: Security,
    /// The address under which this machine forwards connections to the NIC.
    pub public: Option<PublicAddress>,
}

/// An address of this machine (such as 127.0.1.5) that stands for a public IP address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicAddress {
    pub address: Ipv4Addr,
    /// The ports that the security rules open, already evaluated. Empty: nothing is open.
    pub ports: Vec<PortRule>,
}

/// One open port; the guest sees the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRule {
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        })
    }
}

impl NicConfig {
    /// The subnet's mask as a number.
    pub(super) fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0)
    }

    /// Is `address` in the NIC's subnet?
    pub(super) fn in_subnet(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.gateway)) & self.mask() == 0
    }

    pub(super) fn check(&self) -> Result<(), NetError> {
        let reason = if self.mac[0] & 1 != 0 || self.mac == [0; 6] || self.mac == GATEWAY_MAC {
            "its MAC address must be unicast and not the gateway's"
        } else if !(8..=30).contains(&self.prefix_len) {
            "its prefix length must be between 8 and 30"
        } else if !self.in_subnet(self.address) {
            "its address and its gateway must be in one subnet"
        } else if self.address == self.gateway {
            "its address must not be the gateway's"
        } else if [self.address, self.gateway].iter().any(|a| !usable(*a)) {
            "its address and its gateway must be unicast addresses that are neither loopback nor link-local"
        } else if self
            .public
            .as_ref()
            .is_some_and(|p| p.address.is_unspecified() || p.ports.iter().any(|r| r.port == 0))
        {
            "its public address and ports must not be zero"
        } else {
            return Ok(());
        };
        Err(NetError::InvalidNic { nic: self.id.clone(), reason })
    }
}

fn usable(address: Ipv4Addr) -> bool {
    !(address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.octets()[0] == 0
        || address == WIRE_SERVER)
}
