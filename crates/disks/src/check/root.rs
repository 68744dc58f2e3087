//! The root file system, as far as it is ext4: small files, names and folders, all bounded.

use crate::fields::le_u32;
use std::io;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Read};

use super::report::{Findings, Os};
use super::{Filesystem, Partition, Use};
use crate::DiskSource;
use crate::table::printable;

/// Of a text file no more is read.
const MOST_TEXT: usize = 1 << 20;
/// Entries of a folder that are looked at.
const MOST_ENTRIES: usize = 4096;
/// A check reads no more than this, whatever the file system says.
const MOST_READ: u64 = 1 << 30;
/// Of journal blocks before the first to replay.
const MOST_JOURNAL: u32 = 16 << 20;

/// The file systems of the installed system.
pub(super) struct Root {
    root: Ext4,
    /// /boot, where it is a partition of its own.
    boot: Option<Ext4>,
}

/// Finds the root file system and gives it to `look`. What hinders that is a finding.
pub(super) fn with_root(
    disk: &Arc<dyn DiskSource>,
    partitions: &[(Partition, Option<Filesystem>)],
    found: &mut Findings,
    look: impl FnOnce(&Root, &mut Findings),
) {
    let mut systems = Vec::new();
    for (partition, filesystem) in partitions {
        match filesystem {
            Some(Filesystem::Ext4) => match load(disk, partition) {
                Ok(system) => systems.push(system),
                Err(error) => found.warning(
                    "filesystem",
                    format!(
                        "the ext4 file system of partition {} cannot be read: {}",
                        partition.number,
                        printable(&error.to_string())
                    ),
                    "repair it with `e2fsck -f`",
                ),
            },
            Some(Filesystem::Luks) => found.error(
                "encrypted",
                format!("partition {} is encrypted: nobody is there to type its key at boot", partition.number),
                "take an image without encryption",
            ),
            Some(
                other @ (Filesystem::Xfs
                | Filesystem::Btrfs
                | Filesystem::Lvm
                | Filesystem::Ntfs
                | Filesystem::Squashfs),
            ) => found.info(
                "not-looked-into",
                format!("partition {} is {}, into which this check does not look", partition.number, other.name()),
                "",
            ),
            Some(Filesystem::Fat | Filesystem::Swap) => {}
            None if matches!(partition.kind, Use::BiosBoot | Use::Microsoft) => {}
            None => {
                found.info("not-looked-into", format!("what partition {} holds is not known", partition.number), "")
            }
        }
    }
    let at = systems
        .iter()
        .position(|fs| ["/etc/os-release", "/usr/lib/os-release", "/etc/fstab"].iter().any(|p| exists(fs, p)));
    let Some(at) = at else {
        if partitions.iter().any(|(_, fs)| *fs == Some(Filesystem::Ext4)) {
            found.warning(
                "no-system",
                "no ext4 file system holds an installed system",
                "take the disk that the system starts from",
            );
        }
        return;
    };
    let root = systems.swap_remove(at);
    let is_boot = |fs: &Ext4| names(fs, "/").iter().any(|n| n.starts_with("vmlinuz") || n == "grub" || n == "grub2");
    let boot = systems.into_iter().find(is_boot);
    look(&Root { root, boot }, found);
}

/// The superblock's counts are held against the partition first: the reader would take memory by them.
fn load(disk: &Arc<dyn DiskSource>, partition: &Partition) -> Result<Ext4, Box<dyn std::error::Error>> {
    let mut raw = [0; 1024];
    disk.read_at(partition.start + 1024, &mut raw)?;
    let u32_at = |at: usize| le_u32(&raw, at);
    let (log_block, per_group) = (u32_at(0x18), u64::from(u32_at(0x20)));
    let is_64_bit = u32_at(0x60) & 0x80 != 0;
    let blocks = u64::from(u32_at(4)) | if is_64_bit { u64::from(u32_at(0x150)) << 32 } else { 0 };
    let hi_ignored = !is_64_bit && u32_at(0x150) != 0;
    if log_block > 6 || hi_ignored || per_group < 256 || blocks.saturating_mul(1024 << log_block) > partition.len {
        return Err("its superblock does not fit the partition".into());
    }
    Ok(Ext4::load(Box::new(Volume { disk: Arc::clone(disk), start: partition.start, len: partition.len, read: 0 }))?)
}

