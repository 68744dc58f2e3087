//! Polls: `Azure-AsyncOperation` URLs show the operation, `Location` URLs its result.

use super::Arm;
use super::lro::Family;
use crate::app::method_not_allowed;
use crate::respond::{self, Reply};
use http::{HeaderValue, Method, StatusCode, header};
use lazuli_arm::ArmError;
use lazuli_engine::call::OperationView;
use serde_json::{Value, json};

/// What a poll URL asks for.
#[derive(Debug, PartialEq, Eq)]
struct Poll<'a> {
    /// Empty for what is above subscriptions.
    subscription: &'a str,
    operation: &'a str,
    family: Family,
    /// `Location` style: the result, not the status.
    result: bool,
}

/// Answers a poll; `None` when the path is none.
pub(super) async fn handle(arm: &Arm<'_>) -> Result<Option<Reply>, ArmError> {
    let segments = arm.context.segments();
    let monitor = arm.context.query.contains_key("monitor");
    let Some(poll) = poll(&segments, monitor) else {
        return Ok(None);
    };
    if !matches!(arm.context.method, Method::GET | Method::HEAD) {
        return Err(method_not_allowed(arm.context));
    }
    let view = arm.app.backend.operation(&arm.call, poll.subscription, poll.operation).await?;
    let mut response = if poll.result { result(&view, poll.family) } else { status(&view, poll.family) };
    if view.status == "InProgress" {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(arm.app.retry_after_seconds));
        if poll.result {
            let query: String =
                url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&arm.context.query).finish();
            let here = format!("{}{}?{query}", arm.context.base, arm.context.raw_path);
            respond::set(headers, header::LOCATION, &here);
        }
    }
    Ok(Some(response))
}

fn poll<'a>(segments: &[&'a str], monitor: bool) -> Option<Poll<'a>> {
    let lower: Vec<String> = segments.iter().map(|s| s.to_ascii_lowercase()).collect();
    let words: Vec<&str> = lower.iter().map(String::as_str).collect();
    let (family, result) = match words.as_slice() {
        ["subscriptions", _, "operationresults", _] | ["providers", "microsoft.resources", "operationresults", _] => {
            (Family::Results, true)
        }
        ["subscriptions", _, "providers", namespace, "locations", _, segment, _] => match (*namespace, *segment) {
            ("microsoft.compute", "capsoperations") => (Family::Caps, monitor),
            ("microsoft.compute", "diskoperations") => (Family::Disk, monitor),
            ("microsoft.compute", "operations") => (Family::Compute, monitor),
            ("microsoft.network", "operations") => (Family::Network, false),
            ("microsoft.network", "operationresults") => (Family::Network, true),
            ("microsoft.virtualmachineimages", "operations") => (Family::ImageBuilder, false),
            ("microsoft.storage", "asyncoperations") => (Family::Results, true),
            _ => return None,
        },
        [.., "deployments", _, "operationstatuses", _] => (Family::Deployment, false),
        _ => return None,
    };
    let subscription = if words[0] == "subscriptions" { segments[1] } else { "" };
    Some(Poll { subscription, operation: segments.last()?, family, result })
}

/// The operation as its `Azure-AsyncOperation` URL shows it; always 200.
fn status(view: &OperationView, family: Family) -> Reply {
    let mut body = match family {
        Family::Deployment => {
            json!({"status": if view.status == "InProgress" { "Running" } else { view.status }})
        }
        Family::Network => json!({"status": view.status}),
        Family::ImageBuilder => {
            json!({"name": view.id.to_ascii_uppercase(), "status": view.status, "startTime": view.start})
        }
        _ => json!({"startTime": view.start, "status": view.status, "name": view.id}),
    };
    if let Some(end) = view.end.as_ref().filter(|_| !matches!(family, Family::Deployment | Family::Network)) {
        body["endTime"] = json!(end);
    }
    if let Some(percent) = view.percent.filter(|_| view.status == "InProgress") {
        body["percentComplete"] = json!(percent);
    }
    if let Some(error) = &view.error {
        body["error"] = error.clone();
    }
    if let Some(output) = output(view, family) {
        body["properties"] = json!({"output": output});
    }
    respond::json(StatusCode::OK, &body)
}

