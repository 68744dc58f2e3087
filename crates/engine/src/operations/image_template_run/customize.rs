//! What a template does in its machines: its steps in order, then what makes the build machine an image.

use super::Run;
use super::machine::{self, Door, USER};
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
use lazuli_builder::step::{Script as RunnableScript, inline};
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
    let inventory = run.cx.step(INVENTORY, async { session.inventory().await.map_err(|e| failed(run, e)) }).await?;
    keep(run, &inventory).await?;
    session.deprovision(USER).await.map_err(|e| failed(run, e))?;
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
    let door = machine::connect(Door::of(run, machine).await?);
    run.journal.say("run", "connects to the machine");
    let opened = Session::open(door, run.journal.log().clone(), ANSWERS).await;
    opened.map_err(|error| {
        let message = format!("The machine cannot be reached by SSH: {error}.");
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
        Work::Shell(Script::Inline(commands)) => {
            let content = inline(commands);
            let script = RunnableScript { content: content.as_bytes(), sha256: None, exit_codes: &SUCCESS };
            session.script(&title, &script).await
        }
        Work::Shell(Script::Remote(_)) => {
            let (fetched, content) = script(run, place).await?;
            let script = RunnableScript { content: &content, sha256: Some(&fetched.sha256), exit_codes: &SUCCESS };
            session.script(&title, &script).await
        }
        Work::File { destination, .. } => {
            let (fetched, opened) = file(run, place).await?;
            let stream = opened.read(0..fetched.size_bytes).map_err(std::io::Error::other);
            let mut reader = Box::pin(StreamReader::new(stream));
            session.file(&title, destination, &mut reader, Some(&fetched.sha256)).await
        }
        Work::LinuxRestart { .. } => session.restart(&title, step.work.restart_timeout()).await,
        Work::PowerShell { .. } | Work::WindowsRestart { .. } | Work::WindowsUpdate { .. } => {
            let message =
                format!("'{title}': steps of type {} are for Windows, which builds here cannot do.", step.title());
            return Err(OpError::Failed(run.failure(&message)));
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

async fn script(run: &Run<'_>, place: &str) -> Result<(Fetched, Vec<u8>), OpError> {
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
    Ok((fetched, content.await.map_err(ArmError::internal)?))
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
