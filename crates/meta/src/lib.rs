//! Metadata over SQLite or PostgreSQL: resources, operations, audit.
