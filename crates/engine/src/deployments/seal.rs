//! Keeps what a deployment was given from whoever reads the database: AES-256-GCM under a key of the server's own.
//!
//! ```text
//! sealed = base64( nonce (12 bytes) │ ciphertext │ tag (16 bytes) ),  authenticated with the deployment's key
//! ```
//! The key lies in `DIR/deployments.key` (32 random bytes, mode 0600). Servers that share a database need the same file.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lazuli_arm::ArmError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

const FILE: &str = "deployments.key";
const KEY_LENGTH: usize = 32;

/// The server's key, made when there is none.
fn key(data_dir: &Path) -> Result<RandomizedNonceKey, ArmError> {
    let path = data_dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => create(data_dir)?,
        read => read.map_err(ArmError::internal)?,
    };
    RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| broken("deployments.key has not 32 bytes"))
}

/// Written aside and linked into place, so that no other process ever sees half of it.
fn create(data_dir: &Path) -> Result<Vec<u8>, ArmError> {
    let mut bytes = vec![0; KEY_LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| broken("the machine gives no random bytes"))?;
    let aside = data_dir.join(format!("{FILE}.{}", uuid::Uuid::new_v4().simple()));
    let path = data_dir.join(FILE);
    let made = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        match std::fs::hard_link(&aside, &path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => std::fs::read(&path),
            linked => linked.map(|()| bytes),
        }
    })();
    drop(std::fs::remove_file(&aside));
    made.map_err(ArmError::internal)
}

fn broken(what: &'static str) -> ArmError {
    ArmError::internal(what)
}

/// `owner`: the key of the row that keeps it; nothing that was moved to another row opens.
pub(super) fn seal<T: Serialize>(data_dir: &Path, owner: &str, value: &T) -> Result<String, ArmError> {
    let mut bytes = serde_json::to_vec(value).map_err(ArmError::internal)?;
    let nonce = key(data_dir)?
        .seal_in_place_append_tag(Aad::from(owner.as_bytes()), &mut bytes)
        .map_err(|_| broken("a deployment could not be sealed"))?;
    let mut whole = nonce.as_ref().to_vec();
    whole.append(&mut bytes);
    Ok(STANDARD.encode(whole))
}

pub(super) fn open<T: DeserializeOwned>(data_dir: &Path, owner: &str, sealed: &str) -> Result<T, ArmError> {
    let unreadable = || {
        ArmError::new(
            500,
            "InternalServerError",
            "What the deployment was given cannot be read any more. Deploy again.",
        )
        .caused_by("deployments.key is not the key it was sealed with")
    };
    let mut whole = STANDARD.decode(sealed).map_err(ArmError::internal)?;
    if whole.len() < NONCE_LEN {
        return Err(unreadable());
    }
    let mut bytes = whole.split_off(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(&whole).map_err(|_| unreadable())?;
    let plain =
        key(data_dir)?.open_in_place(nonce, Aad::from(owner.as_bytes()), &mut bytes).map_err(|_| unreadable())?;
    serde_json::from_slice(plain).map_err(ArmError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = seal(dir.path(), "a", &"secret").unwrap();
        assert!(!sealed.contains("secret") && !STANDARD.decode(&sealed).unwrap().windows(6).any(|w| w == b"secret"));
        assert_eq!(open::<String>(dir.path(), "a", &sealed).unwrap(), "secret");
        assert_eq!(open::<String>(dir.path(), "b", &sealed).unwrap_err().status, 500);
        assert_ne!(sealed, seal(dir.path(), "a", &"secret").unwrap());
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(dir.path().join(FILE)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(open::<String>(dir.path(), "a", &sealed).is_err());
    }
}
