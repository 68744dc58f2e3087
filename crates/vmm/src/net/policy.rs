//! Where packets may go. Pure.
//!
//! Rule one: nothing that a guest sends may reach this machine's loopback or a link-local service (a cloud's own metadata
//! service, for one). Both are decided here, by address, before any socket is opened.

use std::net::Ipv4Addr;

use super::link::NicKey;
use super::{IMDS, NicConfig, WIRE_SERVER};

/// What stands behind an address, seen from one NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Another NIC of the Vnet.
    Nic(NicKey),
    /// A gateway of the Vnet.
    Gateway,
    /// 168.63.129.16
    WireServer,
    /// 169.254.169.254
    Imds,
    /// An address outside, and the NIC may go there.
    Outside,
    /// An address that does not exist, or that the NIC may not reach.
    Nowhere,
}

/// Decides where a packet of `from` to `dest` goes.
pub(super) fn place<'a>(
    from: (NicKey, &NicConfig),
    dest: Ipv4Addr,
    nics: impl Iterator<Item = (NicKey, &'a NicConfig)> + Clone,
) -> Place {
    if dest == WIRE_SERVER {
        return Place::WireServer;
    }
    if dest == IMDS {
        return Place::Imds;
    }
    if dest == from.1.gateway || nics.clone().any(|(_, nic)| nic.gateway == dest) {
        return Place::Gateway;
    }
    if let Some((key, _)) = nics.clone().find(|(_, nic)| nic.address == dest) {
        return if key == from.0 { Place::Nowhere } else { Place::Nic(key) };
    }
    let in_vnet = nics.clone().any(|(_, nic)| nic.in_subnet(dest));
    if from.1.outbound && !in_vnet && is_outside(dest) { Place::Outside } else { Place::Nowhere }
}

/// May NAT open a socket to `dest`?
pub(super) fn is_outside(dest: Ipv4Addr) -> bool {
    let this_network = dest.octets()[0] == 0;
    let reserved = dest.octets()[0] >= 240;
    !(this_network
        || dest.is_loopback()
        || dest.is_link_local()
        || dest.is_multicast()
        || reserved
        || dest == WIRE_SERVER
        || dest == IMDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(address: &str, gateway: &str, outbound: bool) -> NicConfig {
        NicConfig {
            id: address.to_owned(),
            mac: [2, 0, 0, 0, 0, address.len().try_into().unwrap()],
            address: address.parse().unwrap(),
            prefix_len: 24,
            gateway: gateway.parse().unwrap(),
            host_name: "vm".to_owned(),
            socket: "/nowhere".into(),
            outbound,
            security: crate::net::Security::default(),
            public: None,
        }
    }

    #[test]
    fn places() {
        let nics = [nic("10.0.0.4", "10.0.0.1", true), nic("10.0.1.4", "10.0.1.1", false)];
        let list = || nics.iter().enumerate().map(|(i, n)| (NicKey(i as u64), n));
        let place = |from: usize, dest: &str| place((NicKey(from as u64), &nics[from]), dest.parse().unwrap(), list());

        assert_eq!(place(0, "10.0.0.1"), Place::Gateway);
        assert_eq!(place(0, "10.0.1.1"), Place::Gateway);
        assert_eq!(place(0, "10.0.1.4"), Place::Nic(NicKey(1)));
        assert_eq!(place(0, "168.63.129.16"), Place::WireServer);
        assert_eq!(place(1, "169.254.169.254"), Place::Imds);
        assert_eq!(place(0, "8.8.8.8"), Place::Outside);
        assert_eq!(place(1, "8.8.8.8"), Place::Nowhere, "not allowed to go out");
        assert_eq!(place(0, "10.0.1.77"), Place::Nowhere, "in the Vnet, so never of the host's network");
    }

    #[test]
    fn nothing_of_this_machine_is_outside() {
        for dest in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
        ] {
            assert!(!is_outside(dest.parse().unwrap()), "{dest}");
        }
        for dest in ["1.1.1.1", "192.168.1.1", "100.64.0.1"] {
            assert!(is_outside(dest.parse().unwrap()), "{dest}");
        }
    }
}
