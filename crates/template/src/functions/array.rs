//! Arrays, and what works on texts and objects as well.

use super::{Args, Function, MANY, invalid, pure, text_of};
use crate::eval::{Eval, Evaluator, get};
use serde_json::{Map, Value};

pub(super) const TABLE: &[Function] = &[
    pure("array", 1, 1, array),
    pure("concat", 1, MANY, concat),
    pure("contains", 2, 2, contains),
    pure("createArray", 0, MANY, |_, v, _| Ok(v.into())),
    pure("empty", 1, 1, empty),
    pure("first", 1, 1, first),
    pure("flatten", 1, 1, flatten),
    pure("indexFromEnd", 2, 2, index_from_end),
    pure("indexOf", 2, 2, index_of),
    pure("intersection", 2, MANY, intersection),
    pure("last", 1, 1, last),
    pure("lastIndexOf", 2, 2, last_index_of),
    pure("length", 1, 1, length),
    pure("range", 2, 2, range),
    pure("skip", 2, 2, skip),
    pure("take", 2, 2, take),
    pure("tryGet", 2, MANY, try_get),
    pure("tryIndexFromEnd", 2, MANY, try_index_from_end),
    pure("union", 2, MANY, union),
];

/// Azure's own bound of `range`.
const MAX_RANGE: i64 = 10_000;

fn array(_: &'static str, mut v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    Ok(match v.swap_remove(0) {
        Value::Array(items) => items.into(),
        other => Value::Array(vec![other]),
    })
}

fn concat(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    if v[0].is_array() {
        let mut all = Vec::new();
        for index in 0..v.len() {
            all.extend(a.array(index)?.iter().cloned());
        }
        return Ok(all.into());
    }
    let mut text = String::new();
    for (index, value) in v.iter().enumerate() {
        if matches!(value, Value::Array(_) | Value::Object(_)) {
            return a.wrong(index, "a simple value, as the others are");
        }
        let part = text_of(value);
        e.charge_text(part.len())?;
        text.push_str(&part);
    }
    Ok(text.into())
}

