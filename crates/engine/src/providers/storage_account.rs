//! `Microsoft.Storage/storageAccounts`: names, keys and rules of what the blob data plane opens.
//!
//! Keys are made and replaced here and shown by their own actions alone; bodies, other views and the log never have them.

use super::blob_service::first_row;
use super::{arm_context, delete_children};
use crate::db_error;
use crate::provider::{ActionPlan, Context, DeletePlan, Plan, Provider, standard_view, unknown_action};
use crate::storage_account::{KIND, blob_endpoint, claim_name, release_name, secondary};
use crate::stored::{StorageAccountInternal, StoredKey, internal, to_internal};
use async_trait::async_trait;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::bodies::{Fields, storage_account as body};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_authz::sas::{self, SasError, Target};
use lazuli_meta::model::{Change, Expect, Resource};
use serde_json::{Value, json};

const KEY_NAMES: [&str; 2] = ["key1", "key2"];

pub(crate) struct StorageAccount;

#[async_trait]
impl Provider for StorageAccount {
    fn resource_type(&self) -> &'static str {
        KIND
    }

    async fn put(
        &self,
        cx: Context<'_>,
        id: &ResourceId,
        new: Value,
        old: Option<&Resource>,
    ) -> Result<Plan, ArmError> {
        let body = body::put(id, &new, old.map(|o| &o.body), &arm_context(cx))?;
        if let Some(old) = old {
            return Ok(Plan { body, internal: old.internal.clone(), ..Plan::default() });
        }
        if let Some(other) = cx.engine.storage_account_row(id.name()).await? {
            return Err(taken(id, &other));
        }
        let internal = StorageAccountInternal {
            keys: [new_key(cx.now_ms)?, new_key(cx.now_ms)?],
            delegation_secret: random_secret()?,
        };
        let services = Change::PutResource { resource: first_row(id, cx.now_ms), expect: Expect::Absent };
        let changes = vec![claim_name(id.name(), &id.key()), services];
        let sealed = cx.engine.secrets().seal_account(&id.key(), &internal)?;
        Ok(Plan { body, internal: to_internal(&sealed), changes, ..Plan::default() })
    }

    async fn patch(&self, cx: Context<'_>, id: &ResourceId, patch: Value, old: &Resource) -> Result<Plan, ArmError> {
        let body = body::patch(id, &patch, &old.body, &arm_context(cx))?;
        Ok(Plan { body, internal: old.internal.clone(), ..Plan::default() })
    }

    /// Takes along everything that is in it.
    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let mut changes = delete_children(cx.engine.db().children(&old.key, 1000).await.map_err(db_error)?);
        changes.push(Change::DeleteContentRefsBelow { key: old.key.clone() });
        changes.push(Change::DeleteAccountData { account: old.name.clone() });
        changes.push(release_name(&old.name));
        Ok(DeletePlan { start: None, changes })
    }

    async fn show(&self, cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let state: StorageAccountInternal = internal(row)?;
        let mut view = standard_view(KIND, row);
        let properties = &mut view["properties"];
        let [key1, key2] = state.keys.map(|key| short_time(key.created_ms));
        properties["keyCreationTime"] = json!({"key1": key1, "key2": key2});
        properties["creationTime"] = json!(short_time(row.created_ms));
        properties["privateEndpointConnections"] = json!([]);
        properties["primaryEndpoints"] = json!({"blob": blob_endpoint(&row.name, &cx.call.urls)});
        properties["primaryLocation"] = json!(row.location);
        properties["statusOfPrimary"] = json!("available");
        if let Some(pair) = secondary(&row.location, row.body["sku"]["name"].as_str().unwrap_or_default()) {
            properties["secondaryLocation"] = json!(pair);
            properties["statusOfSecondary"] = json!("unavailable");
            if cx.call.expands("geoReplicationStats") {
                properties["geoReplicationStats"] = json!({"status": "Unavailable", "canFailover": false});
            }
        }
        Ok(view)
    }

    fn actions(&self) -> &'static [&'static str] {
        &["listKeys", "regenerateKey", "revokeUserDelegationKeys", "listAccountSas", "listServiceSas"]
    }

    async fn action(
        &self,
        cx: Context<'_>,
        row: &Resource,
        action: &str,
        given: Value,
    ) -> Result<ActionPlan, ArmError> {
        let secrets = cx.engine.secrets();
        let mut state = secrets.open_account(row)?;
        let replaced = |state: &StorageAccountInternal| {
            let internal = to_internal(&secrets.seal_account(&row.key, state)?);
            Ok::<_, ArmError>(Some(Resource { internal, ..row.clone() }))
        };
        match action.to_ascii_lowercase().as_str() {
            "listkeys" => Ok(ActionPlan::Show(shown_keys(&state))),
            "regeneratekey" => {
                let name = Fields::root("regenerateKey", &given)?.required_str("keyName")?;
                let Some(at) = KEY_NAMES.iter().position(|k| k.eq_ignore_ascii_case(&name)) else {
                    return Err(ArmError::bad_request(
                        "InvalidKeyName",
                        format!("The key name '{name}' is invalid: it is key1 or key2."),
                    ));
                };
                state.keys[at] = new_key(cx.now_ms)?;
                let reply = Some(shown_keys(&state));
                Ok(ActionPlan::Done { reply, resource: replaced(&state)?, changes: vec![] })
            }
            "revokeuserdelegationkeys" => {
                state.delegation_secret = random_secret()?;
                Ok(ActionPlan::Done { reply: None, resource: replaced(&state)?, changes: vec![] })
            }
            "listaccountsas" => account_sas(row, &state, &given),
            "listservicesas" => service_sas(row, &state, &given),
            _ => Err(unknown_action(&row.id, action)),
        }
    }

    async fn namespace_action(
        &self,
        cx: Context<'_>,
        scope: &ResourceId,
        action: &str,
        given: &Value,
    ) -> Result<Option<Value>, ArmError> {
        if !action.eq_ignore_ascii_case("checkNameAvailability") {
            return Ok(None);
        }
        let right = "Microsoft.Storage/checkNameAvailability/read";
        cx.engine.authorize(&cx.call.caller, &scope.to_string(), right).await?;
        let given = Fields::root("accountName", given)?;
        let name = given.required_str("name")?;
        if !body::is_valid_name(&name) {
            let message = body::name_problem(&name);
            return Ok(Some(json!({"nameAvailable": false, "reason": "AccountNameInvalid", "message": message})));
        }
        Ok(Some(match cx.engine.storage_account_row(&name).await? {
            Some(_) => json!({"nameAvailable": false, "reason": "AlreadyExists", "message": body::taken(&name)}),
            None => json!({"nameAvailable": true}),
        }))
    }

    /// After what uses its blobs.
    fn delete_rank(&self) -> u8 {
        60
    }
}

