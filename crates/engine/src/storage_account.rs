//! Storage accounts as the data plane sees them: found by name, with what opens them.
//!
//! ```text
//! names/NAME (a row of its own, so that a name is one account's on the whole server) ─> the account's row ─> StorageAccount
//! ```
//! Keys leave this type only as bytes to check signatures with; they are never shown by `Debug`.

use crate::call::Caller;
use crate::hidden_rows::hidden_row;
use crate::{Engine, db_error, now_ms};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use lazuli_arm::bodies::storage_account::address_range;
use lazuli_arm::{ArmError, locations};
use lazuli_authz::sas::{DelegationKey, MAX_DELEGATION_SECONDS};
use lazuli_meta::model::{Change, Expect, Resource};
use serde_json::{Value, json};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

pub(crate) const KIND: &str = "Microsoft.Storage/storageAccounts";
const NAME_KIND: &str = "microsoft.storage/names";

/// A storage account, as far as requests for its data need it.
#[derive(Debug, Clone)]
pub struct StorageAccount {
    /// Lower-case id: the scope for [`Engine::authorize_data`] and the owner of content references.
    pub key: String,
    /// As shown.
    pub id: String,
    pub name: String,
    /// In lower case.
    pub subscription: String,
    /// Canonical short name of the region whose store has its bytes.
    pub location: String,
    /// `StorageV2`, …
    pub kind: String,
    /// `Standard_LRS`, …
    pub sku: String,
    /// `Hot`, …; what blobs have that name none.
    pub access_tier: Option<String>,
    pub keys: [AccountKey; 2],
    /// For [`DelegationKey::derive`].
    pub delegation_secret: AccountKey,
    /// Shared keys, and SAS that are signed with them. Otherwise 403 `KeyBasedAuthenticationNotPermitted`.
    pub allow_shared_key: bool,
    /// Containers may be opened to everybody. Otherwise 409 `PublicAccessNotPermitted`.
    pub allow_public_access: bool,
    pub network: NetworkRules,
}

/// Bytes that open an account.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountKey(Vec<u8>);

impl AsRef<[u8]> for AccountKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey(…)")
    }
}

/// From where the data may be reached (`networkAcls`, `publicNetworkAccess`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkRules {
    Everybody,
    /// First and last address of each rule; nobody where there is none.
    Only(Vec<(Ipv4Addr, Ipv4Addr)>),
}

impl NetworkRules {
    fn of(properties: &Value) -> Self {
        let acls = &properties["networkAcls"];
        if properties["publicNetworkAccess"] == "Disabled" {
            return Self::Only(vec![]);
        }
        if acls["defaultAction"] != "Deny" {
            return Self::Everybody;
        }
        let rules = acls["ipRules"].as_array().into_iter().flatten();
        Self::Only(rules.filter_map(|rule| address_range(rule["value"].as_str()?)).collect())
    }

    /// Whether a request from this address is let in; otherwise 403 `AuthorizationFailure`. An address that is not known is let
    /// in only where everybody is.
    pub fn admit(&self, ip: Option<IpAddr>) -> bool {
        match self {
            Self::Everybody => true,
            Self::Only(ranges) => match ip.map(|ip| ip.to_canonical()) {
                Some(IpAddr::V4(ip)) => ranges.iter().any(|(low, high)| (*low..=*high).contains(&ip)),
                Some(IpAddr::V6(_)) | None => false,
            },
        }
    }
}

impl Engine {
    /// The storage account of this name (in lower case), if there is one that is not being deleted.
    ///
    /// # Errors
    /// What the database says.
    pub async fn storage_account(&self, name: &str) -> Result<Option<StorageAccount>, ArmError> {
        match self.storage_account_row(name).await? {
            Some(row) if row.provisioning_state != "Deleting" => of_row(self, &row).map(Some),
            _ => Ok(None),
        }
    }

    /// The row of the account that has this name.
    pub(crate) async fn storage_account_row(&self, name: &str) -> Result<Option<Resource>, ArmError> {
        let Some(claim) = self.db().resource(&name_key(name)).await.map_err(db_error)? else {
            return Ok(None);
        };
        let key = claim.body["account"].as_str().unwrap_or_default();
        self.db().resource(key).await.map_err(db_error)
    }

