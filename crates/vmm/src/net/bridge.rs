//! What the operator says of a LAN that a virtual network is bridged to, and which of it makes sense. Pure.
//!
//! Whoever may write a virtual network decides nothing about this computer's LANs: only the operator's list does. It names the network by
//! its whole id, and the addresses outside of which no interface of it is let onto the LAN.
//!
//! ```text
//!  lan        192.168.10.0/24     what the LAN is: the mask that guests are told
//!  gateway    192.168.10.1        its router: the guests' default route
//!  addresses  192.168.10.128/25   what nobody else on the LAN uses: the subnets of the network lie in it, with their own gateways, which
//!                                 only the guests see, for the addresses of the platform
//! ```

use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::security::covers;
use super::{IMDS, NetError, NicConfig, WIRE_SERVER, policy};

/// A range of addresses, written `192.168.10.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    network: Ipv4Addr,
    len: u8,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no range of addresses such as 192.168.10.0/24")]
pub struct BadPrefix(String);

impl Prefix {
    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        covers(self.network, self.len, address)
    }

    fn lies_in(&self, other: &Prefix) -> bool {
        self.len >= other.len && other.contains(self.network)
    }

    fn overlaps(&self, other: &Prefix) -> bool {
        self.lies_in(other) || other.lies_in(self)
    }

    pub(super) fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0)
    }

    /// The first and the last address of a LAN are nobody's.
    pub(super) fn is_an_end(&self, address: Ipv4Addr) -> bool {
        address == self.network || u32::from(address) == u32::from(self.network) | !self.mask()
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let bad = || BadPrefix(text.to_owned());
        let (network, len) = text.split_once('/').ok_or_else(bad)?;
        let prefix = Prefix { network: network.parse().map_err(|_| bad())?, len: len.parse().map_err(|_| bad())? };
        let whole = prefix.len <= 32 && u32::from(prefix.network) & !prefix.mask() == 0;
        if whole { Ok(prefix) } else { Err(bad()) }
    }
}

impl TryFrom<String> for Prefix {
    type Error = BadPrefix;

    fn try_from(text: String) -> Result<Self, BadPrefix> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

/// A virtual network's LAN, as the operator's configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// Id of the virtual network.
    pub network: String,
    /// The bridge of this computer that the LAN is on.
    #[serde(default)]
    pub bridge: Option<String>,
    /// Instead of it: a tap device on the LAN, made beforehand for the user of this process.
    #[serde(default)]
    pub tap: Option<String>,
    /// What the LAN is.
    pub lan: Prefix,
    /// Its router. `None`: nothing but the LAN can be reached.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// What interfaces of the network may have as theirs.
    pub addresses: Prefix,
}

/// The same, without the way to it.
#[derive(Debug, Clone)]
pub(super) struct Lan {
    pub(super) prefix: Prefix,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) addresses: Prefix,
}

/// Why an entry of the operator's list cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("[[bridges]] of '{network}': {reason}")]
pub struct BadBridge {
    network: String,
    reason: String,
}

impl Bridge {
    pub(super) fn lan(&self) -> Lan {
        Lan { prefix: self.lan, gateway: self.gateway, addresses: self.addresses }
    }

    fn check(&self) -> Result<(), BadBridge> {
        let reason = if !is_network_id(&self.network) {
            "network must be the id of a virtual network (az network vnet show --query id)".to_owned()
        } else if self.bridge.is_some() && self.tap.is_some() {
            "name a bridge or a tap, not both".to_owned()
        } else if let Some(name) = self.bridge.iter().chain(&self.tap).find(|name| !is_device_name(name)) {
            format!("'{name}' cannot be the name of a network device")
        } else if let Err(reason) = self.lan().check() {
            reason
        } else {
            return Ok(());
        };
        Err(BadBridge { network: self.network.clone(), reason })
    }
}

