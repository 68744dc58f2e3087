//! Federated tokens: JWTs of another issuer by which a client proves who it is, instead of a secret (workload identity federation).
//!
//! ```text
//! header  alg RS…, PS…, ES…, kid of one of the issuer's keys
//! claims  iss, sub, aud (one or several) as the client's federated credential names them, exp, (nbf)
//! ```
//!
//! The issuer's keys ([`Keys`]) are the caller's to fetch; what they did not sign is never believed. Keys that are shared secrets
//! (`oct`) and `alg: none` are not taken.
//!
//! Id tokens, by which an OpenID provider says who signed in at it, are judged alike ([`verify_id_token`]; OpenID Connect Core
//! §3.1.3.7).

use crate::token::LEEWAY_SECONDS;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
];
/// Of one issuer.
const MAX_KEYS: usize = 100;

/// Why a federated token is refused. The texts hold nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FederatedError {
    #[error("the token is not a well-formed JWT with iss, sub, aud and exp")]
    Malformed,
    #[error("the token is not signed with an RSA or elliptic-curve key")]
    Algorithm,
    #[error("the issuer has no such key")]
    UnknownKey,
    #[error("the token's signature does not match its content")]
    BadSignature,
    #[error("the token is not within its valid time range")]
    Time { now: u64 },
}

/// What a token says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub issuer: String,
    pub subject: String,
    pub audiences: Vec<String>,
    /// Of the key that it is signed with.
    pub key_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
}

impl Claims {
    fn audiences(&self) -> Vec<String> {
        match &self.aud {
            Value::String(one) => vec![one.clone()],
            Value::Array(all) => all.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            _ => vec![],
        }
    }
}

/// Who a token claims to be of. Nothing is proved by it yet.
///
/// # Errors
/// [`FederatedError::Malformed`].
pub fn claimed(jwt: &str) -> Result<Claimed, FederatedError> {
    let header = jsonwebtoken::decode_header(jwt).map_err(|_| FederatedError::Malformed)?;
    let part = jwt.split('.').nth(1).and_then(|p| BASE64_URL_SAFE_NO_PAD.decode(p).ok());
    let claims: Option<Claims> = part.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let claims = claims.ok_or(FederatedError::Malformed)?;
    Ok(Claimed { audiences: claims.audiences(), issuer: claims.iss, subject: claims.sub, key_id: header.kid })
}

/// The public keys of an issuer.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<Jwk>);

impl Keys {
    /// Of a JWKS document. Keys of kinds that are not known, and those for encryption, are passed over. `None`: it is no such
    /// document.
    pub fn parse(document: &Value) -> Option<Self> {
        let all = document["keys"].as_array()?.iter().take(MAX_KEYS);
        let signs = |key: &Jwk| key.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
        Some(Self(all.filter_map(|key| serde_json::from_value(key.clone()).ok()).filter(signs).collect()))
    }

