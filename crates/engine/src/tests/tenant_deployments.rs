//! Deployments above subscriptions: to the caller's tenant, and to the management group at its root.

use super::Server;
use super::authorization::{as_caller, assign, other_tenant, stranger};
use super::deployments::{gallery, request, resource};
use crate::call::{ActionReply, Call, Deleted};
use lazuli_arm::{Above, ArmError, ResourceId, ResourceType};
use lazuli_authz::rbac::{CONTRIBUTOR, READER};
use lazuli_meta::model::OperationState;
use serde_json::{Value, json};
use std::time::Duration;

const TENANT_SCHEMA: &str = "https://schema.management.azure.com/schemas/2019-08-01/tenantDeploymentTemplate.json#";
const GROUP_SCHEMA: &str =
    "https://schema.management.azure.com/schemas/2019-08-01/managementGroupDeploymentTemplate.json#";

/// A server whose owner is one of the whole tenant.
async fn server() -> Server {
    let server = Server::start().await;
    owns_everything(&server, &server.call).await;
    server
}

pub(super) async fn owns_everything(server: &Server, call: &Call) {
    server.engine.grant_role(&call.caller.app_id, "Owner", "/").await.unwrap();
}

fn tenant(call: &Call) -> ResourceId {
    ResourceId::above(Above::Tenant(call.caller.tenant.clone()))
}

fn root_group(call: &Call) -> ResourceId {
    ResourceId::above(Above::ManagementGroup(call.caller.tenant.clone()))
}

fn deployment(scope: &ResourceId, name: &str) -> ResourceId {
    scope.resource("Microsoft.Resources", "deployments", name)
}

fn kind() -> ResourceType {
    ResourceType { namespace: "Microsoft.Resources".into(), types: vec!["deployments".into()] }
}

/// A request to a tenant (or a management group).
fn above(schema: &str, sections: Value) -> Value {
    let mut body = request(sections);
    body["properties"]["template"]["$schema"] = schema.into();
    body["location"] = json!("East US");
    body
}

fn nested(name: &str, more: Value, sections: Value) -> Value {
    let mut inner = request(sections)["properties"].take();
    inner["expressionEvaluationOptions"] = json!({"scope": "inner"});
    let mut nested = resource("Microsoft.Resources/deployments", name, json!({"properties": inner}));
    for (field, value) in more.as_object().unwrap() {
        nested[field] = value.clone();
    }
    nested
}

async fn deploy(server: &Server, call: &Call, id: &ResourceId, body: Value) -> Result<Value, ArmError> {
    let written = server.engine.put(call, id, body).await?;
    server.end_in(call, "", &written.operation.unwrap()).await?;
    server.engine.get(call, id).await
}

async fn ask(server: &Server, call: &Call, id: &ResourceId, action: &str, body: Value) -> Result<Value, ArmError> {
    match server.engine.action(call, id, action, body).await? {
        ActionReply::Done(reply) => Ok(reply.unwrap_or_default()),
        ActionReply::Started { .. } => panic!("an answer was expected"),
    }
}

