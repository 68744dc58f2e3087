//! The log of a run: `customization.log` in the staging account, an append blob that grows while the run goes on, and what else lies
//! beside it.
//!
//! Lines wait in memory for a moment and are appended together. A log that cannot be written loses lines, which it says; the run goes
//! on.

use crate::image_builder::TemplateInternal;
use crate::image_builder::staging::{LOGS, log_blob};
use crate::operation::{OpContext, OpError};
use crate::storage::{Access, Account, AppendConditions, Code, NewBlob, Place, Storage, StorageError, Upload};
use crate::stored::internal;
use bytes::Bytes;
use futures::StreamExt as _;
use lazuli_arm::ArmError;
use lazuli_builder::log::{Log, Masker, Sink};
use lazuli_meta::model::Resource;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// How often lines are appended: Azure's limit of 50,000 blocks lasts for more than a day.
const EVERY: Duration = Duration::from_secs(2);
/// Bytes that wait; more is lost.
const MOST: usize = 32 << 20;
/// Azure's largest appended block.
const BLOCK: usize = 4 << 20;

/// Of one run.
pub(super) struct Journal {
    log: Log,
    waiting: Arc<Waiting>,
    storage: Storage,
    account: Account,
    run: Uuid,
    shown: String,
    _writer: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Waiting {
    bytes: Mutex<Vec<u8>>,
    lost: Mutex<u64>,
    /// Blocks are appended in order.
    writing: tokio::sync::Mutex<()>,
}

impl Sink for Waiting {
    fn line(&self, line: &str) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() + line.len() > MOST {
            *self.lost.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            return;
        }
        bytes.extend_from_slice(line.as_bytes());
    }
}

impl Journal {
    /// What is said goes nowhere: for a run whose staging account is gone, and that is to be taken back all the same.
    pub fn silent(cx: &OpContext, row: &Resource, run: Uuid) -> Self {
        let account = Account { name: String::new(), key: String::new(), location: row.location.clone() };
        let waiting = Arc::new(Waiting::default());
        let log = Log::new(Arc::clone(&waiting) as Arc<dyn Sink>, Masker::default());
        let writer = AbortOnDropHandle::new(tokio::spawn(async {}));
        let storage = cx.engine.storage().clone();
        Self { log, waiting, storage, account, run, shown: String::new(), _writer: writer }
    }

    /// Goes on with the log of the run, or begins it. `secrets` are never in it.
    pub async fn open(cx: &OpContext, row: &Resource, run: Uuid, secrets: Vec<String>) -> Result<Self, OpError> {
        let staging = internal::<TemplateInternal>(row)?.staging;
        let account = staging.storage(&row.location)?;
        let storage = cx.engine.storage().clone();
        let made = storage.create_container(&account, LOGS, Default::default(), None).await;
        if let Err(error) = made
            && error.code() != Some(Code::ContainerAlreadyExists)
        {
            return Err(OpError::Failed(unusable(&staging.account, error)));
        }
        let at = place(&account, &log_blob(&run.to_string()));
        let begun = storage.properties(&at, &Access::default()).await;
        if let Err(error) = begun {
            if error.code() != Some(Code::BlobNotFound) {
                return Err(OpError::Failed(unusable(&staging.account, error)));
            }
            let new = storage.create_append_blob(&at, NewBlob::default(), &Access::default()).await;
            new.map_err(|error| unusable(&staging.account, error))?;
        }
        let waiting = Arc::new(Waiting::default());
        let writer = AbortOnDropHandle::new(tokio::spawn(write_on(storage.clone(), at, Arc::clone(&waiting))));
        let log = Log::new(Arc::clone(&waiting) as Arc<dyn Sink>, Masker::new(secrets));
        let shown =
            format!("{}/blobServices/default/containers/{LOGS}/{}", staging.account_id()?, log_blob(&run.to_string()));
        Ok(Self { log, waiting, storage, account, run, shown, _writer: writer })
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn say(&self, step: &str, text: &str) {
        self.log.say(step, text);
    }

    /// Where the log is, as Azure's messages name it.
    pub fn location(&self) -> &str {
        &self.shown
    }

    /// Everything that was said is in the blob when this returns, if it can be.
    pub async fn flush(&self) {
        if self.account.name.is_empty() {
            return;
        }
        let at = place(&self.account, &log_blob(&self.run.to_string()));
        write(&self.storage, &at, &self.waiting).await;
    }

    /// Where a file beside the log is.
    pub fn place(&self, name: &str) -> Place {
        place(&self.account, &format!("{}/{name}", self.run))
    }

    /// Keeps a file beside the log, and tells where.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<String, OpError> {
        let at = self.place(name);
        let put = self.storage.put_block_blob(&at, upload(bytes.into()), NewBlob::default(), &Access::default()).await;
        put.map_err(|error| unusable(&self.account.name, error))?;
        Ok(format!("{LOGS}/{}/{name} in the storage account {}", self.run, self.account.name))
    }
}

fn place(account: &Account, blob: &str) -> Place {
    Place { account: account.clone(), container: LOGS.to_owned(), blob: blob.to_owned(), snapshot: None }
}

fn upload(bytes: Bytes) -> Upload {
    Upload { bytes: futures::stream::once(async move { Ok(bytes) }).boxed(), md5: Arc::default() }
}

fn unusable(account: &str, error: StorageError) -> ArmError {
    ArmError::conflict(
        "BadStagingResourceGroup",
        format!(
            "The storage account '{account}' in the template's staging group cannot be used. It belongs to Image Builder; if somebody deleted \
             it, delete the template and create it again."
        ),
    )
    .caused_by(error)
}

async fn write_on(storage: Storage, at: Place, waiting: Arc<Waiting>) {
    loop {
        tokio::time::sleep(EVERY).await;
        write(&storage, &at, &waiting).await;
    }
}

async fn write(storage: &Storage, at: &Place, waiting: &Waiting) {
    let _in_order = waiting.writing.lock().await;
    let mut bytes = std::mem::take(&mut *waiting.bytes.lock().unwrap_or_else(PoisonError::into_inner));
    let lost = std::mem::take(&mut *waiting.lost.lock().unwrap_or_else(PoisonError::into_inner));
    if lost > 0 {
        bytes.extend_from_slice(format!("({lost} lines came too fast and are not kept)\n").as_bytes());
    }
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        let block = bytes.split_to(bytes.len().min(BLOCK));
        let appended = storage.append_block(at, upload(block), AppendConditions::default(), &Access::default()).await;
        if let Err(error) = appended {
            tracing::warn!(blob = at.blob, %error, "lines of a run's log were not kept");
        }
    }
}
