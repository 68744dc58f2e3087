//! The bytes of a resource on a server: a disk or a snapshot over its SAS, an image version over a disk that is made from it and goes
//! again.
//!
//! ```text
//! disk, snapshot ─ beginGetAccess ─┐
//! image version ─> a disk from it ─┴─> SAS: pagelist (what holds data), GET of ranges ─> BlobDisk, a DiskSource
//! ```

use super::check::State;
use crate::client::Client;
use anyhow::{Context, bail, ensure};
use lazuli_disks::DiskSource;
use lazuli_disks::vhd::{FOOTER_LEN, Footer};
use serde_json::json;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use uuid::Uuid;

const VERSION: &str = "2021-12-02";
const SAS_SECONDS: u32 = 24 * 3600;
/// What is read at a time, and how many of these are kept.
const BLOCK: u64 = 4 << 20;
const KEPT: usize = 16;

/// Whether it is a resource's id rather than a file's name.
pub fn is_id(text: &str) -> bool {
    text.get(..15).is_some_and(|start| start.eq_ignore_ascii_case("/subscriptions/"))
}

/// Access to a resource's bytes, until it is closed.
pub struct Access {
    disk: Arc<BlobDisk>,
    /// The disk or snapshot that gave the SAS.
    granted: String,
    /// A resource group that was made for this.
    group: Option<String>,
    /// What the resource says of itself.
    pub generation: Option<String>,
    pub state: Option<State>,
    /// Of the VHD that the server shows.
    pub footer: Footer,
}

impl Access {
    pub async fn open(client: &Client, id: &str) -> anyhow::Result<Self> {
        let kind = kind(id)?;
        let found = client.get(id).await.with_context(|| format!("cannot use {id}"))?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let (granted, group, generation, state) = match kind {
            Kind::Disk => (id.to_owned(), None, text(&found["properties"]["hyperVGeneration"]), None),
            Kind::Version => {
                let definition = client.get(definition_of(id)).await?;
                let location = found["location"].as_str().context("the version has no location")?;
                let (disk, group) = disk_from(client, id, location).await?;
                let properties = &definition["properties"];
                let state = properties["osState"].as_str().and_then(State::parse);
                (disk, Some(group), text(&properties["hyperVGeneration"]), state)
            }
        };
        let opened = async {
            let access = json!({"access": "Read", "durationInSeconds": SAS_SECONDS});
            let answer = client.post(&format!("{granted}/beginGetAccess"), &access).await?;
            let sas = answer["accessSAS"].as_str().context("the server gave no SAS for the download")?;
            BlobDisk::open(client.http().clone(), sas.to_owned()).await
        };
        match opened.await {
            Ok((disk, footer)) => Ok(Self { disk: Arc::new(disk), granted, group, generation, state, footer }),
            Err(error) => {
                drop_group(client, group.as_deref()).await;
                Err(error)
            }
        }
    }

    pub fn disk(&self) -> Arc<dyn DiskSource> {
        Arc::clone(&self.disk) as Arc<dyn DiskSource>
    }

    /// Gives the access back. A failure to do so is no failure of what was read.
    pub async fn close(self, client: &Client) {
        if let Err(error) = client.post(&format!("{}/endGetAccess", self.granted), &json!({})).await {
            tracing::warn!(%error, disk = self.granted, "the access to the disk was not given back; it ends by itself");
        }
        drop_group(client, self.group.as_deref()).await;
    }
}

async fn drop_group(client: &Client, group: Option<&str>) {
    let Some(group) = group else { return };
    if let Err(error) = client.delete(group).await {
        tracing::warn!(%error, group, "the resource group of the download was not removed; delete it");
    }
}

enum Kind {
    /// Or a snapshot.
    Disk,
    Version,
}

fn kind(id: &str) -> anyhow::Result<Kind> {
    let lower = id.trim_end_matches('/').to_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    match parts.get(6..) {
        Some(["microsoft.compute", "disks" | "snapshots", _]) => Ok(Kind::Disk),
        Some(["microsoft.compute", "galleries", _, "images", _, "versions", _]) => Ok(Kind::Version),
        _ => bail!("{id} is no disk, no snapshot and no version of a gallery's image"),
    }
}

/// The definition of a version's id.
fn definition_of(id: &str) -> &str {
    let mut ends = id.trim_end_matches('/').rmatch_indices('/');
    ends.nth(1).and_then(|(at, _)| id.get(..at)).unwrap_or(id)
}

async fn disk_from(client: &Client, version: &str, location: &str) -> anyhow::Result<(String, String)> {
    let group = client.path(&format!("/resourceGroups/lazuli-export-{}", Uuid::new_v4().simple()));
    client.put(&group, &json!({"location": location}), |_| {}).await.context("cannot make a resource group")?;
    let disk = format!("{group}/providers/Microsoft.Compute/disks/image");
    let body = json!({"location": location, "properties":
        {"creationData": {"createOption": "FromImage", "galleryImageReference": {"id": version}}}});
    if let Err(error) = client.put(&disk, &body, |_| {}).await {
        drop_group(client, Some(&group)).await;
        return Err(error.context("cannot make a disk from the version"));
    }
    Ok((disk, group))
}

/// A disk behind a SAS. Reads come from threads outside the runtime.
struct BlobDisk {
    http: reqwest::Client,
    sas: String,
    runtime: Handle,
    size: u64,
    data: Vec<Range<u64>>,
    /// Blocks read last, the latest at the end. A slot is locked while it is filled.
    blocks: Mutex<VecDeque<(u64, Slot)>>,
}

type Slot = Arc<Mutex<Option<Arc<[u8]>>>>;

