//! Where the result goes: one after the other, each remembered; one that fails keeps no other from being tried.
//!
//! ```text
//! SharedImage    the next free number (or the one that is named) ─▶ version of the build machine ─▶ all its regions are complete
//! ManagedImage   an image of the build machine; one that an earlier run of this template made there is replaced
//! VHD            a page blob that shares the result's bytes
//! ```
//! A result in another region than the build's is made of snapshots that are copied there first. What was distributed stays, whatever
//! becomes of the rest.

use super::customize::INVENTORY;
use super::machine::require;
use super::names::Machine;
use super::{PARTIAL, Run, TRACE, TRACED};
use crate::build_record;
use crate::call::Call;
use crate::image_builder::staging::VHDS;
use crate::image_builder::{TemplateInternal, unauthorized};
use crate::image_files::{self, ImageFile};
use crate::operation::OpError;
use crate::providers::image_template_run_output::{Artifact, put_change};
use crate::providers::virtual_machine::MachineInternal;
use crate::shared_galleries::VERSIONS;
use crate::sources::take_over;
use crate::storage::Place;
use crate::stored::{BootTrace, ManagedImageInternal, internal};
use crate::{db_error, now_ms, on_behalf};
use aws_lc_rs::digest::{SHA256, digest};
use lazuli_arm::bodies::image_template::{Distributor, Script, Target, TargetRegion, Versioning, Work, next_version};
use lazuli_arm::bodies::image_version::VersionName;
use lazuli_arm::{ArmError, ResourceId};
use lazuli_builder::inventory::Inventory;
use lazuli_builder::provenance::{Artifact as Made, Build};
use lazuli_meta::model::{Change, Resource, ResourceQuery};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How often the next number is taken by somebody else, at most.
const TRIES: usize = 8;

/// What became of one distributor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Distributed {
    /// `None`: it was distributed.
    error: Option<Value>,
}

/// All of a template's. `sound`: the result was not found wanting.
///
/// # Errors
/// What failed, in one message; the step [`PARTIAL`] says whether something succeeded.
pub(super) async fn distribute(run: &Run<'_>, machine: &Machine, sound: bool) -> Result<(), OpError> {
    let all = &run.template.distribute;
    let mut failures: Vec<(String, ArmError)> = Vec::new();
    for (index, distributor) in all.iter().enumerate() {
        run.cx.progress(index as u64, all.len() as u64, "Distributing").await;
        let name = &distributor.run_output_name;
        let step = format!("distributed/{}", name.to_ascii_lowercase());
        let done: Distributed = run.cx.step_with(&step, Box::pin(one(run, machine, distributor))).await?;
        if let Some(error) = done.error {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            failures.push((name.clone(), ArmError::new(409, text("code"), text("message"))));
        }
    }
    let Some((_, first)) = failures.first() else { return Ok(()) };
    let why: Vec<String> = failures.iter().map(|(name, error)| format!("'{name}': {}", error.message)).collect();
    let message =
        format!("Failed in distributing {} images out of total {}: {}", failures.len(), all.len(), why.join(" "));
    if sound && failures.len() < all.len() {
        run.cx.step(PARTIAL, async { Ok(()) }).await?;
    }
    Err(OpError::Failed(ArmError::new(409, first.code.clone(), message)))
}

async fn one(
    run: &Run<'_>,
    machine: &Machine,
    distributor: &Distributor,
) -> Result<(Distributed, Vec<Change>), OpError> {
    let name = &distributor.run_output_name;
    run.journal.say(name, &format!("distributes as {}", distributor.kind()));
    match Box::pin(target(run, machine, distributor)).await {
        Ok(artifact) => {
            let (Artifact::Id(shown) | Artifact::Uri(shown)) = &artifact;
            run.journal.say(name, &format!("distributed: {shown}"));
            if let Artifact::Id(id) = &artifact {
                Box::pin(bind(run, name, id)).await?;
            }
            let put = put_change(&run.row, name, &artifact, now_ms())?;
            Ok((Distributed { error: None }, vec![put]))
        }
        Err(OpError::Failed(error)) => {
            let error = in_words_of_the_service(error);
            run.journal.say(name, &format!("failed: {}", error.message));
            Ok((Distributed { error: Some(error.to_value()) }, vec![]))
        }
        Err(stopped) => Err(stopped),
    }
}

