//! The names of a Vnet (RFC 1035). Pure: what is not known here is [`Decision::Forward`]ed by the caller.
//!
//! The zone is the Vnet's suffix. It is answered with authority, and so are single labels and the reverse names of the
//! Vnet's subnets: none of them ever leaves the Vnet. `sudo` and others need the VM's own name, so a NIC always finds
//! itself under its host name, whoever else bears it.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::NicConfig;

/// Seconds that an answer may be kept: names come and go with VMs.
const TTL: u32 = 30;
const HEADER: usize = 12;
const MAX_NAME: usize = 255;

const A: u16 = 1;
const PTR: u16 = 12;
const ANY: u16 = 255;
const IN: u16 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
}

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Reply(Vec<u8>),
    /// Not a name of the Vnet: ask the resolver of this machine, or [`refused`].
    Forward,
    /// Not a query at all.
    Ignore,
}

/// The names and addresses of one Vnet.
#[derive(Debug, Clone, Default)]
pub(super) struct Zone {
    suffix: String,
    addresses: HashMap<String, Ipv4Addr>,
    names: HashMap<Ipv4Addr, String>,
    /// (any address, mask) of each subnet.
    subnets: Vec<(u32, u32)>,
}

impl Zone {
    /// Where two NICs have one name, the first bears it.
    pub(super) fn new<'a>(suffix: &str, nics: impl Iterator<Item = &'a NicConfig>) -> Zone {
        let mut zone = Zone { suffix: suffix.trim_matches('.').to_ascii_lowercase(), ..Zone::default() };
        for nic in nics {
            let name = nic.host_name.to_ascii_lowercase();
            zone.addresses.entry(name.clone()).or_insert(nic.address);
            zone.names.insert(nic.address, name);
            zone.subnets.push((u32::from(nic.gateway), nic.mask()));
        }
        zone
    }

    /// Answers `query` of the NIC with `own` (address).
    pub(super) fn answer(&self, own: Ipv4Addr, query: &[u8]) -> Decision {
        let Some(header) = query.first_chunk::<HEADER>() else { return Decision::Ignore };
        let is_response = header[2] & 0x80 != 0;
        if is_response {
            return Decision::Ignore;
        }
        let opcode = (header[2] >> 3) & 15;
        if opcode != 0 {
            return Decision::Reply(reply(query, None, Code::NotImp, &[]));
        }
        let Some(question) = parse_question(query) else {
            return Decision::Reply(reply(query, None, Code::FormErr, &[]));
        };
        if question.class != IN {
            return Decision::Forward;
        }
        match self.look_up(own, &question) {
            Some((code, record)) => {
                let records: Vec<_> = record.into_iter().collect();
                Decision::Reply(reply(query, Some(question.end), code, &records))
            }
            None => Decision::Forward,
        }
    }

    /// `None`: not one of our names.
    fn look_up(&self, own: Ipv4Addr, question: &Question) -> Option<(Code, Option<Record>)> {
        if let Some(address) = reverse(&question.name) {
            let Some(name) = self.names.get(&address) else {
                let ours = self.subnets.iter().any(|(any, mask)| (any ^ u32::from(address)) & mask == 0);
                return ours.then_some((Code::NxDomain, None));
            };
            let record = Record { kind: PTR, data: encode_name(&self.qualified(name)) };
            return Some((Code::NoError, matches!(question.kind, PTR | ANY).then_some(record)));
        }
        let label = match question.name.strip_suffix(&self.suffix) {
            Some("") => return Some((Code::NoError, None)),
            Some(rest) if !self.suffix.is_empty() && rest.ends_with('.') => &rest[..rest.len() - 1],
            _ if !question.name.contains('.') => &question.name,
            _ => return None,
        };
        let own_name = self.names.get(&own).is_some_and(|name| name == label);
        let address = if own_name { Some(own) } else { self.addresses.get(label).copied() };
        let Some(address) = address else { return Some((Code::NxDomain, None)) };
        let record = Record { kind: A, data: address.octets().to_vec() };
        Some((Code::NoError, matches!(question.kind, A | ANY).then_some(record)))
    }

    fn qualified(&self, name: &str) -> String {
        if self.suffix.is_empty() { name.to_owned() } else { format!("{name}.{}", self.suffix) }
    }
}

/// For names outside, where they may not be resolved.
pub(super) fn refused(query: &[u8]) -> Vec<u8> {
    reply(query, parse_question(query).map(|q| q.end), Code::Refused, &[])
}

/// For names outside, where no resolver answered.
pub(super) fn failed(query: &[u8]) -> Vec<u8> {
    reply(query, parse_question(query).map(|q| q.end), Code::ServFail, &[])
}

/// Is `response` the answer to `query`: same id, and a response?
pub(super) fn answers(query: &[u8], response: &[u8]) -> bool {
    response.len() >= HEADER && query.len() >= HEADER && response[..2] == query[..2] && response[2] & 0x80 != 0
}

/// Cuts a response that does not fit a datagram, so that the client asks again by TCP.
pub(super) fn fit(mut response: Vec<u8>, limit: usize) -> Vec<u8> {
    if response.len() > limit {
        let end = parse_question(&response).map_or(HEADER, |q| q.end);
        response.truncate(end);
        response[2] |= 0x02; // truncated
        let questions = u8::from(end > HEADER);
        response[4..HEADER].copy_from_slice(&[0, questions, 0, 0, 0, 0, 0, 0]);
    }
    response
}

#[derive(Debug)]
struct Question {
    /// Lower case, without the last dot.
    name: String,
    kind: u16,
    class: u16,
    /// Where the question ends in the message.
    end: usize,
}

struct Record {
    kind: u16,
    data: Vec<u8>,
}

