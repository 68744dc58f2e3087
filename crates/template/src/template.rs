//! A template as it was sent: its sections, checked for their shape; every expression in it parses and names functions that
//! exist. Nothing is evaluated here.

use crate::environment::Level;
use crate::expression::{self, Text};
use crate::functions;
use crate::{invalid, validation};
use lazuli_arm::ArmError;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Azure's own bounds.
const MAX_PARAMETERS: usize = 256;
const MAX_VARIABLES: usize = 512;
const MAX_OUTPUTS: usize = 64;
pub(crate) const MAX_RESOURCES: usize = 800;

/// A template that can be deployed.
#[derive(Debug, Clone)]
pub struct Template {
    /// To what its schema says that it deploys; templates with an unknown schema deploy to groups.
    pub level: Level,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) variables: Map<String, Value>,
    /// `variables.copy`: `{name, count, input}`.
    pub(crate) variable_loops: Vec<Value>,
    /// By `namespace.name` in lower case.
    pub(crate) functions: HashMap<String, UserFunction>,
    pub(crate) definitions: Map<String, Value>,
    pub(crate) resources: Vec<Declared>,
    pub(crate) outputs: Map<String, Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct UserFunction {
    /// Names with their definitions.
    pub parameters: Vec<(String, Value)>,
    pub value: Value,
}

/// A resource as it stands in the template.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub symbol: Option<String>,
    pub body: Map<String, Value>,
}

