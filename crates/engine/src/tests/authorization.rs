//! Roles, assignments, locks (RB-1 to RB-3): through the engine's door, as Azure words it.

use super::Server;
use crate::call::{Call, Caller, Extension, ExtensionReply, Method, Rights};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_authz::rbac::{self, COMPUTE_GALLERY_IMAGE_READER, CONTRIBUTOR, OWNER, Plane, READER, role_allows};
use lazuli_meta::model::{Principal, Subscription, Tenant};
use serde_json::{Value, json};
use uuid::Uuid;

/// A service principal of a tenant without any role.
pub(super) async fn stranger(server: &Server, tenant: &str) -> Caller {
    let id = Uuid::new_v4().to_string();
    let principal = Principal {
        id: id.clone(),
        tenant: tenant.to_owned(),
        app_id: Uuid::new_v4().to_string(),
        display_name: "stranger".into(),
        kind: "ServicePrincipal".into(),
        secret_hash: String::new(),
        login: String::new(),
        body: json!({}),
    };
    server.engine.db().put_principal(&principal).await.unwrap();
    Caller { tenant: tenant.to_owned(), principal: id, app_id: principal.app_id, ..server.call.caller.clone() }
}

pub(super) fn as_caller(server: &Server, caller: &Caller) -> Call {
    Call { caller: caller.clone(), ..server.call.clone() }
}

/// A tenant with a subscription, a group `rg1` and an owner.
pub(super) async fn other_tenant(server: &Server) -> (Caller, ResourceId) {
    let db = server.engine.db();
    let tenant = Tenant { id: Uuid::new_v4().to_string(), display_name: "other".into() };
    db.put_tenant(&tenant).await.unwrap();
    let id = Uuid::new_v4().to_string();
    let subscription =
        Subscription { id: id.clone(), tenant: tenant.id.clone(), display_name: "o".into(), state: "Enabled".into() };
    db.put_subscription(&subscription).await.unwrap();
    let owner = stranger(server, &tenant.id).await;
    let scope = format!("/subscriptions/{id}");
    let assignment = lazuli_meta::model::RoleAssignment {
        id: Uuid::new_v4().to_string(),
        scope,
        role: OWNER.into(),
        principal: owner.principal.clone(),
        body: json!({}),
    };
    db.put_role_assignment(&assignment).await.unwrap();
    let group = ResourceId::group(&id, "rg1");
    server.engine.put(&as_caller(server, &owner), &group, json!({"location": "eastus"})).await.unwrap();
    (owner, group)
}

pub(super) async fn ask(
    server: &Server,
    call: &Call,
    method: Method,
    scope: &str,
    path: &str,
    body: Value,
) -> Result<ExtensionReply, ArmError> {
    let asked = Extension {
        scope: scope.to_owned(),
        namespace: "microsoft.authorization".into(),
        path: path.split('/').map(str::to_owned).collect(),
        method,
        body,
    };
    server.engine.extension(call, &asked).await.map(|reply| reply.expect("a known type"))
}

pub(super) async fn assign(server: &Server, scope: &str, role: &str, principal: &str) -> Result<String, ArmError> {
    let name = Uuid::new_v4().to_string();
    let role = format!("/subscriptions/x/providers/Microsoft.Authorization/roleDefinitions/{role}");
    let body = json!({"properties": {"roleDefinitionId": role, "principalId": principal}});
    let reply = ask(server, &server.call, Method::Put, scope, &format!("roleAssignments/{name}"), body).await?;
    assert_eq!(reply.status, 201);
    Ok(name)
}

fn code(result: Result<impl Sized, ArmError>) -> (u16, String) {
    result.err().map(|e| (e.status, e.code)).unwrap_or_default()
}

const DISK: &str = "disks/d1";

