//! Rights to a disk's bytes over the blob data plane: what a SAS points at, and how its URL is written.
//!
//! ```text
//! beginGetAccess ─> Grant row (meta) ─> https://ACCOUNT…/CONTAINER/abcd?sv&sr=b&si=ID&sig=SECRET ─> blobs
//! ```
//! A row ends with endGetAccess, with the disk, or when `expires_ms` has passed; who serves bytes checks it at every request. After the
//! row of an upload is gone, `Blobs::end_upload` waits for the writes that are still under way.

use crate::call::Urls;
use lazuli_arm::ArmError;
use lazuli_meta::model::Grant;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use uuid::Uuid;

/// Name of the one blob in a grant's container (recorded).
pub const BLOB: &str = "abcd";
/// Ends the access of a grant for the state of a trusted launch guest: `ReadGuestState`, `WriteGuestState`.
pub(crate) const GUEST_STATE: &str = "GuestState";

/// `detail` of a [`Grant`]: the bytes behind it.
///
/// ```json
/// {"kind": "upload", "path": "…/uploads/ID.vhd", "size": 50332160}
/// {"kind": "manifest", "region": "eastus", "manifest": "hex", "size": 50331648, "footerUniqueId": "uuid"}
/// {"kind": "file", "path": "…/diagnostics/ID/screenshot.png", "name": "vm.ID.screenshot.png", "contentType": "image/png"}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum GrantDetail {
    /// A sparse file to write a whole fixed VHD into. `size`: with the footer.
    Upload { path: PathBuf, size: u64 },
    /// A stored disk, read as a fixed VHD: `size` bytes of the disk, then a footer of 512 bytes.
    Manifest { region: String, manifest: String, size: u64, footer_unique_id: Uuid },
    /// A small file, as it is when it is read: what boot diagnostics show.
    File { path: PathBuf, name: String, content_type: String },
}

impl GrantDetail {
    /// # Errors
    /// An internal error if the row was written by something else.
    pub fn of(grant: &Grant) -> Result<Self, ArmError> {
        serde_json::from_value(grant.detail.clone()).map_err(ArmError::internal)
    }
}

/// Name of the blob that a grant is for; a guest state's is `{guid}_vmgs` (Swagger's example), a file has its own.
pub(crate) fn blob_name(grant: &Grant) -> String {
    if let Ok(GrantDetail::File { name, .. }) = GrantDetail::of(grant) {
        return name;
    }
    if grant.access.ends_with(GUEST_STATE) { format!("{}_vmgs", grant.id) } else { BLOB.to_owned() }
}

/// A new right to a resource's bytes.
pub(crate) fn new_grant(resource_key: &str, access: &str, detail: &GrantDetail, expires_ms: i64) -> Grant {
    let random = Uuid::new_v4().simple().to_string();
    // azcopy knows managed disks by the label's first letters.
    let prefix = if access.starts_with("Write") { "md-impexp-" } else { "md-" };
    let secret: Vec<u8> = [Uuid::new_v4(), Uuid::new_v4()].iter().flat_map(|id| *id.as_bytes()).collect();
    Grant {
        id: Uuid::new_v4().to_string(),
        resource_key: resource_key.to_owned(),
        access: access.to_owned(),
        account: format!("{prefix}{}", &random[..12]),
        container: random[12..24].to_owned(),
        secret: hex::encode(secret),
        expires_ms,
        detail: serde_json::to_value(detail).unwrap_or_default(),
    }
}

/// The blob's URL without its signature: fit for messages and logs.
pub(crate) fn blob_url(grant: &Grant, urls: &Urls) -> String {
    let base = match &urls.blob_suffix {
        Some(suffix) => format!("https://{}.{suffix}", grant.account),
        None => format!("{}/{}", urls.arm, grant.account),
    };
    format!("{base}/{}/{}", grant.container, blob_name(grant))
}

/// The URL that grants access to whoever knows it.
pub(crate) fn sas_url(grant: &Grant, urls: &Urls) -> String {
    format!("{}?sv=2018-03-28&sr=b&si={}&sig={}", blob_url(grant, urls), grant.id, grant.secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_agreed_details() {
        let upload = GrantDetail::Upload { path: "/d/uploads/x.vhd".into(), size: 512 };
        let manifest = GrantDetail::Manifest {
            region: "eastus".into(),
            manifest: "ab".into(),
            size: 1,
            footer_unique_id: Uuid::nil(),
        };
        assert_eq!(
            serde_json::to_value(&upload).unwrap(),
            json!({"kind": "upload", "path": "/d/uploads/x.vhd", "size": 512})
        );
        assert_eq!(
            serde_json::to_value(&manifest).unwrap(),
            json!({"kind": "manifest", "region": "eastus", "manifest": "ab", "size": 1, "footerUniqueId": Uuid::nil()})
        );
        let grant = new_grant("/k", "Write", &upload, 1);
        assert_eq!(GrantDetail::of(&grant).unwrap(), upload);
    }

    #[test]
    fn urls_for_both_ways_in() {
        let grant = new_grant("/k", "Write", &GrantDetail::Upload { path: "/x".into(), size: 0 }, 1);
        let direct = Urls { arm: "https://127.0.0.1:8443".into(), blob_suffix: None };
        let proxied =
            Urls { arm: "https://management.azure.com".into(), blob_suffix: Some("blob.core.windows.net".into()) };
        assert!(sas_url(&grant, &direct).starts_with("https://127.0.0.1:8443/md-impexp-"));
        let url = sas_url(&grant, &proxied);
        assert!(url.contains(&format!("https://{}.blob.core.windows.net/{}/abcd?sv=", grant.account, grant.container)));
        assert!(url.ends_with(&grant.secret) && !blob_url(&grant, &proxied).contains(&grant.secret));
        assert!(new_grant("/k", "Read", &GrantDetail::Upload { path: "/x".into(), size: 0 }, 1).account.len() <= 24);
    }
}
