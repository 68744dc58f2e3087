//! What all kinds of blobs have in common: reading, headers, metadata, tier, lease, snapshots, deletion.

use super::lease::On;
use super::settle::require_arrived;
use super::source::Opened;
use super::{Access, BlobInfo, BlobKind, Code, LeaseAction, Place, Storage, StorageError, owner};
use crate::blobs::{ContentHeaders, check_metadata};
use crate::content::reference;
use lazuli_meta::model::{Blob, BlobQuery, Change, Expect};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// What Delete Blob does with a blob's snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteSnapshots {
    /// The blob must not have any.
    Refuse,
    Include,
    /// The blob itself stays.
    Only,
}

impl Storage {
    /// A blob for reading: its properties and bytes at this moment.
    ///
    /// # Errors
    /// [`Code::BlobNotFound`], [`Code::ContainerNotFound`], conditions, a wrong lease.
    pub async fn open(&self, at: &Place, access: &Access) -> Result<Opened, StorageError> {
        let row = self.load(at).await?;
        access.conditions.check_read(&row.properties())?;
        row.body.lease.check_read(access.lease.as_deref(), On::Blob, self.now_ms())?;
        require_arrived(&row)?;
        match self.view(&at.account, &row).await {
            Ok(view) => Ok(Opened { info: row.info(), view: Arc::new(view) }),
            // Settled between the two steps: the row names other files now.
            Err(_) if row.content.staging.is_some() => {
                let row = self.load(at).await?;
                Ok(Opened { info: row.info(), view: Arc::new(self.view(&at.account, &row).await?) })
            }
            Err(error) => Err(error),
        }
    }

    /// The properties alone.
    ///
    /// # Errors
    /// As [`Storage::open`].
    pub async fn properties(&self, at: &Place, access: &Access) -> Result<BlobInfo, StorageError> {
        let row = self.load(at).await?;
        access.conditions.check_read(&row.properties())?;
        row.body.lease.check_read(access.lease.as_deref(), On::Blob, self.now_ms())?;
        Ok(row.info())
    }

    /// Set Blob Properties: all headers are replaced.
    ///
    /// # Errors
    /// Conditions, the lease.
    pub async fn set_headers(
        &self,
        at: &Place,
        headers: ContentHeaders,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let mut row = self.load_for_write(at, access).await?;
        row.body.headers = headers;
        row.touch(self.now_ms());
        Ok(self.store(row, Vec::new()).await?.info())
    }

    /// # Errors
    /// Conditions, the lease, too much metadata.
    pub async fn set_metadata(
        &self,
        at: &Place,
        metadata: BTreeMap<String, String>,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        check_metadata(&metadata)?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let mut row = self.load_for_write(at, access).await?;
        row.body.metadata = metadata;
        row.touch(self.now_ms());
        Ok(self.store(row, Vec::new()).await?.info())
    }

    /// Kept and shown; all tiers are the same here.
    ///
    /// # Errors
    /// [`Code::InvalidBlobType`] for append blobs, the lease.
    pub async fn set_tier(&self, at: &Place, tier: &str, access: &Access) -> Result<(), StorageError> {
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let mut row = self.load_for_write(at, access).await?;
        if row.kind == BlobKind::Append {
            return Err(Code::InvalidBlobType.into());
        }
        row.body.tier = Some(tier.to_owned());
        row.body.tier_ms = Some(self.now_ms());
        self.store(row, Vec::new()).await?;
        Ok(())
    }

    /// Gives the blob, the lease's id after it, and for a break the seconds until it takes effect.
    ///
    /// # Errors
    /// The lease codes; conditions.
    pub async fn lease(
        &self,
        at: &Place,
        action: &LeaseAction,
        access: &Access,
    ) -> Result<(BlobInfo, Option<String>, i64), StorageError> {
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let mut row = self.load(at).await?;
        access.conditions.check_write(&row.properties())?;
        let seconds = row.body.lease.apply(action, self.now_ms())?;
        let row = self.store(row, Vec::new()).await?;
        let id = row.body.lease.id.clone();
        Ok((row.info(), id, seconds))
    }

