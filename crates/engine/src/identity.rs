//! Tenants, subscriptions and the principals that sign in. (Users, groups and managed identities come with the directory.)

mod operator;

pub use operator::{NewClient, OperatorError};

use crate::authorization::access::Rights;
use crate::call::Caller;
use crate::{Engine, db_error};
use lazuli_arm::ArmError;
use lazuli_authz::rbac::{DATA_OPERATOR_FOR_MANAGED_DISKS, OWNER, STORAGE_BLOB_DATA_OWNER};
use lazuli_meta::model::{Principal, RoleAssignment, Subscription, Tenant};
use serde_json::json;
use uuid::Uuid;

/// Why a client did not get a token; the edge answers in the token endpoint's own words.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("there is no tenant '{0}'")]
    UnknownTenant(String),
    #[error("there is no application '{0}' in the tenant")]
    UnknownClient(String),
    #[error("the client secret is wrong")]
    WrongSecret,
    #[error("the directory cannot be read")]
    Directory(#[source] ArmError),
}

/// The first tenant, subscription and owner. Whoever keeps the credentials writes them down before they take effect, so that a
/// start that was cut short can be begun again with the same ones.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub tenant_id: String,
    pub subscription_id: String,
    pub object_id: String,
    pub client_id: String,
    pub client_secret: String,
}

/// Setting: the tenant of the server's operator.
pub(crate) const BOOTSTRAPPED: &str = "bootstrapped";

impl Bootstrap {
    /// # Errors
    /// If the machine has no randomness to give.
    pub fn generate() -> Result<Self, ArmError> {
        let id = || Uuid::new_v4().to_string();
        Ok(Self {
            tenant_id: id(),
            subscription_id: id(),
            object_id: id(),
            client_id: id(),
            client_secret: lazuli_authz::secret::generate().map_err(|_| no_randomness())?,
        })
    }
}

fn no_randomness() -> ArmError {
    ArmError::internal("the machine gives no random bytes")
}

impl Engine {
    /// Whether the first tenant was made.
    ///
    /// # Errors
    /// What the database says.
    pub async fn is_bootstrapped(&self) -> Result<bool, ArmError> {
        Ok(self.db().setting(BOOTSTRAPPED).await.map_err(db_error)?.is_some())
    }

    /// Makes the first tenant, its subscription and an owner service principal.
    ///
    /// # Errors
    /// What the database says.
    pub async fn bootstrap(&self, new: &Bootstrap) -> Result<(), ArmError> {
        let db = self.db();
        let tenant = Tenant { id: new.tenant_id.clone(), display_name: "Lazuli".into() };
        db.put_tenant(&tenant).await.map_err(db_error)?;
        let subscription = Subscription {
            id: new.subscription_id.clone(),
            tenant: new.tenant_id.clone(),
            display_name: "Lazuli".into(),
            state: "Enabled".into(),
        };
        db.put_subscription(&subscription).await.map_err(db_error)?;
        let owner = Principal {
            id: new.object_id.clone(),
            tenant: new.tenant_id.clone(),
            app_id: new.client_id.clone(),
            display_name: "lazuli-owner".into(),
            kind: "ServicePrincipal".into(),
            secret_hash: lazuli_authz::secret::hash(&new.client_secret).map_err(|_| no_randomness())?,
            login: String::new(),
            body: json!({}),
        };
        db.put_principal(&owner).await.map_err(db_error)?;
        let scope = format!("/subscriptions/{}", new.subscription_id);
        let existing = db.role_assignments(Some(&new.object_id), Some(&scope)).await.map_err(db_error)?;
        // Owners have no data actions: without the other roles the first principal could not read a blob or a disk with its
        // token.
        for role in [OWNER, STORAGE_BLOB_DATA_OWNER, DATA_OPERATOR_FOR_MANAGED_DISKS] {
            if !existing.iter().any(|a| a.role == role) {
                let assignment = RoleAssignment {
                    id: Uuid::new_v4().to_string(),
                    scope: scope.clone(),
                    role: role.into(),
                    principal: new.object_id.clone(),
                    body: json!({}),
                };
                db.put_role_assignment(&assignment).await.map_err(ArmError::internal)?;
            }
        }
        db.put_setting(BOOTSTRAPPED, &new.tenant_id, true).await.map_err(db_error)?;
        Ok(())
    }

