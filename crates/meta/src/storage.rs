//! Containers and blobs of storage accounts: their rows, and lists that an index answers.

use crate::db::Db;
use crate::dialect::{Lock, Tx};
use crate::error::{MetaError, WriteError};
use crate::model::{Blob, BlobQuery, BlobState, Change, Conflict, Container, ContainerQuery, Expect};
use crate::read::limit;
use crate::sql::{Arg, Row, Select, Sql, after_prefix, sql};
use serde_json::Value;

/// Stands for the blob itself where others have the time of their snapshot; sorts after every digit.
const ITSELF: &str = "~";
const CONTAINER: &str = "account, name, id, etag, revision, created_ms, modified_ms, body";
const BLOB: &str = "account, container, name, snapshot, id, kind, size, state, etag, revision, created_ms, \
                    modified_ms, body, content";

pub(crate) async fn apply(tx: &mut Tx, change: &Change) -> Result<(), WriteError> {
    match change {
        Change::PutContainer { container, expect } => put_container(tx, container, expect).await,
        Change::DeleteContainer { account, name, expect } => delete_container(tx, account, name, expect).await,
        Change::RequireContainer { account, name, id } => {
            let select = sql("SELECT id FROM containers WHERE account = $1 AND name = $2 AND id = $3");
            match tx.locked_row(select.text(account).text(name).text(id), Lock::Share).await? {
                Some(_) => Ok(()),
                None => Err(Conflict::Missing { key: format!("{account}/{name}") }.into()),
            }
        }
        Change::PutBlob { blob, expect } => put_blob(tx, blob, expect).await,
        Change::DeleteBlob { account, container, name, snapshot, expect } => {
            delete_blob(tx, [account, container, name], snapshot.as_deref(), expect).await
        }
        Change::PutBlockList { blob, account, container, blocks } => {
            let put = sql("INSERT INTO block_lists (blob, account, container, blocks) VALUES ($1, $2, $3, $4) \
                           ON CONFLICT (blob) DO UPDATE SET blocks = excluded.blocks");
            tx.execute(put.text(blob).text(account).text(container).json(blocks)).await?;
            Ok(())
        }
        Change::DeleteBlockList { blob } => {
            tx.execute(sql("DELETE FROM block_lists WHERE blob = $1").text(blob)).await?;
            Ok(())
        }
        Change::DeleteAccountData { account } => {
            for delete in [
                "DELETE FROM block_lists WHERE account = $1",
                "DELETE FROM blobs WHERE account = $1",
                "DELETE FROM containers WHERE account = $1",
            ] {
                tx.execute(sql(delete).text(account)).await?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Changes one row as its expectation wants, or says why not. `row`: finds its revision.
async fn change(tx: &mut Tx, expect: &Expect, key: String, row: Sql, statement: Sql) -> Result<(), WriteError> {
    let found = tx.locked_row(row, Lock::Update).await?.map(|row| row.text(0)).transpose()?;
    match (expect, found) {
        (Expect::Absent, Some(_)) => Err(Conflict::Exists { key }.into()),
        (Expect::Present | Expect::Etag(_), None) => Err(Conflict::Missing { key }.into()),
        (Expect::Etag(wanted), Some(found)) if *wanted != found => Err(Conflict::Etag { key }.into()),
        // Two that both expect nothing there: the row that was made meanwhile is not replaced.
        _ if tx.execute(statement).await? == 0 && *expect == Expect::Absent => Err(Conflict::Exists { key }.into()),
        _ => Ok(()),
    }
}

async fn put_container(tx: &mut Tx, container: &Container, expect: &Expect) -> Result<(), WriteError> {
    let Container { account, name, id, etag, revision, created_ms, modified_ms, body } = container;
    let row = sql("SELECT revision FROM containers WHERE account = $1 AND name = $2").text(account).text(name);
    let set = match expect {
        Expect::Absent => "NOTHING",
        _ => {
            "UPDATE SET id = excluded.id, etag = excluded.etag, revision = excluded.revision, \
             created_ms = excluded.created_ms, modified_ms = excluded.modified_ms, body = excluded.body"
        }
    };
    let put = sql(format!(
        "INSERT INTO containers ({CONTAINER}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (account, name) DO {set}"
    ))
    .text(account)
    .text(name)
    .text(id)
    .text(etag)
    .text(revision)
    .int(*created_ms)
    .int(*modified_ms)
    .json(body);
    change(tx, expect, format!("{account}/{name}"), row, put).await
}

async fn delete_container(tx: &mut Tx, account: &str, name: &str, expect: &Expect) -> Result<(), WriteError> {
    let of = |text: &'static str| sql(text).text(account).text(name);
    let row = of("SELECT revision FROM containers WHERE account = $1 AND name = $2");
    let delete = of("DELETE FROM containers WHERE account = $1 AND name = $2");
    change(tx, expect, format!("{account}/{name}"), row, delete).await?;
    tx.execute(of("DELETE FROM block_lists WHERE account = $1 AND container = $2")).await?;
    tx.execute(of("DELETE FROM blobs WHERE account = $1 AND container = $2")).await?;
    Ok(())
}

async fn put_blob(tx: &mut Tx, blob: &Blob, expect: &Expect) -> Result<(), WriteError> {
    let snapshot = blob.snapshot.as_deref();
    let set = match expect {
        Expect::Absent => "NOTHING",
        _ => {
            "UPDATE SET id = excluded.id, kind = excluded.kind, size = excluded.size, state = excluded.state, \
             etag = excluded.etag, revision = excluded.revision, created_ms = excluded.created_ms, \
             modified_ms = excluded.modified_ms, body = excluded.body, content = excluded.content"
        }
    };
    let put = sql(format!(
        "INSERT INTO blobs ({BLOB}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         ON CONFLICT (account, container, name, snapshot) DO {set}"
    ))
    .text(&blob.account)
    .text(&blob.container)
    .text(&blob.name)
    .text(snapshot.unwrap_or(ITSELF))
    .text(&blob.id)
    .text(&blob.kind)
    .int(blob.size)
    .text(blob.state.as_str())
    .text(&blob.etag)
    .text(&blob.revision)
    .int(blob.created_ms)
    .int(blob.modified_ms)
    .json(&blob.body)
    .json(&blob.content);
    let names = [&blob.account, &blob.container, &blob.name];
    change(tx, expect, blob_key(names, snapshot), blob_row(names, snapshot), put).await
}

async fn delete_blob(
    tx: &mut Tx,
    names: [&String; 3],
    snapshot: Option<&str>,
    expect: &Expect,
) -> Result<(), WriteError> {
    let find = named(
        "SELECT id FROM blobs WHERE account = $1 AND container = $2 AND name = $3 AND snapshot = $4",
        names,
        snapshot,
    );
    if let Some(row) = tx.row(find).await? {
        tx.execute(sql("DELETE FROM block_lists WHERE blob = $1").text(row.text(0)?)).await?;
    }
    let delete = named(
        "DELETE FROM blobs WHERE account = $1 AND container = $2 AND name = $3 AND snapshot = $4",
        names,
        snapshot,
    );
    change(tx, expect, blob_key(names, snapshot), blob_row(names, snapshot), delete).await
}

fn blob_row(names: [&String; 3], snapshot: Option<&str>) -> Sql {
    let select = "SELECT revision FROM blobs WHERE account = $1 AND container = $2 AND name = $3 AND snapshot = $4";
    named(select, names, snapshot)
}

fn named(text: &'static str, names: [&String; 3], snapshot: Option<&str>) -> Sql {
    names.into_iter().fold(sql(text), |sql, name| sql.text(name)).text(snapshot.unwrap_or(ITSELF))
}

fn blob_key([account, container, name]: [&String; 3], snapshot: Option<&str>) -> String {
    let snapshot = snapshot.map(|time| format!("?snapshot={time}")).unwrap_or_default();
    format!("{account}/{container}/{name}{snapshot}")
}

impl Db {
    /// # Errors
    /// [`MetaError`] of the database, as for every read.
    pub async fn container(&self, account: &str, name: &str) -> Result<Option<Container>, MetaError> {
        let select = sql(format!("SELECT {CONTAINER} FROM containers WHERE account = $1 AND name = $2"));
        self.row(select.text(account).text(name)).await?.map(|row| container(&row)).transpose()
    }

    /// In the byte-wise order of their names. A page of fewer rows than asked for is the last.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn containers(&self, query: &ContainerQuery) -> Result<Vec<Container>, MetaError> {
        let mut select = Select::new(format!("SELECT {CONTAINER} FROM containers"));
        select.and_text("account = ?", Some(&query.account));
        select.and_prefix(["name >= ?", "name < ?"], query.prefix.as_ref());
        select.and_text("name > ?", query.after.as_ref());
        self.rows(select.end("name", limit(query.limit))).await?.iter().map(container).collect()
    }

    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn blob(
        &self,
        account: &str,
        container: &str,
        name: &str,
        snapshot: Option<&str>,
    ) -> Result<Option<Blob>, MetaError> {
        let select = sql(format!(
            "SELECT {BLOB} FROM blobs WHERE account = $1 AND container = $2 AND name = $3 AND snapshot = $4"
        ));
        let select = select.text(account).text(container).text(name).text(snapshot.unwrap_or(ITSELF));
        self.row(select).await?.map(|row| blob(&row)).transpose()
    }

    /// By name, byte by byte; the snapshots of a blob by time, then the blob. A page of fewer rows than asked for is
    /// the last.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn blobs(&self, query: &BlobQuery) -> Result<Vec<Blob>, MetaError> {
        let mut select = Select::new(format!("SELECT {BLOB} FROM blobs"));
        select.and_text("account = ?", Some(&query.account));
        select.and_text("container = ?", Some(&query.container));
        select.and_text("name = ?", query.name.as_ref());
        select.and_prefix(["name >= ?", "name < ?"], query.prefix.as_ref());
        if let Some((name, snapshot)) = &query.after {
            let snapshot = snapshot.clone().unwrap_or_else(|| ITSELF.to_owned());
            // The first comparison is what the index is searched by.
            let args = [Arg::Text(name.clone()), Arg::Text(name.clone()), Arg::Text(snapshot)];
            select.and("name >= ? AND (name > ? OR snapshot > ?)", args);
        }
        if let Some(prefix) = &query.after_prefix {
            let Some(next) = after_prefix(prefix) else { return Ok(Vec::new()) };
            select.and("name >= ?", [Arg::Text(next)]);
        }
        if !query.snapshots {
            select.and("snapshot = ?", [Arg::Text(ITSELF.to_owned())]);
        }
        self.rows(select.end("name, snapshot", limit(query.limit))).await?.iter().map(blob).collect()
    }

    /// Blobs in a state other than `Stored` that were not modified since `before_ms`, the oldest first; at most 1000.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn unsettled_blobs(&self, state: BlobState, before_ms: i64) -> Result<Vec<Blob>, MetaError> {
        let mut select = Select::new(format!("SELECT {BLOB} FROM blobs"));
        select.and("state <> 'Stored' AND state = ?", [Arg::Text(state.as_str().to_owned())]);
        select.and("modified_ms <= ?", [Arg::Int(before_ms)]);
        self.rows(select.end("modified_ms", limit(None))).await?.iter().map(blob).collect()
    }

    /// The committed blocks of the blob with this id.
    ///
    /// # Errors
    /// [`MetaError`] of the database.
    pub async fn block_list(&self, blob: &str) -> Result<Option<Value>, MetaError> {
        let select = sql("SELECT blocks FROM block_lists WHERE blob = $1").text(blob);
        self.row(select).await?.map(|row| row.json("block_lists", 0)).transpose()
    }
}

fn container(row: &Row) -> Result<Container, MetaError> {
    Ok(Container {
        account: row.text(0)?,
        name: row.text(1)?,
        id: row.text(2)?,
        etag: row.text(3)?,
        revision: row.text(4)?,
        created_ms: row.int(5)?,
        modified_ms: row.int(6)?,
        body: row.json("containers", 7)?,
    })
}

fn blob(row: &Row) -> Result<Blob, MetaError> {
    const TABLE: &str = "blobs";
    let state = row.text(7)?;
    Ok(Blob {
        account: row.text(0)?,
        container: row.text(1)?,
        name: row.text(2)?,
        snapshot: Some(row.text(3)?).filter(|s| s != ITSELF),
        id: row.text(4)?,
        kind: row.text(5)?,
        size: row.int(6)?,
        state: BlobState::parse(&state)
            .ok_or_else(|| MetaError::Row { table: TABLE, detail: format!("no state is called {state:?}") })?,
        etag: row.text(8)?,
        revision: row.text(9)?,
        created_ms: row.int(10)?,
        modified_ms: row.int(11)?,
        body: row.json(TABLE, 12)?,
        content: row.json(TABLE, 13)?,
    })
}
