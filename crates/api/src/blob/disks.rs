//! The blobs of managed disks over HTTP: one request from its parts to its answer (wire.md §5).
//!
//! The URL's signature decides, and for disks that ask for it (`dataAccessAuthMode`) a bearer token too. Bodies are held only for Put Page, up to
//! 4 MiB each and a fixed number at a time; what is refused is read and thrown away, so that the client sees why.

use super::reply::{self, Failure};
use super::request::{Ask, Operation, Previous};
use super::{Bearer, BlobPlane, BlobRequest, digest, no_such_account};
use crate::body;
use crate::respond::{Reply, empty};
use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use lazuli_engine::blobs::{Blob, Blobs, MAX_WRITE, PageChange, Properties};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bodies of Put Page held at a time (128 MiB).
const BODIES: usize = 32;
/// Checksums of a range are given up to this length, as in Azure.
const MAX_CHECKED: u64 = 4 << 20;
/// Spoken where the client names no version.
pub(super) const VERSION: &str = "2021-12-02";

/// Serves the SAS URLs of managed disks.
pub struct DiskPlane {
    blobs: Blobs,
    bodies: Arc<Semaphore>,
}

impl DiskPlane {
    pub fn new(blobs: Blobs) -> Self {
        Self { blobs, bodies: Arc::new(Semaphore::new(BODIES)) }
    }
}

#[async_trait]
impl BlobPlane for DiskPlane {
    async fn handle(&self, request: BlobRequest) -> Reply {
        let (parts, body) = request.request.into_parts();
        let mut body = Some(body);
        // `md-x.z01`: the zone is part of the host name only.
        let account = request.account.split('.').next().unwrap_or_default();
        let mut response = if account.starts_with("md-") {
            let answer = match Ask::new(&request.path, &parts) {
                Ok(ask) => self.answer(account, &ask, &parts.method, &request.bearer, &mut body).await,
                Err(failure) => Err(failure),
            };
            answer.unwrap_or_else(|failure| refused(&failure, &request.request_id))
        } else {
            no_such_account(&request.request_id)
        };
        if let Some(body) = body {
            // With a limit of nothing: read, never kept.
            let _ = body::read(&parts.headers, body, 0).await;
        }
        decorate(&parts.headers, &request.request_id, &mut response);
        response
    }
}

/// A 401 tells for what a token is asked: azcopy looks for it.
fn refused(failure: &Failure, request_id: &str) -> Reply {
    let mut response = reply::failure(failure, request_id);
    if failure.status == 401 {
        let challenge = "Bearer authorization_uri=https://login.microsoftonline.com/common/oauth2/authorize \
                         resource_id=https://disk.azure.com/";
        reply::insert(response.headers_mut(), "www-authenticate", challenge);
    }
    response
}

/// The object id of whoever signed in.
fn principal(bearer: &Bearer) -> Option<&str> {
    match bearer {
        Bearer::Caller(caller) => Some(&caller.principal),
        Bearer::Absent | Bearer::Refused(_) => None,
    }
}

pub(super) fn decorate(asked: &http::HeaderMap, request_id: &str, response: &mut Reply) {
    let text = |name| asked.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let headers = response.headers_mut();
    reply::insert(headers, "x-ms-request-id", request_id);
    let version = text("x-ms-version").filter(|v| v.len() == VERSION.len()).unwrap_or(VERSION);
    reply::insert(headers, "x-ms-version", version);
    if let Some(id) = text("x-ms-client-request-id").filter(|id| id.len() <= 1024) {
        reply::insert(headers, "x-ms-client-request-id", id);
    }
}

impl DiskPlane {
    async fn answer(
        &self,
        account: &str,
        ask: &Ask,
        method: &Method,
        bearer: &Bearer,
        body: &mut Option<Body>,
    ) -> Result<Reply, Failure> {
        let who = principal(bearer);
        let blob = self.blobs.open(account, &ask.container, &ask.blob, &ask.sas()?, who).await?;
        match ask.operation(method)? {
            Operation::Get => get(ask, &blob).await,
            Operation::Properties => properties(ask, &blob),
            Operation::Metadata => metadata(ask, &blob),
            Operation::PageList => self.page_list(ask, &blob, who).await,
            Operation::Create => create(ask, &blob).await,
            Operation::PutPage => self.put_page(ask, &blob, body).await,
            Operation::SetProperties => set_properties(ask, &blob).await,
            Operation::SetMetadata => {
                let blob = blob.set_metadata(ask.metadata(), &ask.conditions()?).await?;
                Ok(reply::written(StatusCode::OK, &blob))
            }
            Operation::Delete => {
                blob.reset(&ask.conditions()?).await?;
                Ok(empty(StatusCode::ACCEPTED))
            }
        }
    }

