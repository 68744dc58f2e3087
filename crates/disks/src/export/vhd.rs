//! VHDs: the fixed one of Azure, and the dynamic one, which leaves out blocks of 2 MiB. Drawn at [`crate::vhd`].

use std::sync::Arc;

use super::units::Units;
use super::{ExportError, Identity, ImageFile, read_to_end};
use crate::DiskSource;
use crate::raw::SECTOR;
use crate::vhd::{FOOTER_LEN, Footer, SIZE_UNIT, dynamic};

const BLOCK: u64 = 2 << 20;
/// A bit for each of 4096 sectors.
const BITMAP: u64 = 512;
/// What Windows takes: the table's entries count sectors in 32 bits.
const MOST: u64 = 2040 << 30;

pub(super) fn fixed(disk: Arc<dyn DiskSource>, identity: Identity) -> ImageFile {
    let size = disk.size().next_multiple_of(SIZE_UNIT);
    let padding = size - disk.size();
    let footer = Footer::fixed(size, identity.id, identity.created).to_bytes();
    ImageFile::empty().with_disk(disk).with_zeros(padding).with_bytes(footer.to_vec(), SECTOR)
}

pub(super) fn dynamic(disk: Arc<dyn DiskSource>, identity: Identity) -> Result<ImageFile, ExportError> {
    let size = disk.size().next_multiple_of(SIZE_UNIT);
    let blocks = size.div_ceil(BLOCK);
    let entries = u32::try_from(blocks).ok().filter(|_| size <= MOST);
    let entries = entries.ok_or(ExportError::TooLarge { format: "dynamic VHD", size, most: MOST })?;
    let units = Arc::new(Units::of(&*disk, BLOCK)?);
    let table = FOOTER_LEN + dynamic::HEADER_LEN as u64;
    let first = table + (blocks * 4).next_multiple_of(SECTOR);
    let footer = Footer::dynamic(FOOTER_LEN, size, identity.id, identity.created).to_bytes();
    let (data, stride, ranks) = (units.count, BITMAP + BLOCK, Arc::clone(&units));
    let place = move |block: u64| {
        let sector = ranks.rank(block).and_then(|rank| u32::try_from((first + rank * stride) / SECTOR).ok());
        sector.unwrap_or(dynamic::UNUSED).to_be_bytes()
    };
    let fill = move |at: u64, buf: &mut [u8]| {
        crate::table::by_unit(at, buf, stride, |rank, inside, part| {
            let bitmap = usize::try_from(BITMAP.saturating_sub(inside)).unwrap_or(0).min(part.len());
            let (bits, bytes) = part.split_at_mut(bitmap);
            bits.fill(0xff);
            let block = units.nth(rank).unwrap_or(0);
            read_to_end(&*disk, block * BLOCK + (inside + bitmap as u64).saturating_sub(BITMAP), bytes)
        })
    };
    Ok(ImageFile::empty()
        .with_bytes(footer.to_vec(), SECTOR)
        .with_bytes(dynamic::header(table, entries, u32::try_from(BLOCK).unwrap_or(u32::MAX)).to_vec(), SECTOR)
        .with_table(blocks, SECTOR, place)
        .with(data * stride, Box::new(fill), None)
        .with_bytes(footer.to_vec(), SECTOR))
}
