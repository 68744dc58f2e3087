//! Passwords of people: kept only as Argon2id hashes in the PHC form (`$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`), with the
//! memory and passes that OWASP recommends. Client secrets are random and have a cheaper scheme ([`crate::secret`]).

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};

/// What a password must have at least, in characters.
pub const MIN_LENGTH: usize = 12;
/// What it may have at most, in bytes.
pub const MAX_LENGTH: usize = 256;

/// Why a password cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("a password has {MIN_LENGTH} characters at least and {MAX_LENGTH} bytes at most")]
    Length,
    #[error("the machine gives no random bytes")]
    NoRandomness,
}

/// The form to store. Takes some tens of milliseconds and 19 MiB: run it off the async threads.
///
/// # Errors
/// [`PasswordError`].
pub fn hash(password: &str) -> Result<String, PasswordError> {
    if password.chars().count() < MIN_LENGTH || password.len() > MAX_LENGTH {
        return Err(PasswordError::Length);
    }
    let hashed = Argon2::default().hash_password(password.as_bytes());
    Ok(hashed.map_err(|_| PasswordError::NoRandomness)?.to_string())
}

/// Whether `password` is the one that was hashed; `false` also for text that is no hash of ours.
pub fn verify(password: &str, stored: &str) -> bool {
    let Ok(hash) = PasswordHash::new(stored) else { return false };
    let ours = hash.algorithm.as_str() == "argon2id" && password.len() <= MAX_LENGTH;
    ours && Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// The hash of nobody's password, to be compared with where there is no such user: an answer then takes as long as for one who is.
pub const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifies_the_right_password_only() {
        let stored = hash("correct horse battery").unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(verify("correct horse battery", &stored));
        assert!(!verify("correct horse batterx", &stored) && !verify("", &stored));
        assert_ne!(stored, hash("correct horse battery").unwrap(), "salted");
    }

    #[test]
    fn bad_passwords_and_bad_hashes_are_refused() {
        for bad in ["", "elevenchars", &"x".repeat(MAX_LENGTH + 1)] {
            assert_eq!(hash(bad), Err(PasswordError::Length));
        }
        assert!(PasswordHash::new(NOBODY).is_ok(), "it costs what a real one costs");
        for stored in [NOBODY, "", "$argon2i$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAA", "pbkdf2-sha256$1$AA$AA"]
        {
            assert!(!verify("correct horse battery", stored), "{stored}");
        }
    }
}
