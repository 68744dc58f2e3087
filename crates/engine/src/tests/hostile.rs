//! Callers without rights, and owners of another tenant, at every door: nothing is told, nothing is changed.

use super::authorization::{as_caller, ask, other_tenant, stranger};
use super::tenant_deployments::owns_everything;
use super::{SMALLEST, Server};
use crate::call::{Call, Caller, Method};
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use serde_json::{Value, json};

/// An id of the type in the server's group.
fn id_of(server: &Server, resource_type: &str) -> ResourceId {
    let (namespace, types) = resource_type.split_once('/').unwrap();
    if resource_type == "Microsoft.Resources/resourceGroups" {
        return server.group.clone();
    }
    let segments = types.split('/').map(|t| (t.to_owned(), "secret".to_owned())).collect();
    ResourceId { namespace: namespace.to_owned(), segments, ..server.group.clone() }
}

fn refused<T>(what: &str, result: Result<T, ArmError>) {
    let Err(error) = result else { panic!("{what} was answered") };
    assert!(matches!(error.status, 401 | 403 | 404), "{what}: {error}");
    for told in ["hidden-tag", "diskSizeGB", "uniqueId"] {
        assert!(!error.envelope().to_string().contains(told), "{what}: {error}");
    }
}

async fn every_operation_is_refused(server: &Server, call: &Call, operation: &str) {
    let engine = &server.engine;
    let names: Vec<String> =
        engine.providers().iter().flat_map(|p| p.types.iter().map(|t| format!("{}/{t}", p.namespace))).collect();
    assert!(names.len() > 20);
    for name in &names {
        let id = id_of(server, name);
        let body = json!({"location": "eastus", "properties": {}});
        refused(&format!("GET {id}"), engine.get(call, &id).await);
        refused(&format!("PUT {id}"), engine.put(call, &id, body.clone()).await);
        refused(&format!("PATCH {id}"), engine.patch(call, &id, body).await);
        refused(&format!("DELETE {id}"), engine.delete(call, &id).await);
        for view in ["usage", "instanceView"] {
            refused(&format!("GET {id}/{view}"), engine.view(call, &id, view).await);
        }
        let provider = engine.provider_of(&id).unwrap();
        for action in provider.actions().iter().chain(&["nothing"]) {
            refused(&format!("POST {id}/{action}"), engine.action(call, &id, action, json!({})).await);
        }
        let kind = id.resource_type();
        let parents = [id.parent().unwrap(), ResourceId::subscription(&id.subscription)];
        for parent in parents.iter().filter(|_| !id.is_group()) {
            refused(&format!("LIST {kind} in {parent}"), engine.list(call, parent, &kind).await);
        }
    }
    let subscription = ResourceId::subscription(&server.group.subscription);
    for word in ["resourceGroups", "resources"] {
        let kind = ResourceType { namespace: "Microsoft.Resources".into(), types: vec![word.into()] };
        refused(word, engine.list(call, &subscription, &kind).await);
    }
    let publishers =
        ResourceType { namespace: "Microsoft.Compute".into(), types: vec!["locations".into(), "publishers".into()] };
    let location = subscription.resource("Microsoft.Compute", "locations", "eastus");
    refused("publishers", engine.list(call, &location, &publishers).await);
    let check = "Microsoft.Storage/checkNameAvailability";
    refused(check, engine.action(call, &subscription, check, json!({"name": "abc"})).await);
    refused("the operation", engine.operation(call, &subscription.subscription, operation).await);
    refused("its end", engine.cancel_operation(call, &subscription.subscription, operation).await);
    extensions_are_refused(server, call).await;
    for account in [server.id("storageAccounts/x").to_string(), server.group.to_string()] {
        let blobs = "Microsoft.Storage/storageAccounts/blobServices/containers";
        refused("a blob", engine.authorize_data(&call.caller, &account, &format!("{blobs}/blobs/read")).await);
        refused("a container", engine.authorize_container(&call.caller, &account, &format!("{blobs}/write")).await);
    }
}

