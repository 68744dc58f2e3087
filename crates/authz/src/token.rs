//! Access tokens: JWTs signed with RS256, as Microsoft's identity platform issues them.
//!
//! A token must never be believed on its claims alone: [`SigningKey::validate`] checks the signature first, and only
//! then the issuer, the audience and the times, in that order. Nothing outside a validated token is ever used.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use aws_lc_rs::{digest, error};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Clocks of client and server may differ by this many seconds.
pub const LEEWAY_SECONDS: u64 = 300;

/// Shape of a token: what v1 and v2 endpoints of Microsoft's identity platform issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenVersion {
    #[serde(rename = "1.0")]
    V1,
    #[serde(rename = "2.0")]
    V2,
}

/// The claims of an access token. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: String,
    pub iss: String,
    pub iat: u64,
    pub nbf: u64,
    pub exp: u64,
    /// Application (client) id.
    pub appid: String,
    /// Object id of the principal.
    pub oid: String,
    pub sub: String,
    /// Tenant id.
    pub tid: String,
    pub ver: TokenVersion,
    /// Unique id of the token.
    pub uti: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserClaims>,
}

/// What a token says of a person besides. Nothing is decided on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserClaims {
    pub name: String,
    pub upn: String,
    pub unique_name: String,
    pub scp: String,
}

impl UserClaims {
    pub fn new(name: &str, login: &str) -> Self {
        Self {
            name: name.to_owned(),
            upn: login.to_owned(),
            unique_name: login.to_owned(),
            scp: "user_impersonation".to_owned(),
        }
    }
}

/// The claims of an id token, which tells a client who signed in. Its audience is the client: it opens nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdClaims {
    pub aud: String,
    pub iss: String,
    pub iat: u64,
    pub nbf: u64,
    pub exp: u64,
    pub sub: String,
    pub oid: String,
    pub tid: String,
    pub name: String,
    pub preferred_username: String,
    /// As v1 names the login.
    pub upn: String,
    pub ver: TokenVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

/// For whom a token is to be issued.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// `https://host[:port]` of the sign-in endpoint, without a trailing slash.
    pub authority: &'a str,
    pub audience: &'a str,
    pub tenant: &'a str,
    pub app_id: &'a str,
    pub object_id: &'a str,
    pub version: TokenVersion,
    /// Seconds since the Unix epoch.
    pub now: u64,
    pub lifetime_seconds: u64,
}

impl Claims {
    pub fn new(grant: &Grant<'_>) -> Self {
        Self {
            aud: grant.audience.to_owned(),
            iss: issuer(grant.authority, grant.tenant, grant.version),
            iat: grant.now,
            nbf: grant.now,
            exp: grant.now.saturating_add(grant.lifetime_seconds),
            appid: grant.app_id.to_owned(),
            oid: grant.object_id.to_owned(),
            sub: grant.object_id.to_owned(),
            tid: grant.tenant.to_owned(),
            ver: grant.version,
            uti: BASE64_URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes()),
            user: None,
        }
    }
}

/// The `iss` of tokens that `authority` issues for a tenant.
pub fn issuer(authority: &str, tenant: &str, version: TokenVersion) -> String {
    let authority = authority.trim_end_matches('/');
    match version {
        TokenVersion::V1 => format!("{authority}/{tenant}/"),
        TokenVersion::V2 => format!("{authority}/{tenant}/v2.0"),
    }
}

/// What a token must say to be accepted.
#[derive(Debug, Clone, Copy)]
pub struct Validation<'a> {
    /// Accepted audiences; compared without a trailing slash and without case.
    pub audiences: &'a [String],
    /// Accepted sign-in endpoints (`https://host[:port]`).
    pub authorities: &'a [String],
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// Why a token is refused. The texts hold nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is not a well-formed JWT")]
    Malformed,
    #[error("the token is signed with a key of another issuer")]
    ForeignKey,
    #[error("the token's signature does not match its content")]
    BadSignature,
    #[error("the token was issued by '{issuer}'")]
    WrongIssuer { issuer: String },
    #[error("the token is meant for '{audience}'")]
    WrongAudience { audience: String },
    #[error("the token expired at {at}")]
    Expired {
        /// Seconds since the Unix epoch.
        at: u64,
        now: u64,
    },
    #[error("the token is not valid before {at}")]
    NotYetValid { at: u64 },
}

