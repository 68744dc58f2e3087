//! Reads through NBD, cold and warm, beside qemu-nbd; an export beside cp.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use lazuli_chunks::{Cache, DiskReader, ManifestId, Progress, Region, RegionConfig};
use lazuli_disks::DiskSource;
use lazuli_nbd::{BlockSource, Client, Export, Extent, serve_unix};
use tokio_util::sync::CancellationToken;

use crate::{inputs, mib, tools};

const RANDOM_READS: u64 = 4000;
const CACHE: u64 = 256 << 20;

/// Prints all comparisons for one disk.
pub fn compare(work: &Path, file: &Path) -> Result<()> {
    std::fs::create_dir_all(work)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let store = work.join("store");
    let manifest = runtime.block_on(async {
        let region = Region::open(RegionConfig::local("bench", &store, Cache::new(64 << 20))?).await?;
        let done = region.ingest(inputs::open(file)?, &Progress::new(), &CancellationToken::new()).await?;
        anyhow::Ok(done.manifest)
    })?;
    let image = |name: &str, options: &[&str]| {
        let out = work.join(name);
        let mut command = Command::new("qemu-img");
        command.arg("convert").args(options).args([
            "-f",
            if inputs::is_vhd(file) { "vpc" } else { "raw" },
            "-O",
            "qcow2",
        ]);
        command.arg(file).arg(&out);
        tools::run(command, "qemu-utils", Duration::from_secs(300)).map(|_| out)
    };
    let zstd = image("zstd.qcow2", &["-c", "-o", "compression_type=zstd"])?;
    let plain = image("plain.qcow2", &[])?;
    let disk = inputs::open(file)?;
    let servers: [(&str, Start<'_>, PathBuf); 3] = [
        ("lazuli", Box::new(|socket| serve_ours(&store, manifest, socket)), store.join("packs")),
        ("qemu-nbd, zstd qcow2", Box::new(|socket| qemu_nbd(&zstd, socket)), zstd.clone()),
        ("qemu-nbd, plain qcow2", Box::new(|socket| qemu_nbd(&plain, socket)), plain.clone()),
    ];
    println!(
        "\nreads through NBD: {RANDOM_READS} of 4 KiB at random in the data, one at a time; as many anywhere on the disk, sixteen at a time, by \
         fio; all in order by nbdcopy, 1 MiB a request"
    );
    let head = ["cold 4K/s", "p99 µs", "warm 4K/s", "p99 µs", "cold fio/s", "warm fio/s", "cold MiB/s", "warm MiB/s"];
    print!("{:<24}", "");
    head.iter().for_each(|h| print!(" {h:>10}"));
    println!();
    for (name, start, files) in &servers {
        let socket = work.join("nbd.sock");
        let mut line = Vec::new();
        // Cold: a new server, its files not in memory. Warm: the same again.
        forget(files)?;
        let server = Server::new(start(&socket)?, &socket)?;
        for _ in ["cold", "warm"] {
            let (each, p99) = runtime.block_on(random(&socket, &*disk))?;
            line.extend([each, p99]);
        }
        drop(server);
        for read in [fio as fn(&Path, &dyn DiskSource) -> Result<f64>, in_order] {
            forget(files)?;
            let server = Server::new(start(&socket)?, &socket)?;
            for _ in ["cold", "warm"] {
                line.push(read(&socket, &*disk)?);
            }
            drop(server);
        }
        print!("{name:<24}");
        line.iter().for_each(|figure| print!(" {figure:>10.0}"));
        println!();
    }
    exports(work, file, &store, manifest)
}

type Start<'a> = Box<dyn Fn(&Path) -> Result<Child> + 'a>;

/// A running server; it is ended when dropped.
struct Server(Child, PathBuf);

impl Server {
    fn new(child: Child, socket: &Path) -> Result<Self> {
        let server = Self(child, socket.to_owned());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            ensure!(Instant::now() < deadline, "the server does not listen");
            #[expect(clippy::disallowed_methods, reason = "waits for another process, with a deadline")]
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}

fn serve_ours(store: &Path, manifest: ManifestId, socket: &Path) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--serve").arg(store).arg(manifest.to_string()).arg(socket);
    Ok(command.stdout(Stdio::null()).spawn()?)
}

fn qemu_nbd(image: &Path, socket: &Path) -> Result<Child> {
    let mut command = Command::new("qemu-nbd");
    command.args(["-r", "-t", "-e", "8", "-f", "qcow2", "-k"]).arg(socket).arg(image);
    command.spawn().context("cannot run qemu-nbd; get it with: apt-get install qemu-utils")
}

/// Drops a file, or all below a folder, from the system's cache.
fn forget(path: &Path) -> Result<()> {
    if path.is_dir() {
        return std::fs::read_dir(path)?.try_for_each(|entry| forget(&entry?.path()));
    }
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// Reads a second, and the 99th percentile in microseconds.
async fn random(socket: &Path, disk: &dyn DiskSource) -> Result<(f64, f64)> {
    let mut runs = Vec::new();
    let (mut at, mut total) = (0, 0);
    while let Some(run) = disk.next_data(at)? {
        at = run.end;
        runs.push((total, run.start));
        total += run.end - run.start;
    }
    let mut client = Client::connect_unix(socket, "").await?;
    let mut took = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = [0; 4096];
    let mut expected = [0; 4096];
    for _ in 0..RANDOM_READS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let wanted = state % total;
        let (before, start) = runs[runs.partition_point(|(before, _)| *before <= wanted) - 1];
        let offset = (start + wanted - before) / 4096 * 4096;
        if offset + 4096 > disk.size() {
            continue;
        }
        let begin = Instant::now();
        client.read_at(offset, &mut block).await?;
        took.push(begin.elapsed());
        disk.read_at(offset, &mut expected)?;
        ensure!(block == expected, "other bytes at {offset}");
    }
    took.sort();
    let seconds = took.iter().sum::<Duration>().as_secs_f64();
    let p99 = took[took.len() * 99 / 100].as_secs_f64() * 1e6;
    Ok((f64::from(u32::try_from(took.len())?) / seconds, p99))
}

/// Reads a second, as fio counts them.
fn fio(socket: &Path, disk: &dyn DiskSource) -> Result<f64> {
    let out = socket.with_extension("json");
    let mut command = Command::new("fio");
    command.args(["--name=random", "--ioengine=nbd", "--rw=randread", "--bs=4k", "--iodepth=16", "--randrepeat=1"]);
    command.arg(format!("--uri=nbd+unix:///?socket={}", socket.display()));
    command.arg(format!("--size={}", disk.size() / 4096 * 4096)).arg(format!("--number_ios={RANDOM_READS}"));
    command.arg("--output-format=json").arg("--output").arg(&out);
    tools::run(command, "fio", Duration::from_secs(300))?;
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&out)?)?;
    told["jobs"][0]["read"]["iops"].as_f64().context("fio tells no reads a second")
}

