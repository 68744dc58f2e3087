//! The blob service of storage accounts: containers, blobs, snapshots, leases, copies.
//!
//! ```text
//! api ─> Storage ─┬─ rows (meta): names, properties, leases, where the bytes are
//!                 ├─ staging/ below the data folder: bytes on their way in, pages and blocks that were written
//!                 └─ the content store of the account's region: bytes that are settled, shared with whoever imports them
//! ```
//! A block blob is settled when it is made. Page and append blobs take writes into a staging file over what is settled, and
//! are settled when nobody writes to them or somebody needs them ([`Storage::settled`]).
//!
//! A write that was answered survives `kill -9`: bytes are in their file before the row says so. Must never: hold a blob in
//! memory, answer before the row is committed, judge who may do what (that is the caller's), fetch from another server.

mod append;
mod blob;
mod block;
mod container;
mod copy;
mod error;
mod gate;
mod lease;
mod list;
mod overlay;
pub(crate) mod package;
mod page;
mod record;
mod settle;
mod source;
mod upload;
#[cfg_attr(not(test), allow(dead_code, reason = "a door for the providers of versions, snapshots and images"))]
pub(crate) mod vhd;
mod view;

pub use append::AppendConditions;
pub use blob::DeleteSnapshots;
pub use block::{BlockChoice, BlockInfo, BlockLists};
pub use copy::CopyOptions;
pub use error::{Code, StorageError};
pub use lease::{Lease, LeaseAction, LeaseState};
pub use list::{BlobPage, ContainerPage, Entry, ListQuery};
pub use page::PageChanges;
pub use record::{BlobBody, BlobInfo, BlobKind, ContainerBody, ContainerInfo, Copy, Policy};
pub(crate) use settle::run;
pub use source::{Opened, Source};
pub use upload::{NewBlob, Upload};

use crate::blobs::{BlobError, Conditions, Properties};
use crate::content::reference;
use crate::regions::Regions;
use gate::Gates;
use lazuli_meta::Db;
use lazuli_meta::model::{Change, Container, Expect, Write};
use overlay::Overlay;
use record::{BlobRow, Settled};
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::runtime::Handle;
use view::{Base, Over, View};

/// The account that a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Unique on the whole server, lower case.
    pub name: String,
    /// Key of its resource.
    pub key: String,
    /// Its region.
    pub location: String,
}

/// A blob or a snapshot of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub account: Account,
    pub container: String,
    pub blob: String,
    pub snapshot: Option<String>,
}

/// What must hold for a request to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    pub conditions: Conditions,
    pub lease: Option<String>,
}

/// The blob service. Cheap to clone.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    db: Db,
    regions: Arc<Regions>,
    staging: PathBuf,
    gates: Gates,
    /// Open overlays, by the name of their files.
    overlays: Mutex<HashMap<String, Weak<Overlay>>>,
    /// Regions in which something was let go of since the last sweep.
    dirty: Mutex<HashSet<String>>,
}

impl Storage {
    pub(crate) fn new(db: Db, regions: Arc<Regions>, staging: PathBuf) -> Self {
        let (gates, overlays, dirty) = Default::default();
        Self(Arc::new(Inner { db, regions, staging, gates, overlays, dirty }))
    }

    fn db(&self) -> &Db {
        &self.0.db
    }

    fn now_ms(&self) -> i64 {
        self.0.db.clock().now_ms()
    }

    /// The container, which exists.
    async fn require_container(&self, account: &Account, name: &str) -> Result<Container, StorageError> {
        self.db().container(&account.name, name).await?.ok_or_else(|| Code::ContainerNotFound.into())
    }

    /// The blob, which exists. A missing container is told apart only where the blob is missing.
    async fn load(&self, at: &Place) -> Result<BlobRow, StorageError> {
        match self.find(at).await? {
            Some(row) => Ok(row),
            None => {
                self.require_container(&at.account, &at.container).await?;
                Err(Code::BlobNotFound.into())
            }
        }
    }

    async fn find(&self, at: &Place) -> Result<Option<BlobRow>, StorageError> {
        let row = self.db().blob(&at.account.name, &at.container, &at.blob, at.snapshot.as_deref()).await?;
        row.map(BlobRow::of).transpose()
    }

    /// The blob that a write is for: it exists, the conditions and its lease allow the write, no copy is under way.
    async fn load_for_write(&self, at: &Place, access: &Access) -> Result<BlobRow, StorageError> {
        let row = self.load(at).await?;
        self.check_write(&row, access)?;
        Ok(row)
    }

    fn check_write(&self, row: &BlobRow, access: &Access) -> Result<(), StorageError> {
        access.conditions.check_write(&row.properties())?;
        row.body.lease.check_write(access.lease.as_deref(), lease::On::Blob, self.now_ms())?;
        settle::require_arrived(row)
    }

