//! What a machine reads of its image when it starts, in order: recorded at the first start, fetched ahead at later ones. A start
//! that follows an old trace is recorded again, in its place: machines of other sizes start otherwise. A trace that was recorded
//! elsewhere may be taken over, so that the first start here fetches ahead already.
//!
//! ```text
//! DIR/<manifest, 64 hexadecimal digits>
//!   magic "LZTRACE\x02", count u32, places u32..., BLAKE3 of all before [u8; 32], zeros to a multiple of 512
//!                                    └─ a place: 16 KiB of the disk, by number
//! ```
//! One machine after another starts from an image in nearly the same way, so what one read is what the next will read: a
//! store that is far away is asked for it in few large reads, ahead of the machine, instead of in many small ones while it
//! waits. It is a hint: a trace that is missing, damaged or wrong costs time and nothing else.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::watch;

use crate::error::Result;
use crate::id::ManifestId;
use crate::reader::{DiskExtent, DiskReader};

const MAGIC: &[u8; 8] = b"LZTRACE\x02";
/// A trace is as long as a disk may be, so that a content store takes it.
const SECTOR: usize = 512;
const PLACE: u64 = 16 << 10;
/// A trace is no longer than this, 512 MiB...
const PLACES: usize = 32_768;
/// ...nor is a start.
const START: Duration = Duration::from_secs(120);
/// Fewer were no start.
const LEAST: usize = 64;
/// Who begins elsewhere than a start does is not starting.
const BEGINNING: usize = 1024;
/// A trace of this age is replaced by the next start that follows it.
const OLD: Duration = Duration::from_hours(7 * 24);
/// Traces that are kept, the newest.
const KEPT: usize = 256;
/// So many places are fetched at a time, and so many such batches at once.
const BATCH: usize = 128;
const PARALLEL: usize = 3;

/// A folder of traces, one an image; clones share it.
#[derive(Debug, Clone)]
pub struct Traces(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    /// What is being recorded.
    recording: Mutex<HashMap<ManifestId, Weak<Recorder>>>,
}

impl Traces {
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self(Arc::new(Folder { dir: dir.to_owned(), recording: Mutex::default() })))
    }

    /// How many bytes of a disk a trace names. `None`: it is no trace, or a damaged one.
    pub fn covers(trace: &[u8]) -> Option<u64> {
        parse(trace).map(|places| places.len() as u64 * PLACE)
    }

    /// The reader, which fetches ahead as the image's trace says, and records it if there is none or an old one.
    pub fn follow(&self, reader: DiskReader) -> TracedReader {
        let file = self.file(reader.manifest());
        let plays = self.kept(reader.manifest()).map(Player::new);
        let is_old =
            || fs::metadata(&file).and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|age| age > OLD));
        let records = plays.is_none() || is_old();
        self.reader(reader, plays, records)
    }

    /// The reader, which fetches nothing ahead, of a store that is near: it records the image's trace if there is none.
    pub fn record(&self, reader: DiskReader) -> TracedReader {
        let records = !self.knows(reader.manifest());
        self.reader(reader, None, records)
    }

    fn reader(&self, reader: DiskReader, plays: Option<Player>, records: bool) -> TracedReader {
        let manifest = reader.manifest();
        let records = records.then(|| {
            let follows = plays.as_ref().map(|player| Arc::clone(&player.started));
            Arc::new(Recorder { traces: self.clone(), manifest, follows, seen: Mutex::default() })
        });
        if let Some(recorder) = &records {
            let mut recording = self.0.recording.lock().unwrap_or_else(PoisonError::into_inner);
            recording.retain(|_, other| other.strong_count() > 0);
            recording.insert(manifest, Arc::downgrade(recorder));
        }
        TracedReader(Arc::new(Shared { reader, plays, records }))
    }

    /// The image's trace: of the start that is being recorded, as far as it is, or the one that is kept.
    pub fn of(&self, manifest: ManifestId) -> Option<Vec<u8>> {
        let recorder = {
            let recording = self.0.recording.lock().unwrap_or_else(PoisonError::into_inner);
            recording.get(&manifest).and_then(Weak::upgrade)
        };
        let running = recorder.and_then(|recorder| {
            let seen = recorder.seen();
            recorder.is_start(&seen.order).then(|| encode(&seen.order))
        });
        running.or_else(|| self.kept(manifest).map(|places| encode(&places)))
    }

    /// The places of the trace that is kept here, if it is whole.
    fn kept(&self, manifest: ManifestId) -> Option<Vec<u32>> {
        fs::read(self.file(manifest)).ok().and_then(|bytes| parse(&bytes))
    }

    /// Whether a trace of the image is kept here.
    pub fn knows(&self, manifest: ManifestId) -> bool {
        self.kept(manifest).is_some()
    }

    /// Keeps a trace that was recorded elsewhere, for the next [`Traces::follow`] of the image.
    ///
    /// # Errors
    /// `InvalidData` if it is no trace; what the folder says.
    pub fn take_over(&self, manifest: ManifestId, trace: &[u8]) -> io::Result<()> {
        let places = parse(trace).ok_or(io::ErrorKind::InvalidData)?;
        self.write(manifest, &places)
    }

    fn file(&self, manifest: ManifestId) -> PathBuf {
        self.0.dir.join(manifest.to_string())
    }

    fn write(&self, manifest: ManifestId, places: &[u32]) -> io::Result<()> {
        let file = self.file(manifest);
        let staged = file.with_extension(std::process::id().to_string());
        fs::write(&staged, encode(places))?;
        fs::rename(&staged, &file)?;
        let mut all: Vec<_> = fs::read_dir(&self.0.dir)?.flatten().collect();
        all.sort_by_key(|f| f.metadata().and_then(|m| m.modified()).ok());
        let excess = all.len().saturating_sub(KEPT);
        all[..excess].iter().try_for_each(|f| fs::remove_file(f.path()))
    }
}