async fn names(server: &Server, call: &Call, scope: &ResourceId) -> Vec<String> {
    let listed = server.engine.list(call, scope, &kind()).await.unwrap();
    listed.items.iter().map(|d| d["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_deployed_to_with_subscriptions_and_groups_below() {
    let server = server().await;
    let (call, own) = (&server.call, &server.call.caller.tenant);
    let subscription = &server.group.subscription;
    let reader = stranger(&server, own).await;
    let (role, assignment) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string());
    let root = format!("/providers/Microsoft.Management/managementGroups/{own}");
    let body = above(
        TENANT_SCHEMA,
        json!({
            "resources": [
                resource("Microsoft.Authorization/roleDefinitions", &role, json!({"location": null, "properties": {
                    "roleName": "Disk watcher", "assignableScopes": [root],
                    "permissions": [{"actions": ["Microsoft.Compute/disks/read"]}]}})),
                resource("Microsoft.Authorization/roleAssignments", &assignment, json!({"location": null, "properties": {
                    "principalId": reader.principal,
                    "roleDefinitionId": format!("[tenantResourceId('Microsoft.Authorization/roleDefinitions', '{READER}')]")}})),
                nested("groups", json!({"subscriptionId": subscription}), json!({
                    "$schema": "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#",
                    "resources": [resource("Microsoft.Resources/resourceGroups", "fresh", json!({}))],
                    "outputs": {"own": {"type": "string", "value": "[subscription().subscriptionId]"}}})),
                nested("inner", json!({"subscriptionId": subscription, "resourceGroup": "fresh", "location": null,
                    "dependsOn": ["groups"]}), json!({"resources": [gallery("inner", json!({}))]})),
            ],
            "outputs": {
                "tenant": {"type": "string", "value": "[tenant().tenantId]"},
                "region": {"type": "string", "value": "[deployment().location]"},
                "subscription": {"type": "string", "value": "[reference('groups').outputs.own.value]"},
                "role": {"type": "string", "value":
                    format!("[reference(tenantResourceId('Microsoft.Authorization/roleDefinitions', '{role}'), '2022-04-01').roleName]")},
            },
        }),
    );
    let id = deployment(&tenant(call), "whole");
    let mut nowhere = body.clone();
    nowhere["location"] = Value::Null;
    assert_eq!(server.engine.put(call, &id, nowhere).await.unwrap_err().code, "LocationRequired");

    let valid = ask(&server, call, &id, "validate", body.clone()).await.unwrap();
    assert_eq!(valid["id"], "/providers/Microsoft.Resources/deployments/whole");
    let planned: Vec<&str> = valid["properties"]["validatedResources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["id"].as_str().unwrap())
        .collect();
    let expected = [
        format!("/providers/Microsoft.Authorization/roleDefinitions/{role}"),
        format!("/providers/Microsoft.Authorization/roleAssignments/{assignment}"),
        format!("/subscriptions/{subscription}/providers/Microsoft.Resources/deployments/groups"),
        format!("/subscriptions/{subscription}/resourceGroups/fresh/providers/Microsoft.Resources/deployments/inner"),
    ];
    assert_eq!(planned, expected);
    let preview = ask(&server, call, &id, "whatIf", body.clone()).await.unwrap();
    let changes = preview["properties"]["changes"].as_array().unwrap();
    assert!(changes.len() == 4 && changes.iter().all(|c| c["changeType"] == "Create"), "{preview}");
    assert_eq!(names(&server, call, &tenant(call)).await, Vec::<String>::new(), "nothing was deployed yet");

    let shown = deploy(&server, call, &id, body).await.unwrap();
    assert_eq!((&shown["id"], &shown["location"]), (&valid["id"], &json!("eastus")));
    let value = |name: &str| shown["properties"]["outputs"][name]["value"].clone();
    let outputs = [value("tenant"), value("region"), value("subscription"), value("role")];
    assert_eq!(outputs, [json!(own), json!("East US"), json!(subscription), json!("Disk watcher")]);
    let inner = ResourceId::group(subscription, "fresh").resource("Microsoft.Compute", "galleries", "inner");
    server
        .engine
        .get(&as_caller(&server, &reader), &inner)
        .await
        .expect("read by the role that was given at the tenant");

    assert_eq!(names(&server, call, &tenant(call)).await, ["whole"], "those of its subscriptions are theirs");
    let view = server.engine.view(call, &id, "operations").await.unwrap().unwrap();
    let operations = view["value"].as_array().unwrap();
    assert_eq!(operations.len(), 5, "{view}");
    let one = id.child("operations", operations[0]["operationId"].as_str().unwrap());
    assert_eq!(&server.engine.get(call, &one).await.unwrap(), &operations[0]);
    assert_eq!(operations[0]["id"], json!(one.to_string()));
    let exported = ask(&server, call, &id, "exportTemplate", Value::Null).await.unwrap();
    assert_eq!(exported["template"]["$schema"], TENANT_SCHEMA);
    let ended = ask(&server, call, &id, "cancel", Value::Null).await.unwrap_err();
    assert_eq!(ended.code, "DeploymentCannotBeCancelled");
    assert!(matches!(server.engine.delete(call, &id).await.unwrap(), Deleted::Done { .. }));
    assert_eq!(server.engine.get(call, &id).await.unwrap_err().code, "DeploymentNotFound");
    server.engine.get(call, &inner).await.expect("what was deployed stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_group_of_a_tenant_is_deployed_to() {
    let server = server().await;
    let (call, own) = (&server.call, &server.call.caller.tenant);
    let reader = stranger(&server, own).await;
    let name = uuid::Uuid::new_v4().to_string();
    let body = above(
        GROUP_SCHEMA,
        json!({
            "resources": [resource("Microsoft.Authorization/roleAssignments", &name, json!({"location": null, "properties": {
                "principalId": reader.principal,
                "roleDefinitionId": format!("[tenantResourceId('Microsoft.Authorization/roleDefinitions', '{READER}')]")}}))],
            "outputs": {
                "group": {"type": "string", "value": "[managementGroup().id]"},
                "scope": {"type": "string", "value": format!("[reference(managementGroupResourceId(\
                    'Microsoft.Authorization/roleAssignments', '{name}'), '2022-04-01').scope]")},
            },
        }),
    );
    let id = deployment(&root_group(call), "grp");
    let shown = deploy(&server, call, &id, body).await.unwrap();
    let group = format!("/providers/Microsoft.Management/managementGroups/{own}");
    assert_eq!(shown["id"], json!(format!("{group}/providers/Microsoft.Resources/deployments/grp")));
    let outputs = &shown["properties"]["outputs"];
    assert_eq!((&outputs["group"]["value"], &outputs["scope"]["value"]), (&json!(group), &json!(group)));
    assert_eq!(names(&server, call, &root_group(call)).await, ["grp"]);
    assert_eq!(names(&server, call, &tenant(call)).await, Vec::<String>::new());
    server.engine.get(&as_caller(&server, &reader), &server.group).await.expect("its subscriptions inherit");
    // From the tenant to the group: a scope that is no id of this deployment's.
    let mut inner = nested(
        "down",
        json!({"scope": format!("Microsoft.Management/managementGroups/{own}")}),
        json!({
        "outputs": {"name": {"type": "string", "value": "[managementGroup().name]"}}}),
    );
    inner["properties"]["template"]["$schema"] = GROUP_SCHEMA.into();
    let body = above(
        TENANT_SCHEMA,
        json!({"resources": [inner],
        "outputs": {"name": {"type": "string", "value": "[reference('down').outputs.name.value]"}}}),
    );
    let shown = deploy(&server, call, &deployment(&tenant(call), "down"), body).await.unwrap();
    assert_eq!(shown["properties"]["outputs"]["name"]["value"], json!(own));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_cannot_hold_is_refused_at_once() {
    let server = server().await;
    let call = &server.call;
    let output = |value: &str| json!({"outputs": {"o": {"type": "object", "value": value}}});
    let complete = || {
        let mut body = above(TENANT_SCHEMA, json!({}));
        body["properties"]["mode"] = json!("Complete");
        body
    };
    let cases = [
        (
            above(TENANT_SCHEMA, json!({"resources": [gallery("g", json!({}))]})),
            "InvalidTemplateDeployment",
            "The request did not have a subscription or a valid tenant level resource provider.",
        ),
        (
            above(
                TENANT_SCHEMA,
                json!({"resources": [resource("Microsoft.Management/managementGroups", "m", json!({}))]}),
            ),
            "InvalidTemplateDeployment",
            "'Microsoft.Management' is invalid or not offered",
        ),
        (
            above(TENANT_SCHEMA, json!({"resources": [nested("n", json!({"resourceGroup": "rg1"}), json!({}))]})),
            "InvalidTemplate",
            "needs its 'subscriptionId'",
        ),
        (
            above(TENANT_SCHEMA, output("[subscription()]")),
            "InvalidTemplate",
            "this is no deployment to a subscription",
        ),
        (
            above(TENANT_SCHEMA, output("[resourceGroup()]")),
            "InvalidTemplate",
            "this is no deployment to a resource group",
        ),
        (above(TENANT_SCHEMA, output("[managementGroup()]")), "InvalidTemplate", "no deployment to a management group"),
        (above(GROUP_SCHEMA, json!({})), "InvalidTemplate", "for deployments to a management group"),
        (complete(), "InvalidDeployment", "'Complete' is not supported"),
    ];
    for (body, code, wanted) in cases {
        for action in ["put", "validate", "whatIf"] {
            let id = deployment(&tenant(call), "bad");
            let refused = match action {
                "put" => server.engine.put(call, &id, body.clone()).await.map(drop),
                _ => ask(&server, call, &id, action, body.clone()).await.map(drop),
            };
            let error = refused.expect_err(&body.to_string());
            let text = error.to_value().to_string();
            assert!(error.code == code && text.contains(wanted), "{action}: {text}");
        }
    }
    let group = server.group.resource("Microsoft.Resources", "deployments", "up");
    let error = server.engine.put(call, &group, above(TENANT_SCHEMA, json!({}))).await.unwrap_err();
    assert!(
        error.message.contains("for deployments to a tenant, while this is a deployment to a resource group"),
        "{error}"
    );
    // Other types are in subscriptions, whoever asks and by whichever door.
    let disk = tenant(call).resource("Microsoft.Compute", "disks", "d");
    let error = server.engine.put(call, &disk, json!({"location": "eastus"})).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "MissingSubscription"));
    let other = ResourceId::above(Above::ManagementGroup("other".into()));
    let error = server.engine.put(call, &deployment(&other, "d"), above(GROUP_SCHEMA, json!({}))).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (404, "NotFound"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_needs_rights_to_all_of_it() {
    let server = Server::start().await;
    let (call, id) = (&server.call, deployment(&tenant(&server.call), "d"));
    let empty = || above(TENANT_SCHEMA, json!({}));
    // The owner of a subscription is nobody above it.
    for scope in [tenant(call), root_group(call)] {
        let id = deployment(&scope, "d");
        let error = server.engine.put(call, &id, empty()).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (403, "AuthorizationFailed"));
        let words = format!("action 'Microsoft.Resources/deployments/write' over scope '{id}'");
        assert!(error.message.contains(&words), "{error}");
        for refused in [
            server.engine.get(call, &id).await.map(drop),
            server.engine.delete(call, &id).await.map(drop),
            server.engine.list(call, &scope, &kind()).await.map(drop),
            ask(&server, call, &id, "validate", empty()).await.map(drop),
            ask(&server, call, &id, "whatIf", empty()).await.map(drop),
        ] {
            assert_eq!(refused.unwrap_err().code, "AuthorizationFailed");
        }
    }
    owns_everything(&server, call).await;
    deploy(&server, call, &id, empty()).await.unwrap();
    // Who may write everything else may not give out rights, and a role at the group at its root is none at the tenant.
    let contributor = stranger(&server, &call.caller.tenant).await;
    assign(&server, "/", CONTRIBUTOR, &contributor.principal).await.unwrap();
    let gives = above(
        TENANT_SCHEMA,
        json!({"resources": [resource("Microsoft.Authorization/roleAssignments",
        &uuid::Uuid::new_v4().to_string(), json!({"location": null, "properties": {"principalId": contributor.principal,
            "roleDefinitionId": format!("/providers/Microsoft.Authorization/roleDefinitions/{READER}")}}))]}),
    );
    let theirs = as_caller(&server, &contributor);
    deploy(&server, &theirs, &deployment(&tenant(call), "theirs"), empty()).await.unwrap();
    let error = server.engine.put(&theirs, &deployment(&tenant(call), "more"), gives).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (403, "InvalidTemplateDeployment"));
    assert!(
        error.message.contains("permission to perform action 'Microsoft.Authorization/roleAssignments/write'"),
        "{error}"
    );
    let below = stranger(&server, &call.caller.tenant).await;
    assign(&server, &root_group(call).to_string(), CONTRIBUTOR, &below.principal).await.unwrap();
    let theirs = as_caller(&server, &below);
    assert_eq!(server.engine.get(&theirs, &id).await.unwrap_err().code, "AuthorizationFailed");
    deploy(&server, &theirs, &deployment(&root_group(call), "g"), above(GROUP_SCHEMA, json!({}))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_sees_nothing_and_has_its_own() {
    let server = server().await;
    let call = &server.call;
    let secret = above(TENANT_SCHEMA, json!({"outputs": {"o": {"type": "string", "value": "ours"}}}));
    let id = deployment(&tenant(call), "same");
    let written = server.engine.put(call, &id, secret.clone()).await.unwrap();
    let operation = written.operation.unwrap();
    server.end_in(call, "", &operation).await.unwrap();
    let (owner, group) = other_tenant(&server).await;
    let theirs = as_caller(&server, &owner);
    owns_everything(&server, &theirs).await;

    assert_eq!(names(&server, &theirs, &tenant(&theirs)).await, Vec::<String>::new());
    let own = deployment(&tenant(&theirs), "same");
    assert_eq!(server.engine.get(&theirs, &own).await.unwrap_err().code, "DeploymentNotFound");
    for foreign in [tenant(call), root_group(call)] {
        let id = deployment(&foreign, "same");
        for refused in [
            server.engine.get(&theirs, &id).await.map(drop),
            server.engine.put(&theirs, &id, secret.clone()).await.map(drop),
            server.engine.delete(&theirs, &id).await.map(drop),
            server.engine.list(&theirs, &foreign, &kind()).await.map(drop),
            ask(&server, &theirs, &id, "exportTemplate", Value::Null).await.map(drop),
        ] {
            assert_eq!(refused.unwrap_err().status, 404);
        }
    }
    for subscription in ["", group.subscription.as_str()] {
        let error = server.engine.operation(&theirs, subscription, &operation).await.unwrap_err();
        assert_eq!(error.status, 404, "{error}");
    }
    // Nor does a template of theirs lead here.
    let into = above(
        TENANT_SCHEMA,
        json!({"resources": [nested("n", json!({"subscriptionId": server.group.subscription,
        "resourceGroup": "rg1", "location": null}), json!({}))]}),
    );
    let error = server.engine.put(&theirs, &own, into).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (403, "InvalidTemplateDeployment"), "{error}");
    let mut other = secret.clone();
    other["properties"]["template"]["outputs"]["o"]["value"] = json!("theirs");
    let shown = deploy(&server, &theirs, &own, other).await.unwrap();
    assert_eq!(shown["properties"]["outputs"]["o"]["value"], "theirs");
    let shown = server.engine.get(call, &id).await.unwrap();
    assert_eq!(shown["properties"]["outputs"]["o"]["value"], "ours", "one name, two deployments");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_after_a_restart_and_can_be_cancelled() {
    let server = Server::start_without_worker().await;
    owns_everything(&server, &server.call).await;
    let subscription = server.group.subscription.clone();
    let body = |name: &str| {
        above(
            TENANT_SCHEMA,
            json!({"resources": [nested("n", json!({"subscriptionId": subscription, "resourceGroup": "rg1",
            "location": null}), json!({"resources": [gallery(name, json!({}))]}))]}),
        )
    };
    let begin = async |server: &Server, name: &str| {
        let id = deployment(&tenant(&server.call), name);
        server.engine.put(&server.call, &id, body(name)).await.unwrap().operation.unwrap()
    };
    let (goes_on, stops) = (begin(&server, "on").await, begin(&server, "off").await);
    let off = deployment(&tenant(&server.call), "off");
    assert_eq!(server.engine.delete(&server.call, &off).await.unwrap_err().code, "DeploymentActive");
    ask(&server, &server.call, &off, "cancel", Value::Null).await.unwrap();
    let server = server.restart().await;
    server.end_in(&server.call, "", &goes_on).await.unwrap();
    let ended = server.engine.db().wait_operation(&stops, Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(ended.state, OperationState::Canceled);
    assert_eq!(server.engine.get(&server.call, &off).await.unwrap()["properties"]["provisioningState"], "Canceled");
    assert_eq!(server.list("", "Microsoft.Compute/galleries").await, ["on"]);
}
