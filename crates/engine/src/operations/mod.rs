//! One file a long-running operation; here is the list of all of them.

mod resource_group_delete;

use crate::operation::Operation;
use std::sync::Arc;

/// Every operation this server can run.
pub(crate) fn all() -> Vec<Arc<dyn Operation>> {
    vec![Arc::new(resource_group_delete::ResourceGroupDelete)]
}
