//! Who may do what: tokens, role definitions, the evaluator.
//!
//! Everything here is a value or a pure function of its arguments: keys, clocks and stores belong to the caller. A token
//! says who somebody is ([`token`]); clients prove it with a secret ([`secret`]), a certificate ([`assertion`]) or the token of an
//! issuer that they trust ([`federated`]), people with a password ([`password`]). What they may do is decided from role assignments alone ([`rbac`]). Requests to storage
//! accounts may instead be signed with an account's key ([`shared_key`]) or carry a shared access signature ([`sas`]).

pub mod assertion;
pub mod certificate;
pub mod federated;
pub mod key_ring;
pub mod password;
pub mod pkce;
pub mod rbac;
pub mod sas;
pub mod secret;
pub mod shared_key;
pub mod token;

pub use key_ring::{KeyRing, RingKey};
pub use rbac::{Assignment, Permissions, RoleDefinition, built_in_roles};
pub use token::{Claims, SigningKey, TokenError, TokenVersion, Validation};
