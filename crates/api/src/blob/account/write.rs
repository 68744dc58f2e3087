//! Writing blobs: whole ones, blocks, pages, appended blocks; from the request's body or from another blob of this server.

use super::super::reply::{Failure, insert};
use super::super::request::parse_range;
use super::reply::written;
use super::upload::{Found, from_stream, upload};
use super::{Planned, xml};
use crate::respond::{Reply, empty};
use axum::body::Body;
use futures::TryStreamExt;
use http::StatusCode;
use lazuli_engine::blobs::{ContentHeaders, MAX_WRITE};
use lazuli_engine::storage::{AppendConditions, BlockChoice, NewBlob, Opened, Upload};
use std::ops::Range;

/// Limits of version 2019-12-12 and later.
const MAX_PUT_BLOB: u64 = 5000 << 20;
const MAX_BLOCK: u64 = 4000 << 20;
const MAX_APPEND: u64 = 100 << 20;

impl Planned<'_> {
    /// What the request says of the blob that it makes.
    pub(super) fn new_blob(&self) -> Result<NewBlob, Failure> {
        let mut headers: ContentHeaders = self.ask.content_headers();
        // Put Blob knows the standard headers, too.
        let plain = |name: &str| self.ask.header(name).map(str::to_owned);
        headers.content_type = headers.content_type.or_else(|| plain("content-type"));
        headers.encoding = headers.encoding.or_else(|| plain("content-encoding"));
        headers.language = headers.language.or_else(|| plain("content-language"));
        headers.cache_control = headers.cache_control.or_else(|| plain("cache-control"));
        Ok(NewBlob {
            headers,
            metadata: self.ask.metadata(),
            tier: self.tier()?,
            sequence: self.ask.number("x-ms-blob-sequence-number")?.unwrap_or(0),
        })
    }

    pub(super) async fn put_block_blob(&self, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let new = self.new_blob()?;
        let (bytes, found) = upload(self.ask, body.take().unwrap_or_default(), MAX_PUT_BLOB)?;
        let md5 = bytes.md5.clone();
        let made = self.storage().put_block_blob(&self.place(), bytes, new, &self.access()?).await?;
        let mut response = written(StatusCode::CREATED, &made);
        if let Some(md5) = md5.get() {
            insert(response.headers_mut(), "content-md5", md5);
        }
        say_crc64(&mut response, &found);
        Ok(response)
    }

    fn require_empty(&self) -> Result<(), Failure> {
        if self.ask.header("content-length").is_some_and(|len| len != "0") {
            let message = "The blob is created empty; its bytes are put later.";
            return Err(Failure::bad_header("Content-Length", "", message));
        }
        Ok(())
    }

    pub(super) async fn create_page_blob(&self) -> Result<Reply, Failure> {
        const LENGTH: &str = "x-ms-blob-content-length";
        self.require_empty()?;
        let size = self.ask.number(LENGTH)?.ok_or_else(|| Failure::missing_header(LENGTH))?;
        let made = self.storage().create_page_blob(&self.place(), size, self.new_blob()?, &self.access()?).await?;
        Ok(written(StatusCode::CREATED, &made))
    }

    pub(super) async fn create_append_blob(&self) -> Result<Reply, Failure> {
        self.require_empty()?;
        let made = self.storage().create_append_blob(&self.place(), self.new_blob()?, &self.access()?).await?;
        Ok(written(StatusCode::CREATED, &made))
    }

    /// The body, or the range of another blob that the request names instead.
    async fn bytes(&self, body: &mut Option<Body>, limit: u64) -> Result<(Upload, Found), Failure> {
        if self.ask.header("x-ms-copy-source").is_none() {
            return upload(self.ask, body.take().unwrap_or_default(), limit);
        }
        let opened = self.open_copy_source().await?;
        let range = self.source_range(&opened)?;
        if range.end - range.start > limit {
            return Err(Failure::too_large(limit));
        }
        Ok((from_stream(opened.read(range)), Found::default()))
    }

    fn source_range(&self, opened: &Opened) -> Result<Range<u64>, Failure> {
        const RANGE: &str = "x-ms-source-range";
        let size = opened.info.size;
        let Some(text) = self.ask.header(RANGE) else { return Ok(0..size) };
        let range =
            parse_range(text).ok_or_else(|| Failure::bad_header(RANGE, text, "Write it as bytes=START-END."))?;
        if range.start >= size || range.end > size && range.end != u64::MAX {
            return Err(super::blob::out_of_range());
        }
        Ok(range.start..range.end.min(size))
    }

    pub(super) async fn put_block(&self, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let id = self.ask.query("blockid").ok_or_else(|| missing_query("blockid"))?.replace(' ', "+");
        let lease = self.ask.header("x-ms-lease-id");
        let (bytes, found) = self.bytes(body, MAX_BLOCK).await?;
        let (md5, asked) = (bytes.md5.clone(), self.ask.header("content-md5").is_some());
        self.storage().put_block(&self.place(), &id, bytes, lease).await?;
        let mut response = empty(StatusCode::CREATED);
        insert(response.headers_mut(), "x-ms-request-server-encrypted", "false");
        match md5.get().filter(|_| asked) {
            Some(md5) => insert(response.headers_mut(), "content-md5", md5),
            None => say_crc64(&mut response, &found),
        }
        Ok(response)
    }

    pub(super) async fn put_block_list(&self, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let document = self.document(body).await?;
        let list = block_list(&document)?;
        // The request's own Content-MD5 and Content-Type are those of the list.
        let new = NewBlob { headers: self.ask.content_headers(), ..self.new_blob()? };
        let made = self.storage().put_block_list(&self.place(), &list, new, &self.access()?).await?;
        Ok(written(StatusCode::CREATED, &made))
    }

    pub(super) async fn put_page(&self, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let (range, at, access) = (self.ask.page_range()?, self.place(), self.access()?);
        let write = self.ask.header("x-ms-page-write").ok_or_else(|| Failure::missing_header("x-ms-page-write"))?;
        if write.eq_ignore_ascii_case("clear") {
            let done = self.storage().clear_pages(&at, range, &access).await?;
            return Ok(written(StatusCode::CREATED, &done));
        }
        if !write.eq_ignore_ascii_case("update") {
            return Err(Failure::bad_header("x-ms-page-write", write, "It is update or clear."));
        }
        let _turn =
            self.bodies.acquire().await.map_err(|_| {
                Failure::new(503, "ServerBusy", "The server is shutting down. Please retry your request.")
            })?;
        let (bytes, found) = self.bytes(body, MAX_WRITE).await?;
        let (md5, asked) = (bytes.md5.clone(), self.ask.header("content-md5").is_some());
        let data: Vec<bytes::Bytes> =
            bytes.bytes.try_collect().await.map_err(lazuli_engine::storage::StorageError::Body)?;
        let data = bytes::Bytes::from(data.concat());
        let (start, len) = (range.start, range.end - range.start);
        if data.len() as u64 != len {
            let message = format!("The page range specified is invalid: it has {len} bytes, the body {}.", data.len());
            return Err(Failure::new(416, "InvalidPageRange", message));
        }
        let done = self.storage().put_pages(&at, start, data, &access).await?;
        let mut response = written(StatusCode::CREATED, &done);
        if let Some(md5) = md5.get().filter(|_| asked) {
            insert(response.headers_mut(), "content-md5", md5);
        }
        say_crc64(&mut response, &found);
        Ok(response)
    }

    pub(super) async fn append_block(&self, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let when = AppendConditions {
            position: self.ask.number("x-ms-blob-condition-appendpos")?,
            max_size: self.ask.number("x-ms-blob-condition-maxsize")?,
        };
        let access = self.access()?;
        let (bytes, found) = self.bytes(body, MAX_APPEND).await?;
        let (md5, asked) = (bytes.md5.clone(), self.ask.header("content-md5").is_some());
        let (blob, offset) = self.storage().append_block(&self.place(), bytes, when, &access).await?;
        let mut response = written(StatusCode::CREATED, &blob);
        let headers = response.headers_mut();
        insert(headers, "x-ms-blob-append-offset", &offset.to_string());
        insert(headers, "x-ms-blob-committed-block-count", &blob.body.blocks.to_string());
        if let Some(md5) = md5.get().filter(|_| asked) {
            insert(headers, "content-md5", md5);
        }
        say_crc64(&mut response, &found);
        Ok(response)
    }

    pub(super) async fn seal(&self) -> Result<Reply, Failure> {
        let blob = self.storage().seal(&self.place(), &self.access()?).await?;
        let mut response = written(StatusCode::OK, &blob);
        insert(response.headers_mut(), "x-ms-blob-sealed", "true");
        Ok(response)
    }
}

