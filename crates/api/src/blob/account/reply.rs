//! Headers that describe containers and blobs, and the status of every refusal.

use super::super::reply::{Failure, http_date, insert};
use crate::respond::{Reply, empty, set};
use http::{HeaderMap, HeaderName, StatusCode, header};
use lazuli_engine::blobs::ContentHeaders;
use lazuli_engine::storage::{BlobInfo, BlobKind, Code, ContainerInfo, Lease, StorageError};
use std::collections::BTreeMap;

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Refused(code) => Self::new(status_of(code), code.as_str(), code.text()),
            StorageError::Blob(error) => error.into(),
            StorageError::Body(error) => match error.downcast::<super::upload::Refusal>() {
                Ok(refusal) => refusal.0,
                Err(_) => Self::new(400, "InvalidInput", "The request body could not be read to its end."),
            },
        }
    }
}

fn status_of(code: Code) -> u16 {
    use Code as C;
    match code {
        C::BlobNotFound | C::ContainerNotFound | C::CannotVerifyCopySource => 404,
        C::BlobAlreadyExists
        | C::BlockCountExceedsLimit
        | C::ContainerAlreadyExists
        | C::CopyIdMismatch
        | C::InvalidBlobType
        | C::InvalidOperation
        | C::InvalidSourceBlobType
        | C::LeaseAlreadyBroken
        | C::LeaseAlreadyPresent
        | C::LeaseIdMismatchWithLeaseOperation
        | C::LeaseIsBreakingAndCannotBeAcquired
        | C::LeaseIsBreakingAndCannotBeChanged
        | C::LeaseIsBrokenAndCannotBeRenewed
        | C::LeaseNotPresentWithLeaseOperation
        | C::NoPendingCopyOperation
        | C::PendingCopyOperation
        | C::PreviousSnapshotNotFound
        | C::SnapshotsPresent => 409,
        C::AppendPositionConditionNotMet
        | C::LeaseIdMismatchWithBlobOperation
        | C::LeaseIdMismatchWithContainerOperation
        | C::LeaseIdMissing
        | C::LeaseNotPresentWithBlobOperation
        | C::LeaseNotPresentWithContainerOperation
        | C::MaxBlobSizeConditionNotMet
        | C::SourceConditionNotMet => 412,
        C::InvalidRange => 416,
        C::BlockListTooLong
        | C::InvalidBlobOrBlock
        | C::InvalidBlobTier
        | C::InvalidBlockId
        | C::InvalidBlockList
        | C::InvalidInput
        | C::InvalidResourceName
        | C::OutOfRangeInput
        | C::PreviousSnapshotCannotBeNewer => 400,
    }
}

fn versions(headers: &mut HeaderMap, etag: &str, modified_ms: i64) {
    set(headers, header::ETAG, &format!("\"{etag}\""));
    set(headers, header::LAST_MODIFIED, &http_date(modified_ms));
}

/// The answer to a write of a blob.
pub(super) fn written(status: StatusCode, blob: &BlobInfo) -> Reply {
    let mut response = empty(status);
    let headers = response.headers_mut();
    versions(headers, &blob.etag, blob.modified_ms);
    insert(headers, "x-ms-request-server-encrypted", "false");
    if blob.kind == BlobKind::Page {
        insert(headers, "x-ms-blob-sequence-number", &blob.body.sequence.to_string());
    }
    response
}

/// The answer to a write of a container.
pub(super) fn container_written(status: StatusCode, container: &ContainerInfo) -> Reply {
    let mut response = empty(status);
    versions(response.headers_mut(), &container.etag, container.modified_ms);
    response
}

pub(super) fn metadata(headers: &mut HeaderMap, metadata: &BTreeMap<String, String>) {
    for (name, value) in metadata {
        if let Ok(name) = HeaderName::try_from(format!("x-ms-meta-{name}")) {
            set(headers, name, value);
        }
    }
}

