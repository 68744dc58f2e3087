//! The wire between [`HostClient`](super::HostClient) and the host process: HTTP/1.1 with JSON bodies over a unix
//! socket that only its owner may open. Both ends are ours and of one version; no compatibility is promised.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | `GET /` | | [`HostInfo`] |
//! | `GET /vms` | | list of `VmStatus` |
//! | `PUT /vms/{id}[?off=true]` | `VmSpec` | `VmStatus`: defined, and started or left off |
//! | `GET /vms/{id}` | | `VmStatus` |
//! | `GET /vms/{id}/changes?since=N&timeout_ms=T` | | `VmStatus` once its counter is not N, or as it is after T |
//! | `GET /vms/{id}/console?max=N` | | the last N bytes of the serial console, as they are |
//! | `GET /vms/{id}/serial`, `Upgrade: lazuli-link` | | 101: the connection is the running machine's serial console, until another one asks for it |
//! | `GET /vms/{id}/screenshot` | | what the running machine's screen shows, as PNG |
//! | `GET /vms/{id}/boot-trace` | | what was read of its image when it started ([`BaseImages::boot_trace`](super::BaseImages::boot_trace)); nothing if that is not known |
//! | `POST /vms/{id}/start`, `/power-off?skip_shutdown=B`, `/restart` | | `VmStatus` |
//! | `PUT /vms/{id}/definition` | `VmSpec` | `VmStatus`: redefined |
//! | `GET /vms/{id}/firmware` | | what firmware and TPM keep of a machine that is off, as [`firmware::pack`](super::firmware::pack) makes it; nothing if they keep nothing |
//! | `PUT /vms/{id}/firmware` | the same | 204: a machine that never began begins with it |
//! | `PUT /vms/{id}/network` | list of `NicSpec` | `VmStatus` |
//! | `POST /vms/{id}/captures` | [`CaptureRequest`] | [`Captured`]: copies of a running machine's disks as of one instant |
//! | `POST /vms/{id}/shell` | [`ShellRequest`] | [`Ended`](crate::guest_agent::Ended): `/bin/sh` in the guest, by its agent |
//! | `GET /vms/{id}/connect?port=N`, `Upgrade: lazuli-link` | | 101, then the bytes of a connection to the guest's port, both ways |
//! | `GET /vms/{id}/files?FILE` with [`DiskFile`], `Upgrade: lazuli-link` | | 101, then 8 bytes (little endian) that say how long it is, and what was written to a disk: nothing where nothing was ever written |
//! | `DELETE /vms/{id}/files` | [`DeleteRequest`] | 204: files of detached disks are removed |
//! | `DELETE /vms/{id}/captures/{capture}` | | 204: the copies are removed |
//! | `DELETE /vms/{id}` | [`DeleteRequest`] | 204 |
//!
//! A failure is [`ErrorBody`] with a 4xx or 5xx status.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::hypervisor::Consistency;

/// What kind of failure the host reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostErrorCode {
    /// No such machine.
    NotFound,
    /// The definition or the request makes no sense.
    Invalid,
    /// The machine exists with another definition, or its state does not allow the request.
    Conflict,
    /// This host has not enough free memory (the engine says `AllocationFailed`).
    NotEnoughMemory,
    /// There is no room for copies of the disks.
    Full,
    /// A disk, its base image or the host's own folder cannot be used.
    Storage,
    /// A network cannot be set up, e.g. a public address is in use.
    Network,
    /// The guest does not answer on the port that was asked for.
    Refused,
    /// No guest agent answers.
    NoAgent,
    /// The guest did not do in time what it was asked for.
    TimedOut,
    /// The hypervisor could not start or control the machine.
    Hypervisor,
    /// Anything else; see the host's log.
    Internal,
}

impl HostErrorCode {
    pub(crate) fn status(self) -> http::StatusCode {
        match self {
            Self::NotFound => http::StatusCode::NOT_FOUND,
            Self::Invalid => http::StatusCode::BAD_REQUEST,
            Self::Conflict => http::StatusCode::CONFLICT,
            Self::NotEnoughMemory | Self::Full => http::StatusCode::INSUFFICIENT_STORAGE,
            Self::Refused | Self::NoAgent | Self::TimedOut => http::StatusCode::GATEWAY_TIMEOUT,
            Self::Storage | Self::Network | Self::Hypervisor | Self::Internal => {
                http::StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub code: HostErrorCode,
    pub message: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct DeleteRequest {
    /// Overlays to remove, with the machine or without it; each must be one of its disks. With the machine also the state of its
    /// firmware.
    pub remove: Vec<PathBuf>,
}

/// Which file of a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskFile {
    /// Its own, by name, while no guest has it: the machine is off, or the disk was detached. `name=NAME`.
    Own { name: String },
    /// The copy of a capture, by LUN; `None` is the OS disk. `capture=ID[&lun=N]`.
    Captured { lun: Option<u8>, capture: Uuid },
}

/// Which disks to capture, by LUN; `None` is the OS disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CaptureRequest {
    pub luns: Vec<Option<u8>>,
}

/// A run of `/bin/sh` in the guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShellRequest {
    pub arguments: Vec<String>,
    pub input: String,
    pub time_ms: u64,
}

/// The protocol that a connection is upgraded to: bytes as they are.
pub(crate) const LINK: &str = "lazuli-link";

/// Copies of a machine's disks, all of one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    pub id: Uuid,
    pub consistency: Consistency,
    /// In the order of the request: qcow2 files with what was written over each disk's base. They are removed a minute
    /// after they were made, or when the engine says so: whoever has opened them by then keeps them.
    pub files: Vec<PathBuf>,
}

/// Who answers on the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    pub pid: u32,
    pub version: String,
    /// e.g. `QEMU 10.0.2, tcg`.
    pub hypervisor: String,
    /// Memory of the largest machine that could be started now; `None`: whatever is asked for (or a host of before).
    #[serde(default)]
    pub room_mib: Option<u64>,
}