/// A right that the identity lacks is told as Image Builder tells it (recorded).
fn in_words_of_the_service(error: ArmError) -> ArmError {
    match error.code.as_str() {
        "AuthorizationFailed" | "LinkedAuthorizationFailed" => {
            let place = error.message.split('\'').find(|part| part.starts_with("/subscriptions/")).map(str::to_owned);
            ArmError {
                message: format!("{} {}", unauthorized(&place.unwrap_or_default()).message, error.message),
                ..error
            }
        }
        _ => error,
    }
}

async fn target(run: &Run<'_>, machine: &Machine, distributor: &Distributor) -> Result<Artifact, OpError> {
    match &distributor.target {
        Target::ManagedImage { image_id, location } => {
            managed_image(run, machine, distributor, image_id, location).await.map(Artifact::Id)
        }
        Target::Gallery { .. } => gallery(run, machine, distributor).await.map(Artifact::Id),
        Target::Vhd { uri } => vhd(run, machine, distributor, uri.as_deref()).await.map(Artifact::Uri),
    }
}

/// Binds to an image what is known of its build and of its start.
async fn bind(run: &Run<'_>, name: &str, id: &str) -> Result<(), OpError> {
    let row = require(run, &id.parse().map_err(ArmError::internal)?).await?;
    if let Some(inventory) = run.cx.done_step(INVENTORY) {
        let inventory: Inventory = serde_json::from_value(inventory).map_err(ArmError::internal)?;
        bind_build(run, name, &row, &inventory).await?;
    }
    let covers = run.cx.done_step(TRACED).and_then(|covers| covers.as_u64());
    let Some(covers) = covers else { return Ok(()) };
    let (file, holder) =
        run.cx.engine.storage().stored_file(&run.journal.place(TRACE)).await.map_err(ArmError::from)?;
    let stored = file.stored.ok_or_else(|| ArmError::internal("a trace without bytes"))?;
    attach(run, &row, ImageFile::BootTrace(BootTrace { stored, covers }), &holder).await
}

async fn bind_build(run: &Run<'_>, name: &str, row: &Resource, inventory: &Inventory) -> Result<(), OpError> {
    let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string();
    let sha256 = |bytes: &[u8]| hex::encode(digest(&SHA256, bytes));
    let source = &run.prepared.source;
    let mut materials = vec![Made::with("lazuliManifest", source.id.clone(), source.manifest.clone())];
    let state: TemplateInternal = internal(&run.row)?;
    materials.extend(state.files.iter().map(|(place, file)| Made::sha256(place.clone(), file.sha256.clone())));
    for (index, step) in run.template.customize.iter().enumerate() {
        if let Work::Shell(Script::Inline(commands)) = &step.work {
            let script = lazuli_builder::step::inline(commands);
            materials.push(Made::sha256(format!("customize/{index} (inline)"), sha256(script.as_bytes())));
        }
    }
    let build = Build {
        outputs: vec![build_record::artifact(row)?],
        materials,
        template: Made::sha256(run.row.id.clone(), sha256(run.row.body.to_string().as_bytes())),
        run: run.prepared.run.to_string(),
        log: run.journal.location().to_owned(),
        started: time(run.cx.op.started_ms),
        finished: time(now_ms()),
    };
    let version = row.kind.ends_with("/versions").then_some(row.name.as_str());
    let document = build_record::document(&run.cx.engine, &build, run.id.name(), version, inventory).await?;
    let file = format!("build-{name}.json");
    run.journal.put(&file, document).await?;
    let stored = run.cx.engine.storage().stored_file(&run.journal.place(&file)).await;
    let (file, holder) = stored.map_err(ArmError::from)?;
    attach(run, row, ImageFile::Build(file), &holder).await
}

