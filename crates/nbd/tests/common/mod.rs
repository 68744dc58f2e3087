//! A disk in memory, served on a unix socket.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lazuli_nbd::{BlockSource, Counters, Export, Extent, serve_unix};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const BLOCK: usize = 4096;

/// Blocks of zeros are its holes. Reads that touch `bad` fail, those that touch `deadly` panic.
pub struct MemDisk {
    pub bytes: Vec<u8>,
    pub bad: Option<u64>,
    pub deadly: Option<u64>,
    pub cached: AtomicU64,
}

impl MemDisk {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, bad: None, deadly: None, cached: AtomicU64::new(0) }
    }

    /// Some data in the middle of nothing, and an end that is not a whole block.
    pub fn sample() -> Self {
        let mut bytes = vec![0; 3 * 1024 * 1024 + 1536];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let block = index / BLOCK;
            if block % 7 == 3 || (100..400).contains(&block) || block == 768 {
                *byte = u8::try_from((index * 31 + block) % 251).unwrap() | 1;
            }
        }
        Self::new(bytes)
    }

    pub fn is_hole(&self, at: usize) -> bool {
        let start = at / BLOCK * BLOCK;
        self.bytes[start..(start + BLOCK).min(self.bytes.len())].iter().all(|b| *b == 0)
    }
}

#[async_trait::async_trait]
impl BlockSource for MemDisk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        tokio::task::yield_now().await;
        let range = offset..offset + buf.len() as u64;
        if self.bad.is_some_and(|at| range.contains(&at)) {
            return Err(io::Error::other("a bad block"));
        }
        assert!(!self.deadly.is_some_and(|at| range.contains(&at)), "a deadly block");
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }

    async fn extents(&self, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        let (mut at, mut extents) = (usize::try_from(offset).unwrap(), Vec::new());
        let end = at + usize::try_from(len).unwrap();
        while at < end {
            let next = (at / BLOCK + 1) * BLOCK;
            extents.push(Extent { len: (next - at) as u64, hole: self.is_hole(at) });
            at = next;
        }
        Ok(extents)
    }

    async fn cache(&self, _offset: u64, len: u64) -> io::Result<()> {
        self.cached.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }
}

pub struct Served {
    pub dir: tempfile::TempDir,
    pub socket: PathBuf,
    pub disk: Arc<MemDisk>,
    pub counters: Arc<Counters>,
    pub shutdown: CancellationToken,
    pub server: JoinHandle<()>,
}

pub fn serve(disk: MemDisk) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd.sock");
    let disk = Arc::new(disk);
    let export = Export::new("disk", Arc::clone(&disk) as Arc<dyn BlockSource>);
    let (counters, shutdown) = (Arc::clone(&export.counters), CancellationToken::new());
    let server = tokio::spawn(serve_unix(UnixListener::bind(&socket).unwrap(), export, shutdown.clone()));
    Served { dir, socket, disk, counters, shutdown, server }
}

impl Served {
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}
