//! What a machine and its disks have to be before it begins somewhere, and before it leaves.
//!
//! ```text
//! place:    the row gets a place ─> each disk: bytes in this computer's files go into the store ─> the disk belongs to the worker
//! leave:    machine off ─> each disk's file is fetched and goes into the store ─> the disk belongs to nobody ─> the host forgets it
//! detach:   the guest lets go of the disk ─> the same for this disk; the machine's definition names the file until it is removed
//! give up:  the worker is away ─> the disks show what the store has ─> the row says so (`lost`), and the activity log
//! ```
//! What firmware and TPM keep goes with the OS disk ([`super::firmware`]). Each time a disk leaves a computer its files get another name (`moves`), so that files which were left behind are never taken
//! for its own again.

use super::placement::{Candidate, Wanted, choose};
use super::{Away, Home, Lost, Place, firmware, member};
use crate::capture::Overlay;
use crate::content::{release_others, settle_found};
use crate::operation::{OpContext, OpError};
use crate::operations::virtual_machine::nics_of;
use crate::providers::virtual_machine::{KIND, MachineInternal};
use crate::sources::FoundDisk;
use crate::stored::{DiskInternal, change_internal, internal};
use crate::{Engine, db_error, new_etag, now_ms};
use lazuli_arm::ArmError;
use lazuli_arm::bodies::virtual_machine::{size, trusted_launch};
use lazuli_meta::model::{Audit, Change, Expect, Resource, ResourceQuery};
use lazuli_vmm::spec::VmSpec;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use uuid::Uuid;

/// The name of the step with which a machine is given up.
const GIVE_UP: &str = "give up";
/// That of the step which notes the files that are to be removed from a worker.
const FILES: &str = "files on the worker";

/// Gives a machine that is about to be defined a host, if it has none, and its disks to that host. Returns the row as it is then.
/// Nobody may read the disks any more ([`crate::capture::wait_for_readers`]).
///
/// # Errors
/// `AllocationFailed`; what settling a disk says.
pub(crate) async fn place(cx: &OpContext, row: &Resource) -> Result<Resource, OpError> {
    let state: MachineInternal = internal(row)?;
    let place = match state.place.clone() {
        Some(place) => place,
        None => match find(cx, row, &state).await? {
            Some(place) => place,
            None => return Ok(row.clone()),
        },
    };
    ready(cx, &state, place.worker.as_deref()).await?;
    cx.resource().await
}

/// `None`: the region has no workers, nothing is to be decided.
async fn find(cx: &OpContext, row: &Resource, state: &MachineInternal) -> Result<Option<Place>, OpError> {
    let engine = &cx.engine;
    let Some(mut candidates) = hosts_of(engine, &row.location).await? else { return Ok(None) };
    // One after the other: what is free now is free until the place is in the row.
    let _one = engine.placing().lock().await;
    let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
    for other in engine.all_rows(query).await?.iter().filter(|other| other.key != row.key) {
        count(engine, other, &mut candidates).await?;
    }
    let Networks { apart: networks, lans } = networks_of(engine, row, state).await?;
    let wanted = Wanted { machine: &row.name, memory_mib: memory_of(row)?, networks: &networks, lans: &lans };
    let worker = choose(&wanted, &candidates)?.worker.clone();
    if worker.is_some() && !state.created {
        // From an attempt before the region had workers; a host that does not answer has nothing that runs.
        if let Err(error) = engine.host().delete(state.vm_id, &[]).await {
            tracing::debug!(machine = row.id, %error, "the server's own host was not asked to forget a machine");
        }
    }
    tracing::info!(machine = row.id, worker, "a machine was placed");
    let place = Place { worker, networks };
    let placed = place.clone();
    cx.update_resource(|row| {
        change_internal(row, |state: &mut MachineInternal| state.place = Some(placed.clone()));
    })
    .await?;
    Ok(Some(place))
}

/// How much memory the host with the most has for a new machine in a region, in MiB. `None`: the region has no workers.
pub(crate) async fn room_in(engine: &Engine, region: &str) -> Result<Option<u64>, ArmError> {
    let Some(mut candidates) = hosts_of(engine, region).await? else { return Ok(None) };
    let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
    for row in &engine.all_rows(query).await? {
        count(engine, row, &mut candidates).await?;
    }
    Ok(Some(candidates.iter().filter(|c| c.is_there).map(Candidate::free_mib).max().unwrap_or(0)))
}

