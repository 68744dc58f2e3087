//! The one task that holds a Vnet's state.
//!
//! `select` waits for the next thing to happen; `apply` and `settle` are sync and decide what follows.

mod lan;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smoltcp::time::Instant;
use tokio::io::DuplexStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::counters::Counters;
use super::dns::{self, Decision, Zone};
use super::egress::{self, Egress};
use super::forward::{Accepted, Ports};
use super::link::{Link, LinkEvent, NicKey};
use super::packet::{self, Body, Incoming, IpPacket, Refused};
use super::policy::{self, Place};
use super::relay::{FlowId, RelayEvent, RelayEvents};
use super::security::{Awaited, Direction};
use super::tcp::{FlowKey, Origin, Target, Tcp};
use super::udp::{self, Flows, UdpEvent};
use super::uplink::Uplink;
use super::{Command, GATEWAY_MAC, IMDS, NetError, NicConfig, Platform, VnetConfig, WIRE_SERVER, dhcp};
use lan::LanPort;

/// Frames and link changes that wait for the actor. A full inbox holds the guests back.
const INBOX: usize = 512;
/// Inputs taken before the TCP table is settled.
const BATCH: usize = 256;
/// Bounds of one NIC.
const MAX_TCP: usize = 256;
const MAX_UDP: usize = 256;
const MAX_DNS: usize = 64;
/// Buffer of a stream to a service of the platform.
const SERVICE_BUFFER: usize = 64 * 1024;
/// A guest's DNS connection may be idle for so long.
const DNS_IDLE: Duration = Duration::from_secs(10);

/// One thing that happened.
enum Input {
    Command(Command),
    Link(NicKey, LinkEvent),
    /// A frame from the LAN.
    Lan(Bytes),
    Relay(FlowId, RelayEvent),
    Udp(UdpEvent),
    Accepted(Accepted),
    /// The TCP table wants to be settled.
    Due,
    Stop,
}

struct Nic {
    config: NicConfig,
    id: Arc<str>,
    to_guest: Option<mpsc::Sender<Bytes>>,
    ports: Ports,
    tcp: Arc<Semaphore>,
    udp: Arc<Semaphore>,
    dns: Arc<Semaphore>,
    /// Datagrams to other NICs and to the LAN.
    awaited: Awaited,
    /// Datagrams from the LAN, which the NIC may answer.
    heard: Awaited,
    _link: Link,
}

/// Queues into the actor, with their sending ends for the tasks that it starts.
struct Inbox {
    commands: mpsc::Receiver<Command>,
    link: mpsc::Receiver<(NicKey, LinkEvent)>,
    /// Closed where there is no LAN.
    lan: mpsc::Receiver<Bytes>,
    relay: mpsc::UnboundedReceiver<(FlowId, RelayEvent)>,
    udp: mpsc::Receiver<UdpEvent>,
    accepted: mpsc::Receiver<Accepted>,
}

struct Outboxes {
    link: mpsc::Sender<(NicKey, LinkEvent)>,
    udp: mpsc::Sender<UdpEvent>,
    accepted: mpsc::Sender<Accepted>,
}

pub(super) struct Actor {
    config: VnetConfig,
    platform: Arc<dyn Platform>,
    egress: Arc<dyn Egress>,
    counters: Arc<Counters>,
    started: std::time::Instant,
    nics: BTreeMap<NicKey, Nic>,
    by_address: HashMap<Ipv4Addr, NicKey>,
    zone: Arc<Zone>,
    tcp: Tcp,
    flows: Flows,
    lan: Option<LanPort>,
    next_key: u64,
    inbox: Inbox,
    outboxes: Outboxes,
}

