//! What is above resources: tenants, subscriptions, regions, resource providers, and queries over all resources.

use super::Arm;
use crate::app::method_not_allowed;
use crate::net::hosts::Cloud;
use crate::respond::{self, Reply};
use http::{Method, StatusCode};
use lazuli_arm::{ArmError, lenient_json, locations};
use lazuli_engine::call::ProviderInfo;
use lazuli_engine::{Subscription, Tenant};
use serde_json::{Value, json};

/// Answers paths of this kind; `None` for all others.
pub(super) async fn handle(arm: &Arm<'_>) -> Result<Option<Reply>, ArmError> {
    let segments = arm.context.segments();
    let lower: Vec<String> = segments.iter().map(|s| s.to_ascii_lowercase()).collect();
    let words: Vec<&str> = lower.iter().map(String::as_str).collect();
    let is_get = matches!(arm.context.method, Method::GET | Method::HEAD);
    let value = match words.as_slice() {
        ["subscriptions", _, "providers", namespace, verb @ ("register" | "unregister")] => {
            if arm.context.method != Method::POST {
                return Err(method_not_allowed(arm.context));
            }
            let subscription = visible(arm, segments[1]).await?;
            registration(arm, &subscription, namespace, verb)?
        }
        ["tenants"] if is_get => tenants(arm).await?,
        ["subscriptions"] if is_get => subscriptions(arm).await?,
        ["subscriptions", _] if is_get => subscription_value(&visible(arm, segments[1]).await?),
        ["subscriptions", _, "locations"] if is_get => {
            let subscription = visible(arm, segments[1]).await?;
            page(locations::list(cloud(arm), &subscription.id))
        }
        ["subscriptions", _, "providers"] if is_get => {
            let subscription = visible(arm, segments[1]).await?;
            page(arm.app.backend.providers().iter().map(|p| provider_value(arm, Some(&subscription), p)).collect())
        }
        ["subscriptions", _, "providers", namespace] if is_get => {
            let subscription = visible(arm, segments[1]).await?;
            provider_value(arm, Some(&subscription), &find_provider(arm, namespace)?)
        }
        ["providers"] if is_get => {
            page(arm.app.backend.providers().iter().map(|p| provider_value(arm, None, p)).collect())
        }
        ["providers", "microsoft.resourcegraph", "resources"] => {
            if arm.context.method != Method::POST {
                return Err(method_not_allowed(arm.context));
            }
            let query = lenient_json::parse(arm.body)?.unwrap_or(Value::Null);
            arm.app.backend.resource_graph(&arm.call, &query).await?
        }
        ["providers", namespace] if is_get => provider_value(arm, None, &find_provider(arm, namespace)?),
        ["tenants" | "subscriptions"] => return Err(method_not_allowed(arm.context)),
        _ => return Ok(None),
    };
    Ok(Some(respond::json(StatusCode::OK, &value)))
}

fn page(items: Vec<Value>) -> Value {
    json!({"value": items})
}

async fn tenants(arm: &Arm<'_>) -> Result<Value, ArmError> {
    let tenants = arm.app.backend.tenants(&arm.call.caller).await?;
    let value = |t: Tenant| {
        json!({
            "id": format!("/tenants/{}", t.id),
            "tenantId": t.id,
            "displayName": t.display_name,
            "tenantCategory": "Home",
            "tenantType": "AAD",
        })
    };
    Ok(page(tenants.into_iter().map(value).collect()))
}

async fn subscriptions(arm: &Arm<'_>) -> Result<Value, ArmError> {
    let all = arm.app.backend.subscriptions(&arm.call.caller).await?;
    Ok(
        json!({"value": all.iter().map(subscription_value).collect::<Vec<_>>(), "count": {"type": "Total", "value": all.len()}}),
    )
}

fn subscription_value(subscription: &Subscription) -> Value {
    json!({
        "id": format!("/subscriptions/{}", subscription.id),
        "subscriptionId": subscription.id,
        "tenantId": subscription.tenant,
        "displayName": subscription.display_name,
        "state": subscription.state,
        "subscriptionPolicies": {
            "locationPlacementId": "Internal_2014-09-01", "quotaId": "Internal_2014-09-01", "spendingLimit": "Off",
        },
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
        "tags": {},
    })
}

/// The subscription, if the caller may see it.
async fn visible(arm: &Arm<'_>, id: &str) -> Result<Subscription, ArmError> {
    let all = arm.app.backend.subscriptions(&arm.call.caller).await?;
    all.into_iter().find(|s| s.id.eq_ignore_ascii_case(id)).ok_or_else(|| {
        ArmError::new(404, "SubscriptionNotFound", format!("The subscription '{id}' could not be found."))
    })
}

/// The cloud that the client believes in; none under the server's own name, where both clouds' regions are.
fn cloud(arm: &Arm<'_>) -> Option<locations::Cloud> {
    arm.context.cloud().map(|c| match c {
        Cloud::Public => locations::Cloud::Public,
        Cloud::China => locations::Cloud::China,
    })
}

fn regions(arm: &Arm<'_>) -> impl Iterator<Item = &'static locations::Location> {
    let cloud = cloud(arm);
    locations::all().iter().filter(move |l| cloud.is_none_or(|c| c == l.cloud))
}

fn find_provider(arm: &Arm<'_>, namespace: &str) -> Result<ProviderInfo, ArmError> {
    let all = arm.app.backend.providers();
    all.into_iter().find(|p| p.namespace.eq_ignore_ascii_case(namespace)).ok_or_else(|| {
        ArmError::new(
            404,
            "InvalidResourceNamespace",
            format!("The resource namespace '{namespace}' is invalid: this server has no such provider."),
        )
    })
}

/// Every provider of this server is registered, always.
fn registration(arm: &Arm<'_>, subscription: &Subscription, namespace: &str, verb: &str) -> Result<Value, ArmError> {
    let provider = find_provider(arm, namespace)?;
    if verb == "unregister" {
        let message =
            format!("The provider '{}' is part of this server and cannot be unregistered.", provider.namespace);
        return Err(ArmError::conflict("CannotUnregisterProvider", message));
    }
    Ok(provider_value(arm, Some(subscription), &provider))
}

/// Versions to choose from, newest first: clients that pick one themselves (`az resource`) take the first stable one.
const API_VERSIONS: &[&str] = &[
    "2025-03-03",
    "2024-11-01",
    "2024-07-01",
    "2024-03-03",
    "2024-03-01",
    "2023-09-01",
    "2023-07-03",
    "2023-04-02",
    "2022-11-01",
    "2022-03-03",
    "2021-10-01",
    "2019-12-01",
    "2019-03-01",
    "2018-06-01",
];

fn provider_value(arm: &Arm<'_>, subscription: Option<&Subscription>, provider: &ProviderInfo) -> Value {
    let regions: Vec<&str> = regions(arm).map(|l| l.display_name).collect();
    let types: Vec<Value> = provider
        .types
        .iter()
        .map(|t| {
            json!({
                "resourceType": t,
                "locations": regions,
                "apiVersions": API_VERSIONS,
                "defaultApiVersion": API_VERSIONS[0],
                "capabilities": "SupportsTags, SupportsLocation",
            })
        })
        .collect();
    let scope = subscription.map_or_else(String::new, |s| format!("/subscriptions/{}", s.id));
    let mut value = json!({
        "id": format!("{scope}/providers/{}", provider.namespace),
        "namespace": provider.namespace,
        "resourceTypes": types,
    });
    if subscription.is_some() {
        value["registrationState"] = json!("Registered");
        value["registrationPolicy"] = json!("RegistrationFree");
    }
    value
}
