//! The one task that holds a Vnet's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::counters::Counters;
use super::link::{Link, LinkEvent, NicKey};
use super::{Command, NetError, NicConfig, Platform, VnetConfig};

/// Frames and link changes that wait for the actor.
const INBOX: usize = 512;

/// One thing that happened.
enum Input {
    Command(Command),
    Link(NicKey, LinkEvent),
    Stop,
}

struct Nic {
    config: NicConfig,
    to_guest: Option<mpsc::Sender<Bytes>>,
    _link: Link,
}

pub(super) struct Actor {
    config: VnetConfig,
    #[expect(dead_code, reason = "the TCP table that uses it follows")]
    platform: Arc<dyn Platform>,
    counters: Arc<Counters>,
    nics: BTreeMap<NicKey, Nic>,
    next_key: u64,
    link_events: (mpsc::Sender<(NicKey, LinkEvent)>, mpsc::Receiver<(NicKey, LinkEvent)>),
}

impl Actor {
    pub(super) fn new(config: VnetConfig, platform: Arc<dyn Platform>, counters: Arc<Counters>) -> Actor {
        Actor { config, platform, counters, nics: BTreeMap::new(), next_key: 0, link_events: mpsc::channel(INBOX) }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            match self.select(&mut commands, &stop).await {
                Input::Stop => break,
                input => self.apply(input),
            }
        }
        tracing::debug!(vnet = self.config.id, "virtual network stopped");
    }

    async fn select(&mut self, commands: &mut mpsc::Receiver<Command>, stop: &CancellationToken) -> Input {
        tokio::select! {
            () = stop.cancelled() => Input::Stop,
            command = commands.recv() => command.map_or(Input::Stop, Input::Command),
            Some((key, event)) = self.link_events.1.recv() => Input::Link(key, event),
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Command(Command::Attach(nic, reply)) => {
                let _ = reply.send(self.attach(*nic));
            }
            Input::Command(Command::Update(nic, reply)) => {
                let _ = reply.send(self.update(*nic));
            }
            Input::Command(Command::Detach(id, reply)) => {
                self.nics.retain(|_, nic| nic.config.id != id);
                let _ = reply.send(());
            }
            Input::Link(key, event) => self.link_event(key, event),
            Input::Stop => {}
        }
    }

    fn attach(&mut self, config: NicConfig) -> Result<(), NetError> {
        config.check()?;
        for other in self.nics.values().map(|n| &n.config) {
            if other.id == config.id {
                return Err(NetError::AlreadyAttached { nic: config.id });
            }
            if other.mac == config.mac {
                return Err(NetError::MacInUse { nic: config.id, by: other.id.clone() });
            }
            if let Some(address) = [config.address, config.gateway].into_iter().find(|a| *a == other.address) {
                return Err(NetError::AddressInUse { address, by: other.id.clone() });
            }
        }
        let key = NicKey(self.next_key);
        let link = Link::listen(&config.socket, key, self.link_events.0.clone())?;
        self.next_key += 1;
        self.nics.insert(key, Nic { config, to_guest: None, _link: link });
        Ok(())
    }

    fn update(&mut self, config: NicConfig) -> Result<(), NetError> {
        config.check()?;
        let Some(nic) = self.nics.values_mut().find(|n| n.config.id == config.id) else {
            return Err(NetError::NotAttached { nic: config.id });
        };
        let what = if nic.config.mac != config.mac {
            "MAC address"
        } else if nic.config.address != config.address {
            "address"
        } else if nic.config.socket != config.socket {
            "socket"
        } else {
            nic.config = config;
            return Ok(());
        };
        Err(NetError::Fixed { nic: config.id, what })
    }

    fn link_event(&mut self, key: NicKey, event: LinkEvent) {
        let Some(nic) = self.nics.get_mut(&key) else {
            return;
        };
        match event {
            LinkEvent::Up(to_guest) => nic.to_guest = Some(to_guest),
            LinkEvent::Down => nic.to_guest = None,
            LinkEvent::Frame(frame) => {
                self.counters.frames_in.bump();
                tracing::trace!(nic = nic.config.id, length = frame.len(), "frame");
            }
        }
    }
}
