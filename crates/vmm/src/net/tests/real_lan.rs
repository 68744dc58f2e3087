//! The same on a bridge of the kernel, with a real host on the LAN; and what is said where there is no way to it.
//!
//! `tests/support/on-a-lan` runs this program again in namespaces of its own: nothing of the machine is touched.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::*;
use frames::{arp_answer, arp_request, echo_request, is_echo_reply, to};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);

fn support(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(file)
}

/// Runs one of the tests that are not for themselves, beside a LAN.
async fn beside_a_lan(options: &[&str], test: &str) {
    let mut command = Command::new(support("on-a-lan"));
    command.args(options).arg(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("net::tests::real_lan::{test}"), "--ignored", "--nocapture"]);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("bash");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test} (needs iproute2, util-linux, python3, /dev/net/tun and user namespaces):\n{said}"
    );
}

fn bridge(bridge: Option<&str>, tap: Option<&str>) -> Bridge {
    Bridge {
        network: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/lan".to_owned(),
        bridge: bridge.map(str::to_owned),
        tap: tap.map(str::to_owned),
        lan: "192.168.50.0/24".parse().unwrap(),
        gateway: Some(HOST),
        addresses: "192.168.50.128/25".parse().unwrap(),
    }
}

/// A program of the LAN's host; lan-host.py says which there are.
fn lan_host(arguments: &[&str]) -> (Child, tokio::io::Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "lan", "python3"]).arg(support("lan-host.py")).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn lan_host_says(arguments: &[&str]) -> String {
    let (_running, mut lines) = lan_host(arguments);
    lines.next_line().await.unwrap().unwrap_or_else(|| panic!("the LAN's host could not {arguments:?}"))
}