impl Actor {
    pub(super) fn new(
        config: VnetConfig,
        platform: Arc<dyn Platform>,
        egress: Arc<dyn Egress>,
        counters: Arc<Counters>,
        commands: mpsc::Receiver<Command>,
        uplink: Option<Uplink>,
    ) -> Actor {
        let (link_out, link) = mpsc::channel(INBOX);
        let (relay_out, relay) = mpsc::unbounded_channel();
        let (udp_out, udp) = mpsc::channel(INBOX);
        let (accepted_out, accepted) = mpsc::channel(16);
        let (lan_port, lan) = match uplink.map(LanPort::new) {
            Some((port, frames)) => (Some(port), frames),
            None => (None, mpsc::channel(1).1),
        };
        let seed = RandomState::new().build_hasher().finish();
        Actor {
            config,
            platform,
            egress,
            counters,
            started: std::time::Instant::now(),
            nics: BTreeMap::new(),
            by_address: HashMap::new(),
            zone: Arc::default(),
            tcp: Tcp::new(relay_out, seed, Instant::ZERO),
            flows: Flows::default(),
            lan: lan_port,
            next_key: 0,
            inbox: Inbox { commands, link, lan, relay, udp, accepted },
            outboxes: Outboxes { link: link_out, udp: udp_out, accepted: accepted_out },
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let now = self.now();
            let due = self.tcp.delay(now);
            match self.inbox.select(due, &stop).await {
                Input::Stop => break,
                input => self.apply(input),
            }
            for _ in 1..BATCH {
                let Some(input) = self.inbox.next_now() else { break };
                self.apply(input);
            }
            self.settle();
        }
        tracing::debug!(vnet = self.config.id, "virtual network stopped");
    }

    fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Command(command) => self.command(command),
            Input::Link(key, event) => self.link_event(key, event),
            Input::Lan(frame) => self.lan_frame(&frame),
            Input::Relay(id, event) => {
                let now = self.now();
                self.tcp.event(id, event, now);
            }
            Input::Udp(event) => self.udp_event(event),
            Input::Accepted(accepted) => self.accepted(accepted),
            Input::Due | Input::Stop => {}
        }
    }

    fn settle(&mut self) {
        let now = self.now();
        self.tcp.settle(now);
        while let Some(packet) = self.tcp.next_packet() {
            self.send_packet(&packet);
        }
    }

    // ---- commands

    fn command(&mut self, command: Command) {
        // Who asked may have gone.
        match command {
            Command::Attach(nic, reply) => {
                let _ = reply.send(self.attach(*nic));
            }
            Command::Update(nic, reply) => {
                let _ = reply.send(self.update(*nic));
            }
            Command::Detach(id, reply) => {
                self.detach(&id);
                let _ = reply.send(());
            }
            Command::Connect(id, port, reply) => self.private_link(&id, port, reply),
        }
    }

    /// What the NIC's own settings say, and the LAN that it would be on.
    fn check(&self, config: &NicConfig) -> Result<(), NetError> {
        config.check()?;
        self.lan.as_ref().map_or(Ok(()), |port| port.lan.admit(config))
    }

    fn attach(&mut self, config: NicConfig) -> Result<(), NetError> {
        self.check(&config)?;
        for other in self.nics.values().map(|n| &n.config) {
            if other.id == config.id {
                return Err(NetError::AlreadyAttached { nic: config.id });
            }
            if other.mac == config.mac {
                return Err(NetError::MacInUse { nic: config.id, by: other.id.clone() });
            }
        }
        self.check_addresses(&config)?;
        let key = NicKey(self.next_key);
        let mut ports = Ports::default();
        ports.change(key, config.public.as_ref(), &self.outboxes.accepted, &self.outboxes.udp)?;
        let link = Link::listen(&config.socket, key, self.outboxes.link.clone())?;
        self.next_key += 1;
        self.by_address.insert(config.address, key);
        let nic = Nic {
            id: config.id.as_str().into(),
            config,
            to_guest: None,
            ports,
            tcp: Arc::new(Semaphore::new(MAX_TCP)),
            udp: Arc::new(Semaphore::new(MAX_UDP)),
            dns: Arc::new(Semaphore::new(MAX_DNS)),
            awaited: Awaited::default(),
            heard: Awaited::default(),
            _link: link,
        };
        self.nics.insert(key, nic);
        self.renew_zone();
        Ok(())
    }

    /// No address may be that of two NICs, or of a NIC and a gateway.
    fn check_addresses(&self, config: &NicConfig) -> Result<(), NetError> {
        for other in self.nics.values().map(|n| &n.config).filter(|other| other.id != config.id) {
            let taken = [other.address, other.gateway];
            let clash = if taken.contains(&config.address) {
                config.address
            } else if config.gateway == other.address {
                config.gateway
            } else {
                continue;
            };
            return Err(NetError::AddressInUse { address: clash, by: other.id.clone() });
        }
        Ok(())
    }

    fn update(&mut self, config: NicConfig) -> Result<(), NetError> {
        self.check(&config)?;
        self.check_addresses(&config)?;
        let Some((key, nic)) = self.nics.iter_mut().find(|(_, n)| n.config.id == config.id) else {
            return Err(NetError::NotAttached { nic: config.id });
        };
        if let Some(what) = fixed_part_changed(&nic.config, &config) {
            return Err(NetError::Fixed { nic: config.id, what });
        }
        let closed = nic.ports.change(*key, config.public.as_ref(), &self.outboxes.accepted, &self.outboxes.udp)?;
        nic.config = config;
        for rule in closed {
            self.tcp.cut(*key, Some(rule));
        }
        self.renew_zone();
        Ok(())
    }

    fn detach(&mut self, id: &str) {
        let Some(key) = self.nics.iter().find_map(|(key, n)| (n.config.id == id).then_some(*key)) else { return };
        self.tcp.cut(key, None);
        self.flows.cut(key);
        if let Some(nic) = self.nics.remove(&key) {
            self.by_address.remove(&nic.config.address);
        }
        self.renew_zone();
    }

    fn renew_zone(&mut self) {
        self.zone = Arc::new(Zone::new(&self.config.dns_suffix, self.nics.values().map(|n| &n.config)));
    }

    // ---- frames

    fn link_event(&mut self, key: NicKey, event: LinkEvent) {
        let Some(nic) = self.nics.get_mut(&key) else { return };
        match event {
            LinkEvent::Up(to_guest) => {
                nic.to_guest = Some(to_guest);
                self.nics.get(&key).into_iter().for_each(|nic| self.announce(nic));
            }
            LinkEvent::Down => {
                // QEMU is gone, and with it the guest's side of every connection.
                nic.to_guest = None;
                self.tcp.cut(key, None);
                self.flows.cut(key);
            }
            LinkEvent::Frame(frame) => self.frame(key, &frame),
        }
    }

    fn frame(&mut self, key: NicKey, frame: &Bytes) {
        let Some(nic) = self.nics.get(&key) else { return };
        self.counters.frames_in.bump();
        match packet::classify(&nic.config, frame) {
            Err(Refused::Ignored) => self.counters.ignored.bump(),
            Err(Refused::Spoofed) => self.counters.spoofed.bump(),
            Ok(Incoming::Arp { target, sender }) => self.arp(nic, target, sender),
            Ok(Incoming::Dhcp(message)) => self.dhcp(nic, message),
            // A guest that knows no other route than the LAN's router sends there what is the platform's.
            Ok(Incoming::Switched(_, packet)) if self.lan.is_some() && matches!(packet.dest, WIRE_SERVER | IMDS) => {
                self.route(key, &packet);
            }
            Ok(Incoming::Switched(mac, packet)) => {
                match self.nics.iter().find(|(_, n)| n.config.mac == mac).map(|(key, _)| *key) {
                    Some(other) if !self.passes(key, other, &packet) => self.counters.refused.bump(),
                    Some(other) => self.nics.get(&other).into_iter().for_each(|n| self.send_frame(n, frame.clone())),
                    None => self.send_to_lan(key, frame, &packet),
                }
            }
            Ok(Incoming::Routed(packet)) => self.route(key, &packet),
        }
    }

    /// Answers for the gateway, the platform's addresses and the NICs of the same subnet; nobody else exists, but on the LAN. A NIC
    /// that asks for its own address looks for another one that has it, and hears nothing.
    fn arp(&self, nic: &Nic, target: Ipv4Addr, sender: Ipv4Addr) {
        let config = &nic.config;
        let is_near = self.lan.as_ref().map_or(config.in_subnet(target), |port| port.lan.prefix.contains(target));
        let mac = if target == config.gateway || target == WIRE_SERVER || target == IMDS {
            GATEWAY_MAC
        } else {
            match self.by_address.get(&target).and_then(|key| self.nics.get(key)) {
                Some(other) if target != config.address && is_near => other.config.mac,
                _ => return self.ask_lan(nic, sender, target),
            }
        };
        self.send_frame(nic, packet::arp_reply(GATEWAY_MAC, config.mac, sender, target, mac));
    }

    fn dhcp(&self, nic: &Nic, message: &[u8]) {
        let lan = self.lan.as_ref().map(|port| &port.lan);
        let lease = dhcp::Lease {
            mac: nic.config.mac,
            address: nic.config.address,
            mask: lan.map_or(nic.config.mask(), |lan| lan.prefix.mask()),
            router: lan.and_then(|lan| lan.gateway).unwrap_or(nic.config.gateway),
            gateway: nic.config.gateway,
            suffix: &self.config.dns_suffix,
        };
        let Some(reply) = dhcp::answer(message, &lease) else { return self.counters.ignored.bump() };
        let (mac, address) =
            if reply.broadcast { ([0xff; 6], Ipv4Addr::BROADCAST) } else { (nic.config.mac, nic.config.address) };
        let (source, dest) = (SocketAddrV4::new(WIRE_SERVER, 67), SocketAddrV4::new(address, 68));
        if let Some(packet) = packet::udp_packet(source, dest, &reply.message) {
            self.counters.dhcp_replies.bump();
            self.send_frame(nic, packet::ip_frame(mac, &packet));
        }
    }

    /// Delivers a packet that the gateway got.
    fn route(&mut self, key: NicKey, packet: &IpPacket<'_>) {
        let Some(nic) = self.nics.get(&key) else { return };
        let mut place = policy::place((key, &nic.config), packet.dest, self.nics.iter().map(|(k, n)| (*k, &n.config)));
        if place == Place::Outside && (self.lan.is_some() || !self.may_leave(nic, packet)) {
            place = Place::Nowhere;
        }
        match (place, packet.body) {
            (Place::Nic(other), _) if !self.passes(key, other, packet) => self.counters.refused.bump(),
            (Place::Nic(_), _) => {
                if let Some(packet) = packet::forwarded(packet) {
                    self.send_packet(&packet);
                }
            }
            (_, Body::Tcp { source, dest, opens }) => {
                let flow = udp::key((packet.source, source), (packet.dest, dest));
                if opens && !self.tcp.knows(&flow) {
                    self.open_tcp(key, place, flow, packet)
                } else {
                    self.pass_on(&flow, packet)
                }
            }
            (_, Body::Udp { source, dest, payload }) => {
                self.route_udp(key, place, udp::key((packet.source, source), (packet.dest, dest)), payload);
            }
            // smoltcp answers echoes itself.
            (Place::Gateway | Place::WireServer, Body::EchoRequest) => self.tcp.deliver(packet.bytes),
            _ => self.counters.ignored.bump(),
        }
    }

    // ---- security rules

    /// Whether a NIC's rules let it open what this packet opens; what is open stays so.
    fn may_leave(&self, nic: &Nic, packet: &IpPacket<'_>) -> bool {
        match packet.body {
            Body::Udp { source, dest, .. }
                if self.flows.knows(&udp::key((packet.source, source), (packet.dest, dest))) =>
            {
                true
            }
            _ => nic.config.security.allows(Direction::Outbound, packet),
        }
    }

    /// Whether the rules of both NICs let a packet of one to the other pass.
    fn passes(&mut self, from: NicKey, to: NicKey, packet: &IpPacket<'_>) -> bool {
        let now = self.now();
        let (Some(sender), Some(receiver)) = (self.nics.get(&from), self.nics.get(&to)) else { return false };
        let rules = [&sender.config.security, &receiver.config.security];
        if rules.iter().all(|security| security.is_empty()) {
            return true;
        }
        let Body::Udp { source, dest, .. } = packet.body else {
            return rules[0].allows(Direction::Outbound, packet) && rules[1].allows(Direction::Inbound, packet);
        };
        let (source, dest) = (SocketAddrV4::new(packet.source, source), SocketAddrV4::new(packet.dest, dest));
        if receiver.awaited.is_answer(dest, source, now) {
            return true;
        }
        let passes = rules[0].allows(Direction::Outbound, packet) && rules[1].allows(Direction::Inbound, packet);
        if passes && let Some(sender) = self.nics.get_mut(&from) {
            sender.awaited.note(source, dest, now);
        }
        passes
    }

    // ---- TCP

    /// A packet of a connection that is known, or that smoltcp resets. While the other side of a connection is still
    /// being dialed, repeated SYNs wait with the first.
    fn pass_on(&mut self, flow: &FlowKey, packet: &IpPacket<'_>) {
        if !self.tcp.is_dialing(flow) {
            self.tcp.deliver(packet.bytes);
        }
    }

    fn open_tcp(&mut self, key: NicKey, place: Place, flow: FlowKey, packet: &IpPacket<'_>) {
        let now = self.now();
        let Some(nic) = self.nics.get(&key) else { return };
        let is_service = matches!((place, flow.other.port()), (Place::WireServer, 80 | 32526 | 53) | (Place::Imds, 80));
        let permit =
            (is_service || place == Place::Outside).then(|| Arc::clone(&nic.tcp).try_acquire_owned().ok()).flatten();
        let Some(permit) = permit else {
            self.counters.refused.bump();
            // Nothing listens, so smoltcp resets it.
            return self.tcp.deliver(packet.bytes);
        };
        self.counters.tcp_opened.bump();
        if is_service {
            let target = Target::Service(self.service(nic, flow.other));
            self.tcp.accept(key, flow, packet.bytes, target, permit, now);
        } else {
            let egress = Arc::clone(&self.egress);
            self.tcp.dial(key, flow, packet.bytes, permit, |id, events| dial(egress, id, flow.other, events));
        }
    }

    /// What runs when a guest has connected to a platform address.
    fn service(&self, nic: &Nic, dest: SocketAddrV4) -> Box<dyn FnOnce() -> DuplexStream + Send> {
        if dest.port() == 53 {
            let names = self.names(nic);
            return Box::new(move || {
                let (ours, theirs) = tokio::io::duplex(SERVICE_BUFFER);
                tokio::spawn(names.serve(theirs));
                ours
            });
        }
        let (platform, id) = (Arc::clone(&self.platform), Arc::clone(&nic.id));
        Box::new(move || {
            let (ours, theirs) = tokio::io::duplex(SERVICE_BUFFER);
            platform.connect(&id, dest, theirs);
            ours
        })
    }

    fn accepted(&mut self, Accepted { nic: key, port, stream }: Accepted) {
        let Some(nic) = self.nics.get(&key) else { return };
        match Arc::clone(&nic.tcp).try_acquire_owned() {
            Ok(permit) => {
                self.counters.tcp_opened.bump();
                let guest = SocketAddrV4::new(nic.config.address, port);
                self.tcp.connect(key, nic.config.gateway, guest, Origin::PublicPort, Target::Stream(stream), permit);
            }
            Err(_) => {
                self.counters.refused.bump();
                super::relay::cut_off(stream);
            }
        }
    }

    /// A program of this machine wants a port of a guest: its end of the stream is the answer, once the guest has agreed.
    fn private_link(&mut self, id: &str, port: u16, reply: oneshot::Sender<Result<DuplexStream, NetError>>) {
        let Some((key, nic)) = self.nics.iter().find(|(_, n)| n.config.id == id) else {
            let _ = reply.send(Err(NetError::NotAttached { nic: id.to_owned() }));
            return;
        };
        // Without a permit the answer goes with `reply`: refused.
        let Ok(permit) = Arc::clone(&nic.tcp).try_acquire_owned() else { return self.counters.refused.bump() };
        self.counters.tcp_opened.bump();
        let guest = SocketAddrV4::new(nic.config.address, port);
        let target = Target::Service(Box::new(move || {
            let (ours, theirs) = tokio::io::duplex(SERVICE_BUFFER);
            // Who asked may have gone: the stream ends at once.
            let _ = reply.send(Ok(theirs));
            ours
        }));
        self.tcp.connect(*key, nic.config.gateway, guest, Origin::PrivateLink, target, permit);
    }

    // ---- UDP

    fn route_udp(&mut self, key: NicKey, place: Place, flow: FlowKey, payload: &[u8]) {
        match place {
            Place::WireServer if flow.other.port() == 53 => self.dns(key, flow, payload),
            Place::Gateway => {
                if let Some(public) = self.nics.get_mut(&key).and_then(|nic| nic.ports.udp(flow.guest.port())) {
                    public.reply(flow.other.port(), payload);
                }
            }
            Place::Outside => {
                if !self.flows.knows(&flow) {
                    let Some(permit) =
                        self.nics.get(&key).and_then(|nic| Arc::clone(&nic.udp).try_acquire_owned().ok())
                    else {
                        return self.counters.refused.bump();
                    };
                    self.counters.udp_opened.bump();
                    self.flows.open(key, flow, Arc::clone(&self.egress), self.outboxes.udp.clone(), permit);
                }
                self.flows.send(&flow, payload);
            }
            _ => self.counters.refused.bump(),
        }
    }

    fn udp_event(&mut self, event: UdpEvent) {
        match event {
            UdpEvent::ToGuest(nic, flow, payload) => self.send_datagram(nic, flow, &payload),
            UdpEvent::Ended(flow, number) => self.flows.ended(&flow, number),
            UdpEvent::Inbound(key, rule, client, payload) => {
                let Some(nic) = self.nics.get_mut(&key) else { return };
                let Some(public) = nic.ports.udp(rule.port) else { return };
                let port = public.port_of(client);
                let flow = udp::key((nic.config.address, rule.port), (nic.config.gateway, port));
                self.send_datagram(key, flow, &payload);
            }
        }
    }

    fn dns(&mut self, key: NicKey, flow: FlowKey, query: &[u8]) {
        let Some(nic) = self.nics.get(&key) else { return };
        self.counters.dns_queries.bump();
        let reply = match self.zone.answer(nic.config.address, query) {
            Decision::Ignore => return,
            Decision::Reply(reply) => reply,
            Decision::Forward if !nic.config.outbound => dns::refused(query),
            Decision::Forward => match Arc::clone(&nic.dns).try_acquire_owned() {
                Ok(permit) => return self.forward_query(key, flow, query.to_vec(), permit),
                Err(_) => dns::failed(query),
            },
        };
        self.send_datagram(key, flow, &dns::fit(reply, packet::MAX_DATAGRAM));
    }

    fn forward_query(&self, key: NicKey, flow: FlowKey, query: Vec<u8>, permit: OwnedSemaphorePermit) {
        let (egress, events) = (Arc::clone(&self.egress), self.outboxes.udp.clone());
        tokio::spawn(async move {
            let reply = egress::resolve(&*egress, &query, false).await;
            drop(permit);
            // The actor may be gone.
            let _ = events.send(UdpEvent::ToGuest(key, flow, dns::fit(reply, packet::MAX_DATAGRAM))).await;
        });
    }

    fn names(&self, nic: &Nic) -> Names {
        Names {
            zone: Arc::clone(&self.zone),
            egress: nic.config.outbound.then(|| Arc::clone(&self.egress)),
            own: nic.config.address,
            counters: Arc::clone(&self.counters),
        }
    }

    // ---- towards the guests

    /// Sends a datagram from the other side of a flow to its guest. Longer ones than a packet holds are lost.
    fn send_datagram(&self, key: NicKey, flow: FlowKey, payload: &[u8]) {
        let Some(nic) = self.nics.get(&key).filter(|nic| nic.config.address == *flow.guest.ip()) else { return };
        match packet::udp_packet(flow.other, flow.guest, payload) {
            Some(packet) => self.send_frame(nic, packet::ip_frame(nic.config.mac, &packet)),
            None => self.counters.overrun.bump(),
        }
    }

    fn send_packet(&self, packet: &[u8]) {
        let nic =
            packet::destination(packet).and_then(|dest| self.by_address.get(&dest)).and_then(|key| self.nics.get(key));
        if let Some(nic) = nic {
            self.send_frame(nic, packet::ip_frame(nic.config.mac, packet));
        }
    }

    fn send_frame(&self, nic: &Nic, frame: Bytes) {
        match nic.to_guest.as_ref().map(|queue| queue.try_send(frame)) {
            Some(Ok(())) => self.counters.frames_out.bump(),
            _ => self.counters.overrun.bump(),
        }
    }
}

