//! The table of TCP connections: every one that does not run between two NICs ends here, in smoltcp.
//!
//! smoltcp has one interface of medium "IP" that accepts every destination; a listening socket is made for each SYN just
//! before it is fed in, so that it can end any connection. A packet without connection is answered with a reset.
//!
//! ```text
//!              SYN, NAT                      connected                 guest's ACK
//!   (none) ───────────────► Dialing ────────────────────► Handshake ────────────────► Open ──► (none)
//!      │                       │ refused: RST to the guest     ▲  │ RST, time-out         both sides ended,
//!      │ SYN, platform         ▼                               │  ▼                       a reset, NIC gone
//!      │ or a client from   (none)                             │ (none): peer is cut off
//!      └── outside ────────────────────────────────────────────┘
//! ```
//!
//! * Dialing: the guest's SYN waits until the other end has answered, so that "connection refused" is told truly.
//! * Handshake: nobody serves the connection yet, so a flood of SYNs costs sockets (bounded by permits), not tasks.
//! * Open: a [`Relay`] moves the bytes. Half-closed connections stay open until the other half ends.
//!
//! All functions are sync; time is given in.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::{Buf, Bytes};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

use super::link::NicKey;
use super::packet::MTU;
use super::relay::{FlowId, Peer, Relay, RelayEvent, RelayEvents, cost, cut_off};
use super::{PortRule, Protocol, WIRE_SERVER};

/// smoltcp's buffers of a connection, each way.
const BUFFER: usize = 128 * 1024;
/// Cost of what a guest has sent and its peer has not taken yet.
const WINDOW: usize = 128 * 1024;
/// A guest that does not answer for so long is not up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// An idle guest is asked so often whether it still knows a connection, which is given up when it has been silent for
/// [`SILENCE`].
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const SILENCE: Duration = Duration::from_secs(300);
/// First of the ports that the gateway uses as a client.
pub(super) const FIRST_CLIENT_PORT: u16 = 49152;

/// A connection as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    pub(super) guest: SocketAddrV4,
    pub(super) other: SocketAddrV4,
}

/// How a connection came that a guest did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Through a port of the public address; it goes when the port is closed.
    PublicPort,
    /// From a program of this machine.
    PrivateLink,
}

/// The other end, while the handshake with the guest runs.
pub(super) enum Target {
    Stream(TcpStream),
    /// Makes our end of a stream, and starts who serves the other one.
    Service(Box<dyn FnOnce() -> DuplexStream + Send>),
}

struct Conn {
    nic: NicKey,
    key: FlowKey,
    /// The public port that it came through.
    port: Option<u16>,
    stage: Stage,
}

enum Stage {
    Dialing {
        syn: Vec<u8>,
        permit: OwnedSemaphorePermit,
        _task: AbortOnDropHandle<()>,
    },
    Handshake {
        socket: SocketHandle,
        target: Target,
        permit: OwnedSemaphorePermit,
    },
    Open(Open),
    /// Only while one stage becomes another, and for a connection about to be removed.
    Gone,
}

struct Open {
    socket: SocketHandle,
    relay: Relay,
    /// Cost of what was given to the relay and is not yet written.
    in_flight: usize,
    /// Bytes for which the guest's socket had no room yet.
    pending: VecDeque<Bytes>,
    /// The peer will send no more.
    peer_ended: bool,
    /// The peer takes no more.
    peer_broken: bool,
    /// Our side towards the guest is closed.
    closed: bool,
    /// The guest has closed its side.
    guest_ended: bool,
}

pub(super) struct Tcp {
    iface: Interface,
    device: Queues,
    sockets: SocketSet<'static>,
    conns: BTreeMap<FlowId, Conn>,
    flows: HashMap<FlowKey, FlowId>,
    events: RelayEvents,
    next_id: u64,
    next_port: u16,
}

