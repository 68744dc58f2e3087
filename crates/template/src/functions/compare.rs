//! Comparison.

use super::{Args, Function, MANY, pure, special};
use crate::eval::{Eval, Evaluator, Frame};
use crate::expression::Expr;
use serde_json::Value;
use std::cmp::Ordering;

pub(super) const TABLE: &[Function] = &[
    special("coalesce", 1, MANY, coalesce),
    pure("equals", 2, 2, |_, v, _| Ok(equal(&v[0], &v[1]).into())),
    pure("greater", 2, 2, |f, v, _| Ok(order(f, &v)?.is_gt().into())),
    pure("greaterOrEquals", 2, 2, |f, v, _| Ok(order(f, &v)?.is_ge().into())),
    pure("less", 2, 2, |f, v, _| Ok(order(f, &v)?.is_lt().into())),
    pure("lessOrEquals", 2, 2, |f, v, _| Ok(order(f, &v)?.is_le().into())),
];

/// The first that is not null; what follows it is not evaluated.
fn coalesce(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    for arg in args {
        let value = e.expr(arg, frame)?;
        if !value.is_null() {
            return Ok(value);
        }
    }
    Ok(Value::Null)
}

/// Numbers are equal by their value, whatever they were written as.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| equal(v, w)))
        }
        _ => a == b,
    }
}

/// Texts by their code points, numbers by their value.
fn order(f: &str, v: &[Value]) -> Eval<Ordering> {
    match (&v[0], &v[1]) {
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Ok(a.cmp(&b)),
            _ => Ok(a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)),
        },
        (Value::String(_) | Value::Number(_), _) => {
            Args { function: f, values: v }.wrong(1, "of the same type as the first: a string or an integer")
        }
        _ => Args { function: f, values: v }.wrong(0, "a string or an integer"),
    }
}
