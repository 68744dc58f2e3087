//! A guest for tests: a second smoltcp stack with a network card, on the other end of a Vnet's unix socket, as QEMU is.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::net::NicConfig;
use crate::net::link::{put_frame, take_frame};

/// Nothing in these tests takes nearly as long; a wait beyond it is a failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Queues {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((Rx(frame), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

pub(super) struct State {
    iface: Interface,
    device: Queues,
    pub(super) sockets: SocketSet<'static>,
    /// Every frame that came in.
    pub(super) seen: Vec<Vec<u8>>,
    next_port: u16,
    started: std::time::Instant,
}

impl State {
    fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap())
    }

    fn poll(&mut self) {
        let now = self.now();
        let State { iface, device, sockets, .. } = self;
        iface.poll(now, device, sockets);
        while iface.poll_egress(now, device, sockets) != PollResult::None {}
    }
}

struct Shared {
    state: Mutex<State>,
    kick: Notify,
    changed: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

pub(super) struct Guest {
    shared: Arc<Shared>,
    pub(super) nic: NicConfig,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Conn(SocketHandle);

impl Guest {
    /// Connects as QEMU does and takes the address that the NIC has.
    pub(super) async fn plug(nic: &NicConfig) -> Guest {
        Guest::on(UnixStream::connect(&nic.socket).await.expect("the Vnet listens"), nic)
    }

    /// On the end of a cable.
    pub(super) fn on(stream: UnixStream, nic: &NicConfig) -> Guest {
        let mut device = Queues::default();
        let mut config = Config::new(EthernetAddress(nic.mac).into());
        config.random_seed = u64::from(nic.mac[5]);
        let mut iface = Interface::new(config, &mut device, Instant::ZERO);
        iface.update_ip_addrs(|a| a.push(IpCidr::new(IpAddress::Ipv4(nic.address), nic.prefix_len)).unwrap());
        iface.routes_mut().add_default_ipv4_route(nic.gateway).unwrap();
        let state = State {
            iface,
            device,
            sockets: SocketSet::new(Vec::new()),
            seen: Vec::new(),
            next_port: 40000,
            started: std::time::Instant::now(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), kick: Notify::new(), changed: watch::channel(0).0 });
        let task = AbortOnDropHandle::new(tokio::spawn(pump(stream, Arc::clone(&shared))));
        Guest { shared, nic: nic.clone(), _task: task }
    }

