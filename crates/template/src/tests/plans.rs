//! Whole templates: parameters, loops, conditions, dependencies, nested deployments, outputs.

use super::{SUBSCRIPTION, environment, plan, plan_with, template};
use crate::{Environment, Evaluated, Facts, Level, Plan, Request, Template};
use serde_json::{Value, json};

fn resource(kind: &str, name: &str, more: Value) -> Value {
    let mut body = json!({"type": kind, "apiVersion": "2024-01-01", "name": name});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn names_before(plan: &Plan, name: &str) -> Vec<String> {
    let it = plan.resources.iter().find(|r| r.name == name).unwrap();
    it.depends_on.iter().map(|i| plan.resources[*i].name.clone()).collect()
}

fn ready(evaluated: Evaluated) -> Value {
    match evaluated {
        Evaluated::Ready(value) => value,
        Evaluated::Needs(requests) => panic!("{requests:?}"),
    }
}

fn message(sections: &Value) -> String {
    let error = plan(sections).expect_err("it is refused");
    assert_eq!((error.status, error.code.as_str()), (400, "InvalidTemplate"));
    error.message
}

#[test]
fn the_template_of_az_vm_create() {
    let body: Value = serde_json::from_str(include_str!("../../fixtures/az-vm-create.json")).unwrap();
    let template = Template::parse(&body["properties"]["template"]).unwrap();
    let parameters = template.bind(&body["properties"]["parameters"], &environment()).unwrap();
    let plan = Plan::new(template, parameters, environment()).unwrap();
    let nic = plan.resources.iter().find(|r| r.kind.ends_with("networkInterfaces")).unwrap();
    assert_eq!(names_before(&plan, &nic.name).len(), 1, "its security group: {:?}", plan.resources);
    let machine = plan.resources.iter().position(|r| r.kind.ends_with("virtualMachines")).unwrap();
    assert_eq!(names_before(&plan, &plan.resources[machine].name), std::slice::from_ref(&nic.name));
    let shown = ready(plan.body(machine, &Facts::default()).unwrap());
    assert_eq!(shown["location"], "eastus");
    assert!(shown.get("apiVersion").is_none() && shown.get("dependsOn").is_none());
    assert_eq!(shown["properties"]["storageProfile"]["osDisk"]["createOption"], "fromImage");
}

#[test]
fn the_template_of_packer() {
    let body: Value = serde_json::from_str(include_str!("../../fixtures/packer.json")).unwrap();
    let template = Template::parse(&body["properties"]["template"]).unwrap();
    let parameters = template.bind(&body["properties"]["parameters"], &environment()).unwrap();
    let plan = Plan::new(template, parameters, environment()).unwrap();
    let kinds: Vec<usize> = plan.resources.iter().map(|r| r.depends_on.len()).collect();
    assert_eq!(kinds, [0, 0, 2, 1]);
    let machine = ready(plan.body(3, &Facts::default()).unwrap());
    let path = &machine["properties"]["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"][0]["path"];
    assert_eq!((path, &machine["location"]), (&json!("/home/packer/.ssh/authorized_keys"), &json!("eastus")));
}

#[test]
fn parameters_are_checked() {
    let sections = json!({"parameters": {
        "size": {"type": "string", "allowedValues": ["small", "large"]},
        "count": {"type": "int", "minValue": 1, "maxValue": 3, "defaultValue": 2},
        "secret": {"type": "securestring", "minLength": 3, "defaultValue": "long enough"},
        "maybe": {"type": "string", "nullable": true},
        "tags": {"type": "object", "defaultValue": {}},
    }});
    for (given, wanted) in [
        (json!({}), "The value for the template parameter 'size' is not provided"),
        (json!({"size": {"value": "huge"}}), "The value is not part of the allowed value(s): 'small,large'"),
        (
            json!({"size": {"value": 3}}),
            "Expected a value of type 'String, Uri', but received a value of type 'Integer'",
        ),
        (json!({"size": {"value": "small"}, "count": {"value": 4}}), "less than or equal to '3'"),
        (json!({"size": {"value": "small"}, "count": {"value": "2"}}), "type 'Integer'"),
        (
            json!({"size": {"value": "small"}, "secret": {"value": "ab"}}),
            "Length of the value should be greater than or equal to '3'",
        ),
        (json!({"size": {"value": "small"}, "tags": {"value": []}}), "type 'Object'"),
        (
            json!({"size": {"value": "small"}, "x": {"value": 1}}),
            "The template parameters 'x' in the parameters file are not valid",
        ),
        (json!({"size": {"reference": {"keyVault": {}}}}), "there is no Key Vault here"),
        (json!({"size": {}}), "is not provided"),
    ] {
        let error = plan_with(&sections, &given).unwrap_err();
        assert!(error.message.contains(wanted), "{given}: {error}");
        assert!(error.message.starts_with("Deployment template validation failed: '"), "{error}");
    }
    let good = json!({"SIZE": {"value": "Small"}, "maybe": {"value": null}, "count": {"value": 1}});
    let plan = plan_with(&sections, &good).unwrap();
    assert_eq!(plan.parameters()["size"], "Small");
    assert_eq!(plan.parameters()["maybe"], Value::Null);
    assert_eq!(plan.template().secure_parameters(), ["secret"]);
}

#[test]
fn types_of_version_two() {
    let sections = json!({
        "languageVersion": "2.0", "resources": {},
        "definitions": {"disk": {"type": "object", "properties": {"lun": {"type": "int", "minValue": 0},
            "name": {"type": "string", "nullable": true}}, "additionalProperties": false}},
        "parameters": {"disks": {"type": "array", "items": {"$ref": "#/definitions/disk"}}},
    });
    let with = |value: Value| plan_with(&sections, &json!({"disks": {"value": value}})).map(|_| ());
    with(json!([{"lun": 1}, {"lun": 2, "name": "x"}])).unwrap();
    for (value, wanted) in [
        (json!([{"lun": -1}]), "disks[0].lun"),
        (json!([{}]), "The property 'lun' is missing"),
        (json!([{"lun": 1, "other": 2}]), "The property 'other' is not expected"),
    ] {
        let error = with(value).unwrap_err();
        assert!(error.message.contains(wanted), "{error}");
    }
}

#[test]
fn what_is_no_template_is_refused() {
    for (whole, wanted) in [
        (json!([]), "must be a JSON object"),
        (json!({"resources": []}), "Required property '$schema' not found"),
        (json!({"$schema": "x", "contentVersion": "1.0.0.0"}), "Required property 'resources' not found"),
        (
            json!({"$schema": "x", "contentVersion": "1", "resources": [], "surprise": 1}),
            "Could not find member 'surprise'",
        ),
        (json!({"$schema": "x", "contentVersion": "1", "resources": [1]}), "A resource must be a JSON object"),
        (json!({"$schema": "x", "contentVersion": "1", "resources": "none"}), "must be an array"),
        (
            json!({"$schema": "x", "contentVersion": "1", "resources": [], "parameters": {"a": {"type": "text"}}}),
            "the type 'text' is not one of",
        ),
    ] {
        let error = Template::parse(&whole).unwrap_err();
        assert!(error.code == "InvalidTemplate" && error.message.contains(wanted), "{whole}: {error}");
    }
}

#[test]
fn what_is_wrong_with_a_resource_is_told_with_its_name() {
    let bad = |more: Value| json!({"resources": [resource("A.B/c", "r1", more)]});
    for (sections, wanted) in [
        (
            bad(json!({"properties": {"x": "[nonsense()]"}})),
            "'r1' is not valid: The template function 'nonsense' is not valid",
        ),
        (bad(json!({"properties": {"x": "[concat('a'"}})), ""),
        (bad(json!({"properties": {"x": "[concat('a']"}})), "'r1' is not valid: Unable to parse language expression"),
        (bad(json!({"properties": {"x": "[variables('none')]"}})), "The template variable 'none' is not found"),
        (bad(json!({"condition": "maybe"})), "condition must be a boolean"),
        (bad(json!({"name": "[reference('x').y]"})), "'reference' is not expected at this location"),
        (bad(json!({"name": "a/b"})), "incorrect segment lengths"),
        (bad(json!({"dependsOn": ["ghost"]})), "The resource 'ghost' is not defined in the template"),
        (bad(json!({"dependsOn": "r1"})), "dependsOn must be an array"),
        (bad(json!({"copy": {"name": "c", "count": 2}})), "is defined multiple times in a template"),
        (bad(json!({"copy": {"name": "c", "count": 2, "mode": "sideways"}})), "neither 'serial' nor 'parallel'"),
        (json!({"resources": [{"type": "A.B/c", "name": "r1"}]}), "its 'apiVersion' is missing"),
        (json!({"resources": [{"apiVersion": "x", "name": "r1"}]}), "its 'type' is missing"),
    ] {
        if wanted.is_empty() {
            plan(&sections).expect("text that does not end with a bracket is no expression");
            continue;
        }
        let message = message(&sections);
        assert!(message.contains(wanted), "{sections}: {message}");
    }
}

#[test]
fn dependencies_by_every_name() {
    let id = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/A.B/c/one");
    for by in ["one", "A.B/c/ONE", "[resourceId('A.B/c', 'one')]", &id, "loop"] {
        let one = resource("A.B/c", "one", json!({"copy": {"name": "loop", "count": 1}}));
        let sections = json!({"resources": [resource("A.B/c", "two", json!({"dependsOn": [by]})), one]});
        assert_eq!(names_before(&plan(&sections).unwrap(), "two"), ["one"], "{by}");
    }
    // By what a body refers to, also where that is nested and only in one branch.
    for expression in [
        "[reference('one').x]",
        "[reference(resourceId('A.B/c', 'one'), '2024-01-01', 'Full').identity.principalId]",
        "[concat('a', listKeys('one', '2024-01-01').keys[0].value)]",
        "[if(equals(reference('three').x, 'a'), reference('one').x, 'b')]",
        "[map(createArray('one'), lambda('n', reference(lambdaVariables('n')).x))]",
    ] {
        let sections = json!({"resources": [
            resource("A.B/c", "two", json!({"properties": {"deep": [{"value": expression}]}})),
            resource("A.B/c", "one", json!({})), resource("A.B/c", "three", json!({})),
        ]});
        assert!(names_before(&plan(&sections).unwrap(), "two").contains(&"one".to_owned()), "{expression}");
    }
    // Children wait for their parents; what is not deployed is not waited for.
    let sections = json!({"resources": [
        resource("A.B/c/d", "one/x", json!({"dependsOn": ["off"]})),
        resource("A.B/c", "one", json!({"resources": [resource("e", "y", json!({}))]})),
        resource("A.B/c", "off", json!({"condition": false})),
    ]});
    let planned = plan(&sections).unwrap();
    assert_eq!(names_before(&planned, "one/x"), ["one"]);
    assert_eq!(names_before(&planned, "one/y"), ["one"]);
    let off = planned.resources.iter().find(|r| r.name == "off").unwrap();
    assert!(!off.condition && off.depends_on.is_empty());
}

#[test]
fn cycles_are_refused() {
    let explicit = json!({"resources": [
        resource("A.B/c", "one", json!({"dependsOn": ["two"]})), resource("A.B/c", "two", json!({"dependsOn": ["one"]})),
        resource("A.B/c", "three", json!({"dependsOn": ["one"]})),
    ]});
    let implicit = json!({"resources": [
        resource("A.B/c", "one", json!({"properties": {"x": "[reference('two').y]"}})),
        resource("A.B/c", "two", json!({"properties": {"x": "[reference('one').y]"}})),
    ]});
    for sections in [explicit, implicit] {
        let message = message(&sections);
        assert!(message.contains("Circular dependency detected on resource: '/subscriptions/"), "{message}");
        assert!(!message.contains("three"), "it waits for the cycle but is not on it: {message}");
    }
}

#[test]
fn loops() {
    let serial = json!({"resources": [
        resource("A.B/c", "[concat('x', copyIndex(1))]", json!({
            "copy": {"name": "loop", "count": "[length(createArray(1, 2, 3, 4, 5))]", "mode": "Serial", "batchSize": 2},
            "properties": {"n": "[copyIndex()]", "copy": [{"name": "disks", "count": 2, "input": {"lun": "[copyIndex('disks')]", "of": "[copyIndex('loop')]"}}]}})),
        resource("A.B/c", "after", json!({"dependsOn": ["loop"]})),
        resource("A.B/c", "[concat('none', copyIndex())]", json!({"copy": {"name": "empty", "count": 0}})),
    ]});
    let planned = plan(&serial).unwrap();
    let names: Vec<&str> = planned.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["x1", "x2", "x3", "x4", "x5", "after"]);
    assert_eq!(names_before(&planned, "x2"), Vec::<String>::new());
    assert_eq!(names_before(&planned, "x3"), ["x1", "x2"]);
    assert_eq!(names_before(&planned, "x5"), ["x3", "x4"]);
    assert_eq!(names_before(&planned, "after").len(), 5);
    assert_eq!(
        ready(planned.body(1, &Facts::default()).unwrap()),
        json!({"properties": {"n": 1, "disks": [{"lun": 0, "of": 1}, {"lun": 1, "of": 1}]}})
    );
}

