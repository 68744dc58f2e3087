//! What the commands that work on a server's folder have in common: how it is named, and what is opened of it without running a
//! server. It never starts a worker.

use crate::config::Config;
use crate::data_dir::DataDir;
use anyhow::{Context, bail};
use lazuli_chunks::Cache;
use lazuli_engine::{Engine, EngineConfig, OpenStores, Store};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For reading a region once through.
const CACHE_BYTES: u64 = 64 << 20;

/// Which server's folder.
#[derive(Debug, clap::Args)]
pub struct Site {
    /// The server's data folder [default: $XDG_DATA_HOME/lazuli or ~/.local/share/lazuli]
    #[arg(long, env = "LAZULI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file (TOML), the same as the server's.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Site {
    pub fn find(&self) -> anyhow::Result<(Config, DataDir)> {
        find(self.config.as_deref(), self.data_dir.as_deref())
    }
}

/// Which regions of a server's folder, and how to tell of them.
#[derive(Debug, clap::Args)]
pub struct Regions {
    #[command(flatten)]
    pub site: Site,
    /// Only this region; may be given more than once [default: all]
    #[arg(long = "region", value_name = "REGION")]
    pub asked: Vec<String>,
    /// A JSON list instead of text.
    #[arg(long)]
    pub json: bool,
}

impl Regions {
    /// Of the regions that have been opened here those that were asked for, or all.
    pub fn chosen<'a>(&'a self, known: &'a [String]) -> anyhow::Result<impl Iterator<Item = &'a String>> {
        if let Some(unknown) = self.asked.iter().find(|r| !known.contains(r)) {
            bail!("there is no store of a region {unknown}; known are: {}", known.join(", "));
        }
        Ok(known.iter().filter(|r| self.asked.is_empty() || self.asked.contains(r)))
    }
}

/// The configuration, and the folder: `data_dir`, or what the configuration names, or the usual one.
pub fn find(config: Option<&Path>, data_dir: Option<&Path>) -> anyhow::Result<(Config, DataDir)> {
    let config = Config::read(config)?;
    let dir = DataDir::find(data_dir.or(config.data_dir.as_deref()))?;
    Ok((config, dir))
}

/// An engine's settings, but for the regions' stores and the bridges.
pub fn engine_config(dir: &DataDir, config: &Config) -> EngineConfig {
    let mut engine = EngineConfig::local(dir.path());
    if let Some(database) = &config.database {
        engine.database.clone_from(database);
    }
    engine.http_issuers.clone_from(&config.http_issuers);
    engine.identity_providers.clone_from(&config.identity_providers);
    if let Some(seconds) = config.token_lifetime_seconds {
        engine.token_lifetime = Duration::from_secs(seconds);
    }
    engine.max_image_disk_gib = config.max_image_disk_gib.unwrap_or(engine.max_image_disk_gib);
    let age = |days: u64| (days > 0).then(|| Duration::from_secs(days.saturating_mul(24 * 3600)));
    engine.activity_log_age = config.activity_log_days.map_or(engine.activity_log_age, age);
    engine.activity_log_chain = config.activity_log_chain;
    engine.signing_key_age = config.signing_key_days.map_or(engine.signing_key_age, age);
    engine.image_builder.clone_from(&config.image_builder);
    engine.own_memory_mib = config.host.memory_mib;
    if let Some(seconds) = config.fleet.lease_seconds {
        engine.worker_lease = Duration::from_secs(seconds.max(1));
    }
    if let Some(seconds) = config.fleet.give_up_seconds {
        engine.worker_grace = Duration::from_secs(seconds);
    }
    engine
}

/// The engine for what it knows of the disks; it runs nothing.
pub async fn open(dir: &DataDir, config: &Config) -> anyhow::Result<Engine> {
    if !dir.path().is_dir() {
        bail!("{} is no data folder; name one with --data-dir", dir.path().display());
    }
    let settings =
        EngineConfig { regions: config.regions()?, bridges: config.bridges()?, ..engine_config(dir, config) };
    let engine = Engine::open(settings).await;
    engine.with_context(|| format!("cannot open the database of {}", dir.path().display()))
}

/// An error of the engine, with the cause that no client is told.
pub fn told(message: String, cause: Option<Box<dyn std::error::Error + Send + Sync>>) -> anyhow::Error {
    match cause {
        Some(cause) => anyhow::Error::from_boxed(cause).context(message),
        None => anyhow::Error::msg(message),
    }
}

/// Names of the regions that have been opened here.
pub fn regions(engine: &Engine) -> anyhow::Result<Vec<String>> {
    engine.regions().known().context("cannot read the folder of the regions")
}

/// A region's stores to look at, also beside a running server.
pub async fn read_only(engine: &Engine, region: &str) -> anyhow::Result<Vec<Store>> {
    let stores = engine.regions().stores().clone();
    Ok(OpenStores::for_reading(stores, Cache::new(CACHE_BYTES)).all(region).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_images_disks_is_the_operators() {
        let dir = DataDir::find(Some(Path::new("/nonexistent"))).unwrap();
        let most = |max_image_disk_gib| {
            engine_config(&dir, &Config { max_image_disk_gib, ..Config::default() }).max_image_disk_gib
        };
        assert_eq!((most(None), most(Some(4096))), (2048, 4096));
    }
}
