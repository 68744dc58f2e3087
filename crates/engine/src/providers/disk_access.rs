//! `Microsoft.Compute/diskAccesses`: metadata only. Private endpoints cannot be made here, so there are no connections.

use super::arm_context;
use crate::provider::{Context, DeletePlan, Plan, Provider};
use async_trait::async_trait;
use lazuli_arm::bodies::{disk, disk_access};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Resource, ResourceQuery};
use serde_json::{Value, json};

pub(crate) struct DiskAccess;

#[async_trait]
impl Provider for DiskAccess {
    fn resource_type(&self) -> &'static str {
        "Microsoft.Compute/diskAccesses"
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        body: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = disk_access::put(id, &body, old.map(|o| &o.body), &arm_context(cx))?;
        Ok(Plan { body, internal: json!({}), ..Plan::default() })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = disk_access::patch(id, &patch, &old.body, &arm_context(cx))?;
        Ok(Plan { body, internal: json!({}), ..Plan::default() })
    }

    /// Not while a disk or snapshot names it. A group takes its contents along in any order.
    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        if cx.call.caller.principal.is_empty() {
            return Ok(DeletePlan::default());
        }
        for kind in ["microsoft.compute/disks", "microsoft.compute/snapshots"] {
            let query = ResourceQuery {
                under: Some(ResourceId::subscription(&old.subscription).key()),
                kind: Some(kind.to_owned()),
                ..ResourceQuery::default()
            };
            let rows = cx.engine.all_rows(query).await?;
            if let Some(user) = rows.iter().find(|r| disk::disk_access(&r.body).is_some_and(|a| a.key() == old.key)) {
                return Err(ArmError::conflict(
                    "OperationNotAllowed",
                    format!(
                        "Disk access '{}' is used by '{}'. Change the networkAccessPolicy of that, then retry.",
                        old.name, user.id
                    ),
                ));
            }
        }
        Ok(DeletePlan::default())
    }

    fn views(&self) -> &'static [&'static str] {
        &["privateLinkResources"]
    }

    async fn view(&self, _cx: Context<'_>, row: &Resource, name: &str) -> Result<Option<Value>, ArmError> {
        let links = name.eq_ignore_ascii_case("privateLinkResources");
        Ok(links.then(|| disk_access::private_link_resources(&row.id)))
    }

    /// After the disks that name it.
    fn delete_rank(&self) -> u8 {
        60
    }
}

/// Connections come from private endpoints, of which there are none: lists are empty, nothing can be put.
pub(crate) struct PrivateEndpointConnection;

#[async_trait]
impl Provider for PrivateEndpointConnection {
    fn resource_type(&self) -> &'static str {
        "Microsoft.Compute/diskAccesses/privateEndpointConnections"
    }

    fn not_written(&self, id: &ResourceId) -> ArmError {
        ArmError::new(
            404,
            "ResourceNotFound",
            format!(
                "The private endpoint connection '{}' was not found: this server has no private endpoints that could have made it.",
                id.name()
            ),
        )
    }
}