#[test]
fn symbolic_names() {
    let sections = json!({"languageVersion": "2.0", "resources": {
        "net": {"existing": true, "type": "A.B/net", "apiVersion": "2024-01-01", "name": "n"},
        "nics": {"copy": {"name": "nics", "count": 2}, "type": "A.B/nic", "apiVersion": "2024-01-01",
            "name": "[format('nic{0}', copyIndex())]", "dependsOn": ["net"], "properties": {"prefix": "[reference('net').prefix]"}},
        "vm": {"type": "A.B/vm", "apiVersion": "2024-01-01", "name": "v",
            "properties": {"nics": "[map(references('nics', 'full'), lambda('n', lambdaVariables('n').id))]"}},
    }});
    let planned = plan(&sections).unwrap();
    assert!(planned.resources[0].existing);
    assert_eq!(names_before(&planned, "nic1"), ["n"]);
    let mut facts = Facts::default();
    let Evaluated::Needs(requests) = planned.body(3, &facts).unwrap() else { panic!("it needs the interfaces") };
    assert_eq!(requests.len(), 2);
    for request in requests {
        let answer = json!({"id": request.id(), "properties": {}});
        facts.insert(request, answer);
    }
    let body = ready(planned.body(3, &facts).unwrap());
    assert!(body["properties"]["nics"][1].as_str().unwrap().ends_with("/nic1"));
}

