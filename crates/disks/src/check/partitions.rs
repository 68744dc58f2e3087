//! Partition tables: MBR with logical partitions, and GPT (UEFI 2.10, chapter 5), with sectors of 512 bytes.

use crate::fields::{le_u32, le_u64};
use std::io;

use uuid::Uuid;

use crate::DiskSource;
use crate::crc::crc32;
use crate::table::printable;

const SECTOR: u64 = 512;
/// Entries of a GPT that are looked at; everybody writes 128.
const MOST_ENTRIES: u32 = 1024;
const MOST_ENTRY_LEN: u32 = 4096;
/// Logical partitions that are followed.
const MOST_LOGICAL: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Mbr,
    Gpt,
}

impl Scheme {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mbr => "MBR",
            Self::Gpt => "GPT",
        }
    }
}

/// What a partition is for, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    EfiSystem,
    BiosBoot,
    Linux,
    Swap,
    Lvm,
    Microsoft,
    /// The disk as a whole.
    Whole,
    Other,
}

impl Use {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EfiSystem => "EFI system",
            Self::BiosBoot => "BIOS boot",
            Self::Linux => "Linux",
            Self::Swap => "swap",
            Self::Lvm => "LVM",
            Self::Microsoft => "Microsoft",
            Self::Whole => "whole disk",
            Self::Other => "other",
        }
    }
}

/// A part of the disk, in bytes. It lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub number: u32,
    pub start: u64,
    pub len: u64,
    pub kind: Use,
    /// Marked as the one to boot from.
    pub active: bool,
    pub name: String,
}

