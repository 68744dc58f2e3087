//! Clients that prove who they are with another issuer's token, as a federated credential of theirs allows.

use super::SignInError;
use super::issuers::IssuerError;
use crate::{Engine, now_ms};
use lazuli_authz::federated::{self, Claimed, FederatedError};
use lazuli_meta::model::Credential;
use serde_json::json;
use uuid::Uuid;

/// [`Credential::kind`] of what trusts another issuer; the verifier is the issuer.
pub(crate) const FEDERATED: &str = "Federated";
/// Of one owner, as Azure's.
pub(crate) const MAX_FEDERATED: usize = 20;

/// Why no federated credential fits a token, or the token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FederationError {
    #[error("no federated credential names the issuer '{0}'")]
    Issuer(String),
    #[error("no federated credential of the issuer names the subject '{0}'")]
    Subject(String),
    #[error("no federated credential of the issuer and the subject names the audience '{0}'")]
    Audience(String),
    #[error(transparent)]
    Keys(#[from] IssuerError),
    #[error(transparent)]
    Token(#[from] FederatedError),
}

/// What an owner trusts: an application by its application id, a principal by its object id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trust {
    pub name: String,
    pub issuer: String,
    pub subject: String,
    pub audiences: Vec<String>,
    pub description: Option<String>,
}

/// The end of what has none: the last moment of the year 9999.
const NEVER_MS: i64 = 253_402_300_799_000;

impl Trust {
    pub fn credential(&self, owner: &str) -> Credential {
        Credential {
            id: Uuid::new_v4().to_string(),
            owner: owner.to_ascii_lowercase(),
            kind: FEDERATED.to_owned(),
            verifier: self.issuer.clone(),
            expires_ms: NEVER_MS,
            body: json!({
                "name": self.name, "issuer": self.issuer, "subject": self.subject, "audiences": self.audiences,
                "description": self.description,
            }),
        }
    }
}

/// Whether a token, as far as it speaks of itself, is what one of these credentials trusts. They are compared exactly.
fn require_trust(kept: &[Credential], claimed: &Claimed) -> Result<(), FederationError> {
    let of_issuer: Vec<&Credential> =
        kept.iter().filter(|c| c.kind == FEDERATED && c.verifier == claimed.issuer).collect();
    if of_issuer.is_empty() {
        return Err(FederationError::Issuer(claimed.issuer.clone()));
    }
    let of_subject: Vec<&&Credential> = of_issuer.iter().filter(|c| c.body["subject"] == claimed.subject).collect();
    if of_subject.is_empty() {
        return Err(FederationError::Subject(claimed.subject.clone()));
    }
    let audiences = of_subject.iter().flat_map(|c| c.body["audiences"].as_array().into_iter().flatten());
    let named = |audience: &serde_json::Value| claimed.audiences.iter().any(|a| audience == a);
    if audiences.into_iter().any(named) {
        return Ok(());
    }
    Err(FederationError::Audience(claimed.audiences.join(", ")))
}

impl Engine {
    /// Whether an issuer may be trusted at all.
    pub(crate) fn may_trust(&self, issuer: &str) -> bool {
        self.issuers().may_be(issuer)
    }

    pub(super) async fn prove_federated(&self, kept: &[Credential], jwt: &str) -> Result<(), SignInError> {
        let claimed = federated::claimed(jwt).map_err(FederationError::from)?;
        // Before the issuer is asked: a stranger's token makes no work for anybody.
        require_trust(kept, &claimed)?;
        let keys = self.issuers().keys(&claimed.issuer, claimed.key_id.as_deref()).await;
        let keys = keys.map_err(FederationError::from)?;
        let now = u64::try_from(now_ms() / 1000).unwrap_or(0);
        let believed = federated::verify(jwt, &keys.keys, now).map_err(FederationError::from)?;
        require_trust(kept, &believed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuer_subject_and_audience_must_be_of_one_credential() {
        let trust = |issuer: &str, subject: &str, audience: &str| {
            Trust {
                name: "n".into(),
                issuer: issuer.into(),
                subject: subject.into(),
                audiences: vec![audience.into()],
                description: None,
            }
            .credential("O")
        };
        let kept = [trust("i", "s", "a"), trust("i", "t", "b"), trust("j", "s", "b")];
        let claimed = |issuer: &str, subject: &str, audiences: &[&str]| Claimed {
            issuer: issuer.into(),
            subject: subject.into(),
            audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
            key_id: None,
        };
        assert_eq!(require_trust(&kept, &claimed("i", "s", &["x", "a"])), Ok(()));
        let refused = |c: Claimed| require_trust(&kept, &c).unwrap_err();
        assert_eq!(refused(claimed("k", "s", &["a"])), FederationError::Issuer("k".into()));
        assert_eq!(refused(claimed("i", "u", &["a"])), FederationError::Subject("u".into()));
        assert_eq!(refused(claimed("i", "s", &["b"])), FederationError::Audience("b".into()));
        assert_eq!(refused(claimed("i", "s", &[])), FederationError::Audience(String::new()));
        assert_eq!(refused(claimed("i", "S", &["a"])), FederationError::Subject("S".into()));
    }
}
