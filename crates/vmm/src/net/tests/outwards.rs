//! NAT: what leaves the Vnet, and what must not.

use super::*;

async fn echo_tcp() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                // A guest may cut the connection.
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    address
}

async fn echo_udp() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&buffer[..n], from).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn tcp_and_udp_go_out_through_nat() {
    let net = Net::with_egress(Loop { tcp: Some(echo_tcp().await), udp: Some(echo_udp().await), ..Loop::default() });
    let guest = net.guest(&NicConfig { outbound: true, ..net.nic(0, 4) }).await;

    let conn = guest.connect(addr("203.0.113.7:443")).await;
    let sent = pattern(1_000_000);
    let (got, ()) = tokio::join!(guest.receive(conn, sent.len()), guest.send(conn, &sent));
    assert!(got == sent, "other bytes came back");
    guest.close(conn);
    assert_eq!(guest.receive_to_end(conn).await, b"");

    assert_eq!(guest.ask(addr("203.0.113.8:123"), b"what time is it?").await, b"what time is it?");
    assert_eq!(*net.egress.asked.lock().unwrap(), [addr("203.0.113.7:443"), addr("203.0.113.8:123")]);
}

#[tokio::test]
async fn a_refused_destination_is_refused_to_the_guest() {
    let net = Net::start();
    let guest = net.guest(&NicConfig { outbound: true, ..net.nic(0, 4) }).await;
    assert!(guest.try_connect(addr("203.0.113.7:443")).await.is_none());
    assert_eq!(*net.egress.asked.lock().unwrap(), [addr("203.0.113.7:443")], "it was tried");
}

/// The machine's own services must stay out of reach, whatever a guest tries.
#[tokio::test]
async fn loopback_link_local_and_vnet_addresses_never_leave() {
    let net = Net::with_egress(Loop { tcp: Some(echo_tcp().await), udp: Some(echo_udp().await), ..Loop::default() });
    let guest = net.guest(&NicConfig { outbound: true, ..net.nic(0, 4) }).await;
    for dest in
        ["127.0.0.1:22", "127.5.6.7:80", "169.254.1.1:80", "169.254.169.254:443", "168.63.129.16:22", "10.0.0.99:22"]
    {
        guest.send_frame(&frames::syn(&guest.nic, 33333, addr(dest)));
        let from = SocketAddrV4::new(guest.nic.address, 33334);
        guest.send_frame(&frames::udp(guest.nic.mac, GATEWAY_MAC, from, addr(dest), b"x"));
    }
    guest.ping(guest.nic.gateway, 1).await;
    // Both ways out are open, so these would be asked for after the others.
    guest.ask(addr("203.0.113.8:123"), b"x").await;
    guest.connect(addr("203.0.113.7:443")).await;
    assert_eq!(*net.egress.asked.lock().unwrap(), [addr("203.0.113.8:123"), addr("203.0.113.7:443")]);
}

#[tokio::test]
async fn without_outbound_nothing_leaves() {
    let net = Net::with_egress(Loop { tcp: Some(echo_tcp().await), udp: Some(echo_udp().await), ..Loop::default() });
    let nic = net.nic(0, 4);
    let guest = net.guest(&nic).await;
    assert!(guest.try_connect(addr("203.0.113.7:443")).await.is_none());
    let socket = guest.udp(5000);
    guest.send_to(socket, addr("203.0.113.8:123"), b"x");
    guest.ping(nic.gateway, 1).await;
    assert_eq!(*net.egress.asked.lock().unwrap(), []);

    net.vnet.update(NicConfig { outbound: true, ..nic }).await.unwrap();
    guest.connect(addr("203.0.113.7:443")).await;
}

#[tokio::test]
async fn security_rules_hold_on_the_way_out() {
    let net = Net::with_egress(Loop { tcp: Some(echo_tcp().await), udp: Some(echo_udp().await), ..Loop::default() });
    let nothing = SecurityRule {
        allow: false,
        direction: Direction::Outbound,
        protocol: RuleProtocol::Any,
        sources: vec![Peers::Any],
        source_ports: vec![(0, u16::MAX)],
        destinations: vec![Peers::Internet],
        destination_ports: vec![(0, u16::MAX)],
    };
    let https = SecurityRule {
        allow: true,
        protocol: RuleProtocol::Tcp,
        destination_ports: vec![(443, 443)],
        ..nothing.clone()
    };
    let security = Security { groups: vec![vec![https, nothing]], network: vec![(Ipv4Addr::new(10, 0, 0, 0), 16)] };
    let guest = net.guest(&NicConfig { outbound: true, security, ..net.nic(0, 4) }).await;
    assert!(guest.try_connect(addr("203.0.113.7:80")).await.is_none());
    let socket = guest.udp(5000);
    guest.send_to(socket, addr("203.0.113.8:123"), b"x");
    guest.connect(addr("203.0.113.7:443")).await;
    assert_eq!(*net.egress.asked.lock().unwrap(), [addr("203.0.113.7:443")]);
    // The platform is above the rules.
    let conn = guest.connect(addr("168.63.129.16:80")).await;
    guest.close(conn);
}
