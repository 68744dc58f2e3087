//! The region's index: where each blob lies. In memory 28 bytes a blob in a hash table ([`keys`], 33 to 41
//! bytes with its free places) and 32 a frame; on disk the [`log`](crate::log).
//!
//! One process writes (it holds `writer.lock`), others follow the log. Locks are taken in the order
//! log, then table, then a writer's set of used packs.

mod frames;
mod keys;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use uuid::Uuid;

use self::frames::{FrameSlot, Frames};
use self::keys::{Keys, Value};
use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ChunkId};
use crate::log::{self, HEADER_LEN, Key, Record, Step, from_place, place};
use crate::pack::{Check, Frame, Part};

const LOG: &str = "index.log";
const LOCK: &str = "writer.lock";
/// Tables of keys, by the first byte: each grows alone, so that little is moved at a time.
const SHARDS: usize = 256;
/// The log is read in windows of this size.
const WINDOW: usize = 4 << 20;

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub pack: Uuid,
    /// Where the blob's frame lies in the pack.
    pub offset: u32,
    pub stored_len: u32,
    /// Plain bytes of the frame.
    pub frame_len: u32,
    /// Where the blob lies in the frame's plain bytes.
    pub at: u32,
    pub plain_len: u32,
    pub kind: BlobKind,
    pub raw: bool,
    /// Of the frame; `None` in packs of earlier formats.
    pub check: Option<Check>,
}

impl Location {
    /// What the blob takes of its frame's stored bytes: as much as of the plain ones, rounded up.
    pub(crate) fn stored_share(&self) -> u64 {
        share(self.stored_len, self.plain_len, self.frame_len)
    }

    /// Whether both lie in one frame.
    pub(crate) fn same_frame(&self, other: &Self) -> bool {
        (self.pack, self.offset) == (other.pack, other.offset)
    }
}

fn share(stored: u32, part: u32, whole: u32) -> u64 {
    (u64::from(stored) * u64::from(part)).div_ceil(u64::from(whole.max(1)))
}

#[derive(Debug)]
struct PackInfo {
    id: Uuid,
    len: u64,
    condemned: bool,
}

/// The table in memory. Packs are numbered as they come; their numbers are never reused.
#[derive(Debug, Default)]
struct Table {
    shards: Vec<Keys>,
    frames: Frames,
    packs: Vec<Option<PackInfo>>,
    numbers: HashMap<Uuid, u32>,
}

impl Table {
    fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Keys::default()).collect(), ..Self::default() }
    }

    fn shard(&mut self, key: &Key) -> &mut Keys {
        &mut self.shards[usize::from(key.0[0])]
    }

    /// The pack's number; a pack that is known already (a rebuild found it first) keeps its own.
    fn number(&mut self, pack: Uuid, len: u64) -> u32 {
        let next = u32::try_from(self.packs.len()).expect("fewer than 2^32 packs");
        let number = *self.numbers.entry(pack).or_insert(next);
        if number == next {
            self.packs.push(Some(PackInfo { id: pack, len, condemned: false }));
        }
        number
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::PackAdded { pack, len, frames } => {
                let pack = self.number(*pack, *len);
                for frame in frames {
                    let number = self.frames.add(FrameSlot::new(pack, frame));
                    for blob in &frame.blobs {
                        let value = Value { frame: number, place: place(blob.at, blob.len) };
                        self.shard(&blob.id).insert(blob.id, value);
                    }
                }
            }
            Record::PacksRemoved(packs) => {
                let gone: HashSet<u32> = packs.iter().filter_map(|p| self.numbers.remove(p)).collect();
                for number in &gone {
                    self.packs[*number as usize] = None;
                }
                let frames = &self.frames;
                for shard in &mut self.shards {
                    shard.retain(|_, value| !gone.contains(&frames.get(value.frame).pack));
                }
                self.frames.remove_packs(&gone);
            }
            Record::Forgotten(keys) => {
                for key in keys {
                    self.shard(key).remove(key);
                }
            }
        }
    }

    fn location(&self, value: Value) -> Option<(Location, &PackInfo)> {
        let frame = self.frames.get(value.frame);
        let pack = self.packs[frame.pack as usize].as_ref()?;
        let (at, plain_len) = from_place(value.place);
        let location = Location {
            pack: pack.id,
            offset: frame.offset,
            stored_len: frame.stored_len(),
            frame_len: frame.plain_len,
            at,
            plain_len,
            kind: frame.kind(),
            raw: frame.raw(),
            check: frame.check(),
        };
        Some((location, pack))
    }

    fn lookup(&self, key: Key) -> Option<(Location, &PackInfo)> {
        self.location(self.shards[usize::from(key.0[0])].get(&key)?)
    }

    fn each(&self) -> impl Iterator<Item = (Key, Location)> {
        let entries = self.shards.iter().flat_map(Keys::iter);
        entries.filter_map(|(key, value)| Some((key, self.location(value)?.0)))
    }

    fn len(&self) -> usize {
        self.shards.iter().map(Keys::len).sum()
    }

    fn bytes(&self) -> usize {
        self.shards.iter().map(Keys::bytes).sum::<usize>() + self.frames.bytes()
    }
}

