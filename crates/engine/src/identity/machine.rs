//! Who a machine's guest may act as. The metadata service asks for it, each time: an identity that is taken from a machine, or
//! deleted, gives no token from then on. Neither does one of a machine that is not placed on the computer which asks.
//!
//! A worker signs the tokens of its own machines, in the name of the server, which says in the database what that is.

use super::caller_of;
use crate::call::Caller;
use crate::providers::virtual_machine::MachineInternal;
use crate::stored::internal;
use crate::{Engine, db_error};
use lazuli_arm::ArmError;
use lazuli_meta::model::Resource;
use lazuli_vmm::provisioning::tokens::TokenAsk;
use serde::{Deserialize, Serialize};

/// The setting of the database with [`TokenIssuer`].
const ISSUER: &str = "tokenIssuer";

/// In whose name the tokens of machines are signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenIssuer {
    /// What the server calls itself; the first is the issuer.
    pub bases: Vec<String>,
    pub lifetime_seconds: u64,
}

/// Why a guest gets no token, in the words of the metadata service.
#[derive(Debug, thiserror::Error)]
pub enum MachineIdentityError {
    #[error("Identity not found")]
    NotFound,
    #[error(
        "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"
    )]
    Several,
    #[error(transparent)]
    Failed(#[from] ArmError),
}

impl Engine {
    /// Workers sign in this name from now on.
    ///
    /// # Errors
    /// What the database says.
    pub async fn tell_token_issuer(&self, issuer: &TokenIssuer) -> Result<(), ArmError> {
        let text = serde_json::to_string(issuer).map_err(ArmError::internal)?;
        self.db().put_setting(ISSUER, &text, false).await.map_err(db_error).map(drop)
    }

    /// In whose name a worker signs; `None`: no server has begun yet.
    ///
    /// # Errors
    /// What the database says.
    pub async fn token_issuer(&self) -> Result<Option<TokenIssuer>, ArmError> {
        let text = self.db().setting(ISSUER).await.map_err(db_error)?;
        text.map(|text| serde_json::from_str(&text).map_err(ArmError::internal)).transpose()
    }

    /// `worker`: the computer that asks; `None`: the server's own.
    ///
    /// # Errors
    /// [`MachineIdentityError`].
    pub async fn machine_identity(&self, ask: &TokenAsk, worker: Option<&str>) -> Result<Caller, MachineIdentityError> {
        let row = self.db().resource(&ask.machine.to_ascii_lowercase()).await.map_err(db_error)?;
        let row = row.ok_or(MachineIdentityError::NotFound)?;
        let state: MachineInternal = internal(&row)?;
        // Another machine may have the name by now, and this one may have been given up there.
        if state.vm_id != ask.vm_id || state.worker() != worker {
            return Err(MachineIdentityError::NotFound);
        }
        let mut held = Vec::new();
        let assigned = row.body["identity"]["userAssignedIdentities"].as_object();
        for id in assigned.into_iter().flatten().map(|(id, _)| id) {
            if let Some(identity) = self.db().resource(&id.to_ascii_lowercase()).await.map_err(db_error)? {
                held.push(Held::of(&identity));
            }
        }
        let own = row.body["identity"]["principalId"].as_str().map(str::to_owned);
        let access = self.access().await?;
        let own = own.and_then(|id| access.principal(&id)).map(|p| Held {
            object_id: p.id.clone(),
            client_id: p.app_id.clone(),
            resource_id: row.id.clone(),
        });
        let chosen = choose(ask, own.as_ref(), &held)?;
        let principal = access.principal(&chosen.object_id).filter(|p| p.body["accountEnabled"] != false);
        principal.map(caller_of).ok_or(MachineIdentityError::NotFound)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    object_id: String,
    client_id: String,
    resource_id: String,
}

impl Held {
    fn of(identity: &Resource) -> Self {
        let text = |name: &str| identity.body["properties"][name].as_str().unwrap_or_default().to_owned();
        Self { object_id: text("principalId"), client_id: text("clientId"), resource_id: identity.id.clone() }
    }
}

fn choose<'a>(ask: &TokenAsk, own: Option<&'a Held>, assigned: &'a [Held]) -> Result<&'a Held, MachineIdentityError> {
    let same = |wanted: &Option<String>, id: &str| wanted.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(id));
    let named = ask.client_id.is_some() || ask.object_id.is_some() || ask.resource_id.is_some();
    if named {
        let fits = |held: &&Held| {
            same(&ask.client_id, &held.client_id)
                && same(&ask.object_id, &held.object_id)
                && same(&ask.resource_id, &held.resource_id)
        };
        return own.into_iter().chain(assigned).find(fits).ok_or(MachineIdentityError::NotFound);
    }
    match (own, assigned) {
        (Some(own), _) => Ok(own),
        (None, [only]) => Ok(only),
        (None, []) => Err(MachineIdentityError::NotFound),
        (None, _) => Err(MachineIdentityError::Several),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_names_one_of_several() {
        let held = |name: &str| Held {
            object_id: format!("o{name}"),
            client_id: format!("c{name}"),
            resource_id: format!("/r/{name}"),
        };
        let (own, all) = (held("own"), [held("a"), held("b")]);
        let none = TokenAsk::default();
        assert_eq!(choose(&none, Some(&own), &all).unwrap(), &own);
        assert_eq!(choose(&none, None, &all[..1]).unwrap(), &all[0]);
        assert!(matches!(choose(&none, None, &all), Err(MachineIdentityError::Several)));
        assert!(matches!(choose(&none, None, &[]), Err(MachineIdentityError::NotFound)));
        let by = |client: Option<&str>, object: Option<&str>, resource: Option<&str>| TokenAsk {
            client_id: client.map(str::to_owned),
            object_id: object.map(str::to_owned),
            resource_id: resource.map(str::to_owned),
            ..TokenAsk::default()
        };
        assert_eq!(choose(&by(Some("CB"), None, None), Some(&own), &all).unwrap(), &all[1]);
        assert_eq!(choose(&by(None, Some("oown"), None), Some(&own), &all).unwrap(), &own);
        assert_eq!(choose(&by(None, None, Some("/R/a")), None, &all).unwrap(), &all[0]);
        assert!(matches!(choose(&by(Some("ca"), Some("ob"), None), None, &all), Err(MachineIdentityError::NotFound)));
    }
}
