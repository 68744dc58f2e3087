//! Machines on other computers (RFD 12): who runs there, how its host process is reached, and what becomes of its machines.
//!
//! ```text
//! lazuli serve                                       lazuli worker
//!   operations, the only writer of the regions         member.rs: says that it is there, removes strays, opens the door
//!   placement.rs: which host takes a machine           lazuli host: the machines, reads the regions' stores
//!   moving.rs:    what disks have to be before ───────────────┘
//!     host calls through the door (`lazuli_vmm::host::Door`)
//! ```
//! A machine's row says where it is placed, a disk's row whose files hold its newest bytes. A disk has files on a worker only while
//! its machine is placed there; when the machine leaves in peace they are brought into the content store first. A worker's row
//! is believed in until its lease ends; whoever let it pass removes what was started elsewhere before it says that it is back.

pub(crate) mod firmware;
mod member;
pub(crate) mod moving;
mod placement;

pub use member::{WorkError, WorkerSettings};

use crate::providers::virtual_machine::MachineInternal;
use crate::{Engine, db_error, now_ms, time_text};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::ArmError;
use lazuli_meta::model::{Resource, Worker};
use lazuli_vmm::HostClient;
use lazuli_vmm::host::WorkerLink;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which host a machine was given to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    /// Id of the worker; `None`: the server's own host.
    pub worker: Option<String>,
    /// The virtual networks of its interfaces (`resourceGuid`) that live on one host each: those that are on no LAN.
    pub networks: Vec<String>,
}

/// What a machine lost with its worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lost {
    /// Name of the worker.
    pub worker: String,
    pub seen_ms: i64,
    /// Names of the disks that show what the store had of them.
    pub disks: Vec<String>,
}

impl Lost {
    pub fn message(&self) -> String {
        format!(
            "The VM was given up on worker '{}', which was heard of last at {}. What had been written since they were last \
             brought into the content store is not on these disks: {}.",
            self.worker,
            time_text(self.seen_ms),
            self.disks.join(", ")
        )
    }
}

/// What a worker says of itself in its row.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    /// Canonical short names.
    regions: Vec<String>,
    memory_mib: u64,
    /// Its own data folder.
    data_dir: PathBuf,
    /// Of its door.
    address: String,
    /// Base64 of the door's certificate.
    certificate: String,
    /// The door's token, sealed.
    token: String,
    /// Ids of the virtual networks whose LANs it has, in lower case.
    #[serde(default)]
    lans: Vec<String>,
}

fn member(row: &Worker) -> Result<Member, ArmError> {
    serde_json::from_value(row.body.clone()).map_err(ArmError::internal)
}

fn token_context(worker: &str) -> String {
    format!("workers/{worker}#token")
}

/// The host that a machine belongs to.
pub(crate) struct Home {
    pub host: HostClient,
    /// The data folder on that computer.
    pub data_dir: PathBuf,
    /// `None`: this computer.
    pub worker: Option<String>,
}

/// A worker as its operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerView {
    pub id: String,
    pub name: String,
    pub regions: Vec<String>,
    pub address: String,
    pub memory_mib: u64,
    pub is_there: bool,
    pub last_heard_of: String,
    /// Ids of the machines that are placed on it.
    pub machines: Vec<String>,
}

/// A worker that is not there.
pub(crate) struct Away {
    pub id: String,
    pub name: String,
    pub seen_ms: i64,
    /// From then on its machines may be given up.
    given_up_from_ms: i64,
}

impl Away {
    pub fn may_be_given_up(&self) -> bool {
        now_ms() >= self.given_up_from_ms
    }

    pub fn error(&self, machine: &str) -> ArmError {
        ArmError::new(
            503,
            "HostUnavailable",
            format!(
                "The VM '{machine}' is on worker '{}', which was heard of last at {}. It goes on as it is when the worker is \
                 back. To run it elsewhere, with its disks as they were last brought into the content store, deallocate and \
                 start it, or redeploy it, at or after {}.",
                self.name,
                time_text(self.seen_ms),
                time_text(self.given_up_from_ms)
            ),
        )
    }
}

impl Engine {
    /// The host that a machine belongs to.
    ///
    /// # Errors
    /// 503 if its worker is away.
    pub(crate) async fn home_of(&self, machine: &Resource, state: &MachineInternal) -> Result<Home, ArmError> {
        self.home_at(&machine.name, state.worker()).await
    }

    /// As [`Engine::home_of`], of the machine with this name on this worker.
    pub(crate) async fn home_at(&self, machine: &str, worker: Option<&str>) -> Result<Home, ArmError> {
        let Some(id) = worker else {
            let data_dir = self.config().data_dir.clone();
            return Ok(Home { host: self.host().clone(), data_dir, worker: None });
        };
        let row = match self.look(id).await? {
            Ok(row) => row,
            Err(away) => return Err(away.error(machine)),
        };
        let said = member(&row)?;
        let token = self.secrets().unseal(&token_context(id), &said.token)?;
        let mut link = WorkerLink {
            address: said.address,
            certificate: BASE64_STANDARD.decode(&said.certificate).map_err(ArmError::internal)?,
            token: [0; 32],
        };
        hex::decode_to_slice(token, &mut link.token).map_err(ArmError::internal)?;
        Ok(Home { host: HostClient::of_worker(link), data_dir: said.data_dir, worker: Some(id.to_owned()) })
    }

    /// The worker of a machine, if it is not there.
    pub(crate) async fn away(&self, state: &MachineInternal) -> Result<Option<Away>, ArmError> {
        match state.worker() {
            Some(id) => Ok(self.look(id).await?.err()),
            None => Ok(None),
        }
    }

    /// Every worker that ever was, with the machines that are placed on it.
    ///
    /// # Errors
    /// What the database says.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, ArmError> {
        let placed = moving::placed(self).await?;
        let view = |row: Worker| -> Result<WorkerView, ArmError> {
            let said = member(&row)?;
            let here = placed.iter().filter(|p| p.worker.as_deref() == Some(row.id.as_str()));
            Ok(WorkerView {
                machines: here.map(|p| p.id.clone()).collect(),
                is_there: row.lease_until_ms > now_ms(),
                last_heard_of: time_text(row.seen_ms),
                id: row.id,
                name: row.name,
                regions: said.regions,
                address: said.address,
                memory_mib: said.memory_mib,
            })
        };
        self.db().workers().await.map_err(db_error)?.into_iter().map(view).collect()
    }

    async fn look(&self, id: &str) -> Result<Result<Worker, Away>, ArmError> {
        let row = self.db().worker(id).await.map_err(db_error)?;
        let row = row.ok_or_else(|| ArmError::internal(format!("there is no row of worker {id}")))?;
        if row.lease_until_ms > now_ms() {
            return Ok(Ok(row));
        }
        let grace = i64::try_from(self.config().worker_grace.as_millis()).unwrap_or(i64::MAX);
        let given_up_from_ms = row.seen_ms.saturating_add(grace);
        Ok(Err(Away { id: row.id, name: row.name, seen_ms: row.seen_ms, given_up_from_ms }))
    }
}
