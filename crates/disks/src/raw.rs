//! A raw disk image in a file. Holes come from the file system; content is never interpreted, and the file
//! is never written to.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom as ExtentSeek;
use rustix::io::Errno;

use crate::DiskSource;

/// Disks are counted in sectors of this many bytes.
pub const SECTOR: u64 = 512;

/// A raw disk in a regular file or block device, opened for reading.
///
/// Holes are found with `SEEK_DATA` and `SEEK_HOLE`. Where the file system knows neither, everything counts as data.
/// Those calls move the descriptor's file offset, reads do not use it: do not share the descriptor with code that does.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    /// Bytes that the file must have.
    backed: u64,
    /// `backed`, rounded up to a sector; what lies between reads as zeros.
    size: u64,
}

impl RawFile {
    /// Opens the raw disk at `path`. Where its length is not a multiple of 512, the last sector is filled up with
    /// zeros, as QEMU does.
    ///
    /// # Errors
    /// What opening reports; [`io::ErrorKind::InvalidInput`] if `path` is neither a regular file nor a block device.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is neither a file nor a block device", path.display()),
            ));
        }
        let mut file = File::open(path)?;
        let backed = file.seek(SeekFrom::End(0))?;
        let size = backed
            .checked_next_multiple_of(SECTOR)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the file is too long for a disk"))?;
        Ok(Self { file, backed, size })
    }

    /// The first `len` bytes of `file` as a disk.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if `len` is not a multiple of 512 or the file is shorter than that.
    pub fn with_len(file: File, len: u64) -> io::Result<Self> {
        let have = (&file).seek(SeekFrom::End(0))?;
        if !len.is_multiple_of(SECTOR) || len > have {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a disk of {len} bytes does not fit a file of {have} bytes or is not made of whole sectors"),
            ));
        }
        Ok(Self { file, backed: len, size: len })
    }
}

impl DiskSource for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        if from >= self.backed {
            return Ok(None);
        }
        let start = match rustix::fs::seek(&self.file, ExtentSeek::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // The file system (or device) does not tell: all may be data.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some(from..self.backed)),
            Err(error) => return Err(error.into()),
        };
        if start >= self.backed {
            return Ok(None);
        }
        let end = match rustix::fs::seek(&self.file, ExtentSeek::Hole(start)) {
            // Not beyond `start` only if someone punched a hole since: then "may be data" is still true.
            Ok(end) if end > start => end.min(self.backed),
            Ok(_) | Err(Errno::NXIO | Errno::INVAL | Errno::NOTSUP) => self.backed,
            Err(error) => return Err(error.into()),
        };
        Ok(Some(start.max(from)..end))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = u64::try_from(buf.len()).ok().and_then(|len| offset.checked_add(len));
        if end.is_none_or(|end| end > self.size) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read beyond the end of the disk"));
        }
        let backed = usize::try_from(self.backed.saturating_sub(offset)).map_or(buf.len(), |b| b.min(buf.len()));
        let (data, padding) = buf.split_at_mut(backed);
        self.file.read_exact_at(data, offset)?;
        padding.fill(0);
        Ok(())
    }
}
