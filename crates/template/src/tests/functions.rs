//! Every function, with the examples of Azure's documentation.

use super::{SUBSCRIPTION, eval, output};
use crate::functions::{MISSING, names};
use serde_json::{Value, json};

#[test]
fn examples() {
    let id = |tail: &str| format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/{tail}");
    let table: Vec<(&str, Value)> = vec![
        // arrays
        ("array('efgh')", json!(["efgh"])),
        ("concat('a', 1, true())", json!("a1True")),
        ("concat(createArray(1), createArray(2))", json!([1, 2])),
        ("contains('OneTwoThree', 'Two')", json!(true)),
        ("contains('abc', 'B')", json!(false)),
        ("contains(createObject('One', 1), 'one')", json!(true)),
        ("contains(createArray('one', 'two'), 'three')", json!(false)),
        ("createArray()", json!([])),
        ("empty('')", json!(true)),
        ("empty(createObject())", json!(true)),
        ("first('One Two Three')", json!("O")),
        ("first(createArray())", json!(null)),
        ("flatten(createArray(createArray(1, 2), 3, createArray(createArray(4))))", json!([1, 2, 3, [4]])),
        ("indexFromEnd(createArray(1, 2, 3), 1)", json!(3)),
        ("tryIndexFromEnd(createArray(1, 2, 3), 4)", json!(null)),
        ("indexOf('test', 't')", json!(0)),
        ("indexOf('abcdef', 'CD')", json!(2)),
        ("indexOf(createArray('a', 'b'), 'b')", json!(1)),
        ("lastIndexOf('test', 't')", json!(3)),
        ("lastIndexOf('abcdef', 'z')", json!(-1)),
        ("intersection(createArray('one', 'two', 'three'), createArray('two', 'three'))", json!(["two", "three"])),
        ("intersection(createObject('a', 1, 'b', 2), createObject('a', 1, 'b', 3))", json!({"a": 1})),
        ("last(createArray('a', 'b'))", json!("b")),
        ("length('One Two Three')", json!(13)),
        ("length(createObject('a', 1))", json!(1)),
        ("range(5, 3)", json!([5, 6, 7])),
        ("skip('one two three', 4)", json!("two three")),
        ("skip(createArray(1, 2, 3), 2)", json!([3])),
        ("take(createArray(1, 2, 3), -1)", json!([])),
        ("take('one two', 30)", json!("one two")),
        ("tryGet(createObject('a', createArray(1)), 'a', 0)", json!(1)),
        ("tryGet(createObject('a', createArray(1)), 'b', 0)", json!(null)),
        ("union(createArray('one', 'two'), createArray('two', 'four'))", json!(["one", "two", "four"])),
        (
            "union(createObject('a', createObject('b', 1)), createObject('a', createObject('c', 2), 'd', 3))",
            json!({"a": {"b": 1, "c": 2}, "d": 3}),
        ),
        // address ranges
        (
            "parseCidr('10.144.0.0/20')",
            json!({"network": "10.144.0.0", "netmask": "255.255.240.0", "cidr": 20, "broadcast": "10.144.15.255",
                "firstUsable": "10.144.0.1", "lastUsable": "10.144.15.254"}),
        ),
        ("cidrSubnet('10.144.0.0/20', 24, 3)", json!("10.144.3.0/24")),
        ("cidrSubnet('fd00::/48', 64, 2)", json!("fd00:0:0:2::/64")),
        ("cidrHost('10.144.3.0/24', 0)", json!("10.144.3.1")),
        ("cidrHost('::/0', 0)", json!("::1")),
        // comparison and logic
        ("coalesce(null(), createObject('a', 1).a, fail('never'))", json!(1)),
        ("equals(createArray(1, 2), createArray(1, 2))", json!(true)),
        ("equals('a', 'A')", json!(false)),
        ("greater('A', 'a')", json!(false)),
        ("greaterOrEquals(2, 2)", json!(true)),
        ("less(1, 2)", json!(true)),
        ("lessOrEquals(3, 2)", json!(false)),
        ("and(bool('true'), bool('false'))", json!(false)),
        ("or(bool('true'), fail('never'))", json!(true)),
        ("not(bool(1))", json!(false)),
        ("if(equals('a', 'a'), 'yes', fail('never'))", json!("yes")),
        ("false()", json!(false)),
        ("IF(TRUE(), 1, 2)", json!(1)),
        // dates
        ("dateTimeAdd('2020-04-07 14:53:14Z', 'P3Y')", json!("2023-04-07T14:53:14Z")),
        ("dateTimeAdd('2020-04-07T14:53:14Z', '-P9D')", json!("2020-03-29T14:53:14Z")),
        ("dateTimeAdd('2020-04-07T14:53:14Z', 'PT1H', 'yyyy-MM-dd')", json!("2020-04-07")),
        ("dateTimeFromEpoch(1683040573)", json!("2023-05-02T15:16:13Z")),
        ("dateTimeToEpoch('2023-05-02T15:16:13Z')", json!(1_683_040_573)),
        // the deployment
        ("deployer().objectId", json!("33333333-3333-3333-3333-333333333333")),
        ("deployer().userPrincipalName", json!("alice@contoso.example")),
        ("deployment().name", json!("d1")),
        ("environment().resourceManager", json!("https://localhost:8443")),
        ("resourceGroup().location", json!("eastus")),
        ("resourceGroup().TAGS['A']", json!("b")),
        ("subscription().subscriptionId", json!(SUBSCRIPTION)),
        ("tenant().tenantId", json!("22222222-2222-2222-2222-222222222222")),
        // lambdas
        (
            "filter(createArray(createObject('n', 'Evie', 'a', 5), createObject('n', 'Casper', 'a', 3)), lambda('d', \
             greaterOrEquals(lambdaVariables('d').a, 5)))",
            json!([{"n": "Evie", "a": 5}]),
        ),
        (
            "map(createArray('a', 'b'), lambda('x', 'i', format('{0}{1}', lambdaVariables('x'), lambdaVariables('i'))))",
            json!(["a0", "b1"]),
        ),
        ("mapValues(createObject('a', 'x'), lambda('v', toUpper(lambdaVariables('v'))))", json!({"a": "X"})),
        (
            "reduce(createArray(5, 3, 2), 0, lambda('c', 'n', add(lambdaVariables('c'), lambdaVariables('n'))))",
            json!(10),
        ),
        (
            "sort(createArray(8, 3, 10, -13, 5), lambda('a', 'b', less(lambdaVariables('a'), lambdaVariables('b'))))",
            json!([-13, 3, 5, 8, 10]),
        ),
        (
            "toObject(createArray('x', 'y'), lambda('e', lambdaVariables('e')), lambda('e', length(lambdaVariables('e'))))",
            json!({"x": 1, "y": 1}),
        ),
        (
            "groupBy(createArray('aa', 'b', 'ac'), lambda('e', first(lambdaVariables('e'))))",
            json!({"a": ["aa", "ac"], "b": ["b"]}),
        ),
        // numbers
        ("add(5, 3)", json!(8)),
        ("div(8, 3)", json!(2)),
        ("mod(7, 3)", json!(1)),
        ("mul(-5, 3)", json!(-15)),
        ("sub(7, 3)", json!(4)),
        ("int('4')", json!(4)),
        ("float('1.5')", json!(1.5)),
        ("max(createArray(0, 3, 2, 5, 4))", json!(5)),
        ("min(0, 3, 2)", json!(0)),
        // objects
        (
            "createObject('intProp', 1, 'objectProp', createObject('key1', 'value1'))",
            json!({"intProp": 1, "objectProp": {"key1": "value1"}}),
        ),
        (
            "items(createObject('b', 1, 'a', createObject('x', 2)))",
            json!([{"key": "a", "value": {"x": 2}}, {"key": "b", "value": 1}]),
        ),
        ("json('{\"a\": [1, null]}')", json!({"a": [1, null]})),
        ("json(string(true()))", json!(true)),
        ("null()", json!(null)),
        ("objectKeys(createObject('b', 1, 'a', 2))", json!(["a", "b"])),
        ("shallowMerge(createArray(createObject('a', createObject('b', 1)), createObject('a', 2)))", json!({"a": 2})),
        // ids
        ("resourceId('Microsoft.Compute/disks', 'd')", json!(id("Microsoft.Compute/disks/d"))),
        (
            "resourceId('other', 'Microsoft.Network/virtualNetworks/subnets', 'v', 's')",
            json!(id("Microsoft.Network/virtualNetworks/v/subnets/s").replace("rg1", "other")),
        ),
        ("resourceId('s2', 'g2', 'A.B/c', 'd')", json!("/subscriptions/s2/resourceGroups/g2/providers/A.B/c/d")),
        ("providers('A.B', 'c').apiVersions[0]", json!("2024-07-01")),
        ("subscriptionResourceId('A.B/c', 'd')", json!(format!("/subscriptions/{SUBSCRIPTION}/providers/A.B/c/d"))),
        ("tenantResourceId('A.B/c', 'd')", json!("/providers/A.B/c/d")),
        (
            "managementGroupResourceId('m', 'A.B/c', 'd')",
            json!("/providers/Microsoft.Management/managementGroups/m/providers/A.B/c/d"),
        ),
        ("roleDefinitions('reader').roleDefinitionId", json!("acdd72a7-3385-48ef-bd42-f606fba81ae7")),
        (
            "roleDefinitions('Reader').id",
            json!("/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7"),
        ),
        ("extensionResourceId(resourceId('A.B/c', 'd'), 'E.F/g', 'h')", json!(id("A.B/c/d/providers/E.F/g/h"))),
        ("pickZones('Microsoft.Compute', 'virtualMachines', 'eastus', 2)", json!(["1", "2"])),
        ("pickZones('Microsoft.Compute', 'virtualMachines', 'westus')", json!([])),
        ("toPhysicalZone(subscription().subscriptionId, 'eastus', '1')", json!("eastus-az3")),
        ("toPhysicalZones('s', 'East US', createArray('3', '2'))", json!(["eastus-az2", "eastus-az1"])),
        ("toLogicalZone('s', 'eastus', 'eastus-az3')", json!("1")),
        ("toLogicalZones('s', 'eastus', createArray())", json!([])),
        // texts
        ("base64('one, two, three')", json!("b25lLCB0d28sIHRocmVl")),
        ("base64ToString('b25lLCB0d28sIHRocmVl')", json!("one, two, three")),
        ("base64ToJson(base64('{\"one\": \"a\"}'))", json!({"one": "a"})),
        ("dataUri('Hello')", json!("data:text/plain;charset=utf8;base64,SGVsbG8=")),
        ("dataUriToString('data:;base64,SGVsbG8sIFdvcmxkIQ==')", json!("Hello, World!")),
        ("endsWith('abcdef', 'EF')", json!(true)),
        ("startsWith('abcdef', 'ef')", json!(false)),
        (
            "format('{0}, {1}. Formatted number: {2:N0}', 'Hello', 'User', 8175133)",
            json!("Hello, User. Formatted number: 8,175,133"),
        ),
        ("format('{{{0,4}|{0,-4}|{0:D3}}}', 7)", json!("{   7|7   |007}")),
        ("guid('a', 'b')", json!("2d796349-8c7e-55ec-9624-54ece82ed031")),
        ("join(createArray('one', 2, 'three'), ';')", json!("one;2;three")),
        ("padLeft('123', 10, '0')", json!("0000000123")),
        ("padLeft(7, 2)", json!(" 7")),
        ("replace('123-123-1234', '-', '')", json!("1231231234")),
        ("split('one;two,three', createArray(';', ','))", json!(["one", "two", "three"])),
        ("split('', ';')", json!([""])),
        ("string(createArray('a', 1))", json!("[\"a\",1]")),
        ("string(false())", json!("False")),
        ("substring('one two three', 4, 3)", json!("two")),
        ("substring('one', 3)", json!("")),
        ("toLower('One Two')", json!("one two")),
        ("toUpper('One Two')", json!("ONE TWO")),
        ("trim('    one two   ')", json!("one two")),
        ("uniqueString('/subscriptions/00000000-0000-0000-0000-000000000000', 'resource-id')", json!("cwvxuqg24sifi")),
        ("uri('http://contoso.org/firstpath', 'myscript.sh')", json!("http://contoso.org/myscript.sh")),
        ("uri('http://contoso.org/firstpath/', 'a/b.sh')", json!("http://contoso.org/firstpath/a/b.sh")),
        ("uriComponent('http://contoso.com/a b')", json!("http%3A%2F%2Fcontoso.com%2Fa%20b")),
        ("uriComponentToString('http%3A%2F%2Fcontoso.com')", json!("http://contoso.com")),
        (
            "parseUri('https://contoso.com:8080/a?b=c')",
            json!({"scheme": "https", "host": "contoso.com", "port": 8080, "path": "/a", "query": "?b=c"}),
        ),
        ("buildUri(createObject('scheme', 'https', 'host', 'c.com', 'path', 'a'))", json!("https://c.com/a")),
        // members
        ("createObject('a', createArray(1, 2)).A[1]", json!(2)),
        ("createObject('a', 1).?b", json!(null)),
        ("createArray(1)[?5]", json!(null)),
        ("'it''s'", json!("it's")),
    ];
    let mut wrong = Vec::new();
    for (expression, expected) in &table {
        match eval(expression) {
            Ok(value) if value == *expected => {}
            Ok(value) => wrong.push(format!("{expression}\n  is       {value}\n  expected {expected}")),
            Err(error) => wrong.push(format!("{expression}\n  {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let calls = |expression: &str, name: &str| {
        let call = format!("{}(", name.to_lowercase());
        let lower = expression.to_lowercase();
        lower.match_indices(&call).any(|(at, _)| !lower[..at].ends_with(|c: char| c.is_alphanumeric()))
    };
    let untested: Vec<&str> = names().into_iter().filter(|name| !table.iter().any(|(e, _)| calls(e, name))).collect();
    // Those that need a template of their own around them.
    assert_eq!(
        untested,
        ["copyIndex", "managementGroup", "newGuid", "parameters", "reference", "references", "utcNow", "variables"]
    );
}

#[test]
fn wrong_arguments_are_told() {
    for (expression, wanted) in [
        ("nonsense()", "The template function 'nonsense' is not valid."),
        ("externalInput('a')", "not offered by this server"),
        ("concat()", "function requires at least 1 argument(s) while 0 were provided"),
        ("substring('abc', 2, 5)", "The index and length parameters must refer to a location within the string."),
        ("add('1', 2)", "expects its parameter 1 to be an integer. The provided value is of type 'String'"),
        ("add(9223372036854775807, 1)", "does not fit"),
        ("div(1, 0)", "divide by zero"),
        ("mod(-9223372036854775808, -1)", "does not fit"),
        ("range(0, 10001)", "between 0 and 10000"),
        ("createObject('a', 1).b", "property 'b' doesn't exist, available properties are 'a'"),
        ("createArray(1)[1]", "array index '1' is out of bounds"),
        ("'text'.a", "has no properties"),
        ("parameters('none')", "The template parameter 'none' is not found"),
        ("variables('none')", "The template variable 'none' is not found"),
        ("copyIndex()", "'copyIndex' is not expected at this location"),
        ("newGuid()", "'newGuid' is not expected at this location"),
        ("utcNow()", "'utcNow' is not expected at this location"),
        ("lambda('x', 1)", "'lambda' is not expected"),
        ("lambdaVariables('x')", "lambda variable 'x' is not found"),
        ("map(createArray(1), 'x')", "expects a lambda expression"),
        ("json('{')", "not JSON"),
        ("base64ToString('%')", "not the base64"),
        ("dateTimeAdd('today', 'P1D')", "not an ISO 8601 date"),
        ("dateTimeAdd('2020-01-01T00:00:00Z', 'soon')", "not an ISO 8601 duration"),
        ("fail('because')", "because"),
        ("format('{1}', 'a')", "Index (zero based)"),
        (
            "resourceId('Microsoft.Compute/disks', 'a', 'b')",
            "requires '1' resource name argument(s), while '2' were provided",
        ),
        ("cidrSubnet('10.0.0.0/16', 24, 256)", "no subnet of that index"),
        ("reference('nowhere')", "could not find template resource"),
        ("managementGroup()", "this is no deployment to a management group"),
        ("managementGroupResourceId('A.B/c', 'd')", "must name it"),
        ("roleDefinitions('Emperor')", "There is no built-in role 'Emperor'"),
        ("toPhysicalZone('s', 'eastus', '4')", "The region 'eastus' has no zone '4'"),
        ("toLogicalZone('s', 'westus', 'westus-az1')", "has no zone"),
        ("toLogicalZones('s', 'eastus', createArray(1))", "an array of strings"),
    ] {
        let error = eval(expression).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (400, "InvalidTemplate"), "{expression}");
        assert!(error.message.contains(wanted), "{expression}: {error}");
    }
}

#[test]
fn variables_parameters_and_user_functions() {
    let sections = json!({
        "parameters": {
            "who": {"type": "string", "defaultValue": "[concat('w', variables('base'))]"},
            "id": {"type": "string", "defaultValue": "[newGuid()]"},
            "when": {"type": "string", "defaultValue": "[utcNow('d')]"},
        },
        "variables": {
            "base": "x",
            "copy": [{"name": "disks", "count": 3, "input": "[concat(variables('base'), copyIndex('disks', 1))]"}],
            "nested": {"copy": [{"name": "n", "count": 2, "input": {"lun": "[copyIndex('n')]"}}]},
            "[concat('lit', 'eral')]": 1,
        },
        "functions": [{"namespace": "my", "members": {"twice": {
            "parameters": [{"name": "t", "type": "string"}],
            "output": {"type": "string", "value": "[concat(parameters('t'), parameters('t'))]"}}}}],
    });
    for (expression, expected) in [
        ("[parameters('WHO')]", json!("wx")),
        ("[equals(parameters('id'), parameters('id'))]", json!(true)),
        ("[parameters('when')]", json!("3/4/2026")),
        ("[variables('disks')]", json!(["x1", "x2", "x3"])),
        ("[variables('nested').n[1].lun]", json!(1)),
        ("[my.twice('ab')]", json!("abab")),
        ("[[not one]", json!("[not one]")),
    ] {
        let kind = match &expected {
            Value::String(_) => "string",
            Value::Number(_) => "int",
            Value::Bool(_) => "bool",
            _ => "array",
        };
        assert_eq!(output(&sections, kind, &json!(expression)).unwrap(), expected, "{expression}");
    }
    let error = output(&sections, "string", &json!("[my.twice(1)]")).unwrap_err();
    assert!(error.message.contains("Expected a value of type 'String, Uri'"), "{error}");
}

/// `docs/templates.md` lists what is there and what is not, and nothing else.
#[test]
fn the_documentation_lists_every_function() {
    let text = include_str!("../../../../docs/templates.md");
    let section = |head: &str| {
        let rest = &text[text.find(head).unwrap_or_else(|| panic!("docs/templates.md has no '{head}'")) + head.len()..];
        rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
    };
    let words = |text: &str| -> Vec<String> {
        text.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    let sorted = |names: Vec<&str>| -> Vec<String> {
        names.into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    };
    let mut offered = names();
    offered.push("list*");
    assert_eq!(words(&section("## Functions")), sorted(offered));
    let missing = section("## Functions that are missing");
    for (name, why) in MISSING {
        assert!(missing.contains(&format!("| `{name}` | {why} |")), "docs/templates.md lacks: | `{name}` | {why} |");
    }
    assert_eq!(missing.matches("\n| `").count(), MISSING.len());
}