async fn extensions_are_refused(server: &Server, call: &Call) {
    let disk = server.id("disks/d1").to_string();
    let foreign = call.caller.tenant != server.call.caller.tenant;
    let name = uuid::Uuid::new_v4();
    let role = json!({"properties": {"roleName": "r", "assignableScopes": [server.group.to_string()],
        "permissions": [{"actions": ["*"]}]}});
    let grant =
        json!({"properties": {"roleDefinitionId": lazuli_authz::rbac::OWNER, "principalId": call.caller.principal}});
    let lock = json!({"properties": {"level": "ReadOnly"}});
    for scope in [server.group.to_string(), disk, ResourceId::subscription(&server.group.subscription).to_string()] {
        for (kind, body) in [("roleAssignments", &grant), ("roleDefinitions", &role), ("locks", &lock)] {
            let path = format!("{kind}/{name}");
            refused(&path, ask(server, call, Method::Put, &scope, &path, body.clone()).await);
            refused(&path, ask(server, call, Method::Get, &scope, &path, Value::Null).await);
            refused(&path, ask(server, call, Method::Delete, &scope, &path, Value::Null).await);
            // The built-in roles are no secret in their own tenant.
            if foreign || kind != "roleDefinitions" {
                refused(kind, ask(server, call, Method::Get, &scope, kind, Value::Null).await);
            }
        }
        let about = json!({"Subject": {"Attributes": {"ObjectId": server.call.caller.principal}}, "Actions": []});
        refused("checkAccess", ask(server, call, Method::Post, &scope, "checkAccess", about).await);
        let log = crate::call::Extension {
            scope: scope.clone(),
            namespace: "Microsoft.Insights".into(),
            path: ["eventtypes", "management", "values"].map(str::to_owned).to_vec(),
            method: Method::Get,
            body: Value::Null,
        };
        refused("the activity log", server.engine.extension(call, &log).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_opens_without_a_right() {
    let server = Server::start().await;
    let body = json!({"location": "eastus", "tags": {"hidden-tag": "x"}, "sku": {"name": "Standard_LRS"},
        "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    let written = server.engine.put(&server.call, &server.id("disks/d1"), body).await.unwrap();
    let operation = written.operation.unwrap();
    server.end(&operation).await.unwrap();
    let before = server.engine.all_rows(Default::default()).await.unwrap();

    let (owner, _) = other_tenant(&server).await;
    let nobody = stranger(&server, &server.call.caller.tenant).await;
    let of_everything = stranger(&server, &owner.tenant).await;
    owns_everything(&server, &as_caller(&server, &of_everything)).await;
    let rows = server.engine.all_rows(Default::default()).await.unwrap();
    for caller in [owner, nobody, of_everything] {
        every_operation_is_refused(&server, &as_caller(&server, &caller), &operation).await;
    }
    assert_eq!(server.engine.all_rows(Default::default()).await.unwrap(), rows, "nothing changed");
    assert_eq!(rows.len(), before.len() + 1, "the other tenant's group");
    assert!(server.engine.access().await.unwrap().locks.is_empty());
}

/// Whoever owns all there is in another tenant neither follows an operation of this one nor reads what came of it, here a SAS.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_and_its_result_are_of_their_tenant() {
    let server = Server::start().await;
    let create = json!({"createOption": "Upload", "uploadSizeBytes": SMALLEST + 512});
    let body = json!({"location": "eastus", "properties": {"creationData": create}});
    server.put("disks/d1", body).await.unwrap();
    let granted = server.begin_access("disks/d1", "Write").await.unwrap();
    assert!(granted.output.as_ref().unwrap()["accessSAS"].is_string(), "its owner reads it");
    let (owner, group) = other_tenant(&server).await;
    owns_everything(&server, &as_caller(&server, &owner)).await;
    let asked = async |caller: &Caller, subscription: &str| {
        let call = as_caller(&server, caller);
        let disk = server.engine.get(&call, &server.id("disks/d1")).await.unwrap_err();
        let operation = server.engine.operation(&call, subscription, &granted.id).await.unwrap_err();
        let cancel = server.engine.cancel_operation(&call, subscription, &granted.id).await.unwrap_err();
        [disk, operation, cancel].map(|error| (error.status, error.code, error.message))
    };
    let here = &server.group.subscription;
    let [disk, operation, cancel] = asked(&owner, here).await;
    assert_eq!((disk.0, disk.1.as_str()), (401, "InvalidAuthenticationTokenTenant"));
    assert_eq!((&operation, &cancel), (&disk, &disk));
    // Nor by way of a subscription of their own, or of none.
    let absent = format!("The operation '{}' could not be found.", granted.id);
    let absent = (404, "NotFound".to_owned(), absent);
    for subscription in [group.subscription.as_str(), ""] {
        let [_, operation, cancel] = asked(&owner, subscription).await;
        assert_eq!((&operation, &cancel), (&absent, &absent), "'{subscription}'");
    }
    // It is not the token's tenant alone that keeps them out: a role at `/` says nothing about this one.
    let posing = Caller { tenant: server.call.caller.tenant.clone(), ..owner };
    let [disk, operation, cancel] = asked(&posing, here).await;
    assert_eq!((disk.0, disk.1.as_str()), (403, "AuthorizationFailed"));
    assert_eq!((&operation, &cancel), (&absent, &absent));
}
