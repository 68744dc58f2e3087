//! Tenants, subscriptions, principals, role assignments, settings.

use lazuli_meta::MetaError;
use lazuli_meta::model::{
    Application, Change, Conflict, Credential, CustomRole, ManagementLock, Principal, RoleAssignment, Subscription,
    Tenant, Write,
};
use serde_json::json;

use crate::harness::{Bench, conflict};

fn tenant(id: &str) -> Tenant {
    Tenant { id: id.to_owned(), display_name: format!("Tenant {id}") }
}

fn subscription(id: &str, tenant: &str) -> Subscription {
    Subscription {
        id: id.to_owned(),
        tenant: tenant.to_owned(),
        display_name: "S".to_owned(),
        state: "Enabled".to_owned(),
    }
}

pub async fn tenants_and_subscriptions(bench: Bench) {
    let db = &bench.db;
    assert!(matches!(db.put_subscription(&subscription("s1", "t1")).await, Err(MetaError::Invalid(_))));
    for id in ["t2", "t1"] {
        db.put_tenant(&tenant(id)).await.unwrap();
    }
    assert_eq!(db.tenants().await.unwrap(), [tenant("t1"), tenant("t2")]);
    let renamed = Tenant { display_name: "New".to_owned(), ..tenant("t1") };
    db.put_tenant(&renamed).await.unwrap();
    assert_eq!(db.tenants().await.unwrap(), [renamed, tenant("t2")]);
    for (id, tenant) in [("s2", "t1"), ("s1", "t1"), ("s3", "t2")] {
        db.put_subscription(&subscription(id, tenant)).await.unwrap();
    }
    assert_eq!(db.subscriptions("t1").await.unwrap(), [subscription("s1", "t1"), subscription("s2", "t1")]);
    assert_eq!(db.subscriptions("t3").await.unwrap(), []);
    let warned = Subscription { state: "Warned".to_owned(), ..subscription("s3", "t2") };
    db.put_subscription(&warned).await.unwrap();
    assert_eq!(db.subscription("s3").await.unwrap(), Some(warned));
    assert_eq!(db.subscription("s4").await.unwrap(), None);
}

pub async fn principals(bench: Bench) {
    let db = &bench.db;
    db.put_tenant(&tenant("t1")).await.unwrap();
    db.put_tenant(&tenant("t2")).await.unwrap();
    let principal = |id: &str, tenant: &str, app: &str| Principal {
        id: id.to_owned(),
        tenant: tenant.to_owned(),
        app_id: app.to_owned(),
        display_name: "P".to_owned(),
        kind: "ServicePrincipal".to_owned(),
        secret_hash: "h".to_owned(),
        login: String::new(),
        body: json!({}),
    };
    let all = [
        principal("o1", "t1", "app"),
        principal("o2", "t2", "app"),
        // Users have no application.
        principal("u1", "t1", ""),
        principal("u2", "t1", ""),
    ];
    for one in &all {
        db.put_principal(one).await.unwrap();
        assert_eq!(db.principal(&one.id).await.unwrap().as_ref(), Some(one));
    }
    assert_eq!(db.principal_by_app("t2", "app").await.unwrap().as_ref(), Some(&all[1]));
    assert_eq!(db.principal_by_app("t1", "other").await.unwrap(), None);
    assert_eq!(db.principal_by_app("t1", "").await.unwrap(), None);
    assert!(db.put_principal(&principal("o3", "t1", "app")).await.is_err());
    assert!(matches!(db.put_principal(&principal("o4", "t9", "x")).await, Err(MetaError::Invalid(_))));
    let rotated = Principal { secret_hash: "h2".to_owned(), ..all[0].clone() };
    db.put_principal(&rotated).await.unwrap();
    assert_eq!(db.principal("o1").await.unwrap(), Some(rotated));
}

pub async fn role_assignments(bench: Bench) {
    let db = &bench.db;
    let assignment = |id: &str, scope: &str, principal: &str| RoleAssignment {
        id: id.to_owned(),
        scope: scope.to_owned(),
        role: "reader".to_owned(),
        principal: principal.to_owned(),
        body: json!({}),
    };
    let all = [assignment("1", "/s", "p"), assignment("2", "/s", "q"), assignment("3", "/s/g", "p")];
    for one in &all {
        db.put_role_assignment(one).await.unwrap();
        db.put_role_assignment(one).await.unwrap();
    }
    assert_eq!(db.role_assignments(None, None).await.unwrap(), all);
    assert_eq!(db.role_assignments(Some("p"), None).await.unwrap(), [all[0].clone(), all[2].clone()]);
    assert_eq!(db.role_assignments(None, Some("/s")).await.unwrap(), all[..2]);
    assert_eq!(db.role_assignments(Some("p"), Some("/s/g")).await.unwrap(), all[2..]);
    let same = db.put_role_assignment(&assignment("4", "/s", "p")).await;
    assert_eq!(conflict(same), Conflict::Exists { key: "1".to_owned() });
    db.delete_role_assignment("1").await.unwrap();
    db.delete_role_assignment("1").await.unwrap();
    db.put_role_assignment(&assignment("4", "/s", "p")).await.unwrap();
    assert_eq!(db.role_assignments(Some("p"), Some("/s")).await.unwrap(), [assignment("4", "/s", "p")]);
}

pub async fn settings(bench: Bench) {
    let db = &bench.db;
    assert_eq!(db.setting("issuer").await.unwrap(), None);
    assert!(db.put_setting("issuer", "1", true).await.unwrap());
    assert!(!db.put_setting("issuer", "2", true).await.unwrap());
    assert_eq!(db.setting("issuer").await.unwrap().as_deref(), Some("1"));
    assert!(db.put_setting("issuer", "3", false).await.unwrap());
    assert_eq!(db.setting("issuer").await.unwrap().as_deref(), Some("3"));
}

