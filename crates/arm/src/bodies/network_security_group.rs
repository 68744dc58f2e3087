//! `Microsoft.Network/networkSecurityGroups` and their rules: bodies, and which inbound ports they open to the world.

use super::offered::{self, Refusal};
use super::{Context, Fields, Head};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A rule for some machines must not become one for all.
const REFUSED: &[Refusal] = &[
    (&["sourceApplicationSecurityGroups"], &[], "there are no application security groups"),
    (&["destinationApplicationSecurityGroups"], &[], "there are no application security groups"),
];

/// A rule that lets a whole range in is honoured for these ports (a listener is needed for each open port).
pub const WELL_KNOWN_PORTS: [u16; 12] = [22, 80, 443, 1433, 3306, 3389, 5432, 5900, 5985, 5986, 8080, 8443];

/// Ports of an explicit range beyond this many are honoured only where they are well known.
const MAX_RANGE: u32 = 256;

/// Checks a group's PUT; gives the group's own body and the rules named inline (`None`: not spoken of).
///
/// # Errors
/// As [`put_rule`].
#[expect(clippy::type_complexity, reason = "a body and its named children")]
pub fn put(
    id: &ResourceId,
    new: &Value,
    old: Option<&Value>,
    ctx: &Context<'_>,
) -> Result<(Value, Option<Vec<(String, Value)>>), ArmError> {
    let root = Fields::root("networkSecurityGroup", new)?;
    let head = Head::read(id, &root, old, ctx)?;
    let mut rules = None;
    if let Some(inline) = root.object("properties")?.objects("securityRules")? {
        let mut checked: Vec<(String, Value)> = Vec::new();
        for fields in &inline {
            let name = fields.required_str("name")?;
            let rule = rule_of(&name, &fields.object("properties")?, &checked)?;
            checked.push((name, rule));
        }
        rules = Some(checked);
    }
    Ok((head.body(vec![], Map::new()), rules))
}

/// Checks a rule's PUT against the group's other rules.
///
/// # Errors
/// `SecurityRuleInvalidPriority`, `SecurityRuleConflict` (two rules of one priority and direction), bad ports.
pub fn put_rule(name: &str, new: &Value, others: &[(String, Value)]) -> Result<Value, ArmError> {
    rule_of(name, &Fields::root("securityRule", new)?.object("properties")?, others)
}

fn rule_of(name: &str, properties: &Fields<'_>, others: &[(String, Value)]) -> Result<Value, ArmError> {
    offered::check(properties, REFUSED)?;
    let mut body = Map::new();
    let priority = properties.int("priority")?.ok_or_else(|| properties.missing("priority"))?;
    if !(100..=4096).contains(&priority) {
        return Err(ArmError::bad_request(
            "SecurityRuleInvalidPriority",
            format!("Security rule has invalid Priority. Value provided: {priority} Allowed range 100-4096."),
        ));
    }
    let protocol = properties.one_of("protocol", &["Tcp", "Udp", "Icmp", "Esp", "Ah", "*"])?;
    let access = properties.one_of("access", &["Allow", "Deny"])?.ok_or_else(|| properties.missing("access"))?;
    let direction =
        properties.one_of("direction", &["Inbound", "Outbound"])?.ok_or_else(|| properties.missing("direction"))?;
    for (other, rule) in others.iter().filter(|(n, _)| !n.eq_ignore_ascii_case(name)) {
        if rule["properties"]["priority"] == priority && rule["properties"]["direction"] == direction {
            return Err(ArmError::bad_request(
                "SecurityRuleConflict",
                format!(
                    "Security rule {name} conflicts with rule {other}. Rules cannot have the same Priority and Direction."
                ),
            ));
        }
    }
    body.insert("protocol".into(), protocol.ok_or_else(|| properties.missing("protocol"))?.into());
    for side in ["source", "destination"] {
        for what in ["PortRange", "AddressPrefix"] {
            let (one, many) =
                (format!("{side}{what}"), format!("{side}{what}{}", if what == "PortRange" { "s" } else { "es" }));
            let list = properties.strings(&many)?.unwrap_or_default();
            for text in list.iter().cloned().chain(properties.str(&one)?.filter(|t| !t.is_empty())) {
                if what == "PortRange" {
                    port_range(&text)?;
                } else if !is_peer(&text) {
                    return Err(ArmError::bad_request(
                        "SecurityRuleInvalidAddressPrefix",
                        format!("Security rule has invalid Address prefix. Value provided: {text}"),
                    ));
                }
            }
            match properties.str(&one)?.filter(|t| !t.is_empty()) {
                Some(text) => body.insert(one, text.into()),
                None if list.is_empty() => body.insert(one, "*".into()),
                None => None,
            };
            body.insert(many, json!(list));
        }
    }
    body.insert("access".into(), access.into());
    body.insert("priority".into(), priority.into());
    body.insert("direction".into(), direction.into());
    if let Some(text) = properties.str("description")? {
        body.insert("description".into(), text.into());
    }
    Ok(json!({"properties": body}))
}

