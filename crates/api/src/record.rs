//! Writes every exchange with the management endpoint to a file, for tools that check traffic against Azure's contract.
//!
//! One JSON object a line: `{"method","url","requestBody","status","headers","body"}`, bodies `null` where there are
//! none, header names in lower case, of the answer only. What opens a door never gets into the file: request headers
//! (tokens) are not written at all, and in bodies and URLs passwords, keys, custom data and signatures are replaced.
//! A line that cannot be written is told in the log; the client's request goes on. Streams of events are not written.

use crate::context::Context;
use crate::respond::{self, Reply};
use axum::body::{Body, Bytes};
use http::{HeaderMap, Response, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What stands in the place of a secret.
const HIDDEN: &str = "REDACTED";
/// Names of properties that hold secrets, in lower case.
const SECRET_NAMES: [&str; 9] = [
    "accesssas",
    "adminpassword",
    "connectionstring",
    "customdata",
    "password",
    "protectedsettings",
    "secret",
    "securitydataaccesssas",
    "userdata",
];
/// Actions whose answers hold keys, in lower case.
const KEY_ACTIONS: [&str; 2] = ["listkeys", "regeneratekey"];

/// The file that exchanges are written to.
#[derive(Debug)]
pub(crate) struct Recorder(Mutex<File>);

impl Recorder {
    /// Appends to what is there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(File::options().create(true).append(true).open(path)?)))
    }

    /// Writes one exchange and gives the answer back.
    pub(crate) async fn exchange(&self, context: &Context, request: &[u8], response: Reply) -> Reply {
        if response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == respond::EVENTS) {
            return response;
        }
        let (parts, body) = response.into_parts();
        // Management answers are held in memory anyway.
        let bytes = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                tracing::warn!(%error, "an answer cannot be recorded");
                Bytes::new()
            }
        };
        let line = line(context, request, parts.status.as_u16(), &parts.headers, &bytes).to_string() + "\n";
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, "an exchange cannot be recorded");
        }
        Response::from_parts(parts, Body::from(bytes))
    }
}

fn line(context: &Context, request: &[u8], status: u16, headers: &HeaderMap, answer: &[u8]) -> Value {
    let mut url = format!("{}{}", context.base, context.raw_path);
    if !context.raw_query.is_empty() {
        url = format!("{url}?{}", context.raw_query);
    }
    let keys = context.segments().last().is_some_and(|s| KEY_ACTIONS.iter().any(|a| s.eq_ignore_ascii_case(a)));
    let headers: serde_json::Map<String, Value> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), json!(without_signature(value.to_str().ok()?)))))
        .collect();
    json!({
        "method": context.method.as_str(),
        "url": without_signature(&url),
        "requestBody": body(request, false),
        "status": status,
        "headers": headers,
        "body": body(answer, keys),
    })
}

/// A body without its secrets; text that is no JSON stays text.
fn body(bytes: &[u8], keys: bool) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    let text = || Value::String(String::from_utf8_lossy(bytes).into());
    let mut value = lazuli_arm::lenient_json::parse(bytes).map_or_else(|_| text(), Option::unwrap_or_default);
    hide(&mut value, keys);
    value
}

fn hide(value: &mut Value, keys: bool) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let name = name.to_ascii_lowercase();
                let secret = SECRET_NAMES.contains(&name.as_str()) || (keys && name == "value" && inner.is_string());
                if secret && !inner.is_null() {
                    *inner = Value::String(HIDDEN.to_owned());
                } else {
                    hide(inner, keys);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, keys)),
        Value::String(text) => *text = without_signature(text),
        _ => {}
    }
}

/// The text with the value of every `sig=` replaced.
fn without_signature(text: &str) -> String {
    let mut parts = text.split("sig=");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.find('&').map_or("", |end| &part[end..]);
        out = format!("{out}sig={HIDDEN}{rest}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced_wherever_they_stand() {
        let sent = br#"{"properties":{"osProfile":{"AdminPassword":"p","customData":"c"},"uri":"https://h/b?sv=1&sig=x%3D&se=2"}}"#;
        let text = body(sent, false).to_string();
        assert!(!text.contains("\"p\"") && !text.contains("\"c\"") && !text.contains("x%3D"), "{text}");
        assert!(text.contains("sv=1&sig=REDACTED&se=2"), "{text}");
        let keys = body(br#"{"keys":[{"keyName":"key1","value":"k","permissions":"FULL"}]}"#, true);
        assert_eq!(keys["keys"][0], json!({"keyName": "key1", "value": HIDDEN, "permissions": "FULL"}));
        assert_eq!(body(br#"{"value":[{"name":"n"}]}"#, true)["value"][0]["name"], "n");
    }
}
