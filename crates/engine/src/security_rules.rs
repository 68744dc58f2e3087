//! Security rules as the host process takes them: Azure's words become addresses. Pure.

use lazuli_arm::bodies::network_security_group::ranges;
use lazuli_arm::bodies::virtual_network::Prefix;
use lazuli_vmm::net::{Direction, Peers, RuleProtocol, Security, SecurityRule, WIRE_SERVER};
use serde_json::Value;
use std::net::Ipv4Addr;

/// The rules of an interface. `groups`: the rules' bodies of each group that is on it or its subnet; `network`: the network's body.
pub(crate) fn security(groups: &[Vec<Value>], network: &Value) -> Security {
    let prefixes = network["properties"]["addressSpace"]["addressPrefixes"].as_array().into_iter().flatten();
    let prefixes = prefixes.filter_map(|p| p.as_str()?.parse::<Prefix>().ok());
    let sorted = |rules: &Vec<Value>| {
        let mut rules: Vec<&Value> = rules.iter().collect();
        rules.sort_by_key(|rule| rule["properties"]["priority"].as_i64());
        rules.into_iter().filter_map(rule).collect()
    };
    Security {
        groups: groups.iter().map(sorted).collect(),
        network: prefixes.map(|prefix| (prefix.network, prefix.len)).collect(),
    }
}

/// `None`: of a protocol that no network here carries.
fn rule(body: &Value) -> Option<SecurityRule> {
    let properties = &body["properties"];
    let protocol = match properties["protocol"].as_str()? {
        "*" => RuleProtocol::Any,
        "Tcp" => RuleProtocol::Tcp,
        "Udp" => RuleProtocol::Udp,
        "Icmp" => RuleProtocol::Icmp,
        _ => return None,
    };
    Some(SecurityRule {
        allow: properties["access"] == "Allow",
        direction: if properties["direction"] == "Inbound" { Direction::Inbound } else { Direction::Outbound },
        protocol,
        sources: peers(properties, "source"),
        source_ports: ranges(body, "source"),
        destinations: peers(properties, "destination"),
        destination_ports: ranges(body, "destination"),
    })
}

/// The tags of Azure's own services name nobody: their addresses are not here.
fn peers(properties: &Value, side: &str) -> Vec<Peers> {
    let many = properties[format!("{side}AddressPrefixes")].as_array().into_iter().flatten();
    let one = &properties[format!("{side}AddressPrefix")];
    many.chain([one]).filter_map(Value::as_str).filter_map(peer).collect()
}

fn peer(text: &str) -> Option<Peers> {
    match text.trim().to_ascii_lowercase().as_str() {
        "*" | "any" => Some(Peers::Any),
        "virtualnetwork" => Some(Peers::VirtualNetwork),
        "internet" => Some(Peers::Internet),
        "azureloadbalancer" => Some(Peers::Prefix(WIRE_SERVER, 32)),
        text => {
            let (address, len) = text.split_once('/').unwrap_or((text, "32"));
            let len = len.parse().ok().filter(|len| *len <= 32)?;
            Some(Peers::Prefix(address.parse::<Ipv4Addr>().ok()?, len))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(priority: u32, more: Value) -> Value {
        let mut rule = json!({"properties": {"priority": priority, "protocol": "Tcp", "access": "Deny", "direction": "Outbound",
            "sourceAddressPrefix": "*", "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": "*"}});
        for (name, value) in more.as_object().unwrap() {
            rule["properties"][name] = value.clone();
        }
        rule
    }

    #[test]
    fn rules_come_in_their_order_with_addresses_for_names() {
        let many = json!({"destinationAddressPrefix": null, "destinationAddressPrefixes": ["10.1.0.0/16", "Internet", "Storage", "8.8.8.8"],
            "destinationPortRanges": ["80", "8000-8080"], "destinationPortRange": null, "access": "Allow"});
        let group = vec![body(300, json!({})), body(200, many), body(100, json!({"protocol": "Esp"}))];
        let network = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}});
        let found = security(&[group], &network);
        assert_eq!(found.network, [(Ipv4Addr::new(10, 0, 0, 0), 16)]);
        let [first, second] = &found.groups[0][..] else { panic!("two are of protocols that are carried") };
        assert!(first.allow && !second.allow);
        let at = |text: &str, len| Peers::Prefix(text.parse().unwrap(), len);
        assert_eq!(first.destinations, [at("10.1.0.0", 16), Peers::Internet, at("8.8.8.8", 32)]);
        assert_eq!(first.destination_ports, [(80, 80), (8000, 8080)]);
        assert_eq!((&second.sources[..], &second.source_ports[..]), (&[Peers::Any][..], &[(0, u16::MAX)][..]));
    }

    #[test]
    fn names_are_told_from_addresses() {
        assert_eq!(peer("VirtualNetwork"), Some(Peers::VirtualNetwork));
        assert_eq!(peer("0.0.0.0/0"), Some(Peers::Prefix(Ipv4Addr::UNSPECIFIED, 0)));
        for none in ["Sql.EastUS", "10.0.0.0/33", "::/0", ""] {
            assert_eq!(peer(none), None, "{none}");
        }
    }
}
