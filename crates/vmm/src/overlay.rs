//! The writable qcow2 files of machines' disks, made by `qemu-img`.
//!
//! An overlay names its base as the NBD socket of this host's export. `qemu-img` never opens that base here, and QEMU is
//! told the base on its command line: what the file says is for people and for tools that read a stopped machine's disk.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::process::Command;

use crate::spec::DiskSpec;

#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    #[error("cannot run qemu-img: install the package qemu-utils")]
    NoTool(#[source] io::Error),
    #[error("cannot create the disk {}: {message}", .path.display())]
    Tool { path: PathBuf, message: String },
    #[error("cannot create the disk {}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Characters that a path keeps within a URI's query.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_');

/// `nbd+unix:///?socket=PATH`.
pub fn base_uri(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", utf8_percent_encode(&socket.to_string_lossy(), PATH))
}

/// Creates the overlay unless it exists; returns whether it did. Appears whole or not at all. One that is smaller than its
/// disk is made larger: the disk was resized since its machine ran. No machine may have it open.
pub async fn create(disk: &DiskSpec, base_socket: &Path) -> Result<bool, OverlayError> {
    let path = disk.overlay.clone();
    let failed = |source| OverlayError::Io { path: path.clone(), source };
    if tokio::fs::try_exists(&path).await.map_err(failed)? {
        grow(&path, disk.size_bytes).await?;
        return Ok(false);
    }
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(failed)?;
    }
    let mut part = path.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]);
    if disk.base.is_some() {
        // -u: the base is not opened.
        command.args(["-u", "-F", "raw", "-b", &base_uri(base_socket)]);
    }
    command.arg("--").arg(&part).arg(disk.size_bytes.to_string()).stdin(Stdio::null()).kill_on_drop(true);
    run(command, &path).await?;
    // A disk is full of secrets; qemu-img would let everybody read it.
    tokio::fs::set_permissions(&part, std::os::unix::fs::PermissionsExt::from_mode(0o600)).await.map_err(failed)?;
    tokio::fs::rename(&part, &path).await.map_err(failed)?;
    Ok(true)
}

async fn run(mut command: Command, path: &Path) -> Result<(), OverlayError> {
    let output = command.output().await.map_err(OverlayError::NoTool)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(OverlayError::Tool { path: path.to_owned(), message })
}

async fn grow(path: &Path, size_bytes: u64) -> Result<(), OverlayError> {
    let file = path.to_owned();
    let size = tokio::task::spawn_blocking(move || lazuli_disks::Qcow2::open(&file).map(|q| q.size())).await;
    let size = size.map_err(io::Error::other).and_then(|opened| opened.map_err(Into::into));
    let size = size.map_err(|source| OverlayError::Io { path: path.to_owned(), source })?;
    if size >= size_bytes {
        return Ok(());
    }
    // What the file says of its base is not opened here either.
    let node = serde_json::json!({"driver": "qcow2", "backing": null,
        "file": {"driver": "file", "filename": path.to_string_lossy()}});
    let mut command = Command::new("qemu-img");
    command.args(["resize", "-q", "--"]).arg(format!("json:{node}")).arg(size_bytes.to_string());
    command.stdin(Stdio::null()).kill_on_drop(true);
    run(command, path).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::BaseImage;

    async fn info(path: &Path) -> serde_json::Value {
        let output =
            Command::new("qemu-img").args(["info", "-U", "--output=json", "--backing-chain"]).arg(path).output();
        let output = output.await.expect("qemu-img is missing: install the package qemu-utils");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn disk(dir: &Path, base: bool) -> DiskSpec {
        DiskSpec {
            lun: None,
            overlay: dir.join("deep/er/os disk.qcow2"),
            size_bytes: 64 << 20,
            base: base.then(|| BaseImage { source: "r/1".into(), size_bytes: 32 << 20 }),
            read_only: false,
        }
    }

    #[tokio::test]
    async fn a_blank_disk_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path(), false);
        assert!(create(&disk, Path::new("/none")).await.unwrap());
        assert!(!create(&disk, Path::new("/none")).await.unwrap());
        let info = info(&disk.overlay).await;
        assert_eq!(info[0]["virtual-size"], 64 << 20);
        assert_eq!(info[0].get("backing-filename"), None);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&disk.overlay).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn an_overlay_names_its_base_without_opening_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path(), true);
        assert!(create(&disk, Path::new("/run/a b,c/nbd-os")).await.unwrap());
        let output =
            Command::new("qemu-img").args(["info", "--output=json"]).arg(&disk.overlay).output().await.unwrap();
        let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(info["backing-filename"], "nbd+unix:///?socket=/run/a%20b%2Cc/nbd-os");
        assert_eq!(info["virtual-size"], 64 << 20);
    }

    #[tokio::test]
    async fn a_disk_that_was_resized_grows_with_its_next_start() {
        let dir = tempfile::tempdir().unwrap();
        for base in [false, true] {
            let mut disk = disk(dir.path(), base);
            disk.overlay = dir.path().join(format!("{base}.qcow2"));
            create(&disk, Path::new("/none")).await.unwrap();
            for (size, expected) in [(96_u64 << 20, 96 << 20), (64 << 20, 96 << 20)] {
                disk.size_bytes = size;
                assert!(!create(&disk, Path::new("/none")).await.unwrap());
                let grown = lazuli_disks::Qcow2::open(&disk.overlay).unwrap();
                assert_eq!((grown.size(), grown.names_base()), (expected, base));
            }
        }
        let broken = disk(dir.path(), false);
        std::fs::create_dir_all(broken.overlay.parent().unwrap()).unwrap();
        std::fs::write(&broken.overlay, "no qcow2").unwrap();
        assert!(matches!(create(&broken, Path::new("/none")).await, Err(OverlayError::Io { .. })));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_said() {
        let mut disk = disk(Path::new("/proc/none"), false);
        disk.size_bytes = 512;
        let error = create(&disk, Path::new("/none")).await.unwrap_err();
        assert!(error.to_string().contains("/proc/none"), "{error}");
    }
}