#[test]
fn outputs_and_references() {
    let sections = json!({
        "resources": [resource("A.B/c", "one", json!({}))],
        "outputs": {
            "address": {"type": "string", "value": "[reference('one').ip]"},
            "principal": {"type": "string", "value": "[reference('one', '2020-02-02', 'Full').identity.principalId]"},
            "off": {"type": "string", "condition": "[equals(1, 2)]", "value": "[fail('never')]"},
            "many": {"type": "array", "copy": {"count": 2, "input": "[copyIndex()]"}},
            "hidden": {"type": "securestring", "value": "secret"},
        },
    });
    let planned = plan(&sections).unwrap();
    let mut facts = Facts::default();
    let Evaluated::Needs(requests) = planned.outputs(&facts).unwrap() else { panic!("it needs the resource") };
    let versions: Vec<&str> = requests
        .iter()
        .map(|r| match r {
            Request::Resource { api_version, .. } | Request::List { api_version, .. } => api_version.as_str(),
        })
        .collect();
    assert_eq!(versions, ["2024-01-01", "2020-02-02"]);
    for request in requests {
        facts.insert(request, json!({"identity": {"principalId": "p"}, "properties": {"ip": "10.0.0.1"}}));
    }
    assert_eq!(
        ready(planned.outputs(&facts).unwrap()),
        json!({
            "address": {"type": "String", "value": "10.0.0.1"}, "principal": {"type": "String", "value": "p"},
            "many": {"type": "Array", "value": [0, 1]}, "hidden": {"type": "SecureString"},
        })
    );
    let wrong = json!({"outputs": {"n": {"type": "int", "value": "text"}}});
    assert!(message(&wrong).contains("template output 'n'"));
}

