//! `Microsoft.Compute/galleries/images/versions`: decides where a version's bytes come from and where they go;
//! `operations/image_version_*.rs` bring them there.
//!
//! ```text
//! PUT new       source is checked and referenced in the same transaction ─> image_version.create
//! PUT existing  target regions may differ                                ─> image_version.update
//! DELETE        references go, bytes are freed                           ─> image_version.delete
//! ```

use super::arm_context;
use crate::db_error;
use crate::provider::{Context, DeletePlan, Plan, Provider, Start, standard_view};
use crate::sources::{FoundDisk, SourceDisk, disk_or_snapshot};
use crate::stored::{ImageVersionInternal, RegionState, internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::image_version::{
    self, DiskOrBlob, RegionProgress, ReplicationState, Source, VersionName, check_source_fact, definition_facts,
    replication_status, target_regions,
};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde_json::{Value, json};
use std::cmp::Ordering;

const KIND: &str = "Microsoft.Compute/galleries/images/versions";

pub(crate) struct ImageVersion;

#[async_trait]
impl Provider for ImageVersion {
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
        let body = image_version::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        plan(cx, id, body, old).await
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = image_version::patch(id, &patch, &old.body, &arm_context(cx))?;
        plan(cx, id, body, Some(old)).await
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let now = jiff::Timestamp::from_millisecond(cx.now_ms).map_err(ArmError::internal)?;
        image_version::check_delete(&old.body, now)?;
        Ok(DeletePlan { start: Some(Start { kind: "image_version.delete", params: json!({}) }), changes: vec![] })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let shown = Resource { body: image_version::show(&row.body, &cx.call.api_version), ..row.clone() };
        let mut view = standard_view(KIND, &shown);
        if cx.call.expands("ReplicationStatus") {
            let state: ImageVersionInternal = internal(row)?;
            view["properties"]["replicationStatus"] = replication_status(&progress(&row.body, &state));
        }
        Ok(view)
    }

    /// Numbers, not text: 1.0.10 comes after 1.0.9.
    fn order(&self, a: &Resource, b: &Resource) -> Ordering {
        let number = |r: &Resource| r.name.parse::<VersionName>().ok();
        a.parent.cmp(&b.parent).then(number(a).cmp(&number(b))).then_with(|| a.key.cmp(&b.key))
    }

    fn delete_rank(&self) -> u8 {
        20
    }
}

async fn plan(cx: Context<'_>, id: &ResourceId, body: Value, old: Option<&Resource>) -> Result<Plan, ArmError> {
    let mut state: ImageVersionInternal = old.map_or_else(|| Ok(ImageVersionInternal::default()), internal)?;
    for region in target_regions(&body) {
        let known = state.regions.entry(canonical(cx, &region.display_name)?).or_default();
        if known.state != "Completed" {
            *known = RegionState { state: "Unknown".into(), ..RegionState::default() };
        }
    }
    if state.os_disk.is_some() {
        let start = Start { kind: "image_version.update", params: json!({}) };
        return Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes: vec![] });
    }
    // New, or an attempt that failed before the source was read: that is made anew.
    let home = body["location"].as_str().unwrap_or_default().to_owned();
    let (found, source_row) = find_source(cx, id, &body, &home).await?;
    let mut changes = vec![Change::RequireResource { key: source_row.key }];
    changes.extend(found.references(&id.key(), &home));
    let params = serde_json::to_value(&found).map_err(ArmError::internal)?;
    let start = Start { kind: "image_version.create", params };
    Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes })
}

/// The short name of a region as a body shows it.
pub(crate) fn canonical(cx: Context<'_>, display_name: &str) -> Result<String, ArmError> {
    let found = arm_context(cx).regions.find(display_name);
    found.map(|r| r.name).ok_or_else(|| ArmError::internal(format!("'{display_name}' was stored, but is no region")))
}

/// The one source of a body: it must exist, be in the version's region, and fit the definition.
async fn find_source(
    cx: Context<'_>,
    id: &ResourceId,
    body: &Value,
    home: &str,
) -> Result<(FoundDisk, Resource), ArmError> {
    let definition = id.parent().unwrap_or_else(|| id.clone()).key();
    let definition = cx.engine.db().resource(&definition).await.map_err(db_error)?;
    let definition = definition.ok_or_else(|| ArmError::parent_not_found(id.name()))?;
    match image_version::source(body) {
        Some(Source::Disks { os: Some(DiskOrBlob::Resource(disk)), data }) if data.is_empty() => {
            from_disk(cx, &disk, &definition, home).await
        }
        Some(Source::Disks { data, .. }) if !data.is_empty() => {
            Err(unsupported("dataDiskImages", "this server's image versions have no data disks yet"))
        }
        Some(Source::Disks { .. }) => Err(unsupported(
            "osDiskImage.source.uri",
            "upload the VHD to a managed disk, then name that disk as the source",
        )),
        Some(Source::Resource(source)) if source.resource_type().key() == KIND.to_ascii_lowercase() => {
            from_version(cx, &source, &definition, home).await
        }
        Some(Source::Resource(source) | Source::VirtualMachine(source)) => {
            let row = readable_source(cx, &source, home).await?;
            let kind = source.resource_type();
            Err(unsupported(
                "source.id",
                &format!(
                    "'{}' is a {kind}; this server makes versions of managed disks and of other versions",
                    row.name
                ),
            ))
        }
        None => Err(ArmError::internal("a version without a source was stored")),
    }
}

