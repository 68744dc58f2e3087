//! How far the disks of a version are in each region: counted for the operation's polls and the version's replication status.

use super::change_state;
use crate::operation::OpContext;
use crate::stored::Stored;
use lazuli_chunks::Progress;
use lazuli_meta::model::{Change, Expect};
use std::sync::atomic::{AtomicBool, Ordering};

/// One region's part of the work.
pub(super) struct Target {
    pub name: String,
    /// It served every byte when the operation began.
    pub completed: bool,
    pub parts: Vec<Part>,
}

/// One disk in one region.
pub(super) struct Part {
    pub disk: Stored,
    pub progress: Progress,
    finished: AtomicBool,
}

impl Part {
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
    }

    /// Done and to do. A disk that was not begun counts with its whole size, which only ever gets less: a percentage of the
    /// sum never falls.
    fn bytes(&self) -> (u64, u64) {
        let total = self.progress.total();
        match (self.finished.load(Ordering::Relaxed), total) {
            (true, total) => (total, total),
            (false, 0) => (0, self.disk.size_bytes),
            (false, total) => (self.progress.done().min(total), total),
        }
    }
}

impl Target {
    pub fn new(completed: bool, name: String, disks: &[Stored]) -> Self {
        let part = |disk: &Stored| Part {
            disk: disk.clone(),
            progress: Progress::new(),
            finished: AtomicBool::new(completed),
        };
        Self { name, completed, parts: disks.iter().map(part).collect() }
    }

    /// Done and to do, over all disks.
    pub fn bytes(&self) -> (u64, u64) {
        self.parts.iter().map(Part::bytes).fold((0, 0), |(done, total), (d, t)| (done + d, total + t))
    }

    fn begun(&self) -> bool {
        self.parts.iter().any(|p| p.progress.total() > 0)
    }
}

/// Writes the progress of the regions under way into the row. Its etag stays: clients that hold it are not disturbed, and a
/// write that was decided meanwhile only loses a number that comes again.
pub(super) async fn report(cx: &OpContext, targets: &[Target], phase: &str) {
    let (done, total) = targets.iter().map(Target::bytes).fold((0, 0), |(done, total), (d, t)| (done + d, total + t));
    cx.progress(done, total, phase).await;
    let Ok(mut row) = cx.resource().await else { return };
    let before = row.internal.clone();
    change_state(&mut row, |state| {
        for target in targets.iter().filter(|t| t.begun()) {
            let region = state.regions.entry(target.name.clone()).or_default();
            if region.state == "Unknown" || region.state == "Replicating" {
                region.state = "Replicating".into();
                (region.done_bytes, region.total_bytes) = target.bytes();
            }
        }
    });
    if row.internal == before {
        return;
    }
    let expect = Expect::Etag(row.etag.clone());
    if let Err(error) = cx.commit(vec![Change::PutResource { resource: row, expect }]).await {
        tracing::debug!(operation = cx.op.id, ?error, "progress was not recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(size_bytes: u64) -> Stored {
        Stored { manifest: String::new(), size_bytes }
    }

    #[test]
    fn a_disk_that_was_not_begun_counts_whole() {
        let target = Target::new(false, "eastus".into(), &[disk(100), disk(50)]);
        assert_eq!(target.bytes(), (0, 150));
        // Nothing of the first had to be moved.
        target.parts[0].finish();
        assert_eq!(target.bytes(), (0, 50));
        assert_eq!(Target::new(true, "eastus".into(), &[disk(100)]).bytes(), (0, 0));
    }
}
