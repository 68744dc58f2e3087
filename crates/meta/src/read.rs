//! Reading resources, content references and grants. Every list is ordered and bounded.

use crate::db::Db;
use crate::error::MetaError;
use crate::model::{ContentRef, Grant, Resource, ResourceQuery};
use crate::sql::{Row, Select, Sql, sql};

const MAX_ROWS: i64 = 1000;
/// Arguments of one statement.
const MOST_KEYS: usize = 500;

/// What a caller's wish for `limit` rows comes to.
pub(crate) fn limit(wish: Option<i64>) -> i64 {
    wish.unwrap_or(MAX_ROWS).clamp(0, MAX_ROWS)
}

const RESOURCE: &str = "key, sort_key, id, kind, subscription, resource_group, parent, name, location, body, internal, \
                        provisioning_state, etag, created_ms, changed_ms";
const GRANT: &str = "id, resource_key, access, account, container, secret, expires_ms, detail";

impl Db {
    /// The resource with this key (the id in lower case).
    ///
    /// # Errors
    /// [`MetaError`] of the database, as for every read.
    pub async fn resource(&self, key: &str) -> Result<Option<Resource>, MetaError> {
        let select = sql(format!("SELECT {RESOURCE} FROM resources WHERE key = $1")).text(key);
        self.row(select).await?.map(|row| resource(&row)).transpose()
    }

    /// The resource and [`Db::identity_changes`] of the same moment, in one question; `None` where there is no such resource.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn resource_and_identity_changes(&self, key: &str) -> Result<Option<(Resource, i64)>, MetaError> {
        let select =
            format!("SELECT {RESOURCE}, (SELECT n FROM identity_changes WHERE id = 1) FROM resources WHERE key = $1");
        let row = self.row(sql(select).text(key)).await?;
        row.map(|row| Ok((resource(&row)?, row.opt_int(15)?.unwrap_or(0)))).transpose()
    }

    /// Those of these keys that are there, in no order.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn resources_of(&self, keys: &[String]) -> Result<Vec<Resource>, MetaError> {
        let mut found = Vec::new();
        for some in keys.chunks(MOST_KEYS) {
            let places: Vec<String> = (1..=some.len()).map(|n| format!("${n}")).collect();
            let select = sql(format!("SELECT {RESOURCE} FROM resources WHERE key IN ({})", places.join(", ")));
            let rows = self.rows(some.iter().fold(select, |select, key| select.text(key))).await?;
            found.extend(rows.iter().map(resource).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(found)
    }

    /// By [`Resource::sort_key`]. A page of fewer rows than asked for is the last.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn resources(&self, query: &ResourceQuery) -> Result<Vec<Resource>, MetaError> {
        self.rows(select_resources(query)).await?.iter().map(resource).collect()
    }

    /// How the database would find [`Db::resources`], in its own words: for tests.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    #[doc(hidden)]
    pub async fn explain_resources(&self, query: &ResourceQuery) -> Result<String, MetaError> {
        self.explain(select_resources(query)).await
    }

    /// The resources whose parent is `key`, in the order of lists.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn children(&self, key: &str, limit: i64) -> Result<Vec<Resource>, MetaError> {
        self.resources(&ResourceQuery { parent: Some(key.to_owned()), limit: Some(limit), ..ResourceQuery::default() })
            .await
    }

    /// Every use of stored bytes in a region, ordered by manifest. Not bounded: garbage collection needs them all.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn content_refs(&self, region: &str) -> Result<Vec<ContentRef>, MetaError> {
        let select = sql("SELECT resource_key, region, manifest FROM content_refs WHERE region = $1 \
                          ORDER BY manifest, resource_key");
        self.rows(select.text(region)).await?.iter().map(content_ref).collect()
    }

    /// The manifests that are alive in a region, each once, ordered.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn content_manifests(&self, region: &str) -> Result<Vec<String>, MetaError> {
        let select = sql("SELECT DISTINCT manifest FROM content_refs WHERE region = $1 ORDER BY manifest");
        self.rows(select.text(region)).await?.iter().map(|row| row.text(0)).collect()
    }

    /// The bytes that a resource uses, ordered by region and manifest.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn content_refs_of(&self, resource_key: &str) -> Result<Vec<ContentRef>, MetaError> {
        let select = sql("SELECT resource_key, region, manifest FROM content_refs WHERE resource_key = $1 \
                          ORDER BY region, manifest");
        self.rows(select.text(resource_key)).await?.iter().map(content_ref).collect()
    }

    /// The bytes that a resource and everything below it use, ordered by region and manifest.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn content_refs_below(&self, key: &str) -> Result<Vec<ContentRef>, MetaError> {
        let select = sql("SELECT resource_key, region, manifest FROM content_refs \
                          WHERE resource_key = $1 OR (resource_key > $2 AND resource_key < $3) \
                          ORDER BY region, manifest, resource_key");
        // `0` follows `/`.
        let select = select.text(key).text(format!("{key}/")).text(format!("{key}0"));
        self.rows(select).await?.iter().map(content_ref).collect()
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn grant(&self, id: &str) -> Result<Option<Grant>, MetaError> {
        let select = sql(format!("SELECT {GRANT} FROM grants WHERE id = $1")).text(id);
        self.row(select).await?.map(|row| grant(&row)).transpose()
    }

    /// The grant behind the account label of a URL, expired or not.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn grant_by_account(&self, account: &str) -> Result<Option<Grant>, MetaError> {
        let select = sql(format!("SELECT {GRANT} FROM grants WHERE account = $1")).text(account);
        self.row(select).await?.map(|row| grant(&row)).transpose()
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn grants_of(&self, resource_key: &str) -> Result<Vec<Grant>, MetaError> {
        let select = sql(format!("SELECT {GRANT} FROM grants WHERE resource_key = $1 ORDER BY id LIMIT {MAX_ROWS}"));
        self.rows(select.text(resource_key)).await?.iter().map(grant).collect()
    }

    /// Grants that end at or before `now_ms`, those that ended first at the front; at most 1000.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn expired_grants(&self, now_ms: i64) -> Result<Vec<Grant>, MetaError> {
        let select =
            sql(format!("SELECT {GRANT} FROM grants WHERE expires_ms <= $1 ORDER BY expires_ms, id LIMIT {MAX_ROWS}"));
        self.rows(select.int(now_ms)).await?.iter().map(grant).collect()
    }
}

