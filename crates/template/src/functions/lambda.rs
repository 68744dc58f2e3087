//! Functions that take a function: `map(array, lambda('x', expression))`.

use super::{Args, Function, invalid, scoped, special};
use crate::eval::{Eval, Evaluator, Fail, Frame, all, error};
use crate::expression::Expr;
use serde_json::{Map, Value};

pub(super) const TABLE: &[Function] = &[
    special("filter", 2, 2, filter),
    special("groupBy", 2, 2, group_by),
    special("lambda", 1, 3, |_, _, _| {
        error(
            "The template function 'lambda' is not expected at this location: it is an argument of functions such as 'map'.",
        )
    }),
    scoped("lambdaVariables", 1, 1, lambda_variables),
    special("map", 2, 2, map),
    special("mapValues", 2, 2, map_values),
    special("reduce", 3, 3, reduce),
    special("sort", 2, 2, sort),
    special("toObject", 2, 3, to_object),
];

/// Names of the parameters and the body.
struct Lambda<'x> {
    names: Vec<&'x str>,
    body: &'x Expr,
}

impl<'x> Lambda<'x> {
    fn of(function: &str, arg: &'x Expr, parameters: std::ops::RangeInclusive<usize>) -> Eval<Self> {
        let wrong = || invalid(function, "It expects a lambda expression: lambda('name', expression).");
        let Expr::Call { name, args } = arg else { return wrong() };
        let Some((body, names)) = args.split_last().filter(|_| name.eq_ignore_ascii_case("lambda")) else {
            return wrong();
        };
        let texts = names.iter().map(|n| match n {
            Expr::Text(text) => Some(text.as_str()),
            _ => None,
        });
        let Some(names) = texts.collect::<Option<Vec<_>>>() else { return wrong() };
        if !parameters.contains(&names.len()) {
            return invalid(
                function,
                &format!("Its lambda expression takes {} parameter(s), not {}.", parameters.start(), names.len()),
            );
        }
        Ok(Self { names, body })
    }

    fn run(&self, e: &Evaluator<'_>, frame: &Frame<'_>, first: &Value, second: &Value, third: &Value) -> Eval<Value> {
        let name = |i: usize| self.names.get(i).copied().unwrap_or_default();
        let one = Frame::variable(frame, name(0), first);
        if self.names.len() < 2 {
            return e.expr(self.body, &one);
        }
        let two = Frame::variable(&one, name(1), second);
        if self.names.len() < 3 {
            return e.expr(self.body, &two);
        }
        e.expr(self.body, &Frame::variable(&two, name(2), third))
    }
}

fn list(function: &str, arg: &Expr, e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Vec<Value>> {
    match e.expr(arg, frame)? {
        Value::Array(items) => Ok(items),
        other => Args { function, values: &[other] }.wrong(0, "an array"),
    }
}

fn boolean(function: &str, value: &Value) -> Eval<bool> {
    match value {
        Value::Bool(b) => Ok(*b),
        _ => invalid(function, "Its lambda expression must give a boolean."),
    }
}

fn text(function: &str, value: Value) -> Eval<String> {
    match value {
        Value::String(s) => Ok(s),
        _ => invalid(function, "Its lambda expression must give a string as the key."),
    }
}

fn filter(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let lambda = Lambda::of("filter", &args[1], 1..=2)?;
    let items = list("filter", &args[0], e, frame)?;
    let keep = all(items
        .iter()
        .enumerate()
        .map(|(i, item)| boolean("filter", &lambda.run(e, frame, item, &i.into(), &Value::Null)?)))?;
    Ok(items.into_iter().zip(keep).filter_map(|(item, keep)| keep.then_some(item)).collect::<Vec<_>>().into())
}

fn map(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let lambda = Lambda::of("map", &args[1], 1..=2)?;
    let items = list("map", &args[0], e, frame)?;
    let mapped = items.iter().enumerate().map(|(i, item)| lambda.run(e, frame, item, &i.into(), &Value::Null));
    all(mapped).map(Value::Array)
}

fn map_values(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let lambda = Lambda::of("mapValues", &args[1], 1..=1)?;
    let of = e.expr(&args[0], frame)?;
    let Value::Object(map) = of else { return Args { function: "mapValues", values: &[of] }.wrong(0, "an object") };
    let values = all(map.values().map(|v| lambda.run(e, frame, v, &Value::Null, &Value::Null)))?;
    Ok(map.keys().cloned().zip(values).collect::<Map<_, _>>().into())
}

fn reduce(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let lambda = Lambda::of("reduce", &args[2], 2..=3)?;
    let items = list("reduce", &args[0], e, frame)?;
    let mut value = e.expr(&args[1], frame)?;
    for (index, item) in items.iter().enumerate() {
        value = lambda.run(e, frame, &value, item, &index.into())?;
        e.charge(&value)?;
    }
    Ok(value)
}

/// The lambda tells whether its first argument comes before its second. A stable merge sort: no order, however senseless,
/// makes it run longer.
fn sort(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let lambda = Lambda::of("sort", &args[1], 2..=2)?;
    let items = list("sort", &args[0], e, frame)?;
    let before = |a: &Value, b: &Value| boolean("sort", &lambda.run(e, frame, a, b, &Value::Null)?);
    merge_sort(items, &before).map(Value::Array)
}

fn merge_sort(mut items: Vec<Value>, before: &dyn Fn(&Value, &Value) -> Eval<bool>) -> Eval<Vec<Value>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = merge_sort(items.split_off(items.len() / 2), before)?;
    let left = merge_sort(items, before)?;
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if before(b, a)? { right.next() } else { left.next() };
        out.extend(next);
    }
    out.extend(left.chain(right));
    Ok(out)
}

fn to_object(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let key = Lambda::of("toObject", &args[1], 1..=1)?;
    let value = args.get(2).map(|a| Lambda::of("toObject", a, 1..=1)).transpose()?;
    let mut out = Map::new();
    for item in list("toObject", &args[0], e, frame)? {
        let name = text("toObject", key.run(e, frame, &item, &Value::Null, &Value::Null)?)?;
        let entry = match &value {
            Some(value) => value.run(e, frame, &item, &Value::Null, &Value::Null)?,
            None => item,
        };
        out.insert(name, entry);
    }
    Ok(out.into())
}

fn group_by(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let key = Lambda::of("groupBy", &args[1], 1..=1)?;
    let mut out = Map::new();
    for item in list("groupBy", &args[0], e, frame)? {
        let name = text("groupBy", key.run(e, frame, &item, &Value::Null, &Value::Null)?)?;
        if let Value::Array(group) = out.entry(name).or_insert_with(|| Value::Array(vec![])) {
            group.push(item);
        }
    }
    Ok(out.into())
}

fn lambda_variables(f: &str, v: Vec<Value>, _: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    let name = Args { function: f, values: &v }.str(0)?;
    match frame.lambda_variable(name) {
        Some(value) => Ok(value.clone()),
        None => Err(Fail::Error(format!(
            "The lambda variable '{name}' is not found: no lambda expression around it has that parameter."
        ))),
    }
}
