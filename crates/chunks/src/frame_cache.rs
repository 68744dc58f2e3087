//! Frames of stores that are far away, kept in a local folder: bounded, and verified each time they are read.
//!
//! ```text
//! DIR/7f/7f03…   (the frame's name, 32 hexadecimal digits)   the frame's stored bytes
//! ```
//! The name is the frame's check, combined with what keeps its readers apart from others, if anything does.
//! A frame is named by what it is, so it does not matter which region or pack it came from, nor whether it is there: what
//! is missing, cut or damaged is fetched again. Nothing is synced. Must never: hand out bytes that their name does
//! not match, or let anybody wait for a write.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::pack::Check;

/// Frames being written at once; further ones are not kept.
const WRITES: usize = 8;

/// A folder of frames; clones share it. One process at a time keeps its bound.
#[derive(Clone)]
pub struct FrameCache {
    shared: Arc<Shared>,
    /// What checks are combined with.
    apart: [u8; 16],
}

/// Under which a frame is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name([u8; 16]);

struct Shared {
    dir: PathBuf,
    capacity: u64,
    held: Mutex<Held>,
    writes: Arc<Semaphore>,
    staged: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What is there, and in which order it was used last.
#[derive(Default)]
struct Held {
    frames: HashMap<Name, Entry>,
    by_use: BTreeMap<u64, Name>,
    bytes: u64,
    clock: u64,
}

struct Entry {
    len: u64,
    used: u64,
}

impl Held {
    fn touch(&mut self, name: Name) -> bool {
        self.clock += 1;
        let Some(entry) = self.frames.get_mut(&name) else { return false };
        self.by_use.remove(&entry.used);
        entry.used = self.clock;
        self.by_use.insert(self.clock, name);
        true
    }

    fn add(&mut self, name: Name, len: u64) {
        self.remove(name);
        self.clock += 1;
        self.frames.insert(name, Entry { len, used: self.clock });
        self.by_use.insert(self.clock, name);
        self.bytes += len;
    }

    fn remove(&mut self, name: Name) {
        if let Some(entry) = self.frames.remove(&name) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.len;
        }
    }

    /// Forgets what was used longest ago until `capacity` holds the rest.
    fn shrink(&mut self, capacity: u64) -> Vec<Name> {
        let mut gone = Vec::new();
        while self.bytes > capacity
            && let Some(name) = self.by_use.first_key_value().map(|(_, name)| *name)
        {
            self.remove(name);
            gone.push(name);
        }
        gone
    }
}

impl FrameCache {
    /// Opens the folder, or makes it; what it holds beyond `capacity` bytes is deleted, the oldest first.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path, capacity: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut found: Vec<(SystemTime, Name, u64)> = Vec::new();
        for folder in fs::read_dir(dir)? {
            for file in fs::read_dir(folder?.path()).into_iter().flatten() {
                let file = file?;
                let meta = file.metadata()?;
                match name_of(&file.file_name().to_string_lossy()) {
                    Some(name) => found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), name, meta.len())),
                    // Half-written when its process ended.
                    None => fs::remove_file(file.path())?,
                }
            }
        }
        found.sort_unstable_by_key(|(time, ..)| *time);
        let mut held = Held::default();
        found.into_iter().for_each(|(_, name, len)| held.add(name, len));
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            capacity,
            held: Mutex::new(held),
            writes: Arc::new(Semaphore::new(WRITES)),
            staged: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        });
        let cache = Self { shared, apart: [0; 16] };
        cache.shrink();
        Ok(cache)
    }

    /// The same folder for who shares nothing with others: what is found through it was kept through one of the same name.
    #[must_use]
    pub fn apart(&self, name: &str) -> Self {
        let hash = blake3::derive_key("lazuli chunks frames apart v1", name.as_bytes());
        let (apart, _) = hash.split_first_chunk().expect("32 bytes");
        Self { apart: *apart, ..self.clone() }
    }

    fn name(&self, check: Check) -> Name {
        let mut name = check.0;
        name.iter_mut().zip(self.apart).for_each(|(byte, apart)| *byte ^= apart);
        Name(name)
    }

    /// Bytes it holds.
    pub fn used(&self) -> u64 {
        self.held().bytes
    }

    /// Frames that were there, and such that were not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.shared.hits.load(Ordering::Relaxed), self.shared.misses.load(Ordering::Relaxed))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: Name) -> PathBuf {
        let name = hex::encode(name.0);
        self.shared.dir.join(&name[..2]).join(name)
    }

    fn shrink(&self) {
        let gone = self.held().shrink(self.shared.capacity);
        gone.into_iter().for_each(|name| drop(fs::remove_file(self.path(name))));
    }

    /// The frame's stored bytes, if they are here and right. Reads a file.
    pub(crate) fn get(&self, check: Check) -> Option<Bytes> {
        let name = self.name(check);
        let held = self.held().touch(name);
        let found = held.then(|| fs::read(self.path(name)).ok()).flatten();
        let right = found.filter(|bytes| Check::of(bytes) == check);
        if held && right.is_none() {
            tracing::warn!(file = %self.path(name).display(), "a cached frame is gone or damaged; it is fetched again");
            self.held().remove(name);
            drop(fs::remove_file(self.path(name)));
        }
        let count = if right.is_some() { &self.shared.hits } else { &self.shared.misses };
        count.fetch_add(1, Ordering::Relaxed);
        right.map(Bytes::from)
    }

    /// Keeps a frame, soon, unless too many are being written.
    pub(crate) fn put_later(&self, check: Check, stored: Bytes) {
        let Ok(permit) = Arc::clone(&self.shared.writes).try_acquire_owned() else { return };
        let cache = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = cache.put(check, &stored) {
                tracing::debug!(%error, "a frame could not be cached");
            }
            drop(permit);
        });
    }

    fn put(&self, check: Check, stored: &[u8]) -> io::Result<()> {
        let (name, len) = (self.name(check), stored.len() as u64);
        if len > self.shared.capacity || self.held().touch(name) || Check::of(stored) != check {
            return Ok(());
        }
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.shared.dir);
        fs::create_dir_all(folder)?;
        let staged =
            folder.join(format!("new-{}-{}", std::process::id(), self.shared.staged.fetch_add(1, Ordering::Relaxed)));
        let written = fs::write(&staged, stored).and_then(|()| fs::rename(&staged, &path));
        if written.is_err() {
            drop(fs::remove_file(&staged));
            return written;
        }
        self.held().add(name, len);
        self.shrink();
        Ok(())
    }
}

