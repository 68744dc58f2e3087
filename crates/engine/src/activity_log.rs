//! The activity log: `{subscription}/providers/Microsoft.Insights/eventtypes/management/values`, made of the audit records that
//! every write commits together with what it writes. An operation that goes on after its request has a second line, committed with its
//! end.

use crate::authorization::access::{Access, subscription_of};
use crate::authorization::scope::Scope;
use crate::call::Call;
use crate::{Engine, db_error, now_ms};
use lazuli_arm::ArmError;
use lazuli_authz::rbac::Plane;
use lazuli_meta::model::{Audit, AuditQuery, Operation, OperationState};
use lazuli_meta::{ChainAnchor, ChainReport, Db, MetaError};
use serde_json::{Value, json};

const READ: &str = "Microsoft.Insights/eventtypes/values/Read";
/// Lines of a page; clients follow `nextLink`.
const PAGE: usize = 200;

/// What `$filter` says; conditions are joined by `and`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    since_ms: Option<i64>,
    until_ms: Option<i64>,
    /// `(name in lower case, value)`
    equal: Vec<(String, String)>,
}

const NAMES: [&str; 7] =
    ["resourcegroupname", "resourceuri", "resourceid", "resourceprovider", "correlationid", "caller", "status"];

impl Filter {
    fn parse(text: &str) -> Result<Self, ArmError> {
        let bad = || ArmError::bad_request("BadRequest", format!("The $filter '{text}' is not valid."));
        let mut filter = Self::default();
        for term in text.split(" and ").map(str::trim).filter(|t| !t.is_empty()) {
            let mut words = term.splitn(3, ' ');
            let (Some(name), Some(operator), Some(value)) = (words.next(), words.next(), words.next()) else {
                return Err(bad());
            };
            let (name, value) = (name.to_ascii_lowercase(), value.trim().trim_matches('\''));
            let time = || milliseconds(value).ok_or_else(bad);
            match (name.as_str(), operator) {
                ("eventtimestamp", "ge") => filter.since_ms = Some(time()?),
                ("eventtimestamp", "le") => filter.until_ms = Some(time()?),
                // All that is logged here came through these channels.
                ("eventchannels", "eq") | ("levels", "eq") => {}
                (known, "eq") if NAMES.contains(&known) => filter.equal.push((name, value.to_ascii_lowercase())),
                _ => return Err(bad()),
            }
        }
        Ok(filter)
    }

    fn holds(&self, access: &Access, line: &Audit) -> bool {
        let id = &line.resource_key;
        let caller = || access.principal(&line.principal).map(|p| p.app_id.to_ascii_lowercase()).unwrap_or_default();
        self.until_ms.is_none_or(|until| line.time_ms <= until)
            && self.equal.iter().all(|(name, value)| match name.as_str() {
                "resourcegroupname" => group_of(id) == value,
                "resourceuri" | "resourceid" => id == value,
                "resourceprovider" => provider_of(&line.action).eq_ignore_ascii_case(value),
                "correlationid" => line.correlation_id.eq_ignore_ascii_case(value),
                "caller" => line.principal.eq_ignore_ascii_case(value) || caller() == *value,
                "status" => line.status.eq_ignore_ascii_case(value),
                _ => false,
            })
    }
}

/// az leaves the zone out: it is UTC.
fn milliseconds(time: &str) -> Option<i64> {
    let time = time.parse().or_else(|_| format!("{time}Z").parse::<jiff::Timestamp>()).ok()?;
    Some(time.as_millisecond())
}

/// The group in a key.
fn group_of(key: &str) -> &str {
    key.split("/resourcegroups/").nth(1).and_then(|r| r.split('/').next()).unwrap_or_default()
}

fn provider_of(action: &str) -> &str {
    action.split('/').next().unwrap_or_default()
}

/// In the detail of a line: the operation that goes on with it, whose id is the line's own.
const OPERATION: &str = "operation";

pub(crate) fn accepted(operation: &str) -> Value {
    json!({OPERATION: operation})
}

/// The line of an operation's end: as the one it was accepted with. `None`: no caller asked for it.
pub(crate) async fn end_of(
    db: &Db,
    operation: &Operation,
    state: OperationState,
    error: Option<&Value>,
) -> Result<Option<Audit>, MetaError> {
    let accepted = db.audit_line(&operation.id).await?;
    Ok(accepted.map(|line| ended(line, state, error)))
}

fn ended(accepted: Audit, state: OperationState, error: Option<&Value>) -> Audit {
    let mut detail = accepted.detail;
    if let Some(error) = error {
        // As Azure has it: JSON in text.
        detail["statusMessage"] = json!(json!({"error": error}).to_string());
    }
    let id = uuid::Uuid::new_v4().to_string();
    Audit { id, time_ms: now_ms(), status: state.as_str().to_owned(), detail, ..accepted }
}

fn localized(value: &str) -> Value {
    json!({"value": value, "localizedValue": value})
}

