//! Who may do what: tokens, role definitions, the evaluator.
//!
//! Everything here is a value or a pure function of its arguments: keys, clocks and stores belong to the caller. A token
//! says who somebody is ([`token`]); what they may do is decided from role assignments alone ([`rbac`]). Requests to storage
//! accounts may instead be signed with an account's key ([`shared_key`]) or carry a shared access signature ([`sas`]).

pub mod rbac;
pub mod sas;
pub mod secret;
pub mod shared_key;
pub mod token;

pub use rbac::{Assignment, Permissions, RoleDefinition, built_in_roles};
pub use token::{Claims, SigningKey, TokenError, TokenVersion, Validation};
