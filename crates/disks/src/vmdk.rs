//! VMDKs of one file: monolithicSparse and streamOptimized (VMware Virtual Disk Format 5.0), read-only. The descriptor in the file is
//! looked at only to refuse what needs other files; nothing that it names is opened.
//!
//! ```text
//! header ─> grain directory ─> grain table ─> grain        u32 each, sectors of the file, little-endian
//!           one entry a table   512 entries    data, or with bit 16 of the flags: u64 its first sector on the disk,
//!                                              u32 length, then that much of zlib
//! 0 in directory or table: zeros; 1 in a table: zeros too, where bit 2 of the flags says so
//! directory "at the end" (all ones): a copy of the header, two sectors before the end, knows it
//! ```

use crate::fields::{le_u16, le_u32, le_u64};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::DiskSource;
use crate::format::{Format, ImageError};
use crate::packing::{Packing, unpack};
use crate::raw::SECTOR;
use crate::table::{MAX_DISK, MAX_RUN, PAGE, Tables, by_unit, check_read, printable, within};

const MAGIC: &[u8; 4] = b"KDMV";
/// Grains of a table.
const TABLE: u64 = 512;
/// Sectors of a grain.
const GRAINS: Range<u64> = 8..(32 << 10) + 1;
/// Only the beginning of a longer descriptor is looked at.
const DESCRIPTOR: u64 = 64 << 10;
const AT_END: u64 = u64::MAX;

mod flag {
    pub const ZERO_GRAINS: u32 = 1 << 2;
    pub const COMPRESSED: u32 = 1 << 16;
}

fn damaged(what: impl Into<String>) -> ImageError {
    ImageError::damaged(Format::Vmdk, what)
}

fn refused(what: &str) -> ImageError {
    ImageError::Refused(format!("a VMDK {what}: convert it with `qemu-img convert -f vmdk -O qcow2`"))
}

/// A VMDK in a file: a [`DiskSource`] whose holes are the grains that are not there.
#[derive(Debug)]
pub struct Vmdk {
    tables: Tables,
    header: Header,
    /// The compressed grain that was read last.
    last: Mutex<Option<(u64, Arc<[u8]>)>>,
}

impl Vmdk {
    /// # Errors
    /// See [`ImageError`].
    pub fn from_file(file: File) -> Result<Self, ImageError> {
        let tables = Tables::new(file)?;
        if !tables.holds(0, SECTOR) {
            return Err(damaged("it is cut short"));
        }
        let front = Header::parse(&tables.array(0)?)?;
        check_descriptor(&tables, &front)?;
        let header = if front.directory == AT_END {
            let at = tables.len().checked_sub(2 * SECTOR).ok_or_else(|| damaged("it is cut short"))?;
            let missing = |_| damaged("its end is missing: was the download or copy cut off?");
            Header::parse(&tables.array(at)?).map_err(missing)?
        } else {
            front
        };
        let directory = header.directory.saturating_mul(SECTOR);
        if !tables.holds(directory, header.size.div_ceil(header.grain * TABLE) * 4) {
            return Err(damaged("its grain directory is not in the file"));
        }
        Ok(Self { tables, header, last: Mutex::default() })
    }

    fn grains(&self) -> u64 {
        self.header.size.div_ceil(self.header.grain)
    }

    /// Where the grain table of a grain is.
    fn table_of(&self, grain: u64) -> io::Result<Option<u64>> {
        let entry = self.tables.array(self.header.directory * SECTOR + grain / TABLE * 4)?;
        let at = u64::from(u32::from_le_bytes(entry)) * SECTOR;
        if at != 0 && !self.tables.holds(at, TABLE * 4) {
            return Err(damaged(format!("the grain table of grain {grain} is not in the file")).into());
        }
        Ok((at != 0).then_some(at))
    }

    fn place(&self, entry: u32) -> Option<u64> {
        let hole = entry == 0 || (entry == 1 && self.header.flags & flag::ZERO_GRAINS != 0);
        (!hole).then_some(u64::from(entry) * SECTOR)
    }

