//! The directory of a tenant as Microsoft Graph shows and changes it: users, groups, applications, service principals.
//!
//! Everything is of the caller's own tenant: objects of another one do not exist here, whatever tokens a request brings. Who may
//! change what is in `docs/rfd/0008-directory.md`. A secret is in the answer that made it and nowhere else.
//!
//! A write is decided on one state of the identities and committed on that state only; where it changed meanwhile, it is decided
//! again. So names stay unique and the last administrator stays one, through however many processes.

mod applications;
mod credentials;
mod error;
mod federated;
mod groups;
mod links;
mod properties;
mod service_principals;
mod show;
mod users;

pub use error::DirectoryError;
pub use links::Relation;

use crate::authorization::access::Access;
use crate::call::Caller;
use crate::{Engine, db_error, now_ms};
use lazuli_meta::WriteError;
use lazuli_meta::model::{Application, Audit, Change, Conflict, Credential, Principal, Write};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// Id of Entra's role `Global Administrator`: who has it may change everything in the directory of its tenant.
pub(crate) const GLOBAL_ADMINISTRATOR: &str = "62e90394-69f5-4237-9190-012177145e10";

/// [`Principal::kind`]s.
pub(crate) const GROUP: &str = "Group";
pub(crate) const SERVICE_PRINCIPAL: &str = "ServicePrincipal";
pub(crate) const MANAGED_IDENTITY: &str = "ManagedIdentity";

/// What the directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    User,
    Group,
    Application,
    /// Managed identities too.
    ServicePrincipal,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::User, Self::Group, Self::Application, Self::ServicePrincipal];

    /// As in addresses: `users`.
    pub fn collection(self) -> &'static str {
        match self {
            Self::User => "users",
            Self::Group => "groups",
            Self::Application => "applications",
            Self::ServicePrincipal => "servicePrincipals",
        }
    }

    /// As in `#microsoft.graph.user`.
    pub fn entity(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Application => "application",
            Self::ServicePrincipal => "servicePrincipal",
        }
    }

    fn is_of(self, principal: &Principal) -> bool {
        match self {
            Self::User => principal.kind == crate::identity::USER,
            Self::Group => principal.kind == GROUP,
            Self::Application => false,
            Self::ServicePrincipal => [SERVICE_PRINCIPAL, MANAGED_IDENTITY].contains(&principal.kind.as_str()),
        }
    }

    fn of(principal: &Principal) -> Self {
        match principal.kind.as_str() {
            crate::identity::USER => Self::User,
            GROUP => Self::Group,
            _ => Self::ServicePrincipal,
        }
    }
}

/// How a request names an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Object id; of users also their principal name.
    Id(String),
    AppId(String),
}

impl Key {
    fn text(&self) -> &str {
        match self {
            Self::Id(text) | Self::AppId(text) => text,
        }
    }
}

/// A tenant's directory as one caller may use it.
#[derive(Clone, Copy)]
pub struct Directory<'a> {
    engine: &'a Engine,
    caller: &'a Caller,
    correlation_id: &'a str,
}

impl Engine {
    /// The directory of the caller's tenant.
    pub fn directory<'a>(&'a self, caller: &'a Caller, correlation_id: &'a str) -> Directory<'a> {
        Directory { engine: self, caller, correlation_id }
    }
}

/// Whether somebody administers the directory. The role is given to principals alone, never to groups: else whoever owns the group
/// would hold it.
pub(crate) fn administers(principal: &Principal) -> bool {
    let roles = principal.body["directoryRoles"].as_array();
    principal.body["accountEnabled"] != false && roles.is_some_and(|all| all.iter().any(|r| r == GLOBAL_ADMINISTRATOR))
}

/// Whether nobody could change the directory of its tenant any more without this principal.
fn is_last_administrator(access: &Access, principal: &Principal) -> bool {
    let other = |p: &Principal| p.tenant == principal.tenant && p.id != principal.id && administers(p);
    administers(principal) && !access.principals.values().any(other)
}

fn require_not_last(access: &Access, principal: &Principal) -> Result<(), DirectoryError> {
    if is_last_administrator(access, principal) {
        return Err(DirectoryError::bad("The last administrator of the directory cannot be removed or disabled."));
    }
    Ok(())
}

fn owns(body: &Value, principal: &str) -> bool {
    let owners = body["owners"].as_array().into_iter().flatten();
    owners.filter_map(Value::as_str).any(|o| o.eq_ignore_ascii_case(principal))
}

impl<'a> Directory<'a> {
    /// As at the begin of the request: for what is only shown.
    async fn seen(&self) -> Result<Arc<Access>, DirectoryError> {
        Ok(self.engine.access_of(self.caller).await?)
    }

    /// As it is now: for what a write is decided on.
    async fn now(&self) -> Result<Arc<Access>, DirectoryError> {
        Ok(self.engine.access().await?)
    }

