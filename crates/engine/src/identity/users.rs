//! People: their passwords, how often one may be guessed, and guests.
//!
//! A guest is a user of another tenant (its home), whom this tenant gives an object of its own: roles and groups are the object's, while
//! password, sessions and whether the person may sign in at all are the home user's.
//!
//! A guess is counted before it is looked at, so that many at once are no more than so many one after the other. An answer never
//! says whether there is such a user.

use super::{SignInError, caller_of, kept_as};
use crate::authorization::access::Access;
use crate::call::Caller;
use crate::{Engine, db_error, now_ms};
use lazuli_arm::ArmError;
use lazuli_authz::password::{self, PasswordError};
use lazuli_meta::model::Principal;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// [`Principal::kind`] of people.
pub(crate) const USER: &str = "User";

/// So many wrong passwords are heard within [`GUESS_WINDOW_MS`] of the first one.
const MAX_GUESSES: i64 = 10;
const GUESS_WINDOW_MS: i64 = 5 * 60 * 1000;

/// Each check takes 19 MiB: so many are made at once, others wait.
static CHECKS: Semaphore = Semaphore::const_new(4);

/// Somebody whose password was right.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// As the tenant knows it that was signed in to.
    pub caller: Caller,
    /// In lower case.
    pub login: String,
    /// Whose sessions are begun.
    pub home: Home,
}

/// A user in its own tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    pub tenant: String,
    pub principal: String,
}

impl SignedIn {
    /// `person`, who is `home` in its own tenant.
    pub(super) fn of(person: &Principal, home: &Principal) -> Self {
        let home = Home { tenant: home.tenant.clone(), principal: home.id.clone() };
        Self { caller: caller_of(person), login: person.login.clone(), home }
    }
}

/// In the body of a guest: the id of its home user.
const HOME: &str = "homeUser";

/// What makes a principal the guest that `home` is in another tenant.
pub(super) fn guest_body(home: &Principal) -> Value {
    json!({"accountEnabled": true, HOME: home.id})
}

pub(crate) fn is_guest(user: &Principal) -> bool {
    user.body[HOME].is_string()
}

/// The user that a guest is at home; anybody else is at home. `None`: it is there no more.
fn home<'a>(access: &'a Access, user: &'a Principal) -> Option<&'a Principal> {
    match user.body[HOME].as_str() {
        Some(id) => access.principal(id).filter(|home| home.kind == USER && !is_guest(home)),
        None => Some(user),
    }
}

/// The guest that somebody is in another tenant.
pub(super) fn guest<'a>(access: &'a Access, home: &str, tenant: &str) -> Option<&'a Principal> {
    let is = |p: &&Principal| p.body[HOME] == home && p.tenant.eq_ignore_ascii_case(tenant);
    access.principals.values().find(is)
}

/// Whether a principal may sign in, and its tokens count.
pub(super) fn is_enabled(access: &Access, principal: &Principal) -> bool {
    let enabled = |p: &Principal| p.body["accountEnabled"] != false;
    enabled(principal) && home(access, principal).is_some_and(enabled)
}

/// The tenants in which a person is somebody.
pub(super) fn tenants_of<'a>(access: &'a Access, person: &'a Principal) -> Vec<&'a str> {
    let Some(home) = home(access, person) else { return vec![&person.tenant] };
    let guests = access.principals.values().filter(|p| p.body[HOME] == home.id.as_str());
    std::iter::once(home).chain(guests).map(|p| p.tenant.as_str()).collect()
}

/// The user of a login: of one tenant, or of whichever tenant is its home, if only one is.
pub(super) fn user<'a>(
    all: impl Iterator<Item = &'a Principal>,
    tenant: Option<&str>,
    login: &str,
) -> Option<&'a Principal> {
    let fits = |p: &Principal| tenant.map_or(!is_guest(p), |t| p.tenant.eq_ignore_ascii_case(t));
    let of_login = |p: &&Principal| p.kind == USER && p.login == login && fits(p);
    let mut found = all.filter(of_login);
    found.next().filter(|_| found.next().is_none())
}