    /// Waits until `check` has a result; it is asked again whenever something has come or gone.
    pub(super) async fn when<T>(&self, what: &str, mut check: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changed = self.shared.changed.subscribe();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let result = check(&mut self.shared.state());
                self.shared.kick.notify_one();
                if let Some(result) = result {
                    return result;
                }
                changed.changed().await.expect("the guest runs");
            }
        });
        found.await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
    }

    /// Sends a frame as it is.
    pub(super) fn send_frame(&self, frame: &[u8]) {
        self.shared.state().device.tx.push_back(frame.to_vec());
        self.shared.kick.notify_one();
    }

    pub(super) fn seen(&self) -> Vec<Vec<u8>> {
        self.shared.state().seen.clone()
    }

    // ---- TCP

    pub(super) fn listen(&self, port: u16) -> Conn {
        let mut socket = new_tcp();
        socket.listen(port).unwrap();
        Conn(self.shared.state().sockets.add(socket))
    }

    /// Opens a connection; `None` if it is refused.
    pub(super) async fn try_connect(&self, dest: SocketAddrV4) -> Option<Conn> {
        let conn = self.start_connect(dest);
        let open = self.when("an answer to a SYN", |s| match s.sockets.get::<tcp::Socket<'_>>(conn.0).state() {
            tcp::State::SynSent | tcp::State::SynReceived => None,
            tcp::State::Closed => Some(false),
            _ => Some(true),
        });
        open.await.then_some(conn)
    }

    pub(super) fn start_connect(&self, dest: SocketAddrV4) -> Conn {
        let mut state = self.shared.state();
        state.next_port += 1;
        let local = IpEndpoint::new(IpAddress::Ipv4(self.nic.address), state.next_port);
        let mut socket = new_tcp();
        let State { iface, sockets, .. } = &mut *state;
        socket.connect(iface.context(), (IpAddress::Ipv4(*dest.ip()), dest.port()), local).unwrap();
        let conn = Conn(sockets.add(socket));
        drop(state);
        self.shared.kick.notify_one();
        conn
    }

    pub(super) async fn connect(&self, dest: SocketAddrV4) -> Conn {
        self.try_connect(dest).await.unwrap_or_else(|| panic!("{dest} refused the connection"))
    }

    pub(super) async fn accepted(&self, conn: Conn) {
        self.when("a connection", |s| s.sockets.get::<tcp::Socket<'_>>(conn.0).may_send().then_some(())).await;
    }

    pub(super) async fn send(&self, conn: Conn, bytes: &[u8]) {
        let mut rest = bytes;
        self.when("room to send", |s| {
            rest = &rest[s.sockets.get_mut::<tcp::Socket<'_>>(conn.0).send_slice(rest).expect("open for sending")..];
            rest.is_empty().then_some(())
        })
        .await;
    }

    /// Reads `length` bytes.
    pub(super) async fn receive(&self, conn: Conn, length: usize) -> Vec<u8> {
        let mut got = vec![0; length];
        let mut filled = 0;
        self.when("bytes", |s| {
            let socket = s.sockets.get_mut::<tcp::Socket<'_>>(conn.0);
            while filled < length && socket.can_recv() {
                filled += socket.recv_slice(&mut got[filled..]).unwrap();
            }
            assert!(filled == length || socket.may_recv(), "the connection ended after {filled} of {length} bytes");
            (filled == length).then_some(())
        })
        .await;
        got
    }

    /// Reads until the other side has ended in order; fails on a reset.
    pub(super) async fn receive_to_end(&self, conn: Conn) -> Vec<u8> {
        let mut got = Vec::new();
        self.when("the end", |s| {
            let socket = s.sockets.get_mut::<tcp::Socket<'_>>(conn.0);
            while socket.can_recv() {
                socket.recv(|data| (data.len(), got.extend_from_slice(data))).unwrap();
            }
            assert!(socket.state() != tcp::State::Closed, "the connection was reset after {} bytes", got.len());
            (!socket.may_recv()).then_some(())
        })
        .await;
        got
    }

    /// Closes the guest's half.
    pub(super) fn close(&self, conn: Conn) {
        self.shared.state().sockets.get_mut::<tcp::Socket<'_>>(conn.0).close();
        self.shared.kick.notify_one();
    }

    pub(super) async fn was_reset(&self, conn: Conn) {
        let state = |s: &mut State| s.sockets.get::<tcp::Socket<'_>>(conn.0).state();
        self.when("a reset", |s| (state(s) == tcp::State::Closed).then_some(())).await;
    }

    // ---- UDP

    pub(super) fn udp(&self, port: u16) -> Conn {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16384]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        Conn(self.shared.state().sockets.add(socket))
    }

    pub(super) fn send_to(&self, socket: Conn, dest: SocketAddrV4, payload: &[u8]) {
        let endpoint = IpEndpoint::new(IpAddress::Ipv4(*dest.ip()), dest.port());
        self.shared.state().sockets.get_mut::<udp::Socket<'_>>(socket.0).send_slice(payload, endpoint).unwrap();
        self.shared.kick.notify_one();
    }

    pub(super) async fn receive_from(&self, socket: Conn) -> (Vec<u8>, SocketAddrV4) {
        self.when("a datagram", |s| {
            let (payload, meta) = s.sockets.get_mut::<udp::Socket<'_>>(socket.0).recv().ok()?;
            let IpAddress::Ipv4(address) = meta.endpoint.addr;
            Some((payload.to_vec(), SocketAddrV4::new(address, meta.endpoint.port)))
        })
        .await
    }

    /// Sends a datagram from a new port and waits for one back.
    pub(super) async fn ask(&self, dest: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let port = {
            let mut state = self.shared.state();
            state.next_port += 1;
            state.next_port
        };
        let socket = self.udp(port);
        self.send_to(socket, dest, payload);
        let (answer, from) = self.receive_from(socket).await;
        assert_eq!(from, dest);
        answer
    }

    // ---- what every guest does

    /// Asks the gateway for an echo and waits for it: whatever was sent before has been dealt with.
    pub(super) async fn ping(&self, dest: Ipv4Addr, number: u16) {
        self.send_frame(&super::frames::echo_request(&self.nic, dest, number));
        self.when("an echo", |s| s.seen.iter().any(|f| super::frames::is_echo_reply(f, dest, number)).then_some(()))
            .await;
    }
}

fn new_tcp() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 65536]);
    tcp::Socket::new(buffer(), buffer())
}

async fn pump(mut stream: UnixStream, shared: Arc<Shared>) {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = BytesMut::new();
    loop {
        let (out, delay) = {
            let mut state = shared.state();
            state.poll();
            let mut out = Vec::new();
            while let Some(frame) = state.device.tx.pop_front() {
                put_frame(&mut out, &frame);
            }
            let now = state.now();
            let State { iface, sockets, .. } = &mut *state;
            (out, iface.poll_delay(now, sockets).map(Duration::from))
        };
        shared.changed.send_modify(|n| *n += 1);
        // The Vnet always reads on, so this cannot block for long.
        writer.write_all(&out).await.expect("the Vnet takes frames");
        let timer = async {
            match delay {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            n = reader.read_buf(&mut buffer) => if n.unwrap_or(0) == 0 { return },
            () = timer => {}
            () = shared.kick.notified() => {}
        }
        let mut state = shared.state();
        while let Some(frame) = take_frame(&mut buffer).expect("frames in step") {
            state.seen.push(frame.to_vec());
            state.device.rx.push_back(frame.to_vec());
        }
    }
}
