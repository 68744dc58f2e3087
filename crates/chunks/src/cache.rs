//! The memory cache of verified plain bytes, bounded in bytes, shared by all regions of a process:
//! a blob's id is its content's hash, so it does not matter where it was read. Where it must not be told either that others
//! read the same (by how long it takes), each has an apartment of its own ([`Cache::apart`]); the bound is that of all.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::ChunkId;
use crate::manifest::{Segment, SegmentExtent};

/// A byte-bounded cache; clones share it.
#[derive(Clone)]
pub struct Cache {
    held: Arc<quick_cache::sync::Cache<Name, Cached, Weigh>>,
    capacity: u64,
    apartment: u64,
}

/// Apartment and blob.
type Name = (u64, ChunkId);

#[derive(Clone)]
pub(crate) enum Cached {
    Chunk(Bytes),
    Segment(Arc<Segment>),
}

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<Name, Cached> for Weigh {
    fn weight(&self, _: &Name, value: &Cached) -> u64 {
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
        let held = Arc::new(quick_cache::sync::Cache::with_weighter(items, bytes, Weigh));
        Self { held, capacity: bytes, apartment: 0 }
    }

    /// The same memory for who shares nothing with others: what is found through it was put through one of the same name.
    #[must_use]
    pub fn apart(&self, name: &str) -> Self {
        let hash = blake3::derive_key("lazuli chunks cache apart v1", name.as_bytes());
        let (first, _) = hash.split_first_chunk().expect("32 bytes");
        Self { apartment: u64::from_le_bytes(*first), ..self.clone() }
    }

    /// Bytes it holds now.
    pub fn used(&self) -> u64 {
        self.held.weight()
    }

    /// Bytes it may hold.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(crate) fn get(&self, id: ChunkId) -> Option<Cached> {
        self.held.get(&(self.apartment, id))
    }

    pub(crate) fn holds(&self, id: ChunkId) -> bool {
        self.held.peek(&(self.apartment, id)).is_some()
    }

    pub(crate) fn put(&self, id: ChunkId, value: Cached) {
        self.held.insert((self.apartment, id), value);
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("used", &self.used()).field("capacity", &self.capacity).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apartments_share_the_bound_and_nothing_else() {
        let all = Cache::new(1 << 20);
        let (a, b) = (all.apart("a"), all.apart("b"));
        let id = ChunkId([7; 32]);
        a.put(id, Cached::Chunk(vec![1; 1000].into()));
        assert!(a.holds(id) && all.apart("a").get(id).is_some());
        assert!(!b.holds(id) && b.get(id).is_none() && all.get(id).is_none());
        assert_eq!((a.used(), b.used(), all.used()), (1128, 1128, 1128));
    }
}
