//! Fixed VHDs, the format in which Azure takes and gives disks: the disk's bytes, then a footer of 512.
//!
//! Files come from strangers: nothing here may panic or allocate by what a file says. Where Azure takes a VHD it must be
//! fixed ([`judge`], [`open_fixed`]); an operator's dynamic one is read by [`dynamic`].

pub mod dynamic;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{DiskSource, RawFile};

/// Length of the footer in bytes.
pub const FOOTER_LEN: u64 = 512;

/// A disk's size must be a multiple of this (1 MiB), as Azure demands.
pub const SIZE_UNIT: u64 = 1 << 20;

/// What each footer begins with.
pub const COOKIE: [u8; 8] = *b"conectix";

/// Seconds from 1970-01-01 to 2000-01-01 (UTC), where VHD begins to count time.
const VHD_EPOCH: i64 = 946_684_800;

/// Largest geometry; disks beyond it (about 127 GiB) are told by the size field alone.
const MAX_CHS_SECTORS: u64 = 65_535 * 16 * 255;

/// Why a file is not a VHD that can be taken.
#[derive(Debug, thiserror::Error)]
pub enum VhdError {
    /// The file cannot even hold a footer and some data.
    #[error("a file of {len} bytes is too short for a VHD: it must hold a disk and a footer of 512 bytes")]
    TooShort { len: u64 },
    /// The last 512 bytes do not begin with `conectix`: Azure's `InvalidVhd`, "not a supported VHD. Disk is expected
    /// to have cookie value 'conectix'." (`format`: what the file's beginning looks like instead.)
    #[error(
        "the footer's cookie is {:?} instead of \"conectix\"{}; convert the image with \
         `qemu-img convert -O vpc -o subformat=fixed,force_size=on`",
        found.escape_ascii().to_string(),
        format.map(|f| format!(" (the file looks like {f})")).unwrap_or_default()
    )]
    BadCookie { found: [u8; 8], format: Option<&'static str> },
    /// The footer's checksum does not fit its bytes.
    #[error("the VHD footer is damaged: its checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    BadChecksum { stored: u32, computed: u32 },
    /// A VHD, but a dynamic, a differencing or an unknown one.
    #[error(
        "a {kind} VHD cannot be used, it must be fixed; convert it with \
         `qemu-img convert -f vpc -O vpc -o subformat=fixed,force_size=on`"
    )]
    NotFixed { kind: Kind },
    /// The disk is not a whole number of MiB.
    #[error("the VHD's disk size of {size} bytes is not a whole number of MiB; pad the disk to {} bytes", size.next_multiple_of(SIZE_UNIT))]
    SizeNotAligned { size: u64 },
    /// The footer speaks of another size than the file has (both without the footer).
    #[error("the VHD footer says that the disk has {footer} bytes, but the file holds {file}; was the upload cut off?")]
    SizeMismatch { footer: u64, file: u64 },
    /// The file could not be read.
    #[error("the VHD cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// The kind of a VHD, from its footer's disk type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 2: all bytes, then the footer.
    Fixed,
    /// 3: a block table; the footer is also at the front.
    Dynamic,
    /// 4: dynamic, over a parent disk.
    Differencing,
    /// Anything else.
    Other(u32),
}

impl Kind {
    fn from_wire(value: u32) -> Self {
        match value {
            2 => Self::Fixed,
            3 => Self::Dynamic,
            4 => Self::Differencing,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
            Self::Dynamic => f.write_str("dynamic"),
            Self::Differencing => f.write_str("differencing"),
            Self::Other(value) => write!(f, "type-{value}"),
        }
    }
}

/// Cylinders, heads and sectors per track: what a BIOS of the nineties wants to know of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub cylinders: u16,
    pub heads: u8,
    pub sectors_per_track: u8,
}

