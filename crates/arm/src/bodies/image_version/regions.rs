//! `publishingProfile`: target regions, replica counts, storage types.

use super::super::{Context, Fields, RegionFacts, format_time, not_offered};
use super::end_of_life;
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const STORAGE_TYPES: [&str; 4] = ["Standard_LRS", "Standard_ZRS", "Premium_LRS", "PremiumV2_LRS"];
/// Who decides the storage type where nobody does (2025-03-03): zone-redundant wherever that is possible, or not.
const STRATEGIES: [&str; 2] = ["PreferStandard_ZRS", "DefaultStandard_LRS"];
/// Azure's limit of replicas (wire.md §3, limits).
const MAX_REPLICAS: i64 = 100;

/// One region of a stored body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRegion {
    /// Canonical short name, `eastus2`.
    pub name: String,
    pub display_name: String,
    pub replica_count: i64,
    pub storage_account_type: String,
    pub exclude_from_latest: bool,
}

/// The target regions of a stored body, in the order in which the client named them. A short name is the display name in
/// lower case without spaces: that is how the catalogue forms them.
pub fn target_regions(body: &Value) -> Vec<TargetRegion> {
    let regions = body["properties"]["publishingProfile"]["targetRegions"].as_array();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    regions
        .into_iter()
        .flatten()
        .map(|r| TargetRegion {
            name: short_name(&text(&r["name"])),
            display_name: text(&r["name"]),
            replica_count: r["regionalReplicaCount"].as_i64().unwrap_or(1),
            storage_account_type: text(&r["storageAccountType"]),
            exclude_from_latest: r["excludeFromLatest"] == true,
        })
        .collect()
}

fn short_name(display_name: &str) -> String {
    display_name.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase()
}

/// `home` is the version's own location; it must be among the regions (RP-3), and is the only one by default.
pub(in crate::bodies) fn publishing_profile(
    properties: &Fields<'_>,
    old: Option<&Value>,
    home: &RegionFacts,
    ctx: &Context<'_>,
) -> Result<Value, ArmError> {
    let given = properties.object("publishingProfile")?;
    let stored = old.map(|o| &o["publishingProfile"]);
    if given.objects("targetExtendedLocations")?.is_some_and(|l| !l.is_empty()) {
        return Err(not_offered(&given.path("targetExtendedLocations"), "this server has no edge zones"));
    }
    let mode = kept(&given, stored, "replicationMode", &["Full", "Shallow"])?;
    let strategy = kept(&given, stored, "storageAccountStrategy", &STRATEGIES)?;
    let zones_preferred = strategy.as_deref() == Some(STRATEGIES[0]);
    let storage_type = storage_type(&given, stored, home, strategy.as_deref())?;
    let stored_count = stored.and_then(|s| s["replicaCount"].as_i64());
    let replicas = given.int_within("replicaCount", 1, MAX_REPLICAS)?.or(stored_count).unwrap_or(1);

    let shallow = mode.as_deref() == Some("Shallow");
    if shallow && replicas != 1 {
        return Err(super::super::out_of_range(&given.path("replicaCount"), replicas, 1, 1));
    }
    let defaults = Defaults { replicas, storage_type: &storage_type, shallow, zones_preferred };
    let regions = regions(&given, stored, home, &defaults, ctx)?;
    let exclude = given.bool("excludeFromLatest")?.or(stored.and_then(|s| s["excludeFromLatest"].as_bool()));
    let published = stored.and_then(|s| s["publishedDate"].as_str()).map(str::to_owned);
    let ends = match end_of_life(&given, stored, ctx)? {
        Some(date) => Some(date),
        None if given.is_empty() => stored.and_then(|s| s["endOfLifeDate"].as_str()).map(str::to_owned),
        None => None,
    };

    let mut profile = Map::new();
    profile.insert("targetRegions".into(), Value::Array(regions));
    profile.insert("replicaCount".into(), replicas.into());
    profile.insert("excludeFromLatest".into(), exclude.unwrap_or(false).into());
    profile.insert("publishedDate".into(), published.unwrap_or_else(|| format_time(ctx.now)).into());
    if let Some(ends) = ends {
        profile.insert("endOfLifeDate".into(), ends.into());
    }
    profile.insert("storageAccountType".into(), storage_type.into());
    if let Some(mode) = mode {
        profile.insert("replicationMode".into(), mode.into());
    }
    if let Some(strategy) = strategy {
        profile.insert("storageAccountStrategy".into(), strategy.into());
    }
    Ok(Value::Object(profile))
}