/// Disks show the finished resource in the operation itself; other services only an action's result.
fn output(view: &OperationView, family: Family) -> Option<&Value> {
    if view.status != "Succeeded" {
        return None;
    }
    match family {
        Family::Disk => view.output.as_ref().or(view.resource.as_ref()),
        _ => view.output.as_ref(),
    }
}

/// The result as the `Location` URL shows it: 202 until there is one.
fn result(view: &OperationView, family: Family) -> Reply {
    match view.status {
        "InProgress" => respond::empty(StatusCode::ACCEPTED),
        "Succeeded" => {
            let resource = view.resource.as_ref().filter(|_| matches!(family, Family::Disk | Family::Results));
            match view.output.as_ref().or(resource) {
                Some(value) => respond::json(StatusCode::OK, value),
                None => respond::empty(StatusCode::OK),
            }
        }
        _ => respond::error(&failure(view)),
    }
}

/// The error of an operation that did not succeed, as an answer of its own.
pub(super) fn failure(view: &OperationView) -> ArmError {
    let text = |name: &str| view.error.as_ref().and_then(|e| e.get(name)?.as_str().map(str::to_owned));
    let code = text("code").unwrap_or_else(|| format!("Operation{}", view.status));
    let message = text("message").unwrap_or_else(|| format!("The operation ended as {}.", view.status));
    ArmError::new(409, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, monitor: bool) -> Option<(Family, bool)> {
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        poll(&segments, monitor).map(|p| {
            let subscription = if path.starts_with("/subscriptions") { "S" } else { "" };
            assert_eq!((p.subscription, p.operation), (subscription, "OP"));
            (p.family, p.result)
        })
    }

    #[test]
    fn polls_above_subscriptions_are_understood() {
        let deployment = "/providers/Microsoft.Resources/deployments/d";
        for resource in
            [deployment.to_owned(), format!("/providers/Microsoft.Management/managementGroups/M{deployment}")]
        {
            let urls = super::super::lro::PollUrls {
                base: "",
                subscription: "",
                location: "eastus",
                resource: &resource,
                namespace: "Microsoft.Resources",
                operation: "OP",
                api_version: "2021-04-01",
            };
            let path = |url: &str| url.split_once('?').unwrap().0.to_owned();
            assert_eq!(found(&path(&urls.status(Family::Deployment)), false), Some((Family::Deployment, false)));
            assert_eq!(found(&path(&urls.result(Family::Results)), false), Some((Family::Results, true)));
        }
    }

    #[test]
    fn every_poll_url_that_is_given_out_is_understood() {
        let families = [
            Family::Caps,
            Family::Disk,
            Family::Compute,
            Family::Network,
            Family::ImageBuilder,
            Family::Deployment,
            Family::Results,
        ];
        for (family, namespace) in families.iter().flat_map(|f| [(f, "Microsoft.Compute"), (f, "Microsoft.Storage")]) {
            let urls = super::super::lro::PollUrls {
                base: "",
                subscription: "S",
                location: "eastus",
                resource: "/subscriptions/S/resourceGroups/g/providers/Microsoft.Resources/deployments/d",
                namespace,
                operation: "OP",
                api_version: "2021-10-01",
            };
            for (url, is_result) in [(urls.status(*family), false), (urls.result(*family), true)] {
                let (path, query) = url.split_once('?').unwrap();
                let (_, result) = found(path, query.contains("monitor=true")).unwrap_or_else(|| panic!("{url}"));
                let one_url = matches!(family, Family::ImageBuilder | Family::Results);
                assert!(one_url || result == is_result, "{url}");
            }
        }
    }

    #[test]
    fn resources_are_no_polls() {
        for path in [
            "/subscriptions/S",
            "/subscriptions/S/providers/Microsoft.Compute/locations/eastus/vmSizes/OP",
            "/subscriptions/S/resourceGroups/operations",
        ] {
            assert_eq!(found(path, false), None, "{path}");
        }
    }
}
