//! `Microsoft.Compute/galleries/images/versions`: decides where a version's bytes come from and where they go;
//! `operations/image_version_*.rs` bring them there.
//!
//! ```text
//! PUT new       sources are checked and referenced in the same transaction    ─> image_version.create
//!               a soft-deleted version of that name is asked back             ─> image_version.update
//! PUT existing  target regions may differ                                     ─> image_version.update
//! DELETE        references go and bytes are freed, or the version is kept     ─> image_version.delete
//!               aside (providers/soft_deleted_version.rs)
//! ```
//! Updates may come while an earlier one is at work: each has an operation of its own, which waits for the earlier ones and then
//! brings about what the row says by then. `If-Match` keeps writers from dropping each other's regions.

mod source;

pub(crate) use source::{VersionSource, check_size};

use super::{arm_context, by_number, content_etag, soft_deleted_version};
use crate::provider::{Context, DeletePlan, Plan, Provider, Start, standard_view};
use crate::regions::Regions;
use crate::stored::{ImageVersionInternal, RegionState, internal, to_internal};
use crate::write::{busy, is_busy};
use async_trait::async_trait;
use lazuli_arm::bodies::image_version::{
    self, Expand, RegionProgress, ReplicationState, TargetRegion, replication_status, target_regions,
};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/galleries/images/versions";

pub(crate) struct ImageVersion;

/// Parameters of `image_version.delete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteVersion {
    /// Keep it aside for so many days.
    pub retention_days: Option<i64>,
}

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
        if old.is_none()
            && let Some(plan) = restore(cx, id, &body).await?
        {
            return Ok(plan);
        }
        let body = image_version::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        plan(cx, id, body, old).await
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = image_version::patch(id, &patch, &old.body, &arm_context(cx))?;
        plan(cx, id, body, Some(old)).await
    }

    /// Swagger example `GalleryImageVersion_Update_RestoreSoftDeleted`.
    async fn patch_absent(&self, cx: Context<'_>, id: &ResourceId, patch: &Value) -> Result<Option<Plan>, ArmError> {
        if image_version::asks_for_restore(patch)? { restore(cx, id, patch).await } else { Ok(None) }
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let now = jiff::Timestamp::from_millisecond(cx.now_ms).map_err(ArmError::internal)?;
        image_version::check_delete(&old.body, now)?;
        let bypass = cx.call.query.get("bypasssoftdelete").is_some_and(|b| b.eq_ignore_ascii_case("true"));
        let policy = soft_deleted_version::policy(cx.engine, &old.id).await?;
        let params = DeleteVersion { retention_days: (policy.enabled && !bypass).then_some(policy.retention_days) };
        let params = serde_json::to_value(params).map_err(ArmError::internal)?;
        Ok(DeletePlan { start: Some(Start { kind: "image_version.delete", params }), changes: vec![] })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let expand = Expand {
            uefi_settings: cx.call.expands("UefiSettings"),
            validations: cx.call.expands("ValidationProfile") || cx.call.expands("ValidationsProfile"),
        };
        let shown = Resource { body: image_version::show(&row.body, &cx.call.api_version, expand), ..row.clone() };
        let mut view = standard_view(KIND, &shown);
        if cx.call.expands("ReplicationStatus") {
            let state: ImageVersionInternal = internal(row)?;
            view["properties"]["replicationStatus"] =
                replication_status(&progress(cx.engine.regions(), &row.body, &state));
        }
        Ok(view)
    }

    /// Regions that are completed meanwhile are no other writer.
    fn etag(&self, row: &Resource) -> String {
        content_etag(row)
    }

    /// Numbers, not text: 1.0.10 comes after 1.0.9.
    fn sort_key(&self, key: &str) -> String {
        by_number(key)
    }

    fn views(&self) -> &'static [&'static str] {
        &["build"]
    }

    async fn view(&self, cx: Context<'_>, row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        if !name.eq_ignore_ascii_case("build") {
            return Ok(None);
        }
        crate::build_record::view(cx.engine, row).await
    }

    fn delete_rank(&self) -> u8 {
        20
    }

    fn update_title(&self) -> &'static str {
        "Update Gallery Image Version"
    }

    fn writable_while_running(&self) -> bool {
        true
    }
}

