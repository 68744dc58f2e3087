//! A request's body on its way into the engine, with its checksums found as it passes.

use super::super::digest::{self, Running};
use super::super::reply::Failure;
use super::super::request::Ask;
use axum::body::Body;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::header;
use lazuli_engine::storage::Upload;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long the next piece of a body may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a body was not taken; travels through the engine inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub(super) struct Refusal(pub Failure);

/// What was found when the body had passed: its CRC-64.
pub(super) type Found = Arc<OnceLock<String>>;

struct Passing {
    body: Option<BoxStream<'static, Result<bytes::Bytes, axum::Error>>>,
    running: Option<Running>,
    left: u64,
    limit: u64,
    wanted_md5: Option<String>,
    wanted_crc64: Option<String>,
    md5: Arc<OnceLock<String>>,
    crc64: Found,
}

/// The body of a request that may have at most `limit` bytes.
pub(super) fn upload(ask: &Ask, body: Body, limit: u64) -> Result<(Upload, Found), Failure> {
    let length = ask.header(header::CONTENT_LENGTH.as_str()).and_then(|v| v.parse::<u64>().ok());
    let Some(length) = length else {
        return Err(Failure::new(411, "MissingContentLengthHeader", "Content-Length HTTP header was not specified."));
    };
    if length > limit {
        return Err(Failure::too_large(limit));
    }
    let (wanted_md5, wanted_crc64) = wanted(ask)?;
    let (md5, crc64) = (Arc::default(), Found::default());
    let passing = Passing {
        body: Some(body.into_data_stream().boxed()),
        running: Some(Running::new()),
        left: limit,
        limit,
        wanted_md5,
        wanted_crc64,
        md5: Arc::clone(&md5),
        crc64: Arc::clone(&crc64),
    };
    let bytes = stream::unfold(passing, |mut passing| async move {
        let next = passing.next().await.transpose()?;
        if next.is_err() {
            // Nothing follows an error.
            passing.body = None;
        }
        Some((next, passing))
    });
    Ok((Upload { bytes: bytes.boxed(), md5 }, crc64))
}

/// The checksums that the client sent.
fn wanted(ask: &Ask) -> Result<(Option<String>, Option<String>), Failure> {
    let (md5, crc64) = (ask.header("content-md5"), ask.header("x-ms-content-crc64"));
    if let Some(text) = md5.filter(|text| !digest::is_digest(text, 16)) {
        let message = format!("The MD5 value specified in the request is invalid: {text}");
        return Err(Failure::new(400, "InvalidMd5", message));
    }
    if let Some(text) = crc64.filter(|text| !digest::is_digest(text, 8)) {
        return Err(Failure::bad_header("x-ms-content-crc64", text, ""));
    }
    Ok((md5.map(str::to_owned), crc64.map(str::to_owned)))
}

impl Passing {
    async fn next(&mut self) -> io::Result<Option<bytes::Bytes>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let refuse = |failure| io::Error::other(Refusal(failure));
        let piece = tokio::time::timeout(PIECE_TIMEOUT, body.next())
            .await
            .map_err(|_| refuse(Failure::new(500, "OperationTimedOut", "The request body did not arrive in time.")))?;
        match piece {
            Some(Ok(piece)) => {
                self.left =
                    self.left.checked_sub(piece.len() as u64).ok_or_else(|| refuse(Failure::too_large(self.limit)))?;
                if let Some(running) = &mut self.running {
                    running.update(&piece);
                }
                Ok(Some(piece))
            }
            Some(Err(_)) => {
                let message = "The request body could not be read to its end.";
                Err(refuse(Failure::new(400, "InvalidInput", message)))
            }
            None => {
                self.body = None;
                self.end().map_err(refuse)?;
                Ok(None)
            }
        }
    }

    fn end(&mut self) -> Result<(), Failure> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let (md5, crc64) = running.end();
        if self.wanted_md5.as_ref().is_some_and(|wanted| *wanted != md5) {
            let message =
                "The MD5 value specified in the request did not match with the MD5 value calculated by the server.";
            return Err(Failure::new(400, "Md5Mismatch", message));
        }
        if self.wanted_crc64.as_ref().is_some_and(|wanted| *wanted != crc64) {
            let message =
                "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.";
            return Err(Failure::new(400, "Crc64Mismatch", message));
        }
        // Set once: the stream ends once.
        let _ = (self.md5.set(md5), self.crc64.set(crc64));
        Ok(())
    }
}

/// An upload of bytes that are here already.
pub(super) fn from_stream<E>(bytes: impl futures::Stream<Item = Result<bytes::Bytes, E>> + Send + 'static) -> Upload
where
    E: std::error::Error + Send + Sync + 'static,
{
    Upload { bytes: bytes.map(|piece| piece.map_err(io::Error::other)).boxed(), md5: Arc::default() }
}
