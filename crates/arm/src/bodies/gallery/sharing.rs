//! `sharingProfile`: with whom a gallery is shared. What these then see of it is in `shared_gallery.rs`.
//!
//! ```text
//! Private   <──> Groups      by PUT, as long as nobody is in the groups;   POST share {Add|Remove} changes the groups
//! Community                  only at creation;                             POST share {EnableCommunity} opens it
//!    any     ──> Private     by POST share {Reset} (recorded)
//! ```

use super::super::{Context, Fields, unchanged};
use crate::ArmError;
use serde_json::{Map, Value, json};
use uuid::Uuid;

const PERMISSIONS: [&str; 3] = ["Private", "Groups", "Community"];
const GROUP_TYPES: [&str; 2] = ["Subscriptions", "AADTenants"];
const OPERATIONS: [&str; 4] = ["Add", "Remove", "Reset", "EnableCommunity"];
/// Limits of direct sharing (wire.md §3).
const MAX_SUBSCRIPTIONS: usize = 30;
const MAX_TENANTS: usize = 5;

/// Who sees a gallery without any right in its subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    Subscription(String),
    Tenant(String),
    /// Whoever is signed in, in any tenant.
    Everybody,
}

/// Everybody that a stored gallery is shared with.
pub fn audiences(body: &Value) -> Vec<Audience> {
    let profile = &body["properties"]["sharingProfile"];
    let mut found = Vec::new();
    for group in profile["groups"].as_array().into_iter().flatten() {
        let ids = group["ids"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        match group["type"].as_str() {
            Some("Subscriptions") => found.extend(ids.map(Audience::Subscription)),
            Some("AADTenants") => found.extend(ids.map(Audience::Tenant)),
            _ => {}
        }
    }
    if profile["communityGalleryInfo"]["communityGalleryEnabled"] == true {
        found.push(Audience::Everybody);
    }
    found
}

/// Whether it is shared with anybody: such a gallery must be reset before it can be deleted (wire.md §3).
pub fn is_shared(body: &Value) -> bool {
    !audiences(body).is_empty()
}

/// The stored body as a GET shows it: the groups only for who asks (`$select=Permissions`, `$expand=SharingProfile/Groups`).
pub fn show(body: &Value, with_groups: bool) -> Value {
    let mut shown = body.clone();
    if !with_groups && let Some(profile) = shown["properties"].get_mut("sharingProfile").and_then(Value::as_object_mut)
    {
        profile.shift_remove("groups");
    }
    shown
}

/// What a PUT makes of `properties.sharingProfile`; what it does not say stays. `old`: the stored properties.
pub(super) fn profile(
    properties: &Fields<'_>,
    old: Option<&Value>,
    ctx: &Context<'_>,
) -> Result<Option<Value>, ArmError> {
    let fields = properties.object("sharingProfile")?;
    let stored = old.and_then(|o| o.get("sharingProfile"));
    let wanted = fields.one_of("permissions", &PERMISSIONS)?;
    let info = fields.object("communityGalleryInfo")?;
    if wanted.is_none() && info.is_empty() {
        return Ok(stored.cloned());
    }
    let before = permissions(stored);
    let now = wanted.unwrap_or(before);
    let groups = stored.and_then(|s| s.get("groups"));
    let may_change = matches!((before, now), ("Private", "Groups") | ("Groups", "Private")) && groups.is_none();
    if old.is_some() && now != before && !may_change {
        return Err(ArmError::property_change_not_allowed(&fields.path("permissions")));
    }
    let mut shown = json!({"permissions": now});
    if let Some(groups) = groups {
        shown["groups"] = groups.clone();
    }
    if now == "Community" {
        shown["communityGalleryInfo"] = community(&info, stored.and_then(|s| s.get("communityGalleryInfo")), ctx)?;
    } else if !info.is_empty() {
        let path = fields.path("communityGalleryInfo");
        return Err(ArmError::invalid_parameter(&path, format!("Parameter '{path}' is not allowed.")));
    }
    Ok(Some(shown))
}

fn permissions(stored: Option<&Value>) -> &'static str {
    let stored = stored.and_then(|s| s["permissions"].as_str()).unwrap_or("Private");
    PERMISSIONS.into_iter().find(|p| *p == stored).unwrap_or("Private")
}

/// All four are needed once; the public name is made of the prefix and a new id, and both stay (recorded).
fn community(info: &Fields<'_>, stored: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    let text = |name: &str| {
        let kept = || stored.and_then(|s| s[name].as_str()).map(str::to_owned);
        Ok::<_, ArmError>(info.str(name)?.filter(|t| !t.trim().is_empty()).or_else(kept))
    };
    let needed = |name: &str| text(name)?.ok_or_else(|| info.missing(name));
    let prefix = needed("publicNamePrefix")?;
    let path = info.path("publicNamePrefix");
    if !(5..=16).contains(&prefix.len()) || !prefix.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(ArmError::invalid_parameter(
            &path,
            format!("The value '{prefix}' of parameter {path} is invalid: 5 to 16 letters and digits are expected."),
        ));
    }
    if let Some(stored) = stored {
        unchanged(&path, Some(&json!(prefix)), stored.get("publicNamePrefix"))?;
    }
    let names = stored.and_then(|s| s.get("publicNames")).cloned();
    Ok(json!({
        "communityGalleryEnabled": stored.is_some_and(|s| s["communityGalleryEnabled"] == true),
        "publisherUri": needed("publisherUri")?,
        "publisherContact": needed("publisherContact")?,
        "eula": needed("eula")?,
        "publicNamePrefix": prefix,
        "publicNames": names.unwrap_or_else(|| json!([format!("{prefix}-{}", ctx.new_id)])),
    }))
}