impl Inbox {
    async fn select(&mut self, due: Option<Duration>, stop: &CancellationToken) -> Input {
        // A timer that is due at once must not starve the rest, nor spin.
        let due = due.map(|d| d.max(Duration::from_millis(1)));
        tokio::select! {
            () = stop.cancelled() => Input::Stop,
            command = self.commands.recv() => command.map_or(Input::Stop, Input::Command),
            Some((key, event)) = self.link.recv() => Input::Link(key, event),
            Some(frame) = self.lan.recv() => Input::Lan(frame),
            Some((id, event)) = self.relay.recv() => Input::Relay(id, event),
            Some(event) = self.udp.recv() => Input::Udp(event),
            Some(accepted) = self.accepted.recv() => Input::Accepted(accepted),
            () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => Input::Due,
        }
    }

    /// What need not be waited for.
    fn next_now(&mut self) -> Option<Input> {
        if let Ok((id, event)) = self.relay.try_recv() {
            return Some(Input::Relay(id, event));
        }
        if let Ok((key, event)) = self.link.try_recv() {
            return Some(Input::Link(key, event));
        }
        if let Ok(event) = self.udp.try_recv() {
            return Some(Input::Udp(event));
        }
        self.lan.try_recv().ok().map(Input::Lan)
    }
}

