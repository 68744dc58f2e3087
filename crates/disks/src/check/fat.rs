//! FAT12, 16 and 32, read as far as an EFI system partition needs: directories by their short names, never a file's content.

use crate::fields::{le_u16, le_u32};
use std::io;

use super::Partition;
use crate::DiskSource;

/// Entries of a directory that are looked at.
const MOST_ENTRIES: usize = 4096;
const ENTRY: usize = 32;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
const VOLUME: u8 = 0x08;

/// A directory's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Upper case, e.g. `BOOTX64.EFI`.
    pub name: String,
    pub is_directory: bool,
    pub len: u32,
    cluster: u32,
}

/// A FAT file system in a partition.
pub struct Fat<'a> {
    disk: &'a dyn DiskSource,
    /// Where the volume is, in bytes; so are all places below.
    start: u64,
    len: u64,
    /// The first table, from the volume's start.
    table: u64,
    /// The root directory of FAT12 and FAT16, and its entries.
    fixed_root: (u64, u64),
    /// Its first cluster in FAT32.
    root_cluster: u32,
    data: u64,
    cluster: u64,
    clusters: u32,
    bits: u32,
}

impl<'a> Fat<'a> {
    /// `None`: it is not one, or not a sound one.
    pub fn open(disk: &'a dyn DiskSource, partition: &Partition) -> io::Result<Option<Self>> {
        let mut boot = [0; 512];
        if partition.len < 512 {
            return Ok(None);
        }
        disk.read_at(partition.start, &mut boot)?;
        Ok(Self::parse(disk, partition, &boot))
    }

    fn parse(disk: &'a dyn DiskSource, partition: &Partition, boot: &[u8; 512]) -> Option<Self> {
        let u16_at = |at: usize| u64::from(le_u16(boot, at));
        let u32_at = |at: usize| le_u32(boot, at);
        let (sector, per_cluster) = (u16_at(11), u64::from(boot[13]));
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !per_cluster.is_power_of_two() {
            return None;
        }
        let (reserved, tables, root_entries) = (u16_at(14), u64::from(boot[16]), u16_at(17));
        let or = |short: u64, long: u32| if short == 0 { u64::from(long) } else { short };
        let (sectors, table_sectors) = (or(u16_at(19), u32_at(32)), or(u16_at(22), u32_at(36)));
        let root_sectors = (root_entries * ENTRY as u64).div_ceil(sector);
        let before = reserved + tables * table_sectors + root_sectors;
        let clusters = u32::try_from(sectors.checked_sub(before)? / per_cluster).ok()?;
        let bits = match clusters {
            ..4085 => 12,
            4085..65525 => 16,
            _ => 32,
        };
        if reserved == 0 || sectors * sector > partition.len {
            return None;
        }
        Some(Self {
            disk,
            start: partition.start,
            len: partition.len,
            table: reserved * sector,
            fixed_root: ((reserved + tables * table_sectors) * sector, root_entries),
            root_cluster: u32_at(44),
            data: before * sector,
            cluster: per_cluster * sector,
            clusters,
            bits,
        })
    }

    /// The entries of a directory, named by its parts; `None`: there is none.
    pub fn list(&self, path: &[&str]) -> io::Result<Option<Vec<Entry>>> {
        let mut entries = self.root()?;
        for name in path {
            let Some(directory) = entries.into_iter().find(|e| e.is_directory && e.name.eq_ignore_ascii_case(name))
            else {
                return Ok(None);
            };
            entries = self.chain(directory.cluster)?;
        }
        Ok(Some(entries))
    }

    fn root(&self) -> io::Result<Vec<Entry>> {
        if self.bits == 32 {
            return self.chain(self.root_cluster);
        }
        let (at, count) = self.fixed_root;
        let mut raw = vec![0; usize::try_from(count).unwrap_or(0).min(MOST_ENTRIES) * ENTRY];
        self.read(at, &mut raw)?;
        let mut entries = Vec::new();
        parse_entries(&raw, &mut entries);
        Ok(entries)
    }

    /// The directory that begins in a cluster.
    fn chain(&self, first: u32) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut raw = vec![0; usize::try_from(self.cluster).unwrap_or_default()];
        let most = (MOST_ENTRIES * ENTRY).div_ceil(raw.len().max(1));
        let mut cluster = first;
        for _ in 0..most {
            if cluster < 2 || cluster - 2 >= self.clusters {
                break;
            }
            self.read(self.data + u64::from(cluster - 2) * self.cluster, &mut raw)?;
            if !parse_entries(&raw, &mut entries) {
                break;
            }
            cluster = self.next(cluster)?;
        }
        Ok(entries)
    }

    /// What follows in a chain: no cluster of the volume, where it ends.
    fn next(&self, cluster: u32) -> io::Result<u32> {
        let index = u64::from(cluster);
        let mut raw = [0; 4];
        Ok(match self.bits {
            12 => {
                self.read(self.table + index * 3 / 2, &mut raw[..2])?;
                let pair = u32::from(u16::from_le_bytes([raw[0], raw[1]]));
                if index % 2 == 0 { pair & 0xfff } else { pair >> 4 }
            }
            16 => {
                self.read(self.table + index * 2, &mut raw[..2])?;
                u32::from_le_bytes(raw)
            }
            _ => {
                self.read(self.table + index * 4, &mut raw)?;
                u32::from_le_bytes(raw) & 0x0fff_ffff
            }
        })
    }

    /// Within the partition; what the volume points to beyond it is zeros, of which nothing is made.
    fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        if at.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            buf.fill(0);
            return Ok(());
        }
        self.disk.read_at(self.start + at, buf)
    }
}

/// Says whether the directory goes on.
fn parse_entries(raw: &[u8], entries: &mut Vec<Entry>) -> bool {
    for entry in raw.chunks_exact(ENTRY) {
        let attributes = entry[11];
        match entry[0] {
            0 => return false,
            // Deleted, or `.` and `..`.
            0xe5 | b'.' => continue,
            _ if attributes & LONG_NAME == LONG_NAME || attributes & VOLUME != 0 => continue,
            _ => {}
        }
        if entries.len() >= MOST_ENTRIES {
            return false;
        }
        let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_uppercase();
        let (name, extension) = (part(&entry[..8]), part(&entry[8..11]));
        let high = u32::from(le_u16(entry, 20));
        let low = u32::from(le_u16(entry, 26));
        entries.push(Entry {
            name: if extension.is_empty() { name } else { format!("{name}.{extension}") },
            is_directory: attributes & DIRECTORY != 0,
            len: le_u32(entry, 28),
            // The upper half is something else in FAT12 and FAT16, where it is zero in practice.
            cluster: high << 16 | low,
        });
    }
    true
}
