//! Evaluates expressions and the JSON around them.
//!
//! Evaluation is pure. What must be read from outside (`reference`, `list…`) comes from [`Facts`]; where a fact is missing, it is
//! noted and evaluation fails with [`Fail::Needs`], after everything else was tried, so that one pass finds all facts that can be
//! known to be needed. Whoever evaluates fetches them and evaluates again.
//!
//! Work, memory and depth are bounded by [`Budget`]: a hostile template gets an error, never the machine.

use crate::environment::Environment;
use crate::expression::{self, Expr, Text};
use crate::facts::{Facts, Request};
use crate::functions::{self, Body};
use crate::template::Template;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// Why there is no value.
#[derive(Debug)]
pub(crate) enum Fail {
    /// Facts are missing; see [`Evaluator::missing`].
    Needs,
    /// In Azure's words.
    Error(String),
}

pub(crate) type Eval<T> = Result<T, Fail>;

pub(crate) fn error<T>(message: impl Into<String>) -> Eval<T> {
    Err(Fail::Error(message.into()))
}

/// What an evaluation may cost. A unit is a value or 16 bytes of text that was made.
struct Budget {
    left: Cell<u64>,
    depth: Cell<u32>,
}

const UNITS: u64 = 2_000_000;
/// Evaluations within each other.
const MAX_DEPTH: u32 = 150;
/// Objects and arrays within each other.
const MAX_NESTING: u32 = 100;

impl Budget {
    fn spend(&self, units: u64) -> Eval<()> {
        match self.left.get().checked_sub(units) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => error(
                "The template is too large to evaluate: its expressions produce more data than a deployment may have. Reduce \
                 the size of its loops, ranges and strings.",
            ),
        }
    }
}

/// Units of a value; an error if it is nested too deep.
fn size(value: &Value, depth: u32) -> Eval<u64> {
    if depth > MAX_NESTING {
        return error(format!("A value of the template is nested deeper than {MAX_NESTING} levels."));
    }
    match value {
        Value::String(s) => Ok(1 + s.len() as u64 / 16),
        Value::Array(items) => items.iter().try_fold(1, |sum, v| Ok(sum + size(v, depth + 1)?)),
        Value::Object(map) => {
            map.iter().try_fold(1, |sum, (k, v)| Ok(sum + 1 + k.len() as u64 / 16 + size(v, depth + 1)?))
        }
        _ => Ok(1),
    }
}

/// What names mean at a place of the template; inner frames first.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'f> {
    up: Option<&'f Frame<'f>>,
    item: Item<'f>,
}

#[derive(Clone, Copy)]
enum Item<'f> {
    Root(Place),
    /// Parameters of a user function; nothing outside it is seen.
    Arguments(&'f Map<String, Value>),
    /// A turn of a copy loop; the name is empty for one that has none.
    Copy {
        name: &'f str,
        index: u64,
        resource: bool,
    },
    Variable {
        name: &'f str,
        value: &'f Value,
    },
}

/// What the place of an expression allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Names, types, conditions, counts, variables: nothing that is known only when resources exist.
    Static,
    /// Default values of parameters: `newGuid`, `utcNow`.
    Default,
    /// Properties and outputs: `reference`, `list…`.
    Runtime,
}

impl<'f> Frame<'f> {
    pub fn root(place: Place) -> Self {
        Self { up: None, item: Item::Root(place) }
    }

    /// Within a turn of a resource's copy loop.
    pub fn copy(up: &'f Frame<'f>, name: &'f str, index: u64) -> Self {
        Self { up: Some(up), item: Item::Copy { name, index, resource: true } }
    }

    pub fn variable(up: &'f Frame<'f>, name: &'f str, value: &'f Value) -> Self {
        Self { up: Some(up), item: Item::Variable { name, value } }
    }

