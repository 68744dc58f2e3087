//! Applying a [`Write`]: each change with its expectation, inside a transaction that the caller owns.
//!
//! Every decision rests on a row that is held until the transaction ends, or on one statement that checks and changes
//! at once; so two writes made at the same time end as if one had been made after the other.

use crate::audit::{self, ChainKey};
use crate::dialect::{Lock, Tx};
use crate::error::{MetaError, WriteError};
use crate::identity;
use crate::model::{Change, Conflict, ContentRef, Expect, Grant, NewOperation, OperationState, Resource, Write};
use crate::sql::sql;
use crate::storage;
use crate::watch::Signal;

/// How many children a refused deletion names.
const CHILDREN_NAMED: i64 = 10;

/// Refuses a write that could never be made, before the database is asked.
pub(crate) fn check(write: &Write) -> Result<(), WriteError> {
    let fenced = write.fence.as_ref().map(|(operation, _)| operation);
    for change in &write.changes {
        match change {
            Change::PutResource { resource, .. } => check_keys(resource)?,
            Change::DeleteResource { key, expect: Expect::Absent }
            | Change::DeleteContainer { name: key, expect: Expect::Absent, .. }
            | Change::DeleteBlob { name: key, expect: Expect::Absent, .. } => {
                return Err(MetaError::Invalid(format!("{key} cannot be deleted where it is absent")).into());
            }
            Change::StartOperation(new)
                if !matches!(new.state, OperationState::Running | OperationState::Succeeded) =>
            {
                return Err(MetaError::Invalid(format!("operation {} cannot start as {:?}", new.id, new.state)).into());
            }
            Change::EndOperation { id, state: OperationState::Running, .. } => {
                return Err(MetaError::Invalid(format!("operation {id} cannot end as Running")).into());
            }
            Change::EndOperation { id, .. } | Change::PutStep { operation: id, .. } if fenced != Some(id) => {
                return Err(Conflict::Fenced { operation: id.clone() }.into());
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_keys(resource: &Resource) -> Result<(), MetaError> {
    let Resource { key, sort_key, kind, subscription, resource_group, parent, .. } = resource;
    let above = key.rsplit_once('/').map_or("", |(above, _)| above);
    if !sort_key.starts_with(above) || sort_key.is_empty() {
        return Err(MetaError::Invalid(format!("{sort_key:?} does not put {key:?} in order")));
    }
    let parent = parent.as_deref().unwrap_or_default();
    for field in [key.as_str(), sort_key, kind, subscription, resource_group, parent] {
        if field.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(MetaError::Invalid(format!("{field:?} must be in lower case")));
        }
    }
    Ok(())
}

/// Whom the write concerns.
pub(crate) fn signals(write: &Write) -> Vec<Signal> {
    let mut signals = Vec::new();
    for change in &write.changes {
        let (work, operation) = match change {
            Change::StartOperation(new) => (new.state == OperationState::Running, true),
            Change::EndOperation { .. } | Change::PutStep { .. } => (false, true),
            _ => (false, false),
        };
        if work && !signals.contains(&Signal::Work) {
            signals.push(Signal::Work);
        }
        if operation && !signals.contains(&Signal::Operation) {
            signals.push(Signal::Operation);
        }
    }
    signals
}

/// `chain`: lines of the activity log are linked with it.
pub(crate) async fn apply(tx: &mut Tx, write: &Write, now_ms: i64, chain: Option<&ChainKey>) -> Result<(), WriteError> {
    if let Some((operation, fence)) = &write.fence {
        require_fence(tx, operation, *fence).await?;
    }
    for change in &write.changes {
        match change {
            Change::PutResource { resource, expect } => put_resource(tx, resource, expect).await?,
            Change::DeleteResource { key, expect } => {
                delete_resource(tx, key, expect).await?;
                identity::forget_scope(tx, key).await?;
            }
            Change::RequireResource { key } => require_resource(tx, key).await?,
            Change::RequireNoChildren { key } => require_no_children(tx, key).await?,
            Change::StartOperation(new) => start_operation(tx, new, now_ms).await?,
            Change::EndOperation { id, state, output, error } => {
                let end = sql("UPDATE operations SET state = $2, output = $3, error = $4, ended_ms = $5, \
                               lease_owner = NULL, lease_until_ms = NULL WHERE id = $1 AND state = 'Running'")
                .text(id)
                .text(state.as_str())
                .opt_json(output.as_ref())
                .opt_json(error.as_ref())
                .int(now_ms);
                // The fence was found above; only an earlier end within this very write leaves nothing to change.
                if tx.execute(end).await? == 0 {
                    return Err(Conflict::Fenced { operation: id.clone() }.into());
                }
            }
            Change::PutStep { operation, step, output } => {
                let put = sql("INSERT INTO operation_steps (operation, step, n, output) VALUES ($1, $2, \
                               (SELECT COALESCE(MAX(n), 0) + 1 FROM operation_steps WHERE operation = $1), $3) \
                               ON CONFLICT (operation, step) DO UPDATE SET output = excluded.output");
                tx.execute(put.text(operation).text(step).json(output)).await?;
            }
            Change::Audit(line) => audit::put(tx, line, chain).await?,
            Change::PutContentRef(content) => {
                let put = "INSERT INTO content_refs (resource_key, region, manifest) VALUES ($1, $2, $3) \
                           ON CONFLICT DO NOTHING";
                content_ref(tx, put, content).await?;
            }
            Change::DeleteContentRef(content) => {
                let delete = "DELETE FROM content_refs WHERE resource_key = $1 AND region = $2 AND manifest = $3";
                content_ref(tx, delete, content).await?;
            }
            Change::DeleteContentRefs { resource_key } => {
                tx.execute(sql("DELETE FROM content_refs WHERE resource_key = $1").text(resource_key)).await?;
            }
            Change::PutGrant(grant) => put_grant(tx, grant).await?,
            Change::DeleteGrant { id } => {
                tx.execute(sql("DELETE FROM grants WHERE id = $1").text(id)).await?;
            }
            Change::DeleteGrantsOf { resource_key } => {
                tx.execute(sql("DELETE FROM grants WHERE resource_key = $1").text(resource_key)).await?;
            }
            Change::PutRoleAssignment(_)
            | Change::DeleteRoleAssignment { .. }
            | Change::RequireIdentity { .. }
            | Change::PutCustomRole(_)
            | Change::DeleteCustomRole { .. }
            | Change::PutLock(_)
            | Change::DeleteLock { .. }
            | Change::PutTenant(_)
            | Change::PutSubscription(_)
            | Change::PutPrincipal(_)
            | Change::DeletePrincipal { .. }
            | Change::PutGroupMember { .. }
            | Change::DeleteGroupMember { .. }
            | Change::PutApplication(_)
            | Change::DeleteApplication { .. }
            | Change::PutCredential(_)
            | Change::DeleteCredential { .. } => identity::apply(tx, change).await?,
            Change::RequireContentRef(content) => require_content_ref(tx, content).await?,
            Change::DeleteContentRefsBelow { key } => {
                let delete = sql("DELETE FROM content_refs WHERE resource_key > $1 AND resource_key < $2");
                tx.execute(delete.text(format!("{key}/")).text(format!("{key}0"))).await?;
            }
            Change::PutContainer { .. }
            | Change::DeleteContainer { .. }
            | Change::RequireContainer { .. }
            | Change::PutBlob { .. }
            | Change::DeleteBlob { .. }
            | Change::PutBlockList { .. }
            | Change::DeleteBlockList { .. }
            | Change::DeleteAccountData { .. } => storage::apply(tx, change).await?,
        }
    }
    Ok(())
}

async fn require_fence(tx: &mut Tx, operation: &str, fence: i64) -> Result<(), WriteError> {
    let held = sql("SELECT id FROM operations WHERE id = $1 AND fence = $2 AND state = 'Running'");
    match tx.locked_row(held.text(operation).int(fence), Lock::Update).await? {
        Some(_) => Ok(()),
        None => Err(Conflict::Fenced { operation: operation.to_owned() }.into()),
    }
}

async fn put_resource(tx: &mut Tx, resource: &Resource, expect: &Expect) -> Result<(), WriteError> {
    let insert = "INSERT INTO resources (key, id, kind, subscription, resource_group, parent, name, location, body, \
                  internal, provisioning_state, etag, sort_key, created_ms, changed_ms) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
    let set = "id = $2, kind = $3, subscription = $4, resource_group = $5, parent = $6, name = $7, location = $8, \
               body = $9, internal = $10, provisioning_state = $11, etag = $12, sort_key = $13, changed_ms = $14";
    // An update keeps created_ms, so that the last arguments differ.
    let (text, created) = match expect {
        Expect::Absent => (format!("{insert} ON CONFLICT (key) DO NOTHING"), true),
        Expect::Any => {
            let set = "id = excluded.id, kind = excluded.kind, subscription = excluded.subscription, \
                       resource_group = excluded.resource_group, parent = excluded.parent, name = excluded.name, \
                       location = excluded.location, body = excluded.body, internal = excluded.internal, \
                       provisioning_state = excluded.provisioning_state, etag = excluded.etag, \
                       sort_key = excluded.sort_key, changed_ms = excluded.changed_ms";
            (format!("{insert} ON CONFLICT (key) DO UPDATE SET {set}"), true)
        }
        Expect::Present => (format!("UPDATE resources SET {set} WHERE key = $1"), false),
        Expect::Etag(_) => (format!("UPDATE resources SET {set} WHERE key = $1 AND etag = $15"), false),
    };
    let mut put = sql(text)
        .text(&resource.key)
        .text(&resource.id)
        .text(&resource.kind)
        .text(&resource.subscription)
        .text(&resource.resource_group)
        .opt_text(resource.parent.as_deref())
        .text(&resource.name)
        .text(&resource.location)
        .json(&resource.body)
        .json(&resource.internal)
        .text(&resource.provisioning_state)
        .text(&resource.etag)
        .text(&resource.sort_key);
    if created {
        put = put.int(resource.created_ms);
    }
    put = put.int(resource.changed_ms);
    if let Expect::Etag(etag) = expect {
        put = put.text(etag);
    }
    match tx.execute(put).await? {
        0 => Err(refusal(tx, &resource.key, expect).await?.into()),
        _ => Ok(()),
    }
}

async fn delete_resource(tx: &mut Tx, key: &str, expect: &Expect) -> Result<(), WriteError> {
    let delete = match expect {
        Expect::Etag(etag) => sql("DELETE FROM resources WHERE key = $1 AND etag = $2").text(key).text(etag),
        _ => sql("DELETE FROM resources WHERE key = $1").text(key),
    };
    match tx.execute(delete).await? {
        0 if *expect != Expect::Any => Err(refusal(tx, key, expect).await?.into()),
        _ => Ok(()),
    }
}

/// Why a statement that expects something of the row changed none.
async fn refusal(tx: &mut Tx, key: &str, expect: &Expect) -> Result<Conflict, MetaError> {
    let key = key.to_owned();
    if *expect == Expect::Absent {
        return Ok(Conflict::Exists { key });
    }
    Ok(match tx.row(sql("SELECT key FROM resources WHERE key = $1").text(&key)).await? {
        Some(_) => Conflict::Etag { key },
        None => Conflict::Missing { key },
    })
}

async fn require_resource(tx: &mut Tx, key: &str) -> Result<(), WriteError> {
    let select = sql("SELECT provisioning_state FROM resources WHERE key = $1").text(key);
    let key = key.to_owned();
    match tx.locked_row(select, Lock::Share).await? {
        None => Err(Conflict::Missing { key }.into()),
        Some(row) if row.text(0)? == "Deleting" => Err(Conflict::Deleting { key }.into()),
        Some(_) => Ok(()),
    }
}

/// Takes the parent's row first: a write that requires it and adds a child has then either ended, so that its child is
/// seen, or waits, and finds the parent as this write leaves it.
async fn require_no_children(tx: &mut Tx, key: &str) -> Result<(), WriteError> {
    tx.locked_row(sql("SELECT key FROM resources WHERE key = $1").text(key), Lock::Update).await?;
    let select =
        sql("SELECT id FROM resources WHERE parent = $1 ORDER BY sort_key LIMIT $2").text(key).int(CHILDREN_NAMED);
    let children = tx.rows(select).await?.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
    if children.is_empty() {
        return Ok(());
    }
    Err(Conflict::HasChildren { key: key.to_owned(), children }.into())
}

async fn start_operation(tx: &mut Tx, new: &NewOperation, now_ms: i64) -> Result<(), WriteError> {
    let ended_ms = (new.state != OperationState::Running).then_some(now_ms);
    let insert = sql("INSERT INTO operations (id, kind, resource_key, subscription, location, params, state, \
                      cancel_requested, attempt, lease_owner, lease_until_ms, fence, progress_done, progress_total, \
                      phase, error, output, started_ms, ended_ms) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, NULL, NULL, 0, 0, 0, '', NULL, $8, $9, $10) \
                      ON CONFLICT (id) DO NOTHING")
    .text(&new.id)
    .text(&new.kind)
    .text(&new.resource_key)
    .text(&new.subscription)
    .text(&new.location)
    .json(&new.params)
    .text(new.state.as_str())
    .opt_json(new.output.as_ref())
    .int(now_ms)
    .opt_int(ended_ms);
    inserted(tx.execute(insert).await?, &new.id)
}

pub(crate) fn inserted(rows: u64, key: &str) -> Result<(), WriteError> {
    match rows {
        0 => Err(Conflict::Exists { key: key.to_owned() }.into()),
        _ => Ok(()),
    }
}

async fn content_ref(tx: &mut Tx, text: &'static str, content: &ContentRef) -> Result<(), MetaError> {
    tx.execute(sql(text).text(&content.resource_key).text(&content.region).text(&content.manifest)).await.map(drop)
}

async fn require_content_ref(tx: &mut Tx, content: &ContentRef) -> Result<(), WriteError> {
    let ContentRef { resource_key, region, manifest } = content;
    let select = sql("SELECT region FROM content_refs WHERE resource_key = $1 AND region = $2 AND manifest = $3");
    let select = select.text(resource_key).text(region).text(manifest);
    match tx.locked_row(select, Lock::Share).await? {
        Some(_) => Ok(()),
        None => Err(Conflict::Missing { key: resource_key.clone() }.into()),
    }
}

async fn put_grant(tx: &mut Tx, grant: &Grant) -> Result<(), WriteError> {
    let put = sql("INSERT INTO grants (id, resource_key, access, account, container, secret, expires_ms, detail) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                   ON CONFLICT (id) DO UPDATE SET resource_key = excluded.resource_key, access = excluded.access, \
                   account = excluded.account, container = excluded.container, secret = excluded.secret, \
                   expires_ms = excluded.expires_ms, detail = excluded.detail")
    .text(&grant.id)
    .text(&grant.resource_key)
    .text(&grant.access)
    .text(&grant.account)
    .text(&grant.container)
    .text(&grant.secret)
    .int(grant.expires_ms)
    .json(&grant.detail);
    unique(tx.execute(put).await, &grant.account)
}

/// Turns the violation of a unique index into the conflict it is.
pub(crate) fn unique(result: Result<u64, MetaError>, key: &str) -> Result<(), WriteError> {
    match result {
        Ok(_) => Ok(()),
        Err(MetaError::Database(error)) if error.as_database_error().is_some_and(|e| e.is_unique_violation()) => {
            Err(Conflict::Exists { key: key.to_owned() }.into())
        }
        Err(error) => Err(error.into()),
    }
}
