//! `Microsoft.Compute/galleries/applications/versions`: decides where the package is and which regions get it;
//! `operations/replicas.rs` brings it there. The bytes are shared with the blob that the client names, and outlive it.

use super::image_version::{canonical, progress};
use super::{arm_context, by_number, content_etag};
use crate::provider::{Context, DeletePlan, Plan, Provider, Start, standard_view};
use crate::sources::take_over;
use crate::storage::package;
use crate::stored::{ImageVersionInternal, RegionState, internal, to_internal};
use async_trait::async_trait;
use lazuli_arm::bodies::application_version;
use lazuli_arm::bodies::image_version::{replication_status, target_regions};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Compute/galleries/applications/versions";

pub(crate) struct ApplicationVersion;

#[async_trait]
impl Provider for ApplicationVersion {
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
        let body = application_version::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        plan(cx, id, body, old).await
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = application_version::patch(id, &patch, &old.body, &arm_context(cx))?;
        plan(cx, id, body, Some(old)).await
    }

    async fn delete(&self, _cx: Context<'_>, _old: &Resource) -> Result<DeletePlan, ArmError> {
        Ok(DeletePlan { start: Some(Start { kind: "application_version.delete", params: json!({}) }), changes: vec![] })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
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
    let mut changes = Vec::new();
    if state.files.is_empty() {
        let home = body["location"].as_str().unwrap_or_default();
        let (link, configuration) = application_version::links(&body);
        for uri in std::iter::once(link).chain(configuration) {
            let (file, holder) = package::file(cx, uri, home).await?;
            changes.extend(file.stored.iter().flat_map(|s| take_over(Some(&holder), &id.key(), home, s)));
            state.files.push(file);
        }
    }
    let kind = if old.is_some() { "application_version.update" } else { "application_version.create" };
    Ok(Plan { body, internal: to_internal(&state), start: Some(Start { kind, params: json!({}) }), changes })
}