fn shown(access: &Access, line: &Audit) -> Value {
    let principal = access.principal(&line.principal);
    let who = principal.map(|p| if p.app_id.is_empty() { &p.login } else { &p.app_id });
    let time = crate::time_text(line.time_ms);
    let id = &line.resource_key;
    let kind = line.action.rsplit_once('/').map_or(line.action.as_str(), |(kind, _)| kind);
    let kind = if line.action.ends_with("/action") { kind.rsplit_once('/').map_or(kind, |(k, _)| k) } else { kind };
    let mut properties = line.detail.clone();
    let operation = properties.as_object_mut().and_then(|p| p.shift_remove(OPERATION));
    json!({
        "authorization": {"action": line.action, "scope": id},
        "caller": who.unwrap_or(&line.principal),
        "channels": "Operation",
        "claims": {
            "http://schemas.microsoft.com/identity/claims/objectidentifier": line.principal,
            "http://schemas.microsoft.com/identity/claims/tenantid": line.tenant,
            "appid": principal.map_or("", |p| p.app_id.as_str()),
            "name": principal.map_or("", |p| p.display_name.as_str()),
        },
        "correlationId": line.correlation_id,
        "description": "",
        "eventDataId": line.id,
        "eventName": localized(if line.status == "Accepted" { "BeginRequest" } else { "EndRequest" }),
        "category": localized("Administrative"),
        "id": format!("{id}/events/{}/ticks/{}", line.id, line.time_ms),
        "level": if line.status == "Failed" { "Error" } else { "Informational" },
        "resourceGroupName": group_of(id),
        "resourceProviderName": localized(provider_of(&line.action)),
        "resourceId": id,
        "resourceType": localized(kind),
        "operationId": operation.unwrap_or_else(|| json!(line.correlation_id)),
        "operationName": localized(&line.action),
        "properties": properties,
        "status": localized(&line.status),
        "subStatus": localized(""),
        "eventTimestamp": time,
        "submissionTimestamp": time,
        "subscriptionId": line.subscription,
        "tenantId": line.tenant,
    })
}

impl Engine {
    /// What is found of each chain of linked lines; `earlier`: ends that were written down.
    ///
    /// # Errors
    /// What the database says.
    pub async fn verify_activity_log(&self, earlier: &[ChainAnchor]) -> Result<Vec<ChainReport>, MetaError> {
        self.db().verify_audit(earlier).await
    }

    /// One page, newest first: what the caller may read of it.
    pub(crate) async fn activity_log(&self, call: &Call, scope: &Scope) -> Result<Value, ArmError> {
        let key = scope.key();
        let subscription = subscription_of(&key)
            .ok_or_else(|| ArmError::bad_request("BadRequest", "The activity log is read at a subscription."))?;
        let access = self.access_of(&call.caller).await?;
        let principal = &call.caller.principal;
        if !access.allows_below(principal, &key, READ) {
            return Err(crate::authorization::not_authorized(&call.caller, &scope.shown(), READ));
        }
        let filter = Filter::parse(call.query.get("$filter").map_or("", String::as_str))?;
        let mut query = AuditQuery {
            subscription: Some(subscription.to_owned()),
            since_ms: filter.since_ms,
            before: call.query.get("$skiptoken").and_then(|token| parse_token(token)),
            ..AuditQuery::default()
        };
        let mut items: Vec<Value> = Vec::new();
        let mut next = None;
        'pages: loop {
            let lines = self.db().audit(&query).await.map_err(db_error)?;
            let Some(last) = lines.last() else { break };
            query.before = Some((last.time_ms, last.id.clone()));
            for line in &lines {
                if !filter.holds(&access, line) || !access.allows(principal, &line.resource_key, READ, Plane::Control) {
                    continue;
                }
                items.push(shown(&access, line));
                if items.len() == PAGE {
                    next = Some(format!("{}.{}", line.time_ms, line.id));
                    break 'pages;
                }
            }
        }
        let mut page = json!({"value": items});
        if let Some(token) = next {
            let mut link = format!(
                "{}/subscriptions/{subscription}/providers/Microsoft.Insights/eventtypes/management/values?",
                call.urls.arm
            );
            for (name, value) in call.query.iter().filter(|(name, _)| name.as_str() != "$skiptoken") {
                link.push_str(&format!("{}={}&", encoded(name), encoded(value)));
            }
            page["nextLink"] = json!(format!("{link}$skiptoken={token}"));
        }
        Ok(page)
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn parse_token(token: &str) -> Option<(i64, String)> {
    let (time, id) = token.split_once('.')?;
    Some((time.parse().ok()?, id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_az_are_understood() {
        let az = "eventTimestamp ge '2026-11-01T00:00:00Z' and eventTimestamp le 2026-11-28T00:00:00.000000 and eventChannels eq \
                  'Admin, Operation' and resourceGroupName eq 'RG1'";
        let filter = Filter::parse(az).unwrap();
        assert!(filter.since_ms < filter.until_ms && filter.since_ms.is_some());
        assert_eq!(filter.equal, [("resourcegroupname".to_owned(), "rg1".to_owned())]);
        for bad in ["x", "color eq 'red'", "eventTimestamp ge 'yesterday'", "caller ne 'x'"] {
            assert_eq!(Filter::parse(bad).unwrap_err().code, "BadRequest", "{bad}");
        }
    }
}
