//! `lazuli bench`: the content store alone, without a server.

use anyhow::Context;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use lazuli_chunks::bench::{self, IngestReport, Pattern, ReadReport};
use lazuli_chunks::{Cache, Progress, Region, RegionConfig};
use lazuli_disks::{DiskSource, format};
use serde_json::json;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const CACHE_BYTES: u64 = 64 << 20;
const RANDOM: Pattern = Pattern::Random { reads: 4096, len: 4096 };

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Stores a disk and measures that.
    Ingest(Disk),
    /// Reads a stored disk in order and at random, comparing every byte with the file.
    Read(Disk),
}

#[derive(Debug, clap::Args)]
struct Disk {
    /// The store's folder; made where there is none.
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// A VHD, VHDX, qcow2, VMDK or raw disk.
    file: PathBuf,
    /// One JSON object instead of text; also when stdout is no terminal.
    #[arg(long)]
    json: bool,
}

impl Disk {
    fn json(&self) -> bool {
        self.json || !std::io::stdout().is_terminal()
    }

    async fn region(&self) -> anyhow::Result<Region> {
        let at = || format!("cannot open the store {}", self.store.display());
        std::fs::create_dir_all(&self.store).with_context(at)?;
        let config = RegionConfig::local("bench", &self.store, Cache::new(CACHE_BYTES)).with_context(at)?;
        Region::open(config).await.with_context(at)
    }
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Ingest(disk) => ingest(&disk).await,
        What::Read(disk) => read(&disk).await,
    }
}

async fn ingest(disk: &Disk) -> anyhow::Result<()> {
    let source = open(&disk.file)?;
    let region = disk.region().await?;
    let report = ingest_with_bar(&region, source, "ingest").await?;
    let usage = region.usage().await?;
    if disk.json() {
        println!("{}", json!({"ingest": report, "storedBytes": usage.stored_bytes}));
    } else {
        print_ingest(&report);
        println!("in store  {} in {} chunks", HumanBytes(usage.stored_bytes), usage.chunks);
    }
    Ok(())
}

async fn read(disk: &Disk) -> anyhow::Result<()> {
    let source = open(&disk.file)?;
    let region = disk.region().await?;
    // A disk that is stored already is only found again.
    let stored = ingest_with_bar(&region, source.clone(), "store").await?;
    let manifest = stored.ingested.manifest;
    let in_order = bench::read(&region, manifest, Pattern::Sequential, Some(&*source)).await?;
    let at_random = bench::read(&region, manifest, RANDOM, Some(&*source)).await?;
    if disk.json() {
        println!("{}", json!({"manifest": manifest, "sequential": in_order, "random": at_random}));
    } else {
        print_read("in order", &in_order);
        print_read("at random", &at_random);
    }
    Ok(())
}

/// An image of any format, told by its content.
fn open(path: &Path) -> anyhow::Result<Arc<dyn DiskSource>> {
    let image = format::open(path).with_context(|| format!("cannot use {}", path.display()))?;
    Ok(Arc::from(image.disk))
}

/// The bar is drawn on a terminal only.
async fn ingest_with_bar(region: &Region, source: Arc<dyn DiskSource>, what: &str) -> anyhow::Result<IngestReport> {
    let progress = Progress::new();
    let bar = ProgressBar::new(0);
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.set_message(what.to_owned());
    let mut work = std::pin::pin!(bench::ingest(region, source, &progress));
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let report = loop {
        tokio::select! {
            report = &mut work => break report,
            _ = tick.tick() => {
                bar.set_length(progress.total());
                bar.set_position(progress.done());
            }
        }
    };
    bar.finish_and_clear();
    Ok(report?)
}

fn print_ingest(report: &IngestReport) {
    let done = &report.ingested;
    println!("manifest  {}", done.manifest);
    println!("time      {:.2} s, {:.0} MiB/s", report.seconds, report.mib_per_second);
    println!("disk      {}, data {}", HumanBytes(done.size), HumanBytes(done.data_bytes));
    println!("new       {} in {} of {} chunks", HumanBytes(done.new_bytes), done.new_chunks, done.chunks);
    let ratio = report.ratio.map_or_else(String::new, |r| format!(", ratio {r:.2}"));
    println!("stored    {}{ratio}", HumanBytes(done.stored_bytes));
    print_memory(report.peak_memory_bytes);
}

fn print_read(what: &str, report: &ReadReport) {
    println!("{what}: {} in {:.2} s, {:.0} MiB/s", HumanBytes(report.bytes), report.seconds, report.mib_per_second);
    println!(
        "  {:.0} reads/s, median {} µs, 99 % within {} µs",
        report.reads_per_second, report.median_micros, report.p99_micros
    );
    print_memory(report.peak_memory_bytes);
}

fn print_memory(bytes: Option<u64>) {
    if let Some(bytes) = bytes {
        println!("memory    {} at most", HumanBytes(bytes));
    }
}
