//! DHCP as Azure's guests get it (RFC 2131), from 168.63.129.16. Pure.
//!
//! A NIC has one address, leased for ever, so there is no state: every DISCOVER is offered it, every REQUEST for it is
//! acknowledged, a REQUEST for another one is refused. The options, and who needs them:
//!
//! | option | value | |
//! |---|---|---|
//! | 54 server | 168.63.129.16 | |
//! | 51 lease time | infinite | not in the answer to INFORM |
//! | 1, 3 mask, router | of the subnet, or of the LAN that it is on | |
//! | 6 DNS | 168.63.129.16 | |
//! | 15 domain | the Vnet's suffix | |
//! | 121 routes | default by the router, 168.63.129.16/32 and 169.254.169.254/32 by the gateway | guest agents look for the route |
//! | 245 | 168.63.129.16 | guest agents' end point |
//!
//! No host name (12): the provisioner of the guest sets it.

use std::net::Ipv4Addr;

use super::{IMDS, WIRE_SERVER};

const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Fixed part of a message, with the cookie.
const FIXED: usize = 240;
/// Old clients drop shorter messages.
const SHORTEST: usize = 300;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// What one NIC is leased.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease<'a> {
    pub(super) mac: [u8; 6],
    pub(super) address: Ipv4Addr,
    pub(super) mask: u32,
    /// The default route.
    pub(super) router: Ipv4Addr,
    /// The network's own, which leads to the platform.
    pub(super) gateway: Ipv4Addr,
    pub(super) suffix: &'a str,
}

/// A message to send from 168.63.129.16:67 to port 68.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) message: Vec<u8>,
    /// To 255.255.255.255 and every MAC, or to the leased address and the NIC's MAC?
    pub(super) broadcast: bool,
}

/// The parts of a client's message that matter.
struct Query<'a> {
    fixed: &'a [u8; FIXED],
    kind: u8,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

/// The answer to a client's message; `None` for what needs none.
pub(super) fn answer(message: &[u8], lease: &Lease<'_>) -> Option<Reply> {
    let query = parse(message)?;
    let client = address(query.fixed, 12);
    if query.fixed[28..34] != lease.mac {
        return None;
    }
    let kind = match query.kind {
        DISCOVER => OFFER,
        REQUEST if query.server.is_some_and(|s| s != WIRE_SERVER) => return None,
        REQUEST => {
            let wanted = query.requested.unwrap_or(client);
            if wanted == lease.address { ACK } else { NAK }
        }
        INFORM => ACK,
        _ => return None,
    };
    let wants_broadcast = query.fixed[10] & 0x80 != 0 && client.is_unspecified();
    Some(Reply { message: build(&query, kind, lease), broadcast: kind == NAK || wants_broadcast })
}

fn address(fixed: &[u8; FIXED], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3])
}

fn parse(message: &[u8]) -> Option<Query<'_>> {
    let fixed = message.first_chunk::<FIXED>()?;
    let (op, hardware, hardware_len, relay) = (fixed[0], fixed[1], fixed[2], address(fixed, 24));
    if op != 1 || hardware != 1 || hardware_len != 6 || !relay.is_unspecified() || fixed[236..240] != COOKIE {
        return None;
    }
    let mut query = Query { fixed, kind: 0, requested: None, server: None };
    let mut rest = &message[FIXED..];
    while let Some((&code, after)) = rest.split_first() {
        match code {
            0 => rest = after,
            255 => break,
            _ => {
                let (&len, after) = after.split_first()?;
                let (value, after) = after.split_at_checked(usize::from(len))?;
                rest = after;
                match (code, value) {
                    (53, [kind]) => query.kind = *kind,
                    (50, [a, b, c, d]) => query.requested = Some(Ipv4Addr::new(*a, *b, *c, *d)),
                    (54, [a, b, c, d]) => query.server = Some(Ipv4Addr::new(*a, *b, *c, *d)),
                    _ => {}
                }
            }
        }
    }
    Some(query)
}

fn build(query: &Query<'_>, kind: u8, lease: &Lease<'_>) -> Vec<u8> {
    let request = query.fixed;
    let mut out = vec![0; FIXED];
    out[..3].copy_from_slice(&[2, 1, 6]);
    out[4..8].copy_from_slice(&request[4..8]); // transaction
    out[10..12].copy_from_slice(&request[10..12]); // flags
    if kind != NAK {
        out[12..16].copy_from_slice(&request[12..16]); // client's address
        if query.kind != INFORM {
            out[16..20].copy_from_slice(&lease.address.octets());
        }
        out[20..24].copy_from_slice(&WIRE_SERVER.octets());
    }
    out[28..44].copy_from_slice(&request[28..44]); // client's MAC
    out[236..240].copy_from_slice(&COOKIE);

    option(&mut out, 53, &[kind]);
    option(&mut out, 54, &WIRE_SERVER.octets());
    if kind != NAK {
        if query.kind != INFORM {
            option(&mut out, 51, &u32::MAX.to_be_bytes());
        }
        option(&mut out, 1, &lease.mask.to_be_bytes());
        option(&mut out, 3, &lease.router.octets());
        option(&mut out, 6, &WIRE_SERVER.octets());
        if !lease.suffix.is_empty() {
            option(&mut out, 15, lease.suffix.as_bytes());
        }
        option(&mut out, 121, &routes(lease.router, lease.gateway));
        option(&mut out, 245, &WIRE_SERVER.octets());
    }
    out.push(255);
    out.resize(out.len().max(SHORTEST), 0);
    out
}

