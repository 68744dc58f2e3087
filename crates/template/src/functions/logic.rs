//! Logic.

use super::{Args, Function, MANY, pure, special};
use crate::eval::{Eval, Evaluator, Fail, Frame, error};
use crate::expression::Expr;
use serde_json::Value;

pub(super) const TABLE: &[Function] = &[
    special("and", 2, MANY, |args, e, frame| until(args, e, frame, "and", false)),
    pure("bool", 1, 1, bool_of),
    pure("false", 0, 0, |_, _, _| Ok(false.into())),
    special("if", 3, 3, if_else),
    pure("not", 1, 1, |f, v, _| Ok((!Args { function: f, values: &v }.bool(0)?).into())),
    special("or", 2, MANY, |args, e, frame| until(args, e, frame, "or", true)),
    pure("true", 0, 0, |_, _, _| Ok(true.into())),
];

/// Evaluates until one decides.
fn until(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>, name: &str, decides: bool) -> Eval<Value> {
    for (index, arg) in args.iter().enumerate() {
        let Value::Bool(value) = e.expr(arg, frame)? else {
            return error(format!(
                "The template language function '{name}' expects its parameter {} to be a boolean. Please see \
                 https://aka.ms/arm-functions#{name} for usage details.",
                index + 1
            ));
        };
        if value == decides {
            return Ok(decides.into());
        }
    }
    Ok((!decides).into())
}

/// Only the branch that counts is evaluated; as long as it is not known which, both are looked at for the facts they need.
fn if_else(args: &[Expr], e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    match e.expr(&args[0], frame) {
        Ok(Value::Bool(true)) => e.expr(&args[1], frame),
        Ok(Value::Bool(false)) => e.expr(&args[2], frame),
        Ok(_) => error(
            "The template language function 'if' expects its first parameter to be a boolean. Please see \
             https://aka.ms/arm-functions#if for usage details.",
        ),
        Err(Fail::Needs) => {
            let _ = (e.expr(&args[1], frame), e.expr(&args[2], frame));
            Err(Fail::Needs)
        }
        Err(failed) => Err(failed),
    }
}

fn bool_of(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    match &v[0] {
        Value::Bool(b) => Ok((*b).into()),
        Value::Number(n) => Ok((n.as_i64() != Some(0)).into()),
        Value::String(s) if s.eq_ignore_ascii_case("true") || s == "1" => Ok(true.into()),
        Value::String(s) if s.eq_ignore_ascii_case("false") || s == "0" => Ok(false.into()),
        _ => Args { function: f, values: &v }.wrong(0, "'true', 'false', or an integer"),
    }
}
