//! Certificates and hashes, and the lists of them that secure boot's variables hold (UEFI 2.10, 32.4.1).
//!
//! ```text
//! list  │ type 16 │ size of the list 4 │ size of its header 4 │ size of a signature 4 │ header │ signature … │
//! signature  │ owner 16 │ DER of a certificate, or hash │
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::{Uuid, uuid};

use super::Database;
use super::store::BadStore;

const X509: Uuid = uuid!("a5c059a1-94e4-4aa7-87b5-ab155c2bf072");
const SHA256: Uuid = uuid!("c1c41626-504c-4092-aca9-41f936934328");
/// Who put the keys of images into the firmware.
const OWNER: Uuid = uuid!("6c617a75-6c69-4b65-8973-6f66696d6167");
/// Bytes before a list's header and signatures.
const HEADER: usize = 28;
/// Bytes of a signature's owner.
const OWNED: usize = 16;
/// What tells the certificates that Windows is signed with from those of other systems.
const OF_WINDOWS: [&[u8]; 2] = [b"Microsoft Windows Production PCA", b"Windows UEFI CA"];

/// Keys that firmware comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyTemplate {
    /// What Microsoft signs for others, such as the boot loaders of Linux.
    MicrosoftUefiCertificateAuthority,
    /// What Microsoft signs of Windows.
    MicrosoftWindows,
}

/// What a database knows a program by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// DER of the certificate that it is signed with.
    X509(Vec<u8>),
    /// Its hash.
    Sha256([u8; 32]),
}

/// On disk: `x509:` or `sha256:`, then base64.
impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, bytes) = match self {
            Self::X509(der) => ("x509", der.as_slice()),
            Self::Sha256(hash) => ("sha256", hash.as_slice()),
        };
        serializer.collect_str(&format_args!("{kind}:{}", STANDARD.encode(bytes)))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || serde::de::Error::custom(format!("'{text}' is no signature"));
        let (kind, encoded) = text.split_once(':').ok_or_else(bad)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| bad())?;
        match kind {
            "x509" => Ok(Self::X509(bytes)),
            "sha256" => bytes.try_into().map(Self::Sha256).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

/// The keys of a machine's firmware, where they are not simply those that it comes with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UefiKeys {
    /// Whose keys stay; none: all go.
    pub templates: Vec<KeyTemplate>,
    /// In place of the firmware's own.
    pub pk: Option<Signature>,
    /// Behind those that stay.
    pub kek: Vec<Signature>,
    pub db: Vec<Signature>,
    pub dbx: Vec<Signature>,
}

impl UefiKeys {
    /// What keeps secure boot from working with them.
    pub fn lacking(&self) -> Option<&'static str> {
        match (self.templates.is_empty(), &self.pk, self.db.is_empty()) {
            (true, None, _) => Some("a platform key (pk)"),
            (true, Some(_), true) => Some("a key in db, so that nothing could start"),
            _ => None,
        }
    }

    /// The lists of a database; `defaults`: those that the firmware comes with.
    pub(super) fn lists(&self, database: Database, defaults: &[u8]) -> Result<Vec<u8>, BadStore> {
        let own = match database {
            Database::Pk => self.pk.as_slice(),
            Database::Kek => self.kek.as_slice(),
            Database::Db => self.db.as_slice(),
            Database::Dbx => self.dbx.as_slice(),
        };
        let mut lists = Vec::new();
        if !(database == Database::Pk && self.pk.is_some()) {
            for list in Lists(defaults) {
                let list = list?;
                let stays = match database {
                    Database::Db => self.templates.contains(&list.template()),
                    _ => !self.templates.is_empty(),
                };
                if stays {
                    lists.extend_from_slice(list.raw);
                }
            }
        }
        own.iter().for_each(|signature| append(&mut lists, signature));
        Ok(lists)
    }
}

/// Every signature that is understood, in order.
///
/// # Errors
/// These are no lists.
pub fn signatures(lists: &[u8]) -> Result<Vec<Signature>, BadStore> {
    let mut found = Vec::new();
    for list in Lists(lists) {
        let list = list?;
        for data in list.data() {
            if list.kind == X509 {
                found.push(Signature::X509(data.to_vec()));
            } else if list.kind == SHA256 {
                found.extend(data.try_into().map(Signature::Sha256));
            }
        }
    }
    Ok(found)
}

