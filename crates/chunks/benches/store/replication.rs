//! Replication between two local stores beside a plain copy of the same packs, and over a line that is cut ten times.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Result, bail};
use lazuli_chunks::bench::cpu_seconds;
use lazuli_chunks::{Cache, ChunkError, ManifestId, Progress, Region, RegionConfig};
use tokio_util::sync::CancellationToken;

use crate::common::{FaultyStore, pack_files, replicate_until};
use crate::{inputs, mib, ratio};

const CUTS: u64 = 10;

/// One disk in the source, and the packs that it added there.
struct Disk {
    file: PathBuf,
    manifest: ManifestId,
    packs: Vec<PathBuf>,
    bytes: u64,
}

struct Source {
    region: Region,
    /// Counts what is read of it.
    store: Arc<FaultyStore>,
    disks: Vec<Disk>,
}

/// What one disk took in one round.
#[derive(Clone, Copy)]
struct Run {
    replication: Took,
    copy: Took,
    read: u64,
}

/// On the clock, and of the processors (user and system).
#[derive(Clone, Copy)]
struct Took {
    seconds: f64,
    cpu: f64,
}

struct Timer(Instant, f64);

impl Timer {
    fn start() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    fn took(&self) -> Took {
        Took { seconds: self.0.elapsed().as_secs_f64(), cpu: cpu_seconds() - self.1 }
    }
}

/// Prints all figures. Each disk is replicated after those before it, so it moves what they do not have.
pub fn compare(work: &Path, files: &[PathBuf], rounds: usize) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let source = source(&work.join("source"), files).await?;
        let mut runs: Vec<Vec<Run>> = source.disks.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            one_round(&source, &work.join("round"), round, &mut runs).await?;
        }
        println!(
            "\nreplication between two local stores, beside a plain copy of the same packs ({rounds} rounds, medians)"
        );
        let head = ["missing MiB", "moved MiB", "÷ missing", "seconds", "MiB/s", "÷ copy", "cpu s", "copy cpu s"];
        print!("{:<34}", "");
        head.iter().for_each(|h| print!(" {h:>11}"));
        println!();
        for (disk, runs) in source.disks.iter().zip(&runs) {
            let (seconds, copy) = (median(runs, |r| r.replication.seconds), median(runs, |r| r.copy.seconds));
            let (cpu, copy_cpu) = (median(runs, |r| r.replication.cpu), median(runs, |r| r.copy.cpu));
            let moved = runs.iter().map(|r| r.read).max().unwrap_or(0);
            println!(
                "{:<34} {:>11.1} {:>11.1} {:>11.3} {seconds:>11.2} {:>11.0} {:>11.2} {cpu:>11.2} {copy_cpu:>11.2}",
                disk.file.file_name().unwrap_or_default().to_string_lossy(),
                mib(disk.bytes),
                mib(moved),
                ratio(moved, disk.bytes),
                mib(disk.bytes) / seconds,
                copy / seconds,
            );
        }
        cuts(&source, &work.join("cuts")).await
    })
}

async fn source(dir: &Path, files: &[PathBuf]) -> Result<Source> {
    let store = FaultyStore::new(dir);
    let mut config = RegionConfig::local("eastus", dir, Cache::new(16 << 20))?;
    config.stores = vec![Arc::clone(&store) as _];
    let region = Region::open(config).await?;
    let mut disks = Vec::new();
    for file in files {
        let before = pack_files(dir);
        let done = region.ingest(inputs::open(file)?, &Progress::new(), &CancellationToken::new()).await?;
        let packs: Vec<_> = pack_files(dir).into_iter().filter(|p| !before.contains(p)).collect();
        let mut bytes = 0;
        for pack in &packs {
            bytes += pack.metadata()?.len();
        }
        disks.push(Disk { file: file.clone(), manifest: done.manifest, packs, bytes });
    }
    Ok(Source { region, store, disks })
}

async fn target(dir: &Path) -> Result<Region> {
    Ok(Region::open(RegionConfig::local("westus", dir, Cache::new(16 << 20))?).await?)
}

async fn one_round(source: &Source, dir: &Path, round: usize, runs: &mut [Vec<Run>]) -> Result<()> {
    let west = target(&dir.join("west")).await?;
    for (number, disk) in source.disks.iter().enumerate() {
        let folder = dir.join(format!("copy{number}"));
        // They take turns in who is first.
        let early = if round.is_multiple_of(2) { Some(plain_copy(disk, &folder)?) } else { None };
        source.store.got_bytes.store(0, Ordering::Relaxed);
        let timer = Timer::start();
        west.replicate_from(&source.region, disk.manifest, &Progress::new(), &CancellationToken::new()).await?;
        let replication = timer.took();
        let read = source.store.got_bytes.load(Ordering::Relaxed);
        let copy = match early {
            Some(copy) => copy,
            None => plain_copy(disk, &folder)?,
        };
        runs[number].push(Run { replication, copy, read });
    }
    drop(west);
    Ok(std::fs::remove_dir_all(dir)?)
}

/// Copies the packs and syncs them, as the store does.
fn plain_copy(disk: &Disk, folder: &Path) -> Result<Took> {
    std::fs::create_dir_all(folder)?;
    let timer = Timer::start();
    for (number, pack) in disk.packs.iter().enumerate() {
        let mut out = File::create(folder.join(number.to_string()))?;
        std::io::copy(&mut File::open(pack)?, &mut out)?;
        out.sync_all()?;
    }
    Ok(timer.took())
}

/// Cuts the first disk's replication at ten random points; each time it goes on.
async fn cuts(source: &Source, dir: &Path) -> Result<()> {
    let Some(disk) = source.disks.first() else { return Ok(()) };
    let west = target(dir).await?;
    source.store.got_bytes.store(0, Ordering::Relaxed);
    let mut random = u64::from(std::process::id()) | 1;
    let mut cut = 0;
    for _ in 0..CUTS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let more = (random >> 33) % (disk.bytes / CUTS * 2).max(1) + 1;
        match replicate_until(&west, &source.region, disk.manifest, more).await {
            Ok(_) => break,
            Err(ChunkError::Cancelled) => cut += 1,
            Err(e) => bail!(e),
        }
    }
    west.replicate_from(&source.region, disk.manifest, &Progress::new(), &CancellationToken::new()).await?;
    let read = source.store.got_bytes.load(Ordering::Relaxed);
    let largest = disk.packs.iter().filter_map(|p| p.metadata().ok()).map(|m| m.len()).max().unwrap_or(0);
    let twice = read.saturating_sub(disk.bytes) / u64::max(cut, 1);
    println!(
        "cut {cut} times at random points: {:.1} MiB read of {:.1} MiB missing; {:.1} MiB read twice a cut (a pack: {:.1} MiB)",
        mib(read),
        mib(disk.bytes),
        mib(twice),
        mib(largest),
    );
    Ok(())
}

fn median(runs: &[Run], figure: impl Fn(&Run) -> f64) -> f64 {
    let mut all: Vec<f64> = runs.iter().map(figure).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
