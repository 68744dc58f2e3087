//! The provisioning DVD, by which a new guest learns its name, user and keys. This module only writes the volume; what
//! the XML says is the caller's. The file holds secrets: it must never be readable by others.

use std::fs::{self, OpenOptions};
use std::io::{self, Cursor, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hadris_iso::read::PathSeparator;
use hadris_iso::write::options::{CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{InputEntry, InputMetadata, InputTree, IsoImageWriter};

/// The volume's label on Azure.
pub const LABEL: &str = "rd_rdfe_stable";

/// A file in the volume's root: its name and its text.
pub type RootFile = (&'static str, String);

/// More than any file on it can hold: custom data is limited to 64 KiB.
const MAX_FILE: usize = 16 << 20;

/// Why the medium could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The document is longer than any that Azure hands out.
    #[error("{name} with {len} bytes is too long for a provisioning DVD (at most {MAX_FILE})")]
    TooLong { name: &'static str, len: usize },
    /// The volume could not be laid out.
    #[error("the provisioning DVD cannot be laid out: {reason}")]
    Layout { reason: String },
    /// The file could not be written.
    #[error("the provisioning DVD cannot be written to {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// Writes to `out` an ISO 9660 volume (with Joliet and Rock Ridge) labelled `rd_rdfe_stable` that holds these files, as
/// Azure attaches it to a VM's first boot. `out` appears whole or not at all, with mode 0600.
///
/// cloud-init and waagent mount it as `udf` or `iso9660`, whichever the kernel finds.
///
/// # Errors
/// See [`MediaError`].
pub fn provisioning_iso(files: &[RootFile], out: &Path) -> Result<(), MediaError> {
    let image = volume(files)?;
    let part = out.with_extension("part");
    write_private(&part, &image)
        .and_then(|()| fs::rename(&part, out))
        .map_err(|source| MediaError::Write { path: out.to_owned(), source })
}

fn volume(files: &[RootFile]) -> Result<Vec<u8>, MediaError> {
    if let Some((name, text)) = files.iter().find(|(_, text)| text.len() > MAX_FILE) {
        return Err(MediaError::TooLong { name, len: text.len() });
    }
    let entry = |(name, text): &RootFile| {
        InputEntry::file(*name, text.as_bytes())
            .with_metadata(InputMetadata { mode: Some(0o600), ..InputMetadata::default() })
    };
    let options = IsoFormatOptions {
        volume_name: LABEL.to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: 2048,
        path_separator: PathSeparator::ForwardSlash,
        features: CreationFeatures::extensions(),
        // The label has lower-case letters, which ISO 9660 alone does not know.
        strict_charset: false,
    };
    let tree = InputTree::new(PathSeparator::ForwardSlash, files.iter().map(entry).collect());
    IsoImageWriter::create(Cursor::new(Vec::new()), tree, options)
        .map(Cursor::into_inner)
        .map_err(|error| MediaError::Layout { reason: error.to_string() })
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
