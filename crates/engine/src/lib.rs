//! The product: resource providers, long-running operations, reconcilers.
//!
//! `api` calls [`Engine`]; here the pieces (metadata, content store, virtual machines) meet. The engine knows resources and
//! rules, never HTTP.

pub mod call;