/// As logins are kept and compared.
pub(crate) fn normal(login: &str) -> String {
    login.trim().to_lowercase()
}

/// `NAME@DOMAIN`, in its normal form.
pub(crate) fn is_login(login: &str) -> bool {
    login.len() <= 320
        && login.split_once('@').is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty())
        && !login.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Off the async threads: it is slow on purpose.
pub(crate) async fn hash_password(password: &str) -> Result<Result<String, PasswordError>, ArmError> {
    let password = password.to_owned();
    let _permit = CHECKS.acquire().await;
    tokio::task::spawn_blocking(move || password::hash(&password)).await.map_err(ArmError::internal)
}

impl Engine {
    /// Counts a guess before it is looked at.
    pub(super) async fn count_guess(&self, subject: &str) -> Result<(), SignInError> {
        let now = now_ms();
        let guess = self.db().count_guess(subject, now, now + GUESS_WINDOW_MS).await.map_err(db_error)?;
        if guess > MAX_GUESSES { Err(SignInError::LockedOut) } else { Ok(()) }
    }

    /// Whose login and password these are. `tenant`: `None` where the address names none.
    ///
    /// # Errors
    /// [`SignInError::WrongPassword`], [`SignInError::LockedOut`], [`SignInError::Disabled`], [`SignInError::UnknownTenant`].
    pub async fn sign_in_user(
        &self,
        tenant: Option<&str>,
        login: &str,
        password: &str,
    ) -> Result<SignedIn, SignInError> {
        if let Some(tenant) = tenant {
            self.sign_in_tenant(tenant).await?;
        }
        let login = normal(login);
        let subject = kept_as("user", &login);
        self.count_guess(&subject).await?;
        let access = self.access().await?;
        let found = user(access.principals.values(), tenant, &login);
        let found = found.and_then(|person| Some((person, home(&access, person)?)));
        // Of whom another provider vouches for there is none.
        let stored = found.map(|(_, home)| home.secret_hash.as_str()).filter(|hash| !hash.is_empty());
        let stored = stored.unwrap_or(password::NOBODY).to_owned();
        let right = verify(password.to_owned(), stored).await;
        let Some((person, home)) = found.filter(|_| right) else {
            return Err(SignInError::WrongPassword);
        };
        self.db().clear_guesses(&subject).await.map_err(db_error)?;
        if !is_enabled(&access, person) {
            return Err(SignInError::Disabled);
        }
        Ok(SignedIn::of(person, home))
    }
}

async fn verify(given: String, stored: String) -> bool {
    let _permit = CHECKS.acquire().await;
    tokio::task::spawn_blocking(move || password::verify(&given, &stored)).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_without_a_tenant_means_one_user_or_none() {
        let principal = |id: &str, tenant: &str, login: &str| Principal {
            id: id.into(),
            tenant: tenant.into(),
            app_id: String::new(),
            display_name: String::new(),
            kind: USER.into(),
            secret_hash: String::new(),
            login: login.into(),
            body: json!({}),
        };
        let all = [principal("1", "t", "a@x"), principal("2", "t", "b@x"), principal("3", "u", "b@x")];
        let find = |tenant, login| user(all.iter(), tenant, login).map(|p| p.id.as_str());
        assert_eq!(find(None, "a@x"), Some("1"));
        assert_eq!(find(None, "b@x"), None, "two have it");
        assert_eq!(find(Some("U"), "b@x"), Some("3"));
        assert_eq!(find(Some("u"), "a@x"), None);
        let guest = Principal { body: guest_body(&all[0]), ..principal("4", "u", "a@x") };
        let all = [all.as_slice(), &[guest]].concat();
        let find = |tenant, login| user(all.iter(), tenant, login).map(|p| p.id.as_str());
        assert_eq!((find(None, "a@x"), find(Some("u"), "a@x")), (Some("1"), Some("4")), "at home, and as a guest");
        assert_eq!(normal(" A@X "), "a@x");
    }
}
