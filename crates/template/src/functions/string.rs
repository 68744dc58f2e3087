//! Text. Positions and lengths count UTF-16 units in Azure; here they count characters, which differs only beyond the
//! basic plane.

use super::{Args, Function, invalid, pure, text_of};
use crate::eval::{Eval, Evaluator};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

pub(super) const TABLE: &[Function] = &[
    pure("base64", 1, 1, base64),
    pure("base64ToJson", 1, 1, base64_to_json),
    pure("base64ToString", 1, 1, base64_to_string),
    pure("buildUri", 1, 1, build_uri),
    pure("dataUri", 1, 1, data_uri),
    pure("dataUriToString", 1, 1, data_uri_to_string),
    pure("endsWith", 2, 2, ends_with),
    pure("fail", 1, 1, fail),
    pure("join", 2, 2, join),
    pure("padLeft", 2, 3, pad_left),
    pure("parseUri", 1, 1, parse_uri),
    pure("replace", 3, 3, replace),
    pure("split", 2, 2, split),
    pure("startsWith", 2, 2, starts_with),
    pure("string", 1, 1, string),
    pure("substring", 2, 3, substring),
    pure("toLower", 1, 1, |f, v, _| Ok(args(f, &v).str(0)?.to_lowercase().into())),
    pure("toUpper", 1, 1, |f, v, _| Ok(args(f, &v).str(0)?.to_uppercase().into())),
    pure("trim", 1, 1, |f, v, _| Ok(args(f, &v).str(0)?.trim().into())),
    pure("uri", 2, 2, uri),
    pure("uriComponent", 1, 1, uri_component),
    pure("uriComponentToString", 1, 1, uri_component_to_string),
];

/// The longest text that padding may make.
const MAX_PADDED: i64 = 16_384;

/// What RFC 3986 leaves as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn args<'v>(function: &'v str, values: &'v [Value]) -> Args<'v> {
    Args { function, values }
}

fn base64(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    Ok(STANDARD.encode(args(f, &v).str(0)?).into())
}

fn decoded(f: &str, text: &str) -> Eval<String> {
    match STANDARD.decode(text.trim()).ok().and_then(|b| String::from_utf8(b).ok()) {
        Some(text) => Ok(text),
        None => invalid(f, "The provided value is not the base64 encoding of a text."),
    }
}

fn base64_to_string(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    decoded(f, args(f, &v).str(0)?).map(Value::from)
}

fn base64_to_json(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let text = decoded(f, args(f, &v).str(0)?)?;
    serde_json::from_str(&text).or_else(|_| invalid(f, "The decoded value is not JSON."))
}

fn data_uri(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    Ok(format!("data:text/plain;charset=utf8;base64,{}", STANDARD.encode(args(f, &v).str(0)?)).into())
}

fn data_uri_to_string(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let text = args(f, &v).str(0)?;
    let Some((head, data)) = text.strip_prefix("data:").and_then(|t| t.split_once(',')) else {
        return invalid(f, "The provided value is not a data URI.");
    };
    if head.ends_with(";base64") {
        return decoded(f, data).map(Value::from);
    }
    Ok(percent_decode_str(data).decode_utf8_lossy().into_owned().into())
}

fn ends_with(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    Ok(a.str(0)?.to_lowercase().ends_with(&a.str(1)?.to_lowercase()).into())
}

fn starts_with(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    Ok(a.str(0)?.to_lowercase().starts_with(&a.str(1)?.to_lowercase()).into())
}

fn fail(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let why = args(f, &v).str(0)?.to_owned();
    invalid(f, &why)
}

fn join(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    let delimiter = a.str(1)?;
    let parts: Vec<String> = a.array(0)?.iter().map(text_of).collect();
    e.charge_text(parts.iter().map(|p| p.len() + delimiter.len()).sum())?;
    Ok(parts.join(delimiter).into())
}

fn pad_left(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    let text = match &v[0] {
        Value::String(_) | Value::Number(_) => text_of(&v[0]),
        _ => return a.wrong(0, "a string or an integer"),
    };
    let wanted = a.int(1)?;
    if !(0..=MAX_PADDED).contains(&wanted) {
        return invalid(f, &format!("The length must be between 0 and {MAX_PADDED}."));
    }
    let padding = if v.len() > 2 { a.str(2)? } else { " " };
    if padding.chars().count() != 1 {
        return a.wrong(2, "a single character");
    }
    let more = usize::try_from(wanted).unwrap_or(0).saturating_sub(text.chars().count());
    Ok((padding.repeat(more) + &text).into())
}

