//! qcow2 with compressed clusters. Where a cluster goes is known only once those before it are compressed, so that this is written in
//! order, into a file, and has no ranges.
//!
//! ```text
//! header │ clusters and L2 tables, as they come │ L1 table │ refcount table │ refcount blocks
//! ```
//! The header is written last: a file that was left half-written is no qcow2.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::ExportError;
use super::qcow2::{CLUSTER, CLUSTER_BITS, COPIED, COUNTS, Header, L2, check_size, refcounts};
use super::units::Units;
use crate::DiskSource;

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// What every reader knows.
    Zlib,
    /// Smaller and faster; QEMU 5.1 and later.
    Zstd,
}

const COMPRESSED: u64 = 1 << 62;
const ZSTD_LEVEL: i32 = 3;
/// Clusters that a thread compresses at a time.
const BATCH: usize = 32;

/// Writes `disk` into `file`, which must be empty. `progress` is told how far it is on the disk, in bytes.
///
/// # Errors
/// See [`ExportError`].
pub fn write(
    disk: &Arc<dyn DiskSource>,
    file: &File,
    packing: Packing,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), ExportError> {
    check_size(disk.size())?;
    let units = Units::of(&**disk, CLUSTER)?;
    let mut writer = Writer::new(file, disk.size());
    let batch = BATCH * threads.max(1);
    let mut rank = 0;
    while rank < units.count {
        let clusters: Vec<u64> = (rank..units.count).take(batch).filter_map(|rank| units.nth(rank)).collect();
        let share = clusters.len().div_ceil(threads.max(1));
        let packed: Vec<io::Result<Vec<Packed>>> = std::thread::scope(|scope| {
            let parts: Vec<_> =
                clusters.chunks(share).map(|part| scope.spawn(|| pack(&**disk, part, packing))).collect();
            let panicked = |_| Err(io::Error::other("a compressing thread panicked"));
            parts.into_iter().map(|part| part.join().unwrap_or_else(panicked)).collect()
        });
        for (cluster, packed) in packed.into_iter().collect::<io::Result<Vec<_>>>()?.into_iter().flatten() {
            writer.cluster(cluster, &packed)?;
        }
        rank += clusters.len() as u64;
        progress(clusters.last().map_or(0, |last| ((last + 1) * CLUSTER).min(disk.size())));
    }
    writer.finish(packing)?;
    file.sync_all()?;
    progress(disk.size());
    Ok(())
}

/// A cluster and its bytes.
type Packed = (u64, Bytes);

enum Bytes {
    Zeros,
    Plain(Vec<u8>),
    Compressed(Vec<u8>),
}

fn pack(disk: &dyn DiskSource, clusters: &[u64], packing: Packing) -> io::Result<Vec<Packed>> {
    let mut packer = Packer::new(packing)?;
    let one = |cluster: &u64| {
        let mut plain = vec![0; usize::try_from(CLUSTER).unwrap_or_default()];
        super::read_to_end(disk, cluster * CLUSTER, &mut plain)?;
        let bytes = if plain.iter().all(|b| *b == 0) {
            Bytes::Zeros
        } else {
            match packer.pack(&plain)? {
                // In whole sectors, of which the entry counts.
                Some(packed) if packed.len() as u64 + 512 < CLUSTER => Bytes::Compressed(packed),
                _ => Bytes::Plain(plain),
            }
        };
        Ok((*cluster, bytes))
    };
    clusters.iter().map(one).collect()
}

enum Packer {
    Zlib(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Packer {
    fn new(packing: Packing) -> io::Result<Self> {
        Ok(match packing {
            // A raw stream. The window may be larger than QEMU's 4 KiB: it inflates with any.
            Packing::Zlib => Self::Zlib(Compress::new(Compression::default(), false)),
            Packing::Zstd => Self::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        })
    }

    /// `None`: it does not get smaller.
    fn pack(&mut self, plain: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Zstd(compressor) => compressor.compress(plain).map(Some),
            Self::Zlib(compress) => {
                compress.reset();
                let mut out = Vec::with_capacity(plain.len());
                let status = compress.compress_vec(plain, &mut out, FlushCompress::Finish);
                Ok((status.map_err(io::Error::other)? == Status::StreamEnd).then_some(out))
            }
        }
    }
}

struct Writer<'a> {
    file: &'a File,
    size: u64,
    /// Where the next cluster goes; compressed ones follow each other without gaps.
    at: u64,
    l1: Vec<u64>,
    /// The table that is being filled, and its index.
    l2: Option<(u64, Vec<u64>)>,
    /// References of each cluster of the file.
    counts: Vec<u16>,
}

