//! Which store is which zone of which region: `zone.json` in each, so that a URL that was mixed up is told before
//! anything is written or collected in a store that belongs elsewhere.
//!
//! ```json
//! {"store": "0198…", "region": "eastus", "zone": 1}
//! ```
//! `store` is the same in all zones of a region. A store without the file (new, replaced, or of an earlier version) gets
//! it from the next writer.

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{ChunkError, Result};
use crate::store::Zones;

pub(crate) const MARK: &str = "zone.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    store: Uuid,
    region: String,
    zone: usize,
}

/// Refuses stores that belong elsewhere; a writer marks those that belong to nobody. A zone that does not answer is
/// left for later.
pub(crate) async fn identify(zones: &Zones, region: &str, writer: bool) -> Result<()> {
    let key = Path::from(MARK);
    let wrong = |detail: String| ChunkError::Incompatible { region: region.to_owned(), detail };
    let mut store = None;
    let mut new = Vec::new();
    for zone in 0..zones.len() {
        let bytes = match zones.get_in(zone, &key).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                new.push(zone);
                continue;
            }
            Err(error) => {
                tracing::warn!(region, zone, %error, "the zone's store does not answer");
                continue;
            }
        };
        let Ok(mark) = serde_json::from_slice::<Mark>(&bytes) else {
            // Damaged: what it said is known from the others, or nobody's business.
            new.push(zone);
            continue;
        };
        if mark.region != region || mark.zone != zone {
            let (of, number) = (mark.region, mark.zone);
            return Err(wrong(format!(
                "the store of its zone {zone} is that of zone {number} of region {of} ({MARK})"
            )));
        }
        if *store.get_or_insert(mark.store) != mark.store {
            return Err(wrong(format!("the store of its zone {zone} is that of another installation ({MARK})")));
        }
    }
    if writer {
        let store = store.unwrap_or_else(Uuid::new_v4);
        for zone in new {
            let mark = Mark { store, region: region.to_owned(), zone };
            let bytes = serde_json::to_vec(&mark).expect("plain data");
            zones.restore_in(zone, &key, bytes.into()).await?;
        }
    }
    Ok(())
}
