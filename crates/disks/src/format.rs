//! A disk image of any format that is taken, told by its content and never by its name.
//!
//! Files come from strangers. No path that a file names is ever opened; what is not taken is refused in words that say what
//! to do instead.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;

use crate::qcow2::{Qcow2, Qcow2Error};
use crate::raw::SECTOR;
use crate::vhd::{self, Kind, VhdError, dynamic::DynamicVhd};
use crate::vhdx::Vhdx;
use crate::vmdk::Vmdk;
use crate::{DiskSource, RawFile};

/// The formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Raw,
    /// A VHD with all of its bytes.
    Vhd,
    VhdDynamic,
    Vhdx,
    Qcow2,
    Vmdk,
}

impl Format {
    /// As messages and scripts name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::VhdDynamic => "vhd-dynamic",
            Self::Vhdx => "vhdx",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a file is not taken as a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// What it is, and what to do about it.
    #[error("it is {0}")]
    Refused(String),
    /// Of a format that is taken, but not whole.
    #[error("it is a damaged {format}: {what}")]
    Damaged { format: Format, what: String },
    #[error(transparent)]
    Vhd(#[from] VhdError),
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl ImageError {
    pub(crate) fn damaged(format: Format, what: impl Into<String>) -> Self {
        Self::Damaged { format, what: what.into() }
    }
}

impl From<ImageError> for io::Error {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// An open disk image.
pub struct Image {
    pub format: Format,
    pub disk: Box<dyn DiskSource>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("format", &self.format).field("size", &self.disk.size()).finish()
    }
}

/// Opens the image at `path`, which must be a regular file or a block device.
///
/// # Errors
/// See [`ImageError`].
pub fn open(path: &Path) -> Result<Image, ImageError> {
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ImageError::Refused("neither a file nor a block device".to_owned()));
    }
    from_file(File::open(path)?)
}

/// As [`open`]. The file's position is moved.
///
/// # Errors
/// See [`ImageError`].
pub fn from_file(mut file: File) -> Result<Image, ImageError> {
    let len = file.seek(SeekFrom::End(0))?;
    if len == 0 {
        return Err(ImageError::Refused("an empty file".to_owned()));
    }
    let mut head = vec![0; usize::try_from(len.min(1024)).unwrap_or(1024)];
    file.read_exact_at(&mut head, 0)?;
    let mut tail = [0; 512];
    if let Some(at) = len.checked_sub(vhd::FOOTER_LEN) {
        file.read_exact_at(&mut tail, at)?;
    }
    let image = |format, disk| Ok(Image { format, disk });
    match detect(&head, &tail, len)? {
        Format::Raw => image(Format::Raw, Box::new(RawFile::with_len(file, len)?)),
        Format::Vhd => image(Format::Vhd, Box::new(vhd::fixed_of_any_size(file)?)),
        Format::VhdDynamic => image(Format::VhdDynamic, Box::new(DynamicVhd::from_file(file)?)),
        Format::Vhdx => image(Format::Vhdx, Box::new(Vhdx::from_file(file)?)),
        Format::Qcow2 => image(Format::Qcow2, Box::new(Qcow2::from_file(file)?.into_whole_disk()?)),
        Format::Vmdk => image(Format::Vmdk, Box::new(Vmdk::from_file(file)?)),
    }
}

/// Tells a file's format by its first 1024 bytes (or all, if it is shorter), its last 512 and its length.
///
/// A VHD's footer speaks first: what stands at the front of a fixed VHD or of a raw disk was written by whoever used that
/// disk, who could make it look like any format.
///
/// # Errors
/// [`ImageError::Refused`], [`ImageError::Vhd`].
pub fn detect(head: &[u8], tail: &[u8; 512], len: u64) -> Result<Format, ImageError> {
    if tail.starts_with(&vhd::COOKIE) {
        return match vhd::Footer::parse(tail)?.kind() {
            Kind::Fixed => Ok(Format::Vhd),
            Kind::Dynamic | Kind::Differencing => Ok(Format::VhdDynamic),
            kind => Err(VhdError::NotFixed { kind }.into()),
        };
    }
    for (at, magic, what) in REFUSED {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(ImageError::Refused(what.to_owned()));
        }
    }
    if head.starts_with(b"QFI\xfb") {
        return Ok(Format::Qcow2);
    }
    if head.starts_with(b"vhdxfile") {
        return Ok(Format::Vhdx);
    }
    if head.starts_with(b"KDMV") {
        return Ok(Format::Vmdk);
    }
    if !len.is_multiple_of(SECTOR) {
        return Err(ImageError::Refused(format!(
            "no known disk format, and its {len} bytes are no whole number of sectors of a raw disk"
        )));
    }
    Ok(Format::Raw)
}

/// What is known, and not taken: where, how it begins, what to say.
const REFUSED: [(usize, &[u8], &str); 14] = [
    (0, b"conectix", "a dynamic VHD whose end is missing: was the download or copy cut off?"),
    (
        0,
        b"# Disk DescriptorFile",
        "a VMDK descriptor, whose data is in other files: convert it with `qemu-img convert -f vmdk -O qcow2`",
    ),
    (0, b"COWD", "a VMDK of an old ESX: convert it with `qemu-img convert -f vmdk -O qcow2`"),
    (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox VDI: convert it with `qemu-img convert -f vdi -O qcow2`"),
    (0, b"QED\0", "a QED image: convert it with `qemu-img convert -f qed -O qcow2`"),
    (0, b"WithoutFreeSpace", "a Parallels image: convert it with `qemu-img convert -f parallels -O qcow2`"),
    (0, b"WithouFreSpacExt", "a Parallels image: convert it with `qemu-img convert -f parallels -O qcow2`"),
    (0, b"LUKS\xba\xbe", "encrypted with LUKS as a whole: decrypt it first"),
    (0, b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (0, b"\xfd7zXZ\0", "compressed with xz: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (0, b"BZh", "compressed with bzip2: unpack it first"),
    (0, b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (257, b"ustar", "a tar archive (an OVA?): unpack it first and take the disk in it"),
];
