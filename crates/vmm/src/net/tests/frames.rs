//! Frames made and read by hand.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet,
    Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use crate::net::{GATEWAY_MAC, NicConfig, packet};

/// The same frame to another MAC.
pub(super) fn to(mac: [u8; 6], frame: &[u8]) -> Vec<u8> {
    [&mac[..], &frame[6..]].concat()
}

pub(super) fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

fn ip(source: Ipv4Addr, dest: Ipv4Addr, protocol: IpProtocol, body: &[u8]) -> Vec<u8> {
    let repr =
        Ipv4Repr { src_addr: source, dst_addr: dest, next_header: protocol, payload_len: body.len(), hop_limit: 64 };
    let mut out = vec![0; 20 + body.len()];
    let mut packet = Ipv4Packet::new_unchecked(&mut out[..]);
    repr.emit(&mut packet, &ChecksumCapabilities::default());
    packet.payload_mut().copy_from_slice(body);
    out
}

pub(super) fn echo_request(nic: &NicConfig, dest: Ipv4Addr, number: u16) -> Vec<u8> {
    let repr = Icmpv4Repr::EchoRequest { ident: 7, seq_no: number, data: b"ping" };
    let mut body = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut body), &ChecksumCapabilities::default());
    ethernet(GATEWAY_MAC, nic.mac, 0x0800, &ip(nic.address, dest, IpProtocol::Icmp, &body))
}

pub(super) fn is_echo_reply(frame: &[u8], from: Ipv4Addr, number: u16) -> bool {
    let Some(Ok(ip)) = frame.get(14..).map(Ipv4Packet::new_checked) else { return false };
    if frame[12..14] != [8, 0] || ip.src_addr() != from || ip.next_header() != IpProtocol::Icmp {
        return false;
    }
    let icmp = Icmpv4Packet::new_unchecked(ip.payload());
    matches!(
        Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()),
        Ok(Icmpv4Repr::EchoReply { ident: 7, seq_no, data: b"ping" }) if seq_no == number
    )
}

pub(super) fn arp_request(nic: &NicConfig, target: Ipv4Addr) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(nic.mac),
        source_protocol_addr: nic.address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut body = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut body));
    ethernet([0xff; 6], nic.mac, 0x0806, &body)
}

/// The MAC that an ARP reply tells for `target`.
pub(super) fn arp_answer(frame: &[u8], target: Ipv4Addr) -> Option<[u8; 6]> {
    if frame.get(12..14)? != [8, 6] {
        return None;
    }
    match ArpRepr::parse(&ArpPacket::new_checked(&frame[14..]).ok()?).ok()? {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply, source_hardware_addr, source_protocol_addr, ..
        } if source_protocol_addr == target => Some(source_hardware_addr.0),
        _ => None,
    }
}

pub(super) fn udp(mac: [u8; 6], to: [u8; 6], source: SocketAddrV4, dest: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    ethernet(to, mac, 0x0800, &packet::udp_packet(source, dest, payload).unwrap())
}

/// The payload of a UDP frame from `port`.
pub(super) fn udp_from(frame: &[u8], port: u16) -> Option<Vec<u8>> {
    let ip = Ipv4Packet::new_checked(frame.get(14..)?).ok()?;
    let source = ip.payload().first_chunk::<2>()?;
    let matches = frame[12..14] == [8, 0] && ip.next_header() == IpProtocol::Udp && *source == port.to_be_bytes();
    matches.then(|| ip.payload()[8..].to_vec())
}

pub(super) fn syn(nic: &NicConfig, source_port: u16, dest: SocketAddrV4) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: source_port,
        dst_port: dest.port(),
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1),
        ack_number: None,
        window_len: 65535,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let mut body = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut body),
        &IpAddress::Ipv4(nic.address),
        &IpAddress::Ipv4(*dest.ip()),
        &ChecksumCapabilities::default(),
    );
    ethernet(GATEWAY_MAC, nic.mac, 0x0800, &ip(nic.address, *dest.ip(), IpProtocol::Tcp, &body))
}