/// The type of regions that name none. A strategy chooses it where none is given; both together are refused (swagger
/// 2026-03-03), but for the pair that is stored, which clients send back.
fn storage_type(
    given: &Fields<'_>,
    stored: Option<&Value>,
    home: &RegionFacts,
    strategy: Option<&str>,
) -> Result<String, ArmError> {
    let chosen = kept(given, stored, "storageAccountType", &STORAGE_TYPES)?;
    if stored.is_none() && chosen.is_some() && strategy.is_some() {
        let path = given.path("storageAccountStrategy");
        let message = format!("Parameter '{path}' is not allowed: it cannot be given along with storageAccountType.");
        return Err(ArmError::invalid_parameter(&path, message));
    }
    let preferred = if strategy == Some(STRATEGIES[0]) && home.zones { "Standard_ZRS" } else { "Standard_LRS" };
    Ok(chosen.unwrap_or_else(|| preferred.to_owned()))
}

/// A choice that is fixed at creation; an update without it keeps it.
fn kept(
    given: &Fields<'_>,
    stored: Option<&Value>,
    name: &str,
    choices: &[&'static str],
) -> Result<Option<String>, ArmError> {
    let chosen = given.one_of(name, choices)?;
    let Some(stored) = stored else { return Ok(chosen.map(str::to_owned)) };
    let old = stored[name].as_str();
    // A version without a mode was replicated in full.
    let effective = old.or((name == "replicationMode").then_some("Full"));
    match chosen {
        Some(chosen) if Some(chosen) != effective => Err(ArmError::property_change_not_allowed(&given.path(name))),
        _ => Ok(old.map(str::to_owned)),
    }
}

struct Defaults<'a> {
    replicas: i64,
    storage_type: &'a str,
    shallow: bool,
    /// Zone-redundant where the region has zones, whatever `storage_type` says.
    zones_preferred: bool,
}

fn regions(
    given: &Fields<'_>,
    stored: Option<&Value>,
    home: &RegionFacts,
    defaults: &Defaults<'_>,
    ctx: &Context<'_>,
) -> Result<Vec<Value>, ArmError> {
    let path = given.path("targetRegions");
    let old: &[Value] = stored.and_then(|s| s["targetRegions"].as_array()).map_or(&[], Vec::as_slice);
    let items = given.objects("targetRegions")?.filter(|items| !items.is_empty());
    let Some(items) = items else {
        if !old.is_empty() {
            return Ok(old.to_vec());
        }
        let own = json!({"name": home.name});
        return Ok(vec![region(&Fields::root(&path, &own)?, None, defaults, ctx)?]);
    };
    let mut regions: Vec<Value> = Vec::new();
    for item in &items {
        let new = region(item, Some(old), defaults, ctx)?;
        if regions.iter().any(|r| r["name"] == new["name"]) {
            return Err(ArmError::invalid_parameter(
                &path,
                "Duplicate regions are not allowed in target publishing regions.",
            ));
        }
        regions.push(new);
    }
    if !regions.iter().any(|r| r["name"] == home.display_name.as_str()) {
        let names: Vec<&str> = regions.iter().filter_map(|r| r["name"].as_str()).collect();
        return Err(ArmError::invalid_parameter(
            &path,
            format!(
                "Gallery image version publishing profile regions {} must contain the location of image version {}.",
                names.join(", "),
                home.name
            ),
        ));
    }
    Ok(regions)
}

