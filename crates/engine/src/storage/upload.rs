//! Bytes on their way in: a request's body into a file of staging/, and a new blob in the place of whatever was there.

use super::record::{BlobBody, BlobRow, Content};
use super::settle::require_kind;
use super::view::{Base, Over, Part, PartSource, View, blocking};
use super::{
    Access, BlobInfo, BlobKind, Code, Place, Storage, StorageError, check_create, lease, owner, record, references,
};
use crate::blobs::{ContentHeaders, check_metadata};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use lazuli_meta::model::{Blob, BlobState, Change, Expect};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// So much is gathered before it is written.
const WRITE: usize = 1 << 20;

/// A request's body. Its stream ends with an error where it does not match what the client said of it.
pub struct Upload {
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
    /// Known when the stream has ended.
    pub md5: Arc<OnceLock<String>>,
}

/// What is said of a blob that is made.
#[derive(Debug, Clone, Default)]
pub struct NewBlob {
    pub headers: ContentHeaders,
    pub metadata: BTreeMap<String, String>,
    pub tier: Option<String>,
    /// Of a page blob.
    pub sequence: u64,
}

impl NewBlob {
    pub(super) fn body(self, now_ms: i64) -> Result<BlobBody, StorageError> {
        check_metadata(&self.metadata)?;
        Ok(BlobBody {
            headers: self.headers,
            metadata: self.metadata,
            sequence: self.sequence,
            tier_ms: self.tier.is_some().then_some(now_ms),
            tier: self.tier,
            ..BlobBody::default()
        })
    }
}

/// A blob to be put in the place of another.
pub(super) struct Made {
    pub kind: BlobKind,
    pub size: u64,
    pub body: BlobBody,
    pub content: Content,
    pub id: String,
    /// In the same transaction.
    pub further: Vec<Change>,
}