impl Tcp {
    pub(super) fn new(events: RelayEvents, seed: u64, now: Instant) -> Tcp {
        let mut device = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut device, now);
        iface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(WIRE_SERVER), 32)).expect("room for one address");
        });
        // smoltcp accepts a packet to any address that it would route to itself.
        iface.routes_mut().add_default_ipv4_route(WIRE_SERVER).expect("room for one route");
        iface.set_any_ip(true);
        Tcp {
            iface,
            device,
            sockets: SocketSet::new(Vec::new()),
            conns: BTreeMap::new(),
            flows: HashMap::new(),
            events,
            next_id: 0,
            next_port: FIRST_CLIENT_PORT,
        }
    }

    pub(super) fn knows(&self, key: &FlowKey) -> bool {
        self.flows.contains_key(key)
    }

    /// Does the connection wait for its other end?
    pub(super) fn is_dialing(&self, key: &FlowKey) -> bool {
        let conn = self.flows.get(key).and_then(|id| self.conns.get(id));
        conn.is_some_and(|conn| matches!(conn.stage, Stage::Dialing { .. }))
    }

    /// A packet of a guest that opens no connection, or one that is refused.
    pub(super) fn deliver(&mut self, packet: &[u8]) {
        self.device.from_guests.push_back(packet.to_vec());
    }

    /// A SYN to a service of the platform.
    pub(super) fn accept(
        &mut self,
        nic: NicKey,
        key: FlowKey,
        syn: &[u8],
        target: Target,
        permit: OwnedSemaphorePermit,
        now: Instant,
    ) {
        let id = self.new_id();
        let stage = self.answer(key, syn.to_vec(), target, permit, now);
        self.insert(id, Conn { nic, key, port: None, stage });
    }

    /// A SYN to the outside: `dial` makes the connection and reports [`RelayEvent::Dialed`].
    pub(super) fn dial(
        &mut self,
        nic: NicKey,
        key: FlowKey,
        syn: &[u8],
        permit: OwnedSemaphorePermit,
        dial: impl FnOnce(FlowId, RelayEvents) -> AbortOnDropHandle<()>,
    ) {
        let id = self.new_id();
        let task = dial(id, self.events.clone());
        let stage = Stage::Dialing { syn: syn.to_vec(), permit, _task: task };
        self.insert(id, Conn { nic, key, port: None, stage });
    }

    /// A client from outside wants `guest`, and appears there as `gateway`. A [`Target::Service`] is made when the guest has agreed.
    pub(super) fn connect(
        &mut self,
        nic: NicKey,
        gateway: Ipv4Addr,
        guest: SocketAddrV4,
        origin: Origin,
        target: Target,
        permit: OwnedSemaphorePermit,
    ) {
        let Some(key) = self.client_key(gateway, guest) else { return target.cut_off() };
        let mut socket = new_socket();
        let remote = IpEndpoint::new(IpAddress::Ipv4(*guest.ip()), guest.port());
        let local = IpEndpoint::new(IpAddress::Ipv4(gateway), key.other.port());
        if let Err(error) = socket.connect(self.iface.context(), remote, local) {
            tracing::debug!(%guest, %error, "cannot connect to the guest");
            return target.cut_off();
        }
        let socket = self.sockets.add(socket);
        let id = self.new_id();
        let stage = Stage::Handshake { socket, target, permit };
        let port = (origin == Origin::PublicPort).then(|| guest.port());
        self.insert(id, Conn { nic, key, port, stage });
    }

    /// What a relay or a dialer reports. It may concern a connection that is gone.
    pub(super) fn event(&mut self, id: FlowId, event: RelayEvent, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match (&mut conn.stage, event) {
            (Stage::Dialing { .. }, RelayEvent::Dialed(result)) => self.dialed(id, result, now),
            (Stage::Open(open), RelayEvent::Data(bytes)) => open.pending.push_back(bytes),
            (Stage::Open(open), RelayEvent::End) => open.peer_ended = true,
            (Stage::Open(open), RelayEvent::Wrote(cost)) => open.in_flight = open.in_flight.saturating_sub(cost),
            (Stage::Open(open), RelayEvent::Broken) => open.peer_broken = true,
            (Stage::Open(open), RelayEvent::Reset) => self.sockets.get_mut::<Socket<'_>>(open.socket).abort(),
            _ => {}
        }
    }

    /// Cuts the connections of a NIC: all of them, or those that came through a public port.
    pub(super) fn cut(&mut self, nic: NicKey, port: Option<PortRule>) {
        for conn in self.conns.values_mut().filter(|conn| conn.nic == nic) {
            match (port, conn.port) {
                (Some(rule), Some(port)) if rule.protocol == Protocol::Tcp && rule.port == port => {}
                (None, _) => {}
                _ => continue,
            }
            match &conn.stage {
                // The next `settle` resets both ends.
                Stage::Handshake { socket, .. } | Stage::Open(Open { socket, .. }) => {
                    self.sockets.get_mut::<Socket<'_>>(*socket).abort();
                }
                Stage::Dialing { .. } | Stage::Gone => conn.stage = Stage::Gone,
            }
        }
    }

    /// Does all that can be done now: packets in, bytes to and from the relays, packets out.
    pub(super) fn settle(&mut self, now: Instant) {
        self.poll(now);
        for (id, conn) in &mut self.conns {
            conn.advance(*id, &mut self.sockets, &self.events);
        }
        self.poll(now);
        self.reap();
    }

    /// The next packet for a guest.
    pub(super) fn next_packet(&mut self) -> Option<Vec<u8>> {
        self.device.to_guests.pop_front()
    }

    /// When [`settle`](Tcp::settle) is due although nothing has happened; `None`: never.
    pub(super) fn delay(&mut self, now: Instant) -> Option<std::time::Duration> {
        self.iface.poll_delay(now, &self.sockets).map(std::time::Duration::from)
    }

    fn poll(&mut self, now: Instant) {
        self.iface.poll(now, &mut self.device, &mut self.sockets);
        // Each round sends one packet of each socket.
        while self.iface.poll_egress(now, &mut self.device, &mut self.sockets) != PollResult::None {}
    }

    /// Answers a SYN: makes a listening socket and feeds the SYN in at once, so that no other SYN can take it.
    fn answer(
        &mut self,
        key: FlowKey,
        syn: Vec<u8>,
        target: Target,
        permit: OwnedSemaphorePermit,
        now: Instant,
    ) -> Stage {
        self.poll(now);
        let mut socket = new_socket();
        let endpoint = IpListenEndpoint { addr: Some(IpAddress::Ipv4(*key.other.ip())), port: key.other.port() };
        if let Err(error) = socket.listen(endpoint) {
            tracing::debug!(?key, %error, "cannot answer a connection");
            target.cut_off();
            return Stage::Gone;
        }
        let handle = self.sockets.add(socket);
        self.device.from_guests.push_back(syn);
        self.poll(now);
        if self.sockets.get::<Socket<'_>>(handle).is_listening() {
            // The SYN was not to smoltcp's liking.
            self.sockets.remove(handle);
            target.cut_off();
            return Stage::Gone;
        }
        Stage::Handshake { socket: handle, target, permit }
    }

    fn dialed(&mut self, id: FlowId, result: std::io::Result<TcpStream>, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let key = conn.key;
        let Stage::Dialing { syn, permit, .. } = std::mem::replace(&mut conn.stage, Stage::Gone) else { return };
        let stage = match result {
            Ok(stream) => self.answer(key, syn, Target::Stream(stream), permit, now),
            Err(error) => {
                tracing::debug!(dest = %key.other, %error, "a guest's connection was refused");
                // Nothing listens, so smoltcp resets it.
                self.device.from_guests.push_back(syn);
                Stage::Gone
            }
        };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stage = stage;
        }
    }

    /// Removes what is over.
    fn reap(&mut self) {
        let Tcp { conns, flows, sockets, .. } = self;
        conns.retain(|_, conn| {
            let over = conn.is_over(sockets);
            if over {
                flows.remove(&conn.key);
                if let Some(socket) = conn.socket() {
                    sockets.remove(socket);
                }
            }
            !over
        });
    }

    fn insert(&mut self, id: FlowId, conn: Conn) {
        self.flows.insert(conn.key, id);
        self.conns.insert(id, conn);
    }

    fn new_id(&mut self) -> FlowId {
        self.next_id += 1;
        FlowId(self.next_id)
    }

    /// A connection from the gateway to `guest` with a port of the gateway that is free.
    fn client_key(&mut self, gateway: Ipv4Addr, guest: SocketAddrV4) -> Option<FlowKey> {
        for _ in FIRST_CLIENT_PORT..=u16::MAX {
            let key = FlowKey { guest, other: SocketAddrV4::new(gateway, self.next_port) };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_CLIENT_PORT);
            if !self.flows.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        for conn in self.conns.values() {
            if let Stage::Open(open) = &conn.stage {
                open.relay.reset();
            }
        }
    }
}

