//! `Microsoft.Compute/snapshots`.
//!
//! ```text
//! createOption  needs                          ready
//! Empty         diskSizeGB                     at once
//! Copy          creationData.sourceResourceId  at once; a disk that a VM wrote is captured first
//! CopyStart     the same, in another region    completionPercent grows to 100; incremental snapshots only
//! Import        creationData.sourceUri         at once
//! ```
//! Incremental snapshots of one disk share `incrementalSnapshotFamilyId`; what differs between two of them can be asked for.

use super::disk::{
    DiskState, Kind, check_named, completion_percent, creation_data, described, gib_of, no_edge_zone, no_zones, size,
    sku_of,
};
use super::disk_tiers::sku_tier;
use super::{Context, Fields, Head, format_time, merge_patch, unchanged};
use crate::{ApiVersion, ArmError, ResourceId};
use serde_json::{Map, Value, json};

const ROOT: &str = "snapshot";
const SKUS: [&str; 3] = ["Standard_LRS", "Premium_LRS", "Standard_ZRS"];
/// Set by the engine; an update keeps them.
const KEPT: [&str; 7] = [
    "timeCreated",
    "completionPercent",
    "copyCompletionError",
    "diskState",
    "diskSizeBytes",
    "uniqueId",
    "incrementalSnapshotFamilyId",
];
/// From this api-version on, `snapshotAccessState` is shown.
const ACCESS_STATE_SINCE: &str = "2025-01-02";

/// A new body in its settled form, or an update. The size of a snapshot made of something else may be absent: the engine then
/// calls [`set_size`] once it knows the source's.
///
/// Errors: as those of disks; 409 `PropertyChangeNotAllowed` for `creationData`, `incremental`, `hyperVGeneration`.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_named("snapshotName", "snapshot", id.name())?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    no_edge_zone(&new)?;
    let given = new.object("properties")?;
    let stored = old.map(|o| &o["properties"]);
    let sku = sku_of(&new, old, &SKUS)?.unwrap_or("Standard_LRS");
    if sku.ends_with("_ZRS") && !head.region.zones {
        return Err(no_zones("snapshot.sku.name", sku, &head.region.display_name));
    }
    let mut properties = described(&given, stored)?;
    let creation = creation_data(&given, stored, Kind::Snapshot, sku)?;
    let bytes = size(&given, stored, &creation)?;
    let incremental = incremental(&given, stored, &creation)?;
    properties.insert("creationData".into(), creation);
    properties.insert("incremental".into(), incremental.into());
    match stored {
        Some(stored) => {
            for name in KEPT {
                if let Some(value) = stored.get(name) {
                    properties.insert(name.into(), value.clone());
                }
            }
        }
        None => {
            properties.insert("timeCreated".into(), format_time(ctx.now).into());
            properties.insert("diskState".into(), DiskState::Unattached.as_str().into());
            properties.insert("uniqueId".into(), ctx.new_id.to_string().into());
        }
    }
    let mut body = head.body(vec![("sku", json!({"name": sku, "tier": sku_tier(sku)}))], properties);
    if let Some(bytes) = bytes {
        set_size(&mut body, bytes);
    }
    Ok(body)
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

/// Gives a stored body its size in bytes.
pub fn set_size(body: &mut Value, bytes: u64) {
    body["properties"]["diskSizeGB"] = gib_of(bytes).into();
    body["properties"]["diskSizeBytes"] = bytes.into();
}

pub fn is_incremental(body: &Value) -> bool {
    body["properties"]["incremental"] == true
}

/// What all incremental snapshots of one disk share; `None` for full ones.
pub fn family(body: &Value) -> Option<&str> {
    body["properties"]["incrementalSnapshotFamilyId"].as_str().filter(|_| is_incremental(body))
}

pub fn set_family(body: &mut Value, family: &str) {
    body["properties"]["incrementalSnapshotFamilyId"] = family.into();
}

