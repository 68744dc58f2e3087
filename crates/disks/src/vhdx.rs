//! VHDX ([MS-VHDX]), read-only. What was not closed cleanly and what needs a parent is refused; nothing that a file names is opened.
//!
//! ```text
//!      0  "vhdxfile"                    all numbers little-endian, GUIDs as Microsoft writes them
//!  64 Ki  header    } the valid one with the higher sequence number counts; its log must be empty
//! 128 Ki  header    }
//! 192 Ki  region table } a copy each; where the other two are, at multiples of 1 MiB:
//! 256 Ki  region table }
//!         metadata: block size, disk size, sector sizes, parent
//!         block allocation table: u64 each; bits 0..3 the state, bits 20.. the place. After each chunk of blocks (2^23 sectors)
//!         comes an entry for a bitmap, which only differencing disks use
//! ```

use crate::fields::{le_u16, le_u32, le_u64};
use std::fs::File;
use std::io;
use std::ops::Range;

use uuid::Uuid;

use crate::DiskSource;
use crate::crc::crc32c;
use crate::format::{Format, ImageError};
use crate::raw::SECTOR;
use crate::table::{MAX_DISK, MAX_RUN, Tables, by_unit, check_read, printable};

pub(crate) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub(crate) const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub(crate) const HEADER_LEN: usize = 4096;
pub(crate) const TABLE_LEN: usize = 64 << 10;
pub(crate) const MIB: u64 = 1 << 20;
const MOST_REGIONS: usize = 2047;
const MOST_ITEMS: usize = 1023;
/// Parent locators that are looked at for a name.
const MOST_LOCATOR: usize = 64 << 10;

pub(crate) const BAT: Uuid = Uuid::from_u128(0x2dc27766_f623_4200_9d64_115e9bfd4a08);
pub(crate) const METADATA: Uuid = Uuid::from_u128(0x8b7ca206_4790_4b9a_b8fe_575f050f886e);
pub(crate) const FILE_PARAMETERS: Uuid = Uuid::from_u128(0xcaa16737_fa36_4d43_b3b6_33f0aa44e76b);
pub(crate) const DISK_SIZE: Uuid = Uuid::from_u128(0x2fa54224_cd1b_4876_b211_5dbed83bf4b8);
pub(crate) const PAGE_83: Uuid = Uuid::from_u128(0xbeca12ab_b2e6_4523_93ef_c309e000c746);
pub(crate) const LOGICAL_SECTOR: Uuid = Uuid::from_u128(0x8141bf1d_a96f_4709_ba47_f233a8faab5f);
pub(crate) const PHYSICAL_SECTOR: Uuid = Uuid::from_u128(0xcda348c7_445d_4471_9cc9_e9885251c556);
const PARENT_LOCATOR: Uuid = Uuid::from_u128(0xa8d35f2d_b30b_454d_abf7_d3d84834ab0c);

/// States of a block in the table.
pub(crate) mod state {
    pub(crate) const NOT_PRESENT: u64 = 0;
    pub(crate) const UNDEFINED: u64 = 1;
    pub(crate) const ZERO: u64 = 2;
    pub(crate) const UNMAPPED: u64 = 3;
    pub(crate) const PRESENT: u64 = 6;
    pub(crate) const MASK: u64 = 7;
}

fn damaged(what: impl Into<String>) -> ImageError {
    ImageError::damaged(Format::Vhdx, what)
}

/// How many blocks there are between two bitmap entries of the table.
pub(crate) fn chunk_ratio(sector: u64, block: u64) -> u64 {
    ((1 << 23) * sector / block).max(1)
}

/// A VHDX in a file: a [`DiskSource`] whose holes are the blocks that are not present.
#[derive(Debug)]
pub struct Vhdx {
    tables: Tables,
    size: u64,
    block: u64,
    ratio: u64,
    /// Where the block allocation table is.
    table: u64,
}

impl Vhdx {
    /// # Errors
    /// See [`ImageError`].
    pub fn from_file(file: File) -> Result<Self, ImageError> {
        let tables = Tables::new(file)?;
        if !tables.holds(0, MIB) {
            return Err(damaged("it is cut short"));
        }
        let header = HEADERS.into_iter().filter_map(|at| header(&tables, at)).max_by_key(|h| h.sequence);
        let header = header.ok_or_else(|| damaged("neither of its headers is valid"))?;
        if header.version != 1 {
            return Err(ImageError::Refused(format!("a VHDX of version {}, which is not known", header.version)));
        }
        if !header.log.is_nil() {
            return Err(ImageError::Refused(
                "a VHDX that was not closed cleanly, with changes left in its log: detach it and shut down what uses it, or let \
                 `qemu-img check -r all` apply the log"
                    .to_owned(),
            ));
        }
        let (bat, metadata) = regions(&tables)?;
        let items = Items::read(&tables, metadata)?;
        let disk = Parameters::read(&tables, &items)?;
        let ratio = chunk_ratio(disk.sector, disk.block);
        let blocks = disk.size.div_ceil(disk.block);
        let entries = blocks + blocks.saturating_sub(1) / ratio;
        if entries * 8 > bat.end - bat.start {
            return Err(damaged("its block table does not hold the disk"));
        }
        Ok(Self { tables, size: disk.size, block: disk.block, ratio, table: bat.start })
    }