    /// Where a grain is; `None`: it reads as zeros.
    fn grain_at(&self, grain: u64) -> io::Result<Option<u64>> {
        let Some(table) = self.table_of(grain)? else { return Ok(None) };
        Ok(self.place(u32::from_le_bytes(self.tables.array(table + grain % TABLE * 4)?)))
    }

    /// The first grain at or after `grain` that is there.
    fn next_grain(&self, mut grain: u64) -> io::Result<Option<u64>> {
        while grain < self.grains() {
            let next_table = (grain / TABLE + 1) * TABLE;
            let Some(table) = self.table_of(grain)? else {
                grain = next_table;
                continue;
            };
            // A page at a time: tables may be many and empty.
            while grain < next_table {
                let at = table + grain % TABLE * 4;
                let page = self.tables.page(at)?;
                let left = usize::try_from((next_table - grain).min((PAGE - at % PAGE) / 4)).unwrap_or(0);
                let entries = page.get(within(at)..).unwrap_or_default().chunks_exact(4).take(left);
                let mut entries = entries.map(|e| le_u32(e, 0));
                if let Some(skip) = entries.position(|entry| self.place(entry).is_some()) {
                    grain += skip as u64;
                    return Ok((grain < self.grains()).then_some(grain));
                }
                grain += left.max(1) as u64;
            }
        }
        Ok(None)
    }

    fn read_grain(&self, grain: u64, inside: u64, part: &mut [u8]) -> io::Result<()> {
        let Some(at) = self.grain_at(grain)? else {
            part.fill(0);
            return Ok(());
        };
        if self.header.flags & flag::COMPRESSED == 0 {
            if !self.tables.holds(at + inside, part.len() as u64) {
                return Err(damaged(format!("grain {grain} is not in the file")).into());
            }
            return self.tables.read_data(at + inside, part);
        }
        let plain = self.unpacked(grain, at)?;
        let from = usize::try_from(inside).unwrap_or(usize::MAX);
        let bytes = plain.get(from..).and_then(|rest| rest.get(..part.len()));
        part.copy_from_slice(bytes.ok_or_else(|| damaged(format!("grain {grain} is cut short")))?);
        Ok(())
    }

    fn unpacked(&self, grain: u64, at: u64) -> io::Result<Arc<[u8]>> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plain)) = last().as_ref().filter(|(kept, _)| *kept == at) {
            return Ok(Arc::clone(plain));
        }
        let wrong = |what: &str| io::Error::from(damaged(format!("compressed grain {grain} {what}")));
        if !self.tables.holds(at, 12) {
            return Err(wrong("is not in the file"));
        }
        let marker: [u8; 12] = self.tables.array(at)?;
        let sector = le_u64(&marker, 0);
        let len = u64::from(le_u32(&marker, 8));
        if sector.checked_mul(SECTOR) != Some(grain * self.header.grain) {
            return Err(wrong("is another one's"));
        }
        if len > 2 * self.header.grain || !self.tables.holds(at + 12, len) {
            return Err(wrong("is not in the file"));
        }
        // Both at most some tens of MiB.
        let mut packed = vec![0; usize::try_from(len).unwrap_or_default()];
        self.tables.read_data(at + 12, &mut packed)?;
        let mut plain = vec![0; usize::try_from(self.header.grain).unwrap_or_default()];
        let done = unpack(Packing::Zlib, &packed, &mut plain).map_err(|_| wrong("is no zlib data"))?;
        plain.truncate(done);
        let plain: Arc<[u8]> = plain.into();
        *last() = Some((at, Arc::clone(&plain)));
        Ok(plain)
    }
}

impl DiskSource for Vmdk {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let grain = self.header.grain;
        let Some(first) = self.next_grain(from / grain)? else { return Ok(None) };
        let start = (first * grain).max(from);
        let mut end = first + 1;
        while end < self.grains() && end * grain - start < MAX_RUN && self.grain_at(end)?.is_some() {
            end += 1;
        }
        let end = (end * grain).min(self.header.size);
        Ok((start < end).then_some(start..end))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_read(offset, buf.len(), self.header.size)?;
        by_unit(offset, buf, self.header.grain, |grain, inside, part| self.read_grain(grain, inside, part))
    }
}

