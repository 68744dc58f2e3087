//! Bytes of disks and versions between resources and the content store: settling, replicating's errors, sweeping.
//!
//! The law: a manifest is referenced (a [`ContentRef`] in the database) before anyone relies on it, and bytes on their way in
//! are kept from the sweep by a guard ([`crate::regions::ContentGuard`]) until that reference is committed.

use crate::Engine;
use crate::capture::open_all;
use crate::operation::{OpContext, OpError};
use crate::references::referenced;
use crate::regions::ContentGuard;
use crate::sources::FoundDisk;
use crate::stored::Stored;
use lazuli_arm::ArmError;
use lazuli_chunks::{ChunkError, Collected, ManifestId, Progress, Region};
use lazuli_disks::changes::Unchanged;
use lazuli_meta::model::{Change, ContentRef};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How often progress is written down.
pub(crate) const REPORT_EVERY: Duration = Duration::from_millis(500);

/// A store's error in words for the client; the cause goes to the log.
pub(crate) fn store_error(error: ChunkError, region: &str) -> ArmError {
    let arm = match &error {
        ChunkError::StoreFull { .. } => ArmError::new(
            507,
            "StorageFull",
            format!(
                "The storage of region '{region}' is full. Nothing that existed was changed. Free some space (delete image \
                 versions or disks, or enlarge the storage), then retry."
            ),
        ),
        ChunkError::Corrupt { .. } => ArmError::new(
            500,
            "StoredDataDamaged",
            format!("Stored data in region '{region}' is damaged and was not used. Run `lazuli scrub` to repair it."),
        ),
        ChunkError::NotFound { .. } => ArmError::new(
            500,
            "StoredDataMissing",
            format!("Stored data is missing in region '{region}'. Run `lazuli scrub` to repair it."),
        ),
        ChunkError::Locked { .. } => ArmError::new(
            503,
            "RegionInUse",
            format!(
                "The storage of region '{region}' is open in another process of this server. Stop that, then retry."
            ),
        ),
        ChunkError::Store { .. } | ChunkError::Index { .. } => ArmError::new(
            503,
            "StorageUnavailable",
            format!("The storage of region '{region}' cannot be reached or failed. See the server's log, then retry."),
        ),
        _ => ArmError::new(
            500,
            "InternalServerError",
            format!("The storage of region '{region}' failed. See the server's log."),
        ),
    };
    arm.caused_by(error)
}

/// A store's error within an operation: a cancelled one is the operation's own end or pause.
pub(crate) fn store_op_error(cx: &OpContext, error: ChunkError, region: &str) -> OpError {
    match cx.check() {
        Err(stop) => stop,
        Ok(()) => OpError::Failed(store_error(error, region)),
    }
}

/// The hex id of a row.
pub(crate) fn manifest_id(text: &str) -> Result<ManifestId, ArmError> {
    text.parse().map_err(|_| ArmError::internal(format!("'{text}' is no manifest id")))
}

/// The store that what `owner` (the key of a resource) brings into a region goes to. Hold it until the reference is committed.
pub(crate) async fn guard(cx: &OpContext, region: &str, owner: &str) -> Result<ContentGuard, OpError> {
    let boundary = cx.engine.regions().boundary(region, owner).await?;
    cx.engine.regions().guard(region, boundary).await.map_err(|e| store_op_error(cx, e, region))
}

/// The store that has a disk which `owner` refers to.
pub(crate) async fn store_of(cx: &OpContext, region: &str, owner: &str, disk: ManifestId) -> Result<Region, OpError> {
    let boundary = cx.engine.regions().boundary(region, owner).await?;
    cx.engine.regions().find(region, boundary, disk).await.map_err(|e| store_op_error(cx, e, region))
}

