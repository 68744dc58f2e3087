//! A script's URL that names a blob of this server: read without a detour over the network, by whoever may read it.
//!
//! That is: a SAS in the URL, the template's identity (role Storage Blob Data Reader), or everybody where the container is public.

use super::unauthorized;
use crate::call::Call;
use crate::storage::vhd::{Named, named};
use crate::storage::{Access, Place};
use crate::{Engine, StorageAccount};
use jiff::Timestamp;
use lazuli_arm::ArmError;
use lazuli_authz::sas::{self, AccessPolicy, Kind, Level, Origin, Sas, SasError, Target};
use percent_encoding::percent_decode_str;

const READ: &str = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read";

/// The blob; `None` where the URL leads elsewhere.
///
/// # Errors
/// 403 `Unauthorized` for a blob that may not be read.
pub(super) async fn find(engine: &Engine, call: &Call, uri: &str) -> Result<Option<Place>, ArmError> {
    let Some(found) = named(uri, &call.urls.arm) else { return Ok(None) };
    let Some(account) = engine.storage_account(&found.account).await? else { return Ok(None) };
    let (shown, query) = uri.split_once('?').unwrap_or((uri, ""));
    // The service has no address that a rule could name.
    if !account.network.admit(None) || !may_read(engine, call, &account, &found, query).await? {
        return Err(unauthorized(shown));
    }
    let Some(owner) = engine.account_of_blobs(&account.name).await.map_err(ArmError::from)? else { return Ok(None) };
    Ok(Some(Place { account: owner, container: found.container, blob: found.blob, snapshot: found.snapshot }))
}

async fn may_read(
    engine: &Engine,
    call: &Call,
    account: &StorageAccount,
    found: &Named,
    query: &str,
) -> Result<bool, ArmError> {
    if let Ok(Some(signed)) = sas::parse(query) {
        return by_sas(engine, account, found, &signed, query).await;
    }
    let scope = format!("{}/blobservices/default/containers/{}", account.key, found.container);
    match engine.authorize_data(&call.caller, &scope, READ).await {
        Ok(()) => return Ok(true),
        Err(error) if error.status == 403 => {}
        Err(error) => return Err(error),
    }
    let access = container(engine, account, &found.container).await?.and_then(|c| c.body.public_access);
    Ok(account.allow_public_access && matches!(access.as_deref(), Some("container" | "blob")))
}

async fn container(
    engine: &Engine,
    account: &StorageAccount,
    name: &str,
) -> Result<Option<crate::storage::ContainerInfo>, ArmError> {
    let Some(owner) = engine.account_of_blobs(&account.name).await.map_err(ArmError::from)? else { return Ok(None) };
    Ok(engine.storage().container(&owner, name, &Access::default()).await.ok())
}

async fn by_sas(
    engine: &Engine,
    account: &StorageAccount,
    found: &Named,
    signed: &Sas,
    query: &str,
) -> Result<bool, ArmError> {
    let decoded = pairs(query);
    let pairs: Vec<(&str, &str)> = decoded.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let origin = Origin { now: Timestamp::now(), ip: None, https: true, bearer: None, headers: &[], query: &pairs };
    let target = Target {
        account: &account.name,
        container: &found.container,
        blob: Some(&found.blob),
        snapshot: found.snapshot.as_deref(),
    };
    let rights = match signed.kind() {
        Kind::Account | Kind::Service if !account.allow_shared_key => return Ok(false),
        Kind::Account => sas::verify_account(signed, &account.name, &account.keys, &origin),
        Kind::Service => {
            let policies = policies(engine, account, signed, &found.container).await?;
            sas::verify_service(signed, &target, &account.keys, &policies, &origin)
        }
        Kind::UserDelegation => {
            let Some(key) = signed.delegation_key() else { return Ok(false) };
            let bytes = key.derive(account.delegation_secret.as_ref(), &account.name);
            let Ok(rights) = sas::verify_user_delegation(signed, &target, &bytes, &origin) else { return Ok(false) };
            let Some(signer) = engine.caller(&key.tenant_id, &key.object_id).await? else { return Ok(false) };
            let scope = format!("{}/blobservices/default/containers/{}", account.key, found.container);
            return match engine.authorize_data(&signer, &scope, READ).await {
                Ok(()) => Ok(rights.require(Level::Object, "r").is_ok()),
                Err(error) if error.status == 403 => Ok(false),
                Err(error) => Err(error),
            };
        }
    };
    let checked: Result<(), SasError> = rights.and_then(|rights| rights.require(Level::Object, "r"));
    Ok(checked.is_ok())
}

async fn policies(
    engine: &Engine,
    account: &StorageAccount,
    signed: &Sas,
    name: &str,
) -> Result<Vec<AccessPolicy>, ArmError> {
    if signed.policy().is_none() {
        return Ok(vec![]);
    }
    let found = container(engine, account, name).await?;
    let policies = found.into_iter().flat_map(|c| c.body.policies);
    Ok(policies
        .map(|p| AccessPolicy { id: p.id, start: p.start, expiry: p.expiry, permission: p.permission })
        .collect())
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pair = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (decode(name), decode(value))
    };
    query.split('&').filter(|p| !p.is_empty()).map(pair).collect()
}