/// Names are one account's on the whole server.
fn taken(id: &ResourceId, other: &Resource) -> ArmError {
    if other.subscription.eq_ignore_ascii_case(&id.subscription) {
        return ArmError::conflict(
            "StorageAccountInAnotherResourceGroup",
            format!("The account {} is already in another resource group in this subscription.", id.name()),
        );
    }
    ArmError::conflict("StorageAccountAlreadyTaken", body::taken(id.name()))
}

fn random_secret() -> Result<String, ArmError> {
    let mut bytes = [0; 64];
    rand::fill(&mut bytes).map_err(|_| ArmError::internal("the machine has no randomness"))?;
    Ok(BASE64_STANDARD.encode(bytes))
}

fn new_key(created_ms: i64) -> Result<StoredKey, ArmError> {
    Ok(StoredKey { value: random_secret()?, created_ms })
}

/// `2026-01-02T03:04:05.1234560Z`
fn short_time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.6f0Z").to_string()
}

fn shown_keys(state: &StorageAccountInternal) -> Value {
    let key = |(name, key): (&str, &StoredKey)| {
        json!({
            "creationTime": short_time(key.created_ms),
            "keyName": name,
            "value": key.value,
            "permissions": "FULL",
        })
    };
    json!({"keys": KEY_NAMES.into_iter().zip(&state.keys).map(key).collect::<Vec<_>>()})
}

/// Names in the body of the two SAS actions, and of the query.
const SAS_FIELDS: &[(&str, &str)] = &[
    ("signedServices", "ss"),
    ("signedResourceTypes", "srt"),
    ("signedPermission", "sp"),
    ("signedIp", "sip"),
    ("signedProtocol", "spr"),
    ("signedStart", "st"),
    ("signedExpiry", "se"),
    ("signedResource", "sr"),
    ("signedIdentifier", "si"),
    ("rscc", "rscc"),
    ("rscd", "rscd"),
    ("rsce", "rsce"),
    ("rscl", "rscl"),
    ("rsct", "rsct"),
];
/// Version of the SAS that the server signs itself.
const SAS_VERSION: &str = "2021-12-02";

fn account_sas(row: &Resource, state: &StorageAccountInternal, given: &Value) -> Result<ActionPlan, ArmError> {
    let (fields, key) = sas_fields(state, given)?;
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let token = sas::sign_account(&fields, &row.name, &key).map_err(|e| bad_sas(&e))?;
    Ok(ActionPlan::Show(json!({"accountSasToken": token})))
}

fn service_sas(row: &Resource, state: &StorageAccountInternal, given: &Value) -> Result<ActionPlan, ArmError> {
    let (fields, key) = sas_fields(state, given)?;
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let given = Fields::root("serviceSas", given)?;
    let resource = given.required_str("canonicalizedResource")?;
    let below = resource.strip_prefix(&format!("/blob/{}/", row.name)).filter(|r| !r.is_empty()).ok_or_else(|| {
        let message = format!("The canonicalizedResource '{resource}' does not begin with /blob/{}/.", row.name);
        ArmError::invalid_parameter("canonicalizedResource", message)
    })?;
    let (container, blob) = below.split_once('/').map_or((below, None), |(c, b)| (c, Some(b)));
    let target = Target { account: &row.name, container, blob, snapshot: None };
    let token = sas::sign_service(&fields, &target, &key).map_err(|e| bad_sas(&e))?;
    Ok(ActionPlan::Show(json!({"serviceSasToken": token})))
}

/// Query names and values.
type SasFields = Vec<(&'static str, String)>;

/// What a SAS says, and the key that signs it.
fn sas_fields(state: &StorageAccountInternal, given: &Value) -> Result<(SasFields, Vec<u8>), ArmError> {
    let given = Fields::root("sas", given)?;
    let mut fields = vec![("sv", SAS_VERSION.to_owned())];
    for (name, field) in SAS_FIELDS {
        if let Some(value) = given.str(name)?.filter(|v| !v.is_empty()) {
            fields.push((*field, value));
        }
    }
    let asked = given.one_of("keyToSign", &KEY_NAMES)?.unwrap_or(KEY_NAMES[0]);
    let key = &state.keys[usize::from(asked == KEY_NAMES[1])];
    Ok((fields, BASE64_STANDARD.decode(&key.value).map_err(ArmError::internal)?))
}

fn bad_sas(error: &SasError) -> ArmError {
    ArmError::bad_request("InvalidValuesForRequestParameters", error.to_string())
}
