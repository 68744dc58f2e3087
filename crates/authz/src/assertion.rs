//! Client assertions (RFC 7523): JWTs by which a client proves that it holds the key of a certificate that it registered.
//!
//! ```text
//! header  alg RS256 | PS256, x5t (SHA-1) or x5t#S256 of the certificate
//! claims  iss = sub = client id, aud = the token endpoint or the issuer, exp, (nbf), jti
//! ```
//!
//! MSAL writes times with fractions, and sends one assertion for several resources as long as it lives: who remembers used ones
//! must count the resource in ([`Assertion::use_id`]).

use crate::certificate::Certificate;
use crate::token::{LEEWAY_SECONDS, same_resource};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// An assertion may not live longer; clients give it ten minutes.
const MAX_LIFE_SECONDS: f64 = 24.0 * 3600.0;

/// Why an assertion is refused. The texts hold nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    #[error("the assertion is not a well-formed JWT with iss, sub, aud, exp and jti")]
    Malformed,
    #[error("the assertion is not signed with RS256 or PS256")]
    Algorithm,
    #[error("the assertion names no registered certificate that is valid now")]
    UnknownCertificate { thumbprint: String },
    #[error("the assertion's signature does not match its content")]
    BadSignature,
    #[error("the assertion is of the client '{issuer}'")]
    WrongClient { issuer: String },
    #[error("the assertion is meant for '{audience}'")]
    WrongAudience { audience: String },
    #[error("the assertion is not within its valid time range")]
    Time { now: u64 },
    #[error("the assertion was used before")]
    Replayed,
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    jti: String,
}

/// An assertion that was believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    client: String,
    id: String,
    /// Seconds since the Unix epoch.
    pub expires: u64,
}

impl Assertion {
    /// Names one use: of this assertion for this resource.
    pub fn use_id(&self, resource: &str) -> String {
        let text = format!("{}\n{}\n{}", self.client, self.id, resource.trim_end_matches('/').to_ascii_lowercase());
        BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
    }
}

/// The client id that an assertion speaks for. Nothing is proved by it yet.
pub fn claimed_client(jwt: &str) -> Option<String> {
    let claims = jwt.split('.').nth(1)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice::<serde_json::Value>(&bytes).ok()?["sub"].as_str().map(str::to_owned)
}

/// Believes an assertion of a client, or says why not.
///
/// # Errors
/// [`AssertionError`], all but [`AssertionError::Replayed`].
pub fn verify(
    jwt: &str,
    client: &str,
    audiences: &[String],
    certificates: &[Certificate],
    now: u64,
) -> Result<Assertion, AssertionError> {
    let header = jsonwebtoken::decode_header(jwt).map_err(|_| AssertionError::Malformed)?;
    if !matches!(header.alg, Algorithm::RS256 | Algorithm::PS256) {
        return Err(AssertionError::Algorithm);
    }
    let thumbprint = header.x5t_s256.or(header.x5t).ok_or(AssertionError::Malformed)?;
    let clock = i64::try_from(now).unwrap_or(i64::MAX);
    let leeway = i64::try_from(LEEWAY_SECONDS).unwrap_or(0);
    let known = certificates
        .iter()
        .find(|c| c.is_named(&thumbprint) && c.not_before <= clock.saturating_add(leeway) && clock < c.not_after);
    let Some(certificate) = known else {
        return Err(AssertionError::UnknownCertificate { thumbprint });
    };
    // Times, audience and issuer are checked below, against the caller's clock and with errors of our own.
    let mut signature_only = jsonwebtoken::Validation::new(header.alg);
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    signature_only.required_spec_claims.clear();
    let key = DecodingKey::from_rsa_der(&certificate.public_key);
    let claims = jsonwebtoken::decode::<Claims>(jwt, &key, &signature_only)
        .map_err(|e| match e.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => AssertionError::BadSignature,
            _ => AssertionError::Malformed,
        })?
        .claims;
    check(&claims, client, audiences, now)
}

