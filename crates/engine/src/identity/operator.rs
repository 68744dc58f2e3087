//! What the server's operator does to identities, past every right: whoever reaches the database may do all of this anyway.
//!
//! Secrets are returned once and kept only as hashes.

use super::client::{self, SECRET, secret_credential};
use super::external;
use super::users::{self, USER};
use super::{Engine, db_error};
use crate::authorization::scope::Scope;
use crate::directory::{GLOBAL_ADMINISTRATOR, SERVICE_PRINCIPAL};
use crate::now_ms;
use lazuli_arm::ArmError;
use lazuli_authz::certificate::{Certificate, CertificateError};
use lazuli_authz::password::PasswordError;
use lazuli_authz::rbac::RoleDefinition;
use lazuli_meta::WriteError;
use lazuli_meta::model::{
    Application, Audit, Change, Conflict, Credential, Principal, RoleAssignment, Subscription, Tenant, Write,
};
use serde_json::json;
use uuid::Uuid;

/// Two years, as Azure's longest by default.
const SECRET_LIFE_MS: i64 = 2 * 365 * 24 * 3600 * 1000;

/// What the operator asked for and cannot have.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("there is no tenant '{0}'; `lazuli admin tenant list` shows them")]
    UnknownTenant(String),
    #[error("there is no client '{0}'; `lazuli admin client list` shows them")]
    UnknownClient(String),
    #[error("the client '{client}' is known in several tenants, but not in '{tenant}'")]
    NotInTenant { client: String, tenant: String },
    #[error("there is no role '{0}'")]
    UnknownRole(String),
    #[error("'{0}' is no scope: expected a subscription's id, `/subscriptions/…`, or `/` for the whole tenant")]
    UnknownScope(String),
    #[error("the client or login is known in that tenant already")]
    Exists,
    #[error("there is no user '{0}'; `lazuli admin user list` shows them")]
    UnknownUser(String),
    #[error("'{0}' is no login: expected NAME@DOMAIN, of at most 320 characters")]
    NotALogin(String),
    #[error("several tenants have a user '{0}'; name the tenant, or the object id")]
    SeveralUsers(String),
    #[error("several tenants know the client '{0}'; name its object id")]
    SeveralClients(String),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the certificate ended already")]
    CertificateEnded,
    #[error("'{0}' is no issuer: expected an https address, exactly as the provider names itself")]
    NotAnIssuer(String),
    #[error("the subject is missing")]
    NoSubject,
    #[error("the user '{0}' is signed in by this issuer and subject already")]
    LinkedToOther(String),
    #[error("the user '{0}' is a guest here: its password and its providers are those of its own tenant")]
    Guest(String),
    #[error("another process rotated the key at the same moment; nothing was changed by this one")]
    RotatedMeanwhile,
    #[error("{0}")]
    Failed(#[from] ArmError),
}

/// A user that was made, or given a new password.
#[derive(Debug, Clone)]
pub struct NewUser {
    pub tenant_id: String,
    pub object_id: String,
    pub login: String,
}

/// A service principal that was made.
#[derive(Debug, Clone)]
pub struct NewClient {
    pub tenant_id: String,
    pub object_id: String,
    pub client_id: String,
    /// Of a new client; one that was known keeps the secrets that it has.
    pub client_secret: Option<String>,
}

fn secret_of(client_id: &str) -> Result<(String, Credential), ArmError> {
    secret_credential(client_id, None, now_ms(), now_ms() + SECRET_LIFE_MS)
}

fn audit(tenant: &str, subscription: &str, key: &str, action: &str) -> Change {
    Change::Audit(Audit {
        id: Uuid::new_v4().to_string(),
        time_ms: now_ms(),
        correlation_id: Uuid::new_v4().to_string(),
        tenant: tenant.to_owned(),
        principal: "operator".to_owned(),
        subscription: subscription.to_owned(),
        resource_key: key.to_owned(),
        action: action.to_owned(),
        status: "Succeeded".to_owned(),
        detail: json!({}),
    })
}

/// What is a guest's is not its own tenant's to change.
fn require_home(user: &Principal) -> Result<(), OperatorError> {
    if users::is_guest(user) { Err(OperatorError::Guest(user.login.clone())) } else { Ok(()) }
}

/// The line of what is done to an object of a directory, in the words of [`crate::directory`].
fn of_object(tenant: &str, object: &str, action: &str) -> Change {
    let key = format!("/tenants/{tenant}/directory/{object}").to_ascii_lowercase();
    audit(tenant, "", &key, &format!("microsoft.directory/{action}"))
}