/// The soft-deleted version of that name, if it is asked back; `None` where there is none.
async fn restore(cx: Context<'_>, id: &ResourceId, body: &Value) -> Result<Option<Plan>, ArmError> {
    match soft_deleted_version::find(cx, id).await? {
        Some(deleted) if image_version::asks_for_restore(body)? => {
            soft_deleted_version::restore(cx, id, deleted, body).await.map(Some)
        }
        Some(deleted) => Err(soft_deleted_version::name_kept(&deleted)),
        None => Ok(None),
    }
}

async fn plan(cx: Context<'_>, id: &ResourceId, mut body: Value, old: Option<&Resource>) -> Result<Plan, ArmError> {
    let mut state: ImageVersionInternal = old.map_or_else(|| Ok(ImageVersionInternal::default()), internal)?;
    for region in target_regions(&body) {
        let known = state.regions.entry(canonical(cx, &region.display_name)?).or_default();
        if known.state.is_empty() || known.state == "Failed" {
            *known = RegionState { state: "Unknown".into(), ..RegionState::default() };
        }
    }
    if state.os_disk.is_some() {
        let start = Start { kind: "image_version.update", params: json!({}) };
        return Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes: vec![] });
    }
    // Its sources are being read: only when they were may anything be changed.
    if let Some(old) = old.filter(|o| is_busy(o)) {
        return Err(busy(old));
    }
    // New, or an attempt that failed before the sources were read: that is made anew.
    let source::Sources { source, changes, uefi_settings } = source::find(cx, id, &body).await?;
    if body["properties"].get("securityProfile").is_none() && !uefi_settings.is_null() {
        body["properties"]["securityProfile"] = json!({"uefiSettings": uefi_settings});
    }
    let params = serde_json::to_value(&source).map_err(ArmError::internal)?;
    let start = Start { kind: "image_version.create", params };
    Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes })
}

/// The short name of a region as a body shows it.
pub(crate) fn canonical(cx: Context<'_>, display_name: &str) -> Result<String, ArmError> {
    let found = arm_context(cx).regions.find(display_name);
    found.map(|r| r.name).ok_or_else(|| ArmError::internal(format!("'{display_name}' was stored, but is no region")))
}

/// What `$expand=ReplicationStatus` tells: one line a target region, in the client's order.
pub(super) fn progress(regions: &Regions, body: &Value, state: &ImageVersionInternal) -> Vec<RegionProgress> {
    let of = |target: TargetRegion| {
        let name = lazuli_arm::locations::normalize(&target.display_name).map(|l| l.name).unwrap_or_default();
        let known = state.regions.get(name).cloned().unwrap_or_default();
        let completed = known.state == "Completed";
        let copies = regions.independent_copies(name);
        RegionProgress {
            state: match known.state.as_str() {
                "Completed" => ReplicationState::Completed,
                "Failed" => ReplicationState::Failed,
                "Replicating" => ReplicationState::Replicating,
                _ => ReplicationState::Unknown,
            },
            details: if completed { copies_in_words(&target, copies) } else { known.details },
            display_name: target.display_name,
            bytes_done: known.done_bytes,
            bytes_total: known.total_bytes,
        }
    };
    target_regions(body).into_iter().map(of).collect()
}

/// What the region's store does not keep of what was asked for; nothing if it keeps everything.
fn copies_in_words(target: &TargetRegion, copies: i64) -> String {
    let mut words = Vec::new();
    if target.replica_count > copies {
        words.push(format!(
            "{copies} of {} replicas exist: this region's storage keeps {copies} independent {}.",
            target.replica_count,
            if copies == 1 { "copy" } else { "copies" }
        ));
    }
    if target.storage_account_type.ends_with("_ZRS") && copies < 2 {
        words.push("The bytes are in one place: this region's storage is not spread over zones.".to_owned());
    }
    words.join(" ")
}
