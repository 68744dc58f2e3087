//! Everything under the newest key: packs that are plain, or sealed with an older key, are written anew.
//!
//! As in a collection, pack by pack: data, then index, then the old pack goes; after any interruption the next attempt goes on
//! with what is left. Only when nothing is left does `store.json` stop naming the older keys, so that they may be
//! taken away.

use std::sync::Arc;

use object_store::path::Path;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{ChunkError, Result};
use crate::gc::move_live;
use crate::log::Record;
use crate::params::{HEAD, StoreParams};
use crate::progress::Progress;
use crate::region::{Inner, Region, write_head};
use crate::writer::PackWriter;

/// What was written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resealed {
    pub packs: u64,
    pub bytes: u64,
    /// Packs that stay as they were: damaged, or counted on by a running ingest or replication. The older keys are
    /// needed still.
    pub left: u64,
}

impl Region {
    /// Seals everything with the newest key. `progress` counts the bytes of the packs to be written anew.
    ///
    /// # Errors
    /// [`ChunkError::Incompatible`] if the region has no keys.
    pub async fn reseal(&self, progress: &Progress, cancel: &CancellationToken) -> Result<Resealed> {
        let inner = &self.0;
        inner.require_writer()?;
        let newest = inner.zones.keys().and_then(|keys| keys.ids().into_iter().next());
        let newest = newest.ok_or_else(|| ChunkError::Incompatible {
            region: inner.name.clone(),
            detail: "it has no keys to seal its packs with".into(),
        })?;
        let mut todo = Vec::new();
        for (pack, len) in inner.index.packs() {
            if !inner.zones.sealed_by_newest(pack).await? {
                todo.push((pack, len));
            }
        }
        todo.sort_unstable();
        progress.start(todo.iter().map(|(_, len)| len).sum());
        let mut done = Resealed::default();
        for (pack, len) in todo {
            if cancel.is_cancelled() {
                return Err(ChunkError::Cancelled);
            }
            match rewrite(inner, pack, len).await {
                Ok(true) => {
                    done.packs += 1;
                    done.bytes += len;
                }
                Ok(false) => done.left += 1,
                Err(e @ (ChunkError::Corrupt { .. } | ChunkError::NotFound { .. })) => {
                    tracing::error!(region = inner.name, %pack, error = %e, "a damaged pack is kept as it is; scrub first");
                    done.left += 1;
                }
                Err(e) => return Err(e),
            }
            progress.add(len);
        }
        if done.left == 0 {
            forget_older_keys(inner, newest).await?;
        }
        Ok(done)
    }
}

/// `false`: a running writer counts on the pack.
async fn rewrite(inner: &Arc<Inner>, pack: Uuid, len: u64) -> Result<bool> {
    let _no_collection = inner.gc.lock().await;
    if !inner.index.has_pack(pack) {
        return Ok(true);
    }
    if !inner.index.condemn_pack(pack, || inner.writers().protected()) {
        return Ok(false);
    }
    let moved = async {
        let mut writer = PackWriter::new(inner)?;
        move_live(inner, &mut writer, pack, len, |_| true).await?;
        writer.flush().await?;
        inner.index.commit(Record::PacksRemoved(vec![pack]), None).await
    };
    if let Err(e) = moved.await {
        inner.index.pardon(pack);
        return Err(e);
    }
    // What stays behind is an orphan for the next collection.
    if let Err(e) = inner.zones.delete_pack(pack).await {
        tracing::warn!(region = inner.name, %pack, error = %e, "a pack that was written anew could not be deleted yet");
    }
    Ok(true)
}

async fn forget_older_keys(inner: &Inner, newest: String) -> Result<()> {
    for zone in 0..inner.zones.len() {
        let head = inner.zones.get_in(zone, &Path::from(HEAD)).await?;
        let Some(head) = head.and_then(|bytes| serde_json::from_slice::<StoreParams>(&bytes).ok()) else { continue };
        if head.keys() != [newest.clone()] {
            let head = StoreParams { encryption: None, ..head }.with_keys([newest.clone()]);
            write_head(&inner.zones, zone, &head).await?;
        }
    }
    Ok(())
}
