//! Tenants, subscriptions, the directory, role assignments, custom roles, locks; and settings of the installation.
//!
//! `put_…` inserts, or replaces the row with the same id. Every write that may change who may do what moves
//! [`Db::identity_changes`] on, in the same transaction: who keeps decisions in memory compares it before each use.

use crate::db::Db;
use crate::dialect::Tx;
use crate::error::{MetaError, WriteError};
use crate::model::{
    Application, Change, Conflict, Credential, CustomRole, ManagementLock, Principal, RoleAssignment, Subscription,
    Tenant, Write,
};
use crate::sql::{Row, Select, Sql, sql};
use crate::write::unique;

/// Far more than an installation has; a list of identities is never cut short in silence below it.
const MAX_IDENTITIES: i64 = 100_000;

const PRINCIPAL: &str = "id, tenant, app_id, display_name, kind, secret_hash, login, body";
const CREDENTIAL: &str = "id, owner, kind, verifier, expires_ms, body";

/// A change of this part of the model, within the caller's transaction.
pub(crate) async fn apply(tx: &mut Tx, change: &Change) -> Result<(), WriteError> {
    match change {
        Change::RequireIdentity { changes } => return require_identity(tx, *changes).await,
        Change::PutRoleAssignment(assignment) => put_role_assignment(tx, assignment).await?,
        Change::PutPrincipal(principal) => {
            unique(tx.execute(put_principal(principal)).await, &principal.id)?;
        }
        Change::PutApplication(application) => {
            unique(tx.execute(put_application(application)).await, &application.id)?;
        }
        Change::DeletePrincipal { id } => delete_principal(tx, id).await?,
        Change::DeleteApplication { id } => {
            let credentials = "DELETE FROM credentials WHERE owner IN (SELECT app_id FROM applications WHERE id = $1)";
            tx.execute(sql(credentials).text(id)).await?;
            tx.execute(sql("DELETE FROM applications WHERE id = $1").text(id)).await?;
        }
        other => {
            tx.execute(statement(other)?).await?;
        }
    }
    moved_on(tx).await?;
    Ok(())
}

/// The changes that are one statement.
fn statement(change: &Change) -> Result<Sql, MetaError> {
    Ok(match change {
        Change::DeleteRoleAssignment { id } => sql("DELETE FROM role_assignments WHERE id = $1").text(id),
        Change::PutCustomRole(role) => sql("INSERT INTO role_definitions (id, tenant, body) VALUES ($1, $2, $3) \
                                            ON CONFLICT (id) DO UPDATE SET body = excluded.body")
        .text(&role.id)
        .text(&role.tenant)
        .json(&role.body),
        Change::DeleteCustomRole { id } => sql("DELETE FROM role_definitions WHERE id = $1").text(id),
        Change::PutLock(lock) => sql("INSERT INTO locks (key, scope, level, body) VALUES ($1, $2, $3, $4) \
                                      ON CONFLICT (key) DO UPDATE SET level = excluded.level, body = excluded.body")
        .text(&lock.key)
        .text(&lock.scope)
        .text(&lock.level)
        .json(&lock.body),
        Change::DeleteLock { key } => sql("DELETE FROM locks WHERE key = $1").text(key),
        Change::PutTenant(tenant) => sql("INSERT INTO tenants (id, display_name) VALUES ($1, $2) \
                                          ON CONFLICT (id) DO UPDATE SET display_name = excluded.display_name")
        .text(&tenant.id)
        .text(&tenant.display_name),
        Change::PutSubscription(subscription) => {
            sql("INSERT INTO subscriptions (id, tenant, display_name, state) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, display_name = excluded.display_name, \
             state = excluded.state")
            .text(&subscription.id)
            .text(&subscription.tenant)
            .text(&subscription.display_name)
            .text(&subscription.state)
        }
        Change::PutGroupMember { group, member } => {
            sql("INSERT INTO group_members (group_id, member) VALUES ($1, $2) \
                                                         ON CONFLICT DO NOTHING")
            .text(group)
            .text(member)
        }
        Change::DeleteGroupMember { group, member } => {
            sql("DELETE FROM group_members WHERE group_id = $1 AND member = $2").text(group).text(member)
        }
        Change::PutCredential(credential) => sql(
            "INSERT INTO credentials (id, owner, kind, verifier, expires_ms, body) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, kind = excluded.kind, \
             verifier = excluded.verifier, expires_ms = excluded.expires_ms, body = excluded.body",
        )
        .text(&credential.id)
        .text(&credential.owner)
        .text(&credential.kind)
        .text(&credential.verifier)
        .int(credential.expires_ms)
        .json(&credential.body),
        Change::DeleteCredential { id } => sql("DELETE FROM credentials WHERE id = $1").text(id),
        other => return Err(MetaError::Invalid(format!("{other:?} is no change of identities"))),
    })
}

