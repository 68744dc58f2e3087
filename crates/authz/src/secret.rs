//! Client secrets: made from random bytes, kept only as salted hashes, compared in constant time.
//!
//! ```text
//! pbkdf2-sha256$ITERATIONS$SALT$HASH      salt (16 bytes) and hash (32 bytes) in unpadded base64url
//! ```

use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA256};
use aws_lc_rs::{digest, error::Unspecified, rand};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as B64;
use std::num::NonZeroU32;

const SCHEME: &str = "pbkdf2-sha256";
const ITERATIONS: NonZeroU32 = NonZeroU32::new(60_000).expect("not zero");
/// A stored hash cannot make a sign-in cost more than this.
const MAX_ITERATIONS: u32 = 2_000_000;

/// A new secret of nearly 256 random bits, printable. It begins with a letter: command lines take a word that begins with
/// a dash for an option.
pub fn generate() -> Result<String, Unspecified> {
    loop {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes)?;
        let secret = B64.encode(bytes);
        if secret.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Ok(secret);
        }
    }
}

/// What a random secret is looked up by where it is stored: a hash, without salt, which a secret that can be guessed must not have.
pub fn fingerprint(secret: &str) -> String {
    B64.encode(digest::digest(&digest::SHA256, secret.as_bytes()))
}

/// A code for people to type: nine letters and digits, none of which looks like another (45 random bits).
pub fn user_code() -> Result<String, Unspecified> {
    const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut bytes = [0; 9];
    rand::fill(&mut bytes)?;
    Ok(bytes.iter().map(|b| char::from(LETTERS[usize::from(b % 32)])).collect())
}

/// The form to store. Takes some tens of milliseconds: run it off the async threads.
pub fn hash(secret: &str) -> Result<String, Unspecified> {
    let mut salt = [0; 16];
    rand::fill(&mut salt)?;
    let mut out = [0; 32];
    pbkdf2::derive(PBKDF2_HMAC_SHA256, ITERATIONS, &salt, secret.as_bytes(), &mut out);
    Ok(format!("{SCHEME}${ITERATIONS}${}${}", B64.encode(salt), B64.encode(out)))
}

/// Whether `secret` is the one that was hashed; `false` also for text that is no hash of ours.
pub fn verify(secret: &str, stored: &str) -> bool {
    let Some((iterations, salt, hash)) = parse(stored) else {
        return false;
    };
    pbkdf2::verify(PBKDF2_HMAC_SHA256, iterations, &salt, secret.as_bytes(), &hash).is_ok()
}

fn parse(stored: &str) -> Option<(NonZeroU32, Vec<u8>, Vec<u8>)> {
    let mut parts = stored.split('$');
    if parts.next()? != SCHEME {
        return None;
    }
    let iterations: NonZeroU32 = parts.next()?.parse().ok()?;
    let salt = B64.decode(parts.next()?).ok()?;
    let hash = B64.decode(parts.next()?).ok()?;
    let whole = parts.next().is_none() && hash.len() == 32 && iterations.get() <= MAX_ITERATIONS;
    whole.then_some((iterations, salt, hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn verifies_the_right_secret_only() {
        let secret = generate().unwrap();
        let stored = hash(&secret).unwrap();
        assert!(verify(&secret, &stored));
        assert!(!verify(&format!("{secret}x"), &stored) && !verify("", &stored));
        assert_ne!(stored, hash(&secret).unwrap(), "salted");
        assert!(!stored.contains(&secret));
    }

    #[test]
    fn secrets_begin_with_a_letter() {
        let secrets: std::collections::HashSet<String> = (0..300).map(|_| generate().unwrap()).collect();
        assert_eq!(secrets.len(), 300);
        assert!(secrets.iter().all(|s| s.len() == 43 && s.starts_with(|c: char| c.is_ascii_alphabetic())));
    }

    #[test]
    fn codes_for_people_are_short_and_differ() {
        let codes: std::collections::HashSet<String> = (0..100).map(|_| user_code().unwrap()).collect();
        assert_eq!(codes.len(), 100);
        let plain = |c: &String| c.len() == 9 && c.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        assert!(codes.iter().all(plain));
        assert!(!codes.iter().any(|c| c.contains(['0', 'O', '1', 'I'])));
    }

    proptest! {
        #[test]
        fn text_that_is_no_hash_never_matches(stored in "(pbkdf2-sha256)?\\$?[0-9]{0,4}\\$[a-zA-Z0-9$]{0,40}") {
            prop_assert!(!verify("secret", &stored));
        }
    }
}