/// Adds to a shown body what only newer clients know.
pub fn show(view: &mut Value, api_version: &ApiVersion) {
    if !api_version.at_least(ACCESS_STATE_SINCE) {
        return;
    }
    let available = completion_percent(view).is_none_or(|percent| percent >= 100.0);
    view["properties"]["snapshotAccessState"] = if available { "Available" } else { "Pending" }.into();
}

/// Fixed when the snapshot is made. Only incremental ones travel between regions.
fn incremental(given: &Fields<'_>, stored: Option<&Value>, creation: &Value) -> Result<bool, ArmError> {
    let wanted = given.bool("incremental")?;
    let path = given.path("incremental");
    if let Some(stored) = stored {
        unchanged(&path, wanted.map(Value::from).as_ref(), stored.get("incremental"))?;
        return Ok(stored["incremental"] == true);
    }
    match (creation["createOption"].as_str(), wanted) {
        // Absent: as the example of the Swagger has it.
        (Some("CopyStart"), None) => Ok(true),
        (Some("CopyStart"), Some(false)) => {
            Err(ArmError::invalid_parameter(&path, "A snapshot with createOption 'CopyStart' must be incremental."))
        }
        (Some("Copy"), Some(true)) | (_, Some(false) | None) => Ok(wanted == Some(true)),
        (Some("CopyStart"), Some(true)) => Ok(true),
        (_, Some(true)) => Err(ArmError::invalid_parameter(
            &path,
            "Only a snapshot of a disk (createOption 'Copy' or 'CopyStart') can be incremental.",
        )),
    }
}

/// What a snapshot takes over from its source, where the client said nothing.
pub const INHERITED: [&str; 6] =
    ["osType", "hyperVGeneration", "purchasePlan", "supportedCapabilities", "supportsHibernation", "securityProfile"];

