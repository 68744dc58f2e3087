//! Tenants, subscriptions, principals and role assignments; and settings of the installation.
//!
//! `put_…` inserts, or replaces the row with the same id.

use crate::db::Db;
use crate::error::{MetaError, WriteError};
use crate::model::{Change, Principal, RoleAssignment, Subscription, Tenant, Write};
use crate::sql::{Row, Select, sql};

/// Far more than an installation has; a list of identities is never cut short in silence below it.
const MAX_IDENTITIES: i64 = 100_000;

const PRINCIPAL: &str = "id, tenant, app_id, display_name, kind, secret_hash";

impl Db {
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn put_tenant(&self, tenant: &Tenant) -> Result<(), MetaError> {
        let put = sql("INSERT INTO tenants (id, display_name) VALUES ($1, $2) \
                       ON CONFLICT (id) DO UPDATE SET display_name = excluded.display_name")
        .text(&tenant.id)
        .text(&tenant.display_name);
        self.change_rows(vec![], put).await.map(drop)
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
        let put = sql("INSERT INTO subscriptions (id, tenant, display_name, state) VALUES ($1, $2, $3, $4) \
                       ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, \
                       display_name = excluded.display_name, state = excluded.state")
        .text(&subscription.id)
        .text(&subscription.tenant)
        .text(&subscription.display_name)
        .text(&subscription.state);
        self.change_rows(vec![], put).await.map(drop)
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
    /// [`MetaError::Invalid`] where the tenant does not exist; [`MetaError::Database`] where another principal of the
    /// tenant has the application id.
    pub async fn put_principal(&self, principal: &Principal) -> Result<(), MetaError> {
        let put = sql("INSERT INTO principals (id, tenant, app_id, display_name, kind, secret_hash) \
                       VALUES ($1, $2, $3, $4, $5, $6) \
                       ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, app_id = excluded.app_id, \
                       display_name = excluded.display_name, kind = excluded.kind, \
                       secret_hash = excluded.secret_hash")
        .text(&principal.id)
        .text(&principal.tenant)
        .text(&principal.app_id)
        .text(&principal.display_name)
        .text(&principal.kind)
        .text(&principal.secret_hash);
        self.change_rows(vec![], put).await.map(drop)
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
        let mut select = Select::new("SELECT id, scope, role, principal FROM role_assignments");
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
    })
}
