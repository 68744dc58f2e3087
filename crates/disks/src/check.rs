//! What would keep a disk from booting here, or from being provisioned, and what to do about it (BY-1; ends of life: BY-0).
//!
//! ```text
//! disk ─> partitions.rs ─> what is in each: filesystem.rs ─┬─> fat.rs: loaders of the EFI system partition
//!                                                          └─> root.rs (ext4): linux.rs kernel, boot settings
//!                                                                 └─> initramfs.rs   agents.rs cloud-init, waagent
//!                                                                                    distribution.rs end of life
//! ```
//! The disk comes from a stranger: every walk is bounded, no link leads outside, and what cannot be read is a finding. Nothing is
//! executed, nothing is written. What is not looked into (xfs, btrfs, NTFS, LVM) is said, not guessed.

mod agents;
mod boot;
mod distribution;
mod fat;
mod filesystem;
mod initramfs;
mod linux;
mod partitions;
mod report;
mod root;

use std::io;
use std::sync::Arc;

pub use distribution::Date;
pub use filesystem::Filesystem;
pub use partitions::{Partition, Scheme, Table, Use};
pub use report::{Finding, Report, Severity};

use crate::{DiskSource, Format};
use report::Findings;

/// How machines with the image are to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// BIOS.
    V1,
    /// UEFI.
    V2,
}

/// What a machine's first boot is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OsState {
    /// An agent sets it up.
    Generalized,
    /// Nothing: it is switched on as it is.
    Specialized,
}

/// What the disk is to be. What is not known is not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub generation: Option<Generation>,
    pub state: Option<OsState>,
    /// The format it came in.
    pub format: Option<Format>,
    /// Against which ends of life are held.
    pub today: Date,
}

/// The largest disk to boot from (Azure's bound).
const LARGEST: u64 = 4095 << 30;

/// Looks at a disk.
///
/// # Errors
/// Only those of reading it; whatever its content is ends in findings.
pub fn check(disk: &Arc<dyn DiskSource>, wanted: &Wanted) -> io::Result<Report> {
    let mut found = Findings::default();
    let mut report = Report { size: disk.size(), format: wanted.format, ..Report::default() };
    size(disk.size(), &mut found);
    let table = partitions::read(&**disk)?;
    if let Some(table) = &table {
        for damage in &table.damage {
            found.warning("partition-table", damage.clone(), "write it again with `sgdisk -e` or `sfdisk`");
        }
    }
    let places = match &table {
        Some(table) => table.partitions.clone(),
        None => vec![Partition::whole(disk.size())],
    };
    for partition in places {
        let filesystem = filesystem::of(&**disk, &partition)?;
        report.partitions.push((partition, filesystem));
    }
    report.scheme = table.as_ref().map(|t| t.scheme);
    boot::check(&**disk, table.as_ref(), wanted, &mut report, &mut found)?;
    root::with_root(disk, &report.partitions.clone(), &mut found, |root, found| {
        report.os = root.os_release();
        distribution::check(report.os.as_ref(), wanted.today, found);
        report.kernels = linux::check(root, found);
        report.agents = agents::check(root, wanted.state, found);
    });
    report.findings = found.sorted();
    Ok(report)
}

fn size(size: u64, found: &mut Findings) {
    let unit = crate::vhd::SIZE_UNIT;
    if !size.is_multiple_of(unit) {
        let padded = size.next_multiple_of(unit);
        found.warning(
            "size-unaligned",
            format!("the disk's {size} bytes are no whole number of MiB"),
            format!("import fills it up with zeros to {padded} bytes; Azure itself would refuse it: `qemu-img resize` it before"),
        );
    }
    if size > LARGEST {
        found.error(
            "size",
            format!("a disk of {size} bytes is larger than the {LARGEST} that can boot"),
            "make it smaller",
        );
    }
}