/// Takes over from a source's properties what the client did not say.
pub fn inherit(body: &mut Value, source: &Value) {
    let Some(properties) = body["properties"].as_object_mut() else { return };
    let taken: Map<String, Value> = INHERITED
        .iter()
        .filter(|name| properties.get(**name).is_none_or(Value::is_null))
        .filter_map(|name| Some(((*name).to_owned(), source.get(*name).filter(|v| !v.is_null())?.clone())))
        .collect();
    properties.extend(taken);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, id, version};
    use super::*;

    const DISK: &str = "/subscriptions/0000/resourceGroups/rg1/providers/Microsoft.Compute/disks/d0";

    fn write(new: &Value, old: Option<&Value>) -> Result<Value, ArmError> {
        let api = version("2023-10-02");
        put(&id("snapshots/s1"), new, old, &context(&api))
    }

    fn copy(extra: &Value) -> Value {
        let properties = json!({"creationData": {"createOption": "Copy", "sourceResourceId": DISK}});
        json!({"location": "westus", "properties": merge_patch(&properties, extra)})
    }

    #[test]
    fn an_empty_snapshot_as_recorded() {
        let new = json!({"location": "westus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1},
            "sku": {"name": "Premium_LRS"}, "tags": {"tag1": "s1"}});
        let stored = write(&new, None).unwrap();
        insta::assert_json_snapshot!(stored, @r#"
        {
          "location": "westus",
          "tags": {
            "tag1": "s1"
          },
          "sku": {
            "name": "Premium_LRS",
            "tier": "Premium"
          },
          "properties": {
            "encryption": {
              "type": "EncryptionAtRestWithPlatformKey"
            },
            "networkAccessPolicy": "AllowAll",
            "publicNetworkAccess": "Enabled",
            "creationData": {
              "createOption": "Empty"
            },
            "incremental": false,
            "timeCreated": "2026-01-02T03:04:05.1234567+00:00",
            "diskState": "Unattached",
            "uniqueId": "00000000-0000-0000-0000-000000000011",
            "diskSizeGB": 1,
            "diskSizeBytes": 1073741824
          }
        }
        "#);
        // The recorded update, and what was stored sent back.
        let update = json!({"location": "westus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1,
            "encryption": {"type": "EncryptionAtRestWithPlatformKey"}, "incremental": false,
            "networkAccessPolicy": "AllowAll", "publicNetworkAccess": "Enabled"}, "sku": {"name": "Standard_LRS"},
            "tags": {"tag1": "s1"}});
        let updated = write(&update, Some(&stored)).unwrap();
        assert_eq!(updated["sku"], json!({"name": "Standard_LRS", "tier": "Standard"}));
        assert_eq!(updated["properties"], stored["properties"]);
        assert_eq!(write(&stored, Some(&stored)).unwrap(), stored);
    }

    #[test]
    fn copies_take_over_what_was_not_said() {
        let mut stored = write(&copy(&json!({"incremental": true, "osType": "windows"})), None).unwrap();
        let source = json!({"osType": "Linux", "hyperVGeneration": "V2", "securityProfile": {"securityType": "TrustedLaunch"},
            "diskIOPSReadWrite": 500});
        inherit(&mut stored, &source);
        set_size(&mut stored, 20 << 20);
        set_family(&mut stored, "f");
        let p = &stored["properties"];
        assert_eq!((&p["osType"], &p["hyperVGeneration"]), (&json!("Windows"), &json!("V2")));
        assert_eq!((p.get("diskIOPSReadWrite"), &p["diskSizeGB"]), (None, &json!(1)));
        assert_eq!((family(&stored), is_incremental(&stored)), (Some("f"), true));
        assert_eq!(write(&stored, Some(&stored)).unwrap(), stored);

        let api = version("2025-01-02");
        let grow = json!({"properties": {"diskSizeGB": 20, "supportedCapabilities": {"acceleratedNetwork": false}}});
        let grown = patch(&id("snapshots/s1"), &grow, &stored, &context(&api)).unwrap();
        let p = &grown["properties"];
        assert_eq!(
            (&p["diskSizeGB"], &p["supportedCapabilities"]),
            (&json!(20), &json!({"acceleratedNetwork": false}))
        );
        let mut view = grown;
        show(&mut view, &api);
        assert_eq!(view["properties"]["snapshotAccessState"], "Available");
    }

    #[test]
    fn refuses_bad_snapshots() {
        let of = |properties: Value| json!({"location": "westus", "properties": properties});
        let start = |incremental: bool| {
            of(json!({"incremental": incremental,
                "creationData": {"createOption": "CopyStart", "sourceResourceId": DISK.trim_start_matches('/')}}))
        };
        assert_eq!(write(&start(true), None).unwrap()["properties"]["creationData"]["sourceResourceId"], DISK);
        for (new, code) in [
            (start(false), "InvalidParameter"),
            (of(json!({})), "InvalidParameter"),
            (of(json!({"creationData": {"createOption": "Empty"}})), "InvalidParameter"),
            (
                of(json!({"creationData": {"createOption": "Empty"}, "diskSizeGB": 1, "incremental": true})),
                "InvalidParameter",
            ),
            (of(json!({"creationData": {"createOption": "Import"}})), "InvalidParameter"),
            (
                of(json!({"creationData": {"createOption": "Upload", "uploadSizeBytes": 20_972_032}})),
                "OperationNotSupported",
            ),
            (of(json!({"creationData": {"createOption": "Copy", "sourceResourceId": "x"}})), "InvalidParameter"),
            (copy(&json!({"encryption": {"diskEncryptionSetId": "x"}})), "OperationNotSupported"),
            (copy(&json!({"networkAccessPolicy": "AllowPrivate"})), "InvalidParameter"),
        ] {
            assert_eq!(write(&new, None).unwrap_err().code, code, "{new}");
        }
        let mut zrs = copy(&json!({}));
        zrs["sku"] = json!({"name": "Standard_ZRS"});
        assert!(write(&zrs, None).unwrap_err().message.contains("it has no availability zones"));
        let old = write(&copy(&json!({})), None).unwrap();
        for properties in [json!({"incremental": true}), json!({"creationData": {"createOption": "Empty"}})] {
            let error = write(&of(properties), Some(&old)).unwrap_err();
            assert_eq!(error.code, "PropertyChangeNotAllowed");
        }
    }
}