/// Brings a disk that `owner` refers to into the store behind the guard, if another of the region has it: what is made over it
/// needs its bytes there.
async fn bring_base(
    cx: &OpContext,
    guard: &ContentGuard,
    region: &str,
    owner: &str,
    base: ManifestId,
) -> Result<(), OpError> {
    if guard.region.holds(base) {
        return Ok(());
    }
    let source = store_of(cx, region, owner, base).await?;
    let progress = Progress::new();
    let work = guard.region.replicate_from(&source, base, &progress, &cx.stop);
    let moved = watched(cx, &progress, "copying what the disk was made of", work).await;
    let moved = moved.map_err(|e| store_op_error(cx, e, region))?;
    tracing::info!(
        owner,
        region,
        moved_bytes = moved.moved_bytes,
        "a disk of another tenant was copied to make one of it"
    );
    Ok(())
}

/// Runs `work` and writes its progress down meanwhile.
pub(crate) async fn watched<T>(cx: &OpContext, progress: &Progress, phase: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                cx.progress(progress.done(), progress.total(), phase).await;
                return done;
            }
            _ = tick.tick() => cx.progress(progress.done(), progress.total(), phase).await,
        }
    }
}

/// A found disk as one manifest of exactly its size: what guests changed is read, and nothing else of it. Nothing is done
/// when its base is that already. The new manifest is referenced by `owner` when this returns; the base stays so, as another
/// disk of the owner may have the same one ([`release_others`]). `step` names the step: one for each disk of an operation.
/// Whatever waited for the overlay to be read may go on then.
pub(crate) async fn settle_found(
    cx: &OpContext,
    step: &str,
    owner: &str,
    region: &str,
    found: &FoundDisk,
) -> Result<Stored, OpError> {
    let mut stored = settle_all(cx, owner, region, &[(step.to_owned(), found)]).await?;
    stored.pop().ok_or_else(|| OpError::Failed(ArmError::internal("one disk was settled as none")))
}

/// As [`settle_found`] for all disks of a resource, each with the name of its step. The disks of running machines are one
/// step together: whatever interrupts it, they are taken as of one instant (GS-14).
pub(crate) async fn settle_all(
    cx: &OpContext,
    owner: &str,
    region: &str,
    disks: &[(String, &FoundDisk)],
) -> Result<Vec<Stored>, OpError> {
    let is_live = |found: &FoundDisk| found.overlay.as_ref().is_some_and(|o| o.live.is_some());
    let live: Vec<&FoundDisk> = disks.iter().map(|(_, found)| *found).filter(|found| is_live(found)).collect();
    let mut of_running = match live.is_empty() {
        true => vec![],
        false => settle(cx, "settle disks of running machines", owner, region, &live).await?,
    }
    .into_iter();
    let mut all = Vec::new();
    for (step, found) in disks {
        let stored = match &found.base {
            Some(base) if found.is_settled() => Some(base.clone()),
            _ if is_live(found) => of_running.next(),
            _ => settle(cx, step, owner, region, &[found]).await?.pop(),
        };
        all.push(stored.ok_or_else(|| OpError::Failed(ArmError::internal("a disk was not settled")))?);
        if let Some(overlay) = &found.overlay {
            overlay.release(cx).await?;
        }
    }
    Ok(all)
}

