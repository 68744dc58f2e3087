//! A worker's own side: it says that it is there while its host process answers, and lets the server in.
//!
//! ```text
//! away ── the host answers ─> strays removed ─> row put: there ── renewed every few seconds ──┐
//!   ^                                             ^                                           │
//!   │                                             └───────────────────────────────────────────┘
//!   └── the lease passed (no database, no host process, this computer stood still) or the worker ends
//! ```
//! A stray is a machine that this host knows although its row is gone or names another host: it was given up meanwhile, and may
//! run elsewhere. Strays are switched off and forgotten while nobody believes that this worker is there, hence before anything
//! can be placed on it. Their disks' files stay. A worker must never say that it is there before that.

use super::{Member, moving, token_context};
use crate::{Engine, db_error};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::ArmError;
use lazuli_vmm::HostConfig;
use lazuli_vmm::host::{ClientError, Door};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What a worker is.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Unique, and the same at every start.
    pub id: String,
    /// As people call it.
    pub name: String,
    /// Canonical short names.
    pub regions: Vec<String>,
    /// Room for machines; `None`: all of the computer's memory.
    pub memory_mib: Option<u64>,
    /// Where its door is.
    pub listen: SocketAddr,
    /// How the server reaches the door, `HOST:PORT`; `None`: as it listens.
    pub address: Option<String>,
}

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error("cannot listen on {0} for the server")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("the server cannot reach a worker at {0}: say with --address how it does")]
    Address(SocketAddr),
    #[error("the computer's memory is not known: say with --memory-mib how much machines may have")]
    Memory(#[source] io::Error),
    #[error(transparent)]
    Engine(#[from] ArmError),
}

#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error("the host process does not do what it is asked for")]
    Host(#[from] ClientError),
    #[error(transparent)]
    Engine(#[from] ArmError),
}

impl Engine {
    /// Is a worker until `shutdown`: `ready` is told the address when it is there for the first time. No operation is run here.
    ///
    /// # Errors
    /// What keeps it from beginning; whatever happens later is tried again.
    pub async fn work(
        &self,
        settings: WorkerSettings,
        ready: oneshot::Sender<String>,
        shutdown: CancellationToken,
    ) -> Result<(), WorkError> {
        let door = Door::open(settings.listen).await.map_err(|e| WorkError::Listen(settings.listen, e))?;
        let bound = door.local_addr().map_err(|e| WorkError::Listen(settings.listen, e))?;
        let address = match settings.address {
            Some(address) => address,
            None if bound.ip().is_unspecified() => return Err(WorkError::Address(bound)),
            None => bound.to_string(),
        };
        let link = door.link(address.clone());
        let memory_mib = match settings.memory_mib {
            Some(memory) => memory,
            None => total_memory_mib().map_err(WorkError::Memory)?,
        };
        let member = Member {
            regions: settings.regions,
            memory_mib,
            data_dir: self.config().data_dir.clone(),
            address: address.clone(),
            certificate: BASE64_STANDARD.encode(&link.certificate),
            token: self.secrets().seal(&token_context(&settings.id), &hex::encode(link.token))?,
            lans: self.config().bridges.here().collect(),
        };
        let socket = HostConfig::socket(&self.config().data_dir.join("host"));
        let door = tokio::spawn(door.serve(socket, shutdown.clone()));
        let mut ready = Some((ready, address));
        while !shutdown.is_cancelled() {
            let turn = async {
                self.join(&settings.id, &settings.name, &member).await?;
                if let Some((ready, address)) = ready.take() {
                    // Whoever waited for it may have gone.
                    let _ = ready.send(address);
                }
                self.stay(&settings.id).await
            };
            if let Some(Err(error)) = shutdown.run_until_cancelled(turn).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "this worker is not there; it tries again");
            }
            shutdown.run_until_cancelled(tokio::time::sleep(TRY_AGAIN)).await;
        }
        if let Err(error) = self.db().end_worker(&settings.id).await {
            tracing::warn!(%error, "it could not be said that this worker leaves; its lease will run out");
        }
        // It ends with `shutdown`.
        let _ = door.await;
        Ok(())
    }

    async fn join(&self, id: &str, name: &str, member: &Member) -> Result<(), JoinError> {
        self.remove_strays(id).await?;
        let body = serde_json::to_value(member).map_err(ArmError::internal)?;
        self.db().put_worker(id, name, &body, self.config().worker_lease).await.map_err(db_error)?;
        tracing::info!(worker = name, "this worker is there");
        Ok(())
    }

    async fn remove_strays(&self, id: &str) -> Result<(), JoinError> {
        // First the machines, then the rows: what was placed here meanwhile is in its row already.
        let defined = self.host().list().await?;
        let placed = moving::placed(self).await?;
        for machine in defined {
            let is_here = |p: &moving::Placed| p.vm_id == machine.id && p.worker.as_deref() == Some(id);
            if !placed.iter().any(is_here) {
                tracing::warn!(vm.id = %machine.id, name = machine.name, "a machine that was given up is switched off here");
                self.host().delete(machine.id, &[]).await?;
            }
        }
        Ok(())
    }

    /// Returns when the lease passed.
    async fn stay(&self, id: &str) -> Result<(), JoinError> {
        let lease = self.config().worker_lease;
        loop {
            tokio::time::sleep(lease / 6).await;
            // Without its host process it is of no use; the lease lasts until the next one is up.
            if let Err(error) = self.host().info().await {
                tracing::warn!(%error, "the host process does not answer");
                continue;
            }
            match self.db().renew_worker(id, lease).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => tracing::warn!(%error, "the worker's lease was not renewed"),
            }
        }
    }
}

/// The memory of this computer.
pub(super) fn total_memory_mib() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let kib: u64 = total.ok_or_else(|| io::Error::other("/proc/meminfo does not say MemTotal"))?;
    Ok(kib / 1024)
}
