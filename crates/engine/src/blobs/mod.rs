//! The data plane of managed disks: the page blobs behind the SAS URLs of beginGetAccess.
//!
//! A [`Grant`] in the database is a right to one disk's bytes; [`Blobs::open`] checks a URL against it and gives a handle on the
//! blob: the staging file of an upload, or a stored disk as a VHD. Nothing here knows HTTP. A handle lives for one request, so
//! that the end of a grant ends every access with it.
//!
//! Must never: serve a byte without a valid grant, answer a write that a killed process could lose, or hold a disk in memory.
//!
//! ```text
//! beginGetAccess ──> grant in the database ──> URL ──> Blobs::open ──> reads and writes
//! endGetAccess: delete the grant, then Blobs::end_upload (waits for writes in flight), then take the bytes
//! ```

mod conditions;
mod difference;
mod error;
mod export;
mod file;
mod ranges;
mod state;
mod upload;

pub use conditions::{Conditions, ContentHeaders, Properties, SequenceTest};
pub use difference::PageChange;
pub use error::BlobError;
pub(crate) use ranges::{PAGE, Ranges};
pub use upload::SequenceAction;
pub(crate) use upload::{check_metadata, clear as punch};

use crate::authorization::access::KeptAccess;
use crate::grant::{GrantDetail, blob_name};
use async_trait::async_trait;
use bytes::Bytes;
use difference::Member;
use export::{Export, Exported};
use file::File;
use futures::stream::{self, Stream, StreamExt};
use lazuli_authz::rbac::Plane;
use lazuli_chunks::{DiskReader, ManifestId};
use lazuli_meta::Db;
use lazuli_meta::model::{Grant, Resource};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use upload::Staged;

/// What one Put Page may carry.
pub const MAX_WRITE: u64 = 4 << 20;
/// A read is done in pieces of this many bytes...
const PIECE: u64 = 1 << 20;
/// ...of which so many are held at a time.
const PIECES_AHEAD: usize = 2;
/// Readers kept between requests.
const READERS: usize = 16;

const REVOKED: &str = "SAS identifier cannot be found for specified signed identifier";
const MISMATCH: &str = "Signature did not match";

/// What a signed URL brings along: the id of its grant (`si`) and the secret (`sig`).
#[derive(Clone)]
pub struct Sas {
    pub si: String,
    pub sig: String,
}

/// Opens disks in the content stores of a region.
#[async_trait]
pub trait OpenDisk: Send + Sync {
    /// A disk to which `owner` (the key of a resource) refers.
    ///
    /// # Errors
    /// What opening it says.
    async fn open_disk(&self, region: &str, owner: &str, disk: ManifestId) -> Result<DiskReader, BlobError>;
}

/// All blobs. Cheap to clone.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    db: Db,
    disks: Arc<dyn OpenDisk>,
    access: Arc<KeptAccess>,
    /// Uploads with requests in flight, by staging file.
    staged: Mutex<HashMap<PathBuf, Weak<Staged>>>,
    /// Readers of stored disks, by region and owner, the one opened last at the end.
    readers: Mutex<Vec<(String, String, DiskReader)>>,
}

/// A blob that the caller may use, for one request. With the key of its disk.
#[derive(Clone)]
pub struct Blob(Kind, String);

#[derive(Clone)]
enum Kind {
    Upload(Arc<Staged>),
    Export(Box<Export>),
    File(Arc<File>),
}

impl Blobs {
    pub fn new(db: Db, disks: Arc<dyn OpenDisk>) -> Self {
        let access = Arc::new(KeptAccess::new(db.clone()));
        Self::with_access(db, disks, access)
    }

    /// As [`Blobs::new`], with identities that others ask too.
    pub(crate) fn with_access(db: Db, disks: Arc<dyn OpenDisk>, access: Arc<KeptAccess>) -> Self {
        Self(Arc::new(Inner { db, disks, access, staged: Mutex::default(), readers: Mutex::default() }))
    }