/// A [`DiskReader`] with a trace; clones share it.
#[derive(Clone)]
pub struct TracedReader(Arc<Shared>);

struct Shared {
    reader: DiskReader,
    plays: Option<Player>,
    records: Option<Arc<Recorder>>,
}

/// A reader without a trace.
impl From<DiskReader> for TracedReader {
    fn from(reader: DiskReader) -> Self {
        Self(Arc::new(Shared { reader, plays: None, records: None }))
    }
}

impl TracedReader {
    /// As [`DiskReader::size`].
    pub fn size(&self) -> u64 {
        self.0.reader.size()
    }

    /// As [`DiskReader::read_at`].
    ///
    /// # Errors
    /// As there.
    pub async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let places = places_of(offset, buf.len() as u64);
        if let Some(player) = &self.0.plays {
            player.advance(&places, &self.0.reader);
        }
        if let Some(recorder) = &self.0.records {
            recorder.note(&places);
        }
        self.0.reader.read_at(offset, buf).await
    }

    /// As [`DiskReader::extents`].
    ///
    /// # Errors
    /// As there.
    pub async fn extents(&self, offset: u64, len: u64) -> Result<Vec<DiskExtent>> {
        self.0.reader.extents(offset, len).await
    }

    /// Whether everything that the trace names has been asked for, and the store has answered.
    pub fn fetched_ahead(&self) -> bool {
        self.0.plays.as_ref().is_some_and(|player| player.fetched.load(Ordering::Acquire))
    }
}

fn places_of(offset: u64, len: u64) -> Range<u32> {
    let place = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    place(offset / PLACE)..place((offset + len).div_ceil(PLACE))
}

/// Writes the trace when a start is over, or when nobody reads any more.
#[derive(Debug)]
struct Recorder {
    traces: Traces,
    manifest: ManifestId,
    /// Whether the machine follows the trace that is there, if one is: nothing but such a start may replace it.
    follows: Option<Arc<AtomicBool>>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    since: Option<Instant>,
    order: Vec<u32>,
    known: std::collections::HashSet<u32>,
    written: bool,
}

impl Recorder {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether who read these was starting.
    fn is_start(&self, places: &[u32]) -> bool {
        let follows = self.follows.as_ref().is_none_or(|started| started.load(Ordering::Relaxed));
        places.len() >= LEAST && follows
    }

    fn note(&self, places: &Range<u32>) {
        let mut seen = self.seen();
        if seen.written {
            return;
        }
        let over = seen.since.get_or_insert_with(Instant::now).elapsed() > START;
        if over || seen.order.len() >= PLACES {
            return self.write(&mut seen);
        }
        for place in places.clone() {
            if seen.known.insert(place) {
                seen.order.push(place);
            }
        }
    }