    /// A token without a key's id is of the only key.
    fn find(&self, id: Option<&str>) -> Option<&Jwk> {
        match (id, self.0.as_slice()) {
            (Some(id), all) => all.iter().find(|k| k.common.key_id.as_deref() == Some(id)),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    pub fn has(&self, id: Option<&str>) -> bool {
        self.find(id).is_some()
    }
}

/// What a token says, once its issuer's key and the clock agree.
///
/// # Errors
/// [`FederatedError`].
pub fn verify(jwt: &str, keys: &Keys, now: u64) -> Result<Claimed, FederatedError> {
    let (claims, key_id): (Claims, _) = signed(jwt, keys)?;
    in_time(claims.exp, claims.nbf, now)?;
    Ok(Claimed { audiences: claims.audiences(), issuer: claims.iss, subject: claims.sub, key_id })
}

/// What an id token must say.
#[derive(Debug, Clone, Copy)]
pub struct WantedIdToken<'a> {
    pub issuer: &'a str,
    pub client_id: &'a str,
    /// What the sign-in was begun with.
    pub nonce: &'a str,
}

/// Why an id token is refused. The texts hold nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    #[error(transparent)]
    Token(#[from] FederatedError),
    #[error("the id token is another issuer's")]
    Issuer,
    #[error("the id token is meant for another client")]
    Audience,
    #[error("the id token is of another sign-in")]
    Nonce,
}

/// Everything that an id token says, once its issuer's key, the clock and `wanted` agree. It has a `sub`.
///
/// # Errors
/// [`IdTokenError`].
pub fn verify_id_token(
    jwt: &str,
    keys: &Keys,
    wanted: &WantedIdToken<'_>,
    now: u64,
) -> Result<Map<String, Value>, IdTokenError> {
    let (all, _): (Map<String, Value>, _) = signed(jwt, keys)?;
    let claims: Claims = serde_json::from_value(Value::Object(all.clone())).map_err(|_| FederatedError::Malformed)?;
    if claims.sub.is_empty() {
        return Err(FederatedError::Malformed.into());
    }
    if claims.iss != wanted.issuer {
        return Err(IdTokenError::Issuer);
    }
    let audiences = claims.audiences();
    let party = all.get("azp").and_then(Value::as_str);
    let alone = audiences.len() == 1 || party.is_some();
    let is_party = party.is_none_or(|p| p == wanted.client_id);
    if !audiences.iter().any(|a| a == wanted.client_id) || !alone || !is_party {
        return Err(IdTokenError::Audience);
    }
    if all.get("nonce").and_then(Value::as_str) != Some(wanted.nonce) {
        return Err(IdTokenError::Nonce);
    }
    in_time(claims.exp, claims.nbf, now)?;
    Ok(all)
}

/// What the issuer signed, and the id of the key.
fn signed<T: DeserializeOwned + Clone>(jwt: &str, keys: &Keys) -> Result<(T, Option<String>), FederatedError> {
    let header = jsonwebtoken::decode_header(jwt).map_err(|_| FederatedError::Malformed)?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(FederatedError::Algorithm);
    }
    let key = keys.find(header.kid.as_deref()).ok_or(FederatedError::UnknownKey)?;
    let key = DecodingKey::from_jwk(key).map_err(|_| FederatedError::UnknownKey)?;
    // Times are checked below, against the caller's clock and with errors of our own; the rest is the caller's to compare.
    let mut signature_only = jsonwebtoken::Validation::new(header.alg);
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    signature_only.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<T>(jwt, &key, &signature_only)
        .map_err(|e| match e.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => FederatedError::BadSignature,
            // The key is of another family than the algorithm.
            jsonwebtoken::errors::ErrorKind::InvalidAlgorithm => FederatedError::Algorithm,
            _ => FederatedError::Malformed,
        })?
        .claims;
    Ok((claims, header.kid))
}

