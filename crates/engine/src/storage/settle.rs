//! Bytes from staging files into the content store, and the loop that does it when nobody waits for it.
//!
//! ```text
//! staging file over settled bytes ─ ingest ─> manifest ─ row + reference, one transaction ─> files removed
//! ```
//! Dying at any point leaves the old row with its files, or the new row with files that nobody names.

use super::record::{BlobRow, Settled};
use super::view::{Beginning, View, blocking};
use super::{Account, BlobKind, Code, Place, Storage, StorageError, references};
use crate::Engine;
use crate::content::sweep;
use crate::regions::ContentGuard;
use lazuli_chunks::{ManifestId, Progress, Region};
use lazuli_disks::vhd;
use lazuli_meta::model::{Blob, BlobState};
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// A blob that was not written for so long is settled.
const IDLE_MS: i64 = 10_000;
const TIMER: Duration = Duration::from_secs(5);
/// Bytes that were let go of are swept so many rounds of the timer later, many deletions at once.
const SWEEP_ROUNDS: u32 = 12;
/// Staging files without a row (of deleted accounts and containers) are looked for so many rounds of the timer later...
const CLEAN_ROUNDS: u32 = 720;
/// ...when they are so old that no request can be about to name them.
const CLEAN_AGE: Duration = Duration::from_secs(24 * 3600);
/// Blocks that were never committed are forgotten after a week, as in Azure.
const BLOCKS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

impl Storage {
    /// The blob with all its bytes in the content store.
    pub(super) async fn settled(&self, at: &Place) -> Result<BlobRow, StorageError> {
        let row = self.load(at).await?;
        require_arrived(&row)?;
        if row.content.staging.is_none() {
            return Ok(row);
        }
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        self.settle_alone(at, &CancellationToken::new()).await
    }

    /// The same for who has the blob's gate.
    pub(super) async fn settle_alone(&self, at: &Place, stop: &CancellationToken) -> Result<BlobRow, StorageError> {
        let mut row = self.load(at).await?;
        require_arrived(&row)?;
        let Some(staging) = row.content.staging.clone() else { return Ok(row) };
        let view = Arc::new(self.view(&at.account, &row).await?);
        let (settled, _guard) = self.ingest(&at.account, view, stop).await?;
        let changes = references(&at.account, &at.container, &row.row.id, &settled);
        row.content.base = settled;
        row.content.staging = None;
        let row = self.store(row, changes).await?;
        self.forget_staging(Some(&staging)).await;
        self.released(&at.account);
        Ok(row)
    }

    /// The store that an account's bytes come into.
    pub(super) async fn guard(&self, account: &Account, region: &str) -> Result<ContentGuard, StorageError> {
        let regions = &self.0.regions;
        let boundary = regions.boundary(region, &account.key).await.map_err(StorageError::internal)?;
        Ok(regions.guard(region, boundary).await?)
    }

    /// The store of a region that has a manifest to which `owner` (the key of a resource) refers.
    pub(super) async fn store_of(
        &self,
        owner: &str,
        region: &str,
        manifest: &str,
    ) -> Result<(Region, ManifestId), StorageError> {
        let manifest = manifest.parse().map_err(|e| StorageError::internal(format!("{manifest}: {e}")))?;
        let regions = &self.0.regions;
        let boundary = regions.boundary(region, owner).await.map_err(StorageError::internal)?;
        Ok((regions.find(region, boundary, manifest).await?, manifest))
    }

    /// Brings a view's bytes into the region of the account. They are kept while the guard is held.
    pub(super) async fn ingest(
        &self,
        account: &Account,
        view: Arc<View>,
        stop: &CancellationToken,
    ) -> Result<(Settled, Option<ContentGuard>), StorageError> {
        let (len, tail) = self.split(&view).await?;
        let mut settled = Settled { manifest: None, stored: len, tail_at: len, tail: hex::encode(tail) };
        if len == 0 {
            return Ok((settled, None));
        }
        let guard = self.guard(account, &account.location).await?;
        let source = Arc::new(Beginning { view, len });
        let ingested = guard.region.ingest(source, &Progress::new(), stop).await?;
        settled.manifest = Some(ingested.manifest.to_string());
        Ok((settled, Some(guard)))
    }

