//! What changed on a disk since its base: the door through which delta ingest sees every format of overlay.

use std::io;
use std::ops::Range;

/// What a changed part of a disk is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// [`ChangedSource::read_at`] gives its bytes.
    Data,
    /// Zeros, whatever the base has there.
    Zero,
}

/// The changes of a disk over a base that only the caller knows.
///
/// Reads are positional and may come from several threads at once.
pub trait ChangedSource: Send + Sync {
    /// The disk's logical size in bytes.
    fn size(&self) -> u64;

    /// The first changed range at or after `from`; what lies before it is as in the base. It starts at `from` or later, is
    /// not empty, and may be followed directly by the next one. `None`: nothing else changed.
    fn next_change(&self, from: u64) -> io::Result<Option<(Range<u64>, ChangeKind)>>;

    /// Fills `buf` with the bytes at `offset`, all of which must be [`ChangeKind::Data`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A disk as its base is, perhaps larger: of this size, with no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unchanged(pub u64);

impl ChangedSource for Unchanged {
    fn size(&self) -> u64 {
        self.0
    }

    fn next_change(&self, _from: u64) -> io::Result<Option<(Range<u64>, ChangeKind)>> {
        Ok(None)
    }

    fn read_at(&self, offset: u64, _buf: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("nothing changed at byte {offset}")))
    }
}

/// Changes as a disk of a larger size shows them: what it has more reads as its base, or as zeros.
pub struct Resized<T> {
    pub inner: T,
    /// At least the inner size.
    pub size: u64,
}

impl<T: ChangedSource> ChangedSource for Resized<T> {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_change(&self, from: u64) -> io::Result<Option<(Range<u64>, ChangeKind)>> {
        self.inner.next_change(from)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
}
