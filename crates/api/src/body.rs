//! Request bodies: read whole up to a limit, never further.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use lazuli_arm::ArmError;
use std::time::Duration;

/// Azure's limit for a management request.
pub(crate) const ARM_LIMIT: usize = 4 * 1024 * 1024;
/// Forms of the token endpoint are small.
pub(crate) const FORM_LIMIT: usize = 64 * 1024;
/// So much of a refused body is read and thrown away, so that a client that only then reads sees the answer.
const DRAIN_LIMIT: usize = 64 * 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// The whole body; 413 when it is longer than `limit` bytes, with no more than `limit` ever held.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ArmError> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let mut body = body;
    if declared.is_some_and(|n| n > limit as u64) {
        // A client that waits for `100 Continue` has sent nothing yet, and need not.
        if !headers.contains_key(header::EXPECT) {
            drain(&mut body).await;
        }
        return Err(too_large(limit));
    }
    let mut held = Vec::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            if let Some(data) = frame.data_ref() {
                if held.len() + data.len() > limit {
                    return Ok(true);
                }
                held.extend_from_slice(data);
            }
        }
        Ok(false)
    };
    let timed_out = |_| ArmError::new(408, "RequestTimeout", "The request body did not arrive in time.");
    let over: Result<bool, ArmError> = tokio::time::timeout(READ_TIMEOUT, reading).await.map_err(timed_out)?;
    if over? {
        drop(held);
        drain(&mut body).await;
        return Err(too_large(limit));
    }
    Ok(held.into())
}

async fn drain(body: &mut Body) {
    let discard = async {
        let mut left = DRAIN_LIMIT;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
                return;
            };
            left = rest;
        }
    };
    // Whoever is slower than this loses the connection instead.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, discard).await;
}

fn broken(error: axum::Error) -> ArmError {
    ArmError::bad_request("InvalidRequestContent", "The request body could not be read to its end.").caused_by(error)
}

fn too_large(limit: usize) -> ArmError {
    ArmError::new(
        413,
        "RequestContentTooLarge",
        format!("The request content is larger than the maximum size of {limit} bytes."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(count: usize) -> Body {
        let chunk = Bytes::from(vec![b'x'; 1024]);
        Body::from_stream(futures::stream::iter((0..count).map(move |_| Ok::<_, std::io::Error>(chunk.clone()))))
    }

    #[tokio::test]
    async fn a_body_at_the_limit_is_read_and_one_above_is_refused() {
        let none = HeaderMap::new();
        assert_eq!(read(&none, chunks(4), 4096).await.unwrap().len(), 4096);
        let error = read(&none, chunks(5), 4096).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (413, "RequestContentTooLarge"));
    }

    #[tokio::test]
    async fn a_declared_length_is_enough_to_refuse() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, "5000".parse().unwrap());
        headers.insert(header::EXPECT, "100-continue".parse().unwrap());
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(&headers, never, 4096).await.unwrap_err().status, 413);
    }
}