/// MiB of data a second.
fn in_order(socket: &Path, disk: &dyn DiskSource) -> Result<f64> {
    let mut command = Command::new("nbdcopy");
    command.args(["--connections=4", "--requests=16", "--request-size=1048576"]);
    command.arg(format!("nbd+unix:///?socket={}", socket.display())).arg("null:");
    let run = tools::run(command, "libnbd-bin", Duration::from_secs(300))?;
    Ok(mib(inputs::data_bytes(disk)?) / run.seconds)
}

/// `--serve STORE MANIFEST SOCKET`, in a process of its own.
pub fn serve(args: &[String]) -> Result<()> {
    let [store, manifest, socket] = args else { bail!("--serve STORE MANIFEST SOCKET") };
    tokio::runtime::Runtime::new()?.block_on(async {
        let region = Region::open_read_only(RegionConfig::local("bench", Path::new(store), Cache::new(CACHE))?).await?;
        let reader = region.reader(manifest.parse()?).await?;
        let listener = tokio::net::UnixListener::bind(socket)?;
        serve_unix(listener, Export::new("disk", Arc::new(Disk(reader))), CancellationToken::new()).await;
        Ok(())
    })
}

struct Disk(DiskReader);

#[async_trait]
impl BlockSource for Disk {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf).await.map_err(io::Error::other)
    }

    async fn extents(&self, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        let extents = self.0.extents(offset, len).await.map_err(io::Error::other)?;
        Ok(extents.into_iter().map(|e| Extent { len: e.len, hole: e.hole }).collect())
    }
}

/// An export of the stored disk beside a copy of the file that it came from, warm, taking turns.
fn exports(work: &Path, file: &Path, store: &Path, manifest: ManifestId) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let out = work.join("out");
    for _ in 0..3 {
        let mut export = Command::new(std::env::current_exe()?);
        export.arg("--export").arg(store).arg(manifest.to_string()).arg(&out);
        ours.push(tools::run(export, "", Duration::from_secs(300))?);
        let mut cp = Command::new("cp");
        cp.arg(file).arg(&out);
        std::fs::remove_file(&out)?;
        theirs.push(tools::run(cp, "coreutils", Duration::from_secs(300))?);
        std::fs::remove_file(&out)?;
    }
    let (a, b) = (crate::median(&ours, |r| r.seconds), crate::median(&theirs, |r| r.seconds));
    println!("\nexport {a:.2} s, cp {b:.2} s: {:.2} of its speed (warm, medians of 3)", b / a);
    Ok(())
}

/// `--export STORE MANIFEST OUT`, in a process of its own.
pub fn export(args: &[String]) -> Result<()> {
    const READ: u64 = 1 << 20;
    let [store, manifest, out] = args else { bail!("--export STORE MANIFEST OUT") };
    tokio::runtime::Runtime::new()?.block_on(async {
        let region =
            Region::open_read_only(RegionConfig::local("bench", Path::new(store), Cache::new(64 << 20))?).await?;
        let reader = region.reader(manifest.parse()?).await?;
        let file = Arc::new(File::create(out)?);
        file.set_len(reader.size())?;
        let mut at = 0;
        let mut parts = Vec::new();
        for extent in reader.extents(0, reader.size()).await? {
            let end = at + extent.len;
            if !extent.hole {
                parts.extend((at..end).step_by(1 << 20).map(|from| from..(from + READ).min(end)));
            }
            at = end;
        }
        let copies = futures::stream::iter(parts).map(|part| {
            let (reader, file) = (reader.clone(), Arc::clone(&file));
            tokio::spawn(async move {
                let mut bytes = vec![0; usize::try_from(part.end - part.start)?];
                reader.read_at(part.start, &mut bytes).await?;
                tokio::task::block_in_place(|| file.write_all_at(&bytes, part.start))?;
                anyhow::Ok(())
            })
        });
        copies.buffer_unordered(4).map(|done| done?).try_collect::<()>().await
    })
}
