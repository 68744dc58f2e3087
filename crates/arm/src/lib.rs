//! Wire vocabulary of Azure Resource Manager: ids, errors, bodies, the rules that need nothing but the body.
//!
//! No I/O and no tokio: everything here is a value or a pure function.

pub mod api_version;
pub mod bodies;
pub mod error;
pub mod lenient_json;
pub mod locations;
pub mod resource_id;

pub use api_version::ApiVersion;
pub use error::ArmError;
pub use resource_id::{Above, ParseIdError, ResourceId, ResourceType, Target, parse_target, parse_target_in};
