//! What the deployment itself is: parameters, variables, its own record, the cloud.

use super::{Args, Function, pure, scoped};
use crate::eval::{Eval, Evaluator, Frame};
use serde_json::Value;

pub(super) const TABLE: &[Function] = &[
    pure("deployer", 0, 0, |_, _, e| Ok(e.environment.deployer_value())),
    pure("deployment", 0, 0, |_, _, e| Ok(e.environment.deployment.clone())),
    pure("environment", 0, 0, |_, _, e| Ok(e.environment.environment_value())),
    scoped("parameters", 1, 1, parameters),
    scoped("variables", 1, 1, variables),
];

fn parameters(f: &str, v: Vec<Value>, e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    e.parameter(Args { function: f, values: &v }.str(0)?, frame)
}

fn variables(f: &str, v: Vec<Value>, e: &Evaluator<'_>, frame: &Frame<'_>) -> Eval<Value> {
    e.variable(Args { function: f, values: &v }.str(0)?, frame)
}