    /// The blob behind a URL. `account` is the label without a zone (`md-impexp-x`), `principal` the object id of whoever signed
    /// in besides having the URL.
    ///
    /// # Errors
    /// [`BlobError::Unauthenticated`], [`BlobError::Expired`], [`BlobError::NoContainer`], [`BlobError::NoBlob`],
    /// [`BlobError::IdentityRequired`], [`BlobError::NotPermitted`], and what the database or the content store says.
    pub async fn open(
        &self,
        account: &str,
        container: &str,
        blob: &str,
        sas: &Sas,
        principal: Option<&str>,
    ) -> Result<Blob, BlobError> {
        let grant = self.0.db.grant_by_account(account).await.map_err(BlobError::of_meta)?;
        let grant = grant.ok_or(BlobError::Unauthenticated(REVOKED))?;
        check(&grant, sas, self.0.db.clock().now_ms())?;
        if container != grant.container {
            return Err(BlobError::NoContainer);
        }
        if blob != blob_name(&grant) {
            return Err(BlobError::NoBlob);
        }
        let disk = self.0.db.resource(&grant.resource_key).await.map_err(BlobError::of_meta)?;
        if let Some(disk) = &disk {
            self.check_identity(disk, &grant, principal).await?;
        }
        match GrantDetail::of(&grant).map_err(BlobError::internal)? {
            GrantDetail::Upload { path, size } => self.open_upload(&grant, path, size).await,
            GrantDetail::File { path, content_type, .. } => {
                let file = File::open(&path, content_type).await?;
                Ok(Blob(Kind::File(Arc::new(file)), grant.resource_key.clone()))
            }
            GrantDetail::Manifest { region, manifest, size, footer_unique_id } => {
                let reader = self.reader(&region, &grant.resource_key, &manifest).await?;
                let created_ms = disk.as_ref().map_or(0, |row| row.created_ms);
                let member = Member::of(&region, disk.as_ref());
                let mut export = Export::new(region, reader, size, footer_unique_id, created_ms)?;
                export.member = member;
                Ok(Blob(Kind::Export(Box::new(export)), grant.resource_key.clone()))
            }
        }
    }

    /// Of a disk with `dataAccessAuthMode` AzureActiveDirectory, the URL alone opens nothing (Swagger, `DataAccessAuthMode`): its
    /// user needs the data action too.
    async fn check_identity(&self, disk: &Resource, grant: &Grant, principal: Option<&str>) -> Result<(), BlobError> {
        if disk.body["properties"]["dataAccessAuthMode"] != "AzureActiveDirectory" {
            return Ok(());
        }
        let principal = principal.ok_or(BlobError::IdentityRequired)?;
        let kind = if disk.kind.ends_with("/snapshots") { "snapshots" } else { "disks" };
        let verb = if grant.access.starts_with("Write") { "upload" } else { "download" };
        let action = format!("Microsoft.Compute/{kind}/{verb}/action");
        let access = self.0.access.now().await.map_err(BlobError::of_meta)?;
        match access.allows(principal, &disk.key, &action, Plane::Data) {
            true => Ok(()),
            false => Err(BlobError::NotPermitted { principal: principal.to_owned() }),
        }
    }

    /// Ends an upload whose grant was deleted before: waits for the writes in flight and refuses all later ones, so that the
    /// staging file no longer changes. What is known besides the bytes is forgotten; the file itself is the caller's.
    ///
    /// # Errors
    /// If the file beside the staging file cannot be removed.
    pub async fn end_upload(&self, staging: &Path) -> std::io::Result<()> {
        let staged = self.0.staged.lock().unwrap_or_else(PoisonError::into_inner).remove(staging);
        match staged.and_then(|s| s.upgrade()) {
            Some(staged) => staged.seal().await,
            None => state::State::remove(staging),
        }
    }

