//! What decisions rest on, kept in memory: identities, roles, assignments, locks.
//!
//! It is read again as soon as the database counts a change, and the count is asked at the begin of every request: a right that was
//! taken away, by whichever process, is gone for every request that begins afterwards.

use crate::call::Caller;
use crate::{Engine, db_error};
use lazuli_arm::ArmError;
use lazuli_authz::rbac::{Assignment, Plane, Policy, Question, RoleDefinition, built_in_roles};
use lazuli_meta::model::{Application, ManagementLock, Principal, Resource, RoleAssignment, Subscription, Tenant};
use lazuli_meta::{Db, MetaError};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A custom role and what is shown of it besides.
#[derive(Debug)]
pub(crate) struct OwnRole {
    pub tenant: String,
    pub role: RoleDefinition,
    pub body: Value,
}

/// One state of the identities. Ids are keys in lower case.
#[derive(Debug)]
pub(crate) struct Access {
    pub changes: i64,
    pub tenants: Vec<Tenant>,
    pub subscriptions: HashMap<String, Subscription>,
    pub principals: HashMap<String, Principal>,
    /// By application id.
    pub applications: HashMap<String, Application>,
    pub built_in: Vec<RoleDefinition>,
    pub own_roles: Vec<OwnRole>,
    pub assignments: Vec<RoleAssignment>,
    pub locks: Vec<ManagementLock>,
    /// A member's groups, and the groups these are members of.
    groups: HashMap<String, Vec<String>>,
    /// `(group, member)`, as they are stored.
    members: Vec<(String, String)>,
    policy: Policy,
}

/// `/providers/microsoft.management/managementgroups/{tenant}`: the group at the root of a tenant.
pub(crate) fn root_group(tenant: &str) -> String {
    format!("/providers/microsoft.management/managementgroups/{}", tenant.to_ascii_lowercase())
}

/// The subscription in a scope.
pub(crate) fn subscription_of(scope: &str) -> Option<&str> {
    let mut segments = scope.split('/').filter(|s| !s.is_empty());
    segments.next().filter(|s| s.eq_ignore_ascii_case("subscriptions"))?;
    segments.next()
}

impl Access {
    async fn read(db: &Db, changes: i64) -> Result<Self, MetaError> {
        let lower = |id: &str| id.to_ascii_lowercase();
        let subscriptions = db.all_subscriptions().await?;
        let principals = db.principals().await?;
        let assignments = db.role_assignments(None, None).await?;
        let own_roles: Vec<OwnRole> = db.custom_roles().await?.into_iter().filter_map(own_role).collect();
        let built_in = built_in_roles();
        let known: Vec<Assignment> = assignments
            .iter()
            .map(|a| Assignment { principal: a.principal.clone(), role: a.role.clone(), scope: a.scope.clone() })
            .collect();
        let above = subscriptions.iter().map(|s| (s.id.as_str(), root_group(&s.tenant)));
        let members = db.group_members().await?;
        let applications = db.applications().await?;
        let policy = Policy::new(built_in.iter().chain(own_roles.iter().map(|r| &r.role)), &known, above);
        Ok(Self {
            changes,
            tenants: db.tenants().await?,
            groups: closure(&members),
            members,
            applications: applications.into_iter().map(|a| (lower(&a.app_id), a)).collect(),
            locks: db.locks().await?,
            subscriptions: subscriptions.into_iter().map(|s| (lower(&s.id), s)).collect(),
            principals: principals.into_iter().map(|p| (lower(&p.id), p)).collect(),
            built_in,
            own_roles,
            assignments,
            policy,
        })
    }

    pub fn subscription(&self, id: &str) -> Option<&Subscription> {
        self.subscriptions.get(&id.to_ascii_lowercase())
    }

    pub fn principal(&self, id: &str) -> Option<&Principal> {
        self.principals.get(&id.to_ascii_lowercase())
    }

    pub fn application(&self, app_id: &str) -> Option<&Application> {
        self.applications.get(&app_id.to_ascii_lowercase())
    }

    /// Ids of a group's own members.
    pub fn members_of<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a str> {
        let of = self.members.iter().filter(move |(g, _)| g.eq_ignore_ascii_case(group));
        of.map(|(_, member)| member.as_str())
    }

    /// Ids of the groups whose own member somebody is.
    pub fn groups_with<'a>(&'a self, member: &'a str) -> impl Iterator<Item = &'a str> {
        let of = self.members.iter().filter(move |(_, m)| m.eq_ignore_ascii_case(member));
        of.map(|(group, _)| group.as_str())
    }

    /// The principal and every group that it belongs to.
    pub fn with_groups<'a>(&'a self, principal: &'a str) -> Vec<&'a str> {
        let groups = self.groups.get(&principal.to_ascii_lowercase()).map_or(&[][..], Vec::as_slice);
        std::iter::once(principal).chain(groups.iter().map(String::as_str)).collect()
    }

