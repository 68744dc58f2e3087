//! A deployment of a template: which resources, under which ids, in which order.
//!
//! Names, types, conditions and loops are evaluated here, once. Bodies are evaluated when their turn comes ([`Plan::body`]),
//! but each is tried here already: what is wrong whatever the world is like is found before anything is deployed, and what a
//! body refers to becomes a dependency.

use crate::environment::{Environment, Level};
use crate::eval::{Eval, Evaluator, Fail, Frame, Known, Place};
use crate::expression;
use crate::facts::{Facts, Request};
use crate::graph;
use crate::template::{Declared, MAX_RESOURCES, Template, is_deployment};
use crate::types;
use crate::{invalid, validation};
use lazuli_arm::ArmError;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A resource of a deployment.
#[derive(Debug, Clone)]
pub struct Planned {
    pub id: String,
    /// `Microsoft.Network/virtualNetworks/subnets`
    pub kind: String,
    /// `v/s` for a child.
    pub name: String,
    pub symbol: Option<String>,
    pub api_version: String,
    /// `false`: it is not deployed.
    pub condition: bool,
    /// Only referred to, never written.
    pub existing: bool,
    /// Whoever must be done before, as indexes into [`Plan::resources`].
    pub depends_on: Vec<usize>,
    turn: Option<Turn>,
    declared: Arc<Map<String, Value>>,
}

#[derive(Debug, Clone)]
struct Turn {
    name: String,
    index: u64,
    /// So many at a time; 0: all of them.
    batch: u64,
}

/// A value, or what must be read for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Evaluated {
    Ready(Value),
    Needs(Vec<Request>),
}

/// What is deployed.
#[derive(Debug, Clone)]
pub struct Plan {
    template: Template,
    parameters: Map<String, Value>,
    environment: Environment,
    pub resources: Vec<Planned>,
    known: Vec<Known>,
}

/// What is no part of a resource's body.
const NOT_BODY: &[&str] = &[
    "apiVersion",
    "asserts",
    "comments",
    "condition",
    "copy",
    "dependsOn",
    "existing",
    "import",
    "metadata",
    "name",
    "resources",
    "scope",
    "type",
];

impl Plan {
    /// Plans a deployment. `parameters` are those of [`Template::bind`].
    ///
    /// # Errors
    /// `InvalidTemplate`.
    pub fn new(template: Template, parameters: Map<String, Value>, environment: Environment) -> Result<Self, ArmError> {
        let mut resources = Vec::new();
        {
            let facts = Facts::default();
            let evaluator = Evaluator::new(&template, &parameters, &environment, &facts, &[]);
            for declared in &template.resources {
                expand(&evaluator, declared, None, &mut resources)?;
            }
        }
        let known = resources
            .iter()
            .map(|r| Known {
                symbol: r.symbol.clone(),
                turn: r.turn.as_ref().map(|t| t.index),
                name: r.name.clone(),
                id: r.id.clone(),
                api_version: r.api_version.clone(),
            })
            .collect();
        let mut plan = Self { template, parameters, environment, resources, known };
        plan.check_duplicates()?;
        plan.resolve_dependencies()?;
        graph::check(&plan.resources)?;
        Ok(plan)
    }

    /// The bound parameters.
    pub fn parameters(&self) -> &Map<String, Value> {
        &self.parameters
    }

    pub fn template(&self) -> &Template {
        &self.template
    }

    /// What a resource is written with.
    ///
    /// # Errors
    /// `InvalidTemplate` where an expression has no value.
    pub fn body(&self, index: usize, facts: &Facts) -> Result<Evaluated, ArmError> {
        let evaluator = Evaluator::new(&self.template, &self.parameters, &self.environment, facts, &self.known);
        let resource = &self.resources[index];
        done(&evaluator, body(&evaluator, resource)).map_err(|why| {
            invalid(format!("Unable to process template language expressions for resource '{}'. '{why}'", resource.id))
        })
    }