    fn is_mine(&self, tenant: &str) -> bool {
        tenant.eq_ignore_ascii_case(&self.caller.tenant)
    }

    fn is_administrator(&self, access: &Access) -> bool {
        access.principal(&self.caller.principal).is_some_and(|p| self.is_mine(&p.tenant) && administers(p))
    }

    fn require_administrator(&self, access: &Access) -> Result<(), DirectoryError> {
        if self.is_administrator(access) { Ok(()) } else { Err(DirectoryError::Denied) }
    }

    /// Administrators, and people: an application or a group of one's own opens nothing by itself.
    fn require_person(&self, access: &Access) -> Result<(), DirectoryError> {
        let person = access.principal(&self.caller.principal).is_some_and(|p| Kind::User.is_of(p));
        if person { Ok(()) } else { self.require_administrator(access) }
    }

    fn require_owner(&self, access: &Access, body: &Value) -> Result<(), DirectoryError> {
        if owns(body, &self.caller.principal) { Ok(()) } else { self.require_administrator(access) }
    }

    /// Owners of a service principal, or of its application where that is registered in this tenant.
    fn require_owner_of(&self, access: &Access, principal: &Principal) -> Result<(), DirectoryError> {
        let application = access.application(&principal.app_id).filter(|a| self.is_mine(&a.tenant));
        if application.is_some_and(|a| owns(&a.body, &self.caller.principal)) {
            return Ok(());
        }
        self.require_owner(access, &principal.body)
    }

