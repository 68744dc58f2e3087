//! PUT, PATCH, DELETE and POST: what every type has in common.
//!
//! ```text
//! authorize → read the row → check conditions and parents → provider decides → one transaction → wake a worker
//!                  ^                                                 │
//!                  └────────── another writer was faster ────────────┘
//! ```

use crate::authorization::locks::Verb as Lock;
use crate::call::{ActionReply, Call, Deleted, Written};
use crate::provider::{ActionPlan, Context, DeletePlan, Elsewhere, Plan, Provider, Start, unknown_action};
use crate::{Engine, db_error, new_etag, now_ms};
use lazuli_arm::{ArmError, ResourceId, locations};
use lazuli_meta::WriteError;
use lazuli_meta::model::{
    Audit, Change, Conflict, Expect, NewOperation, OperationQuery, OperationState, Resource, Write,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How often a write is decided anew because another writer was faster.
const ATTEMPTS: u32 = 32;

enum Verb {
    Put(Value),
    Patch(Value),
}

impl Engine {
    /// Creates or replaces.
    ///
    /// # Errors
    /// Azure's own where the catalogue has one.
    pub async fn put(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError> {
        self.write_resource(call, id, &Verb::Put(body)).await
    }

    /// Changes what is given.
    ///
    /// # Errors
    /// 404 where there is nothing to change, else as [`Engine::put`].
    pub async fn patch(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError> {
        self.write_resource(call, id, &Verb::Patch(body)).await
    }

    async fn write_resource(&self, call: &Call, id: &ResourceId, verb: &Verb) -> Result<Written, ArmError> {
        let provider = self.provider_of(id)?.clone();
        self.require_scope(&call.caller, id, &id.resource_type()).await?;
        let right = format!("{}/write", provider.right_type());
        self.authorize(&call.caller, &id.to_string(), &right).await?;
        self.check_locks(&call.caller, id, Lock::Write).await?;
        let call = &call.acting(id.to_string(), right);
        if let Some(elsewhere) = provider.elsewhere() {
            return self.write_elsewhere(call, id, verb, provider.as_ref(), elsewhere).await;
        }
        for attempt in 0..ATTEMPTS {
            let old = self.db().resource(&id.key()).await.map_err(db_error)?;
            if let Some(written) = self.try_write(call, id, verb, &provider, old).await? {
                return Ok(written);
            }
            give_way(attempt).await;
        }
        Err(too_busy(id))
    }

    /// `None`: another writer was faster.
    async fn try_write(
        &self,
        call: &Call,
        id: &ResourceId,
        verb: &Verb,
        provider: &Arc<dyn Provider>,
        old: Option<Resource>,
    ) -> Result<Option<Written>, ArmError> {
        check_conditions(call, old.as_ref().map(|o| provider.etag(o)).as_deref())?;
        let parent = self.require_parent(id).await?;
        if let Some(old) = &old {
            self.check_writable(provider.as_ref(), old).await?;
        }
        let cx = Context { engine: self, call, now_ms: now_ms() };
        let plan = match (verb, &old) {
            (Verb::Put(body), _) => provider.put(cx, id, body.clone(), old.as_ref()).await?,
            (Verb::Patch(body), Some(old)) => provider.patch(cx, id, body.clone(), old).await?,
            (Verb::Patch(body), None) => match provider.patch_absent(cx, id, body).await? {
                Some(plan) => plan,
                None => return Err(provider.absent(id)),
            },
        };
        let created = old.is_none();
        let row = row_of(id, provider.as_ref(), &plan, old.as_ref(), parent.as_deref(), cx.now_ms);
        let operation = operation_of(plan.start.clone(), &row, "write");
        let operation_id = operation.id.clone();
        let action = format!("{}/write", provider.right_type());
        let line = audit_of(call, &row.key, &id.subscription, &action, Some(&operation));
        let mut changes = Vec::new();
        let is_parent = |key: &str| parent.as_deref() == Some(key);
        changes.extend(parent.clone().map(|key| Change::RequireResource { key }));
        let expect = old.map_or(Expect::Absent, |o| Expect::Etag(o.etag));
        changes.push(Change::PutResource { resource: row.clone(), expect });
        changes.push(Change::StartOperation(operation));
        changes.push(line);
        changes.extend(plan.changes);
        match self.db().write(Write { fence: None, changes: each_once(changes) }).await {
            Ok(()) => {}
            Err(WriteError::Conflict(Conflict::Missing { key } | Conflict::Deleting { key })) if is_parent(&key) => {
                return Err(missing(id, &key));
            }
            // What it is made of changed or went meanwhile: its provider finds out, and says so in its words.
            Err(WriteError::Conflict(
                Conflict::Etag { .. } | Conflict::Exists { .. } | Conflict::Missing { .. } | Conflict::Deleting { .. },
            )) => return Ok(None),
            Err(WriteError::Conflict(conflict)) => return Err(ArmError::internal(conflict)),
            Err(WriteError::Db(e)) => return Err(db_error(e)),
        }
        self.written(&row.kind);
        let resource = provider.show(cx, &row).await?;
        Ok(Some(Written { resource, created, operation: Some(operation_id), etag: provider.etag(&row) }))
    }

    /// As [`Engine::try_write`], of what the data plane keeps.
    async fn write_elsewhere(
        &self,
        call: &Call,
        id: &ResourceId,
        verb: &Verb,
        provider: &dyn Provider,
        elsewhere: &dyn Elsewhere,
    ) -> Result<Written, ArmError> {
        let parent = self.require_parent(id).await?;
        let cx = Context { engine: self, call, now_ms: now_ms() };
        if call.if_match.is_some() || call.if_none_match.is_some() {
            let etag = elsewhere.get(cx, id).await?.map(|kept| kept.etag);
            check_conditions(call, etag.as_deref())?;
        }
        let (mut record, operation) = record_elsewhere(call, id, provider, "write");
        record.extend(parent.map(|key| Change::RequireResource { key }));
        let (kept, created) = match verb {
            Verb::Put(body) => Elsewhere::put(elsewhere, cx, id, body, record).await?,
            Verb::Patch(patch) => match Elsewhere::patch(elsewhere, cx, id, patch, record).await? {
                Some(kept) => (kept, false),
                None => return Err(self.explain_absent(provider, id).await?),
            },
        };
        let operation = Some(kept.operation.unwrap_or(operation));
        Ok(Written { resource: kept.view, created, operation, etag: kept.etag })
    }

    async fn delete_elsewhere(
        &self,
        call: &Call,
        id: &ResourceId,
        provider: &dyn Provider,
        elsewhere: &dyn Elsewhere,
    ) -> Result<Deleted, ArmError> {
        let cx = Context { engine: self, call, now_ms: now_ms() };
        if call.if_match.is_some() {
            let etag = elsewhere.get(cx, id).await?.map(|kept| kept.etag);
            check_conditions(call, etag.as_deref())?;
        }
        let (record, operation) = record_elsewhere(call, id, provider, "delete");
        let deleted = Elsewhere::delete(elsewhere, cx, id, record).await?;
        Ok(if deleted { Deleted::Done { operation } } else { Deleted::Absent })
    }

    /// The answer to a request for what is not there: the nearest thing above that is missing, or the thing itself.
    pub(crate) async fn explain_absent(&self, provider: &dyn Provider, id: &ResourceId) -> Result<ArmError, ArmError> {
        Ok(match self.require_parent(id).await {
            Ok(_) => provider.absent(id),
            Err(missing) => missing,
        })
    }

    /// The parent's key, if the parent is a row; error where it must be there and is not.
    async fn require_parent(&self, id: &ResourceId) -> Result<Option<String>, ArmError> {
        let Some(parent) = id.parent().filter(|p| p.resource_group.is_some()) else {
            return Ok(None);
        };
        // A parent type that nobody provides (a namespace-less scope) is not looked for.
        let key = parent.key();
        match self.db().resource(&key).await.map_err(db_error)? {
            Some(row) if row.provisioning_state == "Deleting" => Err(missing(id, &key)),
            Some(_) => Ok(Some(key)),
            None if parent.is_group() => Err(ArmError::group_not_found(parent.name())),
            None => {
                let group =
                    ResourceId::group(&parent.subscription, parent.resource_group.as_deref().unwrap_or_default());
                if self.db().resource(&group.key()).await.map_err(db_error)?.is_none() {
                    return Err(ArmError::group_not_found(group.name()));
                }
                let names: Vec<&str> = parent.segments.iter().map(|(_, n)| n.as_str()).collect();
                Err(ArmError::parent_not_found(&names.join("/")))
            }
        }
    }

    /// Refuses writes to what is being deleted or worked on.
    async fn check_writable(&self, provider: &dyn Provider, old: &Resource) -> Result<(), ArmError> {
        if old.provisioning_state == "Deleting" {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!(
                    "Operation '{}' is not allowed on '{}' since it is marked for deletion. You can only retry the Delete \
                     operation (or wait for an ongoing one to complete).",
                    provider.update_title(),
                    old.name
                ),
            ));
        }
        if provider.writable_while_running() || !is_busy(old) {
            return Ok(());
        }
        Err(busy(old))
    }

    /// Removes a resource; what it contains must be gone before (a resource group takes its contents along).
    ///
    /// # Errors
    /// `CannotDeleteResource` with children, 412 on a failed condition, else what the provider says.
    pub async fn delete(&self, call: &Call, id: &ResourceId) -> Result<Deleted, ArmError> {
        let provider = self.provider_of(id)?.clone();
        self.require_scope(&call.caller, id, &id.resource_type()).await?;
        let right = format!("{}/delete", provider.right_type());
        self.authorize(&call.caller, &id.to_string(), &right).await?;
        self.check_locks(&call.caller, id, Lock::Delete).await?;
        if let Some(elsewhere) = provider.elsewhere() {
            return self.delete_elsewhere(call, id, provider.as_ref(), elsewhere).await;
        }
        for attempt in 0..ATTEMPTS {
            let Some(old) = self.db().resource(&id.key()).await.map_err(db_error)? else {
                return Ok(Deleted::Absent);
            };
            check_conditions(call, Some(&provider.etag(&old)))?;
            if let Some(deleted) = self.try_delete(call, &provider, old).await? {
                return Ok(deleted);
            }
            give_way(attempt).await;
        }
        Err(too_busy(id))
    }

    async fn running_delete(&self, key: &str) -> Result<Option<String>, ArmError> {
        let query = OperationQuery {
            resource_key: Some(key.to_owned()),
            state: Some(OperationState::Running),
            ..OperationQuery::default()
        };
        let running = self.db().operations(&query).await.map_err(db_error)?;
        Ok(running.into_iter().find(|o| o.kind.ends_with(".delete")).map(|o| o.id))
    }

    /// Deletes a row that was just read, or joins the deletion that is under way. `None`: another writer was faster.
    pub(crate) async fn try_delete(
        &self,
        call: &Call,
        provider: &Arc<dyn Provider>,
        old: Resource,
    ) -> Result<Option<Deleted>, ArmError> {
        if old.provisioning_state == "Deleting"
            && let Some(operation) = self.running_delete(&old.key).await?
        {
            return Ok(Some(Deleted::Started { operation }));
        }
        let cx = Context { engine: self, call, now_ms: now_ms() };
        let DeletePlan { start, changes: more } = provider.delete(cx, &old).await?;
        // First: among them may be the removal of children (subnets, rules).
        let mut changes = more;
        if old.kind != "microsoft.resources/resourcegroups" {
            changes.push(Change::RequireNoChildren { key: old.key.clone() });
        }
        let operation = operation_of(start.clone(), &old, "delete");
        let operation_id = operation.id.clone();
        let action = format!("{}/delete", provider.right_type());
        let line = audit_of(call, &old.key, &old.subscription, &action, Some(&operation));
        let expect = Expect::Etag(old.etag.clone());
        if start.is_some() {
            // Whatever still runs on it is told to stop; the delete waits for it.
            let marked = Resource {
                provisioning_state: "Deleting".into(),
                etag: new_etag(),
                changed_ms: cx.now_ms,
                ..old.clone()
            };
            changes.push(Change::PutResource { resource: marked, expect });
        } else {
            changes.push(Change::DeleteContentRefs { resource_key: old.key.clone() });
            changes.push(Change::DeleteGrantsOf { resource_key: old.key.clone() });
            changes.push(Change::DeleteResource { key: old.key.clone(), expect });
        }
        changes.push(Change::StartOperation(operation));
        changes.push(line);
        match self.db().write(Write { fence: None, changes }).await {
            Ok(()) => {}
            Err(WriteError::Conflict(Conflict::HasChildren { children, .. })) => return Err(has_children(&children)),
            Err(WriteError::Conflict(Conflict::Etag { .. } | Conflict::Missing { .. })) => return Ok(None),
            Err(WriteError::Conflict(conflict)) => return Err(ArmError::internal(conflict)),
            Err(WriteError::Db(e)) => return Err(db_error(e)),
        }
        self.written(&old.kind);
        if old.kind.eq_ignore_ascii_case(crate::storage_account::KIND) {
            self.storage().account_deleted(&old.location);
        }
        if start.is_some() {
            self.cancel_others(&old.key, &operation_id).await?;
            return Ok(Some(Deleted::Started { operation: operation_id }));
        }
        Ok(Some(Deleted::Done { operation: operation_id }))
    }

    async fn cancel_others(&self, key: &str, except: &str) -> Result<(), ArmError> {
        let query = OperationQuery {
            resource_key: Some(key.to_owned()),
            state: Some(OperationState::Running),
            ..OperationQuery::default()
        };
        for operation in self.db().operations(&query).await.map_err(db_error)? {
            if operation.id != except {
                self.db().request_cancel(&operation.id).await.map_err(db_error)?;
            }
        }
        Ok(())
    }

    /// A POST action such as `beginGetAccess`.
    ///
    /// # Errors
    /// What the provider says.
    pub async fn action(
        &self,
        call: &Call,
        id: &ResourceId,
        action: &str,
        body: Value,
    ) -> Result<ActionReply, ArmError> {
        if id.segments.is_empty()
            && let Some((namespace, word)) = action.split_once('/')
        {
            return self.namespace_action(call, id, namespace, word, &body).await;
        }
        let provider = self.provider_of(id)?.clone();
        self.require_scope(&call.caller, id, &id.resource_type()).await?;
        // The matrix of rights is made of this list: what is not on it is no action.
        let Some(action) = provider.actions().iter().find(|a| a.eq_ignore_ascii_case(action)) else {
            return Err(unknown_action(&id.to_string(), action));
        };
        let right = format!("{}/{action}/action", provider.right_type());
        self.authorize(&call.caller, &id.to_string(), &right).await?;
        let call = &call.acting(id.to_string(), right.clone());
        let cx = Context { engine: self, call, now_ms: now_ms() };
        // These ask, and change nothing.
        if let Some(reply) = provider.absent_action(cx, id, action, &body).await? {
            return Ok(reply);
        }
        self.check_locks(&call.caller, id, Lock::Write).await?;
        for attempt in 0..ATTEMPTS {
            let Some(old) = self.db().resource(&id.key()).await.map_err(db_error)? else {
                return Err(provider.absent(id));
            };
            if !provider.interrupts(action) {
                self.check_writable(provider.as_ref(), &old).await?;
            }
            let cx = Context { engine: self, call, now_ms: now_ms() };
            let plan = provider.action(cx, &old, action, body.clone()).await?;
            if let Some(reply) = self.commit_action(call, &old, &right, plan).await? {
                return Ok(reply);
            }
            give_way(attempt).await;
        }
        Err(too_busy(id))
    }

    /// `POST {subscription or group}/providers/{namespace}/{action}`: asks the namespace's types who knows it.
    async fn namespace_action(
        &self,
        call: &Call,
        scope: &ResourceId,
        namespace: &str,
        action: &str,
        body: &Value,
    ) -> Result<ActionReply, ArmError> {
        self.require_subscription(&call.caller, &scope.subscription).await?;
        let cx = Context { engine: self, call, now_ms: now_ms() };
        for provider in self.providers_of(namespace) {
            if let Some(reply) = provider.namespace_action(cx, scope, action, body).await? {
                return Ok(ActionReply::Done(Some(reply)));
            }
        }
        Err(unknown_action(&format!("{scope}/providers/{namespace}"), action))
    }

    async fn commit_action(
        &self,
        call: &Call,
        old: &Resource,
        right: &str,
        plan: ActionPlan,
    ) -> Result<Option<ActionReply>, ArmError> {
        let (start, reply, resource, more) = match plan {
            ActionPlan::Start { start, resource, changes } => (Some(start), None, resource, changes),
            ActionPlan::Done { reply, resource, changes } => (None, reply, resource, changes),
            ActionPlan::Show(reply) => {
                let changes = vec![audit(call, &old.key, &old.subscription, right)];
                self.db().write(Write { fence: None, changes }).await.map_err(ArmError::internal)?;
                return Ok(Some(ActionReply::Done(Some(reply))));
            }
        };
        let mut changes = Vec::new();
        // Even an action that leaves the row alone must not pass a concurrent writer unseen.
        let mut row = resource.unwrap_or_else(|| old.clone());
        row.etag = new_etag();
        row.changed_ms = now_ms();
        changes.push(Change::PutResource { resource: row.clone(), expect: Expect::Etag(old.etag.clone()) });
        let operation = start.map(|s| operation_of(Some(s), &row, "action"));
        let operation_id = operation.as_ref().map(|o| o.id.clone());
        changes.push(audit_of(call, &row.key, &row.subscription, right, operation.as_ref()));
        changes.extend(operation.map(Change::StartOperation));
        changes.extend(more);
        match self.db().write(Write { fence: None, changes: each_once(changes) }).await {
            Ok(()) => {}
            Err(WriteError::Conflict(Conflict::Etag { .. } | Conflict::Missing { .. })) => return Ok(None),
            Err(WriteError::Conflict(conflict)) => return Err(ArmError::internal(conflict)),
            Err(WriteError::Db(e)) => return Err(db_error(e)),
        }
        Ok(Some(match operation_id {
            Some(operation) => ActionReply::Started { operation },
            None => ActionReply::Done(reply),
        }))
    }
}

/// A disk that a body names twice is claimed once.
fn each_once(changes: Vec<Change>) -> Vec<Change> {
    let mut once: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes {
        if !once.contains(&change) {
            once.push(change);
        }
    }
    once
}

/// Writers that meet at one row (a subnet that many interfaces take addresses from) must not meet there again and again:
/// each waits for a random while that grows with its bad luck.
async fn give_way(attempt: u32) {
    let most = 1_u64 << attempt.min(6);
    let random = u64::from(Uuid::new_v4().as_bytes()[0]) * most / 256;
    tokio::time::sleep(Duration::from_millis(random)).await;
}

/// The answer to a write that must wait for an operation's end.
pub(crate) fn busy(row: &Resource) -> ArmError {
    ArmError::conflict(
        "AnotherOperationInProgress",
        format!("Another operation on '{}' is in progress. Wait until it ends, then retry the request.", row.name),
    )
}

/// Whether an operation that the row's state tells of is under way.
pub(crate) fn is_busy(row: &Resource) -> bool {
    matches!(row.provisioning_state.as_str(), "Creating" | "Updating" | "Migrating")
}

/// `etag`: of what is there, if anything is.
fn check_conditions(call: &Call, etag: Option<&str>) -> Result<(), ArmError> {
    let precondition = |message: &str| Err(ArmError::new(412, "PreconditionFailed", message));
    let matches = |wanted: &str, etag: &str| {
        wanted.split(',').map(|w| w.trim().trim_start_matches("W/").trim_matches('"')).any(|w| w == "*" || w == etag)
    };
    match (&call.if_match, etag) {
        (Some(_), None) => return precondition("If-Match was given, but the resource does not exist."),
        (Some(wanted), Some(etag)) if !matches(wanted, etag) => {
            return precondition(
                "The resource was changed by another writer: read it again, then retry with its new etag.",
            );
        }
        _ => {}
    }
    match (&call.if_none_match, etag) {
        (Some(unwanted), Some(etag)) if matches(unwanted, etag) => {
            precondition("If-None-Match was given, but the resource exists.")
        }
        _ => Ok(()),
    }
}

fn row_of(
    id: &ResourceId,
    provider: &dyn Provider,
    plan: &Plan,
    old: Option<&Resource>,
    parent: Option<&str>,
    now_ms: i64,
) -> Resource {
    let location = plan.body.get("location").and_then(Value::as_str).unwrap_or_default();
    let state = match (&plan.start, old) {
        (None, _) => "Succeeded",
        (Some(_), None) => "Creating",
        (Some(_), Some(_)) => "Updating",
    };
    // The id keeps the spelling under which the resource was made.
    let shown = old.map_or_else(|| canonical(id, provider.resource_type()), |o| o.id.clone());
    Resource {
        key: id.key(),
        sort_key: provider.sort_key(&id.key()),
        name: shown.rsplit('/').next().unwrap_or_default().to_owned(),
        id: shown,
        kind: provider.resource_type().to_ascii_lowercase(),
        subscription: id.subscription.to_ascii_lowercase(),
        resource_group: id.resource_group.as_deref().unwrap_or_default().to_ascii_lowercase(),
        parent: parent.map(str::to_owned),
        location: locations::normalize(location).map_or_else(|| location.to_owned(), |l| l.name.to_owned()),
        body: plan.body.clone(),
        internal: plan.internal.clone(),
        provisioning_state: state.to_owned(),
        etag: new_etag(),
        created_ms: old.map_or(now_ms, |o| o.created_ms),
        changed_ms: now_ms,
    }
}

/// The id with namespace and types spelled as the provider spells them.
pub(crate) fn canonical(id: &ResourceId, resource_type: &str) -> String {
    let mut spelled = id.clone();
    let mut words = resource_type.split('/');
    if !spelled.segments.is_empty() {
        spelled.namespace = words.next().unwrap_or_default().to_owned();
        for ((kind, _), word) in spelled.segments.iter_mut().zip(words) {
            word.clone_into(kind);
        }
    }
    spelled.to_string()
}

/// What is committed with a write to what the data plane keeps: the operation that is done with it, and the line of the activity
/// log. Also the operation's id.
fn record_elsewhere(call: &Call, id: &ResourceId, provider: &dyn Provider, verb: &str) -> (Vec<Change>, String) {
    let kind = provider.resource_type();
    let operation = NewOperation {
        id: Uuid::new_v4().to_string(),
        kind: format!("{}.{verb}", kind.to_ascii_lowercase()),
        resource_key: id.key(),
        subscription: id.subscription.to_ascii_lowercase(),
        location: String::new(),
        params: json!({}),
        state: OperationState::Succeeded,
        output: None,
    };
    let operation_id = operation.id.clone();
    let line = audit(call, &id.key(), &id.subscription, &format!("{}/{verb}", provider.right_type()));
    (vec![Change::StartOperation(operation), line], operation_id)
}

/// The operation a write starts, or the record of one that is done with the write itself.
pub(crate) fn operation_of(start: Option<Start>, row: &Resource, verb: &str) -> NewOperation {
    let state = if start.is_some() { OperationState::Running } else { OperationState::Succeeded };
    let (kind, params) =
        start.map_or_else(|| (format!("{}.{verb}", row.kind), json!({})), |s| (s.kind.to_owned(), s.params));
    NewOperation {
        id: Uuid::new_v4().to_string(),
        kind,
        resource_key: row.key.clone(),
        subscription: row.subscription.clone(),
        location: row.location.clone(),
        params,
        state,
        output: None,
    }
}

/// The line of the activity log for what is done with the write itself.
pub(crate) fn audit(call: &Call, key: &str, subscription: &str, action: &str) -> Change {
    audit_of(call, key, subscription, action, None)
}

/// As [`audit`]; while an operation goes on with it, it is only accepted, and the operation's end is another line
/// ([`crate::activity_log::end_of`]).
fn audit_of(call: &Call, key: &str, subscription: &str, action: &str, operation: Option<&NewOperation>) -> Change {
    let running = operation.filter(|o| o.state == OperationState::Running);
    Change::Audit(Audit {
        // By the operation's id its end finds this line.
        id: running.map_or_else(|| Uuid::new_v4().to_string(), |o| o.id.clone()),
        time_ms: now_ms(),
        correlation_id: call.correlation_id.clone(),
        tenant: call.caller.tenant.clone(),
        principal: call.caller.principal.clone(),
        subscription: subscription.to_ascii_lowercase(),
        resource_key: key.to_owned(),
        action: action.to_owned(),
        status: if running.is_some() { "Accepted" } else { "Succeeded" }.to_owned(),
        detail: running.map_or_else(|| json!({}), |o| crate::activity_log::accepted(&o.id)),
    })
}

/// Azure's front names a nested resource by its path: `Microsoft.Compute/galleries/g/images/i`.
pub(crate) fn not_found(resource_type: &str, id: &ResourceId) -> ArmError {
    if id.is_group() {
        return ArmError::group_not_found(id.name());
    }
    let path = canonical(id, resource_type);
    let below = path.rsplit_once("/providers/").map_or(path.as_str(), |(_, below)| below);
    ArmError::resource_not_found(below, id.resource_group.as_deref().unwrap_or_default())
}

/// The parent was there when the request came and is not any more.
fn missing(id: &ResourceId, key: &str) -> ArmError {
    match id.parent() {
        Some(parent) if parent.is_group() => ArmError::conflict(
            "ResourceGroupBeingDeleted",
            format!(
                "The resource group '{}' is in deprovisioning state and cannot perform this operation.",
                parent.name()
            ),
        ),
        _ => ArmError::parent_not_found(key.rsplit('/').next().unwrap_or(key)),
    }
}

fn has_children(children: &[String]) -> ArmError {
    let shown: Vec<String> = children.iter().map(|c| format!("'{c}'")).collect();
    ArmError::conflict(
        "CannotDeleteResource",
        format!(
            "Cannot delete resource while nested resources exist. Some existing nested resource IDs include: {}. Please \
             delete all nested resources before deleting this resource.",
            shown.join(", ")
        ),
    )
}

fn too_busy(id: &ResourceId) -> ArmError {
    ArmError::conflict(
        "Conflict",
        format!("'{}' is being changed by too many writers at once. Please retry the request.", id.name()),
    )
}
