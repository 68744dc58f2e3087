//! The blob that an upload writes: a sparse staging file that holds the whole VHD with its footer.
//!
//! A write that was answered is in the file and survives `kill -9`. Writes to different pages run side by side; a write with
//! conditions runs alone, and so does the end of the upload: once [`Staged::seal`] has returned, no byte changes any more.

use super::conditions::{Conditions, ContentHeaders, Properties};
use super::ranges::{PAGE, Ranges};
use super::state::State;
use super::{BlobError, MAX_WRITE, REVOKED};
use bytes::Bytes;
use lazuli_disks::{DiskSource, RawFile};
use lazuli_meta::Clock;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Azure allows 8 KiB of metadata.
const METADATA_LIMIT: usize = 8 << 10;

/// Whether the upload was ended.
type Gate = RwLock<bool>;

/// One staging file, shared by all requests for it.
pub(super) struct Staged {
    path: PathBuf,
    size: u64,
    clock: Clock,
    gate: Arc<Gate>,
    open: OnceCell<Arc<Opened>>,
}

struct Opened {
    file: File,
    state: Mutex<State>,
}

/// Keeps the end of the upload away, and with `Alone` every other write. Held by the blocking task, so that it lives as long
/// as the write does, whatever becomes of the request.
enum Pass {
    Shared(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<bool>),
    Alone(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<bool>),
}

/// How `Set Blob Properties` changes the sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceAction {
    Max(u64),
    Update(u64),
    Increment,
}

impl Staged {
    pub fn new(path: PathBuf, size: u64, clock: Clock) -> Self {
        Self { path, size, clock, gate: Arc::default(), open: OnceCell::new() }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens the files, unless they are.
    pub async fn open(&self) -> Result<(), BlobError> {
        let pass = self.pass(false).await?;
        let (path, size, now) = (self.path.clone(), self.size, self.clock.now_ms());
        let open = || async {
            blocking(move || {
                let _pass = pass;
                let file = open_staging(&path, size)?;
                let state = State::load(&path, now).map_err(BlobError::of_file)?;
                Ok(Arc::new(Opened { file, state: Mutex::new(state) }))
            })
            .await
        };
        self.open.get_or_try_init(open).await.map(drop)
    }

    /// Waits for the writes in flight, refuses all later ones, and forgets everything but the bytes.
    pub async fn seal(&self) -> io::Result<()> {
        let mut sealed = self.gate.write().await;
        *sealed = true;
        State::remove(&self.path)
    }

    pub fn properties(&self) -> Result<Properties, BlobError> {
        Ok(self.opened()?.state().properties(self.size))
    }

    pub async fn write_pages(&self, offset: u64, data: Bytes, when: &Conditions) -> Result<Properties, BlobError> {
        let len = data.len() as u64;
        self.check_pages(offset, len)?;
        if len > MAX_WRITE {
            return Err(BlobError::TooLarge { len });
        }
        self.change(when, !when.is_empty(), move |file, state, _| {
            state.created = true;
            file.write_all_at(&data, offset)
        })
        .await
    }

    pub async fn clear_pages(&self, range: Range<u64>, when: &Conditions) -> Result<Properties, BlobError> {
        let len = range.end.saturating_sub(range.start);
        self.check_pages(range.start, len)?;
        self.change(when, !when.is_empty(), move |file, state, _| {
            state.created = true;
            clear(file, range.start, len)
        })
        .await
    }

    /// Put Blob: all pages are cleared. The size cannot be chosen any more.
    pub async fn create(
        &self,
        size: u64,
        sequence: u64,
        headers: ContentHeaders,
        metadata: BTreeMap<String, String>,
        when: &Conditions,
    ) -> Result<Properties, BlobError> {
        if size != self.size {
            return Err(BlobError::SizeFixed { expected: self.size, asked: size });
        }
        check_metadata(&metadata)?;
        let only_new = when.if_none_match.as_deref().is_some_and(|tags| tags.trim() == "*");
        let when = Conditions { if_none_match: when.if_none_match.clone().filter(|_| !only_new), ..when.clone() };
        let exists = self.opened()?.state().created;
        if only_new && exists {
            return Err(BlobError::Exists);
        }
        self.change(&when, true, move |file, state, size| {
            (state.created, state.sequence, state.headers, state.metadata) = (true, sequence, headers, metadata);
            clear_all(file, size)
        })
        .await
    }

    /// Delete Blob: what was written is gone, the upload can begin again.
    pub async fn reset(&self, when: &Conditions) -> Result<Properties, BlobError> {
        self.change(when, true, move |file, state, size| {
            (state.created, state.sequence) = (false, 0);
            (state.headers, state.metadata) = Default::default();
            clear_all(file, size)
        })
        .await
    }

    pub async fn set_headers(&self, headers: ContentHeaders, when: &Conditions) -> Result<Properties, BlobError> {
        let set = move |_: &File, state: &mut State, _| {
            state.headers = headers;
            Ok(())
        };
        self.change(when, true, set).await
    }

    pub async fn set_metadata(
        &self,
        metadata: BTreeMap<String, String>,
        when: &Conditions,
    ) -> Result<Properties, BlobError> {
        check_metadata(&metadata)?;
        let set = move |_: &File, state: &mut State, _| {
            state.metadata = metadata;
            Ok(())
        };
        self.change(when, true, set).await
    }

    /// Resizing succeeds only to the size that the blob has.
    pub async fn resize(&self, size: u64, when: &Conditions) -> Result<Properties, BlobError> {
        if size != self.size {
            return Err(BlobError::SizeFixed { expected: self.size, asked: size });
        }
        self.change(when, true, |_, _, _| Ok(())).await
    }

    pub async fn set_sequence(&self, action: SequenceAction, when: &Conditions) -> Result<Properties, BlobError> {
        let now = self.opened()?.state().sequence;
        let next = match action {
            SequenceAction::Max(n) => Some(now.max(n)),
            SequenceAction::Update(n) => Some(n),
            SequenceAction::Increment => now.checked_add(1),
        };
        // The protocol's numbers are signed.
        let next = next.filter(|n| i64::try_from(*n).is_ok()).ok_or(BlobError::SequenceInvalid)?;
        let set = move |_: &File, state: &mut State, _| {
            state.sequence = next;
            Ok(())
        };
        self.change(when, true, set).await
    }

    /// `range` is within the blob.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, BlobError> {
        let opened = Arc::clone(self.opened()?);
        blocking(move || {
            let len = usize::try_from(range.end - range.start).map_err(BlobError::internal)?;
            let mut bytes = vec![0; len];
            opened.file.read_exact_at(&mut bytes, range.start).map_err(BlobError::of_file)?;
            Ok(bytes.into())
        })
        .await
    }