#[derive(Debug)]
struct Header {
    flags: u32,
    /// Bytes of the disk.
    size: u64,
    /// Bytes of a grain.
    grain: u64,
    /// Sectors of the file: where the descriptor is and how long.
    descriptor: Range<u64>,
    /// Sector of the grain directory, or [`AT_END`].
    directory: u64,
}

impl Header {
    fn parse(raw: &[u8; 512]) -> Result<Self, ImageError> {
        let u32_at = |at: usize| le_u32(raw, at);
        let u64_at = |at: usize| le_u64(raw, at);
        if !raw.starts_with(MAGIC) {
            return Err(damaged("its header is not one"));
        }
        if !(1..=3).contains(&u32_at(4)) {
            return Err(refused(&format!("of version {}, which is not known", u32_at(4))));
        }
        let (flags, grain) = (u32_at(8), u64_at(20));
        if !GRAINS.contains(&grain) || !grain.is_power_of_two() || u64::from(u32_at(44)) != TABLE {
            return Err(damaged("its grains are of an impossible size"));
        }
        let compression = le_u16(raw, 77);
        if compression > 1 || (flags & flag::COMPRESSED != 0) != (compression == 1) {
            return Err(refused("compressed in an unknown way"));
        }
        let size = u64_at(12).checked_mul(SECTOR).filter(|size| (1..=MAX_DISK).contains(size));
        let size = size.ok_or_else(|| damaged("its size is none of a disk"))?;
        let descriptor = u64_at(28)..u64_at(28).saturating_add(u64_at(36));
        Ok(Self { flags, size, grain: grain * SECTOR, descriptor, directory: u64_at(56) })
    }
}

/// Refuses what needs other files.
fn check_descriptor(tables: &Tables, header: &Header) -> Result<(), ImageError> {
    let sectors = header.descriptor.end - header.descriptor.start;
    if header.descriptor.start == 0 || sectors == 0 {
        return Err(refused("without a descriptor, a part of a disk in several files"));
    }
    let at = header.descriptor.start.checked_mul(SECTOR).filter(|at| *at < tables.len());
    let at = at.ok_or_else(|| damaged("its descriptor is not in the file"))?;
    let len = sectors.saturating_mul(SECTOR).min(DESCRIPTOR).min(tables.len() - at);
    let mut raw = vec![0; usize::try_from(len).unwrap_or_default()];
    tables.read(at, &mut raw)?;
    let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
    let text = String::from_utf8_lossy(&raw[..end]);
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
        line.map(|value| value.trim().trim_matches('"').to_owned())
    };
    if let Some(parent) = value("parentFileNameHint").filter(|_| value("parentCID").is_none_or(|id| id != "ffffffff")) {
        return Err(ImageError::Refused(format!(
            "a VMDK of a snapshot, which holds only the changes over its parent \"{}\": consolidate the snapshots and take the whole disk",
            printable(&parent)
        )));
    }
    if value("parentCID").is_some_and(|id| !id.eq_ignore_ascii_case("ffffffff")) {
        return Err(ImageError::Refused(
            "a VMDK of a snapshot, which holds only the changes over its parent: consolidate the snapshots and take the whole disk"
                .to_owned(),
        ));
    }
    match value("createType").as_deref() {
        Some("monolithicSparse" | "streamOptimized") => {}
        Some(other) => return Err(refused(&format!("of type {}, not one file that holds the disk", printable(other)))),
        None => return Err(refused("without a type in its descriptor, perhaps a part of a disk in several files")),
    }
    let extents =
        text.lines().filter(|line| ["RW ", "RDONLY ", "NOACCESS "].iter().any(|s| line.trim_start().starts_with(s)));
    if extents.count() != 1 {
        return Err(refused("of several files"));
    }
    Ok(())
}