/// One step: all of these disks, or none.
async fn settle(
    cx: &OpContext,
    step: &str,
    owner: &str,
    region: &str,
    disks: &[&FoundDisk],
) -> Result<Vec<Stored>, OpError> {
    // Held until the step has committed the references.
    let guard = guard(cx, region, owner).await?;
    cx.step_with(step, async {
        for base in disks.iter().filter_map(|found| found.base.as_ref()) {
            bring_base(cx, &guard, region, owner, manifest_id(&base.manifest)?).await?;
        }
        let overlays: Vec<_> = disks.iter().filter_map(|f| f.overlay.as_ref().map(|o| (o, f.size_bytes))).collect();
        let mut opened = open_all(cx, &overlays).await?.into_iter();
        let mut settled = Vec::new();
        let mut references = Vec::new();
        for FoundDisk { base, size_bytes, overlay, .. } in disks {
            let changes =
                overlay.as_ref().and_then(|_| opened.next()).unwrap_or_else(|| Arc::new(Unchanged(*size_bytes)));
            let under = base.as_ref().map(|b| manifest_id(&b.manifest)).transpose()?;
            let progress = Progress::new();
            let ingest = guard.region.ingest_over(under, changes, &progress, &cx.stop);
            let ingested = watched(cx, &progress, "reading the disk", ingest).await;
            let ingested = ingested.map_err(|e| store_op_error(cx, e, region))?;
            if let Some(overlay) = overlay {
                tracing::info!(
                    owner,
                    size_bytes,
                    running = overlay.live.is_some(),
                    changed_bytes = progress.total(),
                    new_bytes = ingested.new_bytes,
                    stored_bytes = ingested.stored_bytes,
                    "a disk's changes were captured"
                );
            }
            let stored = Stored { manifest: ingested.manifest.to_string(), size_bytes: *size_bytes };
            references.push(Change::PutContentRef(reference(owner, region, &stored.manifest)));
            settled.push(stored);
        }
        Ok((settled, references))
    })
    .await
}

/// Lets go of what `owner` holds in `region` besides `keep`: the bases of disks that were settled otherwise. For the end of an
/// operation, when all of its disks are settled.
pub(crate) async fn release_others(
    cx: &OpContext,
    owner: &str,
    region: &str,
    keep: impl Iterator<Item = &Stored>,
) -> Result<Vec<Change>, OpError> {
    let keep: Vec<&str> = keep.map(|s| s.manifest.as_str()).collect();
    let held = cx.engine.db().content_refs_of(owner).await.map_err(crate::db_error)?;
    let others = held.into_iter().filter(|r| r.region == region && !keep.contains(&r.manifest.as_str()));
    Ok(others.map(Change::DeleteContentRef).collect())
}

pub(crate) fn reference(owner: &str, region: &str, manifest: &str) -> ContentRef {
    ContentRef { resource_key: owner.to_owned(), region: region.to_owned(), manifest: manifest.to_owned() }
}

/// Frees what nothing refers to any more in these regions. A failure is logged, never the caller's: the references are gone,
/// and the next sweep of the region tries again.
pub(crate) async fn sweep(engine: &Engine, regions: impl IntoIterator<Item = String>) {
    for region in regions {
        let failed = |region: &str, error: &ArmError| {
            tracing::error!(region, %error, cause = ?error.cause, "unreferenced bytes were not freed; the next sweep tries again");
        };
        match sweep_region(engine, &region).await {
            Ok(stores) => stores.iter().for_each(|(store, collected)| match collected {
                Ok(freed) => {
                    tracing::info!(region = store, freed_bytes = freed.freed_bytes, "unreferenced bytes were freed")
                }
                Err(error) => failed(store, error),
            }),
            Err(error) => failed(&region, &error),
        }
    }
}

/// What became of the garbage of each store of a region, by the store's name.
pub type Swept = Vec<(String, Result<Collected, ArmError>)>;

/// Frees what nothing refers to any more in a region's stores. That one cannot be swept keeps no other from it.
pub(crate) async fn sweep_region(engine: &Engine, region: &str) -> Result<Swept, ArmError> {
    let failed = |e| store_error(e, region);
    let sweep = engine.regions().before_sweep(region).await.map_err(failed)?;
    let referenced = referenced(engine, region, &sweep.stores).await?;
    // Bytes of a disk that an index has lost may be in any store, and would be taken for garbage.
    if let Some(lost) = referenced.missing.iter().flatten().next() {
        return Err(failed(ChunkError::NotFound { what: format!("image {lost}"), region: region.to_owned() }));
    }
    let mut swept = Vec::new();
    for ((store, epoch), kept) in sweep.stores.iter().zip(&sweep.epochs).zip(referenced.kept) {
        let live: Vec<ManifestId> = kept.into_iter().collect();
        let collected = store.region.collect_garbage_since(*epoch, &live).await.map_err(failed);
        swept.push((store.boundary.store_name(region), collected));
    }
    Ok(swept)
}