    /// Snapshot Blob. Gives the snapshot's time and the blob. Without `metadata` it gets the blob's own.
    ///
    /// # Errors
    /// Conditions, a wrong lease, what settling says.
    pub async fn snapshot(
        &self,
        at: &Place,
        metadata: Option<BTreeMap<String, String>>,
        access: &Access,
    ) -> Result<(String, BlobInfo), StorageError> {
        if let Some(metadata) = &metadata {
            check_metadata(metadata)?;
        }
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let row = self.load(at).await?;
        access.conditions.check_write(&row.properties())?;
        row.body.lease.check_read(access.lease.as_deref(), On::Blob, self.now_ms())?;
        let row = self.settle_alone(at, &Default::default()).await?;
        let time = self.snapshot_time(at).await?;
        let mut copy = row.clone();
        copy.row.id = Uuid::new_v4().to_string();
        copy.row.snapshot = Some(time.clone());
        copy.body.lease = Default::default();
        if let Some(metadata) = metadata {
            copy.body.metadata = metadata;
        }
        let (id, base) = (copy.row.id.clone(), copy.content.base.clone());
        let mut changes = vec![Change::PutBlob { blob: copy.into_row(), expect: Expect::Absent }];
        changes.extend(self.share(at, &row, &at.account.location, &base, &owner(&at.account, &at.container, &id)));
        if let Some(blocks) = self.db().block_list(&row.row.id).await? {
            let (account, container) = (at.account.name.clone(), at.container.clone());
            changes.push(Change::PutBlockList { blob: id, account, container, blocks });
        }
        self.commit(changes).await?;
        Ok((time, row.info()))
    }

    /// References to bytes that `source` keeps alive as long as this is committed.
    pub(super) fn share(
        &self,
        at: &Place,
        source: &super::record::BlobRow,
        region: &str,
        base: &super::record::Settled,
        new_owner: &str,
    ) -> Vec<Change> {
        let Some(manifest) = &base.manifest else { return Vec::new() };
        let old = owner(&at.account, &at.container, &source.row.id);
        vec![
            Change::RequireContentRef(reference(&old, region, manifest)),
            Change::PutContentRef(reference(new_owner, region, manifest)),
        ]
    }

    /// Later than every snapshot that the blob has.
    async fn snapshot_time(&self, at: &Place) -> Result<String, StorageError> {
        let last = self.snapshots(at).await?.pop().and_then(|row| row.snapshot);
        let mut nanos = i128::from(self.now_ms()) * 1_000_000;
        loop {
            let time = jiff::Timestamp::from_nanosecond(nanos).map_err(StorageError::internal)?;
            let text = time.strftime("%Y-%m-%dT%H:%M:%S.%7fZ").to_string();
            match &last {
                Some(last) if *last >= text => nanos += 1_000_000,
                _ => return Ok(text),
            }
        }
    }

    async fn snapshots(&self, at: &Place) -> Result<Vec<Blob>, StorageError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let query = BlobQuery {
                account: at.account.name.clone(),
                container: at.container.clone(),
                name: Some(at.blob.clone()),
                snapshots: true,
                after,
                ..BlobQuery::default()
            };
            let page = self.db().blobs(&query).await?;
            let more = page.len() == 1000;
            after = page.last().map(|row| (row.name.clone(), row.snapshot.clone()));
            found.extend(page.into_iter().filter(|row| row.snapshot.is_some()));
            if !more {
                return Ok(found);
            }
        }
    }

    /// Delete Blob.
    ///
    /// # Errors
    /// [`Code::SnapshotsPresent`], conditions, the lease.
    pub async fn delete(&self, at: &Place, snapshots: DeleteSnapshots, access: &Access) -> Result<(), StorageError> {
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let row = self.load(at).await?;
        access.conditions.check_write(&row.properties())?;
        let mut gone = vec![row.row.clone()];
        if at.snapshot.is_none() {
            row.body.lease.check_write(access.lease.as_deref(), On::Blob, self.now_ms())?;
            let found = self.snapshots(at).await?;
            match snapshots {
                DeleteSnapshots::Refuse if !found.is_empty() => return Err(Code::SnapshotsPresent.into()),
                DeleteSnapshots::Refuse => {}
                DeleteSnapshots::Include => gone.extend(found),
                DeleteSnapshots::Only => gone = found,
            }
        } else if snapshots != DeleteSnapshots::Refuse {
            return Err(Code::InvalidInput.into());
        }
        let mut changes = Vec::new();
        for row in &gone {
            changes.push(Change::DeleteBlob {
                account: row.account.clone(),
                container: row.container.clone(),
                name: row.name.clone(),
                snapshot: row.snapshot.clone(),
                expect: Expect::Etag(row.revision.clone()),
            });
            let resource_key = owner(&at.account, &at.container, &row.id);
            changes.push(Change::DeleteContentRefs { resource_key });
        }
        self.commit(changes).await?;
        if at.snapshot.is_none() && snapshots != DeleteSnapshots::Only {
            self.forget_staging(row.content.staging.as_ref()).await;
            self.forget_blocks(at).await?;
        }
        self.released(&at.account);
        Ok(())
    }
}