    fn find<T>(&self, mut pick: impl FnMut(&Item<'f>) -> Option<T>) -> Option<T> {
        let mut next = Some(self);
        while let Some(frame) = next {
            if let Some(found) = pick(&frame.item) {
                return Some(found);
            }
            next = frame.up;
        }
        None
    }

    pub fn place(&self) -> Place {
        self.find(|item| match item {
            Item::Root(place) => Some(*place),
            Item::Arguments(_) => Some(Place::Static),
            _ => None,
        })
        .unwrap_or(Place::Static)
    }

    /// Turn of the loop of that name; without a name, of the resource's loop.
    pub fn copy_index(&self, wanted: Option<&str>) -> Option<u64> {
        self.find(|item| match (item, wanted) {
            (Item::Copy { name, index, .. }, Some(wanted)) if name.eq_ignore_ascii_case(wanted) => Some(*index),
            (Item::Copy { index, resource: true, .. }, None) => Some(*index),
            _ => None,
        })
    }

    pub fn lambda_variable(&self, wanted: &str) -> Option<&'f Value> {
        self.find(|item| match item {
            Item::Variable { name, value } if name.eq_ignore_ascii_case(wanted) => Some(*value),
            _ => None,
        })
    }

    fn arguments(&self) -> Option<&'f Map<String, Value>> {
        self.find(|item| match item {
            Item::Arguments(map) => Some(*map),
            _ => None,
        })
    }
}

/// A parameter or variable: evaluated once, when it is asked for.
enum Slot {
    Running,
    Done(Value),
}

/// A resource of the template as `reference` finds it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub symbol: Option<String>,
    /// Name of the copy loop, for `references`.
    pub turn: Option<u64>,
    pub name: String,
    pub id: String,
    pub api_version: String,
}

/// One evaluation of one template.
pub(crate) struct Evaluator<'a> {
    pub template: &'a Template,
    pub environment: &'a Environment,
    pub facts: &'a Facts,
    pub resources: &'a [Known],
    given: &'a Map<String, Value>,
    parameters: RefCell<HashMap<String, Slot>>,
    variables: RefCell<HashMap<String, Slot>>,
    missing: RefCell<Vec<Request>>,
    budget: Budget,
}

impl<'a> Evaluator<'a> {
    /// `given`: values of parameters, by their names as declared.
    pub fn new(
        template: &'a Template,
        given: &'a Map<String, Value>,
        environment: &'a Environment,
        facts: &'a Facts,
        resources: &'a [Known],
    ) -> Self {
        Self {
            template,
            environment,
            facts,
            resources,
            given,
            parameters: RefCell::default(),
            variables: RefCell::default(),
            missing: RefCell::default(),
            budget: Budget { left: Cell::new(UNITS), depth: Cell::new(0) },
        }
    }

    /// The facts that were missing so far.
    pub fn missing(&self) -> Vec<Request> {
        self.missing.take()
    }

    /// A fact, or note that it is missing.
    pub fn fact(&self, request: Request) -> Eval<Value> {
        if let Some(value) = self.facts.get(&request) {
            return Ok(value.clone());
        }
        let mut missing = self.missing.borrow_mut();
        if !missing.contains(&request) {
            missing.push(request);
        }
        Err(Fail::Needs)
    }

    /// Accounts for a value that was made.
    pub fn charge(&self, value: &Value) -> Eval<()> {
        self.budget.spend(size(value, 0)?)
    }

    /// Accounts for a text before it is made.
    pub fn charge_text(&self, bytes: usize) -> Eval<()> {
        self.budget.spend(1 + bytes as u64 / 16)
    }

    fn deeper<T>(&self, work: impl FnOnce() -> Eval<T>) -> Eval<T> {
        self.budget.spend(1)?;
        let depth = self.budget.depth.get() + 1;
        if depth > MAX_DEPTH {
            return error(format!("The template's expressions are nested deeper than {MAX_DEPTH} evaluations."));
        }
        self.budget.depth.set(depth);
        let done = work();
        self.budget.depth.set(depth - 1);
        done
    }

