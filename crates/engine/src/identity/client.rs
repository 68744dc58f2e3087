//! How a client proves who it is: with a secret, or with an assertion signed with a certificate that it registered.

use super::{SignInError, caller_of, no_randomness};
use crate::call::Caller;
use crate::{Engine, db_error, now_ms};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::ArmError;
use lazuli_authz::assertion::{self, AssertionError};
use lazuli_authz::certificate::Certificate;
use lazuli_authz::federated;
use lazuli_authz::token::LEEWAY_SECONDS;
use lazuli_meta::model::{Credential, Tenant, Ticket};
use serde_json::{Value, json};

/// What a client shows of itself.
#[derive(Clone, Copy)]
pub enum ClientProof<'a> {
    Secret(&'a str),
    /// A JWT (RFC 7523).
    Assertion {
        jwt: &'a str,
        /// What it may be meant for: the names of the endpoint that it was sent to.
        audiences: &'a [String],
        /// What a token is asked for with it: an assertion is taken once for each resource.
        resource: &'a str,
    },
}

impl std::fmt::Debug for ClientProof<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret",
            Self::Assertion { .. } => "Assertion",
        })
    }
}

impl Engine {
    /// Who signs in with this proof.
    ///
    /// # Errors
    /// [`SignInError`].
    pub async fn sign_in_client(
        &self,
        tenant: &str,
        client_id: &str,
        proof: ClientProof<'_>,
    ) -> Result<Caller, SignInError> {
        let tenant = self.sign_in_tenant(tenant).await?;
        let client_id = client_id.to_ascii_lowercase();
        let Some(principal) = self.db().principal_by_app(&tenant.id, &client_id).await.map_err(db_error)? else {
            return Err(SignInError::UnknownClient(client_id));
        };
        let now = now_ms();
        // Those of the application, and those of its service principal in this tenant.
        let mut kept = self.db().credentials(&client_id).await.map_err(db_error)?;
        kept.extend(self.db().credentials(&principal.id).await.map_err(db_error)?);
        kept.retain(|c| is_current(c, now));
        match proof {
            ClientProof::Secret(secret) => prove_secret(kept, secret).await?,
            ClientProof::Assertion { jwt, audiences, resource } => {
                // What a client signs itself names itself; all else is another issuer's.
                match federated::claimed(jwt) {
                    Ok(claimed) if !claimed.issuer.eq_ignore_ascii_case(&client_id) && claimed.issuer.contains(':') => {
                        self.prove_federated(&kept, jwt).await?;
                    }
                    _ => self.prove_assertion(&client_id, kept, jwt, audiences, resource).await?,
                }
            }
        }
        if principal.body["accountEnabled"] == false {
            return Err(SignInError::Disabled);
        }
        Ok(caller_of(&principal))
    }

    /// The tenant of an address.
    ///
    /// # Errors
    /// [`SignInError::UnknownTenant`].
    pub(crate) async fn sign_in_tenant(&self, tenant: &str) -> Result<Tenant, SignInError> {
        self.tenant(tenant).await?.ok_or_else(|| SignInError::UnknownTenant(tenant.to_owned()))
    }

    async fn prove_assertion(
        &self,
        client_id: &str,
        kept: Vec<Credential>,
        jwt: &str,
        audiences: &[String],
        resource: &str,
    ) -> Result<(), SignInError> {
        let now = now_ms();
        let seconds = u64::try_from(now / 1000).unwrap_or(0);
        let known: Vec<Certificate> = kept.iter().filter_map(certificate_of).collect();
        let believed = assertion::verify(jwt, client_id, audiences, &known, seconds)?;
        let used = Ticket {
            id: believed.use_id(resource),
            kind: "Assertion".to_owned(),
            session: String::new(),
            state: "Used".to_owned(),
            expires_ms: i64::try_from(believed.expires.saturating_mul(1000)).unwrap_or(i64::MAX),
            body: Value::Null,
        };
        let first = self.db().put_ticket(&used, now).await.map_err(db_error)?;
        if first { Ok(()) } else { Err(AssertionError::Replayed.into()) }
    }
}