/// What is claimed against what is wanted.
fn check(claims: &Claims, client: &str, audiences: &[String], now: u64) -> Result<Assertion, AssertionError> {
    let of_client = |name: &str| name.eq_ignore_ascii_case(client);
    if !of_client(&claims.iss) || !of_client(&claims.sub) {
        return Err(AssertionError::WrongClient { issuer: claims.iss.clone() });
    }
    if !audiences.iter().any(|a| same_resource(a, &claims.aud)) {
        return Err(AssertionError::WrongAudience { audience: claims.aud.clone() });
    }
    if claims.jti.is_empty() || claims.jti.len() > 256 {
        return Err(AssertionError::Malformed);
    }
    // Times that no f64 holds exactly are thousands of years away.
    let clock = jiff::SignedDuration::from_secs(i64::try_from(now).unwrap_or(i64::MAX)).as_secs_f64();
    let leeway = std::time::Duration::from_secs(LEEWAY_SECONDS).as_secs_f64();
    let early = claims.nbf.is_some_and(|nbf| nbf > clock + leeway);
    let left = claims.exp - clock;
    if early || !(left > 0.0 && left <= MAX_LIFE_SECONDS) {
        return Err(AssertionError::Time { now });
    }
    let left = std::time::Duration::try_from_secs_f64(left).map_err(|_| AssertionError::Time { now })?;
    Ok(Assertion {
        client: client.to_ascii_lowercase(),
        id: claims.jti.clone(),
        expires: now.saturating_add(left.as_secs()).saturating_add(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::LazyLock;

    const NOW: u64 = 1_800_000_000;
    const CLIENT: &str = "22222222-2222-2222-2222-222222222222";
    const ENDPOINT: &str = "https://localhost:8443/t/oauth2/v2.0/token";

    struct Holder {
        certificate: Certificate,
        key: EncodingKey,
    }

    fn holder(from: (i32, u8, u8), until: (i32, u8, u8)) -> Holder {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut wanted = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
        wanted.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        wanted.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let made = wanted.self_signed(&key).unwrap();
        Holder {
            certificate: Certificate::from_pem(&format!("{}\n{}", key.serialize_pem(), made.pem())).unwrap(),
            key: EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).unwrap(),
        }
    }

    static GOOD: LazyLock<Holder> = LazyLock::new(|| holder((2026, 1, 1), (2036, 1, 1)));
    static OTHER: LazyLock<Holder> = LazyLock::new(|| holder((2026, 1, 1), (2036, 1, 1)));
    static OVER: LazyLock<Holder> = LazyLock::new(|| holder((2016, 1, 1), (2026, 1, 1)));

    /// As MSAL writes it: padded thumbprints, times with fractions.
    fn claims() -> Value {
        json!({
            "iss": CLIENT, "sub": CLIENT, "aud": ENDPOINT, "jti": "1", "iat": 1_800_000_000.25, "exp": 1_800_000_600.25,
        })
    }

    fn signed(algorithm: Algorithm, named: &Holder, by: &Holder, claims: &Value) -> String {
        let mut header = Header::new(algorithm);
        match algorithm {
            Algorithm::PS256 => header.x5t_s256 = Some(BASE64_URL_SAFE_NO_PAD.encode(&named.certificate.sha256)),
            _ => header.x5t = Some(format!("{}=", BASE64_URL_SAFE_NO_PAD.encode(&named.certificate.sha1))),
        }
        jsonwebtoken::encode(&header, claims, &by.key).unwrap()
    }

    fn verified(jwt: &str) -> Result<Assertion, AssertionError> {
        let known = [OVER.certificate.clone(), GOOD.certificate.clone()];
        verify(jwt, CLIENT, &[ENDPOINT.to_owned()], &known, NOW)
    }

    #[test]
    fn both_algorithms_and_both_thumbprints_are_believed() {
        for algorithm in [Algorithm::RS256, Algorithm::PS256] {
            let believed = verified(&signed(algorithm, &GOOD, &GOOD, &claims())).unwrap();
            assert_eq!(believed.expires, NOW + 601);
            assert_eq!(believed.use_id("https://A/"), believed.use_id("https://a"));
            assert_ne!(believed.use_id("https://a"), believed.use_id("https://b"));
        }
        assert_eq!(claimed_client(&signed(Algorithm::RS256, &GOOD, &GOOD, &claims())).as_deref(), Some(CLIENT));
    }

    #[test]
    fn tells_what_is_wrong() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            signed(Algorithm::RS256, &GOOD, &GOOD, &claims)
        };
        let time = AssertionError::Time { now: NOW };
        let other = || AssertionError::WrongClient { issuer: "other".to_owned() };
        for (jwt, wanted) in [
            (
                with("aud", json!("https://elsewhere")),
                AssertionError::WrongAudience { audience: "https://elsewhere".into() },
            ),
            (with("iss", json!("other")), other()),
            (with("sub", json!("other")), AssertionError::WrongClient { issuer: CLIENT.to_owned() }),
            (with("exp", json!(NOW)), time.clone()),
            (with("exp", json!(NOW + 86_401)), time.clone()),
            (with("nbf", json!(NOW + LEEWAY_SECONDS + 1)), time.clone()),
            (with("jti", json!("")), AssertionError::Malformed),
            (with("jti", Value::Null), AssertionError::Malformed),
            (with("exp", json!("soon")), AssertionError::Malformed),
            (signed(Algorithm::RS256, &GOOD, &OTHER, &claims()), AssertionError::BadSignature),
            ("junk".to_owned(), AssertionError::Malformed),
        ] {
            assert_eq!(verified(&jwt).unwrap_err(), wanted);
        }
        for unknown in [&OTHER, &OVER] {
            let refused = verified(&signed(Algorithm::RS256, unknown, unknown, &claims())).unwrap_err();
            assert!(matches!(refused, AssertionError::UnknownCertificate { .. }));
        }
    }

    #[test]
    fn unsigned_and_shared_key_assertions_are_refused() {
        let part = |v: Value| BASE64_URL_SAFE_NO_PAD.encode(v.to_string());
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(&GOOD.certificate.sha1);
        let unsigned = format!("{}.{}.", part(json!({"alg": "none", "x5t": thumbprint})), part(claims()));
        assert!(verified(&unsigned).is_err());
        // The public key taken for a shared secret.
        let header = Header { x5t: Some(thumbprint), ..Header::new(Algorithm::HS256) };
        let key = EncodingKey::from_secret(&GOOD.certificate.public_key);
        let forged = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
        assert_eq!(verified(&forged).unwrap_err(), AssertionError::Algorithm);
    }

    #[test]
    fn certificates_of_other_keys_are_not_taken() {
        use crate::certificate::CertificateError;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let made = rcgen::CertificateParams::new(vec!["c".to_owned()]).unwrap().self_signed(&key).unwrap();
        assert_eq!(Certificate::from_pem(&made.pem()), Err(CertificateError::NotRsa));
        for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "-----BEGIN CERTIFICATE-----"] {
            assert_eq!(Certificate::from_pem(bad), Err(CertificateError::Malformed));
        }
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(position in any::<prop::sample::Index>()) {
            static JWT: LazyLock<String> = LazyLock::new(|| signed(Algorithm::PS256, &GOOD, &GOOD, &claims()));
            let mut bytes = JWT.clone().into_bytes();
            let i = position.index(bytes.len());
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            prop_assert!(verified(&String::from_utf8(bytes).unwrap()).is_err());
        }

        #[test]
        fn noise_never_panics(text in "[A-Za-z0-9_.\\-]{0,200}", der in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(verified(&text).is_err());
            prop_assert!(Certificate::from_der(der).is_err());
        }
    }
}
