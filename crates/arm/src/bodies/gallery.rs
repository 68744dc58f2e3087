//! `Microsoft.Compute/galleries`.
//!
//! ```text
//! sharingProfile     with whom it is shared                        gallery/sharing.rs
//! softDeletePolicy   what becomes of deleted image versions        SoftDelete
//! ```

mod sharing;

pub use sharing::{Audience, audiences, is_shared, share, show};

use super::{Context, Fields, Head, merge_patch, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const ROOT: &str = "gallery";
const MAX_NAME: usize = 80;
/// How long a deleted version can be brought back where the policy does not say (Azure's only choice before 2026-03-03).
const RETENTION_DAYS: i64 = 7;
/// A bound of our own: Azure documents none.
const MAX_RETENTION_DAYS: i64 = 90;

/// Letters, digits, and `_` or `.` in the middle, at most 80 characters; no dashes (wire.md §3).
///
/// Errors: a name that ends with a period gets the text that Azure has for it, every other the general one.
pub fn check_name(name: &str) -> Result<(), ArmError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let ok =
        name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().last()) && name.len() <= MAX_NAME;
    if ok {
        return Ok(());
    }
    if name.ends_with('.') {
        return Err(trailing_character(name, '.'));
    }
    Err(ArmError::invalid_parameter(
        "galleryName",
        "Gallery name is invalid. Allowed characters are English alphanumeric characters, with underscores, and periods \
         allowed in the middle, up to 80 characters total. All other special characters, including dashes, are \
         disallowed.",
    ))
}

/// Azure Resource Manager refuses such names before the provider sees them.
pub(super) fn trailing_character(name: &str, character: char) -> ArmError {
    ArmError::bad_request(
        "InvalidResourceName",
        format!(
            "The provided resource name '{name}' has these invalid trailing characters: '{character}'. The name can not \
             end with characters: '{character}'."
        ),
    )
}

/// `properties.identifier.uniqueName`: subscription, dash, the name in upper case (recorded).
pub fn unique_name(id: &ResourceId) -> String {
    format!("{}-{}", id.subscription, id.name().to_uppercase())
}

/// The error when another group of the subscription has a gallery of that name.
pub fn name_taken(id: &ResourceId) -> ArmError {
    ArmError::conflict(
        "Conflict",
        format!(
            "The gallery name {} is not unique within the subscription {}. Please pick another gallery name.",
            id.name(),
            id.subscription
        ),
    )
}

/// Updatable: `description`, `tags`, `softDeletePolicy`, `sharingProfile` as far as [`sharing`] says. The `identifier` that
/// clients send back is ignored (az sends `{}`). What an update does not say of sharing and soft deletion stays.
///
/// Errors: `OperationNotSupported` for a managed identity and for a grace period, which this server does not have.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let identity = new.object("identity")?;
    if identity.str("type")?.is_some_and(|t| !t.eq_ignore_ascii_case("None")) {
        return Err(not_offered(&identity.path("type"), "this server has no managed identities for galleries"));
    }
    let given = new.object("properties")?;
    let old = old.map(|o| &o["properties"]);

    let mut properties = Map::new();
    if let Some(description) = given.str("description")? {
        properties.insert("description".into(), description.into());
    }
    properties.insert("identifier".into(), json!({"uniqueName": unique_name(id)}));
    if let Some(sharing) = sharing::profile(&given, old, ctx)? {
        properties.insert("sharingProfile".into(), sharing);
    }
    if let Some(policy) = soft_delete_policy(&given, old)? {
        properties.insert("softDeletePolicy".into(), policy);
    }
    Ok(head.body(vec![], properties))
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

fn soft_delete_policy(given: &Fields<'_>, old: Option<&Value>) -> Result<Option<Value>, ArmError> {
    let fields = given.object("softDeletePolicy")?;
    let stored = old.and_then(|o| o.get("softDeletePolicy"));
    if fields.is_empty() {
        return Ok(stored.cloned());
    }
    let mut policy = stored.and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(enabled) = fields.bool("isSoftDeleteEnabled")? {
        policy.insert("isSoftDeleteEnabled".into(), enabled.into());
    }
    if let Some(days) = fields.int_within("retentionPeriodInDays", 1, MAX_RETENTION_DAYS)? {
        policy.insert("retentionPeriodInDays".into(), days.into());
    }
    match fields.int("gracePeriodInDays")? {
        None => {}
        Some(0) => {
            policy.insert("gracePeriodInDays".into(), 0.into());
        }
        Some(_) => {
            return Err(not_offered(
                &fields.path("gracePeriodInDays"),
                "a deleted image version cannot be used until it is restored, so that there is no grace period",
            ));
        }
    }
    Ok(Some(Value::Object(policy)))
}

/// What becomes of a deleted image version of a gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftDelete {
    pub enabled: bool,
    pub retention_days: i64,
}

impl SoftDelete {
    /// The policy of a stored gallery.
    pub fn of(body: &Value) -> Self {
        let policy = &body["properties"]["softDeletePolicy"];
        Self {
            enabled: policy["isSoftDeleteEnabled"] == true,
            retention_days: policy["retentionPeriodInDays"].as_i64().unwrap_or(RETENTION_DAYS),
        }
    }
}

#[cfg(test)]
mod tests;
