//! `lazuli worker`: virtual machines of a server on this computer (docs/fleet.md).
//!
//! It needs the server's database, the key of its secrets and the regions' stores, and has a folder and a host process of its
//! own. Asked to end it leaves the guests running.

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::{files, keeper, signals, site};
use anyhow::{Context, bail, ensure};
use lazuli_api::serve_machine_tokens;
use lazuli_engine::{WorkerSettings, listen, region_name};
use lazuli_vmm::HostConfig;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tokio::sync::oneshot;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// This worker's own folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file (TOML) with the server's database and the stores of the regions.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A region whose machines may run here; may be given more than once.
    #[arg(long = "region", value_name = "REGION", required = true)]
    regions: Vec<String>,
    /// What the worker is called [default: the computer's name]
    #[arg(long)]
    name: Option<String>,
    /// Where it listens for the server [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// How the server reaches that [default: as it listens]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Memory for machines [default: memory_mib of [host], or all of the computer's]
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u64>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let (config, dir) = site::find(args.config.as_deref(), args.data_dir.as_deref())?;
    check(&config, &dir)?;
    let regions = regions(&config, &args.regions)?;
    dir.create()?;
    let _lock = dir.lock()?;
    let settings = WorkerSettings {
        id: dir.worker_id()?,
        name: args.name.map_or_else(host_name, Ok)?,
        regions,
        memory_mib: args.memory_mib.or(config.host.memory_mib),
        listen: args.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into()),
        address: args.address,
    };
    let shutdown = signals::shutdown()?;
    let engine = site::open(&dir, &config).await?;
    let config_file = args.config.as_deref().and_then(|p| std::path::absolute(p).ok());
    files::private_dir(&dir.host())?;
    let socket = HostConfig::token_socket(&dir.host());
    let listener = listen(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let tokens = serve_machine_tokens(engine.clone(), settings.id.clone(), listener, shutdown.clone());
    let tokens = tokio::spawn(tokens);
    let keeper = tokio::spawn(keeper::keep(dir.clone(), config_file, shutdown.clone()));
    let (told, ready) = oneshot::channel();
    let name = settings.name.clone();
    tokio::spawn(tell_ready(name, ready));
    let worked = engine.work(settings, told, shutdown.clone()).await;
    shutdown.cancel();
    // It only watches; what it started lives on.
    let _ = keeper.await;
    let _ = tokens.await;
    worked.context("this computer cannot be a worker")
}

/// The one line on stdout; scripts wait for it. That nobody reads it is no reason to end.
async fn tell_ready(name: String, ready: oneshot::Receiver<String>) {
    let Ok(address) = ready.await else { return };
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "lazuli worker ready: {name} ({address})").and_then(|()| out.flush());
    if let Err(error) = said {
        tracing::warn!(%error, "the ready line cannot be printed");
    }
}

/// What a worker has in common with its server must be there before anything is made.
fn check(config: &Config, dir: &DataDir) -> anyhow::Result<()> {
    let path = dir.path().display();
    match config.database.as_deref() {
        Some(url) if !url.starts_with("sqlite:") => {}
        _ => bail!(
            "a worker needs the server's database, which must be PostgreSQL: name it in the configuration file (database = \
             \"postgres://…\"), here and at the server. SQLite is for a server alone"
        ),
    }
    ensure!(!dir.credentials().exists(), "{path} is the folder of a server; choose another --data-dir for the worker");
    ensure!(
        dir.secrets_key().exists(),
        "{} is missing: copy that file from the server's data folder",
        dir.secrets_key().display()
    );
    Ok(())
}

/// By their canonical names.
fn regions(config: &Config, asked: &[String]) -> anyhow::Result<Vec<String>> {
    let configured = config.regions()?;
    let mut regions = Vec::new();
    for name in asked {
        let region = region_name(name).with_context(|| format!("--region {name}: there is no such region"))?;
        ensure!(
            configured.get(region).is_some_and(|settings| !settings.zones.is_empty()),
            "--region {name}: [regions.{region}] has no zones in the configuration file, so that this computer does not know where \
             the server keeps its images; name the same stores here as at the server (s3://, az:// or a shared folder)"
        );
        if !regions.iter().any(|r| r == region) {
            regions.push(region.to_owned());
        }
    }
    Ok(regions)
}

fn host_name() -> anyhow::Result<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("this computer has no name: give --name")?;
    Ok(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_a_worker_needs_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::find(Some(temp.path())).unwrap();
        let said = |text: &str| check(&config(text), &dir).unwrap_err().to_string();
        for text in ["", "database = \"sqlite:/x/lazuli.db\""] {
            assert!(said(text).contains("PostgreSQL"), "{}", said(text));
        }
        let postgres = "database = \"postgres:///x\"";
        assert!(said(postgres).contains("secrets.key"), "{}", said(postgres));
        std::fs::write(dir.secrets_key(), "k").unwrap();
        check(&config(postgres), &dir).unwrap();
        std::fs::write(dir.credentials(), "{}").unwrap();
        assert!(said(postgres).contains("folder of a server"), "{}", said(postgres));
    }

    #[test]
    fn regions_need_stores_that_others_reach() {
        let both = config("[regions.eastus]\nzones = [\"/a\"]\n[regions.westus]\nencryption_keys = [\"env:K\"]\n");
        let asked = |names: &[&str]| regions(&both, &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(asked(&["East US", "eastus"]).unwrap(), ["eastus"]);
        for (name, says) in [("westus", "[regions.westus] has no zones"), ("atlantis", "no such region")] {
            let error = asked(&[name]).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_folder_is_one_workers_for_ever() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::find(Some(temp.path())).unwrap();
        assert!(!dir.is_workers());
        let id = dir.worker_id().unwrap();
        assert!(dir.is_workers() && dir.worker_id().unwrap() == id);
    }
}
