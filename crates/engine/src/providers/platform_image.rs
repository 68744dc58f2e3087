//! `Lazuli.Images/platformImages`: what the operator publishes. Its bytes come from a managed disk, are replicated as those of an
//! image version, and stay until it is unpublished; disks and machines made from it keep their own references.

use super::arm_context;
use super::image_version::canonical;
use crate::platform_images::KIND;
use crate::provider::{Context, DeletePlan, Plan, Provider, Start, standard_view};
use crate::sources::{SourceDisk, disk_or_snapshot};
use crate::stored::{ImageVersionInternal, RegionState, internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::image_version::target_regions;
use lazuli_arm::bodies::platform_image::{self, Urn};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource, ResourceQuery};
use serde_json::{Value, json};

pub(crate) struct PlatformImage;

#[async_trait]
impl Provider for PlatformImage {
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
        cx.engine.authorize_operator(cx.call, &id.subscription).await?;
        let body = platform_image::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        plan(cx, id, body, old).await
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        cx.engine.authorize_operator(cx.call, &id.subscription).await?;
        let body = platform_image::patch(id, &patch, &old.body, &arm_context(cx))?;
        plan(cx, id, body, Some(old)).await
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        cx.engine.authorize_operator(cx.call, &old.subscription).await?;
        Ok(DeletePlan { start: Some(Start { kind: "platform_image.delete", params: json!({}) }), changes: vec![] })
    }

    /// With the state of each region: whoever publishes wants to know.
    async fn show(&self, _cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        let state: ImageVersionInternal = internal(row)?;
        let regions = view["properties"]["publishingProfile"]["targetRegions"].as_array_mut();
        for region in regions.into_iter().flatten() {
            let name = region["name"].as_str().and_then(lazuli_arm::locations::normalize).map(|l| l.name);
            let known = name.and_then(|n| state.regions.get(n));
            region["state"] = json!(known.map_or("Unknown", |k| k.state.as_str()));
        }
        Ok(view)
    }
}

async fn plan(cx: Context<'_>, id: &ResourceId, body: Value, old: Option<&Resource>) -> Result<Plan, ArmError> {
    if old.is_none() {
        check_unique(cx, id).await?;
    }
    let mut state: ImageVersionInternal = old.map_or_else(|| Ok(ImageVersionInternal::default()), internal)?;
    for region in target_regions(&body) {
        let known = state.regions.entry(canonical(cx, &region.display_name)?).or_default();
        if known.state != "Completed" {
            *known = RegionState { state: "Unknown".into(), ..RegionState::default() };
        }
    }
    if state.os_disk.is_some() {
        let start = Start { kind: "platform_image.update", params: json!({}) };
        return Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes: vec![] });
    }
    let home = body["location"].as_str().unwrap_or_default().to_owned();
    let source = body["properties"]["storageProfile"]["osDiskImage"]["source"]["id"].as_str().unwrap_or_default();
    let source: ResourceId = source.parse().map_err(ArmError::internal)?;
    let SourceDisk { found, row } = disk_or_snapshot(cx, &source, &home).await?;
    let mut changes = vec![Change::RequireResource { key: row.key }];
    changes.extend(found.references(&id.key(), &home));
    let start = Start { kind: "platform_image.create", params: to_internal(&found) };
    Ok(Plan { body, internal: to_internal(&state), start: Some(start), changes })
}

/// A URN means one image on the whole server, whatever subscription it was published from.
async fn check_unique(cx: Context<'_>, id: &ResourceId) -> Result<(), ArmError> {
    let wanted: Urn = id.name().parse()?;
    let query = ResourceQuery { kind: Some(KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
    let rows = cx.engine.all_rows(query).await?;
    let taken = rows.iter().any(|r| r.key != id.key() && r.name.parse::<Urn>().is_ok_and(|u| u == wanted));
    if taken {
        return Err(ArmError::conflict("Conflict", format!("The platform image '{wanted}' is published already.")));
    }
    Ok(())
}
