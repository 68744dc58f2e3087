//! What an upload remembers besides its bytes, in a file beside the staging file.
//!
//! ```text
//! uploads/ID.vhd         the blob's bytes, sparse
//! uploads/ID.vhd.state   this, as JSON; replaced by renaming, so it is always whole
//! ```
//! The bytes are written first. If the process dies in between, the entity tag is an old one: a client that was not answered
//! repeats its write under the same conditions, and it has the same effect.

use super::conditions::{ContentHeaders, Properties};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    /// Makes the tags of two uploads differ.
    seed: u64,
    /// Writes so far.
    version: u64,
    modified_ms: i64,
    pub sequence: u64,
    /// A client created or wrote the blob: `If-None-Match: *` no longer holds.
    pub created: bool,
    pub headers: ContentHeaders,
    pub metadata: BTreeMap<String, String>,
}

impl State {
    fn new(now_ms: i64) -> Self {
        let seed = uuid::Uuid::new_v4().as_u64_pair().0 >> 13;
        Self {
            seed,
            version: 0,
            modified_ms: now_ms,
            sequence: 0,
            created: false,
            headers: ContentHeaders::default(),
            metadata: BTreeMap::new(),
        }
    }

    /// What was saved; a new state if nothing was.
    pub fn load(staging: &Path, now_ms: i64) -> io::Result<Self> {
        match std::fs::read(path(staging)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::new(now_ms)),
            Err(error) => Err(error),
        }
    }

    /// Survives the process; not a crash of the machine before its file system wrote it out.
    pub fn save(&self, staging: &Path) -> io::Result<()> {
        let path = path(staging);
        let new = path.with_extension("state.new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(&new, &path)
    }

    /// Forgets what was saved.
    pub fn remove(staging: &Path) -> io::Result<()> {
        match std::fs::remove_file(path(staging)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The blob was changed: another tag, a date that never goes back.
    pub fn touch(&mut self, now_ms: i64) {
        self.version += 1;
        self.modified_ms = self.modified_ms.max(now_ms);
    }

    pub fn properties(&self, size: u64) -> Properties {
        let tag = self.seed.wrapping_add(self.version) & ((1 << 52) - 1);
        Properties {
            size,
            etag: format!("0x8D{tag:013X}"),
            modified_ms: self.modified_ms,
            sequence: self.sequence,
            headers: self.headers.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

fn path(staging: &Path) -> PathBuf {
    let mut name = staging.as_os_str().to_owned();
    name.push(".state");
    name.into()
}