fn select_resources(query: &ResourceQuery) -> Sql {
    let mut select = Select::new(format!("SELECT {RESOURCE} FROM resources"));
    select.and_text("kind = ?", query.kind.as_ref());
    select.and_text("parent = ?", query.parent.as_ref());
    // One bound a side: SQLite begins to read at the first that it is given, and would pass over all earlier pages.
    let below = query.under.as_ref().map(|key| (format!("{key}/"), format!("{key}0")));
    let (mut low, mut high) = below.unzip();
    if query.descending {
        high = [high, query.after.clone()].into_iter().flatten().min();
    } else {
        low = low.max(query.after.clone());
    }
    select.and_text("sort_key > ?", low.as_ref());
    select.and_text("sort_key < ?", high.as_ref());
    select.end(if query.descending { "sort_key DESC" } else { "sort_key" }, limit(query.limit))
}

fn resource(row: &Row) -> Result<Resource, MetaError> {
    const TABLE: &str = "resources";
    Ok(Resource {
        key: row.text(0)?,
        sort_key: row.text(1)?,
        id: row.text(2)?,
        kind: row.text(3)?,
        subscription: row.text(4)?,
        resource_group: row.text(5)?,
        parent: row.opt_text(6)?,
        name: row.text(7)?,
        location: row.text(8)?,
        body: row.json(TABLE, 9)?,
        internal: row.json(TABLE, 10)?,
        provisioning_state: row.text(11)?,
        etag: row.text(12)?,
        created_ms: row.int(13)?,
        changed_ms: row.int(14)?,
    })
}

fn content_ref(row: &Row) -> Result<ContentRef, MetaError> {
    Ok(ContentRef { resource_key: row.text(0)?, region: row.text(1)?, manifest: row.text(2)? })
}

fn grant(row: &Row) -> Result<Grant, MetaError> {
    Ok(Grant {
        id: row.text(0)?,
        resource_key: row.text(1)?,
        access: row.text(2)?,
        account: row.text(3)?,
        container: row.text(4)?,
        secret: row.text(5)?,
        expires_ms: row.int(6)?,
        detail: row.json("grants", 7)?,
    })
}
