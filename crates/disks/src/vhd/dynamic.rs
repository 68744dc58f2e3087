//! Dynamic VHDs (Virtual Hard Disk Image Format Specification 1.0), read-only. Differencing ones are refused by name; the parent
//! that they name is never opened.
//!
//! ```text
//! footer (a copy) │ dynamic header, 1024 │ block allocation table │ blocks … │ footer
//!                        └─ where the table is     └─ u32 each: sector of the block, or all ones
//! block: a bit for each of its sectors (1: written), filled up to a sector, then the sectors
//! ```

use crate::fields::{be_u32, be_u64};
use std::fs::File;
use std::io;
use std::ops::Range;

use super::{Footer, Kind, VhdError};
use crate::DiskSource;
use crate::format::{Format, ImageError};
use crate::raw::SECTOR;
use crate::table::{MAX_DISK, Tables, by_unit, check_read, printable};

pub(crate) const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
pub(crate) const HEADER_LEN: usize = 1024;
/// A table entry of a block that was never written.
pub(crate) const UNUSED: u32 = u32::MAX;
/// Sizes of a block; everybody writes 2 MiB, some 512 KiB.
const BLOCKS: Range<u64> = 4 << 10..(256 << 20) + 1;

/// A dynamic VHD in a file: a [`DiskSource`] whose holes are the blocks and sectors that were never written.
#[derive(Debug)]
pub struct DynamicVhd {
    footer: Footer,
    tables: Tables,
    /// Where the block allocation table is.
    table: u64,
    /// Bytes of a block, without its bitmap.
    block: u64,
}

fn damaged(what: impl Into<String>) -> ImageError {
    ImageError::damaged(Format::VhdDynamic, what)
}

impl DynamicVhd {
    /// # Errors
    /// See [`ImageError`]; a differencing disk is [`ImageError::Refused`].
    pub fn from_file(file: File) -> Result<Self, ImageError> {
        let tables = Tables::new(file)?;
        let end = tables.len().checked_sub(super::FOOTER_LEN).ok_or(VhdError::TooShort { len: tables.len() })?;
        let footer = Footer::parse(&tables.array(end)?)?;
        let at = footer.0.data_offset.get();
        if !tables.holds(at, HEADER_LEN as u64) {
            return Err(damaged("its header is not in the file"));
        }
        let header = Header::parse(&tables.array(at)?)?;
        match footer.kind() {
            Kind::Dynamic => {}
            Kind::Differencing => return Err(differencing(&header.parent)),
            kind => return Err(VhdError::NotFixed { kind }.into()),
        }
        let size = footer.disk_size();
        if size == 0 || size > MAX_DISK || !size.is_multiple_of(SECTOR) {
            return Err(damaged(format!("{size} bytes is no size of a disk")));
        }
        let block = u64::from(header.block_size);
        if !BLOCKS.contains(&block) || !block.is_power_of_two() {
            return Err(damaged(format!("{block} bytes is no size of a block")));
        }
        let blocks = size.div_ceil(block);
        if blocks > u64::from(header.entries) || !tables.holds(header.table, blocks * 4) {
            return Err(damaged("its block table does not hold the disk"));
        }
        Ok(Self { footer, tables, table: header.table, block })
    }

    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Where the block's bitmap is, if the block was written.
    fn block_at(&self, index: u64) -> io::Result<Option<u64>> {
        let entry = u32::from_be_bytes(self.tables.array(self.table + index * 4)?);
        if entry == UNUSED {
            return Ok(None);
        }
        let at = u64::from(entry) * SECTOR;
        if at < SECTOR || !self.tables.holds(at, self.bitmap_len() + self.block) {
            return Err(damaged(format!("block {index} points outside the file")).into());
        }
        Ok(Some(at))
    }