/// A partition, as the file system's reader wants it, and not without end.
struct Volume {
    disk: Arc<dyn DiskSource>,
    start: u64,
    len: u64,
    read: u64,
}

impl Ext4Read for Volume {
    fn read(&mut self, start: u64, buf: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let len = buf.len() as u64;
        self.read += len;
        if self.read > MOST_READ {
            return Err("it takes too long to read".into());
        }
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err("it points outside its partition".into());
        }
        self.disk.read_at(self.start + start, buf)?;
        if buf.chunks(1024).any(endless_journal) {
            return Err("its journal is not sound".into());
        }
        Ok(())
    }
}

/// A journal's superblock whose first block to replay is absurdly far: the reader would count up to it.
fn endless_journal(block: &[u8]) -> bool {
    let u32_at = |at: usize| block.get(at..at + 4).map_or(0, |b| u32::from_be_bytes(b.try_into().expect("4 bytes")));
    u32_at(0) == 0xc03b_3998 && matches!(u32_at(4), 3 | 4) && u32_at(28) > MOST_JOURNAL
}

fn exists(fs: &Ext4, path: &str) -> bool {
    fs.exists(path).unwrap_or(false)
}

/// The names in a folder, sorted; none, if there is no such folder.
fn names(fs: &Ext4, path: &str) -> Vec<String> {
    let Ok(entries) = fs.read_dir(path) else { return Vec::new() };
    let names =
        entries.take(MOST_ENTRIES).map_while(Result::ok).filter_map(|e| e.file_name().as_str().ok().map(str::to_owned));
    let mut names: Vec<String> = names.filter(|n| n != "." && n != "..").collect();
    names.sort();
    names
}

/// An open file of the system, as a stream.
pub(super) struct Reader(ext4_view::File);

impl io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_bytes(buf).map_err(io::Error::other)
    }
}

impl Root {
    pub(super) fn exists(&self, path: &str) -> bool {
        exists(&self.root, path)
    }

    pub(super) fn any(&self, paths: &[&str]) -> bool {
        paths.iter().any(|path| self.exists(path))
    }

    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        names(&self.root, folder)
    }

    /// Names in /boot, from wherever it is.
    pub(super) fn boot_names(&self, folder: &str) -> Vec<String> {
        let mut all = names(&self.root, &format!("/boot{folder}"));
        if let Some(boot) = &self.boot {
            all.extend(names(boot, if folder.is_empty() { "/" } else { folder }));
        }
        all
    }

    /// A file of /boot.
    pub(super) fn boot_text(&self, path: &str) -> Option<String> {
        self.boot.as_ref().and_then(|boot| text(boot, path)).or_else(|| self.text(&format!("/boot{path}")))
    }

    pub(super) fn boot_open(&self, path: &str) -> Option<Reader> {
        let apart = self.boot.as_ref().and_then(|boot| boot.open(path).ok());
        apart.or_else(|| self.root.open(format!("/boot{path}").as_str()).ok()).map(Reader)
    }

    /// The beginning of a text file.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        text(&self.root, path)
    }

    /// Bytes of a file.
    pub(super) fn len(&self, path: &str) -> Option<u64> {
        Some(self.root.metadata(path).ok()?.len())
    }

    pub(super) fn os_release(&self) -> Option<Os> {
        let text = self.text("/etc/os-release").or_else(|| self.text("/usr/lib/os-release"))?;
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.map(|v| printable(v.trim().trim_matches(['"', '\'']))).unwrap_or_default()
        };
        let (id, version, name) = (value("ID"), value("VERSION_ID"), value("PRETTY_NAME"));
        let name = if name.is_empty() { format!("{id} {version}").trim().to_owned() } else { name };
        Some(Os { id, version, name })
    }
}

fn text(fs: &Ext4, path: &str) -> Option<String> {
    let mut file = fs.open(path).ok()?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while bytes.len() < MOST_TEXT {
        match file.read_bytes(&mut piece).ok()? {
            0 => break,
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
