//! Who is asking: metadata of the cloud, OpenID discovery, token endpoints, and the check of bearer tokens.
//!
//! Shapes follow Microsoft's identity platform, v1 and v2 (az-cli.md §1). A token is issued only after the engine has
//! confirmed who asks: a client by its secret or certificate (`token`), a person by a password on a page (`authorize`, `device`), by
//! another OpenID provider (`external`), or by what came of one of these (`person`).

pub(crate) mod authorize;
pub(crate) mod bearer;
pub(crate) mod device;
pub(crate) mod external;
pub(crate) mod machine_token;
pub(crate) mod metadata;
pub(crate) mod openid;
mod page;
mod person;
mod redirect;
pub(crate) mod refusal;
pub(crate) mod token;

use crate::context::Context;
use lazuli_arm::ArmError;
use lazuli_authz::{Claims, KeyRing, SigningKey, TokenError, Validation};
use lazuli_engine::Engine;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What signs and checks tokens.
pub(crate) struct TokenConfig {
    pub keys: Keys,
    pub lifetime: Duration,
    /// The tenant meant by addresses that name none (`/adfs`, `/common`).
    pub home_tenant: Option<String>,
}

/// Where the keys are.
pub(crate) enum Keys {
    /// One of this server alone, where it has no directory.
    Own(Arc<KeyRing>),
    /// With the directory; they change.
    Kept(Engine),
}

impl Keys {
    async fn ring(&self) -> Result<Arc<KeyRing>, ArmError> {
        match self {
            Self::Own(ring) => Ok(ring.clone()),
            Self::Kept(engine) => engine.signing_keys().await,
        }
    }

    /// The key that signs now.
    pub(crate) async fn signer(&self) -> Result<Arc<SigningKey>, ArmError> {
        let ring = self.ring().await?;
        let signer = ring.signer(now_milliseconds());
        signer.cloned().ok_or_else(|| ArmError::internal("there is no key to sign tokens with"))
    }
}

impl TokenConfig {
    /// The public halves of all keys that count.
    pub(crate) async fn jwks(&self) -> Result<Value, ArmError> {
        Ok(self.keys.ring().await?.jwks(now_milliseconds()))
    }

    /// The claims of a token that this installation signed.
    pub(crate) async fn validate(
        &self,
        token: &str,
        wanted: &Validation<'_>,
    ) -> Result<Result<Claims, TokenError>, ArmError> {
        let checked = self.keys.ring().await?.validate(token, wanted);
        match (&checked, &self.keys) {
            // Another server may have made the key a moment ago.
            (Err(TokenError::ForeignKey), Keys::Kept(engine)) => {
                Ok(engine.signing_keys_again().await?.validate(token, wanted))
            }
            _ => Ok(checked),
        }
    }
}

fn now_milliseconds() -> i64 {
    i64::try_from(now_seconds().saturating_mul(1000)).unwrap_or(i64::MAX)
}

pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Audiences of the management endpoint: Azure's own, and this server's.
const ARM_AUDIENCES: &[&str] = &[
    "https://management.azure.com/",
    "https://management.core.windows.net/",
    "https://management.chinacloudapi.cn/",
    "https://management.core.chinacloudapi.cn/",
];

/// Audiences of the directory: Azure's own. Below the server's own names it is `{base}/graph`.
const GRAPH_AUDIENCES: &[&str] = &["https://graph.microsoft.com/", "https://microsoftgraph.chinacloudapi.cn/"];

/// Other resources that clients ask tokens for; none of these opens anything here.
const OTHER_AUDIENCES: &[&str] = &[
    "https://graph.windows.net/",
    "https://graph.chinacloudapi.cn/",
    "https://vault.azure.net/",
    "https://vault.azure.cn/",
];

/// What a token for the blob data plane may be issued for, besides the account's own URL.
pub(crate) const STORAGE_AUDIENCES: &[&str] = &["https://storage.azure.com/", "https://disk.azure.com/"];

/// What a token for the management endpoint may be issued for.
pub(crate) fn arm_audiences(own_bases: &[String], context: &Context) -> Vec<String> {
    let mut all = own_arm_audiences(own_bases);
    // The port may have been mapped on the way; the name has been checked already.
    if context.service == crate::net::hosts::Service::Own {
        all.push(context.base.clone());
    }
    all
}

/// What a token for the directory may be issued for. `arm`: as [`arm_audiences`].
pub(crate) fn graph_audiences(arm: &[String]) -> Vec<String> {
    let own = arm.iter().filter(|a| !ARM_AUDIENCES.contains(&a.as_str())).map(|base| format!("{base}/graph"));
    GRAPH_AUDIENCES.iter().map(|a| (*a).to_owned()).chain(own).collect()
}

/// What a token for the management endpoint may be issued for, where no request names a host.
pub(crate) fn own_arm_audiences(own_bases: &[String]) -> Vec<String> {
    ARM_AUDIENCES.iter().map(|a| (*a).to_owned()).chain(own_bases.iter().cloned()).collect()
}

/// Whether tokens are issued for this resource at all.
pub(crate) fn is_known_resource(resource: &str, arm: &[String]) -> bool {
    let others = STORAGE_AUDIENCES.iter().chain(OTHER_AUDIENCES).copied();
    let graph = graph_audiences(arm);
    arm.iter().chain(&graph).map(String::as_str).chain(others).any(|a| lazuli_authz::token::same_resource(a, resource))
        || is_account_url(resource)
}

/// `https://account.blob.core.windows.net`, as azcopy and some SDKs ask for.
fn is_account_url(resource: &str) -> bool {
    let host = resource.strip_prefix("https://").map(|h| h.trim_end_matches('/'));
    host.and_then(crate::net::hosts::azure_service)
        .is_some_and(|s| matches!(s, crate::net::hosts::Service::Blob { .. }))
}

/// Every authority whose tokens count: each name by which this server can be asked to sign somebody in.
pub(crate) fn authorities(own_bases: &[String], context: &Context) -> Vec<String> {
    let mut all: Vec<String> =
        ["https://login.microsoftonline.com", "https://login.chinacloudapi.cn"].map(str::to_owned).to_vec();
    all.extend_from_slice(own_bases);
    if context.service == crate::net::hosts::Service::Own {
        all.push(context.base.clone());
    }
    all
}
