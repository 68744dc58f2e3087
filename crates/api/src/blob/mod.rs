//! The blob data plane: requests for storage accounts and for the disks' SAS URLs.
//!
//! The edge finds the account (host label or first path segment) and hands the request over as it is, body unread.
//! Bearer tokens are checked here; shared keys and SAS are the data plane's own matter.

mod account;
mod digest;
mod disks;
mod reply;
mod request;

pub use account::StoragePlane;
pub use disks::DiskPlane;

use crate::respond::{Reply, empty};
use async_trait::async_trait;
use axum::body::Body;
use http::{HeaderValue, Request, StatusCode, header};
use lazuli_arm::ArmError;
use lazuli_engine::call::Caller;

/// A request to a storage account.
#[derive(Debug)]
pub struct BlobRequest {
    /// In lower case: `account`, `md-impexp-x` or `md-x.z01`.
    pub account: String,
    /// Below the account, percent-encoded as sent, beginning with `/`.
    pub path: String,
    /// Whether the account was the first path segment.
    pub path_style: bool,
    /// `https://host[:port]` by which the client reached the server.
    pub base: String,
    /// For logs and `x-ms-request-id`.
    pub request_id: String,
    pub bearer: Bearer,
    pub request: Request<Body>,
}

/// What the request's bearer token says.
#[derive(Debug)]
pub enum Bearer {
    /// There is none: a SAS, a shared key, or nobody.
    Absent,
    /// A token for storage, of a principal that exists.
    Caller(Caller),
    /// To be answered with 401.
    Refused(ArmError),
}

/// Serves storage accounts.
#[async_trait]
pub trait BlobPlane: Send + Sync + 'static {
    async fn handle(&self, request: BlobRequest) -> http::Response<Body>;
}

/// The answer where no data plane is configured: there is no such account.
pub(crate) fn no_such_account(request_id: &str) -> Reply {
    let text = "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>ResourceNotFound</Code>\
                <Message>The specified resource does not exist.</Message></Error>";
    let mut response = empty(StatusCode::NOT_FOUND);
    *response.body_mut() = Body::from(text);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response.headers_mut().insert("x-ms-error-code", HeaderValue::from_static("ResourceNotFound"));
    crate::respond::set(response.headers_mut(), "x-ms-request-id".parse().expect("a header name"), request_id);
    response
}
