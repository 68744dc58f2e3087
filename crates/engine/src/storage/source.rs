//! Bytes that a request reads: a blob of an account, or a managed disk behind its SAS.

use super::record::Settled;
use super::view::{Base, Over, View};
use super::{BlobInfo, BlobKind, Code, Place, Storage, StorageError};
use crate::blobs::{Blob, ContentHeaders};
use bytes::Bytes;
use futures::stream::Stream;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A blob that was opened for reading.
pub struct Opened {
    pub info: BlobInfo,
    pub(super) view: Arc<View>,
}

impl Opened {
    /// The bytes of `range`, cut at the end, in pieces; only a few are held at a time.
    pub fn read(&self, range: Range<u64>) -> impl Stream<Item = Result<Bytes, StorageError>> + Send + use<> {
        Arc::clone(&self.view).stream(range)
    }
}

/// What is copied from. That the caller may read it was checked.
pub enum Source {
    Blob(Place),
    /// A download of a managed disk.
    Disk(Blob),
}

/// A source's bytes in the content store.
pub(super) struct Found {
    pub region: String,
    pub bytes: Settled,
    pub size: u64,
    pub kind: BlobKind,
    pub headers: ContentHeaders,
    pub metadata: BTreeMap<String, String>,
    pub sequence: u64,
    pub sealed: bool,
    pub blocks: u64,
    /// Owner of the reference that keeps the bytes.
    pub owner: Option<String>,
    /// Id of the blob whose block list the copy gets.
    pub block_list: Option<String>,
}

impl Storage {
    /// A source for reading ranges of it.
    ///
    /// # Errors
    /// [`Code::CannotVerifyCopySource`] for an upload; what reading says.
    pub async fn open_source(&self, source: &Source) -> Result<Opened, StorageError> {
        match source {
            Source::Blob(at) => self.open(at, &Default::default()).await,
            Source::Disk(blob) => {
                let disk = blob.exported().ok_or(Code::CannotVerifyCopySource)?;
                let properties = disk.properties;
                let base =
                    Base { reader: Some(disk.reader), stored: disk.stored, tail_at: disk.size, tail: disk.footer };
                let view = View { size: properties.size, base, over: Over::Nothing, runtime: Handle::current() };
                let info = BlobInfo {
                    name: String::new(),
                    snapshot: None,
                    kind: BlobKind::Page,
                    size: properties.size,
                    etag: properties.etag,
                    created_ms: properties.modified_ms,
                    modified_ms: properties.modified_ms,
                    body: Default::default(),
                };
                Ok(Opened { info, view: Arc::new(view) })
            }
        }
    }

    /// A source with all its bytes in a content store.
    pub(super) async fn found(&self, source: &Source) -> Result<Found, StorageError> {
        match source {
            Source::Blob(at) => {
                let row = self.settled(at).await?;
                let owner = super::owner(&at.account, &at.container, &row.row.id);
                Ok(Found {
                    region: at.account.location.clone(),
                    size: row.size(),
                    kind: row.kind,
                    owner: row.content.base.manifest.as_ref().map(|_| owner),
                    block_list: Some(row.row.id),
                    bytes: row.content.base,
                    headers: row.body.headers,
                    metadata: row.body.metadata,
                    sequence: row.body.sequence,
                    sealed: row.body.sealed,
                    blocks: row.body.blocks,
                })
            }
            Source::Disk(blob) => {
                let disk = blob.exported().ok_or(Code::CannotVerifyCopySource)?;
                let bytes = Settled {
                    manifest: Some(disk.reader.manifest().to_string()),
                    stored: disk.stored,
                    tail_at: disk.size,
                    tail: hex::encode(disk.footer),
                };
                Ok(Found {
                    region: disk.region,
                    size: disk.properties.size,
                    kind: BlobKind::Page,
                    owner: Some(disk.owner),
                    block_list: None,
                    bytes,
                    headers: ContentHeaders::default(),
                    metadata: BTreeMap::new(),
                    sequence: 0,
                    sealed: false,
                    blocks: 0,
                })
            }
        }
    }
}
