//! `lazuli host`: the virtual machines of one computer.
//!
//! Asked to end it stops serving and leaves the guests running; the next host takes them over.

use crate::{files, signals, site};
use anyhow::Context;
use lazuli_chunks::Cache;
use lazuli_engine::base_images::StoredImages;
use lazuli_engine::{OpenStores, RegionStores};
use lazuli_vmm::hypervisor::{Qemu, QemuConfig};
use lazuli_vmm::{Host, HostConfig};
use std::path::PathBuf;
use std::sync::Arc;

/// Decompressed image data kept in memory, unless configured.
const CACHE_MIB: u64 = 128;
/// Image data of object stores kept on disk, unless configured.
const DISK_CACHE_MIB: u64 = 4096;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server's data folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave the session of whoever started this process, so that it does not end with that session.
    #[arg(long, hide = true)]
    detach: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    if args.detach {
        // Fails only for the leader of a group, who has left already.
        let _ = rustix::process::setsid();
    }
    let (config, dir) = site::find(args.config.as_deref(), args.data_dir.as_deref())?;
    dir.create()?;
    files::private_dir(&dir.host())?;
    let shutdown = signals::shutdown()?;
    let bridges = config.bridges()?;
    let stores = RegionStores::new(dir.regions(), config.regions()?);
    stores.check().await?;
    let section = config.host;
    let firmware = both("firmware", section.firmware_code, section.firmware_variables)?;
    let secure_firmware = both("secure_firmware", section.secure_firmware_code, section.secure_firmware_variables)?;
    let qemu = QemuConfig { program: section.qemu, accelerator: section.accelerator, firmware, secure_firmware };
    let qemu = Qemu::find(qemu, &dir.host()).await.context("no usable QEMU")?;
    let cache = Cache::new(section.cache_mib.unwrap_or(CACHE_MIB) << 20);
    let open = match dir.is_workers() {
        true => OpenStores::for_following(stores, cache),
        false => OpenStores::for_reading(stores, cache),
    };
    let (kept, mib) = (dir.host().join("cache"), section.disk_cache_mib.unwrap_or(DISK_CACHE_MIB));
    let images =
        StoredImages::keeping(open, &kept, mib << 20).with_context(|| format!("cannot use {}", kept.display()))?;
    let host = HostConfig { bridges, ..HostConfig::new(dir.host(), Arc::new(images), Arc::new(qemu)) };
    Ok(Host::run(host, shutdown).await?)
}

/// Code and variables of a firmware.
fn both(name: &str, code: Option<PathBuf>, variables: Option<PathBuf>) -> anyhow::Result<Option<(PathBuf, PathBuf)>> {
    match (code, variables) {
        (Some(code), Some(variables)) => Ok(Some((code, variables))),
        (None, None) => Ok(None),
        _ => anyhow::bail!("{name}_code and {name}_variables go together; set both or none"),
    }
}