    async fn open_upload(&self, grant: &Grant, path: PathBuf, size: u64) -> Result<Blob, BlobError> {
        let staged = self.staged(path, size);
        // Once the upload is registered, `end_upload` finds it; before, the grant may have gone unnoticed.
        let still = self.0.db.grant(&grant.id).await.map_err(BlobError::of_meta)?;
        if still.as_ref() != Some(grant) {
            return Err(BlobError::Unauthenticated(REVOKED));
        }
        staged.open().await?;
        Ok(Blob(Kind::Upload(staged), grant.resource_key.clone()))
    }

    fn staged(&self, path: PathBuf, size: u64) -> Arc<Staged> {
        let mut all = self.0.staged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(staged) = all.get(&path).and_then(Weak::upgrade)
            && staged.size() == size
        {
            return staged;
        }
        all.retain(|_, staged| staged.strong_count() > 0);
        let staged = Arc::new(Staged::new(path.clone(), size, self.0.db.clock().clone()));
        all.insert(path, Arc::downgrade(&staged));
        staged
    }

    async fn reader(&self, region: &str, owner: &str, manifest: &str) -> Result<DiskReader, BlobError> {
        let manifest: ManifestId = manifest.parse().map_err(|e| BlobError::internal(format!("{e}")))?;
        let lock = || self.0.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = {
            let mut readers = lock();
            // What its store let go of may be in another one.
            readers.retain(|(.., reader)| reader.is_held());
            let kept = readers.iter().find(|(r, o, reader)| r == region && o == owner && reader.manifest() == manifest);
            kept.map(|(.., reader)| reader.clone())
        };
        if let Some(reader) = kept {
            return Ok(reader);
        }
        let reader = self.0.disks.open_disk(region, owner, manifest).await?;
        let mut readers = lock();
        if readers.len() >= READERS {
            readers.remove(0);
        }
        readers.push((region.to_owned(), owner.to_owned(), reader.clone()));
        Ok(reader)
    }
}

/// Whether the URL's secret is the grant's, and its time is not over. A wrong secret says nothing about the grant.
fn check(grant: &Grant, sas: &Sas, now_ms: i64) -> Result<(), BlobError> {
    let equal =
        |a: &str, b: &str| aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok();
    if !equal(&grant.secret, &sas.sig) {
        return Err(BlobError::Unauthenticated(MISMATCH));
    }
    if !equal(&grant.id, &sas.si) {
        return Err(BlobError::Unauthenticated(REVOKED));
    }
    if grant.expires_ms <= now_ms {
        return Err(BlobError::Expired { expires_ms: grant.expires_ms, now_ms });
    }
    Ok(())
}

impl Blob {
    /// # Errors
    /// If the staging file's state cannot be had.
    pub fn properties(&self) -> Result<Properties, BlobError> {
        match &self.0 {
            Kind::Upload(staged) => staged.properties(),
            Kind::Export(export) => Ok(export.properties()),
            Kind::File(file) => Ok(file.properties()),
        }
    }

