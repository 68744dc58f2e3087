//! Resources: their ids, their state, their actions, and the scopes they are in.

use super::{Args, Body, Function, MANY, invalid, pure, scoped};
use crate::environment::management_group_id;
use crate::eval::{Eval, Evaluator, Frame, Known, Place, all, error};
use crate::facts::Request;
use lazuli_arm::locations;
use serde_json::Value;

/// What templates get that ask for the versions of a type.
const API_VERSION: &str = "2024-07-01";

pub(super) const TABLE: &[Function] = &[
    pure("extensionResourceId", 3, MANY, extension_resource_id),
    pure("managementGroup", 0, 0, management_group),
    pure("managementGroupResourceId", 2, MANY, management_group_resource_id),
    pure("providers", 2, 2, providers),
    scoped("reference", 1, 3, reference),
    scoped("references", 1, 2, references),
    pure("resourceGroup", 0, 0, resource_group),
    pure("resourceId", 2, MANY, resource_id),
    pure("roleDefinitions", 1, 1, role_definitions),
    pure("subscription", 0, 0, subscription),
    pure("subscriptionResourceId", 2, MANY, subscription_resource_id),
    pure("tenant", 0, 0, |_, _, e| Ok(e.environment.tenant_value())),
    pure("tenantResourceId", 2, MANY, tenant_resource_id),
];

/// `listKeys` and every other function whose name begins with `list`.
pub(super) const LIST: Function = Function { name: "list", least: 2, most: 3, body: Body::Scoped(list) };

fn texts<'v>(function: &'v str, values: &'v [Value]) -> Eval<Vec<&'v str>> {
    let a = Args { function, values };
    (0..values.len()).map(|i| a.str(i)).collect()
}

/// `/providers/NS/type/name/…` of a type and a name for each of its levels.
fn provider_path(f: &str, kind: &str, names: &[&str]) -> Eval<String> {
    let mut words = kind.split('/');
    let namespace = words.next().unwrap_or_default();
    let types: Vec<&str> = words.collect();
    if namespace.is_empty() || types.is_empty() || types.iter().any(|t| t.is_empty()) {
        return invalid(f, &format!("'{kind}' is not a resource type such as 'Microsoft.Compute/disks'."));
    }
    if types.len() != names.len() {
        return invalid(
            f,
            &format!(
                "The type '{kind}' requires '{}' resource name argument(s), while '{}' were provided.",
                types.len(),
                names.len()
            ),
        );
    }
    let pairs: String = types.iter().zip(names).map(|(t, n)| format!("/{t}/{n}")).collect();
    Ok(format!("/providers/{namespace}{pairs}"))
}

/// Where the resource type is among the arguments: the first with a slash.
fn split_at_type<'v>(f: &str, texts: &'v [&'v str], most: usize) -> Eval<(&'v [&'v str], &'v str, &'v [&'v str])> {
    match texts.iter().take(most + 1).position(|t| t.contains('/')) {
        Some(at) => Ok((&texts[..at], texts[at], &texts[at + 1..])),
        None => invalid(f, "There is no resource type such as 'Microsoft.Compute/disks' among its arguments."),
    }
}

/// `[subscription], [group], type, names…`
fn resource_id(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let texts = texts(f, &v)?;
    let (before, kind, names) = split_at_type(f, &texts, 2)?;
    let own = e.environment;
    let path = provider_path(f, kind, names)?;
    if own.subscription.is_none() && before.len() == 1 {
        return invalid(f, "A deployment that is to no subscription must name the subscription of a resource group.");
    }
    let (subscription, group) = match before {
        [] => (own.subscription.as_deref(), own.group_name()),
        [group] => (own.subscription.as_deref(), Some(*group)),
        [subscription, group] => (Some(*subscription), Some(*group)),
        _ => (None, None),
    };
    let subscription = subscription.map_or_else(String::new, |s| format!("/subscriptions/{s}"));
    let group = group.map_or_else(String::new, |g| format!("/resourceGroups/{g}"));
    Ok(format!("{subscription}{group}{path}").into())
}

fn subscription_resource_id(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let texts = texts(f, &v)?;
    let (before, kind, names) = split_at_type(f, &texts, 1)?;
    let Some(subscription) = before.first().copied().or(e.environment.subscription.as_deref()) else {
        return invalid(f, "A deployment that is to no subscription must name it.");
    };
    Ok(format!("/subscriptions/{subscription}{}", provider_path(f, kind, names)?).into())
}

fn tenant_resource_id(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let texts = texts(f, &v)?;
    Ok(provider_path(f, texts[0], &texts[1..])?.into())
}

/// `[management group], type, names…`
fn management_group_resource_id(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let texts = texts(f, &v)?;
    let (before, kind, names) = split_at_type(f, &texts, 1)?;
    let Some(group) = before.first().copied().or(e.environment.management_group.as_deref()) else {
        return invalid(f, "A deployment that is to no management group must name it.");
    };
    Ok(format!("{}{}", management_group_id(group), provider_path(f, kind, names)?).into())
}

fn management_group(f: &'static str, _: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    e.environment.management_group_value().map_or_else(|| not_here(f, "a management group"), Ok)
}

fn extension_resource_id(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let texts = texts(f, &v)?;
    Ok(format!("{}{}", texts[0].trim_end_matches('/'), provider_path(f, texts[1], &texts[2..])?).into())
}

fn resource_group(f: &'static str, _: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    e.environment.group.clone().map_or_else(|| not_here(f, "a resource group"), Ok)
}

