//! Answers: bodies, Azure's error envelope, and the headers that every ARM answer carries (wire.md §2).

use crate::context::Context;
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use lazuli_arm::ArmError;
use serde_json::Value;

pub(crate) type Reply = Response<Body>;

/// Of an answer that goes on while something happens.
pub(crate) const EVENTS: &str = "text/event-stream; charset=utf-8";

pub(crate) fn json(status: StatusCode, value: &Value) -> Reply {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The error as the client sees it. Its cause goes to the log and nowhere else.
pub(crate) fn error(error: &ArmError) -> Reply {
    tell(error);
    json(status(error), &error.envelope())
}

/// As [`error`], without the envelope.
pub(crate) fn bare_error(error: &ArmError) -> Reply {
    tell(error);
    json(status(error), &error.to_value())
}

fn status(error: &ArmError) -> StatusCode {
    StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn tell(error: &ArmError) {
    if let Some(cause) = &error.cause {
        let cause = cause.as_ref() as &dyn std::error::Error;
        if error.status >= 500 {
            tracing::error!(code = error.code, error = cause, "request failed");
        } else {
            tracing::debug!(code = error.code, error = cause, "request refused");
        }
    }
}

/// Sets a header from text that may come from outside; text that no header can hold is left out.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-ms-correlation-request-id");
const ROUTING_ID: HeaderName = HeaderName::from_static("x-ms-routing-request-id");

/// What every answer of the management and sign-in endpoints carries.
pub(crate) fn decorate(context: &Context, headers: &mut HeaderMap) {
    for (name, value) in [("cache-control", "no-cache"), ("pragma", "no-cache"), ("expires", "-1")] {
        headers.entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Never under the server's own name: a browser would then refuse plain HTTP of everything else on `localhost`.
    if context.is_azure_host() {
        let strict = HeaderValue::from_static("max-age=31536000; includeSubDomains");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, strict);
    }
    set(headers, REQUEST_ID, &context.request_id);
    set(headers, CORRELATION_ID, &context.correlation_id);
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    set(headers, ROUTING_ID, &format!("LAZULI:{time}:{}", context.correlation_id));
    if let Some(id) = &context.client_request_id {
        set(headers, CLIENT_REQUEST_ID, id);
    }
}

/// The allowance that is left, as Azure writes it. Nothing is throttled yet, so it stays full.
pub(crate) fn rate_limits(method: &Method, headers: &mut HeaderMap) {
    let (name, left) = match *method {
        Method::GET | Method::HEAD => ("x-ms-ratelimit-remaining-subscription-reads", "11999"),
        Method::DELETE => ("x-ms-ratelimit-remaining-subscription-deletes", "14999"),
        _ => ("x-ms-ratelimit-remaining-subscription-writes", "1199"),
    };
    headers.insert(HeaderName::from_static(name), HeaderValue::from_static(left));
}
