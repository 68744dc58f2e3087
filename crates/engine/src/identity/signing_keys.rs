//! The keys that this installation signs its tokens with: in the database, sealed, the same for every server of it.
//!
//! ```text
//! rotate ──> published ──signs_after──> signs ──the next one signs──> verifies ──its last token ended──> ended
//! ```
//! A server reads them again every few seconds, and at once where a token names a key that it does not know. So a new key is known
//! everywhere long before it signs, unless the operator wants it to sign at once. Must never: show a private half, or leave one
//! unsealed in the database.

use super::OperatorError;
use crate::{Engine, db_error, now_ms};
use lazuli_arm::ArmError;
use lazuli_authz::key_ring::NEVER;
use lazuli_authz::token::KeyError;
use lazuli_authz::{KeyRing, RingKey, SigningKey};
use lazuli_meta::model::StoredSigningKey;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How long the keys are taken as they were read.
const REREAD: Duration = Duration::from_secs(5);
/// The same where a token names an unknown one: whoever makes such tokens up makes no work.
const REREAD_UNKNOWN: Duration = Duration::from_secs(1);
/// How long a key is shown before it signs, unless the operator says otherwise.
pub const PUBLISHED_BEFORE: Duration = Duration::from_secs(3600);
/// What clocks may differ by, and how late a server may learn of its successor.
const SLACK_MS: i64 = 10 * 60 * 1000;
/// The longest life of tokens that any server of the installation is thought to give.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The keys as they were last read.
#[derive(Default)]
pub(crate) struct SigningKeys {
    kept: RwLock<Option<(Arc<KeyRing>, Instant)>>,
    /// One reads, the others wait for what it finds.
    reading: tokio::sync::Mutex<()>,
}

impl SigningKeys {
    fn within(&self, age: Duration) -> Option<Arc<KeyRing>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|(_, at)| at.elapsed() < age).map(|(ring, _)| ring.clone())
    }

    fn keep(&self, ring: &Arc<KeyRing>) {
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some((ring.clone(), Instant::now()));
    }

    /// A key that was opened before, so that it is not parsed again.
    fn opened(&self, id: &str) -> Option<Arc<SigningKey>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let (ring, _) = kept.as_ref()?;
        ring.keys().iter().find(|k| k.key.key_id() == id).map(|k| k.key.clone())
    }
}

/// How a key is followed by another.
#[derive(Debug, Clone, Copy)]
pub struct KeyRotation {
    /// How long the new one is shown before it signs.
    pub signs_after: Duration,
    /// The others end at once, and with them every token that they signed: for keys that somebody else may have.
    pub revoke_others: bool,
}

impl Default for KeyRotation {
    fn default() -> Self {
        Self { signs_after: PUBLISHED_BEFORE, revoke_others: false }
    }
}

/// A key as the operator sees it. Times are milliseconds since the Unix epoch; `None`: never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    pub id: String,
    pub created_ms: i64,
    pub signs_from_ms: Option<i64>,
    pub ends_ms: Option<i64>,
}

impl KeyView {
    fn of(stored: &StoredSigningKey) -> Self {
        let time = |ms: i64| (ms != NEVER).then_some(ms);
        Self {
            id: stored.id.clone(),
            created_ms: stored.created_ms,
            signs_from_ms: time(stored.signs_from_ms),
            ends_ms: time(stored.ends_ms),
        }
    }
}

/// The last in the row of those that sign.
fn newest(all: &[StoredSigningKey]) -> Option<&StoredSigningKey> {
    let followed = |id: &str| all.iter().any(|k| k.predecessor == id);
    all.iter().find(|k| k.predecessor != k.id && !followed(&k.id))
}

/// When the keys before a new one end.
fn others_end_ms(rotation: &KeyRotation, signs_from_ms: i64, now_ms: i64, lifetime: Duration) -> i64 {
    if rotation.revoke_others {
        return now_ms;
    }
    let life = i64::try_from(lifetime.max(LONGEST_LIFE).as_millis()).unwrap_or(NEVER);
    signs_from_ms.saturating_add(life).saturating_add(SLACK_MS)
}

fn context(id: &str) -> String {
    format!("signing key {id}")
}

async fn new_key() -> Result<(String, Arc<SigningKey>), ArmError> {
    let made = tokio::task::spawn_blocking(|| {
        let pem = SigningKey::generate_pem()?;
        let key = Arc::new(SigningKey::from_pem(&pem)?);
        Ok::<_, KeyError>((pem, key))
    });
    made.await.map_err(ArmError::internal)?.map_err(ArmError::internal)
}

impl Engine {
    /// The keys that tokens are signed with and believed by. The first is made here.
    ///
    /// # Errors
    /// What the database says.
    pub async fn signing_keys(&self) -> Result<Arc<KeyRing>, ArmError> {
        self.signing_keys_within(REREAD).await
    }

    /// The same, where a token names a key that is not among them.
    ///
    /// # Errors
    /// What the database says.
    pub async fn signing_keys_again(&self) -> Result<Arc<KeyRing>, ArmError> {
        self.signing_keys_within(REREAD_UNKNOWN).await
    }