    /// Where a block is; `None`: it reads as zeros.
    fn block_at(&self, index: u64) -> io::Result<Option<u64>> {
        let entry = u64::from_le_bytes(self.tables.array(self.table + (index + index / self.ratio) * 8)?);
        match entry & state::MASK {
            state::NOT_PRESENT | state::UNDEFINED | state::ZERO | state::UNMAPPED => Ok(None),
            state::PRESENT => {
                let at = entry & !(MIB - 1);
                let len = self.block.min(self.size - index * self.block);
                if at < MIB || !self.tables.holds(at, len) {
                    return Err(damaged(format!("block {index} points outside the file")).into());
                }
                Ok(Some(at))
            }
            other => {
                Err(damaged(format!("block {index} is in state {other}, which it cannot have without a parent")).into())
            }
        }
    }
}

impl DiskSource for Vhdx {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let blocks = self.size.div_ceil(self.block);
        let mut index = from / self.block;
        while index < blocks && self.block_at(index)?.is_none() {
            index += 1;
        }
        if index >= blocks {
            return Ok(None);
        }
        let start = (index * self.block).max(from);
        let mut end = index + 1;
        while end < blocks && end * self.block - start < MAX_RUN && self.block_at(end)?.is_some() {
            end += 1;
        }
        let end = (end * self.block).min(self.size);
        Ok((start < end).then_some(start..end))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_read(offset, buf.len(), self.size)?;
        by_unit(offset, buf, self.block, |index, inside, part| match self.block_at(index)? {
            Some(at) => self.tables.read_data(at + inside, part),
            None => {
                part.fill(0);
                Ok(())
            }
        })
    }
}

struct FileHeader {
    sequence: u64,
    log: Uuid,
    version: u16,
}

/// `None`: it is not valid, which the other may be.
fn header(tables: &Tables, at: u64) -> Option<FileHeader> {
    let raw: [u8; HEADER_LEN] = tables.array(at).ok()?;
    if !signed(&raw, b"head") {
        return None;
    }
    Some(FileHeader { sequence: le_u64(&raw, 8), log: guid_at(&raw, 48), version: le_u16(&raw, 66) })
}

/// Signature in front, then a CRC-32C over all with its own four bytes as zeros.
fn signed(raw: &[u8], signature: &[u8; 4]) -> bool {
    let mut zeroed = raw.to_vec();
    zeroed[4..8].fill(0);
    raw.starts_with(signature) && crc32c(&zeroed) == le_u32(raw, 4)
}

/// Where the block table and the metadata are.
fn regions(tables: &Tables) -> Result<(Range<u64>, Range<u64>), ImageError> {
    let valid = |at| tables.array::<TABLE_LEN>(at).ok().filter(|raw| signed(raw, b"regi"));
    let raw =
        REGION_TABLES.into_iter().find_map(valid).ok_or_else(|| damaged("neither of its region tables is valid"))?;
    let count = usize::try_from(le_u32(&raw, 8)).unwrap_or(usize::MAX);
    if count > MOST_REGIONS {
        return Err(damaged("its region table is too long"));
    }
    let (mut bat, mut metadata) = (None, None);
    for entry in raw[16..].chunks_exact(32).take(count) {
        let (at, len) = (le_u64(entry, 16), u64::from(le_u32(entry, 24)));
        if at < MIB || !at.is_multiple_of(MIB) || !tables.holds(at, len) {
            return Err(damaged("a region is not in the file"));
        }
        match guid_at(entry, 0) {
            BAT => bat = Some(at..at + len),
            METADATA => metadata = Some(at..at + len),
            _ if le_u32(entry, 28) & 1 == 0 => {}
            unknown => {
                return Err(ImageError::Refused(format!("a VHDX that needs region {unknown}, which is not known")));
            }
        }
    }
    bat.zip(metadata).ok_or_else(|| damaged("it has no block table or no metadata"))
}

/// The metadata items that this reader knows.
#[derive(Default)]
struct Items {
    parameters: Option<u64>,
    size: Option<u64>,
    sector: Option<u64>,
    parent: Option<Range<u64>>,
}

