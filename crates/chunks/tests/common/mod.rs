//! Small real parts for the tests: a disk in memory, a store that fails when told to.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use futures::stream::BoxStream;
use lazuli_chunks::{
    Cache, ChunkError, Ingested, ManifestId, Progress, Region, RegionConfig, Replicated, SealingKeys, local_store,
};
use lazuli_disks::DiskSource;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions,
};
use tokio_util::sync::CancellationToken;

pub const MIB: usize = 1 << 20;
pub const BLOCK: usize = 4096;

/// A disk in memory. `map`: what it says about its data; whole, or the runs of non-zero blocks.
pub struct MemDisk {
    pub bytes: Vec<u8>,
    pub sparse_map: bool,
    pub reads: AtomicU64,
    pub fail_at: Option<u64>,
}

impl MemDisk {
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes, sparse_map: true, reads: AtomicU64::new(0), fail_at: None })
    }
}

impl DiskSource for MemDisk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        if !self.sparse_map {
            return Ok((from < self.size()).then(|| from..self.size()));
        }
        let from = usize::try_from(from).unwrap();
        let data = |at: usize| self.bytes[at..(at + BLOCK).min(self.bytes.len())].iter().any(|b| *b != 0);
        let mut blocks = (from..self.bytes.len()).step_by(BLOCK);
        let Some(start) = blocks.find(|at| data(*at)) else {
            return Ok(None);
        };
        let end = blocks.find(|at| !data(*at)).unwrap_or(self.bytes.len());
        Ok(Some(start as u64..end as u64))
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.fail_at.is_some_and(|at| offset >= at) {
            return Err(io::Error::other("the medium is worn out"));
        }
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
        Ok(())
    }
}

/// `len` bytes that do not repeat and half compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & 0x0f0f_0f0f_ffff_0f0f
    });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

/// A disk of `len` with noise in some places and holes between.
pub fn disk(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut at = 0;
    let mut step = seed;
    while at < len {
        step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let data = (usize::try_from(step >> 40).unwrap() % 400 + 1) * BLOCK;
        let end = (at + data).min(len);
        out[at..end].copy_from_slice(&noise(step, end - at));
        at = end + usize::try_from(step >> 20 & 0xff).unwrap() * BLOCK;
    }
    out
}

pub async fn open(dir: &Path) -> Region {
    Region::open(config(dir)).await.unwrap()
}

pub fn config(dir: &Path) -> RegionConfig {
    RegionConfig::local("eastus", dir, Cache::new(64 << 20)).unwrap()
}

/// As `config`, sealed with keys of these bytes, the newest first.
pub fn sealed_config(dir: &Path, keys: &[u8]) -> RegionConfig {
    RegionConfig { keys: sealing_keys(keys), ..config(dir) }
}

pub fn sealing_keys(bytes: &[u8]) -> Option<SealingKeys> {
    let texts: Vec<String> = bytes.iter().map(|b| format!("{b:02x}").repeat(32)).collect();
    SealingKeys::parse(texts.iter().map(String::as_str)).unwrap()
}

pub async fn ingest(region: &Region, bytes: &[u8]) -> Ingested {
    region.ingest(MemDisk::new(bytes.to_vec()), &Progress::new(), &CancellationToken::new()).await.unwrap()
}

pub async fn read_all(region: &Region, manifest: ManifestId) -> Vec<u8> {
    let reader = region.reader(manifest).await.unwrap();
    let mut out = vec![0xee; usize::try_from(reader.size()).unwrap()];
    for (i, part) in out.chunks_mut(300_000).enumerate() {
        reader.read_at(i as u64 * 300_000, part).await.unwrap();
    }
    out
}

/// Replicates until `more` bytes of those that are missing have arrived, then cuts the line ([`ChunkError::Cancelled`]).
pub async fn replicate_until(
    to: &Region,
    from: &Region,
    manifest: ManifestId,
    more: u64,
) -> Result<Replicated, ChunkError> {
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let cut = async {
        let mut start = None;
        loop {
            let here = progress.done();
            if progress.total() > 0 && here >= *start.get_or_insert(here) + more {
                cancel.cancel();
                return std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        result = to.replicate_from(from, manifest, &progress, &cancel) => result,
        () = cut => unreachable!("it waits for the replication to end"),
    }
}

/// The pack files of a local region.
pub fn pack_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(folders) = std::fs::read_dir(dir.join("packs")) else {
        return Vec::new();
    };
    let files = folders.flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap());
    let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

/// A local store whose writes and reads fail when told to.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    /// Puts that still succeed; then each fails as `fault` says. Negative: never fail.
    pub puts_left: AtomicI64,
    /// How many puts fail before they succeed again.
    pub failures_left: AtomicI64,
    pub disk_full: AtomicBool,
    pub reads_fail: AtomicBool,
    /// Puts that keep only half of the bytes and are answered all the same.
    pub torn_puts: AtomicI64,
    pub puts: AtomicU64,
    pub gets: AtomicU64,
    /// Bytes that reads were answered with.
    pub got_bytes: AtomicU64,
}

impl FaultyStore {
    pub fn new(dir: &Path) -> Arc<Self> {
        Arc::new(Self {
            inner: local_store(dir).unwrap(),
            puts_left: AtomicI64::new(i64::MAX),
            failures_left: AtomicI64::new(i64::MAX),
            disk_full: AtomicBool::new(false),
            reads_fail: AtomicBool::new(false),
            torn_puts: AtomicI64::new(0),
            puts: AtomicU64::new(0),
            gets: AtomicU64::new(0),
            got_bytes: AtomicU64::new(0),
        })
    }

    fn error(&self) -> object_store::Error {
        let source: Box<dyn std::error::Error + Send + Sync> = if self.disk_full.load(Ordering::Relaxed) {
            Box::new(io::Error::from(io::ErrorKind::StorageFull))
        } else {
            "the wire is cut".into()
        };
        object_store::Error::Generic { store: "faulty", source }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, key: &Key, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        if self.puts_left.fetch_sub(1, Ordering::Relaxed) <= 0 && self.failures_left.fetch_sub(1, Ordering::Relaxed) > 0
        {
            return Err(self.error());
        }
        if self.torn_puts.fetch_sub(1, Ordering::Relaxed) > 0 {
            let whole: Vec<u8> = payload.iter().flat_map(|b| b.to_vec()).collect();
            return self.inner.put_opts(key, whole[..whole.len() / 2].to_vec().into(), opts).await;
        }
        self.inner.put_opts(key, payload, opts).await
    }
    async fn put_multipart_opts(
        &self,
        key: &Key,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(key, opts).await
    }
    async fn get_opts(&self, key: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        if self.reads_fail.load(Ordering::Relaxed) {
            return Err(self.error());
        }
        let found = self.inner.get_opts(key, options).await?;
        self.got_bytes.fetch_add(found.range.end - found.range.start, Ordering::Relaxed);
        Ok(found)
    }
    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        self.inner.delete_stream(keys)
    }
    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
    async fn rename_opts(&self, from: &Key, to: &Key, options: RenameOptions) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
