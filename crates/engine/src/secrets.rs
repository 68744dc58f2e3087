//! Secrets that the database keeps (keys of storage accounts, what deployments were given), sealed with a key that is not in it:
//! whoever has a copy of the database alone has none of them.
//!
//! ```text
//! DIR/secrets.key (32 random bytes, mode 0600, made once)          settings: secretsKey = first half of SHA-256(key)
//!        │
//!        ├─> HMAC ─> the key that links the activity log (meta/src/audit.rs)
//!        └─> AES-256-GCM ─> sealed:v1:base64(nonce 12 │ ciphertext │ tag 16)
//!                           bound to its row and field: a sealed text is worth nothing elsewhere
//! ```
//! Several servers of one database need the same file; one with another key does not start. Must never: log a secret, make a
//! new key for a database that has one.

use crate::stored::StorageAccountInternal;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::ArmError;
use lazuli_meta::model::{Change, Expect, Resource, ResourceQuery, Write};
use lazuli_meta::{ChainKey, Db, MetaError, WriteError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const FILE: &str = "secrets.key";
const SETTING: &str = "secretsKey";
const PREFIX: &str = "sealed:v1:";
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;

/// Why an engine did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("the key of the stored secrets, {}, cannot be used", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the secrets in this database were sealed with another key than {}: copy that file from the data folder of the server \
         that made the database",
        path.display()
    )]
    OtherKey { path: PathBuf },
    /// A secret of before was not sealed.
    #[error("the stored secrets cannot be sealed")]
    Secrets(#[source] ArmError),
}

/// What seals and opens secrets.
pub(crate) struct Secrets {
    key: RandomizedNonceKey,
    chain: ChainKey,
}

/// A key for one purpose.
fn derived(key: &[u8], purpose: &str) -> [u8; KEY_LEN] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), purpose.as_bytes());
    let mut derived = [0; KEY_LEN];
    derived.copy_from_slice(tag.as_ref());
    derived
}

