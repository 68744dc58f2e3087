//! One file a resource type; here is the list of all of them.

mod resource_group;

use crate::provider::Provider;
use std::sync::Arc;

/// Every type this server provides.
pub(crate) fn all() -> Vec<Arc<dyn Provider>> {
    vec![Arc::new(resource_group::ResourceGroup)]
}