/// The packs that a running ingest or replication wrote or counts on. GC leaves them alone.
pub(crate) type UsedPacks = Arc<Mutex<HashSet<Uuid>>>;

/// Why an index must be built from the packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogState {
    Ready,
    Missing,
    Damaged,
}

pub(crate) struct Index {
    region: String,
    dir: PathBuf,
    table: RwLock<Table>,
    /// `None` in processes that only read.
    log: Option<Arc<tokio::sync::Mutex<LogWriter>>>,
    tail: Mutex<Tail>,
    /// Why the index was built from the packs when the region was opened, if it was.
    pub(crate) rebuilt: OnceLock<LogState>,
}

/// The appending end of the log.
pub(crate) struct LogWriter {
    file: File,
    len: u64,
    /// An append failed and could not be cut off: nothing more may be appended.
    broken: bool,
    _lock: File,
}

/// How far a reading process has followed the log.
#[derive(Default)]
struct Tail {
    file: Option<File>,
    inode: u64,
    position: u64,
}

/// Totals over the index, for `usage`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub packs: u64,
    pub pack_bytes: u64,
    pub chunks: u64,
    pub chunk_bytes: u64,
}

impl Index {
    /// Opens for writing: takes the lock, loads the log, cuts off a torn end. When the log is missing
    /// or damaged the table is empty and the caller must [`replace`](Self::replace) it.
    pub(crate) fn open_writer(dir: &Path, region: &str) -> Result<(Self, LogState)> {
        let fail = |action| move |e| ChunkError::index(action, region, e);
        std::fs::create_dir_all(dir).map_err(fail("create the folder of"))?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(fail("lock"))?;
        take_lock(&lock, region)?;
        let mut table = Table::new();
        let opened = OpenOptions::new().read(true).write(true).open(dir.join(LOG));
        let (file, len, state) = match opened {
            Ok(file) => match load(&file, 0, &mut table).map_err(fail("read"))? {
                Loaded::UpTo(len) => {
                    cut_off(&file, len).map_err(fail("mend the end of"))?;
                    (file, len, LogState::Ready)
                }
                Loaded::Damaged => {
                    table = Table::new();
                    (file, 0, LogState::Damaged)
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let (file, len) = write_log(dir, &[]).map_err(fail("create"))?;
                (file, len, LogState::Missing)
            }
            Err(e) => return Err(ChunkError::index("open", region, e)),
        };
        let writer = LogWriter { file, len, broken: state == LogState::Damaged, _lock: lock };
        let index = Self {
            region: region.to_owned(),
            dir: dir.to_owned(),
            table: RwLock::new(table),
            log: Some(Arc::new(tokio::sync::Mutex::new(writer))),
            tail: Mutex::default(),
            rebuilt: OnceLock::new(),
        };
        Ok((index, state))
    }

    /// Opens for reading beside a writer in another process; the log may not exist yet.
    pub(crate) fn open_reader(dir: &Path, region: &str) -> Result<Self> {
        let index = Self {
            region: region.to_owned(),
            dir: dir.to_owned(),
            table: RwLock::new(Table::new()),
            log: None,
            tail: Mutex::default(),
            rebuilt: OnceLock::new(),
        };
        index.refresh()?;
        Ok(index)
    }

    /// An index without a log: of a process that makes its own from the packs, and for measurements.
    pub(crate) fn in_memory() -> Self {
        Self {
            region: String::new(),
            dir: PathBuf::new(),
            table: RwLock::new(Table::new()),
            log: None,
            tail: Mutex::default(),
            rebuilt: OnceLock::new(),
        }
    }

    /// Takes a record in that is in no log.
    pub(crate) fn absorb(&self, record: &Record) {
        self.write().apply(record);
    }

    /// Knows these records and nothing else from now on, all at once. Only of an index without a log.
    pub(crate) fn become_these(&self, records: &[Record]) {
        let mut table = Table::new();
        records.iter().for_each(|r| table.apply(r));
        *self.write() = table;
    }

    pub(crate) fn is_writer(&self) -> bool {
        self.log.is_some()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lookup(&self, id: ChunkId) -> Option<Location> {
        self.lookup_key(id.into())
    }

    pub(crate) fn lookup_key(&self, key: Key) -> Option<Location> {
        self.read().lookup(key).map(|(location, _)| location)
    }

    /// Whether a writer may refer to this blob instead of storing it. Its pack is then safe from GC
    /// for as long as the writer runs.
    pub(crate) fn reuse(&self, id: ChunkId, used: &UsedPacks) -> bool {
        let table = self.read();
        match table.lookup(id.into()) {
            Some((location, pack)) if !pack.condemned => {
                lock(used).insert(location.pack);
                true
            }
            _ => false,
        }
    }

    /// Makes a record durable, then visible. For a pack that a running writer wrote, the pack joins
    /// the writer's used packs in the same moment.
    pub(crate) async fn commit(self: &Arc<Self>, record: Record, used: Option<UsedPacks>) -> Result<()> {
        let mut log = self.lock_log().await?;
        let index = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            log.append(&record.encode()).map_err(|e| ChunkError::index("write", &index.region, e))?;
            let mut table = index.write();
            table.apply(&record);
            if let (Record::PackAdded { pack, .. }, Some(used)) = (&record, used) {
                lock(&used).insert(*pack);
            }
            Ok(())
        })
        .await
        .map_err(ChunkError::worker)?
    }

