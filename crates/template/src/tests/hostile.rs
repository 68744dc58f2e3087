//! Templates that want to run for ever, fill the memory or the stack: an error, soon.

use super::{eval, output, plan, template};
use crate::Template;
use proptest::prelude::*;
use serde_json::{Value, json};

fn refused(expression: &str) -> String {
    eval(expression).expect_err(expression).message
}

#[test]
fn growth_is_bounded() {
    // 2^30 letters by doubling, 10^8 elements by lambdas in lambdas, a deep value by wrapping.
    let mut doubled = "'0123456789abcdef'".to_owned();
    for _ in 0..3 {
        doubled = format!("replace({doubled}, '0', '{}')", "0123456789abcdef".repeat(16));
    }
    let double = "reduce(range(0, 60), 'x', lambda('t', 'i', concat(lambdaVariables('t'), lambdaVariables('t'))))";
    let nested = "map(range(0, 10000), lambda('x', map(range(0, 10000), lambda('y', 1))))";
    let deep = "reduce(range(0, 10000), 1, lambda('t', 'i', createArray(lambdaVariables('t'))))";
    let padded = "reduce(range(0, 10000), '', lambda('t', 'i', concat(lambdaVariables('t'), padLeft('', 16000))))";
    for expression in [double, nested, deep, padded] {
        let message = refused(expression);
        assert!(
            message.contains("too large to evaluate") || message.contains("nested deeper"),
            "{expression}: {message}"
        );
    }
    drop(eval(&doubled));
    assert!(refused("padLeft('a', 2000000000)").contains("between 0 and"));
    assert!(refused("format('{0,2000000000}', 'a')").contains("Index"));
}

#[test]
fn depth_is_bounded() {
    let mut variables = serde_json::Map::new();
    for i in 0..400 {
        variables.insert(format!("v{i}"), json!(format!("[variables('v{}')]", i + 1)));
    }
    variables.insert("v400".into(), json!("end"));
    let error = output(&json!({"variables": variables}), "string", &json!("[variables('v0')]")).unwrap_err();
    assert!(error.message.contains("nested deeper"), "{error}");
    let few = output(&json!({"variables": variables}), "string", &json!("[variables('v350')]")).unwrap();
    assert_eq!(few, "end");

    let function = json!({"functions": [{"namespace": "f", "members": {"f": {"parameters": [],
        "output": {"type": "int", "value": "[add(f.f(), f.f())]"}}}}]});
    assert!(output(&function, "int", &json!("[f.f()]")).unwrap_err().message.contains("nested deeper"));
}

#[test]
fn cycles_are_found() {
    let variables = json!({"variables": {"a": "[variables('b')]", "b": "[variables('a')]"}});
    assert!(output(&variables, "string", &json!("[variables('a')]")).unwrap_err().message.contains("refers to itself"));
    let parameters = json!({"parameters": {"a": {"type": "string", "defaultValue": "[parameters('a')]"}}});
    assert!(plan(&parameters).unwrap_err().message.contains("refers to itself"));
    let types =
        json!({"definitions": {"t": {"$ref": "#/definitions/t"}}, "parameters": {"a": {"$ref": "#/definitions/t"}}});
    assert!(plan(&types).unwrap_err().message.contains("refers to itself"));
}

#[test]
fn loops_are_bounded() {
    for count in [json!(801), json!(-1), json!("3"), json!("[range(0, 3)]")] {
        let sections = json!({"resources": [{"type": "A.B/c", "apiVersion": "2020-01-01", "name": "[concat('x', copyIndex())]",
            "copy": {"name": "loop", "count": count}}]});
        assert!(plan(&sections).unwrap_err().message.contains("invalid copy count"), "{count}");
    }
    let one = json!({"type": "A.B/c", "apiVersion": "2020-01-01", "name": "[concat('x', copyIndex())]",
        "copy": {"name": "loop", "count": 800}});
    let sections = json!({"resources": [one, one]});
    assert!(plan(&sections).unwrap_err().message.contains("resources limit exceeded"));
}

/// Fragments of the language, thrown together.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("'a'".to_owned()),
        Just("7".to_owned()),
        Just("-1".to_owned()),
        Just("range(0, 900)".to_owned()),
        Just("variables('v')".to_owned()),
        Just("parameters('p')".to_owned()),
        Just("lambdaVariables('x')".to_owned()),
        Just("null()".to_owned()),
        Just("resourceGroup()".to_owned()),
        "[ -~]{0,6}".prop_map(|t| format!("'{}'", t.replace('\'', "''"))),
    ];
    leaf.prop_recursive(6, 40, 4, |inner| {
        let names = crate::functions::names();
        prop_oneof![
            (prop::sample::select(names), prop::collection::vec(inner.clone(), 0..4))
                .prop_map(|(name, args)| format!("{name}({})", args.join(", "))),
            (inner.clone(), inner.clone()).prop_map(|(of, key)| format!("{of}[{key}]")),
            (prop::sample::select(vec!["map", "filter", "sort", "groupBy"]), inner.clone(), inner)
                .prop_map(|(name, list, body)| format!("{name}({list}, lambda('x', {body}))")),
        ]
    })
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(1)),
        Just(json!("x")),
        Just(json!("[parameters('p')]")),
        Just(json!("[copyIndex()]")),
        Just(json!(true)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let keys = prop::sample::select(vec![
            "name",
            "type",
            "apiVersion",
            "copy",
            "count",
            "input",
            "condition",
            "dependsOn",
            "properties",
            "resources",
            "value",
            "defaultValue",
            "namespace",
            "members",
            "template",
            "$ref",
            "scope",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::vec((keys, inner), 0..5).prop_map(|entries| entries
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_expression_panics(expression in expressions()) {
        let sections = json!({"variables": {"v": [1, "two", {"three": 3}]}, "parameters": {"p": {"type": "string", "defaultValue": "q"}}});
        let _ = output(&sections, "array", &json!(format!("[createArray({expression})]")));
    }

    #[test]
    fn no_template_panics(section in prop::sample::select(vec!["parameters", "variables", "functions", "resources", "outputs", "definitions"]), value in values()) {
        let mut sections = json!({});
        sections[section] = value;
        let _ = Template::parse(&template(&sections));
        let _ = plan(&sections);
    }
}
