//! What is known of the build that an image came from: two signed statements, bound to the image's own row.
//!
//! ```text
//! {"provenance": envelope, "sbom": envelope}     a file in the content store of the image's region, kept by the image
//!        │                    └─ CycloneDX: what is installed
//!        └─ source, template, scripts, log
//! ```
//! Both are signed with the server's own key, which is made once and lies sealed in the database. Shown by `GET {image}/build`, together
//! with whether the signatures hold, and what first starts of the image fetch ahead. How it comes to its image: [`crate::image_files`].

use crate::shared_galleries::VERSIONS;
use crate::stored::{ImageVersionInternal, ManagedImageInternal, internal};
use crate::{Engine, db_error};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::ArmError;
use lazuli_builder::inventory::Inventory;
use lazuli_builder::provenance::{Artifact, Build, Envelope, sbom_statement, sign, statement, verify};
use lazuli_builder::sbom::{Subject, cyclonedx};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};
use uuid::Uuid;

/// Setting of the database: the seed of the signing key, sealed for its own name.
const KEY: &str = "buildSigningKey";
const IMAGE: &str = "microsoft.compute/images";

/// The document of an image, signed.
pub(crate) async fn document(
    engine: &Engine,
    build: &Build,
    name: &str,
    version: Option<&str>,
    inventory: &Inventory,
) -> Result<Vec<u8>, ArmError> {
    let seed = seed(engine).await?;
    let sbom = cyclonedx(&Subject { name, version, time: &build.finished }, inventory);
    let signed = |statement: &Value| sign(&seed, statement).map_err(ArmError::internal);
    let document = json!({
        "provenance": signed(&statement(build))?, "sbom": signed(&sbom_statement(&build.outputs, &sbom))?,
    });
    serde_json::to_vec(&document).map_err(ArmError::internal)
}

/// The key that this server signs with.
async fn seed(engine: &Engine) -> Result<Vec<u8>, ArmError> {
    if engine.db().setting(KEY).await.map_err(db_error)?.is_none() {
        let seed: Vec<u8> = [Uuid::new_v4(), Uuid::new_v4()].iter().flat_map(|id| *id.as_bytes()).collect();
        let sealed = engine.secrets().seal(KEY, &BASE64_STANDARD.encode(seed))?;
        // Of two servers that begin at once, one has the database's key.
        engine.db().put_setting(KEY, &sealed, true).await.map_err(db_error)?;
    }
    let sealed = engine.db().setting(KEY).await.map_err(db_error)?.unwrap_or_default();
    BASE64_STANDARD.decode(engine.secrets().unseal(KEY, &sealed)?).map_err(ArmError::internal)
}

/// An image as statements name it: by its id and what its disk is.
pub(crate) fn artifact(row: &Resource) -> Result<Artifact, ArmError> {
    let os_disk = match row.kind.as_str() {
        IMAGE => internal::<ManagedImageInternal>(row)?.os_disk,
        _ => internal::<ImageVersionInternal>(row)?.os_disk,
    };
    Ok(Artifact::with("lazuliManifest", row.id.clone(), os_disk.map(|d| d.manifest).unwrap_or_default()))
}

/// `GET {image}/build`; `None`: the image was not built here.
pub(crate) async fn view(engine: &Engine, row: &Resource) -> Result<Option<Value>, ArmError> {
    let (file, trace) = match row.kind.as_str() {
        VERSIONS => internal(row).map(|s: ImageVersionInternal| (s.build, s.boot_trace))?,
        _ => internal(row).map(|s: ManagedImageInternal| (s.build, s.boot_trace))?,
    };
    let Some(file) = file else { return Ok(None) };
    let bytes = engine.storage().read_file(&row.key, &row.location, &file).await?;
    let mut document: Value = serde_json::from_slice(&bytes).map_err(ArmError::internal)?;
    let own = sign(&seed(engine).await?, &Value::Null).map_err(ArmError::internal)?;
    let key = own.signatures.first().map(|s| s.keyid.clone()).unwrap_or_default();
    let public = hex::decode(&key).map_err(ArmError::internal)?;
    let holds = |envelope: &Value| {
        let envelope: Option<Envelope> = serde_json::from_value(envelope.clone()).ok();
        envelope.is_some_and(|envelope| verify(&public, &envelope).is_ok())
    };
    document["verified"] = json!(holds(&document["provenance"]) && holds(&document["sbom"]));
    document["keyId"] = json!(key);
    if let Some(trace) = trace {
        document["bootTrace"] = json!({"sizeBytes": trace.stored.size_bytes, "fetchedAheadBytes": trace.covers});
    }
    Ok(Some(document))
}
