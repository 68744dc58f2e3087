//! The host process: the door ([`HostClient`]) and what stands behind it.

mod api;
mod client;

pub use api::{HostErrorCode, HostInfo};
pub use client::{ClientError, HostClient};
