//! Where a disk's bytes come from. Readers of disks (ingest, export) see every format through
//! [`DiskSource`]; they must never learn which one it is.

use std::io;
use std::ops::Range;

/// A disk image that can be read at random, with its holes known.
///
/// Reads are positional and may come from several threads at once.
pub trait DiskSource: Send + Sync {
    /// The disk's logical size in bytes: a multiple of 512, without any footer of its format.
    fn size(&self) -> u64;

    /// The first range at or after `from` that may hold data; everything before it reads as zeros.
    /// `None`: only zeros follow. The range starts at `from` or later and is not empty.
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>>;

    /// Fills `buf` with the bytes at `offset`. `offset + buf.len()` must not exceed [`size`](Self::size).
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}
