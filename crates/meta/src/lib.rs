//! Metadata over SQLite or PostgreSQL: resources, operations, audit, identities.
//!
//! One [`Db`] hides which database is behind it; both run the same statements and give the same answers. Writes are
//! declarative: a [`model::Write`] lists changes and what must hold for them, and is done as a whole or not at all.
//!
//! What this crate must never do: interpret a body, hold a transaction open across something that is not the database,
//! or acknowledge a write that a crash of the process or of the machine could still lose.

mod audit;
mod clock;
mod db;
mod dialect;
mod error;
mod identity;
pub mod model;
mod operations;
mod read;
mod sign_in;
mod signing_keys;
mod sql;
mod storage;
mod watch;
mod workers;
mod write;

pub use audit::{BrokenChain, ChainAnchor, ChainKey, ChainReport};
pub use clock::{Clock, ManualClock};
pub use db::{Db, DbUrl};
pub use error::{MetaError, WriteError};
pub use watch::Watch;
