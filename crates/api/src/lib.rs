//! The HTTPS edge: ARM dispatch, tokens, blob data plane, proxy.
//!
//! [`serve`] opens the listeners and answers until it is told to stop. Wire shapes (status codes, headers, poll URLs) are
//! decided here and nowhere below; what resources mean is decided in the engine and never here.
//!
//! ```text
//! TLS (net) ─> app: host + path ─┬─> identity   metadata, OpenID, tokens
//! CONNECT (net::proxy) ──────────┤─> arm        bearer check, dispatch, long-running operations
//!                                ├─> graph      Microsoft Graph: the directory
//!                                └─> blob       storage accounts and disk SAS URLs, by host label or first segment
//! ```

mod app;
mod arm;
pub mod backend;
pub mod blob;
mod body;
mod console;
mod context;
mod graph;
mod identity;
mod net;
mod record;
mod respond;
mod serve;
#[cfg(test)]
mod tests;

pub use backend::ArmBackend;
pub use blob::{Bearer, BlobPlane, BlobRequest, DiskPlane, StoragePlane};
pub use graph::{GraphRoute, graph_routes};
pub use identity::machine_token::serve_machine_tokens;
pub use net::websocket;
pub use serve::{Running, ServeConfig, ServeError, serve};