/// What `ip` prints of a device; `None`: there is no such.
async fn device(name: &str) -> Option<String> {
    let output = Command::new("ip").args(["-br", "link", "show", name]).output().await.unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn a_bridge_of_the_kernel_carries_guests_to_a_real_host() {
    beside_a_lan(&[], "on_a_bridge").await;
}

#[tokio::test]
async fn a_tap_made_beforehand_needs_no_capability() {
    beside_a_lan(&["--unprivileged"], "on_a_spare_tap").await;
}

#[tokio::test]
async fn what_is_missing_on_the_way_to_a_lan_is_said() {
    beside_a_lan(&[], "on_no_bridge").await;
}

async fn plugged(net: &Net) -> Guest {
    let nic = NicConfig {
        mac: [0x02, 0x22, 0x48, 0, 0, 4],
        address: Ipv4Addr::new(192, 168, 50, 132),
        prefix_len: 25,
        gateway: Ipv4Addr::new(192, 168, 50, 129),
        outbound: true,
        ..net.nic(0, 4)
    };
    net.vnet.attach(nic.clone()).await.unwrap();
    Guest::plug(&NicConfig { prefix_len: 24, gateway: HOST, ..nic }).await
}

/// The guest asks the LAN's host for an echo.
async fn ping_the_host(guest: &Guest, number: u16) {
    guest.send_frame(&arp_request(&guest.nic, HOST));
    let mac = guest.when("the host's MAC", |s| s.seen.iter().find_map(|f| arp_answer(f, HOST))).await;
    guest.send_frame(&to(mac, &echo_request(&guest.nic, HOST, number)));
    guest.when("an echo", |s| s.seen.iter().any(|f| is_echo_reply(f, HOST, number)).then_some(())).await;
}

#[tokio::test]
#[ignore = "run by another test, beside a LAN"]
async fn on_a_bridge() {
    let unused = device("br0").await;
    let net = Net::with(Loop::default(), Some(Uplink::open(&bridge(Some("br0"), None)).unwrap()));
    assert!(device("lazuli0").await.unwrap().contains("UP"), "a port of its own");
    let guest = plugged(&net).await;

    let (_server, mut lines) = lan_host(&["serve"]);
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
    let conn = guest.connect(SocketAddrV4::new(HOST, 7000)).await;
    guest.send(conn, b"from a guest").await;
    assert_eq!(guest.receive_to_end(conn).await, b"FROM A GUEST");
    ping_the_host(&guest, 1).await;
    assert_eq!(lan_host_says(&["ping", "192.168.50.132"]).await, "pong");

    let served = guest.listen(22);
    let answers = async {
        guest.accepted(served).await;
        assert_eq!(guest.receive(served, 5).await, b"hello");
        guest.send(served, b"a banner").await;
    };
    let (said, ()) = tokio::join!(lan_host_says(&["ask", "192.168.50.132", "22"]), answers);
    assert_eq!(said, "a banner");

    // A rule closes the port again.
    let rule = SecurityRule {
        allow: false,
        direction: Direction::Inbound,
        protocol: RuleProtocol::Tcp,
        sources: vec![Peers::Prefix(HOST, 32)],
        source_ports: vec![(0, u16::MAX)],
        destinations: vec![Peers::Any],
        destination_ports: vec![(22, 22)],
    };
    let own = NicConfig { prefix_len: 25, gateway: Ipv4Addr::new(192, 168, 50, 129), ..guest.nic.clone() };
    let security = Security { groups: vec![vec![rule]], network: vec![] };
    net.vnet.update(NicConfig { security, ..own }).await.unwrap();
    guest.listen(22);
    let refused = net.vnet.counters().refused;
    let (_asks, _lines) = lan_host(&["ask", "192.168.50.132", "22"]);
    let dropped = async {
        while net.vnet.counters().refused == refused {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(guest::PATIENCE, dropped).await.expect("the rule holds");

    // The LAN sees one MAC for one guest, whatever the guest pretends.
    let (_watches, mut frames) = lan_host(&["watch"]);
    assert_eq!(frames.next_line().await.unwrap().as_deref(), Some("ready"));
    let honest = to([0xff; 6], &arp_request(&guest.nic, HOST));
    guest.send_frame(&[&honest[..6], &[2, 2, 2, 2, 2, 2], &honest[12..]].concat());
    ping_the_host(&guest, 2).await;
    let mut seen = BTreeSet::new();
    loop {
        let line = frames.next_line().await.unwrap().unwrap();
        let (mac, kind) = line.split_once(' ').unwrap();
        seen.insert(mac.to_owned());
        if kind == "0800" {
            break;
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["02:22:48:00:00:04"]);

    assert_eq!(device("br0").await, unused, "the bridge is as it was");
    drop(net);
    let gone = async {
        while device("lazuli0").await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(guest::PATIENCE, gone).await.expect("the port goes with the network");
}

#[tokio::test]
#[ignore = "run by another test, beside a LAN"]
async fn on_a_spare_tap() {
    // Without the capability a port cannot be made.
    match Uplink::open(&bridge(Some("br0"), None)) {
        Err(error @ UplinkError::NotPermitted { .. }) => {
            let said = error.to_string();
            assert!(said.contains("CAP_NET_ADMIN") && said.contains("br0"), "{said}");
        }
        other => panic!("{other:?}"),
    }
    let spare = bridge(None, Some("spare"));
    let net = Net::with(Loop::default(), Some(Uplink::open(&spare).unwrap()));
    match Uplink::open(&spare) {
        Err(UplinkError::Busy { tap }) => assert_eq!(tap, "spare"),
        other => panic!("{other:?}"),
    }
    let guest = plugged(&net).await;
    ping_the_host(&guest, 1).await;
    assert_eq!(lan_host_says(&["ping", "192.168.50.132"]).await, "pong");
}

#[tokio::test]
#[ignore = "run by another test, beside a LAN"]
async fn on_no_bridge() {
    let refused = |named: Bridge| Uplink::open(&named).unwrap_err();
    let missing = refused(bridge(Some("br7"), None));
    assert!(matches!(missing, UplinkError::NoBridge { .. }), "{missing:?}");
    assert!(missing.to_string().contains("ip link add br7 type bridge"), "{missing}");
    let other = refused(bridge(Some("cable"), None));
    assert!(matches!(other, UplinkError::NotABridge { .. }), "{other:?}");
    assert!(matches!(refused(bridge(None, Some("tap7"))), UplinkError::NoTap { .. }));
    assert!(matches!(refused(bridge(None, Some("cable"))), UplinkError::NotATap { .. }));
    assert!(matches!(refused(bridge(None, None)), UplinkError::NotHere { .. }));
    let down = Command::new("ip").args(["link", "set", "spare", "down"]).status().await.unwrap();
    assert!(down.success());
    assert!(matches!(refused(bridge(None, Some("spare"))), UplinkError::Down { .. }));
    assert!(device("lazuli0").await.is_none(), "nothing was left behind");
}