fn write(changes: Vec<Change>) -> Write {
    Write { fence: None, changes }
}

/// What was decided on one state of the identities is not committed on another.
pub async fn every_identity_change_is_counted(bench: Bench) {
    let db = &bench.db;
    let before = db.identity_changes().await.unwrap();
    db.put_tenant(&tenant("t1")).await.unwrap();
    let seen = db.identity_changes().await.unwrap();
    assert!(seen > before);
    let assign = |id: &str| {
        Change::PutRoleAssignment(RoleAssignment {
            id: id.to_owned(),
            scope: "/s".to_owned(),
            role: id.to_owned(),
            principal: "p".to_owned(),
            body: json!({"n": 1}),
        })
    };
    db.write(write(vec![Change::RequireIdentity { changes: seen }, assign("1")])).await.unwrap();
    let late = db.write(write(vec![Change::RequireIdentity { changes: seen }, assign("2")])).await;
    assert_eq!(conflict(late), Conflict::Etag { key: "identity".to_owned() });
    assert_eq!(db.role_assignments(None, None).await.unwrap().len(), 1);
}

pub async fn roles_and_locks(bench: Bench) {
    let db = &bench.db;
    db.put_tenant(&tenant("t1")).await.unwrap();
    let role = CustomRole { id: "r".to_owned(), tenant: "t1".to_owned(), body: json!({"roleName": "A"}) };
    let renamed = CustomRole { body: json!({"roleName": "B"}), ..role.clone() };
    db.write(write(vec![Change::PutCustomRole(role), Change::PutCustomRole(renamed.clone())])).await.unwrap();
    assert_eq!(db.custom_roles().await.unwrap(), [renamed]);
    db.write(write(vec![Change::DeleteCustomRole { id: "r".to_owned() }])).await.unwrap();
    assert_eq!(db.custom_roles().await.unwrap(), []);

    let lock = ManagementLock {
        key: "/s/g/locks/l".to_owned(),
        scope: "/s/g".to_owned(),
        level: "ReadOnly".to_owned(),
        body: json!({"notes": "n"}),
    };
    let softer = ManagementLock { level: "CanNotDelete".to_owned(), ..lock.clone() };
    db.write(write(vec![Change::PutLock(lock), Change::PutLock(softer.clone())])).await.unwrap();
    assert_eq!(db.locks().await.unwrap(), std::slice::from_ref(&softer));
    db.write(write(vec![Change::DeleteLock { key: softer.key }])).await.unwrap();
    assert_eq!(db.locks().await.unwrap(), []);
}

pub async fn the_directory(bench: Bench) {
    let db = &bench.db;
    db.put_tenant(&tenant("t1")).await.unwrap();
    let principal = |id: &str, login: &str| Principal {
        id: id.to_owned(),
        tenant: "t1".to_owned(),
        app_id: String::new(),
        display_name: id.to_owned(),
        kind: "User".to_owned(),
        secret_hash: String::new(),
        login: login.to_owned(),
        body: json!({"mail": id}),
    };
    let put = |p: Principal| write(vec![Change::PutPrincipal(p)]);
    db.write(put(principal("u", "u@t"))).await.unwrap();
    assert_eq!(conflict(db.write(put(principal("v", "u@t"))).await), Conflict::Exists { key: "v".to_owned() });
    db.write(put(principal("g", ""))).await.unwrap();
    let member = Change::PutGroupMember { group: "g".to_owned(), member: "u".to_owned() };
    db.write(write(vec![member.clone(), member])).await.unwrap();
    assert_eq!(db.group_members().await.unwrap(), [("g".to_owned(), "u".to_owned())]);

    let application =
        Application { id: "o".to_owned(), tenant: "t1".to_owned(), app_id: "a".to_owned(), body: json!({"x": 1}) };
    let credential = |id: &str, owner: &str| Credential {
        id: id.to_owned(),
        owner: owner.to_owned(),
        kind: "Secret".to_owned(),
        verifier: "h".to_owned(),
        expires_ms: 5,
        body: json!({}),
    };
    let changes = vec![
        Change::PutApplication(application.clone()),
        Change::PutCredential(credential("k1", "a")),
        Change::PutCredential(credential("k2", "u")),
        Change::PutRoleAssignment(RoleAssignment {
            id: "1".to_owned(),
            scope: "/s".to_owned(),
            role: "r".to_owned(),
            principal: "u".to_owned(),
            body: json!({}),
        }),
    ];
    db.write(write(changes)).await.unwrap();
    assert_eq!(db.application_by_app("a").await.unwrap().as_ref(), Some(&application));
    assert_eq!(db.applications().await.unwrap(), [application]);
    assert_eq!(db.credentials("a").await.unwrap(), [credential("k1", "a")]);
    let hidden = |id: &str, owner: &str| Credential { verifier: String::new(), ..credential(id, owner) };
    assert_eq!(db.all_credentials().await.unwrap(), [hidden("k1", "a"), hidden("k2", "u")]);

    db.write(write(vec![Change::DeleteApplication { id: "o".to_owned() }])).await.unwrap();
    assert_eq!((db.credentials("a").await.unwrap(), db.applications().await.unwrap()), (vec![], vec![]));
    db.write(write(vec![Change::DeletePrincipal { id: "u".to_owned() }])).await.unwrap();
    assert_eq!(db.principal("u").await.unwrap(), None);
    assert_eq!(db.group_members().await.unwrap(), []);
    assert_eq!(db.credentials("u").await.unwrap(), []);
    assert_eq!(db.role_assignments(None, None).await.unwrap(), []);
    assert_eq!(db.principals().await.unwrap().len(), 1);
}
