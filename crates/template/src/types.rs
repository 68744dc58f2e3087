//! Types of parameters, outputs and arguments of user functions: whether a value is one, and how it is shown.

use crate::eval::{get, type_name};
use crate::template::Template;
use serde_json::Value;
use std::borrow::Cow;

/// `$ref`s that lead to `$ref`s.
const MAX_REFERENCES: usize = 16;
/// Types within types.
const MAX_DEPTH: usize = 32;

const TYPES: &[(&str, &str)] = &[
    ("string", "String"),
    ("securestring", "SecureString"),
    ("int", "Int"),
    ("bool", "Bool"),
    ("object", "Object"),
    ("secureobject", "SecureObject"),
    ("array", "Array"),
];

/// The definition that `{"$ref": "#/definitions/x"}` leads to.
fn resolve<'t>(template: &'t Template, definition: &'t Value) -> Result<&'t Value, String> {
    let mut at = definition;
    for _ in 0..MAX_REFERENCES {
        let Some(reference) = at.get("$ref").and_then(Value::as_str) else { return Ok(at) };
        let found = reference.strip_prefix("#/definitions/").and_then(|name| get(&template.definitions, name));
        at = found.ok_or_else(|| format!("the type '{reference}' is not defined."))?;
    }
    Err("the type refers to itself.".to_owned())
}

/// The type's word in lower case.
fn kind(template: &Template, definition: &Value) -> Result<String, String> {
    let resolved = resolve(template, definition)?;
    match resolved.get("type").and_then(Value::as_str) {
        Some(word) => Ok(word.to_ascii_lowercase()),
        None => Err("the type is missing.".to_owned()),
    }
}

pub(crate) fn check_definition(template: &Template, definition: &Value) -> Result<(), String> {
    if !definition.is_object() {
        return Err("it must be an object with a type.".to_owned());
    }
    let kind = kind(template, definition)?;
    if TYPES.iter().any(|(word, _)| *word == kind) {
        return Ok(());
    }
    let known: Vec<&str> = TYPES.iter().map(|(_, shown)| *shown).collect();
    Err(format!("the type '{kind}' is not one of '{}'.", known.join(", ")))
}

pub(crate) fn is_secure(template: &Template, definition: &Value) -> bool {
    kind(template, definition).is_ok_and(|k| k.starts_with("secure"))
}

/// `String`, `SecureString`, `Int`, …
pub(crate) fn shown_type(template: &Template, definition: &Value) -> String {
    let kind = kind(template, definition).unwrap_or_default();
    TYPES.iter().find(|(word, _)| *word == kind).map_or(kind.clone(), |(_, shown)| (*shown).to_owned())
}

/// Whether a parameter may go without a value.
pub(crate) fn is_nullable(template: &Template, definition: &Value) -> bool {
    let nullable = |d: &Value| d.get("nullable").and_then(Value::as_bool) == Some(true);
    nullable(definition) || resolve(template, definition).is_ok_and(nullable)
}

/// Whether the value is of the type; the error is a sentence for the client. Values of secure types are not repeated in it.
pub(crate) fn check(template: &Template, definition: &Value, value: &Value, name: &str) -> Result<(), String> {
    check_within(template, definition, value, name, 0)
}

fn check_within(
    template: &Template,
    definition: &Value,
    value: &Value,
    name: &str,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("The type of the template parameter '{name}' is nested deeper than {MAX_DEPTH} levels."));
    }
    let resolved = resolve(template, definition).map_err(|why| wrong(name, &why))?;
    if value.is_null() && is_nullable(template, definition) {
        return Ok(());
    }
    let Some(word) = resolved.get("type").and_then(Value::as_str) else { return Ok(()) };
    let word = word.to_ascii_lowercase();
    let expected = match (word.as_str(), value) {
        ("string" | "securestring", Value::String(_))
        | ("int", Value::Number(_))
        | ("bool", Value::Bool(_))
        | ("object" | "secureobject", Value::Object(_))
        | ("array", Value::Array(_)) => None,
        ("string" | "securestring", _) => Some("String, Uri"),
        ("int", _) => Some("Integer"),
        ("bool", _) => Some("Boolean"),
        ("array", _) => Some("Array"),
        _ => Some("Object"),
    };
    if let Some(expected) = expected.or_else(|| (word == "int" && !value.is_i64()).then_some("Integer")) {
        return Err(format!(
            "The provided value for the template parameter '{name}' is not valid. Expected a value of type '{expected}', but \
             received a value of type '{}'. Please see https://aka.ms/arm-create-parameter-file for usage details.",
            type_name(value)
        ));
    }
    check_bounds(resolved, value, name, word.starts_with("secure"))?;
    if resolved != definition {
        check_bounds(definition, value, name, word.starts_with("secure"))?;
    }
    match value {
        Value::Object(_) => check_properties(template, resolved, value, name, depth),
        Value::Array(_) => check_items(template, resolved, value, name, depth),
        _ => Ok(()),
    }
}

