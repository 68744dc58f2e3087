//! The handle on the database, and how every change to it is made.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use sqlx::postgres::PgListener;

use crate::audit::{ChainKey, Chaining};
use crate::clock::Clock;
use crate::dialect::{Pools, Tx};
use crate::error::{MetaError, WriteError, is_contention};
use crate::model::{Conflict, Write};
use crate::sql::{Row, Sql};
use crate::watch::{CHANNEL, Signal, Signals, Watch};
use crate::write;

/// How often a transaction that lost against another is made again before the loss is reported.
const ATTEMPTS: usize = 8;

/// Where the metadata is: `sqlite:PATH` or `postgres://USER@HOST/DATABASE`. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub enum DbUrl {
    /// Path of the database file.
    Sqlite(PathBuf),
    /// A PostgreSQL connection URL, possibly with a password.
    Postgres(String),
}

impl FromStr for DbUrl {
    type Err = MetaError;

    fn from_str(text: &str) -> Result<Self, MetaError> {
        let invalid = |reason: &str| MetaError::Url { url: without_password(text), reason: reason.to_owned() };
        if let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")) {
            return match path {
                "" => Err(invalid("the path is missing")),
                ":memory:" => Err(invalid("a database in memory cannot be shared by its connections")),
                path => Ok(Self::Sqlite(path.into())),
            };
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        Err(invalid("unknown scheme"))
    }
}

impl fmt::Display for DbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_password(url)),
        }
    }
}

impl fmt::Debug for DbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DbUrl({self})")
    }
}

/// `scheme://user:secret@host/db?password=secret` with the secrets replaced.
fn without_password(url: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let mut shown = match base.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (user, host))) => {
            let user = user.split_once(':').map_or(user.to_owned(), |(user, _)| format!("{user}:***"));
            format!("{scheme}://{user}@{host}")
        }
        None => base.to_owned(),
    };
    if let Some(query) = query {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.eq_ignore_ascii_case("password") => format!("{name}=***"),
            _ => pair.to_owned(),
        });
        shown.push('?');
        shown.push_str(&pairs.collect::<Vec<_>>().join("&"));
    }
    shown
}

/// The metadata. Cheap to clone; all clones share their connections.
#[derive(Debug, Clone)]
pub struct Db {
    pub(crate) shared: Arc<Shared>,
    clock: Clock,
    pub(crate) chaining: Option<Chaining>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pools: Pools,
    signals: Arc<Signals>,
    listener: Option<tokio::task::AbortHandle>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

pub(crate) type TxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, WriteError>> + Send + 'a>>;

impl Db {
    /// Connects, and brings the tables up to date. A SQLite file is made where there is none (mode 0600).
    ///
    /// # Errors
    /// [`MetaError::Url`], [`MetaError::Open`], [`MetaError::File`], [`MetaError::Migrate`].
    pub async fn open(url: &str) -> Result<Self, MetaError> {
        let url: DbUrl = url.parse()?;
        let pools = Pools::open(&url).await?;
        let signals = Arc::new(Signals::new());
        let listener = match &pools {
            Pools::Sqlite { .. } => None,
            Pools::Postgres(pool) => {
                let mut listener = PgListener::connect_with(pool).await?;
                listener.listen(CHANNEL).await?;
                Some(tokio::spawn(listen(listener, Arc::clone(&signals))).abort_handle())
            }
        };
        tracing::debug!(%url, "metadata opened");
        Ok(Self { shared: Arc::new(Shared { pools, signals, listener }), clock: Clock::system(), chaining: None })
    }