    /// A key with which `caller` may sign SAS for this account until `expiry` (at most seven days ahead): its fields and its 32
    /// bytes. `version`: of the request that asks for it.
    ///
    /// # Errors
    /// 403 `AuthorizationPermissionMismatch`; 400 `InvalidXmlNodeValue` for times that cannot be.
    pub async fn user_delegation_key(
        &self,
        caller: &Caller,
        account: &StorageAccount,
        start: Option<Timestamp>,
        expiry: Timestamp,
        version: &str,
    ) -> Result<(DelegationKey, [u8; 32]), ArmError> {
        let action = format!("{KIND}/blobServices/generateUserDelegationKey/action");
        self.authorize_container(caller, &account.key, &action).await?;
        let now = Timestamp::from_millisecond(now_ms()).unwrap_or(Timestamp::UNIX_EPOCH);
        let start = start.unwrap_or(now);
        let last = now + SignedDuration::from_secs(MAX_DELEGATION_SECONDS);
        if expiry <= start || expiry <= now || expiry > last || start > last {
            return Err(ArmError::bad_request(
                "InvalidXmlNodeValue",
                "The value for one of the XML nodes is not in the correct format: a key lasts seven days at most from now.",
            ));
        }
        let text = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let key = DelegationKey {
            object_id: caller.principal.clone(),
            tenant_id: caller.tenant.clone(),
            start: text(start),
            expiry: text(expiry),
            service: "b".into(),
            version: version.to_owned(),
            delegated_tenant: String::new(),
        };
        let bytes = key.derive(account.delegation_secret.as_ref(), &account.name);
        Ok((key, bytes))
    }
}

fn of_row(engine: &Engine, row: &Resource) -> Result<StorageAccount, ArmError> {
    let state = engine.secrets().open_account(row)?;
    let decode = |text: &str| BASE64_STANDARD.decode(text).map(AccountKey).map_err(ArmError::internal);
    let (body, properties) = (&row.body, &row.body["properties"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(StorageAccount {
        key: row.key.clone(),
        id: row.id.clone(),
        name: row.name.clone(),
        subscription: row.subscription.clone(),
        location: row.location.clone(),
        kind: text(&body["kind"]),
        sku: text(&body["sku"]["name"]),
        access_tier: properties["accessTier"].as_str().map(str::to_owned),
        keys: [decode(&state.keys[0].value)?, decode(&state.keys[1].value)?],
        delegation_secret: decode(&state.delegation_secret)?,
        allow_shared_key: properties["allowSharedKeyAccess"].as_bool().unwrap_or(true),
        allow_public_access: properties["allowBlobPublicAccess"].as_bool().unwrap_or(false),
        network: NetworkRules::of(properties),
    })
}

fn name_key(name: &str) -> String {
    format!("/names/{}", name.to_ascii_lowercase())
}

/// Takes the name for this account, unless another has it. To be committed with the account's row.
pub(crate) fn claim_name(name: &str, account_key: &str) -> Change {
    let key = name_key(name);
    let mut resource = hidden_row(NAME_KIND, &key, &key, name);
    resource.body = json!({"account": account_key});
    Change::PutResource { resource, expect: Expect::Absent }
}

/// Gives the name back. To be committed with the end of the account's row.
pub(crate) fn release_name(name: &str) -> Change {
    Change::DeleteResource { key: name_key(name), expect: Expect::Any }
}

/// `https://account.blob.core.windows.net/` or, where the client came to the server's own name, `{server}/account/`.
pub(crate) fn blob_endpoint(name: &str, urls: &crate::call::Urls) -> String {
    match &urls.blob_suffix {
        Some(suffix) => format!("https://{name}.{suffix}/"),
        None => format!("{}/{name}/", urls.arm),
    }
}

/// The paired region of a geo-redundant account; nothing is kept there.
pub(crate) fn secondary(location: &str, sku: &str) -> Option<&'static str> {
    let geo = ["GRS", "RAGRS", "GZRS", "RAGZRS"].iter().any(|word| sku.ends_with(&format!("_{word}")));
    locations::normalize(location).filter(|_| geo)?.paired
}