    /// The log, for as long as the guard lives: no other record is committed meanwhile.
    pub(crate) async fn lock_log(&self) -> Result<tokio::sync::OwnedMutexGuard<LogWriter>> {
        let log = self.log.as_ref().ok_or_else(|| ChunkError::ReadOnly { region: self.region.clone() })?;
        Ok(Arc::clone(log).lock_owned().await)
    }

    /// Replaces the whole index by these records: a new log under the same name, a new table.
    pub(crate) fn replace(&self, log: &mut LogWriter, records: &[Record]) -> Result<()> {
        let (file, len) =
            write_log(&self.dir, records).map_err(|e| ChunkError::index("write anew", &self.region, e))?;
        let mut table = Table::new();
        records.iter().for_each(|r| table.apply(r));
        *self.write() = table;
        (log.file, log.len, log.broken) = (file, len, false);
        Ok(())
    }

    /// Writes the log anew from the table when most of it is history. Returns whether it did.
    pub(crate) fn compact(&self, log: &mut LogWriter) -> Result<bool> {
        let records = {
            let table = self.read();
            let needed = HEADER_LEN + table.len() * 40 + table.packs.len() * 64;
            if log.len < 2 * needed as u64 + (1 << 20) {
                return Ok(false);
            }
            records_of(&table)
        };
        let (file, len) =
            write_log(&self.dir, &records).map_err(|e| ChunkError::index("write anew", &self.region, e))?;
        (log.file, log.len, log.broken) = (file, len, false);
        Ok(true)
    }

    /// Follows the log to its present end (reading processes only). `true`: something was new.
    pub(crate) fn refresh(&self) -> Result<bool> {
        if self.is_writer() {
            return Ok(false);
        }
        let mut tail = lock(&self.tail);
        self.follow(&mut tail).map_err(|e| ChunkError::index("follow", &self.region, e))
    }

