//! `Microsoft.Compute/galleries/images/versions`: image versions.
//!
//! ```text
//! publishingProfile  where the bytes go      regions.rs, replication.rs
//! storageProfile     where they come from    source.rs
//! safetyProfile      what guards them
//! securityProfile    UEFI keys               security.rs
//! restore            brings a deleted one back (2024-03-03)
//! ```

mod name;
mod regions;
mod replication;
mod security;
mod source;

pub use name::{VersionName, parse_name};
pub use regions::{TargetRegion, target_regions};
pub(super) use regions::{check_no_region_lost, publishing_profile};
pub use replication::{RegionProgress, ReplicationState, replication_status};
pub use source::{DataDisk, DiskOrBlob, Source, show_disks, source};

use super::{Context, Fields, Head, image_definition, merge_patch};
use crate::{ApiVersion, ArmError, ResourceId};
use serde_json::{Map, Value, json};

const ROOT: &str = "galleryImageVersion";

/// A new body, or an update. An update may leave out everything: what is absent is kept (recorded: a PUT with only a
/// location answers 200), and a source that is given must be the stored one.
///
/// Errors: `InvalidParameter` with the texts of the catalogue (mission: version); 409 `PropertyChangeNotAllowed` for the
/// source, LUNs, storage types of regions that exist, `storageAccountType`, `replicationMode`, `securityProfile`; `BadRequest`
/// where a region is left out and the safety profile does not allow it;
/// `OperationNotSupported` for disk encryption sets and edge zones, which this server does not have.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    id.name().parse::<VersionName>()?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    let old = old.map(|o| &o["properties"]);
    let mut properties = Map::new();
    properties.insert("publishingProfile".into(), regions::publishing_profile(&given, old, &head.region, ctx)?);
    properties.insert("storageProfile".into(), source::storage_profile(&given, old)?);
    properties.insert("safetyProfile".into(), safety_profile(&given, old)?);
    if let Some(security) = security::security_profile(&given, old)? {
        properties.insert("securityProfile".into(), security);
    }
    let body = head.body(vec![], properties);
    check_no_region_lost(id, "GalleryImageVersion", &body["properties"], old, ctx)?;
    Ok(body)
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

/// Whether a body for a version that is not there asks for the deleted one back: `properties.restore`, or nothing but a
/// location (what Azure documents for the soft deletion of galleries; wire.md §3).
pub fn asks_for_restore(body: &Value) -> Result<bool, ArmError> {
    let given = Fields::root(ROOT, body)?.object("properties")?;
    Ok(given.bool("restore")? == Some(true) || given.is_empty())
}

/// The tags of a body; `None` where it has none.
pub fn tags(body: &Value) -> Result<Option<Value>, ArmError> {
    Ok(super::check_tags(Fields::root(ROOT, body)?.get("tags"))?.map(Value::Object))
}

/// `allowDeletionOfReplicatedLocations` is `false` where nobody set it (recorded), and then keeps regions from being left out
/// ([`check_no_region_lost`]).
fn safety_profile(given: &Fields<'_>, old: Option<&Value>) -> Result<Value, ArmError> {
    let fields = given.object("safetyProfile")?;
    let stored = |name: &str| old.and_then(|o| o["safetyProfile"][name].as_bool());
    let of = |name: &str| Ok::<_, ArmError>(fields.bool(name)?.or(stored(name)));
    let mut profile = json!({
        "reportedForPolicyViolation": false,
        "allowDeletionOfReplicatedLocations": of("allowDeletionOfReplicatedLocations")?.unwrap_or(false),
    });
    if let Some(block) = of("blockDeletionBeforeEndOfLife")? {
        profile["blockDeletionBeforeEndOfLife"] = block.into();
    }
    Ok(profile)
}

/// Refused while `blockDeletionBeforeEndOfLife` holds (IV-12).
pub fn check_delete(body: &Value, now: jiff::Timestamp) -> Result<(), ArmError> {
    let properties = &body["properties"];
    let blocks = properties["safetyProfile"]["blockDeletionBeforeEndOfLife"] == true;
    let end = properties["publishingProfile"]["endOfLifeDate"].as_str().and_then(|t| t.parse().ok());
    if blocks && end.is_some_and(|end: jiff::Timestamp| end > now) {
        return Err(ArmError::conflict(
            "DeleteGalleryImageVersionBlockedBeforeEndOfLife",
            "Deletion of Gallery image version is not allowed because the image is enabled for \
             blockDeletionBeforeEndOfLife and its endOfLifeDate has not reached yet.",
        ));
    }
    Ok(())
}

/// What a GET wants to see of a version (`$expand`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expand {
    pub uefi_settings: bool,
    pub validations: bool,
}

