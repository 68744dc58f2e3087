//! The resources that hang on any scope: `{scope}/providers/Microsoft.Authorization/…`, and the activity log.

use super::access::{Access, subscription_of};
use super::scope::Scope;
use crate::call::{Call, Extension, ExtensionReply, Method};
use crate::write::audit;
use crate::{Engine, db_error};
use lazuli_arm::ArmError;
use lazuli_meta::WriteError;
use lazuli_meta::model::{Change, Conflict, Write};
use serde_json::{Value, json};

/// A request with its scope understood.
pub(super) struct Request<'a> {
    pub engine: &'a Engine,
    pub call: &'a Call,
    pub scope: Scope,
    /// Tenant of the scope.
    pub tenant: String,
    pub body: &'a Value,
}

impl Request<'_> {
    /// # Errors
    /// 403 `AuthorizationFailed`.
    pub async fn authorize(&self, action: &str) -> Result<(), ArmError> {
        self.engine.authorize(&self.call.caller, &self.scope.shown(), action).await
    }

    /// `{scope}/providers/Microsoft.Authorization/{kind}/{name}`
    pub fn id(&self, kind: &str, name: &str) -> String {
        format!("{}/providers/Microsoft.Authorization/{kind}/{name}", self.scope.prefix())
    }

    /// Writes what was decided on `access`, with a line in the activity log about `id`. `false`: the identities changed meanwhile,
    /// decide again.
    pub async fn commit(&self, access: &Access, change: Change, id: &str, action: &str) -> Result<bool, WriteError> {
        let key = id.to_ascii_lowercase();
        let line = audit(self.call, &key, subscription_of(&key).unwrap_or_default(), action);
        let changes = vec![Change::RequireIdentity { changes: access.changes }, change, line];
        match self.engine.db().write(Write { fence: None, changes }).await {
            Err(WriteError::Conflict(Conflict::Etag { .. })) => Ok(false),
            written => written.map(|()| true),
        }
    }

    pub fn filter(&self) -> &str {
        self.call.query.get("$filter").map_or("", String::as_str)
    }
}

/// For what no request can be the cause of.
pub(super) fn not_written(error: WriteError) -> ArmError {
    match error {
        WriteError::Conflict(conflict) => ArmError::internal(conflict),
        WriteError::Db(e) => db_error(e),
    }
}

pub(super) fn ok(body: Value) -> ExtensionReply {
    ExtensionReply { status: 200, body: Some(body) }
}

pub(super) fn list(items: Vec<Value>) -> ExtensionReply {
    ok(json!({"value": items}))
}

/// `name eq 'value'`
pub(super) fn equals<'a>(filter: &'a str, name: &str) -> Option<&'a str> {
    filter.split(" and ").find_map(|term| {
        let (left, right) = term.split_once(" eq ")?;
        let right = right.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        left.trim().eq_ignore_ascii_case(name).then_some(right)
    })
}

/// `name('value')`
pub(super) fn argument<'a>(filter: &'a str, name: &str) -> Option<&'a str> {
    filter.split(" and ").find_map(|term| {
        let rest = term.trim().get(name.len()..)?;
        let same = term.trim()[..name.len()].eq_ignore_ascii_case(name);
        same.then_some(rest)?.strip_prefix("('")?.strip_suffix("')")
    })
}

/// `name()`
pub(super) fn has_function(filter: &str, name: &str) -> bool {
    filter.split(" and ").any(|term| term.trim().eq_ignore_ascii_case(&format!("{name}()")))
}

impl Engine {
    /// A request for a resource at a scope; `None` where this server has no such type.
    ///
    /// # Errors
    /// Azure's own.
    pub async fn extension(&self, call: &Call, asked: &Extension) -> Result<Option<ExtensionReply>, ArmError> {
        let scope = Scope::parse(&asked.scope)?;
        let access = self.access_of(&call.caller).await?;
        let tenant = scope.tenant(&access, &call.caller)?;
        let path: Vec<String> = asked.path.iter().map(|s| s.to_ascii_lowercase()).collect();
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let name = asked.path.get(1).map_or("", String::as_str);
        let request = Request { engine: self, call, scope, tenant, body: &asked.body };
        let namespace = asked.namespace.to_ascii_lowercase();
        let reply = match (namespace.as_str(), words.as_slice(), asked.method) {
            ("microsoft.authorization", ["roledefinitions"], Method::Get) => request.list_roles(&access)?,
            ("microsoft.authorization", ["roledefinitions", _], Method::Get) => request.get_role(&access, name)?,
            ("microsoft.authorization", ["roledefinitions", _], Method::Put) => request.put_role(name).await?,
            ("microsoft.authorization", ["roledefinitions", _], Method::Delete) => request.delete_role(name).await?,
            ("microsoft.authorization", ["roleassignments"], Method::Get) => request.list_assignments(&access)?,
            ("microsoft.authorization", ["roleassignments", _], Method::Get) => {
                request.get_assignment(&access, name).await?
            }
            ("microsoft.authorization", ["roleassignments", _], Method::Put) => request.put_assignment(name).await?,
            ("microsoft.authorization", ["roleassignments", _], Method::Delete) => {
                request.delete_assignment(name).await?
            }
            ("microsoft.authorization", ["permissions"], Method::Get) => request.permissions(&access),
            ("microsoft.authorization", ["checkaccess"], Method::Post) => request.check_access(&access).await?,
            ("microsoft.authorization", ["locks"], Method::Get) => request.list_locks(&access).await?,
            ("microsoft.authorization", ["locks", _], Method::Get) => request.get_lock(&access, name).await?,
            ("microsoft.authorization", ["locks", _], Method::Put) => request.put_lock(name).await?,
            ("microsoft.authorization", ["locks", _], Method::Delete) => request.delete_lock(name).await?,
            ("microsoft.insights", ["eventtypes", "management", "values"], Method::Get) => {
                let items = self.activity_log(call, &request.scope).await?;
                ok(items)
            }
            ("microsoft.serialconsole", ["serialports", "0", "connect"], Method::Post) => {
                ok(self.serial_address(call, &request.scope.shown()).await?)
            }
            ("microsoft.authorization", [kind, ..], _) if is_known(kind) => {
                return Err(ArmError::new(
                    405,
                    "HttpMethodNotAllowed",
                    format!("The method is not allowed on '{}'.", asked.path.join("/")),
                ));
            }
            _ => return Ok(None),
        };
        Ok(Some(reply))
    }
}

fn is_known(kind: &str) -> bool {
    ["roledefinitions", "roleassignments", "permissions", "checkaccess", "locks"].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        assert_eq!(equals("roleName eq 'Disk Reader'", "rolename"), Some("Disk Reader"));
        assert_eq!(equals("atScope() and principalId eq 'x'", "principalId"), Some("x"));
        assert_eq!(equals("principalId eq x", "principalId"), None);
        assert_eq!(argument("atScope() and assignedTo('x')", "assignedTo"), Some("x"));
        assert_eq!(argument("é", "assignedTo"), None);
        assert!(has_function("atScope()", "atscope") && !has_function("atScopeAndBelow()", "atScope"));
    }
}
