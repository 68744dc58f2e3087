//! Frames and packets: what came in, and how answers are laid out. Pure; [`smoltcp::wire`] knows the fields.
//!
//! [`classify`] is the gate: whatever passes it has the NIC's own source addresses and sound lengths.

use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::Bytes;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, UdpPacket, UdpRepr,
};

use super::{GATEWAY_MAC, NicConfig};

/// Largest IP packet on the network. Also the largest that is sent in one piece.
pub(super) const MTU: usize = 1500;
/// Largest UDP payload that fits one packet.
pub(super) const MAX_DATAGRAM: usize = MTU - 28;
pub(super) const HEADER: usize = 14;

/// A frame that passed the gate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// "Who has `target`?", to be told to `sender`.
    Arp { target: Ipv4Addr, sender: Ipv4Addr },
    /// A DHCP message: the payload of a UDP packet to port 67.
    Dhcp(&'a [u8]),
    /// An IPv4 packet for the gateway to deliver.
    Routed(IpPacket<'a>),
    /// An IPv4 packet for the NIC with this MAC.
    Switched([u8; 6], IpPacket<'a>),
}

/// Why a frame did not pass the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not understood, or of no kind that the network carries.
    Ignored,
    /// With an address as its source that is not the NIC's.
    Spoofed,
}

/// A sound IPv4 packet, cut to its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IpPacket<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) source: Ipv4Addr,
    pub(super) dest: Ipv4Addr,
    pub(super) body: Body<'a>,
}

/// What is known of a packet's body. Fragments are carried between NICs but never looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body<'a> {
    Tcp {
        source: u16,
        dest: u16,
        /// The first packet of a connection.
        opens: bool,
    },
    Udp {
        source: u16,
        dest: u16,
        payload: &'a [u8],
    },
    EchoRequest,
    /// Other messages of ICMP: they answer something.
    IcmpAnswer,
    Other,
}

/// Decides what `frame` from `nic` is.
pub(super) fn classify<'a>(nic: &NicConfig, frame: &'a [u8]) -> Result<Incoming<'a>, Refused> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Refused::Ignored)?;
    if ethernet.src_addr().0 != nic.mac {
        return Err(Refused::Spoofed);
    }
    let payload = &frame[HEADER..];
    match ethernet.ethertype() {
        EthernetProtocol::Arp => classify_arp(nic, payload),
        EthernetProtocol::Ipv4 if payload.len() <= MTU + 4 => classify_ip(nic, ethernet.dst_addr(), payload),
        _ => Err(Refused::Ignored),
    }
}

fn classify_arp<'a>(nic: &NicConfig, payload: &[u8]) -> Result<Incoming<'a>, Refused> {
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
    // The sender of a probe is 0.0.0.0 (RFC 5227).
    if source_hardware_addr.0 != nic.mac || !(sender == nic.address || sender.is_unspecified()) {
        return Err(Refused::Spoofed);
    }
    match operation {
        ArpOperation::Request => Ok(Incoming::Arp { target, sender }),
        _ => Err(Refused::Ignored),
    }
}

fn classify_ip<'a>(nic: &NicConfig, to: EthernetAddress, payload: &'a [u8]) -> Result<Incoming<'a>, Refused> {
    let packet = parse_ip(payload).ok_or(Refused::Ignored)?;
    let to_gateway = to.0 == GATEWAY_MAC;
    if let Body::Udp { dest: 67, payload, .. } = packet.body
        && (to_gateway || to.is_broadcast())
        && (packet.source == nic.address || packet.source.is_unspecified())
    {
        return Ok(Incoming::Dhcp(payload));
    }
    if packet.source != nic.address {
        return Err(Refused::Spoofed);
    }
    if to_gateway {
        Ok(Incoming::Routed(packet))
    } else if to.is_unicast() {
        Ok(Incoming::Switched(to.0, packet))
    } else {
        Err(Refused::Ignored)
    }
}

