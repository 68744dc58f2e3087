//! Copy Blob: within a region the copy shares every byte and is there at once; between regions it is pending until its
//! bytes have arrived.
//!
//! ```text
//! same region:   row + reference, `success`
//! another:       row `pending` + reference over there ─ replicate ─> row `success` + reference here
//!                                     └─ abort ─> row `aborted`, empty
//! ```

use super::record::{Content, Copy, CopyFrom};
use super::source::{Found, Source};
use super::upload::Made;
use super::{
    Access, BlobBody, BlobInfo, BlobKind, Code, NewBlob, Place, Storage, StorageError, lease, owner, references,
};
use crate::blobs::{ContentHeaders, check_metadata};
use crate::content::reference;
use lazuli_chunks::Progress;
use lazuli_meta::model::Change;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What a client says of the copy.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Without a signature; shown as `x-ms-copy-source`.
    pub source_url: String,
    /// Instead of the source's.
    pub metadata: Option<BTreeMap<String, String>>,
    pub tier: Option<String>,
    /// Instead of the source's (Put Blob From URL).
    pub kind: Option<BlobKind>,
    pub headers: Option<ContentHeaders>,
    /// Answer when the bytes are there.
    pub wait: bool,
}

impl Storage {
    /// Copy Blob. The destination's `body.copy` tells how far it is.
    ///
    /// # Errors
    /// [`Code::CannotVerifyCopySource`], conditions, the lease.
    pub async fn copy(
        &self,
        at: &Place,
        source: &Source,
        options: CopyOptions,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        if let Some(metadata) = &options.metadata {
            check_metadata(metadata)?;
        }
        // Settled before the destination is held: a blob may be copied onto itself.
        let found = self.found(source).await?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let alone = gate.alone().await;
        let id = Uuid::new_v4().to_string();
        let wait = options.wait;
        let made = self.made_of(at, found, options, &id).await?;
        let pending = made.body.copy.as_ref().is_some_and(|copy| copy.status == "pending");
        let row = self.replace(at, access, made).await?;
        if pending && wait {
            drop(alone);
            self.try_copy(at, &id, &CancellationToken::new()).await?;
            return Ok(self.load(at).await?.info());
        }
        if pending {
            let (storage, at) = (self.clone(), at.clone());
            tokio::spawn(async move { storage.copy_pending(at, id, &CancellationToken::new()).await });
        }
        Ok(row.info())
    }

    async fn made_of(&self, at: &Place, found: Found, options: CopyOptions, id: &str) -> Result<Made, StorageError> {
        let now = self.now_ms();
        let here = found.region == at.account.location || found.bytes.manifest.is_none();
        let copy = Copy {
            id: Uuid::new_v4().to_string(),
            source: options.source_url,
            status: if here { "success" } else { "pending" }.to_owned(),
            description: None,
            done: if here { found.size } else { 0 },
            total: found.size,
            completed_ms: here.then_some(now),
            from: (!here).then(|| CopyFrom {
                region: found.region.clone(),
                to_region: at.account.location.clone(),
                bytes: found.bytes.clone(),
            }),
        };
        let new = NewBlob {
            headers: options.headers.unwrap_or(found.headers),
            metadata: options.metadata.unwrap_or(found.metadata),
            tier: options.tier,
            sequence: found.sequence,
        };
        let body = BlobBody { copy: Some(copy), sealed: found.sealed, blocks: found.blocks, ..new.body(now)? };
        let mut further = Vec::new();
        if let Some(manifest) = &found.bytes.manifest {
            if let Some(owner) = &found.owner {
                further.push(Change::RequireContentRef(reference(owner, &found.region, manifest)));
            }
            let owner = owner(&at.account, &at.container, id);
            further.push(Change::PutContentRef(reference(&owner, &found.region, manifest)));
        }
        if let Some(source) = &found.block_list
            && let Some(blocks) = self.db().block_list(source).await?
        {
            let (account, container) = (at.account.name.clone(), at.container.clone());
            further.push(Change::PutBlockList { blob: id.to_owned(), account, container, blocks });
        }
        let base = if here { found.bytes } else { Default::default() };
        let content = Content { base, ..Content::default() };
        Ok(Made {
            kind: options.kind.unwrap_or(found.kind),
            size: found.size,
            body,
            content,
            id: id.to_owned(),
            further,
        })
    }

    /// Brings a pending copy to its end. Any number of these may run for one blob; the first that is done counts.
    pub(super) async fn copy_pending(&self, at: Place, id: String, stop: &CancellationToken) {
        if let Err(error) = self.try_copy(&at, &id, stop).await {
            tracing::warn!(blob = at.blob, %error, cause = ?std::error::Error::source(&error), "a copy is tried again");
        }
    }

    async fn try_copy(&self, at: &Place, id: &str, stop: &CancellationToken) -> Result<(), StorageError> {
        let Some(row) = self.find(at).await?.filter(|row| row.row.id == id) else { return Ok(()) };
        let Some(from) = row.body.copy.and_then(|copy| copy.from) else { return Ok(()) };
        let Some(manifest) = &from.bytes.manifest else { return Ok(()) };
        let (source, manifest) = self.store_of(&at.account.key, &from.region, manifest).await?;
        let guard = self.guard(&at.account, &from.to_region).await?;
        guard.region.replicate_from(&source, manifest, &Progress::new(), stop).await?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let Some(mut row) = self.find(at).await?.filter(|row| row.row.id == id) else { return Ok(()) };
        let now = self.now_ms();
        match &mut row.body.copy {
            Some(copy) if copy.status == "pending" => {
                (copy.status, copy.done, copy.completed_ms, copy.from) =
                    ("success".into(), copy.total, Some(now), None);
            }
            _ => return Ok(()),
        }
        row.touch(now);
        let changes = references(&at.account, &at.container, id, &from.bytes);
        row.content.base = from.bytes;
        self.store(row, changes).await?;
        Ok(())
    }

    /// Abort Copy Blob: the destination is left empty.
    ///
    /// # Errors
    /// [`Code::NoPendingCopyOperation`], [`Code::CopyIdMismatch`], the lease.
    pub async fn abort_copy(&self, at: &Place, copy_id: &str, lease: Option<&str>) -> Result<(), StorageError> {
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let mut row = self.load(at).await?;
        row.body.lease.check_write(lease, lease::On::Blob, self.now_ms())?;
        let Some(copy) = row.body.copy.as_mut().filter(|copy| copy.status == "pending") else {
            return Err(Code::NoPendingCopyOperation.into());
        };
        if copy.id != copy_id {
            return Err(Code::CopyIdMismatch.into());
        }
        (copy.status, copy.from, copy.completed_ms) = ("aborted".into(), None, Some(self.now_ms()));
        row.set_size(0);
        row.touch(self.now_ms());
        let resource_key = owner(&at.account, &at.container, &row.row.id);
        self.store(row, vec![Change::DeleteContentRefs { resource_key }]).await?;
        self.released(&at.account);
        Ok(())
    }
}