async fn moved_on(tx: &mut Tx) -> Result<(), MetaError> {
    tx.execute(sql("UPDATE identity_changes SET n = n + 1 WHERE id = 1")).await.map(drop)
}

/// Takes the row: of two writes that rest on the same state, the second is refused.
async fn require_identity(tx: &mut Tx, changes: i64) -> Result<(), WriteError> {
    let moved = sql("UPDATE identity_changes SET n = n + 1 WHERE id = 1 AND n = $1").int(changes);
    match tx.execute(moved).await? {
        0 => Err(Conflict::Etag { key: "identity".to_owned() }.into()),
        _ => Ok(()),
    }
}

/// The role assignments and locks at a resource that is deleted.
pub(crate) async fn forget_scope(tx: &mut Tx, scope: &str) -> Result<(), MetaError> {
    let assignments = tx.execute(sql("DELETE FROM role_assignments WHERE scope = $1").text(scope)).await?;
    let locks = tx.execute(sql("DELETE FROM locks WHERE scope = $1").text(scope)).await?;
    if assignments + locks > 0 {
        moved_on(tx).await?;
    }
    Ok(())
}

fn put_principal(principal: &Principal) -> Sql {
    sql("INSERT INTO principals (id, tenant, app_id, display_name, kind, secret_hash, login, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, app_id = excluded.app_id, \
         display_name = excluded.display_name, kind = excluded.kind, secret_hash = excluded.secret_hash, \
         login = excluded.login, body = excluded.body")
    .text(&principal.id)
    .text(&principal.tenant)
    .text(&principal.app_id)
    .text(&principal.display_name)
    .text(&principal.kind)
    .text(&principal.secret_hash)
    .text(&principal.login)
    .json(&principal.body)
}

fn put_application(application: &Application) -> Sql {
    sql("INSERT INTO applications (id, tenant, app_id, body) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (id) DO UPDATE SET body = excluded.body")
    .text(&application.id)
    .text(&application.tenant)
    .text(&application.app_id)
    .json(&application.body)
}

async fn delete_principal(tx: &mut Tx, id: &str) -> Result<(), MetaError> {
    for rows in [
        "DELETE FROM group_members WHERE group_id = $1 OR member = $1",
        "DELETE FROM role_assignments WHERE principal = $1",
        "DELETE FROM credentials WHERE owner = $1",
        "DELETE FROM principals WHERE id = $1",
    ] {
        tx.execute(sql(rows).text(id)).await?;
    }
    Ok(())
}

async fn put_role_assignment(tx: &mut Tx, assignment: &RoleAssignment) -> Result<(), WriteError> {
    let same = sql("SELECT id FROM role_assignments WHERE principal = $1 AND role = $2 AND scope = $3 AND id <> $4")
        .text(&assignment.principal)
        .text(&assignment.role)
        .text(&assignment.scope)
        .text(&assignment.id);
    if let Some(row) = tx.row(same).await? {
        return Err(Conflict::Exists { key: row.text(0)? }.into());
    }
    let put = sql("INSERT INTO role_assignments (id, scope, role, principal, body) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (id) DO UPDATE SET scope = excluded.scope, role = excluded.role, \
                   principal = excluded.principal, body = excluded.body")
    .text(&assignment.id)
    .text(&assignment.scope)
    .text(&assignment.role)
    .text(&assignment.principal)
    .json(&assignment.body);
    unique(tx.execute(put).await, &assignment.id)
}

impl Db {
    async fn identity_change(&self, change: Change) -> Result<(), MetaError> {
        self.change(vec![], move |tx| {
            let change = change.clone();
            Box::pin(async move { apply(tx, &change).await })
        })
        .await
    }

    /// Grows whenever somebody may do other things than before.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn identity_changes(&self) -> Result<i64, MetaError> {
        let row = self.row(sql("SELECT n FROM identity_changes WHERE id = 1")).await?;
        row.map_or(Ok(0), |row| row.int(0))
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn put_tenant(&self, tenant: &Tenant) -> Result<(), MetaError> {
        self.identity_change(Change::PutTenant(tenant.clone())).await
    }