/// `*`, an address, a prefix, or the tag of a service (`Storage.EastUS`).
fn is_peer(text: &str) -> bool {
    let text = text.trim();
    let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len.parse::<u8>())));
    let within = |most: u8| len.as_ref().is_none_or(|len| len.as_ref().is_ok_and(|len| *len <= most));
    let is_tag = |t: &str| {
        t.starts_with(|c: char| c.is_ascii_alphabetic()) && t.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
    };
    text == "*"
        || (address.parse::<Ipv4Addr>().is_ok() && within(32))
        || (address.parse::<Ipv6Addr>().is_ok() && within(128))
        || is_tag(text)
}

fn port_range(text: &str) -> Result<(u16, u16), ArmError> {
    let bad = || {
        ArmError::bad_request(
            "SecurityRuleInvalidPortRange",
            format!(
                "Security rule has invalid Port range. Value provided: {text}. Value should be an integer OR integer range with '-' delimiter. Valid range 0-65535."
            ),
        )
    };
    let text = text.trim();
    if text == "*" {
        return Ok((0, u16::MAX));
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.trim().parse().map_err(|_| bad())?, high.trim().parse().map_err(|_| bad())?);
    if low > high { Err(bad()) } else { Ok((low, high)) }
}

/// A port that the world may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Open {
    /// UDP, else TCP.
    pub udp: bool,
    pub port: u16,
}

/// The ports which every one of the given groups lets in from the world (its rules as stored, in any order). No groups: the
/// well-known ports, which is for the caller to allow or not (Basic addresses are open, Standard ones closed).
pub fn open_ports(groups: &[Vec<Value>]) -> Vec<Open> {
    let mut candidates: Vec<Open> = WELL_KNOWN_PORTS.iter().map(|&port| Open { udp: false, port }).collect();
    for rule in groups.iter().flatten() {
        for (low, high) in ranges(rule, "destination") {
            if u32::from(high) - u32::from(low) < MAX_RANGE {
                candidates.extend((low..=high).flat_map(|port| [Open { udp: false, port }, Open { udp: true, port }]));
            }
        }
    }
    candidates.retain(|c| c.port != 0 && groups.iter().all(|rules| lets_in(rules, *c)));
    candidates.sort();
    candidates.dedup();
    candidates
}

/// First match by priority decides; the default is to deny.
fn lets_in(rules: &[Value], port: Open) -> bool {
    let text = |r: &Value, name: &str| r["properties"][name].as_str().unwrap_or_default().to_owned();
    let mut inbound: Vec<&Value> = rules.iter().filter(|r| text(r, "direction") == "Inbound").collect();
    inbound.sort_by_key(|r| r["properties"]["priority"].as_i64());
    for rule in inbound {
        let protocol = text(rule, "protocol");
        let same_protocol = protocol == "*" || protocol == if port.udp { "Udp" } else { "Tcp" };
        let covers = ranges(rule, "destination").iter().any(|(low, high)| (*low..=*high).contains(&port.port));
        if same_protocol && covers && from_world(rule) {
            return text(rule, "access") == "Allow";
        }
    }
    false
}

