//! The ports of a NIC's public address: sockets of this machine.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::link::NicKey;
use super::udp::{PublicUdp, UdpEvents};
use super::{NetError, PortRule, Protocol, PublicAddress};

/// A client has connected to a public port.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) nic: NicKey,
    pub(super) port: u16,
    pub(super) stream: TcpStream,
}

enum Open {
    Tcp { _listener: AbortOnDropHandle<()> },
    Udp(PublicUdp),
}

/// A socket that is bound and not yet served.
enum Bound {
    Tcp(tokio::net::TcpListener),
    Udp(tokio::net::UdpSocket),
}

/// The open ports of one NIC.
#[derive(Default)]
pub(super) struct Ports {
    open: BTreeMap<(Ipv4Addr, PortRule), Open>,
}

impl Ports {
    /// Opens and closes ports so that those of `wanted` are open, and tells which were closed. Those that stay are not
    /// touched. Binds first: on an error nothing has changed.
    pub(super) fn change(
        &mut self,
        nic: NicKey,
        wanted: Option<&PublicAddress>,
        accepted: &mpsc::Sender<Accepted>,
        udp: &UdpEvents,
    ) -> Result<Vec<PortRule>, NetError> {
        let wanted: Vec<_> = wanted.into_iter().flat_map(|p| p.ports.iter().map(|rule| (p.address, *rule))).collect();
        let mut bound = BTreeMap::new();
        for (address, rule) in &wanted {
            if !self.open.contains_key(&(*address, *rule)) && !bound.contains_key(&(*address, *rule)) {
                let socket = SocketAddrV4::new(*address, rule.port);
                let listening = bind(rule.protocol, socket).map_err(|source| NetError::Listen {
                    protocol: rule.protocol,
                    address: socket,
                    source,
                })?;
                bound.insert((*address, *rule), listening);
            }
        }
        let closed: Vec<_> = self.open.keys().filter(|key| !wanted.contains(key)).copied().collect();
        for key in &closed {
            self.open.remove(key);
        }
        for ((address, rule), socket) in bound {
            let open = match socket {
                Bound::Tcp(listener) => Open::Tcp { _listener: serve(nic, rule.port, listener, accepted.clone()) },
                Bound::Udp(socket) => Open::Udp(PublicUdp::start(nic, rule, socket, udp.clone())),
            };
            self.open.insert((address, rule), open);
        }
        Ok(closed.into_iter().map(|(_, rule)| rule).collect())
    }

    pub(super) fn udp(&mut self, port: u16) -> Option<&mut PublicUdp> {
        self.open.iter_mut().find_map(|((_, rule), open)| match open {
            Open::Udp(socket) if rule.port == port => Some(socket),
            _ => None,
        })
    }
}

fn bind(protocol: Protocol, address: SocketAddrV4) -> io::Result<Bound> {
    match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener).map(Bound::Tcp)
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            tokio::net::UdpSocket::from_std(socket).map(Bound::Udp)
        }
    }
}

fn serve(
    nic: NicKey,
    port: u16,
    listener: tokio::net::TcpListener,
    accepted: mpsc::Sender<Accepted>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Without it a connection is only slower.
                    let _ = stream.set_nodelay(true);
                    if accepted.send(Accepted { nic, port, stream }).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Out of descriptors, most likely: others may give some back.
                    tracing::warn!(%error, port, "cannot accept a connection to a public port");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }))
}
