//! `Microsoft.Storage/storageAccounts/blobServices/containers`: the containers of the blob data plane ([`crate::storage`]), as
//! management requests see them. There is one truth, the data plane's: nothing of a container is kept here.

use crate::call::Listing;
use crate::provider::{Context, Elsewhere, Kept, Provider};
use crate::read::top;
use crate::storage::{
    Access, Account, Code, ContainerBody, ContainerInfo, LeaseState, ListQuery, Storage, StorageError,
};
use crate::write::canonical;
use async_trait::async_trait;
use lazuli_arm::bodies::blob_container::{ContainerSettings, PublicAccess, settings};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::Change;
use serde_json::{Value, json};

const KIND: &str = "Microsoft.Storage/storageAccounts/blobServices/containers";

pub(crate) struct BlobContainer;

#[async_trait]
impl Provider for BlobContainer {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        Some(self)
    }

    /// In the blob service's words, which az and the SDKs know.
    fn absent(&self, _id: &ResourceId) -> ArmError {
        ArmError::new(404, Code::ContainerNotFound.as_str(), Code::ContainerNotFound.text())
    }
}

#[async_trait]
impl Elsewhere for BlobContainer {
    async fn get(&self, cx: Context<'_>, id: &ResourceId) -> Result<Option<Kept>, ArmError> {
        let Some(account) = account(cx, id).await? else { return Ok(None) };
        found(cx, id, cx.engine.storage().container(&account, id.name(), &Access::default()).await)
    }

    async fn list(&self, cx: Context<'_>, parent: &ResourceId) -> Result<Listing, ArmError> {
        let Some(account) = account(cx, parent).await? else { return Ok(Listing { items: vec![], next: None }) };
        let query = |name: &str| cx.call.query.get(name);
        // Containers that were deleted are gone: with $include=deleted there are no others.
        let page = ListQuery {
            prefix: query("$filter").map_or(Ok(String::new()), |filter| prefix(filter))?,
            marker: query("$skiptoken").cloned(),
            max: Some(top(cx.call, "$maxpagesize")?),
            ..ListQuery::default()
        };
        let page = cx.engine.storage().list_containers(&account, &page).await?;
        let item = |info: &ContainerInfo| kept(cx, &parent.child("containers", &info.name), info).view;
        Ok(Listing { items: page.containers.iter().map(item).collect(), next: page.next })
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        body: &Value,
        record: Vec<Change>,
    ) -> Result<(Kept, bool), ArmError> {
        let account = account(cx, id).await?.ok_or_else(|| ArmError::parent_not_found(&account_name(id)))?;
        let settings = settings(body)?;
        check_public_access(cx, &account, &settings).await?;
        let storage = cx.engine.storage();
        let mut new = ContainerBody::default();
        apply(&settings, &mut new);
        match storage.create_container_with(&account, id.name(), new, record.clone()).await {
            Err(StorageError::Refused(Code::ContainerAlreadyExists)) => {}
            made => return Ok((kept(cx, id, &made?), true)),
        }
        Ok((kept(cx, id, &change(storage, &account, id, &settings, record).await?), false))
    }

    async fn patch(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        patch: &Value,
        record: Vec<Change>,
    ) -> Result<Option<Kept>, ArmError> {
        let Some(account) = account(cx, id).await? else { return Ok(None) };
        let settings = settings(patch)?;
        check_public_access(cx, &account, &settings).await?;
        found(cx, id, change(cx.engine.storage(), &account, id, &settings, record).await)
    }

    async fn delete(&self, cx: Context<'_>, id: &ResourceId, record: Vec<Change>) -> Result<bool, ArmError> {
        let Some(account) = account(cx, id).await? else { return Ok(false) };
        match cx.engine.storage().delete_container_with(&account, id.name(), &Access::default(), record).await {
            Err(StorageError::Refused(Code::ContainerNotFound)) => Ok(false),
            deleted => Ok(deleted.map(|()| true)?),
        }
    }
}

fn account_name(id: &ResourceId) -> String {
    id.segments.first().map(|(_, name)| name.to_ascii_lowercase()).unwrap_or_default()
}

/// The account above a container or a list of them. Names are unique on the whole server, ids are not.
async fn account(cx: Context<'_>, id: &ResourceId) -> Result<Option<Account>, ArmError> {
    let found = cx.engine.account_of_blobs(&account_name(id)).await?;
    Ok(found.filter(|account| id.key().starts_with(&format!("{}/", account.key))))
}