    /// How many bytes of a view go into a manifest, and those that are kept beside it.
    async fn split(&self, view: &Arc<View>) -> Result<(u64, Vec<u8>), StorageError> {
        let size = view.size;
        let sectors = size / vhd::FOOTER_LEN * vhd::FOOTER_LEN;
        if sectors == size && size > vhd::FOOTER_LEN {
            let footer = Arc::clone(view).read(size - vhd::FOOTER_LEN..size).await?;
            if footer.starts_with(&vhd::COOKIE) {
                return Ok((size - vhd::FOOTER_LEN, footer.to_vec()));
            }
        }
        let tail = Arc::clone(view).read(sectors..size).await?;
        Ok((sectors, tail.to_vec()))
    }
}

/// Settles, resumes copies and sweeps until `shutdown` fires.
pub(crate) async fn run(engine: Engine, shutdown: CancellationToken) {
    let storage = engine.storage().clone();
    if let Err(error) = storage.clean(Duration::ZERO).await {
        tracing::warn!(%error, "staging files of the last server stay behind");
    }
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TIMER) => {}
        }
        round = round.wrapping_add(1);
        if let Err(error) = storage.settle_idle(&engine, &shutdown).await {
            tracing::warn!(%error, cause = ?std::error::Error::source(&error), "written blobs were not settled; they are looked at again");
        }
        if round.is_multiple_of(SWEEP_ROUNDS) {
            let dirty = std::mem::take(&mut *storage.0.dirty.lock().unwrap_or_else(PoisonError::into_inner));
            sweep(&engine, dirty).await;
        }
        if round.is_multiple_of(CLEAN_ROUNDS)
            && let Err(error) = storage.clean(CLEAN_AGE).await
        {
            tracing::warn!(%error, "staging files that nobody needs stay behind");
        }
    }
}

impl Storage {
    async fn settle_idle(&self, engine: &Engine, shutdown: &CancellationToken) -> Result<(), StorageError> {
        for row in self.db().unsettled_blobs(BlobState::Staged, self.now_ms() - IDLE_MS).await? {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            let Some(at) = self.place_of(engine, &row).await? else { continue };
            let gate = self.0.gates.of(&row.account, &row.container, &row.name);
            let Some((_alone, stop)) = gate.idle() else { continue };
            let stop = tokio::select! {
                done = self.settle_alone(&at, &stop) => done.map(drop),
                () = shutdown.cancelled() => return Ok(()),
            };
            match stop {
                Ok(()) => tracing::debug!(account = row.account, blob = row.name, "a written blob was settled"),
                Err(error) => tracing::debug!(blob = row.name, %error, "a written blob is settled later"),
            }
        }
        for row in self.db().unsettled_blobs(BlobState::Copying, i64::MAX).await? {
            if let Some(at) = self.place_of(engine, &row).await? {
                self.copy_pending(at, row.id, shutdown).await;
            }
        }
        Ok(())
    }

    /// `None`: its account is gone.
    async fn place_of(&self, engine: &Engine, row: &Blob) -> Result<Option<Place>, StorageError> {
        let account = engine.account_of_blobs(&row.account).await?;
        Ok(account.map(|account| Place {
            account,
            container: row.container.clone(),
            blob: row.name.clone(),
            snapshot: row.snapshot.clone(),
        }))
    }

    /// Names of the staging files that rows have.
    #[cfg(test)]
    pub(crate) async fn found_staging(&self) -> Vec<String> {
        let rows = self.db().unsettled_blobs(BlobState::Staged, i64::MAX).await.expect("a list");
        rows.into_iter().filter_map(|row| BlobRow::of(row).ok()?.content.staging).collect()
    }