fn region(
    item: &Fields<'_>,
    old: Option<&[Value]>,
    defaults: &Defaults<'_>,
    ctx: &Context<'_>,
) -> Result<Value, ArmError> {
    let text = item.required_str("name")?;
    let facts = ctx.regions.find(&text).ok_or_else(|| {
        ArmError::invalid_parameter(
            &item.path("name"),
            format!("The region '{text}' in target publishing regions is not the name of a known region."),
        )
    })?;
    refuse_what_is_missing(item)?;
    let count = item.int_within("regionalReplicaCount", 1, MAX_REPLICAS)?.unwrap_or(defaults.replicas);
    if defaults.shallow && count != 1 {
        return Err(super::super::out_of_range(&item.path("regionalReplicaCount"), count, 1, 1));
    }
    let before = old.and_then(|old| old.iter().find(|r| r["name"] == facts.display_name.as_str()));
    let before = before.and_then(|r| r["storageAccountType"].as_str());
    let chosen = item.one_of("storageAccountType", &STORAGE_TYPES)?;
    if let (Some(chosen), Some(before)) = (chosen, before)
        && chosen != before
    {
        return Err(ArmError::property_change_not_allowed(&item.path("storageAccountType")));
    }
    let by_default = match (defaults.zones_preferred, facts.zones) {
        (true, true) => "Standard_ZRS",
        (true, false) => "Standard_LRS",
        (false, _) => defaults.storage_type,
    };
    let storage_type = chosen.or(before).unwrap_or(by_default);
    if storage_type.ends_with("_ZRS") && !facts.zones {
        return Err(ArmError::invalid_parameter(
            &item.path("storageAccountType"),
            "ZRS storage account type is not supported in this region.",
        ));
    }
    let mut shown = json!({
        "name": facts.display_name,
        "regionalReplicaCount": count,
        "storageAccountType": storage_type,
    });
    if let Some(exclude) = item.bool("excludeFromLatest")? {
        shown["excludeFromLatest"] = exclude.into();
    }
    Ok(shown)
}

/// Since 2022-03-03 an update that leaves out a region of an artifact takes it away only where the safety profile allows it: a writer
/// that does not know all regions must not end the service of one. No regions at all means those that are there. (Azure's words:
/// hashicorp/terraform-provider-azurerm, pull request 21999.)
///
/// # Errors
/// 400 `BadRequest`.
pub(in crate::bodies) fn check_no_region_lost(
    id: &ResourceId,
    artifact: &str,
    new: &Value,
    old: Option<&Value>,
    ctx: &Context<'_>,
) -> Result<(), ArmError> {
    let names = |properties: &Value| -> Vec<Value> {
        let regions = properties["publishingProfile"]["targetRegions"].as_array();
        regions.into_iter().flatten().map(|r| r["name"].clone()).collect()
    };
    let allowed = new["safetyProfile"]["allowDeletionOfReplicatedLocations"] == true;
    let left = names(new);
    let lost = old.is_some_and(|old| names(old).iter().any(|name| !left.contains(name)));
    if !lost || allowed || !ctx.api_version.at_least("2022-03-03") {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "BadRequest",
        format!(
            "Complete set of target locations not specified while updating gallery artifact '{}' and type '{artifact}'. Deletion of \
             previously replicated locations is not allowed, and you need to specify a complete set of target locations in the \
             update request or specify null or empty set for target regions in the update request or set allow deletion of \
             replicated locations under safety profile property. To figure out complete set of target locations, you can perform a \
             get first on gallery artifact",
            id.name()
        ),
    ))
}

fn refuse_what_is_missing(item: &Fields<'_>) -> Result<(), ArmError> {
    if !item.object("encryption")?.is_empty() {
        return Err(not_offered(&item.path("encryption"), "this server has no disk encryption sets yet"));
    }
    if item.objects("additionalReplicaSets")?.is_some_and(|s| !s.is_empty()) {
        return Err(not_offered(&item.path("additionalReplicaSets"), "use regionalReplicaCount"));
    }
    Ok(())
}
