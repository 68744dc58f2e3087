//! Shared access signatures of the Blob service: the query of a URL says what its holder may do, signed with a key.
//!
//! ```text
//! account SAS          ss srt sp se …          signed with an account key
//! service SAS          sr [si] [sp se] …       signed with an account key; si names a stored access policy of the container
//! user delegation SAS  sr skoid sktid skt …    signed with a key that the server derives for a principal and a time
//! ```
//! [`parse`] reads the fields, one of [`verify_account`], [`verify_service`], [`verify_user_delegation`] checks the signature
//! (first, in constant time), times, protocol and address, and gives the [`Rights`], which are to be asked for each operation.
//! A user delegation SAS never allows more than its principal may do: that is for the caller to ask (mission RB-6).
//!
//! Versions 2015-04-05 and later. Sources: "Create an account SAS", "Create a service SAS", "Create a user delegation SAS" of
//! the storage REST reference, azure-storage-blob's `_shared_access_signature.py`.

mod error;
mod fields;
mod layout;
#[cfg(test)]
mod tests;

pub use error::SasError;
pub use fields::parse;

use crate::shared_key::{mac, mac_bytes, mac_matches};
use fields::parse_time;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Longest life of a user delegation key, in seconds (seven days).
pub const MAX_DELEGATION_SECONDS: i64 = 7 * 24 * 3600;

/// Which key signs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Account,
    Service,
    UserDelegation,
}

/// The fields of a SAS as the query has them, decoded. Nothing of it is to be believed before one of the `verify_` functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sas {
    kind: Kind,
    /// Name (`sp`) to value; without the signature.
    fields: BTreeMap<&'static str, String>,
    signature: String,
}

/// Headers that a SAS puts into the answer in place of the blob's own.
pub const RESPONSE_HEADERS: [(&str, &str); 5] = [
    ("rscc", "cache-control"),
    ("rscd", "content-disposition"),
    ("rsce", "content-encoding"),
    ("rscl", "content-language"),
    ("rsct", "content-type"),
];

/// What the request is about.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub account: &'a str,
    /// Decoded; `$root` where the URL names none.
    pub container: &'a str,
    /// Decoded.
    pub blob: Option<&'a str>,
    /// Value of the query's `snapshot`.
    pub snapshot: Option<&'a str>,
}

/// Where the request comes from, and when.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub now: Timestamp,
    /// `None`: not known; a SAS that asks for addresses is then refused.
    pub ip: Option<IpAddr>,
    pub https: bool,
    /// Object id of the bearer token that came along, if any (`sduoid` asks for one).
    pub bearer: Option<&'a str>,
    /// Headers and parameters of the request, decoded, for `srh` and `srq`.
    pub headers: &'a [(&'a str, &'a str)],
    pub query: &'a [(&'a str, &'a str)],
}

/// A stored access policy of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessPolicy {
    pub id: String,
    /// As the client wrote them.
    pub start: Option<String>,
    pub expiry: Option<String>,
    pub permission: Option<String>,
}

/// What a request works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The account: list containers, service properties.
    Service,
    /// A container: create, delete, properties, list blobs.
    Container,
    /// A blob or what it consists of.
    Object,
}

/// What a verified SAS allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    permissions: String,
    reach: Reach,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    /// `srt`: letters of `s`, `c`, `o`.
    Account(String),
    Container,
    Blob,
}

impl Rights {
    /// Whether an operation on this level is allowed that any of these permissions allows (Put Blob: `"cw"`, or `"w"` where the
    /// blob exists; List Blobs: `"l"`).
    ///
    /// # Errors
    /// [`SasError::ResourceType`], [`SasError::Permission`].
    pub fn require(&self, level: Level, any_of: &str) -> Result<(), SasError> {
        let has = |letters: &str| letters.chars().any(|letter| self.permissions.contains(letter));
        let reached = match (&self.reach, level) {
            (Reach::Account(types), Level::Service) => types.contains('s'),
            (Reach::Account(types), Level::Container) => types.contains('c'),
            (Reach::Account(types), Level::Object) => types.contains('o'),
            (_, Level::Object) => true,
            // Of the container itself only what it holds may be listed and found, whatever the other letters say.
            (Reach::Container, Level::Container) => any_of.contains(['l', 'f']),
            (Reach::Container | Reach::Blob, Level::Service) | (Reach::Blob, Level::Container) => false,
        };
        match reached {
            false => Err(SasError::ResourceType),
            true if has(any_of) => Ok(()),
            true => Err(SasError::Permission),
        }
    }

