//! What a resource's bytes take, and what its deletion would free: the view `GET {id}/usage`, which only this server has.
//!
//! ```json
//! {"regions": [{"region": "eastus", "logicalBytes": 2147483648, "dataBytes": 432013312, "uniqueBytes": 430964736,
//!               "storedBytes": 158334976, "freedByDelete": {"uniqueBytes": 17825792, "storedBytes": 6291456},
//!               "disks": [{"name": "osDisk", "resource": "…/versions/1.0.0", "logicalBytes": …, …}]}],
//!  "localBytes": 0}
//! ```
//! `logical` is what disks show, `data` what of that is not zeros, `unique` what is left of that once equal chunks count once,
//! `stored` what this takes compressed. Of a resource with others below it, the sums are over all of them; `freedByDelete` is what
//! nothing else in the region needs. Where tenants are kept apart, equal chunks of two tenants are two, and what lies in the store of
//! another tenant, who shares it, is never freed: what else needs it there is that one's own affair.

use crate::content::store_error;
use crate::open_stores::Store;
use crate::references::{Keeping, Kept};
use crate::stored::DiskInternal;
use crate::{Engine, db_error};
use lazuli_arm::ArmError;
use lazuli_chunks::{ManifestId, Share};
use lazuli_meta::model::{ContentRef, Resource};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;

/// The view of a row.
pub(crate) async fn of(engine: &Engine, row: &Resource) -> Result<Value, ArmError> {
    let mut by_region: BTreeMap<String, Vec<ContentRef>> = BTreeMap::new();
    for reference in engine.db().content_refs_below(&row.key).await.map_err(db_error)? {
        by_region.entry(reference.region.clone()).or_default().push(reference);
    }
    let mut regions = Vec::new();
    for (name, own) in by_region {
        regions.push(of_region(engine, row, &name, &own).await?);
    }
    Ok(json!({"regions": regions, "localBytes": local_bytes(engine, row).await}))
}

async fn of_region(engine: &Engine, row: &Resource, name: &str, own: &[ContentRef]) -> Result<Value, ArmError> {
    let failed = |e| store_error(e, name);
    let stores = engine.regions().all(name).await.map_err(failed)?;
    let keeping = Keeping::of(engine, name, &stores).await?;
    let boundary = engine.regions().boundary(name, &row.key).await?;
    let mine: HashSet<&ContentRef> = own.iter().collect();
    let all = engine.db().content_refs(name).await.map_err(db_error)?;
    let mut others = vec![HashSet::new(); stores.len()];
    for reference in all.iter().filter(|r| !mine.contains(r)) {
        let (disk, kept) = keeping.find(reference)?;
        for at in places(kept) {
            others[at].insert(disk);
        }
    }
    let mut held = vec![HashSet::new(); stores.len()];
    let mut disks = Vec::new();
    for reference in own {
        // Where several keep it, it is one of these.
        let (disk, kept) = keeping.find(reference)?;
        let Some(at) = places(kept).first().copied() else { continue };
        held[at].insert(disk);
        disks.push(view_of_disk(engine, &stores[at], row, reference, disk).await?);
    }
    let mut share = Share::default();
    for ((store, held), others) in stores.iter().zip(held).zip(others) {
        if held.is_empty() {
            continue;
        }
        let [held, others] = [held, others].map(|ids| ids.into_iter().collect::<Vec<ManifestId>>());
        let mut part = store.region.share(&held, &others).await.map_err(failed)?;
        if store.boundary != boundary {
            (part.own_unique_bytes, part.own_stored_bytes) = (0, 0);
        }
        share += part;
    }
    let mut view = sizes(&share);
    view.insert("region".into(), name.into());
    view.insert(
        "freedByDelete".into(),
        json!({"uniqueBytes": share.own_unique_bytes, "storedBytes": share.own_stored_bytes}),
    );
    view.insert("disks".into(), disks.into());
    Ok(Value::Object(view))
}

/// The stores that keep a disk; that where it should be will say that it is missing.
fn places(kept: Kept) -> Vec<usize> {
    match kept {
        Kept::In(stores) => stores,
        Kept::Missing(store) => vec![store],
    }
}

async fn view_of_disk(
    engine: &Engine,
    store: &Store,
    row: &Resource,
    of: &ContentRef,
    disk: ManifestId,
) -> Result<Value, ArmError> {
    let owner = if of.resource_key == row.key {
        Some(row.clone())
    } else {
        engine.db().resource(&of.resource_key).await.map_err(db_error)?
    };
    let share = store.region.share(&[disk], &[]).await.map_err(|e| store_error(e, &of.region))?;
    let mut view = sizes(&share);
    let name = owner.as_ref().map_or("", |o| name_in(&o.internal, &of.manifest));
    view.insert("name".into(), name.into());
    view.insert("resource".into(), owner.map_or(of.resource_key.clone(), |o| o.id).into());
    Ok(Value::Object(view))
}

/// Under which name a row's `internal` keeps the manifest: `osDisk`, `base`, `dataDisks/0`; empty for a leftover of a change.
fn name_in<'a>(internal: &'a Value, manifest: &str) -> &'a str {
    let entries = internal.as_object().into_iter().flatten();
    entries
        .flat_map(|(name, value)| std::iter::once((name, value)).chain(value.as_object().into_iter().flatten()))
        .find(|(_, value)| value["manifest"] == manifest)
        .map_or("", |(name, _)| name)
}

fn sizes(share: &Share) -> Map<String, Value> {
    let sizes = [
        ("logicalBytes", share.logical_bytes),
        ("dataBytes", share.data_bytes),
        ("uniqueBytes", share.unique_bytes),
        ("storedBytes", share.stored_bytes),
    ];
    sizes.map(|(name, bytes)| (name.to_owned(), bytes.into())).into_iter().collect()
}

/// What a disk's own files take: the overlay that a machine wrote, an upload that is not finished.
async fn local_bytes(engine: &Engine, row: &Resource) -> u64 {
    let Ok(disk) = crate::stored::internal::<DiskInternal>(row) else { return 0 };
    if disk.unique_id.is_empty() {
        return 0;
    }
    let mut bytes = 0;
    for path in [disk.overlay_path(engine.config()), disk.upload_path(engine.config())] {
        // In units of 512 bytes, whatever the file system's block is.
        bytes += tokio::fs::metadata(path).await.map_or(0, |m| m.blocks() * 512);
    }
    bytes
}