    /// Removes staging files that no row names: a process died between its last write and its next.
    async fn clean(&self, age: Duration) -> Result<(), StorageError> {
        let rows = self.db().unsettled_blobs(BlobState::Staged, i64::MAX).await?;
        let complete = rows.len() < 1000;
        let rows = rows.into_iter().map(BlobRow::of).collect::<Result<Vec<_>, _>>()?;
        let named: HashSet<String> = rows.into_iter().filter_map(|row| row.content.staging).collect();
        let folder = self.0.staging.clone();
        blocking(move || clean(&folder, complete.then_some(&named), age).map_err(StorageError::of_file)).await
    }
}

fn clean(folder: &Path, named: Option<&HashSet<String>>, age: Duration) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let (stem, kind) = (path.file_stem().unwrap_or_default(), path.extension().unwrap_or_default());
        let (stem, kind) = (stem.to_string_lossy(), kind.to_string_lossy());
        let gone = match kind.as_ref() {
            "upload" => true,
            "pages" | "map" | "end" => named.is_some_and(|named| !named.contains(stem.as_ref())),
            _ => false,
        };
        if gone && age_of(&path)? >= age {
            std::fs::remove_file(&path)?;
        } else if kind == "blocks" {
            clean_blocks(&path)?;
        }
    }
    Ok(())
}

/// `blocks/CONTAINER.blocks/BLOB/BLOCK`.
fn clean_blocks(container: &Path) -> std::io::Result<()> {
    for blob in std::fs::read_dir(container)? {
        let blob = blob?.path();
        for block in std::fs::read_dir(&blob)? {
            let block = block?.path();
            if age_of(&block)? > BLOCKS_KEPT {
                std::fs::remove_file(block)?;
            }
        }
        // Refused while blocks are in it.
        let _ = std::fs::remove_dir(&blob);
    }
    let _ = std::fs::remove_dir(container);
    Ok(())
}

fn age_of(path: &Path) -> std::io::Result<Duration> {
    let modified = std::fs::metadata(path)?.modified()?;
    Ok(SystemTime::now().duration_since(modified).unwrap_or_default())
}

/// The bytes of a pending copy are not here yet.
pub(super) fn require_arrived(row: &BlobRow) -> Result<(), StorageError> {
    match &row.body.copy {
        Some(copy) if copy.status == "pending" => Err(Code::PendingCopyOperation.into()),
        _ => Ok(()),
    }
}

/// What a settled blob of this kind and size may be taken for: the code says why not.
pub(super) fn require_kind(row: &BlobRow, kind: BlobKind) -> Result<(), StorageError> {
    if row.kind == kind { Ok(()) } else { Err(Code::InvalidBlobType.into()) }
}

impl From<StorageError> for lazuli_arm::ArmError {
    fn from(error: StorageError) -> Self {
        use crate::blobs::BlobError;
        match error {
            StorageError::Refused(code @ (Code::BlobNotFound | Code::ContainerNotFound)) => {
                Self::new(404, code.as_str(), code.text())
            }
            StorageError::Refused(code @ Code::InvalidResourceName) => Self::bad_request(code.as_str(), code.text()),
            StorageError::Refused(code) => Self::new(409, code.as_str(), code.text()),
            StorageError::Blob(BlobError::MetadataTooLarge) => Self::bad_request(
                "MetadataTooLarge",
                "The size of the specified metadata exceeds the maximum size permitted.",
            ),
            StorageError::Blob(BlobError::Full { .. }) => {
                Self::new(507, "StorageFull", "The storage of this server is full. Free some space, then retry.")
                    .caused_by(error)
            }
            StorageError::Blob(BlobError::Busy { .. }) => {
                Self::new(503, "ServiceUnavailable", "The storage cannot be reached now. Please retry the request.")
                    .caused_by(error)
            }
            other => Self::internal(other),
        }
    }
}