impl Lan {
    fn check(&self) -> Result<(), String> {
        let Lan { prefix, gateway, addresses } = self;
        if !(8..=30).contains(&prefix.len) {
            return Err(format!("lan = {prefix} must be between /8 and /30"));
        }
        if [prefix.network, addresses.network].iter().any(|a| !policy::is_outside(*a))
            || [WIRE_SERVER, IMDS].iter().any(|a| prefix.contains(*a))
        {
            return Err(format!("lan = {prefix} cannot be a LAN's: it is loopback, link-local or the platform's own"));
        }
        if !addresses.lies_in(prefix) {
            return Err(format!("addresses = {addresses} must lie in lan = {prefix}"));
        }
        match gateway {
            Some(gateway) if !prefix.contains(*gateway) || prefix.is_an_end(*gateway) => {
                Err(format!("gateway = {gateway} is no address of a host on {prefix}"))
            }
            Some(gateway) if addresses.contains(*gateway) => Err(format!(
                "gateway = {gateway} is in addresses = {addresses}, which must be free for the network's interfaces"
            )),
            _ => Ok(()),
        }
    }

    /// Whether an interface may be on the LAN.
    pub(super) fn admit(&self, nic: &NicConfig) -> Result<(), NetError> {
        let outside = [nic.address, nic.gateway].into_iter().find(|a| !self.addresses.contains(*a));
        let reason = if let Some(address) = outside {
            format!(
                "{address} is not in {}, which the operator has set aside for it: choose a subnet in that range",
                self.addresses
            )
        } else if self.prefix.is_an_end(nic.address) {
            format!("{} is the first or last address of {}", nic.address, self.prefix)
        } else if nic.mac[0] & 2 == 0 {
            "its MAC address is not a locally administered one, so that another device may have it: make the interface anew, \
             with the network's [[bridges]] entry in the server's configuration too"
                .to_owned()
        } else {
            return Ok(());
        };
        Err(NetError::NotOnLan { nic: nic.id.clone(), reason })
    }
}

/// All of the operator's list.
#[derive(Debug, Clone, Default)]
pub struct Bridges(Vec<Bridge>);

impl Bridges {
    /// # Errors
    /// The first entry that makes no sense, by itself or beside another.
    pub fn new(list: Vec<Bridge>) -> Result<Bridges, BadBridge> {
        for (index, bridge) in list.iter().enumerate() {
            bridge.check()?;
            let clash = list[..index].iter().find_map(|other| clash(bridge, other));
            if let Some(reason) = clash {
                return Err(BadBridge { network: bridge.network.clone(), reason });
            }
        }
        Ok(Bridges(list))
    }

    /// The LAN of a virtual network, if it has one.
    pub fn of(&self, network: &str) -> Option<&Bridge> {
        self.0.iter().find(|bridge| bridge.network.eq_ignore_ascii_case(network))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Bridge> {
        self.0.iter()
    }

    /// Ids of the virtual networks whose LANs this computer has, in lower case.
    pub fn here(&self) -> impl Iterator<Item = String> {
        let here = self.0.iter().filter(|bridge| bridge.bridge.is_some() || bridge.tap.is_some());
        here.map(|bridge| bridge.network.to_ascii_lowercase())
    }
}

/// Two networks on one LAN must not give one address twice; which LANs are one is known by the device alone.
fn clash(one: &Bridge, other: &Bridge) -> Option<String> {
    if one.network.eq_ignore_ascii_case(&other.network) {
        return Some("the network is named twice".to_owned());
    }
    if let Some(tap) = one.tap.as_ref().filter(|_| one.tap == other.tap) {
        return Some(format!("the tap {tap} is that of '{}': each network needs its own", other.network));
    }
    let shared = one.bridge.is_some() && one.bridge == other.bridge;
    (shared && one.addresses.overlaps(&other.addresses))
        .then(|| format!("its addresses and those of '{}' overlap on one bridge", other.network))
}

fn is_network_id(id: &str) -> bool {
    let words: Vec<&str> = id.split('/').collect();
    let fixed = [
        (1, "subscriptions"),
        (3, "resourceGroups"),
        (5, "providers"),
        (6, "Microsoft.Network"),
        (7, "virtualNetworks"),
    ];
    words.len() == 9
        && words[0].is_empty()
        && words[1..].iter().all(|word| !word.is_empty())
        && fixed.iter().all(|(at, word)| words[*at].eq_ignore_ascii_case(word))
}

/// The kernel's rule; `%` would make it a pattern.
fn is_device_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/lan";