#[test]
fn nested_deployments() {
    let inner = template(&json!({
        "parameters": {"p": {"type": "string"}},
        "resources": [resource("A.B/c", "[parameters('p')]", json!({}))],
    }));
    let nested = |scope: Value, more: Value| {
        let properties = json!({"mode": "Incremental", "template": inner, "expressionEvaluationOptions": scope,
            "parameters": {"p": {"value": "[parameters('p')]"}}});
        let mut body = resource("Microsoft.Resources/deployments", "n", json!({"properties": properties}));
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        json!({"parameters": {"p": {"type": "string", "defaultValue": "outer"}}, "resources": [body]})
    };
    let planned = plan(&nested(json!({"scope": "Inner"}), json!({"resourceGroup": "other"}))).unwrap();
    assert!(planned.resources[0].id.contains("/resourceGroups/other/providers/Microsoft.Resources/deployments/n"));
    let body = ready(planned.body(0, &Facts::default()).unwrap());
    assert_eq!(body["properties"]["template"]["resources"][0]["name"], "[parameters('p')]");
    assert_eq!(body["properties"]["parameters"]["p"]["value"], "outer");
    assert!(body.get("resourceGroup").is_none());
    let planned = plan(&nested(json!(null), json!({}))).unwrap();
    let body = ready(planned.body(0, &Facts::default()).unwrap());
    assert_eq!(body["properties"]["template"]["resources"][0]["name"], "outer");

    // What an outer expression gives is text, never an expression again.
    let mut sneaky = nested(json!(null), json!({}));
    sneaky["parameters"]["p"]["defaultValue"] = json!("[[fail('x')]");
    let body = ready(plan(&sneaky).unwrap().body(0, &Facts::default()).unwrap());
    assert_eq!(body["properties"]["template"]["resources"][0]["name"], "[[fail('x')]");
}