/// Which part of a NIC that cannot change has changed.
fn fixed_part_changed(old: &NicConfig, new: &NicConfig) -> Option<&'static str> {
    if old.mac != new.mac {
        Some("MAC address")
    } else if old.address != new.address {
        Some("address")
    } else if old.socket != new.socket {
        Some("socket")
    } else {
        None
    }
}

fn dial(egress: Arc<dyn Egress>, id: FlowId, dest: SocketAddrV4, events: RelayEvents) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let result = egress.tcp(dest).await;
        // The actor may be gone.
        let _ = events.send((id, RelayEvent::Dialed(result)));
    }))
}

/// DNS for one TCP connection of a guest, as the Vnet is when it starts.
struct Names {
    zone: Arc<Zone>,
    /// The way to other names, if the NIC may use it.
    egress: Option<Arc<dyn Egress>>,
    own: Ipv4Addr,
    counters: Arc<Counters>,
}

impl Names {
    /// Answers one query after the other until the guest is silent.
    async fn serve(self, mut stream: DuplexStream) {
        while let Ok(Ok(query)) = timeout(DNS_IDLE, egress::read_message(&mut stream)).await {
            self.counters.dns_queries.bump();
            let reply = match (self.zone.answer(self.own, &query), &self.egress) {
                (Decision::Ignore, _) => return,
                (Decision::Reply(reply), _) => reply,
                (Decision::Forward, None) => dns::refused(&query),
                (Decision::Forward, Some(egress)) => egress::resolve(&**egress, &query, true).await,
            };
            match timeout(DNS_IDLE, egress::write_message(&mut stream, &reply)).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }
}
