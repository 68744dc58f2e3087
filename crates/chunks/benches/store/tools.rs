//! The tools: how each stores a disk, and what that costs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lazuli_chunks::bench::peak_memory_of;
use lazuli_chunks::{Cache, Progress, Region, RegionConfig};
use tokio_util::sync::CancellationToken;

use crate::inputs;

pub const LAZULI: &str = "lazuli";
const CACHES: &str = "caches";

/// One disk stored once.
pub struct Run {
    pub seconds: f64,
    /// User and system, of the tool and all its children.
    pub cpu: f64,
    /// Bytes that the repository grew by.
    pub stored: u64,
    pub peak: u64,
    /// It was ended at the limit: only `seconds` counts.
    pub ended_early: bool,
}

pub struct Tool {
    pub name: &'static str,
    package: &'static str,
    /// Makes an empty repository in a folder.
    prepare: fn(&Path) -> Vec<Command>,
    /// Stores disk number `n` in it.
    store: fn(&Path, usize, &Path, bool) -> Command,
}

fn nothing(_: &Path) -> Vec<Command> {
    Vec::new()
}

pub fn all() -> Vec<Tool> {
    let qemu = |name, store| Tool { name, package: "qemu-utils", prepare: nothing, store };
    vec![
        Tool { name: LAZULI, package: "", prepare: nothing, store: lazuli },
        qemu("qemu-img convert (plain) -m 16 -W", |d, n, f, _| convert(d, n, f, &["-m", "16", "-W"])),
        qemu("qemu-img convert -c zlib", |d, n, f, _| convert(d, n, f, &["-c"])),
        qemu("qemu-img convert -c zlib -m 16 -W", |d, n, f, _| convert(d, n, f, &["-c", "-m", "16", "-W"])),
        qemu("qemu-img convert -c zstd", |d, n, f, _| convert(d, n, f, &["-c", "-o", "compression_type=zstd"])),
        qemu("qemu-img convert -c zstd -m 16 -W", |d, n, f, _| {
            convert(d, n, f, &["-c", "-m", "16", "-W", "-o", "compression_type=zstd"])
        }),
        Tool { name: "casync make", package: "casync", prepare: nothing, store: casync },
        Tool {
            name: "borg create (lz4)",
            package: "borgbackup",
            prepare: borg_init,
            store: |d, n, f, s| borg(d, n, f, s, "lz4"),
        },
        Tool {
            name: "borg create (zstd)",
            package: "borgbackup",
            prepare: borg_init,
            store: |d, n, f, s| borg(d, n, f, s, "zstd"),
        },
        Tool { name: "restic backup", package: "restic", prepare: restic_init, store: restic },
    ]
}

fn lazuli(dir: &Path, _: usize, file: &Path, _: bool) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_default());
    command.arg("--ingest").arg(dir.join("store")).arg(file);
    command
}

fn convert(dir: &Path, n: usize, file: &Path, options: &[&str]) -> Command {
    let format = if inputs::is_vhd(file) { "vpc" } else { "raw" };
    let mut command = Command::new("qemu-img");
    command.arg("convert").args(options).args(["-f", format, "-O", "qcow2"]);
    command.arg(file).arg(dir.join(format!("{n}.qcow2")));
    command
}

fn casync(dir: &Path, n: usize, file: &Path, _: bool) -> Command {
    let mut command = Command::new("casync");
    command.arg("make").arg(format!("--store={}", dir.join("store.castr").display()));
    command.arg(dir.join(format!("{n}.caibx"))).arg(file);
    command
}

fn borg_command(dir: &Path) -> Command {
    let mut command = Command::new("borg");
    command.env("BORG_BASE_DIR", dir.join(CACHES)).env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
    command
}

fn borg_init(dir: &Path) -> Vec<Command> {
    let mut command = borg_command(dir);
    command.args(["init", "-e", "none"]).arg(dir.join("repo"));
    vec![command]
}

fn borg(dir: &Path, n: usize, file: &Path, sparse: bool, compression: &str) -> Command {
    let mut command = borg_command(dir);
    command.args(["create", "-C", compression]);
    if sparse {
        // Borg sees holes only when it cuts at fixed places.
        command.args(["--sparse", "--chunker-params", "fixed,65536"]);
    }
    command.arg(format!("{}::{n}", dir.join("repo").display())).arg(file);
    command
}

fn restic_command(dir: &Path) -> Command {
    let mut command = Command::new("restic");
    command.env("RESTIC_PASSWORD", "lazuli").env("RESTIC_CACHE_DIR", dir.join(CACHES)).arg("-q");
    command.arg("-r").arg(dir.join("repo"));
    command
}

fn restic_init(dir: &Path) -> Vec<Command> {
    let mut command = restic_command(dir);
    command.arg("init");
    vec![command]
}

fn restic(dir: &Path, _: usize, file: &Path, _: bool) -> Command {
    let mut command = restic_command(dir);
    command.arg("backup").arg(file);
    command
}

impl Tool {
    /// Stores `file` as disk number `n` in the repository in `dir`; the first makes it. `sparse`: the disk is nearly all holes.
    pub fn store(&self, dir: &Path, n: usize, file: &Path, sparse: bool, limit: u64) -> Result<Run> {
        if n == 0 {
            for command in (self.prepare)(dir) {
                run(command, self.package, Duration::from_secs(60))?;
            }
        }
        let before = size_of_folder(dir)?;
        let mut done = run((self.store)(dir, n, file, sparse), self.package, Duration::from_secs(limit))?;
        done.stored = size_of_folder(dir)?.saturating_sub(before);
        Ok(done)
    }
}

/// Runs a command to its end or for `limit`.
pub fn run(mut command: Command, package: &str, limit: Duration) -> Result<Run> {
    let before = children_seconds();
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}; get it with: apt-get install {package}"))?;
    let mut peak = 0;
    let mut ended_early = false;
    let status = loop {
        peak = peak.max(peak_memory_of(&child.id().to_string()).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill()?;
            ended_early = true;
        }
        #[expect(clippy::disallowed_methods, reason = "samples the memory of a running process")]
        std::thread::sleep(Duration::from_millis(2));
    };
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() && !ended_early {
        let mut told = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut told)?;
        }
        bail!("{command:?}: {status}: {told}");
    }
    Ok(Run { seconds, cpu: children_seconds() - before, stored: 0, peak, ended_early })
}

/// Processor seconds, user and system, of this process's ended children (Linux; elsewhere zero).
fn children_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may hold spaces; times are in hundredths of a second.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(13).take(2).filter_map(|t| t.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// Bytes of all files below a folder, without the caches that borg and restic keep outside of their repositories.
fn size_of_folder(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    let mut folders: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.metadata()?;
            if !file.is_dir() {
                sum += file.len();
            } else if entry.file_name() != CACHES {
                folders.push(entry.path());
            }
        }
    }
    Ok(sum)
}

/// `--ingest STORE FILE`, in a process of its own.
pub fn ingest(args: &[String]) -> Result<()> {
    let [store, file] = args else { bail!("--ingest STORE FILE") };
    let runtime = tokio::runtime::Runtime::new()?;
    let done = runtime.block_on(async {
        let region = Region::open(RegionConfig::local("bench", Path::new(store), Cache::new(64 << 20))?).await?;
        let source = inputs::open(Path::new(file))?;
        anyhow::Ok(region.ingest(source, &Progress::new(), &CancellationToken::new()).await?)
    })?;
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}