impl std::fmt::Debug for FrameCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameCache")
            .field("dir", &self.shared.dir)
            .field("capacity", &self.shared.capacity)
            .finish_non_exhaustive()
    }
}

fn name_of(text: &str) -> Option<Name> {
    let mut name = [0; 16];
    hex::decode_to_slice(text, &mut name).ok()?;
    Some(Name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: u8) -> (Check, Bytes) {
        let bytes = Bytes::from(vec![n; 1000]);
        (Check::of(&bytes), bytes)
    }

    #[test]
    fn it_holds_what_was_used_last_and_no_more_than_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FrameCache::open(dir.path(), 3000).unwrap();
        for n in 0..3 {
            let (check, bytes) = frame(n);
            cache.put(check, &bytes).unwrap();
        }
        assert!(cache.get(frame(0).0).is_some());
        let (check, bytes) = frame(3);
        cache.put(check, &bytes).unwrap();
        let there = |cache: &FrameCache| [0, 1, 2, 3].map(|n| cache.get(frame(n).0).is_some_and(|b| b == frame(n).1));
        assert_eq!(there(&cache), [true, false, true, true]);
        assert_eq!(cache.used(), 3000);
        drop(cache);
        // The next process finds it, and keeps to its own bound.
        fs::create_dir_all(dir.path().join("00")).unwrap();
        fs::write(dir.path().join("00/new-1-1"), "half").unwrap();
        let cache = FrameCache::open(dir.path(), 3000).unwrap();
        assert_eq!(there(&cache), [true, false, true, true]);
        drop(cache);
        assert_eq!(FrameCache::open(dir.path(), 1500).unwrap().used(), 1000);
    }

    #[test]
    fn what_is_damaged_or_gone_is_not_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FrameCache::open(dir.path(), 1 << 20).unwrap();
        let ((a, first), (b, second)) = (frame(1), frame(2));
        cache.put(a, &first).unwrap();
        cache.put(b, &second).unwrap();
        let mut bytes = first.to_vec();
        bytes[500] ^= 1;
        fs::write(cache.path(cache.name(a)), bytes).unwrap();
        fs::remove_file(cache.path(cache.name(b))).unwrap();
        assert_eq!((cache.get(a), cache.get(b), cache.used()), (None, None, 0));
        cache.put(a, &first).unwrap();
        assert_eq!(cache.get(a), Some(first));
        // Nor is it taken in.
        cache.put(b, &frame(3).1).unwrap();
        assert_eq!(cache.get(b), None);
        assert_eq!(cache.hits_and_misses(), (1, 3));
    }

    #[test]
    fn who_is_apart_finds_only_its_own_also_in_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let all = FrameCache::open(dir.path(), 1 << 20).unwrap();
        let (check, bytes) = frame(1);
        all.apart("a").put(check, &bytes).unwrap();
        let found = |all: &FrameCache| [all.apart("a"), all.apart("b"), all.clone()].map(|c| c.get(check).is_some());
        assert_eq!(found(&all), [true, false, false]);
        drop(all);
        let all = FrameCache::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(found(&all), [true, false, false]);
        all.put(check, &bytes).unwrap();
        assert_eq!((found(&all), all.used()), ([true, false, true], 2000));
    }
}
