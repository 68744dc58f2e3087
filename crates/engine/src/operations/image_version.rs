//! What creating and updating a version have in common: bringing its bytes into every target region.
//!
//! ```text
//! a region:  Unknown ─> Replicating ─> Completed   once the region's store has every byte, and the reference is committed
//!                            └───────> Failed      with the reason; the others go on; the operation fails in the end
//!
//! the version:  Succeeded   every target region is Completed
//!               Updating    another operation of the version still has regions to complete
//!               Failed      a region is
//! ```
//! Its bytes lie in its own tenant's store of each region, where tenants are kept apart: in its own region too they are brought there,
//! if it was made of what another tenant shares.

mod progress;

use crate::content::{guard, manifest_id, reference, store_of, store_op_error};
use crate::operation::{OpContext, OpError};
use crate::stored::{ImageVersionInternal, RegionState, Stored, change_internal, internal};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lazuli_arm::bodies::disk::gib_of;
use lazuli_arm::bodies::image_version::{show_disks, target_regions};
use lazuli_arm::{ArmError, locations};
use lazuli_chunks::ChunkError;
use lazuli_meta::WriteError;
use lazuli_meta::model::{Change, Conflict, Expect, OperationQuery, OperationState, Resource, Write};
use progress::{Target, report};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Regions that receive bytes at the same time.
const PARALLEL: usize = 3;
/// How often a region is tried before a passing failure counts.
const ATTEMPTS: u32 = 4;

/// Short names of the target regions of a stored body.
pub(crate) fn region_names(row: &Resource) -> Vec<String> {
    let names = target_regions(&row.body).into_iter();
    names.filter_map(|r| locations::normalize(&r.display_name).map(|l| l.name.to_owned())).collect()
}

/// Changes the engine's own words about the version.
pub(super) fn change_state(row: &mut Resource, change: impl FnOnce(&mut ImageVersionInternal)) {
    change_internal(row, change);
}

/// Waits for the operations of the same version that were started before this one: two must not bring the same bytes, and the
/// later one sees what the earlier one did. A deletion waits for all by itself.
pub(super) async fn after_earlier(cx: &OpContext) -> Result<(), OpError> {
    let query = OperationQuery {
        resource_key: Some(cx.op.resource_key.clone()),
        state: Some(OperationState::Running),
        ..OperationQuery::default()
    };
    let mine = (cx.op.started_ms, cx.op.id.as_str());
    loop {
        cx.check()?;
        let running = cx.engine.db().operations(&query).await.map_err(crate::db_error)?;
        let earlier = running.iter().filter(|o| !o.kind.ends_with(".delete"));
        let Some(earlier) = earlier.min_by_key(|o| (o.started_ms, o.id.as_str())) else { return Ok(()) };
        if (earlier.started_ms, earlier.id.as_str()) >= mine {
            return Ok(());
        }
        cx.engine.db().wait_operation(&earlier.id, Duration::from_secs(1)).await.map_err(crate::db_error)?;
    }
}

/// All that every region of a version has, once its sources were read: its disks, and the trace of its start if there is one.
pub(super) fn disks(row: &Resource) -> Result<Vec<Stored>, OpError> {
    let state: ImageVersionInternal = internal(row)?;
    let never_read = || ArmError::internal("the version's sources were never read");
    let mut disks = vec![state.os_disk.ok_or_else(never_read)?];
    disks.extend(state.data_disks.into_values());
    disks.extend(state.boot_trace.map(|trace| trace.stored));
    Ok(disks)
}

