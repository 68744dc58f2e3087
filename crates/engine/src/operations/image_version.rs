//! What creating and updating a version have in common: bringing its bytes into every target region.
//!
//! ```text
//! a region:  Unknown ─> Replicating ─> Completed   once the region's store has every byte, and the reference is committed
//!                            └───────> Failed      with the reason; the others go on; the operation fails in the end
//! ```

use crate::content::{REPORT_EVERY, manifest_id, reference, store_op_error};
use crate::operation::{OpContext, OpError};
use crate::stored::{ImageVersionInternal, RegionState, Stored, internal, to_internal};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lazuli_arm::bodies::image_version::target_regions;
use lazuli_arm::{ArmError, locations};
use lazuli_chunks::{ChunkError, Progress, Region};
use lazuli_meta::model::{Change, Expect, Resource};
use tokio::sync::Semaphore;

/// Regions that receive bytes at the same time.
const PARALLEL: usize = 3;
/// How often a region is tried before a passing failure counts.
const ATTEMPTS: u32 = 4;

/// One region's part of the work.
struct Target {
    name: String,
    progress: Progress,
}

/// Short names of the target regions of a stored body.
pub(super) fn region_names(row: &Resource) -> Vec<String> {
    let names = target_regions(&row.body).into_iter();
    names.filter_map(|r| locations::normalize(&r.display_name).map(|l| l.name.to_owned())).collect()
}

/// Changes the engine's own words about the version.
pub(super) fn change_state(row: &mut Resource, change: impl FnOnce(&mut ImageVersionInternal)) {
    if let Ok(mut state) = internal::<ImageVersionInternal>(row) {
        change(&mut state);
        row.internal = to_internal(&state);
    }
}

/// Brings `disk` from the version's own region into all its target regions. Returns once each one serves every byte; what
/// is there already is only looked at again. After a failure the regions that were reached stay.
pub(super) async fn replicate(cx: &OpContext, row: &Resource, disk: &Stored) -> Result<(), OpError> {
    let home = row.location.as_str();
    let source = cx.engine.regions().get(home).await.map_err(|e| store_op_error(cx, e, home))?;
    let mut names = region_names(row);
    // The home region first: nothing can be copied from what it lacks.
    names.sort_by_key(|n| n != home);
    let targets: Vec<Target> = names.into_iter().map(|name| Target { name, progress: Progress::new() }).collect();
    let phase = format!("replicating to {}", targets.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "));

    let slots = Semaphore::new(PARALLEL);
    let mut work = FuturesUnordered::new();
    for target in &targets {
        work.push(bring(cx, row, &source, disk, target, &slots));
    }
    let mut tick = tokio::time::interval(REPORT_EVERY);
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
async fn bring(
    cx: &OpContext,
    row: &Resource,
    source: &Region,
    disk: &Stored,
    target: &Target,
    slots: &Semaphore,
) -> Result<(), OpError> {
    let region = target.name.as_str();
    let _slot = slots.acquire().await.map_err(ArmError::internal)?;
    match copy(cx, row, source, disk, target).await {
        Ok(()) => {
            let total = target.progress.total();
            set_region(
                cx,
                region,
                &RegionState {
                    state: "Completed".into(),
                    done_bytes: total,
                    total_bytes: total,
                    details: String::new(),
                },
            )
            .await
        }
        Err(OpError::Failed(error)) => {
            set_region(
                cx,
                region,
                &RegionState {
                    state: "Failed".into(),
                    done_bytes: target.progress.done(),
                    total_bytes: target.progress.total(),
                    details: error.message.clone(),
                },
            )
            .await?;
            Err(OpError::Failed(error))
        }
        Err(stop) => Err(stop),
    }
}

async fn copy(cx: &OpContext, row: &Resource, source: &Region, disk: &Stored, target: &Target) -> Result<(), OpError> {
    let region = target.name.as_str();
    let manifest = manifest_id(&disk.manifest)?;
    // Held until the reference is committed.
    let guard = cx.engine.regions().guard(region).await.map_err(|e| store_op_error(cx, e, region))?;
    if region != row.location {
        let mut attempt = 1;
        loop {
            cx.check()?;
            match guard.region.replicate_from(source, manifest, &target.progress, &cx.stop).await {
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
    cx.commit(vec![Change::PutContentRef(reference(&row.key, region, &disk.manifest))]).await
}

/// A second, two, four; cut short by a stop.
async fn pause(cx: &OpContext, attempt: u32) {
    tokio::select! {
        () = cx.stop.cancelled() => {}
        () = tokio::time::sleep(std::time::Duration::from_secs(1 << (attempt - 1))) => {}
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

/// Writes the progress of the regions under way into the row. Its etag stays: clients that hold it are not disturbed, and a
/// write that was decided meanwhile only loses a number that comes again.
async fn report(cx: &OpContext, targets: &[Target], phase: &str) {
    let sum = |of: fn(&Progress) -> u64| targets.iter().map(|t| of(&t.progress)).sum();
    cx.progress(sum(Progress::done), sum(Progress::total), phase).await;
    let Ok(mut row) = cx.resource().await else { return };
    let before = row.internal.clone();
    change_state(&mut row, |state| {
        for target in targets.iter().filter(|t| t.progress.total() > 0) {
            let region = state.regions.entry(target.name.clone()).or_default();
            if region.state == "Unknown" || region.state == "Replicating" {
                region.state = "Replicating".into();
                region.done_bytes = target.progress.done();
                region.total_bytes = target.progress.total();
            }
        }
    });
    if row.internal == before {
        return;
    }
    let expect = Expect::Etag(row.etag.clone());
    if let Err(error) = cx.commit(vec![Change::PutResource { resource: row, expect }]).await {
        tracing::debug!(operation = cx.op.id, ?error, "progress was not recorded");
    }
}

/// The definite size of the OS disk in a version's body, in Azure's order of members.
pub(super) fn show_size(row: &mut Resource, size_bytes: u64) {
    let profile = &mut row.body["properties"]["storageProfile"];
    let old = &profile["osDiskImage"];
    let caching = old["hostCaching"].as_str().unwrap_or("ReadWrite").to_owned();
    let source = old.get("source").cloned().unwrap_or_else(|| serde_json::json!({}));
    profile["osDiskImage"] = serde_json::json!({
        "sizeInGB": lazuli_arm::bodies::disk::gib_of(size_bytes),
        "hostCaching": caching,
        "source": source,
    });
}

/// The version's disk, once its source was read.
pub(super) fn os_disk(row: &Resource) -> Result<Stored, OpError> {
    let state: ImageVersionInternal = internal(row)?;
    state.os_disk.ok_or_else(|| OpError::Failed(ArmError::internal("the version's source was never read")))
}