    /// `{"name": {"type", "value"}}`; those of secure types without their values.
    ///
    /// # Errors
    /// As [`Plan::body`].
    pub fn outputs(&self, facts: &Facts) -> Result<Evaluated, ArmError> {
        let evaluator = Evaluator::new(&self.template, &self.parameters, &self.environment, facts, &self.known);
        done(&evaluator, outputs(&evaluator)).map_err(output_error)
    }

    fn check_duplicates(&self) -> Result<(), ArmError> {
        let mut seen = BTreeSet::new();
        for resource in self.resources.iter().filter(|r| r.condition) {
            if !seen.insert(resource.id.to_ascii_lowercase()) {
                return Err(validation(format!(
                    "The resource '{}' is defined multiple times in a template. Please see https://aka.ms/arm-syntax-resources for \
                     usage details.",
                    resource.id
                )));
            }
        }
        Ok(())
    }

    fn resolve_dependencies(&mut self) -> Result<(), ArmError> {
        let facts = Facts::default();
        let evaluator = Evaluator::new(&self.template, &self.parameters, &self.environment, &facts, &self.known);
        let mut all = Vec::with_capacity(self.resources.len());
        for (index, resource) in self.resources.iter().enumerate() {
            let mut on: BTreeSet<usize> = BTreeSet::new();
            if resource.condition {
                self.explicit(&evaluator, resource, &mut on)?;
                self.implicit(&evaluator, resource, &mut on)?;
                self.batches(resource, &mut on);
                self.parents(resource, &mut on);
                // Asking for its own loop's name means the other turns' too; nobody waits for itself by that.
                on.remove(&index);
            }
            all.push(on.into_iter().filter(|i| self.resources[*i].condition).collect());
        }
        done(&evaluator, outputs(&evaluator)).map_err(output_error)?;
        for (resource, on) in self.resources.iter_mut().zip(all) {
            resource.depends_on = on;
        }
        Ok(())
    }

    /// `dependsOn`.
    fn explicit(
        &self,
        evaluator: &Evaluator<'_>,
        resource: &Planned,
        on: &mut BTreeSet<usize>,
    ) -> Result<(), ArmError> {
        let listed = match resource.declared.get("dependsOn") {
            None | Some(Value::Null) => return Ok(()),
            Some(listed) => in_turn(resource, Place::Static, |frame| evaluator.value(listed, frame))
                .map_err(|failed| resource_error(&resource.name, failed))?,
        };
        let Value::Array(names) = listed else {
            return Err(resource_error(&resource.name, Fail::Error("dependsOn must be an array of strings.".into())));
        };
        for name in names {
            let Value::String(name) = name else {
                return Err(resource_error(
                    &resource.name,
                    Fail::Error("dependsOn must be an array of strings.".into()),
                ));
            };
            let found: Vec<usize> = self.called(&name);
            if found.is_empty() {
                return Err(validation(format!(
                    "The resource '{name}' is not defined in the template. Please see https://aka.ms/arm-syntax for usage details."
                )));
            }
            on.extend(found);
        }
        Ok(())
    }

