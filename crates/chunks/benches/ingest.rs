//! Ingest beside `qemu-img convert -c`, on the same disks.
//!
//! ```text
//! cargo bench -p lazuli-chunks --bench ingest -- FIRST [SECOND]     two images of like content, raw or .vhd
//! cargo bench -p lazuli-chunks --bench ingest -- --short            small samples of its own
//! cargo bench -p lazuli-chunks --bench ingest -- --frames FILE      sizes by zstd level and by chunks a frame
//! ```
//! Both write to the same temporary folder (`TMPDIR`). What is stored of the second disk beside the
//! first shows deduplication, which a qcow2 file does not have. `--rounds N` repeats, taking turns (the medians
//! count; processor seconds, user and system together, are the steadier figure on a shared machine). Our seconds
//! last until all is durable; qemu-img syncs nothing. `--no-reads` leaves out the reads.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lazuli_chunks::bench::{self, Pattern};
use lazuli_chunks::chunker::{Chunker, ChunkerParams, Verdict};
use lazuli_chunks::{Cache, Progress, Region, RegionConfig};
use lazuli_disks::{DiskSource, RawFile, vhd};

struct Line {
    what: String,
    seconds: f64,
    cpu: f64,
    stored: u64,
    peak: u64,
}

fn main() -> Result<()> {
    let mut short = false;
    let mut only_frames = false;
    let mut with_reads = true;
    let mut rounds = 1;
    let mut files = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--short" => short = true,
            "--frames" => only_frames = true,
            "--no-reads" => with_reads = false,
            "--rounds" => rounds = args.next().context("--rounds N")?.parse()?,
            "--bench" | "--test" => {}
            file => files.push(PathBuf::from(file)),
        }
    }
    let work = tempfile::tempdir()?;
    if files.is_empty() {
        // `cargo test --benches` comes without arguments, too.
        anyhow::ensure!(short || std::env::args().len() <= 2, "name one or two disk images, or --short");
        files = samples(work.path())?;
    }
    if only_frames {
        return files.iter().try_for_each(|f| frames(f));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let mut lines: Vec<(Vec<Line>, Vec<Line>)> = files.iter().map(|_| Default::default()).collect();
    for round in 0..rounds {
        let store = work.path().join(format!("store{round}"));
        let region = runtime.block_on(Region::open(RegionConfig::local("bench", &store, Cache::new(64 << 20))?))?;
        for (file, (theirs, ours)) in files.iter().zip(&mut lines) {
            theirs.push(qemu_img(file, &work.path().join("out.qcow2"))?);
            ours.push(ingest(&runtime, &region, file, round == 0)?);
        }
        drop(region);
        if with_reads && round + 1 == rounds {
            reads(&runtime, &store, &files)?;
        }
        if round == 0 {
            index_size(&runtime, &store)?;
        }
        std::fs::remove_dir_all(&store)?;
    }
    println!("{:<44} {:>8} {:>8} {:>10} {:>7} {:>9}", "", "seconds", "cpu", "MiB stored", "ratio", "peak MiB");
    for ((theirs, ours), file) in lines.iter().zip(&files) {
        let data = data_bytes(&*open(file)?)?;
        println!("{} ({} MiB of data)", file.display(), data >> 20);
        for lines in [theirs, ours] {
            let (seconds, cpu) = (median(lines, |l| l.seconds), median(lines, |l| l.cpu));
            let line = &lines[0];
            let peak = lines.iter().map(|l| l.peak).max().unwrap_or(0) >> 20;
            let (ratio, stored) = (permille(data, line.stored), line.stored >> 20);
            println!("  {:<42} {seconds:>8.2} {cpu:>8.2} {stored:>10} {ratio:>7} {peak:>9}", line.what);
        }
    }
    Ok(())
}

fn median(lines: &[Line], figure: impl Fn(&Line) -> f64) -> f64 {
    let mut all: Vec<f64> = lines.iter().map(figure).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Processor seconds used by this process and by its ended children (Linux; elsewhere zero).
fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may hold spaces; times are in hundredths of a second.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<f64> = after_name.split_whitespace().skip(11).take(4).filter_map(|t| t.parse().ok()).collect();
    match ticks[..] {
        [user, system, child_user, child_system] => ((user + system) / 100.0, (child_user + child_system) / 100.0),
        _ => (0.0, 0.0),
    }
}

