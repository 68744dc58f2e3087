//! `Microsoft.ManagedIdentity/userAssignedIdentities`: a service principal without a secret, made and gone with its resource.

use super::{arm_context, delete_children};
use crate::db_error;
use crate::directory::MANAGED_IDENTITY;
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use async_trait::async_trait;
use lazuli_arm::bodies::user_assigned_identity as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Principal, Resource};
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) const KIND: &str = "Microsoft.ManagedIdentity/userAssignedIdentities";

pub(crate) struct UserAssignedIdentity;

#[async_trait]
impl Provider for UserAssignedIdentity {
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
        let mut body = body::put(id, &new, old.map(|o| &o.body), &arm_context(cx))?;
        if let Some(old) = old {
            body["properties"] = old.body["properties"].clone();
            return Ok(Plan { body, internal: old.internal.clone(), ..Plan::default() });
        }
        let subscription = cx.engine.require_subscription(&cx.call.caller, &id.subscription).await?;
        let principal = managed_principal(&subscription.tenant, id.name(), true, &shown_id(id), cx.now_ms);
        body["properties"] = json!({
            "tenantId": principal.tenant, "principalId": principal.id, "clientId": principal.app_id,
        });
        Ok(Plan { body, internal: json!({}), start: None, changes: vec![Change::PutPrincipal(principal)] })
    }

    async fn delete(&self, cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let children = cx.engine.db().children(&old.key, 1000).await.map_err(db_error)?;
        let mut changes = delete_children(children);
        if let Some(id) = principal_id(old) {
            // With its federated credentials and its roles.
            changes.push(Change::DeletePrincipal { id: id.to_owned() });
        }
        Ok(DeletePlan { start: None, changes })
    }

    async fn show(&self, _cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        if let Some(properties) = view["properties"].as_object_mut() {
            properties.remove("provisioningState");
        }
        if !view["tags"].is_object() {
            view["tags"] = json!({});
        }
        view["id"] = json!(lower_group(&row.id));
        Ok(view)
    }

    fn delete_rank(&self) -> u8 {
        60
    }
}

/// Object id of the principal that an identity is.
pub(crate) fn principal_id(row: &Resource) -> Option<&str> {
    row.body["properties"]["principalId"].as_str()
}

/// A managed identity's principal. `of`: the resource that it lives and dies with.
pub(crate) fn managed_principal(tenant: &str, name: &str, explicit: bool, of: &str, now_ms: i64) -> Principal {
    let explicit = if explicit { "isExplicit=True" } else { "isExplicit=False" };
    Principal {
        id: Uuid::new_v4().to_string(),
        tenant: tenant.to_owned(),
        app_id: Uuid::new_v4().to_string(),
        display_name: name.to_owned(),
        kind: MANAGED_IDENTITY.to_owned(),
        secret_hash: String::new(),
        login: String::new(),
        body: json!({"accountEnabled": true, "createdMs": now_ms, "directory": {"alternativeNames": [explicit, of]}}),
    }
}

fn shown_id(id: &ResourceId) -> String {
    lower_group(&crate::write::canonical(id, KIND))
}

/// This service writes `resourcegroups` (recorded).
pub(crate) fn lower_group(id: &str) -> String {
    id.replacen("/resourceGroups/", "/resourcegroups/", 1)
}