async fn change(
    storage: &Storage,
    account: &Account,
    id: &ResourceId,
    settings: &ContainerSettings,
    record: Vec<Change>,
) -> Result<ContainerInfo, StorageError> {
    let change = |body: &mut ContainerBody| apply(settings, body);
    storage.change_container(account, id.name(), &Access::default(), change, record).await
}

fn apply(settings: &ContainerSettings, body: &mut ContainerBody) {
    if let Some(access) = settings.public_access {
        body.public_access = match access {
            PublicAccess::Nobody => None,
            PublicAccess::Container => Some("container".to_owned()),
            PublicAccess::Blob => Some("blob".to_owned()),
        };
    }
    if let Some(metadata) = &settings.metadata {
        body.metadata.clone_from(metadata);
    }
}

async fn check_public_access(cx: Context<'_>, account: &Account, asked: &ContainerSettings) -> Result<(), ArmError> {
    if !matches!(asked.public_access, Some(PublicAccess::Container | PublicAccess::Blob)) {
        return Ok(());
    }
    match cx.engine.storage_account(&account.name).await? {
        Some(account) if !account.allow_public_access => Err(ArmError::conflict(
            "PublicAccessNotPermitted",
            "Public access is not permitted on this storage account.",
        )),
        _ => Ok(()),
    }
}

fn found(
    cx: Context<'_>,
    id: &ResourceId,
    answer: Result<ContainerInfo, StorageError>,
) -> Result<Option<Kept>, ArmError> {
    match answer {
        Err(StorageError::Refused(Code::ContainerNotFound)) => Ok(None),
        info => Ok(Some(kept(cx, id, &info?))),
    }
}

/// A container in the shape that Azure's clients know (azure-mgmt-storage, `BlobContainer`).
fn kept(cx: Context<'_>, id: &ResourceId, info: &ContainerInfo) -> Kept {
    let lease = info.body.lease.state(cx.now_ms);
    let access = match info.body.public_access.as_deref() {
        Some("container") => PublicAccess::Container,
        Some("blob") => PublicAccess::Blob,
        _ => PublicAccess::Nobody,
    };
    let modified = jiff::Timestamp::from_millisecond(info.modified_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let mut properties = json!({
        "publicAccess": access.as_str(),
        "leaseStatus": if lease.is_locked() { "Locked" } else { "Unlocked" },
        "leaseState": capital(lease.as_str()),
        "lastModifiedTime": modified.strftime("%Y-%m-%dT%H:%M:%S%.6f0Z").to_string(),
        "hasImmutabilityPolicy": false,
        "hasLegalHold": false,
        "defaultEncryptionScope": "$account-encryption-key",
        "denyEncryptionScopeOverride": false,
        "deleted": false,
        "remainingRetentionDays": 0,
    });
    if lease == LeaseState::Leased {
        properties["leaseDuration"] = json!(if info.body.lease.seconds.is_some() { "Fixed" } else { "Infinite" });
    }
    if !info.body.metadata.is_empty() {
        properties["metadata"] = json!(info.body.metadata);
    }
    let etag = format!("\"{}\"", info.etag);
    let id = canonical(id, KIND);
    let view = json!({"id": id, "name": info.name, "type": KIND, "etag": etag, "properties": properties});
    Kept { view, etag: info.etag.clone(), operation: None }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// `startswith(name, 'x')` is the only filter of this list (azure-mgmt-storage, `blob_containers.list`); a bare word is a prefix.
fn prefix(filter: &str) -> Result<String, ArmError> {
    let filter = filter.trim();
    let bare = filter.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '$');
    let called = filter.strip_prefix("startswith(").and_then(|rest| rest.strip_suffix(')'));
    let quoted = called.and_then(|rest| rest.split_once(',')).filter(|(name, _)| name.trim() == "name");
    let quoted = quoted.and_then(|(_, text)| text.trim().strip_prefix('\'')?.strip_suffix('\''));
    match (bare, quoted) {
        (true, _) => Ok(filter.to_owned()),
        (false, Some(text)) if !text.contains('\'') => Ok(text.to_owned()),
        _ => Err(ArmError::bad_request(
            "InvalidFilterInQueryString",
            format!("Invalid $filter '{filter}' specified in the query string: it is startswith(name, 'prefix')."),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn filters_are_prefixes() {
        for (filter, expected) in [
            ("startswith(name, 'vhd')", Some("vhd")),
            ("startswith(name,'')", Some("")),
            ("vhd", Some("vhd")),
            ("startswith(id, 'x')", None),
            ("name eq 'x'", None),
            ("startswith(name, 'x", None),
        ] {
            assert_eq!(prefix(filter).ok().as_deref(), expected, "{filter}");
        }
    }
}
