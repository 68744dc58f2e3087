//! Secrets and certificates of applications and service principals. A secret is generated here, kept as a hash, and in the one
//! answer to `addPassword`; a client never chooses it.

use super::{Directory, DirectoryError, Key, Kind, show};
use crate::authorization::access::Access;
use crate::identity::{CERTIFICATE, SECRET, certificate_credential, secret_credential};
use crate::{db_error, now_ms};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::ArmError;
use lazuli_authz::certificate::Certificate;
use lazuli_meta::model::{Change, Credential};
use serde_json::{Value, json};
use uuid::Uuid;

/// Each sign-in may have to try them all.
const MAX_CREDENTIALS: usize = 50;
/// Where no end is given.
const SECRET_LIFE_MS: i64 = 2 * 365 * 24 * 3600 * 1000;
/// The last moment of the year 9999.
const LAST_MS: i64 = 253_402_300_799_000;

fn time(value: &Value, name: &str) -> Result<Option<i64>, DirectoryError> {
    if value.is_null() {
        return Ok(None);
    }
    let invalid =
        || DirectoryError::bad(format!("Invalid value specified for property '{name}': expected an ISO 8601 time."));
    let text = value.as_str().ok_or_else(invalid)?;
    let time: jiff::Timestamp = text.parse().map_err(|_| invalid())?;
    Ok(Some(time.as_millisecond().clamp(0, LAST_MS)))
}

fn refused(code: &'static str, message: impl Into<String>) -> DirectoryError {
    DirectoryError::Refused { status: 400, code, message: message.into() }
}

fn require_room(n: usize) -> Result<(), DirectoryError> {
    if n <= MAX_CREDENTIALS {
        return Ok(());
    }
    Err(refused(
        "Directory_QuotaExceeded",
        format!("An object can have {MAX_CREDENTIALS} credentials of a kind at most."),
    ))
}

/// A certificate as a body gives it.
fn certificate(given: &Value) -> Result<(Certificate, i64, i64), DirectoryError> {
    let text = given["key"].as_str().unwrap_or_default();
    // As PEM wraps it.
    let text: String = text.split_ascii_whitespace().collect();
    let invalid = |why: &str| refused("KeyCredentialsInvalidValue", format!("Key credential value is invalid: {why}."));
    let der = BASE64_STANDARD.decode(text).map_err(|_| invalid("expected the DER form in Base64"))?;
    let certificate = Certificate::from_der(der).map_err(|e| invalid(&e.to_string()))?;
    let is = |name: &str, wanted: &str| given[name].as_str().is_none_or(|v| v == wanted);
    if !is("type", "AsymmetricX509Cert") || !is("usage", "Verify") {
        return Err(invalid("only type 'AsymmetricX509Cert' with usage 'Verify' is taken"));
    }
    let (first, last) = (certificate.not_before.saturating_mul(1000), certificate.not_after.saturating_mul(1000));
    let from = time(&given["startDateTime"], "startDateTime")?.unwrap_or(first);
    let until = time(&given["endDateTime"], "endDateTime")?.unwrap_or(last);
    if from < first {
        return Err(refused("KeyCredentialsInvalidStartDate", "Key credential start date is invalid."));
    }
    if until > last || until <= from || until <= now_ms() {
        return Err(refused("KeyCredentialsInvalidEndDate", "Key credential end date is invalid."));
    }
    Ok((certificate, from, until))
}

