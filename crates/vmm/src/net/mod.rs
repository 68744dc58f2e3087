//! One virtual network without root: what a guest sees of Azure's network, made in user space.
//!
//! A [`Vnet`] listens on one unix socket per NIC; QEMU connects with
//! `-netdev stream,id=..,server=off,addr.type=unix,addr.path=SOCKET,reconnect-ms=1000` and exchanges Ethernet frames,
//! each behind a 32-bit big-endian length. To the guests the network offers:
//!
//! * switching by MAC between the NICs of the Vnet, and routing between its subnets through the gateway
//!   ([`GATEWAY_MAC`], as on Azure);
//! * DHCP (with options 121 and 245, which the guest agents look for), ARP and echo of the gateway;
//! * DNS on 168.63.129.16:53 for the names of the Vnet, and for others if the NIC may go out;
//! * the platform's addresses 168.63.129.16:80, :32526 and 169.254.169.254:80, handed to a [`Platform`];
//! * NAT outwards for TCP and UDP, if the NIC may go out;
//! * the ports of a public address, which are sockets of this machine, forwarded inwards;
//! * a LAN of this computer, if the operator says so ([`bridge`]): then what is neither the network's own nor the platform's goes there as
//!   it is, instead of through NAT;
//! * private links: connections that this machine's own programs make to a NIC ([`Vnet::connect`]), public address or none.
//!
//! ```text
//!   QEMU ── link ──┐                                ┌── relay ── Platform
//!   QEMU ── link ──┼── actor: switch, DHCP, DNS, ───┼── relay ── socket of this machine (NAT, public ports)
//!   QEMU ── link ──┘          smoltcp (TCP only)    ├── flow  ── UDP socket of this machine
//!                                                   └── uplink ─ tap ─ bridge of this machine ─ LAN
//! ```
//!
//! All state lives in one task ([`actor`]): its `select` is the only async part, its `apply` is sync. Links, relays and
//! flows are small tasks that move bytes and talk to the actor through channels, bounded by queues or by credit.
//!
//! What it must never do: let a NIC speak with an address that is not its own; let a guest reach the loopback or
//! link-local addresses of this machine ([`policy`]), or anybody against the security rules ([`security`]); flood a frame to a NIC it was not meant for; answer a LAN
//! for anything but where its interfaces are; grow without bound or
//! panic, whatever a guest sends; wake up when nothing happens.

mod actor;
mod bridge;
mod config;
mod counters;
mod dhcp;
mod dns;
mod egress;
mod error;
mod forward;
mod lan;
mod link;
mod packet;
mod policy;
mod relay;
mod security;
mod tap;
mod tcp;
mod udp;
mod uplink;

#[cfg(test)]
mod tests;

use std::net::SocketAddrV4;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use bridge::{BadBridge, BadPrefix, Bridge, Bridges, Prefix};
pub use config::{GATEWAY_MAC, IMDS, NicConfig, PortRule, Protocol, PublicAddress, VnetConfig, WIRE_SERVER};
pub use counters::{Counters, CountersSnapshot};
pub use egress::{Egress, HostEgress};
pub use error::{NetError, UplinkError};
pub use security::{Direction, Peers, RuleProtocol, Security, SecurityRule};
pub use uplink::Uplink;

/// The services behind the platform's addresses.
#[async_trait]
pub trait Platform: Send + Sync {
    /// The guest behind NIC `nic_id` opened a TCP connection to a platform address: 168.63.129.16:80, :32526 or
    /// 169.254.169.254:80. Serves HTTP on `stream`; must not block, so an implementation spawns a task.
    ///
    /// Reading to the end means that the guest has closed its side; dropping or shutting down `stream` closes ours.
    fn connect(&self, nic_id: &str, dest: SocketAddrV4, stream: DuplexStream);
}

/// A running virtual network. Dropping it stops everything: links, connections, public ports.
#[derive(Debug)]
pub struct Vnet {
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    stop: CancellationToken,
}

/// What the handle asks of the actor.
enum Command {
    Attach(Box<NicConfig>, oneshot::Sender<Result<(), NetError>>),
    Update(Box<NicConfig>, oneshot::Sender<Result<(), NetError>>),
    Detach(String, oneshot::Sender<()>),
    Connect(String, u16, oneshot::Sender<Result<DuplexStream, NetError>>),
}

impl Vnet {
    /// Starts the network. Must be called within a tokio runtime.
    pub fn start(config: VnetConfig, platform: Arc<dyn Platform>) -> Vnet {
        Vnet::start_with(config, platform, Arc::new(HostEgress), None)
    }

    /// Starts the network with another way out than plain sockets of this machine, and on a LAN: then the way out serves names alone.
    pub fn start_with(
        config: VnetConfig,
        platform: Arc<dyn Platform>,
        egress: Arc<dyn Egress>,
        uplink: Option<Uplink>,
    ) -> Vnet {
        let (commands, inbox) = mpsc::channel(16);
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let actor = actor::Actor::new(config, platform, egress, Arc::clone(&counters), inbox, uplink);
        tokio::spawn(actor.run(stop.clone()));
        Vnet { commands, counters, stop }
    }

    /// Adds a NIC: listens on its socket for QEMU and opens its public ports. When this returns, QEMU may be started.
    ///
    /// On an error nothing has been done. To attach a NIC although a public port may not open, attach it without public
    /// address and then [`update`](Vnet::update) it.
    pub async fn attach(&self, nic: NicConfig) -> Result<(), NetError> {
        self.ask(|reply| Command::Attach(Box::new(nic), reply)).await?
    }

    /// Changes name, gateway, `outbound`, security rules and public address of an attached NIC while it runs. Connections through ports
    /// that stay open, and those made outwards before, live on; those through ports that close are reset.
    ///
    /// On an error nothing has been changed.
    pub async fn update(&self, nic: NicConfig) -> Result<(), NetError> {
        self.ask(|reply| Command::Update(Box::new(nic), reply)).await?
    }

    /// Removes a NIC, its connections and its socket. A NIC that is not there is no error.
    pub async fn detach(&self, nic_id: &str) {
        // A stopped network has no NICs.
        let _ = self.ask(|reply| Command::Detach(nic_id.to_owned(), reply)).await;
    }

    /// Opens a TCP connection to a port of the guest behind a NIC, whatever the security rules say; the guest sees its gateway as
    /// the client. Dropping the stream cuts the connection.
    ///
    /// # Errors
    /// [`NetError::Refused`] if the guest refuses, or does not answer within ten seconds.
    pub async fn connect(&self, nic_id: &str, port: u16) -> Result<DuplexStream, NetError> {
        self.connector().connect(nic_id, port).await
    }

    /// The same for somebody who cannot hold the network meanwhile.
    pub(crate) fn connector(&self) -> Connector {
        Connector { commands: self.commands.clone() }
    }

    pub fn counters(&self) -> CountersSnapshot {
        self.counters.snapshot()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| NetError::Stopped)?;
        answer.await.map_err(|_| NetError::Stopped)
    }
}

/// Makes private links; see [`Vnet::connect`].
pub(crate) struct Connector {
    commands: mpsc::Sender<Command>,
}

impl Connector {
    pub(crate) async fn connect(&self, nic_id: &str, port: u16) -> Result<DuplexStream, NetError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Connect(nic_id.to_owned(), port, reply);
        self.commands.send(command).await.map_err(|_| NetError::Stopped)?;
        // The handshake failed, and with it the answer went.
        answer.await.map_err(|_| NetError::Refused { nic: nic_id.to_owned(), port })?
    }
}

impl Drop for Vnet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
