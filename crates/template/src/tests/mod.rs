//! The template language through its doors: the functions as documentation shows them, whole templates, hostile ones.

mod functions;
mod hostile;
mod plans;

use crate::{Environment, Evaluated, Facts, Plan, Template};
use lazuli_arm::ArmError;
use serde_json::{Value, json};

const SUBSCRIPTION: &str = "11111111-1111-1111-1111-111111111111";

fn environment() -> Environment {
    Environment {
        tenant: "22222222-2222-2222-2222-222222222222".into(),
        subscription: Some(SUBSCRIPTION.into()),
        management_group: None,
        scope_name: "Lazuli".into(),
        group: Some(json!({"id": format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1"), "name": "rg1",
            "type": "Microsoft.Resources/resourceGroups", "location": "eastus", "tags": {"a": "b"},
            "properties": {"provisioningState": "Succeeded"}})),
        deployment: json!({"name": "d1", "properties": {"mode": "Incremental"}}),
        endpoint: "https://localhost:8443".into(),
        deployer: "33333333-3333-3333-3333-333333333333".into(),
        deployer_login: "alice@contoso.example".into(),
        roles: vec![("Reader".into(), "acdd72a7-3385-48ef-bd42-f606fba81ae7".into())],
        now: "2026-03-04T05:06:07Z".parse().unwrap(),
    }
}

/// A template with these sections; the others are empty.
fn template(sections: &Value) -> Value {
    let mut whole = json!({
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0", "resources": [],
    });
    for (name, section) in sections.as_object().unwrap() {
        whole[name] = section.clone();
    }
    whole
}

fn plan_with(sections: &Value, parameters: &Value) -> Result<Plan, ArmError> {
    let template = Template::parse(&template(sections))?;
    let parameters = template.bind(parameters, &environment())?;
    Plan::new(template, parameters, environment())
}

fn plan(sections: &Value) -> Result<Plan, ArmError> {
    plan_with(sections, &json!({}))
}

/// Value of an expression in the outputs of a template with these sections.
fn output(sections: &Value, kind: &str, expression: &Value) -> Result<Value, ArmError> {
    let mut sections = sections.clone();
    sections["outputs"] = json!({"it": {"type": kind, "value": expression}});
    match plan(&sections)?.outputs(&Facts::default())? {
        Evaluated::Ready(outputs) => Ok(outputs["it"]["value"].clone()),
        Evaluated::Needs(requests) => panic!("{requests:?}"),
    }
}

/// The same, whatever its type is.
fn eval(expression: &str) -> Result<Value, ArmError> {
    let wrapped = format!("[createArray({expression})]");
    output(&json!({}), "array", &json!(wrapped)).map(|v| v[0].clone())
}
