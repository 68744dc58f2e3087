//! A Vnet on a LAN: here a cable, with one host at its other end that is the LAN's router too.

use bytes::BytesMut;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::net::bridge::tests::lan;
use crate::net::link::{put_frame, take_frame};
use frames::{arp_answer, arp_request, echo_request, ethernet, is_echo_reply, syn, to, udp, udp_from};
use platform::{dhcp, option};

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 200, 1);
const WORLD: &str = "203.0.113.7:443";

/// One end of a cable as an uplink, and the other one.
fn cable() -> (Uplink, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (to_lan, mut queue) = mpsc::channel::<bytes::Bytes>(64);
    let (frames, from_lan) = mpsc::channel(64);
    let task = tokio::spawn(async move {
        let (mut reader, mut writer) = ours.into_split();
        let out = async {
            while let Some(frame) = queue.recv().await {
                let mut wire = Vec::new();
                put_frame(&mut wire, &frame);
                writer.write_all(&wire).await.expect("the LAN takes frames");
            }
        };
        let back = async {
            let mut buffer = BytesMut::new();
            while reader.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                while let Some(frame) = take_frame(&mut buffer).expect("frames in step") {
                    // The Vnet may be gone.
                    let _ = frames.send(frame).await;
                }
            }
        };
        tokio::join!(out, back);
    });
    let lan = lan("10.0.0.0/16", Some("10.0.200.1"), "10.0.0.0/20");
    (Uplink { lan, to_lan, from_lan, task: AbortOnDropHandle::new(task) }, theirs)
}

struct OnLan {
    net: Net,
    /// The host on the LAN.
    host: Guest,
}

impl OnLan {
    fn start() -> OnLan {
        let (uplink, cable) = cable();
        let net = Net::with(Loop::default(), Some(uplink));
        let host = NicConfig { mac: [0, 0x1b, 0x21, 0, 0, 1], address: ROUTER, ..local(&net, 200, 9) };
        OnLan { host: Guest::on(cable, &as_told(&host)), net }
    }

    fn nic(&self, last: u8) -> NicConfig {
        NicConfig { outbound: true, ..local(&self.net, 0, last) }
    }

    async fn guest(&self, nic: &NicConfig) -> Guest {
        self.net.vnet.attach(nic.clone()).await.unwrap();
        Guest::plug(&as_told(nic)).await
    }

    fn counters(&self) -> CountersSnapshot {
        self.net.vnet.counters()
    }

    /// Until the LAN's host has an answer of the guest's: whatever either has sent before has been dealt with.
    async fn settled(&self, guest: &Guest, number: u16) {
        let echo = |from: &Guest, other: &Guest| to(other.nic.mac, &echo_request(&from.nic, other.nic.address, number));
        guest.send_frame(&arp_request(&guest.nic, ROUTER));
        guest.when("the LAN's host", |s| s.seen.iter().find_map(|f| arp_answer(f, ROUTER))).await;
        for (from, other) in [(guest, &self.host), (&self.host, guest)] {
            from.send_frame(&echo(from, other));
            let what = format!("an echo of {}", other.nic.address);
            from.when(&what, |s| s.seen.iter().any(|f| is_echo_reply(f, other.nic.address, number)).then_some(()))
                .await;
        }
    }
}

fn local(net: &Net, subnet: u8, last: u8) -> NicConfig {
    let nic = net.nic(subnet, last);
    NicConfig { mac: [0x02, 0x22, 0x48, 0, subnet, last], ..nic }
}