    /// A JSON value of the template: strings that are expressions are evaluated, `copy` loops unrolled.
    pub fn value(&self, value: &Value, frame: &Frame<'_>) -> Eval<Value> {
        match value {
            Value::String(text) => self.text(text, frame),
            Value::Array(items) => self.deeper(|| all(items.iter().map(|v| self.value(v, frame))).map(Value::Array)),
            Value::Object(map) => self.deeper(|| self.object(map, frame)),
            other => Ok(other.clone()),
        }
    }

    fn object(&self, map: &Map<String, Value>, frame: &Frame<'_>) -> Eval<Value> {
        let mut out = Map::new();
        let mut needs = false;
        for (name, value) in map {
            let mut entry = || -> Eval<()> {
                if name.eq_ignore_ascii_case("copy")
                    && let Some(loops) = property_loops(value)
                {
                    for one in loops {
                        let (name, items) = self.property_loop(one, frame)?;
                        out.insert(name, items);
                    }
                    return Ok(());
                }
                let name = match expression::classify(name) {
                    Text::Literal(_) => name.clone(),
                    Text::Expression(_) => match self.text(name, frame)? {
                        Value::String(name) => name,
                        _ => return error(format!("The property name '{name}' must evaluate to a string.")),
                    },
                };
                let value = self.value(value, frame)?;
                out.insert(name, value);
                Ok(())
            };
            match entry() {
                Ok(()) => {}
                Err(Fail::Needs) => needs = true,
                Err(e) => return Err(e),
            }
        }
        if needs { Err(Fail::Needs) } else { Ok(out.into()) }
    }

    /// `{"name", "count", "input"}`: an array of as many inputs.
    pub fn property_loop(&self, one: &Value, frame: &Frame<'_>) -> Eval<(String, Value)> {
        let field = |name: &str| one.get(name).unwrap_or(&Value::Null);
        let Value::String(name) = self.value(field("name"), frame)? else {
            return error("A copy loop must have a name.");
        };
        let count = self.count(field("count"), &name, frame)?;
        let turns = (0..count).map(|index| {
            // Outputs have loops without names: `copyIndex()` means theirs.
            let turn = Frame { up: Some(frame), item: Item::Copy { name: &name, index, resource: name.is_empty() } };
            self.value(field("input"), &turn)
        });
        let items = all(turns)?;
        Ok((name, Value::Array(items)))
    }

    /// How often a loop turns.
    pub fn count(&self, count: &Value, name: &str, frame: &Frame<'_>) -> Eval<u64> {
        let count = self.value(count, frame)?;
        count.as_u64().filter(|n| *n <= MAX_COPIES).map_or_else(
            || {
                error(format!(
                    "The template copy definition '{name}' has an invalid copy count '{count}'. The value must be a \
                     non-negative integer of at most {MAX_COPIES}. Please see https://aka.ms/arm-resource-loops for usage details."
                ))
            },
            Ok,
        )
    }

    /// A string of the template.
    pub fn text(&self, text: &str, frame: &Frame<'_>) -> Eval<Value> {
        match expression::classify(text) {
            Text::Literal(literal) => {
                self.charge_text(literal.len())?;
                Ok(literal.into())
            }
            Text::Expression(source) => {
                self.charge_text(source.len())?;
                let expr = expression::parse(source).map_err(Fail::Error)?;
                self.expr(&expr, frame)
            }
        }
    }

    pub fn expr(&self, expr: &Expr, frame: &Frame<'_>) -> Eval<Value> {
        match expr {
            Expr::Text(text) => {
                self.charge_text(text.len())?;
                Ok(text.as_str().into())
            }
            Expr::Int(n) => Ok((*n).into()),
            Expr::Call { name, args } => self.deeper(|| self.call(name, args, frame)),
            Expr::Member { of, key, safe } => self.deeper(|| self.member(of, key, *safe, frame)),
        }
    }

