//! What a deployment would change, told without changing anything.

use super::facts::settled;
use super::hanging::Hanging;
use super::run::{is_removable, top_level};
use super::{Input, Who};
use crate::call::Call;
use crate::provider::Context;
use lazuli_arm::{ArmError, ResourceId, locations};
use lazuli_meta::model::ResourceQuery;
use lazuli_template::{Plan, Planned};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// `{"status": "Succeeded", "properties": {"changes": […]}}`. `input` is the request's with its secrets masked.
pub(crate) async fn what_if(cx: Context<'_>, id: &ResourceId, input: &Input, plan: &Plan) -> Result<Value, ArmError> {
    let mut changes = Vec::new();
    for (index, resource) in plan.resources.iter().enumerate().filter(|(_, r)| r.condition && !r.existing) {
        changes.push(one(cx, &input.who, plan, index, resource).await?);
    }
    if id.resource_group.is_some() {
        changes.extend(others(cx, id, input, plan).await?);
    }
    Ok(json!({"status": "Succeeded", "properties": {"correlationId": cx.call.correlation_id, "changes": changes}}))
}

async fn one(cx: Context<'_>, who: &Who, plan: &Plan, index: usize, resource: &Planned) -> Result<Value, ArmError> {
    let body = match settled(cx.engine, who, |facts| plan.body(index, facts)).await {
        Ok(body) => body,
        Err(error) => {
            return Ok(json!({"resourceId": resource.id, "changeType": "Unsupported",
                "unsupportedReason": format!("What it refers to cannot be known before it is deployed: {}", error.message)}));
        }
    };
    let call = who.call(&resource.api_version)?;
    let after = described(resource, &body);
    match existing(cx, who, &call, &resource.id).await? {
        None => Ok(json!({"resourceId": resource.id, "changeType": "Create", "after": after})),
        Some(before) => {
            let mut delta = Vec::new();
            compare("", &before, &body, &mut delta);
            let kind = if delta.is_empty() { "NoChange" } else { "Modify" };
            Ok(json!({"resourceId": resource.id, "changeType": kind, "before": before, "after": after, "delta": delta}))
        }
    }
}

async fn existing(cx: Context<'_>, who: &Who, call: &Call, id: &str) -> Result<Option<Value>, ArmError> {
    let found = match Hanging::parse(id) {
        Some(hanging) => hanging.get(cx.engine, call).await,
        None => {
            let id = who.id(id).map_err(ArmError::internal)?;
            cx.engine.get(call, &id).await
        }
    };
    match found {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.status == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

fn described(resource: &Planned, body: &Value) -> Value {
    let mut shown = Map::new();
    for (name, value) in [
        ("apiVersion", &resource.api_version),
        ("id", &resource.id),
        ("name", &resource.name.rsplit('/').next().unwrap_or_default().to_owned()),
        ("type", &resource.kind),
    ] {
        shown.insert(name.into(), value.as_str().into());
    }
    shown.extend(body.as_object().cloned().unwrap_or_default());
    shown.into()
}

/// What else is in the group: left alone, or in complete mode removed.
async fn others(cx: Context<'_>, id: &ResourceId, input: &Input, plan: &Plan) -> Result<Vec<Value>, ArmError> {
    let keep: HashSet<String> = plan.resources.iter().filter(|r| r.condition).map(|r| top_level(&r.id)).collect();
    let subscription = ResourceId::subscription(&id.subscription);
    let scope = id.resource_group.as_deref().map_or(subscription, |group| ResourceId::group(&id.subscription, group));
    let query = ResourceQuery { under: Some(scope.key()), ..ResourceQuery::default() };
    let kind = if input.complete { "Delete" } else { "Ignore" };
    let mut changes = Vec::new();
    for row in cx.engine.all_rows(query).await? {
        if !is_removable(&row) || top_level(&row.id) != row.key || keep.contains(&row.key) {
            continue;
        }
        let Some(provider) = cx.engine.provider_of_kind(&row.kind).cloned() else { continue };
        // Whoever may not read it is not told what it is.
        let right = format!("{}/read", provider.right_type());
        if cx.engine.authorize(&cx.call.caller, &row.key, &right).await.is_ok() {
            changes.push(json!({"resourceId": row.id, "changeType": kind, "before": provider.show(cx, &row).await?}));
        }
    }
    Ok(changes)
}

/// Adds how what the template says differs from what is there. What the template does not name stays.
fn compare(path: &str, before: &Value, after: &Value, delta: &mut Vec<Value>) {
    let (Value::Object(before), Value::Object(after)) = (before, after) else {
        if !covers(before, after) {
            let kind = if before.is_null() { "Create" } else { "Modify" };
            delta.push(json!({"path": path, "propertyChangeType": kind, "before": before, "after": after}));
        }
        return;
    };
    for (name, value) in after.iter().filter(|(_, v)| !v.is_null()) {
        let old = before.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or(&Value::Null, |(_, v)| v);
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        compare(&path, old, value, delta);
    }
}

/// Whether what is there is what the template says, spelled in whatever way.
fn covers(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::String(a), Value::String(b)) => {
            let region = |t: &str| locations::normalize(t).map(|l| l.name);
            a.eq_ignore_ascii_case(b) || region(a).is_some_and(|a| region(b) == Some(a))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| covers(a, b)),
        (Value::Object(a), Value::Object(b)) => b.iter().all(|(name, value)| {
            let old = a.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or(&Value::Null, |(_, v)| v);
            value.is_null() || covers(old, value)
        }),
        // Empty lists and objects are often not shown.
        (Value::Null, Value::Array(b)) => b.is_empty(),
        (Value::Null, Value::Object(b)) => b.values().all(|v| covers(&Value::Null, v)),
        // Numbers and booleans may come as text.
        (Value::String(text), simple) | (simple, Value::String(text)) => {
            let said = simple.to_string();
            said == *text
        }
        (a, b) => a == b,
    }
}

/// The request's parameters without what is secret: a preview is often pasted somewhere.
pub(super) fn masked(value: &mut Value) {
    match value {
        Value::String(text) => "*******".clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(masked),
        Value::Object(map) => map.values_mut().for_each(masked),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let before = json!({"location": "eastus", "tags": {"a": "b"}, "properties": {"size": 4, "kind": "FromImage", "list": [{"x": 1, "y": 2}]}});
        let same = json!({"location": "East US", "properties": {"size": "4", "KIND": "fromImage", "list": [{"x": 1}], "none": null, "empty": []}});
        let mut delta = vec![];
        compare("", &before, &same, &mut delta);
        assert_eq!(delta, Vec::<Value>::new());
        compare("", &before, &json!({"tags": {"a": "c", "d": "e"}}), &mut delta);
        assert_eq!(
            delta,
            [
                json!({"path": "tags.a", "propertyChangeType": "Modify", "before": "b", "after": "c"}),
                json!({"path": "tags.d", "propertyChangeType": "Create", "before": null, "after": "e"}),
            ]
        );
    }
}
