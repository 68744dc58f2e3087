//! Answers of the data plane: XML errors in Azure's words, and the headers that clients read (wire.md §5).

use super::digest;
use crate::respond::{Reply, empty, set};
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use lazuli_engine::blobs::{BlobError, ContentHeaders, PageChange, Properties};
use quick_xml::escape::escape;

/// An error as its client sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// Further elements of the XML, e.g. `("HeaderName", "x-ms-range")`.
    pub details: Vec<(&'static str, String)>,
}

impl Failure {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    pub fn bad_header(name: &'static str, value: &str, hint: &str) -> Self {
        let message = format!("The value for one of the HTTP headers is not in the correct format. {hint}");
        Self::new(400, "InvalidHeaderValue", message.trim_end()).with("HeaderName", name).with("HeaderValue", value)
    }

    pub fn missing_header(name: &'static str) -> Self {
        let message = "An HTTP header that's mandatory for this request is not specified.";
        Self::new(400, "MissingRequiredHeader", message).with("HeaderName", name)
    }

    pub fn bad_query(name: &'static str, value: &str) -> Self {
        let message = "Value for one of the query parameters specified in the request URI is invalid.";
        Self::new(400, "InvalidQueryParameterValue", message)
            .with("QueryParameterName", name)
            .with("QueryParameterValue", value)
    }

    /// Something that storage accounts can, and blobs of managed disks cannot.
    pub fn unsupported(what: &str) -> Self {
        Self::new(400, "UnsupportedOperation", format!("{what} is not supported on the blob of a managed disk."))
    }

    pub fn too_large(limit: u64) -> Self {
        let message = "The request body is too large and exceeds the maximum permissible limit.";
        Self::new(413, "RequestBodyTooLarge", message).with("MaxLimit", limit.to_string())
    }

    pub fn not_signed() -> Self {
        unauthenticated("The URL has no signature (si and sig)".to_owned())
    }
}

pub(super) fn unauthenticated(detail: String) -> Failure {
    let message = "Server failed to authenticate the request. Make sure the value of Authorization header is formed \
                   correctly including the signature.";
    Failure::new(403, "AuthenticationFailed", message).with("AuthenticationErrorDetail", detail)
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        let new = |status, code, message: &str| Failure::new(status, code, message);
        match &error {
            BlobError::Full { .. } | BlobError::Busy { .. } | BlobError::Internal { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "a request for a blob failed");
            }
            _ => tracing::debug!(error = &error as &dyn std::error::Error, "a request for a blob was refused"),
        }
        match error {
            BlobError::Unauthenticated(detail) => unauthenticated(detail.to_owned()),
            BlobError::Expired { expires_ms, now_ms } => {
                let (expiry, current) = (http_date(expires_ms), http_date(now_ms));
                unauthenticated(format!(
                    "Signature not valid in the specified time frame: Expiry [{expiry}] - Current [{current}]"
                ))
            }
            BlobError::IdentityRequired => new(
                401,
                "NoAuthenticationInformation",
                "Server failed to authenticate the request. The disk is exported and uploaded only with a bearer token for \
                 https://disk.azure.com/ besides the URL.",
            ),
            BlobError::NotPermitted { .. } => new(
                403,
                "AuthorizationPermissionMismatch",
                "This request is not authorized to perform this operation using this permission.",
            ),
            BlobError::NoContainer => new(404, "ContainerNotFound", "The specified container does not exist."),
            BlobError::NoBlob => new(404, "BlobNotFound", "The specified blob does not exist."),
            BlobError::ReadOnly => new(
                403,
                "AuthorizationPermissionMismatch",
                "This request is not authorized to perform this operation using this permission.",
            ),
            BlobError::PageRange { start, len, size } => {
                let message = format!(
                    "The page range specified is invalid. {len} bytes at {start} are not whole 512-byte pages of a blob of \
                     {size} bytes."
                );
                Self::new(416, "InvalidPageRange", message)
            }
            BlobError::TooLarge { .. } => Self::too_large(lazuli_engine::blobs::MAX_WRITE),
            BlobError::SizeFixed { expected, asked } => {
                let hint =
                    format!("The upload was announced with {expected} bytes (uploadSizeBytes) and keeps this size.");
                Self::bad_header("x-ms-blob-content-length", &asked.to_string(), &hint)
            }
            BlobError::SizeInvalid { size } => {
                let hint = "The size of a page blob is a multiple of 512 bytes, at most 8 TiB.";
                Self::bad_header("x-ms-blob-content-length", &size.to_string(), hint)
            }
            BlobError::Exists => new(409, "BlobAlreadyExists", "The specified blob already exists."),
            BlobError::ConditionNotMet => {
                new(412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.")
            }
            BlobError::NotModified => {
                new(304, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.")
            }
            BlobError::SequenceNotMet => {
                new(412, "SequenceNumberConditionNotMet", "The sequence number condition specified was not met.")
            }
            BlobError::SequenceInvalid => {
                Self::bad_header("x-ms-blob-sequence-number", "", "It must be between 0 and 2^63 - 1.")
            }
            BlobError::MetadataTooLarge => {
                new(400, "MetadataTooLarge", "The size of the specified metadata exceeds the maximum size permitted.")
            }
            BlobError::NoDifference => new(
                409,
                "PreviousSnapshotOperationNotSupported",
                "Differential Get Page Ranges is not supported on the previous snapshot.",
            ),
            BlobError::PreviousNewer => new(
                400,
                "PreviousSnapshotCannotBeNewer",
                "The prevsnapshot query parameter value cannot be newer than snapshot query parameter value.",
            ),
            BlobError::Full { .. } => new(
                507,
                "InsufficientStorage",
                "The server's storage is full: this write was not completed, earlier ones are unharmed. Free some space on the \
                 server and send it again.",
            ),
            BlobError::Busy { .. } => {
                new(503, "ServerBusy", "The server is currently unable to receive requests. Please retry your request.")
            }
            BlobError::Internal { .. } => {
                new(500, "InternalError", "The server encountered an internal error. Please retry the request.")
            }
        }
    }
}

