//! Append blobs: a file that takes what follows the settled bytes. The row's size says how much of it counts, so that what
//! was written without an answer is written over.

use super::record::Content;
use super::upload::{Made, write_stream};
use super::view::blocking;
use super::{Access, BlobInfo, BlobKind, Code, NewBlob, Place, Storage, StorageError, Upload};
use std::fs::File;
use std::sync::Arc;
use uuid::Uuid;

const MAX_BLOCKS: u64 = 50_000;

/// What a client asks of the blob before its block is appended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppendConditions {
    pub position: Option<u64>,
    pub max_size: Option<u64>,
}

impl Storage {
    /// Put Blob of an empty append blob.
    ///
    /// # Errors
    /// Conditions, the lease.
    pub async fn create_append_blob(
        &self,
        at: &Place,
        new: NewBlob,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        let body = new.body(self.now_ms())?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let (id, content) = (Uuid::new_v4().to_string(), Content::default());
        let made = Made { kind: BlobKind::Append, size: 0, body, content, id, further: Vec::new() };
        Ok(self.replace(at, access, made).await?.info())
    }

    /// Append Block. Gives the blob and the offset at which the block begins.
    ///
    /// # Errors
    /// [`Code::AppendPositionConditionNotMet`], [`Code::MaxBlobSizeConditionNotMet`], [`Code::BlockCountExceedsLimit`],
    /// conditions, the lease, the body's own errors.
    pub async fn append_block(
        &self,
        at: &Place,
        upload: Upload,
        when: AppendConditions,
        access: &Access,
    ) -> Result<(BlobInfo, u64), StorageError> {
        // Taken whole before the blob is held: a slow client keeps nobody waiting.
        self.load_kind(at, BlobKind::Append, access).await?;
        let (file, len) = self.receive(upload).await?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let mut row = self.load_kind(at, BlobKind::Append, access).await?;
        let offset = row.size();
        if when.position.is_some_and(|position| position != offset) {
            return Err(Code::AppendPositionConditionNotMet.into());
        }
        if when.max_size.is_some_and(|max| offset + len > max) {
            return Err(Code::MaxBlobSizeConditionNotMet.into());
        }
        if row.body.sealed {
            return Err(Code::InvalidOperation.into());
        }
        if row.body.blocks >= MAX_BLOCKS {
            return Err(Code::BlockCountExceedsLimit.into());
        }
        if row.content.staging.is_none() {
            row.content.staging = Some(Uuid::new_v4().simple().to_string());
            row.content.staged_at = offset;
        }
        let end = self.append_file(row.content.staging.as_deref().unwrap_or_default());
        let from = offset - row.content.staged_at;
        let (source, target) = blocking(move || {
            let source = File::open(&file.0).map_err(StorageError::of_file)?;
            let target = File::options().write(true).create(true).truncate(false).open(end);
            Ok((source, target.map_err(StorageError::of_file)?))
        })
        .await?;
        copy(source, target, from).await?;
        row.set_size(offset + len);
        row.body.blocks += 1;
        row.touch(self.now_ms());
        Ok((self.store(row, Vec::new()).await?.info(), offset))
    }

    /// Nothing can be appended any more.
    ///
    /// # Errors
    /// Conditions, the lease.
    pub async fn seal(&self, at: &Place, access: &Access) -> Result<BlobInfo, StorageError> {
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let mut row = self.load_kind(at, BlobKind::Append, access).await?;
        row.body.sealed = true;
        row.touch(self.now_ms());
        Ok(self.store(row, Vec::new()).await?.info())
    }
}

/// A received block behind what is there.
async fn copy(source: File, target: File, from: u64) -> Result<(), StorageError> {
    use futures::StreamExt;
    let reader = tokio_util::io::ReaderStream::with_capacity(tokio::fs::File::from_std(source), 1 << 20);
    let upload = Upload { bytes: reader.boxed(), md5: Arc::default() };
    write_stream(Arc::new(target), from, upload).await.map(drop)
}