impl Geometry {
    /// The geometry that the VHD specification's appendix gives a disk of `disk_size` bytes. Its product is at most the
    /// disk's sectors, so readers must take the size from the size field.
    #[must_use]
    pub fn of(disk_size: u64) -> Self {
        let sectors = (disk_size / 512).min(MAX_CHS_SECTORS);
        let (per_track, heads) = if sectors >= 65_535 * 16 * 63 {
            (255_u8, 16)
        } else {
            let heads = (sectors / 17).div_ceil(1024).max(4);
            if heads <= 16 && sectors / 17 < heads * 1024 {
                (17, heads)
            } else if sectors / 31 < 16 * 1024 {
                (31, 16)
            } else {
                (63, 16)
            }
        };
        let cylinders = sectors / u64::from(per_track) / heads;
        Self {
            cylinders: u16::try_from(cylinders).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(16),
            sectors_per_track: per_track,
        }
    }
}

/// A VHD's footer (Virtual Hard Disk Image Format Specification 1.0). All numbers are big-endian.
///
/// ```text
/// offset len
///      0   8  cookie "conectix"
///      8   4  features: 2 (a bit that is always set) | 1 if temporary
///     12   4  format version 0x00010000
///     16   8  offset of the dynamic header; all ones in a fixed disk
///     24   4  creation time, seconds since 2000-01-01 UTC
///     28   4  creator application: "win " Hyper-V, "wa\0\0" Azure, "qem2"/"qemu" QEMU, "vpc " Virtual PC
///     32   4  creator version, major.minor as 16.16
///     36   4  creator host system "Wi2k" | "Mac "
///     40   8  original disk size in bytes
///     48   8  current disk size in bytes, without the footer
///     56   4  geometry: cylinders u16, heads u8, sectors per track u8
///     60   4  disk type: 2 fixed, 3 dynamic, 4 differencing
///     64   4  checksum: complement of the sum of all other bytes of the footer
///     68  16  unique id
///     84   1  1 if in saved state
///     85 427  zeros
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer(Wire);

#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    cookie: [u8; 8],
    features: U32,
    version: U32,
    data_offset: U64,
    timestamp: U32,
    creator_application: [u8; 4],
    creator_version: U32,
    creator_host: [u8; 4],
    original_size: U64,
    current_size: U64,
    cylinders: U16,
    heads: u8,
    sectors_per_track: u8,
    disk_type: U32,
    checksum: U32,
    unique_id: [u8; 16],
    saved_state: u8,
    reserved: [u8; 427],
}

impl Footer {
    /// The footer of a fixed disk of `disk_size` bytes. The same arguments always give the same bytes, so that an export
    /// read in pieces and at different times is one file. `created` is in seconds since 1970-01-01 UTC.
    ///
    /// It names Hyper-V as its creator: readers that do not know the creator (QEMU among them) would compute the size from
    /// the geometry and cut the disk short.
    #[must_use]
    pub fn fixed(disk_size: u64, unique_id: Uuid, created: i64) -> Self {
        Self::new(2, u64::MAX, disk_size, unique_id, created)
    }

    /// As [`Footer::fixed`], of a dynamic disk whose dynamic header is at `data_offset`.
    #[must_use]
    pub fn dynamic(data_offset: u64, disk_size: u64, unique_id: Uuid, created: i64) -> Self {
        Self::new(3, data_offset, disk_size, unique_id, created)
    }

    fn new(disk_type: u32, data_offset: u64, disk_size: u64, unique_id: Uuid, created: i64) -> Self {
        let geometry = Geometry::of(disk_size);
        let seconds = created.saturating_sub(VHD_EPOCH).clamp(0, i64::from(u32::MAX));
        let mut wire = Wire {
            cookie: COOKIE,
            features: U32::new(2),
            version: U32::new(0x0001_0000),
            data_offset: U64::new(data_offset),
            timestamp: U32::new(u32::try_from(seconds).unwrap_or(u32::MAX)),
            creator_application: *b"win ",
            creator_version: U32::new(0x000a_0000),
            creator_host: *b"Wi2k",
            original_size: U64::new(disk_size),
            current_size: U64::new(disk_size),
            cylinders: U16::new(geometry.cylinders),
            heads: geometry.heads,
            sectors_per_track: geometry.sectors_per_track,
            disk_type: U32::new(disk_type),
            checksum: U32::new(0),
            unique_id: unique_id.into_bytes(),
            saved_state: 0,
            reserved: [0; 427],
        };
        wire.checksum = U32::new(checksum(&wire));
        Self(wire)
    }

