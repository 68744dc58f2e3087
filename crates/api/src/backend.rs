//! What the edge needs of the product: the engine's door, as a trait.
//!
//! [`lazuli_engine::Engine`] is the implementation that users meet; the tests of this crate use a small one in memory.

use async_trait::async_trait;
use lazuli_arm::{ArmError, ResourceId, ResourceType};
use lazuli_engine::call::{ActionReply, Call, Caller, Deleted, Listing, OperationView, ProviderInfo, Written};
use serde_json::Value;

/// A directory.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: String,
    pub display_name: String,
}

/// A subscription that a caller may see.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub id: String,
    pub tenant: String,
    pub display_name: String,
    /// `Enabled`, `Disabled`, …
    pub state: String,
}

/// Why a sign-in is refused.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("no such tenant")]
    UnknownTenant,
    #[error("no such application in the tenant")]
    UnknownClient,
    #[error("the secret does not match")]
    WrongSecret,
    #[error("the sign-in could not be checked")]
    Failed(#[source] ArmError),
}

/// The product behind the edge. Every method is one committed act, or none.
#[async_trait]
pub trait ArmBackend: Send + Sync + 'static {
    async fn put(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError>;
    async fn patch(&self, call: &Call, id: &ResourceId, body: Value) -> Result<Written, ArmError>;
    async fn delete(&self, call: &Call, id: &ResourceId) -> Result<Deleted, ArmError>;
    async fn get(&self, call: &Call, id: &ResourceId) -> Result<Value, ArmError>;
    async fn list(&self, call: &Call, parent: &ResourceId, collection: &ResourceType) -> Result<Listing, ArmError>;
    /// An action on a resource; on a provider (`checkNameAvailability`) `action` is `Namespace/action` and `id` the
    /// subscription or group.
    async fn action(&self, call: &Call, id: &ResourceId, action: &str, body: Value) -> Result<ActionReply, ArmError>;
    async fn operation(&self, call: &Call, subscription: &str, id: &str) -> Result<OperationView, ArmError>;

    fn providers(&self) -> Vec<ProviderInfo>;
    async fn tenants(&self, caller: &Caller) -> Result<Vec<Tenant>, ArmError>;
    async fn subscriptions(&self, caller: &Caller) -> Result<Vec<Subscription>, ArmError>;

    /// Whether a directory of this id or domain exists.
    async fn has_tenant(&self, tenant: &str) -> Result<bool, ArmError>;
    async fn sign_in_client(&self, tenant: &str, client_id: &str, secret: &str) -> Result<Caller, SignInError>;
    /// The principal of a token, if it still exists.
    async fn caller(&self, tenant: &str, object_id: &str) -> Result<Option<Caller>, ArmError>;
}