/// Classless static routes (RFC 3442): prefix length, the prefix's significant bytes, router.
fn routes(router: Ipv4Addr, gateway: Ipv4Addr) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&router.octets());
    for platform in [WIRE_SERVER, IMDS] {
        out.push(32);
        out.extend_from_slice(&platform.octets());
        out.extend_from_slice(&gateway.octets());
    }
    out
}

/// Appends one option. Longer values than an option can hold are cut (only the suffix could be that long).
fn option(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    let value = &value[..value.len().min(255)];
    out.push(code);
    out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];

    fn lease() -> Lease<'static> {
        Lease {
            mac: MAC,
            address: Ipv4Addr::new(10, 0, 0, 4),
            mask: 0xffff_ff00,
            router: Ipv4Addr::new(10, 0, 0, 1),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            suffix: "x.internal.cloudapp.net",
        }
    }

    fn message(kind: u8, client: Ipv4Addr, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut m = vec![0; FIXED];
        m[..3].copy_from_slice(&[1, 1, 6]);
        m[4..8].copy_from_slice(&[9, 8, 7, 6]);
        m[12..16].copy_from_slice(&client.octets());
        m[28..34].copy_from_slice(&MAC);
        m[236..240].copy_from_slice(&COOKIE);
        option(&mut m, 53, &[kind]);
        for (code, value) in options {
            option(&mut m, *code, value);
        }
        m.push(255);
        m
    }

    fn value(reply: &Reply, code: u8) -> Option<Vec<u8>> {
        let mut rest = &reply.message[FIXED..];
        while rest[0] != 255 {
            let len = usize::from(rest[1]);
            if rest[0] == code {
                return Some(rest[2..2 + len].to_vec());
            }
            rest = &rest[2 + len..];
        }
        None
    }

    #[test]
    fn renewal_by_the_client_address_is_acknowledged() {
        let reply = answer(&message(REQUEST, lease().address, &[]), &lease()).unwrap();
        assert_eq!(value(&reply, 53), Some(vec![ACK]));
        assert_eq!(value(&reply, 51), Some(vec![255; 4]));
        assert_eq!(reply.message[16..20], [10, 0, 0, 4]);
        assert_eq!(reply.message[4..8], [9, 8, 7, 6]);
        assert!(!reply.broadcast);
    }

    #[test]
    fn another_address_is_refused() {
        let reply = answer(&message(REQUEST, Ipv4Addr::UNSPECIFIED, &[(50, &[10, 0, 0, 9])]), &lease()).unwrap();
        assert_eq!(value(&reply, 53), Some(vec![NAK]));
        assert_eq!(reply.message[16..20], [0; 4]);
        assert!(reply.broadcast);
    }

    #[test]
    fn a_request_to_another_server_is_not_ours() {
        let options: [(u8, &[u8]); 2] = [(50, &[10, 0, 0, 4]), (54, &[10, 0, 0, 1])];
        assert_eq!(answer(&message(REQUEST, Ipv4Addr::UNSPECIFIED, &options), &lease()), None);
    }

    #[test]
    fn inform_gets_options_but_no_lease() {
        let reply = answer(&message(INFORM, lease().address, &[]), &lease()).unwrap();
        assert_eq!(value(&reply, 53), Some(vec![ACK]));
        assert_eq!(value(&reply, 51), None);
        assert_eq!(value(&reply, 245), Some(WIRE_SERVER.octets().to_vec()));
        assert_eq!(reply.message[16..20], [0; 4]);
    }

    #[test]
    fn a_message_for_another_mac_is_ignored() {
        let other = Lease { mac: [2, 0, 0, 0, 0, 5], ..lease() };
        assert_eq!(answer(&message(DISCOVER, Ipv4Addr::UNSPECIFIED, &[]), &other), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut options in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..700) {
            let mut m = message(DISCOVER, Ipv4Addr::UNSPECIFIED, &[]);
            m.truncate(FIXED);
            m.append(&mut options);
            m.truncate(cut);
            let _ = answer(&m, &lease());
        }
    }
}
