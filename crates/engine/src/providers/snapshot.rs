//! `Microsoft.Compute/snapshots`: a disk's bytes at one moment. A snapshot shares the chunks of its source, so it costs a row;
//! what a machine wrote is captured by `snapshot.create`, another region's bytes come with `snapshot.copy`.
//!
//! Incremental snapshots of one disk are a family: the page-range diff between two of them is told from their manifests.

use super::arm_context;
use super::disk;
use super::disk::source::{self, Owner, Source, fit, take_over};
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider};
use crate::stored::{DiskInternal, internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::disk::{Origin, origin, size_bytes};
use lazuli_arm::bodies::snapshot;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde_json::Value;
use uuid::{Builder, Uuid};

const KIND: &str = "Microsoft.Compute/snapshots";

pub(crate) struct Snapshot;

#[async_trait]
impl Provider for Snapshot {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        body: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = snapshot::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        match old {
            Some(old) => update(cx, body, old).await,
            None => create(cx, id, body).await,
        }
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        update(cx, snapshot::patch(id, &patch, &old.body, &arm_context(cx))?, old).await
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        disk::delete(cx, old).await
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = disk::show(cx, KIND, row).await?;
        snapshot::show(&mut view, &cx.call.api_version);
        Ok(view)
    }

    fn actions(&self) -> &'static [&'static str] {
        &["beginGetAccess", "endGetAccess"]
    }

    async fn action(&self, cx: Context<'_>, row: &Resource, action: &str, body: Value) -> Result<ActionPlan, ArmError> {
        disk::act(cx, row, action, &body).await
    }

    fn delete_rank(&self) -> u8 {
        50
    }
}

async fn create(cx: Context<'_>, id: &ResourceId, mut body: Value) -> Result<Plan, ArmError> {
    let location = body["location"].as_str().unwrap_or_default().to_owned();
    let mut state = DiskInternal { unique_id: disk::unique_id(&body), ..DiskInternal::default() };
    let mut changes = disk::check_disk_access(cx, &body, None).await?;
    let origin = origin(&body).ok_or_else(|| ArmError::internal("a snapshot without an origin was planned"))?;
    if origin == Origin::Empty {
        state.size_bytes = size_bytes(&body).unwrap_or_default();
    }
    let mut start = None;
    if let Some(source) = source::find(cx, id, &origin, &location).await? {
        check_travel(&source)?;
        state.size_bytes = fit("snapshot.properties.diskSizeGB", size_bytes(&body), source.found.size_bytes)?;
        snapshot::set_size(&mut body, state.size_bytes);
        if snapshot::is_incremental(&body) {
            snapshot::set_family(&mut body, &family(&source, &location).to_string());
            lazuli_arm::bodies::disk::set_completion_percent(&mut body, 100.0);
        }
        let owner = Owner::new(id, &location, "snapshot.create", "snapshot.copy");
        let arrival = take_over(&source, &owner, &mut body, &mut state)?;
        changes.extend(arrival.changes);
        start = arrival.start;
    }
    Ok(Plan { body, internal: to_internal(&state), start, changes })
}

/// Between regions go incremental snapshots only.
fn check_travel(source: &Source) -> Result<(), ArmError> {
    match &source.row {
        Some(row) if source.background && !snapshot::is_incremental(&row.body) => Err(ArmError::invalid_parameter(
            "snapshot.properties.creationData.sourceResourceId",
            format!(
                "The source of a snapshot with createOption 'CopyStart' must be an incremental snapshot: '{}' is not.",
                row.id
            ),
        )),
        _ => Ok(()),
    }
}

/// The family of a new incremental snapshot: that of the incremental snapshot it copies, else its disk's. Copies in another
/// region are a family of their own.
fn family(source: &Source, location: &str) -> Uuid {
    let properties = &source.properties;
    let own = source.row.as_ref().and_then(|row| snapshot::family(&row.body)).map(str::to_owned);
    let root = own.unwrap_or_else(|| format!("family of {}", properties["uniqueId"].as_str().unwrap_or_default()));
    if source.region == location
        && let Ok(same) = root.parse()
    {
        return same;
    }
    let text = if source.region == location { root } else { format!("{root} in {location}") };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    Builder::from_random_bytes(bytes).into_uuid()
}

async fn update(cx: Context<'_>, body: Value, old: &Resource) -> Result<Plan, ArmError> {
    disk::check_made(old)?;
    let changes = disk::check_disk_access(cx, &body, Some(&old.body)).await?;
    let mut state: DiskInternal = internal(old)?;
    disk::resize(&body, old, &mut state)?;
    Ok(Plan { body, internal: to_internal(&state), start: None, changes })
}
