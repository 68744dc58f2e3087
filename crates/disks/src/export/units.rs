//! Which units (blocks, clusters) of a disk hold data: numbered in the order of the disk, told apart without a table of all.

use std::io;

use crate::DiskSource;

/// Units with data that follow each other.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    count: u64,
    /// How many units with data come before.
    rank: u64,
}

/// The units with data. Takes memory by the number of runs, not by the disk's size.
#[derive(Debug)]
pub(super) struct Units {
    runs: Vec<Run>,
    /// How many units hold data.
    pub(super) count: u64,
}

impl Units {
    /// Units of `unit` bytes.
    pub(super) fn of(disk: &dyn DiskSource, unit: u64) -> io::Result<Self> {
        let mut units = Self { runs: Vec::new(), count: 0 };
        let mut at = 0;
        while let Some(data) = disk.next_data(at)? {
            let (first, end) = (data.start / unit, data.end.div_ceil(unit));
            units.add(first, end);
            at = data.end;
        }
        Ok(units)
    }

    /// The units of `factor` of ours each, in which any of ours lies.
    pub(super) fn grouped(&self, factor: u64) -> Self {
        let mut groups = Self { runs: Vec::new(), count: 0 };
        for run in &self.runs {
            groups.add(run.first / factor, (run.first + run.count).div_ceil(factor));
        }
        groups
    }

    /// In order; what is there already is not added again.
    fn add(&mut self, first: u64, end: u64) {
        let known = self.runs.last().map_or(0, |run| run.first + run.count);
        let first = first.max(known);
        if first >= end {
            return;
        }
        let count = end - first;
        match self.runs.last_mut() {
            Some(last) if known == first => last.count += count,
            _ => self.runs.push(Run { first, count, rank: self.count }),
        }
        self.count += count;
    }

    /// The how-manyth unit with data this one is; `None`: it holds none.
    pub(super) fn rank(&self, unit: u64) -> Option<u64> {
        let run = self.runs.get(self.runs.partition_point(|run| run.first + run.count <= unit))?;
        (run.first <= unit).then(|| run.rank + (unit - run.first))
    }

    /// The unit of a rank.
    pub(super) fn nth(&self, rank: u64) -> Option<u64> {
        let run = self.runs.get(self.runs.partition_point(|run| run.rank + run.count <= rank))?;
        Some(run.first + (rank - run.rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Disk(Vec<std::ops::Range<u64>>);

    impl DiskSource for Disk {
        fn size(&self) -> u64 {
            1 << 30
        }

        fn next_data(&self, from: u64) -> io::Result<Option<std::ops::Range<u64>>> {
            Ok(self.0.iter().find(|r| r.end > from).map(|r| r.start.max(from)..r.end))
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn units_are_numbered_once_each() {
        // Two parts of one unit, one that ends within the next, a gap, a single byte.
        let units = Units::of(&Disk(vec![0..10, 50..250, 350..351, 900..1000]), 100).unwrap();
        let found: Vec<u64> = (0..units.count).map(|rank| units.nth(rank).unwrap()).collect();
        assert_eq!(found, [0, 1, 2, 3, 9]);
        assert_eq!(units.runs.len(), 2);
        let ranks: Vec<_> = (0..11).map(|unit| units.rank(unit)).collect();
        let none = None;
        assert_eq!(ranks, [Some(0), Some(1), Some(2), Some(3), none, none, none, none, none, Some(4), none]);
        assert_eq!(units.nth(5), None);
        let groups = units.grouped(4);
        assert_eq!((groups.count, groups.nth(0), groups.nth(1)), (2, Some(0), Some(2)));
    }
}
