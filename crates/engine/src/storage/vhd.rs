//! A VHD in a blob as the source of a disk: found by its URL among this server's accounts, judged, its bytes shared.

use super::record::{BlobBody, Content, Settled};
use super::upload::Made;
use super::{Access, Account, BlobKind, Place, Storage, StorageError};
use crate::operations::disk_end_access::vhd_error;
use crate::provider::Context;
use crate::sources::FoundDisk;
use crate::stored::Stored;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_disks::vhd::{self, VhdError};
use lazuli_meta::model::Change;
use percent_encoding::percent_decode_str;
use std::sync::Arc;
use uuid::Uuid;

/// Names below these are accounts.
const SUFFIXES: [&str; 5] = [
    "blob.core.windows.net",
    "blob.storage.azure.net",
    "blob.core.chinacloudapi.cn",
    "blob.storage.azure.cn",
    "blob.localhost",
];

/// What a blob's URL names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub account: String,
    pub container: String,
    pub blob: String,
    pub snapshot: Option<String>,
}

/// The fixed VHD in a blob of one of this server's accounts, which is in `location`; nothing is fetched from anywhere else.
/// The disk is the blob without the VHD's footer. The blob is settled by this if it was not: its bytes are in the store and
/// are shared with whatever is made of them.
///
/// # Errors
/// 400 `InvalidParameter` for a URL that is no blob of this server, an account in another region or another account than
/// `storage_account`; 403; 404 `BlobNotFound`, `ContainerNotFound`; 400 `InvalidVhd` in Azure's words (wire.md §5).
pub(crate) async fn blob(
    cx: Context<'_>,
    uri: &str,
    storage_account: Option<&ResourceId>,
    location: &str,
) -> Result<FoundDisk, ArmError> {
    let shown = uri.split('?').next().unwrap_or(uri);
    let at = find(cx, uri, storage_account, location).await?;
    let name = at.blob.rsplit('/').next().unwrap_or_default().to_owned();
    match cx.engine.storage().fixed_vhd(&at).await? {
        Ok(found) => Ok(found),
        Err(error) => Err(vhd_error(error, &name, shown)),
    }
}

/// The blob that a URL names, in an account of this server in `location` whose keys the caller may have.
///
/// # Errors
/// As [`blob`], but for what the blob holds.
pub(crate) async fn find(
    cx: Context<'_>,
    uri: &str,
    storage_account: Option<&ResourceId>,
    location: &str,
) -> Result<Place, ArmError> {
    let shown = uri.split('?').next().unwrap_or(uri);
    let refuse = |why: &str| ArmError::bad_request("InvalidParameter", format!("The source blob URI {shown} {why}"));
    let named = named(uri, &cx.call.urls.arm).ok_or_else(|| {
        refuse("is invalid: it must be the URL of a blob in a storage account of this server; nothing is fetched from elsewhere.")
    })?;
    let account = cx.engine.account_of_blobs(&named.account).await?;
    let account = account.ok_or_else(|| refuse("names a storage account that does not exist."))?;
    if storage_account.is_some_and(|id| id.key() != account.key) {
        return Err(refuse("is not in the storage account that the request names."));
    }
    let right = "Microsoft.Storage/storageAccounts/listKeys/action";
    cx.engine.authorize_link(&cx.call.caller, &account.key, right).await?;
    if account.location != location {
        let why = format!(
            "is in region '{}', but must be in the same region as the resource, '{location}'.",
            account.location
        );
        return Err(refuse(&why));
    }
    Ok(place(account, named))
}

fn place(account: Account, named: Named) -> Place {
    Place { account, container: named.container, blob: named.blob, snapshot: named.snapshot }
}

impl Storage {
    /// Puts a page blob with a disk of the account's region as a fixed VHD in the place of whatever is there, without copying a byte.
    /// `created_ms` goes into its footer; `held`: the changes that let the owner of this key share the bytes.
    ///
    /// # Errors
    /// A container that is not there, a lease.
    pub(crate) async fn put_fixed_vhd(
        &self,
        at: &Place,
        disk: &Stored,
        created_ms: i64,
        held: impl FnOnce(&str) -> Vec<Change>,
    ) -> Result<(), StorageError> {
        let footer = vhd::Footer::fixed(disk.size_bytes, Uuid::new_v4(), created_ms.div_euclid(1000));
        let base = Settled {
            manifest: Some(disk.manifest.clone()),
            stored: disk.size_bytes,
            tail_at: disk.size_bytes,
            tail: hex::encode(footer.to_bytes()),
        };
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let id = Uuid::new_v4().to_string();
        let further = held(&super::owner(&at.account, &at.container, &id));
        let content = Content { base, ..Content::default() };
        let size = disk.size_bytes + vhd::FOOTER_LEN;
        let made = Made { kind: BlobKind::Page, size, body: BlobBody::default(), content, id, further };
        self.replace(at, &Access::default(), made).await?;
        Ok(())
    }