impl Conn {
    /// Moves what can be moved between the guest's socket and the relay.
    fn advance(&mut self, id: FlowId, sockets: &mut SocketSet<'static>, events: &RelayEvents) {
        let Some(handle) = self.socket() else { return };
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        if matches!(self.stage, Stage::Handshake { .. }) {
            match socket.state() {
                State::Listen | State::SynSent | State::SynReceived => return,
                State::Closed => {}
                _ => {
                    socket.set_timeout(Some(SILENCE));
                    socket.set_keep_alive(Some(KEEP_ALIVE));
                }
            }
            let refused = socket.state() == State::Closed;
            if let Stage::Handshake { target, permit, .. } = std::mem::replace(&mut self.stage, Stage::Gone) {
                if refused {
                    sockets.remove(handle);
                    return target.cut_off();
                }
                let peer = match target {
                    Target::Stream(stream) => Peer::Tcp(stream),
                    Target::Service(start) => Peer::Memory(start()),
                };
                self.stage = Stage::Open(Open::new(handle, Relay::spawn(id, peer, events.clone(), permit)));
            }
        }
        if let Stage::Open(open) = &mut self.stage {
            open.advance(sockets.get_mut::<Socket<'_>>(handle));
        }
    }

    fn socket(&self) -> Option<SocketHandle> {
        match &self.stage {
            Stage::Handshake { socket, .. } => Some(*socket),
            Stage::Open(open) => Some(open.socket),
            Stage::Dialing { .. } | Stage::Gone => None,
        }
    }

    fn is_over(&self, sockets: &SocketSet<'static>) -> bool {
        match &self.stage {
            Stage::Dialing { .. } | Stage::Handshake { .. } => false,
            Stage::Gone => true,
            Stage::Open(open) => open.is_over(sockets.get::<Socket<'_>>(open.socket)),
        }
    }
}

impl Open {
    fn new(socket: SocketHandle, relay: Relay) -> Open {
        Open {
            socket,
            relay,
            in_flight: 0,
            pending: VecDeque::new(),
            peer_ended: false,
            peer_broken: false,
            closed: false,
            guest_ended: false,
        }
    }

    fn advance(&mut self, socket: &mut Socket<'static>) {
        use State::{CloseWait, Closing, LastAck, TimeWait};
        self.guest_ended |= matches!(socket.state(), CloseWait | Closing | LastAck | TimeWait);
        self.feed_peer(socket);
        self.feed_guest(socket);
        // Our side is closed and the guest knows, but the peer takes no more: the guest must hear it too.
        if self.peer_broken && socket.state() == State::FinWait2 {
            socket.abort();
        }
    }

    fn feed_peer(&mut self, socket: &mut Socket<'static>) {
        while socket.can_recv() && (self.in_flight < WINDOW || self.peer_broken) {
            let Ok(bytes) = socket.recv(|data| (data.len(), Bytes::copy_from_slice(data))) else { break };
            if !self.peer_broken {
                self.in_flight += cost(&bytes);
                self.relay.send(bytes);
            }
        }
        if self.guest_ended && !socket.may_recv() && !self.relay.is_finished() {
            self.relay.finish();
        }
    }

    fn feed_guest(&mut self, socket: &mut Socket<'static>) {
        while socket.can_send()
            && let Some(chunk) = self.pending.front_mut()
        {
            let Ok(sent) = socket.send_slice(chunk) else { break };
            chunk.advance(sent);
            if chunk.is_empty() {
                self.pending.pop_front();
                self.relay.give_credit();
            }
        }
        if self.peer_ended && self.pending.is_empty() && !self.closed {
            socket.close();
            self.closed = true;
        }
    }

    /// Is nothing left to do? Cuts the peer off if the guest's side did not end in order.
    fn is_over(&self, socket: &Socket<'static>) -> bool {
        let in_order = self.closed && self.guest_ended;
        match socket.state() {
            State::Closed if !in_order => {
                self.relay.reset();
                true
            }
            State::Closed | State::TimeWait => self.relay.is_finished(),
            _ => false,
        }
    }
}

impl Target {
    fn cut_off(self) {
        match self {
            Target::Stream(stream) => cut_off(stream),
            Target::Service(_) => {}
        }
    }
}

fn new_socket() -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_timeout(Some(HANDSHAKE));
    socket
}

/// smoltcp's device: packets wait in queues that the actor fills and empties.
#[derive(Default)]
struct Queues {
    from_guests: VecDeque<Vec<u8>>,
    to_guests: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        let packet = self.from_guests.pop_front()?;
        Some((Received(packet), Sending(&mut self.to_guests)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.to_guests))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // A unix socket loses no bits; only what we send needs checksums, for the guest looks at them.
        let mut checksums = ChecksumCapabilities::default();
        checksums.ipv4 = Checksum::Tx;
        checksums.tcp = Checksum::Tx;
        checksums.icmpv4 = Checksum::Tx;
        capabilities.checksum = checksums;
        capabilities
    }
}
