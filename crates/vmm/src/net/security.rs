//! Security rules: what an interface may send to other interfaces and to the world, and get from other interfaces.
//!
//! Rules are asked for what opens: the first packet of a TCP connection, a datagram that answers none, an echo request. What belongs
//! to something that is open passes, as on Azure. The platform's own addresses are above the rules. What comes in from the world does
//! so by the ports of a public address, which are those that the rules let in.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};
use smoltcp::time::{Duration, Instant};

use super::packet::{Body, IpPacket};

/// How long after a datagram its answer passes (Azure: four minutes without traffic).
const ANSWER_TIME: Duration = Duration::from_secs(240);
/// Datagrams of one interface of which the answer is awaited.
const MAX_AWAITED: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    Inbound,
    Outbound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleProtocol {
    Any,
    Tcp,
    Udp,
    Icmp,
}

/// Whom a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peers {
    Any,
    Prefix(Ipv4Addr, u8),
    /// The address space of the virtual network.
    VirtualNetwork,
    /// All that is not in it.
    Internet,
}

/// A rule; the first that fits decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityRule {
    pub allow: bool,
    pub direction: Direction,
    pub protocol: RuleProtocol,
    pub sources: Vec<Peers>,
    /// First and last.
    pub source_ports: Vec<(u16, u16)>,
    pub destinations: Vec<Peers>,
    pub destination_ports: Vec<(u16, u16)>,
}

/// The rules of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Each group (of the subnet, of the interface), by rising priority: every one must let a packet through. None: all passes.
    pub groups: Vec<Vec<SecurityRule>>,
    /// Prefixes of the virtual network.
    pub network: Vec<(Ipv4Addr, u8)>,
}

/// What rules see of a packet.
#[derive(Debug, Clone, Copy)]
struct Opening {
    source: Ipv4Addr,
    dest: Ipv4Addr,
    protocol: Seen,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    Tcp(u16, u16),
    Udp(u16, u16),
    Icmp,
    /// A fragment, or a protocol that nothing is known of: what might forbid it does, what might allow it does not.
    Hidden,
}

impl Security {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether the packet may pass in this direction. What opens nothing may.
    pub(super) fn allows(&self, direction: Direction, packet: &IpPacket<'_>) -> bool {
        let protocol = match packet.body {
            Body::Tcp { opens: false, .. } | Body::IcmpAnswer => return true,
            Body::Tcp { source, dest, .. } => Seen::Tcp(source, dest),
            Body::Udp { source, dest, .. } => Seen::Udp(source, dest),
            Body::EchoRequest => Seen::Icmp,
            Body::Other => Seen::Hidden,
        };
        let opening = Opening { source: packet.source, dest: packet.dest, protocol };
        self.groups.iter().all(|rules| self.first(rules, direction, opening))
    }

    /// Behind a group's own rules are Azure's: the network may come in and everything may go out.
    fn first(&self, rules: &[SecurityRule], direction: Direction, opening: Opening) -> bool {
        let fits = rules.iter().find(|rule| rule.direction == direction && self.fits(rule, opening));
        match (fits, direction) {
            (Some(rule), _) => rule.allow,
            (None, Direction::Outbound) => true,
            (None, Direction::Inbound) => self.in_network(opening.source),
        }
    }

    fn fits(&self, rule: &SecurityRule, opening: Opening) -> bool {
        let within = |ranges: &[(u16, u16)], port: u16| ranges.iter().any(|(low, high)| (*low..=*high).contains(&port));
        let all = |ranges: &[(u16, u16)]| ranges.contains(&(0, u16::MAX));
        let ports = |source, dest| within(&rule.source_ports, source) && within(&rule.destination_ports, dest);
        let carried = match (rule.protocol, opening.protocol) {
            (RuleProtocol::Any | RuleProtocol::Tcp, Seen::Tcp(source, dest)) => ports(source, dest),
            (RuleProtocol::Any | RuleProtocol::Udp, Seen::Udp(source, dest)) => ports(source, dest),
            (RuleProtocol::Any | RuleProtocol::Icmp, Seen::Icmp) => true,
            (protocol, Seen::Hidden) => {
                !rule.allow || protocol == RuleProtocol::Any && all(&rule.source_ports) && all(&rule.destination_ports)
            }
            _ => false,
        };
        carried && self.has(&rule.sources, opening.source) && self.has(&rule.destinations, opening.dest)
    }

    fn has(&self, peers: &[Peers], address: Ipv4Addr) -> bool {
        peers.iter().any(|peer| match *peer {
            Peers::Any => true,
            Peers::Prefix(network, len) => covers(network, len, address),
            Peers::VirtualNetwork => self.in_network(address),
            Peers::Internet => !self.in_network(address),
        })
    }

    fn in_network(&self, address: Ipv4Addr) -> bool {
        self.network.iter().any(|(network, len)| covers(*network, *len, address))
    }
}

pub(super) fn covers(network: Ipv4Addr, len: u8, address: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
    (u32::from(network) ^ u32::from(address)) & mask == 0
}

/// The datagrams that an interface has sent to others, so that their answers pass.
#[derive(Debug, Default)]
pub(super) struct Awaited(HashMap<(SocketAddrV4, SocketAddrV4), Instant>);

