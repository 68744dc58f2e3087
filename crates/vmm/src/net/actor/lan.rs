//! The port of the switch that leads onto a LAN.
//!
//! Hosts of the LAN see an interface as a host with the interface's own addresses. For interfaces this network answers ARP itself, so
//! that no guest says anything about who is who on the LAN; guests' own questions are asked anew, in their name.

use std::collections::BTreeSet;

use super::*;
use crate::net::bridge::Lan;
use crate::net::lan::{self, FromLan};
use crate::net::uplink::Uplink;

/// The switch's side of an [`Uplink`].
pub(super) struct LanPort {
    pub(super) lan: Lan,
    to_lan: mpsc::Sender<Bytes>,
    /// Addresses of interfaces that a host of the LAN has too, and that the log tells of.
    taken: BTreeSet<Ipv4Addr>,
    _task: AbortOnDropHandle<()>,
}

impl LanPort {
    /// And the frames that come from there.
    pub(super) fn new(uplink: Uplink) -> (LanPort, mpsc::Receiver<Bytes>) {
        let Uplink { lan, to_lan, from_lan, task } = uplink;
        (LanPort { lan, to_lan, taken: BTreeSet::new(), _task: task }, from_lan)
    }

    fn send(&self, frame: Bytes, counters: &Counters) {
        match self.to_lan.try_send(frame) {
            Ok(()) => counters.to_lan.bump(),
            Err(_) => counters.overrun.bump(),
        }
    }
}

impl Nic {
    /// Whether the rules let a packet go onto the LAN. What lies beyond the LAN is outside.
    fn may_enter_lan(&mut self, lan: &Lan, packet: &IpPacket<'_>, now: Instant) -> bool {
        let ends = udp_ends(packet);
        if ends.is_some_and(|(own, other)| self.heard.is_answer(own, other, now)) {
            return true;
        }
        let begins = !matches!(packet.body, Body::Tcp { opens: false, .. } | Body::IcmpAnswer);
        if begins && !self.config.outbound && !lan.prefix.contains(packet.dest) {
            return false;
        }
        let passes = self.config.security.allows(Direction::Outbound, packet);
        if let Some((own, other)) = ends.filter(|_| passes && !self.config.security.is_empty()) {
            self.awaited.note(own, other, now);
        }
        passes
    }

    /// Whether the rules let a packet from the LAN come in.
    fn may_come_in(&mut self, packet: &IpPacket<'_>, now: Instant) -> bool {
        let ends = udp_ends(packet).map(|(other, own)| (own, other));
        if ends.is_some_and(|(own, other)| self.awaited.is_answer(own, other, now)) {
            return true;
        }
        let passes = self.config.security.allows(Direction::Inbound, packet);
        let answers_are_free = self.config.security.is_empty() && self.config.outbound;
        if let Some((own, other)) = ends.filter(|_| passes && !answers_are_free) {
            self.heard.note(own, other, now);
        }
        passes
    }
}

/// Where a datagram comes from and goes to.
fn udp_ends(packet: &IpPacket<'_>) -> Option<(SocketAddrV4, SocketAddrV4)> {
    match packet.body {
        Body::Udp { source, dest, .. } => {
            Some((SocketAddrV4::new(packet.source, source), SocketAddrV4::new(packet.dest, dest)))
        }
        _ => None,
    }
}

impl Actor {
    /// A packet to a MAC that no interface has.
    pub(super) fn send_to_lan(&mut self, key: NicKey, frame: &Bytes, packet: &IpPacket<'_>) {
        let now = self.now();
        let (Some(port), Some(nic)) = (&self.lan, self.nics.get_mut(&key)) else {
            return self.counters.ignored.bump();
        };
        if !lan::may_enter(&port.lan, packet) {
            self.counters.ignored.bump();
        } else if nic.may_enter_lan(&port.lan, packet, now) {
            port.send(frame.clone(), &self.counters);
        } else {
            self.counters.refused.bump();
        }
    }