    /// Its length in bytes, the VHD's footer included.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Kind::Upload(staged) => staged.size(),
            Kind::Export(export) => export.properties().size,
            Kind::File(file) => file.properties().size,
        }
    }

    /// The bytes of `range`, cut at the blob's end, in pieces; only a few are held at a time.
    pub fn read(&self, range: Range<u64>) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + use<> {
        let end = range.end.min(self.size());
        let start = range.start.min(end);
        // Pieces end where a multiple of their size is.
        let first = start / PIECE;
        let pieces = (first..end.div_ceil(PIECE)).filter(move |_| start < end);
        let blob = self.clone();
        stream::iter(pieces)
            .map(move |n| {
                let (blob, piece) = (blob.clone(), (n * PIECE).max(start)..((n + 1) * PIECE).min(end));
                async move {
                    match &blob.0 {
                        Kind::Upload(staged) => staged.read(piece).await,
                        Kind::Export(export) => export.read(piece).await,
                        Kind::File(file) => file.read(piece),
                    }
                }
            })
            .buffered(PIECES_AHEAD)
    }

    /// Where `range` (cut at the blob's end) may hold data: ascending, apart, of whole pages, at most 10,000; all else reads
    /// as zeros.
    ///
    /// # Errors
    /// What the staging file or the content store says.
    pub async fn page_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, BlobError> {
        let range = range.start..range.end.min(self.size());
        match &self.0 {
            Kind::Upload(staged) => staged.page_ranges(range).await,
            Kind::Export(export) => export.page_ranges(range).await,
            Kind::File(_) => Ok(if range.is_empty() { vec![] } else { vec![range] }),
        }
    }

    /// Writes whole pages, at most [`MAX_WRITE`] bytes. On return they survive the process.
    ///
    /// # Errors
    /// [`BlobError::PageRange`], [`BlobError::TooLarge`], [`BlobError::Full`], conditions, and the end of the upload.
    pub async fn write_pages(&self, offset: u64, data: Bytes, when: &Conditions) -> Result<Properties, BlobError> {
        self.upload()?.write_pages(offset, data, when).await
    }

    /// Makes whole pages read as zeros.
    ///
    /// # Errors
    /// As [`Blob::write_pages`].
    pub async fn clear_pages(&self, range: Range<u64>, when: &Conditions) -> Result<Properties, BlobError> {
        self.upload()?.clear_pages(range, when).await
    }

    /// Put Blob: clears all pages and sets what is said of the blob. `size` must be the one that the upload was announced with.
    ///
    /// # Errors
    /// [`BlobError::SizeFixed`], [`BlobError::Exists`], conditions.
    pub async fn create(
        &self,
        size: u64,
        sequence: u64,
        headers: ContentHeaders,
        metadata: BTreeMap<String, String>,
        when: &Conditions,
    ) -> Result<Properties, BlobError> {
        self.upload()?.create(size, sequence, headers, metadata, when).await
    }

    /// Delete Blob on an upload: all pages are cleared and the upload may begin again; the disk stays.
    ///
    /// # Errors
    /// Conditions; [`BlobError::ReadOnly`] for a download.
    pub async fn reset(&self, when: &Conditions) -> Result<Properties, BlobError> {
        self.upload()?.reset(when).await
    }

    /// # Errors
    /// Conditions; [`BlobError::ReadOnly`] for a download.
    pub async fn set_headers(&self, headers: ContentHeaders, when: &Conditions) -> Result<Properties, BlobError> {
        self.upload()?.set_headers(headers, when).await
    }

    /// # Errors
    /// Conditions; [`BlobError::MetadataTooLarge`]; [`BlobError::ReadOnly`] for a download.
    pub async fn set_metadata(
        &self,
        metadata: BTreeMap<String, String>,
        when: &Conditions,
    ) -> Result<Properties, BlobError> {
        self.upload()?.set_metadata(metadata, when).await
    }

    /// Succeeds only for the size that the blob has.
    ///
    /// # Errors
    /// [`BlobError::SizeFixed`]; conditions.
    pub async fn resize(&self, size: u64, when: &Conditions) -> Result<Properties, BlobError> {
        self.upload()?.resize(size, when).await
    }

    /// # Errors
    /// [`BlobError::SequenceInvalid`]; conditions.
    pub async fn set_sequence(&self, action: SequenceAction, when: &Conditions) -> Result<Properties, BlobError> {
        self.upload()?.set_sequence(action, when).await
    }

    /// Where the bytes of a download are; `None` for an upload.
    pub(crate) fn exported(&self) -> Option<Exported> {
        match &self.0 {
            Kind::Upload(_) | Kind::File(_) => None,
            Kind::Export(export) => Some(export.exported(self.1.clone())),
        }
    }

    fn upload(&self) -> Result<&Staged, BlobError> {
        match &self.0 {
            Kind::Upload(staged) => Ok(staged),
            Kind::Export(_) | Kind::File(_) => Err(BlobError::ReadOnly),
        }
    }
}
