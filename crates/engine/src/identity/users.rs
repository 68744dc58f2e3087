//! People: their passwords, and how often one may be guessed.
//!
//! A guess is counted before it is looked at, so that many at once are no more than so many one after the other. An answer never
//! says whether there is such a user.

use super::{SignInError, caller_of, kept_as};
use crate::call::Caller;
use crate::{Engine, db_error, now_ms};
use lazuli_arm::ArmError;
use lazuli_authz::password::{self, PasswordError};
use lazuli_meta::model::Principal;
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
    pub caller: Caller,
    /// In lower case.
    pub login: String,
}

/// The user of a login: of one tenant, or of whichever tenant has it, if only one does.
pub(super) fn user<'a>(
    all: impl Iterator<Item = &'a Principal>,
    tenant: Option<&str>,
    login: &str,
) -> Option<&'a Principal> {
    let of_login =
        |p: &&Principal| p.kind == USER && p.login == login && tenant.is_none_or(|t| p.tenant.eq_ignore_ascii_case(t));
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
        // Of whom another provider vouches for there is none.
        let stored = found.map(|p| p.secret_hash.as_str()).filter(|hash| !hash.is_empty());
        let stored = stored.unwrap_or(password::NOBODY).to_owned();
        let right = verify(password.to_owned(), stored).await;
        let Some(found) = found.filter(|_| right) else {
            return Err(SignInError::WrongPassword);
        };
        self.db().clear_guesses(&subject).await.map_err(db_error)?;
        if found.body["accountEnabled"] == false {
            return Err(SignInError::Disabled);
        }
        Ok(SignedIn { caller: caller_of(found), login })
    }
}

async fn verify(given: String, stored: String) -> bool {
    let _permit = CHECKS.acquire().await;
    tokio::task::spawn_blocking(move || password::verify(&given, &stored)).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        assert_eq!(normal(" A@X "), "a@x");
    }
}
