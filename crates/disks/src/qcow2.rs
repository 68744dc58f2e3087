//! qcow2 files, of running machines and whole ones: read-only, one layer, never anything that the file names.
//!
//! ```text
//! header ─> L1 table ─> L2 table ─> cluster          offsets in the file, big-endian, 64 bits
//!           one entry   one entry     data            bits 9..56: where it is
//!           an L2       a cluster                     bit 0 of an L2 entry: reads as zeros
//!                                                     bit 62: compressed (zlib without a header, or zstd). With x = 70 - cluster bits:
//!                                                       bits 0..x: where it begins, x..62: the 512-byte sectors it touches, less one
//! no entry at either level: as the base has it, which the caller knows and brings; without a base zeros ([`WholeDisk`])
//! ```
//! The file may be hostile: every size is checked against the file's own length before memory is taken for it, tables are
//! read one at a time into a bounded cache, and what this reader does not understand is an error, never a guess. It never
//! opens a backing or data file, whatever the header says, and never writes.

use crate::fields::{be_u32, be_u64};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::DiskSource;
use crate::changes::{ChangeKind, ChangedSource};
use crate::format::ImageError;
use crate::packing::{Packing, unpack};
use crate::table::{MAX_DISK, MAX_RUN, check_read, printable};

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Header of version 2, and the part of version 3 that is looked at.
const V2_HEADER: usize = 72;
const V3_HEADER: usize = 112;
/// QEMU's own limit.
const MAX_L1_BYTES: u64 = 32 << 20;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Only one points to it: of no use to a reader.
const COPIED: u64 = 1 << 63;
const ZERO: u64 = 1;
/// L2 tables in memory, in bytes (at least two tables).
const CACHE_BYTES: usize = 4 << 20;
/// A base's name is shown up to this length (the format's own bound).
const MAX_NAME: u32 = 1023;

mod incompatible {
    /// Reference counts are stale; tables are not.
    pub const DIRTY: u64 = 1 << 0;
    pub const CORRUPT: u64 = 1 << 1;
    pub const EXTERNAL_DATA: u64 = 1 << 2;
    /// The header says how clusters are compressed; else it is zlib.
    pub const COMPRESSION_TYPE: u64 = 1 << 3;
    pub const EXTENDED_L2: u64 = 1 << 4;
}

