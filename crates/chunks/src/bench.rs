//! Measuring the store alone, without a server: for `lazuli bench` and this crate's benches.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lazuli_disks::DiskSource;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{ChunkError, Result};
use crate::id::{BlobKind, ManifestId};
use crate::index::Index;
use crate::ingest::Ingested;
use crate::log::{Key, Record};
use crate::pack::{Check, Frame, Part};
use crate::progress::Progress;
use crate::region::Region;

/// One ingest, measured.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestReport {
    pub seconds: f64,
    pub ingested: Ingested,
    /// Data bytes for each byte stored; `None` if nothing was stored.
    pub ratio: Option<f64>,
    pub mib_per_second: f64,
    /// The process's largest resident memory during the ingest, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// Reads of one kind, measured.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadReport {
    pub seconds: f64,
    pub reads: u64,
    pub bytes: u64,
    pub mib_per_second: f64,
    pub reads_per_second: f64,
    pub median_micros: u64,
    pub p99_micros: u64,
    pub peak_memory_bytes: Option<u64>,
}

/// An index of made-up chunks, measured by the processor seconds of one thread.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexReport {
    pub chunks: u64,
    /// What the index takes in memory.
    pub bytes: u64,
    pub filled_per_second: f64,
    pub found_per_second: f64,
    pub missed_per_second: f64,
}

/// Which reads to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// The disk's data from start to end, in reads of 1 MiB.
    Sequential,
    /// `reads` reads of `len` bytes (a multiple of 4 KiB) at places drawn evenly from the data.
    Random { reads: u64, len: u64 },
}

/// Ingests `source` and measures it. `progress` may be watched meanwhile.
pub async fn ingest(region: &Region, source: Arc<dyn DiskSource>, progress: &Progress) -> Result<IngestReport> {
    reset_peak_memory();
    let start = Instant::now();
    let ingested = region.ingest(source, progress, &CancellationToken::new()).await?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(IngestReport {
        seconds,
        ingested,
        ratio: (ingested.stored_bytes > 0).then(|| as_f64(ingested.new_bytes) / as_f64(ingested.stored_bytes)),
        mib_per_second: mib(ingested.data_bytes) / seconds,
        peak_memory_bytes: peak_memory(),
    })
}

/// Reads from a manifest and measures it; with `expect`, every byte is compared to that disk
/// ([`ChunkError::Corrupt`] if one differs; comparing is not counted).
pub async fn read(
    region: &Region,
    manifest: ManifestId,
    pattern: Pattern,
    expect: Option<&dyn DiskSource>,
) -> Result<ReadReport> {
    let reader = region.reader(manifest).await?;
    reset_peak_memory();
    let places = places(&reader.extents(0, reader.size()).await?, pattern);
    let mut took = Vec::with_capacity(places.len());
    let mut bytes = 0;
    let (mut buf, mut other) = (Vec::new(), Vec::new());
    for (offset, len) in places {
        let size = usize::try_from(len).expect("a read is small");
        buf.resize(size, 0);
        let start = Instant::now();
        reader.read_at(offset, &mut buf).await?;
        took.push(start.elapsed());
        bytes += len;
        if let Some(expect) = expect {
            other.resize(size, 0);
            expect.read_at(offset, &mut other).map_err(|source| ChunkError::Source { offset, source })?;
            if other != buf {
                return Err(ChunkError::corrupt(
                    "the stored disk",
                    format!("it differs within {len} bytes of {offset}"),
                ));
            }
        }
    }
    Ok(report(took, bytes))
}

/// Fills an index with `chunks` made-up chunks, six in a frame and 1,800 in a pack, and looks up a million of them and a
/// million others, at random, in the calling thread.
pub fn index(chunks: u64) -> IndexReport {
    const LOOKUPS: u64 = 1_000_000;
    let index = Index::in_memory();
    let start = cpu_seconds();
    let mut pack = Vec::new();
    let mut done = 0;
    while done < chunks {
        let end = (done + 1800).min(chunks);
        pack.extend((done..end).step_by(6).map(|first| made_up_frame(first..(first + 6).min(end))));
        let frames = std::mem::take(&mut pack);
        index.absorb(&Record::PackAdded { pack: Uuid::from_u128(u128::from(done)), len: 32 << 20, frames });
        done = end;
    }
    let filled = cpu_seconds() - start;
    let look_up = |base: u64| {
        let mut found = 0u64;
        let start = cpu_seconds();
        for n in 0..LOOKUPS {
            let at = base + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % chunks.max(1);
            found += u64::from(index.lookup_key(made_up_key(at)).is_some());
        }
        (found, as_f64(LOOKUPS) / (cpu_seconds() - start).max(0.01))
    };
    let (found, found_per_second) = look_up(0);
    let (missed, missed_per_second) = look_up(1 << 60);
    debug_assert!((found, missed) == (LOOKUPS, 0) || chunks == 0);
    let bytes = index.footprint().0 as u64;
    IndexReport {
        chunks,
        bytes,
        filled_per_second: as_f64(chunks) / filled.max(0.01),
        found_per_second,
        missed_per_second,
    }
}