fn replace(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    let (text, old, new) = (a.str(0)?, a.str(1)?, a.str(2)?);
    if old.is_empty() {
        return invalid(f, "The text to be replaced must not be empty.");
    }
    e.charge_text(text.len() + text.matches(old).count() * new.len())?;
    Ok(text.replace(old, new).into())
}

fn split(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    let text = a.str(0)?;
    let delimiters: Vec<&str> = match &v[1] {
        Value::String(one) => vec![one],
        Value::Array(some) if some.iter().all(Value::is_string) => some.iter().filter_map(Value::as_str).collect(),
        _ => return a.wrong(1, "a string or an array of strings"),
    };
    let delimiters: Vec<&str> = delimiters.into_iter().filter(|d| !d.is_empty()).collect();
    e.charge_text(text.len() * 16 + text.len() * delimiters.len())?;
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        match delimiters.iter().filter(|d| text[at..].starts_with(**d)).max_by_key(|d| d.len()) {
            Some(delimiter) => {
                parts.push(Value::from(&text[start..at]));
                at += delimiter.len();
                start = at;
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    parts.push(Value::from(&text[start..]));
    Ok(parts.into())
}

fn string(_: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    Ok(text_of(&v[0]).into())
}

fn substring(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    let text = a.str(0)?;
    let count = text.chars().count();
    let start = usize::try_from(a.int(1)?).ok().filter(|s| *s <= count);
    let Some(start) = start else {
        return invalid(f, "The start index must refer to a location within the string.");
    };
    let length = if v.len() > 2 { usize::try_from(a.int(2)?).ok() } else { Some(count - start) };
    match length.filter(|l| *l <= count - start) {
        Some(length) => Ok(text.chars().skip(start).take(length).collect::<String>().into()),
        None => invalid(
            f,
            &format!(
                "The index and length parameters must refer to a location within the string. The index parameter: '{start}', the \
                 length parameter: '{}', the length of the string parameter: '{count}'.",
                v.get(2).unwrap_or(&Value::Null)
            ),
        ),
    }
}

fn uri(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    let (base, relative) = (a.str(0)?, a.str(1)?);
    match url::Url::parse(base).ok().and_then(|b| b.join(relative).ok()) {
        Some(uri) => Ok(uri.to_string().into()),
        None => invalid(f, &format!("'{base}' is not an absolute URI, or '{relative}' no relative one.")),
    }
}

fn uri_component(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    Ok(utf8_percent_encode(args(f, &v).str(0)?, RESERVED).to_string().into())
}

fn uri_component_to_string(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    Ok(percent_decode_str(args(f, &v).str(0)?).decode_utf8_lossy().into_owned().into())
}

/// `{scheme, host, port, path, query}`.
fn parse_uri(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let text = args(f, &v).str(0)?;
    let Ok(uri) = url::Url::parse(text) else { return invalid(f, &format!("'{text}' is not an absolute URI.")) };
    Ok(serde_json::json!({
        "scheme": uri.scheme(), "host": uri.host_str(), "port": uri.port(), "path": uri.path(),
        "query": uri.query().map_or_else(String::new, |q| format!("?{q}")),
    }))
}

fn build_uri(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = args(f, &v);
    let parts = a.object(0)?;
    let text = |name: &str| crate::eval::get(parts, name).filter(|v| !v.is_null()).map(text_of).unwrap_or_default();
    let (scheme, host) = (text("scheme"), text("host"));
    if scheme.is_empty() || host.is_empty() {
        return invalid(f, "The object needs a scheme and a host.");
    }
    let port = Some(text("port")).filter(|p| !p.is_empty()).map(|p| format!(":{p}")).unwrap_or_default();
    let slash = |c: &str, t: String| if t.is_empty() || t.starts_with(c) { t } else { format!("{c}{t}") };
    Ok(format!("{scheme}://{host}{port}{}{}", slash("/", text("path")), slash("?", text("query"))).into())
}
