//! What the bodies of resources may say: one file a resource type.
//!
//! A check takes the body a client sent and the body that is stored (`None` for a new resource) and gives back the
//! body to store: defaults filled in, names in their canonical case, read-only and unknown properties dropped,
//! immutable ones compared. Names of properties are read ignoring case, `null` counts as absent, and numbers and
//! booleans may come as strings: clients do all of that (az-cli.md §2.8–2.10).
//!
//! Nothing here does I/O or looks at another resource: what needs the parent, the source or the store (a duplicate
//! identifier, a source that does not exist) is checked by the engine. `id`, `name`, `type`, `etag` and
//! `properties.provisioningState` are never part of a stored body.

mod catalogue;
mod disk_tiers;
mod fields;
mod offered;
mod tags;
mod time;

pub mod application;
pub mod application_version;
pub mod availability_set;
pub mod blob_container;
pub mod blob_service;
pub mod disk;
pub mod disk_access;
pub mod federated_identity_credential;
pub mod gallery;
pub mod image_definition;
pub mod image_template;
pub mod image_template_trigger;
pub mod image_version;
pub mod managed_identity;
pub mod managed_image;
pub mod network_interface;
pub mod network_security_group;
pub mod platform_image;
pub mod public_ip_address;
pub mod resource_group;
pub mod shared_gallery;
pub mod snapshot;
pub mod storage_account;
pub mod user_assigned_identity;
pub mod virtual_machine;
pub mod virtual_machine_extension;
pub mod virtual_machine_scale_set;
pub mod virtual_network;

pub use catalogue::Catalogue;
pub use fields::Fields;
pub use tags::check_tags;
pub use time::{format_time, parse_time};

use crate::{ApiVersion, ArmError, ResourceId, locations};
use serde_json::{Map, Value};

/// What is known of a region when a body names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionFacts {
    /// Canonical short name, `eastus2`.
    pub name: String,
    /// `East US 2`; target regions are shown by it (wire.md §3).
    pub display_name: String,
    /// Whether the region has availability zones (RP-5).
    pub zones: bool,
}

/// The catalogue of regions. `find` takes short and display names in any letter case, with or without spaces (RP-6).
pub trait Regions: Sync {
    fn find(&self, text: &str) -> Option<RegionFacts>;
}

/// What a check needs besides the bodies.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub api_version: &'a ApiVersion,
    pub regions: &'a dyn Regions,
    /// The time of the request.
    pub now: jiff::Timestamp,
    /// A new unique id, used where a created resource needs one (`uniqueId` of a disk).
    pub new_id: uuid::Uuid,
    /// Accept an `endOfLifeDate` in the past (trap T4: printed samples have such dates). Off unless configured.
    pub allow_past_end_of_life: bool,
}

/// Location and tags of a tracked resource, checked.
pub(crate) struct Head {
    pub region: RegionFacts,
    pub tags: Option<Map<String, Value>>,
}

impl Head {
    /// Both are read from the top of the body. Without a location an update keeps its old one.
    pub fn read(id: &ResourceId, new: &Fields<'_>, old: Option<&Value>, ctx: &Context<'_>) -> Result<Self, ArmError> {
        let old_location = old.and_then(|o| o["location"].as_str());
        let given = new.str("location")?.filter(|l| !l.trim().is_empty());
        let Some(text) = given.as_deref().or(old_location) else {
            return Err(ArmError::bad_request(
                "LocationRequired",
                "The location property is required for this definition.",
            ));
        };
        let region = ctx.regions.find(text).ok_or_else(|| {
            ArmError::bad_request(
                "LocationNotAvailableForResourceType",
                format!(
                    "The provided location '{text}' is not available for resource type '{}'. \
                     List of available regions for the resource type is '{}'.",
                    id.resource_type(),
                    locations::names()
                ),
            )
        })?;
        if let Some(old) = old_location
            && !old.eq_ignore_ascii_case(&region.name)
        {
            return Err(ArmError::conflict(
                "InvalidResourceLocation",
                format!(
                    "The resource '{}' already exists in location '{old}' in resource group '{}'. A resource with the \
                     same name cannot be created in location '{}'. Please select a new resource name.",
                    id.name(),
                    id.resource_group.as_deref().unwrap_or_default(),
                    region.name
                ),
            ));
        }
        Ok(Self { region, tags: check_tags(new.get("tags"))? })
    }