/// Why a stored key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the token-signing key could not be generated")]
    Generate(#[source] error::Unspecified),
    #[error("the token-signing key is not a PKCS#8 RSA key in PEM form; delete it to have a new one made")]
    NotPkcs8(#[source] Option<error::KeyRejected>),
    #[error("the token-signing key is not usable for RS256")]
    Unusable(#[source] jsonwebtoken::errors::Error),
    #[error("the token could not be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// The server's own key: signs tokens, checks them, and shows its public half as a JWKS document.
pub struct SigningKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
    modulus: String,
    exponent: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new 2048-bit RSA key as PKCS#8 PEM, for the caller to keep (mode 0600) and hand to [`SigningKey::from_pem`].
    pub fn generate_pem() -> Result<String, KeyError> {
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(KeyError::Generate)?;
        let der: Pkcs8V1Der<'_> = key.as_der().map_err(KeyError::Generate)?;
        let text = BASE64_STANDARD.encode(der.as_ref());
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let body: String = pem.lines().filter(|l| !l.starts_with("-----")).map(str::trim).collect();
        let der = BASE64_STANDARD.decode(body).map_err(|_| KeyError::NotPkcs8(None))?;
        let key = KeyPair::from_pkcs8(&der).map_err(|e| KeyError::NotPkcs8(Some(e)))?;
        let modulus = key.public_key().modulus().big_endian_without_leading_zero().to_vec();
        let exponent = key.public_key().exponent().big_endian_without_leading_zero().to_vec();
        let fingerprint = digest::digest(&digest::SHA256, key.public_key().as_ref());
        Ok(Self {
            encoding: EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(KeyError::Unusable)?,
            decoding: DecodingKey::from_rsa_raw_components(&modulus, &exponent),
            key_id: BASE64_URL_SAFE_NO_PAD.encode(&fingerprint.as_ref()[..20]),
            modulus: BASE64_URL_SAFE_NO_PAD.encode(&modulus),
            exponent: BASE64_URL_SAFE_NO_PAD.encode(&exponent),
        })
    }

    /// The `kid` of tokens signed with this key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public half: `{kty, use, kid, x5t, n, e, alg}`.
    pub fn jwk(&self) -> Value {
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.key_id, "x5t": self.key_id,
            "n": self.modulus, "e": self.exponent,
        })
    }

    /// The public half as a document of its own: `{"keys":[…]}`.
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk()]})
    }

    /// An id token.
    pub fn sign_id(&self, claims: &IdClaims) -> Result<String, KeyError> {
        self.sign_claims(claims)
    }

    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        self.sign_claims(claims)
    }

    fn sign_claims(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(KeyError::Sign)
    }

    /// The claims of a token that this key signed and that says what `wanted` asks for.
    pub fn validate(&self, token: &str, wanted: &Validation<'_>) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.kid.as_deref() != Some(self.key_id.as_str()) || header.alg != Algorithm::RS256 {
            return Err(TokenError::ForeignKey);
        }
        // Times, audience and issuer are checked below, against the caller's clock and with errors of our own.
        let mut signature_only = jsonwebtoken::Validation::new(Algorithm::RS256);
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        signature_only.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &signature_only)
            .map_err(|e| match e.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::BadSignature,
                _ => TokenError::Malformed,
            })?
            .claims;
        check(&claims, wanted)?;
        Ok(claims)
    }
}

/// The id of the key that a token says to be signed with.
///
/// # Errors
/// [`TokenError::Malformed`]; [`TokenError::ForeignKey`] where it names none.
pub(crate) fn key_id_of(token: &str) -> Result<String, TokenError> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
    header.kid.ok_or(TokenError::ForeignKey)
}

/// The claims of an already verified token against what is wanted.
fn check(claims: &Claims, wanted: &Validation<'_>) -> Result<(), TokenError> {
    let issued_here = wanted.authorities.iter().any(|a| claims.iss == issuer(a, &claims.tid, claims.ver));
    if !issued_here {
        return Err(TokenError::WrongIssuer { issuer: claims.iss.clone() });
    }
    if !wanted.audiences.iter().any(|a| same_resource(a, &claims.aud)) {
        return Err(TokenError::WrongAudience { audience: claims.aud.clone() });
    }
    if claims.nbf > wanted.now.saturating_add(LEEWAY_SECONDS) {
        return Err(TokenError::NotYetValid { at: claims.nbf });
    }
    // No leeway here: a lifetime may be shorter than the leeway, and this server reads its own clock.
    if claims.exp <= wanted.now {
        return Err(TokenError::Expired { at: claims.exp, now: wanted.now });
    }
    Ok(())
}