/// The region's hosts without what is placed on them. `None`: it never had a worker.
async fn hosts_of(engine: &Engine, region: &str) -> Result<Option<Vec<Candidate>>, ArmError> {
    let mut candidates = Vec::new();
    for row in engine.db().workers().await.map_err(db_error)? {
        let said = member(&row)?;
        if said.regions.iter().any(|r| r == region) {
            candidates.push(Candidate {
                is_there: row.lease_until_ms > now_ms(),
                worker: Some(row.id),
                name: row.name,
                memory_mib: said.memory_mib,
                used_mib: 0,
                networks: BTreeSet::new(),
                lans: said.lans.into_iter().collect(),
            });
        }
    }
    if candidates.is_empty() {
        return Ok(None);
    }
    candidates.push(Candidate {
        worker: None,
        name: "the server's own".to_owned(),
        is_there: engine.host().info().await.is_ok(),
        memory_mib: match engine.config().own_memory_mib {
            Some(memory) => memory,
            None => super::member::total_memory_mib().map_err(ArmError::internal)?,
        },
        used_mib: 0,
        networks: BTreeSet::new(),
        lans: engine.config().bridges.here().collect(),
    });
    Ok(Some(candidates))
}

/// Takes a machine into account at the host that it is on.
async fn count(engine: &Engine, row: &Resource, candidates: &mut [Candidate]) -> Result<(), ArmError> {
    let state: MachineInternal = internal(row)?;
    let (worker, networks) = match &state.place {
        Some(place) => (place.worker.clone(), place.networks.clone()),
        // Placed nowhere: off, not there yet, or from before its region had workers.
        None if state.deallocated || !state.created => return Ok(()),
        None => (None, networks_of(engine, row, &state).await?.apart),
    };
    if let Some(candidate) = candidates.iter_mut().find(|c| c.worker == worker) {
        candidate.used_mib += memory_of(row)?;
        candidate.networks.extend(networks);
    }
    Ok(())
}

/// The virtual networks of a machine.
#[derive(Default)]
struct Networks {
    /// Those that live on one host each, by `resourceGuid`.
    apart: Vec<String>,
    /// Those that are on a LAN, and with it on several hosts, by id in lower case.
    lans: Vec<String>,
}

async fn networks_of(engine: &Engine, row: &Resource, state: &MachineInternal) -> Result<Networks, ArmError> {
    let mut networks = Networks::default();
    for nic in nics_of(engine, row, state).await? {
        match engine.config().bridges.of(&nic.network) {
            Some(_) => networks.lans.push(nic.network.to_ascii_lowercase()),
            None => networks.apart.push(nic.vnet_id),
        }
    }
    for list in [&mut networks.apart, &mut networks.lans] {
        list.sort();
        list.dedup();
    }
    Ok(networks)
}

fn memory_of(row: &Resource) -> Result<u64, ArmError> {
    let name = row.body["properties"]["hardwareProfile"]["vmSize"].as_str().unwrap_or_default();
    let (_, _, memory_mib) = size(name).ok_or_else(|| ArmError::internal(format!("unknown size {name}")))?;
    Ok(memory_mib)
}

/// Gives all disks of a machine to the host that it is on.
pub(crate) async fn ready(cx: &OpContext, state: &MachineInternal, worker: Option<&str>) -> Result<(), OpError> {
    for key in state.disks() {
        let Some((row, disk)) = disk_of(cx, key).await? else { continue };
        if disk.worker.as_deref() == worker && disk.written {
            if let (Some(_), Some(moves)) = (worker, disk.moves.checked_sub(1)) {
                // An earlier attempt may have ended before it did this.
                remove_files(cx, &DiskInternal { moves, ..disk }).await?;
            }
            continue;
        }
        if disk.worker.is_some() {
            return Err(OpError::Failed(ArmError::conflict(
                "OperationNotAllowed",
                format!("Disk '{}' is still on the worker of another VM. Deallocate that VM, then retry.", row.name),
            )));
        }
        let here = disk.overlay_path(cx.engine.config());
        let next = worker.map(str::to_owned);
        if worker.is_none() || !disk.written || !exists(&here).await? {
            cx.update_other(key, |row| {
                change_internal(row, |disk: &mut DiskInternal| {
                    disk.worker.clone_from(&next);
                    disk.written = true;
                });
                true
            })
            .await?;
            continue;
        }
        let kept = if *key == state.os_disk { firmware::here(cx, &disk).await? } else { None };
        settle(cx, &row, &disk, kept, |disk| disk.worker.clone_from(&next)).await?;
        remove_files(cx, &disk).await?;
    }
    Ok(())
}