fn lease(headers: &mut HeaderMap, lease: &Lease, now_ms: i64) {
    let state = lease.state(now_ms);
    insert(headers, "x-ms-lease-status", if state.is_locked() { "locked" } else { "unlocked" });
    insert(headers, "x-ms-lease-state", state.as_str());
    if let Some(duration) = lease.duration(now_ms) {
        insert(headers, "x-ms-lease-duration", duration);
    }
}

pub(super) fn describe_container(headers: &mut HeaderMap, container: &ContainerInfo) {
    versions(headers, &container.etag, container.modified_ms);
    metadata(headers, &container.body.metadata);
    lease(headers, &container.body.lease, now_ms());
    if let Some(access) = &container.body.public_access {
        insert(headers, "x-ms-blob-public-access", access);
    }
    for (name, value) in [
        ("x-ms-has-immutability-policy", "false"),
        ("x-ms-has-legal-hold", "false"),
        ("x-ms-immutable-storage-with-versioning-enabled", "false"),
        ("x-ms-default-encryption-scope", "$account-encryption-key"),
        ("x-ms-deny-encryption-scope-override", "false"),
    ] {
        insert(headers, name, value);
    }
}

/// What Get Blob and Get Blob Properties say. `whole`: the answer is not a part of the blob.
pub(super) fn describe_blob(headers: &mut HeaderMap, blob: &BlobInfo, default_tier: &str, whole: bool) {
    versions(headers, &blob.etag, blob.modified_ms);
    let ContentHeaders { content_type, encoding, language, disposition, cache_control, md5 } = &blob.body.headers;
    set(headers, header::CONTENT_TYPE, content_type.as_deref().unwrap_or("application/octet-stream"));
    let md5_name = HeaderName::from_static(if whole { "content-md5" } else { "x-ms-blob-content-md5" });
    for (name, value) in [
        (header::CONTENT_ENCODING, encoding),
        (header::CONTENT_LANGUAGE, language),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, cache_control),
        (md5_name, md5),
    ] {
        if let Some(value) = value {
            set(headers, name, value);
        }
    }
    metadata(headers, &blob.body.metadata);
    if blob.snapshot.is_none() {
        lease(headers, &blob.body.lease, now_ms());
    }
    for (name, value) in [
        ("accept-ranges", "bytes"),
        ("x-ms-blob-type", blob.kind.as_str()),
        ("x-ms-creation-time", &http_date(blob.created_ms)),
        ("x-ms-server-encrypted", "false"),
    ] {
        insert(headers, name, value);
    }
    match blob.kind {
        BlobKind::Page => insert(headers, "x-ms-blob-sequence-number", &blob.body.sequence.to_string()),
        BlobKind::Append => {
            insert(headers, "x-ms-blob-committed-block-count", &blob.body.blocks.to_string());
            if blob.body.sealed {
                insert(headers, "x-ms-blob-sealed", "true");
            }
        }
        BlobKind::Block => {
            insert(headers, "x-ms-access-tier", blob.body.tier.as_deref().unwrap_or(default_tier));
            match blob.body.tier_ms {
                Some(at) => insert(headers, "x-ms-access-tier-change-time", &http_date(at)),
                None => insert(headers, "x-ms-access-tier-inferred", "true"),
            }
        }
    }
    copy_state(headers, blob);
}

fn copy_state(headers: &mut HeaderMap, blob: &BlobInfo) {
    let Some(copy) = &blob.body.copy else { return };
    insert(headers, "x-ms-copy-id", &copy.id);
    insert(headers, "x-ms-copy-source", &copy.source);
    insert(headers, "x-ms-copy-status", &copy.status);
    insert(headers, "x-ms-copy-progress", &format!("{}/{}", copy.done, copy.total));
    if let Some(at) = copy.completed_ms {
        insert(headers, "x-ms-copy-completion-time", &http_date(at));
    }
    if let Some(text) = &copy.description {
        insert(headers, "x-ms-copy-status-description", text);
    }
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
