//! Requests that are signed with a storage account's key: SharedKey and SharedKeyLite of the Blob service.
//!
//! ```text
//! Authorization: SharedKey ACCOUNT:base64(HMAC-SHA256(key, string-to-sign))
//! ```
//! Clients derive the string-to-sign from the URL that they send to, whatever its form: with the account as host label the
//! resource is `/ACCOUNT/container/blob`, with the account as first path segment `/ACCOUNT/ACCOUNT/container/blob`
//! (azure-storage-blob `_shared/authentication.py`, and likewise the JavaScript and Go clients). So the path is taken as it
//! was sent. Signatures are compared in constant time; a key is never part of an error.
//!
//! Source: "Authorize with Shared Key", versions 2009-09-19 and later.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;

/// How far the request's date may be from the server's, in both directions.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(15);

/// Which of the two strings is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    SharedKey,
    SharedKeyLite,
}

/// An `Authorization` header of one of the two schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credential<'a> {
    pub scheme: Scheme,
    pub account: &'a str,
    /// Base64.
    pub signature: &'a str,
}

/// What is signed of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`
    pub method: &'a str,
    /// The path exactly as it was sent: percent-encoded, with the account's segment where the URL had one.
    pub path: &'a str,
    /// The query as it was sent, without `?`.
    pub query: &'a str,
    /// All headers; names in any letter case.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Why a signed request is not believed. The data plane answers 403 `AuthenticationFailed` to all of them; the text fits
/// `AuthenticationErrorDetail`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedKeyError {
    #[error("The Authorization header is not well formed: it is 'SharedKey account:signature'.")]
    Malformed,
    #[error("The account name of the Authorization header is not the one that the request is sent to.")]
    WrongAccount,
    #[error("The Date header in the request is missing or is no date.")]
    NoDate,
    #[error("Request date header too old: '{date}'. Current: '{now}'.")]
    Skewed { date: String, now: Timestamp },
    #[error(
        "The MAC signature found in the HTTP request '{signature}' is not the same as any computed signature. Server used \
         following string to sign: '{string_to_sign}'."
    )]
    Mismatch { signature: String, string_to_sign: String },
}

/// The credential of an `Authorization` header; `None` for other schemes (`Bearer`).
///
/// # Errors
/// [`SharedKeyError::Malformed`] where it is one of ours without account or signature.
pub fn parse(authorization: &str) -> Option<Result<Credential<'_>, SharedKeyError>> {
    let (scheme, rest) = authorization.trim().split_once(' ').unwrap_or((authorization.trim(), ""));
    let scheme = match scheme {
        s if s.eq_ignore_ascii_case("SharedKey") => Scheme::SharedKey,
        s if s.eq_ignore_ascii_case("SharedKeyLite") => Scheme::SharedKeyLite,
        _ => return None,
    };
    let (account, signature) = rest.trim().split_once(':').unwrap_or_default();
    if account.is_empty() || signature.is_empty() {
        return Some(Err(SharedKeyError::Malformed));
    }
    Some(Ok(Credential { scheme, account, signature }))
}

/// Whether the request is signed with one of the account's keys, by somebody who meant this account, and now.
///
/// `keys` are decoded: the 64 bytes, not their base64.
///
/// # Errors
/// [`SharedKeyError`].
pub fn verify<K: AsRef<[u8]>>(
    credential: &Credential<'_>,
    account: &str,
    request: &Request<'_>,
    keys: &[K],
    now: Timestamp,
) -> Result<(), SharedKeyError> {
    if credential.account != account {
        return Err(SharedKeyError::WrongAccount);
    }
    check_date(request, now)?;
    let texts = [Order::Ordinal, Order::Culture].map(|order| text(credential.scheme, account, request, order));
    let mut found = false;
    for key in keys {
        for text in &texts {
            found |= mac_matches(key.as_ref(), text, credential.signature);
        }
    }
    if found {
        return Ok(());
    }
    let [string_to_sign, _] = texts;
    Err(SharedKeyError::Mismatch { signature: credential.signature.to_owned(), string_to_sign })
}

/// What a client signs.
pub fn string_to_sign(scheme: Scheme, account: &str, request: &Request<'_>) -> String {
    text(scheme, account, request, Order::Ordinal)
}

/// Value of the `Authorization` header.
pub fn authorization(scheme: Scheme, account: &str, request: &Request<'_>, key: &[u8]) -> String {
    let word = match scheme {
        Scheme::SharedKey => "SharedKey",
        Scheme::SharedKeyLite => "SharedKeyLite",
    };
    format!("{word} {account}:{}", mac(key, &string_to_sign(scheme, account, request)))
}

/// Base64 of the HMAC-SHA256 of a text: how storage signs everything.
pub(crate) fn mac(key: &[u8], text: &str) -> String {
    BASE64_STANDARD.encode(mac_bytes(key, text))
}

pub(crate) fn mac_bytes(key: &[u8], text: &str) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

