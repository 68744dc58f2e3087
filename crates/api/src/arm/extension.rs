//! Resources that hang on any scope: `{scope}/providers/Microsoft.Authorization/…`, the activity log's events, the serial ports of
//! machines.

use super::Arm;
use crate::respond::{self, Reply};
use http::StatusCode;
use lazuli_arm::{ArmError, lenient_json};
use lazuli_engine::call::{Extension, Method};
use serde_json::Value;

/// The scope, the namespace and what follows it; `None` for all other paths.
fn split<'a>(segments: &[&'a str]) -> Option<(String, &'a str, Vec<&'a str>)> {
    let is = |i: usize, word: &str| segments.get(i).is_some_and(|s| s.eq_ignore_ascii_case(word));
    let starts = |i: &usize| {
        is(*i, "providers")
            && (is(i + 1, "Microsoft.Authorization")
                || is(i + 1, "Microsoft.SerialConsole")
                || is(i + 1, "Microsoft.Insights") && is(i + 2, "eventtypes"))
            && segments.len() > i + 2
    };
    let at = (0..segments.len()).rev().find(starts)?;
    let scope = segments[..at].iter().map(|s| format!("/{s}")).collect();
    Some((scope, segments[at + 1], segments[at + 2..].to_vec()))
}

/// Answers paths of this kind; `None` for all others.
pub(super) async fn handle(arm: &Arm<'_>) -> Result<Option<Reply>, ArmError> {
    let segments = arm.context.segments();
    let Some((scope, namespace, path)) = split(&segments) else { return Ok(None) };
    let method = match arm.context.method {
        http::Method::GET | http::Method::HEAD => Method::Get,
        http::Method::PUT => Method::Put,
        http::Method::PATCH => Method::Patch,
        http::Method::POST => Method::Post,
        http::Method::DELETE => Method::Delete,
        _ => return Err(crate::app::method_not_allowed(arm.context)),
    };
    let asked = Extension {
        scope,
        namespace: namespace.to_owned(),
        path: path.into_iter().map(str::to_owned).collect(),
        method,
        body: lenient_json::parse(arm.body)?.unwrap_or(Value::Null),
    };
    let Some(reply) = arm.app.backend.extension(&arm.call, &asked).await? else { return Ok(None) };
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    Ok(Some(match reply.body {
        Some(body) => respond::json(status, &body),
        None => respond::empty(status),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_counts() {
        let at = |path: &str| {
            let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
            split(&segments).map(|(scope, _, rest)| (scope, rest.join("/")))
        };
        let found = |scope: &str, rest: &str| Some((scope.to_owned(), rest.to_owned()));
        let disk = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d";
        assert_eq!(at(&format!("{disk}/providers/microsoft.authorization/locks/l")), found(disk, "locks/l"));
        assert_eq!(at("/providers/Microsoft.Authorization/roleDefinitions"), found("", "roleDefinitions"));
        let events = "/subscriptions/s/providers/microsoft.insights/eventtypes/management/values";
        assert_eq!(at(events), found("/subscriptions/s", "eventtypes/management/values"));
        assert_eq!(at(disk), None);
        assert_eq!(at("/subscriptions/s/providers/Microsoft.Authorization"), None);
    }
}
