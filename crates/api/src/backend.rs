//! What the edge needs of the product: the engine's door, as a trait.
//!
//! [`Engine`] is the implementation that users meet; the tests of this crate use a small one in memory.

use async_trait::async_trait;
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_engine::call::{
    ActionReply, Call, Caller, Deleted, Extension, ExtensionReply, Listing, OperationView, ProviderInfo, Written,
};
use lazuli_engine::{ClientProof, Engine, SignInError, Subscription, Tenant};
use serde_json::Value;

/// The product behind the edge. Every method is one committed act, or none.
#[async_trait]
pub trait ArmBackend: Send + Sync + 'static {
    async fn put(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError>;
    async fn patch(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError>;
    async fn delete(&self, call: &Call, id: &ResourceId) -> Result<Deleted, ArmError>;
    /// The resource and its etag.
    async fn get(&self, call: &Call, id: &ResourceId) -> Result<(Value, String), ArmError>;
    /// A view below a resource (`…/virtualMachines/x/instanceView`); `None` where the type has no such view.
    async fn view(&self, call: &Call, id: &ResourceId, name: &str) -> Result<Option<Value>, ArmError>;
    async fn list(&self, call: &Call, parent: &ResourceId, collection: &ResourceType) -> Result<Listing, ArmError>;
    /// An action on a resource; on a provider (`checkNameAvailability`) `action` is `Namespace/action` and `id` the
    /// subscription or group.
    async fn action(&self, call: &Call, id: &ResourceId, action: &str, body: Value) -> Result<ActionReply, ArmError>;
    /// A resource that hangs on any scope; `None` where there is no such type.
    async fn extension(&self, _call: &Call, _asked: &Extension) -> Result<Option<ExtensionReply>, ArmError> {
        Ok(None)
    }
    /// `subscription`: empty for what is above them in the caller's tenant.
    async fn operation(&self, call: &Call, subscription: &str, id: &str) -> Result<OperationView, ArmError>;
    /// A query to Resource Graph.
    async fn resource_graph(&self, _call: &Call, _body: &Value) -> Result<Value, ArmError> {
        Err(ArmError::new(404, "NotFound", "Resource Graph is not offered by this server."))
    }

    fn providers(&self) -> Vec<ProviderInfo>;
    /// Whether a path is in the table of operations.
    fn has_route(&self, _method: &str, _path: &str) -> bool {
        true
    }
    async fn tenants(&self, caller: &Caller) -> Result<Vec<Tenant>, ArmError>;
    async fn subscriptions(&self, caller: &Caller) -> Result<Vec<Subscription>, ArmError>;

    /// Whether a directory of this id or domain exists.
    async fn has_tenant(&self, tenant: &str) -> Result<bool, ArmError>;
    async fn sign_in_client(
        &self,
        tenant: &str,
        client_id: &str,
        proof: ClientProof<'_>,
    ) -> Result<Caller, SignInError>;
    /// The principal of a token, if it still exists. `reads`: what the request is going to read.
    async fn caller(
        &self,
        tenant: &str,
        object_id: &str,
        reads: Option<&ResourceId>,
    ) -> Result<Option<Caller>, ArmError>;
}

#[async_trait]
impl ArmBackend for Engine {
    async fn put(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError> {
        Self::put(self, call, id, body).await
    }

    async fn patch(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError> {
        Self::patch(self, call, id, body).await
    }

    async fn delete(&self, call: &Call, id: &ResourceId) -> Result<Deleted, ArmError> {
        Self::delete(self, call, id).await
    }

    async fn get(&self, call: &Call, id: &ResourceId) -> Result<(Value, String), ArmError> {
        self.get_with_etag(call, id).await
    }

    async fn view(&self, call: &Call, id: &ResourceId, name: &str) -> Result<Option<Value>, ArmError> {
        Self::view(self, call, id, name).await
    }

    async fn list(&self, call: &Call, parent: &ResourceId, collection: &ResourceType) -> Result<Listing, ArmError> {
        Self::list(self, call, parent, collection).await
    }

    async fn action(&self, call: &Call, id: &ResourceId, action: &str, body: Value) -> Result<ActionReply, ArmError> {
        Self::action(self, call, id, action, body).await
    }

    async fn extension(&self, call: &Call, asked: &Extension) -> Result<Option<ExtensionReply>, ArmError> {
        Self::extension(self, call, asked).await
    }

    async fn operation(&self, call: &Call, subscription: &str, id: &str) -> Result<OperationView, ArmError> {
        Self::operation(self, call, subscription, id).await
    }

    async fn resource_graph(&self, call: &Call, body: &Value) -> Result<Value, ArmError> {
        Self::resource_graph(self, call, body).await
    }

    fn providers(&self) -> Vec<ProviderInfo> {
        Self::providers(self)
    }

    fn has_route(&self, method: &str, path: &str) -> bool {
        Self::has_route(self, method, path)
    }

    async fn tenants(&self, caller: &Caller) -> Result<Vec<Tenant>, ArmError> {
        Self::tenants(self, caller).await
    }

    async fn subscriptions(&self, caller: &Caller) -> Result<Vec<Subscription>, ArmError> {
        Self::subscriptions(self, caller).await
    }

    async fn has_tenant(&self, tenant: &str) -> Result<bool, ArmError> {
        Ok(self.tenant(tenant).await?.is_some())
    }

    async fn sign_in_client(
        &self,
        tenant: &str,
        client_id: &str,
        proof: ClientProof<'_>,
    ) -> Result<Caller, SignInError> {
        Self::sign_in_client(self, tenant, client_id, proof).await
    }

    async fn caller(
        &self,
        tenant: &str,
        object_id: &str,
        reads: Option<&ResourceId>,
    ) -> Result<Option<Caller>, ArmError> {
        Self::reader(self, tenant, object_id, reads).await
    }
}
