//! `Microsoft.Compute/availabilitySets`: how many domains were asked for. Which machines are in a set is the machines' word.

use super::offered::{self, Refusal};
use super::{Context, Fields, Head, unchanged, virtual_machine};
use crate::{ArmError, ResourceId};
use serde_json::{Map, Value, json};

const ROOT: &str = "availabilitySet";
/// Fault and update domains, as in most of Azure's regions.
const DOMAINS: [(&str, i64, i64, &str); 2] =
    [("platformFaultDomainCount", 2, 3, "fault"), ("platformUpdateDomainCount", 5, 20, "update")];

const REFUSED: &[Refusal] = &[
    (&["properties", "proximityPlacementGroup"], &[], "there are no placement groups"),
    (&["properties", "scheduledEventsPolicy"], &[], "guests are not told of events before they come"),
];

/// A new body in its settled form, or an update: tags change, and a `Classic` set may become an `Aligned` one.
///
/// # Errors
/// `InvalidParameter` for counts out of range, in Azure's words; 409 `PropertyChangeNotAllowed`; `OperationNotSupported`.
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    virtual_machine::check_name(id.name())?;
    let root = Fields::root(ROOT, new)?;
    let head = Head::read(id, &root, old, ctx)?;
    offered::check(&root, REFUSED)?;
    let properties = root.object("properties")?;
    let stored = old.map(|o| &o["properties"]);
    let mut body = Map::new();
    for (name, default, most, kind) in DOMAINS {
        let given = properties.int(name)?;
        if let Some(count) = given.filter(|n| !(1..=most).contains(n)) {
            let message = format!("The specified {kind} domain count {count} must fall in the range 1 to {most}.");
            return Err(ArmError::invalid_parameter(&properties.path(name), message));
        }
        let before = stored.and_then(|s| s[name].as_i64());
        if let (Some(given), Some(before)) = (given, before) {
            unchanged(&properties.path(name), Some(&given.into()), Some(&before.into()))?;
        }
        body.insert(name.into(), before.or(given).unwrap_or(default).into());
    }
    let before = old.and_then(|o| o["sku"]["name"].as_str());
    let given = root.object("sku")?.one_of("name", &["Aligned", "Classic"])?;
    if before == Some("Aligned") && given == Some("Classic") {
        return Err(ArmError::property_change_not_allowed(&format!("{ROOT}.sku.name")));
    }
    let sku = given.or(before).unwrap_or("Classic");
    Ok(head.body(vec![("sku", json!({ "name": sku }))], body))
}

/// Whether machines with managed disks may be in a set.
pub fn is_aligned(body: &Value) -> bool {
    body["sku"]["name"] == "Aligned"
}

#[cfg(test)]
mod tests {
    use super::super::merge_patch;
    use super::super::offered::tests::hold;
    use super::super::testing::{context, id, version};
    use super::*;

    fn made(new: &Value, old: Option<&Value>) -> Result<Value, ArmError> {
        let api = version("2024-11-01");
        put(&id("availabilitySets/set1"), new, old, &context(&api))
    }

    /// As `az vm availability-set create` writes it into its template.
    #[test]
    fn a_set_keeps_what_it_was_made_with() {
        let of_az = json!({"location": "eastus", "tags": {}, "sku": {"name": "Aligned"},
            "properties": {"platformFaultDomainCount": 2, "platformUpdateDomainCount": null}});
        let set = made(&of_az, None).unwrap();
        let domains = json!({"platformFaultDomainCount": 2, "platformUpdateDomainCount": 5});
        assert_eq!((&set["sku"], &set["properties"]), (&json!({"name": "Aligned"}), &domains));
        assert!(is_aligned(&set));
        let tagged = made(&json!({"location": "eastus", "tags": {"a": "b"}}), Some(&set)).unwrap();
        assert_eq!((&tagged["properties"], &tagged["sku"]), (&domains, &set["sku"]));
        for change in [json!({"sku": {"name": "Classic"}}), json!({"properties": {"platformFaultDomainCount": 3}})] {
            assert_eq!(made(&merge_patch(&set, &change), Some(&set)).unwrap_err().code, "PropertyChangeNotAllowed");
        }
        let many =
            made(&json!({"location": "eastus", "properties": {"platformFaultDomainCount": 4}}), None).unwrap_err();
        assert_eq!(many.message, "The specified fault domain count 4 must fall in the range 1 to 3.");
        assert!(!is_aligned(&made(&json!({"location": "eastus"}), None).unwrap()));
        hold(REFUSED, |change| merge_patch(&of_az, &change), |body| made(body, None).map(drop));
    }
}