    fn principal<'b>(&self, access: &'b Access, kind: Kind, key: &Key) -> Result<&'b Principal, DirectoryError> {
        let fits = |p: &&Principal| self.is_mine(&p.tenant) && kind.is_of(p);
        let mut all = access.principals.values().filter(fits);
        let found = match key {
            Key::Id(id) => access.principal(id).filter(fits).or_else(|| {
                let login = crate::identity::normal(id);
                all.find(|p| !p.login.is_empty() && p.login == login)
            }),
            Key::AppId(app) => all.find(|p| !app.is_empty() && p.app_id.eq_ignore_ascii_case(app)),
        };
        found.ok_or_else(|| DirectoryError::NotFound(key.text().to_owned()))
    }

    fn application<'b>(&self, access: &'b Access, key: &Key) -> Result<&'b Application, DirectoryError> {
        let mut mine = access.applications.values().filter(|a| self.is_mine(&a.tenant));
        let found = match key {
            Key::Id(id) => mine.find(|a| a.id.eq_ignore_ascii_case(id)),
            Key::AppId(app) => mine.find(|a| a.app_id.eq_ignore_ascii_case(app)),
        };
        found.ok_or_else(|| DirectoryError::NotFound(key.text().to_owned()))
    }

    /// Writes what was decided on `access`, with a line in the log of what was done. `false`: the identities changed meanwhile,
    /// decide again.
    async fn commit(
        &self,
        access: &Access,
        changes: Vec<Change>,
        action: &str,
        target: &str,
    ) -> Result<bool, DirectoryError> {
        let line = Change::Audit(Audit {
            id: Uuid::new_v4().to_string(),
            time_ms: now_ms(),
            correlation_id: self.correlation_id.to_owned(),
            tenant: self.caller.tenant.clone(),
            principal: self.caller.principal.clone(),
            subscription: String::new(),
            resource_key: format!("/tenants/{}/directory/{target}", self.caller.tenant).to_ascii_lowercase(),
            action: format!("microsoft.directory/{action}"),
            status: "Succeeded".to_owned(),
            detail: json!({}),
        });
        let mut all = vec![Change::RequireIdentity { changes: access.changes }];
        all.extend(changes);
        all.push(line);
        match self.engine.db().write(Write { fence: None, changes: all }).await {
            Ok(()) => Ok(true),
            Err(WriteError::Conflict(Conflict::Etag { .. })) => Ok(false),
            Err(WriteError::Conflict(conflict)) => Err(lazuli_arm::ArmError::internal(conflict).into()),
            Err(WriteError::Db(e)) => Err(db_error(e).into()),
        }
    }

    /// All of a kind, ordered by id, with every property.
    ///
    /// # Errors
    /// What the database says.
    pub async fn list(&self, kind: Kind) -> Result<Vec<Value>, DirectoryError> {
        let access = self.seen().await?;
        let kept = match kind {
            Kind::User | Kind::Group => HashMap::new(),
            Kind::Application | Kind::ServicePrincipal => self.all_credentials().await?,
        };
        let of = |owner: &str| kept.get(owner).map_or(&[][..], Vec::as_slice);
        let mut all: Vec<Value> = match kind {
            Kind::Application => {
                let mine = access.applications.values().filter(|a| self.is_mine(&a.tenant));
                mine.map(|a| show::application(a, Some(of(&a.app_id)))).collect()
            }
            _ => {
                let mine = access.principals.values().filter(|p| self.is_mine(&p.tenant) && kind.is_of(p));
                mine.map(|p| show::principal(&access, p, Some(of(&p.id)))).collect()
            }
        };
        all.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
        Ok(all)
    }

    async fn all_credentials(&self) -> Result<HashMap<String, Vec<Credential>>, DirectoryError> {
        let mut kept: HashMap<String, Vec<Credential>> = HashMap::new();
        for credential in self.engine.db().all_credentials().await.map_err(db_error)? {
            kept.entry(credential.owner.clone()).or_default().push(credential);
        }
        Ok(kept)
    }

    /// # Errors
    /// [`DirectoryError::NotFound`].
    pub async fn get(&self, kind: Kind, key: &Key) -> Result<Value, DirectoryError> {
        let access = self.seen().await?;
        if kind == Kind::Application {
            let application = self.application(&access, key)?;
            let kept = self.engine.db().credentials(&application.app_id).await.map_err(db_error)?;
            return Ok(show::application(application, Some(&kept)));
        }
        let principal = self.principal(&access, kind, key)?;
        let kept = self.engine.db().credentials(&principal.id).await.map_err(db_error)?;
        Ok(show::principal(&access, principal, Some(&kept)))
    }

    /// What was made, as [`Directory::get`] shows it.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn create(&self, kind: Kind, body: &Value) -> Result<Value, DirectoryError> {
        match kind {
            Kind::User => self.create_user(body).await,
            Kind::Group => self.create_group(body).await,
            Kind::Application => self.create_application(body).await,
            Kind::ServicePrincipal => self.create_service_principal(body).await,
        }
    }

    /// Changes the properties that are given; `null` takes one away.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn update(&self, kind: Kind, key: &Key, body: &Value) -> Result<(), DirectoryError> {
        match kind {
            Kind::User => self.update_user(key, body).await,
            Kind::Group => self.update_group(key, body).await,
            Kind::Application => self.update_application(key, body).await,
            Kind::ServicePrincipal => self.update_service_principal(key, body).await,
        }
    }

    /// With everything that hangs on it: credentials, memberships, role assignments.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn delete(&self, kind: Kind, key: &Key) -> Result<(), DirectoryError> {
        match kind {
            Kind::User => self.delete_user(key).await,
            Kind::Group => self.delete_group(key).await,
            Kind::Application => self.delete_application(key).await,
            Kind::ServicePrincipal => self.delete_service_principal(key).await,
        }
    }

    /// The kind of an object of which only the id is known.
    ///
    /// # Errors
    /// [`DirectoryError::NotFound`].
    pub async fn kind_of(&self, id: &str) -> Result<Kind, DirectoryError> {
        let access = self.seen().await?;
        if let Some(principal) = access.principal(id).filter(|p| self.is_mine(&p.tenant)) {
            return Ok(Kind::of(principal));
        }
        self.application(&access, &Key::Id(id.to_owned())).map(|_| Kind::Application)
    }

    /// The caller, if it is a person.
    ///
    /// # Errors
    /// [`DirectoryError::NotFound`] for clients.
    pub async fn me(&self) -> Result<Value, DirectoryError> {
        self.get(Kind::User, &Key::Id(self.caller.principal.clone())).await
    }

    /// Objects by their ids, whichever are there, each once. `kinds`: only these.
    ///
    /// # Errors
    /// What the database says.
    pub async fn by_ids(&self, ids: &[String], kinds: &[Kind]) -> Result<Vec<Value>, DirectoryError> {
        let access = self.seen().await?;
        let mut ids: Vec<String> = ids.iter().map(|id| id.to_ascii_lowercase()).collect();
        ids.sort();
        ids.dedup();
        let shown = |id: &String| {
            let object = self.object(&access, id)?;
            kinds.contains(&object.0).then_some(object.1)
        };
        Ok(ids.iter().filter_map(shown).collect())
    }

    /// An object with its type, without its credentials.
    fn object(&self, access: &Access, id: &str) -> Option<(Kind, Value)> {
        let (kind, mut shown) = if let Some(principal) = access.principal(id).filter(|p| self.is_mine(&p.tenant)) {
            (Kind::of(principal), show::principal(access, principal, None))
        } else {
            let application = self.application(access, &Key::Id(id.to_owned())).ok()?;
            (Kind::Application, show::application(application, None))
        };
        shown["@odata.type"] = json!(format!("#microsoft.graph.{}", kind.entity()));
        Some((kind, shown))
    }

    /// The tenant itself.
    ///
    /// # Errors
    /// What the database says.
    pub async fn organization(&self) -> Result<Value, DirectoryError> {
        let access = self.seen().await?;
        let tenant = access.tenants.iter().find(|t| self.is_mine(&t.id));
        Ok(json!({
            "id": self.caller.tenant,
            "displayName": tenant.map(|t| t.display_name.as_str()),
            "tenantType": "AAD",
            "verifiedDomains": [],
        }))
    }
}
