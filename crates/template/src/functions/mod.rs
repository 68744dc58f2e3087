//! The functions of the template language: a table, a file a kind.
//!
//! [`names`] is what is offered, [`MISSING`] what Azure has and this server has not, with the reason; `docs/templates.md` shows
//! both, and a test compares it with them. Adding a function is a line in a table and a function of its own.

mod array;
mod cidr;
mod compare;
mod date;
mod deployment;
mod format;
mod lambda;
mod logic;
mod numeric;
mod object;
mod resource;
mod string;
mod unique;
mod zone;

use crate::eval::{Eval, Evaluator, Fail, Frame, error, type_name};
use crate::expression::Expr;
use serde_json::{Map, Value};

pub(crate) struct Function {
    pub name: &'static str,
    pub least: usize,
    pub most: usize,
    pub body: Body,
}

/// How a function is run.
#[derive(Clone, Copy)]
pub(crate) enum Body {
    /// Of its arguments alone.
    Pure(fn(&'static str, Vec<Value>, &Evaluator<'_>) -> Eval<Value>),
    /// Of its arguments and the place it is called from; the name is as called.
    Scoped(fn(&str, Vec<Value>, &Evaluator<'_>, &Frame<'_>) -> Eval<Value>),
    /// Evaluates its arguments itself.
    Special(fn(&[Expr], &Evaluator<'_>, &Frame<'_>) -> Eval<Value>),
}

pub(crate) const MANY: usize = usize::MAX;

const fn pure(
    name: &'static str,
    least: usize,
    most: usize,
    run: fn(&'static str, Vec<Value>, &Evaluator<'_>) -> Eval<Value>,
) -> Function {
    Function { name, least, most, body: Body::Pure(run) }
}

const fn scoped(
    name: &'static str,
    least: usize,
    most: usize,
    run: fn(&str, Vec<Value>, &Evaluator<'_>, &Frame<'_>) -> Eval<Value>,
) -> Function {
    Function { name, least, most, body: Body::Scoped(run) }
}

const fn special(
    name: &'static str,
    least: usize,
    most: usize,
    run: fn(&[Expr], &Evaluator<'_>, &Frame<'_>) -> Eval<Value>,
) -> Function {
    Function { name, least, most, body: Body::Special(run) }
}

/// What Azure has and this server has not.
pub const MISSING: &[(&str, &str)] = &[
    (
        "externalInput",
        "belongs to parameter files that are resolved before they are sent; it has no meaning in a request",
    ),
    ("getSecret", "there is no Key Vault here"),
    ("listAccountSas", "storage accounts here give out no account SAS by an action; `listKeys` works"),
];

fn tables() -> impl Iterator<Item = &'static Function> {
    [
        array::TABLE,
        cidr::TABLE,
        compare::TABLE,
        date::TABLE,
        deployment::TABLE,
        format::TABLE,
        lambda::TABLE,
        logic::TABLE,
        numeric::TABLE,
        object::TABLE,
        resource::TABLE,
        string::TABLE,
        unique::TABLE,
        zone::TABLE,
    ]
    .into_iter()
    .flatten()
}

/// Names of all functions, sorted.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = tables().map(|f| f.name).collect();
    names.sort_unstable_by_key(|n| n.to_ascii_lowercase());
    names
}

/// The function of this name, in any letter case. Every name that begins with `list` is an action of a resource.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    if MISSING.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
        return None;
    }
    let found = tables().find(|f| f.name.eq_ignore_ascii_case(name));
    let list = || name.get(..4).filter(|n| n.eq_ignore_ascii_case("list")).map(|_| &resource::LIST);
    found.or_else(list)
}

/// Why there is no function of that name.
pub(crate) fn unknown(name: &str) -> String {
    match MISSING.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
        Some((name, why)) => format!("The template function '{name}' is not offered by this server: {why}."),
        None => {
            format!(
                "The template function '{name}' is not valid. Please see https://aka.ms/arm-functions for usage details."
            )
        }
    }
}

impl Function {
    pub fn check_count(&self, given: usize) -> Result<(), String> {
        if (self.least..=self.most).contains(&given) {
            return Ok(());
        }
        let wanted = match (self.least, self.most) {
            (least, most) if least == most => format!("{least} argument(s)"),
            (least, MANY) => format!("at least {least} argument(s)"),
            (least, most) => format!("between {least} and {most} argument(s)"),
        };
        Err(format!(
            "Unable to evaluate template language function '{name}': function requires {wanted} while {given} were provided. \
             Please see https://aka.ms/arm-functions#{lower} for usage details.",
            name = self.name,
            lower = self.name.to_ascii_lowercase()
        ))
    }
}

/// The arguments of one call, read with the types that the function wants.
pub(crate) struct Args<'v> {
    pub function: &'v str,
    pub values: &'v [Value],
}

impl<'v> Args<'v> {
    pub fn wrong<T>(&self, index: usize, wanted: &str) -> Eval<T> {
        let kind = self.values.get(index).map_or("Null", type_name);
        error(format!(
            "The template language function '{}' expects its parameter {} to be {wanted}. The provided value is of type '{kind}'. \
             Please see https://aka.ms/arm-functions#{} for usage details.",
            self.function,
            index + 1,
            self.function.to_ascii_lowercase()
        ))
    }

    pub fn has(&self, index: usize) -> bool {
        self.values.get(index).is_some_and(|v| !v.is_null())
    }

    pub fn str(&self, index: usize) -> Eval<&'v str> {
        match self.values.get(index) {
            Some(Value::String(s)) => Ok(s),
            _ => self.wrong(index, "a string"),
        }
    }

    pub fn int(&self, index: usize) -> Eval<i64> {
        match self.values.get(index).and_then(Value::as_i64) {
            Some(n) => Ok(n),
            None => self.wrong(index, "an integer"),
        }
    }

    pub fn bool(&self, index: usize) -> Eval<bool> {
        match self.values.get(index) {
            Some(Value::Bool(b)) => Ok(*b),
            _ => self.wrong(index, "a boolean"),
        }
    }

    pub fn array(&self, index: usize) -> Eval<&'v Vec<Value>> {
        match self.values.get(index) {
            Some(Value::Array(a)) => Ok(a),
            _ => self.wrong(index, "an array"),
        }
    }

    pub fn object(&self, index: usize) -> Eval<&'v Map<String, Value>> {
        match self.values.get(index) {
            Some(Value::Object(o)) => Ok(o),
            _ => self.wrong(index, "an object"),
        }
    }
}

/// A value as text, where a function takes any simple value.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn invalid<T>(function: &str, why: &str) -> Eval<T> {
    Err(Fail::Error(format!(
        "Unable to evaluate the template language function '{function}'. {why} Please see https://aka.ms/arm-functions#{} for \
         usage details.",
        function.to_ascii_lowercase()
    )))
}