pub(super) fn parse_ip(payload: &[u8]) -> Option<IpPacket<'_>> {
    let ip = Ipv4Packet::new_checked(payload).ok()?;
    let (header, total) = (usize::from(ip.header_len()), usize::from(ip.total_len()));
    if ip.version() != 4 || header < 20 || total < header {
        return None;
    }
    let bytes = payload.get(..total)?;
    let body = &bytes[header..];
    let fragment = ip.more_frags() || ip.frag_offset() != 0;
    let body = if fragment { Body::Other } else { parse_body(ip.next_header(), body)? };
    Some(IpPacket { bytes, source: ip.src_addr(), dest: ip.dst_addr(), body })
}

/// `None` if the body is broken.
fn parse_body(protocol: IpProtocol, body: &[u8]) -> Option<Body<'_>> {
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(body).ok()?;
            if tcp.header_len() < 20 || tcp.src_port() == 0 || tcp.dst_port() == 0 {
                return None;
            }
            let opens = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
            Some(Body::Tcp { source: tcp.src_port(), dest: tcp.dst_port(), opens })
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(body).ok()?;
            if udp.dst_port() == 0 {
                return None;
            }
            Some(Body::Udp { source: udp.src_port(), dest: udp.dst_port(), payload: udp.payload() })
        }
        IpProtocol::Icmp => {
            let icmp = Icmpv4Packet::new_checked(body).ok()?;
            Some(if icmp.msg_type() == Icmpv4Message::EchoRequest { Body::EchoRequest } else { Body::IcmpAnswer })
        }
        _ => Some(Body::Other),
    }
}

/// An Ethernet frame around an IPv4 packet.
pub(super) fn ip_frame(to: [u8; 6], packet: &[u8]) -> Bytes {
    frame(to, GATEWAY_MAC, 0x0800, packet)
}

/// The answer of `from` to an ARP request of (`to`, `sender`): `target` is at `mac`.
pub(super) fn arp_reply(from: [u8; 6], to: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr, mac: [u8; 6]) -> Bytes {
    frame(to, from, 0x0806, &arp(ArpOperation::Reply, (mac, target), (to, sender)))
}

/// (`mac`, `sender`) asks everybody for `target`; with `sender` as target it tells where it is.
pub(super) fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Bytes {
    frame([0xff; 6], mac, 0x0806, &arp(ArpOperation::Request, (mac, sender), ([0; 6], target)))
}

fn arp(operation: ArpOperation, source: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    };
    let mut packet = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut packet));
    packet
}

fn frame(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.extend_from_slice(&to);
    out.extend_from_slice(&from);
    out.extend_from_slice(&ethertype.to_be_bytes());
    out.extend_from_slice(payload);
    out.into()
}

/// An IPv4 packet with a UDP datagram; `None` if the payload does not fit one packet.
pub(super) fn udp_packet(source: SocketAddrV4, dest: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() > MAX_DATAGRAM {
        return None;
    }
    let udp = UdpRepr { src_port: source.port(), dst_port: dest.port() };
    let ip = Ipv4Repr {
        src_addr: *source.ip(),
        dst_addr: *dest.ip(),
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let checksums = ChecksumCapabilities::default();
    let mut out = vec![0; ip.buffer_len() + ip.payload_len];
    let mut packet = Ipv4Packet::new_unchecked(&mut out[..]);
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &IpAddress::Ipv4(*source.ip()),
        &IpAddress::Ipv4(*dest.ip()),
        payload.len(),
        |buffer| buffer.copy_from_slice(payload),
        &checksums,
    );
    Some(out)
}

/// The packet as the gateway sends it on; `None` when its time to live is over.
pub(super) fn forwarded(packet: &IpPacket<'_>) -> Option<Vec<u8>> {
    let mut out = packet.bytes.to_vec();
    let mut ip = Ipv4Packet::new_unchecked(&mut out[..]);
    let left = ip.hop_limit().checked_sub(1).filter(|left| *left > 0)?;
    ip.set_hop_limit(left);
    ip.fill_checksum();
    Some(out)
}

/// Where a packet of ours goes to.
pub(super) fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    Ipv4Packet::new_checked(packet).ok().map(|ip| ip.dst_addr())
}
