//! A disk's bytes (or those of an [`ImageFile`](super::ImageFile)) into a file, on several threads, leaving out holes and zeros.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use crate::DiskSource;

/// Bytes that a thread takes at a time.
const PART: u64 = 4 << 20;
/// Zeros are left out in pieces of this size.
const PIECE: usize = 64 << 10;

/// Makes `file`, which must be empty, the bytes of `source`. `progress` is told how far the copy is, in bytes of `source`, holes
/// included.
///
/// # Errors
/// The first error of reading or writing.
pub fn to_file(
    source: &dyn DiskSource,
    file: &File,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<()> {
    file.set_len(source.size())?;
    let parts = Mutex::new(Parts { source, at: 0, data: 0..0 });
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads.max(1)).map(|_| scope.spawn(|| work(&parts, source, file, progress))).collect();
        let mut result = Ok(());
        for worker in workers {
            let ended = worker.join().unwrap_or_else(|_| Err(io::Error::other("a copying thread panicked")));
            result = result.and(ended);
        }
        result
    })?;
    progress(source.size());
    file.sync_all()
}

struct Parts<'a> {
    source: &'a dyn DiskSource,
    at: u64,
    data: Range<u64>,
}

impl Parts<'_> {
    fn next(&mut self) -> io::Result<Option<Range<u64>>> {
        if self.data.is_empty() {
            let Some(data) = self.source.next_data(self.at)? else { return Ok(None) };
            self.data = data;
        }
        // Whole parts where data is long, so that what is read and written is aligned.
        let end = ((self.data.start / PART + 1) * PART).min(self.data.end);
        let part = self.data.start..end;
        self.data.start = end;
        self.at = end;
        Ok(Some(part))
    }
}

fn work(
    parts: &Mutex<Parts<'_>>,
    source: &dyn DiskSource,
    file: &File,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<()> {
    let mut buf = vec![0; usize::try_from(PART).unwrap_or_default()];
    loop {
        let next = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        let part = match next {
            Ok(Some(part)) => part,
            Ok(None) => return Ok(()),
            Err(error) => {
                // The others need not go on.
                let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
                parts.at = source.size();
                parts.data = 0..0;
                return Err(error);
            }
        };
        let bytes = &mut buf[..usize::try_from(part.end - part.start).unwrap_or_default()];
        source.read_at(part.start, bytes)?;
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            if piece.iter().any(|b| *b != 0) {
                file.write_all_at(piece, part.start + (i * PIECE) as u64)?;
            }
        }
        progress(part.end);
    }
}