impl<'a> Writer<'a> {
    fn new(file: &'a File, size: u64) -> Self {
        let l1 = vec![0; usize::try_from(size.div_ceil(CLUSTER * L2)).unwrap_or_default()];
        Self { file, size, at: CLUSTER, l1, l2: None, counts: vec![1] }
    }

    fn cluster(&mut self, cluster: u64, bytes: &Bytes) -> io::Result<()> {
        let entry = match bytes {
            Bytes::Zeros => return Ok(()),
            Bytes::Plain(plain) => self.aligned(plain)? | COPIED,
            Bytes::Compressed(packed) => {
                let (at, len) = (self.at, packed.len() as u64);
                self.file.write_all_at(packed, at)?;
                self.at += len;
                self.count(at, len);
                let sectors = (at % 512 + len).div_ceil(512) - 1;
                COMPRESSED | (sectors << (70 - CLUSTER_BITS)) | at
            }
        };
        let (index, inside) = (cluster / L2, usize::try_from(cluster % L2).unwrap_or_default());
        if self.l2.as_ref().is_some_and(|(open, _)| *open != index) {
            self.close_l2()?;
        }
        let empty = || (index, vec![0; usize::try_from(L2).unwrap_or_default()]);
        self.l2.get_or_insert_with(empty).1[inside] = entry;
        Ok(())
    }

    /// Writes whole clusters where a cluster begins, and says where.
    fn aligned(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let (at, len) = (self.at.next_multiple_of(CLUSTER), (bytes.len() as u64).next_multiple_of(CLUSTER));
        self.file.write_all_at(bytes, at)?;
        self.at = at + len;
        self.count(at, len);
        Ok(at)
    }

    /// One reference more for each cluster that these bytes touch.
    fn count(&mut self, at: u64, len: u64) {
        for cluster in at / CLUSTER..(at + len).div_ceil(CLUSTER) {
            let index = usize::try_from(cluster).unwrap_or(usize::MAX);
            if index >= self.counts.len() {
                self.counts.resize(index + 1, 0);
            }
            // At most a reference for each few bytes of the cluster.
            self.counts[index] = self.counts[index].saturating_add(1);
        }
    }

    fn close_l2(&mut self) -> io::Result<()> {
        let Some((index, table)) = self.l2.take() else { return Ok(()) };
        let at = self.aligned(&big_endian(&table))?;
        self.l1[usize::try_from(index).unwrap_or(usize::MAX)] = at | COPIED;
        Ok(())
    }

    fn finish(mut self, packing: Packing) -> io::Result<()> {
        self.close_l2()?;
        let mut l1 = big_endian(&self.l1);
        l1.resize(
            l1.len().next_multiple_of(usize::try_from(CLUSTER).unwrap_or(1)).max(usize::try_from(CLUSTER).unwrap_or(1)),
            0,
        );
        let l1_at = self.aligned(&l1)?;
        let (blocks, table) = refcounts(self.at / CLUSTER);
        let refcounts_at = self.at;
        let blocks_at = refcounts_at + table * CLUSTER;
        self.count(refcounts_at, (table + blocks) * CLUSTER);
        let places: Vec<u64> = (0..blocks).map(|block| blocks_at + block * CLUSTER).collect();
        self.file.write_all_at(&big_endian(&places), refcounts_at)?;
        let counts: Vec<u8> = self.counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        self.file.write_all_at(&counts, blocks_at)?;
        debug_assert!(self.counts.len() as u64 <= blocks * COUNTS);
        self.file.set_len(blocks_at + blocks * CLUSTER)?;
        let header = Header {
            size: self.size,
            l1_entries: self.l1.len() as u64,
            l1_at,
            refcounts_at,
            refcounts_len: table,
            zstd: packing == Packing::Zstd,
        };
        self.file.write_all_at(&header.to_bytes(), 0)
    }
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}