impl Partition {
    pub(super) fn whole(size: u64) -> Self {
        Self { number: 0, start: 0, len: size, kind: Use::Whole, active: false, name: String::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub scheme: Scheme,
    pub partitions: Vec<Partition>,
    /// The first 440 bytes hold code.
    pub boot_code: bool,
    /// What is wrong with it, in words.
    pub damage: Vec<String>,
}

/// `None`: there is no partition table.
pub fn read(disk: &dyn DiskSource) -> io::Result<Option<Table>> {
    if disk.size() < 2 * SECTOR {
        return Ok(None);
    }
    let mut mbr = [0; 512];
    disk.read_at(0, &mut mbr)?;
    if mbr[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let mut table = Table {
        scheme: Scheme::Mbr,
        partitions: Vec::new(),
        boot_code: mbr[..440].iter().any(|b| *b != 0),
        damage: Vec::new(),
    };
    let entries: Vec<Entry> = mbr[446..510].chunks_exact(16).map(Entry::parse).collect();
    if entries.iter().any(|e| e.kind == 0xee) {
        table.scheme = Scheme::Gpt;
        gpt(disk, &mut table)?;
        return Ok(Some(table));
    }
    // A file system without partitions has the same signature.
    if entries.iter().any(|e| e.flag & 0x7f != 0) || entries.iter().all(|e| e.kind == 0) {
        return Ok(None);
    }
    for (entry, number) in entries.iter().zip(1..) {
        if entry.is_extended() {
            logical(disk, entry.start, &mut table)?;
        } else if entry.kind != 0 {
            table.add(disk, number, entry, 0);
        }
    }
    Ok(Some(table))
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    flag: u8,
    kind: u8,
    /// Sectors.
    start: u64,
    len: u64,
}

impl Entry {
    fn parse(raw: &[u8]) -> Self {
        Self { flag: raw[0], kind: raw[4], start: le_u32(raw, 8).into(), len: le_u32(raw, 12).into() }
    }

    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    fn used_for(self) -> Use {
        match self.kind {
            0xef => Use::EfiSystem,
            0x83 => Use::Linux,
            0x82 => Use::Swap,
            0x8e => Use::Lvm,
            0x07 | 0x27 => Use::Microsoft,
            _ => Use::Other,
        }
    }
}

impl Table {
    /// `base`: where the entry counts from, in sectors.
    fn add(&mut self, disk: &dyn DiskSource, number: u32, entry: &Entry, base: u64) {
        let start = base.saturating_add(entry.start).saturating_mul(SECTOR);
        self.place(
            disk,
            number,
            start,
            entry.len.saturating_mul(SECTOR),
            entry.used_for(),
            entry.flag == 0x80,
            String::new(),
        );
    }

    #[expect(clippy::too_many_arguments, reason = "one for each part of a partition")]
    fn place(
        &mut self,
        disk: &dyn DiskSource,
        number: u32,
        start: u64,
        len: u64,
        kind: Use,
        active: bool,
        name: String,
    ) {
        if start == 0 || len == 0 || start.checked_add(len).is_none_or(|end| end > disk.size()) {
            self.damage.push(format!("partition {number} does not lie on the disk: was the image cut off?"));
            return;
        }
        self.partitions.push(Partition { number, start, len, kind, active, name });
    }
}

/// The chain of tables in an extended partition.
fn logical(disk: &dyn DiskSource, extended: u64, table: &mut Table) -> io::Result<()> {
    let mut at = extended;
    for number in (5..).take(MOST_LOGICAL) {
        let offset = at.saturating_mul(SECTOR);
        if offset == 0 || offset.checked_add(SECTOR).is_none_or(|end| end > disk.size()) {
            table.damage.push("a logical partition's table does not lie on the disk".to_owned());
            break;
        }
        let mut raw = [0; 512];
        disk.read_at(offset, &mut raw)?;
        if raw[510..] != [0x55, 0xaa] {
            break;
        }
        let (here, next) = (Entry::parse(&raw[446..462]), Entry::parse(&raw[462..478]));
        if here.kind != 0 {
            table.add(disk, number, &here, at);
        }
        if !next.is_extended() {
            break;
        }
        at = extended.saturating_add(next.start);
    }
    Ok(())
}

const EFI_SYSTEM: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
const BIOS_BOOT: Uuid = Uuid::from_u128(0x21686148_6449_6e6f_744e_656564454649);
const SWAP: Uuid = Uuid::from_u128(0x0657fd6d_a4ab_43c4_84e5_0933c84b4f4f);
const LVM: Uuid = Uuid::from_u128(0xe6d6d379_f507_44c2_a23c_238f2a3df928);
/// File systems: plain, root (x86-64, arm64), /boot, /usr (x86-64), /home.
const LINUX: [Uuid; 6] = [
    Uuid::from_u128(0x0fc63daf_8483_4772_8e79_3d69d8477de4),
    Uuid::from_u128(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709),
    Uuid::from_u128(0xb921b045_1df0_41c3_af44_4c6f280d3fae),
    Uuid::from_u128(0xbc13c2ff_59e6_4262_a352_b275fd6f7172),
    Uuid::from_u128(0x8484680c_9521_48c6_9c11_b0720656f69e),
    Uuid::from_u128(0x933ac7e1_2eb4_4f13_b844_0e14e2aef915),
];
/// Data, reserved, recovery.
const MICROSOFT: [Uuid; 3] = [
    Uuid::from_u128(0xebd0a0a2_b9e5_4433_87c0_68b6b72699c7),
    Uuid::from_u128(0xe3c9e316_0b5c_4db8_817d_f92df00215ae),
    Uuid::from_u128(0xde94bba4_06d1_4d40_a16a_bfd50179d6ac),
];

fn used_for(kind: Uuid) -> Use {
    match kind {
        EFI_SYSTEM => Use::EfiSystem,
        BIOS_BOOT => Use::BiosBoot,
        SWAP => Use::Swap,
        LVM => Use::Lvm,
        other if LINUX.contains(&other) => Use::Linux,
        other if MICROSOFT.contains(&other) => Use::Microsoft,
        _ => Use::Other,
    }
}

/// The first table, or the copy at the end of the disk.
fn gpt(disk: &dyn DiskSource, table: &mut Table) -> io::Result<()> {
    let last = disk.size() / SECTOR - 1;
    let first = header(disk, 1)?;
    let copy = header(disk, last)?;
    match (&first, &copy) {
        (Some(_), None) => {
            table.damage.push("the copy of the partition table is not at the end of the disk".to_owned())
        }
        (None, Some(_)) => {
            table.damage.push("the partition table is damaged; its copy at the end of the disk is whole".to_owned())
        }
        (None, None) => table.damage.push("the partition table is damaged, and so is its copy".to_owned()),
        (Some(_), Some(_)) => {}
    }
    let Some(header) = first.or(copy) else { return Ok(()) };
    for (raw, number) in header.entries.chunks_exact(header.entry_len).zip(1..) {
        let kind = Uuid::from_bytes_le(raw[..16].try_into().expect("16 bytes"));
        if kind.is_nil() {
            continue;
        }
        let (from, to) = (le_u64(raw, 32), le_u64(raw, 40));
        let len = to.checked_sub(from).and_then(|n| n.checked_add(1)).unwrap_or(0);
        let units: Vec<u16> = raw[56..128].chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        let end = units.iter().position(|c| *c == 0).unwrap_or(units.len());
        let name = printable(&String::from_utf16_lossy(&units[..end]));
        // Bit 2: a BIOS may boot it.
        let active = le_u64(raw, 48) & 4 != 0;
        table.place(
            disk,
            number,
            from.saturating_mul(SECTOR),
            len.saturating_mul(SECTOR),
            used_for(kind),
            active,
            name,
        );
    }
    Ok(())
}

struct Header {
    entries: Vec<u8>,
    entry_len: usize,
}

/// The table whose header is in that sector, if it is whole.
fn header(disk: &dyn DiskSource, sector: u64) -> io::Result<Option<Header>> {
    let mut raw = [0; 512];
    disk.read_at(sector * SECTOR, &mut raw)?;
    let len = usize::try_from(le_u32(&raw, 12)).unwrap_or(usize::MAX);
    if !raw.starts_with(b"EFI PART") || !(92..=512).contains(&len) || le_u64(&raw, 24) != sector {
        return Ok(None);
    }
    let mut zeroed = raw;
    zeroed[16..20].fill(0);
    if crc32(&zeroed[..len]) != le_u32(&raw, 16) {
        return Ok(None);
    }
    let (count, entry_len) = (le_u32(&raw, 80), le_u32(&raw, 84));
    if count > MOST_ENTRIES || !(128..=MOST_ENTRY_LEN).contains(&entry_len) || !entry_len.is_multiple_of(8) {
        return Ok(None);
    }
    // At most 4 MiB.
    let bytes = u64::from(count) * u64::from(entry_len);
    let at = le_u64(&raw, 72).saturating_mul(SECTOR);
    if at.checked_add(bytes).is_none_or(|end| end > disk.size()) {
        return Ok(None);
    }
    let mut entries = vec![0; usize::try_from(bytes).unwrap_or_default()];
    disk.read_at(at, &mut entries)?;
    let whole = crc32(&entries) == le_u32(&raw, 88);
    Ok(whole.then_some(Header { entries, entry_len: usize::try_from(entry_len).unwrap_or(128) }))
}