    fn member(&self, of: &Expr, key: &Expr, safe: bool, frame: &Frame<'_>) -> Eval<Value> {
        let (of, key) = both(self.expr(of, frame), self.expr(key, frame))?;
        match member(of, &key) {
            Err(Fail::Error(_)) if safe => Ok(Value::Null),
            other => other,
        }
    }

    fn call(&self, name: &str, args: &[Expr], frame: &Frame<'_>) -> Eval<Value> {
        if name.contains('.') {
            return self.user_function(name, args, frame);
        }
        let Some(function) = functions::find(name) else {
            return error(functions::unknown(name));
        };
        function.check_count(args.len()).map_err(Fail::Error)?;
        let value = match function.body {
            Body::Pure(run) => {
                let args = all(args.iter().map(|a| self.expr(a, frame)))?;
                run(function.name, args, self)?
            }
            Body::Scoped(run) => {
                let args = all(args.iter().map(|a| self.expr(a, frame)))?;
                run(name, args, self, frame)?
            }
            Body::Special(run) => run(args, self, frame)?,
        };
        self.charge(&value)?;
        Ok(value)
    }

    fn user_function(&self, name: &str, args: &[Expr], frame: &Frame<'_>) -> Eval<Value> {
        let Some(function) = self.template.functions.get(&name.to_ascii_lowercase()) else {
            return error(functions::unknown(name));
        };
        if args.len() != function.parameters.len() {
            return error(format!(
                "Unable to evaluate template language function '{name}': function requires {} argument(s) while {} were provided.",
                function.parameters.len(),
                args.len()
            ));
        }
        let values = all(args.iter().map(|a| self.expr(a, frame)))?;
        let mut arguments = Map::new();
        for ((parameter, definition), value) in function.parameters.iter().zip(values) {
            crate::types::check(self.template, definition, &value, parameter).map_err(Fail::Error)?;
            arguments.insert(parameter.clone(), value);
        }
        self.value(&function.value, &Frame { up: None, item: Item::Arguments(&arguments) })
    }

    pub fn parameter(&self, name: &str, frame: &Frame<'_>) -> Eval<Value> {
        let not_found = || {
            error(format!(
                "The template parameter '{name}' is not found. Please see https://aka.ms/arm-syntax-parameters for usage details."
            ))
        };
        if let Some(arguments) = frame.arguments() {
            return get(arguments, name).map_or_else(not_found, |v| Ok(v.clone()));
        }
        let Some((declared, definition)) = entry(&self.template.parameters, name) else { return not_found() };
        if let Some(value) = self.given.get(declared) {
            return Ok(value.clone());
        }
        self.once(&self.parameters, declared, "parameter", || {
            match definition.get("defaultValue") {
                Some(default) => self.value(default, &Frame::root(Place::Default)),
                // Only what may be null has neither a value nor a default.
                None => Ok(Value::Null),
            }
        })
    }

