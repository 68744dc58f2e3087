//! The index again, from the packs alone.

use crate::error::{ChunkError, Result};
use crate::log::Record;
use crate::pack::{self, Frame, PACK_MAX, TRAILER_LEN};
use crate::region::{Inner, Region};

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

/// What a rebuild found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rebuilt {
    pub packs: u64,
    pub blobs: u64,
    /// Packs whose table could not be read; they are left alone and not in the index.
    pub damaged: Vec<String>,
}

impl Region {
    /// Reads the table of every pack and writes the index anew. Nothing else changes in the store;
    /// packs that nothing referred to are found again, too, until the next collection. Writers wait.
    pub async fn rebuild_index(&self) -> Result<Rebuilt> {
        let _one_at_a_time = self.0.gc.lock().await;
        let mut log = self.0.index.lock_log().await?;
        let packs = self.0.zones.list_packs().await?;
        let read: Vec<_> = futures::stream::iter(packs)
            .map(|(id, len)| {
                let inner = Arc::clone(&self.0);
                async move { Ok::<_, ChunkError>((id, len, read_any_zone(&inner, id, len).await?)) }
            })
            .buffered(8)
            .try_collect()
            .await?;
        let mut result = Rebuilt::default();
        let mut records = Vec::new();
        for (id, len, frames) in read {
            let Some(frames) = frames else {
                result.damaged.push(id.simple().to_string());
                continue;
            };
            result.packs += 1;
            result.blobs += frames.iter().map(|f| f.blobs.len() as u64).sum::<u64>();
            records.push(Record::PackAdded { pack: id, len, frames: frames.iter().map(Frame::from).collect() });
        }
        let index = Arc::clone(&self.0.index);
        tokio::task::spawn_blocking(move || index.replace(&mut log, &records)).await.map_err(ChunkError::worker)??;
        Ok(result)
    }
}

/// `None`: no zone has a readable table.
async fn read_any_zone(inner: &Inner, id: Uuid, len: u64) -> Result<Option<Vec<Frame>>> {
    for zone in inner.zones.order() {
        match read_table(inner, zone, id, len).await {
            Ok(frames) => return Ok(Some(frames)),
            Err(e @ (ChunkError::Corrupt { .. } | ChunkError::NotFound { .. })) => {
                tracing::warn!(region = inner.name, pack = %id, zone, error = %e, "a pack's table cannot be read");
            }
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// A pack's own table of what it holds.
pub(crate) async fn read_table(inner: &Inner, zone: usize, id: Uuid, len: u64) -> Result<Vec<Frame>> {
    let impossible = || ChunkError::corrupt(format!("pack {id}"), format!("{len} bytes is no pack's length"));
    let trailer_at = len.checked_sub(TRAILER_LEN as u64).filter(|_| len <= PACK_MAX).ok_or_else(impossible)?;
    let trailer = inner.zones.read_pack(zone, id, trailer_at..len).await?;
    let table_len = pack::table_len(&trailer)?;
    let table_at = trailer_at.checked_sub(table_len).ok_or_else(impossible)?;
    let tail = inner.zones.read_pack(zone, id, table_at..len).await?;
    pack::parse_tail(&tail, len)
}