async fn with_disks() -> Server {
    let server = Server::start().await;
    for disk in [DISK, "disks/d2"] {
        let body = json!({"location": "eastus", "sku": {"name": "Standard_LRS"},
            "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
        server.put(disk, body).await.unwrap();
    }
    server
}

/// What every role may do with every type, made from the providers themselves and reviewed as a file: a new type or action is
/// not there before somebody has looked at this.
#[tokio::test]
async fn the_matrix_of_rights() {
    let server = Server::start_without_worker().await;
    let roles = rbac::built_in_roles();
    let mut actions: Vec<String> = Vec::new();
    let mut providers: Vec<_> =
        server.engine.providers().iter().flat_map(|p| server.engine.providers_of(&p.namespace)).cloned().collect();
    providers.sort_by_key(|p| p.resource_type());
    assert!(providers.len() > 20);
    for provider in providers {
        let right = provider.right_type();
        actions.extend(["read", "write", "delete"].map(|verb| format!("{right}/{verb}")));
        actions.extend(provider.actions().iter().map(|a| format!("{right}/{a}/action")));
    }
    for kind in ["roleDefinitions", "roleAssignments", "locks"] {
        actions.extend(["read", "write", "delete"].map(|verb| format!("Microsoft.Authorization/{kind}/{verb}")));
    }
    for linked in ["publicIPAddresses", "networkSecurityGroups", "virtualNetworks/subnets", "networkInterfaces"] {
        actions.push(format!("Microsoft.Network/{linked}/join/action"));
    }
    actions.push("Microsoft.Insights/eventtypes/values/Read".into());
    let mut table = String::new();
    for (n, role) in roles.iter().enumerate() {
        table.push_str(&format!("{} {}\n", letter(n), role.role_name));
    }
    table.push('\n');
    for action in actions {
        let allowed = |r| role_allows(r, &action, Plane::Control);
        let marks: String = roles.iter().enumerate().map(|(n, r)| if allowed(r) { letter(n) } else { '.' }).collect();
        assert!(marks.starts_with('A'), "an owner may do everything: {action}");
        table.push_str(&format!("{marks} {action}\n"));
    }
    insta::assert_snapshot!("rights", table);
}

#[tokio::test]
async fn a_role_taken_away_is_gone_for_the_next_request() {
    let server = Server::start_without_worker().await;
    let reader = stranger(&server, &server.call.caller.tenant).await;
    let scope = server.group.to_string();
    let name = assign(&server, &scope, READER, &reader.principal).await.unwrap();
    let signed_in = async || server.engine.caller(&reader.tenant, &reader.principal).await.unwrap().unwrap();
    let before = signed_in().await;
    server.engine.get(&as_caller(&server, &before), &server.group).await.unwrap();
    let path = format!("roleAssignments/{name}");
    ask(&server, &server.call, Method::Delete, &scope, &path, Value::Null).await.unwrap();
    let refused = server.engine.get(&as_caller(&server, &signed_in().await), &server.group).await;
    assert_eq!(code(refused), (403, "AuthorizationFailed".into()));
    // Work that outlives its request has no state of its own.
    let later = Caller { rights: Rights::default(), ..before };
    assert_eq!(code(server.engine.get(&as_caller(&server, &later), &server.group).await).0, 403);
}

/// A GET asks the database once: the resource that it reads comes with the count of changes, and both are of that moment.
#[tokio::test]
async fn what_a_request_reads_comes_with_its_rights() {
    let server = Server::start_without_worker().await;
    let reader = stranger(&server, &server.call.caller.tenant).await;
    let name = assign(&server, &server.group.to_string(), READER, &reader.principal).await.unwrap();
    let begin = async || {
        let caller =
            server.engine.reader(&reader.tenant, &reader.principal, Some(&server.group)).await.unwrap().unwrap();
        as_caller(&server, &caller)
    };
    let first = begin().await;
    let tagged = json!({"location": "eastus", "tags": {"later": "yes"}});
    server.engine.put(&server.call, &server.group, tagged).await.unwrap();
    let tags = |group: Value| group["tags"].clone();
    assert_eq!(tags(server.engine.get(&first, &server.group).await.unwrap()), Value::Null, "as it was when it began");
    let second = begin().await;
    assert_eq!(tags(server.engine.get(&second, &server.group).await.unwrap()), json!({"later": "yes"}));
    // Another resource than the one that was told is asked for.
    let other = ResourceId::group(&server.group.subscription, "none");
    let owner = Caller { rights: second.caller.rights.clone(), ..server.call.caller.clone() };
    assert_eq!(code(server.engine.get(&as_caller(&server, &owner), &other).await).0, 404);

    let path = format!("roleAssignments/{name}");
    ask(&server, &server.call, Method::Delete, &server.group.to_string(), &path, Value::Null).await.unwrap();
    assert_eq!(code(server.engine.get(&begin().await, &server.group).await).0, 403);
}

fn letter(n: usize) -> char {
    char::from(b'A' + u8::try_from(n).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn assignments_are_made_listed_and_deleted() {
    let server = with_disks().await;
    let reader = stranger(&server, &server.call.caller.tenant).await;
    let group = server.group.to_string();
    let refused = server.engine.get(&as_caller(&server, &reader), &server.id(DISK)).await.unwrap_err();
    assert_eq!(refused.status, 403);
    let disk = server.id(DISK).to_string();
    let words = format!(
        "The client '{}' with object id '{}' does not have authorization to perform action \
         'Microsoft.Compute/disks/read' over scope '{disk}' or the scope is invalid. If access was recently granted, please \
         refresh your credentials.",
        reader.app_id, reader.principal
    );
    assert_eq!((refused.code.as_str(), refused.message.as_str()), ("AuthorizationFailed", words.as_str()));

    let name = assign(&server, &group, READER, &reader.principal).await.unwrap();
    server.engine.get(&as_caller(&server, &reader), &server.id(DISK)).await.unwrap();
    let twin = assign(&server, &group, READER, &reader.principal).await;
    assert_eq!(code(twin), (409, "RoleAssignmentExists".into()));
    let nobody = assign(&server, &group, READER, &Uuid::new_v4().to_string()).await;
    assert_eq!(code(nobody), (400, "PrincipalNotFound".into()));
    let role = assign(&server, &group, &Uuid::new_v4().to_string(), &reader.principal).await;
    assert_eq!(code(role), (404, "RoleDefinitionDoesNotExist".into()));
    let gone = format!("{group}-missing");
    assert_eq!(code(assign(&server, &gone, READER, &reader.principal).await), (404, "ResourceGroupNotFound".into()));
    // A reader gives nothing to anybody.
    let body = json!({"properties": {"roleDefinitionId": OWNER, "principalId": reader.principal}});
    let path = format!("roleAssignments/{}", Uuid::new_v4());
    let own = ask(&server, &as_caller(&server, &reader), Method::Put, &group, &path, body).await;
    assert_eq!(code(own), (403, "AuthorizationFailed".into()));

    let listed = async |scope: &str, filter: &str| {
        let mut call = server.call.clone();
        call.query.insert("$filter".into(), filter.into());
        let reply = ask(&server, &call, Method::Get, scope, "roleAssignments", Value::Null).await.unwrap();
        let all = reply.body.unwrap()["value"].as_array().unwrap().clone();
        all.iter().filter(|a| a["properties"]["principalId"] == *reader.principal).count()
    };
    let subscription = ResourceId::subscription(&server.group.subscription).to_string();
    assert_eq!(listed(&disk, "atScope()").await, 1, "inherited");
    assert_eq!(listed(&subscription, "atScope()").await, 0, "below");
    assert_eq!(listed(&subscription, "").await, 1);
    assert_eq!(listed(&subscription, &format!("principalId eq '{}'", reader.principal)).await, 1);
    assert_eq!(listed(&disk, &format!("assignedTo('{}')", reader.principal)).await, 1);
    assert_eq!(listed(&disk, "principalId eq 'other'").await, 0);

    let path = format!("roleAssignments/{name}");
    let reply = ask(&server, &server.call, Method::Delete, &group, &path, Value::Null).await.unwrap();
    assert_eq!((reply.status, &reply.body.unwrap()["name"]), (200, &json!(name)));
    let again = ask(&server, &server.call, Method::Delete, &group, &path, Value::Null).await.unwrap();
    assert_eq!(again.status, 204);
    // At once.
    let refused = server.engine.get(&as_caller(&server, &reader), &server.id(DISK)).await;
    assert_eq!(code(refused), (403, "AuthorizationFailed".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_the_tenants_root_give_their_roles() {
    let server = with_disks().await;
    let member = stranger(&server, &server.call.caller.tenant).await;
    let group = Principal {
        id: Uuid::new_v4().to_string(),
        tenant: member.tenant.clone(),
        app_id: String::new(),
        display_name: "team".into(),
        kind: "Group".into(),
        secret_hash: String::new(),
        login: String::new(),
        body: json!({}),
    };
    server.engine.db().put_principal(&group).await.unwrap();
    let change =
        lazuli_meta::model::Change::PutGroupMember { group: group.id.clone(), member: member.principal.clone() };
    let write = lazuli_meta::model::Write { fence: None, changes: vec![change] };
    server.engine.db().write(write).await.unwrap();
    assign(&server, &server.id(DISK).to_string(), READER, &group.id).await.unwrap();
    server.engine.get(&as_caller(&server, &member), &server.id(DISK)).await.unwrap();

    let root = format!("/providers/Microsoft.Management/managementGroups/{}", member.tenant);
    assert_eq!(code(assign(&server, &root, READER, &member.principal).await), (403, "AuthorizationFailed".into()));
    let assignment = lazuli_meta::model::RoleAssignment {
        id: Uuid::new_v4().to_string(),
        scope: "/".into(),
        role: OWNER.into(),
        principal: server.call.caller.principal.clone(),
        body: json!({}),
    };
    server.engine.db().put_role_assignment(&assignment).await.unwrap();
    assign(&server, &root, READER, &member.principal).await.unwrap();
    server.engine.get(&as_caller(&server, &member), &server.id("disks/d2")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_what_may_be_read() {
    let server = with_disks().await;
    let reader = stranger(&server, &server.call.caller.tenant).await;
    assign(&server, &server.id(DISK).to_string(), READER, &reader.principal).await.unwrap();
    let call = as_caller(&server, &reader);
    let kind = server.id(DISK).resource_type();
    for parent in [server.group.clone(), ResourceId::subscription(&server.group.subscription)] {
        let listing = server.engine.list(&call, &parent, &kind).await.unwrap();
        assert_eq!(listing.items.iter().map(|d| &d["name"]).collect::<Vec<_>>(), ["d1"], "{parent}");
    }
    let snapshots = lazuli_arm::ResourceType { namespace: "Microsoft.Compute".into(), types: vec!["snapshots".into()] };
    assert_eq!(server.engine.list(&call, &server.group, &snapshots).await.unwrap().items.len(), 0);
    assert_eq!(server.engine.subscriptions(&reader).await.unwrap().len(), 1);
    let nobody = stranger(&server, &server.call.caller.tenant).await;
    let refused = server.engine.list(&as_caller(&server, &nobody), &server.group, &kind).await;
    assert_eq!(code(refused), (403, "AuthorizationFailed".into()));
    assert_eq!(server.engine.subscriptions(&nobody).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_roles_keep_azures_rules() {
    let server = with_disks().await;
    let scope = ResourceId::subscription(&server.group.subscription).to_string();
    let name = Uuid::new_v4().to_string();
    let path = format!("roleDefinitions/{name}");
    let body = |actions: Value, scopes: Value| {
        json!({"properties": {"roleName": "Disk reader", "description": "d", "assignableScopes": scopes,
            "permissions": [{"actions": actions, "notActions": []}]}})
    };
    let put = async |body: Value| ask(&server, &server.call, Method::Put, &scope, &path, body).await;
    for (actions, scopes, wanted) in [
        (json!(["Microsoft.Compute/*/*/read"]), json!([scope]), "InvalidActionOrNotAction"),
        (json!(["read"]), json!([scope]), "InvalidActionOrNotAction"),
        (json!([]), json!([scope]), "InvalidRoleDefinition"),
        (json!(["*/read"]), json!([]), "MissingAssignableScopes"),
        (json!(["*/read"]), json!(["/"]), "InvalidAssignableScope"),
        (json!(["*/read"]), json!(["/subscriptions/nowhere"]), "SubscriptionNotFound"),
    ] {
        assert_eq!(code(put(body(actions, scopes)).await).1, wanted);
    }
    put(body(json!(["Microsoft.Compute/disks/read"]), json!([scope]))).await.unwrap();
    let twin = format!("roleDefinitions/{}", Uuid::new_v4());
    let same_name = body(json!(["*/read"]), json!([scope]));
    let refused = ask(&server, &server.call, Method::Put, &scope, &twin, same_name).await;
    assert_eq!(code(refused), (409, "RoleDefinitionWithSameNameExists".into()));

    let mut call = server.call.clone();
    call.query.insert("$filter".into(), "type eq 'CustomRole'".into());
    let listed = ask(&server, &call, Method::Get, &scope, "roleDefinitions", Value::Null).await.unwrap().body.unwrap();
    assert_eq!(listed["value"][0]["properties"]["permissions"][0]["actions"], json!(["Microsoft.Compute/disks/read"]));
    assert_eq!(listed["value"].as_array().unwrap().len(), 1);

    let someone = stranger(&server, &server.call.caller.tenant).await;
    let assignment = assign(&server, &server.group.to_string(), &name, &someone.principal).await.unwrap();
    let call = as_caller(&server, &someone);
    server.engine.get(&call, &server.id(DISK)).await.unwrap();
    assert_eq!(code(server.engine.delete(&call, &server.id(DISK)).await).0, 403);
    // Changed, it gives something else at once.
    put(body(json!(["Microsoft.Compute/snapshots/read"]), json!([scope]))).await.unwrap();
    assert_eq!(code(server.engine.get(&call, &server.id(DISK)).await).0, 403);

    let refused = ask(&server, &server.call, Method::Delete, &scope, &path, Value::Null).await;
    assert_eq!(code(refused), (400, "RoleDefinitionHasAssignments".into()));
    let gone = format!("roleAssignments/{assignment}");
    ask(&server, &server.call, Method::Delete, &server.group.to_string(), &gone, Value::Null).await.unwrap();
    assert_eq!(ask(&server, &server.call, Method::Delete, &scope, &path, Value::Null).await.unwrap().status, 200);
    let built_in = format!("roleDefinitions/{CONTRIBUTOR}");
    let refused = ask(&server, &server.call, Method::Delete, &scope, &built_in, Value::Null).await;
    assert_eq!(code(refused), (400, "CannotDeleteBuiltInRole".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays() {
    let server = Server::start_without_worker().await;
    let scope = ResourceId::subscription(&server.group.subscription).to_string();
    let access = server.engine.access().await.unwrap();
    let mine = access.assignments.iter().find(|a| a.role == OWNER).unwrap().id.clone();
    let path = format!("roleAssignments/{mine}");
    let refused = ask(&server, &server.call, Method::Delete, &scope, &path, Value::Null).await;
    assert_eq!(code(refused), (412, "CannotDeleteLastRbacAdminAssignment".into()));
    // Two owners who remove each other at the same time do not both succeed.
    let second = stranger(&server, &server.call.caller.tenant).await;
    let other = assign(&server, &scope, OWNER, &second.principal).await.unwrap();
    let (first_path, second_path) = (path, format!("roleAssignments/{other}"));
    let call = as_caller(&server, &second);
    let (a, b) = tokio::join!(
        ask(&server, &call, Method::Delete, &scope, &first_path, Value::Null),
        ask(&server, &server.call, Method::Delete, &scope, &second_path, Value::Null),
    );
    assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_hold() {
    let server = with_disks().await;
    let group = server.group.to_string();
    let lock = |level: &str| json!({"properties": {"level": level, "notes": "n"}});
    let put = async |scope: &str, name: &str, level: &str| {
        ask(&server, &server.call, Method::Put, scope, &format!("locks/{name}"), lock(level)).await
    };
    assert_eq!(code(put(&group, "l", "Sometimes").await), (400, "InvalidLockLevel".into()));
    assert_eq!(put(&server.id(DISK).to_string(), "l", "CanNotDelete").await.unwrap().status, 201);
    let refused = server.engine.delete(&server.call, &server.id(DISK)).await.unwrap_err();
    let disk = server.id(DISK);
    let words = format!(
        "The scope '{disk}' cannot perform delete operation because following scope(s) are locked: '{disk}'. Please remove the \
         lock and try again."
    );
    assert_eq!((refused.status, refused.code.as_str(), refused.message.as_str()), (409, "ScopeLocked", words.as_str()));
    let refused = server.engine.delete(&server.call, &server.group).await;
    assert_eq!(code(refused), (409, "ScopeLocked".into()), "a group with something locked in it");
    server.engine.patch(&server.call, &disk, json!({"tags": {"a": "b"}})).await.unwrap();

    assert_eq!(put(&group, "r", "readonly").await.unwrap().status, 201);
    let refused = server.engine.patch(&server.call, &server.id("disks/d2"), json!({"tags": {}})).await;
    assert_eq!(code(refused), (409, "ScopeLocked".into()));
    let access = json!({"access": "Read", "durationInSeconds": 60});
    let refused = server.engine.action(&server.call, &server.id("disks/d2"), "beginGetAccess", access).await;
    assert_eq!(code(refused), (409, "ScopeLocked".into()));
    server.engine.get(&server.call, &server.id("disks/d2")).await.unwrap();
    let listed = ask(&server, &server.call, Method::Get, &group, "locks", Value::Null).await.unwrap().body.unwrap();
    assert_eq!(listed["value"].as_array().unwrap().len(), 2);
    // A contributor takes no lock away.
    let contributor = stranger(&server, &server.call.caller.tenant).await;
    let scope = ResourceId::subscription(&server.group.subscription).to_string();
    assign(&server, &scope, CONTRIBUTOR, &contributor.principal).await.unwrap();
    let refused = ask(&server, &as_caller(&server, &contributor), Method::Delete, &group, "locks/r", Value::Null).await;
    assert_eq!(code(refused), (403, "AuthorizationFailed".into()));
    for (scope, name) in [(&group, "locks/r"), (&disk.to_string(), "locks/l")] {
        ask(&server, &server.call, Method::Delete, scope, name, Value::Null).await.unwrap();
    }
    server.engine.delete(&server.call, &disk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_and_check_access() {
    let server = Server::start_without_worker().await;
    let someone = stranger(&server, &server.call.caller.tenant).await;
    assign(&server, &server.group.to_string(), COMPUTE_GALLERY_IMAGE_READER, &someone.principal).await.unwrap();
    let call = as_caller(&server, &someone);
    let group = server.group.to_string();
    let mine = ask(&server, &call, Method::Get, &group, "permissions", Value::Null).await.unwrap().body.unwrap();
    assert_eq!(mine["value"].as_array().unwrap().len(), 1);
    let body = json!({"Subject": {"Attributes": {"ObjectId": someone.principal}}, "Actions": [
        {"Id": "Microsoft.Compute/galleries/images/read"}, {"Id": "Microsoft.Compute/disks/read"}]});
    let decided = ask(&server, &call, Method::Post, &group, "checkAccess", body).await.unwrap().body.unwrap();
    let decisions: Vec<&Value> = decided.as_array().unwrap().iter().map(|d| &d["accessDecision"]).collect();
    assert_eq!(decisions, ["Allowed", "NotAllowed"]);
    let about_another = json!({"Subject": {"Attributes": {"ObjectId": server.call.caller.principal}}, "Actions": []});
    assert_eq!(code(ask(&server, &call, Method::Post, &group, "checkAccess", about_another).await).0, 403);
}

/// IV-17: a source in another tenant needs a token of that tenant, and there the right to read.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_resources_need_its_own_token() {
    let server = with_disks().await;
    let (owner, group) = other_tenant(&server).await;
    let version = server.id("galleries/g/images/i/versions/1.0.0").to_string();
    let right = "Microsoft.Compute/galleries/images/versions/read";
    let link = async |caller: &Caller| server.engine.authorize_link(caller, &version, right).await;
    let refused = link(&owner).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (403, "LinkedAuthorizationFailed"));
    let words = format!(
        "however the current tenant '{}' is not authorized to access linked subscription '{}'.",
        owner.tenant, server.group.subscription
    );
    assert!(refused.message.ends_with(&words), "{}", refused.message);
    let here = stranger(&server, &server.call.caller.tenant).await;
    let both = Caller { auxiliary: vec![here.clone()], ..owner.clone() };
    assert_eq!(code(link(&both).await), (403, "LinkedAuthorizationFailed".into()), "a token, but no role");
    assign(&server, &server.group.to_string(), READER, &here.principal).await.unwrap();
    link(&both).await.unwrap();
    assert_eq!(code(link(&owner).await).0, 403, "without the token the role does not count");
    // The second token does not open the other tenant's own paths.
    let refused = server.engine.get(&as_caller(&server, &both), &server.id(DISK)).await;
    assert_eq!(code(refused), (401, "InvalidAuthenticationTokenTenant".into()));
    server.engine.get(&as_caller(&server, &both), &group).await.unwrap();
}

/// IV-17 whole: a version made of another tenant's version, with Reader there and a token of each tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_another_tenants_version() {
    let server = Server::start().await;
    server.gallery().await;
    server.uploaded("d1", &super::disk_bytes(3)).await;
    let version = "galleries/g/images/i/versions/1.0.0";
    let body = |source: Value| {
        json!({"location": "eastus", "properties": {"publishingProfile": {"targetRegions": [{"name": "eastus"}]},
            "storageProfile": source}})
    };
    let disk = json!({"osDiskImage": {"source": {"id": server.id("disks/d1").to_string()}}});
    server.put(version, body(disk)).await.unwrap();

    let (owner, group) = other_tenant(&server).await;
    let guest = stranger(&server, &server.call.caller.tenant).await;
    let at = |tail: &str| format!("{group}/providers/Microsoft.Compute/{tail}").parse::<ResourceId>().unwrap();
    let alone = as_caller(&server, &owner);
    for (tail, body) in
        [("galleries/g2", json!({"location": "eastus"})), ("galleries/g2/images/i", super::definition("sku1"))]
    {
        let written = server.engine.put(&alone, &at(tail), body).await.unwrap();
        wait_as(&server, &alone, &group, &written.operation.unwrap()).await;
    }
    let copy = at("galleries/g2/images/i/versions/2.0.0");
    let source = body(json!({"source": {"id": server.id(version).to_string()}}));
    assert_eq!(code(server.engine.put(&alone, &copy, source.clone()).await), (403, "LinkedAuthorizationFailed".into()));
    let both = as_caller(&server, &Caller { auxiliary: vec![guest.clone()], ..owner.clone() });
    assert_eq!(code(server.engine.put(&both, &copy, source.clone()).await), (403, "LinkedAuthorizationFailed".into()));
    assign(&server, &server.id(version).to_string(), READER, &guest.principal).await.unwrap();
    let written = server.engine.put(&both, &copy, source).await.unwrap();
    wait_as(&server, &both, &group, &written.operation.unwrap()).await;
    let shown = server.engine.get(&alone, &copy).await.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
}

async fn wait_as(server: &Server, call: &Call, group: &ResourceId, operation: &str) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let view = server.engine.operation(call, &group.subscription, operation).await.unwrap();
        match view.status {
            "InProgress" => assert!(tokio::time::Instant::now() < deadline, "{view:?}"),
            "Succeeded" => return,
            _ => panic!("{view:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