    /// Reads a footer of any kind.
    ///
    /// # Errors
    /// [`VhdError::BadCookie`], [`VhdError::BadChecksum`].
    pub fn parse(bytes: &[u8; 512]) -> Result<Self, VhdError> {
        let wire: Wire = zerocopy::transmute!(*bytes);
        if wire.cookie != COOKIE {
            return Err(VhdError::BadCookie { found: wire.cookie, format: None });
        }
        let (stored, computed) = (wire.checksum.get(), checksum(&wire));
        if stored != computed {
            return Err(VhdError::BadChecksum { stored, computed });
        }
        Ok(Self(wire))
    }

    /// The footer as it stands at the file's end.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 512] {
        zerocopy::transmute!(self.0.clone())
    }

    /// The disk's size in bytes, without the footer.
    #[must_use]
    pub fn disk_size(&self) -> u64 {
        self.0.current_size.get()
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::from_wire(self.0.disk_type.get())
    }

    #[must_use]
    pub fn unique_id(&self) -> Uuid {
        Uuid::from_bytes(self.0.unique_id)
    }

    /// Creation time in seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn created(&self) -> i64 {
        VHD_EPOCH + i64::from(self.0.timestamp.get())
    }

    /// Four characters that name the program that wrote the disk.
    #[must_use]
    pub fn creator_application(&self) -> [u8; 4] {
        self.0.creator_application
    }

    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry { cylinders: self.0.cylinders.get(), heads: self.0.heads, sectors_per_track: self.0.sectors_per_track }
    }

    /// Checks that this footer ends a fixed VHD of `file_len` bytes that Azure would take.
    ///
    /// # Errors
    /// [`VhdError::NotFixed`], [`VhdError::SizeNotAligned`], [`VhdError::SizeMismatch`], [`VhdError::TooShort`].
    pub fn check_fixed(&self, file_len: u64) -> Result<(), VhdError> {
        let kind = self.kind();
        if kind != Kind::Fixed {
            return Err(VhdError::NotFixed { kind });
        }
        let file = disk_size_of(file_len)?;
        let footer = self.disk_size();
        if footer != file {
            return Err(VhdError::SizeMismatch { footer, file });
        }
        Ok(())
    }
}

/// The complement of the byte sum, without the checksum's own four bytes.
fn checksum(wire: &Wire) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    // At most 512 × 255: neither difference nor sum can overflow.
    !(sum(wire.as_bytes()) - sum(wire.checksum.as_bytes()))
}

/// The disk's size in a fixed VHD of `file_len` bytes: n MiB + 512, n ≥ 1.
///
/// # Errors
/// [`VhdError::TooShort`], [`VhdError::SizeNotAligned`].
pub fn disk_size_of(file_len: u64) -> Result<u64, VhdError> {
    match file_len.checked_sub(FOOTER_LEN) {
        None | Some(0) => Err(VhdError::TooShort { len: file_len }),
        Some(size) if !size.is_multiple_of(SIZE_UNIT) => Err(VhdError::SizeNotAligned { size }),
        Some(size) => Ok(size),
    }
}

/// Judges a file that should be a fixed VHD by its beginning, its last 512 bytes and its length. For those whose bytes
/// are not in a file of the file system; else see [`open_fixed`].
///
/// # Errors
/// All of [`VhdError`] but `Io`.
pub fn judge(head: &[u8], tail: &[u8; 512], file_len: u64) -> Result<Footer, VhdError> {
    match Footer::parse(tail) {
        Ok(footer) => footer.check_fixed(file_len).map(|()| footer),
        // A dynamic VHD whose tail is lost still has its footer's copy in front.
        Err(VhdError::BadCookie { found, .. }) => Err(match front_footer(head).map(|front| front.kind()) {
            Some(kind) if kind != Kind::Fixed => VhdError::NotFixed { kind },
            _ => VhdError::BadCookie { found, format: guess_format(head) },
        }),
        Err(error) => Err(error),
    }
}

fn front_footer(head: &[u8]) -> Option<Footer> {
    Footer::parse(head.first_chunk::<512>()?).ok()
}