#[test]
fn scopes() {
    let mut env = environment();
    env.group = None;
    let sections = json!({"$schema": "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#",
    "resources": [
        resource("Microsoft.Resources/resourceGroups", "g", json!({"location": "eastus"})),
        resource("Microsoft.Resources/deployments", "n", json!({"resourceGroup": "g", "properties": {}})),
        resource("A.B/c", "x", json!({"scope": "/"})),
    ]});
    let template = Template::parse(&template(&sections)).unwrap();
    assert_eq!(template.level, Level::Subscription);
    let plan = Plan::new(template, serde_json::Map::new(), env).unwrap();
    let ids: Vec<&str> = plan.resources.iter().map(|r| r.id.as_str()).collect();
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/g");
    assert_eq!(
        ids,
        [group.clone(), format!("{group}/providers/Microsoft.Resources/deployments/n"), "/providers/A.B/c/x".into()]
    );
    assert_eq!(plan.resources[1].depends_on, [0], "what is in a new group waits for it");
    assert_eq!(plan.level(), Level::Subscription);
}

/// The planned ids, and what else is asked of the plan.
fn above(management_group: Option<&str>, sections: &Value) -> Result<Plan, lazuli_arm::ArmError> {
    let env = Environment {
        subscription: None,
        group: None,
        management_group: management_group.map(str::to_owned),
        ..environment()
    };
    let template = Template::parse(&template(sections))?;
    Plan::new(template, serde_json::Map::new(), env)
}

