//! `Microsoft.ManagedIdentity/userAssignedIdentities`: a location and tags. Which principal it is, the engine says.

use super::{Context, Fields, Head, not_offered};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value};

const ROOT: &str = "identity";

/// 3 to 128 letters, digits, dashes and underscores, beginning with a letter or digit.
fn check_name(name: &str) -> Result<(), ArmError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let ok = (3..=128).contains(&name.len())
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if ok {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "InvalidResourceName",
        format!(
            "The identity name '{name}' is invalid: it has 3 to 128 letters, digits, dashes and underscores, and begins with a \
             letter or a digit."
        ),
    ))
}

/// A new body in its settled form, or an update: only tags can change.
///
/// Errors: `InvalidResourceName`; `OperationNotSupported` for restrictions on who may use the identity.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    let restricted = given.object("assignmentRestrictions")?.strings("providers")?.is_some_and(|p| !p.is_empty());
    if restricted {
        return Err(not_offered(
            &given.path("assignmentRestrictions"),
            "an identity cannot be kept from types of resources; leave it out",
        ));
    }
    if given.one_of("isolationScope", &["None", "Regional"])? == Some("Regional") {
        return Err(not_offered(&given.path("isolationScope"), "an identity can be used in every region"));
    }
    Ok(head.body(vec![], Map::new()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, version};
    use super::*;
    use serde_json::json;

    fn id(name: &str) -> ResourceId {
        format!("/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}")
            .parse()
            .unwrap()
    }

    #[test]
    fn a_location_and_tags() {
        let api = version("2023-01-31");
        let put = |name: &str, body: Value, old: Option<&Value>| put(&id(name), &body, old, &context(&api));
        let made = put(
            "id1",
            json!({"location": "West US", "properties": {"principalId": "x", "isolationScope": "None"}}),
            None,
        );
        let made = made.unwrap();
        assert_eq!(made, json!({"location": "westus", "properties": {}}));
        let tagged = put("id1", json!({"tags": {"a": "b"}}), Some(&made)).unwrap();
        assert_eq!(tagged["tags"], json!({"a": "b"}));
        for bad in ["ab", "-abc", "a.bc", &"a".repeat(129)] {
            assert_eq!(put(bad, json!({"location": "westus"}), None).unwrap_err().code, "InvalidResourceName", "{bad}");
        }
        for properties in [
            json!({"isolationScope": "Regional"}),
            json!({"assignmentRestrictions": {"providers": ["Microsoft.Compute"]}}),
        ] {
            let refused = put("id1", json!({"location": "westus", "properties": properties}), None);
            assert_eq!(refused.unwrap_err().code, "OperationNotSupported");
        }
    }
}