    /// Resources that a text names: by symbolic name, loop, id, type and name, or name alone.
    fn called(&self, text: &str) -> Vec<usize> {
        let text = text.trim_start_matches('/').to_ascii_lowercase();
        let select = |matches: &dyn Fn(&Planned) -> bool| -> Vec<usize> {
            self.resources.iter().enumerate().filter(|(_, r)| matches(r)).map(|(i, _)| i).collect()
        };
        let is = |other: &str| other.trim_start_matches('/').eq_ignore_ascii_case(&text);
        let ways: [&dyn Fn(&Planned) -> bool; 5] = [
            &|r| r.symbol.as_deref().is_some_and(is),
            &|r| r.turn.as_ref().is_some_and(|t| is(&t.name)),
            &|r| is(&r.id),
            // What `resourceId` gives above subscriptions begins with `/providers/`, wherever the resource is.
            &|r| r.id.rsplit_once("/providers/").is_some_and(|(_, tail)| is(tail) || is(&format!("providers/{tail}"))),
            &|r| is(&r.name),
        ];
        ways.iter().map(|way| select(way)).find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// What its body asks for.
    fn implicit(
        &self,
        evaluator: &Evaluator<'_>,
        resource: &Planned,
        on: &mut BTreeSet<usize>,
    ) -> Result<(), ArmError> {
        match done(evaluator, body(evaluator, resource)) {
            Ok(Evaluated::Ready(_)) => Ok(()),
            Ok(Evaluated::Needs(requests)) => {
                let wanted = |r: &Planned| requests.iter().any(|q| q.id().eq_ignore_ascii_case(&r.id));
                on.extend(self.resources.iter().enumerate().filter(|(_, r)| wanted(r)).map(|(i, _)| i));
                Ok(())
            }
            Err(why) => Err(resource_error(&resource.name, Fail::Error(why))),
        }
    }

    /// A turn of a serial loop waits for the batch before its own.
    fn batches(&self, resource: &Planned, on: &mut BTreeSet<usize>) {
        let Some(turn) = resource.turn.as_ref().filter(|t| t.batch > 0) else { return };
        let Some(before) = (turn.index / turn.batch).checked_sub(1) else { return };
        let earlier = |r: &Planned| {
            r.turn.as_ref().is_some_and(|t| t.name.eq_ignore_ascii_case(&turn.name) && t.index / turn.batch == before)
        };
        on.extend(self.resources.iter().enumerate().filter(|(_, r)| earlier(r)).map(|(i, _)| i));
    }

    /// A child waits for its parent, where both are deployed: without it, it could not be written.
    fn parents(&self, resource: &Planned, on: &mut BTreeSet<usize>) {
        let id = resource.id.to_ascii_lowercase();
        let above = |r: &Planned| {
            let parent = r.id.to_ascii_lowercase();
            id.strip_prefix(&parent).is_some_and(|rest| rest.starts_with('/') && !rest.starts_with("/providers/"))
                || (r.kind.eq_ignore_ascii_case("Microsoft.Resources/resourceGroups")
                    && id.starts_with(&format!("{parent}/providers/")))
        };
        on.extend(self.resources.iter().enumerate().filter(|(_, r)| above(r)).map(|(i, _)| i));
    }
}

fn output_error(why: String) -> ArmError {
    invalid(format!("Unable to process template language expressions in the outputs of the template. '{why}'"))
}

fn resource_error(name: &str, failed: Fail) -> ArmError {
    match failed {
        Fail::Error(why) => validation(format!("The template resource '{name}' is not valid: {why}")),
        Fail::Needs => validation(format!(
            "The template resource '{name}' is not valid: The template function 'reference' is not expected at this location."
        )),
    }
}

fn done(evaluator: &Evaluator<'_>, result: Eval<Value>) -> Result<Evaluated, String> {
    let missing = evaluator.missing();
    match result {
        Ok(value) => Ok(Evaluated::Ready(value)),
        Err(Fail::Needs) => Ok(Evaluated::Needs(missing)),
        Err(Fail::Error(why)) => Err(why),
    }
}

/// Evaluates within a resource's turn of its loop.
fn in_turn<T>(resource: &Planned, place: Place, work: impl FnOnce(&Frame<'_>) -> T) -> T {
    let root = Frame::root(place);
    match &resource.turn {
        Some(turn) => work(&Frame::copy(&root, &turn.name, turn.index)),
        None => work(&root),
    }
}

/// The parent that a nested resource stands in.
struct Parent<'p> {
    kind: &'p str,
    name: &'p str,
    condition: bool,
    turn: Option<&'p Turn>,
}

/// Adds the turns of a resource and of those within it.
fn expand(
    evaluator: &Evaluator<'_>,
    declared: &Declared,
    parent: Option<&Parent<'_>>,
    out: &mut Vec<Planned>,
) -> Result<(), ArmError> {
    let shown =
        declared.symbol.as_deref().or_else(|| declared.body.get("name")?.as_str()).unwrap_or("(without a name)");
    let failed = |f| resource_error(shown, f);
    let body = Arc::new(declared.body.clone());
    let turns = turns(evaluator, &declared.body).map_err(failed)?;
    for turn in turns {
        let turn = turn.or_else(|| parent.and_then(|p| p.turn.cloned()));
        let planned = one(evaluator, declared, &body, turn, parent).map_err(failed)?;
        if out.len() >= MAX_RESOURCES {
            return Err(validation(format!(
                "The number of template resources limit exceeded. Limit: '{MAX_RESOURCES}'."
            )));
        }
        out.push(planned.clone());
        let within = Parent {
            kind: &planned.kind,
            name: &planned.name,
            condition: planned.condition,
            turn: planned.turn.as_ref(),
        };
        let children = match declared.body.get("resources") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(children)) => children,
            Some(_) => return Err(failed(Fail::Error("its section 'resources' must be an array.".into()))),
        };
        for child in children {
            let Value::Object(child) = child else {
                return Err(failed(Fail::Error("its section 'resources' must hold objects.".into())));
            };
            expand(evaluator, &Declared { symbol: None, body: child.clone() }, Some(&within), out)?;
        }
    }
    Ok(())
}

