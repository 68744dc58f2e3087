//! A stored disk as the fixed VHD that a download of it is: the disk's bytes from the content store, zeros where nothing is
//! stored, and a footer made on the spot. Never holds more than a few pieces of it.

use super::BlobError;
use super::conditions::{ContentHeaders, Properties};
use super::difference::Member;
use super::ranges::Ranges;
use bytes::Bytes;
use lazuli_chunks::DiskReader;
use lazuli_disks::vhd::FooterAppended;
use std::collections::BTreeMap;
use std::ops::Range;
use uuid::Uuid;

/// How much of a disk is asked for its extents at once.
const WINDOW: u64 = 4 << 30;

#[derive(Clone)]
pub(super) struct Export {
    region: String,
    /// May be shorter than the disk, which then ends with zeros.
    reader: DiskReader,
    file: FooterAppended,
    disk_size: u64,
    etag: String,
    created_ms: i64,
    /// Of an incremental snapshot.
    pub member: Option<Member>,
}

/// A stored disk as a copy of its blob takes it.
pub(crate) struct Exported {
    pub region: String,
    pub reader: DiskReader,
    /// Bytes of the manifest; zeros follow up to `size`.
    pub stored: u64,
    /// Of the disk, without its footer.
    pub size: u64,
    pub footer: Vec<u8>,
    pub properties: Properties,
    /// Key of the disk, which keeps the bytes.
    pub owner: String,
}

impl Export {
    /// `created_ms` goes into the footer: it must be the same for every request.
    pub fn new(
        region: String,
        reader: DiskReader,
        disk_size: u64,
        unique_id: Uuid,
        created_ms: i64,
    ) -> Result<Self, BlobError> {
        if reader.size() > disk_size {
            let text = format!("image {} has {} bytes, its disk {disk_size}", reader.manifest(), reader.size());
            return Err(BlobError::internal(text));
        }
        let file = FooterAppended::new(disk_size, unique_id, created_ms.div_euclid(1000));
        let etag = etag(&reader.manifest().to_string(), disk_size, unique_id);
        Ok(Self { region, reader, file, disk_size, etag, created_ms, member: None })
    }

    pub fn exported(&self, owner: String) -> Exported {
        let footer = self.file.split(self.disk_size..self.file.file_len()).1.to_vec();
        Exported {
            region: self.region.clone(),
            stored: self.reader.size(),
            reader: self.reader.clone(),
            size: self.disk_size,
            footer,
            properties: self.properties(),
            owner,
        }
    }

    pub fn properties(&self) -> Properties {
        Properties {
            size: self.file.file_len(),
            etag: self.etag.clone(),
            modified_ms: self.created_ms,
            sequence: 0,
            headers: ContentHeaders::default(),
            metadata: BTreeMap::new(),
        }
    }

    pub fn reader(&self) -> &DiskReader {
        &self.reader
    }

    /// Without the footer.
    pub fn disk_size(&self) -> u64 {
        self.disk_size
    }

    /// `range` is within the blob.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, BlobError> {
        let (disk, footer) = self.file.split(range.clone());
        let length = |r: &Range<u64>| usize::try_from(r.end - r.start).map_err(BlobError::internal);
        let mut bytes = vec![0; length(&range)?];
        let stored = disk.start..disk.end.min(self.reader.size());
        if !stored.is_empty() {
            let length = length(&stored)?;
            self.reader.read_at(stored.start, &mut bytes[..length]).await.map_err(BlobError::of_chunks)?;
        }
        let from = bytes.len() - footer.len();
        bytes[from..].copy_from_slice(footer);
        Ok(bytes.into())
    }

    pub async fn page_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, BlobError> {
        let mut ranges = Ranges::new();
        let end = range.end.min(self.reader.size());
        let mut at = range.start;
        while at < end {
            let window = WINDOW.min(end - at);
            for extent in self.reader.extents(at, window).await.map_err(BlobError::of_chunks)? {
                if !extent.hole {
                    ranges.push(at..at + extent.len);
                }
                at += extent.len;
            }
        }
        ranges.push(range.start.max(self.disk_size)..range.end.max(self.disk_size));
        Ok(ranges.into_vec())
    }
}

/// The same bytes have the same tag.
fn etag(manifest: &str, size: u64, unique_id: Uuid) -> String {
    let text = format!("{manifest} {size} {unique_id}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let hex = hex::encode_upper(digest.as_ref());
    format!("0x8D{}", &hex[..13])
}