fn in_time(exp: f64, nbf: Option<f64>, now: u64) -> Result<(), FederatedError> {
    // Times that no f64 holds exactly are thousands of years away.
    let clock = jiff::SignedDuration::from_secs(i64::try_from(now).unwrap_or(i64::MAX)).as_secs_f64();
    let leeway = std::time::Duration::from_secs(LEEWAY_SECONDS).as_secs_f64();
    if exp > clock && nbf.is_none_or(|nbf| nbf <= clock + leeway) { Ok(()) } else { Err(FederatedError::Time { now }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SigningKey;
    use jsonwebtoken::{EncodingKey, Header};
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::LazyLock;

    const NOW: u64 = 1_800_000_000;

    struct Issuer {
        key: EncodingKey,
        keys: Value,
        id: String,
    }

    fn issuer() -> Issuer {
        let pem = SigningKey::generate_pem().unwrap();
        let public = SigningKey::from_pem(&pem).unwrap();
        Issuer {
            key: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            keys: public.jwks(),
            id: public.key_id().to_owned(),
        }
    }

    static GOOD: LazyLock<Issuer> = LazyLock::new(issuer);
    static OTHER: LazyLock<Issuer> = LazyLock::new(issuer);

    fn claims() -> Value {
        json!({"iss": "https://i.example", "sub": "system:serviceaccount:a:b", "aud": ["api://x", "y"], "exp": NOW + 60, "nbf": NOW})
    }

    fn signed(algorithm: Algorithm, kid: Option<&str>, by: &Issuer, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, claims, &by.key).unwrap()
    }

    fn verified(jwt: &str) -> Result<Claimed, FederatedError> {
        verify(jwt, &Keys::parse(&GOOD.keys).unwrap(), NOW)
    }

    #[test]
    fn what_the_issuer_signed_is_believed() {
        for (algorithm, kid) in [(Algorithm::RS256, Some(GOOD.id.as_str())), (Algorithm::PS512, None)] {
            let jwt = signed(algorithm, kid, &GOOD, &claims());
            let believed = verified(&jwt).unwrap();
            assert_eq!(believed, claimed(&jwt).unwrap());
            assert_eq!((believed.subject.as_str(), believed.audiences.len()), ("system:serviceaccount:a:b", 2));
        }
        let mut one = claims();
        one["aud"] = json!("z");
        assert_eq!(verified(&signed(Algorithm::RS256, None, &GOOD, &one)).unwrap().audiences, ["z"]);
    }

    #[test]
    fn all_else_is_refused() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            signed(Algorithm::RS256, None, &GOOD, &claims)
        };
        let time = FederatedError::Time { now: NOW };
        for (jwt, wanted) in [
            (with("exp", json!(NOW)), time.clone()),
            (with("nbf", json!(NOW + LEEWAY_SECONDS + 1)), time),
            (with("sub", Value::Null), FederatedError::Malformed),
            (signed(Algorithm::RS256, Some("x"), &GOOD, &claims()), FederatedError::UnknownKey),
            (signed(Algorithm::RS256, Some(&GOOD.id), &OTHER, &claims()), FederatedError::BadSignature),
            ("junk".to_owned(), FederatedError::Malformed),
        ] {
            assert_eq!(verified(&jwt).unwrap_err(), wanted, "{jwt}");
        }
        let mut two = GOOD.keys.clone();
        two["keys"].as_array_mut().unwrap().push(OTHER.keys["keys"][0].clone());
        let two = Keys::parse(&two).unwrap();
        assert!(two.has(Some(&OTHER.id)) && !two.has(None));
        assert!(Keys::parse(&json!({})).is_none());
        let odd = json!({"keys": [{"kty": "x"}, {"kty": "RSA", "use": "enc", "kid": "e", "n": "AQAB", "e": "AQAB"}]});
        assert!(!Keys::parse(&odd).unwrap().has(Some("e")));
    }

    #[test]
    fn an_id_token_is_for_one_client_and_one_sign_in() {
        let id = |change: &dyn Fn(&mut Value)| {
            let mut claims =
                json!({"iss": "https://i.example", "sub": "s", "aud": "c", "exp": NOW + 60, "nonce": "n", "x": 1});
            change(&mut claims);
            let jwt = signed(Algorithm::RS256, None, &GOOD, &claims);
            let wanted = WantedIdToken { issuer: "https://i.example", client_id: "c", nonce: "n" };
            verify_id_token(&jwt, &Keys::parse(&GOOD.keys).unwrap(), &wanted, NOW)
        };
        assert_eq!(id(&|_| {}).unwrap()["x"], 1);
        assert!(id(&|c| (c["aud"], c["azp"]) = (json!(["d", "c"]), json!("c"))).is_ok());
        let audience = Err(IdTokenError::Audience);
        assert_eq!(id(&|c| c["aud"] = json!("d")), audience);
        assert_eq!(id(&|c| c["aud"] = json!(["c", "d"])), audience);
        assert_eq!(id(&|c| c["azp"] = json!("d")), audience);
        assert_eq!(id(&|c| c["iss"] = json!("https://i.example/")), Err(IdTokenError::Issuer));
        assert_eq!(id(&|c| c["nonce"] = json!("m")), Err(IdTokenError::Nonce));
        assert_eq!(id(&|c| c["nonce"] = Value::Null), Err(IdTokenError::Nonce));
        assert_eq!(id(&|c| c["exp"] = json!(NOW)), Err(FederatedError::Time { now: NOW }.into()));
        assert_eq!(id(&|c| c["sub"] = json!("")), Err(FederatedError::Malformed.into()));
    }

    #[test]
    fn unsigned_and_shared_key_tokens_are_refused() {
        let part = |v: Value| BASE64_URL_SAFE_NO_PAD.encode(v.to_string());
        let unsigned = format!("{}.{}.", part(json!({"alg": "none", "kid": GOOD.id})), part(claims()));
        assert!(verified(&unsigned).is_err());
        // The modulus taken for a shared secret, and a key that is one.
        let secret = EncodingKey::from_secret(GOOD.keys["keys"][0]["n"].as_str().unwrap().as_bytes());
        let header = Header { kid: Some(GOOD.id.clone()), ..Header::new(Algorithm::HS256) };
        let forged = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
        assert_eq!(verified(&forged).unwrap_err(), FederatedError::Algorithm);
        let shared = Keys::parse(&json!({"keys": [{"kty": "oct", "kid": GOOD.id, "k": "AAAA"}]})).unwrap();
        assert!(verify(&signed(Algorithm::RS256, Some(&GOOD.id), &GOOD, &claims()), &shared, NOW).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "[A-Za-z0-9_.\\-]{0,200}") {
            prop_assert!(claimed(&text).is_err() && verified(&text).is_err());
        }
    }
}
