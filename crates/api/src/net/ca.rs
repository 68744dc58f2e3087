//! The local certificate authority and the certificates it makes while the server runs.
//!
//! ```text
//! DIR/ca.pem        the CA's certificate; users give this file to their clients
//! DIR/ca-key.pem    its key, mode 0600; leaves the server never
//! ```
//! Server certificates live in memory only. They are made for the server's own names and for the Azure names of
//! [`hosts`](super::hosts), never for a name that a client merely asks for.

use super::hosts;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients (Apple's) refuse certificates that live longer than 825 days.
const SERVER_DAYS: i64 = 365;
const CA_DAYS: i64 = 3650;
/// A certificate in use is made anew after this, long before it ends.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why the certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("cannot read or write {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{present} exists but {missing} does not; restore it, or remove {present} to have a new CA made")]
    Half { present: PathBuf, missing: PathBuf },
    #[error("{path} is not a usable CA; restore it, or remove ca.pem and ca-key.pem to have a new CA made")]
    Unusable {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("a certificate could not be made")]
    Make(#[source] rcgen::Error),
    #[error("the certificate's key is not usable for TLS")]
    Key(#[source] rustls::Error),
}

/// Makes server certificates on demand.
pub struct LocalCa {
    issuer: Issuer<'static, KeyPair>,
    /// Shared by all server certificates of this run.
    server_key: KeyPair,
    /// Names for connections without SNI (by address) or with a name that is not ours.
    own_names: Vec<String>,
    made: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
}

impl std::fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCa").field("own_names", &self.own_names).finish_non_exhaustive()
    }
}

impl LocalCa {
    /// Reads the CA of `dir`, or makes it when there is none. `own_names` are DNS names or IP addresses.
    pub fn open(dir: &Path, own_names: &[String]) -> Result<Self, CaError> {
        let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca-key.pem"));
        match (cert_path.exists(), key_path.exists()) {
            (true, true) => {}
            (true, false) => return Err(CaError::Half { present: cert_path, missing: key_path }),
            // The certificate is written last: a key alone is the rest of an interrupted first start.
            (false, _) => create(&cert_path, &key_path)?,
        }
        let read =
            |path: &Path| std::fs::read_to_string(path).map_err(|source| CaError::Io { path: path.to_owned(), source });
        let (ca_pem, key_pem) = (read(&cert_path)?, read(&key_path)?);
        let key = KeyPair::from_pem(&key_pem).map_err(|source| CaError::Unusable { path: key_path, source })?;
        let issuer =
            Issuer::from_ca_cert_pem(&ca_pem, key).map_err(|source| CaError::Unusable { path: cert_path, source })?;
        let ca = Self {
            issuer,
            server_key: KeyPair::generate().map_err(CaError::Make)?,
            own_names: own_names.to_vec(),
            made: Mutex::default(),
        };
        ca.certificate(None)?;
        Ok(ca)
    }

    /// The certificate for a host name: its own where it is an Azure name, else the one with the server's own names.
    pub fn certificate(&self, host: Option<&str>) -> Result<Arc<CertifiedKey>, CaError> {
        let name = host.and_then(hosts::certificate_name);
        let cache_key = name.clone().unwrap_or_default();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, key)) = made.get(&cache_key)
            && when.elapsed() < RENEW_AFTER
        {
            return Ok(key.clone());
        }
        let names = name.map_or_else(|| self.own_names.clone(), |n| vec![n]);
        let key = Arc::new(self.make(names)?);
        made.insert(cache_key, (Instant::now(), key.clone()));
        Ok(key)
    }

    fn make(&self, names: Vec<String>) -> Result<CertifiedKey, CaError> {
        let common_name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).map_err(CaError::Make)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, SERVER_DAYS);
        let cert = params.signed_by(&self.server_key, &self.issuer).map_err(CaError::Make)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.server_key.serialize_der()));
        let chain: Vec<CertificateDer<'static>> = vec![cert.der().clone()];
        Ok(CertifiedKey::new(chain, any_supported_type(&private).map_err(CaError::Key)?))
    }
}

impl ResolvesServerCert for LocalCa {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate(hello.server_name())
            .inspect_err(|error| tracing::error!(error = error as &dyn std::error::Error, "no server certificate"))
            .ok()
    }
}

/// From yesterday (clocks differ) for so many days.
fn valid_for(params: &mut CertificateParams, days: i64) {
    let date = |seconds: i64| {
        let at = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(seconds));
        let day = at.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    params.not_before = date(-24 * 3600);
    params.not_after = date(days * 24 * 3600);
}

fn create(cert_path: &Path, key_path: &Path) -> Result<(), CaError> {
    let key = KeyPair::generate().map_err(CaError::Make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // Several servers' CAs may stand side by side in a trust store.
    let id = uuid::Uuid::new_v4().simple().to_string();
    params.distinguished_name.push(DnType::CommonName, format!("Lazuli local CA {}", &id[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, CA_DAYS);
    let cert = params.self_signed(&key).map_err(CaError::Make)?;
    write_new(key_path, &key.serialize_pem(), 0o600)?;
    write_new(cert_path, &cert.pem(), 0o644)
}

/// Writes a file as a whole, with its final mode from the first byte on.
pub(crate) fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let write = || {
        let beside = path.with_extension("new");
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| CaError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn own() -> Vec<String> {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
    }

    #[test]
    fn the_ca_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let open_and_read = || {
            LocalCa::open(dir.path(), &own()).unwrap();
            std::fs::read_to_string(dir.path().join("ca.pem")).unwrap()
        };
        assert_eq!(open_and_read(), open_and_read());
        let mode = std::fs::metadata(dir.path().join("ca-key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_lost_key_or_a_broken_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        LocalCa::open(dir.path(), &own()).unwrap();
        std::fs::remove_file(dir.path().join("ca-key.pem")).unwrap();
        assert!(matches!(LocalCa::open(dir.path(), &own()), Err(CaError::Half { .. })));
        std::fs::write(dir.path().join("ca-key.pem"), "junk").unwrap();
        assert!(matches!(LocalCa::open(dir.path(), &own()), Err(CaError::Unusable { .. })));
    }

    #[test]
    fn an_interrupted_first_start_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca-key.pem"), "").unwrap();
        LocalCa::open(dir.path(), &own()).unwrap();
    }

    #[test]
    fn accounts_share_a_certificate_and_strange_names_get_the_servers_own() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open(dir.path(), &own()).unwrap();
        let of = |host| ca.certificate(host).unwrap();
        assert!(Arc::ptr_eq(&of(Some("a.blob.core.windows.net")), &of(Some("b.blob.core.windows.net"))));
        assert!(Arc::ptr_eq(&of(Some("example.com")), &of(None)));
        assert!(!Arc::ptr_eq(&of(Some("management.azure.com")), &of(None)));
    }
}
