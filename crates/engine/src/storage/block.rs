//! Blocks: staged one by one, made a blob by a list that names them.
//!
//! ```text
//! staging/CONTAINER-ID.blocks/SHA256-OF-NAME/HEX-OF-BLOCK-ID    a staged block; renamed into place, so always whole
//! block_lists (meta)                                            the blocks that the blob consists of
//! ```

use super::record::{BlobRow, Content};
use super::upload::{Made, Temporary, parts_view};
use super::view::{Part, PartSource, blocking};
use super::{Access, BlobInfo, BlobKind, Code, NewBlob, Place, Storage, StorageError, Upload, lease, references};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lazuli_meta::model::Change;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const MAX_BLOCKS: usize = 50_000;
const MAX_ID: usize = 64;

/// A block as its blob or its client names it: base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockInfo {
    pub id: String,
    pub size: u64,
}

/// Where a block of a list is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockChoice {
    Committed,
    Uncommitted,
    Latest,
}

/// Answer to Get Block List.
#[derive(Debug, Clone)]
pub struct BlockLists {
    /// `None`: nothing was committed yet.
    pub blob: Option<BlobInfo>,
    pub committed: Vec<BlockInfo>,
    pub uncommitted: Vec<BlockInfo>,
}

impl Storage {
    /// Put Block.
    ///
    /// # Errors
    /// [`Code::InvalidBlockId`], [`Code::InvalidBlobOrBlock`] (ids of different lengths), [`Code::InvalidBlobType`], the
    /// lease, the body's own errors.
    pub async fn put_block(
        &self,
        at: &Place,
        id: &str,
        upload: Upload,
        lease: Option<&str>,
    ) -> Result<(), StorageError> {
        let name = file_name(id)?;
        let existing = self.find(at).await?;
        let container = self.require_container(&at.account, &at.container).await?;
        self.check_staging(existing.as_ref(), lease)?;
        let (file, _) = self.receive(upload).await?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _shared = gate.shared().await;
        let folder = self.block_folder(&container.id, &at.blob);
        blocking(move || place_block(&file, &folder, &name)).await
    }

    fn check_staging(&self, existing: Option<&BlobRow>, lease: Option<&str>) -> Result<(), StorageError> {
        if existing.is_some_and(|row| row.kind != BlobKind::Block) {
            return Err(Code::InvalidBlobType.into());
        }
        let held = existing.map(|row| row.body.lease.clone()).unwrap_or_default();
        Ok(held.check_write(lease, lease::On::Blob, self.now_ms())?)
    }

    /// Put Block List: the blob is these blocks, one behind the other. Staged blocks that are not named are forgotten.
    ///
    /// # Errors
    /// [`Code::InvalidBlockList`], [`Code::BlockListTooLong`], conditions, the lease.
    pub async fn put_block_list(
        &self,
        at: &Place,
        list: &[(BlockChoice, String)],
        new: NewBlob,
        access: &Access,
    ) -> Result<BlobInfo, StorageError> {
        if list.len() > MAX_BLOCKS {
            return Err(Code::BlockListTooLong.into());
        }
        let body = new.body(self.now_ms())?;
        let gate = self.0.gates.of(&at.account.name, &at.container, &at.blob);
        let _alone = gate.alone().await;
        let existing = self.check_replace(at, access).await?;
        if existing.as_ref().is_some_and(|row| row.kind != BlobKind::Block) {
            return Err(Code::InvalidBlobType.into());
        }
        let container = self.require_container(&at.account, &at.container).await?;
        let staged = self.staged_blocks(&container.id, &at.blob).await?;
        let committed = self.committed(existing.as_ref()).await?;
        let old = match &existing {
            Some(row) => Some(Arc::new(self.view(&at.account, row).await?)),
            None => None,
        };
        let folder = self.block_folder(&container.id, &at.blob);
        let chosen = choose(list, &staged, &committed)?;
        let (mut parts, mut blocks, mut size) = (Vec::new(), Vec::new(), 0);
        for (info, offset) in chosen {
            size += info.size;
            let from = match (offset, &old) {
                (Some(offset), Some(view)) => PartSource::View(Arc::clone(view), offset),
                _ => PartSource::File(folder.join(file_name(&info.id)?)),
            };
            // A part of nothing would hide the next one.
            if info.size > 0 {
                parts.push(Part { end: size, from });
            }
            blocks.push(info);
        }
        let view = Arc::new(parts_view(parts, size));
        let (settled, _guard) = self.ingest(&at.account, view, &CancellationToken::new()).await?;
        let id = Uuid::new_v4().to_string();
        let mut further = references(&at.account, &at.container, &id, &settled);
        further.push(Change::PutBlockList {
            blob: id.clone(),
            account: at.account.name.clone(),
            container: at.container.clone(),
            blocks: super::record::value(&blocks),
        });
        let content = Content { base: settled, ..Content::default() };
        let made = Made { kind: BlobKind::Block, size, body, content, id, further };
        let row = self.replace(at, access, made).await?;
        self.forget_blocks(at).await?;
        Ok(row.info())
    }

    /// Get Block List.
    ///
    /// # Errors
    /// [`Code::BlobNotFound`] where there is neither a blob nor a staged block.
    pub async fn block_lists(&self, at: &Place, lease: Option<&str>) -> Result<BlockLists, StorageError> {
        let blob = self.find(at).await?;
        let container = self.require_container(&at.account, &at.container).await?;
        if let Some(row) = &blob {
            super::settle::require_kind(row, BlobKind::Block)?;
            row.body.lease.check_read(lease, lease::On::Blob, self.now_ms())?;
        }
        let uncommitted = match at.snapshot {
            Some(_) => Vec::new(),
            None => self.staged_blocks(&container.id, &at.blob).await?,
        };
        if blob.is_none() && uncommitted.is_empty() {
            return Err(Code::BlobNotFound.into());
        }
        let committed = self.committed(blob.as_ref()).await?;
        Ok(BlockLists { blob: blob.map(|row| row.info()), committed, uncommitted })
    }