    /// Replaces the row that was loaded, with further changes in the same transaction.
    async fn store(&self, row: BlobRow, further: Vec<Change>) -> Result<BlobRow, StorageError> {
        let expect = Expect::Etag(row.row.revision.clone());
        let (kind, body, content) = (row.kind, row.body.clone(), row.content.clone());
        let stored = row.into_row();
        let mut changes = vec![Change::PutBlob { blob: stored.clone(), expect }];
        changes.extend(further);
        self.commit(changes).await?;
        Ok(BlobRow { row: stored, kind, body, content })
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<(), StorageError> {
        Ok(self.db().write(Write { fence: None, changes }).await?)
    }

    /// The bytes of a blob as they are now.
    async fn view(&self, account: &Account, row: &BlobRow) -> Result<View, StorageError> {
        let base = self.base(&account.key, &account.location, &row.content.base).await?;
        let over = match (&row.content.staging, row.kind) {
            (None, _) => Over::Nothing,
            (Some(id), BlobKind::Append) => {
                let path = self.append_file(id);
                let file = view::blocking(move || std::fs::File::open(path).map_err(StorageError::of_file)).await?;
                Over::End { file: Arc::new(file), at: row.content.staged_at }
            }
            (Some(id), _) => Over::Pages(self.overlay(id, false).await?),
        };
        Ok(View { size: row.size(), base, over, runtime: Handle::current() })
    }

    async fn base(&self, owner: &str, region: &str, settled: &Settled) -> Result<Base, StorageError> {
        let reader = match &settled.manifest {
            Some(manifest) => {
                let (store, manifest) = self.store_of(owner, region, manifest).await?;
                Some(store.reader(manifest).await?)
            }
            None => None,
        };
        Base::new(settled, reader)
    }

    /// The overlay of this name, shared by everybody who uses it.
    async fn overlay(&self, id: &str, new: bool) -> Result<Arc<Overlay>, StorageError> {
        let lock = |inner: &Inner| inner.overlays.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.upgrade();
        if let Some(open) = lock(&self.0) {
            return Ok(open);
        }
        let (inner, id) = (Arc::clone(&self.0), id.to_owned());
        view::blocking(move || {
            let mut all = inner.overlays.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(open) = all.get(&id).and_then(Weak::upgrade) {
                return Ok(open);
            }
            all.retain(|_, open| open.strong_count() > 0);
            let open = Arc::new(Overlay::open(&inner.staging, &id, new).map_err(StorageError::of_file)?);
            all.insert(id, Arc::downgrade(&open));
            Ok(open)
        })
        .await
    }

    fn append_file(&self, id: &str) -> PathBuf {
        self.0.staging.join(format!("{id}.end"))
    }

    /// Removes the files of a staging name, once no row names it any more.
    async fn forget_staging(&self, id: Option<&String>) {
        let Some(id) = id else { return };
        self.0.overlays.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let [pages, map] = overlay::paths(&self.0.staging, id);
        for path in [pages, map, self.append_file(id)] {
            match tokio::fs::remove_file(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a staging file stays behind until the next start");
                }
                _ => {}
            }
        }
    }

    /// Bytes were let go of: the region is swept before long.
    fn released(&self, account: &Account) {
        self.account_deleted(&account.location);
    }

    /// An account of this region is gone with all that was in it.
    pub(crate) fn account_deleted(&self, location: &str) {
        self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(location.to_owned());
    }
}

impl crate::Engine {
    /// The account of this name, for the blob service.
    pub(crate) async fn account_of_blobs(&self, name: &str) -> Result<Option<Account>, StorageError> {
        let found = self.storage_account(name).await.map_err(StorageError::internal)?;
        Ok(found.map(|found| Account { name: found.name, key: found.key, location: found.location }))
    }
}

/// The key below which the content references of an account's blobs are.
fn blobs_key(account: &Account) -> String {
    format!("{}/blobservices/default/containers", account.key)
}

/// Owner of a blob's content references.
fn owner(account: &Account, container: &str, id: &str) -> String {
    format!("{}/{container}/blobs/{id}", blobs_key(account))
}

/// References from a blob to its settled bytes, instead of those that it had.
fn references(account: &Account, container: &str, id: &str, settled: &Settled) -> Vec<Change> {
    let owner = owner(account, container, id);
    let mut changes = vec![Change::DeleteContentRefs { resource_key: owner.clone() }];
    if let Some(manifest) = &settled.manifest {
        changes.push(Change::PutContentRef(reference(&owner, &account.location, manifest)));
    }
    changes
}

/// The conditions of a write that may make the blob, on whatever is there.
fn check_create(now: Option<&Properties>, conditions: &Conditions) -> Result<(), StorageError> {
    let only_new = conditions.if_none_match.as_deref().is_some_and(|tags| tags.trim() == "*");
    match now {
        Some(_) if only_new => Err(Code::BlobAlreadyExists.into()),
        Some(now) => Ok(conditions.check_write(now)?),
        None if conditions.if_match.is_some() => Err(BlobError::ConditionNotMet.into()),
        None => Ok(()),
    }
}
