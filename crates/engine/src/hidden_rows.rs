//! Rows that no list shows: they are of no provider, in no subscription and in no group, and say where something is (names that are
//! taken, galleries that are shared). Whoever finds one asks the row that it names.

use crate::{new_etag, now_ms};
use lazuli_meta::model::Resource;
use serde_json::json;

/// A row of this kind, which no provider has. `id`: of the row that it leads to.
pub(crate) fn hidden_row(kind: &str, key: &str, id: &str, name: &str) -> Resource {
    let now = now_ms();
    Resource {
        key: key.to_owned(),
        sort_key: key.to_owned(),
        id: id.to_owned(),
        kind: kind.to_owned(),
        subscription: String::new(),
        resource_group: String::new(),
        parent: None,
        name: name.to_owned(),
        location: String::new(),
        body: json!({}),
        internal: json!({}),
        provisioning_state: "Succeeded".to_owned(),
        etag: new_etag(),
        created_ms: now,
        changed_ms: now,
    }
}
