//! Managed identities of machines: who a guest may act as, and who may make it so.

use super::authorization::{as_caller, stranger};
use super::site::{Site, VM};
use crate::{MachineIdentityError, TokenAsk};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_authz::rbac::CONTRIBUTOR;
use lazuli_meta::model::RoleAssignment;
use serde_json::{Value, json};

impl Site {
    fn identity(&self, name: &str) -> ResourceId {
        let provider = format!("{}/providers/Microsoft.ManagedIdentity", self.server.group);
        format!("{provider}/userAssignedIdentities/{name}").parse().unwrap()
    }

    async fn make_identity(&self, name: &str) -> Value {
        let body = json!({"location": "eastus"});
        self.server.engine.put(&self.server.call, &self.identity(name), body).await.unwrap().resource
    }

    async fn set_identity(&self, identity: Value) -> Result<Value, ArmError> {
        let patch = json!({"identity": identity});
        let written = self.server.engine.patch(&self.server.call, &self.server.id(VM), patch).await?;
        Ok(written.resource["identity"].clone())
    }

    async fn act(&self, client_id: Option<&str>) -> Result<String, MachineIdentityError> {
        let ask = TokenAsk {
            machine: self.server.id(VM).to_string(),
            vm_id: self.vm_id().await,
            client_id: client_id.map(str::to_owned),
            ..TokenAsk::default()
        };
        self.server.engine.machine_identity(&ask, None).await.map(|caller| caller.principal)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_acts_as_what_its_machine_was_given() {
    let site = Site::start().await;
    let (server, db) = (&site.server, site.server.engine.db());
    let (one, two) = (site.make_identity("one").await, site.make_identity("two").await);
    let (one_id, two_id) = (site.identity("one").to_string(), site.identity("two").to_string());
    site.create(|b| b["identity"] = json!({"type": "SystemAssigned"})).await.unwrap();
    let shown = server.get(VM).await.unwrap()["identity"].clone();
    let own = shown["principalId"].as_str().unwrap().to_owned();
    assert_eq!((&shown["type"], &shown["tenantId"]), (&json!("SystemAssigned"), &json!(server.call.caller.tenant)));
    assert_eq!(site.act(None).await.unwrap(), own);

    let both = json!({"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": {one_id.as_str(): {}, two_id.as_str(): {}}});
    let shown = site.set_identity(both).await.unwrap();
    assert_eq!(shown["userAssignedIdentities"][&one_id]["principalId"], one["properties"]["principalId"]);
    assert_eq!(site.act(None).await.unwrap(), own, "its own, where none is named");
    assert_eq!(site.act(two["properties"]["clientId"].as_str()).await.unwrap(), two["properties"]["principalId"]);
    assert!(matches!(site.act(Some("nobody")).await, Err(MachineIdentityError::NotFound)));

    site.set_identity(json!({"type": "UserAssigned", "userAssignedIdentities": null})).await.unwrap();
    assert!(db.principal(&own).await.unwrap().is_none(), "its own is gone");
    assert!(matches!(site.act(None).await, Err(MachineIdentityError::Several)));
    site.set_identity(json!({"type": "UserAssigned", "userAssignedIdentities": {two_id.to_uppercase(): null}}))
        .await
        .unwrap();
    assert_eq!(site.act(None).await.unwrap(), one["properties"]["principalId"]);
    // A machine that is changed otherwise keeps them, and an identity that is deleted gives nothing.
    let tagged = server.engine.patch(&server.call, &server.id(VM), json!({"tags": {"a": "b"}})).await.unwrap();
    assert_eq!(tagged.resource["identity"]["type"], "UserAssigned");
    server.engine.delete(&server.call, &site.identity("one")).await.unwrap();
    assert!(matches!(site.act(None).await, Err(MachineIdentityError::NotFound)));
    assert_eq!(site.set_identity(json!({"type": "None"})).await.unwrap(), Value::Null);
    assert!(server.get(VM).await.unwrap().get("identity").is_none(), "and no null is shown");

    // Another machine's name is not its identity.
    let ask = TokenAsk { machine: server.id(VM).to_string(), ..TokenAsk::default() };
    assert!(matches!(server.engine.machine_identity(&ask, None).await, Err(MachineIdentityError::NotFound)));
    site.set_identity(json!({"type": "SystemAssigned"})).await.unwrap();
    let own = site.act(None).await.unwrap();
    let deleted = server.engine.delete(&server.call, &server.id(VM)).await.unwrap();
    assert!(matches!(deleted, crate::call::Deleted::Started { .. }));
    assert!(db.principal(&own).await.unwrap().is_none(), "it goes with its machine");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_assigns_an_identity_needs_the_right_to_it() {
    let site = Site::start().await;
    let server = &site.server;
    site.make_identity("one").await;
    site.create(|_| {}).await.unwrap();
    let other = stranger(server, &server.call.caller.tenant).await;
    let role = |scope: &ResourceId, role: &str| RoleAssignment {
        id: uuid::Uuid::new_v4().to_string(),
        scope: scope.key(),
        role: role.into(),
        principal: other.principal.clone(),
        body: json!({}),
    };
    server.engine.db().put_role_assignment(&role(&server.id(VM), CONTRIBUTOR)).await.unwrap();
    let call = as_caller(server, &other);
    let assign = async |id: &ResourceId| {
        let identity = json!({"type": "UserAssigned", "userAssignedIdentities": {id.to_string(): {}}});
        server.engine.patch(&call, &server.id(VM), json!({"identity": identity})).await.map_err(|e| e.code).map(drop)
    };
    assert_eq!(assign(&site.identity("one")).await, Err("LinkedAuthorizationFailed".to_owned()));
    server.engine.db().put_role_assignment(&role(&site.identity("one"), CONTRIBUTOR)).await.unwrap();
    assign(&site.identity("one")).await.unwrap();
    let missing = json!({"type": "UserAssigned", "userAssignedIdentities": {site.identity("none").to_string(): {}}});
    assert_eq!(site.set_identity(missing).await.unwrap_err().code, "FailedIdentityOperation");
}
