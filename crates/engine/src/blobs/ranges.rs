//! A bounded list of page ranges. A client may take a range for data that is zero, never the other way round: where a disk has
//! more pieces than a list may hold, near ones are joined over the hole between them.

use std::ops::Range;

/// So many ranges one list has at most; Azure gives no more in one answer either.
const MAX_RANGES: usize = 10_000;
/// A page blob is counted in pages of this many bytes.
pub(crate) const PAGE: u64 = 512;

/// Collects ascending ranges of data.
#[derive(Debug)]
pub(crate) struct Ranges {
    list: Vec<Range<u64>>,
    /// Holes up to this length are taken for data.
    gap: u64,
    max: usize,
}

impl Ranges {
    pub fn new() -> Self {
        Self::with_max(MAX_RANGES)
    }

    fn with_max(max: usize) -> Self {
        Self { list: Vec::new(), gap: 0, max }
    }

    /// Adds data, widened to whole pages; not before what was added last.
    pub fn push(&mut self, data: Range<u64>) {
        if data.is_empty() {
            return;
        }
        let data = data.start / PAGE * PAGE..data.end.next_multiple_of(PAGE);
        match self.list.last_mut() {
            Some(last) if data.start <= last.end.saturating_add(self.gap) => last.end = last.end.max(data.end),
            _ => self.list.push(data),
        }
        while self.list.len() > self.max {
            self.gap = (self.gap * 2).max(64 << 10);
            let gap = self.gap;
            self.list.dedup_by(|next, kept| {
                let near = next.start <= kept.end.saturating_add(gap);
                if near {
                    kept.end = kept.end.max(next.end);
                }
                near
            });
        }
    }

    pub fn into_vec(self) -> Vec<Range<u64>> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Ascending, apart, of whole pages, no more than allowed, and nothing that was data is missing.
        #[test]
        fn covers_what_was_pushed(steps in prop::collection::vec((0_u64..300_000, 1_u64..9_000), 0..60), max in 1_usize..12) {
            let mut ranges = Ranges::with_max(max);
            let (mut at, mut pushed) = (0, Vec::new());
            for (skip, len) in steps {
                let data = at + skip..at + skip + len;
                at = data.end;
                ranges.push(data.clone());
                pushed.push(data);
            }
            let list = ranges.into_vec();
            prop_assert!(list.len() <= max);
            prop_assert!(list.windows(2).all(|w| w[0].end < w[1].start));
            prop_assert!(list.iter().all(|r| !r.is_empty() && r.start % PAGE == 0 && r.end % PAGE == 0));
            for data in pushed {
                prop_assert!(list.iter().any(|r| r.start <= data.start && data.end <= r.end));
            }
        }
    }

    #[test]
    fn few_ranges_are_exact() {
        let mut ranges = Ranges::new();
        for data in [0..512, 512..1024, 4096..4097, 0..0] {
            ranges.push(data);
        }
        assert_eq!(ranges.into_vec(), [0..1024, 4096..4608]);
    }
}
