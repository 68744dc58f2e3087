//! The staging file of a page blob: pages that were written or cleared since the blob was last settled.
//!
//! ```text
//! staging/ID.pages   the bytes, sparse, at their own offsets
//! staging/ID.map     two bits a page of 512 bytes: 00 as below, 01 written, 10 cleared
//! ```
//! Bytes are written before the map names them. A process that is killed in between has answered nobody, and the pages
//! show what was there before. Sync; callers are on blocking threads.

use crate::blobs::punch;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub(super) const PAGE: u64 = 512;
const PAGES_A_BYTE: u64 = 4;
/// Map bytes taken at a time: 128 MiB of the blob.
const MAP_WINDOW: u64 = 64 << 10;

/// Where a page's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Below,
    Written,
    Cleared,
}

impl Page {
    fn bits(self) -> u8 {
        match self {
            Self::Below => 0b00,
            Self::Written => 0b01,
            Self::Cleared => 0b10,
        }
    }

    fn of(bits: u8) -> Self {
        match bits & 0b11 {
            0b01 => Self::Written,
            0b10 => Self::Cleared,
            _ => Self::Below,
        }
    }
}

pub(super) struct Overlay {
    pages: File,
    map: File,
    /// Neighbouring pages share a byte of the map.
    marking: Mutex<()>,
}

pub(super) fn paths(folder: &Path, id: &str) -> [PathBuf; 2] {
    [folder.join(format!("{id}.pages")), folder.join(format!("{id}.map"))]
}

impl Overlay {
    /// Opens the files; with `new` makes them. Files that are missing else were settled meanwhile.
    pub fn open(folder: &Path, id: &str, new: bool) -> io::Result<Self> {
        if new {
            std::fs::create_dir_all(folder)?;
        }
        let open = |path: &PathBuf| File::options().read(true).write(true).create(new).truncate(false).open(path);
        let [pages, map] = &paths(folder, id);
        Ok(Self { pages: open(pages)?, map: open(map)?, marking: Mutex::default() })
    }