/// The port ranges of a rule's `source` or `destination`, first and last.
pub fn ranges(rule: &Value, side: &str) -> Vec<(u16, u16)> {
    let properties = &rule["properties"];
    let many = properties[format!("{side}PortRanges")].as_array().cloned().unwrap_or_default();
    let one = properties[format!("{side}PortRange")].clone();
    many.iter().chain([&one]).filter_map(Value::as_str).filter_map(|t| port_range(t).ok()).collect()
}

/// Whether the rule's source includes this machine's loopback clients: they stand for the Internet.
fn from_world(rule: &Value) -> bool {
    let properties = &rule["properties"];
    let many = properties["sourceAddressPrefixes"].as_array().cloned().unwrap_or_default();
    let one = properties["sourceAddressPrefix"].clone();
    let world = |t: &str| {
        matches!(t.to_ascii_lowercase().as_str(), "*" | "internet" | "0.0.0.0/0" | "any") || t.starts_with("127.")
    };
    many.iter().chain([&one]).filter_map(Value::as_str).any(world)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: i64, access: &str, port: &str) -> Value {
        let new = json!({"properties": {"priority": priority, "access": access, "protocol": "tcp", "direction": "inbound",
            "sourceAddressPrefix": "*", "destinationPortRange": port}});
        put_rule(&format!("r{priority}"), &new, &[]).unwrap()
    }

    fn ports(groups: &[Vec<Value>]) -> Vec<u16> {
        open_ports(groups).into_iter().map(|o| o.port).collect()
    }

    #[test]
    fn the_first_rule_decides_and_the_default_denies() {
        assert_eq!(ports(&[vec![rule(300, "Allow", "22"), rule(200, "Deny", "8000-9000")]]), [22]);
        assert_eq!(ports(&[vec![rule(300, "Allow", "*"), rule(200, "Deny", "22")]]), WELL_KNOWN_PORTS[1..]);
        assert!(ports(&[vec![]]).is_empty());
        assert_eq!(ports(&[vec![rule(300, "Allow", "9000-9002")]]), [9000, 9001, 9002]);
    }

    #[test]
    fn every_group_must_agree() {
        assert_eq!(ports(&[vec![rule(300, "Allow", "22-23")], vec![rule(300, "Allow", "22")]]), [22]);
        assert_eq!(ports(&[]), WELL_KNOWN_PORTS);
    }

    #[test]
    fn bad_rules_are_refused() {
        let new = |priority: i64, port: &str| {
            json!({"properties": {"priority": priority, "access": "Allow", "protocol": "*",
            "direction": "Inbound", "destinationPortRange": port}})
        };
        assert_eq!(put_rule("a", &new(99, "22"), &[]).unwrap_err().code, "SecurityRuleInvalidPriority");
        assert_eq!(put_rule("a", &new(100, "22-1"), &[]).unwrap_err().code, "SecurityRuleInvalidPortRange");
        let peer = |text: &str| {
            let mut rule = new(100, "22");
            rule["properties"]["sourceAddressPrefix"] = json!(text);
            put_rule("a", &rule, &[]).map_err(|e| e.code)
        };
        for good in ["*", "Internet", "Storage.EastUS", "10.0.0.4", "10.0.0.0/8", "fd00::/8"] {
            peer(good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for bad in ["10.0.0.0/33", "10.0.0", "my host", "a/24", "fd00::/129"] {
            assert_eq!(peer(bad).unwrap_err(), "SecurityRuleInvalidAddressPrefix", "{bad}");
        }
        let mut some = new(100, "22");
        some["properties"]["sourceApplicationSecurityGroups"] = json!([{"id": "/x"}]);
        assert_eq!(put_rule("a", &some, &[]).unwrap_err().code, "OperationNotSupported");
        let others = [("b".to_owned(), rule(100, "Deny", "80"))];
        assert_eq!(put_rule("a", &new(100, "22"), &others).unwrap_err().code, "SecurityRuleConflict");
    }
}
