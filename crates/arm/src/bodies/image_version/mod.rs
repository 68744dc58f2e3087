//! `Microsoft.Compute/galleries/images/versions`: image versions.
//!
//! ```text
//! publishingProfile  where the bytes go      regions.rs
//! storageProfile     where they come from    source.rs
//! safetyProfile      what guards them
//! ```

mod name;
mod regions;
mod replication;
mod source;

pub use name::{VersionName, parse_name};
pub use regions::{TargetRegion, target_regions};
pub use replication::{RegionProgress, ReplicationState, replication_status};
pub use source::{DataDisk, DiskOrBlob, Source, source};

use super::{Context, Fields, Head, image_definition, merge_patch, not_offered};
use crate::{ApiVersion, ArmError, ResourceId};
use serde_json::{Map, Value, json};

const ROOT: &str = "galleryImageVersion";

/// A new body, or an update. An update may leave out everything: what is absent is kept (recorded: a PUT with only a
/// location answers 200), and a source that is given must be the stored one.
///
/// Errors: `InvalidParameter` with the texts of the catalogue (mission: version); 409 `PropertyChangeNotAllowed` for the
/// source, LUNs, storage types of regions that exist, `storageAccountType`, `replicationMode`; `OperationNotSupported`
/// for disk encryption sets, edge zones and soft-deleted versions, which this server does not have.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    id.name().parse::<VersionName>()?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    let old = old.map(|o| &o["properties"]);
    if given.bool("restore")? == Some(true) {
        return Err(not_offered(&given.path("restore"), "this server has no soft delete yet"));
    }
    let mut properties = Map::new();
    properties.insert("publishingProfile".into(), regions::publishing_profile(&given, old, &head.region, ctx)?);
    properties.insert("storageProfile".into(), source::storage_profile(&given, old)?);
    properties.insert("safetyProfile".into(), safety_profile(&given, old)?);
    Ok(head.body(vec![], properties))
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

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

/// The stored body as an api-version shows it: up to 2019-03-01 the source stood in `publishingProfile` (Packer).
pub fn show(body: &Value, api_version: &ApiVersion) -> Value {
    let mut shown = body.clone();
    if !api_version.at_least("2019-07-01")
        && let Some(id) = body["properties"]["storageProfile"]["source"]["id"].as_str()
    {
        shown["properties"]["publishingProfile"]["source"] = json!({"managedImage": {"id": id}});
    }
    shown
}

/// Whether `latest` may choose this version in that region (GA: per-region and per-version exclusion).
pub fn is_latest_candidate(body: &Value, region: &str) -> bool {
    let profile = &body["properties"]["publishingProfile"];
    let here = target_regions(body).into_iter().find(|r| r.name == region);
    profile["excludeFromLatest"] != true && here.is_some_and(|r| !r.exclude_from_latest)
}

/// Checks a source against the definition it becomes a version of. `None`: the source does not say.
///
/// `name` of a fact as the catalogue words it: `OS state`, `Hypervisor generation`, `OS type`.
pub fn check_source_fact(
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

/// The OS facts of a definition's stored body: type, state, generation.
pub fn definition_facts(definition: &Value) -> (String, String, String) {
    let of = |name: &str| definition["properties"][name].as_str().unwrap_or_default().to_owned();
    (of("osType"), of("osState"), of("hyperVGeneration"))
}

pub(super) use image_definition::end_of_life;

#[cfg(test)]
mod tests;