    /// All tenants, ordered by id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, MetaError> {
        let rows = self.rows(sql("SELECT id, display_name FROM tenants ORDER BY id")).await?;
        rows.iter().map(|row| Ok(Tenant { id: row.text(0)?, display_name: row.text(1)? })).collect()
    }

    /// # Errors
    /// [`MetaError::Invalid`] where the tenant does not exist.
    pub async fn put_subscription(&self, subscription: &Subscription) -> Result<(), MetaError> {
        self.identity_change(Change::PutSubscription(subscription.clone())).await
    }

    /// The subscriptions of a tenant, ordered by id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn subscriptions(&self, tenant: &str) -> Result<Vec<Subscription>, MetaError> {
        let select = sql("SELECT id, tenant, display_name, state FROM subscriptions WHERE tenant = $1 ORDER BY id");
        self.rows(select.text(tenant)).await?.iter().map(subscription).collect()
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn subscription(&self, id: &str) -> Result<Option<Subscription>, MetaError> {
        let select = sql("SELECT id, tenant, display_name, state FROM subscriptions WHERE id = $1").text(id);
        self.row(select).await?.map(|row| subscription(&row)).transpose()
    }

    /// # Errors
    /// [`MetaError::Invalid`] where the tenant does not exist, or another principal of the tenant has the application id or
    /// the login.
    pub async fn put_principal(&self, principal: &Principal) -> Result<(), MetaError> {
        self.identity_change(Change::PutPrincipal(principal.clone())).await
    }

    /// By object id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn principal(&self, id: &str) -> Result<Option<Principal>, MetaError> {
        let select = sql(format!("SELECT {PRINCIPAL} FROM principals WHERE id = $1")).text(id);
        self.row(select).await?.map(|row| principal(&row)).transpose()
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn principal_by_app(&self, tenant: &str, app_id: &str) -> Result<Option<Principal>, MetaError> {
        if app_id.is_empty() {
            return Ok(None);
        }
        let select = sql(format!("SELECT {PRINCIPAL} FROM principals WHERE tenant = $1 AND app_id = $2"));
        self.row(select.text(tenant).text(app_id)).await?.map(|row| principal(&row)).transpose()
    }

    /// Every principal, ordered by id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn principals(&self) -> Result<Vec<Principal>, MetaError> {
        let select = sql(format!("SELECT {PRINCIPAL} FROM principals ORDER BY id LIMIT {MAX_IDENTITIES}"));
        self.rows(select).await?.iter().map(principal).collect()
    }

    /// Every subscription, ordered by id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn all_subscriptions(&self) -> Result<Vec<Subscription>, MetaError> {
        let select = sql("SELECT id, tenant, display_name, state FROM subscriptions ORDER BY id");
        self.rows(select).await?.iter().map(subscription).collect()
    }

    /// `(group, member)` of every group, ordered.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn group_members(&self) -> Result<Vec<(String, String)>, MetaError> {
        let rows = self.rows(sql("SELECT group_id, member FROM group_members ORDER BY group_id, member")).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect()
    }

    /// Every custom role, ordered by id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn custom_roles(&self) -> Result<Vec<CustomRole>, MetaError> {
        let rows = self.rows(sql("SELECT id, tenant, body FROM role_definitions ORDER BY id")).await?;
        let role = |row: &Row| {
            Ok(CustomRole { id: row.text(0)?, tenant: row.text(1)?, body: row.json("role_definitions", 2)? })
        };
        rows.iter().map(role).collect()
    }

    /// Every lock, ordered by key.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn locks(&self) -> Result<Vec<ManagementLock>, MetaError> {
        let rows = self.rows(sql("SELECT key, scope, level, body FROM locks ORDER BY key")).await?;
        let lock = |row: &Row| {
            Ok(ManagementLock {
                key: row.text(0)?,
                scope: row.text(1)?,
                level: row.text(2)?,
                body: row.json("locks", 3)?,
            })
        };
        rows.iter().map(lock).collect()
    }

    /// Every application, ordered by id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn applications(&self) -> Result<Vec<Application>, MetaError> {
        let select = format!("SELECT id, tenant, app_id, body FROM applications ORDER BY id LIMIT {MAX_IDENTITIES}");
        self.rows(sql(select)).await?.iter().map(application).collect()
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn application_by_app(&self, app_id: &str) -> Result<Option<Application>, MetaError> {
        let select = sql("SELECT id, tenant, app_id, body FROM applications WHERE app_id = $1").text(app_id);
        self.row(select).await?.map(|row| application(&row)).transpose()
    }

    /// The credentials of an application or a principal, ordered by id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn credentials(&self, owner: &str) -> Result<Vec<Credential>, MetaError> {
        let select = sql(format!("SELECT {CREDENTIAL} FROM credentials WHERE owner = $1 ORDER BY id")).text(owner);
        self.rows(select).await?.iter().map(credential).collect()
    }

    /// Every credential, ordered by id; without the verifiers, which nobody is shown.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn all_credentials(&self) -> Result<Vec<Credential>, MetaError> {
        let select = "SELECT id, owner, kind, '', expires_ms, body FROM credentials ORDER BY id";
        self.rows(sql(select)).await?.iter().map(credential).collect()
    }

    /// As [`Change::PutRoleAssignment`].
    ///
    /// # Errors
    /// [`crate::model::Conflict::Exists`] with the id of the assignment that says the same.
    pub async fn put_role_assignment(&self, assignment: &RoleAssignment) -> Result<(), WriteError> {
        self.write(Write { fence: None, changes: vec![Change::PutRoleAssignment(assignment.clone())] }).await
    }

    /// # Errors
    /// [`WriteError::Db`]. Deleting what is not there is no error.
    pub async fn delete_role_assignment(&self, id: &str) -> Result<(), WriteError> {
        self.write(Write { fence: None, changes: vec![Change::DeleteRoleAssignment { id: id.to_owned() }] }).await
    }

    /// The assignments of a principal, or those made at exactly a scope, or both, or all; ordered by id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn role_assignments(
        &self,
        principal: Option<&str>,
        scope: Option<&str>,
    ) -> Result<Vec<RoleAssignment>, MetaError> {
        let mut select = Select::new("SELECT id, scope, role, principal, body FROM role_assignments");
        select.and_text("principal = ?", principal.map(str::to_owned).as_ref());
        select.and_text("scope = ?", scope.map(str::to_owned).as_ref());
        let rows = self.rows(select.end("id", MAX_IDENTITIES)).await?;
        rows.iter()
            .map(|row| {
                Ok(RoleAssignment {
                    id: row.text(0)?,
                    scope: row.text(1)?,
                    role: row.text(2)?,
                    principal: row.text(3)?,
                    body: row.json("role_assignments", 4)?,
                })
            })
            .collect()
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, MetaError> {
        let select = sql("SELECT value FROM settings WHERE name = $1").text(name);
        self.row(select).await?.map(|row| row.text(0)).transpose()
    }

    /// Stores a setting. With `create_only`, a value that exists is kept and the answer is `false`; so several processes
    /// that start at once agree on one value (read it back afterwards).
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn put_setting(&self, name: &str, value: &str, create_only: bool) -> Result<bool, MetaError> {
        let put = if create_only {
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING"
        } else {
            "INSERT INTO settings (name, value) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        };
        Ok(self.change_rows(vec![], sql(put).text(name).text(value)).await? > 0)
    }
}

fn subscription(row: &Row) -> Result<Subscription, MetaError> {
    Ok(Subscription { id: row.text(0)?, tenant: row.text(1)?, display_name: row.text(2)?, state: row.text(3)? })
}

fn principal(row: &Row) -> Result<Principal, MetaError> {
    Ok(Principal {
        id: row.text(0)?,
        tenant: row.text(1)?,
        app_id: row.text(2)?,
        display_name: row.text(3)?,
        kind: row.text(4)?,
        secret_hash: row.text(5)?,
        login: row.text(6)?,
        body: row.json("principals", 7)?,
    })
}

fn credential(row: &Row) -> Result<Credential, MetaError> {
    Ok(Credential {
        id: row.text(0)?,
        owner: row.text(1)?,
        kind: row.text(2)?,
        verifier: row.text(3)?,
        expires_ms: row.int(4)?,
        body: row.json("credentials", 5)?,
    })
}

fn application(row: &Row) -> Result<Application, MetaError> {
    Ok(Application { id: row.text(0)?, tenant: row.text(1)?, app_id: row.text(2)?, body: row.json("applications", 3)? })
}