/// Turns of the resource's loop; one that is none where it has no loop.
fn turns(evaluator: &Evaluator<'_>, body: &Map<String, Value>) -> Eval<Vec<Option<Turn>>> {
    let copy = match body.get("copy") {
        None | Some(Value::Null) => return Ok(vec![None]),
        Some(copy) => copy,
    };
    let root = Frame::root(Place::Static);
    let Value::String(name) = evaluator.value(copy.get("name").unwrap_or(&Value::Null), &root)? else {
        return Err(Fail::Error("its copy loop must have a name.".into()));
    };
    let count = evaluator.count(copy.get("count").unwrap_or(&Value::Null), &name, &root)?;
    let serial = match copy.get("mode").map(|m| evaluator.value(m, &root)).transpose()? {
        Some(Value::String(mode)) if mode.eq_ignore_ascii_case("serial") => true,
        Some(Value::String(mode)) if mode.eq_ignore_ascii_case("parallel") => false,
        None | Some(Value::Null) => false,
        Some(mode) => {
            return Err(Fail::Error(format!("the mode '{mode}' of its copy loop is neither 'serial' nor 'parallel'.")));
        }
    };
    let batch = match copy.get("batchSize").map(|b| evaluator.value(b, &root)).transpose()? {
        None | Some(Value::Null) => 1,
        Some(size) => size.as_u64().filter(|n| *n > 0).ok_or_else(|| {
            Fail::Error(format!("the batchSize '{size}' of its copy loop must be an integer of at least 1."))
        })?,
    };
    let batch = if serial { batch } else { 0 };
    Ok((0..count).map(|index| Some(Turn { name: name.clone(), index, batch })).collect())
}

fn one(
    evaluator: &Evaluator<'_>,
    declared: &Declared,
    body: &Arc<Map<String, Value>>,
    turn: Option<Turn>,
    parent: Option<&Parent<'_>>,
) -> Eval<Planned> {
    let mut planned = Planned {
        id: String::new(),
        kind: String::new(),
        name: String::new(),
        symbol: declared.symbol.clone(),
        api_version: String::new(),
        condition: true,
        existing: body.get("existing").and_then(Value::as_bool) == Some(true),
        depends_on: vec![],
        turn,
        declared: body.clone(),
    };
    let text = |planned: &Planned, field: &str| -> Eval<String> {
        let Some(value) = body.get(field) else { return Err(Fail::Error(format!("its '{field}' is missing."))) };
        match in_turn(planned, Place::Static, |frame| evaluator.value(value, frame))? {
            Value::String(text) if !text.is_empty() => Ok(text),
            _ => Err(Fail::Error(format!("its '{field}' must be a string that is not empty."))),
        }
    };
    let (mut kind, mut name) = (text(&planned, "type")?, text(&planned, "name")?);
    if let Some(parent) = parent {
        kind = if kind.to_ascii_lowercase().starts_with(&format!("{}/", parent.kind.to_ascii_lowercase())) {
            kind
        } else {
            format!("{}/{kind}", parent.kind)
        };
        name = if name.matches('/').count() == kind.matches('/').count() - 1 {
            name
        } else {
            format!("{}/{name}", parent.name)
        };
    }
    let condition = match body.get("condition") {
        None | Some(Value::Null) => true,
        Some(value) => match in_turn(&planned, Place::Static, |frame| evaluator.value(value, frame))? {
            Value::Bool(condition) => condition,
            _ => return Err(Fail::Error("its condition must be a boolean.".into())),
        },
    };
    planned.condition = condition && parent.is_none_or(|p| p.condition);
    planned.api_version = text(&planned, "apiVersion")?;
    (planned.kind, planned.name) = (kind, name);
    let scope = scope(evaluator, &planned)?;
    planned.id = id(&planned, &scope)?;
    Ok(planned)
}

