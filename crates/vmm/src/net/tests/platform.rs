//! What the platform gives to a guest: DHCP, ARP, DNS, its HTTP addresses.

use super::*;
use frames::{arp_answer, arp_request, udp, udp_from};

/// A DHCP message with options, and the answer to it.
pub(super) async fn dhcp(guest: &Guest, kind: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[4..8].copy_from_slice(&[1, 2, 3, kind]);
    message[28..34].copy_from_slice(&guest.nic.mac);
    message[236..240].copy_from_slice(&[99, 130, 83, 99]);
    message.extend_from_slice(&[53, 1, kind]);
    message.extend_from_slice(options);
    message.push(255);
    guest.send_frame(&udp(guest.nic.mac, [0xff; 6], addr("0.0.0.0:68"), addr("255.255.255.255:67"), &message));
    guest
        .when("a DHCP answer", |s| s.seen.iter().filter_map(|f| udp_from(f, 67)).find(|m| m[4..8] == message[4..8]))
        .await
}

pub(super) fn option(message: &[u8], code: u8) -> Option<&[u8]> {
    let mut rest = &message[240..];
    while rest[0] != 255 {
        let (value, after) = rest[2..].split_at(usize::from(rest[1]));
        if rest[0] == code {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// The options that cloud-init and waagent need to find the platform (GS-6).
#[tokio::test]
async fn dhcp_leases_the_address_with_azures_options() {
    let net = Net::start();
    let guest = net.guest(&net.nic(0, 4)).await;

    let offer = dhcp(&guest, 1, &[]).await;
    assert_eq!(option(&offer, 53), Some(&[2][..]));
    assert_eq!(offer[16..20], [10, 0, 0, 4]);

    let ack = dhcp(&guest, 3, &[50, 4, 10, 0, 0, 4, 54, 4, 168, 63, 129, 16]).await;
    assert_eq!(option(&ack, 53), Some(&[5][..]));
    assert_eq!(ack[16..20], [10, 0, 0, 4]);
    assert_eq!(option(&ack, 54), Some(&[168, 63, 129, 16][..]));
    assert_eq!(option(&ack, 51), Some(&[255, 255, 255, 255][..]));
    assert_eq!(option(&ack, 1), Some(&[255, 255, 255, 0][..]));
    assert_eq!(option(&ack, 3), Some(&[10, 0, 0, 1][..]));
    assert_eq!(option(&ack, 6), Some(&[168, 63, 129, 16][..]));
    assert_eq!(option(&ack, 15), Some(SUFFIX.as_bytes()));
    assert_eq!(option(&ack, 245), Some(&[168, 63, 129, 16][..]));
    let routes = [&[0, 10, 0, 0, 1][..], &[32, 168, 63, 129, 16, 10, 0, 0, 1], &[32, 169, 254, 169, 254, 10, 0, 0, 1]];
    assert_eq!(option(&ack, 121), Some(&routes.concat()[..]));
}

#[tokio::test]
async fn arp_and_echo_answer_for_the_gateway_the_platform_and_neighbours_only() {
    let net = Net::start();
    let guest = net.guest(&net.nic(0, 4)).await;
    let neighbour = net.guest(&net.nic(0, 5)).await;
    net.guest(&net.nic(1, 6)).await;
    let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();

    for (target, mac) in [
        ("10.0.0.1", GATEWAY_MAC),
        ("168.63.129.16", GATEWAY_MAC),
        ("169.254.169.254", GATEWAY_MAC),
        ("10.0.0.5", neighbour.nic.mac),
    ] {
        guest.send_frame(&arp_request(&guest.nic, ip(target)));
        let answer = guest.when(target, |s| s.seen.iter().find_map(|f| arp_answer(f, ip(target)))).await;
        assert_eq!(answer, mac, "{target}");
    }

    for target in ["10.0.0.4", "10.0.0.77", "10.0.1.6", "8.8.8.8"] {
        guest.send_frame(&arp_request(&guest.nic, ip(target)));
    }
    guest.ping(guest.nic.gateway, 1).await;
    guest.ping(WIRE_SERVER, 2).await;
    for target in ["10.0.0.4", "10.0.0.77", "10.0.1.6", "8.8.8.8"] {
        assert!(!guest.seen().iter().any(|f| arp_answer(f, ip(target)).is_some()), "{target} was answered");
    }
}

/// A query for a name; the answer's code and the data of its last record.
fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut q = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        q.push(u8::try_from(label.len()).unwrap());
        q.extend(label.as_bytes());
    }
    q.push(0);
    q.extend(kind.to_be_bytes());
    q.extend([0, 1]);
    q
}

const DNS: &str = "168.63.129.16:53";

#[tokio::test]
async fn dns_knows_the_names_of_the_vnet_and_nothing_else() {
    let net = Net::start();
    let guest = net.guest(&net.nic(0, 4)).await;
    let other = net.nic(1, 9);
    net.vnet.attach(other.clone()).await.unwrap();
    let code = |answer: &[u8]| answer[3] & 15;

    for (name, address) in [("vm4", [10, 0, 0, 4]), ("VM9", [10, 0, 1, 9]), (&format!("vm9.{SUFFIX}"), [10, 0, 1, 9])] {
        let answer = guest.ask(addr(DNS), &query(name, 1)).await;
        assert_eq!(code(&answer), 0, "{name}");
        assert!(answer.ends_with(&address), "{name}: {answer:?}");
    }
    let pointer = guest.ask(addr(DNS), &query("9.1.0.10.in-addr.arpa", 12)).await;
    assert!(String::from_utf8_lossy(&pointer).contains("vm9\u{4}corp"), "{pointer:?}");

    assert_eq!(code(&guest.ask(addr(DNS), &query("vm5", 1)).await), 3);
    assert_eq!(code(&guest.ask(addr(DNS), &query("debian.org", 1)).await), 5, "not without a way out");

    net.vnet.detach(&other.id).await;
    assert_eq!(code(&guest.ask(addr(DNS), &query("vm9", 1)).await), 3, "gone with its NIC");
}

#[tokio::test]
async fn dns_asks_the_machines_resolver_for_other_names_if_the_nic_may_go_out() {
    let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listener = tokio::net::TcpListener::bind(resolver.local_addr().unwrap()).await.unwrap();
    let net = Net::with_egress(Loop { resolver: Some(resolver.local_addr().unwrap()), ..Loop::default() });
    let guest = net.guest(&NicConfig { outbound: true, ..net.nic(0, 4) }).await;
    let answer_of = |query: &[u8]| {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer.extend_from_slice(b"the answer");
        answer
    };

    let asked = query("debian.org", 1);
    let serve = async {
        let mut buffer = [0; 512];
        let (n, from) = resolver.recv_from(&mut buffer).await.unwrap();
        resolver.send_to(&answer_of(&buffer[..n]), from).await.unwrap();
    };
    let (answer, ()) = tokio::join!(guest.ask(addr(DNS), &asked), serve);
    assert_eq!(answer, answer_of(&asked));

    // The same over TCP, and a name of the Vnet on the same connection.
    let conn = guest.connect(addr(DNS)).await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let query = egress::read_message(&mut stream).await.unwrap();
        egress::write_message(&mut stream, &answer_of(&query)).await.unwrap();
    };
    let ask = async {
        for (asked, end) in [(&asked, &b"the answer"[..]), (&query("vm4", 1), &[10, 0, 0, 4])] {
            guest.send(conn, &[&u16::try_from(asked.len()).unwrap().to_be_bytes()[..], asked].concat()).await;
            let length = guest.receive(conn, 2).await;
            let answer = guest.receive(conn, usize::from(u16::from_be_bytes([length[0], length[1]]))).await;
            assert!(answer.ends_with(end), "{answer:?}");
        }
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn platform_addresses_are_served_with_half_closed_connections() {
    let net = Net::start();
    let guest = net.guest(&net.nic(0, 4)).await;
    let sent = pattern(300_000);
    for dest in ["168.63.129.16:80", "168.63.129.16:32526", "169.254.169.254:80"] {
        let conn = guest.connect(addr(dest)).await;
        let receive = async {
            guest.send(conn, &sent).await;
            guest.close(conn);
            guest.receive_to_end(conn).await
        };
        assert!(receive.await == sent.to_ascii_uppercase(), "{dest}: other bytes came back");
    }
    let calls: Vec<_> = net.platform.calls.lock().unwrap().iter().map(|(id, d)| (id.clone(), d.to_string())).collect();
    let nic = || "nic0-4".to_owned();
    assert_eq!(
        calls,
        [
            (nic(), "168.63.129.16:80".to_owned()),
            (nic(), "168.63.129.16:32526".to_owned()),
            (nic(), "169.254.169.254:80".to_owned())
        ]
    );

    for dest in ["168.63.129.16:81", "169.254.169.254:32526", "10.0.0.1:80"] {
        assert!(guest.try_connect(addr(dest)).await.is_none(), "{dest} must refuse");
    }
}
