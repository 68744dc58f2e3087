//! Which keys the firmware of a machine trusts ([`UefiKeys`]), and how they come into its variables ([`enroll`]).
//!
//! Only data and pure functions: who reads the template and writes the machine's own file is [`crate::hypervisor`]. Nothing here
//! checks a signature; that is the firmware's.

mod keys;
mod store;

use uuid::{Uuid, uuid};

pub use keys::{KeyTemplate, Signature, UefiKeys, signatures};
pub use store::{BadStore, Variable, VariableStore};

/// `PK`, `KEK` (UEFI 2.10, 3.3), and of `db`, `dbx` (32.5.1).
const GLOBAL: Uuid = uuid!("8be4df61-93ca-11d2-aa0d-00e098032b8c");
const SECURITY_DATABASE: Uuid = uuid!("d719b2cb-3d3a-4596-a3bc-dad00e67656f");

/// One of the four variables that secure boot rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// Platform key: who may change `KEK`. Without it secure boot is off.
    Pk,
    /// Who may change `db` and `dbx`.
    Kek,
    /// What may start.
    Db,
    /// What must not, whatever `db` says.
    Dbx,
}

impl Database {
    pub const ALL: [Self; 4] = [Self::Pk, Self::Kek, Self::Db, Self::Dbx];

    /// Name and vendor of its variable.
    pub fn variable(self) -> (&'static str, Uuid) {
        match self {
            Self::Pk => ("PK", GLOBAL),
            Self::Kek => ("KEK", GLOBAL),
            Self::Db => ("db", SECURITY_DATABASE),
            Self::Dbx => ("dbx", SECURITY_DATABASE),
        }
    }
}

/// The variables of a firmware that has Microsoft's keys, with these keys in their place.
///
/// # Errors
/// `template` is no store of variables that is understood, or has no room for the keys.
pub fn enroll(template: Vec<u8>, keys: &UefiKeys) -> Result<Vec<u8>, BadStore> {
    let mut store = VariableStore::parse(template)?;
    for database in Database::ALL {
        let (name, vendor) = database.variable();
        let defaults = store.get(name, vendor).unwrap_or_default();
        let lists = keys.lists(database, defaults)?;
        if lists.is_empty() {
            store.remove(name, vendor);
        } else {
            store.set_authenticated(name, vendor, lists);
        }
    }
    store.to_flash()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Debian's package ovmf brings.
    fn ovmf() -> Vec<u8> {
        std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.ms.fd").expect("there is no OVMF: install the package ovmf")
    }

    fn found(flash: Vec<u8>, database: Database) -> Option<Vec<u8>> {
        let (name, vendor) = database.variable();
        VariableStore::parse(flash).unwrap().get(name, vendor).map(<[u8]>::to_vec)
    }

    fn certificates(lists: &[u8]) -> Vec<Signature> {
        signatures(lists).unwrap()
    }

    fn template(templates: &[KeyTemplate]) -> UefiKeys {
        UefiKeys { templates: templates.to_vec(), ..UefiKeys::default() }
    }

    #[test]
    fn both_of_microsofts_templates_are_what_the_firmware_has() {
        let keys = template(&[KeyTemplate::MicrosoftUefiCertificateAuthority, KeyTemplate::MicrosoftWindows]);
        let enrolled = enroll(ovmf(), &keys).unwrap();
        for database in Database::ALL {
            assert_eq!(found(enrolled.clone(), database), found(ovmf(), database), "{database:?}");
        }
        // Everything else is kept too, above all that secure boot is on.
        let (before, after) = (VariableStore::parse(ovmf()).unwrap(), VariableStore::parse(enrolled).unwrap());
        assert_eq!(before.variables().count(), after.variables().count());
        let enabled = uuid!("f0a30bc7-af08-4556-99c4-001009c93a44");
        assert_eq!(after.get("SecureBootEnable", enabled), Some(&[1][..]));
    }

    #[test]
    fn each_template_has_its_own_certificates() {
        let all = certificates(&found(ovmf(), Database::Db).unwrap());
        let of = |kind| certificates(&found(enroll(ovmf(), &template(&[kind])).unwrap(), Database::Db).unwrap());
        let (linux, windows) = (of(KeyTemplate::MicrosoftUefiCertificateAuthority), of(KeyTemplate::MicrosoftWindows));
        let says = |signature: &Signature, text: &str| match signature {
            Signature::X509(der) => der.windows(text.len()).any(|w| w == text.as_bytes()),
            Signature::Sha256(_) => false,
        };
        assert!(!linux.is_empty() && linux.iter().all(|s| says(s, "UEFI CA")));
        assert!(!windows.is_empty() && windows.iter().all(|s| says(s, "Windows")));
        assert_eq!(linux.len() + windows.len(), all.len(), "each certificate belongs to one of them");
    }

    #[test]
    fn ones_own_keys_follow_the_templates_or_stand_alone() {
        let own = Signature::X509(vec![0x30, 1, 0]);
        let hash = Signature::Sha256([7; 32]);
        let mut keys = template(&[KeyTemplate::MicrosoftUefiCertificateAuthority]);
        keys.db = vec![own.clone(), hash.clone()];
        let appended = enroll(ovmf(), &keys).unwrap();
        let db = certificates(&found(appended.clone(), Database::Db).unwrap());
        assert!(db.len() > 2);
        assert_eq!(db[db.len() - 2..], [own.clone(), hash.clone()]);
        assert_eq!(found(appended, Database::Pk), found(ovmf(), Database::Pk), "the platform's own");

        keys.templates = vec![];
        keys.pk = Some(own.clone());
        let alone = enroll(ovmf(), &keys).unwrap();
        assert_eq!(certificates(&found(alone.clone(), Database::Db).unwrap()), [own.clone(), hash]);
        assert_eq!(certificates(&found(alone.clone(), Database::Pk).unwrap()), [own]);
        for empty in [Database::Kek, Database::Dbx] {
            assert_eq!(found(alone.clone(), empty), None, "{empty:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut keys = template(&[KeyTemplate::MicrosoftWindows]);
        keys.dbx = vec![Signature::Sha256([1; 32]); 6000];
        assert!(matches!(enroll(ovmf(), &keys), Err(BadStore::Full { .. })));
        let error = enroll(vec![0xff; 4096], &keys).unwrap_err();
        assert_eq!(error.to_string(), "no store of firmware variables: it does not begin as a firmware volume");
    }
}
