//! What comes from a LAN and what may go onto it, as far as a frame tells by itself. Pure.
//!
//! The LAN is like a guest that nobody knows: whatever it sends must not speak with the platform's addresses, ask this network's services
//! for anything, or be of a kind that the network does not carry (IPv6, broadcast and multicast but for ARP).

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol};

use super::bridge::Lan;
use super::packet::{Body, HEADER, IpPacket, MTU, Refused, parse_ip};
use super::{GATEWAY_MAC, policy};

/// A frame from the LAN that passed the gate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromLan<'a> {
    /// "Who has `target`?", to be told to `sender`, which may be 0.0.0.0.
    Asks { mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr },
    /// `sender` tells the interface `to` where it is.
    Answers { to: [u8; 6], sender: Ipv4Addr },
    /// `sender` tells everybody where it is.
    Announces { sender: Ipv4Addr },
    /// An IPv4 packet for the interface `to`.
    Packet { to: [u8; 6], packet: IpPacket<'a> },
}

pub(super) fn classify<'a>(lan: &Lan, frame: &'a [u8]) -> Result<FromLan<'a>, Refused> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Refused::Ignored)?;
    let (from, to) = (ethernet.src_addr(), ethernet.dst_addr());
    if !from.is_unicast() || from.0 == GATEWAY_MAC {
        return Err(Refused::Spoofed);
    }
    let payload = &frame[HEADER..];
    match ethernet.ethertype() {
        EthernetProtocol::Arp => classify_arp(lan, from.0, to.is_unicast().then_some(to.0), payload),
        EthernetProtocol::Ipv4 if payload.len() <= MTU + 4 && to.is_unicast() => {
            let packet = parse_ip(payload).ok_or(Refused::Ignored)?;
            if !policy::is_outside(packet.source) {
                return Err(Refused::Spoofed);
            }
            if is_dhcp(&packet) { Err(Refused::Ignored) } else { Ok(FromLan::Packet { to: to.0, packet }) }
        }
        _ => Err(Refused::Ignored),
    }
}

fn classify_arp(lan: &Lan, from: [u8; 6], to: Option<[u8; 6]>, payload: &[u8]) -> Result<FromLan<'static>, Refused> {
    let packet = ArpPacket::new_checked(payload).map_err(|_| Refused::Ignored)?;
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr: sender,
        target_protocol_addr: target,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return Err(Refused::Ignored);
    };
    if source_hardware_addr.0 != from {
        return Err(Refused::Spoofed);
    }
    match (operation, to) {
        (ArpOperation::Request, _) if sender.is_unspecified() => Ok(FromLan::Asks { mac: from, sender, target }),
        _ if !lan.prefix.contains(sender) || lan.prefix.is_an_end(sender) => Err(Refused::Ignored),
        (ArpOperation::Request | ArpOperation::Reply, None) if sender == target => Ok(FromLan::Announces { sender }),
        (ArpOperation::Request, _) => Ok(FromLan::Asks { mac: from, sender, target }),
        (ArpOperation::Reply, Some(to)) => Ok(FromLan::Answers { to, sender }),
        _ => Err(Refused::Ignored),
    }
}

/// May an interface's packet go onto the LAN?
pub(super) fn may_enter(lan: &Lan, packet: &IpPacket<'_>) -> bool {
    policy::is_outside(packet.dest) && !lan.prefix.is_an_end(packet.dest) && !is_dhcp(packet)
}

/// Guests have their addresses from this network, and the LAN's hosts from the LAN.
fn is_dhcp(packet: &IpPacket<'_>) -> bool {
    matches!(packet.body, Body::Udp { source: 67 | 68, .. } | Body::Udp { dest: 67 | 68, .. })
}
