//! Azure Resource Manager's template language: parser and evaluator.
//!
//! ```text
//! Template::parse ── bind parameters ── Plan::new ──▶ resources in order, each with what it waits for
//!                                          │
//!                                          ├─ body(i, facts)   ─▶ Ready(body) | Needs(requests)
//!                                          └─ outputs(facts)   ─▶ Ready(outputs) | Needs(requests)
//! ```
//! Everything here is pure: what a template wants to know of the world (`reference`, `listKeys`) is given back as
//! [`Request`]s, whose answers come in as [`Facts`]. Hostile templates are bounded in time, memory and depth (`eval.rs`,
//! `expression.rs`). Errors are Azure's, code and words, as far as these are known.

mod environment;
mod eval;
mod expression;
mod facts;
mod functions;
mod graph;
mod parameters;
mod plan;
mod template;
#[cfg(test)]
mod tests;
mod types;

pub use environment::{Environment, Level};
pub use facts::{Facts, Request};
pub use functions::{MISSING, names as function_names};
pub use plan::{Evaluated, Plan, Planned};
pub use template::Template;

use lazuli_arm::ArmError;

/// What is wrong with the template itself.
pub(crate) fn invalid(message: impl Into<String>) -> ArmError {
    ArmError::bad_request("InvalidTemplate", message)
}

pub(crate) fn validation(why: impl AsRef<str>) -> ArmError {
    invalid(format!("Deployment template validation failed: '{}'.", why.as_ref().trim_end_matches('.')))
}
