//! What firmware and TPM of a trusted launch machine keep, in one piece: so it leaves a computer with its OS disk, and comes to
//! another one.
//!
//! ```text
//! STATE/efivars-secure.fd ─┐
//!       tpm/…              ├─ pack ─> gzip of {"efivars-secure.fd": base64, "tpm/…": base64} ─ unpack ─> STATE on another computer
//! ```
//! Nothing in here is sealed: whoever keeps a packed state seals it. Must never write outside the folder that is named, nor over
//! a state that is there.

use std::collections::BTreeMap;
use std::fs::{DirEntry, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::store::private_dir;

/// The subfolder of the TPM.
const TPM: &str = "tpm";
/// All files together; a firmware's variables are half a MiB.
const MAX_BYTES: u64 = 8 << 20;

/// A state folder's files. `None`: there are none.
///
/// # Errors
/// `InvalidData` of what no firmware and no TPM writes.
pub fn pack(state: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut total = 0;
    for folder in ["", TPM] {
        let Some(entries) = entries(&state.join(folder))? else { continue };
        for entry in entries {
            let entry = entry?;
            let Some(name) = name_of(&entry, folder)? else { continue };
            total += entry.metadata()?.len();
            if total > MAX_BYTES {
                return Err(strange("more than a firmware and a TPM keep"));
            }
            files.insert(name, BASE64_STANDARD.encode(std::fs::read(entry.path())?));
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    serde_json::to_writer(&mut packed, &files)?;
    packed.finish().map(Some)
}

/// Puts packed files into the folder, all or none. A folder that is there stays as it is.
///
/// # Errors
/// `InvalidData` of what [`pack`] does not make.
pub fn unpack(packed: &[u8], state: &Path) -> io::Result<()> {
    if state.exists() {
        return Ok(());
    }
    // A third more for Base64, and the names.
    let json = GzDecoder::new(packed).take(MAX_BYTES * 2);
    let files: BTreeMap<String, String> =
        serde_json::from_reader(json).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let name = state.file_name().ok_or_else(|| strange("a folder without a name"))?;
    let new = state.with_file_name(format!("{}.new", name.to_string_lossy()));
    match std::fs::remove_dir_all(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    private_dir(&new.join(TPM))?;
    for (name, text) in files {
        if !is_ours(name.strip_prefix("tpm/").unwrap_or(&name)) {
            return Err(strange("a file that neither firmware nor TPM has"));
        }
        let bytes = BASE64_STANDARD.decode(text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(new.join(name))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
    }
    std::fs::rename(&new, state)?;
    state.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn entries(folder: &Path) -> io::Result<Option<std::fs::ReadDir>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => Ok(Some(entries)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// `None`: not to be kept, as the TPM's lock.
fn name_of(entry: &DirEntry, folder: &str) -> io::Result<Option<String>> {
    let name = entry.file_name().into_string().map_err(|_| strange("a name that is not UTF-8"))?;
    let kind = entry.file_type()?;
    match (folder, kind.is_dir()) {
        _ if name.starts_with('.') => Ok(None),
        ("", true) if name == TPM => Ok(None),
        _ if !kind.is_file() || !is_ours(&name) => Err(strange("what neither firmware nor TPM writes")),
        ("", _) => Ok(Some(name)),
        _ => Ok(Some(format!("{folder}/{name}"))),
    }
}

fn is_ours(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the state of a firmware has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &[(&str, &str)]) -> Vec<u8> {
        let files: BTreeMap<&str, String> = files.iter().map(|(n, text)| (*n, BASE64_STANDARD.encode(text))).collect();
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        serde_json::to_writer(&mut packed, &files).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn a_state_comes_as_it_went_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a.state"), dir.path().join("b.state"));
        assert_eq!(pack(&from).unwrap(), None, "it never began");
        std::fs::create_dir_all(from.join(TPM)).unwrap();
        assert_eq!(pack(&from).unwrap(), None);
        std::fs::write(from.join("efivars-secure.fd"), vec![0xff; 540_672]).unwrap();
        std::fs::write(from.join("tpm/tpm2-00.permall"), [1, 2, 3]).unwrap();
        std::fs::write(from.join("tpm/.lock"), "").unwrap();
        let kept = pack(&from).unwrap().unwrap();
        assert!(kept.len() < 4096, "{} bytes", kept.len());
        unpack(&kept, &to).unwrap();
        assert_eq!(std::fs::read(to.join("efivars-secure.fd")).unwrap(), vec![0xff; 540_672]);
        assert_eq!(std::fs::read(to.join("tpm/tpm2-00.permall")).unwrap(), [1, 2, 3]);
        assert!(!to.join("tpm/.lock").exists());
        unpack(&packed(&[("efivars.fd", "other")]), &to).unwrap();
        assert_eq!(pack(&to).unwrap().unwrap(), kept, "what is there stays");
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("disks/os.state");
        std::fs::create_dir(dir.path().join("disks")).unwrap();
        for name in ["../evil", "tpm/../../evil", "/evil", "tpm/.x", "a/b", "", "tpm/"] {
            unpack(&packed(&[(name, "x")]), &to).unwrap_err();
            assert!(!to.exists() && !dir.path().join("evil").exists(), "{name}");
        }
        assert_eq!(unpack(b"no gzip", &to).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::create_dir_all(to.join("other")).unwrap();
        assert_eq!(pack(&to).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::remove_dir(to.join("other")).unwrap();
        let large = File::create(to.join("efivars.fd")).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        pack(&to).unwrap_err();
    }
}
