//! Guests that mean ill.

use proptest::prelude::*;
use tokio::net::UnixStream;

use super::*;
use frames::{arp_request, echo_request, ethernet, syn, udp};

#[tokio::test]
async fn a_guest_speaks_with_its_own_addresses_only() {
    let net = Net::start();
    let guest = net.guest(&net.nic(0, 4)).await;
    let victim = net.guest(&net.nic(0, 5)).await;

    let honest = echo_request(&guest.nic, victim.nic.address, 1);
    let false_ip =
        echo_request(&NicConfig { address: Ipv4Addr::new(10, 0, 0, 6), ..guest.nic.clone() }, victim.nic.address, 2);
    let false_mac = [&victim.nic.mac[..], &[2, 2, 2, 2, 2, 2], &honest[12..]].concat();
    let false_arp = arp_request(&NicConfig { address: guest.nic.gateway, ..guest.nic.clone() }, victim.nic.address);
    let to_victim = |frame: &[u8]| [&victim.nic.mac[..], &frame[6..]].concat();
    for frame in [false_ip.clone(), to_victim(&false_ip), false_mac, false_arp] {
        guest.send_frame(&frame);
    }
    // What the victim has seen after this one is all that there was.
    guest.send_frame(&to_victim(&honest));
    victim.when("the honest frame", |s| s.seen.contains(&to_victim(&honest)).then_some(())).await;
    assert_eq!(net.vnet.counters().spoofed, 4);
    let ip_frames: Vec<_> = victim.seen().into_iter().filter(|f| f[12..14] == [8, 0]).collect();
    assert_eq!(ip_frames, [to_victim(&honest)]);
}

/// Broadcasts and multicasts reach nobody, as on Azure.
#[tokio::test]
async fn nothing_is_flooded() {
    let net = Net::start();
    let guest = net.guest(&net.nic(0, 4)).await;
    let other = net.guest(&net.nic(0, 5)).await;
    let from = SocketAddrV4::new(guest.nic.address, 137);
    for (mac, dest) in
        [([0xff; 6], "10.0.0.255:137"), ([1, 0, 0x5e, 0, 0, 251], "224.0.0.251:5353"), ([2; 6], "10.0.0.9:99")]
    {
        guest.send_frame(&udp(guest.nic.mac, mac, from, addr(dest), b"anybody?"));
    }
    guest.send_frame(&ethernet([0xff; 6], guest.nic.mac, 0x86dd, &[0; 40]));
    guest.ping(guest.nic.gateway, 1).await;
    other.ping(other.nic.gateway, 2).await;
    assert_eq!(other.seen().len(), 1, "only its own echo");
    assert_eq!(net.vnet.counters().ignored, 4);
}

#[tokio::test]
async fn a_flood_of_syns_is_bounded_and_harms_nobody_else() {
    let net = Net::start();
    let flooder = net.guest(&net.nic(0, 4)).await;
    let other = net.guest(&net.nic(0, 5)).await;
    for port in 1..=5000 {
        flooder.send_frame(&syn(&flooder.nic, port, addr("168.63.129.16:80")));
    }
    flooder.ping(flooder.nic.gateway, 1).await;
    let counters = net.vnet.counters();
    assert!(counters.tcp_opened <= 256, "{counters:?}");
    assert!(counters.tcp_opened + counters.refused >= 5000, "{counters:?}");

    let conn = other.connect(addr("168.63.129.16:80")).await;
    other.send(conn, b"hello").await;
    other.close(conn);
    assert_eq!(other.receive_to_end(conn).await, b"HELLO");
}

/// A stream that is out of step is hung up, and QEMU may connect again.
#[tokio::test]
async fn a_broken_stream_is_hung_up() {
    let net = Net::start();
    let nic = net.nic(0, 4);
    net.vnet.attach(nic.clone()).await.unwrap();
    let mut qemu = UnixStream::connect(&nic.socket).await.unwrap();
    qemu.write_all(&[0xff; 64]).await.unwrap();
    let ended = qemu.read(&mut [0; 1]).await;
    assert!(matches!(&ended, Ok(0)) || ended.is_err(), "{ended:?}");
    Guest::plug(&nic).await.ping(nic.gateway, 1).await;
}

/// Any frame, most of them nearly right.
fn any_frame(nic: &NicConfig) -> impl Strategy<Value = Vec<u8>> + use<> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let seeds = vec![
        echo_request(nic, nic.gateway, 9),
        arp_request(nic, nic.gateway),
        syn(nic, 4000, addr("168.63.129.16:80")),
        syn(nic, 4000, addr("203.0.113.7:80")),
        udp(
            nic.mac,
            GATEWAY_MAC,
            SocketAddrV4::new(nic.address, 4001),
            addr("168.63.129.16:53"),
            b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03vm4\0\0\x01\0\x01",
        ),
        udp(nic.mac, [0xff; 6], addr("0.0.0.0:68"), addr("255.255.255.255:67"), &[1; 300]),
    ];
    let mac = nic.mac;
    let damaged = (
        prop::sample::select(seeds),
        prop::collection::vec((12usize..80, any::<u8>()), 0..4),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(mut frame, changes, cut, shorten)| {
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if shorten {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        });
    prop_oneof![
        1 => bytes(),
        1 => (any::<u16>(), bytes()).prop_map(move |(kind, body)| ethernet(GATEWAY_MAC, mac, kind, &body)),
        2 => bytes().prop_map(move |body| ethernet(GATEWAY_MAC, mac, 0x0800, &body)),
        6 => damaged,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_survived(frames in {
        let dir = std::path::PathBuf::from("/nowhere");
        let nic = NicConfig {
            id: String::new(), mac: [0, 0x22, 0x48, 0, 0, 4], address: Ipv4Addr::new(10, 0, 0, 4), prefix_len: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1), host_name: "vm4".to_owned(), socket: dir, outbound: true, security: Security::default(), public: None,
        };
        prop::collection::vec(any_frame(&nic), 1..100)
    }) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let net = Net::start();
            let guest = net.guest(&NicConfig { outbound: true, ..net.nic(0, 4) }).await;
            for frame in &frames {
                guest.send_frame(frame);
            }
            guest.ping(guest.nic.gateway, 4711).await;
            let conn = guest.connect(addr("169.254.169.254:80")).await;
            guest.send(conn, b"alive").await;
            guest.close(conn);
            assert_eq!(guest.receive_to_end(conn).await, b"ALIVE");
        });
    }
}
