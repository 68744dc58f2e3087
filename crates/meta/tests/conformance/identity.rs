//! Tenants, subscriptions, principals, role assignments, settings.

use lazuli_meta::MetaError;
use lazuli_meta::model::{Conflict, Principal, RoleAssignment, Subscription, Tenant};

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
