//! What changed between two incremental snapshots of one disk: Get Page Ranges with a previous snapshot, over their read SAS.
//!
//! The answer comes from the two manifests alone and costs time in proportion to what differs. A page may be told as changed that
//! is not (differences are exact to a stored chunk), never the other way round. The VHD's footer tells the snapshots apart, not
//! their disks: it counts as changed only when the disk has grown.

use super::ranges::{PAGE, Ranges};
use super::{Blob, BlobError, Kind};
use lazuli_arm::bodies::snapshot;
use lazuli_chunks::DiffKind;
use lazuli_meta::model::Resource;
use std::ops::Range;

/// An incremental snapshot among those of its disk.
#[derive(Clone)]
pub(super) struct Member {
    region: String,
    family: String,
    created_ms: i64,
}

impl Member {
    /// `None` for whatever is no incremental snapshot.
    pub fn of(region: &str, row: Option<&Resource>) -> Option<Self> {
        let row = row?;
        let family = snapshot::family(&row.body)?.to_owned();
        Some(Self { region: region.to_owned(), family, created_ms: row.created_ms })
    }
}

/// Whole pages in which two snapshots differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageChange {
    pub range: Range<u64>,
    /// The pages had data before and are zeros now.
    pub cleared: bool,
}

impl Blob {
    /// Where `range` of this one (cut at its end) differs from `older`: ascending, apart.
    ///
    /// # Errors
    /// [`BlobError::NoDifference`] unless both are incremental snapshots of one family; [`BlobError::PreviousNewer`].
    pub async fn changes_since(&self, older: &Self, range: Range<u64>) -> Result<Vec<PageChange>, BlobError> {
        let (Kind::Export(new), Kind::Export(old)) = (&self.0, &older.0) else {
            return Err(BlobError::NoDifference);
        };
        let (Some(to), Some(from)) = (&new.member, &old.member) else {
            return Err(BlobError::NoDifference);
        };
        if (&to.family, &to.region) != (&from.family, &from.region) {
            return Err(BlobError::NoDifference);
        }
        if from.created_ms > to.created_ms {
            return Err(BlobError::PreviousNewer);
        }
        let within = range.start..range.end.min(new.disk_size());
        let found = new.reader().diff_from(old.reader(), within).await.map_err(BlobError::of_chunks)?;
        let mut data = Ranges::new();
        let mut cleared = Vec::new();
        for diff in found {
            match diff.kind {
                DiffKind::Data => data.push(diff.range),
                DiffKind::Cleared => cleared.push(diff.range),
            }
        }
        if old.disk_size() != new.disk_size() {
            let end = range.end.min(self.size());
            data.push(range.start.max(new.disk_size())..end.max(new.disk_size()));
        }
        Ok(merged(data.into_vec(), cleared))
    }
}

/// Both kinds in one list. Where data was joined over a hole, it counts before what was cleared; clears are cut to whole pages.
fn merged(data: Vec<Range<u64>>, cleared: Vec<Range<u64>>) -> Vec<PageChange> {
    let mut all: Vec<PageChange> =
        data.iter().map(|range| PageChange { range: range.clone(), cleared: false }).collect();
    for clear in cleared {
        let mut at = clear.start.next_multiple_of(PAGE);
        let end = clear.end / PAGE * PAGE;
        let first = data.partition_point(|d| d.end <= at);
        for busy in data[first..].iter().take_while(|d| d.start < end) {
            if at < busy.start {
                all.push(PageChange { range: at..busy.start, cleared: true });
            }
            at = at.max(busy.end);
        }
        if at < end {
            all.push(PageChange { range: at..end, cleared: true });
        }
    }
    all.sort_by_key(|change| change.range.start);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn data_counts_before_what_was_cleared() {
        let change = |range: Range<u64>, cleared| PageChange { range, cleared };
        let found = merged(vec![0..1024, 4096..8192], vec![512..5120, 7000..9000, 10_000..10_100]);
        assert_eq!(
            found,
            [change(0..1024, false), change(1024..4096, true), change(4096..8192, false), change(8192..8704, true)]
        );
    }

    proptest! {
        #[test]
        fn ascending_and_apart(
            data in prop::collection::vec((0u64..40, 1u64..8), 0..10),
            cleared in prop::collection::vec((0u64..20_000, 1u64..4000), 0..10),
        ) {
            let mut ranges = Ranges::new();
            let mut at = 0;
            for (gap, len) in data {
                ranges.push((at + gap) * PAGE..(at + gap + len) * PAGE);
                at += gap + len;
            }
            let mut at = 0;
            let cleared = cleared.into_iter().map(|(gap, len)| {
                let range = at + gap..at + gap + len;
                at = range.end;
                range
            }).collect();
            let all = merged(ranges.into_vec(), cleared);
            prop_assert!(all.windows(2).all(|w| w[0].range.end <= w[1].range.start));
            prop_assert!(all.iter().all(|c| !c.range.is_empty() && c.range.start % PAGE == 0 && c.range.end % PAGE == 0));
        }
    }
}