impl Directory<'_> {
    /// Whose credentials these are: an application's by its application id, a service principal's by its object id.
    fn credential_owner(&self, access: &Access, kind: Kind, key: &Key) -> Result<String, DirectoryError> {
        if kind == Kind::Application {
            let application = self.application(access, key)?;
            self.require_owner(access, &application.body)?;
            return Ok(application.app_id.clone());
        }
        let principal = self.principal(access, Kind::ServicePrincipal, key)?;
        self.require_owner_of(access, principal)?;
        super::service_principals::require_unmanaged(principal)?;
        Ok(principal.id.clone())
    }

    /// What is to be changed so that an owner has exactly these certificates, and what it has then. Those that are known by their
    /// `keyId` stay as they are.
    pub(super) async fn keys(
        &self,
        owner: &str,
        given: &Value,
    ) -> Result<(Vec<Change>, Vec<Credential>), DirectoryError> {
        let given = given.as_array().map_or(&[][..], Vec::as_slice);
        require_room(given.len())?;
        let mut all = self.engine.db().all_credentials().await.map_err(db_error)?;
        let (kept, foreign): (Vec<Credential>, Vec<Credential>) = all.drain(..).partition(|c| c.owner == owner);
        let (mut changes, mut left) = (Vec::new(), Vec::new());
        for item in given {
            let id = item["keyId"].as_str().and_then(|id| Uuid::parse_str(id).ok()).map(|id| id.to_string());
            let same = |c: &&Credential| c.kind == CERTIFICATE && Some(&c.id) == id.as_ref();
            if let Some(known) = kept.iter().find(same) {
                left.push(known.clone());
                continue;
            }
            let (certificate, from, until) = certificate(item)?;
            let mut made = certificate_credential(owner, &certificate);
            // An id that is another's would take its credential over.
            let free = |id: &String| !foreign.iter().chain(&kept).chain(&left).any(|c| c.id == *id);
            made.id = id.filter(free).unwrap_or(made.id);
            made.expires_ms = until;
            made.body["startMs"] = json!(from);
            if let Some(name) = item["displayName"].as_str() {
                made.body["displayName"] = json!(name);
            }
            changes.push(Change::PutCredential(made.clone()));
            left.push(made);
        }
        let gone = kept.iter().filter(|c| c.kind == CERTIFICATE && !left.iter().any(|l| l.id == c.id));
        changes.extend(gone.map(|c| Change::DeleteCredential { id: c.id.clone() }));
        Ok((changes, left))
    }

    /// A new secret beside the others; the answer shows it.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn add_password(&self, kind: Kind, key: &Key, body: &Value) -> Result<Value, DirectoryError> {
        let given = &body["passwordCredential"];
        let name = given["displayName"].as_str().map(str::to_owned);
        let from = time(&given["startDateTime"], "startDateTime")?.unwrap_or_else(now_ms);
        let until = time(&given["endDateTime"], "endDateTime")?.unwrap_or(from.saturating_add(SECRET_LIFE_MS));
        if until <= from || until <= now_ms() {
            return Err(DirectoryError::bad(
                "The end date of the credential must be later than its start date and than now.",
            ));
        }
        // Before the slow work: who may not do it does not get it done.
        let owner = self.credential_owner(&*self.now().await?, kind, key)?;
        let kept = self.engine.db().credentials(&owner).await.map_err(db_error)?;
        require_room(kept.iter().filter(|c| c.kind == SECRET).count() + 1)?;
        let of = owner.clone();
        let made = tokio::task::spawn_blocking(move || secret_credential(&of, name.as_deref(), from, until)).await;
        let (secret, credential) = made.map_err(ArmError::internal)??;
        loop {
            let access = self.now().await?;
            self.credential_owner(&access, kind, key)?;
            let action = format!("{}/credentials/update", kind.collection());
            if self.commit(&access, vec![Change::PutCredential(credential.clone())], &action, &owner).await? {
                let mut shown = show::password(&credential);
                shown["secretText"] = json!(secret);
                return Ok(shown);
            }
        }
    }

    /// The secret ends now.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn remove_password(&self, kind: Kind, key: &Key, body: &Value) -> Result<(), DirectoryError> {
        let id = body["keyId"].as_str().unwrap_or_default();
        loop {
            let access = self.now().await?;
            let owner = self.credential_owner(&access, kind, key)?;
            let kept = self.engine.db().credentials(&owner).await.map_err(db_error)?;
            let found = kept.iter().find(|c| c.kind == SECRET && c.id.eq_ignore_ascii_case(id));
            let found = found.ok_or_else(|| DirectoryError::bad("No password credential found with keyId."))?;
            let action = format!("{}/credentials/update", kind.collection());
            if self.commit(&access, vec![Change::DeleteCredential { id: found.id.clone() }], &action, &owner).await? {
                return Ok(());
            }
        }
    }
}
