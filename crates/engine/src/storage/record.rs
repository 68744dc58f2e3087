//! What the rows of containers and blobs say, in this module's words.

use super::error::StorageError;
use super::lease::Lease;
use crate::blobs::{ContentHeaders, Properties};
use lazuli_meta::model;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// `body` of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerBody {
    pub metadata: BTreeMap<String, String>,
    /// `container`, `blob`, or nothing.
    pub public_access: Option<String>,
    pub policies: Vec<Policy>,
    pub lease: Lease,
}

/// A stored access policy. Times as the client wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    pub id: String,
    pub start: Option<String>,
    pub expiry: Option<String>,
    pub permission: Option<String>,
}

/// A container as clients see it.
#[derive(Debug, Clone)]
pub struct ContainerInfo {
    pub name: String,
    pub etag: String,
    pub created_ms: i64,
    pub modified_ms: i64,
    pub body: ContainerBody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    Block,
    Page,
    Append,
}

impl BlobKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Block => "BlockBlob",
            Self::Page => "PageBlob",
            Self::Append => "AppendBlob",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Block, Self::Page, Self::Append].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// `body` of a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlobBody {
    pub headers: ContentHeaders,
    pub metadata: BTreeMap<String, String>,
    /// Of a page blob.
    pub sequence: u64,
    /// Of an append blob.
    pub blocks: u64,
    pub sealed: bool,
    pub tier: Option<String>,
    pub tier_ms: Option<i64>,
    pub lease: Lease,
    pub copy: Option<Copy>,
}

/// The copy that a blob was last the destination of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Copy {
    pub id: String,
    /// Without a signature.
    pub source: String,
    /// `pending`, `success`, `aborted`, `failed`.
    pub status: String,
    pub description: Option<String>,
    pub done: u64,
    pub total: u64,
    pub completed_ms: Option<i64>,
    /// Where the bytes come from while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<CopyFrom>,
}

/// A pending copy's bytes, held by a content reference in their region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyFrom {
    pub region: String,
    pub to_region: String,
    pub bytes: Settled,
}

/// Bytes in the content store of the account's region.
///
/// ```text
/// 0 ........ stored ........ tail_at .. tail_at + tail ........ size of the row
/// │ manifest │ zeros         │ tail     │ zeros
/// ```
/// The tail keeps what makes no whole sector, or the footer of a VHD: so the manifest of a VHD is that of its disk, and
/// a disk that is made of it shares every byte.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settled {
    pub manifest: Option<String>,
    pub stored: u64,
    pub tail_at: u64,
    /// Hex, at most 512 bytes.
    pub tail: String,
}

/// `content` of a blob: settled bytes, and over them what a staging file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Content {
    pub base: Settled,
    /// Page blob: names an overlay. Append blob: names the file of what follows `base`.
    pub staging: Option<String>,
    /// Where `base` ends and the staging file of an append blob begins.
    pub staged_at: u64,
}

/// A blob or snapshot as clients see it.
#[derive(Debug, Clone)]
pub struct BlobInfo {
    pub name: String,
    pub snapshot: Option<String>,
    pub kind: BlobKind,
    pub size: u64,
    pub etag: String,
    pub created_ms: i64,
    pub modified_ms: i64,
    pub body: BlobBody,
}

/// A row with what it says.
#[derive(Debug, Clone)]
pub(super) struct BlobRow {
    pub row: model::Blob,
    pub kind: BlobKind,
    pub body: BlobBody,
    pub content: Content,
}

impl BlobRow {
    pub fn of(row: model::Blob) -> Result<Self, StorageError> {
        let kind = BlobKind::parse(&row.kind);
        let kind = kind.ok_or_else(|| StorageError::internal(format!("no kind of blob is called {}", row.kind)))?;
        Ok(Self { kind, body: parse(&row.body)?, content: parse(&row.content)?, row })
    }

    /// The row to be written, with a new revision.
    pub fn into_row(mut self) -> model::Blob {
        self.row.body = value(&self.body);
        self.row.content = value(&self.content);
        self.row.state = match (&self.body.copy, &self.content.staging) {
            (Some(Copy { status, .. }), _) if status == "pending" => model::BlobState::Copying,
            (_, Some(_)) => model::BlobState::Staged,
            _ => model::BlobState::Stored,
        };
        self.row.revision = Uuid::new_v4().to_string();
        self.row
    }

    pub fn size(&self) -> u64 {
        u64::try_from(self.row.size).unwrap_or(0)
    }

    pub fn set_size(&mut self, size: u64) {
        self.row.size = i64::try_from(size).unwrap_or(i64::MAX);
    }

    /// Clients see a change: another tag, a date that never goes back.
    pub fn touch(&mut self, now_ms: i64) {
        self.row.etag = new_etag();
        self.row.modified_ms = self.row.modified_ms.max(now_ms);
    }

    pub fn properties(&self) -> Properties {
        Properties {
            size: self.size(),
            etag: self.row.etag.clone(),
            modified_ms: self.row.modified_ms,
            sequence: self.body.sequence,
            headers: self.body.headers.clone(),
            metadata: self.body.metadata.clone(),
        }
    }

    pub fn info(&self) -> BlobInfo {
        BlobInfo {
            name: self.row.name.clone(),
            snapshot: self.row.snapshot.clone(),
            kind: self.kind,
            size: self.size(),
            etag: self.row.etag.clone(),
            created_ms: self.row.created_ms,
            modified_ms: self.row.modified_ms,
            body: self.body.clone(),
        }
    }
}

impl ContainerInfo {
    pub(super) fn of(row: &model::Container) -> Result<Self, StorageError> {
        Ok(Self {
            name: row.name.clone(),
            etag: row.etag.clone(),
            created_ms: row.created_ms,
            modified_ms: row.modified_ms,
            body: parse(&row.body)?,
        })
    }

    pub(super) fn properties(&self) -> Properties {
        Properties {
            size: 0,
            etag: self.etag.clone(),
            modified_ms: self.modified_ms,
            sequence: 0,
            headers: ContentHeaders::default(),
            metadata: BTreeMap::new(),
        }
    }
}

pub(super) fn new_etag() -> String {
    let tag = Uuid::new_v4().as_u64_pair().0 & ((1 << 52) - 1);
    format!("0x8D{tag:013X}")
}

pub(super) fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, StorageError> {
    T::deserialize(value).map_err(StorageError::internal)
}

pub(super) fn value<T: Serialize>(of: &T) -> Value {
    // String keys, no failing serializers.
    serde_json::to_value(of).unwrap_or_default()
}
