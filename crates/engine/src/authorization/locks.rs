//! Management locks: `CanNotDelete` keeps what is below it from being deleted, `ReadOnly` from being changed by anybody.

use super::access::Access;
use super::extension::{Request, has_function, list, not_written, ok};
use super::scope::{Scope, is_within};
use crate::Engine;
use crate::call::{Caller, ExtensionReply};
use crate::write::audit;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, ManagementLock, Write};
use serde_json::{Value, json};

const READ: &str = "Microsoft.Authorization/locks/read";
const WRITE: &str = "Microsoft.Authorization/locks/write";
const DELETE: &str = "Microsoft.Authorization/locks/delete";

/// What is done to something that may be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Also POST actions: a read-only lock forbids all that reading cannot do.
    Write,
    Delete,
}

/// # Errors
/// 409 `ScopeLocked`.
pub(crate) fn check(access: &Access, scope: &Scope, tenant: &str, verb: Verb) -> Result<(), ArmError> {
    if access.locks.is_empty() {
        return Ok(());
    }
    let (key, above) = (scope.key(), scope.with_ancestors(tenant));
    let stops = |lock: &&ManagementLock| match verb {
        Verb::Write => lock.level == "ReadOnly" && above.contains(&lock.scope),
        // What lies below would go with it.
        Verb::Delete => above.contains(&lock.scope) || is_within(&lock.scope, &key),
    };
    let locked: Vec<String> = access
        .locks
        .iter()
        .filter(stops)
        .map(|lock| format!("'{}'", lock.body["scope"].as_str().unwrap_or(&lock.scope)))
        .collect();
    if locked.is_empty() {
        return Ok(());
    }
    let word = if verb == Verb::Delete { "delete" } else { "write" };
    Err(ArmError::conflict(
        "ScopeLocked",
        format!(
            "The scope '{}' cannot perform {word} operation because following scope(s) are locked: {}. Please remove the lock \
             and try again.",
            scope.shown(),
            locked.join(", ")
        ),
    ))
}

impl Engine {
    /// # Errors
    /// As [`check`].
    pub(crate) async fn check_locks(&self, caller: &Caller, id: &ResourceId, verb: Verb) -> Result<(), ArmError> {
        let access = self.access_of(caller).await?;
        check(&access, &Scope::Resource(id.clone()), &caller.tenant, verb)
    }
}

fn shown(lock: &ManagementLock) -> Value {
    let mut properties = json!({"level": lock.level});
    for name in ["notes", "owners"] {
        if !lock.body[name].is_null() {
            properties[name] = lock.body[name].clone();
        }
    }
    json!({
        "properties": properties,
        "id": lock.body["id"],
        "type": "Microsoft.Authorization/locks",
        "name": lock.body["name"],
    })
}

fn not_found(name: &str) -> ArmError {
    ArmError::new(404, "LockNotFound", format!("The lock '{name}' could not be found."))
}

impl Request<'_> {
    fn find_lock<'a>(&self, access: &'a Access, name: &str) -> Option<&'a ManagementLock> {
        let key = self.id("locks", name).to_ascii_lowercase();
        access.locks.iter().find(|l| l.key == key)
    }

    fn require_lockable(&self) -> Result<String, ArmError> {
        match &self.scope {
            Scope::Resource(id) => Ok(id.subscription.clone()),
            _ => Err(ArmError::bad_request(
                "InvalidLockScope",
                "Locks can be put on a subscription, a resource group or a resource.",
            )),
        }
    }

    /// At the scope and below it; with `atScope()` at it alone.
    pub(super) async fn list_locks(&self, access: &Access) -> Result<ExtensionReply, ArmError> {
        self.require_lockable()?;
        self.authorize(READ).await?;
        let (key, only) = (self.scope.key(), has_function(self.filter(), "atScope"));
        let wanted = |l: &&ManagementLock| if only { l.scope == key } else { is_within(&l.scope, &key) };
        Ok(list(access.locks.iter().filter(wanted).map(shown).collect()))
    }

    pub(super) async fn get_lock(&self, access: &Access, name: &str) -> Result<ExtensionReply, ArmError> {
        self.authorize(READ).await?;
        self.find_lock(access, name).map(|l| ok(shown(l))).ok_or_else(|| not_found(name))
    }

    pub(super) async fn put_lock(&self, name: &str) -> Result<ExtensionReply, ArmError> {
        let subscription = self.require_lockable()?;
        self.authorize(WRITE).await?;
        self.require_target().await?;
        let given = &self.body["properties"];
        let level = given["level"].as_str().unwrap_or_default();
        let level =
            ["CanNotDelete", "ReadOnly"].into_iter().find(|l| l.eq_ignore_ascii_case(level)).ok_or_else(|| {
                ArmError::bad_request(
                    "InvalidLockLevel",
                    format!("The lock level '{level}' is invalid. It must be 'CanNotDelete' or 'ReadOnly'."),
                )
            })?;
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.() ".contains(c)) || !(1..=260).contains(&name.len())
        {
            return Err(ArmError::bad_request("InvalidLockName", format!("The lock name '{name}' is invalid.")));
        }
        let access = self.engine.access().await?;
        let created = self.find_lock(&access, name).is_none();
        let id = self.id("locks", name);
        let lock = ManagementLock {
            key: id.to_ascii_lowercase(),
            scope: self.scope.key(),
            level: level.to_owned(),
            body: json!({
                "id": id, "name": name, "scope": self.scope.shown(), "notes": given["notes"], "owners": given["owners"],
            }),
        };
        let changes = vec![Change::PutLock(lock.clone()), audit(self.call, &lock.key, &subscription, WRITE)];
        self.write(changes).await?;
        Ok(ExtensionReply { status: if created { 201 } else { 200 }, body: Some(shown(&lock)) })
    }

    pub(super) async fn delete_lock(&self, name: &str) -> Result<ExtensionReply, ArmError> {
        let subscription = self.require_lockable()?;
        self.authorize(DELETE).await?;
        let access = self.engine.access().await?;
        let Some(lock) = self.find_lock(&access, name) else {
            return Ok(ExtensionReply { status: 204, body: None });
        };
        let changes =
            vec![Change::DeleteLock { key: lock.key.clone() }, audit(self.call, &lock.key, &subscription, DELETE)];
        self.write(changes).await?;
        Ok(ExtensionReply { status: 200, body: None })
    }

    async fn write(&self, changes: Vec<Change>) -> Result<(), ArmError> {
        self.engine.db().write(Write { fence: None, changes }).await.map_err(not_written)
    }
}
