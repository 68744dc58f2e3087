//! What a scrub tells.

use serde::Serialize;

/// What is wrong with one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub object: Object,
    /// Its name in the store: a pack's key, a manifest's or chunk's id, `index.log`, `store.json`.
    pub name: String,
    /// The zone whose copy it is, counted from 0; `None` where it concerns all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<usize>,
    pub problem: Problem,
    pub detail: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Object {
    /// `store.json`, how the store was made.
    Head,
    /// The local index log.
    Index,
    Pack,
    /// A disk.
    Manifest,
    Segment,
    Chunk,
    /// An object that is none of the store's.
    Foreign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Problem {
    Missing,
    Damaged,
    /// The index and the packs do not agree.
    Stale,
    /// Nothing refers to it. It takes room and harms nothing.
    Unreferenced,
    /// The zone's store does not answer; what it holds was not checked.
    Unreachable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// Nothing was tried: the scrub only looks, or this needs no repair.
    Reported,
    /// It is right again, with bytes from there.
    Repaired { from: String },
    /// No good copy was found.
    Unrepairable { why: String },
}

/// What a scrub read and found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubReport {
    pub region: String,
    pub zones: usize,
    /// Packs that the index knows.
    pub packs: u64,
    /// Blobs verified, over all zones.
    pub blobs: u64,
    /// Bytes read from the stores.
    pub read_bytes: u64,
    /// Disks checked.
    pub manifests: u64,
    pub findings: Vec<Finding>,
    /// Disks that cannot be read in full, after the repair if there was one: manifest ids, or their first 40 digits
    /// where the manifest itself is lost.
    pub unreadable: Vec<String>,
}

impl Finding {
    /// Whether something is wrong still.
    pub fn is_open(&self) -> bool {
        self.problem != Problem::Unreferenced && !matches!(self.outcome, Outcome::Repaired { .. })
    }
}

impl ScrubReport {
    /// Whether all is as it must be, now. What nothing refers to does not count.
    pub fn is_sound(&self) -> bool {
        self.unreadable.is_empty() && self.open().next().is_none()
    }

    /// What is wrong still.
    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.is_open())
    }
}