/// Bytes of the index log for each chunk.
fn index_size(runtime: &tokio::runtime::Runtime, store: &Path) -> Result<()> {
    let region = runtime.block_on(Region::open(RegionConfig::local("bench", store, Cache::new(64 << 20))?))?;
    let usage = runtime.block_on(region.usage())?;
    let log = std::fs::metadata(store.join("index").join("index.log"))?.len();
    println!("index: {} KiB, {} bytes a chunk, {} packs", log >> 10, log / usage.chunks.max(1), usage.packs);
    Ok(())
}

fn permille(data: u64, stored: u64) -> String {
    let ratio = data * 100 / stored.max(1);
    format!("{}.{:02}", ratio / 100, ratio % 100)
}

fn is_vhd(file: &Path) -> bool {
    file.extension().is_some_and(|e| e.eq_ignore_ascii_case("vhd"))
}

fn open(file: &Path) -> Result<Arc<dyn DiskSource>> {
    Ok(if is_vhd(file) { Arc::new(vhd::open_fixed(file)?) } else { Arc::new(RawFile::open(file)?) })
}

fn data_bytes(disk: &dyn DiskSource) -> Result<u64> {
    let (mut at, mut sum) = (0, 0);
    while let Some(run) = disk.next_data(at)? {
        sum += run.end - run.start;
        at = run.end;
    }
    Ok(sum)
}

fn ingest(runtime: &tokio::runtime::Runtime, region: &Region, file: &Path, tell: bool) -> Result<Line> {
    let before = cpu_seconds().0;
    let report = runtime.block_on(bench::ingest(region, open(file)?, &Progress::new()))?;
    let done = report.ingested;
    if tell {
        println!(
            "{}: {} chunks, {} new, {} KiB on average, {} MiB new",
            file.display(),
            done.chunks,
            done.new_chunks,
            (done.data_bytes >> 10) / done.chunks.max(1),
            done.new_bytes >> 20
        );
    }
    Ok(Line {
        what: "lazuli ingest (fsync)".into(),
        seconds: report.seconds,
        cpu: cpu_seconds().0 - before,
        stored: done.stored_bytes,
        peak: report.peak_memory_bytes.unwrap_or(0),
    })
}