#[test]
fn scopes_above_subscriptions() {
    let schema =
        |level: &str| format!("https://schema.management.azure.com/schemas/2019-08-01/{level}DeploymentTemplate.json#");
    let deployment = |more: Value| resource("Microsoft.Resources/deployments", "n", more);
    let sections = |level: &str| {
        json!({"$schema": schema(level),
            "resources": [
                resource("Microsoft.Authorization/roleAssignments", "x", json!({})),
                deployment(json!({"subscriptionId": "s", "dependsOn": ["[resourceId('Microsoft.Authorization/roleAssignments', 'x')]"]})),
                deployment(json!({"subscriptionId": "s", "resourceGroup": "g"})),
                deployment(json!({"scope": "Microsoft.Management/managementGroups/m2"})),
            ],
            "outputs": {"scoped": {"type": "string", "value": "[tenantResourceId('A.B/c', 'd')]"},
                "plain": {"type": "string", "value": "[resourceId('A.B/c', 'd')]"},
                "below": {"type": "string", "value": "[subscriptionResourceId('s', 'A.B/c', 'd')]"}}})
    };
    let group = "/providers/Microsoft.Management/managementGroups/m1";
    for (level, word, own, scope) in
        [(Level::Tenant, "tenant", None, ""), (Level::ManagementGroup, "managementGroup", Some("m1"), group)]
    {
        let plan = above(own, &sections(word)).unwrap();
        assert_eq!((plan.template().level, plan.level()), (level, level));
        let ids: Vec<&str> = plan.resources.iter().map(|r| r.id.as_str()).collect();
        let nested = "providers/Microsoft.Resources/deployments/n";
        let expected = [
            format!("{scope}/providers/Microsoft.Authorization/roleAssignments/x"),
            format!("/subscriptions/s/{nested}"),
            format!("/subscriptions/s/resourceGroups/g/{nested}"),
            format!("/providers/Microsoft.Management/managementGroups/m2/{nested}"),
        ];
        assert_eq!(ids, expected);
        assert_eq!(plan.resources[1].depends_on, [0]);
        let outputs = ready(plan.outputs(&Facts::default()).unwrap());
        let value = |name: &str| outputs[name]["value"].as_str().unwrap().to_owned();
        let tenants = "/providers/A.B/c/d";
        assert_eq!(
            [value("scoped"), value("plain"), value("below")],
            [tenants, tenants, "/subscriptions/s/providers/A.B/c/d"]
        );
    }
    let output = |expression: &str| json!({"outputs": {"o": {"type": "string", "value": expression}}});
    let plan = above(Some("m1"), &output("[concat(managementGroup().name, managementGroupResourceId('A.B/c', 'd'))]"))
        .unwrap();
    assert_eq!(ready(plan.outputs(&Facts::default()).unwrap())["o"]["value"], format!("m1{group}/providers/A.B/c/d"));
    for (expression, wanted) in [
        ("[subscription().id]", "this is no deployment to a subscription"),
        ("[resourceGroup().id]", "this is no deployment to a resource group"),
        ("[subscriptionResourceId('A.B/c', 'd')]", "must name it"),
        ("[resourceId('g', 'A.B/c', 'd')]", "must name the subscription of a resource group"),
    ] {
        let error = above(None, &output(expression)).unwrap_err();
        assert!(error.message.contains(wanted), "{expression}: {error}");
    }
    let homeless = json!({"resources": [deployment(json!({"resourceGroup": "g"}))]});
    assert!(above(None, &homeless).unwrap_err().message.contains("needs its 'subscriptionId'"));
}