/// A file of staging/ that is removed when nobody needs it any more.
pub(super) struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed files are gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Storage {
    /// The body in a new file, with its length.
    pub(super) async fn receive(&self, upload: Upload) -> Result<(Temporary, u64), StorageError> {
        let folder = self.0.staging.clone();
        let path = folder.join(format!("{}.upload", Uuid::new_v4().simple()));
        let temporary = Temporary(path.clone());
        let file = blocking(move || {
            std::fs::create_dir_all(&folder).map_err(StorageError::of_file)?;
            File::create_new(path).map_err(StorageError::of_file)
        })
        .await?;
        let len = write_stream(Arc::new(file), 0, upload).await?;
        Ok((temporary, len))
    }

    /// Put Blob with its bytes.
    ///
    /// # Errors
    /// Conditions, the lease, the body's own errors, a full disk.
    pub async fn put_block_blob(
        &self,
        at: &Place,
        upload: Upload,
        new: NewBlob,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        // Refused before the body is taken, if it can be.
        self.check_replace(at, access).await?;
        let md5 = Arc::clone(&upload.md5);
        let (file, len) = self.receive(upload).await?;
        let parts = vec![Part { end: len, from: PartSource::File(file.0.clone()) }];
        let view = Arc::new(parts_view(parts, len));
        let (settled, _guard) = self.ingest(&at.account, view, &CancellationToken::new()).await?;
        let mut body = new.body(self.now_ms())?;
        if body.headers.md5.is_none() {
            body.headers.md5 = md5.get().cloned();
        }
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let id = Uuid::new_v4().to_string();
        let further = references(&at.account, &at.container, &id, &settled);
        let content = Content { base: settled, ..Content::default() };
        let made = Made { kind: BlobKind::Block, size: len, body, content, id, further };
        let row = self.replace(at, access, made).await?;
        self.forget_blocks(at).await?;
        Ok(row.info())
    }

    /// Whether a blob may be put in this place now.
    pub(super) async fn check_replace(&self, at: &Place, access: &Access) -> Result<Option<BlobRow>, StorageError> {
        if at.snapshot.is_some() {
            return Err(Code::InvalidInput.into());
        }
        let existing = self.find(at).await?;
        if existing.is_none() {
            self.require_container(&at.account, &at.container).await?;
        }
        let properties = existing.as_ref().map(BlobRow::properties);
        check_create(properties.as_ref(), &access.conditions)?;
        let lease = existing.as_ref().map(|row| row.body.lease.clone()).unwrap_or_default();
        lease.check_write(access.lease.as_deref(), lease::On::Blob, self.now_ms())?;
        let pending = existing.as_ref().and_then(|row| row.body.copy.as_ref()).is_some_and(|c| c.status == "pending");
        if pending { Err(Code::PendingCopyOperation.into()) } else { Ok(existing) }
    }

    /// Puts a blob in the place of whatever is there; its lease and its snapshots stay. The caller has the gate.
    pub(super) async fn replace(&self, at: &Place, access: &Access, made: Made) -> Result<BlobRow, StorageError> {
        let existing = self.check_replace(at, access).await?;
        let container = self.require_container(&at.account, &at.container).await?;
        let now = self.now_ms();
        let Made { kind, size, mut body, content, id, further } = made;
        let expect = match &existing {
            Some(old) => {
                body.lease = old.body.lease.clone();
                Expect::Etag(old.row.revision.clone())
            }
            None => Expect::Absent,
        };
        let row = Blob {
            account: at.account.name.clone(),
            container: at.container.clone(),
            name: at.blob.clone(),
            snapshot: None,
            id,
            kind: kind.as_str().to_owned(),
            size: 0,
            state: BlobState::Stored,
            etag: record::new_etag(),
            revision: String::new(),
            created_ms: now,
            modified_ms: existing.as_ref().map_or(now, |old| old.row.modified_ms.max(now)),
            body: serde_json::Value::Null,
            content: serde_json::Value::Null,
        };
        let mut row = BlobRow { row, kind, body, content };
        row.set_size(size);
        let (body, content) = (row.body.clone(), row.content.clone());
        let stored = row.into_row();
        let mut changes = vec![
            Change::RequireContainer {
                account: at.account.name.clone(),
                name: at.container.clone(),
                id: container.id.clone(),
            },
            Change::PutBlob { blob: stored.clone(), expect },
        ];
        // First what the new blob takes over: it may be the old one's.
        changes.extend(further);
        if let Some(old) = &existing {
            let owner = owner(&at.account, &at.container, &old.row.id);
            changes.push(Change::DeleteContentRefs { resource_key: owner });
            changes.push(Change::DeleteBlockList { blob: old.row.id.clone() });
        }
        self.commit(changes).await?;
        if let Some(old) = existing {
            self.forget_staging(old.content.staging.as_ref()).await;
            self.released(&at.account);
        }
        Ok(BlobRow { row: stored, kind, body, content })
    }

    /// A blob of this kind, for a write.
    pub(super) async fn load_kind(&self, at: &Place, kind: BlobKind, access: &Access) -> Result<BlobRow, StorageError> {
        let row = self.load(at).await?;
        require_kind(&row, kind)?;
        self.check_write(&row, access)?;
        Ok(row)
    }
}

/// Pieces one behind the other.
pub(super) fn parts_view(parts: Vec<Part>, size: u64) -> View {
    View { size, base: Base::nothing(), over: Over::Parts(Arc::new(parts)), runtime: Handle::current() }
}

/// Writes a stream to a file from `offset` on; gives how many bytes came.
pub(super) async fn write_stream(file: Arc<File>, offset: u64, mut upload: Upload) -> Result<u64, StorageError> {
    let mut len = 0;
    let mut held = BytesMut::new();
    loop {
        let next = upload.bytes.next().await.transpose().map_err(StorageError::Body)?;
        if let Some(bytes) = &next {
            held.extend_from_slice(bytes);
        }
        if held.len() >= WRITE || next.is_none() && !held.is_empty() {
            let (piece, file, at) = (held.split().freeze(), Arc::clone(&file), offset + len);
            len += piece.len() as u64;
            blocking(move || file.write_all_at(&piece, at).map_err(StorageError::of_file)).await?;
        }
        if next.is_none() {
            return Ok(len);
        }
    }
}