    /// Who signs in with this secret.
    ///
    /// # Errors
    /// [`SignInError`].
    pub async fn sign_in_client(&self, tenant: &str, client_id: &str, secret: &str) -> Result<Caller, SignInError> {
        let directory = |e| SignInError::Directory(db_error(e));
        let tenants = self.db().tenants().await.map_err(directory)?;
        let Some(tenant) = tenants.iter().find(|t| t.id.eq_ignore_ascii_case(tenant)) else {
            return Err(SignInError::UnknownTenant(tenant.to_owned()));
        };
        let client_id = client_id.to_ascii_lowercase();
        let Some(principal) = self.db().principal_by_app(&tenant.id, &client_id).await.map_err(directory)? else {
            return Err(SignInError::UnknownClient(client_id));
        };
        let kept = self.db().credentials(&client_id).await.map_err(directory)?;
        let now = crate::now_ms();
        let mut stored: Vec<String> = kept
            .into_iter()
            .filter(|c| c.kind == operator::SECRET && c.expires_ms > now)
            // What a secret begins with is kept with its hash: only one hash is slow work, however many secrets there are.
            .filter(|c| c.body["hint"].as_str().is_none_or(|hint| secret.starts_with(hint)))
            .map(|c| c.verifier)
            .collect();
        stored.extend(Some(principal.secret_hash.clone()).filter(|h| !h.is_empty()));
        let secret = secret.to_owned();
        // The hash is slow on purpose; it must not hold up the other requests of its thread.
        let verified =
            tokio::task::spawn_blocking(move || stored.iter().any(|hash| lazuli_authz::secret::verify(&secret, hash)))
                .await;
        if !verified.unwrap_or(false) {
            return Err(SignInError::WrongSecret);
        }
        Ok(caller_of(&principal))
    }

    /// The principal a token speaks of, if it still exists.
    ///
    /// # Errors
    /// What the database says.
    pub async fn caller(&self, tenant: &str, object_id: &str) -> Result<Option<Caller>, ArmError> {
        let access = self.access().await?;
        let principal = access.principal(object_id).filter(|p| p.tenant.eq_ignore_ascii_case(tenant));
        let caller = principal.filter(|p| p.body["accountEnabled"] != false).map(caller_of);
        Ok(caller.map(|caller| Caller { rights: Rights::of(&access), ..caller }))
    }

    /// The tenants that the caller's tokens are of.
    ///
    /// # Errors
    /// What the database says.
    pub async fn tenants(&self, caller: &Caller) -> Result<Vec<Tenant>, ArmError> {
        let access = self.access_of(caller).await?;
        Ok(access.tenants.iter().filter(|t| t.id == caller.tenant).cloned().collect())
    }

    /// Every tenant of this server: what the sign-in pages may name.
    ///
    /// # Errors
    /// What the database says.
    pub async fn all_tenants(&self) -> Result<Vec<Tenant>, ArmError> {
        self.db().tenants().await.map_err(db_error)
    }

    /// The subscriptions on which (or below which) the caller has a role, ordered by id.
    ///
    /// # Errors
    /// What the database says.
    pub async fn subscriptions(&self, caller: &Caller) -> Result<Vec<Subscription>, ArmError> {
        let access = self.access_of(caller).await?;
        let reached = |s: &&Subscription| {
            s.tenant.eq_ignore_ascii_case(&caller.tenant)
                && access.reaches(&caller.principal, &format!("/subscriptions/{}", s.id))
        };
        let mut all: Vec<Subscription> = access.subscriptions.values().filter(reached).cloned().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }
}

fn caller_of(principal: &Principal) -> Caller {
    Caller {
        tenant: principal.tenant.clone(),
        principal: principal.id.clone(),
        app_id: principal.app_id.clone(),
        display_name: principal.display_name.clone(),
        ..Caller::default()
    }
}