impl BlobDisk {
    async fn open(http: reqwest::Client, sas: String) -> anyhow::Result<(Self, Footer)> {
        let head = http.head(&sas).header("x-ms-version", VERSION).send().await?.error_for_status()?;
        let length = head.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let length = length.context("the server does not tell the disk's size")?;
        let size = length.checked_sub(FOOTER_LEN).context("the server's disk is too short")?;
        let data = ranges(&http, &sas, size).await?;
        let disk = Self { http, sas, runtime: Handle::current(), size, data, blocks: Mutex::default() };
        let footer = disk.get(size..length).await?;
        let footer = Footer::parse(footer[..].try_into().context("the server's footer is cut short")?)?;
        Ok((disk, footer))
    }

    async fn get(&self, range: Range<u64>) -> anyhow::Result<Vec<u8>> {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let request = self.http.get(&self.sas).header("x-ms-version", VERSION).header("x-ms-range", &header);
        let response = request.send().await.context("the download was cut short")?;
        let status = response.status();
        ensure!(status == reqwest::StatusCode::PARTIAL_CONTENT, "the server refused {header}: {status}");
        let bytes = response.bytes().await.context("the download was cut short")?;
        ensure!(bytes.len() as u64 == range.end - range.start, "the server gave {} bytes for {header}", bytes.len());
        Ok(bytes.to_vec())
    }

    fn holds_data(&self, range: &Range<u64>) -> bool {
        let at = self.data.partition_point(|data| data.end <= range.start);
        self.data.get(at).is_some_and(|data| data.start < range.end)
    }

    fn block(&self, index: u64) -> io::Result<Arc<[u8]>> {
        let slot = {
            let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
            match blocks.iter().find(|(at, _)| *at == index) {
                Some((_, slot)) => Arc::clone(slot),
                None => {
                    if blocks.len() >= KEPT {
                        blocks.pop_front();
                    }
                    let slot = Slot::default();
                    blocks.push_back((index, Arc::clone(&slot)));
                    slot
                }
            }
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = &*slot {
            return Ok(Arc::clone(bytes));
        }
        let range = index * BLOCK..((index + 1) * BLOCK).min(self.size);
        let bytes: Arc<[u8]> = self.runtime.block_on(self.get(range)).map_err(io::Error::other)?.into();
        *slot = Some(Arc::clone(&bytes));
        Ok(bytes)
    }
}

impl DiskSource for BlobDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let at = self.data.partition_point(|data| data.end <= from);
        Ok(self.data.get(at).map(|data| data.start.max(from)..data.end))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "read beyond the end of the disk"))?;
        let (mut at, mut rest) = (offset, buf);
        while at < end {
            let inside = usize::try_from(at % BLOCK).unwrap_or_default();
            let take = rest.len().min(usize::try_from(BLOCK).unwrap_or(usize::MAX) - inside);
            let (part, left) = rest.split_at_mut(take);
            if self.holds_data(&(at..at + take as u64)) {
                part.copy_from_slice(&self.block(at / BLOCK)?[inside..inside + take]);
            } else {
                part.fill(0);
            }
            at += take as u64;
            rest = left;
        }
        Ok(())
    }
}

/// The parts of a disk that hold data, over all pages of the list.
async fn ranges(http: &reqwest::Client, sas: &str, size: u64) -> anyhow::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut marker = String::new();
    loop {
        let url = format!("{sas}&comp=pagelist{marker}");
        let response = http.get(url).header("x-ms-version", VERSION).send().await?.error_for_status()?;
        let page = response.text().await?;
        found.extend(parse_ranges(&page)?.into_iter().map(|r| r.start..r.end.min(size)).filter(|r| !r.is_empty()));
        match element(&page, "NextMarker").filter(|next| !next.is_empty()) {
            Some(next) => marker = format!("&marker={next}"),
            None => return Ok(found),
        }
    }
}

fn parse_ranges(page: &str) -> anyhow::Result<Vec<Range<u64>>> {
    let range = |text: &str| {
        let number = |name| element(text, name)?.trim().parse::<u64>().ok();
        number("Start")
            .zip(number("End"))
            .map(|(start, end)| start..end + 1)
            .context("a list of pages that cannot be read")
    };
    page.split("<PageRange>").skip(1).map(range).collect()
}

/// The text of the first element of that name, which has no attributes.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let rest = xml.split_once(&format!("<{name}>"))?.1;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_apart() {
        assert!(is_id("/subscriptions/1/resourceGroups/g") && !is_id("/sub/disk.vhd") && !is_id("disk.vhd"));
        let group = "/subscriptions/1/resourceGroups/g/providers";
        assert!(matches!(kind(&format!("{group}/Microsoft.Compute/Disks/d")), Ok(Kind::Disk)));
        assert!(matches!(kind(&format!("{group}/microsoft.compute/snapshots/s")), Ok(Kind::Disk)));
        let version = format!("{group}/Microsoft.Compute/galleries/g/images/i/versions/1.0.0");
        assert!(matches!(kind(&version), Ok(Kind::Version)));
        assert_eq!(definition_of(&version), format!("{group}/Microsoft.Compute/galleries/g/images/i"));
        assert!(kind(&format!("{group}/Microsoft.Compute/virtualMachines/v")).is_err());
    }

    #[test]
    fn page_lists_are_read() {
        let page = "<?xml version=\"1.0\"?><PageList><PageRange><Start>0</Start><End>511</End></PageRange>\
                    <PageRange><Start>1024</Start><End>4095</End></PageRange><NextMarker/></PageList>";
        assert_eq!(parse_ranges(page).unwrap(), [0..512, 1024..4096]);
        assert_eq!(element(page, "NextMarker"), None);
        assert!(parse_ranges("<PageRange><Start>x</Start>").is_err());
    }
}