    pub async fn page_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, BlobError> {
        let (path, size) = (self.path.clone(), self.size);
        // Through a descriptor of its own: the search for data moves its offset.
        blocking(move || page_ranges(&path, size, range).map_err(BlobError::of_file)).await
    }

    /// Checks the conditions, changes bytes and state, and saves the state; nothing is answered before that.
    async fn change(
        &self,
        when: &Conditions,
        alone: bool,
        change: impl FnOnce(&File, &mut State, u64) -> io::Result<()> + Send + 'static,
    ) -> Result<Properties, BlobError> {
        let pass = self.pass(alone).await?;
        let opened = Arc::clone(self.opened()?);
        when.check_write(&opened.state().properties(self.size))?;
        let (path, size, clock) = (self.path.clone(), self.size, self.clock.clone());
        blocking(move || {
            let _pass = pass;
            // Changed on a copy: bytes are written without holding the state.
            let before = opened.state().clone();
            let mut after = before.clone();
            change(&opened.file, &mut after, size).map_err(BlobError::of_file)?;
            let mut state = opened.state();
            if alone {
                *state = after;
            } else {
                state.created |= after.created;
            }
            state.touch(clock.now_ms());
            state.save(&path).map_err(BlobError::of_file)?;
            Ok(state.properties(size))
        })
        .await
    }

    async fn pass(&self, alone: bool) -> Result<Pass, BlobError> {
        let gate = Arc::clone(&self.gate);
        let (pass, sealed) = if alone {
            let guard = gate.write_owned().await;
            let sealed = *guard;
            (Pass::Alone(guard), sealed)
        } else {
            let guard = gate.read_owned().await;
            let sealed = *guard;
            (Pass::Shared(guard), sealed)
        };
        if sealed { Err(BlobError::Unauthenticated(REVOKED)) } else { Ok(pass) }
    }

    fn opened(&self) -> Result<&Arc<Opened>, BlobError> {
        self.open.get().ok_or_else(|| BlobError::internal("the staging file is not open"))
    }

    fn check_pages(&self, start: u64, len: u64) -> Result<(), BlobError> {
        let fits = start.checked_add(len).is_some_and(|end| end <= self.size);
        if len == 0 || !fits || !start.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(BlobError::PageRange { start, len, size: self.size });
        }
        Ok(())
    }
}

impl Opened {
    /// The state is replaced whole: a panic elsewhere cannot have left half of it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work).await.map_err(BlobError::internal)?
}

/// The staging file, made if it is missing, of the blob's size.
fn open_staging(path: &Path, size: u64) -> Result<File, BlobError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(BlobError::of_file)?;
    }
    let options = || File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = options().map_err(BlobError::of_file)?;
    let len = file.metadata().map_err(BlobError::of_file)?.len();
    if len > size {
        return Err(BlobError::internal(format!("{} has {len} bytes instead of {size}", path.display())));
    }
    // Shorter: just made, or the process died while it cleared the blob.
    if len < size {
        file.set_len(size).map_err(BlobError::of_file)?;
    }
    Ok(file)
}

fn clear_all(file: &File, size: u64) -> io::Result<()> {
    file.set_len(0)?;
    file.set_len(size)
}

/// Zeros, and a hole where the file system can.
pub(crate) fn clear(file: &File, start: u64, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, len) {
        Err(Errno::NOTSUP | Errno::NOSYS) => {}
        done => return done.map_err(io::Error::from),
    }
    let zeros = vec![0; 1 << 20];
    let (mut at, end) = (start, start + len);
    while at < end {
        let part = usize::try_from(end - at).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

fn page_ranges(path: &Path, size: u64, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let disk = RawFile::with_len(File::open(path)?, size)?;
    let (mut ranges, mut at) = (Ranges::new(), range.start);
    while at < range.end
        && let Some(data) = disk.next_data(at)?
        && data.start < range.end
    {
        at = data.end;
        ranges.push(data.start..data.end.min(range.end));
    }
    Ok(ranges.into_vec())
}

pub(crate) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), BlobError> {
    let length: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if length > METADATA_LIMIT { Err(BlobError::MetadataTooLarge) } else { Ok(()) }
}