async fn attach(run: &Run<'_>, image: &Resource, file: ImageFile, holder: &str) -> Result<(), OpError> {
    let written = image_files::Written { file, region: &run.template.location, holder };
    image_files::attach(run.cx, &image.key, &written).await
}

// ---- managed images

async fn managed_image(
    run: &Run<'_>,
    machine: &Machine,
    distributor: &Distributor,
    id: &str,
    location: &str,
) -> Result<String, OpError> {
    let image: ResourceId = id.parse().map_err(ArmError::internal)?;
    replace_own(run, distributor, &image).await?;
    let mut properties = json!({"hyperVGeneration": run.prepared.source.generation});
    if location == run.template.location {
        properties["sourceVirtualMachine"] = json!({"id": machine.machine.to_string()});
    } else {
        let copies = copies_in(run, machine, location).await?;
        let os_type = if run.prepared.source.windows { "Windows" } else { "Linux" };
        let data =
            copies.data.iter().map(|disk| json!({"lun": disk.lun, "caching": disk.caching, "snapshot": disk.source()}));
        properties["storageProfile"] = json!({
            "osDisk": {"osType": os_type, "osState": "Generalized", "snapshot": {"id": copies.os.to_string()}},
            "dataDisks": data.collect::<Vec<_>>(),
        });
    }
    let body = json!({"location": location, "tags": distributor.artifact_tags, "properties": properties});
    run.put(&image, &body).await?;
    Ok(image.to_string())
}

/// An image that is there may only be one that this distributor made: it makes room for the new one.
async fn replace_own(run: &Run<'_>, distributor: &Distributor, image: &ResourceId) -> Result<(), OpError> {
    let db = run.cx.engine.db();
    let Some(old) = db.resource(&image.key()).await.map_err(db_error)? else { return Ok(()) };
    let output = format!("{}/runoutputs/{}", run.row.key, distributor.run_output_name.to_ascii_lowercase());
    let output = db.resource(&output).await.map_err(db_error)?;
    let own = output.is_some_and(|row| {
        row.body["properties"]["artifactId"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(&old.id))
    });
    // Made by this very run, before its worker died.
    let ours = old.created_ms >= run.cx.op.started_ms;
    if own || ours {
        return on_behalf::delete(run.cx, &run.call, image).await;
    }
    Err(OpError::Failed(ArmError::conflict(
        "Conflict",
        format!(
            "The managed image '{}' exists already and was not made by this template: delete it, or choose another name.",
            old.id
        ),
    )))
}

/// Copies of a build machine's disks.
struct Copies {
    os: ResourceId,
    data: Vec<DataCopy>,
}

struct DataCopy {
    lun: u8,
    caching: Value,
    snapshot: ResourceId,
}

impl DataCopy {
    fn source(&self) -> Value {
        json!({"id": self.snapshot.to_string()})
    }
}

/// Copies of all disks in a region.
async fn copies_in(run: &Run<'_>, machine: &Machine, location: &str) -> Result<Copies, OpError> {
    let row = require(run, &machine.machine).await?;
    let state: MachineInternal = internal(&row)?;
    let os = snapshot_in(run, &state.os_disk, None, location).await?;
    let mut data = Vec::new();
    for (lun, disk) in &state.data_disks {
        let mut shown = row.body["properties"]["storageProfile"]["dataDisks"].as_array().into_iter().flatten();
        let caching = shown.find(|d| d["lun"] == *lun).map_or(json!("None"), |d| d["caching"].clone());
        data.push(DataCopy { lun: *lun, caching, snapshot: snapshot_in(run, disk, Some(*lun), location).await? });
    }
    Ok(Copies { os, data })
}