impl Secrets {
    /// Reads the key, or makes one for a database that has none.
    pub async fn open(dir: &Path, db: &Db) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let failed = |source| OpenError::Key { path: path.clone(), source };
        let known = db.setting(SETTING).await?;
        let (at, may_make) = (path.clone(), known.is_none());
        let bytes = tokio::task::spawn_blocking(move || read_or_make(&at, may_make)).await;
        let bytes = bytes.map_err(|error| failed(io::Error::other(error)))?;
        let bytes = match bytes {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(OpenError::OtherKey { path }),
            bytes => bytes.map_err(failed)?,
        };
        let id = hex::encode(&digest(&SHA256, &bytes).as_ref()[..16]);
        // Of two servers that begin at once, one has the database's key.
        db.put_setting(SETTING, &id, true).await?;
        if db.setting(SETTING).await?.as_deref() != Some(id.as_str()) {
            return Err(OpenError::OtherKey { path });
        }
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes);
        let key = key.map_err(|_| failed(io::Error::other("it is not a key of AES-256")))?;
        Ok(Self { key, chain: ChainKey::new(derived(&bytes, "chain of the activity log")) })
    }

    /// What links the lines of the activity log.
    pub fn audit_chain(&self) -> ChainKey {
        self.chain.clone()
    }

    /// `context` names the row and the field; the secret is opened with the same one only.
    pub fn seal(&self, context: &str, secret: &str) -> Result<String, ArmError> {
        let mut bytes = secret.as_bytes().to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut bytes);
        let nonce = nonce.map_err(|_| ArmError::internal("a secret could not be sealed"))?;
        let sealed = [nonce.as_ref().as_slice(), &bytes].concat();
        Ok(format!("{PREFIX}{}", BASE64_STANDARD.encode(sealed)))
    }

    /// What was sealed. A text that is not sealed was stored before secrets were, and is the secret itself.
    pub fn open_text(&self, context: &str, stored: &str) -> Result<String, ArmError> {
        if stored.starts_with(PREFIX) { self.unseal(context, stored) } else { Ok(stored.to_owned()) }
    }

    /// What was sealed. Any other text is an error.
    pub fn unseal(&self, context: &str, sealed: &str) -> Result<String, ArmError> {
        let damaged =
            || ArmError::internal(format!("the secret of {context} is damaged, or was sealed for another place"));
        let text = sealed.strip_prefix(PREFIX).ok_or_else(damaged)?;
        let mut bytes = BASE64_STANDARD.decode(text).map_err(|_| damaged())?;
        if bytes.len() < NONCE_LEN {
            return Err(damaged());
        }
        let mut sealed = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| damaged())?;
        let secret =
            self.key.open_in_place(nonce, Aad::from(context.as_bytes()), &mut sealed).map_err(|_| damaged())?;
        String::from_utf8(secret.to_vec()).map_err(|_| damaged())
    }

    /// The internals of a storage account with all that opens it sealed, to be stored in the row of this key.
    pub fn seal_account(&self, row: &str, state: &StorageAccountInternal) -> Result<StorageAccountInternal, ArmError> {
        each_secret(state, |field, secret| self.seal(&format!("{row}#{field}"), secret))
    }

    /// The opposite of [`Secrets::seal_account`].
    pub fn open_account(&self, row: &Resource) -> Result<StorageAccountInternal, ArmError> {
        let stored: StorageAccountInternal = crate::stored::internal(row)?;
        each_secret(&stored, |field, secret| self.open_text(&format!("{}#{field}", row.key), secret))
    }

    /// Seals what was stored before secrets were.
    pub async fn seal_old(&self, db: &Db) -> Result<(), OpenError> {
        let mut query =
            ResourceQuery { kind: Some(crate::storage_account::KIND.to_ascii_lowercase()), ..ResourceQuery::default() };
        loop {
            let rows = db.resources(&query).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            query.after = Some(last.sort_key.clone());
            for row in rows {
                self.seal_row(db, row).await?;
            }
        }
    }

    async fn seal_row(&self, db: &Db, mut row: Resource) -> Result<(), OpenError> {
        let state = self.open_account(&row).map_err(OpenError::Secrets)?;
        if crate::stored::to_internal(&state) != row.internal {
            return Ok(());
        }
        let sealed = self.seal_account(&row.key, &state).map_err(OpenError::Secrets)?;
        let expect = Expect::Etag(row.etag.clone());
        row.internal = crate::stored::to_internal(&sealed);
        row.etag = crate::new_etag();
        match db.write(Write { fence: None, changes: vec![Change::PutResource { resource: row, expect }] }).await {
            // Another server did it, or the account is gone.
            Ok(()) | Err(WriteError::Conflict(_)) => Ok(()),
            Err(WriteError::Db(error)) => Err(error.into()),
        }
    }
}

/// The same account with each secret replaced.
fn each_secret(
    state: &StorageAccountInternal,
    replace: impl Fn(&str, &str) -> Result<String, ArmError>,
) -> Result<StorageAccountInternal, ArmError> {
    let mut state = state.clone();
    for (field, key) in ["key1", "key2"].into_iter().zip(&mut state.keys) {
        key.value = replace(field, &key.value)?;
    }
    state.delegation_secret = replace("delegationSecret", &state.delegation_secret)?;
    Ok(state)
}