    async fn committed(&self, row: Option<&BlobRow>) -> Result<Vec<BlockInfo>, StorageError> {
        let Some(row) = row else { return Ok(Vec::new()) };
        let list = self.db().block_list(&row.row.id).await?;
        list.as_ref().map_or(Ok(Vec::new()), super::record::parse)
    }

    pub(super) fn block_folder(&self, container_id: &str, blob: &str) -> PathBuf {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, blob.as_bytes());
        self.0.staging.join(format!("{container_id}.blocks")).join(hex::encode(digest.as_ref()))
    }

    async fn staged_blocks(&self, container_id: &str, blob: &str) -> Result<Vec<BlockInfo>, StorageError> {
        let folder = self.block_folder(container_id, blob);
        blocking(move || list_blocks(&folder).map_err(StorageError::of_file)).await
    }

    /// Staged blocks are let go of: a blob was committed, or is gone.
    pub(super) async fn forget_blocks(&self, at: &Place) -> Result<(), StorageError> {
        let Some(container) = self.db().container(&at.account.name, &at.container).await? else { return Ok(()) };
        let folder = self.block_folder(&container.id, &at.blob);
        remove_folder(folder).await
    }

    pub(super) async fn forget_all_blocks(&self, container_id: &str) -> Result<(), StorageError> {
        remove_folder(self.0.staging.join(format!("{container_id}.blocks"))).await
    }
}

async fn remove_folder(folder: PathBuf) -> Result<(), StorageError> {
    blocking(move || match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::of_file(error)),
        _ => Ok(()),
    })
    .await
}

/// The name of a block's file.
fn file_name(id: &str) -> Result<String, StorageError> {
    match BASE64_STANDARD.decode(id) {
        Ok(bytes) if (1..=MAX_ID).contains(&bytes.len()) => Ok(hex::encode(bytes)),
        _ => Err(Code::InvalidBlockId.into()),
    }
}

fn place_block(file: &Temporary, folder: &Path, name: &str) -> Result<(), StorageError> {
    // All ids of a blob have one length.
    let differs = |other: &BlockInfo| file_name(&other.id).is_ok_and(|other| other.len() != name.len());
    if list_blocks(folder).map_err(StorageError::of_file)?.first().is_some_and(differs) {
        return Err(Code::InvalidBlobOrBlock.into());
    }
    std::fs::create_dir_all(folder).map_err(StorageError::of_file)?;
    std::fs::rename(&file.0, folder.join(name)).map_err(StorageError::of_file)
}

fn list_blocks(folder: &Path) -> io::Result<Vec<BlockInfo>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| hex::decode(name).ok()) {
            found.push(BlockInfo { id: BASE64_STANDARD.encode(id), size: entry.metadata()?.len() });
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// What a list names: each block with its offset in the present blob, `None` for a staged one.
fn choose(
    list: &[(BlockChoice, String)],
    staged: &[BlockInfo],
    committed: &[BlockInfo],
) -> Result<Vec<(BlockInfo, Option<u64>)>, StorageError> {
    let staged: HashMap<&str, &BlockInfo> = staged.iter().map(|block| (block.id.as_str(), block)).collect();
    let mut offset = 0;
    let mut present: HashMap<&str, (&BlockInfo, u64)> = HashMap::new();
    for block in committed {
        present.entry(&block.id).or_insert((block, offset));
        offset += block.size;
    }
    let find = |(choice, id): &(BlockChoice, String)| {
        let new = || staged.get(id.as_str()).map(|block| ((*block).clone(), None));
        let old = || present.get(id.as_str()).map(|(block, at)| ((*block).clone(), Some(*at)));
        let found = match choice {
            BlockChoice::Committed => old(),
            BlockChoice::Uncommitted => new(),
            BlockChoice::Latest => new().or_else(old),
        };
        found.ok_or_else(|| Code::InvalidBlockList.into())
    };
    list.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(id: &str, size: u64) -> BlockInfo {
        BlockInfo { id: id.to_owned(), size }
    }

    #[test]
    fn a_list_takes_blocks_from_where_it_says() {
        let (staged, committed) = ([block("b", 7)], [block("a", 1), block("b", 2), block("c", 3)]);
        let list = |items: &[(BlockChoice, &str)]| {
            let items: Vec<_> = items.iter().map(|(choice, id)| (*choice, (*id).to_owned())).collect();
            choose(&items, &staged, &committed).map_err(|e| e.code())
        };
        use BlockChoice::{Committed, Latest, Uncommitted};
        assert_eq!(
            list(&[(Latest, "c"), (Latest, "b"), (Committed, "b"), (Uncommitted, "b")]).unwrap(),
            [(block("c", 3), Some(3)), (block("b", 7), None), (block("b", 2), Some(1)), (block("b", 7), None)]
        );
        assert_eq!(list(&[(Uncommitted, "a")]), Err(Some(Code::InvalidBlockList)));
        assert_eq!(list(&[(Committed, "x")]), Err(Some(Code::InvalidBlockList)));
    }

    #[test]
    fn block_ids() {
        assert_eq!(file_name("AAAA").unwrap(), "000000");
        for bad in ["", "A", "?", &BASE64_STANDARD.encode([0; 65])] {
            assert_eq!(file_name(bad).unwrap_err().code(), Some(Code::InvalidBlockId), "{bad}");
        }
    }
}
