//! JSON as Azure's front door reads it: a byte-order mark, comments, trailing commas and names without quotes do no harm
//! (mission CL-5, T5; az sends `template:` so, before a template file's own text).
//!
//! The text is blanked in place (same length, so that positions in errors are those of the client's own text, but behind a
//! name that was given its quotes) and then read by a strict parser.

use crate::ArmError;
use serde::Deserialize;
use serde_json::Value;

/// The body's value; `None` when there is none (nothing but white space, or `null`).
pub fn parse(body: &[u8]) -> Result<Option<Value>, ArmError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(|e| invalid("The content is not valid UTF-8.").caused_by(e))?;
    let strict = quote_names(blank_leniencies(text));
    if strict.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let mut reader = serde_json::Deserializer::from_slice(&strict);
    let mut track = serde_path_to_error::Track::new();
    let value = Value::deserialize(serde_path_to_error::Deserializer::new(&mut reader, &mut track))
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|e| invalid(&describe(&e, &track.path().to_string())).caused_by(e))?;
    Ok((!value.is_null()).then_some(value))
}

/// The body's object; a missing body or another kind of value is an error.
pub fn parse_object(body: &[u8]) -> Result<Value, ArmError> {
    match parse(body)? {
        Some(value) if value.is_object() => Ok(value),
        Some(_) => Err(invalid("The content must be a JSON object. Path '', line 1, position 1.")),
        None => Err(invalid("The content is empty; this request needs a JSON object. Path '', line 1, position 0.")),
    }
}

fn invalid(what: &str) -> ArmError {
    ArmError::bad_request(
        "InvalidRequestContent",
        format!("The request content was invalid and could not be deserialized: '{what}'."),
    )
}

/// `what is wrong. Path 'a.b[0]', line 3, position 7.`
fn describe(error: &serde_json::Error, path: &str) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let path = if path == "." { "" } else { path };
    let mut letters = what.chars();
    let what: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    format!("{what}. Path '{path}', line {}, position {}.", error.line(), error.column())
}

/// Replaces comments and commas before a closing bracket by spaces.
fn blank_leniencies(text: &str) -> Vec<u8> {
    let mut out = text.as_bytes().to_vec();
    // A comma that follows a value and may turn out to be the last of its list.
    let mut comma = None;
    let mut after_value = false;
    let mut i = 0;
    while i < out.len() {
        match out[i] {
            b'"' => {
                i = end_of_string(&out, i);
                (comma, after_value) = (None, true);
                continue;
            }
            b'/' => {
                let end = end_of_comment(&out, i);
                blank(&mut out[i..end]);
                i = end.max(i + 1);
                continue;
            }
            b',' => {
                comma = after_value.then_some(i);
                after_value = false;
            }
            b'}' | b']' => {
                if let Some(at) = comma.take() {
                    out[at] = b' ';
                }
                after_value = true;
            }
            b'{' | b'[' | b':' => (comma, after_value) = (None, false),
            c if c.is_ascii_whitespace() => {}
            _ => (comma, after_value) = (None, true),
        }
        i += 1;
    }
    out
}

/// Gives quotes to the names of an object's fields that have none.
fn quote_names(text: Vec<u8>) -> Vec<u8> {
    let is_letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$');
    let mut out = Vec::with_capacity(text.len());
    // The last byte that was no white space, strings counted as their opening quote.
    let mut before = 0;
    let mut i = 0;
    while i < text.len() {
        let mut end = i + 1;
        if text[i] == b'"' {
            end = end_of_string(&text, i);
        } else if is_letter(&text[i]) {
            end = i + text[i..].iter().take_while(|b| is_letter(b)).count();
            let is_name = matches!(before, b'{' | b',')
                && !text[i].is_ascii_digit()
                && text[end..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':');
            if is_name {
                out.push(b'"');
                out.extend_from_slice(&text[i..end]);
                out.push(b'"');
                (before, i) = (b'"', end);
                continue;
            }
        }
        if !text[i].is_ascii_whitespace() {
            before = text[i];
        }
        out.extend_from_slice(&text[i..end]);
        i = end;
    }
    out
}

