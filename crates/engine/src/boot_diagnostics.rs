//! Boot diagnostics: a machine's serial log and a picture of its screen, where its owner looks for them.
//!
//! ```text
//! DIR/diagnostics/VM-ID/serialconsole.log     the log's last 4 MiB
//!                       screenshot.png
//! ```
//! They are taken from the host process when somebody asks, and before it forgets the machine, so that they outlast a
//! deallocation. A machine with a storage account of its own has them in there too.

use crate::Engine;
use crate::providers::virtual_machine::MachineInternal;
use crate::storage::{Access, Account, Code, NewBlob, Place, StorageError, Upload};
use bytes::Bytes;
use futures::{StreamExt, stream};
use lazuli_arm::bodies::virtual_machine::{BootDiagnostics, boot_diagnostics};
use lazuli_meta::model::Resource;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// As much of the log as the host process gives.
const LOG_BYTES: u64 = 4 << 20;

/// One of the two, with its MIME type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Log,
    Screen,
}

impl Part {
    pub const ALL: [Self; 2] = [Self::Log, Self::Screen];

    fn file_name(self) -> &'static str {
        match self {
            Self::Log => "serialconsole.log",
            Self::Screen => "screenshot.png",
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Log => "text/plain",
            Self::Screen => "image/png",
        }
    }

    /// As Azure names the blobs, but for the picture's format.
    pub fn blob_name(self, machine: &Resource, vm_id: Uuid) -> String {
        format!("{}.{vm_id}.{}", machine.name, self.file_name())
    }

    pub fn path(self, engine: &Engine, vm_id: Uuid) -> PathBuf {
        folder(engine, vm_id).join(self.file_name())
    }
}

fn folder(engine: &Engine, vm_id: Uuid) -> PathBuf {
    engine.config().data_dir.join("diagnostics").join(vm_id.to_string())
}

/// Takes log and picture from the host process and keeps them. What it cannot give stays as it was.
pub(crate) async fn refresh(engine: &Engine, machine: &Resource, state: &MachineInternal) {
    let id = state.vm_id;
    let host = match engine.home_of(machine, state).await {
        Ok(home) => home.host,
        Err(error) => return tracing::debug!(machine = machine.id, %error, "boot diagnostics stay as they were"),
    };
    for part in Part::ALL {
        let taken = match part {
            Part::Log => host.console(id, LOG_BYTES).await,
            Part::Screen => host.screenshot(id).await,
        };
        let kept = match taken {
            Ok(bytes) => keep(&part.path(engine, id), &bytes).await,
            // Deallocated, off, or no host: what was kept is the newest there is.
            Err(error) => {
                tracing::debug!(machine = machine.id, ?part, %error, "the host has no boot diagnostics of a machine");
                continue;
            }
        };
        if let Err(error) = kept {
            tracing::warn!(machine = machine.id, ?part, %error, "boot diagnostics cannot be kept");
        }
    }
}

/// Whole or not at all.
async fn keep(path: &Path, bytes: &Bytes) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
    }
    let part = path.with_extension(Uuid::new_v4().simple().to_string());
    tokio::fs::write(&part, bytes).await?;
    tokio::fs::rename(&part, path).await
}

/// Before the host process forgets the machine.
pub(crate) async fn before_it_is_forgotten(engine: &Engine, machine: &Resource, state: &MachineInternal) {
    if boot_diagnostics(&machine.body) != BootDiagnostics::Off {
        refresh(engine, machine, state).await;
    }
}

/// What was kept of a machine that is deleted.
pub(crate) async fn forget(engine: &Engine, vm_id: Uuid) {
    match tokio::fs::remove_dir_all(folder(engine, vm_id)).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(machine = %vm_id, %error, "boot diagnostics of a deleted machine stay behind");
        }
        _ => {}
    }
}

/// `instanceView.bootDiagnostics`; `None`: they are off. With managed storage it is empty (Swagger,
/// `BootDiagnosticsInstanceView`); with a storage account it names the blobs, which are written here.
pub(crate) async fn instance_view(engine: &Engine, machine: &Resource, state: &MachineInternal) -> Option<Value> {
    let url = match boot_diagnostics(&machine.body) {
        BootDiagnostics::Off => return None,
        BootDiagnostics::Managed => return Some(json!({})),
        BootDiagnostics::Account(url) => url,
    };
    refresh(engine, machine, state).await;
    let account = state.diagnostics_account.clone().unwrap_or_default();
    if let Err(error) = publish(engine, machine, state, &account).await {
        tracing::warn!(machine = machine.id, account, %error, "boot diagnostics cannot be written to the storage account");
        let message = "The boot diagnostics could not be written to the storage account. Ensure that it is not deleted and \
                       belongs to the same location as the VM.";
        let status =
            json!({"code": "StorageAccountNotFound", "level": "Error", "displayStatus": "Error", "message": message});
        return Some(json!({ "status": status }));
    }
    let blob = |part: Part| {
        let name = part.blob_name(machine, state.vm_id);
        format!("{}/{}/{name}", url.trim_end_matches('/'), container(machine, state.vm_id))
    };
    Some(json!({"consoleScreenshotBlobUri": blob(Part::Screen), "serialConsoleLogBlobUri": blob(Part::Log)}))
}

/// As in Azure: nine characters of the machine's name.
fn container(machine: &Resource, vm_id: Uuid) -> String {
    let name: String = machine.name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).take(9).collect();
    format!("bootdiagnostics-{name}-{vm_id}")
}

async fn publish(
    engine: &Engine,
    machine: &Resource,
    state: &MachineInternal,
    account: &str,
) -> Result<(), StorageError> {
    let storage = engine.storage();
    let account: Account = engine.account_of_blobs(account).await?.ok_or(Code::ContainerNotFound)?;
    let container = container(machine, state.vm_id);
    match storage.create_container(&account, &container, Default::default(), None).await {
        Err(error) if error.code() == Some(Code::ContainerAlreadyExists) => {}
        made => drop(made?),
    }
    for part in Part::ALL {
        let Ok(bytes) = tokio::fs::read(part.path(engine, state.vm_id)).await else { continue };
        let blob = part.blob_name(machine, state.vm_id);
        let at = Place { account: account.clone(), container: container.clone(), blob, snapshot: None };
        let bytes = stream::once(async { Ok(Bytes::from(bytes)) }).boxed();
        let mut new = NewBlob::default();
        new.headers.content_type = Some(part.content_type().to_owned());
        storage.put_block_blob(&at, Upload { bytes, md5: Arc::default() }, new, &Access::default()).await?;
    }
    Ok(())
}