/// In constant time. What is no base64 matches nothing.
pub(crate) fn mac_matches(key: &[u8], text: &str, signature: &str) -> bool {
    let Ok(signature) = BASE64_STANDARD.decode(signature) else {
        return false;
    };
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes(), &signature).is_ok()
}

/// Clients do not agree on how `x-ms-` headers are sorted: some by bytes (Go, .NET), some as the service's culture does
/// (Python, JavaScript). The orders differ only where one name has a dash or a sign that the other has not.
#[derive(Clone, Copy)]
enum Order {
    Ordinal,
    Culture,
}

fn text(scheme: Scheme, account: &str, request: &Request<'_>, order: Order) -> String {
    let dated = header(request, "x-ms-date").is_some();
    // The date is signed where it counts: x-ms-date comes with the other x-ms- headers.
    let date = if dated { String::new() } else { header(request, "date").unwrap_or_default() };
    let plain = |name: &str| header(request, name).unwrap_or_default();
    let headers = canonicalized_headers(request, order);
    match scheme {
        Scheme::SharedKey => {
            let lines = [
                request.method.to_owned(),
                plain("content-encoding"),
                plain("content-language"),
                content_length(request),
                plain("content-md5"),
                plain("content-type"),
                date,
                plain("if-modified-since"),
                plain("if-match"),
                plain("if-none-match"),
                plain("if-unmodified-since"),
                plain("range"),
            ];
            format!("{}\n{headers}/{account}{}{}", lines.join("\n"), root(request.path), query_lines(request.query))
        }
        Scheme::SharedKeyLite => {
            let lines = [request.method.to_owned(), plain("content-md5"), plain("content-type"), date];
            let comp = pairs(request.query).into_iter().find(|(name, _)| name == "comp");
            let comp = comp.map(|(_, value)| format!("?comp={value}")).unwrap_or_default();
            format!("{}\n{headers}/{account}{}{comp}", lines.join("\n"), root(request.path))
        }
    }
}

fn root(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// The header's value; several of one name are joined by commas.
fn header(request: &Request<'_>, name: &str) -> Option<String> {
    let values: Vec<&str> =
        request.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect();
    if values.is_empty() { None } else { Some(values.join(",")) }
}

/// Empty for an empty body, but for versions before 2015-02-21.
fn content_length(request: &Request<'_>) -> String {
    let length = header(request, "content-length").unwrap_or_default();
    let old = header(request, "x-ms-version").is_some_and(|v| v.as_str() < "2015-02-21");
    if length == "0" && !old { String::new() } else { length }
}

/// `name:value\n` of every `x-ms-` header.
fn canonicalized_headers(request: &Request<'_>, order: Order) -> String {
    let lower = request.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
    let mut names: Vec<String> = lower.filter(|name| name.starts_with("x-ms-")).collect();
    names.sort_by_cached_key(|name| match order {
        Order::Ordinal => (name.bytes().map(u16::from).collect(), Vec::new()),
        Order::Culture => culture_key(name),
    });
    names.dedup();
    let line = |name: &String| format!("{name}:{}\n", header(request, name).unwrap_or_default());
    names.iter().map(line).collect()
}

/// Letters after digits after signs; dashes and apostrophes count only where nothing else differs.
fn culture_key(name: &str) -> (Vec<u16>, Vec<u16>) {
    const SIGNS: &str = "!#$%&*.^_`|~+";
    let weight = |c: char| match SIGNS.find(c) {
        Some(place) => u16::try_from(place).unwrap_or(0),
        None => 0x100 + u16::try_from(u32::from(c)).unwrap_or(u16::MAX / 2),
    };
    let ignorable = |c: char| match c {
        '\'' => 1,
        '-' => 2,
        _ => 0,
    };
    let first = name.chars().filter(|c| ignorable(*c) == 0).map(weight).collect();
    (first, name.chars().map(ignorable).collect())
}

/// `\nname:value` of every parameter, sorted by name; several of one name are sorted and joined by commas.
fn query_lines(query: &str) -> String {
    let mut pairs = pairs(query);
    pairs.sort();
    let mut lines = String::new();
    let mut last: Option<&str> = None;
    for (name, value) in &pairs {
        if last == Some(name.as_str()) {
            lines.push(',');
        } else {
            lines.push('\n');
            lines.push_str(name);
            lines.push(':');
        }
        lines.push_str(value);
        last = Some(name);
    }
    lines
}

/// Decoded parameters with names in lower case. A plus sign is a plus sign: no client writes a space that way.
fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name).to_lowercase(), decode(value))
        })
        .collect()
}

fn check_date(request: &Request<'_>, now: Timestamp) -> Result<(), SharedKeyError> {
    let date = header(request, "x-ms-date").or_else(|| header(request, "date")).ok_or(SharedKeyError::NoDate)?;
    let parsed = jiff::fmt::rfc2822::parse(&date).map_err(|_| SharedKeyError::NoDate)?.timestamp();
    if parsed.duration_since(now).abs() > MAX_SKEW {
        return Err(SharedKeyError::Skewed { date, now });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
