//! VHDX, dynamic, with blocks of 1 MiB (what Microsoft advises for Linux guests). Drawn at [`crate::vhdx`].

use std::sync::Arc;

use uuid::Uuid;

use super::units::Units;
use super::{ExportError, Identity, ImageFile, read_to_end};
use crate::DiskSource;
use crate::crc::crc32c;
use crate::table::MAX_DISK;
use crate::vhdx::{
    BAT, DISK_SIZE, FILE_PARAMETERS, HEADER_LEN, HEADERS, LOGICAL_SECTOR, METADATA, MIB, PAGE_83, PHYSICAL_SECTOR,
    REGION_TABLES, TABLE_LEN, chunk_ratio, state,
};

const BLOCK: u64 = MIB;
const LOGICAL: u32 = 512;
const PHYSICAL: u32 = 4096;
const LOG_AT: u64 = MIB;
const LOG_LEN: u32 = 1 << 20;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;

pub(super) fn plan(disk: Arc<dyn DiskSource>, identity: Identity) -> Result<ImageFile, ExportError> {
    let size = disk.size();
    if size > MAX_DISK {
        return Err(ExportError::TooLarge { format: "VHDX", size, most: MAX_DISK });
    }
    let units = Arc::new(Units::of(&*disk, BLOCK)?);
    let ratio = chunk_ratio(u64::from(LOGICAL), BLOCK);
    let blocks = size.div_ceil(BLOCK);
    let entries = blocks + blocks.saturating_sub(1) / ratio;
    let table_len = (entries * 8).next_multiple_of(MIB);
    let first = TABLE_AT + table_len;
    let (data, ranks) = (units.count, Arc::clone(&units));
    let entry = move |index: u64| {
        // After each `ratio` blocks comes a bitmap, which a disk without a parent has not.
        let (chunk, inside) = (index / (ratio + 1), index % (ratio + 1));
        let entry = if inside == ratio {
            state::NOT_PRESENT
        } else {
            ranks.rank(chunk * ratio + inside).map_or(state::ZERO, |rank| (first + rank * BLOCK) | state::PRESENT)
        };
        entry.to_le_bytes()
    };
    let fill = move |at: u64, buf: &mut [u8]| {
        crate::table::by_unit(at, buf, BLOCK, |rank, inside, part| {
            read_to_end(&*disk, units.nth(rank).unwrap_or(0) * BLOCK + inside, part)
        })
    };
    Ok(ImageFile::empty()
        .with_bytes(front(identity, u32::try_from(table_len).unwrap_or(u32::MAX)), MIB)
        .with_zeros(u64::from(LOG_LEN))
        .with_bytes(metadata(size, identity.id), MIB)
        .with_table(entries, MIB, entry)
        .with(data * BLOCK, Box::new(fill), None))
}

/// The first MiB: what it is, two headers, two region tables.
fn front(identity: Identity, table_len: u32) -> Vec<u8> {
    let mut raw = vec![0; 320 << 10];
    raw[..8].copy_from_slice(b"vhdxfile");
    for (i, c) in "Lazuli".encode_utf16().enumerate() {
        put(&mut raw, 8 + i * 2, &c.to_le_bytes());
    }
    for (at, sequence) in HEADERS.into_iter().zip(1_u64..) {
        let at = usize::try_from(at).unwrap_or(0);
        put(&mut raw, at + 8, &sequence.to_le_bytes());
        // Who wrote the file, and its data: any values that change when it is written again.
        put(&mut raw, at + 16, &identity.id.to_bytes_le());
        put(&mut raw, at + 32, &identity.id.to_bytes_le());
        put(&mut raw, at + 66, &1_u16.to_le_bytes());
        put(&mut raw, at + 68, &LOG_LEN.to_le_bytes());
        put(&mut raw, at + 72, &LOG_AT.to_le_bytes());
        sign(&mut raw[at..at + HEADER_LEN], *b"head");
    }
    for at in REGION_TABLES {
        let at = usize::try_from(at).unwrap_or(0);
        put(&mut raw, at + 8, &2_u32.to_le_bytes());
        let metadata_len = u32::try_from(MIB).unwrap_or(u32::MAX);
        for (i, (guid, place, len)) in
            [(BAT, TABLE_AT, table_len), (METADATA, METADATA_AT, metadata_len)].into_iter().enumerate()
        {
            let entry = at + 16 + i * 32;
            put(&mut raw, entry, &guid.to_bytes_le());
            put(&mut raw, entry + 16, &place.to_le_bytes());
            put(&mut raw, entry + 24, &len.to_le_bytes());
            put(&mut raw, entry + 28, &1_u32.to_le_bytes());
        }
        sign(&mut raw[at..at + TABLE_LEN], *b"regi");
    }
    raw
}

fn metadata(size: u64, id: Uuid) -> Vec<u8> {
    /// Who reads must know this item; it is about the disk, not the file.
    const REQUIRED: u32 = 4;
    const OF_DISK: u32 = 2 | REQUIRED;
    let block = u32::try_from(BLOCK).unwrap_or(u32::MAX);
    let mut parameters = block.to_le_bytes().to_vec();
    parameters.extend([0; 4]);
    let items: [(Uuid, Vec<u8>, u32); 5] = [
        (FILE_PARAMETERS, parameters, REQUIRED),
        (DISK_SIZE, size.to_le_bytes().to_vec(), OF_DISK),
        (PAGE_83, id.to_bytes_le().to_vec(), OF_DISK),
        (LOGICAL_SECTOR, LOGICAL.to_le_bytes().to_vec(), OF_DISK),
        (PHYSICAL_SECTOR, PHYSICAL.to_le_bytes().to_vec(), OF_DISK),
    ];
    let mut raw = vec![0; TABLE_LEN];
    raw[..8].copy_from_slice(b"metadata");
    put(&mut raw, 10, &5_u16.to_le_bytes());
    for (i, (guid, value, flags)) in items.into_iter().enumerate() {
        let (entry, place, len) = (32 + i * 32, raw.len(), value.len());
        put(&mut raw, entry, &guid.to_bytes_le());
        put(&mut raw, entry + 16, &u32::try_from(place).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut raw, entry + 20, &u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut raw, entry + 24, &flags.to_le_bytes());
        raw.extend(value);
    }
    raw
}

fn put(raw: &mut [u8], at: usize, bytes: &[u8]) {
    raw[at..at + bytes.len()].copy_from_slice(bytes);
}

fn sign(raw: &mut [u8], signature: [u8; 4]) {
    raw[..4].copy_from_slice(&signature);
    let crc = crc32c(raw);
    raw[4..8].copy_from_slice(&crc.to_le_bytes());
}
