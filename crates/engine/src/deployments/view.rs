//! How deployments are shown.

use super::{Input, KIND};
use crate::call::Call;
use crate::provider::standard_view;
use crate::time_text;
use aws_lc_rs::digest;
use lazuli_arm::{ResourceId, locations};
use lazuli_meta::model::Resource;
use lazuli_template::{Plan, Planned};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(super) fn mode(complete: bool) -> &'static str {
    if complete { "Complete" } else { "Incremental" }
}

/// A number that is the same for the same template.
pub(super) fn template_hash(template: &Value) -> String {
    let hash = digest::digest(&digest::SHA256, template.to_string().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_ref()[..8]);
    u64::from_be_bytes(first).to_string()
}

/// `PT12.345S`
pub(super) fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    format!("PT{}.{:03}S", ms / 1000, ms % 1000)
}

/// The body that a deployment's row keeps.
pub(crate) fn body(input: &Input, plan: &Plan, call: &Call, tags: Option<&Value>) -> Value {
    let mut body = Map::new();
    if let Some(location) = &input.location {
        let name = locations::normalize(location).map_or_else(|| location.clone(), |l| l.name.to_owned());
        body.insert("location".into(), name.into());
    }
    if let Some(tags) = tags.filter(|t| t.is_object()) {
        body.insert("tags".into(), tags.clone());
    }
    body.insert(
        "properties".into(),
        json!({
            "templateHash": template_hash(&input.template),
            "parameters": parameters(plan),
            "mode": mode(input.complete),
            "timestamp": time_text(input.now_ms),
            "duration": "PT0S",
            "correlationId": call.correlation_id,
            "providers": providers(plan),
            "dependencies": dependencies(plan),
        }),
    );
    body.into()
}

/// Types and values; those of secure parameters without values.
fn parameters(plan: &Plan) -> Value {
    let secure = plan.template().secure_parameters();
    let shown = plan.template().parameter_types().map(|(name, kind)| {
        let value = plan.parameters().get(name).filter(|_| !secure.contains(&name));
        let shown = match value {
            Some(value) => json!({"type": kind, "value": value}),
            None => json!({"type": kind}),
        };
        (name.to_owned(), shown)
    });
    shown.collect::<Map<_, _>>().into()
}

fn deployed(plan: &Plan) -> impl Iterator<Item = &Planned> {
    plan.resources.iter().filter(|r| r.condition)
}

fn providers(plan: &Plan) -> Value {
    let mut by_namespace: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for resource in deployed(plan) {
        if let Some((namespace, kind)) = resource.kind.split_once('/') {
            let kinds = by_namespace.entry(namespace).or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    let types = |kinds: Vec<&str>| -> Vec<Value> {
        kinds.into_iter().map(|kind| json!({"resourceType": kind, "locations": [null]})).collect()
    };
    let list = by_namespace.into_iter().map(|(n, kinds)| json!({"namespace": n, "resourceTypes": types(kinds)}));
    list.collect()
}

fn target(resource: &Planned) -> Value {
    json!({"id": resource.id, "resourceType": resource.kind, "resourceName": resource.name})
}

fn dependencies(plan: &Plan) -> Value {
    let list = deployed(plan).filter(|r| !r.depends_on.is_empty()).map(|r| {
        let mut shown =
            json!({"dependsOn": r.depends_on.iter().map(|i| target(&plan.resources[*i])).collect::<Vec<_>>()});
        if let (Value::Object(shown), Value::Object(own)) = (&mut shown, target(r)) {
            shown.extend(own);
        }
        shown
    });
    list.collect()
}

/// `Accepted` until a worker has begun.
pub(crate) fn show(row: &Resource) -> Value {
    let mut view = standard_view(KIND, row);
    if matches!(row.provisioning_state.as_str(), "Creating" | "Updating") {
        view["properties"]["provisioningState"] = "Accepted".into();
    }
    if super::records::is_active(row) {
        view["properties"]["duration"] = duration(crate::now_ms() - row.changed_ms).into();
    }
    view
}

/// The answer of `validate`.
pub(crate) fn validation(id: &ResourceId, input: &Input, plan: &Plan, call: &Call) -> Value {
    let mut view = body(input, plan, call, None);
    view["id"] = crate::write::canonical(id, KIND).into();
    view["name"] = id.name().into();
    view["type"] = KIND.into();
    view["properties"]["provisioningState"] = "Succeeded".into();
    view["properties"]["validatedResources"] = deployed(plan).map(|r| json!({"id": r.id})).collect();
    view
}
