//! Reading blobs, and what all kinds of them have in common.

use super::super::reply::{Failure, digests, insert};
use super::container::{lease_action, lease_headers, lease_status};
use super::reply::{describe_blob, metadata, written};
use super::service::xml as xml_reply;
use super::{Planned, xml};
use crate::respond::{Reply, empty, set};
use axum::body::Body;
use futures::StreamExt;
use http::{HeaderValue, StatusCode, header};
use lazuli_engine::storage::{Access, DeleteSnapshots};
use std::ops::Range;

/// Checksums of a range are given up to this length, as in Azure.
const MAX_CHECKED: u64 = 4 << 20;
const TIERS: [&str; 15] =
    ["Hot", "Cool", "Cold", "Archive", "Premium", "P4", "P6", "P10", "P15", "P20", "P30", "P40", "P50", "P60", "P70"];

impl Planned<'_> {
    pub(super) async fn get_blob(&self) -> Result<Reply, Failure> {
        let opened = self.storage().open(&self.place(), &self.access()?).await?;
        let size = opened.info.size;
        let asked = self.ask.range();
        if asked.as_ref().is_some_and(|range| range.start >= size) {
            return Err(out_of_range());
        }
        let range = asked.as_ref().map_or(0..size, |range| range.start..range.end.min(size));
        let len = range.end - range.start;
        let (md5, crc64) = (self.ask.flag("x-ms-range-get-content-md5"), self.ask.flag("x-ms-range-get-content-crc64"));
        if (md5 || crc64) && (asked.is_none() || len > MAX_CHECKED) {
            let message = "A checksum is given for a range of at most 4 MiB only.";
            return Err(Failure::bad_header("x-ms-range-get-content-md5", "true", message));
        }
        let mut pieces = Box::pin(opened.read(range.clone()));
        // The first piece decides whether the answer is a failure; later ones can only break it off.
        let first = pieces.next().await.transpose()?.unwrap_or_default();
        let partial = asked.is_some();
        let mut response = empty(if partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK });
        let headers = response.headers_mut();
        describe_blob(headers, &opened.info, self.default_tier(), !partial);
        if partial {
            insert(headers, "content-range", &format!("bytes {}-{}/{size}", range.start, range.end - 1));
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        if md5 || crc64 {
            let mut all = first.to_vec();
            while let Some(piece) = pieces.next().await.transpose()? {
                all.extend_from_slice(&piece);
            }
            digests(headers, &all, md5, crc64);
            *response.body_mut() = Body::from(all);
            return Ok(response);
        }
        let log = |error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a download broke off");
            std::io::Error::other("the blob cannot be read")
        };
        let rest = pieces.map(move |piece| piece.map_err(log));
        *response.body_mut() = Body::from_stream(futures::stream::once(async { Ok(first) }).chain(rest));
        Ok(response)
    }

    pub(super) async fn head_blob(&self) -> Result<Reply, Failure> {
        let blob = self.storage().properties(&self.place(), &self.access()?).await?;
        let mut response = empty(StatusCode::OK);
        describe_blob(response.headers_mut(), &blob, self.default_tier(), true);
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(blob.size));
        Ok(response)
    }

    pub(super) async fn get_metadata(&self) -> Result<Reply, Failure> {
        let blob = self.storage().properties(&self.place(), &self.access()?).await?;
        let mut response = written(StatusCode::OK, &blob);
        metadata(response.headers_mut(), &blob.body.metadata);
        Ok(response)
    }

    pub(super) async fn set_properties(&self) -> Result<Reply, Failure> {
        let (at, access, ask) = (self.place(), self.access()?, self.ask);
        let (size, action) = (ask.number("x-ms-blob-content-length")?, ask.sequence_action()?);
        // Only the first of several changes finds the blob as the conditions want it.
        let later = Access { conditions: Default::default(), lease: access.lease.clone() };
        let done = match (size, action) {
            (Some(size), Some(action)) => {
                self.storage().resize(&at, size, &access).await?;
                self.storage().set_sequence(&at, action, &later).await?
            }
            (Some(size), None) => self.storage().resize(&at, size, &access).await?,
            (None, Some(action)) => self.storage().set_sequence(&at, action, &access).await?,
            (None, None) => self.storage().set_headers(&at, ask.content_headers(), &access).await?,
        };
        Ok(written(StatusCode::OK, &done))
    }

    pub(super) async fn set_metadata(&self) -> Result<Reply, Failure> {
        let done = self.storage().set_metadata(&self.place(), self.ask.metadata(), &self.access()?).await?;
        Ok(written(StatusCode::OK, &done))
    }

    pub(super) async fn set_tier(&self) -> Result<Reply, Failure> {
        let tier = self.tier()?.ok_or_else(|| Failure::missing_header("x-ms-access-tier"))?;
        self.storage().set_tier(&self.place(), &tier, &self.access()?).await?;
        Ok(empty(StatusCode::OK))
    }

    /// Of a request that makes a blob or moves it between tiers.
    pub(super) fn tier(&self) -> Result<Option<String>, Failure> {
        let Some(text) = self.ask.header("x-ms-access-tier") else { return Ok(None) };
        match TIERS.iter().find(|tier| tier.eq_ignore_ascii_case(text)) {
            // A blob in the archive could not be read: nothing here is that cold.
            Some(&"Archive") => {
                let message = "This server has no archive: blobs can be Hot, Cool or Cold.";
                Err(Failure::new(400, "InvalidBlobTier", message))
            }
            Some(tier) => Ok(Some((*tier).to_owned())),
            None => Err(Failure::bad_header("x-ms-access-tier", text, "")),
        }
    }

    pub(super) async fn snapshot(&self) -> Result<Reply, Failure> {
        let metadata = Some(self.ask.metadata()).filter(|m| !m.is_empty());
        let (time, blob) = self.storage().snapshot(&self.place(), metadata, &self.access()?).await?;
        let mut response = written(StatusCode::CREATED, &blob);
        insert(response.headers_mut(), "x-ms-snapshot", &time);
        Ok(response)
    }

    pub(super) async fn delete_blob(&self) -> Result<Reply, Failure> {
        const SNAPSHOTS: &str = "x-ms-delete-snapshots";
        let snapshots = match self.ask.header(SNAPSHOTS) {
            None => DeleteSnapshots::Refuse,
            Some(text) if text.eq_ignore_ascii_case("include") => DeleteSnapshots::Include,
            Some(text) if text.eq_ignore_ascii_case("only") => DeleteSnapshots::Only,
            Some(text) => return Err(Failure::bad_header(SNAPSHOTS, text, "It is include or only.")),
        };
        self.storage().delete(&self.place(), snapshots, &self.access()?).await?;
        let mut response = empty(StatusCode::ACCEPTED);
        insert(response.headers_mut(), "x-ms-delete-type-permanent", "true");
        Ok(response)
    }

    pub(super) async fn lease_blob(&self) -> Result<Reply, Failure> {
        let action = lease_action(self.ask)?;
        let access = Access { conditions: self.ask.conditions()?, lease: None };
        let (blob, id, seconds) = self.storage().lease(&self.place(), &action, &access).await?;
        let mut response = empty(lease_status(&action));
        let headers = response.headers_mut();
        set(headers, header::ETAG, &format!("\"{}\"", blob.etag));
        set(headers, header::LAST_MODIFIED, &super::super::reply::http_date(blob.modified_ms));
        lease_headers(headers, &action, id, seconds);
        Ok(response)
    }

    pub(super) async fn page_list(&self) -> Result<Reply, Failure> {
        let range = self.ask.range().unwrap_or(0..u64::MAX);
        let number = |name| {
            let parse = |text: &str| text.parse::<u64>().map_err(|_| Failure::bad_query(name, text));
            self.ask.query(name).map(parse).transpose()
        };
        let (marker, limit) = (number("marker")?.unwrap_or(0), number("maxresults")?);
        if limit == Some(0) {
            return Err(Failure::bad_query("maxresults", "0"));
        }
        let whole: Range<u64> = range.start / 512 * 512..range.end.checked_next_multiple_of(512).unwrap_or(u64::MAX);
        let since = self.ask.query("prevsnapshot");
        let found = self.storage().page_ranges(&self.place(), whole, since, &self.access()?).await?;
        let max = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let mut response = xml_reply(StatusCode::OK, xml::page_list(&found, marker, max));
        let headers = response.headers_mut();
        headers.extend(written(StatusCode::OK, &found.blob).headers().clone());
        insert(headers, "x-ms-blob-content-length", &found.blob.size.to_string());
        Ok(response)
    }

    pub(super) async fn get_block_list(&self) -> Result<Reply, Failure> {
        let which = self.ask.query("blocklisttype").unwrap_or("committed").to_ascii_lowercase();
        let (committed, uncommitted) = match which.as_str() {
            "committed" => (true, false),
            "uncommitted" => (false, true),
            "all" => (true, true),
            other => return Err(Failure::bad_query("blocklisttype", other)),
        };
        let lists = self.storage().block_lists(&self.place(), self.ask.header("x-ms-lease-id")).await?;
        let text = xml::block_list(
            committed.then_some(lists.committed.as_slice()),
            uncommitted.then_some(lists.uncommitted.as_slice()),
        );
        let mut response = xml_reply(StatusCode::OK, text);
        let headers = response.headers_mut();
        if let Some(blob) = &lists.blob {
            headers.extend(written(StatusCode::OK, blob).headers().clone());
        }
        let size = lists.blob.as_ref().map_or(0, |blob| blob.size);
        insert(headers, "x-ms-blob-content-length", &size.to_string());
        Ok(response)
    }
}

pub(super) fn out_of_range() -> Failure {
    Failure::new(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
}
