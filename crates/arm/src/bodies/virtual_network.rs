//! `Microsoft.Network/virtualNetworks` and `…/subnets`: address spaces and what lies in them.

use super::offered::{self, Refusal};
use super::{Context, Fields, Head};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

const REFUSED: &[Refusal] = &[
    (&["extendedLocation"], &[], "there are no edge zones"),
    (&["properties", "dhcpOptions", "dnsServers"], &["AzureProvidedDNS"], "guests ask the platform's DNS"),
    (&["properties", "enableDdosProtection"], &[], "there is no DDoS protection"),
    (&["properties", "ddosProtectionPlan"], &[], "there is no DDoS protection"),
    (&["properties", "virtualNetworkPeerings"], &[], "networks are not joined"),
    (&["properties", "encryption", "enabled"], &[], "what goes between machines is not encrypted"),
    (&["properties", "flowTimeoutInMinutes"], &[], "connections have time-outs of their own"),
];

const SUBNET: &[Refusal] = &[
    (&["routeTable"], &[], "there are no route tables"),
    (&["natGateway"], &[], "every subnet goes out by its network's own NAT"),
    (&["serviceEndpointPolicies"], &[], "there are no policies of service endpoints"),
    (&["ipamPoolPrefixAllocations"], &[], "address prefixes are given by the request"),
];

/// An IPv4 prefix such as `10.0.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub network: Ipv4Addr,
    pub len: u8,
}

impl Prefix {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }

    pub fn covers(self, other: Self) -> bool {
        other.len >= self.len && self.contains(other.network)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The first address, which Azure gives to the gateway.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// Addresses for interfaces: without the first four (network, gateway, two for DNS) and the last (broadcast).
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = u32::from(self.network);
        let last = first | !self.mask();
        (first.saturating_add(4)..last).map(Ipv4Addr::from)
    }

    /// Whether [`Prefix::hosts`] has this address.
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        self.contains(address) && offset >= 4 && offset != !self.mask()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

impl FromStr for Prefix {
    type Err = ArmError;

    fn from_str(text: &str) -> Result<Self, ArmError> {
        let bad = || {
            ArmError::bad_request(
                "InvalidAddressPrefixFormat",
                format!(
                    "Address prefix {text} is not correctly formatted. It should follow CIDR notation, for example 10.0.0.0/24."
                ),
            )
        };
        let (address, len) = text.trim().split_once('/').ok_or_else(bad)?;
        let prefix = Self { network: address.parse().map_err(|_| bad())?, len: len.parse().map_err(|_| bad())? };
        if !(8..=29).contains(&prefix.len) {
            return Err(bad());
        }
        if u32::from(prefix.network) & !prefix.mask() != 0 {
            return Err(ArmError::bad_request(
                "InvalidCIDRNotation",
                format!(
                    "The address prefix {text} has an invalid CIDR notation. For the given prefix length, the address prefix should be {}/{}.",
                    Ipv4Addr::from(u32::from(prefix.network) & prefix.mask()),
                    prefix.len
                ),
            ));
        }
        Ok(prefix)
    }
}

/// A network's own body (without its subnets) and the subnets named inline.
pub struct VirtualNetwork {
    pub body: Value,
    /// `(name, body)`; `None`: the request did not speak of subnets.
    pub subnets: Option<Vec<(String, Value)>>,
}

/// Checks a virtual network's PUT.
///
/// # Errors
/// `InvalidAddressPrefixFormat`, `NetcfgSubnetRangeOutsideVnet`, `NetcfgSubnetRangesOverlap`, …
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<VirtualNetwork, ArmError> {
    let root = Fields::root("virtualNetwork", new)?;
    let head = Head::read(id, &root, old, ctx)?;
    let properties = root.object("properties")?;
    offered::check(&root, REFUSED)?;
    let space = properties.object("addressSpace")?;
    let prefixes =
        space.strings("addressPrefixes")?.filter(|p| !p.is_empty()).ok_or_else(|| space.missing("addressPrefixes"))?;
    let parsed: Vec<Prefix> = prefixes.iter().map(|p| p.parse()).collect::<Result<_, _>>()?;
    let mut subnets = None;
    if let Some(inline) = properties.objects("subnets")? {
        let mut checked: Vec<(String, Value)> = Vec::new();
        for fields in &inline {
            let name = fields.required_str("name")?;
            let body = subnet_of(&name, &fields.object("properties")?, &parsed, &checked)?;
            checked.push((name, body));
        }
        subnets = Some(checked);
    }
    let mut body = Map::new();
    body.insert(
        "addressSpace".into(),
        json!({"addressPrefixes": parsed.iter().map(ToString::to_string).collect::<Vec<_>>()}),
    );
    body.insert("enableDdosProtection".into(), json!(false));
    Ok(VirtualNetwork { body: head.body(vec![], body), subnets })
}

/// Checks a subnet's PUT. `space` is the network's address space, `others` the network's other subnets.
///
/// # Errors
/// As [`put`].
pub fn put_subnet(name: &str, new: &Value, network: &Value, others: &[(String, Value)]) -> Result<Value, ArmError> {
    let root = Fields::root("subnet", new)?;
    let space = network["properties"]["addressSpace"]["addressPrefixes"].as_array().cloned().unwrap_or_default();
    let space: Vec<Prefix> = space.iter().filter_map(Value::as_str).map(str::parse).collect::<Result<_, _>>()?;
    subnet_of(name, &root.object("properties")?, &space, others)
}