async fn hash_password(password: &str) -> Result<String, OperatorError> {
    Ok(users::hash_password(password).await??)
}

/// As it is kept.
fn normal_login(login: &str) -> Result<String, OperatorError> {
    let login = users::normal(login);
    if users::is_login(&login) { Ok(login) } else { Err(OperatorError::NotALogin(login)) }
}

impl Engine {
    /// Writes it together with its line in the activity log.
    async fn operator_write(&self, line: Change, mut changes: Vec<Change>) -> Result<(), OperatorError> {
        changes.push(line);
        self.db().write(Write { fence: None, changes }).await.map_err(|e| match e {
            WriteError::Conflict(Conflict::Exists { .. }) => OperatorError::Exists,
            WriteError::Conflict(conflict) => ArmError::internal(conflict).into(),
            WriteError::Db(e) => db_error(e).into(),
        })
    }

    async fn known_tenant(&self, id: &str) -> Result<Tenant, OperatorError> {
        self.tenant(id).await?.ok_or_else(|| OperatorError::UnknownTenant(id.to_owned()))
    }

    /// # Errors
    /// What the database says.
    pub async fn create_tenant(&self, display_name: &str) -> Result<Tenant, OperatorError> {
        let tenant = Tenant { id: Uuid::new_v4().to_string(), display_name: display_name.to_owned() };
        let line = of_object(&tenant.id, &tenant.id, "tenants/create");
        self.operator_write(line, vec![Change::PutTenant(tenant.clone())]).await?;
        Ok(tenant)
    }

    /// # Errors
    /// [`OperatorError::UnknownTenant`].
    pub async fn create_subscription(&self, tenant: &str, display_name: &str) -> Result<Subscription, OperatorError> {
        let tenant = self.known_tenant(tenant).await?;
        let subscription = Subscription {
            id: Uuid::new_v4().to_string(),
            tenant: tenant.id,
            display_name: display_name.to_owned(),
            state: "Enabled".to_owned(),
        };
        let key = format!("/subscriptions/{}", subscription.id);
        let line = audit(&subscription.tenant, &subscription.id, &key, "Microsoft.Subscription/subscriptions/write");
        self.operator_write(line, vec![Change::PutSubscription(subscription.clone())]).await?;
        Ok(subscription)
    }

    /// Every subscription of the server, ordered by id.
    ///
    /// # Errors
    /// What the database says.
    pub async fn all_subscriptions(&self) -> Result<Vec<Subscription>, OperatorError> {
        Ok(self.db().all_subscriptions().await.map_err(db_error)?)
    }

    /// Every principal that signs in with a client id, ordered by object id. Their hashes are left out.
    ///
    /// # Errors
    /// What the database says.
    pub async fn all_clients(&self) -> Result<Vec<Principal>, OperatorError> {
        let all = self.db().principals().await.map_err(db_error)?;
        let clients = all.into_iter().filter(|p| !p.app_id.is_empty());
        Ok(clients.map(|p| Principal { secret_hash: String::new(), ..p }).collect())
    }

