//! The first answer to a PUT of a disk, snapshot or disk access: what was asked for, not yet the resource.
//!
//! Azure has not made the resource when it answers, and shows the request's own properties (recorded: `test_vm_managed_disk`,
//! `test_snapshot_access`, …); the whole resource is the result of the operation. Values stand as they are kept, so that names
//! and spellings are the canonical ones. Nothing is shown that the client did not send, but for the identity of the resource.

use super::super::disk_tiers::is_provisioned;
use serde_json::{Map, Value};

/// Never taken from a request, thus never echoed.
const READ_ONLY: [&str; 6] =
    ["provisioningState", "diskState", "timeCreated", "uniqueId", "diskSizeBytes", "incrementalSnapshotFamilyId"];
/// Chosen by the client for some SKUs only (recorded: dropped from the answer for Standard_LRS).
const PERFORMANCE: [&str; 2] = ["diskIOPSReadWrite", "diskMBpsReadWrite"];
/// Echoed as sent: the SKU may have no such tier, and the resource then shows none (recorded).
const TIER: &str = "tier";

/// `sent` is the request's body, `resource` the resource as a GET shows it.
pub fn echo(sent: &Value, resource: &Value) -> Value {
    let mut shown = Map::new();
    for name in ["name", "id", "type", "location"] {
        shown.insert(name.to_owned(), resource[name].clone());
    }
    let provisioned = resource["sku"]["name"].as_str().is_some_and(is_provisioned);
    for (name, value) in common(sent, resource) {
        if name == "managedBy" || shown.contains_key(&name) {
            continue;
        }
        let value = if name == "properties" { properties(sent, value, provisioned) } else { value };
        shown.insert(name, value);
    }
    Value::Object(shown)
}

fn properties(sent: &Value, common: Value, provisioned: bool) -> Value {
    let Value::Object(mut properties) = common else { return common };
    properties.retain(|name, _| {
        !READ_ONLY.contains(&name.as_str()) && (provisioned || !PERFORMANCE.contains(&name.as_str()))
    });
    let tier = member(sent, "properties").and_then(|p| member(p, TIER)).filter(|tier| tier.is_string());
    if let Some(tier) = tier {
        properties.insert(TIER.to_owned(), tier.clone());
    }
    Value::Object(properties)
}

/// The members of `kept` that `sent` has as well, at every depth, in the order of `sent`.
fn common(sent: &Value, kept: &Value) -> Map<String, Value> {
    let mut both = Map::new();
    let (Value::Object(sent), Value::Object(kept)) = (sent, kept) else { return both };
    for (name, value) in sent.iter().filter(|(_, value)| !value.is_null()) {
        let Some((name, kept)) = kept.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)) else { continue };
        let shown = if value.is_object() && kept.is_object() && name != "tags" {
            Value::Object(common(value, kept))
        } else {
            kept.clone()
        };
        both.insert(name.clone(), shown);
    }
    both
}

fn member<'a>(of: &'a Value, name: &str) -> Option<&'a Value> {
    of.as_object()?.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(sku: &str) -> Value {
        json!({
            "name": "d1", "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d1",
            "type": "Microsoft.Compute/disks", "location": "westus", "tags": {"tag1": "d1"}, "managedBy": "/vm",
            "sku": {"name": sku, "tier": "Standard"},
            "properties": {
                "creationData": {"createOption": "Copy", "sourceResourceId": "/d0", "sourceUniqueId": "u0"},
                "diskSizeGB": 10, "diskIOPSReadWrite": 500, "diskMBpsReadWrite": 60,
                "encryption": {"type": "EncryptionAtRestWithPlatformKey"}, "networkAccessPolicy": "AllowAll",
                "timeCreated": "t", "provisioningState": "Succeeded", "diskState": "Unattached",
                "diskSizeBytes": 10_737_418_240_u64, "uniqueId": "u1",
            },
        })
    }

    /// The second PUT of `test_vm_managed_disk`.
    #[test]
    fn a_write_is_answered_with_what_was_sent() {
        let sent = json!({"location": "West US", "Tags": {"tag1": "d1"}, "sku": {"name": "standard_lrs"}, "zones": null,
            "properties": {"creationData": {"createOption": "copy", "sourceResourceId": "/d0"}, "diskSizeGB": "10",
                "diskIOPSReadWrite": 120, "networkaccesspolicy": "allowall", "tier": "P1", "uniqueId": "u9", "unknown": 1}});
        let shown = echo(&sent, &resource("Standard_LRS"));
        insta::assert_json_snapshot!(shown, @r#"
        {
          "name": "d1",
          "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d1",
          "type": "Microsoft.Compute/disks",
          "location": "westus",
          "tags": {
            "tag1": "d1"
          },
          "sku": {
            "name": "Standard_LRS"
          },
          "properties": {
            "creationData": {
              "createOption": "Copy",
              "sourceResourceId": "/d0"
            },
            "diskSizeGB": 10,
            "networkAccessPolicy": "AllowAll",
            "tier": "P1"
          }
        }
        "#);
    }

    #[test]
    fn performance_is_shown_where_it_was_chosen() {
        let sent = json!({"properties": {"diskIOPSReadWrite": 500}});
        assert_eq!(echo(&sent, &resource("UltraSSD_LRS"))["properties"], json!({"diskIOPSReadWrite": 500}));
        assert_eq!(echo(&sent, &resource("Premium_LRS"))["properties"], json!({}));
    }

    #[test]
    fn what_has_no_properties_shows_none() {
        let sent = json!({"location": "westus"});
        let shown = echo(&sent, &resource("Standard_LRS"));
        assert_eq!((shown.get("properties"), shown.get("tags"), shown.get("managedBy")), (None, None, None));
    }
}