    fn write(&self, seen: &mut Seen) {
        seen.written = true;
        seen.known = Default::default();
        let places = std::mem::take(&mut seen.order);
        if !self.is_start(&places) {
            return;
        }
        // Some KiB; the reader that happens to be here waits for no disk.
        if let Err(error) = self.traces.write(self.manifest, &places) {
            tracing::warn!(manifest = %self.manifest, %error, "the trace of a start could not be written");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut seen = std::mem::take(self.seen.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !seen.written {
            self.write(&mut seen);
        }
    }
}

/// Keeps what comes next in memory.
struct Player {
    places: Arc<Vec<u32>>,
    /// Where each place stands in the trace.
    order: HashMap<u32, usize>,
    /// How far the machine is; closed when nobody reads any more.
    at: watch::Sender<usize>,
    started: Arc<AtomicBool>,
    fetched: Arc<AtomicBool>,
}

impl Player {
    fn new(places: Vec<u32>) -> Self {
        let order = places.iter().copied().enumerate().map(|(i, place)| (place, i)).collect();
        Self {
            places: Arc::new(places),
            order,
            at: watch::Sender::new(0),
            started: Arc::default(),
            fetched: Arc::default(),
        }
    }

    fn advance(&self, read: &Range<u32>, reader: &DiskReader) {
        let Some(reached) = read.clone().filter_map(|place| self.order.get(&place)).max().copied() else { return };
        let first = reached < BEGINNING && !self.started.swap(true, Ordering::Relaxed);
        self.at.send_if_modified(|at| {
            let further = reached > *at;
            *at = reached.max(*at);
            further
        });
        if first {
            let (fetched, all) = (Arc::clone(&self.fetched), Arc::clone(&self.places));
            let fetch = fetch_ahead(reader.clone(), all, self.at.subscribe());
            tokio::spawn(async move {
                fetch.await;
                fetched.store(true, Ordering::Release);
            });
        }
    }
}

/// Fetches along the trace, never further ahead of the machine than a quarter of the memory that caches it.
async fn fetch_ahead(reader: DiskReader, places: Arc<Vec<u32>>, at: watch::Receiver<usize>) {
    let window = usize::try_from(reader.cache_bytes() / 4 / PLACE).unwrap_or(usize::MAX).max(BATCH);
    let batches = (0..places.len()).step_by(BATCH);
    let fetches = futures::stream::iter(batches).map(|first| {
        let (reader, places, mut at) = (reader.clone(), Arc::clone(&places), at.clone());
        async move {
            let near = at.wait_for(|at| first <= at + window).await.is_ok();
            if !near {
                return;
            }
            let end = (first + BATCH).min(places.len());
            let ranges = places[first..end].iter().map(|place| {
                let start = u64::from(*place) * PLACE;
                start..(start + PLACE).min(reader.size())
            });
            // Whoever reads it will meet the error again and tell it.
            let _ = reader.prefetch(ranges.filter(|r| !r.is_empty()).collect()).await;
        }
    });
    fetches.buffered(PARALLEL).for_each(|()| async {}).await;
}

fn encode(places: &[u32]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let count = u32::try_from(places.len()).unwrap_or(u32::MAX);
    out.extend(count.to_le_bytes());
    places.iter().for_each(|place| out.extend(place.to_le_bytes()));
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out.resize(out.len().next_multiple_of(SECTOR), 0);
    out
}

fn parse(bytes: &[u8]) -> Option<Vec<u32>> {
    let (count, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > 2 * PLACES {
        return None;
    }
    let (places, rest) = rest.split_at_checked(count * 4)?;
    let (hash, padding) = rest.split_first_chunk::<32>()?;
    let whole = blake3::hash(&bytes[..MAGIC.len() + 4 + places.len()]) == *hash
        && bytes.len().is_multiple_of(SECTOR)
        && padding.len() < SECTOR
        && padding.iter().all(|byte| *byte == 0);
    whole.then(|| places.chunks_exact(4).map(|p| u32::from_le_bytes([p[0], p[1], p[2], p[3]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn traces_round_trip_and_damage_is_noticed(places in proptest::collection::vec(any::<u32>(), 0..200), at: usize, flip in 1u8..) {
            let mut bytes = encode(&places);
            prop_assert_eq!(parse(&bytes), Some(places));
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert_eq!(parse(&bytes), None);
        }
    }

    #[test]
    fn reads_touch_the_places_that_they_overlap() {
        assert_eq!(places_of(0, 1), 0..1);
        assert_eq!(places_of(16_383, 2), 0..2);
        assert_eq!(places_of(16_384, 16_384), 1..2);
    }
}
