//! A small file of the server's own as a blob to read: what boot diagnostics show of a machine.

use super::BlobError;
use super::conditions::{ContentHeaders, Properties};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// As it was when the request came.
pub(super) struct File {
    bytes: Bytes,
    properties: Properties,
}

impl File {
    /// # Errors
    /// [`BlobError::NoBlob`] where nothing was kept yet.
    pub async fn open(path: &Path, content_type: String) -> Result<Self, BlobError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => BlobError::NoBlob,
            _ => BlobError::internal(error),
        };
        let modified = tokio::fs::metadata(path).await.and_then(|m| m.modified()).map_err(failed)?;
        let bytes = Bytes::from(tokio::fs::read(path).await.map_err(failed)?);
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let properties = Properties {
            size: bytes.len() as u64,
            etag: format!("0x8D{:X}", since.as_nanos()),
            modified_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            sequence: 0,
            headers: ContentHeaders { content_type: Some(content_type), ..ContentHeaders::default() },
            metadata: BTreeMap::new(),
        };
        Ok(Self { bytes, properties })
    }

    pub fn properties(&self) -> Properties {
        self.properties.clone()
    }

    /// `range` is within the file.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, BlobError> {
        let at = |n: u64| usize::try_from(n).map_err(BlobError::internal);
        Ok(self.bytes.slice(at(range.start)?..at(range.end)?))
    }
}
