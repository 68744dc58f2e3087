//! Reading a JSON object as a client meant it: names in any case, `null` as absent, numbers and booleans as strings.

use crate::ArmError;
use serde_json::{Map, Value};

/// One object of a body, with its path for errors (`galleryImage.properties.identifier`).
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    path: String,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// `path` names the resource as errors show it. `null` reads as an empty object.
    pub fn root(path: &str, value: &'a Value) -> Result<Self, ArmError> {
        Self::of(path.to_owned(), Some(value))
    }

    fn of(path: String, value: Option<&'a Value>) -> Result<Self, ArmError> {
        match value {
            None | Some(Value::Null) => Ok(Self { path, map: None }),
            Some(Value::Object(map)) => Ok(Self { path, map: Some(map) }),
            Some(_) => Err(wrong_type(&path, "an object")),
        }
    }

    /// Path of a member, for errors.
    pub fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Nothing but nulls.
    pub fn is_empty(&self) -> bool {
        self.map.is_none_or(|m| m.values().all(Value::is_null))
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        let map = self.map?;
        map.get(name)
            .or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v))
            .filter(|v| !v.is_null())
    }

    /// A member object; absent reads as empty.
    pub fn object(&self, name: &str) -> Result<Fields<'a>, ArmError> {
        Self::of(self.path(name), self.get(name))
    }

    /// The objects of a member array; `None` when absent.
    pub fn objects(&self, name: &str) -> Result<Option<Vec<Fields<'a>>>, ArmError> {
        let path = self.path(name);
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                items.iter().map(|v| Self::of(path.clone(), Some(v))).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(wrong_type(&path, "an array of objects")),
        }
    }

    pub fn strings(&self, name: &str) -> Result<Option<Vec<String>>, ArmError> {
        let wrong = || wrong_type(&self.path(name), "an array of strings");
        let Some(value) = self.get(name) else { return Ok(None) };
        let items = value.as_array().ok_or_else(wrong)?;
        items.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
    }

    pub fn str(&self, name: &str) -> Result<Option<String>, ArmError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(Value::Number(n)) => Ok(Some(n.to_string())),
            Some(_) => Err(wrong_type(&self.path(name), "a string")),
        }
    }

    /// A string that must be there and not be blank.
    pub fn required_str(&self, name: &str) -> Result<String, ArmError> {
        self.str(name)?.filter(|s| !s.trim().is_empty()).ok_or_else(|| self.missing(name))
    }

    pub fn bool(&self, name: &str) -> Result<Option<bool>, ArmError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(Value::String(s)) if s.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(s)) if s.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(wrong_type(&self.path(name), "true or false")),
        }
    }

    pub fn int(&self, name: &str) -> Result<Option<i64>, ArmError> {
        let number = match self.get(name) {
            None => return Ok(None),
            Some(Value::Number(n)) => n.as_i64(),
            Some(Value::String(s)) => s.trim().parse().ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| wrong_type(&self.path(name), "a whole number"))
    }

    pub fn int_within(&self, name: &str, low: i64, high: i64) -> Result<Option<i64>, ArmError> {
        match self.int(name)? {
            Some(n) if !(low..=high).contains(&n) => Err(super::out_of_range(&self.path(name), n, low, high)),
            other => Ok(other),
        }
    }

    /// One of `allowed` in any letter case, given back in its canonical form.
    pub fn one_of(&self, name: &str, allowed: &[&'static str]) -> Result<Option<&'static str>, ArmError> {
        let Some(text) = self.str(name)? else { return Ok(None) };
        let found = allowed.iter().find(|a| a.eq_ignore_ascii_case(text.trim()));
        found.copied().map(Some).ok_or_else(|| {
            let path = self.path(name);
            ArmError::invalid_parameter(
                &path,
                format!(
                    "The value '{text}' of parameter {path} is invalid. It must be one of: {}.",
                    allowed.join(", ")
                ),
            )
        })
    }

    pub fn missing(&self, name: &str) -> ArmError {
        let path = self.path(name);
        ArmError::invalid_parameter(&path, format!("Required parameter '{path}' is missing (null)."))
    }
}

fn wrong_type(path: &str, expected: &str) -> ArmError {
    ArmError::invalid_parameter(path, format!("The value of parameter {path} is invalid: {expected} is expected."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_clients_mean() {
        let body = json!({"Name": "x", "count": "3", "flag": "True", "gone": null, "osType": "linux", "list": ["a"]});
        let f = Fields::root("thing", &body).unwrap();
        assert_eq!(f.str("name").unwrap().as_deref(), Some("x"));
        assert_eq!(f.int("count").unwrap(), Some(3));
        assert_eq!(f.bool("flag").unwrap(), Some(true));
        assert!(f.get("gone").is_none() && f.object("gone").unwrap().is_empty());
        assert_eq!(f.one_of("osType", &["Linux", "Windows"]).unwrap(), Some("Linux"));
        assert_eq!(f.strings("list").unwrap().unwrap(), ["a"]);
    }

    #[test]
    fn errors_name_the_parameter() {
        let body = json!({"a": [], "n": 1.5, "e": "x", "count": 9});
        let f = Fields::root("thing", &body).unwrap();
        for error in [
            f.str("a").unwrap_err(),
            f.object("a").unwrap_err(),
            f.bool("a").unwrap_err(),
            f.int("n").unwrap_err(),
            f.one_of("e", &["y"]).unwrap_err(),
            f.int_within("count", 1, 4).unwrap_err(),
            f.required_str("absent").unwrap_err(),
        ] {
            assert_eq!((error.status, error.code.as_str()), (400, "InvalidParameter"));
            assert!(error.target.as_deref().is_some_and(|t| t.starts_with("thing.")), "{error}");
        }
    }
}
