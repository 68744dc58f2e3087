//! What an export shows. Sources know nothing of NBD.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

/// A read-only disk. Its bytes and its size never change while it is exported, so several connections see one truth.
#[async_trait]
pub trait BlockSource: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`; the range lies inside the disk. Called by several tasks at once, and
    /// dropped half-way when the server stops.
    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Where data and holes lie in the `len` bytes at `offset` (inside the disk, not empty), in order and without gaps,
    /// starting at `offset`. What is missing at the end counts as data; what goes beyond is cut.
    async fn extents(&self, offset: u64, len: u64) -> io::Result<Vec<Extent>>;

    /// A hint: these bytes will be read soon.
    async fn cache(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A run of bytes that are all data or all hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub len: u64,
    /// Reads as zeros and takes no space.
    pub hole: bool,
}

/// What was served.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answered READ requests.
    pub reads: AtomicU64,
    /// Bytes that they asked for, holes included.
    pub bytes: AtomicU64,
    /// Requests answered with an error.
    pub errors: AtomicU64,
}

impl Counters {
    pub(crate) fn count_read(&self, bytes: u64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// A source under a name. Clients may also ask for it by the empty name.
#[derive(Clone)]
pub struct Export {
    pub name: String,
    pub source: Arc<dyn BlockSource>,
    pub counters: Arc<Counters>,
}

impl Export {
    #[must_use]
    pub fn new(name: impl Into<String>, source: Arc<dyn BlockSource>) -> Self {
        Self { name: name.into(), source, counters: Arc::default() }
    }
}

/// Brings a source's extents into order: exactly `len` bytes, none empty, neighbours of one kind joined.
pub(crate) fn tidy(extents: &[Extent], len: u64) -> Vec<Extent> {
    let mut tidy: Vec<Extent> = Vec::new();
    let mut left = len;
    let rest = Extent { len: u64::MAX, hole: false };
    for extent in extents.iter().chain([&rest]) {
        let len = extent.len.min(left);
        if len == 0 {
            continue;
        }
        left -= len;
        match tidy.last_mut() {
            Some(last) if last.hole == extent.hole => last.len += len,
            _ => tidy.push(Extent { len, hole: extent.hole }),
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::{Extent, tidy};
    use proptest::prelude::*;

    fn extent(len: u64, hole: bool) -> Extent {
        Extent { len, hole }
    }

    #[test]
    fn extents_are_joined_cut_and_completed() {
        let odd = [extent(5, true), extent(0, false), extent(5, true), extent(7, false)];
        assert_eq!(tidy(&odd, 12), [extent(10, true), extent(2, false)]);
        assert_eq!(tidy(&odd, 20), [extent(10, true), extent(10, false)]);
        assert_eq!(tidy(&[extent(u64::MAX, true), extent(u64::MAX, false)], 9), [extent(9, true)]);
        assert_eq!(tidy(&[], 4), [extent(4, false)]);
    }

    proptest! {
        #[test]
        fn tidied_extents_fill_the_range(
            extents in prop::collection::vec((any::<u64>(), any::<bool>()), 0..9),
            len in 1_u64..,
        ) {
            let extents: Vec<_> = extents.into_iter().map(|(len, hole)| extent(len, hole)).collect();
            let out = tidy(&extents, len);
            prop_assert_eq!(out.iter().map(|e| u128::from(e.len)).sum::<u128>(), u128::from(len));
            prop_assert!(out.iter().all(|e| e.len > 0));
            prop_assert!(out.windows(2).all(|w| w[0].hole != w[1].hole));
        }
    }
}
