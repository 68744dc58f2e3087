//! What is known of the build that an image came from: two signed statements, bound to the image's own row.
//!
//! ```text
//! {"provenance": envelope, "sbom": envelope}     a file in the content store of the image's region, kept by the image
//!        │                    └─ CycloneDX: what is installed
//!        └─ source, template, scripts, log
//! ```
//! Both are signed with the server's own key, which is made once and lies sealed in the database. Shown by `GET {image}/build`, together
//! with whether the signatures hold.

use crate::content::{guard, manifest_id, store_of, store_op_error};
use crate::operation::{OpContext, OpError};
use crate::regions::ContentGuard;
use crate::sources::take_over;
use crate::stored::{ImageVersionInternal, ManagedImageInternal, StoredFile, change_internal, internal};
use crate::{Engine, db_error, new_etag};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_arm::ArmError;
use lazuli_builder::inventory::Inventory;
use lazuli_builder::provenance::{Artifact, Build, Envelope, sbom_statement, sign, statement, verify};
use lazuli_builder::sbom::{Subject, cyclonedx};
use lazuli_chunks::Progress;
use lazuli_meta::model::{Change, Expect, Resource, Write};
use lazuli_meta::{WriteError, model::Conflict};
use serde_json::{Value, json};
use uuid::Uuid;

/// Setting of the database: the seed of the signing key, sealed for its own name.
const KEY: &str = "buildSigningKey";
const VERSION: &str = "microsoft.compute/galleries/images/versions";
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

/// Where a document was written, and the key of whoever keeps its bytes there.
pub(crate) struct Written<'a> {
    pub file: StoredFile,
    pub region: &'a str,
    pub holder: &'a str,
}

/// Binds the document to an image's row, and brings it into the image's region.
pub(crate) async fn attach(cx: &OpContext, key: &str, written: &Written<'_>) -> Result<(), OpError> {
    let file = &written.file;
    loop {
        let Some(mut row) = cx.engine.db().resource(key).await.map_err(db_error)? else { return Ok(()) };
        let expect = Expect::Etag(row.etag.clone());
        match row.kind.as_str() {
            VERSION => change_internal(&mut row, |s: &mut ImageVersionInternal| s.build = Some(file.clone())),
            _ => change_internal(&mut row, |s: &mut ManagedImageInternal| s.build = Some(file.clone())),
        }
        row.etag = new_etag();
        // Held until the reference is committed.
        let brought = bring(cx, &row, written).await?;
        let holder = brought.is_none().then_some(written.holder);
        let mut changes: Vec<Change> =
            file.stored.iter().flat_map(|stored| take_over(holder, &row.key, &row.location, stored)).collect();
        changes.push(Change::PutResource { resource: row, expect });
        let write = Write { fence: Some((cx.op.id.clone(), cx.op.fence)), changes };
        match cx.engine.db().write(write).await {
            Ok(()) => return Ok(()),
            // It was changed meanwhile, or deleted.
            Err(WriteError::Conflict(Conflict::Etag { .. })) => cx.check()?,
            Err(WriteError::Conflict(Conflict::Missing { key: missing })) if missing == key => cx.check()?,
            Err(WriteError::Conflict(Conflict::Fenced { .. })) => return Err(OpError::Interrupted),
            Err(error) => return Err(OpError::Failed(ArmError::internal(error))),
        }
    }
}

/// The bytes in the region of an image that is in another; `None`: they are there.
async fn bring(cx: &OpContext, image: &Resource, written: &Written<'_>) -> Result<Option<ContentGuard>, OpError> {
    let (from, to) = (written.region, &image.location);
    let Some(stored) = written.file.stored.as_ref().filter(|_| from != to) else { return Ok(None) };
    let guard = guard(cx, to, &image.key).await?;
    let manifest = manifest_id(&stored.manifest)?;
    let source = store_of(cx, from, written.holder, manifest).await?;
    let moved = guard.region.replicate_from(&source, manifest, &Progress::new(), &cx.stop).await;
    moved.map_err(|e| store_op_error(cx, e, to))?;
    Ok(Some(guard))
}

/// `GET {image}/build`; `None`: the image was not built here.
pub(crate) async fn view(engine: &Engine, row: &Resource) -> Result<Option<Value>, ArmError> {
    let file = match row.kind.as_str() {
        VERSION => internal::<ImageVersionInternal>(row)?.build,
        _ => internal::<ManagedImageInternal>(row)?.build,
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
    Ok(Some(document))
}