async fn disk_of(cx: &OpContext, key: &str) -> Result<Option<(Resource, DiskInternal)>, OpError> {
    let row = cx.engine.db().resource(key).await.map_err(db_error)?;
    Ok(match row {
        Some(row) => {
            let disk = internal(&row)?;
            Some((row, disk))
        }
        None => None,
    })
}

/// Brings what was written to a disk into the store; it is its base from then on, and `firmware` what firmware and TPM kept
/// beside it. The files are left to the caller.
async fn settle(
    cx: &OpContext,
    row: &Resource,
    disk: &DiskInternal,
    firmware: Option<String>,
    then: impl Fn(&mut DiskInternal),
) -> Result<(), OpError> {
    let overlay = Overlay::own(row, disk);
    let found = FoundDisk { base: disk.base.clone(), holder: None, size_bytes: disk.size_bytes, overlay };
    let step = format!("settle {} {}", disk.unique_id, disk.moves);
    let stored = settle_found(cx, &step, &row.key, &row.location, &found).await?;
    cx.update_other(&row.key, |row| {
        change_internal(row, |state: &mut DiskInternal| {
            // An earlier attempt may have done it.
            if state.moves == disk.moves {
                state.base = Some(stored.clone());
                state.moves += 1;
                if firmware.is_some() {
                    state.firmware.clone_from(&firmware);
                }
                then(state);
            }
        });
        true
    })
    .await?;
    let keep = [Some(&stored), disk.guest_state.as_ref()].into_iter().flatten();
    let others = release_others(cx, &row.key, &row.location, keep).await?;
    cx.commit(others).await
}

/// Brings what was written to a machine's disks on a worker into the store. No guest must have them any more, and nobody read them.
/// Returns the files that the worker's host has to remove. Disks in `doomed` are about to be deleted: their bytes are not brought.
pub(crate) async fn leave(
    cx: &OpContext,
    machine: &Resource,
    disks: &[&String],
    home: &Home,
    doomed: &[&String],
) -> Result<Vec<PathBuf>, OpError> {
    let Some(worker) = home.worker.as_deref() else { return Ok(vec![]) };
    let state: MachineInternal = internal(machine)?;
    let files: Vec<PathBuf> = cx
        .step(FILES, async {
            let mut files = Vec::new();
            for key in disks {
                if let Some((_, disk)) = disk_of(cx, key).await?.filter(|(_, d)| d.worker.as_deref() == Some(worker)) {
                    files.push(disk.overlay_in(&home.data_dir));
                    if **key == state.os_disk {
                        files.push(disk.firmware_state_in(&home.data_dir));
                    }
                }
            }
            Ok(files)
        })
        .await?;
    for key in disks {
        let Some((row, disk)) = disk_of(cx, key).await?.filter(|(_, d)| d.worker.as_deref() == Some(worker)) else {
            continue;
        };
        if doomed.contains(key) {
            forget(cx, key, worker).await?;
        } else {
            let has_firmware = **key == state.os_disk && trusted_launch(&machine.body).is_some();
            let kept = match has_firmware {
                true => firmware::on_worker(cx, machine, &state, &disk, home).await?,
                false => None,
            };
            settle(cx, &row, &disk, kept, |disk| {
                disk.worker = None;
                disk.written = false;
            })
            .await?;
        }
    }
    Ok(files)
}

