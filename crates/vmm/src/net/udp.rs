//! UDP through the gateway: flows outwards (NAT), and clients of public ports inwards.
//!
//! Outwards, a flow is one (guest's address and port, destination) with a connected socket and a task of its own that
//! ends when nothing has passed for a while. Inwards, each client of a public port appears to the guest as a port of the
//! gateway; the client that was silent for longest makes room for a new one.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::PortRule;
use super::egress::Egress;
use super::link::NicKey;
use super::tcp::{FIRST_CLIENT_PORT, FlowKey};

/// A flow ends when nothing has passed for so long (RFC 4787: not below two minutes, and less for well-known ports).
const IDLE: Duration = Duration::from_secs(120);
const IDLE_DNS: Duration = Duration::from_secs(15);
/// Datagrams of one flow that wait for its socket.
const QUEUE: usize = 64;
/// Clients of one public port.
const MAX_CLIENTS: usize = 256;
/// Room for a datagram, and for one byte more so that a longer one shows.
const DATAGRAM: usize = 2048;

#[derive(Debug)]
pub(super) enum UdpEvent {
    /// A datagram for the guest of a flow.
    ToGuest(NicKey, FlowKey, Vec<u8>),
    /// A flow has ended.
    Ended(FlowKey, u64),
    /// A datagram of a client to a public port.
    Inbound(NicKey, PortRule, SocketAddr, Vec<u8>),
}

pub(super) type UdpEvents = mpsc::Sender<UdpEvent>;

struct Flow {
    nic: NicKey,
    number: u64,
    outwards: mpsc::Sender<Bytes>,
    _task: AbortOnDropHandle<()>,
}

/// The flows outwards.
#[derive(Default)]
pub(super) struct Flows {
    flows: HashMap<FlowKey, Flow>,
    next: u64,
}

impl Flows {
    pub(super) fn knows(&self, key: &FlowKey) -> bool {
        self.flows.contains_key(key)
    }

    pub(super) fn open(
        &mut self,
        nic: NicKey,
        key: FlowKey,
        egress: Arc<dyn Egress>,
        events: UdpEvents,
        permit: OwnedSemaphorePermit,
    ) {
        let (outwards, queue) = mpsc::channel(QUEUE);
        self.next += 1;
        let number = self.next;
        let task = tokio::spawn(async move {
            if let Err(error) = run_flow(nic, key, egress, &events, queue).await {
                tracing::debug!(dest = %key.other, %error, "a guest's UDP flow ended");
            }
            drop(permit);
            // The actor may be gone.
            let _ = events.send(UdpEvent::Ended(key, number)).await;
        });
        self.flows.insert(key, Flow { nic, number, outwards, _task: AbortOnDropHandle::new(task) });
    }

    /// Sends a datagram of the guest's; a flow that cannot keep up loses it.
    pub(super) fn send(&self, key: &FlowKey, payload: &[u8]) {
        if let Some(flow) = self.flows.get(key) {
            let _ = flow.outwards.try_send(Bytes::copy_from_slice(payload));
        }
    }

    pub(super) fn ended(&mut self, key: &FlowKey, number: u64) {
        if self.flows.get(key).is_some_and(|flow| flow.number == number) {
            self.flows.remove(key);
        }
    }

    pub(super) fn cut(&mut self, nic: NicKey) {
        self.flows.retain(|_, flow| flow.nic != nic);
    }
}

async fn run_flow(
    nic: NicKey,
    key: FlowKey,
    egress: Arc<dyn Egress>,
    events: &UdpEvents,
    mut queue: mpsc::Receiver<Bytes>,
) -> std::io::Result<()> {
    let socket = egress.udp(key.other).await?;
    let idle = if key.other.port() == 53 { IDLE_DNS } else { IDLE };
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                let payload = buffer[..received?].to_vec();
                if events.send(UdpEvent::ToGuest(nic, key, payload)).await.is_err() {
                    return Ok(());
                }
            }
            sent = queue.recv() => match sent {
                Some(payload) => drop(socket.send(&payload).await?),
                None => return Ok(()),
            },
            () = tokio::time::sleep(idle) => return Ok(()),
        }
    }
}

