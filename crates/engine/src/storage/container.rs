//! Containers: made, described, leased, deleted with all that is in them.

use super::lease::On;
use super::record::{ContainerBody, new_etag, value};
use super::{Access, Account, Code, ContainerInfo, LeaseAction, Policy, Storage, StorageError, blobs_key};
use crate::blobs::check_metadata;
use lazuli_meta::WriteError;
use lazuli_meta::model::{Change, Conflict, Container, Expect, Write};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Azure allows five stored access policies.
const MAX_POLICIES: usize = 5;

impl Storage {
    /// # Errors
    /// [`Code::ContainerAlreadyExists`], [`Code::InvalidResourceName`].
    pub async fn create_container(
        &self,
        account: &Account,
        name: &str,
        metadata: BTreeMap<String, String>,
        public_access: Option<String>,
    ) -> Result<ContainerInfo, StorageError> {
        let body = ContainerBody { metadata, public_access, ..ContainerBody::default() };
        self.create_container_with(account, name, body, vec![]).await
    }

    /// With further changes in the same transaction.
    pub(crate) async fn create_container_with(
        &self,
        account: &Account,
        name: &str,
        body: ContainerBody,
        further: Vec<Change>,
    ) -> Result<ContainerInfo, StorageError> {
        check_name(name)?;
        check_metadata(&body.metadata)?;
        let now = self.now_ms();
        let row = Container {
            account: account.name.clone(),
            name: name.to_owned(),
            id: Uuid::new_v4().to_string(),
            etag: new_etag(),
            revision: Uuid::new_v4().to_string(),
            created_ms: now,
            modified_ms: now,
            body: value(&body),
        };
        let put = Change::PutContainer { container: row.clone(), expect: Expect::Absent };
        // A deletion of the account that is under way finds the container, or this finds the account gone.
        let mut changes = vec![Change::RequireResource { key: account.key.clone() }, put];
        changes.extend(further);
        match self.db().write(Write { fence: None, changes }).await {
            Ok(()) => ContainerInfo::of(&row),
            Err(WriteError::Conflict(Conflict::Exists { .. })) => Err(Code::ContainerAlreadyExists.into()),
            Err(WriteError::Conflict(_)) => Err(Code::ContainerNotFound.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// # Errors
    /// [`Code::ContainerNotFound`], a wrong lease, conditions.
    pub async fn container(
        &self,
        account: &Account,
        name: &str,
        access: &Access,
    ) -> Result<ContainerInfo, StorageError> {
        let info = ContainerInfo::of(&self.require_container(account, name).await?)?;
        info.body.lease.check_read(access.lease.as_deref(), On::Container, self.now_ms())?;
        access.conditions.check_read(&info.properties())?;
        Ok(info)
    }

    /// # Errors
    /// As [`Storage::container`]; too much metadata.
    pub async fn set_container_metadata(
        &self,
        account: &Account,
        name: &str,
        metadata: BTreeMap<String, String>,
        access: &Access,
    ) -> Result<ContainerInfo, StorageError> {
        self.change_container(account, name, access, |body| body.metadata = metadata, vec![]).await
    }

    /// Set Container ACL.
    ///
    /// # Errors
    /// As [`Storage::container`]; [`Code::InvalidInput`] for more than five policies.
    pub async fn set_container_acl(
        &self,
        account: &Account,
        name: &str,
        public_access: Option<String>,
        policies: Vec<Policy>,
        access: &Access,
    ) -> Result<ContainerInfo, StorageError> {
        if policies.len() > MAX_POLICIES {
            return Err(Code::InvalidInput.into());
        }
        let set = |body: &mut ContainerBody| (body.public_access, body.policies) = (public_access, policies);
        self.change_container(account, name, access, set, vec![]).await
    }

    /// With further changes in the same transaction.
    pub(crate) async fn change_container(
        &self,
        account: &Account,
        name: &str,
        access: &Access,
        change: impl FnOnce(&mut ContainerBody),
        further: Vec<Change>,
    ) -> Result<ContainerInfo, StorageError> {
        let mut row = self.require_container(account, name).await?;
        let mut info = ContainerInfo::of(&row)?;
        // A lease of a container guards only its deletion.
        info.body.lease.check_read(access.lease.as_deref(), On::Container, self.now_ms())?;
        access.conditions.check_write(&info.properties())?;
        change(&mut info.body);
        check_metadata(&info.body.metadata)?;
        row.etag = new_etag();
        row.modified_ms = row.modified_ms.max(self.now_ms());
        self.store_container(row, &info.body, further).await
    }

    async fn store_container(
        &self,
        mut row: Container,
        body: &ContainerBody,
        further: Vec<Change>,
    ) -> Result<ContainerInfo, StorageError> {
        let expect = Expect::Etag(std::mem::replace(&mut row.revision, Uuid::new_v4().to_string()));
        row.body = value(body);
        let mut changes = vec![Change::PutContainer { container: row.clone(), expect }];
        changes.extend(further);
        self.commit(changes).await?;
        ContainerInfo::of(&row)
    }

    /// Gives the container, the lease's id after it, and for a break the seconds until it takes effect.
    ///
    /// # Errors
    /// The lease codes; conditions.
    pub async fn lease_container(
        &self,
        account: &Account,
        name: &str,
        action: &LeaseAction,
        access: &Access,
    ) -> Result<(ContainerInfo, Option<String>, i64), StorageError> {
        let row = self.require_container(account, name).await?;
        let mut info = ContainerInfo::of(&row)?;
        access.conditions.check_write(&info.properties())?;
        let seconds = info.body.lease.apply(action, self.now_ms())?;
        let id = info.body.lease.id.clone();
        Ok((self.store_container(row, &info.body, vec![]).await?, id, seconds))
    }

    /// The container goes with its blobs and their snapshots.
    ///
    /// # Errors
    /// The container's lease; conditions.
    pub async fn delete_container(&self, account: &Account, name: &str, access: &Access) -> Result<(), StorageError> {
        self.delete_container_with(account, name, access, vec![]).await
    }

    /// With further changes in the same transaction.
    pub(crate) async fn delete_container_with(
        &self,
        account: &Account,
        name: &str,
        access: &Access,
        further: Vec<Change>,
    ) -> Result<(), StorageError> {
        let row = self.require_container(account, name).await?;
        let info = ContainerInfo::of(&row)?;
        info.body.lease.check_write(access.lease.as_deref(), On::Container, self.now_ms())?;
        access.conditions.check_write(&info.properties())?;
        let mut changes = vec![
            Change::DeleteContainer {
                account: account.name.clone(),
                name: name.to_owned(),
                expect: Expect::Etag(row.revision.clone()),
            },
            Change::DeleteContentRefsBelow { key: format!("{}/{name}", blobs_key(account)) },
        ];
        changes.extend(further);
        self.commit(changes).await?;
        // Overlays of its page blobs go with the next start; they have no row any more.
        self.forget_all_blocks(&row.id).await?;
        self.released(account);
        Ok(())
    }
}

/// 3 to 63 of lower-case letters, digits and single hyphens, or one of the service's own.
fn check_name(name: &str) -> Result<(), StorageError> {
    let own = matches!(name, "$root" | "$web" | "$logs");
    let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let ends = !name.starts_with('-') && !name.ends_with('-') && !name.contains("--");
    if own || (3..=63).contains(&name.len()) && inner && ends { Ok(()) } else { Err(Code::InvalidResourceName.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers() {
        for good in ["abc", "a-b-c", "$root", "000", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "ab", "-ab", "ab-", "a--b", "Abc", "a_b", "a.b", "$x", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
