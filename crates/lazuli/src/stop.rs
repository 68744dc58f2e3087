//! `lazuli stop`: ends what runs for a data folder.
//!
//! The server first (it would start the host again), then on request the virtual machines, then the host process.
//! It returns when they are gone. Guests run on unless `--guests` is given.

use crate::data_dir::DataDir;
use crate::keeper;
use anyhow::{Context, bail};
use lazuli_vmm::hypervisor::Process;
use lazuli_vmm::{HostClient, PowerState};
use rustix::fs::{FlockOperation, flock};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// A server may take its time to drain, a host to close its guests' disks.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server's data folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Switch the virtual machines off too, by the power button and after two minutes by force.
    #[arg(long)]
    guests: bool,
    /// With --guests: by force at once.
    #[arg(long, requires = "guests")]
    force: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let dir = DataDir::find(args.data_dir.as_deref())?;
    if !dir.path().is_dir() {
        bail!("there is no folder {}", dir.path().display());
    }
    stop_server(&dir).await?;
    if args.guests {
        stop_guests(&dir, args.force).await?;
    }
    stop_host(&dir).await
}

async fn stop_server(dir: &DataDir) -> anyhow::Result<()> {
    let Some(pid) = dir.server_pid()? else { return Ok(()) };
    end("the server", pid).await?;
    wait_until("the server", || Ok(dir.server_pid()?.is_none())).await
}

async fn stop_host(dir: &DataDir) -> anyhow::Result<()> {
    let lock = dir.host().join("host.lock");
    if let Ok(info) = keeper::client(dir).info().await {
        end("the host process", i32::try_from(info.pid).context("the host process has no usable id")?).await?;
    }
    wait_until("the host process", || is_free(&lock)).await
}

/// Every machine is off when this returns.
async fn stop_guests(dir: &DataDir, force: bool) -> anyhow::Result<()> {
    let Some(client) = host_for_guests(dir).await? else { return Ok(()) };
    let on = |p: &PowerState| !matches!(p, PowerState::Stopped | PowerState::Crashed);
    let running = client.list().await?.into_iter().filter(|vm| on(&vm.power));
    let stops = running.map(|vm| {
        let client = client.clone();
        tokio::spawn(async move { (vm.id, client.power_off(vm.id, force).await) })
    });
    for stop in stops.collect::<Vec<_>>() {
        let (id, result) = stop.await?;
        result.with_context(|| format!("the virtual machine {id} cannot be switched off"))?;
    }
    Ok(())
}

/// The running host, or one that is started because guests without a host are there. `None`: there are no machines.
async fn host_for_guests(dir: &DataDir) -> anyhow::Result<Option<HostClient>> {
    let client = keeper::client(dir);
    if client.info().await.is_ok() {
        return Ok(Some(client));
    }
    let machines = std::fs::read_dir(dir.host().join("vms")).map_or(0, Iterator::count);
    if machines == 0 {
        return Ok(None);
    }
    let mut child = keeper::start(dir, None)?;
    let deadline = Instant::now() + PATIENCE;
    while client.info().await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!(
                "a host process is needed to switch the guests off, but it ended ({status}); see {}",
                keeper::log_file(dir).display()
            );
        }
        if Instant::now() > deadline {
            bail!("the host process does not answer; see {}", keeper::log_file(dir).display());
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(Some(client))
}

/// Returns when the process has ended: what it held is free a moment before.
async fn end(what: &str, pid: i32) -> anyhow::Result<()> {
    let process = match Process::open(pid) {
        Ok(process) => process,
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("process {pid} cannot be watched")),
    };
    process.terminate().with_context(|| format!("process {pid} cannot be told to end"))?;
    match tokio::time::timeout(PATIENCE, process.ended()).await {
        Ok(ended) => ended.with_context(|| format!("process {pid} cannot be watched")),
        Err(_) => bail!("{what} was asked to end and did not within {} seconds", PATIENCE.as_secs()),
    }
}

fn is_free(lock: &Path) -> anyhow::Result<bool> {
    match std::fs::File::open(lock) {
        Ok(file) => Ok(flock(&file, FlockOperation::NonBlockingLockShared).is_ok()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e).with_context(|| format!("cannot open {}", lock.display())),
    }
}

async fn wait_until(what: &str, gone: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !gone()? {
        if Instant::now() > deadline {
            bail!("{what} was asked to end and did not within {} seconds", PATIENCE.as_secs());
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}
