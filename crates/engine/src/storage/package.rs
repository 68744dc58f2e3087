//! A file in a blob as the package of a VM application: found by its URL among this server's accounts, its bytes shared.

use super::record::Settled;
use super::view::{Over, View};
use super::{Code, Place, Storage, StorageError, vhd};
use crate::provider::Context;
use crate::stored::{Stored, StoredFile};
use bytes::Bytes;
use lazuli_arm::ArmError;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The largest package (Azure's limit for VM applications).
const MAX_BYTES: u64 = 2 << 30;

/// The file in a blob of one of this server's accounts, which is in `location`; nothing is fetched from anywhere else. The blob
/// is settled by this if it was not. With the key of whoever keeps its bytes ([`crate::sources::take_over`]).
///
/// # Errors
/// As [`vhd::blob`] but for the VHD; 400 `InvalidParameter` for a file that is too large.
pub(crate) async fn file(cx: Context<'_>, uri: &str, location: &str) -> Result<(StoredFile, String), ArmError> {
    let at = vhd::find(cx, uri, None, location).await?;
    let (file, holder) = cx.engine.storage().stored_file(&at).await?;
    if file.size_bytes > MAX_BYTES {
        let shown = uri.split('?').next().unwrap_or(uri);
        return Err(ArmError::bad_request(
            "InvalidParameter",
            format!(
                "The package {shown} has {} bytes; a VM application may have at most {MAX_BYTES}.",
                file.size_bytes
            ),
        ));
    }
    Ok((file, holder))
}

impl Storage {
    /// A blob's bytes in the content store, and the key of whoever keeps them ([`crate::sources::take_over`]).
    ///
    /// # Errors
    /// [`Code::PendingCopyOperation`]; what settling says.
    pub(crate) async fn stored_file(&self, at: &Place) -> Result<(StoredFile, String), StorageError> {
        let row = self.settled(at).await?;
        if row.body.copy.as_ref().is_some_and(|copy| copy.status == "pending") {
            return Err(Code::PendingCopyOperation.into());
        }
        let size_bytes = row.size();
        let base = row.content.base;
        let stored = base.manifest.map(|manifest| Stored { manifest, size_bytes: base.stored });
        let holder = super::owner(&at.account, &at.container, &row.row.id);
        Ok((StoredFile { stored, tail_at: base.tail_at, tail: base.tail, size_bytes }, holder))
    }

    /// The bytes of such a file, to which `owner` (the key of a resource) refers; for small ones.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn read_file(&self, owner: &str, region: &str, file: &StoredFile) -> Result<Bytes, StorageError> {
        let settled = Settled {
            manifest: file.stored.as_ref().map(|s| s.manifest.clone()),
            stored: file.stored.as_ref().map_or(0, |s| s.size_bytes),
            tail_at: file.tail_at,
            tail: file.tail.clone(),
        };
        let base = self.base(owner, region, &settled).await?;
        let view = View { size: file.size_bytes, base, over: Over::Nothing, runtime: Handle::current() };
        Arc::new(view).read(0..file.size_bytes).await
    }
}
