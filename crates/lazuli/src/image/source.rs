//! From what the operator names to a disk that can be read: a file or a URL, of any format that [`lazuli_disks::format`] knows by its
//! content.
//!
//! The file may come from a stranger: it is read in place, never converted, and no file that it names is opened.

use super::report::Report;
use anyhow::{Context, ensure};
use aws_lc_rs::digest::{self, SHA256};
use futures::StreamExt as _;
use lazuli_disks::{DiskSource, Format, format};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempPath;

/// An open image.
pub struct Source {
    pub format: Format,
    pub disk: Arc<dyn DiskSource>,
}

/// A disk with the temporary file that holds it, if one does.
struct Held {
    disk: Box<dyn DiskSource>,
    _file: Option<TempPath>,
}

impl DiskSource for Held {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn next_data(&self, from: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
        self.disk.next_data(from)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.disk.read_at(offset, buf)
    }
}

/// `dir`: where a download may be as large as the image.
pub async fn prepare(from: &str, sha256: Option<&str>, dir: &Path, report: &Report) -> anyhow::Result<Source> {
    let wanted = sha256.map(checksum).transpose()?;
    let is_url = ["http://", "https://"].iter().any(|s| from.get(..s.len()).is_some_and(|f| f.eq_ignore_ascii_case(s)));
    let (path, held) = if is_url {
        let wanted = wanted.context("a URL needs --sha256, so that what comes is what was meant")?;
        let file = fetch(from, &wanted, dir, report).await?;
        (file.to_path_buf(), Some(file))
    } else {
        let path = PathBuf::from(from);
        if let Some(wanted) = wanted {
            let found = path.clone();
            let found = tokio::task::spawn_blocking(move || hash(&found)).await?;
            compare(&found.with_context(|| format!("cannot read {from}"))?, &wanted)?;
        }
        (path, None)
    };
    open(&path, held).with_context(|| format!("cannot use {from}"))
}

/// The image in a file.
pub fn open(path: &Path, held: Option<TempPath>) -> anyhow::Result<Source> {
    let image = format::open(path)?;
    Ok(Source { format: image.format, disk: Arc::new(Held { disk: image.disk, _file: held }) })
}

fn checksum(text: &str) -> anyhow::Result<String> {
    let lower = text.trim().to_ascii_lowercase();
    ensure!(lower.len() == 64 && lower.bytes().all(|b| b.is_ascii_hexdigit()), "--sha256 is not 64 hex digits");
    Ok(lower)
}

fn compare(found: &str, wanted: &str) -> anyhow::Result<()> {
    ensure!(found == wanted, "the file's SHA-256 is {found}, not {wanted}: nothing was done with it");
    Ok(())
}

fn hex(digest: &digest::Digest) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&SHA256);
    let mut buf = vec![0; 1 << 20];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(hex(&context.finish())),
            n => context.update(&buf[..n]),
        }
    }
}

/// Downloads into a temporary file and checks it.
async fn fetch(url: &str, wanted: &str, dir: &Path, report: &Report) -> anyhow::Result<TempPath> {
    let http = reqwest::Client::builder().connect_timeout(std::time::Duration::from_secs(30)).build()?;
    let at = || format!("cannot fetch {url}");
    let response = http.get(url).send().await.with_context(at)?.error_for_status().with_context(at)?;
    let total = response.content_length().unwrap_or(0);
    let (mut file, path) = tempfile::NamedTempFile::new_in(dir)?.into_parts();
    let mut context = digest::Context::new(&SHA256);
    let mut stream = response.bytes_stream();
    let mut done = 0;
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.with_context(at)?;
        context.update(&bytes);
        file.write_all(&bytes).context("cannot write the download")?;
        done += bytes.len() as u64;
        report.bytes("fetch", done, total);
    }
    compare(&hex(&context.finish()), wanted).with_context(at)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_checksum_ends_it() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 1024]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let from = file.path().to_str().unwrap();
        let report = Report::new();
        let right = hash(file.path()).unwrap();
        assert_eq!(prepare(from, Some(&right.to_uppercase()), dir.path(), &report).await.unwrap().disk.size(), 1024);
        let error = prepare(from, Some(&"0".repeat(64)), dir.path(), &report).await.err().unwrap();
        assert!(error.to_string().contains(&right), "{error}");
        assert!(prepare(from, Some("abc"), dir.path(), &report).await.is_err());
        let url = prepare("http://127.0.0.1:1/x", None, dir.path(), &report).await.err().unwrap();
        assert!(url.to_string().contains("needs --sha256"), "{url}");
    }
}
