//! Everything in which the two databases differ: connecting, migrating, beginning, locking rows, telling others.
//!
//! SQLite: one connection writes, taking its lock when a transaction begins, so that nobody ever runs into `BUSY` half
//! way; the others read a snapshot (WAL). `synchronous=FULL` syncs the log at each commit: an acknowledged write
//! survives the loss of power too. It costs one sync a write, which a control plane can afford.
//!
//! PostgreSQL: `READ COMMITTED` with row locks where a decision rests on a row. Two transactions that lock in opposite
//! orders are a deadlock that the database resolves; the loser is repeated by [`crate::Db`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, PgPool, Postgres, SqlStr, Sqlite, SqlitePool, Transaction};

use crate::db::DbUrl;
use crate::error::MetaError;
use crate::sql::{Arg, Row, Sql};
use crate::watch::{CHANNEL, Signal};

/// How long to wait for a connection, or for another process that writes to the same SQLite file.
const WAIT: Duration = Duration::from_secs(30);
const SQLITE_READERS: u32 = 4;
/// Of each connection to SQLite: the upper pages of the indexes of a million resources stay in it.
const SQLITE_CACHE_KIB: u32 = 16 << 10;
const POSTGRES_CONNECTIONS: u32 = 10;

#[derive(Debug)]
pub(crate) enum Pools {
    Sqlite { write: SqlitePool, read: SqlitePool },
    Postgres(PgPool),
}

/// One transaction. Dropped without [`Tx::commit`], it is rolled back.
pub(crate) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// How a row that a decision rests on is held until the transaction ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lock {
    /// Nobody may change it.
    Share,
    /// Nobody may change or hold it.
    Update,
}

macro_rules! run {
    ($sql:expr, $executor:expr, $method:ident) => {{
        let sql: Sql = $sql;
        sql.check()?;
        let mut query = sqlx::query(AssertSqlSafe(sql.text.into_owned()));
        for arg in sql.args {
            query = match arg {
                Arg::Text(value) => query.bind(value),
                Arg::OptText(value) => query.bind(value),
                Arg::Int(value) => query.bind(value),
                Arg::OptInt(value) => query.bind(value),
            };
        }
        query.$method($executor).await?
    }};
}

impl Pools {
    pub(crate) async fn open(url: &DbUrl) -> Result<Self, MetaError> {
        match url {
            DbUrl::Sqlite(path) => open_sqlite(path).await,
            DbUrl::Postgres(text) => open_postgres(url, text).await,
        }
    }

    /// Must only be called from a task that nobody cancels: an abandoned begin leaves a PostgreSQL connection inside a
    /// transaction that its next user does not know of.
    pub(crate) async fn begin(&self) -> Result<Tx, MetaError> {
        Ok(match self {
            Self::Sqlite { write, .. } => Tx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }

    /// One reading statement, outside any transaction.
    pub(crate) async fn rows(&self, sql: Sql) -> Result<Vec<Row>, MetaError> {
        Ok(match self {
            Self::Sqlite { read, .. } => run!(sql, read, fetch_all).into_iter().map(Row::Sqlite).collect(),
            Self::Postgres(pool) => run!(sql, pool, fetch_all).into_iter().map(Row::Postgres).collect(),
        })
    }

    /// The plan of a reading statement, a line a step.
    pub(crate) async fn explain(&self, mut sql: Sql) -> Result<String, MetaError> {
        let (prefix, column) = match self {
            Self::Sqlite { .. } => ("EXPLAIN QUERY PLAN ", 3),
            Self::Postgres(_) => ("EXPLAIN ", 0),
        };
        sql.text.to_mut().insert_str(0, prefix);
        let lines: Vec<String> = self.rows(sql).await?.iter().map(|row| row.text(column)).collect::<Result<_, _>>()?;
        Ok(lines.join("\n"))
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// For a `SELECT` inside a claim: the row is taken, and rows that others are taking are passed over.
    /// SQLite has one writer, so nobody else is taking any.
    pub(crate) fn for_claim(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "",
            Self::Postgres(_) => " FOR UPDATE SKIP LOCKED",
        }
    }
}

impl Tx {
    /// Returns the number of rows changed.
    pub(crate) async fn execute(&mut self, sql: Sql) -> Result<u64, MetaError> {
        Ok(match self {
            Self::Sqlite(tx) => run!(sql, &mut **tx, execute).rows_affected(),
            Self::Postgres(tx) => run!(sql, &mut **tx, execute).rows_affected(),
        })
    }

    pub(crate) async fn rows(&mut self, sql: Sql) -> Result<Vec<Row>, MetaError> {
        Ok(match self {
            Self::Sqlite(tx) => run!(sql, &mut **tx, fetch_all).into_iter().map(Row::Sqlite).collect(),
            Self::Postgres(tx) => run!(sql, &mut **tx, fetch_all).into_iter().map(Row::Postgres).collect(),
        })
    }

    pub(crate) async fn row(&mut self, sql: Sql) -> Result<Option<Row>, MetaError> {
        Ok(self.rows(sql).await?.into_iter().next())
    }

    /// Like [`Tx::row`], and holds what was found.
    pub(crate) async fn locked_row(&mut self, mut sql: Sql, lock: Lock) -> Result<Option<Row>, MetaError> {
        if let Self::Postgres(_) = self {
            sql.text.to_mut().push_str(match lock {
                Lock::Share => " FOR SHARE",
                Lock::Update => " FOR UPDATE",
            });
        }
        self.row(sql).await
    }

    /// Tells other processes, once the transaction is committed. This process is told by [`crate::Db`].
    pub(crate) async fn notify(&mut self, signal: Signal) -> Result<(), MetaError> {
        if let Self::Postgres(_) = self {
            self.rows(crate::sql::sql("SELECT pg_notify($1, $2)").text(CHANNEL).text(signal.payload())).await?;
        }
        Ok(())
    }

    pub(crate) async fn commit(self) -> Result<(), MetaError> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    /// Rolls back and waits for it, so that the connection goes back to the pool clean.
    pub(crate) async fn rollback(self) -> Result<(), MetaError> {
        match self {
            Self::Sqlite(tx) => tx.rollback().await?,
            Self::Postgres(tx) => tx.rollback().await?,
        }
        Ok(())
    }
}

async fn open_sqlite(path: &Path) -> Result<Pools, MetaError> {
    let path = path.to_owned();
    let _migrating = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || prepare_file(&path)).await.map_err(|_| MetaError::ShuttingDown)??
    };
    let url = format!("sqlite:{}", path.display());
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(WAIT)
        .foreign_keys(true)
        .pragma("cache_size", format!("-{SQLITE_CACHE_KIB}"));
    // A connection to a file does not go away; to ask each time before it is used costs as much as a short query.
    let pool = || SqlitePoolOptions::new().acquire_timeout(WAIT).test_before_acquire(false);
    let write = pool()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await
        .map_err(|source| MetaError::Open { url: url.clone(), source })?;
    migrator(SQLITE_MIGRATIONS).run(&write).await.map_err(|source| MetaError::Migrate { url: url.clone(), source })?;
    let read = pool()
        .max_connections(SQLITE_READERS)
        .connect_with(options.pragma("query_only", "ON"))
        .await
        .map_err(|source| MetaError::Open { url, source })?;
    Ok(Pools::Sqlite { write, read })
}

