//! Public ports of this machine, and guests among themselves.

use super::*;

const PORT: u16 = 20022;

async fn client(nic: &NicConfig) -> TcpStream {
    TcpStream::connect((nic.public.as_ref().unwrap().address, PORT)).await.expect("the port is open")
}

#[tokio::test]
async fn a_public_port_leads_to_the_guest_both_ways_and_half_closed() {
    let net = Net::start();
    let nic = NicConfig { public: Some(public(&[PORT], &[])), ..net.nic(0, 4) };
    let guest = net.guest(&nic).await;
    let served = guest.listen(PORT);
    let (up, down) = (pattern(3_000_000), pattern(2_000_000));

    let outside = async {
        let mut stream = client(&nic).await;
        stream.write_all(&up).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert!(got == down, "other bytes came back");
    };
    let inside = async {
        guest.accepted(served).await;
        assert!(guest.receive_to_end(served).await == up, "other bytes arrived");
        guest.send(served, &down).await;
        guest.close(served);
    };
    tokio::join!(outside, inside);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_refused_at_once() {
    let net = Net::start();
    let nic = NicConfig { public: Some(public(&[PORT], &[])), ..net.nic(0, 4) };
    let _guest = net.guest(&nic).await;
    let error = client(&nic).await.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_waits_for_a_guest_that_is_not_up_yet() {
    let net = Net::start();
    let nic = NicConfig { public: Some(public(&[PORT], &[])), ..net.nic(0, 4) };
    net.vnet.attach(nic.clone()).await.unwrap();
    let mut stream = client(&nic).await;
    // The first SYN is lost: there is no QEMU.
    while net.vnet.counters().overrun == 0 {
        tokio::task::yield_now().await;
    }
    let guest = Guest::plug(&nic).await;
    let served = guest.listen(PORT);
    guest.accepted(served).await;
    guest.send(served, b"hello").await;
    let mut got = [0; 5];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn a_reset_of_either_side_reaches_the_other() {
    let net = Net::start();
    let nic = NicConfig { public: Some(public(&[PORT], &[])), ..net.nic(0, 4) };
    let guest = net.guest(&nic).await;

    let served = guest.listen(PORT);
    let stream = client(&nic).await;
    guest.accepted(served).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    guest.was_reset(served).await;

    // The guest's QEMU dies.
    let served = guest.listen(PORT);
    let mut stream = client(&nic).await;
    guest.accepted(served).await;
    drop(guest);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    // And comes back.
    let guest = Guest::plug(&nic).await;
    let served = guest.listen(PORT);
    let _stream = client(&nic).await;
    guest.accepted(served).await;
}

#[tokio::test]
async fn udp_ports_tell_clients_apart() {
    let net = Net::start();
    let nic = NicConfig { public: Some(public(&[], &[PORT])), ..net.nic(0, 4) };
    let guest = net.guest(&nic).await;
    let served = guest.udp(PORT);
    let mut clients = Vec::new();
    for text in [b"one", b"two"] {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect((nic.public.as_ref().unwrap().address, PORT)).await.unwrap();
        client.send(text).await.unwrap();
        let (got, from) = guest.receive_from(served).await;
        assert_eq!(got, text);
        clients.push((client, from, text));
    }
    for (client, from, text) in clients {
        guest.send_to(served, from, &text.to_ascii_uppercase());
        let mut got = [0; 16];
        let length = client.recv(&mut got).await.unwrap();
        assert_eq!(got[..length], text.to_ascii_uppercase());
    }
}

#[tokio::test]
async fn rules_change_while_connections_run() {
    const OTHER: u16 = 20080;
    let net = Net::start();
    let nic = NicConfig { public: Some(public(&[PORT], &[])), ..net.nic(0, 4) };
    let guest = net.guest(&nic).await;
    let address = nic.public.as_ref().unwrap().address;
    let first = guest.listen(PORT);
    let mut stream = client(&nic).await;
    guest.accepted(first).await;

    assert!(TcpStream::connect((address, OTHER)).await.is_err(), "not open yet");
    let rules = |ports: &[u16]| {
        let ports = ports.iter().map(|port| PortRule { protocol: Protocol::Tcp, port: *port }).collect();
        NicConfig { public: Some(PublicAddress { address, ports }), ..nic.clone() }
    };
    net.vnet.update(rules(&[PORT, OTHER])).await.unwrap();
    let second = guest.listen(OTHER);
    let mut other = TcpStream::connect((address, OTHER)).await.unwrap();
    guest.accepted(second).await;
    guest.send(first, b"still here").await;
    stream.read_exact(&mut [0; 10]).await.expect("the first connection has lived on");

    net.vnet.update(rules(&[OTHER])).await.unwrap();
    assert!(TcpStream::connect((address, PORT)).await.is_err(), "closed again");
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    guest.was_reset(first).await;
    guest.send(second, b"untouched").await;
    other.read_exact(&mut [0; 9]).await.unwrap();

    net.vnet.detach(&nic.id).await;
    assert_eq!(other.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(TcpStream::connect((address, OTHER)).await.is_err());
    assert!(!nic.socket.exists());
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_changes_nothing() {
    let net = Net::start();
    let public = public(&[PORT, PORT + 1], &[]);
    let taken = tokio::net::TcpListener::bind((public.address, PORT + 1)).await.unwrap();
    let nic = NicConfig { public: Some(public.clone()), ..net.nic(0, 4) };
    match net.vnet.attach(nic.clone()).await {
        Err(NetError::Listen { protocol: Protocol::Tcp, address, .. }) => {
            assert_eq!(address, SocketAddrV4::new(public.address, PORT + 1));
        }
        other => panic!("{other:?}"),
    }
    assert!(!nic.socket.exists());
    assert!(TcpStream::connect((public.address, PORT)).await.is_err(), "the other port was not opened either");
    drop(taken);
    net.vnet.attach(nic).await.expect("nothing was left behind");
}

#[tokio::test]
async fn clashing_nics_are_refused() {
    let net = Net::start();
    let nic = net.nic(0, 4);
    net.vnet.attach(nic.clone()).await.unwrap();
    assert!(matches!(net.vnet.attach(nic.clone()).await, Err(NetError::AlreadyAttached { .. })));
    let other = NicConfig { id: "other".to_owned(), socket: net.dir.path().join("other"), ..nic.clone() };
    assert!(matches!(net.vnet.attach(other.clone()).await, Err(NetError::MacInUse { .. })));
    let other = NicConfig { mac: [2, 0, 0, 0, 0, 9], ..other };
    assert!(matches!(net.vnet.attach(other).await, Err(NetError::AddressInUse { .. })));
    let moved = NicConfig { address: Ipv4Addr::new(10, 0, 0, 7), ..nic.clone() };
    assert!(matches!(net.vnet.update(moved).await, Err(NetError::Fixed { what: "address", .. })));
    let outside = NicConfig { gateway: Ipv4Addr::new(10, 0, 1, 1), ..net.nic(0, 5) };
    assert!(matches!(net.vnet.attach(outside).await, Err(NetError::InvalidNic { .. })));
    assert!(matches!(net.vnet.update(net.nic(0, 6)).await, Err(NetError::NotAttached { .. })));
}

#[tokio::test]
async fn guests_of_one_vnet_talk_within_a_subnet_and_across() {
    let net = Net::start();
    let guest = net.guest(&net.nic(0, 4)).await;
    for nic in [net.nic(0, 5), net.nic(1, 6)] {
        let other = net.guest(&nic).await;
        let served = other.listen(8080);
        let conn = guest.connect(SocketAddrV4::new(nic.address, 8080)).await;
        other.accepted(served).await;
        let sent = pattern(200_000);
        let (got, ()) = tokio::join!(other.receive(served, sent.len()), guest.send(conn, &sent));
        assert!(got == sent);
        other.send(served, b"back").await;
        assert_eq!(guest.receive(conn, 4).await, b"back");
    }
}

/// A rule of one direction about a TCP or UDP port.
fn deny(direction: Direction, protocol: RuleProtocol, port: u16) -> Security {
    let rule = SecurityRule {
        allow: false,
        direction,
        protocol,
        sources: vec![Peers::Any],
        source_ports: vec![(0, u16::MAX)],
        destinations: vec![Peers::Any],
        destination_ports: vec![(port, port)],
    };
    Security { groups: vec![vec![rule]], network: vec![(Ipv4Addr::new(10, 0, 0, 0), 16)] }
}

/// Within a subnet and across; whoever is asked may answer.
#[tokio::test]
async fn security_rules_hold_between_guests() {
    let net = Net::start();
    let guest =
        net.guest(&NicConfig { security: deny(Direction::Outbound, RuleProtocol::Udp, 99), ..net.nic(0, 4) }).await;
    for nic in [net.nic(0, 5), net.nic(1, 6)] {
        let closed = NicConfig { security: deny(Direction::Inbound, RuleProtocol::Tcp, 8080), ..nic };
        let other = net.guest(&closed).await;
        other.listen(8080);
        let served = other.listen(8081);
        let refused = net.vnet.counters().refused;
        let waiting = guest.start_connect(SocketAddrV4::new(other.nic.address, 8080));
        guest.connect(SocketAddrV4::new(other.nic.address, 8081)).await;
        other.accepted(served).await;
        let closed_port = async {
            while net.vnet.counters().refused == refused {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(guest::PATIENCE, closed_port).await.expect("the other port is closed");
        guest.close(waiting);
        // Answers come through, and what the guest may not send does not.
        let number = u16::from(other.nic.address.octets()[3]);
        let (asks, answers) = (guest.udp(4000 + number), other.udp(53));
        guest.send_to(asks, SocketAddrV4::new(other.nic.address, 53), b"?");
        let (_, from) = other.receive_from(answers).await;
        other.send_to(answers, from, b"!");
        assert_eq!(guest.receive_from(asks).await.0, b"!");
        guest.send_to(asks, SocketAddrV4::new(other.nic.address, 99), b"forbidden");
        guest.ping(guest.nic.gateway, number).await;
        assert!(!other.seen().iter().any(|frame| frame.windows(9).any(|w| w == b"forbidden")), "it never came");
        // Rules change while it runs.
        net.vnet.update(NicConfig { security: Security::default(), ..closed }).await.unwrap();
        guest.connect(SocketAddrV4::new(other.nic.address, 8080)).await;
    }
}

/// The same addresses in two Vnets are two worlds.
#[tokio::test]
async fn vnets_do_not_see_each_other() {
    let (here, there) = (Net::start(), Net::start());
    let guest = here.guest(&here.nic(0, 4)).await;
    let stranger = there.guest(&there.nic(0, 5)).await;
    stranger.listen(8080);

    guest.send_frame(&frames::arp_request(&guest.nic, stranger.nic.address));
    let to_stranger = frames::echo_request(&guest.nic, stranger.nic.address, 1);
    guest.send_frame(&to_stranger);
    guest.send_frame(&[&stranger.nic.mac[..], &to_stranger[6..]].concat());
    guest.ping(guest.nic.gateway, 2).await;
    stranger.ping(stranger.nic.gateway, 3).await;
    assert_eq!(guest.seen().iter().find_map(|f| frames::arp_answer(f, stranger.nic.address)), None);
    assert_eq!(stranger.seen().len(), 1, "only its own echo");
}

/// No public address, no open port: a private link comes in all the same, and only where somebody listens.
#[tokio::test]
async fn a_private_link_leads_to_the_guest_and_is_refused_where_nobody_listens() {
    let net = Net::start();
    let nic = net.nic(0, 4);
    let guest = net.guest(&nic).await;
    let served = guest.listen(PORT);
    let mut stream = net.vnet.connect(&nic.id, PORT).await.unwrap();
    guest.accepted(served).await;
    let up = pattern(300_000);
    let (got, sent) = tokio::join!(guest.receive(served, up.len()), stream.write_all(&up));
    sent.unwrap();
    assert!(got == up, "other bytes arrived");
    guest.send(served, b"back").await;
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"back");

    let refused = net.vnet.connect(&nic.id, PORT + 1).await;
    assert!(matches!(refused, Err(NetError::Refused { port, .. }) if port == PORT + 1), "{refused:?}");
    assert!(matches!(net.vnet.connect("nobody", PORT).await, Err(NetError::NotAttached { .. })));

    // Closing a public port concerns no link.
    let public = NicConfig { public: Some(public(&[PORT], &[])), ..nic.clone() };
    net.vnet.update(public).await.unwrap();
    net.vnet.update(nic.clone()).await.unwrap();
    guest.send(served, b"more").await;
    stream.read_exact(&mut back).await.expect("the link lives on");
    net.vnet.detach(&nic.id).await;
    assert_eq!(stream.read(&mut back).await.unwrap_or(0), 0, "it ends with the interface");
}