    /// Whole pages.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.pages.write_all_at(data, offset)?;
        self.mark(offset..offset + data.len() as u64, Page::Written)
    }

    /// Whole pages, which read as zeros from now on.
    pub fn clear(&self, range: Range<u64>) -> io::Result<()> {
        self.mark(range.clone(), Page::Cleared)?;
        // What is behind the file's end needs no hole.
        let end = range.end.min(self.pages.metadata()?.len());
        if range.start < end { punch(&self.pages, range.start, end - range.start) } else { Ok(()) }
    }

    fn mark(&self, range: Range<u64>, page: Page) -> io::Result<()> {
        let _marking = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = range.start / PAGE..range.end / PAGE;
        let mut at = pages.start;
        while at < pages.end {
            let first = at / PAGES_A_BYTE;
            let end = pages.end.min((first + MAP_WINDOW) * PAGES_A_BYTE);
            let mut bytes = self.map_bytes(first..end.div_ceil(PAGES_A_BYTE))?;
            for page_number in at..end {
                let byte = usize::try_from(page_number / PAGES_A_BYTE - first).unwrap_or(0);
                let shift = (page_number % PAGES_A_BYTE) * 2;
                bytes[byte] = bytes[byte] & !(0b11 << shift) | page.bits() << shift;
            }
            self.map.write_all_at(&bytes, first)?;
            at = end;
        }
        Ok(())
    }

    /// Bytes of the map; zeros beyond its end.
    fn map_bytes(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.map.read_at(&mut bytes[filled..], range.start + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(bytes)
    }

    /// What `range` (whole pages) consists of, from its start on; neighbours differ. At most `MAP_WINDOW` of the map is
    /// looked at: the last run may end before the range does.
    pub fn runs(&self, range: Range<u64>) -> io::Result<Vec<(Range<u64>, Page)>> {
        let start = range.start / PAGE;
        let first = start / PAGES_A_BYTE;
        // A part of the map that was never written says nothing of any page.
        let data = match rustix::fs::seek(&self.map, rustix::fs::SeekFrom::Data(first)) {
            Ok(at) => at.max(first),
            Err(rustix::io::Errno::NXIO) => return Ok(vec![(range, Page::Below)]),
            Err(_) => first,
        };
        let below = (data * PAGES_A_BYTE * PAGE).min(range.end);
        let mut runs: Vec<(Range<u64>, Page)> = Vec::new();
        if below > range.start {
            runs.push((range.start..below, Page::Below));
        }
        if below == range.end {
            return Ok(runs);
        }
        let from = (data * PAGES_A_BYTE).max(start);
        let to = range.end.div_ceil(PAGE).min((data + MAP_WINDOW) * PAGES_A_BYTE);
        let bytes = self.map_bytes(data..to.div_ceil(PAGES_A_BYTE))?;
        for number in from..to {
            let byte = bytes[usize::try_from(number / PAGES_A_BYTE - data).unwrap_or(0)];
            let page = Page::of(byte >> ((number % PAGES_A_BYTE) * 2));
            let (at, end) = (number * PAGE, ((number + 1) * PAGE).min(range.end));
            match runs.last_mut() {
                Some((last, kind)) if *kind == page => last.end = end,
                _ => runs.push((at..end, page)),
            }
        }
        Ok(runs)
    }

    /// Bytes of written pages; what the file does not have reads as zeros.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.pages.read_at(&mut buf[filled..], offset + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        buf[filled..].fill(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_runs(overlay: &Overlay, pages: u64) -> Vec<Page> {
        let (mut at, mut found) = (0, Vec::new());
        while at < pages * PAGE {
            for (range, page) in overlay.runs(at..pages * PAGE).unwrap() {
                assert_eq!(range.start, at);
                found.extend((range.start / PAGE..range.end / PAGE).map(|_| page));
                at = range.end;
            }
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        /// The map says what was last done to each page, and written pages hold their bytes.
        #[test]
        fn remembers_every_page(steps in prop::collection::vec((0_u64..60, 1_u64..20, any::<bool>()), 1..30)) {
            let dir = tempfile::tempdir().unwrap();
            let mut expected = vec![(Page::Below, 0_u8); 80];
            {
                let overlay = Overlay::open(dir.path(), "x", true).unwrap();
                for (n, (start, len, write)) in steps.into_iter().enumerate() {
                    let byte = u8::try_from(n + 1).unwrap();
                    if write {
                        let bytes = vec![byte; usize::try_from(len * PAGE).unwrap()];
                        overlay.write(start * PAGE, &bytes).unwrap();
                    } else {
                        overlay.clear(start * PAGE..(start + len) * PAGE).unwrap();
                    }
                    for page in start..start + len {
                        let state = if write { (Page::Written, byte) } else { (Page::Cleared, 0) };
                        expected[usize::try_from(page).unwrap()] = state;
                    }
                }
            }
            let overlay = Overlay::open(dir.path(), "x", false).unwrap();
            let pages: Vec<Page> = expected.iter().map(|(page, _)| *page).collect();
            prop_assert_eq!(all_runs(&overlay, 80), pages);
            for (number, (page, byte)) in expected.into_iter().enumerate() {
                if page != Page::Below {
                    let mut bytes = [9; 512];
                    overlay.read(number as u64 * PAGE, &mut bytes).unwrap();
                    prop_assert_eq!(bytes, [byte; 512]);
                }
            }
        }
    }

    /// Far apart pages are found without walking over the hole between them.
    #[test]
    fn a_large_blob_is_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let overlay = Overlay::open(dir.path(), "x", true).unwrap();
        let far = 4 << 40;
        overlay.write(far, &[7; 512]).unwrap();
        let runs = overlay.runs(0..far + PAGE).unwrap();
        assert_eq!(runs.last().unwrap(), &(far..far + PAGE, Page::Written));
        assert!(std::fs::metadata(dir.path().join("x.map")).unwrap().len() > 1 << 30);
    }
}
