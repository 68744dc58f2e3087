//! `Microsoft.Compute/diskAccesses`: what private endpoints to disks would be made on. This server has no private endpoints, so
//! the list of their connections is always empty.

use super::disk::{check_named, no_edge_zone};
use super::{Context, Fields, Head, format_time, merge_patch};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

/// A new body in its settled form, or an update: only tags can change.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_named("diskAccessName", "disk access", id.name())?;
    let new = Fields::root("diskAccess", new)?;
    let head = Head::read(id, &new, old, ctx)?;
    no_edge_zone(&new)?;
    let created = old.and_then(|o| o["properties"].get("timeCreated")).cloned();
    let mut properties = Map::new();
    properties.insert("timeCreated".into(), created.unwrap_or_else(|| format_time(ctx.now).into()));
    Ok(head.body(vec![], properties))
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

/// `GET {diskAccess}/privateLinkResources`. `id` as shown.
pub fn private_link_resources(id: &str) -> Value {
    json!({"value": [{
        "id": format!("{id}/privateLinkResources/disks"),
        "name": "disks",
        "type": "Microsoft.Compute/diskAccesses/privateLinkResources",
        "properties": {
            "groupId": "disks",
            "requiredMembers": ["diskAccess_1"],
            "requiredZoneNames": ["privatelink.blob.core.windows.net"],
        },
    }]})
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, id, version};
    use super::*;

    #[test]
    fn only_tags_change() {
        let api = version("2025-01-02");
        let id = id("diskAccesses/a1");
        let made = put(&id, &json!({"location": "West US"}), None, &context(&api)).unwrap();
        assert_eq!(
            made,
            json!({"location": "westus", "properties": {"timeCreated": "2026-01-02T03:04:05.1234567+00:00"}})
        );
        let tagged = patch(&id, &json!({"tags": {"a": "b"}}), &made, &context(&api)).unwrap();
        assert_eq!((&tagged["tags"], &tagged["properties"]), (&json!({"a": "b"}), &made["properties"]));
        let moved = put(&id, &json!({"location": "eastus"}), Some(&made), &context(&api));
        assert_eq!(moved.unwrap_err().code, "InvalidResourceLocation");
    }
}
