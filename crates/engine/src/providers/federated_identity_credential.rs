//! `Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials`: whose tokens are taken for an identity.

use super::user_assigned_identity::{lower_group, principal_id};
use crate::identity::Trust;
use crate::provider::{Context, DeletePlan, Plan, Provider, standard_view};
use crate::{db_error, new_etag};
use async_trait::async_trait;
use lazuli_arm::bodies::federated_identity_credential as body;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Expect, Resource};
use serde_json::{Value, json};

const KIND: &str = "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials";

pub(crate) struct FederatedIdentityCredential;

#[async_trait]
impl Provider for FederatedIdentityCredential {
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
        let identity = id.parent().unwrap_or_else(|| id.clone());
        // Two that are put at once must see each other: the identity's etag is read before its credentials.
        let parent = cx.engine.db().resource(&identity.key()).await.map_err(db_error)?;
        let parent = parent.ok_or_else(|| ArmError::parent_not_found(identity.name()))?;
        let others = super::named_children(cx, &identity.key()).await?;
        let body = body::put(id, &new, &others)?;
        let trust = trust_of(id.name(), &body)?;
        if !cx.engine.may_trust(&trust.issuer) {
            return Err(ArmError::bad_request(
                "BadRequest",
                format!(
                    "The issuer '{}' is invalid: it must be an https address without query and fragment, or one that this server's \
                     operator allowed.",
                    trust.issuer
                ),
            ));
        }
        let owner = principal_id(&parent).unwrap_or_default().to_owned();
        let mut credential = trust.credential(&owner);
        if let Some(known) = old.and_then(|o| o.internal["credential"].as_str()) {
            known.clone_into(&mut credential.id);
        }
        let internal = json!({"credential": credential.id});
        let expect = Expect::Etag(parent.etag.clone());
        let touched = Change::PutResource { resource: Resource { etag: new_etag(), ..parent }, expect };
        Ok(Plan { body, internal, start: None, changes: vec![touched, Change::PutCredential(credential)] })
    }

    async fn delete(&self, _cx: Context<'_>, old: &Resource) -> Result<DeletePlan, ArmError> {
        let id = old.internal["credential"].as_str().unwrap_or_default().to_owned();
        Ok(DeletePlan { start: None, changes: vec![Change::DeleteCredential { id }] })
    }

    async fn show(&self, _cx: Context<'_>, row: &Resource) -> Result<Value, ArmError> {
        let mut view = standard_view(KIND, row);
        if let Some(properties) = view["properties"].as_object_mut() {
            properties.remove("provisioningState");
        }
        view["id"] = json!(lower_group(&row.id));
        Ok(view)
    }

    fn is_tracked(&self) -> bool {
        false
    }

    fn delete_rank(&self) -> u8 {
        55
    }
}

fn trust_of(name: &str, body: &Value) -> Result<Trust, ArmError> {
    let properties = &body["properties"];
    let text = |field: &str| properties[field].as_str().unwrap_or_default().to_owned();
    let audiences = serde_json::from_value(properties["audiences"].clone()).map_err(ArmError::internal)?;
    Ok(Trust { name: name.to_owned(), issuer: text("issuer"), subject: text("subject"), audiences, description: None })
}
