//! The content store beside qemu-img, casync, borg and restic on the same disks, its reads beside qemu-nbd and cp, its
//! replication beside a plain copy.
//!
//! ```text
//! cargo bench -p lazuli-chunks --bench store -- [OPTION]... FIRST [NEXT]...     images of like content, raw or .vhd
//! cargo bench -p lazuli-chunks --bench store -- --short                         small samples of its own, one round
//!
//! --rounds N     all tools take turns, N times; the medians are printed
//! --sparse       also a disk of 1 TiB that holds FIRST's data a dozen times, each time with other bytes
//! --no-reads     leaves out the reads
//! --replication  only the replication
//! --only TOOL    leaves out the peers but this one
//! --limit S      a run that takes longer is ended and told as such (default 300)
//! ```
//! Every tool runs as a process of its own in a folder below `TMPDIR`, Lazuli too. It stores the images one after the other in one
//! repository; "stored" is what each adds to it. Lazuli, borg and restic sync what they write, the others do not. Compare only
//! figures of one run; on a shared machine processor seconds (user and system) are steadier than seconds.

#[path = "../../tests/common/mod.rs"]
mod common;
mod inputs;
mod reads;
mod replication;
mod tools;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use tools::{Run, Tool};

/// The same as the binary's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Options {
    rounds: usize,
    sparse: bool,
    reads: bool,
    replication_only: bool,
    only: Option<String>,
    limit: u64,
    files: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    // What this program runs as a child.
    match args.peek().map(String::as_str) {
        Some("--ingest") => return tools::ingest(&args.skip(1).collect::<Vec<_>>()),
        Some("--serve") => return reads::serve(&args.skip(1).collect::<Vec<_>>()),
        Some("--export") => return reads::export(&args.skip(1).collect::<Vec<_>>()),
        _ => {}
    }
    let work = tempfile::tempdir()?;
    let mut options = Options {
        rounds: 1,
        sparse: false,
        reads: true,
        replication_only: false,
        only: None,
        limit: 300,
        files: Vec::new(),
    };
    let mut short = false;
    while let Some(arg) = args.next() {
        let mut value = |name: &str| args.next().with_context(|| format!("{name} wants a value"));
        match arg.as_str() {
            "--short" => short = true,
            "--sparse" => options.sparse = true,
            "--no-reads" => options.reads = false,
            "--replication" => options.replication_only = true,
            "--rounds" => options.rounds = value("--rounds")?.parse()?,
            "--limit" => options.limit = value("--limit")?.parse()?,
            "--only" => options.only = Some(value("--only")?),
            // `cargo bench` and `cargo test --benches` say these.
            "--bench" | "--test" => short |= arg == "--test",
            file if !file.starts_with('-') => options.files.push(PathBuf::from(file)),
            other => bail!("unknown option {other}"),
        }
    }
    if options.files.is_empty() {
        anyhow::ensure!(short, "name one or more disk images, or --short");
        options.files = inputs::samples(work.path())?;
    }
    if options.replication_only {
        return replication::compare(&work.path().join("replication"), &options.files, options.rounds);
    }
    let tools = tools::all().into_iter().filter(|t| {
        let wanted = options.only.as_ref().is_none_or(|only| t.name.contains(only.as_str()));
        wanted || t.name == tools::LAZULI
    });
    let tools: Vec<Tool> = tools.collect();
    stored(&options, &tools, &work.path().join("stores"))?;
    if options.sparse {
        let disk = work.path().join("sparse.raw");
        let data = inputs::sparse(&options.files[0], &disk)?;
        println!("\n1 TiB, {} MiB of data (one round)", data >> 20);
        let mut lines = Vec::new();
        for tool in &tools {
            let folder = work.path().join("sparse");
            std::fs::create_dir_all(&folder)?;
            lines.push((tool, vec![tool.store(&folder, 0, &disk, true, options.limit)?]));
            std::fs::remove_dir_all(&folder)?;
        }
        table(data, &lines);
        std::fs::remove_file(&disk)?;
    }
    if options.reads {
        reads::compare(&work.path().join("reads"), &options.files[0])?;
    }
    replication::compare(&work.path().join("replication"), &options.files, options.rounds)
}

/// All tools take turns over all images.
fn stored(options: &Options, tools: &[Tool], work: &std::path::Path) -> Result<()> {
    let mut runs: Vec<Vec<Vec<Run>>> =
        options.files.iter().map(|_| tools.iter().map(|_| Vec::new()).collect()).collect();
    for round in 0..options.rounds {
        for (t, tool) in tools.iter().enumerate() {
            let folder = work.join(format!("{round}-{t}"));
            std::fs::create_dir_all(&folder)?;
            for (f, file) in options.files.iter().enumerate() {
                runs[f][t].push(tool.store(&folder, f, file, false, options.limit)?);
            }
            std::fs::remove_dir_all(&folder)?;
        }
        eprintln!("round {} of {} done", round + 1, options.rounds);
    }
    for (file, runs) in options.files.iter().zip(runs) {
        let data = inputs::data_bytes(&*inputs::open(file)?)?;
        println!("\n{} ({} MiB of data; {} rounds, medians)", file.display(), data >> 20, options.rounds);
        table(data, &tools.iter().zip(runs).collect::<Vec<_>>());
    }
    Ok(())
}

fn table(data: u64, lines: &[(&Tool, Vec<Run>)]) {
    let ours = lines
        .iter()
        .find(|(t, _)| t.name == tools::LAZULI)
        .map(|(_, runs)| (median(runs, |r| r.seconds), median(runs, |r| r.cpu)));
    let head = ["seconds", "÷ ours", "cpu s", "÷ ours", "stored MiB", "ratio", "peak MiB"];
    print!("{:<34}", "");
    head.iter().for_each(|h| print!(" {h:>10}"));
    println!();
    for (tool, runs) in lines {
        let (seconds, cpu) = (median(runs, |r| r.seconds), median(runs, |r| r.cpu));
        let (our_seconds, our_cpu) = ours.unwrap_or((seconds, cpu));
        if runs.iter().any(|r| r.ended_early) {
            println!("{:<34} {:>10} {:>9.1}×", tool.name, format!("> {seconds:.0}"), seconds / our_seconds);
            continue;
        }
        let stored = runs[0].stored;
        let peak = runs.iter().map(|r| r.peak).max().unwrap_or(0) >> 20;
        println!(
            "{:<34} {seconds:>10.2} {:>9.1}× {cpu:>10.2} {:>9.1}× {:>10.1} {:>10.2} {peak:>10}",
            tool.name,
            seconds / our_seconds,
            cpu / our_cpu,
            mib(stored),
            ratio(data, stored),
        );
    }
}

fn median(runs: &[Run], figure: impl Fn(&Run) -> f64) -> f64 {
    let mut all: Vec<f64> = runs.iter().map(figure).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}
