//! qcow2 of version 3 with clusters of 64 KiB, not compressed. Drawn at [`crate::qcow2`]; every cluster of the file is used once.
//!
//! ```text
//! header │ refcount table │ refcount blocks │ L1 table │ L2 tables with data │ clusters with data
//! ```

use std::sync::Arc;

use super::units::Units;
use super::{ExportError, ImageFile, read_to_end};
use crate::DiskSource;
use crate::table::MAX_DISK;

pub(super) const CLUSTER_BITS: u32 = 16;
pub(super) const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of an L2 table.
pub(super) const L2: u64 = CLUSTER / 8;
/// Counts of a refcount block, 16 bits each.
pub(super) const COUNTS: u64 = CLUSTER / 2;
pub(super) const COPIED: u64 = 1 << 63;

/// What the header says.
pub(super) struct Header {
    pub(super) size: u64,
    pub(super) l1_entries: u64,
    pub(super) l1_at: u64,
    pub(super) refcounts_at: u64,
    /// Clusters of the refcount table.
    pub(super) refcounts_len: u64,
    pub(super) zstd: bool,
}

impl Header {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let u32_of = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let mut raw = Vec::with_capacity(112);
        raw.extend(*b"QFI\xfb");
        raw.extend(3_u32.to_be_bytes());
        raw.extend([0; 12]);
        raw.extend(CLUSTER_BITS.to_be_bytes());
        raw.extend(self.size.to_be_bytes());
        raw.extend([0; 4]);
        raw.extend(u32_of(self.l1_entries));
        raw.extend(self.l1_at.to_be_bytes());
        raw.extend(self.refcounts_at.to_be_bytes());
        raw.extend(u32_of(self.refcounts_len));
        raw.extend([0; 12]);
        // Incompatible features: the compression is told.
        raw.extend(if self.zstd { 1_u64 << 3 } else { 0 }.to_be_bytes());
        raw.extend([0; 16]);
        // Reference counts of 2^4 bits; the header's length.
        raw.extend(4_u32.to_be_bytes());
        raw.extend(112_u32.to_be_bytes());
        raw.extend([u8::from(self.zstd), 0, 0, 0, 0, 0, 0, 0]);
        raw
    }
}

pub(super) fn check_size(size: u64) -> Result<(), ExportError> {
    if size > MAX_DISK {
        return Err(ExportError::TooLarge { format: "qcow2", size, most: MAX_DISK });
    }
    Ok(())
}

/// How many clusters refcount blocks and their table take in a file that has `others` clusters else.
pub(super) fn refcounts(others: u64) -> (u64, u64) {
    let (mut blocks, mut table) = (0, 0);
    loop {
        let all = others + blocks + table;
        let next = (all.div_ceil(COUNTS), (all.div_ceil(COUNTS) * 8).div_ceil(CLUSTER));
        if next == (blocks, table) {
            return next;
        }
        (blocks, table) = next;
    }
}

pub(super) fn plan(disk: Arc<dyn DiskSource>) -> Result<ImageFile, ExportError> {
    let size = disk.size();
    check_size(size)?;
    let clusters = Arc::new(Units::of(&*disk, CLUSTER)?);
    let tables = Arc::new(clusters.grouped(L2));
    let l1_entries = size.div_ceil(CLUSTER * L2);
    let l1_len = (l1_entries * 8).div_ceil(CLUSTER).max(1);
    let (blocks, table) = refcounts(1 + l1_len + tables.count + clusters.count);
    let blocks_at = (1 + table) * CLUSTER;
    let l1_at = blocks_at + blocks * CLUSTER;
    let l2_at = l1_at + l1_len * CLUSTER;
    let data_at = l2_at + tables.count * CLUSTER;
    let all = data_at / CLUSTER + clusters.count;
    let header = Header { size, l1_entries, l1_at, refcounts_at: CLUSTER, refcounts_len: table, zstd: false };
    let (data, l2_tables) = (clusters.count, tables.count);
    let (l1_ranks, l2_ranks) = (Arc::clone(&tables), Arc::clone(&clusters));
    let l1 = move |index| l1_ranks.rank(index).map_or(0, |rank| (l2_at + rank * CLUSTER) | COPIED).to_be_bytes();
    let l2 = move |index: u64| {
        let cluster = tables.nth(index / L2).unwrap_or(0) * L2 + index % L2;
        l2_ranks.rank(cluster).map_or(0, |rank| (data_at + rank * CLUSTER) | COPIED).to_be_bytes()
    };
    let fill = move |at: u64, buf: &mut [u8]| {
        crate::table::by_unit(at, buf, CLUSTER, |rank, inside, part| {
            read_to_end(&*disk, clusters.nth(rank).unwrap_or(0) * CLUSTER + inside, part)
        })
    };
    Ok(ImageFile::empty()
        .with_bytes(header.to_bytes(), CLUSTER)
        .with_table(blocks, CLUSTER, move |index| (blocks_at + index * CLUSTER).to_be_bytes())
        .with_table(all, CLUSTER, |_| 1_u16.to_be_bytes())
        .with_table(l1_entries.max(1), CLUSTER, l1)
        .with_table(l2_tables * L2, CLUSTER, l2)
        .with(data * CLUSTER, Box::new(fill), None))
}