/// A public UDP port. Dropping it closes it.
pub(super) struct PublicUdp {
    socket: Arc<UdpSocket>,
    clients: Clients,
    _task: AbortOnDropHandle<()>,
}

impl PublicUdp {
    pub(super) fn start(nic: NicKey, rule: PortRule, socket: UdpSocket, events: UdpEvents) -> PublicUdp {
        let socket = Arc::new(socket);
        let receiver = Arc::clone(&socket);
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; DATAGRAM];
            loop {
                match receiver.recv_from(&mut buffer).await {
                    Ok((length, client)) => {
                        let payload = buffer[..length].to_vec();
                        if events.send(UdpEvent::Inbound(nic, rule, client, payload)).await.is_err() {
                            return;
                        }
                    }
                    // An ICMP error for something sent earlier.
                    Err(error) => {
                        tracing::debug!(%error, "a public UDP port");
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        PublicUdp { socket, clients: Clients::default(), _task: AbortOnDropHandle::new(task) }
    }

    /// The port of the gateway that stands for `client`.
    pub(super) fn port_of(&mut self, client: SocketAddr) -> u16 {
        self.clients.port_of(client)
    }

    /// Sends the guest's answer to the client behind a port of the gateway, if there is one.
    pub(super) fn reply(&mut self, port: u16, payload: &[u8]) {
        if let Some(client) = self.clients.client(port) {
            // A full socket loses datagrams, as a wire does.
            let _ = self.socket.try_send_to(payload, client);
        }
    }
}

/// Which port of the gateway stands for which client of a public port. The least recently heard of is forgotten first.
#[derive(Debug, Default)]
struct Clients {
    by_address: HashMap<SocketAddr, (u16, u64)>,
    by_port: BTreeMap<u16, SocketAddr>,
    clock: u64,
    next: u16,
}

impl Clients {
    fn port_of(&mut self, client: SocketAddr) -> u16 {
        self.clock += 1;
        if let Some((port, heard)) = self.by_address.get_mut(&client) {
            *heard = self.clock;
            return *port;
        }
        if self.by_address.len() >= MAX_CLIENTS
            && let Some(oldest) = self.by_address.iter().min_by_key(|(_, (_, heard))| *heard).map(|(client, _)| *client)
            && let Some((port, _)) = self.by_address.remove(&oldest)
        {
            self.by_port.remove(&port);
        }
        // There are far more ports than clients, so a free one is near.
        let port = loop {
            self.next = self.next.checked_add(1).filter(|p| *p > FIRST_CLIENT_PORT).unwrap_or(FIRST_CLIENT_PORT);
            if !self.by_port.contains_key(&self.next) {
                break self.next;
            }
        };
        self.by_address.insert(client, (port, self.clock));
        self.by_port.insert(port, client);
        port
    }

    fn client(&mut self, port: u16) -> Option<SocketAddr> {
        let client = *self.by_port.get(&port)?;
        self.clock += 1;
        if let Some((_, heard)) = self.by_address.get_mut(&client) {
            *heard = self.clock;
        }
        Some(client)
    }
}

/// The key of a flow between a guest and an address of ours.
pub(super) fn key(guest: (Ipv4Addr, u16), other: (Ipv4Addr, u16)) -> FlowKey {
    FlowKey { guest: SocketAddrV4::new(guest.0, guest.1), other: SocketAddrV4::new(other.0, other.1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(n).unwrap() + 1))
    }

    #[test]
    fn clients_keep_their_ports_and_the_silent_one_makes_room() {
        let mut clients = Clients::default();
        let first = clients.port_of(client(0));
        let second = clients.port_of(client(1));
        assert_ne!(first, second);
        for n in 2..MAX_CLIENTS {
            clients.port_of(client(n));
        }
        assert_eq!(clients.client(first), Some(client(0)), "the guest answers it, so it is not silent");
        clients.port_of(client(MAX_CLIENTS));
        assert_eq!(clients.client(first), Some(client(0)));
        assert_eq!(clients.client(second), None);
        assert_eq!(clients.by_port.len(), MAX_CLIENTS);
    }
}