fn made_up_frame(chunks: Range<u64>) -> Frame<Key> {
    const LEN: u32 = 20 << 10;
    let place = u32::try_from(chunks.start % 1800).unwrap_or(0);
    let blobs: Vec<_> = (0..).zip(chunks).map(|(i, n)| Part { id: made_up_key(n), at: i * LEN, len: LEN }).collect();
    let plain_len = blobs.last().map_or(0, |b| b.at + b.len);
    let check = Some(Check([1; 16]));
    Frame { offset: place * 6000, stored_len: 36_000, plain_len, kind: BlobKind::Chunk, raw: false, check, blobs }
}

/// Spread like a hash.
fn made_up_key(n: u64) -> Key {
    let mut key = [0; 20];
    let mut state = n;
    for part in key.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        part.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..part.len()]);
    }
    Key(key)
}

fn report(mut took: Vec<Duration>, bytes: u64) -> ReadReport {
    let seconds = took.iter().sum::<Duration>().as_secs_f64().max(1e-9);
    took.sort();
    let quantile = |percent: usize| {
        let at = (took.len() * percent / 100).min(took.len().saturating_sub(1));
        took.get(at).map_or(0, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX))
    };
    let reads = took.len() as u64;
    ReadReport {
        seconds,
        reads,
        bytes,
        mib_per_second: mib(bytes) / seconds,
        reads_per_second: as_f64(reads) / seconds,
        median_micros: quantile(50),
        p99_micros: quantile(99),
        peak_memory_bytes: peak_memory(),
    }
}

/// The reads to make, within the data.
fn places(extents: &[crate::DiskExtent], pattern: Pattern) -> Vec<(u64, u64)> {
    let mut at = 0;
    let mut data = Vec::new();
    for extent in extents {
        if !extent.hole {
            data.push((at, extent.len));
        }
        at += extent.len;
    }
    match pattern {
        Pattern::Sequential => {
            const READ: u64 = 1 << 20;
            let split = |(start, len): (u64, u64)| {
                (0..len.div_ceil(READ)).map(move |i| (start + i * READ, READ.min(len - i * READ)))
            };
            data.into_iter().flat_map(split).collect()
        }
        Pattern::Random { reads, len } => random_places(&data, at, reads, len),
    }
}

fn random_places(data: &[(u64, u64)], size: u64, reads: u64, len: u64) -> Vec<(u64, u64)> {
    let total: u64 = data.iter().map(|(_, n)| n).sum();
    let starts: Vec<u64> = data
        .iter()
        .scan(0, |sum, (_, n)| {
            let start = *sum;
            *sum += n;
            Some(start)
        })
        .collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let draw = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let wanted = state % total;
        let run = starts.partition_point(|s| *s <= wanted) - 1;
        let offset = (data[run].0 + wanted - starts[run]) / 4096 * 4096;
        (offset, len.min(size - offset))
    };
    if total == 0 { Vec::new() } else { (0..reads).map(draw).collect() }
}

fn mib(bytes: u64) -> f64 {
    as_f64(bytes) / f64::from(1 << 20)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

/// Processor seconds, user and system, of this process, in hundredths (Linux; elsewhere zero).
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may hold spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// The largest resident memory of this process since [`reset_peak_memory`], in bytes.
pub fn peak_memory() -> Option<u64> {
    peak_memory_of("self")
}

/// The same of another process, while it runs.
pub fn peak_memory_of(pid: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Starts the measure of [`peak_memory`] anew (Linux; elsewhere nothing happens).
pub fn reset_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