fn subnet_of(
    name: &str,
    properties: &Fields<'_>,
    space: &[Prefix],
    others: &[(String, Value)],
) -> Result<Value, ArmError> {
    offered::check(properties, SUBNET)?;
    let several = properties.strings("addressPrefixes")?.unwrap_or_default();
    if several.len() > 1 {
        return Err(super::not_offered(&properties.path("addressPrefixes"), "a subnet has one address prefix"));
    }
    let first = several.into_iter().next();
    let text = match properties.str("addressPrefix")?.or(first) {
        Some(text) => text,
        None => return Err(properties.missing("addressPrefix")),
    };
    let prefix: Prefix = text.parse()?;
    if !space.iter().any(|s| s.covers(prefix)) {
        return Err(ArmError::bad_request(
            "NetcfgSubnetRangeOutsideVnet",
            format!(
                "Subnet '{name}' is not valid because its IP address range is outside the IP address range of virtual network."
            ),
        ));
    }
    for (other_name, other) in others.iter().filter(|(n, _)| !n.eq_ignore_ascii_case(name)) {
        if prefix_of(other).is_some_and(|o| o.overlaps(prefix)) {
            return Err(ArmError::bad_request(
                "NetcfgSubnetRangesOverlap",
                format!(
                    "Subnet '{name}' is not valid because its IP address range overlaps with that of an existing subnet '{other_name}' in the virtual network."
                ),
            ));
        }
    }
    let mut body = Map::new();
    body.insert("addressPrefix".into(), prefix.to_string().into());
    if let Some(nsg) = properties.object("networkSecurityGroup")?.str("id")? {
        body.insert("networkSecurityGroup".into(), json!({"id": nsg}));
    }
    // Azure's defaults (recorded).
    for (name, default) in
        [("privateEndpointNetworkPolicies", "Disabled"), ("privateLinkServiceNetworkPolicies", "Enabled")]
    {
        body.insert(name.into(), properties.str(name)?.map_or(json!(default), Value::from));
    }
    if let Some(outbound) = properties.bool("defaultOutboundAccess")? {
        body.insert("defaultOutboundAccess".into(), outbound.into());
    }
    // Kept and shown: no service of Azure's is here that either would let in.
    body.insert("delegations".into(), properties.get("delegations").cloned().unwrap_or_else(|| json!([])));
    if let Some(endpoints) = properties.get("serviceEndpoints") {
        body.insert("serviceEndpoints".into(), endpoints.clone());
    }
    Ok(json!({"properties": body}))
}

/// The address prefix of a stored subnet.
pub fn prefix_of(subnet: &Value) -> Option<Prefix> {
    subnet["properties"]["addressPrefix"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_know_their_addresses() {
        let p = prefix("10.0.1.0/29");
        assert_eq!(p.gateway(), Ipv4Addr::new(10, 0, 1, 1));
        let hosts: Vec<String> = p.hosts().map(|h| h.to_string()).collect();
        assert_eq!(hosts, ["10.0.1.4", "10.0.1.5", "10.0.1.6"]);
        let all = (0..=255).map(|n| Ipv4Addr::new(10, 0, 1, n)).filter(|a| p.is_host(*a));
        assert!(all.eq(p.hosts()));
        assert!(prefix("10.0.0.0/16").covers(p) && !p.covers(prefix("10.0.0.0/16")));
        assert!(prefix("10.0.0.0/16").overlaps(p) && !prefix("10.1.0.0/16").overlaps(p));
    }

    #[test]
    fn bad_prefixes_are_refused() {
        for (text, code) in [
            ("10.0.0.0", "InvalidAddressPrefixFormat"),
            ("10.0.0.0/33", "InvalidAddressPrefixFormat"),
            ("10.0.0/24", "InvalidAddressPrefixFormat"),
            ("10.0.0.1/24", "InvalidCIDRNotation"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn subnets_stay_inside_and_apart() {
        let network = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}});
        let subnet = |p: &str| json!({"properties": {"addressPrefix": p}});
        let a = put_subnet("a", &subnet("10.0.0.0/24"), &network, &[]).unwrap();
        let others = [("a".to_owned(), a)];
        assert!(put_subnet("a", &subnet("10.0.0.0/23"), &network, &others).is_ok(), "a subnet does not overlap itself");
        let code = |p: &str| put_subnet("b", &subnet(p), &network, &others).unwrap_err().code;
        assert_eq!(code("10.1.0.0/24"), "NetcfgSubnetRangeOutsideVnet");
        assert_eq!(code("10.0.0.128/25"), "NetcfgSubnetRangesOverlap");
    }

    #[test]
    fn what_is_asked_for_and_not_done_is_named() {
        use super::super::merge_patch;
        use super::super::offered::tests::hold;
        use super::super::testing::{context, version};
        let body = json!({"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}});
        let api = version("2024-05-01");
        let id = ResourceId::group("0", "g").resource("Microsoft.Network", "virtualNetworks", "v");
        hold(REFUSED, |change| merge_patch(&body, &change), |b| put(&id, b, None, &context(&api)).map(drop));
        let subnet = |more: Value| merge_patch(&json!({"properties": {"addressPrefix": "10.0.0.0/24"}}), &more);
        let written = |more: Value| put_subnet("s", &subnet(more), &body, &[]);
        hold(SUBNET, |change| json!({ "properties": change }), |b| written(b.clone()).map(drop));
        let two = json!({"properties": {"addressPrefix": null, "addressPrefixes": ["10.0.0.0/24", "10.0.1.0/24"]}});
        assert_eq!(written(two).unwrap_err().code, "OperationNotSupported");
        let delegated =
            json!([{"name": "aci", "properties": {"serviceName": "Microsoft.ContainerInstance/containerGroups"}}]);
        let shown = written(json!({"properties": {"delegations": delegated}})).unwrap();
        assert_eq!(shown["properties"]["delegations"], delegated);
    }
}