/// The stored body as an api-version shows it: up to 2019-03-01 the source stood in `publishingProfile` (Packer), and the safety
/// profile is new with 2022-03-03 (recorded: 2020-09-30 shows none). The UEFI settings and the validations only for who asks.
pub fn show(body: &Value, api_version: &ApiVersion, expand: Expand) -> Value {
    let mut shown = body.clone();
    let properties = &mut shown["properties"];
    if !api_version.at_least("2019-07-01")
        && let Some(id) = properties["storageProfile"]["source"]["id"].as_str()
    {
        properties["publishingProfile"]["source"] = json!({"managedImage": {"id": id}});
    }
    if let Some(properties) = properties.as_object_mut() {
        if !expand.uefi_settings {
            properties.shift_remove("securityProfile");
        }
        if !api_version.at_least("2022-03-03") {
            properties.shift_remove("safetyProfile");
        }
    }
    if expand.validations {
        // This server runs no validations of its own, and says so.
        properties["validationsProfile"] = json!({
            "validationEtag": properties["publishingProfile"]["publishedDate"],
            "executedValidations": [],
            "platformAttributes": [],
        });
    }
    shown
}

/// Whether `latest` may choose this version in that region (GA: per-region and per-version exclusion).
pub fn is_latest_candidate(body: &Value, region: &str) -> bool {
    let profile = &body["properties"]["publishingProfile"];
    let here = target_regions(body).into_iter().find(|r| r.name == region);
    profile["excludeFromLatest"] != true && here.is_some_and(|r| !r.exclude_from_latest)
}

/// `None`: the source does not say. `fact` as the catalogue words it: `OS state`, `Hypervisor generation`, `OS type`.
fn check_source_fact(
    source_id: &str,
    fact: &str,
    of_source: Option<&str>,
    of_definition: &str,
) -> Result<(), ArmError> {
    match of_source {
        Some(found) if !found.eq_ignore_ascii_case(of_definition) => Err(ArmError::bad_request(
            "BadRequest",
            format!(
                "The resource with id '{source_id}' has a different {fact} ['{found}'] than the parent gallery image \
                 {fact} ['{of_definition}']."
            ),
        )),
        _ => Ok(()),
    }
}

/// What a source says of itself, as far as it says it; compared with the definition it becomes a version of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFacts {
    pub os_type: Option<String>,
    pub os_state: Option<String>,
    pub generation: Option<String>,
    pub architecture: Option<String>,
    /// `None`: the source has no say (a disk); `Some(None)`: it was made without a plan.
    pub plan: Option<Option<Value>>,
}

impl SourceFacts {
    /// Of a definition's stored body: all of them.
    pub fn of_definition(definition: &Value) -> Self {
        let properties = &definition["properties"];
        let of = |name: &str| properties[name].as_str().map(str::to_owned);
        Self {
            os_type: of("osType"),
            os_state: of("osState"),
            generation: of("hyperVGeneration"),
            architecture: of("architecture"),
            plan: Some(properties.get("purchasePlan").cloned()),
        }
    }

    /// Refuses a source that does not fit (GS-13, HV-4, ID-9): the texts of the catalogue, the first difference wins.
    pub fn check(&self, source_id: &str, definition: &Value) -> Result<(), ArmError> {
        let wanted = Self::of_definition(definition);
        for (fact, found, wanted) in [
            ("OS type", &self.os_type, &wanted.os_type),
            ("OS state", &self.os_state, &wanted.os_state),
            ("Hypervisor generation", &self.generation, &wanted.generation),
            ("architecture", &self.architecture, &wanted.architecture),
        ] {
            check_source_fact(source_id, fact, found.as_deref(), wanted.as_deref().unwrap_or_default())?;
        }
        match (&self.plan, wanted.plan.flatten()) {
            (Some(found), wanted) if !same_plan(found.as_ref(), wanted.as_ref()) => Err(ArmError::bad_request(
                "BadRequest",
                format!(
                    "The resource with id '{source_id}' has a different plan ['{}'] than the parent gallery image plan ['{}'].",
                    plan_text(found.as_ref()),
                    plan_text(wanted.as_ref())
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn same_plan(a: Option<&Value>, b: Option<&Value>) -> bool {
    let of =
        |plan: Option<&Value>, name: &str| plan.and_then(|p| p[name].as_str()).unwrap_or_default().to_ascii_lowercase();
    ["name", "publisher", "product"].iter().all(|name| of(a, name) == of(b, name))
}

fn plan_text(plan: Option<&Value>) -> String {
    plan.map_or_else(|| "null".to_owned(), Value::to_string)
}

pub(super) use image_definition::end_of_life;

#[cfg(test)]
mod tests;