/// What an attempt of this operation noted in [`leave`]; files of disks that are in use again belong to their machine.
pub(crate) fn left_files(cx: &OpContext, spec: &VmSpec) -> Result<Vec<PathBuf>, OpError> {
    let noted =
        cx.done_step(FILES).map(serde_json::from_value::<Vec<PathBuf>>).transpose().map_err(ArmError::internal)?;
    Ok(noted.into_iter().flatten().filter(|path| !spec.disks().any(|d| d.overlay == *path)).collect())
}

/// The disk shows what the store has of it. Returns whether it was on that worker.
pub(crate) async fn forget(cx: &OpContext, key: &str, worker: &str) -> Result<(), OpError> {
    cx.update_other(key, |row| {
        let on_it = internal::<DiskInternal>(row).is_ok_and(|d| d.worker.as_deref() == Some(worker));
        if on_it {
            change_internal(row, |disk: &mut DiskInternal| {
                disk.worker = None;
                disk.written = false;
                disk.moves += 1;
            });
        }
        on_it
    })
    .await
}

/// Whether an earlier attempt of this operation gave the machine up.
pub(crate) fn was_given_up(cx: &OpContext) -> bool {
    cx.done_step(GIVE_UP).is_some()
}

/// Takes a machine from a worker that is away: it is deallocated then, and its row and the activity log tell what it lost.
pub(crate) async fn give_up(cx: &OpContext, away: &Away) -> Result<(), OpError> {
    cx.step_with(GIVE_UP, async {
        let mut row = cx.resource().await?;
        let state: MachineInternal = internal(&row)?;
        let disks: Vec<String> =
            state.disks_and_leaving().map(|k| k.rsplit('/').next().unwrap_or_default().to_owned()).collect();
        for key in state.disks_and_leaving() {
            forget(cx, key, &away.id).await?;
        }
        let lost = Lost { worker: away.name.clone(), seen_ms: away.seen_ms, disks };
        tracing::warn!(machine = row.id, worker = away.name, "a machine was given up with its worker");
        let line = audit(cx, &row, &lost);
        let expect = Expect::Etag(row.etag.clone());
        row.etag = new_etag();
        change_internal(&mut row, |state: &mut MachineInternal| {
            state.place = None;
            state.deallocated = true;
            state.lost = Some(lost);
        });
        Ok(((), vec![Change::PutResource { resource: row, expect }, line]))
    })
    .await
}

fn audit(cx: &OpContext, row: &Resource, lost: &Lost) -> Change {
    Change::Audit(Audit {
        id: Uuid::new_v4().to_string(),
        time_ms: now_ms(),
        correlation_id: cx.op.id.clone(),
        tenant: String::new(),
        principal: "lazuli".to_owned(),
        subscription: row.subscription.clone(),
        resource_key: row.key.clone(),
        action: format!("{KIND}/redeploy/action"),
        status: "Succeeded".to_owned(),
        detail: json!({"message": lost.message(), "worker": lost.worker, "disks": lost.disks}),
    })
}

async fn exists(path: &std::path::Path) -> Result<bool, OpError> {
    tokio::fs::try_exists(path).await.map_err(|e| OpError::Failed(ArmError::internal(e)))
}

/// What a disk that left has on this computer.
async fn remove_files(cx: &OpContext, disk: &DiskInternal) -> Result<(), OpError> {
    let config = cx.engine.config();
    let file = tokio::fs::remove_file(disk.overlay_path(config)).await;
    for removed in [file, tokio::fs::remove_dir_all(disk.firmware_state_path(config)).await] {
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(OpError::Failed(ArmError::internal(e))),
            _ => {}
        }
    }
    Ok(())
}

/// A machine, and the worker that it is on.
pub(super) struct Placed {
    pub id: String,
    pub vm_id: Uuid,
    pub worker: Option<String>,
}

/// Every machine.
pub(super) async fn placed(engine: &Engine) -> Result<Vec<Placed>, ArmError> {
    let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
    let mut placed = Vec::new();
    for row in engine.all_rows(query).await? {
        let state: MachineInternal = internal(&row)?;
        let worker = state.worker().map(str::to_owned);
        placed.push(Placed { id: row.id, vm_id: state.vm_id, worker });
    }
    Ok(placed)
}
