//! Files that are there whole or not at all.

use anyhow::Context;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces `path` at one moment; after return it survives a power cut. `mode` also holds while it is being written.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let said = || format!("cannot write {}", path.display());
    write_and_rename(path, content, mode).with_context(said)
}

fn write_and_rename(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("the path has no folder"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&draft)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // The error that matters is the first one.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// Makes a folder that only its owner may enter; an existing one is left as it is.
pub fn private_dir(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The file's text, `None` where there is no such file.
pub fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_its_mode_and_leaves_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "old, and readable by all").unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        std::fs::create_dir_all(path.join("full")).unwrap();
        let error = replace(&path, b"new", 0o600).unwrap_err();
        assert!(error.to_string().contains("folder"), "{error}");
        assert!(path.join("full").is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    }
}
