//! What is in a partition, by its magic numbers.

use std::io;

use super::Partition;
use crate::DiskSource;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    Ext4,
    Fat,
    Xfs,
    Btrfs,
    Ntfs,
    Swap,
    Lvm,
    Luks,
    Squashfs,
}

impl Filesystem {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Fat => "FAT",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ntfs => "NTFS",
            Self::Swap => "swap",
            Self::Lvm => "LVM",
            Self::Luks => "LUKS",
            Self::Squashfs => "squashfs",
        }
    }
}

const MAGICS: [(u64, &[u8], Filesystem); 11] = [
    // ext2 and ext3 too: read the same way.
    (1024 + 56, b"\x53\xef", Filesystem::Ext4),
    (0, b"XFSB", Filesystem::Xfs),
    (65536 + 64, b"_BHRfS_M", Filesystem::Btrfs),
    (3, b"NTFS    ", Filesystem::Ntfs),
    (82, b"FAT32   ", Filesystem::Fat),
    (54, b"FAT1", Filesystem::Fat),
    (4086, b"SWAPSPACE2", Filesystem::Swap),
    (512, b"LABELONE", Filesystem::Lvm),
    (0, b"LUKS\xba\xbe", Filesystem::Luks),
    (0, b"hsqs", Filesystem::Squashfs),
    (1024, b"LABELONE", Filesystem::Lvm),
];

/// `None`: nothing that is known.
pub fn of(disk: &dyn DiskSource, partition: &Partition) -> io::Result<Option<Filesystem>> {
    let mut magic = [0; 16];
    for (at, expected, filesystem) in MAGICS {
        let magic = &mut magic[..expected.len()];
        if at + expected.len() as u64 > partition.len {
            continue;
        }
        disk.read_at(partition.start + at, magic)?;
        if magic == expected {
            return Ok(Some(filesystem));
        }
    }
    Ok(None)
}