    /// An interface asks for an address that is none of this network's, or probes whether its own is free.
    pub(super) fn ask_lan(&self, nic: &Nic, sender: Ipv4Addr, target: Ipv4Addr) {
        let Some(port) = self.lan.as_ref().filter(|port| port.lan.prefix.contains(target)) else { return };
        if self.nics.values().all(|other| other.config.gateway != target) {
            port.send(packet::arp_request(nic.config.mac, sender, target), &self.counters);
        }
    }

    /// Tells the LAN where an interface is from now on.
    pub(super) fn announce(&self, nic: &Nic) {
        if let Some(port) = &self.lan {
            let address = nic.config.address;
            port.send(packet::arp_request(nic.config.mac, address, address), &self.counters);
        }
    }

    pub(super) fn lan_frame(&mut self, frame: &Bytes) {
        let Some(port) = &self.lan else { return };
        self.counters.from_lan.bump();
        // With an interface's own MAC it can only be an echo, or somebody who pretends.
        if self.nics.values().any(|nic| frame.get(6..12) == Some(&nic.config.mac[..])) {
            return self.counters.spoofed.bump();
        }
        match lan::classify(&port.lan, frame) {
            Err(Refused::Ignored) => self.counters.ignored.bump(),
            Err(Refused::Spoofed) => self.counters.spoofed.bump(),
            Ok(FromLan::Asks { sender, .. } | FromLan::Answers { sender, .. } | FromLan::Announces { sender })
                if self.is_taken(sender) => {}
            Ok(FromLan::Asks { mac, sender, target }) => self.answer_lan(mac, sender, target),
            Ok(FromLan::Answers { to, .. }) => self.hand_on(frame, |nic| nic.config.mac == to),
            Ok(FromLan::Announces { .. }) => self.hand_on(frame, |_| true),
            Ok(FromLan::Packet { to, packet }) => self.come_in(to, &packet, frame),
        }
    }

    /// Whether an address is one of this network's, which no host of the LAN may have. The log tells of each once.
    fn is_taken(&mut self, address: Ipv4Addr) -> bool {
        let taken = self.is_ours(address);
        if taken {
            self.counters.spoofed.bump();
        }
        if taken && self.lan.as_mut().is_some_and(|port| port.taken.insert(address)) {
            tracing::warn!(vnet = self.config.id, %address, "a host of the LAN has an address of this virtual network too");
        }
        taken
    }

    fn is_ours(&self, address: Ipv4Addr) -> bool {
        self.by_address.contains_key(&address) || self.nics.values().any(|nic| nic.config.gateway == address)
    }

    fn answer_lan(&self, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) {
        let nic = self.by_address.get(&target).and_then(|key| self.nics.get(key));
        if let (Some(port), Some(nic)) = (&self.lan, nic) {
            let own = nic.config.mac;
            port.send(packet::arp_reply(own, mac, sender, target, own), &self.counters);
        }
    }

    fn hand_on(&self, frame: &Bytes, is_meant: impl Fn(&Nic) -> bool) {
        self.nics.values().filter(|nic| is_meant(nic)).for_each(|nic| self.send_frame(nic, frame.clone()));
    }

    fn come_in(&mut self, to: [u8; 6], packet: &IpPacket<'_>, frame: &Bytes) {
        let now = self.now();
        if self.is_ours(packet.source) {
            return self.counters.spoofed.bump();
        }
        // Nothing is routed from the LAN: a packet is for the interface with both addresses, or for nobody.
        let nic = self.by_address.get(&packet.dest).copied().and_then(|key| self.nics.get_mut(&key));
        let Some(nic) = nic.filter(|nic| nic.config.mac == to) else { return self.counters.ignored.bump() };
        if !nic.may_come_in(packet, now) {
            return self.counters.refused.bump();
        }
        self.hand_on(frame, |nic| nic.config.mac == to);
    }
}