    pub fn variable(&self, name: &str, frame: &Frame<'_>) -> Eval<Value> {
        let not_found = || {
            error(format!(
                "The template variable '{name}' is not found. Please see https://aka.ms/arm-syntax-variables for usage details."
            ))
        };
        if frame.arguments().is_some() {
            return error(
                "The template function 'variables' is not expected at this location: user functions see only their parameters.",
            );
        }
        if let Some((declared, value)) = entry(&self.template.variables, name) {
            return self.once(&self.variables, declared, "variable", || self.value(value, &Frame::root(Place::Static)));
        }
        match self
            .template
            .variable_loops
            .iter()
            .find(|l| l["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))
        {
            Some(one) => self.once(&self.variables, name, "variable", || {
                Ok(self.property_loop(one, &Frame::root(Place::Static))?.1)
            }),
            None => not_found(),
        }
    }

    fn once(
        &self,
        slots: &RefCell<HashMap<String, Slot>>,
        name: &str,
        what: &str,
        make: impl FnOnce() -> Eval<Value>,
    ) -> Eval<Value> {
        let key = name.to_ascii_lowercase();
        match slots.borrow().get(&key) {
            Some(Slot::Done(value)) => return Ok(value.clone()),
            Some(Slot::Running) => {
                return error(format!("The template {what} '{name}' refers to itself: its definition has a cycle."));
            }
            None => {}
        }
        slots.borrow_mut().insert(key.clone(), Slot::Running);
        let made = make();
        match &made {
            Ok(value) => drop(slots.borrow_mut().insert(key, Slot::Done(value.clone()))),
            Err(_) => drop(slots.borrow_mut().remove(&key)),
        }
        made
    }
}

/// Azure's own bound for a loop.
pub(crate) const MAX_COPIES: u64 = 800;

/// The loops of a `copy` property, if it is one.
fn property_loops(value: &Value) -> Option<&Vec<Value>> {
    let loops = value.as_array()?;
    let is_loop = |v: &Value| v.get("name").is_some() && v.get("count").is_some() && v.get("input").is_some();
    (!loops.is_empty() && loops.iter().all(is_loop)).then_some(loops)
}

/// All values; missing facts are only told when all were tried.
pub(crate) fn all<T>(values: impl Iterator<Item = Eval<T>>) -> Eval<Vec<T>> {
    let mut out = Vec::new();
    let mut needs = false;
    for value in values {
        match value {
            Ok(value) => out.push(value),
            Err(Fail::Needs) => needs = true,
            Err(e) => return Err(e),
        }
    }
    if needs { Err(Fail::Needs) } else { Ok(out) }
}

fn both<A, B>(a: Eval<A>, b: Eval<B>) -> Eval<(A, B)> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(Fail::Error(e)), _) | (_, Err(Fail::Error(e))) => Err(Fail::Error(e)),
        _ => Err(Fail::Needs),
    }
}

/// An entry, its name in any letter case.
pub(crate) fn entry<'m>(map: &'m Map<String, Value>, name: &str) -> Option<(&'m String, &'m Value)> {
    map.get_key_value(name).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)))
}

pub(crate) fn get<'m>(map: &'m Map<String, Value>, name: &str) -> Option<&'m Value> {
    entry(map, name).map(|(_, v)| v)
}

/// `of.key` or `of[key]`.
pub(crate) fn member(of: Value, key: &Value) -> Eval<Value> {
    match (of, key) {
        (Value::Object(map), Value::String(name)) => match get(&map, name) {
            Some(value) => Ok(value.clone()),
            None => {
                let names: Vec<&str> = map.keys().map(String::as_str).take(20).collect();
                error(format!(
                    "The language expression property '{name}' doesn't exist, available properties are '{}'.",
                    names.join(", ")
                ))
            }
        },
        (Value::Array(mut items), Value::Number(index)) => {
            let index = index.as_u64().and_then(|i| usize::try_from(i).ok()).filter(|i| *i < items.len());
            match index {
                Some(index) => Ok(items.swap_remove(index)),
                None => error(format!("The language expression property array index '{key}' is out of bounds.")),
            }
        }
        (Value::Array(_), key) => error(format!(
            "The language expression property '{key}' can't be evaluated, property name must be a number."
        )),
        (of, key) => error(format!(
            "The language expression property '{}' can't be evaluated: a value of type '{}' has no properties.",
            key.as_str().map_or_else(|| key.to_string(), str::to_owned),
            type_name(&of)
        )),
    }
}

/// As Azure's messages name JSON types.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "Null",
        Value::Bool(_) => "Boolean",
        Value::Number(n) if n.is_f64() => "Float",
        Value::Number(_) => "Integer",
        Value::String(_) => "String",
        Value::Array(_) => "Array",
        Value::Object(_) => "Object",
    }
}