    async fn signing_keys_within(&self, age: Duration) -> Result<Arc<KeyRing>, ArmError> {
        let keys = self.kept_signing_keys();
        if let Some(ring) = keys.within(age) {
            return Ok(ring);
        }
        let _reading = keys.reading.lock().await;
        if let Some(ring) = keys.within(age) {
            return Ok(ring);
        }
        let mut stored = self.db().signing_keys().await.map_err(db_error)?;
        if newest(&stored).is_none() {
            let (pem, key) = new_key().await?;
            // Else another server was first, and its key counts.
            self.put_first_key(&pem, &key).await?;
            stored = self.db().signing_keys().await.map_err(db_error)?;
        }
        let ring: Result<Vec<RingKey>, ArmError> = stored.iter().map(|k| self.opened_key(k)).collect();
        let ring = Arc::new(KeyRing::new(ring?));
        keys.keep(&ring);
        Ok(ring)
    }

    fn opened_key(&self, stored: &StoredSigningKey) -> Result<RingKey, ArmError> {
        let key = match self.kept_signing_keys().opened(&stored.id) {
            Some(key) => key,
            None => {
                let pem = self.secrets().unseal(&context(&stored.id), &stored.sealed)?;
                Arc::new(SigningKey::from_pem(&pem).map_err(ArmError::internal)?)
            }
        };
        Ok(RingKey { key, signs_from_ms: stored.signs_from_ms, ends_ms: stored.ends_ms })
    }

    fn sealed_key(&self, pem: &str, key: &SigningKey, predecessor: &str) -> Result<StoredSigningKey, ArmError> {
        let id = key.key_id().to_owned();
        Ok(StoredSigningKey {
            predecessor: predecessor.to_owned(),
            sealed: self.secrets().seal(&context(&id), pem)?,
            created_ms: now_ms(),
            // The first signs at once, by every clock.
            signs_from_ms: 0,
            ends_ms: NEVER,
            id,
        })
    }

    async fn put_first_key(&self, pem: &str, key: &SigningKey) -> Result<bool, ArmError> {
        let first = self.sealed_key(pem, key, "")?;
        self.db().put_signing_key(&first, NEVER).await.map_err(db_error)
    }

    /// Takes over the key that a server of before kept in a file. It signs on if it is the first, or else verifies until its last
    /// token ended. When this returns the file is not needed any more.
    ///
    /// # Errors
    /// A text that is no key; what the database says.
    pub async fn adopt_signing_key(&self, pem: &str) -> Result<(), ArmError> {
        let key = SigningKey::from_pem(pem).map_err(ArmError::internal)?;
        if self.put_first_key(pem, &key).await? {
            return Ok(());
        }
        let mut old = self.sealed_key(pem, &key, key.key_id())?;
        old.signs_from_ms = NEVER;
        old.ends_ms = others_end_ms(&KeyRotation::default(), now_ms(), now_ms(), self.config().token_lifetime);
        self.db().put_signing_key(&old, NEVER).await.map_err(db_error)?;
        Ok(())
    }

    /// Makes a key that follows the newest one.
    ///
    /// # Errors
    /// What the database says; [`OperatorError::RotatedMeanwhile`].
    pub async fn rotate_signing_key(&self, rotation: KeyRotation) -> Result<KeyView, OperatorError> {
        // There is one before it, and it is known here.
        self.signing_keys().await?;
        let all = self.db().signing_keys().await.map_err(db_error)?;
        let before = newest(&all).map(|k| k.id.clone()).unwrap_or_default();
        let (pem, key) = new_key().await?;
        let mut new = self.sealed_key(&pem, &key, &before)?;
        let after = i64::try_from(rotation.signs_after.as_millis()).unwrap_or(NEVER);
        new.signs_from_ms = if rotation.revoke_others { now_ms() } else { now_ms().saturating_add(after) };
        let ends = others_end_ms(&rotation, new.signs_from_ms, now_ms(), self.config().token_lifetime);
        if !self.db().put_signing_key(&new, ends).await.map_err(db_error)? {
            return Err(OperatorError::RotatedMeanwhile);
        }
        tracing::info!(key = new.id, before, revoke_others = rotation.revoke_others, "a new key for tokens");
        Ok(KeyView::of(&new))
    }

    /// Every key, in the order in which they sign.
    ///
    /// # Errors
    /// What the database says.
    pub async fn signing_key_views(&self) -> Result<Vec<KeyView>, OperatorError> {
        let all = self.db().signing_keys().await.map_err(db_error)?;
        Ok(all.iter().map(KeyView::of).collect())
    }