/// Clocks may differ by as much as tokens are given.
fn is_current(credential: &Credential, now_ms: i64) -> bool {
    let latest = now_ms.saturating_add(i64::try_from(LEEWAY_SECONDS * 1000).unwrap_or(0));
    credential.expires_ms > now_ms && credential.body["startMs"].as_i64().is_none_or(|start| start <= latest)
}

async fn prove_secret(kept: Vec<Credential>, secret: &str) -> Result<(), SignInError> {
    let stored: Vec<String> = kept
        .into_iter()
        .filter(|c| c.kind == SECRET)
        // What a secret begins with is kept with its hash: only one hash is slow work, however many secrets there are.
        .filter(|c| c.body["hint"].as_str().is_none_or(|hint| secret.starts_with(hint)))
        .map(|c| c.verifier)
        .collect();
    let secret = secret.to_owned();
    // The hash is slow on purpose; it must not hold up the other requests of its thread.
    let verified =
        tokio::task::spawn_blocking(move || stored.iter().any(|hash| lazuli_authz::secret::verify(&secret, hash)))
            .await;
    if verified.unwrap_or(false) { Ok(()) } else { Err(SignInError::WrongSecret) }
}

/// [`Credential::kind`] of a client secret; the verifier is its hash.
pub(crate) const SECRET: &str = "Secret";

/// A new secret of an application (by its application id) or a service principal (by its object id), and what is kept of it.
/// Takes some tens of milliseconds: run it off the async threads.
///
/// # Errors
/// If the machine has no randomness to give.
pub(crate) fn secret_credential(
    owner: &str,
    display_name: Option<&str>,
    start_ms: i64,
    expires_ms: i64,
) -> Result<(String, Credential), ArmError> {
    let secret = super::generate_secret()?;
    let mut credential = kept_secret(owner, &secret, expires_ms)?;
    credential.body["startMs"] = json!(start_ms);
    credential.body["displayName"] = json!(display_name);
    Ok((secret, credential))
}

/// What is kept of a secret.
pub(super) fn kept_secret(owner: &str, secret: &str, expires_ms: i64) -> Result<Credential, ArmError> {
    let hint: String = secret.chars().take(3).collect();
    Ok(Credential {
        id: uuid::Uuid::new_v4().to_string(),
        owner: owner.to_ascii_lowercase(),
        kind: SECRET.to_owned(),
        verifier: lazuli_authz::secret::hash(secret).map_err(|_| no_randomness())?,
        expires_ms,
        body: json!({"hint": hint}),
    })
}

/// [`Credential::kind`] of a certificate; the verifier is its DER form in Base64.
pub(crate) const CERTIFICATE: &str = "Certificate";

fn certificate_of(credential: &Credential) -> Option<Certificate> {
    if credential.kind != CERTIFICATE {
        return None;
    }
    Certificate::from_der(BASE64_STANDARD.decode(&credential.verifier).ok()?).ok()
}

/// What is kept of a certificate of a client.
pub(crate) fn certificate_credential(client_id: &str, certificate: &Certificate) -> Credential {
    Credential {
        id: uuid::Uuid::new_v4().to_string(),
        owner: client_id.to_ascii_lowercase(),
        kind: CERTIFICATE.to_owned(),
        verifier: BASE64_STANDARD.encode(&certificate.der),
        expires_ms: certificate.not_after.saturating_mul(1000),
        body: json!({
            "thumbprint": certificate.thumbprint(),
            "displayName": certificate.subject,
            "startMs": certificate.not_before.saturating_mul(1000),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_holds_between_its_start_and_its_end() {
        let (_, mut credential) = secret_credential("A", Some("n"), 1_000_000, 2_000_000).unwrap();
        assert_eq!((credential.owner.as_str(), credential.body["displayName"].as_str()), ("a", Some("n")));
        assert!(is_current(&credential, 1_500_000) && is_current(&credential, 700_000));
        assert!(!is_current(&credential, 699_999) && !is_current(&credential, 2_000_000));
        credential.body = Value::Null;
        assert!(is_current(&credential, 0));
    }
}