/// A list of its own for each: all of a list have one size.
fn append(lists: &mut Vec<u8>, signature: &Signature) {
    let (kind, data) = match signature {
        Signature::X509(der) => (X509, der.as_slice()),
        Signature::Sha256(hash) => (SHA256, hash.as_slice()),
    };
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    lists.extend_from_slice(&kind.to_bytes_le());
    lists.extend_from_slice(&size(HEADER + OWNED + data.len()));
    lists.extend_from_slice(&size(0));
    lists.extend_from_slice(&size(OWNED + data.len()));
    lists.extend_from_slice(&OWNER.to_bytes_le());
    lists.extend_from_slice(data);
}

/// One list within a variable.
struct List<'a> {
    kind: Uuid,
    raw: &'a [u8],
    /// Where its signatures begin.
    begin: usize,
    size: usize,
}

impl<'a> List<'a> {
    fn data(&self) -> impl Iterator<Item = &'a [u8]> {
        self.raw[self.begin..].chunks_exact(self.size).map(|signature| &signature[OWNED..])
    }

    /// Whose certificates these are. Firmware has each in a list of its own.
    fn template(&self) -> KeyTemplate {
        let says = |text: &&[u8]| self.raw.windows(text.len()).any(|window| window == *text);
        if OF_WINDOWS.iter().any(says) {
            KeyTemplate::MicrosoftWindows
        } else {
            KeyTemplate::MicrosoftUefiCertificateAuthority
        }
    }
}

struct Lists<'a>(&'a [u8]);

impl<'a> Iterator for Lists<'a> {
    type Item = Result<List<'a>, BadStore>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let list = first(self.0);
        // After an error nothing is known of what follows.
        let rest = self.0;
        self.0 = list.as_ref().map_or(&[][..], |list| &rest[list.raw.len()..]);
        Some(list.ok_or(BadStore::Shape("a list of signatures is cut or contradicts itself")))
    }
}

fn first(bytes: &[u8]) -> Option<List<'_>> {
    let kind = Uuid::from_bytes_le(bytes.get(..16)?.try_into().ok()?);
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let (length, header, size) = (number(16)?, number(20)?, number(24)?);
    let raw = bytes.get(..length)?;
    let begin = HEADER.checked_add(header)?;
    let held = length.checked_sub(begin)?;
    (size > OWNED && held >= size && held.is_multiple_of(size)).then_some(List { kind, raw, begin, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signature() -> impl Strategy<Value = Signature> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..200).prop_map(Signature::X509),
            any::<[u8; 32]>().prop_map(Signature::Sha256),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(given in prop::collection::vec(signature(), 0..8)) {
            let mut lists = Vec::new();
            given.iter().for_each(|s| append(&mut lists, s));
            prop_assert_eq!(signatures(&lists).unwrap(), given);
        }

        #[test]
        fn anything_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 0u8..80) {
            let mut bytes = bytes;
            // Sizes that nearly fit go deeper than random ones.
            if let Some(sizes) = bytes.get_mut(16..28) {
                sizes.copy_from_slice(&[size.saturating_add(28), 0, 0, 0, 0, 0, 0, 0, size, 0, 0, 0]);
            }
            let _ = signatures(&bytes);
        }
    }

    #[test]
    fn keys_are_kept_as_text() {
        let keys = UefiKeys {
            templates: vec![KeyTemplate::MicrosoftWindows],
            pk: Some(Signature::X509(vec![0x30, 0])),
            dbx: vec![Signature::Sha256([0; 32])],
            ..UefiKeys::default()
        };
        let text = serde_json::to_string(&keys).unwrap();
        insta::assert_snapshot!(text, @r#"{"templates":["MicrosoftWindows"],"pk":"x509:MAA=","kek":[],"db":[],"dbx":["sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]}"#);
        assert_eq!(serde_json::from_str::<UefiKeys>(&text).unwrap(), keys);
        for bad in ["MAA=", "md5:MAA=", "x509:!", "sha256:MAA="] {
            assert!(serde_json::from_value::<Signature>(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_lacking_is_named() {
        let key = || Signature::Sha256([0; 32]);
        let mut keys = UefiKeys::default();
        assert_eq!(keys.lacking(), Some("a platform key (pk)"));
        keys.pk = Some(key());
        assert!(keys.lacking().unwrap().contains("db"));
        keys.db = vec![key()];
        assert_eq!(keys.lacking(), None);
        let microsoft = UefiKeys { templates: vec![KeyTemplate::MicrosoftWindows], ..UefiKeys::default() };
        assert_eq!(microsoft.lacking(), None);
    }
}