/// What the resource's id begins with.
fn scope(evaluator: &Evaluator<'_>, planned: &Planned) -> Eval<String> {
    let field = |name: &str| -> Eval<Option<String>> {
        match planned.declared.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match in_turn(planned, Place::Static, |frame| evaluator.value(value, frame))? {
                Value::String(text) => Ok(Some(text)),
                Value::Null => Ok(None),
                _ => Err(Fail::Error(format!("its '{name}' must be a string."))),
            },
        }
    };
    let environment = evaluator.environment;
    if let Some(scope) = field("scope")? {
        // `/` is the tenant; what is no id yet is relative to this deployment, unless it can only be the tenant's.
        return Ok(match scope.trim_end_matches('/') {
            "" => String::new(),
            id if id.starts_with('/') => id.to_owned(),
            group if is_management_group(group) => format!("/providers/{group}"),
            relative => format!("{}/providers/{relative}", environment.scope()),
        });
    }
    if is_deployment(&planned.declared) {
        let (subscription, group) = (field("subscriptionId")?, field("resourceGroup")?);
        let own = environment.subscription.clone();
        return match (subscription.clone().or(own), group) {
            (Some(subscription), Some(group)) => Ok(format!("/subscriptions/{subscription}/resourceGroups/{group}")),
            (None, Some(_)) => Err(Fail::Error("a deployment to a resource group needs its 'subscriptionId'.".into())),
            (Some(id), None) if subscription.is_some() => Ok(format!("/subscriptions/{id}")),
            _ => Ok(environment.scope()),
        };
    }
    Ok(environment.scope())
}