    async fn page_list(&self, ask: &Ask, blob: &Blob, who: Option<&str>) -> Result<Reply, Failure> {
        let previous = match ask.previous()? {
            Some(Previous { account, container, blob, sas }) => {
                Some(self.blobs.open(&account, &container, &blob, &sas, who).await?)
            }
            None => None,
        };
        page_list(ask, blob, previous.as_ref()).await
    }

    async fn put_page(&self, ask: &Ask, blob: &Blob, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let (range, when) = (ask.page_range()?, ask.conditions()?);
        let write = ask.header("x-ms-page-write").ok_or_else(|| Failure::missing_header("x-ms-page-write"))?;
        if write.eq_ignore_ascii_case("clear") {
            let blob = blob.clear_pages(range, &when).await?;
            return Ok(reply::written(StatusCode::CREATED, &blob));
        }
        if !write.eq_ignore_ascii_case("update") {
            return Err(Failure::bad_header("x-ms-page-write", write, "It is update or clear."));
        }
        let _turn = self.bodies.acquire().await.map_err(|_| closed())?;
        let data = receive(ask, body.take().unwrap_or_default()).await?;
        let (start, len) = (range.start, range.end - range.start);
        if data.len() as u64 != len {
            let message = format!("The page range specified is invalid: it has {len} bytes, the body {}.", data.len());
            return Err(Failure::new(416, "InvalidPageRange", message));
        }
        let (data, md5) = checked(ask, data).await?;
        let written = blob.write_pages(start, data.bytes, &when).await?;
        let mut response = reply::written(StatusCode::CREATED, &written);
        let headers = response.headers_mut();
        reply::insert(headers, "x-ms-content-crc64", &data.crc64);
        if let Some(md5) = md5 {
            reply::insert(headers, "content-md5", &md5);
        }
        Ok(response)
    }
}

fn closed() -> Failure {
    Failure::new(503, "ServerBusy", "The server is shutting down. Please retry your request.")
}

async fn receive(ask: &Ask, body: Body) -> Result<Bytes, Failure> {
    let limit = usize::try_from(MAX_WRITE).unwrap_or(usize::MAX);
    body::read(&ask.headers, body, limit).await.map_err(|error| match error.status {
        413 => Failure::too_large(MAX_WRITE),
        408 => Failure::new(500, "OperationTimedOut", "The request body did not arrive in time."),
        _ => Failure::new(400, "InvalidInput", "The request body could not be read to its end."),
    })
}

struct Checked {
    bytes: Bytes,
    crc64: String,
}

/// Nothing is written that does not match a checksum the client sent. Gives the MD5 if one was sent.
async fn checked(ask: &Ask, bytes: Bytes) -> Result<(Checked, Option<String>), Failure> {
    let (md5, crc64) = (ask.header("content-md5"), ask.header("x-ms-content-crc64"));
    if let Some(text) = md5.filter(|text| !digest::is_digest(text, 16)) {
        let message = format!("The MD5 value specified in the request is invalid: {text}");
        return Err(Failure::new(400, "InvalidMd5", message));
    }
    if let Some(text) = crc64.filter(|text| !digest::is_digest(text, 8)) {
        return Err(Failure::bad_header("x-ms-content-crc64", text, ""));
    }
    let with_md5 = md5.is_some();
    let compute = move || {
        let found = with_md5.then(|| digest::md5_text(&bytes));
        (Checked { crc64: digest::crc64_text(&bytes), bytes }, found)
    };
    let (data, found) = tokio::task::spawn_blocking(compute).await.map_err(|_| closed())?;
    if found.as_deref() != md5 {
        let message =
            "The MD5 value specified in the request did not match with the MD5 value calculated by the server.";
        return Err(Failure::new(400, "Md5Mismatch", message));
    }
    if crc64.is_some_and(|sent| sent != data.crc64) {
        let message =
            "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.";
        return Err(Failure::new(400, "Crc64Mismatch", message));
    }
    Ok((data, found))
}

/// The blob's properties, if the request's conditions hold.
fn judged(ask: &Ask, blob: &Blob) -> Result<Properties, Failure> {
    let properties = blob.properties()?;
    ask.conditions()?.check_read(&properties)?;
    Ok(properties)
}