fn say_crc64(response: &mut Reply, found: &Found) {
    if let Some(crc64) = found.get() {
        insert(response.headers_mut(), "x-ms-content-crc64", crc64);
    }
}

fn missing_query(name: &'static str) -> Failure {
    let message = "A query parameter that's mandatory for this request is not specified.";
    Failure::new(400, "MissingRequiredQueryParameter", message).with("QueryParameterName", name)
}

fn block_list(document: &[u8]) -> Result<Vec<(BlockChoice, String)>, Failure> {
    let mut list = Vec::new();
    for (path, text) in xml::leaves(document)? {
        let choice = match path.get(1).map(String::as_str) {
            Some("Committed") => BlockChoice::Committed,
            Some("Uncommitted") => BlockChoice::Uncommitted,
            Some("Latest") => BlockChoice::Latest,
            None if text.is_empty() => continue,
            _ => {
                let message = "The XML specified is not syntactically valid.";
                return Err(Failure::new(400, "InvalidXmlDocument", message));
            }
        };
        list.push((choice, text));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_lists() {
        let text = b"<?xml version=\"1.0\"?><BlockList><Latest>AA==</Latest><Committed>BB==</Committed></BlockList>";
        let found = block_list(text).unwrap();
        assert_eq!(found, [(BlockChoice::Latest, "AA==".to_owned()), (BlockChoice::Committed, "BB==".to_owned())]);
        assert_eq!(block_list(b"<BlockList />").unwrap(), []);
        assert!(block_list(b"<BlockList><Block>x</Block></BlockList>").is_err());
    }
}
