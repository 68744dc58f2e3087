//! Tenants, subscriptions and the principals that sign in.
//!
//! Clients prove who they are (`client`), people give their password (`users`) on a page or to a client, or come back from another
//! provider (`external`), and go on with what that gave them (`sessions`, `device`). What is decided here is a sign-in only; rights are decided in `authorization`.

mod client;
mod device;
mod external;
mod federated;
mod interactive;
mod issuers;
mod machine;
mod operator;
mod sessions;
mod signing_keys;
mod users;

pub use client::ClientProof;
pub use device::{DEVICE_CODE_LIFE_SECONDS, DeviceCode, DeviceError, POLL_INTERVAL_SECONDS};
pub use external::{ExternalAnswer, ExternalError, ExternalSignIn, IdentityProvider, OfferedProvider, ProviderError};
pub use federated::FederationError;
pub use interactive::InteractiveClient;
pub use issuers::IssuerError;
pub use machine::{MachineIdentityError, TokenIssuer};
pub use operator::{NewClient, NewUser, OperatorError};
pub use sessions::{CodeRequest, GrantError, Resumed, Session};
pub use signing_keys::{KeyRotation, KeyView, PUBLISHED_BEFORE};
pub use users::{Home, SignedIn};

pub(crate) use client::{CERTIFICATE, SECRET, certificate_credential, secret_credential};
pub(crate) use federated::{FEDERATED, MAX_FEDERATED, Trust};
pub(crate) use issuers::Issuers;
pub(crate) use signing_keys::SigningKeys;
pub(crate) use users::{USER, hash_password, is_guest, is_login, normal};

use crate::authorization::access::Rights;
use crate::call::Caller;
use crate::directory::{GLOBAL_ADMINISTRATOR, SERVICE_PRINCIPAL};
use crate::{Engine, db_error};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_authz::assertion::AssertionError;
use lazuli_authz::rbac::{DATA_OPERATOR_FOR_MANAGED_DISKS, OWNER, STORAGE_BLOB_DATA_OWNER};
use lazuli_meta::WriteError;
use lazuli_meta::model::{Application, Change, Principal, RoleAssignment, Subscription, Tenant, Write};
use serde_json::json;
use uuid::Uuid;

/// Why nobody was signed in; the edge answers in the token endpoint's own words.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("there is no tenant '{0}'")]
    UnknownTenant(String),
    #[error("there is no application '{0}' in the tenant")]
    UnknownClient(String),
    #[error("the client secret is wrong")]
    WrongSecret,
    #[error(transparent)]
    Assertion(#[from] AssertionError),
    #[error(transparent)]
    Federation(#[from] FederationError),
    #[error("there is no user with this login and password")]
    WrongPassword,
    #[error("too many passwords were tried; wait some minutes")]
    LockedOut,
    #[error("the account is disabled")]
    Disabled,
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    External(#[from] ExternalError),
    #[error("the directory cannot be read")]
    Directory(#[from] ArmError),
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

/// The end of the first secret: the last moment of the year 9999.
const NEVER_MS: i64 = 253_402_300_799_000;

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
            client_secret: generate_secret()?,
        })
    }
}

/// A random secret or password, printable.
///
/// # Errors
/// If the machine has no randomness to give.
pub fn generate_secret() -> Result<String, ArmError> {
    lazuli_authz::secret::generate().map_err(|_| no_randomness())
}

/// What a secret, or what is counted of somebody, is looked up by in the database: a hash, told apart by its kind.
fn kept_as(kind: &str, text: &str) -> String {
    lazuli_authz::secret::fingerprint(&format!("{kind}\n{text}"))
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
            kind: SERVICE_PRINCIPAL.into(),
            secret_hash: String::new(),
            login: String::new(),
            body: json!({"directoryRoles": [GLOBAL_ADMINISTRATOR]}),
        };
        let mut changes = vec![Change::PutPrincipal(owner)];
        if db.application_by_app(&new.client_id).await.map_err(db_error)?.is_none() {
            changes.push(Change::PutApplication(Application {
                id: Uuid::new_v4().to_string(),
                tenant: new.tenant_id.clone(),
                app_id: new.client_id.clone(),
                body: json!({"displayName": "lazuli-owner"}),
            }));
        }
        if db.credentials(&new.client_id).await.map_err(db_error)?.is_empty() {
            changes.push(Change::PutCredential(client::kept_secret(&new.client_id, &new.client_secret, NEVER_MS)?));
        }
        db.write(Write { fence: None, changes }).await.map_err(|e| match e {
            WriteError::Conflict(conflict) => ArmError::internal(conflict),
            WriteError::Db(e) => db_error(e),
        })?;
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

    /// The principal a token speaks of, if it still exists.
    ///
    /// # Errors
    /// What the database says.
    pub async fn caller(&self, tenant: &str, object_id: &str) -> Result<Option<Caller>, ArmError> {
        self.reader(tenant, object_id, None).await
    }

    /// [`Engine::caller`] of a request that reads this resource: it comes with the same question to the database.
    ///
    /// # Errors
    /// What the database says.
    pub async fn reader(
        &self,
        tenant: &str,
        object_id: &str,
        id: Option<&ResourceId>,
    ) -> Result<Option<Caller>, ArmError> {
        // No row has a key with a zero byte, and databases do not take the question.
        let in_table =
            |id: &&ResourceId| !id.key().contains('\0') && self.provider_of(id).is_ok_and(|p| p.elsewhere().is_none());
        let (access, row) = match id.filter(in_table) {
            Some(id) => self.0.access.now_with(&id.key()).await.map_err(db_error)?,
            None => (self.access().await?, None),
        };
        let principal = access.principal(object_id).filter(|p| p.tenant.eq_ignore_ascii_case(tenant));
        let caller = principal.filter(|p| users::is_enabled(&access, p)).map(caller_of);
        Ok(caller.map(|caller| Caller { rights: Rights::of(&access, row), ..caller }))
    }

    /// The tenants that the caller may ask tokens for: its own, and those in which it is a guest.
    ///
    /// # Errors
    /// What the database says.
    pub async fn tenants(&self, caller: &Caller) -> Result<Vec<Tenant>, ArmError> {
        let access = self.access_of(caller).await?;
        let mut ids = vec![caller.tenant.as_str()];
        if let Some(person) = access.principal(&caller.principal) {
            ids.extend(users::tenants_of(&access, person));
        }
        Ok(access.tenants.iter().filter(|t| ids.contains(&t.id.as_str())).cloned().collect())
    }

    /// Every tenant of this server: what the sign-in pages may name.
    ///
    /// # Errors
    /// What the database says.
    pub async fn all_tenants(&self) -> Result<Vec<Tenant>, ArmError> {
        self.db().tenants().await.map_err(db_error)
    }

    /// The tenant of this id, in any letter case.
    ///
    /// # Errors
    /// What the database says.
    pub async fn tenant(&self, id: &str) -> Result<Option<Tenant>, ArmError> {
        Ok(self.all_tenants().await?.into_iter().find(|t| t.id.eq_ignore_ascii_case(id)))
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
        // Azure's messages name people by their login where clients are named by their id.
        app_id: if principal.app_id.is_empty() { principal.login.clone() } else { principal.app_id.clone() },
        display_name: principal.display_name.clone(),
        ..Caller::default()
    }
}
