//! The memory cache of verified plain bytes, bounded in bytes, shared by all regions of a process:
//! a blob's id is its content's hash, so it does not matter where it was read.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::ChunkId;
use crate::manifest::{Segment, SegmentExtent};

/// A byte-bounded cache; clones share it.
#[derive(Clone)]
pub struct Cache(Arc<quick_cache::sync::Cache<ChunkId, Cached, Weigh>>, u64);

#[derive(Clone)]
pub(crate) enum Cached {
    Chunk(Bytes),
    Segment(Arc<Segment>),
}

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<ChunkId, Cached> for Weigh {
    fn weight(&self, _: &ChunkId, value: &Cached) -> u64 {
        let bytes = match value {
            Cached::Chunk(bytes) => bytes.len(),
            Cached::Segment(segment) => segment.extents.len() * size_of::<SegmentExtent>(),
        };
        // The entry itself: key, handle, allocation.
        bytes as u64 + 128
    }
}

impl Cache {
    /// A cache of at most about `bytes`.
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / (32 << 10)).unwrap_or(usize::MAX).max(16);
        Self(Arc::new(quick_cache::sync::Cache::with_weighter(items, bytes, Weigh)), bytes)
    }

    /// Bytes it holds now.
    pub fn used(&self) -> u64 {
        self.0.weight()
    }

    /// Bytes it may hold.
    pub fn capacity(&self) -> u64 {
        self.1
    }

    pub(crate) fn get(&self, id: ChunkId) -> Option<Cached> {
        self.0.get(&id)
    }

    pub(crate) fn holds(&self, id: ChunkId) -> bool {
        self.0.peek(&id).is_some()
    }

    pub(crate) fn put(&self, id: ChunkId, value: Cached) {
        self.0.insert(id, value);
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("used", &self.used()).field("capacity", &self.1).finish()
    }
}
