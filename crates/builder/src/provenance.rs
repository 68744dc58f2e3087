//! Where an image comes from, as an in-toto statement (v1) with a SLSA provenance predicate, signed in a DSSE envelope by Ed25519. Pure
//! but for the key.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What the payload of an envelope is.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Something with a SHA-256 (hex), or another digest under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// A resource id, a URL without its secrets, or a name.
    pub name: String,
    /// `{"sha256": "…"}`.
    pub digest: BTreeMap<String, String>,
}

impl Artifact {
    pub fn sha256(name: impl Into<String>, hex: impl Into<String>) -> Self {
        Self::with("sha256", name, hex)
    }

    /// With a digest of another kind.
    pub fn with(kind: &str, name: impl Into<String>, digest: impl Into<String>) -> Self {
        Self { name: name.into(), digest: BTreeMap::from([(kind.to_owned(), digest.into())]) }
    }
}

/// What is known of a build.
#[derive(Debug, Clone)]
pub struct Build {
    /// What came out.
    pub outputs: Vec<Artifact>,
    /// What went in: the source image, the scripts and files.
    pub materials: Vec<Artifact>,
    /// The template, by its id and the hash of its body.
    pub template: Artifact,
    /// Id of the run.
    pub run: String,
    /// Where its log is.
    pub log: String,
    /// RFC 3339.
    pub started: String,
    pub finished: String,
}

/// The statement (in-toto v1, predicate `https://slsa.dev/provenance/v1`).
pub fn statement(build: &Build) -> Value {
    let named = |artifact: &Artifact| json!({"name": artifact.name, "digest": artifact.digest});
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": build.outputs.iter().map(named).collect::<Vec<_>>(),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://lazuli.invalid/image-template/v1",
                "externalParameters": {"template": named(&build.template)},
                "resolvedDependencies": build.materials.iter().map(named).collect::<Vec<_>>(),
            },
            "runDetails": {
                "builder": {"id": "https://lazuli.invalid/builder", "version": {"lazuli": env!("CARGO_PKG_VERSION")}},
                "metadata": {
                    "invocationId": build.run, "startedOn": build.started, "finishedOn": build.finished,
                },
                "byproducts": [{"name": build.log}],
            },
        },
    })
}

/// The statement that a CycloneDX document is the list of the outputs' parts.
pub fn sbom_statement(outputs: &[Artifact], document: &Value) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": outputs.iter().map(|o| json!({"name": o.name, "digest": o.digest})).collect::<Vec<_>>(),
        "predicateType": "https://cyclonedx.org/bom",
        "predicate": document,
    })
}

/// A signed document (DSSE).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// Base64.
    pub payload: String,
    pub payload_type: String,
    pub signatures: Vec<Signature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Hex of the public key.
    pub keyid: String,
    /// Base64.
    pub sig: String,
}

/// Why an envelope is not to be trusted, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("a signing key has 32 bytes")]
    Key,
    #[error("the document cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("the envelope is not base64 where it must be")]
    Encoding(#[from] base64::DecodeError),
    #[error("no signature of the envelope is of this key")]
    Forged,
}

/// Signs a document with the key that these 32 bytes are the seed of.
///
/// # Errors
/// A seed of another length.
pub fn sign(seed: &[u8], document: &Value) -> Result<Envelope, SignatureError> {
    let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignatureError::Key)?;
    let payload = serde_json::to_vec(document)?;
    let signature = key.sign(&pre_authentication(PAYLOAD_TYPE, &payload));
    Ok(Envelope {
        payload: BASE64.encode(&payload),
        payload_type: PAYLOAD_TYPE.to_owned(),
        signatures: vec![Signature {
            keyid: hex::encode(key.public_key().as_ref()),
            sig: BASE64.encode(signature.as_ref()),
        }],
    })
}

/// The document in an envelope, if this key (32 bytes) has signed it.
///
/// # Errors
/// [`SignatureError::Forged`] if it has not.
pub fn verify(public_key: &[u8], envelope: &Envelope) -> Result<Value, SignatureError> {
    let payload = BASE64.decode(&envelope.payload)?;
    let signed = pre_authentication(&envelope.payload_type, &payload);
    let key = UnparsedPublicKey::new(&ED25519, public_key);
    for signature in &envelope.signatures {
        if key.verify(&signed, &BASE64.decode(&signature.sig)?).is_ok() {
            return Ok(serde_json::from_slice(&payload)?);
        }
    }
    Err(SignatureError::Forged)
}

/// What is signed (DSSE's PAE): the lengths keep type and payload apart.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> Build {
        Build {
            outputs: vec![Artifact::sha256("/subscriptions/s/…/versions/1.0.1", "aa")],
            materials: vec![
                Artifact::sha256("/subscriptions/s/…/versions/1.0.0", "bb"),
                Artifact::sha256("step-0", "cc"),
            ],
            template: Artifact::sha256("/subscriptions/s/…/imageTemplates/web", "dd"),
            run: "11111111-2222-3333-4444-555555555555".to_owned(),
            log: "packerlogs/1/customization.log".to_owned(),
            started: "2026-03-01T12:00:00Z".to_owned(),
            finished: "2026-03-01T12:10:00Z".to_owned(),
        }
    }

    #[test]
    fn a_statement() {
        insta::assert_json_snapshot!(statement(&build()), {
            ".predicate.runDetails.builder.version.lazuli" => "[version]"
        });
    }

    /// The example of the DSSE specification.
    #[test]
    fn what_is_signed() {
        let bytes = pre_authentication("http://example.com/HelloWorld", b"hello world");
        assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn an_envelope_is_believed_only_with_its_key_and_its_bytes() {
        let (seed, other) = ([7; 32], [8; 32]);
        let envelope = sign(&seed, &statement(&build())).unwrap();
        let key = hex::decode(&envelope.signatures[0].keyid).unwrap();
        assert_eq!(verify(&key, &envelope).unwrap(), statement(&build()));
        let stranger = hex::decode(&sign(&other, &json!({})).unwrap().signatures[0].keyid).unwrap();
        assert!(matches!(verify(&stranger, &envelope), Err(SignatureError::Forged)));
        let forged = Envelope { payload: BASE64.encode(b"{}"), ..envelope };
        assert!(matches!(verify(&key, &forged), Err(SignatureError::Forged)));
        assert!(matches!(sign(&seed[1..], &json!({})), Err(SignatureError::Key)));
    }
}
