//! Measuring the store alone, without a server: for `lazuli bench` and `benches/ingest`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lazuli_disks::DiskSource;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::error::{ChunkError, Result};
use crate::id::ManifestId;
use crate::ingest::Ingested;
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