/// Index behind the closing quote (or the end of the text).
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while i < text.len() {
        match text[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    text.len()
}

/// Index behind a comment that starts here; `start` itself if none does.
fn end_of_comment(text: &[u8], start: usize) -> usize {
    let rest = &text[start..];
    if rest.starts_with(b"//") {
        return rest.iter().position(|b| *b == b'\n').map_or(text.len(), |n| start + n);
    }
    if rest.starts_with(b"/*") {
        let closing = rest[2..].windows(2).position(|w| w == b"*/");
        return closing.map_or(start, |n| start + 2 + n + 2);
    }
    start
}

/// Line breaks stay, so that line numbers do.
fn blank(bytes: &mut [u8]) {
    for b in bytes.iter_mut().filter(|b| **b != b'\n') {
        *b = b' ';
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn ok(text: &str) -> Value {
        parse(text.as_bytes()).unwrap().unwrap()
    }

    fn message(text: &str) -> String {
        let error = parse_object(text.as_bytes()).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (400, "InvalidRequestContent"));
        error.message
    }

    /// CL-5: the seeds' own request bodies have trailing commas.
    #[test]
    fn accepts_what_azure_accepts() {
        assert_eq!(ok("{\"a\": [1, 2, ], \"b\": {\"c\": null,\n},}"), json!({"a": [1, 2], "b": {"c": null}}));
        assert_eq!(ok("\u{feff}{\"a\": 1}"), json!({"a": 1}));
        assert_eq!(ok("{ // why, not\n \"a\": 1, /* x, */ }"), json!({"a": 1}));
        assert_eq!(
            ok(r#"{"a": "x, ]", "b": "\",}", "u": "http://h/*"}"#),
            json!({"a": "x, ]", "b": "\",}", "u": "http://h/*"})
        );
        // As az puts a template file's text into its request.
        assert_eq!(
            ok(r#"{"a": {"b": 1, template:{"c": [true, "x: {y: 1"]}, $d_2 /* e: */ : 2}}"#),
            json!({"a": {"b": 1, "template": {"c": [true, "x: {y: 1"]}, "$d_2": 2}})
        );
        for empty in ["", "  \r\n", "null", "\u{feff}", "// nothing"] {
            assert_eq!(parse(empty.as_bytes()).unwrap(), None, "{empty:?}");
        }
    }

    #[test]
    fn names_path_line_and_position() {
        let start = "The request content was invalid and could not be deserialized: '";
        let text = message("{\n  \"properties\": {\"regions\": [{\"name\": tru}]}\n}");
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("Path 'properties.regions[0].name', line 2, position"), "{text}");
        assert!(message("").contains("is empty"));
        assert!(message("[1]").contains("must be a JSON object"));
    }

    #[test]
    fn refuses_what_is_broken() {
        let broken = [
            "{",
            "{\"a\"}",
            "{,}",
            "[,]",
            "[1,,]",
            "{\"a\":,}",
            "{\"a\":1}x",
            "{'a':1}",
            "{\"a\":1 /* }",
            "\u{1}",
            "{a b:1}",
            "{\"a\": b:1}",
            "{1a:1}",
            "[a:1]",
        ];
        for text in broken {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"\xff{}").is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err(), "deep nesting is an error, not a crash");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            "[,\\]}\"/*\\\\]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("\\PC{0,6}", inner), 0..5).prop_map(|v| Value::Object(v.into_iter().collect())),
            ]
        })
    }

    /// The same value, written with a trailing comma in every list and object.
    fn with_commas(value: &Value) -> String {
        match value {
            Value::Array(items) => format!("[{}]", items.iter().map(|v| with_commas(v) + " ,").collect::<String>()),
            Value::Object(map) => {
                let one = |(k, v): (&String, &Value)| format!("{}: {},\n", Value::from(k.as_str()), with_commas(v));
                format!("{{{}}}", map.iter().map(one).collect::<String>())
            }
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn strict_json_is_unchanged(value in any_json()) {
            let wrapped = json!([value]);
            prop_assert_eq!(ok(&wrapped.to_string()), wrapped);
        }

        #[test]
        fn trailing_commas_change_nothing(value in any_json()) {
            let wrapped = json!([value]);
            prop_assert_eq!(ok(&with_commas(&wrapped)), wrapped);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{},:\"/*\\\\ a1]{0,40}") {
            let _ = parse(&bytes);
            let _ = parse(text.as_bytes());
        }
    }
}
