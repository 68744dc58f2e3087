//! Objects and JSON.

use super::{Args, Function, MANY, invalid, pure, text_of};
use crate::eval::{Eval, Evaluator};
use serde_json::{Map, Value, json};

pub(super) const TABLE: &[Function] = &[
    pure("createObject", 0, MANY, create_object),
    pure("items", 1, 1, items),
    pure("json", 1, 1, json_of),
    pure("null", 0, 0, |_, _, _| Ok(Value::Null)),
    pure("objectKeys", 1, 1, object_keys),
    pure("shallowMerge", 1, 1, shallow_merge),
];

fn create_object(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    if v.len() % 2 == 1 {
        return invalid(f, "The number of arguments must be even: names, each with its value.");
    }
    let mut map = Map::new();
    for index in (0..v.len()).step_by(2) {
        map.insert(a.str(index)?.to_owned(), v[index + 1].clone());
    }
    Ok(map.into())
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by(|a, b| a.0.to_lowercase().cmp(&b.0.to_lowercase()).then_with(|| a.0.cmp(b.0)));
    entries
}

/// `[{key, value}]` in the order of the keys.
fn items(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let map = Args { function: f, values: &v }.object(0)?;
    Ok(sorted(map).into_iter().map(|(key, value)| json!({"key": key, "value": value})).collect::<Vec<_>>().into())
}

fn object_keys(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let map = Args { function: f, values: &v }.object(0)?;
    Ok(sorted(map).into_iter().map(|(key, _)| key.clone()).collect::<Vec<_>>().into())
}

fn json_of(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let text = match &v[0] {
        Value::String(text) => text.clone(),
        other => text_of(other),
    };
    // `string(true)` is `True`.
    match text.trim() {
        "True" => return Ok(true.into()),
        "False" => return Ok(false.into()),
        _ => {}
    }
    serde_json::from_str(&text).or_else(|e| invalid(f, &format!("The text is not JSON: {e}.")))
}

fn shallow_merge(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let mut merged = Map::new();
    for item in a.array(0)? {
        let Value::Object(map) = item else { return a.wrong(0, "an array of objects") };
        for (name, value) in map {
            merged.insert(name.clone(), value.clone());
        }
    }
    Ok(merged.into())
}
