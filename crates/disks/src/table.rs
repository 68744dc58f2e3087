//! Reading the tables of an image's format: in pages, through a small cache, never beyond the file's end. Memory stays the
//! same whatever a table claims to be.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 64 << 10;
/// Pages in memory.
const CACHED: usize = 64;

/// No disk here is larger: twice the largest anybody may have. Bounds every walk over a disk.
pub(crate) const MAX_DISK: u64 = 64 << 40;

/// A run of data is told in pieces of about this size.
pub(crate) const MAX_RUN: u64 = 64 << 20;

/// A file whose tables are read again and again.
#[derive(Debug)]
pub(crate) struct Tables {
    file: File,
    len: u64,
    /// The pages used last, the latest at the end.
    pages: Mutex<Vec<(u64, Arc<[u8]>)>>,
}

impl Tables {
    pub(crate) fn new(mut file: File) -> io::Result<Self> {
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, len, pages: Mutex::default() })
    }

    /// The file's length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether `len` bytes at `offset` are all in the file.
    pub(crate) fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Bytes that are looked at once: past the cache.
    pub(crate) fn read_data(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Bytes of a table.
    pub(crate) fn read(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let page = self.page(offset)?;
            let rest = page.get(within(offset)..).filter(|rest| !rest.is_empty());
            let rest =
                rest.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "a table ends beyond the file"))?;
            let (part, left) = buf.split_at_mut(rest.len().min(buf.len()));
            part.copy_from_slice(&rest[..part.len()]);
            offset += part.len() as u64;
            buf = left;
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&self, offset: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The page in which `offset` lies, shorter at the file's end.
    pub(crate) fn page(&self, offset: u64) -> io::Result<Arc<[u8]>> {
        let start = offset - offset % PAGE;
        if let Some(page) = self.cached(start) {
            return Ok(page);
        }
        let len = usize::try_from(PAGE.min(self.len.saturating_sub(start))).unwrap_or_default();
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, start)?;
        let page: Arc<[u8]> = bytes.into();
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|(at, _)| *at != start);
        if pages.len() >= CACHED {
            pages.remove(0);
        }
        pages.push((start, Arc::clone(&page)));
        Ok(page)
    }

    fn cached(&self, start: u64) -> Option<Arc<[u8]>> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let at = pages.iter().rposition(|(s, _)| *s == start)?;
        pages[at..].rotate_left(1);
        pages.last().map(|(_, page)| Arc::clone(page))
    }
}

/// Where `offset` is in its page.
pub(crate) fn within(offset: u64) -> usize {
    usize::try_from(offset % PAGE).unwrap_or_default()
}

/// Checks that a read stays on the disk.
pub(crate) fn check_read(offset: u64, len: usize, size: u64) -> io::Result<()> {
    let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
    if end.is_none_or(|end| end > size) {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read beyond the end of the disk"));
    }
    Ok(())
}

/// Cuts `buf`, which is read at `offset`, where units of `unit` bytes end: `(unit's index, offset in it, part)`.
pub(crate) fn by_unit(
    offset: u64,
    buf: &mut [u8],
    unit: u64,
    mut each: impl FnMut(u64, u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut at, mut rest) = (offset, buf);
    while !rest.is_empty() {
        let inside = at % unit;
        let take = usize::try_from(unit - inside).unwrap_or(usize::MAX).min(rest.len());
        let (part, left) = rest.split_at_mut(take);
        each(at / unit, inside, part)?;
        at += take as u64;
        rest = left;
    }
    Ok(())
}

/// Bytes that an image brings to be shown to people: no control characters, not endless.
pub(crate) fn printable(text: &str) -> String {
    const MOST: usize = 200;
    let shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() { format!("{shown}…") } else { shown }
}