    /// The identity of a request that counts at a scope: the one in the tenant of the scope's subscription. `None`: the request
    /// brought no token of that tenant.
    pub fn identity_at<'a>(&self, caller: &'a Caller, scope: &str) -> Option<&'a Caller> {
        let Some(subscription) = subscription_of(scope).and_then(|s| self.subscription(s)) else {
            return Some(caller);
        };
        std::iter::once(caller)
            .chain(&caller.auxiliary)
            .find(|identity| identity.tenant.eq_ignore_ascii_case(&subscription.tenant))
    }

    /// Whether somebody is of the tenant that a subscription's scope is in: a role at `/` is one in their own tenant, whatever the
    /// scope asked about.
    fn is_at_home(&self, principal: &str, scope: &str) -> bool {
        let Some(subscription) = subscription_of(scope) else { return true };
        let known = self.subscription(subscription).zip(self.principal(principal));
        known.is_some_and(|(s, p)| s.tenant.eq_ignore_ascii_case(&p.tenant))
    }

    /// Whether somebody's roles allow an action at a scope; of another tenant's, none do.
    pub fn allows(&self, principal: &str, scope: &str, action: &str, plane: Plane) -> bool {
        if !self.is_at_home(principal, scope) {
            return false;
        }
        let principals = self.with_groups(principal);
        self.policy.allows(&Question { principals: &principals, action, scope, plane })
    }

    /// At the scope or anywhere below it.
    pub fn allows_below(&self, principal: &str, scope: &str, action: &str) -> bool {
        if !self.is_at_home(principal, scope) {
            return false;
        }
        let principals = self.with_groups(principal);
        self.policy.allows_below(&Question { principals: &principals, action, scope, plane: Plane::Control })
    }

    /// Whether the principal has any role at, above or below the scope.
    pub fn reaches(&self, principal: &str, scope: &str) -> bool {
        self.is_at_home(principal, scope) && self.policy.reaches(&self.with_groups(principal), scope)
    }

    /// The roles that a tenant knows.
    pub fn roles_of(&self, tenant: &str) -> impl Iterator<Item = (&RoleDefinition, Option<&OwnRole>)> {
        let own = self.own_roles.iter().filter(move |r| r.tenant.eq_ignore_ascii_case(tenant));
        self.built_in.iter().map(|r| (r, None)).chain(own.map(|r| (&r.role, Some(r))))
    }

    pub fn role_of(&self, tenant: &str, id: &str) -> Option<(&RoleDefinition, Option<&OwnRole>)> {
        self.roles_of(tenant).find(|(r, _)| r.name.eq_ignore_ascii_case(id))
    }
}

fn own_role(row: lazuli_meta::model::CustomRole) -> Option<OwnRole> {
    match serde_json::from_value(row.body["role"].clone()) {
        Ok(role) => Some(OwnRole { tenant: row.tenant, role, body: row.body }),
        Err(error) => {
            // It gives nothing until it is written anew.
            tracing::error!(role = row.id, error = &error as &dyn std::error::Error, "a custom role cannot be read");
            None
        }
    }
}

/// Every member's groups, direct and through other groups.
fn closure(members: &[(String, String)]) -> HashMap<String, Vec<String>> {
    let mut direct: HashMap<&str, Vec<&str>> = HashMap::new();
    for (group, member) in members {
        direct.entry(member).or_default().push(group);
    }
    let all = |member: &str| {
        let mut found: Vec<String> = Vec::new();
        let mut next: Vec<&str> = direct.get(member).cloned().unwrap_or_default();
        while let Some(group) = next.pop() {
            if !found.iter().any(|f| f == group) {
                found.push(group.to_owned());
                next.extend(direct.get(group).into_iter().flatten());
            }
        }
        found
    };
    direct.keys().map(|member| (member.to_ascii_lowercase(), all(member))).collect()
}

/// The database's count of changes. Requests that begin while it is being asked share the next answer: that question is asked
/// after each of them began, so nobody is told of an earlier state.
struct Count {
    /// Questions begun.
    asked: AtomicU64,
    /// The last question that was answered, and its answer. Who holds it asks.
    answered: tokio::sync::Mutex<(u64, i64)>,
}

impl Count {
    fn new() -> Self {
        Self { asked: AtomicU64::new(0), answered: tokio::sync::Mutex::new((0, 0)) }
    }

    async fn now<E>(&self, ask: impl AsyncFnOnce() -> Result<i64, E>) -> Result<i64, E> {
        let before = self.asked.load(Ordering::SeqCst);
        let mut answered = self.answered.lock().await;
        if answered.0 <= before {
            let question = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            *answered = (question, ask().await?);
        }
        Ok(answered.1)
    }
}

/// The identities of a database, read again when they changed.
pub(crate) struct KeptAccess {
    db: Db,
    count: Count,
    kept: RwLock<Option<Arc<Access>>>,
}

impl KeptAccess {
    pub fn new(db: Db) -> Self {
        Self { db, count: Count::new(), kept: RwLock::default() }
    }

