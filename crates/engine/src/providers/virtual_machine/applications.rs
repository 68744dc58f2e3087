//! From a machine's `applicationProfile` to the files and commands of the versions that it names, as they are when it is written.
//!
//! A version must be in the machine's region, as an image must be; a configuration of the machine's own is a blob of this server, whose
//! bytes the machine refers to from then on.

use super::MachineInternal;
use super::image::{newest, no_latest, not_available};
use crate::capture::is_off;
use crate::content::reference;
use crate::db_error;
use crate::operations::virtual_machine_run_command::not_running;
use crate::provider::Context;
use crate::shared_galleries::serves;
use crate::sources::take_over;
use crate::storage::package;
use crate::stored::{ImageVersionInternal, StoredFile, internal};
use crate::vm_applications::{Applications, Config, Wanted};
use lazuli_arm::bodies::virtual_machine::{applications, extensions_not_allowed};
use lazuli_arm::{ArmError, ResourceId};
use lazuli_meta::model::{Change, Resource};
use serde_json::Value;
use std::collections::BTreeSet;

const VERSIONS: &str = "microsoft.compute/galleries/applications/versions";
const PROFILE: &str = "applicationProfile.galleryApplications";

/// Settles in `state` what a machine's new body names, and what is to be committed with it. `old`: the machine as it was.
///
/// # Errors
/// 404 `GalleryImageNotFound` for what is not in the region; 403; 400 for what is for another system, or not done here; 409 where a
/// machine that exists is not running, or has no agent.
pub(super) async fn want(
    cx: Context<'_>,
    machine: &ResourceId,
    body: &Value,
    old: Option<&Resource>,
    state: &mut Applications,
) -> Result<Vec<Change>, ArmError> {
    let entries = applications(&body["properties"]);
    let before = old.map_or(&[][..], |o| applications(&o.body["properties"]));
    if entries.is_empty() && state.wanted.is_empty() {
        return Ok(vec![]);
    }
    // What a machine has stays as it is while nobody can change it: "latest" is looked for again when it runs.
    if let Some(old) = old
        && entries == before
        && (!entries.iter().any(is_latest) || !is_up(cx, old).await?)
    {
        return Ok(vec![]);
    }
    let mut changes = Vec::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    for entry in entries {
        let same = before.contains(entry) && !is_latest(entry);
        let kept = same.then(|| kept(entry, state)).flatten();
        let found = match kept {
            Some(kept) => kept.clone(),
            None => resolve(cx, machine, body, entry, &mut changes).await?,
        };
        if wanted.iter().any(|w| w.name.eq_ignore_ascii_case(&found.name)) {
            return Err(ArmError::invalid_parameter(
                PROFILE,
                format!("Duplicate application name {} detected in application registry", found.name),
            ));
        }
        wanted.push(found);
    }
    changes.extend(let_go(machine, body, &state.wanted, &wanted));
    state.want(wanted);
    if state.due().is_empty() {
        return Ok(changes);
    }
    if let Some(error) = extensions_not_allowed(body) {
        return Err(error);
    }
    let created = old.map(internal::<MachineInternal>).transpose()?.filter(|machine| machine.created);
    match created {
        Some(machine) if machine.deallocated || machine.generalized => Err(not_running()),
        _ => Ok(changes),
    }
}

fn is_latest(entry: &Value) -> bool {
    entry["packageReferenceId"].as_str().is_some_and(|id| id.to_ascii_lowercase().ends_with("/versions/latest"))
}

/// A host that does not say so is no reason to refuse a change of something else.
async fn is_up(cx: Context<'_>, row: &Resource) -> Result<bool, ArmError> {
    Ok(!internal::<MachineInternal>(row)?.created || is_off(cx.engine, row).await.is_ok_and(|off| !off))
}

/// What was found for an entry that is as it was, whatever became of the version since.
fn kept<'s>(entry: &Value, state: &'s Applications) -> Option<&'s Wanted> {
    let id = entry["packageReferenceId"].as_str().unwrap_or_default().to_ascii_lowercase();
    state.wanted.iter().find(|w| w.from == id)
}