    /// `{location, tags?, <middle…>, properties}` in the order in which Azure shows them.
    pub fn body(self, middle: Vec<(&str, Value)>, properties: Map<String, Value>) -> Value {
        let mut body = Map::new();
        body.insert("location".into(), self.region.name.into());
        if let Some(tags) = self.tags {
            body.insert("tags".into(), Value::Object(tags));
        }
        body.extend(middle.into_iter().map(|(k, v)| (k.to_owned(), v)));
        body.insert("properties".into(), Value::Object(properties));
        Value::Object(body)
    }
}

/// RFC 7396: what `patch` says replaces what `target` has, `null` removes, objects merge. Names are matched ignoring
/// case, as everywhere in bodies.
pub fn merge_patch(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut merged = target.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        let name = merged.keys().find(|k| k.eq_ignore_ascii_case(name)).unwrap_or(name).clone();
        if value.is_null() {
            merged.shift_remove(&name);
        } else {
            let old = merged.get(&name).cloned().unwrap_or(Value::Null);
            merged.insert(name, merge_patch(&old, value));
        }
    }
    Value::Object(merged)
}

/// `PropertyChangeNotAllowed` when a value was given that is not the stored one. Strings compare ignoring case.
pub(crate) fn unchanged(path: &str, given: Option<&Value>, old: Option<&Value>) -> Result<(), ArmError> {
    match given {
        Some(given) if !same(given, old.unwrap_or(&Value::Null)) => Err(ArmError::property_change_not_allowed(path)),
        _ => Ok(()),
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.eq_ignore_ascii_case(b),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(v, w)| same(v, w)),
        _ => a == b,
    }
}

/// Zones of a resource that may be in `most` of them: numbers of this region's own.
pub(crate) fn check_zones(
    id: &ResourceId,
    zones: &[String],
    most: usize,
    region: &RegionFacts,
) -> Result<(), ArmError> {
    const ZONES: [&str; 3] = ["1", "2", "3"];
    let (kind, name) = (id.resource_type(), &region.name);
    let bad = |code: &str, message: String| Err(ArmError::bad_request(code, message).target("zones"));
    if !region.zones {
        let message = format!(
            "The zone(s) '{}' for resource '{kind}/{}' is not supported. The location '{name}' has no availability zones.",
            zones.join(","),
            id.name()
        );
        return bad("AvailabilityZoneNotSupported", message);
    }
    if zones.iter().any(|zone| !ZONES.contains(&zone.as_str())) {
        let message = format!(
            "The zone(s) '{}' for resource '{kind}/{}' is not supported. The supported zones for location '{name}' are '{}'",
            zones.join(","),
            id.name(),
            ZONES.join(",")
        );
        return bad("InvalidAvailabilityZone", message);
    }
    if zones.len() > most {
        let message = format!("The resource '{kind}/{}' is in one zone; {} are given.", id.name(), zones.len());
        return bad("InvalidAvailabilityZone", message);
    }
    Ok(())
}

/// An honest refusal of what Azure has and this server does not do: better than to accept and ignore it.
pub(crate) fn not_offered(path: &str, what: &str) -> ArmError {
    ArmError::bad_request("OperationNotSupported", format!("Parameter '{path}' is not supported: {what}.")).target(path)
}

/// The text of Azure's catalogue for numbers out of range.
pub(crate) fn out_of_range(path: &str, value: i64, low: i64, high: i64) -> ArmError {
    ArmError::invalid_parameter(
        path,
        format!(
            "The value {value} of parameter {path} is out of range. The value must be between {low} and {high}, inclusive."
        ),
    )
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn merge_patch_follows_the_rfc() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (target, patch, expected) in cases {
            assert_eq!(merge_patch(&target, &patch), expected);
        }
    }

    #[test]
    fn merge_patch_ignores_the_case_of_names_and_keeps_the_stored_one() {
        let merged = merge_patch(&json!({"Tags": {"a": "1"}}), &json!({"tags": {"b": "2"}}));
        assert_eq!(merged, json!({"Tags": {"a": "1", "b": "2"}}));
        assert_eq!(merge_patch(&json!({"Tags": 1}), &json!({"tags": null})), json!({}));
    }
}
