//! What can go wrong, told apart by what the caller can do about it.

use crate::model::Conflict;

/// A failure of the database, or of what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The database's address is not one of the two supported forms.
    #[error("database address {url:?} is not valid: {reason}; write sqlite:PATH or postgres://USER@HOST/DATABASE")]
    Url {
        /// Without a password.
        url: String,
        reason: String,
    },
    #[error("cannot open the database {url}")]
    Open {
        /// Without a password.
        url: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot prepare the file of the database at {path}")]
    File {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "cannot bring the tables of the database {url} up to date; \
         a database written by a newer version cannot be opened by an older one"
    )]
    Migrate {
        url: String,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The disk (or quota) under the database is full; nothing was written.
    #[error("the disk under the database is full: free some space")]
    Full(#[source] sqlx::Error),
    /// The database cannot be reached or did not answer in time. Of a write it is not known whether it was done.
    #[error("the database cannot be reached")]
    Unreachable(#[source] sqlx::Error),
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
    /// A stored row cannot be read: it was damaged or written by something else.
    #[error("a row of table {table} cannot be read: {detail}")]
    Row { table: &'static str, detail: String },
    /// The caller asked for something that no state of the database could satisfy.
    #[error("not a valid request to the database: {0}")]
    Invalid(String),
    /// The runtime stops; the transaction was not made or its result is not known.
    #[error("the process is shutting down")]
    ShuttingDown,
}

impl MetaError {
    /// Whether the same request may succeed later without anybody changing it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Full(_) | Self::Unreachable(_) => true,
            Self::Database(error) => is_contention(error),
            _ => false,
        }
    }
}

impl From<sqlx::Error> for MetaError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::Unreachable(error)
            }
            sqlx::Error::Database(database) => {
                if database.is_foreign_key_violation() {
                    return Self::Invalid(format!("it names a row that does not exist ({})", database.message()));
                }
                match database.code().as_deref() {
                    // SQLITE_FULL; PostgreSQL disk_full.
                    Some("13" | "53100") => Self::Full(error),
                    // PostgreSQL: connection exceptions, shutdowns, too many connections.
                    Some("08000" | "08003" | "08006" | "57P01" | "57P02" | "57P03" | "53300") => {
                        Self::Unreachable(error)
                    }
                    _ => Self::Database(error),
                }
            }
            _ => Self::Database(error),
        }
    }
}

/// Two transactions met and the database gave one of them up: doing it again is right.
/// PostgreSQL: serialization_failure, deadlock_detected; SQLite: BUSY and its extended codes.
pub(crate) fn is_contention(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|database| database.code())
        .is_some_and(|code| matches!(code.as_ref(), "40001" | "40P01" | "5" | "261" | "517"))
}

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// What the write expects does not hold. Nothing was changed.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error(transparent)]
    Db(#[from] MetaError),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}
