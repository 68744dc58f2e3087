//! The index again, from the packs alone.

use crate::error::{ChunkError, Result};
use crate::log::Record;
use crate::pack::{self, Frame, PACK_MAX, TRAILER_LEN};
use crate::region::{Inner, Region};

use std::collections::HashSet;
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
        let read = read_tables(&self.0, packs).await?;
        let mut result = Rebuilt::default();
        let mut records = Vec::new();
        for (id, len, frames) in read {
            let Some(frames) = frames else {
                result.damaged.push(id.simple().to_string());
                continue;
            };
            result.packs += 1;
            result.blobs += frames.iter().map(|f| f.blobs.len() as u64).sum::<u64>();
            records.push(added(id, len, &frames));
        }
        let index = Arc::clone(&self.0.index);
        tokio::task::spawn_blocking(move || index.replace(&mut log, &records)).await.map_err(ChunkError::worker)??;
        Ok(result)
    }
}

/// What a region that follows knows is what its packs say of themselves: takes new ones in, and begins anew when some are gone,
/// as what was in those too may lie in others. `true`: something is new. Lists: only where something is not known.
pub(crate) async fn look_for_packs(inner: &Inner) -> Result<bool> {
    let _one_at_a_time = inner.gc.lock().await;
    let listed = inner.zones.list_packs().await?;
    let known = inner.index.packs();
    let here: HashSet<Uuid> = listed.iter().map(|(id, _)| *id).collect();
    let gone = known.keys().any(|id| !here.contains(id));
    let wanted = listed.into_iter().filter(|(id, _)| gone || !known.contains_key(id)).collect();
    let read = read_tables(inner, wanted).await?;
    // In the order of their making: what a collection moved is taken from where it lies now.
    let tables = read.into_iter().filter_map(|(id, len, frames)| Some(added(id, len, &frames?)));
    let records: Vec<Record> = tables.collect();
    if gone {
        inner.index.become_these(&records);
    } else {
        records.iter().for_each(|record| inner.index.absorb(record));
    }
    Ok(gone || !records.is_empty())
}

fn added(pack: Uuid, len: u64, frames: &[Frame]) -> Record {
    Record::PackAdded { pack, len, frames: frames.iter().map(Frame::from).collect() }
}

type Table = (Uuid, u64, Option<Vec<Frame>>);

/// In the order of the packs. Without a table: one that no zone can give.
async fn read_tables(inner: &Inner, packs: Vec<(Uuid, u64)>) -> Result<Vec<Table>> {
    futures::stream::iter(packs)
        .map(|(id, len)| async move { Ok::<_, ChunkError>((id, len, read_any_zone(inner, id, len).await?)) })
        .buffered(8)
        .try_collect()
        .await
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