    /// The disk in a fixed VHD.
    async fn fixed_vhd(&self, at: &Place) -> Result<Result<FoundDisk, VhdError>, StorageError> {
        let row = self.settled(at).await?;
        let size = row.size();
        if size < 2 * vhd::FOOTER_LEN {
            return Ok(Err(VhdError::TooShort { len: size }));
        }
        let view = Arc::new(self.view(&at.account, &row).await?);
        let head = Arc::clone(&view).read(0..vhd::FOOTER_LEN).await?;
        let tail = view.read(size - vhd::FOOTER_LEN..size).await?;
        let footer = tail.first_chunk().ok_or_else(|| StorageError::internal("a read was short"))?;
        if let Err(error) = vhd::judge(&head, footer, size) {
            return Ok(Err(error));
        }
        let base = row.content.base;
        // Settling keeps the footer of a VHD apart.
        if base.tail_at != size - vhd::FOOTER_LEN {
            return Err(StorageError::internal(format!("blob {} is a VHD, but not kept as one", row.row.id)));
        }
        let stored = base.manifest.map(|manifest| Stored { manifest, size_bytes: base.stored });
        let holder = Some(super::owner(&at.account, &at.container, &row.row.id));
        Ok(Ok(FoundDisk { base: stored, holder, size_bytes: base.tail_at, overlay: None }))
    }
}

/// The account whose blob service a URL names: `https://ACCOUNT.blob.core.windows.net/`. `own` as in [`named`].
pub(crate) fn account_of_service(url: &str, own: &str) -> Option<String> {
    named(&format!("{}/container/blob", url.trim_end_matches('/')), own).map(|named| named.account)
}

/// What a URL names, if it has the form of a blob's on this server. `own`: `https://host[:port]` by which the client reaches it.
pub(crate) fn named(uri: &str, own: &str) -> Option<Named> {
    let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/')?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_ascii_lowercase();
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let by_label = SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix)?.strip_suffix('.'));
    let (account, path) = match by_label {
        Some(labels) => (labels.split('.').next()?, path.as_ref()),
        None if is_own(&host, authority, own) => path.split_once('/')?,
        None => return None,
    };
    let (container, blob) = path.split_once('/')?;
    let snapshot = query.split('&').find_map(|pair| pair.strip_prefix("snapshot="));
    let snapshot = snapshot.and_then(|time| Some(percent_decode_str(time).decode_utf8().ok()?.into_owned()));
    let whole = !account.is_empty() && !container.is_empty() && !blob.is_empty();
    whole.then(|| Named {
        account: account.to_ascii_lowercase(),
        container: container.into(),
        blob: blob.into(),
        snapshot,
    })
}

/// The server by its own name, or by one that cannot be another machine.
fn is_own(host: &str, authority: &str, own: &str) -> bool {
    let own = own.split_once("://").map_or(own, |(_, authority)| authority);
    authority.eq_ignore_ascii_case(own) || matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_services() {
        let of = |url: &str| account_of_service(url, "https://images.corp:8443");
        assert_eq!(of("https://acct.blob.core.windows.net/").as_deref(), Some("acct"));
        assert_eq!(of("https://images.corp:8443/acct").as_deref(), Some("acct"));
        assert_eq!(of("https://example.com/"), None);
    }

    #[test]
    fn urls_of_blobs_in_every_form() {
        let own = "https://images.corp:8443";
        let named = |uri: &str| {
            super::named(uri, own).map(|n| format!("{}|{}|{}|{:?}", n.account, n.container, n.blob, n.snapshot))
        };
        let plain = Some("acct|c|a/b.vhd|None".to_owned());
        for uri in [
            "https://acct.blob.core.windows.net/c/a/b.vhd",
            "http://ACCT.blob.core.windows.net/c/a%2Fb.vhd?sv=1&sig=x",
            "https://acct.blob.core.chinacloudapi.cn:443/c/a/b.vhd",
            "https://acct.z01.blob.storage.azure.net/c/a/b.vhd",
            "https://images.corp:8443/acct/c/a/b.vhd",
            "https://127.0.0.1:9000/acct/c%2Fa/b.vhd",
        ] {
            assert_eq!(named(uri), plain, "{uri}");
        }
        assert_eq!(
            named("https://acct.blob.localhost:8443/c/b?snapshot=2026-01-01T00%3A00%3A00.0000000Z").unwrap(),
            "acct|c|b|Some(\"2026-01-01T00:00:00.0000000Z\")"
        );
        for uri in [
            "https://example.com/acct/c/b",
            "https://images.corp/acct/c/b",
            "https://blob.core.windows.net/c/b",
            "https://evilblob.core.windows.net/c/b",
            "https://acct.blob.core.windows.net/c",
            "https://acct.blob.core.windows.net/c/",
            "ftp://acct.blob.core.windows.net/c/b",
            "acct",
            "",
        ] {
            assert_eq!(named(uri), None, "{uri}");
        }
    }
}