/// Names the format that a file's first bytes speak of, to tell the user what went wrong.
fn guess_format(head: &[u8]) -> Option<&'static str> {
    const KNOWN: [(usize, &[u8], &str); 7] = [
        (0, b"vhdxfile", "a VHDX"),
        (0, b"QFI\xfb", "a qcow2 image"),
        (0, b"KDMV", "a VMDK"),
        (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
        (0, b"\x1f\x8b", "gzip-compressed data"),
        (0, b"\xfd7zXZ\0", "xz-compressed data"),
        (510, b"\x55\xaa", "a raw disk without a footer"),
    ];
    KNOWN
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
        .map(|(_, _, name)| *name)
}

/// A fixed VHD in a file: a [`DiskSource`] of the disk without its footer.
#[derive(Debug)]
pub struct FixedVhd {
    footer: Footer,
    disk: RawFile,
}

impl FixedVhd {
    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.footer
    }
}

/// Opens the fixed VHD at `path` after checking what Azure checks: cookie, checksum, kind, n × 1 MiB + 512 bytes, and that
/// the footer's size is the file's.
///
/// # Errors
/// See [`VhdError`].
pub fn open_fixed(path: &Path) -> Result<FixedVhd, VhdError> {
    let mut file = File::open(path)?;
    let len = file.seek(SeekFrom::End(0))?;
    let mut tail = [0; 512];
    let Some(at) = len.checked_sub(FOOTER_LEN) else {
        return Err(VhdError::TooShort { len });
    };
    file.read_exact_at(&mut tail, at)?;
    let mut head = [0; 512];
    file.read_exact_at(&mut head, 0)?;
    let footer = judge(&head, &tail, len)?;
    let disk = RawFile::with_len(file, at)?;
    Ok(FixedVhd { footer, disk })
}

/// A fixed VHD of any whole number of sectors: what [`open_fixed`] takes, and what other tools write (they round sizes to
/// cylinders).
///
/// # Errors
/// See [`VhdError`].
pub fn fixed_of_any_size(mut file: File) -> Result<FixedVhd, VhdError> {
    let len = file.seek(SeekFrom::End(0))?;
    let at = len.checked_sub(FOOTER_LEN).filter(|at| *at > 0).ok_or(VhdError::TooShort { len })?;
    let mut tail = [0; 512];
    file.read_exact_at(&mut tail, at)?;
    let footer = Footer::parse(&tail)?;
    match footer.kind() {
        Kind::Fixed if footer.disk_size() == at => Ok(FixedVhd { footer, disk: RawFile::with_len(file, at)? }),
        Kind::Fixed => Err(VhdError::SizeMismatch { footer: footer.disk_size(), file: at }),
        kind => Err(VhdError::NotFixed { kind }),
    }
}

impl DiskSource for FixedVhd {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(from)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }
}

/// The file that an export of a disk shows: the disk's bytes, then its footer.
#[derive(Debug, Clone)]
pub struct FooterAppended {
    disk_size: u64,
    footer: [u8; 512],
}

impl FooterAppended {
    /// See [`Footer::fixed`]; the footer depends on nothing but the arguments.
    #[must_use]
    pub fn new(disk_size: u64, unique_id: Uuid, created: i64) -> Self {
        Self { disk_size, footer: Footer::fixed(disk_size, unique_id, created).to_bytes() }
    }

    /// The file's length: the disk's and 512.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.disk_size.saturating_add(FOOTER_LEN)
    }

    /// What a read of the file's `range` consists of: first this range of the disk, then these bytes of the footer (either may
    /// be empty). A range beyond the file's end is cut there.
    #[must_use]
    pub fn split(&self, range: Range<u64>) -> (Range<u64>, &[u8]) {
        let cut = |at: u64| usize::try_from(at.saturating_sub(self.disk_size).min(FOOTER_LEN)).unwrap_or(0);
        let (from, to) = (cut(range.start), cut(range.end));
        let disk = range.start.min(self.disk_size)..range.end.min(self.disk_size);
        (disk, self.footer.get(from..to).unwrap_or_default())
    }
}