    /// The letters of `sp`, from the SAS or its policy.
    pub fn permissions(&self) -> &str {
        &self.permissions
    }
}

/// What a user delegation key is derived from; all of it travels in the SAS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationKey {
    /// Object id and tenant of the principal that asked for the key.
    pub object_id: String,
    pub tenant_id: String,
    /// As written in the answer of Get User Delegation Key, and in the SAS.
    pub start: String,
    pub expiry: String,
    /// `b`
    pub service: String,
    /// The `x-ms-version` of the request that asked for the key.
    pub version: String,
    /// Tenant of the user that may use the key's signatures; mostly empty.
    pub delegated_tenant: String,
}

impl DelegationKey {
    /// The 32 bytes to sign with: different for every principal, time and account, the same whenever they are asked for.
    /// `secret` is the account's own and never leaves the server.
    pub fn derive(&self, secret: &[u8], account: &str) -> [u8; 32] {
        let fields = [
            "lazuli user delegation key",
            account,
            &self.object_id,
            &self.tenant_id,
            &self.start,
            &self.expiry,
            &self.service,
            &self.version,
            &self.delegated_tenant,
        ];
        mac_bytes(secret, &fields.join("\n"))
    }
}

impl Sas {
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `sv`: the version by which the request is to be served.
    pub fn version(&self) -> &str {
        self.field("sv")
    }

    /// `si`: the stored access policy that it refers to.
    pub fn policy(&self) -> Option<&str> {
        self.given("si")
    }

    /// The key it says to be signed with; `None` for the other kinds.
    pub fn delegation_key(&self) -> Option<DelegationKey> {
        let text = |name| self.field(name).to_owned();
        (self.kind == Kind::UserDelegation).then(|| DelegationKey {
            object_id: text("skoid"),
            tenant_id: text("sktid"),
            start: text("skt"),
            expiry: text("ske"),
            service: text("sks"),
            version: text("skv"),
            delegated_tenant: text("skdutid"),
        })
    }

    /// Name and value of the headers that the answer of a read gets.
    pub fn response_headers(&self) -> Vec<(&'static str, &str)> {
        RESPONSE_HEADERS.iter().filter_map(|(field, header)| Some((*header, self.given(field)?))).collect()
    }