fn qemu_img(file: &Path, out: &Path) -> Result<Line> {
    let format = if is_vhd(file) { "vpc" } else { "raw" };
    let before = cpu_seconds().1;
    let start = Instant::now();
    let mut child = Command::new("qemu-img")
        .args(["convert", "-c", "-m", "16", "-W", "-f", format, "-O", "qcow2", "-o", "compression_type=zstd"])
        .args([file, out])
        .spawn()
        .context("qemu-img is needed (Debian package qemu-utils)")?;
    let mut peak = 0;
    let status = loop {
        peak = peak.max(bench::peak_memory_of(&child.id().to_string()).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        #[expect(clippy::disallowed_methods, reason = "samples the memory of a running process")]
        std::thread::sleep(Duration::from_millis(5));
    };
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() {
        bail!("qemu-img failed: {status}");
    }
    let cpu = cpu_seconds().1 - before;
    let stored = std::fs::metadata(out)?.len();
    std::fs::remove_file(out)?;
    Ok(Line { what: "qemu-img convert -c zstd (no fsync)".into(), seconds, cpu, stored, peak })
}

/// Reads with a cold cache of our own (the system's may be warm), compared with the file.
fn reads(runtime: &tokio::runtime::Runtime, store: &Path, files: &[PathBuf]) -> Result<()> {
    let patterns = [
        ("sequential, 1 MiB", Pattern::Sequential),
        ("random, 4 KiB", Pattern::Random { reads: 4000, len: 4 << 10 }),
        ("random, 64 KiB", Pattern::Random { reads: 2000, len: 64 << 10 }),
    ];
    for (name, pattern) in patterns {
        let region = runtime.block_on(Region::open(RegionConfig::local("bench", store, Cache::new(64 << 20))?))?;
        let source = open(&files[0])?;
        let done = runtime.block_on(bench::ingest(&region, Arc::clone(&source), &Progress::new()))?;
        let r = runtime.block_on(bench::read(&region, done.ingested.manifest, pattern, Some(&*source)))?;
        println!(
            "read {name}: {:.0} MiB/s, {:.0} reads/s, median {} us, p99 {} us",
            r.mib_per_second, r.reads_per_second, r.median_micros, r.p99_micros
        );
    }
    Ok(())
}

/// Two disks whose second shares most with the first, at other offsets.
fn samples(dir: &Path) -> Result<Vec<PathBuf>> {
    let text: Vec<u8> = (0..200_000u64)
        .flat_map(|i| format!("{:x} lies at {i}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes())
        .collect();
    let block = |n: usize| &text[n * 4096 % (text.len() - 4096)..][..4096];
    let make = |name: &str, shift: usize, changed: usize| {
        let mut bytes = vec![0; 32 << 20];
        for (i, out) in bytes.chunks_exact_mut(4096).skip(shift).enumerate().filter(|(i, _)| i % 64 < 40) {
            out.copy_from_slice(block(if i < changed { i + 7 } else { i }));
            out[..8].copy_from_slice(&i.to_le_bytes());
        }
        let path = dir.join(name);
        std::fs::write(&path, bytes).map(|()| path)
    };
    Ok(vec![make("first.raw", 0, 0)?, make("second.raw", 11, 300)?])
}

/// What levels and larger frames would save, and what they cost.
fn frames(file: &Path) -> Result<()> {
    let chunks = chunks(&*open(file)?)?;
    let plain: usize = chunks.iter().map(Vec::len).sum();
    println!("{}: {} chunks, {} MiB", file.display(), chunks.len(), plain >> 20);
    for (level, together) in [(1, 1), (3, 1), (5, 1), (9, 1), (3, 2), (3, 4), (3, 8)] {
        let mut zstd = zstd::bulk::Compressor::new(level)?;
        let (mut stored, mut packing, mut unpacking) = (0, Duration::ZERO, Duration::ZERO);
        for frame in chunks.chunks(together) {
            let frame = frame.concat();
            let start = Instant::now();
            let packed = zstd.compress(&frame)?;
            packing += start.elapsed();
            let start = Instant::now();
            zstd::bulk::decompress(&packed, frame.len())?;
            unpacking += start.elapsed();
            stored += packed.len().min(frame.len());
        }
        let count = u32::try_from(chunks.len().div_ceil(together))?;
        println!(
            "  level {level}, {together} chunks a frame: {} KiB stored, {:.2} s to pack, {} us to unpack one",
            stored >> 10,
            packing.as_secs_f64(),
            (unpacking / count).as_micros()
        );
    }
    Ok(())
}

/// The distinct chunks of a disk, in its order.
fn chunks(disk: &dyn DiskSource) -> Result<Vec<Vec<u8>>> {
    let mut chunker = Chunker::new(ChunkerParams::STANDARD);
    let (mut out, mut chunk, mut at) = (Vec::new(), Vec::new(), 0);
    let mut seen = HashSet::new();
    let mut end = |chunk: &mut Vec<u8>| {
        let chunk = std::mem::take(chunk);
        if !chunk.is_empty() && seen.insert(blake3::hash(&chunk)) {
            out.push(chunk);
        }
    };
    while let Some(run) = disk.next_data(at)? {
        end(&mut chunk);
        chunker.skip_hole();
        at = run.start;
        while at < run.end {
            let mut block = vec![0; usize::try_from((run.end - at).min(4096))?];
            disk.read_at(at, &mut block)?;
            at += block.len() as u64;
            let verdict = chunker.push(&block);
            if verdict != Verdict::Zero {
                chunk.extend(block);
            }
            if verdict != Verdict::Extend {
                end(&mut chunk);
            }
        }
    }
    end(&mut chunk);
    Ok(out)
}