/// Why a file cannot be read as a qcow2 overlay.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    #[error("it is not a qcow2 file")]
    NotQcow2,
    #[error("its qcow2 version is {0}; versions 2 and 3 are known")]
    Version(u32),
    #[error("its contents are encrypted")]
    Encrypted,
    #[error("it was marked as corrupt: repair it with `qemu-img check -r all`")]
    MarkedCorrupt,
    #[error("it uses {0}, which this reader does not know: convert it with `qemu-img convert -O qcow2`")]
    Unsupported(&'static str),
    #[error("the compressed cluster for byte {0} is damaged")]
    Compressed(u64),
    #[error("its header is wrong: {0}")]
    Header(&'static str),
    #[error("the {table} entry for byte {at} points to {target}, where nothing can be")]
    Table { table: &'static str, at: u64, target: u64 },
    #[error("byte {0} was never written in this file")]
    Unallocated(u64),
    #[error("bytes {offset}+{len} lie beyond its end")]
    OutOfRange { offset: u64, len: usize },
    #[error("it cannot be read")]
    Io(#[from] io::Error),
}

impl From<Qcow2Error> for io::Error {
    fn from(error: Qcow2Error) -> Self {
        match error {
            Qcow2Error::Io(e) => e,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

type Result<T, E = Qcow2Error> = std::result::Result<T, E>;

/// An open qcow2 file.
#[derive(Debug)]
pub struct Qcow2 {
    file: File,
    file_len: u64,
    version: u32,
    cluster_bits: u32,
    size: u64,
    base_name: Option<Range<u64>>,
    packing: Packing,
    l1: Arc<[u64]>,
    l2: Mutex<Tables>,
    /// The compressed cluster that was read last, by where it is in the file.
    unpacked: Mutex<Option<(Packed, Arc<[u8]>)>>,
}

/// A compressed cluster's place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    at: u64,
    len: u64,
}

/// The L2 tables used last, the latest at the end.
#[derive(Debug, Default)]
struct Tables(Vec<(u64, Arc<[u64]>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    Base,
    Zero,
    /// Where its data is in the file.
    Data(u64),
    Packed(Packed),
}

impl Cluster {
    fn kind(self) -> Option<ChangeKind> {
        match self {
            Self::Base => None,
            Self::Zero => Some(ChangeKind::Zero),
            Self::Data(_) | Self::Packed(_) => Some(ChangeKind::Data),
        }
    }
}

impl Qcow2 {
    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    /// See [`Qcow2Error`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_file(File::open(path)?)
    }

    /// As [`Qcow2::open`]. The file's position is not used afterwards.
    ///
    /// # Errors
    /// See [`Qcow2Error`].
    pub fn from_file(mut file: File) -> Result<Self> {
        let file_len = file.seek(SeekFrom::End(0))?;
        let mut raw = [0; V3_HEADER];
        let have = usize::try_from(file_len).unwrap_or(V3_HEADER).min(V3_HEADER);
        file.read_exact_at(&mut raw[..have], 0)?;
        let header = Header::parse(&raw, have)?;
        let wanted = header.l1_needed();
        let bytes = wanted.checked_mul(8).filter(|b| *b <= MAX_L1_BYTES && wanted <= u64::from(header.l1_size));
        let bytes = bytes.ok_or(Qcow2Error::Header("its L1 table does not fit its size"))?;
        let end = header.l1_offset.checked_add(bytes);
        if !header.l1_offset.is_multiple_of(header.cluster()) || end.is_none_or(|end| end > file_len) {
            return Err(Qcow2Error::Header("its L1 table is not in the file"));
        }
        let l1 = read_table(&file, header.l1_offset, bytes)?;
        Ok(Self {
            file,
            file_len,
            version: header.version,
            cluster_bits: header.cluster_bits,
            size: header.size,
            base_name: header.base_name,
            packing: header.packing,
            l1,
            l2: Mutex::default(),
            unpacked: Mutex::default(),
        })
    }

    /// The disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the header names a base. Without one, what is not allocated reads as zeros.
    pub fn names_base(&self) -> bool {
        self.base_name.is_some()
    }

    /// The file as a whole disk.
    ///
    /// # Errors
    /// [`ImageError::Refused`] where the file needs a base.
    pub fn into_whole_disk(self) -> Result<WholeDisk, ImageError> {
        let Some(place) = self.base_name.clone() else { return Ok(WholeDisk(self)) };
        let len = usize::try_from(place.end - place.start).unwrap_or_default();
        let mut name = vec![0; len];
        self.read_host(place.start, &mut name)?;
        Err(ImageError::Refused(format!(
            "a qcow2 that holds only the changes over its backing file \"{}\": make it whole with `qemu-img convert -O qcow2` where both are",
            printable(&String::from_utf8_lossy(&name))
        )))
    }

    /// The first range at or after `from` that this file says something about, in pieces of bounded size. `None`: all that
    /// follows is as in the base.
    ///
    /// # Errors
    /// See [`Qcow2Error`].
    pub fn next_allocated(&self, from: u64) -> Result<Option<(Range<u64>, ChangeKind)>> {
        if from >= self.size {
            return Ok(None);
        }
        let cluster = 1 << self.cluster_bits;
        let mut start = from & !(cluster - 1);
        let kind = loop {
            if start >= self.size {
                return Ok(None);
            }
            let reach_end = (start / self.l2_reach() + 1) * self.l2_reach();
            if let Some(table) = self.l2_of(start)? {
                let mut found = None;
                while found.is_none() && start < reach_end.min(self.size) {
                    found = self.entry(&table, start)?.kind();
                    start += if found.is_none() { cluster } else { 0 };
                }
                if let Some(kind) = found {
                    break kind;
                }
            }
            start = reach_end;
        };
        let begin = start.max(from);
        let mut end = start + cluster;
        while end < self.size && end - begin < MAX_RUN && self.cluster_at(end)?.kind() == Some(kind) {
            end += cluster;
        }
        Ok(Some((begin..end.min(self.size), kind)))
    }

    /// Fills `buf` with the bytes at `offset`, all of which must be allocated here.
    ///
    /// # Errors
    /// [`Qcow2Error::Unallocated`] where the base must be asked; see [`Qcow2Error`].
    pub fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let end = u64::try_from(buf.len()).ok().and_then(|len| offset.checked_add(len));
        if end.is_none_or(|end| end > self.size) {
            return Err(Qcow2Error::OutOfRange { offset, len: buf.len() });
        }
        let cluster = 1_u64 << self.cluster_bits;
        let mut at = offset;
        while !buf.is_empty() {
            let within = at % cluster;
            let take = usize::try_from(cluster - within).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) = buf.split_at_mut(take);
            match self.cluster_at(at - within)? {
                Cluster::Base => return Err(Qcow2Error::Unallocated(at)),
                Cluster::Zero => part.fill(0),
                Cluster::Data(host) => self.read_host(host + within, part)?,
                Cluster::Packed(packed) => {
                    let plain = self.unpacked(at - within, packed)?;
                    let from = usize::try_from(within).unwrap_or(usize::MAX);
                    part.copy_from_slice(plain.get(from..from + take).ok_or(Qcow2Error::Compressed(at))?);
                }
            }
            buf = rest;
            at += take as u64;
        }
        Ok(())
    }

    /// QEMU leaves off what was never written of the file's last cluster: zeros.
    fn read_host(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let there = usize::try_from(self.file_len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let (data, beyond) = buf.split_at_mut(there);
        self.file.read_exact_at(data, offset)?;
        beyond.fill(0);
        Ok(())
    }

    /// The bytes of the compressed cluster that is at `start` on the disk.
    fn unpacked(&self, start: u64, packed: Packed) -> Result<Arc<[u8]>> {
        let last = || self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plain)) = last().as_ref().filter(|(kept, _)| *kept == packed) {
            return Ok(Arc::clone(plain));
        }
        // At most two clusters, and one.
        let mut data = vec![0; usize::try_from(packed.len).unwrap_or_default()];
        self.file.read_exact_at(&mut data, packed.at)?;
        let mut plain = vec![0; 1 << self.cluster_bits];
        let done = unpack(self.packing, &data, &mut plain).map_err(|_| Qcow2Error::Compressed(start))?;
        if done < plain.len() {
            return Err(Qcow2Error::Compressed(start));
        }
        let plain: Arc<[u8]> = plain.into();
        *last() = Some((packed, Arc::clone(&plain)));
        Ok(plain)
    }

    /// Where the entry of a compressed cluster points.
    fn packed(&self, entry: u64, start: u64) -> Result<Cluster> {
        let bits = 70 - self.cluster_bits;
        let at = entry & ((1 << bits) - 1);
        let sectors = ((entry & !(COPIED | COMPRESSED)) >> bits) + 1;
        // The last sector may end beyond the file.
        let end = (at - at % 512 + sectors * 512).min(self.file_len);
        if at >= end {
            return Err(Qcow2Error::Table { table: "L2", at: start, target: at });
        }
        Ok(Cluster::Packed(Packed { at, len: end - at }))
    }

    /// How much of the disk one L2 table covers: one entry of 8 bytes a cluster.
    fn l2_reach(&self) -> u64 {
        1 << (2 * self.cluster_bits - 3)
    }

    fn cluster_at(&self, start: u64) -> Result<Cluster> {
        match self.l2_of(start)? {
            Some(table) => self.entry(&table, start),
            None => Ok(Cluster::Base),
        }
    }

    fn entry(&self, table: &[u64], start: u64) -> Result<Cluster> {
        let index = usize::try_from((start % self.l2_reach()) >> self.cluster_bits).unwrap_or(usize::MAX);
        let entry = table.get(index).copied().unwrap_or_default();
        if entry & COMPRESSED != 0 {
            return self.packed(entry, start);
        }
        if self.version >= 3 && entry & ZERO != 0 {
            return Ok(Cluster::Zero);
        }
        let host = entry & OFFSET;
        if host == 0 {
            return Ok(Cluster::Base);
        }
        if !host.is_multiple_of(1 << self.cluster_bits) || host >= self.file_len {
            return Err(Qcow2Error::Table { table: "L2", at: start, target: host });
        }
        Ok(Cluster::Data(host))
    }

    /// The L2 table for the cluster at `start`; `None`: there is none.
    fn l2_of(&self, start: u64) -> Result<Option<Arc<[u64]>>> {
        let index = usize::try_from(start / self.l2_reach()).unwrap_or(usize::MAX);
        let offset = self.l1.get(index).copied().unwrap_or_default() & OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        let cluster = 1_u64 << self.cluster_bits;
        if !offset.is_multiple_of(cluster) || offset.checked_add(cluster).is_none_or(|end| end > self.file_len) {
            return Err(Qcow2Error::Table { table: "L1", at: start, target: offset });
        }
        if let Some(table) = self.tables().get(offset) {
            return Ok(Some(table));
        }
        let table: Arc<[u64]> = read_table(&self.file, offset, cluster)?;
        let most = (CACHE_BYTES >> self.cluster_bits).max(2);
        self.tables().put(offset, Arc::clone(&table), most);
        Ok(Some(table))
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.l2.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChangedSource for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_change(&self, from: u64) -> io::Result<Option<(Range<u64>, ChangeKind)>> {
        Ok(self.next_allocated(from)?)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Ok(Self::read_at(self, offset, buf)?)
    }
}

/// A qcow2 without a base, as a disk: what was never written are its holes.
#[derive(Debug)]
pub struct WholeDisk(Qcow2);

impl DiskSource for WholeDisk {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = from;
        while let Some((range, kind)) = self.0.next_allocated(at)? {
            if kind == ChangeKind::Data {
                return Ok(Some(range));
            }
            at = range.end;
        }
        Ok(None)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_read(offset, buf.len(), self.0.size)?;
        crate::table::by_unit(offset, buf, 1 << self.0.cluster_bits, |index, inside, part| {
            let start = index << self.0.cluster_bits;
            match self.0.cluster_at(start)? {
                Cluster::Base | Cluster::Zero => part.fill(0),
                Cluster::Data(_) | Cluster::Packed(_) => self.0.read_at(start + inside, part)?,
            }
            Ok(())
        })
    }
}

impl Tables {
    fn get(&mut self, offset: u64) -> Option<Arc<[u64]>> {
        let at = self.0.iter().rposition(|(o, _)| *o == offset)?;
        let last = self.0.len() - 1;
        self.0[at..].rotate_left(1);
        Some(Arc::clone(&self.0[last].1))
    }

    fn put(&mut self, offset: u64, table: Arc<[u64]>, most: usize) {
        self.0.retain(|(o, _)| *o != offset);
        if self.0.len() >= most {
            self.0.remove(0);
        }
        self.0.push((offset, table));
    }
}

fn read_table(file: &File, offset: u64, bytes: u64) -> Result<Arc<[u64]>> {
    let mut raw = vec![0; usize::try_from(bytes).map_err(|_| Qcow2Error::Header("a table is too long"))?];
    file.read_exact_at(&mut raw, offset)?;
    Ok(raw.chunks_exact(8).map(|e| be_u64(e, 0)).collect())
}

struct Header {
    version: u32,
    cluster_bits: u32,
    size: u64,
    l1_size: u32,
    l1_offset: u64,
    base_name: Option<Range<u64>>,
    packing: Packing,
}

impl Header {
    /// `have`: how many bytes of `raw` the file has.
    fn parse(raw: &[u8; V3_HEADER], have: usize) -> Result<Self> {
        let u32_at = |at: usize| be_u32(raw, at);
        let u64_at = |at: usize| be_u64(raw, at);
        if have < V2_HEADER || raw[..4] != MAGIC {
            return Err(Qcow2Error::NotQcow2);
        }
        let version = u32_at(4);
        match version {
            2 => {}
            3 if have >= 104 => check_features(u64_at(72))?,
            3 => return Err(Qcow2Error::Header("it is cut off")),
            other => return Err(Qcow2Error::Version(other)),
        }
        if u32_at(32) != 0 {
            return Err(Qcow2Error::Encrypted);
        }
        let told = version >= 3 && u64_at(72) & incompatible::COMPRESSION_TYPE != 0;
        let packing = match (told, raw[104]) {
            (false, _) | (true, 0) => Packing::Deflate,
            (true, 1) => Packing::Zstd,
            (true, _) => return Err(Qcow2Error::Unsupported("an unknown compression")),
        };
        let header = Self {
            version,
            cluster_bits: u32_at(20),
            size: u64_at(24),
            l1_size: u32_at(36),
            l1_offset: u64_at(40),
            base_name: base_name(u64_at(8), u32_at(16)),
            packing,
        };
        if !(9..=21).contains(&header.cluster_bits) {
            return Err(Qcow2Error::Header("its cluster size is impossible"));
        }
        if header.size > MAX_DISK || !header.size.is_multiple_of(512) {
            return Err(Qcow2Error::Header("its size is impossible"));
        }
        Ok(header)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn l1_needed(&self) -> u64 {
        self.size.div_ceil(1 << (2 * self.cluster_bits - 3))
    }
}

/// Where the base's name is, if there is a base.
fn base_name(offset: u64, len: u32) -> Option<Range<u64>> {
    (offset != 0).then(|| offset..offset.saturating_add(u64::from(len.min(MAX_NAME))))
}

fn check_features(bits: u64) -> Result<()> {
    use incompatible::{COMPRESSION_TYPE, CORRUPT, DIRTY, EXTENDED_L2, EXTERNAL_DATA};
    if bits & CORRUPT != 0 {
        return Err(Qcow2Error::MarkedCorrupt);
    }
    if bits & EXTERNAL_DATA != 0 {
        return Err(Qcow2Error::Unsupported("an external data file"));
    }
    if bits & EXTENDED_L2 != 0 {
        return Err(Qcow2Error::Unsupported("extended L2 entries"));
    }
    if bits & !(DIRTY | COMPRESSION_TYPE) != 0 {
        return Err(Qcow2Error::Unsupported("a feature of a newer QEMU"));
    }
    Ok(())
}
