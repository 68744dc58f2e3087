//! Network Block Device (NBD): a read-only server over [`BlockSource`] and a small client.
//!
//! The codec ([`proto`]) and the negotiation ([`negotiate`]) do no I/O. What a peer sends is never trusted: no panic, and
//! no memory beyond fixed limits. The protocol is that of the NBD project's `proto.md`; numbers are big-endian throughout.

pub mod client;
pub mod negotiate;
pub mod proto;
pub mod server;
pub mod source;

pub use client::{Client, ClientError};
pub use server::{serve_connection, serve_unix};
pub use source::{BlockSource, Counters, Export, Extent};
