//! Guest disks, built by `scripts/guest/*`. One that is not there fails the test and says how to get it.

use anyhow::{Context as _, ensure};
use std::path::PathBuf;
use std::process::Command;

/// busybox and dropbear on Debian's kernel, 48 MiB, generalized.
pub fn tiny() -> anyhow::Result<PathBuf> {
    built("tiny", &[])
}

/// A whole Debian 12, generalized.
pub fn debian() -> anyhow::Result<PathBuf> {
    built("debian", &[])
}

/// The same, provisioned by waagent.
pub fn debian_waagent() -> anyhow::Result<PathBuf> {
    build("debian", &["--agent", "waagent"])
}

/// The same with signed boot loaders: it starts with secure boot.
pub fn signed() -> anyhow::Result<PathBuf> {
    built("signed", &[])
}

/// The path in `LAZULI_GUEST_NAME`, or else what the script prints, which builds the disk where its cache has none.
fn built(name: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let variable = format!("LAZULI_GUEST_{}", name.to_uppercase());
    let path = match std::env::var_os(&variable) {
        Some(path) => PathBuf::from(path),
        None => build(name, arguments)?,
    };
    ensure!(path.is_file(), "there is no guest disk {}; make it with: scripts/guest/{name}", path.display());
    Ok(path)
}

fn build(name: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest").join(name);
    let out =
        Command::new(&script).args(arguments).output().with_context(|| format!("cannot run {}", script.display()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "scripts/guest/{name} failed: {}", said.trim());
    let path = String::from_utf8(out.stdout).context("the script's output is no path")?;
    Ok(PathBuf::from(path.trim_end().lines().next_back().unwrap_or_default()))
}
