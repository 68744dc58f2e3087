//! Metadata over SQLite or PostgreSQL: resources, operations, audit, identities.

pub mod model;
