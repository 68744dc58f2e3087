//! What the first answer to a PUT or PATCH shows of the resource.
//!
//! Azure answers before it is done and says so: `Creating`, `Updating`. Here a write may be done when it is answered; the answer
//! then still tells of the moment at which it was accepted, as the status and the operation's URL beside it do, and whoever reads
//! the resource or the operation next finds `Succeeded`. A state that says anything else than success (a failure of old) is kept.

use super::lro::{Answer, Shape, Verb};
use lazuli_arm::bodies::disk;
use serde_json::Value;

/// `resource` as a GET shows it, `sent` as the client wrote it.
pub(super) fn first_answer(shape: Shape, verb: Verb<'_>, sent: &Value, resource: &Value) -> Value {
    match shape.answer {
        Answer::Settled => resource.clone(),
        Answer::InProgress if verb == Verb::Create => in_progress(resource, "Creating"),
        Answer::InProgress | Answer::Updating => in_progress(resource, "Updating"),
        Answer::Echo => {
            let mut shown = disk::echo(sent, resource);
            if let Some(properties) = shown.get_mut("properties").and_then(Value::as_object_mut) {
                properties.insert("provisioningState".into(), "Updating".into());
            }
            shown
        }
    }
}

/// Also of children that are shown inline: the subnets of a network, the rules of a security group.
fn in_progress(shown: &Value, state: &str) -> Value {
    match shown {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| match (name.as_str(), value.as_str()) {
                ("provisioningState", Some("Succeeded")) => (name.clone(), Value::from(state)),
                ("tags", _) => (name.clone(), value.clone()),
                _ => (name.clone(), in_progress(value, state)),
            })
            .collect(),
        Value::Array(items) => items.iter().map(|item| in_progress(item, state)).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lro::shape_of;
    use super::*;
    use serde_json::json;

    fn answer(kind: &str, verb: Verb<'_>, resource: &Value) -> Value {
        first_answer(shape_of(kind, verb), verb, &json!({"properties": {"diskSizeGB": 1}}), resource)
    }

    #[test]
    fn an_accepted_write_is_not_done_yet() {
        let resource = json!({"name": "x", "tags": {"provisioningState": "Succeeded"}, "properties": {
            "provisioningState": "Succeeded", "diskSizeGB": 1, "diskState": "Unattached",
            "subnets": [{"properties": {"provisioningState": "Succeeded"}}]}});
        let state = |kind: &str, verb: Verb<'_>| {
            answer(kind, verb, &resource)["properties"]["provisioningState"].as_str().map(str::to_owned)
        };
        for (kind, created, updated, patched) in [
            ("microsoft.compute/galleries", "Creating", "Updating", "Updating"),
            ("microsoft.compute/images", "Creating", "Updating", "Updating"),
            ("microsoft.compute/disks", "Updating", "Updating", "Updating"),
            ("microsoft.network/virtualnetworks", "Updating", "Updating", "Updating"),
            ("microsoft.network/networkinterfaces", "Succeeded", "Succeeded", "Succeeded"),
        ] {
            let found = [Verb::Create, Verb::Update, Verb::Patch].map(|verb| state(kind, verb).unwrap());
            assert_eq!(found, [created, updated, patched], "{kind}");
        }
        let network = answer("microsoft.network/virtualnetworks", Verb::Create, &resource);
        assert_eq!(network["properties"]["subnets"][0]["properties"]["provisioningState"], "Updating");
        assert_eq!(network["tags"], resource["tags"]);
    }

    #[test]
    fn a_disk_is_echoed_and_patched_whole() {
        let resource = json!({"name": "d", "sku": {"name": "Premium_LRS"}, "properties": {
            "provisioningState": "Succeeded", "diskSizeGB": 1, "diskState": "Unattached"}});
        let put = answer("microsoft.compute/disks", Verb::Create, &resource);
        assert_eq!(put["properties"], json!({"diskSizeGB": 1, "provisioningState": "Updating"}));
        assert_eq!(put.get("sku"), None);
        let patched = answer("microsoft.compute/disks", Verb::Patch, &resource);
        assert_eq!(patched["properties"]["diskState"], "Unattached");
        let access = answer("microsoft.compute/diskaccesses", Verb::Create, &json!({"name": "a"}));
        assert_eq!(access.get("properties"), None, "recorded: no state at all");
    }

    #[test]
    fn a_failure_of_old_is_not_hidden() {
        let resource = json!({"properties": {"provisioningState": "Failed"}});
        assert_eq!(answer("microsoft.compute/galleries", Verb::Update, &resource), resource);
    }
}
