//! Values of parameters: what was given, checked; what was not, by default.

use crate::environment::Environment;
use crate::eval::{Evaluator, Fail, Frame, Place, entry};
use crate::facts::Facts;
use crate::template::Template;
use crate::types;
use crate::validation;
use lazuli_arm::ArmError;
use serde_json::{Map, Value};

impl Template {
    /// The value of every parameter. `given` is as deployments send it: `{"name": {"value": …}}`. Default values are evaluated
    /// here, once for the whole deployment: `newGuid` and `utcNow` must not change on the way.
    ///
    /// # Errors
    /// `InvalidTemplate` for what is missing, unknown or not of its type.
    pub fn bind(&self, given: &Value, environment: &Environment) -> Result<Map<String, Value>, ArmError> {
        let given = self.given(given)?;
        let facts = Facts::default();
        let evaluator = Evaluator::new(self, &given, environment, &facts, &[]);
        let mut values = Map::new();
        for (name, definition) in &self.parameters {
            let missing = !given.contains_key(name)
                && definition.get("defaultValue").is_none()
                && !types::is_nullable(self, definition);
            if missing {
                return Err(validation(format!(
                    "The value for the template parameter '{name}' is not provided. Please see \
                     https://aka.ms/arm-create-parameter-file for usage details."
                )));
            }
            let value = evaluator.parameter(name, &Frame::root(Place::Default)).map_err(|failed| match failed {
                Fail::Error(why) => {
                    validation(format!("Unable to process the default value of the template parameter '{name}': {why}"))
                }
                Fail::Needs => {
                    validation(format!("The default value of the template parameter '{name}' cannot be known yet."))
                }
            })?;
            types::check(self, definition, &value, name).map_err(validation)?;
            values.insert(name.clone(), value);
        }
        Ok(values)
    }

    /// Given values, by the names that the template declares.
    fn given(&self, parameters: &Value) -> Result<Map<String, Value>, ArmError> {
        let parameters = match parameters {
            Value::Null => return Ok(Map::new()),
            Value::Object(map) => map,
            _ => return Err(validation("The parameters of a deployment must be an object.")),
        };
        let unknown: Vec<&str> =
            parameters.keys().filter(|n| entry(&self.parameters, n).is_none()).map(String::as_str).collect();
        if !unknown.is_empty() {
            let known: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
            return Err(validation(format!(
                "The template parameters '{}' in the parameters file are not valid; they are not present in the original template \
                 and can therefore not be provided at deployment time. The only supported parameters for this template are '{}'. \
                 Please see https://aka.ms/arm-pass-parameter-values for usage details.",
                unknown.join(", "),
                known.join(", ")
            )));
        }
        let mut values = Map::new();
        for (name, parameter) in parameters {
            let Some((declared, definition)) = entry(&self.parameters, name) else { continue };
            if parameter.get("reference").is_some_and(|r| !r.is_null()) {
                return Err(validation(format!(
                    "The template parameter '{name}' refers to a secret of a Key Vault: there is no Key Vault here. Give its value."
                )));
            }
            let Some(value) = parameter.get("value") else {
                return Err(validation(format!(
                    "The value for the template parameter '{name}' is not provided. Please see \
                     https://aka.ms/arm-create-parameter-file for usage details."
                )));
            };
            let absent =
                value.is_null() && (definition.get("defaultValue").is_some() || types::is_nullable(self, definition));
            if !absent {
                values.insert(declared.clone(), value.clone());
            }
        }
        Ok(values)
    }
}
