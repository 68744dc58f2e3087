//! Which properties an object may be given, and in which form. What is not in a table is refused: nothing is dropped in silence.

use super::DirectoryError;
use serde_json::{Map, Value};

/// The form of a property's value; `null` is taken everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Texts,
    Bool,
    Object,
    Objects,
    /// Known to Graph and without any effect here: only empty values are taken, such as SDKs send for what is not set.
    Unset,
}

pub(super) type Table = &'static [(&'static str, Form)];

const MAX_TEXT: usize = 4096;
const MAX_ITEMS: usize = 1000;

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|t| t.len() <= MAX_TEXT && !t.contains('\0'))
}

impl Form {
    fn fits(self, value: &Value) -> bool {
        let items = |fits: fn(&Value) -> bool| {
            value.as_array().is_some_and(|all| all.len() <= MAX_ITEMS && all.iter().all(fits))
        };
        value.is_null()
            || match self {
                Self::Text => is_text(value),
                Self::Texts => items(is_text),
                Self::Bool => value.is_boolean(),
                Self::Object => value.is_object(),
                Self::Objects => items(Value::is_object),
                Self::Unset => is_empty(value),
            }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

/// The properties of a body, each of which the table knows. Annotations (`…@odata.…`) are the caller's.
pub(super) fn take(body: &Value, table: Table, resource: &str) -> Result<Map<String, Value>, DirectoryError> {
    let given = body.as_object().ok_or_else(|| DirectoryError::bad("The request body must be a JSON object."))?;
    let mut taken = Map::new();
    for (name, value) in given.iter().filter(|(name, _)| !name.contains('@')) {
        let Some((_, form)) = table.iter().find(|(known, _)| known == name) else {
            return Err(DirectoryError::bad(format!("Invalid property '{name}'.")));
        };
        if !form.fits(value) {
            return Err(match form {
                Form::Unset => DirectoryError::bad(format!(
                    "The property '{name}' of resource '{resource}' is not supported by this server."
                )),
                _ => DirectoryError::invalid(name, resource),
            });
        }
        taken.insert(name.clone(), value.clone());
    }
    Ok(taken)
}

/// Changes `into` by what is given: `null` takes a property away, objects are merged, all else is replaced.
pub(super) fn merge(into: &mut Value, given: &Map<String, Value>) {
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Some(fields) = into.as_object_mut() else { return };
    for (name, value) in given {
        match value {
            Value::Null => {
                fields.remove(name);
            }
            Value::Object(inner) => merge(fields.entry(name.clone()).or_insert(Value::Null), inner),
            other => {
                fields.insert(name.clone(), other.clone());
            }
        }
    }
}

/// A display name that is given: of one to 256 characters.
pub(super) fn display_name(given: &Map<String, Value>, resource: &str) -> Result<Option<String>, DirectoryError> {
    let Some(value) = given.get("displayName") else { return Ok(None) };
    let name = value.as_str().map(str::trim).unwrap_or_default();
    let plain = !name.chars().any(char::is_control);
    if name.is_empty() || name.chars().count() > 256 || !plain {
        return Err(DirectoryError::invalid("displayName", resource));
    }
    Ok(Some(name.to_owned()))
}

/// The ids in `{relation}@odata.bind`, whose items are addresses of objects.
pub(super) fn bound(body: &Value, relation: &str) -> Result<Option<Vec<String>>, DirectoryError> {
    let field = format!("{relation}@odata.bind");
    let Some(value) = body.get(&field) else { return Ok(None) };
    let items = value.as_array().filter(|items| items.len() <= MAX_ITEMS);
    let ids: Option<Vec<String>> =
        items.and_then(|items| items.iter().map(|i| i.as_str().and_then(referenced)).collect());
    ids.map(Some).ok_or_else(|| DirectoryError::bad(format!("The value of '{field}' is invalid.")))
}

/// The id in an address such as `https://graph.microsoft.com/v1.0/directoryObjects/{id}` (or `…/directoryObjects('{id}')`).
pub(super) fn referenced(address: &str) -> Option<String> {
    let last = address.trim_end_matches('/').rsplit('/').next()?;
    let id = match last.split_once("('") {
        Some((_, rest)) => rest.strip_suffix("')")?,
        None => last,
    };
    uuid::Uuid::parse_str(id).ok().map(|id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TABLE: Table = &[
        ("a", Form::Text),
        ("b", Form::Texts),
        ("c", Form::Bool),
        ("d", Form::Object),
        ("e", Form::Objects),
        ("f", Form::Unset),
    ];

    #[test]
    fn what_the_table_does_not_know_is_refused() {
        let take = |body: Value| take(&body, TABLE, "User").map_err(|e| e.message());
        let good = json!({"a": "x", "b": ["y"], "c": true, "d": {}, "e": [{}], "f": {"g": [], "h": {"i": null}}});
        assert_eq!(Value::Object(take(good.clone()).unwrap()), good);
        assert!(take(json!({"a": null, "x@odata.bind": 1})).unwrap().contains_key("a"));
        assert_eq!(take(json!({"x": 1})).unwrap_err(), "Invalid property 'x'.");
        for wrong in [
            json!({"a": 1}),
            json!({"a": "x".repeat(5000)}),
            json!({"b": [1]}),
            json!({"c": "true"}),
            json!({"e": [1]}),
        ] {
            assert!(take(wrong.clone()).unwrap_err().starts_with("Invalid value specified for property"), "{wrong}");
        }
        assert!(take(json!({"f": ["g"]})).unwrap_err().contains("not supported"));
        assert!(take(json!([])).is_err());
    }

    #[test]
    fn objects_are_merged_and_null_takes_away() {
        let mut into = json!({"a": {"b": 1, "c": 2}, "d": [1], "e": 1});
        let given = json!({"a": {"c": null, "f": 3}, "d": [2], "e": null, "g": {"h": {"i": 1, "j": null}}});
        merge(&mut into, given.as_object().unwrap());
        assert_eq!(into, json!({"a": {"b": 1, "f": 3}, "d": [2], "g": {"h": {"i": 1}}}));
    }

    #[test]
    fn addresses_of_objects_are_read() {
        let id = "22222222-2222-2222-2222-222222222222";
        for address in [
            format!("https://graph.microsoft.com/v1.0/directoryObjects/{id}"),
            format!("https://h:1/graph/v1.0/users/{id}/"),
            format!("https://graph.microsoft.com/v1.0/directoryObjects('{id}')"),
        ] {
            assert_eq!(referenced(&address).as_deref(), Some(id));
        }
        assert_eq!(referenced("https://graph.microsoft.com/v1.0/directoryObjects/x"), None);
        let body = json!({"owners@odata.bind": [format!("x/{id}")], "members@odata.bind": "x"});
        assert_eq!(bound(&body, "owners").unwrap(), Some(vec![id.to_owned()]));
        assert!(bound(&body, "members").is_err());
        assert_eq!(bound(&json!({}), "owners").unwrap(), None);
    }
}