    /// As they are now.
    pub async fn now(&self) -> Result<Arc<Access>, MetaError> {
        if cfg!(feature = "benchmark-without-authorization")
            && let Some(access) = self.kept(|_| true)
        {
            return Ok(access);
        }
        let changes = self.count.now(async || self.db.identity_changes().await).await?;
        self.at(changes).await
    }

    /// As they are now, and the resource of this key, with one question for both where there is such a resource.
    pub async fn now_with(&self, key: &str) -> Result<(Arc<Access>, Option<Resource>), MetaError> {
        if !cfg!(feature = "benchmark-without-authorization")
            && let Some((row, changes)) = self.db.resource_and_identity_changes(key).await?
        {
            return Ok((self.at(changes).await?, Some(row)));
        }
        Ok((self.now().await?, None))
    }

    fn kept(&self, fits: impl FnOnce(&Access) -> bool) -> Option<Arc<Access>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).as_ref().filter(|a| fits(a)).cloned()
    }

    /// As they are after so many changes, or later.
    async fn at(&self, changes: i64) -> Result<Arc<Access>, MetaError> {
        if let Some(access) = self.kept(|a| a.changes == changes) {
            return Ok(access);
        }
        // What changes while it is read counts as not yet seen: the next request reads again.
        let fresh = Arc::new(Access::read(&self.db, changes).await?);
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|a| a.changes < changes) {
            *kept = Some(fresh.clone());
        }
        Ok(fresh)
    }
}

/// The identities as they were when a request began, for the decisions within it. A request that takes longer asks anew.
#[derive(Clone, Default)]
pub struct Rights(Option<AtBegin>);

#[derive(Clone)]
struct AtBegin {
    access: Arc<Access>,
    /// The resource that the request reads, where it came with the same question.
    row: Option<Arc<Resource>>,
    since: Instant,
}

const ONE_REQUEST: Duration = Duration::from_secs(1);

impl Rights {
    pub(crate) fn of(access: &Arc<Access>, row: Option<Resource>) -> Self {
        Self(Some(AtBegin { access: access.clone(), row: row.map(Arc::new), since: Instant::now() }))
    }

    fn fresh(&self) -> Option<&AtBegin> {
        self.0.as_ref().filter(|begin| begin.since.elapsed() < ONE_REQUEST)
    }

    /// The resource of this key, if it is what the request began with.
    pub(crate) fn row(&self, key: &str) -> Option<Resource> {
        let row = self.fresh()?.row.as_ref().filter(|row| row.key == key)?;
        Some(Resource::clone(row))
    }
}

impl std::fmt::Debug for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rights").field(&self.0.as_ref().map(|begin| begin.access.changes)).finish()
    }
}

impl Engine {
    /// The identities as they are now.
    pub(crate) async fn access(&self) -> Result<Arc<Access>, ArmError> {
        self.0.access.now().await.map_err(db_error)
    }

    /// The identities as they were at the begin of the caller's request, or now.
    pub(crate) async fn access_of(&self, caller: &Caller) -> Result<Arc<Access>, ArmError> {
        match caller.rights.fresh() {
            Some(begin) => Ok(begin.access.clone()),
            None => self.access().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One question for all that wait, and never one that was asked before they came.
    #[tokio::test]
    async fn who_waits_shares_the_next_question() {
        let (count, state) = (Count::new(), AtomicU64::new(0));
        let (asks, go) = (AtomicU64::new(0), tokio::sync::Semaphore::new(0));
        let ask = async || {
            asks.fetch_add(1, Ordering::SeqCst);
            let seen = state.load(Ordering::SeqCst);
            go.acquire().await.unwrap().forget();
            Ok::<_, ()>(i64::try_from(seen).unwrap())
        };
        let mut first = std::pin::pin!(count.now(ask));
        assert!(futures::poll!(first.as_mut()).is_pending());
        // The first question is on its way and has seen 0.
        state.store(1, Ordering::SeqCst);
        let mut others = std::pin::pin!(futures::future::join_all((0..3).map(|_| count.now(ask))));
        assert!(futures::poll!(others.as_mut()).is_pending());
        go.add_permits(9);
        let (first, others) = futures::join!(first, others);
        assert_eq!((first, others), (Ok(0), vec![Ok(1); 3]));
        assert_eq!(asks.load(Ordering::SeqCst), 2);
    }

    /// A question that failed answers nobody else.
    #[tokio::test]
    async fn a_failed_question_is_asked_again() {
        let count = Count::new();
        assert_eq!(count.now(async || Err("down")).await, Err("down"));
        assert_eq!(count.now(async || Ok::<_, &str>(7)).await, Ok(7));
    }

    #[test]
    fn groups_of_groups_count_and_circles_end() {
        let pairs = [("a", "u"), ("b", "a"), ("a", "b"), ("c", "b")];
        let members: Vec<(String, String)> = pairs.iter().map(|(g, m)| ((*g).into(), (*m).into())).collect();
        let mut groups = closure(&members)["u"].clone();
        groups.sort();
        assert_eq!(groups, ["a", "b", "c"]);
    }
}