/// The error's answer; without a body where there is nothing to say (304).
pub(super) fn failure(failure: &Failure, request_id: &str) -> Reply {
    let mut response = empty(StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    response.headers_mut().insert("x-ms-error-code", HeaderValue::from_static(failure.code));
    if failure.status == 304 {
        return response;
    }
    let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.7fZ");
    let message = escape(&failure.message);
    let details: String = failure.details.iter().map(|(n, v)| format!("<{n}>{}</{n}>", escape(v))).collect();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{}</Code><Message>{message}\nRequestId:{request_id}\n\
         Time:{time}</Message>{details}</Error>",
        failure.code
    );
    *response.body_mut() = Body::from(text);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// `Wed, 01 Jul 2026 12:00:00 GMT`.
pub(super) fn http_date(ms: i64) -> String {
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// What tells one version of the blob from another; every answer has it.
pub(super) fn version(headers: &mut HeaderMap, blob: &Properties) {
    set(headers, header::ETAG, &format!("\"{}\"", blob.etag));
    set(headers, header::LAST_MODIFIED, &http_date(blob.modified_ms));
}

/// The answer to a write.
pub(super) fn written(status: StatusCode, blob: &Properties) -> Reply {
    let mut response = empty(status);
    let headers = response.headers_mut();
    version(headers, blob);
    insert(headers, "x-ms-blob-sequence-number", &blob.sequence.to_string());
    insert(headers, "x-ms-request-server-encrypted", "false");
    response
}

/// What Get Blob and Get Blob Properties say. `whole`: the answer is not a part of the blob.
pub(super) fn describe(headers: &mut HeaderMap, blob: &Properties, whole: bool) {
    version(headers, blob);
    let ContentHeaders { content_type, encoding, language, disposition, cache_control, md5 } = &blob.headers;
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
    metadata(headers, blob);
    for (name, value) in [
        ("accept-ranges", "bytes"),
        ("x-ms-blob-type", "PageBlob"),
        ("x-ms-lease-status", "unlocked"),
        ("x-ms-lease-state", "available"),
        ("x-ms-server-encrypted", "false"),
    ] {
        insert(headers, name, value);
    }
    insert(headers, "x-ms-blob-sequence-number", &blob.sequence.to_string());
}

pub(super) fn metadata(headers: &mut HeaderMap, blob: &Properties) {
    for (name, value) in &blob.metadata {
        if let Ok(name) = HeaderName::try_from(format!("x-ms-meta-{name}")) {
            set(headers, name, value);
        }
    }
}

/// Checksums of what was sent or received.
pub(super) fn digests(headers: &mut HeaderMap, data: &[u8], md5: bool, crc64: bool) {
    if md5 {
        insert(headers, "content-md5", &digest::md5_text(data));
    }
    if crc64 {
        insert(headers, "x-ms-content-crc64", &digest::crc64_text(data));
    }
}

pub(super) fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    set(headers, HeaderName::from_static(name), value);
}

/// The body of Get Page Ranges. `next`: the marker of the next part, if the list was asked for in parts.
pub(super) fn page_list(ranges: &[PageChange], next: Option<u64>) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>");
    for PageChange { range, cleared } in ranges {
        let (start, end) = (range.start, range.end - 1);
        let name = if *cleared { "ClearRange" } else { "PageRange" };
        // Writing to a string cannot fail.
        let _ = write!(text, "<{name}><Start>{start}</Start><End>{end}</End></{name}>");
    }
    if let Some(next) = next {
        let _ = write!(text, "<NextMarker>{next}</NextMarker>");
    }
    text.push_str("</PageList>");
    text
}
