//! What objects are to one another: members of groups, owners, and the groups that somebody is in.

use super::{Directory, DirectoryError, Key, Kind};
use crate::authorization::access::Access;
use lazuli_meta::model::{Change, Principal};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Members,
    /// Through groups of groups.
    TransitiveMembers,
    Owners,
    /// The groups that an object is in.
    MemberOf,
    TransitiveMemberOf,
    /// What an object owns.
    OwnedObjects,
}

impl Relation {
    /// With their names in addresses.
    pub const ALL: [(&'static str, Self); 6] = [
        ("members", Self::Members),
        ("transitiveMembers", Self::TransitiveMembers),
        ("owners", Self::Owners),
        ("memberOf", Self::MemberOf),
        ("transitiveMemberOf", Self::TransitiveMemberOf),
        ("ownedObjects", Self::OwnedObjects),
    ];
}

fn owners(body: &Value) -> Vec<&str> {
    body["owners"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

impl Directory<'_> {
    /// Ids of what stands in a relation to an object, in order.
    fn related_ids(
        &self,
        access: &Access,
        kind: Kind,
        key: &Key,
        relation: Relation,
    ) -> Result<Vec<String>, DirectoryError> {
        let (id, body) = if kind == Kind::Application {
            let application = self.application(access, key)?;
            (application.id.as_str(), &application.body)
        } else {
            let principal = self.principal(access, kind, key)?;
            (principal.id.as_str(), &principal.body)
        };
        let mut ids: Vec<String> = match relation {
            Relation::Owners => owners(body).into_iter().map(str::to_owned).collect(),
            Relation::Members => access.members_of(id).map(str::to_owned).collect(),
            Relation::TransitiveMembers => {
                let within =
                    |p: &&Principal| p.id != id && access.with_groups(&p.id).iter().any(|g| g.eq_ignore_ascii_case(id));
                access.principals.values().filter(within).map(|p| p.id.clone()).collect()
            }
            Relation::MemberOf => access.groups_with(id).map(str::to_owned).collect(),
            Relation::TransitiveMemberOf => access.with_groups(id).into_iter().skip(1).map(str::to_owned).collect(),
            Relation::OwnedObjects => {
                let applications = access.applications.values().filter(|a| super::owns(&a.body, id)).map(|a| &a.id);
                let principals = access.principals.values().filter(|p| super::owns(&p.body, id)).map(|p| &p.id);
                applications.chain(principals).cloned().collect()
            }
        };
        ids.sort();
        Ok(ids)
    }

    /// Objects with their types; what is not there any more is left out.
    ///
    /// # Errors
    /// [`DirectoryError::NotFound`].
    pub async fn related(&self, kind: Kind, key: &Key, relation: Relation) -> Result<Vec<Value>, DirectoryError> {
        let access = self.seen().await?;
        let ids = self.related_ids(&access, kind, key, relation)?;
        Ok(ids.iter().filter_map(|id| self.object(&access, id)).map(|(_, shown)| shown).collect())
    }

    /// Ids of the groups that an object is in, directly and through other groups.
    ///
    /// # Errors
    /// [`DirectoryError::NotFound`].
    pub async fn groups_of(&self, kind: Kind, key: &Key) -> Result<Vec<String>, DirectoryError> {
        let access = self.seen().await?;
        self.related_ids(&access, kind, key, Relation::TransitiveMemberOf)
    }

    /// What may be a member of a group; its id.
    pub(super) fn member(&self, access: &Access, group: &str, id: &str) -> Result<String, DirectoryError> {
        let found = access.principal(id).filter(|p| self.is_mine(&p.tenant));
        let found = found.ok_or_else(|| DirectoryError::NotFound(id.to_owned()))?;
        if found.id == group {
            return Err(DirectoryError::bad("A group cannot be a member of itself."));
        }
        Ok(found.id.clone())
    }

    /// People and clients own things; groups do not.
    pub(super) fn require_owner_kind(&self, access: &Access, id: &str) -> Result<(), DirectoryError> {
        let found = access.principal(id).filter(|p| self.is_mine(&p.tenant));
        match found.map(Kind::of) {
            Some(Kind::User | Kind::ServicePrincipal) => Ok(()),
            Some(_) => Err(DirectoryError::bad("Only users and service principals can be owners.")),
            None => Err(DirectoryError::NotFound(id.to_owned())),
        }
    }

    /// Adds a member or an owner.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn link(&self, kind: Kind, key: &Key, relation: Relation, address: &Value) -> Result<(), DirectoryError> {
        let address = address["@odata.id"].as_str().and_then(super::properties::referenced);
        let target =
            address.ok_or_else(|| DirectoryError::bad("'@odata.id' must be the address of a directory object."))?;
        loop {
            let access = self.now().await?;
            let done = if relation == Relation::Members {
                let group = self.principal(&access, kind, key)?;
                self.require_owner(&access, &group.body)?;
                let member = self.member(&access, &group.id, &target)?;
                if access.members_of(&group.id).any(|m| m == member) {
                    return Err(DirectoryError::linked("members"));
                }
                let change = Change::PutGroupMember { group: group.id.clone(), member };
                self.commit(&access, vec![change], "groups.security/members/update", &group.id).await?
            } else {
                self.require_owner_kind(&access, &target)?;
                let add = |body: &mut Value| {
                    let mut all = owners(body);
                    if all.iter().any(|o| o.eq_ignore_ascii_case(&target)) {
                        return Err(DirectoryError::linked("owners"));
                    }
                    all.push(&target);
                    let all = json!(all);
                    body["owners"] = all;
                    Ok(())
                };
                self.change_owners(&access, kind, key, add).await?
            };
            if done {
                return Ok(());
            }
        }
    }

    /// Takes a member or an owner away.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn unlink(&self, kind: Kind, key: &Key, relation: Relation, target: &str) -> Result<(), DirectoryError> {
        let absent = || DirectoryError::NotFound(target.to_owned());
        loop {
            let access = self.now().await?;
            let done = if relation == Relation::Members {
                let group = self.principal(&access, kind, key)?;
                self.require_owner(&access, &group.body)?;
                let member = access.members_of(&group.id).find(|m| m.eq_ignore_ascii_case(target));
                let member = member.ok_or_else(absent)?.to_owned();
                let change = Change::DeleteGroupMember { group: group.id.clone(), member };
                self.commit(&access, vec![change], "groups.security/members/update", &group.id).await?
            } else {
                let take = |body: &mut Value| {
                    let all = owners(body);
                    let left: Vec<&str> = all.iter().filter(|o| !o.eq_ignore_ascii_case(target)).copied().collect();
                    if left.len() == all.len() {
                        return Err(absent());
                    }
                    let left = json!(left);
                    body["owners"] = left;
                    Ok(())
                };
                self.change_owners(&access, kind, key, take).await?
            };
            if done {
                return Ok(());
            }
        }
    }

    async fn change_owners(
        &self,
        access: &Access,
        kind: Kind,
        key: &Key,
        change: impl Fn(&mut Value) -> Result<(), DirectoryError> + Send,
    ) -> Result<bool, DirectoryError> {
        let action = format!("{}/owners/update", kind.collection());
        let (id, change) = if kind == Kind::Application {
            let mut application = self.application(access, key)?.clone();
            self.require_owner(access, &application.body)?;
            change(&mut application.body)?;
            (application.id.clone(), Change::PutApplication(application))
        } else {
            let mut principal = self.principal(access, kind, key)?.clone();
            self.require_owner_of(access, &principal)?;
            change(&mut principal.body)?;
            (principal.id.clone(), Change::PutPrincipal(principal))
        };
        self.commit(access, vec![change], &action, &id).await
    }
}