fn contains(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    Ok(match (&v[0], &v[1]) {
        (Value::Array(items), wanted) => items.contains(wanted),
        (Value::Object(map), Value::String(name)) => get(map, name).is_some(),
        (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
        (Value::String(text), Value::Number(n)) => text.contains(&n.to_string()),
        (Value::Object(_) | Value::String(_), _) => return a.wrong(1, "a string"),
        _ => return a.wrong(0, "an array, an object or a string"),
    }
    .into())
}

fn empty(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    Ok(match &v[0] {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => return Args { function: f, values: &v }.wrong(0, "an array, an object or a string"),
    }
    .into())
}

fn first(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    match &v[0] {
        Value::Array(items) => Ok(items.first().cloned().unwrap_or(Value::Null)),
        Value::String(text) => Ok(text.chars().next().map(String::from).unwrap_or_default().into()),
        _ => Args { function: f, values: &v }.wrong(0, "an array or a string"),
    }
}

fn last(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    match &v[0] {
        Value::Array(items) => Ok(items.last().cloned().unwrap_or(Value::Null)),
        Value::String(text) => Ok(text.chars().last().map(String::from).unwrap_or_default().into()),
        _ => Args { function: f, values: &v }.wrong(0, "an array or a string"),
    }
}

/// One level: elements that are arrays give their elements.
fn flatten(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let mut out = Vec::new();
    for item in (Args { function: f, values: &v }).array(0)? {
        match item {
            Value::Array(inner) => out.extend(inner.iter().cloned()),
            other => out.push(other.clone()),
        }
    }
    Ok(out.into())
}

fn from_end(items: &[Value], index: i64) -> Option<&Value> {
    let back = usize::try_from(index).ok().filter(|i| (1..=items.len()).contains(i))?;
    items.get(items.len() - back)
}

/// `^1` is the last.
fn index_from_end(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    match from_end(a.array(0)?, a.int(1)?) {
        Some(value) => Ok(value.clone()),
        None => invalid(f, &format!("The array has no element {} from its end.", v[1])),
    }
}

fn try_index_from_end(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let Value::Array(items) = &v[0] else { return Ok(Value::Null) };
    let found = from_end(items, a.int(1)?).cloned().unwrap_or(Value::Null);
    walk(found, &v[2..], e)
}

/// Positions of a text ignore case, those of an element do not.
fn index_of(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    Ok(position(match &v[0] {
        Value::Array(items) => items.iter().position(|i| *i == v[1]),
        Value::String(text) => {
            let (text, part) = (text.to_lowercase(), a.str(1)?.to_lowercase());
            text.find(&part).map(|at| text[..at].chars().count())
        }
        _ => return a.wrong(0, "an array or a string"),
    }))
}

fn last_index_of(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    Ok(position(match &v[0] {
        Value::Array(items) => items.iter().rposition(|i| *i == v[1]),
        Value::String(text) => {
            let (text, part) = (text.to_lowercase(), a.str(1)?.to_lowercase());
            text.rfind(&part).map(|at| text[..at].chars().count())
        }
        _ => return a.wrong(0, "an array or a string"),
    }))
}

fn position(at: Option<usize>) -> Value {
    at.map_or_else(|| (-1).into(), Value::from)
}

fn intersection(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    if v[0].is_object() {
        let mut common: Map<String, Value> = a.object(0)?.clone();
        for index in 1..v.len() {
            let other = a.object(index)?;
            common.retain(|name, value| get(other, name) == Some(value));
        }
        return Ok(common.into());
    }
    let mut common: Vec<Value> = Vec::new();
    let first = a.array(0)?;
    for index in 1..v.len() {
        e.charge_text(first.len().saturating_mul(a.array(index)?.len()))?;
    }
    for item in first {
        let in_all = (1..v.len()).all(|i| v[i].as_array().is_some_and(|o| o.contains(item)));
        if in_all && !common.contains(item) {
            common.push(item.clone());
        }
    }
    Ok(common.into())
}

/// Of objects, later values win and objects within are united as well; of arrays, equal elements are kept once.
fn union(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    if v[0].is_object() {
        let mut united = a.object(0)?.clone();
        for index in 1..v.len() {
            merge(&mut united, a.object(index)?);
        }
        return Ok(united.into());
    }
    let mut united: Vec<Value> = Vec::new();
    for index in 0..v.len() {
        e.charge_text(united.len().saturating_mul(a.array(index)?.len()))?;
        for item in a.array(index)? {
            if !united.contains(item) {
                united.push(item.clone());
            }
        }
    }
    Ok(united.into())
}

fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (name, value) in from {
        match (into.get_mut(name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

fn length(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    Ok(match &v[0] {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        Value::String(text) => text.chars().count(),
        _ => return Args { function: f, values: &v }.wrong(0, "an array, an object or a string"),
    }
    .into())
}

fn range(f: &'static str, v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let (start, count) = (a.int(0)?, a.int(1)?);
    let end = start.checked_add(count).filter(|_| (0..=MAX_RANGE).contains(&count));
    let Some(end) = end.filter(|end| *end <= i64::from(i32::MAX)) else {
        return invalid(
            f,
            &format!(
                "The count must be between 0 and {MAX_RANGE}, and the sum of start index and count at most {}.",
                i32::MAX
            ),
        );
    };
    e.charge_text(usize::try_from(count).unwrap_or(0) * 16)?;
    Ok((start..end).collect::<Vec<i64>>().into())
}

fn how_many(a: &Args<'_>) -> Eval<usize> {
    Ok(usize::try_from(a.int(1)?.max(0)).unwrap_or(usize::MAX))
}

fn skip(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let n = how_many(&a)?;
    match &v[0] {
        Value::Array(items) => Ok(items.iter().skip(n).cloned().collect::<Vec<_>>().into()),
        Value::String(text) => Ok(text.chars().skip(n).collect::<String>().into()),
        _ => a.wrong(0, "an array or a string"),
    }
}

fn take(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let n = how_many(&a)?;
    match &v[0] {
        Value::Array(items) => Ok(items.iter().take(n).cloned().collect::<Vec<_>>().into()),
        Value::String(text) => Ok(text.chars().take(n).collect::<String>().into()),
        _ => a.wrong(0, "an array or a string"),
    }
}

fn try_get(_: &'static str, mut v: Vec<Value>, e: &Evaluator<'_>) -> Eval<Value> {
    let of = std::mem::take(&mut v[0]);
    walk(of, &v[1..], e)
}

/// Follows keys and indexes; null where one leads nowhere.
fn walk(mut value: Value, keys: &[Value], _: &Evaluator<'_>) -> Eval<Value> {
    for key in keys {
        let next = crate::eval::member(value, key);
        value = next.unwrap_or(Value::Null);
    }
    Ok(value)
}