async fn get(ask: &Ask, blob: &Blob) -> Result<Reply, Failure> {
    let properties = judged(ask, blob)?;
    let (asked, size) = (ask.range(), properties.size);
    if asked.as_ref().is_some_and(|range| range.start >= size) {
        return Err(Failure::new(
            416,
            "InvalidRange",
            "The range specified is invalid for the current size of the resource.",
        ));
    }
    let range = asked.as_ref().map_or(0..size, |range| range.start..range.end.min(size));
    let len = range.end - range.start;
    let (md5, crc64) = (ask.flag("x-ms-range-get-content-md5"), ask.flag("x-ms-range-get-content-crc64"));
    if (md5 || crc64) && (asked.is_none() || len > MAX_CHECKED) {
        let message = "A checksum is given for a range of at most 4 MiB only.";
        return Err(Failure::bad_header("x-ms-range-get-content-md5", "true", message));
    }
    let mut pieces = Box::pin(blob.read(range.clone()));
    // The first piece decides whether the answer is a failure; later ones can only break it off.
    let first = pieces.next().await.transpose()?.unwrap_or_default();
    let partial = asked.is_some();
    let mut response = empty(if partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK });
    reply::describe(response.headers_mut(), &properties, !partial);
    if partial {
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        reply::insert(response.headers_mut(), "content-range", &text);
    }
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    if md5 || crc64 {
        let mut all = first.to_vec();
        while let Some(piece) = pieces.next().await.transpose()? {
            all.extend_from_slice(&piece);
        }
        reply::digests(response.headers_mut(), &all, md5, crc64);
        *response.body_mut() = Body::from(all);
        return Ok(response);
    }
    let log = |error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a download broke off");
        std::io::Error::other("the disk cannot be read")
    };
    let rest = pieces.map(move |piece| piece.map_err(log));
    *response.body_mut() = Body::from_stream(futures::stream::once(async { Ok(first) }).chain(rest));
    Ok(response)
}

fn properties(ask: &Ask, blob: &Blob) -> Result<Reply, Failure> {
    let properties = judged(ask, blob)?;
    let mut response = empty(StatusCode::OK);
    reply::describe(response.headers_mut(), &properties, true);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(properties.size));
    Ok(response)
}

fn metadata(ask: &Ask, blob: &Blob) -> Result<Reply, Failure> {
    let properties = judged(ask, blob)?;
    let mut response = empty(StatusCode::OK);
    reply::version(response.headers_mut(), &properties);
    reply::metadata(response.headers_mut(), &properties);
    Ok(response)
}

async fn page_list(ask: &Ask, blob: &Blob, previous: Option<&Blob>) -> Result<Reply, Failure> {
    let properties = judged(ask, blob)?;
    let size = properties.size;
    let asked = ask.range().unwrap_or(0..u64::MAX);
    if asked.start >= size {
        return Err(Failure::new(
            416,
            "InvalidRange",
            "The range specified is invalid for the current size of the resource.",
        ));
    }
    let number = |name| {
        let parse = |text: &str| text.parse::<u64>().map_err(|_| Failure::bad_query(name, text));
        ask.query(name).map(parse).transpose()
    };
    let (marker, limit) = (number("marker")?.unwrap_or(0), number("maxresults")?);
    if limit == Some(0) {
        return Err(Failure::bad_query("maxresults", "0"));
    }
    // Whole pages, and the list is the same however it is cut into parts.
    let range = asked.start / 512 * 512..asked.end.min(size).next_multiple_of(512);
    let data = |range: Range<u64>| PageChange { range, cleared: false };
    let mut ranges: Vec<PageChange> = match previous {
        Some(previous) => blob.changes_since(previous, range).await?,
        None => blob.page_ranges(range).await?.into_iter().map(data).collect(),
    };
    ranges.retain(|r| r.range.start >= marker);
    let count = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(ranges.len()).min(ranges.len());
    let (now, later) = ranges.split_at(count);
    let mut response = empty(StatusCode::OK);
    *response.body_mut() = Body::from(reply::page_list(now, later.first().map(|r| r.range.start)));
    reply::version(response.headers_mut(), &properties);
    reply::insert(response.headers_mut(), "content-type", "application/xml");
    reply::insert(response.headers_mut(), "x-ms-blob-content-length", &size.to_string());
    Ok(response)
}

async fn create(ask: &Ask, blob: &Blob) -> Result<Reply, Failure> {
    const LENGTH: &str = "x-ms-blob-content-length";
    let size = ask.number(LENGTH)?.ok_or_else(|| Failure::missing_header(LENGTH))?;
    if ask.header("content-length").is_some_and(|len| len != "0") {
        return Err(Failure::bad_header(
            "Content-Length",
            "",
            "A page blob is created empty; its pages are put later.",
        ));
    }
    let sequence = ask.number("x-ms-blob-sequence-number")?.unwrap_or(0);
    let when = ask.conditions()?;
    let blob = blob.create(size, sequence, ask.content_headers(), ask.metadata(), &when).await?;
    Ok(reply::written(StatusCode::CREATED, &blob))
}

async fn set_properties(ask: &Ask, blob: &Blob) -> Result<Reply, Failure> {
    let (size, action) = (ask.number("x-ms-blob-content-length")?, ask.sequence_action()?);
    let (headers, when) = (ask.content_headers(), ask.conditions()?);
    let only_headers = size.is_none() && action.is_none();
    let mut done = match size {
        Some(size) => blob.resize(size, &when).await?,
        None => blob.properties()?,
    };
    if let Some(action) = action {
        done = blob.set_sequence(action, &if size.is_some() { Default::default() } else { when.clone() }).await?;
    }
    if only_headers {
        done = blob.set_headers(headers, &when).await?;
    }
    Ok(reply::written(StatusCode::OK, &done))
}