/// Whether two resource URIs name the same audience: case and trailing slashes do not count.
pub fn same_resource(a: &str, b: &str) -> bool {
    a.trim_end_matches('/').eq_ignore_ascii_case(b.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static KEY: LazyLock<SigningKey> =
        LazyLock::new(|| SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap());
    const AUTHORITY: &str = "https://localhost:8443";
    const NOW: u64 = 1_800_000_000;

    fn claims(version: TokenVersion) -> Claims {
        Claims::new(&Grant {
            authority: AUTHORITY,
            audience: "https://management.azure.com/",
            tenant: "t",
            app_id: "app",
            object_id: "oid",
            version,
            now: NOW,
            lifetime_seconds: 3600,
        })
    }

    fn validate(token: &str, audience: &str, authority: &str, now: u64) -> Result<Claims, TokenError> {
        let (audiences, authorities) = ([audience.to_owned()], [authority.to_owned()]);
        KEY.validate(token, &Validation { audiences: &audiences, authorities: &authorities, now })
    }

    #[test]
    fn accepts_its_own_tokens_of_both_versions() {
        for version in [TokenVersion::V1, TokenVersion::V2] {
            let token = KEY.sign(&claims(version)).unwrap();
            let got = validate(&token, "HTTPS://management.azure.com", AUTHORITY, NOW).unwrap();
            assert_eq!((got.oid.as_str(), got.ver), ("oid", version));
        }
    }

    #[test]
    fn tells_what_is_wrong() {
        let token = KEY.sign(&claims(TokenVersion::V1)).unwrap();
        let arm = "https://management.azure.com";
        let expired = validate(&token, arm, AUTHORITY, NOW + 3600).unwrap_err();
        assert_eq!(expired, TokenError::Expired { at: NOW + 3600, now: NOW + 3600 });
        let early = validate(&token, arm, AUTHORITY, NOW - LEEWAY_SECONDS - 1).unwrap_err();
        assert_eq!(early, TokenError::NotYetValid { at: NOW });
        assert!(validate(&token, arm, AUTHORITY, NOW - LEEWAY_SECONDS).is_ok());
        let audience = validate(&token, "https://storage.azure.com", AUTHORITY, NOW).unwrap_err();
        assert!(matches!(audience, TokenError::WrongAudience { .. }));
        let issuer = validate(&token, arm, "https://elsewhere", NOW).unwrap_err();
        assert!(matches!(issuer, TokenError::WrongIssuer { .. }));
    }

    #[test]
    fn refuses_foreign_keys_and_unsigned_tokens() {
        let foreign = SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap();
        let token = foreign.sign(&claims(TokenVersion::V1)).unwrap();
        let arm = "https://management.azure.com";
        assert_eq!(validate(&token, arm, AUTHORITY, NOW).unwrap_err(), TokenError::ForeignKey);

        // The same kid, but another key behind it.
        let forged = SigningKey { key_id: KEY.key_id.clone(), ..foreign }.sign(&claims(TokenVersion::V1)).unwrap();
        assert_eq!(validate(&forged, arm, AUTHORITY, NOW).unwrap_err(), TokenError::BadSignature);

        let part = |v: Value| BASE64_URL_SAFE_NO_PAD.encode(v.to_string());
        let body = part(serde_json::to_value(claims(TokenVersion::V1)).unwrap());
        let unsigned = format!("{}.{body}.", part(json!({"alg": "none", "kid": KEY.key_id})));
        assert!(validate(&unsigned, arm, AUTHORITY, NOW).is_err());
    }

    #[test]
    fn jwks_names_the_key_and_holds_no_private_part() {
        let jwks = KEY.jwks();
        assert_eq!(jwks["keys"][0]["kid"], KEY.key_id());
        assert_eq!(jwks["keys"][0]["e"], "AQAB");
        let names: Vec<_> = jwks["keys"][0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["kty", "use", "alg", "kid", "x5t", "n", "e"]);
    }

    #[test]
    fn bad_keys_are_refused() {
        for bad in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "%%%"] {
            assert!(matches!(SigningKey::from_pem(bad), Err(KeyError::NotPkcs8(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_accepts_and_never_panics_on_noise(text in "[A-Za-z0-9_.\\-]{0,200}") {
            prop_assert!(validate(&text, "https://management.azure.com", AUTHORITY, NOW).is_err());
        }

        #[test]
        fn a_changed_byte_is_noticed(position in any::<prop::sample::Index>()) {
            let token = KEY.sign(&claims(TokenVersion::V2)).unwrap();
            let mut bytes = token.clone().into_bytes();
            let i = position.index(bytes.len());
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert!(validate(&changed, "https://management.azure.com", AUTHORITY, NOW).is_err());
        }
    }
}
