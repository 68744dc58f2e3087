//! Integers. What does not fit 64 bits is an error, never another number.

use super::{Args, Function, MANY, invalid, pure, scoped};
use crate::eval::{Eval, Evaluator, Frame, error};
use serde_json::Value;

pub(super) const TABLE: &[Function] = &[
    pure("add", 2, 2, |f, v, _| two(f, &v, i64::checked_add)),
    scoped("copyIndex", 0, 2, copy_index),
    pure("div", 2, 2, |f, v, _| two(f, &v, i64::checked_div)),
    pure("float", 1, 1, float),
    pure("int", 1, 1, int),
    pure("max", 1, MANY, |f, v, _| extreme(f, &v, i64::max)),
    pure("min", 1, MANY, |f, v, _| extreme(f, &v, i64::min)),
    pure("mod", 2, 2, |f, v, _| two(f, &v, i64::checked_rem)),
    pure("mul", 2, 2, |f, v, _| two(f, &v, i64::checked_mul)),
    pure("sub", 2, 2, |f, v, _| two(f, &v, i64::checked_sub)),
];

fn two(f: &'static str, v: &[Value], run: fn(i64, i64) -> Option<i64>) -> Eval<Value> {
    let a = Args { function: f, values: v };
    let (x, y) = (a.int(0)?, a.int(1)?);
    match run(x, y) {
        Some(n) => Ok(n.into()),
        None if y == 0 => invalid(f, "Attempted to divide by zero."),
        None => invalid(f, "The result does not fit an integer of 64 bits."),
    }
}

fn extreme(f: &'static str, v: &[Value], pick: fn(i64, i64) -> i64) -> Eval<Value> {
    let values = match v {
        [Value::Array(items)] => items.as_slice(),
        several => several,
    };
    let a = Args { function: f, values };
    let numbers: Vec<i64> = (0..values.len()).map(|i| a.int(i)).collect::<Eval<_>>()?;
    match numbers.into_iter().reduce(pick) {
        Some(n) => Ok(n.into()),
        None => invalid(f, "The array has no elements."),
    }
}

fn int(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let parsed = match &v[0] {
        Value::Number(n) => n.as_i64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    };
    parsed.map_or_else(
        || Args { function: f, values: &v }.wrong(0, "an integer, or a text that is one"),
        |n| Ok(n.into()),
    )
}

fn float(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let parsed = match &v[0] {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.trim().parse::<f64>().ok(),
        _ => None,
    };
    let number = parsed.and_then(serde_json::Number::from_f64);
    number
        .map_or_else(|| Args { function: f, values: &v }.wrong(0, "a number, or a text that is one"), |n| Ok(n.into()))
}

/// `copyIndex()`, `copyIndex(offset)`, `copyIndex('loop')`, `copyIndex('loop', offset)`.
fn copy_index(f: &str, v: Vec<Value>, _: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let (name, offset) = match v.first() {
        Some(Value::String(name)) => (Some(name.as_str()), if v.len() > 1 { a.int(1)? } else { 0 }),
        Some(_) => (None, a.int(0)?),
        None => (None, 0),
    };
    let index = frame.copy_index(name).and_then(|i| i64::try_from(i).ok()).and_then(|i| i.checked_add(offset));
    match (index, name) {
        (Some(index), _) => Ok(index.into()),
        (None, Some(name)) => error(format!(
            "The template function 'copyIndex' is not expected at this location: there is no loop named '{name}' around it. \
             Please see https://aka.ms/arm-resource-loops for usage details."
        )),
        (None, None) => error(
            "The template function 'copyIndex' is not expected at this location. The function can only be used in a resource with \
             copy specified. Please see https://aka.ms/arm-resource-loops for usage details.",
        ),
    }
}
