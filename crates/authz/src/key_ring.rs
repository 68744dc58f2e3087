//! The keys that tokens are signed with, one after the other.
//!
//! ```text
//! published ──signs_from──> signs ──another one's signs_from──> verifies ──ends──> forgotten
//! └──────────────────────────── shown in the JWKS document ────────────┘
//! ```
//! A key is shown before it signs, so that whoever keeps the document knows it in time, and verifies until the last token that it
//! signed ended. A token is believed only by the key that it names, and only while that key has not ended.

use crate::token::{Claims, SigningKey, TokenError, Validation, key_id_of};
use serde_json::{Value, json};
use std::sync::Arc;

/// A key with its times, in milliseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub struct RingKey {
    pub key: Arc<SigningKey>,
    /// [`NEVER`]: it only verifies.
    pub signs_from_ms: i64,
    pub ends_ms: i64,
}

pub const NEVER: i64 = i64::MAX;

/// All keys of an issuer, its own private ones.
#[derive(Debug, Clone, Default)]
pub struct KeyRing(Vec<RingKey>);

impl KeyRing {
    pub fn new(keys: Vec<RingKey>) -> Self {
        Self(keys)
    }

    /// One key, which signs always.
    pub fn only(key: SigningKey) -> Self {
        Self(vec![RingKey { key: Arc::new(key), signs_from_ms: i64::MIN, ends_ms: i64::MAX }])
    }

    pub fn keys(&self) -> &[RingKey] {
        &self.0
    }

    fn current(&self, now_ms: i64) -> impl Iterator<Item = &RingKey> {
        self.0.iter().filter(move |k| now_ms < k.ends_ms)
    }

    /// The key that signs now. `None`: there is none.
    pub fn signer(&self, now_ms: i64) -> Option<&Arc<SigningKey>> {
        let all = || self.current(now_ms).filter(|k| k.signs_from_ms != NEVER);
        let latest = all().filter(|k| k.signs_from_ms <= now_ms).max_by_key(|k| (k.signs_from_ms, k.key.key_id()));
        // Where all others were ended at once, by a clock that is ahead of this one, the next is taken already.
        latest.or_else(|| all().min_by_key(|k| k.signs_from_ms)).map(|k| &k.key)
    }

    /// The claims of a token that one of the keys signed and that says what `wanted` asks for. A key counts from the moment that it is
    /// known: another server's clock may be ahead.
    ///
    /// # Errors
    /// [`TokenError`]; [`TokenError::ForeignKey`] where it names a key that is not here, or not any more.
    pub fn validate(&self, token: &str, wanted: &Validation<'_>) -> Result<Claims, TokenError> {
        let id = key_id_of(token)?;
        let now_ms = i64::try_from(wanted.now.saturating_mul(1000)).unwrap_or(i64::MAX);
        let key = self.current(now_ms).find(|k| k.key.key_id() == id).ok_or(TokenError::ForeignKey)?;
        key.key.validate(token, wanted)
    }

    /// The public halves of all that count: `{"keys":[{kty, use, kid, x5t, n, e, alg}]}`.
    pub fn jwks(&self, now_ms: i64) -> Value {
        json!({"keys": self.current(now_ms).map(|k| k.key.jwk()).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenVersion;
    use crate::token::Grant;
    use std::sync::LazyLock;

    fn made() -> Arc<SigningKey> {
        Arc::new(SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap())
    }

    static OLD: LazyLock<Arc<SigningKey>> = LazyLock::new(made);
    static NEW: LazyLock<Arc<SigningKey>> = LazyLock::new(made);

    /// The new one signs from 2,000 s on, the old one ends at 3,000 s.
    fn ring() -> KeyRing {
        KeyRing::new(vec![
            RingKey { key: OLD.clone(), signs_from_ms: 0, ends_ms: 3_000_000 },
            RingKey { key: NEW.clone(), signs_from_ms: 2_000_000, ends_ms: i64::MAX },
        ])
    }

    fn token(key: &SigningKey, now: u64) -> String {
        let claims = Claims::new(&Grant {
            authority: "https://a",
            audience: "https://b",
            tenant: "t",
            app_id: "app",
            object_id: "oid",
            version: TokenVersion::V2,
            now,
            lifetime_seconds: 10_000,
        });
        key.sign(&claims).unwrap()
    }

    fn validate(ring: &KeyRing, token: &str, now: u64) -> Result<Claims, TokenError> {
        let (audiences, authorities) = (["https://b".to_owned()], ["https://a".to_owned()]);
        ring.validate(token, &Validation { audiences: &audiences, authorities: &authorities, now })
    }

    #[test]
    fn a_new_key_is_shown_before_it_signs_and_the_old_one_verifies_until_its_tokens_ended() {
        let ring = ring();
        let signer = |now_ms| ring.signer(now_ms).unwrap().key_id().to_owned();
        assert_eq!((signer(1_999_999), signer(2_000_000)), (OLD.key_id().to_owned(), NEW.key_id().to_owned()));
        let shown = |now_ms| -> Vec<String> {
            let jwks = ring.jwks(now_ms);
            jwks["keys"].as_array().unwrap().iter().map(|k| k["kid"].as_str().unwrap().to_owned()).collect()
        };
        let both = [OLD.key_id().to_owned(), NEW.key_id().to_owned()];
        assert_eq!((shown(0), shown(2_999_999)), (both.to_vec(), both.to_vec()));
        assert_eq!(shown(3_000_000), both[1..]);
        let of_old = token(&OLD, 1000);
        assert!(validate(&ring, &of_old, 2999).is_ok());
        assert_eq!(validate(&ring, &of_old, 3000).unwrap_err(), TokenError::ForeignKey);
        assert!(validate(&ring, &token(&NEW, 1000), 1000).is_ok(), "of a server whose clock is ahead");
    }

    #[test]
    fn a_token_is_believed_by_the_key_that_it_names_only() {
        let alone = KeyRing::new(ring().keys()[1..].to_vec());
        assert_eq!(validate(&alone, &token(&OLD, 1000), 1000).unwrap_err(), TokenError::ForeignKey);
        assert!(KeyRing::default().signer(0).is_none());
        // It signs before its time rather than nobody; one that only verifies never does.
        assert_eq!(alone.signer(0).unwrap().key_id(), NEW.key_id());
        let verifies = RingKey { key: OLD.clone(), signs_from_ms: NEVER, ends_ms: NEVER };
        let verifies = KeyRing::new(vec![verifies]);
        assert!(verifies.signer(0).is_none() && validate(&verifies, &token(&OLD, 1000), 1000).is_ok());
        assert_eq!(validate(&ring(), "junk", 1000).unwrap_err(), TokenError::Malformed);
    }
}
