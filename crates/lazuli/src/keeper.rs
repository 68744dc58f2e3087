//! Keeps a host process running: starts one where none answers, and again when it dies. Never ends one.

use crate::data_dir::DataDir;
use crate::files;
use anyhow::Context;
use lazuli_vmm::{HostClient, HostConfig};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// How often a host that this server did not start is asked whether it still lives.
const LOOK: Duration = Duration::from_secs(2);
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The log file of a host process.
pub fn log_file(dir: &DataDir) -> PathBuf {
    dir.host().join("host.log")
}

pub fn client(dir: &DataDir) -> HostClient {
    HostClient::new(HostConfig::socket(&dir.host()))
}

/// Watches until `shutdown`.
pub async fn keep(dir: DataDir, config_file: Option<PathBuf>, shutdown: CancellationToken) {
    let watched = shutdown.run_until_cancelled(watch(&dir, config_file.as_deref()));
    watched.await;
}

async fn watch(dir: &DataDir, config_file: Option<&Path>) {
    let client = client(dir);
    let mut delay = FIRST_DELAY;
    loop {
        if client.info().await.is_ok() {
            delay = FIRST_DELAY;
            tokio::time::sleep(LOOK).await;
            continue;
        }
        match start(dir, config_file) {
            Ok(mut child) => {
                tracing::info!(pid = child.id(), log = %log_file(dir).display(), "host process started");
                let since = tokio::time::Instant::now();
                let ended = child.wait().await;
                // One that lived is started again at once.
                if since.elapsed() > LONGEST_DELAY {
                    delay = FIRST_DELAY;
                }
                let status = ended.map_or_else(|e| e.to_string(), |s| s.to_string());
                tracing::warn!(%status, last = %last_line(dir), "the host process ended; virtual machines run on without it");
            }
            Err(error) => tracing::error!(error = %crate::one_line(&error), "the host process cannot be started"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

/// Starts a host process that outlives this one.
pub fn start(dir: &DataDir, config_file: Option<&Path>) -> anyhow::Result<Child> {
    files::private_dir(&dir.host())?;
    let path = log_file(dir);
    let log = File::options().append(true).create(true).open(&path);
    let log = log.with_context(|| format!("cannot open {}", path.display()))?;
    let program = std::env::current_exe().context("cannot find the program of this process")?;
    let mut command = Command::new(program);
    command.arg("host").arg("--detach").arg("--data-dir").arg(dir.path());
    if let Some(file) = config_file {
        command.arg("--config").arg(file);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/").kill_on_drop(false);
    command.spawn().context("cannot start `lazuli host`")
}

/// Why a host ended is the last thing it logged.
fn last_line(dir: &DataDir) -> String {
    let text = std::fs::read(log_file(dir)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().to_owned()
}