/// Makes the file, readable by its owner only (it holds the secrets of shared links), and takes the lock under which
/// the tables are brought up to date. SQLite gives its log and shared memory the same mode.
///
/// An existing file is not opened: closing it here would drop the POSIX locks that this process holds on it.
fn prepare_file(path: &Path) -> Result<std::fs::File, MetaError> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let failed = |path: &Path, source| MetaError::File { path: path.to_owned(), source };
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|source| failed(&lock_path, source))?;
    lock.lock().map_err(|source| failed(&lock_path, source))?;
    match std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(failed(path, source)),
    }
    Ok(lock)
}

async fn open_postgres(url: &DbUrl, text: &str) -> Result<Pools, MetaError> {
    let options: PgConnectOptions = text
        .parse()
        .map_err(|error: sqlx::Error| MetaError::Url { url: url.to_string(), reason: error.to_string() })?;
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(WAIT)
        .connect_with(options.application_name("lazuli"))
        .await
        .map_err(|source| MetaError::Open { url: url.to_string(), source })?;
    migrator(POSTGRES_MIGRATIONS)
        .run(&pool)
        .await
        .map_err(|source| MetaError::Migrate { url: url.to_string(), source })?;
    Ok(Pools::Postgres(pool))
}

/// Version, name and text of each migration. Both lists have the same versions and names; a published one never changes.
type Migrations = &'static [(i64, &'static str, &'static str)];
const SQLITE_MIGRATIONS: Migrations = &[
    (1, "initial", include_str!("../migrations/sqlite/0001_initial.sql")),
    (2, "storage", include_str!("../migrations/sqlite/0002_storage.sql")),
    (3, "sort_key", include_str!("../migrations/sqlite/0003_sort_key.sql")),
    (4, "identity", include_str!("../migrations/sqlite/0004_identity.sql")),
    (5, "sign_in", include_str!("../migrations/sqlite/0005_sign_in.sql")),
    (6, "directory", include_str!("../migrations/sqlite/0006_directory.sql")),
    (7, "signing_keys", include_str!("../migrations/sqlite/0007_signing_keys.sql")),
    (8, "audit_chain", include_str!("../migrations/sqlite/0008_audit_chain.sql")),
    (9, "workers", include_str!("../migrations/sqlite/0009_workers.sql")),
];
const POSTGRES_MIGRATIONS: Migrations = &[
    (1, "initial", include_str!("../migrations/postgres/0001_initial.sql")),
    (2, "storage", include_str!("../migrations/postgres/0002_storage.sql")),
    (3, "sort_key", include_str!("../migrations/postgres/0003_sort_key.sql")),
    (4, "identity", include_str!("../migrations/postgres/0004_identity.sql")),
    (5, "sign_in", include_str!("../migrations/postgres/0005_sign_in.sql")),
    (6, "directory", include_str!("../migrations/postgres/0006_directory.sql")),
    (7, "signing_keys", include_str!("../migrations/postgres/0007_signing_keys.sql")),
    (8, "audit_chain", include_str!("../migrations/postgres/0008_audit_chain.sql")),
    (9, "workers", include_str!("../migrations/postgres/0009_workers.sql")),
];

fn migrator(migrations: Migrations) -> Migrator {
    let migrations = migrations.iter().map(|(version, name, text)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, SqlStr::from_static(text), false)
    });
    Migrator::with_migrations(migrations.collect())
}