/// Brings `disks` from the version's own region into all its target regions. Returns once each one serves every byte; what
/// is there already is only looked at again. After a failure the regions that were reached stay.
pub(super) async fn replicate(cx: &OpContext, row: &Resource, disks: &[Stored]) -> Result<(), OpError> {
    let home = row.location.as_str();
    let state: ImageVersionInternal = internal(row)?;
    let mut names = region_names(row);
    // The home region first: nothing can be copied from what it lacks.
    names.sort_by_key(|n| n != home);
    let completed = |name: &str| state.regions.get(name).is_some_and(|r| r.state == "Completed");
    let targets: Vec<Target> = names.into_iter().map(|name| Target::new(completed(&name), name, disks)).collect();
    let phase = format!("replicating to {}", targets.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "));

    let slots = Semaphore::new(PARALLEL);
    let mut work = FuturesUnordered::new();
    for target in &targets {
        work.push(bring(cx, row, target, &slots));
    }
    let mut tick = tokio::time::interval(crate::content::REPORT_EVERY);
    let mut failed: Option<OpError> = None;
    loop {
        tokio::select! {
            biased;
            ended = work.next() => match ended {
                None => break,
                Some(Ok(())) => {}
                // The first failure is the one to tell, but a stop ends everything.
                Some(Err(OpError::Failed(e))) => { failed.get_or_insert(OpError::Failed(e)); }
                Some(Err(stop)) => return Err(stop),
            },
            _ = tick.tick() => report(cx, &targets, &phase).await,
        }
    }
    report(cx, &targets, &phase).await;
    failed.map_or(Ok(()), Err)
}

/// One region, from whatever it has to `Completed` or `Failed`.
async fn bring(cx: &OpContext, row: &Resource, target: &Target, slots: &Semaphore) -> Result<(), OpError> {
    let region = target.name.as_str();
    let _slot = slots.acquire().await.map_err(ArmError::internal)?;
    if target.completed && all_there(cx, row, target).await? {
        return Ok(());
    }
    let mut done = Ok(());
    for part in &target.parts {
        done = copy(cx, row, target, part).await;
        if done.is_err() {
            break;
        }
        part.finish();
    }
    let (state, details) = match &done {
        Ok(()) => ("Completed", String::new()),
        Err(OpError::Failed(error)) => ("Failed", error.message.clone()),
        Err(_) => return done,
    };
    let (done_bytes, total_bytes) = target.bytes();
    let to = RegionState { state: state.into(), done_bytes, total_bytes, details };
    set_region(cx, region, &to).await?;
    done
}

/// Whether a region that was completed before still serves every disk.
async fn all_there(cx: &OpContext, row: &Resource, target: &Target) -> Result<bool, OpError> {
    let region = target.name.as_str();
    let failed = |e| store_op_error(cx, e, region);
    let boundary = cx.engine.regions().boundary(region, &row.key).await?;
    let store = cx.engine.regions().get(region, boundary).await.map_err(failed)?;
    for part in &target.parts {
        if !store.has(manifest_id(&part.disk.manifest)?).await.map_err(failed)? {
            return Ok(false);
        }
        part.finish();
    }
    Ok(true)
}

async fn copy(cx: &OpContext, row: &Resource, target: &Target, part: &progress::Part) -> Result<(), OpError> {
    let region = target.name.as_str();
    let manifest = manifest_id(&part.disk.manifest)?;
    // Held until the reference is committed.
    let guard = guard(cx, region, &row.key).await?;
    if region != row.location || !guard.region.holds(manifest) {
        let source = store_of(cx, &row.location, &row.key, manifest).await?;
        let mut attempt = 1;
        loop {
            cx.check()?;
            match guard.region.replicate_from(&source, manifest, &part.progress, &cx.stop).await {
                Ok(done) => {
                    tracing::info!(version = row.id, region, moved_bytes = done.moved_bytes, "replicated");
                    break;
                }
                Err(e) if attempt < ATTEMPTS && !e.is_permanent() => {
                    tracing::warn!(version = row.id, region, attempt, error = %e, "replication is tried again");
                    pause(cx, attempt).await;
                    attempt += 1;
                }
                Err(e) => return Err(store_op_error(cx, e, region)),
            }
        }
    }
    // Completed means that this region serves the bytes (RP-8): it is asked, not assumed.
    if !guard.region.has(manifest).await.map_err(|e| store_op_error(cx, e, region))? {
        let missing = ChunkError::NotFound { what: format!("manifest {manifest}"), region: region.to_owned() };
        return Err(store_op_error(cx, missing, region));
    }
    cx.commit(vec![Change::PutContentRef(reference(&row.key, region, &part.disk.manifest))]).await
}

/// A second, two, four; cut short by a stop.
async fn pause(cx: &OpContext, attempt: u32) {
    tokio::select! {
        () = cx.stop.cancelled() => {}
        () = tokio::time::sleep(Duration::from_secs(1 << (attempt - 1))) => {}
    }
}

async fn set_region(cx: &OpContext, region: &str, to: &RegionState) -> Result<(), OpError> {
    cx.update_resource(|row| {
        change_state(row, |s| {
            s.regions.insert(region.to_owned(), to.clone());
        });
    })
    .await
}

/// Lets go of the regions that the body does not name (any more). Returns those that have bytes to free. What the body names is
/// looked at in the same transaction, so that a region that a writer adds meanwhile is not let go of.
pub(super) async fn release_regions(cx: &OpContext) -> Result<Vec<String>, OpError> {
    loop {
        let mut row = cx.resource().await?;
        let wanted = region_names(&row);
        // References, not the state, tell what is held: a crash must not leave one behind.
        let held = cx.engine.db().content_refs_of(&row.key).await.map_err(crate::db_error)?;
        let stale: Vec<_> = held.into_iter().filter(|r| !wanted.contains(&r.region)).collect();
        let before = row.internal.clone();
        change_state(&mut row, |s| s.regions.retain(|r, _| wanted.contains(r)));
        if stale.is_empty() && row.internal == before {
            return Ok(vec![]);
        }
        let mut regions: Vec<String> = stale.iter().map(|r| r.region.clone()).collect();
        regions.dedup();
        let expect = Expect::Etag(row.etag.clone());
        row.etag = crate::new_etag();
        let mut changes = vec![Change::PutResource { resource: row, expect }];
        changes.extend(stale.into_iter().map(Change::DeleteContentRef));
        let write = Write { fence: Some((cx.op.id.clone(), cx.op.fence)), changes };
        match cx.engine.db().write(write).await {
            Ok(()) => return Ok(regions),
            Err(WriteError::Conflict(Conflict::Etag { .. })) => cx.check()?,
            Err(WriteError::Conflict(Conflict::Fenced { .. })) => return Err(OpError::Interrupted),
            Err(e) => return Err(OpError::Failed(ArmError::internal(e))),
        }
    }
}

/// The caching of disks that the client did not name itself: the OS disk's and, by LUN, the data disks'.
pub(super) type Caching = (String, BTreeMap<u32, String>);

/// How a version is left by an operation that did its part.
pub(super) fn settle_row(row: &mut Resource, caching: &Caching) {
    let Ok(state) = internal::<ImageVersionInternal>(row) else { return };
    if let Some(os) = &state.os_disk {
        let (os_caching, data_caching) = caching;
        let caching = |lun: &u32| data_caching.get(lun).map_or("None", String::as_str);
        let data: Vec<(u32, u64, &str)> =
            state.data_disks.iter().map(|(lun, d)| (*lun, gib_of(d.size_bytes), caching(lun))).collect();
        show_disks(&mut row.body, (gib_of(os.size_bytes), os_caching), &data);
    }
    if row.provisioning_state != "Deleting" {
        let word = match overall(row, &state) {
            Overall::Complete => "Succeeded",
            Overall::Failed => "Failed",
            Overall::Underway => "Updating",
        };
        word.clone_into(&mut row.provisioning_state);
    }
}

/// How a version is left by an operation that failed: another one may have completed what this one could not.
pub(super) fn settle_failed(row: &mut Resource) {
    let Ok(state) = internal::<ImageVersionInternal>(row) else { return };
    if row.provisioning_state != "Deleting" && overall(row, &state) == Overall::Complete {
        "Succeeded".clone_into(&mut row.provisioning_state);
    }
}

#[derive(PartialEq, Eq)]
enum Overall {
    Complete,
    Underway,
    Failed,
}

fn overall(row: &Resource, state: &ImageVersionInternal) -> Overall {
    let names = region_names(row);
    let is = |word: &'static str| move |name: &String| state.regions.get(name).is_some_and(|r| r.state == word);
    if state.os_disk.is_some() && names.iter().all(is("Completed")) {
        Overall::Complete
    } else if names.iter().any(is("Failed")) {
        Overall::Failed
    } else {
        Overall::Underway
    }
}
