//! What a template does in its machines: its steps in order, then what makes the build machine an image.

use super::Run;
use super::door::{self, USER};
use super::names::Machine;
use crate::image_builder::staging::SCRIPTS;
use crate::image_builder::{Fetched, TemplateInternal};
use crate::operation::OpError;
use crate::storage::{Access, Opened, Place};
use crate::stored::internal;
use futures::TryStreamExt as _;
use lazuli_arm::ArmError;
use lazuli_arm::bodies::image_template::{Script, Step, Work};
use lazuli_builder::inventory::Inventory;
use lazuli_builder::step::windows::{self, RunAs, Updates};
use lazuli_builder::step::{Playbook, Script as RunnableScript, inline};
use lazuli_builder::{Session, StepError};
use std::time::Duration;
use tokio_util::io::StreamReader;

/// A guest that has reported that it is ready may still start its sshd.
const ANSWERS: Duration = Duration::from_secs(300);
/// Scripts are held in memory while they are sent; files are not.
const MAX_SCRIPT: u64 = 64 << 20;
const SUCCESS: [u32; 1] = [0];
/// Step that holds what is installed in the result.
pub(super) const INVENTORY: &str = "inventory";

/// The customizers, the list of what is installed afterwards, and the end of the machine as this one.
pub(super) async fn customize(run: &Run<'_>, machine: &Machine) -> Result<(), OpError> {
    let mut session = open(run, machine).await?;
    for (index, step) in run.template.customize.iter().enumerate() {
        one(run, &mut session, step, &format!("customize/{index}")).await?;
        run.cx.progress(index as u64 + 1, run.template.customize.len() as u64, "Customizing").await;
    }
    let windows = run.prepared.source.windows;
    let asked = async { if windows { session.windows_inventory().await } else { session.inventory().await } };
    let inventory = run.cx.step(INVENTORY, async { asked.await.map_err(|e| failed(run, e)) }).await?;
    keep(run, &inventory).await?;
    let done = if windows { session.windows_deprovision(USER).await } else { session.deprovision(USER).await };
    done.map_err(|e| failed(run, e))?;
    session.close().await;
    Ok(())
}

/// The validators, in a machine of the result. Their files are there from the source on, or are brought as for customizers.
pub(super) async fn validate(run: &Run<'_>, machine: &Machine) -> Result<(), OpError> {
    let steps = run.template.validate.as_ref().map_or(&[][..], |v| &v.steps);
    let mut session = open(run, machine).await?;
    for (index, step) in steps.iter().enumerate() {
        one(run, &mut session, step, &format!("validate/{index}")).await?;
        run.cx.progress(index as u64 + 1, steps.len() as u64, "Validating").await;
    }
    session.close().await;
    Ok(())
}

async fn open(run: &Run<'_>, machine: &Machine) -> Result<Session, OpError> {
    let door = door::open(run, machine).await?;
    run.journal.say("run", "connects to the machine");
    let opened = Session::open(door, run.journal.log().clone(), ANSWERS).await;
    opened.map_err(|error| {
        let protocol = if run.prepared.source.windows { "WinRM" } else { "SSH" };
        let message = format!("The machine cannot be reached by {protocol}: {error}.");
        OpError::Failed(run.failure(&message).caused_by(error))
    })
}

fn failed(run: &Run<'_>, error: StepError) -> OpError {
    OpError::Failed(run.failure(&format!("{error}.")).caused_by(error))
}

