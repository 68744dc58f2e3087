//! Page blobs: random writes of whole pages into an overlay, sizes, sequence numbers, page ranges and their differences.

use super::gate::Gate;
use super::overlay::Page;
use super::record::{BlobRow, Content};
use super::settle::require_kind;
use super::upload::Made;
use super::view::{Over, View, blocking};
use super::{Access, BlobInfo, BlobKind, Code, NewBlob, Overlay, Place, Storage, StorageError, lease};
use crate::blobs::{BlobError, MAX_WRITE, PAGE, Ranges, SequenceAction};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// Azure's largest page blob: 8 TiB.
const MAX_SIZE: u64 = 8 << 40;
/// Two blobs are compared in pieces of this size.
const COMPARE: u64 = 1 << 20;

/// Answer to Get Page Ranges.
#[derive(Debug, Clone)]
pub struct PageChanges {
    pub blob: BlobInfo,
    /// Data; all else reads as zeros (or, of a difference, is as it was).
    pub pages: Vec<Range<u64>>,
    /// Of a difference: data before, zeros now.
    pub cleared: Vec<Range<u64>>,
}

/// Makes the bytes of one page write.
enum Change {
    Write(u64, Bytes),
    Clear(Range<u64>),
}

impl Storage {
    /// Put Blob of an empty page blob.
    ///
    /// # Errors
    /// [`BlobError::PageRange`] for a size that is not of whole pages; conditions, the lease.
    pub async fn create_page_blob(
        &self,
        at: &Place,
        size: u64,
        new: NewBlob,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        check_size(size)?;
        let body = new.body(self.now_ms())?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let id = Uuid::new_v4().to_string();
        let content = Content::default();
        let made = Made { kind: BlobKind::Page, size, body, content, id, further: Vec::new() };
        Ok(self.replace(at, access, made).await?.info())
    }

    /// Put Page: whole pages, at most [`MAX_WRITE`] bytes. On return they survive the process.
    ///
    /// # Errors
    /// [`BlobError::PageRange`], [`BlobError::TooLarge`], conditions, the lease, a full disk.
    pub async fn put_pages(
        &self,
        at: &Place,
        offset: u64,
        data: Bytes,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        let len = data.len() as u64;
        if len > MAX_WRITE {
            return Err(BlobError::TooLarge { len }.into());
        }
        self.change_pages(at, Change::Write(offset, data), access).await
    }

    /// # Errors
    /// As [`Storage::put_pages`].
    pub async fn clear_pages(&self, at: &Place, range: Range<u64>, access: &Access) -> Result<BlobInfo, StorageError> {
        self.change_pages(at, Change::Clear(range), access).await
    }

    async fn change_pages(&self, at: &Place, change: Change, access: &Access) -> Result<BlobInfo, StorageError> {
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        // Conditions hold for the blob as it is when the bytes are written.
        if access.conditions.is_empty() {
            let _shared = gate.shared().await;
            self.change_pages_within(at, &gate, change, access).await
        } else {
            let _alone = gate.alone().await;
            self.change_pages_within(at, &gate, change, access).await
        }
    }

    async fn change_pages_within(
        &self,
        at: &Place,
        gate: &Gate,
        change: Change,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        let row = self.load_kind(at, BlobKind::Page, access).await?;
        let range = match &change {
            Change::Write(offset, data) => *offset..offset.saturating_add(data.len() as u64),
            Change::Clear(range) => range.clone(),
        };
        check_pages(&range, row.size())?;
        let overlay = self.overlay_for_writing(at, gate, row).await?;
        blocking(move || {
            let done = match change {
                Change::Write(offset, data) => overlay.write(offset, &data),
                Change::Clear(range) => overlay.clear(range),
            };
            done.map_err(StorageError::of_file)
        })
        .await?;
        let _row = gate.row.lock().await;
        let mut row = self.load(at).await?;
        row.touch(self.now_ms());
        Ok(self.store(row, Vec::new()).await?.info())
    }

    /// The overlay of the blob, named by its row.
    async fn overlay_for_writing(&self, at: &Place, gate: &Gate, row: BlobRow) -> Result<Arc<Overlay>, StorageError> {
        if let Some(id) = &row.content.staging {
            return self.overlay(id, false).await;
        }
        let _row = gate.row.lock().await;
        // Another write may have been first.
        let mut row = self.load(at).await?;
        if let Some(id) = &row.content.staging {
            return self.overlay(id, false).await;
        }
        let id = Uuid::new_v4().simple().to_string();
        let overlay = self.overlay(&id, true).await?;
        row.content.staging = Some(id);
        self.store(row, Vec::new()).await?;
        Ok(overlay)
    }

    /// Set Blob Properties with a size: what is cut off never comes back.
    ///
    /// # Errors
    /// [`BlobError::PageRange`], conditions, the lease.
    pub async fn resize(&self, at: &Place, size: u64, access: &Access) -> Result<BlobInfo, StorageError> {
        check_size(size)?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let row = self.load_kind(at, BlobKind::Page, access).await?;
        if size < row.size() {
            let cut = size..row.size();
            let overlay = self.overlay_for_writing(at, &gate, row).await?;
            blocking(move || overlay.clear(cut).map_err(StorageError::of_file)).await?;
        }
        let mut row = self.load(at).await?;
        row.set_size(size);
        row.touch(self.now_ms());
        Ok(self.store(row, Vec::new()).await?.info())
    }