fn wrong(name: &str, why: &str) -> String {
    format!("The provided value for the template parameter '{name}' is not valid. {why}")
}

fn check_bounds(definition: &Value, value: &Value, name: &str, secure: bool) -> Result<(), String> {
    if let Some(Value::Array(allowed)) = definition.get("allowedValues") {
        let each = match value {
            Value::Array(items) if !allowed.contains(value) => items.iter().collect(),
            _ => vec![value],
        };
        if let Some(bad) = each.into_iter().find(|v| !allowed.iter().any(|a| same(a, v))) {
            let shown = if secure { Cow::Borrowed("") } else { Cow::Owned(format!(" '{}'", plain(bad))) };
            let allowed: Vec<String> = allowed.iter().map(plain).collect();
            return Err(format!(
                "The provided value{shown} for the template parameter '{name}' is not valid. The value is not part of the allowed \
                 value(s): '{}'.",
                allowed.join(",")
            ));
        }
    }
    let bound = |key: &str| definition.get(key).and_then(Value::as_i64);
    let length = match value {
        Value::String(s) => Some(s.chars().count()),
        Value::Array(items) => Some(items.len()),
        _ => None,
    };
    if let Some(length) = length.and_then(|l| i64::try_from(l).ok()) {
        if let Some(least) = bound("minLength").filter(|least| length < *least) {
            return Err(wrong(name, &format!("Length of the value should be greater than or equal to '{least}'.")));
        }
        if let Some(most) = bound("maxLength").filter(|most| length > *most) {
            return Err(wrong(name, &format!("Length of the value should be less than or equal to '{most}'.")));
        }
    }
    if let Some(number) = value.as_i64() {
        if let Some(least) = bound("minValue").filter(|least| number < *least) {
            return Err(wrong(name, &format!("The value should be greater than or equal to '{least}'.")));
        }
        if let Some(most) = bound("maxValue").filter(|most| number > *most) {
            return Err(wrong(name, &format!("The value should be less than or equal to '{most}'.")));
        }
    }
    Ok(())
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.eq_ignore_ascii_case(b),
        _ => a == b,
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Types of languageVersion 2.0: `properties`, `additionalProperties`.
fn check_properties(
    template: &Template,
    definition: &Value,
    value: &Value,
    name: &str,
    depth: usize,
) -> Result<(), String> {
    let Value::Object(map) = value else { return Ok(()) };
    let declared = definition.get("properties").and_then(Value::as_object);
    for (property, kind) in declared.into_iter().flatten() {
        let path = format!("{name}.{property}");
        match get(map, property) {
            Some(value) => check_within(template, kind, value, &path, depth + 1)?,
            None if is_nullable(template, kind) => {}
            None => return Err(wrong(name, &format!("The property '{property}' is missing."))),
        }
    }
    let more = map.iter().filter(|(key, _)| declared.is_none_or(|d| get(d, key).is_none()));
    match definition.get("additionalProperties") {
        Some(Value::Bool(false)) => match more.map(|(key, _)| key).next() {
            Some(key) => Err(wrong(name, &format!("The property '{key}' is not expected."))),
            None => Ok(()),
        },
        Some(kind @ Value::Object(_)) => {
            for (key, value) in more {
                check_within(template, kind, value, &format!("{name}.{key}"), depth + 1)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Types of languageVersion 2.0: `prefixItems`, `items`.
fn check_items(template: &Template, definition: &Value, value: &Value, name: &str, depth: usize) -> Result<(), String> {
    let Value::Array(items) = value else { return Ok(()) };
    let first = definition.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (index, item) in items.iter().enumerate() {
        let kind = first.get(index).or_else(|| definition.get("items").filter(|k| k.is_object()));
        if let Some(kind) = kind {
            check_within(template, kind, item, &format!("{name}[{index}]"), depth + 1)?;
        }
    }
    Ok(())
}
