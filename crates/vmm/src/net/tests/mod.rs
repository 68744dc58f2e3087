//! The network as guests and clients see it: fake guests on unix sockets, real sockets on the other side.

mod bridged;
mod frames;
mod guest;
mod hostile;
mod inwards;
mod outwards;
mod platform;
mod real_lan;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpStream, UdpSocket};

use super::*;
use guest::Guest;

const SUFFIX: &str = "corp.internal.cloudapp.net";

/// A platform that echoes what it reads, in capitals, after it has read all.
#[derive(Default)]
struct Echo {
    calls: Mutex<Vec<(String, SocketAddrV4)>>,
}

impl Platform for Echo {
    fn connect(&self, nic_id: &str, dest: SocketAddrV4, mut stream: DuplexStream) {
        self.calls.lock().unwrap().push((nic_id.to_owned(), dest));
        tokio::spawn(async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            all.make_ascii_uppercase();
            stream.write_all(&all).await.unwrap();
        });
    }
}

/// A way out that leads back: every destination is the one server of this machine that the test has started.
#[derive(Default)]
struct Loop {
    tcp: Option<SocketAddr>,
    udp: Option<SocketAddr>,
    resolver: Option<SocketAddr>,
    asked: Mutex<Vec<SocketAddrV4>>,
}

#[async_trait]
impl Egress for Loop {
    async fn tcp(&self, dest: SocketAddrV4) -> io::Result<TcpStream> {
        self.asked.lock().unwrap().push(dest);
        TcpStream::connect(self.tcp.ok_or(io::ErrorKind::ConnectionRefused)?).await
    }

    async fn udp(&self, dest: SocketAddrV4) -> io::Result<UdpSocket> {
        self.asked.lock().unwrap().push(dest);
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(self.udp.ok_or(io::ErrorKind::ConnectionRefused)?).await?;
        Ok(socket)
    }

    async fn resolvers(&self) -> Vec<SocketAddr> {
        self.resolver.into_iter().collect()
    }
}

/// A Vnet with a folder for its sockets.
struct Net {
    vnet: Vnet,
    platform: Arc<Echo>,
    egress: Arc<Loop>,
    dir: TempDir,
}

impl Net {
    fn start() -> Net {
        Net::with_egress(Loop::default())
    }

    fn with_egress(egress: Loop) -> Net {
        Net::with(egress, None)
    }

    fn with(egress: Loop, uplink: Option<Uplink>) -> Net {
        let (platform, egress) = (Arc::new(Echo::default()), Arc::new(egress));
        let config = VnetConfig { id: "vnet1".to_owned(), dns_suffix: SUFFIX.to_owned() };
        let vnet = Vnet::start_with(config, platform.clone(), egress.clone(), uplink);
        Net { vnet, platform, egress, dir: TempDir::new().unwrap() }
    }

    /// A NIC 10.0.SUBNET.LAST named vmLAST.
    fn nic(&self, subnet: u8, last: u8) -> NicConfig {
        NicConfig {
            id: format!("nic{subnet}-{last}"),
            mac: [0x00, 0x22, 0x48, 0, subnet, last],
            address: Ipv4Addr::new(10, 0, subnet, last),
            prefix_len: 24,
            gateway: Ipv4Addr::new(10, 0, subnet, 1),
            host_name: format!("vm{last}"),
            socket: self.dir.path().join(format!("{subnet}-{last}.sock")),
            outbound: false,
            security: Security::default(),
            public: None,
        }
    }

    async fn guest(&self, nic: &NicConfig) -> Guest {
        self.vnet.attach(nic.clone()).await.unwrap();
        Guest::plug(nic).await
    }
}

fn addr(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// A loopback address that no other test uses, with open TCP and UDP ports.
fn public(tcp: &[u16], udp: &[u16]) -> PublicAddress {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let rule = |protocol| move |port: &u16| PortRule { protocol, port: *port };
    PublicAddress {
        address: Ipv4Addr::new(127, 64 | (high & 63), low, NEXT.fetch_add(1, Ordering::Relaxed)),
        ports: tcp.iter().map(rule(Protocol::Tcp)).chain(udp.iter().map(rule(Protocol::Udp))).collect(),
    }
}

/// Bytes that show when they are out of order.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i / 251 + i) % 256).unwrap()).collect()
}