fn subscription(f: &'static str, _: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    e.environment.subscription_value().map_or_else(|| not_here(f, "a subscription"), Ok)
}

fn not_here(f: &str, what: &str) -> Eval<Value> {
    error(format!("The template function '{f}' is not expected at this location: this is no deployment to {what}."))
}

/// The ids of a built-in role.
fn role_definitions(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let name = Args { function: f, values: &v }.str(0)?;
    let Some((_, id)) = e.environment.roles.iter().find(|(role, _)| role.eq_ignore_ascii_case(name)) else {
        return invalid(f, &format!("There is no built-in role '{name}'."));
    };
    Ok(
        serde_json::json!({"id": format!("/providers/Microsoft.Authorization/roleDefinitions/{id}"), "roleDefinitionId": id}),
    )
}

/// Withdrawn by Azure, and yet in what az writes for Uniform scale sets. Every type is served in every region, by any API version:
/// one is named. What types a namespace has is not known here, so that one must be named.
fn providers(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let texts = texts(f, &v)?;
    let regions: Vec<&str> = locations::all().iter().map(|l| l.display_name).collect();
    Ok(serde_json::json!({"resourceType": texts[1], "locations": regions, "apiVersions": [API_VERSION]}))
}

fn runtime_only(f: &str, frame: &Frame<'_>) -> Eval<()> {
    if frame.place() == Place::Runtime {
        return Ok(());
    }
    error(format!(
        "The template function '{f}' is not expected at this location. Please see https://aka.ms/arm-functions for usage details."
    ))
}

/// The resource that a text names: by symbolic name, by name, or by id.
fn named<'e>(e: &'e Evaluator<'_>, text: &str) -> Option<&'e Known> {
    let same = |other: &str| other.eq_ignore_ascii_case(text);
    let by_symbol = e.resources.iter().find(|r| r.symbol.as_deref().is_some_and(same) && r.turn.is_none());
    by_symbol
        .or_else(|| e.resources.iter().find(|r| same(&r.id)))
        .or_else(|| e.resources.iter().find(|r| same(&r.name)))
}

/// Id of what is referred to, and the version to ask with.
fn target(f: &str, e: &Evaluator<'_>, text: &str, version: Option<&str>) -> Eval<(String, String)> {
    let known = named(e, text);
    let id = match known {
        Some(known) => known.id.clone(),
        None if text.starts_with('/') => text.to_owned(),
        // `Microsoft.Network/virtualNetworks/v`: an id without its scope.
        None if text.contains('/') => {
            let parts: Vec<&str> = text.split('/').collect();
            let (kind, names): (Vec<&str>, Vec<&str>) = (
                parts.iter().skip(1).step_by(2).copied().collect(),
                parts.iter().skip(2).step_by(2).copied().collect(),
            );
            let path = provider_path(f, &format!("{}/{}", parts[0], kind.join("/")), &names)?;
            format!("{}{path}", e.environment.scope())
        }
        None => {
            return error(format!(
                "The template reference '{text}' is not valid: could not find template resource or resource copy with this name. \
                 Please see https://aka.ms/arm-function-reference for usage details."
            ));
        }
    };
    let same_id = || e.resources.iter().find(|r| r.id.eq_ignore_ascii_case(&id));
    let version = version.map(str::to_owned).or_else(|| known.or_else(same_id).map(|k| k.api_version.clone()));
    Ok((id, version.unwrap_or_default()))
}

/// Properties of a resource, or with `'Full'` all of it.
fn reference(f: &str, v: Vec<Value>, e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    runtime_only(f, frame)?;
    let a = Args { function: f, values: &v };
    let mut version = if a.has(1) { Some(a.str(1)?) } else { None };
    let mut full = a.has(2) && a.str(2)?.eq_ignore_ascii_case("Full");
    // Templates with symbolic names may leave out the version.
    if version.is_some_and(|v| v.eq_ignore_ascii_case("Full")) {
        (version, full) = (None, true);
    }
    let (id, api_version) = target(f, e, a.str(0)?, version)?;
    let resource = e.fact(Request::Resource { id, api_version })?;
    Ok(shown(resource, full))
}

fn shown(mut resource: Value, full: bool) -> Value {
    if full { resource } else { resource.get_mut("properties").map(Value::take).unwrap_or(Value::Null) }
}

/// The same of every turn of a resource's loop.
fn references(f: &str, v: Vec<Value>, e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    runtime_only(f, frame)?;
    let a = Args { function: f, values: &v };
    let name = a.str(0)?;
    let full = a.has(1) && a.str(1)?.eq_ignore_ascii_case("Full");
    let mut turns: Vec<&Known> = e
        .resources
        .iter()
        .filter(|r| r.turn.is_some() && r.symbol.as_deref().is_some_and(|s| s.eq_ignore_ascii_case(name)))
        .collect();
    turns.sort_by_key(|k| k.turn);
    all(turns.into_iter().map(|k| {
        let request = Request::Resource { id: k.id.clone(), api_version: k.api_version.clone() };
        e.fact(request).map(|resource| shown(resource, full))
    }))
    .map(Value::Array)
}

fn list(name: &str, v: Vec<Value>, e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    runtime_only(name, frame)?;
    let a = Args { function: name, values: &v };
    let (id, api_version) = target(name, e, a.str(0)?, Some(a.str(1)?))?;
    let body = if a.has(2) { v[2].to_string() } else { String::new() };
    e.fact(Request::List { id, action: name.to_owned(), api_version, body })
}
