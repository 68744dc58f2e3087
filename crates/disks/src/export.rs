//! A disk as a file of another format. The file is never built: where everything will be follows from which parts of the disk hold
//! data, so that any range of it can be made without the rest ([`ImageFile`]).
//!
//! ```text
//! DiskSource ─ units with data ─> sections: bytes │ tables, made on demand │ the disk's bytes
//!                                 └─ ImageFile (a DiskSource too) ─ copy::to_file ─> a sparse file
//!                                 └─ packed::write: qcow2 with compressed clusters, whose places are known only when written
//! ```
//! The same disk, id and time always give the same bytes.

pub mod copy;
pub mod packed;
mod qcow2;
mod units;
mod vhd;
mod vhdx;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use crate::DiskSource;
use crate::table::check_read;

/// What the file is called inside, and since when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub id: Uuid,
    /// Seconds since 1970-01-01 UTC.
    pub created: i64,
}

/// The formats that can be written without compressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Raw,
    /// Fixed, and a whole number of MiB as Azure wants it.
    Vhd,
    /// A whole number of MiB, too.
    VhdDynamic,
    Vhdx,
    /// Version 3.
    Qcow2,
}

/// Why a disk cannot have that format.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("a disk of {size} bytes does not fit a {format}, which holds at most {most}")]
    TooLarge { format: &'static str, size: u64, most: u64 },
    #[error("the disk cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Fills a part of a section: `(offset in the section, buffer)`. The buffer is zeros before.
type Fill = Box<dyn Fn(u64, &mut [u8]) -> io::Result<()> + Send + Sync>;
/// Data of a section, as [`DiskSource::next_data`] tells it.
type Data = Box<dyn Fn(u64) -> io::Result<Option<Range<u64>>> + Send + Sync>;

/// A part of the file.
struct Section {
    range: Range<u64>,
    fill: Fill,
    /// `None`: all of it may be data.
    data: Option<Data>,
}

/// The file that a disk would be in some format.
pub struct ImageFile {
    sections: Vec<Section>,
    len: u64,
}

impl std::fmt::Debug for ImageFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageFile").field("sections", &self.sections.len()).field("len", &self.len).finish()
    }
}

impl ImageFile {
    /// # Errors
    /// See [`ExportError`].
    pub fn new(disk: Arc<dyn DiskSource>, target: Target, identity: Identity) -> Result<Self, ExportError> {
        match target {
            Target::Raw => Ok(Self::empty().with_disk(disk)),
            Target::Vhd => Ok(vhd::fixed(disk, identity)),
            Target::VhdDynamic => vhd::dynamic(disk, identity),
            Target::Vhdx => vhdx::plan(disk, identity),
            Target::Qcow2 => qcow2::plan(disk),
        }
    }

    fn empty() -> Self {
        Self { sections: Vec::new(), len: 0 }
    }

    /// Adds bytes, up to the next multiple of `align`.
    fn with_bytes(self, bytes: Vec<u8>, align: u64) -> Self {
        let len = (bytes.len() as u64).next_multiple_of(align);
        let fill: Fill = Box::new(move |at, buf| {
            let from = usize::try_from(at).unwrap_or(usize::MAX);
            let rest = bytes.get(from..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(())
        });
        self.with(len, fill, None)
    }

    /// Adds a table of `width`-byte entries, up to the next multiple of `align`. `entry` gives what an entry holds; beyond `count`
    /// come zeros.
    fn with_table<const W: usize>(
        self,
        count: u64,
        align: u64,
        entry: impl Fn(u64) -> [u8; W] + Send + Sync + 'static,
    ) -> Self {
        let width = W as u64;
        let fill: Fill = Box::new(move |at, buf| {
            crate::table::by_unit(at, buf, width, |index, inside, part| {
                if index < count {
                    let from = usize::try_from(inside).unwrap_or(W);
                    part.copy_from_slice(&entry(index)[from..from + part.len()]);
                }
                Ok(())
            })
        });
        self.with((count * width).next_multiple_of(align), fill, None)
    }

    /// Adds the disk as it is.
    fn with_disk(self, disk: Arc<dyn DiskSource>) -> Self {
        let (len, reader) = (disk.size(), Arc::clone(&disk));
        self.with(len, Box::new(move |at, buf| reader.read_at(at, buf)), Some(Box::new(move |at| disk.next_data(at))))
    }

    /// Adds nothing but zeros.
    fn with_zeros(self, len: u64) -> Self {
        self.with(len, Box::new(|_, _| Ok(())), Some(Box::new(|_| Ok(None))))
    }

    fn with(mut self, len: u64, fill: Fill, data: Option<Data>) -> Self {
        if len > 0 {
            self.sections.push(Section { range: self.len..self.len + len, fill, data });
            self.len += len;
        }
        self
    }

    fn section(&self, at: u64) -> usize {
        self.sections.partition_point(|s| s.range.end <= at)
    }
}

/// The file's bytes: its size is the file's length. Every format's files are made of whole sectors.
impl DiskSource for ImageFile {
    fn size(&self) -> u64 {
        self.len
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        for section in self.sections.get(self.section(from)..).unwrap_or_default() {
            let (start, base) = (from.max(section.range.start), section.range.start);
            let Some(data) = &section.data else { return Ok(Some(start..section.range.end)) };
            if let Some(found) = data(start - base)? {
                return Ok(Some(found.start + base..found.end + base));
            }
        }
        Ok(None)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_read(offset, buf.len(), self.len)?;
        let (mut at, mut rest) = (offset, buf);
        for section in self.sections.get(self.section(offset)..).unwrap_or_default() {
            if rest.is_empty() {
                break;
            }
            let take = usize::try_from(section.range.end - at).unwrap_or(usize::MAX).min(rest.len());
            let (part, left) = rest.split_at_mut(take);
            part.fill(0);
            (section.fill)(at - section.range.start, part)?;
            at += take as u64;
            rest = left;
        }
        Ok(())
    }
}

/// Reads where the disk may end before its last unit: what is beyond stays as it is.
fn read_to_end(disk: &dyn DiskSource, at: u64, buf: &mut [u8]) -> io::Result<()> {
    let there = usize::try_from(disk.size().saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
    if there == 0 {
        return Ok(());
    }
    disk.read_at(at, &mut buf[..there])
}
