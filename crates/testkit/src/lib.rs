//! Test helpers: a running server, actors, guests, waits.

pub mod postgres;
