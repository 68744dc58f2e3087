//! What Azure's resources may ask for and these do not do: refused by name rather than lost. What asks for nothing (null, false, an
//! empty list or object) and what Azure does of itself anyway is taken.

use super::{Fields, not_offered};
use crate::ArmError;
use serde_json::Value;

/// A place below a body, what may stand there, and why nothing else may.
pub(super) type Refusal = (&'static [&'static str], &'static [&'static str], &'static str);

/// # Errors
/// `OperationNotSupported` with the first place where something is asked for, and the reason.
pub(super) fn check(holder: &Fields<'_>, refusals: &[Refusal]) -> Result<(), ArmError> {
    refusals.iter().try_for_each(|refusal| refuse(holder, refusal))
}

fn refuse(holder: &Fields<'_>, (path, taken, why): &Refusal) -> Result<(), ArmError> {
    let Some((last, above)) = path.split_last() else { return Ok(()) };
    let mut fields = holder.clone();
    for name in above {
        fields = fields.object(name)?;
    }
    match fields.get(last) {
        Some(value) if asks(value) && !is_one_of(value, taken) => Err(not_offered(&fields.path(last), why)),
        _ => Ok(()),
    }
}

/// A text that is taken, or a list of such.
fn is_one_of(value: &Value, taken: &[&str]) -> bool {
    match value {
        Value::Array(items) => items.iter().all(|item| is_one_of(item, taken)),
        value => value.as_str().is_some_and(|text| taken.iter().any(|t| t.eq_ignore_ascii_case(text.trim()))),
    }
}

/// Whether a value asks for something.
fn asks(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.trim().is_empty() && !text.eq_ignore_ascii_case("false"),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => members.values().any(asks),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A body with a value at a path.
    pub(in super::super) fn with(path: &[&str], value: Value) -> Value {
        path.iter().rev().fold(value, |inner, name| json!({ *name: inner }))
    }

    /// Each place is refused by its name, and takes what asks for nothing. `body`: a good one of its type; `write`: what checks it.
    pub(in super::super) fn hold(
        refusals: &[Refusal],
        body: impl Fn(Value) -> Value,
        write: impl Fn(&Value) -> Result<(), ArmError>,
    ) {
        for (path, taken, _) in refusals {
            let error = write(&body(with(path, json!("something")))).expect_err(&path.join("."));
            assert_eq!(error.code, "OperationNotSupported", "{path:?}: {error}");
            assert!(error.message.contains(&path.join(".")), "{path:?}: {error}");
            for fine in [json!(null), json!(false), json!([]), json!({"id": null, "enable": false})] {
                check(&Fields::root("r", &with(path, fine)).unwrap(), refusals)
                    .unwrap_or_else(|e| panic!("{path:?}: {e}"));
            }
            for fine in *taken {
                let given = with(path, json!(fine.to_lowercase()));
                check(&Fields::root("r", &given).unwrap(), refusals).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            }
        }
    }
}