impl Awaited {
    /// The interface has sent one from its own address to another.
    pub(super) fn note(&mut self, own: SocketAddrV4, other: SocketAddrV4, now: Instant) {
        if self.0.len() >= MAX_AWAITED {
            self.0.retain(|_, sent| *sent + ANSWER_TIME > now);
        }
        // A guest that floods loses its own answers.
        if self.0.len() < MAX_AWAITED {
            self.0.insert((own, other), now);
        }
    }

    /// Whether a datagram to its own address answers one.
    pub(super) fn is_answer(&self, own: SocketAddrV4, other: SocketAddrV4, now: Instant) -> bool {
        self.0.get(&(own, other)).is_some_and(|sent| *sent + ANSWER_TIME > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, protocol: RuleProtocol, from: Peers, to: Peers, ports: (u16, u16)) -> SecurityRule {
        SecurityRule {
            allow,
            direction: Direction::Outbound,
            protocol,
            sources: vec![from],
            source_ports: vec![(0, u16::MAX)],
            destinations: vec![to],
            destination_ports: vec![ports],
        }
    }

    fn security(groups: Vec<Vec<SecurityRule>>) -> Security {
        Security { groups, network: vec![(Ipv4Addr::new(10, 0, 0, 0), 16)] }
    }

    fn goes_out(security: &Security, dest: [u8; 4], body: Body<'_>) -> bool {
        let packet = IpPacket { bytes: &[], source: Ipv4Addr::new(10, 0, 0, 4), dest: dest.into(), body };
        security.allows(Direction::Outbound, &packet)
    }

    fn tcp(dest: u16) -> Body<'static> {
        Body::Tcp { source: 40000, dest, opens: true }
    }

    const WORLD: [u8; 4] = [203, 0, 113, 7];
    const NEIGHBOUR: [u8; 4] = [10, 0, 0, 5];
    const ALL: (u16, u16) = (0, u16::MAX);

    #[test]
    fn the_first_rule_that_fits_decides() {
        let https = rule(true, RuleProtocol::Tcp, Peers::Any, Peers::Internet, (443, 443));
        let nothing = rule(false, RuleProtocol::Any, Peers::Any, Peers::Internet, ALL);
        let both = security(vec![vec![https.clone(), nothing.clone()]]);
        assert!(goes_out(&both, WORLD, tcp(443)));
        assert!(!goes_out(&both, WORLD, tcp(80)));
        assert!(goes_out(&both, NEIGHBOUR, tcp(80)), "the network is not the Internet");
        assert!(goes_out(&both, WORLD, Body::Tcp { source: 1, dest: 80, opens: false }), "it is open already");
        assert!(!goes_out(&security(vec![vec![nothing.clone(), https.clone()]]), WORLD, tcp(443)));
        // Every group must let it through.
        assert!(!goes_out(&security(vec![vec![https], vec![nothing]]), WORLD, tcp(443)));
        assert!(goes_out(&security(vec![vec![]]), WORLD, tcp(80)), "by default everything goes out");
    }

    #[test]
    fn the_network_comes_in_by_default_and_nobody_else() {
        let comes_in = |source: [u8; 4], groups| {
            let packet = IpPacket { bytes: &[], source: source.into(), dest: NEIGHBOUR.into(), body: tcp(22) };
            security(groups).allows(Direction::Inbound, &packet)
        };
        assert!(comes_in([10, 0, 1, 4], vec![vec![]]));
        assert!(!comes_in(WORLD, vec![vec![]]));
        assert!(comes_in(WORLD, vec![]), "without a group there are no rules");
        let mut one = rule(false, RuleProtocol::Tcp, Peers::Prefix([10, 0, 1, 0].into(), 24), Peers::Any, (22, 22));
        one.direction = Direction::Inbound;
        assert!(!comes_in([10, 0, 1, 4], vec![vec![one.clone()]]));
        assert!(comes_in([10, 0, 2, 4], vec![vec![one]]));
    }

    #[test]
    fn what_is_hidden_is_no_way_around() {
        let deny = rule(false, RuleProtocol::Udp, Peers::Any, Peers::Any, (53, 53));
        assert!(
            !goes_out(&security(vec![vec![deny.clone()]]), NEIGHBOUR, Body::Other),
            "a fragment may be of that port"
        );
        let allow = rule(true, RuleProtocol::Udp, Peers::Any, Peers::Any, (53, 53));
        let nothing = rule(false, RuleProtocol::Any, Peers::Any, Peers::Any, ALL);
        assert!(!goes_out(&security(vec![vec![allow, nothing.clone()]]), NEIGHBOUR, Body::Other));
        assert!(goes_out(&security(vec![vec![deny, nothing]]), NEIGHBOUR, Body::IcmpAnswer));
    }

    #[test]
    fn answers_pass_for_a_while() {
        let (own, other) = ("10.0.0.4:1000".parse().unwrap(), "10.0.0.5:53".parse().unwrap());
        let mut awaited = Awaited::default();
        assert!(!awaited.is_answer(own, other, Instant::ZERO));
        awaited.note(own, other, Instant::ZERO);
        assert!(awaited.is_answer(own, other, Instant::from_secs(200)));
        assert!(!awaited.is_answer(other, own, Instant::ZERO));
        assert!(!awaited.is_answer(own, other, Instant::from_secs(241)));
        for port in 0..2000 {
            awaited.note(own, SocketAddrV4::new(*other.ip(), port), Instant::from_secs(300));
        }
        assert!(awaited.0.len() <= MAX_AWAITED);
    }
}
