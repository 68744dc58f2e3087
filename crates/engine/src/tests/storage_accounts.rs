use super::Server;
use crate::call::{ActionReply, Call, Caller, Urls};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_authz::rbac::{READER, STORAGE_BLOB_DATA_READER};
use lazuli_authz::sas::{self, Level, Origin, Target};
use lazuli_meta::model::{AuditQuery, Principal, RoleAssignment, Subscription};
use serde_json::{Value, json};

const BLOBS: &str = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs";

fn account(server: &Server, name: &str) -> ResourceId {
    server.group.resource("Microsoft.Storage", "storageAccounts", name)
}

/// What `az storage account create` sends.
fn body() -> Value {
    json!({"sku": {"name": "Standard_RAGRS"}, "kind": "StorageV2", "location": "eastus",
        "properties": {"encryption": {"keySource": "Microsoft.Storage", "services": {"blob": {}}}}})
}

async fn create(server: &Server, id: &ResourceId) -> Result<Value, ArmError> {
    server.engine.put(&server.call, id, body()).await.map(|w| w.resource)
}

async fn act(server: &Server, id: &ResourceId, action: &str, body: Value) -> Result<Value, ArmError> {
    match server.engine.action(&server.call, id, action, body).await? {
        ActionReply::Done(Some(value)) => Ok(value),
        other => panic!("a result was expected: {other:?}"),
    }
}

fn origin() -> Origin<'static> {
    Origin { now: jiff::Timestamp::now(), ip: None, https: true, bearer: None, headers: &[], query: &[] }
}