async fn one(run: &Run<'_>, session: &mut Session, step: &Step, place: &str) -> Result<(), OpError> {
    run.cx.check()?;
    let title = match &step.name {
        Some(name) => name.clone(),
        None => format!("{} {place}", step.title()),
    };
    let done = match &step.work {
        Work::Shell(source) => {
            let (sha256, content) = text(run, source, place, inline).await?;
            let script = RunnableScript { content: &content, sha256: sha256.as_deref(), exit_codes: &SUCCESS };
            session.script(&title, &script).await
        }
        Work::File { destination, .. } => {
            let (fetched, opened) = file(run, place).await?;
            let stream = opened.read(0..fetched.size_bytes).map_err(std::io::Error::other);
            let mut reader = Box::pin(StreamReader::new(stream));
            session.file(&title, destination, &mut reader, Some(&fetched.sha256)).await
        }
        Work::Ansible { playbook, extra_vars } => {
            let (sha256, content) = text(run, playbook, place, |lines| lines.join("\n") + "\n").await?;
            let extra_vars = serde_json::to_string(extra_vars).map_err(ArmError::internal)?;
            let playbook = Playbook { content: &content, sha256: sha256.as_deref(), extra_vars: &extra_vars };
            session.ansible(&title, &playbook).await
        }
        Work::LinuxRestart { .. } => session.restart(&title, step.work.restart_timeout()).await,
        Work::PowerShell { script: source, run_elevated, run_as_system, valid_exit_codes } => {
            let (sha256, content) = text(run, source, place, windows::inline).await?;
            let exit_codes: Vec<u32> = match valid_exit_codes.as_slice() {
                [] => SUCCESS.to_vec(),
                codes => codes.iter().map(|code| code.cast_unsigned()).collect(),
            };
            let password = door::password(&run.seed()?);
            let run_as = match (run_elevated, run_as_system) {
                (_, true) => RunAs::System,
                (true, false) => RunAs::Elevated { user: USER, password: &password },
                (false, false) => RunAs::BuildUser,
            };
            let script = RunnableScript { content: &content, sha256: sha256.as_deref(), exit_codes: &exit_codes };
            session.power_shell(&title, &script, run_as).await
        }
        Work::WindowsRestart { command, check_command, .. } => {
            let time = step.work.restart_timeout();
            session.windows_restart(&title, command.as_deref(), check_command.as_deref(), time).await
        }
        Work::WindowsUpdate { search_criteria, filters, .. } => {
            let limit = step.work.update_limit();
            let updates = Updates { criteria: search_criteria.as_deref(), filters, limit };
            session.windows_update(&title, &updates).await
        }
    };
    done.map_err(|error| failed(run, error))
}

/// What was fetched for a step when the template was submitted.
async fn file(run: &Run<'_>, place: &str) -> Result<(Fetched, Opened), OpError> {
    let state: TemplateInternal = internal(&run.row)?;
    let gone = || {
        run.failure(&format!(
            "The file of {place} is not in the staging group any more: delete the template and create it again."
        ))
    };
    let fetched = state.files.get(place).cloned().ok_or_else(gone)?;
    let at = Place {
        account: state.staging.storage(&run.row.location)?,
        container: SCRIPTS.to_owned(),
        blob: fetched.blob.clone(),
        snapshot: None,
    };
    let opened = run.cx.engine.storage().open(&at, &Access::default()).await;
    Ok((fetched, opened.map_err(|error| gone().caused_by(error))?))
}

/// A script's bytes, and their hash where it was told. `inline`: what commands are as one script.
async fn text(
    run: &Run<'_>,
    script: &Script,
    place: &str,
    inline: fn(&[String]) -> String,
) -> Result<(Option<String>, Vec<u8>), OpError> {
    if let Script::Inline(lines) = script {
        return Ok((None, inline(lines).into_bytes()));
    }
    let (fetched, opened) = file(run, place).await?;
    if fetched.size_bytes > MAX_SCRIPT {
        let message = format!("The script of {place} has {} bytes; at most {MAX_SCRIPT} are run.", fetched.size_bytes);
        return Err(OpError::Failed(run.failure(&message)));
    }
    let stream = opened.read(0..fetched.size_bytes);
    let content = stream.try_fold(Vec::new(), async |mut all, piece| {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    Ok((Some(fetched.sha256), content.await.map_err(ArmError::internal)?))
}

/// The list of what is installed lies beside the log.
async fn keep(run: &Run<'_>, inventory: &Inventory) -> Result<(), OpError> {
    let time = jiff::Timestamp::now().to_string();
    let subject = lazuli_builder::sbom::Subject { name: run.id.name(), version: None, time: &time };
    let document = lazuli_builder::sbom::cyclonedx(&subject, inventory);
    let bytes = serde_json::to_vec_pretty(&document).map_err(ArmError::internal)?;
    run.journal.put("sbom.cdx.json", bytes).await?;
    Ok(())
}