    fn given(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

/// An account SAS: of the Blob service, signed with one of the account's keys (decoded), valid now and from here.
///
/// # Errors
/// [`SasError`].
pub fn verify_account<K: AsRef<[u8]>>(
    sas: &Sas,
    account: &str,
    keys: &[K],
    origin: &Origin<'_>,
) -> Result<Rights, SasError> {
    signed_by(sas, keys, &layout::account(sas, account))?;
    if !sas.field("ss").contains('b') {
        return Err(SasError::Service);
    }
    let reach = Reach::Account(sas.field("srt").to_owned());
    finish(sas, &AccessPolicy::default(), reach, origin)
}

/// A service SAS, signed with one of the account's keys (decoded). `policies`: those of the target's container.
///
/// # Errors
/// [`SasError`].
pub fn verify_service<K: AsRef<[u8]>>(
    sas: &Sas,
    target: &Target<'_>,
    keys: &[K],
    policies: &[AccessPolicy],
    origin: &Origin<'_>,
) -> Result<Rights, SasError> {
    let reach = reach(sas, target)?;
    signed_by(sas, keys, &layout::service(sas, target))?;
    let none = AccessPolicy::default();
    let policy = match sas.policy() {
        None => &none,
        Some(id) => policies.iter().find(|p| p.id == id).ok_or(SasError::NoPolicy)?,
    };
    finish(sas, policy, reach, origin)
}

/// A user delegation SAS, signed with the key that [`DelegationKey::derive`] gives for [`Sas::delegation_key`].
///
/// What it allows is the intersection of the [`Rights`] and of what its principal may do now.
///
/// # Errors
/// [`SasError`].
pub fn verify_user_delegation(
    sas: &Sas,
    target: &Target<'_>,
    key: &[u8],
    origin: &Origin<'_>,
) -> Result<Rights, SasError> {
    let reach = reach(sas, target)?;
    signed_by(sas, &[key], &layout::user_delegation(sas, target, origin))?;
    let (start, expiry) = (sas.field("skt"), sas.field("ske"));
    let current = |text: &str| parse_time(text).ok_or_else(|| SasError::malformed("skt, ske"));
    if (!start.is_empty() && origin.now < current(start)?) || origin.now >= current(expiry)? {
        return Err(SasError::time(start, expiry, origin.now));
    }
    if sas.field("sks") != "b" {
        return Err(SasError::Service);
    }
    if let Some(user) = sas.given("sduoid")
        && !origin.bearer.is_some_and(|bearer| bearer.eq_ignore_ascii_case(user))
    {
        return Err(SasError::DelegatedUser);
    }
    finish(sas, &AccessPolicy::default(), reach, origin)
}

/// The query of an account SAS. `fields`: name and value of all but the signature; empty values are left out.
///
/// # Errors
/// As [`parse`].
pub fn sign_account(fields: &[(&str, &str)], account: &str, key: &[u8]) -> Result<String, SasError> {
    let sas = fields::of_pairs(fields)?;
    Ok(fields::to_query(&sas, &mac(key, &layout::account(&sas, account))))
}

/// The query of a service SAS, as [`sign_account`].
///
/// # Errors
/// As [`parse`].
pub fn sign_service(fields: &[(&str, &str)], target: &Target<'_>, key: &[u8]) -> Result<String, SasError> {
    let sas = fields::of_pairs(fields)?;
    Ok(fields::to_query(&sas, &mac(key, &layout::service(&sas, target))))
}

fn signed_by<K: AsRef<[u8]>>(sas: &Sas, keys: &[K], text: &str) -> Result<(), SasError> {
    let mut found = false;
    for key in keys {
        found |= mac_matches(key.as_ref(), text, &sas.signature);
    }
    if found { Ok(()) } else { Err(SasError::Signature { string_to_sign: text.to_owned() }) }
}

fn reach(sas: &Sas, target: &Target<'_>) -> Result<Reach, SasError> {
    match sas.field("sr") {
        "c" => Ok(Reach::Container),
        "b" if target.blob.is_some() => Ok(Reach::Blob),
        "bs" if target.blob.is_some() && target.snapshot.is_some() => Ok(Reach::Blob),
        "b" | "bs" => Err(SasError::ResourceType),
        _ => Err(SasError::malformed("sr")),
    }
}

/// Times, permissions, protocol and address; a policy gives what the SAS leaves out, and both may not speak of the same.
fn finish(sas: &Sas, policy: &AccessPolicy, reach: Reach, origin: &Origin<'_>) -> Result<Rights, SasError> {
    let one = |name: &str, policy: Option<&String>| match (sas.given(name), policy.filter(|v| !v.is_empty())) {
        (Some(_), Some(_)) => Err(SasError::malformed(name)),
        (own, policy) => Ok(own.map(str::to_owned).or_else(|| policy.cloned())),
    };
    let start = one("st", policy.start.as_ref())?;
    let expiry = one("se", policy.expiry.as_ref())?.ok_or_else(|| SasError::malformed("se"))?;
    let permissions = one("sp", policy.permission.as_ref())?.ok_or_else(|| SasError::malformed("sp"))?;
    let ends = parse_time(&expiry).ok_or_else(|| SasError::malformed("se"))?;
    let starts = start.as_deref().map(|t| parse_time(t).ok_or_else(|| SasError::malformed("st"))).transpose()?;
    if starts.is_some_and(|starts| origin.now < starts) || origin.now >= ends {
        return Err(SasError::time(start.as_deref().unwrap_or_default(), &expiry, origin.now));
    }
    match sas.given("spr") {
        Some("https") if !origin.https => return Err(SasError::Protocol),
        None | Some("https" | "https,http" | "http,https") => {}
        Some(_) => return Err(SasError::malformed("spr")),
    }
    if let Some(range) = sas.given("sip") {
        fields::check_address(range, origin.ip)?;
    }
    Ok(Rights { permissions, reach })
}
