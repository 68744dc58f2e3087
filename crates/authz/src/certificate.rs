//! The certificates that clients register, and prove with signatures that they hold the key of ([`crate::assertion`]).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

/// What is kept of a certificate. Nobody vouches for it but who registered it: its issuer does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub der: Vec<u8>,
    /// Of the DER form.
    pub sha1: Vec<u8>,
    pub sha256: Vec<u8>,
    /// `RSAPublicKey` of PKCS#1, in DER.
    pub public_key: Vec<u8>,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    pub not_after: i64,
    pub subject: String,
}

/// Why a certificate is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("this is no X.509 certificate in PEM or DER form")]
    Malformed,
    #[error("the certificate's key is not an RSA key of 2048 to 8192 bits")]
    NotRsa,
}

impl Certificate {
    /// From a PEM text; what else is in it (a private key, further certificates) is passed over.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        const END: &str = "-----END CERTIFICATE-----";
        let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----").ok_or(CertificateError::Malformed)?;
        let (body, _) = rest.split_once(END).ok_or(CertificateError::Malformed)?;
        let body: String = body.split_ascii_whitespace().collect();
        Self::from_der(BASE64_STANDARD.decode(body).map_err(|_| CertificateError::Malformed)?)
    }

    /// # Errors
    /// [`CertificateError`].
    pub fn from_der(der: Vec<u8>) -> Result<Self, CertificateError> {
        let (rest, parsed) = X509Certificate::from_der(&der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let key = parsed.public_key();
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if (2048..=8192).contains(&rsa.key_size()) => {}
            _ => return Err(CertificateError::NotRsa),
        }
        let made = Self {
            sha1: digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &der).as_ref().to_vec(),
            sha256: digest::digest(&digest::SHA256, &der).as_ref().to_vec(),
            public_key: key.subject_public_key.data.to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            subject: parsed.subject().to_string(),
            der: Vec::new(),
        };
        Ok(Self { der, ..made })
    }

    /// The thumbprint as tokens name it (`x5t`, `x5t#S256`).
    pub fn is_named(&self, thumbprint: &str) -> bool {
        let Ok(bytes) = BASE64_URL_SAFE_NO_PAD.decode(thumbprint.trim_end_matches('=')) else { return false };
        bytes == self.sha1 || bytes == self.sha256
    }

    /// SHA-1 of the DER form in upper-case hex, as people know certificates by.
    pub fn thumbprint(&self) -> String {
        self.sha1.iter().map(|b| format!("{b:02X}")).collect()
    }
}