/// What a guest makes of its lease.
fn as_told(nic: &NicConfig) -> NicConfig {
    NicConfig { prefix_len: 16, gateway: ROUTER, ..nic.clone() }
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

#[tokio::test]
async fn guests_and_hosts_of_the_lan_are_neighbours() {
    let site = OnLan::start();
    let guest = site.guest(&site.nic(4)).await;
    let told = site.host.when("where the guest is", |s| s.seen.first().cloned()).await;
    assert_eq!((&told[..6], &told[6..12], &told[28..32]), (&[0xff; 6][..], &guest.nic.mac[..], &[10, 0, 0, 4][..]));

    for (client, server) in [(&guest, &site.host), (&site.host, &guest)] {
        let served = server.listen(8080);
        let conn = client.connect(at(server.nic.address, 8080)).await;
        server.accepted(served).await;
        let sent = pattern(300_000);
        let (got, ()) = tokio::join!(server.receive(served, sent.len()), client.send(conn, &sent));
        assert!(got == sent, "other bytes arrived");
        let (asks, answers) = (client.udp(4000), server.udp(53));
        client.send_to(asks, at(server.nic.address, 53), b"?");
        let (_, from) = server.receive_from(answers).await;
        assert_eq!(from, at(client.nic.address, 4000));
        server.send_to(answers, from, b"!");
        assert_eq!(client.receive_from(asks).await.0, b"!");
    }
    site.settled(&guest, 1).await;

    // What lies beyond goes to the LAN's router, and not through sockets of this machine.
    guest.start_connect(addr(WORLD));
    let beyond = [203, 0, 113, 7];
    let leaving = |f: &Vec<u8>| f[..6] == site.host.nic.mac && f[12..14] == [8, 0] && f[30..34] == beyond;
    site.host.when("a packet to the world", |s| s.seen.iter().any(leaving).then_some(())).await;
    assert!(site.net.egress.asked.lock().unwrap().is_empty());
    let macs: std::collections::BTreeSet<_> = site.host.seen().iter().map(|f| f[6..12].to_vec()).collect();
    assert_eq!(macs.into_iter().collect::<Vec<_>>(), [guest.nic.mac.to_vec()], "nobody else was seen on the LAN");
}

#[tokio::test]
async fn guests_of_one_vnet_talk_without_the_lan() {
    let site = OnLan::start();
    let (guest, other) = (site.guest(&site.nic(4)).await, site.guest(&site.nic(5)).await);
    let third = NicConfig { outbound: true, ..local(&site.net, 1, 6) };
    let third = site.guest(&third).await;
    for server in [&other, &third] {
        let served = server.listen(8080);
        let conn = guest.connect(at(server.nic.address, 8080)).await;
        server.accepted(served).await;
        guest.send(conn, b"hello").await;
        assert_eq!(server.receive(served, 5).await, b"hello");
    }
    site.settled(&guest, 1).await;
    assert!(!site.host.seen().iter().any(|f| f.windows(5).any(|w| w == b"hello")));
    // Private links come from the network's own gateway, which the guest finds although its router is another one.
    let served = guest.listen(2222);
    let mut stream = site.net.vnet.connect(&guest.nic.id, 2222).await.unwrap();
    guest.accepted(served).await;
    stream.write_all(b"link").await.unwrap();
    assert_eq!(guest.receive(served, 4).await, b"link");
}

/// Also of a guest that knows no other way than the LAN's router.
#[tokio::test]
async fn the_platform_is_this_networks_and_never_leaves() {
    let site = OnLan::start();
    let guest = site.guest(&site.nic(4)).await;
    let ack = dhcp(&guest, 3, &[50, 4, 10, 0, 0, 4]).await;
    assert_eq!(option(&ack, 1), Some(&[255, 255, 0, 0][..]), "the LAN's mask");
    assert_eq!(option(&ack, 3), Some(&ROUTER.octets()[..]));
    let routes =
        [&[0, 10, 0, 200, 1][..], &[32, 168, 63, 129, 16, 10, 0, 0, 1], &[32, 169, 254, 169, 254, 10, 0, 0, 1]];
    assert_eq!(option(&ack, 121), Some(&routes.concat()[..]));

    for dest in ["168.63.129.16:80", "169.254.169.254:80"] {
        let conn = guest.connect(addr(dest)).await;
        guest.send(conn, b"get").await;
        guest.close(conn);
        assert_eq!(guest.receive_to_end(conn).await, b"GET", "{dest}");
    }
    let who = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03vm4\x00\x00\x01\x00\x01";
    let answer = guest.ask(addr("168.63.129.16:53"), who).await;
    assert!(answer.ends_with(&[10, 0, 0, 4]), "{answer:?}");
    // Neither another port of it, nor DHCP to whoever serves the LAN.
    assert!(guest.try_connect(addr("168.63.129.16:81")).await.is_none());
    for (from, port) in [(68, 67), (67, 68)] {
        let (own, router) = (at(guest.nic.address, from), at(ROUTER, port));
        guest.send_frame(&udp(guest.nic.mac, site.host.nic.mac, own, router, b"dhcp"));
    }
    site.settled(&guest, 1).await;
    for frame in site.host.seen().iter().filter(|f| f[12..14] == [8, 0]) {
        assert!(frame[30..34] == ROUTER.octets() && udp_from(frame, 67).or(udp_from(frame, 68)).is_none(), "{frame:?}");
    }
}

#[tokio::test]
async fn the_lan_is_told_where_interfaces_are_and_nothing_else() {
    let site = OnLan::start();
    let guest = site.guest(&site.nic(4)).await;
    let (host, nic) = (&site.host, &guest.nic);
    let mut discover = vec![0; 240];
    discover[..3].copy_from_slice(&[1, 1, 6]);
    discover[28..34].copy_from_slice(&host.nic.mac);
    discover[236..240].copy_from_slice(&[99, 130, 83, 99]);
    discover.extend_from_slice(&[53, 1, 1, 255]);
    host.send_frame(&udp(host.nic.mac, [0xff; 6], addr("0.0.0.0:68"), addr("255.255.255.255:67"), &discover));
    for unknown in ["10.0.0.1", "10.0.0.77", "168.63.129.16", "169.254.169.254"] {
        host.send_frame(&arp_request(&host.nic, unknown.parse().unwrap()));
    }
    // To the network's own MAC, as a guest would.
    host.send_frame(&syn(&host.nic, 999, addr("168.63.129.16:80")));
    host.send_frame(&syn(&host.nic, 999, at(nic.address, 80)));
    host.send_frame(&udp(host.nic.mac, GATEWAY_MAC, at(ROUTER, 999), addr("168.63.129.16:53"), b"name?"));
    host.send_frame(&echo_request(&host.nic, "10.0.0.1".parse().unwrap(), 9));
    // Kinds that the network does not carry, to the guest and to all.
    host.send_frame(&ethernet(nic.mac, host.nic.mac, 0x86dd, &[0x60; 40]));
    host.send_frame(&udp(host.nic.mac, [0xff; 6], at(ROUTER, 137), addr("10.0.255.255:137"), b"browse"));
    host.send_frame(&udp(host.nic.mac, nic.mac, at(ROUTER, 67), at(nic.address, 68), b"a lease of the LAN's"));

    host.send_frame(&arp_request(&host.nic, nic.address));
    let answer = host.when("where the guest is", |s| s.seen.iter().find_map(|f| arp_answer(f, nic.address))).await;
    assert_eq!(answer, nic.mac);
    site.settled(&guest, 1).await;
    // Told, the ARP answer, a question of the guest's, its echo and its answer.
    let seen = host.seen();
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(seen.iter().all(|f| f[6..12] == nic.mac));
    let came = guest.seen();
    assert!(!came.iter().any(|f| f.windows(5).any(|w| w == b"lease" || w == b"brows") || f[12..14] == [0x86, 0xdd]));
    assert!(site.net.platform.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nobody_speaks_with_anothers_addresses() {
    let site = OnLan::start();
    let guest = site.guest(&site.nic(4)).await;
    let other = site.guest(&site.nic(5)).await;
    let host = &site.host;
    site.settled(&guest, 1).await;
    let before = site.counters().spoofed;

    // A guest towards the LAN.
    let honest = to(host.nic.mac, &echo_request(&guest.nic, ROUTER, 2));
    let false_mac = [&honest[..6], &[2, 2, 2, 2, 2, 2], &honest[12..]].concat();
    let as_router = |nic: &NicConfig| NicConfig { address: ROUTER, ..nic.clone() };
    let as_host = |nic: &NicConfig| NicConfig { address: Ipv4Addr::new(10, 0, 99, 9), ..nic.clone() };
    for frame in [
        false_mac,
        to(host.nic.mac, &echo_request(&as_host(&guest.nic), ROUTER, 3)),
        arp_request(&as_router(&guest.nic), Ipv4Addr::new(10, 0, 77, 7)),
    ] {
        guest.send_frame(&frame);
    }
    site.settled(&guest, 4).await;
    assert_eq!(site.counters().spoofed - before, 3);

    // The LAN towards guests: as another guest, as its gateway, as the platform, with a guest's own MAC.
    let pretend = |address: Ipv4Addr| NicConfig { address, ..host.nic.clone() };
    let ours = [other.nic.address, Ipv4Addr::new(10, 0, 0, 1)];
    for address in ours {
        host.send_frame(&to(guest.nic.mac, &echo_request(&pretend(address), guest.nic.address, 5)));
        host.send_frame(&arp_request(&pretend(address), guest.nic.address));
        host.send_frame(&arp_request(&pretend(address), address));
    }
    for address in [WIRE_SERVER, IMDS, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST] {
        host.send_frame(&to(guest.nic.mac, &echo_request(&pretend(address), guest.nic.address, 5)));
    }
    let false_mac = to(guest.nic.mac, &echo_request(&host.nic, guest.nic.address, 5));
    host.send_frame(&[&false_mac[..6], &other.nic.mac, &false_mac[12..]].concat());
    let seen = guest.seen().len();
    site.settled(&guest, 6).await;
    assert_eq!(site.counters().spoofed - before, 3 + 6 + 4 + 1);
    let came: Vec<_> = guest.seen().split_off(seen);
    assert!(
        came.iter().all(|f| f[6..12] == host.nic.mac && f[12..14] != [8, 0] || f[26..30] == ROUTER.octets()),
        "{came:?}"
    );

    // A router that moves to another card may say so.
    let moved = NicConfig { mac: [0, 0x1b, 0x21, 0, 0, 2], ..host.nic.clone() };
    host.send_frame(&arp_request(&moved, ROUTER));
    for hears in [&guest, &other] {
        hears.when("the router's new card", |s| s.seen.iter().any(|f| f[6..12] == moved.mac).then_some(())).await;
    }
}

fn rules(rules: Vec<SecurityRule>) -> Security {
    Security { groups: vec![rules], network: vec![(Ipv4Addr::new(10, 0, 0, 0), 20)] }
}

fn rule(allow: bool, direction: Direction, protocol: RuleProtocol, port: u16) -> SecurityRule {
    SecurityRule {
        allow,
        direction,
        protocol,
        sources: vec![Peers::Any],
        source_ports: vec![(0, u16::MAX)],
        destinations: vec![Peers::Any],
        destination_ports: vec![(port, port)],
    }
}

impl OnLan {
    /// Whether a connection is refused by the rules, which say nothing to who asks.
    async fn is_dropped(&self, from: &Guest, dest: SocketAddrV4) {
        let before = self.counters().refused;
        let waiting = from.start_connect(dest);
        let dropped = async {
            while self.counters().refused == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(guest::PATIENCE, dropped).await.expect("the rules refuse it");
        from.close(waiting);
    }
}

#[tokio::test]
async fn security_rules_hold_on_the_lan() {
    let site = OnLan::start();
    let host = &site.host;
    // What is not of the network comes in by a rule alone.
    let closed = NicConfig {
        security: rules(vec![
            rule(true, Direction::Inbound, RuleProtocol::Tcp, 22),
            rule(true, Direction::Inbound, RuleProtocol::Icmp, 0),
            rule(true, Direction::Inbound, RuleProtocol::Udp, 53),
            rule(false, Direction::Outbound, RuleProtocol::Udp, 99),
            rule(false, Direction::Outbound, RuleProtocol::Udp, 4000),
            rule(false, Direction::Outbound, RuleProtocol::Tcp, 25),
        ]),
        ..site.nic(4)
    };
    let guest = site.guest(&closed).await;
    for port in [22, 80] {
        guest.listen(port);
        host.listen(port);
    }
    host.connect(at(guest.nic.address, 22)).await;
    site.is_dropped(host, at(guest.nic.address, 80)).await;
    guest.connect(at(ROUTER, 80)).await;
    site.is_dropped(&guest, at(ROUTER, 25)).await;

    // Whoever was asked may answer, on either side.
    let (asks, answers) = (host.udp(4000), guest.udp(53));
    host.send_to(asks, at(guest.nic.address, 53), b"?");
    let (_, from) = guest.receive_from(answers).await;
    guest.send_to(answers, from, b"!");
    assert_eq!(host.receive_from(asks).await.0, b"!");
    let (asks, answers) = (guest.udp(5000), host.udp(5353));
    guest.send_to(asks, at(ROUTER, 5353), b"?");
    let (_, from) = host.receive_from(answers).await;
    host.send_to(answers, from, b"!");
    assert_eq!(guest.receive_from(asks).await.0, b"!");
    guest.send_to(asks, at(ROUTER, 99), b"forbidden");
    site.settled(&guest, 1).await;
    assert!(!host.seen().iter().any(|f| f.windows(9).any(|w| w == b"forbidden")));

    // Rules change while it runs.
    site.net.vnet.update(NicConfig { security: Security::default(), ..closed }).await.unwrap();
    host.connect(at(guest.nic.address, 80)).await;
}

#[tokio::test]
async fn without_outbound_access_the_lan_is_all_there_is() {
    let site = OnLan::start();
    let guest = site.guest(&NicConfig { outbound: false, ..site.nic(4) }).await;
    site.host.listen(80);
    guest.connect(at(ROUTER, 80)).await;
    site.is_dropped(&guest, addr(WORLD)).await;
    // From beyond the LAN's router it may be asked, and answers.
    let (own, far) = (at(guest.nic.address, 53), addr("203.0.113.9:4000"));
    let answers = guest.udp(53);
    site.host.send_frame(&udp(site.host.nic.mac, guest.nic.mac, far, own, b"?"));
    let (_, from) = guest.receive_from(answers).await;
    assert_eq!(from, far);
    guest.send_to(answers, far, b"!");
    site.host
        .when("the answer", |s| s.seen.iter().any(|f| udp_from(f, 53).as_deref() == Some(b"!")).then_some(()))
        .await;
}

#[tokio::test]
async fn what_the_operator_did_not_set_aside_is_kept_off_the_lan() {
    let site = OnLan::start();
    let nic = site.nic(4);
    for (refused, says) in [
        (
            NicConfig { address: ROUTER, gateway: Ipv4Addr::new(10, 0, 200, 2), ..nic.clone() },
            "10.0.200.1 is not in 10.0.0.0/20",
        ),
        (
            NicConfig { gateway: Ipv4Addr::new(10, 0, 16, 1), address: Ipv4Addr::new(10, 0, 16, 4), ..nic.clone() },
            "10.0.16.4",
        ),
        (NicConfig { mac: [0x00, 0x0d, 0x3a, 0, 0, 4], ..nic.clone() }, "locally administered"),
    ] {
        match site.net.vnet.attach(refused).await {
            Err(NetError::NotOnLan { reason, .. }) => assert!(reason.contains(says), "{reason}"),
            other => panic!("{says}: {other:?}"),
        }
    }
    site.net.vnet.attach(nic.clone()).await.unwrap();
    let moved = NicConfig { gateway: Ipv4Addr::new(10, 0, 0, 2), ..nic };
    site.net.vnet.update(moved).await.expect("another gateway in the range");
}
