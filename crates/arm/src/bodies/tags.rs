//! Tags: name and value pairs of a resource or a group.

use crate::ArmError;
use serde_json::{Map, Value};
use std::collections::HashSet;

const MAX_TAGS: usize = 50;
const MAX_NAME: usize = 512;
const MAX_VALUE: usize = 256;

/// Gives back the tags to store: `None` when none were sent, an empty object when an empty one was (both are shown as
/// they came). A `null` value is an empty one.
///
/// Errors: `InvalidTagNameCharacters`, `TagNameTooLong`, `TagValueTooLong`, `TooManyTags`, `DuplicateTagName`,
/// `InvalidParameter` for what is no object of strings; limits as Azure documents them.
pub fn check_tags(tags: Option<&Value>) -> Result<Option<Map<String, Value>>, ArmError> {
    let wrong = || ArmError::invalid_parameter("tags", "The tags must be an object whose values are strings.");
    let Some(tags) = tags.filter(|t| !t.is_null()) else { return Ok(None) };
    let tags = tags.as_object().ok_or_else(wrong)?;
    if tags.len() > MAX_TAGS {
        return Err(ArmError::bad_request(
            "TooManyTags",
            format!("The number of tags on a resource is limited to {MAX_TAGS}; {} were given.", tags.len()),
        ));
    }
    let mut seen = HashSet::new();
    let mut checked = Map::new();
    for (name, value) in tags {
        let value = match value {
            Value::String(s) => s.clone(),
            Value::Null => String::new(),
            Value::Bool(b) => b.to_string(),
            Value::Number(n) => n.to_string(),
            _ => return Err(wrong()),
        };
        check_one(name, &value)?;
        if !seen.insert(name.to_lowercase()) {
            return Err(ArmError::bad_request(
                "DuplicateTagName",
                format!("The tag name '{name}' is given more than once; tag names are not case-sensitive."),
            ));
        }
        checked.insert(name.clone(), Value::String(value));
    }
    Ok(Some(checked))
}

fn check_one(name: &str, value: &str) -> Result<(), ArmError> {
    if name.is_empty() || name.contains(['<', '>', '%', '&', '\\', '?', '/']) || name.contains(char::is_control) {
        return Err(ArmError::bad_request(
            "InvalidTagNameCharacters",
            format!(
                "The tag name '{name}' is empty or has reserved characters: '<,>,%,&,\\,?,/' or control characters."
            ),
        ));
    }
    if name.chars().count() > MAX_NAME {
        return Err(ArmError::bad_request(
            "TagNameTooLong",
            format!("A tag name has more than {MAX_NAME} characters."),
        ));
    }
    if value.chars().count() > MAX_VALUE {
        return Err(ArmError::bad_request(
            "TagValueTooLong",
            format!("The value of the tag '{name}' has more than {MAX_VALUE} characters."),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_what_was_sent() {
        assert_eq!(check_tags(None).unwrap(), None);
        assert_eq!(check_tags(Some(&Value::Null)).unwrap(), None);
        assert_eq!(check_tags(Some(&json!({}))).unwrap(), Some(Map::new()));
        let tags = check_tags(Some(&json!({"env": "test", "n": null, "日本": "語"}))).unwrap().unwrap();
        assert_eq!(Value::Object(tags), json!({"env": "test", "n": "", "日本": "語"}));
    }

    #[test]
    fn refuses_bad_tags() {
        let many: Map<String, Value> = (0..51).map(|i| (format!("t{i}"), json!("v"))).collect();
        for (tags, code) in [
            (json!([1]), "InvalidParameter"),
            (json!({"a": {}}), "InvalidParameter"),
            (json!({"a/b": ""}), "InvalidTagNameCharacters"),
            (json!({"": ""}), "InvalidTagNameCharacters"),
            (json!({"A": "", "a": ""}), "DuplicateTagName"),
            (json!({"a": "v".repeat(257)}), "TagValueTooLong"),
            (json!({"a".repeat(513): "v"}), "TagNameTooLong"),
            (Value::Object(many), "TooManyTags"),
        ] {
            assert_eq!(check_tags(Some(&tags)).unwrap_err().code, code, "{tags}");
        }
    }
}