    /// Rotates if the newest key has signed for long enough. Whether it did.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn rotate_signing_key_by_age(&self, now_ms: i64) -> Result<bool, OperatorError> {
        let Some(age) = self.config().signing_key_age else { return Ok(false) };
        let age = i64::try_from(age.as_millis()).unwrap_or(NEVER);
        let all = self.db().signing_keys().await.map_err(db_error)?;
        let old = newest(&all).is_some_and(|k| k.created_ms.max(k.signs_from_ms).saturating_add(age) <= now_ms);
        if !old {
            return Ok(false);
        }
        match self.rotate_signing_key(KeyRotation::default()).await {
            Ok(_) => Ok(true),
            // Another server did.
            Err(OperatorError::RotatedMeanwhile) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineConfig;

    fn stored(id: &str, predecessor: &str) -> StoredSigningKey {
        StoredSigningKey {
            id: id.into(),
            predecessor: predecessor.into(),
            sealed: String::new(),
            created_ms: 0,
            signs_from_ms: 0,
            ends_ms: NEVER,
        }
    }

    #[test]
    fn the_newest_is_the_last_in_the_row() {
        let all = [stored("b", "a"), stored("old", "old"), stored("a", ""), stored("c", "b")];
        assert_eq!(newest(&all).unwrap().id, "c");
        // Those before it are forgotten one day.
        assert_eq!(newest(&all[..2]).unwrap().id, "b");
        assert!(newest(&all[1..2]).is_none() && newest(&[]).is_none());
    }

    #[test]
    fn keys_before_end_with_their_last_token_or_at_once() {
        let day = 24 * 3600 * 1000;
        let end = |revoke_others, lifetime| {
            let rotation = KeyRotation { signs_after: Duration::ZERO, revoke_others };
            others_end_ms(&rotation, 1000, 7, Duration::from_secs(lifetime))
        };
        assert_eq!(end(false, 60), 1000 + day + SLACK_MS);
        assert_eq!(end(false, 48 * 3600), 1000 + 2 * day + SLACK_MS);
        assert_eq!(end(true, 60), 7);
    }

    async fn engine(dir: &std::path::Path) -> Engine {
        Engine::open(EngineConfig::local(dir)).await.unwrap()
    }

    /// Two servers of one database, and the same after a restart.
    #[tokio::test]
    async fn all_servers_of_a_database_have_the_same_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (engine(dir.path()).await, engine(dir.path()).await);
        let (a, b) = tokio::join!(one.signing_keys(), two.signing_keys());
        let id = |ring: &KeyRing| ring.signer(now_ms()).unwrap().key_id().to_owned();
        let first = id(&a.unwrap());
        assert_eq!(first, id(&b.unwrap()), "one of them made it");
        let row = one.db().signing_keys().await.unwrap().remove(0);
        assert!(row.sealed.starts_with("sealed:") && !row.sealed.contains("PRIVATE"));

        let planned = one.rotate_signing_key(KeyRotation::default()).await.unwrap();
        let again = engine(dir.path()).await.signing_keys().await.unwrap();
        assert_eq!((id(&again), again.keys().len()), (first.clone(), 2), "shown, but it does not sign yet");
        let in_an_hour = now_ms() + 3_600_001;
        assert_eq!(again.signer(in_an_hour).unwrap().key_id(), planned.id);
        let at_once = KeyRotation { signs_after: Duration::ZERO, revoke_others: true };
        let urgent = two.rotate_signing_key(at_once).await.unwrap();
        let again = engine(dir.path()).await.signing_keys().await.unwrap();
        assert_eq!(id(&again), urgent.id);
        let left = again.jwks(now_ms() + 1)["keys"].as_array().unwrap().len();
        assert_eq!(left, 1, "the others ended");
    }

    #[tokio::test]
    async fn a_key_of_before_signs_on_or_verifies_on() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path()).await;
        let (first, second) = (SigningKey::generate_pem().unwrap(), SigningKey::generate_pem().unwrap());
        let id = |pem: &str| SigningKey::from_pem(pem).unwrap().key_id().to_owned();
        for pem in [&first, &second, &second] {
            engine.adopt_signing_key(pem).await.unwrap();
        }
        let ring = engine.signing_keys().await.unwrap();
        assert_eq!((ring.signer(now_ms()).unwrap().key_id(), ring.keys().len()), (id(&first).as_str(), 2));
        let views = engine.signing_key_views().await.unwrap();
        let verifies = views.iter().find(|k| k.id == id(&second)).unwrap();
        assert!(verifies.signs_from_ms.is_none() && verifies.ends_ms.is_some_and(|e| e > now_ms()));
        assert!(engine.adopt_signing_key("junk").await.is_err());
    }

    #[tokio::test]
    async fn a_key_is_followed_when_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path()).await;
        engine.signing_keys().await.unwrap();
        let day = 24 * 3600 * 1000;
        assert!(!engine.rotate_signing_key_by_age(now_ms() + 89 * day).await.unwrap());
        assert!(engine.rotate_signing_key_by_age(now_ms() + 91 * day).await.unwrap());
        assert!(!engine.rotate_signing_key_by_age(now_ms() + 89 * day).await.unwrap());
        assert_eq!(engine.signing_key_views().await.unwrap().len(), 2);
    }
}