/// `POST …/share`: the body to store, and what the operation answers (swagger `SharingUpdate`).
///
/// Errors: `InvalidParameter` for what is missing, malformed or too much; 409 `OperationNotAllowed` where the gallery's
/// permissions do not allow it.
pub fn share(body: &Value, request: &Value) -> Result<(Value, Value), ArmError> {
    let given = Fields::root("sharingUpdate", request)?;
    let operation = given.one_of("operationType", &OPERATIONS)?.ok_or_else(|| given.missing("operationType"))?;
    let stored = &body["properties"]["sharingProfile"];
    let now = permissions(Some(stored));
    let mut result = json!({"operationType": operation});
    let profile = match operation {
        "Reset" => json!({"permissions": "Private"}),
        "EnableCommunity" if now == "Community" => {
            let mut profile = stored.clone();
            profile["communityGalleryInfo"]["communityGalleryEnabled"] = true.into();
            profile
        }
        "EnableCommunity" => return Err(not_in_this_state(operation, now, "Community")),
        _ if now != "Groups" => return Err(not_in_this_state(operation, now, "Groups")),
        _ => {
            let change = groups(&given)?;
            let mut held = stored_groups(stored);
            for (kind, ids) in &change {
                let members = held.entry((*kind).to_owned()).or_insert_with(|| json!([]));
                update_members(members, ids, operation == "Add");
            }
            check_limits(&given, &held)?;
            result["groups"] = change.iter().map(|(kind, ids)| json!({"type": kind, "ids": ids})).collect();
            let held: Vec<Value> = GROUP_TYPES
                .iter()
                .filter_map(|kind| {
                    Some(json!({"type": kind, "ids": held.get(*kind).filter(|ids| **ids != json!([]))?}))
                })
                .collect();
            if held.is_empty() { json!({"permissions": now}) } else { json!({"permissions": now, "groups": held}) }
        }
    };
    let mut shared = body.clone();
    shared["properties"]["sharingProfile"] = profile;
    Ok((shared, result))
}

fn not_in_this_state(operation: &str, now: &str, needed: &str) -> ArmError {
    ArmError::conflict(
        "OperationNotAllowed",
        format!(
            "The sharing operation '{operation}' is not allowed on a gallery whose sharing permissions are '{now}': they must \
             be '{needed}' (properties.sharingProfile.permissions)."
        ),
    )
    .target("operationType")
}

/// The groups of a request: at least one, with at least one id each, every id a GUID.
fn groups(given: &Fields<'_>) -> Result<Vec<(&'static str, Vec<String>)>, ArmError> {
    let items = given.objects("groups")?.filter(|g| !g.is_empty()).ok_or_else(|| given.missing("groups"))?;
    let mut groups = Vec::new();
    for item in items {
        let kind = item.one_of("type", &GROUP_TYPES)?.ok_or_else(|| item.missing("type"))?;
        let ids = item.strings("ids")?.filter(|ids| !ids.is_empty()).ok_or_else(|| item.missing("ids"))?;
        if let Some(bad) = ids.iter().find(|id| Uuid::try_parse(id).is_err()) {
            let path = item.path("ids");
            let message = format!(
                "The value '{bad}' of parameter {path} is invalid: the id of a subscription or tenant is expected."
            );
            return Err(ArmError::invalid_parameter(&path, message));
        }
        groups.push((kind, ids));
    }
    Ok(groups)
}

/// Ids by type.
fn stored_groups(profile: &Value) -> Map<String, Value> {
    let groups = profile["groups"].as_array().into_iter().flatten();
    groups.filter_map(|g| Some((g["type"].as_str()?.to_owned(), g["ids"].clone()))).collect()
}

fn update_members(members: &mut Value, ids: &[String], add: bool) {
    let Some(members) = members.as_array_mut() else { return };
    let is = |member: &Value, id: &str| member.as_str().is_some_and(|m| m.eq_ignore_ascii_case(id));
    for id in ids {
        let known = members.iter().any(|m| is(m, id));
        match (add, known) {
            (true, false) => members.push(id.clone().into()),
            (false, true) => members.retain(|m| !is(m, id)),
            _ => {}
        }
    }
}

fn check_limits(given: &Fields<'_>, held: &Map<String, Value>) -> Result<(), ArmError> {
    for (kind, most) in [("Subscriptions", MAX_SUBSCRIPTIONS), ("AADTenants", MAX_TENANTS)] {
        let count = held.get(kind).and_then(Value::as_array).map_or(0, Vec::len);
        if count > most {
            let path = given.path("groups");
            let message =
                format!("A gallery can be shared with at most {most} {kind}; with these there would be {count}.");
            return Err(ArmError::invalid_parameter(&path, message));
        }
    }
    Ok(())
}