    /// # Errors
    /// [`BlobError::SequenceInvalid`], conditions, the lease.
    pub async fn set_sequence(
        &self,
        at: &Place,
        action: SequenceAction,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let mut row = self.load_kind(at, BlobKind::Page, access).await?;
        let now = row.body.sequence;
        let next = match action {
            SequenceAction::Max(n) => Some(now.max(n)),
            SequenceAction::Update(n) => Some(n),
            SequenceAction::Increment => now.checked_add(1),
        };
        let next = next.filter(|n| i64::try_from(*n).is_ok()).ok_or(BlobError::SequenceInvalid)?;
        row.body.sequence = next;
        row.touch(self.now_ms());
        Ok(self.store(row, Vec::new()).await?.info())
    }

    /// Get Page Ranges; with `since` the difference from that snapshot. `range` is cut at the blob's end.
    ///
    /// # Errors
    /// [`Code::PreviousSnapshotNotFound`], [`Code::PreviousSnapshotCannotBeNewer`], conditions.
    pub async fn page_ranges(
        &self,
        at: &Place,
        range: Range<u64>,
        since: Option<&str>,
        access: &Access,
    ) -> Result<PageChanges, StorageError> {
        let row = self.load(at).await?;
        require_kind(&row, BlobKind::Page)?;
        access.conditions.check_read(&row.properties())?;
        row.body.lease.check_read(access.lease.as_deref(), lease::On::Blob, self.now_ms())?;
        let view = Arc::new(self.view(&at.account, &row).await?);
        let range = range.start..range.end.min(view.size);
        if range.start >= view.size && view.size > 0 {
            return Err(Code::InvalidRange.into());
        }
        let blob = row.info();
        let Some(since) = since else {
            let pages = view.page_ranges(range).await?;
            return Ok(PageChanges { blob, pages, cleared: Vec::new() });
        };
        if at.snapshot.as_deref().is_some_and(|snapshot| snapshot < since) {
            return Err(Code::PreviousSnapshotCannotBeNewer.into());
        }
        let before = self.find(&Place { snapshot: Some(since.to_owned()), ..at.clone() }).await?;
        let before = before.ok_or(Code::PreviousSnapshotNotFound)?;
        let (pages, cleared) = if before.content.base == row.content.base && before.content.staging.is_none() {
            blocking(move || overlaid(&view, range).map_err(StorageError::of_file)).await?
        } else {
            let before = Arc::new(self.view(&at.account, &before).await?);
            blocking(move || differing(&before, &view, range).map_err(StorageError::of_file)).await?
        };
        Ok(PageChanges { blob, pages, cleared })
    }
}

type Difference = (Vec<Range<u64>>, Vec<Range<u64>>);

/// What was written over the base.
fn overlaid(view: &View, range: Range<u64>) -> std::io::Result<Difference> {
    let (mut pages, mut cleared) = (Ranges::new(), Ranges::new());
    if let Over::Pages(overlay) = &view.over {
        let mut at = range.start / PAGE * PAGE;
        while at < range.end {
            for (run, page) in overlay.runs(at..range.end)? {
                at = run.end;
                match page {
                    Page::Written => pages.push(run),
                    Page::Cleared => cleared.push(run),
                    Page::Below => {}
                }
            }
        }
    }
    Ok((pages.into_vec(), cleared.into_vec()))
}

/// Compares all bytes that are data on either side.
fn differing(before: &View, now: &View, range: Range<u64>) -> std::io::Result<Difference> {
    let (mut pages, mut cleared) = (Ranges::new(), Ranges::new());
    let mut at = range.start;
    let next = |view: &View, at: u64| if at < view.size { view.next_data(at) } else { Ok(None) };
    while at < range.end {
        let either = [next(before, at)?, next(now, at)?].into_iter().flatten().map(|data| data.start).min();
        let Some(start) = either.filter(|start| *start < range.end) else { break };
        let start = start / PAGE * PAGE;
        let end = (start / COMPARE * COMPARE + COMPARE).min(range.end);
        let (old, new) = (bytes_of(before, start..end)?, bytes_of(now, start..end)?);
        for (number, (old, new)) in old.chunks(512).zip(new.chunks(512)).enumerate() {
            let page = start + number as u64 * PAGE;
            if old != new {
                let changed = if new.iter().all(|b| *b == 0) { &mut cleared } else { &mut pages };
                changed.push(page..page + PAGE);
            }
        }
        at = end;
    }
    Ok((pages.into_vec(), cleared.into_vec()))
}

/// Zeros beyond the view's end.
fn bytes_of(view: &View, range: Range<u64>) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(std::io::Error::other)?];
    let within = range.end.min(view.size).saturating_sub(range.start);
    let within = usize::try_from(within).map_err(std::io::Error::other)?;
    view.read_at(range.start, &mut bytes[..within])?;
    Ok(bytes)
}

fn check_size(size: u64) -> Result<(), StorageError> {
    if !size.is_multiple_of(PAGE) || size > MAX_SIZE {
        return Err(BlobError::SizeInvalid { size }.into());
    }
    Ok(())
}

fn check_pages(range: &Range<u64>, size: u64) -> Result<(), StorageError> {
    let len = range.end.saturating_sub(range.start);
    let whole = range.start.is_multiple_of(PAGE) && len.is_multiple_of(PAGE);
    if len == 0 || !whole || range.end > size {
        return Err(BlobError::PageRange { start: range.start, len, size }.into());
    }
    Ok(())
}
