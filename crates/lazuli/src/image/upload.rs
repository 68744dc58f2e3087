//! A disk's bytes into a managed disk, over its SAS: page writes of at most 4 MiB, holes and zero pages left out, a few at once.

use super::OsType;
use super::report::Report;
use crate::client::Client;
use anyhow::{Context, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lazuli_disks::DiskSource;
use lazuli_disks::vhd::{FOOTER_LEN, Footer, SIZE_UNIT};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const PART: u64 = 4 << 20;
/// Buffers of [`PART`] in memory at a time.
const AT_ONCE: usize = 4;
/// The smallest disk that may be uploaded (Azure's bound).
const SMALLEST: u64 = 20 << 20;
const VERSION: &str = "2021-12-02";
const SAS_SECONDS: u32 = 24 * 3600;

/// The managed disk that an upload makes.
pub struct NewDisk<'a> {
    pub location: &'a str,
    /// `None`: a data disk.
    pub os_type: Option<OsType>,
    pub generation: Option<&'a str>,
}

impl NewDisk<'_> {
    /// `size`: of the file that comes, with its footer.
    fn body(&self, size: u64) -> Value {
        let mut properties = json!({"creationData": {"createOption": "Upload", "uploadSizeBytes": size}});
        if let Some(os_type) = self.os_type {
            properties["osType"] = json!(os_type.name());
        }
        if let Some(generation) = self.generation {
            properties["hyperVGeneration"] = json!(generation);
        }
        json!({"location": self.location, "properties": properties})
    }
}

pub async fn upload(
    client: &Client,
    disk_id: &str,
    new: &NewDisk<'_>,
    disk: &Arc<dyn DiskSource>,
    report: &Report,
) -> anyhow::Result<()> {
    let size = disk.size().next_multiple_of(SIZE_UNIT).max(SMALLEST);
    client
        .put(disk_id, &new.body(size + FOOTER_LEN), |_| {})
        .await
        .context("cannot make a managed disk for the upload")?;
    let access = json!({"access": "Write", "durationInSeconds": SAS_SECONDS});
    let granted = client.post(&format!("{disk_id}/beginGetAccess"), &access).await?;
    let sas = granted["accessSAS"].as_str().context("the server gave no SAS for the upload")?;
    let pages = Pages { http: client.http().clone(), url: format!("{sas}&comp=page") };
    let done = AtomicU64::new(0);
    let parts = (0..disk.size()).step_by(usize::try_from(PART)?).map(|start| {
        let (disk, pages, done) = (Arc::clone(disk), pages.clone(), &done);
        async move {
            let len = PART.min(disk.size() - start);
            let bytes = tokio::task::spawn_blocking(move || read(&*disk, start, len)).await??;
            if let Some(bytes) = bytes {
                pages.put(start, bytes).await?;
            }
            report.bytes("upload", done.fetch_add(len, Ordering::Relaxed) + len, size);
            anyhow::Ok(())
        }
    });
    stream::iter(parts).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let footer = Footer::fixed(size, Uuid::new_v4(), i64::try_from(now)?);
    pages.put(size, footer.to_bytes().to_vec()).await?;
    client.post(&format!("{disk_id}/endGetAccess"), &json!({})).await.context("the server refused the upload")?;
    Ok(())
}

/// A part, up to a whole number of pages; `None` where it is nothing but zeros.
fn read(disk: &dyn DiskSource, start: u64, len: u64) -> anyhow::Result<Option<Vec<u8>>> {
    if disk.next_data(start)?.is_none_or(|data| data.start >= start + len) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(len.next_multiple_of(FOOTER_LEN))?];
    let whole = usize::try_from(len)?;
    disk.read_at(start, &mut bytes[..whole])?;
    Ok(bytes.iter().any(|b| *b != 0).then_some(bytes))
}

#[derive(Clone)]
struct Pages {
    http: reqwest::Client,
    url: String,
}

impl Pages {
    async fn put(&self, start: u64, bytes: Vec<u8>) -> anyhow::Result<()> {
        let last = start + bytes.len() as u64 - 1;
        let request = self
            .http
            .put(&self.url)
            .header("x-ms-version", VERSION)
            .header("x-ms-page-write", "update")
            .header("x-ms-range", format!("bytes={start}-{last}"))
            .body(bytes);
        let response = request.send().await.context("the upload was cut short")?;
        let status = response.status();
        if !status.is_success() {
            let text = response.text().await.unwrap_or_default();
            ensure!(false, "the server refused bytes {start}-{last}: {status} {text}");
        }
        Ok(())
    }
}