impl Items {
    fn read(tables: &Tables, region: Range<u64>) -> Result<Self, ImageError> {
        if region.end - region.start < TABLE_LEN as u64 {
            return Err(damaged("its metadata is cut short"));
        }
        let raw: [u8; TABLE_LEN] = tables.array(region.start)?;
        let count = usize::from(le_u16(&raw, 10));
        if !raw.starts_with(b"metadata") || count > MOST_ITEMS {
            return Err(damaged("its metadata is not a table"));
        }
        let mut items = Self::default();
        for entry in raw[32..].chunks_exact(32).take(count) {
            let (offset, len) = (u64::from(le_u32(entry, 16)), u64::from(le_u32(entry, 20)));
            let at = region.start + offset;
            if at + len > region.end {
                return Err(damaged("a metadata item is not in its region"));
            }
            let place = |needed: u64| if len >= needed { Ok(at) } else { Err(damaged("a metadata item is too short")) };
            match guid_at(entry, 0) {
                FILE_PARAMETERS => items.parameters = Some(place(8)?),
                DISK_SIZE => items.size = Some(place(8)?),
                LOGICAL_SECTOR => items.sector = Some(place(4)?),
                PARENT_LOCATOR => items.parent = Some(at..at + len),
                PAGE_83 | PHYSICAL_SECTOR => {}
                _ if le_u32(entry, 24) & 4 == 0 => {}
                unknown => {
                    return Err(ImageError::Refused(format!(
                        "a VHDX that needs metadata {unknown}, which is not known"
                    )));
                }
            }
        }
        Ok(items)
    }
}

struct Parameters {
    block: u64,
    size: u64,
    sector: u64,
}

impl Parameters {
    fn read(tables: &Tables, items: &Items) -> Result<Self, ImageError> {
        let (Some(parameters), Some(size), Some(sector)) = (items.parameters, items.size, items.sector) else {
            return Err(damaged("its metadata does not tell its sizes"));
        };
        let (block, flags) =
            (u32::from_le_bytes(tables.array(parameters)?), u32::from_le_bytes(tables.array(parameters + 4)?));
        if flags & 2 != 0 {
            return Err(differencing(&parent(tables, items.parent.clone()).unwrap_or_default()));
        }
        let (block, size) = (u64::from(block), u64::from_le_bytes(tables.array(size)?));
        let sector = u64::from(u32::from_le_bytes(tables.array(sector)?));
        if !(MIB..=256 * MIB).contains(&block) || !block.is_power_of_two() {
            return Err(damaged(format!("{block} bytes is no size of a block")));
        }
        if !matches!(sector, 512 | 4096) {
            return Err(damaged(format!("{sector} bytes is no size of a sector")));
        }
        if size == 0 || size > MAX_DISK || !size.is_multiple_of(SECTOR) {
            return Err(damaged(format!("{size} bytes is no size of a disk")));
        }
        Ok(Self { block, size, sector })
    }
}

fn differencing(parent: &str) -> ImageError {
    ImageError::Refused(format!(
        "a differencing VHDX, which holds only the changes over its parent \"{}\": merge it into the parent (Hyper-V's Merge-VHD) \
         and take the whole disk",
        printable(parent)
    ))
}

/// The parent's path, by the best of the names that the locator has.
fn parent(tables: &Tables, place: Option<Range<u64>>) -> Option<String> {
    let place = place?;
    let len = usize::try_from(place.end - place.start).ok()?.min(MOST_LOCATOR);
    let mut raw = vec![0; len];
    tables.read(place.start, &mut raw).ok()?;
    let count = usize::from(le_u16(raw.get(..20)?, 18));
    let text = |at: &[u8], len: &[u8]| {
        let (at, len) = (usize::try_from(le_u32(at, 0)).ok()?, usize::from(le_u16(len, 0)));
        let units: Vec<u16> = raw.get(at..at.checked_add(len)?)?.chunks_exact(2).map(|c| le_u16(c, 0)).collect();
        Some(String::from_utf16_lossy(&units))
    };
    let mut found = None;
    for entry in raw.get(20..)?.chunks_exact(12).take(count) {
        let (Some(key), Some(value)) = (text(&entry[0..4], &entry[8..10]), text(&entry[4..8], &entry[10..12])) else {
            continue;
        };
        match key.as_str() {
            "absolute_win32_path" => return Some(value),
            "relative_path" | "volume_path" => found = found.or(Some(value)),
            _ => {}
        }
    }
    found
}

fn guid_at(raw: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(raw[at..at + 16].try_into().expect("16 bytes"))
}