    pub(in crate::net) fn lan(prefix: &str, gateway: Option<&str>, addresses: &str) -> Lan {
        Lan {
            prefix: prefix.parse().unwrap(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            addresses: addresses.parse().unwrap(),
        }
    }

    fn bridge(name: &str, device: &str, lan: Lan) -> Bridge {
        Bridge {
            network: format!("{ID}{name}"),
            bridge: Some(device.to_owned()),
            tap: None,
            lan: lan.prefix,
            gateway: lan.gateway,
            addresses: lan.addresses,
        }
    }

    fn usual() -> Bridge {
        bridge("", "br0", lan("192.168.10.0/24", Some("192.168.10.1"), "192.168.10.128/25"))
    }

    #[test]
    fn ranges_are_whole() {
        for good in ["192.168.10.0/24", "10.0.0.0/8", "192.168.10.7/32", "0.0.0.0/0"] {
            assert_eq!(good.parse::<Prefix>().unwrap().to_string(), good);
        }
        for bad in ["", "192.168.10.0", "192.168.10.1/24", "192.168.10.0/33", "x/24", "192.168.10.0/", "10.0.0.0/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entry_that_makes_no_sense_says_why() {
        let refused = |bridge: Bridge, says: &str| {
            let error = Bridges::new(vec![bridge]).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        let with = |change: &dyn Fn(&mut Bridge)| {
            let mut bridge = usual();
            change(&mut bridge);
            bridge
        };
        assert!(Bridges::new(vec![usual()]).is_ok());
        assert!(Bridges::new(vec![with(&|b| b.bridge = None)]).is_ok(), "the LAN is another computer's");
        refused(with(&|b| b.network = "lan".to_owned()), "id of a virtual network");
        refused(with(&|b| b.network = format!("{ID}/subnets/a")), "id of a virtual network");
        refused(with(&|b| b.tap = Some("tap0".to_owned())), "not both");
        for name in ["", "br0/x", "a-very-long-name", "br%d", ".."] {
            refused(with(&|b| b.bridge = Some(name.to_owned())), "name of a network device");
        }
        for (prefix, gateway, addresses, says) in [
            ("192.168.10.0/24", "192.168.10.1", "192.168.11.0/25", "must lie in"),
            ("192.168.10.0/24", "192.168.10.1", "192.168.0.0/16", "must lie in"),
            ("192.168.10.0/24", "192.168.11.1", "192.168.10.128/25", "no address of a host"),
            ("192.168.10.0/24", "192.168.10.255", "192.168.10.0/25", "no address of a host"),
            ("192.168.10.0/24", "192.168.10.1", "192.168.10.0/25", "must be free"),
            ("169.254.0.0/16", "169.254.0.1", "169.254.128.0/24", "link-local"),
            ("127.0.0.0/8", "127.0.0.1", "127.1.0.0/24", "loopback"),
            ("168.63.0.0/16", "168.63.0.1", "168.63.1.0/24", "platform"),
            ("192.168.10.4/31", "192.168.10.4", "192.168.10.5/32", "between /8 and /30"),
        ] {
            refused(bridge("", "br0", lan(prefix, Some(gateway), addresses)), says);
        }
    }

    #[test]
    fn two_networks_do_not_get_in_each_others_way() {
        let on =
            |name: &str, device: &str, addresses: &str| bridge(name, device, lan("192.168.10.0/24", None, addresses));
        let list = |one: Bridge, two: Bridge| Bridges::new(vec![one, two]).map_err(|e| e.to_string());
        let both = list(on("1", "br0", "192.168.10.64/26"), on("2", "br0", "192.168.10.128/26")).unwrap();
        assert_eq!(both.of(&format!("{ID}2").to_uppercase()).unwrap().addresses.to_string(), "192.168.10.128/26");
        assert!(both.of(ID).is_none() && both.of("").is_none());
        let error = list(on("1", "br0", "192.168.10.0/25"), on("2", "br0", "192.168.10.64/26")).unwrap_err();
        assert!(error.contains("overlap"), "{error}");
        list(on("1", "br0", "192.168.10.0/25"), on("2", "br1", "192.168.10.0/25")).expect("LANs of their own");
        let error = list(on("1", "br0", "192.168.10.0/26"), on("1", "br1", "192.168.10.64/26")).unwrap_err();
        assert!(error.contains("twice"), "{error}");
        let tap =
            |name: &str| Bridge { bridge: None, tap: Some("tap0".to_owned()), ..on(name, "", "192.168.10.64/26") };
        let error = list(tap("1"), tap("2")).unwrap_err();
        assert!(error.contains("each network needs its own"), "{error}");
    }
}
