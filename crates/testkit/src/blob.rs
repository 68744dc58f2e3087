//! Disk bytes over a SAS URL, as azcopy moves them: page writes of at most 4 MiB, zero pages left out; ranged reads.

use anyhow::ensure;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

const PART: u64 = 4 << 20;
const AT_ONCE: usize = 4;
const VERSION: &str = "2021-12-02";

/// Writes a file's non-zero parts.
pub async fn upload(http: &reqwest::Client, sas: &str, file: &Path) -> anyhow::Result<()> {
    let file = Arc::new(File::open(file)?);
    let len = file.metadata()?.len();
    let url = format!("{sas}&comp=page");
    let parts = (0..len).step_by(usize::try_from(PART)?).map(|start| {
        let (http, url, file) = (http.clone(), url.clone(), Arc::clone(&file));
        async move {
            let mut bytes = vec![0; usize::try_from(PART.min(len - start))?];
            file.read_exact_at(&mut bytes, start)?;
            if bytes.iter().all(|b| *b == 0) {
                return Ok(());
            }
            let last = start + bytes.len() as u64 - 1;
            let request = http
                .put(&url)
                .header("x-ms-version", VERSION)
                .header("x-ms-page-write", "update")
                .header("x-ms-range", format!("bytes={start}-{last}"))
                .body(bytes);
            let response = request.send().await?;
            let status = response.status();
            ensure!(
                status == reqwest::StatusCode::CREATED,
                "bytes {start}-{last}: {status} {}",
                response.text().await?
            );
            anyhow::Ok(())
        }
    });
    stream::iter(parts).buffer_unordered(AT_ONCE).try_collect::<()>().await
}

/// The whole blob, in ranged reads.
pub async fn download(http: &reqwest::Client, sas: &str) -> anyhow::Result<Vec<u8>> {
    let head = http.head(sas).header("x-ms-version", VERSION).send().await?;
    ensure!(head.status().is_success(), "HEAD: {}", head.status());
    let len = head.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    let mut all = Vec::new();
    for start in (0..len).step_by(usize::try_from(PART)?) {
        let last = (start + PART).min(len) - 1;
        let request =
            http.get(sas).header("x-ms-version", VERSION).header("x-ms-range", format!("bytes={start}-{last}"));
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        ensure!(status == reqwest::StatusCode::PARTIAL_CONTENT, "bytes {start}-{last}: {status}");
        ensure!(bytes.len() as u64 == last + 1 - start, "bytes {start}-{last}: only {} came", bytes.len());
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}