    /// A service principal in a tenant: of a new client, which is registered as an application there, or of one that another tenant knows, which then signs in to both with
    /// the same secrets.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn create_client(
        &self,
        tenant: &str,
        display_name: &str,
        known: Option<&str>,
    ) -> Result<NewClient, OperatorError> {
        let tenant = self.known_tenant(tenant).await?;
        let known = match known {
            Some(client) => Some(self.client(client, None).await?),
            None => None,
        };
        let client_id = known.as_ref().map_or_else(|| Uuid::new_v4().to_string(), |k| k.app_id.clone());
        let principal = Principal {
            id: Uuid::new_v4().to_string(),
            tenant: tenant.id.clone(),
            app_id: client_id.clone(),
            display_name: display_name.to_owned(),
            kind: SERVICE_PRINCIPAL.to_owned(),
            secret_hash: String::new(),
            login: String::new(),
            body: json!({}),
        };
        let mut changes = vec![Change::PutPrincipal(principal.clone())];
        let mut client_secret = None;
        if known.is_none() {
            let (secret, credential) = secret_of(&client_id)?;
            changes.push(Change::PutApplication(Application {
                id: Uuid::new_v4().to_string(),
                tenant: tenant.id.clone(),
                app_id: client_id.clone(),
                body: json!({"displayName": display_name, "createdMs": now_ms()}),
            }));
            changes.push(Change::PutCredential(credential));
            client_secret = Some(secret);
        }
        self.operator_write(of_object(&tenant.id, &principal.id, "servicePrincipals/create"), changes).await?;
        Ok(NewClient { tenant_id: tenant.id, object_id: principal.id, client_id, client_secret })
    }

    async fn client(&self, client: &str, tenant: Option<&str>) -> Result<Principal, OperatorError> {
        let all = self.db().principals().await.map_err(db_error)?;
        let same = |p: &Principal| p.app_id.eq_ignore_ascii_case(client) || p.id.eq_ignore_ascii_case(client);
        let found: Vec<Principal> = all.into_iter().filter(same).collect();
        let first = found.first().cloned().ok_or_else(|| OperatorError::UnknownClient(client.to_owned()))?;
        let Some(tenant) = tenant else { return Ok(first) };
        found
            .into_iter()
            .find(|p| p.tenant.eq_ignore_ascii_case(tenant))
            .ok_or_else(|| OperatorError::NotInTenant { client: client.to_owned(), tenant: tenant.to_owned() })
    }

    /// As [`Engine::client`]; one that several tenants know must be named by its object id, or with the tenant.
    async fn only_client(&self, client: &str, tenant: Option<&str>) -> Result<Principal, OperatorError> {
        let found = self.client(client, tenant).await?;
        let by_id = found.id.eq_ignore_ascii_case(client);
        let access = self.access().await?;
        let namesakes = access.principals.values().filter(|p| p.app_id.eq_ignore_ascii_case(client)).count();
        if tenant.is_none() && !by_id && namesakes > 1 {
            return Err(OperatorError::SeveralClients(client.to_owned()));
        }
        Ok(found)
    }

    /// A new secret for a client, in every tenant that knows it. Unless they are to be kept, its other secrets end now; tokens that
    /// were issued live on until they expire.
    ///
    /// # Errors
    /// [`OperatorError::UnknownClient`].
    pub async fn reset_secret(&self, client: &str, keep_others: bool) -> Result<String, OperatorError> {
        let known = self.client(client, None).await?;
        let client_id = known.app_id;
        let (secret, credential) = secret_of(&client_id)?;
        let mut changes = Vec::new();
        if !keep_others {
            let kept = self.db().credentials(&client_id).await.map_err(db_error)?;
            let secrets = kept.into_iter().filter(|c| c.kind == SECRET);
            changes.extend(secrets.map(|old| Change::DeleteCredential { id: old.id }));
        }
        changes.push(Change::PutCredential(credential));
        self.operator_write(of_object(&known.tenant, &known.id, "applications/credentials/update"), changes).await?;
        Ok(secret)
    }

    /// A certificate with which a client signs in, beside its other credentials. Returns its thumbprint.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn add_certificate(&self, client: &str, pem: &str) -> Result<String, OperatorError> {
        let known = self.client(client, None).await?;
        let certificate = Certificate::from_pem(pem)?;
        if certificate.not_after.saturating_mul(1000) <= now_ms() {
            return Err(OperatorError::CertificateEnded);
        }
        let credential = client::certificate_credential(&known.app_id, &certificate);
        let line = of_object(&known.tenant, &known.id, "applications/credentials/update");
        self.operator_write(line, vec![Change::PutCredential(credential)]).await?;
        Ok(certificate.thumbprint())
    }

    /// A person of a tenant. The password is hashed here.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn create_user(
        &self,
        tenant: &str,
        login: &str,
        display_name: &str,
        password: &str,
    ) -> Result<NewUser, OperatorError> {
        let tenant = self.known_tenant(tenant).await?;
        let login = normal_login(login)?;
        let principal = Principal {
            id: Uuid::new_v4().to_string(),
            tenant: tenant.id.clone(),
            app_id: String::new(),
            display_name: display_name.to_owned(),
            kind: USER.to_owned(),
            secret_hash: hash_password(password).await?,
            login: login.clone(),
            body: json!({"accountEnabled": true}),
        };
        let object_id = principal.id.clone();
        let line = of_object(&tenant.id, &object_id, "users/create");
        self.operator_write(line, vec![Change::PutPrincipal(principal)]).await?;
        Ok(NewUser { tenant_id: tenant.id, object_id, login })
    }

    /// A guest: a user of another tenant, who signs in to this one with what it has there. `home` where several tenants have the login.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn invite_user(&self, tenant: &str, user: &str, home: Option<&str>) -> Result<NewUser, OperatorError> {
        let tenant = self.known_tenant(tenant).await?;
        let home = self.user(home, user).await?;
        require_home(&home)?;
        if home.tenant.eq_ignore_ascii_case(&tenant.id) {
            return Err(OperatorError::Exists);
        }
        let guest = Principal {
            id: Uuid::new_v4().to_string(),
            tenant: tenant.id.clone(),
            secret_hash: String::new(),
            body: users::guest_body(&home),
            ..home
        };
        let made = NewUser { tenant_id: tenant.id.clone(), object_id: guest.id.clone(), login: guest.login.clone() };
        let line = of_object(&tenant.id, &guest.id, "users/inviteGuest");
        self.operator_write(line, vec![Change::PutPrincipal(guest)]).await?;
        Ok(made)
    }

    /// A person of a tenant without a password, whom another provider signs in.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn create_external_user(
        &self,
        tenant: &str,
        login: &str,
        display_name: &str,
        issuer: &str,
        subject: &str,
    ) -> Result<NewUser, OperatorError> {
        let tenant = self.known_tenant(tenant).await?;
        let login = normal_login(login)?;
        let principal = external::new_user(&tenant.id, &login, display_name, issuer, subject);
        self.require_free_identity(&principal, issuer, subject).await?;
        let object_id = principal.id.clone();
        let line = of_object(&tenant.id, &object_id, "users/create");
        self.operator_write(line, vec![Change::PutPrincipal(principal)]).await?;
        Ok(NewUser { tenant_id: tenant.id, object_id, login })
    }

    /// Lets another provider sign a user in, or no longer.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn link_user(
        &self,
        tenant: Option<&str>,
        user: &str,
        issuer: &str,
        subject: &str,
        linked: bool,
    ) -> Result<NewUser, OperatorError> {
        let mut principal = self.user(tenant, user).await?;
        require_home(&principal)?;
        if linked {
            self.require_free_identity(&principal, issuer, subject).await?;
        } else {
            // What was begun with it ends.
            principal.body["sessionsFromMs"] = json!(now_ms());
        }
        external::link(&mut principal, issuer, subject, linked);
        let shown = NewUser {
            tenant_id: principal.tenant.clone(),
            object_id: principal.id.clone(),
            login: principal.login.clone(),
        };
        let line = of_object(&shown.tenant_id, &shown.object_id, "users/identities/update");
        self.operator_write(line, vec![Change::PutPrincipal(principal)]).await?;
        Ok(shown)
    }

    async fn require_free_identity(
        &self,
        principal: &Principal,
        issuer: &str,
        subject: &str,
    ) -> Result<(), OperatorError> {
        if !self.may_trust(issuer) {
            return Err(OperatorError::NotAnIssuer(issuer.to_owned()));
        }
        if subject.is_empty() {
            return Err(OperatorError::NoSubject);
        }
        let all = self.db().principals().await.map_err(db_error)?;
        match external::user_of(all.iter(), &principal.tenant, issuer, subject) {
            Some(other) if other.id != principal.id => Err(OperatorError::LinkedToOther(other.login.clone())),
            _ => Ok(()),
        }
    }

    /// A new password for a user; whatever was begun with the old one ends. `tenant` where several have the login.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn reset_password(
        &self,
        tenant: Option<&str>,
        user: &str,
        password: &str,
    ) -> Result<NewUser, OperatorError> {
        let mut principal = self.user(tenant, user).await?;
        require_home(&principal)?;
        principal.secret_hash = hash_password(password).await?;
        principal.body["sessionsFromMs"] = json!(now_ms());
        let made = NewUser {
            tenant_id: principal.tenant.clone(),
            object_id: principal.id.clone(),
            login: principal.login.clone(),
        };
        let line = of_object(&made.tenant_id, &made.object_id, "users/password/update");
        self.operator_write(line, vec![Change::PutPrincipal(principal)]).await?;
        Ok(made)
    }

    /// Lets a user sign in, or refuses it and everything that was begun.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn enable_user(&self, tenant: Option<&str>, user: &str, enabled: bool) -> Result<(), OperatorError> {
        let mut principal = self.user(tenant, user).await?;
        principal.body["accountEnabled"] = json!(enabled);
        let action = if enabled { "users/enable" } else { "users/disable" };
        let line = of_object(&principal.tenant, &principal.id, action);
        self.operator_write(line, vec![Change::PutPrincipal(principal)]).await
    }

    /// Every user, ordered by object id. Their hashes are left out.
    ///
    /// # Errors
    /// What the database says.
    pub async fn all_users(&self) -> Result<Vec<Principal>, OperatorError> {
        let all = self.db().principals().await.map_err(db_error)?;
        let users = all.into_iter().filter(|p| p.kind == USER);
        Ok(users.map(|p| Principal { secret_hash: String::new(), ..p }).collect())
    }

    async fn user(&self, tenant: Option<&str>, user: &str) -> Result<Principal, OperatorError> {
        let login = users::normal(user);
        let all = self.db().principals().await.map_err(db_error)?;
        let same = |p: &Principal| {
            let named = p.id.eq_ignore_ascii_case(user);
            let fits = tenant.map_or(named || !users::is_guest(p), |t| p.tenant.eq_ignore_ascii_case(t));
            p.kind == USER && (named || p.login == login) && fits
        };
        let mut found = all.into_iter().filter(same);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(OperatorError::UnknownUser(user.to_owned())),
            (Some(_), Some(_)) => Err(OperatorError::SeveralUsers(user.to_owned())),
        }
    }

    /// Makes a client or a user an administrator of its tenant's directory, or no longer one.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn set_administrator(
        &self,
        tenant: Option<&str>,
        principal: &str,
        administers: bool,
    ) -> Result<Principal, OperatorError> {
        let mut found = match self.user(tenant, principal).await {
            Err(OperatorError::UnknownUser(_)) => self.client(principal, tenant).await?,
            user => user?,
        };
        let roles = if administers { json!([GLOBAL_ADMINISTRATOR]) } else { json!([]) };
        found.body["directoryRoles"] = roles;
        let line = of_object(&found.tenant, &found.id, "roleAssignments/allProperties/update");
        self.operator_write(line, vec![Change::PutPrincipal(found.clone())]).await?;
        Ok(Principal { secret_hash: String::new(), ..found })
    }

    /// Who administers directories, ordered by object id. Hashes are left out.
    ///
    /// # Errors
    /// What the database says.
    pub async fn administrators(&self) -> Result<Vec<Principal>, OperatorError> {
        let all = self.db().principals().await.map_err(db_error)?;
        let those = all.into_iter().filter(crate::directory::administers);
        Ok(those.map(|p| Principal { secret_hash: String::new(), ..p }).collect())
    }

    /// Gives a client or a user a role at a subscription, below it (by a whole id), or at all of its tenant: `/`, or the management
    /// group at the tenant's root. What it has already is no error.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn grant_role(&self, client: &str, role: &str, scope: &str) -> Result<(), OperatorError> {
        let access = self.access().await?;
        let scope = if scope.starts_with('/') { scope.to_owned() } else { format!("/subscriptions/{scope}") };
        let unknown = || OperatorError::UnknownScope(scope.clone());
        let parsed = Scope::parse(&scope).map_err(|_| unknown())?;
        let subscription = crate::authorization::access::subscription_of(&scope).and_then(|s| access.subscription(s));
        let tenant = match &parsed {
            // That of the principal.
            Scope::Root => None,
            Scope::ManagementGroup(name) => {
                let tenant = access.tenants.iter().find(|t| t.id.eq_ignore_ascii_case(name));
                Some(tenant.ok_or_else(unknown)?.id.as_str())
            }
            Scope::Resource(_) => Some(subscription.ok_or_else(unknown)?.tenant.as_str()),
        };
        let principal = match self.user(tenant, client).await {
            Ok(user) => user,
            Err(several @ OperatorError::SeveralUsers(_)) => return Err(several),
            Err(_) => self.only_client(client, tenant).await?,
        };
        let same = |r: &RoleDefinition| r.role_name.eq_ignore_ascii_case(role) || r.name.eq_ignore_ascii_case(role);
        let found = access.roles_of(&principal.tenant).find(|(r, _)| same(r));
        let (role, _) = found.ok_or_else(|| OperatorError::UnknownRole(role.to_owned()))?;
        let id = Uuid::new_v4().to_string();
        let prefix = parsed.prefix().to_ascii_lowercase();
        let key = format!("{prefix}/providers/microsoft.authorization/roleassignments/{id}");
        let assignment = RoleAssignment {
            id,
            scope: parsed.key(),
            role: role.name.clone(),
            principal: principal.id,
            body: json!({"scope": parsed.shown(), "createdOn": crate::time_text(now_ms())}),
        };
        let line = audit(
            &principal.tenant,
            &subscription.map(|s| s.id.to_ascii_lowercase()).unwrap_or_default(),
            &key,
            "Microsoft.Authorization/roleAssignments/write",
        );
        match self.operator_write(line, vec![Change::PutRoleAssignment(assignment)]).await {
            Err(OperatorError::Exists) => Ok(()),
            other => other,
        }
    }
}