    fn follow(&self, tail: &mut Tail) -> io::Result<bool> {
        let path = self.dir.join(LOG);
        let inode = match std::fs::metadata(&path) {
            Ok(meta) => meta.ino(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        // The open file keeps its inode from being reused, so another number means another log.
        if tail.file.is_none() || tail.inode != inode {
            let file = File::open(&path)?;
            let inode = file.metadata()?.ino();
            let mut table = Table::new();
            let Loaded::UpTo(position) = load(&file, 0, &mut table)? else {
                return Ok(false);
            };
            *self.write() = table;
            *tail = Tail { file: Some(file), inode, position };
            return Ok(true);
        }
        let Some(file) = &tail.file else { return Ok(false) };
        if file.metadata()?.len() <= tail.position {
            return Ok(false);
        }
        let before = tail.position;
        if let Loaded::UpTo(position) = load(file, before, &mut self.write())? {
            tail.position = position;
        }
        Ok(tail.position > before)
    }

    /// Bytes that the index takes in memory, and the blobs that it knows.
    pub(crate) fn footprint(&self) -> (usize, usize) {
        let table = self.read();
        (table.bytes(), table.len())
    }

    pub(crate) fn totals(&self) -> Totals {
        let table = self.read();
        let mut totals = Totals::default();
        for pack in table.packs.iter().flatten() {
            totals.packs += 1;
            totals.pack_bytes += pack.len;
        }
        for (_, location) in table.each().filter(|(_, l)| l.kind == BlobKind::Chunk) {
            totals.chunks += 1;
            totals.chunk_bytes += u64::from(location.plain_len);
        }
        totals
    }

    /// The keys of all manifests.
    pub(crate) fn roots(&self) -> Vec<Key> {
        let table = self.read();
        table.each().filter(|(_, l)| l.kind == BlobKind::Root).map(|(k, _)| k).collect()
    }

    /// Every pack and its length.
    pub(crate) fn packs(&self) -> HashMap<Uuid, u64> {
        self.read().packs.iter().flatten().map(|p| (p.id, p.len)).collect()
    }

    /// Tells every blob; the index cannot change meanwhile.
    pub(crate) fn each(&self, mut tell: impl FnMut(Key, Location)) {
        self.read().each().for_each(|(key, at)| tell(key, at));
    }

    /// From now on writers store anew what lies in this pack. `false`: a running writer counts on it.
    pub(crate) fn condemn_pack(&self, pack: Uuid, protected: impl FnOnce() -> HashSet<Uuid>) -> bool {
        let mut table = self.write();
        if protected().contains(&pack) {
            return false;
        }
        if let Some(number) = table.numbers.get(&pack).copied()
            && let Some(info) = &mut table.packs[number as usize]
        {
            info.condemned = true;
        }
        true
    }

    /// Reads the log in the file again, from its start.
    pub(crate) fn check_log(&self) -> Result<LogState> {
        let fail = |e| ChunkError::index("read", &self.region, e);
        match File::open(self.dir.join(LOG)) {
            Ok(file) => match load(&file, 0, &mut Table::new()).map_err(fail)? {
                Loaded::UpTo(_) => Ok(LogState::Ready),
                Loaded::Damaged => Ok(LogState::Damaged),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(LogState::Missing),
            Err(e) => Err(fail(e)),
        }
    }

    pub(crate) fn has_pack(&self, pack: Uuid) -> bool {
        self.read().numbers.contains_key(&pack)
    }

    /// One step of garbage collection, atomic towards [`reuse`](Self::reuse): judges every pack that
    /// `protected` does not name by its bytes that are `live`, condemns the losers, and forgets dead
    /// manifests in packs that stay.
    pub(crate) fn condemn(
        &self,
        protected: impl FnOnce() -> HashSet<Uuid>,
        live: &HashSet<Key>,
        judge: impl Fn(u64, u64) -> PackFate,
    ) -> Condemned {
        let mut table = self.write();
        let protected = protected();
        let mut live_bytes = vec![0u64; table.packs.len()];
        for (_, value) in table.shards.iter().flat_map(Keys::iter).filter(|(key, _)| live.contains(key)) {
            let frame = table.frames.get(value.frame);
            live_bytes[frame.pack as usize] += share(frame.stored_len(), from_place(value.place).1, frame.plain_len);
        }
        let mut out = Condemned::default();
        let mut staying = vec![false; table.packs.len()];
        for (number, pack) in table.packs.iter_mut().enumerate() {
            let Some(pack) = pack else { continue };
            if protected.contains(&pack.id) {
                continue;
            }
            match judge(live_bytes[number], pack.len) {
                PackFate::Keep => staying[number] = true,
                PackFate::Rewrite => out.rewrite.push((pack.id, pack.len)),
                PackFate::Delete => out.delete.push((pack.id, pack.len)),
            }
            pack.condemned = !staying[number];
        }
        let Table { shards, frames, .. } = &mut *table;
        for shard in shards {
            shard.retain(|key, value| {
                let frame = frames.get(value.frame);
                let chunk = frame.kind() == BlobKind::Chunk;
                let keep = chunk || !staying[frame.pack as usize] || live.contains(key);
                if !keep {
                    out.forgotten.push(*key);
                }
                keep
            });
        }
        out
    }

    /// Takes back a condemnation that could not be carried out.
    pub(crate) fn pardon(&self, pack: Uuid) {
        let mut table = self.write();
        if let Some(number) = table.numbers.get(&pack).copied()
            && let Some(info) = &mut table.packs[number as usize]
        {
            info.condemned = false;
        }
    }
}

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackFate {
    Keep,
    Rewrite,
    Delete,
}

/// Packs (and their lengths) that GC will remove, and manifests it forgot.
#[derive(Debug, Default)]
pub(crate) struct Condemned {
    pub rewrite: Vec<(Uuid, u64)>,
    pub delete: Vec<(Uuid, u64)>,
    pub forgotten: Vec<Key>,
}

impl LogWriter {
    /// Appends and syncs. A failed append is cut off again, so that the log still ends in a whole record.
    pub(crate) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to the index failed; open the region again"));
        }
        let written = self.file.write_all_at(record, self.len).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.len += record.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.broken = self.file.set_len(self.len).is_err();
                Err(e)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the writer's lock. A writer that is just ending (a read-ahead still running, a process being
/// killed) is given a second.
fn take_lock(file: &File, region: &str) -> Result<()> {
    let mut attempts = 40;
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if attempts > 0 => {
                attempts -= 1;
                #[expect(clippy::disallowed_methods, reason = "flock has no wait with a deadline")]
                std::thread::sleep(std::time::Duration::from_millis(25));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ChunkError::Locked { region: region.to_owned() }),
            Err(e) => return Err(ChunkError::index("lock", region, e.into())),
        }
    }
}

enum Loaded {
    UpTo(u64),
    Damaged,
}

/// Applies the records from `position` (0: after the header) to the last whole one.
fn load(file: &File, mut position: u64, table: &mut Table) -> io::Result<Loaded> {
    let end = file.metadata()?.len();
    if position == 0 {
        let mut head = [0; HEADER_LEN];
        if end < HEADER_LEN as u64 {
            return Ok(Loaded::Damaged);
        }
        file.read_exact_at(&mut head, 0)?;
        if log::parse_header(&head).is_none() {
            return Ok(Loaded::Damaged);
        }
        position = HEADER_LEN as u64;
    }
    let mut window = WINDOW;
    let mut buf = Vec::new();
    loop {
        let rest = end - position;
        let take = usize::try_from(rest).unwrap_or(usize::MAX).min(window);
        buf.resize(take, 0);
        file.read_exact_at(&mut buf, position)?;
        let mut at = 0;
        let verdict = loop {
            match log::step(&buf[at..]) {
                Step::Record(record, len) => {
                    table.apply(&record);
                    at += len;
                }
                other => break other,
            }
        };
        position += at as u64;
        let whole = take as u64 == rest;
        match verdict {
            Step::Damaged => return Ok(Loaded::Damaged),
            _ if whole => return Ok(Loaded::UpTo(position)),
            // The record goes on beyond the window.
            _ if at == 0 => window *= 2,
            _ => {}
        }
    }
}

fn cut_off(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() > len {
        tracing::warn!(len, "the index log ended in a record that was never finished; cut off");
        file.set_len(len)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Writes a new log beside the old one and renames it into place.
fn write_log(dir: &Path, records: &[Record]) -> io::Result<(File, u64)> {
    let staging = dir.join("index.log.new");
    let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&staging)?;
    let result = (|| {
        let mut out = io::BufWriter::with_capacity(1 << 20, &mut file);
        out.write_all(&log::header(Uuid::new_v4()))?;
        for record in records {
            out.write_all(&record.encode())?;
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        std::fs::rename(&staging, dir.join(LOG))?;
        File::open(dir)?.sync_all()?;
        file.metadata().map(|m| m.len())
    })();
    match result {
        Ok(len) => Ok((file, len)),
        Err(e) => {
            let _ = std::fs::remove_file(&staging);
            Err(e)
        }
    }
}

fn records_of(table: &Table) -> Vec<Record> {
    let mut by_pack: HashMap<Uuid, Vec<(Key, Location)>> = HashMap::new();
    for (key, l) in table.each() {
        by_pack.entry(l.pack).or_default().push((key, l));
    }
    let packs = table.packs.iter().flatten();
    packs
        .map(|p| {
            let frames = frames_of(by_pack.remove(&p.id).unwrap_or_default());
            Record::PackAdded { pack: p.id, len: p.len, frames }
        })
        .collect()
}

/// What the index knows of the frames of one pack.
fn frames_of(mut blobs: Vec<(Key, Location)>) -> Vec<Frame<Key>> {
    blobs.sort_by_key(|(_, l)| (l.offset, l.at));
    let mut frames: Vec<Frame<Key>> = Vec::new();
    for (id, l) in blobs {
        let part = Part { id, at: l.at, len: l.plain_len };
        match frames.last_mut() {
            Some(last) if last.offset == l.offset => last.blobs.push(part),
            _ => frames.push(Frame {
                offset: l.offset,
                stored_len: l.stored_len,
                plain_len: l.frame_len,
                kind: l.kind,
                raw: l.raw,
                check: l.check,
                blobs: vec![part],
            }),
        }
    }
    frames
}