    /// The same database, seen with another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The same database, whose activity log is verified and forgotten with this key, and with `links` also linked with it.
    #[must_use]
    pub fn with_audit_chain(mut self, key: ChainKey, links: bool) -> Self {
        self.chaining = Some(Chaining { key, links });
        self
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Closes every connection; SQLite folds its log into the file. Later calls fail with [`MetaError::Unreachable`].
    pub async fn close(&self) {
        if let Some(listener) = &self.shared.listener {
            listener.abort();
        }
        self.shared.pools.close().await;
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// [`MetaError`] where it does not give one.
    pub async fn ping(&self) -> Result<(), MetaError> {
        self.rows(crate::sql::sql("SELECT 1")).await.map(drop)
    }

    /// Makes all changes of `write`, in their order, or none. Runs to its end even when the caller is dropped.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] with the first expectation that does not hold; [`WriteError::Db`] when the database
    /// fails, or when the write contradicts itself ([`MetaError::Invalid`]).
    pub async fn write(&self, write: Write) -> Result<(), WriteError> {
        write::check(&write)?;
        let signals = write::signals(&write);
        let now_ms = self.clock.now_ms();
        let write = Arc::new(write);
        let chain = self.chaining.as_ref().filter(|c| c.links).map(|c| c.key.clone());
        self.transaction(signals, move |tx| {
            let (write, chain) = (Arc::clone(&write), chain.clone());
            Box::pin(async move { write::apply(tx, &write, now_ms, chain.as_ref()).await })
        })
        .await
    }

    /// Sees every operation that becomes claimable.
    #[must_use]
    pub fn watch_work(&self) -> Watch {
        self.shared.signals.watch(Signal::Work)
    }

    /// Sees every change of an operation (start, end, cancel request, step, progress made by this process).
    #[must_use]
    pub fn watch_operations(&self) -> Watch {
        self.shared.signals.watch(Signal::Operation)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.shared.signals.send(signal);
    }

    pub(crate) async fn rows(&self, sql: Sql) -> Result<Vec<Row>, MetaError> {
        self.shared.pools.rows(sql).await
    }

    pub(crate) async fn explain(&self, sql: Sql) -> Result<String, MetaError> {
        self.shared.pools.explain(sql).await
    }

    pub(crate) async fn row(&self, sql: Sql) -> Result<Option<Row>, MetaError> {
        Ok(self.rows(sql).await?.into_iter().next())
    }

    /// Runs `body` in one transaction, in a task of its own: a caller that is dropped (a client that hung up) neither
    /// cuts a transaction in two nor leaves a connection inside one. `body` may run several times.
    pub(crate) async fn transaction<T, F>(&self, signals: Vec<Signal>, body: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: for<'a> Fn(&'a mut Tx) -> TxFuture<'a, T> + Send + Sync + 'static,
    {
        let db = self.clone();
        let task = tokio::spawn(async move {
            let mut attempt = 1;
            loop {
                match db.try_transaction(&signals, &body).await {
                    Err(WriteError::Db(MetaError::Database(error))) if attempt < ATTEMPTS && is_contention(&error) => {
                        attempt += 1;
                    }
                    result => return result,
                }
            }
        });
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(MetaError::ShuttingDown.into()),
            },
        }
    }

    async fn try_transaction<T, F>(&self, signals: &[Signal], body: &F) -> Result<T, WriteError>
    where
        F: for<'a> Fn(&'a mut Tx) -> TxFuture<'a, T>,
    {
        let mut tx = self.shared.pools.begin().await?;
        let result = match body(&mut tx).await {
            Ok(value) => notify(&mut tx, signals).await.map(|()| value).map_err(WriteError::from),
            Err(error) => Err(error),
        };
        match result {
            Ok(value) => {
                tx.commit().await?;
                for signal in signals {
                    self.signal(*signal);
                }
                Ok(value)
            }
            Err(error) => {
                if let Err(rollback) = tx.rollback().await {
                    tracing::warn!(error = &rollback as &dyn std::error::Error, "a transaction was not rolled back");
                }
                Err(error)
            }
        }
    }

    /// [`Db::transaction`] for what has no expectations to be refused for.
    pub(crate) async fn change<T, F>(&self, signals: Vec<Signal>, body: F) -> Result<T, MetaError>
    where
        T: Send + 'static,
        F: for<'a> Fn(&'a mut Tx) -> TxFuture<'a, T> + Send + Sync + 'static,
    {
        self.transaction(signals, body).await.map_err(|error| match error {
            WriteError::Db(error) => error,
            WriteError::Conflict(conflict) => invalid(&conflict),
        })
    }
}

fn invalid(conflict: &Conflict) -> MetaError {
    MetaError::Invalid(conflict.to_string())
}

async fn notify(tx: &mut Tx, signals: &[Signal]) -> Result<(), MetaError> {
    for signal in signals {
        tx.notify(*signal).await?;
    }
    Ok(())
}

/// Passes on what other processes signal. The connection is made anew when it breaks; what was signalled meanwhile is
/// lost, so everybody is woken then.
async fn listen(mut listener: PgListener, signals: Arc<Signals>) {
    loop {
        match listener.try_recv().await {
            Ok(Some(notification)) => {
                if let Some(signal) = Signal::parse(notification.payload()) {
                    signals.send(signal);
                }
            }
            Ok(None) => {
                signals.send(Signal::Work);
                signals.send(Signal::Operation);
            }
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "notifications of PostgreSQL are interrupted");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DbUrl;

    #[test]
    fn urls_are_shown_without_their_secrets() {
        let shown = |text: &str| text.parse::<DbUrl>().unwrap().to_string();
        assert_eq!(shown("postgres://u:p@ss:w@h:1/d"), "postgres://u:***@h:1/d");
        assert_eq!(shown("postgres://u@h/d?password=p&host=/x"), "postgres://u@h/d?password=***&host=/x");
        assert_eq!(shown("postgresql:///d?host=/tmp/x&user=u"), "postgresql:///d?host=/tmp/x&user=u");
        assert_eq!(shown("sqlite:///var/x.db"), "sqlite:/var/x.db");
        assert_eq!(shown("sqlite:x.db"), "sqlite:x.db");
        let refused = "mysql://u:secret@h/d".parse::<DbUrl>().unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("secret"));
    }
}
