//! Who asks a storage account, and whether they may: a shared key, a SAS, a bearer token, or nobody in a public container.

use super::super::Bearer;
use super::super::reply::{Failure, unauthenticated};
use super::super::request::Ask;
use super::{Asked, Planned};
use http::request::Parts;
use jiff::Timestamp;
use lazuli_arm::ArmError;
use lazuli_authz::sas::{self, AccessPolicy, Kind, Level, Origin, Rights, Sas, SasError, Target};
use lazuli_authz::shared_key;
use lazuli_engine::Engine;
use lazuli_engine::StorageAccount;
use lazuli_engine::call::Caller;
use lazuli_engine::storage::{Access, Account};
use std::net::IpAddr;

const CONTAINERS: &str = "Microsoft.Storage/storageAccounts/blobServices/containers";

/// Who asks.
pub(super) enum Who {
    Key,
    Caller(Caller),
    /// With the principal behind a user delegation key.
    Sas(Rights, Option<Caller>),
    Nobody,
}

/// What an operation needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub level: Level,
    /// Permissions of a SAS, any of which is enough; empty: no SAS is.
    pub letters: &'static str,
    pub action: Action,
    /// Nobody in particular may do it where the container is public: to its blobs, or to the container as a whole.
    pub public: bool,
}

/// What a principal's roles must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Below `blobServices/containers`, of `actions`.
    Container(&'static str),
    /// Below `blobServices/containers/blobs`, of `dataActions`.
    Blob(&'static str),
    /// Below `blobServices`, of `actions`.
    Service(&'static str),
}

pub(super) fn account_of(found: &StorageAccount) -> Account {
    Account { name: found.name.clone(), key: found.key.clone(), location: found.location.clone() }
}

/// Finds out who asks. Whoever brings a credential that is not right is refused, whatever else there is.
pub(super) async fn identify(
    engine: &Engine,
    account: &StorageAccount,
    ask: &Ask,
    request: &Asked,
) -> Result<Who, Failure> {
    match &request.bearer {
        Bearer::Refused(error) => return Err(refused_token(error)),
        Bearer::Caller(caller) => return Ok(Who::Caller(caller.clone())),
        Bearer::Absent => {}
    }
    let parts = &request.parts;
    let query = parts.uri.query().unwrap_or_default();
    if let Some(text) = ask.header("authorization") {
        return by_key(account, text, parts).map(|()| Who::Key);
    }
    let snapshot = ask.query("snapshot");
    match sas::parse(query).map_err(|e| refused_sas(&e))? {
        Some(found) => {
            let blob = Some(ask.blob.as_str()).filter(|b| !b.is_empty());
            let target = Target { account: &account.name, container: &ask.container, blob, snapshot };
            let headers = header_pairs(parts);
            by_sas(engine, account, &found, &target, &headers, (ask, request.peer())).await
        }
        None => Ok(Who::Nobody),
    }
}

fn by_key(account: &StorageAccount, text: &str, request: &Parts) -> Result<(), Failure> {
    let credential = match shared_key::parse(text) {
        Some(credential) => credential.map_err(|e| unauthenticated(e.to_string()))?,
        None => {
            let message = "Authentication information is not given in the correct format. Check the value of \
                           Authorization header.";
            return Err(Failure::new(400, "InvalidAuthenticationInfo", message));
        }
    };
    allow_keys(account)?;
    let headers = header_pairs(request);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let signed = shared_key::Request {
        method: request.method.as_str(),
        path: request.uri.path(),
        query: request.uri.query().unwrap_or_default(),
        headers: &headers,
    };
    let checked = shared_key::verify(&credential, &account.name, &signed, &account.keys, Timestamp::now());
    checked.map_err(|e| unauthenticated(e.to_string()))
}

fn allow_keys(account: &StorageAccount) -> Result<(), Failure> {
    if account.allow_shared_key {
        return Ok(());
    }
    Err(Failure::new(
        403,
        "KeyBasedAuthenticationNotPermitted",
        "Key based authentication is not permitted on this storage account.",
    ))
}

fn header_pairs(request: &Parts) -> Vec<(&str, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    request.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
}

async fn by_sas(
    engine: &Engine,
    account: &StorageAccount,
    found: &Sas,
    target: &Target<'_>,
    headers: &[(&str, String)],
    (ask, ip): (&Ask, Option<IpAddr>),
) -> Result<Who, Failure> {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let query: Vec<(&str, &str)> = ask.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let origin = Origin { now: Timestamp::now(), ip, https: true, bearer: None, headers: &headers, query: &query };
    let (rights, caller) = verified(engine, account, found, target, &origin).await?;
    Ok(Who::Sas(rights, caller))
}

async fn verified(
    engine: &Engine,
    account: &StorageAccount,
    found: &Sas,
    target: &Target<'_>,
    origin: &Origin<'_>,
) -> Result<(Rights, Option<Caller>), Failure> {
    let refused = |e: SasError| refused_sas(&e);
    match found.kind() {
        Kind::Account => {
            allow_keys(account)?;
            let rights = sas::verify_account(found, &account.name, &account.keys, origin).map_err(refused)?;
            Ok((rights, None))
        }
        Kind::Service => {
            allow_keys(account)?;
            let policies = policies(engine, account, found, target.container).await?;
            let rights = sas::verify_service(found, target, &account.keys, &policies, origin).map_err(refused)?;
            Ok((rights, None))
        }
        Kind::UserDelegation => {
            let key = found.delegation_key().ok_or_else(|| unauthenticated("No key is named.".to_owned()))?;
            let bytes = key.derive(account.delegation_secret.as_ref(), &account.name);
            let rights = sas::verify_user_delegation(found, target, &bytes, origin).map_err(refused)?;
            let caller = engine.caller(&key.tenant_id, &key.object_id).await.map_err(failure_of)?;
            let gone = || unauthenticated("The principal of the signature does not exist any more.".to_owned());
            Ok((rights, Some(caller.ok_or_else(gone)?)))
        }
    }
}

/// Stored access policies of the container, if the SAS names one.
async fn policies(
    engine: &Engine,
    account: &StorageAccount,
    found: &Sas,
    container: &str,
) -> Result<Vec<AccessPolicy>, Failure> {
    if found.policy().is_none() {
        return Ok(Vec::new());
    }
    let info = engine.storage().container(&account_of(account), container, &Access::default()).await;
    let Ok(info) = info else { return Ok(Vec::new()) };
    let policy = |p: lazuli_engine::storage::Policy| AccessPolicy {
        id: p.id,
        start: p.start,
        expiry: p.expiry,
        permission: p.permission,
    };
    Ok(info.body.policies.into_iter().map(policy).collect())
}

/// Whether whoever asks may do this.
pub(super) async fn authorize(
    engine: &Engine,
    account: &StorageAccount,
    who: &Who,
    container: &str,
    need: &Need,
) -> Result<(), Failure> {
    match who {
        Who::Key => Ok(()),
        Who::Caller(caller) => by_roles(engine, account, caller, container, need).await,
        Who::Sas(_, _) if need.letters.is_empty() => Err(refused_sas(&SasError::Permission)),
        Who::Sas(rights, caller) => {
            rights.require(need.level, need.letters).map_err(|e| refused_sas(&e))?;
            match caller {
                Some(caller) => by_roles(engine, account, caller, container, need).await,
                None => Ok(()),
            }
        }
        Who::Nobody => public(engine, account, container, need).await,
    }
}

async fn by_roles(
    engine: &Engine,
    account: &StorageAccount,
    caller: &Caller,
    container: &str,
    need: &Need,
) -> Result<(), Failure> {
    let scope = match container {
        "" => account.key.clone(),
        name => format!("{}/blobservices/default/containers/{name}", account.key),
    };
    let allowed = match need.action {
        Action::Container(verb) => engine.authorize_container(caller, &scope, &format!("{CONTAINERS}/{verb}")).await,
        Action::Blob(verb) => engine.authorize_data(caller, &scope, &format!("{CONTAINERS}/blobs/{verb}")).await,
        Action::Service(verb) => {
            let action = format!("Microsoft.Storage/storageAccounts/blobServices/{verb}");
            engine.authorize_container(caller, &scope, &action).await
        }
    };
    allowed.map_err(failure_of)
}

async fn public(engine: &Engine, account: &StorageAccount, container: &str, need: &Need) -> Result<(), Failure> {
    let nobody = || {
        let message = "Server failed to authenticate the request. Please refer to the information in the \
                       www-authenticate header.";
        Failure::new(401, "NoAuthenticationInformation", message)
    };
    if !need.public || container.is_empty() {
        return Err(nobody());
    }
    if !account.allow_public_access {
        let message = "Public access is not permitted on this storage account.";
        return Err(Failure::new(409, "PublicAccessNotPermitted", message));
    }
    let found = engine.storage().container(&account_of(account), container, &Access::default()).await;
    let access = found.ok().and_then(|info| info.body.public_access);
    match (access.as_deref(), need.level) {
        (Some("container"), _) | (Some("blob"), Level::Object) => Ok(()),
        _ => Err(nobody()),
    }
}

/// Whether the source of a copy may be read: by a SAS in its URL, by what opens its account, or by everybody.
pub(super) async fn authorize_source(
    engine: &Engine,
    planned: &Planned<'_>,
    account: &StorageAccount,
    ask: &Ask,
    query: &str,
) -> Result<(), Failure> {
    let need = Need { level: Level::Object, letters: "r", action: Action::Blob("read"), public: true };
    if let Some(found) = sas::parse(query).map_err(|e| refused_sas(&e))? {
        let target = Target {
            account: &account.name,
            container: &ask.container,
            blob: Some(&ask.blob),
            snapshot: ask.query("snapshot"),
        };
        let who = by_sas(engine, account, &found, &target, &[], (ask, planned.peer)).await?;
        return authorize(engine, account, &who, &ask.container, &need).await;
    }
    let own = account.key == planned.account.key;
    match planned.who {
        Who::Key if own => Ok(()),
        Who::Caller(_) if own => authorize(engine, account, planned.who, &ask.container, &need).await,
        Who::Sas(..) if own => authorize(engine, account, planned.who, &ask.container, &need).await,
        _ => authorize(engine, account, &Who::Nobody, &ask.container, &need).await,
    }
}

fn refused_token(error: &ArmError) -> Failure {
    let status = if error.status == 401 { 401 } else { error.status };
    let message = "Server failed to authenticate the request. Please refer to the information in the \
                   www-authenticate header.";
    Failure::new(status, "InvalidAuthenticationInfo", message).with("AuthenticationErrorDetail", error.message.clone())
}

fn refused_sas(error: &SasError) -> Failure {
    let failure = Failure::new(403, error.code(), error.message());
    match error.code() {
        "AuthenticationFailed" => failure.with("AuthenticationErrorDetail", error.to_string()),
        _ => failure,
    }
}

/// The engine's refusal in the data plane's form.
pub(super) fn failure_of(error: ArmError) -> Failure {
    if let Some(cause) = &error.cause {
        tracing::error!(code = error.code, error = cause.as_ref() as &dyn std::error::Error, "a blob request failed");
    }
    match error.code.as_str() {
        "AuthorizationPermissionMismatch" => Failure::new(403, "AuthorizationPermissionMismatch", error.message),
        "InvalidXmlNodeValue" => Failure::new(400, "InvalidXmlNodeValue", error.message),
        _ if error.status == 503 => Failure::new(503, "ServerBusy", error.message),
        _ => Failure::new(500, "InternalError", "The server encountered an internal error. Please retry the request."),
    }
}