async fn resolve(
    cx: Context<'_>,
    machine: &ResourceId,
    body: &Value,
    entry: &Value,
    changes: &mut Vec<Change>,
) -> Result<Wanted, ArmError> {
    let location = body["location"].as_str().unwrap_or_default();
    let reference = entry["packageReferenceId"].as_str().unwrap_or_default();
    let id: ResourceId = reference.parse().map_err(ArmError::internal)?;
    cx.engine
        .authorize_link(&cx.call.caller, reference, "Microsoft.Compute/galleries/applications/versions/read")
        .await?;
    let (application, version) = find(cx, &id, location).await?;
    let system = |row: &Value| row.as_str().unwrap_or("Linux").to_owned();
    let (own, for_system) = (
        system(&body["properties"]["storageProfile"]["osDisk"]["osType"]),
        system(&application.body["properties"]["supportedOSType"]),
    );
    if !own.eq_ignore_ascii_case(&for_system) {
        return Err(ArmError::invalid_parameter(
            PROFILE,
            format!(
                "Current VM Application Version {} supports OS {for_system}, while current OSDisk's OS is {own}.",
                version.name
            ),
        ));
    }
    let profile = &version.body["properties"]["publishingProfile"];
    check_offered(&version, profile, &own)?;
    changes.push(Change::RequireResource { key: version.key.clone() });
    let files: ImageVersionInternal = internal(&version)?;
    let mut files = files.files.into_iter();
    let package = files.next().ok_or_else(|| ArmError::internal("an application version without a package"))?;
    let config = match entry["configurationReference"].as_str() {
        Some(uri) => {
            let file = own_config(cx, machine, uri, location, changes).await?;
            Some(Config { file, own: Some(uri.to_owned()) })
        }
        None => files.next().map(|file| Config { file, own: None }),
    };
    let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let (actions, settings) = (&profile["manageActions"], &profile["settings"]);
    let name = application.name;
    Ok(Wanted {
        version: version.name,
        from: version.key,
        order: entry["order"].as_i64(),
        fatal: entry["treatFailureAsDeploymentFailure"] == true,
        install: text(&actions["install"]).unwrap_or_default(),
        update: text(&actions["update"]),
        remove: text(&actions["remove"]).unwrap_or_default(),
        package_name: text(&settings["packageFileName"]).unwrap_or_else(|| name.clone()),
        config_name: text(&settings["configFileName"]).unwrap_or_else(|| format!("{name}_config")),
        package,
        config,
        name,
    })
}

/// The application, and the version that an id names; "latest" means what it does for images (IV-11).
async fn find(cx: Context<'_>, id: &ResourceId, location: &str) -> Result<(Resource, Resource), ArmError> {
    let absent = || not_available(&id.to_string(), location).target(PROFILE);
    let above = id.parent().ok_or_else(absent)?;
    let row = async |key: &str| cx.engine.db().resource(key).await.map_err(db_error);
    let application = row(&above.key()).await?.ok_or_else(absent)?;
    if id.name().eq_ignore_ascii_case("latest") {
        let version = newest(cx, VERSIONS, &application.key, location).await?;
        let version = version.ok_or_else(|| no_latest(&application.id, location).target(PROFILE))?;
        return Ok((application, version));
    }
    let version = row(&id.key()).await?.filter(|version| serves(version, location));
    Ok((application, version.ok_or_else(absent)?))
}

/// What Azure has and this server does not do is refused rather than lost.
fn check_offered(version: &Resource, profile: &Value, system: &str) -> Result<(), ArmError> {
    let why = if system.eq_ignore_ascii_case("Windows") {
        "applications are installed in Linux guests only"
    } else if profile["settings"]["scriptBehaviorAfterReboot"] == "Rerun" {
        "commands are run at most once; one that restarts its machine is told of as failed (scriptBehaviorAfterReboot)"
    } else if profile["manageActions"].is_null() {
        "it has no commands (manageActions), so that nothing could be done with it"
    } else {
        return Ok(());
    };
    Err(ArmError::bad_request(
        "OperationNotSupported",
        format!("The application version '{}' cannot be deployed: {why}.", version.id),
    )
    .target(PROFILE))
}

async fn own_config(
    cx: Context<'_>,
    machine: &ResourceId,
    uri: &str,
    location: &str,
    changes: &mut Vec<Change>,
) -> Result<StoredFile, ArmError> {
    let (file, holder) = package::file(cx, uri, location).await?;
    changes.extend(file.stored.iter().flat_map(|s| take_over(Some(&holder), &machine.key(), location, s)));
    Ok(file)
}

/// Bytes of configurations that the machine refers to no more.
fn let_go(machine: &ResourceId, body: &Value, old: &[Wanted], new: &[Wanted]) -> Vec<Change> {
    let own = |wanted: &[Wanted]| -> BTreeSet<String> {
        let configs = wanted.iter().filter_map(|w| w.config.as_ref()).filter(|c| c.own.is_some());
        configs.filter_map(|c| Some(c.file.stored.as_ref()?.manifest.clone())).collect()
    };
    let (old, new) = (own(old), own(new));
    let location = body["location"].as_str().unwrap_or_default();
    old.difference(&new)
        .map(|manifest| Change::DeleteContentRef(reference(&machine.key(), location, manifest)))
        .collect()
}
