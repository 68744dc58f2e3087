//! The folder of everything that is local.
//!
//! ```text
//! DIR/serve.lock          held by the running server; its process id is the content
//! DIR/credentials.json    0600, see `credentials`
//! DIR/ca.pem, *-key.pem   see `lazuli_api::ServeConfig`
//! DIR/lazuli.db           metadata
//! DIR/worker.id           of a worker: who it is, whatever it is called
//! DIR/regions/            content stores
//! DIR/host/               the host process: host.sock, host.lock, host.log, machines
//! DIR/az*/                configuration folders for az, made by `lazuli env`
//! ```

use crate::files;
use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A data folder, with an absolute path.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The wanted folder, or `$XDG_DATA_HOME/lazuli`, or `~/.local/share/lazuli`. Nothing is made.
    pub fn find(wanted: Option<&Path>) -> anyhow::Result<Self> {
        let dir = match wanted {
            Some(dir) => dir.to_owned(),
            None => default_dir(std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME"))
                .context("neither XDG_DATA_HOME nor HOME is set: name the data folder with --data-dir")?,
        };
        let dir = std::path::absolute(&dir).with_context(|| format!("not a usable folder: {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// Makes the folder where it is missing, open to its owner alone.
    pub fn create(&self) -> anyhow::Result<()> {
        files::private_dir(&self.0)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn host(&self) -> PathBuf {
        self.0.join("host")
    }

    pub fn regions(&self) -> PathBuf {
        self.0.join("regions")
    }

    pub fn credentials(&self) -> PathBuf {
        self.0.join("credentials.json")
    }

    /// The key of the stored secrets.
    pub fn secrets_key(&self) -> PathBuf {
        self.0.join("secrets.key")
    }

    fn worker_file(&self) -> PathBuf {
        self.0.join("worker.id")
    }

    /// Whether the folder is a worker's.
    pub fn is_workers(&self) -> bool {
        self.worker_file().exists()
    }

    /// The id of the worker whose folder this is; from now on it is one's.
    pub fn worker_id(&self) -> anyhow::Result<String> {
        let path = self.worker_file();
        if !path.exists() {
            files::replace(&path, uuid::Uuid::new_v4().to_string().as_bytes(), 0o600)?;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let id: uuid::Uuid = text.trim().parse().with_context(|| format!("{} holds no id", path.display()))?;
        Ok(id.to_string())
    }

    fn lock_file(&self) -> PathBuf {
        self.0.join("serve.lock")
    }

    /// Takes the folder for this process; the kernel gives it back when the process ends, however it does.
    pub fn lock(&self) -> anyhow::Result<ServeLock> {
        let path = self.lock_file();
        let mut file = open_lock(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let by = pid_in(&mut file).map_or_else(String::new, |pid| format!(" (process {pid})"));
            bail!(
                "a server is already running for {}{by}; stop it with `lazuli stop`, or choose another --data-dir",
                self.0.display()
            );
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).context("cannot write serve.lock")?;
        Ok(ServeLock { _file: file })
    }

    /// The process that holds the folder, if one does.
    pub fn server_pid(&self) -> anyhow::Result<Option<i32>> {
        let path = self.lock_file();
        if !path.exists() {
            return Ok(None);
        }
        let mut file = open_lock(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return Ok(None);
        }
        let pid = pid_in(&mut file);
        pid.map(Some).with_context(|| format!("{} is held, but does not say by whom", path.display()))
    }
}

/// While it lives no other server can run on the folder.
#[derive(Debug)]
pub struct ServeLock {
    _file: File,
}

fn open_lock(path: &Path) -> anyhow::Result<File> {
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
    opened.with_context(|| format!("cannot open {}", path.display()))
}

fn pid_in(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn default_dir(xdg: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |v: std::ffi::OsString| Some(PathBuf::from(v)).filter(|p| p.is_absolute());
    let data = xdg.and_then(absolute).or_else(|| Some(home.and_then(absolute)?.join(".local/share")))?;
    Some(data.join("lazuli"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_follows_the_xdg_rules() {
        let dir = |xdg: Option<&str>, home: Option<&str>| default_dir(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(dir(Some("/x"), Some("/h")).unwrap(), Path::new("/x/lazuli"));
        assert_eq!(dir(Some("relative"), Some("/h")).unwrap(), Path::new("/h/.local/share/lazuli"));
        assert_eq!(dir(None, Some("/h")).unwrap(), Path::new("/h/.local/share/lazuli"));
        assert_eq!(dir(None, None), None);
    }

    #[test]
    fn one_holder_at_a_time_who_can_be_named() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::find(Some(temp.path())).unwrap();
        assert_eq!(dir.server_pid().unwrap(), None);
        let lock = dir.lock().unwrap();
        assert_eq!(dir.server_pid().unwrap(), i32::try_from(std::process::id()).ok());
        let refused = dir.lock().unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(lock);
        assert_eq!(dir.server_pid().unwrap(), None);
        dir.lock().unwrap();
    }
}