/// Another principal with these roles on the subscription.
async fn principal(server: &Server, roles: &[&str]) -> Caller {
    let id = uuid::Uuid::new_v4().to_string();
    let principal = Principal {
        id: id.clone(),
        tenant: server.call.caller.tenant.clone(),
        app_id: id.clone(),
        display_name: "other".into(),
        kind: "ServicePrincipal".into(),
        secret_hash: String::new(),
        login: String::new(),
        body: json!({}),
    };
    server.engine.db().put_principal(&principal).await.unwrap();
    for role in roles {
        let assignment = RoleAssignment {
            id: uuid::Uuid::new_v4().to_string(),
            scope: format!("/subscriptions/{}", server.group.subscription),
            role: (*role).to_owned(),
            principal: id.clone(),
            body: json!({}),
        };
        server.engine.db().put_role_assignment(&assignment).await.unwrap();
    }
    Caller { principal: id.clone(), app_id: id, ..server.call.caller.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_and_its_keys() {
    let server = Server::start_without_worker().await;
    let id = account(&server, "acct1");
    let shown = create(&server, &id).await.unwrap();
    let properties = &shown["properties"];
    assert_eq!(properties["provisioningState"], "Succeeded");
    assert_eq!(properties["primaryEndpoints"], json!({"blob": "https://127.0.0.1:1/acct1/"}));
    assert_eq!(
        (&properties["secondaryLocation"], &properties["statusOfSecondary"]),
        (&json!("westus"), &json!("unavailable"))
    );
    assert!(properties["creationTime"].as_str().unwrap().ends_with('Z'));
    let china = Urls { arm: "https://x".into(), blob_suffix: Some("blob.core.chinacloudapi.cn".into()) };
    let proxied = Call { urls: china, ..server.call.clone() };
    let (seen, etag) = server.engine.get_with_etag(&proxied, &id).await.unwrap();
    assert_eq!(seen["properties"]["primaryEndpoints"]["blob"], "https://acct1.blob.core.chinacloudapi.cn/");

    let listed = act(&server, &id, "listKeys", Value::Null).await.unwrap();
    let value = |keys: &Value, i: usize| keys["keys"][i]["value"].as_str().unwrap().to_owned();
    assert_eq!(BASE64_STANDARD.decode(value(&listed, 0)).unwrap().len(), 64);
    assert_ne!(value(&listed, 0), value(&listed, 1));
    assert!(!seen.to_string().contains(&value(&listed, 0)) && !seen.to_string().contains(&value(&listed, 1)));
    let (_, after) = server.engine.get_with_etag(&server.call, &id).await.unwrap();
    assert_eq!(etag, after, "looking at the keys changes nothing");
    let audit =
        server.engine.db().audit(&AuditQuery { resource_key: Some(id.key()), ..AuditQuery::default() }).await.unwrap();
    assert!(audit.iter().any(|a| a.action == "Microsoft.Storage/storageAccounts/listKeys/action"), "but it is told of");

    let renewed = act(&server, &id, "regenerateKey", json!({"keyName": "key2"})).await.unwrap();
    assert_eq!(value(&renewed, 0), value(&listed, 0));
    assert_ne!(value(&renewed, 1), value(&listed, 1));
    let found = server.engine.storage_account("acct1").await.unwrap().unwrap();
    assert_eq!((found.key, found.location.as_str()), (id.key(), "eastus"));
    assert_eq!(found.keys[1].as_ref(), BASE64_STANDARD.decode(value(&renewed, 1)).unwrap());
    assert!(!format!("{:?}", found.keys).contains(|c: char| c.is_ascii_digit()), "keys are not shown by Debug");
    let error = act(&server, &id, "regenerateKey", json!({"keyName": "kerb1"})).await.unwrap_err();
    assert_eq!(error.code, "InvalidKeyName");

    let services = id.child("blobServices", "default");
    let shown = server.engine.get(&server.call, &services).await.unwrap();
    assert_eq!(
        (&shown["sku"]["name"], &shown["properties"]["deleteRetentionPolicy"]),
        (&json!("Standard_RAGRS"), &json!({"enabled": false}))
    );
    assert_eq!(server.engine.delete(&server.call, &services).await.unwrap_err().status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_one_accounts_on_the_whole_server() {
    let server = Server::start_without_worker().await;
    let id = account(&server, "acct1");
    let subscription = ResourceId::subscription(&server.group.subscription);
    let check = async |name: &str| {
        act(
            &server,
            &subscription,
            "Microsoft.Storage/checkNameAvailability",
            json!({"name": name, "type": "Microsoft.Storage/storageAccounts"}),
        )
        .await
        .unwrap()
    };
    assert_eq!(check("acct1").await, json!({"nameAvailable": true}));
    create(&server, &id).await.unwrap();
    let taken = check("acct1").await;
    assert_eq!(
        (&taken["reason"], &taken["message"]),
        (&json!("AlreadyExists"), &json!("The storage account named acct1 is already taken."))
    );
    assert_eq!(check("Acct1").await["reason"], "AccountNameInvalid");
    assert_eq!(create(&server, &account(&server, "a_b")).await.unwrap_err().code, "AccountNameInvalid");

    let group = ResourceId::group(&server.group.subscription, "rg2");
    server.engine.put(&server.call, &group, json!({"location": "eastus"})).await.unwrap();
    let twin = group.resource("Microsoft.Storage", "storageAccounts", "acct1");
    let error = create(&server, &twin).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "StorageAccountInAnotherResourceGroup"));
    let foreign = Subscription {
        id: uuid::Uuid::new_v4().to_string(),
        tenant: server.call.caller.tenant.clone(),
        display_name: "other".into(),
        state: "Enabled".into(),
    };
    server.engine.db().put_subscription(&foreign).await.unwrap();
    let owner = RoleAssignment {
        id: uuid::Uuid::new_v4().to_string(),
        scope: format!("/subscriptions/{}", foreign.id),
        role: lazuli_authz::rbac::OWNER.into(),
        principal: server.call.caller.principal.clone(),
        body: json!({}),
    };
    server.engine.db().put_role_assignment(&owner).await.unwrap();
    let group = ResourceId::group(&foreign.id, "rg1");
    server.engine.put(&server.call, &group, json!({"location": "eastus"})).await.unwrap();
    let there = group.resource("Microsoft.Storage", "storageAccounts", "acct1");
    assert_eq!(create(&server, &there).await.unwrap_err().code, "StorageAccountAlreadyTaken");

    server.engine.delete(&server.call, &id).await.unwrap();
    assert!(server.engine.storage_account("acct1").await.unwrap().is_none());
    assert!(server.engine.get(&server.call, &id.child("blobServices", "default")).await.is_err());
    create(&server, &there).await.unwrap();
    let unknown = server.engine.action(&server.call, &subscription, "Microsoft.Storage/checkNothing", json!({})).await;
    assert_eq!(unknown.unwrap_err().code, "InvalidResourceAction");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_want_a_name_one_gets_it() {
    let server = Server::start_without_worker().await;
    let other = ResourceId::group(&server.group.subscription, "rg2");
    server.engine.put(&server.call, &other, json!({"location": "eastus"})).await.unwrap();
    for i in 0..5 {
        let name = format!("race{i}");
        let (a, b) = (account(&server, &name), other.resource("Microsoft.Storage", "storageAccounts", &name));
        let (a, b) = tokio::join!(create(&server, &a), create(&server, &b));
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        assert_eq!(a.err().or(b.err()).unwrap().code, "StorageAccountInAnotherResourceGroup");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_groups_end_takes_its_accounts_along() {
    let server = Server::start().await;
    create(&server, &account(&server, "acct1")).await.unwrap();
    match server.engine.delete(&server.call, &server.group).await.unwrap() {
        crate::call::Deleted::Started { operation } => drop(server.end(&operation).await.unwrap()),
        other => panic!("{other:?}"),
    }
    assert!(server.engine.storage_account_row("acct1").await.unwrap().is_none());
    assert!(server.engine.db().resource("/names/acct1").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_the_server_makes() {
    let server = Server::start_without_worker().await;
    let id = account(&server, "acct1");
    create(&server, &id).await.unwrap();
    let wanted = json!({"signedServices": "b", "signedResourceTypes": "sco", "signedPermission": "rl",
        "signedProtocol": "https,http", "signedExpiry": "2099-01-01T00:00:00Z", "keyToSign": "key2"});
    let reply = act(&server, &id, "ListAccountSas", wanted).await.unwrap();
    let token = sas::parse(reply["accountSasToken"].as_str().unwrap()).unwrap().unwrap();
    let found = server.engine.storage_account("acct1").await.unwrap().unwrap();
    let rights = sas::verify_account(&token, "acct1", &found.keys, &origin()).unwrap();
    rights.require(Level::Container, "l").unwrap();

    let wanted = json!({"canonicalizedResource": "/blob/acct1/vhds/a/b", "signedResource": "b", "signedPermission": "r",
        "signedExpiry": "2099-01-01"});
    let reply = act(&server, &id, "ListServiceSas", wanted).await.unwrap();
    let token = sas::parse(reply["serviceSasToken"].as_str().unwrap()).unwrap().unwrap();
    let target = Target { account: "acct1", container: "vhds", blob: Some("a/b"), snapshot: None };
    sas::verify_service(&token, &target, &found.keys, &[], &origin()).unwrap();
    act(&server, &id, "regenerateKey", json!({"keyName": "key1"})).await.unwrap();
    let found = server.engine.storage_account("acct1").await.unwrap().unwrap();
    assert!(sas::verify_service(&token, &target, &found.keys, &[], &origin()).is_err(), "the key is another");
    for bad in [json!({"signedPermission": "?"}), json!({}), json!({"canonicalizedResource": "/blob/other/c"})] {
        assert_eq!(act(&server, &id, "ListServiceSas", bad).await.unwrap_err().status, 400);
    }
}

/// RB-6: control rights open keys, data roles open blobs, neither the other.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_what() {
    let server = Server::start_without_worker().await;
    let id = account(&server, "acct1");
    create(&server, &id).await.unwrap();
    let container = id.child("blobServices", "default").child("containers", "c").key();
    let may = async |caller: &Caller, action: &str| {
        server.engine.authorize_data(caller, &container, &format!("{BLOBS}/{action}")).await.map_err(|e| e.code)
    };
    assert_eq!(may(&server.call.caller, "write").await, Ok(()), "the first principal has a data role too");
    let reader = principal(&server, &[READER]).await;
    assert_eq!(may(&reader, "read").await, Err("AuthorizationPermissionMismatch".into()));
    let call = Call { caller: reader, ..server.call.clone() };
    let refused = server.engine.action(&call, &id, "listKeys", Value::Null).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (403, "AuthorizationFailed"));

    let data = principal(&server, &[STORAGE_BLOB_DATA_READER]).await;
    assert_eq!(may(&data, "read").await, Ok(()));
    assert!(may(&data, "write").await.is_err());
    let found = server.engine.storage_account("acct1").await.unwrap().unwrap();
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let (key, bytes) = server.engine.user_delegation_key(&data, &found, None, end, "2021-12-02").await.unwrap();
    assert_eq!(key.object_id, data.principal);
    assert_eq!(key.derive(found.delegation_secret.as_ref(), "acct1"), bytes);
    let nobody = principal(&server, &[]).await;
    let refused = server.engine.user_delegation_key(&nobody, &found, None, end, "2021-12-02").await.unwrap_err();
    assert_eq!(refused.code, "AuthorizationPermissionMismatch");
    let late = end + jiff::SignedDuration::from_hours(24 * 7);
    assert_eq!(
        server.engine.user_delegation_key(&data, &found, None, late, "2021-12-02").await.unwrap_err().status,
        400
    );
    server.engine.action(&server.call, &id, "revokeUserDelegationKeys", Value::Null).await.unwrap();
    let found = server.engine.storage_account("acct1").await.unwrap().unwrap();
    assert_ne!(key.derive(found.delegation_secret.as_ref(), "acct1"), bytes, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_the_data_plane() {
    let server = Server::start_without_worker().await;
    let id = account(&server, "acct1");
    create(&server, &id).await.unwrap();
    let found = async || server.engine.storage_account("acct1").await.unwrap().unwrap();
    let (at_first, ip) = (found().await, |text: &str| Some(text.parse().unwrap()));
    assert!(at_first.allow_shared_key && !at_first.allow_public_access && at_first.network.admit(None));
    let patch = json!({"properties": {"allowSharedKeyAccess": false, "allowBlobPublicAccess": true,
        "networkAcls": {"defaultAction": "Deny", "ipRules": [{"value": "10.1.0.0/16"}, {"value": "10.2.0.1"}]}}});
    let shown = server.engine.patch(&server.call, &id, patch).await.unwrap().resource;
    assert_eq!(shown["properties"]["networkAcls"]["ipRules"][0], json!({"value": "10.1.0.0/16", "action": "Allow"}));
    let now = found().await;
    assert!(!now.allow_shared_key && now.allow_public_access);
    for (address, inside) in [("10.1.255.255", true), ("10.2.0.1", true), ("10.2.0.2", false), ("::1", false)] {
        assert_eq!(now.network.admit(ip(address)), inside, "{address}");
    }
    assert!(!now.network.admit(None));
    // A PUT that names nothing of it leaves it as it is, and the keys too.
    create(&server, &id).await.unwrap();
    assert_eq!(found().await.network, now.network);
    assert_eq!(found().await.keys, at_first.keys);
    let closed = json!({"properties": {"publicNetworkAccess": "Disabled", "networkAcls": {"defaultAction": "Allow"}}});
    server.engine.patch(&server.call, &id, closed).await.unwrap();
    assert!(!found().await.network.admit(ip("10.1.0.1")));
}
