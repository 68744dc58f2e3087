//! A file in a blob as the package of a VM application: found by its URL among this server's accounts, its bytes shared.

use super::{Code, vhd};
use crate::provider::Context;
use crate::stored::{Stored, StoredFile};
use lazuli_arm::ArmError;

/// The largest package (Azure's limit for VM applications).
const MAX_BYTES: u64 = 2 << 30;

/// The file in a blob of one of this server's accounts, which is in `location`; nothing is fetched from anywhere else. The blob
/// is settled by this if it was not. With the key of whoever keeps its bytes ([`crate::sources::take_over`]).
///
/// # Errors
/// As [`vhd::blob`] but for the VHD; 400 `InvalidParameter` for a file that is too large.
pub(crate) async fn file(cx: Context<'_>, uri: &str, location: &str) -> Result<(StoredFile, String), ArmError> {
    let at = vhd::find(cx, uri, None, location).await?;
    let row = cx.engine.storage().settled(&at).await?;
    if row.body.copy.as_ref().is_some_and(|copy| copy.status == "pending") {
        return Err(super::StorageError::from(Code::PendingCopyOperation).into());
    }
    let size_bytes = row.size();
    if size_bytes > MAX_BYTES {
        let shown = uri.split('?').next().unwrap_or(uri);
        return Err(ArmError::bad_request(
            "InvalidParameter",
            format!("The package {shown} has {size_bytes} bytes; a VM application may have at most {MAX_BYTES}."),
        ));
    }
    let base = row.content.base;
    let stored = base.manifest.map(|manifest| Stored { manifest, size_bytes: base.stored });
    let holder = super::owner(&at.account, &at.container, &row.row.id);
    Ok((StoredFile { stored, tail_at: base.tail_at, tail: base.tail, size_bytes }, holder))
}