const SECTIONS: &[&str] = &[
    "$schema",
    "apiProfile",
    "contentVersion",
    "definitions",
    "functions",
    "languageVersion",
    "metadata",
    "outputs",
    "parameters",
    "resources",
    "variables",
];

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// `InvalidTemplate`.
    pub fn parse(template: &Value) -> Result<Self, ArmError> {
        let Value::Object(root) = template else {
            return Err(invalid("Deployment template parse failed: 'The template must be a JSON object.'."));
        };
        check_sections(root)?;
        let section = |name: &str| -> Result<Map<String, Value>, ArmError> {
            match root.get(name) {
                None | Some(Value::Null) => Ok(Map::new()),
                Some(Value::Object(map)) => Ok(map.clone()),
                Some(_) => Err(invalid(format!(
                    "Deployment template parse failed: 'The section '{name}' must be a JSON object. Path '{name}'.'."
                ))),
            }
        };
        let (variables, variable_loops) = split_loops(section("variables")?)?;
        let parsed = Self {
            level: level_of(root["$schema"].as_str().unwrap_or_default()),
            parameters: section("parameters")?,
            variables,
            variable_loops,
            functions: user_functions(root.get("functions"))?,
            definitions: section("definitions")?,
            resources: resources(&root["resources"])?,
            outputs: section("outputs")?,
        };
        parsed.check_sizes()?;
        parsed.check_definitions()?;
        parsed.check_expressions()?;
        Ok(parsed)
    }

    /// Names of the parameters whose values are never shown.
    pub fn secure_parameters(&self) -> Vec<&str> {
        let secure = |definition: &Value| crate::types::is_secure(self, definition);
        self.parameters.iter().filter(|(_, d)| secure(d)).map(|(n, _)| n.as_str()).collect()
    }

    /// Types of the parameters as Azure shows them: `String`, `SecureString`, `Int`, …
    pub fn parameter_types(&self) -> impl Iterator<Item = (&str, String)> {
        self.parameters.iter().map(|(name, definition)| (name.as_str(), crate::types::shown_type(self, definition)))
    }

    fn check_sizes(&self) -> Result<(), ArmError> {
        for (what, count, most) in [
            ("parameters", self.parameters.len(), MAX_PARAMETERS),
            ("variables", self.variables.len() + self.variable_loops.len(), MAX_VARIABLES),
            ("outputs", self.outputs.len(), MAX_OUTPUTS),
            ("resources", self.resources.len(), MAX_RESOURCES),
        ] {
            if count > most {
                return Err(validation(format!(
                    "The number of template {what} limit exceeded. Limit: '{most}' and actual: '{count}'."
                )));
            }
        }
        Ok(())
    }

    fn check_definitions(&self) -> Result<(), ArmError> {
        for (name, definition) in &self.parameters {
            crate::types::check_definition(self, definition)
                .map_err(|why| validation(format!("The template parameter '{name}' is not valid: {why}")))?;
        }
        for (name, output) in &self.outputs {
            crate::types::check_definition(self, output)
                .map_err(|why| validation(format!("The template output '{name}' is not valid: {why}")))?;
            if output.get("value").is_none() && output.get("copy").is_none() {
                return Err(validation(format!(
                    "The template output '{name}' is not valid: it has neither a value nor a copy."
                )));
            }
        }
        Ok(())
    }

    fn check_expressions(&self) -> Result<(), ArmError> {
        let check = |value: &Value, what: &str, name: &str| {
            self.check_value(value)
                .map_err(|why| validation(format!("The template {what} '{name}' is not valid: {why}")))
        };
        for (section, what) in
            [(&self.parameters, "parameter"), (&self.variables, "variable"), (&self.outputs, "output")]
        {
            for (name, value) in section {
                check(value, what, name)?;
            }
        }
        for one in &self.variable_loops {
            check(one, "variable", one["name"].as_str().unwrap_or_default())?;
        }
        for (name, function) in &self.functions {
            check(&function.value, "function", name)?;
        }
        for declared in &self.resources {
            let name = declared.symbol.as_deref().or_else(|| declared.body.get("name")?.as_str()).unwrap_or_default();
            self.check_resource(&declared.body)
                .map_err(|why| validation(format!("The template resource '{name}' is not valid: {why}")))?;
        }
        Ok(())
    }

    /// Templates within are checked when they are read as templates.
    fn check_resource(&self, body: &Map<String, Value>) -> Result<(), String> {
        for (key, value) in body {
            match value {
                Value::Object(properties) if key == "properties" && is_deployment(body) => {
                    for (name, value) in properties.iter().filter(|(name, _)| *name != "template") {
                        self.check_value(value).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
                other => self.check_value(other)?,
            }
        }
        Ok(())
    }

    fn check_value(&self, value: &Value) -> Result<(), String> {
        match value {
            Value::String(text) => self.check_text(text),
            Value::Array(items) => items.iter().try_for_each(|v| self.check_value(v)),
            Value::Object(map) if map.get("type").is_some_and(Value::is_string) && map.contains_key("apiVersion") => {
                self.check_resource(map)
            }
            Value::Object(map) => map.iter().try_for_each(|(name, v)| {
                self.check_text(name)?;
                self.check_value(v)
            }),
            _ => Ok(()),
        }
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        let Text::Expression(source) = expression::classify(text) else { return Ok(()) };
        let mut wrong = None;
        expression::parse(source)?.calls(&mut |name, args| {
            if wrong.is_some() {
                return;
            }
            wrong = if name.contains('.') {
                (!self.functions.contains_key(&name.to_ascii_lowercase())).then(|| functions::unknown(name))
            } else {
                match functions::find(name) {
                    Some(function) => function.check_count(args.len()).err(),
                    None => Some(functions::unknown(name)),
                }
            };
        });
        wrong.map_or(Ok(()), Err)
    }
}

fn check_sections(root: &Map<String, Value>) -> Result<(), ArmError> {
    for required in ["$schema", "contentVersion", "resources"] {
        if root.get(required).is_none_or(Value::is_null) {
            return Err(invalid(format!(
                "Deployment template parse failed: 'Required property '{required}' not found in JSON. Path ''.'."
            )));
        }
    }
    for name in root.keys() {
        if !SECTIONS.contains(&name.as_str()) {
            let why = match name.as_str() {
                "extensions" | "imports" => {
                    "extensions other than Azure's own resources are not offered by this server"
                }
                "rules" => "rules are not offered by this server",
                _ => "there is no such section",
            };
            return Err(invalid(format!(
                "Deployment template parse failed: 'Could not find member '{name}' on object of type 'Template': {why}. Path '{name}'.'."
            )));
        }
    }
    if !root["contentVersion"].is_string() || !root["$schema"].is_string() {
        return Err(invalid(
            "Deployment template parse failed: '$schema and contentVersion must be strings. Path 'contentVersion'.'.",
        ));
    }
    Ok(())
}

fn level_of(schema: &str) -> Level {
    let lower = schema.to_ascii_lowercase();
    if lower.contains("/subscriptiondeploymenttemplate.json") {
        Level::Subscription
    } else if lower.contains("/managementgroupdeploymenttemplate.json") {
        Level::ManagementGroup
    } else if lower.contains("/tenantdeploymenttemplate.json") {
        Level::Tenant
    } else {
        Level::Group
    }
}

fn split_loops(mut variables: Map<String, Value>) -> Result<(Map<String, Value>, Vec<Value>), ArmError> {
    let Some(Value::Array(loops)) = variables.get("copy") else { return Ok((variables, vec![])) };
    let loops = loops.clone();
    for one in &loops {
        if one["name"].as_str().is_none() || one.get("count").is_none() || one.get("input").is_none() {
            return Err(validation("The copy loops of variables need 'name', 'count' and 'input'."));
        }
    }
    variables.shift_remove("copy");
    Ok((variables, loops))
}

fn user_functions(section: Option<&Value>) -> Result<HashMap<String, UserFunction>, ArmError> {
    let mut functions = HashMap::new();
    let malformed =
        || validation("The section 'functions' must be an array of objects with 'namespace' and 'members'.");
    let namespaces = match section {
        None | Some(Value::Null) => return Ok(functions),
        Some(Value::Array(namespaces)) => namespaces,
        Some(_) => return Err(malformed()),
    };
    for namespace in namespaces {
        let (Some(prefix), Some(members)) = (namespace["namespace"].as_str(), namespace["members"].as_object()) else {
            return Err(malformed());
        };
        for (name, member) in members {
            let parameters = member["parameters"].as_array().cloned().unwrap_or_default();
            let named = parameters.into_iter().map(|p| Some((p["name"].as_str()?.to_owned(), p)));
            let (Some(parameters), Some(value)) =
                (named.collect::<Option<Vec<_>>>(), member.get("output").and_then(|o| o.get("value")))
            else {
                return Err(validation(format!(
                    "The template function '{prefix}.{name}' is not valid: its parameters need names, and it needs an output with \
                     a value."
                )));
            };
            let key = format!("{prefix}.{name}").to_ascii_lowercase();
            functions.insert(key, UserFunction { parameters, value: value.clone() });
        }
    }
    Ok(functions)
}

/// An array, or an object by symbolic names.
fn resources(section: &Value) -> Result<Vec<Declared>, ArmError> {
    let one = |symbol: Option<&String>, body: &Value| match body {
        Value::Object(body) => Ok(Declared { symbol: symbol.cloned(), body: body.clone() }),
        _ => Err(invalid("Deployment template parse failed: 'A resource must be a JSON object. Path 'resources'.'.")),
    };
    match section {
        Value::Array(items) => items.iter().map(|body| one(None, body)).collect(),
        Value::Object(map) => map.iter().map(|(symbol, body)| one(Some(symbol), body)).collect(),
        _ => Err(invalid(
            "Deployment template parse failed: 'The section 'resources' must be an array, or an object with symbolic names. Path \
             'resources'.'.",
        )),
    }
}

pub(crate) fn is_deployment(body: &Map<String, Value>) -> bool {
    body.get("type").and_then(Value::as_str).is_some_and(|t| t.eq_ignore_ascii_case("Microsoft.Resources/deployments"))
}