    fn bitmap_len(&self) -> u64 {
        (self.block / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }

    /// The first run of written sectors at or after `sector` of the block.
    fn written(&self, bitmap: &[u8], sector: u64) -> Option<Range<u64>> {
        let sectors = self.block / SECTOR;
        let start = next_bit(bitmap, sector, sectors, true)?;
        Some(start..next_bit(bitmap, start, sectors, false).unwrap_or(sectors))
    }

    fn bitmap(&self, at: u64) -> io::Result<Vec<u8>> {
        // At most 64 KiB.
        let mut bitmap = vec![0; usize::try_from(self.bitmap_len()).unwrap_or_default()];
        self.tables.read(at, &mut bitmap)?;
        Ok(bitmap)
    }

    fn read_block(&self, index: u64, inside: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        let Some(at) = self.block_at(index)? else { return Ok(()) };
        let bitmap = self.bitmap(at)?;
        let end = inside + buf.len() as u64;
        let mut sector = inside / SECTOR;
        while let Some(run) = self.written(&bitmap, sector) {
            let (from, to) = ((run.start * SECTOR).max(inside), (run.end * SECTOR).min(end));
            if from >= end {
                break;
            }
            let part = usize::try_from(from - inside).unwrap_or(0)..usize::try_from(to - inside).unwrap_or(0);
            self.tables.read_data(at + self.bitmap_len() + from, &mut buf[part])?;
            sector = run.end;
        }
        Ok(())
    }
}

/// The first of `count` bits at or after `from` (the highest bit of a byte comes first) that is `value`.
fn next_bit(bitmap: &[u8], from: u64, count: u64, value: bool) -> Option<u64> {
    let boring = if value { 0 } else { 0xff };
    let mut bit = from;
    while bit < count {
        let byte = bitmap.get(usize::try_from(bit / 8).ok()?)?;
        if *byte == boring {
            bit = (bit / 8 + 1) * 8;
        } else if (byte << (bit % 8) & 0x80 != 0) == value {
            return Some(bit);
        } else {
            bit += 1;
        }
    }
    None
}

impl DiskSource for DynamicVhd {
    fn size(&self) -> u64 {
        self.footer.disk_size()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.size();
        let mut at = from;
        while at < size {
            let (index, start) = (at / self.block, at - at % self.block);
            if let Some(place) = self.block_at(index)?
                && let Some(run) = self.written(&self.bitmap(place)?, (at - start) / SECTOR)
            {
                let (first, last) = (start + run.start * SECTOR, (start + run.end * SECTOR).min(size));
                // In the bitmap, but beyond the disk's end.
                if first < size {
                    return Ok(Some(first.max(from)..last));
                }
            }
            at = start + self.block;
        }
        Ok(None)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_read(offset, buf.len(), self.size())?;
        by_unit(offset, buf, self.block, |index, inside, part| self.read_block(index, inside, part))
    }
}

fn differencing(parent: &str) -> ImageError {
    ImageError::Refused(format!(
        "a differencing VHD, which holds only the changes over its parent \"{}\": merge it into the parent (Hyper-V's Merge-VHD, \
         or `qemu-img convert` where both files are) and take the whole disk",
        printable(parent)
    ))
}

/// The header that says where the blocks are.
struct Header {
    table: u64,
    entries: u32,
    block_size: u32,
    parent: String,
}

impl Header {
    fn parse(raw: &[u8; HEADER_LEN]) -> Result<Self, ImageError> {
        let u32_at = |at: usize| be_u32(raw, at);
        if raw[..8] != HEADER_COOKIE {
            return Err(damaged("it has no dynamic header"));
        }
        if u32_at(36) != checksum(raw) {
            return Err(damaged("its dynamic header's checksum does not fit"));
        }
        let name: Vec<u16> = raw[64..576].chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
        let end = name.iter().position(|c| *c == 0).unwrap_or(name.len());
        Ok(Self {
            table: be_u64(raw, 16),
            entries: u32_at(28),
            block_size: u32_at(32),
            parent: String::from_utf16_lossy(&name[..end]),
        })
    }
}

/// The complement of the sum of all bytes but the checksum's own.
fn checksum(raw: &[u8; HEADER_LEN]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    !(sum(raw) - sum(&raw[36..40]))
}

/// The dynamic header of a disk with this table and these blocks, without a parent.
pub(crate) fn header(table: u64, entries: u32, block_size: u32) -> [u8; HEADER_LEN] {
    let mut raw = [0; HEADER_LEN];
    raw[..8].copy_from_slice(&HEADER_COOKIE);
    raw[8..16].fill(0xff);
    raw[16..24].copy_from_slice(&table.to_be_bytes());
    raw[24..28].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    raw[28..32].copy_from_slice(&entries.to_be_bytes());
    raw[32..36].copy_from_slice(&block_size.to_be_bytes());
    let sum = checksum(&raw);
    raw[36..40].copy_from_slice(&sum.to_be_bytes());
    raw
}
