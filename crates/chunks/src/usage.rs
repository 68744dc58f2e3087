//! What is held, and by whom: of a whole region, and of some of its disks beside all others.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::id::ManifestId;
use crate::log::Key;
use crate::reader;
use crate::region::Region;

/// What a region holds. Ratios follow: `data_bytes / unique_bytes` is deduplication,
/// `unique_bytes / stored_bytes` is compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sum of the disks' sizes, holes included, over all manifests.
    pub logical_bytes: u64,
    /// Sum of the disks' bytes that are data, over all manifests.
    pub data_bytes: u64,
    /// Plain bytes of the distinct chunks.
    pub unique_bytes: u64,
    /// Bytes of the packs, in one zone.
    pub stored_bytes: u64,
    pub packs: u64,
    pub chunks: u64,
    pub manifests: u64,
}

/// What some disks of a region hold, and what of that nothing else needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Sum of the disks' sizes, holes included.
    pub logical_bytes: u64,
    /// Sum of the disks' bytes that are data.
    pub data_bytes: u64,
    /// Plain bytes of their distinct chunks.
    pub unique_bytes: u64,
    /// What these chunks take in the packs of one zone, compressed.
    pub stored_bytes: u64,
    /// Plain bytes of those of their chunks that no other disk has.
    pub own_unique_bytes: u64,
    /// What these take compressed. That much is free once the disks are deleted and the garbage is collected; packs that stay mostly
    /// alive are rewritten later, so that the folder may shrink by less at first.
    pub own_stored_bytes: u64,
}

/// Of disks in another store, which shares nothing with this one.
impl std::ops::AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.logical_bytes += other.logical_bytes;
        self.data_bytes += other.data_bytes;
        self.unique_bytes += other.unique_bytes;
        self.stored_bytes += other.stored_bytes;
        self.own_unique_bytes += other.own_unique_bytes;
        self.own_stored_bytes += other.own_stored_bytes;
    }
}

impl Region {
    /// What the region holds; manifests that no collection has removed yet count.
    pub async fn usage(&self) -> Result<Usage> {
        self.0.refresh().await?;
        let totals = self.0.index.totals();
        let mut usage = Usage {
            unique_bytes: totals.chunk_bytes,
            stored_bytes: totals.pack_bytes,
            packs: totals.packs,
            chunks: totals.chunks,
            ..Usage::default()
        };
        for key in self.0.index.roots() {
            if let Some(root) = self.root_by_key(key).await? {
                usage.manifests += 1;
                usage.logical_bytes += root.size;
                usage.data_bytes += root.data_bytes;
            }
        }
        Ok(usage)
    }

    /// What the disks `own` hold beside `others`, all other disks that are alive. Memory grows with the chunks of `own` and the
    /// segments of `others`; a segment that several disks share is read once.
    pub async fn share(&self, own: &[ManifestId], others: &[ManifestId]) -> Result<Share> {
        self.0.refresh().await?;
        let mut share = Share::default();
        let mut chunks: HashMap<Key, bool> = HashMap::new();
        let mut segments = HashSet::new();
        for manifest in own.iter().copied().collect::<HashSet<_>>() {
            let root = reader::load_root(&self.0, manifest).await?;
            share.logical_bytes += root.size;
            share.data_bytes += root.data_bytes;
            for segment in root.segments.iter().filter(|s| segments.insert(s.id)) {
                let extents = &reader::load_segment(&self.0, segment.id).await?.extents;
                chunks.extend(extents.iter().map(|e| (Key::from(e.chunk), true)));
            }
        }
        let mut seen = HashSet::new();
        for manifest in others.iter().copied().collect::<HashSet<_>>() {
            let root = reader::load_root(&self.0, manifest).await?;
            for segment in root.segments.iter().filter(|s| seen.insert(s.id)) {
                for extent in &reader::load_segment(&self.0, segment.id).await?.extents {
                    if let Some(only_own) = chunks.get_mut(&Key::from(extent.chunk)) {
                        *only_own = false;
                    }
                }
            }
        }
        for (key, only_own) in chunks {
            let Some(at) = self.0.index.lookup_key(key) else { continue };
            let (plain, stored) = (u64::from(at.plain_len), at.stored_share());
            share.unique_bytes += plain;
            share.stored_bytes += stored;
            if only_own {
                share.own_unique_bytes += plain;
                share.own_stored_bytes += stored;
            }
        }
        Ok(share)
    }
}