/// A copy of a disk (of which this is the key) in a region.
async fn snapshot_in(run: &Run<'_>, disk: &str, lun: Option<u8>, location: &str) -> Result<ResourceId, OpError> {
    let disk = run.cx.engine.db().resource(disk).await.map_err(db_error)?;
    let disk = disk.ok_or_else(|| ArmError::internal("the build machine lacks one of its disks"))?;
    let home = run.names.snapshot(lun, None);
    let body = |region: &str, create: Value| json!({"location": region, "properties": {"incremental": true, "creationData": create}});
    let copy = json!({"createOption": "Copy", "sourceResourceId": disk.id});
    run.put(&home, &body(&run.template.location, copy)).await?;
    if location == run.template.location {
        return Ok(home);
    }
    let there = run.names.snapshot(lun, Some(location));
    let copy = json!({"createOption": "CopyStart", "sourceResourceId": home.to_string()});
    run.put(&there, &body(location, copy)).await?;
    arrived(run, &there).await?;
    Ok(there)
}

/// A copy is there before its bytes are.
async fn arrived(run: &Run<'_>, snapshot: &ResourceId) -> Result<(), OpError> {
    loop {
        run.cx.check()?;
        let row = require(run, snapshot).await?;
        let percent = row.body["properties"]["completionPercent"].as_f64();
        if percent.is_none_or(|done| done >= 100.0) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

// ---- galleries

async fn gallery(run: &Run<'_>, machine: &Machine, distributor: &Distributor) -> Result<String, OpError> {
    let Target::Gallery { definition, .. } = &distributor.target else {
        return Err(OpError::Failed(ArmError::internal("a gallery's distributor is expected")));
    };
    let definition: ResourceId = definition.parse().map_err(ArmError::internal)?;
    let home = definition_home(run, &definition).await?;
    let source = if home == run.template.location {
        json!({"source": {"virtualMachineId": machine.machine.to_string()}})
    } else {
        let copies = copies_in(run, machine, &home).await?;
        let data = copies.data.iter().map(|d| json!({"lun": d.lun, "hostCaching": d.caching, "source": d.source()}));
        json!({"osDiskImage": {"source": {"id": copies.os.to_string()}}, "dataDiskImages": data.collect::<Vec<_>>()})
    };
    for attempt in 0..TRIES {
        let step = format!("number/{}/{attempt}", distributor.run_output_name.to_ascii_lowercase());
        let is_new = run.cx.done_step(&step).is_none();
        let number: String = run.cx.step(&step, number(run, distributor, &definition)).await?;
        let id = definition.child("versions", &number);
        let body = version_body(distributor, &home, &source);
        // What an earlier worker has begun is gone on with; else the number must be free.
        let call = Call { if_none_match: is_new.then(|| "*".to_owned()), ..run.call.clone() };
        run.journal.say(&distributor.run_output_name, &format!("creates version {number}"));
        match Box::pin(on_behalf::put(run.cx, &call, &id, &body)).await {
            Ok(()) => return Ok(id.to_string()),
            Err(OpError::Failed(error)) if error.code == "PreconditionFailed" => {
                if named_version(distributor).is_some() {
                    return Err(OpError::Failed(ArmError::conflict(
                        "Conflict",
                        format!(
                            "The image version '{id}' exists already. Name another version, or none, so that its number is chosen."
                        ),
                    )));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(OpError::Failed(ArmError::conflict(
        "Conflict",
        format!("Others take each next version number of '{definition}' first. Run the template again."),
    )))
}

fn named_version(distributor: &Distributor) -> Option<&String> {
    match &distributor.target {
        Target::Gallery { version, .. } => version.as_ref(),
        _ => None,
    }
}

/// The region of a definition, which is that of its versions.
async fn definition_home(run: &Run<'_>, definition: &ResourceId) -> Result<String, OpError> {
    let row = run.cx.engine.db().resource(&definition.key()).await.map_err(db_error)?;
    let row = row.ok_or_else(|| {
        ArmError::new(404, "NotFound", format!("The image definition '{definition}' does not exist."))
    })?;
    Ok(row.location)
}

async fn number(run: &Run<'_>, distributor: &Distributor, definition: &ResourceId) -> Result<String, OpError> {
    let Target::Gallery { version, versioning, .. } = &distributor.target else {
        return Err(OpError::Failed(ArmError::internal("a gallery's distributor is expected")));
    };
    if let Some(version) = version {
        return Ok(version.clone());
    }
    let query =
        ResourceQuery { kind: Some(VERSIONS.to_owned()), under: Some(definition.key()), ..ResourceQuery::default() };
    let existing: Vec<VersionName> =
        run.cx.engine.all_rows(query).await?.iter().filter_map(|row| row.name.parse().ok()).collect();
    let scheme = versioning.unwrap_or(Versioning::Latest { major: None });
    let source = run.prepared.source.version.as_deref().and_then(|v| v.parse::<VersionName>().ok());
    let next = next_version(&existing, scheme, source).ok_or_else(|| {
        ArmError::bad_request(
            "ValidationFailed",
            format!(
                "No version number for '{definition}' follows from the versioning scheme: the source has no version of the form \
                 Major.Minor.Patch, or there is no number left."
            ),
        )
    })?;
    Ok(next.to_string())
}

fn version_body(distributor: &Distributor, home: &str, storage: &Value) -> Value {
    let Target::Gallery { regions, exclude_from_latest, replication_mode, .. } = &distributor.target else {
        return Value::Null;
    };
    let region = |region: &TargetRegion| {
        let mut target = Map::new();
        target.insert("name".into(), region.name.clone().into());
        target.insert("regionalReplicaCount".into(), region.replica_count.into());
        if let Some(kind) = region.storage_account_type {
            target.insert("storageAccountType".into(), kind.into());
        }
        Value::Object(target)
    };
    let mut publishing = json!({
        "targetRegions": regions.iter().map(region).collect::<Vec<_>>(), "excludeFromLatest": exclude_from_latest,
    });
    if let Some(mode) = replication_mode {
        publishing["replicationMode"] = json!(mode);
    }
    json!({
        "location": home, "tags": distributor.artifact_tags,
        "properties": {"publishingProfile": publishing, "storageProfile": storage},
    })
}

// ---- VHDs

/// A page blob in the staging account, or at the URI that the template gives. Nothing is copied: it refers to the result's bytes.
async fn vhd(
    run: &Run<'_>,
    machine: &Machine,
    distributor: &Distributor,
    uri: Option<&str>,
) -> Result<String, OpError> {
    let engine = &run.cx.engine;
    run.cx.step("result", super::machine::result_image(run, machine)).await?;
    let image = require(run, &run.names.result()).await?;
    let stored = internal::<ManagedImageInternal>(&image)?.os_disk;
    let stored = stored.ok_or_else(|| ArmError::internal("a managed image without bytes"))?;
    let at = match uri {
        None => {
            let state: TemplateInternal = internal(&run.row)?;
            let account = state.staging.storage(&run.row.location)?;
            let made = engine.storage().create_container(&account, VHDS, Default::default(), None).await;
            if let Err(error) = made
                && error.code() != Some(crate::storage::Code::ContainerAlreadyExists)
            {
                return Err(OpError::Failed(ArmError::from(error)));
            }
            let blob = format!("{}.vhd", distributor.run_output_name);
            Place { account, container: VHDS.to_owned(), blob, snapshot: None }
        }
        Some(uri) => {
            let context = crate::provider::Context { engine, call: &run.call, now_ms: now_ms() };
            crate::storage::vhd::find(context, uri, None, &run.template.location).await?
        }
    };
    let held = |owner: &str| take_over(Some(&image.key), owner, &image.location, &stored);
    engine.storage().put_fixed_vhd(&at, &stored, now_ms(), held).await.map_err(ArmError::from)?;
    Ok(match (uri, &run.call.urls.blob_suffix) {
        (Some(uri), _) => uri.split('?').next().unwrap_or(uri).to_owned(),
        (None, Some(suffix)) => format!("https://{}.{suffix}/{}/{}", at.account.name, at.container, at.blob),
        (None, None) => format!("{}/{}/{}/{}", run.call.urls.arm, at.account.name, at.container, at.blob),
    })
}
