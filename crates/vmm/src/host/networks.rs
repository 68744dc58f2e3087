//! The virtual networks that machines of this host are attached to: started with their first interface, gone with their
//! last. Those that the operator has named are on a LAN.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::io::DuplexStream;

use crate::net::{Bridges, HostEgress, NetError, NicConfig, Platform, Uplink, Vnet, VnetConfig};
use crate::provisioning::Fabric;
use crate::spec::NicSpec;

#[derive(Default)]
pub struct Networks {
    bridges: Bridges,
    vnets: tokio::sync::Mutex<HashMap<String, Network>>,
}

struct Network {
    vnet: Vnet,
    platform: Arc<Switchboard>,
}

/// Connects an interface to the fabric of the machine it belongs to.
#[derive(Default)]
struct Switchboard {
    fabrics: Mutex<HashMap<String, Arc<Fabric>>>,
}

impl Switchboard {
    fn fabrics(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Fabric>>> {
        self.fabrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Platform for Switchboard {
    fn connect(&self, nic_id: &str, dest: SocketAddrV4, stream: DuplexStream) {
        let fabric = self.fabrics().get(nic_id).cloned();
        match fabric {
            Some(fabric) => drop(tokio::spawn(fabric.serve(dest, stream))),
            None => tracing::warn!(nic = nic_id, %dest, "an interface without machine asks for the platform"),
        }
    }
}

impl Networks {
    pub fn new(bridges: Bridges) -> Self {
        Self { bridges, ..Self::default() }
    }

    /// Says of each LAN that cannot be reached what is missing; its machines will not start.
    pub fn warn(&self) {
        for bridge in self.bridges.iter() {
            if let Err(error) = Uplink::open(bridge) {
                tracing::warn!(network = bridge.network, error = %super::with_causes(&error), "a LAN cannot be reached");
            }
        }
    }

    fn start(&self, nic: &NicSpec) -> Result<Network, NetError> {
        let uplink = self.bridges.of(&nic.network).map(Uplink::open).transpose()?;
        let platform = Arc::<Switchboard>::default();
        let config = VnetConfig { id: nic.vnet_id.clone(), dns_suffix: nic.dns_suffix.clone() };
        let serving = Arc::clone(&platform) as Arc<dyn Platform>;
        Ok(Network { vnet: Vnet::start_with(config, serving, Arc::new(HostEgress), uplink), platform })
    }

    /// Attaches an interface: when this returns, its socket is listened on and its public ports are open.
    pub async fn attach(&self, nic: &NicSpec, socket: PathBuf, fabric: Arc<Fabric>) -> Result<(), NetError> {
        let mut vnets = self.vnets.lock().await;
        let network = match vnets.entry(nic.vnet_id.clone()) {
            Entry::Occupied(running) => running.into_mut(),
            Entry::Vacant(free) => free.insert(self.start(nic)?),
        };
        match network.vnet.attach(config(nic, socket)).await {
            Ok(()) => {
                network.platform.fabrics().insert(nic.id.clone(), fabric);
                Ok(())
            }
            Err(e) => {
                if network.platform.fabrics().is_empty() {
                    vnets.remove(&nic.vnet_id);
                }
                Err(e)
            }
        }
    }

    /// Changes an attached interface while it runs.
    pub async fn update(&self, nic: &NicSpec, socket: PathBuf) -> Result<(), NetError> {
        match self.vnets.lock().await.get(&nic.vnet_id) {
            Some(network) => network.vnet.update(config(nic, socket)).await,
            None => Err(NetError::NotAttached { nic: nic.id.clone() }),
        }
    }

    /// A private link to a port of the guest behind an interface.
    pub async fn connect(&self, nic: &NicSpec, port: u16) -> Result<DuplexStream, NetError> {
        let connecting = {
            let vnets = self.vnets.lock().await;
            let network = vnets.get(&nic.vnet_id).ok_or_else(|| NetError::NotAttached { nic: nic.id.clone() })?;
            network.vnet.connector()
        };
        // Others attach and detach while the guest makes up its mind.
        connecting.connect(&nic.id, port).await
    }

    /// Detaches an interface; one that is not attached is left so.
    pub async fn detach(&self, nic: &NicSpec) {
        let mut vnets = self.vnets.lock().await;
        let Some(network) = vnets.get(&nic.vnet_id) else { return };
        network.vnet.detach(&nic.id).await;
        let empty = {
            let mut fabrics = network.platform.fabrics();
            fabrics.remove(&nic.id);
            fabrics.is_empty()
        };
        if empty {
            vnets.remove(&nic.vnet_id);
        }
    }
}

fn config(nic: &NicSpec, socket: PathBuf) -> NicConfig {
    NicConfig {
        id: nic.id.clone(),
        mac: nic.mac.0,
        address: nic.address,
        prefix_len: nic.prefix_len,
        gateway: nic.gateway,
        host_name: nic.host_name.clone(),
        socket,
        outbound: nic.outbound,
        security: nic.security.clone(),
        public: nic.public.clone(),
    }
}
