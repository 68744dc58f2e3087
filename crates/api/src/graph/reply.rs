//! Graph's answers: errors in OData's envelope, what is empty, what is made.

use crate::context::Context;
use crate::respond::{self, Reply};
use http::{HeaderName, StatusCode};
use lazuli_arm::ArmError;
use lazuli_engine::directory::DirectoryError;
use serde_json::{Value, json};

/// A request that is not answered, as its client is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl Refusal {
    pub fn bad(message: impl Into<String>) -> Self {
        Self { status: 400, code: "BadRequest".to_owned(), message: message.into() }
    }

    /// A path that Graph does not have, or this server does not.
    pub fn segment(segment: &str) -> Self {
        Self::bad(format!("Resource not found for the segment '{segment}'."))
    }

    pub fn method(method: &http::Method) -> Self {
        let message = format!("Specified HTTP method '{method}' is not allowed for the request target.");
        Self { status: 405, code: "Request_BadRequest".to_owned(), message }
    }
}

impl From<DirectoryError> for Refusal {
    fn from(error: DirectoryError) -> Self {
        if let DirectoryError::Failed(failed) = &error
            && failed.status >= 500
        {
            tracing::error!(error = failed as &dyn std::error::Error, "the directory failed");
        }
        Self { status: error.status(), code: error.code().to_owned(), message: error.message() }
    }
}

impl From<ArmError> for Refusal {
    fn from(error: ArmError) -> Self {
        DirectoryError::from(error).into()
    }
}

/// `{"error":{"code","message","innerError":{"date","request-id","client-request-id"}}}`
pub(super) fn refuse(context: &Context, refusal: &Refusal) -> Reply {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let client = context.client_request_id.as_ref().unwrap_or(&context.request_id);
    let body = json!({"error": {
        "code": refusal.code,
        "message": refusal.message,
        "innerError": {"date": date, "request-id": context.request_id, "client-request-id": client},
    }});
    json_reply(context, refusal.status, &body)
}

pub(super) fn json_reply(context: &Context, status: u16, body: &Value) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with_id(context, respond::json(status, body))
}

pub(super) fn no_content(context: &Context) -> Reply {
    with_id(context, respond::empty(StatusCode::NO_CONTENT))
}

fn with_id(context: &Context, mut reply: Reply) -> Reply {
    respond::set(reply.headers_mut(), HeaderName::from_static("request-id"), &context.request_id);
    reply
}
