//! Deployments of templates: through the engine's own doors, with real providers below.

use super::Server;
use super::site::{PASSWORD, Site, VERSION};
use crate::call::{ActionReply, Deleted};
use crate::deployments::Input;
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_authz::rbac::{CONTRIBUTOR, READER};
use lazuli_meta::model::{OperationState, Principal, RoleAssignment};
use serde_json::{Value, json};
use std::time::Duration;

pub(super) fn template(sections: Value) -> Value {
    let mut whole = json!({
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0", "resources": [],
    });
    for (name, section) in sections.as_object().unwrap() {
        whole[name] = section.clone();
    }
    whole
}

pub(super) fn request(sections: Value) -> Value {
    json!({"properties": {"mode": "Incremental", "template": template(sections), "parameters": {}}})
}

pub(super) fn resource(kind: &str, name: &str, more: Value) -> Value {
    let mut body = json!({"type": kind, "apiVersion": "2024-03-03", "name": name, "location": "eastus"});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

pub(super) fn gallery(name: &str, more: Value) -> Value {
    resource("Microsoft.Compute/galleries", name, more)
}

fn id(server: &Server, name: &str) -> ResourceId {
    server.group.resource("Microsoft.Resources", "deployments", name)
}

/// Deploys and waits; the deployment as it is then shown.
async fn deploy(server: &Server, name: &str, body: Value) -> Result<Value, ArmError> {
    let written = server.engine.put(&server.call, &id(server, name), body).await?;
    assert_eq!(written.resource["properties"]["provisioningState"], "Accepted");
    server.end(&written.operation.unwrap()).await?;
    server.engine.get(&server.call, &id(server, name)).await
}

async fn ask(server: &Server, action: &str, body: Value) -> Result<Value, ArmError> {
    match server.engine.action(&server.call, &id(server, "asked"), action, body).await? {
        ActionReply::Done(reply) => Ok(reply.unwrap_or_default()),
        ActionReply::Started { .. } => panic!("an answer was expected"),
    }
}

async fn operations(server: &Server, name: &str) -> Vec<Value> {
    let view = server.engine.view(&server.call, &id(server, name), "operations").await.unwrap().unwrap();
    view["value"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_are_written_in_order_and_outputs_shown() {
    let server = Server::start().await;
    let body = request(json!({
        "parameters": {"prefix": {"type": "string", "defaultValue": "g"}},
        "resources": [
            resource("Microsoft.Compute/galleries/images", "[concat(parameters('prefix'), '0/def')]", json!({
                "dependsOn": ["galleries"],
                "properties": {"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
                    "identifier": {"publisher": "p", "offer": "o", "sku": "[reference('g1').identifier.uniqueName]"}}})),
            gallery("[concat(parameters('prefix'), copyIndex())]", json!({
                "copy": {"name": "galleries", "count": 2, "mode": "serial"}, "properties": {"description": "made by a template"}})),
            gallery("never", json!({"condition": false})),
        ],
        "outputs": {
            "state": {"type": "string", "value": "[reference('g0').provisioningState]"},
            "region": {"type": "string", "value": "[reference('g0', '2024-03-03', 'Full').location]"},
        },
    }));
    let shown = deploy(&server, "one", body).await.unwrap();
    let properties = &shown["properties"];
    assert_eq!((&shown["name"], &shown["type"]), (&json!("one"), &json!("Microsoft.Resources/deployments")));
    assert_eq!(properties["provisioningState"], "Succeeded");
    assert_eq!(properties["mode"], "Incremental");
    assert_eq!(
        properties["outputs"],
        json!({"state": {"type": "String", "value": "Succeeded"}, "region": {"type": "String", "value": "eastus"}})
    );
    assert_eq!(properties["parameters"], json!({"prefix": {"type": "String", "value": "g"}}));
    assert_eq!(properties["outputResources"].as_array().unwrap().len(), 3);
    assert_eq!(properties["correlationId"], json!(server.call.correlation_id));
    assert!(properties["duration"].as_str().unwrap().starts_with("PT"));
    assert_eq!(properties["dependencies"].as_array().unwrap().len(), 2, "the image, and the second turn of the loop");
    let image = server.get("galleries/g0/images/def").await.unwrap();
    assert!(image["properties"]["identifier"]["sku"].as_str().unwrap().ends_with("-G1"));
    server.get("galleries/never").await.unwrap_err();

    let listed = operations(&server, "one").await;
    let states: Vec<(&str, &str)> = listed
        .iter()
        .map(|o| {
            let p = &o["properties"];
            (p["targetResource"]["resourceName"].as_str().unwrap_or("-"), p["provisioningState"].as_str().unwrap())
        })
        .collect();
    assert_eq!(states, [("g0", "Succeeded"), ("g1", "Succeeded"), ("g0/def", "Succeeded"), ("-", "Succeeded")]);
    let one = id(&server, "one").child("operations", listed[0]["operationId"].as_str().unwrap());
    assert_eq!(server.engine.get(&server.call, &one).await.unwrap(), listed[0]);
    let none = id(&server, "one").child("operations", "0000");
    assert_eq!(server.engine.get(&server.call, &none).await.unwrap_err().code, "DeploymentOperationNotFound");

    // Again: nothing new, and no duplicate.
    let again = server.engine.action(&server.call, &id(&server, "one"), "exportTemplate", Value::Null).await.unwrap();
    let ActionReply::Done(Some(exported)) = again else { panic!("a template was expected") };
    assert_eq!(exported["template"]["parameters"]["prefix"]["defaultValue"], "g");
    let body = json!({"properties": {"mode": "Incremental", "template": exported["template"]}});
    deploy(&server, "one", body).await.unwrap();
    assert_eq!(operations(&server, "one").await[0]["properties"]["statusCode"], "OK");
    assert_eq!(server.list("", "Microsoft.Resources/deployments").await, ["one"]);
    assert_eq!(
        server.list("", "Microsoft.Resources/resources").await,
        ["g0", "def", "g1"],
        "deployments are no such resources"
    );
    assert!(matches!(server.engine.delete(&server.call, &id(&server, "one")).await.unwrap(), Deleted::Done { .. }));
    server.engine.get(&server.call, &id(&server, "one")).await.unwrap_err();
    server.get("galleries/g0").await.expect("what was deployed stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_template_of_az_vm_create_makes_a_machine() {
    let site = Site::start().await;
    let server = &site.server;
    let text = include_str!("../../../template/fixtures/az-vm-create.json");
    let mut body: Value = serde_json::from_str(text).unwrap();
    let text = body.to_string();
    let (own, image) = (server.group.to_string(), server.id(VERSION).to_string());
    let reference = body["properties"]["template"]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|r| r["properties"]["storageProfile"]["imageReference"]["id"].as_str())
        .unwrap()
        .to_owned();
    let text = text
        .replace(&reference, &image)
        .replace("/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg1", &own);
    body = serde_json::from_str(&text.replace("vm1VNET/subnets/vm1Subnet", "v/subnets/s")).unwrap();
    for resource in body["properties"]["template"]["resources"].as_array_mut().unwrap() {
        if let Some(profile) = resource["properties"].get_mut("osProfile") {
            profile["adminPassword"] = json!("[parameters('adminPassword')]");
        }
    }
    body["properties"]["template"]["parameters"] = json!({"adminPassword": {"type": "securestring"}});
    body["properties"]["parameters"] = json!({"adminPassword": {"value": PASSWORD}});
    let written = server.engine.put(&server.call, &id(server, "vm_deploy"), body).await.unwrap();
    let operation = written.operation.clone().unwrap();
    server.end(&operation).await.unwrap();
    let vm = server.get("virtualMachines/vm2").await.unwrap();
    assert_eq!(vm["properties"]["provisioningState"], "Succeeded");
    let nic = server.get("networkInterfaces/vm2VMNic").await.unwrap();
    assert_eq!(nic["properties"]["virtualMachine"]["id"], vm["id"]);

    // The password is nowhere but with the guest.
    let db = server.engine.db();
    let row = db.resource(&id(server, "vm_deploy").key()).await.unwrap().unwrap();
    let texts = [
        ("answer", written.resource.to_string()),
        ("get", server.engine.get(&server.call, &id(server, "vm_deploy")).await.unwrap().to_string()),
        ("row", format!("{} {}", row.body, row.internal)),
        ("steps", json!(db.steps(&operation).await.unwrap()).to_string()),
        ("operation", format!("{:?}", db.operation(&operation).await.unwrap())),
        ("operations", json!(operations(server, "vm_deploy").await).to_string()),
    ];
    for (what, text) in texts {
        assert!(!text.contains(PASSWORD), "{what}: {text}");
    }
    let guest: uuid::Uuid = server.internal("virtualMachines/vm2").await["vmId"].as_str().unwrap().parse().unwrap();
    let told = site.defined(guest).unwrap().provisioning.unwrap();
    assert_eq!(told.admin_password.as_deref(), Some(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_fails_fails_the_deployment_and_only_its_users() {
    let server = Server::start().await;
    let missing = server.id("disks/none").to_string();
    let body = request(json!({"resources": [
        resource("Microsoft.Compute/snapshots", "bad", json!({"dependsOn": ["good"],
            "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": missing}}})),
        gallery("good", json!({})),
        gallery("user", json!({"dependsOn": ["bad"]})),
        gallery("other", json!({"dependsOn": ["good"]})),
    ]}));
    let written = server.engine.put(&server.call, &id(&server, "f"), body).await.unwrap();
    let operation = written.operation.unwrap();
    let error = server.end(&operation).await.unwrap_err();
    assert_eq!(error.code, "DeploymentFailed");
    let shown = server.engine.get(&server.call, &id(&server, "f")).await.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Failed");
    let error = &shown["properties"]["error"];
    assert_eq!(error["target"], shown["id"]);
    assert_eq!(error["details"][0]["target"], json!(server.id("snapshots/bad").to_string()));
    assert!(error["details"][0]["message"].as_str().unwrap().contains("none"), "{error}");
    server.get("galleries/other").await.unwrap();
    server.get("galleries/user").await.unwrap_err();
    let failed: Vec<Value> = operations(&server, "f")
        .await
        .into_iter()
        .filter(|o| o["properties"]["provisioningState"] == "Failed")
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["properties"]["statusMessage"]["error"]["code"], error["details"][0]["code"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_deployed_is_refused_at_once() {
    let server = Server::start().await;
    let cases = [
        (json!({}), "InvalidRequestContent", ""),
        (json!({"properties": {}}), "InvalidDeployment", "one of 'template' and 'templateLink' is required"),
        (
            json!({"properties": {"templateLink": {"uri": "https://x"}}}),
            "DeploymentPropertyNotSupported",
            "send the template itself",
        ),
        (
            json!({"properties": {"mode": "Sideways", "template": template(json!({}))}}),
            "InvalidDeployment",
            "Incremental, Complete",
        ),
        (
            request(
                json!({"resources": [gallery("g", json!({"dependsOn": ["g2"]})), gallery("g2", json!({"dependsOn": ["g"]}))]}),
            ),
            "InvalidTemplate",
            "Circular dependency",
        ),
        (request(json!({"parameters": {"p": {"type": "string"}}})), "InvalidTemplate", "'p' is not provided"),
        (
            request(json!({"resources": [gallery("[nonsense()]", json!({}))]})),
            "InvalidTemplate",
            "'nonsense' is not valid",
        ),
        (
            request(json!({"resources": [resource("Microsoft.Nothing/things", "t", json!({}))]})),
            "InvalidTemplateDeployment",
            "not offered by this server",
        ),
        (
            request(json!({"resources": [gallery("not-a-name", json!({}))]})),
            "InvalidTemplateDeployment",
            "Gallery name",
        ),
        (
            request(
                json!({"resources": [resource("Microsoft.Resources/deployments", "n", json!({"resourceGroup": "none",
                "properties": {"mode": "Incremental", "template": template(json!({}))}}))]}),
            ),
            "InvalidTemplateDeployment",
            "'none' could not be found",
        ),
    ];
    for (body, code, wanted) in cases {
        for action in ["put", "validate", "whatIf"] {
            let refused = match action {
                "put" => server.engine.put(&server.call, &id(&server, "x"), body.clone()).await.map(|_| ()),
                _ => ask(&server, action, body.clone()).await.map(|_| ()),
            };
            let error = refused.expect_err(&body.to_string());
            assert_eq!(error.code, code, "{error}");
            let text = error.to_value().to_string();
            assert!(text.contains(wanted), "{action}: {text}");
        }
    }
    assert_eq!(server.list("", "Microsoft.Resources/deployments").await, Vec::<String>::new());
    let bad = server.engine.put(&server.call, &id(&server, "a b"), request(json!({}))).await.unwrap_err();
    assert_eq!(bad.code, "InvalidDeploymentName");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_happens_under_the_rights_of_whoever_deploys() {
    let server = Server::start().await;
    let principal = Principal {
        id: uuid::Uuid::new_v4().to_string(),
        tenant: server.call.caller.tenant.clone(),
        app_id: uuid::Uuid::new_v4().to_string(),
        display_name: "guest".into(),
        kind: "ServicePrincipal".into(),
        secret_hash: String::new(),
        login: String::new(),
        body: json!({}),
    };
    server.engine.db().put_principal(&principal).await.unwrap();
    let other = ResourceId::group(&server.group.subscription, "rg2");
    server.engine.put(&server.call, &other, json!({"location": "eastus"})).await.unwrap();
    for (scope, role) in [(server.group.key(), CONTRIBUTOR), (other.key(), READER)] {
        let assignment = RoleAssignment {
            id: uuid::Uuid::new_v4().to_string(),
            scope,
            role: role.into(),
            principal: principal.id.clone(),
            body: json!({}),
        };
        server.engine.db().put_role_assignment(&assignment).await.unwrap();
    }
    let mut call = server.call.clone();
    call.caller.principal.clone_from(&principal.id);
    call.caller.app_id.clone_from(&principal.app_id);
    let nested = |group: &str| {
        request(json!({"resources": [resource("Microsoft.Resources/deployments", "n", json!({"resourceGroup": group,
            "location": null, "properties": {"mode": "Incremental", "template": template(json!({"resources": [gallery("g", json!({}))]}))}}))]}))
    };
    let written = server.engine.put(&call, &id(&server, "own"), nested("rg1")).await.unwrap();
    server.end(&written.operation.unwrap()).await.unwrap();
    server.get("galleries/g").await.unwrap();
    let error = server.engine.put(&call, &id(&server, "foreign"), nested("rg2")).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (403, "InvalidTemplateDeployment"));
    assert!(error.message.contains("Authorization failed for template resource 'n'"), "{error}");
    let error = server
        .engine
        .put(&call, &other.resource("Microsoft.Resources", "deployments", "d"), request(json!({})))
        .await
        .unwrap_err();
    assert_eq!(error.code, "AuthorizationFailed");
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_mode_removes_what_the_template_does_not_have() {
    let server = Server::start().await;
    server.gallery().await;
    server.put("galleries/stays", json!({"location": "eastus"})).await.unwrap();
    let mut body = request(json!({"resources": [gallery("stays", json!({})), gallery("new", json!({}))]}));
    body["properties"]["mode"] = json!("Complete");
    let preview = ask(&server, "whatIf", body.clone()).await.unwrap();
    let changes: Vec<(String, &str)> = preview["properties"]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            (
                c["resourceId"].as_str().unwrap().rsplit('/').next().unwrap().to_owned(),
                c["changeType"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(changes, [("stays".to_owned(), "NoChange"), ("new".to_owned(), "Create"), ("g".to_owned(), "Delete")]);
    deploy(&server, "c", body).await.unwrap();
    assert_eq!(server.list("", "Microsoft.Compute/galleries").await, ["new", "stays"]);
    assert_eq!(server.list("", "Microsoft.Resources/deployments").await, ["c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_tell_what_would_change_and_no_secret() {
    let server = Server::start().await;
    server.put("galleries/g", json!({"location": "eastus", "tags": {"a": "b"}})).await.unwrap();
    let mut body = request(json!({
        "parameters": {"secret": {"type": "securestring"}},
        "resources": [gallery("g", json!({"tags": {"a": "[parameters('secret')]"}})),
            gallery("h", json!({"properties": {"description": "[reference('g2').x]"}})), gallery("g2", json!({}))],
    }));
    body["properties"]["parameters"] = json!({"secret": {"value": "hush-hush"}});
    let preview = ask(&server, "whatIf", body.clone()).await.unwrap();
    assert!(!preview.to_string().contains("hush-hush"), "{preview}");
    let changes = &preview["properties"]["changes"];
    assert_eq!((&changes[0]["changeType"], &changes[0]["delta"][0]["path"]), (&json!("Modify"), &json!("tags.a")));
    assert_eq!(changes[1]["changeType"], "Unsupported");
    assert_eq!(changes[2]["changeType"], "Create");
    let valid = ask(&server, "validate", body).await.unwrap();
    assert_eq!(valid["properties"]["provisioningState"], "Succeeded");
    assert_eq!(valid["properties"]["parameters"]["secret"], json!({"type": "SecureString"}));
    assert_eq!(server.list("", "Microsoft.Compute/galleries").await, ["g"]);
}

/// A deployment that never gets further than its first resource: nobody works on that one's operation.
async fn stuck(server: &Server) -> String {
    let body = request(
        json!({"resources": [gallery("first", json!({})), gallery("second", json!({"dependsOn": ["first"]}))]}),
    );
    server.engine.put(&server.call, &id(server, "s"), body).await.unwrap().operation.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_after_a_restart() {
    let server = Server::start_without_worker().await;
    let operation = stuck(&server).await;
    // What it was given opens for its own row alone.
    let mut row = server.engine.db().resource(&id(&server, "s").key()).await.unwrap().unwrap();
    assert!(Input::of(&server.engine, &row).is_ok());
    row.key.push('x');
    assert_eq!(Input::of(&server.engine, &row).err().map(|error| error.status), Some(500));
    // Accepted, and sealed on disk: another process takes it from there.
    let server = server.restart().await;
    server.end(&operation).await.unwrap();
    assert_eq!(server.list("", "Microsoft.Compute/galleries").await, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_deployments_are_protected_and_can_be_cancelled() {
    let mut server = Server::start_without_worker().await;
    let operation = stuck(&server).await;
    let again = server.engine.put(&server.call, &id(&server, "s"), request(json!({}))).await.unwrap_err();
    assert_eq!((again.status, again.code.as_str()), (409, "DeploymentActive"));
    assert_eq!(server.engine.delete(&server.call, &id(&server, "s")).await.unwrap_err().code, "DeploymentActive");
    let cancel = server.engine.action(&server.call, &id(&server, "s"), "cancel", Value::Null).await.unwrap();
    assert!(matches!(cancel, ActionReply::Done(None)));
    server.run();
    let ended = server.engine.db().wait_operation(&operation, Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(ended.state, OperationState::Canceled);
    let shown = server.engine.get(&server.call, &id(&server, "s")).await.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Canceled");
    let error = server.engine.action(&server.call, &id(&server, "s"), "cancel", Value::Null).await.unwrap_err();
    assert_eq!(error.code, "DeploymentCannotBeCancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_deployed_to_with_groups_and_what_is_in_them() {
    let server = Server::start().await;
    let subscription = ResourceId::subscription(&server.group.subscription);
    let inner = template(
        json!({"resources": [gallery("inner", json!({}))], "outputs": {"who": {"type": "string", "value": "[resourceGroup().name]"}}}),
    );
    let nested = resource(
        "Microsoft.Resources/deployments",
        "nested",
        json!({"resourceGroup": "fresh", "location": null,
        "properties": {"mode": "Incremental", "expressionEvaluationOptions": {"scope": "inner"}, "template": inner}}),
    );
    let mut body = request(json!({
        "$schema": "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#",
        "resources": [resource("Microsoft.Resources/resourceGroups", "fresh", json!({})), nested],
        "outputs": {"who": {"type": "string", "value": "[reference('nested').outputs.who.value]"}},
    }));
    let target = subscription.resource("Microsoft.Resources", "deployments", "sub1");
    let error = server.engine.put(&server.call, &target, body.clone()).await.unwrap_err();
    assert_eq!(error.code, "LocationRequired");
    body["location"] = json!("East US");
    let written = server.engine.put(&server.call, &target, body.clone()).await.unwrap();
    server.end(&written.operation.unwrap()).await.unwrap();
    let shown = server.engine.get(&server.call, &target).await.unwrap();
    assert_eq!(
        (&shown["location"], &shown["properties"]["outputs"]["who"]["value"]),
        (&json!("eastus"), &json!("fresh"))
    );
    let kind = ResourceType { namespace: "Microsoft.Resources".into(), types: vec!["deployments".into()] };
    let listed = server.engine.list(&server.call, &subscription, &kind).await.unwrap();
    let names: Vec<&str> = listed.items.iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["sub1"], "those of its groups are theirs");
    body["properties"]["mode"] = json!("Complete");
    let error = server.engine.put(&server.call, &target, body).await.unwrap_err();
    assert!(error.message.contains("'Complete' is not supported"), "{error}");

    // A group goes with its deployments.
    let fresh = ResourceId::group(&server.group.subscription, "fresh");
    let Deleted::Started { operation } = server.engine.delete(&server.call, &fresh).await.unwrap() else {
        panic!("it takes a while")
    };
    server.end(&operation).await.unwrap();
}

/// Role assignments and locks, of the group and of a resource of the same template, as templates for Image Builder bring them along.
#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_a_scope_is_deployed_and_referred_to() {
    let server = Server::start().await;
    let identity = "Microsoft.ManagedIdentity/userAssignedIdentities";
    let principal = format!("[reference(resourceId('{identity}', 'id1'), '2023-01-31').principalId]");
    let role = format!("[subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '{READER}')]");
    let assignment = "[guid(resourceGroup().id, 'reader')]";
    let sections = json!({
        "resources": [
            resource("Microsoft.Authorization/roleAssignments", assignment, json!({"location": null,
                "properties": {"roleDefinitionId": role, "principalId": principal, "principalType": "ServicePrincipal"}})),
            resource("Microsoft.Authorization/locks", "keep", json!({"location": null, "scope": "Microsoft.Compute/galleries/g",
                "dependsOn": ["g"], "properties": {"level": "CanNotDelete"}})),
            resource(identity, "id1", json!({})),
            gallery("g", json!({})),
        ],
        "outputs": {"scope": {"type": "string", "value":
            "[reference(resourceId('Microsoft.Authorization/roleAssignments', guid(resourceGroup().id, 'reader')), '2022-04-01').scope]"}},
    });
    let shown = deploy(&server, "first", request(sections.clone())).await.unwrap();
    assert_eq!(shown["properties"]["outputs"]["scope"]["value"], json!(server.group.to_string()));
    let refused = server.engine.delete(&server.call, &server.id("galleries/g")).await.unwrap_err();
    assert_eq!(refused.code, "ScopeLocked");
    deploy(&server, "again", request(sections.clone())).await.unwrap();
    let preview = ask(&server, "whatIf", request(sections.clone())).await.unwrap();
    let changes = preview["properties"]["changes"].as_array().unwrap();
    let of = |kind: &str| {
        changes.iter().find(|c| c["resourceId"].as_str().unwrap().contains(kind)).unwrap()["changeType"].clone()
    };
    assert_eq!(of("roleAssignments"), "NoChange", "{preview}");

    // Who may write everything else may not give out rights.
    let caller = super::authorization::stranger(&server, &server.call.caller.tenant).await;
    super::authorization::assign(&server, &server.group.to_string(), CONTRIBUTOR, &caller.principal).await.unwrap();
    let call = super::authorization::as_caller(&server, &caller);
    let error = server.engine.put(&call, &id(&server, "theirs"), request(sections)).await.unwrap_err();
    let text = error.to_value().to_string();
    assert!(text.contains("permission to perform action 'Microsoft.Authorization/roleAssignments/write'"), "{text}");
}