fn unsupported(member: &str, why: &str) -> ArmError {
    let path = format!("galleryImageVersion.properties.storageProfile.{member}");
    ArmError::bad_request("OperationNotSupported", format!("Parameter '{path}' is not supported: {why}.")).target(path)
}

/// The row of a source that the caller may read and that is in the version's region (IV-10, IV-17).
async fn readable_source(cx: Context<'_>, source: &ResourceId, home: &str) -> Result<Resource, ArmError> {
    let right = format!("{}/read", source.resource_type());
    cx.engine.authorize(&cx.call.caller, &source.key(), &right).await?;
    let row = cx.engine.db().resource(&source.key()).await.map_err(db_error)?;
    let version = source.resource_type().key() == KIND.to_ascii_lowercase();
    row.filter(|r| version || r.location == home).ok_or_else(|| source_not_found(source))
}

fn source_not_found(source: &ResourceId) -> ArmError {
    ArmError::new(
        404,
        "NotFound",
        format!(
            "Source {source} is not found. Please check source exists, and is in the same region as gallery image version \
             being created."
        ),
    )
    .target(source.to_string())
}

async fn from_disk(
    cx: Context<'_>,
    id: &ResourceId,
    definition: &Resource,
    home: &str,
) -> Result<(FoundDisk, Resource), ArmError> {
    let row = readable_source(cx, id, home).await?;
    if row.kind != "microsoft.compute/disks" {
        return Err(source_not_found(id));
    }
    let (os_type, _, generation) = definition_facts(&definition.body);
    let of_disk = |name: &str| row.body["properties"][name].as_str();
    check_source_fact(&row.id, "OS type", of_disk("osType"), &os_type)?;
    check_source_fact(&row.id, "Hypervisor generation", of_disk("hyperVGeneration"), &generation)?;
    let SourceDisk { found, row } = disk_or_snapshot(cx, id, home).await?;
    Ok((found, row))
}

async fn from_version(
    cx: Context<'_>,
    id: &ResourceId,
    definition: &Resource,
    home: &str,
) -> Result<(FoundDisk, Resource), ArmError> {
    let row = readable_source(cx, id, home).await?;
    let state: ImageVersionInternal = internal(&row)?;
    let here = state.regions.get(home).is_some_and(|r| r.state == "Completed");
    let (Some(stored), true) = (state.os_disk, here) else {
        return Err(source_not_found(id));
    };
    let of_source = match &row.parent {
        Some(parent) => cx.engine.db().resource(parent).await.map_err(db_error)?,
        None => None,
    };
    if let Some(of_source) = of_source {
        let (os_type, os_state, generation) = definition_facts(&definition.body);
        let (source_type, source_state, source_generation) = definition_facts(&of_source.body);
        check_source_fact(&row.id, "OS type", Some(&source_type), &os_type)?;
        check_source_fact(&row.id, "OS state", Some(&source_state), &os_state)?;
        check_source_fact(&row.id, "Hypervisor generation", Some(&source_generation), &generation)?;
    }
    Ok((FoundDisk::stored(stored), row))
}

/// What `$expand=ReplicationStatus` tells: one line a target region, in the client's order.
fn progress(body: &Value, state: &ImageVersionInternal) -> Vec<RegionProgress> {
    let of = |display_name: String| {
        let name = lazuli_arm::locations::normalize(&display_name).map(|l| l.name);
        let known = name.and_then(|n| state.regions.get(n)).cloned().unwrap_or_default();
        RegionProgress {
            display_name,
            state: match known.state.as_str() {
                "Completed" => ReplicationState::Completed,
                "Failed" => ReplicationState::Failed,
                "Replicating" => ReplicationState::Replicating,
                _ => ReplicationState::Unknown,
            },
            details: known.details,
            bytes_done: known.done_bytes,
            bytes_total: known.total_bytes,
        }
    };
    target_regions(body).into_iter().map(|r| of(r.display_name)).collect()
}