/// The first question of a message that has just one.
fn parse_question(message: &[u8]) -> Option<Question> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        match len {
            0 => break,
            1..=63 => {
                let label = message.get(at..at + len)?;
                if !name.is_empty() {
                    name.push('.');
                }
                // A byte that is no letter of a host name only has to be different from all that are.
                name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
                at += len;
            }
            // No pointers in a question.
            _ => return None,
        }
        if at - HEADER > MAX_NAME {
            return None;
        }
    }
    let tail: &[u8; 4] = message.get(at..)?.first_chunk()?;
    let number = |i: usize| u16::from_be_bytes([tail[i], tail[i + 1]]);
    Some(Question { name, kind: number(0), class: number(2), end: at + 4 })
}

/// The address that a name under in-addr.arpa stands for.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let forward: Ipv4Addr = name.strip_suffix(".in-addr.arpa")?.parse().ok()?;
    let [a, b, c, d] = forward.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|l| !l.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label);
    }
    out.push(0);
    out
}

/// A response to `query`, which repeats its question (up to `question_end`, if it was understood).
fn reply(query: &[u8], question_end: Option<usize>, code: Code, records: &[Record]) -> Vec<u8> {
    let end = question_end.unwrap_or(HEADER);
    let mut out = query.get(..end.min(query.len())).unwrap_or_default().to_vec();
    out.resize(out.len().max(HEADER), 0);
    let authoritative = if matches!(code, Code::NoError | Code::NxDomain) { 0x04 } else { 0 };
    out[2] = 0x80 | (out[2] & 0x79) | authoritative; // response, with the query's opcode and "recursion desired"
    out[3] = 0x80 | code as u8; // recursion available
    out[4..HEADER].fill(0);
    out[5] = u8::from(question_end.is_some());
    out[7] = u8::try_from(records.len()).unwrap_or(u8::MAX);
    for record in records {
        out.extend_from_slice(&[0xc0, 12]); // the question's name
        out.extend_from_slice(&record.kind.to_be_bytes());
        out.extend_from_slice(&IN.to_be_bytes());
        out.extend_from_slice(&TTL.to_be_bytes());
        let length = u16::try_from(record.data.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&record.data);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nic(name: &str, last: u8) -> NicConfig {
        NicConfig {
            id: name.to_owned(),
            mac: [2, 0, 0, 0, 0, last],
            address: Ipv4Addr::new(10, 0, 0, last),
            prefix_len: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            host_name: name.to_owned(),
            socket: "/nowhere".into(),
            outbound: false,
            security: crate::net::Security::default(),
            public: None,
        }
    }

    fn zone() -> Zone {
        Zone::new("Corp.Internal", [nic("app01", 4), nic("DB02", 5), nic("app01", 6)].iter())
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut q = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        q.extend(encode_name(name));
        q.extend(kind.to_be_bytes());
        q.extend(IN.to_be_bytes());
        q
    }

    /// (code, number of answers, data of the last one)
    fn ask(own: u8, name: &str, kind: u16) -> Option<(u8, u8, Vec<u8>)> {
        let q = query(name, kind);
        match zone().answer(Ipv4Addr::new(10, 0, 0, own), &q) {
            Decision::Reply(r) => {
                assert!(answers(&q, &r));
                assert_eq!(r[HEADER..q.len()], q[HEADER..], "the question is repeated");
                Some((r[3] & 15, r[7], r.get(q.len() + 12..).unwrap_or_default().to_vec()))
            }
            Decision::Forward => None,
            Decision::Ignore => panic!("ignored"),
        }
    }

    #[test]
    fn names_are_found_bare_and_qualified_in_any_case() {
        for name in ["app01", "APP01", "app01.corp.internal", "App01.Corp.Internal"] {
            assert_eq!(ask(5, name, A), Some((0, 1, vec![10, 0, 0, 4])), "{name}");
        }
        assert_eq!(ask(4, "db02", A), Some((0, 1, vec![10, 0, 0, 5])));
    }

    #[test]
    fn a_vm_finds_itself_whoever_else_bears_its_name() {
        assert_eq!(ask(6, "app01", A), Some((0, 1, vec![10, 0, 0, 6])));
    }

    #[test]
    fn other_types_of_a_known_name_are_empty() {
        assert_eq!(ask(5, "app01", 28), Some((0, 0, vec![])));
    }

    #[test]
    fn unknown_names_of_the_vnet_do_not_leave_it() {
        for name in ["nobody", "nobody.corp.internal", "9.0.0.10.in-addr.arpa"] {
            assert_eq!(ask(5, name, A), Some((3, 0, vec![])), "{name}");
        }
    }

    #[test]
    fn addresses_have_names() {
        assert_eq!(ask(4, "5.0.0.10.in-addr.arpa", PTR), Some((0, 1, encode_name("db02.corp.internal"))));
    }

    #[test]
    fn the_rest_is_forwarded() {
        for name in ["debian.org", "xcorp.internal", "app01.corp.internal.org", "4.4.8.8.in-addr.arpa"] {
            assert_eq!(ask(4, name, A), None, "{name}");
        }
    }

    #[test]
    fn a_long_answer_is_cut_to_its_question() {
        let mut response = reply(&query("debian.org", A), Some(query("debian.org", A).len()), Code::NoError, &[]);
        response.resize(2000, 7);
        let cut = fit(response, 512);
        assert_eq!(cut.len(), query("debian.org", A).len());
        assert_eq!(cut[2] & 2, 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = zone().answer(Ipv4Addr::new(10, 0, 0, 4), &bytes);
            let _ = refused(&bytes);
            if bytes.len() >= HEADER {
                prop_assert!(fit(bytes, 100).len() <= 512.max(MAX_NAME + HEADER + 5));
            }
        }
    }
}