/// The key's bytes; made, and on the disk when this returns, if there is no file and there may be a new one.
fn read_or_make(path: &Path, may_make: bool) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_make => {}
        read => return read,
    }
    let mut bytes = vec![0; KEY_LEN];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("the machine has no randomness"))?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    // Whole or not at all: whoever comes first wins, and a half-written key never bears the name.
    let new = folder.join(format!("{FILE}.{}", uuid::Uuid::new_v4()));
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&new, path);
    std::fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => std::fs::File::open(folder)?.sync_all()?,
    }
    std::fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::StoredKey;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    async fn opened(dir: &Path) -> Result<(Secrets, Db), OpenError> {
        let db = Db::open(&format!("sqlite:{}", dir.join("meta.db").display())).await.unwrap();
        Ok((Secrets::open(&dir.join("data"), &db).await?, db))
    }

    #[tokio::test]
    async fn a_database_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let (secrets, _) = opened(dir.path()).await.unwrap();
        let sealed = secrets.seal("/a#key1", "secret").unwrap();
        assert!(sealed.starts_with(PREFIX) && !sealed.contains("secret"));
        let path = dir.path().join("data").join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (again, _) = opened(dir.path()).await.unwrap();
        assert_eq!(again.open_text("/a#key1", &sealed).unwrap(), "secret");
        // Without the file, or with another one, nothing starts, and no new key is made.
        std::fs::rename(&path, dir.path().join("kept")).unwrap();
        assert!(matches!(opened(dir.path()).await, Err(OpenError::OtherKey { .. })));
        std::fs::write(&path, [7; KEY_LEN]).unwrap();
        assert!(matches!(opened(dir.path()).await, Err(OpenError::OtherKey { .. })));
        std::fs::rename(dir.path().join("kept"), &path).unwrap();
        opened(dir.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_sealed_text_is_for_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (secrets, _) = opened(dir.path()).await.unwrap();
        let sealed = secrets.seal("/a#key1", "secret").unwrap();
        assert!(secrets.open_text("/b#key1", &sealed).is_err());
        let mut damaged = sealed.clone().into_bytes();
        let last = damaged.len() - 3;
        damaged[last] = if damaged[last] == b'A' { b'B' } else { b'A' };
        assert!(secrets.open_text("/a#key1", &String::from_utf8(damaged).unwrap()).is_err());
        for stored in [PREFIX.to_owned(), format!("{PREFIX}AAAA"), format!("{PREFIX}no base64")] {
            assert!(secrets.open_text("/a#key1", &stored).is_err(), "{stored}");
        }
        assert_eq!(secrets.open_text("/a#key1", "of before").unwrap(), "of before");
        assert!(secrets.unseal("/a#key1", "of before").is_err());
        assert_eq!(secrets.unseal("/a#key1", &sealed).unwrap(), "secret");
        assert_ne!(secrets.seal("/a#key1", "secret").unwrap(), sealed);
    }

    #[tokio::test]
    async fn accounts_of_before_are_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let (secrets, db) = opened(dir.path()).await.unwrap();
        let key = |value: &str| StoredKey { value: value.into(), created_ms: 1 };
        let state = StorageAccountInternal { keys: [key("one"), key("two")], delegation_secret: "three".into() };
        let row = Resource {
            key: "/a".into(),
            sort_key: "/a".into(),
            id: "/a".into(),
            kind: crate::storage_account::KIND.to_ascii_lowercase(),
            subscription: String::new(),
            resource_group: String::new(),
            parent: None,
            name: "a".into(),
            location: String::new(),
            body: serde_json::json!({}),
            internal: crate::stored::to_internal(&state),
            provisioning_state: "Succeeded".into(),
            etag: "e".into(),
            created_ms: 0,
            changed_ms: 0,
        };
        let put = Change::PutResource { resource: row, expect: Expect::Absent };
        db.write(Write { fence: None, changes: vec![put] }).await.unwrap();
        for _ in 0..2 {
            secrets.seal_old(&db).await.unwrap();
            let row = db.resource("/a").await.unwrap().unwrap();
            let text = row.internal.to_string();
            assert!(!["one", "two", "three"].iter().any(|secret| text.contains(&format!("\"{secret}\""))), "{text}");
            assert!(secrets.open_account(&row).unwrap() == state);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn what_is_sealed_is_opened(secret in ".*", context in ".*") {
            let key = RandomizedNonceKey::new(&AES_256_GCM, &[1; KEY_LEN]).unwrap();
            let secrets = Secrets { key, chain: ChainKey::new([2; KEY_LEN]) };
            let sealed = secrets.seal(&context, &secret).unwrap();
            prop_assert_eq!(secrets.open_text(&context, &sealed).unwrap(), secret);
        }
    }
}