fn is_management_group(relative: &str) -> bool {
    let prefix = "Microsoft.Management/managementGroups/";
    relative.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn id(planned: &Planned, scope: &str) -> Eval<String> {
    let mut words = planned.kind.split('/');
    let namespace = words.next().unwrap_or_default();
    let types: Vec<&str> = words.collect();
    let names: Vec<&str> = planned.name.split('/').collect();
    if types.len() != names.len() || types.iter().chain(&names).any(|w| w.is_empty()) {
        return Err(Fail::Error(format!(
            "The template resource '{}' for type '{}' has incorrect segment lengths. A nested resource type must have identical \
             number of segments as its resource name. A root resource type must have segment length one greater than its resource \
             name. Please see https://aka.ms/arm-syntax-resources for usage details.",
            planned.name, planned.kind
        )));
    }
    if planned.kind.eq_ignore_ascii_case("Microsoft.Resources/resourceGroups") {
        let subscription = scope.split("/resourceGroups/").next().unwrap_or_default();
        return Ok(format!("{subscription}/resourceGroups/{}", planned.name));
    }
    let pairs: String = types.iter().zip(&names).map(|(t, n)| format!("/{t}/{n}")).collect();
    Ok(format!("{scope}/providers/{namespace}{pairs}"))
}

/// The body that a resource is written with.
fn body(evaluator: &Evaluator<'_>, resource: &Planned) -> Eval<Value> {
    let nested = is_deployment(&resource.declared);
    let mut raw = Map::new();
    for (name, value) in resource.declared.iter() {
        let addressed = nested && matches!(name.as_str(), "resourceGroup" | "subscriptionId");
        if !NOT_BODY.contains(&name.as_str()) && !addressed {
            raw.insert(name.clone(), value.clone());
        }
    }
    if resource.existing {
        return Ok(Value::Object(Map::new()));
    }
    in_turn(resource, Place::Runtime, |frame| {
        let mut body =
            if nested { nested_deployment(evaluator, raw, frame)? } else { evaluator.value(&raw.into(), frame)? };
        if let Value::Object(map) = &mut body {
            map.retain(|_, value| !value.is_null());
        }
        Ok(body)
    })
}

/// A deployment within a deployment. In the inner scope its template is passed on as it is; in the outer one (the default) its
/// expressions are this template's, so that nothing in it is an expression afterwards.
fn nested_deployment(evaluator: &Evaluator<'_>, mut raw: Map<String, Value>, frame: &Frame<'_>) -> Eval<Value> {
    let template = raw.get_mut("properties").and_then(|p| p.as_object_mut()?.shift_remove("template"));
    let mut body = evaluator.value(&raw.into(), frame);
    let template = match template {
        None => None,
        Some(template) => {
            let options =
                body.as_ref().ok().and_then(|b| b["properties"]["expressionEvaluationOptions"]["scope"].as_str());
            let inner = options.is_some_and(|s| s.eq_ignore_ascii_case("inner"));
            Some(if inner { Ok(template) } else { evaluator.value(&template, frame).map(literal) })
        }
    };
    if let (Ok(body), Some(template)) = (&mut body, template) {
        body["properties"]["template"] = template?;
    }
    body
}

/// The value as a template that means just this value.
fn literal(value: Value) -> Value {
    match value {
        Value::String(text) => expression::escape(&text).into(),
        Value::Array(items) => items.into_iter().map(literal).collect(),
        Value::Object(map) => map.into_iter().map(|(name, v)| (name, literal(v))).collect::<Map<_, _>>().into(),
        other => other,
    }
}

fn outputs(evaluator: &Evaluator<'_>) -> Eval<Value> {
    let root = Frame::root(Place::Runtime);
    let mut out = Map::new();
    let mut needs = false;
    for (name, output) in &evaluator.template.outputs {
        match one_output(evaluator, output, &root) {
            Ok(None) => {}
            Ok(Some(value)) => {
                types::check(evaluator.template, output, &value, name)
                    .map_err(|why| Fail::Error(why.replace("template parameter", "template output")))?;
                let shown = types::shown_type(evaluator.template, output);
                let secure = types::is_secure(evaluator.template, output);
                out.insert(
                    name.clone(),
                    if secure { json!({"type": shown}) } else { json!({"type": shown, "value": value}) },
                );
            }
            Err(Fail::Needs) => needs = true,
            Err(Fail::Error(why)) => {
                return Err(Fail::Error(format!("The template output '{name}' is not valid: {why}")));
            }
        }
    }
    if needs { Err(Fail::Needs) } else { Ok(out.into()) }
}

/// `None`: its condition does not hold.
fn one_output(evaluator: &Evaluator<'_>, output: &Value, root: &Frame<'_>) -> Eval<Option<Value>> {
    if let Some(condition) = output.get("condition")
        && evaluator.value(condition, root)? != Value::Bool(true)
    {
        return Ok(None);
    }
    match output.get("copy") {
        Some(copy) => {
            let mut named = copy.clone();
            if named.get("name").is_none() && named.is_object() {
                named["name"] = "".into();
            }
            evaluator.property_loop(&named, root).map(|(_, items)| Some(items))
        }
        None => evaluator.value(output.get("value").unwrap_or(&Value::Null), root).map(Some),
    }
}

impl Plan {
    /// To what it deploys.
    pub fn level(&self) -> Level {
        self.environment.level()
    }
}
